//! `linerate tune`: what the doctor advises, done, measured and undone.

pub mod args;
mod deadman;
mod text;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use linerate_host::finding::Finding;
use linerate_host::rules::{self, Diagnosis, Limits};
use linerate_host::source::Live;
use linerate_host::tune::{
    self, Before, Entry, Files, Growth, Journal, JournalError, Outcome, Plan, State, Step, Undone,
    Verdict,
};
use linerate_host::{Cx, Window, netns};
use serde::Serialize;
use serde_json::json;

use self::args::{ApplyArgs, JournalArgs, PlanArgs, RollbackArgs, TuneArgs, TuneCommand, UndoArgs};
use crate::doctor::args::DoctorArgs;
use crate::doctor::reading::{self, Reading};
use crate::{print, print_json};

/// `linerate tune`.
pub fn main(args: TuneArgs) -> ExitCode {
    let done = match args.command {
        TuneCommand::Plan(args) => plan(&args),
        TuneCommand::Apply(args) => apply(&args),
        TuneCommand::Verify(args) => verify(&args),
        TuneCommand::List(args) => list(&args),
        TuneCommand::Keep(args) => keep(&args),
        TuneCommand::Rollback(args) => roll_back(&args),
        TuneCommand::Undo(args) => undo(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("linerate tune: {why}");
            ExitCode::from(2)
        }
    }
}

/// What was seen while looking.
struct Look {
    reading: Reading,
    goal: linerate_host::Goal,
}

impl Look {
    fn take(args: &PlanArgs) -> Result<Look, String> {
        let every = (args.period / 10).max(Duration::from_millis(100));
        let reading = Reading::live(&DoctorArgs {
            period: Some(args.period),
            every: Some(every),
            goal: args.goal,
            from: None,
            netns: args.place.netns.clone(),
            name: None,
            limit: Vec::new(),
            probes: false,
            json: false,
            html: None,
        })?;
        Ok(Look { reading, goal: args.goal.into() })
    }

    fn diagnosis(&self) -> Diagnosis {
        let snapshots = &self.reading.snapshots;
        let windows =
            snapshots.windows(2).map(|w| Window { from: Some(&w[0]), to: &w[1] }).collect();
        rules::diagnose(&Cx { windows, goal: self.goal, limits: Limits::default() })
    }

    fn whole(&self) -> Window<'_> {
        let all = &self.reading.snapshots;
        Window { from: all.first(), to: &all[all.len() - 1] }
    }
}

/// This host's settings, and which namespace they are of.
fn settings(place: &JournalArgs) -> Result<(Live, u64), String> {
    let live = reading::live(place.netns.as_deref())?;
    let inode = match &place.netns {
        None => netns::current(),
        Some(name) => std::fs::metadata(netns::path(name)).map(|m| m.ino()),
    };
    Ok((live, inode.map_err(|e| e.to_string())?))
}

fn planned(args: &PlanArgs, look: &Look) -> Result<(Plan, Vec<Finding>, Live, u64), String> {
    known(&args.findings)?;
    let (mut settings, netns) = settings(&args.place)?;
    let findings = look.diagnosis().findings;
    let mut plan = Plan::of(&findings, &args.findings, &mut settings);
    let packets_per_s = tune::packets_per_s(&look.whole());
    plan.steps.iter_mut().for_each(|s| s.before.packets_per_s = packets_per_s);
    Ok((plan, findings, settings, netns))
}

/// A name that no rule has is wrong usage, whether or not it is found here.
fn known(names: &[String]) -> Result<(), String> {
    let is_rule = |name: &String| {
        rules::all().any(|r| r.id.eq_ignore_ascii_case(name) || r.name == name.as_str())
    };
    match names.iter().find(|n| !is_rule(n)) {
        Some(name) => {
            Err(format!("no rule is called {name}; `linerate doctor` prints their names"))
        }
        None => Ok(()),
    }
}

fn plan(args: &PlanArgs) -> Result<bool, String> {
    let look = Look::take(args)?;
    let (plan, ..) = planned(args, &look)?;
    let others: Vec<_> =
        plan.steps.iter().map(|s| Files::below(Path::new("/")).others(&s.new)).collect();
    let owners = &look.reading.snapshots[0].host.owners;
    match args.place.json {
        true => print_json(&json!({ "plan": plan, "others": others, "owners": owners })),
        false => print(&text::plan(&plan, &others, owners)),
    }
    Ok(true)
}

