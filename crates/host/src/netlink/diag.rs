//! `sock_diag`: sockets, without walking the kernel's tables as text.
//!
//! All TCP sockets are asked for briefly (72 bytes each, for counts by state and for ports in use);
//! `struct tcp_info` and memory only of those that say most. Linux: net/ipv4/inet_diag.c,
//! net/packet/diag.c, net/xdp/xsk_diag.c

use std::net::SocketAddr;

use super::attr::{
    DUMP, Request, array, attrs, be16_at, find, messages, number32, text, u16_at, u32_at,
};
use super::neigh::address;
use super::tcp_info;
use crate::counters::Counters;
use crate::snapshot::{Listener, Owner, Snapshot, Tap, TcpSocket, UdpSocket};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `sizeof(struct inet_diag_msg)`: family, state, timer, retrans; ports, addresses, interface, cookie;
/// expires, rqueue, wqueue, uid, inode.
pub(super) const INET_MSG: usize = 72;
/// Where in it `struct inet_diag_sockid` is, and how long.
const SOCKID: usize = 4;
const SOCKID_BYTES: usize = 48;

const EXT_INFO: u8 = 1 << 1;
const EXT_CONG: u8 = 1 << 3;
const EXT_SKMEMINFO: u8 = 1 << 6;

const DIAG_INFO: u16 = 2;
const DIAG_CONG: u16 = 4;
const DIAG_SKMEMINFO: u16 = 7;

/// States by number, from 1 on; 12 is a request that is not yet accepted.
const STATES: [&str; 14] = [
    "",
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
    "SYN_RECV",
    "CLOSE",
];
const LISTEN: u8 = 10;
pub(super) const TIME_WAIT: u8 = 6;

/// `SK_MEMINFO_*`, by the names of ss.
pub(super) const SKMEM: [&str; 9] =
    ["rmem", "rcvbuf", "wmem", "sndbuf", "fwd", "wmem_queued", "optmem", "backlog", "drops"];

/// Which sockets are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// `netlink/sock_diag/{tcp,tcp6}-listen`.
    Listen,
    /// `netlink/sock_diag/{tcp,tcp6}`: all others.
    Brief,
    /// The same, with all that is known of them.
    Whole,
    /// `netlink/sock_diag/{udp,udp6}`.
    Udp,
}

impl Which {
    fn states(self) -> u32 {
        match self {
            Which::Listen => 1 << LISTEN,
            // Up to NEW_SYN_RECV; sockets that are bound and no more are nobody's concern.
            Which::Brief | Which::Whole => 0x1fff & !(1 << LISTEN),
            Which::Udp => u32::MAX,
        }
    }

    fn ext(self) -> u8 {
        match self {
            Which::Brief => 0,
            Which::Listen | Which::Udp => EXT_SKMEMINFO,
            Which::Whole => EXT_INFO | EXT_CONG | EXT_SKMEMINFO,
        }
    }

    fn protocol(self) -> u8 {
        if self == Which::Udp { libc::IPPROTO_UDP as u8 } else { libc::IPPROTO_TCP as u8 }
    }
}

/// A dump of sockets.
pub(super) fn dump(which: Which, family: u8) -> Request {
    let mut fixed = vec![family, which.protocol(), which.ext(), 0];
    fixed.extend_from_slice(&which.states().to_ne_bytes());
    fixed.extend_from_slice(&[0; SOCKID_BYTES]);
    Request::new(BY_FAMILY, DUMP, &fixed)
}

/// All that is known of the one TCP socket that a message of a dump was about.
pub(super) fn one(message: &[u8]) -> Option<Request> {
    let family = *message.first()?;
    let mut fixed = vec![family, Which::Whole.protocol(), Which::Whole.ext(), 0];
    fixed.extend_from_slice(&u32::MAX.to_ne_bytes());
    fixed.extend_from_slice(message.get(SOCKID..SOCKID + SOCKID_BYTES)?);
    Some(Request::new(BY_FAMILY, super::socket::ASK, &fixed))
}

