//! Parsers of procfs and sysfs: bytes in, parts of a [`Snapshot`] out.
//!
//! No parser reads anything itself, so each is tested with the bytes of other people's hosts. What
//! they share:
//!
//! - Numbers are found by the names that the file gives them, and by position only where the file
//!   has no names (`softnet_stat`, whose layout follows from its number of columns).
//! - What cannot be understood is noted and left out. A wrong number would be a false finding, so a
//!   line without its end is left out too: its last number may have lost digits.
//! - What a file may put into a snapshot is bounded, for it may come from anywhere.

pub mod cachestat;
pub mod class_net;
pub mod cpus;
pub mod ethtool;
pub mod interrupts;
pub mod iproute;
pub mod mib;
pub mod netdev;
pub mod packet;
pub mod power;
pub mod printed;
pub mod softirqs;
pub mod softnet;
pub mod ss;
pub mod sockstat;
pub mod stat;
pub mod sysctl;
pub mod system;
pub mod task;

use crate::counters::Counters;
use crate::snapshot::Snapshot;

/// Names that one line or section may have; Linux 7.2 has under 200 in the largest (TcpExt).
const NAMES_MAX: usize = 1024;

/// Processors: the most that Linux can be built for (`NR_CPUS` of x86-64).
pub(crate) const CPUS_MAX: u32 = 8192;

/// Lines of one file that are read: no table that is known here has a tenth of it, on no host.
const LINES_MAX: usize = 1 << 18;

/// The lines of `what` that are whole and text, with their numbers from 1; the rest is noted.
fn lines<'a>(
    bytes: &'a [u8],
    what: &str,
    into: &mut Snapshot,
) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    if bytes.is_empty() {
        into.note(what, "it is empty");
    } else if end < bytes.len() {
        into.note(what, "it was cut: the last line has no end and is left out");
    }
    let text = text(&bytes[..end], what, into);
    if text.len() > LINES_MAX && text.bytes().filter(|b| *b == b'\n').count() > LINES_MAX {
        into.note(what, format!("it has more than {LINES_MAX} lines; the rest is left out"));
    }
    text.lines().take(LINES_MAX).enumerate().map(|(i, line)| (i + 1, line))
}

/// As much of `bytes` as is text, in whole lines; that there is more is noted.
fn text<'a>(bytes: &'a [u8], what: &str, into: &mut Snapshot) -> &'a str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(err) => {
            into.note(what, "from some line on it is not text; that part is left out");
            let good = &bytes[..err.valid_up_to()];
            let end = good.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            std::str::from_utf8(&good[..end]).unwrap_or_default()
        }
    }
}

/// One value, as sysfs and sysctls have them: the text without the white space around it. `None` if
/// it is no text or too long for one.
#[must_use]
pub fn value(bytes: &[u8]) -> Option<&str> {
    const MAX: usize = 4096; // A page: sysfs gives no more.
    if bytes.len() > MAX {
        return None;
    }
    std::str::from_utf8(bytes).ok().map(str::trim)
}

/// One number, likewise.
#[must_use]
pub fn number(bytes: &[u8]) -> Option<u64> {
    value(bytes)?.parse().ok()
}

/// Pairs names with numbers. Negative ones are no counters (`Tcp: MaxConn -1`) and left out.
///
/// # Errors
/// The word that is no number, or what is wrong with their count.
fn pair<'a>(
    into: &mut Counters,
    names: impl Iterator<Item = &'a str>,
    values: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let (names, values): (Vec<_>, Vec<_>) = (names.collect(), values.collect());
    if names.len() != values.len() {
        return Err(format!("{} names, but {} numbers", names.len(), values.len()));
    }
    if names.len() > NAMES_MAX {
        return Err(format!("{} names are too many", names.len()));
    }
    let mut read = Vec::with_capacity(names.len());
    for (name, word) in names.into_iter().zip(values) {
        match word.parse() {
            Ok(number) => read.push((name, number)),
            Err(_) if word.parse::<i64>().is_ok() => {}
            Err(_) => return Err(format!("{} is no number", shown(word))),
        }
    }
    into.extend(read);
    Ok(())
}

/// A word of a file, short and printable enough for a note.
fn shown(word: &str) -> String {
    const MAX: usize = 24;
    let mut out: String = word.chars().take(MAX).flat_map(char::escape_debug).collect();
    if word.chars().nth(MAX).is_some() {
        out.push_str("...");
    }
    format!("\"{out}\"")
}

/// The number of a word `CPU7` or `cpu7`.
fn cpu_of(word: &str) -> Option<u32> {
    let digits = word.strip_prefix("CPU").or_else(|| word.strip_prefix("cpu"))?;
    digits.parse().ok().filter(|cpu| *cpu < CPUS_MAX)
}

/// The processors at the head of a table with a column for each; noted if it is no such head.
fn cpu_columns(line: &str, what: &str, into: &mut Snapshot) -> Option<Vec<u32>> {
    let cpus: Option<Vec<u32>> = line.split_whitespace().map(cpu_of).collect();
    match cpus {
        Some(cpus) if !cpus.is_empty() && cpus.is_sorted_by(|a, b| a < b) => Some(cpus),
        _ => {
            into.note(what, "its first line does not name the processors; it is left out");
            None
        }
    }
}

#[cfg(test)]
mod tests;
