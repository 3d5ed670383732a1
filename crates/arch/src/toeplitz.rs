//! The Toeplitz hash of receive-side scaling: what a network card computes over addresses and ports
//! to choose a queue.
//!
//! The hash is the exclusive-or of 32-bit windows of the key, one for each input bit that is set.
//! The scalar twin looks the windows up by four bits of input at a time. The other multiplies
//! without carries: with the key's bits in reverse order, the hash of 32 input bits lies in the
//! middle of one 64-bit product.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Length of the key in bytes.
pub const KEY_LEN: usize = 40;
/// The longest input: two IPv6 addresses and two ports, in bytes.
const INPUT_LEN_MAX: usize = 36;
const WORDS_MAX: usize = INPUT_LEN_MAX / 4;

/// The key of the RSS verification suite, the default of many cards. For steering on a host that
/// strangers can send to, choose a random key.
pub const VERIFICATION_KEY: [u8; KEY_LEN] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// A key, prepared for hashing. About 5 KiB: keep one per shard, not one per packet.
#[derive(Clone)]
pub struct Toeplitz {
    /// For each 32-bit word of input the 64 key bits it meets, in reverse order.
    windows: [u64; WORDS_MAX],
    /// For each four bits of input their contribution.
    nibbles: [[u32; 16]; INPUT_LEN_MAX * 2],
    /// Proof that the machine can multiply without carries, or none.
    clmul: Option<Clmul>,
}

impl std::fmt::Debug for Toeplitz {
    /// Without the key: who knows it can choose the queue.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").field("clmul", &self.clmul.is_some()).finish_non_exhaustive()
    }
}

impl Toeplitz {
    /// Prepares a key.
    #[must_use]
    pub fn new(key: &[u8; KEY_LEN]) -> Toeplitz {
        // The 64 bits of the key from bit `at` on, zeros behind its end; the first is the highest.
        let bits_from = |at: usize| {
            let mut window = 0u64;
            for bit in at..at + 64 {
                let set = key.get(bit / 8).is_some_and(|byte| byte >> (7 - bit % 8) & 1 == 1);
                window = window << 1 | u64::from(set);
            }
            window
        };
        let mut windows = [0; WORDS_MAX];
        for (word, window) in windows.iter_mut().enumerate() {
            *window = bits_from(word * 32).reverse_bits();
        }
        let mut nibbles = [[0; 16]; INPUT_LEN_MAX * 2];
        for (at, table) in nibbles.iter_mut().enumerate() {
            let window = bits_from(at * 4);
            for (value, entry) in table.iter_mut().enumerate() {
                for bit in (0..4).filter(|bit| value >> (3 - bit) & 1 == 1) {
                    *entry ^= (window << bit >> 32) as u32;
                }
            }
        }
        Toeplitz { windows, nibbles, clmul: Clmul::of_this_machine() }
    }

    /// The hash of an IPv4 flow: addresses and ports.
    #[inline]
    #[must_use]
    pub fn hash_v4(&self, src: Ipv4Addr, dst: Ipv4Addr, sport: u16, dport: u16) -> u32 {
        self.hash([src.to_bits(), dst.to_bits(), ports(sport, dport)])
    }

    /// The hash of the addresses of an IPv4 packet: for fragments and protocols without ports.
    #[inline]
    #[must_use]
    pub fn hash_v4_l3(&self, src: Ipv4Addr, dst: Ipv4Addr) -> u32 {
        self.hash([src.to_bits(), dst.to_bits()])
    }

    /// The hash of an IPv6 flow: addresses and ports.
    #[inline]
    #[must_use]
    pub fn hash_v6(&self, src: Ipv6Addr, dst: Ipv6Addr, sport: u16, dport: u16) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (words(src), words(dst));
        self.hash([a, b, c, d, e, f, g, h, ports(sport, dport)])
    }

    /// The hash of the addresses of an IPv6 packet: for fragments and protocols without ports.
    #[inline]
    #[must_use]
    pub fn hash_v6_l3(&self, src: Ipv6Addr, dst: Ipv6Addr) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (words(src), words(dst));
        self.hash([a, b, c, d, e, f, g, h])
    }

    #[inline]
    fn hash<const N: usize>(&self, input: [u32; N]) -> u32 {
        match self.clmul {
            Some(clmul) => clmul.hash(&self.windows, input),
            None => self.hash_by_table(input),
        }
    }

    /// The scalar twin: four bits of input at a time.
    #[inline]
    fn hash_by_table<const N: usize>(&self, input: [u32; N]) -> u32 {
        const { assert!(N <= WORDS_MAX, "the key covers 36 bytes of input") };
        let mut hash = 0;
        for (word, tables) in input.into_iter().zip(self.nibbles.as_chunks::<8>().0) {
            for (at, table) in tables.iter().enumerate() {
                hash ^= table[(word << (4 * at) >> 28) as usize];
            }
        }
        hash
    }
}

