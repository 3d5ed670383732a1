//! The timers of a connection. It has one node in the wheel, armed for the earliest of them and
//! never moved back: a timer that fires too early is looked at and armed anew.
//!
//! | field | when | what happens |
//! |---|---|---|
//! | `rtx_at` as `Retrans` | RTO after the oldest unacknowledged segment | [`super::recovery::tcp_retransmit_timer`] |
//! | `rtx_at` as `LossProbe` | two round trips after the last send | [`super::recovery::tcp_send_loss_probe`] |
//! | `rtx_at` as `Reorder` | when RACK's reordering window ends | [`super::recovery::tcp_rack_reo_timeout`] |
//! | `rtx_at` as `Probe0` | RTO, doubling, while the peer's window is closed | [`tcp_probe_timer`] |
//! | `pace.at` | when the next packet may leave | it is served: [`super::pacing`] |
//! | `delack_at` | 40 ms after data; a twentieth of a round trip after data out of order | an acknowledgement |
//! | `keep_at` | keepalive; end of FIN_WAIT_2 | [`tcp_keepalive_timer`] |
//! | `idle_at` | a second of idleness | large empty queues give their memory back |
//!
//! Linux: net/ipv4/tcp_timer.c. RFCs: 6298, 9293 §3.8.4, §3.8.6.1, 8985 §7.

use super::fastopen_active::tcp_fastopen_active_detect_blackhole;
use super::ofo::tcp_compressed_ack_kick;
use super::output::{
    send_new, tcp_current_mss, tcp_send_ack, tcp_send_active_reset, tcp_send_syn,
    tcp_xmit_probe_skb,
};
use super::recovery::{tcp_rack_reo_timeout, tcp_retransmit_timer, tcp_send_loss_probe};
use super::{CaState, State, TCP_RTO_MIN_US, TCP_TIMEOUT_INIT_US, Tcb};
use crate::shard::{Net, Shard};
use crate::sock::error::TcpError;
use crate::table::count::id;
use crate::time::{Instant, MS, SEC, US};
use crate::wire::tcp::TcpFlags;

/// What the retransmission timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rtx {
    /// It does not run.
    None,
    /// Retransmission (`ICSK_TIME_RETRANS`).
    Retrans,
    /// Zero-window probe (`ICSK_TIME_PROBE0`).
    Probe0,
    /// Tail loss probe (`ICSK_TIME_LOSS_PROBE`).
    LossProbe,
    /// RACK's reordering window (`ICSK_TIME_REO_TIMEOUT`).
    Reorder,
}

/// Connections whose memory is on its way while that of others is looked at: few that fire did anything
/// lately.
const AHEAD: usize = 6;

impl Shard {
    /// Serves timers that are due.
    pub(crate) fn tcp_timers(&mut self) {
        let now = self.net.now;
        let mut fired = std::mem::take(&mut self.tcp.fired);
        self.tcp.conn_timers.expire(now, &mut fired);
        let ahead = |tcp: &super::Sockets, at: Option<&u32>| {
            if let Some(index) = at {
                tcp.conns.prefetch(*index, super::Tcb::TIMERS);
            }
        };
        (0..AHEAD).for_each(|at| ahead(&self.tcp, fired.get(at)));
        for at in 0..fired.len() {
            ahead(&self.tcp, fired.get(at + AHEAD));
            let index = fired[at];
            self.tcp_out_of_resources(index);
            let Some(tp) = self.tcp.conns.at_mut(index) else { continue };
            tcp_conn_timer(&mut self.net, tp);
            self.tcp_settle(index);
        }
        fired.clear();
        self.tcp.req_timers.expire(now, &mut fired);
        for index in fired.drain(..) {
            self.reqsk_timer(index);
        }
        self.tcp.tw_timers.expire(now, &mut fired);
        self.tw_fired(&fired);
        fired.clear();
        self.tcp.fired = fired;
    }
}

