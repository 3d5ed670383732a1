//! Taking a reduction of the window back that was a mistake: the segments that were sent again had only
//! been late.
//!
//! Three things tell. A timestamp that is echoed from before the first retransmission (Eifel); reports
//! that all that was sent again arrived twice (DSACK), also when recovery is over by then; and, after a
//! timeout, that something arrived which was sent once and counts as lost (F-RTO).
//!
//! before: [`super::recovery`]   after: [`super::recovery`]
//! Linux:  net/ipv4/tcp_input.c `tcp_try_undo_recovery`, `tcp_try_undo_partial`, `tcp_try_undo_dsack`,
//!         `tcp_try_undo_loss`, `tcp_process_loss`, `tcp_packet_delayed`
//! RFCs:   3522, 4015 (Eifel), 2883 and 3708 (DSACK), 5682 (F-RTO)

use super::ack::Acked;
use super::cc;
use super::ecn::Ecn;
use super::input::Segment;
use super::rack::tcp_rack_recovered;
use super::recovery::{tcp_add_reno_sack, tcp_try_keep_open};
use super::sndq::LOST;
use super::{CaState, Tcb};
use crate::seq::Seq;
use crate::shard::Net;
use crate::table::count::id;

/// From now on a reduction can be taken back (`tcp_init_undo`).
pub(super) fn tcp_init_undo(tp: &mut Tcb) {
    tp.undo_marker = Some(tp.snd_una);
    // What is under way for the second time already may be reported as well: a probe of the tail.
    let probes = u32::from(tp.tlp_high_seq.is_some() && tp.tlp_retrans);
    tp.undo_retrans =
        if tp.retrans_out + probes > 0 { (tp.retrans_out + probes) as i32 } else { -1 };
}

/// Whether the acknowledgement answers a first sending, not a second one (`tcp_packet_delayed`).
fn tcp_packet_delayed(tp: &Tcb, seg: &Segment) -> bool {
    if tp.retrans_stamp == 0 {
        // Nothing was sent again yet: it can only be the first. Without SACK the stamp is forgotten when
        // recovery waits for its end.
        return tp.sack_ok || tp.snd_una.lt(tp.high_seq);
    }
    let Some((_, ecr)) = seg.opts.ts else { return false };
    tp.ts_ok && ecr != 0 && Seq(ecr).lt(Seq(tp.retrans_stamp))
}

fn tcp_may_undo(tp: &Tcb, seg: &Segment) -> bool {
    tp.undo_marker.is_some() && (tp.undo_retrans == 0 || tcp_packet_delayed(tp, seg))
}

/// The reduction was a mistake, and perhaps the marks of loss (`tcp_undo_cwnd_reduction`).
fn tcp_undo_cwnd_reduction(net: &Net, tp: &mut Tcb, unmark: bool) {
    if unmark {
        for t in &mut tp.sndq.rtx {
            t.flags &= !LOST;
        }
        tp.lost_out = 0;
        if let Some(hints) = &mut tp.sndq.hints {
            hints.forget_order();
        }
    }
    // Where the path marked packets too the reduction was none too many (`prior_ssthresh` is 0 then).
    if tp.prior_ssthresh > 0 {
        tp.snd_cwnd = cc::undo_cwnd(tp, net.now);
        if tp.prior_ssthresh > tp.snd_ssthresh {
            tp.snd_ssthresh = tp.prior_ssthresh;
            tp.ecn.set(Ecn::QUEUE_CWR, false);
        }
    }
    tp.undo_marker = None;
    tp.reord_seen += 1;
}

/// Whether anything that is under way was sent more than once (`tcp_any_retrans_done`).
pub(super) fn tcp_any_retrans_done(tp: &Tcb) -> bool {
    tp.retrans_out > 0 || tp.sndq.rtx.front().is_some_and(|t| t.retrans > 0)
}

/// Everything that was out when recovery began is acknowledged. True if the state has to stay as it is:
/// without SACK, until something above that is acknowledged, since duplicates of what was sent again are
/// still to come (RFC 6582 §4; `tcp_try_undo_recovery`).
pub(super) fn tcp_try_undo_recovery(net: &mut Net, tp: &mut Tcb, seg: &Segment) -> bool {
    if tcp_may_undo(tp, seg) {
        tcp_undo_cwnd_reduction(net, tp, false);
        if tp.ca_state == CaState::Loss {
            net.counts.inc(id::TcpExtTCPLossUndo);
        } else {
            net.counts.inc(id::TcpExtTCPFullUndo);
        }
    } else {
        tcp_rack_recovered(tp);
    }
    let hold = !tp.sack_ok && tp.snd_una == tp.high_seq;
    if hold && !tcp_any_retrans_done(tp) {
        tp.retrans_stamp = 0;
    }
    hold
}

