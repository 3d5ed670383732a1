//! How each tool is started, and where the program finds the host behind it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use linerate_dev::netdev::{Feature, set_feature};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use super::http::{INSIDE, PUBLISHED};
use super::run::{Mtu, Pin};
use super::traffic::{Answer, Ask};

/// Where logs and namespace handles are kept: a tmpfs of our own mount namespace.
pub const SCRATCH: &str = "/run/linerate-bench";
/// The host side's own address, on its only interface beside loopback.
pub const HOST_ADDR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// What forwards between the program and the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// `linerate run` of this binary.
    Linerate,
    /// pasta, of passt.
    Pasta,
    /// slirp4netns.
    Slirp4netns,
    /// What a program of Rust's crates does today: tun-rs, netstack-smoltcp and tokio. Only where it was
    /// built in (`--features bench-peers`); it opens no port to the program.
    TunRs,
    /// The kernel on both sides, `read` and `write` between: the ceiling for what terminates.
    Relay,
    /// The kernel alone, a veth pair between: the ceiling for the rest.
    Veth,
    /// The kernel alone, and no namespace either: the ceiling for HTTP.
    Loopback,
}

impl Tool {
    /// In the order of the table; what was not built in is none of them.
    pub const ALL: &'static [Self] = &[
        Self::Linerate,
        Self::Pasta,
        Self::Slirp4netns,
        #[cfg(feature = "bench-peers")]
        Self::TunRs,
        Self::Relay,
        Self::Veth,
        Self::Loopback,
    ];

    /// Whether ours is compared with it.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Pasta | Self::Slirp4netns | Self::TunRs)
    }

    /// Whether nothing but the kernel is between both ends.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::Veth | Self::Loopback)
    }

    /// The MTU it chooses when not told, bytes.
    pub fn default_mtu(self) -> u16 {
        match self {
            Self::Linerate | Self::Pasta => 65520,
            Self::Slirp4netns | Self::TunRs | Self::Relay | Self::Veth | Self::Loopback => 1500,
        }
    }

    /// The version it reports, or why it cannot be measured.
    ///
    /// # Errors
    /// A sentence naming what is missing.
    pub fn version(self) -> Result<String, String> {
        let (program, package) = match self {
            Self::Linerate => return Ok(env!("CARGO_PKG_VERSION").into()),
            Self::TunRs if cfg!(feature = "bench-peers") => {
                return Ok(
                    "tun-rs 2.8 with offloads, netstack-smoltcp 0.2, tokio 1, one thread".into()
                );
            }
            Self::TunRs => return Err("build with --features bench-peers".into()),
            Self::Relay => return Ok("read/write, 128 KiB, two threads a connection".into()),
            Self::Veth | Self::Loopback => return Ok("the kernel's".into()),
            Self::Pasta => ("pasta", "passt"),
            Self::Slirp4netns => ("slirp4netns", "slirp4netns"),
        };
        let output =
            Command::new(program).arg("--version").stderr(Stdio::null()).output().map_err(|e| {
                format!("{program} cannot be started ({e}): install the package {package}")
            })?;
        let reported = String::from_utf8_lossy(&output.stdout);
        let reported = reported.lines().next().unwrap_or_default().trim().to_owned();
        Ok(match package_version(package) {
            Some(packaged) => format!("{reported} (package {packaged})"),
            None => reported,
        })
    }
}

/// Debian's version of a package, since pasta's own says "unknown version" there.
fn package_version(package: &str) -> Option<String> {
    let output =
        Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linerate => "linerate",
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
            Self::TunRs => "tun-rs",
            Self::Relay => "relay",
            Self::Veth => "veth",
            Self::Loopback => "loopback",
        })
    }
}

/// A tool at an MTU: one line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Setup {
    /// The MTU as asked for.
    pub mtu: Mtu,
    /// The tool.
    pub tool: Tool,
}

impl Setup {
    /// Every tool at every MTU, each once: a tool whose default is in the list by number is not
    /// measured twice, and what is only the kernel has no MTU of its own choosing.
    pub fn all(tools: &[Tool], mtus: &[Mtu]) -> Vec<Self> {
        let mut setups: Vec<Self> = Vec::new();
        for &mtu in mtus {
            for &tool in tools {
                let setup = Self { mtu, tool };
                let seen = |s: &Self| {
                    let kernel = tool == Tool::Relay || tool.is_direct();
                    s.tool == tool && (kernel || s.mtu_bytes() == setup.mtu_bytes())
                };
                if !setups.iter().any(seen) {
                    setups.push(setup);
                }
            }
        }
        setups
    }

