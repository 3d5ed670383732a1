//! Each loss once.

use linerate_core::table::Stage;
use linerate_host::ledger::{self, Ledger};
use linerate_host::snapshot::{Dev, Qdisc};

use crate::build::{Run, counters, udp, virtual_dev};

fn of(run: &Run) -> Ledger {
    ledger::of(&run.window())
}

/// What a busy host that is well loses anyway.
fn usual() -> u64 {
    of(&Run::healthy()).total()
}

#[test]
fn a_backlog_overflow_is_one_loss_though_three_counters_show_it() {
    let run = Run::healthy()
        .add_dev(&virtual_dev("va", "veth"))
        .add_dev(&virtual_dev("vb", "veth"))
        .softnet(1, "dropped", 1000)
        .dev("va", "tx_dropped", 1000)
        .dev("vb", "rx_dropped", 1000);
    let ledger = of(&run);
    assert_eq!(ledger.at(Stage::Backlog), 2000, "two windows");
    assert!(ledger.unexplained("va", "tx_dropped").is_none());
    assert!(ledger.unexplained("vb", "rx_dropped").is_none());
    assert_eq!(ledger.total(), usual() + 2000);
    let loss = ledger.losses.iter().find(|loss| loss.stage == Stage::Backlog).unwrap();
    let names: Vec<&str> = loss.counters.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names[0], "dropped");
    assert!(names.contains(&"rx_dropped") && names.contains(&"tx_dropped"), "{names:?}");
}

#[test]
fn what_a_qdisc_drops_is_not_counted_again_for_its_sender() {
    let run = Run::healthy()
        .with_dev("eth0", |d, n| {
            let stats = counters(
                "netlink/route/RTM_GETQDISC eth0 root",
                &[("drops", n * 364), ("packets", n * 36)],
            );
            d.qdiscs = vec![
                Qdisc {
                    kind: "tbf".into(),
                    handle: "1:".into(),
                    parent: "root".into(),
                    stats: stats.clone(),
                    ..Qdisc::default()
                },
                // The leaf dropped them, and its parent counts that.
                Qdisc {
                    kind: "pfifo".into(),
                    handle: "2:".into(),
                    parent: "1:1".into(),
                    stats,
                    ..Qdisc::default()
                },
            ];
        })
        .mib("Udp", "SndbufErrors", 364)
        .mib("Ip", "OutDiscards", 364);
    let ledger = of(&run);
    assert_eq!(ledger.at(Stage::Qdisc), 728);
    assert_eq!(ledger.at(Stage::Send), 0);
    assert_eq!(ledger.total(), usual() + 728);
}

#[test]
fn errors_of_udp_are_taken_apart() {
    let run = Run::healthy()
        .mib("Udp", "InErrors", 200)
        .mib("Udp", "RcvbufErrors", 150)
        .mib("Udp", "InCsumErrors", 30)
        .each(|s, n| s.sockets.udp.push(udp(0, 4096, n as u32 * 150)));
    let ledger = of(&run);
    let count = |what: &str| ledger.losses.iter().find(|l| l.what == what).map(|l| l.count);
    assert_eq!(count("UDP receive buffer full"), Some(300));
    assert_eq!(count("bad checksum of UDP"), Some(60));
    assert_eq!(count("other errors of UDP"), Some(40));
    let full = ledger.losses.iter().find(|l| l.what == "UDP receive buffer full").unwrap();
    assert!(full.counters.iter().any(|c| c.name == "drops"), "the socket's own counter is listed");
}

#[test]
fn a_full_accept_queue_is_not_a_refused_request_as_well() {
    let run = Run::healthy().mib("TcpExt", "ListenOverflows", 45).mib("TcpExt", "ListenDrops", 50);
    let ledger = of(&run);
    let count = |what: &str| ledger.losses.iter().find(|l| l.what == what).map(|l| l.count);
    assert_eq!(
        (count("accept queue full"), count("connection request refused")),
        (Some(90), Some(10))
    );
}

#[test]
fn what_no_stage_explains_stands_at_the_end() {
    let run = Run::healthy()
        .add_dev(&virtual_dev("va", "veth"))
        .dev("va", "tx_dropped", 500)
        .softnet(1, "dropped", 100);
    let ledger = of(&run);
    let left = ledger.unexplained("va", "tx_dropped").unwrap();
    assert_eq!((left.count, left.stage), (800, Stage::Xmit));
    let known = Run::healthy()
        .dev("eth0", "rx_dropped", 500)
        .reason("UNHANDLED_PROTO@__netif_receive_skb_core", 500);
    let ledger = of(&known);
    assert!(ledger.unexplained("eth0", "rx_dropped").is_none());
    assert_eq!(ledger.total(), usual().saturating_sub(10), "no loss: nobody speaks that protocol");
}

#[test]
fn a_ring_that_counts_in_three_ways_lost_a_packet_once() {
    let run =
        Run::healthy().dev("eth0", "rx_missed_errors", 700).with_dev("eth0", |d: &mut Dev, n| {
            d.driver_stats.set("rx_no_dma_resources", n * 700);
            d.stats.set("rx_dropped", 30_000 + n * 700);
        });
    let ledger = of(&run);
    assert_eq!(ledger.at(Stage::Ring), 1400);
    assert!(ledger.unexplained("eth0", "rx_dropped").is_none());
}

#[test]
fn losses_stand_in_the_order_of_the_path() {
    let run = Run::healthy().mib("Udp", "RcvbufErrors", 9).softnet(1, "dropped", 9).dev(
        "eth0",
        "rx_missed_errors",
        9,
    );
    let stages: Vec<Stage> = of(&run).losses.iter().map(|loss| loss.stage).collect();
    let order = |s: &Stage| Stage::ALL.iter().position(|t| t == s).unwrap();
    assert!(stages.is_sorted_by_key(order), "{stages:?}");
}
