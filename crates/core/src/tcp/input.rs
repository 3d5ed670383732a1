//! Stages `Demux` and `Transport` of TCP, RX: finds the connection and does what RFC 9293 §3.10.7
//! asks for, one function a check, in its order.
//!
//! before: [`crate::sock::lookup`]   after: [`super::validate`], [`super::ack`], [`super::rcvq`]; [`super::handshake`]
//! Linux:  net/ipv4/tcp_ipv4.c `tcp_v4_rcv`; tcp_input.c `tcp_rcv_state_process`, `tcp_fin`
//! RFCs:   9293 §3.10.7
//! drops:  TcpHdr, TcpCsum, NoSocket, TcpInvalidAck, TcpOldData, TcpClose

use super::ack::{rcv_rtt_measure_ts, tcp_ack};
use super::demux::Ref;
use super::fastopen::fastopen_synack;
use super::fastopen_active::fin_after_close;
use super::handshake::{tcp_ack_of_syn, tcp_rcv_synsent_state_process};
use super::output::send_reset;
use super::rcvq::tcp_data_queue;
use super::timewait::TCP_TIMEWAIT_NS;
use super::urg::tcp_urg;
use super::validate::{paws_discard, tcp_reset, tcp_validate_incoming};
use super::{State, Tcb, Tuple};
use crate::pkt::{Pkt, Verdict};
use crate::rx::steer;
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::{Ready, SockKind};
use crate::table::Reason;
use crate::table::count::id;
use crate::time::SEC;
use crate::wire::TcpOptions;
use crate::wire::tcp::{TCP_HLEN, TcpFlags, TcpHdr};

/// What a segment's header says (Linux: `struct tcp_skb_cb`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// SEG.SEQ.
    pub seq: Seq,
    /// The end in sequence space: SYN and FIN count.
    pub end_seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// Bytes of payload.
    pub len: u32,
    /// SEG.WND, not scaled.
    pub window: u16,
    /// Wire segments that it stands for.
    pub segs: u16,
    /// Control bits.
    pub flags: TcpFlags,
    /// Bytes of header.
    pub hlen: usize,
    /// Options.
    pub opts: TcpOptions,
}

impl Segment {
    /// The header, and how many bytes of payload are behind it; `None` if it is none.
    #[inline(always)]
    fn header(pkt: &Pkt) -> Option<(TcpHdr, u32)> {
        let hdr = TcpHdr::parse(pkt.head()).ok()?;
        let len = pkt.len().checked_sub(hdr.data_off_bytes)? as u32;
        Some((hdr, len))
    }
    /// What [`Segment::header`] found. The two are apart because an `Option` of what is so large would be
    /// copied once more.
    #[inline(always)]
    fn of(pkt: &Pkt, (hdr, len): (TcpHdr, u32)) -> Segment {
        let seq = Seq(hdr.seq);
        let extra = u32::from(hdr.flags.syn()) + u32::from(hdr.flags.fin());
        Segment {
            seq,
            end_seq: seq + len + extra,
            ack: Seq(hdr.ack),
            len,
            window: hdr.window,
            segs: pkt.segs().min(u16::MAX as u64) as u16,
            flags: hdr.flags,
            hlen: hdr.data_off_bytes,
            opts: TcpOptions::parse(hdr.options(pkt.head())),
        }
    }
}

/// The two ends as the packet names them, seen from here.
fn tuple_of(pkt: &Pkt) -> Tuple {
    Tuple { local: pkt.dst, remote: pkt.src, lport: pkt.dport, rport: pkt.sport }
}

