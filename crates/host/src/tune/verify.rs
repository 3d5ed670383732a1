//! Whether a change helped, and nothing else got worse.

use serde::Serialize;

use crate::finding::Finding;
use crate::window::Window;

/// Traffic of which a comparison says nothing: below this share of what there was before.
const ENOUGH: f64 = 0.8;
/// A guard got worse when it is above this many times what it was, and above its floor.
const WORSE: f64 = 1.5;

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// The finding is gone, with about the traffic there was.
    Cured,
    /// It is less than half of what it was.
    Better {
        /// Losses in a second before.
        from: f64,
        /// And now.
        to: f64,
    },
    /// It is as it was.
    Same {
        /// Losses in a second now.
        loss_per_s: f64,
    },
    /// Something else got worse.
    Worse {
        /// What, and by how much.
        what: String,
    },
    /// The finding is gone, and so is most of the traffic.
    Unproven {
        /// Packets in a second before.
        from: f64,
        /// And now.
        to: f64,
    },
}

/// Compares the time before a change with the time after it, for one finding.
///
/// `after` are the findings of the time after.
#[must_use]
pub fn verify(
    finding: &Finding,
    before: &Window<'_>,
    now: &Window<'_>,
    after: &[Finding],
) -> Verdict {
    if let Some(what) = worse(before, now) {
        return Verdict::Worse { what };
    }
    let same = |f: &&Finding| f.id == finding.id && f.subject == finding.subject;
    let (from, to) = (packets_per_s(before), packets_per_s(now));
    match after.iter().find(same) {
        None if to < from * ENOUGH => Verdict::Unproven { from, to },
        None => Verdict::Cured,
        Some(left) if left.loss_per_s < finding.loss_per_s / 2.0 => {
            Verdict::Better { from: finding.loss_per_s, to: left.loss_per_s }
        }
        Some(left) => Verdict::Same { loss_per_s: left.loss_per_s },
    }
}

/// Packets in a second that all devices but loopback received and sent.
#[must_use]
pub fn packets_per_s(w: &Window<'_>) -> f64 {
    let devs = w.to.devs.keys().filter(|name| name.as_str() != "lo");
    let of = |dev: &String, name: &str| w.dev(dev, name).map_or(0.0, |d| d.per_s);
    devs.map(|dev| of(dev, "rx_packets") + of(dev, "tx_packets")).sum()
}

/// The first guard that got worse: losses elsewhere, retransmissions, time in softirq.
fn worse(before: &Window<'_>, now: &Window<'_>) -> Option<String> {
    type Measure = fn(&Window<'_>) -> f64;
    let per_s =
        |w: &Window<'_>, section: &str, name: &str| w.mib(section, name).map_or(0.0, |d| d.per_s);
    let retrans: Measure = |w| {
        let of = |name| w.mib("Tcp", name).map_or(0.0, |d| d.per_s);
        if of("OutSegs") < 100.0 { 0.0 } else { 100.0 * of("RetransSegs") / of("OutSegs") }
    };
    let softirq: Measure = |w| {
        let cpus = w.to.cpus.keys();
        100.0 * cpus.filter_map(|cpu| w.cpu_share(*cpu, "softirq")).fold(0.0, f64::max)
    };
    let backlog: Measure = |w| {
        let cpus = w.to.softnet.keys();
        cpus.filter_map(|cpu| w.softnet(*cpu, "dropped")).map(|d| d.per_s).sum()
    };
    let missed: Measure = |w| {
        let devs = w.to.devs.keys();
        devs.filter_map(|dev| w.dev(dev, "rx_missed_errors")).map(|d| d.per_s).sum()
    };
    let guards: [(&str, f64, f64, f64); 6] = [
        ("retransmitted segments, %", retrans(before), retrans(now), 1.0),
        ("time in softirq of the busiest processor, %", softirq(before), softirq(now), 60.0),
        ("packets dropped at the backlog, /s", backlog(before), backlog(now), 10.0),
        ("packets that a device missed, /s", missed(before), missed(now), 10.0),
        (
            "datagrams dropped at receive buffers, /s",
            per_s(before, "Udp", "RcvbufErrors"),
            per_s(now, "Udp", "RcvbufErrors"),
            10.0,
        ),
        (
            "connections that a listener dropped, /s",
            per_s(before, "TcpExt", "ListenDrops"),
            per_s(now, "TcpExt", "ListenDrops"),
            1.0,
        ),
    ];
    let worse = |(_, from, to, floor): &(&str, f64, f64, f64)| *to > *floor && *to > *from * WORSE;
    let (what, from, to, _) = guards.into_iter().find(worse)?;
    Some(format!("{what}: {from:.1} before, {to:.1} now"))
}

#[cfg(test)]
mod tests {
    use super::super::model::finding;
    use super::*;
    use crate::counters::Counters;
    use crate::snapshot::{Dev, Snapshot};

    /// A host at second `s`, with so many packets and drops at its backlog.
    fn at(s: u64, packets: u64, dropped: u64) -> Snapshot {
        let mut snapshot = Snapshot { monotonic_ns: s * 1_000_000_000, ..Snapshot::default() };
        let mut stats = Counters::new("netlink RTM_GETLINK eth0");
        stats.set("rx_packets", packets);
        let mut softnet = Counters::new("/proc/net/softnet_stat:1").wrapping_at(32);
        softnet.set("dropped", dropped);
        snapshot.devs.insert("eth0".into(), Dev { stats, ..Dev::default() });
        snapshot.softnet.insert(0, softnet);
        snapshot
    }

    fn verdict(later: &Snapshot, after: &[Finding]) -> Verdict {
        let (a, b, c) = (at(0, 0, 0), at(10, 10_000, 0), at(10, 10_000, 0));
        let before = Window { from: Some(&a), to: &b };
        let now = Window { from: Some(&c), to: later };
        let mut found = finding("R43", &[]);
        found.loss_per_s = 100.0;
        verify(&found, &before, &now, after)
    }

    #[test]
    fn gone_is_cured_only_with_the_traffic_that_there_was() {
        assert_eq!(verdict(&at(20, 20_000, 0), &[]), Verdict::Cured);
        assert_eq!(verdict(&at(20, 12_000, 0), &[]), Verdict::Unproven { from: 1000.0, to: 200.0 });
    }

    #[test]
    fn what_is_left_is_weighed_and_another_loss_is_worse() {
        let mut left = finding("R43", &[]);
        left.loss_per_s = 40.0;
        let later = at(20, 20_000, 0);
        assert_eq!(
            verdict(&later, std::slice::from_ref(&left)),
            Verdict::Better { from: 100.0, to: 40.0 }
        );
        left.loss_per_s = 60.0;
        assert_eq!(verdict(&later, &[left]), Verdict::Same { loss_per_s: 60.0 });
        assert!(matches!(verdict(&at(20, 20_000, 9000), &[]), Verdict::Worse { .. }));
    }
}
