//! The parent's side: starts the helper, receives the device, and follows the program to its end.

use super::device::Made;
use super::leftover::Leftover;
use super::message::{self, Message};
use super::plan::{Backend, Config, IdMap, Plan, UserMode};
use super::refused::{Refused, Step};
use super::{helper, sent_by_process};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid, User, getpgrp, tcgetpgrp, tcsetpgrp};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::PidfdFlags;
use rustix::thread::CapabilitySet;
use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Signals that a process may send to linerate and that are for the program. Those by which the
/// terminal stops its background are among them: whether they stop anything is up to the program.
const FORWARDED: [Signal; 12] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGURG,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCONT,
];

/// Smallest MTU of an interface with IPv6, in bytes (RFC 8200 section 5).
const MTU_V6_MIN: u32 = 1280;

/// Why the program could not be started. Each is one sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnError {
    /// The plan asks for something impossible.
    Plan(String),
    /// The kernel grants no namespaces.
    Namespaces(String),
    /// No device could be opened or made.
    Device(String),
    /// The device could not be configured.
    Network(String),
    /// Something else failed, with the system's own error.
    Other(String),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Plan(why)
        | Self::Namespaces(why)
        | Self::Device(why)
        | Self::Network(why)
        | Self::Other(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for SpawnError {}

impl From<Refused> for SpawnError {
    fn from(Refused { step, why }: Refused) -> SpawnError {
        match step {
            Step::Namespaces => SpawnError::Namespaces(why),
            Step::Device => SpawnError::Device(why),
            Step::Network => SpawnError::Network(why),
            Step::Proc | Step::Other => SpawnError::Other(why),
        }
    }
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status, 0 to 255.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl Exit {
    /// The status to exit with in its place: its own, or 128 + n for signal n.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// What happened to the program; see [`Spawned::next_event`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The program is being executed; its pid as seen here, where the kernel can tell.
    Started(Option<u32>),
    /// One sentence the user should see.
    Note(String),
    /// The program, and with it this process, was stopped and goes on now: a jump of the clock.
    Resumed,
    /// The program ended. Its sockets may still have data to deliver: keep the stack running until
    /// [`Event::Drained`], for as long as that seems worth it.
    Exited(Exit),
    /// No TCP socket inside has anything left to deliver.
    Drained,
    /// After the program's end, a process or the terminal sent this signal: stop draining.
    Interrupted(i32),
    /// Every process of the namespace is gone.
    Gone,
}

/// The device whose other side is the program's network interface.
#[derive(Debug)]
pub struct Device {
    /// A TUN descriptor with `IFF_VNET_HDR`, or an `AF_PACKET` socket that is not bound yet. Both
    /// are non-blocking.
    pub fd: OwnedFd,
    /// Which of the two: never [`Backend::Auto`].
    pub backend: Backend,
    /// Index of the program's interface in its namespace.
    pub index: u32,
    /// Ethernet address of the program's interface; none for a TUN.
    pub mac: Option<[u8; 6]>,
    /// Index to bind the packet socket to, in the socket's own namespace; 0 for a TUN.
    pub far_index: u32,
    /// Ethernet address of our end of the veth pair. Use another one for the gateway: frames that
    /// are not addressed to our end are dropped by the kernel before it looks at them.
    pub far_mac: Option<[u8; 6]>,
    /// An rtnetlink socket in the program's namespace, to read what its interface counts. It
    /// keeps that namespace, as the descriptor of a TUN does.
    pub netlink: OwnedFd,
}

/// A program in its network namespace. Dropping it ends the program and everything it started.
#[derive(Debug)]
pub struct Spawned {
    control: OwnedFd,
    /// Tells the helper what to remove, and by its end that this process is gone.
    leftovers: OwnedFd,
    helper: Child,
    #[expect(dead_code, reason = "the epoll set watches it for as long as it is open")]
    helper_fd: OwnedFd,
    signals: SignalFd,
    /// The mask of the calling thread before.
    mask: SigSet,
    epoll: Epoll,
    terminal: Option<OwnedFd>,
    events: VecDeque<Event>,
    pid: Option<u32>,
    exit: Option<Exit>,
    gone: Option<ExitStatus>,
}

/// Makes the namespaces and the device, and readies the program, which starts at
/// [`Spawned::go`]. Call it from a thread that lives as long as the program should, before other
/// threads are started: the signals that are for the program are blocked in this thread and read
/// from a descriptor. Makes this process undumpable.
///
/// # Errors
/// [`SpawnError`], with a sentence for the user.
pub fn spawn(plan: &Plan) -> Result<(Spawned, Device), SpawnError> {
    check(plan)?;
    prctl::set_dumpable(false).map_err(|err| other("cannot make linerate undumpable", err))?;
    let ids = id_map(plan.user)?;
    match attempt(plan, ids, plan.pid_namespace) {
        Err(Refused { step: Step::Proc, why }) if plan.pid_namespace => {
            let (mut spawned, device) = attempt(plan, ids, false)?;
            spawned.events.push_front(Event::Note(format!(
                "{why}: there is no PID namespace, linerate kills the program's processes itself"
            )));
            Ok((spawned, device))
        }
        outcome => Ok(outcome?),
    }
}

fn other(doing: &str, err: impl fmt::Display) -> SpawnError {
    SpawnError::Other(format!("{doing}: {err}"))
}

/// Refuses what the helpers could only fail at.
fn check(plan: &Plan) -> Result<(), SpawnError> {
    let refuse = |why: String| Err(SpawnError::Plan(why));
    let name = &plan.device;
    if plan.program.first().is_none_or(|name| name.is_empty()) {
        return refuse("there is no program to run: name one after `--`".into());
    }
    if name.is_empty()
        || name.len() > 15
        || name == "lo"
        || name.contains(['/', ' ', ':', '\0', '.'])
    {
        return refuse(format!("`{name}` cannot name an interface: 1 to 15 letters and digits"));
    }
    let min = if plan.v6.is_some() { MTU_V6_MIN } else { 68 };
    if !(min..=65535).contains(&plan.mtu) {
        return refuse(format!("MTU {} is out of range: {min} to 65535 bytes", plan.mtu));
    }
    if !(1..=65536).contains(&plan.ring_rx) {
        return refuse(format!("a ring of {} packets is out of range: 1 to 65536", plan.ring_rx));
    }
    if plan.v4.prefix > 32 || plan.v6.is_some_and(|v6| v6.prefix > 128) {
        return refuse("a prefix is longer than its address".into());
    }
    if plan.hostname.as_ref().is_some_and(|name| name.is_empty() || name.len() > 64) {
        return refuse("a host name has 1 to 64 bytes".into());
    }
    Ok(())
}

/// Decides about the user namespace.
fn id_map(mode: UserMode) -> Result<IdMap, SpawnError> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    let held = rustix::thread::capabilities(None)
        .map_err(|err| other("cannot read our capabilities", err))?
        .effective;
    if uid.is_root() && held.contains(needed) {
        return Ok(IdMap::Host);
    }
    Ok(match mode {
        UserMode::Own => IdMap::Own { uid: uid.as_raw(), gid: gid.as_raw() },
        UserMode::SubIds => {
            let uids = sub_ids("/etc/subuid", uid)?.1;
            let gids = sub_ids("/etc/subgid", uid)?.1;
            IdMap::Sub { ids: uids.min(gids).saturating_add(1) }
        }
    })
}

/// The first range that a file like `/etc/subuid` grants to a user: its start and its length.
fn sub_ids(path: &str, uid: Uid) -> Result<(u32, u32), SpawnError> {
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let text = fs::read_to_string(path).unwrap_or_default();
    find_range(&text, &uid.to_string(), name.as_deref()).ok_or_else(|| {
        SpawnError::Namespaces(format!(
            "{path} grants no ids to uid {uid}: run `usermod --add-subuids 100000-165535 \
             --add-subgids 100000-165535 USER` as root"
        ))
    })
}

fn find_range(text: &str, uid: &str, name: Option<&str>) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.trim().split(':').collect();
        let [owner, start, count] = words[..] else { return None };
        let ours = owner == uid || Some(owner) == name;
        let (start, count) = (start.parse().ok()?, count.parse().ok()?);
        (ours && count > 0).then_some((start, count))
    })
}

