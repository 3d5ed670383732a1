//! Stage `Forward`, RX: a packet for somebody else goes on.
//!
//! before: [`crate::ip::route`]   after: [`crate::ip::frag`]
//! Linux:  net/ipv4/ip_forward.c `ip_forward`, net/ipv6/ip6_output.c `ip6_forward`
//! RFCs:   1812 §5.2–5.3, 1191 §4, 8200 §5, 4291 §2.5.6
//! drops:  TtlExceeded, HopLimitExceeded, ForwardTooBig, Forward6TooBig, ForwardScope

use std::net::IpAddr;

use linerate_arch::csum::csum_replace2;

use super::frag::{route_mtu, skb_gso_network_seglen};
use super::icmp::{self, IcmpErr};
use crate::pkt::{Csum, Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, count::id};

/// Takes one hop off and sends the packet on. A super-packet goes on whole: it is cut where it
/// leaves, if the device needs that.
pub fn ip_forward(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    let v4 = pkt.src.is_ipv4();
    if pkt.l2_multicast || !scope_ok(net, &pkt) {
        return Verdict::Drop(pkt, Reason::ForwardScope);
    }
    if pkt.ttl <= 1 {
        icmp::icmp_send(net, &pkt, IcmpErr::TimeExceeded);
        let reason = if v4 { Reason::TtlExceeded } else { Reason::HopLimitExceeded };
        return Verdict::Drop(pkt, reason);
    }
    // The route may have gone since the Route stage found it.
    let Some(route) = net.route_out_nosrc(pkt.dst).filter(|r| !r.local && !r.broadcast) else {
        return Verdict::Drop(pkt, Reason::ForwardScope);
    };
    let came_by = pkt.dev;
    let hlen = pkt.transport.saturating_sub(pkt.network) as usize;
    pkt.push(hlen);
    pkt.dev = route.dev;
    let mtu = route_mtu(net, &pkt);
    if skb_gso_network_seglen(&pkt) > mtu && (pkt.df || !v4) {
        pkt.dev = came_by;
        icmp::icmp_send(net, &pkt, IcmpErr::FragNeeded(mtu as u32));
        let reason = if v4 { Reason::ForwardTooBig } else { Reason::Forward6TooBig };
        return Verdict::Drop(pkt, reason);
    }
    decrease_ttl(&mut pkt, v4);
    pkt.nexthop = route.nexthop;
    pkt.vlan = None;
    if pkt.csum == Csum::Verified {
        // The checksum in the packet is whole, as it came.
        pkt.csum = Csum::None;
    }
    net.counts.inc(if v4 { id::IpForwDatagrams } else { id::Ip6OutForwDatagrams });
    let octets = if v4 { id::IpOutOctets } else { id::Ip6OutOctets };
    net.counts.add_bytes(octets, pkt.len() as u64);
    net.frag_out.push_back(pkt);
    Verdict::Queued
}

/// Whether both addresses mean the same on every link. For an IPv6 link-local source the sender is
/// told (RFC 4291 §2.5.6).
fn scope_ok(net: &mut Net, pkt: &Pkt) -> bool {
    match (pkt.src, pkt.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let narrow = |a: std::net::Ipv4Addr| a.is_loopback() || a.is_link_local();
            !narrow(src) && !narrow(dst) && !dst.is_multicast() && !src.is_unspecified()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            if src.is_unspecified() || src.is_loopback() || dst.is_loopback() || dst.is_multicast()
            {
                return false;
            }
            if src.is_unicast_link_local() || dst.is_unicast_link_local() {
                icmp::icmp_send(net, pkt, IcmpErr::NotNeighbour);
                return false;
            }
            true
        }
        _ => false,
    }
}

/// `ip_decrease_ttl`: the checksum is mended, not summed anew (RFC 1624).
fn decrease_ttl(pkt: &mut Pkt, v4: bool) {
    pkt.ttl -= 1;
    let ttl = pkt.ttl;
    let head = pkt.head_mut();
    if !v4 {
        if let Some(hop_limit) = head.get_mut(7) {
            *hop_limit = ttl;
        }
    } else if let Some(&mut [ref mut t, proto, ref mut c0, ref mut c1]) = head.get_mut(8..12) {
        let word = |t: u8| u16::from_be_bytes([t, proto]);
        let csum = csum_replace2(u16::from_be_bytes([*c0, *c1]), word(*t), word(ttl));
        *t = ttl;
        [*c0, *c1] = csum.to_be_bytes();
    }
}
