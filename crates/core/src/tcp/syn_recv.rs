//! SYN-RECEIVED: what the peer says to our SYN-ACK, and the connection that becomes of it.
//!
//! before: [`super::input`]   after: the accept queue of [`super::listen`]
//! Linux:  net/ipv4/tcp_minisocks.c `tcp_check_req`, `tcp_create_openreq_child`; tcp_ipv4.c `tcp_v4_syn_recv_sock`
//! RFCs:   9293 §3.10.7.4, 7323 §5 (PAWS)
//! drops:  NoSocket, TcpFlags, TcpReset, TcpListenOverflow, TcpInvalidAck, TcpInvalidSequence, TcpPaws, TcpTsEcr, TcpOldData

use super::ecn::{self, Ecn};
use super::handshake::tcp_ack_of_syn;
use super::input::{Segment, tcp_conn_rcv};
use super::listen::Listener;
use super::md5::inbound_hash;
use super::output::{Bare, advmss, send_bare, send_reset, tcp_select_initial_window, way_to};
use super::request::Req;
use super::{Sockets, State, Tcb};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::Ready;
use crate::table::{Reason, count::id};
use crate::wire::TcpOptions;
use crate::wire::tcp::TcpFlags;

impl Shard {
    /// A segment for a half-open connection (`tcp_check_req`; RFC 9293 §3.10.7.4 in SYN-RECEIVED).
    pub(crate) fn tcp_check_req(&mut self, index: u32, seg: &Segment, pkt: Pkt) -> Verdict {
        let Some(req) = self.tcp.reqs.at(index) else {
            return Verdict::Drop(pkt, Reason::NoSocket);
        };
        let (irs, iss, tuple, held) = (req.irs, req.iss, req.tuple, req.held.is_some());
        let key = self.tcp.listener_key(req.listener.index, &tuple);
        if let Err(reason) = inbound_hash(key.as_ref(), seg.opts.signed, &tuple, &pkt) {
            return Verdict::Drop(pkt, reason);
        }
        let flags = seg.flags;
        let paws = matches!(seg.opts.ts, Some((val, _)) if Seq(val).lt(Seq(req.ts_recent)));
        if flags.syn() && !flags.ack() && !flags.rst() && seg.seq == irs && !paws {
            // The same SYN again: the answer was lost, or the judgement is not there yet.
            if !held && self.req_may_answer(index) {
                self.net.counts.inc(id::TcpExtTCPSynRetrans);
                self.net.counts.inc(id::TcpRetransSegs);
                self.send_synack(index, None);
            }
            return Verdict::Drop(pkt, Reason::TcpOldData);
        }
        if held {
            return self.held_rcv(index, seg, pkt);
        }
        let acked = seg.ack == iss + 1;
        if flags.ack() && !flags.rst() && !acked {
            send_reset(&mut self.net, &tuple, seg, key.as_ref());
            return Verdict::Drop(pkt, Reason::TcpInvalidAck);
        }
        // It answers a SYN-ACK, so it echoes the time of one.
        let first = (req.sent_at.ms() as u32).wrapping_add(req.ts_offset);
        let last = (self.net.now.ms() as u32).wrapping_add(req.ts_offset);
        let strange = matches!(seg.opts.ts, Some((_, ecr)) if req.opts.ts.is_some() && ecr != 0
            && !(Seq(first).le(Seq(ecr)) && Seq(ecr).le(Seq(last))));
        let window = 65535;
        if paws
            || strange
            || !seg.seq.within(irs + 1, irs + 1 + window)
                && !seg.end_seq.within(irs + 1, irs + 1 + window)
        {
            if !flags.rst() && self.req_may_answer(index) {
                self.req_answer(index);
            }
            let reason = match (paws, strange) {
                (true, _) => Reason::TcpPaws,
                (_, true) => Reason::TcpTsEcr,
                _ => Reason::TcpInvalidSequence,
            };
            return Verdict::Drop(pkt, reason);
        }
        if flags.any(TcpFlags::RST | TcpFlags::SYN) {
            // RFC 9293 §3.10.7.4: back to LISTEN, as if nothing had been.
            if !flags.rst() {
                send_reset(&mut self.net, &tuple, seg, key.as_ref());
            }
            self.net.counts.inc(id::TcpExtEmbryonicRsts);
            self.net.counts.inc(id::TcpAttemptFails);
            self.reqsk_drop(index);
            return Verdict::Drop(pkt, Reason::TcpReset);
        }
        if !flags.ack() {
            return Verdict::Drop(pkt, Reason::TcpFlags);
        }
        let Shard { net, tcp, .. } = self;
        let listener = tcp.reqs.at(index).map(|req| req.listener);
        if tcp.defers(index) && seg.end_seq == irs + 1 {
            // The application is not told before there is data, or the SYN-ACK went often enough.
            net.counts.inc(id::TcpExtTCPDeferAcceptDrop);
            if let Some(req) = tcp.reqs.at_mut(index) {
                req.acked = true;
            }
            net.pool.free(pkt);
            return Verdict::Taken;
        }
        if listener.is_some_and(|l| tcp.accept_queue_is_full(net, l)) {
            if net.knobs.tcp_abort_on_overflow {
                send_reset(net, &tuple, seg, key.as_ref());
                self.reqsk_drop(index);
            }
            // Otherwise it stays half-open: what the peer sends next tries again.
            return Verdict::Drop(pkt, Reason::TcpListenOverflow);
        }
        match self.reqsk_unlink(index) {
            Some(req) => self.tcp_v4_syn_recv_sock(req, seg, pkt),
            None => Verdict::Drop(pkt, Reason::NoSocket),
        }
    }

