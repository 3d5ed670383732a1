//! The parameters of the disciplines that tell flows apart, hold delays down or have classes.
//!
//! Linux: iproute2's tc/q_codel.c, q_fq_codel.c, q_fq.c, q_sfq.c, q_prio.c

use super::kinds::{RATES, unknown};
use super::{SpecError, Words};
use crate::time::{MS, SEC};
use crate::tx::qdisc::stats::{rate, size, time};
use crate::tx::qdisc::{PRIO2BAND, codel, fq, fq_codel, prio, sfq};

/// Times of CoDel: to ten seconds.
const TIMES: std::ops::RangeInclusive<u64> = 1000..=10 * SEC;
/// Packets that may wait.
const LIMITS: std::ops::RangeInclusive<u32> = 1..=1_000_000;
/// Bytes of a turn.
const QUANTA: std::ops::RangeInclusive<u32> = 256..=1 << 20;

/// Reads a parameter of CoDel; false if it is none.
fn codel_word(words: &mut Words<'_>, c: &mut codel::Params, word: &str) -> Result<bool, SpecError> {
    match word {
        "target" => c.target = words.time("target", TIMES)?,
        "interval" => c.interval = words.time("interval", TIMES)?,
        "ecn" => c.ecn = true,
        "noecn" => c.ecn = false,
        "ce_threshold" => c.ce_threshold = Some(words.time("ce_threshold", 0..=10 * SEC)?),
        _ => return Ok(false),
    }
    Ok(true)
}

pub(super) fn codel(words: &mut Words<'_>) -> Result<codel::Config, SpecError> {
    let takes = "limit, target, interval, ecn or noecn, ce_threshold";
    let params =
        codel::Params { target: 5 * MS, interval: 100 * MS, ecn: false, ce_threshold: None };
    let mut c = codel::Config { limit: 1000, codel: params };
    while let Some(word) = words.next() {
        match word {
            "limit" => c.limit = words.u32("limit", LIMITS)?,
            word if codel_word(words, &mut c.codel, word)? => {}
            other => return Err(unknown("codel", other, takes)),
        }
    }
    Ok(c)
}

pub(super) fn fq_codel(words: &mut Words<'_>) -> Result<fq_codel::Config, SpecError> {
    let takes = "limit, flows, target, interval, quantum, ecn or noecn, ce_threshold, memory_limit, \
                 drop_batch";
    let params =
        codel::Params { target: 5 * MS, interval: 100 * MS, ecn: true, ce_threshold: None };
    let mut c = fq_codel::Config {
        limit: 10240,
        flows: 1024,
        quantum: None,
        memory_limit: 32 << 20,
        drop_batch: 64,
        codel: params,
    };
    while let Some(word) = words.next() {
        match word {
            "limit" => c.limit = words.u32("limit", LIMITS)?,
            "flows" => c.flows = words.u32("flows", 1..=65535)?,
            "quantum" => c.quantum = Some(words.size("quantum", QUANTA)?),
            "memory_limit" => c.memory_limit = words.size("memory_limit", 65536..=1 << 31)?,
            "drop_batch" => c.drop_batch = words.u32("drop_batch", 1..=65535)?,
            word if codel_word(words, &mut c.codel, word)? => {}
            other => return Err(unknown("fq_codel", other, takes)),
        }
    }
    Ok(c)
}

pub(super) fn fq(words: &mut Words<'_>) -> Result<fq::Config, SpecError> {
    let takes = "limit, flow_limit, quantum, initial_quantum, maxrate, buckets, pacing or nopacing, \
                 refill_delay, low_rate_threshold, ce_threshold";
    let mut c = fq::Config {
        limit: 10000,
        flow_limit: 100,
        quantum: None,
        initial_quantum: None,
        maxrate: None,
        buckets: 1024,
        pacing: true,
        refill_delay: 40 * MS,
        low_rate_threshold: 550_000 / 8,
        ce_threshold: None,
    };
    while let Some(word) = words.next() {
        match word {
            "limit" => c.limit = words.u32("limit", LIMITS)?,
            "flow_limit" => c.flow_limit = words.u32("flow_limit", LIMITS)?,
            "quantum" => c.quantum = Some(words.size("quantum", QUANTA)?),
            "initial_quantum" => {
                c.initial_quantum = Some(words.size("initial_quantum", 0..=1 << 24)?);
            }
            "maxrate" => c.maxrate = Some(words.rate("maxrate", RATES)?),
            "buckets" => c.buckets = words.u32("buckets", 1..=1 << 18)?,
            "pacing" => c.pacing = true,
            "nopacing" => c.pacing = false,
            "refill_delay" => c.refill_delay = words.time("refill_delay", 0..=10 * SEC)?,
            "low_rate_threshold" => {
                c.low_rate_threshold = words.rate("low_rate_threshold", 0..=*RATES.end())?;
            }
            "ce_threshold" => c.ce_threshold = Some(words.time("ce_threshold", 0..=10 * SEC)?),
            other => return Err(unknown("fq", other, takes)),
        }
    }
    Ok(c)
}

