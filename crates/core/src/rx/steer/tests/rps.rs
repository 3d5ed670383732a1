//! RPS: maps, the backlog and its limits, mailboxes, shards that go and come.

use super::*;

#[test]
fn knob_queues_rx_rps_cpus() {
    let mut town = Town::new(2, 1);
    let flows: Vec<u16> = (1..=64).collect();
    town.receive(0, &flows);
    assert_eq!((town.got, town.count(1, Counter::SoftnetReceivedRps)), (64, 0), "off: they stay");
    town.set("queues.rx.rps_cpus", "3");
    town.receive(0, &flows);
    town.drain();
    assert_eq!(town.got, 128);
    assert_eq!(town.count(1, Counter::SoftnetReceivedRps), 1, "one interrupt for a batch");
    let moved = town.nodes[1].cx.net.counts.flow(Stage::Backlog).read().entered;
    assert!((16..48).contains(&moved), "about half of the flows go to the other shard: {moved}");
    town.set("queues.rx.rps_cpus", "2");
    town.receive(0, &flows);
    town.drain();
    let all = town.nodes[1].cx.net.counts.flow(Stage::Backlog).read().entered;
    assert_eq!(all - moved, 64, "now all do");
    assert_eq!(town.violations, 0);
    town.at_rest();
}

#[test]
fn knob_net_core_rps_default_mask() {
    let mut town = Town::new(2, 1);
    town.set("net.core.rps_default_mask", "2");
    assert_eq!(town.nodes[0].cx.rps_cpus(0), Mask(0), "devices that were there stay as they are");
    let dev = town.nodes[0].cx.add_iface(Iface::new("tun1", L2::Ip, Mac::ZERO, 1500));
    assert_eq!(town.nodes[0].cx.rps_cpus(dev), Mask(2));
    town.receive(0, &[1, 2, 3]);
    assert_eq!(town.count(1, Counter::SoftnetReceivedRps), 0);
    town.nodes[0].cx.set_rps_cpus(0, Mask(2));
    town.receive(0, &[1, 2, 3]);
    town.drain();
    assert_eq!(town.count(1, Counter::SoftnetReceivedRps), 1);
    town.at_rest();
}

/// A shard whose backlog is full loses packets, and counts them: not the one that steered them.
#[test]
fn knob_net_core_netdev_max_backlog() {
    for (limit, lost) in [(1000u64, 0u64), (40, 60), (0, 100)] {
        let mut town = Town::new(2, 1);
        town.set("queues.rx.rps_cpus", "2");
        town.set("net.core.netdev_max_backlog", &limit.to_string());
        town.receive(0, &[1; 50]);
        town.receive(0, &[2; 50]);
        assert_eq!(town.mesh.backlog_len(1) as u64, 100 - lost);
        town.drain();
        assert_eq!(town.count(1, Counter::SoftnetDropped), lost, "at most {limit}");
        assert_eq!(town.count(0, Counter::SoftnetDropped), 0);
        assert_eq!(town.nodes[1].cx.net.counts.drops(Reason::CpuBacklog), lost);
        town.at_rest();
    }
}

/// One flow floods, another sends now and then.
fn flood(bitmap: &str, table: &str) -> Town {
    let mut town = Town::new(2, 1);
    town.set("queues.rx.rps_cpus", "2");
    town.set("net.core.netdev_max_backlog", "400");
    town.set("net.core.flow_limit_table_len", table);
    town.set("net.core.flow_limit_cpu_bitmap", bitmap);
    for round in 0..20u16 {
        let mut flows = [1; 30];
        flows[29] = 2 + round % 4;
        town.receive(0, &flows);
    }
    town.drain();
    town.at_rest();
    town
}

/// Counted where Linux counts it: the limit by the shard that steers, the loss by the one that was to
/// get the packets.
#[test]
fn drop_flow_limit() {
    let town = flood("1", "4096");
    let limited = town.count(0, Counter::SoftnetFlowLimitCount);
    assert!(limited > 100, "{limited}");
    assert_eq!(town.nodes[1].cx.net.counts.drops(Reason::FlowLimit), limited);
    assert_eq!(town.count(1, Counter::SoftnetDropped), limited, "nothing else was lost");
    assert_eq!(town.count(1, Counter::SoftnetFlowLimitCount), 0);
    let small: u64 = (2..6).map(|flow| town.at[&(flow, 1)]).sum();
    assert_eq!(small, 20, "flows within their share lose nothing");
}

