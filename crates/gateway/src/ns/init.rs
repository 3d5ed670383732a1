//! The init: PID 1 of the program's PID namespace (or a subreaper where there is none). It mounts
//! what the namespace needs, starts the program, passes signals on, reaps, and ends when the parent
//! is gone, which ends everything in the namespace.

use super::cover::Covers;
use super::exec::{self, Orders};
use super::message::{self, Message};
use super::mounts;
use super::plan::{Config, IdMap};
use super::refused::{Refused, Step};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpgrp, getpid};
use rustix::process::{PidfdFlags, WaitOptions, WaitStatus};
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// First argument that makes our binary the init.
pub(super) const ARGUMENT: &str = "__ns-init";

/// How often the sockets that the program left behind are looked at, in milliseconds.
const DRAIN_POLL_MS: u16 = 10;

/// A signal that we received as well as the parent was sent to the whole process group, if no more
/// than this lies between the two.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// How long the parent's request waits for our own copy of a signal to arrive, in milliseconds.
const GROUP_SIGNAL_WAIT_MS: u16 = 5;

/// Runs the init to its end.
pub(super) fn main(program: &[OsString]) -> ExitCode {
    let Ok(control) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::from(2);
    };
    let quiet = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    if quiet.and(prctl::set_name(c"linerate-init")).is_err() {
        return ExitCode::from(2);
    }
    let received = match message::recv(control.as_fd(), true) {
        Ok(Some(Message { name, fields, fd: Some(stdin), .. })) if name == "config" => {
            Config::decode(&fields).map(|config| (config, stdin))
        }
        _ => None,
    };
    let Some((config, stdin)) = received else {
        return ExitCode::from(2);
    };
    let run = || -> Result<(), Refused> {
        let covers = prepare(&config, &control)?;
        wait_for_go(&control)?;
        let mut init =
            Init::start(&config, control.try_clone().map_err(other)?, stdin, covers, program)?;
        init.run();
        Ok(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refused { step, why }) => {
            let _ = message::send(control.as_fd(), "failed", &[step.name(), &why], None);
            ExitCode::FAILURE
        }
    }
}

fn other(err: impl std::fmt::Display) -> Refused {
    Refused::new(Step::Other, format!("cannot start the program: {err}"))
}

/// Mounts and settings, up to the point where the program could start.
fn prepare(config: &Config, control: &OwnedFd) -> Result<Covers, Refused> {
    if config.pid_namespace {
        // Later we kill every process we can see.
        assert_eq!(getpid().as_raw(), 1, "the init of a PID namespace is its first process");
        // Without a PID namespace this would end us before we have ended the others: there, only
        // the closed socket tells that the parent is gone.
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(other)?;
    } else {
        prctl::set_child_subreaper(true).map_err(other)?;
    }
    let store = mounts::proc_over_store(config.pid_namespace, &config.resolv_conf)?;
    let mut notes = mounts::fresh_sys();
    let (covers, lost) = Covers::lay(store, &config.resolv_conf).map_err(other)?;
    notes.extend(lost);
    notes.extend(loosen(config.ids));
    for note in notes {
        message::send(control.as_fd(), "note", &[&note], None).map_err(other)?;
    }
    // Our capabilities are not for the program, which runs under the same uid.
    prctl::set_dumpable(false).map_err(other)?;
    message::send(control.as_fd(), "ready", &[], None).map_err(other)?;
    Ok(covers)
}

