//! The doctor looks while a fault happens; its own advice is followed; it looks again.

use std::path::Path;
use std::time::Duration;

use linerate_host::collect::{Collector, Tier};
use linerate_host::finding::Finding;
use linerate_host::rules::{Limits, diagnose};
use linerate_host::source::Live;
use linerate_host::tune::{Files, Journal, Outcome, Plan, apply, roll_back};
use linerate_host::{Counters, Cx, Goal, Snapshot, Window};

use super::rig::Ns;

/// Windows of a look, and the least time that each takes.
const WINDOWS: usize = 3;
const WINDOW: Duration = Duration::from_millis(400);

/// What the doctor says, and what it could see.
pub struct Look {
    pub findings: Vec<Finding>,
    /// Every counter of loss that moved, for who has to find out why a test failed.
    pub moved: Vec<String>,
}

impl Look {
    /// All of it, to read.
    pub fn text(&self) -> String {
        let line = |f: &Finding| {
            let evidence: Vec<String> = f
                .evidence
                .iter()
                .map(|e| format!("{} {} {:?}->{}", e.source, e.name, e.from, e.to))
                .collect();
            let (id, title, subject, cause) = (f.id, &f.title, &f.subject, &f.cause);
            format!("{id} {title} [{subject}] {} because {cause}\n", evidence.join("; "))
        };
        let findings: String = self.findings.iter().map(line).collect();
        format!("{findings}moved:\n  {}", self.moved.join("\n  "))
    }

    pub fn has(&self, rule: &str) -> bool {
        self.findings.iter().any(|f| f.id == rule)
    }
}

/// What moved between two snapshots.
fn moved(from: &Snapshot, to: &Snapshot) -> Vec<String> {
    let mut all = Vec::new();
    let mut see = |place: &str, to: &Counters, from: Option<&Counters>| {
        for (name, value) in to.iter() {
            let by = from.and_then(|f| to.grown(f, name)).unwrap_or(value);
            if by > 0 && value > 0 {
                all.push(format!("{place}{name} +{by}"));
            }
        }
    };
    to.mib.iter().for_each(|(s, c)| see(&format!("{s} "), c, from.mib.get(s)));
    for (cpu, c) in &to.softnet {
        see(&format!("softnet {cpu} "), c, from.softnet.get(cpu));
    }
    to.neigh.iter().for_each(|(n, c)| see(&format!("{n} "), c, from.neigh.get(n)));
    for (name, dev) in &to.devs {
        see(&format!("{name} "), &dev.stats, from.devs.get(name).map(|d| &d.stats));
        for (i, q) in dev.qdiscs.iter().enumerate() {
            let old = from.devs.get(name).and_then(|d| d.qdiscs.get(i)).map(|q| &q.stats);
            see(&format!("{name} {} ", q.kind), &q.stats, old);
        }
    }
    if let Some(drops) = &to.drops {
        see("kfree_skb ", &drops.by, from.drops.as_ref().map(|d| &d.by));
    }
    all.extend(to.notes.iter().map(|n| format!("note: {}: {}", n.what, n.why)));
    all
}

/// What the doctor says of a namespace in which `dose` is done once in every window.
pub fn look(ns: &Ns, dose: impl FnMut()) -> Look {
    look_by(Live::in_netns(&ns.path()).expect("the namespace may be entered"), dose)
}

/// The same, again where it says what it should not, three times at most. The machine under the tests is
/// a part of the host that is looked at: a reader that it does not run for a moment reads too slowly,
/// and the doctor is right to say so. What it says wrongly it says each time.
pub fn look_for(ns: &Ns, mut dose: impl FnMut(), fits: impl Fn(&Finding) -> bool) -> Look {
    let mut found = look(ns, &mut dose);
    for _ in 0..2 {
        if found.findings.iter().all(&fits) {
            break;
        }
        found = look(ns, &mut dose);
    }
    found
}

/// What it says of the host's own namespace.
pub fn look_at_host() -> Look {
    look_by(Live::new(), || {})
}

/// One reading of a namespace.
pub fn snapshot(ns: &Ns) -> Snapshot {
    let mut source = Live::in_netns(&ns.path()).expect("the namespace may be entered");
    Collector::new(Tier::Full).collect(&mut source)
}

