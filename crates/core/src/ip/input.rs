//! Stage `Ip`, RX: is this an IPv4 or IPv6 packet that may be looked at?
//!
//! before: [`crate::link::input`]   after: [`crate::ip::route`]
//! Linux:  net/ipv4/ip_input.c `ip_rcv_core`, net/ipv6/ip6_input.c `ip6_rcv_core`
//! RFCs:   791, 1122 §3.2.1 and §3.3.6, 8200 §3–4, 4291 §2.5–2.7
//! drops:  IpTruncated, IpHdr, IpCsum, UnicastInL2Multicast, Ip6Truncated, Ip6Hdr, Ip6Addr,
//!         Ip6Option, Ip6Disabled

use std::net::{IpAddr, Ipv6Addr};

use super::icmp::{self, IcmpErr};
use super::route::RouteKind;
use crate::link::L2;
use crate::pkt::{GsoKind, Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, count::Id, count::Segs, count::id};
use crate::wire::ipv6::{ExtError, ParamCode, walk};
use crate::wire::{ETH_P_IP, IPPROTO_HOPOPTS, Ipv4Hdr, Ipv4Options, Ipv6Hdr, WireError};

/// Checks the header, fills the packet's addresses and protocol, takes the header off.
#[inline(always)]
pub fn ip_rcv(cx: &mut Shard, pkt: Pkt) -> Verdict {
    if pkt.proto != ETH_P_IP {
        return ipv6_rcv(cx, pkt);
    }
    let net = &mut cx.net;
    net.counts.inc(id::IpInReceives);
    net.counts.add_bytes(id::IpInOctets, pkt.len() as u64);
    // The usual header is read where it lies; everything else takes the longer way.
    if let Some(first) = pkt.peek::<{ Ipv4Hdr::LEN }>()
        && first[0] == 0x45
        && let Ok(hdr) = Ipv4Hdr::parse(first)
    {
        let sound = Ipv4Hdr::csum_ok(first);
        return ip_rcv_hdr(net, pkt, &hdr, sound);
    }
    ip_rcv_odd(net, pkt)
}

/// A header with options, one that lies in fragments, or one that is wrong.
#[inline(never)]
fn ip_rcv_odd(net: &mut Net, mut pkt: Pkt) -> Verdict {
    if !pkt.may_pull(Ipv4Hdr::LEN) {
        return Verdict::Drop(pkt, Reason::IpHdr);
    }
    let hdr = match Ipv4Hdr::parse(pkt.head()) {
        Ok(hdr) => hdr,
        Err(why) => match ip_hdr_again(&mut pkt, why) {
            Ok(hdr) => hdr,
            Err(reason) => return Verdict::Drop(pkt, reason),
        },
    };
    let sound = Ipv4Hdr::csum_ok(pkt.head());
    ip_rcv_hdr(net, pkt, &hdr, sound)
}

/// What the header says, once it was read; `sound` = its checksum is right.
#[inline(always)]
fn ip_rcv_hdr(net: &mut Net, mut pkt: Pkt, hdr: &Ipv4Hdr, sound: bool) -> Verdict {
    let len = pkt.len();
    net.counts.inc_by(ecn4(hdr.tos), pkt.segs());
    if !sound {
        return Verdict::Drop(pkt, Reason::IpCsum);
    }
    let total = hdr.total_len as usize;
    if len != total {
        // What follows the packet is padding; a super-packet has none, so that its length lies.
        let whole = pkt.gso.is_some() && total == 0;
        if len < total || (pkt.gso.is_some() && !whole) {
            return Verdict::Drop(pkt, Reason::IpTruncated);
        }
        if !whole {
            pkt.trim(total);
        }
    }
    pkt.src = IpAddr::V4(hdr.src);
    pkt.dst = IpAddr::V4(hdr.dst);
    pkt.ip_proto = hdr.proto;
    pkt.tos = hdr.tos;
    pkt.ttl = hdr.ttl;
    pkt.df = hdr.df;
    pkt.frag = hdr.is_fragment();
    pkt.transport = pkt.network + hdr.ihl_bytes as u32;
    if hdr.ihl_bytes > Ipv4Hdr::LEN
        && let Err(reason) = ip_rcv_options(net, &pkt, hdr)
    {
        return Verdict::Drop(pkt, reason);
    }
    if hdr.dst.is_multicast() {
        net.counts.inc(id::IpInMcastPkts);
    } else if pkt.l2_multicast && net.knobs.drop_unicast_in_l2_multicast && !is_broadcast(net, &pkt)
    {
        return Verdict::Drop(pkt, Reason::UnicastInL2Multicast);
    }
    let pulled = pkt.pull(hdr.ihl_bytes);
    debug_assert!(pulled, "the header was parsed, so it lies in the head");
    Verdict::Pass(pkt)
}

