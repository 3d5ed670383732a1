//! Histograms by powers of two.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// How many buckets there are: the last holds all that is 2³⁸ or more (in nanoseconds: 275 s).
pub const BUCKETS: usize = 40;

/// How many values there were of each bit length: bucket 0 holds zeros, bucket n those from 2ⁿ⁻¹ to
/// 2ⁿ - 1.
#[derive(Clone, PartialEq, Eq)]
pub struct Hist {
    /// How many, by bit length.
    pub buckets: [u64; BUCKETS],
    /// All values together.
    pub sum: u64,
    /// The largest value; of a difference at most so much ([`Hist::since`]).
    pub max: u64,
}

impl Default for Hist {
    fn default() -> Hist {
        Hist { buckets: [0; BUCKETS], sum: 0, max: 0 }
    }
}

/// The bucket of a value.
#[must_use]
pub fn bucket(value: u64) -> usize {
    ((u64::BITS - value.leading_zeros()) as usize).min(BUCKETS - 1)
}

/// The least and the largest value of a bucket.
#[must_use]
pub fn range(bucket: usize) -> (u64, u64) {
    match bucket {
        0 => (0, 0),
        n if n < BUCKETS - 1 => (1 << (n - 1), (1 << n) - 1),
        _ => (1 << (BUCKETS - 2), u64::MAX),
    }
}

impl Hist {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        let count = &mut self.buckets[bucket(value)];
        *count = count.saturating_add(1);
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Counts what another one counted.
    pub fn merge(&mut self, other: &Hist) {
        for (to, from) in self.buckets.iter_mut().zip(other.buckets) {
            *to = to.saturating_add(from);
        }
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// What came after `before`, if this is the same histogram later; all of it if that was of another
    /// run. The largest value is exact if it is larger than all before; otherwise it is the upper end
    /// of the highest bucket that grew.
    #[must_use]
    pub fn since(&self, before: &Hist) -> Hist {
        let mut later = self.clone();
        let pairs = later.buckets.iter_mut().zip(before.buckets);
        if self.sum < before.sum || self.buckets.iter().zip(before.buckets).any(|(n, b)| *n < b) {
            return later;
        }
        pairs.for_each(|(now, before)| *now -= before);
        later.sum -= before.sum;
        if self.max <= before.max {
            let highest = later.buckets.iter().rposition(|n| *n > 0);
            later.max = highest.map_or(0, |at| range(at).1.min(self.max));
        }
        later
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|n| *n == 0)
    }

    /// The mean; 0 if there are no values.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count().max(1) as f64
    }

    /// The value below or at which the share `q` (0 to 1) of all lies: of its bucket, as if the values
    /// in it were spread evenly; never above the largest. 0 if there are none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> u64 {
        let count = self.count();
        if count == 0 {
            return 0;
        }
        let wanted = (q.clamp(0.0, 1.0) * count as f64).max(1.0);
        let mut below = 0.0;
        for (at, n) in self.buckets.iter().enumerate() {
            let n = *n as f64;
            if n > 0.0 && below + n >= wanted {
                let (from, to) = range(at);
                let to = to.min(self.max.max(from));
                let part = (wanted - below) / n;
                return (from as f64 + part * (to - from) as f64) as u64;
            }
            below += n;
        }
        self.max
    }

    /// How many values lie in buckets that begin at `value` or above it.
    #[must_use]
    pub fn at_least(&self, value: u64) -> u64 {
        let above = self.buckets.iter().enumerate().filter(|(at, _)| range(*at).0 >= value);
        above.fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }
}

impl fmt::Debug for Hist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sum {} max {} of", self.sum, self.max)?;
        let mut used = self.buckets.iter().enumerate().filter(|(_, n)| **n > 0);
        used.try_for_each(|(at, n)| write!(f, " {at}:{n}"))
    }
}

impl Serialize for Hist {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let used = self.buckets.iter().enumerate().filter(|(_, n)| **n > 0);
        let used: Vec<(u64, u64)> = used.map(|(at, n)| (range(at).0, *n)).collect();
        let mut out = to.serialize_struct("Hist", 6)?;
        out.serialize_field("count", &self.count())?;
        out.serialize_field("sum", &self.sum)?;
        out.serialize_field("p50", &self.quantile(0.5))?;
        out.serialize_field("p99", &self.quantile(0.99))?;
        out.serialize_field("max", &self.max)?;
        // Each with the least value of its bucket.
        out.serialize_field("buckets", &used)?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[u64]) -> Hist {
        let mut hist = Hist::default();
        values.iter().for_each(|v| hist.add(*v));
        hist
    }

    #[test]
    fn a_value_lies_in_the_range_of_its_bucket() {
        let mut values: Vec<u64> =
            (0..64).flat_map(|n| [(1 << n) - 1, 1 << n, (1 << n) + 1]).collect();
        values.push(u64::MAX);
        for value in values {
            let (from, to) = range(bucket(value));
            assert!((from..=to).contains(&value), "{value}");
        }
        assert_eq!(range(BUCKETS - 1).0, range(BUCKETS - 2).1 + 1, "no value lies between two");
    }

    #[test]
    fn quantiles_lie_within_the_bucket_and_below_the_largest() {
        assert_eq!(of(&[]).quantile(0.5), 0);
        assert_eq!(of(&[0, 0, 0]).quantile(0.99), 0);
        let one = of(&[1000]);
        assert_eq!((one.quantile(0.0), one.quantile(1.0)), (one.quantile(0.5), 1000));
        let many = of(&[&[100; 98][..], &[5000, 9000]].concat());
        assert!((64..=127).contains(&many.quantile(0.5)), "{}", many.quantile(0.5));
        assert!((4096..=8191).contains(&many.quantile(0.99)), "{}", many.quantile(0.99));
        assert_eq!(many.quantile(1.0), 9000);
        assert!(of(&[u64::MAX]).quantile(0.5) >= 1 << 38);
    }

    #[test]
    fn a_difference_is_what_came_since() {
        let before = of(&[10, 2000]);
        let mut now = before.clone();
        now.add(700);
        let later = now.since(&before);
        assert_eq!((later.count(), later.sum), (1, 700));
        assert_eq!(later.max, 1023, "the largest of all is older: the end of its bucket");
        now.add(9000);
        assert_eq!(now.since(&before).max, 9000);
        assert!(now.since(&now).is_empty());
        assert_eq!(now.since(&now).max, 0);
        // One that was begun anew.
        assert_eq!(of(&[5]).since(&before), of(&[5]));
    }

    #[test]
    fn merged_histograms_count_both() {
        let mut sum = of(&[1, 2]);
        sum.merge(&of(&[300]));
        assert_eq!((sum.count(), sum.sum, sum.max), (3, 303, 300));
        sum.merge(&Hist { buckets: [u64::MAX; BUCKETS], sum: u64::MAX, max: 1 });
        assert_eq!((sum.count(), sum.sum), (u64::MAX, u64::MAX), "too much is the most there is");
    }

    #[test]
    fn what_is_at_least_a_value_is_counted_by_buckets() {
        let hist = of(&[3, 4, 1000, 1024, 5000]);
        assert_eq!(hist.at_least(1024), 2);
        assert_eq!(hist.at_least(0), 5);
        assert_eq!(hist.at_least(1 << 60), 0);
    }
}
