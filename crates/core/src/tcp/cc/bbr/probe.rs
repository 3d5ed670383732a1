//! How the path is asked whether it has more: ProbeBW goes down, cruises, refills the pipe and goes up, every
//! two or three seconds, or as often as Reno would lose a packet if that is more often.
//!
//! Linux: see the folder. RFCs: draft-ietf-ccwg-bbr §5.3.3

use super::{AckPhase, Bbr, INFINITE, Mode, is_inflight_too_high};
use crate::tcp::Tcb;
use crate::tcp::rate::RateSample;
use crate::time::{Instant, SEC};

impl Bbr {
    pub(super) fn start_probe_bw_down(&mut self, tp: &Tcb, now: Instant) {
        self.reset_congestion_signals();
        self.probe_up_acked_per_inc = INFINITE;
        // Random, so that flows do not probe at the same time.
        self.rounds_since_probe_up = self.rng.below(2) as u32;
        self.bw_probe_wait = 2 * SEC + self.rng.below(SEC);
        self.cycle_stamp = now;
        self.ack_phase = AckPhase::Stopping;
        self.start_round(tp);
        self.mode = Mode::Down;
    }
    pub(super) fn start_probe_bw_refill(&mut self, delivered: u32) {
        self.reset_short_term_model();
        (self.bw_probe_up_rounds, self.bw_probe_up_acked) = (0, 0);
        self.prev_probe_precautionary = false;
        self.ack_phase = AckPhase::Refilling;
        self.next_round_delivered = delivered;
        self.mode = Mode::Refill;
    }
    fn start_probe_bw_up(&mut self, tp: &Tcb, rs: &RateSample) {
        self.ack_phase = AckPhase::Starting;
        self.start_round(tp);
        self.reset_full_bw();
        self.full_bw = rs.rate;
        self.mode = Mode::Up;
        self.raise_inflight_longterm_slope(tp.snd_cwnd);
    }

    pub(super) fn update_probe_bw_cycle_phase(&mut self, tp: &Tcb, rs: &RateSample, now: Instant) {
        if !self.full_bw_reached || self.adapt_long_term_model(tp, rs, now) {
            return;
        }
        let mode = self.mode;
        if matches!(mode, Mode::Down | Mode::Cruise) {
            if !self.is_time_to_probe_bw(tp, now)
                && mode == Mode::Down
                && self.is_time_to_cruise(tp)
            {
                self.mode = Mode::Cruise;
            }
        } else if mode == Mode::Refill && self.round_start {
            self.is_bw_probe_sample = true;
            self.start_probe_bw_up(tp, rs);
        } else if mode == Mode::Up && self.is_time_to_go_down(tp, rs) {
            self.prev_probe_too_high = false;
            self.start_probe_bw_down(tp, now);
        }
    }

    /// DOWN is over when room is left for others, and no queue stands.
    fn is_time_to_cruise(&self, tp: &Tcb) -> bool {
        let inflight = tp.in_flight();
        inflight <= self.inflight_with_headroom() && inflight <= self.inflight(self.max_bw(), 1.0)
    }
    fn is_time_to_go_down(&mut self, tp: &Tcb, rs: &RateSample) -> bool {
        if self.prev_probe_too_high && tp.in_flight() >= self.inflight_longterm {
            self.prev_probe_precautionary = true;
            return true;
        }
        if tp.cwnd_limited && tp.snd_cwnd >= self.inflight_longterm {
            // The bound, not the path, keeps the rate from growing.
            self.reset_full_bw();
            self.full_bw = rs.rate;
            return false;
        }
        self.full_bw_now
    }
    /// From DOWN or CRUISE to REFILL; true if it went there.
    fn is_time_to_probe_bw(&mut self, tp: &Tcb, now: Instant) -> bool {
        let reno_rounds = self.target_inflight(tp.snd_cwnd).min(63);
        let due = now.since(self.cycle_stamp) > self.bw_probe_wait
            || self.rounds_since_probe_up >= reno_rounds;
        if due {
            self.start_probe_bw_refill(tp.delivered);
        }
        due
    }

    fn raise_inflight_longterm_slope(&mut self, cwnd: u32) {
        let growth = 1u32 << self.bw_probe_up_rounds;
        self.bw_probe_up_rounds = (self.bw_probe_up_rounds + 1).min(30);
        self.probe_up_acked_per_inc = (cwnd / growth).max(1);
    }
    fn probe_inflight_longterm_upward(&mut self, tp: &Tcb, rs: &RateSample) {
        if !tp.cwnd_limited || tp.snd_cwnd < self.inflight_longterm {
            return;
        }
        self.bw_probe_up_acked = self.bw_probe_up_acked.saturating_add(rs.newly_acked);
        let more = self.bw_probe_up_acked / self.probe_up_acked_per_inc.max(1);
        self.bw_probe_up_acked -= more * self.probe_up_acked_per_inc;
        self.inflight_longterm = self.inflight_longterm.saturating_add(more);
        if self.round_start {
            self.raise_inflight_longterm_slope(tp.snd_cwnd);
        }
    }

    /// Moves the long-term bounds by what acknowledgements say of the last probe; true if that decided what
    /// comes next.
    fn adapt_long_term_model(&mut self, tp: &Tcb, rs: &RateSample, now: Instant) -> bool {
        if self.ack_phase == AckPhase::Starting && self.round_start {
            self.ack_phase = AckPhase::Feedback;
        }
        if self.ack_phase == AckPhase::Stopping && self.round_start {
            self.is_bw_probe_sample = false;
            self.ack_phase = AckPhase::Init;
            if self.mode.probe_bw() {
                if !rs.is_app_limited {
                    self.advance_max_bw_filter();
                }
                if self.prev_probe_precautionary && !self.prev_probe_too_high {
                    // The careful probe did no harm: now for as long as it takes.
                    self.start_probe_bw_refill(tp.delivered);
                    return true;
                }
            }
        }
        if self.ece_in_round && self.is_bw_probe_sample {
            self.handle_inflight_too_high(tp, rs.tx_in_flight, rs.is_app_limited, now);
            return self.mode == Mode::Down;
        }
        if is_inflight_too_high(tp.sack_ok, rs.lost, rs.tx_in_flight)
            || self.inflight_longterm == INFINITE
        {
            return false;
        }
        self.inflight_longterm = self.inflight_longterm.max(rs.tx_in_flight);
        if self.mode == Mode::Up {
            self.probe_inflight_longterm_upward(tp, rs);
        }
        false
    }
}
