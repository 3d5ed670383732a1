//! Receive packet steering: the shards that a device's packets are spread over, by flow hash.
//!
//! Linux: net/core/net-sysfs.c `store_rps_map`, net/core/dev.c `get_rps_cpu`
//!
//! A change of the map moves flows to other shards. Linux lets their packets overtake each other
//! then; here those of flows that move wait until the old shards are through with what they were
//! sent before the change, and go on to the new ones in order.

use super::mesh::{Mesh, SHARDS_MAX};
use crate::table::value::Mask;

/// The map of one device (`struct rps_map`). An empty one keeps packets on the shard they came to.
#[derive(Default)]
pub(super) struct RpsMap {
    /// What was asked for.
    mask: Mask,
    /// Shards by hash; those that are not there are replaced by our own.
    cpus: Vec<u8>,
    /// The map before, until all of its shards are through with what it sent them.
    old: Option<Old>,
}

struct Old {
    cpus: Vec<u8>,
    /// Shards that are not through yet, and with the packet at which place.
    waits: Vec<(u8, u32)>,
    /// All flows wait, not only those that move.
    all: bool,
}

/// More packets than ever wait in a backlog: `netdev_max_backlog` ends at ten million.
const AHEAD_MAX: u32 = 1 << 24;

/// How far this shard has sent, and how far the others are.
pub(super) struct Progress<'a> {
    pub mesh: &'a Mesh,
    /// This shard.
    pub cpu: u8,
    /// Place of the last packet sent to each shard.
    pub sent: &'a [u32],
    /// Place of the last packet of our own queue, and how many of those we are through with.
    pub own: (u32, u32),
    /// Shards for which packets lie ready that have no place yet, one bit each.
    pub pending: u64,
}

impl Progress<'_> {
    /// Place of the last packet that this shard put into the queue of `cpu`.
    #[inline]
    pub fn tail(&self, cpu: u8) -> u32 {
        if cpu == self.cpu { self.own.0 } else { self.sent.get(cpu as usize).copied().unwrap_or(0) }
    }
    /// How many of the packets in its queue shard `cpu` is through with.
    #[inline]
    pub fn head(&self, cpu: u8) -> u32 {
        if cpu == self.cpu { self.own.1 } else { self.mesh.head(cpu) }
    }
    /// Whether packets for shard `cpu` lie ready that have no place yet.
    #[inline]
    pub fn pending(&self, cpu: u8) -> bool {
        self.pending.checked_shr(cpu as u32).unwrap_or(0) & 1 == 1
    }
    /// Whether shard `cpu` is through with the packet at `place`; one that is gone is.
    #[inline]
    pub fn through(&self, cpu: u8, place: u32) -> bool {
        let ahead = place.wrapping_sub(self.head(cpu));
        // Further ahead than any backlog is long: it is of long ago, and the numbers went round since.
        ahead == 0 || ahead > AHEAD_MAX || (cpu != self.cpu && !self.mesh.online(cpu))
    }
}

/// One of `cpus` by the upper bits of the hash (`reciprocal_scale`); 0 of none.
#[inline]
fn pick(cpus: &[u8], hash: u32, own: u8) -> u8 {
    let at = (hash as u64 * cpus.len() as u64) >> 32;
    cpus.get(at as usize).copied().unwrap_or(own)
}

impl RpsMap {
    pub fn mask(&self) -> Mask {
        self.mask
    }
    /// Notes what the map is to be, where there are no other shards yet.
    pub fn ask(&mut self, mask: Mask) {
        self.mask = mask;
    }
    /// Whether packets may go to other shards by it, or wait for it.
    pub fn spreads(&self) -> bool {
        !self.cpus.is_empty() || self.old.is_some()
    }
    /// Whether a change is under way.
    #[inline]
    pub fn changes(&self) -> bool {
        self.old.is_some()
    }
    /// Sets the map, or makes it anew because shards came or went. A change under way ends first.
    pub fn set(&mut self, mask: Mask, at: &Progress<'_>) {
        self.mask = mask;
        if self.old.is_some() {
            return;
        }
        let alive = |cpu: u8| if cpu == at.cpu || at.mesh.online(cpu) { cpu } else { at.cpu };
        let cpus: Vec<u8> = mask.iter().map(alive).collect();
        if cpus == self.cpus {
            return;
        }
        let cpus = std::mem::replace(&mut self.cpus, cpus);
        let mut from: Vec<u8> = cpus.iter().copied().chain([at.cpu]).collect();
        from.sort_unstable();
        from.dedup();
        let waits = from.into_iter().map(|cpu| (cpu, at.tail(cpu))).collect();
        self.old = Some(Old { cpus, waits, all: false });
        self.settle(at);
    }
    /// Nobody knows any more where flows were sent: they wait until all shards are through.
    pub fn forget(&mut self, at: &Progress<'_>) {
        let all = (0..SHARDS_MAX as u8).filter(|cpu| *cpu == at.cpu || at.mesh.online(*cpu));
        let waits = all.map(|cpu| (cpu, at.tail(cpu))).collect();
        let cpus = self.old.take().map_or_else(|| self.cpus.clone(), |old| old.cpus);
        // It ends with the next batch at the earliest: packets may wait that have to be sent on then.
        self.old = Some(Old { cpus, waits, all: true });
    }
    /// Ends a change when all shards are through; returns whether one ended. Once a batch.
    pub fn settle(&mut self, at: &Progress<'_>) -> bool {
        let Some(old) = &mut self.old else { return false };
        old.waits.retain(|(cpu, place)| !at.through(*cpu, *place));
        let over = old.waits.is_empty();
        if over {
            self.old = None;
        }
        over
    }
    /// The shard of a flow; `None`: its packets wait for the change to end.
    #[inline]
    pub fn cpu(&self, hash: u32, own: u8) -> Option<u8> {
        let cpu = pick(&self.cpus, hash, own);
        match &self.old {
            Some(old) if old.all || pick(&old.cpus, hash, own) != cpu => None,
            _ => Some(cpu),
        }
    }
}