/// Packet sockets, with their memory.
pub(super) fn dump_packet() -> Request {
    const INFO_AND_MEMINFO: u32 = 0x01 | 0x10;
    Request::new(BY_FAMILY, DUMP, &by_show(libc::AF_PACKET, INFO_AND_MEMINFO))
}

/// AF_XDP sockets, with their statistics (since 5.9).
pub(super) fn dump_xdp() -> Request {
    const INFO_AND_STATS: u32 = 0x01 | 0x10;
    Request::new(BY_FAMILY, DUMP, &by_show(libc::AF_XDP, INFO_AND_STATS))
}

// struct packet_diag_req and xdp_diag_req: family, protocol, padding; inode, show, cookie.
fn by_show(family: libc::c_int, show: u32) -> [u8; 20] {
    let mut fixed = [0; 20];
    fixed[0] = family as u8;
    fixed[8..12].copy_from_slice(&show.to_ne_bytes());
    fixed
}

/// One socket of an answer.
pub(super) struct Inet<'a> {
    pub(super) state: u8,
    pub(super) timer: u8,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) recv_q: u32,
    pub(super) send_q: u32,
    pub(super) owner: Owner,
    pub(super) inside: &'a [u8],
}

/// Reads one `struct inet_diag_msg`.
pub(super) fn inet(body: &[u8]) -> Option<Inet<'_>> {
    let family = *body.first()?;
    let addr = |at: usize, port: usize| {
        Some(SocketAddr::new(address(family, body.get(at..)?)?, be16_at(body, port)?))
    };
    Some(Inet {
        state: *body.get(1)?,
        timer: *body.get(2)?,
        local: addr(8, 4)?,
        remote: addr(24, 6)?,
        recv_q: u32_at(body, 56)?,
        send_q: u32_at(body, 60)?,
        owner: Owner { uid: u32_at(body, 64)?, inode: u32_at(body, 68)?.into(), process: None },
        inside: body.get(INET_MSG..)?,
    })
}

/// A state's name.
pub(super) fn state_name(state: u8) -> &'static str {
    STATES.get(usize::from(state)).copied().filter(|s| !s.is_empty()).unwrap_or("UNKNOWN")
}

/// The sockets of an answer.
pub(super) fn sockets(bytes: &[u8]) -> impl Iterator<Item = Inet<'_>> {
    messages(bytes).filter(|m| m.kind == BY_FAMILY).filter_map(|m| inet(m.body))
}

fn skmem(inside: &[u8], number: usize) -> Option<u32> {
    u32_at(find(inside, DIAG_SKMEMINFO)?, number * 4)
}

/// Reads `netlink/sock_diag/{tcp,tcp6}-listen`.
pub fn listeners(bytes: &[u8], into: &mut Snapshot) {
    into.sockets.listeners.extend(sockets(bytes).filter(|s| s.state == LISTEN).map(|s| Listener {
        local: s.local,
        waiting: s.recv_q,
        backlog: s.send_q,
        drops: skmem(s.inside, 8).unwrap_or(0),
        owner: s.owner,
    }));
}

/// Reads `netlink/sock_diag/{udp,udp6}`.
pub fn udp(bytes: &[u8], into: &mut Snapshot) {
    into.sockets.udp.extend(sockets(bytes).map(|s| UdpSocket {
        local: s.local,
        remote: Some(s.remote).filter(|r| r.port() != 0),
        rmem: skmem(s.inside, 0).unwrap_or(s.recv_q),
        rcvbuf: skmem(s.inside, 1).unwrap_or(0),
        sndbuf: skmem(s.inside, 3).unwrap_or(0),
        drops: skmem(s.inside, 8).unwrap_or(0),
        owner: s.owner,
    }));
}

/// Whether an answer has all that is known of its sockets, or is brief. Sockets in TIME_WAIT have nothing
/// to tell.
pub(super) fn are_whole(bytes: &[u8]) -> bool {
    sockets(bytes).any(|s| find(s.inside, DIAG_INFO).is_some())
}

