//! Listeners: half-open connections, those that wait to be accepted, and SYNs that wait for a
//! judgement.
//!
//! before: [`super::input`]   after: the application
//! Linux:  net/ipv4/tcp_input.c `tcp_conn_request`; tcp_minisocks.c `tcp_check_req`; inet_connection_sock.c
//! RFCs:   9293 §3.10.7.2, 4987 (bounded SYN queue), 6528
//! drops:  NoSocket, TcpFlags, TcpReset, TcpListenOverflow, TcpReqQFull, TcpInvalidAck, TcpInvalidSequence, TcpPaws, TcpTsEcr, TcpOldData
//!
//! ```text
//! SYN ──> [held: waits for syn_accept] ──> SYN-ACK out ──ACK──> accept queue ──> tcp_accept
//!          └──────── half-open (Req), by its two ends ────┘
//! ```

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::api::{HeldSyn, Refuse, TcpOpt};
use super::demux::Ref;
use super::ecn::{self, Ecn, tcp_ecn_create_request};
use super::fastopen::Try;
use super::input::{Segment, tcp_ack_of_syn, tcp_conn_rcv};
use super::md5::{Md5Sig, inbound_hash, key_of};
use super::output::{
    Bare, advmss, send_bare, send_bare_with, send_reset, tcp_select_initial_window,
    tcp_send_active_reset, unicast, way_to,
};
use super::{Sockets, State, TCP_TIMEOUT_INIT_US, Tcb, Tuple};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::{Ready, ReuseProg, SockKind, SocketId};
use crate::table::value::FastOpenKeys;
use crate::table::{Reason, count::id};
use crate::time::{Instant, MS, SEC};
use crate::wire::TcpOptions;
use crate::wire::tcp::TcpFlags;
use crate::wire::tcp_fastopen::FastOpen;

/// How long a SYN may wait for a judgement: as long as its sender tries (`tcp_syn_retries` = 6).
const HOLD_NS: u64 = 130 * SEC;
/// Bytes of a held SYN that an ICMP error may quote.
const QUOTE_MAX: usize = 128;

/// A listening socket.
pub(crate) struct Listener {
    pub id: SocketId,
    pub addr: Option<IpAddr>,
    /// 0 = every port that nobody else has.
    pub port: u16,
    pub backlog: u32,
    pub hold_syn: bool,
    /// It may share address and port with others (SO_REUSEPORT).
    pub reuseport: bool,
    pub rcvbuf: usize,
    pub user: u64,
    pub pending: Ready,
    /// Half-open connections (`inet_csk_reqsk_queue_len`).
    pub qlen: u32,
    /// When a SYN was last answered by a cookie (`tcp_synq_overflow`).
    pub synq_overflow: Option<Instant>,
    /// Established, not accepted.
    pub accept: VecDeque<SocketId>,
    /// Held SYNs that the application was not given yet.
    pub held: VecDeque<SocketId>,
    /// What its connections begin with.
    pub opts: Vec<TcpOpt>,
    /// SYN-ACKs sent again for which it waits for data (`rskq_defer_accept`).
    pub defer_accept: u8,
    /// Connections opened by Fast Open whose handshake may be under way; `None` = as the knob says.
    pub fastopen_max: Option<u32>,
    /// Keys of its cookies, where it has its own.
    pub fastopen_keys: Option<FastOpenKeys>,
    /// Those connections, and some whose handshake is over.
    pub fastopenq: Vec<SocketId>,
}

/// A half-open connection (Linux: `struct tcp_request_sock`).
pub(crate) struct Req {
    pub tuple: Tuple,
    pub hash: u32,
    pub listener: SocketId,
    pub irs: Seq,
    pub iss: Seq,
    pub opts: TcpOptions,
    pub tos: u8,
    /// It asked for ECN, and gets it.
    pub ecn_ok: bool,
    /// What the SYN-ACK said; `None` before the first.
    pub said: Option<Said>,
    pub retries: u8,
    /// The peer has acknowledged, and data is waited for (TCP_DEFER_ACCEPT).
    pub acked: bool,
    /// When a segment out of the window was last answered.
    pub oow_at: Instant,
    /// It waits for a judgement; the packet to be quoted in an ICMP error.
    pub held: Option<Box<[u8]>>,
    pub ts_offset: u32,
    pub ts_recent: u32,
    pub sent_at: Instant,
    pub due: Instant,
}

