//! What `ss -peaonmi` printed, as a `sosreport` keeps it: sockets. Only for archives, as
//! [`super::ethtool`].
//!
//! A socket is a line that begins with its kind; memory and TCP's own numbers stand in the line behind
//! it, which begins with a blank. Columns are found by their order, values behind them by their names. A
//! socket whose second line is missing is left out: what its buffers hold would be a guess.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{lines, netdev};
use crate::counters::Counters;
use crate::snapshot::{Listener, Owner, Snapshot, Tap, TcpSocket, UdpSocket};

/// The file with the output.
pub const FILE: &str = "sos_commands/networking/ss_-peaonmi";

/// Sockets of one kind that are kept.
const SOCKETS_MAX: usize = 1 << 14;
/// TCP connections that are kept whole, as of a host that runs.
const TCP_MAX: usize = 512;
/// `ETH_P_ALL`.
const ALL: u16 = 3;

/// States as ss calls them, and as the kernel does.
const STATES: [(&str, &str); 11] = [
    ("ESTAB", "ESTABLISHED"),
    ("SYN-SENT", "SYN_SENT"),
    ("SYN-RECV", "SYN_RECV"),
    ("FIN-WAIT-1", "FIN_WAIT1"),
    ("FIN-WAIT-2", "FIN_WAIT2"),
    ("TIME-WAIT", "TIME_WAIT"),
    ("UNCONN", "CLOSE"),
    ("CLOSE-WAIT", "CLOSE_WAIT"),
    ("LAST-ACK", "LAST_ACK"),
    ("LISTEN", "LISTEN"),
    ("CLOSING", "CLOSING"),
];

/// Letters of `skmem:(...)`, the longer before those that they begin with.
const SKMEM: [(&str, &str); 9] = [
    ("rb", "rcvbuf"),
    ("r", "rmem"),
    ("tb", "sndbuf"),
    ("t", "wmem"),
    ("f", "fwd"),
    ("w", "wmem_queued"),
    ("o", "optmem"),
    ("bl", "backlog"),
    ("d", "drops"),
];

/// One socket: its line, and what stands behind it.
struct Socket<'a> {
    line: usize,
    kind: &'a str,
    state: &'static str,
    recv_q: u32,
    send_q: u32,
    local: &'a str,
    remote: &'a str,
    owner: Owner,
    memory: Counters,
    words: Vec<&'a str>,
}

/// Fills [`Snapshot::sockets`] from [`FILE`].
pub fn sockets(bytes: &[u8], into: &mut Snapshot) {
    let rows: Vec<(usize, &str)> = lines(bytes, FILE, into).collect();
    let states = || {
        let mut states = Counters::new(FILE);
        STATES.iter().for_each(|(_, kernel)| states.set(kernel, 0));
        states
    };
    let mut at: Option<Socket<'_>> = None;
    for (n, line) in rows {
        if line.starts_with([' ', '\t']) {
            if let Some(socket) = &mut at {
                more(line, socket);
            }
            continue;
        }
        at.take().into_iter().for_each(|socket| keep(socket, into));
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"Netid") || words.is_empty() {
            continue;
        }
        at = head(n, &words);
        if matches!(&at, Some(s) if s.kind == "tcp") && into.sockets.tcp_states.is_empty() {
            into.sockets.tcp_states = states();
        }
        if at.is_none() {
            into.note(FILE, format!("line {n} is not a socket: {}", super::shown(line)));
        }
    }
    at.into_iter().for_each(|socket| keep(socket, into));
    // Of a part of the sockets, no count says anything.
    if !bytes.ends_with(b"\n") {
        into.sockets.tcp_states = Counters::default();
    }
}

/// `tcp ESTAB 0 0 10.0.0.1:80 10.0.0.2:1234 users:(("a",pid=1,fd=3)) ino:5 ...`
fn head<'a>(line: usize, words: &[&'a str]) -> Option<Socket<'a>> {
    let [kind, state, recv_q, send_q, local, rest @ ..] = words else { return None };
    let state = STATES.iter().find(|(theirs, _)| theirs == state).map(|(_, kernel)| *kernel)?;
    // Peers of netlink and packet sockets may be `*` alone; there is always one.
    let (remote, rest) = rest.split_first()?;
    let mut socket = Socket {
        line,
        kind,
        state,
        recv_q: recv_q.parse().ok()?,
        send_q: send_q.parse().ok()?,
        local,
        remote,
        owner: Owner::default(),
        memory: Counters::new(format!("{FILE}:{line}")),
        words: Vec::new(),
    };
    details(rest, &mut socket);
    Some(socket)
}

fn more<'a>(line: &'a str, socket: &mut Socket<'a>) {
    let words: Vec<&str> = line.split_whitespace().collect();
    details(&words, socket);
}

