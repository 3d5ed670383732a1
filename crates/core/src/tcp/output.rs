//! Stage `Send` of TCP, TX: sends what may be sent now ([`super::quota`]), and builds segments and super-segments.
//!
//! before: the application, [`super::input`], [`super::timer`]   after: [`crate::ip::output`]
//! Linux:  net/ipv4/tcp_output.c `tcp_write_xmit`, `__tcp_transmit_skb`, `tcp_send_ack`, `tcp_send_syn_data`
//! RFCs:   9293 §3.8.6 (windows), §3.10.7.1 (resets); 7323; 2018

use std::net::IpAddr;

use super::ack::tcp_new_space;
use super::cc::{self, tcp_cwnd_restart};
use super::ecn::{self, Ecn, tcp_ecn_send};
use super::input::Segment;
use super::md5::{self, Md5Sig};
use super::mtup::{Probed, mtup_limit, tcp_mtu_probe};
use super::pacing::{tcp_pacing_check, tcp_update_after_send};
use super::quota::{
    Hold, skb_truesize, tcp_bound_to_half_wnd, tcp_cwnd_validate, tcp_may_send,
    tcp_small_queue_check, tcp_tso_segs_of,
};
use super::rate::{tcp_rate_check_app_limited, tcp_rate_skb_sent};
use super::rcvwin::TCP_DELACK_NS;
use super::recovery::tcp_xmit_retransmit_queue;
use super::sndq::{FIN, PSH, TxSeg};
use super::timer::Rtx;
use super::{Earlier, State, TCP_MIN_SND_MSS, Tcb, Tuple, timer};
use crate::pkt::{Gso, GsoKind};
use crate::seq::Seq;
use crate::shard::Net;
use crate::table::count::id;
use crate::wire::IPPROTO_TCP;
use crate::wire::tcp::{TCP_HLEN, TcpFlags, TcpHdr};
use crate::wire::tcp_fastopen::FastOpen;
use crate::wire::tcp_md5::TCPOLEN_MD5SIG_ALIGNED;
use crate::wire::tcp_options::{TCP_MAX_WSCALE, TCP_OPTIONS_MAX};
use crate::wire::{SackBlocks, TcpOptions};

/// What became of a connection's turn to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It has sent what it may.
    Done,
    /// It could send more, but the way down is full.
    Throttled,
}

/// Packets of all connections that may wait for IpOut at once.
const IP_OUT_MAX: usize = 512;
/// Packets that one connection sends before the next one has its turn.
const QUANTUM_PKTS: usize = 32;

/// A connection's turn to send: what is lost, what is new, an acknowledgement that is owed.
pub(crate) fn tcp_push(net: &mut Net, tp: &mut Tcb) -> Pushed {
    let mut said = Pushed::Done;
    if tp.state.synchronized() || tp.fastopen_child() {
        said = tcp_xmit_recovery(net, tp);
    }
    if tp.ack_now {
        tcp_send_ack(net, tp);
    }
    if tp.nospace && tp.notsent_lowat(net) != u32::MAX {
        tcp_new_space(net, tp);
    }
    said
}

/// What is lost goes first, then what is new; only while F-RTO asks whether a timeout was spurious it is
/// the other way round (RFC 5682 §3.1 step 2b; `tcp_xmit_recovery`).
fn tcp_xmit_recovery(net: &mut Net, tp: &mut Tcb) -> Pushed {
    if tp.frto_new {
        let said = tcp_write_xmit(net, tp);
        if said == Pushed::Throttled {
            return said;
        }
        tp.frto_new = false;
        if tp.snd_nxt.gt(tp.high_seq) {
            return said;
        }
        tp.frto = false;
    }
    let said = tcp_xmit_retransmit_queue(net, tp);
    if said == Pushed::Done { tcp_write_xmit(net, tp) } else { said }
}

