//! The lines of a journal: words with blanks between them, as a person would write them.

use crate::netdev::Feature;
use crate::netdev::tc::Ignored;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::str::SplitWhitespace;

/// The first line: which host and which network namespace the others speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The kernel's identifier of this boot.
    pub(super) boot: String,
    /// The inode of the network namespace.
    pub(super) netns: u64,
}

const MAGIC: &str = "linerate-journal-1";

impl Header {
    /// This boot, and the calling thread's namespace.
    pub(super) fn here() -> io::Result<Header> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let netns = rustix::fs::stat("/proc/thread-self/ns/net")?.st_ino;
        Ok(Header { boot, netns })
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{MAGIC} boot {} netns {}", self.boot, self.netns)
    }
}

/// One change: where, what it was, what it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    LinkUp { index: u32, ifname: String },
    Mtu { index: u32, ifname: String, was: u32, now: u32 },
    TxQueueLen { index: u32, ifname: String, was: u32, now: u32 },
    Feature { index: u32, ifname: String, feature: Feature, on: bool },
    Address { index: u32, ifname: String, addr: IpAddr, prefix_len: u8 },
    Ignore { ifname: String, ignored: Ignored },
}

impl Entry {
    pub(super) fn interface(&self) -> (u32, &str) {
        match self {
            Entry::LinkUp { index, ifname }
            | Entry::Mtu { index, ifname, .. }
            | Entry::TxQueueLen { index, ifname, .. }
            | Entry::Feature { index, ifname, .. }
            | Entry::Address { index, ifname, .. } => (*index, ifname),
            Entry::Ignore { ifname, ignored } => (ignored.index, ifname),
        }
    }
}

/// An interface's name with no byte in it that would end the word: the kernel allows all but blanks
/// and the slash, and some blanks are such only for others.
fn word(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

fn unword(word: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

const FEATURES: [(Feature, &str); 6] = [
    (Feature::Rx, "rx"),
    (Feature::Tx, "tx"),
    (Feature::Sg, "sg"),
    (Feature::Tso, "tso"),
    (Feature::Gso, "gso"),
    (Feature::Gro, "gro"),
];

/// The name that `ethtool -K` has for it.
pub(super) fn name_of(feature: Feature) -> &'static str {
    FEATURES.iter().find(|(f, _)| *f == feature).map_or("?", |(_, name)| name)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, ifname) = self.interface();
        let at = format_args!("{index} {}", word(ifname)).to_string();
        match self {
            Entry::LinkUp { .. } => writeln!(f, "up {at} ."),
            Entry::Mtu { was, now, .. } => writeln!(f, "mtu {at} {was} {now} ."),
            Entry::TxQueueLen { was, now, .. } => writeln!(f, "txqueuelen {at} {was} {now} ."),
            Entry::Feature { feature, on, .. } => {
                writeln!(f, "feature {at} {} {} .", name_of(*feature), u8::from(*on))
            }
            Entry::Address { addr, prefix_len, .. } => {
                writeln!(f, "address {at} {addr} {prefix_len} .")
            }
            Entry::Ignore { ignored, .. } => {
                let Ignored { priority, addrs, made_hook, .. } = ignored;
                write!(f, "ignore {at} {priority} {}", u8::from(*made_hook))?;
                addrs.iter().try_for_each(|addr| write!(f, " {addr}"))?;
                writeln!(f, " .")
            }
        }
    }
}

/// The first line and the entries. A line that is not whole, and what comes after it, is left out:
/// the change it announces was never made. `None` if not even the first is whole.
pub(super) fn parse(text: &str) -> Option<(Header, Vec<Entry>)> {
    let mut lines = text.split_inclusive('\n').map_while(|line| line.strip_suffix('\n'));
    let mut words = lines.next()?.split_whitespace();
    if words.next()? != MAGIC || words.next()? != "boot" {
        return None;
    }
    let boot = words.next()?.to_owned();
    let netns = words.nth(1)?.parse().ok()?;
    Some((Header { boot, netns }, lines.map_while(entry).collect()))
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.strip_suffix(" .")?.split_whitespace();
    let kind = words.next()?;
    let (index, ifname) = (number(&mut words)?, unword(words.next()?)?);
    let entry = match kind {
        "up" => Entry::LinkUp { index, ifname },
        "mtu" => Entry::Mtu { index, ifname, was: number(&mut words)?, now: number(&mut words)? },
        "txqueuelen" => {
            let (was, now) = (number(&mut words)?, number(&mut words)?);
            Entry::TxQueueLen { index, ifname, was, now }
        }
        "feature" => {
            let name = words.next()?;
            let feature = FEATURES.iter().find(|(_, n)| *n == name)?.0;
            Entry::Feature { index, ifname, feature, on: number::<u8>(&mut words)? != 0 }
        }
        "address" => {
            let (addr, prefix_len) = (number(&mut words)?, number(&mut words)?);
            Entry::Address { index, ifname, addr, prefix_len }
        }
        "ignore" => {
            let priority = number(&mut words)?;
            let made_hook = number::<u8>(&mut words)? != 0;
            let addrs: Option<Vec<IpAddr>> = words.by_ref().map(|w| w.parse().ok()).collect();
            let ignored = Ignored { index, priority, addrs: addrs?, made_hook };
            Entry::Ignore { ifname, ignored }
        }
        _ => return None,
    };
    words.next().is_none().then_some(entry)
}

fn number<T: std::str::FromStr>(words: &mut SplitWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Entry> {
        let name = || "ve%th\u{a0}ä".to_owned();
        let addrs = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        vec![
            Entry::LinkUp { index: 7, ifname: name() },
            Entry::Mtu { index: 7, ifname: name(), was: 1500, now: 9000 },
            Entry::TxQueueLen { index: 7, ifname: name(), was: 500, now: 1000 },
            Entry::Feature { index: 7, ifname: name(), feature: Feature::Tso, on: true },
            Entry::Address { index: 7, ifname: name(), addr: addrs[1], prefix_len: 64 },
            Entry::Ignore {
                ifname: name(),
                ignored: Ignored { index: 7, priority: 3, addrs, made_hook: true },
            },
        ]
    }

    #[test]
    fn what_is_written_is_read_and_a_torn_end_is_left_out() {
        let header = Header { boot: "b-1".to_owned(), netns: 4_026_531_840 };
        let mut text = header.to_string();
        let mut ends = vec![text.len()];
        for entry in all() {
            text.push_str(&entry.to_string());
            ends.push(text.len());
        }
        assert_eq!(parse(&text), Some((header, all())));
        for cut in 0..text.len() {
            let Some(part) = text.get(..cut) else { continue };
            let whole = ends.iter().filter(|end| **end <= cut).count();
            match parse(part) {
                None => assert_eq!(whole, 0, "{cut}"),
                Some((_, entries)) => assert_eq!(entries[..], all()[..whole - 1], "{cut}"),
            }
        }
    }

    #[test]
    fn what_is_no_journal_is_none_and_nonsense_ends_it() {
        for text in ["", "\n", "hello\n", "linerate-journal-1\n", "linerate-journal-1 boot x\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        let begun = "linerate-journal-1 boot x netns 5\n";
        for line in
            ["up x y .\n", "up 5 %zz .\n", "up 5 a b .\n", "mtu 5 a 1500 .\n", "fly 5 a .\n"]
        {
            let (_, entries) = parse(&format!("{begun}up 1 a .\n{line}up 2 b .\n")).unwrap();
            assert_eq!(entries.len(), 1, "{line:?}");
        }
    }
}