    /// The handshake is complete: a connection for the accept queue (`tcp_v4_syn_recv_sock`).
    pub(super) fn tcp_v4_syn_recv_sock(&mut self, req: Req, seg: &Segment, pkt: Pkt) -> Verdict {
        let Shard { net, tcp, .. } = self;
        let lid = req.listener;
        let Some(l) = tcp.listeners.get_mut(lid.index, lid.generation) else {
            return Verdict::Drop(pkt, Reason::NoSocket);
        };
        let mut tp = Tcb::new(net, req.tuple, req.hash);
        child(net, &mut tp, &req, l);
        tp.state = State::SynRecv;
        tp.listener = Some(lid);
        tp.user = l.user;
        net.counts.inc(id::TcpPassiveOpens);
        tcp_ack_of_syn(net, &mut tp, seg);
        let conn = tcp.insert(tp);
        if let (Some(tp), Some(l)) =
            (tcp.conns.at(conn), tcp.listeners.get_mut(lid.index, lid.generation))
        {
            l.accept.push_back(tp.id);
            net.events.raise(l.id, l.user, &mut l.pending, Ready::IN);
        }
        // What came with the acknowledgement is the first data.
        tcp_conn_rcv(self, conn, seg, pkt)
    }

    /// Tells a half-open connection's peer what is expected of it (`tcp_v4_reqsk_send_ack`).
    fn req_answer(&mut self, index: u32) {
        let Shard { net, tcp, .. } = self;
        let Some(req) = tcp.reqs.at(index) else { return };
        let lid = req.listener;
        let Some(l) = tcp.listeners.get(lid.index, lid.generation) else { return };
        let mut tp = Tcb::new(net, req.tuple, req.hash);
        child(net, &mut tp, req, l);
        let ts = tp.ts_ok.then(|| (tp.ts_now(net.now), req.ts_recent));
        let bare = Bare {
            seq: req.iss + 1,
            ack: req.irs + 1,
            flags: TcpFlags::ACK,
            // Unlike that of a SYN-ACK it is scaled (RFC 7323 §2.2). The connection will hold what the SYN-ACK
            // said: more must not be promised here.
            window: (tp.rcv_wnd >> tp.rcv_wscale).min(65535) as u16,
            tos: 0,
            opts: TcpOptions { ts, ..TcpOptions::NONE },
            key: tp.md5(),
        };
        send_bare(net, &tp.tuple, &bare);
    }
}

/// Makes of a connection without a history what a half-open one becomes (`tcp_create_openreq_child`). It is
/// large: whoever makes one has it where it stays, and it is not moved from function to function.
pub(super) fn child(net: &mut Net, tp: &mut Tcb, req: &Req, l: &Listener) {
    if l.rcvbuf > 0 {
        tp.rcvbuf = l.rcvbuf.min(1 << 30) as u32;
        tp.rcvbuf_locked = true;
    }
    for opt in &l.opts {
        let set = tp.set_opt(net, *opt);
        debug_assert!(set.is_ok(), "the listener took it, so its connections do");
    }
    if let Some(way) = way_to(net, &req.tuple) {
        (tp.dev, tp.pmtu) = (way.dev, way.mtu);
    }
    tp.advmss = advmss(tp, tp.pmtu);
    // The window counts in segments, which timestamps make smaller.
    let stamps = net.knobs.tcp_timestamps && req.opts.ts.is_some();
    let mss = tp.advmss.saturating_sub(if stamps { 12 } else { 0 });
    tcp_select_initial_window(net, tp, mss.into());
    if let Some(said) = req.said {
        (tp.rcv_wnd, tp.rcv_ssthresh) = (said.window, said.window);
        (tp.ts_ok, tp.sack_ok) = (said.ts, said.sack);
    }
    tp.ts_offset = req.ts_offset;
    tp.ecn.set(Ecn::OK, req.ecn_ok);
    if net.knobs.tcp_reflect_tos {
        tp.tos = req.tos & !ecn::MASK;
    }
    (tp.irs, tp.iss) = (req.irs, req.iss);
    tp.rcv_nxt = req.irs + 1;
    tp.rcv_wup = tp.rcv_nxt;
    tp.copied_seq = tp.rcv_nxt;
    tp.snd_una = req.iss;
    tp.snd_nxt = req.iss + 1;
    tp.sndq.start(req.iss + 1);
    tp.take_options(net, &req.opts);
    if let Some(said) = req.said {
        let theirs = req.opts.wscale.unwrap_or(0);
        (tp.snd_wscale, tp.rcv_wscale) = said.wscale.map_or((0, 0), |ours| (theirs, ours));
    }
    // Beside a signature there is room for timestamps or for SACK blocks.
    tp.ts_ok &= tp.md5().is_none() || !tp.sack_ok;
    tp.ts_recent = if tp.ts_ok { req.ts_recent } else { 0 };
    (tp.lsndtime, tp.lrcvtime) = (req.sent_at, net.now);
    tp.retransmits = req.retries;
}

impl Sockets {
    /// Whether the half-open connection is not to become one without data.
    fn defers(&self, index: u32) -> bool {
        let Some(req) = self.reqs.at(index) else { return false };
        let l = self.listeners.get(req.listener.index, req.listener.generation);
        l.is_some_and(|l| req.retries < l.defer_accept)
    }
}
