//! The host: what its provider allows, who else sets things, and settings out of old guides.

use linerate_core::table::Stage;

use super::look::{self, driver, ethtool, sysctl};
use super::{Check, Rule, advice};
use crate::change::Change;
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::{Dev, Snapshot};
use crate::window::Cx;

/// R80, R83 to R85, R87, R88.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R80",
        name: "cloud-allowance",
        title: "the provider's limit for this machine is reached",
        stage: Stage::Ring,
        evidence: "A counter of the driver that ends in `_allowance_exceeded` grows.",
        causes: "Its name says which: bandwidth in or out, packets in a second, tracked \
            connections, or link-local services.",
        advice: "A larger machine, fewer packets, fewer connections. No setting of the kernel \
            helps.",
        traps: "Limits are for the machine or for the interface, and short bursts count as well.",
        cites: &["drivers/net/ethernet/amazon/ena/ena_ethtool.c"],
        suppresses: &["R29", "R55", "R56"],
        check: Check::Dev(allowance),
    },
    Rule {
        id: "R83",
        name: "settings-change",
        title: "somebody changes settings of the path meanwhile",
        stage: Stage::Route,
        evidence: "A sysctl of the path has another value at the end of the run than at its begin.",
        causes: "tuned, bpftune, an agent of the network, or a person.",
        advice: "Find who it is before you set it yourself.",
        traps: "Two who set the same undo each other for ever.",
        cites: &["sysctl.d(5)"],
        suppresses: &[],
        check: Check::Host(changing),
    },
    Rule {
        id: "R84",
        name: "wrong-namespace",
        title: "what is advised can not be set in this namespace",
        stage: Stage::Route,
        evidence: "The run looked at a network namespace that is not the host's first, and a finding \
            advises a sysctl that is the host's.",
        causes: "Some settings are there once for all namespaces: in a container their files are not \
            there, or can not be written.",
        advice: "Set them on the host; they then hold for everybody on it.",
        traps: "Counters of processors are the host's as well, so what they tell may be another \
            namespace's doing.",
        cites: &["net/core/sysctl_net_core.c", "measured: ENOENT in a namespace of its own"],
        suppresses: &[],
        check: Check::Findings(elsewhere),
    },
    Rule {
        id: "R85",
        name: "link-slowed",
        title: "the link became slower",
        stage: Stage::Xmit,
        evidence: "The speed of a device is lower at the end of the run than at its begin; or it \
            is 100 Mbit/s or less while tuned runs and the device can do more queues than one.",
        causes: "Autonegotiation fell back (cable), or tuned saves energy.",
        advice: "Let it negotiate again; switch the dynamic tuning of tuned off.",
        traps: "A slow link that always was slow is none.",
        cites: &["ethtool(8) -s", "tuned-main.conf(5) dynamic_tuning"],
        suppresses: &[],
        check: Check::Dev(slowed),
    },
    Rule {
        id: "R87",
        name: "lore-sysctl",
        title: "a setting out of an old guide has no effect, or does harm",
        stage: Stage::Route,
        evidence: "A sysctl has a value that only guides recommend: see Causes.",
        causes: "`net.core.netdev_budget` of 50 000 or more: programs get no time. \
            `net.core.rmem_default` or `wmem_default` of 16 MiB or more: every socket may hold so \
            much. `net.ipv4.tcp_mem` with three equal values: no pressure before the end. \
            `net.ipv4.tcp_max_syn_backlog` of 100 000 or more: with SYN cookies it has no effect. \
            `net.ipv4.tcp_timestamps` or `tcp_sack` 0: recovery from loss is crippled. \
            `net.ipv4.tcp_window_scaling` 0: 64 KiB in flight at most. \
            `net.ipv4.tcp_moderate_rcvbuf` 0: buffers do not grow. `net.ipv4.tcp_tw_recycle` 1: \
            clients behind NAT fail. `net.ipv4.tcp_abort_on_overflow` 1: clients are reset in a \
            burst.",
        advice: "The kernel's default.",
        traps: "Kernels changed: what helped in 2010 does harm now.",
        cites: &[
            "Documentation/networking/ip-sysctl.rst",
            "Documentation/admin-guide/sysctl/net.rst",
        ],
        suppresses: &[],
        check: Check::Host(lore),
    },
    Rule {
        id: "R88",
        name: "not-applied",
        title: "something was set, and is not so",
        stage: Stage::Ring,
        evidence: "An offload of a device of hardware was switched and reads back otherwise (`[requested \
            on]` of `ethtool -k`); or an interrupt of a device runs on processors that its affinity \
            does not name.",
        causes: "The driver does not allow it together with what else is set (an XDP program, the \
            MTU, another offload); the processor that was asked for is offline, or the kernel \
            manages the interrupt.",
        advice: "Find what it does not go with, or take the setting back.",
        traps: "A command that succeeded is no proof: what counts is what reads back.",
        cites: &["ethtool(8) -k", "net/core/dev.c __netdev_update_features"],
        suppresses: &[],
        check: Check::Dev(not_applied),
    },
];

