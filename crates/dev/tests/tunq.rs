//! Goal: the queues of a TUN share its packets, can be taken off and put back under load, and the
//! interface stays as it was found. Method: a TUN in a namespace of its own, whose other side is
//! that namespace's kernel with UDP clients.
//!
//! Where namespaces or `/dev/net/tun` are not to be had, tests say SKIP and why.

mod again;

use again::{in_netns, powerless, skip};
use linerate_core::pkt::{Batch, Pkt, Pool};
use linerate_core::time::Instant;
use linerate_dev::netdev::{Feature, Netdev, feature};
use linerate_dev::tun::{self, Tun, open_queues};
use linerate_dev::{Device, Layer, RxCx};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::UdpSocket;
use std::process::Command;

const KERNEL: &str = "10.78.0.2";
const OURS: &str = "10.78.0.1";

/// Queues of a TUN that is up, with an address of the kernel's.
fn queues(test: &str, config: &tun::Config, n: usize) -> Option<(Vec<Tun>, Netdev, u32)> {
    let queues = match open_queues(config, n) {
        Ok(queues) => queues,
        Err(err) => {
            skip(test, &err.to_string());
            return None;
        }
    };
    let mut netdev = Netdev::open().unwrap();
    let index = netdev.link(queues[0].name()).unwrap().index;
    netdev.set_addr_gen_none(index).unwrap();
    netdev.set_up(index, true).unwrap();
    netdev.add_addr(index, KERNEL.parse().unwrap(), 24).unwrap();
    while !netdev.link_by_index(index).unwrap().running {
        std::thread::yield_now();
    }
    Some((queues, netdev, index))
}

/// All datagrams that wait, with the queue each came by and its source port.
fn drain(queues: &mut [Tun], pool: &mut Pool) -> Vec<(u8, u16, Pkt)> {
    let mut all = Vec::new();
    for dev in queues {
        let (mut batch, mut dropped) = (Batch::new(), Vec::new());
        let mut cx = RxCx { pool, now: Instant::ZERO, dev: 0, dropped: &mut dropped };
        while dev.rx_burst(&mut cx, &mut batch, 64).unwrap() > 0 {}
        for pkt in batch.now.drain(..) {
            assert_eq!(pkt.queue, dev.queue());
            let head = pkt.head();
            if head[9] == 17 {
                let port = u16::from_be_bytes([head[20], head[21]]);
                all.push((dev.queue(), port, pkt));
            } else {
                pool.free(pkt);
            }
        }
    }
    all
}

/// Has each of `sockets` send once; which queue each flow came by.
fn round(
    sockets: &[UdpSocket],
    queues: &mut [Tun],
    pool: &mut Pool,
) -> BTreeMap<u16, (u8, Option<Pkt>)> {
    for socket in sockets {
        socket.send_to(b"hello", (OURS, 9)).unwrap();
    }
    let mut by_port = BTreeMap::new();
    for (queue, port, pkt) in drain(queues, pool) {
        assert!(by_port.insert(port, (queue, Some(pkt))).is_none(), "each came once");
    }
    by_port
}

fn free(round: BTreeMap<u16, (u8, Option<Pkt>)>, pool: &mut Pool) {
    round.into_values().filter_map(|(_, pkt)| pkt).for_each(|pkt| pool.free(pkt));
}

/// Turns a datagram into its answer.
fn answer(pkt: &mut Pkt) {
    let head = pkt.head_mut();
    for i in 0..4 {
        head.swap(12 + i, 16 + i);
    }
    head.swap(20, 22);
    head.swap(21, 23);
    // No checksum: UDP over IPv4 may.
    head[26..28].fill(0);
    pkt.csum = linerate_core::pkt::Csum::None;
}

