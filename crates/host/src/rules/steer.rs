//! RPS, RFS, aRFS and the flow limit.

use linerate_core::table::Stage;

use super::look::{self, by, dev_file, ethtool, sysctl};
use super::{Check, Rule};
use crate::change::Change;
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::Dev;
use crate::window::{Cx, Sum, Window, total};

/// R19 to R24.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R19",
        name: "rps-needed",
        title: "one processor does all of the receiving while others have room",
        stage: Stage::Steer,
        evidence: "The device has fewer receive queues than there are processors, no RPS, and the \
            processor of its interrupt is full (`cpu_full`) while others have room (`cpu_free`).",
        causes: "With one queue, one processor does everything up to the socket, unless RPS hands \
            packets on.",
        advice: "RPS to the other processors.",
        traps: "One flow gains nothing: all of it goes to one processor. A processor that does not \
            exist is refused. Isolated processors are left out.",
        cites: &["Documentation/networking/scaling.rst RPS"],
        suppresses: &["R18"],
        check: Check::Dev(needed),
    },
    Rule {
        id: "R20",
        name: "rps-redundant",
        title: "RPS hands on packets that the device has spread already",
        stage: Stage::Steer,
        evidence: "As many receive queues as processors, RPS on, at least `busy_pps` packets in a \
            second, and more than `rps_ipi` interrupts between processors for each.",
        causes: "RPS was set for a device with fewer queues, or by a script for all devices.",
        advice: "No RPS on this device.",
        traps: "For one flow per queue it may help nevertheless: compare the cost of a packet.",
        cites: &["Documentation/networking/scaling.rst RPS: Suggested Configuration"],
        suppresses: &[],
        check: Check::Dev(redundant),
    },
    Rule {
        id: "R21",
        name: "rps-mask-bad",
        title: "RPS points at processors that should not receive",
        stage: Stage::Steer,
        evidence: "A mask has a processor that is isolated or not online.",
        causes: "The mask was made for another machine, or before processors were isolated.",
        advice: "The mask without them.",
        traps: "The kernel leaves isolated processors out without a word: the mask then does less \
            than it says.",
        cites: &["net/core/net-sysfs.c store_rps_map"],
        suppresses: &[],
        check: Check::Dev(bad_mask),
    },
    Rule {
        id: "R22",
        name: "flow-limit",
        title: "the flow limit drops packets of a large flow",
        stage: Stage::Steer,
        evidence: "`flow_limit_count` grows on the processor that hands packets on; `dropped` \
            grows by the same on the one that gets them.",
        causes: "The backlog of the target is over half full, and one flow is more than half of \
            what arrives: a large transfer, or a flood.",
        advice: "For a flood it is right. For a transfer: take the processor that hands on out of \
            `net.core.flow_limit_cpu_bitmap`, or spread the flow's work.",
        traps: "The bitmap names processors that hand packets on, not those that get them. A new \
            length of the table counts for tables made later only.",
        cites: &["net/core/dev.c skb_flow_limit", "measured: bitmap on the steering processor"],
        suppresses: &["R15", "R29", "R73"],
        check: Check::Cpu(flow_limit),
    },
    Rule {
        id: "R23",
        name: "rfs-half",
        title: "receive flow steering is set up by half and does nothing",
        stage: Stage::Steer,
        evidence: "`net.core.rps_sock_flow_entries` is set and no queue has `rps_flow_cnt`, or the \
            other way round.",
        causes: "One of the two settings was forgotten, or a device was added later.",
        advice: "Both: entries for the host, and its share for each queue.",
        traps: "RFS does harm where threads move from processor to processor often.",
        cites: &["Documentation/networking/scaling.rst RFS"],
        suppresses: &[],
        check: Check::Host(rfs_half),
    },
    Rule {
        id: "R24",
        name: "arfs-prereq",
        title: "the device could steer flows itself, but its filters are off",
        stage: Stage::Steer,
        evidence: "RFS is on, and `ntuple` of the device is off and not fixed.",
        causes: "Accelerated RFS needs filters in the device; they are off by default.",
        advice: "`ethtool -K DEV ntuple on`.",
        traps: "The driver must offer accelerated RFS, and interrupts must be one to a processor.",
        cites: &["Documentation/networking/scaling.rst Accelerated RFS"],
        suppresses: &[],
        check: Check::Dev(arfs),
    },
];

/// A change to more queues, if the device has more, and processors to serve them.
pub(super) fn more_queues(cx: &Cx<'_>, dev: &Dev) -> Option<Change> {
    let (now, most) = (dev.channels.get("combined")?, dev.channels.get("combined-max")?);
    let cpus = match dev.local_cpus.len() {
        0 => cx.now().host.cpus.len(),
        near => near,
    };
    let next = most.min(cpus as u64);
    (now > 0 && now < next).then(|| ethtool('L', dev, &[("combined", next.to_string())]))
}

