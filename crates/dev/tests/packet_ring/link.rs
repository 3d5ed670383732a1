//! Interfaces that are full, down, gone or not ours to open.

use super::*;

#[test]
fn a_full_ring_is_counted_and_no_packet_is_lost_uncounted() {
    const TEST: &str = "link::a_full_ring_is_counted_and_no_packet_is_lost_uncounted";
    if !in_netns(TEST) {
        return;
    }
    let _wire = Wire::new();
    let config =
        Config { vnet_hdr: false, block_bytes: 64 << 10, blocks: 2, ..Config::new("near") };
    let mut queues = open(config).unwrap().queues;
    let socket = UdpSocket::bind((THEIRS4, 0)).unwrap();
    const SENT: usize = 1000;
    for _ in 0..SENT {
        socket.send_to(&[7; 1000], (OURS4, 9)).unwrap();
    }
    let mut pool = Pool::new(4096, 8);
    let got = receive(&mut queues, &mut pool, 100).len();
    // What was left over when a hundred had come.
    let rest = queues[0].rx_pending().unwrap();
    queues[0].count_overflow();
    let lost = queues[0].counts().overflow;
    assert!(lost > 500, "{lost}");
    let stats = queues[0].statistics();
    assert_eq!(stats[1], ("tp_drops", lost));
    assert!(stats[2].1 >= 1, "the queue froze: {stats:?}");
    // Stray reports of the kernel's may be among them, so at least.
    assert!(got as u64 + rest as u64 + lost >= SENT as u64, "{got} {rest} {lost}");
    assert!(stats[0].1 >= SENT as u64);
}

#[test]
fn down_and_up_and_another_mtu_are_survived_and_gone_is_an_error() {
    const TEST: &str = "link::down_and_up_and_another_mtu_are_survived_and_gone_is_an_error";
    if !in_netns(TEST) {
        return;
    }
    let mut wire = Wire::new();
    let mut queues = open(Config { queues: 2, ..Config::new("near") }).unwrap().queues;
    let mut pool = Pool::new(4096, 64);
    let socket = UdpSocket::bind((THEIRS4, 0)).unwrap();
    let near = wire.near.index;
    for round in 0..3 {
        let sent = (0..50).filter(|_| socket.send_to(&[1; 100], (OURS4, 9)).is_ok()).count();
        let got = receive(&mut queues, &mut pool, sent);
        assert_eq!(got.len(), 50, "round {round}");
        got.into_iter().for_each(|(_, pkt)| pool.free(pkt));
        wire.netdev.set_up(near, false).unwrap();
        // Down: nothing comes, and what is sent is refused, not kept.
        for dev in &mut queues {
            drain(dev, &mut pool);
        }
        let pkt = datagram(&mut pool, &wire, 9, b"x");
        assert_eq!(transmit(&mut queues[1], &mut VecDeque::from([pkt]), &mut pool), (0, 1));
        assert_eq!(queues[1].counts().tx_errno, libc_enetdown());
        wire.netdev.set_mtu(near, 1500 + round * 1000).unwrap();
        wire.netdev.set_mtu(wire.far.index, 1500 + round * 1000).unwrap();
        wire.netdev.set_up(near, true).unwrap();
        while !wire.netdev.link_by_index(wire.far.index).unwrap().running {
            std::thread::yield_now();
        }
        for ours in [OURS4, OURS6] {
            wire.netdev.add_neigh(wire.far.index, ip(ours), wire.near.mac.unwrap()).unwrap();
        }
        let pkt = datagram(&mut pool, &wire, 9, b"x");
        assert_eq!(transmit(&mut queues[0], &mut VecDeque::from([pkt]), &mut pool), (1, 0));
    }
    wire.netdev.del_link(near).unwrap();
    for dev in &mut queues {
        let (mut batch, mut dropped) = (Batch::new(), Vec::new());
        let now = Instant::ZERO;
        let mut cx = RxCx { pool: &mut pool, now, dev: 0, dropped: &mut dropped };
        let err = loop {
            match dev.rx_burst(&mut cx, &mut batch, 64) {
                Ok(_) => batch.now.drain(..).for_each(|p| cx.pool.free(p)),
                Err(err) => break err,
            }
        };
        assert_eq!(err.raw_os_error(), Some(19), "{err}");
        let mut ring = VecDeque::from([datagram(&mut pool, &wire, 9, b"x")]);
        assert!(dev.tx_burst(&mut ring, &mut Vec::new()).is_err());
        assert_eq!(ring.len(), 1, "what was not sent is still ours");
        ring.into_iter().for_each(|pkt| pool.free(pkt));
    }
    assert_eq!(pool.small_out(), 0);
}

