//! Waiting: epoll with 64-bit tokens, and a waker that any thread may ring.
//!
//! Readiness is what an interrupt is to the kernel. A wait is exact to the
//! nanosecond clock of the kernel: a wait with a finite time uses `ppoll` on the epoll descriptor
//! (which is itself pollable), because `epoll_wait` counts milliseconds and `epoll_pwait2` is
//! refused by many containers' seccomp filters. Linux: fs/eventpoll.c.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The token that [`Waker::wake`] is reported by. No descriptor may be added with it.
pub const WAKER: u64 = u64::MAX;

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Something can be read, or the peer closed.
    pub read: bool,
    /// Something can be written.
    pub write: bool,
    /// Report a change once, and not as long as it lasts (`EPOLLET`).
    pub edge: bool,
}

impl Interest {
    /// Readable, level-triggered.
    pub const READ: Interest = Interest { read: true, write: false, edge: false };
    /// Writable, level-triggered.
    pub const WRITE: Interest = Interest { read: false, write: true, edge: false };
    /// Both, level-triggered.
    pub const READ_WRITE: Interest = Interest { read: true, write: true, edge: false };
    /// Nothing but errors and hang-ups, which epoll always reports.
    pub const NONE: Interest = Interest { read: false, write: false, edge: false };

    /// The same, edge-triggered.
    #[must_use]
    pub const fn edge(self) -> Interest {
        Interest { edge: true, ..self }
    }

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        if self.read {
            flags |= EventFlags::IN | EventFlags::RDHUP;
        }
        if self.read && self.edge {
            flags |= EventFlags::PRI;
        }
        if self.write {
            flags |= EventFlags::OUT;
        }
        if self.edge {
            flags |= EventFlags::ET;
        }
        flags
    }
}

/// One ready descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The token it was added with.
    pub token: u64,
    /// `EPOLLIN`: reading gives something.
    pub readable: bool,
    /// `EPOLLOUT`: writing takes something.
    pub writable: bool,
    /// `EPOLLERR`: an error waits to be collected.
    pub error: bool,
    /// `EPOLLHUP`: both directions are closed.
    pub hangup: bool,
    /// `EPOLLRDHUP`: the peer will send no more.
    pub read_closed: bool,
    /// `EPOLLPRI`: urgent data came, and reading stops once before it even if more is there. Only
    /// where changes are reported.
    pub urgent: bool,
}

/// An epoll instance with its waker.
pub struct Poller {
    epoll: OwnedFd,
    waker: Waker,
    /// Reused by every wait; its capacity is the most events one wait reports.
    buf: Vec<epoll::Event>,
}

