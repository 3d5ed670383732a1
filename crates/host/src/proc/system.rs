//! What the host is like: processors, nodes, memory, pressure, uptime.

use super::{cpus, lines, value};
use crate::snapshot::Snapshot;

/// `/sys/devices/system/cpu/{online,isolated,nohz_full}`: fills [`crate::snapshot::Host::cpus`] and
/// [`crate::snapshot::Host::isolated`].
pub fn cpu_list(file: &str, bytes: &[u8], into: &mut Snapshot) {
    // `nohz_full` is `(null)` where it is not in use.
    let text = value(bytes).filter(|text| *text != "(null)").unwrap_or_default();
    let Some(list) = cpus::list(text) else {
        into.note(format!("/sys/devices/system/cpu/{file}"), "it is not a list of processors");
        return;
    };
    match file {
        "online" => into.host.cpus = list,
        _ => {
            into.host.isolated.extend(list);
            into.host.isolated.sort_unstable();
            into.host.isolated.dedup();
        }
    }
}

/// `/proc/cmdline`: fills [`crate::snapshot::Host::isolated`], for trees without the files above.
pub fn cmdline(bytes: &[u8], into: &mut Snapshot) {
    let Some(text) = value(bytes) else { return };
    for word in text.split_whitespace() {
        if let Some(("isolcpus" | "nohz_full", list)) = word.split_once('=')
            && let Some(list) = cpus::list(list)
        {
            into.host.isolated.extend(list);
        }
    }
    into.host.isolated.sort_unstable();
    into.host.isolated.dedup();
}

/// `/sys/devices/system/node/nodeN/cpulist`: fills [`crate::snapshot::Host::nodes`].
pub fn node(node: u32, bytes: &[u8], into: &mut Snapshot) {
    match value(bytes).and_then(cpus::list) {
        Some(list) => _ = into.host.nodes.insert(node, list),
        None => into.note(
            format!("/sys/devices/system/node/node{node}/cpulist"),
            "it is not a list of processors",
        ),
    }
}

/// `/proc/uptime`: fills [`crate::snapshot::Host::uptime_s`].
pub fn uptime(bytes: &[u8], into: &mut Snapshot) {
    let first = value(bytes).and_then(|text| text.split_whitespace().next());
    match first.and_then(|word| word.parse::<f64>().ok()).filter(|s| s.is_finite() && *s >= 0.0) {
        Some(seconds) => into.host.uptime_s = seconds,
        None => into.note("/proc/uptime", "it is not a time in seconds"),
    }
}

/// `/proc/pressure/cpu`: fills [`Snapshot::cpu_pressure_us`].
pub fn pressure(bytes: &[u8], into: &mut Snapshot) {
    const WHAT: &str = "/proc/pressure/cpu";
    let some = lines(bytes, WHAT, into).find_map(|(_, line)| line.strip_prefix("some "));
    let total = some.and_then(|l| l.split_whitespace().find_map(|w| w.strip_prefix("total=")));
    match total.and_then(|word| word.parse().ok()) {
        Some(total) => into.cpu_pressure_us = Some(total),
        None => into.note(WHAT, "it has no total of the line \"some\""),
    }
}

/// `/proc/buddyinfo`: fills [`Snapshot::buddy`].
pub fn buddyinfo(bytes: &[u8], into: &mut Snapshot) {
    const WHAT: &str = "/proc/buddyinfo";
    const ORDERS_MAX: usize = 64;
    let mut sums: Vec<u64> = Vec::new();
    let rows: Vec<_> = lines(bytes, WHAT, into).collect();
    for (n, line) in rows {
        // `Node 0, zone   Normal   4 3 ...`
        let counts = line.split_whitespace().skip(4).map(str::parse::<u64>);
        let Ok(counts) = counts.collect::<Result<Vec<_>, _>>() else {
            into.note(WHAT, format!("line {n} is not of a zone"));
            continue;
        };
        if !line.starts_with("Node ") || counts.is_empty() || counts.len() > ORDERS_MAX {
            into.note(WHAT, format!("line {n} is not of a zone"));
            continue;
        }
        sums.resize(sums.len().max(counts.len()), 0);
        sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum = sum.saturating_add(n));
    }
    into.buddy = sums;
}

/// `CONFIG_HZ` of a kernel's configuration: fills [`crate::snapshot::Host::hz`].
pub fn config(bytes: &[u8], into: &mut Snapshot) {
    let lines = bytes.split(|b| *b == b'\n');
    let hz = lines.filter_map(|line| line.strip_prefix(b"CONFIG_HZ=")).next();
    into.host.hz = hz.and_then(|hz| std::str::from_utf8(hz).ok()?.trim().parse().ok());
}
