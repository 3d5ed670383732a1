//! One direction of a wire, with everything that can go wrong on it.

use std::collections::VecDeque;

use linerate_core::rand::Rng;
use linerate_core::time::{Instant, SEC};
use linerate_core::tx::qdisc::netem::{Loss, Model};

/// One direction of a link. Probabilities are in parts per million.
///
/// Queues that decide by themselves (CoDel, FQ-CoDel, RED by threshold of delay) are the stack's own
/// disciplines, set at the node that sends: `set_knob("qdisc.sim0.root", "handle 1: tbf …; parent 1: codel ecn")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Bits per second; 0 = without limit.
    pub rate_bps: u64,
    /// Bytes that may wait for the wire; what comes on top is lost.
    pub queue_bytes: u64,
    /// Packets that may wait for the wire, likewise; 0 = as many as the bytes allow.
    pub queue_packets: u32,
    /// A packet that finds more bytes than this before it is marked (CE), if its sender understands
    /// that; 0 = none is. As switches do for DCTCP.
    pub mark_bytes: u64,
    /// Nanoseconds from one end to the other.
    pub delay_ns: u64,
    /// Up to so many nanoseconds more, chosen for each packet; packets keep their order.
    pub jitter_ns: u64,
    /// Packets lost, each by itself.
    pub loss_ppm: u32,
    /// Packets lost besides, in bursts: the models of `netem`.
    pub bursts: Loss,
    /// Packets that arrive twice.
    pub duplicate_ppm: u32,
    /// Packets that are held back by `reorder_ns`, so that later ones overtake them.
    pub reorder_ppm: u32,
    /// How long an overtaken packet is held back.
    pub reorder_ns: u64,
    /// Packets of which one bit is turned.
    pub corrupt_ppm: u32,
    /// Frames with more bytes than this vanish and nobody is told (a black hole of path MTU discovery);
    /// 0 = none. Of a super-packet its segments count, and all of it vanishes.
    pub largest: u32,
    /// Whether the device takes super-packets and partial checksums.
    pub offload: bool,
}

impl Default for Link {
    /// 50 µs, no limit of rate, no faults, no offloads.
    fn default() -> Self {
        Link {
            rate_bps: 0,
            queue_bytes: 1 << 20,
            queue_packets: 0,
            mark_bytes: 0,
            delay_ns: 50_000,
            jitter_ns: 0,
            loss_ppm: 0,
            bursts: Loss::None,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            reorder_ns: 0,
            corrupt_ppm: 0,
            largest: 0,
            offload: false,
        }
    }
}

impl Link {
    /// Nanoseconds that a packet of `bytes` takes at the link's rate.
    fn takes_ns(&self, bytes: u64) -> u64 {
        (bytes * 8 * SEC).checked_div(self.rate_bps).unwrap_or(0)
    }
}

/// Packets that a link lost, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// By chance.
    pub loss: u64,
    /// Because its queue was full.
    pub queue: u64,
    /// Because they were too large.
    pub size: u64,
    /// Because the host at the other end paused and its ring was full.
    pub ring: u64,
}

/// What passed over a link. Conservation: `sent + doubled` is what arrived, what was lost, and what is
/// still under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Packets that the device gave to the wire.
    pub sent: u64,
    /// Copies that the wire made.
    pub doubled: u64,
    /// Packets of which a bit was turned.
    pub damaged: u64,
    /// Packets that were marked.
    pub marked: u64,
    /// Packets that came to the stack at the other end.
    pub arrived: u64,
    /// Packets that did not.
    pub lost: Lost,
    /// The most bytes that ever waited.
    pub most_waiting: u64,
}

impl Passed {
    /// Packets that are on the wire now.
    pub fn under_way(&self) -> u64 {
        let Lost { loss, queue, size, ring } = self.lost;
        (self.sent + self.doubled).saturating_sub(self.arrived + loss + queue + size + ring)
    }
}

