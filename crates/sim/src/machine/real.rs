//! The same machine for real: each processor a thread, with the same card, loop and reader as on paper.
//!
//! Its time is the thread's own (see [`ThreadTime`]): whatever else runs on this host makes it slower, but
//! takes no time away. Or its time is counted: what it does costs what the [`super::Costs`] say, and
//! nothing else does; then it has to do exactly what the machine on paper does.

use std::io;
use std::sync::Arc;

use linerate_core::table::{Reason, Stage};
use linerate_dev::drive::{Drive, VirtualClock};

use super::flows::Flows;
use super::meter::Meter;
use super::reader::Reader;
use super::source::Source;
use super::time::{Clock, ThreadTime, thread_ns};
use super::{
    Latency, Outcome, Reading, STEP, Spec, SpecError, attach, newly_dropped, shard, sum_up,
};

/// Steps that each need the one before: a multiplication and an `or`.
pub(super) fn chain(steps: u64) {
    let mut x = std::hint::black_box(0x9e37_79b9_7f4a_7c15u64);
    for _ in 0..steps {
        x = x.wrapping_mul(x | 1);
    }
    std::hint::black_box(x);
}

/// How many steps of [`chain`] last so many nanoseconds, where nothing else runs.
pub(super) fn steps(ns: f64) -> u64 {
    use std::sync::OnceLock;
    const N: u64 = 100_000;
    static LEAST: OnceLock<u64> = OnceLock::new();
    let least = LEAST.get_or_init(|| {
        let times = (0..50).map(|_| {
            let begun = thread_ns();
            chain(N);
            thread_ns() - begun
        });
        times.min().unwrap_or(1).max(1)
    });
    (ns * N as f64 / *least as f64) as u64
}

/// What the time of a processor is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Time {
    /// The thread's own.
    Thread,
    /// What is counted.
    Counted,
}

/// A processor of a machine, with the queues and the load that are its own, on this thread.
pub(super) struct Processor {
    pub drive: Drive,
    pub app: Reader,
    pub sources: Vec<Source>,
    time: Clock,
    dropped: u64,
    /// Where it lost its first packet, and when.
    first: Option<(Stage, Reason, u64)>,
}

impl Processor {
    /// `app`: what the reader does with each packet, in nanoseconds.
    pub fn new(spec: &Spec, cpu: usize, app: f64, time: Time) -> Result<Processor, SpecError> {
        let flows = Flows::new(spec);
        let shard = shard(spec, cpu)?;
        let time = match time {
            Time::Thread => {
                let time = ThreadTime::default();
                time.expect(longest_step(spec) + app);
                Clock::Thread(time)
            }
            Time::Counted => {
                let clock = VirtualClock::default();
                let meter = Meter::new(spec, clock.clone(), Arc::clone(&shard.net.counts));
                Clock::Virtual(clock, meter)
            }
        };
        let mut drive = Drive::new(shard)?;
        // The loop polls, so that it never sleeps: its time would stand still.
        for (path, value) in polls() {
            let set = drive.shard.set_knob(path, value);
            set.map_err(|e| SpecError::Knob(path.to_owned(), e.to_string()))?;
        }
        let mine = (0..spec.queues).filter(|q| q % spec.cpus == cpu);
        let sources = mine.map(|queue| Source::new(spec, &flows, queue, time.clone()));
        let mut sources = sources.collect::<io::Result<Vec<_>>>()?;
        if sources.is_empty() {
            sources.push(Source::silent(spec, cpu, time.clone())?);
        }
        // It would sleep after a second without work: a busy host may well keep it waiting for so long.
        sources.iter().try_for_each(Source::stay_raised)?;
        let app = attach(&mut drive, &sources, time.clone(), app)?;
        Ok(Processor { drive, app, sources, time, dropped: 0, first: None })
    }

    /// Nanoseconds of its time.
    pub fn now(&self) -> u64 {
        self.time.now()
    }

    /// Nanoseconds for which others had the processor, and how often they took it.
    pub fn taken(&self) -> (u64, u64) {
        match &self.time {
            Clock::Thread(time) => (time.taken(), time.gaps()),
            Clock::Virtual(..) => (0, 0),
        }
    }

