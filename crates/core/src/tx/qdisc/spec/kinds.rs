//! The parameters of each discipline, with their defaults and ranges.
//!
//! Linux: iproute2's tc/q_*.c

use super::{Spec, SpecError, Words, fair};
use crate::time::{MS, SEC};
use crate::tx::qdisc::netem::{self, Distribution, Every, Loss, Slot};
use crate::tx::qdisc::{fifo, tbf};

/// The kinds, in the order in which they are told.
pub(super) const NAMES: &[&str] =
    &["pfifo_fast", "pfifo", "bfifo", "tbf", "prio", "sfq", "codel", "fq", "fq_codel", "netem"];

/// Bytes in a second: from 8 bits to 100 Gbit.
pub(super) const RATES: std::ops::RangeInclusive<u64> = 1..=12_500_000_000;

/// Reads a kind and its parameters, to the last word.
pub(super) fn parse(words: &mut Words<'_>) -> Result<Spec, SpecError> {
    let kind = words.next().ok_or(SpecError::Empty)?;
    let Some(name) = NAMES.iter().find(|name| **name == kind) else {
        return Err(SpecError::UnknownKind { kind: kind.to_owned(), kinds: NAMES });
    };
    words.of(name);
    Ok(match *name {
        "pfifo" => Spec::Pfifo(fifo_config(words, name)?),
        "bfifo" => Spec::Bfifo(fifo_config(words, name)?),
        "tbf" => Spec::Tbf(tbf_config(words)?),
        "prio" => Spec::Prio(fair::prio(words)?),
        "sfq" => Spec::Sfq(fair::sfq(words)?),
        "codel" => Spec::Codel(fair::codel(words)?),
        "fq" => Spec::Fq(Box::new(fair::fq(words)?)),
        "fq_codel" => Spec::FqCodel(fair::fq_codel(words)?),
        "netem" => Spec::Netem(Box::new(netem_config(words)?)),
        _ => match words.next() {
            None => Spec::PfifoFast,
            Some(word) => return Err(unknown("pfifo_fast", word, "")),
        },
    })
}

pub(super) fn unknown(kind: &'static str, word: &str, takes: &'static str) -> SpecError {
    SpecError::UnknownParameter { kind, word: word.to_owned(), takes }
}

fn fifo_config(words: &mut Words<'_>, kind: &'static str) -> Result<fifo::Config, SpecError> {
    let mut config = fifo::Config { limit: None };
    while let Some(word) = words.next() {
        match word {
            "limit" if kind == "bfifo" => config.limit = Some(words.size("limit", 1..=1 << 30)?),
            "limit" => config.limit = Some(words.u32("limit", 1..=1_000_000)?),
            other => return Err(unknown(kind, other, "limit")),
        }
    }
    Ok(config)
}

const TBF: &str = "rate, burst (buffer, maxburst), limit or latency, peakrate with mtu (minburst), mpu, \
                   overhead";

fn tbf_config(words: &mut Words<'_>) -> Result<tbf::Config, SpecError> {
    let mut limit = None;
    let mut c = tbf::Config {
        rate: 0,
        burst: 0,
        limit: tbf::Limit::Bytes(0),
        peakrate: 0,
        mtu: 0,
        mpu: 0,
        overhead: 0,
    };
    while let Some(word) = words.next() {
        match word {
            "rate" => c.rate = words.rate("rate", RATES)?,
            "burst" | "buffer" | "maxburst" => c.burst = words.size("burst", 1..=1 << 30)?,
            "limit" => limit = Some(tbf::Limit::Bytes(words.size("limit", 1..=1 << 30)?)),
            "latency" | "lat" => {
                limit = Some(tbf::Limit::Latency(words.time("latency", 0..=3600 * SEC)?));
            }
            "peakrate" => c.peakrate = words.rate("peakrate", RATES)?,
            "mtu" | "minburst" => c.mtu = words.size("mtu", 1..=1 << 30)?,
            "mpu" => c.mpu = words.size("mpu", 0..=65535)?,
            "overhead" => c.overhead = words.u32("overhead", 0..=65535)?,
            other => return Err(unknown("tbf", other, TBF)),
        }
    }
    let missing = |parameter| Err(SpecError::Missing { kind: "tbf", parameter });
    let wrong = |why| Err(SpecError::Contradiction { kind: "tbf", why });
    match () {
        () if c.rate == 0 => return missing("rate"),
        () if c.burst == 0 => return missing("burst"),
        () if c.peakrate > 0 && c.mtu == 0 => return missing("mtu, because of peakrate"),
        () if c.peakrate > 0 && c.peakrate <= c.rate => {
            return wrong("peakrate is to be larger than rate");
        }
        () if c.mpu > c.burst || c.peakrate > 0 && c.mpu > c.mtu => {
            return wrong("mpu is to be no larger than burst and mtu");
        }
        () => {}
    }
    match limit {
        Some(limit) => c.limit = limit,
        None => return missing("limit or latency"),
    }
    Ok(c)
}

const NETEM: &str =
    "limit, delay, distribution, loss, duplicate, corrupt, reorder, gap, rate, slot, ecn, seed";
/// Delays: to an hour.
const DELAYS: std::ops::RangeInclusive<u64> = 0..=3600 * SEC;

