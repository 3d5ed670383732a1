//! NIC, interrupts, links, transmit queues.

use linerate_host::finding::{Risk, Severity};
use linerate_host::snapshot::{Dev, Feature, IdleState, Policy, Power, Qdisc, Tap};
use linerate_host::window::Goal;

use crate::build::{Run, WINDOW_S, advises, because, counters, owner, virtual_dev};

fn all_idle(mut run: Run) -> Run {
    for cpu in 0..4 {
        run = run.softirq(cpu, 0.2);
    }
    run
}

#[test]
fn r01_a_ring_too_small_for_bursts() {
    let found = Run::healthy().dev("eth0", "rx_missed_errors", 700).only("R01");
    assert_eq!((found.subject.as_str(), found.severity), ("eth0", Severity::Critical));
    advises(&found, "ethtool -G eth0 rx 1024");
    assert_eq!(found.advice[0].rollback, "ethtool -G eth0 rx 512");
    assert_eq!(found.advice[0].risk, Risk::Flap);
    Run::healthy().dev("eth0", "rx_missed_errors", 2).silent();
}

#[test]
fn r01_counts_a_loss_once_though_the_driver_counts_it_too() {
    let run = Run::healthy()
        .dev("eth0", "rx_missed_errors", 700)
        .with_dev("eth0", |d, n| d.driver_stats.set("rx_no_dma_resources", n * 700));
    let found = run.only("R01");
    assert!((found.loss_per_s - 140.0).abs() < 0.01);
    let names: Vec<&str> = found.evidence.iter().map(|e| e.name.as_str()).collect();
    assert!(names.contains(&"rx_no_dma_resources"));
}

#[test]
fn r01_other_causes_than_a_small_ring() {
    let largest = Run::healthy()
        .dev("eth0", "rx_missed_errors", 700)
        .with_dev("eth0", |d, _| d.rings.set("rx", 4096));
    because(&largest.only("R01"), "as large as it can be");
    let full = all_idle(Run::healthy()).softirq(2, 0.97).dev("eth0", "rx_missed_errors", 9000);
    because(&full.only("R01"), "cpu2, which serves it, is full");
    let pause = Run::healthy()
        .dev("eth0", "rx_missed_errors", 700)
        .with_dev("eth0", |d, n| d.driver_stats.set("tx_flow_control_xoff", n * 50));
    because(&pause.only("R01"), "pause frames");
}

#[test]
fn r02_no_memory_for_the_ring() {
    let run = Run::healthy()
        .each(|s, _| s.buddy = vec![4000, 12, 0, 0])
        .with_dev("eth0", |d, n| d.driver_stats.set("rx_alloc_failed", n * 200));
    advises(&run.only("R02"), "sysctl -w vm.min_free_kbytes=135168");
    let sent =
        Run::healthy().with_dev("eth0", |d, n| d.driver_stats.set("tx_alloc_failed", n * 200));
    sent.silent();
}

#[test]
fn r03_interrupts_on_another_node() {
    let run = |node: Option<u32>| {
        Run::healthy()
            .each(|s, _| {
                s.host.nodes = [(0, vec![0, 1]), (1, vec![2, 3])].into();
            })
            .with_dev("eth0", move |d, _| d.node = node)
    };
    let found = run(Some(1)).only("R03");
    advises(&found, "echo 2-3 > /proc/irq/100/smp_affinity_list");
    assert_eq!(found.advice[0].rollback, "echo 0 > /proc/irq/100/smp_affinity_list");
    run(None).silent();
}

#[test]
fn r04_damaged_frames() {
    let found = Run::healthy().dev("eth0", "rx_crc_errors", 500).only("R04");
    assert!(found.advice.iter().all(|a| a.change.is_none()));
    Run::healthy().dev("eth0", "rx_crc_errors", 1).silent();
}

