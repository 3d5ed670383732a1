//! Rings, channels, moderation, distribution and rules, as `ethtool` prints them; what sysfs has of
//! queues; interrupts.
//!
//! Linux: ethtool's netlink/rings.c, channels.c, coalesce.c; Documentation/networking/scaling.rst.

use std::collections::BTreeMap;
use std::fmt::Write;

use linerate_core::rx::steer::ntuple::{self, Rules};
use linerate_core::rx::steer::rss::{INDIR_LEN, Rss};
use linerate_gateway::control::Snapshot;
use linerate_gateway::control::snapshot::{DevQueueRow, DeviceRow};

/// The knob's value, or nothing where the instance has no such knob.
fn text<'a>(s: &'a Snapshot, path: &str) -> &'a str {
    s.knobs.iter().find(|k| k.path == path).map_or("", |k| k.value.as_str())
}

fn number(s: &Snapshot, path: &str) -> u64 {
    text(s, path).parse().unwrap_or(0)
}

/// The devices that have queues: all but loopback.
fn devices(s: &Snapshot) -> impl Iterator<Item = &DeviceRow> {
    s.devices.iter().filter(|d| d.name != "lo")
}

/// The queues of a device; without any told, one that is driven by the only shard.
fn queues(s: &Snapshot, device: &str) -> Vec<DevQueueRow> {
    let mut all: Vec<DevQueueRow> =
        s.dev_queues.iter().filter(|q| q.device == device).cloned().collect();
    if all.is_empty() {
        all.push(DevQueueRow { device: device.to_owned(), ..DevQueueRow::default() });
    }
    all.sort_by_key(|q| q.queue);
    all
}

/// `ethtool -g`.
pub fn rings(s: &Snapshot) -> String {
    let mut out = String::new();
    for device in devices(s) {
        let first = queues(s, &device.name).swap_remove(0).rings;
        // A device that can not say has what the knob says.
        let or_knob = |n: u64, knob| if n == 0 { number(s, knob) } else { n };
        let (rx, tx) = (or_knob(first.rx, "ring.rx"), or_knob(first.tx, "ring.tx"));
        let most = |n: u64| if n == 0 { "n/a".to_owned() } else { n.to_string() };
        let _ = write!(
            out,
            "Ring parameters for {}:\n\
             Pre-set maximums:\n\
             RX:\t\t\t{}\nRX Mini:\t\tn/a\nRX Jumbo:\t\tn/a\nTX:\t\t\t{}\n\
             Current hardware settings:\n\
             RX:\t\t\t{rx}\nRX Mini:\t\tn/a\nRX Jumbo:\t\tn/a\nTX:\t\t\t{tx}\n",
            device.name,
            most(first.rx_max),
            most(first.tx_max),
        );
    }
    out
}

/// `ethtool -l`.
pub fn channels(s: &Snapshot) -> String {
    let mut out = String::new();
    for device in devices(s) {
        let now = queues(s, &device.name).len();
        // An instance whose shards are told can have more of them.
        let most = if s.dev_queues.is_empty() { 1 } else { 64 };
        let none = "RX:\t\tn/a\nTX:\t\tn/a\nOther:\t\tn/a\n";
        let _ = write!(
            out,
            "Channel parameters for {}:\nPre-set maximums:\n{none}Combined:\t{most}\n\
             Current hardware settings:\n{none}Combined:\t{now}\n",
            device.name
        );
    }
    out
}

/// `ethtool -c`; where the moderation adapts, what it has come to, queue by queue.
pub fn coalesce(s: &Snapshot) -> String {
    let mut out = String::new();
    let on = |path| if number(s, path) == 1 { "on" } else { "off" };
    for device in devices(s) {
        let _ = writeln!(out, "Coalesce parameters for {}:", device.name);
        let (rx, tx) = (on("coalesce.adaptive-rx"), on("coalesce.adaptive-tx"));
        let _ = writeln!(out, "Adaptive RX: {rx}  TX: {tx}");
        for dir in ["rx", "tx"] {
            let of = |what: &str| number(s, &format!("coalesce.{dir}-{what}"));
            let _ = write!(
                out,
                "\n{dir}-usecs:\t{}\n{dir}-frames:\t{}\n{dir}-usecs-irq:\tn/a\n\
                 {dir}-frames-irq:\tn/a\n",
                of("usecs"),
                of("frames")
            );
        }
        for queue in queues(s, &device.name) {
            let of = |name: &str| queue.coalesce.get(name).copied();
            let adaptive = of("adaptive-rx") == Some(1) || of("adaptive-tx") == Some(1);
            if let (true, Some(rx), Some(tx)) = (adaptive, of("rx-usecs"), of("tx-usecs")) {
                let _ = writeln!(out, "\nQueue: {}\nrx-usecs:\t{rx}\ntx-usecs:\t{tx}", queue.queue);
            }
        }
        out.push('\n');
    }
    out
}

