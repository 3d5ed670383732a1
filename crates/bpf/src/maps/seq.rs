//! A lock for tables that are read far more often than written: writers exclude each other, readers
//! only look whether somebody wrote meanwhile. What it guards is made of atomics.
//!
//! Linux: include/linux/seqlock.h

use std::sync::atomic::{AtomicU32, Ordering::*, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(crate) struct Seq {
    version: AtomicU32,
    lock: Mutex<()>,
}

/// The right to write, until it is dropped.
pub(crate) struct Writing<'a> {
    seq: &'a Seq,
    _guard: MutexGuard<'a, ()>,
}

/// How often a reader looks again before it waits for the writers.
const TRIES: u32 = 3;

impl Seq {
    /// Waits for other writers. Readers are not disturbed before [`Writing::write`].
    pub fn lock(&self) -> Writing<'_> {
        // A writer that panicked left atomics behind, each of them whole.
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        Writing { seq: self, _guard: guard }
    }

    /// What `read` sees between two writes. It may run while somebody writes, and then runs again:
    /// it has to end whatever it sees.
    #[inline]
    pub fn read<T>(&self, read: impl Fn() -> T) -> T {
        for _ in 0..TRIES {
            let before = self.version.load(Acquire);
            if before & 1 == 0 {
                let seen = read();
                fence(Acquire);
                if self.version.load(Relaxed) == before {
                    return seen;
                }
            }
        }
        let _writing = self.lock();
        read()
    }
}

impl Writing<'_> {
    /// Runs `write`; readers that overlap with it read again.
    pub fn write<T>(&mut self, write: impl FnOnce() -> T) -> T {
        let version = self.seq.version.load(Relaxed);
        self.seq.version.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        let out = write();
        self.seq.version.store(version.wrapping_add(2), Release);
        out
    }
}
