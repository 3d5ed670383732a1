//! A host and an Internet, each a network namespace, and runs of programs on the host.

use crate::Skip;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

#[path = "../../../dev/tests/again/mod.rs"]
mod again;

/// The host's addresses on the way to the Internet.
pub const HOST: &str = "198.18.0.1";
pub const HOST_V6: &str = "2001:db8::1";
/// The server's, both families.
pub const SERVERS: [&str; 2] = ["198.18.0.2", "2001:db8::2"];
/// The gateway's, as the program sees them.
pub const GATEWAYS: [&str; 2] = ["10.0.2.2", "fd00:6c69:6e65::2"];
/// An address on the server's network where nothing is.
pub const NOBODY: &str = "198.18.0.99";
/// Addresses that the server's end says it has no way to.
pub const UNREACHABLE: [&str; 2] = ["203.0.113.9", "2001:db8:bad::9"];
/// A network, but for its last octet, in which everything vanishes.
pub const BLACKHOLE: &str = "198.51.100";
/// Addresses that the server's end says are forbidden.
pub const PROHIBITED: [&str; 2] = ["192.0.2.9", "2001:db8:f00::9"];

/// Uid and gid of the ordinary user.
const ORDINARY: u32 = 65534;
/// Long enough for any machine: only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// An address with a port.
pub fn at(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An address as it stands in a URL.
pub fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Whether we are root, be it only in a user namespace.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

/// Whether nothing may be skipped here.
pub fn skips_denied() -> bool {
    std::env::var("LINERATE_SKIP").as_deref() == Ok("deny")
}

/// This binary.
pub fn own() -> String {
    std::env::current_exe().expect("our path").to_str().expect("a UTF-8 path").to_owned()
}

/// Where a program is installed, for everybody: what lies in somebody's home is not.
pub fn installed(tool: &str) -> Option<String> {
    let dirs = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"];
    dirs.iter().map(|dir| format!("{dir}/{tool}")).find(|path| fs::metadata(path).is_ok())
}

/// The paths of these programs; skips if one is not installed.
pub fn need<const N: usize>(tools: [&str; N]) -> Result<[String; N], Skip> {
    if let Some(tool) = tools.iter().find(|tool| installed(tool).is_none()) {
        return Err(Skip(format!("{tool} is not installed")));
    }
    Ok(tools.map(|tool| installed(tool).expect("just found")))
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: it never came true");
        sleep(Duration::from_millis(5));
    }
}