pub(super) fn sfq(words: &mut Words<'_>) -> Result<sfq::Config, SpecError> {
    let takes = "limit, depth, flows, divisor, quantum, perturb, headdrop";
    let mut c = sfq::Config {
        limit: 127,
        depth: 127,
        flows: 127,
        divisor: 1024,
        quantum: None,
        perturb: 0,
        headdrop: false,
    };
    while let Some(word) = words.next() {
        match word {
            "limit" => c.limit = words.u32("limit", 1..=65408)?,
            "depth" => c.depth = words.u32("depth", 1..=127)?,
            "flows" => c.flows = words.u32("flows", 1..=65408)?,
            "divisor" => c.divisor = words.u32("divisor", 1..=65536)?,
            "quantum" => c.quantum = Some(words.size("quantum", QUANTA)?),
            "perturb" => c.perturb = words.number("perturb", 0..=86400)? * SEC,
            "headdrop" => c.headdrop = true,
            other => return Err(unknown("sfq", other, takes)),
        }
    }
    if !c.divisor.is_power_of_two() {
        let why = "divisor is to be a power of two";
        return Err(SpecError::Contradiction { kind: "sfq", why });
    }
    Ok(c)
}

pub(super) fn prio(words: &mut Words<'_>) -> Result<prio::Config, SpecError> {
    let mut c = prio::Config { bands: 3, priomap: PRIO2BAND };
    let mut given = false;
    while let Some(word) = words.next() {
        match word {
            "bands" => c.bands = words.u32("bands", 2..=16)? as u8,
            "priomap" => {
                given = true;
                for to in &mut c.priomap {
                    if !words.number_follows() {
                        break;
                    }
                    *to = words.u32("priomap", 0..=15)? as u8;
                }
            }
            other => return Err(unknown("prio", other, "bands, priomap")),
        }
    }
    if given && c.priomap.iter().any(|band| *band >= c.bands) {
        let why = "priomap names a band that bands does not have";
        return Err(SpecError::Contradiction { kind: "prio", why });
    }
    c.priomap.iter_mut().for_each(|band| *band = (*band).min(c.bands - 1));
    Ok(c)
}

fn codel_text(c: &codel::Params) -> String {
    let mut out = format!("target {}", time(c.target));
    if let Some(ns) = c.ce_threshold {
        out += &format!(" ce_threshold {}", time(ns));
    }
    out + &format!(" interval {}", time(c.interval))
}

pub(super) fn codel_options(c: &codel::Config) -> String {
    let ecn = if c.codel.ecn { " ecn" } else { "" };
    format!("limit {}p {}{ecn}", c.limit, codel_text(&c.codel))
}

pub(super) fn fq_codel_options(c: &fq_codel::Config) -> String {
    let quantum = c.quantum.map_or_else(String::new, |n| format!(" quantum {n}"));
    let ecn = if c.codel.ecn { " ecn" } else { "" };
    format!(
        "limit {}p flows {}{quantum} {} memory_limit {}{ecn} drop_batch {}",
        c.limit,
        c.flows,
        codel_text(&c.codel),
        size(c.memory_limit.into()),
        c.drop_batch
    )
}

/// tc says nothing of marks that there are not, although they are the default.
pub(super) fn fq_codel_words(c: &fq_codel::Config) -> String {
    fq_codel_options(c) + if c.codel.ecn { "" } else { " noecn" }
}

pub(super) fn fq_options(c: &fq::Config) -> String {
    let mut out = format!("limit {}p flow_limit {}p buckets {}", c.limit, c.flow_limit, c.buckets);
    let bytes = [("quantum", c.quantum), ("initial_quantum", c.initial_quantum)];
    for (name, n) in bytes {
        out += &n.map_or_else(String::new, |n| format!(" {name} {}", size(n.into())));
    }
    if let Some(bytes) = c.maxrate {
        out += &format!(" maxrate {}", rate(bytes));
    }
    if !c.pacing {
        out += " nopacing";
    }
    out += &format!(" low_rate_threshold {}", rate(c.low_rate_threshold));
    out += &format!(" refill_delay {}", time(c.refill_delay));
    if let Some(ns) = c.ce_threshold {
        out += &format!(" ce_threshold {}", time(ns));
    }
    out
}

pub(super) fn sfq_options(c: &sfq::Config) -> String {
    let mut out = sfq_sizes(c) + &format!(" divisor {}", c.divisor);
    if c.perturb > 0 {
        out += &format!(" perturb {}sec", c.perturb / SEC);
    }
    out
}

/// tc tells how many flows there may be only to those who ask for details, and writes a unit that it
/// does not read.
pub(super) fn sfq_words(c: &sfq::Config) -> String {
    let mut out = sfq_sizes(c) + &format!(" flows {} divisor {}", c.flows, c.divisor);
    if c.perturb > 0 {
        out += &format!(" perturb {}", c.perturb / SEC);
    }
    out
}

fn sfq_sizes(c: &sfq::Config) -> String {
    let mut out = format!("limit {}p", c.limit);
    if let Some(n) = c.quantum {
        out += &format!(" quantum {}", size(n.into()));
    }
    out += &format!(" depth {}", c.depth);
    if c.headdrop {
        out += " headdrop";
    }
    out
}

pub(super) fn prio_options(c: &prio::Config) -> String {
    let map: Vec<String> = c.priomap.iter().map(u8::to_string).collect();
    format!("bands {} priomap {}", c.bands, map.join(" "))
}
