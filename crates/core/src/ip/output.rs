//! Stage `IpOut`, TX: route, source address, IP header.
//!
//! before: [`crate::udp::output`], TCP, [`crate::ip::icmp`]   after: [`crate::ip::frag`]; what is for
//!         ourselves goes to [`crate::rx::backlog`]
//! Linux:  net/ipv4/ip_output.c `__ip_queue_xmit`, `ip_build_and_send_pkt`; net/ipv6/ip6_output.c `ip6_xmit`
//! RFCs:   791, 6864 §4, 8200 §3, 6437
//! drops:  IpOutNoRoute, Ip6OutNoRoute, FragNeeded, Frag6Needed (larger than any packet may be)

use std::net::{IpAddr, Ipv4Addr};

use linerate_arch::csum::{csum_add, csum_fold};

use super::route::{RouteOut, made};
use crate::pkt::{Csum, Pkt, Verdict, pseudo};
use crate::rand::Keyed;
use crate::rx::backlog::netif_rx;
use crate::shard::{Net, Shard};
use crate::table::{Reason, Stage, count::id};
use crate::wire::{ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP, IPPROTO_UDP, Ipv4Hdr, Ipv6Hdr};

/// Finds the way and puts the IP header in front.
#[inline(always)]
pub fn ip_queue_xmit(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    // To a host that packets went to lately the way is known.
    if let (IpAddr::V4(src), IpAddr::V4(dst)) = (pkt.src, pkt.dst)
        && let Some((dev, nexthop)) = net.fib.known_way(dst)
        && !src.is_unspecified()
        && let Ok(total_len) = u16::try_from(pkt.len() + Ipv4Hdr::LEN)
    {
        net.counts.inc(id::IpOutRequests);
        pkt.dev = dev;
        pkt.nexthop = IpAddr::V4(nexthop);
        let ttl = if pkt.ttl == 0 { net.knobs.ip_default_ttl as u8 } else { pkt.ttl };
        push_header4(net, &mut pkt, src, dst, total_len, ttl);
    } else if let Err(verdict) = ip_route_output(net, &mut pkt) {
        return match verdict {
            Refused::Drop(reason) => Verdict::Drop(pkt, reason),
            Refused::Local(dev) => {
                loop_back(net, pkt, dev);
                Verdict::Queued
            }
        };
    }
    if net.frag_out.is_empty() {
        return Verdict::Pass(pkt);
    }
    net.frag_out.push_back(pkt);
    Verdict::Queued
}

/// Why a packet does not go down to Frag.
enum Refused {
    /// There is no way, or it is too large.
    Drop(Reason),
    /// It is for ourselves; and the loopback device.
    Local(u8),
}

/// Looks for the way, and for a source address if it has none; puts the header in front.
#[inline(never)]
fn ip_route_output(net: &mut Net, pkt: &mut Pkt) -> Result<(), Refused> {
    let v4 = pkt.dst.is_ipv4();
    net.counts.inc(if v4 { id::IpOutRequests } else { id::Ip6OutRequests });
    if pkt.src.is_unspecified() {
        choose_source(net, pkt);
    }
    let Some(route) = net.route_out_nosrc(pkt.dst) else {
        return Err(Refused::Drop(if v4 { Reason::IpOutNoRoute } else { Reason::Ip6OutNoRoute }));
    };
    if !push_header(net, pkt, &route) {
        return Err(Refused::Drop(if v4 { Reason::FragNeeded } else { Reason::Frag6Needed }));
    }
    if route.local {
        return Err(Refused::Local(route.dev));
    }
    if let (IpAddr::V4(dst), IpAddr::V4(nexthop)) = (pkt.dst, route.nexthop)
        && !route.broadcast
        && !dst.is_multicast()
        && !dst.is_broadcast()
    {
        net.fib.learn_way(dst, route.dev, nexthop);
    }
    Ok(())
}

