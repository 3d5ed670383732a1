//! Tests of packets, their memory and their checksums; and [`Spec`], from which other tests build frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::rand::Rng;
use crate::wire::{
    ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, EthHdr, IPPROTO_TCP, IPPROTO_UDP, Ipv4Hdr, Ipv6Hdr, Mac,
    TcpFlags, TcpHdr, UdpHdr, VlanTag,
};
use linerate_arch::csum as arch;

/// A TCP segment or UDP datagram, from which a frame with right checksums is built.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub ethernet: bool,
    /// A tag inside the frame.
    pub vlan: Option<u16>,
    pub v6: bool,
    pub udp: bool,
    /// Last byte of the source address.
    pub host: u8,
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: TcpFlags,
    pub window: u16,
    pub urg: u16,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    pub id: u16,
    pub df: bool,
    pub ttl: u8,
    pub tos: u8,
    pub flow_label: u32,
    pub payload: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            ethernet: false,
            vlan: None,
            v6: false,
            udp: false,
            host: 1,
            sport: 4000,
            dport: 80,
            seq: 1000,
            ack: 77,
            flags: TcpFlags::ACK,
            window: 501,
            urg: 0,
            options: vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7],
            id: 5,
            df: true,
            ttl: 64,
            tos: 0,
            flow_label: 0x12345,
            payload: Vec::new(),
        }
    }
}

impl Spec {
    pub fn l2(&self) -> usize {
        if self.ethernet { EthHdr::LEN + self.vlan.map_or(0, |_| VlanTag::LEN) } else { 0 }
    }
    pub fn l3(&self) -> usize {
        if self.v6 { Ipv6Hdr::LEN } else { Ipv4Hdr::LEN }
    }
    pub fn l4(&self) -> usize {
        if self.udp { UdpHdr::LEN } else { TcpHdr::LEN + self.options.len() }
    }
    pub fn addrs(&self) -> (IpAddr, IpAddr) {
        if self.v6 {
            let addr = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into();
            (addr(self.host as u16), addr(0x99))
        } else {
            (Ipv4Addr::new(10, 0, 0, self.host).into(), Ipv4Addr::new(10, 0, 1, 9).into())
        }
    }
    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let l4_len = self.l4() + self.payload.len();
        let mut out = vec![0; self.l2() + self.l3() + l4_len];
        let proto = if self.udp { IPPROTO_UDP } else { IPPROTO_TCP };
        let ip_type = if self.v6 { ETH_P_IPV6 } else { ETH_P_IP };
        if self.ethernet {
            let ethertype = if self.vlan.is_some() { ETH_P_8021Q } else { ip_type };
            EthHdr {
                dst: Mac([2, 0, 0, 0, 0, 9]),
                src: Mac([2, 0, 0, 0, 0, self.host]),
                ethertype,
            }
            .emit(&mut out);
        }
        if let Some(tci) = self.vlan {
            VlanTag { tci, ethertype: ip_type }.emit(&mut out[14..]);
        }
        let (l2, l3) = (self.l2(), self.l3());
        match self.addrs() {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Ipv4Hdr {
                ihl_bytes: 20,
                tos: self.tos,
                total_len: (l3 + l4_len) as u16,
                id: self.id,
                df: self.df,
                mf: false,
                frag_off_bytes: 0,
                ttl: self.ttl,
                proto,
                csum: 0,
                src,
                dst,
            }
            .emit(&mut out[l2..]),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6Hdr {
                tclass: self.tos,
                flow_label: self.flow_label,
                payload_len: l4_len as u16,
                next_header: proto,
                hop_limit: self.ttl,
                src,
                dst,
            }
            .emit(&mut out[l2..]),
            _ => unreachable!("both addresses are of one family"),
        }
        let l4 = &mut out[l2 + l3..];
        if self.udp {
            UdpHdr { src_port: self.sport, dst_port: self.dport, len: l4_len as u16, csum: 0 }
                .emit(l4);
        } else {
            TcpHdr {
                src_port: self.sport,
                dst_port: self.dport,
                seq: self.seq,
                ack: self.ack,
                data_off_bytes: self.l4(),
                flags: self.flags,
                window: self.window,
                csum: 0,
                urg: self.urg,
            }
            .emit(l4);
            l4[20..20 + self.options.len()].copy_from_slice(&self.options);
        }
        l4[self.l4()..].copy_from_slice(&self.payload);
        let (src, dst) = self.addrs();
        let csum = arch::csum_fold(arch::csum_partial(l4, pseudo(src, dst, l4_len, proto)));
        let csum = if self.udp && csum == 0 { 0xffff } else { csum };
        let at = if self.udp { 6 } else { 16 };
        l4[at..at + 2].copy_from_slice(&csum.to_be_bytes());
        out
    }
}

