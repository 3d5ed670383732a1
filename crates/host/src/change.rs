//! A setting, and the value that it is to have.

use std::fmt;

use serde::{Deserialize, Serialize};

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
                format!("ethtool -{option} {dev} {}", set.join(" "))
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
