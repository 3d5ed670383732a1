//! Devices on top of others, redirects, SCTP, filters: what no namespace of the machine that tests has.

use linerate_host::finding::Severity;
use linerate_host::snapshot::{Action, Class, Dev, Filter, Qdisc};

use crate::build::{Run, advises, because, counters, virtual_dev};

fn on_top(name: &str, kind: &str, of: u32, info: &[(&str, u64)]) -> Dev {
    Dev { ifindex: 41, link: Some(of), kind_info: counters(name, info), ..virtual_dev(name, kind) }
}

fn eth0(run: &Run) -> u32 {
    run.last().devs["eth0"].ifindex
}

#[test]
fn r74_a_vlan_that_hears_nothing() {
    let index = eth0(&Run::healthy());
    let vlan = || Run::healthy().add_dev(&on_top("eth0.5", "vlan", index, &[("id", 5)]));
    let found = vlan().dev("eth0", "rx_otherhost_dropped", 5000).only("R74");
    assert_eq!((found.subject.as_str(), found.severity), ("eth0", Severity::Warning));
    because(&found, "5 (eth0.5)");
    // A VLAN that is heard, and one on another device, say nothing.
    let heard = vlan().dev("eth0", "rx_otherhost_dropped", 5000).dev("eth0.5", "rx_packets", 900);
    assert_eq!(heard.ids(), ["R30"]);
    let other = on_top("eth1.5", "vlan", index + 1, &[("id", 5)]);
    let other = Run::healthy().add_dev(&other).dev("eth0", "rx_otherhost_dropped", 5000);
    assert_eq!(other.ids(), ["R30"]);
    vlan().silent();
}

fn bridge(stp: u64, state: u64) -> Run {
    let bridge = on_top("br0", "bridge", 0, &[("stp_state", stp), ("forward_delay", 1500)]);
    Run::healthy().add_dev(&bridge).with_dev("eth0", move |d, _| {
        d.master = Some("br0".into());
        d.port_info = counters("netlink/route/RTM_GETLINK eth0", &[("state", state)]);
        d.flags = vec!["UP".into(), "LOWER_UP".into()];
    })
}

#[test]
fn r75_a_port_that_does_not_forward() {
    let found = bridge(0, 2).only("R75");
    assert_eq!((found.subject.as_str(), found.severity), ("eth0 in br0", Severity::Warning));
    because(&found, "somebody set this state");
    let found = bridge(1, 1).only("R75");
    assert_eq!(found.severity, Severity::Info);
    because(&found, "15 s");
    // Forwarding; blocked by spanning tree, which is right; a bridge that is down.
    bridge(0, 3).silent();
    bridge(1, 4).silent();
    bridge(0, 0).with_dev("br0", |d, _| d.flags.clear()).silent();
}

#[test]
fn r76_a_tunnel_knows_what_it_puts_around_a_packet() {
    let index = eth0(&Run::healthy());
    for (kind, info, fits) in [
        ("vxlan", &[("id", 7)][..], 1450),
        ("geneve", &[("ipv6", 1)], 1430),
        ("gre", &[], 1476),
        ("gre", &[("oflags", 0x0020)], 1472),
        ("gretap", &[], 1462),
        ("ipip", &[], 1480),
    ] {
        let tunnel = on_top("tun7", kind, index, info);
        let cut = Run::healthy()
            .add_dev(&tunnel)
            .with_dev("eth0", |d, _| d.mtu = 1500)
            .dev("tun7", "tx_packets", 500)
            .mib("Ip", "FragCreates", 400);
        let found = cut.only("R76");
        advises(&found, &format!("ip link set tun7 mtu {fits}"));
        let well = cut.with_dev("tun7", |d, _| d.mtu = fits);
        well.silent();
    }
}

