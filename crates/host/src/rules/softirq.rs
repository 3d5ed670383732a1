//! The softirq that polls devices, its backlog, and what a packet costs in it.

use linerate_core::table::Stage;

use super::found::Found;
use super::look::{self, by, ethtool, rate};
use super::{Check, Rule, times};
use crate::finding::{Finding, Risk};
use crate::snapshot::Dev;
use crate::window::{Cx, Sum, Window};

/// R15 to R18, R25, R37.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R15",
        name: "backlog-drop",
        title: "packets are dropped because the backlog is full",
        stage: Stage::Backlog,
        evidence: "`dropped` of `/proc/net/softnet_stat` grows on a processor, in at least \
            `loss_ratio` of what it has processed, and not by the flow limit.",
        causes: "The processor is full of softirq (`cpu_full`): more arrives than it can do. It is \
            not: bursts are longer than `net.core.netdev_max_backlog`.",
        advice: "Bursts: a longer backlog. Full: more processors in `rps_cpus`, cheaper rules, \
            XDP.",
        traps: "The backlog is used without RPS as well: by loopback, veth, tunnels and TUN. One \
            loss is counted three times: here, as `rx_dropped` of the device and as `tx_dropped` \
            of the veth that sent it. A longer backlog hides a full processor and adds delay.",
        cites: &[
            "net/core/dev.c enqueue_to_backlog",
            "Documentation/admin-guide/sysctl/net.rst netdev_max_backlog",
            "measured: burst of 6000, 1083 drops at 1000, none at 8000",
        ],
        suppresses: &["R18", "R19", "R29", "R37", "R73", "R55", "R56"],
        check: Check::Cpu(backlog),
    },
    Rule {
        id: "R16",
        name: "squeeze-budget",
        title: "the softirq stops at its budget of packets with work left",
        stage: Stage::Poll,
        evidence: "`time_squeeze` grows by `squeeze_per_s` or more, in at least `squeeze_share` of \
            the runs of NET_RX; there were packets enough for each to be a full budget, and not \
            time enough for each to be a full `netdev_budget_usecs`.",
        causes: "Five or more devices or queues are polled by one processor: each may do 64, and \
            all together `net.core.netdev_budget`.",
        advice: "A larger `net.core.netdev_budget`, up to 900.",
        traps: "A squeeze is no loss. One busy queue never squeezes: no squeeze proves nothing. A \
            larger budget leaves less for programs.",
        cites: &[
            "net/core/dev.c net_rx_action",
            "measured: 8 queues on one processor, 200 squeezes at 300, none at 900",
        ],
        suppresses: &[],
        check: Check::Cpu(squeeze_budget),
    },
    Rule {
        id: "R17",
        name: "squeeze-time",
        title: "the softirq stops at its time limit with work left",
        stage: Stage::Poll,
        evidence: "`time_squeeze` grows by `squeeze_per_s` or more, in at least `squeeze_share` of \
            the runs of NET_RX, and there were not packets enough for each to be a full budget.",
        causes: "A packet is dear: long lists of rules, or a program at a hook. Or the processor \
            was taken away meanwhile: stolen time of a virtual machine (`steal`).",
        advice: "Fewer rules for each packet: sets, early acceptance of known connections. A \
            longer time only moves the problem. With probes it is said whether one poll is long or \
            many are.",
        traps: "The limit is counted in ticks: at 250 ticks in a second, 5000 and 8000 µs are the \
            same. A larger `netdev_budget` has no effect here.",
        cites: &["net/core/dev.c net_rx_action", "measured: 40 000 rules, 36 squeezes, no drop"],
        suppresses: &["R37"],
        check: Check::Cpu(squeeze_time),
    },
    Rule {
        id: "R18",
        name: "rx-cpu-full",
        title: "the processor is full of softirq while others have room",
        stage: Stage::Poll,
        evidence: "Softirq and interrupts take `cpu_full` of a processor's time, or its ksoftirqd \
            does, while another spends less than `cpu_free`.",
        causes: "All of the packets arrive on one queue, or all interrupts on one processor.",
        advice: "Spread them: interrupts, queues, RPS.",
        traps: "`time_squeeze` may well be 0. The time of `/proc/stat` is sampled.",
        cites: &[
            "Documentation/networking/scaling.rst",
            "measured: one queue at 100 %, 365 000 drops, no squeeze",
        ],
        suppresses: &[],
        check: Check::Cpu(full),
    },
    Rule {
        id: "R37",
        name: "packet-cost",
        title: "each packet costs much time in softirq",
        stage: Stage::Ip,
        evidence: "A processor is full of softirq (`cpu_full`) and spends `packet_us` or more on \
            each packet.",
        causes: "Thousands of rules in a row, a slow hook or program, or logging of packets.",
        advice: "Sets and maps in place of lists, early acceptance of known connections, no \
            tracking where none is needed.",
        traps: "Merged packets are dearer each and cheaper by the byte.",
        cites: &["measured: 120 rules, 349 000 packets became 114 000"],
        suppresses: &["R18", "R19"],
        check: Check::Cpu(cost),
    },
    Rule {
        id: "R25",
        name: "gro-off",
        title: "packets of TCP are not merged when they arrive",
        stage: Stage::Gro,
        evidence: "GRO is off and not fixed, at least `gro_pps` packets of TCP arrive in a second, \
            and fewer than `gro_factor` of them became one.",
        causes: "It was switched off, for a capture or for a bug that is gone.",
        advice: "`ethtool -K DEV gro on`.",
        traps: "LRO is not GRO, and must be off where packets are forwarded. Captures then show \
            large packets. On a veth it only works for what the sender has not merged already.",
        cites: &[
            "Documentation/networking/segmentation-offloads.rst",
            "measured: 13 991 packets became 614, 364 became 766 MB/s",
        ],
        suppresses: &["R18"],
        check: Check::Dev(gro),
    },
];

