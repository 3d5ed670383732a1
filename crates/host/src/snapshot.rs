//! What was read of a host at one moment.
//!
//! A field that is empty or `None` was not there or could not be read; [`Snapshot::notes`] says which
//! and why. Names of counters are the kernel's: those of `/proc/net/snmp` and `netstat`, of
//! `struct rtnl_link_stats64`, of `struct softnet_data` as docs name them, of drivers as they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use crate::bpf::hist::Hist;
use crate::counters::Counters;

/// A host at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// When, in nanoseconds of the monotonic clock (since boot, without sleep).
    pub monotonic_ns: u64,
    /// When, in nanoseconds since 1970 (UTC).
    pub wall_ns: u64,
    /// Which host.
    pub host: Host,
    /// `/proc/net/softnet_stat`, by processor (32 bits): processed, dropped, time_squeeze,
    /// cpu_collision, received_rps, flow_limit_count; gauges: backlog_len, input_pkt_queue_len,
    /// process_queue_len.
    pub softnet: BTreeMap<u32, Counters>,
    /// `/proc/softirqs`, by processor (32 bits): NET_RX, NET_TX and the others.
    pub softirqs: BTreeMap<u32, Counters>,
    /// `/proc/stat`, by processor, in ticks of 1/[`Host::user_hz`] s: user, nice, system, idle, iowait,
    /// irq, softirq, steal, guest, guest_nice.
    pub cpus: BTreeMap<u32, Counters>,
    /// Processor time of kernel threads of the path by their name (ksoftirqd/0, napi/eth0-8193), in
    /// the same ticks: utime, stime.
    pub kthreads: BTreeMap<String, Counters>,
    /// `/proc/interrupts`.
    pub irqs: BTreeMap<u32, Irq>,
    /// `/proc/net/snmp`, `netstat`, `snmp6` and `sctp/snmp`, by section: Ip, Icmp, Tcp, Udp, UdpLite,
    /// TcpExt, IpExt, MPTcpExt, Sctp, Ip6, Icmp6, Udp6, UdpLite6 (names without the section before them).
    pub mib: BTreeMap<String, Counters>,
    /// What processors do to save energy. Full tier only.
    pub power: Power,
    /// `/proc/net/sockstat` and `sockstat6`, by section: sockets, TCP, UDP, FRAG, ... Gauges.
    pub sockstat: BTreeMap<String, Counters>,
    /// Connection tracking.
    pub conntrack: Option<Conntrack>,
    /// `/proc/net/stat/arp_cache` and `ndisc_cache` over all processors (32 bits each), by that name:
    /// entries (gauge), allocs, destroys, hash_grows, lookups, hits, res_failed, forced_gc_runs,
    /// unresolved_discards, table_fulls, ... For the whole host.
    pub neigh: BTreeMap<String, Counters>,
    /// Neighbours by state (REACHABLE, STALE, FAILED, INCOMPLETE, ...) in this namespace, by
    /// family ("inet", "inet6"). Gauges.
    pub neigh_states: BTreeMap<String, Counters>,
    /// Network devices by name.
    pub devs: BTreeMap<String, Dev>,
    /// Sockets.
    pub sockets: Sockets,
    /// Routes that drop: their destination, and what they do (blackhole, unreachable, prohibit).
    pub bad_routes: Vec<(String, String)>,
    /// Sysctls by their dotted name (`net.core.rmem_max`), white space between values as one blank.
    pub sysctls: BTreeMap<String, String>,
    /// Drops of packets by reason and function since somebody began to look, where that is known.
    pub drops: Option<Drops>,
    /// How long things took, if probes of ours measure it.
    pub measured: Option<Measured>,
    /// `/proc/pressure/cpu` some total, in µs.
    pub cpu_pressure_us: Option<u64>,
    /// `/proc/buddyinfo`: free blocks of order 0..=10 over all zones.
    pub buddy: Vec<u64>,
    /// What could not be read, and why.
    pub notes: Vec<Note>,
    /// Where something was read in place of what rules cite: of an archive, the output of `ss` is there
    /// for `netlink/sock_diag/tcp`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stands_for: BTreeMap<String, String>,
}

