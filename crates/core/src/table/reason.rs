//! Why a packet was dropped. A stage names only the reason; the counters that it also moves, and
//! the knob that governs it, follow from the row.

use super::count::Counter;
use super::stage::Stage;

/// One row of the drop-reason table.
pub struct Row {
    /// The reason.
    pub reason: Reason,
    /// Its name.
    pub name: &'static str,
    /// What it means: the doc comment of the row.
    pub help: &'static str,
    /// The stage that gives it.
    pub stage: Stage,
    /// Linux's name without `SKB_DROP_REASON_`, or `none`.
    pub linux: &'static str,
    /// The MIB counters that move with it.
    pub also: &'static [Counter],
    /// The knob that governs it, by path, or `none`.
    pub knob: &'static str,
}

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident {
        stage: $stage:ident, linux: $linux:literal, also: [$($also:ident),*], knob: $knob:literal
    } )+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $( $(#[doc = $doc])+ $name ),+ }

        impl Reason {
            /// Every reason, in table order.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),+];
            /// The table.
            pub const ROWS: &'static [Row] = &[$( Row {
                reason: Reason::$name, name: stringify!($name), help: concat!($($doc),+),
                stage: Stage::$stage, linux: $linux,
                also: &[$(Counter::$also),*], knob: $knob,
            } ),+];
        }
    };
}

/// How many reasons there are.
pub const REASONS: usize = Reason::ROWS.len();

impl Reason {
    /// This reason's row.
    pub fn row(self) -> &'static Row {
        &Reason::ROWS[self as usize]
    }
    /// The name that users see: Linux's where there is one, ours otherwise.
    pub fn label(self) -> &'static str {
        let row = self.row();
        if row.linux == "none" { row.name } else { row.linux }
    }
    /// The reason called `name`, by our name or Linux's, with or without `SKB_DROP_REASON_`.
    pub fn by_name(name: &str) -> Option<Reason> {
        let bare = name.strip_prefix("SKB_DROP_REASON_").unwrap_or(name);
        let hit = |r: &&Row| {
            r.name.eq_ignore_ascii_case(bare)
                || (r.linux != "none" && r.linux.eq_ignore_ascii_case(bare))
        };
        Reason::ROWS.iter().find(hit).map(|r| r.reason)
    }
}