/// A packet with these bytes: as much as fits in the head, the rest in a large buffer.
pub(crate) fn pkt_of(pool: &mut Pool, bytes: &[u8]) -> Pkt {
    let mut pkt = pool.alloc().expect("the test's pool has room");
    let (head, rest) = bytes.split_at(bytes.len().min(SMALL - HEADROOM));
    pkt.put(head.len()).copy_from_slice(head);
    if !rest.is_empty() {
        let mut buf = pool.alloc_large().expect("the test's pool has room");
        buf[..rest.len()].copy_from_slice(rest);
        pkt.add_buf(buf, 0, rest.len());
    }
    pkt
}

/// All bytes of a packet.
pub(crate) fn bytes_of(pkt: &Skb) -> Vec<u8> {
    pkt.slices().flatten().copied().collect()
}

pub(crate) fn random_bytes(rng: &mut Rng, n: usize) -> Vec<u8> {
    (0..n).map(|_| rng.next_u32() as u8).collect()
}

/// Any shape of packet with these bytes: head, small, large and shared fragments, some of them empty.
fn shaped(pool: &mut Pool, rng: &mut Rng, bytes: &[u8]) -> Pkt {
    let mut pkt = pool.alloc().expect("room");
    let head = rng.below(bytes.len().min(300) as u64 + 1) as usize;
    pkt.put(head).copy_from_slice(&bytes[..head]);
    let mut at = head;
    while at < bytes.len() {
        let n = 1 + rng.below((bytes.len() - at).min(1500) as u64) as usize;
        let part = &bytes[at..at + n];
        let pad = rng.below(50) as usize;
        if rng.below(2) == 0 {
            let mut buf = pool.alloc_large().expect("room");
            buf[pad..pad + n].copy_from_slice(part);
            pkt.add_buf(buf, pad, n);
        } else {
            let mut chunk = pool.alloc_chunk(n + pad);
            chunk.spare_mut().expect("nobody shares it")[pad..pad + n].copy_from_slice(part);
            chunk.fill(pad + n);
            pkt.add_shared(&chunk, pad, n);
            pool.free_chunk(chunk);
        }
        at += n;
    }
    pkt
}

#[test]
fn every_shape_reads_cuts_and_sums_as_its_bytes() {
    let mut pool = Pool::new(1000, 1000);
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let len = 1 + rng.below(6000) as usize;
        let mut bytes = random_bytes(&mut rng, len);
        let mut pkt = shaped(&mut pool, &mut rng, &bytes);
        assert_eq!(bytes_of(&pkt), bytes, "seed {seed}");
        let off = rng.below(len as u64) as usize;
        let n = rng.below((len - off) as u64 + 1) as usize;
        let mut out = vec![0; n];
        assert_eq!(pkt.copy_bits(off, &mut out), n, "seed {seed}");
        assert_eq!(out, bytes[off..off + n], "seed {seed}");
        let (have, want) = (pkt.checksum(off, n, 7), arch::csum_partial(&bytes[off..off + n], 7));
        assert_eq!(arch::csum_fold(have), arch::csum_fold(want), "seed {seed}");
        let pulled = rng.below(len.min(1500) as u64 + 1) as usize;
        assert!(pkt.may_pull(pulled) && pkt.head_len() >= pulled, "seed {seed}");
        let more = pkt.len() + 1;
        assert!(!pkt.may_pull(more), "seed {seed}: no more bytes than there are");
        pkt.trim(off + n);
        bytes.truncate(off + n);
        assert_eq!(bytes_of(&pkt), bytes, "seed {seed}");
        pkt.advance(off);
        bytes.drain(..off.min(bytes.len()));
        assert_eq!(bytes_of(&pkt), bytes, "seed {seed}");
        pool.free(pkt);
        assert_eq!((pool.small_out(), pool.large_out()), (0, 0), "seed {seed}");
    }
}

