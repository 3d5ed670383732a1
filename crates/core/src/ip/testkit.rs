//! What the tests of links and IP share: a stack with one device, packets, exact differences of
//! counters.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use linerate_arch::csum::{csum_fold, csum_partial};

use crate::link::{Iface, L2};
use crate::path;
use crate::pkt::{Batch, Gso, pseudo};
use crate::shard::Shard;
use crate::table::count::Counter;
use crate::table::{Reason, Stage};
use crate::time::Instant;
use crate::tx::xmit::tx_done;
use crate::wire::*;

/// Our address.
pub(crate) const US: &str = "10.0.0.1";
/// A host on our link.
pub(crate) const PEER: &str = "10.0.0.2";
/// Our IPv6 address.
pub(crate) const US6: &str = "fd00::1";
/// A host on our link.
pub(crate) const PEER6: &str = "fd00::2";
/// Our link address.
pub(crate) const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// A host's link address.
pub(crate) const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn ip4(text: &str) -> Ipv4Addr {
    text.parse().expect("an IPv4 address")
}

pub(crate) fn ip6(text: &str) -> Ipv6Addr {
    text.parse().expect("an IPv6 address")
}

/// Every counter and drop reason, by name.
pub(crate) type Reading = BTreeMap<&'static str, i64>;

/// A stack, and the batch that drives it.
pub(crate) struct Kit {
    pub cx: Shard,
    batch: Batch,
}

