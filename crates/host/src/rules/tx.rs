//! The transmit side of a device: its rings, its queues, its offloads, the far end of a veth or TUN.

use linerate_core::table::Stage;

use super::look::{self, by, dev_file, driver, ethtool, rate, stat};
use super::{Check, Rule};
use crate::change::Change;
use crate::finding::{Finding, Risk, Severity};
use crate::ledger;
use crate::snapshot::Dev;
use crate::window::{Cx, Goal, Sum, Window};

/// R68 to R73.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R68",
        name: "tx-requeues",
        title: "the driver refuses packets, so they are queued again",
        stage: Stage::Xmit,
        evidence: "`requeues` of the root qdisc are at least `requeue_ratio` of what it sends, or \
            the driver's counts of a stopped or busy queue are, and the link is not full \
            (`link_full`).",
        causes: "The transmit ring is small; or what was sent is noticed late, because the \
            interrupt waits (`tx-usecs`) or its processor is full; or pause frames stop the link.",
        advice: "A larger transmit ring; a shorter `tx-usecs`.",
        traps: "On a full link it is how byte queue limits work.",
        cites: &["net/sched/sch_generic.c dev_requeue_skb"],
        suppresses: &[],
        check: Check::Dev(requeues),
    },
    Rule {
        id: "R69",
        name: "tx-timeout",
        title: "the device did not send for seconds, and was reset",
        stage: Stage::Xmit,
        evidence: "`tx_timeout` of a queue, or `stall_cnt` of its byte queue limit, grows.",
        causes: "Firmware, driver or hardware; or an interrupt that got lost.",
        advice: "Newer firmware and driver; the kernel's log has the details.",
        traps: "No setting mends it.",
        cites: &[
            "net/sched/sch_generic.c dev_watchdog",
            "Documentation/ABI/testing/sysfs-class-net-queues",
        ],
        suppresses: &["R06", "R68"],
        check: Check::Dev(timeout),
    },
    Rule {
        id: "R70",
        name: "bql-wide",
        title: "the device's own queue is long, and latency is the goal",
        stage: Stage::Xmit,
        evidence: "With the goal latency: the byte queue limit of a queue allows more than \
            `queue_ms` of what leaves, and most of it is in use.",
        causes: "Late completions made the limit grow.",
        advice: "A smaller `limit_max` of the byte queue limit.",
        traps: "Too small a limit costs throughput.",
        cites: &["Documentation/ABI/testing/sysfs-class-net-queues byte_queue_limits"],
        suppresses: &[],
        check: Check::Dev(bql),
    },
    Rule {
        id: "R71",
        name: "xps-unset",
        title: "processors share transmit queues at random",
        stage: Stage::Xmit,
        evidence: "Several transmit queues of hardware, none of which has `xps_cpus`, and \
            `requeues` as for R68.",
        causes: "The driver sets none, or they were lost when queues were added or removed.",
        advice: "One processor for each queue.",
        traps: "Some drivers choose the queue themselves.",
        cites: &["Documentation/networking/scaling.rst XPS"],
        suppresses: &["R68"],
        check: Check::Dev(xps),
    },
    Rule {
        id: "R72",
        name: "tx-offload-off",
        title: "segments are cut and summed by the processor though the device could",
        stage: Stage::Gso,
        evidence: "`tso` or `tx` of hardware is off and not fixed, over 1 Gbit/s is sent, and a \
            processor is full (`cpu_full`).",
        causes: "It was switched off, for a capture or for a bug that is gone.",
        advice: "`ethtool -K DEV tx on tso on`.",
        traps: "It may be off on purpose: ask who did it.",
        cites: &["Documentation/networking/segmentation-offloads.rst"],
        suppresses: &["R18"],
        check: Check::Dev(offload),
    },
    Rule {
        id: "R73",
        name: "veth-tun-full",
        title: "the other end does not take packets fast enough",
        stage: Stage::Xmit,
        evidence: "`tx_dropped` of a veth or TUN device grows, at least `loss_ratio` of what is \
            sent, by more than the backlogs and lengths account for.",
        causes: "veth: its NAPI (with GRO or XDP on the other end) has a ring of 256, and its \
            processor is busy. TUN: the program does not read, and the queue is `txqueuelen` long.",
        advice: "TUN: a faster program, or a longer `txqueuelen`. veth: the other end's NAPI on a \
            processor with room; no threaded NAPI on the sender's.",
        traps: "The queue of the qdisc drops nothing here. A backlog overflow at the other end \
            also counts as `tx_dropped` of this one.",
        cites: &[
            "drivers/net/veth.c veth_xmit",
            "drivers/net/tun.c tun_net_xmit",
            "measured: TUN with 50, 150 of 200 lost",
        ],
        suppresses: &["R47", "R55", "R56"],
        check: Check::Dev(far_end),
    },
];

