//! `linerate tune`: what the doctor advises, done, measured and undone.

pub mod args;
mod deadman;
mod text;
mod undo;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use linerate_host::change::{Change, ParseError};
use linerate_host::finding::Finding;
use linerate_host::rules::{self, Diagnosis, Limits};
use linerate_host::source::Live;
use linerate_host::tune::{
    self, Before, Entry, Files, Growth, Journal, JournalError, Other, Outcome, Owner, Plan, Step,
    Verdict,
};
use linerate_host::{Cx, Window, netns};
use serde::Serialize;
use serde_json::json;

use self::args::{ApplyArgs, HowArgs, JournalArgs, PlanArgs, SetArgs, TuneArgs, TuneCommand};
use crate::doctor::args::DoctorArgs;
use crate::doctor::reading::{self, Reading};
use crate::{print, print_json};

/// `linerate tune`.
pub fn main(args: TuneArgs) -> ExitCode {
    let done = match args.command {
        TuneCommand::Plan(args) => plan(&args),
        TuneCommand::Apply(args) => apply(&args),
        TuneCommand::Set(args) => set(&args),
        TuneCommand::Verify(args) => verify(&args),
        TuneCommand::List(args) => undo::list(&args),
        TuneCommand::Keep(args) => undo::keep(&args),
        TuneCommand::Rollback(args) => undo::roll_back(&args),
        TuneCommand::Undo(args) => deadman::main(&args),
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
    let files = Files::below(Path::new("/"));
    let also: Vec<Also> = plan.steps.iter().map(|s| Also::of(&files, &s.new)).collect();
    let owners = &look.reading.snapshots[0].host.owners;
    match args.place.json {
        true => print_json(&json!({ "plan": plan, "also": also, "owners": owners })),
        false => print(&text::plan(&plan, &also, owners)),
    }
    Ok(true)
}

/// Who else sets what a step sets.
#[derive(Serialize)]
struct Also {
    /// Files that say a value for it.
    files: Vec<Other>,
    /// Programs that keep it as they want it.
    programs: Vec<Owner>,
}

impl Also {
    fn of(files: &Files, change: &Change) -> Also {
        Also { files: files.others(change), programs: files.owners(change) }
    }
}

/// What came of one step.
#[derive(Serialize)]
struct Done {
    step: Step,
    #[serde(flatten)]
    how: How,
    #[serde(skip_serializing_if = "Option::is_none")]
    persisted: Option<Persisting>,
    also: Also,
}

/// Whether it survives a boot.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Persisting {
    /// This file has it.
    In(String),
    /// It will, once it is kept: a boot undoes it otherwise.
    WhenKept,
    /// It does not.
    Failed(String),
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
    known(&args.plan.findings)?;
    // What was left in the middle would be taken for what was there before.
    undo::abandoned(&args.plan.place)?;
    let look = Look::take(&args.plan)?;
    let (plan, findings, mut settings, netns) = planned(&args.plan, &look)?;
    let make = |step: &Step, journal: &mut Journal| {
        if !args.until_clean {
            return tune::apply(step, netns, journal, &mut settings).map(How::Once);
        }
        let finding = findings.iter().find(|f| f.id == step.rule);
        let finding = finding.expect("a step is of a finding");
        grown(args, step, finding, &look, netns, journal, &mut settings).map(How::Grown)
    };
    made(&plan, &args.how, &args.plan.place, make)
}

fn set(args: &SetArgs) -> Result<bool, String> {
    let change: Change = args.change.join(" ").parse().map_err(|e: ParseError| e.to_string())?;
    undo::abandoned(&args.place)?;
    let (mut settings, netns) = settings(&args.place)?;
    let plan = Plan::of_change(&change, &mut settings);
    let make = |step: &Step, journal: &mut Journal| {
        tune::apply(step, netns, journal, &mut settings).map(How::Once)
    };
    made(&plan, &args.how, &args.place, make)
}

