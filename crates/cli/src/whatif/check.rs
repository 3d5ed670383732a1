//! The machine on paper beside the real one: at which rate do drops begin?

use std::process::ExitCode;

use linerate_sim::machine::{self, Costs, Outcome, Spec};
use serde_json::json;

use super::args::WhatifArgs;
use super::progress;
use super::text::{machine as describe, rate};

/// Rounds; the median of each side counts.
const ROUNDS: usize = 5;
/// Halvings of the span in which drops begin.
const STEPS: usize = 7;
/// The share that has to be lost before drops have begun.
const BEGUN: f64 = 0.001;
/// By how much paper may be off, of what is real.
const OFF: f64 = 0.2;

/// Finds the rate for both, in turns, and compares.
pub fn run(spec: &Spec, args: &WhatifArgs) -> Result<ExitCode, String> {
    // The real loop polls: a thread that sleeps has no time of its own.
    let mut spec = spec.clone();
    spec.knobs.push(("net.core.busy_poll".to_owned(), "1000000".to_owned()));
    spec.costs.irq = 0.0;
    let (mut paper, mut real) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        progress(&format!("round {round} of {ROUNDS}"));
        let one = Spec { cpus: 1, queues: 1, time: 60_000_000, ..spec.clone() };
        // What a stage costs here and now: the machine's speed changes from moment to moment.
        let costs = if args.learn {
            let learnt = machine::learn(&one).map_err(|e| e.to_string())?;
            Costs { irq: 0.0, app: spec.costs.app, ..learnt }
        } else {
            spec.costs.clone()
        };
        let now = Spec { costs, ..spec.clone() };
        real.push(begins(&now, &for_real)?);
        paper.push(begins(&now, &|s| machine::run(s, &mut |_| ()).map_err(|e| e.to_string()))?);
    }
    progress("");
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        (all[0], all[all.len() / 2], all[all.len() - 1])
    };
    let (paper, real) = (median(&mut paper), median(&mut real));
    let ratio = paper.1 / real.1;
    let good = (ratio - 1.0).abs() <= OFF;
    if args.json {
        crate::print_json(&json!({
            "paper_pps": { "min": paper.0, "median": paper.1, "max": paper.2 },
            "real_pps": { "min": real.0, "median": real.1, "max": real.2 },
            "ratio": ratio, "good": good, "rounds": ROUNDS,
        }));
    } else {
        let span = |s: (f64, f64, f64)| format!("{} ({} to {})", rate(s.1), rate(s.0), rate(s.2));
        crate::print(&format!(
            "{}\ndrops begin, {ROUNDS} rounds in turns, median (least to most):\n  on paper  {}\n  for real  {}\n  ratio     {ratio:.2} ({} % off at the most: {})\n",
            describe(&spec),
            span(paper),
            span(real),
            OFF * 100.0,
            if good { "met" } else { "not met" }
        ));
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All processors of the machine, each on a thread of its own.
fn for_real(spec: &Spec) -> Result<Outcome, String> {
    let each: Vec<Result<Outcome, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..spec.cpus)
            .map(|cpu| scope.spawn(move || machine::real(spec, cpu).map_err(|e| e.to_string())))
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err("a processor panicked".to_owned())))
            .collect()
    });
    let mut all = Outcome::default();
    for one in each {
        let one = one?;
        all.offered += one.offered;
        all.delivered += one.delivered;
        all.drops.extend(one.drops);
    }
    Ok(all)
}

/// The rate at which drops begin.
fn begins(spec: &Spec, run: &dyn Fn(&Spec) -> Result<Outcome, String>) -> Result<f64, String> {
    // What one processor can do is known roughly; drops begin somewhere around.
    let limit = spec.cpus as f64 * 1e9 / spec.costs.packet().max(1.0);
    let (mut below, mut above) = (limit / 8.0, limit * 4.0);
    for _ in 0..STEPS {
        let pps = (below * above).sqrt();
        let out = run(&Spec { pps: pps.min(1e9), ..spec.clone() })?;
        if out.lost() > BEGUN { above = pps } else { below = pps }
    }
    Ok((below * above).sqrt())
}
