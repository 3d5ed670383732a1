//! The machine on paper beside the real one: at which rate do drops begin, and where?

use std::process::ExitCode;

use linerate_core::table::Stage;
use linerate_sim::machine::{self, Costs, Outcome, Spec};
use serde_json::{Value, json};

use super::args::WhatifArgs;
use super::progress;
use super::text::{costs as describe_costs, machine as describe, rate};

/// Rounds that count; the median of each side does.
const ROUNDS: usize = 5;
/// Rounds that are tried.
const TRIES: usize = 12;
/// By how much the costs before and after a round may differ, of the smaller.
const STEADY: f64 = 0.15;
/// Halvings of the span in which drops begin: it is known to a fortieth then.
const STEPS: usize = 7;
/// The share that has to be lost before drops have begun.
const BEGUN: f64 = 0.001;
/// By how much paper may be off, of what is real.
const OFF: f64 = 0.2;
/// Nanoseconds that each machine runs at each rate, and before that is counted.
const TIME: (u64, u64) = (40_000_000, 8_000_000);

/// Where drops begin: packets a second, and the stage that loses the first.
type Knee = (f64, Stage);

/// One round.
struct Round {
    costs: Costs,
    paper: Knee,
    real: Knee,
    /// Part of the time for which others had the processors.
    taken: f64,
}

/// The machine of one value, if there is a sweep, and its rounds.
struct Checked {
    value: Option<String>,
    spec: Spec,
    rounds: Vec<Round>,
}

/// Checks every machine, and says how it came out.
pub fn run(specs: Vec<(Option<String>, Spec)>, args: &WhatifArgs) -> Result<ExitCode, String> {
    if let Some((path, _)) = specs.iter().flat_map(|s| &s.1.knobs).find(|k| steers(&k.0)) {
        return Err(format!(
            "--check: {path} sends packets to other processors, and for real each keeps its own: leave it out"
        ));
    }
    let mut all = Vec::new();
    for (value, spec) in specs {
        let spec = polling(spec);
        let name = value.clone().unwrap_or_default();
        let rounds = rounds(&spec, args.learn, &name)?;
        all.push(Checked { value, spec, rounds });
    }
    progress("");
    if args.json {
        crate::print_json(&json!({
            "rounds": ROUNDS, "limit": OFF,
            "good": all.iter().all(Checked::good),
            "machines": all.iter().map(Checked::json).collect::<Vec<Value>>(),
        }));
    } else {
        crate::print(&text(&all, args.learn));
    }
    let good = all.iter().all(Checked::good);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn steers(path: &str) -> bool {
    path.contains("rps") || path.contains("rfs")
}

/// The machine as both sides run it: the real loop polls, since a thread that sleeps has no time.
fn polling(mut spec: Spec) -> Spec {
    for (path, value) in machine::polls() {
        spec.knobs.retain(|(known, _)| known != path);
        spec.knobs.push((path.to_owned(), value.to_owned()));
    }
    spec.costs.irq = 0.0;
    (spec.time, spec.warm) = TIME;
    spec
}

/// Rounds in which the machine's speed stayed as it was.
fn rounds(spec: &Spec, learns: bool, name: &str) -> Result<Vec<Round>, String> {
    let mut good = Vec::new();
    let mut unsteady = 0.0_f64;
    for _ in 0..TRIES {
        progress(&format!("{name} round {} of {ROUNDS}", good.len() + 1));
        let before = learn(spec, learns)?;
        let said = Spec { costs: before.clone(), ..spec.clone() };
        let mut taken = Vec::new();
        let real = begins(&said, &mut |s: &Spec| {
            // For real the application works for as long as was asked for; how long that is here was learnt.
            let app = Costs { app: spec.costs.app, ..s.costs.clone() };
            let (out, lost) = machine::real(&Spec { costs: app, ..s.clone() }).map_err(say)?;
            let own = (s.time + s.warm) as f64 * s.cpus.min(s.queues) as f64;
            taken.push(lost as f64 / (lost as f64 + own));
            Ok(out)
        })?;
        let after = learn(spec, learns)?;
        let whole = |c: &Costs| c.packet(spec.frame) + (c.turn + c.poll) / 32.0;
        let (a, b) = (whole(&before), whole(&after));
        let change = a.max(b) / a.min(b).max(1.0) - 1.0;
        unsteady = unsteady.max(change);
        if change > STEADY {
            continue;
        }
        let costs = mean(&before, &after);
        let paper = Spec { costs: costs.clone(), ..spec.clone() };
        let paper = begins(&paper, &mut |s| machine::run(s, &mut |_| ()).map_err(say))?;
        let taken = taken.iter().sum::<f64>() / taken.len().max(1) as f64;
        good.push(Round { costs, paper, real, taken });
        if good.len() == ROUNDS {
            return Ok(good);
        }
    }
    progress("");
    Err(format!(
        "this host is too busy to say: in {} of {TRIES} rounds what a packet costs changed by more than \
         {:.0} % (by up to {:.0} %) from beginning to end; try again when less else runs{}",
        TRIES - good.len(),
        STEADY * 100.0,
        unsteady * 100.0,
        load()
    ))
}

/// The load average, in brackets, where the system says it.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().map_or(String::new(), |l| format!(" (load average {l})"))
}

