//! What ctnetlink counts of connection tracking: the same as `/proc/net/stat/nf_conntrack`, which
//! kernels may be built without.
//!
//! Linux: net/netfilter/nf_conntrack_netlink.c `ctnetlink_ct_stat_cpu_fill_info`,
//! `ctnetlink_stat_ct_fill_info`

use std::io;

use super::attr::{ACK, DUMP, Request, find, messages, u32_at};
use super::socket::Socket;
use crate::counters::Counters;
use crate::snapshot::Snapshot;

/// The requests' names: of each processor, and of the table.
pub(super) const CPUS: &str = "netlink/ctnetlink/stats-cpu";
pub(super) const TABLE: &str = "netlink/ctnetlink/stats";

/// `NFNL_SUBSYS_CTNETLINK`, and its messages.
const SUBSYS: u16 = 1 << 8;
const GET_STATS_CPU: u16 = SUBSYS | 4;
const GET_STATS: u16 = SUBSYS | 5;
/// `struct nfgenmsg`: family, version, and of answers the processor.
const NFGENMSG: usize = 4;

/// `CTA_STATS_*`, as `/proc` names them; what no kernel counts any more has no name.
const STATS: [&str; 16] = [
    "",
    "",
    "found",
    "",
    "invalid",
    "",
    "",
    "",
    "insert",
    "insert_failed",
    "drop",
    "early_drop",
    "icmp_error",
    "search_restart",
    "clashres",
    "chainlength",
];

/// Asks.
pub(super) fn read(socket: &mut Socket, name: &str) -> io::Result<Vec<u8>> {
    match name {
        CPUS => socket.dump(&Request::new(GET_STATS_CPU, DUMP, &[0; NFGENMSG])),
        TABLE => {
            let request = Request::new(GET_STATS, ACK, &[0; NFGENMSG]);
            socket.ask(request).map_err(|refused| refused.source)
        }
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Reads the answer for each processor: their sums, of 32 bits.
pub fn cpus(bytes: &[u8], into: &mut Snapshot) {
    let mut sums = [None::<u32>; STATS.len()];
    let mut cpus = 0;
    for message in messages(bytes).filter(|m| m.kind == GET_STATS_CPU) {
        let Some(inside) = message.body.get(NFGENMSG..) else { continue };
        cpus += 1;
        for (kind, sum) in sums.iter_mut().enumerate() {
            let value = find(inside, kind as u16).and_then(|value| u32_at(value, 0));
            if let Some(value) = value.map(u32::from_be) {
                *sum = Some(sum.unwrap_or(0).wrapping_add(value));
            }
        }
    }
    // The sum without one processor would look like a counter that went back.
    if cpus == 0 || cpus < into.host.cpus.len() {
        return;
    }
    let mut stat = Counters::new(CPUS).wrapping_at(32);
    for (name, sum) in STATS.iter().zip(sums).filter(|(name, _)| !name.is_empty()) {
        stat.extend(sum.map(|sum| (*name, sum.into())));
    }
    if !stat.is_empty() {
        into.conntrack.get_or_insert_default().stat = stat;
    }
}

/// Reads how many there are, and how many may be.
pub fn table(bytes: &[u8], into: &mut Snapshot) {
    const NAMES: [(u16, &str); 2] = [(1, "nf_conntrack_count"), (2, "nf_conntrack_max")];
    let Some(message) = messages(bytes).find(|m| m.kind == GET_STATS) else { return };
    let inside = message.body.get(NFGENMSG..).unwrap_or_default();
    for (kind, name) in NAMES {
        let Some(value) = find(inside, kind).and_then(|value| u32_at(value, 0)) else { continue };
        let table = &mut into.conntrack.get_or_insert_default().table;
        if table.source().is_empty() {
            *table = Counters::new(TABLE);
        }
        // What sysctl says was read before.
        if table.get(name).is_none() {
            table.set(name, u32::from_be(value).into());
        }
    }
}