impl Kit {
    /// One device that carries bare packets, with both addresses.
    pub fn tun() -> Kit {
        Kit::with(Iface::new("tun0", L2::Ip, Mac::ZERO, 1500))
    }
    /// One Ethernet device with both addresses.
    pub fn eth() -> Kit {
        Kit::with(Iface::new("eth0", L2::Ethernet, MAC, 1500))
    }
    fn with(iface: Iface) -> Kit {
        let mut cx = Shard::new(1);
        let dev = cx.add_iface(iface);
        cx.add_addr(dev, ip(US), 24).expect("an address is added");
        cx.add_addr(dev, ip(US6), 64).expect("an address is added");
        cx.net.now = Instant::from_ns(1_000_000_000);
        Kit { cx, batch: Batch::new() }
    }
    /// A second device of bare packets: `10.1.0.1/24` and `fd01::1/64`.
    pub fn add_tun(&mut self) -> u8 {
        let dev = self.cx.add_iface(Iface::new("tun1", L2::Ip, Mac::ZERO, 1500));
        self.cx.add_addr(dev, ip("10.1.0.1"), 24).expect("an address is added");
        self.cx.add_addr(dev, ip("fd01::1"), 64).expect("an address is added");
        dev
    }
    /// `ns` nanoseconds pass.
    pub fn pass(&mut self, ns: u64) {
        let now = self.cx.net.now.plus(ns);
        path::timers(&mut self.cx, now);
    }
    /// These bytes come in by device 0.
    pub fn rx(&mut self, bytes: &[u8]) {
        self.rx_on(0, bytes, None);
    }
    /// They come in by `dev`, as a super-packet if `gso` says so.
    pub fn rx_on(&mut self, dev: u8, bytes: &[u8], gso: Option<Gso>) {
        let net = &mut self.cx.net;
        let mut pkt = net.pool.alloc().expect("a packet");
        let head = bytes.len().min(pkt.tailroom());
        pkt.put(head).copy_from_slice(&bytes[..head]);
        if bytes.len() > head {
            let mut buf = net.pool.alloc_large().expect("a buffer");
            let rest = &bytes[head..];
            buf[..rest.len()].copy_from_slice(rest);
            pkt.add_buf(buf, 0, rest.len());
        }
        pkt.dev = dev;
        pkt.gso = gso;
        pkt.rx_time = net.now;
        self.batch.push(pkt);
        path::receive(&mut self.cx, &mut self.batch);
    }
    /// Everything that is to leave by device 0, as bytes.
    pub fn tx(&mut self) -> Vec<Vec<u8>> {
        self.tx_on(0)
    }
    /// Everything that is to leave by `dev`.
    pub fn tx_on(&mut self, dev: u8) -> Vec<Vec<u8>> {
        for _ in 0..4 {
            path::transmit(&mut self.cx, &mut self.batch);
            path::process_backlog(&mut self.cx, &mut self.batch, 1000);
        }
        let mut out = Vec::new();
        loop {
            let ring = path::qdisc_run(&mut self.cx.net, dev, 0, 1024).expect("the device exists");
            let Some(pkt) = ring.pop_front() else { break };
            out.push(pkt.slices().flatten().copied().collect());
            tx_done(&mut self.cx.net, pkt, true);
        }
        out
    }
    /// Everything that is to leave by device 0 is refused by it; how many packets these were.
    pub fn refuse(&mut self) -> usize {
        path::transmit(&mut self.cx, &mut self.batch);
        let ring = path::qdisc_run(&mut self.cx.net, 0, 0, 1024).expect("the device exists");
        let pkts: Vec<_> = ring.drain(..).collect();
        let n = pkts.len();
        pkts.into_iter().for_each(|pkt| tx_done(&mut self.cx.net, pkt, false));
        n
    }
    /// All counters and drops now.
    pub fn read(&self) -> Reading {
        let counts = &self.cx.net.counts;
        let counters = Counter::ROWS.iter().map(|r| (r.name, counts.get(r.counter) as i64));
        let drops = Reason::ALL.iter().map(|r| (drop_name(*r), counts.drops(*r) as i64));
        counters.chain(drops).collect()
    }
    /// Asserts that since `before` exactly these counters have moved, and that no packet is
    /// unaccounted for. Byte counters, and those of other layers, are left out.
    #[track_caller]
    pub fn moved(&self, before: &Reading, want: &[(&'static str, i64)]) {
        let now = self.read();
        let skip = |n: &str| n.contains("Octets") || n.contains("ECT") || n.starts_with("Softirq");
        let diff: Vec<_> = now
            .iter()
            .map(|(n, v)| (*n, v - before[n]))
            .filter(|(n, d)| *d != 0 && !skip(n))
            .collect();
        let mut want = want.to_vec();
        want.sort_unstable();
        assert_eq!(diff, want);
        self.conserved();
    }
    /// Asserts that no packet is unaccounted for, and that none leaked from the pool.
    #[track_caller]
    pub fn conserved(&self) {
        let counts = &self.cx.net.counts;
        assert_eq!(counts.unaccounted(), []);
        let held: u64 = Stage::ALL.iter().map(|s| counts.flow(*s).read().held).sum();
        let net = &self.cx.net;
        let side = net.ip_out.len() + net.frag_out.len() + net.neigh_out.len() + net.link_out.len();
        let out = net.pool.small_out() as u64;
        // A packet that was put together of others holds their memory as well.
        assert!(out >= held + side as u64, "packets that are out: {out}");
        if held == 0 {
            assert_eq!(out, side as u64, "packets that are out");
            assert!(side > 0 || net.pool.large_out() == 0, "large buffers that are out");
        }
    }
    pub fn knob(&mut self, path: &str, value: &str) {
        self.cx.set_knob(path, value).expect("the knob takes the value");
    }
}

/// The name under which a drop stands in a [`Reading`].
fn drop_name(reason: Reason) -> &'static str {
    // Reasons and counters may share a name: the label of a drop has a prefix, made once a reason.
    use std::sync::OnceLock;
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    let names = NAMES.get_or_init(|| Reason::ALL.iter().map(|r| format!("drop {:?}", r)).collect());
    &names[reason as usize]
}

/// An IPv4 packet; its header can be changed before its checksum is computed.
pub(crate) fn v4_with(
    src: &str,
    dst: &str,
    proto: u8,
    payload: &[u8],
    change: impl FnOnce(&mut Ipv4Hdr),
) -> Vec<u8> {
    let mut hdr = Ipv4Hdr {
        ihl_bytes: 20,
        tos: 0,
        total_len: (20 + payload.len()) as u16,
        id: 7,
        df: false,
        mf: false,
        frag_off_bytes: 0,
        ttl: 64,
        proto,
        csum: 0,
        src: ip4(src),
        dst: ip4(dst),
    };
    change(&mut hdr);
    let mut out = vec![0; hdr.ihl_bytes];
    hdr.emit(&mut out);
    out.extend_from_slice(payload);
    out
}

pub(crate) fn v4(src: &str, dst: &str, proto: u8, payload: &[u8]) -> Vec<u8> {
    v4_with(src, dst, proto, payload, |_| {})
}

/// An IPv6 packet.
pub(crate) fn v6(src: &str, dst: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
    v6_hops(src, dst, next_header, 64, payload)
}

pub(crate) fn v6_hops(src: &str, dst: &str, next_header: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 40];
    Ipv6Hdr {
        tclass: 0,
        flow_label: 0,
        payload_len: payload.len() as u16,
        next_header,
        hop_limit: hops,
        src: ip6(src),
        dst: ip6(dst),
    }
    .emit(&mut out);
    out.extend_from_slice(payload);
    out
}