/// Finds who wants the segment. Only connections are noted; everything rarer is looked up again by
/// [`tcp_rcv`], because packets of the same batch may change it meanwhile.
#[inline]
pub fn tcp_lookup(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    if pkt.l2_multicast {
        // A frame to many is no way to reach one peer, and many answers would follow.
        return Verdict::Drop(pkt, Reason::NoSocket);
    }
    cx.net.counts.inc_by(id::TcpInSegs, pkt.segs());
    if !pkt.may_pull(TCP_HLEN) {
        return Verdict::Drop(pkt, Reason::TcpHdr);
    }
    let hlen = pkt.head().get(12).map_or(0, |b| usize::from(b >> 4) * 4);
    if hlen < TCP_HLEN || !pkt.may_pull(hlen) {
        return Verdict::Drop(pkt, Reason::TcpHdr);
    }
    if let Some(&[s0, s1, d0, d1]) = pkt.head().first_chunk() {
        pkt.sport = u16::from_be_bytes([s0, s1]);
        pkt.dport = u16::from_be_bytes([d0, d1]);
    }
    let tuple = tuple_of(&pkt);
    let tcp = &cx.tcp;
    match tcp.find(tcp.demux.hash(&tuple), &tuple) {
        Some(Ref::Conn(index)) => {
            pkt.sock = tcp.conns.at(index).map(|c| c.id);
            Verdict::Pass(pkt)
        }
        Some(_) => Verdict::Pass(pkt),
        None => lookup_listener(cx, pkt, &tuple),
    }
}

/// No connection between the two ends is here: it may live on another shard, or have to begin.
#[inline(never)]
fn lookup_listener(cx: &mut Shard, mut pkt: Pkt, tuple: &Tuple) -> Verdict {
    if cx.net.steer.mesh.is_some() {
        pkt = match steer::forward(&mut cx.net, pkt) {
            Ok(()) => return Verdict::Queued,
            Err(pkt) => pkt,
        };
    }
    let tcp = &cx.tcp;
    if tcp.listen.find(&tcp.listeners, tuple.local, tuple.lport).is_some() {
        return Verdict::Pass(pkt);
    }
    no_socket(cx, pkt, tuple)
}

/// Nobody wants it: the sender is told by a reset, if the segment is whole.
#[cold]
fn no_socket(cx: &mut Shard, mut pkt: Pkt, tuple: &Tuple) -> Verdict {
    if !pkt.csum_verify(cx.net.knobs.rx_checksum) {
        return Verdict::Drop(pkt, Reason::TcpCsum);
    }
    if let Some(hdr) = Segment::header(&pkt) {
        let seg = Segment::of(&pkt, hdr);
        if pkt.pull(seg.hlen) {
            cx.tcp_v4_send_reset(tuple, &seg, &pkt);
        }
    }
    Verdict::Drop(pkt, Reason::NoSocket)
}

/// Takes a segment in (`tcp_v4_rcv`).
#[inline]
pub fn tcp_rcv(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    if !pkt.csum_verify(cx.net.knobs.rx_checksum) {
        return Verdict::Drop(pkt, Reason::TcpCsum);
    }
    let Some(hdr) = Segment::header(&pkt) else { return Verdict::Drop(pkt, Reason::TcpHdr) };
    let seg = Segment::of(&pkt, hdr);
    if !pkt.pull(seg.hlen) {
        return Verdict::Drop(pkt, Reason::TcpHdr);
    }
    let index = match pkt.sock {
        Some(id) if id.kind == SockKind::Tcp => {
            let conn = cx.tcp.conns.get(id.index, id.generation);
            conn.filter(|c| c.hashed).map(|_| id.index)
        }
        _ => None,
    };
    match index {
        Some(index) => tcp_conn_rcv(cx, index, &seg, pkt),
        None => tcp_rcv_slow(cx, &seg, pkt),
    }
}

/// No established connection was noted by Demux.
fn tcp_rcv_slow(cx: &mut Shard, seg: &Segment, pkt: Pkt) -> Verdict {
    let tuple = tuple_of(&pkt);
    let hash = cx.tcp.demux.hash(&tuple);
    match cx.tcp.find(hash, &tuple) {
        Some(Ref::Conn(index)) => tcp_conn_rcv(cx, index, seg, pkt),
        Some(Ref::Req(index)) => cx.tcp_check_req(index, seg, pkt),
        Some(Ref::Tw(index)) => cx.tcp_timewait_state_process(index, seg, pkt),
        None => cx.tcp_listen_rcv(&tuple, hash, seg, pkt, None),
    }
}