#[test]
fn flows_keep_their_queue_and_follow_the_answers() {
    const TEST: &str = "flows_keep_their_queue_and_follow_the_answers";
    if !in_netns(TEST) {
        return;
    }
    let config = tun::Config::new("lrq%d");
    let Some((mut queues, ..)) = queues(TEST, &config, 3) else { return };
    assert_eq!(queues.iter().map(Device::queue).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(queues.iter().all(|q| q.caps() == queues[0].caps() && q.name() == "lrq0"));
    let mut pool = Pool::new(1024, 64);
    let sockets: Vec<_> = (0..48).map(|_| UdpSocket::bind((KERNEL, 0)).unwrap()).collect();
    let first = round(&sockets, &mut queues, &mut pool);
    assert_eq!(first.len(), sockets.len());
    let used: BTreeSet<u8> = first.values().map(|(q, _)| *q).collect();
    assert_eq!(used.len(), 3, "the kernel spreads flows by their hash");
    let again = round(&sockets, &mut queues, &mut pool);
    assert!(again.iter().all(|(port, (queue, _))| first[port].0 == *queue));
    free(first, &mut pool);
    // Each flow is answered by a queue that we choose, and comes there from then on.
    let mut chosen = BTreeMap::new();
    let mut done = Vec::new();
    for (n, (port, (_, pkt))) in again.into_iter().enumerate() {
        let mut pkt = pkt.unwrap();
        answer(&mut pkt);
        let mut ring = VecDeque::from([pkt]);
        assert_eq!(queues[n % 3].tx_burst(&mut ring, &mut done).unwrap(), 1);
        chosen.insert(port, (n % 3) as u8);
    }
    for (pkt, sent) in done {
        assert!(sent);
        pool.free(pkt);
    }
    for socket in &sockets {
        assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 5, "the answer arrived");
    }
    let after = round(&sockets, &mut queues, &mut pool);
    let moved = after.iter().filter(|(port, (queue, _))| chosen[port] == *queue).count();
    assert_eq!(moved, sockets.len());
    free(after, &mut pool);
    assert_eq!(pool.small_out(), 0);
}

#[test]
fn a_queue_is_taken_off_and_put_back_and_the_interface_stays() {
    const TEST: &str = "a_queue_is_taken_off_and_put_back_and_the_interface_stays";
    if !in_netns(TEST) {
        return;
    }
    for config in [tun::Config::new("lrq"), tun::Config::new("lrq").plain()] {
        let Some((mut queues, mut netdev, index)) = queues(TEST, &config, 2) else { return };
        let mut pool = Pool::new(1024, 64);
        let sockets: Vec<_> = (0..32).map(|_| UdpSocket::bind((KERNEL, 0)).unwrap()).collect();
        for _ in 0..3 {
            let both = round(&sockets, &mut queues, &mut pool);
            assert_eq!(both.values().map(|(q, _)| *q).collect::<BTreeSet<_>>().len(), 2);
            free(both, &mut pool);
            queues[1].set_attached(false).unwrap();
            // Twice is not an error of ours.
            queues[1].set_attached(false).unwrap();
            assert!(!queues[1].is_attached() && queues[1].poll_fd().is_none());
            let one = round(&sockets, &mut queues, &mut pool);
            assert_eq!(one.len(), sockets.len(), "what is left takes all");
            assert!(one.values().all(|(q, _)| *q == 0));
            // What is given to a queue that is off waits.
            let mut pkts = one.into_values();
            let mut ring: VecDeque<_> = pkts.next().and_then(|(_, p)| p).into_iter().collect();
            assert_eq!(queues[1].tx_burst(&mut ring, &mut Vec::new()).unwrap(), 0);
            assert_eq!((ring.len(), queues[1].counts().tx_refused), (1, 0));
            ring.into_iter().chain(pkts.filter_map(|(_, p)| p)).for_each(|pkt| pool.free(pkt));
            // Without any queue the interface is there, and up.
            queues[0].set_attached(false).unwrap();
            assert!(netdev.link_by_index(index).unwrap().up);
            assert!(drain(&mut queues, &mut pool).is_empty());
            queues[0].set_attached(true).unwrap();
            queues[1].set_attached(true).unwrap();
        }
        assert_eq!(pool.small_out(), 0);
        // A queue that is closed is one less, not the end.
        drop(queues.remove(0));
        let last = round(&sockets, &mut queues, &mut pool);
        assert!(last.len() == sockets.len() && last.values().all(|(q, _)| *q == 1));
        free(last, &mut pool);
        let more = queues[0].open_queue().unwrap();
        assert_eq!(more.caps(), queues[0].caps());
        drop((more, queues));
        // It was ours alone, so it is gone with us.
        assert!(netdev.link_by_index(index).is_err());
    }
}

