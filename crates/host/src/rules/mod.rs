//! The rules: what is wrong with a host's network path, how that shows, and what to do.
//!
//! A rule is a row: what is said of it in the docs, and the function that looks for it. The page of a
//! rule is generated from its row.

mod udp;

use linerate_core::table::Stage;
use serde::Serialize;

use crate::finding::Finding;
use crate::snapshot::Note;
use crate::window::Cx;

/// One rule.
pub struct Rule {
    /// As `R43`; for good.
    pub id: &'static str,
    /// As `udp-rcvbuf`; for good.
    pub name: &'static str,
    /// In one line.
    pub title: &'static str,
    /// Where on the path.
    pub stage: Stage,
    /// What is looked at, and from where on it counts.
    pub evidence: &'static str,
    /// How the causes are told apart.
    pub causes: &'static str,
    /// What to do about each.
    pub advice: &'static str,
    /// What people get wrong.
    pub traps: &'static str,
    /// What it rests on: the kernel's document or function, or where it was measured.
    pub cites: &'static [&'static str],
    /// Rules that say nothing about the same subject when this one speaks: they are its consequences.
    pub suppresses: &'static [&'static str],
    /// Looks for it.
    pub check: fn(&Cx<'_>) -> Vec<Finding>,
}

/// Thresholds: from where on something counts. Each can be set by `--limit name=value`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Windows in which a counter must have moved.
    pub windows: usize,
    /// Lost packets of all that say something.
    pub loss_ratio: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { windows: 2, loss_ratio: 1e-5 }
    }
}

/// All rules, in the order of the path.
pub const RULES: &[&[Rule]] = &[udp::RULES];

/// What the doctor says.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// Worst first.
    pub findings: Vec<Finding>,
    /// What could not be read.
    pub skipped: Vec<Note>,
}

/// Every rule, in the order of the path.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    RULES.iter().flat_map(|rules| rules.iter())
}

/// Looks at a run with every rule; what is a consequence of something else is left out, and the worst
/// comes first.
#[must_use]
pub fn diagnose(cx: &Cx<'_>) -> Diagnosis {
    let mut findings: Vec<Finding> = all().flat_map(|rule| (rule.check)(cx)).collect();
    let speaks: Vec<&str> = findings.iter().map(|f| f.id).collect();
    let silent: Vec<&str> = all()
        .filter(|rule| speaks.contains(&rule.id))
        .flat_map(|rule| rule.suppresses.iter().copied())
        .collect();
    findings.retain(|f| !silent.contains(&f.id));
    findings.sort_by(|a, b| {
        let harm = |f: &Finding| (f.severity, f.loss_per_s);
        harm(b).partial_cmp(&harm(a)).unwrap_or(std::cmp::Ordering::Equal)
    });
    Diagnosis { findings, skipped: cx.now().notes.clone() }
}