/// A segment for a connection.
pub(crate) fn tcp_conn_rcv(cx: &mut Shard, index: u32, seg: &Segment, pkt: Pkt) -> Verdict {
    let memory = cx.tcp.memory(&cx.net);
    let Some(tp) = cx.tcp.conns.at_mut(index) else {
        return Verdict::Drop(pkt, Reason::NoSocket);
    };
    tp.note_memory(&memory, &cx.net);
    if let Err(reason) = tp.inbound_hash(seg.opts.signed, &pkt) {
        return Verdict::Drop(pkt, reason);
    }
    tp.segs_in = tp.segs_in.wrapping_add(seg.segs as u32);
    if seg.len > 0 {
        tp.data_segs_in = tp.data_segs_in.wrapping_add(seg.segs as u32);
    }
    let opening = tp.state == State::SynSent;
    let verdict = tcp_rcv_state_process(&mut cx.net, tp, seg, pkt);
    if opening && let Some(tp) = cx.tcp.conns.at_mut(index) {
        cx.tcp.fastopens.note(tp);
    }
    cx.tcp_settle(index);
    verdict
}

/// The states and their checks (RFC 9293 §3.10.7.3 and §3.10.7.4).
fn tcp_rcv_state_process(net: &mut Net, tp: &mut Tcb, seg: &Segment, pkt: Pkt) -> Verdict {
    if tp.state == State::SynSent {
        return tcp_rcv_synsent_state_process(net, tp, seg, pkt);
    }
    // Nearly always: the next segment of an established connection, nothing unusual about it.
    let plain = tp.state == State::Established
        && seg.seq == tp.rcv_nxt
        && seg.flags.without(TcpFlags::PSH) == TcpFlags::ACK
        && !paws_discard(net, tp, seg);
    if plain {
        net.counts.inc(match (seg.len > 0, seg.ack == tp.snd_una) {
            (true, _) => id::TcpExtTCPHPHits,
            (false, true) => id::TcpExtTCPPureAcks,
            (false, false) => id::TcpExtTCPHPAcks,
        });
    } else if let Err(reason) = tcp_validate_incoming(net, tp, seg) {
        return Verdict::Drop(pkt, reason);
    }
    if let Err(reason) = tcp_check_ack(net, tp, seg) {
        return Verdict::Drop(pkt, reason);
    }
    if tp.state == State::Close {
        // The acknowledgement of our FIN was the last thing to wait for.
        net.pool.free(pkt);
        return Verdict::Taken;
    }
    let verdict = tcp_segment_text(net, tp, seg, pkt);
    tp.ack_snd_check(net);
    verdict
}

/// Fifth check: ACK, and the states that it moves on.
fn tcp_check_ack(net: &mut Net, tp: &mut Tcb, seg: &Segment) -> Result<(), Reason> {
    if tp.state == State::SynRecv {
        let data = tp.syn_data();
        if !seg.ack.gt(tp.snd_una) || seg.ack.gt(tp.snd_nxt + data) {
            send_reset(net, &tp.tuple, seg, tp.md5());
            return Err(Reason::TcpInvalidAck);
        }
        tcp_ack_of_syn(net, tp, seg);
        if data > 0 {
            fastopen_synack(net, tp, seg, &[]);
        }
    }
    tcp_ack(net, tp, seg)?;
    tcp_replace_ts_recent(net, tp, seg);
    rcv_rtt_measure_ts(net, tp, seg);
    let fin_acked = tp.fin_sent && tp.snd_una == tp.snd_nxt;
    if !fin_acked {
        return Ok(());
    }
    match tp.state {
        State::FinWait1 => {
            tp.set_state(net, State::FinWait2);
            tp.raise(net, Ready::OUT);
            if tp.orphan && tp.opts().is_some_and(|o| o.linger2 < 0) {
                net.counts.inc(id::TcpExtTCPAbortOnData);
                send_reset(net, &tp.tuple, seg, tp.md5());
                tp.done(net, None);
                return Ok(());
            }
            fin_wait2(net, tp);
        }
        State::Closing => tp.set_state(net, State::TimeWait),
        State::LastAck => tp.done(net, None),
        _ => {}
    }
    Ok(())
}

/// The peer may take its time to close its side, but not for ever once nobody is here any more.
///
/// The last minute of the wait is that of a TIME_WAIT entry, which costs less; how long it takes is the
/// knob's or the option's time (TCP_LINGER2), and at least three and a half timeouts (`tcp_fin_time`).
pub(crate) fn fin_wait2(net: &Net, tp: &mut Tcb) {
    if tp.state == State::FinWait2 && tp.orphan {
        let rest = tcp_fin_time(net, tp).saturating_sub(TCP_TIMEWAIT_NS);
        tp.keep_at = net.now.plus(rest);
    }
}

