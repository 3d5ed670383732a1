//! Goal: the devices move real traffic of real kernels, whole.
//! Method: two peers, each a kernel in a network namespace of its own (this test binary, executed
//! again under `unshare`), exchange TCP and UDP over both IP versions. The only connection between
//! them is this process, which relays packets from one device to the other through the
//! [`Device`] trait. Every byte is checked by the receiving peer.
//!
//! Where namespaces or `/dev/net/tun` are not to be had, tests say SKIP and why.

mod again;
#[path = "netns/peers.rs"]
mod peers;

use again::{again, in_netns, role, skip, unshare};
use linerate_core::pkt::{Batch, Csum, GsoKind, Pkt, Pool};
use linerate_core::time::Instant;
use linerate_dev::netdev::{
    Feature, Losses, Netdev, PeerNetns, Route, RouteKind, feature, set_feature,
};
use linerate_dev::packet::{self, Packet};
use linerate_dev::poller::{Interest, Poller, Waker};
use linerate_dev::tun::{self, Tun};
use linerate_dev::{Device, Layer, RxCx};
use peers::{CLIENT4, SERVER4, Seen, be_client, between_peers, has_python, serve};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn tun_between_peers(test: &str, config: impl Fn(&str) -> tun::Config) -> Option<Seen> {
    match role().as_str() {
        "server" => serve(),
        "client" => be_client(),
        _ => {
            if let Err(err) = Tun::open(&config("probe")) {
                skip(test, &err.to_string());
                return None;
            }
            let mut netdev = Netdev::open().unwrap();
            return Some(between_peers(
                test,
                |suffix, peer| {
                    let tun = Tun::open(&config(&format!("lr-{suffix}"))).unwrap();
                    let name = tun.name().to_owned();
                    let link = netdev.link(&name).unwrap();
                    assert_eq!((link.mtu, link.up), (1500, false));
                    netdev.set_netns(link.index, peer.netns()).unwrap();
                    (Box::new(tun), name)
                },
                || (),
            ));
        }
    }
    None
}

#[test]
fn tun_with_offloads_carries_super_packets_whole() {
    const TEST: &str = "tun_with_offloads_carries_super_packets_whole";
    if in_netns(TEST)
        && let Some(seen) = tun_between_peers(TEST, tun::Config::new)
    {
        assert!(seen.super_tcp > 100 && seen.longest > 10_000 && seen.partial > 100, "{seen:?}");
        assert!(seen.super_udp >= 2 || !has_python(), "{seen:?}");
    }
}

#[test]
fn tun_without_offloads_carries_plain_packets() {
    const TEST: &str = "tun_without_offloads_carries_plain_packets";
    if in_netns(TEST)
        && let Some(seen) = tun_between_peers(TEST, |n| tun::Config::new(n).plain())
    {
        assert_eq!((seen.super_tcp, seen.super_udp, seen.partial), (0, 0, 0), "{seen:?}");
        assert_eq!(seen.longest, 1500);
    }
}

#[test]
fn tun_with_checksums_only_carries_no_super_packets() {
    const TEST: &str = "tun_with_checksums_only_carries_no_super_packets";
    let csum = |n: &str| tun::Config { tso: false, uso: false, ..tun::Config::new(n) };
    if in_netns(TEST)
        && let Some(seen) = tun_between_peers(TEST, csum)
    {
        assert_eq!((seen.super_tcp, seen.longest), (0, 1500), "{seen:?}");
        assert!(seen.partial > 100, "{seen:?}");
    }
}

#[test]
fn tap_carries_ethernet_super_packets() {
    const TEST: &str = "tap_carries_ethernet_super_packets";
    let tap = |n: &str| tun::Config { layer: Layer::Ethernet, ..tun::Config::new(n) };
    if in_netns(TEST)
        && let Some(seen) = tun_between_peers(TEST, tap)
    {
        assert!(seen.super_tcp > 100 && seen.longest > 10_000, "{seen:?}");
    }
}

