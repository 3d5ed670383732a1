//! Stage `Demux`, RX: finds who wants the packet.
//!
//! before: [`crate::ip::route`]   after: [`crate::udp::input`], [`crate::tcp::input`], [`crate::ip::icmp`]
//! Linux:  net/ipv4/ip_input.c `ip_protocol_deliver_rcu`, `__udp4_lib_lookup`, `__inet_lookup_skb`
//! RFCs:   768, 9293 §3.10.7
//! drops:  IpNoProto, Ip6NoProto, and what the protocols' look-ups give

use std::net::IpAddr;

use crate::pkt::{Pkt, Verdict};
use crate::shard::Shard;
use crate::table::{Reason, count::id};
use crate::wire::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

/// Hands the packet to its protocol's look-up.
#[inline(always)]
pub fn ip_local_deliver(cx: &mut Shard, pkt: Pkt) -> Verdict {
    let v4 = pkt.src.is_ipv4();
    match pkt.ip_proto {
        IPPROTO_UDP => {
            delivered(cx, v4);
            crate::udp::input::udp_lookup(cx, pkt)
        }
        IPPROTO_TCP => {
            delivered(cx, v4);
            crate::tcp::input::tcp_lookup(cx, pkt)
        }
        proto if proto == if v4 { IPPROTO_ICMP } else { IPPROTO_ICMPV6 } => {
            delivered(cx, v4);
            Verdict::Pass(pkt)
        }
        _ => ip_no_proto(cx, pkt, v4),
    }
}

#[inline(always)]
fn delivered(cx: &Shard, v4: bool) {
    cx.net.counts.inc(if v4 { id::IpInDelivers } else { id::Ip6InDelivers });
}

#[cold]
fn ip_no_proto(cx: &mut Shard, pkt: Pkt, v4: bool) -> Verdict {
    crate::ip::icmp::proto_unreachable(cx, &pkt);
    Verdict::Drop(pkt, if v4 { Reason::IpNoProto } else { Reason::Ip6NoProto })
}

/// From so many sockets on, half-open ones and entries of TIME_WAIT included, their tables do not fit the nearest caches.
const MANY: usize = 4096;
/// Packets whose memory is on its way at the same time.
const AHEAD: usize = 32;

/// Whether there are so many sockets that looking ahead pays.
#[inline]
pub(crate) fn many(cx: &Shard) -> bool {
    cx.udp.len() >= MANY || cx.tcp.demux.len() >= MANY
}

/// Begins the look-ups of a whole batch, so that their cache misses overlap: first the tables' lines,
/// then what stands there. Nothing is decided here, but what stands there is remembered as a hint.
#[inline]
pub(crate) fn look_ahead(cx: &Shard, batch: &mut [Pkt]) {
    if many(cx) {
        batch.chunks_mut(AHEAD).for_each(|part| look_ahead_at(cx, part));
    }
}

fn look_ahead_at(cx: &Shard, part: &mut [Pkt]) {
    // Hash and local port; 0 = nothing to look ahead for.
    let mut sought = [(0u32, 0u16); AHEAD];
    for (seek, pkt) in sought.iter_mut().zip(&*part) {
        let Some(&[s0, s1, d0, d1]) = pkt.peek::<4>() else { continue };
        let (sport, dport) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        let hash = match pkt.ip_proto {
            IPPROTO_UDP => cx.udp.prefetch_table(pkt.dst, dport, pkt.src, sport),
            IPPROTO_TCP => cx.tcp.prefetch_table(pkt.dst, dport, pkt.src, sport),
            _ => continue,
        };
        *seek = (hash, dport);
    }
    for ((hash, port), pkt) in sought.iter().zip(part) {
        pkt.hint = 0;
        match pkt.ip_proto {
            _ if *hash == 0 => {}
            IPPROTO_UDP => pkt.hint = cx.udp.prefetch_sock(*hash, *port),
            IPPROTO_TCP => cx.tcp.prefetch_conn(*hash, &cx.net.pool),
            _ => {}
        }
    }
}

/// A number below `n`, from a hash: all of them alike often (`reciprocal_scale`).
#[inline]
pub(crate) fn reciprocal_scale(hash: u32, n: usize) -> usize {
    ((hash as u64 * n as u64) >> 32) as usize
}

/// The words of an address pair and a port pair for a keyed hash.
#[inline]
pub(crate) fn hash_tuple(
    key: &crate::rand::Keyed,
    local: IpAddr,
    remote: IpAddr,
    ports: (u16, u16),
) -> u32 {
    let ports = (ports.0 as u64) << 16 | ports.1 as u64;
    match (local, remote) {
        (IpAddr::V4(l), IpAddr::V4(r)) => {
            key.hash2((l.to_bits() as u64) << 32 | r.to_bits() as u64, ports)
        }
        (IpAddr::V6(l), IpAddr::V6(r)) => {
            let (l, r) = (l.to_bits(), r.to_bits());
            key.hash5([l as u64, (l >> 64) as u64, r as u64, (r >> 64) as u64, ports])
        }
        // A packet has addresses of one family; this is never reached with one that arrived.
        _ => 0,
    }
}
