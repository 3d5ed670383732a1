//! Who else sets a setting: files that say so, and programs that keep a device as they want it.
//!
//! All of it is read below a root, so that it is tested with trees. Nothing of it is written, and no
//! program is asked or told anything: what would make a change last with its owner is said as a command.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::persist::{Files, Other};
use crate::change::Change;

/// The largest file of somebody's configuration that is looked into, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Profiles of tuned that include one another, at most.
const INCLUDES_MAX: usize = 16;

/// A program that sets up devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Manager {
    /// NetworkManager.
    NetworkManager,
    /// systemd-networkd.
    Networkd,
    /// irqbalance, of interrupts.
    Irqbalance,
}

/// A program that may set it anew, and what would make the change last there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Which.
    pub manager: Manager,
    /// What it does, in a sentence, with the file that says so.
    pub what: String,
    /// The command, or the line, that makes the change last; empty if it has no setting for it.
    pub command: String,
}

impl Files {
    /// Programs that own what is changed.
    #[must_use]
    pub fn owners(&self, change: &Change) -> Vec<Owner> {
        if let Change::File { path, .. } = change
            && let Some(irq) = path.strip_prefix("/proc/irq/").and_then(|p| p.split('/').next())
        {
            return self.irqbalance(irq).into_iter().collect();
        }
        let Some(dev) = device(change) else { return Vec::new() };
        let Some(ifindex) = self.ifindex(dev) else { return Vec::new() };
        let nm = self.network_manager(dev, ifindex, change);
        let networkd = self.networkd(dev, ifindex, change);
        nm.into_iter().chain(networkd).collect()
    }

    /// Files of programs that set the same at boot: profiles of tuned, connections of NetworkManager,
    /// `.link` files of udev and `/etc/network/interfaces`.
    pub(super) fn others_of_programs(&self, change: &Change) -> Vec<Other> {
        let mut others = self.tuned(change);
        let Some(dev) = device(change) else { return others };
        others.extend(self.interfaces(dev, change));
        others.extend(self.rules(dev, change));
        let Some(ifindex) = self.ifindex(dev) else { return others };
        others.extend(self.link_file(ifindex, change));
        if let Some((file, _)) = self.connection(dev, ifindex) {
            let text = self.text(&file).unwrap_or_default();
            for (property, _) in properties(change) {
                let (section, key) = property.split_once('.').unwrap_or(("", property.as_str()));
                let section = if section == "802-3-ethernet" { "ethernet" } else { section };
                let found = ini(&text).find(|(s, k, _)| *s == section && *k == key);
                others.extend(found.map(|(.., value)| self.other(&file, value, true)));
            }
        }
        others
    }

    fn other(&self, file: &Path, value: &str, wins: bool) -> Other {
        Other { file: self.root.join(file), value: value.into(), wins }
    }

    /// A file of text below the root, if it is one.
    fn text(&self, file: &Path) -> Option<String> {
        let path = self.root.join(file.strip_prefix("/").unwrap_or(file));
        let about = fs::metadata(&path).ok()?;
        if !about.is_file() || about.len() > FILE_MAX {
            return None;
        }
        fs::read_to_string(path).ok()
    }

