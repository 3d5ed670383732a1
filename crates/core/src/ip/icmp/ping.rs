//! Stage `SockQueue` of ICMP, RX: echo requests to addresses that are not ours wait for whoever
//! answers in their name.
//!
//! Linux: net/ipv4/ping.c, in spirit; the kernel has no such socket.
//! drops: IcmpIgnored, SocketClosed

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::pkt::{HEADROOM, LARGE, Pkt, SMALL, Verdict};
use crate::shard::Shard;
use crate::sock::{Ready, SockKind, SocketId};
use crate::table::{Reason, Stage, count::id};
use crate::trace::{self, Said};
use crate::wire::icmpv4::ICMP_ECHOREPLY;
use crate::wire::icmpv6::ICMPV6_ECHO_REPLY;
use crate::wire::{IPPROTO_ICMP, IPPROTO_ICMPV6};

/// The socket; at most one is open on a stack.
#[derive(Default)]
pub struct PingSock {
    open: bool,
    generation: u32,
    queue: VecDeque<Pkt>,
    rmem: usize,
    rcvbuf: usize,
    drops: u64,
    pending: Ready,
    user: u64,
}

impl PingSock {
    /// Whether somebody answers.
    pub(super) fn id(&self) -> Option<SocketId> {
        let generation = self.generation;
        self.open.then_some(SocketId { kind: SockKind::Icmp, index: 0, generation })
    }
    /// Requests that were dropped because the buffer was full.
    pub fn drops(&self) -> u64 {
        self.drops
    }
}

/// An echo request to a foreign address. Give it back by [`Shard::ping_done`].
#[derive(Debug)]
pub struct PingRequest {
    pkt: Pkt,
}

impl PingRequest {
    /// Who asks.
    pub fn src(&self) -> IpAddr {
        self.pkt.src
    }
    /// Who is asked.
    pub fn dst(&self) -> IpAddr {
        self.pkt.dst
    }
    /// The identifier: which of the asker's programs.
    pub fn id(&self) -> u16 {
        self.pkt.sport
    }
    /// The sequence number.
    pub fn seq(&self) -> u16 {
        self.pkt.dport
    }
    /// TTL or hop limit on arrival.
    pub fn ttl(&self) -> u8 {
        self.pkt.ttl
    }
    /// Type of service, or traffic class.
    pub fn tos(&self) -> u8 {
        self.pkt.tos
    }
    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.pkt.len()
    }
    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.pkt.len() == 0
    }
    /// The payload, in pieces.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pkt.slices()
    }
    /// The payload in one piece.
    pub fn payload(&self) -> Vec<u8> {
        self.pkt.slices().flatten().copied().collect()
    }
    /// The packet as it came, network header first, for an ICMP error that quotes it.
    pub fn quote(&self) -> &[u8] {
        self.pkt.from_network()
    }
}

/// An answer to be sent.
#[derive(Clone, Copy, Debug)]
pub struct PingReply {
    /// In whose name.
    pub src: IpAddr,
    /// To whom.
    pub dst: IpAddr,
    /// The request's identifier.
    pub id: u16,
    /// The request's sequence number.
    pub seq: u16,
    /// TTL or hop limit; 0 = the default.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
}

/// Queues a request to the echo socket if it has room for its true size.
pub fn ping_queue_rcv_skb(cx: &mut Shard, pkt: Pkt) -> Verdict {
    let ping = &mut cx.ping;
    let Some(sock) = ping.id() else { return Verdict::Drop(pkt, Reason::IcmpIgnored) };
    let size = pkt.truesize();
    if ping.rmem + size > ping.rcvbuf {
        ping.drops += 1;
        return Verdict::Drop(pkt, Reason::IcmpIgnored);
    }
    ping.rmem += size;
    ping.queue.push_back(pkt);
    cx.net.events.raise(sock, ping.user, &mut ping.pending, Ready::IN);
    cx.net.counts.flow(Stage::SockQueue).hold(1);
    Verdict::Held
}