impl Poller {
    /// Makes one that reports at most `events_max` (at least 1) descriptors a wait.
    ///
    /// # Errors
    /// `EMFILE`/`ENFILE` without descriptors.
    pub fn new(events_max: usize) -> io::Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        // Level-triggered: a wake-up that nobody has drained yet is not lost.
        epoll::add(&epoll, &fd, EventData::new_u64(WAKER), EventFlags::IN)?;
        let buf = Vec::with_capacity(events_max.max(1));
        Ok(Poller { epoll, waker: Waker(Arc::new(fd)), buf })
    }

    /// Starts to watch `fd`. It must stay open until [`Poller::delete`].
    ///
    /// # Errors
    /// `EEXIST` if it is watched already, `EPERM` for a plain file, `EINVAL` for the token
    /// [`WAKER`].
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        if token == WAKER {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what `fd` is watched for.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        if token == WAKER {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Stops to watch `fd`.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// A handle that ends a wait from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits until something is ready, at most `timeout_ns` nanoseconds (`None`: for ever, 0: not
    /// at all), and returns the ready descriptors. A signal ends the wait with none.
    /// [`WAKER`] among them means a wake-up; its count is taken here.
    ///
    /// # Errors
    /// Those of epoll itself, which are bugs in the caller; never `EINTR`.
    pub fn wait(
        &mut self,
        timeout_ns: Option<u64>,
    ) -> io::Result<impl ExactSizeIterator<Item = Event> + '_> {
        self.buf.clear();
        match self.fill(timeout_ns) {
            Ok(()) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
        if self.buf.iter().any(|e| e.data.u64() == WAKER) {
            self.waker.drain();
        }
        Ok(self.buf.iter().map(|e| {
            let flags = e.flags;
            Event {
                token: e.data.u64(),
                readable: flags.contains(EventFlags::IN),
                writable: flags.contains(EventFlags::OUT),
                error: flags.contains(EventFlags::ERR),
                hangup: flags.contains(EventFlags::HUP),
                read_closed: flags.contains(EventFlags::RDHUP),
                urgent: flags.contains(EventFlags::PRI),
            }
        }))
    }

    fn fill(&mut self, timeout_ns: Option<u64>) -> rustix::io::Result<()> {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = match timeout_ns {
            None => None,
            Some(0) => Some(&NOW),
            Some(ns) => {
                let limit = Timespec {
                    tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
                    tv_nsec: (ns % 1_000_000_000) as _,
                };
                let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
                if rustix::event::poll(&mut fds, Some(&limit))? == 0 {
                    return Ok(());
                }
                Some(&NOW)
            }
        };
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.buf), timeout)?;
        Ok(())
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl AsFd for Poller {
    /// The epoll descriptor: readable when something is ready, so pollers nest.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Ends a [`Poller::wait`] from any thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Ends the current wait, or the next one if none is under way. Many calls are one wake-up.
    pub fn wake(&self) {
        // EAGAIN means that the count is full, so the poller is awake or about to be: nothing is
        // lost. No other error can come from an eventfd that is open.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    fn drain(&self) {
        let mut count = [0u8; 8];
        // EAGAIN means that somebody else drained it: nothing to do.
        let _ = rustix::io::read(&*self.0, &mut count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn ready(poller: &mut Poller, timeout_ns: Option<u64>) -> Vec<Event> {
        poller.wait(timeout_ns).unwrap().collect()
    }

    #[test]
    fn level_stays_until_read_and_edge_comes_once() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let mut poller = Poller::new(8).unwrap();
        poller.add(&b, 7, Interest::READ).unwrap();
        assert!(ready(&mut poller, Some(0)).is_empty());
        a.write_all(b"x").unwrap();
        for _ in 0..2 {
            let events = ready(&mut poller, None);
            assert_eq!((events.len(), events[0].token, events[0].readable), (1, 7, true));
        }
        poller.modify(&b, 7, Interest::READ.edge()).unwrap();
        assert_eq!(ready(&mut poller, Some(0)).len(), 1);
        assert!(ready(&mut poller, Some(0)).is_empty());
        b.read_exact(&mut [0]).unwrap();
        drop(a);
        let events = ready(&mut poller, None);
        assert!(events[0].read_closed && events[0].hangup);
        poller.delete(&b).unwrap();
        assert!(ready(&mut poller, Some(0)).is_empty());
    }

    #[test]
    fn a_wake_from_another_thread_ends_a_wait_without_limit() {
        let mut poller = Poller::new(1).unwrap();
        let waker = poller.waker();
        let thread = std::thread::spawn(move || (0..3).for_each(|_| waker.wake()));
        assert_eq!(ready(&mut poller, None)[0].token, WAKER);
        thread.join().unwrap();
        // Later wakes are still there to be seen once; then it is quiet again.
        ready(&mut poller, Some(0));
        assert!(ready(&mut poller, Some(0)).is_empty());
    }

    #[test]
    fn a_timed_wait_does_not_end_early() {
        let mut poller = Poller::new(1).unwrap();
        for ns in [1u64, 300_000, 3_000_001] {
            let start = std::time::Instant::now();
            assert!(ready(&mut poller, Some(ns)).is_empty());
            assert!(start.elapsed().as_nanos() >= u128::from(ns));
        }
    }

    #[test]
    fn the_wakers_token_is_refused() {
        let (a, _b) = UnixStream::pair().unwrap();
        let poller = Poller::new(1).unwrap();
        assert!(poller.add(&a, WAKER, Interest::READ).is_err());
    }
}
