//! The program once it is started: its signals, its events and its end.

use super::leftover::Leftover;
use super::message::{self, Message};
use super::sent_by_process;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{getpgrp, tcgetpgrp, tcsetpgrp};
use rustix::process::PidfdFlags;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};

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

impl Spawned {
    pub(super) fn new(
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

    /// Has the user see a sentence, after those before it.
    pub(super) fn note(&mut self, note: String) {
        self.events.push_back(Event::Note(note));
    }

    /// The same, before all others.
    pub(super) fn note_first(&mut self, note: String) {
        self.events.push_front(Event::Note(note));
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

/// The terminal, if this process is in its foreground.
pub(super) fn foreground_terminal() -> Option<OwnedFd> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .into_iter()
        .find(|fd| tcgetpgrp(fd) == Ok(getpgrp()))
        .and_then(|fd| fd.try_clone_to_owned().ok())
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
    use super::*;

    #[test]
    fn signals_become_statuses() {
        assert_eq!(Exit::Code(7).code(), 7);
        assert_eq!(Exit::Signal(15).code(), 143);
    }
}
