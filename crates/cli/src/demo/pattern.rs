//! The bytes of the demo's streams: each position has one right value, so that loss, repetition,
//! reordering and damage all show.

/// Bytes after which the pattern repeats: a prime, so that no buffer, segment or page size divides
/// it, and a shift by any of them shows.
const PERIOD: usize = 1_048_573;

/// One period of the pattern.
pub struct Pattern(Box<[u8]>);

impl Pattern {
    /// Makes it: the same everywhere.
    pub fn new() -> Pattern {
        // Weyl sequence through a finaliser (splitmix64): looks random, needs no state to check.
        let word = |n: u64| {
            let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z ^ (z >> 31)).to_le_bytes()
        };
        Pattern((1..).flat_map(word).take(PERIOD).collect())
    }

    /// The bytes at stream position `pos`: at least one, at most `max`, as many as lie together.
    pub fn at(&self, pos: u64, max: usize) -> &[u8] {
        let from = (pos % PERIOD as u64) as usize;
        let len = max.clamp(1, PERIOD - from);
        &self.0[from..from + len]
    }

    /// Whether `bytes` are those of stream position `pos`.
    pub fn holds(&self, mut pos: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let want = self.at(pos, bytes.len());
            let (have, rest) = bytes.split_at(want.len());
            if have != want {
                return false;
            }
            pos += want.len() as u64;
            bytes = rest;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_shift_or_damage_shows() {
        let pattern = Pattern::new();
        let mut bytes = Vec::new();
        // Across the end of a period.
        let from = PERIOD as u64 - 1000;
        while bytes.len() < 4000 {
            bytes.extend_from_slice(pattern.at(from + bytes.len() as u64, 4000 - bytes.len()));
        }
        assert!(pattern.holds(from, &bytes));
        for shift in [1, 2, 8, 1448, 4096, 65536] {
            assert!(!pattern.holds(from + shift, &bytes), "{shift}");
        }
        bytes[3999] ^= 1;
        assert!(!pattern.holds(from, &bytes));
        assert!(pattern.holds(from, &[]));
    }
}
