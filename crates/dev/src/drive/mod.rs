//! The loop that drives a shard.
//!
//! One turn is: wait, poll the devices within the budget, serve timers, let the application run,
//! transmit. Each part is bounded, so that no load on one starves another: at any overload the
//! loop still delivers what it accepts.
//!
//! | file | what |
//! |---|---|
//! | `irq.rs` | Stage `Irq`: when a queue is polled; coalescing, deferred and suspended interrupts |
//! | `poll.rs` | Stages `Ring` and `Poll`: one pass over all queues and the backlog |
//! | `feedback.rs` | what a pass may take while readers can not keep up |
//! | `xmit.rs` | transmit, and what comes back from it |
//! | `queues.rs` | the queues of the loop: adding, removing, their settings |
//! | `shards.rs` | mail from other shards, and connections that come and go |
//! | `dim.rs` | moderation, fixed or following the load |
//! | `clock.rs` | the loop's clock: the machine's, or a test's |

mod clock;
mod dim;
mod feedback;
mod irq;
mod poll;
mod queues;
mod shards;
mod xmit;

pub use clock::{VirtualClock, clock_ns};
pub use queues::Coalesce;

use std::any::Any;
use std::io;
use std::num::NonZeroU64;
use std::time::Instant as Wall;

use linerate_core::path;
use linerate_core::pkt::{Batch, Pkt};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::{Reason, Stage};
use linerate_core::time::{Instant, MS, US};

use crate::poller::{Event, Poller};
use clock::LoopClock;
use feedback::Feedback;
use irq::Napi;
use queues::Slot;

/// Tokens from here on belong to the loop: its devices. An application uses those below.
pub const DEVICE_TOKENS: u64 = 1 << 63;

/// What runs on top of a shard, in the same thread.
pub trait App {
    /// Its part of a turn: host descriptors that are ready, and the shard's events. It must not
    /// wait, and should bound its work. Returns whether it has more to do at once.
    ///
    /// # Errors
    /// What it can not go on after; the loop ends with it.
    fn turn(&mut self, shard: &mut Shard, poller: &Poller, ready: &[Event]) -> io::Result<bool>;

    /// A connection of its moves to another shard: what the application knows of it, to be handed
    /// to [`App::arrive`] there. `None`: the application knows nothing of it, or it may not move.
    fn leave(&mut self, _socket: SocketId) -> Option<Box<dyn Any + Send>> {
        None
    }

    /// A connection came from another shard, with what the application there knew of it.
    fn arrive(&mut self, _shard: &mut Shard, _socket: SocketId, _state: Box<dyn Any + Send>) {}

    /// When it wants a turn even if nothing happens.
    fn next_timer(&self) -> Option<Instant> {
        None
    }
}

/// Sees every packet as it passes between device and stack (`--pcap`).
pub trait Tap {
    /// A packet came in by device `dev`, or is about to leave by it (`outbound`).
    fn packet(&mut self, dev: u8, pkt: &Pkt, outbound: bool, now: Instant);
}

/// Drives one shard from its devices.
pub struct Drive {
    /// The stack.
    pub shard: Shard,
    /// What the loop waits on; an application adds its descriptors here.
    pub poller: Poller,
    /// Sees all packets, if set.
    pub tap: Option<Box<dyn Tap>>,
    slots: Vec<Slot>,
    batch: Batch,
    ready: Vec<Event>,
    dropped: Vec<(Pkt, Reason)>,
    clock: LoopClock,
    last_work: Instant,
    /// Nanoseconds that the next wait looks before it sleeps.
    halt_poll: u64,
    /// Which queue is polled first; the backlog is the one behind the last.
    first: usize,
    /// Packets that it has had of its turn already, in the pass before.
    spent: usize,
    feedback: Feedback,
    /// This turn polls every queue, interrupt or not.
    polling: bool,
    app_busy: bool,
    /// The kernel wakes this thread when it asked to be.
    punctual: bool,
    /// Nanoseconds by which the clock jumped (suspend, SIGSTOP) and which the stack does not see.
    paused: u64,
    last_now: Instant,
}

