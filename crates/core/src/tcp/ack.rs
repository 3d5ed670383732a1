//! What an acknowledgement says: what arrived, what arrived out of order, how long it took.
//!
//! before: [`super::input`]   after: [`super::recovery`]
//! Linux:  net/ipv4/tcp_input.c `tcp_ack`, `tcp_sacktag_write_queue`, `tcp_clean_rtx_queue`, `tcp_rtt_estimator`
//! RFCs:   9293 §3.10.7.4 (fifth check), 5961 §5, 2018, 2883, 6298, 7323 §4, 8985 §6
//! drops:  TcpInvalidAck

use super::ecn::{tcp_count_delivered_ce, tcp_ecn_rcv_ecn_echo};
use super::hints::end_of_block;
use super::input::Segment;
use super::mtup::tcp_mtup_acked;
use super::output::tcp_sync_mss;
use super::rack::tcp_rack_update_reo_wnd;
use super::sndq::{FIN, LOST, RETRANS, SACKED, TxSeg};
use super::timer::{
    Rtx, check_probe_timer, rearm_rto, schedule_loss_probe, set_rtx, tcp_update_rto_time,
};
use super::{CaState, Tcb, recovery};
use crate::link::L2;
use crate::seq::Seq;
use crate::shard::Net;
use crate::sock::Ready;
use crate::table::{Reason, count::id};
use crate::time::{Instant, SEC};

/// What one acknowledgement brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acked {
    /// SND.UNA moved.
    pub advanced: bool,
    /// It only repeats what was acknowledged before (RFC 5681 §2).
    pub duplicate: bool,
    /// It reported a duplicate (DSACK).
    pub dsack: bool,
    /// That was what a probe of the tail sent: the tail had arrived (`FLAG_DSACK_TLP`).
    pub dsack_tlp: bool,
    /// It acknowledged something selectively that was not before.
    pub sacked: bool,
    /// It came with data (`FLAG_DATA`).
    pub data: bool,
    /// It moved the window (`FLAG_WIN_UPDATE`).
    pub window: bool,
    /// Of a segment that was sent once: microseconds from its sending.
    pub rtt_us: Option<u32>,
    /// The same, for a segment that was acknowledged selectively.
    pub sack_rtt_us: Option<u32>,
    /// A retransmitted segment was acknowledged: only timestamps tell the round trip.
    pub retrans_acked: bool,
    /// Segments delivered before.
    pub prior_delivered: u32,
    /// Segments ever lost before.
    pub prior_lost: u32,
    /// It echoes a mark of congestion (`FLAG_ECE`).
    pub ece: bool,
    /// Something arrived that was sent once, before recovery began (`FLAG_ORIG_SACK_ACKED`).
    pub orig_sacked: bool,
    /// What begins first of what arrived after something later, and was sent once.
    pub reord: Option<Seq>,
}