    /// One turn of its loop.
    pub fn turn(&mut self) -> io::Result<()> {
        let begun = match &self.time {
            Clock::Virtual(clock, _) => clock.now(),
            Clock::Thread(_) => 0,
        };
        self.drive.turn(&mut self.app)?;
        if let Clock::Virtual(clock, meter) = &self.time {
            meter.turn_over();
            if clock.now() == begun {
                clock.advance(STEP);
            }
        }
        if let Some((stage, why)) = newly_dropped(&self.drive.shard, &mut self.dropped)
            && self.first.is_none()
        {
            self.first = Some((stage, why, self.time.now()));
        }
        Ok(())
    }

    fn turns(&mut self, ns: u64) -> io::Result<()> {
        let end = self.now() + ns;
        while self.now() < end {
            self.turn()?;
        }
        Ok(())
    }

    fn reading(&self) -> Reading {
        Reading::of(&self.drive.shard, &self.app, &self.sources, self.time.now(), 0)
    }

    /// Runs for as long as the machine does.
    fn run(mut self, spec: &Spec, cpu: usize) -> Result<(Outcome, u64), SpecError> {
        self.turns(spec.warm)?;
        let before = self.reading();
        self.app.latency = Latency::default();
        self.first = None;
        self.turns(spec.time)?;
        let after = self.reading();
        let first = self.first.map(|(stage, why, at)| (stage, why, cpu, at));
        let mut out = sum_up(&[(before, after)], first, spec.warm);
        out.latency.add(&self.app.latency);
        Ok((out, self.taken().0))
    }
}

/// Nanoseconds that the loop works without a look at the clock: what a look at a ring gives at once, and the
/// turn around it.
fn longest_step(spec: &Spec) -> f64 {
    let costs = &spec.costs;
    // What was not measured yet may be far from what is known.
    let slow = if cfg!(debug_assertions) { 10.0 } else { 1.0 };
    (64.0 * (costs.packet(spec.frame) - costs.app - costs.read) + costs.turn + costs.poll)
        .clamp(5_000.0, 100_000.0)
        * slow
}

/// Knobs by which a loop polls, and no pass ends because of its time: the loop's own clock is the host's.
#[must_use]
pub fn polls() -> [(&'static str, &'static str); 2] {
    [("net.core.busy_poll", "1000000"), ("net.core.netdev_budget_usecs", "10000000")]
}

/// Runs the machine for real: the processors that have a queue, each on a thread of its own, for the time of
/// `spec` as that thread has it. They poll and never sleep; packets that `rps_cpus` would send elsewhere
/// stay where they are. Returns what became of the load, and for how many nanoseconds others had
/// the processors.
///
/// # Errors
/// The machine can not be.
pub fn real(spec: &Spec) -> Result<(Outcome, u64), SpecError> {
    all(spec, Time::Thread)
}

/// The same, but what is done costs what `spec` says, and time is the sum of that.
///
/// # Errors
/// The machine can not be.
pub fn counted(spec: &Spec) -> Result<Outcome, SpecError> {
    Ok(all(spec, Time::Counted)?.0)
}

fn all(spec: &Spec, time: Time) -> Result<(Outcome, u64), SpecError> {
    spec.check()?;
    let each =
        threads(spec, |cpu| Processor::new(spec, cpu, spec.costs.app, time)?.run(spec, cpu))?;
    let (mut sum, mut taken) = (Outcome::default(), 0);
    for (out, lost) in &each {
        sum.add(out);
        taken += lost;
    }
    Ok((sum, taken))
}

/// Lets every processor that has a queue do something, all at once.
pub(super) fn threads<T: Send>(
    spec: &Spec,
    work: impl Fn(usize) -> Result<T, SpecError> + Sync,
) -> Result<Vec<T>, SpecError> {
    let work = &work;
    std::thread::scope(|scope| {
        let cpus = 0..spec.cpus.min(spec.queues);
        let threads: Vec<_> = cpus.map(|cpu| scope.spawn(move || work(cpu))).collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, _>| {
            t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}
