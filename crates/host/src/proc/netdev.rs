//! `/proc/net/dev`: statistics of all devices in one file, some of them folded together.
//!
//! Linux: net/core/net-procfs.c `dev_seq_printf_stats`

use super::{lines, pair, shown};
use crate::counters::Counters;
use crate::snapshot::{Dev, Snapshot};

const WHAT: &str = "/proc/net/dev";

/// Devices that one file may name; a host with more exists, but not one that a person looks at.
const DEVS_MAX: usize = 16_384;

/// The columns. `rx_drop` is rx_dropped + rx_missed_errors, `rx_frame` is rx_length_errors +
/// rx_over_errors + rx_crc_errors + rx_frame_errors, `tx_carrier` is tx_carrier_errors +
/// tx_aborted_errors + tx_window_errors + tx_heartbeat_errors: they are no names of
/// `rtnl_link_stats64`, for they are something else.
const COLUMNS: [&str; 16] = [
    "rx_bytes",
    "rx_packets",
    "rx_errors",
    "rx_drop",
    "rx_fifo_errors",
    "rx_frame",
    "rx_compressed",
    "multicast",
    "tx_bytes",
    "tx_packets",
    "tx_errors",
    "tx_dropped",
    "tx_fifo_errors",
    "collisions",
    "tx_carrier",
    "tx_compressed",
];

/// Fills [`Dev::stats`] of all devices that have none yet, and so [`Snapshot::devs`].
pub fn dev(bytes: &[u8], into: &mut Snapshot) {
    // Two lines of heads.
    let rows: Vec<_> = lines(bytes, WHAT, into).skip(2).take(DEVS_MAX).collect();
    for (n, line) in rows {
        let Some((name, rest)) = line.rsplit_once(':').filter(|(n, _)| is_name(n.trim())) else {
            into.note(WHAT, format!("line {n} has no device: {}", shown(line)));
            continue;
        };
        let name = name.trim();
        let mut stats = Counters::new(format!("{WHAT} {name}"));
        if let Err(why) = pair(&mut stats, COLUMNS.into_iter(), rest.split_whitespace()) {
            into.note(WHAT, format!("line {n}: {why}"));
            continue;
        }
        let dev = into.devs.entry(name.to_owned()).or_insert_with(|| Dev::named(name));
        if dev.stats.is_empty() {
            dev.stats = stats;
        }
    }
}

/// Whether a device may be called so.
///
/// Linux: net/core/dev.c `dev_valid_name`
#[must_use]
pub fn is_name(name: &str) -> bool {
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    !name.is_empty() && name.len() < 16 && name != "." && name != ".." && !name.contains(odd)
}