/// The IPv4 header without options, for a packet whose way is known.
#[inline(always)]
fn push_header4(
    net: &mut Net,
    pkt: &mut Pkt,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    total_len: u16,
    ttl: u8,
) {
    pkt.transport = pkt.data_offset();
    let hdr = Ipv4Hdr {
        ihl_bytes: Ipv4Hdr::LEN,
        tos: pkt.tos,
        total_len,
        id: ip_select_ident(net, pkt),
        df: pkt.df,
        mf: false,
        frag_off_bytes: 0,
        ttl,
        proto: pkt.ip_proto,
        csum: 0,
        src,
        dst,
    };
    hdr.emit(pkt.push(Ipv4Hdr::LEN));
    pkt.network = pkt.data_offset();
    pkt.proto = ETH_P_IP;
    pkt.ttl = ttl;
    if let Csum::Partial { start, .. } = &mut pkt.csum {
        *start += Ipv4Hdr::LEN as u16;
    }
    net.counts.add_bytes(id::IpOutOctets, total_len as u64);
}

impl Net {
    /// Sends a packet of a transport by a way that is known already: to an address that has a
    /// meaning on one link only. False if it is larger than a packet may be.
    pub(crate) fn send_on(&mut self, mut pkt: Pkt, route: &RouteOut) -> bool {
        let v4 = pkt.dst.is_ipv4();
        self.counts.inc(if v4 { id::IpOutRequests } else { id::Ip6OutRequests });
        made(self, Stage::Send);
        // It passes IpOut like all others, but for the look-up.
        self.counts.flow(Stage::IpOut).enter(1);
        if !push_header(self, &mut pkt, route) {
            let reason = if v4 { Reason::FragNeeded } else { Reason::Frag6Needed };
            self.kfree_skb_reason(Stage::IpOut, pkt, reason);
            return false;
        }
        self.counts.flow(Stage::IpOut).pass(1);
        if route.local {
            loop_back(self, pkt, route.dev);
        } else {
            self.frag_out.push_back(pkt);
        }
        true
    }
}

/// The source address is known only now: a checksum that was left to the sender is told of it. It
/// stays unspecified if there is no route, or no address that fits.
#[inline(never)]
fn choose_source(net: &Net, pkt: &mut Pkt) {
    let Some(src) = net.route_out(pkt.dst).and_then(|r| r.src) else { return };
    if let Csum::Partial { start, offset } = pkt.csum {
        let at = start as usize + offset as usize;
        // The old source, all zeros, has added nothing to the sum.
        let more = pseudo(src, pkt.src, 0, 0);
        if let Some(field) = pkt.head_mut().get_mut(at..at + 2) {
            let old = u16::from_be_bytes([field[0], field[1]]);
            field.copy_from_slice(&(!csum_fold(csum_add(old as u32, more))).to_be_bytes());
        }
    }
    pkt.src = src;
}

/// Puts the header in front and sets what the stages below need to know; false if the packet is
/// larger than the length field can say.
#[inline]
pub(crate) fn push_header(net: &mut Net, pkt: &mut Pkt, route: &RouteOut) -> bool {
    pkt.transport = pkt.data_offset();
    pkt.dev = route.dev;
    pkt.nexthop = route.nexthop;
    let payload = pkt.len();
    match (pkt.src, pkt.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let Ok(total_len) = u16::try_from(payload + Ipv4Hdr::LEN) else { return false };
            let multicast = dst.is_multicast();
            let ttl = match pkt.ttl {
                0 if multicast => 1,
                0 => net.knobs.ip_default_ttl as u8,
                ttl => ttl,
            };
            push_header4(net, pkt, src, dst, total_len, ttl);
            if multicast {
                net.counts.inc(id::IpOutMcastPkts);
            } else if route.broadcast {
                net.counts.inc(id::IpOutBcastPkts);
            }
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let Ok(payload_len) = u16::try_from(payload) else { return false };
            let multicast = dst.is_multicast();
            let hop_limit = match pkt.ttl {
                0 if multicast => 1,
                0 => net.knobs.hop_limit as u8,
                ttl => ttl,
            };
            let flow_label = net.icmp.idents.flow_label(pkt);
            let next_header = pkt.ip_proto;
            let tclass = pkt.tos;
            Ipv6Hdr { tclass, flow_label, payload_len, next_header, hop_limit, src, dst }
                .emit(pkt.push(Ipv6Hdr::LEN));
            pkt.proto = ETH_P_IPV6;
            pkt.ttl = hop_limit;
            net.counts.add_bytes(id::Ip6OutOctets, (payload + Ipv6Hdr::LEN) as u64);
            if multicast {
                net.counts.inc(id::Ip6OutMcastPkts);
            }
            pkt.network = pkt.data_offset();
            if let Csum::Partial { start, .. } = &mut pkt.csum {
                *start += Ipv6Hdr::LEN as u16;
            }
        }
        _ => return false,
    }
    true
}

