//! One direction of the path: a queue before a link of some rate, then a delay; losses, packets that are
//! held back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use linerate_core::rand::Rng;

/// A path between two ends, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Bits per second.
    pub rate_bps: u64,
    /// From one end to the other, in nanoseconds; half the round trip.
    pub delay_ns: u64,
    /// Bytes that may wait before the link.
    pub queue_bytes: u64,
    /// Packets lost, in millionths.
    pub loss_ppm: u32,
    /// Packets held back by `reorder_ns`, in millionths, so that later ones overtake them.
    pub reorder_ppm: u32,
    /// How long those are held back, in nanoseconds.
    pub reorder_ns: u64,
    /// What both senders' buffers grow to, in bytes (`tcp_wmem`).
    pub wmem: u64,
}

impl Path {
    /// A path of 200 Mb/s with this round trip, loss and share of packets that are overtaken, each by what
    /// is sent in a tenth of the round trip. Its queue holds what is sent in one round trip, and senders have the
    /// kernel's buffers.
    pub fn new(rtt_ms: u64, loss_ppm: u32, reorder_ppm: u32) -> Path {
        let rate_bps = 200_000_000;
        Path {
            rate_bps,
            delay_ns: rtt_ms * 500_000,
            queue_bytes: rate_bps / 8 * rtt_ms / 1000,
            loss_ppm,
            reorder_ppm,
            reorder_ns: rtt_ms * 100_000,
            wmem: 4 << 20,
        }
    }
}

/// One direction, and what is on its way.
pub(super) struct Way {
    path: Path,
    seed: u64,
    count: u64,
    /// When the link is free again, in nanoseconds.
    free_at: u64,
    flights: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    pub lost_by_chance: u64,
    pub lost_in_queue: u64,
}

impl Way {
    pub fn new(path: Path, seed: u64) -> Way {
        let flights = BinaryHeap::new();
        Way { path, seed, count: 0, free_at: 0, flights, lost_by_chance: 0, lost_in_queue: 0 }
    }
    /// A packet enters at `now`.
    pub fn send(&mut self, now: u64, packet: Vec<u8>) {
        self.count += 1;
        // The packet's own luck, whatever happened to those before it.
        let mut rng = Rng::new(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.count);
        let [lost, held] = [self.path.loss_ppm, self.path.reorder_ppm]
            .map(|ppm| rng.below(1_000_000) < u64::from(ppm));
        let takes = packet.len() as u64 * 8 * 1_000_000_000 / self.path.rate_bps;
        let waits = self.free_at.saturating_sub(now);
        if waits * self.path.rate_bps / 8 / 1_000_000_000 > self.path.queue_bytes {
            self.lost_in_queue += 1;
            return;
        }
        self.free_at = now.max(self.free_at) + takes;
        if lost {
            self.lost_by_chance += 1;
            return;
        }
        let late = if held { self.path.reorder_ns } else { 0 };
        self.flights.push(Reverse((self.free_at + self.path.delay_ns + late, self.count, packet)));
    }
    /// What arrives next, in nanoseconds.
    pub fn next(&self) -> Option<u64> {
        self.flights.peek().map(|Reverse((at, ..))| *at)
    }
    /// A packet that has arrived by `now`.
    pub fn arrived(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.next()? > now {
            return None;
        }
        self.flights.pop().map(|Reverse((.., packet))| packet)
    }
}

#[cfg(test)]
mod tests {
    use super::{Path, Way};

    /// Packets of 1000 bytes all at once; when each arrives, in microseconds.
    fn arrivals(path: Path, seed: u64, n: usize) -> Vec<u64> {
        let mut way = Way::new(path, seed);
        (0..n).for_each(|_| way.send(0, vec![0; 1000]));
        let mut all = Vec::new();
        while let Some(at) = way.next() {
            way.arrived(at).expect("it has arrived");
            all.push(at / 1000);
        }
        all
    }

    #[test]
    fn packets_take_their_time_at_the_link_and_the_delay() {
        assert_eq!(arrivals(Path::new(20, 0, 0), 1, 3), [10_040, 10_080, 10_120]);
        // The queue holds 500 000 bytes, and one more is at the link.
        assert_eq!(arrivals(Path::new(20, 0, 0), 1, 700).len(), 501);
    }

    #[test]
    fn losses_follow_from_the_seed() {
        let lossy = |seed| arrivals(Path::new(20, 100_000, 0), seed, 500);
        assert_eq!(lossy(1), lossy(1));
        assert_ne!(lossy(1), lossy(2));
        assert!((420..480).contains(&lossy(1).len()), "{}", lossy(1).len());
    }

    #[test]
    fn some_packets_are_overtaken() {
        let late = arrivals(Path::new(20, 0, 10_000), 3, 500).into_iter().filter(|at| *at > 30_040);
        assert!(late.count() <= 20);
    }
}
