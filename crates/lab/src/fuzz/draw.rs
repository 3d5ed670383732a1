//! Choices: from a seed, or from bytes that somebody else chooses.

use linerate_core::rand::Rng;

/// Where choices come from. Of bytes that are at their end each choice is 0.
#[derive(Clone, Debug)]
pub enum Draw<'a> {
    /// All are a function of the seed.
    Seed(Rng),
    /// The bytes that are left.
    Bytes(&'a [u8]),
}

impl<'a> Draw<'a> {
    /// Choices that are a function of `seed`.
    pub fn seed(seed: u64) -> Draw<'a> {
        Draw::Seed(Rng::new(seed))
    }
    /// Whether there is nothing left to choose by.
    pub fn is_spent(&self) -> bool {
        matches!(self, Draw::Bytes([]))
    }
    /// The next bytes, as a number.
    fn word(bytes: &mut &'a [u8], n: usize) -> u64 {
        let (now, rest) = bytes.split_at(n.min(bytes.len()));
        *bytes = rest;
        now.iter().fold(0, |word, b| word << 8 | u64::from(*b))
    }
    /// 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        match self {
            Draw::Seed(rng) => rng.next_u32(),
            Draw::Bytes(bytes) => Draw::word(bytes, 4) as u32,
        }
    }
    /// A number below `n`; 0 if `n` is 0. Small ones take one byte, so that a change of one byte changes
    /// one choice.
    pub fn below(&mut self, n: u64) -> u64 {
        match self {
            Draw::Seed(rng) => rng.below(n),
            Draw::Bytes(bytes) => {
                let size = match n {
                    0..=0x100 => 1,
                    0x101..=0x1_0000 => 2,
                    _ => 8,
                };
                Draw::word(bytes, size).checked_rem(n).unwrap_or(0)
            }
        }
    }
    /// So many bytes, or those that are left.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        match self {
            Draw::Seed(rng) => (0..n).map(|_| rng.next_u32() as u8).collect(),
            Draw::Bytes(bytes) => {
                let (now, rest) = bytes.split_at(n.min(bytes.len()));
                *bytes = rest;
                now.to_vec()
            }
        }
    }
}
