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

#[cfg(test)]
mod tests {
    use super::prefetch_read;

    #[test]
    fn anything_with_an_address_may_be_asked_for() {
        let (bytes, nothing): (&[u8], &[u64]) = (&[7; 100], &[]);
        prefetch_read(bytes);
        prefetch_read(nothing);
        prefetch_read(&());
        assert_eq!(bytes, [7; 100]);
    }
}