/// The header did not parse: its options may lie in fragments of the packet, and a TCP super-packet
/// beyond 64 KiB says 0 as its length (`skb_ip_totlen`).
#[cold]
fn ip_hdr_again(pkt: &mut Pkt, why: WireError) -> Result<Ipv4Hdr, Reason> {
    match why {
        WireError::Truncated => {
            let ihl = pkt.head().first().map_or(0, |b| usize::from(b & 0xf) * 4);
            if !pkt.may_pull(ihl) {
                return Err(Reason::IpHdr);
            }
            Ipv4Hdr::parse(pkt.head()).map_err(|_| Reason::IpHdr)
        }
        WireError::BadLength if !Ipv4Hdr::csum_ok(pkt.head()) => Err(Reason::IpCsum),
        WireError::BadLength => {
            let is_tcp = pkt.gso.is_some_and(|g| g.kind == GsoKind::Tcp4);
            let mut first = [0; Ipv4Hdr::LEN];
            if !is_tcp || pkt.copy_bits(0, &mut first) < first.len() || first[2..4] != [0, 0] {
                return Err(Reason::IpHdr);
            }
            first[2..4].copy_from_slice(&u16::MAX.to_be_bytes());
            let hdr = Ipv4Hdr::parse(&first).map_err(|_| Reason::IpHdr)?;
            Ok(Ipv4Hdr { total_len: 0, ..hdr })
        }
        _ => Err(Reason::IpHdr),
    }
}

/// Options are checked; none of them is obeyed. Source routes are refused, as by
/// `accept_source_route = 0` (RFC 6274 §3.13.2.3).
#[cold]
fn ip_rcv_options(net: &mut Net, pkt: &Pkt, hdr: &Ipv4Hdr) -> Result<(), Reason> {
    let options = pkt.head().get(Ipv4Hdr::LEN..hdr.ihl_bytes).ok_or(Reason::IpHdr)?;
    match Ipv4Options::compile(options) {
        Ok(found) if found.srr.is_none() => Ok(()),
        Ok(_) => Err(Reason::IpHdr),
        Err(at) => {
            icmp::icmp_send(net, pkt, IcmpErr::ParamProblem { code: 0, pointer: at.0 as u32 });
            Err(Reason::IpHdr)
        }
    }
}

/// Whether a packet that came in a broadcast frame is one (RFC 1122 §3.3.6).
#[cold]
fn is_broadcast(net: &Net, pkt: &Pkt) -> bool {
    let IpAddr::V4(dst) = pkt.dst else { return true };
    let route = |dst| net.fib.lookup(dst).map(|r| r.kind);
    dst.is_broadcast() || dst.is_unspecified() || route(pkt.dst) == Some(RouteKind::Broadcast)
}

#[inline(always)]
fn ecn4(tos: u8) -> Id<Segs> {
    match tos & 3 {
        0 => id::IpInNoECTPkts,
        1 => id::IpInECT1Pkts,
        2 => id::IpInECT0Pkts,
        _ => id::IpInCEPkts,
    }
}

#[inline]
fn ecn6(tos: u8) -> Id<Segs> {
    match tos & 3 {
        0 => id::Ip6InNoECTPkts,
        1 => id::Ip6InECT1Pkts,
        2 => id::Ip6InECT0Pkts,
        _ => id::Ip6InCEPkts,
    }
}

