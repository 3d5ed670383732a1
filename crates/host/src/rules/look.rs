//! What several rules ask of a snapshot or a window.

use std::collections::BTreeMap;

use crate::change::Change;
use crate::counters::Counters;
use crate::snapshot::{Dev, Feature, Irq, Owner, Rss};
use crate::window::{Cx, Delta, Sum, Window, total};

/// Sections of the MIB that count the same for both families.
pub(crate) const IP: &[&str] = &["Ip", "Ip6"];
/// Likewise for UDP.
pub(crate) const UDP: &[&str] = &["Udp", "Udp6"];

/// ethtool's short names of features, what the kernel calls them, and what `ethtool -k` prints.
const FEATURES: &[(&str, &str, &str)] = &[
    ("gro", "rx-gro", "generic-receive-offload"),
    ("gso", "tx-generic-segmentation", "generic-segmentation-offload"),
    ("lro", "rx-lro", "large-receive-offload"),
    ("ntuple", "rx-ntuple-filter", "ntuple-filters"),
    ("rx", "rx-checksum", "rx-checksumming"),
    ("sg", "tx-scatter-gather", "scatter-gather"),
    ("tso", "tx-tcp-segmentation", "tcp-segmentation-offload"),
    ("tx", "tx-checksum-ip-generic", "tx-checksumming"),
];

/// A feature by any of its names.
pub(crate) fn feature(dev: &Dev, name: &str) -> Option<Feature> {
    let names = FEATURES.iter().find(|(a, b, c)| [*a, *b, *c].contains(&name));
    let (a, b, c) = names.copied().unwrap_or((name, name, name));
    [b, c, a].iter().find_map(|name| dev.features.get(*name)).copied()
}

/// How many places of the indirection table each queue has.
pub(crate) fn table(rss: &Rss) -> BTreeMap<u32, usize> {
    let mut by = BTreeMap::new();
    for queue in &rss.indir {
        *by.entry(*queue).or_default() += 1;
    }
    by
}

/// Whether a device is hardware (or a virtual machine's idea of it), not one of the kernel's own.
pub(crate) fn is_hardware(dev: &Dev) -> bool {
    dev.kind.is_empty() && dev.name != "lo" && dev.driver != "veth" && dev.driver != "tun"
}

/// Whether it is a veth, by its kind or its driver.
pub(crate) fn is_veth(dev: &Dev) -> bool {
    dev.kind == "veth" || dev.driver == "veth"
}

/// Whether it is a TUN or TAP device.
pub(crate) fn is_tun(dev: &Dev) -> bool {
    dev.kind == "tun" || dev.driver == "tun"
}

/// Whether it carries packets of other devices in packets of its own.
pub(crate) fn is_tunnel(dev: &Dev) -> bool {
    const KINDS: [&str; 10] = [
        "vxlan",
        "geneve",
        "gre",
        "gretap",
        "ip6gre",
        "ip6gretap",
        "ipip",
        "sit",
        "ip6tnl",
        "wireguard",
    ];
    KINDS.contains(&dev.kind.as_str())
}