/// Has the setuid tools write the maps of the helper's user namespace.
fn write_id_maps(helper: u32) -> Result<(), Refused> {
    let uid = Uid::effective();
    let maps = [
        ("newuidmap", "/etc/subuid", uid.as_raw()),
        ("newgidmap", "/etc/subgid", Gid::effective().as_raw()),
    ];
    for (tool, file, own) in maps {
        let refused = |why: String| Refused::new(Step::Namespaces, why);
        let (start, count) = sub_ids(file, uid).map_err(|err| refused(err.to_string()))?;
        let args = [helper, 0, own, 1, 1, start, count].map(|number| number.to_string());
        match Command::new(tool).args(args).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(refused(format!("{tool} refused to map the ids of {file}: {said}")));
            }
            Err(err) => {
                return Err(refused(format!(
                    "cannot run {tool} ({err}): install the package `uidmap` (or shadow-utils)"
                )));
            }
        }
    }
    Ok(())
}

/// Starts the helper and talks with it until the program could start.
fn attempt(plan: &Plan, ids: IdMap, pid_namespace: bool) -> Result<(Spawned, Device), Refused> {
    let tun_path =
        plan.tun_path.to_str().map(str::to_owned).ok_or_else(|| {
            Refused::new(Step::Other, "the path of the clone device is not UTF-8")
        })?;
    let config = Config {
        ids,
        pid_namespace,
        backend: plan.backend,
        tun_path,
        device: plan.device.clone(),
        mtu: plan.mtu,
        ring_rx: plan.ring_rx,
        v4: plan.v4,
        v6: plan.v6,
        resolv_conf: plan.resolv_conf.clone(),
        hostname: plan.hostname.clone(),
        inherited: plan.inherited.clone(),
    };
    let failed = |doing| Refused::at::<io::Error>(Step::Other, doing);
    let pair = || {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Refused::at(Step::Other, "cannot make a socket pair"))
    };
    let (control, theirs) = pair()?;
    let (leftovers, removes) = pair()?;
    let terminal = foreground_terminal();
    let mut helper = start_helper(plan, theirs).map_err(failed("cannot start the helper"))?;
    let talked = talk(&config, control.as_fd(), removes, &helper);
    let (device, notes) = match talked {
        Ok(talked) => talked,
        Err(refused) => {
            drop((control, leftovers));
            let _ = helper.wait();
            return Err(refused);
        }
    };
    let mut spawned = Spawned::new(control, leftovers, helper, terminal)
        .map_err(failed("cannot watch the helper"))?;
    spawned.events.extend(notes.into_iter().map(Event::Note));
    Ok((spawned, device))
}

