//! `/proc/net/packet`: packet sockets, which see each packet before the stack does; `/proc/net/ptype`:
//! all that do.
//!
//! Linux: net/packet/af_packet.c `packet_seq_show`; net/core/net-procfs.c `ptype_seq_show`

use std::collections::BTreeMap;

use super::{lines, shown};
use crate::snapshot::{Handler, Owner, Snapshot, Tap};

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

/// Fills [`crate::snapshot::Sockets::handlers`].
pub fn ptype(bytes: &[u8], into: &mut Snapshot) {
    const WHAT: &str = "/proc/net/ptype";
    let rows: Vec<_> = lines(bytes, WHAT, into).skip(1).take(TAPS_MAX).collect();
    let mut handlers = Vec::new();
    for (n, line) in rows {
        let words: Vec<&str> = line.split_whitespace().collect();
        // The device is not there for all of them; what follows a name of a function is its module.
        let split = match words.as_slice() {
            [kind, function] => Some((*kind, None, *function)),
            [kind, function, module] if module.starts_with('[') => Some((*kind, None, *function)),
            [kind, dev, function, ..] => Some((*kind, Some((*dev).to_owned()), *function)),
            _ => None,
        };
        let protocol = |kind: &str| match kind {
            "ALL" => Some(3),
            kind => u16::from_str_radix(kind, 16).ok(),
        };
        let handler = split.and_then(|(kind, dev, function)| {
            Some(Handler { protocol: protocol(kind)?, dev, function: function.to_owned() })
        });
        match handler {
            Some(handler) => handlers.push(handler),
            None => into.note(WHAT, format!("line {n} is no handler: {}", shown(line))),
        }
    }
    into.sockets.handlers = handlers;
}
