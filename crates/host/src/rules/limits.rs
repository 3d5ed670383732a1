//! From where on something counts.

use std::fmt;

use serde::Serialize;

/// A limit's name, its value unless it is set, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitRow {
    /// As `--limit` takes it.
    pub name: &'static str,
    /// Unless it is set.
    pub default: f64,
    /// In words, with the unit.
    pub help: &'static str,
}

/// Why a limit could not be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// There is none of this name.
    Unknown(String),
    /// The value is not a number of at least 0.
    Value(String, String),
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitError::Unknown(name) => {
                let known: Vec<&str> = Limits::ROWS.iter().map(|row| row.name).collect();
                write!(f, "there is no limit {name}; the limits are {}", known.join(", "))
            }
            LimitError::Value(name, value) => {
                write!(f, "the limit {name} takes a number of at least 0, not {value:?}")
            }
        }
    }
}

impl std::error::Error for LimitError {}

macro_rules! limits {
    ($( $(#[doc = $doc:literal])+ $name:ident: $default:expr ),+ $(,)?) => {
        /// Thresholds: from where on something counts. Each can be set by `--limit name=value`.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct Limits { $( $(#[doc = $doc])+ pub $name: f64 ),+ }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $( $name: $default ),+ }
            }
        }

        impl Limits {
            /// All limits.
            pub const ROWS: &'static [LimitRow] = &[$( LimitRow {
                name: stringify!($name), default: $default, help: concat!($($doc),+),
            } ),+];

            /// Sets the limit called `name`.
            ///
            /// # Errors
            /// If there is none of this name, or `value` is not a number of at least 0.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), LimitError> {
                let number = value.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
                let bad = || LimitError::Value(name.into(), value.into());
                match name {
                    $( stringify!($name) => self.$name = number.ok_or_else(bad)?, )+
                    _ => return Err(LimitError::Unknown(name.into())),
                }
                Ok(())
            }
        }
    };
}

limits! {
    /// Windows of a run in which a counter must have moved.
    windows: 2.0,
    /// Events in one window, or since boot, that count even if nothing shows that they go on.
    burst: 100.0,
    /// Findings of one rule that are listed one by one; the others are named in the worst.
    same: 3.0,
    /// Lost packets of all, from where on a loss is said.
    loss_ratio: 1e-5,
    /// The same where all that is known are counters since boot.
    lifetime_ratio: 1e-4,
    /// Packets of all that are wrong by somebody else's doing (not for us, bad checksums).
    noise_ratio: 1e-3,
    /// And how many of them in a second.
    noise_per_s: 0.4,
    /// Frames of protocols that nobody here speaks, in a second.
    benign_per_s: 10.0,
    /// Frames with errors of the wire, of all.
    phy_ratio: 1e-6,
    /// Changes of a link's carrier in a run.
    flaps: 2.0,
    /// Pause frames in a second.
    pause_per_s: 100.0,
    /// The share of its time in softirq from where on a processor is full.
    cpu_full: 0.9,
    /// The share below which a processor has room.
    cpu_free: 0.5,
    /// The share of stolen time that explains what runs late.
    steal: 0.05,
    /// Packets in a second from where on the place of interrupts and offloads matters.
    busy_pps: 50_000.0,
    /// How many times the mean the fullest receive queue has.
    rss_ratio: 3.0,
    /// The share of a device's interrupts on processors of another node.
    numa_share: 0.25,
    /// Interrupts of one line in a second.
    irq_per_s: 40_000.0,
    /// Packets for each of them.
    irq_packets: 1.5,
    /// Coalescing that an owner who wants latency does not have, in µs.
    coalesce_us: 50.0,
    /// What it takes to leave an idle state, where latency is the goal, in µs.
    idle_exit_us: 50.0,
    /// The share of its time that a processor spends in such states.
    idle_share: 0.1,
    /// Squeezes of one processor in a second.
    squeeze_per_s: 1.0,
    /// Squeezes of all runs of the softirq.
    squeeze_share: 0.02,
    /// What a packet costs at most in softirq, in µs.
    packet_us: 20.0,
    /// What NET_RX waits at least, one time in a hundred, to be late, in ms.
    softirq_late_ms: 4.0,
    /// What a packet needs at least to its reader, one in a hundred, to be late, in ms.
    reader_late_ms: 50.0,
    /// Packets of TCP in a second from where on it pays to merge them.
    gro_pps: 20_000.0,
    /// Packets that became one by GRO, on average.
    gro_factor: 1.5,
    /// Interrupts between processors for each packet, by RPS.
    rps_ipi: 0.5,
    /// The share of the connection table that is in use.
    conntrack_fill: 0.75,
    /// The share of the neighbour table that is in use.
    neigh_fill: 0.9,
    /// The share of the memory for all sockets of a protocol that is in use.
    mem_fill: 0.9,
    /// Fragmented datagrams that were not put together, of all.
    reasm_ratio: 0.01,
    /// Datagrams to closed ports, of all.
    noport_ratio: 0.01,
    /// Connections that failed, of all that were tried.
    connect_ratio: 0.2,
    /// Retransmitted segments of all: a warning.
    retrans_ratio: 0.01,
    /// Retransmitted segments of all: loss.
    retrans_bad: 0.05,
    /// Segments that must have been sent for a ratio to say something.
    retrans_segments: 1000.0,
    /// Retransmission timeouts for each segment sent.
    timeout_ratio: 0.01,
    /// The share of its time that a connection waits for a window or a buffer.
    window_share: 0.2,
    /// The congestion window, in segments, that is worth to be kept over a pause.
    idle_cwnd: 100.0,
    /// The share of local ports towards one remote that are in use.
    ports_fill: 0.8,
    /// The share of allowed orphaned connections there are.
    orphan_fill: 0.5,
    /// What waits in a queue of the device, in ms at the rate it leaves.
    queue_ms: 20.0,
    /// The share of a link's speed from where on it is full.
    link_full: 0.9,
    /// Packets that the driver refused, of all sent.
    requeue_ratio: 0.01,
}
