//! Interrupts of receive queues: where and how often.

use linerate_core::table::Stage;

use super::look::{self, ethtool};
use super::{Check, Rule};
use crate::change::Change;
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::{Dev, Irq};
use crate::window::{Cx, Goal, total};

/// R03, R11 to R14.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R03",
        name: "irq-wrong-node",
        title: "interrupts run on processors far from the device",
        stage: Stage::Irq,
        evidence: "The device has a NUMA node, at least `busy_pps` packets arrive in a second, and \
            more than `numa_share` of its interrupts ran on processors of other nodes.",
        causes: "Nobody placed them, or irqbalance does not know the node.",
        advice: "Interrupts on the processors near the device.",
        traps: "Far processors are right where the near ones are full. A node of -1 means that the \
            firmware does not say, not node 0.",
        cites: &["Documentation/networking/scaling.rst", "/sys/class/net/DEV/device/numa_node"],
        suppresses: &[],
        check: Check::Dev(wrong_node),
    },
    Rule {
        id: "R11",
        name: "irqs-on-one-cpu",
        title: "several queues interrupt the same processor while others have room",
        stage: Stage::Irq,
        evidence: "Two or more interrupts of the device ran on one processor only, it spends more \
            than `cpu_free` of its time in softirq, others less, and irqbalance does not run.",
        causes: "Drivers begin on the first processor, or an affinity was set by hand.",
        advice: "One processor for each queue.",
        traps: "What counts is the effective affinity, not the one that was asked for. Interrupts \
            that the kernel manages can not be moved.",
        cites: &["Documentation/core-api/irq/irq-affinity.rst"],
        suppresses: &["R18", "R19"],
        check: Check::Dev(one_cpu),
    },
    Rule {
        id: "R12",
        name: "irqbalance-fights",
        title: "the affinity of interrupts is changed again and again",
        stage: Stage::Irq,
        evidence: "irqbalance runs, and the affinity of one interrupt changed in two or more \
            windows.",
        causes: "irqbalance moves what somebody else places, or can not decide.",
        advice: "A policy script that bans these interrupts; do not stop the daemon.",
        traps: "Old builds of irqbalance ignore the option that bans an interrupt.",
        cites: &["irqbalance(1) --policyscript"],
        suppresses: &[],
        check: Check::Dev(fights),
    },
    Rule {
        id: "R13",
        name: "coalesce-latency",
        title: "the device waits before it interrupts, and latency is the goal",
        stage: Stage::Irq,
        evidence: "With the goal latency: adaptive coalescing, or `rx-usecs` of at least \
            `coalesce_us`, and fewer than 20 000 packets in a second and queue.",
        causes: "The default of most drivers is for throughput.",
        advice: "No adaptive coalescing, and few or no microseconds.",
        traps: "More interrupts cost processor time. Devices round the value: read it back.",
        cites: &["Documentation/networking/ethtool-netlink.rst COALESCE_SET"],
        suppresses: &[],
        check: Check::Dev(coalesce),
    },
    Rule {
        id: "R14",
        name: "irq-storm",
        title: "nearly every packet is an interrupt",
        stage: Stage::Irq,
        evidence: "One interrupt of the device fires `irq_per_s` times or more for fewer than \
            `irq_packets` packets each, and takes over a tenth of a processor.",
        causes: "No coalescing in the device, and none in software.",
        advice: "Adaptive coalescing, or 32 µs; where the device has none, `gro_flush_timeout` \
            with `napi_defer_hard_irqs`.",
        traps: "In the time of coalescing the ring must hold what arrives.",
        cites: &["Documentation/networking/napi.rst Software IRQ coalescing"],
        suppresses: &[],
        check: Check::Dev(storm),
    },
];

fn wrong_node(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let nodes = &cx.now().host.nodes;
    let near = nodes.get(&dev.node?)?;
    if nodes.len() < 2 || look::rx_pps(cx, dev) < cx.limits.busy_pps {
        return None;
    }
    let irqs = look::irqs(cx, dev);
    let (mut all, mut far, mut first) = (0_u64, 0_u64, None);
    for (irq, on) in &irqs {
        for (cpu, n) in on {
            all = total([all, *n]);
            if !near.contains(cpu) {
                far = total([far, *n]);
                first = first.or(Some(*irq));
            }
        }
    }
    let share = far as f64 / all.max(1) as f64;
    if share <= cx.limits.numa_share {
        return None;
    }
    let irq: &Irq = first?;
    Some(
        rule.found(cx, &dev.name)
            .is(irq.counts.source(), "interrupts on other nodes", look::percent(share))
            .is("/sys/class/net device/numa_node", "node", u64::from(dev.node?))
            .because("Packets cross from one node to the other before they are looked at.")
            .advise("Let them run near the device.", affinity(irq, near), Risk::Safe)
            .done(),
    )
}

fn affinity(irq: &Irq, cpus: &[u32]) -> Change {
    Change::File {
        path: format!("/proc/irq/{}/smp_affinity_list", irq.irq),
        value: look::list(cpus),
    }
}

/// Interrupts of the device that ran on `cpu` alone.
fn alone_on(cx: &Cx<'_>, dev: &Dev, cpu: u32) -> Vec<u32> {
    let alone = |on: &std::collections::BTreeMap<u32, u64>| on.len() == 1 && on.contains_key(&cpu);
    let irqs = look::irqs(cx, dev);
    irqs.iter().filter(|(_, on)| alone(on)).map(|(irq, _)| irq.irq).collect()
}