/// How long FIN_WAIT_2 lasts without an owner, in nanoseconds (`tcp_fin_time`).
pub(crate) fn tcp_fin_time(net: &Net, tp: &Tcb) -> u64 {
    let asked = tp.opts().map_or(0, |o| o.linger2);
    let seconds = if asked > 0 { asked as u64 } else { net.knobs.tcp_fin_timeout };
    (seconds * SEC).max(super::timer::rto_ns(tp) / 2 * 7)
}

/// Notes the peer's timestamp if the segment covers what was acknowledged last (RFC 7323 §4.3;
/// `tcp_replace_ts_recent`).
fn tcp_replace_ts_recent(net: &Net, tp: &mut Tcb, seg: &Segment) {
    if let Some((val, _)) = seg.opts.ts
        && tp.ts_ok
        && seg.seq.le(tp.rcv_wup)
        && (Seq(val).ge(Seq(tp.ts_recent)) || tp.ts_recent == 0)
    {
        tp.ts_recent = val;
        tp.ts_recent_at = net.now;
    }
}

/// Sixth to eighth check: urgent pointer, text, FIN.
fn tcp_segment_text(net: &mut Net, tp: &mut Tcb, seg: &Segment, pkt: Pkt) -> Verdict {
    if seg.flags.urg() || tp.waits_for_urgent() {
        tcp_urg(net, tp, seg, &pkt);
    }
    match tp.state {
        State::TimeWait => {
            // It acknowledged our FIN, and that was all there was to it.
            net.pool.free(pkt);
            return Verdict::Taken;
        }
        State::CloseWait | State::Closing | State::LastAck => {
            // Nothing can follow the FIN; what repeats it is acknowledged, as a duplicate.
            if seg.end_seq == seg.seq {
                net.pool.free(pkt);
                return Verdict::Taken;
            }
            if seg.seq.ge(tp.rcv_nxt) {
                return Verdict::Drop(pkt, Reason::TcpOldData);
            }
            if (seg.seq + seg.len).gt(tp.rcv_nxt) {
                return data_for_nobody(net, tp, seg, pkt);
            }
        }
        State::FinWait1 | State::FinWait2
            if tp.orphan && seg.end_seq != seg.seq && (seg.seq + seg.len).gt(tp.rcv_nxt) =>
        {
            if seg.flags.fin() {
                fin_after_close(net, tp);
            }
            return data_for_nobody(net, tp, seg, pkt);
        }
        _ => {}
    }
    tcp_data_queue(net, tp, seg, pkt)
}

/// RFC 9293 §3.6.1, RFC 2525 §2.17: nobody will ever read this.
fn data_for_nobody(net: &mut Net, tp: &mut Tcb, seg: &Segment, pkt: Pkt) -> Verdict {
    net.counts.inc(id::TcpExtTCPAbortOnData);
    send_reset(net, &tp.tuple, seg, tp.md5());
    tcp_reset(net, tp);
    Verdict::Drop(pkt, Reason::TcpClose)
}

/// Eighth check: the peer's FIN is in order (`tcp_fin`); RCV.NXT includes it already.
pub(crate) fn tcp_fin(net: &mut Net, tp: &mut Tcb) {
    tp.fin_rcvd = true;
    tp.ack_scheduled = true;
    tp.rcvq.purge_ooo(net);
    match tp.state {
        State::Established | State::SynRecv => {
            // The application will close as well: the acknowledgement waits for our FIN.
            tp.set_state(net, State::CloseWait);
            tp.pingpong = true;
        }
        State::FinWait1 => {
            tp.ack_now = true;
            tp.set_state(net, State::Closing);
        }
        State::FinWait2 => {
            tp.ack_now = true;
            tp.set_state(net, State::TimeWait);
        }
        _ => {}
    }
    let both = matches!(tp.state, State::Closing | State::TimeWait);
    let ready = Ready::IN | Ready::RDHUP;
    tp.raise(net, if both { ready | Ready::HUP } else { ready });
}