fn veth_between_peers(test: &str, config: packet::Config) -> Option<Seen> {
    match role().as_str() {
        "server" => serve(),
        "client" => be_client(),
        _ => {
            let mut netdev = Netdev::open().unwrap();
            return Some(between_peers(
                test,
                |suffix, peer| {
                    let (near, far) = (format!("near-{suffix}"), format!("far-{suffix}"));
                    let netns = peer.netns();
                    netdev.add_veth(&near, &far, PeerNetns::Fd(netns.as_fd())).unwrap();
                    let link = netdev.link(&near).unwrap();
                    netdev.set_addr_gen_none(link.index).unwrap();
                    netdev.set_up(link.index, true).unwrap();
                    (Box::new(Packet::open(&link, config).unwrap()), far)
                },
                || {
                    // Until the kernel has noticed the carrier it swallows what is sent.
                    for near in ["near-a", "near-b"] {
                        while !Netdev::open().unwrap().link(near).unwrap().running {
                            std::thread::sleep(std::time::Duration::from_millis(1));
                        }
                    }
                },
            ));
        }
    }
    None
}

#[test]
fn af_packet_on_a_veth_carries_super_packets_whole() {
    const TEST: &str = "af_packet_on_a_veth_carries_super_packets_whole";
    if in_netns(TEST)
        && let Some(seen) = veth_between_peers(TEST, packet::Config::default())
    {
        assert!(seen.super_tcp > 100 && seen.longest > 10_000 && seen.partial > 100, "{seen:?}");
        assert!(seen.super_udp >= 2 || !has_python(), "{seen:?}");
    }
}

#[test]
fn interfaces_are_configured_as_asked() {
    const TEST: &str = "interfaces_are_configured_as_asked";
    if !in_netns(TEST) {
        return;
    }
    let mut netdev = Netdev::open().unwrap();
    netdev.add_veth("one", "two", PeerNetns::Same).unwrap();
    let again = netdev.add_veth("one", "three", PeerNetns::Same).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists, "{again}");
    assert!(again.to_string().starts_with("cannot make the veth pair one, three: "), "{again}");
    let one = netdev.link("one").unwrap();
    netdev.set_mac(one.index, [2, 0, 0, 0, 0, 9]).unwrap();
    netdev.set_mtu(one.index, 9000).unwrap();
    netdev.set_txqueuelen(one.index, 77).unwrap();
    let two = netdev.link("two").unwrap();
    for link in [&one, &two] {
        assert!(!link.up && !link.running);
        netdev.set_addr_gen_none(link.index).unwrap();
        netdev.set_up(link.index, true).unwrap();
    }
    let one = netdev.link_by_index(one.index).unwrap();
    assert_eq!((one.mtu, one.mac, one.txqueuelen), (9000, Some([2, 0, 0, 0, 0, 9]), 77));
    assert!(one.up && one.name == "one");

    let ip = |s: &str| s.parse::<IpAddr>().unwrap();
    for (addr, bits) in [("10.5.0.1", 24), ("fd05::1", 64)] {
        netdev.add_addr(one.index, ip(addr), bits).unwrap();
        // No duplicate detection: it can be bound at once.
        UdpSocket::bind(SocketAddr::new(ip(addr), 0)).unwrap();
        let err = netdev.add_addr(one.index, ip(addr), bits).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::AlreadyExists, "{err}");
    }
    let lo = netdev.link("lo").unwrap().index;
    netdev.set_up(lo, true).unwrap();
    for (any, net, bits, inside) in
        [("0.0.0.0", "192.0.2.0", 24, "192.0.2.77"), ("::", "2001:db8::", 32, "2001:db8::7")]
    {
        let server = UdpSocket::bind(SocketAddr::new(ip(any), 0)).unwrap();
        let to = SocketAddr::new(ip(inside), server.local_addr().unwrap().port());
        let client = UdpSocket::bind(SocketAddr::new(ip(any), 0)).unwrap();
        assert!(client.send_to(b"x", to).is_err());
        let local = Route { dev: Some(lo), kind: RouteKind::Local, ..Route::to(ip(net), bits) };
        netdev.add_route(&local).unwrap();
        client.send_to(b"whole network", to).unwrap();
        assert_eq!(server.recv(&mut [0; 64]).unwrap(), 13);
    }
    for (any, via, far) in [("0.0.0.0", "10.5.0.2", "198.51.100.1"), ("::", "fd05::2", "2600::1")] {
        let connect = || {
            let socket = UdpSocket::bind(SocketAddr::new(ip(any), 0)).unwrap();
            socket.connect(SocketAddr::new(ip(far), 9)).map(|()| socket)
        };
        assert!(connect().is_err());
        netdev.add_route(&Route { via: Some(ip(via)), ..Route::to(ip(any), 0) }).unwrap();
        connect().unwrap();
        netdev.add_neigh(one.index, ip(via), two.mac.unwrap()).unwrap();
    }
    let unreachable = Route { via: Some(ip("203.0.113.1")), ..Route::to(ip("203.0.113.0"), 24) };
    let err = netdev.add_route(&unreachable).unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::NetworkUnreachable);
    // The kernel's own sentence is part of ours.
    assert!(err.to_string().contains("Nexthop has invalid gateway"), "{err}");
    assert!(netdev.link("nothing").unwrap_err().to_string().contains("nothing"));
    assert!(netdev.set_mtu(one.index, 1).is_err());

    assert!(feature("one", Feature::Tx).unwrap());
    set_feature("one", Feature::Tx, false).unwrap();
    assert!(!feature("one", Feature::Tx).unwrap());
    netdev.del_link(one.index).unwrap();
    assert!(netdev.link("two").is_err());
}