/// Runs a command that must succeed; what it printed.
pub fn good(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().expect(words[0]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn split(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

/// A process that ends with this.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Both namespaces and the servers in them; dropping it ends what runs there.
pub struct Host {
    servers: Vec<Ended>,
    internet: u32,
    dir: PathBuf,
}

impl Host {
    /// Makes the calling process's namespace the host.
    pub fn make() -> Host {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: the path of a control socket has at most 107 bytes.
        let dir = std::env::temp_dir().join(format!("lr-e2e-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("its mode");
        for (from, to) in [(env!("CARGO_BIN_EXE_linerate"), "linerate"), (&*own(), "client")] {
            let to = dir.join(to);
            if fs::hard_link(from, &to).is_err() {
                again::copy_program(from, &to);
            }
        }
        let serve = |unshare: bool| {
            let own = own();
            let words: &[&str] =
                if unshare { &["unshare", "--net", "--", &own, "serve"] } else { &[&own, "serve"] };
            let mut server = Command::new(words[0])
                .args(&words[1..])
                .stdout(Stdio::piped())
                .stdin(Stdio::piped())
                .spawn()
                .expect("starting the server");
            let mut line = String::new();
            let stdout = server.stdout.take().expect("the server's output");
            BufReader::new(stdout).read_line(&mut line).expect("the server's word");
            assert_eq!(line, "ready\n");
            Ended(server)
        };
        good(&split("ip link set lo up"));
        let servers = vec![serve(true), serve(false)];
        let internet = servers[0].0.id();
        let host = Host { servers, internet, dir };
        host.wire();
        host
    }

    /// The addresses and routes of both.
    fn wire(&self) {
        let pid = self.internet;
        good(&split(&format!("ip link add up0 type veth peer name up1 netns {pid}")));
        for words in [
            &format!("addr add {HOST}/24 dev up0"),
            &format!("-6 addr add {HOST_V6}/64 dev up0 nodad"),
            "link set up0 up",
            "route add default via 198.18.0.2",
        ] {
            good(&split(&format!("ip {words}")));
        }
        let inside = |words: &str| {
            good(&split(&format!("nsenter -t {pid} -n {words}")));
        };
        for (file, value) in [
            ("ipv4/ip_forward", 1),
            ("ipv6/conf/all/forwarding", 1),
            // Every error is told, however many there were before.
            ("ipv4/icmp_ratelimit", 0),
            ("ipv6/icmp/ratelimit", 0),
        ] {
            let script = format!("echo {value} > /proc/sys/net/{file}");
            let pid = pid.to_string();
            good(&["nsenter", "-t", &pid, "-n", "sh", "-c", &script]);
        }
        let [v4, v6] = SERVERS;
        inside("ip link set lo up");
        inside(&format!("ip addr add {v4}/24 dev up1"));
        inside(&format!("ip -6 addr add {v6}/64 dev up1 nodad"));
        inside("ip link set up1 up");
        inside("ip route add unreachable 203.0.113.0/24");
        inside("ip -6 route add unreachable 2001:db8:bad::/48");
        inside(&format!("ip route add blackhole {BLACKHOLE}.0/24"));
        inside("ip route add prohibit 192.0.2.0/24");
        inside("ip -6 route add prohibit 2001:db8:f00::/48");
        good(&split("ip -6 route add default via 2001:db8::2"));
        // As desktop distributions have it: everybody may ping. Where we are root in a user namespace
        // only, the range may not exceed the one group that is mapped.
        let file = "/proc/sys/net/ipv4/ping_group_range";
        if fs::write(file, "0 2147483647").is_err() {
            fs::write(file, "0 0").expect("the range of groups that may ping");
        }
    }

    /// Starts a server in the Internet.
    pub fn in_internet(&self, words: &[&str]) -> Ended {
        let pid = self.internet.to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n", "--"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ended(command.spawn().expect("nsenter"))
    }

    /// Runs a command in the Internet; what it printed.
    pub fn asked_of_internet(&self, words: &[&str]) -> String {
        let pid = self.internet.to_string();
        let mut all = vec!["nsenter", "-t", &pid, "-n", "--"];
        all.extend(words);
        good(&all)
    }

    /// Waits until somebody listens in the Internet.
    pub fn until_listens(&self, port: u16) {
        let port = format!(":{port:04X} ");
        until("a server listens", || {
            ["tcp", "tcp6"].iter().any(|file| {
                let path = format!("/proc/{}/net/{file}", self.internet);
                let text = fs::read_to_string(path).unwrap_or_default();
                text.lines().any(|line| {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    words.get(3) == Some(&"0A") && format!("{} ", words[1]).ends_with(&port)
                })
            })
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.servers.clear();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Who runs linerate, on what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub backend: &'static str,
    ordinary: bool,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.backend, if self.ordinary { "user" } else { "root" })
    }
}

impl Setting {
    /// All that can be tried by root, or by somebody who is root in a user namespace only.
    pub fn all(root: bool) -> Vec<Setting> {
        let setting = |backend, ordinary| Setting { backend, ordinary };
        let mut all = vec![setting("tun", false), setting("packet", true)];
        if root {
            all.extend([setting("tun", true), setting("packet", false)]);
        } else {
            all[1].ordinary = false;
        }
        all
    }
}

/// A setting on a host.
pub struct World<'a> {
    pub host: &'a Host,
    setting: Setting,
    runtime: PathBuf,
}

impl<'a> World<'a> {
    pub fn make(host: &'a Host, setting: &Setting) -> Result<World<'a>, Skip> {
        if setting.ordinary {
            need(["setpriv"])?;
        }
        if setting.backend == "tun" {
            tun_for_all(setting.ordinary)?;
        }
        let user = if setting.ordinary { "user" } else { "root" };
        let runtime = host.dir.join(format!("{}-{user}", setting.backend));
        fs::create_dir_all(&runtime).expect("a directory");
        if setting.ordinary {
            std::os::unix::fs::chown(&runtime, Some(ORDINARY), Some(ORDINARY)).expect("its owner");
        }
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("its mode");
        Ok(World { host, setting: *setting, runtime })
    }

    /// A directory that everybody may write, new each time.
    pub fn dir(&self) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = self.host.dir.join(n.to_string());
        fs::create_dir(&dir).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("its mode");
        dir
    }

    /// Where linerate keeps what it keeps while it runs.
    pub fn runtime(&self) -> &PathBuf {
        &self.runtime
    }

    /// linerate as this user.
    pub fn linerate(&self, args: &[&str]) -> Command {
        let linerate = self.host.dir.join("linerate").display().to_string();
        let id = ORDINARY.to_string();
        let mut words = Vec::new();
        if self.setting.ordinary {
            words.extend(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        words.push(&linerate);
        words.extend(args);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("XDG_RUNTIME_DIR", &self.runtime);
        // Otherwise the ordinary user's programs look into the home of whoever runs the tests.
        command.env("HOME", "/nonexistent").current_dir("/");
        command
    }

    /// Starts a program behind linerate.
    pub fn start(&self, options: &[&str], program: &[&str]) -> Running {
        let mut args = vec!["run", "--backend", self.setting.backend];
        args.extend(options);
        args.push("--");
        args.extend(program);
        let mut command = self.linerate(&args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a run");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Running { child: Some(child), stdin, stdout: Some(stdout) }
    }

    /// Runs a program behind linerate to its end.
    pub fn run(&self, options: &[&str], program: &[&str]) -> Ran {
        let mut running = self.start(options, program);
        running.stdin = None;
        running.finish()
    }

    /// The words that make this binary a client.
    pub fn client(&self, words: &[&str]) -> Vec<String> {
        let mut all = vec![self.host.dir.join("client").display().to_string(), "client".to_owned()];
        all.extend(words.iter().map(|&word| word.to_owned()));
        all
    }

    /// Runs one of the clients of this binary.
    pub fn run_client(&self, options: &[&str], words: &[&str]) -> Ran {
        let words = self.client(words);
        self.run(options, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts one of the clients of this binary.
    pub fn start_client(&self, options: &[&str], words: &[&str]) -> Running {
        let words = self.client(words);
        self.start(options, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Asks the one instance that runs.
    pub fn show(&self, what: &str) -> String {
        let output = self.linerate(&["show", what]).output().expect("linerate starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "show {what}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A /dev/net/tun that everybody may open, as desktops have it, in our own mount namespace; without
/// the right to make one, that of the machine has to do.
fn tun_for_all(for_others: bool) -> Result<(), Skip> {
    let open = || fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    if for_others {
        let mode = fs::metadata("/dev/net/tun").map(|meta| meta.mode()).unwrap_or(0);
        if mode & 0o006 != 0o006 {
            let script = "mkdir -p /dev/net && mount -t tmpfs -o mode=755 tmpfs /dev/net && \
                          mknod -m 666 /dev/net/tun c 10 200";
            good(&["sh", "-c", script]);
        }
    }
    open().map(drop).map_err(|err| Skip(format!("/dev/net/tun: {err}")))
}

/// What a run gave.
pub struct Ran(pub Output);

impl Ran {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).trim().to_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// The output of a run that must have succeeded.
    pub fn good(&self) -> String {
        let (out, err) = (self.stdout(), self.stderr());
        assert!(self.0.status.success(), "{}: {out}\n{err}", self.0.status);
        out
    }

    /// The report of a run with `--report json`.
    pub fn report(&self) -> serde_json::Value {
        let said = self.stderr();
        let line = said.lines().find(|line| line.starts_with('{')).expect("a report");
        let report: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let stages = report["stages"].as_array().expect("stages");
        assert!(stages.iter().all(|stage| stage["missing"] == 0), "{line}");
        report
    }
}

/// A run under way; dropping it ends it.
pub struct Running {
    child: Option<Child>,
    pub stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("not finished").id()
    }

    /// The next line that the program prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().expect("not finished").read_line(&mut line).expect("a line");
        if line.is_empty() {
            let mut said = String::new();
            let child = self.child.as_mut().expect("not finished");
            let mut stderr = child.stderr.take().expect("a pipe");
            let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
            panic!("the program ended without a word: {said}");
        }
        line.trim_end().to_owned()
    }

    /// Lets the program read a line.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("a pipe");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("it reads");
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("a signal");
    }

    /// A figure of `/proc/PID/status`, in KiB.
    pub fn memory(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    }

    /// Its proportional set size in KiB, if we may read it.
    pub fn pss(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Kills linerate, without a chance to do anything.
    pub fn kill(mut self) {
        let mut child = self.child.take().expect("not finished");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Ran {
        self.stdin = None;
        let mut child = self.child.take().expect("not finished");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            if is_done.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        });
        let mut stdout = self.stdout.take().expect("a pipe");
        let mut stderr = child.stderr.take().expect("a pipe");
        let errors = std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = std::io::Read::read_to_end(&mut stderr, &mut all);
            all
        });
        let mut out = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut out).expect("its output");
        let status = child.wait().expect("its end");
        drop(done);
        watch.join().expect("the watch");
        Ran(Output { status, stdout: out, stderr: errors.join().expect("a reader") })
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
