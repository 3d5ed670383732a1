//! What the probes have counted: as lines, and back.
//!
//! ```text
//! sample 64
//! netns 4026532008                          only if packets are followed there alone
//! missed 0                                  calls that the kernel left out
//! note NAME WHY
//! hist softirq/NET_RX 1 sum 123 max 45 of 6:2 7:1      on processor 1: two of bit length 6, ...
//! ```

use std::fmt::Write as _;
use std::io;

use super::code::{DEVICES, NAME_SIZE, NAMES_MAX, Place, VECTORS_MAX};
use super::hist::{BUCKETS, Hist};
use super::{NAME, Probes};
use crate::snapshot::{Measured, Snapshot};

/// Histograms that are read of one answer, and lines of it.
const LINES_MAX: usize = 1 << 18;
const NAMES_KEPT: usize = 4096;

/// Histograms of packets on their way, by name.
const WAYS: [(Place, &str); 10] = [
    (Place::UdpQueued, "rx/udp-queued"),
    (Place::UdpWaited, "rx/udp-waited"),
    (Place::UdpRead, "rx/udp-read"),
    (Place::TcpQueued, "rx/tcp-queued"),
    (Place::CopyWaited, "rx/tcp-waited"),
    (Place::CopyRead, "rx/copy-read"),
    (Place::Dropped, "rx/dropped"),
    (Place::Consumed, "rx/consumed"),
    (Place::Qdisc, "tx/qdisc"),
    (Place::Driver, "tx/driver"),
];

impl Probes {
    /// All that was counted since the beginning, as lines.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut out = format!("sample {}\n", self.config.sample);
        if let Some(netns) = self.config.netns {
            let _ = writeln!(out, "netns {netns}");
        }
        let missed = self.programs()?.iter().fold(0, |sum: u64, p| sum.saturating_add(p.missed));
        let _ = writeln!(out, "missed {missed}");
        for (what, why) in &self.notes {
            let _ = writeln!(out, "note {what} {why}");
        }
        for (vector, name) in self.vectors.iter().enumerate().take(VECTORS_MAX as usize) {
            for (place, kind) in [(Place::Softirq, "softirq"), (Place::Delay, "delay")] {
                self.lines(place as u32 + vector as u32, &format!("{kind}/{name}"), &mut out)?;
            }
        }
        for (place, name) in WAYS {
            self.lines(place as u32, name, &mut out)?;
        }
        for (number, name) in self.devices()? {
            let place = Place::Devices as u32 + 2 * number;
            self.lines(place, &format!("work/{name}"), &mut out)?;
            self.lines(place + 1, &format!("poll/{name}"), &mut out)?;
        }
        Ok(out.into_bytes())
    }

    /// One histogram, a line for each processor that has counted something.
    fn lines(&self, place: u32, name: &str, out: &mut String) -> io::Result<()> {
        let values = self.maps.hists.lookup_percpu(&place.to_ne_bytes())?.unwrap_or_default();
        for (cpu, value) in values.iter().enumerate() {
            let hist = words(value);
            if !hist.is_empty() {
                let _ = writeln!(out, "hist {name} {cpu} {hist:?}");
            }
        }
        Ok(())
    }

    /// Devices by number, by the names that they had; those that share the last are the others.
    fn devices(&self) -> io::Result<Vec<(u32, String)>> {
        let names = &self.maps.names;
        let mut all = vec![(DEVICES - 1, "others".to_owned())];
        let mut key = names.next_key(None)?;
        for _ in 0..NAMES_MAX {
            let Some(now) = key else { break };
            let number =
                names.lookup(&now)?.and_then(|n| n.try_into().ok()).map(u32::from_ne_bytes);
            if let Some(number) = number.filter(|n| *n < DEVICES - 1) {
                all.push((number, device(&now, self.here)));
            }
            key = names.next_key(Some(&now))?;
        }
        all.sort_unstable();
        Ok(all)
    }
}

