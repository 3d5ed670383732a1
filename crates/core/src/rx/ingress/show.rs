//! Rules as `tc -s filter show dev DEV ingress` prints them.

use std::fmt::Write;
use std::net::IpAddr;

use super::flower::Match;
use super::{Action, Control, Kind, Rule};
use crate::link::Iface;
use crate::shard::Net;
use crate::time::{Instant, SEC};
use crate::wire::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6};
use crate::wire::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

/// A rule, and what it has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Show {
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
    /// All of it, in tc's words.
    pub text: String,
}

pub(super) fn show(net: &Net, iface: &Iface) -> Vec<Show> {
    let row = |rule: &Rule| {
        let first = rule.actions.first();
        Show {
            dev: iface.name.clone(),
            prio: rule.prio,
            handle: rule.handle,
            packets: first.map_or(0, |a| a.packets),
            bytes: first.map_or(0, |a| a.bytes),
            drops: rule.actions.iter().map(|a| a.drops).sum(),
            text: text(net, rule),
        }
    };
    iface.ingress.0.iter().map(row).collect()
}

fn protocol(value: Option<u16>) -> String {
    match value {
        None => "all".to_owned(),
        Some(ETH_P_IP) => "ip".to_owned(),
        Some(ETH_P_IPV6) => "ipv6".to_owned(),
        Some(ETH_P_ARP) => "arp".to_owned(),
        Some(ETH_P_8021Q) => "802.1Q".to_owned(),
        Some(ETH_P_8021AD) => "802.1ad".to_owned(),
        Some(other) => format!("[{other}]"),
    }
}

fn text(net: &Net, rule: &Rule) -> String {
    let kind = if rule.flower { "flower" } else { "matchall" };
    let head = format!(
        "filter protocol {} pref {} {kind} chain 0",
        protocol(rule.what.protocol),
        rule.prio
    );
    let mut out = format!("{head} \n{head} handle 0x{:x} \n", rule.handle);
    keys(&mut out, &rule.what);
    out.push_str("  not_in_hw\n");
    for (n, action) in rule.actions.iter().enumerate() {
        act(&mut out, net, rule, n + 1, action);
    }
    out
}

fn keys(out: &mut String, m: &Match) {
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "  {name} {value}");
        }
    };
    let net = |net: Option<(IpAddr, u8)>| {
        net.map(|(addr, len)| match (addr, len) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => addr.to_string(),
            _ => format!("{addr}/{len}"),
        })
    };
    let ports = |ports: Option<(u16, u16)>| {
        ports.map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") })
    };
    let masked = |value: Option<(u8, u8)>| {
        value.map(|(v, m)| if m == 0xff { format!("0x{v:x}") } else { format!("0x{v:x}/0x{m:x}") })
    };
    let network = |value: u16| match value {
        ETH_P_IP => "ipv4".to_owned(),
        ETH_P_IPV6 => "ipv6".to_owned(),
        other => protocol(Some(other)),
    };
    line("vlan_id", m.vlan_id.map(|id| id.to_string()));
    line("vlan_ethtype", m.vlan_ethtype.map(network));
    line("dst_mac", m.dst_mac.map(|mac| mac.to_string()));
    line("src_mac", m.src_mac.map(|mac| mac.to_string()));
    line("eth_type", m.protocol.filter(|p| *p != ETH_P_8021Q).map(network));
    line(
        "ip_proto",
        m.ip_proto.map(|p| match p {
            IPPROTO_TCP => "tcp".to_owned(),
            IPPROTO_UDP => "udp".to_owned(),
            IPPROTO_ICMP => "icmp".to_owned(),
            IPPROTO_ICMPV6 => "icmpv6".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        }),
    );
    line("ip_tos", masked(m.tos));
    line("ip_ttl", masked(m.ttl));
    line("dst_ip", net(m.dst));
    line("src_ip", net(m.src));
    line("dst_port", ports(m.dst_port));
    line("src_port", ports(m.src_port));
    let flags = |(value, mask)| match mask {
        0xfff => format!("0x{value:x}"),
        mask => format!("0x{value:x}/0x{mask:x}"),
    };
    line("tcp_flags", m.tcp_flags.map(flags));
    line("icmp_type", m.icmp_type.map(|n| n.to_string()));
    line("icmp_code", m.icmp_code.map(|n| n.to_string()));
    line("ip_flags", m.frag.map(|f| if f { "frag" } else { "nofrag" }.to_owned()));
    line("ip_flags", m.first_frag.map(|f| if f { "firstfrag" } else { "nofirstfrag" }.to_owned()));
}

fn act(out: &mut String, net: &Net, rule: &Rule, order: usize, action: &Action) {
    let name = |dev: u8| net.ifaces.get(dev as usize).map_or("-", |i| i.name.as_str());
    let what = match action.kind {
        Kind::Gact(Control::Pass) => "gact action pass".to_owned(),
        Kind::Gact(Control::Drop) => "gact action drop".to_owned(),
        Kind::Gact(Control::Continue) => "gact action continue".to_owned(),
        Kind::Mirred { redirect: true, dev } => {
            format!("mirred (Egress Redirect to device {}) stolen", name(dev))
        }
        Kind::Mirred { redirect: false, dev } => {
            format!("mirred (Egress Mirror to device {}) pipe", name(dev))
        }
        Kind::Mark(mark) => format!("skbedit  mark {mark} pipe"),
        Kind::Sample { rate, group } => format!("sample rate 1/{rate} group {group} pipe"),
    };
    let _ = writeln!(out, "\taction order {order}: {what}");
    if matches!(action.kind, Kind::Gact(_)) {
        out.push_str("\t random type none pass val 0\n");
    }
    let ago = |at: Instant| net.now.since(at) / SEC;
    let installed = ago(rule.installed);
    let _ = write!(out, "\t index {order} ref 1 bind 1 installed {installed} sec");
    let _ = writeln!(out, " used {} sec", action.used.map_or(installed, ago));
    let Action { bytes, packets, drops, overlimits, .. } = action;
    let _ = writeln!(
        out,
        "\tAction statistics:\n\tSent {bytes} bytes {packets} pkt (dropped {drops}, overlimits \
         {overlimits} requeues 0) \n\tbacklog 0b 0p requeues 0\n"
    );
}