fn look_by(mut source: Live, mut dose: impl FnMut()) -> Look {
    let mut collector = Collector::new(Tier::Full).with_drops();
    let mut snapshots: Vec<Snapshot> = vec![collector.collect(&mut source)];
    for _ in 0..WINDOWS {
        let begin = std::time::Instant::now();
        dose();
        std::thread::sleep(WINDOW.saturating_sub(begin.elapsed()));
        snapshots.push(collector.collect(&mut source));
    }
    let windows = snapshots.windows(2).map(|w| Window { from: Some(&w[0]), to: &w[1] }).collect();
    let cx = Cx { windows, goal: Goal::Throughput, limits: Limits::default() };
    let moved = moved(&snapshots[0], &snapshots[snapshots.len() - 1]);
    Look { findings: diagnose(&cx).findings, moved }
}

/// What follows from a finding.
pub enum Cure<'a> {
    /// The best of its advice that can be set is set, by the tuner, in this namespace.
    Advice(&'a Ns),
    /// The cause is the application, the hardware or the network: this does what the advice says.
    By(&'a mut dyn FnMut()),
    /// There is nothing to cure here: it is a report.
    None,
}

/// A fault: what causes it, and what the doctor has to say.
pub struct Case<'a> {
    /// Where the doctor looks.
    pub ns: &'a Ns,
    /// The rule that has to come first.
    pub rule: &'a str,
    /// Rules that may be named after it, because the fault really has these sides as well.
    pub also: &'a [&'a str],
}

/// Shows that a fault is found, first and with nothing that has nothing to do with it; that the cure
/// cures it; and that the tuner puts back what it set. Returns the finding.
pub fn prove(case: &Case<'_>, mut dose: impl FnMut(), cure: Cure<'_>) -> Finding {
    // Every case lives in a namespace, where some advice is the host's to follow.
    let fits =
        |other: &Finding| [case.rule, "R84"].contains(&other.id) || case.also.contains(&other.id);
    let found = look_for(case.ns, &mut dose, fits);
    let Some(first) = found.findings.first() else {
        panic!("{}: the doctor finds nothing\n{}", case.rule, found.text())
    };
    assert_eq!(first.id, case.rule, "the first of:\n{}", found.text());
    for other in &found.findings {
        assert!(fits(other), "{} has nothing to do with it:\n{}", other.id, found.text());
    }
    assert!(!first.evidence.is_empty() && !first.cause.is_empty(), "{first:#?}");
    let first = first.clone();
    match cure {
        Cure::None => return first,
        Cure::By(cure) => cure(),
        Cure::Advice(ns) => {
            let undo = follow(ns, &first);
            let left = look(case.ns, &mut dose);
            assert!(!left.has(case.rule), "still:\n{}", left.text());
            undo();
            return first;
        }
    }
    let left = look(case.ns, &mut dose);
    assert!(!left.has(case.rule), "still:\n{}", left.text());
    first
}

/// Does what the finding advises, with the tuner, in a namespace; returns what undoes it.
fn follow<'a>(ns: &'a Ns, finding: &Finding) -> impl FnOnce() + use<'a> {
    let dir = std::env::temp_dir().join(format!("linerate-tune-{}", ns.name));
    let journal = dir.join("tune.journal");
    let open = |journal: &Path| Journal::open(journal).unwrap();
    ns.run(|| {
        let mut settings = Live::in_netns(&ns.path()).unwrap();
        let plan = Plan::of(std::slice::from_ref(finding), &[], &mut settings);
        assert!(!plan.steps.is_empty(), "no advice can be followed: {:#?}", plan.refused);
        let mut journal = open(&journal);
        for step in &plan.steps {
            let outcome = apply(step, 0, &mut journal, &mut settings).unwrap();
            let ok = matches!(outcome, Outcome::Applied { .. } | Outcome::Rounded { .. });
            assert!(ok, "{}: {outcome:?}", step.new);
        }
    });
    move || {
        let undone = ns.run(|| {
            let mut settings = Live::in_netns(&ns.path()).unwrap();
            let mut journal = open(&journal);
            let files = Files::below(&dir);
            roll_back(&mut journal, 0, &mut settings, &files, |_| true).unwrap()
        });
        let back = |u: &_| matches!(u, linerate_host::tune::Undone::RolledBack { .. });
        assert!(!undone.is_empty() && undone.iter().all(back), "{undone:#?}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