/// Sends what windows, congestion control and Nagle's algorithm allow (`tcp_write_xmit`).
fn tcp_write_xmit(net: &mut Net, tp: &mut Tcb) -> Pushed {
    if tp.leaving {
        return Pushed::Done;
    }
    if !tp.unsent() && tp.mtup().is_none() {
        // Its turn is for an acknowledgement: nothing below would find anything.
        (tp.nagle_push, tp.more) = (false, false);
        tcp_rate_check_app_limited(tp);
        return Pushed::Done;
    }
    if tp.packets_out == 0 && tp.unsent() {
        tcp_slow_start_after_idle_check(net, tp);
        cc::tx_start(tp, net.now);
    }
    let mss = tcp_current_mss(tp);
    let (most, any) = (tcp_tso_segs_of(net, tp, mss), tp.unsent());
    let (mut said, mut sent, mut held) = (Pushed::Done, 0, None);
    if tp.mtup().is_some() {
        match tcp_mtu_probe(net, tp) {
            Probed::No => {}
            Probed::Sent => sent = 1,
            Probed::Wait => return Pushed::Done,
        }
    }
    while tp.unsent() {
        if tcp_pacing_check(net, tp) {
            break;
        }
        if way_is_full(net, tp.dev) {
            said = Pushed::Throttled;
            break;
        }
        if sent == QUANTUM_PKTS {
            tp.push = true;
            break;
        }
        let (len, fin) = match tcp_may_send(net, tp, mss, most) {
            Ok(next) => next,
            Err(hold) => {
                held = Some(hold);
                break;
            }
        };
        if tcp_small_queue_check(net, tp, most.below, len, false) {
            held = Some(Hold::Queue);
            break;
        }
        if !send_new(net, tp, len, if fin { TcpFlags::FIN } else { TcpFlags::NONE }, mss) {
            said = Pushed::Throttled;
            break;
        }
        sent += 1;
    }
    let limited = held == Some(Hold::Cwnd) || tp.in_flight() >= tp.snd_cwnd;
    if sent > 0 || limited && any {
        tcp_cwnd_validate(tp, limited);
    }
    if sent > 0 {
        timer::schedule_loss_probe(net, tp, false);
    }
    if said == Pushed::Throttled {
        return said;
    }
    if sent < QUANTUM_PKTS {
        // A write has its say once: what it made wait goes on the next occasion.
        (tp.nagle_push, tp.more) = (false, false);
    }
    if sent == 0 && tp.packets_out == 0 && tp.unsent() {
        timer::check_probe_timer(net, tp);
    }
    tcp_rate_check_app_limited(tp);
    said
}

/// Whether the device's queue, or the way to it, has no room.
pub(crate) fn way_is_full(net: &Net, dev: u8) -> bool {
    let queued = net
        .ifaces
        .get(dev as usize)
        .map_or(0, |i| i.txqs.iter().map(|q| q.qdisc.len() + q.ring.len()).max().unwrap_or(0));
    net.ip_out.len() >= IP_OUT_MAX
        || (net.ip_out.len() + queued) as u64 >= net.knobs.txqueuelen.max(4) / 4 * 3
}