fn details<'a>(words: &[&'a str], socket: &mut Socket<'a>) {
    const WORDS_MAX: usize = 256;
    for word in words {
        if let Some(inside) = word.strip_prefix("skmem:(").and_then(|w| w.strip_suffix(')')) {
            inside.split(',').for_each(|part| memory(part, &mut socket.memory));
        } else if let Some(users) = word.strip_prefix("users:((") {
            socket.owner.process = process(users);
        } else if let Some(number) = word.strip_prefix("ino:").and_then(|w| w.parse().ok()) {
            socket.owner.inode = number;
        } else if let Some(number) = word.strip_prefix("uid:").and_then(|w| w.parse().ok()) {
            socket.owner.uid = number;
        } else if socket.words.len() < WORDS_MAX {
            socket.words.push(word);
        }
    }
}

fn memory(part: &str, into: &mut Counters) {
    let digits = part.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let letters = &part[..part.len() - digits.len()];
    let name = SKMEM.iter().find(|(theirs, _)| *theirs == letters);
    if let (Some((_, name)), Ok(value)) = (name, digits.parse()) {
        into.set(name, value);
    }
}

/// The first of `"python3",pid=20867,fd=3),("sh",pid=...`.
fn process(users: &str) -> Option<(u32, String)> {
    let (name, rest) = users.strip_prefix('"')?.split_once('"')?;
    let pid = rest.split([',', ')']).find_map(|part| part.strip_prefix("pid=")?.parse().ok())?;
    (name.len() < 64).then(|| (pid, name.to_owned()))
}

/// `10.0.0.1:80`, `[::1]:80`, `*:80`, `127.0.0.53%lo:53`, `[fe80::1]%eth0:546`, `0.0.0.0:*`.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = if port == "*" { 0 } else { port.parse().ok()? };
    let host = host.split_once('%').map_or(host, |(host, _)| host);
    let ip = match host {
        // A socket for both families.
        "*" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        host => host.trim_matches(['[', ']']).parse().ok()?,
    };
    Some(SocketAddr::new(ip, port))
}

fn keep(socket: Socket<'_>, into: &mut Snapshot) {
    let number = |name: &str| socket.memory.get(name).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    match socket.kind {
        "p_raw" | "p_dgr" => tap(socket, into),
        "udp" if !socket.memory.is_empty() => {
            let Some(local) = address(socket.local) else { return };
            if into.sockets.udp.len() >= SOCKETS_MAX {
                return;
            }
            into.sockets.udp.push(UdpSocket {
                local,
                remote: address(socket.remote).filter(|r| r.port() != 0),
                rmem: number("rmem").unwrap_or(socket.recv_q),
                rcvbuf: number("rcvbuf").unwrap_or(0),
                sndbuf: number("sndbuf").unwrap_or(0),
                drops: number("drops").unwrap_or(0),
                owner: socket.owner,
            });
        }
        "tcp" if socket.state == "LISTEN" => {
            let Some(local) = address(socket.local) else { return };
            into.sockets.tcp_states.add("LISTEN", 1);
            if socket.memory.is_empty() || into.sockets.listeners.len() >= SOCKETS_MAX {
                return;
            }
            into.sockets.listeners.push(Listener {
                local,
                waiting: socket.recv_q,
                backlog: socket.send_q,
                drops: number("drops").unwrap_or(0),
                owner: socket.owner,
            });
        }
        "tcp" => connection(socket, into),
        _ => {}
    }
}

/// The device stands where the port does: `*:eth0`, `arp:eth0`, `[35020]:eth0`.
fn tap(socket: Socket<'_>, into: &mut Snapshot) {
    let Some((protocol, dev)) = socket.local.rsplit_once(':') else { return };
    let dev = match dev {
        "*" => None,
        dev if netdev::is_name(dev) => Some(dev.to_owned()),
        _ => return,
    };
    let protocol = match protocol {
        "*" => ALL,
        "ip" | "ipv4" => 0x0800,
        "ipv6" => 0x86dd,
        "arp" => 0x0806,
        other => match other.trim_matches(['[', ']']).parse() {
            Ok(number) => number,
            Err(_) => return,
        },
    };
    if into.sockets.taps.len() < SOCKETS_MAX {
        let drops = socket.memory.get("drops").and_then(|n| u32::try_from(n).ok());
        into.sockets.taps.push(Tap { dev, protocol, drops, owner: socket.owner });
    }
}