/// Makes what is planned, one step after the other, and says what came of it.
fn made(
    plan: &Plan,
    how: &HowArgs,
    place: &JournalArgs,
    mut make: impl FnMut(&Step, &mut Journal) -> Result<How, JournalError>,
) -> Result<bool, String> {
    if plan.steps.is_empty() {
        report(place, plan, &[])?;
        return Ok(plan.refused.is_empty());
    }
    let mut journal = open(place)?;
    journal.set_keep_within(how.keep_within);
    let next = journal.entries().last().map_or(1, |e| e.id + 1);
    let is_flap = |s: &Step| s.risk == linerate_host::Risk::Flap;
    if how.yes_flap && plan.steps.iter().any(is_flap) {
        // Before anything is changed: if the way to here breaks, it works without us.
        deadman::arm(place, next)
            .map_err(|e| format!("the timer that would undo it can not be started: {e}"))?;
    }
    let files = Files::below(Path::new("/"));
    let mut all = Vec::new();
    for step in &plan.steps {
        let done = match step {
            s if is_flap(s) && !how.yes_flap => {
                How::Withheld { withheld: "it may cut the way to this host: --yes-flap allows it" }
            }
            s => make(s, &mut journal).map_err(failed)?,
        };
        let persisted = match done.id() {
            Some(id) if how.persist => Some(undo::persist(id, &mut journal)?),
            _ => None,
        };
        let also = Also::of(&files, &step.new);
        all.push(Done { step: step.clone(), how: done, persisted, also });
    }
    let waits = journal.entries().iter().any(|e| e.id >= next && undo::waits(e));
    journal.close().map_err(failed)?;
    report(place, plan, &all)?;
    if waits {
        eprintln!(
            "linerate tune: what may cut the way to this host is undone in {} s unless you say \
             `linerate tune keep{}`",
            how.keep_within.as_secs_f64(),
            undo::options(place)
        );
    }
    let whole =
        |d: &Done| d.how.id().is_some() && !matches!(d.persisted, Some(Persisting::Failed(_)));
    Ok(all.iter().all(whole))
}

fn report(place: &JournalArgs, plan: &Plan, all: &[Done]) -> Result<(), String> {
    match place.json {
        true => print_json(&json!({ "applied": all, "refused": plan.refused })),
        false => print(&text::applied(plan, all, &undo::options(place))),
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
        eprintln!("linerate tune: {value}; looking for {} s", args.plan.period.as_secs_f64());
        match Look::take(&args.plan) {
            Ok(now) => {
                let left = now.diagnosis().findings;
                tune::verify(finding, &before.whole(), &now.whole(), &left)
            }
            Err(why) => Verdict::Worse { what: why },
        }
    })
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
    undo::abandoned(&args.place)?;
    if !args.place.journal.exists() {
        return verified(args, &[]);
    }
    let journal = open(&args.place)?;
    undo::named(&args.findings, &journal)?;
    let entries: Vec<Entry> =
        journal.entries().iter().filter(|e| e.state.is_ours()).cloned().collect();
    drop(journal);
    let wanted = |e: &Entry| undo::is_of(&args.findings, e);
    if !entries.iter().any(wanted) {
        return verified(args, &[]);
    }
    let look = Look::take(args)?;
    let (left, packets_per_s) = (look.diagnosis().findings, tune::packets_per_s(&look.whole()));
    let judge = |entry: Entry| {
        let Before { subject, loss_per_s, packets_per_s: before } = &entry.before;
        let same = |f: &&Finding| f.id == entry.rule && f.subject == *subject;
        let (verdict, loss_per_s) = match left.iter().find(same) {
            Some(f) if f.loss_per_s < loss_per_s / 2.0 => ("better", f.loss_per_s),
            Some(f) => ("same", f.loss_per_s),
            None if entry.rule == tune::BY_HAND => ("unmeasured", 0.0),
            None if packets_per_s < before * 0.8 => ("unproven", 0.0),
            None => ("cured", 0.0),
        };
        Verified { entry, verdict, loss_per_s, packets_per_s }
    };
    let all: Vec<Verified> = entries.into_iter().filter(wanted).map(judge).collect();
    verified(args, &all)
}

fn verified(args: &PlanArgs, all: &[Verified]) -> Result<bool, String> {
    match args.place.json {
        true => print_json(&json!({ "verified": all })),
        false => print(&text::verified(all)),
    }
    Ok(all.iter().all(|v| matches!(v.verdict, "cured" | "unmeasured")))
}

fn open(place: &JournalArgs) -> Result<Journal, String> {
    Journal::open(&place.journal).map_err(failed)
}

fn failed(e: JournalError) -> String {
    e.to_string()
}
