//! The kernel's own file formats, written from a [`Snapshot`], so that existing parsers read them.
//!
//! | file | written by |
//! |---|---|
//! | `/proc/net/snmp`, `netstat`, `snmp6` | [`snmp`], [`netstat`], [`snmp6`]; field names in [`fields`] |
//! | `/proc/net/softnet_stat`, `/proc/softirqs` | [`softnet_stat`], [`softirqs`] |
//! | `/proc/net/dev` | [`dev`] |
//! | `/proc/net/sockstat`, `sockstat6` | [`sockstat`], [`sockstat6`] |
//! | `/proc/net/udp`, `udp6`, `tcp`, `tcp6` | [`sockets`] |
//! | `ethtool -g`, `-l`, `-c`, `-x`, `-n`; `queues` of sysfs | [`ethtool`] |
//!
//! Linux: net/ipv4/proc.c, net/ipv6/proc.c, net/core/net-procfs.c, fs/proc/softirqs.c.

pub mod ethtool;
mod fields;
mod sockets;

pub use sockets::{tcp, tcp6, udp, udp6};

use std::fmt::Write;

use linerate_gateway::control::Snapshot;
use linerate_gateway::control::snapshot::ShardRow;

/// `/proc/net/snmp`.
pub fn snmp(s: &Snapshot) -> String {
    let forwarding = if knob(s, "net.ipv4.ip_forward") == 1 { "1" } else { "2" };
    let ttl = knob(s, "net.ipv4.ip_default_ttl").to_string();
    let rto_min = (knob(s, "net.ipv4.tcp_rto_min_us") / 1000).to_string();
    let ip = [("Forwarding", forwarding), ("DefaultTTL", ttl.as_str())];
    // RtoAlgorithm 1 = "other", MaxConn -1 = "dynamic" (RFC 4022); RtoMax is TCP_RTO_MAX.
    let tcp = [
        ("RtoAlgorithm", "1"),
        ("RtoMin", rto_min.as_str()),
        ("RtoMax", "120000"),
        ("MaxConn", "-1"),
    ];
    let mut out = String::new();
    two_lines(&mut out, s, "Ip", fields::IP, &ip);
    two_lines(&mut out, s, "Icmp", fields::ICMP, &[]);
    icmp_msg(&mut out, s);
    two_lines(&mut out, s, "Tcp", fields::TCP, &tcp);
    two_lines(&mut out, s, "Udp", fields::UDP, &[]);
    two_lines(&mut out, s, "UdpLite", fields::UDP, &[]);
    out
}

/// `/proc/net/netstat`.
pub fn netstat(s: &Snapshot) -> String {
    let mut out = String::new();
    two_lines(&mut out, s, "TcpExt", fields::TCP_EXT, &[]);
    two_lines(&mut out, s, "IpExt", fields::IP_EXT, &[]);
    two_lines(&mut out, s, "MPTcpExt", fields::MPTCP_EXT, &[]);
    out
}

/// `/proc/net/snmp6`.
pub fn snmp6(s: &Snapshot) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: u64| {
        let _ = writeln!(out, "{name:<32}\t{value}");
    };
    let mut group = |group: &str, names: &str| {
        for name in names.split_whitespace() {
            line(&format!("{group}{name}"), s.counter(group, name));
        }
        if group == "Icmp6" {
            for (number, name) in ICMP6_TYPES {
                let way = if name.starts_with("In") { "In" } else { "Out" };
                match s.counter("Icmp6", name) {
                    0 => {}
                    value => line(&format!("Icmp6{way}Type{number}"), value),
                }
            }
        }
    };
    group("Ip6", fields::IP6);
    group("Icmp6", fields::ICMP6);
    group("Udp6", fields::UDP6);
    group("UdpLite6", fields::UDPLITE6);
    out
}

/// `/proc/net/softnet_stat`: one line a shard, fifteen columns of hexadecimal.
pub fn softnet_stat(s: &Snapshot) -> String {
    s.shards.iter().map(softnet_line).collect()
}

fn softnet_line(shard: &ShardRow) -> String {
    let softnet = |name| shard.counter("softnet", name);
    // What is taken from the input queue is processed in the same turn: none is half way.
    let (process_qlen, backlog) = (0, shard.backlog);
    let mut columns = [0; 15];
    columns[..3].copy_from_slice(&[
        softnet("processed"),
        softnet("dropped"),
        softnet("time_squeeze"),
    ]);
    let (rps, flow_limit) = (softnet("received_rps"), softnet("flow_limit_count"));
    columns[9..].copy_from_slice(&[
        rps,
        flow_limit,
        backlog,
        shard.shard.into(),
        backlog,
        process_qlen,
    ]);
    // The kernel's are 32 bits wide and wrap.
    let words: Vec<String> = columns.iter().map(|c| format!("{:08x}", *c as u32)).collect();
    words.join(" ") + "\n"
}

/// `/proc/softirqs`: one column a shard.
pub fn softirqs(s: &Snapshot) -> String {
    let kinds = [
        "HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER",
        "RCU",
    ];
    let mut out = format!("{:20}", "");
    for shard in &s.shards {
        let _ = write!(out, "CPU{:<8}", shard.shard);
    }
    out.push('\n');
    for kind in kinds {
        let _ = write!(out, "{kind:>12}:");
        for shard in &s.shards {
            let _ = write!(out, " {:>10}", shard.counter("softirqs", kind) as u32);
        }
        out.push('\n');
    }
    out
}

