//! Who waits, and how the clock moves.
//!
//! The clock stands still while anything happens, and moves, from event to event, only when
//! packetdrill waits: it sleeps, waits for a packet, or asks for the time (a microsecond passes, so
//! that a loop that waits for a moment ends). Calls that block do so on a second thread: after every
//! event that thread looks again, and the clock stands until it has, or, if its call is over, until
//! it has read the clock.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use linerate_core::time::{Instant, MS, US};

use crate::Errno;
use crate::calls::Calls;

/// What a thread does that is not packetdrill's main thread.
enum Other {
    /// It waits, until then at most, and has seen so many events.
    Waits { until: Instant, seen: u64 },
    /// Its call is over; it is going to read the clock.
    Returns,
}

struct Inner {
    calls: Calls,
    /// Events so far.
    events: u64,
    others: HashMap<ThreadId, Other>,
    /// Threads that have read the clock after a call, and write down how it went.
    noting: Vec<PathBuf>,
    /// Calls of the main thread so far.
    main_calls: u64,
}

/// When the library's clock began, in microseconds of Unix time: any moment does, the same in every
/// run.
pub(crate) const EPOCH_US: u64 = 1_700_000_000_000_000;

/// The library: one lock around everything, and a place to wait.
pub(crate) struct Library {
    inner: Mutex<Inner>,
    changed: Condvar,
    main: ThreadId,
}

/// A hundred years: what waits longer waits for ever.
const FOR_EVER_MS: u64 = 100 * 365 * 86_400 * 1000;
/// As long as the main thread waits for the second one to look again. What is to come takes
/// microseconds; a thread that never comes is not packetdrill's, and need not hold up the clock.
const PATIENCE: Duration = Duration::from_secs(5);
/// A second thread waits so long before it takes the clock into its own hands: packetdrill's main
/// thread may be waiting for it, outside of the library, and gives up after a second.
const ALONE: Duration = Duration::from_millis(400);

/// How often is looked whether a thread still writes down how its call went.
const NOTING: Duration = Duration::from_micros(200);

/// Whether a thread runs, or is to: not once it waits for the next call.
fn runs(thread: &Path) -> bool {
    let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('R'))
}

type Guard<'a> = MutexGuard<'a, Inner>;

impl Library {
    /// A library for the calling thread, which is packetdrill's main thread.
    pub fn new(calls: Calls) -> Library {
        let (others, noting) = (HashMap::new(), Vec::new());
        let inner = Inner { calls, events: 0, others, noting, main_calls: 0 };
        let main = std::thread::current().id();
        Library { inner: Mutex::new(inner), changed: Condvar::new(), main }
    }

    /// A call that never waits.
    pub fn call<T>(&self, call: impl FnOnce(&mut Calls) -> T) -> T {
        let mut inner = self.enter();
        let result = call(&mut inner.calls);
        self.leave(inner);
        result
    }

    /// A call that waits as long as it says EAGAIN, and for `for_ms` milliseconds at most (`None` =
    /// for ever, 0 = not at all).
    ///
    /// # Errors
    /// EAGAIN once the time is over; EDEADLK if nothing can ever end the wait; the call's own.
    pub fn wait<T>(
        &self,
        for_ms: impl FnOnce(&mut Calls) -> Option<u64>,
        mut call: impl FnMut(&mut Calls) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut inner = self.enter();
        let begun = inner.calls.stack.now();
        let until = for_ms(&mut inner.calls)
            .map_or(Instant::NEVER, |ms| begun.plus(ms.min(FOR_EVER_MS) * MS));
        let result = loop {
            let result = call(&mut inner.calls);
            inner.calls.settle();
            if !matches!(result, Err(libc::EAGAIN)) || inner.calls.stack.now() >= until {
                break result;
            }
            let moved;
            (inner, moved) = self.wait_for_event(inner, until);
            if !moved {
                break Err(libc::EDEADLK);
            }
        };
        self.leave(inner);
        result
    }

    /// Sleeps.
    pub fn sleep(&self, us: u64) {
        let mut inner = self.enter();
        for thread in std::mem::take(&mut inner.noting) {
            let until = std::time::Instant::now() + PATIENCE;
            while runs(&thread) && std::time::Instant::now() < until {
                std::thread::sleep(NOTING);
            }
        }
        let until = inner.calls.stack.now().plus(us * US);
        drop(self.advance(inner, until));
    }

