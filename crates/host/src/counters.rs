//! Named numbers of one origin.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

/// The numbers of one file, line or message, by the names that the kernel gives them.
///
/// Counters and gauges alike: what a name means is known to who asks for it. A name that is not there
/// was not offered by this kernel, which is not the same as zero.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Counters {
    source: Box<str>,
    bits: u8,
    // Sorted by name.
    values: Vec<(Box<str>, u64)>,
}

impl Counters {
    /// None yet, from `source`: a path and, where there are several, the line or the column; or a
    /// netlink message. They are 64 bits wide.
    #[must_use]
    pub fn new(source: impl Into<Box<str>>) -> Counters {
        Counters { source: source.into(), bits: 64, values: Vec::new() }
    }

    /// The same, but the kernel's are `bits` wide and begin anew after that (1 to 64).
    #[must_use]
    pub fn wrapping_at(mut self, bits: u8) -> Counters {
        assert!((1..=64).contains(&bits), "a counter has 1 to 64 bits");
        self.bits = bits;
        self
    }

    /// Where they come from, as evidence cites it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How wide the kernel's counters are, in bits.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Sets `name`; one that was there is replaced.
    pub fn set(&mut self, name: &str, value: u64) {
        match self.values.binary_search_by(|(n, _)| (**n).cmp(name)) {
            Ok(at) => self.values[at].1 = value,
            Err(at) => self.values.insert(at, (name.into(), value)),
        }
    }

    /// Adds to `name`, which begins at 0.
    pub fn add(&mut self, name: &str, value: u64) {
        let sum = self.get(name).unwrap_or(0).wrapping_add(value);
        self.set(name, sum);
    }

    /// The number, if this kernel offers it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        let at = self.values.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        Some(self.values[at].1)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.values.iter().map(|(name, value)| (&**name, *value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// By how much `name` grew since `before`; `None` if either has it not, or if it went back in a
    /// way that a wrap does not explain (a driver reloaded, a device of the same name): less than half
    /// of the range ahead is growth, more is a reset.
    #[must_use]
    pub fn grown(&self, before: &Counters, name: &str) -> Option<u64> {
        let (to, from) = (self.get(name)?, before.get(name)?);
        // One that was made without a width has the widest.
        let mask = if matches!(self.bits, 0 | 64) { u64::MAX } else { (1 << self.bits) - 1 };
        let by = to.wrapping_sub(from) & mask;
        (by <= mask / 2).then_some(by)
    }
}

impl<'a> Extend<(&'a str, u64)> for Counters {
    fn extend<I: IntoIterator<Item = (&'a str, u64)>>(&mut self, values: I) {
        values.into_iter().for_each(|(name, value)| self.set(name, value));
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.source)?;
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.values.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bits: u8, value: u64) -> Counters {
        let mut c = Counters::new("/proc/net/softnet_stat").wrapping_at(bits);
        c.set("dropped", value);
        c
    }

    #[test]
    fn growth_crosses_the_wrap_and_a_reset_is_not_growth() {
        assert_eq!(one(64, 7).grown(&one(64, 5), "dropped"), Some(2));
        assert_eq!(one(32, 3).grown(&one(32, u64::from(u32::MAX) - 1), "dropped"), Some(5));
        assert_eq!(one(64, 5).grown(&one(64, 7), "dropped"), None);
        assert_eq!(one(32, 5).grown(&one(32, 1_000_000), "dropped"), None);
        assert_eq!(one(64, 5).grown(&one(64, 5), "time_squeeze"), None);
    }

    #[test]
    fn names_replace_and_add() {
        let mut c = one(64, 1);
        c.set("dropped", 4);
        c.add("dropped", 2);
        c.add("processed", 9);
        assert_eq!(c.iter().collect::<Vec<_>>(), [("dropped", 6), ("processed", 9)]);
        assert_eq!(c.get("time_squeeze"), None);
    }
}