/// A change that hands packets of the device's first queue on to processors with room.
fn rps(cx: &Cx<'_>, dev: &Dev, besides: u32) -> Option<Change> {
    let mut cpus: Vec<u32> =
        look::with_room(cx).into_iter().filter(|cpu| *cpu != besides).collect();
    if !dev.local_cpus.is_empty() && cpus.iter().any(|cpu| dev.local_cpus.contains(cpu)) {
        cpus.retain(|cpu| dev.local_cpus.contains(cpu));
    }
    let queue = dev.rx.first()?;
    if cpus.is_empty() || cpus.iter().all(|cpu| queue.rps_cpus.contains(cpu)) {
        return None;
    }
    cpus.extend(&queue.rps_cpus);
    Some(dev_file(dev, "queues/rx-0/rps_cpus", look::mask(&cpus)))
}

/// What takes load off a full processor that serves the device, the least disturbing first.
pub(super) fn ladder(cx: &Cx<'_>, dev: &Dev, cpu: u32) -> Vec<(&'static str, Change, Risk)> {
    let moved = super::irq::crowded(cx, dev).map(|(_, change)| {
        ("Move one of the device's interrupts to a processor with room.", change, Risk::Safe)
    });
    let few = look::rx_queues(dev) < cx.now().host.cpus.len();
    let handed = rps(cx, dev, cpu).filter(|_| few);
    let handed =
        handed.map(|change| ("Hand packets on to processors with room (RPS).", change, Risk::Safe));
    let queues =
        more_queues(cx, dev).map(|change| ("Use more of the device's queues.", change, Risk::Flap));
    [moved, queues, handed].into_iter().flatten().collect()
}

fn needed(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let cpu = look::irq_cpus(cx, dev).into_iter().find(|cpu| look::is_full(cx, *cpu))?;
    let none = dev.rx.iter().all(|queue| queue.rps_cpus.is_empty());
    if !none || look::rx_queues(dev) >= cx.now().host.cpus.len() {
        return None;
    }
    let change = rps(cx, dev, cpu)?;
    Some(
        rule.found(cx, &dev.name)
            .warning()
            .is(
                "/proc/stat",
                &format!("softirq of cpu{cpu}"),
                look::percent(look::softirq(cx, cpu)?),
            )
            .is(&format!("/sys/class/net/{}/queues/rx-0/rps_cpus", dev.name), "rps_cpus", "0")
            .because(format!("cpu{cpu} serves its only interrupt and is full."))
            .advise("Hand packets on to processors with room (RPS).", change, Risk::Safe)
            .done(),
    )
}

fn redundant(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let cpus = cx.now().host.cpus.len();
    let on = dev.rx.iter().position(|queue| !queue.rps_cpus.is_empty())?;
    let pps = look::rx_pps(cx, dev);
    if cpus < 2 || look::rx_queues(dev) < cpus || pps < cx.limits.busy_pps {
        return None;
    }
    let w = cx.whole();
    let handed = Sum::of(w.to.softnet.keys().map(|cpu| w.softnet(*cpu, "received_rps")))?;
    let each = handed.per_s / pps;
    if each <= cx.limits.rps_ipi {
        return None;
    }
    Some(
        rule.found(cx, &dev.name)
            .shows(&handed)
            .because(format!(
                "{each:.1} interrupts between processors for each packet, and {cpus} processors \
                for {} queues.",
                look::rx_queues(dev)
            ))
            .advise(
                "Switch RPS off on this device, queue by queue.",
                dev_file(dev, &format!("queues/rx-{on}/rps_cpus"), "0"),
                Risk::Safe,
            )
            .done(),
    )
}

fn bad_mask(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let host = &cx.now().host;
    let wrong = |cpu: &u32| {
        host.isolated.contains(cpu) || !(host.cpus.is_empty() || host.cpus.contains(cpu))
    };
    let (at, queue) = dev.rx.iter().enumerate().find(|(_, q)| q.rps_cpus.iter().any(wrong))?;
    let (bad, good): (Vec<u32>, Vec<u32>) = queue.rps_cpus.iter().partition(|cpu| wrong(cpu));
    let attr = format!("queues/rx-{at}/rps_cpus");
    Some(
        rule.found(cx, &dev.name)
            .state(Severity::Info)
            .is(
                &format!("/sys/class/net/{}/{attr}", dev.name),
                "rps_cpus",
                look::mask(&queue.rps_cpus),
            )
            .because(format!("Processors {} are isolated or not online.", look::list(&bad)))
            .advise("Take them out.", dev_file(dev, &attr, look::mask(&good)), Risk::Safe)
            .done(),
    )
}

