//! Stage `Transport` of ICMP, RX.
//!
//! before: [`crate::sock::lookup`]   after: [`crate::ip::icmp::ping`], transports' error functions, [`crate::ip::ndisc`]
//! Linux:  net/ipv4/icmp.c `icmp_rcv`, `icmp_echo`, `icmp_unreach`; net/ipv6/icmp.c `icmpv6_rcv`, `icmpv6_notify`
//! RFCs:   792, 1122 §3.2.2, 1191, 4443, 5927, 6633, 8201
//! drops:  IcmpCsum, Icmp6Csum, IcmpInvalid, Icmp6Invalid, IcmpIgnored

use std::net::{IpAddr, SocketAddr};

use linerate_arch::csum::csum_fold;

use crate::ip::ndisc;
use crate::pkt::{Csum, Pkt, Verdict, pseudo};
use crate::rx::steer::News;
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::table::{Reason, count::id};
use crate::tcp::icmp::{ErrKind, TcpQuote, tcp_v4_err};
use crate::wire::icmpv4::*;
use crate::wire::icmpv6::*;
use crate::wire::ipv6::walk;
use crate::wire::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Ipv4Hdr, Ipv6Hdr};

/// Length of the header that all messages have.
const HLEN: usize = 8;
/// As much of a message as is looked at: the longest headers that a quote can begin with.
const QUOTE_LOOK: usize = 512;

/// An ICMP message of either version.
pub fn icmp_rcv(cx: &mut Shard, pkt: Pkt) -> Verdict {
    match (pkt.src, pkt.ip_proto) {
        (IpAddr::V4(_), IPPROTO_ICMP) => icmpv4_rcv(cx, pkt),
        (IpAddr::V6(_), IPPROTO_ICMPV6) => icmpv6_rcv(cx, pkt),
        // Demux lets no other protocol come here.
        _ => Verdict::Drop(pkt, Reason::IcmpInvalid),
    }
}

fn icmpv4_rcv(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    net.counts.inc(id::IcmpInMsgs);
    if !icmp_csum_ok(&pkt, net.knobs.rx_checksum) {
        return Verdict::Drop(pkt, Reason::IcmpCsum);
    }
    let hdr = match pkt.may_pull(HLEN) {
        true => Icmpv4Hdr::parse(pkt.head()),
        false => return Verdict::Drop(pkt, Reason::IcmpInvalid),
    };
    let Ok(hdr) = hdr else { return Verdict::Drop(pkt, Reason::IcmpInvalid) };
    let crowd = pkt.dst.is_multicast() || !(net.fib.is_local(pkt.dst) || is_foreign(net, &pkt));
    match hdr.kind {
        ICMP_ECHO => {
            net.counts.inc(id::IcmpInEchos);
            icmp_echo(cx, pkt, crowd)
        }
        ICMP_TIMESTAMP => {
            net.counts.inc(id::IcmpInTimestamps);
            icmp_timestamp(net, pkt, crowd)
        }
        // RFC 1122 §3.2.2: nothing else is said to groups.
        _ if crowd => Verdict::Drop(pkt, Reason::IcmpIgnored),
        ICMP_DEST_UNREACH => {
            net.counts.inc(id::IcmpInDestUnreachs);
            icmp_unreach(cx, pkt, hdr)
        }
        ICMP_TIME_EXCEEDED => {
            net.counts.inc(id::IcmpInTimeExcds);
            icmp_unreach(cx, pkt, hdr)
        }
        ICMP_PARAMETERPROB => {
            net.counts.inc(id::IcmpInParmProbs);
            icmp_unreach(cx, pkt, hdr)
        }
        // RFC 6633 §3: never obeyed. Redirects neither: a host here has one way out.
        ICMP_SOURCE_QUENCH => noted(net, pkt, id::IcmpInSrcQuenchs),
        ICMP_REDIRECT => noted(net, pkt, id::IcmpInRedirects),
        ICMP_ECHOREPLY => noted(net, pkt, id::IcmpInEchoReps),
        ICMP_TIMESTAMPREPLY => noted(net, pkt, id::IcmpInTimestampReps),
        // Types that were assigned once, and nobody answers any more (RFC 6918).
        1..=2 | 6..=7 | 9..=10 | 15..=18 => Verdict::Drop(pkt, Reason::IcmpIgnored),
        _ => Verdict::Drop(pkt, Reason::IcmpInvalid),
    }
}

/// Counted, and that is all.
fn noted(
    net: &mut Net,
    pkt: Pkt,
    counter: crate::table::count::Id<crate::table::count::Packets>,
) -> Verdict {
    net.counts.inc(counter);
    net.pool.free(pkt);
    Verdict::Taken
}

