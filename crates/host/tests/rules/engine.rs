//! Order, suppression, limits, lifetime, pages.

use std::collections::BTreeSet;

use linerate_core::table::Stage;
use linerate_host::change::Change;
use linerate_host::finding::Severity;
use linerate_host::rules::{
    LimitError, Limits, all, by_name, diagnose, file_name, index, inverse, page, pages,
};
use linerate_host::snapshot::Snapshot;
use linerate_host::window::{Cx, Window};

use crate::build::{Run, counters, udp};

#[test]
fn there_are_sixty_rules_and_each_says_all_that_a_reader_needs() {
    let rules: Vec<_> = all().collect();
    assert!(rules.len() >= 60, "{}", rules.len());
    let ids: BTreeSet<_> = rules.iter().map(|rule| rule.id).collect();
    let names: BTreeSet<_> = rules.iter().map(|rule| rule.name).collect();
    assert_eq!((ids.len(), names.len()), (rules.len(), rules.len()), "ids and names are unique");
    for rule in rules {
        for (what, text) in [
            ("title", rule.title),
            ("evidence", rule.evidence),
            ("causes", rule.causes),
            ("advice", rule.advice),
            ("traps", rule.traps),
        ] {
            assert!(!text.trim().is_empty(), "{}: no {what}", rule.id);
            assert!(!text.contains("  "), "{}: two blanks in {what}", rule.id);
        }
        assert!(!rule.cites.is_empty(), "{}: rests on nothing", rule.id);
        for child in rule.suppresses {
            assert!(by_name(child).is_some(), "{} suppresses {child}, which is not there", rule.id);
            assert_ne!(*child, rule.id);
        }
        assert_eq!(by_name(rule.name).map(|found| found.id), Some(rule.id));
    }
}

#[test]
fn no_two_rules_silence_each_other() {
    for rule in all() {
        for child in rule.suppresses.iter().filter_map(|id| by_name(id)) {
            let back = child.suppresses.contains(&rule.id);
            assert!(!back, "{} and {} silence each other", rule.id, child.id);
        }
    }
}

#[test]
fn the_worst_comes_first_and_among_equals_what_is_nearer_to_the_wire() {
    let both = |ring: u64, socket: u64| {
        Run::healthy()
            .dev("eth0", "rx_missed_errors", ring)
            .mib("Udp", "RcvbufErrors", socket)
            .each(move |s, n| s.sockets.udp.push(udp(0, 4096, (n * socket) as u32)))
    };
    assert_eq!(both(500, 900).ids(), ["R01", "R43"], "nearer to the wire");
    assert_eq!(both(500, 9000).ids(), ["R01", "R43"], "even if it is less");
    assert_eq!(both(500, 90_000).ids(), ["R43", "R01"], "but not if it is less than a hundredth");
    // A loss comes before what only may be one, and that before what is worth to know.
    let run = both(0, 90).sysctl("net.ipv4.tcp_sack", "0").each(|s, _| {
        s.conntrack.as_mut().unwrap().table.set("nf_conntrack_count", 250_000);
    });
    assert_eq!(run.ids(), ["R43", "R34", "R87"]);
}

#[test]
fn a_loss_that_is_far_larger_is_not_a_consequence() {
    let run = |errors: u64| {
        Run::healthy()
            .each(|s, n| s.neigh.get_mut("arp_cache").unwrap().set("table_fulls", n * 10))
            .mib("Udp", "SndbufErrors", errors)
    };
    assert_eq!(run(10).ids(), ["R40"]);
    assert_eq!(run(500_000).ids(), ["R47", "R40"]);
}

#[test]
fn one_snapshot_is_milder_and_says_so() {
    let lost = Run::healthy().each(|s, _| {
        s.softnet.get_mut(&1).unwrap().set("dropped", 90_000_000);
        s.mib.get_mut("Udp").unwrap().set("RcvbufErrors", 9_000_000);
    });
    let found = lost.diagnose_once();
    assert_eq!(found.iter().map(|f| f.id).collect::<Vec<_>>(), ["R15", "R43"]);
    for finding in &found {
        assert!(finding.lifetime);
        assert_eq!(finding.severity, Severity::Warning, "{}", finding.id);
    }
    lost.silent();
}

#[test]
fn a_few_events_since_boot_say_nothing() {
    // Nearly all of very few datagrams.
    let run = |lost: u64| {
        Run::healthy().each(move |s, _| {
            let udp = s.mib.get_mut("Udp").unwrap();
            udp.set("RcvbufErrors", lost);
            udp.set("InDatagrams", 4);
        })
    };
    assert!(run(9).diagnose_once().is_empty());
    assert_eq!(run(900).diagnose_once()[0].id, "R43");
}

#[test]
fn a_counter_that_was_reset_or_is_gone_says_nothing() {
    Run::healthy()
        .each(|s, n| s.mib.get_mut("Udp").unwrap().set("RcvbufErrors", 9_000_000 / (n + 1)))
        .silent();
    let gone = Run::healthy().each(|s, n| {
        let mib = s.mib.get_mut("Udp").unwrap();
        *mib =
            counters("/proc/net/snmp Udp", if n == 1 { &[("RcvbufErrors", 90_000)] } else { &[] });
    });
    gone.silent();
    // A device that comes while we look.
    let came = Run::healthy().each(|s, n| {
        if n == 0 {
            s.devs.remove("eth0");
        } else {
            s.devs.get_mut("eth0").unwrap().stats.set("rx_missed_errors", 9_000_000);
        }
    });
    came.silent();
}

