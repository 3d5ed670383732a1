//! Words that stand for numbers: protocols, ports, fields of headers, addresses.

use super::super::eval::IPPROTO_SCTP;
use crate::wire::{
    ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Mac,
};

const ETH_P_RARP: u16 = 0x8035;

/// The IP protocol of a name, and whether it is looked for over IPv4 and IPv6.
pub(super) fn ip_proto(name: &str) -> Option<(u8, bool, bool)> {
    Some(match name {
        "tcp" => (IPPROTO_TCP, true, true),
        "udp" => (IPPROTO_UDP, true, true),
        "sctp" => (IPPROTO_SCTP, true, true),
        "icmp" => (IPPROTO_ICMP, true, false),
        "icmp6" => (IPPROTO_ICMPV6, false, true),
        "igmp" => (2, true, false),
        "igrp" => (9, true, false),
        "esp" => (50, true, true),
        "ah" => (51, true, true),
        "pim" => (103, true, true),
        "vrrp" => (112, true, false),
        _ => return None,
    })
}

pub(super) fn ethertype(name: &str) -> Option<u16> {
    Some(match name {
        "ip" => ETH_P_IP,
        "ip6" => ETH_P_IPV6,
        "arp" => ETH_P_ARP,
        "rarp" => ETH_P_RARP,
        _ => return None,
    })
}

pub(super) fn is_proto(word: &str) -> bool {
    matches!(word, "ether" | "link") || ethertype(word).is_some() || ip_proto(word).is_some()
}

/// Numbers that have names in relations.
pub(super) fn named(name: &str) -> Option<u32> {
    const NAMES: [(&str, u32); 27] = [
        ("icmptype", 0),
        ("icmpcode", 1),
        ("icmp6type", 0),
        ("icmp6code", 1),
        ("tcpflags", 13),
        ("tcp-fin", 1),
        ("tcp-syn", 2),
        ("tcp-rst", 4),
        ("tcp-push", 8),
        ("tcp-ack", 16),
        ("tcp-urg", 32),
        ("tcp-ece", 64),
        ("tcp-cwr", 128),
        ("icmp-echoreply", 0),
        ("icmp-unreach", 3),
        ("icmp-sourcequench", 4),
        ("icmp-redirect", 5),
        ("icmp-echo", 8),
        ("icmp-timxceed", 11),
        ("icmp-paramprob", 12),
        ("icmp6-destinationunreach", 1),
        ("icmp6-packettoobig", 2),
        ("icmp6-timeexceeded", 3),
        ("icmp6-echo", 128),
        ("icmp6-echoreply", 129),
        ("icmp6-neighborsolicit", 135),
        ("icmp6-neighboradvert", 136),
    ];
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
}

/// Ports that have names: those that everybody knows.
pub(super) fn port_named(name: &str) -> Option<u16> {
    const NAMES: [(&str, u16); 13] = [
        ("ftp", 21),
        ("ssh", 22),
        ("telnet", 23),
        ("smtp", 25),
        ("domain", 53),
        ("bootps", 67),
        ("bootpc", 68),
        ("http", 80),
        ("ntp", 123),
        ("imap2", 143),
        ("snmp", 161),
        ("bgp", 179),
        ("https", 443),
    ];
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, port)| *port)
}

/// A number as C has it: decimal, 0x…, 0….
pub(super) fn number(text: &str) -> Option<u32> {
    if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        return u32::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())),
    }
}

/// Six bytes in hexadecimal, joined by colons.
pub(super) fn mac(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| (1..=2).contains(&p.len()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}

/// One to four numbers joined by points, as the first bytes of an address; and how many.
pub(super) fn dotted(text: &str) -> Option<(u32, u32)> {
    let mut bytes = [0; 4];
    let mut n = 0;
    for part in text.split('.') {
        *bytes.get_mut(n)? = part.parse().ok()?;
        n += 1;
    }
    Some((u32::from_be_bytes(bytes), n as u32))
}