/// Which host, and what it is like.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Host {
    /// `kernel.hostname`.
    pub name: String,
    /// `kernel.osrelease`, as `6.18.0-1-amd64`.
    pub release: String,
    /// Processors that are online.
    pub cpus: Vec<u32>,
    /// Processors apart from the scheduler (`isolcpus`, `nohz_full`).
    pub isolated: Vec<u32>,
    /// Processors by NUMA node.
    pub nodes: BTreeMap<u32, Vec<u32>>,
    /// Ticks of the kernel in a second, if known.
    pub hz: Option<u32>,
    /// Ticks of `/proc/stat` in a second; 100 on all Linux.
    pub user_hz: u32,
    /// Since boot, in seconds.
    pub uptime_s: f64,
    /// The network namespace's inode; `None` of a tree.
    pub netns: Option<u64>,
    /// Whether it is the host's first one, where host-wide settings are.
    pub is_init_netns: Option<bool>,
    /// What may own settings: irqbalance, tuned, NetworkManager, systemd-networkd, cilium-agent, ...
    /// running now.
    pub owners: Vec<String>,
}

/// One interrupt.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Irq {
    /// Its number.
    pub irq: u32,
    /// What `/proc/interrupts` says behind the counts: chip, kind, actions.
    pub actions: String,
    /// How often, by processor ("CPU0", ...), 32 bits.
    pub counts: Counters,
    /// `smp_affinity_list`.
    pub affinity: Vec<u32>,
    /// `effective_affinity_list`.
    pub effective: Vec<u32>,
    /// The network device whose it is (by `msi_irqs` or its NAPI), if one.
    pub dev: Option<String>,
    /// Its NUMA node, if known.
    pub node: Option<u32>,
}

/// Frequencies and idle states of processors.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Power {
    /// `/sys/devices/system/cpu/cpufreq/policyN`, by number: processors that have one frequency together.
    pub policies: BTreeMap<u32, Policy>,
    /// `/sys/devices/system/cpu/cpuN/cpuidle`, by processor: states that take some time to leave.
    pub idle: BTreeMap<u32, Vec<IdleState>>,
}

/// How a frequency is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// performance, powersave, schedutil, ...
    pub governor: String,
    /// intel_pstate, acpi-cpufreq, ...
    pub driver: String,
    /// `energy_performance_preference`: performance, balance_power, ...; empty where there is none.
    pub preference: String,
    /// `scaling_max_freq`, in kHz.
    pub max_khz: Option<u64>,
    /// `cpuinfo_max_freq`, in kHz.
    pub able_khz: Option<u64>,
}

/// An idle state of one processor.
#[derive(Clone, Debug, Default, Serialize)]
pub struct IdleState {
    /// As C6.
    pub name: String,
    /// What it takes to leave it, in µs.
    pub latency_us: u64,
    /// Somebody forbade it.
    pub disabled: bool,
    /// time: spent in it, in µs.
    pub times: Counters,
}

/// Connection tracking.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Conntrack {
    /// `/proc/net/stat/nf_conntrack` over all processors (32 bits each): found, invalid, insert_failed,
    /// drop, early_drop, search_restart, clashres, chainlength, ...
    pub stat: Counters,
    /// `nf_conntrack_count`, `nf_conntrack_max`, `nf_conntrack_buckets`. Gauges. `max` is the host's.
    pub table: Counters,
}

