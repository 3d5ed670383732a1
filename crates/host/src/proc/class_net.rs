//! `/sys/class/net/DEV/`: what the kernel says of one device, a file each.
//!
//! Linux: net/core/net-sysfs.c

use super::{cpus, number, value};
use crate::counters::Counters;
use crate::snapshot::{Dev, RxQueue, Snapshot, TxQueue};

/// Files of a device that are read where no netlink message says the same.
pub const ATTRS: &[&str] = &[
    "ifindex",
    "iflink",
    "flags",
    "mtu",
    "operstate",
    "tx_queue_len",
    "uevent",
    "carrier_changes",
    "carrier_up_count",
    "carrier_down_count",
];

/// Files of a device that only sysfs has.
pub const SETTINGS: &[&str] = &[
    "speed",
    "threaded",
    "gro_flush_timeout",
    "napi_defer_hard_irqs",
    "device/numa_node",
    "device/local_cpulist",
    "device/uevent",
];

/// Files of `statistics/`: what netlink tells, without what it alone tells (`rx_otherhost_dropped`).
///
/// Linux: net/core/net-sysfs.c `netstat_attrs`
pub const STATISTICS: &[&str] = crate::netlink::STATS64.split_last().expect("it has fields").1;

/// Files of `queues/rx-N/`.
pub const RX_QUEUE: &[&str] = &["rps_cpus", "rps_flow_cnt"];

/// Files of `queues/tx-N/`.
pub const TX_QUEUE: &[&str] = &["xps_cpus", "xps_rxqs", "tx_timeout"];

/// Files of `queues/tx-N/byte_queue_limits/`.
pub const BQL: &[&str] = &[
    "limit",
    "limit_max",
    "limit_min",
    "inflight",
    "hold_time",
    "stall_cnt",
    "stall_max",
    "stall_thrs",
];

/// The most queues a device may have in a snapshot.
pub const QUEUES_MAX: usize = 4096;

/// A file of [`ATTRS`] or [`SETTINGS`], or `master/ifindex`: fills what it says of `dev`. What is no
/// value is noted.
pub fn attr(dev: &str, file: &str, bytes: &[u8], into: &mut Snapshot) {
    // The master by its index: names are known when all devices are.
    let master = match (file, number(bytes)) {
        ("master/ifindex", Some(index)) => {
            into.devs.values().find(|d| u64::from(d.ifindex) == index).map(|d| d.name.clone())
        }
        _ => None,
    };
    let Some(of) = into.devs.get_mut(dev) else { return };
    let understood = match file {
        "master/ifindex" => {
            of.master = master;
            true
        }
        "operstate" => value(bytes).map(|text| text.clone_into(&mut of.operstate)).is_some(),
        "uevent" | "device/uevent" => value(bytes).map(|text| uevent(of, file, text)).is_some(),
        "device/local_cpulist" => {
            value(bytes).and_then(cpus::list).map(|list| of.local_cpus = list).is_some()
        }
        // -1 is unknown.
        "device/numa_node" => {
            value(bytes).and_then(|text| text.parse::<i64>().ok()).is_some_and(|node| {
                of.node = u32::try_from(node).ok();
                true
            })
        }
        "speed" => value(bytes).and_then(|text| text.parse::<i64>().ok()).is_some_and(|speed| {
            // -1 is unknown; old kernels show it as 65535 or as 2^32 - 1.
            let known = u32::try_from(speed).ok().filter(|s| !matches!(*s, 65_535 | u32::MAX));
            of.speed_mbps = known.filter(|s| *s > 0);
            true
        }),
        "flags" => value(bytes)
            .and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok())
            .map(|bits| of.flags = flags(bits))
            .is_some(),
        _ => number(bytes).map(|value| counted(of, file, value)).is_some(),
    };
    if !understood {
        into.note(format!("/sys/class/net/{dev}/{file}"), "it is not the value it should be");
    }
}

fn counted(of: &mut Dev, file: &str, value: u64) {
    let small = u32::try_from(value).unwrap_or(u32::MAX);
    match file {
        "ifindex" => of.ifindex = small,
        // A device that has no other end names itself.
        "iflink" => of.link = Some(small).filter(|l| *l != of.ifindex && *l != 0),
        "mtu" => of.mtu = small,
        "carrier_changes" | "carrier_up_count" | "carrier_down_count" => {
            own(&mut of.carrier, &of.name, "").set(file, value);
        }
        _ => {
            if file == "tx_queue_len" {
                of.txqueuelen = small;
            }
            own(&mut of.settings, &of.name, "").set(file, value);
        }
    }
}

