//! Receive flow steering: the flow goes where its reader is.
//!
//! Linux: include/net/rps.h `struct rps_sock_flow_table`, `rps_record_sock_flow`

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Bits of an entry that hold the shard (`rps_cpu_mask`); the others are the hash's.
const CPU_MASK: u32 = super::mesh::SHARDS_MAX as u32 - 1;
/// No flow has used this place yet: no hash that belongs here is so.
const NONE: u32 = u32::MAX;

/// The shard of each flow's last reader, by flow hash (`rps_sock_flow_table`): a power of two of
/// words, the upper bits of the hash over the number of the shard.
#[derive(Default)]
pub struct SockFlows {
    /// Readers keep a handle of their own, so that a change of size is no lock on the path.
    table: RwLock<Arc<[AtomicU32]>>,
    /// How often the size changed.
    version: AtomicU32,
}

impl SockFlows {
    /// Sets how many flows are remembered, rounded up to a power of two; those that were are
    /// forgotten. 0 = none.
    pub fn resize(&self, entries: u64) {
        let len = if entries == 0 { 0 } else { entries.next_power_of_two() as usize };
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.len() != len {
            *table = std::iter::repeat_with(|| AtomicU32::new(NONE)).take(len).collect();
            self.version.fetch_add(1, Ordering::Release);
        }
    }
    /// The table as it is now.
    pub(crate) fn table(&self) -> Arc<[AtomicU32]> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
    /// Changes when the table does.
    #[inline]
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }
}

/// Notes that the reader of the flow is on shard `cpu` (`rps_record_sock_flow`).
#[inline]
pub(crate) fn rps_record_sock_flow(table: &[AtomicU32], hash: u32, cpu: u8) {
    if hash == 0 || table.is_empty() {
        return;
    }
    let entry = hash & !CPU_MASK | cpu as u32 & CPU_MASK;
    let place = &table[hash as usize & (table.len() - 1)];
    // Written only where it changes: the line stays shared between the shards.
    if place.load(Ordering::Relaxed) != entry {
        place.store(entry, Ordering::Relaxed);
    }
}

/// The shard of the flow's reader, if the table knows this flow.
#[inline]
pub(crate) fn reader_of(table: &[AtomicU32], hash: u32) -> Option<u8> {
    let entry = table.get(hash as usize & table.len().wrapping_sub(1))?.load(Ordering::Relaxed);
    let known = entry != NONE && (entry ^ hash) & !CPU_MASK == 0;
    known.then_some((entry & CPU_MASK) as u8)
}
