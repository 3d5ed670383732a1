//! Loss: what follows from it, and sending again. By when it is one: [`super::rack`]; what turns out to
//! have been none: [`super::undo`].
//!
//! before: [`super::ack`], [`super::timer`]   after: [`super::undo`], [`super::output`]
//! Linux:  net/ipv4/tcp_input.c `tcp_fastretrans_alert`, `tcp_enter_loss`, `tcp_cwnd_reduction`;
//!         tcp_output.c `tcp_xmit_retransmit_queue`, `tcp_send_loss_probe`
//! RFCs:   8985 §7 (TLP), 6937 (PRR), 6582 (NewReno), 6298 §5, 3042

use super::ack::Acked;
use super::cc;
use super::input::Segment;
use super::mtup::{tcp_mtu_probing, tcp_mtup_inconclusive, tcp_mtup_lost};
use super::output::{Pushed, send_new, tcp_current_mss, tcp_transmit_skb, way_is_full};
use super::pacing::tcp_pacing_check;
use super::quota::{tcp_cwnd_validate, tcp_small_queue_check, tcp_tso_segs};
use super::rack::{tcp_rack_detect_loss, tcp_rack_mark_lost};
use super::rate::{tcp_rate_skb_sent, tcp_sack_reneged};
use super::sndq::{FIN, LOST, PSH, RETRANS, SACKED, TxSeg};
use super::timer::{
    Rtx, rearm_rto, rto_ns, rto_within_user_timeout, seems_a_black_hole, set_rtx, tcp_syn_timer,
    tcp_update_rto_stats, tcp_write_err, tcp_write_timeout,
};
use super::undo::{
    tcp_any_retrans_done, tcp_init_undo, tcp_leave_recovery, tcp_process_loss, tcp_try_undo_dsack,
    tcp_try_undo_partial, tcp_try_undo_recovery,
};
use super::{CaState, TCP_RTO_MAX_US, Tcb};
use crate::seq::Seq;
use crate::shard::Net;
use crate::table::count::id;
use crate::time::{Instant, MS};
use crate::wire::tcp::TcpFlags;

/// The least time that a peer has for what it seems to have taken back.
const RENEGING_NS: u64 = 10 * MS;

/// Looks at what an acknowledgement means for recovery (`tcp_fastretrans_alert`).
pub(crate) fn tcp_fastretrans_alert(net: &mut Net, tp: &mut Tcb, seg: &Segment, a: &Acked) {
    let quiet = tp.ca_state == CaState::Open && tp.sacked_out == 0 && tp.lost_out == 0;
    if quiet && !a.duplicate && !a.dsack && !a.ece {
        return;
    }
    if a.ece {
        tp.prior_ssthresh = 0;
    }
    if a.advanced && tcp_check_sack_reneging(net, tp) {
        return;
    }
    if tp.ca_state == CaState::Cwr && tp.snd_una.gt(tp.high_seq) {
        // Above what was out at the time: so that the peer has seen that the window shrank.
        tcp_end_cwnd_reduction(tp);
        tp.ca_state = CaState::Open;
    }
    if tp.ca_state == CaState::Recovery && tp.snd_una.ge(tp.high_seq) {
        if tcp_try_undo_recovery(net, tp, seg) {
            return;
        }
        tcp_end_cwnd_reduction(tp);
        tcp_leave_recovery(tp);
    }
    match tp.ca_state {
        CaState::Recovery => {
            if a.advanced && tcp_try_undo_partial(net, tp, seg) {
                return;
            }
            if !a.advanced && !tp.sack_ok && a.duplicate {
                tcp_add_reno_sack(net, tp);
            }
            if tcp_try_undo_dsack(net, tp) {
                tcp_try_keep_open(tp);
            }
            tcp_identify_packet_loss(net, tp, a);
            // If there is loss beside what was none, recovery begins anew.
            if tp.ca_state != CaState::Recovery && tp.lost_out > 0 {
                tcp_enter_recovery(net, tp, a.ece);
            }
            return;
        }
        CaState::Loss => {
            tcp_process_loss(net, tp, seg, a);
            let again = tcp_identify_packet_loss(net, tp, a);
            if tp.ca_state == CaState::Loss && !again {
                return;
            }
        }
        CaState::Open | CaState::Disorder | CaState::Cwr => {
            if !tp.sack_ok {
                if a.advanced {
                    tp.sacked_out = 0;
                }
                if a.duplicate {
                    tcp_add_reno_sack(net, tp);
                }
            }
            tcp_try_undo_dsack(net, tp);
            tcp_identify_packet_loss(net, tp, a);
        }
    }
    if tp.lost_out > 0 {
        if !tcp_mtup_lost(net, tp) {
            tcp_enter_recovery(net, tp, a.ece);
        }
        return;
    }
    if a.ece {
        tcp_enter_cwr(net, tp);
    }
    if tp.ca_state != CaState::Cwr {
        tcp_try_keep_open(tp);
    }
}

