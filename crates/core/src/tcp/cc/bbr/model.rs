//! What the path can do: the greatest rate, the bounds that losses and marks set, and how much comes
//! acknowledged at once.
//!
//! Linux: see the folder. RFCs: draft-ietf-ccwg-bbr §5.5

use super::{
    BETA, Bbr, HEADROOM, INFINITE, LOSS_THRESH, MIN_PIPE_CWND, Mode, Window, is_inflight_too_high,
};
use crate::tcp::Tcb;
use crate::tcp::rate::{RateSample, TxRate};
use crate::time::Instant;

/// `a` is not before `b`: counts of segments wrap.
fn reached(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

/// A part of an amount of segments.
fn part(of: u32, share: f64) -> u32 {
    (of as f64 * share) as u32
}

impl Bbr {
    /// The greatest rate of this cycle of probing and the one before.
    pub(super) fn max_bw(&self) -> f64 {
        self.max_bw[0].max(self.max_bw[1])
    }
    pub(super) fn advance_max_bw_filter(&mut self) {
        if self.max_bw[0] > 0.0 {
            self.max_bw = [0.0, self.max_bw[0]];
        }
    }
    pub(super) fn start_round(&mut self, tp: &Tcb) {
        self.next_round_delivered = tp.delivered;
    }
    fn update_max_bw(&mut self, tp: &Tcb, rs: &RateSample) {
        self.round_start = rs.has_data() && reached(rs.prior_delivered, self.next_round_delivered);
        if self.round_start {
            self.start_round(tp);
            self.round_count = self.round_count.wrapping_add(1);
            self.rounds_since_probe_up = self.rounds_since_probe_up.saturating_add(1);
        }
        if rs.rate > 0.0 && (rs.rate >= self.max_bw() || !rs.is_app_limited) {
            self.max_bw[0] = self.max_bw[0].max(rs.rate);
        }
    }

    pub(super) fn update_latest_delivery_signals(&mut self, tp: &Tcb, rs: &RateSample) {
        self.loss_round_start = false;
        self.bw_latest = self.bw_latest.max(rs.rate);
        self.inflight_latest = self.inflight_latest.max(rs.delivered);
        if rs.has_data() && reached(rs.prior_delivered, self.loss_round_delivered) {
            self.loss_round_delivered = tp.delivered;
            self.loss_round_start = true;
        }
    }
    pub(super) fn advance_latest_delivery_signals(&mut self, rs: &RateSample) {
        if self.loss_round_start {
            (self.bw_latest, self.inflight_latest) = (rs.rate, rs.delivered);
        }
    }
    pub(super) fn reset_congestion_signals(&mut self) {
        (self.loss_in_round, self.ece_in_round) = (false, false);
        (self.bw_latest, self.inflight_latest) = (0.0, 0);
    }

    pub(super) fn update_congestion_signals(&mut self, tp: &Tcb, rs: &RateSample) {
        self.update_max_bw(tp, rs);
        self.ece_in_round |= tp.delivered_ce != self.delivered_ce;
        self.delivered_ce = tp.delivered_ce;
        if !self.loss_round_start {
            return;
        }
        let lost = self.loss_in_round && self.loss_counts(tp);
        if !self.mode.probing() && (lost || self.ece_in_round) {
            self.adapt_lower_bounds(tp);
        }
        self.loss_round_base = (tp.lost, tp.delivered);
        let marked = if self.ece_in_round { self.startup_ecn_rounds + 1 } else { 0 };
        self.startup_ecn_rounds = marked;
        (self.loss_in_round, self.ece_in_round) = (false, false);
    }

    /// Whether what was lost in this round is more than is tolerated while probing. The draft has the bounds follow every loss; at one in a hundred, which it
    /// means to bear, they would shrink by that each round trip, to half the rate between two probes.
    fn loss_counts(&self, tp: &Tcb) -> bool {
        let lost = tp.lost.wrapping_sub(self.loss_round_base.0);
        let delivered = tp.delivered.wrapping_sub(self.loss_round_base.1);
        is_inflight_too_high(tp.sack_ok, lost, delivered.saturating_add(lost))
    }
    /// Once a round trip: down to what arrives, but not by more than CUBIC would.
    fn adapt_lower_bounds(&mut self, tp: &Tcb) {
        if self.bw_shortterm.is_infinite() {
            self.bw_shortterm = self.max_bw();
        }
        if self.inflight_shortterm == INFINITE {
            self.inflight_shortterm = tp.snd_cwnd;
        }
        self.bw_shortterm = self.bw_latest.max(BETA * self.bw_shortterm);
        self.inflight_shortterm = self.inflight_latest.max(part(self.inflight_shortterm, BETA));
    }
    pub(super) fn reset_short_term_model(&mut self) {
        (self.bw_shortterm, self.inflight_shortterm) = (f64::INFINITY, INFINITE);
    }

    /// What comes acknowledged beyond what the rate explains: the window is larger by that, so that
    /// sending goes on until the next cluster of acknowledgements (`UpdateACKAggregation`). The greatest of
    /// the last five to ten round trips counts; in Startup, of the last one.
    pub(super) fn update_ack_aggregation(&mut self, tp: &Tcb, rs: &RateSample, now: Instant) {
        if self.round_start {
            self.extra_acked_rounds += 1;
            if self.extra_acked_rounds >= if self.full_bw_reached { 5 } else { 1 } {
                self.extra_acked_rounds = 0;
                self.extra_acked = [0, self.extra_acked[0]];
            }
        }
        let since = now.since(self.extra_acked_interval_start);
        let mut expected = (self.bw * since as f64 * 1e-9) as u32;
        if self.extra_acked_delivered <= expected {
            (self.extra_acked_delivered, expected) = (0, 0);
            self.extra_acked_interval_start = now;
        }
        self.extra_acked_delivered = self.extra_acked_delivered.saturating_add(rs.newly_acked);
        let extra = (self.extra_acked_delivered - expected).min(tp.snd_cwnd);
        self.extra_acked[0] = self.extra_acked[0].max(extra);
    }

    /// What is left to others, of the bound that is known.
    pub(super) fn inflight_with_headroom(&self) -> u32 {
        if self.inflight_longterm == INFINITE {
            return INFINITE;
        }
        let headroom = part(self.inflight_longterm, HEADROOM).max(1);
        self.inflight_longterm.saturating_sub(headroom).max(MIN_PIPE_CWND)
    }
    /// The estimated product of rate and delay, unless congestion has cut the window.
    pub(super) fn target_inflight(&self, cwnd: u32) -> u32 {
        self.bdp_multiple(self.bw, 1.0).min(cwnd)
    }

    /// A packet of `segs` segments is marked lost; `at` is what was true when it was sent
    /// (`HandleLostPacket`).
    pub fn on_loss(&mut self, tp: &Tcb, segs: u32, at: Option<&TxRate>, now: Instant) {
        if !self.loss_in_round {
            self.loss_round_delivered = tp.delivered;
            if self.prior_ca < crate::tcp::CaState::Recovery {
                self.save_cwnd(tp.snd_cwnd);
                self.save_state_upon_loss();
            }
        }
        self.loss_in_round = true;
        let Some(at) = at.filter(|_| self.is_bw_probe_sample) else { return };
        let lost = tp.lost.wrapping_sub(at.lost);
        if is_inflight_too_high(tp.sack_ok, lost, at.in_flight) {
            // Where in this packet did losses become too many?
            let before = at.in_flight.saturating_sub(segs) as f64;
            let lost_before = lost.saturating_sub(segs) as f64;
            let prefix = (LOSS_THRESH * before - lost_before) / (1.0 - LOSS_THRESH);
            let inflight = (before + prefix.max(0.0)) as u32;
            self.handle_inflight_too_high(tp, inflight, at.app_limited, now);
        }
    }

    pub(super) fn handle_inflight_too_high(
        &mut self,
        tp: &Tcb,
        tx_in_flight: u32,
        app_limited: bool,
        now: Instant,
    ) {
        self.prev_probe_too_high = true;
        self.is_bw_probe_sample = false;
        if !app_limited {
            let least = part(self.target_inflight(tp.snd_cwnd), BETA);
            self.inflight_longterm = tx_in_flight.max(least).max(1);
        }
        if self.mode == Mode::Up {
            self.undo_mode = Some(Mode::Up);
            self.start_probe_bw_down(tp, now);
        }
    }

    pub(super) fn save_state_upon_loss(&mut self) {
        self.undo_mode = None;
        self.undo_bw_shortterm = self.bw_shortterm;
        self.undo_inflight_shortterm = self.inflight_shortterm;
        self.undo_inflight_longterm = self.inflight_longterm;
    }

    /// What was taken for losses was none (`HandleSpuriousLossDetection`).
    pub(super) fn handle_spurious_loss(&mut self, w: &Window) {
        self.loss_in_round = false;
        self.reset_full_bw();
        self.bw_shortterm = self.bw_shortterm.max(self.undo_bw_shortterm);
        self.inflight_shortterm = self.inflight_shortterm.max(self.undo_inflight_shortterm);
        self.inflight_longterm = self.inflight_longterm.max(self.undo_inflight_longterm);
        match self.undo_mode.take() {
            Some(Mode::Startup) if self.mode != Mode::Startup => {
                self.full_bw_reached = false;
                if self.mode != Mode::ProbeRtt {
                    self.mode = Mode::Startup;
                }
            }
            Some(Mode::Up) if !matches!(self.mode, Mode::Up | Mode::ProbeRtt) => {
                self.start_probe_bw_refill(w.delivered);
            }
            _ => {}
        }
    }
}
