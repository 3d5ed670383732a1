//! Stage `Frag`.
use crate::pkt::{Pkt, Verdict};
use crate::shard::Shard;
/// Fragments.
pub fn ip_finish_output(cx: &mut Shard, pkt: Pkt) -> Verdict {
    cx.net.neigh_out.push_back(pkt);
    Verdict::Queued
}