/// Looks at each timer of the connection; those that are due are served.
fn tcp_conn_timer(net: &mut Net, tp: &mut Tcb) {
    let now = net.now;
    if let Some(pace) = &mut tp.pace
        && pace.at <= now
    {
        pace.at = Instant::NEVER;
        tp.push = true;
    }
    if tp.delack_at <= now {
        tcp_delack_timer(net, tp);
    }
    if tp.rtx_at <= now {
        let kind = tp.rtx_kind;
        if !matches!(kind, Rtx::LossProbe | Rtx::Reorder) {
            // Those two stand in the timeout's place, which follows from them: see `rearm_rto`.
            tp.rtx_kind = Rtx::None;
        }
        tp.rtx_at = Instant::NEVER;
        match kind {
            Rtx::None => {}
            Rtx::Retrans => tcp_retransmit_timer(net, tp),
            Rtx::Probe0 => tcp_probe_timer(net, tp),
            Rtx::LossProbe => tcp_send_loss_probe(net, tp),
            Rtx::Reorder => tcp_rack_reo_timeout(net, tp),
        }
    }
    if tp.keep_at <= now {
        tp.keep_at = Instant::NEVER;
        tcp_keepalive_timer(net, tp);
    }
    if tp.idle_at <= now {
        tcp_idle_timer(net, tp);
    }
    tp.zerocopy_check(net);
}

/// How long a connection must be idle before its queues give their memory back.
const IDLE_NS: u64 = SEC;
/// Called whenever something happened: an idle connection keeps no queues.
pub(crate) fn note_idle(net: &Net, tp: &mut Tcb) {
    if tp.idle_at == Instant::NEVER && tp.rcvq.capacity_bytes() + tp.sndq.capacity_bytes() > 0 {
        tp.idle_at = net.now.plus(IDLE_NS);
    }
}

fn tcp_idle_timer(net: &Net, tp: &mut Tcb) {
    tp.idle_at = Instant::NEVER;
    if net.now.since(tp.lsndtime.max(tp.lrcvtime)) >= IDLE_NS {
        tp.rcvq.shrink();
        tp.sndq.shrink();
    } else {
        note_idle(net, tp);
    }
}

fn tcp_delack_timer(net: &mut Net, tp: &mut Tcb) {
    tp.delack_at = Instant::NEVER;
    if !tp.ack_scheduled || tcp_compressed_ack_kick(net, tp) {
        return;
    }
    tp.ato_missed();
    net.counts.inc(id::TcpExtDelayedACKs);
    tcp_send_ack(net, tp);
}

/// The RTO with its backoff, in nanoseconds.
pub(crate) fn rto_ns(tp: &Tcb) -> u64 {
    ((tp.rto_us as u64) << tp.backoff.min(20)).min(tp.rto_max_us().into()) * 1000
}

/// Starts the retransmission timer anew, or stops it if nothing is under way (`tcp_rearm_rto`; RFC 6298 §5).
/// After a timer that stood in its place it runs from when the first that is out was sent.
pub(crate) fn rearm_rto(net: &Net, tp: &mut Tcb) {
    let first = tp.sndq.rtx.front().map(|t| t.sent);
    if first.is_none() && tp.state.synchronized() {
        tp.rtx_kind = Rtx::None;
        tp.rtx_at = Instant::NEVER;
        return;
    }
    let instead = matches!(tp.rtx_kind, Rtx::LossProbe | Rtx::Reorder);
    let from = first.filter(|_| instead).unwrap_or(net.now);
    set_rtx(tp, Rtx::Retrans, from.plus(rto_ns(tp)).max(net.now.plus(US)));
}

pub(crate) fn set_rtx(tp: &mut Tcb, kind: Rtx, at: Instant) {
    tp.rtx_kind = kind;
    tp.rtx_at = at;
}

