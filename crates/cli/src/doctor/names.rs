//! Counters and settings of the kernel's path that a stack of ours has not: what each of them is.
//!
//! Those that both have are in the tables of `linerate-core`.

use linerate_core::table::Stage;

/// What a name is.
pub struct Name {
    /// As the kernel writes it.
    pub name: &'static str,
    /// Where on the path.
    pub stage: Stage,
    /// Where it is read, or set.
    pub place: &'static str,
    /// What it is.
    pub help: &'static str,
    /// It can be set.
    pub knob: bool,
}

const LINK: &str = "ip -s -s link, /sys/class/net/DEV/statistics, of the device";
const LINK_ONLY: &str = "ip -s -s link (netlink only), of the device";
const SOFTNET: &str = "/proc/net/softnet_stat, of each processor of the host, 32 bits";
const SNMP: &str = "/proc/net/snmp, of the network namespace";
const NETSTAT: &str = "/proc/net/netstat, of the network namespace";
const CONNTRACK: &str = "/proc/net/stat/nf_conntrack, of the network namespace, by processor";
const NEIGH: &str = "/proc/net/stat/arp_cache and ndisc_cache, of the whole host";
const QDISC: &str = "tc -s qdisc, of a qdisc, 32 bits";
const QSTATS: &str = "netdev netlink, qstats-get, of a queue (kernel 6.9 and later)";
const POOL: &str = "netdev netlink, page-pool-stats-get";
const HOST: &str = "sysctl of the whole host: set it in the first network namespace";
const NET: &str = "sysctl of each network namespace";
const RING: &str = "ethtool -g shows it, ethtool -G sets it; may take the link down for a moment";
const CHANNEL: &str =
    "ethtool -l shows it, ethtool -L sets it; may take the link down for a moment";
const MODERATION: &str = "ethtool -c shows it, ethtool -C sets it";
const FEATURE: &str = "ethtool -k shows it, ethtool -K sets it";
const QUEUE: &str = "/sys/class/net/DEV/queues";
const DEVICE: &str = "/sys/class/net/DEV";
const INFO: &str = "ss -ti, of a TCP connection";

const fn counter(
    name: &'static str,
    stage: Stage,
    place: &'static str,
    help: &'static str,
) -> Name {
    Name { name, stage, place, help, knob: false }
}

const fn knob(name: &'static str, stage: Stage, place: &'static str, help: &'static str) -> Name {
    Name { name, stage, place, help, knob: true }
}

