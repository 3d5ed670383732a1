//! Neighbour discovery, both ways: solicitations, advertisements, and what routers say.
//!
//! before: [`crate::ip::icmp::input`]   after: [`crate::link::neigh`], the device's queue
//! Linux:  net/ipv6/ndisc.c `ndisc_recv_ns`, `ndisc_recv_na`, `ndisc_send_ns`, `ndisc_send_na`
//! RFCs:   4861 §4, §6.1, §7; 4862 §5.4; 8106 §5.1
//! drops:  NdInvalid

use std::net::{IpAddr, Ipv6Addr};

use super::route::made;
use crate::link::neigh::{Advert, neigh_event_ns, neigh_update};
use crate::link::output::eth_header;
use crate::link::{ALL_NODES, L2, solicited_node};
use crate::pkt::{Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, Stage, count::id};
use crate::wire::icmpv6::{
    NDISC_NEIGHBOUR_ADVERTISEMENT, NDISC_NEIGHBOUR_SOLICITATION, NDISC_REDIRECT,
    NDISC_ROUTER_ADVERTISEMENT, NDISC_ROUTER_SOLICITATION,
};
use crate::wire::{ETH_P_IPV6, IPPROTO_ICMPV6, Ipv6Hdr, Mac, NdMsg, NdOpt};

/// Hop limit of every message: proof that no router has passed it on (RFC 4861 §3.1).
const HOP_LIMIT: u8 = 255;
/// As much of a message as is read.
const LOOK: usize = 1280;

/// A message of neighbour discovery whose checksum was verified.
pub(crate) fn ndisc_rcv(net: &mut Net, mut pkt: Pkt) -> Verdict {
    let kind = pkt.head().first().copied().unwrap_or_default();
    net.counts.inc(match kind {
        NDISC_ROUTER_SOLICITATION => id::Icmp6InRouterSolicits,
        NDISC_ROUTER_ADVERTISEMENT => id::Icmp6InRouterAdvertisements,
        NDISC_NEIGHBOUR_SOLICITATION => id::Icmp6InNeighborSolicits,
        NDISC_NEIGHBOUR_ADVERTISEMENT => id::Icmp6InNeighborAdvertisements,
        _ => id::Icmp6InRedirects,
    });
    let look = pkt.len().min(LOOK);
    if pkt.ttl != HOP_LIMIT || !pkt.may_pull(look) {
        return Verdict::Drop(pkt, Reason::NdInvalid);
    }
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (pkt.src, pkt.dst) else {
        return Verdict::Drop(pkt, Reason::NdInvalid);
    };
    let (mut source, mut target_mac) = (None, None);
    let msg = match NdMsg::parse(pkt.head()) {
        Ok((msg, options)) => {
            for option in options {
                match option {
                    Ok(NdOpt::SourceLinkAddr(mac)) => source = Some(mac),
                    Ok(NdOpt::TargetLinkAddr(mac)) => target_mac = Some(mac),
                    Ok(_) => {}
                    Err(_) => return Verdict::Drop(pkt, Reason::NdInvalid),
                }
            }
            msg
        }
        Err(_) => return Verdict::Drop(pkt, Reason::NdInvalid),
    };
    let on_ethernet = net.ifaces.get(pkt.dev as usize).is_some_and(|i| i.l2 == L2::Ethernet);
    match msg {
        // RFC 4861 §7.1.1: a probe for a duplicate address goes to the group, without a link address.
        NdMsg::NeighbourSolicit { target } => {
            let group = dst.is_multicast();
            let bad = src.is_unspecified()
                && (source.is_some() || !group || dst != solicited_node(target));
            if bad || source.is_some_and(|m| !m.is_valid()) {
                return Verdict::Drop(pkt, Reason::NdInvalid);
            }
            if on_ethernet {
                ndisc_recv_ns(net, &pkt, src, target, source);
            }
        }
        NdMsg::NeighbourAdvert { solicited, override_, target, .. } => {
            if (solicited && dst.is_multicast()) || target_mac.is_some_and(|m| !m.is_valid()) {
                return Verdict::Drop(pkt, Reason::NdInvalid);
            }
            let target = IpAddr::V6(target);
            // Whoever says to have our address is not believed.
            if on_ethernet && !net.fib.is_local(target) {
                let said = Advert { mac: target_mac, solicited, override_ };
                neigh_update(net, pkt.dev, target, said);
            }
        }
        NdMsg::RouterSolicit if src.is_unspecified() && source.is_some() => {
            return Verdict::Drop(pkt, Reason::NdInvalid);
        }
        NdMsg::RouterSolicit => {
            if let (true, Some(mac)) = (on_ethernet, source.filter(|m| m.is_valid())) {
                neigh_event_ns(net, pkt.dev, IpAddr::V6(src), mac, true);
            }
            net.router_solicited(pkt.dev);
        }
        // Addresses and routes here are set by the owner of the stack: advertisements and
        // redirects are checked and counted.
        NdMsg::RouterAdvert { .. } | NdMsg::Redirect { .. } => {
            if !src.is_unicast_link_local() {
                return Verdict::Drop(pkt, Reason::NdInvalid);
            }
        }
    }
    debug_assert!(kind <= NDISC_REDIRECT, "the caller chose messages of neighbour discovery");
    net.pool.free(pkt);
    Verdict::Taken
}

