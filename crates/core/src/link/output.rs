//! Stage `Neigh`, TX.
use crate::pkt::{Pkt, Verdict};
use crate::shard::Shard;

/// Ethernet header.
pub fn neigh_output(cx: &mut Shard, pkt: Pkt) -> Verdict {
    cx.net.link_out.push_back(pkt);
    Verdict::Queued
}
