//! SYNs that wait, unanswered, for a judgement of the application (`Listen::hold_syn`): a gateway connects onwards
//! first. Linux has nothing of the kind.
//!
//! before: [`super::request`]   after: the application; [`super::request`] again, which answers
//! drops:  NoSocket, TcpReset, TcpInvalidSequence

use std::net::IpAddr;

use super::api::{HeldSyn, Refuse};
use super::input::Segment;
use super::output::{Bare, send_bare};
use super::{Sockets, TCP_TIMEOUT_INIT_US};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::Shard;
use crate::sock::{SockKind, SocketId};
use crate::table::{Reason, count::id};
use crate::time::SEC;
use crate::wire::TcpOptions;
use crate::wire::tcp::TcpFlags;

/// How long a SYN may wait for a judgement: as long as its sender tries (`tcp_syn_retries` = 6).
pub(super) const HOLD_NS: u64 = 130 * SEC;
/// Bytes of a held SYN that an ICMP error may quote.
pub(super) const QUOTE_MAX: usize = 128;

impl Shard {
    /// While a SYN is held, only its sender's reset says something: it has given up.
    pub(super) fn held_rcv(&mut self, index: u32, seg: &Segment, pkt: Pkt) -> Verdict {
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
}