fn say(err: machine::SpecError) -> String {
    err.to_string()
}

/// What everything costs here and now, or what it is said to.
fn learn(spec: &Spec, learns: bool) -> Result<Costs, String> {
    if !learns {
        return Ok(spec.costs.clone());
    }
    Ok(machine::learn(spec, spec.costs.app).map_err(say)?.costs)
}

fn mean(a: &Costs, b: &Costs) -> Costs {
    let mut costs = a.clone();
    costs.stage.iter_mut().zip(&b.stage).for_each(|(a, b)| *a = (*a + b) / 2.0);
    let half = |a: f64, b: f64| (a + b) / 2.0;
    Costs {
        turn: half(a.turn, b.turn),
        poll: half(a.poll, b.poll),
        read: half(a.read, b.read),
        miss: half(a.miss, b.miss),
        byte: half(a.byte, b.byte),
        app: half(a.app, b.app),
        ..costs
    }
}

/// The rate at which drops begin: the least at which more than [`BEGUN`] of the packets is lost, and the
/// stage that loses the first there.
fn begins(
    spec: &Spec,
    run: &mut dyn FnMut(&Spec) -> Result<Outcome, String>,
) -> Result<Knee, String> {
    // What one processor can do is known roughly; drops begin somewhere around.
    let cpus = spec.cpus.min(spec.queues) as f64;
    let limit = cpus * 1e9 / spec.costs.packet(spec.frame).max(1.0);
    let (mut below, mut above) = (limit / 8.0, (limit * 4.0).min(1e9));
    let (mut first, mut none_lost) = (None, false);
    for step in 0..STEPS {
        let pps = (below * above).sqrt();
        let out = run(&Spec { pps, ..spec.clone() })?;
        if out.lost() > BEGUN {
            above = pps;
            first = out.first;
        } else {
            (below, none_lost) = (pps, true);
        }
        // Where none is lost at all, the end of the span was never tried.
        if step + 1 == STEPS && first.is_none() {
            let out = run(&Spec { pps: above, ..spec.clone() })?;
            first = out.first;
        }
    }
    if !none_lost && run(&Spec { pps: below, ..spec.clone() })?.lost() > BEGUN {
        return Err(format!(
            "packets are lost even at {}: with these arrivals drops begin at no rate",
            rate(below)
        ));
    }
    let none = || format!("nothing is lost even at {}: there is nothing to compare", rate(above));
    Ok(((below * above).sqrt(), first.ok_or_else(none)?.0))
}

/// Least, median and most.
fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    (all[0], all[all.len() / 2], all[all.len() - 1])
}

/// The stage of most rounds.
fn stage(rounds: &[Round], of: impl Fn(&Round) -> Stage) -> Stage {
    let times = |stage: Stage| rounds.iter().filter(|r| of(r) == stage).count();
    let most = rounds.iter().map(&of).max_by_key(|s| times(*s));
    most.expect("there are rounds")
}

impl Checked {
    fn paper(&self) -> (f64, f64, f64) {
        spread(self.rounds.iter().map(|r| r.paper.0))
    }

    fn real(&self) -> (f64, f64, f64) {
        spread(self.rounds.iter().map(|r| r.real.0))
    }

    /// Paper's rate by the real one: of each round, since both have the same costs there.
    fn ratio(&self) -> (f64, f64, f64) {
        spread(self.rounds.iter().map(|r| r.paper.0 / r.real.0))
    }

    fn stages(&self) -> (Stage, Stage) {
        (stage(&self.rounds, |r| r.paper.1), stage(&self.rounds, |r| r.real.1))
    }

    fn good(&self) -> bool {
        let (on_paper, for_real) = self.stages();
        (self.ratio().1 - 1.0).abs() <= OFF && on_paper == for_real
    }

    fn taken(&self) -> f64 {
        self.rounds.iter().map(|r| r.taken).sum::<f64>() / self.rounds.len() as f64
    }