#[test]
fn appending_any_shapes_joins_their_bytes() {
    let mut pool = Pool::new(1000, 1000);
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut whole = Vec::new();
        let mut pkt = pool.alloc().expect("room");
        for _ in 0..rng.below(12) {
            let len = 1 + rng.below(3000) as usize;
            let bytes = random_bytes(&mut rng, len);
            let mut next = shaped(&mut pool, &mut rng, &bytes);
            let off = rng.below(next.head_len() as u64 + 1) as usize;
            assert!(next.pull(off));
            assert!(pkt.append(&mut next, &mut pool));
            assert_eq!(next.len(), 0);
            pool.free(next);
            whole.extend_from_slice(&bytes[off..]);
            assert_eq!(bytes_of(&pkt), whole, "seed {seed}");
            assert_eq!(pkt.len(), whole.len());
        }
        pool.free(pkt);
        assert_eq!((pool.small_out(), pool.large_out()), (0, 0), "seed {seed}");
    }
}

#[test]
fn parts_that_were_one_become_one_fragment_again() {
    let mut pool = Pool::new(100, 100);
    let mut chunk = pool.alloc_chunk(6000);
    let bytes: Vec<u8> = (0..6000u32).map(|n| (n % 251) as u8).collect();
    chunk.spare_mut().expect("nobody shares it")[..6000].copy_from_slice(&bytes);
    chunk.fill(6000);
    let mut whole = pool.alloc().expect("room");
    whole.add_shared(&chunk, 0, 6000);
    whole.reserve_shares(1000);
    let mut at = whole.cursor(0);
    let mut first = pool.alloc().expect("room");
    assert_eq!(first.share_range(&mut whole, &mut at, 1000), 1000);
    for n in 1..5 {
        let mut next = pool.alloc().expect("room");
        assert_eq!(next.share_range(&mut whole, &mut at, 1000), 1000);
        assert!(first.append(&mut next, &mut pool));
        assert_eq!((first.nr_frags(), first.len()), (1, 1000 * (n + 1)));
        pool.free(next);
    }
    // What does not follow stays apart.
    let mut apart = pool.alloc().expect("room");
    apart.add_shared(&chunk, 100, 50);
    assert!(first.append(&mut apart, &mut pool));
    assert_eq!(first.nr_frags(), 2);
    assert_eq!(bytes_of(&first), [&bytes[..5000], &bytes[100..150]].concat());
    assert!(chunk.spare_mut().is_none(), "packets share it");
    [whole, first, apart].into_iter().for_each(|pkt| pool.free(pkt));
    assert_eq!(chunk.spare_mut().map(|s| s.len()), Some(super::LARGE - 6000), "all let go of it");
    pool.free_chunk(chunk);
    assert_eq!(pool.small_out(), 0);
}

#[test]
fn ranges_of_any_shape_are_copied_or_shared() {
    let mut pool = Pool::new(1000, 1000);
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let len = 1 + rng.below(6000) as usize;
        let bytes = random_bytes(&mut rng, len);
        let mut pkt = shaped(&mut pool, &mut rng, &bytes);
        if seed % 2 == 0 {
            pkt.reserve_shares(1 + rng.below(1400) as usize);
        }
        let start = rng.below(len as u64) as usize;
        let mut at = pkt.cursor(start);
        let mut taken = start;
        while taken < len {
            let want = 1 + rng.below(1400) as usize;
            let mut part = pool.alloc().expect("room");
            let shared = part.share_range(&mut pkt, &mut at, want);
            assert_eq!(bytes_of(&part), bytes[taken..taken + shared], "seed {seed}");
            pool.free(part);
            taken += shared;
            let mut part = pool.alloc().expect("room");
            let copied = part.copy_range(&pkt, &mut at, want);
            assert_eq!(copied, want.min(len - taken), "seed {seed}");
            assert_eq!(bytes_of(&part), bytes[taken..taken + copied], "seed {seed}");
            pool.free(part);
            taken += copied;
        }
        pool.free(pkt);
        assert_eq!((pool.small_out(), pool.large_out()), (0, 0), "seed {seed}");
    }
}