#[test]
fn r77_redirects_both_ways() {
    let found = Run::healthy()
        .mib("Icmp", "OutRedirects", 50)
        .sysctl("net.ipv4.conf.all.send_redirects", "1")
        .sysctl("net.ipv4.conf.eth0.send_redirects", "1")
        .only("R77");
    advises(&found, "sysctl -w net.ipv4.conf.all.send_redirects=0");
    assert_eq!(found.advice[1].command, "sysctl -w net.ipv4.conf.eth0.send_redirects=0");
    let got = || Run::healthy().mib("Icmp", "InRedirects", 50);
    let obeyed = got().sysctl("net.ipv4.conf.all.accept_redirects", "1").only("R77");
    assert_eq!(obeyed.severity, Severity::Warning);
    let ignored = got().sysctl("net.ipv4.conf.all.accept_redirects", "0").only("R77");
    assert_eq!(ignored.severity, Severity::Info);
    Run::healthy().mib("Icmp", "InRedirects", 1).silent();
}

#[test]
fn r78_sctp_with_wrong_checksums() {
    let sctp = || Run::healthy().mib("Sctp", "InSCTPPacks", 10_000);
    let found = sctp().mib("Sctp", "ChecksumErrors", 200).only("R78");
    because(&found, "damaged on the way");
    let found = sctp().mib("Sctp", "InDataChunkDiscards", 200).only("R78");
    because(&found, "receive buffer was full");
    sctp().mib("Sctp", "OutOfBlues", 200).silent();
    sctp().mib("Sctp", "ChecksumErrors", 1).silent();
}

#[test]
fn r92_a_tunnel_without_a_way() {
    let tunnel = || {
        let tunnel = on_top("gre7", "gre", 0, &[]);
        Run::healthy().add_dev(&tunnel).dev("gre7", "tx_errors", 100)
    };
    because(&tunnel().dev("gre7", "tx_carrier_errors", 100).only("R92"), "no route");
    because(&tunnel().dev("gre7", "collisions", 100).only("R92"), "into the tunnel itself");
    because(&tunnel().only("R92"), "could not send");
}

/// A policer at ingress, whose action says what it dropped.
#[test]
fn r27_names_the_filter_whose_action_drops() {
    let action = |kind: &str, does: &str, drops: u64| Action {
        kind: kind.into(),
        does: does.into(),
        stats: counters("netlink/route/RTM_GETTFILTER eth0", &[("drops", drops)]),
    };
    let filter = |pref: u32, action: Action| Filter {
        kind: "flower".into(),
        at: "ingress".into(),
        pref,
        handle: "0:1".into(),
        actions: vec![action],
        ..Filter::default()
    };
    let run = Run::healthy().with_dev("eth0", |d, n| {
        d.qdiscs.push(Qdisc {
            kind: "clsact".into(),
            handle: "ffff:".into(),
            parent: "ingress".into(),
            stats: counters("netlink/route/RTM_GETQDISC eth0 clsact", &[("drops", n * 90_000)]),
            ..Qdisc::default()
        });
        d.filters = vec![
            filter(1, action("gact", "ok", 0)),
            filter(2, action("police", "drop", n * 90_000)),
        ];
    });
    let found = run.only("R27");
    because(&found, "flower of preference 2 at ingress does it: police drop");
}

/// The class that a leaf is in says what it may send.
#[test]
fn r60_names_the_class_that_is_at_its_end() {
    let run = Run::healthy().with_dev("eth0", |d, n| {
        let qdisc = |kind: &str, handle: &str, parent: &str| Qdisc {
            kind: kind.into(),
            handle: handle.into(),
            parent: parent.into(),
            stats: counters(
                &format!("netlink/route/RTM_GETQDISC eth0 {kind}"),
                &[("drops", n * 90_000), ("packets", n * 50_000)],
            ),
            ..Qdisc::default()
        };
        d.qdiscs = vec![qdisc("htb", "1:", "root"), qdisc("pfifo", "10:", "1:10")];
        d.classes = vec![Class {
            kind: "htb".into(),
            handle: "1:10".into(),
            parent: "1:1".into(),
            leaf: "10:".into(),
            stats: counters("netlink/route/RTM_GETTCLASS eth0", &[("overlimits", n * 1000)]),
            options: counters("", &[("rate_bps", 125_000), ("ceil_bps", 250_000)]),
        }];
    });
    let found = run.only("R60");
    because(&found, "Class 1:10 has 1000 kbit/s and may have 2000");
    assert!(found.evidence.iter().any(|e| e.name == "overlimits"), "{found:#?}");
}