/// Whether the packet is for an address that we only answer for.
fn is_foreign(net: &Net, pkt: &Pkt) -> bool {
    use crate::ip::route::RouteKind;
    let any_ip = net.ifaces.get(pkt.dev as usize).is_some_and(|i| i.any_ip);
    let broadcast = match pkt.dst {
        IpAddr::V4(a) => a.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    let kind = net.fib.lookup(pkt.dst).map(|r| r.kind);
    any_ip && !broadcast && kind != Some(RouteKind::Broadcast)
}

/// Whether the message sums to zero: over IPv6 with the pseudo header.
fn icmp_csum_ok(pkt: &Pkt, believe: bool) -> bool {
    match pkt.csum {
        Csum::Verified if believe => return true,
        Csum::Partial { .. } => return true,
        _ => {}
    }
    let len = pkt.len();
    let start = if pkt.src.is_ipv6() { pseudo(pkt.src, pkt.dst, len, IPPROTO_ICMPV6) } else { 0 };
    csum_fold(pkt.checksum(0, len, start)) == 0
}

/// Writes the checksum of a message whose addresses are set and whose field is zero.
pub(super) fn icmp_complete(pkt: &mut Pkt) {
    let len = pkt.len();
    let start = if pkt.src.is_ipv6() { pseudo(pkt.src, pkt.dst, len, IPPROTO_ICMPV6) } else { 0 };
    let sum = csum_fold(pkt.checksum(0, len, start));
    if let Some(field) = pkt.head_mut().get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// An echo request, of either version, whose header lies in the head.
fn icmp_echo(cx: &mut Shard, mut pkt: Pkt, crowd: bool) -> Verdict {
    let net = &mut cx.net;
    let knobs = &net.knobs;
    if knobs.icmp_echo_ignore_all
        || (crowd && pkt.src.is_ipv4() && knobs.icmp_echo_ignore_broadcasts)
    {
        return Verdict::Drop(pkt, Reason::IcmpIgnored);
    }
    if !crowd && !net.fib.is_local(pkt.dst) {
        let (Some(sock), &[_, _, _, _, i0, i1, s0, s1, ..]) = (cx.ping.id(), pkt.head()) else {
            return Verdict::Drop(pkt, Reason::IcmpIgnored);
        };
        pkt.sock = Some(sock);
        pkt.sport = u16::from_be_bytes([i0, i1]);
        pkt.dport = u16::from_be_bytes([s0, s1]);
        let pulled = pkt.pull(HLEN);
        debug_assert!(pulled, "the header was parsed, so it lies in the head");
        return Verdict::Pass(pkt);
    }
    let v4 = pkt.src.is_ipv4();
    net.counts.inc(if v4 { id::IcmpOutMsgs } else { id::Icmp6OutMsgs });
    net.counts.inc(if v4 { id::IcmpOutEchoReps } else { id::Icmp6OutEchoReplies });
    icmp_reply(net, pkt, if v4 { ICMP_ECHOREPLY } else { ICMPV6_ECHO_REPLY }, crowd);
    Verdict::Taken
}

/// RFC 792: the time since midnight is not known here, so that the answer says by its high bit
/// that it is another.
fn icmp_timestamp(net: &mut Net, mut pkt: Pkt, crowd: bool) -> Verdict {
    const LEN: usize = 20;
    if crowd && net.knobs.icmp_echo_ignore_broadcasts {
        return Verdict::Drop(pkt, Reason::IcmpIgnored);
    }
    if !crowd && !net.fib.is_local(pkt.dst) {
        return Verdict::Drop(pkt, Reason::IcmpIgnored);
    }
    if !pkt.may_pull(LEN) {
        return Verdict::Drop(pkt, Reason::IcmpInvalid);
    }
    pkt.trim(LEN);
    let now = (net.now.ms() as u32 & 0x7fff_ffff | 0x8000_0000).to_be_bytes();
    if let Some(times) = pkt.head_mut().get_mut(12..LEN) {
        times[..4].copy_from_slice(&now);
        times[4..].copy_from_slice(&now);
    }
    net.counts.inc(id::IcmpOutMsgs);
    icmp_reply(net, pkt, ICMP_TIMESTAMPREPLY, crowd);
    Verdict::Taken
}

/// Turns a request into its reply and sends it back: the payload is not copied (Linux: `icmp_reply`).
fn icmp_reply(net: &mut Net, mut pkt: Pkt, kind: u8, crowd: bool) {
    let dev = pkt.dev;
    if let Some(head) = pkt.head_mut().get_mut(..4) {
        head.copy_from_slice(&[kind, 0, 0, 0]);
    }
    let (src, dst) = (pkt.src, pkt.dst);
    pkt.dst = src;
    pkt.src = dst;
    pkt.ttl = 0;
    pkt.df = false;
    pkt.frag = false;
    pkt.gso = None;
    pkt.sock = None;
    pkt.hash = 0;
    pkt.vlan = None;
    pkt.l2_multicast = false;
    pkt.csum = Csum::None;
    if crowd {
        // A group can not answer: one of its members does.
        let route = net.route_on(dev, src);
        pkt.src = route.and_then(|r| r.src).unwrap_or(dst);
    }
    icmp_complete(&mut pkt);
    if crate::ip::route::is_link_scope(src)
        && let Some(route) = net.route_on(dev, src)
    {
        net.send_on(pkt, &route);
        return;
    }
    net.send(pkt);
}

/// An error about a packet of ours (Linux: `icmp_unreach`, `icmp_socket_deliver`).
fn icmp_unreach(cx: &mut Shard, mut pkt: Pkt, hdr: Icmpv4Hdr) -> Verdict {
    let look = pkt.len().min(QUOTE_LOOK);
    if !pkt.may_pull(look) {
        return Verdict::Drop(pkt, Reason::IcmpInvalid);
    }
    let quote = pkt.head().get(HLEN..).unwrap_or_default();
    let Some(quoted) = Quoted::read4(quote) else {
        return Verdict::Drop(pkt, Reason::IcmpInvalid);
    };
    let kind = match (hdr.kind, hdr.code) {
        (ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED) => {
            // RFC 1191 §5: a router of old says 0; then it is guessed from the packet's length.
            let mtu = if hdr.mtu() == 0 { guess_mtu(quoted.total_len) } else { hdr.mtu() as u32 };
            ErrKind::FragNeeded(mtu)
        }
        (ICMP_DEST_UNREACH, code @ 0..=15) => match super::unreachable_err(code) {
            super::IcmpErr::NetUnreach => ErrKind::NetUnreach,
            super::IcmpErr::ProtoUnreach => ErrKind::ProtoUnreach,
            super::IcmpErr::PortUnreach => ErrKind::PortUnreach,
            super::IcmpErr::Prohibited => ErrKind::Prohibited,
            _ => ErrKind::HostUnreach,
        },
        (ICMP_TIME_EXCEEDED, _) => ErrKind::TimeExceeded,
        (ICMP_PARAMETERPROB, _) => ErrKind::ParamProblem,
        _ => return Verdict::Drop(pkt, Reason::IcmpInvalid),
    };
    deliver(cx, &quoted, kind);
    cx.net.pool.free(pkt);
    Verdict::Taken
}

/// RFC 1191 §7.1, table 7-1: the next smaller MTU that is common.
fn guess_mtu(total_len: u16) -> u32 {
    let plateaus = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296];
    plateaus.into_iter().find(|p| *p < total_len as u32).unwrap_or(68)
}

/// What an error quotes of a packet of ours.
struct Quoted<'a> {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    total_len: u16,
    /// The beginning of the transport header, at least 8 bytes.
    transport: &'a [u8],
}

