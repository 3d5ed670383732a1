//! `/proc/net/packet`: packet sockets, which see each packet before the stack does.
//!
//! Linux: net/packet/af_packet.c `packet_seq_show`

use std::collections::BTreeMap;

use super::{lines, shown};
use crate::snapshot::{Owner, Snapshot, Tap};

const WHAT: &str = "/proc/net/packet";

/// Sockets that are kept.
const TAPS_MAX: usize = 1024;

/// Fills [`crate::snapshot::Sockets::taps`]. Drops are not in this file.
pub fn packet(bytes: &[u8], into: &mut Snapshot) {
    let mut rows = lines(bytes, WHAT, into);
    let names: Vec<&str> = rows.next().map_or("", |(_, l)| l).split_whitespace().collect();
    let column = |name: &str| names.iter().position(|n| n.eq_ignore_ascii_case(name));
    let columns = (column("Proto"), column("Iface"), column("User"), column("Inode"));
    let (Some(proto), Some(iface), Some(user), Some(inode)) = columns else {
        if !bytes.is_empty() {
            into.note(WHAT, "its first line does not name the columns");
        }
        return;
    };
    let devs: BTreeMap<u32, &String> = into.devs.iter().map(|(n, d)| (d.ifindex, n)).collect();
    let mut taps = Vec::new();
    let mut bad = Vec::new();
    for (n, line) in rows.take(TAPS_MAX) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let read = || {
            let word = |at: usize| words.get(at).copied();
            let protocol = u16::from_str_radix(word(proto)?, 16).ok()?;
            let owner = Owner {
                inode: word(inode)?.parse().ok()?,
                uid: word(user)?.parse().ok()?,
                process: None,
            };
            let dev = match word(iface)?.parse().ok()? {
                0 => None,
                index => {
                    Some(devs.get(&index).map_or_else(|| format!("if{index}"), |n| (*n).clone()))
                }
            };
            Some(Tap { dev, protocol, drops: None, owner })
        };
        match read() {
            Some(tap) => taps.push(tap),
            None => bad.push(format!("line {n} is not a socket: {}", shown(line))),
        }
    }
    into.sockets.taps = taps;
    bad.into_iter().for_each(|why| into.note(WHAT, why));
}
