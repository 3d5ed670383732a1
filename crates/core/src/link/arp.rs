//! ARP: what neighbours say of themselves over IPv4, in the words of [`super::neigh`], and what we say.
//! Neighbour discovery has the same part over IPv6 ([`crate::ip::ndisc`]).
//!
//! before: [`super::input`]   after: [`super::neigh`]
//! Linux:  net/ipv4/arp.c `arp_process`, `arp_solicit`
//! RFCs:   826, 1122 §2.3.2, 5227
//! drops:  ArpInvalid

use std::net::{IpAddr, Ipv4Addr};

use super::L2;
use super::neigh::{Advert, Neighbour, Nud, neigh_event_ns, neigh_update};
use super::output::eth_header;
use crate::ip::route::made;
use crate::pkt::{Pkt, Verdict};
use crate::shard::Net;
use crate::table::{Reason, Stage};
use crate::wire::arp::{ARPOP_REPLY, ARPOP_REQUEST};
use crate::wire::{ArpHdr, ETH_P_ARP, Mac};

/// An ARP packet: learn from it, answer it (Linux: `arp_process`).
pub(super) fn arp_rcv(net: &mut Net, mut pkt: Pkt) -> Verdict {
    let arp = match pkt.may_pull(ArpHdr::LEN) {
        true => ArpHdr::parse(pkt.head()),
        false => return Verdict::Drop(pkt, Reason::ArpInvalid),
    };
    let Ok(arp) = arp else { return Verdict::Drop(pkt, Reason::ArpInvalid) };
    let known_op = matches!(arp.op, ARPOP_REQUEST | ARPOP_REPLY);
    let bad_target = arp.tpa.is_multicast() || arp.tpa.is_broadcast() || arp.tpa.is_loopback();
    if !known_op || bad_target || !arp.sha.is_valid() {
        return Verdict::Drop(pkt, Reason::ArpInvalid);
    }
    arp_process(net, &pkt, &arp);
    net.pool.free(pkt);
    Verdict::Taken
}

fn arp_process(net: &mut Net, pkt: &Pkt, arp: &ArpHdr) {
    let sender = IpAddr::V4(arp.spa);
    let asked = arp.op == ARPOP_REQUEST && arp_answers(net, pkt.dev, arp);
    let from_node = !arp.spa.is_unspecified() && !arp.spa.is_multicast() && !arp.spa.is_broadcast();
    // Whoever says to have our address is not believed.
    if from_node && !net.fib.is_local(sender) {
        let override_ = !net.neigh.get(pkt.dev, sender).is_some_and(|n| n.is_fresh(net.now));
        if asked {
            neigh_event_ns(net, pkt.dev, sender, arp.sha, override_);
        } else {
            let solicited = arp.op == ARPOP_REPLY && !pkt.l2_multicast;
            let said = Advert { mac: Some(arp.sha), solicited, override_ };
            neigh_update(net, pkt.dev, sender, said);
        }
    }
    if asked {
        let to = if arp.spa.is_unspecified() { Mac::BROADCAST } else { arp.sha };
        let mac = net.ifaces[pkt.dev as usize].mac;
        let (sha, spa, tha, tpa) = (mac, arp.tpa, arp.sha, arp.spa);
        let reply = ArpHdr { op: ARPOP_REPLY, sha, spa, tha, tpa };
        arp_xmit(net, Stage::Link, pkt.dev, pkt.vlan, to, &reply);
    }
}

/// Whether a request is for us: for an address of ours, or for any other than the asker's own where
/// we answer for all. An asker without an address probes whether the one it wants is free (RFC 5227
/// §2.1.1): only if that one is ours is it answered, lest the asker could never have an address.
fn arp_answers(net: &Net, dev: u8, arp: &ArpHdr) -> bool {
    let target = IpAddr::V4(arp.tpa);
    if net.fib.is_local(target) {
        return arp.spa != arp.tpa;
    }
    let Some(iface) = net.ifaces.get(dev as usize) else { return false };
    if !(iface.any_ip || iface.proxy_arp) || arp.spa == arp.tpa || arp.spa.is_unspecified() {
        return false;
    }
    // Another address of the asker itself.
    let same_node = |n: &Neighbour| n.mac() == arp.sha && n.state() != Nud::Failed;
    !arp.tpa.is_unspecified() && !net.neigh.get(dev, target).is_some_and(same_node)
}

/// Asks who has `target`: everybody, or the node that had it.
pub(super) fn arp_solicit(net: &mut Net, dev: u8, target: Ipv4Addr, known: Option<Mac>) {
    let Some(iface) = net.ifaces.get(dev as usize).filter(|i| i.l2 == L2::Ethernet) else { return };
    let sha = iface.mac;
    let spa = match net.select_source(dev, IpAddr::V4(target), None) {
        Some(IpAddr::V4(a)) => a,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let tha = known.unwrap_or(Mac::ZERO);
    let ask = ArpHdr { op: ARPOP_REQUEST, sha, spa, tha, tpa: target };
    arp_xmit(net, Stage::Neigh, dev, None, known.unwrap_or(Mac::BROADCAST), &ask);
}

/// Sends an ARP packet that `stage` makes.
fn arp_xmit(net: &mut Net, stage: Stage, dev: u8, vlan: Option<u16>, to: Mac, arp: &ArpHdr) {
    // Without memory the question is repeated anyway, and so is a peer's.
    let Some(mut pkt) = net.pool.alloc() else { return };
    arp.emit(pkt.put(ArpHdr::LEN));
    pkt.dev = dev;
    pkt.vlan = vlan;
    pkt.proto = ETH_P_ARP;
    pkt.network = pkt.data_offset();
    pkt.transport = pkt.network;
    eth_header(&mut pkt, arp.sha, to);
    made(net, stage);
    net.link_out.push_back(pkt);
}
