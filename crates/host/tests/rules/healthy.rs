//! A host that is well has no finding.

use linerate_host::snapshot::Snapshot;
use linerate_host::window::Goal;

use crate::build::{Run, virtual_dev};

#[test]
fn a_busy_web_server_has_no_finding() {
    Run::healthy().silent();
    Run::of(11).silent();
    Run::of(2).silent();
}

#[test]
fn nor_has_what_is_left_of_it_since_boot() {
    let found = Run::healthy().diagnose_once();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_goal_that_is_met_is_no_finding() {
    let mut run = Run::healthy().with_dev("eth0", |d, _| d.coalesce.set("adaptive-rx", 0));
    run.goal = Goal::Latency;
    run.silent();
}

#[test]
fn nothing_that_can_be_read_is_no_finding() {
    let run = Run::healthy().each(|s, _| {
        *s = Snapshot { monotonic_ns: s.monotonic_ns, host: s.host.clone(), ..Snapshot::default() };
    });
    run.silent();
    assert!(run.diagnose_once().is_empty());
}

#[test]
fn an_idle_laptop_with_containers_has_no_finding() {
    // Spanning tree and LLDP frames, a container's veth, a bridge without members.
    let run = Run::healthy()
        .add_dev(&virtual_dev("veth0", "veth"))
        .add_dev(&virtual_dev("docker0", "bridge"))
        .with_dev("docker0", |d, _| {
            d.flags = vec!["UP".into()];
            d.operstate = "down".into();
        })
        .with_dev("eth0", |d, _| d.qdiscs[0].stats.set("requeues", 4000))
        .dev("eth0", "rx_packets", 40)
        .dev("eth0", "tx_packets", 40)
        .dev("eth0", "rx_dropped", 3)
        .dev("eth0", "rx_otherhost_dropped", 3)
        .mib("Ip", "InReceives", 40)
        .mib("Ip", "OutRequests", 40)
        .mib("Tcp", "InSegs", 30)
        .mib("Tcp", "OutSegs", 30)
        .mib("Tcp", "RetransSegs", 1)
        .mib("Tcp", "ActiveOpens", 1)
        .mib("Tcp", "AttemptFails", 0)
        .mib("Tcp", "InCsumErrors", 0)
        .mib("Tcp", "InErrs", 0)
        .mib("Ip", "InAddrErrors", 0)
        .mib("Udp", "InDatagrams", 10)
        .mib("Udp", "NoPorts", 0)
        .mib("TcpExt", "TCPTimeouts", 0)
        .mib("TcpExt", "TCPSynRetrans", 0)
        .mib("TcpExt", "IPReversePathFilter", 0)
        .mib("TcpExt", "PAWSEstab", 0)
        .each(|s, _| s.conntrack = None);
    run.silent();
}

#[test]
fn a_container_without_the_hosts_counters_has_no_finding() {
    let run = Run::healthy().each(|s, _| {
        s.host.is_init_netns = Some(false);
        s.neigh.clear();
        s.irqs.clear();
        s.devs.remove("eth0");
        s.devs.insert("eth0".into(), virtual_dev("eth0", "veth"));
        let host_wide = ["net.core.netdev", "net.core.flow", "net.core.rps", "net.ipv4.tcp_mem"];
        s.sysctls.retain(|name, _| !host_wide.iter().any(|w| name.starts_with(w)));
    });
    run.silent();
}