/// What a SYN-ACK has said of this end: it holds, whatever MTU and knobs are by the time that the connection
/// is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    window: u32,
    wscale: Option<u8>,
    ts: bool,
    sack: bool,
}

impl Shard {
    /// Gives the listener's group a program, or takes it away; false if it shares with nobody.
    pub(crate) fn listen_attach(&mut self, id: SocketId, prog: Option<ReuseProg>) -> bool {
        let Some((addr, port)) =
            self.tcp.listener(id).filter(|l| l.reuseport).map(|l| (l.addr, l.port))
        else {
            return false;
        };
        match prog {
            Some(prog) => self.tcp.listen.progs.insert((addr, port), prog),
            None => self.tcp.listen.progs.remove(&(addr, port)),
        };
        true
    }

    /// A segment that belongs to no connection: to the listener, if there is one (RFC 9293
    /// §3.10.7.1, §3.10.7.2). `iss` is given where the number to begin with is bound to an older
    /// connection.
    pub(crate) fn tcp_listen_rcv(
        &mut self,
        tuple: &Tuple,
        hash: u32,
        seg: &Segment,
        pkt: Pkt,
        iss: Option<Seq>,
    ) -> Verdict {
        let Sockets { listen, listeners, .. } = &mut self.tcp;
        let found = listen.find(listeners, tuple.local, tuple.lport);
        let Some(found) = found else {
            self.tcp_v4_send_reset(tuple, seg, &pkt);
            return Verdict::Drop(pkt, Reason::NoSocket);
        };
        let key = self.tcp.listener_key(found, tuple);
        if let Err(reason) = inbound_hash(key.as_ref(), seg.opts.signed, tuple, &pkt) {
            return Verdict::Drop(pkt, reason);
        }
        if seg.flags.rst() {
            return Verdict::Drop(pkt, Reason::TcpReset);
        }
        if seg.flags.ack() {
            if !seg.flags.syn()
                && let Some(req) = self.cookie_check(found, tuple, hash, seg, &pkt)
            {
                if self.tcp.accept_queue_is_full(&self.net, req.listener) {
                    return Verdict::Drop(pkt, Reason::TcpListenOverflow);
                }
                self.net.flow_begins(tuple.flow_key());
                return self.tcp_v4_syn_recv_sock(req, seg, pkt);
            }
            send_reset(&mut self.net, tuple, seg, key.as_ref());
            return Verdict::Drop(pkt, Reason::TcpFlags);
        }
        if !seg.flags.syn() || seg.flags.fin() || !unicast(tuple.local) || !unicast(tuple.remote) {
            return Verdict::Drop(pkt, Reason::TcpFlags);
        }
        let Sockets { listen, listeners, .. } = &mut self.tcp;
        let listener = listen.choose(listeners, found, tuple, &pkt);
        self.tcp_conn_request(listener, tuple, hash, seg, pkt, iss)
    }

