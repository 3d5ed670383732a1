//! The sum with SSE2, AVX2 and AVX-512: the twins of [`sum_words`](super::scalar::sum_words) for
//! long data.
//!
//! All of them add unsigned parts of little-endian words into lanes that cannot overflow, so that
//! no carry is lost; any grouping of the bytes is right as long as each keeps its place within 16
//! bits.

use core::arch::x86_64::*;
use std::sync::atomic::{AtomicU8, Ordering};

use super::scalar;

/// The instruction sets that are used, each with all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Isa {
    /// Every x86-64 has it.
    Sse2 = 1,
    /// 32-byte lanes.
    Avx2 = 2,
    /// 64-byte lanes with byte masks and the dot product of VNNI. Machines with the former but not
    /// the latter slow down when they use 64-byte lanes, and are served by AVX2.
    Avx512 = 3,
}

/// Proof that this machine has an instruction set: only detection makes one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level(Isa);

/// The widest set as a number; 0 until it is detected.
static WIDEST: AtomicU8 = AtomicU8::new(0);

impl Level {
    /// The widest set of this machine; detected once, later a load and a compare.
    #[inline]
    pub(super) fn of_this_machine() -> Level {
        // Relaxed: every thread that detects finds the same.
        match WIDEST.load(Ordering::Relaxed) {
            1 => Level(Isa::Sse2),
            2 => Level(Isa::Avx2),
            3 => Level(Isa::Avx512),
            _ => Level::detect(),
        }
    }

    /// All sets of this machine.
    #[cfg(test)]
    pub(super) fn all_of_this_machine() -> impl Iterator<Item = Level> {
        let widest = Level::of_this_machine().0 as u8;
        let all = [Isa::Sse2, Isa::Avx2, Isa::Avx512];
        all.into_iter().filter(move |&isa| isa as u8 <= widest).map(Level)
    }

    #[cold]
    fn detect() -> Level {
        let avx2 = is_x86_feature_detected!("avx2");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni");
        let isa = match (avx2, avx512) {
            (true, true) => Isa::Avx512,
            (true, false) => Isa::Avx2,
            (false, _) => Isa::Sse2,
        };
        WIDEST.store(isa as u8, Ordering::Relaxed);
        Level(isa)
    }
}

/// The sum of the data in little-endian words, folded to 64 bits.
#[inline]
pub(super) fn sum_words(bytes: &[u8], level: Level) -> u64 {
    match level.0 {
        // SAFETY: a level is proof that the machine has it.
        Isa::Sse2 => unsafe { sum_sse2(bytes) },
        // SAFETY: a level is proof that the machine has it.
        Isa::Avx2 => unsafe { sum_avx2(bytes) },
        // SAFETY: a level is proof that the machine has it.
        Isa::Avx512 => unsafe { sum_avx512(bytes) },
    }
}

/// Adds to the lanes what the vectors left over, which begins at a multiple of 8 bytes, and folds.
#[inline]
fn with_tail(lanes: u128, tail: &[u8]) -> u64 {
    scalar::fold128(lanes + u128::from(scalar::sum_words(tail)))
}

/// 64 bytes a round in four vectors. The halves of each 64-bit lane are to be added without loss:
/// two accumulators take the whole lanes, which may wrap, and their upper halves, which cannot. The
/// difference of the two, as numbers of 64 bits, is the sum of the lower halves.
#[target_feature(enable = "sse2")]
fn sum_sse2(bytes: &[u8]) -> u64 {
    let (rounds, tail) = bytes.as_chunks::<64>();
    let mut whole = [_mm_setzero_si128(); 2];
    let mut upper = [_mm_setzero_si128(); 2];
    for round in rounds {
        let from = round.as_ptr().cast::<__m128i>();
        // SAFETY: four vectors of 16 bytes are the 64 bytes of the chunk.
        let v = [0, 1, 2, 3].map(|i| unsafe { _mm_loadu_si128(from.add(i)) });
        for (i, v) in v.into_iter().enumerate() {
            whole[i % 2] = _mm_add_epi64(whole[i % 2], v);
            upper[i % 2] = _mm_add_epi64(upper[i % 2], _mm_srli_epi64::<32>(v));
        }
    }
    let whole = _mm_add_epi64(whole[0], whole[1]);
    let upper = _mm_add_epi64(upper[0], upper[1]);
    let lower = _mm_sub_epi64(whole, _mm_slli_epi64::<32>(upper));
    with_tail(add_halves(_mm_add_epi64(lower, upper)), tail)
}

/// The two 64-bit lanes together.
#[inline]
#[target_feature(enable = "sse2")]
fn add_halves(v: __m128i) -> u128 {
    let upper = _mm_unpackhi_epi64(v, v);
    u128::from(_mm_cvtsi128_si64(v) as u64) + u128::from(_mm_cvtsi128_si64(upper) as u64)
}

/// Nothing, then everything: from byte `n` on it is the mask of the last `n` bytes of a vector.
static LAST: [u8; 64] = {
    let mut mask = [0; 64];
    let mut at = 32;
    while at < 64 {
        mask[at] = 0xff;
        at += 1;
    }
    mask
};

