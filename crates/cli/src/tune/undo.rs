//! What is done with changes that were made: shown, kept, undone.

use std::path::Path;

use linerate_host::rules;
use linerate_host::source::Live;
use linerate_host::tune::{self, Entry, Files, Journal, State, Undone};
use serde_json::json;

use super::args::{JournalArgs, RollbackArgs};
use super::{Persisting, failed, open, settings, text};
use crate::{print, print_json};

/// Whether it is undone by itself unless it is kept.
pub fn waits(entry: &Entry) -> bool {
    entry.flap && matches!(entry.state, State::Begun | State::Trying | State::Applied)
}

/// What to say again to mean the same namespace and journal: options with a blank before each.
pub fn options(place: &JournalArgs) -> String {
    let netns = place.netns.as_ref().map(|name| format!(" --netns {name}")).unwrap_or_default();
    match place.journal.to_str() {
        Some(super::args::JOURNAL) => netns,
        _ => format!("{netns} --journal {}", place.journal.display()),
    }
}

/// Whether an entry is one of those that are named; all are if none is.
pub fn is_of(names: &[String], entry: &Entry) -> bool {
    names.is_empty() || names.iter().any(|name| is_called(name, entry))
}

fn is_called(name: &str, entry: &Entry) -> bool {
    let rule = rules::all().find(|r| r.id == entry.rule);
    name.eq_ignore_ascii_case(&entry.rule)
        || name == entry.id.to_string()
        || rule.is_some_and(|r| r.name == name)
}

/// A name that is of nothing in the journal is wrong usage.
pub fn named(names: &[String], journal: &Journal) -> Result<(), String> {
    let is_known = |name: &&String| journal.entries().iter().any(|e| is_called(name, e));
    match names.iter().find(|name| !is_known(name)) {
        Some(name) => Err(format!(
            "no change is called {name}: `linerate tune list` shows their numbers and rules"
        )),
        None => Ok(()),
    }
}

pub fn list(place: &JournalArgs) -> Result<bool, String> {
    if !place.journal.exists() {
        match place.json {
            true => print_json(&json!({ "entries": [] })),
            false => print("nothing is changed\n"),
        }
        return Ok(true);
    }
    let journal = open(place)?;
    match place.json {
        true => print_json(&json!({ "entries": journal.entries() })),
        false => print(&text::entries(journal.entries())),
    }
    Ok(true)
}

pub fn keep(place: &JournalArgs) -> Result<bool, String> {
    if !place.journal.exists() {
        kept(place, &[], &[]);
        return Ok(true);
    }
    let mut journal = open(place)?;
    // The time of some may be over while nobody was there to undo them: those are kept as well, for
    // whoever says this word sees that the way is open.
    let waits = |e: &&Entry| e.flap && e.state == State::Applied;
    let ids: Vec<u64> = journal.entries().iter().filter(waits).map(|e| e.id).collect();
    let mut persisted = Vec::new();
    for id in &ids {
        journal.note(*id, |e| e.state = State::Kept).map_err(failed)?;
        if journal.entries().iter().any(|e| e.id == *id && e.persist) {
            persisted.push(persist(*id, &mut journal)?);
        }
    }
    // One in which nothing is ours any more need not stay.
    journal.close().map_err(failed)?;
    kept(place, &ids, &persisted);
    Ok(!persisted.iter().any(|p| matches!(p, Persisting::Failed(_))))
}

fn kept(place: &JournalArgs, ids: &[u64], persisted: &[Persisting]) {
    match place.json {
        true => print_json(&json!({ "kept": ids, "persisted": persisted })),
        false if ids.is_empty() => print("nothing waits to be kept\n"),
        false => {
            let lines: String = persisted.iter().map(text::persisting).collect();
            print(&format!("kept: {}\n{lines}", text::ids(ids)));
        }
    }
}

pub fn roll_back(args: &RollbackArgs) -> Result<bool, String> {
    let place = &args.place;
    let undone = if place.journal.exists() {
        let (mut settings, netns) = settings(place)?;
        let mut journal = open(place)?;
        named(&args.which, &journal)?;
        let undone = by(&mut journal, netns, &mut settings, |e| is_of(&args.which, e))?;
        journal.close().map_err(failed)?;
        undone
    } else if let Some(name) = args.which.first() {
        return Err(format!("no change is called {name}: nothing is changed"));
    } else {
        Vec::new()
    };
    match place.json {
        true => print_json(&json!({ "undone": undone })),
        false => print(&text::undone(&undone)),
    }
    let well = |u: &Undone| matches!(u, Undone::RolledBack { .. } | Undone::Forgotten { .. });
    Ok(undone.iter().all(well))
}

/// Undoes those that `which` wants, in the journal that is held.
pub fn by(
    journal: &mut Journal,
    netns: u64,
    settings: &mut Live,
    which: impl Fn(&Entry) -> bool,
) -> Result<Vec<Undone>, String> {
    let files = Files::below(Path::new("/"));
    tune::roll_back(journal, netns, settings, &files, which).map_err(failed)
}

/// Undoes what somebody who was killed left in the middle, and says so.
pub fn abandoned(place: &JournalArgs) -> Result<(), String> {
    if !place.journal.exists() {
        return Ok(());
    }
    let mut journal = open(place)?;
    if !journal.entries().iter().any(Entry::is_abandoned) {
        return Ok(());
    }
    let (mut settings, netns) = settings(place)?;
    let undone = by(&mut journal, netns, &mut settings, Entry::is_abandoned)?;
    journal.close().map_err(failed)?;
    eprint!(
        "linerate tune: changes were left in the middle, by somebody who was killed:\n{}",
        text::undone(&undone)
    );
    Ok(())
}

/// Writes an entry into a file for the next boot; one that waits to be kept, when it is.
pub fn persist(id: u64, journal: &mut Journal) -> Result<Persisting, String> {
    let entry = journal.entries().iter().find(|e| e.id == id).expect("it was applied");
    if waits(entry) {
        journal.note(id, |e| e.persist = true).map_err(failed)?;
        return Ok(Persisting::WhenKept);
    }
    match Files::below(Path::new("/")).persist(&entry.new) {
        Ok(persisted) => {
            let file = format!("/{}", persisted.file);
            journal.note(id, |e| e.persisted.push(persisted)).map_err(failed)?;
            Ok(Persisting::In(file))
        }
        Err(e) => Ok(Persisting::Failed(e.to_string())),
    }
}