fn veth_pair(near: u32, far: u32) -> Run {
    let dev = |name: &str, ifindex, link, mtu| Dev {
        ifindex,
        link: Some(link),
        mtu,
        ..virtual_dev(name, "veth")
    };
    Run::healthy().add_dev(&dev("va", 50, 51, near)).add_dev(&dev("vb", 51, 50, far))
}

#[test]
fn r05_longer_than_the_peer_takes() {
    let run = veth_pair(9000, 1500)
        .dev("va", "tx_dropped", 300)
        .dev("vb", "rx_dropped", 300)
        .mib("Udp", "SndbufErrors", 300)
        .mib("Ip", "OutDiscards", 300);
    let found = run.only("R05");
    advises(&found, "ip link set va mtu 1500");
    assert_eq!(found.advice[0].rollback, "ip link set va mtu 9000");
    // The peer is in another namespace, and reasons are known.
    let away = veth_pair(9000, 9000)
        .each(|s, _| {
            s.devs.remove("vb");
        })
        .dev("va", "tx_dropped", 300)
        .reason("NOT_SPECIFIED@__dev_forward_skb2", 300);
    because(&away.only("R05"), "refused them for their length");
    Run::healthy().dev("eth0", "rx_length_errors", 9000).only("R05");
}

#[test]
fn r06_a_flapping_link() {
    let carrier = |by: u64| {
        Run::healthy().with_dev("eth0", move |d, n| d.carrier.set("carrier_changes", 2 + n * by))
    };
    assert_eq!(carrier(2).only("R06").severity, Severity::Critical);
    carrier(0).silent();
}

#[test]
fn r06b_a_link_that_is_down() {
    let run = veth_pair(1500, 1500)
        .with_dev("va", |d, n| {
            d.flags = vec!["UP".into()];
            d.operstate = "lowerlayerdown".into();
            d.carrier = counters("netlink/route/RTM_GETLINK va", &[("carrier_changes", n.min(1))]);
        })
        .dev("va", "tx_dropped", 1);
    assert_eq!(run.only("R06b").subject, "va");
}

#[test]
fn r07_pause_frames() {
    let got = Run::healthy().with_dev("eth0", |d, n| {
        d.std_stats = counters("netlink/ethtool/PAUSE_GET eth0", &[("rx_pause_frames", n * 5000)])
    });
    let found = got.only("R07");
    because(&found, "The switch");
    advises(&found, "ethtool -A eth0 rx off");
    assert_eq!(found.advice[1].rollback, "ethtool -A eth0 rx on");
    let few = Run::healthy().with_dev("eth0", |d, n| {
        d.std_stats = counters("netlink/ethtool/PAUSE_GET eth0", &[("rx_pause_frames", n * 50)])
    });
    few.silent();
}

/// Nearly all packets on queue 0, whose processor is full.
fn skewed() -> Run {
    all_idle(Run::healthy()).softirq(0, 0.96).with_dev("eth0", |d, n| {
        for (q, queue) in d.rx.iter_mut().enumerate() {
            queue.stats.set("rx-packets", n * if q == 0 { 900_000 } else { 10_000 });
        }
    })
}

#[test]
fn r08_an_uneven_hash() {
    let found = skewed().only("R08");
    because(&found, "no ports");
    advises(&found, "ethtool -N eth0 rx-flow-hash udp4 sdfn");
    assert_eq!(found.advice[0].rollback, "ethtool -N eth0 rx-flow-hash udp4 sd");
    let table = skewed().with_dev("eth0", |d, _| d.rss.as_mut().unwrap().indir = vec![0; 128]);
    advises(&table.only("R08"), "ethtool -X eth0 equal 4");
    let flow = skewed().with_dev("eth0", |d, _| {
        d.rss.as_mut().unwrap().fields.insert("udp4".into(), "sdfn".into());
    });
    because(&flow.only("R08"), "a few flows");
}