/// The path marks packets: the window shrinks as after a loss, once for all that is out (RFC 3168
/// §6.1.2; `tcp_enter_cwr`).
fn tcp_enter_cwr(net: &Net, tp: &mut Tcb) {
    tp.prior_ssthresh = 0;
    if tp.ca_state < CaState::Cwr {
        tcp_init_cwnd_reduction(net, tp, false);
        tp.prior_ssthresh = 0;
        tp.undo_marker = None;
        tp.high_seq = tp.snd_nxt;
        tp.ca_state = CaState::Cwr;
    }
}

/// Nothing is wrong, as long as nothing that is out was reported, lost or sent more than once
/// (`tcp_try_keep_open`).
pub(super) fn tcp_try_keep_open(tp: &mut Tcb) {
    let again = tcp_any_retrans_done(tp);
    let clean = tp.sacked_out == 0 && tp.lost_out == 0 && !again;
    tp.ca_state = if clean { CaState::Open } else { CaState::Disorder };
    if !again {
        tp.retrans_stamp = 0;
    }
    if clean && let Some(hints) = &mut tp.sndq.hints {
        hints.forget_order();
    }
}

/// Without SACK: a duplicate acknowledgement says that one more segment arrived; at most all but those
/// that are lost (`tcp_add_reno_sack`, `tcp_limit_reno_sacked`).
pub(super) fn tcp_add_reno_sack(net: &Net, tp: &mut Tcb) {
    let holes = tp.lost_out.max(1);
    if tp.sacked_out + holes < tp.packets_out {
        tp.sacked_out += 1;
        tp.delivered = tp.delivered.wrapping_add(1);
        net.counts.inc(id::TcpExtTCPDelivered);
    } else {
        // More duplicates than can have arrived: the path reorders (`tcp_check_reno_reordering`).
        tp.reordering =
            tp.packets_out.min(net.knobs.tcp_max_reordering.min(u32::MAX.into()) as u32);
        tp.reord_seen += 1;
        net.counts.inc(id::TcpExtTCPRenoReorder);
    }
}

/// Recovery ends with the window at the threshold, unless it was a mistake (`tcp_end_cwnd_reduction`).
fn tcp_end_cwnd_reduction(tp: &mut Tcb) {
    let reduced = tp.undo_marker.is_some() || tp.ca_state == CaState::Cwr;
    if reduced && !tp.cc.rules() {
        tp.snd_cwnd = tp.snd_ssthresh.max(2);
        tp.snd_cwnd_cnt = 0;
    }
}

fn tcp_init_cwnd_reduction(net: &Net, tp: &mut Tcb, lost: bool) {
    tcp_init_undo(tp);
    tp.prior_ssthresh = cc::current_ssthresh(tp);
    tp.prior_cwnd = tp.snd_cwnd;
    tp.prr_delivered = 0;
    tp.prr_out = 0;
    tp.snd_cwnd_cnt = 0;
    tp.tlp_high_seq = None;
    tp.snd_ssthresh = cc::ssthresh(tp, net.now, lost);
    tp.ecn_queue_cwr();
}

