//! From a [`Source`] to a [`Snapshot`].

mod archive;
mod devices;
mod power;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::bpf;
use crate::netlink;
use crate::proc::{
    cachestat, mib, number, packet, sockstat, softirqs, softnet, stat, sysctl, system, task, value,
};
use crate::snapshot::Snapshot;
use crate::source::{CLOCK, NETNS, Source};
use crate::tracefs;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// What moves: counters of the host, its protocols and its devices, interrupts, and the sysctls of
    /// the path. Under a millisecond of processor time on a small host.
    Basic,
    /// All that a rule may ask for: queues, affinity, neighbours, sockets, threads, drivers.
    Full,
}

/// Reads snapshots of one host, one after the other. It remembers what does not change between them.
#[derive(Debug)]
pub struct Collector {
    tier: Tier,
    drops: bool,
    probes: bool,
    known: Known,
}

/// What need not be asked for each snapshot.
#[derive(Debug, Default)]
struct Known {
    /// Snapshots until all of this is asked again.
    turns: u32,
    /// Sysctls that this kernel or namespace does not offer.
    absent: BTreeSet<&'static str>,
    nodes: Option<BTreeMap<u32, Vec<u32>>>,
    /// Whose interrupts are whose, and for which devices and interrupts that holds.
    irqs: Vec<(String, Vec<u32>)>,
    irqs_of: (Vec<(String, u32)>, Vec<u32>),
    /// Idle states that take some time to leave: processor, place, name, µs.
    idle: Option<Vec<power::Idle>>,
    /// Kernel threads of the path, and who may own settings; found by looking at all processes.
    tasks: Option<(Vec<u32>, Vec<String>)>,
}

/// What it means if something is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    /// Each Linux has it.
    Always,
    /// Not each kernel, namespace or device has it.
    MayBe,
}

impl Collector {
    /// One that reads this much.
    #[must_use]
    pub fn new(tier: Tier) -> Collector {
        Collector { tier, drops: false, probes: false, known: Known::default() }
    }

    /// Counts drops by reason as well ([`Snapshot::drops`]): from the first snapshot on, this host's
    /// kernel is asked to say why it drops each packet. Root only; it costs the host something for each
    /// drop, and needs a moment at the beginning and at the end.
    #[must_use]
    pub fn with_drops(mut self) -> Collector {
        self.drops = true;
        self
    }

    /// Measures how long things take as well ([`Snapshot::measured`]): from the first snapshot on, this
    /// host's kernel runs programs of ours at its tracepoints. It costs each packet something.
    #[must_use]
    pub fn with_probes(mut self) -> Collector {
        self.probes = true;
        self
    }

    /// Reads the host now. What cannot be read is noted in the snapshot.
    #[must_use]
    pub fn collect(&mut self, source: &mut dyn Source) -> Snapshot {
        const EVERY: u32 = 60;
        if self.known.turns == 0 {
            self.known = Known { turns: EVERY, ..Known::default() };
        }
        self.known.turns -= 1;
        let mut at = At { source, into: Snapshot::default(), known: &mut self.known };
        let archive = at.is_archive();
        if archive {
            at.archived_host();
        }
        at.host();
        at.counters(archive);
        at.sysctls();
        netlink::collect(at.source, self.tier, &mut at.into);
        if archive {
            at.archived_sockets();
        }
        // Of a record, they are there or not.
        if self.drops || !at.source.is_live() {
            at.file(tracefs::NAME, Want::MayBe, tracefs::drops);
        }
        if self.probes || !at.source.is_live() {
            at.probes();
        }
        at.devices(self.tier);
        at.interrupts();
        if self.tier == Tier::Full {
            at.queues();
            at.affinity();
            at.power();
            at.taps();
            at.tasks();
            if archive {
                at.archived_tasks();
            }
        }
        at.into
    }
}

/// One snapshot in the making.
struct At<'a> {
    source: &'a mut dyn Source,
    into: Snapshot,
    known: &'a mut Known,
}

