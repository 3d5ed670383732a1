//! Interrupt moderation: fixed by the knobs, or following the load by itself.
//!
//! Linux: lib/dim/net_dim.c `net_dim`, `net_dim_decision`; include/linux/dim.h
//!
//! The controller climbs a hill. Over 64 interrupts at a time it measures bytes and packets per
//! second and interrupts per second, moves one step along a list of moderation profiles and looks
//! whether that was better: more bytes, or as many bytes in more packets, or as much of both with
//! fewer interrupts. As long as it was, it goes on in the same direction; else it turns round. On
//! a top, or when it has gone to and fro for long, it parks, and leaves when the load changes.

use linerate_core::time::{Instant, US};

/// Interrupts that one measurement lasts.
const EVENTS: u64 = 64;
/// Differences up to this many percent are noise.
const NOISE_PERCENT: u64 = 10;

/// One step of moderation: how long an interrupt waits, and how many packets end the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub usecs: u64,
    pub frames: u64,
}

const fn steps<const N: usize>(usecs: [u64; N], frames: u64) -> [Profile; N] {
    let mut all = [Profile { usecs: 0, frames }; N];
    let mut i = 0;
    while i < N {
        all[i].usecs = usecs[i];
        i += 1;
    }
    all
}

/// The profiles that most drivers take, for receiving.
pub(super) const RX: [Profile; 5] = steps([1, 8, 64, 128, 256], 256);
/// And for sending.
pub(super) const TX: [Profile; 5] = steps([1, 8, 32, 64, 128], 128);
/// The step that a controller begins with.
const START: usize = 1;

/// Which way the controller goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tune {
    ParkingOnTop,
    ParkingTired,
    GoingRight,
    GoingLeft,
}

/// What one measurement says beside the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trend {
    Same,
    Better,
    Worse,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Done,
    OnEdge,
    TooTired,
}

/// Rates of one measurement, per millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rates {
    bytes: u64,
    pkts: u64,
    events: u64,
}

/// Everything since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    events: u64,
    pkts: u64,
    bytes: u64,
}

/// The controller (`struct dim`).
#[derive(Debug)]
struct Dim {
    profiles: &'static [Profile],
    at: usize,
    tune: Tune,
    steps_right: u32,
    steps_left: u32,
    tired: usize,
    prev: Rates,
    begun: Instant,
    start: Totals,
}

impl Dim {
    fn new(profiles: &'static [Profile], now: Instant, start: Totals) -> Dim {
        Dim {
            profiles,
            at: START,
            tune: Tune::ParkingOnTop,
            steps_right: 0,
            steps_left: 0,
            tired: 0,
            prev: Rates::default(),
            begun: now,
            start,
        }
    }

    fn profile(&self) -> Profile {
        self.profiles[self.at]
    }

    /// Judges once enough interrupts have come.
    fn net_dim(&mut self, now: Instant, total: Totals) {
        let us = now.since(self.begun) / US;
        let events = total.events - self.start.events;
        if events < EVENTS || us == 0 {
            return;
        }
        let rate = |n: u64| n.saturating_mul(1000).div_ceil(us);
        self.decide(Rates {
            bytes: rate(total.bytes - self.start.bytes),
            pkts: rate(total.pkts - self.start.pkts),
            events: rate(events),
        });
        (self.begun, self.start) = (now, total);
    }

    fn decide(&mut self, rates: Rates) {
        let tune = self.tune;
        let trend = compare(rates, self.prev);
        match self.tune {
            Tune::ParkingOnTop => {
                if trend != Trend::Same {
                    self.leave_park();
                }
            }
            Tune::ParkingTired => {
                self.tired = self.tired.saturating_sub(1);
                if self.tired == 0 {
                    self.leave_park();
                }
            }
            Tune::GoingRight | Tune::GoingLeft => {
                if trend != Trend::Better {
                    self.turn_round();
                }
                if self.on_top() {
                    self.park(Tune::ParkingOnTop);
                } else {
                    match self.step() {
                        Step::Done => {}
                        Step::OnEdge => self.park(Tune::ParkingOnTop),
                        Step::TooTired => self.park(Tune::ParkingTired),
                    }
                }
            }
        }
        // On a top the measurement that led there stays what later ones are held against.
        if tune != Tune::ParkingOnTop || self.tune != Tune::ParkingOnTop {
            self.prev = rates;
        }
    }

