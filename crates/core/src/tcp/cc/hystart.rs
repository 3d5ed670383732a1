//! HyStart++ (RFC 9406): slow start ends when the round trips of one round are longer than those of the
//! round before, because then a queue fills. It ends carefully: for some rounds the window grows by a
//! quarter of what it would, and if the round trips get shorter again it was jitter, and slow start goes
//! on.
//!
//! Left out: the limit of eight segments for each acknowledgement (L in §4.2). Receive offload
//! makes acknowledgements of a whole super-packet ordinary here, as in Linux, which has no such limit.
//!
//! Linux: net/ipv4/tcp_cubic.c `hystart_update` counts what it finds under the same names.

use super::Window;
use crate::seq::Seq;
use crate::tcp::TCP_INFINITE_SSTHRESH;

/// Bounds of how much longer a round trip must be, in microseconds (MIN_RTT_THRESH, MAX_RTT_THRESH).
const RTT_THRESH_US: (u32, u32) = (4_000, 16_000);
/// An eighth is longer (MIN_RTT_DIVISOR).
const MIN_RTT_DIVISOR: u32 = 8;
/// Round trips that make a round worth a judgement (N_RTT_SAMPLE).
const N_RTT_SAMPLE: u8 = 8;
/// In conservative slow start the window grows by one segment for so many.
pub(super) const CSS_GROWTH_DIVISOR: u32 = 4;
/// Rounds of conservative slow start.
const CSS_ROUNDS: u8 = 5;

/// What slow start does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// It doubles the window.
    Double,
    /// It goes on carefully.
    Conservative,
    /// It has ended.
    Over,
}

/// State of one slow start. Times are in microseconds; 0 = none measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hystart {
    /// The round ends when this is acknowledged (windowEnd).
    end: Seq,
    /// Least round trip of the round before.
    last_min_us: u32,
    /// Least round trip of this round.
    round_min_us: u32,
    /// Where it has to come down to for slow start to go on (cssBaselineMinRtt).
    css_base_us: u32,
    /// Round trips seen in this round.
    samples: u8,
    /// Rounds of conservative slow start, this one included; 0 = slow start.
    css_round: u8,
    /// The first round has begun.
    begun: bool,
}

impl Hystart {
    /// An acknowledgement came in slow start.
    pub fn ack(&mut self, w: &Window) -> Pace {
        if w.ssthresh < TCP_INFINITE_SSTHRESH {
            // Only the first slow start looks for the path's limit (§4.3).
            return Pace::Double;
        }
        if !self.begun || w.una.ge(self.end) {
            if self.css_round == CSS_ROUNDS {
                return Pace::Over;
            }
            self.css_round += u8::from(self.css_round > 0);
            (self.last_min_us, self.round_min_us) = (self.round_min_us, 0);
            (self.begun, self.end, self.samples) = (true, w.nxt, 0);
        }
        let Some(rtt) = w.rtt_us.map(|us| us.max(1)) else { return self.pace() };
        self.round_min_us = if self.round_min_us == 0 { rtt } else { self.round_min_us.min(rtt) };
        self.samples = self.samples.saturating_add(1);
        if self.samples >= N_RTT_SAMPLE {
            self.judge();
        }
        self.pace()
    }

    fn judge(&mut self) {
        if self.css_round > 0 {
            if self.round_min_us < self.css_base_us {
                // It was jitter.
                (self.css_round, self.css_base_us) = (0, 0);
            }
        } else if self.last_min_us > 0 {
            let (low, high) = RTT_THRESH_US;
            let thresh = (self.last_min_us / MIN_RTT_DIVISOR).clamp(low, high);
            if self.round_min_us >= self.last_min_us.saturating_add(thresh) {
                (self.css_round, self.css_base_us) = (1, self.round_min_us);
            }
        }
    }

    fn pace(&self) -> Pace {
        if self.css_round > 0 { Pace::Conservative } else { Pace::Double }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acknowledgements of one round, each with the next of these round trips.
    fn round(h: &mut Hystart, at: &mut u32, rtts: impl IntoIterator<Item = u32>) -> Pace {
        let mut pace = Pace::Double;
        for (i, rtt) in rtts.into_iter().enumerate() {
            let mut w = Window::of(20, TCP_INFINITE_SSTHRESH);
            w.una = Seq(*at + i as u32);
            w.nxt = Seq(*at + 100);
            w.rtt_us = Some(rtt);
            pace = h.ack(&w);
        }
        *at += 100;
        pace
    }

    /// RFC 9406 §4.2: five rounds of conservative slow start, then congestion avoidance.
    #[test]
    fn slow_start_ends_after_five_careful_rounds() {
        let (mut h, mut at) = (Hystart::default(), 0);
        assert_eq!(round(&mut h, &mut at, [50_000; 10]), Pace::Double);
        assert_eq!(round(&mut h, &mut at, [56_000; 10]), Pace::Double, "6 ms are not an eighth");
        assert_eq!(round(&mut h, &mut at, [63_000; 7]), Pace::Double, "seven are too few");
        assert_eq!(
            round(&mut h, &mut at, [70_000; 10]),
            Pace::Double,
            "no more than the eighth above"
        );
        assert_eq!(round(&mut h, &mut at, [80_000; 10]), Pace::Conservative);
        for n in 2..=CSS_ROUNDS {
            assert_eq!(round(&mut h, &mut at, [80_000; 10]), Pace::Conservative, "round {n}");
        }
        assert_eq!(round(&mut h, &mut at, [80_000]), Pace::Over);
    }

    /// RFC 9406 §4.2: what comes down again was jitter.
    #[test]
    fn slow_start_goes_on_after_jitter() {
        let (mut h, mut at) = (Hystart::default(), 0);
        round(&mut h, &mut at, [20_000; 10]);
        assert_eq!(round(&mut h, &mut at, [30_000; 10]), Pace::Conservative);
        assert_eq!(round(&mut h, &mut at, [30_000; 10]), Pace::Conservative);
        assert_eq!(round(&mut h, &mut at, [29_000; 10]), Pace::Double);
        assert_eq!(round(&mut h, &mut at, [40_000; 10]), Pace::Conservative, "and looks on");
    }

    /// RFC 9406 §4.2: the threshold lies between 4 and 16 ms.
    #[test]
    fn the_threshold_is_bounded() {
        for (base, less, more) in [(1_000, 4_900, 5_000), (500_000, 515_900, 516_000)] {
            for (next, want) in [(less, Pace::Double), (more, Pace::Conservative)] {
                let (mut h, mut at) = (Hystart::default(), 0);
                round(&mut h, &mut at, [base; 10]);
                assert_eq!(round(&mut h, &mut at, [next; 10]), want, "{base} to {next}");
            }
        }
    }

    /// RFC 9406 §4.3: after a loss the threshold is known, and slow start goes up to it.
    #[test]
    fn only_the_first_slow_start_is_watched() {
        let mut h = Hystart::default();
        for i in 0..200 {
            let mut w = Window::of(20, 100);
            (w.una, w.nxt, w.rtt_us) = (Seq(i), Seq(i + 10), Some(1000 + 10_000 * i));
            assert_eq!(h.ack(&w), Pace::Double);
        }
    }
}
