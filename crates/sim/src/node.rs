//! A host of the world: a stack, its clock, and what waits for it while it pauses.

use linerate_core::path;
use linerate_core::shard::Shard;
use linerate_core::time::Instant;

use crate::world::Frame;

/// Packets that a ring holds for a host that does not look.
const RING: usize = 256;

pub(crate) struct Node {
    pub shard: Shard,
    /// It does nothing until then.
    pub paused: Instant,
    /// What arrived while it paused, and at which device.
    pub ring: Vec<(u8, Frame)>,
    /// Its clock shows multiples of this only.
    grain_ns: u64,
    /// Its clock is so far ahead of the world's.
    ahead_ns: u64,
}

impl Node {
    pub fn new(shard: Shard) -> Node {
        Node { shard, paused: Instant::ZERO, ring: Vec::new(), grain_ns: 1, ahead_ns: 0 }
    }
    pub fn set_clock(&mut self, grain_ns: u64, ahead_ns: u64) {
        (self.grain_ns, self.ahead_ns) = (grain_ns.max(1), ahead_ns);
    }
    pub fn ring_has_room(&self) -> bool {
        self.ring.len() < RING
    }
    /// What its clock shows at a time of the world.
    pub fn time(&self, now: Instant) -> Instant {
        Instant::from_ns(now.ns() / self.grain_ns * self.grain_ns).plus(self.ahead_ns)
    }
    /// When something happens to it by itself, by the world's clock.
    pub fn next_event(&self, now: Instant) -> Option<Instant> {
        if self.paused > now {
            return Some(self.paused);
        }
        // A time is reached when the clock shows it, which a coarse one does late.
        let at = path::next_timer(&self.shard)?.ns().saturating_sub(self.ahead_ns);
        Some(Instant::from_ns(at.div_ceil(self.grain_ns).saturating_mul(self.grain_ns)))
    }
}