impl Shard {
    /// Opens the echo socket, or changes it if it is open: from now on requests to addresses that
    /// are not ours are handed out instead of ignored. `rcvbuf` is in bytes of true size, 0 =
    /// `net.core.rmem_default`; `user` is told with each event.
    pub fn ping_open(&mut self, rcvbuf: usize, user: u64) -> SocketId {
        let ping = &mut self.ping;
        ping.open = true;
        ping.user = user;
        ping.rcvbuf = if rcvbuf == 0 { self.net.knobs.rmem_default as usize } else { rcvbuf };
        SocketId { kind: SockKind::Icmp, index: 0, generation: ping.generation }
    }

    /// The next request, if one waits; give it back by [`Shard::ping_done`].
    pub fn ping_recv(&mut self) -> Option<PingRequest> {
        let Some(pkt) = self.ping.queue.pop_front() else {
            self.ping.pending = Ready::default();
            return None;
        };
        self.ping.rmem -= pkt.truesize();
        let flow = self.net.counts.flow(Stage::SockQueue);
        flow.release(1);
        flow.pass(1);
        trace::say(&mut self.net.trace, Stage::SockQueue, &pkt, Said::Pass);
        Some(PingRequest { pkt })
    }

    /// The request was dealt with.
    pub fn ping_done(&mut self, request: PingRequest) {
        self.net.pool.free(request.pkt);
    }

    /// Sends an echo reply whose payload is `parts` joined. False if no memory is left, the
    /// families differ, or it is larger than a packet may be.
    pub fn ping_reply(&mut self, how: PingReply, parts: &[&[u8]]) -> bool {
        let net = &mut self.net;
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let v4 = how.src.is_ipv4();
        if v4 != how.dst.is_ipv4() || len > if v4 { 65507 } else { 65527 } {
            return false;
        }
        let Some(mut pkt) = net.pool.alloc() else { return false };
        if len <= SMALL - HEADROOM - 8 {
            for part in parts {
                pkt.put(part.len()).copy_from_slice(part);
            }
        } else {
            debug_assert!(len <= LARGE, "an echo fits one large buffer");
            let Some(mut buf) = net.pool.alloc_large() else {
                net.pool.free(pkt);
                return false;
            };
            let mut at = 0;
            for part in parts {
                buf[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            pkt.add_buf(buf, 0, len);
        }
        let [i0, i1] = how.id.to_be_bytes();
        let [s0, s1] = how.seq.to_be_bytes();
        let kind = if v4 { ICMP_ECHOREPLY } else { ICMPV6_ECHO_REPLY };
        pkt.push(8).copy_from_slice(&[kind, 0, 0, 0, i0, i1, s0, s1]);
        (pkt.src, pkt.dst, pkt.ttl, pkt.tos) = (how.src, how.dst, how.ttl, how.tos);
        pkt.ip_proto = if v4 { IPPROTO_ICMP } else { IPPROTO_ICMPV6 };
        super::input::icmp_complete(&mut pkt);
        net.counts.inc(if v4 { id::IcmpOutMsgs } else { id::Icmp6OutMsgs });
        net.counts.inc(if v4 { id::IcmpOutEchoReps } else { id::Icmp6OutEchoReplies });
        net.send(pkt);
        true
    }

    /// Closes the echo socket; requests that wait are dropped, and counted.
    pub fn ping_close(&mut self) {
        let ping = &mut self.ping;
        ping.open = false;
        ping.generation = ping.generation.wrapping_add(1);
        ping.pending = Ready::default();
        ping.rmem = 0;
        for pkt in ping.queue.drain(..) {
            self.net.counts.flow(Stage::SockQueue).release(1);
            self.net.kfree_skb_reason(Stage::SockQueue, pkt, Reason::SocketClosed);
        }
    }
}
