//! Memory that several shards read and write at once: 64-bit words, each an atomic.
//!
//! A value of up to eight bytes inside one word is read and written whole. One that crosses words,
//! and a copy of many bytes, may be seen half old and half new, as in the kernel.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Words in little-endian order of their bytes, whatever the machine's.
#[derive(Debug)]
pub(crate) struct Words {
    words: Box<[AtomicU64]>,
    /// One shard alone writes any given word: a part of a word needs no atomic exchange.
    alone: bool,
}

const fn mask(size: usize) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (size * 8)) - 1 }
}

impl Words {
    pub fn new(words: usize, alone: bool) -> Words {
        Words { words: (0..words).map(|_| AtomicU64::new(0)).collect(), alone }
    }

    pub fn word(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |w| w.load(Relaxed))
    }

    pub fn set_word(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(at) {
            word.store(value, Relaxed);
        }
    }

    /// Reads `size` bytes, at most eight, from byte `at` on.
    #[inline]
    pub fn load(&self, at: usize, size: usize) -> Option<u64> {
        let (word, byte) = (at >> 3, at & 7);
        let low = self.words.get(word)?.load(Relaxed) >> (byte * 8);
        if byte + size <= 8 {
            return Some(low & mask(size));
        }
        let high = self.words.get(word + 1)?.load(Relaxed) << ((8 - byte) * 8);
        Some((low | high) & mask(size))
    }

    /// Writes the `size` low bytes of `value`, at most eight, from byte `at` on.
    #[inline]
    pub fn store(&self, at: usize, size: usize, value: u64) -> Option<()> {
        let (word, byte) = (at >> 3, at & 7);
        let low = self.words.get(word)?;
        if size == 8 && byte == 0 {
            low.store(value, Relaxed);
            return Some(());
        }
        let (bits, value) = (mask(size), value & mask(size));
        if byte + size <= 8 {
            self.merge(low, bits << (byte * 8), value << (byte * 8));
            return Some(());
        }
        let high = self.words.get(word + 1)?;
        self.merge(low, bits << (byte * 8), value << (byte * 8));
        self.merge(high, bits >> ((8 - byte) * 8), value >> ((8 - byte) * 8));
        Some(())
    }

    #[inline]
    fn merge(&self, word: &AtomicU64, mask: u64, value: u64) {
        let mut old = word.load(Relaxed);
        if self.alone {
            return word.store(old & !mask | value, Relaxed);
        }
        while let Err(now) = word.compare_exchange_weak(old, old & !mask | value, Relaxed, Relaxed)
        {
            old = now;
        }
    }

    /// Replaces the 4 or 8 aligned bytes at `at` by what `f` makes of them, at once; what they were.
    #[inline]
    pub fn update(&self, at: usize, size: usize, f: impl Fn(u64) -> u64) -> Option<u64> {
        let word = self.words.get(at >> 3)?;
        let shift = (at & 7) * 8;
        let bits = mask(size) << shift;
        let apply = |w: u64| w & !bits | (f((w & bits) >> shift) << shift) & bits;
        let mut old = word.load(Relaxed);
        if self.alone {
            word.store(apply(old), Relaxed);
            return Some((old & bits) >> shift);
        }
        loop {
            match word.compare_exchange_weak(
                old,
                apply(old),
                std::sync::atomic::Ordering::SeqCst,
                Relaxed,
            ) {
                Ok(_) => return Some((old & bits) >> shift),
                Err(now) => old = now,
            }
        }
    }

    /// Copies bytes out; nothing where there is no memory.
    pub fn read(&self, at: usize, out: &mut [u8]) {
        for (i, part) in out.chunks_mut(8).enumerate() {
            let bytes = self.load(at + i * 8, part.len()).unwrap_or(0).to_le_bytes();
            part.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
    }

    /// Copies bytes in; nothing where there is no memory.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        for (i, part) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            self.store(at + i * 8, part.len(), u64::from_le_bytes(word));
        }
    }

    /// Makes `words` words from `at` on zero.
    pub fn clear(&self, at: usize, words: usize) {
        (at..at + words).for_each(|w| self.set_word(w, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: any size at any offset is what an array of bytes would hold, with and without others.
    #[test]
    fn is_memory_of_bytes() {
        for alone in [false, true] {
            let words = Words::new(4, alone);
            let mut model = [0u8; 32];
            let mut seed = 7u64;
            for _ in 0..5000 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let size = 1usize << ((seed >> 33) % 4);
                let at = ((seed >> 40) as usize) % (33 - size);
                assert_eq!(words.store(at, size, seed), Some(()));
                model[at..at + size].copy_from_slice(&seed.to_le_bytes()[..size]);
                let mut out = [0; 32];
                words.read(0, &mut out);
                assert_eq!(out, model);
                let mut want = [0; 8];
                want[..size].copy_from_slice(&model[at..at + size]);
                assert_eq!(words.load(at, size), Some(u64::from_le_bytes(want)));
            }
            words.write(3, &[9; 13]);
            model[3..16].fill(9);
            let mut out = [0; 32];
            words.read(0, &mut out);
            assert_eq!(out, model);
        }
        assert_eq!(Words::new(1, true).load(1, 8), None);
        assert_eq!(Words::new(1, true).store(8, 1, 0), None);
    }

    #[test]
    fn what_all_add_up_is_the_sum() {
        let words = Words::new(1, false);
        std::thread::scope(|s| {
            for at in [0, 4] {
                for _ in 0..2 {
                    let words = &words;
                    s.spawn(move || (0..10_000).for_each(|_| assert!(add(words, at).is_some())));
                }
            }
        });
        assert_eq!((words.load(0, 4), words.load(4, 4)), (Some(20_000), Some(20_000)));
        fn add(words: &Words, at: usize) -> Option<u64> {
            words.update(at, 4, |v| v + 1)
        }
    }
}
