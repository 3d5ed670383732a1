//! What rules say of a host, in the words of an instance: its shards, its commands, its knobs.
//!
//! ```text
//! ethtool -G eth0 rx 512       -> linerate set --name N ring.rx=512
//! sysctl -w net.core.X=1       -> linerate set --name N net.core.X=1
//! /proc/net/snmp, netlink/...  -> linerate show WHAT --name N
//! ```

use linerate_core::table::Knobs;
use linerate_host::change::Change;
use linerate_host::finding::{Advice, Finding, Risk};
use linerate_host::{Snapshot, rules};

/// Rules that judge how a kernel is set up, which an instance is not.
pub fn is_about_hosts(finding: &Finding) -> bool {
    let rule = rules::by_name(finding.id);
    rule.is_none_or(|rule| matches!(rule.id, "R83" | "R84" | "R86" | "R87"))
}

/// Puts findings in the instance's words. Settings keep their names, but another command sets them; what
/// the instance has not is left out.
pub fn advise(findings: &mut [Finding], name: &str, now: &Snapshot) {
    for finding in findings {
        finding.advice.retain_mut(|a| match a.change.take() {
            Some(change) => match knob(&change) {
                Some((knob, value)) => set(a, name, now, &knob, &value),
                None => false,
            },
            None => a.command.is_empty(),
        });
        for advice in &mut finding.advice {
            advice.what = words(&advice.what, name);
            advice.verify = words(&advice.verify, name);
        }
        finding.cause = words(&finding.cause, name);
        finding.title = shard(&finding.title);
        finding.subject = shard(&finding.subject);
        for evidence in &mut finding.evidence {
            evidence.source = source(&evidence.source, name);
        }
    }
}

/// The knob of the instance that is what a change of a host sets, and its value.
fn knob(change: &Change) -> Option<(String, String)> {
    let (name, value) = match change {
        Change::Sysctl { name, value } => (name.clone(), value.clone()),
        Change::Ethtool { option, set, .. } => {
            let (name, value) = set.first()?;
            let switch = |on: &str| u8::from(on == "on").to_string();
            match option {
                'G' => (format!("ring.{name}"), value.clone()),
                'L' => (format!("channels.{name}"), value.clone()),
                'C' if name.starts_with("adaptive") => (format!("coalesce.{name}"), switch(value)),
                'C' => (format!("coalesce.{name}"), value.clone()),
                'K' => (format!("features.{name}"), switch(value)),
                'X' => ("rss.weight".to_owned(), "equal".to_owned()),
                'N' => {
                    let (kind, fields) = value.split_once(' ')?;
                    (format!("{name}.{kind}"), fields.to_owned())
                }
                _ => return None,
            }
        }
        Change::File { path, value } => {
            let attribute = path.strip_prefix("/sys/class/net/")?.split_once('/')?.1;
            let parts: Vec<&str> = attribute.split('/').collect();
            let name = match parts.as_slice() {
                ["queues", queue, name] => format!("queues.{}.{name}", queue.split('-').next()?),
                [name] => format!("dev.{name}"),
                _ => return None,
            };
            (name, value.clone())
        }
        Change::Link { name, value, .. } => (format!("dev.{name}"), value.clone()),
        Change::Qdisc { dev, spec } => {
            // The names of its places are made of those of the devices: no table has them.
            let spec = spec.strip_prefix("root ")?.to_owned();
            return Some((format!("qdisc.{dev}.root"), spec));
        }
    };
    Knobs::row(&name).is_ok().then_some((name, value))
}

/// Makes it advice to set that knob; whether there is anything to set.
fn set(a: &mut Advice, name: &str, now: &Snapshot, knob: &str, value: &str) -> bool {
    let old = now.sysctls.get(knob);
    if old.is_some_and(|old| old == value) {
        return false;
    }
    let word = |value: &str| match value.contains(' ') {
        true => format!("{knob}='{value}'"),
        false => format!("{knob}={value}"),
    };
    let command = |value: &str| format!("linerate set --name {name} {}", word(value));
    a.command = command(value);
    a.persist = format!("`--set {}` when it is started, or its configuration file", word(value));
    // The last sentence says which command shows the new value.
    let begin = a.verify.rfind("` shows the new value.").and_then(|end| a.verify[..end].rfind('`'));
    a.verify.truncate(begin.unwrap_or(a.verify.len()));
    a.verify += &format!("`linerate get --name {name} {knob}` shows the new value.");
    a.rollback = old.map(|old| command(old)).unwrap_or_default();
    a.risk = risk(a.risk, knob);
    true
}

/// The same setting is another risk here: it concerns the instance alone, and resets no device.
fn risk(of_host: Risk, knob: &str) -> Risk {
    if !matches!(of_host, Risk::Global | Risk::Flap) {
        return of_host;
    }
    match Knobs::row(knob).map_or("", |row| row.unit) {
        "packets" | "microseconds" => Risk::Lat,
        "mask" | "switch" => Risk::Safe,
        _ => Risk::Mem,
    }
}

/// Commands and files of a host that texts of rules name, and what shows the same of an instance.
const COMMANDS: &[(&str, &str)] = &[
    ("`ss -ltn`", "sockets"),
    ("`ss -ti`", "flows"),
    ("`ss -tn state syn-sent`", "sockets"),
    ("`ip neigh show nud failed nud incomplete`", "drops"),
    ("/proc/net/udp", "udp"),
    ("a capture, or the reason NO_SOCKET", "drops"),
];