fn start_helper(plan: &Plan, socket: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("linerate").arg(helper::ARGUMENT).arg("--").args(&plan.program);
    if let Some(env) = &plan.env {
        command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    }
    command.stdin(Stdio::from(socket)).spawn()
}

/// The conversation before the start.
fn talk(
    config: &Config,
    control: BorrowedFd<'_>,
    removes: OwnedFd,
    helper: &Child,
) -> Result<(Device, Vec<String>), Refused> {
    let fields = config.encode();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let failed = || Refused::at::<io::Error>(Step::Other, "cannot talk to the helper");
    message::send(control, "config", &fields, Some(removes.as_fd())).map_err(failed())?;
    drop(removes);
    let (mut device, mut netlink) = (None, None);
    let mut notes = Vec::new();
    loop {
        let Some(message) = message::recv(control, true).map_err(failed())? else {
            return Err(Refused::new(Step::Other, "the helper died before the program's start"));
        };
        match message.name.as_str() {
            "map-ids" => {
                write_id_maps(helper.id())?;
                message::send(control, "ids-mapped", &[], None).map_err(failed())?;
            }
            "device" => {
                let made = message.fd.and_then(|fd| Made::decode(&message.fields, fd));
                let made = made.ok_or_else(|| Refused::new(Step::Device, "no device came"))?;
                notes.extend(made.notes.iter().cloned());
                device = Some(made);
            }
            "netlink" => netlink = message.fd,
            "init" => {
                let stdin = io::stdin();
                message::send(control, "config", &fields, Some(stdin.as_fd())).map_err(failed())?;
            }
            "note" => notes.push(message.field(0).to_owned()),
            "ready" => {
                let both = device.zip(netlink);
                let (made, netlink) =
                    both.ok_or_else(|| Refused::new(Step::Device, "no device came"))?;
                let device = Device {
                    fd: made.fd,
                    backend: made.backend,
                    index: made.near.0,
                    mac: made.near.1,
                    far_index: made.far.0,
                    far_mac: made.far.1,
                    netlink,
                };
                return Ok((device, notes));
            }
            "failed" => {
                return Err(Refused::new(Step::from_name(message.field(0)), message.field(1)));
            }
            _ => {}
        }
    }
}