/// What becomes of a packet.
#[derive(Default)]
pub(crate) struct Fate {
    /// It is marked: it met congestion.
    pub marked: bool,
    /// When copies of it arrive, each with a bit to turn.
    pub copies: Vec<(Instant, Option<u64>)>,
}

/// A link and its state.
pub(crate) struct Wire {
    pub link: Link,
    pub passed: Passed,
    bursts: Model,
    /// When the last bit of what was accepted so far leaves.
    free_at: Instant,
    /// When each of the packets leaves that wait, where they are counted.
    leaving: VecDeque<Instant>,
    /// Packets in order do not overtake each other by jitter.
    last_arrival: Instant,
}

impl Wire {
    pub fn new(link: Link) -> Wire {
        Wire {
            link,
            passed: Passed::default(),
            bursts: Model::new(&link.bursts),
            free_at: Instant::ZERO,
            leaving: VecDeque::new(),
            last_arrival: Instant::ZERO,
        }
    }

    /// The link is another from now on; what waits for it waits on.
    pub fn set(&mut self, link: Link) {
        if link.bursts != self.link.bursts {
            self.bursts = Model::new(&link.bursts);
        }
        self.link = link;
    }

    /// Bytes that wait for the wire at `now`.
    pub fn waiting(&self, now: Instant) -> u64 {
        let ns = self.free_at.since(now) as u128;
        (ns * self.link.rate_bps as u128 / 8 / SEC as u128) as u64
    }

    /// Decides what becomes of a packet of `bytes`, whose largest frame on the wire is `frame`, that is
    /// sent at `now`.
    pub fn send(&mut self, now: Instant, (bytes, frame): (u64, u64), rng: &mut Rng) -> Fate {
        let link = self.link;
        let mut fate = Fate::default();
        self.passed.sent += 1;
        if link.largest > 0 && frame > link.largest as u64 {
            self.passed.lost.size += 1;
            return fate;
        }
        let start = self.free_at.max(now);
        if link.rate_bps > 0 {
            let waiting = self.waiting(now);
            if waiting + bytes > link.queue_bytes.max(bytes) || self.no_place(now) {
                self.passed.lost.queue += 1;
                return fate;
            }
            self.passed.most_waiting = self.passed.most_waiting.max(waiting);
            fate.marked = link.mark_bytes > 0 && waiting > link.mark_bytes;
            self.free_at = start.plus(link.takes_ns(bytes));
            if link.queue_packets > 0 {
                self.leaving.push_back(self.free_at);
            }
        } else {
            self.free_at = start;
        }
        if chance(rng, link.loss_ppm) || self.bursts.loses(rng) {
            self.passed.lost.loss += 1;
            return fate;
        }
        let copies = 1 + u64::from(chance(rng, link.duplicate_ppm));
        self.passed.doubled += copies - 1;
        for _ in 0..copies {
            let copy = self.fly(bytes, rng);
            fate.copies.push(copy);
        }
        fate
    }

    /// Whether as many packets wait as may.
    fn no_place(&mut self, now: Instant) -> bool {
        while self.leaving.front().is_some_and(|at| *at <= now) {
            self.leaving.pop_front();
        }
        self.link.queue_packets > 0 && self.leaving.len() >= self.link.queue_packets as usize
    }

    /// When a copy arrives, and what is wrong with it.
    fn fly(&mut self, bytes: u64, rng: &mut Rng) -> (Instant, Option<u64>) {
        let link = self.link;
        let mut at = self.free_at.plus(link.delay_ns + rng.below(link.jitter_ns + 1));
        if chance(rng, link.reorder_ppm) {
            at = at.plus(link.reorder_ns);
        } else {
            at = at.max(self.last_arrival);
            self.last_arrival = at;
        }
        let bit = chance(rng, link.corrupt_ppm).then(|| rng.below(bytes * 8));
        self.passed.damaged += u64::from(bit.is_some());
        (at, bit)
    }
}

fn chance(rng: &mut Rng, ppm: u32) -> bool {
    ppm > 0 && rng.below(1_000_000) < ppm as u64
}
