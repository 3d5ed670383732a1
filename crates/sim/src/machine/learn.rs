//! What the work costs on this host, learnt from turns of the loop that are known packet by packet.
//!
//! A turn in which `k` packets wait costs a part that is the turn's, one for each look at a ring, one for each
//! packet, and so on. One kind of turn can not tell these apart; many kinds can: few packets and
//! many, one queue and two, small frames and large ones, few flows and many, a reader that leaves packets
//! where they are and one that finds them there. Least squares over all kinds give the parts.

use linerate_core::table::Stage;

use super::meter::Costs;
use super::real::{Processor, Time, threads};
use super::source::Source;
use super::{Spec, SpecError};

/// What parts of a turn's cost there are: the turn, looks at rings, packets to their socket, packets
/// out of it, packets of flows that did not come lately, bytes.
const PARTS: usize = 6;

/// Turns of a kind in a row, and how often all kinds are gone through.
const TURNS: usize = 80;
const ROUNDS: usize = 7;

/// Flows that are few, and that are many.
const FEW: usize = 256;
const MANY: usize = 65_536;

/// Costs, and how well they say what was measured.
#[derive(Clone, Debug)]
pub struct Learnt {
    /// What everything costs.
    pub costs: Costs,
    /// By how much the worst of the kinds of turns that were measured is off, of what it took.
    pub off: f64,
}

/// What the reader does in a turn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// It reads what came.
    Reads,
    /// It leaves it where it is in one turn, and reads it in the next.
    Apart,
}

/// A machine of one processor, and how many packets come by each of its queues in a turn.
struct Bench {
    machine: Processor,
    frame: usize,
    kinds: Vec<(u32, Way)>,
}

/// What turns of one kind are made of, on average, and nanoseconds that they took in each round.
#[derive(Default)]
struct Row {
    parts: [f64; PARTS],
    rounds: Vec<f64>,
}

/// Learns what stages, looks, turns cost on this host, on as many threads at once as the machine has
/// processors with a queue, but no more than the host has. `app`: what the reader does with each packet, in nanoseconds. What an
/// interrupt costs stays as `spec` has it.
///
/// # Errors
/// The machine can not be.
pub fn learn(spec: &Spec, app: f64) -> Result<Learnt, SpecError> {
    spec.check()?;
    let host = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let several = Spec { cpus: spec.cpus.min(host), ..spec.clone() };
    let each = threads(&several, |_| on_this_thread(spec, app))?;
    let n = each.len() as f64;
    let mean = |of: &dyn Fn(&Costs) -> f64| each.iter().map(|l| of(&l.costs)).sum::<f64>() / n;
    let mut costs = spec.costs.clone();
    for at in 0..costs.stage.len() {
        costs.stage[at] = mean(&|c| c.stage[at]);
    }
    costs.turn = mean(&|c| c.turn);
    costs.poll = mean(&|c| c.poll);
    costs.read = mean(&|c| c.read);
    costs.miss = mean(&|c| c.miss);
    costs.byte = mean(&|c| c.byte);
    costs.app = mean(&|c| c.app);
    Ok(Learnt { costs, off: each.iter().map(|l| l.off).fold(0.0, f64::max) })
}

fn on_this_thread(spec: &Spec, app: f64) -> Result<Learnt, SpecError> {
    let mut benches = benches(spec, app)?;
    let mut rows: Vec<Vec<Row>> = benches.iter().map(Bench::rows).collect();
    for _ in 0..ROUNDS {
        for (bench, rows) in benches.iter_mut().zip(&mut rows) {
            bench.round(rows)?;
        }
    }
    let rows: Vec<Row> = rows.into_iter().flatten().collect();
    let measured: Vec<([f64; PARTS], f64)> =
        rows.iter().map(|row| (row.parts, median(row.rounds.clone()))).collect();
    let parts = least_squares(&measured);
    let off = measured.iter().map(|(x, ns)| (dot(x, &parts) / ns - 1.0).abs()).fold(0.0, f64::max);
    let [turn, poll, path, read, miss, byte] = parts;
    // What the application does is a part of what reading took.
    let app = app.min(read);
    let mut costs = Costs { turn, poll, miss, byte, app, read: read - app, ..spec.costs.clone() };
    costs.stage = stages(&mut benches[0], path)?;
    Ok(Learnt { costs, off })
}

