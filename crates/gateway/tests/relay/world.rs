//! A host and an Internet, each a network namespace, and runs of programs on the host.

use crate::Skip;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The host's address on the way to the Internet.
pub const HOST: &str = "198.18.0.1";
/// The server's.
pub const SERVER: &str = "198.18.0.2";
pub const SERVER_V6: &str = "2001:db8::2";
/// An address in the Internet where nothing is.
pub const NOBODY: &str = "198.18.0.99";

/// Long enough for any machine: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Both namespaces; dropping it ends what runs in them.
pub struct World {
    pub backend: &'static str,
    server: Child,
    dir: PathBuf,
}

/// What a run gave.
pub struct Ran {
    pub output: Output,
    pub counts: BTreeMap<String, u64>,
}

impl Ran {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).trim().to_owned()
    }
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_else(|| panic!("no counter {name}"))
    }
    /// The output of a run that must have succeeded.
    pub fn good(&self) -> String {
        let stderr = String::from_utf8_lossy(&self.output.stderr);
        assert!(
            self.output.status.success(),
            "{}: {}\n{stderr}",
            self.output.status,
            self.stdout()
        );
        self.stdout()
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("running ip");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {said}");
}

/// This binary.
pub fn own() -> String {
    std::env::current_exe().expect("our path").to_str().expect("a UTF-8 path").to_owned()
}

/// Whether a program is installed.
pub fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// Skips unless all of these are installed.
pub fn need(tools: &[&str]) -> Result<(), Skip> {
    match tools.iter().find(|tool| !has(tool)) {
        Some(tool) => Err(Skip(format!("{tool} is not installed"))),
        None => Ok(()),
    }
}

impl World {
    pub fn make(backend: &'static str) -> Result<World, Skip> {
        if backend == "tun" {
            let open = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
            open.map_err(|err| Skip(format!("/dev/net/tun: {err}")))?;
        }
        ip("link set lo up");
        let mut server = Command::new("unshare")
            .args(["--net", "--", &own(), "serve"])
            .stdout(Stdio::piped())
            .stdin(Stdio::piped())
            .spawn()
            .expect("starting the server");
        let mut line = String::new();
        let stdout = server.stdout.take().expect("the server's output");
        BufReader::new(stdout).read_line(&mut line).expect("the server's word");
        assert_eq!(line, "ready\n");
        let pid = server.id();
        ip(&format!("link add up0 type veth peer name up1 netns {pid}"));
        ip(&format!("addr add {HOST}/24 dev up0"));
        ip("-6 addr add 2001:db8::1/64 dev up0 nodad");
        ip("link set up0 up");
        let inside = |words: &str| {
            let words = format!("-t {pid} -n ip {words}");
            let output = Command::new("nsenter").args(words.split(' ')).output().expect("nsenter");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        inside("link set lo up");
        inside(&format!("addr add {SERVER}/24 dev up1"));
        inside("-6 addr add 2001:db8::2/64 dev up1 nodad");
        inside("link set up1 up");
        // An address of the Internet that is two hops away.
        inside("addr add 203.0.113.1/32 dev lo");
        ip(&format!("route add default via {SERVER}"));
        ip("-6 route add default via 2001:db8::2");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "linerate-relay-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory");
        Ok(World { backend, server, dir })
    }

    /// A path for a file of this world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts a program behind the gateway.
    pub fn start(&self, options: &[&str], program: &[&str]) -> Running {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let counts = self.path(&format!("counts-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut command = Command::new(own());
        command.args(["run", "--backend", self.backend, "--counts"]).arg(&counts);
        command.args(options).arg("--").args(program);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a run");
        Running { child: Some(child), counts }
    }

    /// Runs a program behind the gateway to its end.
    pub fn run(&self, options: &[&str], program: &[&str]) -> Ran {
        self.start(options, program).finish()
    }

    /// Runs one of the clients of this binary.
    pub fn client(&self, options: &[&str], words: &[&str]) -> Ran {
        let own = own();
        let mut program = vec![own.as_str(), "client"];
        program.extend(words);
        self.run(options, &program)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = Command::new("ip").args(["link", "del", "up0"]).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A run under way; dropping it ends it.
pub struct Running {
    child: Option<Child>,
    counts: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("not finished").id()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Ran {
        let child = self.child.take().expect("not finished");
        let pid = child.id();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            if is_done.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let pid = nix::unistd::Pid::from_raw(pid as i32);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        });
        let output = child.wait_with_output().expect("its output");
        drop(done);
        watch.join().expect("the watch");
        let text = fs::read_to_string(&self.counts).unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.rsplit_once(' '));
        let counts =
            pairs.map(|(name, n)| (name.to_owned(), n.parse().expect("a number"))).collect();
        Ran { output, counts }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: it never came true");
        sleep(Duration::from_millis(5));
    }
}
