//! What disciplines count, and as `tc -s qdisc show` prints it.
//!
//! Linux: net/core/gen_stats.c; iproute2's tc/tc_qdisc.c `print_qdisc`

use std::fmt::Write;

use super::{Qdisc, Root};
use crate::link::{Iface, TxQueue};

/// The counts that every discipline has (`struct gnet_stats_basic`, `struct gnet_stats_queue`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that left it for the device, as the wire carries them.
    pub bytes: u64,
    /// Packets that left it for the device; a super-packet counts as its segments.
    pub packets: u64,
    /// Packets that it dropped.
    pub drops: u64,
    /// Times that a packet had to wait though the device had room.
    pub overlimits: u64,
    /// Packets that were put in front of others.
    pub requeues: u64,
    /// Bytes that wait.
    pub backlog: u64,
    /// Packets that wait.
    pub qlen: u64,
}

/// A discipline as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Show {
    /// The device's name.
    pub dev: String,
    /// Its kind.
    pub kind: String,
    /// Its major number; 0 = none.
    pub handle: u16,
    /// Where it hangs: handle and class, or the root.
    pub parent: Option<(u16, u16)>,
    /// In front of the path instead of behind it.
    pub ingress: bool,
    /// Its parameters, as tc prints them.
    pub options: String,
    /// Its counts.
    pub stats: Stats,
    /// What it counts beside, by tc's names.
    pub xstats: Vec<(&'static str, u64)>,
}

impl Show {
    /// `root`, `ingress`, or the class that it hangs in.
    pub fn place(&self) -> String {
        match self.parent {
            None if self.ingress => "ingress".to_owned(),
            None => "root".to_owned(),
            Some((0, minor)) => format!("parent :{minor:x}"),
            Some((major, minor)) => format!("parent {major:x}:{minor:x}"),
        }
    }
    /// A line about what it is, and indented ones about what it did, as `tc -s qdisc show` prints them.
    pub fn text(&self) -> String {
        let Show { dev, kind, handle, stats: s, .. } = self;
        let place = self.place();
        let blank = if self.options.is_empty() { "" } else { " " };
        let mut out =
            format!("qdisc {kind} {handle:x}: dev {dev} {place}{blank}{}\n", self.options);
        let _ = write!(
            out,
            " Sent {} bytes {} pkt (dropped {}, overlimits {} requeues {}) \n backlog {} {}p requeues {}\n",
            s.bytes,
            s.packets,
            s.drops,
            s.overlimits,
            s.requeues,
            size(s.backlog),
            s.qlen,
            s.requeues
        );
        for (i, (name, value)) in self.xstats.iter().enumerate() {
            // tc begins a line here.
            let begins = i == 0 || matches!(*name, "new_flows_len" | "gc" | "maxpacket");
            let before = if !begins {
                " "
            } else if i == 0 {
                "  "
            } else {
                "\n  "
            };
            let _ = write!(out, "{before}{name} {value}");
        }
        if !self.xstats.is_empty() {
            out.push('\n');
        }
        out
    }
}

/// What tc prints of `pfifo_fast`.
pub(super) const PFIFO_FAST: &str = "bands 3 priomap 1 2 2 2 1 2 0 0 1 1 1 1 1 1 1 1";

/// All disciplines of a device: where it has several transmit queues, under an `mq` that has none of
/// its own.
pub fn show(iface: &Iface) -> Vec<Show> {
    let mut all = Vec::new();
    let several = iface.txqs.len() > 1;
    for (at, txq) in iface.txqs.iter().enumerate() {
        let parent = several.then_some((0, at as u16 + 1));
        match &txq.qdisc {
            Root::PfifoFast(_) => all.push(fast(iface, txq, parent)),
            Root::Other(sched) => below(iface, &sched.qdisc, parent, false, &mut all),
        }
    }
    if let Some(sched) = &iface.rx_qdisc {
        below(iface, &sched.qdisc, None, true, &mut all);
    }
    all
}

fn fast(iface: &Iface, txq: &TxQueue, parent: Option<(u16, u16)>) -> Show {
    let stats = Stats {
        bytes: txq.sent_bytes,
        packets: txq.sent,
        drops: txq.drops,
        backlog: txq.bytes as u64,
        qlen: txq.qdisc.len() as u64,
        ..Stats::default()
    };
    Show {
        dev: iface.name.clone(),
        kind: "pfifo_fast".to_owned(),
        handle: 0,
        parent,
        ingress: false,
        options: PFIFO_FAST.to_owned(),
        stats,
        xstats: Vec::new(),
    }
}

fn below(
    iface: &Iface,
    qdisc: &Qdisc,
    parent: Option<(u16, u16)>,
    ingress: bool,
    all: &mut Vec<Show>,
) {
    all.push(Show {
        dev: iface.name.clone(),
        kind: qdisc.spec.kind().to_owned(),
        handle: qdisc.handle,
        parent,
        ingress,
        options: qdisc.spec.options(),
        stats: qdisc.stats(),
        xstats: qdisc.xstats(),
    });
    // Those that a discipline brings along by itself have no handle; tc does not show them, either.
    for (minor, child) in qdisc.children().into_iter().filter(|(_, child)| child.handle != 0) {
        below(iface, child, Some((qdisc.handle, minor)), ingress, all);
    }
}

/// Three significant digits, as `%.3g` prints them.
fn three(x: f64) -> String {
    let places = if x >= 100.0 {
        0
    } else if x >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{x:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A time as tc prints it (`sprint_time64`).
pub(super) fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => three(ns as f64 / 1e3) + "us",
        1_000_000..1_000_000_000 => three(ns as f64 / 1e6) + "ms",
        _ => three(ns as f64 / 1e9) + "s",
    }
}

/// A rate as tc prints it, given in bytes a second (`tc_print_rate`).
pub(super) fn rate(bytes: u64) -> String {
    let mut rate = bytes as u128 * 8;
    let mut unit = 0;
    while unit < 4 && rate >= 1000 && (rate.is_multiple_of(1000) || rate >= 1_000_000) {
        rate /= 1000;
        unit += 1;
    }
    format!("{rate}{}bit", ["", "K", "M", "G", "T"][unit])
}

/// A size as tc prints it (`print_size`).
pub(super) fn size(bytes: u64) -> String {
    const K: u64 = 1024;
    const M: u64 = K * K;
    let near = |unit: u64, by: u64| ((bytes + unit / 2) / unit * unit).abs_diff(bytes) < by;
    match bytes {
        M.. if near(M, 1024) => format!("{}Mb", (bytes + M / 2) / M),
        K.. if near(K, 16) => format!("{}Kb", (bytes + K / 2) / K),
        _ => format!("{bytes}b"),
    }
}

/// A share of 2^32 - 1 as a percentage.
pub(super) fn percent(share: u32) -> String {
    let text = format!("{:.4}", share as f64 * 100.0 / u32::MAX as f64);
    text.trim_end_matches('0').trim_end_matches('.').to_owned() + "%"
}