    /// A SYN: notes it, and answers unless it is to be judged first (`tcp_conn_request`).
    fn tcp_conn_request(
        &mut self,
        listener: u32,
        tuple: &Tuple,
        hash: u32,
        seg: &Segment,
        pkt: Pkt,
        iss: Option<Seq>,
    ) -> Verdict {
        match self.syn_admit(listener, tuple, iss.is_some()) {
            Err(reason) => return Verdict::Drop(pkt, reason),
            Ok(Admit::Cookie) => return self.cookie_send(listener, tuple, hash, seg, pkt),
            Ok(Admit::Keep) => {}
        }
        let fastopen = self.tcp_try_fastopen(listener, tuple, seg, &pkt);
        let iss = iss.unwrap_or_else(|| self.tcp.secure_seq(tuple, self.net.now));
        let ts_offset = self.tcp.secure_ts_off(tuple);
        let Shard { net, tcp, .. } = self;
        let Some(l) = tcp.listeners.at_mut(listener) else {
            return Verdict::Drop(pkt, Reason::NoSocket);
        };
        let held = l.hold_syn.then(|| {
            let quote = pkt.from_network();
            Box::from(&quote[..quote.len().min(QUOTE_MAX)])
        });
        let is_held = held.is_some();
        let now = net.now;
        let req = Req {
            tuple: *tuple,
            hash,
            listener: l.id,
            irs: seg.seq,
            iss,
            opts: seg.opts,
            tos: pkt.tos,
            ecn_ok: tcp_ecn_create_request(net, seg.flags, pkt.tos),
            said: None,
            retries: 0,
            acked: false,
            oow_at: Instant::ZERO,
            held,
            ts_offset,
            ts_recent: seg.opts.ts.map_or(0, |(val, _)| val),
            sent_at: now,
            due: now.plus(if is_held { HOLD_NS } else { TCP_TIMEOUT_INIT_US as u64 * 1000 }),
        };
        if matches!(fastopen, Try::Open) && !is_held {
            return self.tcp_fastopen_create_child(listener, &req, seg, pkt);
        }
        let cookie = match fastopen {
            Try::Give(cookie) => Some(cookie),
            Try::Open | Try::Ordinary => None,
        };
        l.qlen += 1;
        let due = req.due;
        // Its acknowledgement must come here even if the steering has changed by then.
        net.flow_begins(tuple.flow_key());
        let (index, generation) = tcp.reqs.insert(req);
        tcp.demux.insert(hash, Ref::Req(index));
        tcp.req_timers.arm(index, due);
        if is_held {
            tcp.listen.hold(tuple);
            l.held.push_back(SocketId { kind: SockKind::Syn, index, generation });
            net.events.raise(l.id, l.user, &mut l.pending, Ready::IN);
        } else {
            self.send_synack(index, cookie);
        }
        self.net.pool.free(pkt);
        Verdict::Taken
    }

    /// Whether one more half-open connection may be kept: bounded by listener, in all, and, where
    /// they wait for a judgement, by destination. `bound`: to an older connection, so that the number
    /// to begin with can not be a cookie.
    fn syn_admit(&self, listener: u32, tuple: &Tuple, bound: bool) -> Result<Admit, Reason> {
        let (net, tcp) = (&self.net, &self.tcp);
        let l = tcp.listeners.at(listener).ok_or(Reason::NoSocket)?;
        let limit = l.limit(net);
        let syn_max = net.knobs.tcp_max_syn_backlog;
        if l.accept.len() as u64 > limit {
            return Err(Reason::TcpListenOverflow);
        }
        if l.hold_syn {
            let to = (tuple.local, tuple.lport);
            let here = tcp.listen.held_to.get(&to).copied().unwrap_or(0) as u64;
            let waiting = tcp.listen.held as u64;
            // Those that were accepted and then not confirmed are bounded as well.
            let all = l.qlen as u64;
            if here >= (syn_max / 2).max(1) || waiting >= syn_max || all >= 2 * syn_max {
                return Err(Reason::TcpReqQFull);
            }
            return Ok(Admit::Keep);
        }
        let full = l.qlen as u64 >= limit.max(1);
        match net.knobs.tcp_syncookies {
            0 if full || l.qlen as u64 >= syn_max => Err(Reason::TcpReqQFull),
            2 if !bound => Ok(Admit::Cookie),
            // As Linux keeps it, but not without a bound.
            1 | 2 if full && bound && l.qlen as u64 >= limit.saturating_add(syn_max) => {
                Err(Reason::TcpReqQFull)
            }
            1 | 2 if full && bound => Ok(Admit::Keep),
            1 | 2 if full => Ok(Admit::Cookie),
            _ => Ok(Admit::Keep),
        }
    }

    /// Sends, or sends again, the SYN-ACK of a half-open connection; the first time perhaps with a cookie
    /// of Fast Open.
    pub(crate) fn send_synack(&mut self, index: u32, cookie: Option<FastOpen>) {
        let Shard { net, tcp, .. } = self;
        let Some(req) = tcp.reqs.at_mut(index) else { return };
        let id = req.listener;
        if let Some(l) = tcp.listeners.get(id.index, id.generation) {
            req.said = Some(tcp_v4_send_synack(net, req, l, None, cookie));
        }
    }
}

