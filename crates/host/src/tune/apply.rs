//! Makes changes, each written down first and read back after; and undoes them.

use serde::Serialize;

use super::journal::{Entry, Journal, JournalError, State};
use super::persist::Files;
use super::plan::Step;
use super::{SetError, Settings};
use crate::change::Change;

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It reads back as asked for.
    Applied {
        /// Its number in the journal.
        id: u64,
    },
    /// The kernel made something near it.
    Rounded {
        /// Its number in the journal.
        id: u64,
        /// What it is now.
        now: Change,
    },
    /// It is as it was.
    Refused {
        /// Why.
        why: String,
    },
}

/// Makes one change.
///
/// # Errors
/// [`JournalError`]: the journal can not be written. If that is so before the change, it is not made.
pub fn apply(
    step: &Step,
    netns: u64,
    journal: &mut Journal,
    settings: &mut dyn Settings,
) -> Result<Outcome, JournalError> {
    let id = journal.begin(netns, step)?;
    let refused = |journal: &mut Journal, why: String| {
        journal.note(id, |e| e.state = State::Refused)?;
        Ok(Outcome::Refused { why })
    };
    if let Err(e) = settings.set(&step.new) {
        // It may have been done in part.
        if settings.get(&step.old).is_ok_and(|now| now.same(&step.old)) {
            return refused(journal, e.to_string());
        }
        let why = match settings.set(&step.old) {
            Ok(()) => e.to_string(),
            Err(again) => format!("{e}; and putting the old value back failed: {again}"),
        };
        return refused(journal, why);
    }
    match settings.get(&step.new) {
        Err(e) => {
            // Whoever can not read it back can not claim it.
            let back = settings.set(&step.old).err().map_or(String::new(), |e| format!("; {e}"));
            refused(journal, format!("it does not read back: {e}{back}"))
        }
        Ok(now) if now.same(&step.old) => {
            refused(journal, "the kernel took it and changed nothing".into())
        }
        Ok(now) if now.same(&step.new) => {
            journal.note(id, |e| e.state = State::Applied)?;
            Ok(Outcome::Applied { id })
        }
        Ok(now) => {
            journal.note(id, |e| {
                e.new = now.clone();
                e.state = State::Applied;
            })?;
            Ok(Outcome::Rounded { id, now })
        }
    }
}

/// What came of undoing one entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "undone", rename_all = "kebab-case")]
pub enum Undone {
    /// It is as it was before us.
    RolledBack {
        /// Its number.
        id: u64,
        /// As it is now.
        to: Change,
    },
    /// The machine was started since: the kernel had forgotten it. Files of ours are gone.
    Forgotten {
        /// Its number.
        id: u64,
    },
    /// Somebody else has changed it since: left alone.
    Drifted {
        /// Its number.
        id: u64,
        /// What we had set.
        ours: Change,
        /// What it is now.
        now: Change,
    },
    /// It is of another network namespace: to be undone there.
    Elsewhere {
        /// Its number.
        id: u64,
        /// That namespace's inode.
        netns: u64,
    },
    /// It could not be undone; it stays in the journal.
    Failed {
        /// Its number.
        id: u64,
        /// Why.
        why: String,
    },
}

/// Undoes those entries that are still ours and that `which` wants, the last first.
///
/// # Errors
/// [`JournalError`]: the journal can not be written.
pub fn roll_back(
    journal: &mut Journal,
    netns: u64,
    settings: &mut dyn Settings,
    files: &Files,
    which: impl Fn(&Entry) -> bool,
) -> Result<Vec<Undone>, JournalError> {
    let ours = |e: &&Entry| (e.state.is_ours() || !e.persisted.is_empty()) && which(e);
    let entries: Vec<Entry> = journal.entries().iter().rev().filter(ours).cloned().collect();
    let mut all = Vec::new();
    for entry in entries {
        let undone = one(journal, &entry, netns, settings);
        if !matches!(undone, Undone::Failed { .. } | Undone::Elsewhere { .. }) {
            let left: Vec<_> =
                entry.persisted.iter().filter_map(|p| files.forget(p).err()).collect();
            let state = match undone {
                Undone::Drifted { .. } => State::Drifted,
                _ => State::RolledBack,
            };
            journal.note(entry.id, |e| {
                e.state = state;
                if left.is_empty() {
                    e.persisted.clear();
                }
            })?;
            if let Some(e) = left.first() {
                all.push(Undone::Failed { id: entry.id, why: e.to_string() });
            }
        }
        all.push(undone);
    }
    Ok(all)
}

