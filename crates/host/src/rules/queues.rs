//! Receive queues: how many, and how even.

use linerate_core::table::Stage;

use super::look::{self, ethtool};
use super::{Check, Rule};
use crate::finding::{Finding, Risk};
use crate::snapshot::Dev;
use crate::window::{Cx, Sum, total};

/// R08 to R10.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R08",
        name: "rss-imbalance",
        title: "one receive queue has most of the packets",
        stage: Stage::Irq,
        evidence: "The fullest queue has at least `rss_ratio` times the mean, and a processor that \
            serves the device is full (`cpu_full`).",
        causes: "The indirection table is uneven; or the hash of UDP takes addresses only, and \
            there is one peer; or one flow is most of the traffic; or a tunnel hides the flows.",
        advice: "An even table; ports in the hash of UDP; for one flow, nothing on the device \
            helps.",
        traps: "With ports in the hash, fragments go to another queue than the rest and arrive out \
            of order. Few flows are never even.",
        cites: &["Documentation/networking/scaling.rst RSS"],
        suppresses: &["R09", "R11", "R18", "R19"],
        check: Check::Dev(imbalance),
    },
    Rule {
        id: "R09",
        name: "too-few-queues",
        title: "the device has more queues than are in use, and a processor is full",
        stage: Stage::Irq,
        evidence: "`combined` is less than its most and than the processors near the device, and \
            one that serves it is full (`cpu_full`) while others have room (`cpu_free`).",
        causes: "The driver began with few queues, or somebody lowered them.",
        advice: "More queues: `ethtool -L`.",
        traps: "It resets the device, and with it affinity, XPS and RPS; vectors can run out. The \
            second thread of a core adds little.",
        cites: &["Documentation/networking/scaling.rst"],
        suppresses: &["R11", "R18", "R19"],
        check: Check::Dev(few_queues),
    },
    Rule {
        id: "R10",
        name: "too-many-queues",
        title: "many queues share few packets",
        stage: Stage::Irq,
        evidence: "More queues than processors, or more than 16; over 50 000 interrupts in a \
            second for fewer than 2 packets each.",
        causes: "Each queue interrupts for itself.",
        advice: "The fewest queues of which none overflows, or more coalescing.",
        traps: "Fewer queues reset the device.",
        cites: &["Documentation/networking/scaling.rst Suggested Configuration"],
        suppresses: &["R14"],
        check: Check::Dev(many_queues),
    },
];

fn full_cpu(cx: &Cx<'_>, dev: &Dev) -> Option<u32> {
    look::irq_cpus(cx, dev).into_iter().find(|cpu| look::is_full(cx, *cpu))
}

fn imbalance(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let queues = look::queue_packets(cx, dev)?;
    let cpu = full_cpu(cx, dev)?;
    let all = total(queues.iter().map(|q| q.by));
    let mean = all as f64 / queues.len() as f64;
    let (at, most) = queues.iter().enumerate().max_by_key(|(_, q)| q.by)?;
    if queues.len() < 2
        || (most.by as f64) < cx.limits.rss_ratio.min(queues.len() as f64) * mean * 0.999
    {
        return None;
    }
    let found = rule
        .found(cx, &dev.name)
        .warning()
        .shows(&Sum::from(most.clone()))
        .is(
            "/proc/stat",
            &format!("softirq of cpu{cpu}"),
            look::percent(look::softirq(cx, cpu).unwrap_or(1.0)),
        )
        .because(format!(
            "Queue {at} has {:.0} % of the packets.",
            most.by as f64 * 100.0 / all as f64
        ));
    let rss = dev.rss.as_ref();
    let uneven = rss.map(look::table).filter(|by| {
        let (least, most) = (by.values().min(), by.values().max());
        by.len() < queues.len() || most.zip(least).is_some_and(|(m, l)| *m > l + l / 4 + 1)
    });
    let udp = rss.and_then(|rss| rss.fields.get("udp4")).filter(|fields| !fields.contains('f'));
    let found = if uneven.is_some_and(|by| !by.is_empty()) {
        let n = queues.len().to_string();
        found.because("The indirection table is uneven.").advise(
            "Spread the table evenly.",
            ethtool('X', dev, &[("equal", n)]),
            Risk::Safe,
        )
    } else if let Some(fields) = udp {
        found.because(format!("The hash of UDP takes `{fields}` only: no ports.")).advise(
            "Take ports into the hash of UDP.",
            ethtool('N', dev, &[("rx-flow-hash", "udp4 sdfn".into())]),
            Risk::Safe,
        )
    } else {
        found.because("The table is even, so a few flows are most of the traffic.").suggest(
            "Spread the work behind the queue: RPS, or more sockets; one flow stays on one \
            processor.",
        )
    };
    Some(found.done())
}

fn few_queues(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let cpu = full_cpu(cx, dev)?;
    let change = super::steer::more_queues(cx, dev)?;
    if look::with_room(cx).is_empty() {
        return None;
    }
    let now = dev.channels.get("combined")?;
    Some(
        rule.found(cx, &dev.name)
            .warning()
            .is(dev.channels.source(), "combined", now)
            .is(dev.channels.source(), "combined-max", dev.channels.get("combined-max")?)
            .is(
                "/proc/stat",
                &format!("softirq of cpu{cpu}"),
                look::percent(look::softirq(cx, cpu).unwrap_or(1.0)),
            )
            .because(format!(
                "cpu{cpu} serves the device and is full, and the device could use more."
            ))
            .advise("Use more queues.", change, Risk::Flap)
            .done(),
    )
}

fn many_queues(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let queues = look::rx_queues(dev);
    let fired = total(look::irqs(cx, dev).iter().flat_map(|(_, on)| on.values().copied()));
    let per_s = fired as f64 / cx.whole().secs();
    let packets = look::rx_pps(cx, dev) / per_s.max(1.0);
    let many = queues > cx.now().host.cpus.len().max(1) || queues > 16;
    if !many || !look::is_hardware(dev) || per_s < 50_000.0 || packets >= 2.0 {
        return None;
    }
    Some(
        rule.found(cx, &dev.name)
            .is("/proc/interrupts", "interrupts/s", per_s as u64)
            .is(dev.channels.source(), "receive queues", queues as u64)
            .because(format!("{queues} queues interrupt for {packets:.1} packets each time."))
            .advise_if(
                "Let the device wait a little before it interrupts.",
                dev.coalesce
                    .get("adaptive-rx")
                    .map(|_| ethtool('C', dev, &[("adaptive-rx", "on".into())])),
                Risk::Lat,
            )
            .suggest("Use the fewest queues of which none overflows.")
            .done(),
    )
}