/// Sends `len` new bytes as one packet, with the FIN or PSH that `ends` names (`tcp_event_new_data_sent`).
pub(crate) fn send_new(net: &mut Net, tp: &mut Tcb, len: u32, ends: TcpFlags, mss: u32) -> bool {
    let (seq, fin) = (tp.snd_nxt, ends.any(TcpFlags::FIN));
    let mut flags = TcpFlags::ACK | ends;
    if len > 0 && tp.sndq.psh.take(seq, seq + len, tp.sndq.end) {
        flags |= TcpFlags::PSH;
    }
    if !tcp_transmit_skb(net, tp, seq, len, flags, mss) {
        return false;
    }
    let segs = len.div_ceil(mss).max(1);
    let now = net.now;
    net.counts.inc_by(id::TcpOutSegs, segs as u64);
    net.counts.inc_by(id::TcpExtTCPOrigDataSent, segs as u64);
    if len < segs * mss {
        tp.snd_sml = seq + len;
    }
    let seg = TxSeg {
        seq,
        len: len + fin as u32,
        sent: now,
        segs: segs as u16,
        mss: mss as u16,
        retrans: 0,
        flags: if fin { FIN } else { 0 } | if flags.any(TcpFlags::PSH) { PSH } else { 0 },
    };
    tp.sndq.push_back(net, seg);
    tp.fin_sent |= fin;
    tp.snd_nxt = seq + len + fin as u32;
    if len > 0 {
        // Data goes both ways: acknowledgements can ride on it (`tcp_event_data_sent`).
        if now.since(tp.lrcvtime) < tp.ato_ns() {
            tcp_inc_pingpong(net, tp);
        }
        tp.lsndtime = now;
    }
    if tp.packets_out == 0 || matches!(tp.rtx_kind, Rtx::Probe0 | Rtx::LossProbe) {
        timer::rearm_rto(net, tp);
    }
    tp.packets_out += segs;
    if tp.in_cwnd_reduction() {
        // What recovery may send counts new data as well (RFC 6937 §3, prr_out).
        tp.prr_out += segs;
    }
    tcp_rate_skb_sent(tp, tp.sndq.rtx.len() - 1, now);
    true
}

/// Data that answers data: several times, and acknowledgements wait for it (`inet_csk_inc_pingpong_cnt`).
fn tcp_inc_pingpong(net: &Net, tp: &mut Tcb) {
    if !tp.pingpong {
        tp.pingpong_cnt = tp.pingpong_cnt.saturating_add(1);
        tp.pingpong = u64::from(tp.pingpong_cnt) >= net.knobs.tcp_pingpong_thresh;
    }
    if tp.pingpong {
        // Where it ends, it begins anew.
        tp.pingpong_cnt = 0;
    }
}

/// After a pause the window says nothing about the path any more (RFC 5681 §4.1).
fn tcp_slow_start_after_idle_check(net: &Net, tp: &mut Tcb) {
    let idle_us = net.now.since(tp.lsndtime) / 1000;
    if net.knobs.tcp_slow_start_after_idle && !tp.cc.rules() && idle_us > tp.rto_us as u64 {
        tcp_cwnd_restart(tp, idle_us);
    }
}

/// Payload of a full segment with the options that the next one carries (`tcp_current_mss`).
pub(crate) fn tcp_current_mss(tp: &Tcb) -> u32 {
    let blocks = tp.sack_blocks().len().min(tp.sack_room()) as u32;
    let sack = if blocks > 0 { 4 + 8 * blocks } else { 0 };
    (tp.mss_cache as u32).saturating_sub(sack).max(8)
}

/// Bytes of options that every segment of the connection has.
pub(super) fn tcp_established_options_len(tp: &Tcb) -> u32 {
    let ts = if tp.ts_ok { 12 } else { 0 };
    if tp.md5().is_some() { ts + TCPOLEN_MD5SIG_ALIGNED as u32 } else { ts }
}

/// The payload of a segment that fills an IP packet of `mtu` bytes, as far as the peer takes it
/// (`tcp_mtu_to_mss`).
pub(super) fn mtu_to_mss(tp: &Tcb, mtu: u32) -> u32 {
    let fit = mtu.saturating_sub(tp.tuple.ip_hlen() + TCP_HLEN as u32);
    let mss = fit.min(tp.mss_clamp as u32).max(TCP_MIN_SND_MSS as u32);
    mss - tcp_established_options_len(tp)
}

/// The payload of a full segment as path and peer allow it (`tcp_sync_mss`).
pub(crate) fn tcp_sync_mss(tp: &mut Tcb, pmtu: u32) {
    tp.pmtu = pmtu;
    let mut mss = tcp_bound_to_half_wnd(tp, mtu_to_mss(tp, pmtu));
    if let Some(known) = mtup_limit(tp, pmtu) {
        mss = mss.min(known);
    }
    tp.mss_cache = mss.min(u16::MAX as u32) as u16;
}

