//! What a segment of a stream costs where packets are lost: both ends on one processor, and a line in virtual time
//! between them that carries a thousand segments in a round trip ([`Line`]).
//!
//! The sender's congestion control is BBR, which keeps its window where packets are lost at random; CUBIC would
//! have some twelve segments at 1 %, and nothing but turns with next to nothing in them would be measured. How many
//! segments were on their way is said beside: where more than 2 % are lost BBR lets go of its window too, and what a
//! segment then costs more is that of turns with hardly one of them. Of super-packets the line loses whole ones, as
//! a veth with `netem` does. Time goes on by a fiftieth of the round trip, and straight to what happens next where
//! nothing can happen before: waiting for a timeout costs nothing.

use linerate_core::path;
use linerate_core::pkt::Pkt;

use super::bulk::Bulk;
use super::case::{Case, Row, some};
use super::line::{Line, TRIP_NS};
use super::pair::Pair;
use crate::bench::path::case::cpu_ns;

/// Packets lost of a million, in the rows.
pub const LOSSES: [u64; 6] = [0, 100, 1_000, 10_000, 30_000, 50_000];
/// Payload of a segment.
pub const SEGMENT: u64 = 1460;
/// Segments of a round.
pub const USUAL: u64 = 200_000;
/// Segments of a round at least: some windows.
pub const LEAST: u64 = 4_000;
/// Nanoseconds from turn to turn.
pub const TURN_NS: u64 = TRIP_NS / 50;
/// What may wait at either end: more than any window.
const BUFFER: usize = 16 << 20;

/// A stream over such a line.
pub struct Lossy {
    bulk: Bulk,
    line: Line<Pkt>,
    ppm: u64,
    offload: bool,
    /// Segments that were on their way, added up over turns, and how many turns.
    flight: (u64, u64),
    /// Bytes sent, and those of them that were sent again, when the first round was over.
    sent: Option<(u64, u64)>,
}

/// The row of packets of which so many of a million are lost.
pub fn loss_name(ppm: u64, offload: bool) -> String {
    let how = if offload { "super-packets" } else { "segments" };
    format!("{} % of {how} lost, a pipe of {}", ppm as f64 / 1e4, super::line::PIPE)
}

impl Lossy {
    /// Super-packets with partial checksums, or segments of 1460 bytes with whole ones.
    pub fn new(ppm: u64, offload: bool) -> Lossy {
        let mut line = Line::new();
        let mut pair = Pair::new(offload);
        pair.set("net.ipv4.tcp_congestion_control", "bbr");
        // The handshake takes the line as well: BBR remembers the shortest round trip.
        let bulk = Bulk::over(pair, offload, BUFFER, |pair| {
            pair.forth_over(&mut line);
            pair.tick(TRIP_NS + TURN_NS);
            pair.forth_over(&mut line);
            pair.back();
        });
        line.lose(ppm);
        Lossy { bulk, line, ppm, offload, flight: (0, 0), sent: None }
    }

    fn turn(&mut self) {
        let Lossy { bulk, line, .. } = self;
        bulk.pair.tick(TURN_NS);
        bulk.pair.timers();
        let wrote = bulk.write();
        let moved = bulk.pair.forth_over(line);
        bulk.read();
        bulk.pair.back();
        bulk.drain();
        if !wrote && !moved {
            self.skip();
        }
    }

    /// On to what happens next.
    fn skip(&mut self) {
        let pair = &mut self.bulk.pair;
        let timer = |end| path::next_timer(end).map(|at| at.ns());
        let next = [timer(&pair.client), timer(&pair.server), self.line.next_ns()];
        let next = next.into_iter().flatten().min().expect("a stream that goes on has a timer");
        // The next turn begins by going on itself.
        pair.tick(next.saturating_sub(pair.now_ns() + TURN_NS));
    }

    /// Bytes sent so far, and those of them that were sent again.
    fn sent(&self) -> (u64, u64) {
        let info = self.bulk.pair.client.tcp_info(self.bulk.from).expect("it is open");
        (info.bytes_sent, info.bytes_retrans)
    }
}

impl Case for Lossy {
    fn name(&self) -> String {
        loss_name(self.ppm, self.offload)
    }
    fn rows(&self) -> Vec<Row> {
        vec![Row::new(self.name(), "ns/segment")]
    }
    fn round(&mut self, part: f64) -> Vec<Option<f64>> {
        let (segments, before) = (some(USUAL, part, LEAST), self.bulk.received);
        let begun = cpu_ns();
        while self.bulk.received - before < segments * SEGMENT {
            self.turn();
            if self.bulk.turns.is_multiple_of(16) {
                let info = self.bulk.pair.client.tcp_info(self.bulk.from).expect("it is open");
                self.flight = (self.flight.0 + u64::from(info.unacked), self.flight.1 + 1);
            }
        }
        let ns = cpu_ns() - begun;
        self.bulk.pair.check();
        // The first round is the one in which the window opens.
        if self.sent.is_none() {
            (self.sent, self.flight) = (Some(self.sent()), (0, 0));
        }
        vec![Some(ns as f64 * SEGMENT as f64 / (self.bulk.received - before) as f64)]
    }
    fn notes(&self) -> Vec<Option<String>> {
        let (sum, turns) = self.flight;
        let ((sent, again), (sent_before, again_before)) =
            (self.sent(), self.sent.unwrap_or_default());
        let again = 100.0 * (again - again_before) as f64 / (sent - sent_before).max(1) as f64;
        let flight = sum / turns.max(1);
        vec![Some(format!("{flight} segments on their way, {again:.2} % of the bytes sent again"))]
    }
}