/// Takes the acknowledgement of an acceptable segment in (`tcp_ack`).
///
/// # Errors
/// Why the segment is to be dropped; a challenge is asked for already.
pub(crate) fn tcp_ack(net: &mut Net, tp: &mut Tcb, seg: &Segment) -> Result<(), Reason> {
    let ack = seg.ack;
    let mut a = Acked { prior_delivered: tp.delivered, prior_lost: tp.lost, ..Acked::default() };
    if ack.gt(tp.snd_nxt) {
        tp.challenge = true;
        return Err(Reason::TcpInvalidAck);
    }
    if ack.lt(tp.snd_una) {
        // RFC 5961 §5: too old to be anything but a guess.
        if (tp.snd_una - ack) as u64 > tp.max_window as u64 {
            tp.challenge = true;
            return Err(Reason::TcpInvalidAck);
        }
        if tp.sack_ok && !seg.opts.sack.is_empty() {
            tcp_sacktag_write_queue(net, tp, seg, &mut a);
            recovery::tcp_fastretrans_alert(net, tp, seg, &a);
        }
        return Ok(());
    }
    a.advanced = ack.gt(tp.snd_una);
    tp.probes_out = 0;
    tp.rcv_tstamp = net.now;
    let window_moved = tcp_ack_update_window(tp, seg);
    let was_out = tp.packets_out;
    let prior_fack = tp.snd_fack;
    if tp.sack_ok && !seg.opts.sack.is_empty() {
        tcp_sacktag_write_queue(net, tp, seg, &mut a);
    }
    if a.advanced {
        confirm_neighbour(net, tp);
        if tp.retransmits > 0 {
            tcp_update_rto_time(net, tp);
        }
        tp.retransmits = 0;
        tp.stall_at = Instant::NEVER;
        tp.err_soft = None;
        tcp_clean_rtx_queue(net, tp, seg, prior_fack, &mut a);
    }
    let moves = sets_xmit_timer(net, tp, &a);
    (a.window, a.data) = (window_moved, seg.len > 0);
    a.ece = tcp_ecn_rcv_ecn_echo(tp, seg.flags);
    if a.ece {
        tcp_count_delivered_ce(net, tp, tp.delivered.wrapping_sub(a.prior_delivered));
    }
    tcp_ack_update_rtt(net, tp, seg, &a);
    a.duplicate = !a.advanced && !window_moved && seg.len == 0 && was_out > 0;
    tcp_rack_update_reo_wnd(net, tp, &a);
    recovery::tcp_process_tlp_ack(net, tp, ack, &a);
    if was_out > 0 {
        if moves {
            rearm_rto(net, tp);
        }
        recovery::tcp_fastretrans_alert(net, tp, seg, &a);
        recovery::tcp_cong_control(net, tp, &a);
        if moves {
            schedule_loss_probe(net, tp, true);
        }
    } else if a.dsack {
        // Nothing is under way any more, but what was may have been sent twice for nothing.
        recovery::tcp_fastretrans_alert(net, tp, seg, &a);
    }
    tcp_ack_probe(net, tp, window_moved);
    if a.advanced {
        tcp_new_space(net, tp);
    }
    if tp.unsent() || tp.lost_out > 0 {
        tp.push = true;
    }
    Ok(())
}

/// Whether the timeout starts anew: something was acknowledged for good, or selectively what was sent before
/// the first that is out was sent last; later reports say nothing of that one, and would put its timeout
/// off for ever (`FLAG_SET_XMIT_TIMER`).
fn sets_xmit_timer(net: &Net, tp: &Tcb, a: &Acked) -> bool {
    let first = || tp.sndq.rtx.front().map(|t| us_since(net.now, t.sent));
    a.advanced || a.sack_rtt_us.is_some_and(|us| first().is_some_and(|first| us > first))
}

/// What we sent arrived: so the next hop is alive, and need not be asked (RFC 4861 §7.3.1;
/// `sk_dst_confirm`). Once a second is enough for a neighbour that counts as reachable for longer.
#[inline]
fn confirm_neighbour(net: &mut Net, tp: &mut Tcb) {
    if net.now.since(tp.confirmed_at) >= SEC {
        confirm_now(net, tp);
    }
}

#[cold]
fn confirm_now(net: &mut Net, tp: &mut Tcb) {
    tp.confirmed_at = net.now;
    if let Some(way) = net.route_out_nosrc(tp.tuple.remote)
        && net.ifaces.get(way.dev as usize).is_some_and(|i| i.l2 == L2::Ethernet)
    {
        net.neigh_confirm(way.dev, way.nexthop);
    }
}

/// Takes the peer's window over if this segment is newer than the one that last did
/// (RFC 9293 §3.10.7.4; `tcp_ack_update_window`).
fn tcp_ack_update_window(tp: &mut Tcb, seg: &Segment) -> bool {
    let window = (seg.window as u32) << if seg.flags.syn() { 0 } else { tp.snd_wscale };
    let newer = seg.ack.gt(tp.snd_una)
        || seg.seq.gt(tp.snd_wl1)
        || seg.seq == tp.snd_wl1 && (window > tp.snd_wnd || window == 0);
    if !newer {
        return false;
    }
    tp.snd_wl1 = seg.seq;
    let moved = window != tp.snd_wnd;
    tp.snd_wnd = window;
    if window > tp.max_window {
        tp.max_window = window;
        let pmtu = tp.pmtu;
        tcp_sync_mss(tp, pmtu);
    }
    moved
}

