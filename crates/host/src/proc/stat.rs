//! `/proc/stat`: the time of each processor by what it did.
//!
//! Linux: fs/proc/stat.c `show_stat`

use super::{cpu_of, lines};
use crate::counters::Counters;
use crate::snapshot::Snapshot;

const WHAT: &str = "/proc/stat";

/// The columns, in order; older kernels have fewer of them.
const COLUMNS: [&str; 10] =
    ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"];

/// Fills [`Snapshot::cpus`].
pub fn stat(bytes: &[u8], into: &mut Snapshot) {
    // The lines of the processors come first; those behind them may be long.
    let rows: Vec<_> = lines(bytes, WHAT, into).take_while(|(_, l)| l.starts_with("cpu")).collect();
    for (n, line) in rows {
        let mut words = line.split_whitespace();
        let Some(name) = words.next().filter(|name| *name != "cpu") else { continue };
        let ticks: Option<Vec<u64>> = words.map(|w| w.parse().ok()).collect();
        let (Some(cpu), Some(ticks)) = (cpu_of(name), ticks.filter(|t| t.len() >= 4)) else {
            into.note(WHAT, format!("line {n} is not the time of a processor"));
            continue;
        };
        let mut counters = Counters::new(format!("{WHAT} {name}"));
        counters.extend(COLUMNS.into_iter().zip(ticks));
        into.cpus.insert(cpu, counters);
    }
}
