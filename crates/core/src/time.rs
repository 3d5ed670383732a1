//! Time as the stack sees it: nanoseconds handed in by the caller, and the timer wheel.
//!
//! The stack never asks a clock. Whoever drives a shard takes the time once per batch, when the
//! ring is dequeued, and hands it in; the same code therefore runs under virtual time.

/// Nanoseconds in a microsecond.
pub const US: u64 = 1_000;
/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SEC: u64 = 1_000_000_000;

/// A point in time: nanoseconds since an arbitrary start that never goes backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The arbitrary start.
    pub const ZERO: Instant = Instant(0);
    /// A time that never comes.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// A point `ns` nanoseconds after the start.
    pub const fn from_ns(ns: u64) -> Instant {
        Instant(ns)
    }
    /// Nanoseconds since the start.
    pub const fn ns(self) -> u64 {
        self.0
    }
    /// Whole milliseconds since the start: the unit of TCP timestamps here (as in Linux).
    pub const fn ms(self) -> u64 {
        self.0 / MS
    }
    /// This point, `ns` nanoseconds later; stays at [`Instant::NEVER`] on overflow.
    pub const fn plus(self, ns: u64) -> Instant {
        Instant(self.0.saturating_add(ns))
    }
    /// The same point on a clock that is `ns` nanoseconds ahead of this one (behind, if negative);
    /// the start and [`Instant::NEVER`], which mean that something did not happen, stay.
    pub const fn shifted(self, ns: i64) -> Instant {
        match self {
            Instant::ZERO | Instant::NEVER => self,
            Instant(at) => Instant(at.saturating_add_signed(ns)),
        }
    }
    /// Nanoseconds from `earlier` to this point, 0 if it is not earlier.
    pub const fn since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

const LEVELS: usize = 9;
const SLOTS: usize = 64;
/// Each level is this many bits coarser than the one below it.
const LEVEL_SHIFT: u32 = 3;
/// A tick of the lowest level: 2^16 ns = 65.5 µs.
const TICK_SHIFT: u32 = 16;
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    at: Instant,
    next: u32,
    prev: u32,
    /// `level * 64 + slot`, or `NIL` when not armed.
    bucket: u32,
}

/// A timer wheel in the manner of Linux's `kernel/time/timer.c`: nine levels of 64 slots, each
/// level eight times coarser than the one below, no cascading. A timer fires at its time or up to
/// an eighth of its distance (at least one tick, 65.5 µs) late, never early.
///
/// A node is named by a small index (the socket's slot), so each owner has exactly one timer that
/// it re-arms lazily; arming and cancelling are O(1) and allocate only when a larger index appears.
pub struct Wheel {
    nodes: Vec<Node>,
    heads: [u32; LEVELS * SLOTS],
    occupied: [u64; LEVELS],
    /// The next tick that has not been served yet.
    clock: u64,
    armed: usize,
}

impl Default for Wheel {
    fn default() -> Self {
        Wheel {
            nodes: Vec::new(),
            heads: [NIL; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            clock: 0,
            armed: 0,
        }
    }
}

impl Wheel {
    /// How many timers are armed.
    pub fn len(&self) -> usize {
        self.armed
    }
    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }
    /// When timer `id` is armed for, if it is.
    pub fn armed_at(&self, id: u32) -> Option<Instant> {
        let n = self.nodes.get(id as usize)?;
        (n.bucket != NIL).then_some(n.at)
    }

    /// Asks the processor for what is noted of timer `id`.
    #[inline]
    pub(crate) fn prefetch(&self, id: u32) {
        if let Some(node) = self.nodes.get(id as usize) {
            linerate_arch::prefetch_read(node);
        }
    }

    /// Arms (or re-arms) timer `id` for `at`. A time in the past fires at the next [`Wheel::expire`].
    pub fn arm(&mut self, id: u32, at: Instant) {
        if self.nodes.len() <= id as usize {
            self.grow(id as usize + 1);
        }
        self.cancel(id);
        if at == Instant::NEVER {
            return;
        }
        let bucket = self.bucket_for(at);
        let head = self.heads[bucket];
        self.nodes[id as usize] = Node { at, next: head, prev: NIL, bucket: bucket as u32 };
        if head != NIL {
            self.nodes[head as usize].prev = id;
        }
        self.heads[bucket] = id;
        self.occupied[bucket / SLOTS] |= 1 << (bucket % SLOTS);
        self.armed += 1;
    }

    /// Makes room for `n` timers; in large pages if these are many.
    fn grow(&mut self, n: usize) {
        if n > self.nodes.capacity() {
            let mut nodes = Vec::with_capacity(n.next_power_of_two());
            linerate_arch::advise_huge(nodes.spare_capacity_mut());
            nodes.append(&mut self.nodes);
            self.nodes = nodes;
        }
        let empty = Node { at: Instant::NEVER, next: NIL, prev: NIL, bucket: NIL };
        self.nodes.resize(n, empty);
    }