/// Nothing is under way, but something waits: either the window is open again, or the probe goes on
/// (`tcp_ack_probe`).
fn tcp_ack_probe(net: &Net, tp: &mut Tcb, window_moved: bool) {
    if tp.packets_out > 0 || !tp.unsent() {
        return;
    }
    let open = (tp.wnd_end() - tp.snd_nxt) as i32 > 0;
    if open && window_moved {
        tp.backoff = 0;
        if tp.rtx_kind == Rtx::Probe0 {
            set_rtx(tp, Rtx::None, Instant::NEVER);
        }
    } else if !open {
        check_probe_timer(net, tp);
    }
}

/// Room came free: the application is told once a third of the buffer is (`tcp_new_space`).
pub(super) fn tcp_new_space(net: &mut Net, tp: &mut Tcb) {
    if !tp.sndbuf_locked && !tp.pressure && tp.packets_out < tp.snd_cwnd {
        tcp_sndbuf_expand(net, tp);
    }
    if tp.nospace && tp.writeable(net) {
        tp.nospace = false;
        tp.raise(net, Ready::OUT);
    }
}

/// The send buffer follows the congestion window: twice what a round trip takes (`tcp_sndbuf_expand`).
pub(crate) fn tcp_sndbuf_expand(net: &Net, tp: &mut Tcb) {
    let segs = tp.snd_cwnd.max(super::TCP_INIT_CWND).max(tp.reordering + 1);
    // As in Linux, each segment counts with what its headers and bookkeeping would take there.
    let per = (tp.mss_cache.max(536) as u64 + 640).next_power_of_two() + 256;
    let want = 2 * segs as u64 * per;
    let want = want.min(net.knobs.tcp_wmem[2]).min(1 << 30) as u32;
    tp.sndbuf = tp.sndbuf.max(want);
}

/// Removes what is acknowledged for good from the record of what is under way (`tcp_clean_rtx_queue`).
fn tcp_clean_rtx_queue(net: &mut Net, tp: &mut Tcb, seg: &Segment, prior_fack: Seq, a: &mut Acked) {
    let (ack, now) = (seg.ack, net.now);
    let (mut first_sent, mut reord, was_out) = (None, None, tp.packets_out);
    while let Some(&t) = tp.sndq.rtx.front() {
        let (segs, whole) = if t.end().le(ack) {
            (t.segs as u32, true)
        } else if t.seq.lt(ack) && t.segs > 1 {
            // A part of a super-segment: as many whole segments as fit.
            let n = (ack - t.seq) / (t.mss as u32).max(1);
            (n.min(t.segs as u32 - 1), false)
        } else {
            break;
        };
        if segs == 0 {
            break;
        }
        let part = TxSeg { segs: segs as u16, ..t };
        if t.has(SACKED) {
            tp.sacked_out = tp.sacked_out.saturating_sub(segs);
        } else {
            if t.retrans == 0 {
                first_sent.get_or_insert(t.sent);
                a.orig_sacked |= t.end().le(tp.high_seq);
                reord.get_or_insert(t.seq);
            }
            if tp.sack_ok {
                tcp_count_delivered(net, tp, segs);
                if !tcp_skb_spurious_retrans(tp, seg, &t) {
                    rack_advance(tp, &part, now);
                }
            }
            if let Some(rate) = &mut tp.sndq.rate {
                rate.delivered(0, &part, whole, now);
            }
        }
        if t.has(LOST) {
            tp.lost_out = tp.lost_out.saturating_sub(segs);
        }
        if t.has(RETRANS) {
            tp.retrans_out = tp.retrans_out.saturating_sub(segs);
        }
        a.retrans_acked |= t.retrans > 0;
        tp.packets_out = tp.packets_out.saturating_sub(segs);
        if whole {
            tp.sndq.pop_front();
            continue;
        }
        if let Some(front) = tp.sndq.rtx.front_mut() {
            let len = segs * front.mss as u32;
            front.seq += len;
            front.len -= len;
            front.segs -= segs as u16;
        }
        break;
    }
    if let Some(front) = tp.sndq.rtx.front_mut()
        && front.seq.lt(ack)
    {
        // An acknowledgement inside a segment: what lies before it is gone (`tcp_trim_head`).
        front.len -= ack - front.seq;
        front.seq = ack;
    }
    if let Some(low) = reord.filter(|low| tp.sack_ok && low.lt(prior_fack)) {
        // A hole closed by itself behind what arrived before: the path reorders.
        tcp_check_sack_reordering(net, tp, low);
    }
    if !tp.sack_ok {
        tcp_remove_reno_sacks(net, tp, was_out - tp.packets_out);
        // What of it arrived before the hole was filled nobody can tell.
        a.orig_sacked &= !a.retrans_acked;
    }
    if !a.retrans_acked {
        a.rtt_us = first_sent.map(|sent| us_since(now, sent));
    }
    tp.bytes_acked += (ack - tp.snd_una) as u64;
    tp.snd_una = ack;
    tp.snd_sml = tp.snd_sml.max(ack);
    tp.snd_fack = tp.snd_fack.max(ack);
    tp.sndq.ack_to(net, ack);
    if tp.opts.is_some() {
        tp.urg_acked();
        tcp_mtup_acked(net, tp);
    }
    tp.zerocopy_check(net);
}

