//! The knobs, by the names that sysctl, ethtool and tc give them.

use super::stage::Stage;

pub use super::value::{
    CcAvailable, CcName, CcNames, DefaultQdisc, FastOpenKeys, HashFields, KnobValue, Mask, Weights,
};

/// Where a knob applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The poll loop of one shard.
    Host,
    /// One network namespace: one stack.
    Net,
    /// One device.
    Device,
}

/// When a new value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// At once.
    Now,
    /// For sockets opened from now on.
    NextSocket,
    /// For devices opened from now on.
    NextDevice,
    /// When the instance is started anew.
    Restart,
}

/// One row of the knob table.
pub struct Row {
    /// Its path, as Linux writes it.
    pub path: &'static str,
    /// What it does: the doc comment of the row.
    pub help: &'static str,
    /// The unit of its value.
    pub unit: &'static str,
    /// The smallest value.
    pub low: u64,
    /// The largest value.
    pub high: u64,
    /// Where it applies.
    pub scope: Scope,
    /// When it counts.
    pub takes: Takes,
    /// The stage that reads it.
    pub stage: Stage,
    /// Why the default differs from Linux's; empty where it does not.
    pub why: &'static str,
    get: fn(&Knobs) -> String,
    set: fn(&mut Knobs, &str, u64, u64) -> bool,
}

/// Why a knob was not set. EINVAL, or ENOENT for [`SetError::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetError {
    /// There is no knob of this name (ENOENT); the nearest one, if any is near.
    Unknown {
        /// What was asked for.
        path: String,
        /// The name that is most like it.
        near: Option<&'static str>,
    },
    /// The value can not be read, or lies outside the range (EINVAL).
    Invalid {
        /// The knob.
        path: &'static str,
        /// What was given.
        value: String,
        /// Smallest and largest value.
        range: (u64, u64),
        /// The unit.
        unit: &'static str,
    },
    /// A queueing discipline, or a rule at ingress, can not be set (EINVAL), or not there (ENODEV).
    Qdisc {
        /// The place.
        path: String,
        /// Why: a sentence.
        why: String,
    },
    /// The knob can only be set when an instance is started (EBUSY).
    NotNow {
        /// The knob.
        path: &'static str,
    },
}

impl std::fmt::Display for SetError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SetError::Unknown { path, near: Some(near) } => {
                write!(f, "no knob is called {path:?}; did you mean {near:?}?")
            }
            SetError::Unknown { path, near: None } => {
                write!(f, "no knob is called {path:?}; `linerate show knobs` lists them all")
            }
            SetError::Invalid { path, value, range: (0, 1), unit: "switch" } => {
                write!(f, "{path} can not be {value:?}: it is on (1) or off (0)")
            }
            SetError::Invalid { path, value, range: (0, 0), unit } => {
                write!(f, "{path} can not be {value:?}: it is {unit}")
            }
            SetError::Invalid { path, value, range, unit } => write!(
                f,
                "{path} can not be {value:?}: it takes {unit} from {} to {}",
                range.0, range.1
            ),
            SetError::Qdisc { path, why } => write!(f, "{path}: {why}"),
            SetError::NotNow { path } => {
                write!(f, "{path} can only be set when the instance starts: pass --set {path}=…")
            }
        }
    }
}
impl std::error::Error for SetError {}

macro_rules! knobs {
    ($( $(#[doc = $doc:literal])+ $name:ident: $ty:ty {
        path: $path:literal, default: $default:expr, range: $low:literal..=$high:literal, unit: $unit:literal,
        scope: $scope:ident, takes: $takes:ident, stage: $stage:ident $(, why: $why:literal)?
    } )+) => {
        /// The value of every knob.
        #[derive(Clone, Debug)]
        pub struct Knobs { $( $(#[doc = $doc])+ pub $name: $ty ),+ }

        impl Default for Knobs {
            fn default() -> Self { Knobs { $( $name: $default ),+ } }
        }

        impl Knobs {
            /// The table.
            pub const ROWS: &'static [Row] = &[$( Row {
                path: $path, help: concat!($($doc),+), unit: $unit, low: $low, high: $high,
                scope: Scope::$scope, takes: Takes::$takes, stage: Stage::$stage,
                why: concat!($($why)?),
                get: |k| KnobValue::show(&k.$name),
                set: |k, text, low, high| match <$ty as KnobValue>::parse(text) {
                    Some(v) if v.in_range(low, high) => { k.$name = v; true }
                    _ => false,
                },
            } ),+];
        }
    };
}

impl Knobs {
    /// The row of the knob at `path` (dots or slashes, as `sysctl` takes both), or of the only one
    /// whose last name it is (`rps_cpus`).
    ///
    /// # Errors
    /// [`SetError::Unknown`] (ENOENT).
    pub fn row(path: &str) -> Result<&'static Row, SetError> {
        let dotted = path.replace('/', ".");
        let found =
            Knobs::ROWS.iter().find(|r| r.path == dotted).or_else(|| Knobs::by_end(&dotted));
        found.ok_or_else(|| SetError::Unknown { path: path.to_owned(), near: nearest(&dotted) })
    }
    /// The only knob whose path ends in `.name`, as a file of sysfs is known by its last name.
    fn by_end(name: &str) -> Option<&'static Row> {
        let ends = |r: &&Row| r.path.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        let mut found = Knobs::ROWS.iter().filter(ends);
        found.next().filter(|_| found.next().is_none() && !name.contains('.'))
    }
    /// Reads the knob at `path` as `sysctl` prints it.
    ///
    /// # Errors
    /// [`SetError::Unknown`] (ENOENT).
    pub fn get(&self, path: &str) -> Result<String, SetError> {
        Ok((Knobs::row(path)?.get)(self))
    }
    /// Sets the knob at `path`; nothing changes on an error.
    ///
    /// # Errors
    /// [`SetError::Unknown`] (ENOENT), [`SetError::Invalid`] (EINVAL).
    pub fn set(&mut self, path: &str, value: &str) -> Result<(), SetError> {
        let row = Knobs::row(path)?;
        if (row.set)(self, value, row.low, row.high) {
            return Ok(());
        }
        let value = value.to_owned();
        Err(SetError::Invalid { path: row.path, value, range: (row.low, row.high), unit: row.unit })
    }
}

