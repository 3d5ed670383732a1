//! What became of what was offered.

use linerate_core::shard::Shard;
use linerate_core::table::stage::STAGES;
use linerate_core::table::{Counter, Reason, Stage};

use super::latency::Latency;
use super::reader::Reader;
use super::source::Source;

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
    /// Packets that entered each stage, in the order of [`Stage::ALL`].
    pub entered: [u64; STAGES],
}

impl Outcome {
    /// Share of the packets offered that was lost, 0 to 1.
    #[must_use]
    pub fn lost(&self) -> f64 {
        let lost: u64 = self.drops.iter().map(|(_, _, n)| n).sum();
        if self.offered == 0 { 0.0 } else { lost as f64 / self.offered as f64 }
    }

    /// Adds what became of another processor's load in the same time.
    pub(super) fn add(&mut self, other: &Outcome) {
        self.offered += other.offered;
        self.delivered += other.delivered;
        other.drops.iter().for_each(|(stage, why, n)| self.lose(*stage, *why, *n));
        self.drops.sort_by_key(|d| std::cmp::Reverse(d.2));
        self.first = [self.first, other.first].into_iter().flatten().min_by_key(|f| f.3);
        self.busy.extend(&other.busy);
        self.latency.add(&other.latency);
        self.squeezed.0 += other.squeezed.0;
        self.squeezed.1 += other.squeezed.1;
        self.irqs += other.irqs;
        self.entered.iter_mut().zip(&other.entered).for_each(|(a, b)| *a += b);
    }

    fn lose(&mut self, stage: Stage, why: Reason, n: u64) {
        match self.drops.iter_mut().find(|d| (d.0, d.1) == (stage, why)) {
            _ if n == 0 => {}
            Some(sum) => sum.2 += n,
            None => self.drops.push((stage, why, n)),
        }
    }
}

/// Which drop is new since it was last asked, when `seen` had been dropped.
pub(super) fn newly_dropped(shard: &Shard, seen: &mut u64) -> Option<(Stage, Reason)> {
    let counts = &shard.net.counts;
    let dropped = |stage: &Stage| counts.flow(*stage).read().dropped;
    let all: u64 = Stage::ALL.iter().map(dropped).sum();
    if std::mem::replace(seen, all) == all {
        return None;
    }
    each_drop(shard).max_by_key(|(_, _, n)| *n).map(|(stage, why, _)| (stage, why))
}

/// The drops of a shard, one by one.
fn each_drop(shard: &Shard) -> impl Iterator<Item = (Stage, Reason, u64)> {
    let counts = &shard.net.counts;
    let pairs = Stage::ALL.iter().flat_map(|s| Reason::ALL.iter().map(move |r| (*s, *r)));
    pairs.map(|(stage, why)| (stage, why, counts.drops_at(stage, why))).filter(|(_, _, n)| *n > 0)
}

/// What a processor had counted at some time.
pub(super) struct Reading {
    offered: u64,
    delivered: u64,
    busy: u64,
    at: u64,
    drops: Vec<(Stage, Reason, u64)>,
    counters: [u64; 3],
    entered: [u64; STAGES],
}

/// The counters of an [`Outcome`], in the order of its fields.
const COUNTERS: [Counter; 3] =
    [Counter::SoftnetSqueezeBudget, Counter::SoftnetSqueezeTime, Counter::IrqRx];

impl Reading {
    /// `at`: the processor's time; `busy`: nanoseconds of it that it worked.
    pub fn of(shard: &Shard, app: &Reader, sources: &[Source], at: u64, busy: u64) -> Reading {
        let counts = &shard.net.counts;
        let mut entered = [0; STAGES];
        Stage::ALL.iter().for_each(|s| entered[*s as usize] = counts.flow(*s).read().entered);
        Reading {
            offered: sources.iter().map(Source::offered).sum(),
            delivered: app.delivered,
            busy,
            at,
            drops: each_drop(shard).collect(),
            counters: COUNTERS.map(|id| counts.get(id)),
            entered,
        }
    }
}

/// What became of what was offered between two readings of each processor; times of drops are `warm` later
/// than those of what was offered.
pub(super) fn sum_up(
    each: &[(Reading, Reading)],
    first: Option<(Stage, Reason, usize, u64)>,
    warm: u64,
) -> Outcome {
    let mut out = Outcome::default();
    for (was, is) in each {
        out.offered += is.offered - was.offered;
        out.delivered += is.delivered - was.delivered;
        let time = (is.at - was.at).max(1);
        out.busy.push(((is.busy - was.busy) as f64 / time as f64).min(1.0));
        let counters: [u64; 3] = std::array::from_fn(|i| is.counters[i] - was.counters[i]);
        out.squeezed.0 += counters[0];
        out.squeezed.1 += counters[1];
        out.irqs += counters[2];
        for (sum, (is, was)) in out.entered.iter_mut().zip(is.entered.iter().zip(&was.entered)) {
            *sum += is - was;
        }
        for (stage, why, n) in &is.drops {
            let old = was.drops.iter().find(|d| (d.0, d.1) == (*stage, *why)).map_or(0, |d| d.2);
            out.lose(*stage, *why, n - old);
        }
    }
    out.drops.sort_by_key(|d| std::cmp::Reverse(d.2));
    out.first = first.map(|(s, r, cpu, at)| (s, r, cpu, at.saturating_sub(warm)));
    out
}