/// What is done with a SYN that may be answered.
enum Admit {
    /// It becomes a half-open connection.
    Keep,
    /// It is answered and forgotten.
    Cookie,
}

/// Sends the SYN-ACK of a half-open connection, and tells what it said; with a timestamp that says more than
/// the time, if one is given.
pub(super) fn tcp_v4_send_synack(
    net: &mut Net,
    req: &Req,
    l: &Listener,
    tsval: Option<u32>,
    cookie: Option<FastOpen>,
) -> Said {
    let tp = child(net, req, l);
    let scales = req.said.map_or(net.knobs.tcp_window_scaling, |said| said.wscale.is_some());
    let opts = TcpOptions {
        mss: Some(tp.advmss),
        wscale: req.opts.wscale.filter(|_| scales).map(|_| tp.rcv_wscale),
        sack_permitted: tp.sack_ok,
        ts: tp.ts_ok.then(|| (tsval.unwrap_or(tp.ts_now(net.now)), req.ts_recent)),
        ..TcpOptions::NONE
    };
    let synack = TcpFlags::SYN | TcpFlags::ACK;
    let bare = Bare {
        seq: req.iss,
        ack: req.irs + 1,
        flags: if req.ecn_ok { synack | TcpFlags::ECE } else { synack },
        window: tp.rcv_wnd.min(65535) as u16,
        tos: tp.tos & !ecn::MASK,
        opts,
        key: tp.md5(),
    };
    send_bare_with(net, &tp.tuple, &bare, cookie, |_| ());
    Said { window: tp.rcv_wnd, wscale: opts.wscale, ts: tp.ts_ok, sack: tp.sack_ok }
}

