//! `/proc/net/udp`, `udp6`, `tcp`, `tcp6`.
//!
//! Linux: net/ipv4/udp.c `udp4_format_sock`, net/ipv6/datagram.c `__ip6_dgram_sock_seq_show`,
//! net/ipv4/tcp_ipv4.c `get_tcp4_sock`, `get_openreq4`, `get_timewait4_sock`, and tcp_ipv6.c.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use linerate_gateway::control::Snapshot;
use linerate_gateway::control::snapshot::{TcpRow, UdpRow};

/// Lines of `/proc/net/udp` and `tcp` are filled up with spaces to this width, without the line end.
const UDP_WIDTH: usize = 127;
const TCP_WIDTH: usize = 149;
const UDP_HEAD: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                        uid  timeout inode ref pointer drops";
const TCP_HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                        uid  timeout inode";
const HEAD6: &str = "  sl  local_address                         \
                     remote_address                        \
                     st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";

/// `/proc/net/udp`.
pub fn udp(s: &Snapshot) -> String {
    let mut out = format!("{UDP_HEAD:<UDP_WIDTH$}\n");
    for (i, row) in s.udp.iter().filter(|u| !is_v6(u)).enumerate() {
        let line = udp_line(i, row, s.uid);
        let _ = writeln!(out, "{line:<UDP_WIDTH$}");
    }
    out
}

/// `/proc/net/udp6`; sockets that hear both families are here, as in Linux.
pub fn udp6(s: &Snapshot) -> String {
    let mut out = format!("{HEAD6} ref pointer drops\n");
    for (i, row) in s.udp.iter().filter(|u| is_v6(u)).enumerate() {
        let _ = writeln!(out, "{}", udp_line(i, row, s.uid));
    }
    out
}

/// `/proc/net/tcp`.
pub fn tcp(s: &Snapshot) -> String {
    let mut out = format!("{TCP_HEAD:<TCP_WIDTH$}\n");
    for (i, row) in s.tcp.iter().filter(|t| t.local.is_ipv4()).enumerate() {
        let line = tcp_line(i, row, s.uid);
        let _ = writeln!(out, "{line:<TCP_WIDTH$}");
    }
    out
}

/// `/proc/net/tcp6`.
pub fn tcp6(s: &Snapshot) -> String {
    let mut out = format!("{HEAD6}\n");
    for (i, row) in s.tcp.iter().filter(|t| t.local.is_ipv6()).enumerate() {
        let _ = writeln!(out, "{}", tcp_line(i, row, s.uid));
    }
    out
}

/// Whether Linux would list it in `udp6`.
pub fn is_v6(row: &UdpRow) -> bool {
    row.local.is_ipv6() || row.any_family
}

fn udp_line(i: usize, row: &UdpRow, uid: u32) -> String {
    let local = match row.any_family {
        true => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), row.local.port()),
        false => row.local,
    };
    let state = if row.remote.is_some() { 1 } else { 7 };
    format!(
        "{i:>5}: {} {} {state:02X} {:08X}:{:08X} 00:00000000 00000000 {uid:>5} {:>8} 0 2 {:016x} {}",
        address(local),
        address(row.remote.unwrap_or(unspecified(local))),
        0,
        row.rx_queue as u32,
        0,
        0,
        row.drops
    )
}

fn tcp_line(i: usize, row: &TcpRow, uid: u32) -> String {
    let state = state_number(&row.state);
    let listens = row.remote.is_none();
    let (half_open, ended) = (state == 3 && row.info.is_none(), state == 6);
    // The limit of the accept queue, which a listener's row carries, has no place in this file.
    let tx_queue = if listens { 0 } else { row.tx_queue };
    let uid = if ended { 0 } else { uid };
    let mut line = format!(
        "{i:>4}: {} {} {state:02X} {:08X}:{:08X} {:02X}:{:08X} {:08X} {uid:>5} {:>8} 0 {} {:016x}",
        address(row.local),
        address(row.remote.unwrap_or(unspecified(row.local))),
        tx_queue as u32,
        row.rx_queue as u32,
        row.timer,
        row.timer_ms / USER_HZ_MS,
        row.timeouts,
        row.probes,
        references(half_open, ended),
        0
    );
    if !half_open && !ended {
        let info = row.info.clone().unwrap_or_default();
        let rto = if listens { 100 } else { info.rto_us / 1000 / USER_HZ_MS };
        let cwnd = if listens { 10 } else { info.cwnd };
        let threshold = match (listens, info.ssthresh) {
            (true, _) => "0".to_owned(),
            (false, None) => "-1".to_owned(),
            (false, Some(n)) => n.to_string(),
        };
        let _ = write!(line, " {rto} 0 0 {cwnd} {threshold}");
    }
    line
}

/// Milliseconds of one tick of the clock that `/proc` speaks of.
const USER_HZ_MS: u64 = 10;

fn references(half_open: bool, ended: bool) -> u32 {
    match (half_open, ended) {
        (true, _) => 0,
        (_, true) => 3,
        _ => 1,
    }
}

fn state_number(name: &str) -> u8 {
    let names = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
    ];
    names.iter().position(|n| *n == name).map_or(7, |i| i as u8 + 1)
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Words of four bytes in the order of the machine, as the kernel prints addresses.
fn address(addr: SocketAddr) -> String {
    let word = |b: &[u8]| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
    let words: String = match addr.ip() {
        IpAddr::V4(ip) => format!("{:08X}", word(&ip.octets())),
        IpAddr::V6(ip) => ip.octets().chunks(4).map(|c| format!("{:08X}", word(c))).collect(),
    };
    format!("{words}:{:04X}", addr.port())
}