#[test]
fn r09_queues_that_are_not_used() {
    let run = all_idle(Run::healthy()).softirq(0, 0.96).with_dev("eth0", |d, _| {
        d.channels.set("combined", 2);
        d.rx.truncate(2);
        d.local_cpus = vec![0, 1, 2, 3];
    });
    let found = run.only("R09");
    advises(&found, "ethtool -L eth0 combined 4");
    assert_eq!(found.advice[0].rollback, "ethtool -L eth0 combined 2");
}

#[test]
fn r10_r14_too_many_interrupts() {
    let irqs = |per_s: u64| {
        Run::healthy()
            .dev("eth0", "rx_packets", per_s * 4 * WINDOW_S)
            .each(|s, n| {
                for cpu in 0..4_u32 {
                    let irq = s.irqs.get_mut(&(100 + cpu)).unwrap();
                    irq.counts.set(&format!("CPU{cpu}"), n * per_s * WINDOW_S);
                    let ticks = n * WINDOW_S * 100;
                    s.cpus.get_mut(&cpu).unwrap().set("irq", ticks / 5);
                }
            })
            .with_dev("eth0", |d, _| d.coalesce.set("adaptive-rx", 0))
    };
    let found = irqs(50_000).only("R14");
    advises(&found, "ethtool -C eth0 adaptive-rx on");
    assert_eq!(found.advice[0].rollback, "ethtool -C eth0 adaptive-rx off");
    irqs(15_000).silent();
    let many = irqs(15_000).with_dev("eth0", |d, _| d.rx.resize(24, Default::default()));
    assert_eq!(many.ids(), ["R10"]);
}

#[test]
fn r11_interrupts_crowd_on_one_processor() {
    let run = |owners: &[&str]| {
        let owners: Vec<String> = owners.iter().map(|o| (*o).to_owned()).collect();
        all_idle(Run::healthy()).softirq(0, 0.7).each(move |s, n| {
            s.host.owners.clone_from(&owners);
            for irq in s.irqs.values_mut() {
                let source = irq.counts.source().to_owned();
                irq.counts = counters(&source, &[("CPU0", n * 40_000)]);
            }
        })
    };
    let found = run(&[]).only("R11");
    advises(&found, "echo 1 > /proc/irq/103/smp_affinity_list");
    run(&["irqbalance"]).silent();
}

#[test]
fn r12_affinity_that_is_moved_again_and_again() {
    let run = Run::of(4).each(|s, n| {
        s.host.owners = vec!["irqbalance".into()];
        s.irqs.get_mut(&101).unwrap().affinity = vec![n as u32 % 4];
    });
    assert_eq!(run.only("R12").subject, "eth0");
}

#[test]
fn r13_coalescing_against_latency() {
    let mut run = Run::healthy()
        .dev("eth0", "rx_packets", 100_000)
        .with_dev("eth0", |d, _| d.coalesce.set("rx-usecs", 100));
    run.silent();
    run.goal = Goal::Latency;
    let found = run.only("R13");
    advises(&found, "ethtool -C eth0 adaptive-rx off rx-usecs 0");
    assert_eq!(found.advice[0].rollback, "ethtool -C eth0 adaptive-rx on rx-usecs 100");
}

#[test]
fn r26_packets_dropped_by_xdp() {
    let run = Run::healthy().add_dev(&virtual_dev("vb", "veth")).with_dev("vb", |d, n| {
        d.xdp = Some(("driver".into(), 7));
        d.stats.set("rx_packets", n * 100);
        d.driver_stats = counters("ioctl/ethtool/stats/vb", &[("rx_queue_0_xdp_drops", n * 50)]);
    });
    assert_eq!(run.only("R26").subject, "vb");
    let ring = Run::healthy().each(|s, n| {
        let c = counters("netlink/sock_diag/xdp eth0 0", &[("rx_ring_full", n * 5000)]);
        s.sockets.xdp = vec![("eth0".into(), 0, c)];
    });
    because(&ring.only("R26"), "AF_XDP");
}

