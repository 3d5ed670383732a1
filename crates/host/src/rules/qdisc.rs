//! The queue of a device: full, or full of delay.

use linerate_core::table::Stage;

use super::look::{by, rate, stat};
use super::{Check, Rule};
use crate::change::Change;
use crate::finding::{Finding, Risk, Severity};
use crate::ledger;
use crate::snapshot::{Class, Dev, Qdisc};
use crate::window::{Cx, Sum, Window};

/// R60, R67.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R60",
        name: "qdisc-drop",
        title: "the device's queue drops packets",
        stage: Stage::Qdisc,
        evidence: "`drops` of the root qdisc grow, at least `loss_ratio` of what it sends; of a \
            queue that keeps delay low by drops (fq_codel, cake, pie), at least one in a hundred.",
        causes: "A shaper (tbf, htb): more is sent than its rate. The link is full (`link_full`). \
            Neither: bursts are longer than the queue. netem: somebody asked for loss.",
        advice: "Shaper: a higher rate, a longer queue for bursts, or senders that pace. Full \
            link: fair queues, or less. Short queue: a longer one.",
        traps: "`overlimits` alone is no loss. TCP needs some drops to find its rate. Senders of \
            UDP see success; `SndbufErrors` and `OutDiscards` count the same. Parents count what \
            their leaves drop. Replacing a qdisc loses what it holds.",
        cites: &["net/sched/sch_generic.c", "measured: tbf 20 Mbit/s, 372 drops, 364 SndbufErrors"],
        suppresses: &["R47", "R55", "R56", "R57", "R62", "R67", "R54", "R68"],
        check: Check::Dev(drops),
    },
    Rule {
        id: "R67",
        name: "bufferbloat",
        title: "packets wait long in the device's queue",
        stage: Stage::Qdisc,
        evidence: "In most windows a first-in-first-out queue holds more than `queue_ms` of what \
            leaves.",
        causes: "A long queue without fairness in front of a slow link: each packet waits for all \
            before it.",
        advice: "fq_codel in its place.",
        traps: "A longer queue makes it worse.",
        cites: &["RFC 8290", "RFC 7567"],
        suppresses: &[],
        check: Check::Dev(bloat),
    },
];

fn root(dev: &Dev) -> Option<&Qdisc> {
    dev.qdiscs.iter().find(|q| q.parent == "root")
}

fn sent<'a>(w: &Window<'a>, dev: &Dev) -> Option<Sum> {
    let at = |s: &'a crate::Snapshot| {
        s.devs.get(&dev.name)?.qdiscs.iter().find(|q| q.parent == "root").map(|q| &q.stats)
    };
    w.of("packets", at).map(Sum::from)
}

/// The share of the link's speed that is sent.
fn link_share(cx: &Cx<'_>, dev: &Dev) -> Option<f64> {
    let speed = f64::from(dev.speed_mbps.filter(|s| *s > 0)?) * 1e6 / 8.0;
    Some(rate(stat(&cx.whole(), dev, "tx_bytes")) / speed)
}

fn drops(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let qdisc = root(dev)?;
    let kind = qdisc.kind.as_str();
    let leaves = || dev.qdiscs.iter().filter(|q| q.parent != "root");
    let by_delay = |kind: &str| ["fq_codel", "codel", "cake", "pie", "fq_pie"].contains(&kind);
    let low_delay = by_delay(kind) || (kind == "mq" && leaves().any(|q| by_delay(&q.kind)));
    let ratio = if low_delay { 0.01 } else { cx.limits.loss_ratio };
    let lost = cx.lossy(ratio, |w| ledger::qdisc_drops(w, dev), |w| sent(w, dev))?;
    let found = rule.found(cx, &dev.name).loss(&lost);
    let found = found.is("netlink/route/RTM_GETQDISC", "kind", kind);
    let leaf = leaves().find(|leaf| by(leaf_drops(&cx.whole(), dev, leaf)) > lost.by / 2);
    if let Some(leaf) = leaf.filter(|_| kind != "mq") {
        let found = found
            .shows_if(leaf_drops(&cx.whole(), dev, leaf))
            .because(format!("Its {} below it does, at {}.", leaf.kind, leaf.parent));
        let found = match class_of(dev, leaf) {
            Some(class) => of_class(found, cx, dev, class),
            None => found,
        };
        return Some(
            found
                .advise_if("Let longer bursts wait there.", longer(cx, dev, leaf), Risk::Lat)
                .suggest("Let senders pace their bursts.")
                .done(),
        );
    }
    let found = match qdisc.options.get("limit") {
        Some(limit) => found.is("netlink/route/RTM_GETQDISC", "limit", limit),
        None => found,
    };
    let share = link_share(cx, dev);
    let found = match kind {
        "netem" => found
            .because("netem drops what it was told to drop.")
            .suggest(format!("If the test is over: `tc qdisc del dev {} root`.", dev.name)),
        "tbf" | "htb" | "hfsc" | "cbq" => found
            .because(format!("{kind} is a shaper: more is sent than its rate."))
            .advise_if("Let longer bursts wait.", longer(cx, dev, qdisc), Risk::Lat)
            .suggest(
                "Raise the rate, or let senders pace themselves; TCP will always find the limit by \
                a few drops.",
            ),
        _ if share.is_some_and(|share| share >= cx.limits.link_full) => found
            .because("The link is full.")
            .advise_if("Give each flow its share.", fair(dev, kind), Risk::Loss)
            .suggest("Send less, or take a faster link."),
        _ => found
            .because("The link is not full: bursts are longer than the queue.")
            .advise_if("Let longer bursts wait.", longer(cx, dev, qdisc), Risk::Lat)
            .suggest("Let senders pace their bursts."),
    };
    Some(found.done())
}

