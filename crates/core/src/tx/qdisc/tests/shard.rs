use super::*;
use crate::ip::testkit::{Kit, MAC, PEER, PEER_MAC, US, eth, ip, udp4};
use crate::path;
use crate::pkt::Pkt;
use crate::udp::api::UdpBind;
use crate::udp::output::SendTo;

fn udp(kit: &mut Kit) -> crate::sock::SocketId {
    kit.cx.udp_bind(UdpBind { port: 53, ..UdpBind::default() }).expect("the port is free")
}

fn send(kit: &mut Kit, sock: crate::sock::SocketId, len: usize) {
    let to = SendTo::to((ip(PEER), 9).into());
    kit.cx.udp_send(sock, to, &[&vec![7; len]]).expect("there is room");
}

/// The loop is told when a packet may go; it goes then, not before.
#[test]
fn qdisc_root_delays_and_the_loop_knows_when() {
    let mut kit = Kit::tun();
    let sock = udp(&mut kit);
    kit.cx.set_knob("qdisc.tun0.root", "netem delay 40ms").expect("a sound specification");
    assert_eq!(
        kit.cx.get_knob("qdisc.tun0.root").expect("it is there"),
        "netem limit 1000 delay 40ms"
    );
    let begun = kit.cx.net.now;
    send(&mut kit, sock, 100);
    assert!(kit.tx().is_empty());
    assert_eq!(path::next_timer(&kit.cx), Some(begun.plus(40 * MS)));
    kit.pass(40 * MS - 1);
    assert!(kit.tx().is_empty());
    kit.pass(1);
    assert_eq!(kit.tx().len(), 1);
    assert_ne!(path::next_timer(&kit.cx), Some(begun.plus(40 * MS)));
    kit.conserved();
}

/// A watchdog that has fired is not asked for again before the queue is: a device that is stuck lets
/// the loop sleep.
#[test]
fn a_stuck_device_does_not_keep_the_loop_awake() {
    let mut kit = Kit::tun();
    let sock = udp(&mut kit);
    kit.cx.set_knob("qdisc.tun0.root", "netem delay 1ms").expect("a sound specification");
    send(&mut kit, sock, 100);
    assert!(kit.tx().is_empty());
    kit.pass(2 * MS);
    let timer = path::next_timer(&kit.cx);
    assert!(timer.is_none_or(|at| at > kit.cx.net.now), "{timer:?}");
}

/// Another discipline drops what waited, counts it, and begins its counts anew.
#[test]
fn a_discipline_that_is_replaced_drops_what_waits() {
    let mut kit = Kit::tun();
    let sock = udp(&mut kit);
    kit.cx.set_knob("qdisc.tun0.root", "netem delay 40ms").expect("a sound specification");
    (0..3).for_each(|_| send(&mut kit, sock, 100));
    assert!(kit.tx().is_empty());
    let before = kit.read();
    kit.cx.set_knob("qdisc/tun0/root", "pfifo limit 7").expect("a sound specification");
    kit.moved(&before, &[("DevTxDropped", 3), ("drop QdiscDrop", 3)]);
    send(&mut kit, sock, 100);
    assert_eq!(kit.tx().len(), 1);
    let stats = show(&kit.cx.net.ifaces[0])[0].stats;
    assert_eq!((stats.packets, stats.drops), (1, 0));
    // And back to what a device has anyway.
    kit.cx.set_knob("qdisc.tun0.root", "pfifo_fast").expect("a sound specification");
    assert!(matches!(kit.cx.net.ifaces[0].txqs[0].qdisc, Root::PfifoFast(_)));
    kit.conserved();
}

/// Devices that are opened later begin with it, one whose own is taken away falls back to it, and what
/// is open keeps what it has.
#[test]
fn knob_net_core_default_qdisc() {
    use crate::link::{Iface, L2};
    let mut kit = Kit::tun();
    let open = |kit: &mut Kit, name: &str, l2| {
        let dev = kit.cx.add_iface(Iface::new(name, l2, MAC, 1500));
        kit.cx.get_knob(&format!("qdisc.{}.root", kit.cx.net.ifaces[dev as usize].name))
    };
    kit.cx.set_knob("net.core.default_qdisc", "fq_codel").expect("it can be");
    let root = |kit: &Kit| kit.cx.get_knob("qdisc.tun0.root").expect("it is there");
    assert_eq!(root(&kit), "pfifo_fast");
    let new = open(&mut kit, "new0", L2::Ip).expect("it is there");
    assert!(new.starts_with("fq_codel limit 10240p"), "{new}");
    assert!(show(&kit.cx.net.ifaces[1])[0].text().starts_with("qdisc fq_codel 0: dev new0 root "));
    // A queue that is added has it, too.
    kit.cx.add_txq(1);
    assert_eq!(show(&kit.cx.net.ifaces[1])[1].kind, "fq_codel");
    // What never leaves never waits.
    assert_eq!(open(&mut kit, "lo9", L2::Loopback).expect("it is there"), "pfifo_fast");
    kit.cx.set_knob("qdisc.tun0.root", "pfifo limit 7").expect("a sound specification");
    for gone in ["none", "del"] {
        kit.cx.set_knob("qdisc.tun0.root", gone).expect("it falls back");
        assert!(root(&kit).starts_with("fq_codel "), "{}", root(&kit));
    }
    kit.cx.set_knob("net.core.default_qdisc", "pfifo_fast").expect("it can be");
    kit.cx.set_knob("qdisc.tun0.root", "none").expect("it falls back");
    assert_eq!(root(&kit), "pfifo_fast");
    for wrong in ["netem", "tbf", "prio", "cake", ""] {
        let why = kit.cx.set_knob("net.core.default_qdisc", wrong).expect_err(wrong).to_string();
        assert!(
            why.contains("it is pfifo_fast, pfifo, bfifo, sfq, codel, fq or fq_codel"),
            "{why}"
        );
    }
    assert_eq!(kit.cx.get_knob("net.core.default_qdisc"), Ok("pfifo_fast".to_owned()));
}

