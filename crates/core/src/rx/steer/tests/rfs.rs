//! RFS, its rules for devices, and connections that live elsewhere.

use super::*;

/// The flow goes to its reader's shard, and keeps its order on the way.
#[test]
fn knob_net_core_rps_sock_flow_entries() {
    for (entries, follows) in [("0", false), ("100", true)] {
        let mut town = Town::new(2, 1);
        town.set("queues.rx.rps_flow_cnt", "64");
        town.set("net.core.rps_sock_flow_entries", entries);
        town.receive(0, &[5]);
        let hash = hash_of(&town, 5);
        town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
        town.receive(0, &[5, 5, 5]);
        town.drain();
        let moved = town.at.get(&(5, 1)).copied().unwrap_or(0);
        assert_eq!(moved, if follows { 3 } else { 0 }, "{entries}");
        if follows {
            assert_eq!(town.mesh.sock_flows.table().len(), 128, "rounded up");
        }
        town.at_rest();
    }
}

#[test]
fn knob_queues_rx_rps_flow_cnt() {
    for (cnt, follows) in [("0", false), ("1", true), ("100", true)] {
        let mut town = Town::new(2, 1);
        town.set("net.core.rps_sock_flow_entries", "64");
        town.set("queues.rx.rps_flow_cnt", cnt);
        let hash = hash_of(&town, 5);
        town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
        town.receive(0, &[5]);
        town.drain();
        assert_eq!(town.at.contains_key(&(5, 1)), follows, "{cnt}");
        let len = town.nodes[0].cx.net.steer.dev_flows[0].flows.len();
        assert_eq!(len, [0, 1, 128][["0", "1", "100"].iter().position(|c| *c == cnt).unwrap_or(0)]);
        town.at_rest();
    }
}

/// A flow stays on its old shard until that one is through with its last packet.
#[test]
fn rfs_waits_until_the_old_shard_is_through() {
    let mut town = Town::new(3, 1);
    town.set("net.core.rps_sock_flow_entries", "64");
    town.set("queues.rx.rps_flow_cnt", "64");
    let hash = hash_of(&town, 5);
    town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
    town.receive(0, &[5, 5]);
    town.nodes[2].cx.net.rps_record_sock_flow(hash, 2);
    town.receive(0, &[5]);
    assert_eq!((town.mesh.backlog_len(1), town.mesh.backlog_len(2)), (3, 0));
    town.serve(1, 2);
    town.receive(0, &[5]);
    assert_eq!((town.mesh.backlog_len(1), town.mesh.backlog_len(2)), (2, 0), "one is left there");
    town.serve(1, 64);
    town.receive(0, &[5, 5]);
    assert_eq!((town.mesh.backlog_len(1), town.mesh.backlog_len(2)), (0, 2));
    town.drain();
    assert_eq!(town.violations, 0);
    // A shard that is gone holds nobody back.
    town.receive(0, &[5]);
    town.mesh.take_down(2);
    town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
    town.receive(0, &[5]);
    assert_eq!(town.mesh.backlog_len(1), 1);
}

/// Places are numbers that go round: one that is half a round old is not one to come.
#[test]
fn a_place_of_long_ago_is_not_waited_for() {
    let mesh = Mesh::new(2);
    let at = Progress { mesh: &mesh, cpu: 0, sent: &[], own: (0, 0), pending: 0 };
    assert!(at.through(1, 0) && !at.through(1, 1) && !at.through(1, 10_000_000));
    mesh.through_with(1, 1 << 31);
    assert!(at.through(1, 0) && at.through(1, 1 << 31));
    assert!(!at.through(1, (1 << 31) + 1));
}

/// A connection does not leave its shard while a segment of it waits there for a neighbour.
#[test]
fn a_segment_that_waits_for_its_neighbour_is_not_left_behind() {
    let mesh = Mesh::new(2);
    let mut cx = Shard::new(5);
    cx.net.now = Instant::from_ns(1_000_000_000);
    for (knob, value) in
        [("net.core.rps_sock_flow_entries", "64"), ("queues.rx.rps_flow_cnt", "64")]
    {
        cx.set_knob(knob, value).expect("in range");
    }
    cx.join(mesh, 0);
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let dev = cx.add_iface(Iface::new("mem0", L2::Ethernet, mac, 1500));
    cx.add_addr(dev, US.into(), 24).expect("a new device takes any address");
    let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    let connect = Connect { local: None, remote: (peer, 80).into(), user: 0 };
    let id = cx.tcp_connect(connect).expect("a route");
    cx.rps_record_sock_flow(id, 1);
    cx.net.now = cx.net.now.plus(2_000_000);
    let send = |cx: &mut Shard| {
        path::transmit(cx, &mut Batch::new());
        path::qdisc_run(&mut cx.net, dev, 0, 64);
        let ring = std::mem::take(&mut cx.net.ifaces[0].txqs[0].ring);
        ring.into_iter().for_each(|p| crate::tx::xmit::tx_done(&mut cx.net, p, true));
        cx.rfs_turn(&mut |_| Some(Box::new(())))
    };
    // All that goes out is the question who has the address.
    assert_eq!((send(&mut cx), send(&mut cx)), (0, 0));
    assert!(cx.neigh_add(dev, peer, Mac([2, 0, 0, 0, 0, 9])));
    assert_eq!(send(&mut cx), 1);
}