/// Fast recovery begins (`tcp_enter_recovery`). The window is not reduced twice where the path has
/// marked packets of the same flight.
fn tcp_enter_recovery(net: &mut Net, tp: &mut Tcb, ece: bool) {
    let sack = tp.sack_ok;
    net.counts.inc(if sack { id::TcpExtTCPSackRecovery } else { id::TcpExtTCPRenoRecovery });
    if tp.retrans_out == 0 {
        tp.retrans_stamp = 0;
    }
    if tp.in_cwnd_reduction() {
        tp.prior_ssthresh = 0;
        tcp_init_undo(tp);
    } else {
        tcp_init_cwnd_reduction(net, tp, true);
        if ece {
            tp.prior_ssthresh = 0;
        }
    }
    tp.high_seq = tp.snd_nxt;
    tp.ca_state = CaState::Recovery;
}

/// Moves the congestion window after an acknowledgement (`tcp_cong_control`).
pub(crate) fn tcp_cong_control(net: &mut Net, tp: &mut Tcb, a: &Acked) {
    cc::in_ack_event(net, tp);
    if cc::cong_control(net, tp, a) {
        return;
    }
    let delivered = tp.delivered.wrapping_sub(a.prior_delivered);
    if tp.in_cwnd_reduction() {
        let lost = tp.lost.wrapping_sub(a.prior_lost);
        tcp_cwnd_reduction(tp, delivered, a.advanced && lost == 0);
    } else if a.advanced || a.sacked && tp.reordering > net.knobs.tcp_reordering as u32 {
        // Where the path reorders much what arrives out of order counts as well (`tcp_may_raise_cwnd`).
        let left = cc::cong_avoid(tp, net.now, delivered, a.rtt_us.or(a.sack_rtt_us));
        if left {
            net.counts.inc(id::TcpExtTCPHystartDelayDetect);
            net.counts.inc_by(id::TcpExtTCPHystartDelayCwnd, tp.snd_cwnd as u64);
        }
    }
}

/// Proportional rate reduction (RFC 6937; `tcp_cwnd_reduction`). `safe`: the acknowledgement moved SND.UNA,
/// and found no further loss.
fn tcp_cwnd_reduction(tp: &mut Tcb, delivered: u32, safe: bool) {
    if delivered == 0 {
        return;
    }
    let pipe = tp.in_flight();
    tp.prr_delivered += delivered;
    let sndcnt = if pipe > tp.snd_ssthresh {
        let sum = tp.snd_ssthresh as u64 * tp.prr_delivered as u64;
        let due = sum.div_ceil(tp.prior_cwnd.max(1) as u64) as u32;
        due.saturating_sub(tp.prr_out)
    } else {
        let due = tp.prr_delivered.saturating_sub(tp.prr_out).max(delivered);
        (due + u32::from(safe)).min(tp.snd_ssthresh - pipe)
    };
    // What began recovery is sent again whatever comes.
    let first = u32::from(tp.prr_out == 0);
    tp.snd_cwnd = pipe + sndcnt.max(first);
}

/// Marks what must be lost by now; true if something was that had been sent again
/// (`tcp_identify_packet_loss`).
fn tcp_identify_packet_loss(net: &mut Net, tp: &mut Tcb, a: &Acked) -> bool {
    if tp.sndq.rtx.is_empty() {
        return false;
    }
    let retrans = tp.retrans_out;
    if tp.sack_ok {
        tcp_rack_mark_lost(net, tp);
    } else {
        tcp_newreno_mark_lost(net, tp, a);
    }
    tp.sack_ok && tp.retrans_out < retrans
}

/// Without SACK: the first segment is lost after three duplicates, and after each partial
/// acknowledgement in recovery (RFC 6582; `tcp_newreno_mark_lost`).
fn tcp_newreno_mark_lost(net: &mut Net, tp: &mut Tcb, a: &Acked) {
    let enter = tp.ca_state < CaState::Recovery && tp.sacked_out >= tp.reordering;
    let partial = tp.ca_state == CaState::Recovery && a.advanced;
    if !enter && !partial {
        return;
    }
    if tp.sndq.rtx.front().is_some_and(|t| t.has(LOST)) && !partial {
        return;
    }
    tp.sndq.split(0, 1);
    tcp_mark_skb_lost(net, tp, 0);
}