/// Drops by the flow limit, all processors together.
pub(super) fn flow_limited(w: &Window<'_>) -> u64 {
    by(Sum::of(w.to.softnet.keys().map(|cpu| w.softnet(*cpu, "flow_limit_count"))))
}

fn flow_limit(rule: &Rule, cx: &Cx<'_>, cpu: u32) -> Option<Finding> {
    let processed =
        |w: &Window<'_>| Sum::of(w.to.softnet.keys().map(|cpu| w.softnet(*cpu, "processed")));
    let limited = |w: &Window<'_>| w.softnet(cpu, "flow_limit_count").map(Sum::from);
    let lost = cx.lossy(cx.limits.loss_ratio, limited, processed)?;
    let w = cx.whole();
    let dropped = Sum::of(w.to.softnet.keys().map(|cpu| w.softnet(*cpu, "dropped")));
    let name = "net.core.flow_limit_cpu_bitmap";
    let found = rule
        .found(cx, format!("cpu{cpu}"))
        .loss(&lost)
        .shows_if(dropped)
        .sysctl(name)
        .because("One flow has more than half of the packets for a backlog that is half full.");
    let without = cx.now().sysctls.get(name).and_then(|mask| without(mask, cpu));
    Some(
        found
            .advise_if(
                "If the flow is wanted: take this processor, which hands packets on, out of the \
                bitmap.",
                without.map(|mask| sysctl(name, mask)),
                Risk::Safe,
            )
            .suggest("If it is a flood: leave it, it protects the small flows.")
            .done(),
    )
}

/// A hexadecimal mask without one processor.
fn without(mask: &str, cpu: u32) -> Option<String> {
    let digits: String = mask.chars().filter(|c| *c != ',').collect();
    let bits = u128::from_str_radix(&digits, 16).ok().filter(|_| cpu < 128)?;
    let cpus: Vec<u32> = (0..128).filter(|c| bits >> c & 1 == 1 && *c != cpu).collect();
    Some(look::mask(&cpus))
}

fn rfs_half(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let now = cx.now();
    let name = "net.core.rps_sock_flow_entries";
    let entries = now.sysctl(name)?;
    let with = now.devs.values().find(|dev| dev.rx.iter().any(|queue| queue.rps_flow_cnt > 0));
    let hardware = now.devs.values().find(|dev| look::is_hardware(dev) && !dev.rx.is_empty());
    let found = rule.found(cx, "").state(Severity::Info).sysctl(name);
    let found = match (entries, with) {
        (0, Some(dev)) => {
            let all = total(dev.rx.iter().map(|queue| queue.rps_flow_cnt));
            let path = format!("/sys/class/net/{}/queues/rx-0/rps_flow_cnt", dev.name);
            found
                .is(&path, "rps_flow_cnt of all queues", all)
                .because("Queues have flow tables, and the host has none.")
                .advise("Give the host its table.", sysctl(name, all.max(32_768)), Risk::Mem)
        }
        (1.., None) => {
            let dev = hardware?;
            let each = (entries as u64 / dev.rx.len() as u64).max(1);
            let path = format!("/sys/class/net/{}/queues/rx-0/rps_flow_cnt", dev.name);
            found
                .is(&path, "rps_flow_cnt", 0)
                .because("The host has a flow table, and no queue has.")
                .advise(
                    "Give each queue its share.",
                    dev_file(dev, "queues/rx-0/rps_flow_cnt", each),
                    Risk::Mem,
                )
        }
        _ => return None,
    };
    Some(found.done())
}

fn arfs(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let rfs = cx.now().sysctl("net.core.rps_sock_flow_entries").is_some_and(|n| n > 0)
        && dev.rx.iter().any(|queue| queue.rps_flow_cnt > 0);
    let ntuple = look::feature(dev, "ntuple")?;
    if !rfs || ntuple.on || ntuple.fixed || !look::is_hardware(dev) || dev.rx.len() < 2 {
        return None;
    }
    Some(
        rule.found(cx, &dev.name)
            .state(Severity::Info)
            .is("netlink/ethtool/FEATURES_GET", "ntuple", "off")
            .because("Flows are steered in software, though the device has filters.")
            .advise(
                "Switch the filters on.",
                ethtool('K', dev, &[("ntuple", "on".into())]),
                Risk::Safe,
            )
            .done(),
    )
}

/// Whether all of what the backlogs dropped is by the flow limit, or nearly.
pub(super) fn is_flow_limit(cx: &Cx<'_>) -> bool {
    let w = cx.whole();
    let all = by(Sum::of(w.to.softnet.keys().map(|cpu| w.softnet(*cpu, "dropped"))));
    flow_limited(&w).saturating_mul(2) >= all && all > 0
}