fn backlog(rule: &Rule, cx: &Cx<'_>, cpu: u32) -> Option<Finding> {
    let dropped = |w: &Window<'_>| w.softnet(cpu, "dropped").map(Sum::from);
    let lost =
        cx.lossy(cx.limits.loss_ratio, dropped, |w| w.softnet(cpu, "processed").map(Sum::from))?;
    if super::steer::is_flow_limit(cx) {
        return None;
    }
    let w = cx.whole();
    let feeds = |dev: &&Dev| dev.rx.iter().any(|queue| queue.rps_cpus.contains(&cpu));
    let fed = cx.now().devs.values().find(feeds);
    let same = cx.now().devs.values().flat_map(|dev| {
        [
            w.dev(&dev.name, "rx_dropped"),
            w.dev(&dev.name, "tx_dropped").filter(|_| look::is_veth(dev)),
        ]
    });
    let mut found = rule.found(cx, format!("cpu{cpu}")).loss(&lost);
    found = found.shows_if(Sum::of(same.collect::<Vec<_>>()));
    found = match fed {
        Some(dev) => found.because(format!("RPS of {} hands packets to it.", dev.name)),
        None => found.because("Loopback, a veth, a tunnel or TUN puts packets into it."),
    };
    let share = look::softirq(cx, cpu);
    if let Some(share) = share {
        found = found.is("/proc/stat", "softirq", look::percent(share));
    }
    let name = "net.core.netdev_max_backlog";
    let now = cx.now().sysctl(name);
    found = found.sysctl(name);
    let longer = now.and_then(|now| longer(cx, cpu, now)).map(|next| look::sysctl(name, next));
    if look::is_full(cx, cpu) {
        found = found.because("The processor is full of softirq: more arrives than it can do.");
        if let Some(dev) = fed {
            for (what, change, risk) in super::steer::ladder(cx, dev, cpu) {
                found = found.advise(what, change, risk);
            }
        }
        found = found
            .advise_if("If they are bursts after all: a longer backlog.", longer, Risk::Lat)
            .suggest("Make each packet cheaper: fewer rules, GRO, XDP; or send less.");
    } else {
        found = found
            .because(match share {
                Some(_) => "The processor has time left: bursts are longer than the backlog.",
                None => {
                    "Whether the processor has time left is not known; if it has, bursts are longer \
                    than the backlog."
                }
            })
            .advise_if("Let more packets wait.", longer, Risk::Lat)
            .suggest("Let the sender pace its bursts.");
    }
    Some(found.done())
}

/// A backlog that would have held the largest burst, between twice and eight times what there is.
fn longer(cx: &Cx<'_>, cpu: u32, now: i64) -> Option<i64> {
    const MOST: i64 = 10_000;
    let most = cx.most(|w| by(w.softnet(cpu, "dropped").map(Sum::from)));
    let need = now.saturating_add(i64::try_from(most).unwrap_or(MOST));
    let next = [2, 4, 8].iter().map(|times| now.saturating_mul(*times)).find(|n| *n >= need);
    let next = next.unwrap_or(now.saturating_mul(8)).min(MOST);
    (next > now && now > 0).then_some(next)
}

/// What a squeeze can have been: how many there were, and how many of each kind there was room for.
struct Squeeze {
    seen: Sum,
    /// How many were by the budget of packets and by the time, where that is counted.
    counted: Option<(u64, u64)>,
    /// Full budgets among the packets.
    by_packets: u64,
    /// Full time limits in the time of the softirq, if that is known.
    by_time: Option<u64>,
    processed: u64,
    steal: f64,
}