#[test]
fn many_of_the_same_are_named_in_the_worst() {
    let mut run = Run::healthy();
    for cpu in 0..4 {
        run = run.softirq(cpu, 0.2).softnet(cpu, "dropped", 5000 + u64::from(cpu));
    }
    let found = run.diagnose();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].subject, "cpu3");
    assert!(found[0].cause.ends_with("1 more are the same: cpu0."), "{}", found[0].cause);
}

#[test]
fn limits_are_set_by_name() {
    let mut limits = Limits::default();
    limits.set("conntrack_fill", "0.05").unwrap();
    assert!((limits.conntrack_fill - 0.05).abs() < f64::EPSILON);
    let mut run = Run::healthy();
    run.limits = limits.clone();
    run.only("R34");
    assert!(matches!(limits.set("nothing", "1"), Err(LimitError::Unknown(_))));
    for bad in ["", "x", "-1", "NaN", "inf"] {
        assert!(matches!(limits.set("burst", bad), Err(LimitError::Value(..))), "{bad}");
    }
    assert!(limits.set("nothing", "1").unwrap_err().to_string().contains("conntrack_fill"));
    for row in Limits::ROWS {
        limits.set(row.name, &row.default.to_string()).unwrap();
    }
    assert_eq!(limits, Limits::default());
}

#[test]
fn every_rule_has_a_page_and_the_index_names_them_all() {
    let pages: Vec<_> = pages().collect();
    assert_eq!(pages.len(), all().count() + 1);
    let index = index();
    for rule in all() {
        let text = page(rule);
        assert!(index.contains(&file_name(rule)), "{}", rule.id);
        for part in ["## Evidence", "## Causes", "## Advice", "## Traps", "## Rests on"] {
            assert!(text.contains(part), "{} has no {part}", rule.id);
        }
        assert_eq!(text.lines().filter(|line| line.starts_with("# ")).count(), 1);
        // A limit that is named exists.
        for name in rule.evidence.split('`').skip(1).step_by(2) {
            let looks_like_one = name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                && name.ends_with("_ratio");
            let known = Limits::ROWS.iter().any(|row| row.name == name);
            assert!(!looks_like_one || known, "{}: there is no limit {name}", rule.id);
        }
    }
}

#[test]
fn a_change_is_undone_by_the_value_that_was_there() {
    let run = Run::healthy();
    let now = run.last();
    let file = |path: &str, value: &str| Change::File { path: path.into(), value: value.into() };
    let xps = "/sys/class/net/eth0/queues/tx-2/xps_cpus";
    assert_eq!(inverse(&file(xps, "f"), now), Some(file(xps, "4")));
    let sysctl =
        |name: &str, value: &str| Change::Sysctl { name: name.into(), value: value.into() };
    assert_eq!(
        inverse(&sysctl("net.core.somaxconn", "9"), now),
        Some(sysctl("net.core.somaxconn", "4096"))
    );
    assert_eq!(inverse(&sysctl("net.core.unknown", "9"), now), None);
    let link =
        |value: &str| Change::Link { dev: "eth0".into(), name: "mtu".into(), value: value.into() };
    assert_eq!(inverse(&link("9000"), now), Some(link("1500")));
    for nonsense in [
        "/sys/class/net/eth0/queues/tx-99/xps_cpus",
        "/sys/class/net/none/threaded",
        "/etc/passwd",
        "/proc/irq/x/smp_affinity_list",
    ] {
        assert_eq!(inverse(&file(nonsense, "1"), now), None, "{nonsense}");
    }
}

#[test]
fn values_out_of_this_world_do_not_panic() {
    let extreme = |value: u64| {
        Run::healthy().each(move |s, n| {
            let mut at = |c: &mut linerate_host::Counters| {
                let names: Vec<String> = c.iter().map(|(name, _)| name.to_owned()).collect();
                names.iter().for_each(|name| c.set(name, if n == 0 { 0 } else { value }));
            };
            s.mib.values_mut().for_each(&mut at);
            s.softnet.values_mut().for_each(&mut at);
            s.cpus.values_mut().for_each(&mut at);
            s.sockstat.values_mut().for_each(&mut at);
            s.neigh.values_mut().for_each(&mut at);
            for dev in s.devs.values_mut() {
                for c in [
                    &mut dev.stats,
                    &mut dev.driver_stats,
                    &mut dev.rings,
                    &mut dev.channels,
                    &mut dev.coalesce,
                ] {
                    at(c);
                }
                dev.qdiscs.iter_mut().for_each(|q| at(&mut q.stats));
            }
            for value in s.sysctls.values_mut() {
                *value = "9223372036854775807 -9223372036854775808 9223372036854775807".into();
            }
            s.host.uptime_s = 0.0;
        })
    };
    for value in [0, 1, u64::MAX / 2, u64::MAX] {
        let run = extreme(value);
        run.diagnose();
        run.diagnose_once();
    }
}

#[test]
fn an_empty_tree_is_diagnosed_without_a_word() {
    let empty = Snapshot::default();
    let windows = vec![Window { from: None, to: &empty }];
    let cx = Cx { windows, goal: Default::default(), limits: Limits::default() };
    assert!(diagnose(&cx).findings.is_empty());
    assert!(linerate_host::ledger::of(&cx.whole()).losses.is_empty());
    assert_eq!(linerate_host::ledger::of(&cx.whole()).at(Stage::Ring), 0);
}
