//! Two snapshots, and what happened between them.

use crate::bpf::hist::Hist;
use crate::counters::Counters;
use crate::finding::{Evidence, Value};
use crate::snapshot::{Dev, Listener, Snapshot, Tap, TcpSocket, UdpSocket};

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

/// How several counters moved that count parts of one thing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// By how much together.
    pub by: u64,
    /// The same in a second.
    pub per_s: f64,
    /// What proves it: those that moved.
    pub evidence: Vec<Evidence>,
}

impl Sum {
    /// Those of `parts` that are known, together; `None` if none is.
    #[must_use]
    pub fn of(parts: impl IntoIterator<Item = Option<Delta>>) -> Option<Sum> {
        parts.into_iter().flatten().fold(None, |sum, part| {
            let mut sum: Sum = sum.unwrap_or_default();
            sum.by = sum.by.saturating_add(part.by);
            sum.per_s += part.per_s;
            if part.by > 0 {
                sum.evidence.push(part.evidence);
            }
            Some(sum)
        })
    }

    /// The largest of `parts`, which count the same event, each in its own way; the others bear
    /// witness.
    #[must_use]
    pub fn same(parts: impl IntoIterator<Item = Option<Delta>>) -> Option<Sum> {
        let mut parts: Vec<Delta> = parts.into_iter().flatten().collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.by));
        let (by, per_s) = parts.first().map(|part| (part.by, part.per_s))?;
        let moved = parts.into_iter().filter(|part| part.by > 0);
        Some(Sum { by, per_s, evidence: moved.map(|part| part.evidence).collect() })
    }

    /// Without `by` of them, which something else accounts for.
    #[must_use]
    pub fn without(mut self, by: u64) -> Sum {
        let left = self.by.saturating_sub(by);
        self.per_s *= left as f64 / self.by.max(1) as f64;
        self.by = left;
        self
    }
}

impl From<Delta> for Sum {
    fn from(part: Delta) -> Sum {
        Sum { by: part.by, per_s: part.per_s, evidence: vec![part.evidence] }
    }
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

    /// A counter of several sections of the MIB, as of `Udp` and `Udp6`.
    #[must_use]
    pub fn mibs(&self, sections: &[&str], name: &str) -> Option<Sum> {
        Sum::of(sections.iter().map(|section| self.mib(section, name)))
    }

    /// Drops by `skb:kfree_skb` whose `REASON@function` is one that `is` wants; `None` if nobody
    /// looked. A name that is new in the later snapshot began at 0.
    #[must_use]
    pub fn drops(&self, is: impl Fn(&str, &str) -> bool) -> Option<Sum> {
        let now = self.to.drops.as_ref()?;
        let before = match self.from {
            Some(from) => Some(from.drops.as_ref()?),
            None => None,
        };
        let wanted = |name: &str| name.split_once('@').is_some_and(|(why, at)| is(why, at));
        let names = now.by.iter().filter(|(name, _)| wanted(name));
        let parts = names.map(|(name, to)| {
            let from = before.and_then(|b| b.by.get(name)).unwrap_or(0);
            let by = to.saturating_sub(from);
            Some(self.delta(now.by.source(), name, from, to, by))
        });
        Some(Sum::of(parts).unwrap_or_default())
    }

    /// A number that went from `from` to `to`.
    fn delta(&self, source: &str, name: &str, from: u64, to: u64, by: u64) -> Delta {
        let per_s = by as f64 / self.secs();
        let evidence = Evidence {
            source: source.into(),
            name: name.into(),
            from: Some(Value::Number(from)),
            to: Value::Number(to),
            per_s: Some(per_s),
        };
        Delta { by, per_s, evidence }
    }

    /// Drops of one socket, whose 32 bits may have begun anew.
    fn socket(&self, source: String, name: &str, from: Option<u32>, to: u32) -> Option<Delta> {
        let from = match (self.from, from) {
            (None, _) => 0,
            (Some(_), from) => from.unwrap_or(0),
        };
        let by = to.wrapping_sub(from);
        (by <= u32::MAX / 2)
            .then(|| self.delta(&source, name, from.into(), to.into(), by.into()))
            .filter(|delta| delta.by > 0)
    }

