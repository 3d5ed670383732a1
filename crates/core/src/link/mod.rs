#![doc = include_str!("README.md")]

mod arp;
pub mod input;
pub mod neigh;
pub mod output;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pkt::Pkt;
use crate::wire::Mac;

/// What a device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L2 {
    /// Ethernet frames.
    Ethernet,
    /// Bare IP packets (TUN).
    Ip,
    /// Bare IP packets that never leave: what is sent is received (`lo`).
    Loopback,
}

/// What a device can do by itself (Linux: `netdev_features_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Completes transport checksums on sending (`tx-checksumming`).
    pub tx_csum: bool,
    /// Takes TCP super-packets over IPv4 (`tx-tcp-segmentation`).
    pub tso4: bool,
    /// Takes TCP super-packets over IPv6 (`tx-tcp6-segmentation`).
    pub tso6: bool,
    /// Takes UDP super-packets (`tx-udp-segmentation`).
    pub uso: bool,
}

/// Packets on their way into the device.
pub type TxRing = VecDeque<Pkt>;

/// One transmit queue of a device, with its queueing discipline (Linux: `struct netdev_queue`).
#[derive(Default)]
pub struct TxQueue {
    /// What waits for room in the ring, or for its time.
    pub qdisc: crate::tx::qdisc::Root,
    /// Bytes of what waits in `pfifo_fast`.
    pub bytes: usize,
    /// Packets that left the discipline, those with them that it dropped after it had taken them.
    pub sent: u64,
    /// Bytes that left the discipline.
    pub sent_bytes: u64,
    /// Packets that the discipline dropped.
    pub drops: u64,
    /// What the device takes next.
    pub ring: TxRing,
    /// How many bytes the ring and the device may have.
    pub dql: crate::tx::dql::Dql,
    /// Times that its device took nothing for [`crate::tx::xmit::WATCHDOG_TIMEO`] while packets waited
    /// (`queues/tx-N/tx_timeout`).
    pub tx_timeout: u64,
}

impl TxQueue {
    /// So many packets with so many bytes left the discipline.
    #[inline]
    pub(crate) fn left(&mut self, pkts: usize, bytes: usize) {
        self.bytes -= bytes;
        self.sent += pkts as u64;
        self.sent_bytes += bytes as u64;
    }
}

/// A device as the stack sees it (Linux: `struct net_device`).
pub struct Iface {
    /// Its name.
    pub name: String,
    /// What it carries.
    pub l2: L2,
    /// Its address.
    pub mac: Mac,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// What it can do by itself.
    pub features: Features,
    /// The largest super-packet that it takes, in bytes (`gso_max_size`).
    pub gso_max_size: u32,
    /// The addresses of this device with their prefix lengths.
    pub addrs: Vec<(IpAddr, u8)>,
    /// Every destination counts as local on this device (`ip route add local 0.0.0.0/0`): what a
    /// gateway that terminates connections needs.
    pub any_ip: bool,
    /// Neighbour solicitations for any address but the asker's are answered (`proxy_arp`).
    pub proxy_arp: bool,
    /// Neighbours are learnt from whatever they send us: answers to questions of ours go to somebody
    /// else, because the kernel has the same address (AF_XDP that shares one).
    pub glean: bool,
    /// Groups that were joined here, beside those that every node is in.
    pub groups: Vec<IpAddr>,
    /// Somebody on the link asked for a router; see
    /// [`Shard::take_router_solicit`](crate::shard::Shard::take_router_solicit).
    pub router_solicited: bool,
    /// VLANs that exist here; tags of others are dropped (`VlanUnknown`).
    pub vlans: Vec<u16>,
    /// Whether it hands its packets to the backlog instead of NAPI.
    pub netif_rx: bool,
    /// Its XDP program; set by [`Shard::attach_xdp`](crate::shard::Shard::attach_xdp).
    pub xdp: Option<crate::rx::xdp::Attached>,
    /// Its rules at ingress; changed by [`Shard::tc_filter`](crate::shard::Shard::tc_filter).
    pub ingress: crate::rx::ingress::Chain,
    /// What its transmit queues were given as their discipline; `None` = what they have anyway.
    pub qdisc: Option<crate::tx::qdisc::Tree>,
    /// The discipline between the device and the path, on receive.
    pub rx_qdisc: Option<Box<crate::tx::qdisc::Sched>>,
    /// Its transmit queues; at least one.
    pub txqs: Vec<TxQueue>,
    /// Packets read from the device.
    pub rx_packets: u64,
    /// Bytes read from the device.
    pub rx_bytes: u64,
    /// Packets that the device took.
    pub tx_packets: u64,
    /// Bytes that the device took.
    pub tx_bytes: u64,
}

impl Iface {
    /// A device without addresses, features, VLANs.
    pub fn new(name: &str, l2: L2, mac: Mac, mtu: u32) -> Iface {
        Iface {
            name: name.to_owned(),
            l2,
            mac,
            mtu,
            features: Features::default(),
            gso_max_size: 65536,
            addrs: Vec::new(),
            any_ip: false,
            proxy_arp: false,
            glean: false,
            groups: Vec::new(),
            router_solicited: false,
            vlans: Vec::new(),
            netif_rx: false,
            xdp: None,
            ingress: Default::default(),
            qdisc: None,
            rx_qdisc: None,
            txqs: vec![TxQueue::default()],
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
        }
    }
    /// Packets that its transmit queues refused.
    pub fn qdisc_drops(&self) -> u64 {
        self.txqs.iter().map(|q| q.drops).sum()
    }
    /// Whether `addr` is one of this device's own.
    pub fn owns(&self, addr: IpAddr) -> bool {
        self.addrs.iter().any(|(a, _)| *a == addr)
    }
    /// Whether packets to the group are for us: all nodes, the solicited-node groups of our
    /// addresses (of all, if we answer for all), and what was joined.
    pub fn joined(&self, group: IpAddr) -> bool {
        match group {
            IpAddr::V4(g) if g == Ipv4Addr::new(224, 0, 0, 1) => true,
            IpAddr::V6(g) if g == ALL_NODES || g == ALL_NODES_INTERFACE => true,
            IpAddr::V6(g) if g.to_bits() >> 24 == SOLICITED_NODE >> 24 => {
                let low = |a: u128| a & 0x00ff_ffff;
                let mine = |a: &IpAddr| match a {
                    IpAddr::V6(a) => low(a.to_bits()) == low(g.to_bits()),
                    IpAddr::V4(_) => false,
                };
                self.any_ip || self.proxy_arp || self.addrs.iter().any(|(a, _)| mine(a))
            }
            _ => self.groups.contains(&group),
        }
    }
    /// Whether the group is one of those that routers are in, on this link.
    pub fn router_group(&self, group: Ipv6Addr) -> bool {
        // All routers (RFC 4291 §2.7.1), and where listeners report (RFC 3810 §5.2.14).
        [ALL_ROUTERS, MLD2_ROUTERS].contains(&group)
    }
}

/// All nodes of the link (RFC 4291 §2.7.1).
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_INTERFACE: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const MLD2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const SOLICITED_NODE: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;

/// The group in which whoever has `addr` listens for solicitations (RFC 4291 §2.7.1; Linux:
/// `addrconf_addr_solict_mult`).
pub(crate) fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from(SOLICITED_NODE | (addr.to_bits() & 0x00ff_ffff))
}

#[cfg(test)]
mod tests;