/// The processor that several interrupts of the device share while others have room, and a change that
/// moves one of them.
pub(super) fn crowded(cx: &Cx<'_>, dev: &Dev) -> Option<(u32, Change)> {
    let now = cx.now();
    if now.host.owners.iter().any(|owner| owner == "irqbalance") {
        return None;
    }
    let cpu = *look::irq_cpus(cx, dev).first()?;
    let irqs = alone_on(cx, dev, cpu);
    let busy = look::softirq(cx, cpu)? > cx.limits.cpu_free;
    let free = look::with_room(cx).into_iter().find(|other| *other != cpu)?;
    if irqs.len() < 2 || !busy {
        return None;
    }
    let irq = now.irqs.get(irqs.last()?)?;
    Some((cpu, affinity(irq, &[free])))
}

fn one_cpu(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let (cpu, change) = crowded(cx, dev)?;
    let irqs = alone_on(cx, dev, cpu);
    let names: Vec<String> = irqs.iter().map(u32::to_string).collect();
    Some(
        rule.found(cx, &dev.name)
            .warning()
            .is("/proc/interrupts", &format!("interrupts on cpu{cpu} alone"), names.join(", "))
            .is(
                "/proc/stat",
                &format!("softirq of cpu{cpu}"),
                look::percent(look::softirq(cx, cpu)?),
            )
            .because(format!("{} of its interrupts run on cpu{cpu} alone.", irqs.len()))
            .advise("Move one of them to a processor with room, then the next.", change, Risk::Safe)
            .done(),
    )
}

fn fights(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if !cx.now().host.owners.iter().any(|owner| owner == "irqbalance") {
        return None;
    }
    let moved = |irq: u32| {
        let changed = cx.windows.iter().filter(|w| {
            let of = |s: &crate::Snapshot| s.irqs.get(&irq).map(|i| i.affinity.clone());
            matches!((w.from.and_then(of), of(w.to)), (Some(a), Some(b)) if a != b)
        });
        changed.count()
    };
    let irq = dev.irqs.iter().copied().find(|irq| moved(*irq) >= 2)?;
    let now = cx.now().irqs.get(&irq)?;
    Some(
        rule.found(cx, &dev.name)
            .is(
                &format!("/proc/irq/{irq}/smp_affinity_list"),
                "changes in the run",
                moved(irq) as u64,
            )
            .because(format!("Interrupt {irq} is on {} now.", look::list(&now.affinity)))
            .suggest(
                "Give irqbalance a policy script that bans these interrupts, or let it alone \
                decide.",
            )
            .done(),
    )
}

fn coalesce(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if cx.goal != Goal::Latency {
        return None;
    }
    let usecs = dev.coalesce.get("rx-usecs");
    let adaptive = dev.coalesce.get("adaptive-rx").is_some_and(|on| on > 0);
    let long = usecs.is_some_and(|us| us as f64 >= cx.limits.coalesce_us);
    let per_queue = look::rx_pps(cx, dev) / look::rx_queues(dev) as f64;
    if !(adaptive || long) || per_queue >= 20_000.0 {
        return None;
    }
    let mut set = Vec::new();
    if adaptive {
        set.push(("adaptive-rx", "off".to_owned()));
    }
    if usecs.is_some() {
        set.push(("rx-usecs", "0".to_owned()));
    }
    let source = dev.coalesce.source();
    let mut found = rule.found(cx, &dev.name).state(Severity::Info);
    if let Some(usecs) = usecs {
        found = found.is(source, "rx-usecs", usecs);
    }
    Some(
        found
            .is(source, "adaptive-rx", if adaptive { "on" } else { "off" })
            .because("A packet waits for others that do not come.")
            .advise("Interrupt at once.", ethtool('C', dev, &set), Risk::Safe)
            .done(),
    )
}

fn storm(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let irqs = look::irqs(cx, dev);
    let w = cx.whole();
    let worst = irqs.iter().map(|(irq, on)| (irq, on, total(on.values().copied())));
    let (irq, on, fired) = worst.max_by_key(|(_, _, n)| *n)?;
    let per_s = fired as f64 / w.secs();
    let all = total(irqs.iter().flat_map(|(_, on)| on.values().copied()));
    let packets = look::by(look::stat(&w, dev, "rx_packets")) as f64 / all.max(1) as f64;
    let (cpu, _) = on.iter().max_by_key(|(_, n)| **n)?;
    let hard = w.cpu_share(*cpu, "irq").unwrap_or(0.0);
    if per_s < cx.limits.irq_per_s || packets >= cx.limits.irq_packets || hard < 0.1 {
        return None;
    }
    let found = rule
        .found(cx, &dev.name)
        .warning()
        .is(irq.counts.source(), "interrupts/s", per_s as u64)
        .is("/proc/stat", &format!("irq of cpu{cpu}"), look::percent(hard))
        .because(format!("Interrupt {} fires for {packets:.1} packets each time.", irq.irq));
    let change = match (dev.coalesce.get("adaptive-rx"), dev.coalesce.get("rx-usecs")) {
        (Some(0), _) => ethtool('C', dev, &[("adaptive-rx", "on".into())]),
        (_, Some(us)) if us < 32 => ethtool('C', dev, &[("rx-usecs", "32".into())]),
        _ => look::dev_file(dev, "napi_defer_hard_irqs", 2),
    };
    let software = look::dev_file(dev, "gro_flush_timeout", 20_000);
    let found = found.advise("Let more packets wait for one interrupt.", change, Risk::Lat);
    Some(
        found
            .advise("With deferred interrupts a flush timeout is needed.", software, Risk::Lat)
            .done(),
    )
}
