//! `/proc/net/sockstat` and `sockstat6`: sockets and their memory by protocol.
//!
//! Linux: net/ipv4/proc.c `sockstat_seq_show`

use super::{lines, pair, shown};
use crate::counters::Counters;
use crate::snapshot::Snapshot;

/// Fills [`Snapshot::sockstat`] from `/proc/net/sockstat`.
pub fn sockstat(bytes: &[u8], into: &mut Snapshot) {
    sections(bytes, "/proc/net/sockstat", into);
}

/// Fills [`Snapshot::sockstat`] from `/proc/net/sockstat6`.
pub fn sockstat6(bytes: &[u8], into: &mut Snapshot) {
    sections(bytes, "/proc/net/sockstat6", into);
}

/// A line a section: its name, then names and numbers in turn.
fn sections(bytes: &[u8], what: &str, into: &mut Snapshot) {
    const SECTIONS_MAX: usize = 64;
    let rows: Vec<_> = lines(bytes, what, into).take(SECTIONS_MAX).collect();
    for (n, line) in rows {
        let Some((section, rest)) = line.split_once(':') else {
            into.note(what, format!("line {n} has no section: {}", shown(line)));
            continue;
        };
        let mut gauges = Counters::new(format!("{what} {section}"));
        let names = rest.split_whitespace().step_by(2);
        match pair(&mut gauges, names, rest.split_whitespace().skip(1).step_by(2)) {
            Ok(()) => _ = into.sockstat.insert(section.to_owned(), gauges),
            Err(why) => into.note(what, format!("line {n}: {why}; section {section} is left out")),
        }
    }
}
