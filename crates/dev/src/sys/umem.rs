//! The memory of AF_XDP frames (UMEM): mapped once, never unmapped, and cut into chunks of which
//! each has one owner. Linux: net/xdp/xdp_umem.c, Documentation/networking/af_xdp.rst.

use super::check;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// Whoever may write a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody: it lies in a list of free chunks.
    Free,
    /// A buffer of ours: `Region::lend` gave it out.
    Lent,
    /// The kernel, through the rings of this queue (0 to [`QUEUES_MAX`] - 1).
    Kernel(u8),
}

/// Queues that can share a region.
pub const QUEUES_MAX: u8 = 128;

impl Owner {
    const fn code(self) -> u8 {
        match self {
            Owner::Free => 0,
            Owner::Lent => 1,
            Owner::Kernel(queue) => 2 + queue,
        }
    }
}

/// A mapping of chunks of equal size. It is never unmapped, so that a chunk in a packet may outlive
/// every device.
///
/// Who owns a chunk is written down beside it. What makes `&'static mut` sound is: the memory of a
/// chunk is reached through a reference only while its owner is [`Owner::Lent`], exactly one
/// reference exists then, and the kernel writes only chunks that were handed to it, which are
/// [`Owner::Kernel`]. The functions that pass chunks on are this crate's own: a chunk's number is in
/// one place, a list of free ones, a ring or a buffer, and who takes it from there acts for its owner.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    /// Binary logarithm of a chunk's size.
    shift: u32,
    owners: Box<[AtomicU8]>,
    huge: bool,
}

// SAFETY: the pointer is only turned into references under the rule above, which atomics keep;
// every other field is plain data.
unsafe impl Send for Region {}
// SAFETY: as for `Send`: all access goes through the atomics of `owners`.
unsafe impl Sync for Region {}

/// The large page that is asked for, bytes.
const HUGE: usize = 2 << 20;

