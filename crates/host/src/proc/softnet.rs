//! `/proc/net/softnet_stat`: a line per online processor, of hexadecimal numbers without names.
//!
//! Linux: net/core/net-procfs.c `softnet_seq_show`

use super::{CPUS_MAX, text};
use crate::counters::Counters;
use crate::snapshot::Snapshot;

const WHAT: &str = "/proc/net/softnet_stat";

/// The names of the columns; empty: always 0 (what was there once has gone). Each release only added
/// columns behind: 9 before 2.6.35, 10 up to 3.10, 11 up to 5.9, 13 up to 6.3, 15 since.
const COLUMNS: [&str; 15] = [
    "processed",
    "dropped",
    "time_squeeze",
    "",
    "",
    "",
    "",
    "",
    "cpu_collision",
    "received_rps",
    "flow_limit_count",
    "backlog_len",
    "",
    "input_pkt_queue_len",
    "process_queue_len",
];

/// The column with the processor's number, of those layouts that have it.
const CPU: usize = 12;

/// Fills [`Snapshot::softnet`]. Where the lines do not say which processor they are of, they are those
/// of [`crate::snapshot::Host::cpus`] in order; if that is not known or has another length, 0, 1, ...
pub fn softnet_stat(bytes: &[u8], into: &mut Snapshot) {
    let end = match bytes.iter().rposition(|b| *b == b'\n') {
        // Each number has eight digits, so that a line without its end still shows if it is whole.
        _ if is_whole(bytes) => bytes.len(),
        at => {
            into.note(WHAT, "it was cut: the last line has no end and is left out");
            at.map_or(0, |at| at + 1)
        }
    };
    let lines: Vec<&str> =
        text(&bytes[..end], WHAT, into).lines().take(CPUS_MAX as usize + 1).collect();
    let online = into.host.cpus.clone();
    let by_order = |row: usize| match online.get(row) {
        Some(cpu) if online.len() == lines.len() => *cpu,
        _ => u32::try_from(row).unwrap_or(u32::MAX),
    };
    for (row, line) in lines.iter().enumerate() {
        let Some(columns) = columns_of(line) else {
            into.note(WHAT, format!("line {} is not of 9 or more hexadecimal numbers", row + 1));
            continue;
        };
        let cpu = columns.get(CPU).copied().unwrap_or_else(|| by_order(row));
        if cpu >= CPUS_MAX || into.softnet.contains_key(&cpu) {
            into.note(WHAT, format!("line {} is of processor {cpu}, which cannot be", row + 1));
            continue;
        }
        let mut counters = Counters::new(format!("{WHAT} cpu{cpu}")).wrapping_at(32);
        for (name, value) in COLUMNS.iter().zip(&columns) {
            if !name.is_empty() {
                counters.set(name, u64::from(*value));
            }
        }
        into.softnet.insert(cpu, counters);
    }
}

fn columns_of(line: &str) -> Option<Vec<u32>> {
    let columns: Option<Vec<u32>> =
        line.split_whitespace().map(|word| u32::from_str_radix(word, 16).ok()).collect();
    columns.filter(|c| c.len() >= 9)
}

/// Whether the last line ends with a line end, or is as long as the one before.
fn is_whole(bytes: &[u8]) -> bool {
    let mut lines = bytes.rsplit(|b| *b == b'\n');
    match (lines.next(), lines.next()) {
        (Some(last), Some(before)) => last.is_empty() || last.len() == before.len(),
        _ => false,
    }
}