#[test]
fn r27_a_filter_at_ingress() {
    let filter = |by: u64| {
        Run::healthy().with_dev("eth0", move |d, n| {
            d.qdiscs.push(Qdisc {
                kind: "clsact".into(),
                parent: "ingress".into(),
                stats: counters("netlink/route/RTM_GETQDISC eth0 ingress", &[("drops", n * by)]),
                ..Qdisc::default()
            });
        })
    };
    filter(90_000).only("R27");
    filter(10).silent();
}

#[test]
fn r28_a_capture_that_was_left_on() {
    let run = Run::healthy().each(|s, n| {
        let drops = Some(490 * n as u32);
        s.sockets.taps =
            vec![Tap { dev: Some("eth0".into()), protocol: 3, drops, owner: owner(90) }];
    });
    because(&run.only("R28"), "server[800]");
}

#[test]
fn r29_dropped_but_not_lost() {
    let found = Run::healthy()
        .dev("eth0", "rx_dropped", 500)
        .reason("UNHANDLED_PROTO@__netif_receive_skb_core", 500)
        .only("R29");
    assert_eq!(found.severity, Severity::Info);
    because(&found, "no loss");
    because(&Run::healthy().dev("eth0", "rx_dropped", 500).only("R29"), "Probably");
    Run::healthy().dev("eth0", "rx_dropped", 40).silent();
}

#[test]
fn r30_frames_for_somebody_else() {
    Run::healthy().dev("eth0", "rx_otherhost_dropped", 90_000).only("R30");
    let bond = Run::healthy()
        .dev("eth0", "rx_nohandler", 90_000)
        .with_dev("eth0", |d, _| d.master = Some("bond0".into()));
    bond.silent();
}

fn queue(kind: &str, options: &[(&str, u64)]) -> Qdisc {
    Qdisc {
        kind: kind.into(),
        handle: "8002:".into(),
        parent: "root".into(),
        options: counters("netlink/route/RTM_GETQDISC eth0 root", options),
        ..Qdisc::default()
    }
}

fn with_queue(qdisc: &Qdisc, drops: u64) -> Run {
    let qdisc = qdisc.clone();
    Run::healthy().with_dev("eth0", move |d, n| {
        let mut now = qdisc.clone();
        now.stats = counters(
            "netlink/route/RTM_GETQDISC eth0 root",
            &[("packets", n * 5000), ("drops", n * drops), ("requeues", 0), ("backlog", 1000)],
        );
        d.qdiscs = vec![now];
    })
}

#[test]
fn r60_a_shaper_drops() {
    let tbf = queue("tbf", &[("rate_bps", 2_500_000), ("burst", 16_384), ("limit", 30_720)]);
    let run = with_queue(&tbf, 364).mib("Udp", "SndbufErrors", 364).mib("Ip", "OutDiscards", 364);
    let found = run.only("R60");
    because(&found, "shaper");
    advises(&found, "tc qdisc replace dev eth0 root tbf rate 20000000bit burst 16384 limit 581816");
    with_queue(&tbf, 0).silent();
}

#[test]
fn r60_other_queues() {
    let fifo = with_queue(&queue("pfifo_fast", &[]), 100).only("R60");
    advises(&fifo, "ip link set eth0 txqueuelen 2048");
    assert_eq!(fifo.advice[0].rollback, "ip link set eth0 txqueuelen 1000");
    let short = with_queue(&queue("pfifo", &[("limit", 10)]), 200).only("R60");
    advises(&short, "tc qdisc replace dev eth0 root pfifo limit 256");
    assert_eq!(short.advice[0].rollback, "tc qdisc replace dev eth0 root pfifo limit 10");
    let full = with_queue(&queue("pfifo_fast", &[]), 100).dev("eth0", "tx_bytes", 6_000_000_000);
    advises(&full.only("R60"), "tc qdisc replace dev eth0 root fq_codel");
    because(&with_queue(&queue("netem", &[]), 100).only("R60"), "netem");
    // A leaf drops, and its parent counts that as well.
    let leaf = |by: u64| {
        let tbf = queue("tbf", &[("rate_bps", 2_500_000), ("burst", 16_384), ("limit", 300_000)]);
        with_queue(&tbf, 200).with_dev("eth0", move |d, n| {
            let mut leaf = queue("pfifo", &[("limit", 10)]);
            leaf.parent = "8002:1".into();
            leaf.stats =
                counters("netlink/route/RTM_GETQDISC eth0 pfifo 8003:", &[("drops", n * by)]);
            d.qdiscs.push(leaf);
        })
    };
    let below = leaf(200).only("R60");
    because(&below, "pfifo");
    advises(&below, "tc qdisc replace dev eth0 parent 8002:1 pfifo limit 256");
    assert_eq!(below.advice[0].rollback, "tc qdisc replace dev eth0 parent 8002:1 pfifo limit 10");
    because(&leaf(1).only("R60"), "shaper");
    // It is how fq_codel works.
    with_queue(&queue("fq_codel", &[]), 20).silent();
}