    /// The files of a directory below the root, by name.
    fn in_dir(&self, dir: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.root.join(dir)) else { return Vec::new() };
        let mut files: Vec<PathBuf> =
            entries.flatten().map(|e| Path::new(dir).join(e.file_name())).collect();
        files.sort();
        files
    }

    fn ifindex(&self, dev: &str) -> Option<u32> {
        let file = format!("sys/class/net/{dev}/ifindex");
        self.text(Path::new(&file))?.trim().parse().ok()
    }

    /// The connection that NetworkManager uses for the device: its file, if it has one, and its name.
    fn connection(&self, dev: &str, ifindex: u32) -> Option<(PathBuf, String)> {
        const DIRS: [&str; 3] = [
            "etc/NetworkManager/system-connections",
            "run/NetworkManager/system-connections",
            "usr/lib/NetworkManager/system-connections",
        ];
        let state = self.text(Path::new(&format!("run/NetworkManager/devices/{ifindex}")))?;
        let uuid = ini(&state).find(|(_, key, _)| *key == "connection-uuid").map(|(.., v)| v);
        let is_it = |text: &str| {
            let of = |name: &str| {
                ini(text).find(|(s, k, _)| *s == "connection" && *k == name).map(|(.., v)| v)
            };
            match uuid {
                Some(uuid) => of("uuid") == Some(uuid),
                None => of("interface-name") == Some(dev),
            }
        };
        DIRS.iter().flat_map(|dir| self.in_dir(dir)).find_map(|file| {
            let text = self.text(&file).filter(|text| is_it(text))?;
            let id = ini(&text).find(|(s, k, _)| *s == "connection" && *k == "id")?.2.to_owned();
            Some((file, id))
        })
    }

    fn network_manager(&self, dev: &str, ifindex: u32, change: &Change) -> Option<Owner> {
        let file = format!("run/NetworkManager/devices/{ifindex}");
        let state = self.text(Path::new(&file))?;
        let managed = ini(&state).find(|(_, key, _)| *key == "managed").map(|(.., v)| v);
        if !matches!(managed, Some("true" | "yes" | "1")) {
            return None;
        }
        let (of, name) = match self.connection(dev, ifindex) {
            Some((file, id)) => {
                (format!(" with connection {id:?} (/{})", file.display()), quote(&id))
            }
            // Its name is in no file here; the command finds it.
            None => (
                format!(" (/{file})"),
                format!("\"$(nmcli -g GENERAL.CONNECTION device show {dev})\""),
            ),
        };
        let set: String = properties(change)
            .into_iter()
            .map(|(property, value)| format!(" {property} {}", quote(&value)))
            .collect();
        let (what, command) = if set.is_empty() {
            (
                format!("NetworkManager manages {dev}{of}; it has no property for this."),
                String::new(),
            )
        } else {
            let what = format!("NetworkManager manages {dev}{of} and sets it up as that says.");
            (what, format!("nmcli connection modify {name}{set}"))
        };
        Some(Owner { manager: Manager::NetworkManager, what, command })
    }

    fn networkd(&self, dev: &str, ifindex: u32, change: &Change) -> Option<Owner> {
        let state = self.text(Path::new(&format!("run/systemd/netif/links/{ifindex}")))?;
        let value =
            |name: &str| state.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        let file = value("NETWORK_FILE").filter(|f| !f.is_empty())?;
        if value("ADMIN_STATE") == Some("unmanaged") {
            return None;
        }
        let what = format!("systemd-networkd manages {dev} as {file} says.");
        let command = match change {
            Change::Link { name, value, .. } if name == "mtu" => format!(
                "mkdir -p {file}.d && printf '[Link]\\nMTUBytes={value}\\n' > {file}.d/90-linerate.conf"
            ),
            // Rings, queues and offloads are udev's there, as everywhere.
            _ => String::new(),
        };
        // A file that came with a package is added to below /etc.
        let command = match file.rsplit_once('/') {
            Some((dir, last)) if dir != "/etc/systemd/network" => {
                command.replace(file, &format!("/etc/systemd/network/{last}"))
            }
            _ => command,
        };
        Some(Owner { manager: Manager::Networkd, what, command })
    }

    fn irqbalance(&self, irq: &str) -> Option<Owner> {
        let runs = self.text(Path::new("run/irqbalance.pid")).is_some()
            || self.root.join("run/irqbalance").is_dir();
        if !runs {
            return None;
        }
        const FILES: [(&str, &str); 2] = [
            ("etc/default/irqbalance", "IRQBALANCE_ARGS"),
            ("etc/sysconfig/irqbalance", "IRQBALANCE_ARGS"),
        ];
        let found =
            FILES.iter().find_map(|(file, key)| Some((file, key, self.text(Path::new(file))?)));
        let (file, key, text) = found.unwrap_or((&FILES[0].0, &FILES[0].1, String::new()));
        let args = text.lines().filter(|l| !l.trim_start().starts_with('#'));
        let banned = format!("--banirq={irq}");
        let mut words =
            args.flat_map(|l| l.split(|c: char| c.is_whitespace() || "\"'".contains(c)));
        if words.any(|word| word == banned) {
            return None;
        }
        Some(Owner {
            manager: Manager::Irqbalance,
            what: format!("irqbalance runs and sets the processors of interrupt {irq} every 10 s."),
            command: format!("add {banned} to {key} in /{file}, then systemctl restart irqbalance"),
        })
    }

    /// What the active profile of tuned, and those that it includes, set.
    fn tuned(&self, change: &Change) -> Vec<Other> {
        let Some(active) = self.text(Path::new("etc/tuned/active_profile")) else {
            return Vec::new();
        };
        // With this, which is the default, tuned lets the files of sysctl.d have the last word.
        let main = self.text(Path::new("etc/tuned/tuned-main.conf")).unwrap_or_default();
        let reapply = ini(&main).find(|(_, k, _)| *k == "reapply_sysctl").map(|(.., v)| v);
        let yields = !matches!(reapply, Some("0" | "false" | "False" | "no"));
        let mut others = Vec::new();
        let mut todo: Vec<String> = active.split_whitespace().map(str::to_owned).collect();
        let mut seen = Vec::new();
        while let Some(name) = todo.pop().filter(|_| seen.len() < INCLUDES_MAX) {
            if seen.contains(&name) || name.contains('/') {
                continue;
            }
            let dirs =
                ["etc/tuned/profiles", "etc/tuned", "usr/lib/tuned/profiles", "usr/lib/tuned"];
            let file = dirs.iter().map(|d| Path::new(d).join(&name).join("tuned.conf"));
            let found = file.into_iter().find_map(|file| Some((self.text(&file)?, file)));
            seen.push(name);
            let Some((text, file)) = found else { continue };
            for (section, key, value) in ini(&text) {
                let (same, wins) = match (section, change) {
                    ("main", _) if key == "include" => {
                        todo.extend(value.split([',', ' ']).map(|n| n.trim().to_owned()));
                        (false, false)
                    }
                    ("sysctl", Change::Sysctl { name, .. }) => (key == name, !yields),
                    ("sysfs", Change::File { path, .. }) => (key == path, true),
                    (_, change) => (tuned_net(key, value, change), true),
                };
                if same {
                    others.push(self.other(&file, value, wins));
                }
            }
        }
        others
    }

    /// The `.link` file that udev took for the device, and its drop-ins.
    fn link_file(&self, ifindex: u32, change: &Change) -> Vec<Other> {
        let data = self.text(Path::new(&format!("run/udev/data/n{ifindex}"))).unwrap_or_default();
        let value = |name: &str| {
            data.lines().find_map(|l| l.strip_prefix("E:")?.strip_prefix(name)?.strip_prefix('='))
        };
        let Some(file) = value("ID_NET_LINK_FILE") else { return Vec::new() };
        let mut files = vec![PathBuf::from(file.trim_start_matches('/'))];
        let last = Path::new(file).file_name().map(|n| n.to_string_lossy().into_owned());
        for dir in ["usr/lib/systemd/network", "run/systemd/network", "etc/systemd/network"] {
            let dropins = last.as_ref().map(|last| self.in_dir(&format!("{dir}/{last}.d")));
            files.extend(dropins.into_iter().flatten());
        }
        let keys = link_keys(change);
        let mut others = Vec::new();
        for file in files {
            let text = self.text(&file).unwrap_or_default();
            let set = ini(&text).filter(|(s, k, _)| *s == "Link" && keys.contains(k));
            // Programs of a rule run after what the rules themselves set: ours has the last word.
            others.extend(set.map(|(.., value)| self.other(&file, value, false)));
        }
        others
    }

    /// Debian's `/etc/network/interfaces`: options and commands of the device's stanza.
    fn interfaces(&self, dev: &str, change: &Change) -> Vec<Other> {
        let mut files = vec![PathBuf::from("etc/network/interfaces")];
        files.extend(self.in_dir("etc/network/interfaces.d"));
        let mut others = Vec::new();
        for file in files {
            let Some(text) = self.text(&file) else { continue };
            let mut ours = false;
            for line in text.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words.as_slice() {
                    ["iface", name, ..] => ours = *name == dev,
                    ["auto" | "mapping" | "source" | "source-directory", ..] => ours = false,
                    ["up" | "post-up" | "pre-up", ..] => {
                        if let Some(value) = commanded(&words[1..].join(" "), change) {
                            others.push(self.other(&file, &value, true));
                        }
                    }
                    ["mtu", value] if ours => {
                        let is = matches!(change, Change::Link { name, .. } if name == "mtu");
                        others.extend(is.then(|| self.other(&file, value, true)));
                    }
                    _ => {}
                }
            }
        }
        others
    }

    /// Other people's udev rules.
    fn rules(&self, dev: &str, change: &Change) -> Vec<Other> {
        const OURS: &str = "90-linerate.rules";
        let dirs = [
            "etc/udev/rules.d",
            "run/udev/rules.d",
            "usr/local/lib/udev/rules.d",
            "usr/lib/udev/rules.d",
        ];
        let mut others = Vec::new();
        for file in dirs.iter().flat_map(|dir| self.in_dir(dir)) {
            let name =
                file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(text) = self.text(&file).filter(|_| name != OURS && name.ends_with(".rules"))
            else {
                continue;
            };
            for line in text.lines().filter(|l| !l.trim_start().starts_with('#')) {
                let keys: Vec<&str> = line.split(',').map(str::trim).collect();
                let about = |key: &str| keys.iter().find_map(|k| k.strip_prefix(key));
                let named = [about("KERNEL=="), about("NAME==")];
                let mine = named.iter().flatten().all(|n| n.trim_matches('"') == dev);
                let attr = super::persist::attribute(change)
                    .and_then(|attr| about(&format!("ATTR{{{attr}}}=")))
                    .filter(|value| !value.starts_with('='))
                    .map(|value| value.trim_matches('"').to_owned());
                let run = about("RUN+=").and_then(|run| commanded(run.trim_matches('"'), change));
                if let Some(value) = attr.or(run).filter(|_| mine) {
                    others.push(self.other(&file, &value, name.as_str() > OURS));
                }
            }
        }
        others
    }
}

