//! One processor of the machine for real: the same card, loop and reader, by the time that the thread
//! had a processor. Whatever else runs on this host changes the figures little.

use std::io;
use std::sync::Arc;

use linerate_core::table::Stage;
use linerate_dev::drive::Drive;

use super::meter::Costs;
use super::source::{Clock, Flows, Source, thread_ns};
use super::{Outcome, Reading, Spec, SpecError, attach, each_drop, shard};

/// Steps that each need the one before: a multiplication and an `or`.
pub(super) fn chain(steps: u64) {
    let mut x = std::hint::black_box(0x9e37_79b9_7f4a_7c15u64);
    for _ in 0..steps {
        x = x.wrapping_mul(x | 1);
    }
    std::hint::black_box(x);
}

/// How many steps of [`chain`] last so many nanoseconds.
pub(super) fn steps(ns: f64) -> u64 {
    const N: u64 = 1_000_000;
    let least = (0..5).map(|_| {
        let begun = thread_ns();
        chain(N);
        thread_ns() - begun
    });
    (ns * N as f64 / least.min().unwrap_or(1).max(1) as f64) as u64
}

/// A processor of a machine, with the queues and the load that are its own.
fn processor(
    spec: &Spec,
    cpu: usize,
    app: f64,
) -> Result<(Drive, super::Reader, Vec<Source>), SpecError> {
    spec.check()?;
    let flows = Flows::new(spec);
    let mut drive = Drive::new(shard(spec, cpu)?)?;
    // The loop polls, so that it never sleeps: its time would stand still.
    let busy = drive.shard.set_knob("net.core.busy_poll", "1000000");
    busy.map_err(|e| SpecError::Knob("net.core.busy_poll".to_owned(), e.to_string()))?;
    let mine = (0..spec.queues).filter(|q| q % spec.cpus == cpu);
    let sources = mine.map(|queue| Source::new(spec, &flows, queue, Clock::Thread));
    let mut sources = sources.collect::<io::Result<Vec<_>>>()?;
    if sources.is_empty() {
        sources.push(Source::silent(spec, cpu, Clock::Thread)?);
    }
    let reader = attach(&mut drive, &sources, Clock::Thread, app)?;
    Ok((drive, reader, sources))
}

fn reading(drive: &Drive, app: &super::Reader, sources: &[Source]) -> Reading {
    Reading {
        offered: sources.iter().map(Source::offered).sum(),
        delivered: app.delivered,
        busy: 0,
        at: thread_ns(),
        drops: each_drop(&drive.shard).collect(),
        counters: super::COUNTERS.map(|id| drive.shard.net.counts.get(id)),
    }
}

fn turns(drive: &mut Drive, app: &mut super::Reader, ns: u64) -> io::Result<()> {
    let end = thread_ns() + ns;
    while thread_ns() < end {
        drive.turn(app)?;
    }
    Ok(())
}

/// Runs processor `cpu` of the machine for real, with the load that is its own. It polls and never
/// sleeps; packets that `rps_cpus` would send elsewhere stay here.
///
/// # Errors
/// The machine can not be.
pub fn real(spec: &Spec, cpu: usize) -> Result<Outcome, SpecError> {
    let (mut drive, mut app, sources) = processor(spec, cpu, spec.costs.app)?;
    turns(&mut drive, &mut app, spec.warm)?;
    let before = reading(&drive, &app, &sources);
    app.latency = super::Latency::default();
    turns(&mut drive, &mut app, spec.time)?;
    let after = reading(&drive, &app, &sources);
    let mut out = Outcome {
        offered: after.offered - before.offered,
        delivered: after.delivered - before.delivered,
        latency: app.latency.clone(),
        ..Outcome::default()
    };
    for (stage, why, n) in after.drops {
        let old = before.drops.iter().find(|d| (d.0, d.1) == (stage, why)).map_or(0, |d| d.2);
        out.drops.push((stage, why, n - old));
    }
    out.drops.retain(|d| d.2 > 0);
    Ok(out)
}

/// Learns from this machine what stages and turns cost: `spec`'s first processor runs for `spec.time`
/// with a ring that is always full, and then with an empty one. The interrupt's and the application's
/// cost stay as `spec` has them.
///
/// What is not in a stage that is timed (copying the frame, the loop around it) is [`Stage::Ring`]'s.
///
/// # Errors
/// The machine can not be.
pub fn learn(spec: &Spec) -> Result<Costs, SpecError> {
    let (mut drive, mut app, sources) = processor(spec, 0, 0.0)?;
    sources.iter().for_each(Source::keep_full);
    turns(&mut drive, &mut app, spec.time / 4)?;
    let counts = Arc::clone(&drive.shard.net.counts);
    let timed = |s: &Stage| {
        let flow = counts.flow(*s).read();
        (flow.ns, flow.ns_pkts)
    };
    let was: Vec<(u64, u64)> = Stage::ALL.iter().map(timed).collect();
    let (begun, read) = (thread_ns(), app.delivered);
    turns(&mut drive, &mut app, spec.time)?;
    let all = (thread_ns() - begun) as f64 / (app.delivered - read).max(1) as f64;
    let mut costs = Costs { stage: Default::default(), ..spec.costs.clone() };
    for (at, stage) in Stage::ALL.iter().enumerate() {
        let (ns, pkts) = timed(stage);
        let (ns, pkts) = (ns - was[at].0, pkts - was[at].1);
        costs.stage[at] = if pkts == 0 { 0.0 } else { ns as f64 / pkts as f64 };
    }
    // The clock that times the stages is read between them: no stage took what the whole did not.
    let sum: f64 = costs.stage.iter().sum();
    if sum > all * 0.8 {
        costs.stage.iter_mut().for_each(|ns| *ns *= all * 0.8 / sum);
    }
    costs.stage[Stage::Ring as usize] += all - costs.stage.iter().sum::<f64>();
    // Stages that this load did not meet.
    let defaults = Costs::default();
    for stage in [Stage::Steer, Stage::Backlog] {
        let own = &mut costs.stage[stage as usize];
        if *own == 0.0 {
            *own = defaults.stage[stage as usize];
        }
    }
    costs.turn = empty_turn(spec)?;
    Ok(costs)
}

/// Nanoseconds of a turn that finds nothing.
fn empty_turn(spec: &Spec) -> Result<f64, SpecError> {
    let (mut drive, mut app, _) = processor(&Spec { pps: 1.0, ..spec.clone() }, 0, 0.0)?;
    const TURNS: u64 = 20_000;
    (0..TURNS / 10).try_for_each(|_| drive.turn(&mut app))?;
    let begun = thread_ns();
    (0..TURNS).try_for_each(|_| drive.turn(&mut app))?;
    Ok((thread_ns() - begun) as f64 / TURNS as f64)
}