/// Marks the segment at place `i` lost, by what acknowledgements say; congestion control hears of it
/// (`tcp_mark_skb_lost`).
pub(super) fn tcp_mark_skb_lost(net: &Net, tp: &mut Tcb, i: usize) {
    if mark_lost(net, tp, i) {
        cc::skb_marked_lost(tp, i, net.now);
    }
}

/// True if one more loss counts: what was sent again can be lost again.
fn mark_lost(net: &Net, tp: &mut Tcb, i: usize) -> bool {
    let Some(t) = tp.sndq.rtx.get_mut(i).filter(|t| !t.has(SACKED)) else { return false };
    let (segs, known) = (t.segs as u32, tp.lost);
    if t.has(RETRANS) {
        t.flags &= !RETRANS;
        tp.retrans_out = tp.retrans_out.saturating_sub(segs);
        net.counts.inc_by(id::TcpExtTCPLostRetransmit, segs as u64);
        tp.lost = tp.lost.wrapping_add(segs);
    }
    let (seq, first) = (t.seq, tp.lost_out == 0);
    if !t.has(LOST) {
        t.flags |= LOST;
        tp.lost_out += segs;
        tp.lost = tp.lost.wrapping_add(segs);
    }
    tp.sndq.note_lost(seq, first);
    tp.lost != known
}

/// The reordering window is over (`tcp_rack_reo_timeout`).
pub(crate) fn tcp_rack_reo_timeout(net: &mut Net, tp: &mut Tcb) {
    let pipe = tp.in_flight();
    tcp_rack_detect_loss(net, tp);
    if tp.in_flight() != pipe {
        if tp.ca_state != CaState::Recovery {
            tcp_enter_recovery(net, tp, false);
            if !tp.cc.rules() {
                tcp_cwnd_reduction(tp, 1, false);
            }
        }
        tp.push = true;
    }
    rearm_rto(net, tp);
}

/// Sends again what is marked lost, as far as the congestion window allows (`tcp_xmit_retransmit_queue`).
pub(crate) fn tcp_xmit_retransmit_queue(net: &mut Net, tp: &mut Tcb) -> Pushed {
    if tp.lost_out == 0 {
        return Pushed::Done;
    }
    let mut i = tp.sndq.retransmit_at();
    let said = retransmit_from(net, tp, &mut i);
    tp.sndq.retransmitted_to(i);
    said
}

/// Looks for what is to be sent again from the place `i` on; it comes to stand where that is not done.
fn retransmit_from(net: &mut Net, tp: &mut Tcb, i: &mut usize) -> Pushed {
    let mss = tcp_current_mss(tp);
    let most = tcp_tso_segs(net, tp, mss);
    while let Some(&t) = tp.sndq.rtx.get(*i) {
        tp.sndq.hints().look();
        if !t.has(LOST) || t.has(SACKED | RETRANS) {
            *i += 1;
            continue;
        }
        let t = fit_to_mss(tp, *i, mss).unwrap_or(t);
        let quota = tp.snd_cwnd.saturating_sub(tp.in_flight());
        if quota == 0 {
            break;
        }
        if tcp_pacing_check(net, tp) {
            break;
        }
        if way_is_full(net, tp.dev) {
            return Pushed::Throttled;
        }
        if tcp_small_queue_check(net, tp, most.below, t.len, true) {
            break;
        }
        tp.sndq.split(*i, quota.min(most.now));
        if !tcp_retransmit_skb(net, tp, *i) {
            break;
        }
        let slow = tp.ca_state == CaState::Loss;
        let segs = tp.sndq.rtx.get(*i).map_or(1, |t| t.segs as u32);
        net.counts.inc_by(
            if slow { id::TcpExtTCPSlowStartRetrans } else { id::TcpExtTCPFastRetrans },
            segs.into(),
        );
        if tp.in_cwnd_reduction() {
            tp.prr_out += segs;
        }
        if *i == 0 && tp.rtx_kind != Rtx::Reorder {
            set_rtx(tp, Rtx::Retrans, net.now.plus(rto_ns(tp)));
        }
        *i += 1;
    }
    Pushed::Done
}

