//! The definition of RFC 1071 in five lines is the oracle of the scalar, the scalar that of the
//! vectors.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// The ones-complement sum as RFC 1071 §1 defines it, word by word.
fn by_definition(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Data in which carries are frequent, too.
fn data(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![2 => any::<u8>(), 1 => Just(0xffu8), 1 => Just(0u8)];
    vec(byte, 0..max)
}

/// Every way there is to sum long data gives the scalar's sum.
#[cfg(target_arch = "x86_64")]
fn vectors_agree(bytes: &[u8]) {
    let expected = scalar::from_memory_order(scalar::sum_words(bytes));
    for level in x86::Level::all_of_this_machine() {
        let sum = scalar::from_memory_order(x86::sum_words(bytes, level));
        assert_eq!(csum_fold(sum), csum_fold(expected), "{level:?}, {} bytes", bytes.len());
        assert_eq!(sum == 0, expected == 0, "{level:?}: zero is kept apart from all ones");
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors_agree(_: &[u8]) {}

proptest! {
    #[test]
    fn scalar_is_the_definition(bytes in data(600), from in 0usize..9) {
        let bytes = bytes.get(from..).unwrap_or_default();
        prop_assert_eq!(csum_fold(twin::csum_partial(bytes, 0)), !by_definition(bytes));
        prop_assert_eq!(csum_fold(csum_partial(bytes, 0)), !by_definition(bytes));
        prop_assert_eq!(csum_partial(bytes, 0) == 0, bytes.iter().all(|&b| b == 0));
    }

    #[test]
    fn twins_agree_at_any_length_and_alignment(bytes in data(3000), from in 0usize..65) {
        vectors_agree(bytes.get(from..).unwrap_or_default());
    }

    #[test]
    fn a_sum_goes_on_from_a_sum(a in data(300), b in data(300), start: u32) {
        let a = &a[..a.len() & !1];
        let whole = csum_partial(&[a, &b[..]].concat(), start);
        prop_assert_eq!(csum_fold(csum_partial(&b, csum_partial(a, start))), csum_fold(whole));
    }

    #[test]
    fn blocks_join_and_part_at_any_offset(a in data(300), b in data(300)) {
        let (sum_a, sum_b) = (csum_partial(&a, 0), csum_partial(&b, 0));
        let whole = csum_block_add(sum_a, sum_b, a.len());
        prop_assert_eq!(csum_fold(whole), !by_definition(&[&a[..], &b[..]].concat()));
        let back = csum_fold(csum_block_sub(whole, sum_b, a.len()));
        // Minus zero and zero are one number with two forms.
        let expected = csum_fold(sum_a);
        prop_assert!(back == expected || (back, expected) == (0, 0xffff));
    }

    #[test]
    fn copying_sums_and_copies_only_the_source(src in data(2000), more in 0usize..70, start: u32) {
        let mut dst = vec![0x5a; src.len() + more];
        let sum = copy_and_csum(&src, &mut dst, start);
        prop_assert_eq!(csum_fold(sum), csum_fold(csum_partial(&src, start)));
        prop_assert_eq!(&dst[..src.len()], &src[..]);
        prop_assert!(dst[src.len()..].iter().all(|&b| b == 0x5a));
    }

    #[test]
    fn pseudo_headers_are_their_bytes(src: [u8; 16], dst: [u8; 16], len: u32, proto: u8) {
        let tail = [&len.to_be_bytes()[..], &[0, 0, 0, proto]].concat();
        let bytes = [&src[..], &dst[..], &tail[..]].concat();
        let sum = csum_ipv6_nofold(Ipv6Addr::from(src), Ipv6Addr::from(dst), len, proto);
        prop_assert_eq!(csum_fold(sum), !by_definition(&bytes));
        let s: [u8; 4] = src[..4].try_into().unwrap();
        let d: [u8; 4] = dst[..4].try_into().unwrap();
        let bytes = [&s[..], &d[..], &tail[..]].concat();
        let sum = csum_tcpudp_nofold(Ipv4Addr::from(s), Ipv4Addr::from(d), len, proto);
        prop_assert_eq!(csum_fold(sum), !by_definition(&bytes));
    }

    /// A word of the data and its checksum change together, as when a router counts down the TTL.
    #[test]
    fn a_replaced_word_keeps_the_sum_right(words in vec(any::<u32>(), 1..10), new: u32, half: u16) {
        // The last word stands for the addresses, which are never all zeros.
        let mut words = words;
        words.push(0x0a00_0001);
        let sum = |words: &[u32]| {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
            csum_partial(&bytes, 0)
        };
        let valid = |csum: u16, words: &[u32]| {
            csum_fold(csum_add(sum(words), u32::from(csum))) == 0
        };
        let csum = csum_replace4(csum_fold(sum(&words)), words[0], new);
        words[0] = new;
        prop_assert!(valid(csum, &words));
        let csum = csum_replace2(csum, (new >> 16) as u16, half);
        words[0] = new & 0xffff | u32::from(half) << 16;
        prop_assert!(valid(csum, &words));
    }
}

#[test]
fn the_example_of_rfc_1071() {
    // §3: the bytes 00 01 f2 03 f4 f5 f6 f7 have the ones-complement sum ddf2.
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(csum_fold(csum_partial(&bytes, 0)), !0xddf2);
}

#[test]
fn twins_agree_at_every_short_length() {
    let mut bytes = [0u8; 700];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (i * 151 % 256) as u8;
    }
    for len in 0..=640 {
        for from in [0, 1, 7, 31, 60] {
            vectors_agree(&bytes[from..from + len]);
            let expected = !by_definition(&bytes[from..from + len]);
            assert_eq!(csum_fold(csum_partial(&bytes[from..from + len], 0)), expected);
        }
    }
}

#[test]
fn lanes_do_not_overflow_on_long_data() {
    // More than one piece of the widest version, of the bytes that fill its lanes fastest.
    let bytes = vec![0xff; (1 << 24) + 12345];
    vectors_agree(&bytes);
    assert_eq!(csum_fold(csum_partial(&bytes, 0)), !by_definition(&bytes));
}

#[test]
#[should_panic(expected = "must hold the whole source")]
fn a_short_destination_is_our_fault() {
    let _ = copy_and_csum(&[0; 9], &mut [0; 8], 0);
}