/// The device that a change is about.
fn device(change: &Change) -> Option<&str> {
    match change {
        Change::Ethtool { dev, .. } | Change::Link { dev, .. } | Change::Qdisc { dev, .. } => {
            Some(dev)
        }
        Change::File { path, .. } => path.strip_prefix("/sys/class/net/")?.split('/').next(),
        Change::Sysctl { name, .. } => {
            let rest =
                name.strip_prefix("net.ipv4.conf.").or(name.strip_prefix("net.ipv6.conf."))?;
            rest.split('.').next().filter(|dev| !matches!(*dev, "all" | "default"))
        }
    }
}

/// What a command that somebody runs sets, if it is the same setting.
fn commanded(command: &str, change: &Change) -> Option<String> {
    let command = command.trim();
    // Wherever the program lies.
    let (program, rest) = command.split_once(' ')?;
    let program = program.rsplit('/').next()?;
    let theirs: Change = format!("{program} {rest}").parse().ok()?;
    theirs.is_of_same_setting(change).then(|| theirs.command())
}

/// Lines of an ini file: section, key, value.
fn ini(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let mut section = "";
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            return None;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
            return None;
        }
        let (key, value) = line.split_once('=')?;
        Some((section, key.trim(), value.trim()))
    })
}

/// As a shell takes it for one word.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The properties of a connection of NetworkManager that say the same (nm-settings-nmcli(5)).
fn properties(change: &Change) -> Vec<(String, String)> {
    match change {
        Change::Ethtool { option, set, .. } => {
            let kind = match option {
                'G' => "ring",
                'L' => "channels",
                'C' => "coalesce",
                'K' => "feature",
                'A' => "pause",
                _ => return Vec::new(),
            };
            let property = |(name, value): &(String, String)| {
                // It has numbers where ethtool has switches.
                let value = match (kind, value.as_str()) {
                    ("coalesce", "on") => "1",
                    ("coalesce", "off") => "0",
                    (_, value) => value,
                };
                let name = if kind == "feature" { feature(name) } else { name };
                (format!("ethtool.{kind}-{name}"), value.to_owned())
            };
            set.iter().map(property).collect()
        }
        Change::Link { name, value, .. } => {
            let property = match name.as_str() {
                "mtu" => "802-3-ethernet.mtu",
                "txqueuelen" => "link.tx-queue-length",
                "gro_max_size" => "link.gro-max-size",
                "gso_max_size" => "link.gso-max-size",
                "gso_max_segs" => "link.gso-max-segments",
                _ => return Vec::new(),
            };
            vec![(property.to_owned(), value.clone())]
        }
        Change::Qdisc { spec, .. } if spec.starts_with("root ") && !spec.ends_with(" default") => {
            vec![("tc.qdiscs".to_owned(), spec.clone())]
        }
        _ => Vec::new(),
    }
}