#[test]
fn a_wrong_discipline_changes_nothing() {
    let mut kit = Kit::tun();
    kit.cx.set_knob("qdisc.tun0.root", "pfifo limit 7").expect("a sound specification");
    let refused = [
        ("qdisc.tun0.root", "netem loss 200%", "qdisc.tun0.root: loss of netem can not be 200%"),
        (
            "qdisc.eth7.root",
            "pfifo",
            "qdisc.eth7.root: no device is called \"eth7\"; there is tun0",
        ),
        ("qdisc.tun0.ingress", "nothing", "no queueing discipline is called \"nothing\""),
        ("qdisc.tun0.side", "pfifo", "no knob is called \"qdisc.tun0.side\""),
    ];
    for (path, spec, want) in refused {
        let err = kit.cx.set_knob(path, spec).expect_err(path).to_string();
        assert!(err.contains(want), "{err}");
    }
    assert_eq!(kit.cx.get_knob("qdisc.tun0.root").expect("it is there"), "pfifo limit 7p");
}

/// The same between a device and the path: what is received waits, and counts as received when it
/// leaves.
#[test]
fn qdisc_ingress_delays_what_is_received() {
    for mut kit in [Kit::tun(), Kit::eth()] {
        let name = kit.cx.net.ifaces[0].name.clone();
        let path_ = format!("qdisc.{name}.ingress");
        assert_eq!(kit.cx.get_knob(&path_).expect("it is there"), "none");
        kit.cx.set_knob(&path_, "netem delay 20ms").expect("a sound specification");
        let begun = kit.cx.net.now;
        let sock = udp(&mut kit);
        let packet = udp4(PEER, US, 9, 53, b"late");
        let frame = match kit.cx.net.ifaces[0].l2 {
            crate::link::L2::Ethernet => eth(MAC, PEER_MAC, crate::wire::ETH_P_IP, &packet),
            _ => packet,
        };
        kit.rx(&frame);
        assert!(kit.cx.udp_recv(sock).is_none());
        assert_eq!(path::next_timer(&kit.cx), Some(begun.plus(20 * MS)));
        kit.pass(19 * MS);
        assert!(kit.cx.udp_recv(sock).is_none());
        kit.pass(MS);
        let got = kit.cx.udp_recv(sock).expect("its time has come");
        kit.cx.udp_done(got);
        kit.cx.set_knob(&path_, "none").expect("it goes");
        kit.rx(&frame);
        let got = kit.cx.udp_recv(sock).expect("nothing holds it back");
        kit.cx.udp_done(got);
        kit.conserved();
    }
}

/// What netem loses is no error of the device.
#[test]
fn drop_netem_loss() {
    let mut kit = Kit::tun();
    let sock = udp(&mut kit);
    kit.knob("qdisc.tun0.root", "netem loss 100%");
    let before = kit.read();
    send(&mut kit, sock, 100);
    assert!(kit.tx().is_empty());
    let moved = [
        ("IpOutRequests", 1),
        ("IpOutTransmits", 1),
        ("UdpOutDatagrams", 1),
        ("drop NetemLoss", 1),
    ];
    kit.moved(&before, &moved);
}

/// What is over a discipline's limit is dropped, a larger limit takes it.
#[test]
fn drop_qdisc_overlimit() {
    for (limit, dropped) in [(2, 3), (5, 0)] {
        let mut kit = Kit::tun();
        let sock = udp(&mut kit);
        kit.knob("qdisc.tun0.root", &format!("netem delay 1ms limit {limit}"));
        (0..5).for_each(|_| send(&mut kit, sock, 100));
        assert!(kit.tx().is_empty());
        let now = kit.read();
        assert_eq!((now["drop QdiscOverlimit"], now["DevTxDropped"]), (dropped, dropped));
        kit.pass(MS);
        assert_eq!(kit.tx().len(), 5 - dropped as usize);
        kit.conserved();
    }
}