/// Reads `netlink/sock_diag/tcp-info`, or what is whole of `tcp` and `tcp6`.
pub fn tcp_info(bytes: &[u8], into: &mut Snapshot) {
    let source = super::TCP_INFO;
    let told = sockets(bytes).filter(|s| s.state != LISTEN && s.state != TIME_WAIT);
    into.sockets.tcp.extend(told.take(tcp_info::WHOLE_MAX * 4).map(|s| {
        let (mut info, mut cong) = (Counters::new(source), String::new());
        for (kind, value) in attrs(s.inside) {
            match kind {
                DIAG_INFO => tcp_info::read(value, &mut info),
                DIAG_SKMEMINFO => array(&mut info, value, 4, &SKMEM),
                DIAG_CONG => cong = text(value),
                _ => {}
            }
        }
        TcpSocket {
            local: s.local,
            remote: s.remote,
            state: state_name(s.state).into(),
            recv_q: s.recv_q,
            send_q: s.send_q,
            info,
            cong,
            owner: s.owner,
        }
    }));
}

/// Reads `netlink/sock_diag/packet`; `name_of` gives the device of an index.
pub fn packet(bytes: &[u8], name_of: impl Fn(u32) -> Option<String>, into: &mut Snapshot) {
    const INFO: u16 = 0;
    const UID: u16 = 5;
    const MEMINFO: u16 = 6;
    /// `sizeof(struct packet_diag_msg)`: family, type, protocol; inode, cookie.
    const MSG: usize = 16;
    for message in messages(bytes).filter(|m| m.kind == BY_FAMILY) {
        let body = message.body;
        if body.first().copied().map(i32::from) != Some(libc::AF_PACKET) {
            continue;
        }
        let (Some(protocol), Some(inode), Some(inside)) =
            (u16_at(body, 2), u32_at(body, 4), body.get(MSG..))
        else {
            continue;
        };
        let index = find(inside, INFO).and_then(|info| u32_at(info, 0)).unwrap_or(0);
        let uid = number32(inside, UID).unwrap_or(0);
        into.sockets.taps.push(Tap {
            dev: (index != 0).then(|| name_of(index).unwrap_or_else(|| format!("#{index}"))),
            protocol,
            drops: find(inside, MEMINFO).and_then(|mem| u32_at(mem, 32)),
            owner: Owner { inode: inode.into(), uid, process: None },
        });
    }
}

/// Reads `netlink/sock_diag/xdp`; `name_of` gives the device of an index.
pub fn xdp(bytes: &[u8], name_of: impl Fn(u32) -> Option<String>, into: &mut Snapshot) {
    const INFO: u16 = 1;
    const STATS: u16 = 9;
    /// `sizeof(struct xdp_diag_msg)`: family, type, padding; inode, cookie.
    const MSG: usize = 16;
    /// `struct xdp_diag_stats`, by the names of `XDP_STATISTICS`.
    const NAMES: [&str; 6] = [
        "rx_dropped",
        "rx_invalid_descs",
        "rx_ring_full",
        "rx_fill_ring_empty_descs",
        "tx_invalid_descs",
        "tx_ring_empty_descs",
    ];
    for message in messages(bytes).filter(|m| m.kind == BY_FAMILY) {
        let body = message.body;
        let Some(inside) = body.get(MSG..) else { continue };
        let info = find(inside, INFO).and_then(|i| Some((u32_at(i, 0)?, u32_at(i, 4)?)));
        let (true, Some((index, queue))) =
            (body.first().copied().map(i32::from) == Some(libc::AF_XDP), info)
        else {
            continue;
        };
        let dev = name_of(index).unwrap_or_else(|| format!("#{index}"));
        let mut stats = Counters::new(format!("{} {dev} {queue}", super::XDP));
        array(&mut stats, find(inside, STATS).unwrap_or_default(), 8, &NAMES);
        into.sockets.xdp.push((dev, queue, stats));
    }
}