fn one(journal: &Journal, entry: &Entry, netns: u64, settings: &mut dyn Settings) -> Undone {
    let id = entry.id;
    if !journal.is_this_boot(entry) || !entry.state.is_ours() {
        return Undone::Forgotten { id };
    }
    if entry.netns != netns {
        return Undone::Elsewhere { id, netns: entry.netns };
    }
    let failed = |e: SetError| Undone::Failed { id, why: e.to_string() };
    let now = match settings.get(&entry.new) {
        Ok(now) => now,
        // The device is gone, and its settings with it.
        Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => {
            return Undone::Forgotten { id };
        }
        Err(e) => return failed(e),
    };
    if now.same(&entry.old) {
        return Undone::RolledBack { id, to: now };
    }
    // Killed while it was made: what the kernel may have made of it was never read.
    let is_ours = now.same(&entry.new) || entry.state == State::Begun;
    if !is_ours {
        return Undone::Drifted { id, ours: entry.new.clone(), now };
    }
    match settings.set(&entry.old).and_then(|()| settings.get(&entry.old)) {
        Ok(now) if now.same(&entry.old) => Undone::RolledBack { id, to: now },
        Ok(now) => Undone::Failed { id, why: format!("it reads {now} now, not {}", entry.old) },
        Err(e) => failed(e),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Model, finding, sysctl};
    use super::super::plan::Plan;
    use super::*;

    const NAME: &str = "net.core.netdev_max_backlog";

    struct Rig {
        dir: std::path::PathBuf,
        host: Model,
        journal: Journal,
    }

    impl Rig {
        fn new(test: &str) -> Rig {
            let dir =
                std::env::temp_dir().join(format!("linerate-apply-{test}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            let journal = Journal::open(&dir.join("j")).unwrap();
            Rig { dir, host: Model::new(&[(NAME, "1000")]), journal }
        }

        fn apply(&mut self, value: &str) -> Outcome {
            let plan = Plan::of(&[finding("R15", &[(NAME, value)])], &[], &mut self.host);
            apply(&plan.steps[0], 7, &mut self.journal, &mut self.host).unwrap()
        }

        fn roll_back(&mut self, netns: u64) -> Vec<Undone> {
            let files = Files::below(&self.dir);
            roll_back(&mut self.journal, netns, &mut self.host, &files, |_| true).unwrap()
        }

        fn value(&self) -> &str {
            &self.host.values[NAME]
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn what_is_applied_is_undone_in_reverse_order() {
        let mut rig = Rig::new("order");
        assert_eq!(rig.apply("2000"), Outcome::Applied { id: 1 });
        assert_eq!(rig.apply("4000"), Outcome::Applied { id: 2 });
        let undone = rig.roll_back(7);
        assert!(undone.iter().all(|u| matches!(u, Undone::RolledBack { .. })), "{undone:?}");
        assert_eq!(rig.value(), "1000");
        assert!(rig.roll_back(7).is_empty(), "nothing is undone twice");
    }

    #[test]
    fn what_somebody_else_changed_has_drifted_and_is_left() {
        let mut rig = Rig::new("drift");
        rig.apply("2000");
        rig.host.values.insert(NAME.into(), "3000".into());
        let undone = rig.roll_back(7);
        let (ours, now) = (sysctl(NAME, "2000"), sysctl(NAME, "3000"));
        assert_eq!(undone, [Undone::Drifted { id: 1, ours, now }]);
        assert_eq!(rig.value(), "3000");
    }

    #[test]
    fn a_change_that_does_not_read_back_is_not_claimed() {
        let mut rig = Rig::new("unread");
        rig.host.fixed.push(NAME.into());
        assert!(matches!(rig.apply("2000"), Outcome::Refused { .. }));
        rig.host.fixed.clear();
        rig.host.refuses.push(NAME.into());
        assert!(matches!(rig.apply("2000"), Outcome::Refused { why } if why.contains("root")));
        assert!(rig.roll_back(7).is_empty());
    }

    #[test]
    fn what_the_kernel_rounds_is_said_and_still_ours() {
        let mut rig = Rig::new("round");
        rig.host.rounded.push(NAME.into());
        let now = sysctl(NAME, "4096");
        assert_eq!(rig.apply("4000"), Outcome::Rounded { id: 1, now });
        rig.host.rounded.clear();
        assert!(matches!(rig.roll_back(7)[..], [Undone::RolledBack { .. }]));
        assert_eq!(rig.value(), "1000");
    }

    #[test]
    fn another_namespace_is_left_alone_and_stays_in_the_journal() {
        let mut rig = Rig::new("netns");
        rig.apply("2000");
        assert_eq!(rig.roll_back(8), [Undone::Elsewhere { id: 1, netns: 7 }]);
        assert_eq!(rig.value(), "2000");
        assert!(matches!(rig.roll_back(7)[..], [Undone::RolledBack { .. }]));
    }

    /// Killed after the line and before, or after, the write.
    #[test]
    fn a_change_that_was_begun_is_undone_whether_or_not_it_was_made() {
        for made in [false, true] {
            let mut rig = Rig::new("begun");
            let plan = Plan::of(&[finding("R15", &[(NAME, "2000")])], &[], &mut rig.host);
            rig.journal.begin(7, &plan.steps[0]).unwrap();
            if made {
                rig.host.set(&sysctl(NAME, "2000")).unwrap();
            }
            assert!(matches!(rig.roll_back(7)[..], [Undone::RolledBack { .. }]));
            assert_eq!(rig.value(), "1000");
        }
    }
}