/// One network device.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Dev {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// veth, bridge, vlan, tun, ...; empty for hardware and loopback.
    pub kind: String,
    /// How it was made, by the names of `ip -d link`: of a VLAN id and protocol; of a bridge stp_state,
    /// forward_delay (1/100 s), vlan_filtering, fdb_n_learned, ...; of a tunnel id, link (the index of
    /// the device below), dstport, ttl, df or pmtudisc, ikey, okey; `ipv6` is 1 if IPv6 carries it.
    pub kind_info: Counters,
    /// What it is as a part of its master: of a bridge's port state (0 disabled, 1 listening, 2 learning,
    /// 3 forwarding, 4 blocking), learning, flood, isolated, locked; of a bond's state (0 active),
    /// mii_status, link_failure_count.
    pub port_info: Counters,
    /// Its driver, as ethtool -i and sysfs say; empty if there is none.
    pub driver: String,
    /// UP, LOWER_UP, PROMISC, ...: `IFF_*` without that.
    pub flags: Vec<String>,
    /// up, down, unknown, ...
    pub operstate: String,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Packets, where the qdisc or the driver asks for it.
    pub txqueuelen: u32,
    /// In Mb/s, if known.
    pub speed_mbps: Option<u32>,
    /// The number of those that asked for promiscuous mode.
    pub promiscuity: u32,
    /// The device it is part of (a bridge, a bond).
    pub master: Option<String>,
    /// The other end of a veth: its index there. Of a VLAN, a macvlan or a tunnel that is bound to one:
    /// the device below.
    pub link: Option<u32>,
    /// The namespace id of that, if it is another one.
    pub link_netnsid: Option<i32>,
    /// The NUMA node; `None` if unknown or if there is one only.
    pub node: Option<u32>,
    /// Processors near it.
    pub local_cpus: Vec<u32>,
    /// XDP: how it is attached (driver, generic, offload) and the program's id.
    pub xdp: Option<(String, u32)>,
    /// `struct rtnl_link_stats64`: rx_packets, rx_dropped, rx_missed_errors, rx_otherhost_dropped, ...
    /// Where only `/proc/net/dev` is known, which folds some together, those have names of their own:
    /// rx_drop (dropped + missed), rx_frame (length + over + crc + frame), tx_carrier (carrier +
    /// aborted + window + heartbeat).
    pub stats: Counters,
    /// carrier_changes, carrier_up_count, carrier_down_count.
    pub carrier: Counters,
    /// `/proc/net/dev_snmp6/DEV`: Ip6InDiscards, Icmp6InMsgs, ... of this device. Full tier only.
    pub ip6: Counters,
    /// `ethtool -S`: the driver's own names.
    pub driver_stats: Counters,
    /// `ethtool -S --groups`, pause and FEC statistics under their standard names.
    pub std_stats: Counters,
    /// `netdev` netlink `qstats-get` over all queues.
    pub qstats: Counters,
    /// Page pools: inflight, alloc-slow, alloc-empty, recycle-...
    pub page_pool: Counters,
    /// `ethtool -k`, by name.
    pub features: BTreeMap<String, Feature>,
    /// Features that somebody asked for (to be on, or off) and that are not so: `[requested on]`.
    pub refused: BTreeMap<String, bool>,
    /// `ethtool -g`, now and at most: rx, rx-max, tx, tx-max, ... Empty if refused.
    pub rings: Counters,
    /// `ethtool -l`, now and at most: combined, combined-max, rx, rx-max, ... Empty if refused.
    pub channels: Counters,
    /// `ethtool -c`: rx-usecs, rx-frames, adaptive-rx (0 or 1), ... Empty if refused.
    pub coalesce: Counters,
    /// `ethtool -a`: autoneg, rx, tx (0 or 1). Empty if refused.
    pub pause: Counters,
    /// `ethtool -x`.
    pub rss: Option<Rss>,
    /// Receive queues.
    pub rx: Vec<RxQueue>,
    /// Transmit queues.
    pub tx: Vec<TxQueue>,
    /// NAPI instances (`netdev` netlink).
    pub napis: Vec<Napi>,
    /// Its interrupts.
    pub irqs: Vec<u32>,
    /// threaded, gro_flush_timeout (ns), napi_defer_hard_irqs, tx_queue_len, gro_max_size,
    /// gso_max_size, gso_max_segs.
    pub settings: Counters,
    /// Its qdiscs, leaves and ingress among them.
    pub qdiscs: Vec<Qdisc>,
    /// Classes of its qdiscs (htb, hfsc, mq, ...). Full tier only.
    pub classes: Vec<Class>,
    /// Filters at ingress, egress and in its qdiscs. Full tier only.
    pub filters: Vec<Filter>,
}

