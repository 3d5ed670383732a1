//! What to do, with the way to keep it, to see that it helped and to undo it.

use crate::change::Change;
use crate::counters::Counters;
use crate::finding::{Advice, Evidence, Finding, Risk};
use crate::snapshot::{Dev, Snapshot};

/// Sysctls that are the host's, and in no other namespace than its first to be set.
const HOST_WIDE: &[&str] = &[
    "net.core.bpf_jit_",
    "net.core.busy_",
    "net.core.default_qdisc",
    "net.core.dev_weight",
    "net.core.flow_limit_",
    "net.core.gro_normal_batch",
    "net.core.netdev_",
    "net.core.rps_sock_flow_entries",
    "net.core.rmem_",
    "net.core.wmem_",
    "net.core.skb_defer_max",
    "net.ipv4.tcp_mem",
    "net.ipv4.udp_mem",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.neigh.default.gc_",
    "net.ipv6.neigh.default.gc_",
    "net.ipv4.route.max_size",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_buckets",
    "net.nf_conntrack_max",
    "vm.",
];

/// Whether a sysctl is the host's.
pub(super) fn is_host_wide(name: &str) -> bool {
    HOST_WIDE.iter().any(|host| name.starts_with(host))
}

/// Advice in words alone.
pub(super) fn words(what: String) -> Advice {
    Advice {
        what,
        change: None,
        command: String::new(),
        persist: String::new(),
        verify: String::new(),
        rollback: String::new(),
        risk: Risk::Safe,
    }
}

/// Advice to make `change`; `None` if it is so already.
pub(super) fn of(now: &Snapshot, what: &str, change: Change, risk: Risk) -> Option<Advice> {
    let old = inverse(&change, now);
    if old.as_ref().is_some_and(|old| old.same(&change)) {
        return None;
    }
    let mut what = what.to_owned();
    let mut risk = risk;
    if let Change::Sysctl { name, .. } = &change
        && is_host_wide(name)
    {
        risk = risk.max(Risk::Global);
        if now.host.is_init_netns == Some(false) {
            what +=
                " It is a setting of the whole host: set it in the host's first network namespace.";
        }
    }
    for owner in owners(&change, now) {
        what += &format!(" {owner} runs here and may set it as well.");
    }
    let rollback = match &old {
        Some(old) => old.command(),
        None => format!("write the value back that `{}` shows now", reads(&change)),
    };
    Some(Advice {
        what,
        command: change.command(),
        persist: persist(&change, now),
        verify: format!("`{}` shows the new value.", reads(&change)),
        rollback,
        risk,
        change: Some(change),
    })
}

/// Who sets this kind of setting, of those that run.
fn owners<'a>(change: &Change, now: &'a Snapshot) -> impl Iterator<Item = &'a str> {
    let of: &[&str] = match change {
        Change::Sysctl { name, .. } if name.ends_with("rp_filter") => &["tuned", "cilium-agent"],
        Change::Sysctl { .. } => &["tuned", "bpftune"],
        Change::File { path, .. } if path.starts_with("/proc/irq/") => &["irqbalance", "tuned"],
        _ => &["tuned"],
    };
    now.host.owners.iter().map(String::as_str).filter(move |owner| of.contains(owner))
}

/// The command that shows a setting.
fn reads(change: &Change) -> String {
    match change {
        Change::Sysctl { name, .. } => format!("sysctl {name}"),
        Change::File { path, .. } => {
            format!("cat {}", path.replace("/smp_affinity_list", "/effective_affinity_list"))
        }
        Change::Ethtool { option: 'N', dev, set } => match set.first() {
            Some((name, value)) => {
                let kind = value.split(' ').next().unwrap_or("");
                format!("ethtool -n {dev} {name} {kind}")
            }
            None => format!("ethtool -n {dev}"),
        },
        Change::Ethtool { option, dev, .. } => {
            format!("ethtool -{} {dev}", option.to_ascii_lowercase())
        }
        Change::Link { dev, .. } => format!("ip -d link show {dev}"),
        Change::Qdisc { dev, .. } => format!("tc -s qdisc show dev {dev}"),
    }
}

/// How a change survives a boot.
fn persist(change: &Change, now: &Snapshot) -> String {
    let rules = "/etc/udev/rules.d/90-linerate.rules";
    // A device that is renamed is added under another name, and moved to its own.
    let at_add = |dev: &str| format!("ACTION==\"add|move\", SUBSYSTEM==\"net\", KERNEL==\"{dev}\"");
    match change {
        Change::Sysctl { name, value } => {
            format!("the line `{name} = {value}` in /etc/sysctl.d/90-linerate.conf")
        }
        Change::File { path, .. } if path.starts_with("/proc/irq/") => {
            if now.host.owners.iter().any(|owner| owner == "irqbalance") {
                "a policy script of irqbalance that bans this interrupt".into()
            } else {
                "a systemd unit of type oneshot that runs the command after the device is there"
                    .into()
            }
        }
        Change::File { path, value } => {
            let rest = path.strip_prefix("/sys/class/net/").and_then(|r| r.split_once('/'));
            match rest {
                Some((dev, attr)) => {
                    format!("the line `{}, ATTR{{{attr}}}=\"{value}\"` in {rules}", at_add(dev))
                }
                None => "a systemd unit of type oneshot that runs the command".into(),
            }
        }
        Change::Link { dev, name, value } if matches!(name.as_str(), "mtu" | "txqueuelen") => {
            let attr = if name == "mtu" { "mtu" } else { "tx_queue_len" };
            format!("the line `{}, ATTR{{{attr}}}=\"{value}\"` in {rules}", at_add(dev))
        }
        Change::Ethtool { dev, .. } | Change::Link { dev, .. } | Change::Qdisc { dev, .. } => {
            format!("the line `{}, RUN+=\"/usr/sbin/{change}\"` in {rules}", at_add(dev))
        }
    }
}

