//! Settings in files, so that they survive a boot.
//!
//! Ours are two files, each of whole lines: a sysctl drop-in and udev rules.
//!
//! A `.link` file of systemd is not written, for neither way to have one is right. Of `.link` files the
//! first that matches a device is the only one: ours would replace the one that names the device, and
//! the device might have another name after the next boot. A drop-in beside that one (`NAME.link.d/*.conf`)
//! holds for all devices that it matches, and that of most hosts (`99-default.link`) matches them all. A
//! udev rule is about one device, adds to what others set, and goes without a trace.
//!
//! A device that is renamed is added under the kernel's name and then moved to its own, so rules match
//! both events. Files of other people are read, to say who sets the same, and never written, sorted or
//! applied again.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::change::Change;

const SYSCTL: &str = "etc/sysctl.d/90-linerate.conf";
const UDEV: &str = "etc/udev/rules.d/90-linerate.rules";
const HEADER: &str =
    "# Written by `linerate tune apply --persist`; `linerate tune rollback` takes it out.";
/// When a device gets its name: it is added, and may then be renamed.
const EVENT: &str = "ACTION==\"add|move\"";
/// Where sysctl.d(5) looks, the first winning over a file of the same name.
const SYSCTL_DIRS: [&str; 4] =
    ["etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d"];

/// A line of ours in a file of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persisted {
    /// The file, below the root.
    pub file: String,
    /// The line.
    pub line: String,
}

/// Why a setting was not made to last.
#[derive(Debug)]
pub enum PersistError {
    /// There is no place for this kind of setting.
    NoPlace(Change),
    /// A value would break out of its line.
    Unfit(Change),
    /// The file can not be read or written.
    File {
        /// Its path.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
}

impl fmt::Display for PersistError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PersistError::NoPlace(change) => write!(
                f,
                "there is no file in which `{change}` would survive a boot (interrupts belong to \
                 irqbalance: give it a policy script)"
            ),
            PersistError::Unfit(change) => {
                write!(f, "`{change}` has characters that a configuration file can not hold")
            }
            PersistError::File { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for PersistError {}

/// Somebody else's line about the same setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Other {
    /// The file.
    pub file: PathBuf,
    /// The value it sets.
    pub value: String,
    /// It is read after ours, so it wins at the next boot.
    pub wins: bool,
}

/// The files below a root: `/`, or a directory in tests.
#[derive(Clone, Debug)]
pub struct Files {
    pub(super) root: PathBuf,
}

impl Files {
    /// Those below `root`.
    #[must_use]
    pub fn below(root: &Path) -> Files {
        Files { root: root.to_owned() }
    }

    /// Writes a change down for the next boot. A line of ours about the same setting is replaced.
    ///
    /// # Errors
    /// [`PersistError`].
    pub fn persist(&self, change: &Change) -> Result<Persisted, PersistError> {
        let (file, key, line) = line(change)?;
        let path = self.root.join(file);
        let mut lines: Vec<String> = self.lines(&path)?;
        lines.retain(|l| !l.starts_with(&key) && !is_run_again(l, change));
        if lines.is_empty() {
            lines.push(HEADER.into());
        }
        lines.push(line.clone());
        write(&path, &lines)?;
        Ok(Persisted { file: file.into(), line })
    }

    /// Takes a line of ours out; the file goes with its last one. What is not there need not go.
    ///
    /// # Errors
    /// [`PersistError::File`].
    pub fn forget(&self, persisted: &Persisted) -> Result<(), PersistError> {
        let path = self.root.join(&persisted.file);
        let mut lines = self.lines(&path)?;
        let before = lines.len();
        lines.retain(|l| *l != persisted.line);
        if lines.len() == before {
            return Ok(());
        }
        if lines.iter().all(|l| l == HEADER || l.trim().is_empty()) {
            return fs::remove_file(&path).map_err(|source| PersistError::File { path, source });
        }
        write(&path, &lines)
    }

