//! How much may be sent in one packet now: congestion window, peer's window, Nagle's algorithm, the size
//! of super-packets, and whether one that is small now is better sent a little later.
//!
//! before: the send queue   after: [`super::output`]
//! Linux:  net/ipv4/tcp_output.c `tcp_cwnd_test`, `tcp_snd_wnd_test`, `tcp_nagle_test`, `tcp_mss_split_point`,
//!         `tcp_tso_autosize`, `tcp_tso_should_defer`, `tcp_small_queue_check`, `tcp_cwnd_validate`
//! RFCs:   9293 §3.7.4 (Nagle), §3.8.6.2.1 (the sender's silly window avoidance); 7661

use super::pacing::{Pace, pacing_rate};
use super::{CaState, Tcb, cc};
use crate::pkt::SMALL;
use crate::shard::Net;
use crate::time::MS;

/// What keeps a connection from sending what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The congestion window.
    Cwnd,
    /// The peer's window.
    Rwnd,
    /// The queues below it, in which enough of it waits.
    Queue,
    /// Its application: what there is does not fill a segment, or a packet that is worth sending.
    App,
}

/// The next packet: its payload in bytes, and whether the FIN goes with it. `most` is what one packet holds
/// ([`tcp_tso_segs`]).
pub(super) fn tcp_may_send(
    net: &Net,
    tp: &mut Tcb,
    mss: u32,
    most: Segs,
) -> Result<(u32, bool), Hold> {
    let quota = tcp_cwnd_test(tp)?.min(most.now);
    let unsent = tp.sndq.end - tp.snd_nxt;
    let mut skb = tp.record_left(unsent);
    if unsent > mss {
        let goal = tcp_bound_to_half_wnd(tp, most.ever * mss) / mss * mss;
        // What one packet may hold now it does hold, however it was written (`tcp_grow_skb`).
        tp.grow_psh(skb.min(quota * mss));
        skb = skb.min(goal.max(quota * mss));
    }
    // What ends the queue may become more.
    let tail = skb == unsent;
    let fin = tail && tp.fin_queued;
    let window = tp.window_left();
    // A segment goes whole or not at all; whatever is left of a window is no reason to cut one.
    if window < if skb > mss { mss } else { skb + u32::from(fin) } {
        return Err(Hold::Rwnd);
    }
    if skb <= mss {
        if skb < mss && tail && !fin && tcp_nagle_check(tp) {
            return Err(Hold::App);
        }
        return Ok((skb, fin));
    }
    if let Some(hold) = tcp_tso_should_defer(net, tp, &Head { skb, tail, fin, window }, most.now) {
        return Err(hold);
    }
    let len = skb.min(tcp_mss_split_point(tp, &Head { skb, tail, fin, window }, mss, quota));
    let loaded = tp.sndq.loadable(tp.snd_nxt, len as usize) as u32;
    // Where so many pieces do not fit into a packet, they end with a segment.
    let len = if loaded < len && loaded > mss { loaded - loaded % mss } else { loaded };
    Ok((len, fin && len == skb && window > len))
}

/// What stands first in the send queue, as one packet at the most.
struct Head {
    /// Bytes of it.
    skb: u32,
    /// Nothing stands behind it.
    tail: bool,
    /// It ends with the FIN.
    fin: bool,
    /// Bytes that the peer takes from here on.
    window: u32,
}

/// Segments that the congestion window allows to one packet: at the most half of it, so that two are under
/// way (`tcp_cwnd_test`).
fn tcp_cwnd_test(tp: &Tcb) -> Result<u32, Hold> {
    match tp.snd_cwnd.checked_sub(tp.in_flight()) {
        None | Some(0) => Err(Hold::Cwnd),
        Some(left) => Ok(left.min((tp.snd_cwnd >> 1).max(1))),
    }
}

/// Whether a small segment has to wait (`tcp_nagle_check`, with Minshall's change: only while
/// another small one is under way).
fn tcp_nagle_check(tp: &Tcb) -> bool {
    if tp.nagle_push || tp.urg_mode() {
        return false;
    }
    tp.cork || tp.more || !tp.nodelay && tp.packets_out > 0 && tp.snd_sml.gt(tp.snd_una)
}

/// Where a packet of several segments is to end: at what both windows allow, and without a last segment
/// that is not full, if that has to wait (`tcp_mss_split_point`).
fn tcp_mss_split_point(tp: &Tcb, head: &Head, mss: u32, quota: u32) -> u32 {
    let most = quota.saturating_mul(mss);
    if most <= head.window && !head.tail {
        return most;
    }
    let needed = head.skb.min(head.window);
    if most <= needed {
        return most;
    }
    let partial = needed % mss;
    if partial > 0 && tcp_nagle_check(tp) { needed - partial } else { needed }
}