/// As [`sum_sse2`], 128 bytes a round. What the rounds leave over is summed in vectors as well: word by word it
/// would take as long as half of the rounds of a segment.
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    let add = |(whole, upper): (__m256i, __m256i), v: __m256i| {
        (_mm256_add_epi64(whole, v), _mm256_add_epi64(upper, _mm256_srli_epi64::<32>(v)))
    };
    let (rounds, tail) = bytes.as_chunks::<128>();
    let mut one = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let mut two = one;
    for round in rounds {
        let from = round.as_ptr().cast::<__m256i>();
        // SAFETY: four vectors of 32 bytes are the 128 bytes of the chunk.
        let v = [0, 1, 2, 3].map(|i| unsafe { _mm256_loadu_si256(from.add(i)) });
        (one, two) = (add(one, v[0]), add(two, v[1]));
        (one, two) = (add(one, v[2]), add(two, v[3]));
    }
    let (vectors, tail) = tail.as_chunks::<32>();
    for vector in vectors {
        // SAFETY: a vector of 32 bytes is the chunk.
        one = add(one, unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) });
    }
    let mut rest = 0;
    match (bytes.last_chunk::<32>(), LAST.get(tail.len()..).and_then(<[u8]>::first_chunk::<32>)) {
        // One load that reaches back over bytes already summed, which are masked out. The others keep their
        // place within 16 bits, since their number is even.
        (Some(last), Some(mask)) if tail.len().is_multiple_of(2) => {
            // SAFETY: both are 32 bytes, which a vector has.
            let (v, mask) = unsafe {
                (_mm256_loadu_si256(last.as_ptr().cast()), _mm256_loadu_si256(mask.as_ptr().cast()))
            };
            two = add(two, _mm256_and_si256(v, mask));
        }
        _ => rest = sum_tail(tail),
    }
    let (whole, upper) = (_mm256_add_epi64(one.0, two.0), _mm256_add_epi64(one.1, two.1));
    let lower = _mm256_sub_epi64(whole, _mm256_slli_epi64::<32>(upper));
    let sum = _mm256_add_epi64(lower, upper);
    let half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    scalar::fold128(add_halves(half) + u128::from(rest))
}

/// The rest of data of an odd length, which is rare.
#[cold]
#[inline(never)]
fn sum_tail(tail: &[u8]) -> u64 {
    scalar::sum_words(tail)
}

/// The dot product adds at most 2 × 255 to a 32-bit lane for each vector: this many bytes cannot
/// overflow one.
const AVX512_BYTES_MAX: usize = 1 << 24;

/// The even and the odd bytes of the data are added in lanes of their own, by dot products with 1
/// and 0.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sum_avx512(bytes: &[u8]) -> u64 {
    let mut sum = 0u128;
    for piece in bytes.chunks(AVX512_BYTES_MAX) {
        sum += u128::from(sum_piece(piece));
    }
    scalar::fold128(sum)
}

/// The sum of at most [`AVX512_BYTES_MAX`] bytes.
///
/// Vectors are read where they are aligned: one that lies across two cache lines costs two reads. What
/// an odd beginning does to the words is undone at the end. Four vectors a round, each into sums of its
/// own: else one dot product would wait for the one before.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sum_piece(bytes: &[u8]) -> u64 {
    let (weigh_even, weigh_odd) = (_mm512_set1_epi32(0x0001_0001), _mm512_set1_epi32(0x0100_0100));
    let mut even = [_mm512_setzero_si512(); 4];
    let mut odd = [_mm512_setzero_si512(); 4];
    // Bytes up to the first whole vector.
    let before = bytes.as_ptr().align_offset(64).min(bytes.len());
    let (first, aligned) = bytes.split_at(before);
    if before > 0 {
        let v = load_part(first);
        even[3] = _mm512_dpbusd_epi32(even[3], v, weigh_even);
        odd[3] = _mm512_dpbusd_epi32(odd[3], v, weigh_odd);
        if before % 2 == 1 {
            // The aligned part begins with the other half of a word: its bytes change places.
            std::mem::swap(&mut even[3], &mut odd[3]);
        }
    }
    let (rounds, tail) = aligned.as_chunks::<256>();
    for round in rounds {
        let from = round.as_ptr().cast::<__m512i>();
        // SAFETY: four vectors of 64 bytes are the 256 bytes of the chunk.
        let v = [0, 1, 2, 3].map(|i| unsafe { _mm512_loadu_si512(from.add(i)) });
        for i in 0..4 {
            even[i] = _mm512_dpbusd_epi32(even[i], v[i], weigh_even);
            odd[i] = _mm512_dpbusd_epi32(odd[i], v[i], weigh_odd);
        }
    }
    for (i, rest) in tail.chunks(64).enumerate() {
        let v = load_part(rest);
        even[i] = _mm512_dpbusd_epi32(even[i], v, weigh_even);
        odd[i] = _mm512_dpbusd_epi32(odd[i], v, weigh_odd);
    }
    // Each lane is far below 2^31, so that lanes may be added before they are widened.
    let add = |v: [__m512i; 4]| {
        _mm512_add_epi32(_mm512_add_epi32(v[0], v[1]), _mm512_add_epi32(v[2], v[3]))
    };
    let (even, odd) = (widen_lanes(add(even)), widen_lanes(add(odd)));
    let sum = _mm512_reduce_add_epi64(_mm512_add_epi64(even, _mm512_slli_epi64::<8>(odd))) as u64;
    // 2^16 is 1 modulo 65535: to multiply by 256 changes the places of each word's bytes.
    if before % 2 == 1 { scalar::fold128(u128::from(sum) << 8) } else { sum }
}

/// At most 64 bytes; those that are missing are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_part(bytes: &[u8]) -> __m512i {
    let mask = u64::MAX.checked_shr(64 - bytes.len() as u32).unwrap_or(0);
    // SAFETY: the mask has one bit for each byte of the slice, and bytes outside of the mask are not
    // accessed.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
}

/// Sixteen unsigned 32-bit lanes added in pairs to eight of 64 bits.
#[target_feature(enable = "avx512f")]
fn widen_lanes(v: __m512i) -> __m512i {
    let low = _mm512_and_si512(v, _mm512_set1_epi64(0xffff_ffff));
    _mm512_add_epi64(low, _mm512_srli_epi64::<32>(v))
}