#[test]
fn a_tun_name_in_use_and_packets_the_kernel_refuses() {
    const TEST: &str = "a_tun_name_in_use_and_packets_the_kernel_refuses";
    if !in_netns(TEST) {
        return;
    }
    let mut tun = match Tun::open(&tun::Config::new("lr0")) {
        Ok(tun) => tun,
        Err(err) => return skip(TEST, &err.to_string()),
    };
    let err = Tun::open(&tun::Config::new("lr0")).unwrap_err();
    assert!(err.to_string().contains("in use"), "{err}");
    assert!(Tun::open(&tun::Config::new("a-name-that-is-too-long")).is_err());
    let many = tun::Config { multi_queue: true, ..tun::Config::new("lrq") };
    let first = Tun::open(&many).unwrap();
    let second = first.open_queue().unwrap();
    assert_eq!((first.name(), first.caps()), (second.name(), second.caps()));

    let mut netdev = Netdev::open().unwrap();
    let index = netdev.link("lr0").unwrap().index;
    let mut pool = Pool::new(8, 8);
    let (mut ring, mut done) = (VecDeque::new(), Vec::new());
    // Down: refused. Up: neither IPv4 nor IPv6 is refused, an IPv4 header is taken.
    for (up, first_byte, taken) in [(false, 0x45, false), (true, 0x10, false), (true, 0x45, true)] {
        netdev.set_up(index, up).unwrap();
        let mut pkt = pool.alloc().unwrap();
        pkt.put(20).fill(0);
        pkt.head_mut()[0] = first_byte;
        pkt.network = pkt.data_offset();
        ring.push_back(pkt);
        assert_eq!(tun.tx_burst(&mut ring, &mut done).unwrap(), 1);
        let (pkt, sent) = done.pop().unwrap();
        assert_eq!(sent, taken, "up: {up}, first byte {first_byte:#x}");
        pool.free(pkt);
    }
    assert_eq!(tun.counts().tx_refused, 2);
    assert_ne!(tun.counts().tx_errno, 0);
    // An interface that is down has nothing to give; one that is gone is an error.
    netdev.set_up(index, false).unwrap();
    while poll(&mut tun, &mut pool).unwrap() > 0 {}
    netdev.del_link(index).unwrap();
    assert!(poll(&mut tun, &mut pool).is_err());
}