/// The SACK blocks of the next segment: a signature leaves less room for them.
fn sack_to_send(tp: &Tcb) -> SackBlocks {
    let blocks = tp.sack_blocks();
    match tp.md5() {
        None => blocks,
        Some(_) => blocks.as_slice().iter().take(tp.sack_room()).copied().collect(),
    }
}

/// Builds a segment of the connection and hands it to IpOut (`__tcp_transmit_skb`). False if there
/// is no packet memory.
pub(crate) fn tcp_transmit_skb(
    net: &mut Net,
    tp: &mut Tcb,
    seq: Seq,
    len: u32,
    flags: TcpFlags,
    mss: u32,
) -> bool {
    let Some(mut pkt) = net.pool.alloc() else { return false };
    let (ecn_flags, ect) = tcp_ecn_send(tp, seq, len);
    let mut flags = flags | ecn_flags;
    if len > 0 {
        let loaded = tp.sndq.load(&mut pkt, seq, len as usize);
        assert_eq!(loaded, len as usize, "what is sent lies in the send queue");
        let segs = len.div_ceil(mss);
        if segs > 1 {
            let cwr = flags.any(TcpFlags::CWR);
            let kind = if tp.tuple.local.is_ipv4() { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
            pkt.gso = Some(Gso { kind, size: mss as u16, segs: segs as u16, ecn: cwr });
            // The receiver's GRO need not wait for more, as Linux has it.
            flags |= TcpFlags::PSH;
        }
        tp.bytes_sent += len as u64;
        net.pool.set_owner(&mut pkt, tp.id.index, skb_truesize(len));
        tp.data_segs_out = tp.data_segs_out.wrapping_add(segs);
    }
    let opts = TcpOptions {
        ts: tp.ts_ok.then(|| (tp.ts_now(net.now), tp.ts_recent)),
        sack: sack_to_send(tp),
        ..TcpOptions::NONE
    };
    let window = tcp_select_window(net, tp);
    let signed = if tp.md5().is_some() { TCPOLEN_MD5SIG_ALIGNED } else { 0 };
    let hlen = TCP_HLEN + signed + opts.emit_len();
    let urg = tp.urgent_pointer(seq);
    if urg.is_some() {
        flags |= TcpFlags::URG;
    }
    let hdr = TcpHdr {
        src_port: tp.tuple.lport,
        dst_port: tp.tuple.rport,
        seq: seq.0,
        ack: tp.rcv_nxt.0,
        data_off_bytes: hlen,
        flags,
        window,
        csum: 0,
        urg: urg.unwrap_or(0),
    };
    let out = pkt.push(hlen);
    hdr.emit(out);
    opts.emit(&mut out[TCP_HLEN + signed..]);
    if let Some(key) = tp.md5() {
        md5::sign(&mut pkt, &tp.tuple, hlen, key);
    }
    pkt.tos = tp.tos & !ecn::MASK | ect;
    tp.segs_out = tp.segs_out.wrapping_add(pkt.segs() as u32);
    finish(net, pkt, &tp.tuple);
    tcp_update_after_send(net, tp, len);
    if flags.ack() {
        tcp_event_ack_sent(net, tp);
    }
    true
}

/// Addresses, checksum, down.
fn finish(net: &mut Net, mut pkt: crate::pkt::Pkt, tuple: &Tuple) {
    pkt.src = tuple.local;
    pkt.dst = tuple.remote;
    pkt.sport = tuple.lport;
    pkt.dport = tuple.rport;
    pkt.ip_proto = IPPROTO_TCP;
    pkt.ttl = 0;
    pkt.df = !net.knobs.ip_no_pmtu_disc;
    pkt.transport = pkt.data_offset();
    pkt.csum_leave(16);
    net.send(pkt);
}

fn tcp_event_ack_sent(net: &Net, tp: &mut Tcb) {
    tp.quick = tp.quick.saturating_sub(1);
    tp.ack_now = false;
    (tp.ack_scheduled, tp.pushed) = (false, 0);
    tp.delack_at = crate::time::Instant::NEVER;
    tp.ofo_ack_sent(net);
}

/// The window field: what is free, never less than what was announced (`tcp_select_window`).
fn tcp_select_window(net: &mut Net, tp: &mut Tcb) -> u16 {
    let old = tp.rcv_wnd;
    let now = tp.receive_window();
    let mut new = tp.select_window(net);
    if new < now && !tp.window_shrinks(net) {
        // RFC 9293 §3.8.6: the right edge does not move left.
        if new == 0 {
            net.counts.inc(id::TcpExtTCPWantZeroWindowAdv);
        }
        new = (now.div_ceil(1 << tp.rcv_wscale)) << tp.rcv_wscale;
    }
    let most = match tp.rcv_wscale {
        0 => unscaled_window(net),
        scale => 65535 << scale,
    };
    new = new.min(most);
    tp.rcv_wnd = new;
    tp.rcv_wup = tp.rcv_nxt;
    if new == 0 && old > 0 {
        net.counts.inc(id::TcpExtTCPToZeroWindowAdv);
    } else if new > 0 && old == 0 {
        net.counts.inc(id::TcpExtTCPFromZeroWindowAdv);
    }
    (new >> tp.rcv_wscale) as u16
}

/// Sends an acknowledgement without data (`tcp_send_ack`).
pub(crate) fn tcp_send_ack(net: &mut Net, tp: &mut Tcb) {
    if matches!(tp.state, State::Close | State::SynSent | State::Listen) {
        tp.ack_now = false;
        return;
    }
    // Never beyond the peer's window (`tcp_acceptable_seq`).
    let seq = if tp.wnd_end().lt(tp.snd_nxt) && tp.state.synchronized() {
        tp.wnd_end().max(tp.snd_una)
    } else {
        tp.snd_nxt
    };
    if tcp_transmit_skb(net, tp, seq, 0, TcpFlags::ACK, 1) {
        net.counts.inc(id::TcpOutSegs);
    } else {
        // No packet memory: tried again soon.
        tp.ack_now = false;
        tp.ack_scheduled = true;
        tp.delack_at = tp.delack_at.min2(net.now.plus(TCP_DELACK_NS));
    }
}

/// A segment without data that makes the peer acknowledge (`tcp_xmit_probe_skb`).
pub(crate) fn tcp_xmit_probe_skb(net: &mut Net, tp: &mut Tcb) {
    if tp.urgent_probe() && tcp_transmit_skb(net, tp, tp.snd_una, 0, TcpFlags::ACK, 1) {
        net.counts.inc(id::TcpOutSegs);
    }
    // An old sequence number: RFC 9293 §3.10.7.4 has the peer answer what it can not accept.
    if tcp_transmit_skb(net, tp, tp.snd_una - 1, 0, TcpFlags::ACK, 1) {
        net.counts.inc(id::TcpOutSegs);
    }
}

/// A segment outside of any connection's normal course: a SYN, a reset, an answer for TIME_WAIT.
pub(crate) struct Bare<'a> {
    pub seq: Seq,
    pub ack: Seq,
    pub flags: TcpFlags,
    pub window: u16,
    pub tos: u8,
    pub opts: TcpOptions,
    /// By which it is signed.
    pub key: Option<&'a Md5Sig>,
}

