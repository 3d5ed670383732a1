//! `IFLA_LINKINFO`: what kind of device it is, how it was made, and what it is to its master.
//!
//! Linux: include/uapi/linux/if_link.h, if_tunnel.h; net/8021q/vlan_netlink.c, net/bridge/br_netlink.c,
//! drivers/net/vxlan/vxlan_core.c, net/ipv4/ip_gre.c, net/ipv4/ipip.c

use super::attr::{be16_at, find, named, text_of, u32_at};
use crate::counters::Counters;
use crate::snapshot::Dev;

const KIND: u16 = 1;
const DATA: u16 = 2;
const SLAVE_KIND: u16 = 4;
const SLAVE_DATA: u16 = 5;

/// `IFLA_BR_*`; times in 1/100 s.
const BRIDGE: [&str; 24] = [
    "",
    "forward_delay",
    "hello_time",
    "max_age",
    "ageing_time",
    "stp_state",
    "priority",
    "vlan_filtering",
    "",
    "group_fwd_mask",
    "",
    "",
    "root_port",
    "root_path_cost",
    "topology_change",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "mcast_snooping",
];
/// `IFLA_BR_FDB_N_LEARNED` and `..._MAX_LEARNED`, since 6.7.
const FDB: [(u16, &str); 2] = [(48, "fdb_n_learned"), (49, "fdb_max_learned")];

/// `IFLA_BRPORT_*`.
const BRIDGE_PORT: [&str; 10] = [
    "",
    "state",
    "priority",
    "cost",
    "hairpin",
    "guard",
    "root_block",
    "fastleave",
    "learning",
    "flood",
];
const BRIDGE_PORT_MORE: [(u16, &str); 3] = [(30, "bcast_flood"), (33, "isolated"), (39, "locked")];

/// `IFLA_BOND_*` and `IFLA_BOND_SLAVE_*`.
const BOND: [&str; 4] = ["", "mode", "active_slave", "miimon"];
const BOND_PORT: [&str; 4] = ["", "state", "mii_status", "link_failure_count"];

/// `IFLA_VXLAN_*`; the id, the device below, and what may not be cut.
const VXLAN: [(u16, &str); 5] = [(1, "id"), (3, "link"), (5, "ttl"), (7, "learning"), (29, "df")];
const GENEVE: [(u16, &str); 3] = [(1, "id"), (3, "ttl"), (13, "df")];
/// `IFLA_GRE_*`.
const GRE: [(u16, &str); 5] =
    [(1, "link"), (2, "iflags"), (3, "oflags"), (8, "ttl"), (10, "pmtudisc")];
/// `IFLA_IPTUN_*`.
const IPTUN: [(u16, &str); 3] = [(1, "link"), (4, "ttl"), (10, "pmtudisc")];

/// Reads the attribute into the device.
pub(super) fn info(value: &[u8], source: &str, dev: &mut Dev) {
    dev.kind = text_of(value, KIND).unwrap_or_default();
    dev.kind_info = Counters::new(source);
    if let Some(data) = find(value, DATA) {
        own(&dev.kind, data, &mut dev.kind_info);
    }
    let master = text_of(value, SLAVE_KIND).unwrap_or_default();
    let port = find(value, SLAVE_DATA).unwrap_or_default();
    dev.port_info = Counters::new(source);
    match master.as_str() {
        "bridge" => {
            named(&mut dev.port_info, port, &BRIDGE_PORT);
            some(&mut dev.port_info, port, &BRIDGE_PORT_MORE);
        }
        "bond" => named(&mut dev.port_info, port, &BOND_PORT),
        _ => {}
    }
}

fn own(kind: &str, data: &[u8], into: &mut Counters) {
    let port = |at: u16| find(data, at).and_then(|p| be16_at(p, 0)).map(u64::from);
    match kind {
        "vlan" => {
            some(into, data, &[(1, "id")]);
            into.extend(port(5).map(|protocol| ("protocol", protocol)));
        }
        "bridge" => {
            named(into, data, &BRIDGE);
            some(into, data, &FDB);
        }
        "vxlan" => {
            some(into, data, &VXLAN);
            into.extend(port(15).map(|port| ("dstport", port)));
            into.extend(find(data, 16).map(|_| ("ipv6", 1)));
        }
        "geneve" => {
            some(into, data, &GENEVE);
            into.extend(port(5).map(|port| ("dstport", port)));
            into.extend(find(data, 7).map(|_| ("ipv6", 1)));
        }
        "gre" | "gretap" | "ip6gre" | "ip6gretap" | "erspan" => {
            some(into, data, &GRE);
            // Keys are in network byte order.
            for (at, name) in [(4, "ikey"), (5, "okey")] {
                let key = find(data, at).and_then(|key| u32_at(key, 0));
                into.extend(key.map(|key| (name, u64::from(u32::from_be(key)))));
            }
        }
        "ipip" | "sit" | "ip6tnl" => some(into, data, &IPTUN),
        "bond" => named(into, data, &BOND),
        _ => {}
    }
}

/// Sets those numbers among attributes that have these types.
fn some(into: &mut Counters, bytes: &[u8], names: &[(u16, &str)]) {
    for (kind, name) in names {
        into.extend(super::attr::number(bytes, *kind).map(|value| (*name, value)));
    }
}