/// The packet is for ourselves: back to the input queue, as it is.
#[cold]
fn loop_back(net: &mut Net, mut pkt: Pkt, dev: u8) {
    net.counts.inc(if pkt.dst.is_ipv4() { id::IpOutTransmits } else { id::Ip6OutTransmits });
    pkt.dev = dev;
    net.pool.skb_orphan(&mut pkt);
    pkt.sock = None;
    pkt.hash = 0;
    pkt.vlan = None;
    pkt.l2_multicast = false;
    pkt.rx_time = net.now;
    netif_rx(net, pkt);
}

/// The identification field: packets that can not be fragmented need none, others take the next
/// number of a counter that their destination's hash chooses (RFC 6864 §4.1; Linux:
/// `ip_select_ident_segs`). A super-packet takes one for each segment.
#[inline]
fn ip_select_ident(net: &mut Net, pkt: &Pkt) -> u16 {
    if pkt.df && pkt.gso.is_none() {
        return 0;
    }
    net.icmp.idents.next(pkt, net.now.ms()) as u16
}

/// Counters for identification fields, and the key of flow labels. A peer that sees its own
/// numbers learns nothing about packets to others, but for those in the same bucket, and these
/// advance by random amounts with time.
pub(crate) struct Idents {
    key: Keyed,
    /// The next number, and when it was last used, in milliseconds.
    buckets: Vec<(u32, u32)>,
    random: u64,
}

/// Buckets of identification counters: a power of two.
const IDENTS: usize = 2048;

impl Idents {
    pub(crate) fn new(key: Keyed) -> Idents {
        let start = |i| (key.hash2(0x1d, i as u64), 0);
        let random = key.hash2(0x1d, u64::MAX) as u64 | 1;
        Idents { key, buckets: (0..IDENTS).map(start).collect(), random }
    }
    fn pair(pkt: &Pkt) -> [u64; 5] {
        let words = |a: IpAddr| match a {
            IpAddr::V4(a) => (0, a.to_bits() as u64),
            IpAddr::V6(a) => ((a.to_bits() >> 64) as u64, a.to_bits() as u64),
        };
        let ((s0, s1), (d0, d1)) = (words(pkt.src), words(pkt.dst));
        [s0, s1, d0, d1, pkt.ip_proto as u64]
    }
    /// The next number for packets of this source, destination and protocol (`ip_idents_reserve`).
    #[inline]
    pub(crate) fn next(&mut self, pkt: &Pkt, now_ms: u64) -> u32 {
        let hash = match (pkt.src, pkt.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let pair = u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits());
                self.key.hash2(pair, pkt.ip_proto as u64)
            }
            _ => self.key.hash5(Idents::pair(pkt)),
        };
        let bucket = hash as usize % IDENTS;
        let (value, stamp) = &mut self.buckets[bucket];
        let now = now_ms as u32;
        let idle = now.wrapping_sub(*stamp);
        if idle > 0 {
            *stamp = now;
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e);
            // A random number of at most as many as milliseconds have passed.
            let more = ((self.random >> 32) * idle as u64) >> 32;
            *value = value.wrapping_add(more as u32);
        }
        let first = *value;
        *value = value.wrapping_add(pkt.segs() as u32);
        first
    }
    /// RFC 6437 §3: the same for all packets of a flow, otherwise unpredictable.
    #[inline]
    fn flow_label(&self, pkt: &Pkt) -> u32 {
        let [s0, s1, d0, d1, proto] = Idents::pair(pkt);
        let ports = match (pkt.ip_proto, pkt.head()) {
            (IPPROTO_TCP | IPPROTO_UDP, &[a, b, c, d, ..]) => {
                u32::from_be_bytes([a, b, c, d]) as u64
            }
            _ => 0,
        };
        self.key.hash5([s0, s1, d0, d1, ports << 8 | proto]) & 0x000f_ffff
    }
}
