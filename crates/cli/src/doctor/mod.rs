//! `linerate doctor`: looks at the kernel's path for a while, and says what the rules say.
//!
//! ```text
//! reading: this host | a namespace | a directory | a record -> snapshots -> rules -> text, JSON, html
//! ```
//!
//! `record` and `top` read the same way.

pub mod args;
pub mod explain;
pub(crate) mod html;
mod instance;
mod latency;
mod names;
pub mod path;
pub mod reading;
pub mod record;
pub mod show;
pub mod text;
pub mod top;

use std::io;
use std::process::ExitCode;

use linerate_host::finding::Severity;
use linerate_host::rules::{self, Diagnosis, Limits};
use linerate_host::{Cx, Goal, Snapshot, Window};
use serde_json::json;

use self::args::DoctorArgs;
use self::instance::advice;
use self::reading::Reading;
use crate::report::Style;
use crate::{print, print_json};

/// Nothing could be read, or what was asked for makes no sense.
pub const UNREADABLE: u8 = 2;

/// `linerate doctor`.
pub fn main(args: &DoctorArgs) -> ExitCode {
    match examine(args) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("linerate doctor: {why}");
            ExitCode::from(UNREADABLE)
        }
    }
}

fn examine(args: &DoctorArgs) -> Result<ExitCode, String> {
    // Before somebody waits for it.
    if let Some(file) = &args.html {
        let open = std::fs::File::options().create(true).write(true).truncate(false).open(file);
        open.map_err(|e| format!("{}: {e}", file.display()))?;
    }
    let reading = match (&args.from, &args.name) {
        (Some(path), _) => Reading::of_path(path)?,
        (None, Some(name)) => Reading::instance(args, name)?,
        (None, None) => Reading::live(args)?,
    };
    let mut limits = Limits::default();
    for limit in &args.limit {
        limits.set(&limit.name, &limit.value).map_err(|e| e.to_string())?;
    }
    let looked = Looked {
        origin: &reading.origin,
        snapshots: &reading.snapshots,
        between: &reading.between,
        goal: args.goal.into(),
        limits,
    };
    if is_empty(looked.now()) {
        let why: Vec<String> =
            looked.now().notes.iter().take(3).map(|n| format!("; {}: {}", n.what, n.why)).collect();
        let why = text::clean(&why.concat());
        return Err(format!("nothing could be read from {}{why}", reading.origin));
    }
    let mut diagnosis = rules::diagnose(&looked.cx());
    diagnosis.skipped.extend(reading.notes.iter().cloned());
    if let Some(name) = &args.name {
        diagnosis.findings.retain(|f| !advice::is_about_hosts(f));
        advice::advise(&mut diagnosis.findings, name, looked.now());
    }
    if let Some(file) = &args.html {
        let page = html::page(&looked, &diagnosis);
        std::fs::write(file, page).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    if args.json {
        print_json(&as_json(&looked, &diagnosis));
    } else {
        print(&text::report(&looked, &diagnosis, Style::of(&io::stdout())));
    }
    let harm = diagnosis.findings.iter().any(|f| f.severity > Severity::Info);
    Ok(ExitCode::from(u8::from(harm)))
}

/// A run of readings, and how it is to be judged.
pub struct Looked<'a> {
    /// Where they come from, for people.
    pub origin: &'a str,
    /// At least one, the oldest first.
    pub snapshots: &'a [Snapshot],
    /// Closer together, with less in each; empty if there are none.
    pub between: &'a [Snapshot],
    /// What matters.
    pub goal: Goal,
    /// Thresholds.
    pub limits: Limits,
}

impl<'a> Looked<'a> {
    /// The last reading.
    pub fn now(&self) -> &'a Snapshot {
        self.snapshots.last().expect("a run has at least one reading")
    }

    /// From one reading to the next; since boot if there is one only.
    pub fn windows(&self) -> Vec<Window<'a>> {
        windows(self.snapshots)
    }

    /// The same as closely as was read: for pictures.
    pub fn close_windows(&self) -> Vec<Window<'a>> {
        windows(if self.between.is_empty() { self.snapshots } else { self.between })
    }

    /// The whole run.
    pub fn whole(&self) -> Window<'a> {
        let from = if self.snapshots.len() > 1 { self.snapshots.first() } else { None };
        Window { from, to: self.now() }
    }

    /// Its length in seconds.
    pub fn secs(&self) -> f64 {
        self.whole().secs()
    }

    /// The goal's name.
    pub fn goal_name(&self) -> &'static str {
        match self.goal {
            Goal::Throughput => "throughput",
            Goal::Latency => "latency",
        }
    }

    /// As the rules see it.
    pub fn cx(&self) -> Cx<'a> {
        Cx { windows: self.windows(), goal: self.goal, limits: self.limits.clone() }
    }
}

fn windows(snapshots: &[Snapshot]) -> Vec<Window<'_>> {
    match snapshots {
        [only] => vec![Window { from: None, to: only }],
        all => all.windows(2).map(|w| Window { from: Some(&w[0]), to: &w[1] }).collect(),
    }
}

/// Whether nothing of the path was read at all.
pub fn is_empty(s: &Snapshot) -> bool {
    s.mib.is_empty() && s.softnet.is_empty() && s.devs.is_empty()
}

/// The report for programs.
fn as_json(looked: &Looked<'_>, diagnosis: &Diagnosis) -> serde_json::Value {
    let whole = looked.whole();
    json!({
        "host": looked.now().host,
        "origin": looked.origin,
        "window": {
            "secs": whole.secs(),
            "windows": looked.snapshots.len() - 1,
            "lifetime": whole.is_lifetime(),
            "from_unix_ns": whole.from.map(|s| s.wall_ns),
            "to_unix_ns": whole.to.wall_ns,
        },
        "goal": looked.goal_name(),
        "limits": looked.limits,
        "findings": diagnosis.findings,
        "skipped": diagnosis.skipped,
    })
}