fn tcp_count_delivered(net: &Net, tp: &mut Tcb, segs: u32) {
    tp.delivered = tp.delivered.wrapping_add(segs);
    net.counts.inc_by(id::TcpExtTCPDelivered, segs as u64);
}

/// Without SACK `sacked_out` counts duplicates, each of which was a delivery: of what is acknowledged now
/// one segment filled the hole, and the others take duplicates with them (`tcp_remove_reno_sacks`).
fn tcp_remove_reno_sacks(net: &Net, tp: &mut Tcb, acked: u32) {
    if acked > 0 {
        tcp_count_delivered(net, tp, acked.saturating_sub(tp.sacked_out).max(1));
        tp.sacked_out = tp.sacked_out.saturating_sub(acked - 1);
    }
    tp.sacked_out = tp.sacked_out.min(tp.packets_out);
}

fn us_since(now: Instant, then: Instant) -> u32 {
    (now.since(then) / 1000).clamp(1, u32::MAX as u64) as u32
}

/// Whether what was sent again is acknowledged by the echo of a timestamp from before that: the first sending
/// arrived, and says nothing about the second one (`tcp_skb_spurious_retrans`).
fn tcp_skb_spurious_retrans(tp: &Tcb, seg: &Segment, t: &TxSeg) -> bool {
    let echo = seg.opts.ts.filter(|(_, ecr)| tp.ts_ok && *ecr != 0);
    t.retrans > 0 && echo.is_some_and(|(_, ecr)| Seq(ecr).lt(Seq(tp.ts_now(t.sent))))
}

/// RACK: the delivered segment that was sent last tells what should have arrived by now
/// (RFC 8985 §6.2 step 2; `tcp_rack_advance`).
fn rack_advance(tp: &mut Tcb, t: &TxSeg, now: Instant) {
    let rtt = us_since(now, t.sent);
    // Of a segment sent twice, a round trip below the least ever means that the first one arrived.
    if t.retrans > 0 && rtt < tp.min_rtt_us {
        return;
    }
    tp.rack_advanced = true;
    tp.rack_rtt_us = rtt;
    if t.sent > tp.rack_sent || t.sent == tp.rack_sent && t.end().gt(tp.rack_end) {
        tp.rack_sent = t.sent;
        tp.rack_end = t.end();
    }
}

