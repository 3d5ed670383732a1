//! BBR version 3: a model of the path, how fast it delivers and how long it takes when nothing waits, and
//! as much under way as the model says. Losses and marks bound the model; they do not rule it.
//!
//! ```text
//!  Startup ──full──> Drain ──empty──> ProbeBW: DOWN ──> CRUISE ──> REFILL ──> UP ──┐
//!                                               ^───────────────────────────────────┘
//!  every 5 s without a short round trip: ProbeRTT, for 200 ms
//! ```
//!
//! The parts: what the path can do ([model.rs](model.rs)), how it is asked ([probe.rs](probe.rs)), and here
//! what follows: pacing rate and window. Amounts are in segments, rates in segments a second.
//!
//! ECN: the draft leaves the response open but wants one. A round trip with marks counts as one with a
//! loss; while bandwidth is probed for, a mark ends the probe, as too many losses do.
//!
//! Linux: net/ipv4/tcp_bbr.c (version 1; version 3 in the branch of its authors). RFCs: draft-ietf-ccwg-bbr

mod model;
mod probe;

use super::{CongestionControl, Window};
use crate::rand::Rng;
use crate::tcp::rate::{RateSample, mark_app_limited};
use crate::tcp::{CaState, TCP_INIT_CWND, Tcb};
use crate::time::{Instant, MS, SEC};

/// Loss that is tolerated in a round trip while bandwidth is probed for (BBR.LossThresh).
const LOSS_THRESH: f64 = 0.02;
/// What a round trip with losses leaves of the bounds (BBR.Beta).
const BETA: f64 = 0.7;
/// Room left to others below the long-term bound (BBR.Headroom).
const HEADROOM: f64 = 0.15;
/// The least window (BBR.MinPipeCwnd).
const MIN_PIPE_CWND: u32 = 4;
/// Losses in a round trip that can end Startup (BBRStartupFullLossCnt).
const STARTUP_FULL_LOSS_CNT: u32 = 6;
/// Round trips with marks that end Startup.
const STARTUP_FULL_ECN_CNT: u32 = 2;
const MIN_RTT_FILTER_LEN: u64 = 10 * SEC;
const PROBE_RTT_INTERVAL: u64 = 5 * SEC;
const PROBE_RTT_DURATION: u64 = 200 * MS;
/// No bound.
const INFINITE: u32 = u32::MAX;

/// What it is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Startup,
    Drain,
    Down,
    Cruise,
    Refill,
    Up,
    ProbeRtt,
}

impl Mode {
    /// One of the four phases of ProbeBW.
    fn probe_bw(self) -> bool {
        matches!(self, Mode::Down | Mode::Cruise | Mode::Refill | Mode::Up)
    }
    /// It accelerates.
    fn probing(self) -> bool {
        matches!(self, Mode::Startup | Mode::Refill | Mode::Up)
    }
    fn pacing_gain(self) -> f64 {
        match self {
            Mode::Startup => 2.77,
            Mode::Drain => 0.5,
            Mode::Down => 0.9,
            Mode::Cruise | Mode::Refill | Mode::ProbeRtt => 1.0,
            Mode::Up => 1.25,
        }
    }
    fn cwnd_gain(self) -> f64 {
        match self {
            Mode::Up => 2.25,
            Mode::ProbeRtt => 0.5,
            _ => 2.0,
        }
    }
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Startup => "Startup",
            Mode::Drain => "Drain",
            Mode::Down => "ProbeBW_DOWN",
            Mode::Cruise => "ProbeBW_CRUISE",
            Mode::Refill => "ProbeBW_REFILL",
            Mode::Up => "ProbeBW_UP",
            Mode::ProbeRtt => "ProbeRTT",
        }
    }
}

/// What acknowledgements mean for a probe of bandwidth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum AckPhase {
    #[default]
    Init,
    Refilling,
    Starting,
    Feedback,
    Stopping,
}