    /// Disarms timer `id`; nothing happens if it is not armed.
    pub fn cancel(&mut self, id: u32) {
        let Some(&n) = self.nodes.get(id as usize) else { return };
        if n.bucket == NIL {
            return;
        }
        let bucket = n.bucket as usize;
        if n.prev == NIL {
            self.heads[bucket] = n.next;
        } else {
            self.nodes[n.prev as usize].next = n.next;
        }
        if n.next != NIL {
            self.nodes[n.next as usize].prev = n.prev;
        }
        if self.heads[bucket] == NIL {
            self.occupied[bucket / SLOTS] &= !(1 << (bucket % SLOTS));
        }
        self.nodes[id as usize].bucket = NIL;
        self.armed -= 1;
    }

    /// `calc_wheel_index`: rounds up to the granularity of the level that spans the distance.
    fn bucket_for(&self, at: Instant) -> usize {
        let tick = (at.ns().saturating_add((1 << TICK_SHIFT) - 1) >> TICK_SHIFT).max(self.clock);
        let delta = tick - self.clock;
        for level in 0..LEVELS {
            let shift = level as u32 * LEVEL_SHIFT;
            // A level spans 63 of its slots, so that rounding up can not wrap onto "now".
            if delta < 63u64 << shift || level == LEVELS - 1 {
                let units = tick.saturating_add((1u64 << shift) - 1) >> shift;
                let far = (self.clock >> shift) + 63;
                return level * SLOTS + (units.min(far) as usize % SLOTS);
            }
        }
        unreachable!("the last level takes whatever the others do not")
    }

    /// The tick at which the bucket at `level` that is nearest in the future is served.
    fn next_tick(&self, level: usize) -> Option<u64> {
        let bits = self.occupied[level];
        if bits == 0 {
            return None;
        }
        let shift = level as u32 * LEVEL_SHIFT;
        // The first unit of this level that is not yet served.
        let unit = (self.clock + ((1u64 << shift) - 1)) >> shift;
        let ahead = bits.rotate_right((unit % SLOTS as u64) as u32).trailing_zeros() as u64;
        Some((unit + ahead) << shift)
    }

    /// When the next timer will fire (the end of its slot), if any is armed.
    pub fn next(&self) -> Option<Instant> {
        if self.armed == 0 {
            return None;
        }
        let tick = (0..LEVELS).filter_map(|l| self.next_tick(l)).min()?;
        Some(Instant::from_ns(tick << TICK_SHIFT))
    }

    /// Disarms every timer whose slot has passed at `now` and appends its index to `out`.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<u32>) {
        let target = now.ns() >> TICK_SHIFT;
        while self.armed > 0 {
            let Some(tick) = (0..LEVELS).filter_map(|l| self.next_tick(l)).min() else { break };
            if tick > target {
                break;
            }
            self.clock = tick;
            for level in 0..LEVELS {
                let shift = level as u32 * LEVEL_SHIFT;
                if tick & ((1u64 << shift) - 1) != 0 {
                    break;
                }
                let bucket = level * SLOTS + ((tick >> shift) % SLOTS as u64) as usize;
                while self.heads[bucket] != NIL {
                    let id = self.heads[bucket];
                    self.cancel(id);
                    out.push(id);
                }
            }
            self.clock = tick + 1;
        }
        self.clock = self.clock.max(target + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_never_early_and_at_most_an_eighth_late() {
        for start in [0u64, 12_345, 999 * MS, 3600 * SEC] {
            for delta in
                [0, 1, 60 * US, 200 * US, 5 * MS, 40 * MS, 200 * MS, SEC, 60 * SEC, 7200 * SEC]
            {
                let mut w = Wheel::default();
                let mut out = Vec::new();
                w.expire(Instant::from_ns(start), &mut out);
                let at = Instant::from_ns(start + delta);
                w.arm(3, at);
                let fire = w.next().expect("armed");
                assert!(fire >= at, "early: {fire:?} before {at:?}");
                assert!(
                    fire.since(at) <= delta / 8 + (2 << TICK_SHIFT),
                    "late by {}",
                    fire.since(at)
                );
                w.expire(Instant::from_ns(fire.ns() - 1), &mut out);
                assert!(out.is_empty() || fire.since(at) == 0);
                w.expire(fire, &mut out);
                assert_eq!(out, [3]);
                assert!(w.is_empty());
            }
        }
    }

    #[test]
    fn no_timer_is_lost_under_random_arming() {
        let mut rng = crate::rand::Rng::new(7);
        let mut w = Wheel::default();
        let mut want: std::collections::BTreeMap<u32, Instant> = Default::default();
        let mut now = Instant::ZERO;
        let mut out = Vec::new();
        for _ in 0..20_000 {
            let id = rng.below(200) as u32;
            match rng.below(4) {
                0 => {
                    w.cancel(id);
                    want.remove(&id);
                }
                1 | 2 => {
                    let bits = rng.below(36);
                    let at = now.plus(rng.below(1 << bits));
                    w.arm(id, at);
                    want.insert(id, at);
                }
                _ => {
                    let bits = rng.below(34);
                    now = now.plus(rng.below(1 << bits));
                    out.clear();
                    w.expire(now, &mut out);
                    for id in &out {
                        let at = want.remove(id).expect("fired what was armed");
                        assert!(at <= now);
                    }
                    for (id, at) in &want {
                        let slack = 4 * (1 << TICK_SHIFT) + now.ns() / 4;
                        assert!(now.since(*at) <= slack, "timer {id} is overdue");
                    }
                }
            }
            assert_eq!(w.len(), want.len());
        }
    }
}