/// Processors as `0-3,5`.
pub(crate) fn list(cpus: &[u32]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for cpu in sorted {
        match runs.last_mut() {
            Some((_, to)) if *to + 1 == cpu => *to = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let words = runs.iter().map(|(from, to)| match from == to {
        true => from.to_string(),
        false => format!("{from}-{to}"),
    });
    words.collect::<Vec<_>>().join(",")
}

/// Processors as the kernel writes a mask: hexadecimal, 32 bits between commas.
pub(crate) fn mask(cpus: &[u32]) -> String {
    let most = cpus.iter().filter(|cpu| **cpu < 1 << 16).max().copied().unwrap_or(0);
    let mut words = vec![0_u32; most as usize / 32 + 1];
    for cpu in cpus.iter().filter(|cpu| **cpu <= most) {
        words[*cpu as usize / 32] |= 1 << (cpu % 32);
    }
    let mut words = words.iter().rev();
    let first = words.next().map_or(String::new(), |word| format!("{word:x}"));
    words.fold(first, |text, word| format!("{text},{word:08x}"))
}

/// Packets that were dropped since a device had no room to put them: its own names for it, of which
/// the largest counts. Names of drivers that say something else are not among them.
pub(crate) fn ring<'a>(w: &Window<'a>, dev: &str) -> Option<Sum> {
    const STATS: [&str; 2] = ["rx_missed_errors", "rx_fifo_errors"];
    const DRIVER: [&str; 9] = [
        "rx_no_dma_resources",
        "rx_no_buffer_count",
        "rx_out_of_buffer",
        "rx_discards_phy",
        "port.rx_discards",
        "rx_no_bufs",
        "rx_queue_full",
        "rx_fw_discards",
        "pkts rx OOB",
    ];
    let stats = STATS.iter().map(|name| w.dev(dev, name));
    let driver = DRIVER.iter().map(|name| w.dev_of(dev, name, |d| &d.driver_stats));
    let queues = ["rx-hw-drop-overruns"].iter().map(|name| w.dev_of(dev, name, |d| &d.qstats));
    Sum::same(stats.chain(driver).chain(queues))
}

/// Counters of a driver, all queues together, whose names `is` wants.
pub(crate) fn driver<'a>(w: &Window<'a>, dev: &str, is: impl Fn(&str) -> bool) -> Option<Sum> {
    let of = &w.to.devs.get(dev)?.driver_stats;
    let names: Vec<&str> = of.iter().map(|(name, _)| name).filter(|name| is(name)).collect();
    Sum::of(names.iter().map(|name| w.dev_of(dev, name, |d| &d.driver_stats)))
}

/// A counter of a device that either the standard groups have or the driver has under one of `names`.
pub(crate) fn standard<'a>(w: &Window<'a>, dev: &str, name: &str, names: &[&str]) -> Option<Sum> {
    let std = w.dev_of(dev, name, |d| &d.std_stats).map(Sum::from);
    std.or_else(|| Sum::same(names.iter().map(|n| w.dev_of(dev, n, |d| &d.driver_stats))))
}

/// A statistic of a link.
pub(crate) fn stat<'a>(w: &Window<'a>, dev: &Dev, name: &str) -> Option<Sum> {
    w.dev(&dev.name, name).map(Sum::from)
}

/// A counter of TcpExt.
pub(crate) fn ext<'a>(w: &Window<'a>, name: &str) -> Option<Sum> {
    w.mib("TcpExt", name).map(Sum::from)
}

/// A counter of Tcp.
pub(crate) fn tcp<'a>(w: &Window<'a>, name: &str) -> Option<Sum> {
    w.mib("Tcp", name).map(Sum::from)
}

/// A counter of IpExt.
pub(crate) fn ipext<'a>(w: &Window<'a>, name: &str) -> Option<Sum> {
    w.mib("IpExt", name).map(Sum::from)
}

/// By how much, 0 if unknown.
pub(crate) fn by(sum: Option<Sum>) -> u64 {
    sum.map_or(0, |sum| sum.by)
}

/// In a second, 0 if unknown.
pub(crate) fn rate(sum: Option<Sum>) -> f64 {
    sum.map_or(0.0, |sum| sum.per_s)
}

/// Packets in a second that a device received.
pub(crate) fn rx_pps(cx: &Cx<'_>, dev: &Dev) -> f64 {
    rate(stat(&cx.whole(), dev, "rx_packets"))
}

/// The share of its time that a processor spends in softirq and its interrupts.
pub(crate) fn softirq(cx: &Cx<'_>, cpu: u32) -> Option<f64> {
    let w = cx.whole();
    Some(w.cpu_share(cpu, "softirq")? + w.cpu_share(cpu, "irq").unwrap_or(0.0))
}

/// Whether a processor is full of softirq: by its time, or by that of its ksoftirqd.
pub(crate) fn is_full(cx: &Cx<'_>, cpu: u32) -> bool {
    softirq(cx, cpu).is_some_and(|share| share >= cx.limits.cpu_full)
        || ksoftirqd(cx, cpu).is_some_and(|share| share >= cx.limits.cpu_full - 0.1)
}

