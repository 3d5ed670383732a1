//! Stage `Link`, RX: the frame's header, and whose packet it is.
//!
//! before: [`crate::rx::gro`]; if that is off, the device's ring or [`crate::rx::backlog`]   after: [`crate::ip::input`]
//! Linux:  net/ethernet/eth.c `eth_type_trans`, net/core/dev.c `__netif_receive_skb_core`,
//!         net/8021q/vlan_core.c `vlan_do_receive`, net/ipv4/arp.c `arp_rcv`
//! RFCs:   894, 2464, 826; IEEE 802.1Q
//! drops:  LinkTruncated, OtherHost, VlanUnknown, UnhandledProto

use super::{Iface, L2, arp};
use crate::pkt::{Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, count::id};
use crate::wire::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, EthHdr, VlanTag};

/// Takes the link header off and says which protocol follows.
#[inline(always)]
pub fn netif_receive_skb(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    if let Some(iface) = net.ifaces.get(pkt.dev as usize)
        && iface.l2 == L2::Ethernet
    {
        let Some(header) = pkt.pull_chunk::<{ EthHdr::LEN }>() else {
            return eth_in_frags(cx, pkt);
        };
        let Ok(eth) = EthHdr::parse(&header) else {
            return Verdict::Drop(pkt, Reason::LinkTruncated);
        };
        pkt.l2_multicast = eth.dst.is_multicast();
        if pkt.l2_multicast {
            if !eth.dst.is_broadcast() {
                net.counts.inc(id::DevRxMulticast);
            }
        } else if eth.dst != iface.mac && !net.knobs.promisc {
            return Verdict::Drop(pkt, Reason::OtherHost);
        }
        pkt.network = pkt.data_offset();
        pkt.proto = eth.ethertype;
        return match eth.ethertype {
            ETH_P_IP => Verdict::Pass(pkt),
            _ => eth_type_other(net, pkt, eth),
        };
    }
    // Bare IP. A packet that loops back has no device if there is no loopback device.
    pkt.network = pkt.data_offset();
    pkt.proto = match pkt.head().first().map(|b| b >> 4) {
        Some(4) => ETH_P_IP,
        Some(6) => ETH_P_IPV6,
        _ => return no_version(pkt),
    };
    Verdict::Pass(pkt)
}

/// A bare packet that does not begin with a version (Linux: `tun_get_user` refuses it). One without
/// a byte in its head may still have it in a fragment.
#[cold]
fn no_version(mut pkt: Pkt) -> Verdict {
    if !pkt.may_pull(1) {
        return Verdict::Drop(pkt, Reason::LinkTruncated);
    }
    pkt.proto = match pkt.head().first().map(|b| b >> 4) {
        Some(4) => ETH_P_IP,
        Some(6) => ETH_P_IPV6,
        _ => return Verdict::Drop(pkt, Reason::UnhandledProto),
    };
    Verdict::Pass(pkt)
}

/// A header that does not lie in the head, or not all of it.
#[cold]
#[inline(never)]
fn eth_in_frags(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    if !pkt.may_pull(EthHdr::LEN) {
        return Verdict::Drop(pkt, Reason::LinkTruncated);
    }
    netif_receive_skb(cx, pkt)
}

/// Everything but untagged IPv4.
#[inline(never)]
fn eth_type_other(net: &mut Net, pkt: Pkt, eth: EthHdr) -> Verdict {
    if eth.is_vlan() {
        return vlan_do_receive(net, pkt);
    }
    eth_type_trans(net, pkt, eth.ethertype)
}

/// The link header is off: what follows it decides who takes the packet.
fn eth_type_trans(net: &mut Net, mut pkt: Pkt, ethertype: u16) -> Verdict {
    pkt.network = pkt.data_offset();
    pkt.proto = ethertype;
    match ethertype {
        ETH_P_IP | ETH_P_IPV6 => Verdict::Pass(pkt),
        ETH_P_ARP => arp::arp_rcv(net, pkt),
        _ => Verdict::Drop(pkt, Reason::UnhandledProto),
    }
}

/// A frame with tags.
fn vlan_do_receive(net: &mut Net, mut pkt: Pkt) -> Verdict {
    let iface = net.ifaces.get(pkt.dev as usize);
    match iface.ok_or(Reason::VlanUnknown).and_then(|iface| vlan_untag(iface, &mut pkt)) {
        Ok(ethertype) => eth_type_trans(net, pkt, ethertype),
        Err(reason) => Verdict::Drop(pkt, reason),
    }
}

/// Takes off the tags: a service tag (802.1ad) and the customer's behind it. VLAN 0 is a priority
/// only; every other must exist.
fn vlan_untag(iface: &Iface, pkt: &mut Pkt) -> Result<u16, Reason> {
    let mut ethertype = 0;
    // A frame may bear two tags; a third is nobody's.
    for _ in 0..2 {
        if !pkt.may_pull(VlanTag::LEN) {
            return Err(Reason::LinkTruncated);
        }
        let tag = VlanTag::parse(pkt.head()).map_err(|_| Reason::LinkTruncated)?;
        if tag.vid() != 0 && !iface.vlans.contains(&tag.vid()) {
            return Err(Reason::VlanUnknown);
        }
        if tag.vid() != 0 {
            pkt.vlan = Some(tag.tci);
        }
        let pulled = pkt.pull(VlanTag::LEN);
        debug_assert!(pulled, "the tag was parsed, so it lies in the head");
        ethertype = tag.ethertype;
        if !matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD) {
            break;
        }
    }
    Ok(ethertype)
}
