//! A setting, and the value that it is to have.

mod words;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use words::ParseError;

use crate::finding::Risk;
use crate::proc::cpus;

/// One change of one setting of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "knob", rename_all = "kebab-case")]
pub enum Change {
    /// A sysctl by its dotted name.
    Sysctl {
        /// As `net.core.rmem_max`.
        name: String,
        /// The value, as it is written.
        value: String,
    },
    /// A file below `/sys` or `/proc/irq`: `rps_cpus`, `smp_affinity_list`, ...
    File {
        /// The whole path.
        path: String,
        /// What is written.
        value: String,
    },
    /// Parameters of ethtool, in its own words: `-G eth0 rx 1024`.
    Ethtool {
        /// The letter of the option that sets: `G`, `L`, `C`, `K`, `A`, `X`, `N`.
        option: char,
        /// The device.
        dev: String,
        /// Parameter and value, one behind the other.
        set: Vec<(String, String)>,
    },
    /// The MTU or another parameter of a link, as `ip link set` has it.
    Link {
        /// The device.
        dev: String,
        /// `mtu`, `txqueuelen`, `gro_max_size`, ...
        name: String,
        /// The value.
        value: String,
    },
    /// A qdisc, in the words of tc behind `replace dev DEV`.
    Qdisc {
        /// The device.
        dev: String,
        /// As `root fq_codel limit 1024`.
        spec: String,
    },
}

impl Change {
    /// The command that makes it.
    #[must_use]
    pub fn command(&self) -> String {
        match self {
            Change::Sysctl { name, value } if value.contains(' ') => {
                format!("sysctl -w {name}='{value}'")
            }
            Change::Sysctl { name, value } => format!("sysctl -w {name}={value}"),
            Change::File { path, value } => format!("echo {value} > {path}"),
            Change::Ethtool { option, dev, set } => {
                let set: Vec<_> = set.iter().map(|(k, v)| format!("{k} {v}")).collect();
                format!("ethtool -{option} {dev} {}", set.join(" ")).trim_end().to_owned()
            }
            Change::Link { dev, name, value } => format!("ip link set {dev} {name} {value}"),
            Change::Qdisc { dev, spec } => format!("tc qdisc replace dev {dev} {spec}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command())
    }
}

impl Change {
    /// What it may do beside what it is for, as far as the setting alone says.
    #[must_use]
    pub fn risk(&self) -> Risk {
        match self {
            Change::Sysctl { name, .. } if may_cut(name) => Risk::Flap,
            Change::Sysctl { .. } => Risk::Safe,
            // `flags` takes a link down; `carrier` and `dormant` pretend that it is.
            Change::File { path, .. } => match path.rsplit('/').next() {
                Some("flags" | "carrier" | "dormant" | "mtu" | "proto_down") => Risk::Flap,
                _ => Risk::Safe,
            },
            // A rule may drop what it matches.
            Change::Ethtool { option: 'N', set, .. }
                if set.iter().any(|(k, _)| k == "flow-type") =>
            {
                Risk::Flap
            }
            Change::Ethtool { option: 'N' | 'X' | 'C', .. } => Risk::Safe,
            // Most drivers stop and start the device for these.
            Change::Ethtool { .. } => Risk::Flap,
            Change::Link { name, .. } if name == "mtu" => Risk::Flap,
            Change::Link { .. } => Risk::Safe,
            Change::Qdisc { .. } => Risk::Loss,
        }
    }

    /// Whether both set the same thing, to whatever value.
    #[must_use]
    pub fn is_of_same_setting(&self, other: &Change) -> bool {
        match (self, other) {
            (Change::Sysctl { name: a, .. }, Change::Sysctl { name: b, .. }) => a == b,
            (Change::File { path: a, .. }, Change::File { path: b, .. }) => a == b,
            (
                Change::Ethtool { option: o, dev: a, set: s },
                Change::Ethtool { option: p, dev: b, set: t },
            ) => {
                let same = |(k, v): &(String, String), (l, w): &(String, String)| match o {
                    // There is one table, however it is described.
                    'X' => true,
                    'N' => hash_or_rule(k, v) == hash_or_rule(l, w),
                    _ => k == l,
                };
                o == p && a == b && s.iter().any(|x| t.iter().any(|y| same(x, y)))
            }
            (Change::Link { dev: a, name: m, .. }, Change::Link { dev: b, name: n, .. }) => {
                a == b && m == n
            }
            (Change::Qdisc { dev: a, spec: s }, Change::Qdisc { dev: b, spec: t }) => {
                // The place (`root`, `parent 1:2`) is what comes first.
                let place = |spec: &str| spec.split_whitespace().next().map(str::to_owned);
                a == b && place(s) == place(t)
            }
            _ => false,
        }
    }

    /// Whether both say the same: blanks, leading zeros of masks and the way a list of processors is
    /// written do not count.
    #[must_use]
    pub fn same(&self, other: &Change) -> bool {
        if !self.is_of_same_setting(other) {
            return false;
        }
        match (self, other) {
            (Change::Sysctl { value: a, .. }, Change::Sysctl { value: b, .. })
            | (Change::Link { value: a, .. }, Change::Link { value: b, .. })
            | (Change::Qdisc { spec: a, .. }, Change::Qdisc { spec: b, .. }) => {
                words(a) == words(b)
            }
            (Change::File { path, value: a }, Change::File { value: b, .. }) => {
                file_value(path, a) == file_value(path, b)
            }
            (Change::Ethtool { set: a, .. }, Change::Ethtool { set: b, .. }) => {
                let has = |set: &[(String, String)], (k, v): &(String, String)| {
                    set.iter().any(|(l, w)| k == l && words(v) == words(w))
                };
                a.len() == b.len() && a.iter().all(|p| has(b, p))
            }
            _ => false,
        }
    }

    /// The same change with those of its numbers doubled that differ from `old`, each at most `max`;
    /// `None` if none of them can grow.
    #[must_use]
    pub fn doubled(&self, old: &Change, max: u64) -> Option<Change> {
        let grow = |now: &str, old: &str| -> Option<String> {
            let mut grew = false;
            let old: Vec<&str> = words(old);
            let grown: Vec<String> = words(now)
                .iter()
                .enumerate()
                .map(|(i, word)| match word.parse::<u64>() {
                    Ok(n) if old.get(i) != Some(word) && n < max => {
                        grew = true;
                        n.saturating_mul(2).min(max).to_string()
                    }
                    _ => (*word).to_owned(),
                })
                .collect();
            grew.then(|| grown.join(" "))
        };
        let mut next = self.clone();
        let grew = match (&mut next, old) {
            (Change::Sysctl { value, .. }, Change::Sysctl { value: old, .. })
            | (Change::File { value, .. }, Change::File { value: old, .. })
            | (Change::Link { value, .. }, Change::Link { value: old, .. }) => {
                grow(value, old).map(|v| *value = v).is_some()
            }
            (Change::Ethtool { set, .. }, Change::Ethtool { set: old, .. }) => {
                let mut any = false;
                for (name, value) in set {
                    let old = old.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v);
                    if let Some(v) = grow(value, old) {
                        (*value, any) = (v, true);
                    }
                }
                any
            }
            _ => false,
        };
        grew.then_some(next)
    }
}

/// What of `ethtool -N` is set: what is hashed of a type of flow, or the rule at a place.
fn hash_or_rule<'a>(name: &'a str, value: &'a str) -> (&'static str, &'a str) {
    let mut words = value.split_whitespace();
    match name {
        "rx-flow-hash" => ("hash", words.next().unwrap_or("")),
        "delete" => ("rule", words.next().unwrap_or("")),
        _ => ("rule", words.skip_while(|w| *w != "loc").nth(1).unwrap_or("")),
    }
}