    fn lines(&self, path: &Path) -> Result<Vec<String>, PersistError> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(PersistError::File { path: path.to_owned(), source }),
        }
    }

    /// Who else sets the same at boot: files of sysctl.d in the order in which they are read, and those
    /// of programs that set up devices.
    #[must_use]
    pub fn others(&self, change: &Change) -> Vec<Other> {
        let mut others = match change {
            Change::Sysctl { name, .. } => self.sysctl_files(name),
            _ => Vec::new(),
        };
        others.extend(self.others_of_programs(change));
        others
    }

    fn sysctl_files(&self, name: &str) -> Vec<Other> {
        let mut files: Vec<PathBuf> = Vec::new();
        for dir in SYSCTL_DIRS {
            let Ok(entries) = fs::read_dir(self.root.join(dir)) else { continue };
            for path in entries.flatten().map(|e| e.path()) {
                let is_conf = path.extension().is_some_and(|e| e == "conf");
                let shadowed = files.iter().any(|f| f.file_name() == path.file_name());
                if is_conf && !shadowed {
                    files.push(path);
                }
            }
        }
        files.sort_by_key(|f| f.file_name().map(ToOwned::to_owned));
        // sysctl.conf is read last by procps, and through 99-sysctl.conf by systemd.
        files.push(self.root.join("etc/sysctl.conf"));
        let ours = Path::new(SYSCTL).file_name();
        let mut others = Vec::new();
        let mut behind = false;
        for path in files {
            if path == self.root.join(SYSCTL) {
                behind = true;
                continue;
            }
            let wins = behind || path.file_name() > ours;
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let mut values = text.lines().rev().filter_map(|l| setting(l, name));
            if let Some(value) = values.next() {
                others.push(Other { file: path, value: value.into(), wins });
            }
        }
        others
    }
}

/// The value, if the line of a sysctl.d file sets `name`.
fn setting<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let line = line.trim().trim_start_matches('-');
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    (key.trim().replace('/', ".") == name).then_some(value.trim())
}

/// In which file, the beginning that a line of the same setting has, and the line.
fn line(change: &Change) -> Result<(&'static str, String, String), PersistError> {
    let plain = |text: &str| !text.contains(['\n', '\r', '\0']);
    // In a udev rule a quote ends the value, and `$` and `%` are substituted.
    let quoted = |text: &str| plain(text) && !text.contains(['"', '$', '%', '\\']);
    let unfit = || PersistError::Unfit(change.clone());
    let udev = |dev: &str, what: &str, op: &str, value: &str| {
        if !(quoted(dev) && quoted(what) && quoted(value)) || dev.contains(['*', '?', '[', '|']) {
            return Err(unfit());
        }
        let key = format!("{EVENT}, SUBSYSTEM==\"net\", KERNEL==\"{dev}\", {what}");
        let line = format!("{key}{op}\"{value}\"");
        Ok((UDEV, key, line))
    };
    // What is no attribute is done by a program, in the words of the change.
    let run = |dev: &str, dir: &str| {
        let command = change.command();
        if !quoted(&command) || command.contains(['\'', '*', '?', '[', '|']) {
            return Err(unfit());
        }
        let mut rule = udev(dev, "RUN", "+=", "")?;
        rule.2 = rule.2.replace("+=\"\"", &format!("+=\"{dir}{command}\""));
        // No line begins so: which of them it replaces is for `is_run_again` to say.
        rule.1 = rule.2.clone();
        Ok(rule)
    };
    match change {
        Change::Sysctl { name, value } => {
            if !plain(name) || !plain(value) || name.contains('=') {
                return Err(unfit());
            }
            Ok((SYSCTL, format!("{name} ="), format!("{name} = {value}")))
        }
        Change::File { path, value } => {
            let rest = path.strip_prefix("/sys/class/net/");
            let (dev, attr) = rest
                .and_then(|r| r.split_once('/'))
                .ok_or_else(|| PersistError::NoPlace(change.clone()))?;
            udev(dev, &format!("ATTR{{{attr}}}"), "=", value)
        }
        Change::Link { dev, name, value } => match attribute(change) {
            Some(attr) => udev(dev, &format!("ATTR{{{attr}}}"), "=", value),
            None if quoted(name) => run(dev, "/usr/sbin/"),
            None => Err(unfit()),
        },
        Change::Ethtool { dev, .. } | Change::Qdisc { dev, .. } => run(dev, "/usr/sbin/"),
    }
}

