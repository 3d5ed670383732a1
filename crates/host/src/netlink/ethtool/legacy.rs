//! What ioctls answer: the structures of include/uapi/linux/ethtool.h as they lie in memory.

use std::collections::BTreeMap;

use super::{group, names};
use crate::counters::Counters;
use crate::netlink::attr::{array, text, u32_at, u64_at};
use crate::snapshot::{Dev, Feature, Rss};

/// The name of requests begins so; the device is the last part of it.
pub(crate) const PREFIX: &str = "ioctl/ethtool/";

/// `ETH_GSTRING_LEN`.
const STRING_BYTES: usize = 32;
/// `struct ethtool_gstrings` without strings: command, set, count.
const STRINGS_AT: usize = 12;

/// The strings at the start, and what is behind them.
fn strings(bytes: &[u8]) -> Option<(Vec<String>, &[u8])> {
    let count = usize::try_from(u32_at(bytes, 8)?).ok()?;
    let len = count.checked_mul(STRING_BYTES)?;
    let behind = bytes.get(STRINGS_AT..)?;
    let (all, rest) = behind.split_at_checked(len)?;
    Some((all.chunks_exact(STRING_BYTES).map(text).collect(), rest))
}

/// Reads `ioctl/ethtool/stats/DEV`. What a driver names twice is counted together.
pub fn stats(bytes: &[u8], dev: &mut Dev) -> Option<()> {
    let (names, values) = strings(bytes)?;
    let mut counters = Counters::new(format!("{PREFIX}stats/{}", dev.name));
    // Command and count come before the values.
    for (name, value) in names.iter().zip(values.get(8..)?.chunks_exact(8)) {
        if let (false, Some(value)) = (name.is_empty(), u64_at(value, 0)) {
            counters.add(name, value);
        }
    }
    dev.driver_stats = counters;
    Some(())
}

/// Reads `ioctl/ethtool/drvinfo/DEV`.
pub fn drvinfo(bytes: &[u8], dev: &mut Dev) -> Option<()> {
    dev.driver = text(bytes.get(4..36)?);
    Some(())
}

/// The names of features by bit, from `ioctl/ethtool/features/DEV`.
pub(crate) fn feature_names(bytes: &[u8]) -> Vec<String> {
    strings(bytes).map_or_else(Vec::new, |(names, _)| names)
}

/// Reads `ioctl/ethtool/features/DEV`.
pub fn features(bytes: &[u8], dev: &mut Dev) -> Option<()> {
    let (names, blocks) = strings(bytes)?;
    const MAX: usize = super::FEATURES_MAX as usize;
    let (mut features, mut refused) = (BTreeMap::new(), BTreeMap::new());
    for (bit, name) in names.iter().enumerate().filter(|(_, n)| !n.is_empty()).take(MAX) {
        // Command and count; then for each 32: available, requested, active, never changed.
        let block = 8 + bit / 32 * 16;
        let has = |word: usize| Some(u32_at(blocks, block + word * 4)? & (1 << (bit % 32)) != 0);
        let (Some(can), Some(wanted)) = (has(0), has(1)) else { break };
        let (Some(on), Some(never)) = (has(2), has(3)) else { break };
        let fixed = !can || never;
        features.insert(name.clone(), Feature { on, fixed });
        if !fixed && wanted != on {
            refused.insert(name.clone(), wanted);
        }
    }
    group(&mut features);
    (dev.features, dev.refused) = (features, refused);
    Some(())
}

/// Reads `ioctl/ethtool/rxfh/DEV`.
pub fn rxfh(bytes: &[u8], dev: &mut Dev) -> Option<()> {
    let entries = usize::try_from(u32_at(bytes, 8)?).ok()?;
    let table = bytes.get(24..)?.get(..entries.checked_mul(4)?).filter(|t| !t.is_empty())?;
    let function = usize::from(*bytes.get(16)?);
    // One bit of the functions that there are.
    let hfunc = (function.is_power_of_two())
        .then(|| names::HASH_FUNCTIONS.get(function.trailing_zeros() as usize))
        .flatten();
    let rss = dev.rss.get_or_insert_with(Rss::default);
    rss.indir = table.chunks_exact(4).filter_map(|queue| u32_at(queue, 0)).collect();
    rss.hfunc = hfunc.copied().unwrap_or_default().into();
    Some(())
}

/// Reads `ioctl/ethtool/rxclass/DEV`: which fields are hashed, by type of flow.
pub fn rxclass(bytes: &[u8], dev: &mut Dev) -> Option<()> {
    let mut fields = BTreeMap::new();
    for one in bytes.chunks_exact(16) {
        let (flow, bits) = (u32_at(one, 4)?, u64_at(one, 8)?);
        if let Some((_, name)) = names::FLOWS.iter().find(|(number, _)| *number == flow) {
            fields.insert((*name).to_string(), letters(bits));
        }
    }
    if !fields.is_empty() {
        dev.rss.get_or_insert_with(Rss::default).fields = fields;
    }
    Some(())
}

/// Fields to hash as letters.
pub(crate) fn letters(bits: u64) -> String {
    names::HASH_FIELDS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, c)| *c).collect()
}

/// The opposite; `None` if a letter means nothing.
pub(crate) fn hash_bits(letters: &str) -> Option<u64> {
    letters.chars().try_fold(0, |bits, letter| {
        let (bit, _) = names::HASH_FIELDS.iter().find(|(_, c)| *c == letter)?;
        Some(bits | bit)
    })
}

/// Reads `ioctl/ethtool/{rings,channels,coalesce,pause}/DEV`.
pub fn numbers(what: &str, bytes: &[u8], dev: &mut Dev) -> Option<()> {
    let (names, to): (&[&str], &mut Counters) = match what {
        "rings" => (names::RINGS_IOCTL, &mut dev.rings),
        "channels" => (names::CHANNELS_IOCTL, &mut dev.channels),
        "coalesce" => (names::COALESCE_IOCTL, &mut dev.coalesce),
        "pause" => (names::PAUSE_IOCTL, &mut dev.pause),
        _ => return None,
    };
    *to = Counters::new(format!("{PREFIX}{what}/{}", dev.name));
    array(to, bytes.get(4..)?, 4, names);
    Some(())
}

/// Where the number of this name is in the structure, in bytes.
pub(crate) fn place(what: &str, name: &str) -> Option<usize> {
    let names: &[&str] = match what {
        "rings" => names::RINGS_IOCTL,
        "channels" => names::CHANNELS_IOCTL,
        "coalesce" => names::COALESCE_IOCTL,
        "pause" => names::PAUSE_IOCTL,
        _ => return None,
    };
    Some(4 + 4 * names.iter().position(|n| *n == name)?)
}
