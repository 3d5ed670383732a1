//! Stage `Steer`, RX: which shard goes on with the packet.
//!
//! before: [`crate::rx::gro`]   after: [`crate::link::input`] here, or [`crate::rx::backlog`] of
//! another shard
//! Linux:  net/core/dev.c `get_rps_cpu`, `enqueue_to_backlog`
//! drops:  none here: the target's backlog gives CpuBacklog and FlowLimit

pub mod mesh;
pub mod ntuple;
pub mod rss;

pub use mesh::{Letter, Mesh};

use std::sync::Arc;

use crate::pkt::{Pkt, Verdict};
use crate::shard::{Net, Shard};

/// What one shard steers by.
#[derive(Default)]
pub struct Steer {
    /// The stage has something to do.
    pub on: bool,
    /// The way to the other shards; none where there is one.
    pub mesh: Option<Arc<Mesh>>,
    /// What goes to other shards at the end of this batch, by shard.
    pub(crate) out: Vec<Vec<Letter>>,
}

/// Chooses the shard by the packet's flow (`get_rps_cpu`).
#[inline(always)]
pub fn get_rps_cpu(_cx: &mut Shard, pkt: Pkt) -> Verdict {
    Verdict::Pass(pkt)
}

/// Whether there is a shard `cpu`.
pub(crate) fn exists(net: &Net, cpu: u8) -> bool {
    cpu == net.cpu || net.steer.mesh.as_ref().is_some_and(|m| (cpu as usize) < m.shards())
}

/// Puts the packet on its way to the backlog of shard `cpu`, which exists.
pub(crate) fn send_to(net: &mut Net, cpu: u8, pkt: Pkt) {
    if cpu == net.cpu {
        return crate::rx::backlog::netif_rx(net, pkt);
    }
    net.pool.give(&pkt);
    if let Some(out) = net.steer.out.get_mut(cpu as usize) {
        out.push(Letter::Pkt(pkt));
    }
}

/// Hands what was steered to other shards over to them: once a batch, not once a packet.
pub(crate) fn flush(_cx: &mut Shard) {}

/// Takes in what other shards sent here: packets go to the backlog, flows to their sockets.
pub(crate) fn collect(_cx: &mut Shard) {}
