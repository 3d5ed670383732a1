//! Stage `Ip`, RX.
use crate::pkt::{Pkt, Verdict};
use crate::shard::Shard;
use crate::table::{Reason, count::id};
use crate::wire::{ETH_P_IP, Ipv4Hdr, Ipv6Hdr};
use std::net::IpAddr;

/// Checks the header.
#[inline]
pub fn ip_rcv(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    if pkt.proto == ETH_P_IP {
        cx.net.counts.inc(id::IpInReceives);
        let Ok(h) = Ipv4Hdr::parse(pkt.head()) else { return Verdict::Drop(pkt, Reason::IpHdr) };
        if !Ipv4Hdr::csum_ok(pkt.head()) {
            return Verdict::Drop(pkt, Reason::IpCsum);
        }
        if pkt.len() < h.total_len as usize {
            return Verdict::Drop(pkt, Reason::IpTruncated);
        }
        pkt.trim(h.total_len as usize);
        cx.net.counts.add_bytes(id::IpInOctets, h.total_len as u64);
        pkt.src = IpAddr::V4(h.src);
        pkt.dst = IpAddr::V4(h.dst);
        pkt.ip_proto = h.proto;
        pkt.tos = h.tos;
        pkt.ttl = h.ttl;
        let n = h.ihl_bytes;
        pkt.transport = pkt.network + n as u32;
        let _ = pkt.pull(n);
        Verdict::Pass(pkt)
    } else {
        cx.net.counts.inc(id::Ip6InReceives);
        let Ok(h) = Ipv6Hdr::parse(pkt.head()) else { return Verdict::Drop(pkt, Reason::Ip6Hdr) };
        pkt.src = IpAddr::V6(h.src);
        pkt.dst = IpAddr::V6(h.dst);
        pkt.ip_proto = h.next_header;
        pkt.transport = pkt.network + 40;
        let _ = pkt.pull(40);
        Verdict::Pass(pkt)
    }
}
