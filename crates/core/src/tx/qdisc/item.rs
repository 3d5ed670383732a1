//! What a discipline must know of a packet (Linux: `struct qdisc_skb_cb`).
//!
//! Linux: include/net/sch_generic.h `qdisc_pkt_len`, net/core/dev.c `qdisc_pkt_len_init`,
//!        net/ipv4/route.c `ip_tos2prio`, include/net/inet_ecn.h `INET_ECN_set_ce`
//! RFCs:  1349, 3168 §5, 1624 §3 (the checksum)

use crate::pkt::{GsoKind, Pkt, Skb};
use crate::time::Instant;
use crate::wire::{ETH_P_IP, ETH_P_IPV6};

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
