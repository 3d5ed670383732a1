//! Memory with a count of its holders, of which one handle may have several.
//!
//! What is cut into many pieces that share one memory counts them at once, and what is joined of many lets
//! them go at once: each change of the count is a locked instruction, which waits until all that was written
//! before is in the cache. Linux: `page_ref_add`, `napi_pp_put_page`.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

struct Inner<T> {
    /// The shares of all handles together.
    count: AtomicUsize,
    value: T,
}

/// A handle of shared memory, as [`Arc`](std::sync::Arc), that stands for one or more shares in it.
pub struct Counted<T> {
    at: NonNull<Inner<T>>,
    /// Shares of this handle; at least one.
    shares: u32,
    _owns: PhantomData<Inner<T>>,
}

// SAFETY: as of `Arc`: any handle may be the last, and drops the value where it is; and all read it at once.
unsafe impl<T: Send + Sync> Send for Counted<T> {}
// SAFETY: as above: a handle can be copied by reference.
unsafe impl<T: Send + Sync> Sync for Counted<T> {}

/// More shares than any program has holders; beyond it lies room for what all threads may add at once.
const MOST: usize = isize::MAX as usize;

impl<T> Counted<T> {
    /// A value with one holder.
    pub fn new(value: T) -> Counted<T> {
        let inner = Box::new(Inner { count: AtomicUsize::new(1), value });
        Counted { at: NonNull::from(Box::leak(inner)), shares: 1, _owns: PhantomData }
    }
    #[inline(always)]
    fn inner(&self) -> &Inner<T> {
        // SAFETY: the memory is there as long as there is a share in it, and this handle has one; nobody
        // writes but who has all of them, which takes a handle by `&mut`.
        unsafe { self.at.as_ref() }
    }
    #[inline]
    fn add(&self, n: u32) {
        // Relaxed: whoever adds has a share already, so that nothing can be freed meanwhile.
        if self.inner().count.fetch_add(n as usize, Ordering::Relaxed) > MOST {
            std::process::abort();
        }
    }
    /// Another handle with one share.
    #[inline]
    #[must_use]
    pub fn share(&self) -> Counted<T> {
        self.add(1);
        Counted { at: self.at, shares: 1, _owns: PhantomData }
    }
    /// This handle gets `n` more shares, to be given away by [`Counted::split`].
    #[inline]
    pub fn reserve(&mut self, n: u32) {
        if let Some(shares) = self.shares.checked_add(n) {
            self.add(n);
            self.shares = shares;
        }
    }
    /// A handle with one of this one's shares, if that has more than one.
    #[inline]
    pub fn split(&mut self) -> Option<Counted<T>> {
        if self.shares == 1 {
            return None;
        }
        self.shares -= 1;
        Some(Counted { at: self.at, shares: 1, _owns: PhantomData })
    }
    /// This handle takes the shares of another one of the same memory.
    ///
    /// # Errors
    /// The other handle, if it is of other memory, or one handle can not have so many.
    #[inline]
    pub fn join(&mut self, other: Counted<T>) -> Result<(), Counted<T>> {
        match self.shares.checked_add(other.shares) {
            Some(shares) if self.at == other.at => {
                self.shares = shares;
                std::mem::forget(other);
                Ok(())
            }
            _ => Err(other),
        }
    }
    /// Whether both are of the same memory.
    #[inline]
    pub fn is(&self, other: &Counted<T>) -> bool {
        self.at == other.at
    }
    /// Whether nobody else has a share.
    #[inline]
    pub fn is_alone(&self) -> bool {
        // Acquire: what others read happened before they let go.
        self.inner().count.load(Ordering::Acquire) == self.shares as usize
    }
    /// The value, to be written; `None` while anybody else has a share.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        if !self.is_alone() {
            return None;
        }
        // SAFETY: all shares are this handle's, which is borrowed alone: there is no other way to the value,
        // and no other thread can make one.
        Some(unsafe { &mut self.at.as_mut().value })
    }
}

impl<T> Deref for Counted<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T> Drop for Counted<T> {
    #[inline]
    fn drop(&mut self) {
        let shares = self.shares as usize;
        // Release: what this handle was used for happens before whoever is the last frees the memory.
        if self.inner().count.fetch_sub(shares, Ordering::Release) == shares {
            fence(Ordering::Acquire);
            // SAFETY: the memory came from a `Box`; the count is zero, so that this handle was the last.
            drop(unsafe { Box::from_raw(self.at.as_ptr()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Counted;
    use std::sync::Arc;

    #[test]
    fn the_last_share_frees_the_value_however_shares_were_moved() {
        let value = Arc::new(());
        let mut all = vec![Counted::new(Arc::clone(&value))];
        let mut random = 1u64;
        for n in 0..20_000 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e);
            let at = (random >> 33) as usize % all.len();
            match (random >> 60, all.len()) {
                (0..4, ..50) => all.push(all[at].share()),
                (4..6, _) => all[at].reserve((random >> 50 & 7) as u32),
                (6..10, ..50) => {
                    let more = all[at].split();
                    all.extend(more);
                }
                (10..13, 2..) => {
                    let other = all.swap_remove(at);
                    assert!(all[0].join(other).is_ok());
                }
                (_, 2..) => drop(all.swap_remove(at)),
                _ => {}
            }
            assert_eq!(Arc::strong_count(&value), 2, "step {n}");
            assert_eq!(all[0].is_alone(), all.len() == 1);
            assert_eq!(all[0].get_mut().is_some(), all.len() == 1);
        }
        drop(all);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn other_memory_is_not_joined() {
        let (mut a, b) = (Counted::new(1), Counted::new(1));
        assert!(!a.is(&b) && a.is(&a.share()));
        let b = a.join(b).expect_err("it is other memory");
        assert!(b.is_alone() && a.is_alone());
        *a.get_mut().expect("nobody else has it") = 2;
        assert_eq!((*a, *b), (2, 1));
    }

    #[test]
    fn threads_share_and_the_last_one_frees() {
        let value = Arc::new(7u64);
        let mut first = Counted::new(Arc::clone(&value));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                first.reserve(3);
                let own: Vec<_> = std::iter::from_fn(|| first.split()).collect();
                scope.spawn(move || {
                    for handle in own {
                        let more: Vec<_> = (0..500).map(|_| handle.share()).collect();
                        assert!(more.iter().all(|m| ***m == 7));
                    }
                });
            }
            drop(first);
        });
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