    fn leave_park(&mut self) {
        self.tune = if self.at > 0 { Tune::GoingLeft } else { Tune::GoingRight };
        self.step();
    }

    fn turn_round(&mut self) {
        match self.tune {
            Tune::GoingRight => (self.tune, self.steps_left) = (Tune::GoingLeft, 0),
            Tune::GoingLeft => (self.tune, self.steps_right) = (Tune::GoingRight, 0),
            Tune::ParkingOnTop | Tune::ParkingTired => {}
        }
    }

    /// Whether the step before the turn led over the top: it lies one step behind.
    fn on_top(&self) -> bool {
        match self.tune {
            Tune::GoingRight => self.steps_left > 1 && self.steps_right == 1,
            Tune::GoingLeft => self.steps_right > 1 && self.steps_left == 1,
            Tune::ParkingOnTop | Tune::ParkingTired => true,
        }
    }

    fn park(&mut self, tune: Tune) {
        (self.steps_right, self.steps_left) = (0, 0);
        if tune == Tune::ParkingOnTop {
            self.tired = 0;
        }
        self.tune = tune;
    }

    fn step(&mut self) -> Step {
        if self.tired >= self.profiles.len() * 2 {
            return Step::TooTired;
        }
        match self.tune {
            Tune::GoingRight if self.at + 1 < self.profiles.len() => {
                self.at += 1;
                self.steps_right += 1;
            }
            Tune::GoingLeft if self.at > 0 => {
                self.at -= 1;
                self.steps_left += 1;
            }
            Tune::GoingRight | Tune::GoingLeft => return Step::OnEdge,
            Tune::ParkingOnTop | Tune::ParkingTired => {}
        }
        self.tired += 1;
        Step::Done
    }
}

fn compare(now: Rates, before: Rates) -> Trend {
    let differs = |a: u64, b: u64| a.abs_diff(b).saturating_mul(100) > b * NOISE_PERCENT;
    let judge = |better: bool| if better { Trend::Better } else { Trend::Worse };
    if differs(now.bytes, before.bytes) {
        judge(now.bytes > before.bytes)
    } else if differs(now.pkts, before.pkts) {
        judge(now.pkts > before.pkts)
    } else if differs(now.events, before.events) {
        judge(now.events < before.events)
    } else {
        Trend::Same
    }
}

/// The moderation of one queue in one direction.
#[derive(Debug)]
pub(super) struct Moder {
    /// Microseconds that an interrupt waits for more.
    pub usecs: u64,
    /// Packets that end the wait; 0 = only the time does.
    pub frames: u64,
    profiles: &'static [Profile],
    dim: Option<Dim>,
    total: Totals,
}

impl Moder {
    pub(super) fn new(profiles: &'static [Profile]) -> Moder {
        Moder { usecs: 0, frames: 0, profiles, dim: None, total: Totals::default() }
    }

    /// Takes over what the knobs say now. While the controller runs, it decides.
    #[inline]
    pub(super) fn follow(&mut self, adaptive: bool, usecs: u64, frames: u64, now: Instant) {
        if adaptive {
            let (profiles, total) = (self.profiles, self.total);
            let profile = self.dim.get_or_insert_with(|| Dim::new(profiles, now, total)).profile();
            (self.usecs, self.frames) = (profile.usecs, profile.frames);
        } else {
            self.dim = None;
            (self.usecs, self.frames) = (usecs, frames);
        }
    }

    /// An interrupt was served.
    #[inline]
    pub(super) fn event(&mut self) {
        self.total.events += 1;
    }