/// Sends a segment without data. False if there is no packet memory.
pub(crate) fn send_bare(net: &mut Net, tuple: &Tuple, bare: &Bare<'_>) -> bool {
    send_bare_with(net, tuple, bare, None, |_| ())
}

/// The same with an option of Fast Open, and with what `load` puts into the packet.
pub(super) fn send_bare_with(
    net: &mut Net,
    tuple: &Tuple,
    bare: &Bare<'_>,
    fastopen: Option<FastOpen>,
    load: impl FnOnce(&mut crate::pkt::Pkt),
) -> bool {
    let Some(mut pkt) = net.pool.alloc() else { return false };
    load(&mut pkt);
    let fastopen = fastopen.map(|cookie| cookie.option()).unwrap_or_default();
    let signed = if bare.key.is_some() { TCPOLEN_MD5SIG_ALIGNED } else { 0 };
    let at = TCP_HLEN + signed + bare.opts.emit_len();
    // As in Linux: an option that does not fit is left out.
    let hlen =
        if at + fastopen.len() > TCP_HLEN + TCP_OPTIONS_MAX { at } else { at + fastopen.len() };
    let out = pkt.push(hlen);
    TcpHdr {
        src_port: tuple.lport,
        dst_port: tuple.rport,
        seq: bare.seq.0,
        ack: bare.ack.0,
        data_off_bytes: hlen,
        flags: bare.flags,
        window: bare.window,
        csum: 0,
        urg: 0,
    }
    .emit(out);
    bare.opts.emit(&mut out[TCP_HLEN + signed..]);
    if hlen > at {
        out[at..].copy_from_slice(&fastopen);
    }
    if let Some(key) = bare.key {
        md5::sign(&mut pkt, tuple, hlen, key);
    }
    pkt.tos = bare.tos;
    net.counts.inc(id::TcpOutSegs);
    finish(net, pkt, tuple);
    true
}

