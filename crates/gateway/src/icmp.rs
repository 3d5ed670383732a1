//! ICMP: echo requests of the program, passed on by the host's ping sockets, and the errors that the
//! program is told of.
//!
//! Where `net.ipv4.ping_group_range` admits this process, each identifier of the program has a ping
//! socket of its own; as root, one raw socket for each IP version carries all of them; otherwise
//! requests are dropped and counted, and a note says so once. The gateway's own addresses are
//! answered by the stack. RFCs: 792, 4443, 5508 §3 and §4.

use crate::config::Limits;
use crate::count::Count;
use crate::gateway::{Cx, Kind, Token};
use crate::host;
use crate::message::{self, Failed, Receiver};
use linerate_core::ip::icmp::{IcmpErr, PingReply, PingRequest, icmp_error_quote};
use linerate_core::rand::KeyedMap;
use linerate_core::shard::Shard;
use linerate_core::sock::Slab;
use linerate_core::time::{Instant, SEC, Wheel};
use linerate_core::wire::{IPPROTO_ICMP, IPPROTO_ICMPV6};
use linerate_dev::poller::{Event, Interest};
use rustix::io::Errno;
use rustix::net::{SocketType, ipproto, socket_with, sockopt};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// Nanoseconds of silence after which an identifier is forgotten (RFC 5508 REQ-2: at least 60 s).
const IDLE_NS: u64 = 60 * SEC;
/// Requests passed on in one turn, and replies taken from one socket.
const TURN: usize = 64;
/// Destinations of one identifier that may answer.
const PEERS_MAX: usize = 32;
/// Bytes of what the program has sent and the gateway has not yet taken.
const RCVBUF: usize = 1 << 20;

const HDR: usize = 8;
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Says what happened to a packet of which `quote` is the beginning, in the name of `from`, or of
/// the gateway.
pub(crate) fn send_quote(cx: &mut Cx<'_>, from: Option<IpAddr>, err: IcmpErr, quote: &[u8]) {
    let v4 = quote.first().is_some_and(|first| first >> 4 == 4);
    let like = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::from([0u8; 16]) };
    let from = from.filter(|from| from.is_ipv4() == v4);
    let from = from.or_else(|| cx.config.gateway(like)).unwrap_or(like);
    icmp_error_quote(cx.shard, quote, from, err);
}

/// The same about a packet that is gone: its headers are written anew. `body` is what followed the
/// IP header.
pub(crate) fn send(
    cx: &mut Cx<'_>,
    (program, remote): (IpAddr, IpAddr),
    proto: u8,
    from: Option<IpAddr>,
    err: IcmpErr,
    body: &[u8],
) {
    let mut quote = Vec::with_capacity(40 + body.len());
    let len = (body.len() as u16).to_be_bytes();
    match (program, remote) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (body.len() as u16).saturating_add(20).to_be_bytes();
            quote.extend([0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, proto, 0, 0]);
            quote.extend(src.octets());
            quote.extend(dst.octets());
            let sum = checksum(&quote).to_be_bytes();
            quote[10..12].copy_from_slice(&sum);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            quote.extend([0x60, 0, 0, 0, len[0], len[1], proto, 64]);
            quote.extend(src.octets());
            quote.extend(dst.octets());
        }
        _ => return,
    }
    quote.extend(body);
    send_quote(cx, from, err, &quote);
    cx.counts.inc(Count::ErrorsPassed);
}

fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&low| u32::from(low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What an entry of the kernel's error queue says; `None` if it says nothing about a packet.
pub(crate) fn error_of(failed: &Failed) -> Option<IcmpErr> {
    const LOCAL: u8 = 1;
    const ICMP: u8 = 2;
    const ICMP6: u8 = 3;
    let Failed { kind, code, info, .. } = *failed;
    Some(match (failed.origin, kind, code) {
        (LOCAL, ..) => return error_of_errno(Errno::from_raw_os_error(failed.errno as i32), info),
        (ICMP, 3, 4) | (ICMP6, 2, _) => IcmpErr::FragNeeded(info),
        (ICMP, 3, 3) | (ICMP6, 1, 4) => IcmpErr::PortUnreach,
        (ICMP, 3, 2) => IcmpErr::ProtoUnreach,
        (ICMP, 3, 9 | 10 | 13) | (ICMP6, 1, 1 | 5 | 6) => IcmpErr::Prohibited,
        (ICMP, 3, 0 | 6 | 11) | (ICMP6, 1, 0) => IcmpErr::NetUnreach,
        (ICMP, 3, _) | (ICMP6, 1, _) => IcmpErr::HostUnreach,
        (ICMP, 11, 0) | (ICMP6, 3, 0) => IcmpErr::TimeExceeded,
        (ICMP, 11, _) | (ICMP6, 3, _) => IcmpErr::FragTime,
        (ICMP, 12, code) | (ICMP6, 4, code) => IcmpErr::ParamProblem { code, pointer: info },
        _ => return None,
    })
}

/// What the failure of a send says, if it says something about the way.
pub(crate) fn error_of_errno(err: Errno, mtu: u32) -> Option<IcmpErr> {
    Some(match err {
        Errno::MSGSIZE if mtu > 0 => IcmpErr::FragNeeded(mtu),
        Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL => IcmpErr::NetUnreach,
        Errno::HOSTUNREACH | Errno::HOSTDOWN => IcmpErr::HostUnreach,
        Errno::CONNREFUSED => IcmpErr::PortUnreach,
        Errno::ACCESS | Errno::PERM => IcmpErr::Prohibited,
        _ => return None,
    })
}

/// Why a destination is denied, as an error; `None` where nothing may be said (RFC 1122 section
/// 3.2.2: never about a packet to a group).
pub(crate) fn error_of_denial(why: crate::policy::Denied) -> Option<IcmpErr> {
    use crate::policy::Denied;
    match why {
        Denied::Multicast | Denied::Broadcast | Denied::Invalid => None,
        Denied::Gateway => Some(IcmpErr::PortUnreach),
        Denied::NoNeighbour => Some(IcmpErr::HostUnreach),
        _ => Some(IcmpErr::Prohibited),
    }
}

/// How echo requests leave the host.
enum Way {
    Untried,
    /// A ping socket for each identifier.
    Ping,
    /// A raw socket from the time when one was permitted, not watched yet: it gets whatever pings
    /// the host gets, which is to wake nobody whose program sends none.
    Opened(OwnedFd),
    /// One raw socket for all.
    Raw(OwnedFd),
    Barred,
}

impl Way {
    /// Opens what needs a right that this process is about to give up.
    fn open(v6: bool) -> Way {
        if ping_socket(v6).is_ok() {
            return Way::Ping;
        }
        let (family, proto) = protocol(v6);
        match socket_with(family, SocketType::RAW, host::FLAGS, Some(proto)) {
            Ok(fd) if message::enable(&fd, v6).is_ok() => Way::Opened(fd),
            _ => Way::Untried,
        }
    }
}

struct Ident {
    program: IpAddr,
    id: u16,
    /// Its ping socket, unless the raw one serves it.
    host: Option<OwnedFd>,
    /// The identifier outside, on the raw socket.
    outer: u16,
    last: Instant,
    /// Whom it asked lately: as the program knows them, and where that leads.
    peers: Vec<(IpAddr, IpAddr)>,
    ttl: u8,
    tos: u8,
}

/// All echo identifiers of the program.
pub(crate) struct Echo {
    pending: bool,
    ways: [Way; 2],
    all: Slab<Ident>,
    by_program: KeyedMap<(IpAddr, u16), u32>,
    by_outer: KeyedMap<(bool, u16), u32>,
    timers: Wheel,
    due: Vec<u32>,
    receiver: Receiver,
    notes: Vec<String>,
    max: usize,
}

impl Echo {
    pub fn new(shard: &mut Shard, limits: &Limits) -> Echo {
        shard.ping_open(RCVBUF, Token::new(Kind::Ping, 0, 0).0);
        Echo {
            pending: false,
            ways: [false, true].map(Way::open),
            all: Slab::default(),
            by_program: KeyedMap::with_hasher(shard.net.rng.keyed()),
            by_outer: KeyedMap::with_hasher(shard.net.rng.keyed()),
            timers: Wheel::default(),
            due: Vec::new(),
            receiver: Receiver::new(),
            notes: Vec::new(),
            max: limits.echoes.clamp(1, 60_000),
        }
    }

    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub fn handle_stack(&mut self) {
        self.pending = true;
    }

    /// Passes requests on; forgets silent identifiers. Whether more is to do.
    pub fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        let now = cx.shard.net.now;
        self.timers.expire(now, &mut self.due);
        while let Some(index) = self.due.pop() {
            let Some(end) = self.all.at(index).map(|ident| ident.last.plus(IDLE_NS)) else {
                continue;
            };
            match end > now {
                true => self.timers.arm(index, end),
                false => self.remove(index),
            }
        }
        if !self.pending {
            return false;
        }
        for _ in 0..TURN {
            let Some(request) = cx.shard.ping_recv() else {
                self.pending = false;
                return false;
            };
            self.send(cx, &request);
            cx.shard.ping_done(request);
        }
        true
    }

    fn remove(&mut self, index: u32) {
        self.timers.cancel(index);
        if let Some(ident) = self.all.remove(index) {
            self.by_program.remove(&(ident.program, ident.id));
            self.by_outer.remove(&(ident.program.is_ipv6(), ident.outer));
        }
    }

    fn send(&mut self, cx: &mut Cx<'_>, request: &PingRequest) {
        if request.ttl() <= 1 {
            cx.counts.inc(Count::TtlExceeded);
            return send_quote(cx, None, IcmpErr::TimeExceeded, request.quote());
        }
        let dial = match cx.policy.judge_echo(request.dst()) {
            Ok(dial) => dial,
            Err(why) => {
                cx.counts.deny(why);
                if let Some(err) = error_of_denial(why) {
                    send_quote(cx, None, err, request.quote());
                }
                return;
            }
        };
        // Only an address of its own family can be asked: echo of the other is another message.
        if dial.is_ipv4() != request.dst().is_ipv4() {
            return cx.counts.deny(crate::policy::Denied::Invalid);
        }
        let known = self.by_program.get(&(request.src(), request.id())).copied();
        let Some(index) = known.or_else(|| self.open(cx, request)) else { return };
        let (ways, now) = (&self.ways, cx.shard.net.now);
        let Some(ident) = self.all.at_mut(index) else { return };
        ident.last = now;
        if !ident.peers.contains(&(request.dst(), dial)) {
            if ident.peers.len() >= PEERS_MAX {
                ident.peers.remove(0);
            }
            ident.peers.push((request.dst(), dial));
        }
        let v6 = dial.is_ipv6();
        let fd = match (&ident.host, &ways[usize::from(v6)]) {
            (Some(fd), _) => fd,
            (None, Way::Raw(fd)) => fd,
            _ => return,
        };
        set_options(fd, request, v6);
        (ident.ttl, ident.tos) = (request.ttl(), request.tos());
        let [i0, i1] = ident.outer.to_be_bytes();
        let [s0, s1] = request.seq().to_be_bytes();
        let mut packet = vec![if v6 { ECHO_V6 } else { ECHO }, 0, 0, 0, i0, i1, s0, s1];
        packet.extend(request.slices().flatten());
        if !v6 {
            let sum = checksum(&packet).to_be_bytes();
            packet[2..4].copy_from_slice(&sum);
        }
        let to = SocketAddr::new(dial, 0);
        let mut sent = message::send(fd, to, &[IoSlice::new(&packet)], None);
        if matches!(sent, Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH)) {
            // It may be an earlier request's error, which the queue has as well.
            sent = message::send(fd, to, &[IoSlice::new(&packet)], None);
        }
        match sent {
            Ok(()) => cx.counts.inc(Count::EchoOut),
            Err(err) => {
                if let Some(err) = error_of_errno(err, cx.config.mtu) {
                    send_quote(cx, None, err, request.quote());
                }
            }
        }
    }

    /// A way out for an identifier that is new.
    fn open(&mut self, cx: &mut Cx<'_>, request: &PingRequest) -> Option<u32> {
        let v6 = request.src().is_ipv6();
        let way = usize::from(v6);
        if matches!(self.ways[way], Way::Untried | Way::Opened(_)) {
            self.ways[way] = self.find_way(cx, v6);
        }
        if matches!(self.ways[way], Way::Barred) {
            cx.counts.inc(Count::EchoNotPermitted);
            return None;
        }
        if self.all.len() >= self.max {
            cx.counts.inc(Count::EchoFull);
            let oldest = self.all.iter().min_by_key(|(_, _, ident)| ident.last);
            let oldest = oldest.map(|(index, ..)| index)?;
            self.remove(oldest);
        }
        let host = match self.ways[way] {
            Way::Ping => match ping_socket(v6) {
                Ok(fd) => Some(fd),
                Err(_) => {
                    cx.counts.inc(Count::HostSocketFailed);
                    return None;
                }
            },
            _ => None,
        };
        let mut outer = cx.shard.net.rng.next_u32() as u16;
        while self.by_outer.contains_key(&(v6, outer)) {
            outer = outer.wrapping_add(1);
        }
        let ident = Ident {
            program: request.src(),
            id: request.id(),
            host,
            outer,
            last: cx.shard.net.now,
            peers: Vec::new(),
            ttl: 0,
            tos: 0,
        };
        let (index, generation) = self.all.insert(ident);
        if let Some(fd) = self.all.at(index).and_then(|ident| ident.host.as_ref()) {
            let token = Token::new(Kind::Echo, index, generation).0;
            if cx.poller.add(fd, token, Interest::READ).is_err() {
                cx.counts.inc(Count::HostSocketFailed);
                self.all.remove(index);
                return None;
            }
        }
        self.by_program.insert((request.src(), request.id()), index);
        self.by_outer.insert((v6, outer), index);
        self.timers.arm(index, cx.shard.net.now.plus(IDLE_NS));
        Some(index)
    }

    fn find_way(&mut self, cx: &mut Cx<'_>, v6: bool) -> Way {
        let token = Token::new(Kind::Ping, u32::from(v6), 0).0;
        match std::mem::replace(&mut self.ways[usize::from(v6)], Way::Untried) {
            Way::Opened(fd) if cx.poller.add(&fd, token, Interest::READ).is_ok() => {
                return Way::Raw(fd);
            }
            // The group may have been permitted them since.
            _ if ping_socket(v6).is_ok() => return Way::Ping,
            _ => {}
        }
        self.notes.push(format!(
            "ICMPv{} echo cannot leave the host: put this user's group into net.ipv4.ping_group_range, \
             or run as root",
            if v6 { 6 } else { 4 }
        ));
        Way::Barred
    }

    /// A ping socket, or a raw one, has replies or errors.
    pub fn handle_host(&mut self, cx: &mut Cx<'_>, token: Token, event: &Event) {
        let Echo { all, ways, by_outer, receiver, .. } = self;
        let raw = token.kind() == Some(Kind::Ping);
        let v6 = match raw {
            true => token.index() == 1,
            false => match token.find(all) {
                Some(ident) => ident.program.is_ipv6(),
                None => return,
            },
        };
        let fd = match (&ways[usize::from(v6)], raw) {
            (Way::Raw(fd), true) => fd.as_raw_fd(),
            (_, false) => match all.at(token.index()).and_then(|ident| ident.host.as_ref()) {
                Some(fd) => fd.as_raw_fd(),
                None => return,
            },
            _ => return,
        };
        let find = |all: &Slab<Ident>, message: &[u8]| match (raw, message) {
            (false, _) => all.at(token.index()).map(|_| token.index()),
            (true, &[_, _, _, _, i0, i1, ..]) => {
                by_outer.get(&(v6, u16::from_be_bytes([i0, i1]))).copied()
            }
            _ => None,
        };
        for _ in 0..if event.error { TURN } else { 0 } {
            let Ok(failed) = receiver.receive_error(fd) else { break };
            let body = receiver.error_bytes(&failed);
            let Some(ident) = find(all, body).and_then(|index| all.at(index)) else { continue };
            ident.failed(cx, &failed, body);
        }
        for _ in 0..if event.readable { TURN } else { 0 } {
            let Ok(arrived) = receiver.receive(fd) else { break };
            let mut body = receiver.bytes(&arrived);
            if raw && !v6 {
                // The IP header comes along.
                let ihl = body.first().map_or(0, |first| usize::from(first & 0xf) * 4);
                body = body.get(ihl..).unwrap_or_default();
            }
            let reply = if v6 { ECHO_REPLY_V6 } else { ECHO_REPLY };
            if body.len() < HDR || body.first() != Some(&reply) {
                continue;
            }
            let Some(ident) = find(all, body).and_then(|index| all.at_mut(index)) else { continue };
            ident.reply(cx, arrived.from.ip(), arrived.ttl, arrived.tos, body);
        }
    }
}

