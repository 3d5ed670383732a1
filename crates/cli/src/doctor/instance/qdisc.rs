//! The queueing disciplines of an instance's devices, all shards together.

use linerate_gateway::control::Snapshot as Reading;
use linerate_gateway::control::snapshot::{DeviceRow, QdiscRow};
use linerate_host::Counters;
use linerate_host::snapshot::Qdisc;

/// Those of a device, one at each place. What a classless one has inside is part of it: nothing could be set
/// there.
pub fn of(name: &str, r: &Reading, d: &DeviceRow) -> Vec<Qdisc> {
    let mut all: Vec<Qdisc> = Vec::new();
    let outer = |row: &&QdiscRow| row.dev == d.name && !row.place.starts_with("parent ");
    for row in r.qdiscs.iter().filter(outer) {
        let same = |q: &&mut Qdisc| q.kind == row.kind && q.parent == row.place;
        match all.iter_mut().find(same) {
            // Each shard has one of its own.
            Some(qdisc) => add(&mut qdisc.stats, row),
            None => all.push(one(name, row)),
        }
    }
    if let Some(root) = all.iter_mut().find(|q| q.parent == "root") {
        // What is refused before it (no memory to cut a packet, say) is lost there as well.
        root.stats.set("drops", d.tx_dropped.max(root.stats.get("drops").unwrap_or(0)));
    }
    all
}

/// How those of the devices would be asked for, by the names of their places.
pub fn settings(r: &Reading) -> impl Iterator<Item = (String, String)> {
    r.qdiscs.iter().filter(|row| row.place == "root").map(|row| {
        let options: Vec<&str> = match row.kind.as_str() {
            // It has none that could be set.
            "pfifo_fast" => Vec::new(),
            // Packets are printed with a letter that is not taken back.
            _ => row.options.split_whitespace().map(|word| word.trim_end_matches('p')).collect(),
        };
        let spec = [&[row.kind.as_str()], &options[..]].concat().join(" ");
        (format!("qdisc.{}.root", row.dev), spec)
    })
}

fn one(name: &str, row: &QdiscRow) -> Qdisc {
    let mut stats = Counters::new(format!("linerate show qdisc --name {name}"));
    add(&mut stats, row);
    let mut xstats = Counters::new(stats.source());
    xstats.extend(row.xstats.iter().map(|(name, n)| (name.as_str(), *n)));
    Qdisc {
        kind: row.kind.clone(),
        handle: row.handle.clone(),
        parent: row.place.clone(),
        stats,
        xstats,
        options: options(&row.options),
    }
}

fn add(stats: &mut Counters, row: &QdiscRow) {
    for (counter, n) in [
        ("bytes", row.bytes),
        ("packets", row.packets),
        ("drops", row.drops),
        ("overlimits", row.overlimits),
        ("requeues", row.requeues),
        ("backlog", row.backlog),
        ("qlen", row.qlen),
    ] {
        stats.add(counter, n);
    }
}

/// What rules ask of the parameters, which stand there as tc prints them: `limit 1000p`, `rate 20Mbit burst
/// 16Kb lat 10ms`. What may wait so long at the most is a limit, too.
fn options(text: &str) -> Counters {
    let mut known = Counters::default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut wait = None;
    for pair in words.windows(2) {
        if pair[0] == "lat" {
            wait = seconds(pair[1]);
        }
        let name = match pair[0] {
            "rate" => "rate_bps",
            name @ ("limit" | "burst") => name,
            _ => continue,
        };
        if let Some(n) = number(pair[1]) {
            known.set(name, n);
        }
    }
    if let (Some(wait), Some(rate), Some(burst)) = (wait, known.get("rate_bps"), known.get("burst"))
    {
        known.set("limit", burst.saturating_add((rate as f64 * wait) as u64));
    }
    known
}

/// Seconds of a time as tc prints it.
fn seconds(word: &str) -> Option<f64> {
    let at = word.find(|c: char| c.is_ascii_alphabetic())?;
    let (n, unit) = word.split_at(at);
    let of = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    let n = n.parse::<f64>().ok()?;
    (n.is_finite() && n >= 0.0).then_some(n * of)
}

/// A number of packets or bytes, or of bytes in a second.
fn number(word: &str) -> Option<u64> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let n: u64 = word[..digits].parse().ok()?;
    let factor = match &word[digits..] {
        "" | "p" | "b" => 1,
        "Kb" => 1 << 10,
        "Mb" => 1 << 20,
        "bit" => return Some(n / 8),
        "Kbit" => 1000 / 8,
        "Mbit" => 1_000_000 / 8,
        "Gbit" => 1_000_000_000 / 8,
        _ => return None,
    };
    n.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_tc_prints_them() {
        let of = |text: &str, name: &str| options(text).get(name);
        let tbf = "rate 20Mbit burst 16Kb limit 30720b";
        assert_eq!(of(tbf, "rate_bps"), Some(2_500_000));
        assert_eq!((of(tbf, "burst"), of(tbf, "limit")), (Some(16 << 10), Some(30_720)));
        assert_eq!(of("limit 1000p", "limit"), Some(1000));
        assert_eq!(of("rate 20Mbit lat 10ms", "limit"), None);
        assert_eq!(of("rate 20Mbit burst 16Kb lat 10ms", "limit"), Some((16 << 10) + 25_000));
        assert_eq!(of("rate 8Mbit burst 4Kb lat 4.09ms", "limit"), Some(4096 + 4090));
        assert_eq!(of("rate 8Mbit burst 4Kb lat long", "limit"), None);
        assert_eq!(of("bands 3 priomap  1 2 2", "limit"), None);
    }
}