/// Sends the segment at place `i` again, for recovery (`tcp_retransmit_skb`). False if it can not be sent now.
fn tcp_retransmit_skb(net: &mut Net, tp: &mut Tcb, i: usize) -> bool {
    let Some(segs) = send_again(net, tp, i) else { return false };
    if let Some(t) = tp.sndq.rtx.get_mut(i)
        && !t.has(RETRANS)
    {
        t.flags |= RETRANS;
        tp.retrans_out += segs;
    }
    if tp.retrans_stamp == 0 {
        tp.retrans_stamp = tp.ts_now(net.now).max(1);
    }
    tp.undo_retrans = tp.undo_retrans.max(0) + segs as i32;
    true
}

/// Sends the segment at place `i` again, and says how many wire segments it is (`__tcp_retransmit_skb`). A
/// probe of the tail does no more than that: it does not count as under way twice, nor can what it says be
/// undone.
fn send_again(net: &mut Net, tp: &mut Tcb, i: usize) -> Option<u32> {
    let mss = tcp_current_mss(tp);
    tcp_mtup_inconclusive(tp);
    let t = fit_to_mss(tp, i, mss)?;
    let window = tp.wnd_end() - t.seq;
    if t.seq != tp.snd_una && (window == 0 || window as i32 <= 0) {
        return None;
    }
    let fin = t.has(FIN);
    let mut flags = TcpFlags::ACK;
    if fin {
        flags |= TcpFlags::FIN;
    }
    let len = t.len - u32::from(fin);
    if t.has(PSH) {
        flags |= TcpFlags::PSH;
    }
    if !tcp_transmit_skb(net, tp, t.seq, len, flags, (t.mss as u32).max(1)) {
        net.counts.inc(id::TcpExtTCPRetransFail);
        return None;
    }
    let (now, segs) = (net.now, t.segs as u32);
    net.counts.inc_by(id::TcpRetransSegs, segs as u64);
    tp.total_retrans = tp.total_retrans.wrapping_add(segs);
    tp.bytes_retrans += len as u64;
    if let Some(t) = tp.sndq.rtx.get_mut(i) {
        t.sent = now;
        t.retrans = t.retrans.saturating_add(1);
        let sent = *t;
        tp.sndq.note_sent(&sent);
    }
    tcp_rate_skb_sent(tp, i, now);
    Some(segs)
}

/// The path's MTU may have shrunk since the segment was first sent: it stands for more wire
/// segments now. And no packet is larger than one may be.
fn fit_to_mss(tp: &mut Tcb, i: usize, mss: u32) -> Option<TxSeg> {
    let t = tp.sndq.rtx.get_mut(i)?;
    let data = t.len - u32::from(t.has(FIN));
    if t.mss as u32 > mss && data > mss {
        let (old, segs) = (t.segs as u32, data.div_ceil(mss));
        // They may be fewer: a part of the first may have been acknowledged.
        let instead = |out: u32| (out + segs).saturating_sub(old);
        t.mss = mss as u16;
        t.segs = segs as u16;
        tp.packets_out = instead(tp.packets_out);
        if t.has(LOST) {
            tp.lost_out = instead(tp.lost_out);
        }
        if t.has(SACKED) {
            tp.sacked_out = instead(tp.sacked_out);
        }
        if t.has(RETRANS) {
            tp.retrans_out = instead(tp.retrans_out);
        }
    }
    Some(*t)
}

