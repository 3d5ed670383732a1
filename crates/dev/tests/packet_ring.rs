//! Goal: packets of a real kernel come through the rings whole, with 1 and several queues, and what
//! happens to the interface meanwhile is survived and counted.
//! Method: a veth pair in a namespace of its own. One end is a kernel's, with UDP and TCP clients;
//! the other end is ours, through a [`Drive`] or straight through the [`Device`] trait.
//!
//! Where namespaces are not to be had, tests say SKIP and why.

mod again;
#[path = "packet_ring/drive.rs"]
mod drive;
#[path = "packet_ring/link.rs"]
mod link;

use again::{in_netns, powerless, skip};
use linerate_core::pkt::{Batch, Csum, GsoKind, Pkt, Pool};
use linerate_core::rx::steer::rss::{INDIR_LEN, Rss};
use linerate_core::time::Instant;
use linerate_dev::netdev::{Feature, Link, Netdev, PeerNetns, set_feature};
use linerate_dev::packet::ring::{Config, Fanout, OpenError, RingSocket, open};
use linerate_dev::packet::{self, Packet};
use linerate_dev::{Device, RxCx};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;

const OURS4: &str = "10.77.0.1";
const OURS6: &str = "fd77::1";
const THEIRS4: &str = "10.77.0.2";
const THEIRS6: &str = "fd77::2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A veth pair: `near` is ours, `far` has the kernel's addresses and knows our link address.
struct Wire {
    netdev: Netdev,
    near: Link,
    far: Link,
}

impl Wire {
    fn new() -> Wire {
        let mut netdev = Netdev::open().unwrap();
        netdev.add_veth("near", "far", PeerNetns::Same).unwrap();
        let mut wire = {
            let (near, far) = (netdev.link("near").unwrap(), netdev.link("far").unwrap());
            Wire { netdev, near, far }
        };
        for index in [wire.near.index, wire.far.index] {
            wire.netdev.set_addr_gen_none(index).unwrap();
            wire.netdev.set_up(index, true).unwrap();
        }
        wire.netdev.add_addr(wire.far.index, ip(THEIRS4), 24).unwrap();
        wire.netdev.add_addr(wire.far.index, ip(THEIRS6), 64).unwrap();
        for ours in [OURS4, OURS6] {
            wire.netdev.add_neigh(wire.far.index, ip(ours), wire.near.mac.unwrap()).unwrap();
        }
        for index in [wire.near.index, wire.far.index] {
            while !wire.netdev.link_by_index(index).unwrap().running {
                std::thread::yield_now();
            }
        }
        wire
    }
}

/// Receives for at least `wanted` packets of UDP to port 9, from all queues; gives up when a second
/// passes without any.
fn receive(queues: &mut [RingSocket], pool: &mut Pool, wanted: usize) -> Vec<(u8, Pkt)> {
    let mut got = Vec::new();
    let mut last = std::time::Instant::now();
    while got.len() < wanted && last.elapsed().as_secs() < 5 {
        for dev in queues.iter_mut() {
            let (mut batch, mut dropped) = (Batch::new(), Vec::new());
            let now = Instant::from_ns(1);
            let mut cx = RxCx { pool, now, dev: 0, dropped: &mut dropped };
            dev.rx_burst(&mut cx, &mut batch, 64).unwrap();
            assert!(dropped.is_empty());
            for pkt in batch.now.drain(..) {
                if is_udp9(&bytes(&pkt)) {
                    got.push((dev.queue(), pkt));
                    last = std::time::Instant::now();
                } else {
                    pool.free(pkt);
                }
            }
        }
    }
    got
}

fn bytes(pkt: &Pkt) -> Vec<u8> {
    pkt.slices().flatten().copied().collect()
}

fn is_udp9(frame: &[u8]) -> bool {
    let port = |at: usize| frame.get(at..at + 2) == Some(&[0, 9]);
    match frame.get(12..14) {
        Some([8, 0]) => frame.get(23) == Some(&17) && port(36),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&17) && port(56),
        _ => false,
    }
}

