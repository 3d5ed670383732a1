//! IP, connection tracking, neighbours, the host.

use linerate_host::finding::{Risk, Severity};

use crate::build::{Run, advises, because, counters};

fn conntrack(run: Run, name: &'static str, by: u64) -> Run {
    run.each(move |s, n| s.conntrack.as_mut().unwrap().stat.set(name, 100 + n * by))
}

fn neigh(run: Run, name: &'static str, by: u64) -> Run {
    run.each(move |s, n| s.neigh.get_mut("arp_cache").unwrap().set(name, 100 + n * by))
}

#[test]
fn r31_wrong_headers() {
    let bad = || Run::healthy().mib("Ip", "InHdrErrors", 3000);
    because(&bad().only("R31"), "TTL ran out");
    because(&bad().mib("IpExt", "InCsumErrors", 3000).only("R31"), "checksums are wrong");
    because(&Run::healthy().mib("IpExt", "InTruncatedPkts", 3000).only("R31"), "shorter");
    Run::healthy().mib("Ip", "InHdrErrors", 100).silent();
}

#[test]
fn r32_not_for_us() {
    because(&Run::healthy().mib("Ip", "InAddrErrors", 3000).only("R32"), "does not forward");
    because(&Run::healthy().mib("IpExt", "InNoRoutes", 3000).only("R32"), "no route");
    because(&Run::healthy().mib("Ip", "InUnknownProtos", 3000).only("R32"), "Nobody here speaks");
    Run::healthy().mib("Ip", "InAddrErrors", 100).silent();
}

#[test]
fn r33_the_way_back() {
    let found = Run::healthy().mib("TcpExt", "IPReversePathFilter", 3000).only("R33");
    advises(&found, "sysctl -w net.ipv4.conf.eth0.rp_filter=2");
    assert_eq!(found.advice[0].rollback, "sysctl -w net.ipv4.conf.eth0.rp_filter=1");
    assert_eq!(found.advice[0].risk, Risk::Sec);
    let all = Run::healthy().sysctl("net.ipv4.conf.all.rp_filter", "1");
    let found = all.mib("TcpExt", "IPReversePathFilter", 3000).only("R33");
    advises(&found, "sysctl -w net.ipv4.conf.all.rp_filter=2");
}

#[test]
fn r34_the_connection_table_is_full() {
    let full = conntrack(Run::healthy(), "drop", 300).each(|s, _| {
        let table = &mut s.conntrack.as_mut().unwrap().table;
        table.set("nf_conntrack_count", 50);
        table.set("nf_conntrack_max", 50);
    });
    let found = full.only("R34");
    assert_eq!(found.severity, Severity::Critical);
    advises(&found, "sysctl -w net.netfilter.nf_conntrack_max=800");
    let near = Run::healthy().each(|s, _| {
        s.conntrack.as_mut().unwrap().table.set("nf_conntrack_count", 210_000);
    });
    assert_eq!(near.only("R34").severity, Severity::Warning);
    // What is so now is so, whatever the counters say.
    let once = near.diagnose_once();
    assert_eq!((once[0].id, once[0].lifetime, once[0].severity), ("R34", false, Severity::Warning));
}

#[test]
fn r35_r36_tracking_goes_wrong() {
    because(&conntrack(Run::healthy(), "insert_failed", 50).only("R35"), "same entry");
    conntrack(Run::healthy(), "insert_failed", 1).silent();
    let found = conntrack(Run::healthy(), "invalid", 5000).only("R36");
    advises(&found, "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1");
    conntrack(Run::healthy(), "invalid", 50).silent();
}

#[test]
fn r38_fragments() {
    let fails = || Run::healthy().mib("Ip", "ReasmReqds", 60).mib("Ip", "ReasmFails", 40);
    because(&fails().mib("Ip", "ReasmTimeout", 40).only("R38"), "lost on the way");
    let found = fails().sysctl("net.ipv4.ipfrag_high_thresh", "20001").only("R38");
    because(&found, "no room");
    advises(&found, "sysctl -w net.ipv4.ipfrag_high_thresh=4180209");
    Run::healthy().mib("Ip", "ReasmReqds", 6000).mib("Ip", "ReasmFails", 4).silent();
}