#[test]
fn a_plain_tun_follows_an_mtu_that_was_raised_behind_its_back() {
    const TEST: &str = "a_plain_tun_follows_an_mtu_that_was_raised_behind_its_back";
    if !in_netns(TEST) {
        return;
    }
    let mut tun = match Tun::open(&tun::Config::new("lr0").plain()) {
        Ok(tun) => tun,
        Err(err) => return skip(TEST, &err.to_string()),
    };
    let mut netdev = Netdev::open().unwrap();
    let index = netdev.link("lr0").unwrap().index;
    netdev.set_addr_gen_none(index).unwrap();
    netdev.set_mtu(index, 9000).unwrap();
    netdev.set_up(index, true).unwrap();
    netdev.add_addr(index, CLIENT4.parse().unwrap(), 24).unwrap();
    let socket = UdpSocket::bind((CLIENT4, 0)).unwrap();
    let mut pool = Pool::new(8, 8);
    let mut lengths = Vec::new();
    for _ in 0..3 {
        socket.send_to(&[7; 5000], (SERVER4, 9)).unwrap();
        let (mut batch, mut dropped) = (Batch::new(), Vec::new());
        let mut cx = RxCx { pool: &mut pool, now: Instant::ZERO, dev: 0, dropped: &mut dropped };
        while tun.rx_burst(&mut cx, &mut batch, 1).unwrap() == 1 {
            let pkt = batch.now.pop().unwrap();
            // Multicast group reports come on their own account.
            if pkt.head()[9] == 17 {
                lengths.push(pkt.len());
            }
            cx.pool.free(pkt);
        }
    }
    assert_eq!(lengths.len(), 3);
    assert!(lengths[0] < 5028, "{lengths:?}");
    assert_eq!((lengths[1], lengths[2], tun.counts().rx_truncated), (5028, 5028, 1));
}

#[test]
fn a_packet_socket_counts_what_the_kernel_dropped() {
    const TEST: &str = "a_packet_socket_counts_what_the_kernel_dropped";
    if !in_netns(TEST) {
        return;
    }
    let mut netdev = Netdev::open().unwrap();
    netdev.add_veth("near", "far", PeerNetns::Same).unwrap();
    let near = netdev.link("near").unwrap();
    let far = netdev.link("far").unwrap();
    for link in [&near, &far] {
        netdev.set_addr_gen_none(link.index).unwrap();
        netdev.set_up(link.index, true).unwrap();
    }
    netdev.add_addr(far.index, CLIENT4.parse().unwrap(), 24).unwrap();
    netdev.add_neigh(far.index, SERVER4.parse().unwrap(), near.mac.unwrap()).unwrap();
    let config = packet::Config { rcvbuf_bytes: 4096, ..packet::Config::default() };
    let mut dev = Packet::open(&near, config).unwrap();
    let socket = UdpSocket::bind((CLIENT4, 0)).unwrap();
    const SENT: usize = 200;
    for _ in 0..SENT {
        socket.send_to(&[7; 1000], (SERVER4, 9)).unwrap();
    }
    let mut pool = Pool::new(1024, 8);
    let (mut batch, mut dropped) = (Batch::new(), Vec::new());
    let now = Instant::from_ns(1_000_000_000);
    let mut cx = RxCx { pool: &mut pool, now, dev: 0, dropped: &mut dropped };
    dev.rx_burst(&mut cx, &mut batch, 1000).unwrap();
    dev.count_overflow();
    let udp = |p: &&Pkt| p.len() == 1042;
    let (got, lost) = (batch.now.iter().filter(udp).count(), dev.counts().overflow);
    assert!(got > 0 && lost > 0, "{got} received, {lost} lost");
    // Every datagram is in one of the two counts; a stray report may be lost as well.
    assert!(got as u64 + lost >= SENT as u64, "{got} received, {lost} lost");
}