#[test]
fn datagrams_of_all_lengths_come_whole_on_both_ip_versions() {
    const TEST: &str = "datagrams_of_all_lengths_come_whole_on_both_ip_versions";
    if !in_netns(TEST) {
        return;
    }
    let mut wire = Wire::new();
    wire.netdev.set_mtu(wire.far.index, 65535).unwrap();
    wire.netdev.set_mtu(wire.near.index, 65535).unwrap();
    for vnet_hdr in [true, false] {
        let opened = open(Config { vnet_hdr, ..Config::new("near") }).unwrap();
        assert_eq!(opened.notes, Vec::<String>::new());
        let mut queues = opened.queues;
        let mut pool = Pool::new(1024, 64);
        for (ours, theirs, header, most) in
            [(OURS4, THEIRS4, 42, 65_507), (OURS6, THEIRS6, 62, 65_487)]
        {
            let socket = UdpSocket::bind(SocketAddr::new(ip(theirs), 0)).unwrap();
            let lengths = (0..=64).chain(1400..1900).step_by(7).chain([1846, 1847, 1888, 1889]);
            for len in lengths.chain([most - 1, most]).chain((2000..most).step_by(4999)) {
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
                socket.send_to(&data, SocketAddr::new(ip(ours), 9)).unwrap();
                let got = receive(&mut queues, &mut pool, 1);
                let [(0, pkt)] = &got[..] else { panic!("{len} bytes to {ours}: {got:?}") };
                let frame = bytes(pkt);
                assert_eq!(frame.len(), header + len, "{vnet_hdr} {ours}");
                assert!(frame[header..] == data[..], "{len} bytes to {ours}");
                // The sender left the checksum to its device.
                assert!(matches!(pkt.csum, Csum::Partial { offset: 6, .. }), "{:?}", pkt.csum);
                got.into_iter().for_each(|(_, pkt)| pool.free(pkt));
            }
        }
        assert_eq!((pool.small_out(), pool.large_out()), (0, 0));
    }
}

#[test]
fn our_own_table_says_which_queue_a_flow_has() {
    const TEST: &str = "our_own_table_says_which_queue_a_flow_has";
    if !in_netns(TEST) {
        return;
    }
    let _wire = Wire::new();
    let indir = |by: usize| std::array::from_fn::<u8, INDIR_LEN, _>(|i| (i / by % 3) as u8);
    let mut rss = Rss { indir: indir(1), ..Rss::default() };
    let fanout = Fanout::Rss(rss.clone());
    let mut queues =
        open(Config { queues: 3, fanout, blocks: 8, ..Config::new("near") }).unwrap().queues;
    let mut pool = Pool::new(1024, 64);
    let toeplitz = linerate_arch_hash(&rss.key);
    let mut used = BTreeSet::new();
    for round in 0..2 {
        for n in 0..60u16 {
            for (ours, theirs) in [(OURS4, THEIRS4), (OURS6, THEIRS6)] {
                let from = SocketAddr::new(ip(theirs), 20_000 + n);
                let socket = UdpSocket::bind(from).unwrap();
                socket.send_to(b"x", SocketAddr::new(ip(ours), 9)).unwrap();
                let got = receive(&mut queues, &mut pool, 1);
                let hash = toeplitz(from, SocketAddr::new(ip(ours), 9));
                let wanted = rss.indir[hash as usize % INDIR_LEN];
                let [(queue, _)] = &got[..] else { panic!("{from}: {} packets", got.len()) };
                assert_eq!(*queue, wanted, "round {round}, from {from}");
                used.insert(*queue);
                got.into_iter().for_each(|(_, pkt)| pool.free(pkt));
            }
        }
        rss.indir = indir(32);
        assert!(queues[1].set_rss(&rss));
    }
    assert_eq!(used.len(), 3);
}