#[test]
fn short_tails_are_copied_instead_of_becoming_fragments() {
    let mut pool = Pool::new(100, 4);
    let mut whole = vec![7; 1500];
    let mut pkt = pkt_of(&mut pool, &whole);
    for n in [1000, 100, 100, 1] {
        let mut next = pkt_of(&mut pool, &vec![n as u8; n]);
        assert!(pkt.append(&mut next, &mut pool));
        pool.free(next);
        whole.extend(vec![n as u8; n]);
    }
    assert_eq!(pkt.nr_frags(), 1);
    assert_eq!(bytes_of(&pkt), whole);
    assert_eq!(pool.small_out(), 2, "the packet and the head that became its fragment");
    pool.free(pkt);
    assert_eq!(pool.small_out(), 0);
}

#[test]
fn the_pool_ends_at_its_limits_and_recycles() {
    let mut pool = Pool::new(2, 1);
    let (a, b) = (pool.alloc().expect("first"), pool.alloc().expect("second"));
    assert!(pool.alloc().is_none() && pool.small_left() == 0);
    let buf = pool.alloc_large().expect("first");
    assert!(pool.alloc_large().is_none() && pool.large_left() == 0);
    assert!(pool.low());
    pool.free_large(buf);
    pool.free(b);
    let again = pool.alloc().expect("one came back");
    assert_eq!((again.len(), again.headroom(), again.nr_frags()), (0, HEADROOM, 0));
    assert_eq!((again.gso, again.csum, again.gso_fixed_id), (None, Csum::None, false));
    pool.free(again);
    pool.free(a);
    assert_eq!(pool.small_out(), 0);
}

#[test]
fn an_append_without_memory_changes_nothing() {
    let mut pool = Pool::new(2, 1);
    let mut pkt = pkt_of(&mut pool, &[1; 1500]);
    let mut next = pkt_of(&mut pool, &[2; 1500]);
    assert!(!pkt.append(&mut next, &mut pool), "a new head would be needed");
    assert_eq!((pkt.len(), next.len()), (1500, 1500));
    assert!(bytes_of(&next).iter().all(|b| *b == 2));
}

#[test]
fn a_chunk_is_filled_only_while_nobody_shares_it() {
    let mut pool = Pool::new(2, 1);
    let mut chunk = pool.alloc_chunk(10);
    assert!(chunk.is_empty() && chunk.capacity() == SMALL);
    chunk.spare_mut().expect("not shared")[..3].copy_from_slice(b"abc");
    chunk.fill(3);
    let mut pkt = pool.alloc().expect("room");
    pkt.add_shared(&chunk, 1, 2);
    assert!(chunk.spare_mut().is_none() && pkt.is_shared() && pkt.is_all_shared());
    pool.free_chunk(chunk);
    assert_eq!(bytes_of(&pkt), b"bc", "the packet keeps the memory alive");
    pool.free(pkt);
    assert!(pool.alloc_chunk(10).is_empty(), "recycled chunks are empty");
}

/// A packet of this frame as transports see it: the data begins at the transport header.
fn transport(pool: &mut Pool, spec: &Spec) -> Pkt {
    let mut pkt = pkt_of(pool, &spec.bytes());
    assert!(pkt.pull(spec.l2() + spec.l3()));
    (pkt.src, pkt.dst) = spec.addrs();
    pkt.ip_proto = if spec.udp { IPPROTO_UDP } else { IPPROTO_TCP };
    pkt
}