    fn json(&self) -> Value {
        let three = |s: (f64, f64, f64)| json!({ "min": s.0, "median": s.1, "max": s.2 });
        let (on_paper, for_real) = self.stages();
        json!({
            "value": self.value,
            "paper_pps": three(self.paper()), "real_pps": three(self.real()),
            "ratio": three(self.ratio()),
            "paper_stage": on_paper.name(), "real_stage": for_real.name(),
            "taken": self.taken(), "good": self.good(),
        })
    }

    /// A line of the table.
    fn line(&self) -> String {
        let span = |s: (f64, f64, f64)| format!("{} ({} to {})", rate(s.1), rate(s.0), rate(s.2));
        let ((on_paper, for_real), ratio) = (self.stages(), self.ratio());
        let verdict = match (on_paper == for_real, self.good()) {
            (_, true) => "met",
            (false, _) => "not met: another stage",
            _ => "not met",
        };
        format!(
            "{}  on paper  {} at {}\n  for real  {} at {}; others had {:.0} % of the time\n  \
             ratio     {:.2} ({:.2} to {:.2}): {verdict}\n",
            self.value.as_ref().map_or(String::new(), |v| format!("{v}\n")),
            span(self.paper()),
            on_paper.name(),
            span(self.real()),
            for_real.name(),
            self.taken() * 100.0,
            ratio.1,
            ratio.0,
            ratio.2,
        )
    }
}

fn text(all: &[Checked], learns: bool) -> String {
    let last = all.last().expect("there is a machine");
    let costs = &last.rounds[last.rounds.len() / 2].costs;
    let what = if learns { "learnt here" } else { "as said" };
    let mut out = describe(&all[0].spec);
    out.push_str(&format!("costs, {what}:\n{}", describe_costs(costs)));
    out.push_str(&format!(
        "drops begin (more than {} % lost), {ROUNDS} rounds in turns, median (least to most), {:.0} % off at the most{}:\n",
        BEGUN * 100.0,
        OFF * 100.0,
        load()
    ));
    all.iter().for_each(|one| out.push_str(&one.line()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(paper: Knee, real: Knee) -> Round {
        Round { costs: Costs::default(), paper, real, taken: 0.0 }
    }

    fn checked(rounds: Vec<Round>) -> Checked {
        let spec = super::super::tests::spec_of("--rate 1M");
        Checked { value: None, spec, rounds }
    }

    #[test]
    fn a_fifth_and_the_stage_decide() {
        let (ring, sock) = (Stage::Ring, Stage::SockQueue);
        let three = |a: Knee, b: Knee| checked(vec![round(a, b), round(a, b), round(a, b)]);
        assert!(three((1.19e6, sock), (1e6, sock)).good());
        assert!(three((0.81e6, sock), (1e6, sock)).good());
        assert!(!three((1.21e6, sock), (1e6, sock)).good());
        assert!(!three((0.79e6, sock), (1e6, sock)).good());
        assert!(!three((1e6, ring), (1e6, sock)).good());
        // One round of another kind changes neither.
        let odd = round((3e6, ring), (1e6, sock));
        let same = || round((1e6, sock), (1e6, sock));
        let mixed = checked(vec![odd, same(), same()]);
        assert!(mixed.good() && mixed.ratio() == (1.0, 1.0, 3.0));
        assert!(text(&[mixed], true).contains("ratio     1.00 (1.00 to 3.00): met"));
    }

    #[test]
    fn drops_begin_where_a_thousandth_is_lost() {
        let spec = polling(super::super::tests::spec_of("--rate 1M"));
        let lost = |share: f64| Outcome {
            offered: 100_000,
            drops: vec![(
                Stage::Ring,
                linerate_core::table::Reason::RingFull,
                (share * 1e5) as u64,
            )],
            first: Some((Stage::Ring, linerate_core::table::Reason::RingFull, 0, 1)),
            ..Outcome::default()
        };
        let mut run = |s: &Spec| Ok(lost(if s.pps > 2e6 { 0.01 } else { 0.0005 }));
        let (pps, stage) = begins(&spec, &mut run).expect("it begins");
        assert!((pps / 2e6 - 1.0).abs() < 0.03 && stage == Stage::Ring, "{pps}");
        let never = begins(&spec, &mut |_| Ok(Outcome::default())).expect_err("nothing is lost");
        assert!(never.contains("nothing is lost even at"), "{never}");
        let always = begins(&spec, &mut |_| Ok(lost(0.5))).expect_err("it is always lost");
        assert!(always.contains("at no rate"), "{always}");
    }
}