#[test]
fn knob_net_core_flow_limit_cpu_bitmap() {
    for (bitmap, limits) in [("0", false), ("1", true), ("2", false), ("3", true)] {
        let town = flood(bitmap, "4096");
        let limited = town.all(Counter::SoftnetFlowLimitCount);
        assert_eq!(limited > 0, limits, "the steering shard is 0, the bitmap {bitmap}");
        assert_eq!(town.nodes[1].cx.net.counts.drops(Reason::CpuBacklog) > 0, !limits);
    }
}

/// What comes without passing the stage, as on loopback, is told apart by flow too.
#[test]
fn the_flow_limit_guards_our_own_queue() {
    let mut town = Town::new(1, 1);
    town.set("net.core.netdev_max_backlog", "400");
    town.set("net.core.flow_limit_cpu_bitmap", "1");
    for i in 0..600u16 {
        let flow = if i % 30 == 29 { 2 + i % 4 } else { 1 };
        let bytes = town.packet(flow);
        let net = &mut town.nodes[0].cx.net;
        let mut pkt = net.pool.alloc().expect("memory");
        pkt.put(bytes.len()).copy_from_slice(&bytes);
        pkt.dev = 0;
        crate::rx::backlog::netif_rx(net, pkt);
    }
    town.drain();
    town.at_rest();
    let limited = town.count(0, Counter::SoftnetFlowLimitCount);
    assert!(limited > 100, "{limited}");
    assert_eq!(town.nodes[0].cx.net.counts.drops(Reason::FlowLimit), limited);
    let small: u64 = (2..6).filter_map(|flow| town.at.get(&(flow, 0))).sum();
    assert_eq!(small, 20, "flows within their share lose nothing");
}

/// With one bucket all flows are one: the small ones suffer with the large.
#[test]
fn knob_net_core_flow_limit_table_len() {
    for (len, suffers) in [("4096", false), ("1", true)] {
        let town = flood("1", len);
        let small: u64 = (2..6).map(|flow| town.at.get(&(flow, 1)).copied().unwrap_or(0)).sum();
        assert_eq!(small < 20, suffers, "{len} buckets");
    }
}

#[test]
fn knob_net_core_netdev_tstamp_prequeue() {
    for (value, late) in [("1", false), ("0", true)] {
        let mut town = Town::new(2, 1);
        town.set("queues.rx.rps_cpus", "2");
        town.set("net.core.netdev_tstamp_prequeue", value);
        let cx = &mut town.nodes[1].cx;
        cx.net.now = Instant::from_ns(2_000_000_000);
        cx.attach_xdp(0, None);
        town.receive(0, &[1]);
        let mut batch = Batch::new();
        let cx = &mut town.nodes[1].cx;
        begin(cx);
        crate::rx::backlog::dequeue(&mut cx.net, &mut batch, 1);
        let stamp = batch.now[0].rx_time;
        assert_eq!(stamp == cx.net.now, late, "{value}");
        batch.now.drain(..).for_each(|pkt| cx.net.pool.free(pkt));
    }
}

/// A mailbox holds no more than the backlog may, whoever floods it.
#[test]
fn mailboxes_are_bounded() {
    let mut town = Town::new(4, 3);
    town.set("queues.rx.rps_cpus", "8");
    town.set("net.core.netdev_max_backlog", "100");
    for round in 0..50 {
        (0..3).for_each(|at| town.receive(at, &[at as u16 + 1; 32]));
        assert!(town.mesh.backlog_len(3) <= 100);
        if round % 10 == 9 {
            town.serve(3, 10);
            assert!(town.mesh.backlog_len(3) <= 100);
        }
    }
    town.drain();
    assert_eq!(town.violations, 0);
    assert!(town.count(3, Counter::SoftnetDropped) > 4000);
    town.at_rest();
}