/// Marks what the SACK blocks name (`tcp_sacktag_write_queue`).
fn tcp_sacktag_write_queue(net: &mut Net, tp: &mut Tcb, seg: &Segment, a: &mut Acked) {
    let blocks = seg.opts.sack.as_slice();
    // What the last one named is marked, as long as anything is.
    let hints = tp.sndq.hints();
    let seen = if tp.sacked_out > 0 { hints.blocks() } else { Default::default() };
    let mut named = [None; 4];
    for (i, &(left, right)) in blocks.iter().enumerate() {
        let (left, right) = (Seq(left), Seq(right));
        if i == 0 && is_dsack(net, seg, left, right, blocks.get(1)) {
            if tcp_dsack_seen(net, tp, (left, right), a) {
                if tp.packets_out == 0 {
                    return;
                }
                if !tcp_is_sackblock_valid(tp, true, left, right) {
                    let undo = tp.undo_marker.is_some();
                    net.counts.inc(match undo {
                        true => id::TcpExtTCPDSACKIgnoredOld,
                        false => id::TcpExtTCPDSACKIgnoredNoUndo,
                    });
                }
                continue;
            }
            net.counts.inc(id::TcpExtTCPDSACKIgnoredDubious);
        }
        if !tcp_is_sackblock_valid(tp, false, left, right) {
            // What acknowledgements say that overtook each other is no fault of the peer.
            if seg.ack == tp.snd_una || right.gt(tp.snd_una) {
                net.counts.inc(id::TcpExtTCPSACKDiscard);
            }
            continue;
        }
        let left = left.max(tp.snd_una).max(seg.ack.min(tp.snd_nxt));
        if left.lt(right) {
            sack_range(net, tp, (left, right), &seen, a);
            if let Some(place) = named.get_mut(i) {
                *place = Some((left, right));
            }
        }
    }
    tp.sndq.hints().set_blocks(named);
    // One acknowledgement is one case of it. A timeout's is none, unless that may have been a mistake.
    if let Some(low) = a.reord.take()
        && (tp.ca_state != CaState::Loss || tp.undo_marker.is_some())
    {
        tcp_check_sack_reordering(net, tp, low);
    }
}

/// What does not lie in the flight is no report of it; a duplicate may lie below, where an undo is possible
/// (`tcp_is_sackblock_valid`).
fn tcp_is_sackblock_valid(tp: &Tcb, dsack: bool, left: Seq, right: Seq) -> bool {
    if right.gt(tp.snd_nxt) || left.ge(right) || left.ge(tp.snd_nxt) {
        return false;
    }
    if left.gt(tp.snd_una) {
        return true;
    }
    let Some(marker) = tp.undo_marker.filter(|_| dsack && right.le(tp.snd_una)) else {
        return false;
    };
    left.ge(marker) || right.gt(marker) && left.ge(right - tp.max_window)
}

/// The first block reports a duplicate if it lies below the acknowledgement, or inside the second
/// (RFC 2883 §4; `tcp_check_dsack`).
fn is_dsack(net: &Net, seg: &Segment, left: Seq, right: Seq, second: Option<&(u32, u32)>) -> bool {
    if left.lt(seg.ack) {
        net.counts.inc(id::TcpExtTCPDSACKRecv);
        return true;
    }
    let inside = second.is_some_and(|&(l, r)| Seq(l).le(left) && right.le(Seq(r)));
    if inside {
        net.counts.inc(id::TcpExtTCPDSACKOfoRecv);
    }
    inside
}

/// What arrived twice, was it what we sent twice? False if the report can not be true (`tcp_dsack_seen`,
/// `tcp_check_dsack`).
fn tcp_dsack_seen(net: &Net, tp: &mut Tcb, (left, right): (Seq, Seq), a: &mut Acked) -> bool {
    let bytes = right - left;
    if left.ge(right) || bytes > tp.max_window {
        return false;
    }
    // Super-packets are reported as a whole.
    let segs = bytes.div_ceil((tp.mss_cache as u32).max(1)).min(i32::MAX as u32);
    tp.dsack_dups = tp.dsack_dups.saturating_add(segs);
    if tp.dsack_dups > tp.total_retrans {
        // More than we ever sent twice: the network duplicates packets, and reports mean nothing.
        return false;
    }
    net.counts.inc_by(id::TcpExtTCPDSACKRecvSegs, segs.into());
    a.dsack = true;
    let probe = tp.tlp_retrans && bytes <= tp.mss_cache.into();
    a.dsack_tlp |= probe && tp.tlp_high_seq == Some(right);
    // What was sent twice arrived twice.
    tcp_count_delivered(net, tp, segs);
    // What this recovery sent again lies between its beginning and its end.
    let ours = tp.undo_marker.is_some_and(|marker| right.gt(marker) && right.le(tp.high_seq));
    if ours && tp.undo_retrans > 0 {
        tp.undo_retrans = (tp.undo_retrans - segs as i32).max(0);
    }
    true
}