/// One offload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// It is on.
    pub on: bool,
    /// It can not be changed.
    pub fixed: bool,
}

/// Receive side scaling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rss {
    /// Queue by place in the table.
    pub indir: Vec<u32>,
    /// toeplitz, xor, crc32; empty if unknown.
    pub hfunc: String,
    /// Fields that are hashed, as letters of `ethtool -N rx-flow-hash`, by flow type (tcp4, udp4, ...).
    pub fields: BTreeMap<String, String>,
}

/// One receive queue.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RxQueue {
    /// `rps_cpus`.
    pub rps_cpus: Vec<u32>,
    /// `rps_flow_cnt`.
    pub rps_flow_cnt: u64,
    /// The NAPI instance that serves it, if known.
    pub napi: Option<u32>,
    /// Packets and bytes of this queue where it is known: rx-packets, rx-bytes, rx-hw-drops, ...
    pub stats: Counters,
}

/// One transmit queue.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TxQueue {
    /// `xps_cpus`; `None` if the queue has no such file.
    pub xps_cpus: Option<Vec<u32>>,
    /// `xps_rxqs`, likewise.
    pub xps_rxqs: Option<Vec<u32>>,
    /// The NAPI instance that serves it, if known.
    pub napi: Option<u32>,
    /// `tx_timeout`, and what `netdev` netlink says: tx-packets, tx-stop, tx-wake, ...
    pub stats: Counters,
    /// `byte_queue_limits/`: limit, limit_max, limit_min, inflight, hold_time, stall_cnt, ...
    pub bql: Counters,
}

/// One NAPI instance.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Napi {
    /// Its id.
    pub id: u32,
    /// Its interrupt.
    pub irq: Option<u32>,
    /// Its thread, if threaded.
    pub pid: Option<u32>,
    /// defer-hard-irqs, gro-flush-timeout, irq-suspend-timeout.
    pub settings: Counters,
}

/// One qdisc.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Qdisc {
    /// noqueue, pfifo_fast, mq, fq_codel, tbf, ingress, ...
    pub kind: String,
    /// As `8001:`.
    pub handle: String,
    /// As `root`, `8001:1`, `ingress`.
    pub parent: String,
    /// bytes, packets; drops, requeues, overlimits (32 bits in the kernel's message); gauges: qlen,
    /// backlog (bytes).
    pub stats: Counters,
    /// The qdisc's own (fq_codel: drop_overlimit, ecn_mark, new_flow_count; fq: flows_plimit, throttled).
    pub xstats: Counters,
    /// What is known of its options: limit, rate_bps, burst, ...
    pub options: Counters,
}

/// A class of a qdisc.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Class {
    /// The kind of its qdisc: htb, mq, ...
    pub kind: String,
    /// As `1:10`.
    pub handle: String,
    /// As `root`, `1:1`.
    pub parent: String,
    /// The qdisc in it, as `8001:`; empty if it has classes in it.
    pub leaf: String,
    /// As those of a qdisc; of htb also lends, borrows.
    pub stats: Counters,
    /// Of htb: rate_bps, ceil_bps (B/s), prio.
    pub options: Counters,
}

