//! softirq, backlog, steering.

use linerate_host::bpf::hist::Hist;
use linerate_host::finding::Severity;
use linerate_host::snapshot::{Dev, Feature, Measured};
use linerate_host::window::Goal;

use crate::build::{Run, advises, because, virtual_dev};

/// One queue, as virtio has it, whose interrupt cpu0 serves.
fn one_queue(run: Run) -> Run {
    run.with_dev("eth0", |d, _| {
        d.rx.truncate(1);
        d.channels = Default::default();
        d.irqs = vec![100];
    })
    .each(|s, n| {
        s.irqs.retain(|irq, _| *irq == 100);
        s.devs.get_mut("eth0").unwrap().rx[0].stats.set("rx-packets", n * 1_000_000);
    })
}

fn all_idle(mut run: Run) -> Run {
    for cpu in 0..4 {
        run = run.softirq(cpu, 0.2);
    }
    run
}

#[test]
fn r15_bursts_want_a_longer_backlog() {
    let found = all_idle(Run::healthy()).softnet(1, "dropped", 1083).only("R15");
    assert_eq!((found.subject.as_str(), found.severity), ("cpu1", Severity::Critical));
    assert!((found.loss_per_s - 1083.0 / 5.0).abs() < 0.01);
    because(&found, "bursts");
    advises(&found, "sysctl -w net.core.netdev_max_backlog=4000");
    assert_eq!(found.advice[0].rollback, "sysctl -w net.core.netdev_max_backlog=1000");
    assert!(found.advice[0].persist.contains("/etc/sysctl.d/90-linerate.conf"));
    assert!(found.advice[0].verify.starts_with("`dropped` in /proc/net/softnet_stat cpu1"));
}

#[test]
fn r15_a_full_processor_wants_help() {
    let run = all_idle(one_queue(Run::healthy()))
        .with_dev("eth0", |d, _| d.rx[0].rps_cpus = vec![1])
        .softirq(1, 0.97)
        .softnet(1, "dropped", 200_000);
    let found = run.only("R15");
    because(&found, "RPS of eth0");
    because(&found, "full of softirq");
    advises(&found, "echo f > /sys/class/net/eth0/queues/rx-0/rps_cpus");
    assert_eq!(found.advice[0].rollback, "echo 2 > /sys/class/net/eth0/queues/rx-0/rps_cpus");
}

#[test]
fn r15_speaks_for_the_devices_that_count_the_same() {
    let veth = |name: &str| Dev { ifindex: 50, ..virtual_dev(name, "veth") };
    let run = all_idle(Run::healthy())
        .add_dev(&veth("va"))
        .add_dev(&veth("vb"))
        .softnet(1, "dropped", 191_880)
        .dev("va", "tx_dropped", 191_880)
        .dev("vb", "rx_dropped", 191_880);
    let found = run.only("R15");
    let names: Vec<&str> = found.evidence.iter().map(|e| e.name.as_str()).collect();
    assert!(names.contains(&"rx_dropped") && names.contains(&"tx_dropped"), "{names:?}");
}

#[test]
fn r15_is_silent_for_a_few_of_very_many() {
    all_idle(Run::healthy()).softnet(1, "dropped", 1).silent();
    // Once is over, unless it was much.
    let once = |by: u64| {
        all_idle(Run::of(6)).each(|s, n| {
            s.softnet.get_mut(&1).unwrap().set("dropped", if n < 3 { 0 } else { by });
        })
    };
    once(50).silent();
    once(5000).only("R15");
}

#[test]
fn r22_the_flow_limit_is_not_a_full_backlog() {
    let run = all_idle(Run::healthy())
        .sysctl("net.core.flow_limit_cpu_bitmap", "5")
        .softnet(0, "flow_limit_count", 1652)
        .softnet(1, "dropped", 1652);
    let found = run.only("R22");
    assert_eq!(found.subject, "cpu0");
    advises(&found, "sysctl -w net.core.flow_limit_cpu_bitmap=4");
    // Mostly full, and a little by the flow limit: both.
    let run = run.softnet(1, "dropped", 200_000);
    assert_eq!(run.ids(), ["R15", "R22"]);
}

#[test]
fn r16_squeezed_by_packets() {
    let run = all_idle(Run::healthy())
        .softirq(0, 0.05)
        .softnet(0, "processed", 96_000)
        .softnet(0, "time_squeeze", 200)
        .each(|s, n| s.softirqs.get_mut(&0).unwrap().set("NET_RX", n * 600));
    let found = run.only("R16");
    assert_eq!(found.severity, Severity::Warning);
    advises(&found, "sysctl -w net.core.netdev_budget=900");
}