/// Lets a user bind low ports and open ping sockets, as root could on the host.
fn loosen(ids: IdMap) -> Option<String> {
    let (ports, pings) = match ids {
        IdMap::Host => (None, "0 2147483647".to_owned()),
        IdMap::Own { gid, .. } => (Some("0"), format!("{gid} {gid}")),
        IdMap::Sub { ids } => (Some("0"), format!("0 {}", ids.saturating_sub(1))),
    };
    let ports = ports
        .map_or(Ok(()), |ports| fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", ports));
    let pings = fs::write("/proc/sys/net/ipv4/ping_group_range", pings);
    let err = ports.and(pings).err()?;
    Some(format!(
        "ports below 1024 or ping may be refused inside: /proc/sys cannot be written: {err}"
    ))
}

fn wait_for_go(control: &OwnedFd) -> Result<(), Refused> {
    match message::recv(control.as_fd(), true).map_err(other)? {
        Some(message) if message.name == "go" => Ok(()),
        _ => Err(Refused::new(Step::Other, "the parent gave up")),
    }
}

/// What the running init holds.
struct Init {
    control: OwnedFd,
    signals: SignalFd,
    covers: Covers,
    pid_namespace: bool,
    program: Child,
    /// The program ended; its sockets may still have to send.
    ended: bool,
    /// When each signal last reached us from a process, which means: the whole group.
    group_signals: [Option<Instant>; 32],
    /// The parent is gone or has had enough.
    done: bool,
}

impl Init {
    fn start(
        config: &Config,
        control: OwnedFd,
        stdin: OwnedFd,
        covers: Covers,
        program: &[OsString],
    ) -> Result<Init, Refused> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&SigSet::all(), flags).map_err(other)?;
        let orders = Orders {
            inherited: config.inherited.clone(),
            drop_capabilities: matches!(config.ids, IdMap::Own { .. }),
            tied: !config.pid_namespace,
        };
        let program = Command::new("/proc/self/exe")
            .arg0("linerate")
            .args([exec::ARGUMENT, &orders.encode(), "--"])
            .args(program)
            .stdin(Stdio::from(stdin))
            .spawn()
            .map_err(other)?;
        let pid = rustix::process::Pid::from_child(&program);
        // Kernels before 5.3 have no pidfd: then the parent does without the program's pid.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        message::send(control.as_fd(), "started", &[], pidfd.as_ref().map(AsFd::as_fd))
            .map_err(other)?;
        Ok(Init {
            control,
            signals,
            covers,
            pid_namespace: config.pid_namespace,
            program,
            ended: false,
            group_signals: [None; 32],
            done: false,
        })
    }

    /// Serves until the parent is gone.
    fn run(&mut self) {
        while !self.done {
            let timeout =
                if self.ended { PollTimeout::from(DRAIN_POLL_MS) } else { PollTimeout::NONE };
            let mut fds = [
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.covers.mount_table(), PollFlags::POLLPRI),
                PollFd::new(self.covers.directories(), PollFlags::POLLIN),
            ];
            if poll(&mut fds, timeout).is_err() {
                continue;
            }
            let ready = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            let [control, signals, mounts, directories] = ready;
            if signals {
                self.read_signals();
            }
            if control {
                self.read_control();
            }
            if mounts || directories {
                for note in self.covers.check() {
                    self.tell("note", &[&note]);
                }
            }
            if self.ended && drained() {
                self.tell("drained", &[]);
                self.ended = false;
            }
        }
        self.kill_all();
    }

    fn tell(&mut self, name: &str, fields: &[&str]) {
        if message::send(self.control.as_fd(), name, fields, None).is_err() {
            self.done = true;
        }
    }

    fn read_control(&mut self) {
        let message = match message::recv(self.control.as_fd(), false) {
            Ok(Some(message)) => message,
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => return,
            Ok(None) | Err(_) => {
                self.done = true;
                return;
            }
        };
        if message.name == "signal"
            && let Some(signal) = message.number(0).and_then(|n| Signal::try_from(n).ok())
        {
            self.forward(signal);
        }
    }

    /// Passes a signal that a process sent to the parent on to the program, unless it was sent to
    /// the whole process group and the program has it already.
    fn forward(&mut self, signal: Signal) {
        let program = Pid::from_raw(self.program.id().cast_signed());
        if nix::unistd::getpgid(Some(program)) == Ok(getpgrp()) {
            if !self.seen_by_group(signal) {
                let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, PollTimeout::from(GROUP_SIGNAL_WAIT_MS));
                self.read_signals();
            }
            if self.seen_by_group(signal) {
                self.group_signals[signal as usize] = None;
                return;
            }
        }
        // A program that ended meanwhile needs no signal.
        let _ = kill(program, signal);
    }

    fn seen_by_group(&self, signal: Signal) -> bool {
        self.group_signals[signal as usize].is_some_and(|at| at.elapsed() < SAME_SIGNAL)
    }

    fn read_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let index = info.ssi_signo as usize;
            if let Some(at) = self.group_signals.get_mut(index)
                && super::sent_by_process(info.ssi_code)
            {
                *at = Some(Instant::now());
            }
        }
        self.reap();
    }

    /// Reaps every child there is, the program and what it left behind.
    fn reap(&mut self) {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Ok(Some((pid, status))) = rustix::process::wait(options) {
            if pid != rustix::process::Pid::from_child(&self.program) {
                continue;
            }
            if let Some(signal) = status.stopping_signal() {
                self.tell("stopped", &[&signal.to_string()]);
            } else {
                self.program_ended(status);
            }
        }
    }

    fn program_ended(&mut self, status: WaitStatus) {
        self.kill_all();
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => self.tell("exited", &[&code.to_string()]),
            (None, Some(signal)) => self.tell("killed", &[&signal.to_string()]),
            (None, None) => return,
        }
        self.ended = true;
    }

    /// Kills every process but this one, and reaps them.
    fn kill_all(&mut self) {
        if self.pid_namespace {
            // Nobody left to kill is fine.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            while rustix::process::wait(WaitOptions::empty()).is_ok() {}
            return;
        }
        // Without a PID namespace only children can be killed without the danger of hitting a
        // stranger; what a dead child leaves behind becomes ours, and is killed in the next turn.
        loop {
            let children = children();
            for &child in &children {
                let _ = kill(child, Signal::SIGKILL);
            }
            if children.is_empty() || rustix::process::wait(WaitOptions::empty()).is_err() {
                return;
            }
        }
    }
}