/// All of them, in the order of the path.
#[rustfmt::skip]
pub const NAMES: &[Name] = &[
    counter("rx_packets", Stage::Ring, LINK, "Packets that the device handed to the kernel. With GRO in the device, one may be many of the wire."),
    counter("rx_missed_errors", Stage::Ring, LINK, "Packets that the device lost because the kernel gave it no buffer in time: the receive ring was full. Devices in software do not use it."),
    counter("rx_fifo_errors", Stage::Ring, LINK, "Overrun of a buffer in the device. Drivers differ: some count a full ring here, some the card's own memory."),
    counter("rx_over_errors", Stage::Ring, LINK, "An old name for overruns, or for frames that were too long; depends on the driver."),
    counter("rx_crc_errors", Stage::Ring, LINK, "Frames whose check sequence was wrong: cable, plug, optic, or a port that disagrees about the speed."),
    counter("rx_frame_errors", Stage::Ring, LINK, "Frames that were not whole bytes long: mostly a bad cable or a duplex mismatch."),
    counter("rx_length_errors", Stage::Ring, LINK, "Frames of a length that is not allowed: often a neighbour with a larger MTU."),
    counter("rx_errors", Stage::Ring, LINK, "All bad frames together. The more exact counters are part of it."),
    counter("rx-alloc-fail", Stage::Ring, QSTATS, "The driver found no memory to refill its ring with."),
    counter("rx-hw-drops", Stage::Ring, QSTATS, "Packets that the device dropped, for whatever reason."),
    counter("rx-hw-drop-overruns", Stage::Ring, QSTATS, "Packets that the device dropped because the queue had no buffer: part of rx-hw-drops."),
    counter("rx_out_of_buffer", Stage::Ring, "ethtool -S (mlx5)", "The queue had no receive buffer: the name that mlx5 has for a full ring."),
    counter("outbound_pci_stalled_wr", Stage::Ring, "ethtool -S (mlx5)", "Times that the card could not write over PCIe: the bus, not the ring, is what is slow."),
    counter("rx_pause_frames", Stage::Ring, "ethtool -I -a, of the device", "The other side asked us to stop sending for a moment: the network is slower than we are."),
    counter("tx_pause_frames", Stage::Ring, "ethtool -I -a, of the device", "We asked the other side to stop: we could not take what came. Losses move into the switch."),
    counter("carrier_changes", Stage::Ring, DEVICE, "How often the link went up or down. Changes of rings or channels by ethtool do so as well."),
    counter("bw_in_allowance_exceeded", Stage::Ring, "ethtool -S (ena)", "The cloud dropped or delayed packets because the instance received more than it may."),
    counter("pps_allowance_exceeded", Stage::Ring, "ethtool -S (ena)", "The cloud dropped or delayed packets because there were more a second than the instance may have."),
    counter("conntrack_allowance_exceeded", Stage::Ring, "ethtool -S (ena)", "The cloud dropped packets because the instance has more connections than it may."),
    counter("alloc-empty", Stage::Ring, POOL, "The page pool had nothing left and asked the memory allocator."),
    counter("alloc-slow", Stage::Ring, POOL, "Pages that the page pool got from the memory allocator."),
    counter("spurious", Stage::Irq, "/proc/irq/N", "Interrupts that no handler took."),
    counter("processed", Stage::Poll, SOFTNET, "Frames that this processor took on, from rings and from its backlog."),
    counter("time_squeeze", Stage::Poll, SOFTNET, "The softirq went on later although there was work: many rings at once used up net.core.netdev_budget, or one run took longer than net.core.netdev_budget_usecs. It is no loss, and a single busy ring never shows here."),
    counter("NET_RX", Stage::Poll, "/proc/softirqs, of each processor of the host", "How often the receiving softirq ran."),
    counter("NET_TX", Stage::Xmit, "/proc/softirqs, of each processor of the host", "How often the softirq ran that frees sent packets and starts qdiscs again."),
    counter("received_rps", Stage::Steer, SOFTNET, "How often another processor woke this one to take packets that RPS steered here."),
    counter("flow_limit_count", Stage::Steer, SOFTNET, "Packets of one large flow that were dropped to protect the others. It moves on the processor that steers; dropped moves on the one that the packet was steered to."),
    counter("dropped", Stage::Backlog, SOFTNET, "Packets for which there was no place in this processor's backlog (net.core.netdev_max_backlog), or that the flow limit refused. The device's rx_dropped, and tx_dropped of a veth that sent it, count the same packets."),
    counter("backlog_len", Stage::Backlog, SOFTNET, "Packets in this processor's backlog now; kernel 5.10 and later."),
    counter("cpu_collision", Stage::Xmit, SOFTNET, "Always 0 since kernel 4.7."),
    counter("rx_dropped", Stage::Link, LINK, "Packets that the kernel dropped after the device gave them. Often no loss to anybody: protocols that nobody here speaks (LLDP, STP) count. A full backlog counts here, too."),
    counter("rx_otherhost_dropped", Stage::Link, LINK_ONLY, "Frames for another MAC address: a switch that floods, or promiscuous mode."),
    counter("rx_nohandler", Stage::Link, LINK, "Packets on a device that takes none, such as the waiting half of a bond."),
    counter("tp_drops", Stage::Link, "getsockopt PACKET_STATISTICS, for the owner of a packet socket", "Copies that did not fit into a capture's buffer. The packets themselves went on."),
    counter("found", Stage::Ip, CONNTRACK, "Entries that were found."),
    counter("invalid", Stage::Ip, CONNTRACK, "Packets that fit to no connection: out of the window, or seen in one direction only."),
    counter("insert_failed", Stage::Ip, CONNTRACK, "A new connection could not be entered, as when two packets of one flow race for the same translation. The packet is lost."),
    counter("drop", Stage::Ip, CONNTRACK, "Packets dropped because the table was full and nothing could be thrown out of it. The reason in the kernel's trace is only NETFILTER_DROP."),
    counter("early_drop", Stage::Ip, CONNTRACK, "Entries thrown out before their time to make room."),
    counter("search_restart", Stage::Ip, CONNTRACK, "Searches that began anew because the table changed meanwhile."),
    counter("clashres", Stage::Ip, CONNTRACK, "Races of two entries that were resolved."),
    counter("chainlength", Stage::Ip, CONNTRACK, "Entries that were refused because their chain in the hash table was too long."),
    counter("unresolved_discards", Stage::Neigh, NEIGH, "Packets dropped because the queue for an address that is still asked for was full."),
    counter("table_fulls", Stage::Neigh, NEIGH, "A new neighbour was refused because the table of the whole host was full (gc_thresh3)."),
    counter("res_failed", Stage::Neigh, NEIGH, "Neighbours that did not answer."),
    counter("forced_gc_runs", Stage::Neigh, NEIGH, "Times that old neighbours were thrown out to make room."),
    counter("drops", Stage::Qdisc, QDISC, "Packets that the qdisc dropped. UDP's SndbufErrors and Ip OutDiscards may count the same ones; to sendto() it looks like success."),
    counter("overlimits", Stage::Qdisc, QDISC, "Times that a shaper held packets back. It is no loss."),
    counter("requeues", Stage::Qdisc, QDISC, "Packets put back because the device could take no more, or somebody else held its lock."),
    counter("backlog", Stage::Qdisc, QDISC, "Bytes that wait in the qdisc now."),
    counter("qlen", Stage::Qdisc, QDISC, "Packets that wait in the qdisc now."),
    counter("drop_overlimit", Stage::Qdisc, QDISC, "fq_codel: drops because the qdisc held too many packets in all."),
    counter("flows_plimit", Stage::Qdisc, QDISC, "fq: drops because one flow held too many packets."),
    counter("tx_packets", Stage::Xmit, LINK, "Packets handed to the device."),
    counter("tx_dropped", Stage::Xmit, LINK, "Packets that were dropped on the way out. A veth counts here what its other end could not take, and a TUN what its reader did not read in time."),
    counter("tx_errors", Stage::Xmit, LINK, "Packets that could not be sent."),
    counter("tx_carrier_errors", Stage::Xmit, LINK, "Packets that could not be sent because the link was lost."),
    counter("tx_timeout", Stage::Xmit, QUEUE, "Times that the device did not say for too long that it had sent something; the driver resets it then."),
    counter("tx-stop", Stage::Xmit, QSTATS, "Times that the transmit ring was full and the queue was stopped."),
    counter("tx-wake", Stage::Xmit, QSTATS, "Times that it went on."),
    counter("inflight", Stage::Xmit, QUEUE, "byte_queue_limits: bytes given to the device and not yet sent."),
    counter("rwnd_limited", Stage::Send, INFO, "How long the receiver's window held this connection back."),
    counter("sndbuf_limited", Stage::Send, INFO, "How long the send buffer held this connection back."),
    counter("busy_time", Stage::Send, INFO, "How long there was something to send."),
    counter("CurrEstab", Stage::Transport, SNMP, "Connections that are open now."),
    counter("BusyPollRxPackets", Stage::Poll, NETSTAT, "Packets that readers took off the rings themselves, by busy polling."),
    knob("rx", Stage::Ring, RING, "Places of the receive ring. More of them bear longer bursts; they cost memory, cache and, when always full, delay."),
    knob("tx", Stage::Xmit, RING, "Places of the transmit ring."),
    knob("combined", Stage::Ring, CHANNEL, "Queues that receive and send, each with an interrupt. Affinity, RPS and XPS are to be set again after a change."),
    knob("rx-usecs", Stage::Irq, MODERATION, "How long the device waits after a packet before it interrupts. Longer: fewer interrupts and more delay; the ring must hold what comes meanwhile."),
    knob("rx-frames", Stage::Irq, MODERATION, "After how many packets the device interrupts."),
    knob("adaptive-rx", Stage::Irq, MODERATION, "The driver chooses the time by what arrives."),
    knob("smp_affinity_list", Stage::Irq, "/proc/irq/N", "Processors that may serve an interrupt; effective_affinity_list says which does. irqbalance may write it, too."),
    knob("gro", Stage::Gro, FEATURE, "Merges packets of one flow before they climb the stack. Counters behind it count what was merged as one."),
    knob("lro", Stage::Gro, FEATURE, "Merging by the device; to be off where packets are forwarded."),
    knob("ntuple", Stage::Ring, FEATURE, "The device takes rules that send flows to queues; accelerated RFS needs it."),
    knob("tso", Stage::Gso, FEATURE, "The device splits large TCP segments."),
    knob("gso", Stage::Gso, FEATURE, "Segments are split as late as possible."),
    knob("rxhash", Stage::Steer, FEATURE, "The device hands over the flow hash that it computed."),
    knob("threaded", Stage::Poll, DEVICE, "1: polling is done by threads of their own (napi/DEV-N), which can be bound and given priority."),
    knob("gro_flush_timeout", Stage::Poll, DEVICE, "Nanoseconds until polling looks again without an interrupt, with napi_defer_hard_irqs."),
    knob("napi_defer_hard_irqs", Stage::Poll, DEVICE, "How many times polling may find nothing before interrupts are on again."),
    knob("rps_cpus", Stage::Steer, QUEUE, "rx-N: processors that take packets of this queue, as a mask; 0: the one that was interrupted."),
    knob("rps_flow_cnt", Stage::Steer, QUEUE, "rx-N: flows of this queue that RFS remembers."),
    knob("xps_cpus", Stage::Xmit, QUEUE, "tx-N: processors that send by this queue, as a mask."),
    knob("xps_rxqs", Stage::Xmit, QUEUE, "tx-N: receive queues whose connections send by this queue."),
    knob("limit_max", Stage::Xmit, QUEUE, "tx-N/byte_queue_limits: the most bytes that the device may hold, for less delay."),
    knob("tx_queue_len", Stage::Qdisc, DEVICE, "Packets that a pfifo made from now on may hold; the ring of a TUN. More is more delay."),
    knob("net.core.netdev_max_backlog", Stage::Backlog, HOST, "Packets that may wait in each processor's backlog: those that RPS steers there, and those of loopback, veth, tunnels and TUN."),
    knob("net.core.netdev_budget", Stage::Poll, HOST, "Packets of one softirq run over all rings. It matters only where five or more rings are busy on one processor."),
    knob("net.core.netdev_budget_usecs", Stage::Poll, HOST, "The longest softirq run. It is compared in ticks of the kernel, so that small steps change nothing."),
    knob("net.core.dev_weight", Stage::Poll, HOST, "Packets of one poll of the backlog. Drivers of cards have 64 of their own."),
    knob("net.core.rps_sock_flow_entries", Stage::Steer, HOST, "Flows whose reader RFS remembers; rps_flow_cnt of the queues must be set as well."),
    knob("net.core.rps_default_mask", Stage::Steer, NET, "rps_cpus of devices that are made from now on."),
    knob("net.core.flow_limit_cpu_bitmap", Stage::Steer, HOST, "Processors that limit large flows while they steer: those that take interrupts."),
    knob("net.core.flow_limit_table_len", Stage::Steer, HOST, "Buckets of the flow limit; for tables made from now on."),
    knob("net.core.somaxconn", Stage::Transport, NET, "The longest queue of connections that wait for accept(). It counts when listen() is called: programs are to be started again."),
    knob("net.core.rmem_max", Stage::SockQueue, HOST, "The most that SO_RCVBUF may ask for, in bytes; the kernel doubles it. It changes nothing for a socket that does not ask."),
    knob("net.core.rmem_default", Stage::SockQueue, HOST, "The receive buffer of sockets that do not ask, other than TCP."),
    knob("net.core.wmem_max", Stage::Send, HOST, "The most that SO_SNDBUF may ask for, in bytes."),
    knob("net.core.wmem_default", Stage::Send, HOST, "The send buffer of sockets that do not ask, other than TCP."),
    knob("net.core.default_qdisc", Stage::Qdisc, HOST, "The qdisc of devices that come up from now on."),
    knob("net.core.busy_poll", Stage::Poll, HOST, "Microseconds that poll() and select() look at the rings themselves."),
    knob("net.core.busy_read", Stage::Poll, HOST, "Microseconds that a reading socket looks at the rings itself."),
    knob("net.core.gro_normal_batch", Stage::Gro, HOST, "Packets that go up the stack together."),
    knob("net.core.optmem_max", Stage::Send, NET, "Memory for options and notifications of one socket."),
    knob("net.ipv4.ip_forward", Stage::Forward, NET, "Packets for others are passed on. Setting it resets other settings of the interfaces."),
    knob("net.ipv4.conf.all.rp_filter", Stage::Route, NET, "1: a packet must come from where the way back goes; 2: from anywhere there is a way back to. The larger one of all and of the interface counts."),
    knob("net.ipv4.ipfrag_high_thresh", Stage::Reasm, NET, "Bytes that fragments may wait in."),
    knob("net.ipv4.ipfrag_time", Stage::Reasm, NET, "Seconds until fragments without the rest are given up."),
    knob("net.netfilter.nf_conntrack_max", Stage::Ip, HOST, "Connections that may be tracked; compared with the count of each namespace."),
    knob("net.netfilter.nf_conntrack_buckets", Stage::Ip, HOST, "Buckets of the table. With many more entries than buckets every packet searches longer."),
    knob("net.ipv4.neigh.default.gc_thresh3", Stage::Neigh, HOST, "Neighbours of the whole host, all namespaces together, of one family."),
    knob("net.ipv4.udp_mem", Stage::SockQueue, HOST, "Pages for all UDP sockets: low, pressure, most."),
    knob("net.ipv4.udp_rmem_min", Stage::SockQueue, NET, "What a UDP socket may hold even under memory pressure, in bytes."),
    knob("net.ipv4.tcp_mem", Stage::SockQueue, HOST, "Pages for all TCP sockets: low, pressure, most."),
    knob("net.ipv4.tcp_max_syn_backlog", Stage::Transport, NET, "Connections half open, where SYN cookies are off; with them the limit is that of listen()."),
    knob("net.ipv4.tcp_syncookies", Stage::Transport, NET, "0: never; 1: when the queue is full; 2: always."),
    knob("net.ipv4.tcp_abort_on_overflow", Stage::Transport, NET, "1: a connection for which accept() is late is reset. SYNs are dropped before that, without an answer."),
    knob("net.ipv4.tcp_max_tw_buckets", Stage::Transport, NET, "Connections in TIME_WAIT."),
    knob("net.ipv4.tcp_tw_reuse", Stage::Send, NET, "1: outgoing connections may take over one in TIME_WAIT; 2: on loopback."),
    knob("net.ipv4.tcp_max_orphans", Stage::Transport, HOST, "Connections without a process."),
    knob("net.ipv4.tcp_fin_timeout", Stage::Transport, NET, "Seconds that a closed connection waits for the other side's end."),
    knob("net.ipv4.ip_local_port_range", Stage::Send, NET, "Ports for outgoing connections. That they are used up is in no counter: connect() fails with EADDRNOTAVAIL."),
    knob("net.ipv4.ip_local_reserved_ports", Stage::Send, NET, "Ports of that range which are kept for others."),
    knob("net.ipv4.tcp_congestion_control", Stage::Send, NET, "cubic, bbr, ...: for connections made from now on."),
    knob("net.ipv4.tcp_slow_start_after_idle", Stage::Send, NET, "1: a connection that was idle begins slowly again."),
    knob("net.ipv4.tcp_mtu_probing", Stage::Send, NET, "1: smaller segments are tried when large ones get lost without a message; 2: always."),
    knob("net.ipv4.tcp_base_mss", Stage::Send, NET, "The segment that probing begins with, in bytes."),
    knob("net.ipv4.tcp_notsent_lowat", Stage::Send, NET, "Bytes not yet sent from which on a socket is no more ready for writing."),
    knob("net.ipv4.tcp_limit_output_bytes", Stage::Send, NET, "Bytes of one connection in qdisc and device."),
    knob("net.ipv4.tcp_ecn", Stage::Send, NET, "Explicit congestion notification: 0 never, 1 asked for and granted, 2 granted."),
    knob("net.ipv4.tcp_fastopen", Stage::Transport, NET, "Data with the first packet: 1 as client, 2 as server."),
    knob("net.ipv4.icmp_ratelimit", Stage::Transport, NET, "Milliseconds between two ICMP messages to one address."),
    knob("kernel.bpf_stats_enabled", Stage::Xdp, HOST, "Runs and run time of BPF programs are counted; costs a little each run."),
];