/// A UDP datagram with its checksum, without IP header.
pub(crate) fn udp(src: &str, dst: &str, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8];
    let len = (8 + payload.len()) as u16;
    UdpHdr { src_port: sport, dst_port: dport, len, csum: 0 }.emit(&mut out);
    out.extend_from_slice(payload);
    let sum = pseudo(ip(src), ip(dst), out.len(), IPPROTO_UDP);
    let csum = match csum_fold(csum_partial(&out, sum)) {
        0 => 0xffff,
        sum => sum,
    };
    out[6..8].copy_from_slice(&csum.to_be_bytes());
    out
}

pub(crate) fn udp4(src: &str, dst: &str, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    v4(src, dst, IPPROTO_UDP, &udp(src, dst, sport, dport, payload))
}

pub(crate) fn udp6(src: &str, dst: &str, sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    v6(src, dst, IPPROTO_UDP, &udp(src, dst, sport, dport, payload))
}

/// An ICMP message of IPv4.
pub(crate) fn icmp4(hdr: Icmpv4Hdr, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8];
    out.extend_from_slice(payload);
    hdr.emit(&mut out);
    out
}

/// An ICMP message of IPv6.
pub(crate) fn icmp6(src: &str, dst: &str, hdr: Icmpv6Hdr, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8];
    out.extend_from_slice(payload);
    hdr.emit(&mut out, ip6(src), ip6(dst));
    out
}

/// An Ethernet frame.
pub(crate) fn eth(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 14];
    EthHdr { dst, src, ethertype }.emit(&mut out);
    out.extend_from_slice(payload);
    out
}

/// Cuts an IPv4 packet without options into fragments of at most `room` bytes of payload.
pub(crate) fn fragment4(packet: &[u8], room: usize, id: u16) -> Vec<Vec<u8>> {
    let hdr = Ipv4Hdr::parse(packet).expect("a header");
    let data = &packet[20..];
    let room = room & !7;
    let cut = |(i, part): (usize, &[u8])| {
        let at = i * room;
        let (total_len, mf) = ((20 + part.len()) as u16, at + part.len() < data.len());
        let mut out = vec![0; 20];
        Ipv4Hdr { total_len, mf, frag_off_bytes: at as u16, id, ..hdr }.emit(&mut out);
        out.extend_from_slice(part);
        out
    };
    data.chunks(room).enumerate().map(cut).collect()
}

/// The same for an IPv6 packet without extension headers.
pub(crate) fn fragment6(packet: &[u8], room: usize, id: u32) -> Vec<Vec<u8>> {
    let hdr = Ipv6Hdr::parse(packet).expect("a header");
    let data = &packet[40..];
    let room = room & !7;
    let cut = |(i, part): (usize, &[u8])| {
        let at = i * room;
        let mf = at + part.len() < data.len();
        let mut out = vec![0; 48];
        let payload_len = (8 + part.len()) as u16;
        Ipv6Hdr { payload_len, next_header: IPPROTO_FRAGMENT, ..hdr }.emit(&mut out);
        FragHdr { next_header: hdr.next_header, frag_off_bytes: at as u16, mf, id }
            .emit(&mut out[40..]);
        out.extend_from_slice(part);
        out
    };
    data.chunks(room).enumerate().map(cut).collect()
}
