//! The rows of a [`super::Snapshot`]: plain values with names, as reports and JSON have them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What went through one stage, in packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageRow {
    /// Its name.
    pub name: String,
    /// `rx` or `tx`.
    pub dir: String,
    /// Came from the stage before.
    #[serde(rename = "in")]
    pub entered: u64,
    /// Began here.
    pub made: u64,
    /// Became part of others.
    pub merged: u64,
    /// Went on.
    pub out: u64,
    /// Ended here as they should.
    pub taken: u64,
    /// Wait here now.
    pub held: u64,
    /// The most that ever waited.
    pub held_max: u64,
    /// Dropped here, by reason as users know it (Linux's name where there is one).
    pub dropped: BTreeMap<String, u64>,
    /// Batches that came through.
    pub batches: u64,
    /// Nanoseconds spent in batches that were timed.
    pub ns: u64,
    /// Packets in batches that were timed.
    pub ns_pkts: u64,
    /// What the law of conservation misses; 0 = every packet is accounted for.
    pub missing: i64,
}

impl StageRow {
    /// Packets dropped here for whatever reason.
    pub fn drops(&self) -> u64 {
        self.dropped.values().sum()
    }
    /// Whether nothing was ever here.
    pub fn idle(&self) -> bool {
        self.entered + self.made + self.out + self.taken + self.merged + self.drops() == 0
    }
}

/// Drops for one reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DropRow {
    /// Our name of the reason.
    pub reason: String,
    /// The name that users know: Linux's where there is one.
    pub label: String,
    /// The stage that dropped them.
    pub stage: String,
    /// Packets.
    pub packets: u64,
    /// The knob that governs it, if one does.
    pub knob: Option<String>,
    /// What it means.
    pub help: String,
}

/// A knob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KnobRow {
    /// Its path.
    pub path: String,
    /// Its value, as sysctl prints it.
    pub value: String,
    /// Its default.
    pub default: String,
    /// `default`, or `set` if the value is another.
    pub source: String,
    /// Its unit.
    pub unit: String,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Its name.
    pub name: String,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// Its addresses with prefix lengths.
    pub addrs: Vec<String>,
    /// What it does by itself, in ethtool's words.
    pub features: Vec<String>,
    /// Packets read.
    pub rx_packets: u64,
    /// Bytes read.
    pub rx_bytes: u64,
    /// Bad packets (all devices together; on the first one).
    pub rx_errors: u64,
    /// Packets that the stack had no room for (likewise).
    pub rx_dropped: u64,
    /// Packets that the ring had no room for (likewise).
    pub rx_missed: u64,
    /// Multicast frames (likewise).
    pub multicast: u64,
    /// Packets that the device took.
    pub tx_packets: u64,
    /// Bytes that it took.
    pub tx_bytes: u64,
    /// Packets that it refused (all devices together; on the first one).
    pub tx_errors: u64,
    /// Packets that the transmit queue refused.
    pub tx_dropped: u64,
}

/// A queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueRow {
    /// The stage it belongs to.
    pub stage: String,
    /// Packets in it now.
    pub now: u64,
    /// The most that ever were.
    pub max: u64,
    /// Its limit in packets, if it has one.
    pub limit: Option<u64>,
    /// The knob that sets the limit.
    pub knob: Option<String>,
}

/// One shard of an instance (Linux: what a CPU counts of its own).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardRow {
    /// Its number.
    pub shard: u8,
    /// Its counters of the groups `softnet`, `softirqs` and `linerate`.
    pub counters: BTreeMap<String, BTreeMap<String, u64>>,
    /// Packets in its backlog now.
    pub backlog: u64,
    /// Processor time of its thread so far, in nanoseconds.
    #[serde(default)]
    pub cpu_ns: u64,
    /// TCP sockets, listeners included.
    pub tcp: u64,
    /// UDP sockets.
    pub udp: u64,
}

impl ShardRow {
    /// The counter `name` of `group`; 0 if it is not counted here.
    pub fn counter(&self, group: &str, name: &str) -> u64 {
        self.counters.get(group).and_then(|g| g.get(name)).copied().unwrap_or(0)
    }
}

/// A queue of a device, as who drives it knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DevQueueRow {
    /// The device.
    pub device: String,
    /// The queue's number.
    pub queue: u8,
    /// The shard that drives it.
    pub shard: u8,
    /// Sizes of its rings in packets, and the largest they can have: 0 where the device can not say.
    pub rings: RingsRow,
    /// Its interrupt moderation as it is now: `rx-usecs`, `adaptive-rx` and so on.
    pub coalesce: BTreeMap<String, u64>,
    /// Statistics of its own, by the driver's names.
    pub statistics: BTreeMap<String, u64>,
}