impl Region {
    /// Maps `chunks` chunks of `chunk_size` bytes (a power of two, at least 2048), and asks for
    /// large pages. The memory is part of the process until it ends.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for a size that is no power of two or a region of no or over 4 GiB.
    pub fn map(chunks: usize, chunk_size: usize) -> io::Result<&'static Region> {
        let bytes = chunks.checked_mul(chunk_size).filter(|&b| b > 0 && b <= 1 << 32);
        let (Some(bytes), true) = (bytes, chunk_size.is_power_of_two() && chunk_size >= 2048)
        else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        // One large page more than is needed, so that the region can begin at the edge of one.
        let mapped = bytes.next_multiple_of(HUGE) + HUGE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing
        // that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let skip = start.align_offset(HUGE);
        // SAFETY: `align_offset` is below HUGE, and the mapping is HUGE longer than `bytes`.
        let base = unsafe { start.cast::<u8>().add(skip) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the range lies in the mapping just made. Both calls only advise: large pages save
        // misses of the TLB, and a child has no use for memory that is pinned for a device.
        let huge = unsafe {
            libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_DONTFORK);
            check(libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE)).is_ok()
        };
        let owners = (0..chunks).map(|_| AtomicU8::new(Owner::Free.code())).collect();
        Ok(Box::leak(Box::new(Region { base, shift: chunk_size.trailing_zeros(), owners, huge })))
    }

    /// Where the region begins, for `XDP_UMEM_REG`.
    pub fn addr(&self) -> u64 {
        self.base.as_ptr() as u64
    }
    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.chunks() << self.shift
    }
    /// How many chunks it has.
    pub fn chunks(&self) -> usize {
        self.owners.len()
    }
    /// Bytes of a chunk.
    pub fn chunk_size(&self) -> usize {
        1 << self.shift
    }
    /// Whether the kernel took the advice to use large pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// The number of the chunk that `addr`, an offset as descriptors have it, lies in.
    #[inline]
    pub fn index(&self, addr: u64) -> usize {
        (addr >> self.shift) as usize
    }
    /// The offset at which chunk `index` begins.
    #[inline]
    pub fn offset(&self, index: usize) -> u64 {
        (index as u64) << self.shift
    }
    /// The offset of a byte that lies in this region; `None` if it does not.
    #[inline]
    pub fn offset_of(&self, byte: *const u8) -> Option<u64> {
        let at = (byte as usize).wrapping_sub(self.base.as_ptr() as usize);
        (at < self.len()).then_some(at as u64)
    }

    /// Chunk `index` changes hands. False, and nothing changes, if it is not `from`'s.
    #[inline]
    #[must_use]
    pub(crate) fn pass(&self, index: usize, from: Owner, to: Owner) -> bool {
        // Into and out of `Lent` only with a reference in hand: `lend` and `take_back`.
        assert!(from != Owner::Lent && to != Owner::Lent, "a loan has a reference with it");
        self.change(index, from, to)
    }
    /// A load and a store, not one exchange: a chunk has one owner, and only who acts for it calls
    /// this. It passes between threads through a lock, a channel or a ring, which order what was
    /// written to it.
    #[inline]
    fn change(&self, index: usize, from: Owner, to: Owner) -> bool {
        let Some(owner) = self.owners.get(index) else { return false };
        let owned = owner.load(Ordering::Relaxed) == from.code();
        if owned {
            owner.store(to.code(), Ordering::Relaxed);
        }
        owned
    }
    /// Whether a reference to chunk `index` is out.
    #[inline]
    pub fn is_lent(&self, index: usize) -> bool {
        self.owners.get(index).is_some_and(|o| o.load(Ordering::Relaxed) == Owner::Lent.code())
    }

    /// Gives out chunk `index`, which was `from`'s; `None` if it was not.
    ///
    /// # Panics
    /// If `from` is [`Owner::Lent`].
    #[inline]
    pub(crate) fn lend(&self, index: usize, from: Owner) -> Option<&'static mut [u8]> {
        assert!(from != Owner::Lent, "a chunk is lent once");
        if !self.change(index, from, Owner::Lent) {
            return None;
        }
        // SAFETY: the chunk lies in the mapping, since `owners` has an entry for it; the mapping
        // lasts as long as the process and was zeroed by the kernel. Its owner was not `Lent`, so
        // no reference to it exists, and is `Lent` now, so none is made before this one is back.
        // The kernel does not write it: what it was given is `Kernel`, and who passes `Kernel` has
        // it back from a ring, behind an acquire load of the ring's index.
        Some(unsafe {
            let start = self.base.as_ptr().add(index << self.shift);
            std::slice::from_raw_parts_mut(start, 1 << self.shift)
        })
    }
    /// Takes back what [`Region::lend`] gave: the chunk's number; it is free then. `None` if the
    /// memory is not a whole chunk of this region.
    #[inline]
    pub(crate) fn take_back(&self, chunk: &'static mut [u8]) -> Option<usize> {
        let (at, len) = (self.offset_of(chunk.as_ptr())?, chunk.len());
        let index = self.index(at);
        (len == self.chunk_size() && self.offset(index) == at).then_some(())?;
        self.change(index, Owner::Lent, Owner::Free).then_some(index)
    }
    /// Frees every chunk of `owner`'s and calls `each` with its number. For those of the kernel
    /// only when it can no longer write them: their socket is closed.
    ///
    /// # Panics
    /// If `owner` is [`Owner::Lent`].
    pub(crate) fn reclaim(&self, owner: Owner, mut each: impl FnMut(usize)) {
        assert!(owner != Owner::Lent, "what is lent comes back with its reference");
        for index in 0..self.chunks() {
            if self.change(index, owner, Owner::Free) {
                each(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_one_owner() {
        let region = Region::map(8, 2048).expect("memory");
        assert_eq!((region.len(), region.addr() as usize % HUGE), (16384, 0));
        let chunk = region.lend(3, Owner::Free).expect("it is free");
        assert!(chunk.iter().all(|&b| b == 0));
        chunk[2047] = 7;
        assert!(region.lend(3, Owner::Free).is_none() && region.is_lent(3));
        assert!(!region.pass(3, Owner::Free, Owner::Kernel(0)));
        assert_eq!(region.offset_of(chunk.as_ptr()), Some(3 * 2048));
        assert_eq!(region.take_back(chunk), Some(3));
        assert!(region.pass(3, Owner::Free, Owner::Kernel(5)));
        assert!(region.lend(3, Owner::Free).is_none());
        assert!(region.lend(3, Owner::Kernel(4)).is_none());
        assert!(region.lend(8, Owner::Free).is_none(), "there is no ninth");
        assert!(region.pass(4, Owner::Free, Owner::Kernel(5)));
        let mut back = Vec::new();
        region.reclaim(Owner::Kernel(5), |i| back.push(i));
        assert_eq!(back, [3, 4]);
        let again = region.lend(3, Owner::Free).expect("free again");
        assert_eq!(again[2047], 7);
    }

    #[test]
    fn only_whole_chunks_of_this_region_come_back() {
        let (one, two) = (Region::map(2, 2048).expect("memory"), Region::map(2, 2048).expect("m"));
        let chunk = one.lend(0, Owner::Free).expect("free");
        let (left, right) = chunk.split_at_mut(1024);
        assert_eq!((one.take_back(left), one.take_back(right)), (None, None));
        assert_eq!(one.take_back(two.lend(0, Owner::Free).expect("free")), None);
        assert_eq!(one.offset_of(std::ptr::null()), None);
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for (chunks, size) in [(0, 2048), (4, 1000), (4, 1024), (usize::MAX, 4096), (1 << 30, 4096)]
        {
            let err = Region::map(chunks, size).expect_err("refused");
            assert_eq!(err.raw_os_error(), Some(libc::EINVAL));
        }
    }
}