/// Whether a sysctl decides what comes in at all: a wrong value cuts the way to a host.
fn may_cut(name: &str) -> bool {
    const LAST: [&str; 6] =
        ["disable_ipv6", "forwarding", "ip_forward", "rp_filter", "arp_ignore", "arp_filter"];
    LAST.contains(&name.rsplit('.').next().unwrap_or(name))
}

fn words(value: &str) -> Vec<&str> {
    value.split_whitespace().collect()
}

/// What a value of a file below `/sys` or `/proc` means, however it is written.
fn file_value(path: &str, value: &str) -> String {
    let value = value.trim();
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_mask = name.ends_with("_cpus")
        || name == "xps_rxqs"
        || name.ends_with("affinity")
        || name.ends_with("cpu_bitmap");
    if is_mask {
        let digits: String = value.chars().filter(|c| *c != ',').collect();
        return digits.trim_start_matches('0').to_ascii_lowercase();
    }
    if name.ends_with("_list") {
        return cpus::list(value).map_or(value.to_owned(), |cpus| format!("{cpus:?}"));
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, value: &str) -> Change {
        Change::File { path: path.into(), value: value.into() }
    }

    fn ring(dev: &str, set: &[(&str, &str)]) -> Change {
        let set = set.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Change::Ethtool { option: 'G', dev: dev.into(), set }
    }

    #[test]
    fn the_way_a_value_is_written_does_not_count() {
        let rps = "/sys/class/net/eth0/queues/rx-0/rps_cpus";
        assert!(file(rps, "00000000,00000003\n").same(&file(rps, "3")));
        assert!(!file(rps, "3").same(&file(rps, "30")));
        let irq = "/proc/irq/9/smp_affinity_list";
        assert!(file(irq, "0-2").same(&file(irq, "0,1,2")));
        assert!(!file(irq, "0-2").same(&file(irq, "0,2")));
        let rmem = |v: &str| Change::Sysctl { name: "net.ipv4.tcp_rmem".into(), value: v.into() };
        assert!(rmem("4096\t131072\t6291456").same(&rmem("4096 131072 6291456")));
        assert!(
            ring("a", &[("rx", "9"), ("tx", "8")]).same(&ring("a", &[("tx", "8"), ("rx", "9")]))
        );
        assert!(!ring("a", &[("rx", "9")]).same(&ring("b", &[("rx", "9")])));
    }

    #[test]
    fn doubling_touches_what_was_to_change_and_stops_at_the_most() {
        let rmem = |v: &str| Change::Sysctl { name: "net.ipv4.tcp_rmem".into(), value: v.into() };
        let old = rmem("4096 131072 6291456");
        let next = rmem("4096 131072 12582912").doubled(&old, 1 << 40).unwrap();
        assert!(next.same(&rmem("4096 131072 25165824")));
        let (old, now) = (ring("a", &[("rx", "256")]), ring("a", &[("rx", "512")]));
        assert_eq!(now.doubled(&old, 800), Some(ring("a", &[("rx", "800")])));
        assert_eq!(ring("a", &[("rx", "800")]).doubled(&old, 800), None);
    }

    #[test]
    fn commands_are_what_one_would_type() {
        assert_eq!(ring("eth0", &[("rx", "512")]).command(), "ethtool -G eth0 rx 512");
        let rmem = Change::Sysctl { name: "net.ipv4.tcp_rmem".into(), value: "1 2 3".into() };
        assert_eq!(rmem.command(), "sysctl -w net.ipv4.tcp_rmem='1 2 3'");
    }
}