/// What was sent to a shard that goes comes back, or is handed out by who takes it down.
#[test]
fn a_shard_may_go_and_come() {
    let mut town = Town::new(3, 3);
    town.set("queues.rx.rps_cpus", "6");
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.drain();
    assert_eq!(town.mesh.shards(), 3);
    let left = town.mesh.take_down(2);
    assert!(left.is_empty() && !town.mesh.online(2) && town.mesh.shards() == 2);
    let before = town.at.iter().filter(|((_, at), _)| *at == 2).count();
    assert!(before > 0);
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.drain();
    let at2 = |town: &Town| -> u64 {
        town.at.iter().filter(|((_, at), _)| *at == 2).map(|(_, n)| *n).sum()
    };
    let was = at2(&town);
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.drain();
    assert_eq!(at2(&town), was, "nothing goes to a shard that is gone");
    assert_eq!(town.got, 24);
    town.mesh.bring_up(2);
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.drain();
    assert!(at2(&town) > was, "it is used again");
    assert_eq!(town.violations, 0);
    town.at_rest();
}

/// What lay in the mailbox of a shard that went is not waited for when another comes in its place, and
/// what others dropped for it is counted.
#[test]
fn nobody_waits_for_a_shard_that_went() {
    let mut town = Town::new(2, 3);
    town.set("queues.rx.rps_cpus", "2");
    town.set("net.core.netdev_max_backlog", "4");
    town.receive(0, &[1, 2, 3, 4, 5, 6]);
    let left = town.mesh.take_down(1);
    assert_eq!((left.len(), town.mesh.head(1)), (4, 0));
    town.serve(1, 64);
    assert_eq!(town.count(1, Counter::SoftnetDropped), 2);
    town.mesh.bring_up(1);
    assert_eq!(town.mesh.head(1), 4);
}

/// The waker is called once for a batch, not for packets, and not where mail waits already.
#[test]
fn one_interrupt_for_a_batch() {
    let mut town = Town::new(2, 3);
    town.set("queues.rx.rps_cpus", "2");
    let calls = Arc::new(AtomicUsize::new(0));
    let rung = Arc::clone(&calls);
    town.mesh.set_wake(
        1,
        Box::new(move || {
            rung.fetch_add(1, Ordering::Relaxed);
        }),
    );
    let calls = || calls.load(Ordering::Relaxed);
    town.receive(0, &[1; 32]);
    assert_eq!((calls(), town.mesh.has_mail(1)), (1, true));
    town.receive(0, &[1; 32]);
    assert_eq!(calls(), 1, "it was woken and has not looked yet");
    town.drain();
    assert!(!town.mesh.has_mail(1));
    town.receive(0, &[1; 32]);
    assert_eq!(calls(), 2);
    town.drain();
    town.mesh.set_awake(1);
    town.receive(0, &[1; 32]);
    assert_eq!(calls(), 2, "a loop that runs looks by itself");
    assert!(!town.mesh.may_sleep(1), "and may not sleep now");
    town.drain();
    assert!(town.mesh.may_sleep(1));
    town.receive(0, &[1; 32]);
    assert_eq!(calls(), 3);
    town.drain();
    assert_eq!(town.count(1, Counter::SoftnetReceivedRps), 4);
    town.at_rest();
}

#[test]
fn a_map_spreads_over_its_shards_alike() {
    let mut town = Town::new(4, 9);
    town.set("queues.rx.rps_cpus", "e");
    for cpu in 1..4 {
        assert_eq!(flows_of(&mut town, cpu, 10).len(), 10);
    }
    let mut by_cpu = [0; 4];
    let steer = &town.nodes[0].cx.net.steer;
    for port in 0..6000 {
        let keys = hash::dissect(&datagram(port, 0), false).expect("IP");
        let cpu = steer.maps[0].cpu(steer.hash.of(&keys), 0).expect("nothing changes");
        by_cpu[cpu as usize] += 1;
    }
    assert_eq!(by_cpu[0], 0);
    assert!(by_cpu[1..].iter().all(|n| (1850..2150).contains(n)), "{by_cpu:?}");
}