/// A device's name: with the inode of its namespace, unless that is the one that is looked at.
fn device(key: &[u8], here: Option<u32>) -> String {
    assert_eq!(key.len(), NAME_SIZE, "a key of the map of names");
    let word = |at: usize| key[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
    let name = key[..16].split(|b| *b == 0).next().unwrap_or_default();
    let name: String = String::from_utf8_lossy(name)
        .chars()
        .map(|c| if c.is_whitespace() || c.is_control() { '?' } else { c })
        .collect();
    match (name.as_str(), word(16)) {
        // The backlog of a processor belongs to no device.
        ("", 0) => "backlog".to_owned(),
        ("", _) => format!("unnamed{}", word(20)),
        (name, netns) if Some(netns) == here => name.to_owned(),
        (name, netns) => format!("{name}@{netns}"),
    }
}

/// A histogram as the programs lay it out.
fn words(value: &[u8]) -> Hist {
    let mut words =
        value.chunks_exact(8).map(|w| w.try_into().map_or(0, u64::from_ne_bytes)).fuse();
    let mut next = || words.next().unwrap_or(0);
    let (sum, max) = (next(), next());
    Hist { sum, max, buckets: std::array::from_fn(|_| next()) }
}

/// Reads [`NAME`].
pub fn parse(bytes: &[u8], into: &mut Snapshot) {
    let mut all = Measured::default();
    for line in String::from_utf8_lossy(bytes).lines().take(LINES_MAX) {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (what, rest.parse::<u64>()) {
            ("sample", Ok(n @ 1..)) => all.sample = u32::try_from(n).unwrap_or(u32::MAX),
            ("netns", Ok(n)) => all.netns = Some(n),
            ("missed", Ok(n)) => all.missed = n,
            ("note", _) => {
                let (place, why) = rest.split_once(' ').unwrap_or((rest, ""));
                into.note(format!("{NAME} {place}"), why);
            }
            ("hist", _) => {
                let Some((name, cpu, hist)) = hist(rest) else { continue };
                if all.hists.len() < NAMES_KEPT || all.hists.contains_key(name) {
                    // A device that was made anew is there twice.
                    let by_cpu = all.hists.entry(name.to_owned()).or_default();
                    by_cpu.entry(cpu).or_default().merge(&hist);
                }
            }
            _ => {}
        }
    }
    into.measured = (all.sample > 0).then_some(all);
}

/// `softirq/NET_RX 1 sum 123 max 45 of 6:2 7:1`
fn hist(line: &str) -> Option<(&str, u32, Hist)> {
    let mut words = line.split(' ');
    let (name, cpu) = (words.next()?, words.next()?.parse().ok()?);
    let mut after = |word: &str| (words.next()? == word).then(|| words.next())??.parse().ok();
    let (sum, max) = (after("sum")?, after("max")?);
    let mut hist = Hist { sum, max, ..Hist::default() };
    if words.next()? != "of" {
        return None;
    }
    for pair in words.take(BUCKETS) {
        let (bucket, count) = pair.split_once(':')?;
        *hist.buckets.get_mut(bucket.parse::<usize>().ok()?)? = count.parse().ok()?;
    }
    Some((name, cpu, hist))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Snapshot {
        let mut into = Snapshot::default();
        parse(text, &mut into);
        into
    }

    const TEXT: &str = "sample 64\nnetns 4026532008\nmissed 3\n\
        note __napi_poll this kernel has it not\n\
        hist softirq/NET_RX 0 sum 123 max 45 of 0:1 6:2 7:1\n\
        hist softirq/NET_RX 3 sum 7 max 7 of 3:1\n";

    #[test]
    fn lines_are_read_back() {
        let s = read(TEXT.as_bytes());
        assert_eq!(s.notes[0].what, "bpf/probes __napi_poll");
        let all = s.measured.expect("it was measured");
        assert_eq!((all.sample, all.netns, all.missed), (64, Some(4_026_532_008), 3));
        let hists = &all.hists["softirq/NET_RX"];
        assert_eq!((hists[&0].count(), hists[&0].sum, hists[&0].max), (4, 123, 45));
        assert_eq!(hists[&3].buckets[3], 1);
        let line = format!("hist softirq/NET_RX 3 {:?}\n", hists[&3]);
        assert!(TEXT.ends_with(&line), "{line}");
    }

    #[test]
    fn damaged_lines_count_nothing() {
        for end in 0..TEXT.len() {
            _ = read(&TEXT.as_bytes()[..end]);
        }
        for bad in [
            "hist a 0 sum 1 max 1 of 40:1",
            "hist a 0 sum -1 max 1 of 1:1",
            "hist a x sum 1 max 1 of 1:1",
            "hist a 0 sum 1 max 1",
            "hist a 0 max 1 sum 1 of 1:1",
            "hist",
            "netns x\0\u{fffd}",
        ] {
            let s = read(format!("sample 1\n{bad}\n").as_bytes());
            let all = s.measured.expect("it has a sample");
            assert!(all.hists.is_empty() && all.netns.is_none(), "{bad}");
        }
        assert!(read(b"hist a 0 sum 1 max 1 of 1:1\n").measured.is_none(), "no sample: not ours");
    }

    #[test]
    fn devices_are_named_with_their_namespace() {
        let key = |name: &str, netns: u32, ifindex: u32| {
            let mut key = [0; NAME_SIZE];
            key[..name.len()].copy_from_slice(name.as_bytes());
            key[16..20].copy_from_slice(&netns.to_ne_bytes());
            key[20..].copy_from_slice(&ifindex.to_ne_bytes());
            key
        };
        assert_eq!(device(&key("eth0", 7, 2), Some(7)), "eth0");
        assert_eq!(device(&key("eth0", 7, 2), Some(8)), "eth0@7");
        assert_eq!(device(&key("a b", 7, 2), Some(7)), "a?b");
        assert_eq!(device(&key("", 0, 0), None), "backlog");
        assert_eq!(device(&key("", 9, 4), None), "unnamed4");
    }
}