/// The connection that a half-open one becomes (`tcp_create_openreq_child`).
pub(super) fn child(net: &mut Net, req: &Req, l: &Listener) -> Tcb {
    let mut tp = Tcb::new(net, req.tuple, req.hash);
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
    tp.advmss = advmss(&tp, tp.pmtu);
    // The window counts in segments, which timestamps make smaller.
    let stamps = net.knobs.tcp_timestamps && req.opts.ts.is_some();
    let mss = tp.advmss.saturating_sub(if stamps { 12 } else { 0 });
    tcp_select_initial_window(net, &mut tp, mss.into());
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
    tp
}

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

    /// While a SYN is held, only its sender's reset says something: it has given up.
    fn held_rcv(&mut self, index: u32, seg: &Segment, pkt: Pkt) -> Verdict {
        let Some(req) = self.tcp.reqs.at(index) else {
            return Verdict::Drop(pkt, Reason::NoSocket);
        };
        if seg.flags.rst() && seg.seq == req.irs + 1 {
            self.net.counts.inc(id::TcpExtEmbryonicRsts);
            self.reqsk_drop(index);
            return Verdict::Drop(pkt, Reason::TcpReset);
        }
        Verdict::Drop(pkt, Reason::TcpInvalidSequence)
    }

    /// The handshake is complete: a connection for the accept queue (`tcp_v4_syn_recv_sock`).
    pub(super) fn tcp_v4_syn_recv_sock(&mut self, req: Req, seg: &Segment, pkt: Pkt) -> Verdict {
        let Shard { net, tcp, .. } = self;
        let lid = req.listener;
        let Some(l) = tcp.listeners.get_mut(lid.index, lid.generation) else {
            return Verdict::Drop(pkt, Reason::NoSocket);
        };
        let mut tp = child(net, &req, l);
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
        let tp = child(net, req, l);
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

    /// The SYN-ACK was not acknowledged, or nobody judged a held SYN (`reqsk_timer_handler`).
    pub(crate) fn reqsk_timer(&mut self, index: u32) {
        let Shard { net, tcp, .. } = self;
        let Some(req) = tcp.reqs.at_mut(index) else { return };
        if req.due > net.now {
            tcp.req_timers.arm(index, req.due);
            return;
        }
        let l = tcp.listeners.get(req.listener.index, req.listener.generation);
        let defer = l.map_or(0, |l| l.defer_accept);
        let tries = l.and_then(Listener::syn_cnt).unwrap_or(net.knobs.tcp_synack_retries);
        // Who has acknowledged, but sent nothing, is asked again only at the end (`syn_ack_recalc`).
        let waits = req.acked && req.retries < defer;
        let resend = !req.acked || req.retries + 1 >= defer;
        if req.held.is_some() || req.retries as u64 >= tries && !waits {
            net.counts.inc(id::TcpAttemptFails);
            self.reqsk_drop(index);
            return;
        }
        req.retries = req.retries.saturating_add(1);
        let wait = (TCP_TIMEOUT_INIT_US as u64 * 1000) << req.retries.min(7);
        req.due = net.now.plus(wait.min(120 * SEC));
        tcp.req_timers.arm(index, req.due);
        if !resend {
            return;
        }
        net.counts.inc(id::TcpExtTCPTimeouts);
        net.counts.inc(id::TcpRetransSegs);
        net.counts.inc(id::TcpExtTCPSynRetrans);
        self.send_synack(index, None);
    }

    /// Whether a strange segment for a half-open connection is answered, or one was lately.
    fn req_may_answer(&mut self, index: u32) -> bool {
        let Shard { net, tcp, .. } = self;
        let Some(req) = tcp.reqs.at_mut(index) else { return false };
        let every = net.knobs.tcp_invalid_ratelimit * MS;
        if req.oow_at != Instant::ZERO && net.now.since(req.oow_at) < every {
            net.counts.inc(id::TcpExtTCPACKSkippedSynRecv);
            return false;
        }
        req.oow_at = net.now;
        true
    }

    /// An ICMP error about a SYN-ACK of ours: the peer can not be reached.
    pub(crate) fn reqsk_err(&mut self, index: u32, seq: Seq) {
        let Some(req) = self.tcp.reqs.at(index) else { return };
        if req.held.is_some() || seq != req.iss {
            self.net.counts.inc(id::TcpExtOutOfWindowIcmps);
            return;
        }
        self.net.counts.inc(id::TcpExtListenDrops);
        self.reqsk_drop(index);
    }

    /// Takes a half-open connection out of all tables; the look-up table too. Other shards still
    /// believe that it is here.
    pub(crate) fn reqsk_unlink(&mut self, index: u32) -> Option<Req> {
        let tcp = &mut self.tcp;
        let req = tcp.reqs.remove(index)?;
        tcp.req_timers.cancel(index);
        tcp.demux.remove(req.hash, Ref::Req(index));
        if req.held.is_some() {
            tcp.listen.release(&req.tuple);
        }
        let lid = req.listener;
        if let Some(l) = tcp.listeners.get_mut(lid.index, lid.generation) {
            l.qlen = l.qlen.saturating_sub(1);
        }
        Some(req)
    }

    fn reqsk_drop(&mut self, index: u32) -> Option<Req> {
        let req = self.reqsk_unlink(index)?;
        self.net.flow_ends(&req.tuple.flow_key());
        Some(req)
    }

    /// The next held SYN; those that were given up meanwhile are passed over.
    pub(crate) fn held_next(&mut self, listener: SocketId) -> Option<HeldSyn> {
        let Sockets { listeners, reqs, .. } = &mut self.tcp;
        if listener.kind != SockKind::Listen {
            return None;
        }
        let l = listeners.get_mut(listener.index, listener.generation)?;
        while let Some(id) = l.held.pop_front() {
            if let Some(req) = reqs.get(id.index, id.generation) {
                let (local, remote) = (req.tuple.local(), req.tuple.remote());
                return Some(HeldSyn { id, local, remote, tos: req.tos });
            }
        }
        None
    }

    pub(crate) fn held_accept(&mut self, id: SocketId) -> bool {
        let Shard { net, tcp, .. } = self;
        let req = tcp.reqs.get_mut(id.index, id.generation);
        let Some(req) = req.filter(|_| id.kind == SockKind::Syn) else { return false };
        if req.held.take().is_none() {
            return true;
        }
        req.sent_at = net.now;
        req.due = net.now.plus(TCP_TIMEOUT_INIT_US as u64 * 1000);
        let (due, tuple) = (req.due, req.tuple);
        tcp.listen.release(&tuple);
        tcp.req_timers.arm(id.index, due);
        self.send_synack(id.index, None);
        true
    }

    pub(crate) fn held_refuse(&mut self, id: SocketId, how: Refuse) {
        let waits = self.tcp.reqs.get(id.index, id.generation).is_some_and(|r| r.held.is_some());
        if id.kind != SockKind::Syn || !waits {
            return;
        }
        let Some(req) = self.reqsk_drop(id.index) else { return };
        self.net.counts.inc(id::TcpAttemptFails);
        match (how, req.held) {
            (Refuse::Reset, _) => {
                let flags = TcpFlags::RST | TcpFlags::ACK;
                let (seq, ack) = (Seq(0), req.irs + 1);
                let (opts, key) = (TcpOptions::NONE, None);
                let bare = Bare { seq, ack, flags, window: 0, tos: 0, opts, key };
                self.net.counts.inc(id::TcpOutRsts);
                send_bare(&mut self.net, &req.tuple, &bare);
            }
            (Refuse::Unreachable { code }, Some(quote)) => {
                // In the gateway's own name: a router on the way found out (RFC 1812 §5.2.7.1).
                let none = match req.tuple.local {
                    IpAddr::V4(_) => IpAddr::from([0; 4]),
                    IpAddr::V6(_) => IpAddr::from([0; 16]),
                };
                let from = if code == 3 { req.tuple.local } else { none };
                crate::ip::icmp::send_unreachable_quote(self, &quote, from, code);
            }
            _ => {}
        }
    }

    /// Closes a listener: what was not accepted is reset (`inet_csk_listen_stop`).
    pub(crate) fn listen_stop(&mut self, id: SocketId) {
        let Some(port) = self.tcp.listener(id).map(|l| l.port) else { return };
        let Sockets { listen, listeners, .. } = &mut self.tcp;
        listen.remove(listeners, id.index, port);
        let all = self.tcp.reqs.iter();
        let reqs: Vec<u32> = all.filter(|(_, _, r)| r.listener == id).map(|(i, _, _)| i).collect();
        for index in reqs {
            self.reqsk_drop(index);
        }
        let Some(l) = self.tcp.listeners.remove(id.index) else { return };
        for conn in l.accept {
            let Some(tp) = self.tcp.conns.get_mut(conn.index, conn.generation) else { continue };
            if tp.state != State::Close {
                tcp_send_active_reset(&mut self.net, tp);
                tp.done(&mut self.net, None);
            }
            tp.listener = None;
            tp.orphan = true;
            self.tcp.orphans += 1;
            self.tcp_settle(conn.index);
        }
    }
}

