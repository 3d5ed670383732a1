//! The flow limit: a flow that fills the backlog is cut before it crowds out the others.
//!
//! Linux: net/core/dev.c `skb_flow_limit`, net/core/sysctl_net_core.c `flow_limit_cpu_sysctl`

/// Packets that are looked back on (`FLOW_LIMIT_HISTORY`). The kernel's documentation says 256, its
/// code has had 128 from the beginning.
const HISTORY: usize = 128;

/// The last packets that met a backlog more than half full, by flow (`struct sd_flow_limit`). It
/// belongs to the shard that steers, whoever's backlog it is.
pub(crate) struct FlowLimit {
    buckets: Vec<u8>,
    history: [u16; HISTORY],
    at: usize,
}

impl FlowLimit {
    /// Tells so many flows apart, rounded up to a power of two.
    pub fn new(table_len: u64) -> FlowLimit {
        let len = table_len.clamp(1, 65536).next_power_of_two() as usize;
        FlowLimit { buckets: vec![0; len], history: [0; HISTORY], at: 0 }
    }
    /// Whether a packet with this flow hash must not be queued where `waiting` packets of at most
    /// `limit` wait.
    pub fn over(&mut self, hash: u32, waiting: usize, limit: usize) -> bool {
        if waiting < limit / 2 {
            return false;
        }
        // As `hash_32`: the upper bits of a multiplication, whatever bits the hash was used by.
        let bits = self.buckets.len().trailing_zeros();
        let mixed = hash.wrapping_mul(0x61c8_8647) as u64;
        let new = (mixed << bits >> 32) as u16;
        let old = std::mem::replace(&mut self.history[self.at], new);
        self.at = (self.at + 1) % HISTORY;
        let bucket = &mut self.buckets[old as usize];
        *bucket = bucket.saturating_sub(1);
        let bucket = &mut self.buckets[new as usize];
        // No more than the history holds, so that it does not overflow.
        *bucket += 1;
        *bucket as usize > HISTORY / 2
    }
}
