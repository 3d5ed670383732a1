//! `/proc/net/snmp`, `netstat` and `snmp6`: the counters of the protocols.
//!
//! Linux: net/ipv4/proc.c `snmp_seq_show`, `netstat_seq_show`; net/ipv6/proc.c `snmp6_seq_show`

use std::collections::BTreeMap;

use super::{NAMES_MAX, lines, pair, shown};
use crate::counters::Counters;
use crate::snapshot::Snapshot;

/// Fills [`Snapshot::mib`] from `/proc/net/snmp`.
pub fn snmp(bytes: &[u8], into: &mut Snapshot) {
    tables(bytes, "/proc/net/snmp", into);
}

/// Fills [`Snapshot::mib`] from `/proc/net/netstat`.
pub fn netstat(bytes: &[u8], into: &mut Snapshot) {
    tables(bytes, "/proc/net/netstat", into);
}

/// Two lines a section, of names and of numbers, both after the section's name.
fn tables(bytes: &[u8], what: &str, into: &mut Snapshot) {
    const SECTIONS_MAX: usize = 64;
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let rows: Vec<_> = lines(bytes, what, into).take(2 * SECTIONS_MAX).collect();
    for (n, line) in rows {
        let Some((section, rest)) = line.split_once(':') else {
            into.note(what, format!("line {n} has no section: {}", shown(line)));
            continue;
        };
        // A section may have no names at all (IcmpMsg when there were no messages).
        let Some(first) = rest.split_whitespace().next() else { continue };
        if first.starts_with(|c: char| c.is_ascii_alphabetic()) {
            names.insert(section, rest);
            continue;
        }
        let Some(names) = names.remove(section) else {
            into.note(what, format!("line {n} has numbers without names before them"));
            continue;
        };
        let mut counters = Counters::new(format!("{what} {section}"));
        match pair(&mut counters, names.split_whitespace(), rest.split_whitespace()) {
            Ok(()) => _ = into.mib.insert(section.to_owned(), counters),
            Err(why) => into.note(what, format!("line {n}: {why}; section {section} is left out")),
        }
    }
}

/// Fills the section Sctp of [`Snapshot::mib`] from `/proc/net/sctp/snmp`: a name, which begins with
/// that, and a number in each line (net/sctp/proc.c `sctp_snmp_seq_show`).
pub fn sctp(bytes: &[u8], into: &mut Snapshot) {
    const WHAT: &str = "/proc/net/sctp/snmp";
    let rows: Vec<_> = lines(bytes, WHAT, into).take(NAMES_MAX).collect();
    let mut counters = Counters::new(WHAT);
    for (n, line) in rows {
        let mut words = line.split_whitespace();
        let name = words.next().and_then(|name| name.strip_prefix("Sctp"));
        let value = words.next().and_then(|value| value.parse().ok());
        match (name, value, words.next()) {
            (Some(name), Some(value), None) => counters.set(name, value),
            _ => into.note(WHAT, format!("line {n} is no counter: {}", shown(line))),
        }
    }
    if !counters.is_empty() {
        into.mib.insert("Sctp".to_owned(), counters);
    }
}

/// The sections of `snmp6`: its names begin with theirs.
const SECTIONS6: [&str; 4] = ["UdpLite6", "Udp6", "Icmp6", "Ip6"];

/// Fills [`Snapshot::mib`] from `/proc/net/snmp6`.
pub fn snmp6(bytes: &[u8], into: &mut Snapshot) {
    let mut sections = BTreeMap::new();
    for (section, name, value) in rows6(bytes, "/proc/net/snmp6", into) {
        sections
            .entry(section)
            .or_insert_with(|| Counters::new(format!("/proc/net/snmp6 {section}")))
            .set(name, value);
    }
    into.mib.extend(sections.into_iter().map(|(section, c)| (section.to_owned(), c)));
}

/// Fills [`crate::snapshot::Dev::ip6`] from `/proc/net/dev_snmp6/DEV`: the same names, whole, of one
/// device.
pub fn dev_snmp6(dev: &str, bytes: &[u8], into: &mut Snapshot) {
    let what = format!("/proc/net/dev_snmp6/{dev}");
    let rows = rows6(bytes, &what, into);
    let Some(dev) = into.devs.get_mut(dev) else { return };
    dev.ip6 = Counters::new(what);
    for (section, name, value) in rows {
        dev.ip6.set(&format!("{section}{name}"), value);
    }
}

fn rows6<'a>(
    bytes: &'a [u8],
    what: &str,
    into: &mut Snapshot,
) -> Vec<(&'static str, &'a str, u64)> {
    let mut out = Vec::new();
    let lines: Vec<_> = lines(bytes, what, into).take(NAMES_MAX).collect();
    for (n, line) in lines {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value), None) = (words.next(), words.next(), words.next()) else {
            into.note(what, format!("line {n} is not a name and a number: {}", shown(line)));
            continue;
        };
        let Ok(value) = value.parse() else {
            into.note(what, format!("line {n}: {} is no number", shown(value)));
            continue;
        };
        let section = SECTIONS6.iter().find(|s| name.starts_with(**s));
        out.extend(section.map(|s| (*s, &name[s.len()..], value)));
    }
    out
}
