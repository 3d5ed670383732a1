//! `/proc/softirqs`: a row per kind, a column per possible processor.
//!
//! Linux: fs/proc/softirqs.c `show_softirqs`

use std::collections::BTreeMap;

use super::{NAMES_MAX, cpu_columns, lines, shown};
use crate::counters::Counters;
use crate::snapshot::Snapshot;

const WHAT: &str = "/proc/softirqs";

/// Fills [`Snapshot::softirqs`].
pub fn softirqs(bytes: &[u8], into: &mut Snapshot) {
    let mut rows = lines(bytes, WHAT, into);
    let Some((_, head)) = rows.next() else { return };
    let Some(cpus) = cpu_columns(head, WHAT, into) else { return };
    let mut table: BTreeMap<u32, Counters> = BTreeMap::new();
    for (n, line) in rows.take(NAMES_MAX) {
        let Some((name, counts)) = line.split_once(':') else {
            into.note(WHAT, format!("line {n} has no name: {}", shown(line)));
            continue;
        };
        let counts: Option<Vec<u32>> = counts.split_whitespace().map(|w| w.parse().ok()).collect();
        let Some(counts) = counts.filter(|c| c.len() == cpus.len()) else {
            into.note(WHAT, format!("line {n} has no number for each processor"));
            continue;
        };
        for (cpu, count) in cpus.iter().zip(counts) {
            let of = table
                .entry(*cpu)
                .or_insert_with(|| Counters::new(format!("{WHAT} CPU{cpu}")).wrapping_at(32));
            of.set(name.trim(), u64::from(count));
        }
    }
    into.softirqs = table;
}