/// The counters, which begin with where they come from.
fn own<'a>(counters: &'a mut Counters, dev: &str, dir: &str) -> &'a mut Counters {
    if counters.is_empty() {
        *counters = Counters::new(format!("/sys/class/net/{dev}{dir}"));
    }
    counters
}

fn uevent(of: &mut Dev, file: &str, text: &str) {
    for line in text.lines() {
        match line.split_once('=') {
            Some(("DRIVER", driver)) if file == "device/uevent" && of.driver.is_empty() => {
                driver.clone_into(&mut of.driver);
            }
            Some(("DEVTYPE", kind)) if file == "uevent" && of.kind.is_empty() => {
                kind.clone_into(&mut of.kind);
            }
            _ => {}
        }
    }
}

/// The names of the bits of `IFF_*` that are set, from bit 0 on.
///
/// Linux: include/uapi/linux/if.h `net_device_flags`
#[must_use]
pub fn flags(bits: u32) -> Vec<String> {
    const NAMES: [&str; 19] = [
        "UP",
        "BROADCAST",
        "DEBUG",
        "LOOPBACK",
        "POINTOPOINT",
        "NOTRAILERS",
        "RUNNING",
        "NOARP",
        "PROMISC",
        "ALLMULTI",
        "MASTER",
        "SLAVE",
        "MULTICAST",
        "PORTSEL",
        "AUTOMEDIA",
        "DYNAMIC",
        "LOWER_UP",
        "DORMANT",
        "ECHO",
    ];
    let set = NAMES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
    set.map(|(_, name)| (*name).to_owned()).collect()
}

/// A file of [`STATISTICS`]: fills [`Dev::stats`].
pub fn statistic(dev: &str, file: &str, bytes: &[u8], into: &mut Snapshot) {
    match (number(bytes), into.devs.get_mut(dev)) {
        (Some(value), Some(of)) => own(&mut of.stats, dev, "/statistics").set(file, value),
        (None, _) => {
            into.note(format!("/sys/class/net/{dev}/statistics/{file}"), "it is not a number");
        }
        _ => {}
    }
}

/// A file of a queue, as `rx-0/rps_cpus` or `tx-3/byte_queue_limits/limit`: fills [`Dev::rx`] and
/// [`Dev::tx`], which grow to hold it.
pub fn queue(dev: &str, file: &str, bytes: &[u8], into: &mut Snapshot) {
    let Some(of) = into.devs.get_mut(dev) else { return };
    if queue_of(of, dev, file, bytes).is_none() {
        let what = format!("/sys/class/net/{dev}/queues/{file}");
        into.note(what, "it is not the value it should be");
    }
}

fn queue_of(of: &mut Dev, dev: &str, file: &str, bytes: &[u8]) -> Option<()> {
    let (queue, rest) = file.split_once('/')?;
    let (side, at) = queue_number(queue)?;
    let mask = || value(bytes).and_then(cpus::mask);
    if side == Side::Rx {
        let rx = grown::<RxQueue>(&mut of.rx, at);
        match rest {
            "rps_cpus" => rx.rps_cpus = mask()?,
            "rps_flow_cnt" => rx.rps_flow_cnt = number(bytes)?,
            _ => return None,
        }
        return Some(());
    }
    let tx = grown::<TxQueue>(&mut of.tx, at);
    match rest {
        "xps_cpus" => tx.xps_cpus = Some(mask()?),
        "xps_rxqs" => tx.xps_rxqs = Some(mask()?),
        _ => match rest.strip_prefix("byte_queue_limits/") {
            Some(name) => {
                own(&mut tx.bql, dev, &format!("/queues/{queue}/byte_queue_limits"))
                    .set(name, number(bytes)?);
            }
            None => own(&mut tx.stats, dev, &format!("/queues/{queue}")).set(rest, number(bytes)?),
        },
    }
    Some(())
}

/// The queue at `at`, which [`queue_number`] has bounded.
fn grown<T: Clone + Default>(queues: &mut Vec<T>, at: usize) -> &mut T {
    if queues.len() <= at {
        queues.resize(at + 1, T::default());
    }
    &mut queues[at]
}

/// Which way a queue goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Receive.
    Rx,
    /// Transmit.
    Tx,
}

/// The side and number of a queue's directory: `rx-0`, `tx-15`.
#[must_use]
pub fn queue_number(name: &str) -> Option<(Side, usize)> {
    let (side, number) = name.split_once('-')?;
    let side = match side {
        "rx" => Side::Rx,
        "tx" => Side::Tx,
        _ => return None,
    };
    Some((side, number.parse().ok().filter(|n| *n < QUEUES_MAX)?))
}