    /// The MTU in bytes.
    pub fn mtu_bytes(self) -> u16 {
        match self.mtu {
            Mtu::Bytes(bytes) => bytes,
            Mtu::Default => self.tool.default_mtu(),
        }
    }

    /// Whether `peer` is what this is to be compared with: the same MTU, or both at their own
    /// default.
    pub fn compares_with(self, peer: Self) -> bool {
        match self.mtu {
            Mtu::Bytes(bytes) => peer.mtu_bytes() == bytes,
            Mtu::Default => peer.mtu_bytes() == peer.tool.default_mtu(),
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} mtu {}", self.tool, self.mtu)
    }
}

/// One end of the traffic: a process that answers requests. It is killed when dropped.
#[derive(Debug)]
pub struct End {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
    log: PathBuf,
    /// Its process id, as it sees it.
    pub pid: u32,
}

impl End {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// Those of starting it, and `Failed` answers, with the last line of its log.
    pub fn start(command: Command, log: &str) -> io::Result<Self> {
        Self::start_logged(command, Path::new(SCRATCH).join(log))
    }

    /// The same, with its log in a file of this name.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_logged(mut command: Command, log: PathBuf) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()?;
        let requests = child.stdin.take().expect("stdin was asked to be a pipe");
        let output = child.stdout.take().expect("stdout was asked to be a pipe");
        let (tell, answers) = mpsc::sync_channel(4);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let mut end = Self { child, requests, answers, log, pid: 0 };
        match end.answer(Duration::from_secs(10))? {
            Answer::Ready { pid } => end.pid = pid,
            other => return Err(end.unexpected(&other)),
        }
        Ok(end)
    }

    /// Asks, and waits for the answer at most `patience`.
    ///
    /// # Errors
    /// The end's own, `TimedOut`, or that it ended.
    pub fn ask(&mut self, ask: &Ask, patience: Duration) -> io::Result<Answer> {
        self.request(ask)?;
        self.answer(patience)
    }

    /// Asks without waiting; [`answer`](Self::answer) must follow.
    ///
    /// # Errors
    /// That it ended.
    pub fn request(&mut self, ask: &Ask) -> io::Result<()> {
        writeln!(self.requests, "{}", serde_json::to_string(ask)?).map_err(|_| self.ended())
    }

    /// Waits for the answer at most `patience`.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn answer(&mut self, patience: Duration) -> io::Result<Answer> {
        let line = match self.answers.recv_timeout(patience) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.ended()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let why = format!("no answer in {} s", patience.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
        };
        Self::read(&line)
    }

    /// The answer, if it is there.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn try_answer(&mut self) -> io::Result<Option<Answer>> {
        match self.answers.try_recv() {
            Ok(line) => Self::read(&line).map(Some),
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err(self.ended()),
        }
    }

    fn read(line: &str) -> io::Result<Answer> {
        match serde_json::from_str(line) {
            Ok(Answer::Failed { why }) => Err(io::Error::other(why)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(io::Error::other(format!("it printed {line:?} instead of an answer"))),
        }
    }

    /// The error for an answer that does not fit the question.
    pub fn unexpected(&self, answer: &Answer) -> io::Error {
        io::Error::other(format!("unexpected answer: {answer:?}"))
    }

    fn ended(&self) -> io::Error {
        io::Error::other(format!("it ended: {}", last_words(&self.log)))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        end_process(&mut self.child);
    }
}

/// A tool at work, with the program behind it. All of it ends when dropped.
#[derive(Debug)]
pub struct Running {
    /// The client, in the program's place.
    pub program: End,
    /// The host's address, as the program must say it.
    pub to: IpAddr,
    /// The forwarding process.
    pub forwarder: u32,
    /// The port of the host's loopback that leads to the program's web server.
    pub published: u16,
    tool: Option<Child>,
}