/// `/proc/net/dev`.
pub fn dev(s: &Snapshot) -> String {
    let mut out = String::from(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|\
         bytes    packets errs drop fifo colls carrier compressed\n",
    );
    for (i, d) in s.devices.iter().enumerate() {
        // Counted for all devices together: once.
        let frame = if i == 0 { s.counter("dev", "rx_length_errors") } else { 0 };
        let _ = writeln!(
            out,
            "{:>6}: {:>7} {:>7} {:>4} {:>4} {:>4} {:>5} {:>10} {:>9} {:>8} {:>7} {:>4} {:>4} {:>4} {:>5} {:>7} {:>10}",
            d.name,
            d.rx_bytes,
            d.rx_packets,
            d.rx_errors,
            d.rx_dropped + d.rx_missed,
            0,
            frame,
            0,
            d.multicast,
            d.tx_bytes,
            d.tx_packets,
            d.tx_errors,
            d.tx_dropped,
            0,
            0,
            0,
            0
        );
    }
    out
}

/// `/proc/net/sockstat`.
pub fn sockstat(s: &Snapshot) -> String {
    let t = &s.totals;
    let pages = t.udp_mem_bytes.div_ceil(4096);
    let (udp6, tcp6) = (udp6_count(s), tcp6_count(s));
    format!(
        "sockets: used {}\n\
         TCP: inuse {} orphan {} tw {} alloc {} mem {}\n\
         UDP: inuse {} mem {pages}\n\
         UDPLITE: inuse 0\n\
         RAW: inuse 0\n\
         FRAG: inuse {} memory {}\n",
        t.tcp + t.udp,
        t.tcp.saturating_sub(tcp6),
        t.tcp_orphan,
        t.tcp_tw,
        t.tcp_alloc,
        t.tcp_mem_pages,
        t.udp.saturating_sub(udp6),
        t.frag,
        t.frag_mem_bytes,
    )
}

/// `/proc/net/sockstat6`.
pub fn sockstat6(s: &Snapshot) -> String {
    format!(
        "TCP6: inuse {}\nUDP6: inuse {}\nUDPLITE6: inuse 0\nRAW6: inuse 0\nFRAG6: inuse 0 memory {}\n",
        tcp6_count(s),
        udp6_count(s),
        s.totals.frag6_mem_bytes
    )
}

fn udp6_count(s: &Snapshot) -> u64 {
    s.udp.iter().filter(|u| sockets::is_v6(u)).count() as u64
}

fn tcp6_count(s: &Snapshot) -> u64 {
    s.tcp.iter().filter(|t| t.local.is_ipv6() && t.state != "TIME_WAIT").count() as u64
}

/// A line of names and a line of values, as `snmp` and `netstat` have them; `fixed` are the values
/// that are no counters.
fn two_lines(out: &mut String, s: &Snapshot, group: &str, names: &str, fixed: &[(&str, &str)]) {
    let _ = writeln!(out, "{group}: {names}");
    out.push_str(group);
    out.push(':');
    for name in names.split_whitespace() {
        match fixed.iter().find(|f| f.0 == name) {
            Some((_, value)) => {
                let _ = write!(out, " {value}");
            }
            None => {
                let _ = write!(out, " {}", s.counter(group, name));
            }
        }
    }
    out.push('\n');
}

/// The types of ICMP that are counted, as the kernel's `IcmpMsg` numbers them, in its order.
const ICMP_TYPES: [(u8, &str); 17] = [
    (0, "InEchoReps"),
    (3, "InDestUnreachs"),
    (4, "InSrcQuenchs"),
    (5, "InRedirects"),
    (8, "InEchos"),
    (11, "InTimeExcds"),
    (12, "InParmProbs"),
    (13, "InTimestamps"),
    (14, "InTimestampReps"),
    (0, "OutEchoReps"),
    (3, "OutDestUnreachs"),
    (4, "OutSrcQuenchs"),
    (5, "OutRedirects"),
    (8, "OutEchos"),
    (11, "OutTimeExcds"),
    (12, "OutParmProbs"),
    (14, "OutTimestampReps"),
];

/// The same of ICMPv6.
const ICMP6_TYPES: [(u8, &str); 21] = [
    (1, "InDestUnreachs"),
    (2, "InPktTooBigs"),
    (3, "InTimeExcds"),
    (4, "InParmProblems"),
    (128, "InEchos"),
    (129, "InEchoReplies"),
    (133, "InRouterSolicits"),
    (134, "InRouterAdvertisements"),
    (135, "InNeighborSolicits"),
    (136, "InNeighborAdvertisements"),
    (137, "InRedirects"),
    (143, "InMLDv2Reports"),
    (1, "OutDestUnreachs"),
    (2, "OutPktTooBigs"),
    (3, "OutTimeExcds"),
    (4, "OutParmProblems"),
    (128, "OutEchos"),
    (129, "OutEchoReplies"),
    (134, "OutRouterAdvertisements"),
    (135, "OutNeighborSolicits"),
    (136, "OutNeighborAdvertisements"),
];

/// `IcmpMsg`: only types that occurred; no lines at all if none did, as in the kernel.
fn icmp_msg(out: &mut String, s: &Snapshot) {
    let occurred: Vec<(String, u64)> = ICMP_TYPES
        .iter()
        .map(|(number, name)| {
            let way = if name.starts_with("In") { "In" } else { "Out" };
            (format!("{way}Type{number}"), s.counter("Icmp", name))
        })
        .filter(|(_, value)| *value > 0)
        .collect();
    // The kernel begins a new pair of lines after sixteen.
    for part in occurred.chunks(16) {
        let names: Vec<&str> = part.iter().map(|p| p.0.as_str()).collect();
        let values: Vec<String> = part.iter().map(|p| p.1.to_string()).collect();
        let _ = writeln!(out, "IcmpMsg: {}\nIcmpMsg: {}", names.join(" "), values.join(" "));
    }
}

fn knob(s: &Snapshot, path: &str) -> u64 {
    let row = s.knobs.iter().find(|k| k.path == path);
    row.and_then(|k| k.value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