/// The terminal, if this process is in its foreground.
fn foreground_terminal() -> Option<OwnedFd> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .into_iter()
        .find(|fd| tcgetpgrp(fd) == Ok(getpgrp()))
        .and_then(|fd| fd.try_clone_to_owned().ok())
}

impl Spawned {
    fn new(
        control: OwnedFd,
        leftovers: OwnedFd,
        helper: Child,
        terminal: Option<OwnedFd>,
    ) -> io::Result<Spawned> {
        let ours: SigSet = FORWARDED.into_iter().collect();
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ours), Some(&mut mask))?;
        let signals = SignalFd::with_flags(&ours, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let pid = rustix::process::Pid::from_child(&helper);
        let helper_fd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for fd in [control.as_fd(), signals.as_fd(), helper_fd.as_fd()] {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(Spawned {
            control,
            leftovers,
            helper,
            helper_fd,
            signals,
            mask,
            epoll,
            terminal,
            events: VecDeque::new(),
            pid: None,
            exit: None,
            gone: None,
        })
    }

    /// Starts the program. What happens from now on comes from [`Spawned::next_event`].
    ///
    /// # Errors
    /// `EPIPE` if the namespace is gone already.
    pub fn go(&self) -> io::Result<()> {
        message::send(self.control.as_fd(), "go", &[], None)
    }

    /// Has this removed when the namespace or this process ends, even if it is killed. Ask for it
    /// before the thing exists. What was asked for first is removed last.
    ///
    /// # Errors
    /// `InvalidInput` for a path that is not UTF-8, `EPIPE` if the namespace is gone already.
    pub fn remove_at_end(&self, leftover: Leftover<'_>) -> io::Result<()> {
        leftover.send(self.leftovers.as_fd())
    }

    /// Readable when [`Spawned::next_event`] has something to do.
    #[must_use]
    pub fn ready_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// The program's pid as seen here, once it has started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// How the program ended, once it has.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// What happened next, `None` if nothing more has. Also passes signals on to the program, and
    /// stops this process when the program was stopped, so that job control works. Never blocks
    /// otherwise; call it when [`Spawned::ready_fd`] is readable, until it returns `None`.
    ///
    /// # Errors
    /// Those of reading the descriptors; none are expected.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        if self.events.is_empty() && self.gone.is_none() {
            self.read_signals()?;
            self.read_control()?;
            self.read_helper()?;
        }
        Ok(self.events.pop_front())
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// Those of [`Spawned::next_event`]; `UnexpectedEof` after [`Event::Gone`].
    pub fn wait_event(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.next_event()? {
                return Ok(event);
            }
            if self.gone.is_some() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// Ends every process in the namespace and waits until they are gone. Without effect the
    /// second time.
    pub fn kill(&mut self) {
        // The init ends when its socket does, and takes the namespace with it.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
        if self.gone.is_none() {
            // Cannot fail but by a signal, and those are blocked here.
            self.gone = self.helper.wait().ok();
        }
    }

    fn read_signals(&mut self) -> io::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            let number = info.ssi_signo.cast_signed();
            let stops = number == Signal::SIGTSTP as i32 || number == Signal::SIGCONT as i32;
            if self.exit.is_some() {
                let ends = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP];
                if ends.iter().any(|&signal| signal as i32 == number) {
                    self.events.push_back(Event::Interrupted(number));
                } else if stops && number == Signal::SIGTSTP as i32 {
                    self.stop()?;
                }
            } else if sent_by_process(info.ssi_code) {
                let sent =
                    message::send(self.control.as_fd(), "signal", &[&number.to_string()], None);
                // If the init is gone, the next reads tell.
                drop(sent);
            }
        }
        Ok(())
    }

    fn read_control(&mut self) -> io::Result<()> {
        loop {
            match message::recv(self.control.as_fd(), false) {
                Ok(Some(message)) => self.handle_message(&message)?,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The end of the conversation is not the end of the processes: the helper's is.
                Ok(None) => {
                    let _ = self.epoll.delete(&self.control);
                    return Ok(());
                }
                Err(err) => return Err(err),
            }
        }
    }

    fn handle_message(&mut self, message: &Message) -> io::Result<()> {
        match message.name.as_str() {
            "started" => {
                self.pid = message.fd.as_ref().and_then(pid_of);
                self.events.push_back(Event::Started(self.pid));
            }
            "note" => self.events.push_back(Event::Note(message.field(0).to_owned())),
            // What stopped the whole group was perhaps undone for the whole group by now.
            "stopped" if self.pid.is_some_and(|pid| !is_stopped(pid)) => {}
            "stopped" => self.stop()?,
            "exited" => self.ended(Exit::Code(byte(message))),
            "killed" => self.ended(Exit::Signal(byte(message))),
            "drained" => self.events.push_back(Event::Drained),
            "failed" => {
                self.events.push_back(Event::Note(message.field(1).to_owned()));
                self.ended(Exit::Code(1));
            }
            _ => {}
        }
        Ok(())
    }

    fn ended(&mut self, exit: Exit) {
        if self.exit.is_none() {
            self.exit = Some(exit);
            self.take_terminal_back();
            self.events.push_back(Event::Exited(exit));
        }
    }

    fn read_helper(&mut self) -> io::Result<()> {
        let Some(status) = self.helper.try_wait()? else { return Ok(()) };
        // What the init said last may have come between the two reads.
        self.read_control()?;
        self.gone = Some(status);
        // Only a kill from outside ends the init without a word.
        self.ended(Exit::Signal(Signal::SIGKILL as u8));
        self.events.push_back(Event::Gone);
        Ok(())
    }

    /// The program was stopped: so are we, for the shell to see. Returns when continued.
    fn stop(&mut self) -> io::Result<()> {
        raise(Signal::SIGSTOP)?;
        self.events.push_back(Event::Resumed);
        Ok(())
    }

    /// A program that made itself the terminal's foreground group (a shell) has left the terminal
    /// without one: whoever started us expects to find ours there.
    fn take_terminal_back(&self) {
        let Some(terminal) = &self.terminal else { return };
        let abandoned = tcgetpgrp(terminal)
            .is_ok_and(|group| group != getpgrp() && killpg(group, None) == Err(Errno::ESRCH));
        if !abandoned {
            return;
        }
        // From the background the call would stop us, unless SIGTTOU is blocked.
        let mut before = SigSet::empty();
        let quiet = SigSet::from(Signal::SIGTTOU);
        if sigprocmask(SigmaskHow::SIG_BLOCK, Some(&quiet), Some(&mut before)).is_ok() {
            let _ = tcsetpgrp(terminal, getpgrp());
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.kill();
        // A Ctrl-C that ended the program is still pending here; it must not end us as well.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }
}

/// Whether a process is stopped now, as far as `/proc` tells.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything, parentheses too.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// The first field as a byte; the kernel makes no others for statuses and signals.
fn byte(message: &Message) -> u8 {
    message.field(0).parse().unwrap_or(u8::MAX)
}

/// The pid behind a pidfd, in this process's own PID namespace.
fn pid_of(pidfd: &OwnedFd) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok().filter(|&pid| pid > 0)
}

