//! `/proc/interrupts`, and whose interrupts those are.
//!
//! Linux: kernel/irq/proc.c `show_interrupts`

use std::collections::BTreeMap;

use super::{cpu_columns, cpus, lines, value};
use crate::counters::Counters;
use crate::snapshot::{Irq, Snapshot};

const WHAT: &str = "/proc/interrupts";

/// Fills [`Snapshot::irqs`]: those with a number. Those of the processors themselves (`NMI`, `LOC`)
/// serve no device.
pub fn interrupts(bytes: &[u8], into: &mut Snapshot) {
    let mut rows = lines(bytes, WHAT, into);
    let Some((_, head)) = rows.next() else { return };
    let Some(cpus) = cpu_columns(head, WHAT, into) else { return };
    let names: Vec<String> = cpus.iter().map(|cpu| format!("CPU{cpu}")).collect();
    let mut irqs = BTreeMap::new();
    for (n, line) in rows {
        let Some((irq, rest)) = line.split_once(':') else {
            into.note(WHAT, format!("line {n} has no number of an interrupt"));
            continue;
        };
        let Ok(irq) = irq.trim().parse::<u32>() else { continue };
        let Some((counts, actions)) = columns(rest, names.len()) else {
            into.note(WHAT, format!("line {n} has no count for each processor"));
            continue;
        };
        let mut counters = Counters::new(format!("{WHAT} {irq}")).wrapping_at(32);
        counters.extend(names.iter().map(String::as_str).zip(counts));
        let actions = actions.trim().to_owned();
        let entry = Irq { irq, actions, counts: counters, ..Irq::default() };
        irqs.insert(irq, entry);
    }
    into.irqs = irqs;
}

/// The first `n` words as 32-bit numbers, and what is behind them.
fn columns(line: &str, n: usize) -> Option<(Vec<u64>, &str)> {
    let mut counts = Vec::with_capacity(n);
    let mut rest = line;
    for _ in 0..n {
        rest = rest.trim_start();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        counts.push(u64::from(rest[..end].parse::<u32>().ok()?));
        rest = &rest[end..];
    }
    Some((counts, rest))
}

/// Files of `/proc/irq/N/`.
pub const FILES: &[&str] = &["smp_affinity_list", "effective_affinity_list", "node"];

/// One of [`FILES`]: fills [`Irq::affinity`], [`Irq::effective`] or [`Irq::node`].
pub fn irq(irq: u32, file: &str, bytes: &[u8], into: &mut Snapshot) {
    let list = value(bytes).and_then(cpus::list);
    let node = value(bytes).and_then(|text| text.parse::<i64>().ok());
    let Some(of) = into.irqs.get_mut(&irq) else { return };
    match (file, list, node) {
        ("smp_affinity_list", Some(list), _) => of.affinity = list,
        ("effective_affinity_list", Some(list), _) => of.effective = list,
        // -1 is unknown.
        ("node", _, Some(node)) => of.node = u32::try_from(node).ok(),
        _ => into.note(format!("/proc/irq/{irq}/{file}"), "it is not the value it should be"),
    }
}

/// Whether the actions of an interrupt name a device: for trees without sysfs, where nothing better
/// is known. Drivers write `eth0`, `eth0-TxRx-0`, `i40e-eth0-TxRx-3`, `eth0:v2`, `virtio0-input.0`.
#[must_use]
pub fn names(actions: &str, dev: &str) -> bool {
    // What is part of a name: `eth0` is neither `eth01` nor `eth0.100`.
    let inside = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let ends = |from: usize| {
        let (before, after) = (&actions[..from], &actions[from + dev.len()..]);
        !before.ends_with(inside) && !after.starts_with(inside)
    };
    !dev.is_empty() && actions.match_indices(dev).any(|(from, _)| ends(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_as_a_whole_word() {
        for yes in ["PCI-MSI-edge eth0", "eth0-TxRx-0", "i40e-eth0-TxRx-3", "a, eth0", "eth0:v2"] {
            assert!(names(yes, "eth0"), "{yes}");
        }
        for no in ["eth01-rx", "veth0", "eth0.100", "eth", ""] {
            assert!(!names(no, "eth0"), "{no}");
        }
        assert!(!names("anything", ""));
    }
}
