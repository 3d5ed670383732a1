//! What `tune` prints for people.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt as _;

use linerate_host::Risk;
use linerate_host::change::Change;
use linerate_host::tune::{BY_HAND, Entry, Outcome, Plan, State, Undone, Verdict, since_boot_ms};

use super::{Also, Done, How, Persisting, Verified};

/// The value of a change, without the setting.
fn value(change: &Change) -> String {
    match change {
        Change::Sysctl { value, .. } | Change::File { value, .. } | Change::Link { value, .. } => {
            value.trim().to_owned()
        }
        Change::Ethtool { set, .. } => {
            set.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(" ")
        }
        Change::Qdisc { spec, .. } => spec.clone(),
    }
}

/// The setting of a change, without the value.
fn setting(change: &Change) -> String {
    match change {
        Change::Sysctl { name, .. } => name.clone(),
        Change::File { path, .. } => path.clone(),
        Change::Ethtool { option, dev, .. } => format!("ethtool -{option} {dev}"),
        Change::Link { dev, name, .. } => format!("ip link set {dev} {name}"),
        Change::Qdisc { dev, .. } => format!("tc qdisc of {dev}"),
    }
}

/// The numbers of a value.
pub fn numbers(change: &Change) -> impl Iterator<Item = u64> {
    let value = value(change);
    value.split_whitespace().filter_map(|w| w.parse().ok()).collect::<Vec<_>>().into_iter()
}

/// A plan as a difference.
pub fn plan(plan: &Plan, also: &[Also], owners: &[String]) -> String {
    let mut out = String::new();
    for (step, also) in plan.steps.iter().zip(also) {
        let risk = format!("{:?}", step.risk).to_lowercase();
        let _ = writeln!(out, "{}  {} (risk: {risk})", step.rule, step.why);
        let _ = writeln!(out, "  {}", setting(&step.new));
        let _ = writeln!(out, "  - {}", value(&step.old));
        let _ = writeln!(out, "  + {}", value(&step.new));
        if !step.verify.is_empty() {
            let _ = writeln!(out, "  verify: {}", step.verify);
        }
        others(&mut out, also);
        for program in &also.programs {
            let _ = writeln!(out, "  owner: {}", program.what);
            if !program.command.is_empty() {
                let _ = writeln!(out, "    to keep it there: {}", program.command);
            }
        }
    }
    if plan.steps.is_empty() {
        out += "nothing to change\n";
    } else {
        if !owners.is_empty() {
            let _ = writeln!(out, "\nThese run here and may set the same: {}.", owners.join(", "));
        }
        if plan.steps.iter().any(|s| s.risk == Risk::Flap) {
            out += "\nWhat has the risk flap may cut the way to this host: it needs --yes-flap, and is \
                    undone by itself unless it is kept.\n";
        }
        out += "\nTo do it: linerate tune apply. Nothing has been changed yet.\n";
    }
    out += &refused(plan);
    out
}

/// Files that set the same.
fn others(out: &mut String, also: &Also) {
    for other in &also.files {
        let wins = if other.wins { " and has the last word at the next boot" } else { "" };
        let (file, value) = (other.file.display(), &other.value);
        let _ = writeln!(out, "  note: {file} sets it to {value}{wins}");
    }
}

fn refused(plan: &Plan) -> String {
    let mut out = String::new();
    for refused in &plan.refused {
        // What the kernel says begins with the change itself.
        let why = refused.why.strip_prefix(&refused.what).unwrap_or(&refused.why);
        let why = why.trim_start_matches([':', ' ']);
        let _ = writeln!(
            out,
            "{}  not by tune: {}: {why}",
            refused.rule,
            refused.what.trim_end_matches('.')
        );
    }
    out
}

/// What was done.
pub fn applied(plan: &Plan, all: &[Done], place: &str) -> String {
    let mut out = String::new();
    for done in all {
        let (rule, what) = (done.step.rule, setting(&done.step.new));
        let (old, new) = (value(&done.step.old), value(&done.step.new));
        let _ = match &done.how {
            How::Once(Outcome::Applied { id }) => {
                writeln!(out, "{id:>3}  {rule}  {what}: {old} -> {new}")
            }
            How::Once(Outcome::Rounded { id, now }) => {
                let now = value(now);
                writeln!(out, "{id:>3}  {rule}  {what}: {old} -> {now} (the kernel's, for {new})")
            }
            How::Once(Outcome::Refused { why }) => {
                writeln!(out, "  -  {rule}  {what}: not changed: {why}")
            }
            How::Withheld { withheld } => {
                writeln!(out, "  -  {rule}  {what}: {old} -> {new} withheld: {withheld}")
            }
            How::Grown(growth) => {
                for tried in &growth.tried {
                    let _ = writeln!(out, "     {}: {}", value(&tried.value), word(&tried.verdict));
                }
                match &growth.kept {
                    Some(kept) => {
                        let kept = value(kept);
                        writeln!(out, "{:>3}  {rule}  {what}: {old} -> {kept}", growth.id)
                    }
                    None => writeln!(out, "  -  {rule}  {what}: {old} again: {}", growth.why),
                }
            }
        };
        if let Some(persisted) = &done.persisted {
            out += &persisting(persisted);
            others(&mut out, &done.also);
        }
    }
    if all.is_empty() && plan.refused.is_empty() {
        out += "nothing to change\n";
    }
    out += &refused(plan);
    if all.iter().any(|d| d.how.id().is_some()) {
        let by_hand = all.iter().all(|d| d.step.rule == BY_HAND);
        if !by_hand {
            let _ = write!(out, "To see whether it helped: linerate tune verify{place}. ");
        }
        let _ = writeln!(out, "To undo it: linerate tune rollback{place}.");
    }
    out
}