impl Ident {
    /// Passes a reply on, if the program asked its sender.
    fn reply(&mut self, cx: &mut Cx<'_>, from: IpAddr, ttl: u8, tos: u8, body: &[u8]) {
        let asked = self.peers.iter().find(|(_, dial)| *dial == from);
        let (Some(&(src, _)), &[_, _, _, _, _, _, s0, s1, ..]) = (asked, body) else { return };
        self.last = cx.shard.net.now;
        let how = PingReply {
            src,
            dst: self.program,
            id: self.id,
            seq: u16::from_be_bytes([s0, s1]),
            // The gateway is a hop.
            ttl: ttl.saturating_sub(1).max(1),
            tos,
        };
        if cx.shard.ping_reply(how, &[body.get(HDR..).unwrap_or_default()]) {
            cx.counts.inc(Count::EchoIn);
        }
    }

    /// Passes an error about a request on.
    fn failed(&self, cx: &mut Cx<'_>, failed: &Failed, body: &[u8]) {
        let asked = self.peers.iter().find(|(_, dial)| *dial == failed.to.ip());
        let (Some(&(remote, _)), Some(err)) = (asked, error_of(failed)) else { return };
        let mut body = body.to_vec();
        if let Some(id) = body.get_mut(4..6) {
            id.copy_from_slice(&self.id.to_be_bytes());
        }
        let proto = if remote.is_ipv6() { IPPROTO_ICMPV6 } else { IPPROTO_ICMP };
        send(cx, (self.program, remote), proto, failed.offender, err, &body);
    }
}

