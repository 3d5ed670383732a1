//! Two network namespaces with a wire between them, and what runs in them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[path = "../../../dev/tests/again/mod.rs"]
pub mod again;

pub const SERVER_V4: &str = "10.9.0.2";
pub const SERVER_V6: &str = "fd09::2";

/// One world at a time: they share the machine's two processors with their clients.
static ONE: Mutex<()> = Mutex::new(());

/// Names the test that is skipped.
pub fn skip(why: &str) {
    again::skip(std::thread::current().name().unwrap_or("a test"), why);
}

/// Why a test can not run here.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("this needs root: it makes network namespaces".to_owned());
    }
    let tools = ["ip", "unshare", "nsenter", "ping", "curl", "dig", "socat", "setpriv", "iperf3"];
    let path = std::env::var("PATH").unwrap_or_default();
    let there = |tool: &&str| path.split(':').any(|dir| PathBuf::from(dir).join(tool).exists());
    tools.iter().find(|t| !there(t)).map(|tool| format!("{tool} is not installed"))
}

/// A process that is ended when it is dropped.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace, held by a process that sleeps in it.
pub struct Net {
    _holder: Ended,
    pub pid: u32,
}

impl Net {
    pub fn new() -> Net {
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("its word");
        assert_eq!(line, "ready\n", "a namespace");
        let pid = holder.id();
        let net = Net { _holder: Ended(holder), pid };
        net.good("ip link set lo up");
        net
    }

    /// A command in this namespace.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-n", "--"]).args(words);
        command
    }

    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().expect("nsenter starts")
    }

    /// What a command prints that has to succeed.
    pub fn good(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let out = self.output(&words);
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{line}: {}: {err}", out.status);
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// What a command prints that reads `input`.
    pub fn piped(&self, words: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = self.command(words);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nsenter starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A reader that has gone shows in what it printed.
            let _ = stdin.write_all(&input);
        });
        let out = child.wait_with_output().expect("it ends");
        writer.join().expect("a writer");
        assert!(out.status.success(), "{words:?}: {}", out.status);
        out.stdout
    }
}

/// The wire.
pub struct World {
    _one: MutexGuard<'static, ()>,
    pub server: Net,
    pub client: Net,
    pub dir: PathBuf,
    runtime: PathBuf,
}

impl World {
    /// Two namespaces and a veth pair of two queues, whose client's end has addresses.
    pub fn new() -> World {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/lr-up-{}-{n}", std::process::id()));
        fs::create_dir_all(dir.join("www/sub")).expect("a directory");
        let runtime = dir.join("run");
        fs::create_dir(&runtime).expect("a directory");
        let set = |path: &PathBuf| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("its mode");
        };
        set(&runtime);
        fs::write(dir.join("www/index.html"), "<p>home</p>\n").expect("a file");
        fs::write(dir.join("www/big"), big()).expect("a file");
        fs::write(dir.join("names"), "www.example.test 10.9.0.2 fd09::2\n").expect("a file");
        let (server, client) = (Net::new(), Net::new());
        let queues = "numtxqueues 2 numrxqueues 2";
        let pid = client.pid;
        server
            .good(&format!("ip link add v0 {queues} type veth peer name v1 netns {pid} {queues}"));
        server.good("ip link set v0 up");
        client.good("ip link set v1 up");
        let world = World { _one: one, server, client, dir, runtime };
        world.address("v1");
        world
    }

    /// Gives the client's end its addresses.
    pub fn address(&self, dev: &str) {
        self.client.good(&format!("ip addr add 10.9.0.1/24 dev {dev}"));
        self.client.good(&format!("ip -6 addr add fd09::1/64 dev {dev} nodad"));
    }

    /// linerate, in the namespace of the server or, for interfaces that it makes, of the client.
    pub fn linerate(&self, net: &Net, args: &[&str]) -> Command {
        let mut words = vec![env!("CARGO_BIN_EXE_linerate")];
        words.extend(args);
        let mut command = net.command(&words);
        command.env("XDG_RUNTIME_DIR", &self.runtime).current_dir(&self.dir);
        command
    }

    /// What a command of linerate prints about the one instance.
    pub fn ask(&self, args: &[&str]) -> String {
        let out = self.linerate(&self.server, args).output().expect("linerate starts");
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {err}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// What it says when it refuses.
    pub fn refused(&self, args: &[&str], code: i32) -> String {
        let out = self.linerate(&self.server, args).output().expect("linerate starts");
        assert_eq!(out.status.code(), Some(code), "{args:?}: {out:?}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    /// Starts `linerate up`; it serves when this returns.
    pub fn up(&self, net: &Net, args: &[&str]) -> Up {
        let mut all = vec!["up", "--name", "t"];
        all.extend(args);
        let mut command = self.linerate(net, &all);
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("its word");
        if !line.contains("shard") {
            let mut rest = String::new();
            let _ = std::io::Read::read_to_string(&mut stderr, &mut rest);
            panic!("linerate {all:?} did not start: {line}{rest}");
        }
        Up { child: Ended(child), stderr, line }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A file that does not compress into anything simple, of more than one window.
pub fn big() -> Vec<u8> {
    (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A running instance.
pub struct Up {
    child: Ended,
    stderr: BufReader<ChildStderr>,
    /// Its start line.
    pub line: String,
}

impl Up {
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.0.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("a signal");
    }

    /// The next line of standard error that begins with our name and holds `what`.
    pub fn says(&mut self, what: &str) -> String {
        loop {
            let mut line = String::new();
            let n = self.stderr.read_line(&mut line).expect("readable");
            assert!(n > 0, "it ended before it said {what:?}");
            if line.contains(what) {
                return line;
            }
        }
    }

    /// Ends it by SIGTERM; what it says at the end. Every packet must be accounted for.
    pub fn end(mut self) -> String {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.stderr, &mut said).expect("readable");
        let status = self.child.0.wait().expect("it ends");
        assert!(status.success(), "{status}: {said}");
        assert!(said.contains("every packet accounted for"), "{said}");
        said
    }

    /// The status that it ends with by itself.
    pub fn status(mut self) -> Option<i32> {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stderr, &mut rest).expect("readable");
        self.child.0.wait().expect("it ends").code()
    }

    /// Ends it by SIGKILL.
    pub fn kill(mut self) {
        self.child.0.kill().expect("it is ours");
        self.child.0.wait().expect("it ends");
    }
}