/// The share of a processor's time that its ksoftirqd had.
fn ksoftirqd(cx: &Cx<'_>, cpu: u32) -> Option<f64> {
    let w = cx.whole();
    let name = format!("ksoftirqd/{cpu}");
    let ticks = w.of("stime", |s| s.kthreads.get(&name))?.by;
    Some(ticks as f64 / f64::from(w.to.host.user_hz.max(1)) / w.secs())
}

/// How many processors have room: less than `cpu_free` of their time in softirq.
pub(crate) fn with_room(cx: &Cx<'_>) -> Vec<u32> {
    let free = |cpu: &&u32| softirq(cx, **cpu).is_some_and(|share| share < cx.limits.cpu_free);
    let isolated = &cx.now().host.isolated;
    let cpus = cx.now().cpus.keys().filter(|cpu| !isolated.contains(cpu));
    cpus.filter(free).copied().collect()
}

/// A processor's share of time as evidence prints it.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// The interrupts of a device that fired in the run, with how often on which processor.
pub(crate) fn irqs<'a>(cx: &Cx<'a>, dev: &Dev) -> Vec<(&'a Irq, BTreeMap<u32, u64>)> {
    let w = cx.whole();
    let mine =
        w.to.irqs.values().filter(|irq| {
            irq.dev.as_deref() == Some(dev.name.as_str()) || dev.irqs.contains(&irq.irq)
        });
    let counted = mine.map(|irq| {
        let of = |column: &str| w.of(column, |s| s.irqs.get(&irq.irq).map(|i| &i.counts));
        let cpus = irq.counts.iter().filter_map(|(column, _)| {
            let cpu = column.strip_prefix("CPU")?.parse().ok()?;
            Some((cpu, of(column)?.by)).filter(|(_, by)| *by > 0)
        });
        (irq, cpus.collect::<BTreeMap<u32, u64>>())
    });
    counted.filter(|(_, on)| !on.is_empty()).collect()
}

/// The processors that the interrupts of a device run on, the busiest first.
pub(crate) fn irq_cpus(cx: &Cx<'_>, dev: &Dev) -> Vec<u32> {
    let mut by: BTreeMap<u32, u64> = BTreeMap::new();
    for (_, on) in irqs(cx, dev) {
        on.into_iter().for_each(|(cpu, n)| {
            let sum = by.entry(cpu).or_default();
            *sum = total([*sum, n]);
        });
    }
    let mut cpus: Vec<_> = by.into_iter().collect();
    cpus.sort_by_key(|(cpu, n)| (std::cmp::Reverse(*n), *cpu));
    cpus.into_iter().map(|(cpu, _)| cpu).collect()
}

/// The processors that take packets from a device: those of its interrupts; where no interrupts are
/// known, those that took any, the busiest first.
pub(crate) fn serving(cx: &Cx<'_>, dev: &Dev) -> Vec<u32> {
    if !cx.now().irqs.is_empty() {
        return irq_cpus(cx, dev);
    }
    let w = cx.whole();
    let took = |cpu: &u32| w.softnet(*cpu, "processed").map_or(0, |d| d.by);
    let mut cpus: Vec<_> = cx.now().softnet.keys().map(|c| (took(c), *c)).collect();
    cpus.retain(|(n, _)| *n > 0);
    cpus.sort_by_key(|(n, cpu)| (std::cmp::Reverse(*n), *cpu));
    cpus.into_iter().map(|(_, cpu)| cpu).collect()
}

/// Packets of each receive queue in the run, where they are known for all of them.
pub(crate) fn queue_packets(cx: &Cx<'_>, dev: &Dev) -> Option<Vec<Delta>> {
    let w = cx.whole();
    let of = |q: usize| {
        let by_netlink = w.of("rx-packets", |s| s.devs.get(&dev.name)?.rx.get(q).map(|q| &q.stats));
        let names =
            [format!("rx_queue_{q}_packets"), format!("rx{q}_packets"), format!("rx-{q}.packets")];
        let by_driver =
            || names.iter().find_map(|name| w.dev_of(&dev.name, name, |d| &d.driver_stats));
        by_netlink.or_else(by_driver)
    };
    (0..dev.rx.len()).map(of).collect()
}

