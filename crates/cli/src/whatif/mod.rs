//! `linerate whatif`: a host to try knobs on.
//!
//! | file | what |
//! |---|---|
//! | [`args`] | options |
//! | [`text`] | what is printed: one machine, or a table of several |
//! | [`page`] | the same as a page with pictures |
//! | [`check`] | the machine on paper beside the real one |
//!
//! The machine itself is [`linerate_sim::machine`].

pub mod args;
mod check;
mod page;
#[cfg(test)]
mod tests;
mod text;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use linerate_sim::machine::{self, Costs, Outcome, Spec};

pub use args::WhatifArgs;
use args::{Nic, Rate, Sweep};

use crate::args::Setting;

/// One machine, and what it did.
struct Answer {
    /// The value of the sweep, if there is one.
    value: Option<String>,
    spec: Spec,
    outcome: Outcome,
}

/// Asks and prints.
pub fn main(args: &WhatifArgs) -> ExitCode {
    match run(args) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("linerate whatif: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &WhatifArgs) -> Result<ExitCode, String> {
    let mut spec = spec(args)?;
    let mut learnt_off = None;
    let pages: [(_, Draw); 2] = [(&args.html, page::page), (&args.svg, page::svg)];
    pages.iter().filter_map(|(path, _)| path.as_deref()).try_for_each(writable)?;
    if args.check {
        if args.learn && !args.cost.is_empty() {
            return Err(
                "--check --learn: costs are learnt; leave --cost out, or --learn".to_owned()
            );
        }
        return check::run(vary_all(&spec, args.sweep.as_ref())?, args);
    }
    if args.learn {
        progress("learning what everything costs here");
        let learnt = machine::learn(&spec, 0.0).map_err(|e| e.to_string())?;
        spec.costs = Costs { app: spec.costs.app, ..learnt.costs };
        say_costs(&mut spec.costs, args)?;
        learnt_off = Some(learnt.off);
    }
    let specs = vary_all(&spec, args.sweep.as_ref())?;
    let part = 1.0 / specs.len() as f64;
    let each = specs.into_iter().enumerate();
    let answers: Vec<Answer> = each
        .map(|(i, (value, one))| answer(value, one, i as f64 * part, part))
        .collect::<Result<_, _>>()?;
    progress("");
    for (path, draw) in pages {
        let Some(path) = path else { continue };
        let text = draw(args, &answers);
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if args.json {
        crate::print_json(&text::json(args, &answers));
    } else {
        if let Some(off) = learnt_off {
            crate::print(&format!(
                "costs, learnt here (no kind of turn is off by more than {:.0} %):\n{}",
                off * 100.0,
                text::costs(&spec.costs)
            ));
        }
        crate::print(&match args.sweep {
            None => text::one(&answers[0]),
            Some(ref sweep) => text::table(sweep, &answers),
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a page, or a picture, of what was found.
type Draw = fn(&WhatifArgs, &[Answer]) -> String;

/// What the options say.
fn spec(args: &WhatifArgs) -> Result<Spec, String> {
    if !(1.0..=3_600_000.0).contains(&args.time) {
        return Err("--for: 1 to 3600000 milliseconds".to_owned());
    }
    let mut costs = Costs::default();
    say_costs(&mut costs, args)?;
    let time = (args.time * 1e6) as u64;
    Ok(Spec {
        queues: args.nic.queues,
        ring: args.nic.ring,
        cpus: args.cpus.into(),
        pps: args.rate.0,
        // The check sum is the card's.
        frame: usize::from(args.size) - 4,
        flows: args.flows as usize,
        arrivals: args.arrivals,
        knobs: args.set.iter().map(|s| (s.path.to_owned(), s.value.clone())).collect(),
        costs,
        time,
        warm: time / 5,
        seed: args.seed,
    })
}

/// What the user says of costs goes before what is known of them.
fn say_costs(costs: &mut Costs, args: &WhatifArgs) -> Result<(), String> {
    for (what, ns) in &args.cost {
        args::put(costs, *what, *ns);
    }
    if let Some(app) = args.app {
        if !(0.0..=1e6).contains(&app) {
            return Err("--app: 0 to 1000000 nanoseconds".to_owned());
        }
        costs.app = app;
    }
    Ok(())
}

/// Runs a machine; `from` and `part` say where its progress lies in that of all.
fn answer(value: Option<String>, spec: Spec, from: f64, part: f64) -> Result<Answer, String> {
    let name = value.clone().unwrap_or_default();
    let mut last: Option<Instant> = None;
    let mut told = |done: f64| {
        if last.is_none_or(|t| t.elapsed() >= Duration::from_millis(100)) {
            last = Some(Instant::now());
            progress(&format!("{name} {:5.1} %", (from + done * part) * 100.0));
        }
    };
    let outcome = machine::run(&spec, &mut told).map_err(|e| e.to_string())?;
    Ok(Answer { value, spec, outcome })
}

/// The machine for each value of the sweep, or the one there is: a wrong value is found before any runs.
fn vary_all(spec: &Spec, sweep: Option<&Sweep>) -> Result<Vec<(Option<String>, Spec)>, String> {
    let Some(sweep) = sweep else { return Ok(vec![(None, spec.clone())]) };
    let vary_one = |value: &String| {
        let mut one = spec.clone();
        vary(&mut one, &sweep.what, value)?;
        one.check().map_err(|e| format!("--sweep {}={value}: {e}", sweep.what))?;
        Ok((Some(value.clone()), one))
    };
    sweep.values.iter().map(vary_one).collect()
}

/// Whether a file can be written: better known before a long run than after it.
fn writable(path: &Path) -> Result<(), String> {
    let new = !path.exists();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|e| format!("{}: {e}", path.display()))?;
    if new {
        // It stays empty if this fails, and is written later.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Changes one thing of a machine.
fn vary(spec: &mut Spec, what: &str, value: &str) -> Result<(), String> {
    let number = |most: usize| {
        let n = value.parse().ok().filter(|n| (1..=most).contains(n));
        n.ok_or_else(|| format!("--sweep {what}: {value:?} must be a number from 1 to {most}"))
    };
    match what {
        "rate" => spec.pps = value.parse::<Rate>()?.0,
        "size" => {
            let size = number(1518)?;
            if size < 64 {
                return Err(format!("--sweep size: {value:?} must be 64 to 1518"));
            }
            spec.frame = size - 4;
        }
        "flows" => spec.flows = number(1_000_000)?,
        "cpus" => spec.cpus = number(64)?,
        "queues" => spec.queues = number(64)?,
        "ring" => spec.ring = number(1 << 20)?,
        "nic" => {
            let nic: Nic = value.parse()?;
            (spec.queues, spec.ring) = (nic.queues, nic.ring);
        }
        "app" => {
            let ns = value.parse().ok().filter(|ns| (0.0..=1e6).contains(ns));
            spec.costs.app =
                ns.ok_or_else(|| format!("--sweep app: {value:?} must be 0 to 1000000"))?;
        }
        knob => {
            let setting: Setting = format!("{knob}={value}").parse().map_err(|e| {
                format!(
                    "--sweep {e}; besides knobs there are rate, size, flows, cpus, queues, ring, nic, app"
                )
            })?;
            spec.knobs.retain(|(path, _)| path != setting.path);
            spec.knobs.push((setting.path.to_owned(), setting.value));
        }
    }
    Ok(())
}

/// Says how far it is, where somebody looks.
fn progress(what: &str) {
    let mut err = std::io::stderr().lock();
    if err.is_terminal() {
        // It goes nowhere else: there is nothing to do if it fails.
        let _ = write!(err, "\r\x1b[K{what}").and_then(|()| err.flush());
    }
}