#[test]
fn checksums_are_verified_and_every_flipped_bit_is_found() {
    let mut pool = Pool::new(100, 10);
    for (v6, udp, len) in
        [(false, false, 0), (false, true, 1), (true, false, 5001), (true, true, 33)]
    {
        let spec = Spec { v6, udp, payload: vec![0xa5; len], ..Spec::default() };
        let mut pkt = transport(&mut pool, &spec);
        assert!(pkt.csum_verify(true) && pkt.csum == Csum::Verified, "{spec:?}");
        pool.free(pkt);
        for bit in [0, 9, 8 * spec.l4() - 1] {
            let mut pkt = transport(&mut pool, &spec);
            pkt.head_mut()[bit / 8] ^= 1 << (bit % 8);
            assert!(!pkt.csum_verify(true) && pkt.csum == Csum::None, "bit {bit} of {spec:?}");
            pkt.csum = Csum::Verified;
            assert!(pkt.csum_verify(true) && !pkt.csum_verify(false), "belief decides");
            pool.free(pkt);
        }
    }
}

#[test]
fn a_checksum_left_to_the_device_completes_to_the_right_one() {
    let mut pool = Pool::new(100, 10);
    for (v6, udp, len) in
        [(false, false, 1448), (false, true, 0), (true, false, 3001), (true, true, 7)]
    {
        let spec = Spec { v6, udp, payload: vec![0x5a; len], ..Spec::default() };
        let mut pkt = transport(&mut pool, &spec);
        pkt.csum_leave(if udp { 6 } else { 16 });
        let Csum::Partial { start: 0, offset } = pkt.csum else {
            panic!("it is left: {:?}", pkt.csum)
        };
        let (src, dst) = (pkt.src, pkt.dst);
        pkt.push(spec.l3());
        pkt.csum = Csum::Partial { start: spec.l3() as u16, offset };
        assert!(pkt.csum_complete(0));
        assert_eq!(bytes_of(&pkt), spec.bytes(), "{src} {dst}");
        pool.free(pkt);
    }
}

#[test]
fn a_partial_checksum_outside_the_packet_is_refused() {
    let mut pool = Pool::new(10, 1);
    for (start, offset) in [(0u16, 59u16), (60, 0), (61, 0), (65535, 65535), (59, 0)] {
        let mut pkt = pkt_of(&mut pool, &[0; 60]);
        pkt.csum = Csum::Partial { start, offset };
        assert!(!pkt.csum_complete(0), "{start} {offset}");
        pool.free(pkt);
    }
}

/// How many packets, or large buffers, a stack can have out at once.
fn buffers(knob: &str, value: &str, large: bool) -> usize {
    let mut cx = crate::shard::Shard::new(1);
    cx.set_knob(knob, value).expect("in range");
    let pool = &mut cx.net.pool;
    let more =
        |_: &usize| if large { pool.alloc_large().is_some() } else { pool.alloc().is_some() };
    (0..100_000).take_while(more).count()
}

#[test]
fn knob_pool_small() {
    for n in [64, 1000, 20_000] {
        assert_eq!(buffers("pool.small", &n.to_string(), false), n);
    }
}

#[test]
fn knob_pool_large() {
    for n in [4, 100, 300] {
        assert_eq!(buffers("pool.large", &n.to_string(), true), n);
    }
}

#[test]
fn the_ends_of_a_head_may_be_moved() {
    let mut pool = Pool::new(10, 10);
    let mut pkt = pool.alloc().expect("memory");
    pkt.put(20).copy_from_slice(&[7; 20]);
    for part in [&[1u8, 2, 3][..], &[4, 5]] {
        let mut buf = pool.alloc_large().expect("memory");
        buf[..part.len()].copy_from_slice(part);
        pkt.add_buf(buf, 0, part.len());
    }
    let (memory, ends, frags) = pkt.parts();
    assert_eq!((ends.clone(), frags.len(), frags.is_empty()), (HEADROOM..HEADROOM + 20, 5, false));
    let mut out = [9; 4];
    frags.copy(1, &mut out);
    assert_eq!(out, [2, 3, 4, 5]);
    frags.copy(4, &mut out);
    assert_eq!(out, [5, 3, 4, 5]);
    memory[ends.start - 2] = 8;
    pkt.set_ends(ends.start - 2..ends.end - 19);
    assert_eq!((pkt.head(), pkt.len()), (&[8, 0, 7][..], 8));
    pool.free(pkt);
}