/// State of BBR. The names are the draft's.
#[derive(Clone, Debug)]
pub(crate) struct Bbr {
    mode: Mode,
    ack_phase: AckPhase,
    rng: Rng,
    /// Greatest delivery rate of this cycle, and of the one before.
    max_bw: [f64; 2],
    bw_shortterm: f64,
    bw: f64,
    bw_latest: f64,
    inflight_latest: u32,
    inflight_longterm: u32,
    inflight_shortterm: u32,
    min_rtt_us: u32,
    min_rtt_stamp: Instant,
    probe_rtt_min_us: u32,
    probe_rtt_min_stamp: Instant,
    probe_rtt_done_stamp: Option<Instant>,
    probe_rtt_round_done: bool,
    probe_rtt_expired: bool,
    idle_restart: bool,
    prior_cwnd: u32,
    /// The congestion state when the last acknowledgement was dealt with.
    prior_ca: CaState,
    next_round_delivered: u32,
    round_start: bool,
    round_count: u32,
    loss_round_delivered: u32,
    loss_round_start: bool,
    loss_in_round: bool,
    /// Segments lost and delivered when this round of losses began.
    loss_round_base: (u32, u32),
    loss_events_in_round: u32,
    ece_in_round: bool,
    startup_ecn_rounds: u32,
    delivered_ce: u32,
    full_bw: f64,
    full_bw_count: u32,
    full_bw_now: bool,
    full_bw_reached: bool,
    drain_start_round: u32,
    extra_acked: [u32; 2],
    extra_acked_rounds: u32,
    extra_acked_interval_start: Instant,
    extra_acked_delivered: u32,
    is_bw_probe_sample: bool,
    prev_probe_too_high: bool,
    prev_probe_precautionary: bool,
    probe_up_acked_per_inc: u32,
    bw_probe_up_acked: u32,
    bw_probe_up_rounds: u32,
    rounds_since_probe_up: u32,
    bw_probe_wait: u64,
    cycle_stamp: Instant,
    undo_mode: Option<Mode>,
    undo_bw_shortterm: f64,
    undo_inflight_shortterm: u32,
    undo_inflight_longterm: u32,
    /// Payload of a segment, in bytes.
    mss: u32,
    /// Bytes a second, and bytes that leave at once.
    pub pacing_rate: u64,
    pub send_quantum: u32,
}

impl Bbr {
    /// Before the connection is open nothing is known (`OnInit`).
    pub fn new(seed: u64, tp: Option<&Tcb>, now: Instant) -> Bbr {
        let srtt_us = tp.map_or(0, |tp| tp.srtt_us8 >> 3);
        let min_rtt_us = if srtt_us > 0 { srtt_us } else { u32::MAX };
        let mut bbr = Bbr {
            mode: Mode::Startup,
            ack_phase: AckPhase::Init,
            rng: Rng::new(seed),
            max_bw: [0.0; 2],
            bw_shortterm: f64::INFINITY,
            bw: 0.0,
            bw_latest: 0.0,
            inflight_latest: 0,
            inflight_longterm: INFINITE,
            inflight_shortterm: INFINITE,
            min_rtt_us,
            min_rtt_stamp: now,
            probe_rtt_min_us: min_rtt_us,
            probe_rtt_min_stamp: now,
            probe_rtt_done_stamp: None,
            probe_rtt_round_done: false,
            probe_rtt_expired: false,
            idle_restart: false,
            prior_cwnd: 0,
            prior_ca: CaState::Open,
            next_round_delivered: tp.map_or(0, |tp| tp.delivered),
            round_start: false,
            round_count: 0,
            loss_round_delivered: tp.map_or(0, |tp| tp.delivered),
            loss_round_start: false,
            loss_in_round: false,
            loss_round_base: tp.map_or((0, 0), |tp| (tp.lost, tp.delivered)),
            loss_events_in_round: 0,
            ece_in_round: false,
            startup_ecn_rounds: 0,
            delivered_ce: tp.map_or(0, |tp| tp.delivered_ce),
            full_bw: 0.0,
            full_bw_count: 0,
            full_bw_now: false,
            full_bw_reached: false,
            drain_start_round: 0,
            extra_acked: [0; 2],
            extra_acked_rounds: 0,
            extra_acked_interval_start: now,
            extra_acked_delivered: 0,
            is_bw_probe_sample: false,
            prev_probe_too_high: false,
            prev_probe_precautionary: false,
            probe_up_acked_per_inc: INFINITE,
            bw_probe_up_acked: 0,
            bw_probe_up_rounds: 0,
            rounds_since_probe_up: 0,
            bw_probe_wait: 0,
            cycle_stamp: now,
            undo_mode: None,
            undo_bw_shortterm: 0.0,
            undo_inflight_shortterm: 0,
            undo_inflight_longterm: 0,
            mss: tp.map_or(536, |tp| tp.mss_cache as u32),
            pacing_rate: 0,
            send_quantum: 0,
        };
        if let Some(tp) = tp {
            // Until something is measured: the window in a round trip, or in a millisecond.
            let rtt = if srtt_us > 0 { srtt_us as f64 * 1e-6 } else { 1e-3 };
            let nominal = tp.snd_cwnd as f64 / rtt;
            bbr.pacing_rate = (bbr.mode.pacing_gain() * nominal * tp.mss_cache as f64) as u64;
            bbr.set_send_quantum();
        }
        bbr
    }

