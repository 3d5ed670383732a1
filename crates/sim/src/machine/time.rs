//! What time it is on the machine: on paper, or for a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant as Wall;

use linerate_dev::drive::VirtualClock;

use super::meter::Meter;

/// What time it is for a queue and a reader.
#[derive(Clone)]
pub(super) enum Clock {
    /// The processor's on paper, and what moves it.
    Virtual(VirtualClock, Meter),
    /// The time that this thread had a processor.
    Thread(ThreadTime),
}

impl Clock {
    /// Nanoseconds.
    pub fn now(&self) -> u64 {
        match self {
            Clock::Virtual(clock, _) => clock.now(),
            Clock::Thread(time) => time.now(),
        }
    }

    /// What was done until now has cost what it does.
    pub fn charge(&self) {
        if let Clock::Virtual(_, meter) = self {
            meter.charge();
        }
    }

    /// A queue was looked at, and gave packets of so many flows that had not come lately.
    pub fn looked(&self, missed: u64) {
        if let Clock::Virtual(_, meter) = self {
            meter.looked(missed);
        }
    }
}

/// The longest step of the machine's clock that is believed until [`ThreadTime::expect`] says better, in
/// nanoseconds: no part of a turn takes longer, and whoever takes the processor keeps it for longer.
const STEP: u64 = if cfg!(debug_assertions) { 200_000 } else { 20_000 };

/// The time that one thread had a processor.
///
/// The kernel knows it, but asking costs more than a packet does. So it is the machine's monotonic clock
/// where two looks at it are close together, and the kernel is asked where they are not. The kernel does
/// not know when its own host, an interrupt or the switch of threads took the processor: of a step that is
/// too long no more is believed than what the loop may have done in it.
#[derive(Clone, Default)]
pub(super) struct ThreadTime(Arc<Inner>);

struct Inner {
    begun: Wall,
    now: AtomicU64,
    /// The machine's clock when it was last looked at.
    seen: AtomicU64,
    /// The kernel's answer when it was last asked, and what was believed since.
    cpu: AtomicU64,
    since: AtomicU64,
    /// Nanoseconds for which others had the processor.
    taken: AtomicU64,
    gaps: AtomicU64,
    /// The longest step that is believed.
    most: AtomicU64,
}

impl Default for Inner {
    fn default() -> Inner {
        let (now, seen, since, taken, gaps) = Default::default();
        let most = AtomicU64::new(STEP);
        let cpu = AtomicU64::new(thread_ns());
        Inner { begun: Wall::now(), now, seen, cpu, since, taken, gaps, most }
    }
}

impl ThreadTime {
    /// What the loop does between two looks at the clock takes so many nanoseconds at the most, where nothing
    /// disturbs it. Twice that is believed.
    pub fn expect(&self, ns: f64) {
        self.0.most.store((2.0 * ns) as u64, Relaxed);
    }

    /// Nanoseconds since it began. Only one thread asks.
    #[inline]
    pub fn now(&self) -> u64 {
        let time = &*self.0;
        let wall = time.begun.elapsed().as_nanos() as u64;
        let step = wall.saturating_sub(time.seen.load(Relaxed));
        time.seen.store(wall, Relaxed);
        if step > time.most.load(Relaxed) {
            return self.gap(step);
        }
        time.since.store(time.since.load(Relaxed) + step, Relaxed);
        let now = time.now.load(Relaxed) + step;
        time.now.store(now, Relaxed);
        now
    }

    #[cold]
    fn gap(&self, step: u64) -> u64 {
        let time = &*self.0;
        let cpu = thread_ns();
        let had = cpu.saturating_sub(time.cpu.load(Relaxed));
        let most = step.min(time.most.load(Relaxed) / 4);
        let own = had.saturating_sub(time.since.load(Relaxed)).min(most);
        time.cpu.store(cpu, Relaxed);
        time.since.store(0, Relaxed);
        time.taken.fetch_add(step - own, Relaxed);
        time.gaps.fetch_add(1, Relaxed);
        time.now.fetch_add(own, Relaxed) + own
    }

    /// Nanoseconds for which others had the processor.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Relaxed)
    }

    /// How often a step was too long to be believed.
    pub fn gaps(&self) -> u64 {
        self.0.gaps.load(Relaxed)
    }
}

/// Nanoseconds that this thread had a processor, as the kernel counts them.
pub(super) fn thread_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The natural logarithm of a number above 0 and up to 1. It is made of sums, products and quotients
/// alone, which are the same on every machine: so is a run.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    let mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    // ln(m) = 2 artanh((m - 1) / (m + 1)); at most a third, so that 16 terms are enough.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let series = (0..16).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * t * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for x in [1.0, 0.999_999, 0.75, 0.5, 0.1, 1e-3, 1e-16, 1.0 / (1u64 << 53) as f64] {
            let (own, known) = (ln(x), x.ln());
            assert!((own - known).abs() <= 1e-14 * known.abs().max(1.0), "{x}: {own} {known}");
        }
    }

    #[test]
    fn a_thread_that_sleeps_has_no_time() {
        let time = ThreadTime::default();
        let begun = time.now();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let slept = time.now() - begun;
        // However busy the machine is, falling asleep and waking up is not the most of it.
        assert!(slept < 100_000_000 && time.taken() > 100_000_000, "{slept}");
        assert!(time.gaps() > 0);
        let (begun, cpu) = (time.now(), thread_ns());
        while thread_ns() - cpu < 5_000_000 {
            time.now();
        }
        // Steps of others are left out, and little of one's own with them.
        let worked = time.now() - begun;
        assert!(worked >= 1_000_000, "{worked}");
    }
}