fn connection(socket: Socket<'_>, into: &mut Snapshot) {
    into.sockets.tcp_states.add(socket.state, 1);
    let (Some(local), Some(remote)) = (address(socket.local), address(socket.remote)) else {
        return;
    };
    let told = socket.state != "TIME_WAIT" && !socket.memory.is_empty();
    if !told || into.sockets.tcp.len() >= TCP_MAX {
        return;
    }
    let mut info = Counters::new(format!("{FILE}:{}", socket.line));
    info.extend(socket.memory.iter());
    let mut cong = String::new();
    for (at, word) in socket.words.iter().enumerate() {
        match word.split_once(':') {
            Some((name, value)) => named(name, value, &mut info),
            // `cubic wscale:7,7`: the word before is the congestion control.
            None if cong.is_empty() && is_cong(word, socket.words.get(at + 1)) => {
                (*word).clone_into(&mut cong);
            }
            None => {
                if let Some(next) = socket.words.get(at + 1) {
                    rate(word, next, &mut info);
                }
            }
        }
    }
    into.sockets.tcp.push(TcpSocket {
        local,
        remote,
        state: socket.state.into(),
        recv_q: socket.recv_q,
        send_q: socket.send_q,
        info,
        cong,
        owner: socket.owner,
    });
}

fn is_cong(word: &str, next: Option<&&str>) -> bool {
    let behind = next.is_some_and(|n| n.starts_with("wscale:") || n.starts_with("rto:"));
    behind && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
}

/// A number of TCP by the name that ss gives it.
fn named(name: &str, value: &str, info: &mut Counters) {
    // Names of ss, and of `struct tcp_info`.
    const SAME: [(&str, &str); 18] = [
        ("mss", "snd_mss"),
        ("rcvmss", "rcv_mss"),
        ("advmss", "advmss"),
        ("pmtu", "pmtu"),
        ("cwnd", "snd_cwnd"),
        ("ssthresh", "snd_ssthresh"),
        ("bytes_acked", "bytes_acked"),
        ("bytes_received", "bytes_received"),
        ("bytes_sent", "bytes_sent"),
        ("bytes_retrans", "bytes_retrans"),
        ("segs_in", "segs_in"),
        ("segs_out", "segs_out"),
        ("unacked", "unacked"),
        ("lost", "lost"),
        ("backoff", "backoff"),
        ("rcv_space", "rcv_space"),
        ("notsent", "notsent_bytes"),
        ("reord_seen", "reord_seen"),
    ];
    if let Some((_, kernel)) = SAME.iter().find(|(theirs, _)| *theirs == name) {
        value.parse().into_iter().for_each(|n| info.set(kernel, n));
        return;
    }
    // Times with their part of the whole: `busy:12ms(40.0%)`.
    let ms = |text: &str| text.split_once("ms").and_then(|(ms, _)| micros(ms));
    match name {
        "rtt" => {
            let (rtt, var) = value.split_once('/').unwrap_or((value, ""));
            micros(rtt).into_iter().for_each(|n| info.set("rtt", n));
            micros(var).into_iter().for_each(|n| info.set("rttvar", n));
        }
        "minrtt" => micros(value).into_iter().for_each(|n| info.set("min_rtt", n)),
        "rto" => micros(value).into_iter().for_each(|n| info.set("rto", n)),
        "retrans" => {
            let (now, all) = value.split_once('/').unwrap_or((value, value));
            now.parse().into_iter().for_each(|n| info.set("retrans", n));
            all.parse().into_iter().for_each(|n| info.set("total_retrans", n));
        }
        "busy" => ms(value).into_iter().for_each(|n| info.set("busy_time", n)),
        "rwnd_limited" | "sndbuf_limited" => ms(value).into_iter().for_each(|n| info.set(name, n)),
        _ => {}
    }
}

/// Rates, which are bits in a second in this output, and bytes in the kernel's.
fn rate(name: &str, value: &str, info: &mut Counters) {
    if matches!(name, "pacing_rate" | "delivery_rate")
        && let Some(bits) = value.strip_suffix("bps").and_then(|v| v.parse::<u64>().ok())
    {
        info.set(name, bits / 8);
    }
}