/// A gap between two turns that is longer than any wait asked for, by this much, is a pause of the
/// whole process or machine, not a storm of time-outs.
const PAUSE: u64 = 2_000_000_000;

/// The shortest look before a sleep, in nanoseconds.
const HALT_POLL_MIN: u64 = 10_000;

impl Drive {
    /// A loop around `shard`, with no devices yet. Stages are timed.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new(mut shard: Shard) -> io::Result<Drive> {
        shard.net.clock = Some(clock_ns);
        Drive::on(shard, LoopClock::Wall(Wall::now()))
    }

    /// A loop whose time is `clock`. It never sleeps: a wait moves the clock. For tests.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn with_clock(shard: Shard, clock: VirtualClock) -> io::Result<Drive> {
        Drive::on(shard, LoopClock::Virtual(clock))
    }

    fn on(shard: Shard, clock: LoopClock) -> io::Result<Drive> {
        Ok(Drive {
            shard,
            poller: Poller::new(256)?,
            tap: None,
            slots: Vec::new(),
            batch: Batch::new(),
            ready: Vec::new(),
            dropped: Vec::new(),
            clock,
            last_work: Instant::ZERO,
            halt_poll: 0,
            first: 0,
            spent: 0,
            feedback: Feedback::new(),
            polling: false,
            app_busy: false,
            punctual: false,
            paused: 0,
            last_now: Instant::ZERO,
        })
    }

    /// Whether a pass takes less while the application can not keep up and packets are lost at
    /// full socket queues: on, unless somebody measures what that is good for.
    pub fn set_feedback(&mut self, on: bool) {
        self.feedback.on = on;
    }

    /// The time of the loop, pauses left out.
    fn now(&mut self, slept: u64) -> Instant {
        let raw = self.clock.ns();
        let mut now = Instant::from_ns(raw - self.paused.min(raw));
        let gap = now.since(self.last_now);
        if gap > slept.saturating_add(PAUSE) && slept != u64::MAX {
            self.paused += gap - slept;
            now = self.last_now.plus(slept);
        }
        self.last_now = now.max(self.last_now);
        self.last_now
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// A device is gone, or the application gave up.
    pub fn turn(&mut self, app: &mut dyn App) -> io::Result<()> {
        let mut timeout = self.timeout(app);
        if timeout != Some(0) && !self.mail_lets_sleep() {
            timeout = Some(0);
        }
        for (at, slot) in self.slots.iter_mut().enumerate() {
            slot.mask(at, &self.poller, timeout != Some(0))?;
        }
        self.ready.clear();
        self.wait(timeout)?;
        self.set_awake();
        let now = self.now(timeout.unwrap_or(u64::MAX));
        self.shard.net.now = now;
        self.polling = self.busy(now);
        self.follow_knobs(now);
        self.note_devices(now);
        let mut work = self.net_rx_action(now)?;
        self.ask_devices(now);
        path::timers(&mut self.shard, now);
        self.set_rules();
        self.hand_over_arrived(app);
        self.app_busy = app.turn(&mut self.shard, &self.poller, &self.ready)?;
        let net = &self.shard.net;
        let dropped = net.counts.flow(Stage::SockQueue).read().dropped;
        self.feedback.learn(self.app_busy, dropped, net.knobs.netdev_budget as usize);
        path::transmit(&mut self.shard, &mut self.batch);
        work |= self.net_tx_action(now)?;
        self.let_leave(app);
        if work || self.app_busy {
            self.last_work = now;
        }
        Ok(())
    }

    /// Waits for something to do. Where the last waits were short, it looks for a moment before it
    /// sleeps: a wake-up across cores costs more than the wait itself (as the haltpoll governor of
    /// `drivers/cpuidle/governors/haltpoll.c` does for idle guests).
    fn wait(&mut self, timeout: Option<u64>) -> io::Result<()> {
        if let LoopClock::Virtual(clock) = &self.clock {
            self.ready.extend(self.poller.wait(Some(0))?);
            if self.ready.is_empty() {
                clock.advance(timeout.unwrap_or(0));
            }
            return Ok(());
        }
        let most = self.shard.net.knobs.guest_halt_poll_ns.min(timeout.unwrap_or(u64::MAX));
        if most == 0 {
            self.ready.extend(self.poller.wait(timeout)?);
            return Ok(());
        }
        self.wake_in_time();
        let begun = clock_ns();
        let spin = self.halt_poll.min(most);
        let mut waited = 0;
        while waited < spin && self.ready.is_empty() {
            self.ready.extend(self.poller.wait(Some(0))?);
            waited = clock_ns() - begun;
        }
        if !self.ready.is_empty() {
            return Ok(());
        }
        let rest = timeout.map(|t| t.saturating_sub(waited));
        self.ready.extend(self.poller.wait(rest)?);
        // The wait was longer than the spin. Had a longer spin met it, spin longer; else give up soon.
        let waited = clock_ns() - begun;
        let limit = self.shard.net.knobs.guest_halt_poll_ns;
        self.halt_poll = if waited <= limit {
            // A spin that a timer cut short says nothing of longer ones: it never grows past the limit.
            self.halt_poll.saturating_mul(2).max(HALT_POLL_MIN).min(limit)
        } else if self.halt_poll <= HALT_POLL_MIN {
            0
        } else {
            self.halt_poll / 2
        };
        Ok(())
    }

    /// Asks the kernel not to put this thread's timers off: by default it does by 50 µs, which is
    /// longer than most waits for more packets. A loop stays on the thread that first drives it.
    fn wake_in_time(&mut self) {
        if !self.punctual {
            // Late timers do no harm but lateness.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            self.punctual = true;
        }
    }

    /// How long the next wait may last: not at all while anything is left to do.
    fn timeout(&self, app: &dyn App) -> Option<u64> {
        let net = &self.shard.net;
        let scheduled = self.slots.iter().any(|s| s.napi == Napi::Scheduled);
        let waiting = self.shard.has_backlog() || !net.events.is_empty();
        if scheduled || self.app_busy || waiting || self.busy(self.last_now) {
            return Some(0);
        }
        let now = self.last_now;
        let looks = self.slots.iter().flat_map(|s| [s.next_look(now), s.next_clean(now)]).flatten();
        let asks = self.slots.iter().filter(|s| s.unasked).map(|s| s.asked.plus(poll::ASK_NS));
        let leaving = self.shard.rfs_pending().then(|| now.plus(MS));
        let next = [path::next_timer(&self.shard), app.next_timer(), leaving].into_iter().flatten();
        Some(next.chain(looks).chain(asks).min()?.since(now))
    }

    /// Whether the loop looks at its queues without waiting for their interrupts.
    fn busy(&self, now: Instant) -> bool {
        let net = &self.shard.net;
        let busy_poll = net.knobs.busy_poll;
        // After work, or because a reader found nothing and would rather look than sleep.
        busy_poll != 0 && now.since(self.last_work) < busy_poll * US || now < net.busy_read_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop that looks before it sleeps comes to do so when its waits are short; one that may
    /// not, never does.
    #[test]
    fn knob_haltpoll_guest_halt_poll_ns() {
        for (value, looks) in [("0", false), ("10000000", true)] {
            let mut drive = Drive::new(Shard::new(1)).expect("a poller");
            drive.shard.set_knob("haltpoll.guest_halt_poll_ns", value).expect("in range");
            // A busy machine may make a short wait long, but not each of so many.
            let came = (0..1000).any(|_| {
                drive.wait(Some(1000)).expect("a wait");
                drive.halt_poll > 0
            });
            assert_eq!(came, looks, "{value}");
        }
    }

    /// Timers that are due sooner than the limit end one look after the other: however many do, the next
    /// is no longer than the limit.
    #[test]
    fn a_look_never_grows_past_its_limit() {
        let mut drive = Drive::new(Shard::new(1)).expect("a poller");
        drive.shard.set_knob("haltpoll.guest_halt_poll_ns", "10000000").expect("in range");
        for _ in 0..1000 {
            drive.wait(Some(1000)).expect("a wait");
            assert!(drive.halt_poll <= 10_000_000, "{}", drive.halt_poll);
        }
    }
}
