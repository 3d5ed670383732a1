//! `ethtool -X DEV equal N | weight W0 W1 ... | default`: the table that spreads flows over queues.

use super::ethtool::Pairs;
use super::{invalid, unsupported};
use crate::netlink::ethtool::legacy;
use crate::netlink::socket::Refused;
use crate::snapshot::Dev;
use crate::sys::Ethtool;

/// More weights than any device has queues.
const WEIGHTS_MAX: usize = 4096;

/// What is asked for.
enum Table {
    /// The driver's own.
    Default,
    /// Over the first so many queues, one after the other.
    Equal(u32),
    /// In proportion, runs of places one behind the other.
    Weight(Vec<u32>),
    /// Queue by place: what was there and is put back.
    Whole(Vec<u32>),
}

impl Table {
    /// `equal N`, `weight W0 W1 ...` and `default`. As [`get`] gives it, each may have the whole table as
    /// its value, `0,1,1,...`, and a default the number of queues over which it is equal.
    fn of(set: &Pairs) -> Result<Table, Refused> {
        let wrong =
            || invalid("ethtool -X is set here by `equal N`, `weight W0 W1 ...` or `default`");
        let [(name, value)] = set else { return Err(wrong()) };
        let numbers = |words: &mut dyn Iterator<Item = &str>| -> Result<Vec<u32>, Refused> {
            let all: Result<Vec<u32>, _> =
                words.take(WEIGHTS_MAX).map(|w| w.trim().parse::<u32>()).collect();
            all.map_err(|_| invalid(format!("{value:?} is not made of numbers")))
        };
        if value.contains(',') && ["default", "equal", "weight"].contains(&name.as_str()) {
            return Ok(Table::Whole(numbers(&mut value.split(','))?));
        }
        match (name.as_str(), value.trim()) {
            ("default", "") => Ok(Table::Default),
            ("default" | "equal", queues) => match queues.parse() {
                Ok(queues) => Ok(Table::Equal(queues)),
                Err(_) => Err(invalid("equal for how many queues?")),
            },
            ("weight", _) => {
                let weights = numbers(&mut value.split_whitespace())?;
                if weights.iter().all(|w| *w == 0) {
                    return Err(invalid("a weight for each queue, not all of them 0"));
                }
                Ok(Table::Weight(weights))
            }
            _ => Err(wrong()),
        }
    }

    /// Queue by place, for a table of `len` places; empty: the driver's own.
    fn places(&self, len: usize) -> Vec<u32> {
        match self {
            Table::Default => Vec::new(),
            Table::Equal(queues) => equal(len, *queues).collect(),
            Table::Weight(weights) => weighted(len, weights),
            Table::Whole(places) => places.clone(),
        }
    }
}

fn equal(len: usize, queues: u32) -> impl Iterator<Item = u32> {
    (0..queues.max(1)).cycle().take(len)
}

/// The queue of a place is the first whose share, and those before it, reach beyond the place.
fn weighted(len: usize, weights: &[u32]) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let share = |place: usize| {
        let mut before = 0;
        weights.iter().position(|w| {
            before += u64::from(*w);
            (place as u64) < len as u64 * before / sum.max(1)
        })
    };
    let last = weights.len().saturating_sub(1);
    (0..len).map(|place| u32::try_from(share(place).unwrap_or(last)).unwrap_or(0)).collect()
}

fn table(ioctl: &Ethtool, dev: &str) -> Result<Vec<u32>, Refused> {
    let mut of = Dev::default();
    let _ = legacy::rxfh(&ioctl.rxfh(dev)?, &mut of);
    of.rss
        .map(|rss| rss.indir)
        .filter(|t| !t.is_empty())
        .ok_or_else(|| unsupported(format!("{dev} has no table that spreads flows")))
}

pub(super) fn set(dev: &str, set: &Pairs) -> Result<(), Refused> {
    let wanted = Table::of(set)?;
    let ioctl = Ethtool::open()?;
    // A device without a table says so here, whatever is asked for.
    let len = table(&ioctl, dev)?.len();
    let places = wanted.places(len);
    if !places.is_empty() && places.len() != len {
        return Err(invalid(format!("{dev} has a table of {len} places, not {}", places.len())));
    }
    Ok(ioctl.set_rxfh(dev, &places)?)
}

pub(super) fn get(dev: &str, set: &mut Pairs) -> Result<(), Refused> {
    let like = Table::of(set)?;
    let now = table(&Ethtool::open()?, dev)?;
    let [(_, value)] = set else { return Ok(()) };
    if let Some(words) = described(&like, &now) {
        *value = words;
    }
    Ok(())
}

/// The value that has this table; `None` if the one there is has it.
fn described(like: &Table, now: &[u32]) -> Option<String> {
    let queues = now.iter().max().copied().unwrap_or(0).saturating_add(1);
    let is_equal = equal(now.len(), queues).eq(now.iter().copied());
    match like {
        Table::Weight(_) | Table::Whole(_) if like.places(now.len()) == now => None,
        Table::Default | Table::Equal(_) if is_equal => Some(queues.to_string()),
        _ => Some(now.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Table {
        Table::of(&[(name.into(), value.into())]).ok().unwrap()
    }

    #[test]
    fn places_are_shared_out() {
        assert_eq!(of("equal", "2").places(5), [0, 1, 0, 1, 0]);
        assert_eq!(of("weight", "3 1").places(8), [0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(of("weight", "0 1 0 1").places(4), [1, 1, 3, 3]);
        assert_eq!(of("weight", "6 5 4").places(4), [0, 1, 2, 2], "rounded down, the rest is last");
        assert_eq!(of("weight", "4294967295 4294967295").places(2), [0, 1]);
        assert!(of("default", "").places(4).is_empty());
        assert_eq!(of("weight", "1,1,0,0").places(4), [1, 1, 0, 0]);
    }

    #[test]
    fn a_table_is_described_as_it_was_asked_for_or_as_a_whole() {
        let weight = of("weight", "3 1");
        assert_eq!(described(&weight, &[0, 0, 0, 1]), None);
        assert_eq!(described(&weight, &[0, 1, 0, 1]).as_deref(), Some("0,1,0,1"));
        assert_eq!(described(&of("equal", "4"), &[0, 1, 0, 1]).as_deref(), Some("2"));
        assert_eq!(described(&of("default", ""), &[0, 1, 1, 1]).as_deref(), Some("0,1,1,1"));
        // What is described so is the table that it was described from.
        let whole = of("weight", "0,1,0,1");
        assert_eq!(described(&whole, &whole.places(4)), None);
    }
}
