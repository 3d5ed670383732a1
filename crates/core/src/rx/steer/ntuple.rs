//! Rules that send chosen flows to chosen queues, before the indirection table is asked
//! (`ethtool -N`, `struct ethtool_rx_flow_spec`).

use std::net::IpAddr;

/// What a rule speaks of (`flow-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowType {
    /// TCP over IPv4.
    Tcp4,
    /// UDP over IPv4.
    Udp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv6.
    Udp6,
}

/// What happens to packets that a rule speaks of (`action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// They go to this queue.
    Queue(u8),
    /// They are dropped (`action -1`).
    Drop,
}

/// A rule: every field that is given must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Protocol and version.
    pub flow_type: FlowType,
    /// Source address.
    pub src: Option<IpAddr>,
    /// Destination address.
    pub dst: Option<IpAddr>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// What to do.
    pub action: RuleAction,
}
