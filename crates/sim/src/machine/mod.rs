//! A host on paper: network card, processors, readers; driven by the real loop under virtual time.
//!
//! Each processor has a [`Drive`] with its [`Shard`]: rings, NAPI, budgets, steering, backlog and
//! sockets are the code that serves real devices. What differs is the clock. Work moves it by what the
//! [`Costs`] say, packets arrive when it says so, and the processor whose clock is behind goes next.
//!
//! | file | what |
//! |---|---|
//! | `source.rs` | the card: its queues, what arrives when, and what finds the ring full |
//! | `meter.rs` | what the work of a processor costs |
//! | `reader.rs` | the application: one reader on each processor |
//! | `latency.rs` | how long packets took from their arrival until they were read |
//! | `real.rs` | one processor of the same machine by the thread's own time, to compare with and to learn costs from |
//!
//! Not modelled: caches that processors share, the bus, the time that an interrupt takes to arrive,
//! transmission.

mod latency;
mod meter;
mod reader;
mod real;
mod source;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use linerate_core::rx::steer::Mesh;
use linerate_core::rx::steer::mesh::SHARDS_MAX;
use linerate_core::shard::Shard;
use linerate_core::table::{Counter, Reason, Stage};
use linerate_dev::drive::{Drive, VirtualClock};

pub use latency::Latency;
pub use meter::Costs;
pub use real::{learn, real};
pub use source::Arrivals;

use meter::Meter;
use reader::Reader;
use source::{Clock, Flows, Source};

/// The readers' address.
const ADDR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The readers' port.
const PORT: u16 = 9;

/// A machine, and what comes to it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Receive queues of the card, 1 to 64.
    pub queues: usize,
    /// Packets that each of its rings holds, 1 to 1 048 576.
    pub ring: usize,
    /// Processors, 1 to 64. Queue `n` interrupts processor `n` modulo their number; what `rps_cpus` sends
    /// on may go to any.
    pub cpus: usize,
    /// Packets per second, all flows together.
    pub pps: f64,
    /// Bytes of each frame on the wire without its check sum, 60 to 1514.
    pub frame: usize,
    /// Flows, 1 to 1 000 000: UDP, all with the same rate.
    pub flows: usize,
    /// When packets come.
    pub arrivals: Arrivals,
    /// Knobs by their paths, as `linerate set` takes them.
    pub knobs: Vec<(String, String)>,
    /// What everything costs.
    pub costs: Costs,
    /// Nanoseconds that are counted.
    pub time: u64,
    /// Nanoseconds before that, until queues are as full as they get.
    pub warm: u64,
    /// What arrival times and flows follow from.
    pub seed: u64,
}

/// Why a machine can not be.
#[derive(Debug)]
#[non_exhaustive]
pub enum SpecError {
    /// A part of it is out of its range.
    Range {
        /// Which.
        what: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// A knob is none, or does not take this value: which, and why.
    Knob(String, String),
    /// The system has no descriptors left.
    Io(io::Error),
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SpecError::Range { what, range } => write!(f, "{what} must be {range}"),
            SpecError::Knob(knob, why) => write!(f, "{knob}: {why}"),
            SpecError::Io(err) => write!(f, "{err}: allow more open files (ulimit -n)"),
        }
    }
}
impl std::error::Error for SpecError {}

impl From<io::Error> for SpecError {
    fn from(err: io::Error) -> SpecError {
        SpecError::Io(err)
    }
}

impl Spec {
    fn check(&self) -> Result<(), SpecError> {
        let wrong = |what, range| Err(SpecError::Range { what, range });
        if !(1..=SHARDS_MAX).contains(&self.queues) {
            return wrong("the number of queues", "1 to 64");
        }
        if !(1..=1 << 20).contains(&self.ring) {
            return wrong("the ring's size", "1 to 1048576 packets");
        }
        if !(1..=SHARDS_MAX).contains(&self.cpus) {
            return wrong("the number of processors", "1 to 64");
        }
        if !(self.pps >= 1.0 && self.pps <= 1e9) {
            return wrong("the rate", "1 pps to 1 Gpps");
        }
        if !(60..=1514).contains(&self.frame) {
            return wrong("the frame's size", "60 to 1514 bytes, the check sum not counted");
        }
        if !(1..=1_000_000).contains(&self.flows) {
            return wrong("the number of flows", "1 to 1000000");
        }
        if !(1_000_000..=3_600_000_000_000).contains(&self.time) {
            return wrong("the time", "1 ms to 1 h");
        }
        if !self.arrivals.good() {
            return wrong("the burst", "1 to 65536 packets");
        }
        if !self.costs.good() {
            return wrong("every cost", "0 to 1000000 ns");
        }
        Ok(())
    }
}

