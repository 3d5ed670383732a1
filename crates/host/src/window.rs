//! Two snapshots, and what happened between them.

use crate::counters::Counters;
use crate::finding::{Evidence, Value};
use crate::snapshot::{Dev, Snapshot};

/// What the owner of the host wants most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// Much, and none lost.
    #[default]
    Throughput,
    /// Soon.
    Latency,
}

/// What happened between two snapshots of one host.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    /// The earlier one; `None`: everything since boot (a single snapshot).
    pub from: Option<&'a Snapshot>,
    /// The later one.
    pub to: &'a Snapshot,
}

/// How a counter moved.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// By how much.
    pub by: u64,
    /// The same in a second.
    pub per_s: f64,
    /// What proves it.
    pub evidence: Evidence,
}

impl<'a> Window<'a> {
    /// Its length in seconds: since boot where there is one snapshot only.
    #[must_use]
    pub fn secs(&self) -> f64 {
        match self.from {
            Some(from) => self.to.monotonic_ns.saturating_sub(from.monotonic_ns) as f64 / 1e9,
            None => self.to.host.uptime_s,
        }
        .max(1e-3)
    }

    /// Whether this is all since boot, and so nothing that must still be happening.
    #[must_use]
    pub fn is_lifetime(&self) -> bool {
        self.from.is_none()
    }

    /// How `name` moved in those counters that `of` finds in both snapshots; `None` if it is not there,
    /// or was reset in between.
    #[must_use]
    pub fn of(
        &self,
        name: &str,
        of: impl Fn(&'a Snapshot) -> Option<&'a Counters>,
    ) -> Option<Delta> {
        let now = of(self.to)?;
        let to = now.get(name)?;
        let (before, by) = match self.from {
            Some(from) => {
                let old = of(from)?;
                (old.get(name)?, now.grown(old, name)?)
            }
            None => (0, to),
        };
        let per_s = by as f64 / self.secs();
        let evidence = Evidence {
            source: now.source().into(),
            name: name.into(),
            from: Some(Value::Number(before)),
            to: Value::Number(to),
            per_s: Some(per_s),
        };
        Some(Delta { by, per_s, evidence })
    }

    /// A counter of the MIB.
    #[must_use]
    pub fn mib(&self, section: &str, name: &str) -> Option<Delta> {
        self.of(name, |s| s.mib.get(section))
    }

    /// One of `/proc/net/softnet_stat`, of one processor.
    #[must_use]
    pub fn softnet(&self, cpu: u32, name: &str) -> Option<Delta> {
        self.of(name, |s| s.softnet.get(&cpu))
    }

    /// One of the link's statistics.
    #[must_use]
    pub fn dev(&self, dev: &str, name: &str) -> Option<Delta> {
        self.dev_of(dev, name, |d| &d.stats)
    }

    /// One of any counters of a device.
    #[must_use]
    pub fn dev_of(
        &self,
        dev: &str,
        name: &str,
        of: impl Fn(&'a Dev) -> &'a Counters,
    ) -> Option<Delta> {
        self.of(name, |s| s.devs.get(dev).map(&of))
    }

    /// By how much it moved, 0 if unknown: for sums and comparisons, never as evidence.
    #[must_use]
    pub fn mib_by(&self, section: &str, name: &str) -> u64 {
        self.mib(section, name).map_or(0, |d| d.by)
    }

    /// The share of its time that a processor spent on `what` (user, system, softirq, idle, steal,
    /// ...) of `/proc/stat`, 0 to 1.
    #[must_use]
    pub fn cpu_share(&self, cpu: u32, what: &str) -> Option<f64> {
        const ALL: [&str; 8] =
            ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
        let by = |name: &str| self.of(name, |s| s.cpus.get(&cpu)).map(|d| d.by);
        let all: u64 = ALL.iter().filter_map(|name| by(name)).sum();
        Some(by(what)? as f64 / all.max(1) as f64)
    }
}

/// What a rule sees.
pub struct Cx<'a> {
    /// Windows of one run, oldest first, at least one.
    pub windows: Vec<Window<'a>>,
    /// What the owner wants.
    pub goal: Goal,
    /// Thresholds.
    pub limits: crate::rules::Limits,
}

impl<'a> Cx<'a> {
    /// The whole run as one window.
    #[must_use]
    pub fn whole(&self) -> Window<'a> {
        let (first, last) = (self.windows[0], self.windows[self.windows.len() - 1]);
        Window { from: first.from, to: last.to }
    }

    /// The last snapshot.
    #[must_use]
    pub fn now(&self) -> &'a Snapshot {
        self.whole().to
    }

    /// A counter that moved over the whole run, and in at least [`crate::rules::Limits::windows`] of
    /// its windows (in the one there is, if there is one only): what happened once is over.
    #[must_use]
    pub fn moved(&self, of: impl Fn(&Window<'a>) -> Option<Delta>) -> Option<Delta> {
        let all = of(&self.whole()).filter(|d| d.by > 0)?;
        let seen = self.windows.iter().filter(|w| of(w).is_some_and(|d| d.by > 0)).count();
        (seen >= self.limits.windows.min(self.windows.len())).then_some(all)
    }
}
