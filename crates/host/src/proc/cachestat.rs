//! `/proc/net/stat/{arp_cache,ndisc_cache,nf_conntrack}`: a head of names, then a line per processor
//! of hexadecimal numbers.
//!
//! Linux: net/core/neighbour.c `neigh_stat_seq_show`; net/netfilter/nf_conntrack_standalone.c
//! `ct_cpu_seq_show`

use super::{CPUS_MAX, NAMES_MAX, lines, shown};
use crate::counters::Counters;
use crate::snapshot::Snapshot;

/// Fills [`Snapshot::neigh`] under `table`: `arp_cache` or `ndisc_cache`.
pub fn neigh(table: &str, bytes: &[u8], into: &mut Snapshot) {
    if let Some(stat) = summed(bytes, &format!("/proc/net/stat/{table}"), into) {
        into.neigh.insert(table.to_owned(), stat);
    }
}

/// Fills [`crate::snapshot::Conntrack::stat`].
pub fn nf_conntrack(bytes: &[u8], into: &mut Snapshot) {
    if let Some(stat) = summed(bytes, "/proc/net/stat/nf_conntrack", into) {
        into.conntrack.get_or_insert_default().stat = stat;
    }
}

/// The table over all processors. Each number there is 32 bits wide and begins anew after that, and so
/// does the sum; `entries` is the same in each line.
fn summed(bytes: &[u8], what: &str, into: &mut Snapshot) -> Option<Counters> {
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        into.note(what, "it was cut; a sum over some of the processors would be wrong");
        return None;
    }
    let mut rows = lines(bytes, what, into);
    let (_, head) = rows.next()?;
    let names: Vec<&str> = head.split_whitespace().collect();
    let named = |n: &&str| n.starts_with(|c: char| c.is_ascii_alphabetic());
    if names.is_empty() || names.len() > NAMES_MAX || !names.iter().all(named) {
        into.note(what, format!("its first line has no names: {}", shown(head)));
        return None;
    }
    let mut sums = vec![0_u32; names.len()];
    let mut cpus = 0;
    for (n, line) in rows.take(CPUS_MAX as usize) {
        let row: Option<Vec<u32>> =
            line.split_whitespace().map(|w| u32::from_str_radix(w, 16).ok()).collect();
        let Some(row) = row.filter(|r| r.len() == names.len()) else {
            into.note(what, format!("line {n} has no number for each name; all is left out"));
            return None;
        };
        for ((sum, value), name) in sums.iter_mut().zip(row).zip(&names) {
            *sum = if *name == "entries" { value } else { sum.wrapping_add(value) };
        }
        cpus += 1;
    }
    // The sum without one processor would look like a counter that went back.
    if cpus == 0 || cpus < into.host.cpus.len() {
        into.note(what, format!("it has {cpus} lines for {} processors", into.host.cpus.len()));
        return None;
    }
    let mut stat = Counters::new(what).wrapping_at(32);
    stat.extend(names.into_iter().zip(sums.into_iter().map(u64::from)));
    Some(stat)
}
