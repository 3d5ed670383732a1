//! Congestion control: a trait, and the window's bookkeeping that all algorithms share.
//!
//! Linux: net/ipv4/tcp_cong.c (`struct tcp_congestion_ops`). RFCs: 5681, 9438, 6928.

mod bbr;
mod cubic;
mod dctcp;
mod hystart;
mod reno;

use super::ack::Acked;
use super::ecn::Ecn;
use super::pacing::tcp_pacing_update;
use super::rate::{Rate, tcp_rate_gen};
use super::{CaState, TCP_INFINITE_SSTHRESH, TCP_INIT_CWND, Tcb};
use crate::seq::Seq;
use crate::shard::Net;
use crate::table::knob::CcName;
use crate::time::Instant;

pub(crate) use bbr::Bbr;
pub(crate) use cubic::Cubic;
pub(crate) use dctcp::{Dctcp, Delivery};
pub(crate) use reno::Reno;

/// The window, as an algorithm sees and moves it. All in segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Congestion window.
    pub cwnd: u32,
    /// Slow-start threshold.
    pub ssthresh: u32,
    /// Segments acknowledged towards the next increase.
    pub cnt: u32,
    /// Congestion window before the last reduction.
    pub prior_cwnd: u32,
    /// Smoothed round trip in microseconds.
    pub srtt_us: u32,
    /// The round trip of this acknowledgement in microseconds, if it was measured.
    pub rtt_us: Option<u32>,
    /// SND.UNA and SND.NXT: rounds are counted by them.
    pub una: Seq,
    /// See `una`.
    pub nxt: Seq,
    /// Segments ever delivered.
    pub delivered: u32,
    /// Now.
    pub now: Instant,
}

/// An algorithm (`struct tcp_congestion_ops`).
pub(crate) trait CongestionControl {
    /// Its name, as the kernel has it.
    fn name(&self) -> &'static str;
    /// Congestion: the new slow-start threshold.
    fn ssthresh(&mut self, w: &Window) -> u32;
    /// The same, where it is known that packets were lost, not only marked.
    fn ssthresh_of_loss(&mut self, w: &Window) -> u32 {
        self.ssthresh(w)
    }
    /// `acked` segments were delivered and the window is in use: it may grow. True if slow start
    /// was left because the delay grew.
    fn cong_avoid(&mut self, w: &mut Window, acked: u32) -> bool;
    /// The reduction was a mistake: the window to go back to.
    fn undo_cwnd(&mut self, w: &Window) -> u32 {
        w.cwnd.max(w.prior_cwnd)
    }
    /// A timeout, or a pause: what was known of the path counts no more.
    fn reset(&mut self) {}
}

/// The algorithm of a connection with its state.
#[derive(Clone, Debug)]
pub(crate) enum Cc {
    /// RFC 9438.
    Cubic(Cubic),
    /// RFC 5681.
    Reno(Reno),
    /// RFC 8257.
    Dctcp(Box<Dctcp>),
    /// draft-ietf-ccwg-bbr.
    Bbr(Box<Bbr>),
}

impl Cc {
    pub fn new(name: CcName) -> Cc {
        match name {
            CcName::Cubic => Cc::Cubic(Cubic::default()),
            CcName::Reno => Cc::Reno(Reno),
            CcName::Dctcp => Cc::Dctcp(Box::default()),
            CcName::Bbr => Cc::Bbr(Box::new(Bbr::new(0, None, Instant::ZERO))),
        }
    }
    /// It wants its packets marked, whatever `tcp_ecn` says (`TCP_CONG_NEEDS_ECN`).
    pub fn needs_ecn(&self) -> bool {
        matches!(self, Cc::Dctcp(_))
    }
    /// It sets window and rate by itself: nothing else reduces them (`cong_control`).
    pub fn rules(&self) -> bool {
        matches!(self, Cc::Bbr(_))
    }
    /// As a receiver it tells of each mark by itself (RFC 8257 §3.2).
    pub fn echoes_each_ce(&self) -> bool {
        matches!(self, Cc::Dctcp(_))
    }
    fn ops(&mut self) -> &mut dyn CongestionControl {
        match self {
            Cc::Cubic(cubic) => cubic,
            Cc::Reno(reno) => reno,
            Cc::Dctcp(dctcp) => &mut **dctcp,
            Cc::Bbr(bbr) => &mut **bbr,
        }
    }
    /// The clock began at another time: points of time move by `shift` nanoseconds.
    pub fn retime(&mut self, shift: i64) {
        match self {
            Cc::Cubic(cubic) => cubic.retime(shift),
            Cc::Bbr(bbr) => bbr.retime(shift),
            Cc::Reno(_) | Cc::Dctcp(_) => {}
        }
    }
    /// The algorithm's name.
    pub fn name(&self) -> &'static str {
        match self {
            Cc::Cubic(cubic) => cubic.name(),
            Cc::Reno(reno) => reno.name(),
            Cc::Dctcp(dctcp) => dctcp.name(),
            Cc::Bbr(bbr) => bbr.name(),
        }
    }
}

