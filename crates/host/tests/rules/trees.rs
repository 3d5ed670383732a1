//! What the doctor says of other people's hosts, of which there is one moment only.

use std::path::PathBuf;

use linerate_host::collect::{Collector, Tier};
use linerate_host::finding::Finding;
use linerate_host::rules::{Limits, diagnose};
use linerate_host::source::Dir;
use linerate_host::window::{Cx, Goal, Window};

/// The findings of a tree below `tests/data`: id and subject.
fn of(path: &str) -> Vec<String> {
    found(path).iter().map(|f| format!("{} {}", f.id, f.subject).trim().to_owned()).collect()
}

fn found(path: &str) -> Vec<Finding> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path);
    let mut dir = Dir::open(path).expect("the tree is there");
    let snapshot = Collector::new(Tier::Full).collect(&mut dir);
    let windows = vec![Window { from: None, to: &snapshot }];
    let cx = Cx { windows, goal: Goal::Throughput, limits: Limits::default() };
    let found = diagnose(&cx).findings;
    for finding in &found {
        println!(
            "{} {:?} {} {:#?} {}",
            finding.id, finding.severity, finding.title, finding.evidence, finding.cause
        );
    }
    found
}

/// What programs printed is cited as that, not as the files and messages that were not there.
#[test]
fn evidence_of_a_report_is_in_its_files() {
    let found = found("sos/commands");
    let sources: Vec<&str> =
        found.iter().flat_map(|f| &f.evidence).map(|e| e.source.as_str()).collect();
    assert!(sources.iter().all(|s| s.starts_with("sos_commands/")), "{sources:?}");
    for file in ["networking/nstat_-zas:", "networking/ss_-peaonmi", "kernel/sysctl_-a:"] {
        let file = format!("sos_commands/{file}");
        assert!(sources.iter().any(|s| s.starts_with(&file)), "{file}: {sources:?}");
    }
}

#[test]
fn hosts_of_other_people_get_no_false_findings() {
    let trees: [(&str, &[&str]); 6] = [
        ("sos/commands", &["R43 udp 0.0.0.0:5000", "R28 capture on va", "R84"]),
        ("hotsos/kubernetes", &[]),
        ("aarch64", &[]),
        ("netutils-linux/2xE2690.1mellanox_1emulex.L2.masterconf", &[]),
        ("node_exporter", &[]),
        // Its numbers were made up: 134 774 drops of 89 203 packets.
        ("procfs", &["R15 cpu2", "R15 cpu0", "R15 cpu1", "R16 cpu3"]),
    ];
    let have: Vec<(&str, Vec<String>)> = trees.iter().map(|(tree, _)| (*tree, of(tree))).collect();
    for ((tree, have), (_, want)) in have.iter().zip(trees) {
        assert_eq!(have, want, "{tree}: {have:#?}");
    }
}