impl Squeeze {
    fn of(cx: &Cx<'_>, cpu: u32) -> Option<Squeeze> {
        let seen = cx.grew(|w| w.softnet(cpu, "time_squeeze").map(Sum::from))?;
        let w = cx.whole();
        let runs = w.of("NET_RX", |s| s.softirqs.get(&cpu)).map(|d| d.by);
        let often = runs.is_none_or(|runs| seen.by as f64 >= cx.limits.squeeze_share * runs as f64);
        if seen.per_s < cx.limits.squeeze_per_s || !often {
            return None;
        }
        let positive = |name: &str| cx.now().sysctl(name).filter(|n| *n > 0);
        let processed = by(w.softnet(cpu, "processed").map(Sum::from));
        // In a namespace that does not show them: the least that anybody sets.
        let budget = positive("net.core.netdev_budget").unwrap_or(32);
        let usecs = positive("net.core.netdev_budget_usecs").unwrap_or(2000);
        let busy_us = look::softirq(cx, cpu).map(|share| share * w.secs() * 1e6);
        // A kernel does not say which it was.
        let counted = ["squeeze_budget", "squeeze_time"].map(|name| w.softnet(cpu, name));
        let [by_budget, by_limit] = counted.map(|delta| delta.map(|delta| delta.by));
        let squeeze = Squeeze {
            seen,
            counted: by_budget.zip(by_limit),
            by_packets: processed / budget.unsigned_abs(),
            by_time: busy_us.map(|us| (us / usecs as f64) as u64),
            processed,
            steal: w.cpu_share(cpu, "steal").unwrap_or(0.0),
        };
        // Since boot, numbers that fit neither way are none to judge by.
        let fits = squeeze.by_packets.max(squeeze.by_time.unwrap_or(0)) >= squeeze.seen.by;
        (fits || !w.is_lifetime()).then_some(squeeze)
    }

    /// Whether they were by packets: there were enough of them, and too little time for the other.
    /// Where both would do, many devices on the processor decide.
    fn is_budget(&self, cx: &Cx<'_>) -> bool {
        if let Some((by_budget, by_limit)) = self.counted {
            return by_budget > by_limit;
        }
        let by_packets = self.by_packets >= self.seen.by;
        let by_time = self.by_time.is_none_or(|most| most >= self.seen.by);
        match (by_packets, by_time) {
            (true, false) => true,
            (false, _) => false,
            (true, true) => {
                let napis = |dev: &Dev| dev.napis.len().max(usize::from(!dev.kind.is_empty()));
                cx.now().devs.values().map(napis).sum::<usize>() >= 5
            }
        }
    }
}

fn squeeze_budget(rule: &Rule, cx: &Cx<'_>, cpu: u32) -> Option<Finding> {
    let squeeze = Squeeze::of(cx, cpu)?;
    if !squeeze.is_budget(cx) {
        return None;
    }
    let each = squeeze.processed / squeeze.seen.by.max(1);
    Some(
        rule.found(cx, format!("cpu{cpu}"))
            .warning()
            .shows(&squeeze.seen)
            .sysctl("net.core.netdev_budget")
            .because(format!(
                "{each} packets for each squeeze, in less time than the time limit: the budget \
                ends the run."
            ))
            .advise_if(
                "Allow more packets in a run.",
                look::more_than_usual(cx, "net.core.netdev_budget", 3, 900, 300),
                Risk::Lat,
            )
            .suggest("Spread the devices' interrupts over more processors.")
            .done(),
    )
}

fn squeeze_time(rule: &Rule, cx: &Cx<'_>, cpu: u32) -> Option<Finding> {
    let squeeze = Squeeze::of(cx, cpu)?;
    if squeeze.is_budget(cx) {
        return None;
    }
    let found = rule
        .found(cx, format!("cpu{cpu}"))
        .warning()
        .shows(&squeeze.seen)
        .sysctl("net.core.netdev_budget_usecs");
    let found = if squeeze.steal >= cx.limits.steal {
        found
            .is("/proc/stat", "steal", look::percent(squeeze.steal))
            .because("The hypervisor takes the processor away in the middle of a run.")
            .suggest("Give the virtual machine processors of its own.")
    } else {
        let found = polls(found, cx, cpu);
        let cost =
            cost_us(cx, cpu).map_or(String::new(), |us| format!(" A packet costs {us:.1} µs."));
        found
            .because(format!(
                "There were not packets enough for the budget: the time ends the run.{cost}"
            ))
            .suggest(
                "Shorten the lists of rules that each packet passes: sets and maps, and known \
                connections first.",
            )
            .advise_if(
                "Only if packets can not be made cheaper: a longer run.",
                look::more_than_usual(cx, "net.core.netdev_budget_usecs", 2, 20_000, 2000),
                Risk::Lat,
            )
    };
    Some(found.done())
}