#[test]
fn r17_squeezed_by_time() {
    let squeezed = |by: u64| {
        all_idle(Run::healthy())
            .softirq(1, 0.3)
            .softnet(1, "processed", 2400)
            .softnet(1, "time_squeeze", by)
            .each(|s, n| s.softirqs.get_mut(&1).unwrap().set("NET_RX", n * 120))
    };
    let found = squeezed(36).only("R17");
    because(&found, "A packet costs 62");
    assert!(found.advice[0].what.contains("lists of rules"));
    squeezed(1).silent();
    let stolen = squeezed(36).each(|s, n| {
        let cpu = s.cpus.get_mut(&1).unwrap();
        cpu.set("steal", n * 200);
    });
    because(&stolen.only("R17"), "hypervisor");
}

#[test]
fn r18_a_full_processor_without_a_way_to_spread_its_work() {
    let run = all_idle(Run::healthy()).softirq(2, 0.95);
    let found = run.only("R18");
    assert_eq!(found.subject, "cpu2");
    all_idle(Run::healthy()).softirq(2, 0.6).silent();
    // All of them are: nothing to spread.
    let mut all = Run::healthy();
    for cpu in 0..4 {
        all = all.softirq(cpu, 0.95);
    }
    all.silent();
}

#[test]
fn r19_one_queue_wants_rps() {
    let found = all_idle(one_queue(Run::healthy())).softirq(0, 0.96).only("R19");
    advises(&found, "echo e > /sys/class/net/eth0/queues/rx-0/rps_cpus");
    assert_eq!(found.advice[0].rollback, "echo 0 > /sys/class/net/eth0/queues/rx-0/rps_cpus");
    assert!(found.advice[0].persist.contains("ATTR{queues/rx-0/rps_cpus}=\"e\""));
    all_idle(one_queue(Run::healthy())).silent();
}

#[test]
fn r20_rps_on_top_of_enough_queues() {
    let run = |ipis: u64| {
        Run::healthy().with_dev("eth0", |d, _| d.rx[0].rps_cpus = vec![0, 1, 2, 3]).softnet(
            1,
            "received_rps",
            ipis,
        )
    };
    let found = run(900_000).only("R20");
    advises(&found, "echo 0 > /sys/class/net/eth0/queues/rx-0/rps_cpus");
    run(1000).silent();
}

#[test]
fn r21_a_mask_with_processors_that_are_not_there() {
    let run = Run::healthy().with_dev("eth0", |d, _| d.rx[1].rps_cpus = vec![1, 3, 9]);
    let found = run.only("R21");
    because(&found, "Processors 9 ");
    advises(&found, "echo a > /sys/class/net/eth0/queues/rx-1/rps_cpus");
    let isolated = Run::healthy()
        .with_dev("eth0", |d, _| d.rx[1].rps_cpus = vec![1, 3])
        .each(|s, _| s.host.isolated = vec![3]);
    advises(&isolated.only("R21"), "echo 2 > /sys/class/net/eth0/queues/rx-1/rps_cpus");
}

#[test]
fn r23_half_of_rfs() {
    let found = Run::healthy().sysctl("net.core.rps_sock_flow_entries", "32768").only("R23");
    advises(&found, "echo 8192 > /sys/class/net/eth0/queues/rx-0/rps_flow_cnt");
    let found = Run::healthy().with_dev("eth0", |d, _| d.rx[0].rps_flow_cnt = 4096).only("R23");
    advises(&found, "sysctl -w net.core.rps_sock_flow_entries=32768");
}

#[test]
fn r24_rfs_without_the_devices_filters() {
    let rfs = || {
        Run::healthy()
            .sysctl("net.core.rps_sock_flow_entries", "32768")
            .with_dev("eth0", |d, _| d.rx.iter_mut().for_each(|q| q.rps_flow_cnt = 8192))
    };
    advises(&rfs().only("R24"), "ethtool -K eth0 ntuple on");
    let fixed = Feature { on: false, fixed: true };
    rfs()
        .with_dev("eth0", |d, _| {
            d.features.insert("rx-ntuple-filter".into(), fixed).map_or((), |_| ())
        })
        .silent();
}