/// The Toeplitz hash by its definition.
fn linerate_arch_hash(key: &[u8]) -> impl Fn(SocketAddr, SocketAddr) -> u32 + use<> {
    let key = key.to_vec();
    move |from, to| {
        let octets = |a: IpAddr| match a {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let mut input = octets(from.ip());
        input.extend(octets(to.ip()));
        input.extend(from.port().to_be_bytes());
        input.extend(to.port().to_be_bytes());
        let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).map_or(0, |b| b >> (7 - at % 8) & 1);
        (0..input.len() * 8).filter(|&at| bit(&input, at) == 1).fold(0, |hash, at| {
            hash ^ (at..at + 32).fold(0u32, |w, b| w << 1 | u32::from(bit(&key, b)))
        })
    }
}

#[test]
fn every_way_to_share_gives_each_packet_to_one_queue() {
    const TEST: &str = "every_way_to_share_gives_each_packet_to_one_queue";
    if !in_netns(TEST) {
        return;
    }
    let _wire = Wire::new();
    let ways = [
        Fanout::Hash,
        Fanout::Cpu,
        Fanout::Lb,
        Fanout::Rollover,
        Fanout::Qm,
        Fanout::Random,
        Fanout::Rss(Rss::default()),
    ];
    let mut pool = Pool::new(4096, 64);
    for fanout in ways {
        for rollover in [false, true] {
            let config = Config {
                queues: 4,
                blocks: 4,
                fanout: fanout.clone(),
                rollover,
                ..Config::new("near")
            };
            let mut queues = open(config).unwrap().queues;
            let mut per_flow: BTreeMap<u16, BTreeSet<u8>> = BTreeMap::new();
            const FLOWS: usize = 32;
            for flow in 0..FLOWS {
                let socket = UdpSocket::bind((THEIRS4, 0)).unwrap();
                for _ in 0..3 {
                    socket.send_to(&[flow as u8; 100], (OURS4, 9)).unwrap();
                }
                let got = receive(&mut queues, &mut pool, 3);
                assert_eq!(got.len(), 3, "{fanout:?}");
                for (queue, pkt) in got {
                    assert_eq!(pkt.queue, queue);
                    per_flow.entry(flow as u16).or_default().insert(queue);
                    pool.free(pkt);
                }
            }
            let queues_used: BTreeSet<u8> = per_flow.values().flatten().copied().collect();
            let torn = per_flow.values().filter(|q| q.len() > 1).count();
            match fanout {
                Fanout::Hash => assert!(torn == 0 && queues_used.len() > 1, "{per_flow:?}"),
                Fanout::Qm | Fanout::Rss(_) => {
                    assert_eq!((torn, queues_used.len()), (0, 1), "{fanout:?} {per_flow:?}");
                }
                Fanout::Lb => assert!(torn == FLOWS && queues_used.len() == 4, "{per_flow:?}"),
                _ => {}
            }
            let packets = |q: &RingSocket| q.statistics()[0].1;
            let counted: u64 = queues.iter().map(packets).sum();
            assert!(counted >= 3 * FLOWS as u64, "{fanout:?}: {counted}");
        }
    }
}

/// A UDP datagram from us to the kernel's end, with headroom for everything.
fn datagram(pool: &mut Pool, wire: &Wire, port: u16, data: &[u8]) -> Pkt {
    let mut pkt = pool.alloc().unwrap();
    let (near, far) = (wire.near.mac.unwrap(), wire.far.mac.unwrap());
    let mut head = Vec::new();
    head.extend(far);
    head.extend(near);
    head.extend([8, 0]);
    let total = (28 + data.len()) as u16;
    head.extend([0x45, 0]);
    head.extend(total.to_be_bytes());
    head.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
    let sum: u32 =
        head[14..34].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    head[24..26].copy_from_slice(&sum.to_be_bytes());
    head.extend(9u16.to_be_bytes());
    head.extend(port.to_be_bytes());
    head.extend((total - 20).to_be_bytes());
    // No checksum: UDP over IPv4 may.
    head.extend([0, 0]);
    pkt.put(head.len()).copy_from_slice(&head);
    if data.len() <= pkt.tailroom() {
        pkt.put(data.len()).copy_from_slice(data);
    } else {
        let mut large = pool.alloc_large().unwrap();
        large[..data.len()].copy_from_slice(data);
        pkt.add_buf(large, 0, data.len());
    }
    pkt.network = pkt.data_offset() + 14;
    pkt
}

