//! Stages `Demux` and `Transport` of TCP, RX: finds the connection and does what RFC 9293 §3.10.7
//! asks for, one function a check, in its order.
//!
//! before: [`crate::sock::lookup`]   after: [`super::rcvq`], [`super::ack`]
//! Linux:  net/ipv4/tcp_ipv4.c `tcp_v4_rcv`; tcp_input.c `tcp_rcv_state_process`, `tcp_validate_incoming`
//! RFCs:   9293 §3.10.7, 5961 (blind attacks), 7323 §5 (PAWS)
//! drops:  TcpHdr, TcpCsum, NoSocket, TcpFlags, TcpPawsActive, TcpPaws, TcpPawsAck, TcpInvalidSequence, TcpInvalidSyn, TcpReset, TcpInvalidAck, TcpOldData, TcpClose

use super::ack::{rcv_rtt_measure_ts, tcp_ack, tcp_rtt_estimator, tcp_sndbuf_expand};
use super::cc;
use super::demux::Ref;
use super::fastopen::{fastopen_synack, options_of};
use super::fastopen_active::fin_after_close;
use super::mtup::tcp_mtup_init;
use super::output::{send_reset, tcp_send_syn};
use super::rcvq::tcp_data_queue;
use super::rcvwin::{TCP_ATO_MIN_MS, TCP_DELACK_MAX_NS};
use super::timer::{Rtx, rearm_rto, set_rtx};
use super::timewait::TCP_TIMEWAIT_NS;
use super::urg::tcp_urg;
use super::{Earlier, State, Tcb, Tuple};
use crate::pkt::{Pkt, Verdict};
use crate::rx::steer;
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::error::TcpError;
use crate::sock::{Ready, SockKind};
use crate::table::Reason;
use crate::table::count::{Id, Packets, id};
use crate::time::{Instant, MS, SEC};
use crate::wire::TcpOptions;
use crate::wire::tcp::{TCP_HLEN, TcpFlags, TcpHdr};
use crate::wire::tcp_options::TCPOLEN_TSTAMP_ALIGNED;

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
    #[inline(always)]
    fn read(pkt: &Pkt) -> Option<Segment> {
        let hdr = TcpHdr::parse(pkt.head()).ok()?;
        let len = pkt.len().checked_sub(hdr.data_off_bytes)? as u32;
        let seq = Seq(hdr.seq);
        let extra = u32::from(hdr.flags.syn()) + u32::from(hdr.flags.fin());
        Some(Segment {
            seq,
            end_seq: seq + len + extra,
            ack: Seq(hdr.ack),
            len,
            window: hdr.window,
            segs: pkt.segs().min(u16::MAX as u64) as u16,
            flags: hdr.flags,
            hlen: hdr.data_off_bytes,
            opts: TcpOptions::parse(hdr.options(pkt.head())),
        })
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
    if let Some(seg) = Segment::read(&pkt)
        && pkt.pull(seg.hlen)
    {
        cx.tcp_v4_send_reset(tuple, &seg, &pkt);
    }
    Verdict::Drop(pkt, Reason::NoSocket)
}