/// Settings that move by themselves, or are read here and are no setting.
const NOT_SETTINGS: &[&str] = &["nf_conntrack_count", "netdev_rss_key", "dev.cdrom", "random."];

fn changing(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let from: &Snapshot = cx.whole().from?;
    let now = cx.now();
    let changed = now.sysctls.iter().filter_map(|(name, to)| {
        let was = from.sysctls.get(name)?;
        let counts = !NOT_SETTINGS.iter().any(|not| name.contains(not));
        (was != to && counts).then_some((name, was, to))
    });
    let changed: Vec<_> = changed.take(5).collect();
    let (first, ..) = changed.first()?;
    let mut found = rule.found(cx, first.as_str()).state(Severity::Info);
    for (name, was, to) in &changed {
        let path = format!("/proc/sys/{}", crate::proc::sysctl::path(name));
        found = found.is(&path, name, format!("{to}, was {was}"));
    }
    let owners: Vec<&str> = now.host.owners.iter().map(String::as_str).collect();
    let found = match owners.as_slice() {
        [] => found.because("Who did it is not known."),
        _ => found.because(format!("These run here and may set it: {}.", owners.join(", "))),
    };
    Some(found.suggest("Find who sets it before you set it yourself.").done())
}

fn elsewhere(rule: &Rule, cx: &Cx<'_>, findings: &[Finding]) -> Option<Finding> {
    if cx.now().host.is_init_netns != Some(false) {
        return None;
    }
    let changes =
        findings.iter().flat_map(|f| &f.advice).filter_map(|advice| match &advice.change {
            Some(Change::Sysctl { name, .. }) if advice::is_host_wide(name) => Some(name.as_str()),
            _ => None,
        });
    let mut names: Vec<&str> = changes.collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return None;
    }
    let mut found = rule.found(cx, "").state(Severity::Info);
    for name in &names {
        let path = format!("/proc/sys/{}", crate::proc::sysctl::path(name));
        found = match cx.now().sysctls.get(*name) {
            Some(value) => found.is(&path, name, value.as_str()),
            None => found.is(&path, name, "not there"),
        };
    }
    let cause = format!("This is a namespace of its own; the host's are: {}.", names.join(", "));
    let what = "Set them in the host's first network namespace (`nsenter -t 1 -n` on the host); they \
        hold for all namespaces.";
    Some(found.because(cause).suggest(what).done())
}

fn slowed(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let now = dev.speed_mbps.filter(|s| *s > 0)?;
    let before = cx.whole().from.and_then(|s| s.devs.get(&dev.name)).and_then(|d| d.speed_mbps);
    let fell = before.is_some_and(|before| before > now);
    let tuned = cx.now().host.owners.iter().any(|owner| owner == "tuned");
    let saving = tuned && now <= 100 && look::is_hardware(dev) && look::rx_queues(dev) > 1;
    if !fell && !saving {
        return None;
    }
    let found = rule.found(cx, &dev.name).state(Severity::Warning);
    let found = match before {
        Some(before) => found.is("/sys/class/net speed", "speed before (Mb/s)", u64::from(before)),
        None => found,
    };
    Some(
        found
            .is("/sys/class/net speed", "speed (Mb/s)", u64::from(now))
            .because(match tuned {
                true => "tuned runs, and can lower the speed to save energy.",
                false => "The ends agreed on less: mostly the cable.",
            })
            .advise(
                "Let it negotiate anew.",
                ethtool('s', dev, &[("autoneg", "on".into())]),
                Risk::Flap,
            )
            .suggest("With tuned: `dynamic_tuning = 0`. Else change the cable.")
            .done(),
    )
}

/// A setting, what of its values is wrong, why, and what to set; `None`: to be taken away.
struct Lore {
    name: &'static str,
    is: fn(&[i64]) -> bool,
    why: &'static str,
    set: &'static str,
}