impl Quoted<'_> {
    fn read4(quote: &[u8]) -> Option<Quoted<'_>> {
        let hdr = Ipv4Hdr::parse(quote).ok()?;
        if hdr.frag_off_bytes != 0 {
            return None;
        }
        let transport = quote.get(hdr.ihl_bytes..).filter(|t| t.len() >= 8)?;
        let (src, dst) = (IpAddr::V4(hdr.src), IpAddr::V4(hdr.dst));
        Some(Quoted { src, dst, proto: hdr.proto, total_len: hdr.total_len, transport })
    }
    fn read6(quote: &[u8]) -> Option<Quoted<'_>> {
        let hdr = Ipv6Hdr::parse(quote).ok()?;
        let upper = walk(quote, &hdr).ok()?;
        if upper.frag.is_some_and(|f| f.frag_off_bytes != 0) {
            return None;
        }
        let transport = quote.get(upper.offset..).filter(|t| t.len() >= 8)?;
        let (src, dst) = (IpAddr::V6(hdr.src), IpAddr::V6(hdr.dst));
        Some(Quoted { src, dst, proto: upper.proto, total_len: hdr.payload_len, transport })
    }
}

/// Tells the socket that sent the quoted packet. Transports check that they did (RFC 5927 §4): an
/// error about what nobody sent changes nothing.
fn deliver(cx: &mut Shard, quoted: &Quoted<'_>, kind: ErrKind) {
    let &[p0, p1, q0, q1, s0, s1, s2, s3, ..] = quoted.transport else { return };
    let (sport, dport) = (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([q0, q1]));
    let (src, dst) = (quoted.src, quoted.dst);
    match quoted.proto {
        IPPROTO_TCP => {
            let seq = Seq(u32::from_be_bytes([s0, s1, s2, s3]));
            tcp_v4_err(cx, &TcpQuote { src, dst, sport, dport, seq }, kind, false);
        }
        IPPROTO_UDP => {
            let (local, remote) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
            let known = crate::udp::err::udp_err(cx, local, remote, kind);
            if let (true, ErrKind::FragNeeded(mtu)) = (known, kind) {
                cx.net.update_pmtu(dst, mtu);
            }
            // A port may have a socket on every shard; which of them sent it, none knows.
            cx.net.tell_all(News::UdpErr { local, remote, kind });
        }
        _ => {}
    }
}