/// Takes a segment in (`tcp_v4_rcv`).
#[inline]
pub fn tcp_rcv(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    if !pkt.csum_verify(cx.net.knobs.rx_checksum) {
        return Verdict::Drop(pkt, Reason::TcpCsum);
    }
    let Some(seg) = Segment::read(&pkt) else { return Verdict::Drop(pkt, Reason::TcpHdr) };
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

/// First to fourth check: sequence number, RST, (security,) SYN (`tcp_validate_incoming`).
fn tcp_validate_incoming(net: &mut Net, tp: &mut Tcb, seg: &Segment) -> Result<(), Reason> {
    if paws_discard(net, tp, seg) && !seg.flags.rst() {
        if seg.flags.syn() {
            tp.challenge = true;
            return Err(Reason::TcpInvalidSyn);
        }
        if seg.flags.ack() && seg.seq == seg.end_seq && seg.seq.lt(tp.rcv_nxt) {
            return Err(Reason::TcpPawsAck);
        }
        tcp_send_dupack(net, tp, seg, id::TcpExtTCPACKSkippedPAWS);
        return Err(Reason::TcpPaws);
    }
    tcp_sequence(net, tp, seg)?;
    if seg.flags.rst() {
        return Err(tcp_rst(net, tp, seg));
    }
    if seg.flags.syn() {
        // Opened from both ends: the SYN-ACK repeats the SYN that we have.
        let crossed = tp.state == State::SynRecv
            && seg.flags.ack()
            && seg.seq + 1 == seg.end_seq
            && seg.end_seq == tp.rcv_nxt
            && seg.ack == tp.snd_nxt + tp.syn_data();
        if !crossed {
            tp.challenge = true;
            return Err(Reason::TcpInvalidSyn);
        }
    }
    if !seg.flags.ack() {
        return Err(Reason::TcpFlags);
    }
    Ok(())
}

/// Protection against wrapped sequence numbers (RFC 7323 §5.3; `tcp_paws_check`).
#[inline]
fn paws_discard(net: &Net, tp: &Tcb, seg: &Segment) -> bool {
    let Some((val, _)) = seg.opts.ts else { return false };
    if !tp.ts_ok || Seq(val).ge(Seq(tp.ts_recent)) || tp.ts_recent == 0 {
        return false;
    }
    // After 24 days the clock itself may have wrapped.
    if net.now.since(tp.ts_recent_at) > 24 * 86_400 * SEC {
        return false;
    }
    let window = u32::from(seg.window) << tp.snd_wscale;
    // An acknowledgement that reordering made a little late does no harm (`tcp_disordered_ack_check`).
    let harmless = seg.flags.ack()
        && seg.seq == tp.rcv_nxt
        && seg.len == 0
        && seg.ack == tp.snd_una
        && !seg.flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST)
        && !(seg.seq.gt(tp.snd_wl1) || window > tp.snd_wnd || window == 0)
        && tp.ts_recent.wrapping_sub(val) as u64 <= tp.rto_us as u64 * 12 / 10_000;
    !harmless
}

/// First check: some part of the segment lies in the window (`tcp_sequence`).
fn tcp_sequence(net: &mut Net, tp: &mut Tcb, seg: &Segment) -> Result<(), Reason> {
    let old = seg.end_seq.lt(tp.rcv_wup);
    let beyond = seg.seq.gt(tp.rcv_nxt + tp.receive_window());
    if !old && !beyond {
        return Ok(());
    }
    if !seg.flags.rst() {
        if seg.flags.syn() {
            tp.challenge = true;
            return Err(Reason::TcpInvalidSyn);
        }
        tcp_send_dupack(net, tp, seg, id::TcpExtTCPACKSkipped);
    }
    Err(Reason::TcpInvalidSequence)
}

/// The peer is told what we expect (`tcp_send_dupack`); at a limited rate where both sides might
/// else answer each other for ever.
fn tcp_send_dupack(net: &mut Net, tp: &mut Tcb, seg: &Segment, skipped: Id<Packets>) {
    if seg.end_seq == seg.seq && oow_rate_limited(net, tp, skipped) {
        return;
    }
    tp.note_duplicate(net, seg);
    tp.ack_now = true;
}

/// Whether a segment out of the window is not answered, because one was lately
/// (`tcp_oow_rate_limited`); counted as `skipped`.
pub(crate) fn oow_rate_limited(net: &Net, tp: &mut Tcb, skipped: Id<Packets>) -> bool {
    let every = net.knobs.tcp_invalid_ratelimit * MS;
    let limited = tp.oow_ack_at != Instant::ZERO && net.now.since(tp.oow_ack_at) < every;
    if limited {
        net.counts.inc(skipped);
    } else {
        tp.oow_ack_at = net.now;
    }
    limited
}

/// Second check: a reset counts only if it names exactly what is expected (RFC 5961 §3.2); what
/// merely lies in the window is questioned.
fn tcp_rst(net: &mut Net, tp: &mut Tcb, seg: &Segment) -> Reason {
    let exact = seg.seq == tp.rcv_nxt || tp.rcvq.ooo_end() == Some(seg.seq);
    if !exact {
        tp.challenge = true;
        return Reason::TcpReset;
    }
    tcp_reset(net, tp);
    Reason::TcpReset
}