/// What became of what was offered.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Packets that came to the card.
    pub offered: u64,
    /// Packets that were read.
    pub delivered: u64,
    /// Packets that were lost, by stage and reason, the most first.
    pub drops: Vec<(Stage, Reason, u64)>,
    /// Where the first was lost: stage, reason, processor, nanoseconds after the beginning.
    pub first: Option<(Stage, Reason, usize, u64)>,
    /// Share of its time that each processor worked, 0 to 1.
    pub busy: Vec<f64>,
    /// From arrival to reader.
    pub latency: Latency,
    /// Polls that ended with work left: by number of packets, by time.
    pub squeezed: (u64, u64),
    /// Interrupts.
    pub irqs: u64,
}

impl Outcome {
    /// Share of the packets offered that was lost, 0 to 1.
    #[must_use]
    pub fn lost(&self) -> f64 {
        let lost: u64 = self.drops.iter().map(|(_, _, n)| n).sum();
        if self.offered == 0 { 0.0 } else { lost as f64 / self.offered as f64 }
    }
}

/// One processor.
struct Cpu {
    drive: Drive,
    app: Reader,
    clock: VirtualClock,
    meter: Meter,
    /// Its queues.
    sources: Vec<Source>,
    /// Packets dropped, all stages, when that was last looked at.
    dropped: u64,
}

/// Runs the machine: `progress` is told now and then how much of it is done, 0 to 1.
///
/// # Errors
/// The machine can not be; nothing ran then.
pub fn run(spec: &Spec, progress: &mut dyn FnMut(f64)) -> Result<Outcome, SpecError> {
    spec.check()?;
    let mut cpus = build(spec)?;
    let end = spec.warm + spec.time;
    let mut begun: Option<Vec<Reading>> = (spec.warm == 0).then(|| read_all(&cpus));
    let mut first = None;
    let mut told = 0;
    loop {
        let clocks = cpus.iter().map(|c| c.clock.now());
        let Some((at, now)) = clocks.enumerate().min_by_key(|(_, now)| *now) else { break };
        if now >= end {
            break;
        }
        if begun.is_none() && now >= spec.warm {
            begun = Some(read_all(&cpus));
            cpus.iter_mut().for_each(|c| c.app.latency = Latency::default());
        }
        if now - told > end / 50 {
            told = now;
            progress(now as f64 / end as f64);
        }
        let others = cpus.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, c)| c.clock.now());
        let horizon = others.min().unwrap_or(end);
        cpus[at].turn(now, horizon, end)?;
        if first.is_none() && begun.is_some() {
            first = cpus[at].first_drop().map(|(stage, why)| (stage, why, at, now));
        }
    }
    let before = begun.unwrap_or_else(|| read_all(&cpus));
    Ok(sum_up(spec, &cpus, &before, first))
}

/// The least that an idle processor moves on, in nanoseconds.
const STEP: u64 = 500;

impl Cpu {
    /// One turn of its loop. An idle one waits for its next packet, but no longer than the others may
    /// need to send it something.
    fn turn(&mut self, now: u64, horizon: u64, end: u64) -> io::Result<()> {
        let mut next = end;
        for source in &mut self.sources {
            next = next.min(source.tell(now)?);
        }
        self.app.wake = next.min(horizon.max(now + STEP));
        self.drive.turn(&mut self.app)?;
        self.meter.turn_over();
        // A turn without work, and without a wait, would stand still.
        if self.clock.now() == now {
            self.clock.advance(STEP);
        }
        Ok(())
    }

    /// Which drop is new since this was last asked.
    fn first_drop(&mut self) -> Option<(Stage, Reason)> {
        let counts = &self.drive.shard.net.counts;
        let dropped = |stage: &Stage| counts.flow(*stage).read().dropped;
        let all: u64 = Stage::ALL.iter().map(dropped).sum();
        if std::mem::replace(&mut self.dropped, all) == all {
            return None;
        }
        each_drop(&self.drive.shard).max_by_key(|(_, _, n)| *n).map(|(stage, why, _)| (stage, why))
    }
}

/// The drops of a shard, one by one.
fn each_drop(shard: &Shard) -> impl Iterator<Item = (Stage, Reason, u64)> {
    let counts = &shard.net.counts;
    let pairs = Stage::ALL.iter().flat_map(|s| Reason::ALL.iter().map(move |r| (*s, *r)));
    pairs.map(|(stage, why)| (stage, why, counts.drops_at(stage, why))).filter(|(_, _, n)| *n > 0)
}

/// A shard with the machine's knobs, its device's first queue and a reader.
fn build(spec: &Spec) -> Result<Vec<Cpu>, SpecError> {
    let flows = Flows::new(spec);
    let mesh = (spec.cpus > 1).then(|| Mesh::new(spec.cpus));
    (0..spec.cpus).map(|cpu| build_cpu(spec, &flows, mesh.as_ref(), cpu)).collect()
}

