//! Family `ethtool` (since 5.6), and the same by ioctl.
//!
//! Linux: net/ethtool/, Documentation/networking/ethtool-netlink.rst

pub(crate) mod names;
pub(crate) mod legacy;

use std::collections::BTreeMap;

use super::attr::{
    Request, attrs, find, messages, named, number, number32, text_of, u32_at, u64_at, uint,
};
use crate::counters::Counters;
use crate::snapshot::{Dev, Feature, Snapshot};

/// The name of requests begins so.
pub(super) const PREFIX: &str = "netlink/ethtool/";

/// `struct genlmsghdr`.
const GENL: usize = 4;
/// The header of every request and answer: index, name, flags.
const HEADER: u16 = 1;
/// It has another number where statistics are asked for.
const STATS_HEADER: u16 = 2;
const HEADER_NAME: u16 = 2;
const HEADER_FLAGS: u16 = 3;
/// `ETHTOOL_FLAG_COMPACT_BITSETS`: features as bits, without their names each time.
const COMPACT: u32 = 1;
/// `ETHTOOL_FLAG_STATS`.
const WITH_STATS: u32 = 4;

/// There are some 70 features.
const FEATURES_MAX: u32 = 256;
/// `ETH_SS_FEATURES`.
pub(super) const SS_FEATURES: u32 = 4;

/// Requests and their commands.
const COMMANDS: [(&str, u8); 8] = [
    ("STRSET_GET", 1),
    ("FEATURES_GET", 11),
    ("RINGS_GET", 15),
    ("CHANNELS_GET", 17),
    ("COALESCE_GET", 19),
    ("PAUSE_GET", 21),
    ("FEC_GET", 29),
    ("STATS_GET", 32),
];

/// A request by its name, for all devices or for one.
pub(super) fn request(family: u16, name: &str, dev: Option<&str>) -> Option<Request> {
    let (_, command) = COMMANDS.iter().find(|(n, _)| *n == name)?;
    let flags = match name {
        "FEATURES_GET" => COMPACT,
        "PAUSE_GET" | "FEC_GET" => WITH_STATS,
        _ => 0,
    };
    // The names of features are one set for all devices.
    let is_dump = dev.is_none() && name != "STRSET_GET";
    let how = if is_dump { super::attr::DUMP } else { super::socket::ASK };
    let header = if name == "STATS_GET" { STATS_HEADER } else { HEADER };
    let request = Request::new(family, how, &[*command, 1, 0, 0]).nest(header, |h| {
        let h = dev.map_or(h.clone(), |dev| h.text(HEADER_NAME, dev));
        h.u32(HEADER_FLAGS, flags)
    });
    Some(match name {
        // Sets > set > id.
        "STRSET_GET" => request.nest(2, |sets| sets.nest(1, |set| set.u32(1, SS_FEATURES))),
        // Which groups, as a set of bits without a mask: phy, mac, ctrl, rmon.
        "STATS_GET" => {
            request.nest(3, |set| set.attr(1, &[]).u32(2, 4).attr(4, &0xfu32.to_ne_bytes()))
        }
        _ => request,
    })
}

/// Gives the device and the attributes of each message of an answer with this header.
fn each<'a>(
    bytes: &'a [u8],
    header: u16,
    into: &mut Snapshot,
    mut work: impl FnMut(&mut Dev, &'a [u8]),
) {
    for message in messages(bytes) {
        let Some(inside) = message.body.get(GENL..) else { continue };
        let name = find(inside, header).and_then(|h| text_of(h, HEADER_NAME));
        if let Some(dev) = name.and_then(|n| into.devs.get_mut(&n)) {
            work(dev, inside);
        }
    }
}

fn numbers(
    bytes: &[u8],
    into: &mut Snapshot,
    what: &str,
    names: &[&str],
    of: impl Fn(&mut Dev) -> &mut Counters,
) {
    each(bytes, HEADER, into, |dev, inside| {
        let mut counters = Counters::new(format!("{PREFIX}{what} {}", dev.name));
        named(&mut counters, inside, names);
        *of(dev) = counters;
    });
}

/// Reads `netlink/ethtool/RINGS_GET`.
pub fn rings(bytes: &[u8], into: &mut Snapshot) {
    numbers(bytes, into, "RINGS_GET", &names::RINGS, |d| &mut d.rings);
}

/// Reads `netlink/ethtool/CHANNELS_GET`.
pub fn channels(bytes: &[u8], into: &mut Snapshot) {
    numbers(bytes, into, "CHANNELS_GET", &names::CHANNELS, |d| &mut d.channels);
}

/// Reads `netlink/ethtool/COALESCE_GET`.
pub fn coalesce(bytes: &[u8], into: &mut Snapshot) {
    numbers(bytes, into, "COALESCE_GET", &names::COALESCE, |d| &mut d.coalesce);
}