fn window(tp: &Tcb, now: Instant) -> Window {
    Window {
        cwnd: tp.snd_cwnd,
        ssthresh: tp.snd_ssthresh,
        cnt: tp.snd_cwnd_cnt,
        prior_cwnd: tp.prior_cwnd,
        srtt_us: tp.srtt_us8 >> 3,
        rtt_us: None,
        una: tp.snd_una,
        nxt: tp.snd_nxt,
        delivered: tp.delivered,
        now,
    }
}

/// The connection is open, or its application wants another algorithm: whatever an algorithm knows
/// begins now (`tcp_init_congestion_control`).
pub(crate) fn init(net: &mut Net, tp: &mut Tcb) {
    if !tp.cc.rules() {
        tp.sndq.rate = None;
    }
    match &mut tp.cc {
        Cc::Cubic(_) | Cc::Reno(_) => {}
        // Without marks it would never slow down but for losses.
        Cc::Dctcp(_) if !tp.ecn.has(Ecn::OK) => tp.cc = Cc::Reno(Reno),
        Cc::Dctcp(dctcp) => {
            let alpha = net.knobs.dctcp_alpha_on_init;
            **dctcp =
                Dctcp::new(alpha, &delivery(tp.snd_una, tp.snd_nxt, tp.delivered, tp.delivered_ce));
        }
        Cc::Bbr(_) => {
            let bbr = Bbr::new(net.rng.next_u64(), Some(tp), net.now);
            tp.cc = Cc::Bbr(Box::new(bbr));
            tp.sndq.rate = Some(Box::new(Rate::new(tp.sndq.rtx.len())));
        }
    }
    tcp_pacing_update(net, tp);
    with_bbr(tp, |_, _| ());
}

/// Does something with BBR and the connection, if that has it; what BBR says of pacing is taken over.
fn with_bbr(tp: &mut Tcb, act: impl FnOnce(&mut Bbr, &mut Tcb)) {
    match std::mem::replace(&mut tp.cc, Cc::Reno(Reno)) {
        Cc::Bbr(mut bbr) => {
            act(&mut bbr, tp);
            if let Some(pace) = &mut tp.pace {
                pace.rate = bbr.pacing_rate;
            }
            tp.cc = Cc::Bbr(bbr);
        }
        other => tp.cc = other,
    }
}

/// The algorithm rules by itself: it is told of the acknowledgement, and nothing else moves the window
/// (`cong_control`). False if it does not.
#[inline]
pub(crate) fn cong_control(net: &Net, tp: &mut Tcb, a: &Acked) -> bool {
    tp.cc.rules() && rules(net, tp, a)
}

fn rules(net: &Net, tp: &mut Tcb, a: &Acked) -> bool {
    let now = net.now;
    let Some(mut rs) = tcp_rate_gen(tp, now) else { return false };
    rs.newly_acked = tp.delivered.wrapping_sub(a.prior_delivered);
    rs.losses = tp.lost.wrapping_sub(a.prior_lost);
    rs.rtt_us = a.rtt_us.or(a.sack_rtt_us);
    with_bbr(tp, |bbr, tp| bbr.on_ack(tp, &rs, now));
    true
}

/// The packet at place `i` was marked lost (`skb_marked_lost`).
#[inline]
pub(crate) fn skb_marked_lost(tp: &mut Tcb, i: usize, now: Instant) {
    if tp.cc.rules() {
        let segs = tp.sndq.rtx.get(i).map_or(1, |t| t.segs as u32);
        let at = tp.sndq.rate.as_ref().and_then(|rate| rate.at(i)).copied();
        with_bbr(tp, |bbr, tp| bbr.on_loss(tp, segs, at.as_ref(), now));
    }
}

/// Nothing is under way, and something is to be sent (`CA_EVENT_TX_START`).
pub(crate) fn tx_start(tp: &mut Tcb, now: Instant) {
    if tp.cc.rules() {
        with_bbr(tp, |bbr, tp| bbr.restart_from_idle(tp, now));
    }
}

/// The most bytes that leave at once, where the algorithm has an opinion.
pub(crate) fn send_quantum(tp: &Tcb) -> Option<u32> {
    match &tp.cc {
        Cc::Bbr(bbr) => Some(bbr.send_quantum),
        _ => None,
    }
}

