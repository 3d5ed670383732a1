//! One direction of a line in virtual time: a rate, a way that takes its time, and packets that are lost on it at
//! random, each by itself. What waits for it is bounded by the sender's window alone.

use std::collections::VecDeque;

use linerate_core::rand::Rng;

/// Segments that the line carries in a round trip.
pub const PIPE: u64 = 1000;
/// From one end to the other, in nanoseconds. What goes back takes no time: this is the round trip.
pub const TRIP_NS: u64 = 10_000_000;
/// What a segment of 1500 bytes takes.
const SEGMENT_NS: u64 = TRIP_NS / PIPE;
/// Its bytes.
const SEGMENT: u64 = 1500;

/// What lies on the line, in the order of arriving.
pub struct Line<T> {
    under_way: VecDeque<(u64, T)>,
    /// When the last bit of what was sent so far has left.
    free_at_ns: u64,
    /// Packets lost of a million.
    loss_ppm: u64,
    rng: Rng,
}

impl<T> Line<T> {
    /// An empty line that loses nothing.
    pub fn new() -> Line<T> {
        Line { under_way: VecDeque::new(), free_at_ns: 0, loss_ppm: 0, rng: Rng::new(11) }
    }
    /// From now on it loses so many packets of a million.
    pub fn lose(&mut self, ppm: u64) {
        self.loss_ppm = ppm;
    }
    /// Takes a packet of so many bytes at `now_ns`; gives it back if it is lost. What is lost takes its time as well.
    #[must_use]
    pub fn send(&mut self, now_ns: u64, bytes: usize, packet: T) -> Option<T> {
        let takes = bytes as u64 * SEGMENT_NS / SEGMENT;
        self.free_at_ns = self.free_at_ns.max(now_ns) + takes;
        if self.loss_ppm > 0 && self.rng.below(1_000_000) < self.loss_ppm {
            return Some(packet);
        }
        self.under_way.push_back((self.free_at_ns + TRIP_NS, packet));
        None
    }
    /// The next packet that has arrived by `now_ns`.
    pub fn arrived(&mut self, now_ns: u64) -> Option<T> {
        self.under_way.pop_front_if(|(at, _)| *at <= now_ns).map(|(_, packet)| packet)
    }
    /// When the next packet arrives.
    pub fn next_ns(&self) -> Option<u64> {
        self.under_way.front().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_its_pipe_in_a_round_trip_and_loses_its_share() {
        let mut line = Line::new();
        let lost = (0..PIPE).filter_map(|n| line.send(0, 1500, n)).count();
        assert_eq!((lost, line.next_ns()), (0, Some(TRIP_NS + SEGMENT_NS)));
        assert_eq!(line.arrived(TRIP_NS), None);
        let arrived: Vec<u64> = std::iter::from_fn(|| line.arrived(2 * TRIP_NS)).collect();
        assert_eq!(arrived, (0..PIPE).collect::<Vec<_>>(), "in order, all in two trips");
        line.lose(50_000);
        let lost = (0..100_000).filter_map(|n| line.send(0, 1500, n)).count();
        assert!((4_500..5_500).contains(&lost), "{lost} of 100000");
    }
}
