//! The procedure of the guides: double, watch, repeat until the loss stops; keep the smallest value
//! that held.

use serde::Serialize;

use super::journal::{Journal, JournalError, State};
use super::plan::Step;
use super::verify::Verdict;
use super::{SetError, Settings};
use crate::change::Change;

/// A value that was tried, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grown {
    /// The setting.
    pub value: Change,
    /// What was measured with it.
    pub verdict: Verdict,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// Its number in the journal.
    pub id: u64,
    /// Every value, in order.
    pub tried: Vec<Grown>,
    /// The value that held, and stays; `None`: none did, and the old one is back.
    pub kept: Option<Change>,
    /// Why it ended.
    pub why: String,
}

/// Applies `step`, and doubles it up to `max` for as long as `measure` says that the loss goes on.
///
/// # Errors
/// [`JournalError`]: the journal can not be written.
pub fn grow(
    step: &Step,
    max: u64,
    netns: u64,
    journal: &mut Journal,
    settings: &mut dyn Settings,
    mut measure: impl FnMut(&Change) -> Verdict,
) -> Result<Growth, JournalError> {
    let id = journal.begin(netns, step)?;
    let (mut tried, mut next) = (Vec::new(), step.new.clone());
    let why = loop {
        // Written down first: if we are killed between, this value is ours as well.
        journal.note(id, |e| (e.new, e.state) = (next.clone(), State::Begun))?;
        match set(settings, &next) {
            Ok(now) if now.same(&step.old) => {
                break "the kernel took it and changed nothing".into();
            }
            Ok(now) => next = now,
            Err(e) => break e.to_string(),
        }
        // Who is killed while it is measured leaves a value that nobody chose: the next start undoes it.
        journal.note(id, |e| (e.new, e.state) = (next.clone(), State::Trying))?;
        let verdict = measure(&next);
        tried.push(Grown { value: next.clone(), verdict: verdict.clone() });
        match verdict {
            Verdict::Cured => {
                journal.note(id, |e| e.state = State::Applied)?;
                let (kept, why) = (Some(next), "the loss stopped".into());
                return Ok(Growth { id, tried, kept, why });
            }
            Verdict::Worse { what } => break format!("something else got worse: {what}"),
            Verdict::Unproven { .. } => {
                break "the traffic went away, so nothing is proven".into();
            }
            Verdict::Better { .. } | Verdict::Same { .. } => {}
        }
        match next.doubled(&step.old, max) {
            Some(more) => next = more,
            None => break format!("the loss goes on at the most that is tried, {next}"),
        }
    };
    let back = settings.set(&step.old);
    let state = if back.is_ok() { State::RolledBack } else { State::Applied };
    journal.note(id, |e| e.state = state)?;
    let why = match back {
        Ok(()) => why,
        Err(e) => format!("{why}; the old value could not be put back: {e}"),
    };
    Ok(Growth { id, tried, kept: None, why })
}

fn set(settings: &mut dyn Settings, change: &Change) -> Result<Change, SetError> {
    settings.set(change)?;
    settings.get(change)
}

#[cfg(test)]
mod tests {
    use super::super::model::{Model, finding};
    use super::super::plan::Plan;
    use super::*;

    const NAME: &str = "net.core.netdev_max_backlog";

    /// A host that loses packets below a queue of `needs`, and whose latency suffers from `hurts` on.
    fn run(test: &str, needs: u64, hurts: u64, max: u64) -> (Growth, String) {
        let dir = std::env::temp_dir().join(format!("linerate-grow-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let mut journal = Journal::open(&dir.join("j")).unwrap();
        let mut host = Model::new(&[(NAME, "1000")]);
        let plan = Plan::of(&[finding("R15", &[(NAME, "2000")])], &[], &mut host);
        let measure = |now: &Change| {
            let Change::Sysctl { value, .. } = now else { unreachable!() };
            match value.parse::<u64>().unwrap() {
                n if n >= hurts => Verdict::Worse { what: "latency".into() },
                n if n >= needs => Verdict::Cured,
                _ => Verdict::Same { loss_per_s: 9.0 },
            }
        };
        let grown = grow(&plan.steps[0], max, 7, &mut journal, &mut host, measure).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        (grown, host.values[NAME].clone())
    }

    #[test]
    fn the_smallest_value_that_holds_stays() {
        let (grown, value) = run("holds", 5000, u64::MAX, 1 << 20);
        assert_eq!((grown.tried.len(), value.as_str()), (3, "8000"));
        assert!(grown.kept.is_some());
    }

    #[test]
    fn what_does_not_help_or_hurts_is_put_back() {
        let (grown, value) = run("most", u64::MAX, u64::MAX, 16_000);
        assert_eq!((grown.tried.len(), grown.kept, value.as_str()), (4, None, "1000"));
        let (grown, value) = run("hurts", u64::MAX, 4000, 1 << 20);
        assert_eq!((grown.tried.len(), grown.kept, value.as_str()), (2, None, "1000"));
        assert!(grown.why.contains("latency"));
    }
}
