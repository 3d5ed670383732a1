//! The scalar sum: 64-bit loads into a 128-bit accumulator, which compiles to one add-with-carry
//! pair a word.

use super::fold64;

/// A sum of little-endian words made a sum of big-endian words: 2^16 is 1 modulo 65535, so that
/// swapping the bytes of the whole number multiplies it by 256, which is the swap of each word.
#[inline]
pub(super) const fn from_memory_order(sum: u64) -> u32 {
    fold64(sum).swap_bytes()
}

/// The sum of the data as little-endian 64-bit words, the last one filled with zeros, folded to 64
/// bits.
#[inline]
pub(super) fn sum_words(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut acc = 0u128;
    for word in words {
        acc += u128::from(u64::from_le_bytes(*word));
    }
    if !tail.is_empty() {
        acc += u128::from(match bytes.last_chunk::<8>() {
            // One load that reaches back over bytes already summed, which are shifted out.
            Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * tail.len()),
            None => short_word(tail),
        });
    }
    // A slice has at most 2^63 bytes, so the accumulator cannot overflow.
    fold128(acc)
}

/// Folds 128 bits to 64, keeping the value modulo 65535 (and nonzero if it was).
#[inline]
pub(super) const fn fold128(sum: u128) -> u64 {
    (sum.wrapping_add(sum.rotate_left(64)) >> 64) as u64
}

/// Up to 7 bytes as a little-endian word.
#[inline]
fn short_word(tail: &[u8]) -> u64 {
    let mut rest = tail;
    let mut word = 0u64;
    let mut shift = 0u32;
    if let Some((four, after)) = rest.split_first_chunk::<4>() {
        word = u64::from(u32::from_le_bytes(*four));
        shift = 32;
        rest = after;
    }
    if let Some((two, after)) = rest.split_first_chunk::<2>() {
        word |= u64::from(u16::from_le_bytes(*two)) << shift;
        shift += 16;
        rest = after;
    }
    if let [last] = rest {
        word |= u64::from(*last) << shift;
    }
    word
}