/// Marks the segments that lie wholly in `left..right`; super-segments are cut at wire segments. What lies
/// in blocks that are `seen` is marked, and is passed over (`tcp_sacktag_walk`, `tcp_sacktag_skip`).
fn sack_range(
    net: &mut Net,
    tp: &mut Tcb,
    (left, right): (Seq, Seq),
    seen: &[Option<(Seq, Seq)>; 4],
    a: &mut Acked,
) {
    let now = net.now;
    let mut i = tp.sndq.rtx_at(end_of_block(seen, left).unwrap_or(left));
    while let Some(&t) = tp.sndq.rtx.get(i) {
        tp.sndq.hints().look();
        if t.seq.ge(right) {
            break;
        }
        let mss = (t.mss as u32).max(1);
        if t.has(SACKED) {
            i += 1;
            if let Some(end) = end_of_block(seen, t.seq).filter(|end| end.gt(t.end())) {
                i = i.max(tp.sndq.rtx_at(end));
            }
            continue;
        }
        if t.seq.lt(left) {
            let before = (left - t.seq).div_ceil(mss);
            if tp.sndq.split(i, before) {
                i += 1;
                continue;
            }
            i += 1;
            continue;
        }
        if t.end().gt(right) && !(t.has(FIN) && t.end() == right + 1 && t.len == 1) {
            let inside = (right - t.seq) / mss;
            if !tp.sndq.split(i, inside) {
                break;
            }
            continue;
        }
        sack_one(net, tp, i, now, a);
        i += 1;
    }
}

/// One segment is acknowledged selectively (`tcp_sacktag_one`).
fn sack_one(net: &Net, tp: &mut Tcb, i: usize, now: Instant, a: &mut Acked) {
    let Some(t) = tp.sndq.rtx.get_mut(i) else { return };
    let segs = t.segs as u32;
    if t.has(LOST) {
        tp.lost_out = tp.lost_out.saturating_sub(segs);
    }
    if t.has(RETRANS) {
        tp.retrans_out = tp.retrans_out.saturating_sub(segs);
    }
    t.flags = t.flags & !(LOST | RETRANS) | SACKED;
    let t = *t;
    tp.sacked_out += segs;
    tcp_count_delivered(net, tp, segs);
    a.sacked = true;
    if t.retrans == 0 {
        a.orig_sacked |= t.end().le(tp.high_seq);
        a.sack_rtt_us.get_or_insert(us_since(now, t.sent));
        if t.end().lt(tp.snd_fack) && t.seq.ge(tp.snd_una) {
            // It arrived after a later one, and was sent once: the path reorders.
            a.reord = a.reord.map_or(Some(t.seq), |low| Some(low.min(t.seq)));
        }
    }
    rack_advance(tp, &t, now);
    if let Some(rate) = &mut tp.sndq.rate {
        rate.delivered(i, &t, true, now);
    }
    tp.snd_fack = tp.snd_fack.max(t.end());
}

fn tcp_check_sack_reordering(net: &Net, tp: &mut Tcb, low: Seq) {
    net.counts.inc(id::TcpExtTCPSACKReorder);
    let mss = (tp.mss_cache as u32).max(1);
    let dist = (tp.snd_fack - low).div_ceil(mss);
    tp.reord_seen += 1;
    let most = net.knobs.tcp_max_reordering.min(u32::MAX.into()) as u32;
    tp.reordering = tp.reordering.max(dist.min(most));
}

