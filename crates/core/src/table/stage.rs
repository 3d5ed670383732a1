//! The stops of a packet, in the order of its journey.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Which way a stage works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// From the device towards the application.
    Rx,
    /// From the application towards the device.
    Tx,
}

/// One row of the stage table.
pub struct Row {
    /// The stage.
    pub stage: Stage,
    /// Its name, as everywhere.
    pub name: &'static str,
    /// What it does: the doc comment of the row.
    pub help: &'static str,
    /// Which way it works.
    pub dir: Dir,
    /// The kernel's function with this job.
    pub linux: &'static str,
}

macro_rules! stages {
    ($( $(#[doc = $doc:literal])+ $name:ident { dir: $dir:ident, linux: $linux:literal } )+) => {
        /// A stop of the packet's journey. The order of the variants is the order of the journey.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Stage { $( $(#[doc = $doc])+ $name ),+ }

        impl Stage {
            /// Every stage, in order of the journey.
            pub const ALL: &'static [Stage] = &[$(Stage::$name),+];
            /// The table.
            pub const ROWS: &'static [Row] = &[$( Row {
                stage: Stage::$name, name: stringify!($name), help: concat!($($doc),+),
                dir: Dir::$dir, linux: $linux,
            } ),+];
        }
    };
}

stages! {
    /// The device's receive ring: packets that the device handed over, and those it had no room for.
    Ring { dir: Rx, linux: "the driver's receive ring (tun_net_xmit, veth_xmit, packet_rcv)" }
    /// What makes the loop look at a ring: readiness of the device, a timer, or polling without
    /// sleep; coalesced by time and count. No packet passes here: it has counters only.
    Irq { dir: Rx, linux: "the driver's interrupt handler, napi_schedule, napi_watchdog" }
    /// NAPI: takes packets off the rings, bounded by packets and by time, fairly over the devices.
    Poll { dir: Rx, linux: "net_rx_action, napi_poll" }
    /// The early hook, before any header work: pass, drop, send back, redirect.
    Xdp { dir: Rx, linux: "bpf_prog_run_xdp, do_xdp_generic" }
    /// Generic receive offload: merges segments of one flow that arrive in one poll.
    Gro { dir: Rx, linux: "dev_gro_receive, napi_gro_complete" }
    /// Chooses the shard that goes on with the packet: by its flow hash (RPS), or where its flow lives
    /// (RFS).
    Steer { dir: Rx, linux: "get_rps_cpu" }
    /// The shard's input queue: packets that other shards steered here, those of loopback, and of
    /// devices without NAPI.
    Backlog { dir: Rx, linux: "enqueue_to_backlog, process_backlog" }
    /// Copies packets for whoever captures them, at any stage. No packet passes here: it has counters
    /// only.
    Tap { dir: Rx, linux: "packet_rcv, tpacket_rcv, dev_queue_xmit_nit" }
    /// Rules of match and action on whole frames: drop, mark, redirect, mirror, sample.
    Ingress { dir: Rx, linux: "sch_handle_ingress, fl_classify" }
    /// Ethernet: MAC filter, VLAN untag, ARP, choice of the network protocol.
    Link { dir: Rx, linux: "eth_type_trans, __netif_receive_skb_core, arp_rcv" }
    /// Checks the IPv4 or IPv6 header.
    Ip { dir: Rx, linux: "ip_rcv, ipv6_rcv" }
    /// Longest-prefix route of the destination: deliver here, forward, or refuse.
    Route { dir: Rx, linux: "ip_route_input, ip6_route_input" }
    /// Sends a packet of somebody else on its way: TTL and MTU. It sends no redirects.
    Forward { dir: Rx, linux: "ip_forward, ip6_forward" }
    /// Puts fragments together again.
    Reasm { dir: Rx, linux: "ip_defrag, ipv6_frag_rcv" }
    /// Finds the socket.
    Demux { dir: Rx, linux: "__inet_lookup_skb, __udp4_lib_lookup, raw_local_deliver" }
    /// TCP, UDP and ICMP input.
    Transport { dir: Rx, linux: "tcp_v4_rcv, udp_rcv, icmp_rcv" }
    /// The socket's receive queue, until the application reads it.
    SockQueue { dir: Rx, linux: "sock_queue_rcv_skb, tcp_data_queue, sk_receive_queue" }
    /// TCP, UDP and ICMP output: where packets are made.
    Send { dir: Tx, linux: "tcp_write_xmit, udp_sendmsg, icmp_send" }
    /// Route, source address and IP header of what leaves.
    IpOut { dir: Tx, linux: "ip_queue_xmit, ip_output, ip6_xmit" }
    /// Splits what is larger than the path's MTU.
    Frag { dir: Tx, linux: "ip_fragment, ip6_fragment" }
    /// Finds the neighbour's link address (ARP, ND) and writes the Ethernet header.
    Neigh { dir: Tx, linux: "neigh_output, neigh_resolve_output" }
    /// The device's transmit queue.
    Qdisc { dir: Tx, linux: "__dev_queue_xmit, pfifo_fast_enqueue" }
    /// Software segmentation and checksums, as the very last step, where the device can not do it.
    Gso { dir: Tx, linux: "validate_xmit_skb, __skb_gso_segment" }
    /// Hands the packet to the device.
    Xmit { dir: Tx, linux: "dev_hard_start_xmit, ndo_start_xmit" }
}