/// Reads `netlink/ethtool/PAUSE_GET`, with the statistics of it.
pub fn pause(bytes: &[u8], into: &mut Snapshot) {
    const STATS: u16 = 5;
    numbers(bytes, into, "PAUSE_GET", &names::PAUSE, |d| &mut d.pause);
    each(bytes, HEADER, into, |dev, inside| {
        if let Some(stats) = find(inside, STATS) {
            named(std_stats(dev), stats, &names::PAUSE_STATS);
        }
    });
}

/// Reads the statistics in `netlink/ethtool/FEC_GET`.
pub fn fec(bytes: &[u8], into: &mut Snapshot) {
    const STATS: u16 = 5;
    each(bytes, HEADER, into, |dev, inside| {
        let Some(stats) = find(inside, STATS) else { return };
        for (kind, name) in names::FEC_STATS {
            if let Some(total) = find(stats, kind).and_then(|v| u64_at(v, 0)) {
                std_stats(dev).set(name, total);
            }
        }
    });
}

/// Reads `netlink/ethtool/STATS_GET`.
pub fn stats(bytes: &[u8], into: &mut Snapshot) {
    const GROUP: u16 = 4;
    const GROUP_ID: u16 = 2;
    const GROUP_STAT: u16 = 4;
    each(bytes, STATS_HEADER, into, |dev, inside| {
        for (_, group) in attrs(inside).filter(|(kind, _)| *kind == GROUP) {
            let id = number(group, GROUP_ID).and_then(|id| usize::try_from(id).ok());
            let Some(names) = id.and_then(|id| names::STATS.get(id)) else { continue };
            // Each number is alone in a nest of its own.
            for (_, stat) in attrs(group).filter(|(kind, _)| *kind == GROUP_STAT) {
                for (kind, value) in attrs(stat) {
                    if let (Some(name), Some(value)) = (names.get(usize::from(kind)), uint(value)) {
                        std_stats(dev).set(name, value);
                    }
                }
            }
        }
    });
}

fn std_stats(dev: &mut Dev) -> &mut Counters {
    if dev.std_stats.source().is_empty() {
        dev.std_stats = Counters::new(format!("{PREFIX}STATS_GET {}", dev.name));
    }
    &mut dev.std_stats
}

/// The names of features by bit, from `netlink/ethtool/STRSET_GET`.
pub(crate) fn feature_names(bytes: &[u8]) -> BTreeMap<u32, String> {
    const SETS: u16 = 2;
    const STRINGS: u16 = 3;
    messages(bytes)
        .filter_map(|m| find(m.body.get(GENL..)?, SETS))
        .flat_map(attrs)
        .filter(|(_, set)| number32(set, 1) == Some(SS_FEATURES))
        .filter_map(|(_, set)| find(set, STRINGS))
        .flat_map(attrs)
        .filter_map(|(_, string)| Some((number32(string, 1)?, text_of(string, 2)?)))
        .filter(|(bit, name)| *bit < FEATURES_MAX && !name.is_empty())
        .collect()
}

/// Reads `netlink/ethtool/FEATURES_GET`; `names` are those of the bits.
pub fn features(bytes: &[u8], names: &BTreeMap<u32, String>, into: &mut Snapshot) {
    const HW: u16 = 2;
    const WANTED: u16 = 3;
    const ACTIVE: u16 = 4;
    const NOCHANGE: u16 = 5;
    each(bytes, HEADER, into, |dev, inside| {
        let bits = |kind: u16| find(inside, kind).and_then(compact).unwrap_or_default();
        let (can, active, never) = (bits(HW), bits(ACTIVE), bits(NOCHANGE));
        let wanted = find(inside, WANTED).and_then(compact);
        let mut features = BTreeMap::new();
        dev.refused.clear();
        for (bit, name) in names {
            let fixed = !has(can, *bit) || has(never, *bit);
            let on = has(active, *bit);
            features.insert(name.clone(), Feature { on, fixed });
            if let (Some(wanted), false) = (wanted, fixed)
                && has(wanted, *bit) != on
            {
                dev.refused.insert(name.clone(), !on);
            }
        }
        group(&mut features);
        dev.features = features;
    });
}

/// Adds what `ethtool -k` calls groups of features: on if one is, fixed if all are.
fn group(features: &mut BTreeMap<String, Feature>) {
    for (long, _, members) in names::FEATURE_GROUPS {
        let of: Vec<Feature> =
            members.iter().filter_map(|name| features.get(*name)).copied().collect();
        if !of.is_empty() {
            let all = Feature { on: of.iter().any(|f| f.on), fixed: of.iter().all(|f| f.fixed) };
            features.insert(long.into(), all);
        }
    }
}

/// The bits of a set in its compact form; `None` if it is in the other.
fn compact(set: &[u8]) -> Option<&[u8]> {
    find(set, 4)
}

// Bits are in words of 32.
fn has(bits: &[u8], bit: u32) -> bool {
    u32_at(bits, (bit / 32) as usize * 4).is_some_and(|word| word & (1 << (bit % 32)) != 0)
}