/// Feeds what this acknowledgement says of the round trip to the estimators (`tcp_ack_update_rtt`).
fn tcp_ack_update_rtt(net: &Net, tp: &mut Tcb, seg: &Segment, a: &Acked) {
    let mut rtt = a.rtt_us.or(a.sack_rtt_us);
    if rtt.is_none() && a.advanced && tp.ts_ok {
        // Karn's rule does not hold with timestamps: they name the segment (RFC 7323 §4.2).
        rtt = ts_rtt_us(net, tp, seg);
    }
    let Some(us) = rtt else {
        return;
    };
    tcp_update_rtt_min(net, tp, us);
    tcp_rtt_estimator(net, tp, us);
    tp.backoff = 0;
}

/// The round trip that the echoed timestamp tells, if there is one that makes sense.
fn ts_rtt_us(net: &Net, tp: &Tcb, seg: &Segment) -> Option<u32> {
    let (_, ecr) = seg.opts.ts?;
    let ms = tp.ts_now(net.now).wrapping_sub(ecr);
    (ecr != 0 && ms < i32::MAX as u32 / 1000).then(|| ms.max(1) * 1000)
}

/// The receiver's side measures as well (`tcp_rcv_rtt_measure_ts`).
pub(crate) fn rcv_rtt_measure_ts(net: &Net, tp: &mut Tcb, seg: &Segment) {
    // Each echo once: later ones are as old as what the peer did not send meanwhile.
    let Some((_, echo)) = seg.opts.ts else { return };
    if std::mem::replace(&mut tp.rcv_rtt_tsecr, echo) == echo {
        return;
    }
    // Less than a millisecond is no measurement: half of what is in it would be the clock's grain.
    if seg.len >= tp.rcv_mss as u32
        && tp.ts_now(net.now) != echo
        && let Some(us) = ts_rtt_us(net, tp, seg)
    {
        tp.rcv_rtt_update(us as u64, false);
    }
}

/// The least round trip of the last five minutes, or as long as `tcp_min_rtt_wlen` says.
fn tcp_update_rtt_min(net: &Net, tp: &mut Tcb, us: u32) {
    let window = net.knobs.tcp_min_rtt_wlen * SEC;
    if us <= tp.min_rtt_us || net.now.since(tp.min_rtt_at) > window {
        tp.min_rtt_us = us;
        tp.min_rtt_at = net.now;
    }
}

/// Smoothed round trip, deviation, RTO (RFC 6298 §2; `tcp_rtt_estimator`).
pub(crate) fn tcp_rtt_estimator(net: &Net, tp: &mut Tcb, us: u32) {
    let rto_max = tp.rto_max_us();
    let rto_min = net.knobs.tcp_rto_min_us.min(rto_max.into()) as u32;
    let us = us.clamp(1, 60_000_000);
    if tp.srtt_us8 == 0 {
        tp.srtt_us8 = us << 3;
        tp.mdev_us4 = us << 1;
        tp.rttvar_us4 = tp.mdev_us4.max(rto_min);
        tp.mdev_max_us4 = tp.rttvar_us4;
        tp.rtt_seq = tp.snd_nxt;
    } else {
        let err = us as i64 - (tp.srtt_us8 >> 3) as i64;
        tp.srtt_us8 = (tp.srtt_us8 as i64 + err).max(1) as u32;
        let mut dev = err.abs() - (tp.mdev_us4 >> 2) as i64;
        if err < 0 && dev > 0 {
            // A round trip that gets shorter is no reason to wait longer.
            dev >>= 3;
        }
        tp.mdev_us4 = (tp.mdev_us4 as i64 + dev).max(0) as u32;
        if tp.mdev_us4 > tp.mdev_max_us4 {
            tp.mdev_max_us4 = tp.mdev_us4;
            tp.rttvar_us4 = tp.rttvar_us4.max(tp.mdev_max_us4);
        }
        if tp.snd_una.gt(tp.rtt_seq) {
            if tp.mdev_max_us4 < tp.rttvar_us4 {
                tp.rttvar_us4 -= (tp.rttvar_us4 - tp.mdev_max_us4) >> 2;
            }
            tp.rtt_seq = tp.snd_nxt;
            tp.mdev_max_us4 = rto_min;
        }
    }
    tp.rto_us = ((tp.srtt_us8 >> 3) + tp.rttvar_us4).min(rto_max);
}
