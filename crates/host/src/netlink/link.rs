//! `RTM_GETLINK`: devices and their statistics of 64 bits.
//!
//! Linux: net/core/rtnetlink.c `rtnl_fill_ifinfo`, include/uapi/linux/if_link.h

use std::collections::BTreeMap;

use super::attr::{
    Message, Request, array, attrs, find, messages, number, number32, text_of, u32_at,
};
use crate::counters::Counters;
use crate::proc::class_net;
use crate::snapshot::{Dev, Snapshot};

/// The request's name.
pub(super) const NAME: &str = "netlink/route/RTM_GETLINK";

const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_GETLINK: u16 = 18;
/// `sizeof(struct ifinfomsg)`: family, type, index, flags, change mask.
pub(super) const IFINFOMSG: usize = 16;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_STATS: u16 = 7;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_CARRIER_UP_COUNT: u16 = 47;
const IFLA_CARRIER_DOWN_COUNT: u16 = 48;
/// More devices than any host has; what others say of each is stored for each.
const DEVS_MAX: usize = 16_384;
/// `RTEXT_FILTER_SKIP_STATS`: not the 36 MIB counters of IPv6 for each device.
const SKIP_AF_STATS: u32 = 1 << 3;

/// `struct rtnl_link_stats64` (`rx_nohandler` since 4.6, `rx_otherhost_dropped` since 5.19), and
/// `rtnl_link_stats`, which has the same fields in 32 bits.
pub const STATS64: [&str; 25] = [
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
    "rx_otherhost_dropped",
];

/// `IF_OPER_*` of RFC 2863.
const OPERSTATES: [&str; 7] =
    ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];

/// `IFLA_GSO_MAX_SEGS` and others that are settings.
const SETTINGS: [(u16, &str); 6] = [
    (40, "gso_max_segs"),
    (41, "gso_max_size"),
    (58, "gro_max_size"),
    (59, "tso_max_size"),
    (63, "gso_ipv4_max_size"),
    (64, "gro_ipv4_max_size"),
];

/// The request.
pub(super) fn request() -> Request {
    Request::new(RTM_GETLINK, super::attr::DUMP, &[0; IFINFOMSG]).u32(IFLA_EXT_MASK, SKIP_AF_STATS)
}

/// Reads the answer.
pub fn links(bytes: &[u8], into: &mut Snapshot) {
    let mut names = BTreeMap::new();
    let mut masters = Vec::new();
    for message in messages(bytes).filter(|m| m.kind == RTM_NEWLINK) {
        if names.len() >= DEVS_MAX {
            into.note(NAME, format!("only the first {DEVS_MAX} devices are looked at"));
            break;
        }
        let Some((name, index, master)) = one(&message, into) else { continue };
        masters.extend(master.map(|m| (name.clone(), m)));
        names.insert(index, name);
    }
    for (name, master) in masters {
        // A master in another namespace has no name here.
        if let (Some(dev), Some(master)) = (into.devs.get_mut(&name), names.get(&master)) {
            dev.master = Some(master.clone());
        }
    }
}

/// Names of devices by index, of the same answer.
pub(super) fn names(bytes: &[u8]) -> BTreeMap<u32, String> {
    messages(bytes)
        .filter(|m| m.kind == RTM_NEWLINK)
        .take(DEVS_MAX)
        .filter_map(|m| Some((u32_at(m.body, 4)?, text_of(m.body.get(IFINFOMSG..)?, IFLA_IFNAME)?)))
        .collect()
}

fn one(message: &Message<'_>, into: &mut Snapshot) -> Option<(String, u32, Option<u32>)> {
    let (index, flags) = (u32_at(message.body, 4)?, u32_at(message.body, 8)?);
    let inside = message.body.get(IFINFOMSG..)?;
    let name = text_of(inside, IFLA_IFNAME).filter(|n| !n.is_empty())?;
    let dev = into.devs.entry(name.clone()).or_default();
    dev.name.clone_from(&name);
    dev.ifindex = index;
    dev.flags = class_net::flags(flags);
    let source = format!("{NAME} {name}");
    dev.carrier = Counters::new(source.as_str()).wrapping_at(32);
    let mut master = None;
    let mut short = None;
    for (kind, value) in attrs(inside) {
        let number = super::attr::uint(value);
        let number32 = number.and_then(|n| u32::try_from(n).ok());
        match (kind, number32) {
            (IFLA_MTU, Some(n)) => dev.mtu = n,
            (IFLA_TXQLEN, Some(n)) => dev.txqueuelen = n,
            (IFLA_PROMISCUITY, Some(n)) => dev.promiscuity = n,
            // A device that is its own lower one has none.
            (IFLA_LINK, Some(n)) => dev.link = Some(n).filter(|n| *n != 0 && *n != index),
            (IFLA_LINK_NETNSID, Some(n)) => dev.link_netnsid = Some(n.cast_signed()),
            (IFLA_MASTER, n) => master = n.filter(|n| *n != 0),
            (IFLA_CARRIER_CHANGES, Some(n)) => dev.carrier.set("carrier_changes", n.into()),
            (IFLA_CARRIER_UP_COUNT, Some(n)) => dev.carrier.set("carrier_up_count", n.into()),
            (IFLA_CARRIER_DOWN_COUNT, Some(n)) => dev.carrier.set("carrier_down_count", n.into()),
            (IFLA_OPERSTATE, Some(n)) => {
                dev.operstate =
                    OPERSTATES.get(n as usize).copied().unwrap_or("unknown").to_string();
            }
            (IFLA_LINKINFO, _) => super::kind::info(value, &source, dev),
            (IFLA_XDP, _) => dev.xdp = xdp(value),
            (IFLA_STATS64, _) => {
                dev.stats = Counters::new(source.as_str());
                array(&mut dev.stats, value, 8, &STATS64);
            }
            (IFLA_STATS, _) => short = Some(value),
            _ => settings(dev, &source, kind, number),
        }
    }
    if let (Some(value), None) = (short, find(inside, IFLA_STATS64)) {
        dev.stats = Counters::new(source).wrapping_at(32);
        array(&mut dev.stats, value, 4, &STATS64);
    }
    Some((name, index, master))
}

fn settings(dev: &mut Dev, source: &str, kind: u16, number: Option<u64>) {
    let known = SETTINGS.iter().find(|(k, _)| *k == kind);
    if let (Some((_, name)), Some(number)) = (known, number) {
        if dev.settings.source().is_empty() {
            dev.settings = Counters::new(source);
        }
        dev.settings.set(name, number);
    }
}

/// `IFLA_XDP_ATTACHED`, and the program's id.
fn xdp(value: &[u8]) -> Option<(String, u32)> {
    let how = match number(value, 2)? {
        1 => "driver",
        2 => "generic",
        3 => "offload",
        4 => "multi",
        _ => return None,
    };
    Some((how.into(), number32(value, 4).unwrap_or(0)))
}

/// A parameter of the device that an answer is about, by its name in `ip link set`.
pub(super) fn parameter(bytes: &[u8], name: &str) -> Option<u64> {
    let message = messages(bytes).find(|m| m.kind == RTM_NEWLINK)?;
    let inside = message.body.get(IFINFOMSG..)?;
    number(inside, parameter_attr(name)?)
}

/// The attribute of a parameter of `ip link set`.
pub(super) fn parameter_attr(name: &str) -> Option<u16> {
    match name {
        "mtu" => Some(IFLA_MTU),
        "txqueuelen" => Some(IFLA_TXQLEN),
        _ => SETTINGS.iter().find(|(k, n)| *n == name && *k != 59).map(|(k, _)| *k),
    }
}