fn netem_config(words: &mut Words<'_>) -> Result<netem::Config, SpecError> {
    let mut c = netem::Config { limit: 1000, ..netem::Config::default() };
    let mut distribution = None;
    while let Some(word) = words.next() {
        match word {
            "limit" => c.limit = words.u32("limit", 1..=1_000_000)?,
            "delay" | "latency" => {
                c.delay = words.time("delay", DELAYS)?;
                if words.number_follows() {
                    // The kernel has it in 31 bits.
                    c.jitter = words.time("jitter", 0..=2147 * MS)?;
                    c.delay_corr = words.correlation("correlation of delay")?;
                }
            }
            "distribution" => distribution = Some(read_distribution(words)?),
            "loss" | "drop" => c.loss = netem_loss(words)?,
            "duplicate" => {
                c.duplicate =
                    (words.percent("duplicate")?, words.correlation("correlation of duplicate")?);
            }
            "corrupt" => {
                c.corrupt =
                    (words.percent("corrupt")?, words.correlation("correlation of corrupt")?);
            }
            "reorder" => {
                c.reorder =
                    (words.percent("reorder")?, words.correlation("correlation of reorder")?);
                c.gap = c.gap.max(1);
            }
            "gap" => c.gap = words.u32("gap", 0..=1_000_000)?,
            "rate" => netem_rate(words, &mut c)?,
            "slot" => c.slot = Some(netem_slot(words)?),
            "ecn" => c.ecn = true,
            "seed" => c.seed = Some(words.number("seed", 0..=u64::MAX)?),
            other => return Err(unknown("netem", other, NETEM)),
        }
    }
    let wrong = |why| Err(SpecError::Contradiction { kind: "netem", why });
    if distribution.is_some_and(|d| d != Distribution::Uniform) && c.jitter == 0 {
        return wrong("a distribution is of the jitter: delay TIME JITTER");
    }
    c.distribution = distribution.unwrap_or_default();
    if c.gap > 0 && c.delay == 0 {
        return wrong("what is to be reordered has to be delayed: delay TIME");
    }
    if c.gap > 0 && c.reorder.0 == 0 {
        // As in the kernel, where a gap alone reorders every packet that it names.
        c.reorder.0 = u32::MAX;
    }
    if c.ecn && c.loss == Loss::None {
        return wrong("ecn marks what is to be lost: loss PERCENT");
    }
    Ok(c)
}

fn read_distribution(words: &mut Words<'_>) -> Result<Distribution, SpecError> {
    let found = words.next().unwrap_or_default();
    let known = Distribution::NAMES.iter().find(|(name, _)| *name == found);
    known.map(|(_, d)| *d).ok_or_else(|| SpecError::Unreadable {
        parameter: "distribution",
        value: found.to_owned(),
        wants: "uniform, normal, pareto or paretonormal",
    })
}

/// `[random] P [CORR]`, `state P13 [P31 [P32 [P23 [P14]]]]`, `gemodel P [R [1-H [1-K]]]`.
fn netem_loss(words: &mut Words<'_>) -> Result<Loss, SpecError> {
    const ALL: u32 = u32::MAX;
    // What tc prints has names before the shares.
    let or = |words: &mut Words<'_>, name: &'static str, default| {
        words.skip(name.split(' ').next().unwrap_or_default());
        match words.number_follows() {
            true => words.percent(name),
            false => Ok(default),
        }
    };
    if words.skip("state") {
        words.skip("p13");
        let p13 = words.percent("p13 of loss state")?;
        return Ok(Loss::State {
            p13,
            p31: or(words, "p31 of loss state", ALL - p13)?,
            p32: or(words, "p32 of loss state", 0)?,
            p23: or(words, "p23 of loss state", ALL)?,
            p14: or(words, "p14 of loss state", 0)?,
        });
    }
    if words.skip("gemodel") {
        words.skip("p");
        let p = words.percent("p of loss gemodel")?;
        return Ok(Loss::GeModel {
            p,
            r: or(words, "r of loss gemodel", ALL - p)?,
            h: ALL - or(words, "1-h of loss gemodel", ALL)?,
            k1: or(words, "1-k of loss gemodel", 0)?,
        });
    }
    words.skip("random");
    Ok(Loss::Random(words.percent("loss")?, words.correlation("correlation of loss")?))
}

/// `MIN [MAX] [packets N] [bytes N]`, `distribution NAME DELAY JITTER [packets N] [bytes N]`.
fn netem_slot(words: &mut Words<'_>) -> Result<Slot, SpecError> {
    let every = if words.skip("distribution") {
        let dist = read_distribution(words)?;
        let delay = words.time("delay of slot", 1000..=*DELAYS.end())?;
        Every::Spread(dist, delay, words.time("jitter of slot", 0..=2147 * MS)?)
    } else {
        let low = words.time("delay of slot", 1000..=*DELAYS.end())?;
        let high = match words.number_follows() {
            true => words.time("longest delay of slot", low..=*DELAYS.end())?,
            false => low,
        };
        Every::Within(low, high)
    };
    let mut slot = Slot { every, packets: 0, bytes: 0 };
    loop {
        match () {
            () if words.skip("packets") => {
                slot.packets = words.u32("packets of slot", 1..=1 << 30)?
            }
            () if words.skip("bytes") => slot.bytes = words.size("bytes of slot", 1..=1 << 30)?,
            () => return Ok(slot),
        }
    }
}

/// `RATE [PACKETOVERHEAD [CELLSIZE [CELLOVERHEAD]]]`, or with the names that tc prints.
fn netem_rate(words: &mut Words<'_>, c: &mut netem::Config) -> Result<(), SpecError> {
    c.rate = words.rate("rate", RATES)?;
    if words.skip("packetoverhead") || words.number_follows() {
        c.overhead = words.i32("packet overhead of rate", -65535..=65535)?;
    }
    if words.skip("cellsize") || words.number_follows() {
        c.cell_size = words.u32("cell size of rate", 0..=65535)?;
    }
    if words.skip("celloverhead") || words.number_follows() {
        c.cell_overhead = words.i32("cell overhead of rate", -65535..=65535)?;
    }
    Ok(())
}