#[test]
fn r40_the_neighbour_table_is_full() {
    let run = neigh(neigh(Run::healthy(), "table_fulls", 279), "unresolved_discards", 900)
        .each(|s, _| s.neigh.get_mut("arp_cache").unwrap().set("entries", 1024))
        .mib("Udp", "SndbufErrors", 279)
        .mib("Ip", "OutDiscards", 279);
    let found = run.only("R40");
    advises(&found, "sysctl -w net.ipv4.neigh.default.gc_thresh3=4096");
    assert_eq!(found.advice[0].risk, Risk::Global);
    let near =
        Run::healthy().each(|s, _| s.neigh.get_mut("arp_cache").unwrap().set("entries", 960));
    assert_eq!(near.only("R40").severity, Severity::Warning);
    let child =
        neigh(Run::healthy(), "table_fulls", 279).each(|s, _| s.host.is_init_netns = Some(false));
    let found = child.diagnose();
    assert_eq!(child.ids(), ["R40", "R84"], "{found:#?}");
    assert!(found[0].advice[0].what.contains("first network namespace"));
    because(&found[1], "net.ipv4.neigh.default.gc_thresh3");
    assert_eq!(found[1].severity, Severity::Info);
}

#[test]
fn r41_a_neighbour_that_is_not_there() {
    let run = neigh(Run::healthy(), "unresolved_discards", 2000).each(|s, _| {
        s.neigh_states.insert(
            "inet".into(),
            counters("netlink/route/RTM_GETNEIGH inet", &[("FAILED", 1), ("REACHABLE", 9)]),
        );
    });
    let found = run.only("R41");
    assert!(found.evidence.iter().any(|e| e.name == "FAILED inet"));
    neigh(Run::healthy(), "unresolved_discards", 20).silent();
}

/// `/proc/net/stat/arp_cache` is in the host's first namespace only.
#[test]
fn r40_r41_in_a_container() {
    let child = || Run::healthy().each(|s, _| s.neigh.clear());
    let full = child()
        .reason("NEIGH_CREATEFAIL@ip_finish_output2", 279)
        .mib("Udp", "SndbufErrors", 279)
        .mib("Ip", "OutDiscards", 279);
    full.only("R40");
    child().reason("NEIGH_QUEUEFULL@__neigh_event_send", 2000).only("R41");
    let asked = |n: u64| {
        child().each(move |s, _| {
            s.neigh_states.insert(
                "inet".into(),
                counters("netlink/route/RTM_GETNEIGH inet", &[("INCOMPLETE", n)]),
            );
        })
    };
    asked(1).only("R41");
    asked(0).silent();
}

#[test]
fn r42_answers_held_back() {
    assert_eq!(
        Run::healthy().mib("Icmp", "OutRateLimitHost", 500).only("R42").severity,
        Severity::Info
    );
    let router =
        Run::healthy().sysctl("net.ipv4.ip_forward", "1").mib("Icmp", "OutRateLimitGlobal", 500);
    advises(&router.only("R42"), "sysctl -w net.ipv4.icmp_msgs_per_sec=4000");
    // It follows from datagrams to a closed port.
    let run = Run::healthy().mib("Icmp", "OutRateLimitHost", 500).mib("Udp", "NoPorts", 600);
    run.only("R45");
    // Fragments that came too late are R38's, with their answers; more answers than that are not.
    let late = |held| {
        Run::healthy()
            .mib("Ip", "ReasmReqds", 600)
            .mib("Ip", "ReasmFails", 500)
            .mib("Ip", "ReasmTimeout", 500)
            .mib("Icmp", "OutRateLimitHost", held)
    };
    late(500).only("R38");
    assert_eq!(late(1500).ids(), ["R38", "R42"]);
}

#[test]
fn r83_somebody_else_sets_it() {
    let run = Run::healthy().each(|s, n| {
        s.host.owners = vec!["tuned".into()];
        s.sysctls.insert("net.core.rmem_max".into(), (212_992 * (n + 1)).to_string());
    });
    because(&run.only("R83"), "tuned");
}

#[test]
fn r87_settings_of_old_guides() {
    advises(
        &Run::healthy().sysctl("net.ipv4.tcp_sack", "0").only("R87"),
        "sysctl -w net.ipv4.tcp_sack=1",
    );
    Run::healthy().sysctl("net.core.netdev_budget", "60000").only("R87");
    Run::healthy().sysctl("net.ipv4.tcp_mem", "1000000 1000000 1000000").only("R87");
    Run::healthy().sysctl("net.ipv4.tcp_window_scaling", "no number").silent();
}

#[test]
fn r89_a_route_that_drops() {
    let blackhole = |owner: &str| {
        let owner = owner.to_owned();
        Run::healthy().each(move |s, _| {
            s.host.owners = vec![owner.clone()];
            s.bad_routes.push(("203.0.113.0/24".into(), "blackhole".into()));
        })
    };
    let found = blackhole("dockerd").only("R89");
    assert_eq!((found.severity, found.subject.as_str()), (Severity::Info, "203.0.113.0/24"));
    blackhole("calico-node").silent();
    because(&Run::healthy().mib("Ip", "OutNoRoutes", 50).only("R89"), "ENETUNREACH");
}
