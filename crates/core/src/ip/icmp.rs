//! ICMP.
use crate::pkt::{Pkt, Verdict};
use crate::rand::Keyed;
use crate::shard::Shard;
/// Rate limits.
pub struct State;
impl State {
    /// Empty.
    pub fn new(_key: Keyed) -> State {
        State
    }
}
/// The any-address echo socket.
#[derive(Default)]
pub struct PingSock;
/// Sends protocol unreachable.
pub fn proto_unreachable(_cx: &mut Shard, _pkt: &Pkt) {}
/// Sends port unreachable.
pub fn port_unreachable(_cx: &mut Shard, _pkt: &Pkt) {}
/// Input.
pub fn icmp_rcv(_cx: &mut Shard, _pkt: Pkt) -> Verdict {
    Verdict::Taken
}
/// Queues to the echo socket.
pub fn ping_queue_rcv_skb(_cx: &mut Shard, _pkt: Pkt) -> Verdict {
    Verdict::Taken
}