/// Whether one poll is long, or many are, if probes measured it.
fn polls<'c, 'a>(found: Found<'c, 'a>, cx: &'c Cx<'a>, cpu: u32) -> Found<'c, 'a> {
    let all = cx.whole().measured_as("poll/", Some(cpu));
    let Some((dev, longest)) = all.iter().max_by_key(|(_, hist)| hist.max) else { return found };
    let usecs = cx.now().sysctl("net.core.netdev_budget_usecs").filter(|n| *n > 0).unwrap_or(2000);
    let half = usecs.unsigned_abs() * 1000 / 2;
    let source = format!("{} poll/{dev} cpu{cpu}", crate::bpf::NAME);
    let (p99, max) = (times::span(longest.quantile(0.99)), times::span(longest.max));
    let found = found.is(&source, "p99", p99).is(&source, "max", max.as_str());
    match longest.max >= half {
        true => found.because(format!("One poll of {dev} takes up to {max}.")),
        false => found.because(format!("No poll takes more than {max}: they are many.")),
    }
}

/// What a packet costs in softirq, in µs, if there were enough to say so.
fn cost_us(cx: &Cx<'_>, cpu: u32) -> Option<f64> {
    let w = cx.whole();
    let processed = w.softnet(cpu, "processed")?.by;
    let share = w.cpu_share(cpu, "softirq")?;
    (processed >= 100).then(|| share * w.secs() * 1e6 / processed as f64)
}

fn full(rule: &Rule, cx: &Cx<'_>, cpu: u32) -> Option<Finding> {
    let room = look::with_room(cx);
    if cx.whole().is_lifetime() || !look::is_full(cx, cpu) || room.is_empty() {
        return None;
    }
    let share = look::softirq(cx, cpu)?;
    let mut found = rule
        .found(cx, format!("cpu{cpu}"))
        .warning()
        .is("/proc/stat", "softirq", look::percent(share))
        .because(format!("Processors {} have room.", look::list(&room)));
    let dev = cx.now().devs.values().find(|dev| look::irq_cpus(cx, dev).contains(&cpu));
    if let Some(dev) = dev {
        found = found.because(format!("{} interrupts here.", dev.name));
        for (what, change, risk) in super::steer::ladder(cx, dev, cpu) {
            found = found.advise(what, change, risk);
        }
    }
    Some(found.suggest("One flow stays on one processor: more flows, or cheaper packets.").done())
}

fn cost(rule: &Rule, cx: &Cx<'_>, cpu: u32) -> Option<Finding> {
    let us = cost_us(cx, cpu).filter(|us| *us >= cx.limits.packet_us)?;
    let share = cx.whole().cpu_share(cpu, "softirq")?;
    if cx.whole().is_lifetime() || share < cx.limits.cpu_full {
        return None;
    }
    let processed = Sum::from(cx.whole().softnet(cpu, "processed")?);
    Some(
        rule.found(cx, format!("cpu{cpu}"))
            .warning()
            .shows(&processed)
            .is("/proc/stat", "softirq", look::percent(share))
            .because(format!("A packet costs {us:.0} µs; some is usual."))
            .suggest(
                "Shorten the lists of rules that each packet passes; look for logging and for slow \
                programs at hooks.",
            )
            .done(),
    )
}

fn gro(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let feature = look::feature(dev, "gro")?;
    let w = cx.whole();
    let segments = rate(look::tcp(&w, "InSegs"));
    let received = look::rx_pps(cx, dev);
    let packets = rate(w.mibs(look::IP, "InReceives"));
    let factor = received / packets.max(1.0);
    let all: f64 = cx.now().devs.values().map(|d| look::rx_pps(cx, d)).sum();
    let busy = segments.min(received) >= cx.limits.gro_pps && received >= all / 2.0;
    if feature.on || feature.fixed || w.is_lifetime() || !busy || factor >= cx.limits.gro_factor {
        return None;
    }
    Some(
        rule.found(cx, &dev.name)
            .warning()
            .shows_if(look::tcp(&w, "InSegs"))
            .is("netlink/ethtool/FEATURES_GET", "gro", "off")
            .because("Every segment goes through the whole stack alone.")
            .advise("Merge them.", ethtool('K', dev, &[("gro", "on".into())]), Risk::Safe)
            .done(),
    )
}
