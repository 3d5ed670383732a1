//! The bounded way from a shard's path to whoever reads a capture.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that wait for the reader at the most, unless it was made otherwise.
pub const PORT_BYTES: usize = 8 << 20;

/// Records of one shard, first in, first out. The path appends, and never waits for the reader: the
/// lock is held for one copy here, for the exchange of two lists there.
#[derive(Debug)]
pub struct Port {
    records: Mutex<Vec<u8>>,
    most: usize,
    kept: AtomicU64,
    dropped: AtomicU64,
    closed: AtomicBool,
}

impl Port {
    /// An empty one, for at most so many bytes.
    #[must_use]
    pub fn new(most: usize) -> Port {
        Port {
            records: Mutex::default(),
            most,
            kept: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // Each change is complete under the lock: a panic elsewhere leaves whole records.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record, made of `parts`; false if there was no room, and it was counted as dropped.
    pub(super) fn push(&self, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let mut records = self.lock();
        let fits = records.len() + len <= self.most;
        if fits {
            parts.iter().for_each(|part| records.extend_from_slice(part));
        }
        drop(records);
        let count = if fits { &self.kept } else { &self.dropped };
        count.fetch_add(1, Relaxed);
        fits
    }

    /// Takes what waits in exchange for `empty`, whose memory is used again.
    pub fn take(&self, empty: &mut Vec<u8>) {
        empty.clear();
        std::mem::swap(&mut *self.lock(), empty);
    }

    /// Records that were appended, and records for which there was no room.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.kept.load(Relaxed), self.dropped.load(Relaxed))
    }

    /// Nobody reads any more, or nobody writes: the other side gives up, too.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Whether one side has gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }
}
