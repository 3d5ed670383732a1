//! Slots: a link on which it is one's turn now and then, as that of a radio or a cable modem is.
//!
//! Linux: net/sched/sch_netem.c `get_slot_next`, `netem_dequeue`

use super::dist::{Distribution, Table};
use crate::rand::Rng;
use crate::time::Instant;

/// When packets may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Nanoseconds from one to the next.
    pub every: Every,
    /// Packets of one; 0 = any number.
    pub packets: u32,
    /// Bytes of one, beyond which no more packet begins; 0 = any number.
    pub bytes: u32,
}

/// From one slot to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// Evenly from the one to the other.
    Within(u64, u64),
    /// Spread so, around a mean by a jitter.
    Spread(Distribution, u64, u64),
}

/// The slots of a link, and where they stand.
pub(super) struct Slots {
    slot: Slot,
    table: Option<Table>,
    /// When the slot that there is, or the next, begins.
    next: Instant,
    packets: i64,
    bytes: i64,
}

impl Slots {
    pub(super) fn new(slot: Slot) -> Slots {
        let table = match slot.every {
            Every::Within(..) => None,
            Every::Spread(dist, ..) => Table::of(dist),
        };
        let mut slots = Slots { slot, table, next: Instant::ZERO, packets: 0, bytes: 0 };
        slots.fill();
        slots
    }

    fn fill(&mut self) {
        let all = |n: u32| if n == 0 { i64::MAX } else { n.into() };
        (self.packets, self.bytes) = (all(self.slot.packets), all(self.slot.bytes));
    }

    /// The next slot (`get_slot_next`).
    fn turn(&mut self, now: Instant, rng: &mut Rng) {
        let rnd = rng.next_u32();
        let ns = match (self.slot.every, &self.table) {
            (Every::Within(low, high), _) => {
                low as i64 + ((rnd as u128 * high.saturating_sub(low) as u128) >> 32) as i64
            }
            (Every::Spread(_, mu, sigma), Some(table)) => mu as i64 + table.pick(rnd, sigma as i64),
            (Every::Spread(_, mu, sigma), None) => {
                mu as i64 - sigma as i64 + ((rnd as u128 * 2 * sigma as u128) >> 32) as i64
            }
        };
        self.next = now.plus(ns.max(0) as u64);
        self.fill();
    }

    /// When a packet may go whose own time is `at`.
    pub(super) fn open(&mut self, at: Instant, now: Instant, rng: &mut Rng) -> Instant {
        if self.next < at {
            // It would have been its turn before it was there.
            self.turn(now, rng);
        }
        self.next.max(at)
    }

    /// A packet has gone.
    pub(super) fn went(&mut self, len: u32, now: Instant, rng: &mut Rng) {
        self.packets -= 1;
        self.bytes -= i64::from(len);
        if self.packets <= 0 || self.bytes <= 0 {
            self.turn(now, rng);
        }
    }
}