impl Running {
    /// Starts the tool and waits until the program reaches the host through it. `busy`: it polls
    /// before it sleeps, if it can.
    ///
    /// # Errors
    /// A sentence with what the tool printed last.
    pub fn start(setup: Setup, pin: Pin, busy: bool) -> io::Result<Self> {
        let mut running = match setup.tool {
            Tool::Linerate => linerate(setup.mtu, pin, busy)?,
            Tool::Pasta => pasta(setup.mtu_bytes(), pin)?,
            Tool::Slirp4netns => slirp4netns(setup.mtu_bytes(), pin)?,
            Tool::TunRs => tun_rs(setup.mtu_bytes(), pin)?,
            Tool::Relay => relay(setup.mtu_bytes(), pin)?,
            Tool::Veth => veth(setup.mtu_bytes(), pin, busy)?,
            Tool::Loopback => loopback(pin)?,
        };
        let to = match setup.tool {
            Tool::Linerate => vec![Ipv4Addr::new(10, 0, 2, 2).into(), HOST_ADDR.into()],
            _ => vec![running.to],
        };
        match running.program.ask(&Ask::Reach { to }, Duration::from_secs(20)) {
            Ok(Answer::Reached { to }) => running.to = to,
            Ok(other) => return Err(running.program.unexpected(&other)),
            Err(e) => {
                let log = last_words(&tool_log(setup.tool));
                return Err(io::Error::other(format!(
                    "the program cannot reach the host ({e}) {log}"
                )));
            }
        }
        running.check_alive(setup.tool)?;
        Ok(running)
    }

    /// A number counts only if the tool is there: without it, something else carried the traffic.
    ///
    /// # Errors
    /// That it ended, with what it printed last.
    pub fn check_alive(&mut self, tool: Tool) -> io::Result<()> {
        let process = self.tool.as_mut().unwrap_or(&mut self.program.child);
        match process.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let log = last_words(&tool_log(tool));
                Err(io::Error::other(format!("{tool} ended ({status}): {log}")))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(tool) = &mut self.tool {
            end_process(tool);
        }
    }
}

/// Microseconds for which ours polls after work, in the case that is about that.
const BUSY_POLL_US: u32 = 100;

fn linerate(mtu: Mtu, pin: Pin, busy: bool) -> io::Result<Running> {
    let mut command = pinned(pin.forwarder);
    command.args(["/proc/self/exe", "run", "--report", "none", "--host-loopback"]);
    command.args(["-p", &format!("127.0.0.1:{PUBLISHED}:{INSIDE}")]);
    if busy {
        command.args(["--set", &format!("net.core.busy_poll={BUSY_POLL_US}")]);
    }
    if let Mtu::Bytes(bytes) = mtu {
        command.args(["--mtu", &bytes.to_string()]);
    }
    // By its path: what executes it need not be this binary.
    command.arg("--").arg(std::env::current_exe()?).args(program_args(pin, false));
    let program = End::start(command, "linerate.log")?;
    let forwarder = program.child.id();
    Ok(Running { program, to: HOST_ADDR.into(), forwarder, published: PUBLISHED, tool: None })
}