    /// So much was done since the last call.
    #[inline]
    pub(super) fn did(&mut self, pkts: u64, bytes: u64, now: Instant) {
        self.total.pkts += pkts;
        self.total.bytes += bytes;
        if let Some(dim) = &mut self.dim {
            dim.net_dim(now, self.total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measures `n` times with a load whose rates depend on the step that is taken.
    fn climb(dim: &mut Dim, n: usize, load: impl Fn(usize) -> Rates) {
        for _ in 0..n {
            dim.decide(load(dim.at));
        }
    }

    /// Bytes and packets are what they are; only the interrupts get fewer.
    fn saves_interrupts(at: usize) -> Rates {
        Rates { bytes: 1_000_000, pkts: 1_000, events: 1_000 / (at as u64 + 1) }
    }

    #[test]
    fn a_load_that_moderation_does_not_slow_is_moderated_most() {
        let mut dim = Dim::new(&RX, Instant::ZERO, Totals::default());
        climb(&mut dim, 20, saves_interrupts);
        assert_eq!((dim.at, dim.tune), (RX.len() - 1, Tune::ParkingOnTop));
    }

    #[test]
    fn a_load_that_moderation_slows_is_not_moderated() {
        // A peer that waits for each answer.
        let waits = |at: usize| {
            let n = 1_000 / (at as u64 + 1);
            Rates { bytes: n * 100, pkts: n, events: n }
        };
        let mut dim = Dim::new(&RX, Instant::ZERO, Totals::default());
        dim.at = 3;
        climb(&mut dim, 20, waits);
        assert_eq!(dim.at, 0);
    }

    #[test]
    fn it_finds_a_top_between_and_parks_there() {
        let hill = |at: usize| {
            let n = [100u64, 200, 400, 200, 100][at];
            Rates { bytes: n * 1_000, pkts: n, events: 50 }
        };
        let mut dim = Dim::new(&RX, Instant::ZERO, Totals::default());
        climb(&mut dim, 30, hill);
        assert_eq!((dim.at, dim.tune), (2, Tune::ParkingOnTop));
    }

    #[test]
    fn it_parks_when_tired_and_leaves_when_rested() {
        // Whatever it does is better than before: without a limit it would go to and fro for ever.
        let mut dim = Dim::new(&RX, Instant::ZERO, Totals::default());
        let mut seen = std::collections::BTreeSet::new();
        for n in 1..100u64 {
            let worse = 1_000_000 / n;
            dim.decide(Rates { bytes: worse, pkts: worse, events: 1 });
            seen.insert(format!("{:?}", dim.tune));
        }
        assert!(dim.at < RX.len());
        assert!(seen.contains("GoingLeft") && seen.contains("GoingRight"), "{seen:?}");
    }

    #[test]
    fn noise_is_the_same() {
        let base = Rates { bytes: 1_000, pkts: 1_000, events: 1_000 };
        let near = Rates { bytes: 1_050, pkts: 950, events: 1_090 };
        assert_eq!(compare(near, base), Trend::Same);
        assert_eq!(compare(Rates { bytes: 1_200, ..base }, base), Trend::Better);
        assert_eq!(compare(Rates { pkts: 800, ..base }, base), Trend::Worse);
        assert_eq!(compare(Rates { events: 800, ..base }, base), Trend::Better);
        assert_eq!(compare(base, Rates::default()), Trend::Better);
    }

    #[test]
    fn a_measurement_lasts_sixty_four_interrupts() {
        let mut moder = Moder::new(&RX);
        moder.follow(true, 0, 0, Instant::ZERO);
        assert_eq!((moder.usecs, moder.frames), (8, 256));
        for i in 1..=EVENTS {
            assert_eq!(moder.usecs, 8);
            moder.event();
            moder.did(10, 1000, Instant::from_ns(i * 10 * US));
            moder.follow(true, 0, 0, Instant::from_ns(i * 10 * US));
        }
        assert_ne!(moder.usecs, 8, "the first measurement is better than none");
        moder.follow(false, 7, 3, Instant::ZERO);
        assert_eq!((moder.usecs, moder.frames), (7, 3));
    }
}
