//! What is to be changed: each setting as it is, and as it shall be.

use serde::Serialize;

use super::journal::Before;
use super::{SetError, Settings};
use crate::change::Change;
use crate::finding::{Finding, Risk};

/// What stands in place of a rule where somebody asks for a change by name.
pub const BY_HAND: &str = "set";

/// One setting to change.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The rule that asks for it.
    pub rule: &'static str,
    /// Why, in one sentence.
    pub why: String,
    /// As it is.
    pub old: Change,
    /// As it shall be.
    pub new: Change,
    /// What else it may do.
    pub risk: Risk,
    /// How to see that it helped.
    pub verify: String,
    /// What was measured now, to compare with.
    pub before: Before,
}

/// Something that was advised and will not be changed.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    /// The rule that asks for it.
    pub rule: &'static str,
    /// The change, or the advice in words.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// What `apply` will do, and what it will not.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// In the order of the findings.
    pub steps: Vec<Step>,
    /// What is left to people.
    pub refused: Vec<Refused>,
}

impl Plan {
    /// A plan for `findings`, worst first, of those in `only` (ids or names; all if it is empty). Each
    /// finding brings the best of its advice that can be set here. The first who asks for a setting
    /// gets it; who asks for the same setting later is refused with that reason.
    #[must_use]
    pub fn of(findings: &[Finding], only: &[String], settings: &mut dyn Settings) -> Plan {
        let mut plan = Plan::default();
        let wanted = |f: &Finding| {
            only.is_empty()
                || only.iter().any(|o| o.eq_ignore_ascii_case(f.id) || o.as_str() == f.name)
        };
        for finding in findings.iter().filter(|f| wanted(f)) {
            plan.add(finding, settings);
        }
        plan
    }

    /// A plan for one change that somebody asks for by name. What can not be read could not be put back,
    /// so it is refused.
    #[must_use]
    pub fn of_change(change: &Change, settings: &mut dyn Settings) -> Plan {
        let mut plan = Plan::default();
        let refused = |why| Refused { rule: BY_HAND, what: change.command(), why };
        match settings.get(change) {
            Err(e) => plan.refused.push(refused(explain(&e))),
            Ok(old) if old.same(change) => plan.refused.push(refused("it is so already".into())),
            Ok(old) => plan.steps.push(Step {
                rule: BY_HAND,
                why: "Asked for by name.".into(),
                old,
                new: change.clone(),
                risk: change.risk(),
                verify: String::new(),
                before: Before::default(),
            }),
        }
        plan
    }

    fn add(&mut self, finding: &Finding, settings: &mut dyn Settings) {
        let rule = finding.id;
        if finding.advice.iter().all(|a| a.change.is_none()) {
            let what = finding.advice.first().map_or("", |a| &a.what);
            let why = "no setting of this host mends it".into();
            self.refused.push(Refused { rule, what: what.into(), why });
            return;
        }
        for advice in &finding.advice {
            let Some(change) = &advice.change else { continue };
            let refused = |why| Refused { rule, what: change.command(), why };
            if let Some(other) = self.steps.iter().find(|s| s.new.is_of_same_setting(change)) {
                if !other.new.same(change) {
                    let why = format!("{} sets it already: {}", other.rule, other.new);
                    self.refused.push(refused(why));
                }
                return;
            }
            match settings.get(change) {
                Ok(old) if old.same(change) => {
                    self.refused.push(refused("it is so already".into()));
                }
                Ok(old) => {
                    self.steps.push(Step {
                        rule,
                        why: advice.what.clone(),
                        old,
                        new: change.clone(),
                        risk: advice.risk,
                        verify: advice.verify.clone(),
                        before: Before {
                            subject: finding.subject.clone(),
                            loss_per_s: finding.loss_per_s,
                            packets_per_s: 0.0,
                        },
                    });
                    return;
                }
                Err(e) => self.refused.push(refused(explain(&e))),
            }
        }
    }
}

fn explain(e: &SetError) -> String {
    e.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::model::{Model, finding, sysctl};
    use super::*;

    #[test]
    fn a_plan_has_each_setting_once_and_says_what_it_leaves_out() {
        let mut host =
            Model::new(&[("net.core.rmem_max", "212992"), ("net.core.somaxconn", "128")]);
        let findings = [
            finding("R43", &[("net.core.rmem_max", "425984")]),
            finding("R81", &[("net.core.rmem_max", "4194304")]),
            finding("R48", &[("net.core.none", "1"), ("net.core.somaxconn", "4096")]),
            finding("R45", &[]),
        ];
        let plan = Plan::of(&findings, &[], &mut host);
        let steps: Vec<_> =
            plan.steps.iter().map(|s| (s.rule, s.old.clone(), s.new.clone())).collect();
        assert_eq!(
            steps,
            [
                (
                    "R43",
                    sysctl("net.core.rmem_max", "212992"),
                    sysctl("net.core.rmem_max", "425984")
                ),
                ("R48", sysctl("net.core.somaxconn", "128"), sysctl("net.core.somaxconn", "4096")),
            ]
        );
        let refused: Vec<_> = plan.refused.iter().map(|r| r.rule).collect();
        assert_eq!(refused, ["R81", "R48", "R45"]);
        let plan = Plan::of(&findings, &["r48".into()], &mut host);
        assert_eq!(plan.steps.len(), 1);
    }

    #[test]
    fn what_is_so_already_is_not_changed() {
        let mut host = Model::new(&[("net.ipv4.tcp_rmem", "4096\t131072 6291456")]);
        let wanted = finding("R54", &[("net.ipv4.tcp_rmem", "4096 131072 6291456")]);
        let plan = Plan::of(&[wanted], &[], &mut host);
        assert!(plan.steps.is_empty());
        assert_eq!(plan.refused[0].why, "it is so already");
    }
}