/// Nothing was acknowledged for a whole RTO (RFC 6298 §5.4–5.7; `tcp_retransmit_timer`).
pub(crate) fn tcp_retransmit_timer(net: &mut Net, tp: &mut Tcb) {
    if !tp.state.synchronized() {
        tcp_syn_timer(net, tp);
        return;
    }
    if tp.sndq.rtx.is_empty() {
        return;
    }
    if tp.stall_at == Instant::NEVER {
        tp.stall_at = tp.sndq.rtx.front().map_or(net.now, |t| t.sent);
    }
    if seems_a_black_hole(net, tp) {
        tcp_mtu_probing(net, tp);
    }
    // A peer that closed its window but still answers is alive.
    let alive = tp.snd_wnd == 0 && net.now.since(tp.rcv_tstamp) < TCP_RTO_MAX_US as u64 * 1000;
    net.counts.inc(id::TcpExtTCPTimeouts);
    if !alive && tcp_write_timeout(net, tp) {
        tcp_write_err(net, tp);
        return;
    }
    if tp.retransmits == 0 {
        count_failure(net, tp);
    }
    tcp_enter_loss(net, tp);
    tcp_update_rto_stats(tp);
    fit_to_mss(tp, 0, tcp_current_mss(tp));
    tp.sndq.split(0, 1);
    if tcp_retransmit_skb(net, tp, 0) {
        net.counts.inc(id::TcpExtTCPSlowStartRetrans);
        tp.backoff = tp.backoff.saturating_add(1).min(15);
    }
    if tp.retrans_stamp == 0 {
        // That it was attempted counts, for how long this goes on.
        tp.retrans_stamp = tp.ts_now(net.now).max(1);
    }
    set_rtx(tp, Rtx::Retrans, net.now.plus(rto_within_user_timeout(net, tp)));
}

/// What did not help before the timer fired is counted.
fn count_failure(net: &Net, tp: &Tcb) {
    let counter = match (tp.ca_state, tp.sack_ok) {
        (CaState::Recovery, true) => id::TcpExtTCPSackRecoveryFail,
        (CaState::Recovery, false) => id::TcpExtTCPRenoRecoveryFail,
        (CaState::Loss, _) => id::TcpExtTCPLossFailures,
        (state, _) if state != CaState::Disorder && tp.sacked_out == 0 => return,
        (_, true) => id::TcpExtTCPSackFailures,
        (_, false) => id::TcpExtTCPRenoFailures,
    };
    net.counts.inc(counter);
}

/// What the peer is to acknowledge next it had reported before: either it took that back (RFC 2018 §8), or
/// acknowledgements are out of order. It has a little time to say more; then all goes again
/// (`tcp_check_sack_reneging`).
fn tcp_check_sack_reneging(net: &Net, tp: &mut Tcb) -> bool {
    let reneges = tp.sndq.rtx.front().is_some_and(|t| t.has(SACKED));
    if reneges {
        let half = u64::from(tp.srtt_us8 >> 4) * 1000;
        set_rtx(tp, Rtx::Retrans, net.now.plus(half.max(RENEGING_NS)));
    }
    reneges
}

/// All that is out counts as lost, and the window begins anew (`tcp_enter_loss`).
fn tcp_enter_loss(net: &mut Net, tp: &mut Tcb) {
    // The peer took back what it had reported (RFC 2018 §8).
    let reneged = tp.sndq.rtx.front().is_some_and(|t| t.has(SACKED));
    if reneged {
        net.counts.inc(id::TcpExtTCPSACKReneging);
        tcp_sack_reneged(tp);
    }
    tcp_timeout_mark_lost(net, tp, reneged);
    let new = tp.ca_state <= CaState::Disorder;
    if new || tp.high_seq.le(tp.snd_una) || tp.ca_state == CaState::Loss && tp.retransmits == 0 {
        tcp_init_cwnd_reduction(net, tp, true);
        tp.retrans_stamp = 0;
        cc::reset(tp);
    }
    // Whether the timeout was spurious shows in what is acknowledged next: asked once (RFC 5682 §2.1).
    let asks = tp.ca_state < CaState::Recovery || tp.retransmits > 0;
    tp.frto = net.knobs.tcp_frto > 0 && asks;
    tp.ecn_queue_cwr();
    tp.frto_new = false;
    tp.snd_cwnd = tp.in_flight() + 1;
    tp.snd_cwnd_cnt = 0;
    let usual = net.knobs.tcp_reordering as u32;
    if new && tp.sacked_out >= usual {
        // So many arrived out of order, and it was a loss: the path reorders less than was thought.
        tp.reordering = tp.reordering.min(usual);
    }
    tp.tlp_high_seq = None;
    tp.high_seq = tp.snd_nxt;
    tp.ca_state = CaState::Loss;
    tp.push = true;
}