/// Sizes of rings, in packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RingsRow {
    /// Receive ring.
    pub rx: u64,
    /// The largest receive ring.
    pub rx_max: u64,
    /// Transmit ring.
    pub tx: u64,
    /// The largest transmit ring.
    pub tx_max: u64,
}

/// How a device distributes what it receives over its queues.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RssRow {
    /// The device.
    pub device: String,
    /// Queues that it has.
    pub queues: u32,
    /// Who distributes where it is not this table: a sentence.
    pub instead: Option<String>,
    /// The queue of each entry of the indirection table; empty where it is not ours to know. The key
    /// is a secret and never told.
    pub indir: Vec<u8>,
    /// Both directions of a flow have one hash.
    pub symmetric: bool,
}

/// A rule that sends chosen flows to a queue, as `ethtool -n` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its location.
    pub location: u32,
    /// The rule, in the words of `ethtool -N`.
    pub spec: String,
}

/// Memory of packets, in buffers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Small buffers (2 KiB) out there.
    pub small_out: u64,
    /// Their limit.
    pub small_max: u64,
    /// Large buffers (64 KiB) out there.
    pub large_out: u64,
    /// Their limit.
    pub large_max: u64,
}

/// How many sockets there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketTotals {
    /// UDP sockets, those of both families included.
    pub udp: u64,
    /// Bytes that wait in them.
    pub udp_mem_bytes: u64,
    /// TCP sockets, listeners included, TIME_WAIT not.
    pub tcp: u64,
    /// Those of them that the application has closed already.
    pub tcp_orphan: u64,
    /// TIME_WAIT entries.
    pub tcp_tw: u64,
    /// TCP sockets that hold memory.
    pub tcp_alloc: u64,
    /// Pages of 4096 bytes that TCP's queues hold.
    pub tcp_mem_pages: u64,
    /// Packets being put together from fragments, of both families.
    pub frag: u64,
    /// Bytes that those of IPv4 hold.
    pub frag_mem_bytes: u64,
    /// Bytes that those of IPv6 hold.
    pub frag6_mem_bytes: u64,
}

/// A UDP socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UdpRow {
    /// The shard that owns it.
    #[serde(default)]
    pub shard: u8,
    /// Its address; unspecified = all, port 0 = all ports.
    pub local: SocketAddr,
    /// Whether it hears both families.
    pub any_family: bool,
    /// Its peer, if it is connected.
    pub remote: Option<SocketAddr>,
    /// Bytes of true size that wait to be read.
    pub rx_queue: u64,
    /// How many may.
    #[serde(default)]
    pub rcvbuf: u64,
    /// Datagrams dropped at it.
    pub drops: u64,
}

/// The byte queue limits of a transmit queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BqlRow {
    /// The shard whose queue it is.
    #[serde(default)]
    pub shard: u8,
    /// The device.
    pub dev: String,
    /// Which of its transmit queues on that shard.
    pub queue: u16,
    /// Bytes that may be on their way now.
    pub limit: u64,
    /// The smallest limit.
    pub limit_min: u64,
    /// The largest one.
    pub limit_max: u64,
    /// Milliseconds of slack before the limit becomes smaller.
    pub hold_time: u64,
    /// Bytes that are on their way.
    pub inflight: u64,
    /// Times that the device took nothing for five seconds while packets waited.
    #[serde(default)]
    pub tx_timeout: u64,
}

/// A queueing discipline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QdiscRow {
    /// The shard whose device it is at.
    #[serde(default)]
    pub shard: u8,
    /// The device.
    pub dev: String,
    /// Its kind.
    pub kind: String,
    /// `8001:`; `0:` = it has none.
    pub handle: String,
    /// `root`, `ingress` or `parent 8001:1`.
    pub place: String,
    /// Its parameters, as tc prints them.
    pub options: String,
    /// Bytes that left it for the device.
    pub bytes: u64,
    /// Packets that left it for the device.
    pub packets: u64,
    /// Packets that it dropped.
    pub drops: u64,
    /// Times that a packet had to wait though the device had room.
    pub overlimits: u64,
    /// Packets that were put in front of others.
    pub requeues: u64,
    /// Bytes that wait.
    pub backlog: u64,
    /// Packets that wait.
    pub qlen: u64,
    /// What it counts beside, by tc's names.
    pub xstats: BTreeMap<String, u64>,
    /// The time by its own clock when this was read, in nanoseconds: rates are what moved between two
    /// readings.
    #[serde(default)]
    pub at_ns: u64,
    /// All of it, as `tc -s qdisc show` prints it.
    pub text: String,
}

