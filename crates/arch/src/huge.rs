//! Asking for large pages under large tables.

use std::mem::MaybeUninit;

/// Less is not worth it: a large page has 2 MiB on x86-64 and on most others.
pub const LEAST: usize = 4 << 20;

/// Asks the kernel to put large pages under memory that was not written yet, where
/// `/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`: a table that is looked at in random
/// order needs a translation for each look, and there is room for some thousand of them. Memory of
/// less than [`LEAST`] bytes, kernels that have no large pages and systems other than Linux: nothing
/// happens. Linux: `madvise(2)`, `MADV_HUGEPAGE`.
pub fn advise_huge<T>(memory: &mut [MaybeUninit<T>]) {
    let size = size_of_val(memory);
    if size < LEAST {
        return;
    }
    #[cfg(target_os = "linux")]
    {
        use core::ffi::{c_int, c_void};
        unsafe extern "C" {
            fn madvise(addr: *mut c_void, length: usize, advice: c_int) -> c_int;
        }
        const MADV_HUGEPAGE: c_int = 14;
        // The kernel takes whole pages; those at the ends may be of 64 KiB and others' too.
        const PAGE: usize = 64 << 10;
        let begin = memory.as_mut_ptr().cast::<u8>();
        let skip = begin.align_offset(PAGE).min(size);
        let whole = (size - skip) / PAGE * PAGE;
        // SAFETY: the range lies in `memory`, which is borrowed alone; the advice changes how the
        // pages are backed, never what they hold, and an error changes nothing.
        let _ = unsafe { madvise(begin.add(skip).cast(), whole, MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::{LEAST, advise_huge};

    /// What is written afterwards stays, and the neighbours of the memory are not touched.
    #[test]
    fn memory_works_as_before() {
        for size in [0, 1, LEAST - 1, LEAST, 3 * LEAST + 12_345] {
            let mut bytes: Vec<u8> = Vec::with_capacity(size + 100);
            bytes.extend([7; 100]);
            advise_huge(bytes.spare_capacity_mut());
            bytes.resize(size + 100, 9);
            assert!(bytes[..100].iter().all(|b| *b == 7) && bytes[100..].iter().all(|b| *b == 9));
        }
    }
}