fn icmpv6_rcv(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    net.counts.inc(id::Icmp6InMsgs);
    if !icmp_csum_ok(&pkt, net.knobs.rx_checksum) {
        return Verdict::Drop(pkt, Reason::Icmp6Csum);
    }
    let hdr = match pkt.may_pull(HLEN) {
        true => Icmpv6Hdr::parse(pkt.head()),
        false => return Verdict::Drop(pkt, Reason::Icmp6Invalid),
    };
    let Ok(hdr) = hdr else { return Verdict::Drop(pkt, Reason::Icmp6Invalid) };
    match hdr.kind {
        ICMPV6_ECHO_REQUEST => {
            net.counts.inc(id::Icmp6InEchos);
            let crowd = pkt.dst.is_multicast();
            icmp_echo(cx, pkt, crowd)
        }
        ICMPV6_ECHO_REPLY => noted(net, pkt, id::Icmp6InEchoReplies),
        ICMPV6_DEST_UNREACH => {
            net.counts.inc(id::Icmp6InDestUnreachs);
            icmpv6_notify(cx, pkt, hdr)
        }
        ICMPV6_PKT_TOOBIG => {
            net.counts.inc(id::Icmp6InPktTooBigs);
            icmpv6_notify(cx, pkt, hdr)
        }
        ICMPV6_TIME_EXCEED => {
            net.counts.inc(id::Icmp6InTimeExcds);
            icmpv6_notify(cx, pkt, hdr)
        }
        ICMPV6_PARAMPROB => {
            net.counts.inc(id::Icmp6InParmProblems);
            icmpv6_notify(cx, pkt, hdr)
        }
        NDISC_ROUTER_SOLICITATION..=NDISC_REDIRECT => ndisc::ndisc_rcv(net, pkt),
        ICMPV6_MLD2_REPORT => noted(net, pkt, id::Icmp6InMLDv2Reports),
        // RFC 4443 §2.4(b): what is not known and is no error is dropped silently.
        _ => Verdict::Drop(pkt, Reason::IcmpIgnored),
    }
}

/// An error about a packet of ours over IPv6.
fn icmpv6_notify(cx: &mut Shard, mut pkt: Pkt, hdr: Icmpv6Hdr) -> Verdict {
    let look = pkt.len().min(QUOTE_LOOK);
    if !pkt.may_pull(look) {
        return Verdict::Drop(pkt, Reason::Icmp6Invalid);
    }
    let quote = pkt.head().get(HLEN..).unwrap_or_default();
    let Some(quoted) = Quoted::read6(quote) else {
        return Verdict::Drop(pkt, Reason::Icmp6Invalid);
    };
    let kind = match (hdr.kind, hdr.code) {
        (ICMPV6_PKT_TOOBIG, _) => ErrKind::FragNeeded(hdr.mtu()),
        (ICMPV6_DEST_UNREACH, ICMPV6_NOROUTE) => ErrKind::NetUnreach,
        (ICMPV6_DEST_UNREACH, ICMPV6_ADM_PROHIBITED | 5 | 6) => ErrKind::Prohibited,
        (ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH) => ErrKind::PortUnreach,
        (ICMPV6_DEST_UNREACH, _) => ErrKind::HostUnreach,
        (ICMPV6_TIME_EXCEED, _) => ErrKind::TimeExceeded,
        // An unknown next header is what "no such protocol" is over IPv6 (RFC 4443 §3.4).
        (ICMPV6_PARAMPROB, 1) => ErrKind::ProtoUnreach,
        _ => ErrKind::ParamProblem,
    };
    deliver(cx, &quoted, kind);
    cx.net.pool.free(pkt);
    Verdict::Taken
}