fn nearest(path: &str) -> Option<&'static str> {
    let last = |p: &str| p.rsplit('.').next().unwrap_or_default().to_owned();
    let wanted = last(path);
    let score = |candidate: &str| {
        let have = last(candidate);
        let common = have.chars().zip(wanted.chars()).take_while(|(a, b)| a == b).count();
        (common * 2 >= wanted.len().max(3)).then_some(common)
    };
    let best = Knobs::ROWS.iter().filter_map(|r| Some((score(r.path)?, r.path)));
    best.max_by_key(|(common, _)| *common).map(|(_, path)| path)
}

knobs! {
    /// Slots of a device's receive ring (`ethtool -G rx`).
    ring_rx: u64 { path: "ring.rx", default: 1024, range: 1..=65536, unit: "packets", scope: Device, takes: Now, stage: Ring }
    /// Slots of a device's transmit ring (`ethtool -G tx`).
    ring_tx: u64 { path: "ring.tx", default: 1024, range: 1..=65536, unit: "packets", scope: Device, takes: Now, stage: Xmit }
    /// Small packet buffers (2 KiB) that the shard may own.
    pool_small: u64 { path: "pool.small", default: 16384, range: 64..=4194304, unit: "buffers", scope: Host, takes: Now, stage: Ring }
    /// Large packet buffers (64 KiB) that the shard may own.
    pool_large: u64 { path: "pool.large", default: 2048, range: 4..=65536, unit: "buffers", scope: Host, takes: Now, stage: Ring }
    /// Packets that one pass over all devices may take before it lets others run.
    netdev_budget: u64 { path: "net.core.netdev_budget", default: 300, range: 1..=1000000, unit: "packets", scope: Host, takes: Now, stage: Poll }
    /// Time that one pass over all devices may take before it lets others run.
    netdev_budget_usecs: u64 { path: "net.core.netdev_budget_usecs", default: 2000, range: 1..=10000000, unit: "microseconds", scope: Host, takes: Now, stage: Poll }
    /// Packets that one device may give in one poll before the next device has its turn.
    dev_weight: u64 { path: "net.core.dev_weight", default: 64, range: 1..=4096, unit: "packets", scope: Host, takes: Now, stage: Poll }
    /// Whether the loop spins for this long after its last packet instead of sleeping.
    busy_poll: u64 { path: "net.core.busy_poll", default: 0, range: 0..=1000000, unit: "microseconds", scope: Host, takes: Now, stage: Poll }
    /// The longest that the loop looks for work before it sleeps, where its last waits were as short; 0 = it sleeps at once.
    guest_halt_poll_ns: u64 { path: "haltpoll.guest_halt_poll_ns", default: 50000, range: 0..=10000000, unit: "nanoseconds", scope: Host, takes: Now, stage: Poll, why: "200000 in Linux, where an idle guest gives up nothing by polling; here it is time that the program may want" }
    /// Empty polls after which a device's interrupt is switched on again; meanwhile a timer of `gro_flush_timeout` polls it.
    napi_defer_hard_irqs: u64 { path: "dev.napi_defer_hard_irqs", default: 0, range: 0..=2147483647, unit: "polls", scope: Device, takes: Now, stage: Irq }
    /// How long interrupts stay off while busy polling keeps finding something; 0 = no longer than the timers say.
    irq_suspend_timeout: u64 { path: "dev.irq_suspend_timeout", default: 0, range: 0..=10000000000, unit: "nanoseconds", scope: Device, takes: Now, stage: Irq }
    /// How long a reader that found nothing looks at the devices before it gives up (SO_BUSY_POLL of all sockets).
    busy_read: u64 { path: "net.core.busy_read", default: 0, range: 0..=1000000, unit: "microseconds", scope: Host, takes: Now, stage: Irq }
    /// How long a ready device waits for more before it is polled (`ethtool -C rx-usecs`).
    rx_usecs: u64 { path: "coalesce.rx-usecs", default: 0, range: 0..=100000, unit: "microseconds", scope: Device, takes: Now, stage: Irq }
    /// How many packets end that wait early (`ethtool -C rx-frames`); 0 = only the time does.
    rx_frames: u64 { path: "coalesce.rx-frames", default: 0, range: 0..=65536, unit: "packets", scope: Device, takes: Now, stage: Irq }
    /// How long packets that were sent may wait until their memory is taken back (`ethtool -C tx-usecs`).
    tx_usecs: u64 { path: "coalesce.tx-usecs", default: 0, range: 0..=100000, unit: "microseconds", scope: Device, takes: Now, stage: Irq }
    /// How many packets end that wait early (`ethtool -C tx-frames`); 0 = only the time does.
    tx_frames: u64 { path: "coalesce.tx-frames", default: 0, range: 0..=65536, unit: "packets", scope: Device, takes: Now, stage: Irq }
    /// Whether `rx-usecs` follows the load by itself (`ethtool -C adaptive-rx`).
    adaptive_rx: bool { path: "coalesce.adaptive-rx", default: false, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Irq }
    /// Whether `tx-usecs` follows the load by itself (`ethtool -C adaptive-tx`).
    adaptive_tx: bool { path: "coalesce.adaptive-tx", default: false, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Irq }
    /// Queues of a device, each with its shard (`ethtool -L combined`).
    channels: u64 { path: "channels.combined", default: 1, range: 1..=64, unit: "queues", scope: Device, takes: Now, stage: Ring }
    /// The queues' shares of the indirection table (`ethtool -X weight`); `equal` = all alike.
    rss_weight: Weights { path: "rss.weight", default: Weights::default(), range: 0..=65535, unit: "shares", scope: Device, takes: Now, stage: Ring }
    /// Whether both directions of a flow have the same hash (`ethtool -X xfrm symmetric-xor`).
    rss_symmetric: bool { path: "rss.symmetric-xor", default: false, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Ring }
    /// What of TCP over IPv4 goes into the flow hash (`ethtool -N rx-flow-hash tcp4`).
    hash_tcp4: HashFields { path: "rx-flow-hash.tcp4", default: HashFields::ALL, range: 0..=0, unit: "letters of sdfn", scope: Device, takes: Now, stage: Ring }
    /// What of UDP over IPv4 goes into the flow hash (`ethtool -N rx-flow-hash udp4`).
    hash_udp4: HashFields { path: "rx-flow-hash.udp4", default: HashFields::ALL, range: 0..=0, unit: "letters of sdfn", scope: Device, takes: Now, stage: Ring }
    /// What of TCP over IPv6 goes into the flow hash (`ethtool -N rx-flow-hash tcp6`).
    hash_tcp6: HashFields { path: "rx-flow-hash.tcp6", default: HashFields::ALL, range: 0..=0, unit: "letters of sdfn", scope: Device, takes: Now, stage: Ring }
    /// What of UDP over IPv6 goes into the flow hash (`ethtool -N rx-flow-hash udp6`).
    hash_udp6: HashFields { path: "rx-flow-hash.udp6", default: HashFields::ALL, range: 0..=0, unit: "letters of sdfn", scope: Device, takes: Now, stage: Ring }
    /// Whether accelerated RFS may write rules into devices that take them (`ethtool -K ntuple`).
    ntuple: bool { path: "features.ntuple", default: false, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Steer }
    /// The shards that a queue's packets are spread over by their flow hash; 0 = they stay.
    rps_cpus: Mask { path: "queues.rx.rps_cpus", default: Mask(0), range: 0..=18446744073709551615, unit: "mask", scope: Device, takes: Now, stage: Steer }
    /// What `rps_cpus` is for devices that are added from now on.
    rps_default_mask: Mask { path: "net.core.rps_default_mask", default: Mask(0), range: 0..=18446744073709551615, unit: "mask", scope: Host, takes: Now, stage: Steer }
    /// Flows whose reader's shard is remembered, all queues together; 0 = flows do not follow their readers (RFS).
    rps_sock_flow_entries: u64 { path: "net.core.rps_sock_flow_entries", default: 0, range: 0..=1048576, unit: "flows", scope: Host, takes: Now, stage: Steer }
    /// Flows whose last shard is remembered, for each queue; 0 = RFS is off.
    rps_flow_cnt: u64 { path: "queues.rx.rps_flow_cnt", default: 0, range: 0..=1048576, unit: "flows", scope: Device, takes: Now, stage: Steer }
    /// The shards whose packets a transmit queue takes; 0 = its own.
    xps_cpus: Mask { path: "queues.tx.xps_cpus", default: Mask(0), range: 0..=18446744073709551615, unit: "mask", scope: Device, takes: Now, stage: Qdisc }
    /// Whether a flow is sent by the queue that it is received by (a mask of receive queues); it goes before `xps_cpus`.
    xps_rxqs: Mask { path: "queues.tx.xps_rxqs", default: Mask(0), range: 0..=18446744073709551615, unit: "mask", scope: Device, takes: Now, stage: Qdisc }
    /// The fewest bytes that may be on their way in a transmit ring and its device before more is held
    /// back in the queueing discipline. 0 = as few as keep the device busy, which is found out.
    bql_limit_min: u64 { path: "queues.tx.byte_queue_limits.limit_min", default: 1879048192, range: 0..=1879048192, unit: "bytes", scope: Device, takes: Now, stage: Xmit, why: "Linux has 0 where a driver takes part; most devices here are through with a packet at once, so that there is nothing to find out" }
    /// The most bytes that may be so.
    bql_limit_max: u64 { path: "queues.tx.byte_queue_limits.limit_max", default: 1879048192, range: 0..=1879048192, unit: "bytes", scope: Device, takes: Now, stage: Xmit }
    /// How long a ring must have held more than it needed before it may hold less.
    bql_hold_time: u64 { path: "queues.tx.byte_queue_limits.hold_time", default: 1000, range: 0..=3600000, unit: "milliseconds", scope: Device, takes: Now, stage: Xmit }
    /// Whether packets are stamped before they are steered (1), or by the shard that takes them from its backlog (0).
    netdev_tstamp_prequeue: bool { path: "net.core.netdev_tstamp_prequeue", default: true, range: 0..=1, unit: "switch", scope: Host, takes: Now, stage: Backlog }
    /// The shards that limit single flows when they steer to a backlog that is half full.
    flow_limit_cpu_bitmap: Mask { path: "net.core.flow_limit_cpu_bitmap", default: Mask(0), range: 0..=18446744073709551615, unit: "mask", scope: Host, takes: Now, stage: Backlog }
    /// Flows that the flow limit tells apart; a power of two, for shards whose limit is switched on from now on.
    flow_limit_table_len: u64 { path: "net.core.flow_limit_table_len", default: 4096, range: 1..=65536, unit: "flows", scope: Host, takes: Now, stage: Backlog }
    /// Packets that may wait in the shard's input queue.
    netdev_max_backlog: u64 { path: "net.core.netdev_max_backlog", default: 1000, range: 0..=10000000, unit: "packets", scope: Host, takes: Now, stage: Backlog }
    /// Whether receive offload merges segments (`ethtool -K gro`).
    gro: bool { path: "features.gro", default: true, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Gro }
    /// Whether receive offload merges equal UDP datagrams too (`ethtool -K rx-udp-gro-forwarding`).
    rx_udp_gro_forwarding: bool { path: "features.rx-udp-gro-forwarding", default: false, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Gro }
    /// How long receive offload may hold a packet beyond the poll in which it came; 0 = not at all.
    gro_flush_timeout: u64 { path: "dev.gro_flush_timeout", default: 0, range: 0..=1000000000, unit: "nanoseconds", scope: Device, takes: Now, stage: Gro }
    /// Whether TCP may hand super-packets to the device (`ethtool -K tso`); off: they are cut in software.
    tso: bool { path: "features.tso", default: true, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Gso }
    /// Whether TCP and UDP may build super-packets at all (`ethtool -K gso`).
    gso: bool { path: "features.gso", default: true, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Gso }
    /// Whether checksums may be left to the device (`ethtool -K tx`).
    tx_checksum: bool { path: "features.tx", default: true, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Gso }
    /// Whether checksums that the device calls good are believed (`ethtool -K rx`).
    rx_checksum: bool { path: "features.rx", default: true, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Transport }
    /// Whether frames for other MAC addresses are taken.
    promisc: bool { path: "dev.promisc", default: false, range: 0..=1, unit: "switch", scope: Device, takes: Now, stage: Link }
    /// The queueing discipline of devices that are opened from now on, and of those whose own is taken
    /// away (`qdisc.DEV.root=none`).
    default_qdisc: DefaultQdisc { path: "net.core.default_qdisc", default: DefaultQdisc::PFIFO_FAST, range: 0..=0, unit: "pfifo_fast, pfifo, bfifo, sfq, codel, fq or fq_codel: the others need parameters", scope: Host, takes: NextDevice, stage: Qdisc }
    /// Packets that may wait in a device's transmit queue.
    txqueuelen: u64 { path: "dev.txqueuelen", default: 1000, range: 1..=1000000, unit: "packets", scope: Device, takes: Now, stage: Qdisc }
    /// Whether packets for others are forwarded.
    ip_forward: bool { path: "net.ipv4.ip_forward", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Route }
    /// Whether IPv6 packets for others are forwarded.
    ip6_forward: bool { path: "net.ipv6.conf.all.forwarding", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Route }
    /// Whether IPv6 is switched off.
    disable_ipv6: bool { path: "net.ipv6.conf.all.disable_ipv6", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Ip }
    /// Whether an IPv4 packet for one host is dropped that came in a frame for many (RFC 1122 §3.3.6).
    drop_unicast_in_l2_multicast: bool { path: "net.ipv4.conf.all.drop_unicast_in_l2_multicast", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Ip }
    /// Reverse-path filter: 0 off, 1 strict, 2 loose (RFC 3704).
    rp_filter: u64 { path: "net.ipv4.conf.all.rp_filter", default: 0, range: 0..=2, unit: "mode", scope: Net, takes: Now, stage: Route }
    /// TTL of IPv4 packets that we send.
    ip_default_ttl: u64 { path: "net.ipv4.ip_default_ttl", default: 64, range: 1..=255, unit: "hops", scope: Net, takes: Now, stage: IpOut }
    /// Hop limit of IPv6 packets that we send.
    hop_limit: u64 { path: "net.ipv6.conf.all.hop_limit", default: 64, range: 1..=255, unit: "hops", scope: Net, takes: Now, stage: IpOut }
    /// Path MTU discovery off (1): packets may be fragmented on their way.
    ip_no_pmtu_disc: bool { path: "net.ipv4.ip_no_pmtu_disc", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: IpOut }
    /// How long fragments wait for the rest.
    ipfrag_time: u64 { path: "net.ipv4.ipfrag_time", default: 30, range: 1..=3600, unit: "seconds", scope: Net, takes: Now, stage: Reasm }
    /// Memory that IPv4 fragments may hold.
    ipfrag_high_thresh: u64 { path: "net.ipv4.ipfrag_high_thresh", default: 4194304, range: 0..=1073741824, unit: "bytes", scope: Net, takes: Now, stage: Reasm }
    /// How far a fragment's packet may be behind those of the same source before it is given up; 0 = no limit.
    ipfrag_max_dist: u64 { path: "net.ipv4.ipfrag_max_dist", default: 64, range: 0..=65536, unit: "packets", scope: Net, takes: Now, stage: Reasm }
    /// How long IPv6 fragments wait for the rest.
    ip6frag_time: u64 { path: "net.ipv6.ip6frag_time", default: 60, range: 1..=3600, unit: "seconds", scope: Net, takes: Now, stage: Reasm }
    /// Memory that IPv6 fragments may hold.
    ip6frag_high_thresh: u64 { path: "net.ipv6.ip6frag_high_thresh", default: 4194304, range: 0..=1073741824, unit: "bytes", scope: Net, takes: Now, stage: Reasm }
    /// Time between ICMP errors to one destination.
    icmp_ratelimit: u64 { path: "net.ipv4.icmp_ratelimit", default: 1000, range: 0..=3600000, unit: "milliseconds", scope: Net, takes: Now, stage: Send }
    /// Which ICMP types the rate limit covers: one bit a type.
    icmp_ratemask: u64 { path: "net.ipv4.icmp_ratemask", default: 6168, range: 0..=4294967295, unit: "bits", scope: Net, takes: Now, stage: Send }
    /// ICMP messages in a second, to all destinations together.
    icmp_msgs_per_sec: u64 { path: "net.ipv4.icmp_msgs_per_sec", default: 1000, range: 0..=1000000, unit: "messages", scope: Host, takes: Now, stage: Send }
    /// How many ICMP messages may go out at once before the rate counts.
    icmp_msgs_burst: u64 { path: "net.ipv4.icmp_msgs_burst", default: 50, range: 0..=1000000, unit: "messages", scope: Host, takes: Now, stage: Send }
    /// Time between ICMPv6 errors to one destination.
    icmp6_ratelimit: u64 { path: "net.ipv6.icmp.ratelimit", default: 1000, range: 0..=3600000, unit: "milliseconds", scope: Net, takes: Now, stage: Send }
    /// Whether echo requests go unanswered.
    icmp_echo_ignore_all: bool { path: "net.ipv4.icmp_echo_ignore_all", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Transport }
    /// Whether echo requests to broadcast and multicast addresses go unanswered.
    icmp_echo_ignore_broadcasts: bool { path: "net.ipv4.icmp_echo_ignore_broadcasts", default: true, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Transport }
    /// Neighbours below which the table is never cleaned.
    gc_thresh1: u64 { path: "net.ipv4.neigh.default.gc_thresh1", default: 128, range: 0..=1000000, unit: "entries", scope: Host, takes: Now, stage: Neigh }
    /// Neighbours that the table may hold.
    gc_thresh3: u64 { path: "net.ipv4.neigh.default.gc_thresh3", default: 1024, range: 1..=1000000, unit: "entries", scope: Host, takes: Now, stage: Neigh }
    /// Bytes that may wait for one neighbour's link address.
    unres_qlen_bytes: u64 { path: "net.ipv4.neigh.default.unres_qlen_bytes", default: 212992, range: 0..=1073741824, unit: "bytes", scope: Device, takes: Now, stage: Neigh }
    /// Multicast solicitations before a neighbour is given up.
    mcast_solicit: u64 { path: "net.ipv4.neigh.default.mcast_solicit", default: 3, range: 1..=100, unit: "tries", scope: Device, takes: Now, stage: Neigh }
    /// Unicast solicitations before a neighbour is asked for anew.
    ucast_solicit: u64 { path: "net.ipv4.neigh.default.ucast_solicit", default: 3, range: 1..=100, unit: "tries", scope: Device, takes: Now, stage: Neigh }
    /// Time between solicitations.
    retrans_time_ms: u64 { path: "net.ipv4.neigh.default.retrans_time_ms", default: 1000, range: 1..=3600000, unit: "milliseconds", scope: Device, takes: Now, stage: Neigh }
    /// How long a neighbour counts as reachable after it was heard from.
    base_reachable_time_ms: u64 { path: "net.ipv4.neigh.default.base_reachable_time_ms", default: 30000, range: 1000..=3600000, unit: "milliseconds", scope: Device, takes: Now, stage: Neigh }
    /// Receive buffer of a socket that does not ask for one.
    rmem_default: u64 { path: "net.core.rmem_default", default: 212992, range: 256..=2147483647, unit: "bytes", scope: Net, takes: NextSocket, stage: SockQueue }
    /// The largest receive buffer that a socket may ask for (SO_RCVBUF); it gets twice as much, as in Linux.
    rmem_max: u64 { path: "net.core.rmem_max", default: 4194304, range: 256..=2147483647, unit: "bytes", scope: Net, takes: Now, stage: SockQueue }
    /// The largest send buffer that a socket may ask for (SO_SNDBUF); it gets twice as much, as in Linux.
    wmem_max: u64 { path: "net.core.wmem_max", default: 4194304, range: 4608..=2147483647, unit: "bytes", scope: Net, takes: Now, stage: Send }
    /// Memory of all UDP sockets: low, pressure, maximum.
    udp_mem: [u64; 3] { path: "net.ipv4.udp_mem", default: [16384, 32768, 65536], range: 0..=1073741824, unit: "pages of 4096 bytes", scope: Net, takes: Now, stage: SockQueue, why: "Linux derives it from the machine's memory; this is 256 MiB at the most" }
    /// Receive buffer of a TCP socket: smallest, default, largest. The smallest is what a socket may
    /// hold also when all together hold more than `tcp_mem` allows; the default is read when a socket
    /// is opened; the largest bounds growth at once, of open sockets too.
    tcp_rmem: [u64; 3] { path: "net.ipv4.tcp_rmem", default: [4096, 131072, 33554432], range: 4096..=2147483647, unit: "bytes", scope: Net, takes: NextSocket, stage: SockQueue }
    /// Send buffer of a TCP socket: smallest, default, largest. The smallest is what a socket may
    /// queue also when all together hold more than `tcp_mem` allows; the default is read when a
    /// socket is opened; the largest bounds growth at once, of open sockets too.
    tcp_wmem: [u64; 3] { path: "net.ipv4.tcp_wmem", default: [4096, 16384, 33554432], range: 4096..=2147483647, unit: "bytes", scope: Net, takes: NextSocket, stage: Send, why: "Linux has 4 MiB, which keep a path of 100 ms at 0.3 Gbit/s; this is what it receives with" }
    /// Memory of all TCP sockets: low, pressure, maximum.
    tcp_mem: [u64; 3] { path: "net.ipv4.tcp_mem", default: [32768, 49152, 65536], range: 0..=1073741824, unit: "pages of 4096 bytes", scope: Net, takes: Now, stage: SockQueue, why: "Linux derives it from the machine's memory; this is 256 MiB at the most" }
    /// Connections that their applications have closed and that still have something to send; what comes
    /// beyond is reset.
    tcp_max_orphans: u64 { path: "net.ipv4.tcp_max_orphans", default: 65536, range: 0..=2147483647, unit: "connections", scope: Net, takes: Now, stage: Send, why: "Linux derives it from the machine's memory" }
    /// Whether a reset leaves an entry in TIME_WAIT as it is (RFC 1337).
    tcp_rfc1337: bool { path: "net.ipv4.tcp_rfc1337", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Transport }
    /// Whether answers to a SYN, and what is sent on the connection that it opens, have the type of service of the SYN.
    tcp_reflect_tos: bool { path: "net.ipv4.tcp_reflect_tos", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Send }
    /// The least maximum segment size by which is sent, whatever a peer asks for, options included.
    tcp_min_snd_mss: u64 { path: "net.ipv4.tcp_min_snd_mss", default: 48, range: 48..=65535, unit: "bytes", scope: Net, takes: NextSocket, stage: Send }
    /// Whether peers that do not scale windows are told of 32767 bytes at most: some take more for a negative number.
    tcp_workaround_signed_windows: bool { path: "net.ipv4.tcp_workaround_signed_windows", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Transport }
    /// Whether a connection that is opened may take the place of one in TIME_WAIT: 0 never, 1 always, 2 between addresses of loopback.
    tcp_tw_reuse: u64 { path: "net.ipv4.tcp_tw_reuse", default: 1, range: 0..=2, unit: "mode", scope: Net, takes: Now, stage: Send, why: "2 in Linux; here connections for many programs go from one address to few" }
    /// How long after the last segment that may be.
    tcp_tw_reuse_delay: u64 { path: "net.ipv4.tcp_tw_reuse_delay", default: 1000, range: 1..=60000, unit: "milliseconds", scope: Net, takes: Now, stage: Send }
    /// SYNs that are sent again each a second after the last, before the waits double (they are not
    /// among `tcp_syn_retries`).
    tcp_syn_linear_timeouts: u64 { path: "net.ipv4.tcp_syn_linear_timeouts", default: 4, range: 0..=127, unit: "tries", scope: Net, takes: Now, stage: Send }
    /// Whether the receive buffer grows with what the application reads.
    tcp_moderate_rcvbuf: bool { path: "net.ipv4.tcp_moderate_rcvbuf", default: true, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: SockQueue }
    /// Whether the window that was announced may be taken back where the buffer has become too full for it (a
    /// departure from RFC 9293 §3.8.6 that saves what comes from being dropped).
    tcp_shrink_window: bool { path: "net.ipv4.tcp_shrink_window", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: SockQueue }
    /// Bytes that a TCP socket may have queued and not sent (TCP_NOTSENT_LOWAT of all sockets).
    tcp_notsent_lowat: u64 { path: "net.ipv4.tcp_notsent_lowat", default: 4294967295, range: 0..=4294967295, unit: "bytes", scope: Net, takes: Now, stage: Send }
    /// Memory of one socket for notices of zero-copy sends, 576 bytes each: those under way, and those that nobody
    /// has read.
    optmem_max: u64 { path: "net.core.optmem_max", default: 131072, range: 0..=2147483647, unit: "bytes", scope: Net, takes: Now, stage: Send }
    /// Connections that may wait to be accepted, whatever the application asks for.
    somaxconn: u64 { path: "net.core.somaxconn", default: 4096, range: 0..=2147483647, unit: "connections", scope: Net, takes: Now, stage: Transport }
    /// Fast Open (RFC 7413), by bits: 1 clients may use it, 2 listeners may, 4 clients need no cookie, 0x200 listeners need none, 0x400 all listeners use it.
    tcp_fastopen: u64 { path: "net.ipv4.tcp_fastopen", default: 1, range: 0..=2147483647, unit: "bits", scope: Net, takes: Now, stage: Transport }
    /// The keys of Fast Open's cookies, each four groups of eight hexadecimal digits with hyphens between: with the first one cookies are made, one more is taken; empty = a key of the stack's own.
    tcp_fastopen_key: FastOpenKeys { path: "net.ipv4.tcp_fastopen_key", default: FastOpenKeys(Vec::new()), range: 0..=0, unit: "key", scope: Net, takes: Now, stage: Transport }
    /// For how long connections are opened without Fast Open when something on the way seems to swallow it;
    /// twice as long each further time, up to 64 times; 0 = it is never left out.
    tcp_fastopen_blackhole_timeout_sec: u64 { path: "net.ipv4.tcp_fastopen_blackhole_timeout_sec", default: 0, range: 0..=2147483647, unit: "seconds", scope: Net, takes: Now, stage: Send }
    /// SYN cookies: 0 never, 1 when a listener has as many half-open connections as its backlog, 2 always.
    tcp_syncookies: u64 { path: "net.ipv4.tcp_syncookies", default: 1, range: 0..=2, unit: "mode", scope: Net, takes: Now, stage: Transport }
    /// Half-open connections of one listener, where SYN cookies are off.
    tcp_max_syn_backlog: u64 { path: "net.ipv4.tcp_max_syn_backlog", default: 1024, range: 1..=2147483647, unit: "connections", scope: Net, takes: Now, stage: Transport }
    /// Reset, instead of silence, when the accept queue overflows.
    tcp_abort_on_overflow: bool { path: "net.ipv4.tcp_abort_on_overflow", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Transport }
    /// How often a SYN is repeated.
    tcp_syn_retries: u64 { path: "net.ipv4.tcp_syn_retries", default: 6, range: 1..=127, unit: "tries", scope: Net, takes: Now, stage: Send }
    /// How often a SYN-ACK is repeated.
    tcp_synack_retries: u64 { path: "net.ipv4.tcp_synack_retries", default: 5, range: 0..=255, unit: "tries", scope: Net, takes: Now, stage: Send }
    /// The urgent pointer names the urgent byte (RFC 1122 §4.2.2.4), and not, as with BSD and nearly everybody, the one
    /// behind it.
    tcp_stdurg: bool { path: "net.ipv4.tcp_stdurg", default: false, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Transport }
    /// Timeouts in a row, counted by the time that they take, after which the path counts as bad: black holes are
    /// looked for (`tcp_mtu_probing`).
    tcp_retries1: u64 { path: "net.ipv4.tcp_retries1", default: 3, range: 0..=255, unit: "tries", scope: Net, takes: Now, stage: Send }
    /// Path MTU discovery by probes (RFC 4821): 0 not at all, 1 for connections whose packets vanish, 2 for all.
    tcp_mtu_probing: u64 { path: "net.ipv4.tcp_mtu_probing", default: 0, range: 0..=2, unit: "mode", scope: Net, takes: Now, stage: Send }
    /// Payload of a segment with which the search for the path's MTU begins.
    tcp_base_mss: u64 { path: "net.ipv4.tcp_base_mss", default: 1024, range: 48..=65535, unit: "bytes", scope: Net, takes: Now, stage: Send }
    /// Payload of a segment below which the search does not go where packets vanish.
    tcp_mtu_probe_floor: u64 { path: "net.ipv4.tcp_mtu_probe_floor", default: 48, range: 48..=65535, unit: "bytes", scope: Net, takes: Now, stage: Send }
    /// The search ends when what arrives and what does not are so close.
    tcp_probe_threshold: u64 { path: "net.ipv4.tcp_probe_threshold", default: 8, range: 0..=65535, unit: "bytes", scope: Net, takes: Now, stage: Send }
    /// A search that has ended begins anew after so long.
    tcp_probe_interval: u64 { path: "net.ipv4.tcp_probe_interval", default: 600, range: 0..=4294967295, unit: "seconds", scope: Net, takes: Now, stage: Send }
    /// How often data is repeated before the connection is given up.
    tcp_retries2: u64 { path: "net.ipv4.tcp_retries2", default: 15, range: 0..=255, unit: "tries", scope: Net, takes: Now, stage: Send }
    /// How often an orphaned connection repeats its FIN; 0 = 8.
    tcp_orphan_retries: u64 { path: "net.ipv4.tcp_orphan_retries", default: 0, range: 0..=255, unit: "tries", scope: Net, takes: Now, stage: Send }
    /// How long FIN-WAIT-2 waits for the peer after the application has closed.
    tcp_fin_timeout: u64 { path: "net.ipv4.tcp_fin_timeout", default: 60, range: 1..=2147483, unit: "seconds", scope: Net, takes: Now, stage: Transport }
    /// TIME_WAIT entries at the most.
    tcp_max_tw_buckets: u64 { path: "net.ipv4.tcp_max_tw_buckets", default: 65536, range: 0..=16777216, unit: "connections", scope: Net, takes: Now, stage: Transport }
    /// Idle time before the first keepalive probe.
    tcp_keepalive_time: u64 { path: "net.ipv4.tcp_keepalive_time", default: 7200, range: 1..=32767, unit: "seconds", scope: Net, takes: NextSocket, stage: Send }
    /// Time between keepalive probes.
    tcp_keepalive_intvl: u64 { path: "net.ipv4.tcp_keepalive_intvl", default: 75, range: 1..=32767, unit: "seconds", scope: Net, takes: NextSocket, stage: Send }
    /// Unanswered keepalive probes after which the connection is given up.
    tcp_keepalive_probes: u64 { path: "net.ipv4.tcp_keepalive_probes", default: 9, range: 1..=127, unit: "tries", scope: Net, takes: NextSocket, stage: Send }
    /// Timestamps (RFC 7323).
    tcp_timestamps: bool { path: "net.ipv4.tcp_timestamps", default: true, range: 0..=1, unit: "switch", scope: Net, takes: NextSocket, stage: Transport }
    /// Window scaling (RFC 7323).
    tcp_window_scaling: bool { path: "net.ipv4.tcp_window_scaling", default: true, range: 0..=1, unit: "switch", scope: Net, takes: NextSocket, stage: Transport }
    /// Selective acknowledgements (RFC 2018).
    tcp_sack: bool { path: "net.ipv4.tcp_sack", default: true, range: 0..=1, unit: "switch", scope: Net, takes: NextSocket, stage: Transport }
    /// Duplicate selective acknowledgements (RFC 2883).
    tcp_dsack: bool { path: "net.ipv4.tcp_dsack", default: true, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Transport }
    /// Acknowledgements of data out of order are held back for a twentieth of a round trip, and not longer
    /// than this; the first three are not.
    tcp_comp_sack_delay_ns: u64 { path: "net.ipv4.tcp_comp_sack_delay_ns", default: 1000000, range: 0..=4294967295, unit: "nanoseconds", scope: Net, takes: Now, stage: Send }
    /// By so much later they may go, so that the timers of several connections fire together.
    tcp_comp_sack_slack_ns: u64 { path: "net.ipv4.tcp_comp_sack_slack_ns", default: 100000, range: 0..=4294967295, unit: "nanoseconds", scope: Net, takes: Now, stage: Send }
    /// How many of them are held back at the most; 0 = each is sent.
    tcp_comp_sack_nr: u64 { path: "net.ipv4.tcp_comp_sack_nr", default: 44, range: 0..=255, unit: "packets", scope: Net, takes: Now, stage: Send }
    /// The congestion control of new connections.
    tcp_congestion_control: CcName { path: "net.ipv4.tcp_congestion_control", default: CcName::Cubic, range: 0..=0, unit: "reno, cubic, bbr or dctcp", scope: Net, takes: NextSocket, stage: Send }
    /// The congestion controls that an application may choose (TCP_CONGESTION).
    tcp_allowed_congestion_control: CcNames { path: "net.ipv4.tcp_allowed_congestion_control", default: CcNames::UNRESTRICTED, range: 0..=0, unit: "a list of reno, cubic, bbr and dctcp", scope: Net, takes: Now, stage: Send }
    /// Pacing in slow start, in percent of a window in a round trip.
    tcp_pacing_ss_ratio: u64 { path: "net.ipv4.tcp_pacing_ss_ratio", default: 200, range: 1..=1000, unit: "percent", scope: Net, takes: Now, stage: Send }
    /// Pacing in congestion avoidance, in percent of a window in a round trip.
    tcp_pacing_ca_ratio: u64 { path: "net.ipv4.tcp_pacing_ca_ratio", default: 120, range: 1..=1000, unit: "percent", scope: Net, takes: Now, stage: Send }
    /// Segments that a super-packet may have however low the connection's rate is.
    tcp_min_tso_segs: u64 { path: "net.ipv4.tcp_min_tso_segs", default: 2, range: 1..=255, unit: "segments", scope: Net, takes: Now, stage: Send }
    /// Where the least round trip is shorter than 2^n microseconds, super-packets have their full size at any rate; each doubling of it halves that.
    tcp_tso_rtt_log: u64 { path: "net.ipv4.tcp_tso_rtt_log", default: 9, range: 0..=255, unit: "bits of microseconds", scope: Net, takes: Now, stage: Send }
    /// A super-packet waits for an acknowledgement that makes it larger as long as less than this part of the window may be sent; 0 = as long as three segments or fewer may.
    tcp_tso_win_divisor: u64 { path: "net.ipv4.tcp_tso_win_divisor", default: 3, range: 0..=255, unit: "divisor", scope: Net, takes: Now, stage: Send }
    /// The most bytes of one connection that wait between it and the device; what its rate sends in a millisecond, or two packets, is enough (small queues).
    tcp_limit_output_bytes: u64 { path: "net.ipv4.tcp_limit_output_bytes", default: 4194304, range: 0..=2147483647, unit: "bytes", scope: Net, takes: Now, stage: Send }
    /// The congestion controls that there are; it is only read.
    tcp_available_congestion_control: CcAvailable { path: "net.ipv4.tcp_available_congestion_control", default: CcAvailable, range: 0..=0, unit: "only read", scope: Net, takes: Now, stage: Send }
    /// Packets by which one may be overtaken before it counts as lost, at the beginning of a connection.
    tcp_reordering: u64 { path: "net.ipv4.tcp_reordering", default: 3, range: 1..=300, unit: "segments", scope: Net, takes: NextSocket, stage: Send }
    /// How far a connection that sees its packets overtake each other may raise that.
    tcp_max_reordering: u64 { path: "net.ipv4.tcp_max_reordering", default: 300, range: 1..=2147483647, unit: "segments", scope: Net, takes: Now, stage: Send }
    /// Tail loss probes (RFC 8985 §7): 3 and 4 on, everything else off.
    tcp_early_retrans: u64 { path: "net.ipv4.tcp_early_retrans", default: 3, range: 0..=4, unit: "mode", scope: Net, takes: Now, stage: Send }
    /// RACK (RFC 8985), in bits: 2 its reordering window does not adapt, 4 three duplicates do not close it; 1, which switched it on, means nothing any more.
    tcp_recovery: u64 { path: "net.ipv4.tcp_recovery", default: 1, range: 0..=255, unit: "bits", scope: Net, takes: Now, stage: Send }
    /// Whether it is found out if a timeout was spurious (F-RTO, RFC 5682): 0 = no.
    tcp_frto: u64 { path: "net.ipv4.tcp_frto", default: 2, range: 0..=255, unit: "mode", scope: Net, takes: Now, stage: Send }
    /// For how long the least round trip that was measured is the least.
    tcp_min_rtt_wlen: u64 { path: "net.ipv4.tcp_min_rtt_wlen", default: 300, range: 0..=86400, unit: "seconds", scope: Net, takes: Now, stage: Send }
    /// Largest retransmission time-out.
    tcp_rto_max_ms: u64 { path: "net.ipv4.tcp_rto_max_ms", default: 120000, range: 1000..=120000, unit: "milliseconds", scope: Net, takes: NextSocket, stage: Send }
    /// Answers that a connection gives until its acknowledgements wait for the next one.
    tcp_pingpong_thresh: u64 { path: "net.ipv4.tcp_pingpong_thresh", default: 1, range: 1..=255, unit: "answers", scope: Net, takes: Now, stage: Send }
    /// ECN (RFC 3168): 0 no, 1 asked for and granted, 2 granted to peers that ask for it.
    tcp_ecn: u64 { path: "net.ipv4.tcp_ecn", default: 2, range: 0..=2, unit: "mode", scope: Net, takes: NextSocket, stage: Transport }
    /// Whether a SYN that is repeated asks for ECN no more, since something on the way may not let it pass.
    tcp_ecn_fallback: bool { path: "net.ipv4.tcp_ecn_fallback", default: true, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Send }
    /// How fast DCTCP believes in a change of the share of marked packets: the gain is 1/2^g (RFC 8257 §4.1).
    dctcp_shift_g: u64 { path: "tcp_dctcp.dctcp_shift_g", default: 4, range: 0..=10, unit: "bits", scope: Net, takes: Now, stage: Transport }
    /// The share of marked packets that DCTCP begins with: 1024 = a first mark halves the window.
    dctcp_alpha_on_init: u64 { path: "tcp_dctcp.dctcp_alpha_on_init", default: 1024, range: 0..=1024, unit: "1/1024", scope: Net, takes: NextSocket, stage: Transport }
    /// Whether the congestion window shrinks after an idle time.
    tcp_slow_start_after_idle: bool { path: "net.ipv4.tcp_slow_start_after_idle", default: true, range: 0..=1, unit: "switch", scope: Net, takes: Now, stage: Send }
    /// Smallest retransmission time-out.
    tcp_rto_min_us: u64 { path: "net.ipv4.tcp_rto_min_us", default: 200000, range: 1000..=1000000, unit: "microseconds", scope: Net, takes: Now, stage: Send }
    /// Challenge acknowledgements in a second, to all peers together (RFC 5961 §10).
    tcp_challenge_ack_limit: u64 { path: "net.ipv4.tcp_challenge_ack_limit", default: 1000, range: 0..=2147483647, unit: "packets", scope: Net, takes: Now, stage: Send, why: "Linux has no limit for all peers since 5.19; a user-space stack that is run for strangers keeps one" }
    /// Time between answers to segments that are out of the window.
    tcp_invalid_ratelimit: u64 { path: "net.ipv4.tcp_invalid_ratelimit", default: 500, range: 0..=3600000, unit: "milliseconds", scope: Net, takes: Now, stage: Send }
    /// First and last local port that is chosen by itself.
    ip_local_port_low: u64 { path: "net.ipv4.ip_local_port_range.low", default: 32768, range: 1..=65535, unit: "port", scope: Net, takes: Now, stage: Send }
    /// Last local port that is chosen by itself.
    ip_local_port_high: u64 { path: "net.ipv4.ip_local_port_range.high", default: 60999, range: 1..=65535, unit: "port", scope: Net, takes: Now, stage: Send }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_in_range_and_reads_back() {
        let mut knobs = Knobs::default();
        for row in Knobs::ROWS {
            let value = knobs.get(row.path).expect("the row exists");
            knobs.set(row.path, &value).expect("a default is a legal value");
            assert_eq!(knobs.get(row.path).expect("the row exists"), value);
        }
    }

    #[test]
    fn a_wrong_value_changes_nothing() {
        let mut knobs = Knobs::default();
        let bad = [("net.core.netdev_budget", "0"), ("net.ipv4.tcp_rmem", "9000 8000 7000")];
        for (path, value) in bad {
            let before = knobs.get(path);
            assert!(matches!(knobs.set(path, value), Err(SetError::Invalid { .. })));
            assert_eq!(knobs.get(path), before);
        }
        let err = knobs.set("net.core.netdev_budgt", "3").expect_err("unknown");
        assert!(err.to_string().contains("net.core.netdev_budget"), "{err}");
    }
}