/// Sends the SYN of a connection that is being opened, or, opened from both ends, the SYN-ACK
/// (`tcp_connect`, `tcp_send_synack`).
pub(crate) fn tcp_send_syn(net: &mut Net, tp: &mut Tcb) -> bool {
    let both = tp.state == State::SynRecv;
    // Opened from both ends: the SYN-ACK asks for what the SYN did, whatever the peer's asked for.
    let crossed = both && !tp.fastopen_child();
    let knobs = &net.knobs;
    let (ts_ok, sack_ok, wscale_ok) = match crossed {
        true => (knobs.tcp_timestamps, knobs.tcp_sack, knobs.tcp_window_scaling),
        false => (tp.ts_ok, tp.sack_ok, tp.wscale_ok),
    };
    let opts = TcpOptions {
        mss: Some(tp.advmss),
        // A scale of 0 is said as well: without the option nothing would be scaled either way.
        wscale: wscale_ok.then_some(tp.rcv_wscale),
        sack_permitted: sack_ok,
        ts: ts_ok.then(|| (tp.ts_now(net.now), tp.ts_recent)),
        ..TcpOptions::NONE
    };
    let flags = match both {
        true if tp.ecn.has(Ecn::OK) => TcpFlags::SYN | TcpFlags::ACK | TcpFlags::ECE,
        true => TcpFlags::SYN | TcpFlags::ACK,
        false => TcpFlags::SYN | tp.ecn_syn_flags(net),
    };
    let window = tp.rcv_wnd.min(65535) as u16;
    let ack = if both { tp.rcv_nxt } else { Seq(0) };
    if both {
        // The window begins behind what a SYN brought (`tcp_fastopen_create_child`).
        tp.rcv_wup = tp.rcv_nxt;
    }
    tp.segs_out += 1;
    let bare = Bare { seq: tp.iss, ack, flags, window, tos: tp.tos, opts, key: tp.md5() };
    let Some(fastopen) = tp.syn_fastopen() else { return send_bare(net, &tp.tuple, &bare) };
    let (sndq, data, seq) = (&tp.sndq, usize::from(fastopen.data), tp.iss + 1);
    send_bare_with(net, &tp.tuple, &bare, fastopen.option, |pkt| {
        sndq.load(pkt, seq, data);
    })
}

/// The largest window that is announced as it is: some take one with the highest bit for a negative number.
fn unscaled_window(net: &Net) -> u32 {
    if net.knobs.tcp_workaround_signed_windows { 32767 } else { 65535 }
}