/// How many receive queues a device has.
pub(crate) fn rx_queues(dev: &Dev) -> usize {
    let channels = total(["combined", "rx"].iter().filter_map(|name| dev.channels.get(name)));
    dev.rx.len().max(channels as usize).max(1)
}

/// Who has a socket: `dnsmasq[812]`, or what is known of it.
pub(crate) fn owner(owner: &Owner) -> String {
    match &owner.process {
        Some((pid, name)) => format!("{name}[{pid}]"),
        None => format!("a process of user {} (inode {})", owner.uid, owner.inode),
    }
}

/// A sysctl to set.
pub(crate) fn sysctl(name: &str, value: impl ToString) -> Change {
    Change::Sysctl { name: name.into(), value: value.to_string() }
}

/// A sysctl set to `times` what it is, at most `most`; `None` if it is unknown or as large already.
pub(crate) fn more(cx: &Cx<'_>, name: &str, times: i64, most: i64) -> Option<Change> {
    let now = cx.now().sysctl(name)?;
    let next = now.saturating_mul(times).min(most);
    (next > now).then(|| sysctl(name, next))
}

/// The same, but at least what is usual: a smaller value was set by somebody.
pub(crate) fn more_than_usual(
    cx: &Cx<'_>,
    name: &str,
    times: i64,
    most: i64,
    usual: i64,
) -> Option<Change> {
    let now = cx.now().sysctl(name)?;
    let next = now.saturating_mul(times).max(usual).min(most);
    (next > now).then(|| sysctl(name, next))
}

/// The last of a sysctl's three values set to `times` what it is, at most 2^31 - 1.
pub(crate) fn more_max(cx: &Cx<'_>, name: &str, times: i64) -> Option<Change> {
    let mut now = cx.now().sysctl_list(name)?;
    let last = now.last_mut()?;
    let next = last.saturating_mul(times).min(i64::from(i32::MAX));
    if next <= *last {
        return None;
    }
    *last = next;
    let words: Vec<String> = now.iter().map(i64::to_string).collect();
    Some(sysctl(name, words.join(" ")))
}

/// All of a sysctl's values set to `times` what they are, at most 2^31 - 1.
pub(crate) fn more_of_all(cx: &Cx<'_>, name: &str, times: i64) -> Option<Change> {
    let now = cx.now().sysctl_list(name)?;
    let next: Vec<i64> =
        now.iter().map(|n| n.saturating_mul(times).min(i64::from(i32::MAX))).collect();
    let words: Vec<String> = next.iter().map(i64::to_string).collect();
    (next > now).then(|| sysctl(name, words.join(" ")))
}

/// One parameter of ethtool to set.
pub(crate) fn ethtool(option: char, dev: &Dev, set: &[(&str, String)]) -> Change {
    let set = set.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Change::Ethtool { option, dev: dev.name.clone(), set }
}

/// A file of a device to write.
pub(crate) fn dev_file(dev: &Dev, attr: &str, value: impl ToString) -> Change {
    Change::File { path: format!("/sys/class/net/{}/{attr}", dev.name), value: value.to_string() }
}

/// The value of a gauge now.
pub(crate) fn gauge(of: Option<&Counters>, name: &str) -> Option<u64> {
    of?.get(name)
}

/// A noise: by somebody else's doing, in enough packets of all and often enough to be worth a word.
pub(crate) fn noise<'a>(
    cx: &Cx<'a>,
    of: impl Fn(&Window<'a>) -> Option<Sum>,
    whole: impl Fn(&Window<'a>) -> Option<Sum>,
) -> Option<Sum> {
    let ratio = cx.limits.noise_ratio;
    let sum = cx.lossy(ratio, of, whole)?;
    let enough = match cx.whole().is_lifetime() {
        true => sum.by as f64 >= cx.limits.burst,
        false => sum.per_s >= cx.limits.noise_per_s,
    };
    enough.then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_are_the_kernels() {
        assert_eq!(list(&[5, 0, 1, 2, 3]), "0-3,5");
        assert_eq!(list(&[]), "");
        assert_eq!(mask(&[0, 1, 2, 3]), "f");
        assert_eq!(mask(&[]), "0");
        assert_eq!(mask(&[33, 0]), "2,00000001");
    }
}
