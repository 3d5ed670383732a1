//! A host on paper: network card, processors, readers; driven by the real loop under virtual time.
//!
//! Each processor has a [`Drive`] with its [`Shard`]: rings, NAPI, budgets, steering, backlog and
//! sockets are the code that serves real devices. What differs is the clock. Work moves it by what the
//! [`Costs`] say, packets arrive when it says so, and the processor whose clock is behind goes next.
//!
//! | file | what |
//! |---|---|
//! | `source.rs` | the card: its queues, what arrives when, and what finds the ring full |
//! | `flows.rs` | who sends: flows, their frames, and which queue each comes by |
//! | `time.rs` | what time it is, on paper and for a thread |
//! | `meter.rs` | what the work of a processor costs |
//! | `reader.rs` | the application: one reader on each processor |
//! | `latency.rs` | how long packets took from their arrival until they were read |
//! | `real.rs` | the same machine on threads, by their own time or by what is counted, to compare with |
//! | `learn.rs` | what the work costs on this host |
//! | `outcome.rs` | what became of what was offered |
//!
//! Not modelled: caches that processors share, the bus, the time that an interrupt takes to arrive,
//! transmission.

mod flows;
mod latency;
mod learn;
mod meter;
mod outcome;
mod reader;
mod real;
mod source;
mod time;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use linerate_core::rx::steer::Mesh;
use linerate_core::rx::steer::mesh::SHARDS_MAX;
use linerate_core::shard::Shard;
use linerate_core::table::{Reason, Stage};
use linerate_dev::drive::{Drive, VirtualClock};

pub use latency::Latency;
pub use learn::{Learnt, learn};
pub use meter::Costs;
pub use outcome::Outcome;
pub use real::{counted, polls, real};
pub use source::Arrivals;

use flows::Flows;
use meter::Meter;
use outcome::{Reading, newly_dropped, sum_up};
use reader::Reader;
use source::Source;
use time::Clock;

/// The readers' address.
const ADDR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The readers' port.
const PORT: u16 = 9;

/// Packets that all rings together may hold: each that waits takes memory here, too.
const RINGS_MAX: usize = 1 << 22;

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
    /// Whether such a machine can be; knobs are looked at when it runs.
    ///
    /// # Errors
    /// A part of it is out of its range.
    pub fn check(&self) -> Result<(), SpecError> {
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
        if self.queues * self.ring > RINGS_MAX {
            return wrong("all rings together", "no more than 4194304 packets");
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
    /// Where it lost its first packet of those that count, and when.
    first: Option<(Stage, Reason, u64)>,
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
    let mut told = 0_u64;
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
        told += 1;
        if told.is_multiple_of(TOLD) {
            progress(now as f64 / end as f64);
        }
        let others = cpus.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, c)| c.clock.now());
        let horizon = others.min().unwrap_or(end);
        cpus[at].turn(now, horizon, end)?;
        cpus[at].note_drop(begun.is_some());
    }
    let after = read_all(&cpus);
    let before = begun.unwrap_or_else(|| read_all(&cpus));
    let each: Vec<(Reading, Reading)> = before.into_iter().zip(after).collect();
    let firsts = cpus.iter().enumerate().filter_map(|(at, c)| c.first.map(|f| (f.0, f.1, at, f.2)));
    let mut out = sum_up(&each, firsts.min_by_key(|f| f.3), spec.warm);
    cpus.iter().for_each(|c| out.latency.add(&c.app.latency));
    Ok(out)
}

/// Turns after which it is said how far the run is.
const TOLD: u64 = 4096;

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

    /// Sees whether a packet was dropped; `counts`: those count by now.
    fn note_drop(&mut self, counts: bool) {
        let new = newly_dropped(&self.drive.shard, &mut self.dropped);
        if let Some((stage, why)) = new.filter(|_| counts && self.first.is_none()) {
            self.first = Some((stage, why, self.clock.now()));
        }
    }
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
    let meter = Meter::new(spec, clock.clone(), Arc::clone(&shard.net.counts));
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
    Ok(Cpu { drive, app, clock, meter, sources, dropped: 0, first: None })
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

fn read_all(cpus: &[Cpu]) -> Vec<Reading> {
    let read =
        |c: &Cpu| Reading::of(&c.drive.shard, &c.app, &c.sources, c.clock.now(), c.meter.charged());
    cpus.iter().map(read).collect()
}

#[cfg(test)]
mod tests;