/// Those called so: whole, or by the last part of a setting.
pub fn find(name: &str) -> impl Iterator<Item = &'static Name> {
    let dotted = name.replace('/', ".");
    let dotted = dotted.strip_prefix(".proc.sys.").unwrap_or(&dotted).to_owned();
    let bare = name.rsplit([':', ' ']).next().unwrap_or(name).to_owned();
    NAMES.iter().filter(move |row| {
        let last = row.name.rsplit('.').next().unwrap_or(row.name);
        row.name.eq_ignore_ascii_case(&dotted)
            || row.name.eq_ignore_ascii_case(&bare)
            || (row.knob && last.eq_ignore_ascii_case(&dotted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_once_of_a_kind() {
        for row in NAMES {
            let same = find(row.name).filter(|r| r.name == row.name && r.knob == row.knob);
            assert_eq!(same.count(), 1, "{}", row.name);
            assert!(row.help.ends_with('.') && row.help.len() > 20, "{}: {}", row.name, row.help);
        }
    }

    #[test]
    fn names_are_found_by_path_and_with_their_group() {
        let one = |name: &str| find(name).map(|r| r.name).collect::<Vec<_>>();
        assert_eq!(one("/proc/sys/net/core/netdev_max_backlog"), ["net.core.netdev_max_backlog"]);
        assert_eq!(one("netdev_max_backlog"), ["net.core.netdev_max_backlog"]);
        assert_eq!(one("softnet:time_squeeze"), ["time_squeeze"]);
        assert!(one("no_such_thing").is_empty());
    }
}