impl Sockets {
    /// The key of a listener for a peer.
    pub(super) fn listener_key(&self, listener: u32, tuple: &Tuple) -> Option<Md5Sig> {
        let l = self.listeners.at(listener).filter(|l| !l.opts.is_empty())?;
        key_of(&l.opts, tuple.remote).copied()
    }
    /// Whether the half-open connection is not to become one without data.
    fn defers(&self, index: u32) -> bool {
        let Some(req) = self.reqs.at(index) else { return false };
        let l = self.listeners.get(req.listener.index, req.listener.generation);
        l.is_some_and(|l| req.retries < l.defer_accept)
    }
    /// Whether no connection may be added to those that wait for `accept` (`sk_acceptq_is_full`).
    pub(super) fn accept_queue_is_full(&self, net: &Net, id: SocketId) -> bool {
        let l = self.listeners.get(id.index, id.generation);
        l.is_some_and(|l| l.accept.len() as u64 > l.limit(net))
    }
}

impl Listener {
    /// Connections that may wait to be accepted: one more than this, as in Linux.
    pub fn limit(&self, net: &Net) -> u64 {
        (self.backlog as u64).min(net.knobs.somaxconn)
    }
    /// SYN-ACKs that are sent again, if the application said (TCP_SYNCNT).
    fn syn_cnt(&self) -> Option<u64> {
        let said = |opt: &TcpOpt| match opt {
            TcpOpt::SynCnt(n) => Some(u64::from(*n)),
            _ => None,
        };
        self.opts.iter().find_map(said)
    }
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.addr.unwrap_or(IpAddr::from([0; 4])), self.port)
    }
}