    /// The clock began at another time.
    pub fn retime(&mut self, shift: i64) {
        let points = [
            &mut self.min_rtt_stamp,
            &mut self.probe_rtt_min_stamp,
            &mut self.extra_acked_interval_start,
            &mut self.cycle_stamp,
        ];
        for at in points.into_iter().chain(&mut self.probe_rtt_done_stamp) {
            *at = at.shifted(shift);
        }
    }
    /// What it is at.
    pub fn mode(&self) -> Mode {
        self.mode
    }
    /// The rate of its model, in segments a second.
    pub fn bw(&self) -> f64 {
        self.bw
    }
    /// The least round trip of its model in microseconds, if there was any.
    pub fn min_rtt_us(&self) -> Option<u32> {
        (self.min_rtt_us != u32::MAX).then_some(self.min_rtt_us)
    }

    /// An acknowledgement came (`UpdateOnACK`): the new window is left in `tp`.
    pub fn on_ack(&mut self, tp: &mut Tcb, rs: &RateSample, now: Instant) {
        let recovered = self.prior_ca >= CaState::Recovery && tp.ca_state < CaState::Recovery;
        if recovered {
            tp.snd_cwnd = tp.snd_cwnd.max(self.prior_cwnd);
        }
        self.prior_ca = tp.ca_state;
        self.mss = tp.mss_cache as u32;
        self.update_model_and_state(tp, rs, now);
        self.set_pacing_rate(self.mode.pacing_gain());
        self.set_send_quantum();
        self.set_cwnd(tp, rs);
    }

    fn update_model_and_state(&mut self, tp: &mut Tcb, rs: &RateSample, now: Instant) {
        self.update_latest_delivery_signals(tp, rs);
        self.update_congestion_signals(tp, rs);
        self.update_ack_aggregation(tp, rs, now);
        self.check_full_bw_reached(rs);
        self.check_startup_done(tp, rs);
        self.check_drain_done(tp, now);
        self.update_probe_bw_cycle_phase(tp, rs, now);
        self.update_min_rtt(rs, now);
        self.check_probe_rtt(tp, rs, now);
        self.advance_latest_delivery_signals(rs);
        self.bw = self.max_bw().min(self.bw_shortterm);
    }

    fn check_full_bw_reached(&mut self, rs: &RateSample) {
        if self.full_bw_now || !self.round_start || rs.is_app_limited || rs.rate == 0.0 {
            return;
        }
        if rs.rate >= self.full_bw * 1.25 {
            self.reset_full_bw();
            self.full_bw = rs.rate;
            return;
        }
        self.full_bw_count += 1;
        self.full_bw_now = self.full_bw_count >= 3;
        self.full_bw_reached |= self.full_bw_now;
    }
    fn reset_full_bw(&mut self) {
        (self.full_bw, self.full_bw_count, self.full_bw_now) = (0.0, 0, false);
    }

    fn check_startup_done(&mut self, tp: &Tcb, rs: &RateSample) {
        self.check_startup_high_loss(tp, rs);
        if self.mode == Mode::Startup && self.full_bw_reached {
            self.mode = Mode::Drain;
            self.drain_start_round = self.round_count;
        }
    }

