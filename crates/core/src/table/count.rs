//! The counters, under the names that Linux gives them.
//!
//! Counters are relaxed atomics with one writer, the shard's thread: as cheap as plain adds, and
//! readable by anybody at any time, also when the shard hangs.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::reason::{REASONS, Reason};
use super::stage::{Flow, STAGES, Stage, bump};

/// What a counter counts: the unit is a type, so that bytes can not be added to packets.
pub trait Unit {
    /// Its name, plural.
    const NAME: &'static str;
}
macro_rules! units {
    ($( $(#[doc = $doc:literal])+ $name:ident $text:literal )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}
        impl Unit for $name { const NAME: &'static str = $text; }
    )+ };
}
units! {
    /// Packets; a super-packet counts once, as in Linux.
    Packets "packets"
    /// Wire segments; a super-packet counts as many as it is cut into.
    Segs "segments"
    /// Things that happened.
    Events "events"
    /// Bytes.
    Bytes "bytes"
}

/// A counter and its unit.
pub struct Id<U>(Counter, PhantomData<U>);
impl<U> Clone for Id<U> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<U> Copy for Id<U> {}

/// One row of the counter table.
pub struct Row {
    /// The counter.
    pub counter: Counter,
    /// Our name for it: Linux's, with the group in front.
    pub name: &'static str,
    /// What it counts: the doc comment of the row.
    pub help: &'static str,
    /// The stage that moves it.
    pub stage: Stage,
    /// The unit, plural.
    pub unit: &'static str,
    /// `Group:Name` as in `/proc/net/snmp`, `/proc/net/netstat`, `snmp6`, `softnet_stat`, `dev`; or `none`.
    pub linux: &'static str,
}

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident { $stage:ident, $unit:ident, $linux:literal } )+) => {
        /// A counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Counter { $( $(#[doc = $doc])+ $name ),+ }

        /// The counters with their units, for code that counts.
        #[allow(non_upper_case_globals)]
        pub mod id {
            use super::*;
            $( $(#[doc = $doc])+ pub const $name: Id<$unit> = Id(Counter::$name, PhantomData); )+
        }

        impl Counter {
            /// The table.
            pub const ROWS: &'static [Row] = &[$( Row {
                counter: Counter::$name, name: stringify!($name), help: concat!($($doc),+),
                stage: Stage::$stage, unit: <$unit as Unit>::NAME, linux: $linux,
            } ),+];
        }
    };
}

/// How many counters there are.
pub const COUNTERS: usize = Counter::ROWS.len();

impl Counter {
    /// This counter's row.
    pub fn row(self) -> &'static Row {
        &Counter::ROWS[self as usize]
    }
    /// The counter called `name`: ours, Linux's, or Linux's with its group (`Udp:RcvbufErrors`).
    pub fn by_name(name: &str) -> Option<Counter> {
        let exact =
            |r: &&Row| r.name.eq_ignore_ascii_case(name) || r.linux.eq_ignore_ascii_case(name);
        let bare = |r: &&Row| {
            r.linux.split_once(':').is_some_and(|(_, bare)| bare.eq_ignore_ascii_case(name))
        };
        let rows = Counter::ROWS;
        rows.iter().find(exact).or_else(|| rows.iter().find(bare)).map(|r| r.counter)
    }
}

/// All the counts of one shard: stages, counters and drops by reason.
pub struct Counts {
    flows: [Flow; STAGES],
    counters: [AtomicU64; COUNTERS],
    /// By stage, because a reason may be given by another stage than the one of its row.
    drops: [[AtomicU64; REASONS]; STAGES],
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            flows: std::array::from_fn(|_| Flow::default()),
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            drops: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        }
    }
}

impl Counts {
    /// What went through a stage.
    #[inline]
    pub fn flow(&self, stage: Stage) -> &Flow {
        &self.flows[stage as usize]
    }
    /// Counts one packet, segment or event.
    #[inline]
    pub fn inc<U: Countable>(&self, id: Id<U>) {
        bump(&self.counters[id.0 as usize], 1);
    }
    /// Counts `n` packets, segments or events.
    #[inline]
    pub fn inc_by<U: Countable>(&self, id: Id<U>, n: u64) {
        bump(&self.counters[id.0 as usize], n);
    }
    /// Counts `n` bytes.
    #[inline]
    pub fn add_bytes(&self, id: Id<Bytes>, n: u64) {
        bump(&self.counters[id.0 as usize], n);
    }
    /// Takes back what was counted (gauges such as `Tcp:CurrEstab`).
    #[inline]
    pub fn dec<U: Countable>(&self, id: Id<U>) {
        let cell = &self.counters[id.0 as usize];
        cell.store(cell.load(Relaxed).saturating_sub(1), Relaxed);
    }
    /// Reads a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Relaxed)
    }
    /// How many packets were dropped for `reason`.
    pub fn drops(&self, reason: Reason) -> u64 {
        self.drops.iter().map(|stage| stage[reason as usize].load(Relaxed)).sum()
    }
    /// How many packets `stage` dropped for `reason`.
    pub fn drops_at(&self, stage: Stage, reason: Reason) -> u64 {
        self.drops[stage as usize][reason as usize].load(Relaxed)
    }
    /// Counts a drop: the reason, its stage, and the MIB counters of its row.
    #[inline]
    pub fn dropped(&self, stage: Stage, reason: Reason) {
        self.dropped_by(stage, reason, 1);
    }
    /// Counts `n` drops of a stage for the same reason. The only place that does.
    #[inline]
    pub fn dropped_by(&self, stage: Stage, reason: Reason, n: u64) {
        bump(&self.drops[stage as usize][reason as usize], n);
        self.flow(stage).drop(n);
        for also in reason.row().also {
            bump(&self.counters[*also as usize], n);
        }
    }
    /// The stages for which the law of conservation does not hold, with what is missing.
    pub fn unaccounted(&self) -> Vec<(Stage, i64)> {
        let miss = |s: &Stage| (*s, self.flow(*s).read().missing());
        Stage::ALL.iter().map(miss).filter(|(_, m)| *m != 0).collect()
    }
}