/// Somebody asks for an address.
fn ndisc_recv_ns(net: &mut Net, pkt: &Pkt, src: Ipv6Addr, target: Ipv6Addr, source: Option<Mac>) {
    let ours = net.fib.is_local(IpAddr::V6(target));
    if !ours && !nd_proxied(net, pkt.dev, src, target, source) {
        return;
    }
    let dad = src.is_unspecified();
    if let (false, Some(mac)) = (dad, source) {
        neigh_event_ns(net, pkt.dev, IpAddr::V6(src), mac, true);
    }
    let to = if dad { ALL_NODES } else { src };
    let known = net.neigh.get(pkt.dev, IpAddr::V6(src)).map(|n| n.mac());
    let to_mac = if dad { Some(Mac::from_ipv6_multicast(ALL_NODES)) } else { source.or(known) };
    // An asker without a link address, of whom we know none, is asked by the next packet to it.
    let Some(to_mac) = to_mac.filter(|m| *m != Mac::ZERO) else { return };
    let own = net.ifaces[pkt.dev as usize].mac;
    let router = net.knobs.ip6_forward || net.ifaces[pkt.dev as usize].any_ip;
    // RFC 4861 §7.2.4: who answers for others does not replace what the asker knows.
    let msg = NdMsg::NeighbourAdvert { router, solicited: !dad, override_: ours, target };
    let options = [NdOpt::TargetLinkAddr(own)];
    net.counts.inc(id::Icmp6OutNeighborAdvertisements);
    let how = Nd { dev: pkt.dev, vlan: pkt.vlan, src: target, dst: to, mac: to_mac };
    nd_xmit(net, Stage::Transport, how, msg, &options, &[]);
}

/// Whether we answer for an address that is not ours: never to a probe for duplicates, which would
/// keep the asker from having any address, and never for the asker's own.
fn nd_proxied(net: &Net, dev: u8, src: Ipv6Addr, target: Ipv6Addr, source: Option<Mac>) -> bool {
    let Some(iface) = net.ifaces.get(dev as usize) else { return false };
    if !iface.proxy_arp || src.is_unspecified() || src == target {
        return false;
    }
    let same_node = |m: Mac| Some(m) == source;
    !net.neigh.get(dev, IpAddr::V6(target)).is_some_and(|n| same_node(n.mac()))
}

/// Asks who has `target`: the group in which it listens, or the node that had it.
pub(crate) fn ndisc_solicit(net: &mut Net, dev: u8, target: Ipv6Addr, known: Option<Mac>) {
    let Some(iface) = net.ifaces.get(dev as usize).filter(|i| i.l2 == L2::Ethernet) else { return };
    let own = iface.mac;
    let dst = if known.is_some() { target } else { solicited_node(target) };
    let src = match net.select_source(dev, IpAddr::V6(target), None) {
        Some(IpAddr::V6(a)) => a,
        // Without an address nobody could answer us.
        _ => return,
    };
    net.counts.inc(id::Icmp6OutNeighborSolicits);
    let mac = known.unwrap_or_else(|| Mac::from_ipv6_multicast(dst));
    let how = Nd { dev, vlan: None, src, dst, mac };
    let msg = NdMsg::NeighbourSolicit { target };
    nd_xmit(net, Stage::Neigh, how, msg, &[NdOpt::SourceLinkAddr(own)], &[]);
}

/// Where a message of neighbour discovery goes.
struct Nd {
    dev: u8,
    vlan: Option<u16>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    mac: Mac,
}

