//! Stage `Irq`: when a queue is polled, and what makes the loop do so.
//!
//! before: the device's readiness   after: [`super::poll`]
//! Linux:  net/core/dev.c `napi_schedule`, `napi_complete_done`, `napi_watchdog`,
//!         `napi_suspend_irqs`; the drivers' interrupt moderation
//!
//! An interrupt is readiness that the poller reports. While it is off nothing is asked of the
//! kernel for it: the poller is told only when the loop is about to sleep, so that a queue under
//! load, whose interrupt goes on and off all the time, costs no system call for that.
//!
//! ```text
//!            readiness                     time over, or rx-frames wait
//!   Armed ───────────────► Coalescing ───────────────────────────────► Scheduled ◄─┐ a whole
//!     ▲  └─────────────────── rx-usecs is 0 ──────────────────────────►    │  └─────┘ weight
//!     │                                                                    ▼ less than that
//!     ├──────── no empty poll is left of napi_defer_hard_irqs ──────── complete
//!     │                                                                 │     │ packets, while
//!     │           gro_flush_timeout is over: Scheduled                  ▼     ▼ busy polling
//!     └───────────────────────────────────────────────────────── Deferred ◄─ Suspended
//!                                                                      an empty poll
//! ```

use std::io;

use linerate_core::table::{Counts, Knobs, count::id};
use linerate_core::time::{Instant, US};

use super::queues::Slot;
use super::{DEVICE_TOKENS, Drive};
use crate::poller::{Event, Interest, Poller, WAKER};

/// Where a queue stands between its interrupt and its poll (Linux: the bits of
/// `napi_struct.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Napi {
    /// The interrupt is on.
    Armed,
    /// It came; until then more may come.
    Coalescing(Instant),
    /// The queue is on the poll list, and the interrupt off.
    Scheduled,
    /// The interrupt stays off; a timer polls then.
    Deferred(Instant),
    /// Busy polling looks after the queue; if it does not until then, a timer polls.
    Suspended(Instant),
}

/// The shortest time between two looks at a ring that fills, in nanoseconds.
const LOOK_MIN: u64 = US;

impl Slot {
    /// The interrupt came (`napi_schedule`), or waits for more to come.
    fn napi_schedule(&mut self, now: Instant, counts: &Counts) {
        let (usecs, frames) = (self.rx_moder.usecs, self.rx_moder.frames);
        if usecs == 0 || self.enough(frames) {
            return self.interrupt(counts);
        }
        counts.inc(id::IrqCoalesced);
        self.napi = Napi::Coalescing(now.plus(usecs * US));
    }

    fn interrupt(&mut self, counts: &Counts) {
        counts.inc(id::IrqRx);
        self.rx_moder.event();
        self.napi = Napi::Scheduled;
        self.by_irq = true;
    }

    /// Whether as many packets wait as end the wait for more.
    fn enough(&self, frames: u64) -> bool {
        frames > 0 && self.dev.rx_pending().is_some_and(|n| n as u64 >= frames)
    }

    /// Schedules what a timer, or the number of waiting packets, makes due (`napi_watchdog`).
    #[inline]
    pub(super) fn watchdog(&mut self, now: Instant, counts: &Counts) {
        match self.napi {
            Napi::Armed | Napi::Scheduled => {}
            Napi::Coalescing(until) => {
                if now >= until || self.enough(self.rx_moder.frames) {
                    self.interrupt(counts);
                }
            }
            Napi::Deferred(at) | Napi::Suspended(at) => {
                if now >= at {
                    counts.inc(id::IrqDeferred);
                    self.napi = Napi::Scheduled;
                    self.by_irq = true;
                }
            }
        }
    }

    /// A poll took less than it might: the queue leaves the poll list, and its interrupt goes on
    /// again unless something else will look at the queue (`napi_complete_done`). An empty poll
    /// uses up one of those that `napi_defer_hard_irqs` allows.
    pub(super) fn napi_complete_done(
        &mut self,
        got: usize,
        now: Instant,
        knobs: &Knobs,
        counts: &Counts,
    ) {
        if got > 0 {
            self.defer_left = knobs.napi_defer_hard_irqs;
            if knobs.irq_suspend_timeout > 0 && knobs.busy_poll > 0 {
                counts.inc(id::IrqSuspended);
                self.napi = Napi::Suspended(now.plus(knobs.irq_suspend_timeout));
                return;
            }
        }
        // Without a timer nobody would look again, however many polls were allowed.
        if self.defer_left > 0 && knobs.gro_flush_timeout > 0 {
            self.defer_left -= 1;
            self.napi = Napi::Deferred(now.plus(knobs.gro_flush_timeout));
            return;
        }
        self.napi = Napi::Armed;
    }

    /// When the loop has to look at this queue again, whatever else happens.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        match self.napi {
            Napi::Armed | Napi::Scheduled => None,
            Napi::Deferred(at) | Napi::Suspended(at) => Some(at),
            Napi::Coalescing(until) if self.rx_moder.frames == 0 => Some(until),
            // Nobody counts the packets that come meanwhile, as a network card does: the loop
            // looks eight times in the whole wait.
            Napi::Coalescing(until) if self.dev.rx_pending().is_some() => {
                let step = (self.rx_moder.usecs * US / 8).max(LOOK_MIN);
                Some(until.min(now.plus(step)))
            }
            Napi::Coalescing(until) => Some(until),
        }
    }

    /// What the poller should report of this queue.
    fn wanted(&self) -> Interest {
        Interest { read: self.napi == Napi::Armed, write: self.blocked, edge: false }
    }

    /// Tells the poller what to report; on the way to a sleep exactly that, else at least that.
    #[inline]
    pub(super) fn mask(&mut self, at: usize, poller: &Poller, sleeps: bool) -> io::Result<()> {
        let (want, has) = (self.wanted(), self.interest);
        let lacks = want.read && !has.read || want.write && !has.write;
        if want == has || !(sleeps || lacks) {
            return Ok(());
        }
        if let Some(fd) = self.dev.poll_fd() {
            poller.modify(fd, DEVICE_TOKENS + at as u64, want)?;
        }
        self.interest = want;
        Ok(())
    }
}

impl Drive {
    /// Which queues are readable, or have room again; what is left in `ready` is the application's.
    pub(super) fn note_devices(&mut self, now: Instant) {
        let (slots, counts) = (&mut self.slots, &self.shard.net.counts);
        self.ready.retain(|event| {
            if event.token < DEVICE_TOKENS || event.token == WAKER {
                return true;
            }
            let at = (event.token - DEVICE_TOKENS) as usize;
            if let Some(slot) = slots.get_mut(at) {
                slot.note(event, now, counts);
            }
            false
        });
        slots.iter_mut().for_each(|slot| slot.watchdog(now, counts));
    }
}

impl Slot {
    fn note(&mut self, event: &Event, now: Instant, counts: &Counts) {
        self.blocked &= !event.writable;
        if event.error || event.hangup {
            // A device that is gone says so in a poll, and at once.
            self.napi = Napi::Scheduled;
        } else if event.readable && self.napi == Napi::Armed {
            self.napi_schedule(now, counts);
        }
    }
}
