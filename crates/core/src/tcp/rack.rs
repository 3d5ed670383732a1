//! RACK: a segment is lost if one that was sent a reordering window later has arrived.
//!
//! before: [`super::ack`]   after: [`super::recovery`]
//! Linux:  net/ipv4/tcp_recovery.c `tcp_rack_mark_lost`, `tcp_rack_detect_loss`, `tcp_rack_update_reo_wnd`
//! RFCs:   8985 §6.2

use super::ack::Acked;
use super::hints::for_each_sent;
use super::recovery::tcp_mark_skb_lost;
use super::sndq::TxSeg;
use super::timer::{Rtx, rearm_rto, rto_ns, set_rtx};
use super::{CaState, Tcb};
use crate::shard::Net;

/// Recoveries without a DSACK after which the reordering window is the least one again.
const RECOVERY_THRESH: u8 = 16;
/// Bits of `tcp_recovery`: the reordering window does not adapt (`TCP_RACK_STATIC_REO_WND`), and three
/// duplicates do not close it (`TCP_RACK_NO_DUPTHRESH`).
const STATIC_REO_WND: u64 = 2;
const NO_DUPTHRESH: u64 = 4;

/// Round trips in which a duplicate was reported make the reordering window longer, a quarter of the
/// least round trip each (RFC 8985 §6.2 step 4; `tcp_rack_update_reo_wnd`).
pub(super) fn tcp_rack_update_reo_wnd(net: &Net, tp: &mut Tcb, a: &Acked) {
    if net.knobs.tcp_recovery & STATIC_REO_WND != 0 {
        return;
    }
    tp.rack_dsack_round = tp.rack_dsack_round.filter(|round| tp.snd_una.lt(*round));
    // What a probe of the tail was for is no sign of it.
    let dsack = a.dsack && !a.dsack_tlp;
    if dsack && tp.reord_seen > 0 && tp.rack_dsack_round.is_none() {
        tp.rack_dsack_round = Some(tp.snd_nxt);
        tp.rack_reo_mult = tp.rack_reo_mult.saturating_add(1);
        tp.rack_persist = RECOVERY_THRESH;
    }
}

/// A recovery ended that was none too many.
pub(super) fn tcp_rack_recovered(tp: &mut Tcb) {
    tp.rack_persist = tp.rack_persist.saturating_sub(1);
    if tp.rack_persist == 0 {
        tp.rack_reo_mult = 1;
    }
}

/// Marks what was sent long enough before something that was delivered (RFC 8985 §6.2 step 5;
/// `tcp_rack_mark_lost`). What is not due yet is looked at again by a timer.
pub(super) fn tcp_rack_mark_lost(net: &mut Net, tp: &mut Tcb) {
    if !std::mem::take(&mut tp.rack_advanced) {
        // Nothing arrived: what is lost by now is marked already, or the timer's.
        return;
    }
    if let Some(wait_us) = tcp_rack_detect_loss(net, tp) {
        let at = net.now.plus((wait_us as u64 + 1) * 1000);
        let rto_at = net.now.plus(rto_ns(tp));
        if at < rto_at {
            set_rtx(tp, Rtx::Reorder, at);
        }
    } else if tp.rtx_kind == Rtx::Reorder {
        rearm_rto(net, tp);
    }
}

/// The time that a segment may arrive late without being lost, in microseconds (RFC 8985 §6.2 step 4).
fn tcp_rack_reo_wnd(net: &Net, tp: &Tcb) -> u32 {
    let thresh = net.knobs.tcp_recovery & NO_DUPTHRESH == 0 && tp.sacked_out >= tp.reordering;
    if tp.reord_seen == 0 && (tp.ca_state >= CaState::Recovery || thresh) {
        // Three duplicates and no reordering so far: as RFC 5681 has it.
        return 0;
    }
    let quarter = if tp.min_rtt_us == u32::MAX { 0 } else { tp.min_rtt_us >> 2 };
    quarter.saturating_mul(tp.rack_reo_mult as u32).min(tp.srtt_us8 >> 3)
}

/// Marks what is due; the microseconds until all else is that should have arrived (`tcp_rack_detect_loss`).
pub(super) fn tcp_rack_detect_loss(net: &Net, tp: &mut Tcb) -> Option<u32> {
    let reo_wnd = tcp_rack_reo_wnd(net, tp);
    let (rack_sent, rack_end) = (tp.rack_sent, tp.rack_end);
    let due = tp.rack_rtt_us as u64 + reo_wnd as u64;
    let (now, mut wait) = (net.now, None);
    let overdue = |t: &TxSeg| {
        if t.sent == rack_sent && !t.end().lt(rack_end) {
            return false;
        }
        let elapsed = now.since(t.sent) / 1000;
        if elapsed < due {
            let left = (due - elapsed) as u32;
            wait = Some(wait.map_or(left, |w: u32| w.max(left)));
        }
        elapsed >= due
    };
    for_each_sent(tp, (rack_sent, rack_end), overdue, |tp, i| tcp_mark_skb_lost(net, tp, i));
    wait
}