#[test]
fn r67_a_long_wait_in_the_queue() {
    let bytes = |bytes: u64| {
        with_queue(&queue("pfifo_fast", &[]), 0).with_dev("eth0", move |d, n| {
            d.stats.set("tx_bytes", n * WINDOW_S * 1_250_000);
            d.qdiscs[0].stats.set("backlog", bytes);
        })
    };
    let found = bytes(400_000).only("R67");
    because(&found, "320 ms");
    advises(&found, "tc qdisc replace dev eth0 root fq_codel");
    bytes(10_000).silent();
}

#[test]
fn r68_the_driver_refuses() {
    let requeues = |by: u64| {
        Run::healthy().with_dev("eth0", move |d, n| d.qdiscs[0].stats.set("requeues", n * by))
    };
    advises(&requeues(60_000).only("R68"), "ethtool -G eth0 tx 1024");
    requeues(600).silent();
    // On a full link it is how byte queue limits work.
    requeues(60_000).dev("eth0", "tx_bytes", 6_200_000_000).silent();
}

#[test]
fn r69_a_device_that_stood_still() {
    let run = Run::healthy().with_dev("eth0", |d, n| d.tx[2].stats.set("tx_timeout", n));
    assert_eq!(run.only("R69").severity, Severity::Critical);
}

#[test]
fn r70_a_long_queue_in_the_device() {
    let mut run = Run::healthy().with_dev("eth0", |d, n| {
        d.coalesce.set("adaptive-rx", 0);
        d.stats.set("tx_bytes", n * WINDOW_S * 1_000_000);
        d.tx[0].bql.set("inflight", 80_000);
    });
    run.silent();
    run.goal = Goal::Latency;
    let found = run.only("R70");
    advises(&found, "echo 20000 > /sys/class/net/eth0/queues/tx-0/byte_queue_limits/limit_max");
}

#[test]
fn r71_no_queue_of_its_own() {
    let run = Run::healthy().with_dev("eth0", |d, n| {
        d.tx.iter_mut().for_each(|q| q.xps_cpus = Some(Vec::new()));
        d.qdiscs[0].stats.set("requeues", n * 60_000);
    });
    advises(&run.only("R71"), "echo 1 > /sys/class/net/eth0/queues/tx-0/xps_cpus");
}

#[test]
fn r72_offloads_off() {
    let off = Feature::default();
    let run = all_idle(Run::healthy()).softirq(1, 0.95).with_dev("eth0", move |d, _| {
        d.features.insert("tx-tcp-segmentation".into(), off);
    });
    advises(&run.only("R72"), "ethtool -K eth0 tso on");
}

#[test]
fn r73_the_other_end_is_slow() {
    let tun = Dev { txqueuelen: 50, ..virtual_dev("tu0", "tun") };
    let run =
        Run::healthy().add_dev(&tun).dev("tu0", "tx_packets", 50).dev("tu0", "tx_dropped", 150);
    advises(&run.only("R73"), "ip link set tu0 txqueuelen 1000");
    let veth =
        veth_pair(1500, 1500).dev("va", "tx_dropped", 4676).reason("NOT_SPECIFIED@veth_xmit", 4676);
    because(&veth.only("R73"), "NAPI ring of 256");
}