/// How many stages there are.
pub const STAGES: usize = Stage::ROWS.len();

impl Stage {
    /// This stage's row.
    pub fn row(self) -> &'static Row {
        &Stage::ROWS[self as usize]
    }
    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().name
    }
    /// The stage called `name` (case-insensitive).
    pub fn by_name(name: &str) -> Option<Stage> {
        Stage::ROWS.iter().find(|r| r.name.eq_ignore_ascii_case(name)).map(|r| r.stage)
    }
}

/// What went through one stage, in packets. Written by the shard's thread alone, readable by all.
///
/// The law: `in + made = out + taken + merged + dropped + held`.
#[derive(Default)]
pub struct Flow {
    entered: AtomicU64,
    made: AtomicU64,
    out: AtomicU64,
    taken: AtomicU64,
    merged: AtomicU64,
    dropped: AtomicU64,
    held: AtomicU64,
    held_max: AtomicU64,
    batches: AtomicU64,
    ns: AtomicU64,
    ns_pkts: AtomicU64,
}

/// A reading of a [`Flow`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRead {
    /// Packets that came from the stage before.
    pub entered: u64,
    /// Packets that began here: replies, segments, fragments.
    pub made: u64,
    /// Packets that went on to the next stage.
    pub out: u64,
    /// Packets whose journey ended here as it should.
    pub taken: u64,
    /// Packets that became part of another one.
    pub merged: u64,
    /// Packets that were dropped, each with a reason.
    pub dropped: u64,
    /// Packets that wait here now.
    pub held: u64,
    /// The most that ever waited here.
    pub held_max: u64,
    /// Batches that came through.
    pub batches: u64,
    /// Nanoseconds spent in the batches that were timed.
    pub ns: u64,
    /// Packets in the batches that were timed.
    pub ns_pkts: u64,
}

impl FlowRead {
    /// What the law of conservation misses (0 = every packet is accounted for).
    pub fn missing(&self) -> i64 {
        let all_in = self.entered + self.made;
        let all_out = self.out + self.taken + self.merged + self.dropped + self.held;
        all_in as i64 - all_out as i64
    }
}

#[inline]
pub(super) fn bump(cell: &AtomicU64, n: u64) {
    // One writer: a load and a store are as good as fetch_add and ten times cheaper.
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Flow {
    /// One batch: `entered` came in, `out` went on, `taken` ended here. Drops are counted where they happen.
    #[inline]
    pub fn batch(&self, entered: u64, out: u64, taken: u64) {
        bump(&self.entered, entered);
        bump(&self.out, out);
        if taken != 0 {
            bump(&self.taken, taken);
        }
        bump(&self.batches, 1);
    }
    /// `n` packets came in.
    #[inline]
    pub fn enter(&self, n: u64) {
        bump(&self.entered, n);
    }
    /// `n` packets began here.
    #[inline]
    pub fn make(&self, n: u64) {
        bump(&self.made, n);
    }
    /// `n` packets went on.
    #[inline]
    pub fn pass(&self, n: u64) {
        bump(&self.out, n);
    }
    /// `n` packets ended here as they should.
    #[inline]
    pub fn take(&self, n: u64) {
        bump(&self.taken, n);
    }
    /// `n` packets became part of others.
    #[inline]
    pub fn merge(&self, n: u64) {
        bump(&self.merged, n);
    }
    /// `n` packets were dropped. Only the place that counts reasons calls this.
    #[inline]
    pub(crate) fn drop(&self, n: u64) {
        bump(&self.dropped, n);
    }
    /// `n` more packets wait here.
    #[inline]
    pub fn hold(&self, n: u64) {
        bump(&self.held, n);
    }
    /// `n` packets stopped waiting here (they also went on, were taken, merged or dropped).
    #[inline]
    pub fn release(&self, n: u64) {
        let held = self.held.load(Relaxed);
        debug_assert!(held >= n, "a stage released packets that it did not hold");
        // What is held only grows between two releases: the most of it is what stands here now.
        if held > self.held_max.load(Relaxed) {
            self.held_max.store(held, Relaxed);
        }
        self.held.store(held.wrapping_sub(n), Relaxed);
    }
    /// A batch was seen by a stage that counts its packets one by one.
    #[inline]
    pub fn batched(&self) {
        bump(&self.batches, 1);
    }
    /// A timed batch: `pkts` packets took `ns` nanoseconds.
    #[inline]
    pub fn timed(&self, ns: u64, pkts: u64) {
        bump(&self.ns, ns);
        bump(&self.ns_pkts, pkts);
    }
    /// Reads all of it.
    pub fn read(&self) -> FlowRead {
        FlowRead {
            entered: self.entered.load(Relaxed),
            made: self.made.load(Relaxed),
            out: self.out.load(Relaxed),
            taken: self.taken.load(Relaxed),
            merged: self.merged.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            held: self.held.load(Relaxed),
            held_max: self.held_max.load(Relaxed).max(self.held.load(Relaxed)),
            batches: self.batches.load(Relaxed),
            ns: self.ns.load(Relaxed),
            ns_pkts: self.ns_pkts.load(Relaxed),
        }
    }
}