fn pasta(mtu: u16, pin: Pin) -> io::Result<Running> {
    let program = program_in_new_namespace(pin)?;
    // pasta gives up the right to look into /proc/PID/ns before it enters; a path it can open needs
    // no right.
    let handle = format!("{SCRATCH}/netns-{}", program.pid);
    File::create(&handle)?;
    let namespace = format!("/proc/{}/ns/net", program.pid);
    mount(Some(namespace.as_str()), handle.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let mut command = pinned(pin.forwarder);
    command
        .args(["pasta", "--foreground", "--quiet", "--runas", "0", "--ipv4-only", "--config-net"])
        .args(["--mtu", &mtu.to_string(), "--address", "10.0.2.100", "--netmask", "24"])
        .args(["--gateway", "10.0.2.2", "-t", &format!("127.0.0.1/{PUBLISHED}:{INSIDE}")])
        .args(["-u", "none", "-T", "none", "-U", "none"])
        .args(["--netns-only", "--netns", &handle]);
    let tool = spawn(command, Tool::Pasta)?;
    Ok(behind(program, Ipv4Addr::new(10, 0, 2, 2), tool))
}

fn slirp4netns(mtu: u16, pin: Pin) -> io::Result<Running> {
    let program = program_in_new_namespace(pin)?;
    let mut command = pinned(pin.forwarder);
    let api = format!("{SCRATCH}/slirp4netns-{}.sock", program.pid);
    command.args(["slirp4netns", "--configure", &format!("--mtu={mtu}"), "--api-socket", &api]);
    command.args([&program.pid.to_string(), "tap0"]);
    let running = behind(program, Ipv4Addr::new(10, 0, 2, 2), spawn(command, Tool::Slirp4netns)?);
    hostfwd(Path::new(&api))?;
    Ok(running)
}

/// slirp4netns has no argument for a port that leads inside; it is asked for one, once it listens.
fn hostfwd(api: &Path) -> io::Result<()> {
    let patience = Instant::now() + Duration::from_secs(10);
    let mut stream = loop {
        match UnixStream::connect(api) {
            Ok(stream) => break stream,
            Err(e) if Instant::now() > patience => return Err(e),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let ask = serde_json::json!({"execute": "add_hostfwd", "arguments": {
        "proto": "tcp", "host_addr": "127.0.0.1", "host_port": PUBLISHED, "guest_port": INSIDE}});
    stream.write_all(ask.to_string().as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    if said.contains("error") {
        return Err(io::Error::other(format!("slirp4netns opens no port: {}", said.trim())));
    }
    Ok(())
}

fn tun_rs(mtu: u16, pin: Pin) -> io::Result<Running> {
    let program = program_in_new_namespace(pin)?;
    let mut command = pinned(pin.forwarder);
    let netns = format!("/proc/{}/ns/net", program.pid);
    command.args(["/proc/self/exe", "__traffic", "tun2socks", "--netns", &netns]);
    command.args(["--mtu", &mtu.to_string()]);
    Ok(behind(program, Ipv4Addr::new(10, 0, 2, 2), spawn(command, Tool::TunRs)?))
}

/// A program in a namespace of its own and the tool that carries its traffic.
fn behind(program: End, to: Ipv4Addr, tool: Child) -> Running {
    let forwarder = tool.id();
    Running { program, to: to.into(), forwarder, published: PUBLISHED, tool: Some(tool) }
}

fn relay(mtu: u16, pin: Pin) -> io::Result<Running> {
    let (program, _) = program_behind_veth(mtu, pin)?;
    let mut command = pinned(pin.forwarder);
    command.args(["/proc/self/exe", "__traffic", "relay", "--program", "10.0.3.100"]);
    command.args(["--listen", "10.0.3.2", "--to", "127.0.0.1"]);
    Ok(behind(program, Ipv4Addr::new(10, 0, 3, 2), spawn(command, Tool::Relay)?))
}

fn veth(mtu: u16, pin: Pin, busy: bool) -> io::Result<Running> {
    let (mut program, ours) = program_behind_veth(mtu, pin)?;
    let route = ["route", "add", "default", "via", "10.0.3.2"].map(String::from).into();
    let mut asks = vec![Ask::Ip { args: route }];
    if busy {
        // Without NAPI there is nothing that a socket could poll.
        set_feature(&ours, Feature::Gro, true)?;
        asks.push(Ask::Napi { name: "eth0".into() });
    }
    for ask in asks {
        program.ask(&ask, Duration::from_secs(10))?;
    }
    let forwarder = program.child.id();
    Ok(Running { program, to: HOST_ADDR.into(), forwarder, published: PUBLISHED, tool: None })
}

fn loopback(pin: Pin) -> io::Result<Running> {
    let mut command = Command::new("/proc/self/exe");
    command.args(program_args(pin, false));
    let program = End::start(command, "program.log")?;
    let (to, forwarder) = (Ipv4Addr::LOCALHOST.into(), program.child.id());
    Ok(Running { program, to, forwarder, published: INSIDE, tool: None })
}

/// A program whose namespace has one end of a veth pair, 10.0.3.100, and the name of the other,
/// 10.0.3.2.
fn program_behind_veth(mtu: u16, pin: Pin) -> io::Result<(End, String)> {
    let mut program = program_in_new_namespace(pin)?;
    let (pid, mtu) = (program.pid.to_string(), mtu.to_string());
    // A name of its own: the pair of the round before ends with its namespace, which takes the
    // kernel a moment.
    let name = format!("pair{pid}");
    ip(&[
        "link", "add", &name, "mtu", &mtu, "type", "veth", "peer", "name", "eth0", "mtu", &mtu,
        "netns", &pid,
    ])?;
    ip(&["addr", "add", "10.0.3.2/24", "dev", &name])?;
    ip(&["link", "set", &name, "up"])?;
    for args in
        [&["addr", "add", "10.0.3.100/24", "dev", "eth0"][..], &["link", "set", "eth0", "up"]]
    {
        let args = args.iter().map(ToString::to_string).collect();
        program.ask(&Ask::Ip { args }, Duration::from_secs(10))?;
    }
    Ok((program, name))
}

fn program_in_new_namespace(pin: Pin) -> io::Result<End> {
    let mut command = Command::new("/proc/self/exe");
    command.args(program_args(pin, true));
    End::start(command, "program.log")
}

fn program_args(pin: Pin, unshare: bool) -> Vec<String> {
    let mut args: Vec<String> = ["__traffic", "program"].map(String::from).into();
    if unshare {
        args.push("--unshare".into());
    }
    args.extend(cpu_args(pin.ends));
    args
}

/// `--cpu N`, or nothing.
pub fn cpu_args(cpu: Option<usize>) -> Vec<String> {
    cpu.map(|cpu| vec!["--cpu".to_owned(), cpu.to_string()]).unwrap_or_default()
}

fn pinned(cpu: Option<usize>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["__traffic", "pinned"]).args(cpu_args(cpu)).arg("--");
    command
}

fn spawn(mut command: Command, tool: Tool) -> io::Result<Child> {
    let log = File::create(tool_log(tool))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
}

fn tool_log(tool: Tool) -> PathBuf {
    Path::new(SCRATCH).join(format!("{tool}.log"))
}

/// What a process printed that explains its end: its first line that says "error", else its last.
fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    // pasta mentions each message it could not also give to a system logger.
    let said = |line: &&str| !line.trim().is_empty() && !line.contains("syslog");
    let error = text.lines().find(|line| line.starts_with("error"));
    error.or_else(|| text.lines().rfind(said)).unwrap_or("(it printed nothing)").to_owned()
}

/// Runs `ip` in the host side's namespace.
///
/// # Errors
/// That it is not installed, or what it printed.
pub fn ip(args: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(args).output().map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("ip cannot be started ({e}): install the package iproute2"),
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {}: {}", args.join(" "), said.trim())))
}

fn end_process(child: &mut Child) {
    // Neither fails unless it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::{Setup, Tool};
    use crate::bench::run::Mtu;

    #[test]
    fn setups_are_unique_and_the_kernel_is_there_once() {
        let tools = Tool::ALL.iter().filter(|&&tool| tool != Tool::TunRs);
        let tools: Vec<Tool> = tools.copied().collect();
        let setups = Setup::all(&tools, &[Mtu::Bytes(1500), Mtu::Default]);
        let named: Vec<String> = setups.iter().map(ToString::to_string).collect();
        assert_eq!(
            named,
            [
                "linerate mtu 1500",
                "pasta mtu 1500",
                "slirp4netns mtu 1500",
                "relay mtu 1500",
                "veth mtu 1500",
                "loopback mtu 1500",
                "linerate mtu default",
                "pasta mtu default"
            ]
        );
    }

    #[test]
    fn a_default_is_compared_with_defaults() {
        let setup = |tool, mtu| Setup { mtu, tool };
        let ours = setup(Tool::Linerate, Mtu::Default);
        assert!(ours.compares_with(setup(Tool::Slirp4netns, Mtu::Bytes(1500))));
        assert!(ours.compares_with(setup(Tool::Pasta, Mtu::Default)));
        assert!(!ours.compares_with(setup(Tool::Pasta, Mtu::Bytes(1500))));
        let plain = setup(Tool::Linerate, Mtu::Bytes(1500));
        assert!(plain.compares_with(setup(Tool::Pasta, Mtu::Bytes(1500))));
        assert!(!plain.compares_with(setup(Tool::Pasta, Mtu::Default)));
    }
}