/// The machine asked for first, and others that differ from it.
fn benches(spec: &Spec, app: f64) -> Result<Vec<Bench>, SpecError> {
    use Way::{Apart, Reads};
    let own: &[(u32, Way)] = &[(0, Reads), (1, Reads), (8, Reads), (32, Reads), (64, Reads)];
    let alone: &[(u32, Way)] =
        &[(0, Reads), (1, Reads), (2, Reads), (4, Reads), (16, Reads), (8, Apart), (48, Apart)];
    let two: &[(u32, Way)] = &[(0, Reads), (1, Reads), (4, Reads), (16, Reads), (32, Reads)];
    let few: &[(u32, Way)] = &[(4, Reads), (32, Reads)];
    let other = if spec.frame > 700 { 60 } else { 1514 };
    let shapes = [
        (1, spec.frame, spec.flows, own),
        (1, spec.frame, FEW, alone),
        (2, spec.frame, FEW, two),
        (1, other, FEW, few),
        (1, spec.frame, MANY, few),
    ];
    let bench = |(queues, frame, flows, kinds): (usize, usize, usize, &[(u32, Way)])| {
        let one = Spec { cpus: 1, queues, frame, flows, ring: 1024, ..spec.clone() };
        let machine = Processor::new(&one, 0, app, Time::Thread)?;
        Ok(Bench { machine, frame, kinds: kinds.to_vec() })
    };
    shapes.into_iter().map(bench).collect()
}

impl Bench {
    /// Rows for its kinds; those whose reader reads apart have two.
    fn rows(&self) -> Vec<Row> {
        let rows = self.kinds.iter().map(|(_, way)| if *way == Way::Apart { 2 } else { 1 }).sum();
        (0..rows).map(|_| Row::default()).collect()
    }

    /// Measures every kind once.
    fn round(&mut self, rows: &mut [Row]) -> Result<(), SpecError> {
        let mut rows = rows.iter_mut();
        for (each, way) in self.kinds.clone() {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            let before = self.counted();
            // The first turns find caches as others left them.
            for n in 0..TURNS + TURNS / 8 {
                let keep = n >= TURNS / 8;
                self.timed(each, way == Way::Apart, keep.then_some(&mut first))?;
                if way == Way::Apart {
                    self.timed(0, false, keep.then_some(&mut second))?;
                }
            }
            let turns = (TURNS + TURNS / 8) as f64;
            let after = self.counted();
            let part = |at: usize| (after[at] - before[at]) as f64 / turns;
            let (looks, came, read, missed) = (part(0), part(1), part(2), part(3));
            let bytes = came * self.frame as f64;
            let Some(row) = rows.next() else { break };
            if way == Way::Reads {
                row.note([1.0, looks, came, read, missed, bytes], first);
                continue;
            }
            row.note([1.0, looks / 2.0, came, 0.0, missed, bytes], first);
            let Some(row) = rows.next() else { break };
            row.note([1.0, looks / 2.0, 0.0, read, 0.0, 0.0], second);
        }
        Ok(())
    }

    /// One turn; what it took is noted unless somebody else had the processor meanwhile.
    fn timed(
        &mut self,
        each: u32,
        hold: bool,
        times: Option<&mut Vec<f64>>,
    ) -> Result<(), SpecError> {
        let machine = &mut self.machine;
        machine.sources.iter().for_each(|s| s.give(each));
        machine.app.holds = hold;
        let (begun, (_, gaps)) = (machine.now(), machine.taken());
        machine.turn()?;
        let took = machine.now() - begun;
        if let Some(times) = times
            && machine.taken().1 == gaps
        {
            times.push(took as f64);
        }
        Ok(())
    }

    /// Looks at rings, packets that came, packets read, packets of flows that had not come lately.
    fn counted(&self) -> [u64; 4] {
        let sum = |of: fn(&Source) -> u64| self.machine.sources.iter().map(of).sum::<u64>();
        let read = self.machine.app.delivered;
        [sum(Source::looks), sum(Source::offered), read, sum(Source::missed)]
    }
}

impl Row {
    fn note(&mut self, parts: [f64; PARTS], times: Vec<f64>) {
        self.parts = parts;
        if times.is_empty() {
            return;
        }
        // An interrupt of the host lengthens a turn now and then, and is no part of it.
        let most = 3.0 * median(times.clone());
        let kept: Vec<f64> = times.into_iter().filter(|ns| *ns <= most).collect();
        self.rounds.push(kept.iter().sum::<f64>() / kept.len().max(1) as f64);
    }
}

/// The one in the middle; 1 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(1.0)
}

fn dot(x: &[f64; PARTS], parts: &[f64; PARTS]) -> f64 {
    x.iter().zip(parts).map(|(a, b)| a * b).sum()
}

/// What each part costs, none of them less than nothing, so that the sum of squares of what rows are off, each
/// by its own size, is least.
fn least_squares(rows: &[([f64; PARTS], f64)]) -> [f64; PARTS] {
    let mut used: Vec<usize> =
        (0..PARTS).filter(|at| rows.iter().any(|(x, _)| x[*at] > 0.01)).collect();
    loop {
        let solved = solve(rows, &used);
        let least = solved.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
        match least {
            Some((at, ns)) if *ns < 0.0 => drop(used.remove(at)),
            _ => {
                let mut all = [0.0; PARTS];
                used.iter().zip(solved).for_each(|(at, ns)| all[*at] = ns);
                return all;
            }
        }
    }
}

