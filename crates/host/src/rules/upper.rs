//! Devices on top of other devices: VLANs, ports of bridges, tunnels.

use linerate_core::table::Stage;

use super::look::{self, by, is_tunnel, noise, stat};
use super::{Check, Rule};
use crate::change::Change;
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::{Dev, Snapshot};
use crate::window::{Cx, Sum, Window};

/// R74 to R76, R91, R92.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R74",
        name: "vlan-tag-unknown",
        title: "frames arrive with a VLAN tag for which there is no device",
        stage: Stage::Link,
        evidence: "`rx_otherhost_dropped` of a device that has VLAN devices on it grows by \
            `benign_per_s` or more, at least `noise_ratio` of what is received, while one of them \
            receives nothing.",
        causes: "The two ends of the link have different VLAN ids, or the switch's port carries a \
            VLAN that this host has no device for.",
        advice: "The same id at both ends (`ip -d link show`), and the switch's list of VLANs for \
            this port.",
        traps: "Frames for another address are counted in the same place. A card that filters \
            VLANs itself (`rx-vlan-filter`) drops them before anything counts.",
        cites: &[
            "net/core/dev.c __netif_receive_skb_core",
            "net/8021q/vlan_core.c vlan_do_receive",
        ],
        suppresses: &["R30", "R29"],
        check: Check::Dev(vlan),
    },
    Rule {
        id: "R75",
        name: "bridge-port-closed",
        title: "a port of a bridge does not forward",
        stage: Stage::Link,
        evidence: "The device is part of a bridge that is up, has a carrier, and its state there is \
            not forwarding; with spanning tree only if it is listening or learning.",
        causes: "Without spanning tree somebody set the state. \
            With it, the port waits for `forward_delay` twice after it came up.",
        advice: "`ip link set DEV type bridge_slave state 3`; for ports with hosts behind them, a \
            shorter `forward_delay` or no spanning tree.",
        traps: "What such a port receives is counted as received and then dropped without a \
            counter; newer kernels have a reason for it. A bridge of which no port forwards has no \
            carrier. A port that spanning tree blocks is right: it would close a loop.",
        cites: &["net/bridge/br_input.c br_handle_frame", "IEEE 802.1D section 17"],
        suppresses: &["R29", "R30", "R41", "R06b"],
        check: Check::Dev(bridge_port),
    },
    Rule {
        id: "R76",
        name: "tunnel-mtu",
        title: "full packets of a tunnel do not fit into the device below it",
        stage: Stage::Frag,
        evidence: "The MTU of a tunnel and its headers together are more than the MTU of the \
            device that carries it; it sends, and `FragCreates` or `FragFails` of Ip grows.",
        causes: "The MTU was set by hand, or the tunnel was made without the device below it: then \
            the kernel can not know. Each full packet becomes two, or none.",
        advice: "The MTU of the device below, less the tunnel's headers (50 bytes for VXLAN and \
            Geneve over IPv4, 24 for GRE, 20 for IPIP; 20 more over IPv6).",
        traps: "Small packets pass: a connection is made, and stands still with the first large \
            answer. One lost fragment loses both.",
        cites: &["RFC 4459", "drivers/net/vxlan/vxlan_core.c vxlan_change_mtu"],
        suppresses: &["R39", "R38"],
        check: Check::Dev(tunnel_mtu),
    },
    Rule {
        id: "R91",
        name: "tunnel-unknown",
        title: "packets of a tunnel arrive that this host does not have",
        stage: Stage::Link,
        evidence: "Drops by a reason of VXLAN, or in the function that receives from a tunnel, are \
            seen by `noise_per_s` or more.",
        causes: "The network id (VNI) or the key differs at the two ends, or the device has gone \
            here and not there.",
        advice: "The same id at both ends: `ip -d link show type vxlan`.",
        traps: "No device counts them: they belong to none. Without reasons of drops nothing shows.",
        cites: &["drivers/net/vxlan/vxlan_core.c vxlan_rcv", "include/net/dropreason-core.h"],
        suppresses: &[],
        check: Check::Host(tunnel_unknown),
    },
    Rule {
        id: "R92",
        name: "tunnel-errors",
        title: "a tunnel can not send or refuses what it receives",
        stage: Stage::Xmit,
        evidence: "`tx_errors` or `rx_errors` of a tunnel grows by `noise_per_s` or more, at least \
            `noise_ratio` of its packets.",
        causes: "`tx_carrier_errors`: there is no route to its other end. `collisions`: that route \
            leads into the tunnel itself. `rx_crc_errors`, `rx_fifo_errors`: checksums or sequence \
            numbers that only one end uses.",
        advice: "A route to the other end that does not lead through the tunnel; the same flags at \
            both ends.",
        traps: "Programs see success: the packet was taken by a device.",
        cites: &[
            "net/ipv4/ip_tunnel.c ip_tunnel_xmit",
            "include/net/ip_tunnels.h iptunnel_xmit_stats",
        ],
        suppresses: &["R73", "R29"],
        check: Check::Dev(tunnel_errors),
    },
];