#[cfg(test)]
mod tests {
    use super::super::Inherited;
    use super::*;

    #[test]
    fn impossible_plans_are_refused_before_anything_is_made() {
        let good = Plan::new(vec!["true".into()], Inherited::capture().unwrap());
        assert_eq!(check(&good), Ok(()));
        let bad = [
            Plan { program: Vec::new(), ..good.clone() },
            Plan { program: vec!["".into()], ..good.clone() },
            Plan { device: "a/b".into(), ..good.clone() },
            Plan { device: "sixteen-letters-".into(), ..good.clone() },
            Plan { mtu: 1279, ..good.clone() },
            Plan { mtu: 65536, ..good.clone() },
            Plan { ring_rx: 0, ..good.clone() },
            Plan { hostname: Some(String::new()), ..good.clone() },
        ];
        for plan in bad {
            assert!(matches!(check(&plan), Err(SpawnError::Plan(_))), "{plan:?}");
        }
        assert_eq!(check(&Plan { mtu: 68, v6: None, ..good }), Ok(()));
    }

    #[test]
    fn a_range_is_found_by_name_or_number() {
        let text = "root:1:2\nada:100000:65536\n1001:200000:10\nbob:5:0\nbad line\n";
        assert_eq!(find_range(text, "7", Some("ada")), Some((100_000, 65536)));
        assert_eq!(find_range(text, "1001", None), Some((200_000, 10)));
        assert_eq!(find_range(text, "9", Some("bob")), None);
    }

    #[test]
    fn signals_become_statuses() {
        assert_eq!(Exit::Code(7).code(), 7);
        assert_eq!(Exit::Signal(15).code(), 143);
    }
}