/// The children of this process.
fn children() -> Vec<Pid> {
    let path = format!("/proc/self/task/{}/children", getpid());
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// No TCP socket of this network namespace has anything left to send, or to have acknowledged.
fn drained() -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().all(|path| {
        fs::read_to_string(path).is_ok_and(|table| !has_unsent(&table))
            || !fs::exists(path).unwrap_or(false)
    })
}

/// Whether a socket in a `/proc/net/tcp` table has a send queue, or waits for its FIN to be
/// acknowledged.
fn has_unsent(table: &str) -> bool {
    /// `TCP_SYN_SENT`, `TCP_TIME_WAIT`, `TCP_CLOSE` and `TCP_LISTEN` have nothing to deliver; in
    /// the last the column is the length of the accept queue.
    const NOTHING_TO_SEND: [&str; 4] = ["02", "06", "07", "0A"];
    /// `TCP_FIN_WAIT1`, `TCP_LAST_ACK`, `TCP_CLOSING`.
    const FIN_UNDER_WAY: [&str; 3] = ["04", "09", "0B"];
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(3);
        let (Some(state), Some(queues)) = (words.next(), words.next()) else { return false };
        let unsent =
            queues.split(':').next().is_some_and(|tx| tx.bytes().any(|digit| digit != b'0'));
        !NOTHING_TO_SEND.contains(&state) && (unsent || FIN_UNDER_WAY.contains(&state))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_with_something_to_deliver_hold_the_namespace() {
        let line = |state: &str, tx: &str| {
            format!(
                "sl local rem st\n 0: 0100007F:0016 00000000:0000 {state} {tx}:00000000 00:00 0 0\n"
            )
        };
        for (state, tx, expect) in [
            ("01", "00000000", false),
            ("01", "000005A8", true),
            ("04", "00000000", true),
            ("06", "00000001", false),
            ("08", "00000001", true),
            ("0A", "00000005", false),
        ] {
            assert_eq!(has_unsent(&line(state, tx)), expect, "{state} {tx}");
        }
        assert!(!has_unsent(""));
    }
}
