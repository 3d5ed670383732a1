//! The Internet checksum (RFC 1071): ones-complement sum of big-endian 16-bit words.
//!
//! # The form of a running sum
//!
//! A running sum is a `u32` that is congruent, modulo 65535, to the sum of the data's 16-bit words
//! *read as big-endian integers*. It is therefore the same number on every machine, and header
//! fields may be added to it as plain integers (`csum_add(sum, u32::from(port))`). A sum is zero
//! only if everything that was summed is zero. [`csum_fold`] turns it into the 16-bit field value,
//! to be written with `to_be_bytes`.
//!
//! This differs from the kernel's `__wsum`, which holds words in memory order; the functions
//! otherwise bear the kernel's names and meaning. Data of odd length counts as if a zero byte
//! followed it, so that a piece which starts at an odd offset of the whole must be joined with
//! [`csum_block_add`].

mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::net::{Ipv4Addr, Ipv6Addr};

/// Data shorter than this many bytes is summed in line, without vectors: a header costs less than
/// the dispatch.
const VECTOR_BYTES_MIN: usize = 256;

/// Adds the data's words to a running sum. Linux: `csum_partial`.
#[inline]
#[must_use]
pub fn csum_partial(bytes: &[u8], sum: u32) -> u32 {
    if bytes.len() < VECTOR_BYTES_MIN {
        return twin::csum_partial(bytes, sum);
    }
    csum_add(scalar::from_memory_order(sum_long(bytes)), sum)
}

/// The sum of long data with the widest instructions there are.
#[cfg(target_arch = "x86_64")]
fn sum_long(bytes: &[u8]) -> u64 {
    x86::sum_words(bytes, x86::Level::of_this_machine())
}

#[cfg(not(target_arch = "x86_64"))]
fn sum_long(bytes: &[u8]) -> u64 {
    scalar::sum_words(bytes)
}

/// The scalar twin of what is dispatched: the same result in portable code, and the oracle of the
/// tests.
pub mod twin {
    use super::{csum_add, scalar};

    /// Adds the data's words to a running sum; see [`csum_partial`](super::csum_partial).
    #[inline]
    #[must_use]
    pub fn csum_partial(bytes: &[u8], sum: u32) -> u32 {
        csum_add(scalar::from_memory_order(scalar::sum_words(bytes)), sum)
    }
}

/// Folds a running sum to the checksum field's value (complemented). Linux: `csum_fold`.
///
/// Data that includes a correct checksum field folds to 0.
#[inline]
#[must_use]
pub const fn csum_fold(sum: u32) -> u16 {
    // Adding the two halves in the upper half leaves the end-around carry in the sum itself.
    let folded = sum.wrapping_add(sum.rotate_left(16));
    !((folded >> 16) as u16)
}

/// Adds two running sums. Linux: `csum_add`.
#[inline]
#[must_use]
pub const fn csum_add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    // After a carry the sum is at most 2^32 - 2, so this cannot wrap.
    sum + carry as u32
}

/// Takes one running sum out of another. Linux: `csum_sub`.
#[inline]
#[must_use]
pub const fn csum_sub(a: u32, b: u32) -> u32 {
    csum_add(a, !b)
}

/// Adds the sum of a block that begins at `offset` of the whole: at an odd offset its bytes fall
/// into the other halves of the words. Linux: `csum_block_add`.
#[inline]
#[must_use]
pub const fn csum_block_add(sum: u32, sum2: u32, offset: usize) -> u32 {
    csum_add(sum, csum_shift(sum2, offset))
}

/// Takes out the sum of a block that began at `offset` of the whole. Linux: `csum_block_sub`.
#[inline]
#[must_use]
pub const fn csum_block_sub(sum: u32, sum2: u32, offset: usize) -> u32 {
    csum_sub(sum, csum_shift(sum2, offset))
}

/// A sum as seen from `offset` bytes before its data. Linux: `csum_shift`.
#[inline]
#[must_use]
pub const fn csum_shift(sum: u32, offset: usize) -> u32 {
    // 2^16 is 1 modulo 65535, so rotating by 8 bits is the multiplication by 256 that swaps the
    // bytes of each word.
    if offset & 1 == 1 { sum.rotate_right(8) } else { sum }
}

/// Copies `src` to the front of `dst` and adds its words to the running sum. Linux:
/// `csum_partial_copy_nocheck`.
///
/// # Panics
///
/// If `dst` is shorter than `src`: the caller owns both sizes.
#[inline]
#[must_use]
pub fn copy_and_csum(src: &[u8], dst: &mut [u8], sum: u32) -> u32 {
    let dst = dst.get_mut(..src.len()).expect("the destination must hold the whole source");
    // A copy and a sum while the data is in the cache: one pass with vectors was not faster.
    dst.copy_from_slice(src);
    csum_partial(src, sum)
}

/// The running sum of the IPv4 pseudo-header (RFC 768, RFC 9293 §3.1); `len` is the length of
/// transport header and data in bytes. Linux: `csum_tcpudp_nofold`.
#[inline]
#[must_use]
pub const fn csum_tcpudp_nofold(src: Ipv4Addr, dst: Ipv4Addr, len: u32, proto: u8) -> u32 {
    // Four numbers below 2^32: their sum needs 34 bits.
    fold64(src.to_bits() as u64 + dst.to_bits() as u64 + len as u64 + proto as u64)
}

/// The running sum of the IPv6 pseudo-header (RFC 8200 §8.1); `len` is the upper-layer length in
/// bytes, `proto` the upper-layer protocol. Linux: `csum_ipv6_magic`, before its fold.
#[inline]
#[must_use]
pub const fn csum_ipv6_nofold(src: Ipv6Addr, dst: Ipv6Addr, len: u32, proto: u8) -> u32 {
    let (s, d) = (src.to_bits(), dst.to_bits());
    let mut sum = len as u64 + proto as u64;
    sum += (s >> 96) as u64 + (s >> 64) as u32 as u64 + (s >> 32) as u32 as u64 + s as u32 as u64;
    sum += (d >> 96) as u64 + (d >> 64) as u32 as u64 + (d >> 32) as u32 as u64 + d as u32 as u64;
    fold64(sum)
}

/// The new checksum field after a 16-bit word it covers changed (RFC 1624, equation 3). Linux:
/// `csum_replace2`.
#[inline]
#[must_use]
pub const fn csum_replace2(csum: u16, from: u16, to: u16) -> u16 {
    csum_fold(!csum as u32 + !from as u32 + to as u32)
}

/// The new checksum field after an aligned 32-bit word it covers changed (RFC 1624). Linux:
/// `csum_replace4`.
#[inline]
#[must_use]
pub const fn csum_replace4(csum: u16, from: u32, to: u32) -> u16 {
    csum_fold(csum_add(csum_sub(!csum as u32, from), to))
}

/// Folds 64 bits to 32, keeping the value modulo 65535 (and nonzero if it was).
#[inline]
const fn fold64(sum: u64) -> u32 {
    (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32
}

#[cfg(test)]
mod tests;
