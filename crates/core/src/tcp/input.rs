//! TCP input.
use crate::pkt::{Pkt, Verdict};
use crate::shard::Shard;
use crate::table::Reason;
/// Finds the socket.
pub fn tcp_lookup(_cx: &mut Shard, pkt: Pkt) -> Verdict {
    Verdict::Drop(pkt, Reason::NoSocket)
}
/// Input.
pub fn tcp_rcv(_cx: &mut Shard, pkt: Pkt) -> Verdict {
    Verdict::Drop(pkt, Reason::NoSocket)
}