/// Whether a packet of several segments waits for the next acknowledgement, which comes soon and lets it
/// become larger; and for what it waits (`tcp_tso_should_defer`).
fn tcp_tso_should_defer(net: &Net, tp: &Tcb, head: &Head, max_segs: u32) -> Option<Hold> {
    if tp.ca_state >= CaState::Recovery {
        return None;
    }
    let mss = tp.mss_cache as u32;
    let cwnd = (tp.snd_cwnd - tp.in_flight()).saturating_mul(mss);
    let limit = head.window.min(cwnd);
    // Nothing makes it larger, or it is large enough.
    if limit >= max_segs * mss || !head.tail && limit >= head.skb {
        return None;
    }
    let enough = match net.knobs.tcp_tso_win_divisor as u32 {
        0 => TCP_MAX_TSO_DEFERRED_MSS * mss + 1,
        divisor => tp.snd_wnd.min(tp.snd_cwnd.saturating_mul(mss)) / divisor,
    };
    if limit >= enough {
        return None;
    }
    // After a pause to wait would be to send a burst.
    let wrote = tp.pace.as_deref().map_or(tp.lsndtime, |pace| pace.next.max(tp.lsndtime));
    if net.now.since(wrote) > MS {
        return None;
    }
    let oldest = tp.sndq.rtx.front()?;
    let srtt_ns = tp.srtt_us8 as u64 * 125;
    let soon = net.now.plus((srtt_ns / 2).min(MS));
    if oldest.sent.plus(srtt_ns) > soon {
        return None;
    }
    if cwnd < head.window {
        if cwnd <= head.skb {
            return Some(Hold::Cwnd);
        }
    } else if head.window <= head.skb {
        return Some(Hold::Rwnd);
    }
    // What will not become more does not wait to become more.
    if head.fin || tp.ends_record(tp.snd_nxt + head.skb) { None } else { Some(Hold::App) }
}

/// Segments that may go without waiting for more where no part of a window is asked for
/// (`tcp_max_tso_deferred_mss`).
const TCP_MAX_TSO_DEFERRED_MSS: u32 = 3;

/// Segments of one packet.
#[derive(Clone, Copy)]
pub(super) struct Segs {
    /// At the connection's rate.
    pub now: u32,
    /// At any rate.
    ever: u32,
    /// Bytes of its rate that may wait below it.
    pub below: u64,
}

/// The same for what waits, as far as it matters: no more than a segment goes as one, and where nothing else of the
/// connection is on its way, no queue below it is asked ([`tcp_small_queue_check`]). Only options could make two
/// packets of it; a FIN goes with it or alone.
#[inline]
pub(super) fn tcp_tso_segs_of(net: &Net, tp: &Tcb, mss: u32) -> Segs {
    let one = tp.sndq.end - tp.snd_nxt <= mss && tp.opts.is_none();
    if one && tp.sndq.rtx.len() <= 1 {
        return Segs { now: 1, ever: 1, below: 0 };
    }
    tcp_tso_segs(net, tp, mss)
}

/// Segments that a packet may have: what leaves in a millisecond at the connection's rate, so that a
/// super-packet is no burst, sent again or not, and more where the round trip is short (`tcp_tso_segs`, `tcp_tso_autosize`).
pub(super) fn tcp_tso_segs(net: &Net, tp: &Tcb, mss: u32) -> Segs {
    let below = pacing_rate(net, tp) >> PACING_SHIFT;
    // Each segment has its own urgent pointer, and its own signature.
    if !net.knobs.gso || tp.urg_mode() || tp.md5().is_some() {
        return Segs { now: 1, ever: 1, below };
    }
    let iface = net.ifaces.get(tp.dev as usize).map_or(65536, |i| i.gso_max_size);
    let room = iface.min(65535).saturating_sub(tp.tuple.ip_hlen() + 60);
    let ever = (room / mss).max(1);
    let bytes = match (cc::send_quantum(tp), tp.pace.as_deref()) {
        (Some(quantum), Some(Pace { max, .. })) => u64::from(quantum).min(max >> PACING_SHIFT),
        _ => {
            let near = tp.min_rtt_us.checked_shr(net.knobs.tcp_tso_rtt_log as u32).unwrap_or(0);
            let more = room.checked_shr(near).unwrap_or(0);
            below.saturating_add(more.into())
        }
    };
    let segs = bytes.min(room.into()) as u32 / mss;
    Segs { now: segs.max(net.knobs.tcp_min_tso_segs as u32).min(ever), ever, below }
}

/// Whether what the connection has sent and what still waits below it is enough: more goes when some of
/// that has left (`tcp_small_queue_check`). `len` is the payload of the next packet; one that was lost may
/// be sent again while twice as much waits (`again`).
#[inline]
pub(super) fn tcp_small_queue_check(
    net: &mut Net,
    tp: &Tcb,
    below: u64,
    len: u32,
    again: bool,
) -> bool {
    // What is alone under way does not wait for a device that may be late to say that it is done.
    if tp.sndq.rtx.len() <= 1 {
        return false;
    }
    let limit = below.max(2 * u64::from(skb_truesize(len)));
    let limit = limit.min(net.knobs.tcp_limit_output_bytes) << u32::from(again);
    net.pool.tsq_throttled(tp.id.index, limit)
}

/// What a packet of so much payload counts for while it waits (`skb->truesize`).
pub(super) fn skb_truesize(len: u32) -> u32 {
    len + SMALL as u32
}

/// What leaves in 1/2^10 of a second is one packet, and waits below (`sk_pacing_shift`).
const PACING_SHIFT: u32 = 10;

/// Not more than half the largest window that the peer ever had (`tcp_bound_to_half_wnd`).
pub(super) fn tcp_bound_to_half_wnd(tp: &Tcb, bytes: u32) -> u32 {
    let cutoff = if tp.max_window > 536 { tp.max_window >> 1 } else { tp.max_window };
    if cutoff > 0 && bytes > cutoff {
        return cutoff.max(super::TCP_MIN_SND_MSS as u32 - 12);
    }
    bytes
}

/// Notes how far the congestion window is used: only a used one may grow (RFC 7661; `tcp_cwnd_validate`).
pub(super) fn tcp_cwnd_validate(tp: &mut Tcb, limited: bool) {
    if tp.snd_una.ge(tp.cwnd_usage_seq)
        || limited
        || tp.packets_out > tp.max_packets_out && !tp.cwnd_limited
    {
        tp.cwnd_limited = limited;
        tp.max_packets_out = tp.packets_out;
        tp.cwnd_usage_seq = tp.snd_nxt;
    }
}