/// What the far end of a veth pair does not take is lost to whoever sends it, says the kernel by ENOBUFS;
/// it must not hold up what is behind it, whichever way the packets go.
#[test]
fn what_the_far_end_refuses_is_lost_and_what_is_behind_it_goes() {
    const TEST: &str = "link::what_the_far_end_refuses_is_lost_and_what_is_behind_it_goes";
    if !in_netns(TEST) {
        return;
    }
    const ENOBUFS: i32 = 105;
    let mut wire = Wire::new();
    let ring = open(Config::new("near")).unwrap().queues.remove(0);
    // No `virtio_net_hdr`: what is too long must not pass as a super-packet.
    let config = packet::Config { vnet_hdr: false, ..packet::Config::default() };
    let one_by_one = Packet::open(&wire.near, config).unwrap();
    let mut devs: [Box<dyn Device>; 2] = [Box::new(ring), Box::new(one_by_one)];
    let mut pool = Pool::new(256, 64);
    let far = wire.far.index;
    for dev in &mut devs {
        let dev = &mut **dev;
        // One for each: of the packets at the end some may come late.
        let socket = UdpSocket::bind((THEIRS4, 0)).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let port = socket.local_addr().unwrap().port();
        wire.netdev.set_mtu(far, 600).unwrap();
        let lengths = [100, 1400, 101, 1400, 1400, 102, 103];
        let packets = lengths.map(|len| datagram(&mut pool, &wire, port, &vec![len as u8; len]));
        let done = transmit(dev, &mut VecDeque::from(packets), &mut pool);
        assert_eq!((done, dev.counts().tx_errno), ((4, 3), ENOBUFS));
        let mut data = [0; 2000];
        let got: Vec<_> = (0..4).map(|_| socket.recv(&mut data).unwrap()).collect();
        assert_eq!(got, [100, 101, 102, 103]);
        wire.netdev.set_mtu(far, 1500).unwrap();
        // Nobody is there: nothing waits. Once the kernel has noticed, it swallows what is sent.
        wire.netdev.set_up(far, false).unwrap();
        let mut packets: VecDeque<_> =
            (0..50).map(|_| datagram(&mut pool, &wire, port, b"nobody")).collect();
        let (taken, refused) = transmit(dev, &mut packets, &mut pool);
        assert_eq!((taken + refused, dev.counts().tx_refused), (50, 3 + refused as u64));
        wire.netdev.set_up(far, true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut came = false;
        for _ in 0..6000 {
            let pkt = datagram(&mut pool, &wire, port, b"again");
            transmit(dev, &mut VecDeque::from([pkt]), &mut pool);
            came = socket.recv(&mut data).is_ok_and(|len| len == 5);
            if came {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(came, "nothing comes to a far end that is up again");
    }
}

#[test]
fn what_is_refused_is_said_in_a_sentence_and_a_type() {
    const TEST: &str = "link::what_is_refused_is_said_in_a_sentence_and_a_type";
    if !in_netns(TEST) {
        return;
    }
    let mut wire = Wire::new();
    let err = open(Config::new("nothing")).unwrap_err();
    assert!(matches!(err, OpenError::NoDevice { .. }), "{err:?}");
    assert!(err.errno() == Some(19) && err.to_string().contains("ip link"), "{err}");
    for bad in [
        Config { queues: 0, ..Config::new("near") },
        Config { queues: 65, ..Config::new("near") },
        Config { block_bytes: 4096, ..Config::new("near") },
        Config { blocks: 1, ..Config::new("near") },
        Config { frame_bytes: 100, ..Config::new("near") },
        Config { mac: Some([1, 0, 0, 0, 0, 1]), ..Config::new("near") },
    ] {
        let err = open(bad).unwrap_err();
        assert!(matches!(err, OpenError::Config { .. }) && err.errno() == Some(22), "{err:?}");
    }
    wire.netdev.set_up(wire.near.index, false).unwrap();
    // Old kernels share only what is up; new ones begin when it comes up.
    if let Err(err) = open(Config { queues: 2, ..Config::new("near") }) {
        assert!(matches!(err, OpenError::Down { .. }), "{err:?}");
        assert!(err.to_string().contains("ip link set near up"), "{err}");
    }
    // Half a millisecond is not to be had.
    wire.netdev.set_up(wire.near.index, true).unwrap();
    let opened = open(Config { retire_us: 500, ..Config::new("near") }).unwrap();
    assert_eq!(opened.notes.len(), 1, "{:?}", opened.notes);
}

#[test]
fn without_the_right_the_error_says_which_one_lacks() {
    const TEST: &str = "link::without_the_right_the_error_says_which_one_lacks";
    powerless(TEST, || {
        let err = open(Config::new("lo")).unwrap_err();
        assert!(matches!(err, OpenError::NoRight { .. }), "{err:?}");
        assert!(err.to_string().contains("CAP_NET_RAW"), "{err}");
    });
}

#[test]
fn an_address_of_our_own_needs_no_address_of_the_interface() {
    const TEST: &str = "link::an_address_of_our_own_needs_no_address_of_the_interface";
    if !in_netns(TEST) {
        return;
    }
    let mut wire = Wire::new();
    let mac = [2, 0, 0, 0, 0, 0x42];
    wire.netdev.add_neigh(wire.far.index, ip(OURS4), mac).unwrap();
    set_feature("far", Feature::Tx, false).unwrap();
    let before = details("near");
    let mut queues = open(Config { mac: Some(mac), ..Config::new("near") }).unwrap().queues;
    assert_eq!(queues[0].caps().mac, Some(mac));
    let socket = UdpSocket::bind((THEIRS4, 0)).unwrap();
    socket.send_to(b"to us", (OURS4, 9)).unwrap();
    let mut pool = Pool::new(64, 8);
    let got = receive(&mut queues, &mut pool, 1);
    let [(_, pkt)] = &got[..] else { panic!("nothing came") };
    assert_eq!((bytes(pkt)[..6] == mac, pkt.csum), (true, Csum::None));
    got.into_iter().for_each(|(_, pkt)| pool.free(pkt));
    // The interface is as it was once we are gone.
    let during = details("near");
    assert!(during.contains("promiscuity 1"), "{during}");
    drop(queues);
    assert_eq!(details("near"), before);
}