#[inline]
fn ports(sport: u16, dport: u16) -> u32 {
    u32::from(sport) << 16 | u32::from(dport)
}

/// An IPv6 address as four words, the highest first.
#[inline]
fn words(addr: Ipv6Addr) -> [u32; 4] {
    let bits = addr.to_bits();
    [(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32]
}

/// Proof that this machine has the carry-less multiplication: only detection makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Clmul(());

#[cfg(target_arch = "x86_64")]
impl Clmul {
    fn of_this_machine() -> Option<Clmul> {
        is_x86_feature_detected!("pclmulqdq").then_some(Clmul(()))
    }

    #[inline]
    fn hash<const N: usize>(self, windows: &[u64; WORDS_MAX], input: [u32; N]) -> u32 {
        // SAFETY: the value is proof that the machine has the instruction.
        unsafe { hash_by_clmul(windows, input) }
    }
}

/// Bit `j` of a word, counted from its highest, is at 31 - j; bit `m` of its window is at m. They
/// meet in hash bit i = m - j, which the product therefore has at 31 + i.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "pclmulqdq")]
fn hash_by_clmul<const N: usize>(windows: &[u64; WORDS_MAX], input: [u32; N]) -> u32 {
    use core::arch::x86_64::{
        _mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_setzero_si128,
        _mm_xor_si128,
    };
    const { assert!(N <= WORDS_MAX, "the key covers 36 bytes of input") };
    let mut sum = _mm_setzero_si128();
    for (word, window) in input.into_iter().zip(windows) {
        let word = _mm_cvtsi64_si128(i64::from(word));
        let product = _mm_clmulepi64_si128::<0>(word, _mm_cvtsi64_si128(*window as i64));
        sum = _mm_xor_si128(sum, product);
    }
    ((_mm_cvtsi128_si64(sum) as u64 >> 31) as u32).reverse_bits()
}

/// Elsewhere there is no such proof.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Clone, Copy)]
enum Clmul {}

#[cfg(not(target_arch = "x86_64"))]
impl Clmul {
    fn of_this_machine() -> Option<Clmul> {
        None
    }

    #[inline]
    fn hash<const N: usize>(self, _: &[u64; WORDS_MAX], _: [u32; N]) -> u32 {
        match self {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The hash as it is defined: bit after bit over the bytes on the wire.
    fn by_definition(key: &[u8; KEY_LEN], input: &[u8]) -> u32 {
        let mut hash = 0;
        for bit in (0..input.len() * 8).filter(|bit| input[bit / 8] >> (7 - bit % 8) & 1 == 1) {
            let window = |i: usize| u32::from(key[i / 8] >> (7 - i % 8) & 1);
            hash ^= (bit..bit + 32).fold(0, |acc, i| acc << 1 | window(i));
        }
        hash
    }

    proptest! {
        #[test]
        fn twins_agree_with_the_definition(key: [u8; 40], src: [u8; 16], dst: [u8; 16],
            sport: u16, dport: u16) {
            let hash = Toeplitz::new(&key);
            let scalar = Toeplitz { clmul: None, ..hash.clone() };
            let (s, d) = (sport.to_be_bytes(), dport.to_be_bytes());
            let expected = by_definition(&key, &[&src[..], &dst, &s, &d].concat());
            let expected_l3 = by_definition(&key, &[&src[..], &dst].concat());
            for hash in [&hash, &scalar] {
                let (src, dst) = (Ipv6Addr::from(src), Ipv6Addr::from(dst));
                prop_assert_eq!(hash.hash_v6(src, dst, sport, dport), expected);
                prop_assert_eq!(hash.hash_v6_l3(src, dst), expected_l3);
            }
            let src: [u8; 4] = src[..4].try_into().unwrap();
            let dst: [u8; 4] = dst[..4].try_into().unwrap();
            let expected = by_definition(&key, &[&src[..], &dst, &s, &d].concat());
            let expected_l3 = by_definition(&key, &[&src[..], &dst].concat());
            for hash in [&hash, &scalar] {
                let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
                prop_assert_eq!(hash.hash_v4(src, dst, sport, dport), expected);
                prop_assert_eq!(hash.hash_v4_l3(src, dst), expected_l3);
            }
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        let text = format!("{:?}", Toeplitz::new(&[0x6d; KEY_LEN]));
        assert!(text.starts_with("Toeplitz { clmul: ") && !text.contains("109"), "{text}");
    }
}
