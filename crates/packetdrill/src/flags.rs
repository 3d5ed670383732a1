//! `--so_flags`: knobs by their names, and a few words of our own.

use std::path::{Path, PathBuf};
use std::{collections::BTreeMap, fs};

use linerate_core::shard::Shard;
use linerate_core::table::Knobs;

/// What `--so_flags` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    /// What decides every random choice (`seed=N`).
    pub seed: u64,
    /// The device's MTU in bytes (`mtu=N`).
    pub mtu: u32,
    /// A tree like `/proc/sys`: a knob whose file changes there while the script runs is set here
    /// as well (`sysctl_from=DIR`).
    pub sysctl_from: Option<PathBuf>,
    /// Knobs and their values, in the order in which they were given.
    pub knobs: Vec<(String, String)>,
}

impl Flags {
    /// Reads `name=value,name=value,…`. A comma or a white space separates; values with several
    /// numbers, such as `net.ipv4.tcp_rmem`, have colons between them.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Flags, String> {
        let mut flags = Flags { seed: 1, mtu: 1500, sysctl_from: None, knobs: Vec::new() };
        let separates = |c: char| c == ',' || c.is_whitespace();
        for word in text.split(separates).filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').ok_or(format!(
                "{word:?} in --so_flags is not of the form name=value, such as net.ipv4.tcp_ecn=1"
            ))?;
            let wrong = || format!("{name} in --so_flags takes a number, not {value:?}");
            match name {
                "seed" => flags.seed = value.parse().map_err(|_| wrong())?,
                "mtu" => flags.mtu = value.parse().map_err(|_| wrong())?,
                "sysctl_from" => flags.sysctl_from = Some(value.into()),
                _ => flags.knobs.push((name.to_owned(), value.replace(':', " "))),
            }
        }
        match flags.mtu {
            576..=65535 => Ok(flags),
            mtu => Err(format!("mtu={mtu} in --so_flags: 576 to 65535 bytes are possible")),
        }
    }
}

const FASTOPEN_KEY: &str = "net.ipv4.tcp_fastopen_key";

/// Knobs that follow the files of a tree like `/proc/sys`.
pub(crate) struct Sysctl {
    root: PathBuf,
    seen: BTreeMap<&'static str, String>,
}

impl Sysctl {
    /// What the files say now is where following begins: only what changes is taken over.
    pub fn new(root: &Path) -> Sysctl {
        let mut sysctl = Sysctl { root: root.to_owned(), seen: BTreeMap::new() };
        let _as_it_was = sysctl.changes();
        // A namespace without a key shows the same as one whose key was set to zeros.
        sysctl.seen.remove(FASTOPEN_KEY);
        sysctl
    }
    fn changes(&mut self) -> Vec<(&'static str, String)> {
        let mut changed = Vec::new();
        for row in Knobs::ROWS.iter().filter(|row| row.path.starts_with("net.ipv4.")) {
            let Ok(text) = fs::read_to_string(self.root.join(row.path.replace('.', "/"))) else {
                continue;
            };
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            if self.seen.get(row.path) != Some(&text) {
                self.seen.insert(row.path, text.clone());
                changed.push((row.path, text));
            }
        }
        changed
    }
    /// Takes over what has changed. Values that the stack does not take are told on standard error.
    pub fn follow(&mut self, shard: &mut Shard) {
        for (path, value) in self.changes() {
            if let Err(err) = shard.set_knob(path, &value) {
                eprintln!("linerate: {path} = {value}: {err}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_knobs_and_words_of_our_own() {
        let flags = Flags::parse("net.ipv4.tcp_ecn=1, net.ipv4.tcp_rmem=4096:8192:16384 mtu=1520");
        let flags = flags.expect("these are right");
        assert_eq!(flags.mtu, 1520);
        let knobs: Vec<_> = flags.knobs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(knobs, [("net.ipv4.tcp_ecn", "1"), ("net.ipv4.tcp_rmem", "4096 8192 16384")]);
        assert!(Flags::parse("tcp_ecn").unwrap_err().contains("name=value"));
        assert!(Flags::parse("seed=x").unwrap_err().contains("number"));
        assert!(Flags::parse("mtu=100").unwrap_err().contains("576"));
    }

    #[test]
    fn only_what_changes_in_the_tree_is_taken_over() {
        let dir = std::env::temp_dir().join(format!("linerate-sysctl-{}", std::process::id()));
        let folder = dir.join("net/ipv4");
        fs::create_dir_all(&folder).expect("a folder is made");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("a file");
        write("tcp_sack", "0\n");
        write("tcp_rmem", "4096\t131072\t6291456\n");
        write("tcp_fastopen_key", "00000000-00000000-00000000-00000000\n");
        let mut shard = Shard::new(1);
        let before = shard.get_knob("net.ipv4.tcp_sack").expect("it exists");
        let mut sysctl = Sysctl::new(&dir);
        sysctl.follow(&mut shard);
        assert_eq!(shard.get_knob("net.ipv4.tcp_sack").expect("it exists"), before);
        let key = shard.get_knob(FASTOPEN_KEY).expect("it exists");
        assert_eq!(key, "00000000-00000000-00000000-00000000", "it may have been set to that");
        write("tcp_rmem", "4096\t540000\t6291456\n");
        sysctl.follow(&mut shard);
        let rmem = shard.get_knob("net.ipv4.tcp_rmem").expect("it exists");
        assert_eq!(rmem.split_whitespace().collect::<Vec<_>>(), ["4096", "540000", "6291456"]);
        fs::remove_dir_all(&dir).expect("the folder goes");
    }
}
