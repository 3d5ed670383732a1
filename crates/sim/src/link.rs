//! One direction of a wire, with everything that can go wrong on it.

use linerate_core::rand::Rng;
use linerate_core::time::{Instant, SEC};

/// One direction of a link. Probabilities are in parts per million.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Bits per second; 0 = without limit.
    pub rate_bps: u64,
    /// Bytes that may wait for the wire; what comes on top is lost.
    pub queue_bytes: u64,
    /// Nanoseconds from one end to the other.
    pub delay_ns: u64,
    /// Up to so many nanoseconds more, chosen for each packet; packets keep their order.
    pub jitter_ns: u64,
    /// Packets lost.
    pub loss_ppm: u32,
    /// Packets that arrive twice.
    pub duplicate_ppm: u32,
    /// Packets that are held back by `reorder_ns`, so that later ones overtake them.
    pub reorder_ppm: u32,
    /// How long an overtaken packet is held back.
    pub reorder_ns: u64,
    /// Packets of which one bit is turned.
    pub corrupt_ppm: u32,
    /// Whether the device takes super-packets and partial checksums.
    pub offload: bool,
}

impl Default for Link {
    /// 50 µs, no limit of rate, no faults, no offloads.
    fn default() -> Self {
        Link {
            rate_bps: 0,
            queue_bytes: 1 << 20,
            delay_ns: 50_000,
            jitter_ns: 0,
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            reorder_ns: 0,
            corrupt_ppm: 0,
            offload: false,
        }
    }
}

/// Packets that a link lost, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// By chance.
    pub loss: u64,
    /// Because its queue was full.
    pub queue: u64,
}

/// What becomes of a packet: the times at which copies of it arrive, each with a bit to turn.
pub(crate) type Fate = Vec<(Instant, Option<u64>)>;

/// A link and its state.
pub(crate) struct Wire {
    pub link: Link,
    pub lost: Lost,
    /// When the last bit of what was accepted so far leaves.
    free_at: Instant,
    /// Packets in order do not overtake each other by jitter.
    last_arrival: Instant,
}

impl Wire {
    pub fn new(link: Link) -> Wire {
        Wire { link, lost: Lost::default(), free_at: Instant::ZERO, last_arrival: Instant::ZERO }
    }

    /// Decides what becomes of a packet of `bytes` that is sent at `now`.
    pub fn send(&mut self, now: Instant, bytes: u64, rng: &mut Rng) -> Fate {
        let link = self.link;
        let start = self.free_at.max(now);
        if link.rate_bps > 0 {
            let waiting = start.since(now) * link.rate_bps / 8 / SEC;
            if waiting + bytes > link.queue_bytes.max(bytes) {
                self.lost.queue += 1;
                return Fate::new();
            }
            self.free_at = start.plus(bytes * 8 * SEC / link.rate_bps);
        } else {
            self.free_at = start;
        }
        if chance(rng, link.loss_ppm) {
            self.lost.loss += 1;
            return Fate::new();
        }
        let mut fate = Fate::new();
        let copies = 1 + usize::from(chance(rng, link.duplicate_ppm));
        for _ in 0..copies {
            let mut at = self.free_at.plus(link.delay_ns + rng.below(link.jitter_ns + 1));
            if chance(rng, link.reorder_ppm) {
                at = at.plus(link.reorder_ns);
            } else {
                at = at.max(self.last_arrival);
                self.last_arrival = at;
            }
            let bit = chance(rng, link.corrupt_ppm).then(|| rng.below(bytes * 8));
            fate.push((at, bit));
        }
        fate
    }
}

fn chance(rng: &mut Rng, ppm: u32) -> bool {
    ppm > 0 && rng.below(1_000_000) < ppm as u64
}