/// Whether it survives a boot.
pub fn persisting(how: &Persisting) -> String {
    match how {
        Persisting::In(file) => format!("     in {file} as well\n"),
        Persisting::WhenKept => "     for the next boot as well, once it is kept\n".into(),
        Persisting::Failed(why) => format!("     not for the next boot: {why}\n"),
    }
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Cured => "the loss stopped".into(),
        Verdict::Better { from, to } => format!("{from:.1}/s before, {to:.1}/s now"),
        Verdict::Same { loss_per_s } => format!("still {loss_per_s:.1}/s"),
        Verdict::Worse { what } => format!("worse: {what}"),
        Verdict::Unproven { from, to } => {
            format!("unproven: {from:.0} packets/s before, {to:.0} now")
        }
    }
}

/// Whether it helped.
pub fn verified(all: &[Verified]) -> String {
    let mut out = String::new();
    for v in all {
        let (id, rule) = (v.entry.id, &v.entry.rule);
        let (what, before) = (setting(&v.entry.new), &v.entry.before);
        let how = match v.verdict {
            "cured" if before.loss_per_s == 0.0 => "cured: it is not found any more".to_owned(),
            "cured" => format!("cured: {:.1}/s before, none now", before.loss_per_s),
            "same" if before.loss_per_s == 0.0 => "the same: it is still found".to_owned(),
            "better" => {
                format!("better: {:.1}/s before, {:.1}/s now", before.loss_per_s, v.loss_per_s)
            }
            "unmeasured" => "set by hand: no finding to measure it by".to_owned(),
            "unproven" => format!(
                "unproven: no loss, but {:.0} packets/s before and {:.0} now",
                before.packets_per_s, v.packets_per_s
            ),
            _ => format!("the same: {:.1}/s", v.loss_per_s),
        };
        let _ = writeln!(out, "{id:>3}  {rule}  {what}: {how}");
    }
    if all.is_empty() {
        out += "nothing is changed, so there is nothing to verify\n";
    }
    out
}

/// The journal.
pub fn entries(entries: &[Entry]) -> String {
    let mut out = String::new();
    for entry in entries {
        let state: String = match entry.state {
            // Nobody is at it: who lists holds the journal.
            State::Begun | State::Trying => "left in the middle: the next start undoes it".into(),
            State::Applied if entry.flap => {
                let at = entry.undo_at_ms.unwrap_or(0);
                match at.saturating_sub(since_boot_ms()).div_ceil(1000) {
                    0 => "its time is over: the next start undoes it".into(),
                    left => format!("applied, undone in {left} s unless it is kept"),
                }
            }
            State::Applied => "applied".into(),
            State::Kept => "kept".into(),
            State::Refused => "refused".into(),
            State::RolledBack => "rolled back".into(),
            State::Drifted => "drifted".into(),
        };
        let (old, new) = (value(&entry.old), value(&entry.new));
        let what = setting(&entry.new);
        let _ = writeln!(out, "{:>3}  {}  {what}: {old} -> {new}  {state}", entry.id, entry.rule);
        for persisted in &entry.persisted {
            let _ = writeln!(out, "     /{}: {}", persisted.file, persisted.line);
        }
    }
    if entries.is_empty() {
        out += "nothing is changed\n";
    }
    out
}

/// What was undone.
pub fn undone(all: &[Undone]) -> String {
    let mut out = String::new();
    for undone in all {
        let _ = match undone {
            Undone::RolledBack { id, to } => {
                writeln!(out, "{id:>3}  {} is {} again", setting(to), value(to))
            }
            Undone::Forgotten { id } => {
                writeln!(
                    out,
                    "{id:>3}  the kernel has forgotten it (another boot, or the device is gone)"
                )
            }
            Undone::Drifted { id, ours, now } => writeln!(
                out,
                "{id:>3}  {} is {} now, and was {} of ours: somebody else set it, so it stays",
                setting(now),
                value(now),
                value(ours)
            ),
            Undone::Elsewhere { id, netns } => match name_of(*netns) {
                Some(name) => {
                    writeln!(out, "{id:>3}  is of another network namespace: use --netns {name}")
                }
                None => writeln!(
                    out,
                    "{id:>3}  is of another network namespace, which has no name now (inode {netns}): use \
                     --netns with a process in it"
                ),
            },
            Undone::Failed { id, why } => writeln!(out, "{id:>3}  not undone: {why}"),
        };
    }
    if all.is_empty() {
        out += "nothing to undo\n";
    }
    out
}

/// What `ip netns` calls a namespace.
fn name_of(inode: u64) -> Option<String> {
    let entries = std::fs::read_dir("/run/netns").ok()?;
    let is_it = |e: &std::fs::DirEntry| std::fs::metadata(e.path()).is_ok_and(|m| m.ino() == inode);
    entries.flatten().find(is_it).and_then(|e| e.file_name().into_string().ok())
}

/// Numbers with commas between them.
pub fn ids(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}