/// The window that a new connection announces, and its scale (`tcp_select_initial_window`).
pub(crate) fn tcp_select_initial_window(net: &Net, tp: &mut Tcb, mss: u32) {
    let space = tp.rcvq.win_from_space(tp.rcvbuf);
    let (free, asked) = (tp.clamped(space), tp.clamped(u32::MAX));
    // Whole segments, where at least one fits.
    let whole = if mss > 0 && free > mss { free - free % mss } else { free };
    tp.rcv_wnd = whole.min(unscaled_window(net));
    tp.rcv_ssthresh = tp.rcv_wnd;
    tp.window_clamp = free;
    tp.rcv_wscale = 0;
    if net.knobs.tcp_window_scaling {
        // No larger than what the application will ever let it be.
        let most = net.knobs.tcp_rmem[2].max(net.knobs.rmem_max).max(tp.rcvbuf as u64);
        let most = if tp.rcvbuf_locked { space.into() } else { most };
        let most = most.min(asked.into()).max(32768);
        tp.rcv_wscale = (most.ilog2() - 15).min(TCP_MAX_WSCALE as u32) as u8;
    }
}

/// Resets the connection: the peer is told (`tcp_send_active_reset`).
pub(crate) fn tcp_send_active_reset(net: &mut Net, tp: &mut Tcb) {
    net.counts.inc(id::TcpOutRsts);
    let seq = if tp.wnd_end().lt(tp.snd_nxt) { tp.wnd_end().max(tp.snd_una) } else { tp.snd_nxt };
    if tcp_transmit_skb(net, tp, seq, 0, TcpFlags::RST | TcpFlags::ACK, 1) {
        net.counts.inc(id::TcpOutSegs);
    } else {
        net.counts.inc(id::TcpExtTCPAbortFailed);
    }
}

/// Answers a segment by a reset, signed by `key` if there is one; what belongs to no connection goes by
/// `tcp_v4_send_reset` in [`super::md5`].
pub(super) fn send_reset(net: &mut Net, tuple: &Tuple, seg: &Segment, key: Option<&Md5Sig>) {
    if seg.flags.rst() || !unicast(tuple.local) || !unicast(tuple.remote) {
        return;
    }
    let bare = if seg.flags.ack() {
        let flags = TcpFlags::RST;
        Bare { seq: seg.ack, ack: Seq(0), flags, window: 0, tos: 0, opts: TcpOptions::NONE, key }
    } else {
        let flags = TcpFlags::RST | TcpFlags::ACK;
        Bare {
            seq: Seq(0),
            ack: seg.end_seq,
            flags,
            window: 0,
            tos: 0,
            opts: TcpOptions::NONE,
            key,
        }
    };
    net.counts.inc(id::TcpOutRsts);
    send_bare(net, tuple, &bare);
}

/// Whether a TCP peer can have this address.
pub(crate) fn unicast(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => !a.is_multicast() && !a.is_broadcast() && !a.is_unspecified(),
        IpAddr::V6(a) => !a.is_multicast() && !a.is_unspecified(),
    }
}

/// What is known of the way to the peer.
pub(crate) struct Way {
    /// The device.
    pub dev: u8,
    /// The path's MTU in bytes.
    pub mtu: u32,
}

/// The way from one end to the other.
pub(crate) fn way_to(net: &Net, tuple: &Tuple) -> Option<Way> {
    // It has a source address already.
    let route = net.route_out_nosrc(tuple.remote)?;
    Some(Way { dev: route.dev, mtu: route.mtu.clamp(68, 65535) })
}

/// MSS to be announced on a path of this MTU, not more than was asked for (`tcp_advertise_mss`).
pub(crate) fn advmss(tp: &Tcb, mtu: u32) -> u16 {
    let most = tp.opts().map_or(0, |o| o.user_mss);
    let mss = mtu.saturating_sub(tp.tuple.ip_hlen() + TCP_HLEN as u32).clamp(88, 65495) as u16;
    if most > 0 { mss.min(most) } else { mss }
}