fn below<'a>(s: &'a Snapshot, dev: &Dev) -> Option<&'a Dev> {
    let link = dev.kind_info.get("link").and_then(|n| u32::try_from(n).ok()).or(dev.link);
    let link = link.filter(|_| dev.link_netnsid.is_none() && !look::is_veth(dev))?;
    s.devs.values().find(|d| d.ifindex == link)
}

fn has(dev: &Dev, flag: &str) -> bool {
    dev.flags.iter().any(|f| f == flag)
}

fn vlan(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let w = cx.whole();
    let on_it = |d: &&Dev| d.kind == "vlan" && below(w.to, d).is_some_and(|b| b.name == dev.name);
    let vlans: Vec<&Dev> = w.to.devs.values().filter(on_it).collect();
    let received = |d: &Dev| by(stat(&w, d, "rx_packets"));
    let silent = vlans.iter().find(|d| has(d, "UP") && received(d) == 0)?;
    let other = |w: &Window<'_>| stat(w, dev, "rx_otherhost_dropped");
    let seen = noise(cx, other, |w| stat(w, dev, "rx_packets"))?;
    if seen.per_s < cx.limits.benign_per_s {
        return None;
    }
    let id = |d: &Dev| d.kind_info.get("id").unwrap_or(0);
    let ids: Vec<String> = vlans.iter().map(|d| format!("{} ({})", id(d), d.name)).collect();
    Some(
        rule.found(cx, &dev.name)
            .stray(&seen)
            .is("netlink/route/RTM_GETLINK", &format!("VLAN id of {}", silent.name), id(silent))
            .because(format!(
                "Its VLANs here are {}; {} received nothing while frames for nobody came.",
                ids.join(", "),
                silent.name
            ))
            .suggest(format!(
                "See which tag they have: `tcpdump -e -n -i {} vlan`; then make the ids the same.",
                dev.name
            ))
            .done(),
    )
}

/// `BR_STATE_*`.
const STATES: [&str; 5] = ["disabled", "listening", "learning", "forwarding", "blocking"];

fn bridge_port(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    const LISTENING: u64 = 1;
    const LEARNING: u64 = 2;
    const FORWARDING: u64 = 3;
    let now = cx.now();
    let bridge = now.devs.get(dev.master.as_ref()?).filter(|b| b.kind == "bridge")?;
    let state = dev.port_info.get("state").filter(|state| *state != FORWARDING)?;
    if !(has(bridge, "UP") && has(dev, "UP") && has(dev, "LOWER_UP")) {
        return None;
    }
    let tree = bridge.kind_info.get("stp_state").unwrap_or(0) != 0;
    let waits = state == LISTENING || state == LEARNING;
    if tree && !waits {
        return None;
    }
    let name = STATES.get(state as usize).copied().unwrap_or("unknown");
    let source = "netlink/route/RTM_GETLINK";
    let arrived = stat(&cx.whole(), dev, "rx_packets").filter(|sum| sum.by > 0);
    let subject = format!("{} in {}", dev.name, bridge.name);
    let found = rule.found(cx, subject).state(match (tree, &arrived) {
        (false, Some(_)) => Severity::Warning,
        _ => Severity::Info,
    });
    let found = found
        .titled(&format!("the port is {name}"))
        .is(source, "state", name)
        .is(source, &format!("stp_state of {}", bridge.name), u64::from(tree))
        .shows_if(arrived)
        .shows_if(cx.whole().drops(|why, _| why == "BRIDGE_INGRESS_STP_STATE"));
    let found = match bridge.kind_info.get("forward_delay").filter(|_| tree) {
        Some(delay) => found.because(format!(
            "Spanning tree lets a new port wait twice for {} s; what it receives meanwhile is \
            dropped.",
            delay / 100
        )),
        None => found.because(
            "Spanning tree is off, so somebody set this state; what the port receives is dropped, \
            and no counter says so.",
        ),
    };
    Some(
        found
            .suggest(match tree {
                true => "Wait, or shorten the bridge's forward_delay.".to_owned(),
                false => format!("`ip link set {} type bridge_slave state 3`.", dev.name),
            })
            .done(),
    )
}

/// What a tunnel puts around each of its packets, in bytes.
fn headers(dev: &Dev) -> Option<u64> {
    let outer = if dev.kind_info.get("ipv6") == Some(1) { 40 } else { 20 };
    let flags = dev.kind_info.get("oflags").unwrap_or(0);
    // GRE_CSUM, GRE_KEY, GRE_SEQ are four bytes each; the flags are in network byte order.
    let gre = 4 + 4 * u64::from((flags & 0x00b0).count_ones());
    match dev.kind.as_str() {
        // Ethernet inside, and 8 bytes each of UDP and of its own.
        "vxlan" | "geneve" => Some(outer + 8 + 8 + 14),
        "gre" => Some(outer + gre),
        "gretap" => Some(outer + gre + 14),
        "ip6gre" => Some(40 + gre),
        "ipip" | "sit" => Some(20),
        _ => None,
    }
}