    /// Losses, or marks, of a whole round trip end Startup although the rate still grows.
    fn check_startup_high_loss(&mut self, tp: &Tcb, rs: &RateSample) {
        if self.full_bw_reached {
            return;
        }
        self.loss_events_in_round += u32::from(rs.losses > 0);
        if !self.loss_round_start {
            return;
        }
        let recovery = tp.ca_state == CaState::Recovery;
        let lost = match tp.sack_ok {
            true => {
                self.loss_events_in_round >= STARTUP_FULL_LOSS_CNT
                    && is_inflight_too_high(true, rs.lost, rs.tx_in_flight)
            }
            false => rs.lost > 0,
        };
        if recovery && lost && !rs.is_app_limited || self.startup_ecn_rounds >= STARTUP_FULL_ECN_CNT
        {
            self.undo_mode = Some(Mode::Startup);
            self.full_bw_reached = true;
            let bdp = self.inflight(self.max_bw(), 1.0);
            self.inflight_longterm = bdp.max(self.inflight_latest);
        }
        self.loss_events_in_round = 0;
    }

    fn check_drain_done(&mut self, tp: &Tcb, now: Instant) {
        let drained = tp.in_flight() <= self.inflight(self.bw, 1.0);
        if self.mode == Mode::Drain && (drained || self.round_count > self.drain_start_round + 3) {
            self.start_probe_bw_down(tp, now);
        }
    }

    fn update_min_rtt(&mut self, rs: &RateSample, now: Instant) {
        self.probe_rtt_expired = now.since(self.probe_rtt_min_stamp) > PROBE_RTT_INTERVAL;
        if let Some(rtt) = rs.rtt_us
            && (rtt < self.probe_rtt_min_us || self.probe_rtt_expired)
        {
            (self.probe_rtt_min_us, self.probe_rtt_min_stamp) = (rtt, now);
        }
        let expired = now.since(self.min_rtt_stamp) > MIN_RTT_FILTER_LEN;
        if self.probe_rtt_min_us < self.min_rtt_us || expired {
            self.min_rtt_us = self.probe_rtt_min_us;
            self.min_rtt_stamp = self.probe_rtt_min_stamp;
        }
    }

    fn check_probe_rtt(&mut self, tp: &mut Tcb, rs: &RateSample, now: Instant) {
        if self.mode != Mode::ProbeRtt && self.probe_rtt_expired && !self.idle_restart {
            self.save_cwnd(tp.snd_cwnd);
            self.mode = Mode::ProbeRtt;
            self.probe_rtt_done_stamp = None;
            self.ack_phase = AckPhase::Stopping;
            self.start_round(tp);
        }
        if self.mode == Mode::ProbeRtt {
            self.handle_probe_rtt(tp, now);
        }
        if rs.delivered > 0 {
            self.idle_restart = false;
        }
    }

    fn handle_probe_rtt(&mut self, tp: &mut Tcb, now: Instant) {
        // So little under way says nothing about the rate.
        mark_app_limited(tp);
        match self.probe_rtt_done_stamp {
            None if tp.in_flight() <= self.probe_rtt_cwnd() => {
                self.probe_rtt_done_stamp = Some(now.plus(PROBE_RTT_DURATION));
                self.probe_rtt_round_done = false;
                self.start_round(tp);
            }
            None => {}
            Some(_) => {
                self.probe_rtt_round_done |= self.round_start;
                if self.probe_rtt_round_done {
                    self.check_probe_rtt_done(tp, now);
                }
            }
        }
    }

    fn check_probe_rtt_done(&mut self, tp: &mut Tcb, now: Instant) {
        if self.probe_rtt_done_stamp.is_none_or(|done| now <= done) {
            return;
        }
        self.probe_rtt_min_stamp = now;
        tp.snd_cwnd = tp.snd_cwnd.max(self.prior_cwnd);
        self.reset_short_term_model();
        if self.full_bw_reached {
            // What is under way is below what the path holds: nothing is to be drained.
            self.start_probe_bw_down(tp, now);
            self.mode = Mode::Cruise;
        } else {
            self.mode = Mode::Startup;
        }
    }

    /// Something is sent after a pause (`HandleRestartFromIdle`).
    pub fn restart_from_idle(&mut self, tp: &mut Tcb, now: Instant) {
        if tp.sndq.rate.as_ref().is_none_or(|rate| rate.app_limited == 0) {
            return;
        }
        self.idle_restart = true;
        self.extra_acked_interval_start = now;
        if self.mode.probe_bw() {
            self.set_pacing_rate(1.0);
        } else if self.mode == Mode::ProbeRtt {
            self.check_probe_rtt_done(tp, now);
        }
    }