fn delivery(una: Seq, nxt: Seq, delivered: u32, delivered_ce: u32) -> Delivery {
    Delivery { una, nxt, delivered, delivered_ce }
}

/// An acknowledgement came, whatever it says (`tcp_in_ack_event`).
#[inline]
pub(crate) fn in_ack_event(net: &Net, tp: &mut Tcb) {
    if let Cc::Dctcp(dctcp) = &mut tp.cc {
        let d = delivery(tp.snd_una, tp.snd_nxt, tp.delivered, tp.delivered_ce);
        dctcp.update_alpha(&d, net.knobs.dctcp_shift_g);
    }
}

/// The slow-start threshold after congestion; `lost`: packets were lost, not only marked.
pub(crate) fn ssthresh(tp: &mut Tcb, now: Instant, lost: bool) -> u32 {
    let w = window(tp, now);
    let ops = tp.cc.ops();
    let threshold = if lost { ops.ssthresh_of_loss(&w) } else { ops.ssthresh(&w) };
    threshold.max(2)
}

/// Lets the window grow, if it is used (`tcp_cong_avoid`). True if HyStart ended slow start.
pub(crate) fn cong_avoid(tp: &mut Tcb, now: Instant, acked: u32, rtt_us: Option<u32>) -> bool {
    // A window that nothing fills says nothing about the path (RFC 7661; `tcp_is_cwnd_limited`).
    let slow_start = tp.snd_cwnd < tp.snd_ssthresh;
    let used = tp.cwnd_limited || slow_start && tp.snd_cwnd < 2 * tp.max_packets_out;
    if !used || acked == 0 {
        return false;
    }
    let mut w = window(tp, now);
    w.rtt_us = rtt_us;
    let left = tp.cc.ops().cong_avoid(&mut w, acked);
    tp.snd_cwnd = w.cwnd.clamp(1, 1 << 20);
    tp.snd_cwnd_cnt = w.cnt;
    tp.snd_ssthresh = w.ssthresh;
    left
}

/// The window to go back to after a reduction that was a mistake.
pub(crate) fn undo_cwnd(tp: &mut Tcb, now: Instant) -> u32 {
    let w = window(tp, now);
    tp.cc.ops().undo_cwnd(&w)
}

/// What was known of the path counts no more.
pub(crate) fn reset(tp: &mut Tcb) {
    tp.cc.ops().reset();
}

/// After a pause: the window halves for each RTO, down to the initial one (`tcp_cwnd_restart`).
pub(crate) fn tcp_cwnd_restart(tp: &mut Tcb, idle_us: u64) {
    let restart = TCP_INIT_CWND.min(tp.snd_cwnd);
    if tp.ca_state == CaState::Open {
        tp.snd_ssthresh = current_ssthresh(tp);
    }
    let mut cwnd = tp.snd_cwnd;
    let mut left = idle_us.saturating_sub(tp.rto_us as u64);
    while left > 0 && cwnd > restart {
        cwnd >>= 1;
        left = left.saturating_sub(tp.rto_us.max(1) as u64);
    }
    tp.snd_cwnd = cwnd.max(restart);
    tp.cwnd_limited = false;
    tp.max_packets_out = 0;
    reset(tp);
}

/// What slow start may reach again (`tcp_current_ssthresh`).
pub(crate) fn current_ssthresh(tp: &Tcb) -> u32 {
    if tp.in_cwnd_reduction() {
        tp.snd_ssthresh
    } else if tp.snd_ssthresh >= TCP_INFINITE_SSTHRESH {
        TCP_INFINITE_SSTHRESH
    } else {
        tp.snd_ssthresh.max((tp.snd_cwnd >> 1) + (tp.snd_cwnd >> 2))
    }
}

/// Slow start: one segment for each that was delivered; returns those left over (`tcp_slow_start`).
fn tcp_slow_start(w: &mut Window, acked: u32) -> u32 {
    let cwnd = w.cwnd.saturating_add(acked).min(w.ssthresh.max(w.cwnd));
    let used = cwnd - w.cwnd;
    w.cwnd = cwnd;
    acked - used
}

/// Additive increase: one segment for every `per` that are delivered (`tcp_cong_avoid_ai`).
fn tcp_cong_avoid_ai(w: &mut Window, per: u32, acked: u32) {
    let per = per.max(1);
    if w.cnt >= per {
        w.cnt = 0;
        w.cwnd += 1;
    }
    w.cnt += acked;
    if w.cnt >= per {
        let more = w.cnt / per;
        w.cnt -= more * per;
        w.cwnd += more;
    }
}