/// What came of one step.
#[derive(Serialize)]
struct Done {
    step: Step,
    #[serde(flatten)]
    how: How,
    #[serde(skip_serializing_if = "Option::is_none")]
    persisted: Option<Result<String, String>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum How {
    Once(Outcome),
    Grown(Growth),
    /// It may take a link down, and nobody said that it may.
    Withheld {
        withheld: &'static str,
    },
}

impl How {
    fn id(&self) -> Option<u64> {
        match self {
            How::Once(Outcome::Applied { id } | Outcome::Rounded { id, .. }) => Some(*id),
            How::Grown(growth) => growth.kept.is_some().then_some(growth.id),
            _ => None,
        }
    }
}

fn apply(args: &ApplyArgs) -> Result<bool, String> {
    let look = Look::take(&args.plan)?;
    let (plan, findings, mut settings, netns) = planned(&args.plan, &look)?;
    if plan.steps.is_empty() {
        report(args, &plan, &[])?;
        return Ok(plan.refused.is_empty());
    }
    let mut journal = open(&args.plan.place)?;
    let next = journal.entries().last().map_or(1, |e| e.id + 1);
    let is_flap = |s: &Step| s.risk == linerate_host::Risk::Flap;
    let flaps = args.yes_flap && plan.steps.iter().any(is_flap);
    if flaps {
        // Before anything is changed: if the way to here breaks, it works without us.
        deadman::arm(&args.plan.place, next, args.keep_within)
            .map_err(|e| format!("the timer that would undo it can not be started: {e}"))?;
    }
    let mut all = Vec::new();
    for step in &plan.steps {
        let how = match step {
            s if is_flap(s) && !args.yes_flap => {
                How::Withheld { withheld: "it may take the link down: --yes-flap allows it" }
            }
            s if args.until_clean => {
                let finding = findings.iter().find(|f| f.id == s.rule);
                let finding = finding.expect("a step is of a finding");
                let growth = grown(args, s, finding, &look, netns, &mut journal, &mut settings);
                How::Grown(growth.map_err(failed)?)
            }
            s => How::Once(tune::apply(s, netns, &mut journal, &mut settings).map_err(failed)?),
        };
        let persisted = match how.id() {
            Some(id) if args.persist => Some(persist(id, &mut journal)?),
            _ => None,
        };
        all.push(Done { step: step.clone(), how, persisted });
    }
    journal.close().map_err(failed)?;
    report(args, &plan, &all)?;
    if flaps {
        eprintln!(
            "linerate tune: what may have taken a link down is undone in {} s unless you say \
             `linerate tune keep`",
            args.keep_within.as_secs()
        );
    }
    let whole = |d: &Done| d.how.id().is_some() && !matches!(d.persisted, Some(Err(_)));
    Ok(all.iter().all(whole))
}

fn report(args: &ApplyArgs, plan: &Plan, all: &[Done]) -> Result<(), String> {
    match args.plan.place.json {
        true => print_json(&json!({ "applied": all, "refused": plan.refused })),
        false => print(&text::applied(plan, all)),
    }
    Ok(())
}

fn grown(
    args: &ApplyArgs,
    step: &Step,
    finding: &Finding,
    before: &Look,
    netns: u64,
    journal: &mut Journal,
    settings: &mut Live,
) -> Result<Growth, JournalError> {
    let max = text::numbers(&step.old).max().unwrap_or(1).max(1).saturating_mul(args.at_most);
    tune::grow(step, max, netns, journal, settings, |value| {
        eprintln!("linerate tune: {value}; looking for {} s", args.plan.period.as_secs());
        match Look::take(&args.plan) {
            Ok(now) => {
                let left = now.diagnosis().findings;
                tune::verify(finding, &before.whole(), &now.whole(), &left)
            }
            Err(why) => Verdict::Worse { what: why },
        }
    })
}

fn persist(id: u64, journal: &mut Journal) -> Result<Result<String, String>, String> {
    let entry = journal.entries().iter().find(|e| e.id == id).expect("it was applied");
    match Files::below(Path::new("/")).persist(&entry.new) {
        Ok(persisted) => {
            let file = format!("/{}", persisted.file);
            journal.note(id, |e| e.persisted.push(persisted)).map_err(failed)?;
            Ok(Ok(file))
        }
        Err(e) => Ok(Err(e.to_string())),
    }
}

/// What came of an applied change.
#[derive(Serialize)]
struct Verified {
    entry: Entry,
    verdict: &'static str,
    loss_per_s: f64,
    packets_per_s: f64,
}

fn verify(args: &PlanArgs) -> Result<bool, String> {
    known(&args.findings)?;
    let journal = open(&args.place)?;
    let entries: Vec<Entry> =
        journal.entries().iter().filter(|e| e.state.is_ours()).cloned().collect();
    drop(journal);
    let wanted = |e: &Entry| is_of(&args.findings, e);
    let look = Look::take(args)?;
    let (left, packets_per_s) = (look.diagnosis().findings, tune::packets_per_s(&look.whole()));
    let judge = |entry: Entry| {
        let Before { subject, loss_per_s, packets_per_s: before } = &entry.before;
        let same = |f: &&Finding| f.id == entry.rule && f.subject == *subject;
        let (verdict, loss_per_s) = match left.iter().find(same) {
            Some(f) if f.loss_per_s < loss_per_s / 2.0 => ("better", f.loss_per_s),
            Some(f) => ("same", f.loss_per_s),
            None if packets_per_s < before * 0.8 => ("unproven", 0.0),
            None => ("cured", 0.0),
        };
        Verified { entry, verdict, loss_per_s, packets_per_s }
    };
    let all: Vec<Verified> = entries.into_iter().filter(wanted).map(judge).collect();
    match args.place.json {
        true => print_json(&json!({ "verified": all })),
        false => print(&text::verified(&all)),
    }
    Ok(all.iter().all(|v| v.verdict == "cured"))
}

fn is_of(names: &[String], entry: &Entry) -> bool {
    let rule = rules::all().find(|r| r.id == entry.rule);
    names.is_empty()
        || names.iter().any(|n| {
            n.eq_ignore_ascii_case(&entry.rule)
                || *n == entry.id.to_string()
                || rule.is_some_and(|r| r.name == n.as_str())
        })
}

fn list(place: &JournalArgs) -> Result<bool, String> {
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

fn keep(place: &JournalArgs) -> Result<bool, String> {
    let mut journal = open(place)?;
    let waits = |e: &&Entry| e.flap && e.state == State::Applied;
    let ids: Vec<u64> = journal.entries().iter().filter(waits).map(|e| e.id).collect();
    for id in &ids {
        journal.note(*id, |e| e.state = State::Kept).map_err(failed)?;
    }
    match place.json {
        true => print_json(&json!({ "kept": ids })),
        false if ids.is_empty() => print("nothing waits to be kept\n"),
        false => print(&format!("kept: {}\n", text::ids(&ids))),
    }
    Ok(true)
}

fn roll_back(args: &RollbackArgs) -> Result<bool, String> {
    if !args.place.journal.exists() {
        match args.place.json {
            true => print_json(&json!({ "undone": [] })),
            false => print("nothing is changed\n"),
        }
        return Ok(true);
    }
    let undone = undone(&args.place, |e| is_of(&args.which, e))?;
    match args.place.json {
        true => print_json(&json!({ "undone": undone })),
        false => print(&text::undone(&undone)),
    }
    let well = |u: &Undone| matches!(u, Undone::RolledBack { .. } | Undone::Forgotten { .. });
    Ok(undone.iter().all(well))
}

fn undone(place: &JournalArgs, which: impl Fn(&Entry) -> bool) -> Result<Vec<Undone>, String> {
    let (mut settings, netns) = settings(place)?;
    let mut journal = open(place)?;
    let files = Files::below(Path::new("/"));
    let undone = tune::roll_back(&mut journal, netns, &mut settings, &files, which);
    let undone = undone.map_err(failed)?;
    journal.close().map_err(failed)?;
    Ok(undone)
}

fn undo(args: &UndoArgs) -> Result<bool, String> {
    deadman::wait(args.after);
    let waits = |e: &Entry| e.id >= args.from && e.flap && e.state != State::Kept;
    // Somebody may be using the journal just now.
    let mut tries = 0;
    loop {
        match undone(&args.place, waits) {
            Ok(_) => return Ok(true),
            Err(why) if tries == 50 => return Err(why),
            Err(_) => tries += 1,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn open(place: &JournalArgs) -> Result<Journal, String> {
    Journal::open(&place.journal).map_err(failed)
}

fn failed(e: JournalError) -> String {
    e.to_string()
}
