//! Family `netdev`: queues, their statistics, NAPI instances and page pools.
//!
//! Kernels before 6.3 have no such family; parts came later (page pools 6.8, queues and NAPI 6.8,
//! statistics 6.9). Linux: net/core/netdev-genl.c, Documentation/netlink/specs/netdev.yaml

use std::collections::BTreeMap;

use super::attr::{messages, named, number, number32};
use crate::counters::Counters;
use crate::snapshot::{Dev, Napi, RxQueue, Snapshot, TxQueue};

/// The name of requests begins so.
pub(super) const PREFIX: &str = "netlink/netdev/";

/// `struct genlmsghdr`.
const GENL: usize = 4;
/// A device with more queues than this is not believed, nor one that leaves out so many: those without
/// statistics are not told.
const QUEUES_MAX: usize = 4096;
const GAP_MAX: usize = 64;

/// Requests and their commands.
pub(super) const COMMANDS: [(&str, u8); 6] = [
    ("dev-get", 1),
    ("page-pool-get", 5),
    ("page-pool-stats-get", 9),
    ("queue-get", 10),
    ("napi-get", 11),
    ("qstats-get", 12),
];

/// `NETDEV_A_QSTATS_SCOPE`, and its value that asks for each queue.
pub(super) const SCOPE: (u16, u64) = (4, 1);

/// `NETDEV_A_QSTATS_*` by type; counters begin at 8.
const QSTATS: [&str; 35] = [
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "rx-packets",
    "rx-bytes",
    "tx-packets",
    "tx-bytes",
    "rx-alloc-fail",
    "rx-hw-drops",
    "rx-hw-drop-overruns",
    "rx-csum-complete",
    "rx-csum-unnecessary",
    "rx-csum-none",
    "rx-csum-bad",
    "rx-hw-gro-packets",
    "rx-hw-gro-bytes",
    "rx-hw-gro-wire-packets",
    "rx-hw-gro-wire-bytes",
    "rx-hw-drop-ratelimits",
    "tx-hw-drops",
    "tx-hw-drop-errors",
    "tx-csum-none",
    "tx-needs-csum",
    "tx-hw-gso-packets",
    "tx-hw-gso-bytes",
    "tx-hw-gso-wire-packets",
    "tx-hw-gso-wire-bytes",
    "tx-hw-drop-ratelimits",
    "tx-stop",
    "tx-wake",
];

/// `NETDEV_A_NAPI_*` that are settings.
const NAPI: [&str; 9] =
    ["", "", "", "", "", "defer-hard-irqs", "gro-flush-timeout", "irq-suspend-timeout", "threaded"];

/// `NETDEV_A_PAGE_POOL_STATS_*`; counters begin at 8.
const POOL_STATS: [&str; 19] = [
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "alloc-fast",
    "alloc-slow",
    "alloc-slow-high-order",
    "alloc-empty",
    "alloc-refill",
    "alloc-waive",
    "recycle-cached",
    "recycle-cache-full",
    "recycle-ring",
    "recycle-ring-full",
    "recycle-released-refcnt",
];

fn each<'a>(
    bytes: &'a [u8],
    into: &mut Snapshot,
    ifindex_attr: u16,
    mut work: impl FnMut(&mut Dev, &'a [u8]),
) {
    let names: BTreeMap<u32, String> =
        into.devs.values().map(|d| (d.ifindex, d.name.clone())).collect();
    for message in messages(bytes) {
        let Some(inside) = message.body.get(GENL..) else { continue };
        let name = number32(inside, ifindex_attr).and_then(|i| names.get(&i));
        if let Some(dev) = name.and_then(|n| into.devs.get_mut(n)) {
            work(dev, inside);
        }
    }
}

