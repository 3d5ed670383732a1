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
use std::process::ExitCode;

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
    if args.learn {
        progress("learning what stages cost here");
        spec.costs = learn(&spec, args)?;
    }
    if args.check {
        return check::run(&spec, args);
    }
    let answers = match &args.sweep {
        None => vec![answer(None, spec, 0.0, 1.0)?],
        Some(sweep) => sweep_all(&spec, sweep)?,
    };
    progress("");
    let pages: [(_, Draw); 2] = [(&args.html, page::page), (&args.svg, page::svg)];
    for (path, draw) in pages {
        let Some(path) = path else { continue };
        let text = draw(args, &answers);
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if args.json {
        crate::print_json(&text::json(args, &answers));
    } else {
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

/// Costs of this machine: the median of five measurements of each.
fn learn(spec: &Spec, args: &WhatifArgs) -> Result<Costs, String> {
    // One processor, whatever the machine on paper has.
    let one = Spec { cpus: 1, queues: 1, time: 60_000_000, knobs: Vec::new(), ..spec.clone() };
    let all: Result<Vec<Costs>, _> = (0..5).map(|_| machine::learn(&one)).collect();
    let all = all.map_err(|e| e.to_string())?;
    let median = |of: &dyn Fn(&Costs) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut costs = spec.costs.clone();
    for at in 0..costs.stage.len() {
        costs.stage[at] = median(&|c| c.stage[at]);
    }
    costs.turn = median(&|c| c.turn);
    say_costs(&mut costs, args)?;
    Ok(costs)
}

/// Runs a machine; `from` and `part` say where its progress lies in that of all.
fn answer(value: Option<String>, spec: Spec, from: f64, part: f64) -> Result<Answer, String> {
    let name = value.clone().unwrap_or_default();
    let mut told = |done: f64| {
        progress(&format!("{name} {:3.0} %", (from + done * part) * 100.0));
    };
    let outcome = machine::run(&spec, &mut told).map_err(|e| e.to_string())?;
    Ok(Answer { value, spec, outcome })
}

fn sweep_all(spec: &Spec, sweep: &Sweep) -> Result<Vec<Answer>, String> {
    let part = 1.0 / sweep.values.len() as f64;
    // A wrong value is found before any machine runs.
    let specs: Result<Vec<Spec>, String> = sweep
        .values
        .iter()
        .map(|value| {
            let mut one = spec.clone();
            vary(&mut one, &sweep.what, value)?;
            Ok(one)
        })
        .collect();
    let each = specs?.into_iter().zip(&sweep.values).enumerate();
    each.map(|(i, (one, value))| answer(Some(value.clone()), one, i as f64 * part, part)).collect()
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
