//! How long packets took.

/// Parts of each power of two.
const PARTS: usize = 16;

/// Times in nanoseconds, as a histogram: each is known to a sixteenth of itself.
#[derive(Clone, Debug)]
pub struct Latency {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: vec![0; 64 * PARTS], count: 0, max: 0 }
    }
}

impl Latency {
    /// Adds one.
    pub fn note(&mut self, ns: u64) {
        self.buckets[Latency::bucket(ns)] += 1;
        self.count += 1;
        self.max = self.max.max(ns);
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Latency) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(a, b)| *a += b);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The time that a share `p`, 0 to 1, of them did not exceed, to a sixteenth of itself.
    #[must_use]
    pub fn percentile(&self, p: f64) -> u64 {
        let rank = (p * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return Latency::upper(at).min(self.max);
            }
        }
        self.max
    }

    fn bucket(ns: u64) -> usize {
        if ns < PARTS as u64 {
            return ns as usize;
        }
        let log = ns.ilog2() as usize;
        let part = (ns >> (log - 4)) as usize - PARTS;
        (log - 3) * PARTS + part
    }

    /// The largest time of a bucket.
    fn upper(at: usize) -> u64 {
        if at < PARTS {
            return at as u64;
        }
        let (log, part) = (at / PARTS + 3, at % PARTS);
        let step = 1u64 << (log - 4);
        ((PARTS + part) as u64) * step + step - 1
    }
}

#[cfg(test)]
mod tests {
    use super::Latency;

    #[test]
    fn times_are_known_to_a_sixteenth() {
        for ns in (0..63).flat_map(|b| [(1u64 << b) - 1, 1 << b, (1 << b) + (1 << b) / 3]) {
            let upper = Latency::upper(Latency::bucket(ns));
            assert!(upper >= ns && upper - ns <= ns / 16, "{ns}: {upper}");
        }
        let mut latency = Latency::default();
        (1..=1000).for_each(|ns| latency.note(ns));
        assert_eq!((latency.count(), latency.max()), (1000, 1000));
        let half = latency.percentile(0.5);
        assert!((500..=532).contains(&half), "{half}");
        assert_eq!(latency.percentile(1.0), 1000);
    }
}