#[test]
fn a_persistent_interface_is_told_its_offloads_anew_and_keeps_its_rest() {
    const TEST: &str = "a_persistent_interface_is_told_its_offloads_anew_and_keeps_its_rest";
    if !in_netns(TEST) {
        return;
    }
    let ip = |args: &[&str]| Command::new("ip").args(args).status().is_ok_and(|s| s.success());
    if !ip(&["tuntap", "add", "lrp", "mode", "tun", "multi_queue", "vnet_hdr"]) {
        return skip(TEST, "ip tuntap add fails here");
    }
    let mut netdev = Netdev::open().unwrap();
    let before = netdev.link("lrp").unwrap();
    let full = tun::Config::new("lrp");
    let less = tun::Config { tso: false, uso: false, ..full.clone() };
    let none = tun::Config { csum: false, ..full.clone() };
    for (config, tx, tso) in [(&full, true, true), (&less, true, false), (&none, false, false)] {
        let queues = open_queues(config, 2).unwrap();
        assert_eq!(queues[1].caps().tso, tso);
        assert_eq!(feature("lrp", Feature::Tx).unwrap(), tx, "{config:?}");
        assert_eq!(feature("lrp", Feature::Tso).unwrap(), tso, "{config:?}");
        drop(queues);
        // The mask outlives the queues, and the next ones are not deceived by it.
        assert_eq!(feature("lrp", Feature::Tso).unwrap(), tso);
    }
    let after = netdev.link("lrp").unwrap();
    assert_eq!((after.index, after.mtu, after.up), (before.index, before.mtu, before.up));
    // One queue of an interface that was made for several, by somebody who asks for one.
    assert!(Tun::open(&full).is_err());
    assert!(Tun::open(&tun::Config { multi_queue: true, ..full }).is_ok());
}

#[test]
fn tap_queues_and_napi_are_as_good() {
    const TEST: &str = "tap_queues_and_napi_are_as_good";
    if !in_netns(TEST) {
        return;
    }
    let tap = tun::Config { layer: Layer::Ethernet, ..tun::Config::new("lrt") };
    let queues_of_tap = match open_queues(&tap, 4) {
        Ok(queues) => queues,
        Err(err) => return skip(TEST, &err.to_string()),
    };
    assert_eq!(queues_of_tap.len(), 4);
    assert!(queues_of_tap.iter().all(|q| q.caps().layer == Layer::Ethernet));
    let napi = tun::Config { napi: true, ..tun::Config::new("lrn") };
    let Some((mut queues, ..)) = queues(TEST, &napi, 2) else { return };
    let mut pool = Pool::new(256, 64);
    let sockets = [UdpSocket::bind((KERNEL, 0)).unwrap()];
    let mut got = round(&sockets, &mut queues, &mut pool);
    let mut pkt = got.pop_first().and_then(|(_, (_, pkt))| pkt).expect("it came");
    answer(&mut pkt);
    let mut done = Vec::new();
    assert_eq!(queues[1].tx_burst(&mut VecDeque::from([pkt]), &mut done).unwrap(), 1);
    assert_eq!(sockets[0].recv(&mut [0; 16]).unwrap(), 5);
    done.into_iter().for_each(|(pkt, _)| pool.free(pkt));
}

#[test]
fn without_the_right_the_error_says_what_lacks() {
    const TEST: &str = "without_the_right_the_error_says_what_lacks";
    powerless(TEST, || {
        let err = open_queues(&tun::Config::new("lrx"), 2).unwrap_err();
        let text = err.to_string();
        assert!(matches!(err.errno(), Some(1 | 2 | 13)), "{text}");
        assert!(text.contains("CAP_NET_ADMIN") || text.contains("/dev/net/tun"), "{text}");
    });
}