reasons! {
    /// The receive ring was full: the application, or the loop, does not keep up.
    RingFull { stage: Ring, linux: "FULL_RING", also: [DevRxMissed], knob: "ring.rx" }
    /// No buffer was left to read a packet into.
    RingNoBuf { stage: Ring, linux: "NOMEM", also: [DevRxMissed], knob: "pool.large" }
    /// The frame was larger than the room to receive it, and its end was cut off.
    RingTruncated { stage: Ring, linux: "PKT_TOO_BIG", also: [DevRxLengthErrors, DevRxErrors], knob: "none" }
    /// The virtio-net header in front of the packet contradicts the packet.
    VnetHdr { stage: Ring, linux: "DEV_HDR", also: [DevRxErrors], knob: "none" }
    /// An XDP program said so.
    Xdp { stage: Xdp, linux: "XDP", also: [XdpDrop], knob: "none" }
    /// An XDP program failed, or sent the packet to a device or shard that does not exist.
    XdpAborted { stage: Xdp, linux: "none", also: [XdpAborted], knob: "none" }
    /// An XDP program sent the packet out by a device whose ring is full.
    XdpTxFull { stage: Xdp, linux: "none", also: [DevTxDropped], knob: "ring.tx" }
    /// The shard's input queue was filling, and the packet's flow had more than half of what came last.
    FlowLimit { stage: Backlog, linux: "none", also: [SoftnetDropped, DevRxDropped], knob: "net.core.flow_limit_cpu_bitmap" }
    /// The shard's input queue was full.
    CpuBacklog { stage: Backlog, linux: "CPU_BACKLOG", also: [SoftnetDropped, DevRxDropped], knob: "net.core.netdev_max_backlog" }
    /// A rule at ingress said so.
    TcIngress { stage: Ingress, linux: "TC_INGRESS", also: [], knob: "none" }
    /// The frame is shorter than an Ethernet header.
    LinkTruncated { stage: Link, linux: "DEV_HDR", also: [DevRxLengthErrors, DevRxErrors], knob: "none" }
    /// The frame is for another MAC address and the device is not promiscuous.
    OtherHost { stage: Link, linux: "OTHERHOST", also: [DevRxOtherhostDropped], knob: "dev.promisc" }
    /// Nobody here speaks this ethertype.
    UnhandledProto { stage: Link, linux: "UNHANDLED_PROTO", also: [DevRxNohandler], knob: "none" }
    /// A VLAN tag of a VLAN that does not exist here.
    VlanUnknown { stage: Link, linux: "none", also: [DevRxDropped], knob: "none" }
    /// An ARP packet that is malformed or not for us.
    ArpInvalid { stage: Link, linux: "none", also: [], knob: "none" }
    /// A multicast or broadcast frame that carries a unicast IP packet (RFC 1122 §3.3.6).
    UnicastInL2Multicast { stage: Ip, linux: "UNICAST_IN_L2_MULTICAST", also: [], knob: "net.ipv4.conf.all.drop_unicast_in_l2_multicast" }
    /// The packet is shorter than its IP header says.
    IpTruncated { stage: Ip, linux: "PKT_TOO_SMALL", also: [IpInTruncatedPkts], knob: "none" }
    /// An IPv4 header field is wrong: version, length or options.
    IpHdr { stage: Ip, linux: "IP_INHDR", also: [IpInHdrErrors], knob: "none" }
    /// The IPv4 header checksum is wrong.
    IpCsum { stage: Ip, linux: "IP_CSUM", also: [IpInCsumErrors, IpInHdrErrors], knob: "none" }
    /// The packet is shorter than its IPv6 header says.
    Ip6Truncated { stage: Ip, linux: "PKT_TOO_SMALL", also: [Ip6InTruncatedPkts], knob: "none" }
    /// An IPv6 header field or extension header is wrong.
    Ip6Hdr { stage: Ip, linux: "IP_INHDR", also: [Ip6InHdrErrors], knob: "none" }
    /// The IPv6 source or destination address may not appear on the wire.
    Ip6Addr { stage: Ip, linux: "IP_INADDRERRORS", also: [Ip6InAddrErrors], knob: "none" }
    /// An IPv6 hop-by-hop or destination option that says: discard me if you do not know me.
    Ip6Option { stage: Ip, linux: "IP_INHDR", also: [Ip6InHdrErrors], knob: "none" }
    /// IPv6 is switched off on the device.
    Ip6Disabled { stage: Ip, linux: "IPV6DISABLED", also: [Ip6InDiscards], knob: "net.ipv6.conf.all.disable_ipv6" }
    /// The source address may not appear on the wire, or not on this device.
    IpMartian { stage: Route, linux: "IP_LOCAL_SOURCE", also: [IpInAddrErrors], knob: "none" }
    /// The reverse path to the source is not this device (RFC 3704).
    IpRpFilter { stage: Route, linux: "IP_RPFILTER", also: [TcpExtIPReversePathFilter], knob: "net.ipv4.conf.all.rp_filter" }
    /// The packet is for somebody else and forwarding is off.
    IpNotForUs { stage: Route, linux: "IP_INADDRERRORS", also: [IpInAddrErrors], knob: "net.ipv4.ip_forward" }
    /// The packet is for somebody else and IPv6 forwarding is off.
    Ip6NotForUs { stage: Route, linux: "IP_INADDRERRORS", also: [Ip6InAddrErrors], knob: "net.ipv6.conf.all.forwarding" }
    /// No route to the destination.
    IpInNoRoute { stage: Route, linux: "IP_INNOROUTES", also: [IpInNoRoutes], knob: "none" }
    /// No IPv6 route to the destination.
    Ip6InNoRoute { stage: Route, linux: "IP_INNOROUTES", also: [Ip6InNoRoutes], knob: "none" }
    /// A route that says: refuse.
    RouteProhibit { stage: Route, linux: "none", also: [], knob: "none" }
    /// The packet may not be forwarded any further: its TTL or hop limit is used up.
    TtlExceeded { stage: Forward, linux: "IP_INHDR", also: [IpInHdrErrors], knob: "none" }
    /// The IPv6 packet may not be forwarded any further: its hop limit is used up.
    HopLimitExceeded { stage: Forward, linux: "IP_INHDR", also: [Ip6InHdrErrors], knob: "none" }
    /// The packet is larger than the next link and may not be fragmented.
    ForwardTooBig { stage: Forward, linux: "PKT_TOO_BIG", also: [IpFragFails], knob: "none" }
    /// The IPv6 packet is larger than the next link.
    Forward6TooBig { stage: Forward, linux: "PKT_TOO_BIG", also: [Ip6InTooBigErrors, Ip6FragFails], knob: "none" }
    /// A packet whose addresses may not be forwarded (link-local, loopback, multicast).
    ForwardScope { stage: Forward, linux: "IP_INADDRERRORS", also: [IpInAddrErrors], knob: "none" }
    /// Fragments of this packet did not all arrive in time.
    FragTimeout { stage: Reasm, linux: "FRAG_REASM_TIMEOUT", also: [IpReasmFails], knob: "net.ipv4.ipfrag_time" }
    /// IPv6 fragments of this packet did not all arrive in time.
    Frag6Timeout { stage: Reasm, linux: "FRAG_REASM_TIMEOUT", also: [Ip6ReasmFails], knob: "net.ipv6.ip6frag_time" }
    /// Fragments overlap: the whole packet is thrown away (RFC 5722).
    FragOverlap { stage: Reasm, linux: "DUP_FRAG", also: [IpReasmFails], knob: "none" }
    /// IPv6 fragments overlap: the whole packet is thrown away (RFC 5722).
    Frag6Overlap { stage: Reasm, linux: "DUP_FRAG", also: [Ip6ReasmFails], knob: "none" }
    /// A fragment that lies about its place: empty, beyond 65535 bytes, of a length not divisible by 8.
    FragInvalid { stage: Reasm, linux: "none", also: [IpReasmFails], knob: "none" }
    /// An IPv6 fragment that lies about its place.
    Frag6Invalid { stage: Reasm, linux: "none", also: [Ip6ReasmFails], knob: "none" }
    /// Fragments hold more memory than they may, or too many packets wait for theirs.
    FragMem { stage: Reasm, linux: "PROTO_MEM", also: [IpReasmFails], knob: "net.ipv4.ipfrag_high_thresh" }
    /// IPv6 fragments hold more memory than they may.
    Frag6Mem { stage: Reasm, linux: "PROTO_MEM", also: [Ip6ReasmFails], knob: "net.ipv6.ip6frag_high_thresh" }
    /// Too many other fragments of the same source came in between (Linux: `ip_frag_too_far`).
    FragTooFar { stage: Reasm, linux: "FRAG_TOO_FAR", also: [IpReasmFails], knob: "net.ipv4.ipfrag_max_dist" }
    /// No socket wants the packet.
    NoSocket { stage: Demux, linux: "NO_SOCKET", also: [], knob: "none" }
    /// Nobody here speaks this IP protocol.
    IpNoProto { stage: Demux, linux: "IP_NOPROTO", also: [IpInUnknownProtos], knob: "none" }
    /// Nobody here speaks this IPv6 next header.
    Ip6NoProto { stage: Demux, linux: "IP_NOPROTO", also: [Ip6InUnknownProtos], knob: "none" }
    /// The UDP datagram is shorter than its header, or than it says.
    UdpHdr { stage: Demux, linux: "PKT_TOO_SMALL", also: [UdpInErrors], knob: "none" }
    /// The IPv6 UDP datagram is shorter than its header, or than it says.
    Udp6Hdr { stage: Demux, linux: "PKT_TOO_SMALL", also: [Udp6InErrors], knob: "none" }
    /// No socket is bound to the UDP port.
    UdpNoPort { stage: Demux, linux: "NO_SOCKET", also: [UdpNoPorts], knob: "none" }
    /// No socket is bound to the UDP port (IPv6).
    Udp6NoPort { stage: Demux, linux: "NO_SOCKET", also: [Udp6NoPorts], knob: "none" }
    /// The UDP checksum is wrong.
    UdpCsum { stage: Transport, linux: "UDP_CSUM", also: [UdpInCsumErrors, UdpInErrors], knob: "none" }
    /// The UDP checksum is wrong or missing (IPv6).
    Udp6Csum { stage: Transport, linux: "UDP_CSUM", also: [Udp6InCsumErrors, Udp6InErrors], knob: "none" }
    /// The ICMP checksum is wrong.
    IcmpCsum { stage: Transport, linux: "ICMP_CSUM", also: [IcmpInCsumErrors, IcmpInErrors], knob: "none" }
    /// The ICMPv6 checksum is wrong.
    Icmp6Csum { stage: Transport, linux: "ICMP_CSUM", also: [Icmp6InCsumErrors, Icmp6InErrors], knob: "none" }
    /// An ICMP message that is too short, or quotes nonsense.
    IcmpInvalid { stage: Transport, linux: "none", also: [IcmpInErrors], knob: "none" }
    /// An ICMPv6 message that is too short, or quotes nonsense.
    Icmp6Invalid { stage: Transport, linux: "none", also: [Icmp6InErrors], knob: "none" }
    /// A neighbour-discovery message that fails the checks of RFC 4861.
    NdInvalid { stage: Transport, linux: "IPV6_NDISC_BAD_OPTIONS", also: [Icmp6InErrors], knob: "none" }
    /// An echo request that nobody may answer (`icmp_echo_ignore_*`), or nobody can pass on.
    IcmpIgnored { stage: Transport, linux: "none", also: [], knob: "net.ipv4.icmp_echo_ignore_all" }
    /// The TCP header is malformed.
    TcpHdr { stage: Demux, linux: "PKT_TOO_SMALL", also: [TcpInErrs], knob: "none" }
    /// The TCP checksum is wrong.
    TcpCsum { stage: Transport, linux: "TCP_CSUM", also: [TcpInCsumErrors, TcpInErrs], knob: "none" }
    /// Flags that no state allows.
    TcpFlags { stage: Transport, linux: "TCP_FLAGS", also: [], knob: "none" }
    /// The answer to a SYN echoes a timestamp that was not sent with it.
    TcpPawsActive { stage: Transport, linux: "TCP_RFC7323_TSECR", also: [TcpExtPAWSActive], knob: "none" }
    /// An old timestamp: protection against wrapped sequence numbers (RFC 7323 §5).
    TcpPaws { stage: Transport, linux: "TCP_RFC7323_PAWS", also: [TcpExtPAWSEstab], knob: "none" }
    /// The same of a mere acknowledgement that others have overtaken: it does no harm, and is not answered.
    TcpPawsAck { stage: Transport, linux: "TCP_RFC7323_PAWS_ACK", also: [TcpExtPAWSOldAck], knob: "none" }
    /// An old timestamp, for a connection in TIME_WAIT.
    TcpTwPaws { stage: Transport, linux: "TCP_RFC7323_TW_PAWS", also: [TcpExtPAWSTimewait], knob: "none" }
    /// The end of a handshake echoes a timestamp that the SYN-ACK never had.
    TcpTsEcr { stage: Transport, linux: "TCP_RFC7323_TSECR", also: [TcpExtTSEcrRejected], knob: "none" }
    /// Data that lies wholly before what is expected next.
    TcpOldData { stage: Transport, linux: "TCP_OLD_DATA", also: [], knob: "none" }
    /// Data that lies beyond the receive window.
    TcpOverWindow { stage: Transport, linux: "TCP_OVERWINDOW", also: [TcpExtBeyondWindow], knob: "net.ipv4.tcp_rmem" }
    /// The window is closed.
    TcpZeroWindow { stage: Transport, linux: "TCP_ZEROWINDOW", also: [TcpExtTCPZeroWindowDrop], knob: "net.ipv4.tcp_rmem" }
    /// A sequence number outside the window.
    TcpInvalidSequence { stage: Transport, linux: "TCP_INVALID_SEQUENCE", also: [], knob: "none" }
    /// An acknowledgement that is too old, or of data never sent (RFC 5961 §5).
    TcpInvalidAck { stage: Transport, linux: "TCP_TOO_OLD_ACK", also: [], knob: "none" }
    /// A SYN inside a connection (RFC 5961 §4).
    TcpInvalidSyn { stage: Transport, linux: "TCP_INVALID_SYN", also: [TcpExtTCPSYNChallenge], knob: "none" }
    /// A reset that ends a connection, or one that does not fit.
    TcpReset { stage: Transport, linux: "TCP_RESET", also: [], knob: "none" }
    /// The connection is closed, or closing: nobody will read this.
    TcpClose { stage: Transport, linux: "TCP_CLOSE", also: [], knob: "none" }
    /// The accept queue, or the SYN queue, is full.
    TcpListenOverflow { stage: Transport, linux: "TCP_LISTEN_OVERFLOW", also: [TcpExtListenOverflows, TcpExtListenDrops], knob: "net.core.somaxconn" }
    /// Too many half-open connections, and no cookies may be sent.
    TcpReqQFull { stage: Transport, linux: "none", also: [TcpExtTCPReqQFullDrop, TcpExtListenDrops], knob: "net.ipv4.tcp_max_syn_backlog" }
    /// The segment is not signed, and the connection has a key (RFC 2385).
    TcpMd5NotFound { stage: Transport, linux: "TCP_MD5NOTFOUND", also: [TcpExtTCPMD5NotFound], knob: "none" }
    /// The segment is signed, and the connection has no key.
    TcpMd5Unexpected { stage: Transport, linux: "TCP_MD5UNEXPECTED", also: [TcpExtTCPMD5Unexpected], knob: "none" }
    /// The segment's signature is wrong.
    TcpMd5Failure { stage: Transport, linux: "TCP_MD5FAILURE", also: [TcpExtTCPMD5Failure], knob: "none" }
    /// Out-of-order data was thrown away to make room.
    TcpOfoPrune { stage: SockQueue, linux: "TCP_OFO_QUEUE_PRUNE", also: [], knob: "net.ipv4.tcp_rmem" }
    /// A segment that lies wholly in out-of-order data that was received before.
    TcpOfoMerge { stage: Transport, linux: "TCP_OFOMERGE", also: [TcpExtTCPOFOMerge], knob: "none" }
    /// Out-of-order data for which the receive buffer has no room.
    TcpOfoDrop { stage: SockQueue, linux: "PROTO_MEM", also: [TcpExtTCPOFODrop], knob: "net.ipv4.tcp_rmem" }
    /// The TCP socket's receive buffer is full.
    TcpRcvQFull { stage: SockQueue, linux: "PROTO_MEM", also: [TcpExtTCPRcvQDrop], knob: "net.ipv4.tcp_rmem" }
    /// The socket's receive buffer is full.
    SocketRcvbuff { stage: SockQueue, linux: "SOCKET_RCVBUFF", also: [UdpRcvbufErrors, UdpInErrors], knob: "net.core.rmem_default" }
    /// The socket's receive buffer is full (IPv6).
    Socket6Rcvbuff { stage: SockQueue, linux: "SOCKET_RCVBUFF", also: [Udp6RcvbufErrors, Udp6InErrors], knob: "net.core.rmem_default" }
    /// All UDP sockets together hold more than `udp_mem` allows.
    ProtoMem { stage: SockQueue, linux: "PROTO_MEM", also: [UdpMemErrors, UdpInErrors], knob: "net.ipv4.udp_mem" }
    /// The socket was closed with this still unread.
    SocketClosed { stage: SockQueue, linux: "none", also: [], knob: "none" }
    /// No route for a packet of ours.
    IpOutNoRoute { stage: IpOut, linux: "IP_OUTNOROUTES", also: [IpOutNoRoutes], knob: "none" }
    /// No route for an IPv6 packet of ours.
    Ip6OutNoRoute { stage: IpOut, linux: "IP_OUTNOROUTES", also: [Ip6OutNoRoutes], knob: "none" }
    /// A packet of ours that is larger than the path allows and may not be fragmented.
    FragNeeded { stage: Frag, linux: "PKT_TOO_BIG", also: [IpFragFails], knob: "none" }
    /// An IPv6 packet of ours that is larger than the path allows and may not be fragmented.
    Frag6Needed { stage: Frag, linux: "PKT_TOO_BIG", also: [Ip6FragFails], knob: "none" }
    /// Nobody answers for the next hop's address.
    NeighFailed { stage: Neigh, linux: "NEIGH_FAILED", also: [], knob: "net.ipv4.neigh.default.mcast_solicit" }
    /// Too many packets wait for the next hop's link address.
    NeighQueueFull { stage: Neigh, linux: "NEIGH_QUEUEFULL", also: [NeighUnresDiscards], knob: "net.ipv4.neigh.default.unres_qlen_bytes" }
    /// The neighbour table is full.
    NeighTableFull { stage: Neigh, linux: "NEIGH_CREATEFAIL", also: [NeighTableFulls], knob: "net.ipv4.neigh.default.gc_thresh3" }
    /// The transmit queue is full, or another discipline has taken its place.
    QdiscDrop { stage: Qdisc, linux: "QDISC_DROP", also: [DevTxDropped], knob: "dev.txqueuelen" }
    /// The queueing discipline holds as much as its `limit` says.
    QdiscOverlimit { stage: Qdisc, linux: "QDISC_OVERLIMIT", also: [DevTxDropped], knob: "none" }
    /// CoDel dropped the packet: its queue's delay was too long for too long.
    QdiscCongested { stage: Qdisc, linux: "QDISC_CONGESTED", also: [DevTxDropped], knob: "none" }
    /// A flow has as many packets in `fq` as its `flow_limit` says.
    FqFlowLimit { stage: Qdisc, linux: "FQ_FLOW_LIMIT", also: [DevTxDropped], knob: "none" }
    /// The link that `netem` stands for lost the packet.
    NetemLoss { stage: Qdisc, linux: "none", also: [], knob: "none" }
    /// A super-packet that can not be split.
    GsoInvalid { stage: Gso, linux: "SKB_GSO_SEG", also: [DevTxDropped], knob: "none" }
    /// No packet buffers to cut a super-packet into.
    GsoNoMem { stage: Gso, linux: "NOMEM", also: [DevTxDropped], knob: "pool.small" }
    /// A packet whose checksum was left to the device says wrongly where it belongs.
    GsoCsum { stage: Gso, linux: "SKB_CSUM", also: [DevTxDropped], knob: "none" }
    /// The device refused the packet.
    DevTxError { stage: Xmit, linux: "DEV_READY", also: [DevTxErrors], knob: "none" }
}

#[cfg(test)]
mod tests {
    use super::Reason;
    use crate::table::Knobs;

    #[test]
    fn every_knob_that_a_reason_names_exists() {
        let wrong = |knob: &str| knob != "none" && Knobs::row(knob).is_err();
        assert!(wrong("dev.nonsense"), "the test can fail");
        for row in Reason::ROWS {
            assert!(!wrong(row.knob), "{} names the knob {}", row.name, row.knob);
        }
    }
}