/// Whether a rule of ours runs a command that a new one makes superfluous: it sets nothing else.
fn is_run_again(line: &str, new: &Change) -> bool {
    let Some((_, command)) = line.split_once("RUN+=\"/usr/sbin/") else { return false };
    let Ok(old) = command.trim_end_matches('"').parse::<Change>() else { return false };
    match (&old, new) {
        (Change::Ethtool { option: 'X' | 'N', .. }, _) => old.is_of_same_setting(new),
        (Change::Ethtool { set: old_set, .. }, Change::Ethtool { set, .. }) => {
            let again = |(name, _): &(String, String)| set.iter().any(|(n, _)| n == name);
            old.is_of_same_setting(new) && old_set.iter().all(again)
        }
        _ => old.is_of_same_setting(new),
    }
}

/// The attribute of the device in sysfs that is set, if it is one.
pub(super) fn attribute(change: &Change) -> Option<&str> {
    match change {
        Change::File { path, .. } => Some(path.strip_prefix("/sys/class/net/")?.split_once('/')?.1),
        Change::Link { name, .. } if name == "txqueuelen" => Some("tx_queue_len"),
        Change::Link { name, .. } if name == "mtu" => Some("mtu"),
        _ => None,
    }
}

/// Replaces the file as a whole.
fn write(path: &Path, lines: &[String]) -> Result<(), PersistError> {
    let failed = |source| PersistError::File { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let new = path.with_extension("linerate-new");
    let text: String = lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect();
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::model::sysctl;
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(test: &str) -> Root {
            let dir =
                std::env::temp_dir().join(format!("linerate-files-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Root(dir)
        }
        fn put(&self, file: &str, text: &str) {
            let path = self.0.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fn get(&self, file: &str) -> Option<String> {
            fs::read_to_string(self.0.join(file)).ok()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_line_is_replaced_and_the_file_goes_with_the_last_one() {
        let root = Root::new("lines");
        let files = Files::below(&root.0);
        let one = files.persist(&sysctl("net.core.rmem_max", "1")).unwrap();
        let two = files.persist(&sysctl("net.core.rmem_max", "2")).unwrap();
        let three = files.persist(&sysctl("net.core.somaxconn", "9")).unwrap();
        let text = root.get(SYSCTL).unwrap();
        assert_eq!(text, format!("{HEADER}\nnet.core.rmem_max = 2\nnet.core.somaxconn = 9\n"));
        files.forget(&one).unwrap();
        assert_eq!(root.get(SYSCTL).unwrap(), text, "that line is gone already");
        files.forget(&two).unwrap();
        files.forget(&three).unwrap();
        assert_eq!(root.get(SYSCTL), None);
    }

    #[test]
    fn devices_get_udev_rules() {
        let root = Root::new("udev");
        let files = Files::below(&root.0);
        let rps = "/sys/class/net/eth0/queues/rx-0/rps_cpus";
        let rps = Change::File { path: rps.into(), value: "3".into() };
        let ring = |n: &str| {
            let set = vec![("rx".into(), n.into())];
            Change::Ethtool { option: 'G', dev: "eth0".into(), set }
        };
        let mtu = Change::Link { dev: "eth0".into(), name: "txqueuelen".into(), value: "5".into() };
        for change in [&rps, &ring("512"), &ring("1024"), &mtu] {
            files.persist(change).unwrap();
        }
        let begin = "ACTION==\"add|move\", SUBSYSTEM==\"net\", KERNEL==\"eth0\", ";
        let text = root.get(UDEV).unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                format!("{begin}ATTR{{queues/rx-0/rps_cpus}}=\"3\""),
                format!("{begin}RUN+=\"/usr/sbin/ethtool -G eth0 rx 1024\""),
                format!("{begin}ATTR{{tx_queue_len}}=\"5\""),
            ]
        );
    }

    #[test]
    fn a_rule_that_sets_something_else_as_well_stays() {
        let root = Root::new("again");
        let files = Files::below(&root.0);
        for command in [
            "ethtool -G eth0 rx 512",
            "ethtool -G eth0 tx 512",
            "ethtool -K eth0 gro on",
            "ethtool -K eth0 tso off",
            "ethtool -N eth0 rx-flow-hash udp4 sd",
            "ethtool -N eth0 rx-flow-hash udp6 sd",
            "ethtool -N eth0 rx-flow-hash udp4 sdfn",
            "ethtool -N eth0 flow-type udp4 dst-port 53 action 1 loc 5",
            "ethtool -X eth0 weight 1 2",
            "ethtool -X eth0 equal 2",
            "ethtool -G eth0 rx 1024",
            "ip link set eth0 gro_max_size 65536",
            "tc qdisc replace dev eth0 root fq",
            "tc qdisc replace dev eth0 root fq limit 9",
        ] {
            let persisted = files.persist(&command.parse().unwrap()).unwrap();
            assert!(
                persisted.line.ends_with(&format!("RUN+=\"/usr/sbin/{command}\"")),
                "{command}"
            );
        }
        let text = root.get(UDEV).unwrap();
        let run =
            |l: &str| l.split_once("/usr/sbin/").map(|(_, c)| c.trim_end_matches('"').to_owned());
        let left: Vec<String> = text.lines().filter_map(run).collect();
        assert_eq!(
            left,
            [
                "ethtool -G eth0 tx 512",
                "ethtool -K eth0 gro on",
                "ethtool -K eth0 tso off",
                "ethtool -N eth0 rx-flow-hash udp6 sd",
                "ethtool -N eth0 rx-flow-hash udp4 sdfn",
                "ethtool -N eth0 flow-type udp4 dst-port 53 action 1 loc 5",
                "ethtool -X eth0 equal 2",
                "ethtool -G eth0 rx 1024",
                "ip link set eth0 gro_max_size 65536",
                "tc qdisc replace dev eth0 root fq limit 9",
            ]
        );
        let bad = "ethtool -K eth0 gro 'on\", RUN+=\"/bin/sh'".parse().unwrap();
        assert!(matches!(files.persist(&bad), Err(PersistError::Unfit(_))));
    }

    #[test]
    fn what_would_break_out_of_its_line_is_refused() {
        let root = Root::new("unfit");
        let files = Files::below(&root.0);
        let bad = sysctl("net.core.rmem_max", "1\nkernel.core_pattern = |/bin/sh");
        assert!(matches!(files.persist(&bad), Err(PersistError::Unfit(_))));
        let path = "/sys/class/net/x\", RUN+=\"sh/mtu".to_owned();
        let bad = Change::File { path, value: "1".into() };
        assert!(matches!(files.persist(&bad), Err(PersistError::Unfit(_))));
        let irq = Change::File { path: "/proc/irq/1/smp_affinity".into(), value: "1".into() };
        assert!(matches!(files.persist(&irq), Err(PersistError::NoPlace(_))));
        assert_eq!(fs::read_dir(&root.0).unwrap().count(), 0);
    }

    #[test]
    fn who_else_sets_a_sysctl_is_named_in_the_order_of_the_boot() {
        let root = Root::new("others");
        root.put("usr/lib/sysctl.d/50-default.conf", "net.ipv4.conf.all.rp_filter = 2\n");
        root.put(
            "etc/sysctl.d/99-zzz-override_cilium.conf",
            "# x\n-net.ipv4.conf.all.rp_filter=0\n",
        );
        root.put("etc/sysctl.d/10-a.conf", ";net.ipv4.conf.all.rp_filter=7\n");
        root.put("usr/lib/sysctl.d/10-a.conf", "net.ipv4.conf.all.rp_filter=8\n");
        let name = "net.ipv4.conf.all.rp_filter";
        let files = Files::below(&root.0);
        files.persist(&sysctl(name, "1")).unwrap();
        let others: Vec<_> =
            files.others(&sysctl(name, "1")).into_iter().map(|o| (o.value, o.wins)).collect();
        assert_eq!(others, [("2".into(), false), ("0".into(), true)]);
    }
}
