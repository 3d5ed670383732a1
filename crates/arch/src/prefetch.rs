//! Asking for memory before it is needed.

/// Asks for the first cache line of a value in all cache levels; on machines other than x86-64 it
/// does nothing. Linux: `prefetch`.
///
/// Worth it where several independent loads would miss, as when a batch looks up its sockets: ask
/// for all of them, then use the first.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of SSE, which every x86-64 has; it has no effect on memory.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Asks for every cache line that a value lies in, of 64 bytes each; see [`prefetch_read`].
#[inline(always)]
pub fn prefetch_all<T>(value: &T) {
    prefetch_first(value, size_of::<T>());
}

/// Asks for the cache lines of the first `bytes` of a value; see [`prefetch_read`].
#[inline(always)]
pub fn prefetch_first<T>(value: &T, bytes: usize) {
    let size = bytes.min(size_of::<T>());
    let lines = if align_of::<T>() >= 64 { size.div_ceil(64) } else { size.div_ceil(64) + 1 };
    for line in 0..lines {
        // The last line of a value that begins within one is that of its last byte.
        let at = (line * 64).min(size.saturating_sub(1));
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the address lies within the value, or is its own where that has no size; the
        // instruction is part of SSE, which every x86-64 has, and has no effect on memory.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>().add(at));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (value, at);
    }
}

#[cfg(test)]
mod tests {
    use super::{prefetch_all, prefetch_first, prefetch_read};

    #[test]
    fn anything_with_an_address_may_be_asked_for() {
        let (bytes, nothing): (&[u8], &[u64]) = (&[7; 100], &[]);
        prefetch_read(bytes);
        prefetch_read(nothing);
        prefetch_read(&());
        prefetch_all(&());
        prefetch_all(&bytes);
        prefetch_all(&[0u64; 100]);
        (0..1000).for_each(|bytes| prefetch_first(&[0u64; 100], bytes));
        assert_eq!(bytes, [7; 100]);
    }
}