/// What is said of a host, in other words.
const SAYINGS: &[(&str, &str)] = &[
    (
        "Enlarge the receive ring where the driver or the hypervisor allows it.",
        "Start the instance with a larger receive ring: `--set ring.rx=N`.",
    ),
    (
        "Shorten the coalescing of interrupts, or use more queues.",
        "Start the instance with a larger receive ring (`--set ring.rx=N`) or with more queues \
         (`--queues N`).",
    ),
    (
        "Look at the kernel's log (NETDEV WATCHDOG); take newer firmware or another driver.",
        "Look at the interface below it: `linerate doctor`, and its queueing discipline.",
    ),
    ("is full of softirq", "is busy all the time"),
    ("the processor ", "the shard "),
    ("The processor ", "The shard "),
    ("The processors that serve it have", "The shards that serve it have"),
    (" Sockets of other namespaces count as well.", ""),
    ("Sockets of other namespaces count as well.", "It is that of all its sockets together."),
];

fn words(text: &str, name: &str) -> String {
    let mut text = shard(text);
    for (theirs, what) in COMMANDS {
        if text.contains(theirs) {
            text = text.replace(theirs, &format!("`linerate show {what} --name {name}`"));
        }
    }
    for (theirs, ours) in SAYINGS {
        text = text.replace(theirs, ours);
    }
    text
}

/// Where evidence comes from.
fn source(of_host: &str, name: &str) -> String {
    let show = |what: &str| format!("linerate show {what} --name {name}");
    match of_host {
        s if s.starts_with("/proc/sys/") => format!("linerate get --name {name}"),
        "/proc/stat" => format!("the thread of the shard of {name}"),
        s if s.starts_with("/proc/net/sockstat") => show("sockstat"),
        s if s.starts_with("/proc/net/snmp") => show("snmp"),
        s if s.starts_with("/proc/net/stat/") || s.starts_with("netlink/route/") => {
            show(if s.ends_with("QDISC") { "qdisc" } else { "path" })
        }
        s if s.starts_with("netlink/sock_diag/udp") => show("udp"),
        s if s.starts_with("netlink/sock_diag/") => show("sockets"),
        s if s.starts_with("netlink/ethtool/FEATURES") || s.starts_with("/sys/class/net/") => {
            format!("linerate get --name {name}")
        }
        other => other.to_owned(),
    }
}

/// What is a processor to a kernel is a shard here: `cpu1` becomes `shard 1`.
fn shard(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("cpu") {
        let (before, found) = rest.split_at(at);
        let digits = found[3..].chars().take_while(char::is_ascii_digit).count();
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        out.push_str(before);
        match digits > 0 && begins {
            true => out.push_str(&format!("shard {}", &found[3..3 + digits])),
            false => out.push_str(&found[..3 + digits]),
        }
        rest = &found[3 + digits..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(change: Change) -> Option<String> {
        knob(&change).map(|(name, value)| format!("{name}={value}"))
    }

    fn ethtool(option: char, name: &str, value: &str) -> Change {
        Change::Ethtool { option, dev: "v0".into(), set: vec![(name.into(), value.into())] }
    }

    #[test]
    fn every_kind_of_change_finds_its_knob() {
        let knob = |text: &str| Some(text.to_owned());
        assert_eq!(is(ethtool('G', "rx", "512")), knob("ring.rx=512"));
        assert_eq!(is(ethtool('K', "gro", "on")), knob("features.gro=1"));
        assert_eq!(is(ethtool('C', "adaptive-rx", "off")), knob("coalesce.adaptive-rx=0"));
        assert_eq!(is(ethtool('L', "combined", "2")), knob("channels.combined=2"));
        let hash = ethtool('N', "rx-flow-hash", "udp4 sdfn");
        assert_eq!(is(hash), knob("rx-flow-hash.udp4=sdfn"));
        let file = |path: &str| Change::File { path: path.into(), value: "3".into() };
        let rps = file("/sys/class/net/v0/queues/rx-0/rps_cpus");
        assert_eq!(is(rps), knob("queues.rx.rps_cpus=3"));
        assert_eq!(is(file("/proc/irq/7/smp_affinity_list")), None);
        let link =
            |name: &str| Change::Link { dev: "v0".into(), name: name.into(), value: "2000".into() };
        assert_eq!(is(link("txqueuelen")), knob("dev.txqueuelen=2000"));
        assert_eq!(is(link("mtu")), None, "an instance takes its MTU from the device");
        let sysctl = |name: &str| Change::Sysctl { name: name.into(), value: "1".into() };
        assert_eq!(is(sysctl("net.core.somaxconn")), knob("net.core.somaxconn=1"));
        assert_eq!(is(sysctl("net.ipv4.tcp_autocorking")), None);
        let qdisc = |spec: &str| Change::Qdisc { dev: "v0".into(), spec: spec.into() };
        assert_eq!(is(qdisc("root pfifo limit 99")), knob("qdisc.v0.root=pfifo limit 99"));
        assert_eq!(is(qdisc("parent 1:1 pfifo")), None);
    }

    #[test]
    fn processors_are_shards() {
        assert_eq!(shard("cpu1: the backlog of cpu12"), "shard 1: the backlog of shard 12");
        assert_eq!(shard("cpus, rps_cpu0, cpu_full"), "cpus, rps_cpu0, cpu_full");
    }
}
