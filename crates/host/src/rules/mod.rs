//! The rules: what is wrong with a host's network path, how that shows, and what to do.
//!
//! A rule is a row: what is said of it in the docs, and the function that looks for it. The page of a
//! rule is generated from its row ([`page`], [`pages`]). Rows lie in files by the part of the path,
//! in its order. [`diagnose`] asks them all, leaves out what is a consequence of something else that
//! was found, and puts the worst first.

mod advice;
mod buffers;
mod conntrack;
mod csum;
mod found;
mod host;
mod ip;
mod irq;
mod limits;
mod link;
mod listen;
pub(crate) mod look;
mod neigh;
mod nic;
mod page;
mod ports;
mod power;
mod qdisc;
mod queues;
mod recovery;
mod redirect;
mod sctp;
mod softirq;
mod steer;
mod tcp;
mod times;
mod tx;
mod udp;
mod upper;
mod zerocopy;

use linerate_core::table::Stage;
use linerate_core::table::stage::Dir;
use serde::Serialize;

use crate::finding::{Finding, Severity};
use crate::snapshot::{Dev, Note};
use crate::window::Cx;

pub use advice::inverse;
pub use limits::{LimitError, LimitRow, Limits};
pub use page::{file_name, index, page, pages};

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
    pub check: Check,
}

/// How a rule looks: at the whole host, or at each of something.
#[derive(Clone, Copy)]
pub enum Check {
    /// Once.
    Host(fn(&Rule, &Cx<'_>) -> Option<Finding>),
    /// At each processor for which there is a line in `/proc/net/softnet_stat`.
    Cpu(fn(&Rule, &Cx<'_>, u32) -> Option<Finding>),
    /// At each network device.
    Dev(fn(&Rule, &Cx<'_>, &Dev) -> Option<Finding>),
    /// At what the other rules found, when they have.
    Findings(fn(&Rule, &Cx<'_>, &[Finding]) -> Option<Finding>),
}

impl Rule {
    /// What this rule finds by itself; the worst first, with the names of those that are too many to list.
    #[must_use]
    pub fn look(&self, cx: &Cx<'_>) -> Vec<Finding> {
        let now = cx.now();
        let mut found: Vec<Finding> = match self.check {
            Check::Host(check) => check(self, cx).into_iter().collect(),
            Check::Cpu(check) => now.softnet.keys().filter_map(|c| check(self, cx, *c)).collect(),
            Check::Dev(check) => now.devs.values().filter_map(|d| check(self, cx, d)).collect(),
            Check::Findings(_) => Vec::new(),
        };
        found.sort_by(|a, b| harm(b).partial_cmp(&harm(a)).unwrap_or(std::cmp::Ordering::Equal));
        let listed = (cx.limits.same as usize).max(1);
        if found.len() > listed {
            let rest = found.split_off(listed);
            let names: Vec<&str> = rest.iter().map(|f| f.subject.as_str()).take(20).collect();
            let more = if rest.len() > names.len() { ", ..." } else { "" };
            found[0].cause +=
                &format!(" {} more are the same: {}{more}.", rest.len(), names.join(", "));
        }
        found
    }
}

/// All rules, in the order of the path.
pub const RULES: &[&[Rule]] = &[
    nic::RULES,
    queues::RULES,
    irq::RULES,
    power::RULES,
    softirq::RULES,
    steer::RULES,
    link::RULES,
    upper::RULES,
    ip::RULES,
    redirect::RULES,
    conntrack::RULES,
    udp::RULES,
    sctp::RULES,
    listen::RULES,
    tcp::RULES,
    buffers::RULES,
    ports::RULES,
    zerocopy::RULES,
    recovery::RULES,
    neigh::RULES,
    qdisc::RULES,
    tx::RULES,
    host::RULES,
    times::RULES,
];

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

/// The rule of that id or name, in any case.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.id.eq_ignore_ascii_case(name) || rule.name.eq_ignore_ascii_case(name))
}

/// Looks at a run with every rule; what is a consequence of something else is left out, and the worst
/// comes first: by severity; then what lies nearer to the wire, behind which come losses that are
/// small beside the largest.
#[must_use]
pub fn diagnose(cx: &Cx<'_>) -> Diagnosis {
    let found: Vec<Finding> = all().flat_map(|rule| rule.look(cx)).collect();
    let is_child = |child: &Finding| found.iter().any(|parent| suppresses(parent, child));
    let mut findings: Vec<Finding> = found.iter().filter(|f| !is_child(f)).cloned().collect();
    let worst = |severity: Severity| {
        let alike = findings.iter().filter(|f| f.severity == severity);
        alike.map(|f| f.loss_per_s).fold(0.0, f64::max)
    };
    let worst = [Severity::Info, Severity::Warning, Severity::Critical].map(worst);
    findings.sort_by(|a, b| {
        let key = |f: &Finding| {
            let large = f.loss_per_s * MINOR >= worst[f.severity as usize];
            (f.severity, large, -depth(f.stage), f.loss_per_s)
        };
        key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal)
    });
    let about = all().filter_map(|rule| match rule.check {
        Check::Findings(check) => check(rule, cx, &findings),
        _ => None,
    });
    let about: Vec<Finding> = about.collect();
    findings.extend(about);
    Diagnosis { findings, skipped: cx.now().notes.clone() }
}

fn harm(f: &Finding) -> (Severity, f64) {
    (f.severity, f.loss_per_s)
}

/// A loss that is by more than this smaller than the largest is a small one.
const MINOR: f64 = 100.0;

/// How far from the wire a stage lies.
fn depth(stage: Stage) -> i32 {
    let (rx, tx): (Vec<Stage>, Vec<Stage>) =
        Stage::ALL.iter().partition(|s| s.row().dir == Dir::Rx);
    let at = |way: &[Stage]| way.iter().position(|s| *s == stage).map(|at| at as i32);
    at(&rx).or_else(|| at(&tx).map(|at| tx.len() as i32 - 1 - at)).unwrap_or(0)
}

/// A loss that is so many times larger than that of the other finding is not its consequence.
const NOT_A_CHILD: f64 = 100.0;

/// Whether `child` is a consequence of `parent`, so that it says nothing new.
fn suppresses(parent: &Finding, child: &Finding) -> bool {
    let lists = |id: &str| by_name(id).is_some_and(|rule| rule.suppresses.contains(&child.id));
    let explained = parent.loss_per_s == 0.0 || child.loss_per_s <= NOT_A_CHILD * parent.loss_per_s;
    parent.id != child.id && lists(parent.id) && may_be_one(parent, child) && explained
}

/// Two processors, or two devices, that are not the same have nothing to do with each other; a
/// processor and a device may have.
fn may_be_one(a: &Finding, b: &Finding) -> bool {
    let kind = |f: &Finding| match f.subject.as_str() {
        "" => 0,
        s if s.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()) => 1,
        s if s.contains(' ') => 2,
        _ => 3,
    };
    kind(a) != kind(b) || a.subject == b.subject
}
