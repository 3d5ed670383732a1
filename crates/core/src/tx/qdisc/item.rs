//! What a discipline must know of a packet (Linux: `struct qdisc_skb_cb`).
//!
//! Linux: include/net/sch_generic.h `qdisc_pkt_len`, net/core/dev.c `qdisc_pkt_len_init`,
//!        net/ipv4/route.c `ip_tos2prio`, include/net/inet_ecn.h `INET_ECN_set_ce`
//! RFCs:  1349, 3168 §5, 1624 §3 (the checksum)

use crate::pkt::{GsoKind, Pkt, Skb};
use crate::rand::Keyed;
use crate::rx::steer::hash::{FlowKeys, dissect};
use crate::time::Instant;
use crate::wire::{ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP, IPPROTO_UDP};

/// A packet that waits in a discipline.
pub struct Item {
    /// The packet.
    pub pkt: Pkt,
    /// Its bytes as the wire will carry them: [`qdisc_pkt_len`].
    pub len: u32,
    /// When it came.
    pub time: Instant,
}

impl Item {
    /// `pkt`, which came at `time`.
    #[inline]
    pub fn new(pkt: Pkt, time: Instant) -> Item {
        Item { len: qdisc_pkt_len(&pkt), pkt, time }
    }
}

/// Bytes of a packet as the wire will carry them: each segment of a super-packet has headers of its
/// own there.
#[inline]
pub fn qdisc_pkt_len(pkt: &Skb) -> u32 {
    if pkt.gso.is_none() { pkt.len() as u32 } else { super_packet_len(pkt) }
}

fn super_packet_len(pkt: &Skb) -> u32 {
    let len = pkt.len() as u32;
    let Some(gso) = pkt.gso else { return len };
    let before = pkt.transport.saturating_sub(pkt.data_offset());
    let l4 = match gso.kind {
        GsoKind::Udp => 8,
        GsoKind::Tcp4 | GsoKind::Tcp6 => {
            pkt.from_transport().get(12).map_or(20, |b| (*b >> 4) as u32 * 4)
        }
    };
    let headers = (before + l4).min(len);
    len.saturating_add(headers.saturating_mul((gso.segs.max(1) - 1) as u32))
}

/// The hash of the flow that a packet belongs to, by a key that nobody outside knows (`skb_get_hash`);
/// 0: of none.
#[inline]
pub fn flow_hash(pkt: &Skb, key: &Keyed) -> u32 {
    // What most packets are is told at a glance: whole, TCP or UDP over IPv4 without options.
    if pkt.proto == ETH_P_IP
        && let Some(ip) = pkt.from_network().first_chunk::<24>()
    {
        let word = |at: usize| u32::from_be_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
        if ip[0] == 0x45 && word(4) & 0x3fff == 0 && matches!(ip[9], IPPROTO_TCP | IPPROTO_UDP) {
            let addrs = (word(12) as u64) << 32 | word(16) as u64;
            return key.hash2(addrs, (word(20) as u64) << 8 | ip[9] as u64);
        }
    }
    if matches!(pkt.proto, ETH_P_IP | ETH_P_IPV6) { other_flow_hash(pkt, key) } else { 0 }
}

#[cold]
fn other_flow_hash(pkt: &Skb, key: &Keyed) -> u32 {
    let Some(FlowKeys { src, dst, ports, proto }) = dissect(pkt.from_network(), false) else {
        return 0;
    };
    let two = |addr: std::net::IpAddr| match addr {
        std::net::IpAddr::V4(a) => [0, a.to_bits() as u64],
        std::net::IpAddr::V6(a) => [(a.to_bits() >> 64) as u64, a.to_bits() as u64],
    };
    let ([a, b], [c, d]) = (two(src), two(dst));
    let (sport, dport) = ports.unwrap_or_default();
    key.hash5([a, b, c, d, (sport as u64) << 24 | (dport as u64) << 8 | proto as u64])
}

/// Which of three bands a packet of each priority belongs to; 0 goes first.
pub const PRIO2BAND: [u8; 16] = [1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];

/// The priority of a packet (`skb->priority`): of IPv4, what its type of service says
/// (`rt_tos2priority`); of everything else, best effort.
#[inline]
pub fn priority(pkt: &Skb) -> u8 {
    /// Best effort, bulk, interactive, interactive bulk, by two bits of the type of service.
    const TOS2PRIO: [u8; 4] = [0, 2, 6, 4];
    if pkt.tos & 0x18 == 0 || pkt.proto != ETH_P_IP {
        return 0;
    }
    TOS2PRIO[(pkt.tos >> 3) as usize & 3]
}

/// The band of a packet in `pfifo_fast`.
#[inline]
pub fn band(pkt: &Skb) -> usize {
    PRIO2BAND[priority(pkt) as usize & 15] as usize
}

/// Says on the packet that it met congestion (CE), if its sender understands that; false if not.
pub fn set_ce(pkt: &mut Pkt) -> bool {
    let proto = pkt.proto;
    let ip = pkt.from_network_mut();
    let marked = match (proto, ip) {
        (ETH_P_IP, [vihl, tos, rest @ ..]) if *vihl >> 4 == 4 => match *tos & 3 {
            0 => false,
            3 => true,
            _ => {
                let before = u16::from_be_bytes([*vihl, *tos]);
                *tos |= 3;
                let after = u16::from_be_bytes([*vihl, *tos]);
                if let Some(field) = rest.get_mut(8..).and_then(<[u8]>::first_chunk_mut) {
                    let sum = !u16::from_be_bytes(*field) as u32 + !before as u32 + after as u32;
                    let sum = (sum & 0xffff) + (sum >> 16);
                    *field = (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes();
                }
                true
            }
        },
        (ETH_P_IPV6, [first, second, ..]) if *first >> 4 == 6 => match *second >> 4 & 3 {
            0 => false,
            _ => {
                *second |= 0x30;
                true
            }
        },
        _ => false,
    };
    if marked {
        pkt.tos |= 3;
    }
    marked
}