/// After sending: if the tail is lost nothing tells of it but a probe (RFC 8985 §7.2; `tcp_schedule_loss_probe`).
pub(crate) fn schedule_loss_probe(net: &Net, tp: &mut Tcb, advancing: bool) {
    if tp.rtx_kind != Rtx::Retrans && tp.rtx_kind != Rtx::LossProbe
        || !matches!(net.knobs.tcp_early_retrans, 3 | 4)
        || !tp.sack_ok
        || tp.ca_state == CaState::Disorder
        || tp.ca_state >= CaState::Recovery
        || tp.packets_out == 0
        || tp.srtt_us8 == 0
    {
        return;
    }
    let mut us = (tp.srtt_us8 >> 2) as u64;
    us += if tp.packets_out == 1 { 200_000 } else { 2_000 };
    let probe_at = net.now.plus(us * 1000);
    let rto_at = match tp.sndq.rtx.front() {
        // An acknowledgement that moves on starts the timeout anew.
        Some(_) if advancing => net.now.plus(rto_ns(tp)),
        Some(first) => first.sent.plus(rto_ns(tp)),
        None => return,
    };
    // Where the timeout would come first, the probe takes its time; the timeout follows. One that is past
    // waits for the probe: what was sent just now may be acknowledged.
    let at = if rto_at > net.now { probe_at.min(rto_at) } else { probe_at };
    set_rtx(tp, Rtx::LossProbe, at);
}

/// The peer's window is closed, or something else holds all data back while nothing is under way:
/// nobody but this timer will notice a change that got lost (`tcp_check_probe_timer`). Where pacing holds it
/// back the time is counted from when it may leave.
pub(crate) fn check_probe_timer(net: &Net, tp: &mut Tcb) {
    if tp.rtx_kind == Rtx::None {
        let from = tp.pace.as_deref().map_or(net.now, |pace| pace.next.max(net.now));
        set_rtx(tp, Rtx::Probe0, from.plus(rto_ns(tp).max(200_000_000)));
    }
}

/// Zero-window probe (RFC 9293 §3.8.6.1; `tcp_probe_timer`, `tcp_send_probe0`).
fn tcp_probe_timer(net: &mut Net, tp: &mut Tcb) {
    if tp.packets_out > 0 || !tp.unsent() {
        tp.probes_out = 0;
        return;
    }
    if tp.stall_at == Instant::NEVER || tp.probes_out == 0 {
        tp.stall_at = net.now;
    }
    // As long as the peer answers, its window may stay closed for ever; `probes_out` is cleared by
    // each acknowledgement.
    let most = if tp.orphan { orphan_retries(net, tp) } else { net.knobs.tcp_retries2 };
    if tp.probes_out as u64 >= most || user_timeout(net, tp) {
        tcp_write_err(net, tp);
        return;
    }
    if tcp_write_wakeup(net, tp) {
        (tp.probes_out, tp.backoff) = (0, 0);
        return;
    }
    net.counts.inc(id::TcpExtTCPWinProbe);
    tp.probes_out = tp.probes_out.saturating_add(1);
    tcp_xmit_probe_skb(net, tp);
    tp.backoff = tp.backoff.saturating_add(1).min(15);
    set_rtx(tp, Rtx::Probe0, net.now.plus(rto_ns(tp).max(200_000_000)));
}

/// Where there is room in the window data is the better probe, and goes whatever held it back: so cork
/// and MSG_MORE hold nothing for longer than this timer takes (`tcp_write_wakeup`).
fn tcp_write_wakeup(net: &mut Net, tp: &mut Tcb) -> bool {
    let (window, unsent, mss) = (tp.window_left(), tp.notsent(), tcp_current_mss(tp));
    if window == 0 || unsent == 0 || tp.leaving {
        return false;
    }
    let len = tp.record_left(unsent).min(window).min(mss) as usize;
    let len = tp.sndq.loadable(tp.snd_nxt, len) as u32;
    let fin = tp.fin_queued && len == unsent && window > len;
    // The peer's application is not to wait for more.
    tp.mark_probe(net, len);
    let ends = if fin { TcpFlags::FIN | TcpFlags::PSH } else { TcpFlags::PSH };
    send_new(net, tp, len, ends, mss)
}

/// Whether the user's own limit of patience is reached (TCP_USER_TIMEOUT; RFC 5482).
pub(crate) fn user_timeout(net: &Net, tp: &Tcb) -> bool {
    tp.user_timeout_ms > 0
        && tp.stall_at != Instant::NEVER
        && net.now.since(tp.stall_at) >= tp.user_timeout_ms as u64 * 1_000_000
}

