//! The clock of a loop: the machine's, or one that a test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant as Wall;

/// Time that only moves when somebody moves it. Clones are the same clock.
///
/// A loop on such a clock never sleeps: where it would, it moves the clock to the end of the wait.
/// Devices and applications of a test move it by what their work is to cost.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    /// Nanoseconds since its start.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves it on by so many nanoseconds.
    pub fn advance(&self, ns: u64) {
        self.0.fetch_add(ns, Ordering::Relaxed);
    }
}

/// What a loop takes its time from.
pub(super) enum LoopClock {
    /// The machine's monotonic clock, from the loop's start on.
    Wall(Wall),
    /// A test's.
    Virtual(VirtualClock),
}

impl LoopClock {
    /// Nanoseconds since the start.
    pub(super) fn ns(&self) -> u64 {
        match self {
            LoopClock::Wall(start) => start.elapsed().as_nanos() as u64,
            LoopClock::Virtual(clock) => clock.now(),
        }
    }
}

/// Nanoseconds of a monotonic clock, for timing stages.
pub fn clock_ns() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Wall> = OnceLock::new();
    START.get_or_init(Wall::now).elapsed().as_nanos() as u64
}
