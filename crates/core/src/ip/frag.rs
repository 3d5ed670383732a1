//! Stage `Frag`, TX: does the packet fit the path? If not, it is split or refused.
//!
//! before: [`crate::ip::output`], [`crate::ip::forward`]   after: [`crate::link::output`]
//! Linux:  net/ipv4/ip_output.c `ip_finish_output`, `ip_fragment`, `ip_do_fragment`; net/ipv6/ip6_output.c `ip6_fragment`
//! RFCs:   791 §3.2, 1191 §4, 8200 §4.5 and §5
//! drops:  FragNeeded, Frag6Needed

use super::icmp::{self, IcmpErr};
use crate::pkt::{LARGE, Pkt, SMALL, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, Stage, count::id};
use crate::wire::{ETH_P_IP, FragHdr, IPPROTO_FRAGMENT, IPPROTO_UDP, Ipv4Hdr, Ipv6Hdr};

/// Passes what fits; splits what does not and may be split.
#[inline(always)]
pub fn ip_finish_output(cx: &mut Shard, pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    let mtu = path_mtu(net, &pkt);
    if skb_gso_network_seglen(&pkt) > mtu {
        return too_big(net, pkt, mtu);
    }
    if net.neigh_out.is_empty() {
        return Verdict::Pass(pkt);
    }
    net.neigh_out.push_back(pkt);
    Verdict::Queued
}

/// The largest packet that the way to this packet's destination takes, in bytes, as far as is known.
#[inline(always)]
fn path_mtu(net: &Net, pkt: &Pkt) -> usize {
    if net.fib.has_mtu() || net.icmp.knows_pmtu() {
        return known_mtu(net, pkt);
    }
    net.ifaces.get(pkt.dev as usize).map_or(super::route::LOOPBACK_MTU, |i| i.mtu) as usize
}

/// The same where a route has an MTU, or one was learnt.
#[inline(never)]
fn known_mtu(net: &Net, pkt: &Pkt) -> usize {
    let mtu = route_mtu(net, pkt);
    net.icmp.pmtu(pkt.dst, net.now).map_or(mtu, |m| mtu.min(m as usize))
}

/// The largest packet that the device and the route take, in bytes.
#[inline]
pub(crate) fn route_mtu(net: &Net, pkt: &Pkt) -> usize {
    let mut mtu = net.ifaces.get(pkt.dev as usize).map_or(super::route::LOOPBACK_MTU, |i| i.mtu);
    if net.fib.has_mtu() {
        mtu = net.fib.lookup(pkt.dst).and_then(|r| r.mtu).map_or(mtu, |m| m.min(mtu));
    }
    mtu as usize
}

/// The length of the packet, or of the largest that a super-packet is cut into, in bytes.
#[inline]
pub(crate) fn skb_gso_network_seglen(pkt: &Pkt) -> usize {
    let Some(gso) = pkt.gso else { return pkt.len() };
    let transport = match pkt.ip_proto {
        IPPROTO_UDP => 8,
        _ => pkt.from_transport().get(12).map_or(20, |b| usize::from(b >> 4) * 4),
    };
    (pkt.transport.saturating_sub(pkt.network)) as usize + transport + gso.size as usize
}

#[cold]
fn too_big(net: &mut Net, mut pkt: Pkt, mtu: usize) -> Verdict {
    let v4 = pkt.proto == ETH_P_IP;
    // What was learnt of a path is told to its own senders, not used on those of others (Linux:
    // `ip_forward_use_pmtu` is off).
    let others = !net.fib.is_local(pkt.src);
    if others && skb_gso_network_seglen(&pkt) <= route_mtu(net, &pkt) {
        net.neigh_out.push_back(pkt);
        return Verdict::Queued;
    }
    let reason = if v4 { Reason::FragNeeded } else { Reason::Frag6Needed };
    // IPv6 packets of ours are split; those of others were refused by Forward. A super-packet whose
    // segments are too long is cut anew by the transport, which must hear of it.
    if pkt.gso.is_some() || (v4 && pkt.df) || !may_split(&pkt) {
        icmp::icmp_send_from_tx(net, &pkt, IcmpErr::FragNeeded(mtu as u32));
        return Verdict::Drop(pkt, reason);
    }
    if !pkt.csum_complete(0) {
        return Verdict::Drop(pkt, reason);
    }
    let split = if v4 { ip_do_fragment(net, &pkt, mtu) } else { ip6_fragment(net, &pkt, mtu) };
    match split {
        Some(pieces) => {
            net.counts.inc(if v4 { id::IpFragOKs } else { id::Ip6FragOKs });
            net.counts.inc_by(if v4 { id::IpFragCreates } else { id::Ip6FragCreates }, pieces);
            net.pool.free(pkt);
            Verdict::Taken
        }
        None => Verdict::Drop(pkt, reason),
    }
}

/// TCP over IPv6 adapts its segments instead; everything else of ours may be split at the source.
fn may_split(pkt: &Pkt) -> bool {
    pkt.proto == ETH_P_IP || !pkt.df
}

