//! What the doctor says of other people's hosts, of which there is one moment only.

use std::path::PathBuf;

use linerate_host::collect::{Collector, Tier};
use linerate_host::rules::{Limits, diagnose};
use linerate_host::source::Dir;
use linerate_host::window::{Cx, Goal, Window};

/// The findings of a tree below `tests/data`: id and subject.
fn of(path: &str) -> Vec<String> {
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
    found.iter().map(|f| format!("{} {}", f.id, f.subject).trim().to_owned()).collect()
}

#[test]
fn hosts_of_other_people_get_no_false_findings() {
    for (tree, want) in [("hotsos/kubernetes", &[] as &[&str])] {
        assert_eq!(of(tree), want, "{tree}");
    }
}