fn build_cpu(
    spec: &Spec,
    flows: &Flows,
    mesh: Option<&Arc<Mesh>>,
    cpu: usize,
) -> Result<Cpu, SpecError> {
    let clock = VirtualClock::default();
    let shard = shard(spec, cpu)?;
    let meter = Meter::new(spec.costs.clone(), clock.clone(), Arc::clone(&shard.net.counts));
    let mut drive = Drive::with_clock(shard, clock.clone())?;
    if let Some(mesh) = mesh {
        drive.join(mesh, cpu as u8);
    }
    let mine = (0..spec.queues).filter(|q| q % spec.cpus == cpu);
    let time = Clock::Virtual(clock.clone(), meter.clone());
    let mut sources = mine
        .map(|queue| Source::new(spec, flows, queue, time.clone()))
        .collect::<io::Result<Vec<_>>>()?;
    if sources.is_empty() {
        // The interface is there, but no queue of it comes here.
        sources.push(Source::silent(spec, cpu, time.clone())?);
    }
    let app = attach(&mut drive, &sources, time, spec.costs.app)?;
    Ok(Cpu { drive, app, clock, meter, sources, dropped: 0 })
}

/// A shard with the machine's knobs.
fn shard(spec: &Spec, cpu: usize) -> Result<Shard, SpecError> {
    let mut shard = Shard::new(spec.seed.wrapping_add(cpu as u64));
    for (path, value) in &spec.knobs {
        let set = shard.set_knob(path, value);
        set.map_err(|e| SpecError::Knob(path.clone(), e.to_string()))?;
    }
    Ok(shard)
}

/// Gives a loop its queues, its address and its reader.
fn attach(drive: &mut Drive, sources: &[Source], time: Clock, app: f64) -> io::Result<Reader> {
    let mut dev = None;
    for source in sources {
        match dev {
            None => dev = Some(drive.add_device(Box::new(source.queue()), |_| {})?),
            Some(number) => drive.add_queue(number, Box::new(source.queue()))?,
        }
    }
    let dev = dev.expect("every loop has a queue, if only a silent one");
    drive.shard.add_addr(dev, IpAddr::V4(ADDR), 16).expect("a new device takes any address");
    Ok(Reader::new(&mut drive.shard, PORT, time, app))
}

/// What a processor had counted at some time.
struct Reading {
    offered: u64,
    delivered: u64,
    busy: u64,
    at: u64,
    drops: Vec<(Stage, Reason, u64)>,
    counters: [u64; 3],
}

/// The counters of an [`Outcome`], in the order of its fields.
const COUNTERS: [Counter; 3] =
    [Counter::SoftnetSqueezeBudget, Counter::SoftnetSqueezeTime, Counter::IrqRx];

fn read_all(cpus: &[Cpu]) -> Vec<Reading> {
    cpus.iter()
        .map(|c| Reading {
            offered: c.sources.iter().map(Source::offered).sum(),
            delivered: c.app.delivered,
            busy: c.meter.charged(),
            at: c.clock.now(),
            drops: each_drop(&c.drive.shard).collect(),
            counters: COUNTERS.map(|id| c.drive.shard.net.counts.get(id)),
        })
        .collect()
}

fn sum_up(
    spec: &Spec,
    cpus: &[Cpu],
    before: &[Reading],
    first: Option<(Stage, Reason, usize, u64)>,
) -> Outcome {
    let after = read_all(cpus);
    let mut out = Outcome { first, ..Outcome::default() };
    let mut counters = [0; 3];
    for ((was, is), cpu) in before.iter().zip(&after).zip(cpus) {
        out.offered += is.offered - was.offered;
        out.delivered += is.delivered - was.delivered;
        let time = (is.at - was.at).max(1);
        out.busy.push(((is.busy - was.busy) as f64 / time as f64).min(1.0));
        out.latency.add(&cpu.app.latency);
        (0..3).for_each(|i| counters[i] += is.counters[i] - was.counters[i]);
        for (stage, why, n) in &is.drops {
            let old = was.drops.iter().find(|d| (d.0, d.1) == (*stage, *why)).map_or(0, |d| d.2);
            match out.drops.iter_mut().find(|d| (d.0, d.1) == (*stage, *why)) {
                Some(sum) => sum.2 += n - old,
                None => out.drops.push((*stage, *why, n - old)),
            }
        }
    }
    out.drops.retain(|d| d.2 > 0);
    out.drops.sort_by_key(|d| std::cmp::Reverse(d.2));
    out.squeezed = (counters[0], counters[1]);
    out.irqs = counters[2];
    out.first = out.first.map(|(s, r, cpu, at)| (s, r, cpu, at.saturating_sub(spec.warm)));
    out
}

#[cfg(test)]
mod tests;