fn protocol(v6: bool) -> (rustix::net::AddressFamily, rustix::net::Protocol) {
    match v6 {
        true => (rustix::net::AddressFamily::INET6, ipproto::ICMPV6),
        false => (rustix::net::AddressFamily::INET, ipproto::ICMP),
    }
}

fn ping_socket(v6: bool) -> std::io::Result<OwnedFd> {
    let (family, proto) = protocol(v6);
    let fd = socket_with(family, SocketType::DGRAM, host::FLAGS, Some(proto))?;
    message::enable(&fd, v6)?;
    Ok(fd)
}

/// TTL, less the hop that the gateway is, and type of service.
fn set_options(fd: &OwnedFd, request: &PingRequest, v6: bool) {
    let ttl = request.ttl().saturating_sub(1).max(1);
    // Neither fails for values that came in an IP header.
    let _ = match v6 {
        true => sockopt::set_ipv6_unicast_hops(fd, Some(ttl)),
        false => sockopt::set_ip_ttl(fd, u32::from(ttl)),
    };
    let _ = match v6 {
        true => sockopt::set_ipv6_tclass(fd, u32::from(request.tos())),
        false => sockopt::set_ip_tos(fd, request.tos()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_checksum_is_that_of_rfc_1071() {
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&words), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }

    #[test]
    fn each_error_of_the_queue_keeps_its_meaning() {
        let failed = |origin, kind, code, errno, info| Failed {
            to: "192.0.2.1:9".parse().unwrap(),
            offender: None,
            origin,
            kind,
            code,
            errno,
            info,
            len: 0,
        };
        let cases = [
            (failed(2, 3, 3, 111, 0), Some(IcmpErr::PortUnreach)),
            (failed(2, 3, 1, 113, 0), Some(IcmpErr::HostUnreach)),
            (failed(2, 3, 13, 113, 0), Some(IcmpErr::Prohibited)),
            (failed(2, 3, 4, 90, 1400), Some(IcmpErr::FragNeeded(1400))),
            (failed(2, 11, 0, 113, 0), Some(IcmpErr::TimeExceeded)),
            (failed(3, 1, 4, 111, 0), Some(IcmpErr::PortUnreach)),
            (failed(3, 2, 0, 90, 1280), Some(IcmpErr::FragNeeded(1280))),
            (failed(3, 3, 0, 113, 0), Some(IcmpErr::TimeExceeded)),
            (failed(1, 0, 0, 90, 1500), Some(IcmpErr::FragNeeded(1500))),
            (failed(4, 0, 0, 0, 0), None),
        ];
        for (failed, want) in cases {
            assert_eq!(error_of(&failed), want, "{failed:?}");
        }
    }
}
