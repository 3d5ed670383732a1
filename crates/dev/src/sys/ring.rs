//! The memory of an AF_XDP ring: a mapping of the socket. Linux: net/xdp/xsk_queue.c,
//! include/uapi/linux/if_xdp.h.

use crate::xdp::ring::Memory;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Which ring of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Chunks for the kernel to receive into.
    Fill,
    /// Chunks that the kernel has sent.
    Completion,
    /// What was received.
    Rx,
    /// What is to be sent.
    Tx,
}

mod slot {
    /// What the slots of a ring can hold.
    pub trait Slot: Copy {}
    impl Slot for u64 {}
    impl Slot for libc::xdp_desc {}
}
use slot::Slot;

/// A ring that the kernel shares with us; unmapped when dropped. The mapping keeps the socket
/// alive.
#[derive(Debug)]
pub struct Mapped<T> {
    map: NonNull<u8>,
    len: usize,
    producer: NonNull<u32>,
    consumer: NonNull<u32>,
    flags: NonNull<u32>,
    slots: NonNull<T>,
    size: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread; all access to the indexes is atomic,
// and the slots are plain data.
unsafe impl<T: Slot + Send> Send for Mapped<T> {}

impl<T: Slot> Mapped<T> {
    /// Maps ring `kind`, of `size` slots (a power of two), of the socket `fd`, which lie as `off`
    /// says. The slots hold `u64` for [`Kind::Fill`] and [`Kind::Completion`], `xdp_desc` for the
    /// others.
    ///
    /// # Errors
    /// Those of mmap: `EINVAL` if the ring was not sized before, `ENOMEM`.
    pub fn map(
        fd: impl AsFd,
        kind: Kind,
        off: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Mapped<T>> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let (page_offset, slot) = match kind {
            Kind::Rx => (libc::XDP_PGOFF_RX_RING, size_of::<libc::xdp_desc>()),
            Kind::Tx => (libc::XDP_PGOFF_TX_RING, size_of::<libc::xdp_desc>()),
            Kind::Fill => (libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t, size_of::<u64>()),
            Kind::Completion => {
                (libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t, size_of::<u64>())
            }
        };
        let slots = (size as usize).checked_mul(size_of::<T>());
        let (Some(slots), true) = (slots, slot == size_of::<T>() && size.is_power_of_two()) else {
            return Err(invalid());
        };
        let len = usize::try_from(off.desc).ok().and_then(|at| at.checked_add(slots));
        let len = len.ok_or_else(invalid)?;
        // Every index and the first slot have to lie in the mapping, aligned, before it is touched.
        let fits = |at: u64, bytes: usize, align: usize| {
            let at = usize::try_from(at).ok()?;
            (at.checked_add(bytes)? <= len && at.is_multiple_of(align)).then_some(at)
        };
        let producer = fits(off.producer, 4, 4).ok_or_else(invalid)?;
        let consumer = fits(off.consumer, 4, 4).ok_or_else(invalid)?;
        let flags = fits(off.flags, 4, 4).ok_or_else(invalid)?;
        let desc = fits(off.desc, slots, align_of::<T>()).ok_or_else(invalid)?;
        // SAFETY: a new mapping of the socket at an address of the kernel's choice.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_fd().as_raw_fd(),
                page_offset,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: each offset lies within the mapping of `len` bytes, as checked above.
        unsafe {
            Ok(Mapped {
                map,
                len,
                producer: map.add(producer).cast(),
                consumer: map.add(consumer).cast(),
                flags: map.add(flags).cast(),
                slots: map.add(desc).cast(),
                size,
            })
        }
    }

    #[inline]
    fn atomic(&self, at: NonNull<u32>) -> &AtomicU32 {
        // SAFETY: `at` is one of the three words of this mapping: valid, aligned to 4, alive as
        // long as `self`, and only ever accessed atomically, by the kernel as well.
        unsafe { AtomicU32::from_ptr(at.as_ptr()) }
    }
    #[inline]
    fn slot(&self, index: u32) -> *mut T {
        // SAFETY: `size` is a power of two, so the masked index is below it, and the mapping has
        // `size` slots from `slots` on.
        unsafe { self.slots.as_ptr().add((index & (self.size - 1)) as usize) }
    }
}

impl<T: Slot> Memory for Mapped<T> {
    type Item = T;
    #[inline]
    fn size(&self) -> u32 {
        self.size
    }
    #[inline]
    fn load_producer(&self) -> u32 {
        self.atomic(self.producer).load(Ordering::Acquire)
    }
    #[inline]
    fn store_producer(&self, index: u32) {
        self.atomic(self.producer).store(index, Ordering::Release);
    }
    #[inline]
    fn load_consumer(&self) -> u32 {
        self.atomic(self.consumer).load(Ordering::Acquire)
    }
    #[inline]
    fn store_consumer(&self, index: u32) {
        self.atomic(self.consumer).store(index, Ordering::Release);
    }
    #[inline]
    fn read(&self, index: u32) -> T {
        // SAFETY: the slot is valid and aligned, and every bit pattern is a value of `u64` and of
        // `xdp_desc`. The other side is the kernel: volatile, because it writes the memory.
        unsafe { self.slot(index).read_volatile() }
    }
    #[inline]
    fn write(&self, index: u32, item: T) {
        // SAFETY: the slot is valid and aligned; no reference to it exists, ever.
        unsafe { self.slot(index).write_volatile(item) }
    }
    #[inline]
    fn need_wakeup(&self) -> bool {
        // The index that was published has to be visible before the flag is read: the kernel sets
        // the flag and then looks at the index.
        fence(Ordering::SeqCst);
        self.atomic(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, whole, and nothing refers into it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod model;