/// After a timeout what was sent first is lost, and what was sent so long ago that it should have arrived; not
/// what was sent within the last round trip (`tcp_timeout_mark_lost`).
fn tcp_timeout_mark_lost(net: &Net, tp: &mut Tcb, reneged: bool) {
    if reneged || !tp.sack_ok {
        tp.sacked_out = 0;
    }
    if reneged && let Some(hints) = &mut tp.sndq.hints {
        hints.set_blocks(Default::default());
    }
    let rtt = u64::from(tp.rack_rtt_us);
    for i in 0..tp.sndq.rtx.len() {
        let Some(t) = tp.sndq.rtx.get_mut(i) else { break };
        if reneged {
            t.flags &= !SACKED;
        } else if i > 0 && net.now.since(t.sent) / 1000 < rtt {
            continue;
        }
        mark_lost(net, tp, i);
    }
}

/// Two round trips without an acknowledgement: a probe makes the peer tell whether the tail arrived
/// (RFC 8985 §7.3; `tcp_send_loss_probe`).
pub(crate) fn tcp_send_loss_probe(net: &mut Net, tp: &mut Tcb) {
    if tp.sndq.rtx.is_empty() || tp.tlp_high_seq.is_some() {
        rearm_rto(net, tp);
        return;
    }
    let mss = tcp_current_mss(tp);
    let window = tp.wnd_end() - tp.snd_nxt;
    let unsent = tp.sndq.end - tp.snd_nxt;
    let room = unsent > 0 && window as i32 > 0 && (window >= mss || window >= unsent);
    let sent = if room && !tp.fin_sent {
        tp.tlp_retrans = false;
        let len = tp.record_left(unsent).min(mss) as usize;
        let len = tp.sndq.loadable(tp.snd_nxt, len) as u32;
        let sent = send_new(net, tp, len, TcpFlags::NONE, mss);
        tcp_cwnd_validate(tp, tp.in_flight() >= tp.snd_cwnd);
        sent
    } else {
        tp.tlp_retrans = true;
        retransmit_tail(net, tp)
    };
    if sent {
        net.counts.inc(id::TcpExtTCPLossProbes);
        tp.tlp_high_seq = Some(tp.snd_nxt);
        // The timeout is counted from the probe on.
        tp.rtx_kind = Rtx::None;
    }
    rearm_rto(net, tp);
}

fn retransmit_tail(net: &mut Net, tp: &mut Tcb) -> bool {
    let Some(last) = tp.sndq.rtx.len().checked_sub(1) else { return false };
    let segs = tp.sndq.rtx.get(last).map_or(0, |t| t.segs as u32);
    tp.sndq.split(last, segs.saturating_sub(1));
    let last = tp.sndq.rtx.len() - 1;
    send_again(net, tp, last).is_some()
}

/// What the answer to a loss probe means (RFC 8985 §7.4; `tcp_process_tlp_ack`).
pub(crate) fn tcp_process_tlp_ack(net: &mut Net, tp: &mut Tcb, ack: Seq, a: &Acked) {
    let Some(high) = tp.tlp_high_seq else { return };
    if ack.lt(high) {
        return;
    }
    if !tp.tlp_retrans || a.dsack_tlp {
        // New data arrived; or the tail and its probe did.
        tp.tlp_high_seq = None;
    } else if ack.gt(high) {
        // The probe repaired a loss that nothing else told of: the window is reduced once.
        net.counts.inc(id::TcpExtTCPLossProbeRecovery);
        tcp_init_cwnd_reduction(net, tp, false);
        tp.undo_marker = None;
        tp.high_seq = tp.snd_nxt;
        tp.ca_state = CaState::Cwr;
        tcp_end_cwnd_reduction(tp);
        tcp_try_keep_open(tp);
    } else if !a.advanced && !a.sacked && !a.window && !a.data {
        // A plain duplicate: the tail and its probe both arrived.
        tp.tlp_high_seq = None;
    }
}