    fn set_pacing_rate(&mut self, gain: f64) {
        // One in a hundred below the rate, so that queues get shorter (BBR.PacingMarginPercent).
        let rate = (gain * self.bw * self.mss as f64 * 0.99) as u64;
        if rate > 0 && (self.full_bw_reached || rate > self.pacing_rate) {
            self.pacing_rate = rate;
        }
    }
    fn set_send_quantum(&mut self) {
        self.send_quantum = ((self.pacing_rate / 1000).min(65_535) as u32).max(2 * self.mss);
    }

    fn bdp_multiple(&self, bw: f64, gain: f64) -> u32 {
        if self.min_rtt_us == u32::MAX {
            return TCP_INIT_CWND;
        }
        (gain * bw * self.min_rtt_us as f64 * 1e-6).ceil() as u32
    }
    fn quantization_budget(&self, inflight: u32) -> u32 {
        // One each in the discipline, being cut, and being put together by the receiver.
        let quantum = (self.send_quantum / self.mss.max(1)).max(2);
        let up = if self.mode == Mode::Up { 2 } else { 0 };
        inflight.max(3 * quantum).max(MIN_PIPE_CWND).saturating_add(up)
    }
    /// Segments that fill the path at `bw`, times `gain`.
    fn inflight(&self, bw: f64, gain: f64) -> u32 {
        self.quantization_budget(self.bdp_multiple(bw, gain))
    }
    fn probe_rtt_cwnd(&self) -> u32 {
        self.bdp_multiple(self.bw, Mode::ProbeRtt.cwnd_gain()).max(MIN_PIPE_CWND)
    }

    fn set_cwnd(&mut self, tp: &mut Tcb, rs: &RateSample) {
        let extra = self.extra_acked[0].max(self.extra_acked[1]);
        let most = self.bdp_multiple(self.bw, self.mode.cwnd_gain()).saturating_add(extra);
        let most = self.quantization_budget(most);
        let mut cwnd = tp.snd_cwnd;
        if self.full_bw_reached {
            cwnd = (cwnd + rs.newly_acked).min(most);
        } else if cwnd < most || tp.delivered < TCP_INIT_CWND {
            cwnd += rs.newly_acked;
        }
        cwnd = cwnd.max(MIN_PIPE_CWND);
        if self.mode == Mode::ProbeRtt {
            cwnd = cwnd.min(self.probe_rtt_cwnd());
        }
        let cap = match self.mode {
            Mode::Down | Mode::Refill | Mode::Up => self.inflight_longterm,
            Mode::Cruise | Mode::ProbeRtt => self.inflight_with_headroom(),
            Mode::Startup | Mode::Drain => INFINITE,
        };
        let cap = cap.min(self.inflight_shortterm).max(MIN_PIPE_CWND);
        tp.snd_cwnd = cwnd.min(cap).min(1 << 20);
    }

    fn save_cwnd(&mut self, cwnd: u32) {
        let undisturbed = self.prior_ca < CaState::Recovery && self.mode != Mode::ProbeRtt;
        self.prior_cwnd = if undisturbed { cwnd } else { self.prior_cwnd.max(cwnd) };
    }
}

/// Whether so many losses say that too much was under way: more than what is tolerated comes to by chance,
/// which is a standard deviation more, and at least one. The draft leaves chance out: of fewer than fifty
/// packets a single one would be too many then, and a path that loses one in a hundred would seem too full
/// time and again.
fn is_inflight_too_high(sack: bool, lost: u32, tx_in_flight: u32) -> bool {
    let tolerated = tx_in_flight as f64 * LOSS_THRESH;
    if sack { lost as f64 > (tolerated + tolerated.sqrt()).max(1.0) } else { lost > 0 }
}

impl CongestionControl for Bbr {
    fn name(&self) -> &'static str {
        "bbr"
    }
    /// Recovery begins: what may have to be restored is noted; the threshold is not its own.
    fn ssthresh(&mut self, w: &Window) -> u32 {
        self.save_cwnd(w.cwnd);
        self.save_state_upon_loss();
        w.ssthresh
    }
    fn cong_avoid(&mut self, _: &mut Window, _: u32) -> bool {
        false
    }
    /// Nothing was lost at all.
    fn undo_cwnd(&mut self, w: &Window) -> u32 {
        self.handle_spurious_loss(w);
        w.cwnd.max(self.prior_cwnd)
    }
}