/// Sends all of `ring` and returns how many the device took and refused.
fn transmit(dev: &mut dyn Device, ring: &mut VecDeque<Pkt>, pool: &mut Pool) -> (usize, usize) {
    let (mut done, mut taken, mut refused) = (Vec::new(), 0, 0);
    let start = std::time::Instant::now();
    while !ring.is_empty() && start.elapsed().as_secs() < 20 {
        dev.tx_burst(ring, &mut done).unwrap();
        for (pkt, sent) in done.drain(..) {
            *(if sent { &mut taken } else { &mut refused }) += 1;
            pool.free(pkt);
        }
    }
    (taken, refused)
}

#[test]
fn what_we_send_arrives_in_order_whether_long_or_short() {
    const TEST: &str = "what_we_send_arrives_in_order_whether_long_or_short";
    if !in_netns(TEST) {
        return;
    }
    let mut wire = Wire::new();
    wire.netdev.set_mtu(wire.far.index, 65535).unwrap();
    wire.netdev.set_mtu(wire.near.index, 65535).unwrap();
    let server = UdpSocket::bind((THEIRS4, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    for (frames, vnet_hdr, bypass) in
        [(256, true, false), (256, false, false), (32, true, true), (0, true, false)]
    {
        let config = Config { frames, vnet_hdr, qdisc_bypass: bypass, ..Config::new("near") };
        let mut dev = open(config).unwrap().queues.remove(0);
        let mut pool = Pool::new(4096, 64);
        let mut ring = VecDeque::new();
        // Rounds, so that the server's socket has room.
        for round in 0..40u32 {
            for i in 0..24u32 {
                let n = round * 24 + i;
                let len = [4usize, 18, 1000, 1472, 1900, 5000, 60_000][n as usize % 7];
                let data: Vec<u8> = n.to_be_bytes().into_iter().cycle().take(len).collect();
                ring.push_back(datagram(&mut pool, &wire, port, &data));
                if n % 7 == 6 {
                    break;
                }
            }
            let sent = ring.len();
            assert_eq!(transmit(&mut dev, &mut ring, &mut pool), (sent, 0), "{frames} {vnet_hdr}");
            let mut buf = vec![0; 65536];
            let (mut last, mut first) = (0, true);
            for _ in 0..sent {
                let len = server.recv(&mut buf).unwrap();
                let n = u32::from_be_bytes([buf[0], buf[1], buf[2], buf[3]]);
                assert!(first || n == last + 1, "{n} after {last}");
                assert!(buf[..len].chunks_exact(4).all(|c| c == n.to_be_bytes()));
                (last, first) = (n, false);
            }
        }
        assert_eq!(dev.counts().tx_refused, 0);
        assert_eq!(dev.rings().tx, frames);
        assert_eq!((pool.small_out(), pool.large_out()), (0, 0));
    }
}

#[test]
fn super_packets_go_both_ways_and_tags_too() {
    const TEST: &str = "super_packets_go_both_ways_and_tags_too";
    if !in_netns(TEST) {
        return;
    }
    let wire = Wire::new();
    let mut dev = open(Config::new("near")).unwrap().queues.remove(0);
    let mut pool = Pool::new(1024, 64);
    // From the kernel: one call sends thirty datagrams.
    const SEND: &str = "import socket, sys
s = socket.socket(fileno=0)
s.setsockopt(socket.IPPROTO_UDP, 103, 1000)
s.send(b''.join(bytes([i]) * 1000 for i in range(30)))";
    let socket = UdpSocket::bind((THEIRS4, 0)).unwrap();
    socket.connect((OURS4, 9)).unwrap();
    let own = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
    match Command::new("python3").args(["-c", SEND]).stdin(own).status() {
        Ok(status) => {
            assert!(status.success());
            let got = receive(std::slice::from_mut(&mut dev), &mut pool, 1);
            let pkt = &got.first().expect("a super-packet").1;
            let gso = pkt.gso.expect("it is one");
            assert_eq!((gso.kind, gso.size, gso.segs), (GsoKind::Udp, 1000, 30));
            assert_eq!(pkt.len(), 42 + 30_000);
            got.into_iter().for_each(|(_, pkt)| pool.free(pkt));
        }
        Err(_) => skip(TEST, "python3 is not installed"),
    }
    // From us: thirty datagrams of one.
    let server = UdpSocket::bind((THEIRS4, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let data: Vec<u8> = (0..30u8).flat_map(|i| [i; 1000]).collect();
    let mut pkt = datagram(&mut pool, &wire, port, &data);
    let sum = pseudo_sum(28 + 30_000 - 20);
    pkt.head_mut()[40..42].copy_from_slice(&sum.to_be_bytes());
    pkt.csum = Csum::Partial { start: 20, offset: 6 };
    pkt.gso =
        Some(linerate_core::pkt::Gso { kind: GsoKind::Udp, size: 1000, segs: 30, ecn: false });
    let mut ring = VecDeque::from([pkt]);
    assert_eq!(transmit(&mut dev, &mut ring, &mut pool), (1, 0));
    let mut buf = [0; 2048];
    for i in 0..30 {
        assert_eq!(server.recv(&mut buf).unwrap(), 1000);
        assert!(buf[..1000].iter().all(|&b| b == i), "datagram {i}");
    }
    // A tag goes out in the frame and comes in aside of it: seen by a second pair of rings.
    let mut other =
        open(Config { vnet_hdr: false, ..Config::new("far") }).unwrap().queues.remove(0);
    let mut tagged = datagram(&mut pool, &wire, 9, b"tagged");
    tagged.vlan = Some(0x2064);
    assert_eq!(transmit(&mut dev, &mut VecDeque::from([tagged]), &mut pool), (1, 0));
    let got = receive(std::slice::from_mut(&mut other), &mut pool, 1);
    assert_eq!(got.first().map(|(_, p)| p.vlan), Some(Some(0x2064)));
    got.into_iter().for_each(|(_, pkt)| pool.free(pkt));
}

/// The pseudo header's sum of a UDP datagram between our addresses.
fn pseudo_sum(len: u32) -> u16 {
    let words = [0x0a4d, 0x0001, 0x0a4d, 0x0002, 17, len];
    let sum: u32 = words.iter().sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn libc_enetdown() -> i32 {
    100
}

/// Takes what is left, reports of the kernel's perhaps, until nothing is and the device is asked why.
fn drain(dev: &mut RingSocket, pool: &mut Pool) {
    let (mut batch, mut dropped) = (Batch::new(), Vec::new());
    let mut cx = RxCx { pool, now: Instant::ZERO, dev: 0, dropped: &mut dropped };
    while dev.rx_burst(&mut cx, &mut batch, 64).unwrap() > 0 {
        batch.now.drain(..).for_each(|p| cx.pool.free(p));
    }
}

/// All that `ip` has to say of an interface.
fn details(name: &str) -> String {
    let out = Command::new("ip").args(["-d", "link", "show", name]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Frames of all lengths, which no protocol has anything to do with, from one socket to another.
#[test]
fn frames_of_every_length_pass() {
    const TEST: &str = "frames_of_every_length_pass";
    if !in_netns(TEST) {
        return;
    }
    let mut wire = Wire::new();
    for index in [wire.near.index, wire.far.index] {
        wire.netdev.set_mtu(index, 65535).unwrap();
    }
    let mut near = open(Config::new("near")).unwrap().queues.remove(0);
    let mut far =
        open(Config { frame_bytes: 4096, ..Config::new("far") }).unwrap().queues.remove(0);
    let mut pool = Pool::new(256, 64);
    let data: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let most = 14 + 65_535;
    let mut lengths = (14..2100).chain((2100..most).step_by(37)).chain([most - 1, most]);
    let mut sent_all = false;
    let (mut sent, mut got) = (VecDeque::new(), 0);
    while !sent_all || !sent.is_empty() {
        let mut ring = VecDeque::new();
        for len in lengths.by_ref().take(16) {
            let mut pkt = pool.alloc().unwrap();
            let head = len.min(pkt.tailroom());
            pkt.put(head).copy_from_slice(&data[..head]);
            // To a group, by a protocol for experiments.
            pkt.head_mut()[..14].copy_from_slice(&[3, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
            if len > head {
                let mut large = pool.alloc_large().unwrap();
                large[..len - head].copy_from_slice(&data[head..len]);
                pkt.add_buf(large, 0, len - head);
            }
            pkt.network = pkt.data_offset() + 14;
            sent.push_back(len);
            ring.push_back(pkt);
        }
        sent_all = ring.is_empty();
        let all = ring.len();
        assert_eq!(transmit(&mut far, &mut ring, &mut pool), (all, 0));
        let mut left = all;
        while left > 0 {
            let (mut batch, mut dropped) = (Batch::new(), Vec::new());
            let now = Instant::ZERO;
            let mut cx = RxCx { pool: &mut pool, now, dev: 0, dropped: &mut dropped };
            near.rx_burst(&mut cx, &mut batch, 64).unwrap();
            assert!(dropped.is_empty());
            for pkt in batch.now.drain(..) {
                let frame = bytes(&pkt);
                if frame[12..14] == [0x88, 0xb5] {
                    assert_eq!(Some(frame.len()), sent.pop_front());
                    assert!(frame[14..] == data[14..frame.len()], "{} bytes", frame.len());
                    (left, got) = (left - 1, got + 1);
                }
                pool.free(pkt);
            }
        }
    }
    assert!(got > 3500, "{got}");
    assert_eq!((near.counts().overflow, pool.small_out(), pool.large_out()), (0, 0, 0));
}

/// Queues come and go at the end of the row; flows move only where the table says so.
#[test]
fn queues_are_added_and_taken_away_while_packets_come() {
    const TEST: &str = "queues_are_added_and_taken_away_while_packets_come";
    if !in_netns(TEST) {
        return;
    }
    let _wire = Wire::new();
    let table = |n: usize| std::array::from_fn::<u8, INDIR_LEN, _>(|i| (i % n) as u8);
    let rss = |n| Rss { indir: table(n), ..Rss::default() };
    let fanout = Fanout::Rss(rss(1));
    let opened = open(Config { fanout, blocks: 4, ..Config::new("near") }).unwrap();
    let (mut queues, mut group) = (opened.queues, opened.group);
    let mut pool = Pool::new(1024, 64);
    let sockets: Vec<_> = (0..24).map(|_| UdpSocket::bind((THEIRS4, 0)).unwrap()).collect();
    let toeplitz = linerate_arch_hash(&rss(1).key);
    let mut check = |queues: &mut Vec<RingSocket>, n: usize| {
        for socket in &sockets {
            socket.send_to(b"x", (OURS4, 9)).unwrap();
        }
        let got = receive(queues, &mut pool, sockets.len());
        assert_eq!(got.len(), sockets.len(), "{n} queues");
        for (queue, pkt) in got {
            let port = u16::from_be_bytes([pkt.head()[34], pkt.head()[35]]);
            let from = SocketAddr::new(ip(THEIRS4), port);
            let hash = toeplitz(from, SocketAddr::new(ip(OURS4), 9));
            assert_eq!(queue, table(n)[hash as usize % INDIR_LEN], "{n} queues, from {from}");
            pool.free(pkt);
        }
    };
    check(&mut queues, 1);
    for n in 2..=4 {
        queues.push(group.open_queue(queues.len() as u8).unwrap());
        // It is there, and nothing has changed.
        check(&mut queues, n - 1);
        assert!(queues[0].set_rss(&rss(n)));
        check(&mut queues, n);
    }
    for n in (1..4).rev() {
        assert!(queues[n].set_rss(&rss(n)));
        check(&mut queues, n);
        queues.pop();
        check(&mut queues, n);
    }
    assert!(matches!(group.open_queue(64), Err(OpenError::Config { .. })));
}
