//! ICMP.
use crate::pkt::{Pkt, Verdict};
use crate::rand::Keyed;
use crate::shard::{Net, Shard};
use crate::time::Instant;
use std::net::IpAddr;
/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpErr {
    /// No route.
    NetUnreach,
    /// Host.
    HostUnreach,
    /// Proto.
    ProtoUnreach,
    /// Port.
    PortUnreach,
    /// Too big: MTU.
    FragNeeded(u32),
    /// Filtered.
    Prohibited,
    /// TTL.
    TimeExceeded,
    /// Reassembly.
    FragTime,
    /// Header.
    ParamProblem {
        /// Code.
        code: u8,
        /// Pointer.
        pointer: u32,
    },
}
/// Rate limits.
pub struct State {
    pub(crate) idents: super::output::Idents,
}
impl State {
    /// Empty.
    pub fn new(key: Keyed) -> State {
        State { idents: super::output::Idents::new(key) }
    }
    /// Path MTU.
    #[inline]
    pub fn pmtu(&self, _dst: IpAddr, _now: Instant) -> Option<u32> {
        None
    }
}
/// The any-address echo socket.
#[derive(Default)]
pub struct PingSock;
/// Sends.
pub fn icmp_send(_net: &mut Net, _orig: &Pkt, _err: IcmpErr) {}
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