/// Whether timeouts in a row have gone on for as long as `tries` of them take that begin with `base_us`
/// and double, or for as long as the user's patience lasts; `since` is when the first one sent
/// (`retransmits_timed_out`).
pub(crate) fn retransmits_timed_out(
    net: &Net,
    tp: &Tcb,
    tries: u64,
    base_us: u32,
    since: Instant,
) -> bool {
    if tp.retransmits == 0 {
        return false;
    }
    let patience_us = match tp.user_timeout_ms {
        0 => tcp_model_timeout(tp, tries, base_us),
        ms => u64::from(ms) * 1000,
    };
    net.now.since(since) / 1000 >= patience_us
}

/// How many microseconds so many tries take that begin with `base_us` and double (`tcp_model_timeout`).
fn tcp_model_timeout(tp: &Tcb, tries: u64, base_us: u32) -> u64 {
    let (base, most) = (u64::from(base_us), u64::from(tp.rto_max_us()));
    let doubling = tries.min((most / base.max(1)).max(1).ilog2().into());
    ((2 << doubling) - 1) * base + (tries - doubling) * most
}

/// Whether timeouts have gone on for as long as `tcp_retries1` of them take: packets of this size may not
/// get through.
pub(crate) fn seems_a_black_hole(net: &Net, tp: &Tcb) -> bool {
    let us = net.now.since(retrans_since(net, tp)) / 1000;
    tp.retransmits > 0 && us >= tcp_model_timeout(tp, net.knobs.tcp_retries1, TCP_RTO_MIN_US)
}

/// When the first of the timeouts in a row sent something again.
fn retrans_since(net: &Net, tp: &Tcb) -> Instant {
    match tp.retrans_stamp {
        0 => net.now,
        stamp => {
            let ms = tp.ts_now(net.now).wrapping_sub(stamp).min(i32::MAX as u32);
            net.now.shifted(-(i64::from(ms) * MS as i64))
        }
    }
}

/// Whether a connection whose data is not acknowledged is given up (`tcp_write_timeout`).
pub(crate) fn tcp_write_timeout(net: &mut Net, tp: &Tcb) -> bool {
    let tries = if tp.orphan { orphan_retries(net, tp) } else { net.knobs.tcp_retries2 };
    let since = retrans_since(net, tp);
    let expired = retransmits_timed_out(net, tp, tries, TCP_RTO_MIN_US, since);
    tcp_fastopen_active_detect_blackhole(net, tp, expired);
    expired
}

/// The timeout, or what is left of the user's patience (`tcp_clamp_rto_to_user_timeout`).
pub(crate) fn rto_within_user_timeout(net: &Net, tp: &Tcb) -> u64 {
    let rto = rto_ns(tp);
    if tp.user_timeout_ms == 0 {
        return rto;
    }
    let elapsed = net.now.since(retrans_since(net, tp));
    rto.min((u64::from(tp.user_timeout_ms) * MS).saturating_sub(elapsed).max(MS))
}

/// Tries for a connection that nobody owns (`tcp_orphan_retries`).
pub(crate) fn orphan_retries(net: &Net, tp: &Tcb) -> u64 {
    let alive = rto_ns(tp) < u64::from(tp.rto_max_us()) * 1000;
    match net.knobs.tcp_orphan_retries {
        // A soft error says that the way is broken.
        _ if tp.err_soft.is_some() && !alive => 0,
        // RFC 1122 §4.2.3.5: at least 100 s, which 8 tries with doubling take.
        0 if alive => 8,
        n => n,
    }
}

/// The peer is given up (`tcp_write_err`).
pub(crate) fn tcp_write_err(net: &mut Net, tp: &mut Tcb) {
    net.counts.inc(id::TcpExtTCPAbortOnTimeout);
    let err = tp.err_soft.unwrap_or(TcpError::TimedOut);
    tp.done(net, Some(err));
}