/// A rule at ingress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FilterRow {
    /// The shard whose device it is at.
    #[serde(default)]
    pub shard: u8,
    /// The device.
    pub dev: String,
    /// Its preference.
    pub prio: u16,
    /// Its handle.
    pub handle: u32,
    /// Packets that it matched.
    pub packets: u64,
    /// Bytes of them, without link headers.
    pub bytes: u64,
    /// Packets that it dropped.
    pub drops: u64,
    /// All of it, as `tc -s filter show` prints it.
    pub text: String,
}

/// A TCP socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpRow {
    /// The shard that owns it.
    #[serde(default)]
    pub shard: u8,
    /// Its address.
    pub local: SocketAddr,
    /// Its peer, unless it listens.
    pub remote: Option<SocketAddr>,
    /// `ESTABLISHED`, `LISTEN` …
    pub state: String,
    /// Bytes written and not acknowledged; of a listener: the limit of its accept queue.
    pub tx_queue: u64,
    /// Bytes that wait to be read; of a listener: connections that wait to be accepted.
    pub rx_queue: u64,
    /// Which timer runs, as in `/proc/net/tcp`: 0 none, 1 retransmission, 2 keepalive, 3 TIME_WAIT,
    /// 4 zero-window probe.
    pub timer: u8,
    /// Milliseconds until it fires.
    pub timer_ms: u64,
    /// Time-outs in a row.
    pub timeouts: u64,
    /// Unanswered probes in a row.
    pub probes: u64,
    /// What is known of a connection; listeners and TIME_WAIT have none.
    pub info: Option<TcpInfoRow>,
}

/// What `ss -ti` shows of a connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TcpInfoRow {
    /// Congestion control.
    pub cc: String,
    /// Smoothed round-trip time, in microseconds; 0 = not measured.
    pub rtt_us: u64,
    /// Its variation.
    pub rttvar_us: u64,
    /// Retransmission time-out, in microseconds.
    pub rto_us: u64,
    /// Congestion window, in segments.
    pub cwnd: u64,
    /// Slow-start threshold, in segments; `None` = slow start never ended.
    pub ssthresh: Option<u64>,
    /// Payload bytes of a full segment.
    pub mss: u64,
    /// Segments retransmitted so far.
    pub retrans: u64,
    /// Bytes that the peer acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// The window that the peer announced, in bytes.
    pub snd_wnd: u64,
    /// The window that we announced, in bytes.
    pub rcv_wnd: u64,
    /// Bytes of true size that its receive buffer may hold.
    #[serde(default)]
    pub rcvbuf: u64,
    /// Bytes that its send buffer may hold.
    #[serde(default)]
    pub sndbuf: u64,
}

/// A flow, open or ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRow {
    /// `tcp` or `udp`.
    pub proto: String,
    /// The program's end.
    pub program: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// `open` or `ended`.
    pub state: String,
    /// Bytes from the program.
    pub up_bytes: u64,
    /// Bytes to the program.
    pub down_bytes: u64,
    /// Smoothed round-trip time towards the program, in microseconds; 0 = not measured.
    pub rtt_us: u64,
    /// Congestion window towards the program, in segments.
    pub cwnd: u64,
    /// Segments retransmitted towards the program.
    pub retrans: u64,
}

/// An eBPF program at the stage Xdp of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct XdpRow {
    /// The device.
    pub device: String,
    /// Where the program was read from.
    pub file: String,
    /// The section that it was in.
    pub section: String,
    /// Its name: that of its function.
    pub name: String,
    /// Its license.
    pub license: String,
    /// Instructions, of all its functions.
    pub insns: u64,
    /// Functions.
    pub functions: u64,
    /// Packets by what it said of them: `pass`, `drop`, `tx`, `redirect`, `aborted`.
    pub actions: BTreeMap<String, u64>,
    /// Runs that ended because the program did what it may not.
    pub faults: u64,
    /// Why the last of those did.
    pub last_error: Option<String>,
    /// Its maps.
    pub maps: Vec<XdpMapRow>,
}

/// A map of an eBPF program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct XdpMapRow {
    /// Its name.
    pub name: String,
    /// Its kind, as bpftool names it.
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u64,
    /// Bytes of a value.
    pub value_size: u64,
    /// Entries at the most; bytes of a ring buffer.
    pub max_entries: u64,
    /// Entries that there are; records of a ring.
    pub entries: u64,
    /// Records that found no room.
    pub lost: u64,
}