    /// The time. A microsecond passes, unless a call that may have waited has just ended.
    pub fn time(&self) -> Instant {
        let mut inner = self.lock();
        if inner.others.remove(&std::thread::current().id()).is_some() {
            // It wants to know when its call was over.
            self.changed.notify_all();
            inner.noting.extend(std::fs::canonicalize("/proc/thread-self"));
        } else {
            let now = inner.calls.stack.now().plus(US);
            inner = self.advance(inner, now);
        }
        inner.calls.stack.now()
    }

    /// The next packet that leaves, and when it did. `None` if none ever will by itself.
    pub fn next_packet(&self) -> Option<(Instant, Vec<u8>)> {
        let mut inner = self.enter();
        loop {
            if let Some(sent) = inner.calls.stack.sent.pop_front() {
                return Some(sent);
            }
            let next = inner.next_event()?;
            inner = self.advance(inner, next);
        }
    }

    fn is_main(&self) -> bool {
        std::thread::current().id() == self.main
    }

    fn lock(&self) -> Guard<'_> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Guard<'_> {
        let mut inner = self.lock();
        if self.is_main() {
            inner.main_calls += 1;
            inner = self.let_others_look(inner);
        }
        inner.calls.begin();
        inner
    }

    fn leave(&self, mut inner: Guard<'_>) {
        inner.calls.settle();
        inner.events += 1;
        if self.is_main() {
            drop(self.let_others_look(inner));
        } else {
            inner.others.insert(std::thread::current().id(), Other::Returns);
            self.changed.notify_all();
        }
    }

    /// Waits until something has happened, or until then. False if nothing ever will.
    fn wait_for_event<'a>(&'a self, mut inner: Guard<'a>, until: Instant) -> (Guard<'a>, bool) {
        let me = std::thread::current().id();
        if self.is_main() {
            let next = inner.next_event().map_or(until, |next| next.min(until));
            if next == Instant::NEVER {
                return (inner, false);
            }
            return (self.advance(inner, next), true);
        }
        let (seen, calls) = (inner.events, inner.main_calls);
        inner.others.insert(me, Other::Waits { until, seen });
        self.changed.notify_all();
        loop {
            let waited = self.changed.wait_timeout(inner, ALONE);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            inner = guard;
            if inner.events != seen {
                return (inner, true);
            }
            if timeout.timed_out() && inner.main_calls == calls {
                let Some(next) = inner.next_event() else { continue };
                inner.pass(next);
                return (inner, true);
            }
        }
    }

    /// Moves the clock to `until`, from event to event.
    fn advance<'a>(&'a self, mut inner: Guard<'a>, until: Instant) -> Guard<'a> {
        while let Some(next) = inner.next_event().filter(|next| *next <= until) {
            let before = inner.events;
            inner.pass(next);
            inner = self.let_others_look(inner);
            // Whoever waited until then has looked: nothing holds the clock any more.
            debug_assert!(inner.events > before);
        }
        if inner.calls.stack.now() < until {
            inner.calls.stack.pass(until);
            inner.calls.settle();
        }
        inner
    }

    /// The clock stands until every thread has seen what has happened, and those whose call is over
    /// have read it.
    fn let_others_look<'a>(&'a self, mut inner: Guard<'a>) -> Guard<'a> {
        self.changed.notify_all();
        while !inner.others_are_done() {
            let waited = self.changed.wait_timeout(inner, PATIENCE);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            inner = guard;
            if timeout.timed_out() {
                inner.others.retain(|_, other| matches!(other, Other::Waits { .. }));
                break;
            }
        }
        inner
    }
}

impl Inner {
    fn others_are_done(&self) -> bool {
        self.others.values().all(|other| match other {
            Other::Waits { seen, .. } => *seen == self.events,
            Other::Returns => false,
        })
    }

    /// When something happens next: in the stack, or because a thread waits no longer.
    fn next_event(&self) -> Option<Instant> {
        let waits = self.others.values().filter_map(|other| match other {
            Other::Waits { until, .. } => Some(*until).filter(|until| *until != Instant::NEVER),
            Other::Returns => None,
        });
        waits.chain(self.calls.stack.next_timer()).min()
    }

    fn pass(&mut self, to: Instant) {
        self.calls.stack.pass(to);
        self.calls.settle();
        self.events += 1;
    }
}