#[test]
fn a_tun_counts_what_met_its_full_ring() {
    const TEST: &str = "a_tun_counts_what_met_its_full_ring";
    if !in_netns(TEST) {
        return;
    }
    let mut dev = match Tun::open(&tun::Config::new("lr0")) {
        Ok(tun) => tun,
        Err(err) => return skip(TEST, &err.to_string()),
    };
    const RING: u64 = 4;
    const SENT: u64 = 100;
    let mut netdev = Netdev::open().unwrap();
    let index = netdev.link("lr0").unwrap().index;
    netdev.set_addr_gen_none(index).unwrap();
    netdev.set_txqueuelen(index, RING as u32).unwrap();
    netdev.set_up(index, true).unwrap();
    netdev.add_addr(index, CLIENT4.parse().unwrap(), 24).unwrap();
    while !netdev.link_by_index(index).unwrap().running {
        std::thread::yield_now();
    }
    let socket = UdpSocket::bind((CLIENT4, 0)).unwrap();
    let blast = || (0..SENT).for_each(|_| drop(socket.send_to(&[7; 1000], (SERVER4, 9))));
    // What was lost before anybody counts is not counted.
    blast();
    let before = netdev.link_stats(index).unwrap();
    assert!(before.tx_dropped >= SENT - RING, "{before:?}");
    let theirs = netdev.as_fd().try_clone_to_owned().unwrap();
    dev.set_losses(Losses::new(Netdev::from_fd(theirs), index).unwrap());
    blast();
    assert_eq!(dev.counts().overflow, 0, "nobody has asked");
    dev.count_overflow();
    let lost = dev.counts().overflow;
    assert!(lost >= SENT, "the ring was full before: {lost}");
    assert!(!dev.set_rx_ring(77), "the ring is the kernel's");
    // An interface that is gone tells nothing more, and what it told stays.
    netdev.del_link(index).unwrap();
    dev.count_overflow();
    assert_eq!(dev.counts().overflow, lost);
}

/// Receives and forgets.
fn poll(dev: &mut dyn Device, pool: &mut Pool) -> io::Result<usize> {
    let (mut batch, mut dropped) = (Batch::new(), Vec::new());
    let mut cx = RxCx { pool, now: Instant::ZERO, dev: 0, dropped: &mut dropped };
    let got = dev.rx_burst(&mut cx, &mut batch, 64);
    dropped.into_iter().map(|(p, _)| p).chain(batch.now).for_each(|p| pool.free(p));
    got
}

#[test]
fn each_offload_switch_reaches_the_kernel() {
    const TEST: &str = "each_offload_switch_reaches_the_kernel";
    if !in_netns(TEST) {
        return;
    }
    // `ethtool -k` of the interface says what the kernel took the mask for: tx is what it may
    // leave undone in packets for us.
    let all = tun::Config::new("lr0");
    let cases = [
        (all.clone(), true, true),
        (tun::Config { uso: false, ..all.clone() }, true, true),
        (tun::Config { tso: false, ..all.clone() }, true, false),
        (tun::Config { csum: false, ..all.clone() }, false, false),
        (all.plain(), false, false),
    ];
    for (config, tx, tso) in cases {
        let tun = match Tun::open(&config) {
            Ok(tun) => tun,
            Err(err) => return skip(TEST, &err.to_string()),
        };
        let caps = tun.caps();
        assert_eq!((caps.rx_offload, caps.tx_csum, caps.tso), (tx, tx, tso), "{config:?}");
        // Linux before 6.2 has no USO: then it must not be claimed where it is switched off.
        assert!(!caps.uso || config.uso, "{config:?}");
        assert_eq!(feature("lr0", Feature::Tx).unwrap(), tx, "{config:?}");
        assert_eq!(feature("lr0", Feature::Tso).unwrap(), tso, "{config:?}");
    }
}