/// The device that carries a tunnel: the one that it is bound to; else, of those that send, the one
/// with the least MTU.
fn carrier<'a>(w: &Window<'a>, dev: &Dev) -> Option<&'a Dev> {
    let sends = |d: &&Dev| {
        has(d, "UP") && !has(d, "LOOPBACK") && !is_tunnel(d) && by(stat(w, d, "tx_packets")) > 0
    };
    let bound = below(w.to, dev).filter(|d| !is_tunnel(d));
    bound.or_else(|| w.to.devs.values().filter(sends).min_by_key(|d| d.mtu))
}

fn tunnel_mtu(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let w = cx.whole();
    let around = headers(dev)?;
    let carrier = carrier(&w, dev).filter(|_| by(stat(&w, dev, "tx_packets")) > 0)?;
    let (own, room) = (u64::from(dev.mtu), u64::from(carrier.mtu));
    if own + around <= room || room <= around {
        return None;
    }
    let cut = cx.grew(|w| w.mibs(look::IP, "FragCreates"));
    let failed = cx.grew(|w| w.mibs(look::IP, "FragFails"));
    let moved = failed.as_ref().or(cut.as_ref())?;
    let found = rule.found(cx, &dev.name);
    let found = match &failed {
        Some(lost) => found.loss(lost),
        None => found.shows(moved).warning(),
    };
    let source = "netlink/route/RTM_GETLINK";
    Some(
        found
            .is(source, "mtu", own)
            .is(source, &format!("mtu of {}", carrier.name), room)
            .because(format!(
                "A packet of {own} bytes needs {} on {}, which takes {room}: {}.",
                own + around,
                carrier.name,
                if failed.is_some() { "it is dropped" } else { "it is cut into two" }
            ))
            .advise(
                "Give the tunnel the MTU that fits.",
                Change::Link {
                    dev: dev.name.clone(),
                    name: "mtu".into(),
                    value: (room - around).to_string(),
                },
                Risk::Safe,
            )
            .done(),
    )
}

fn tunnel_unknown(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    const RECEIVE: [&str; 3] = ["vxlan_rcv", "geneve_udp_encap_recv", "gre_rcv"];
    let seen = cx.grew(|w| {
        w.drops(|why, at| {
            why.starts_with("VXLAN_") && !why.ends_with("NO_REMOTE") || RECEIVE.contains(&at)
        })
    })?;
    if cx.whole().is_lifetime() || seen.per_s < cx.limits.noise_per_s {
        return None;
    }
    let here: Vec<String> = (cx.now().devs.values())
        .filter(|d| is_tunnel(d))
        .filter_map(|d| Some(format!("{} has {}", d.name, d.kind_info.get("id")?)))
        .collect();
    let found = rule.found(cx, "").stray(&seen);
    let found = match here.is_empty() {
        true => found.because("No tunnel of this host has their id."),
        false => found.because(format!("No tunnel has their id: {}.", here.join(", "))),
    };
    Some(found.suggest("Give both ends the same id: `ip -d link show type vxlan`.").done())
}

fn tunnel_errors(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if !is_tunnel(dev) {
        return None;
    }
    let errors =
        |w: &Window<'_>| Sum::of(["tx_errors", "rx_errors"].map(|name| w.dev(&dev.name, name)));
    let packets =
        |w: &Window<'_>| Sum::of(["tx_packets", "rx_packets"].map(|name| w.dev(&dev.name, name)));
    let lost = noise(cx, errors, packets)?;
    let w = cx.whole();
    let of = |name: &str| stat(&w, dev, name).filter(|sum| sum.by > 0);
    let found = rule.found(cx, &dev.name).loss(&lost);
    let found = match (of("tx_carrier_errors"), of("collisions"), of("rx_errors")) {
        (Some(carrier), _, _) => found
            .shows(&carrier)
            .because("There is no route to its other end.")
            .suggest("Add a route to the tunnel's other end, or mend the one there was."),
        (_, Some(loops), _) => found
            .shows(&loops)
            .because("The route to its other end leads into the tunnel itself.")
            .suggest("Give the other end a route of its own, outside of the tunnel."),
        (_, _, Some(_)) => found
            .shows_if(of("rx_crc_errors"))
            .shows_if(of("rx_fifo_errors"))
            .shows_if(of("rx_frame_errors"))
            .because("What arrives does not have the flags, checksums or numbers that are asked.")
            .suggest("Make the tunnel the same way at both ends: `ip -d link show`."),
        _ => found
            .because("The kernel could not send what it was given.")
            .suggest("Look at the route to the tunnel's other end: `ip route get`."),
    };
    Some(found.done())
}