/// A part of what was out is acknowledged: was it needed at all that it was sent again? True if it was
/// not, and this acknowledgement is dealt with (`tcp_try_undo_partial`).
pub(super) fn tcp_try_undo_partial(net: &mut Net, tp: &mut Tcb, seg: &Segment) -> bool {
    if tp.undo_marker.is_none() || !tcp_packet_delayed(tp, seg) {
        return false;
    }
    tp.reord_seen += 1;
    net.counts.inc(id::TcpExtTCPTSReorder);
    if tp.retrans_out > 0 {
        // What was sent again is still under way: nothing else is, and nothing is undone, until it arrived.
        return true;
    }
    tcp_undo_cwnd_reduction(net, tp, true);
    net.counts.inc(id::TcpExtTCPPartialUndo);
    tcp_try_keep_open(tp);
    true
}

/// All that was sent again arrived twice (`tcp_try_undo_dsack`).
pub(super) fn tcp_try_undo_dsack(net: &mut Net, tp: &mut Tcb) -> bool {
    if tp.undo_marker.is_none() || tp.undo_retrans != 0 {
        return false;
    }
    tcp_undo_cwnd_reduction(net, tp, false);
    net.counts.inc(id::TcpExtTCPDSACKUndo);
    true
}

/// The timeout was spurious (`tcp_try_undo_loss`). `frto`: something that was sent once told so.
fn tcp_try_undo_loss(net: &mut Net, tp: &mut Tcb, seg: &Segment, frto: bool) -> bool {
    if !frto && !tcp_may_undo(tp, seg) {
        return false;
    }
    tcp_undo_cwnd_reduction(net, tp, true);
    net.counts.inc(id::TcpExtTCPLossUndo);
    if frto {
        net.counts.inc(id::TcpExtTCPSpuriousRTOs);
    }
    tp.retransmits = 0;
    (tp.frto, tp.frto_new) = (false, false);
    let hold = !tp.sack_ok && tp.snd_una == tp.high_seq;
    if !hold && (frto || tp.sack_ok) {
        tcp_try_keep_open(tp);
    }
    true
}

/// What an acknowledgement says after a timeout (RFC 5682 §3.1, with SACK; `tcp_process_loss`).
pub(super) fn tcp_process_loss(net: &mut Net, tp: &mut Tcb, seg: &Segment, a: &Acked) {
    let recovered = tp.snd_una.ge(tp.high_seq);
    if a.advanced && tcp_try_undo_loss(net, tp, seg, false) {
        return;
    }
    if tp.frto {
        // Step 3b: something arrived that was never sent again, so not all is lost.
        if a.orig_sacked && tcp_try_undo_loss(net, tp, seg, true) {
            return;
        }
        if tp.snd_nxt.gt(tp.high_seq) {
            // Step 3a: new data that arrives without what was before it: the loss was real.
            tp.frto &= !(a.sacked || a.duplicate);
        } else if a.advanced && !recovered {
            // Step 2b: new data goes before anything else is sent again, if there is some to send.
            tp.high_seq = tp.snd_nxt;
            tp.frto = tp.unsent() && tp.wnd_end().gt(tp.snd_nxt);
            tp.frto_new = tp.frto;
            if tp.frto {
                return;
            }
        }
    }
    if recovered {
        // Steps 2a and 3a.
        if !tcp_try_undo_recovery(net, tp, seg) {
            tcp_leave_recovery(tp);
        }
        return;
    }
    if !tp.sack_ok {
        // A duplicate says that one more arrived, if it can be of what was sent anew.
        if tp.snd_nxt.gt(tp.high_seq) && a.duplicate {
            tcp_add_reno_sack(net, tp);
        } else if a.advanced {
            tp.sacked_out = 0;
        }
    }
}

/// Recovery is over. What was sent again in it may be reported as a duplicate later still.
pub(super) fn tcp_leave_recovery(tp: &mut Tcb) {
    tp.frto = false;
    tp.frto_new = false;
    if !tp.sack_ok {
        tp.sacked_out = 0;
    }
    tcp_try_keep_open(tp);
    if !tcp_any_retrans_done(tp) {
        tp.retrans_stamp = 0;
    }
}