/// The normal equations of the parts `used`, by elimination.
fn solve(rows: &[([f64; PARTS], f64)], used: &[usize]) -> Vec<f64> {
    let n = used.len();
    let mut m = vec![vec![0.0; n + 1]; n];
    for (x, ns) in rows {
        let weight = 1.0 / (ns * ns);
        for (i, a) in used.iter().enumerate() {
            for (j, b) in used.iter().enumerate() {
                m[i][j] += weight * x[*a] * x[*b];
            }
            m[i][n] += weight * x[*a] * ns;
        }
    }
    for at in 0..n {
        let pivot = (at..n).max_by(|a, b| m[*a][at].abs().total_cmp(&m[*b][at].abs()));
        m.swap(at, pivot.unwrap_or(at));
        if m[at][at].abs() < 1e-300 {
            continue;
        }
        let row = m[at].clone();
        for (i, other) in m.iter_mut().enumerate().filter(|(i, _)| *i != at) {
            debug_assert!(i != at);
            let factor = other[at] / row[at];
            other.iter_mut().zip(&row).for_each(|(a, b)| *a -= factor * b);
        }
    }
    (0..n).map(|i| if m[i][i].abs() < 1e-300 { 0.0 } else { m[i][n] / m[i][i] }).collect()
}

/// Shares of the stages in what a packet costs on its way, `path` nanoseconds. What is in no stage that is
/// timed (copying the frame, the loops around them) is [`Stage::Ring`]'s.
fn stages(bench: &mut Bench, path: f64) -> Result<[f64; Stage::ALL.len()], SpecError> {
    let counts = std::sync::Arc::clone(&bench.machine.drive.shard.net.counts);
    let timed = |s: &Stage| {
        let flow = counts.flow(*s).read();
        (flow.ns, flow.ns_pkts)
    };
    let was: Vec<(u64, u64)> = Stage::ALL.iter().map(timed).collect();
    // One batch of sixty-one is timed stage by stage.
    for _ in 0..61 * 40 {
        bench.timed(32, false, None)?;
    }
    let mut stage = [0.0; Stage::ALL.len()];
    for (at, s) in Stage::ALL.iter().enumerate() {
        let (ns, pkts) = timed(s);
        let (ns, pkts) = (ns - was[at].0, pkts - was[at].1);
        stage[at] = if pkts == 0 { 0.0 } else { ns as f64 / pkts as f64 };
    }
    // The clock that times the stages is read between them: no stage took what the whole did not.
    let sum: f64 = stage.iter().sum();
    if sum > path * 0.8 {
        stage.iter_mut().for_each(|ns| *ns *= path * 0.8 / sum);
    }
    stage[Stage::Ring as usize] += path - stage.iter().sum::<f64>();
    // Stages that this load did not meet.
    let defaults = Costs::default();
    for s in [Stage::Steer, Stage::Backlog] {
        if stage[s as usize] == 0.0 {
            stage[s as usize] = defaults.stage[s as usize];
        }
    }
    Ok(stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts are found again in what was made of them, also where one of them is not there.
    #[test]
    fn least_squares_find_what_rows_are_made_of() {
        let costs = [400.0, 60.0, 120.0, 80.0, 7.0, 0.05];
        let mut rows = Vec::new();
        for n in 0..40u32 {
            let (looks, k) = (f64::from(n % 3 + 1), f64::from(n * 7 % 33));
            let read = if n % 2 == 0 { k } else { 0.0 };
            let missed = if n % 5 == 0 { k / 2.0 } else { 0.0 };
            let x = [1.0, looks, k, read, missed, k * if n % 4 == 0 { 1514.0 } else { 60.0 }];
            rows.push((x, dot(&x, &costs)));
        }
        let found = least_squares(&rows);
        for (found, cost) in found.iter().zip(&costs) {
            assert!((found - cost).abs() < 1e-6 * cost.max(1.0), "{found} {cost}");
        }
        // A clock that is off by a little makes no cost negative.
        rows.iter_mut().enumerate().for_each(|(n, (x, ns))| {
            (x[4], *ns) = (0.0, *ns * (1.0 + 0.02 * (n % 3) as f64) - x[4] * 7.0);
        });
        let found = least_squares(&rows);
        assert!(found.iter().all(|ns| *ns >= 0.0) && found[4] == 0.0, "{found:?}");
        assert!((found[2] / 120.0 - 1.0).abs() < 0.2, "{found:?}");
    }

    #[test]
    fn what_is_learnt_says_what_turns_took() {
        let spec = Spec { ..super::super::tests::spec() };
        let learnt = learn(&Spec { queues: 1, cpus: 1, ..spec }, 500.0).expect("a machine");
        let costs = &learnt.costs;
        // The application's part was made to last that long where nothing else runs.
        assert!(costs.good() && costs.packet(60) > 250.0, "{costs:?}");
        assert!(learnt.off.is_finite(), "{learnt:?}");
    }
}