/// Splits an IPv4 packet; returns how many fragments were made, `None` if memory ran out or the MTU
/// leaves no room.
fn ip_do_fragment(net: &mut Net, pkt: &Pkt, mtu: usize) -> Option<u64> {
    let whole = Ipv4Hdr::parse(pkt.head()).ok()?;
    let hlen = whole.ihl_bytes;
    // Options that are not to be copied become no-ops in all fragments but the first.
    let mut header = [0u8; 60];
    header.get_mut(..hlen)?.copy_from_slice(pkt.head().get(..hlen)?);
    let room = mtu.checked_sub(hlen)? & !7;
    if room == 0 {
        return None;
    }
    let payload = pkt.len() - hlen;
    let (mut at, mut pieces) = (0, 0);
    while at < payload {
        let len = room.min(payload - at);
        let mut piece = piece_of(net, pkt, hlen, hlen + at, len)?;
        let hdr = Ipv4Hdr {
            total_len: u16::try_from(hlen + len).ok()?,
            mf: whole.mf || at + len < payload,
            frag_off_bytes: whole.frag_off_bytes.checked_add(at as u16)?,
            df: false,
            ..whole
        };
        let head = piece.head_mut().get_mut(..hlen)?;
        head.copy_from_slice(&header[..hlen]);
        hdr.emit(head);
        push_piece(net, piece);
        if at == 0 {
            ip_options_fragment(&mut header[Ipv4Hdr::LEN..hlen]);
        }
        at += len;
        pieces += 1;
    }
    Some(pieces)
}

/// RFC 791 §3.1: only options whose copied bit is set appear in later fragments.
fn ip_options_fragment(options: &mut [u8]) {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        match kind {
            0 => return,
            1 => at += 1,
            _ => {
                let len = options.get(at + 1).map_or(0, |l| *l as usize);
                let Some(option) = options.get_mut(at..at + len).filter(|o| o.len() >= 2) else {
                    return;
                };
                if kind & 0x80 == 0 {
                    option.fill(1);
                }
                at += len;
            }
        }
    }
}

/// Splits an IPv6 packet of ours, which has no extension headers.
fn ip6_fragment(net: &mut Net, pkt: &Pkt, mtu: usize) -> Option<u64> {
    let whole = Ipv6Hdr::parse(pkt.head()).ok()?;
    let hlen = Ipv6Hdr::LEN + FragHdr::LEN;
    let room = mtu.checked_sub(hlen)? & !7;
    if room == 0 {
        return None;
    }
    let id = net.icmp.idents.next(pkt, net.now.ms());
    let payload = pkt.len() - Ipv6Hdr::LEN;
    let (mut at, mut pieces) = (0, 0);
    while at < payload {
        let len = room.min(payload - at);
        let mut piece = piece_of(net, pkt, hlen, Ipv6Hdr::LEN + at, len)?;
        let head = piece.head_mut();
        let payload_len = u16::try_from(FragHdr::LEN + len).ok()?;
        Ipv6Hdr { payload_len, next_header: IPPROTO_FRAGMENT, ..whole }.emit(head);
        let mf = at + len < payload;
        let (next_header, frag_off_bytes) = (whole.next_header, u16::try_from(at).ok()?);
        FragHdr { next_header, frag_off_bytes, mf, id }.emit(head.get_mut(Ipv6Hdr::LEN..)?);
        push_piece(net, piece);
        at += len;
        pieces += 1;
    }
    Some(pieces)
}

/// A packet with `hlen` bytes of header, to be written, and a copy of `len` bytes of `whole`.
fn piece_of(net: &mut Net, whole: &Pkt, hlen: usize, from: usize, len: usize) -> Option<Pkt> {
    let mut piece = net.pool.alloc()?;
    if hlen + len <= piece.tailroom() {
        debug_assert!(piece.tailroom() <= SMALL, "a head is a small buffer");
        piece.put(hlen);
        whole.copy_bits(from, piece.put(len));
    } else {
        debug_assert!(len <= LARGE, "a fragment fits a large buffer");
        let Some(mut buf) = net.pool.alloc_large() else {
            net.pool.free(piece);
            return None;
        };
        whole.copy_bits(from, &mut buf[..len]);
        piece.put(hlen);
        piece.add_buf(buf, 0, len);
    }
    piece.src = whole.src;
    piece.dst = whole.dst;
    piece.proto = whole.proto;
    piece.ip_proto = whole.ip_proto;
    piece.tos = whole.tos;
    piece.ttl = whole.ttl;
    piece.mark = whole.mark;
    piece.vlan = whole.vlan;
    piece.dev = whole.dev;
    piece.nexthop = whole.nexthop;
    piece.trace = whole.trace;
    piece.frag = true;
    piece.network = piece.data_offset();
    piece.transport = piece.network + hlen as u32;
    Some(piece)
}

fn push_piece(net: &mut Net, piece: Pkt) {
    super::route::made(net, Stage::Frag);
    net.neigh_out.push_back(piece);
}