const LORE: &[Lore] = &[
    Lore {
        name: "net.core.netdev_budget",
        is: |v| v.first().is_some_and(|v| *v >= 50_000),
        why: "so many packets in one run leave programs no time",
        set: "300",
    },
    Lore {
        name: "net.core.rmem_default",
        is: |v| v.first().is_some_and(|v| *v >= 16 << 20),
        why: "every socket that asks for nothing may hold so much",
        set: "212992",
    },
    Lore {
        name: "net.core.wmem_default",
        is: |v| v.first().is_some_and(|v| *v >= 16 << 20),
        why: "every socket that asks for nothing may hold so much",
        set: "212992",
    },
    Lore {
        name: "net.ipv4.tcp_max_syn_backlog",
        is: |v| v.first().is_some_and(|v| *v >= 100_000),
        why: "with SYN cookies the limit is the backlog of the program; without, a flood takes \
            memory",
        set: "4096",
    },
    Lore {
        name: "net.ipv4.tcp_mem",
        is: |v| v.len() == 3 && v.iter().all(|n| Some(n) == v.first()),
        why: "three equal values leave no room between pressure and the end; there is no one \
            default",
        set: "",
    },
    Lore {
        name: "net.ipv4.tcp_sack",
        is: |v| v == [0],
        why: "without SACK several losses in a window take a round trip each",
        set: "1",
    },
    Lore {
        name: "net.ipv4.tcp_timestamps",
        is: |v| v == [0],
        why: "without time stamps round trips are measured seldom and old segments are not known",
        set: "1",
    },
    Lore {
        name: "net.ipv4.tcp_window_scaling",
        is: |v| v == [0],
        why: "at most 64 KiB are in flight",
        set: "1",
    },
    Lore {
        name: "net.ipv4.tcp_moderate_rcvbuf",
        is: |v| v == [0],
        why: "receive buffers do not grow",
        set: "1",
    },
    Lore {
        name: "net.ipv4.ip_early_demux",
        is: |v| v == [0],
        why: "each packet of a connection of this host looks for its route; a router may want that",
        set: "1",
    },
    Lore {
        name: "net.ipv4.tcp_early_demux",
        is: |v| v == [0],
        why: "each segment of a connection looks for its route before its socket",
        set: "1",
    },
    Lore {
        name: "net.ipv4.tcp_tw_recycle",
        is: |v| v == [1],
        why: "clients behind one NAT are refused",
        set: "0",
    },
    Lore {
        name: "net.ipv4.tcp_abort_on_overflow",
        is: |v| v == [1],
        why: "clients are reset in a burst that they would survive",
        set: "0",
    },
];

fn lore(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let now = cx.now();
    // What is forwarded has no socket here, and the early look for one is wasted.
    let routes = now.sysctl("net.ipv4.ip_forward") == Some(1);
    let meant = |lore: &Lore| routes && lore.name.ends_with("_early_demux");
    let is = |lore: &&Lore| {
        now.sysctl_list(lore.name).is_some_and(|values| (lore.is)(&values)) && !meant(lore)
    };
    let seen: Vec<&Lore> = LORE.iter().filter(is).collect();
    let first = seen.first()?;
    let mut found = rule.found(cx, first.name).state(Severity::Info);
    for lore in seen {
        found = found.sysctl(lore.name).because(format!("{}: {}.", lore.name, lore.why));
        let change: Option<Change> = (!lore.set.is_empty()).then(|| sysctl(lore.name, lore.set));
        found = found.advise_if("Set the kernel's default.", change, Risk::Safe);
    }
    Some(found.suggest("Take the line out of the file that sets it.").done())
}

fn allowance(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let lost = cx.grew(|w| driver(w, &dev.name, |name| name.ends_with("_allowance_exceeded")))?;
    let names: Vec<&str> = lost.evidence.iter().map(|e| e.name.as_str()).collect();
    let cause = format!("Exceeded: {}.", names.join(", "));
    Some(
        rule.found(cx, &dev.name)
            .loss(&lost)
            .because(cause)
            .suggest("Take a larger machine, or send fewer packets and open fewer connections.")
            .done(),
    )
}

/// Offloads whose state is worth a word.
const OFFLOADS: &[&str] = &[
    "rx-gro",
    "rx-gro-hw",
    "rx-checksum",
    "rx-hashing",
    "rx-ntuple-filter",
    "tx-checksum-ip-generic",
    "tx-checksum-ipv4",
    "tx-checksum-ipv6",
    "tx-generic-segmentation",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
];

fn not_applied(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if !look::is_hardware(dev) {
        return None;
    }
    let mut found = rule.found(cx, &dev.name).state(Severity::Info);
    let mut any = false;
    for (name, on) in dev.refused.iter().filter(|(name, _)| OFFLOADS.contains(&name.as_str())) {
        let (asked, is) = if *on { ("on", "off") } else { ("off", "on") };
        found = found
            .is("netlink/ethtool/FEATURES_GET", name, format!("{is}, {asked} was asked for"))
            .because(format!("The driver leaves {name} {is}."));
        any = true;
    }
    let now = cx.now();
    for irq in dev.irqs.iter().filter_map(|irq| now.irqs.get(irq)) {
        let elsewhere = irq.effective.iter().any(|cpu| !irq.affinity.contains(cpu));
        // One that was just moved goes with its next interrupt.
        let settled = cx
            .windows
            .iter()
            .filter_map(|w| w.from?.irqs.get(&irq.irq))
            .all(|was| (&was.affinity, &was.effective) == (&irq.affinity, &irq.effective));
        if elsewhere && settled && !irq.affinity.is_empty() {
            let dir = format!("/proc/irq/{}", irq.irq);
            let (asked, is) = (look::list(&irq.affinity), look::list(&irq.effective));
            found = found
                .is(&dir, "smp_affinity_list", asked.as_str())
                .is(&dir, "effective_affinity_list", is.as_str())
                .because(format!("Interrupt {} runs on {is}, not on {asked}.", irq.irq));
            any = true;
        }
    }
    let what = "Find what it does not go with (`ethtool -k`, an XDP program, the MTU), or take the \
        setting back.";
    any.then(|| found.suggest(what).done())
}