/// The connection is over; what the application is told depends on how far it was (`tcp_reset`).
fn tcp_reset(net: &mut Net, tp: &mut Tcb) {
    let err = match tp.state {
        State::CloseWait => Some(TcpError::Closed),
        State::Closing | State::LastAck => None,
        _ => Some(TcpError::Reset),
    };
    tp.done(net, err);
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

/// SYN_SENT (RFC 9293 §3.10.7.3; `tcp_rcv_synsent_state_process`).
fn tcp_rcv_synsent_state_process(net: &mut Net, tp: &mut Tcb, seg: &Segment, pkt: Pkt) -> Verdict {
    // Data that went with the SYN may be acknowledged with it (RFC 7413 §4.2.2).
    if seg.flags.ack() && (seg.ack.le(tp.iss) || seg.ack.gt(tp.snd_nxt + tp.syn_data())) {
        // The peer holds an old connection: our reset ends it, and the SYN goes out again at once.
        if tp.retransmits == 0 {
            set_rtx(tp, Rtx::Retrans, net.now.plus(2 * MS));
        }
        if !seg.flags.rst() {
            send_reset(net, &tp.tuple, seg, tp.md5());
        }
        return Verdict::Drop(pkt, Reason::TcpInvalidAck);
    }
    if let Some((_, ecr)) = seg.opts.ts.filter(|_| tp.ts_ok && seg.flags.ack())
        && ecr != 0
        && !Seq(ecr).within(Seq(tp.ts_now(tp.lsndtime)), Seq(tp.ts_now(net.now)) + 1)
    {
        // It echoes a timestamp that this attempt never sent.
        if !seg.flags.rst() {
            send_reset(net, &tp.tuple, seg, tp.md5());
        }
        return Verdict::Drop(pkt, Reason::TcpPawsActive);
    }
    if seg.flags.rst() {
        if seg.flags.ack() {
            tp.done(net, Some(TcpError::Refused));
        }
        return Verdict::Drop(pkt, Reason::TcpReset);
    }
    if !seg.flags.syn() {
        return Verdict::Drop(pkt, Reason::TcpFlags);
    }
    take_syn(net, tp, seg);
    if seg.flags.ack() {
        tcp_ack_of_syn(net, tp, seg);
        let fast = fastopen_synack(net, tp, seg, options_of(&pkt));
        if tp.opts().is_some_and(|o| o.write_pending || o.defer_accept > 0) {
            // Data will follow in a moment, and can carry the acknowledgement.
            tp.ato_ms = TCP_ATO_MIN_MS;
            tp.ack_scheduled = true;
            tp.enter_quickack();
            tp.delack_at = tp.delack_at.min2(net.now.plus(TCP_DELACK_MAX_NS));
        } else {
            tp.ack_now = true;
        }
        if fast && seg.end_seq != seg.seq + 1 {
            // Its data, and perhaps a FIN (`tcp_fastopen_add_skb`).
            tp.opts_mut().syn_data_acked = true;
            let text =
                Segment { seq: seg.seq + 1, flags: seg.flags.without(TcpFlags::SYN), ..*seg };
            return tcp_data_queue(net, tp, &text, pkt);
        }
    } else {
        // Opened from both ends at once (RFC 9293 §3.5, figure 7).
        tp.set_state(net, State::SynRecv);
        tp.retransmits = 0;
        tp.backoff = 0;
        tcp_send_syn(net, tp);
        rearm_rto(net, tp);
    }
    net.pool.free(pkt);
    Verdict::Taken
}

/// Takes the peer's SYN over: its sequence number, what it agrees to.
fn take_syn(net: &Net, tp: &mut Tcb, seg: &Segment) {
    tp.irs = seg.seq;
    tp.rcv_nxt = seg.seq + 1;
    tp.rcv_wup = tp.rcv_nxt;
    tp.copied_seq = tp.rcv_nxt;
    tp.snd_wl1 = seg.seq;
    tp.snd_wnd = seg.window as u32;
    tp.max_window = tp.snd_wnd;
    tp.take_options(net, &seg.opts);
    tp.ecn_rcv_syn(seg.flags);
}

/// Our SYN is acknowledged: the connection is established (`tcp_finish_connect`, `tcp_init_transfer`).
pub(crate) fn tcp_ack_of_syn(net: &mut Net, tp: &mut Tcb, seg: &Segment) {
    let window = seg.window as u32;
    tp.snd_wnd = if seg.flags.syn() { window } else { window << tp.snd_wscale };
    tp.max_window = tp.max_window.max(tp.snd_wnd);
    tp.snd_wl1 = seg.seq;
    tp.snd_una = tp.iss + 1;
    // What Fast Open let us send already stays under way.
    let under_way = tp.packets_out > 0;
    if !under_way {
        tp.snd_nxt = tp.snd_una;
    }
    tp.snd_sml = tp.snd_una;
    // The SYN was delivered, if nothing else.
    tp.delivered = 1;
    (tp.lrcvtime, tp.snd_fack) = (net.now, tp.snd_una);
    tp.rack_end = tp.snd_una;
    tp.high_seq = tp.snd_una;
    tp.cwnd_usage_seq = tp.snd_una;
    if tp.retransmits == 0 && tp.srtt_us8 == 0 {
        let us = (net.now.since(tp.lsndtime) / 1000).clamp(1, 60_000_000) as u32;
        tcp_rtt_estimator(net, tp, us);
        (tp.min_rtt_us, tp.min_rtt_at) = (us, net.now);
    }
    if tp.retransmits > 1 {
        // RFC 5681 §3.1: a SYN that was lost twice says that the path is bad.
        tp.snd_cwnd = 1;
    }
    tp.retransmits = 0;
    tp.backoff = 0;
    tp.stall_at = Instant::NEVER;
    set_rtx(tp, Rtx::None, Instant::NEVER);
    if under_way {
        rearm_rto(net, tp);
    }
    tcp_init_transfer(net, tp);
    tp.raise(net, Ready::OUT);
    if tp.fin_queued {
        // It was closed before it was established (RFC 9293 §3.10.4, SYN-SENT and SYN-RECEIVED).
        tp.set_state(net, State::FinWait1);
    }
    tp.push = tp.unsent();
}

/// An established connection gets its buffers' sizes.
pub(crate) fn tcp_init_transfer(net: &mut Net, tp: &mut Tcb) {
    let active = tp.state == State::SynSent;
    tp.set_state(net, State::Established);
    if tp.ts_ok {
        // What the peer was told counts without options.
        tp.advmss = tp.advmss.saturating_sub(TCPOLEN_TSTAMP_ALIGNED as u16);
    }
    tcp_mtup_init(net, tp, active);
    cc::init(net, tp);
    tcp_init_buffers(net, tp);
}

/// (`tcp_init_buffer_space`)
pub(super) fn tcp_init_buffers(net: &mut Net, tp: &mut Tcb) {
    if !tp.sndbuf_locked {
        tcp_sndbuf_expand(net, tp);
    }
    // It is known when data comes (`tcp_initialize_rcv_mss`).
    let half = (tp.rcv_wnd / 2).min(u16::MAX.into()) as u16;
    tp.rcv_mss = tp.mss_cache.min(tp.advmss).min(half).clamp(88, super::TCP_MSS_DEFAULT);
    let mss = u32::from(tp.advmss);
    let full = tp.rcvq.win_from_space(tp.rcvbuf);
    // The window leaves room for a segment that the application takes its time with.
    tp.window_clamp = tp.window_clamp.min(full);
    if tp.window_clamp > 2 * mss && tp.window_clamp + mss > full {
        tp.window_clamp = (2 * mss).max(full - mss);
    }
    tp.rcv_ssthresh = tp.rcv_ssthresh.min(tp.window_clamp);
    let least = tp.rcv_ssthresh.min(tp.rcv_wnd);
    tp.rcvq_space = least.min(super::TCP_INIT_CWND * mss);
    tp.rcvq_seq = tp.copied_seq;
    tp.rcvq_at = net.now;
    tp.rcv_rtt_at = net.now;
    tp.rcv_rtt_seq = tp.rcv_nxt + tp.rcv_wnd;
    tp.rcv_tstamp = net.now;
    tp.lsndtime = net.now;
    if tp.keepalive {
        let time = tp.keepalive_times(net).time_s as u64 * SEC;
        tp.keep_at = tp.keep_at.min2(net.now.plus(time));
    }
}

impl Tcb {
    /// What both sides agree on, by the options of the peer's SYN.
    pub fn take_options(&mut self, net: &Net, opts: &TcpOptions) {
        match opts.ts {
            Some((val, _)) if self.ts_ok => {
                self.ts_recent = val;
                self.ts_recent_at = net.now;
            }
            _ => self.ts_ok = false,
        }
        self.sack_ok &= opts.sack_permitted;
        match opts.wscale {
            Some(shift) if self.rcv_wscale > 0 || net.knobs.tcp_window_scaling => {
                self.snd_wscale = shift;
            }
            _ => {
                self.wscale_ok = false;
                (self.snd_wscale, self.rcv_wscale) = (0, 0);
                self.window_clamp = self.window_clamp.min(65535);
            }
        }
        let mss = opts.mss.unwrap_or(super::TCP_MSS_DEFAULT);
        let most = self.opts().map_or(0, |o| o.user_mss);
        let mss = if most > 0 { mss.min(most) } else { mss };
        self.mss_clamp = mss.max(net.knobs.tcp_min_snd_mss.min(u16::MAX.into()) as u16);
    }
}