/// Milliseconds, with or without a fraction, in microseconds.
fn micros(ms: &str) -> Option<u64> {
    let ms: f64 = ms.parse().ok()?;
    (0.0..1e15).contains(&ms).then(|| (ms * 1e3).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
Netid State  Recv-Q Send-Q Local Address:Port  Peer Address:Port Process
nl    UNCONN 0      0                  0:0                 *      sk=0 cb=0 groups=0x00000000
\t skmem:(r0,rb212992,t0,tb212992,f0,w0,o0,bl0,d0)
p_raw UNCONN 213632 0                  *:va                *      users:((\"tcpdump\",pid=20868,fd=3)) ino:14 sk:49ea3
\tver:0 cpy_thresh:0 flags( running ) skmem:(r213632,rb212992,t0,tb212992,f0,w0,o0,bl0,d2966)
udp   UNCONN 211968 0            0.0.0.0:5000       0.0.0.0:*     users:((\"a b\",pid=20867,fd=3)) uid:33 ino:15 sk:49ea4 <->
\t skmem:(r211968,rb212992,t0,tb212991,f1024,w0,o0,bl0,d2908)
udp   ESTAB  0      0      [fe80::1]%eth0:546     [fe80::2]:547   ino:16
\t skmem:(r0,rb4096,t0,tb4096,f0,w0,o0,bl0,d0)
udp   UNCONN 9      0            0.0.0.0:9          0.0.0.0:*     ino:18
tcp   LISTEN 2      1                  *:8080             *:*     ino:17 sk:49ea6 <->
\t skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d24) bbr cwnd:10 unacked:2
tcp   ESTAB  7      9           10.9.0.1:8080      10.9.0.2:36008 timer:(on,200ms,0) ino:0 <->
\t skmem:(r0,rb131072,t0,tb69120,f0,w0,o0,bl0,d5) ts sack cubic wscale:10,10 rto:204 rtt:0.022/0.011 mss:1448 cwnd:10 bytes_acked:77 send 5265454545bps lastsnd:3408 pacing_rate 800bps busy:12ms rwnd_limited:3ms(25.0%) retrans:1/4 rcv_space:14480 minrtt:0.02
tcp   TIME-WAIT 0   0           10.9.0.1:8080      10.9.0.2:36010 timer:(timewait,59sec,0) ino:0 sk:5
";

    fn read(text: &str) -> Snapshot {
        let mut into = Snapshot::default();
        sockets(text.as_bytes(), &mut into);
        into
    }

    #[test]
    fn sockets_are_read_with_their_memory_and_owners() {
        let s = read(OUTPUT);
        let udp = &s.sockets.udp[0];
        assert_eq!((udp.local.to_string().as_str(), udp.remote), ("0.0.0.0:5000", None));
        assert_eq!(
            (udp.rmem, udp.rcvbuf, udp.sndbuf, udp.drops),
            (211_968, 212_992, 212_991, 2908)
        );
        assert_eq!((udp.owner.uid, udp.owner.inode), (33, 15));
        let connected = &s.sockets.udp[1];
        assert_eq!(connected.local.to_string(), "[fe80::1]:546");
        assert_eq!(connected.remote.map(|r| r.port()), Some(547));
        let tap = &s.sockets.taps[0];
        assert_eq!((tap.dev.as_deref(), tap.protocol, tap.drops), (Some("va"), 3, Some(2966)));
        assert_eq!(tap.owner.process, Some((20868, "tcpdump".into())));
        let listener = &s.sockets.listeners[0];
        assert_eq!((listener.waiting, listener.backlog, listener.drops), (2, 1, 24));
        assert_eq!(listener.local.to_string(), "[::]:8080");
        let states: Vec<_> = s.sockets.tcp_states.iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(states, [("ESTABLISHED", 1), ("LISTEN", 1), ("TIME_WAIT", 1)]);
        let [tcp] = &s.sockets.tcp[..] else { panic!("{:?}", s.sockets.tcp) };
        assert_eq!((tcp.recv_q, tcp.send_q, tcp.cong.as_str()), (7, 9, "cubic"));
        assert_eq!(tcp.info.source(), "sos_commands/networking/ss_-peaonmi:13");
        for (name, want) in [
            ("rtt", 22),
            ("rttvar", 11),
            ("min_rtt", 20),
            ("rto", 204_000),
            ("snd_mss", 1448),
            ("bytes_acked", 77),
            ("busy_time", 12_000),
            ("rwnd_limited", 3000),
            ("retrans", 1),
            ("total_retrans", 4),
            ("pacing_rate", 100),
            ("rcv_space", 14_480),
            ("rcvbuf", 131_072),
            ("drops", 5),
        ] {
            assert_eq!(tcp.info.get(name), Some(want), "{name}");
        }
        assert!(s.notes.is_empty(), "{:?}", s.notes);
    }

    #[test]
    fn what_is_no_socket_is_noted_and_left_out() {
        let s = read(
            "Netid State\nudp UNCONN x 0 a b\nCannot open netlink socket: Permission denied\n",
        );
        assert!(s.sockets.udp.is_empty() && s.sockets.tcp_states.is_empty());
        assert_eq!(s.notes.len(), 2, "{:?}", s.notes);
        for odd in
            ["tcp LISTEN 0 1 nowhere 0.0.0.0:*\n", "p_raw UNCONN 0 0 *:../x *\n", "\t skmem:(r1)\n"]
        {
            let s = read(odd);
            assert!(s.sockets.listeners.is_empty() && s.sockets.taps.is_empty(), "{odd}");
        }
    }
}
