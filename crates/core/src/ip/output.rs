//! Stage `IpOut`.
use crate::pkt::{Pkt, Verdict};
use crate::shard::Shard;
/// Header.
pub fn ip_queue_xmit(cx: &mut Shard, pkt: Pkt) -> Verdict {
    cx.net.frag_out.push_back(pkt);
    Verdict::Queued
}