/// Keepalive probes (RFC 9293 §3.8.4), and the end of FIN_WAIT_2 (`tcp_keepalive_timer`).
fn tcp_keepalive_timer(net: &mut Net, tp: &mut Tcb) {
    if tp.state == State::FinWait2 && tp.orphan {
        // The rest of the wait is that of a small entry: the connection becomes one now.
        tp.keep_at = net.now;
        return;
    }
    if !tp.keepalive || !tp.state.synchronized() {
        return;
    }
    let keep = tp.keepalive_times(net);
    let (time, intvl) = (keep.time_s as u64 * SEC, keep.intvl_s as u64 * SEC);
    if tp.packets_out > 0 || tp.unsent() {
        // Data is under way: it is the probe.
        tp.keep_at = net.now.plus(time);
        return;
    }
    let elapsed = net.now.since(tp.rcv_tstamp.max(tp.lrcvtime));
    if elapsed < time {
        tp.keep_at = net.now.plus(time - elapsed);
        return;
    }
    let patience = tp.user_timeout_ms as u64 * 1_000_000;
    let give_up = match patience {
        0 => tp.probes_out as u32 >= keep.probes,
        _ => elapsed >= patience && tp.probes_out > 0,
    };
    if give_up {
        tcp_send_active_reset(net, tp);
        tcp_write_err(net, tp);
        return;
    }
    net.counts.inc(id::TcpExtTCPKeepAlive);
    tcp_xmit_probe_skb(net, tp);
    tp.probes_out = tp.probes_out.saturating_add(1);
    tp.keep_at = net.now.plus(intvl);
}

/// A timeout is counted, and whether it is the first of several (`tcp_update_rto_stats`).
pub(crate) fn tcp_update_rto_stats(tp: &mut Tcb) {
    if tp.retransmits == 0 {
        tp.total_rto_recoveries = tp.total_rto_recoveries.saturating_add(1);
    }
    tp.retransmits = tp.retransmits.saturating_add(1);
    tp.total_rto = tp.total_rto.saturating_add(1);
}

/// Something arrived after timeouts: how long they took, from the first one (`tcp_update_rto_time`).
pub(crate) fn tcp_update_rto_time(net: &Net, tp: &mut Tcb) {
    if tp.stall_at != Instant::NEVER {
        let ms = net.now.since(tp.stall_at) / MS;
        tp.total_rto_ms = tp.total_rto_ms.saturating_add(ms.min(u32::MAX as u64) as u32);
    }
}

/// The handshake of a connection that we open got no answer (`tcp_retransmit_timer` in SYN_SENT).
pub(crate) fn tcp_syn_timer(net: &mut Net, tp: &mut Tcb) {
    let linear = match tp.state {
        State::SynSent => net.knobs.tcp_syn_linear_timeouts,
        _ => 0,
    };
    let asked = tp.opts().filter(|o| o.syn_cnt > 0).map(|o| u64::from(o.syn_cnt));
    let tries = match tp.fastopen_child() {
        // One more than a connection that does not exist yet (`tcp_fastopen_synack_timer`).
        true => asked.unwrap_or(net.knobs.tcp_synack_retries + 1),
        false => asked.unwrap_or(net.knobs.tcp_syn_retries),
    };
    if tp.stall_at == Instant::NEVER {
        tp.stall_at = net.now;
    }
    // Until now `lsndtime` is when the first SYN was sent.
    let late = !tp.fastopen_child()
        && retransmits_timed_out(net, tp, tries, TCP_TIMEOUT_INIT_US, tp.lsndtime);
    let expired = tp.retransmits as u64 >= tries.saturating_add(linear) || late;
    tcp_fastopen_active_detect_blackhole(net, tp, expired);
    if expired {
        tcp_write_err(net, tp);
        return;
    }
    net.counts.inc(id::TcpExtTCPTimeouts);
    net.counts.inc(id::TcpRetransSegs);
    net.counts.inc(id::TcpExtTCPSynRetrans);
    tcp_update_rto_stats(tp);
    tp.total_retrans += 1;
    tcp_send_syn(net, tp);
    if u64::from(tp.total_rto) > linear {
        tp.backoff = tp.backoff.saturating_add(1).min(15);
    }
    set_rtx(tp, Rtx::Retrans, net.now.plus(rto_ns(tp)));
}