/// Builds a message that `stage` makes and hands it to the device's queue: its next hop needs no
/// look-up. `raw` are options that the table of known ones does not have.
fn nd_xmit(net: &mut Net, stage: Stage, how: Nd, msg: NdMsg, options: &[NdOpt], raw: &[u8]) {
    let Some(iface) = net.ifaces.get(how.dev as usize) else { return };
    let (own, l2) = (iface.mac, iface.l2);
    // Without memory the question is repeated anyway, and so is a peer's.
    let Some(mut pkt) = net.pool.alloc() else { return };
    let fixed = msg.len_bytes();
    let known: usize = options.iter().map(NdOpt::len_bytes).sum();
    let len = fixed + known + raw.len();
    let message = pkt.put(len);
    message.fill(0);
    let mut at = fixed;
    for option in options {
        at += option.emit(&mut message[at..]);
    }
    message[at..].copy_from_slice(raw);
    msg.emit(message, how.src, how.dst);
    let hdr = Ipv6Hdr {
        tclass: 0,
        flow_label: 0,
        payload_len: len as u16,
        next_header: IPPROTO_ICMPV6,
        hop_limit: HOP_LIMIT,
        src: how.src,
        dst: how.dst,
    };
    pkt.transport = pkt.data_offset();
    hdr.emit(pkt.push(Ipv6Hdr::LEN));
    pkt.network = pkt.data_offset();
    pkt.proto = ETH_P_IPV6;
    pkt.ip_proto = IPPROTO_ICMPV6;
    (pkt.src, pkt.dst, pkt.nexthop) = (how.src.into(), how.dst.into(), how.dst.into());
    pkt.ttl = HOP_LIMIT;
    pkt.dev = how.dev;
    pkt.vlan = how.vlan;
    net.counts.inc(id::Icmp6OutMsgs);
    net.counts.inc(id::Ip6OutRequests);
    net.counts.inc(id::Ip6OutTransmits);
    net.counts.add_bytes(id::Ip6OutOctets, pkt.len() as u64);
    if how.dst.is_multicast() {
        net.counts.inc(id::Ip6OutMcastPkts);
    }
    if l2 == L2::Ethernet {
        eth_header(&mut pkt, own, how.mac);
    }
    made(net, stage);
    net.link_out.push_back(pkt);
}

/// What a router says of itself (RFC 4861 §4.2, RFC 8106 §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterAdvert {
    /// How long we are a default router, in seconds; 0 = we are none.
    pub lifetime_s: u16,
    /// Prefixes of the link from which addresses may be formed.
    pub prefixes: Vec<(Ipv6Addr, u8)>,
    /// How long the prefixes are valid, in seconds.
    pub prefix_lifetime_s: u32,
    /// MTU of the link in bytes; 0 says nothing.
    pub mtu: u32,
    /// Recursive DNS servers.
    pub rdnss: Vec<Ipv6Addr>,
}

/// Most prefixes, and most DNS servers, of one advertisement: they fit every link's packet.
const RA_MAX: usize = 8;

impl Shard {
    /// Sends a router advertisement to all nodes of the link of `dev`, from its link-local address.
    /// False if the device has none. At most eight prefixes and eight servers are sent.
    pub fn send_ra(&mut self, dev: u8, ra: &RouterAdvert) -> bool {
        let net = &mut self.net;
        let Some(iface) = net.ifaces.get(dev as usize) else { return false };
        let own = iface.mac;
        let src = iface.addrs.iter().find_map(|(a, _)| match a {
            IpAddr::V6(a) if a.is_unicast_link_local() => Some(*a),
            _ => None,
        });
        let Some(src) = src else { return false };
        let msg = NdMsg::RouterAdvert {
            hop_limit: net.knobs.hop_limit as u8,
            managed: false,
            other: false,
            lifetime_s: ra.lifetime_s,
            reachable_ms: 0,
            retrans_ms: 0,
        };
        let mut options = Vec::new();
        if iface.l2 == L2::Ethernet {
            options.push(NdOpt::SourceLinkAddr(own));
        }
        if ra.mtu != 0 {
            options.push(NdOpt::Mtu(ra.mtu));
        }
        for (prefix, len_bits) in ra.prefixes.iter().take(RA_MAX) {
            let (valid_s, preferred_s) = (ra.prefix_lifetime_s, ra.prefix_lifetime_s);
            let (on_link, autonomous, prefix) = (true, *len_bits == 64, *prefix);
            let len_bits = *len_bits;
            options.push(NdOpt::Prefix {
                len_bits,
                on_link,
                autonomous,
                valid_s,
                preferred_s,
                prefix,
            });
        }
        let raw = rdnss_option(&ra.rdnss, ra.prefix_lifetime_s);
        net.counts.inc(id::Icmp6OutRouterAdvertisements);
        let mac = Mac::from_ipv6_multicast(ALL_NODES);
        let how = Nd { dev, vlan: None, src, dst: ALL_NODES, mac };
        nd_xmit(net, Stage::Send, how, msg, &options, &raw);
        true
    }

    /// The next device on whose link somebody asked for a router since this was last called.
    pub fn take_router_solicit(&mut self) -> Option<u8> {
        let net = &mut self.net;
        let dev = net.ifaces.iter().position(|i| i.router_solicited)?;
        net.ifaces[dev].router_solicited = false;
        Some(dev as u8)
    }
}

/// RFC 8106 §5.1; empty if there is no server.
fn rdnss_option(servers: &[Ipv6Addr], lifetime_s: u32) -> Vec<u8> {
    let n = servers.len().min(RA_MAX);
    if n == 0 {
        return Vec::new();
    }
    let mut option = vec![25, 1 + 2 * n as u8, 0, 0];
    option.extend_from_slice(&lifetime_s.to_be_bytes());
    for server in servers.iter().take(n) {
        option.extend_from_slice(&server.octets());
    }
    option
}

impl Net {
    fn router_solicited(&mut self, dev: u8) {
        if let Some(iface) = self.ifaces.get_mut(dev as usize) {
            iface.router_solicited = true;
        }
    }
}