fn qdisc<'a>(w: &Window<'a>, dev: &Dev, name: &str) -> Option<Sum> {
    let at = |s: &'a crate::Snapshot| {
        s.devs.get(&dev.name)?.qdiscs.iter().find(|q| q.parent == "root").map(|q| &q.stats)
    };
    w.of(name, at).map(Sum::from)
}

/// How often the driver refused a packet, where that is often and the link is not full.
fn refused(cx: &Cx<'_>, dev: &Dev) -> Option<Sum> {
    if !look::is_hardware(dev) || cx.whole().is_lifetime() {
        return None;
    }
    let stops = |name: &str| {
        ["tx_busy", "tx_queue_stopped", "tx_restart_queue", "tx_queue_stops"].contains(&name)
    };
    let of = |w: &Window<'_>| {
        let requeues = qdisc(w, dev, "requeues");
        let driver = driver(w, &dev.name, stops);
        [requeues, driver].into_iter().flatten().max_by_key(|sum| sum.by)
    };
    let seen = cx.grew(of)?;
    let sent = by(stat(&cx.whole(), dev, "tx_packets")).max(1) as f64;
    let speed = dev.speed_mbps.filter(|s| *s > 0).map(|s| f64::from(s) * 1e6 / 8.0);
    let bytes = rate(stat(&cx.whole(), dev, "tx_bytes"));
    let link_full = speed.is_some_and(|speed| bytes >= cx.limits.link_full * speed);
    let often = seen.by as f64 >= cx.limits.requeue_ratio * sent && seen.per_s >= 10.0;
    (often && !link_full).then_some(seen)
}

fn requeues(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let seen = refused(cx, dev)?;
    let found = rule.found(cx, &dev.name).warning().shows(&seen);
    let (now, most) = (dev.rings.get("tx"), dev.rings.get("tx-max"));
    let ring = now.zip(most).filter(|(now, most)| now < most).map(|(now, most)| {
        ethtool('G', dev, &[("tx", now.saturating_mul(2).min(most).to_string())])
    });
    let full = look::irq_cpus(cx, dev).into_iter().find(|cpu| look::is_full(cx, *cpu));
    let slow = dev.coalesce.get("tx-usecs").filter(|us| *us as f64 >= cx.limits.coalesce_us);
    let found = if let Some(cpu) = full {
        found.because(format!("cpu{cpu}, which notices what was sent, is full of softirq."))
    } else if let Some(us) = slow {
        let change = ethtool('C', dev, &[("tx-usecs", (us / 2).to_string())]);
        found.because(format!("What was sent is noticed after {us} µs.")).advise(
            "Notice it sooner.",
            change,
            Risk::Safe,
        )
    } else {
        found.because("The transmit ring is full at times though the link is not.")
    };
    Some(found.advise_if("Double the transmit ring.", ring, Risk::Flap).done())
}

fn timeout(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let w = cx.whole();
    let of = |q: usize, name: &'static str| {
        let by_queue = w.of(name, |s| s.devs.get(&dev.name)?.tx.get(q).map(|q| &q.stats));
        by_queue.or_else(|| w.of(name, |s| s.devs.get(&dev.name)?.tx.get(q).map(|q| &q.bql)))
    };
    let parts = (0..dev.tx.len()).flat_map(|q| ["tx_timeout", "stall_cnt"].map(|name| of(q, name)));
    let seen = Sum::of(parts.collect::<Vec<_>>()).filter(|sum| sum.by > 0)?;
    if w.is_lifetime() && seen.by < 3 {
        return None;
    }
    Some(
        rule.found(cx, &dev.name)
            .shows(&seen)
            .at(Severity::Critical)
            .because("A queue of the device stood still until the watchdog noticed.")
            .suggest(
                "Look at the kernel's log (NETDEV WATCHDOG); take newer firmware or another \
                driver.",
            )
            .done(),
    )
}