#[test]
fn r25_gro_off() {
    let off = || {
        Run::healthy().with_dev("eth0", |d, _| {
            d.features.insert("rx-gro".into(), Feature::default());
        })
    };
    let found = off().mib("Ip", "InReceives", 1_100_000).only("R25");
    advises(&found, "ethtool -K eth0 gro on");
    assert_eq!(found.advice[0].rollback, "ethtool -K eth0 gro off");
    // Something merges them all the same, or there is little traffic.
    off().silent();
    off()
        .mib("Ip", "InReceives", 90_000)
        .mib("Tcp", "InSegs", 5000)
        .dev("eth0", "rx_packets", 90_000)
        .silent();
}

#[test]
fn r37_dear_packets() {
    let run = all_idle(Run::healthy()).softirq(3, 0.95).softnet(3, "processed", 100_000);
    let found = run.only("R37");
    because(&found, "47 µs");
    all_idle(Run::healthy()).softirq(3, 0.4).softnet(3, "processed", 1000).silent();
}

/// What probes measured: in each window so many values of a histogram, on a processor.
fn measured(run: Run, name: &str, cpu: u32, values: &[u64]) -> Run {
    run.each(|s, n| {
        let mut hist = Hist::default();
        (0..n).for_each(|_| values.iter().for_each(|v| hist.add(*v)));
        let all = s.measured.get_or_insert_with(|| Measured { sample: 1, ..Measured::default() });
        all.hists.entry(name.into()).or_default().insert(cpu, hist);
    })
}

#[test]
fn r93_another_softirq_runs_before() {
    let late = [&[20_000; 95][..], &[9_000_000; 5]].concat();
    let run = measured(all_idle(Run::healthy()), "delay/NET_RX", 2, &late);
    let run = measured(run, "softirq/RCU", 2, &[8_000_000]);
    let run = measured(run, "softirq/NET_RX", 2, &[9_000_000]);
    let found = run.only("R93");
    assert_eq!((found.subject.as_str(), found.severity), ("cpu2", Severity::Warning));
    because(&found, "RCU runs before it");
    assert!(found.evidence.iter().any(|e| e.source == "bpf/probes delay/NET_RX cpu2"));
}

#[test]
fn r93_a_full_processor_waits_for_ksoftirqd() {
    let run = all_idle(Run::healthy()).softirq(1, 0.97);
    let found = measured(run, "delay/NET_RX", 1, &[9_000_000; 60]).diagnose();
    let found = found.iter().find(|f| f.id == "R93").unwrap();
    because(found, "ksoftirqd");
}

#[test]
fn r93_is_silent_where_delays_are_short_or_few() {
    let short = [&[20_000; 995][..], &[9_000_000; 5]].concat();
    measured(all_idle(Run::healthy()), "delay/NET_RX", 2, &short).silent();
    measured(all_idle(Run::healthy()), "delay/NET_RX", 2, &[9_000_000; 3]).silent();
}

fn way(queued: u64, waited: u64) -> Run {
    let mut run = all_idle(Run::healthy());
    for (name, ns) in
        [("rx/udp-queued", queued), ("rx/udp-waited", waited), ("rx/udp-read", queued + waited)]
    {
        run = measured(run, name, 0, &[ns; 80]);
    }
    run
}

#[test]
fn r94_a_late_program_and_a_late_kernel_are_told_apart() {
    let found = way(30_000, 100_000_000).only("R94");
    assert_eq!(found.severity, Severity::Info);
    because(&found, "The program is late, not the kernel.");
    let mut run = way(200_000_000, 30_000);
    run.goal = Goal::Latency;
    let found = run.only("R94");
    assert_eq!(found.severity, Severity::Warning);
    because(&found, "The kernel is late");
    way(30_000, 1_000_000).silent();
}

#[test]
fn r17_tells_one_long_poll_from_many() {
    let squeezed = || {
        all_idle(Run::healthy())
            .softirq(1, 0.3)
            .softnet(1, "processed", 2400)
            .softnet(1, "time_squeeze", 36)
            .each(|s, n| s.softirqs.get_mut(&1).unwrap().set("NET_RX", n * 120))
    };
    let found = measured(squeezed(), "poll/eth0", 1, &[5_000_000; 10]).only("R17");
    because(&found, "One poll of eth0 takes up to 5.0 ms.");
    let found = measured(squeezed(), "poll/eth0", 1, &[50_000; 10]).only("R17");
    because(&found, "they are many");
}