impl At<'_> {
    /// Reads `name` and has it parsed.
    fn file(&mut self, name: &str, want: Want, parse: impl FnOnce(&[u8], &mut Snapshot)) {
        match self.source.read(name) {
            Ok(bytes) => parse(&bytes, &mut self.into),
            Err(err) => self.failed(name, want, &err),
        }
    }

    fn failed(&mut self, name: &str, want: Want, err: &io::Error) {
        let why = match err.kind() {
            // A device that has gone, or a question that this one does not answer.
            io::ErrorKind::NotFound if want == Want::MayBe => return,
            io::ErrorKind::NotFound => "it is not there".to_owned(),
            io::ErrorKind::PermissionDenied if self.source.is_live() => {
                format!("{err}: run as root to read it")
            }
            _ if want == Want::MayBe => return,
            _ => err.to_string(),
        };
        let what = if name.contains('/') { format!("/{name}") } else { name.to_owned() };
        self.into.note(what, why);
    }

    fn probes(&mut self) {
        match self.source.read(bpf::NAME) {
            Ok(bytes) => bpf::parse(&bytes, &mut self.into),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
                self.into.note(
                    bpf::NAME,
                    format!("{err}: probes need root, or CAP_BPF and CAP_PERFMON"),
                );
            }
            Err(err) => self.into.note(bpf::NAME, err.to_string()),
        }
    }

    fn host(&mut self) {
        self.into.host.user_hz = 100;
        self.file(CLOCK, Want::MayBe, clock);
        self.file(NETNS, Want::MayBe, |bytes, into| into.host.netns = number(bytes));
        self.file("proc/sys/kernel/hostname", Want::MayBe, |bytes, into| {
            value(bytes).unwrap_or_default().clone_into(&mut into.host.name);
        });
        self.file("proc/sys/kernel/osrelease", Want::MayBe, |bytes, into| {
            value(bytes).unwrap_or_default().clone_into(&mut into.host.release);
        });
        self.file("proc/uptime", Want::MayBe, system::uptime);
        self.file("proc/cmdline", Want::MayBe, system::cmdline);
        for file in ["online", "isolated", "nohz_full"] {
            let name = format!("sys/devices/system/cpu/{file}");
            self.file(&name, Want::MayBe, |bytes, into| system::cpu_list(file, bytes, into));
        }
        self.nodes();
        if self.into.host.hz.is_none() && !self.into.host.release.contains('/') {
            let name = format!("boot/config-{}", self.into.host.release);
            self.file(&name, Want::MayBe, system::config);
        }
    }

    fn nodes(&mut self) {
        if let Some(nodes) = &self.known.nodes {
            self.into.host.nodes.clone_from(nodes);
            return;
        }
        for name in self.source.list("sys/devices/system/node").unwrap_or_default() {
            if let Some(node) = name.strip_prefix("node").and_then(|n| n.parse().ok()) {
                let name = format!("sys/devices/system/node/{name}/cpulist");
                self.file(&name, Want::MayBe, |bytes, into| system::node(node, bytes, into));
            }
        }
        self.known.nodes = Some(self.into.host.nodes.clone());
    }

    fn counters(&mut self, archive: bool) {
        if archive {
            self.archived_counters();
        }
        self.file("proc/stat", Want::Always, stat::stat);
        self.processors();
        self.file("proc/net/softnet_stat", Want::Always, softnet::softnet_stat);
        self.file("proc/softirqs", Want::Always, softirqs::softirqs);
        self.file("proc/net/snmp", Want::Always, mib::snmp);
        self.file("proc/net/netstat", Want::Always, mib::netstat);
        self.file("proc/net/sockstat", Want::Always, sockstat::sockstat);
        // Without IPv6 these two are not there.
        self.file("proc/net/snmp6", Want::MayBe, mib::snmp6);
        self.file("proc/net/sockstat6", Want::MayBe, sockstat::sockstat6);
        for table in ["arp_cache", "ndisc_cache"] {
            let name = format!("proc/net/stat/{table}");
            self.file(&name, Want::MayBe, |bytes, into| cachestat::neigh(table, bytes, into));
        }
        self.file("proc/net/stat/nf_conntrack", Want::MayBe, cachestat::nf_conntrack);
        self.file("proc/pressure/cpu", Want::MayBe, system::pressure);
        self.file("proc/buddyinfo", Want::MayBe, system::buddyinfo);
    }

    /// What a tree without sysfs does not say otherwise: which processors there are and, since the
    /// time of each is all that has passed, the time since boot.
    fn processors(&mut self) {
        let host = &mut self.into.host;
        if host.cpus.is_empty() {
            host.cpus = self.into.cpus.keys().copied().collect();
        }
        if host.uptime_s == 0.0 {
            // The guests' time is part of the users'.
            let own = |(name, _): &(&str, u64)| !name.starts_with("guest");
            let times =
                self.into.cpus.values().map(|c| c.iter().filter(own).map(|(_, t)| t as f64).sum());
            host.uptime_s = times.fold(0.0, f64::max) / f64::from(host.user_hz);
        }
        if self.into.monotonic_ns == 0 {
            self.into.monotonic_ns = (self.into.host.uptime_s * 1e9) as u64;
        }
    }

    fn sysctls(&mut self) {
        for path in sysctl::NAMES {
            if self.known.absent.contains(path) {
                continue;
            }
            match self.source.read(&format!("proc/sys/{path}")) {
                Ok(bytes) => {
                    sysctl::sysctl(path, &bytes, &mut self.into);
                    self.stands_for(&format!("proc/sys/{path}"));
                }
                Err(err) => {
                    if err.kind() == io::ErrorKind::NotFound {
                        self.known.absent.insert(path);
                    }
                    self.failed(&format!("proc/sys/{path}"), Want::MayBe, &err);
                }
            }
        }
        // Host-wide settings are in the first namespace only.
        let here = self.into.sysctls.contains_key("net.core.netdev_max_backlog");
        let child = self.into.sysctls.contains_key("net.core.somaxconn");
        self.into.host.is_init_netns = if here { Some(true) } else { child.then_some(false) };
    }

    fn taps(&mut self) {
        if self.into.sockets.taps.is_empty() {
            self.file("proc/net/packet", Want::MayBe, packet::packet);
        }
        self.file("proc/net/ptype", Want::MayBe, packet::ptype);
        // Only where the module is.
        self.file("proc/net/sctp/snmp", Want::MayBe, mib::sctp);
    }

    /// Reads the threads, and who owns settings.
    fn tasks(&mut self) {
        let (mut threads, owners) = match self.known.tasks.take() {
            Some(tasks) => tasks,
            None => self.find_tasks(),
        };
        self.into.host.owners.clone_from(&owners);
        threads.retain(|pid| match self.source.read(&format!("proc/{pid}/stat")) {
            Ok(bytes) => task::stat(*pid, &bytes, &mut self.into).is_some(),
            Err(_) => false,
        });
        self.known.tasks = Some((threads, owners));
    }

    /// The threads of the path and the owners of settings, among all processes.
    fn find_tasks(&mut self) -> (Vec<u32>, Vec<String>) {
        let (mut threads, mut owners) = (Vec::new(), Vec::new());
        for pid in self.source.list("proc").unwrap_or_default() {
            let Ok(pid) = pid.parse::<u32>() else { continue };
            let Ok(comm) = self.source.read(&format!("proc/{pid}/comm")) else { continue };
            let comm = value(&comm).unwrap_or_default();
            if task::is_kthread(comm) {
                threads.push(pid);
            }
            owners.extend(task::owner(comm).map(str::to_owned));
        }
        owners.sort_unstable();
        owners.dedup();
        (threads, owners)
    }
}

/// [`CLOCK`].
fn clock(bytes: &[u8], into: &mut Snapshot) {
    for line in value(bytes).unwrap_or_default().lines() {
        match line.split_once(' ').map(|(name, number)| (name, number.parse::<u64>())) {
            Some(("monotonic_ns", Ok(ns))) => into.monotonic_ns = ns,
            Some(("wall_ns", Ok(ns))) => into.wall_ns = ns,
            Some(("tick_ns", Ok(ns @ 1..))) => {
                into.host.hz = u32::try_from(1_000_000_000 / ns).ok()
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