/// Drops of one of the qdiscs below the root.
fn leaf_drops<'a>(w: &Window<'a>, dev: &Dev, leaf: &Qdisc) -> Option<Sum> {
    let is =
        |q: &&Qdisc| (&q.kind, &q.handle, &q.parent) == (&leaf.kind, &leaf.handle, &leaf.parent);
    w.of("drops", |s| s.devs.get(&dev.name)?.qdiscs.iter().find(is).map(|q| &q.stats))
        .map(Sum::from)
}

/// The class that a leaf is in.
fn class_of<'a>(dev: &'a Dev, leaf: &Qdisc) -> Option<&'a Class> {
    dev.classes.iter().find(|class| class.handle == leaf.parent)
}

/// What a class is allowed, and how often it wanted more.
fn of_class<'c, 'a>(
    found: super::found::Found<'c, 'a>,
    cx: &Cx<'a>,
    dev: &Dev,
    class: &Class,
) -> super::found::Found<'c, 'a> {
    let is = |c: &&Class| (&c.kind, &c.handle) == (&class.kind, &class.handle);
    let w = cx.whole();
    let over =
        w.of("overlimits", |s| s.devs.get(&dev.name)?.classes.iter().find(is).map(|c| &c.stats));
    let found = found.shows_if(over.map(Sum::from));
    match (class.options.get("rate_bps"), class.options.get("ceil_bps")) {
        (Some(rate), Some(ceil)) => {
            let kbit = |bytes: u64| bytes.saturating_mul(8) / 1000;
            found.because(format!(
                "Class {} has {} kbit/s and may have {}: more is sent than that.",
                class.handle,
                kbit(rate),
                kbit(ceil)
            ))
        }
        _ => found,
    }
}

fn fair(dev: &Dev, kind: &str) -> Option<Change> {
    ["pfifo_fast", "pfifo", "bfifo"]
        .contains(&kind)
        .then(|| Change::Qdisc { dev: dev.name.clone(), spec: "root fq_codel".into() })
}

/// A queue that would have held the largest burst.
fn longer(cx: &Cx<'_>, dev: &Dev, qdisc: &Qdisc) -> Option<Change> {
    let burst = cx.most(|w| by(ledger::qdisc_drops(w, dev)));
    let limit = qdisc.options.get("limit").filter(|n| *n > 0);
    let grown = |now: u64, most: u64| {
        let need = now.saturating_add(burst).max(now.saturating_mul(2));
        Some(need.checked_next_power_of_two().unwrap_or(most).min(most)).filter(|n| *n > now)
    };
    let place = match qdisc.parent.as_str() {
        "root" => "root".to_owned(),
        parent => format!("parent {parent}"),
    };
    let replace =
        |spec: String| Change::Qdisc { dev: dev.name.clone(), spec: format!("{place} {spec}") };
    match qdisc.kind.as_str() {
        "pfifo_fast" | "mq" if place == "root" => {
            let now = u64::from(dev.txqueuelen);
            let value = grown(now, 10_000)?.to_string();
            Some(Change::Link { dev: dev.name.clone(), name: "txqueuelen".into(), value })
        }
        "pfifo" | "sfq" | "fq" => {
            Some(replace(format!("{} limit {}", qdisc.kind, grown(limit?, 20_000)?)))
        }
        "bfifo" => Some(replace(format!("bfifo limit {}", bytes(limit?, burst)))),
        "tbf" => {
            // It is in bytes in a second; tc takes bits.
            let rate = qdisc.options.get("rate_bps")?.saturating_mul(8);
            let size = qdisc.options.get("burst")?;
            let limit = bytes(limit?, burst);
            Some(replace(format!("tbf rate {rate}bit burst {size} limit {limit}")))
        }
        _ => None,
    }
}

/// A limit in bytes with room for `burst` more packets.
fn bytes(limit: u64, burst: u64) -> u64 {
    const MOST: u64 = 8 << 20;
    let need = limit.saturating_add(burst.saturating_mul(1514)).max(limit.saturating_mul(2));
    need.min(MOST).max(limit)
}

fn bloat(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if cx.whole().is_lifetime() {
        return None;
    }
    let kind = root(dev)?.kind.as_str();
    let fifo = |q: &Qdisc| ["pfifo_fast", "pfifo", "bfifo"].contains(&q.kind.as_str());
    let plain = fifo(root(dev)?)
        || (kind == "mq" && dev.qdiscs.iter().any(|q| q.parent != "root" && fifo(q)));
    let per_s = rate(stat(&cx.whole(), dev, "tx_bytes"));
    if !plain || per_s < 1000.0 {
        return None;
    }
    let waits = |w: &Window<'_>| -> Option<u64> {
        let q = root(w.to.devs.get(&dev.name)?)?;
        q.stats.get("backlog")
    };
    let long = cx.windows.iter().filter(|w| {
        waits(w).is_some_and(|bytes| bytes as f64 * 1000.0 / per_s > cx.limits.queue_ms)
    });
    if long.count() * 2 <= cx.windows.len() {
        return None;
    }
    let bytes = waits(&cx.whole())?;
    let ms = bytes as f64 * 1000.0 / per_s;
    Some(
        rule.found(cx, &dev.name)
            .state(Severity::Warning)
            .is("netlink/route/RTM_GETQDISC", "backlog", bytes)
            .is("netlink/route/RTM_GETQDISC", "kind", kind)
            .because(format!("A packet waits for about {ms:.0} ms behind all that came before it."))
            .advise(
                "Fair queues that keep the delay low.",
                Change::Qdisc { dev: dev.name.clone(), spec: "root fq_codel".into() },
                Risk::Loss,
            )
            .done(),
    )
}