/// Reads `netlink/netdev/qstats-get` with a scope of queues: to each queue, and their sums to the
/// device.
pub fn qstats(bytes: &[u8], into: &mut Snapshot) {
    const IFINDEX: u16 = 1;
    const TYPE: u16 = 2;
    const ID: u16 = 3;
    each(bytes, into, IFINDEX, |dev, inside| {
        let source = format!("{PREFIX}qstats-get {}", dev.name);
        let (kind, id) = (number(inside, TYPE), number32(inside, ID));
        let mut stats = Counters::new(match (kind, id) {
            (Some(0), Some(id)) => format!("{source} rx {id}"),
            (Some(_), Some(id)) => format!("{source} tx {id}"),
            _ => source.clone(),
        });
        named(&mut stats, inside, &QSTATS);
        if dev.qstats.source().is_empty() {
            dev.qstats = Counters::new(source);
        }
        stats.iter().for_each(|(name, value)| dev.qstats.add(name, value));
        let Some(at) = id.map(|id| id as usize).filter(|at| *at < QUEUES_MAX) else { return };
        match kind {
            Some(0) if at <= dev.rx.len() + GAP_MAX => {
                if dev.rx.len() <= at {
                    dev.rx.resize_with(at + 1, RxQueue::default);
                }
                merge(&mut dev.rx[at].stats, stats);
            }
            Some(1) if at <= dev.tx.len() + GAP_MAX => {
                if dev.tx.len() <= at {
                    dev.tx.resize_with(at + 1, TxQueue::default);
                }
                merge(&mut dev.tx[at].stats, stats);
            }
            _ => {}
        }
    });
}

// Others (sysfs) may have put theirs there.
fn merge(into: &mut Counters, from: Counters) {
    if into.is_empty() {
        *into = from;
    } else {
        into.extend(from.iter());
    }
}

/// Reads `netlink/netdev/napi-get`.
pub fn napis(bytes: &[u8], into: &mut Snapshot) {
    each(bytes, into, 1, |dev, inside| {
        let Some(id) = number32(inside, 2) else { return };
        let mut settings = Counters::new(format!("{PREFIX}napi-get {} {id}", dev.name));
        named(&mut settings, inside, &NAPI);
        let (irq, pid) = (number32(inside, 3), number32(inside, 4));
        dev.napis.push(Napi { id, irq, pid: pid.filter(|p| *p != 0), settings });
        if let Some(irq) = irq.filter(|irq| !dev.irqs.contains(irq)) {
            dev.irqs.push(irq);
        }
    });
    into.devs.values_mut().for_each(|d| d.napis.sort_by_key(|n| n.id));
}

/// Reads `netlink/netdev/queue-get`: which NAPI instance serves each queue.
pub fn queues(bytes: &[u8], into: &mut Snapshot) {
    const ID: u16 = 1;
    const IFINDEX: u16 = 2;
    const TYPE: u16 = 3;
    const NAPI_ID: u16 = 4;
    each(bytes, into, IFINDEX, |dev, inside| {
        let at = number32(inside, ID).map(|id| id as usize).filter(|at| *at < QUEUES_MAX);
        let (Some(at), Some(napi)) = (at, number32(inside, NAPI_ID)) else { return };
        match number(inside, TYPE) {
            Some(0) if at <= dev.rx.len() + GAP_MAX => {
                if dev.rx.len() <= at {
                    dev.rx.resize_with(at + 1, RxQueue::default);
                }
                dev.rx[at].napi = Some(napi);
            }
            Some(1) if at <= dev.tx.len() + GAP_MAX => {
                if dev.tx.len() <= at {
                    dev.tx.resize_with(at + 1, TxQueue::default);
                }
                dev.tx[at].napi = Some(napi);
            }
            _ => {}
        }
    });
}

/// Reads `netlink/netdev/page-pool-get`.
pub fn page_pools(bytes: &[u8], into: &mut Snapshot) {
    each(bytes, into, 2, |dev, inside| {
        let pool = pool_of(dev);
        pool.add("pools", 1);
        for (kind, name) in [(4, "inflight"), (5, "inflight-mem")] {
            pool.add(name, number(inside, kind).unwrap_or(0));
        }
    });
}

/// Reads `netlink/netdev/page-pool-stats-get`.
pub fn page_pool_stats(bytes: &[u8], into: &mut Snapshot) {
    // The device is in the nested part that tells which pool it is, which `each` does not look into.
    let names: BTreeMap<u32, String> =
        into.devs.values().map(|d| (d.ifindex, d.name.clone())).collect();
    for message in messages(bytes) {
        let Some(inside) = message.body.get(GENL..) else { continue };
        let index = super::attr::find(inside, 1).and_then(|info| number32(info, 2));
        let Some(dev) = index.and_then(|i| into.devs.get_mut(names.get(&i)?)) else { continue };
        let mut stats = Counters::default();
        named(&mut stats, inside, &POOL_STATS);
        let pool = pool_of(dev);
        stats.iter().for_each(|(name, value)| pool.add(name, value));
    }
}

fn pool_of(dev: &mut Dev) -> &mut Counters {
    if dev.page_pool.source().is_empty() {
        dev.page_pool = Counters::new(format!("{PREFIX}page-pool-get {}", dev.name));
    }
    &mut dev.page_pool
}