/// A filter of tc.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Filter {
    /// u32, flower, matchall, bpf, ...
    pub kind: String,
    /// `ingress`, `egress`, or the qdisc that it is in, as `1:`.
    pub at: String,
    /// Its preference: lower ones are asked first.
    pub pref: u32,
    /// As tc names it.
    pub handle: String,
    /// Of bpf: the program's name.
    pub program: String,
    /// Of bpf: what the program returns is done (`direct-action`), and counted by the qdisc only.
    pub direct: bool,
    /// What is done with packets that match.
    pub actions: Vec<Action>,
}

/// An action of a filter.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Action {
    /// gact, police, mirred, ...
    pub kind: String,
    /// drop, ok, pipe, stolen, redirect, ...; of a policer what it does with packets that exceed its rate.
    pub does: String,
    /// bytes, packets; drops, overlimits (32 bits in the kernel's message).
    pub stats: Counters,
}

/// Sockets of the namespace.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sockets {
    /// Listening TCP sockets.
    pub listeners: Vec<Listener>,
    /// UDP sockets.
    pub udp: Vec<UdpSocket>,
    /// Packet sockets (taps).
    pub taps: Vec<Tap>,
    /// TCP sockets by state (ESTABLISHED, TIME_WAIT, ...). Gauges.
    pub tcp_states: Counters,
    /// TCP connections that say most: with data waiting, drops, or limits, worst first, at most some
    /// hundred.
    pub tcp: Vec<TcpSocket>,
    /// Local ports in use towards one remote address and port, the most used first.
    pub port_use: Vec<PortUse>,
    /// Who gets each packet, by device and Ethernet type, as `/proc/net/ptype` says.
    pub handlers: Vec<Handler>,
    /// AF_XDP sockets: rx_dropped, rx_ring_full, rx_fill_ring_empty_descs, ..., by device and queue.
    pub xdp: Vec<(String, u32, Counters)>,
}

/// Who has a socket open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The socket's inode.
    pub inode: u64,
    /// The user.
    pub uid: u32,
    /// Process and its name, if they could be found.
    pub process: Option<(u32, String)>,
}

/// A listening TCP socket.
#[derive(Clone, Debug, Serialize)]
pub struct Listener {
    /// Where.
    pub local: SocketAddr,
    /// Connections that wait for `accept`.
    pub waiting: u32,
    /// How many may.
    pub backlog: u32,
    /// `sk_drops`, since the socket was made.
    pub drops: u32,
    /// Whose.
    pub owner: Owner,
}

/// A UDP socket.
#[derive(Clone, Debug, Serialize)]
pub struct UdpSocket {
    /// Where.
    pub local: SocketAddr,
    /// Where to, if connected.
    pub remote: Option<SocketAddr>,
    /// Bytes (with overhead) that wait to be read.
    pub rmem: u32,
    /// How many may: `sk_rcvbuf`.
    pub rcvbuf: u32,
    /// `sk_sndbuf`.
    pub sndbuf: u32,
    /// `sk_drops`, since the socket was made.
    pub drops: u32,
    /// Whose.
    pub owner: Owner,
}

/// A packet socket.
#[derive(Clone, Debug, Serialize)]
pub struct Tap {
    /// The device; `None`: all.
    pub dev: Option<String>,
    /// The Ethernet type; 3 is all (`ETH_P_ALL`).
    pub protocol: u16,
    /// `sk_drops`, if known.
    pub drops: Option<u32>,
    /// Whose.
    pub owner: Owner,
}

/// A function of the kernel that gets each packet of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Handler {
    /// The Ethernet type; 3 is all of them, received and sent (`ETH_P_ALL`).
    pub protocol: u16,
    /// The device; `None`: all.
    pub dev: Option<String>,
    /// The function: ip_rcv, packet_rcv, tpacket_rcv, ...
    pub function: String,
}