fn bql(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if cx.goal != Goal::Latency {
        return None;
    }
    let per_s = rate(stat(&cx.whole(), dev, "tx_bytes"));
    let (at, queue) = dev.tx.iter().enumerate().find(|(_, q)| {
        let (limit, used) = (q.bql.get("limit").unwrap_or(0), q.bql.get("inflight").unwrap_or(0));
        limit > 0
            && used.saturating_mul(2) >= limit
            && per_s > 1000.0
            && limit as f64 * 1000.0 / per_s > cx.limits.queue_ms
    })?;
    let limit = queue.bql.get("limit")?;
    let attr = format!("queues/tx-{at}/byte_queue_limits/limit_max");
    let next = ((per_s * cx.limits.queue_ms / 1000.0) as u64).max(3028);
    Some(
        rule.found(cx, &dev.name)
            .state(Severity::Info)
            .is(queue.bql.source(), "limit", limit)
            .is(queue.bql.source(), "inflight", queue.bql.get("inflight").unwrap_or(0))
            .because(format!(
                "Queue {at} holds {:.0} ms of what leaves.",
                limit as f64 * 1000.0 / per_s
            ))
            .advise("Bound it.", dev_file(dev, &attr, next), Risk::Safe)
            .done(),
    )
}

fn xps(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let none = |q: &crate::snapshot::TxQueue| {
        q.xps_cpus.as_ref().is_some_and(Vec::is_empty)
            && q.xps_rxqs.as_ref().is_none_or(Vec::is_empty)
    };
    if dev.tx.len() < 2 || !dev.tx.iter().all(none) {
        return None;
    }
    let seen = refused(cx, dev)?;
    let cpu = *cx.now().host.cpus.first()?;
    Some(
        rule.found(cx, &dev.name)
            .shows(&seen)
            .at(Severity::Warning)
            .is(&format!("/sys/class/net/{}/queues/tx-*/xps_cpus", dev.name), "xps_cpus", "0")
            .because(format!("Any processor may use any of {} queues.", dev.tx.len()))
            .advise(
                "Give each queue one processor; this is the first.",
                dev_file(dev, "queues/tx-0/xps_cpus", look::mask(&[cpu])),
                Risk::Safe,
            )
            .done(),
    )
}

fn offload(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if cx.whole().is_lifetime() || !look::is_hardware(dev) {
        return None;
    }
    let off = |name: &str| look::feature(dev, name).is_some_and(|f| !f.on && !f.fixed);
    let names: Vec<&str> = ["tx", "tso"].into_iter().filter(|name| off(name)).collect();
    let bytes = stat(&cx.whole(), dev, "tx_bytes")?;
    let full = cx.now().softnet.keys().find(|cpu| {
        let busy = |what: &str| cx.whole().cpu_share(**cpu, what).unwrap_or(0.0);
        busy("softirq") + busy("system") >= cx.limits.cpu_full
    })?;
    if names.is_empty() || bytes.per_s < 125e6 {
        return None;
    }
    let set: Vec<(&str, String)> = names.iter().map(|name| (*name, "on".to_owned())).collect();
    Some(
        rule.found(cx, &dev.name)
            .warning()
            .shows(&bytes)
            .is("netlink/ethtool/FEATURES_GET", &names.join(", "), "off")
            .because(format!("cpu{full} is full, and cuts and sums what the device could."))
            .advise(
                "Let the device do it; ask first who switched it off.",
                ethtool('K', dev, &set),
                Risk::Safe,
            )
            .done(),
    )
}

fn far_end(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if !look::is_veth(dev) && !look::is_tun(dev) {
        return None;
    }
    let left = |w: &Window<'_>| {
        let ledger = ledger::of(w);
        let loss = ledger.unexplained(&dev.name, "tx_dropped")?;
        Some(Sum { by: loss.count, per_s: loss.per_s, evidence: loss.counters.clone() })
    };
    let lost = cx.lossy(cx.limits.loss_ratio, left, |w| stat(w, dev, "tx_packets"))?;
    let found = rule.found(cx, &dev.name).loss(&lost);
    if look::is_tun(dev) {
        let next = u64::from(dev.txqueuelen).saturating_mul(2).clamp(1000, 10_000);
        let longer = (next > u64::from(dev.txqueuelen)).then(|| Change::Link {
            dev: dev.name.clone(),
            name: "txqueuelen".into(),
            value: next.to_string(),
        });
        return Some(
            found
                .is("netlink/route/RTM_GETLINK", "txqueuelen", u64::from(dev.txqueuelen))
                .because("The program behind it does not read fast enough, and its queue is full.")
                .suggest("Look at the program; it can open several queues.")
                .advise_if("Let more packets wait.", longer, Risk::Lat)
                .done(),
        );
    }
    let seen = cx.whole().drops(|_, at| at == "veth_xmit");
    let found = match by(seen.clone()) {
        0 => found.because("Its peer's ring is full, or refuses what is longer than its MTU."),
        _ => found.shows_if(seen).because(
            "Its peer's NAPI ring of 256 packets is full: its processor does not come round.",
        ),
    };
    Some(
        found
            .suggest(
                "At the other end: switch threaded NAPI off or its thread to a processor with \
                room, or switch GRO off there.",
            )
            .done(),
    )
}
