//! What programs write for their host to read: a ring buffer, and the samples of a perf event array.
//! Both are bounded in bytes; what does not fit is counted and gone.
//!
//! Linux: kernel/bpf/ringbuf.c, kernel/events/core.c `perf_event_output`

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub(crate) struct Ring {
    /// Bytes that records may take, with their headers.
    pub size: u64,
    /// Bytes taken by records that are written, and by those in the making.
    taken: AtomicU64,
    /// All bytes that were ever taken (`BPF_RB_PROD_POS`).
    produced: AtomicU64,
    /// All bytes that were ever given back (`BPF_RB_CONS_POS`).
    consumed: AtomicU64,
    lost: AtomicU64,
    /// Records; none where one was discarded, whose room is free when the reader has passed it.
    records: Mutex<VecDeque<Result<Record, u64>>>,
}

/// Something that a program wrote for its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The processor, or shard, that wrote it.
    pub cpu: u32,
    /// What it wrote.
    pub data: Vec<u8>,
}

/// Each record has a header of 8 bytes and is a multiple of 8 long (`BPF_RINGBUF_HDR_SZ`).
pub(crate) fn room(len: u64) -> u64 {
    (len + 8).next_multiple_of(8)
}

impl Ring {
    pub fn new(size: u64) -> Ring {
        let (taken, produced, consumed, lost) = Default::default();
        Ring { size, taken, produced, consumed, lost, records: Mutex::default() }
    }

    /// Takes room for a record of `len` bytes; false, and it is counted as lost, if there is none.
    /// One byte of the ring is never taken, as in the kernel.
    pub fn reserve(&self, len: u64) -> bool {
        let want = room(len);
        let fits = |taken: u64| (taken + want < self.size).then(|| taken + want);
        let got = self.taken.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if got {
            self.produced.fetch_add(want, Relaxed);
        } else {
            self.lost.fetch_add(1, Relaxed);
        }
        got
    }

    /// A record for which room was taken is written.
    pub fn submit(&self, record: Record) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push_back(Ok(record));
    }

    /// A record of `len` bytes for which room was taken is not to be read.
    pub fn discard(&self, len: u64) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push_back(Err(len));
    }

    /// The room of a record is free again.
    pub fn release(&self, len: u64) {
        self.taken.fetch_sub(room(len), Relaxed);
        self.consumed.fetch_add(room(len), Relaxed);
    }

    /// Takes out at most `max` records, oldest first.
    pub fn drain(&self, max: usize) -> Vec<Record> {
        let mut out = Vec::new();
        while out.len() < max {
            let record = self.records.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(record) = record else { break };
            self.release(record.as_ref().map_or_else(|len| *len, |r| r.data.len() as u64));
            out.extend(record.ok());
        }
        out
    }

    pub fn len(&self) -> usize {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.iter().filter(|r| r.is_ok()).count()
    }
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// What `bpf_ringbuf_query` answers.
    pub fn query(&self, what: u64) -> u64 {
        match what {
            0 => self.taken.load(Relaxed),
            1 => self.size,
            2 => self.consumed.load(Relaxed),
            3 => self.produced.load(Relaxed),
            _ => 0,
        }
    }
}
