//! Stage `Neigh`, TX: the link header, once the next hop's link address is known.
//!
//! before: [`crate::ip::frag`]   after: [`crate::tx::qdisc`]
//! Linux:  net/ipv4/ip_output.c `ip_finish_output2`, net/core/neighbour.c `neigh_output`, `neigh_resolve_output`
//! RFCs:   894, 1112 §6.4, 2464 §3 and §7
//! drops:  NeighFailed; [`super::neigh`] gives the others

use std::net::IpAddr;

use super::L2;
use super::neigh::{self, Found};
use crate::ip::route::RouteKind;
use crate::pkt::{Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, count::id};
use crate::wire::{ETH_P_8021Q, EthHdr, Mac, VlanTag};

/// Puts the link header in front; waits for the neighbour's address if it is not known yet.
#[inline(always)]
pub fn neigh_output(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    let v4 = pkt.nexthop.is_ipv4();
    net.counts.inc(if v4 { id::IpOutTransmits } else { id::Ip6OutTransmits });
    let Some(iface) = net.ifaces.get(pkt.dev as usize) else {
        return Verdict::Drop(pkt, Reason::NeighFailed);
    };
    if iface.l2 != L2::Ethernet {
        return link_output(net, pkt);
    }
    let own = iface.mac;
    if let Some(mac) = neigh::resolved(net, pkt.dev, pkt.nexthop) {
        eth_header(&mut pkt, own, mac);
        return link_output(net, pkt);
    }
    neigh_event_send(net, pkt, own)
}

/// A next hop that must be looked up, or asked for.
#[inline(never)]
fn neigh_event_send(net: &mut Net, mut pkt: Pkt, own: Mac) -> Verdict {
    let mac = match group_mac(net, pkt.nexthop) {
        Some(mac) => mac,
        None => match neigh::resolve(net, pkt) {
            Found::Mac(found, mac) => {
                pkt = found;
                mac
            }
            Found::No(verdict) => return verdict,
        },
    };
    eth_header(&mut pkt, own, mac);
    link_output(net, pkt)
}

/// A whole frame goes on to Qdisc, behind those that wait there.
#[inline]
fn link_output(net: &mut Net, pkt: Pkt) -> Verdict {
    if net.link_out.is_empty() {
        return Verdict::Pass(pkt);
    }
    net.link_out.push_back(pkt);
    Verdict::Queued
}

/// The link address of a group or of everybody; `None` for a single node.
#[inline]
fn group_mac(net: &Net, nexthop: IpAddr) -> Option<Mac> {
    match nexthop {
        IpAddr::V4(a) if a.is_multicast() => Some(Mac::from_ipv4_multicast(a)),
        IpAddr::V4(a) if a.is_broadcast() => Some(Mac::BROADCAST),
        IpAddr::V6(a) => a.is_multicast().then(|| Mac::from_ipv6_multicast(a)),
        IpAddr::V4(_) => {
            let route = net.fib.lookup(nexthop)?;
            (route.kind == RouteKind::Broadcast).then_some(Mac::BROADCAST)
        }
    }
}

/// Puts an Ethernet header in front, with the packet's VLAN tag if it has one.
#[inline(always)]
pub(crate) fn eth_header(pkt: &mut Pkt, src: Mac, dst: Mac) {
    let mut ethertype = pkt.proto;
    if let Some(tci) = pkt.vlan {
        VlanTag { tci, ethertype }.emit(pkt.push(VlanTag::LEN));
        ethertype = ETH_P_8021Q;
    }
    EthHdr { dst, src, ethertype }.emit(pkt.push(EthHdr::LEN));
}