#[test]
fn r80_a_providers_limit() {
    let run = Run::healthy()
        .with_dev("eth0", |d, n| d.driver_stats.set("pps_allowance_exceeded", n * 900));
    because(&run.only("R80"), "pps_allowance_exceeded");
}

#[test]
fn r85_a_link_that_became_slower() {
    let run = Run::healthy()
        .with_dev("eth0", |d, n| d.speed_mbps = Some(if n == 0 { 10_000 } else { 1000 }));
    because(&run.only("R85"), "cable");
}

#[test]
fn r86_processors_that_save_energy() {
    let latency = |change: fn(&mut Power, u64)| {
        let mut run = Run::healthy()
            .with_dev("eth0", |d, _| d.coalesce.set("adaptive-rx", 0))
            .each(|s, n| change(&mut s.power, n));
        run.goal = Goal::Latency;
        run
    };
    let policy = |governor: &str, preference: &str, max_khz: u64| Policy {
        governor: governor.into(),
        preference: preference.into(),
        max_khz: Some(max_khz),
        able_khz: Some(3_000_000),
        ..Policy::default()
    };
    let slow = latency(|p, _| {
        p.policies.insert(2, Policy { governor: "powersave".into(), ..Policy::default() });
    });
    let found = slow.only("R86");
    assert_eq!(found.severity, Severity::Info);
    let path = "/sys/devices/system/cpu/cpufreq/policy2/scaling_governor";
    advises(&found, &format!("echo performance > {path}"));
    assert_eq!(found.advice[0].rollback, format!("echo powersave > {path}"));
    assert_eq!(found.advice[0].risk, Risk::Global);
    let of = |policy: Policy| {
        let mut run =
            latency(|_, _| {}).each(|s, _| _ = s.power.policies.insert(0, policy.clone()));
        run.goal = Goal::Latency;
        run
    };
    // The driver scales by load, as the preference says.
    of(policy("powersave", "balance_performance", 3_000_000)).silent();
    because(&of(policy("powersave", "balance_power", 3_000_000)).only("R86"), "kept low");
    because(&of(policy("performance", "", 1_500_000)).only("R86"), "kept low");
    of(policy("schedutil", "", 3_000_000)).silent();

    let asleep = |share: u64, latency_us: u64, disabled: bool| {
        let mut run = latency(|_, _| {}).each(|s, n| {
            let source = "/sys/devices/system/cpu/cpu1/cpuidle/state3";
            let time = 1000 + n * WINDOW_S * share * 10_000;
            let times = counters(source, &[("time", time)]);
            let state = IdleState { name: "C6".into(), latency_us, disabled, times };
            s.power.idle.insert(1, vec![state]);
        });
        run.goal = Goal::Latency;
        run
    };
    because(&asleep(60, 133, false).only("R86"), "cpu1 sleeps in C6 for 60 %");
    asleep(60, 20, false).silent();
    asleep(5, 133, false).silent();
    asleep(60, 133, true).silent();
    // Where throughput is the goal, they may.
    let mut throughput = asleep(60, 133, false);
    throughput.goal = Goal::Throughput;
    throughput.silent();
}

#[test]
fn r88_what_was_set_and_is_not_so() {
    let refused = |name: &'static str| {
        Run::healthy().with_dev("eth0", |d, _| _ = d.refused.insert(name.into(), true))
    };
    let found = refused("rx-gro-hw").only("R88");
    assert_eq!((found.subject.as_str(), found.severity), ("eth0", Severity::Info));
    because(&found, "leaves rx-gro-hw off");
    refused("tx-vlan-stag-hw-insert").silent();
    let moved = Run::healthy().each(|s, _| s.irqs.get_mut(&101).unwrap().effective = vec![3]);
    because(&moved.only("R88"), "Interrupt 101 runs on 3, not on 1.");
}