    /// UDP sockets that dropped, with their drops.
    #[must_use]
    pub fn udp_drops(&self) -> Vec<(&'a UdpSocket, Delta)> {
        let old = |s: &UdpSocket| {
            let same = |o: &&UdpSocket| o.owner.inode == s.owner.inode && o.local == s.local;
            self.from.and_then(|from| from.sockets.udp.iter().find(same)).map(|o| o.drops)
        };
        let of = |s: &'a UdpSocket| {
            let source = format!("netlink/sock_diag/udp {}", s.local);
            self.socket(source, "drops", old(s), s.drops).map(|delta| (s, delta))
        };
        worst_first(self.to.sockets.udp.iter().filter_map(of).collect())
    }

    /// Listeners that dropped, with their drops.
    #[must_use]
    pub fn listen_drops(&self) -> Vec<(&'a Listener, Delta)> {
        let old = |s: &Listener| {
            let same = |o: &&Listener| o.owner.inode == s.owner.inode && o.local == s.local;
            self.from.and_then(|from| from.sockets.listeners.iter().find(same)).map(|o| o.drops)
        };
        let of = |s: &'a Listener| {
            let source = format!("netlink/sock_diag/tcp {}", s.local);
            self.socket(source, "drops", old(s), s.drops).map(|delta| (s, delta))
        };
        worst_first(self.to.sockets.listeners.iter().filter_map(of).collect())
    }

    /// Packet sockets that dropped, with their drops.
    #[must_use]
    pub fn tap_drops(&self) -> Vec<(&'a Tap, Delta)> {
        let old = |s: &Tap| {
            let same = |o: &&Tap| o.owner.inode == s.owner.inode;
            self.from.and_then(|from| from.sockets.taps.iter().find(same)).and_then(|o| o.drops)
        };
        let of = |s: &'a Tap| {
            let dev = s.dev.as_deref().unwrap_or("all devices");
            let source = format!("netlink/sock_diag/packet {dev} inode {}", s.owner.inode);
            self.socket(source, "drops", old(s), s.drops?).map(|delta| (s, delta))
        };
        worst_first(self.to.sockets.taps.iter().filter_map(of).collect())
    }

    /// TCP connections that both snapshots know, before and now.
    pub fn connections(&self) -> impl Iterator<Item = (&'a TcpSocket, &'a TcpSocket)> {
        let old = self.from.map(|from| from.sockets.tcp.as_slice()).unwrap_or_default();
        let key = |s: &TcpSocket| (s.local, s.remote, s.owner.inode);
        let old: std::collections::BTreeMap<_, _> = old.iter().map(|s| (key(s), s)).collect();
        self.to.sockets.tcp.iter().filter_map(move |s| Some((*old.get(&key(s))?, s)))
    }

    /// What probes measured of `name` on a processor, or on all of them; `None` if nobody measured.
    #[must_use]
    pub fn measured(&self, name: &str, cpu: Option<u32>) -> Option<Hist> {
        let now = self.to.measured.as_ref()?;
        let before = self.from.and_then(|from| from.measured.as_ref());
        let mut all = Hist::default();
        for (at, hist) in now.hists.get(name).into_iter().flatten() {
            if cpu.is_none_or(|cpu| cpu == *at) {
                let old = before.and_then(|b| b.hists.get(name)?.get(at));
                all.merge(&old.map_or_else(|| hist.clone(), |old| hist.since(old)));
            }
        }
        Some(all)
    }

    /// The same of all whose names begin so, without that part of the name; those that are empty are
    /// left out.
    #[must_use]
    pub fn measured_as(&self, begin: &str, cpu: Option<u32>) -> Vec<(&'a str, Hist)> {
        let names = self.to.measured.iter().flat_map(|all| all.hists.keys());
        let of = |name: &'a String| {
            let rest = name.strip_prefix(begin)?;
            self.measured(name, cpu).filter(|hist| !hist.is_empty()).map(|hist| (rest, hist))
        };
        names.filter_map(of).collect()
    }

    /// The share of its time that a processor spent on `what` (user, system, softirq, idle, steal,
    /// ...) of `/proc/stat`, 0 to 1.
    #[must_use]
    pub fn cpu_share(&self, cpu: u32, what: &str) -> Option<f64> {
        const ALL: [&str; 8] =
            ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
        let by = |name: &str| self.of(name, |s| s.cpus.get(&cpu)).map(|d| d.by);
        let all = total(ALL.iter().filter_map(|name| by(name)));
        Some(by(what)? as f64 / all.max(1) as f64)
    }
}

/// Their sum; what is too much for it is its most.
pub(crate) fn total(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

fn worst_first<T>(mut all: Vec<(T, Delta)>) -> Vec<(T, Delta)> {
    all.sort_by_key(|(_, delta)| std::cmp::Reverse(delta.by));
    all
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
        self.lasting(|w| of(w).map_or(0, |d| d.by)).then_some(all)
    }

    /// As [`Cx::moved`], of counters together.
    #[must_use]
    pub fn grew(&self, of: impl Fn(&Window<'a>) -> Option<Sum>) -> Option<Sum> {
        let all = of(&self.whole()).filter(|sum| sum.by > 0)?;
        self.lasting(|w| of(w).map_or(0, |sum| sum.by)).then_some(all)
    }

    /// As [`Cx::grew`], if that was also at least `ratio` of it and of `whole` together. Since boot,
    /// where a few of very many prove nothing, at least `lifetime_ratio`, and only if `whole` is known.
    #[must_use]
    pub fn lossy(
        &self,
        ratio: f64,
        of: impl Fn(&Window<'a>) -> Option<Sum>,
        whole: impl Fn(&Window<'a>) -> Option<Sum>,
    ) -> Option<Sum> {
        let all = self.grew(of)?;
        let run = self.whole();
        let (ratio, whole) = match (whole(&run), run.is_lifetime()) {
            (None, true) => return None,
            (whole, true) => (ratio.max(self.limits.lifetime_ratio), whole),
            (whole, false) => (ratio, whole),
        };
        let whole = whole.map_or(0, |sum| sum.by).saturating_add(all.by);
        (all.by as f64 >= ratio * whole as f64).then_some(all)
    }

    /// Whether something moved in enough windows, or in one by so much that it counts alone: since
    /// boot nothing less says anything.
    fn lasting(&self, by: impl Fn(&Window<'a>) -> u64) -> bool {
        let by: Vec<u64> = self.windows.iter().map(by).collect();
        let seen = by.iter().filter(|by| **by > 0).count();
        let often = seen >= (self.limits.windows as usize).min(by.len());
        (often && !self.whole().is_lifetime())
            || by.iter().any(|by| *by as f64 >= self.limits.burst)
    }

    /// In what share of the windows something moved, 0 to 1.
    #[must_use]
    pub fn share_of_windows(&self, of: impl Fn(&Window<'a>) -> u64) -> f64 {
        let seen = self.windows.iter().filter(|w| of(w) > 0).count();
        seen as f64 / self.windows.len() as f64
    }

    /// The most that something moved in one window.
    #[must_use]
    pub fn most(&self, of: impl Fn(&Window<'a>) -> u64) -> u64 {
        self.windows.iter().map(of).max().unwrap_or(0)
    }
}
