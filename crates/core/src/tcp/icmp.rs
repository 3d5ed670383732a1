//! What ICMP errors do to connections.

use std::net::IpAddr;

use crate::seq::Seq;
use crate::shard::Shard;

/// The kind of an ICMP error, whichever version it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrKind {
    /// No route to the network.
    NetUnreach,
    /// The host does not answer.
    HostUnreach,
    /// The host does not speak the protocol.
    ProtoUnreach,
    /// Nobody has the port.
    PortUnreach,
    /// The packet was larger than this MTU, in bytes, and may not be fragmented.
    FragNeeded(u32),
    /// A filter prohibits it.
    Prohibited,
    /// The TTL or hop limit ran out.
    TimeExceeded,
    /// A header field makes no sense.
    ParamProblem,
}

/// What an ICMP error quotes of a TCP segment of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpQuote {
    /// Our address.
    pub src: IpAddr,
    /// The peer's.
    pub dst: IpAddr,
    /// Our port.
    pub sport: u16,
    /// The peer's.
    pub dport: u16,
    /// Its sequence number.
    pub seq: Seq,
}

/// An ICMP error about a segment of ours arrived (`tcp_v4_err`, `tcp_v6_err`).
pub fn tcp_v4_err(cx: &mut Shard, quote: &TcpQuote, kind: ErrKind) {
    let _ = (cx, quote, kind);
}
