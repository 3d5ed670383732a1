//! Randomness that is handed in: a seeded generator, and keyed hashing for tables that peers fill.

use std::hash::{BuildHasher, Hasher};

/// xoshiro256**: fast, seeded, reproducible. Not for keys that outlive the process.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

impl Rng {
    /// A generator that is a function of `seed` alone.
    pub fn new(seed: u64) -> Rng {
        let mut x = seed;
        Rng(std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }
    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }
    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }
    /// A number below `n` (0 if `n` is 0), without noticeable bias for n far below 2^64.
    pub fn below(&mut self, n: u64) -> u64 {
        ((self.next_u64() as u128 * n as u128) >> 64) as u64
    }
    /// A fresh key for [`Keyed`].
    pub fn keyed(&mut self) -> Keyed {
        Keyed([self.next_u64() | 1, self.next_u64() | 1])
    }
}

/// A key of 128 random bits for hash tables whose keys come from the network: two keyed
/// multiplications a word, so that a peer who does not know the key can not aim at one bucket.
#[derive(Clone, Copy, Debug)]
pub struct Keyed([u64; 2]);

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = a as u128 * b as u128;
    wide as u64 ^ (wide >> 64) as u64
}

impl Keyed {
    /// Hashes two words: a whole IPv4 4-tuple.
    #[inline]
    pub fn hash2(&self, a: u64, b: u64) -> u32 {
        let h = fold(fold(a ^ self.0[0], 0x9fb2_1c65_1e98_df25 ^ self.0[1]) ^ b, self.0[1]);
        (h ^ (h >> 32)) as u32
    }
    /// Hashes five words: a whole IPv6 4-tuple.
    #[inline]
    pub fn hash5(&self, w: [u64; 5]) -> u32 {
        let a = fold(w[0] ^ self.0[0], w[1] ^ self.0[1]);
        let b = fold(w[2] ^ self.0[1].rotate_left(32), w[3] ^ self.0[0].rotate_left(17));
        self.hash2(a ^ b.rotate_left(29), w[4] ^ b)
    }
}

impl BuildHasher for Keyed {
    type Hasher = KeyedHasher;
    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { key: self.0, state: self.0[0] }
    }
}

/// The [`Hasher`] of [`Keyed`].
pub struct KeyedHasher {
    key: [u64; 2],
    state: u64,
}

impl Hasher for KeyedHasher {
    fn finish(&self) -> u64 {
        fold(self.state, self.key[1] ^ 0x9fb2_1c65_1e98_df25)
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
        self.write_u64(bytes.len() as u64);
    }
    fn write_u64(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.key[1]).wrapping_add(self.key[0]);
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word as u64);
    }
    fn write_u16(&mut self, word: u16) {
        self.write_u64(word as u64);
    }
    fn write_u8(&mut self, word: u8) {
        self.write_u64(word as u64);
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// A hash map whose order and buckets a peer can not predict.
pub type KeyedMap<K, V> = std::collections::HashMap<K, V, Keyed>;