/// Moves what may go to the ring and lets the device finish `n` packets of it; how many are on their way
/// before that.
fn device_takes(kit: &mut Kit, n: usize) -> usize {
    let mut batch = crate::pkt::Batch::new();
    path::transmit(&mut kit.cx, &mut batch);
    let ring = path::qdisc_run(&mut kit.cx.net, 0, 0, 1024).expect("the device exists");
    let there = ring.len();
    let done: Vec<(Pkt, bool)> = ring.drain(..n.min(there)).map(|pkt| (pkt, true)).collect();
    crate::tx::xmit::tx_done_all(&mut kit.cx.net, done);
    there
}

fn bql_limit(kit: &Kit) -> u64 {
    let bounds = crate::tx::dql::Bounds::of(&kit.cx.net.knobs);
    kit.cx.net.ifaces[0].txqs[0].dql.limit(bounds)
}

/// No more bytes are on their way than that, but for the packet that goes over it; what is held back
/// goes when others are done.
#[test]
fn knob_queues_tx_byte_queue_limits_limit_max() {
    for (limit, want) in [("1000", 2), ("1056", 3), ("1879048192", 5)] {
        for spec in ["pfifo_fast", "pfifo"] {
            let mut kit = Kit::tun();
            kit.knob("qdisc.tun0.root", spec);
            kit.knob("queues.tx.byte_queue_limits.limit_max", limit);
            let sock = udp(&mut kit);
            (0..5).for_each(|_| send(&mut kit, sock, 500));
            assert_eq!(device_takes(&mut kit, 0), want, "{spec}: 528 bytes each");
            assert_eq!(kit.cx.net.bql_stopped(0, 0), want < 5);
            while device_takes(&mut kit, 5) > 0 {}
            assert_eq!(kit.cx.net.ifaces[0].txqs[0].dql.inflight(), 0);
            kit.conserved();
        }
    }
}

/// So many bytes may be on their way even if fewer would do.
#[test]
fn knob_queues_tx_byte_queue_limits_limit_min() {
    for (limit, want) in [("0", 1), ("3000", 6)] {
        let mut kit = Kit::tun();
        kit.knob("queues.tx.byte_queue_limits.limit_min", limit);
        let sock = udp(&mut kit);
        (0..10).for_each(|_| send(&mut kit, sock, 500));
        assert_eq!(device_takes(&mut kit, 10), want);
        while device_takes(&mut kit, 10) > 0 {}
        kit.conserved();
    }
}

/// A ring that holds more than its device needs gives that up, once it has done so for long enough.
#[test]
fn knob_queues_tx_byte_queue_limits_hold_time() {
    for (hold, shrinks) in [("5", true), ("100000", false)] {
        let mut kit = Kit::tun();
        kit.knob("queues.tx.byte_queue_limits.limit_min", "0");
        kit.knob("queues.tx.byte_queue_limits.hold_time", hold);
        let sock = udp(&mut kit);
        // It runs empty while more waits: it may hold more each time.
        for _ in 0..6 {
            (0..100).for_each(|_| send(&mut kit, sock, 500));
            device_takes(&mut kit, 1000);
        }
        let before = bql_limit(&kit);
        assert!(before > 10_000, "{before}");
        // Now it is busy all the time, with two packets in a millisecond.
        for _ in 0..50 {
            kit.pass(MS);
            (0..2).for_each(|_| send(&mut kit, sock, 500));
            device_takes(&mut kit, 2);
        }
        let after = bql_limit(&kit);
        assert_eq!(after < before / 2, shrinks, "{before} and {after} bytes");
        while device_takes(&mut kit, 1000) > 0 {}
        kit.conserved();
    }
}

/// A device without NAPI has its discipline before the input queue; one that has none waits for no other.
#[test]
fn qdisc_ingress_lies_before_the_input_queue() {
    let mut kit = Kit::tun();
    kit.cx.net.ifaces[0].netif_rx = true;
    kit.cx.set_knob("qdisc.tun0.ingress", "netem delay 20ms").expect("a sound specification");
    let sock = udp(&mut kit);
    let mut batch = crate::pkt::Batch::new();
    let mut arrive = |kit: &mut Kit| {
        let packet = udp4(PEER, US, 9, 53, b"late");
        let mut pkt = kit.cx.net.pool.alloc().expect("a packet");
        pkt.put(packet.len()).copy_from_slice(&packet);
        pkt.dev = 0;
        batch.push(pkt);
        path::receive_netif_rx(&mut kit.cx, &mut batch);
        path::process_backlog(&mut kit.cx, &mut batch, 64)
    };
    assert_eq!(arrive(&mut kit), 0, "it waits before the input queue");
    kit.pass(20 * MS);
    assert_eq!(kit.cx.net.backlog.len(), 1, "and then in it");
    assert_eq!(path::process_backlog(&mut kit.cx, &mut crate::pkt::Batch::new(), 64), 1);
    let got = kit.cx.udp_recv(sock).expect("its time has come");
    kit.cx.udp_done(got);
    kit.cx.set_knob("qdisc.tun0.ingress", "none").expect("it goes");
    assert_eq!(arrive(&mut kit), 1);
    let got = kit.cx.udp_recv(sock).expect("nothing holds it back");
    kit.cx.udp_done(got);
}