/// What one shard connects, or keeps in TIME_WAIT, no other shard connects again.
#[test]
fn two_ends_are_taken_on_all_shards() {
    let mut town = Town::new(2, 31);
    let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    let local = Some((IpAddr::V4(US), 4000).into());
    let connect = Connect { local, remote: (peer, 80).into(), user: 0 };
    let id = town.nodes[0].cx.tcp_connect(connect).expect("a route, and a port of its own");
    assert_eq!(town.nodes[1].cx.tcp_connect(connect), Err(TcpError::InUse));
    // On its way to the other shard it is of neither.
    let conn = town.nodes[0].cx.tcp_detach(id).expect("it is there");
    let key = conn.flow_key();
    town.nodes[0].cx.send_flow(1, Flow { key, conn, app: None });
    for node in &mut town.nodes {
        assert_eq!(node.cx.tcp_connect(connect), Err(TcpError::InUse));
    }
    town.serve(1, 1);
    let id = town.nodes[1].cx.take_arrived().expect("it arrived").socket;
    assert_eq!(town.nodes[0].cx.tcp_connect(connect), Err(TcpError::InUse));
    town.nodes[1].cx.tcp_abort(id);
    assert!(town.nodes[0].cx.tcp_connect(connect).is_ok(), "it is over");
}

/// A device takes rules for flows that were moved, and forgets them when they are no longer used.
#[test]
fn knob_features_ntuple() {
    for (value, written) in [("0", 0), ("1", 1)] {
        let mut town = Town::new(2, 1);
        town.set("net.core.rps_sock_flow_entries", "64");
        town.set("queues.rx.rps_flow_cnt", "8");
        town.set("features.ntuple", value);
        let hash = hash_of(&town, 5);
        town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
        town.receive(0, &[5]);
        town.drain();
        let cx = &mut town.nodes[0].cx;
        while let Some(rule) = cx.take_rule() {
            let text = rule.rule.as_ref().expect("a new rule").to_string();
            let want =
                "flow-type udp4 src-ip 10.0.0.2 dst-ip 10.0.0.1 src-port 5 dst-port 7 action 1";
            assert_eq!(text, want);
            cx.rule_done(&rule, true);
        }
        assert_eq!(town.count(0, Counter::ArfsFiltersAdded), written, "{value}");
        // Others go by, ten times as many as there are places: nobody needs it any more.
        let others: Vec<u16> = (100..100 + 64).collect();
        town.set("queues.rx.rps_cpus", "2");
        for _ in 0..3 {
            town.receive(0, &others);
            town.drain();
        }
        town.receive(0, &others);
        let cx = &mut town.nodes[0].cx;
        while let Some(rule) = cx.take_rule() {
            assert_eq!(rule.rule, None);
            cx.rule_done(&rule, true);
        }
        assert_eq!(town.count(0, Counter::ArfsFiltersExpired), written, "{value}");
        town.drain();
        assert_eq!(town.violations, 0);
        town.at_rest();
    }
}

/// A rule that the device refuses is not waited for, and asked for again when the flow moves again.
#[test]
fn a_refused_rule_is_no_rule() {
    let mut town = Town::new(3, 1);
    town.set("net.core.rps_sock_flow_entries", "64");
    town.set("queues.rx.rps_flow_cnt", "8");
    town.set("features.ntuple", "1");
    let hash = hash_of(&town, 5);
    for (cpu, taken) in [(1, false), (2, true)] {
        town.nodes[1].cx.net.rps_record_sock_flow(hash, cpu);
        town.receive(0, &[5]);
        town.drain();
        let cx = &mut town.nodes[0].cx;
        let rule = cx.take_rule().expect("one is wanted");
        assert_eq!(cx.take_rule(), None);
        cx.rule_done(&rule, taken);
        assert_eq!(!cx.net.steer.rules.is_empty(), taken);
    }
    assert_eq!(town.count(0, Counter::ArfsFiltersAdded), 1);
}