/// How to see that it helped, from what the finding rests on; ends with a blank if there is anything.
pub(super) fn verify(finding: &Finding) -> String {
    let moving = finding.evidence.iter().find(|e: &&Evidence| e.per_s.is_some_and(|r| r > 0.0));
    match moving {
        Some(e) => format!(
            "`{}` in {} stands still for three windows, at about the packet rate there is now. ",
            e.name, e.source
        ),
        None => String::new(),
    }
}

/// The change that undoes `change`: the same setting with the value that `was` has of it; `None` where
/// that was not read.
#[must_use]
pub fn inverse(change: &Change, was: &Snapshot) -> Option<Change> {
    match change {
        Change::Sysctl { name, .. } => {
            let value = was.sysctls.get(name)?.clone();
            Some(Change::Sysctl { name: name.clone(), value })
        }
        Change::File { path, .. } => {
            let value = file_value(path, was)?;
            Some(Change::File { path: path.clone(), value })
        }
        Change::Ethtool { option, dev, set } => {
            let of = was.devs.get(dev)?;
            let old = set.iter().map(|(name, value)| {
                Some((name.clone(), ethtool_value(*option, name, value, of)?))
            });
            let set = old.collect::<Option<Vec<_>>>()?;
            Some(Change::Ethtool { option: *option, dev: dev.clone(), set })
        }
        Change::Link { dev, name, .. } => {
            let of = was.devs.get(dev)?;
            let value = match name.as_str() {
                "mtu" => of.mtu.to_string(),
                "txqueuelen" => of.txqueuelen.to_string(),
                other => of.settings.get(other)?.to_string(),
            };
            Some(Change::Link { dev: dev.clone(), name: name.clone(), value })
        }
        Change::Qdisc { dev, spec } => {
            let mut words = spec.split_whitespace();
            let (place, parent) = match words.next()? {
                "parent" => words.next().map(|parent| (format!("parent {parent}"), parent))?,
                place => (place.to_owned(), place),
            };
            let of = was.devs.get(dev)?.qdiscs.iter().find(|q| q.parent == parent)?;
            // What has more parameters than a limit can not be made again from what was read.
            const PLAIN: [&str; 6] = ["noqueue", "pfifo_fast", "pfifo", "bfifo", "fq_codel", "mq"];
            if !PLAIN.contains(&of.kind.as_str()) {
                return None;
            }
            let mut old = format!("{place} {}", of.kind);
            if let Some(limit) = of.options.get("limit") {
                old += &format!(" limit {limit}");
            }
            Some(Change::Qdisc { dev: dev.clone(), spec: old })
        }
    }
}

fn file_value(path: &str, was: &Snapshot) -> Option<String> {
    if let Some(rest) = path.strip_prefix("/proc/irq/") {
        let irq: u32 = rest.strip_suffix("/smp_affinity_list")?.parse().ok()?;
        return Some(super::look::list(&was.irqs.get(&irq)?.affinity));
    }
    if let Some(rest) = path.strip_prefix("/sys/devices/system/cpu/cpufreq/policy") {
        let policy = rest.strip_suffix("/scaling_governor")?.parse().ok()?;
        return Some(was.power.policies.get(&policy)?.governor.clone());
    }
    let (dev, attr) = path.strip_prefix("/sys/class/net/")?.split_once('/')?;
    let dev = was.devs.get(dev)?;
    let parts: Vec<&str> = attr.split('/').collect();
    let queue = |name: &str| parts.get(1)?.strip_prefix(name)?.parse::<usize>().ok();
    match parts.as_slice() {
        ["queues", _, "rps_cpus"] => Some(super::look::mask(&dev.rx.get(queue("rx-")?)?.rps_cpus)),
        ["queues", _, "rps_flow_cnt"] => Some(dev.rx.get(queue("rx-")?)?.rps_flow_cnt.to_string()),
        ["queues", _, "xps_cpus"] => {
            Some(super::look::mask(dev.tx.get(queue("tx-")?)?.xps_cpus.as_ref()?))
        }
        ["queues", _, "byte_queue_limits", name] => number(&dev.tx.get(queue("tx-")?)?.bql, name),
        [name] => number(&dev.settings, name),
        _ => None,
    }
}

fn number(of: &Counters, name: &str) -> Option<String> {
    of.get(name).map(|n| n.to_string())
}

fn ethtool_value(option: char, name: &str, value: &str, dev: &Dev) -> Option<String> {
    let switch = |of: &Counters| {
        of.get(name).map(|on| if on == 0 { "off".to_owned() } else { "on".to_owned() })
    };
    match option {
        'G' => number(&dev.rings, name),
        'L' => number(&dev.channels, name),
        'C' if name.starts_with("adaptive") => switch(&dev.coalesce),
        'C' => number(&dev.coalesce, name),
        'A' => switch(&dev.pause),
        'K' => {
            let feature = super::look::feature(dev, name)?;
            Some(if feature.on { "on" } else { "off" }.to_owned())
        }
        'X' if name == "equal" => even_over(dev).map(|queues| queues.to_string()),
        'N' => {
            let kind = value.split(' ').next()?;
            let fields = dev.rss.as_ref()?.fields.get(kind)?;
            Some(format!("{kind} {fields}"))
        }
        _ => None,
    }
}

/// Over how many queues the indirection table spreads, if it does so evenly; nothing but the whole
/// table would restore an uneven one.
fn even_over(dev: &Dev) -> Option<usize> {
    let by = super::look::table(dev.rss.as_ref()?);
    let (least, most) = (by.values().min()?, by.values().max()?);
    (most - least <= 1).then_some(by.len())
}
