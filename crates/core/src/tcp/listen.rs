//! Listeners: what belongs to no connection goes to one, if there is one.
//!
//! before: [`super::input`]   after: [`super::request`], the application
//! Linux:  net/ipv4/tcp_input.c `tcp_rcv_state_process` in LISTEN; inet_connection_sock.c `inet_csk_listen_stop`
//! RFCs:   9293 §3.10.7.1, §3.10.7.2
//! drops:  NoSocket, TcpFlags, TcpReset, TcpListenOverflow
//!
//! ```text
//! SYN ──> [held: waits for syn_accept] ──> SYN-ACK out ──ACK──> accept queue ──> tcp_accept
//!          └──────── half-open (Req), by its two ends ────┘
//! ```
//!
//! A SYN becomes a half-open connection in [`super::request`], what its peer says next is judged in
//! [`super::syn_recv`], a SYN that waits for a judgement is [`super::held`]'s.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::api::TcpOpt;
use super::input::Segment;
use super::md5::{Md5Sig, inbound_hash, key_of};
use super::output::{send_reset, tcp_send_active_reset, unicast};
use super::{Sockets, State, Tuple};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::{Ready, ReuseProg, SocketId};
use crate::table::Reason;
use crate::table::value::FastOpenKeys;
use crate::time::Instant;

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
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.addr.unwrap_or(IpAddr::from([0; 4])), self.port)
    }
}