/// Reno's growth: slow start, then one segment a round trip (`tcp_reno_cong_avoid`).
fn tcp_reno_cong_avoid(w: &mut Window, mut acked: u32) {
    if w.cwnd < w.ssthresh {
        acked = tcp_slow_start(w, acked);
    }
    if acked > 0 {
        let per = w.cwnd;
        tcp_cong_avoid_ai(w, per, acked);
    }
}

#[cfg(test)]
impl Window {
    /// A window of so many segments.
    pub fn of(cwnd: u32, ssthresh: u32) -> Window {
        let (una, nxt, now) = (Seq(0), Seq(0), Instant::ZERO);
        let (cnt, prior_cwnd, srtt_us, rtt_us) = (0, 0, 50_000, None);
        Window { cwnd, ssthresh, cnt, prior_cwnd, srtt_us, rtt_us, una, nxt, delivered: 0, now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{MS, SEC};

    fn at(now: u64, cwnd: u32, ssthresh: u32) -> Window {
        let now = Instant::from_ns(now);
        Window { now, ..Window::of(cwnd, ssthresh) }
    }

    /// RFC 5681 §3.1: slow start doubles in a round trip, congestion avoidance adds one segment.
    #[test]
    fn reno_doubles_then_adds_one() {
        let mut reno = Reno;
        let mut w = at(0, 10, 20);
        for _ in 0..5 {
            reno.cong_avoid(&mut w, 2);
        }
        assert_eq!(w.cwnd, 20);
        for _ in 0..10 {
            reno.cong_avoid(&mut w, 2);
        }
        assert_eq!(w.cwnd, 21);
        assert_eq!(reno.ssthresh(&w), 10);
    }

    /// RFC 9438 §4.1, figure 1: after a loss at W_max the window comes back to W_max after
    /// K = cbrt(W_max (1 - beta) / C) seconds, slowly near it, and grows faster beyond.
    #[test]
    fn cubic_returns_to_w_max_at_k() {
        let mut cubic = Cubic::default();
        let mut w = at(0, 1000, 1000);
        w.ssthresh = cubic.ssthresh(&w);
        assert_eq!(w.ssthresh, 700, "beta is 0.7");
        w.cwnd = 700;
        let rtt = 50 * MS;
        let k = (300.0f64 / 0.4).cbrt();
        let mut half_way = 0;
        let mut t = 0;
        let mut at_k = 0;
        while t < 15 * SEC {
            t += rtt;
            w.now = Instant::from_ns(t);
            for _ in 0..w.cwnd / 2 {
                cubic.cong_avoid(&mut w, 2);
            }
            if t as f64 <= k * 0.5e9 {
                half_way = w.cwnd;
            }
            if t as f64 <= k * 1e9 {
                at_k = w.cwnd;
            }
        }
        assert!(
            (955..=975).contains(&half_way),
            "an eighth of the way is left at K/2, not {half_way}"
        );
        assert!((990..=1010).contains(&at_k), "back at W_max at K, not {at_k}");
        assert!(w.cwnd > 1050, "convex growth beyond K, not {}", w.cwnd);
    }

    /// RFC 9438 §4.3: where Reno would be faster, the window grows by 0.53 segments in a round trip
    /// until it is what it was before the loss, and by one from then on; that it leaves room for others
    /// does not change that.
    #[test]
    fn cubic_is_as_fast_as_reno() {
        let mut cubic = Cubic::default();
        cubic.ssthresh(&at(0, 30, 30));
        let mut w = at(0, 20, 20);
        w.ssthresh = cubic.ssthresh(&w);
        (w.cwnd, w.srtt_us) = (w.ssthresh, 10_000);
        assert_eq!((w.cwnd, cubic.w_max()), (14, 17));
        let mut rounds_to = [0; 26];
        for round in 0..40u64 {
            w.now = Instant::from_ns(round * 10 * MS);
            for _ in 0..w.cwnd {
                cubic.cong_avoid(&mut w, 1);
            }
            if let Some(first @ 0) = rounds_to.get_mut(w.cwnd as usize) {
                *first = round;
            }
        }
        let slow = rounds_to[20] - rounds_to[15];
        assert!((8..=11).contains(&slow), "{slow} round trips for 5 segments at 0.53");
        let fast = rounds_to[25] - rounds_to[20];
        assert!((4..=6).contains(&fast), "{fast} round trips for 5 segments at 1");
    }

    /// RFC 9438 §4.7: a flow that loses below its last maximum leaves room for others.
    #[test]
    fn cubic_converges_fast() {
        let mut cubic = Cubic::default();
        assert_eq!(cubic.ssthresh(&at(0, 1000, 1000)), 700);
        assert_eq!(cubic.ssthresh(&at(0, 800, 700)), 560);
        assert_eq!(cubic.w_max(), 680);
    }
}