/// A feature as NetworkManager calls it: by ethtool's short name, where there is one.
fn feature(name: &str) -> &str {
    const SHORT: [(&str, &str); 10] = [
        ("rx-checksum", "rx"),
        ("tx-scatter-gather", "sg"),
        ("tx-tcp-segmentation", "tso"),
        ("rx-gro", "gro"),
        ("tx-generic-segmentation", "gso"),
        ("rx-hashing", "rxhash"),
        ("rx-lro", "lro"),
        ("rx-ntuple-filter", "ntuple"),
        ("rx-vlan-hw-parse", "rxvlan"),
        ("tx-vlan-hw-insert", "txvlan"),
    ];
    SHORT.iter().find(|(kernel, _)| *kernel == name).map_or(name, |(_, short)| short)
}

/// Keys of systemd.link(5) that say the same.
fn link_keys(change: &Change) -> Vec<&'static str> {
    let key = |option: char, name: &str| match (option, name) {
        ('G', "rx") => Some("RxBufferSize"),
        ('G', "rx-mini") => Some("RxMiniBufferSize"),
        ('G', "rx-jumbo") => Some("RxJumboBufferSize"),
        ('G', "tx") => Some("TxBufferSize"),
        ('L', "rx") => Some("RxChannels"),
        ('L', "tx") => Some("TxChannels"),
        ('L', "other") => Some("OtherChannels"),
        ('L', "combined") => Some("CombinedChannels"),
        ('C', "rx-usecs") => Some("RxCoalesceSec"),
        ('C', "tx-usecs") => Some("TxCoalesceSec"),
        ('C', "rx-frames") => Some("RxMaxCoalescedFrames"),
        ('C', "tx-frames") => Some("TxMaxCoalescedFrames"),
        ('C', "adaptive-rx") => Some("UseAdaptiveRxCoalesce"),
        ('C', "adaptive-tx") => Some("UseAdaptiveTxCoalesce"),
        ('A', "rx") => Some("RxFlowControl"),
        ('A', "tx") => Some("TxFlowControl"),
        ('K', "gro" | "rx-gro") => Some("GenericReceiveOffload"),
        ('K', "gso" | "tx-generic-segmentation") => Some("GenericSegmentationOffload"),
        ('K', "tso" | "tx-tcp-segmentation") => Some("TCPSegmentationOffload"),
        ('K', "lro" | "rx-lro") => Some("LargeReceiveOffload"),
        _ => None,
    };
    match change {
        Change::Ethtool { option, set, .. } => {
            set.iter().filter_map(|(name, _)| key(*option, name)).collect()
        }
        Change::Link { name, .. } if name == "mtu" => vec!["MTUBytes"],
        Change::Link { name, .. } if name == "txqueuelen" => vec!["TransmitQueueLength"],
        _ => Vec::new(),
    }
}

/// Whether a line of tuned's plug-in for devices sets the same: `ring = rx 1024 tx 1024`.
fn tuned_net(key: &str, value: &str, change: &Change) -> bool {
    let of = |letter: char| match key {
        "ring" => letter == 'G',
        "channels" => letter == 'L',
        "coalesce" => letter == 'C',
        "features" => letter == 'K',
        "pause" => letter == 'A',
        _ => false,
    };
    match change {
        Change::Ethtool { option, set, .. } => {
            of(*option)
                && set.iter().any(|(name, _)| value.split([' ', ',']).any(|word| word == name))
        }
        Change::Link { name, .. } => key == name,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
