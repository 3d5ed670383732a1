//! `struct tcp_info`, by name and as far as the kernel gives it, and what many sockets are together.
//!
//! Linux: include/uapi/linux/tcp.h, net/ipv4/tcp.c `tcp_get_info`

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::attr::fields;
use super::diag::{self, Inet};
use crate::counters::Counters;
use crate::snapshot::{PortUse, Snapshot};

/// Sockets of which all is asked for, one by one.
pub(super) const WORST_MAX: usize = 256;
/// Up to as many sockets are dumped whole, which is cheaper than one by one and leaves none out.
pub(super) const WHOLE_MAX: usize = 1024;
/// Remotes that are kept.
const PORT_USE_MAX: usize = 16;

/// Its fields in order, with their widths. Times are in µs, those named `last_` in ms.
const LAYOUT: [(&str, usize); 69] = [
    ("", 1),
    ("ca_state", 1),
    ("retransmits", 1),
    ("probes", 1),
    ("backoff", 1),
    ("options", 1),
    ("wscale", 1),
    ("flags", 1),
    ("rto", 4),
    ("ato", 4),
    ("snd_mss", 4),
    ("rcv_mss", 4),
    ("unacked", 4),
    ("sacked", 4),
    ("lost", 4),
    ("retrans", 4),
    ("fackets", 4),
    ("last_data_sent", 4),
    ("", 4),
    ("last_data_recv", 4),
    ("last_ack_recv", 4),
    ("pmtu", 4),
    ("rcv_ssthresh", 4),
    ("rtt", 4),
    ("rttvar", 4),
    ("snd_ssthresh", 4),
    ("snd_cwnd", 4),
    ("advmss", 4),
    ("reordering", 4),
    ("rcv_rtt", 4),
    ("rcv_space", 4),
    ("total_retrans", 4),
    ("pacing_rate", 8),
    ("max_pacing_rate", 8),
    ("bytes_acked", 8),
    ("bytes_received", 8),
    ("segs_out", 4),
    ("segs_in", 4),
    ("notsent_bytes", 4),
    ("min_rtt", 4),
    ("data_segs_in", 4),
    ("data_segs_out", 4),
    ("delivery_rate", 8),
    ("busy_time", 8),
    ("rwnd_limited", 8),
    ("sndbuf_limited", 8),
    ("delivered", 4),
    ("delivered_ce", 4),
    ("bytes_sent", 8),
    ("bytes_retrans", 8),
    ("dsack_dups", 4),
    ("reord_seen", 4),
    ("rcv_ooopack", 4),
    ("snd_wnd", 4),
    ("rcv_wnd", 4),
    ("rehash", 4),
    ("total_rto", 2),
    ("total_rto_recoveries", 2),
    ("total_rto_time", 4),
    ("received_ce", 4),
    ("delivered_e1_bytes", 4),
    ("delivered_e0_bytes", 4),
    ("delivered_ce_bytes", 4),
    ("received_e1_bytes", 4),
    ("received_e0_bytes", 4),
    ("received_ce_bytes", 4),
    ("accecn_fail_mode", 2),
    ("accecn_opt_seen", 2),
    ("", 4),
];

/// Reads a `struct tcp_info`.
pub(super) fn read(bytes: &[u8], into: &mut Counters) {
    fields(into, bytes, &LAYOUT);
}

/// Reads `netlink/sock_diag/tcp` and `tcp6`: sockets by state, and ports in use towards a remote.
///
/// Ports count where they are in `net.ipv4.ip_local_port_range`, if that is known.
pub fn summary(dumps: &[&[u8]], into: &mut Snapshot) {
    let range = match into.sysctl_list("net.ipv4.ip_local_port_range").as_deref() {
        Some([from, to]) => *from..=*to,
        _ => 32_768..=60_999,
    };
    let mut states = [0u64; 256];
    let mut uses: HashMap<(IpAddr, SocketAddr), (u32, u32)> = HashMap::new();
    for socket in dumps.iter().flat_map(|bytes| diag::sockets(bytes)) {
        states[usize::from(socket.state)] += 1;
        if range.contains(&i64::from(socket.local.port())) {
            let (ports, waits) = uses.entry((socket.local.ip(), socket.remote)).or_default();
            *ports = ports.saturating_add(1);
            *waits = waits.saturating_add(u32::from(socket.state == diag::TIME_WAIT));
        }
    }
    let mut counts = Counters::new(format!("{}/tcp", super::DIAG));
    for (state, count) in (0..=u8::MAX).zip(states).filter(|(_, count)| *count > 0) {
        counts.add(diag::state_name(state), count);
    }
    into.sockets.tcp_states = counts;
    let mut uses: Vec<PortUse> = uses
        .into_iter()
        .map(|((local, remote), (ports, time_wait))| PortUse { local, remote, ports, time_wait })
        .collect();
    uses.sort_by_key(|u| (std::cmp::Reverse(u.ports), u.remote, u.local));
    uses.truncate(PORT_USE_MAX);
    into.sockets.port_use = uses;
}

/// The fixed parts of those messages whose sockets say most: data that waits, timers of loss.
pub(super) fn worst<'a>(dumps: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut all: Vec<(u64, &[u8])> = dumps
        .iter()
        .flat_map(|bytes| super::attr::messages(bytes))
        .filter_map(|m| Some((weight(&diag::inet(m.body)?), m.body)))
        .filter(|(weight, _)| *weight > 0)
        .collect();
    let most = WORST_MAX.min(all.len());
    if most < all.len() {
        all.select_nth_unstable_by_key(most, |(weight, _)| std::cmp::Reverse(*weight));
    }
    all.truncate(most);
    all.into_iter().map(|(_, body)| body).collect()
}

/// How much there is to say of a socket: bytes that wait, and timers of loss.
pub(super) fn weight(socket: &Inet<'_>) -> u64 {
    /// Retransmission or probing of a closed window.
    const TIMERS: [u8; 2] = [1, 4];
    if socket.state == diag::TIME_WAIT {
        return 0;
    }
    let timer = if TIMERS.contains(&socket.timer) { 1 << 16 } else { 0 };
    u64::from(socket.recv_q) + u64::from(socket.send_q) + timer
}

/// Puts the worst first: drops, then time lost to limits, then retransmissions, then what waits.
pub(super) fn sort(into: &mut Snapshot) {
    let of = |s: &crate::snapshot::TcpSocket, name: &str| s.info.get(name).unwrap_or(0);
    into.sockets.tcp.sort_by_cached_key(|s| {
        let limited = of(s, "rwnd_limited").saturating_add(of(s, "sndbuf_limited"));
        let waits = u64::from(s.recv_q) + u64::from(s.send_q);
        let harm = (of(s, "drops"), limited, of(s, "total_retrans"), waits);
        (std::cmp::Reverse(harm), s.local, s.remote)
    });
    into.sockets.tcp.truncate(WORST_MAX);
}
