//! Half-open connections (request sockets): a SYN is noted and answered, and what was noted goes when the handshake
//! is over, one way or the other.
//!
//! before: [`super::listen`]   after: [`super::syn_recv`], [`super::held`]
//! Linux:  net/ipv4/tcp_input.c `tcp_conn_request`; inet_connection_sock.c `reqsk_timer_handler`, `inet_csk_reqsk_queue_drop`
//! RFCs:   9293 §3.10.7.2, 4987 (bounded SYN queue), 6528
//! drops:  NoSocket, TcpListenOverflow, TcpReqQFull

use super::api::TcpOpt;
use super::demux::Ref;
use super::ecn::{self, tcp_ecn_create_request};
use super::fastopen::Try;
use super::held::{HOLD_NS, QUOTE_MAX};
use super::input::Segment;
use super::listen::Listener;
use super::output::{Bare, send_bare_with};
use super::syn_recv::child;
use super::{TCP_TIMEOUT_INIT_US, Tcb, Tuple};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::{Ready, SockKind, SocketId};
use crate::table::{Reason, count::id};
use crate::time::{Instant, MS, SEC};
use crate::wire::TcpOptions;
use crate::wire::tcp::TcpFlags;
use crate::wire::tcp_fastopen::FastOpen;

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
    pub window: u32,
    pub wscale: Option<u8>,
    pub ts: bool,
    pub sack: bool,
}

impl Shard {
    /// A SYN: notes it, and answers unless it is to be judged first (`tcp_conn_request`).
    pub(super) fn tcp_conn_request(
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
    let mut tp = Tcb::new(net, req.tuple, req.hash);
    child(net, &mut tp, req, l);
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

impl Shard {
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
    pub(super) fn req_may_answer(&mut self, index: u32) -> bool {
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

    pub(super) fn reqsk_drop(&mut self, index: u32) -> Option<Req> {
        let req = self.reqsk_unlink(index)?;
        self.net.flow_ends(&req.tuple.flow_key());
        Some(req)
    }
}

impl Listener {
    /// SYN-ACKs that are sent again, if the application said (TCP_SYNCNT).
    fn syn_cnt(&self) -> Option<u64> {
        let said = |opt: &TcpOpt| match opt {
            TcpOpt::SynCnt(n) => Some(u64::from(*n)),
            _ => None,
        };
        self.opts.iter().find_map(said)
    }
}