/// A TCP connection.
#[derive(Clone, Debug, Serialize)]
pub struct TcpSocket {
    /// Here.
    pub local: SocketAddr,
    /// There.
    pub remote: SocketAddr,
    /// ESTABLISHED, ...
    pub state: String,
    /// Bytes that wait to be read.
    pub recv_q: u32,
    /// Bytes that are not acknowledged.
    pub send_q: u32,
    /// skmem: rmem, rcvbuf, wmem, sndbuf, fwd, wmem_queued, optmem, backlog, drops; and `struct tcp_info`
    /// as far as the kernel gives it: snd_mss, rtt (µs), min_rtt, snd_cwnd, rcv_space, retrans,
    /// total_retrans, lost, rwnd_limited (µs), sndbuf_limited (µs), busy_time (µs), delivery_rate (B/s),
    /// notsent_bytes, backoff, snd_wnd, rcv_wnd, reord_seen, ...
    pub info: Counters,
    /// The congestion control.
    pub cong: String,
    /// Whose.
    pub owner: Owner,
}

/// How many local ports are in use to one remote.
#[derive(Clone, Debug, Serialize)]
pub struct PortUse {
    /// Here.
    pub local: std::net::IpAddr,
    /// There.
    pub remote: SocketAddr,
    /// Ports of `ip_local_port_range` in use, in any state.
    pub ports: u32,
    /// Those of them in TIME_WAIT.
    pub time_wait: u32,
}

/// Drops by `skb:kfree_skb`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Drops {
    /// How many, by reason and function, since the tap began: `NO_SOCKET@__udp4_lib_rcv`.
    pub by: Counters,
    /// Events that the tap itself lost.
    pub lost: u64,
}

/// What probes of ours have measured since they began ([`crate::bpf`]).
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Of packets, one in so many was followed.
    pub sample: u32,
    /// Packets were followed in the network namespace of this inode only; `None`: in all.
    pub netns: Option<u64>,
    /// Calls of probes that the kernel left out, since another of the same was not over.
    pub missed: u64,
    /// By what was measured (`softirq/NET_RX`, `delay/NET_RX`, `poll/eth0`, `work/eth0`,
    /// `rx/udp-waited`, ...) and by processor. In nanoseconds; `work` in packets.
    pub hists: BTreeMap<String, BTreeMap<u32, Hist>>,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Note {
    /// The file or message.
    pub what: String,
    /// Why: the error, and what would help.
    pub why: String,
}

impl Dev {
    /// One of which only the name is known.
    #[must_use]
    pub fn named(name: &str) -> Dev {
        Dev { name: name.to_owned(), ..Dev::default() }
    }
}

impl Snapshot {
    /// Notes that `what` could not be read; once. The first few of one file say enough: a file that is
    /// garbage throughout would fill the memory.
    pub fn note(&mut self, what: impl Into<String>, why: impl Into<String>) {
        const OF_ONE_MAX: usize = 4;
        let note = Note { what: what.into(), why: why.into() };
        let of_this = self.notes.iter().filter(|n| n.what == note.what).count();
        if of_this < OF_ONE_MAX && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Where something was really read that rules cite as `source`; what follows behind a blank (a
    /// socket, a section) stays.
    #[must_use]
    pub fn really(&self, source: &str) -> String {
        let (file, rest) =
            source.split_once(' ').map_or((source, ""), |(f, _)| (f, &source[f.len()..]));
        self.stands_for.get(file).map_or_else(|| source.to_owned(), |real| format!("{real}{rest}"))
    }

    /// A counter of the MIB, as `("TcpExt", "ListenOverflows")`.
    #[must_use]
    pub fn mib(&self, section: &str, name: &str) -> Option<u64> {
        self.mib.get(section)?.get(name)
    }

    /// A sysctl that is one number.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<i64> {
        self.sysctls.get(name)?.parse().ok()
    }

    /// A sysctl that is several numbers.
    #[must_use]
    pub fn sysctl_list(&self, name: &str) -> Option<Vec<i64>> {
        self.sysctls.get(name)?.split_whitespace().map(|v| v.parse().ok()).collect()
    }
}