/// `ethtool -x`.
pub fn rss(s: &Snapshot) -> String {
    let mut out = String::new();
    for device in devices(s) {
        let row = s.rss.iter().find(|r| r.device == device.name);
        let queues = row.map_or(1, |r| r.queues as usize);
        if let Some(instead) = row.and_then(|r| r.instead.as_ref()) {
            let name = &device.name;
            let _ = writeln!(out, "{name} with {queues} RX ring(s): {instead}");
            continue;
        }
        let mut rss = Rss { symmetric: row.is_some_and(|r| r.symmetric), ..Rss::default() };
        if let Some(indir) = row.and_then(|r| <[u8; INDIR_LEN]>::try_from(&r.indir[..]).ok()) {
            rss.indir = indir;
        }
        out.push_str(&rss.show(&device.name, queues));
    }
    out
}

/// `ethtool -n`.
pub fn rules(s: &Snapshot) -> String {
    let queues = s.rss.first().map_or(1, |r| r.queues as usize);
    let mut rules = Rules::new(s.rules.len().max(1), 0);
    for row in &s.rules {
        // They were rules when they were set; one of another version is left out.
        if let Ok((_, rule)) = ntuple::parse(&row.spec) {
            let _ = rules.set(Some(row.location), rule);
        }
    }
    rules.show(queues)
}

/// `/sys/class/net/DEV/queues/rx-N/rps_cpus` of all.
pub fn rps(s: &Snapshot) -> String {
    each_queue(s, &[("rx", "rps_cpus", "queues.rx.rps_cpus")])
}

/// The tables of receive flow steering: the common one, and those of the queues.
pub fn rfs(s: &Snapshot) -> String {
    let path = "net.core.rps_sock_flow_entries";
    let mut out = format!("{path} = {}\n", text(s, path));
    out += &each_queue(s, &[("rx", "rps_flow_cnt", "queues.rx.rps_flow_cnt")]);
    for name in ["RfsFlowsMoved", "ArfsFiltersAdded", "ArfsFiltersExpired"] {
        let _ = writeln!(out, "{name}: {}", s.counter("linerate", name));
    }
    out
}

/// `xps_cpus` and `xps_rxqs` of all transmit queues.
pub fn xps(s: &Snapshot) -> String {
    let files =
        [("tx", "xps_cpus", "queues.tx.xps_cpus"), ("tx", "xps_rxqs", "queues.tx.xps_rxqs")];
    each_queue(s, &files)
}

/// Files of sysfs with their values, as `grep . -r` prints them.
fn each_queue(s: &Snapshot, files: &[(&str, &str, &str)]) -> String {
    let mut out = String::new();
    for device in devices(s) {
        for queue in queues(s, &device.name) {
            for (dir, file, knob) in files {
                let (name, n, value) = (&device.name, queue.queue, text(s, knob));
                let _ = writeln!(out, "/sys/class/net/{name}/queues/{dir}-{n}/{file}:{value}");
            }
        }
    }
    out
}

/// What woke the shards, one column a shard, as `/proc/interrupts` has it for processors.
pub fn irqs(s: &Snapshot) -> String {
    let kinds = [
        ("IrqRx", "receive interrupts"),
        ("IrqTx", "transmit interrupts"),
        ("IrqCoalesced", "put off by rx-usecs"),
        ("IrqDeferred", "polls by timer, napi_defer_hard_irqs"),
        ("IrqSuspended", "kept off by busy polling, irq_suspend_timeout"),
    ];
    let mut out = format!("{:>14}", "");
    for shard in &s.shards {
        let _ = write!(out, " {:>10}", format!("CPU{}", shard.shard));
    }
    out.push('\n');
    for (name, what) in kinds {
        let _ = write!(out, "{:>14}", format!("{name}:"));
        for shard in &s.shards {
            let _ = write!(out, " {:>10}", shard.counter("linerate", name));
        }
        let _ = writeln!(out, "   {what}");
    }
    for queue in &s.dev_queues {
        let (device, n, shard) = (&queue.device, queue.queue, queue.shard);
        let _ = writeln!(out, "{device}-TxRx-{n}: CPU{shard}");
    }
    out
}

/// `ethtool -S`: what driver or socket counts of each queue, by its own names, and the sums.
pub fn statistics(s: &Snapshot) -> String {
    let mut out = String::new();
    for device in devices(s) {
        let _ = writeln!(out, "NIC statistics: {}", device.name);
        let queues = queues(s, &device.name);
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, n) in queues.iter().flat_map(|q| &q.statistics) {
            *sums.entry(name).or_default() += n;
        }
        for (name, n) in sums {
            let _ = writeln!(out, "     {name}: {n}");
        }
        for queue in queues.iter().filter(|_| queues.len() > 1) {
            for (name, n) in &queue.statistics {
                let _ = writeln!(out, "     queue_{}_{name}: {n}", queue.queue);
            }
        }
    }
    out
}

/// Connections with the shard that each lives on.
pub fn flows(s: &Snapshot) -> String {
    let mut out = format!("{:>5} {:<5} {:<12} {:<30} peer\n", "shard", "proto", "state", "local");
    for t in s.tcp.iter().filter(|t| t.state != "LISTEN") {
        let peer = t.remote.map_or("*".to_owned(), |r| r.to_string());
        let _ = writeln!(
            out,
            "{:>5} {:<5} {:<12} {:<30} {peer}",
            t.shard,
            "tcp",
            t.state,
            t.local.to_string()
        );
    }
    out
}
