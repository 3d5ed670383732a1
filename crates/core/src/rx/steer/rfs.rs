//! Receive flow steering: the flow goes where its reader is.
//!
//! Linux: include/net/rps.h `struct rps_sock_flow_table`, `rps_record_sock_flow`; net/core/dev.c
//! `get_rps_cpu`, `set_rps_cpu`, `rps_may_expire_flow`
//!
//! Two tables: which shard the reader of a flow was last seen on, common to all shards, and where
//! this queue sends the flow now. A flow changes from one shard to another only when the old one is
//! through with the last packet that it was sent.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::rps::Progress;

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

/// Accelerated RFS has written no rule for this flow (`RPS_NO_FILTER`).
pub(super) const NO_FILTER: u32 = u32::MAX;
/// The flow was sent nowhere yet (`RPS_NO_CPU`).
const NO_CPU: u8 = u8::MAX;

/// Where this queue sends one flow (`struct rps_dev_flow`).
#[derive(Clone, Copy)]
pub(super) struct DevFlow {
    hash: u32,
    /// Place of its last packet in the queue of `cpu`.
    pub last_qtail: u32,
    /// The batch in which it last had a packet.
    batch: u32,
    /// Location of the rule that accelerated RFS wrote for it.
    pub filter: u32,
    pub cpu: u8,
    /// A rule was written by this place, for this flow or one before.
    pub live: bool,
}

const UNSET: DevFlow =
    DevFlow { hash: 0, last_qtail: 0, batch: 0, filter: NO_FILTER, cpu: NO_CPU, live: false };

/// The flows of one queue (`struct rps_dev_flow_table`): a power of two of places by hash.
#[derive(Default)]
pub(super) struct DevFlows {
    pub flows: Vec<DevFlow>,
}

/// What became of a look-up.
pub(super) enum Found {
    /// The flow is not followed: it goes where the map says. Nobody has read it lately, or another
    /// flow has the place, and packets of that one are on their way.
    No,
    /// It goes to this shard; `moved`: it went elsewhere before.
    Cpu { cpu: u8, slot: u32, moved: bool },
}

impl DevFlows {
    /// Sets how many flows are remembered, rounded up to a power of two. If that changes those that
    /// were are forgotten, and it returns true: nobody knows any more where they went.
    pub fn resize(&mut self, cnt: u64) -> bool {
        let len = if cnt == 0 { 0 } else { cnt.next_power_of_two() as usize };
        let changes = self.flows.len() != len;
        if changes {
            self.flows = vec![UNSET; len];
        }
        changes
    }
    /// Forgets all flows.
    pub fn clear(&mut self) {
        self.flows.fill(UNSET);
    }
    /// Where the flow goes whose reader is on shard `next`, as far as that is known, and which goes
    /// to `prior` without one; `None`: its packets would wait.
    #[inline]
    pub fn steer(
        &mut self,
        hash: u32,
        next: Option<u8>,
        prior: Option<u8>,
        batch: u32,
        at: &Progress<'_>,
    ) -> Found {
        let slot = hash & (self.flows.len() as u32).wrapping_sub(1);
        let Some(flow) = self.flows.get_mut(slot as usize) else { return Found::No };
        if flow.hash != hash || flow.cpu == NO_CPU {
            let (Some(_), Some(prior)) = (next, prior) else { return Found::No };
            if flow.cpu != NO_CPU && !flow.through(batch, at) {
                return Found::No;
            }
            // All that was sent there counts as this flow's, also what has no place yet.
            let batch = if at.pending(prior) { batch } else { batch.wrapping_sub(1) };
            let (last_qtail, live) = (at.tail(prior), flow.live);
            *flow = DevFlow { hash, last_qtail, batch, filter: NO_FILTER, cpu: prior, live };
        }
        let through = flow.through(batch, at);
        let moved = match next {
            Some(next) if through && flow.cpu != next => {
                // Places count anew in every shard's queue.
                (flow.cpu, flow.last_qtail) = (next, at.head(next));
                true
            }
            None if through => {
                flow.cpu = NO_CPU;
                return Found::No;
            }
            _ => false,
        };
        flow.batch = batch;
        Found::Cpu { cpu: flow.cpu, slot, moved }
    }
    /// Where packets of this flow are on their way to by this table; the next one follows them.
    pub fn on_its_way(&mut self, hash: u32, batch: u32, at: &Progress<'_>) -> Option<(u8, u32)> {
        let slot = hash & (self.flows.len() as u32).wrapping_sub(1);
        let flow = self.flows.get_mut(slot as usize)?;
        if flow.hash != hash || flow.cpu == NO_CPU || flow.through(batch, at) {
            return None;
        }
        flow.batch = batch;
        Some((flow.cpu, slot))
    }
    /// Whether nothing speaks for keeping the rule of this flow (`rps_may_expire_flow`): another
    /// flow has the place, or so many packets went by since its last one.
    pub fn may_expire(&self, slot: u32, filter: u32, at: &Progress<'_>) -> bool {
        let Some(flow) = self.flows.get(slot as usize) else { return true };
        let ago = at.head(flow.cpu).wrapping_sub(flow.last_qtail) as i32;
        let kept = flow.filter == filter && flow.cpu != NO_CPU;
        !kept || ago as i64 >= 10 * self.flows.len() as i64
    }
}

impl DevFlow {
    /// Whether the shard that it goes to is through with its last packet.
    #[inline]
    fn through(&self, batch: u32, at: &Progress<'_>) -> bool {
        self.batch != batch && at.through(self.cpu, self.last_qtail)
    }
}