/// Units of which single ones happen.
pub trait Countable: Unit {}
impl Countable for Packets {}
impl Countable for Segs {}
impl Countable for Events {}

counters! {
    /// Packets read from devices.
    DevRxPackets { Ring, Packets, "dev:rx_packets" }
    /// Bytes read from devices.
    DevRxBytes { Ring, Bytes, "dev:rx_bytes" }
    /// Bad packets from devices, all kinds together.
    DevRxErrors { Ring, Packets, "dev:rx_errors" }
    /// Packets lost because the receive ring was full or no buffer was left.
    DevRxMissed { Ring, Packets, "dev:rx_missed_errors" }
    /// Packets that the stack itself dropped for want of room.
    DevRxDropped { Backlog, Packets, "dev:rx_dropped" }
    /// Frames shorter than their header.
    DevRxLengthErrors { Link, Packets, "dev:rx_length_errors" }
    /// Packets of a protocol that nobody here speaks.
    DevRxNohandler { Link, Packets, "dev:rx_nohandler" }
    /// Frames for other hosts.
    DevRxOtherhostDropped { Link, Packets, "dev:rx_otherhost_dropped" }
    /// Multicast frames received.
    DevRxMulticast { Link, Packets, "dev:multicast" }
    /// Times a device's readiness made the loop poll it: its interrupts.
    IrqRx { Irq, Events, "none" }
    /// Times the loop took in what a device had sent: its transmit interrupts.
    IrqTx { Irq, Events, "none" }
    /// Times a ready device was not polled yet, so that more could come (`rx-usecs`).
    IrqCoalesced { Irq, Events, "none" }
    /// Polls that a timer started while the interrupt was off (`napi_defer_hard_irqs`).
    IrqDeferred { Irq, Events, "none" }
    /// Times busy polling kept the interrupts off beyond the timers (`irq_suspend_timeout`).
    IrqSuspended { Irq, Events, "none" }
    /// Packets received by polling without an interrupt before it.
    TcpExtBusyPollRxPackets { Irq, Packets, "TcpExt:BusyPollRxPackets" }
    /// Packets that an XDP program let pass.
    XdpPass { Xdp, Packets, "none" }
    /// Packets that an XDP program dropped.
    XdpDrop { Xdp, Packets, "none" }
    /// Packets that an XDP program sent back by the device that they came from.
    XdpTx { Xdp, Packets, "none" }
    /// Packets that an XDP program sent to another device or shard.
    XdpRedirect { Xdp, Packets, "none" }
    /// Packets on which an XDP program failed, or that it sent nowhere.
    XdpAborted { Xdp, Packets, "none" }
    /// Times this shard took in what other shards had sent it.
    SoftnetReceivedRps { Steer, Events, "softnet:received_rps" }
    /// Packets dropped because their flow had more than its share of a filling backlog.
    SoftnetFlowLimitCount { Backlog, Packets, "softnet:flow_limit_count" }
    /// Packets copied for captures, each capture on its own.
    TapPackets { Tap, Packets, "none" }
    /// Packets that a capture wanted, and had no room for: its reader is too slow.
    TapDrops { Tap, Packets, "none" }
    /// Connections that left for another shard: after their reader, or because theirs went.
    RfsFlowsMoved { Steer, Events, "none" }
    /// Rules that accelerated RFS wrote into a device.
    ArfsFiltersAdded { Steer, Events, "none" }
    /// Rules of accelerated RFS that were taken out again.
    ArfsFiltersExpired { Steer, Events, "none" }
    /// News for other shards (neighbours, ICMP errors) that found no room in their mailboxes.
    SteerNewsLost { Steer, Events, "none" }
    /// Times a flow changed its transmit queue.
    XpsQueueChanged { Qdisc, Events, "none" }
    /// Packets that the poll loop took off rings and backlog.
    SoftnetProcessed { Poll, Packets, "softnet:processed" }
    /// Packets dropped because the backlog was full.
    SoftnetDropped { Backlog, Packets, "softnet:dropped" }
    /// Poll passes that ended with work left: the budget of packets was used up.
    SoftnetTimeSqueeze { Poll, Events, "softnet:time_squeeze" }
    /// Those of the squeezes where the packet budget (`netdev_budget`) ran out.
    SoftnetSqueezeBudget { Poll, Events, "none" }
    /// Those of the squeezes where the time budget (`netdev_budget_usecs`) ran out.
    SoftnetSqueezeTime { Poll, Events, "none" }
    /// Poll passes: what `NET_RX` is in `/proc/softirqs`.
    SoftirqNetRx { Poll, Events, "softirqs:NET_RX" }
    /// Transmit passes: what `NET_TX` is in `/proc/softirqs`.
    SoftirqNetTx { Xmit, Events, "softirqs:NET_TX" }
    /// Times the loop served timers: what `TIMER` is in `/proc/softirqs`.
    SoftirqTimer { Poll, Events, "softirqs:TIMER" }
    /// Segments that receive offload merged into others.
    GroMerged { Gro, Segs, "none" }
    /// Super-packets that receive offload completed.
    GroCompleted { Gro, Packets, "none" }
    /// IPv4 packets that reached `ip_rcv`, before any check.
    IpInReceives { Ip, Packets, "Ip:InReceives" }
    /// IPv4 packets dropped for an error in the header.
    IpInHdrErrors { Ip, Packets, "Ip:InHdrErrors" }
    /// IPv4 packets for an address that is not here.
    IpInAddrErrors { Route, Packets, "Ip:InAddrErrors" }
    /// IPv4 packets that were sent on towards their destination.
    IpForwDatagrams { Forward, Packets, "Ip:ForwDatagrams" }
    /// IPv4 packets of a protocol that nobody here speaks.
    IpInUnknownProtos { Demux, Packets, "Ip:InUnknownProtos" }
    /// IPv4 packets handed to a transport protocol.
    IpInDelivers { Demux, Packets, "Ip:InDelivers" }
    /// IPv4 packets that transport protocols asked to send.
    IpOutRequests { IpOut, Packets, "Ip:OutRequests" }
    /// IPv4 packets of ours for which there was no route.
    IpOutNoRoutes { IpOut, Packets, "Ip:OutNoRoutes" }
    /// Packets whose fragments did not all arrive in time.
    IpReasmTimeout { Reasm, Packets, "Ip:ReasmTimeout" }
    /// Fragments received.
    IpReasmReqds { Reasm, Packets, "Ip:ReasmReqds" }
    /// Packets put together from fragments.
    IpReasmOKs { Reasm, Packets, "Ip:ReasmOKs" }
    /// Failures of reassembly, whatever the cause.
    IpReasmFails { Reasm, Packets, "Ip:ReasmFails" }
    /// Packets that were fragmented.
    IpFragOKs { Frag, Packets, "Ip:FragOKs" }
    /// Packets that should have been fragmented but may not be.
    IpFragFails { Frag, Packets, "Ip:FragFails" }
    /// Fragments made.
    IpFragCreates { Frag, Packets, "Ip:FragCreates" }
    /// IPv4 packets handed to the neighbour stage.
    IpOutTransmits { Neigh, Packets, "Ip:OutTransmits" }
    /// IPv4 packets without a route on input.
    IpInNoRoutes { Route, Packets, "IpExt:InNoRoutes" }
    /// IPv4 packets shorter than they say.
    IpInTruncatedPkts { Ip, Packets, "IpExt:InTruncatedPkts" }
    /// IPv4 multicast packets received.
    IpInMcastPkts { Ip, Packets, "IpExt:InMcastPkts" }
    /// IPv4 multicast packets sent.
    IpOutMcastPkts { IpOut, Packets, "IpExt:OutMcastPkts" }
    /// IPv4 broadcast packets received.
    IpInBcastPkts { Ip, Packets, "IpExt:InBcastPkts" }
    /// IPv4 broadcast packets sent.
    IpOutBcastPkts { IpOut, Packets, "IpExt:OutBcastPkts" }
    /// Bytes of IPv4 packets received, headers included.
    IpInOctets { Ip, Bytes, "IpExt:InOctets" }
    /// Bytes of IPv4 packets sent, headers included.
    IpOutOctets { IpOut, Bytes, "IpExt:OutOctets" }
    /// IPv4 packets with a wrong header checksum.
    IpInCsumErrors { Ip, Packets, "IpExt:InCsumErrors" }
    /// IPv4 packets not capable of ECN.
    IpInNoECTPkts { Ip, Segs, "IpExt:InNoECTPkts" }
    /// IPv4 packets marked ECT(1).
    IpInECT1Pkts { Ip, Segs, "IpExt:InECT1Pkts" }
    /// IPv4 packets marked ECT(0).
    IpInECT0Pkts { Ip, Segs, "IpExt:InECT0Pkts" }
    /// IPv4 packets marked: congestion experienced.
    IpInCEPkts { Ip, Segs, "IpExt:InCEPkts" }
    /// IPv6 packets that reached `ipv6_rcv`, before any check.
    Ip6InReceives { Ip, Packets, "Ip6:InReceives" }
    /// IPv6 packets dropped for an error in a header.
    Ip6InHdrErrors { Ip, Packets, "Ip6:InHdrErrors" }
    /// IPv6 packets larger than the next link.
    Ip6InTooBigErrors { Forward, Packets, "Ip6:InTooBigErrors" }
    /// IPv6 packets without a route on input.
    Ip6InNoRoutes { Route, Packets, "Ip6:InNoRoutes" }
    /// IPv6 packets for an address that is not here.
    Ip6InAddrErrors { Route, Packets, "Ip6:InAddrErrors" }
    /// IPv6 packets of a next header that nobody here speaks.
    Ip6InUnknownProtos { Demux, Packets, "Ip6:InUnknownProtos" }
    /// IPv6 packets shorter than they say.
    Ip6InTruncatedPkts { Ip, Packets, "Ip6:InTruncatedPkts" }
    /// IPv6 packets dropped though nothing was wrong with them.
    Ip6InDiscards { Ip, Packets, "Ip6:InDiscards" }
    /// IPv6 packets handed to a transport protocol.
    Ip6InDelivers { Demux, Packets, "Ip6:InDelivers" }
    /// IPv6 packets that were sent on towards their destination.
    Ip6OutForwDatagrams { Forward, Packets, "Ip6:OutForwDatagrams" }
    /// IPv6 packets that transport protocols asked to send.
    Ip6OutRequests { IpOut, Packets, "Ip6:OutRequests" }
    /// IPv6 packets of ours for which there was no route.
    Ip6OutNoRoutes { IpOut, Packets, "Ip6:OutNoRoutes" }
    /// IPv6 packets whose fragments did not all arrive in time.
    Ip6ReasmTimeout { Reasm, Packets, "Ip6:ReasmTimeout" }
    /// IPv6 fragments received.
    Ip6ReasmReqds { Reasm, Packets, "Ip6:ReasmReqds" }
    /// IPv6 packets put together from fragments.
    Ip6ReasmOKs { Reasm, Packets, "Ip6:ReasmOKs" }
    /// Failures of IPv6 reassembly, whatever the cause.
    Ip6ReasmFails { Reasm, Packets, "Ip6:ReasmFails" }
    /// IPv6 packets that were fragmented.
    Ip6FragOKs { Frag, Packets, "Ip6:FragOKs" }
    /// IPv6 packets that should have been fragmented but may not be.
    Ip6FragFails { Frag, Packets, "Ip6:FragFails" }
    /// IPv6 fragments made.
    Ip6FragCreates { Frag, Packets, "Ip6:FragCreates" }
    /// IPv6 multicast packets received.
    Ip6InMcastPkts { Ip, Packets, "Ip6:InMcastPkts" }
    /// IPv6 multicast packets sent.
    Ip6OutMcastPkts { IpOut, Packets, "Ip6:OutMcastPkts" }
    /// Bytes of IPv6 packets received, headers included.
    Ip6InOctets { Ip, Bytes, "Ip6:InOctets" }
    /// Bytes of IPv6 packets sent, headers included.
    Ip6OutOctets { IpOut, Bytes, "Ip6:OutOctets" }
    /// IPv6 packets not capable of ECN.
    Ip6InNoECTPkts { Ip, Segs, "Ip6:InNoECTPkts" }
    /// IPv6 packets marked ECT(1).
    Ip6InECT1Pkts { Ip, Segs, "Ip6:InECT1Pkts" }
    /// IPv6 packets marked ECT(0).
    Ip6InECT0Pkts { Ip, Segs, "Ip6:InECT0Pkts" }
    /// IPv6 packets marked: congestion experienced.
    Ip6InCEPkts { Ip, Segs, "Ip6:InCEPkts" }
    /// IPv6 packets handed to the neighbour stage.
    Ip6OutTransmits { Neigh, Packets, "Ip6:OutTransmits" }
    /// ICMP messages received.
    IcmpInMsgs { Transport, Packets, "Icmp:InMsgs" }
    /// ICMP messages with an error of their own.
    IcmpInErrors { Transport, Packets, "Icmp:InErrors" }
    /// ICMP messages with a wrong checksum.
    IcmpInCsumErrors { Transport, Packets, "Icmp:InCsumErrors" }
    /// Destination-unreachable messages received.
    IcmpInDestUnreachs { Transport, Packets, "Icmp:InDestUnreachs" }
    /// Time-exceeded messages received.
    IcmpInTimeExcds { Transport, Packets, "Icmp:InTimeExcds" }
    /// Parameter-problem messages received.
    IcmpInParmProbs { Transport, Packets, "Icmp:InParmProbs" }
    /// Source-quench messages received (ignored, RFC 6633).
    IcmpInSrcQuenchs { Transport, Packets, "Icmp:InSrcQuenchs" }
    /// Redirects received.
    IcmpInRedirects { Transport, Packets, "Icmp:InRedirects" }
    /// Echo requests received.
    IcmpInEchos { Transport, Packets, "Icmp:InEchos" }
    /// Echo replies received.
    IcmpInEchoReps { Transport, Packets, "Icmp:InEchoReps" }
    /// Timestamp requests received.
    IcmpInTimestamps { Transport, Packets, "Icmp:InTimestamps" }
    /// Timestamp replies received.
    IcmpInTimestampReps { Transport, Packets, "Icmp:InTimestampReps" }
    /// ICMP messages sent.
    IcmpOutMsgs { Send, Packets, "Icmp:OutMsgs" }
    /// ICMP messages that could not be sent.
    IcmpOutErrors { Send, Packets, "Icmp:OutErrors" }
    /// ICMP messages withheld by the rate limit of all together.
    IcmpOutRateLimitGlobal { Send, Packets, "Icmp:OutRateLimitGlobal" }
    /// ICMP messages withheld by the rate limit of one destination.
    IcmpOutRateLimitHost { Send, Packets, "Icmp:OutRateLimitHost" }
    /// Destination-unreachable messages sent.
    IcmpOutDestUnreachs { Send, Packets, "Icmp:OutDestUnreachs" }
    /// Time-exceeded messages sent.
    IcmpOutTimeExcds { Send, Packets, "Icmp:OutTimeExcds" }
    /// Parameter-problem messages sent.
    IcmpOutParmProbs { Send, Packets, "Icmp:OutParmProbs" }
    /// Echo replies sent.
    IcmpOutEchoReps { Send, Packets, "Icmp:OutEchoReps" }
    /// ICMPv6 messages received.
    Icmp6InMsgs { Transport, Packets, "Icmp6:InMsgs" }
    /// ICMPv6 messages with an error of their own.
    Icmp6InErrors { Transport, Packets, "Icmp6:InErrors" }
    /// ICMPv6 messages sent.
    Icmp6OutMsgs { Send, Packets, "Icmp6:OutMsgs" }
    /// ICMPv6 messages that could not be sent.
    Icmp6OutErrors { Send, Packets, "Icmp6:OutErrors" }
    /// ICMPv6 messages with a wrong checksum.
    Icmp6InCsumErrors { Transport, Packets, "Icmp6:InCsumErrors" }
    /// ICMPv6 messages withheld by the rate limit of one destination.
    Icmp6OutRateLimitHost { Send, Packets, "Icmp6:OutRateLimitHost" }
    /// ICMPv6 destination-unreachable messages received.
    Icmp6InDestUnreachs { Transport, Packets, "Icmp6:InDestUnreachs" }
    /// Packet-too-big messages received.
    Icmp6InPktTooBigs { Transport, Packets, "Icmp6:InPktTooBigs" }
    /// ICMPv6 time-exceeded messages received.
    Icmp6InTimeExcds { Transport, Packets, "Icmp6:InTimeExcds" }
    /// ICMPv6 parameter-problem messages received.
    Icmp6InParmProblems { Transport, Packets, "Icmp6:InParmProblems" }
    /// ICMPv6 echo requests received.
    Icmp6InEchos { Transport, Packets, "Icmp6:InEchos" }
    /// ICMPv6 echo replies received.
    Icmp6InEchoReplies { Transport, Packets, "Icmp6:InEchoReplies" }
    /// Router solicitations received.
    Icmp6InRouterSolicits { Transport, Packets, "Icmp6:InRouterSolicits" }
    /// Router advertisements received.
    Icmp6InRouterAdvertisements { Transport, Packets, "Icmp6:InRouterAdvertisements" }
    /// Neighbour solicitations received.
    Icmp6InNeighborSolicits { Transport, Packets, "Icmp6:InNeighborSolicits" }
    /// Neighbour advertisements received.
    Icmp6InNeighborAdvertisements { Transport, Packets, "Icmp6:InNeighborAdvertisements" }
    /// ICMPv6 redirects received.
    Icmp6InRedirects { Transport, Packets, "Icmp6:InRedirects" }
    /// MLDv2 reports received.
    Icmp6InMLDv2Reports { Transport, Packets, "Icmp6:InMLDv2Reports" }
    /// ICMPv6 destination-unreachable messages sent.
    Icmp6OutDestUnreachs { Send, Packets, "Icmp6:OutDestUnreachs" }
    /// Packet-too-big messages sent.
    Icmp6OutPktTooBigs { Send, Packets, "Icmp6:OutPktTooBigs" }
    /// ICMPv6 time-exceeded messages sent.
    Icmp6OutTimeExcds { Send, Packets, "Icmp6:OutTimeExcds" }
    /// ICMPv6 parameter-problem messages sent.
    Icmp6OutParmProblems { Send, Packets, "Icmp6:OutParmProblems" }
    /// ICMPv6 echo replies sent.
    Icmp6OutEchoReplies { Send, Packets, "Icmp6:OutEchoReplies" }
    /// Neighbour solicitations sent.
    Icmp6OutNeighborSolicits { Send, Packets, "Icmp6:OutNeighborSolicits" }
    /// Neighbour advertisements sent.
    Icmp6OutNeighborAdvertisements { Send, Packets, "Icmp6:OutNeighborAdvertisements" }
    /// Router advertisements sent.
    Icmp6OutRouterAdvertisements { Send, Packets, "Icmp6:OutRouterAdvertisements" }
    /// UDP datagrams delivered to sockets.
    UdpInDatagrams { SockQueue, Packets, "Udp:InDatagrams" }
    /// UDP datagrams for ports that nobody bound.
    UdpNoPorts { Demux, Packets, "Udp:NoPorts" }
    /// UDP datagrams that were not delivered though they were for an open port, or were malformed:
    /// wrong checksum, wrong length, no room in the socket, no memory.
    UdpInErrors { Transport, Packets, "Udp:InErrors" }
    /// UDP datagrams sent.
    UdpOutDatagrams { Send, Packets, "Udp:OutDatagrams" }
    /// UDP datagrams dropped because the socket's receive buffer was full.
    UdpRcvbufErrors { SockQueue, Packets, "Udp:RcvbufErrors" }
    /// UDP datagrams not sent because the send buffer, or the queue below it, was full.
    UdpSndbufErrors { Send, Packets, "Udp:SndbufErrors" }
    /// UDP datagrams with a wrong checksum.
    UdpInCsumErrors { Transport, Packets, "Udp:InCsumErrors" }
    /// UDP datagrams dropped because all UDP sockets together hold too much memory.
    UdpMemErrors { SockQueue, Packets, "Udp:MemErrors" }
    /// IPv6 UDP datagrams delivered to sockets.
    Udp6InDatagrams { SockQueue, Packets, "Udp6:InDatagrams" }
    /// IPv6 UDP datagrams for ports that nobody bound.
    Udp6NoPorts { Demux, Packets, "Udp6:NoPorts" }
    /// IPv6 UDP datagrams that were not delivered though they were for an open port, or were
    /// malformed: wrong checksum, wrong length, no room in the socket, no memory.
    Udp6InErrors { Transport, Packets, "Udp6:InErrors" }
    /// IPv6 UDP datagrams sent.
    Udp6OutDatagrams { Send, Packets, "Udp6:OutDatagrams" }
    /// IPv6 UDP datagrams dropped because the socket's receive buffer was full.
    Udp6RcvbufErrors { SockQueue, Packets, "Udp6:RcvbufErrors" }
    /// IPv6 UDP datagrams not sent because the send buffer was full.
    Udp6SndbufErrors { Send, Packets, "Udp6:SndbufErrors" }
    /// IPv6 UDP datagrams with a wrong checksum.
    Udp6InCsumErrors { Transport, Packets, "Udp6:InCsumErrors" }
    /// Connections opened by us.
    TcpActiveOpens { Send, Events, "Tcp:ActiveOpens" }
    /// Connections opened by a peer.
    TcpPassiveOpens { Transport, Events, "Tcp:PassiveOpens" }
    /// Attempts to open that failed.
    TcpAttemptFails { Transport, Events, "Tcp:AttemptFails" }
    /// Established connections that were reset.
    TcpEstabResets { Transport, Events, "Tcp:EstabResets" }
    /// Connections in ESTABLISHED or CLOSE-WAIT now.
    TcpCurrEstab { Transport, Events, "Tcp:CurrEstab" }
    /// Segments received, those in error included.
    TcpInSegs { Transport, Segs, "Tcp:InSegs" }
    /// Segments sent, retransmissions excluded.
    TcpOutSegs { Send, Segs, "Tcp:OutSegs" }
    /// Segments retransmitted.
    TcpRetransSegs { Send, Segs, "Tcp:RetransSegs" }
    /// Segments received in error.
    TcpInErrs { Transport, Packets, "Tcp:InErrs" }
    /// Resets sent.
    TcpOutRsts { Send, Segs, "Tcp:OutRsts" }
    /// Segments with a wrong checksum.
    TcpInCsumErrors { Transport, Packets, "Tcp:InCsumErrors" }
    /// Resets that ended half-open connections.
    TcpExtEmbryonicRsts { Transport, Events, "TcpExt:EmbryonicRsts" }
    /// Times the receive queue was pruned for want of memory.
    TcpExtPruneCalled { SockQueue, Events, "TcpExt:PruneCalled" }
    /// Segments dropped because nothing that could be thrown away made room for them.
    TcpExtRcvPruned { SockQueue, Events, "TcpExt:RcvPruned" }
    /// Packets whose data was copied together with others', for want of memory.
    TcpExtTCPRcvCollapsed { SockQueue, Packets, "TcpExt:TCPRcvCollapsed" }
    /// Times all sockets together came to hold more than the second value of `tcp_mem`.
    TcpExtTCPMemoryPressures { SockQueue, Events, "TcpExt:TCPMemoryPressures" }
    /// Milliseconds until they held less than the first value again.
    TcpExtTCPMemoryPressuresChrono { SockQueue, Events, "TcpExt:TCPMemoryPressuresChrono" }
    /// Segments that begin behind the receive window.
    TcpExtBeyondWindow { Transport, Packets, "TcpExt:BeyondWindow" }
    /// Connections of nobody that were reset because there are too many, or too much memory is held.
    TcpExtTCPAbortOnMemory { Send, Events, "TcpExt:TCPAbortOnMemory" }
    /// Connections of nobody that were not to wait in FIN_WAIT_2 (TCP_LINGER2).
    TcpExtTCPAbortOnLinger { Send, Events, "TcpExt:TCPAbortOnLinger" }
    /// Resets that could not be sent for want of packet memory.
    TcpExtTCPAbortFailed { Send, Events, "TcpExt:TCPAbortFailed" }
    /// Acknowledgements of handshakes that were not answered by a connection yet: data is waited for.
    TcpExtTCPDeferAcceptDrop { Transport, Packets, "TcpExt:TCPDeferAcceptDrop" }
    /// Answers to half-open connections' strange segments that the rate limit held back.
    TcpExtTCPACKSkippedSynRecv { Send, Packets, "TcpExt:TCPACKSkippedSynRecv" }
    /// Answers to old timestamps that the rate limit held back.
    TcpExtTCPACKSkippedPAWS { Send, Packets, "TcpExt:TCPACKSkippedPAWS" }
    /// Answers in FIN_WAIT_2 without an owner that the rate limit held back.
    TcpExtTCPACKSkippedFinWait2 { Send, Packets, "TcpExt:TCPACKSkippedFinWait2" }
    /// Answers in TIME_WAIT that the rate limit held back.
    TcpExtTCPACKSkippedTimeWait { Send, Packets, "TcpExt:TCPACKSkippedTimeWait" }
    /// Challenge acknowledgements that the rate limit held back.
    TcpExtTCPACKSkippedChallenge { Send, Packets, "TcpExt:TCPACKSkippedChallenge" }
    /// Out-of-order queues pruned for want of memory.
    TcpExtOfoPruned { SockQueue, Events, "TcpExt:OfoPruned" }
    /// ICMP errors for sequence numbers outside the window.
    TcpExtOutOfWindowIcmps { Transport, Packets, "TcpExt:OutOfWindowIcmps" }
    /// Connections that began to wait for their end (TIME_WAIT, FIN_WAIT_2 without an owner).
    TcpExtTW { Transport, Events, "TcpExt:TW" }
    /// Connections closed without TIME_WAIT, because `tcp_max_tw_buckets` entries were there.
    TcpExtTCPTimeWaitOverflow { Transport, Events, "TcpExt:TCPTimeWaitOverflow" }
    /// TIME_WAIT entries reused for a new connection.
    TcpExtTWRecycled { Transport, Events, "TcpExt:TWRecycled" }
    /// Answers to our SYNs rejected for a timestamp that was not sent with them.
    TcpExtPAWSActive { Transport, Packets, "TcpExt:PAWSActive" }
    /// Segments rejected in established connections for an old timestamp.
    TcpExtPAWSEstab { Transport, Packets, "TcpExt:PAWSEstab" }
    /// Acknowledgements with an old timestamp, overtaken by others.
    TcpExtPAWSOldAck { Transport, Packets, "TcpExt:PAWSOldAck" }
    /// Segments rejected in TIME_WAIT for an old timestamp.
    TcpExtPAWSTimewait { Transport, Packets, "TcpExt:PAWSTimewait" }
    /// Ends of handshakes that echo a timestamp which the SYN-ACK never had.
    TcpExtTSEcrRejected { Transport, Packets, "TcpExt:TSEcrRejected" }
    /// Of these, beside the others: those that wait for four seconds at the most.
    TcpExtTWKilled { Transport, Events, "TcpExt:TWKilled" }
    /// Delayed acknowledgements sent.
    TcpExtDelayedACKs { Send, Packets, "TcpExt:DelayedACKs" }
    /// Times the delayed-ACK mode was left because the peer retransmitted.
    TcpExtDelayedACKLost { Transport, Events, "TcpExt:DelayedACKLost" }
    /// Connections refused because the accept queue was full.
    TcpExtListenOverflows { Transport, Events, "TcpExt:ListenOverflows" }
    /// SYNs to listening sockets that were dropped.
    TcpExtListenDrops { Transport, Events, "TcpExt:ListenDrops" }
    /// Segments handled on the header-prediction fast path.
    TcpExtTCPHPHits { Transport, Packets, "TcpExt:TCPHPHits" }
    /// Pure acknowledgements.
    TcpExtTCPPureAcks { Transport, Packets, "TcpExt:TCPPureAcks" }
    /// Acknowledgements handled on the fast path.
    TcpExtTCPHPAcks { Transport, Packets, "TcpExt:TCPHPAcks" }
    /// Recoveries begun by SACK.
    TcpExtTCPSackRecovery { Transport, Events, "TcpExt:TCPSackRecovery" }
    /// Recoveries begun by duplicate acknowledgements without SACK.
    TcpExtTCPRenoRecovery { Transport, Events, "TcpExt:TCPRenoRecovery" }
    /// Peers that took back a selective acknowledgement.
    TcpExtTCPSACKReneging { Transport, Events, "TcpExt:TCPSACKReneging" }
    /// Segments retransmitted in fast recovery.
    TcpExtTCPFastRetrans { Send, Segs, "TcpExt:TCPFastRetrans" }
    /// Segments retransmitted in slow start after a time-out.
    TcpExtTCPSlowStartRetrans { Send, Segs, "TcpExt:TCPSlowStartRetrans" }
    /// Retransmission time-outs.
    TcpExtTCPTimeouts { Send, Events, "TcpExt:TCPTimeouts" }
    /// Tail-loss probes sent.
    TcpExtTCPLossProbes { Send, Events, "TcpExt:TCPLossProbes" }
    /// Retransmissions found lost.
    TcpExtTCPLostRetransmit { Transport, Segs, "TcpExt:TCPLostRetransmit" }
    /// Congestion-window reductions undone by timestamps or DSACK.
    TcpExtTCPFullUndo { Transport, Events, "TcpExt:TCPFullUndo" }
    /// The same within a recovery, before all of what was out is acknowledged.
    TcpExtTCPPartialUndo { Transport, Events, "TcpExt:TCPPartialUndo" }
    /// The same because all that was sent again arrived twice.
    TcpExtTCPDSACKUndo { Transport, Events, "TcpExt:TCPDSACKUndo" }
    /// The same after a time-out.
    TcpExtTCPLossUndo { Transport, Events, "TcpExt:TCPLossUndo" }
    /// Time-outs that what arrived afterwards showed to be spurious (F-RTO).
    TcpExtTCPSpuriousRTOs { Transport, Events, "TcpExt:TCPSpuriousRTOs" }
    /// The first time-out of a connection that was in fast recovery, with SACK.
    TcpExtTCPSackRecoveryFail { Send, Events, "TcpExt:TCPSackRecoveryFail" }
    /// The same without SACK.
    TcpExtTCPRenoRecoveryFail { Send, Events, "TcpExt:TCPRenoRecoveryFail" }
    /// The first time-out after another one that was not over yet.
    TcpExtTCPLossFailures { Send, Events, "TcpExt:TCPLossFailures" }
    /// The first time-out where something had arrived out of order, with SACK.
    TcpExtTCPSackFailures { Send, Events, "TcpExt:TCPSackFailures" }
    /// The same without SACK.
    TcpExtTCPRenoFailures { Send, Events, "TcpExt:TCPRenoFailures" }
    /// Tail loss probes that repaired a loss nothing else told of.
    TcpExtTCPLossProbeRecovery { Transport, Events, "TcpExt:TCPLossProbeRecovery" }
    /// Reordering found by SACK.
    TcpExtTCPSACKReorder { Transport, Events, "TcpExt:TCPSACKReorder" }
    /// Reordering found by duplicate acknowledgements, more than there can be.
    TcpExtTCPRenoReorder { Transport, Events, "TcpExt:TCPRenoReorder" }
    /// Reordering found by timestamps.
    TcpExtTCPTSReorder { Transport, Events, "TcpExt:TCPTSReorder" }
    /// SACK blocks received that name nothing which is under way.
    TcpExtTCPSACKDiscard { Transport, Events, "TcpExt:TCPSACKDiscard" }
    /// DSACKs received for data that was not acknowledged yet.
    TcpExtTCPDSACKOfoRecv { Transport, Packets, "TcpExt:TCPDSACKOfoRecv" }
    /// Segments that DSACKs reported.
    TcpExtTCPDSACKRecvSegs { Transport, Segs, "TcpExt:TCPDSACKRecvSegs" }
    /// DSACKs for data sent long ago.
    TcpExtTCPDSACKIgnoredOld { Transport, Packets, "TcpExt:TCPDSACKIgnoredOld" }
    /// DSACKs while there is nothing to undo.
    TcpExtTCPDSACKIgnoredNoUndo { Transport, Packets, "TcpExt:TCPDSACKIgnoredNoUndo" }
    /// DSACKs that can not be true: more than was ever sent twice.
    TcpExtTCPDSACKIgnoredDubious { Transport, Packets, "TcpExt:TCPDSACKIgnoredDubious" }
    /// DSACKs sent for segments that came twice.
    TcpExtTCPDSACKOldSent { Send, Packets, "TcpExt:TCPDSACKOldSent" }
    /// DSACKs sent for out-of-order segments that came twice.
    TcpExtTCPDSACKOfoSent { Send, Packets, "TcpExt:TCPDSACKOfoSent" }
    /// DSACKs received.
    TcpExtTCPDSACKRecv { Transport, Packets, "TcpExt:TCPDSACKRecv" }
    /// Connections reset because data came after they were closed.
    TcpExtTCPAbortOnData { Transport, Events, "TcpExt:TCPAbortOnData" }
    /// Connections reset because they were closed with data unread.
    TcpExtTCPAbortOnClose { Send, Events, "TcpExt:TCPAbortOnClose" }
    /// Connections given up after too many time-outs.
    TcpExtTCPAbortOnTimeout { Send, Events, "TcpExt:TCPAbortOnTimeout" }
    /// Connections of ours whose data went with the SYN and was taken whole (RFC 7413).
    TcpExtTCPFastOpenActive { Transport, Events, "TcpExt:TCPFastOpenActive" }
    /// Connections of ours whose data in the SYN has to be sent again.
    TcpExtTCPFastOpenActiveFail { Transport, Events, "TcpExt:TCPFastOpenActiveFail" }
    /// How often Fast Open paused, because something on the way seems to swallow it.
    TcpExtTCPFastOpenBlackhole { Transport, Events, "TcpExt:TCPFastOpenBlackhole" }
    /// Connections that the cookie in their SYN opened.
    TcpExtTCPFastOpenPassive { Transport, Events, "TcpExt:TCPFastOpenPassive" }
    /// SYNs with a cookie that is none of ours.
    TcpExtTCPFastOpenPassiveFail { Transport, Packets, "TcpExt:TCPFastOpenPassiveFail" }
    /// SYNs for which the listener had too many connections opened by Fast Open under way.
    TcpExtTCPFastOpenListenOverflow { Transport, Packets, "TcpExt:TCPFastOpenListenOverflow" }
    /// SYNs that asked for a cookie.
    TcpExtTCPFastOpenCookieReqd { Transport, Packets, "TcpExt:TCPFastOpenCookieReqd" }
    /// Connections that a cookie made with the second key opened.
    TcpExtTCPFastOpenPassiveAltKey { Transport, Events, "TcpExt:TCPFastOpenPassiveAltKey" }
    /// SYN cookies sent.
    TcpExtSyncookiesSent { Send, Packets, "TcpExt:SyncookiesSent" }
    /// Acknowledgements with a SYN cookie of ours, each a connection.
    TcpExtSyncookiesRecv { Transport, Packets, "TcpExt:SyncookiesRecv" }
    /// Acknowledgements to a listener that sends cookies, with none of ours.
    TcpExtSyncookiesFailed { Transport, Packets, "TcpExt:SyncookiesFailed" }
    /// Half-open connections beyond the listen backlog: SYNs answered by a cookie.
    TcpExtTCPReqQFullDoCookies { Transport, Events, "TcpExt:TCPReqQFullDoCookies" }
    /// Half-open connections beyond the listen backlog or `tcp_max_syn_backlog`: SYNs dropped.
    TcpExtTCPReqQFullDrop { Transport, Events, "TcpExt:TCPReqQFullDrop" }
    /// Segments retransmitted, SYNs included, that failed to be sent.
    TcpExtTCPRetransFail { Send, Segs, "TcpExt:TCPRetransFail" }
    /// Bursts received in order that were coalesced with what was queued.
    TcpExtTCPRcvCoalesce { SockQueue, Packets, "TcpExt:TCPRcvCoalesce" }
    /// Segments without a signature where a key was set.
    TcpExtTCPMD5NotFound { Transport, Packets, "TcpExt:TCPMD5NotFound" }
    /// Segments with a signature where no key was set.
    TcpExtTCPMD5Unexpected { Transport, Packets, "TcpExt:TCPMD5Unexpected" }
    /// Segments whose signature was wrong.
    TcpExtTCPMD5Failure { Transport, Packets, "TcpExt:TCPMD5Failure" }
    /// Probes of the path's MTU that were lost.
    TcpExtTCPMTUPFail { Send, Packets, "TcpExt:TCPMTUPFail" }
    /// Probes of the path's MTU that arrived.
    TcpExtTCPMTUPSuccess { Send, Packets, "TcpExt:TCPMTUPSuccess" }
    /// Segments queued out of order.
    TcpExtTCPOFOQueue { SockQueue, Packets, "TcpExt:TCPOFOQueue" }
    /// Acknowledgements of out-of-order segments that were not sent, because one later tells as much.
    TcpExtTCPAckCompressed { Send, Packets, "TcpExt:TCPAckCompressed" }
    /// Out-of-order segments that were merged with others.
    TcpExtTCPOFOMerge { SockQueue, Packets, "TcpExt:TCPOFOMerge" }
    /// Out-of-order segments dropped for want of memory.
    TcpExtTCPOFODrop { SockQueue, Packets, "TcpExt:TCPOFODrop" }
    /// Challenge acknowledgements sent (RFC 5961).
    TcpExtTCPChallengeACK { Send, Packets, "TcpExt:TCPChallengeACK" }
    /// SYNs inside connections that were answered by a challenge.
    TcpExtTCPSYNChallenge { Transport, Packets, "TcpExt:TCPSYNChallenge" }
    /// Duplicate or out-of-window segments whose answer the rate limit withheld.
    TcpExtTCPACKSkipped { Send, Packets, "TcpExt:TCPACKSkippedSeq" }
    /// Times the window fell to zero.
    TcpExtTCPToZeroWindowAdv { Send, Events, "TcpExt:TCPToZeroWindowAdv" }
    /// Times the window rose from zero.
    TcpExtTCPFromZeroWindowAdv { Send, Events, "TcpExt:TCPFromZeroWindowAdv" }
    /// Times a zero window was wanted but could not be told.
    TcpExtTCPWantZeroWindowAdv { Send, Events, "TcpExt:TCPWantZeroWindowAdv" }
    /// Segments dropped because the window is closed.
    TcpExtTCPZeroWindowDrop { Transport, Packets, "TcpExt:TCPZeroWindowDrop" }
    /// Data segments dropped because the receive queue was full.
    TcpExtTCPRcvQDrop { SockQueue, Packets, "TcpExt:TCPRcvQDrop" }
    /// SYN and SYN-ACK retransmissions.
    TcpExtTCPSynRetrans { Send, Segs, "TcpExt:TCPSynRetrans" }
    /// Data segments sent as they were written first.
    TcpExtTCPOrigDataSent { Send, Segs, "TcpExt:TCPOrigDataSent" }
    /// Keepalive probes sent.
    TcpExtTCPKeepAlive { Send, Packets, "TcpExt:TCPKeepAlive" }
    /// Zero-window probes sent.
    TcpExtTCPWinProbe { Send, Packets, "TcpExt:TCPWinProbe" }
    /// Segments whose delivery was confirmed.
    TcpExtTCPDelivered { Transport, Segs, "TcpExt:TCPDelivered" }
    /// Segments whose acknowledgements echoed a mark of congestion (ECN).
    TcpExtTCPDeliveredCE { Transport, Segs, "TcpExt:TCPDeliveredCE" }
    /// Congestion windows with which slow start ended because the delay grew (HyStart++), summed up.
    TcpExtTCPHystartDelayCwnd { Transport, Segs, "TcpExt:TCPHystartDelayCwnd" }
    /// Times that slow start ended because the delay grew (HyStart++).
    TcpExtTCPHystartDelayDetect { Transport, Events, "TcpExt:TCPHystartDelayDetect" }
    /// Packets that the reverse-path filter refused.
    TcpExtIPReversePathFilter { Route, Packets, "TcpExt:IPReversePathFilter" }
    /// Neighbour-table entries refused because the table was full.
    NeighTableFulls { Neigh, Events, "arp_cache:table_fulls" }
    /// Packets dropped because too many waited for a neighbour.
    NeighUnresDiscards { Neigh, Packets, "arp_cache:unresolved_discards" }
    /// Neighbour look-ups.
    NeighLookups { Neigh, Events, "arp_cache:lookups" }
    /// Neighbour look-ups that hit.
    NeighHits { Neigh, Events, "arp_cache:hits" }
    /// Neighbours that did not answer.
    NeighResFailed { Neigh, Events, "arp_cache:res_failed" }
    /// Super-packets cut in software.
    GsoSegmented { Gso, Packets, "none" }
    /// Segments made by cutting super-packets in software.
    GsoSegs { Gso, Segs, "none" }
    /// Packets handed to devices.
    DevTxPackets { Xmit, Packets, "dev:tx_packets" }
    /// Bytes handed to devices.
    DevTxBytes { Xmit, Bytes, "dev:tx_bytes" }
    /// Packets that devices refused.
    DevTxErrors { Xmit, Packets, "dev:tx_errors" }
    /// Packets dropped before the device: transmit queue full.
    DevTxDropped { Qdisc, Packets, "dev:tx_dropped" }
    /// Times a device had no room and packets were put back into the queue.
    QdiscRequeues { Xmit, Packets, "qdisc:requeues" }
}