/// The same for IPv6, with its extension headers.
#[inline(never)]
pub fn ipv6_rcv(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    net.counts.inc(id::Ip6InReceives);
    let len = pkt.len();
    net.counts.add_bytes(id::Ip6InOctets, len as u64);
    if net.knobs.disable_ipv6 {
        return Verdict::Drop(pkt, Reason::Ip6Disabled);
    }
    if pkt.head_len() < Ipv6Hdr::LEN && !pkt.may_pull(Ipv6Hdr::LEN) {
        return Verdict::Drop(pkt, Reason::Ip6Hdr);
    }
    let Ok(hdr) = Ipv6Hdr::parse(pkt.head()) else { return Verdict::Drop(pkt, Reason::Ip6Hdr) };
    net.counts.inc_by(ecn6(hdr.tclass), pkt.segs());
    if !addresses_ok(net, &pkt, hdr.src, hdr.dst) {
        return Verdict::Drop(pkt, Reason::Ip6Addr);
    }
    let total = Ipv6Hdr::LEN + hdr.payload_len as usize;
    if len != total {
        // A super-packet beyond 64 KiB says 0; jumbograms (RFC 2675) of a wire are not spoken.
        let whole = hdr.payload_len == 0 && pkt.gso.is_some_and(|g| g.kind == GsoKind::Tcp6);
        if hdr.payload_len == 0 && hdr.next_header == IPPROTO_HOPOPTS && !whole {
            return Verdict::Drop(pkt, Reason::Ip6Hdr);
        }
        if len < total || (pkt.gso.is_some() && !whole) {
            return Verdict::Drop(pkt, Reason::Ip6Truncated);
        }
        if !whole {
            pkt.trim(total);
        }
    }
    pkt.src = IpAddr::V6(hdr.src);
    pkt.dst = IpAddr::V6(hdr.dst);
    pkt.tos = hdr.tclass;
    pkt.ttl = hdr.hop_limit;
    pkt.df = true;
    let upper = match walk(pkt.head(), &hdr) {
        Ok(upper) => upper,
        Err(why) => match ext_again(net, &mut pkt, &hdr, why) {
            Ok(upper) => upper,
            Err(reason) => return Verdict::Drop(pkt, reason),
        },
    };
    pkt.ip_proto = upper.proto;
    pkt.frag = upper.frag.is_some();
    pkt.transport = pkt.network + upper.offset as u32;
    if hdr.dst.is_multicast() {
        net.counts.inc(id::Ip6InMcastPkts);
    }
    if !pkt.pull(upper.offset) {
        return Verdict::Drop(pkt, Reason::Ip6Hdr);
    }
    Verdict::Pass(pkt)
}

/// RFC 4291 §2.5.3, §2.7: what may not come from a wire.
#[inline]
fn addresses_ok(net: &Net, pkt: &Pkt, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
    if src.is_multicast() {
        return false;
    }
    let looped = || net.ifaces.get(pkt.dev as usize).is_none_or(|i| i.l2 == L2::Loopback);
    if (src.is_loopback() || dst.is_loopback()) && !looped() {
        return false;
    }
    // Scope 0 is reserved, scope 1 never leaves the node.
    match dst.octets() {
        [0xff, scope, ..] => match scope & 0xf {
            0 => false,
            1 => looped(),
            _ => true,
        },
        _ => true,
    }
}

/// The walk failed: headers may lie in fragments of the packet; otherwise the sender is told what
/// RFC 8200 says it must be told.
#[cold]
fn ext_again(
    net: &mut Net,
    pkt: &mut Pkt,
    hdr: &Ipv6Hdr,
    why: ExtError,
) -> Result<crate::wire::ipv6::Upper, Reason> {
    let mut why = why;
    if why == ExtError::Truncated && pkt.head_len() < pkt.len() {
        let reach = pkt.len().min(pkt.head_len() + pkt.tailroom());
        if pkt.may_pull(reach) {
            match walk(pkt.head(), hdr) {
                Ok(upper) => return Ok(upper),
                Err(again) => why = again,
            }
        }
    }
    match why {
        ExtError::Truncated | ExtError::TooMany => Err(Reason::Ip6Hdr),
        ExtError::Drop => Err(Reason::Ip6Option),
        ExtError::ParamProblem { code, pointer } => {
            let err = IcmpErr::ParamProblem { code: code as u8, pointer: pointer as u32 };
            icmp::icmp_send(net, pkt, err);
            Err(if code == ParamCode::UnkOption { Reason::Ip6Option } else { Reason::Ip6Hdr })
        }
    }
}
