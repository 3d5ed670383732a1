//! The size of TCP's buffers.

use linerate_core::table::Stage;

use super::look::{self, owner};
use super::tcp::{about, info};
use super::{Check, Rule};
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::TcpSocket;
use crate::window::{Cx, Goal};

/// R54, R82.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R54",
        name: "bdp-limited",
        title: "a connection is as fast as its buffers let it be",
        stage: Stage::Send,
        evidence: "A connection without loss waited for its send buffer for `window_share` of its \
            busy time, and that buffer is at the maximum of `net.ipv4.tcp_wmem`; or its receive \
            buffer is at that of `net.ipv4.tcp_rmem` and is filled within a round trip.",
        causes: "Bandwidth times delay is more than the maximum of the buffers.",
        advice: "Twice the third value of `net.ipv4.tcp_wmem` or `net.ipv4.tcp_rmem`.",
        traps: "Large buffers take memory and can fill queues on the way. Old guides set less than \
            today's defaults.",
        cites: &["net/ipv4/tcp.c tcp_chrono_start", "RFC 7323 section 1.1"],
        suppresses: &[],
        check: Check::Host(bdp),
    },
    Rule {
        id: "R82",
        name: "autotuning-off",
        title: "a program fixes the receive buffer of its connections",
        stage: Stage::SockQueue,
        evidence: "Twenty or more connections of one program have the same receive buffer, which \
            is no value of `net.ipv4.tcp_rmem`, and one has over half of it unread.",
        causes: "SO_RCVBUF in the program switches the growth of the buffer off.",
        advice: "Take SO_RCVBUF out of the program.",
        traps: "A fixed size was right for old kernels and short paths.",
        cites: &["tcp(7) SO_RCVBUF", "net/ipv4/tcp_input.c tcp_rcv_space_adjust"],
        suppresses: &[],
        check: Check::Host(fixed),
    },
];

fn bdp(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    if cx.goal != Goal::Throughput {
        return None;
    }
    let now = cx.now();
    let most = |name: &str| now.sysctl_list(name)?.get(2).copied().filter(|n| *n > 0);
    let lossless =
        |s: &&TcpSocket| info(s, "total_retrans") == 0 && info(s, "busy_time") >= 1_000_000;
    let share = cx.limits.window_share;
    if let Some(most) = most("net.ipv4.tcp_wmem") {
        let waits = |s: &&TcpSocket| {
            info(s, "sndbuf_limited") as f64 >= share * info(s, "busy_time") as f64
                && info(s, "sndbuf") as i64 >= most
        };
        let socket = now.sockets.tcp.iter().filter(lossless).find(waits);
        if let Some(s) = socket {
            return Some(
                rule.found(cx, format!("tcp {}", s.remote))
                    .state(Severity::Info)
                    .is("netlink/sock_diag/tcp", "sndbuf_limited (µs)", info(s, "sndbuf_limited"))
                    .is("netlink/sock_diag/tcp", "busy_time (µs)", info(s, "busy_time"))
                    .sysctl("net.ipv4.tcp_wmem")
                    .because(format!("{}: its send buffer is at the maximum.", about(s)))
                    .advise_if(
                        "Let send buffers grow further.",
                        look::more_max(cx, "net.ipv4.tcp_wmem", 2),
                        Risk::Mem,
                    )
                    .done(),
            );
        }
    }
    let most = most("net.ipv4.tcp_rmem")?;
    // `rcv_space` is what the program read in a round trip.
    let filled = |s: &&TcpSocket| {
        let unread = u64::from(s.recv_q).saturating_mul(2) >= info(s, "rcvbuf");
        info(s, "rcvbuf") as i64 >= most
            && !unread
            && info(s, "rcv_space").saturating_mul(2) >= info(s, "rcvbuf")
    };
    let s = now.sockets.tcp.iter().find(filled)?;
    Some(
        rule.found(cx, format!("tcp {}", s.remote))
            .state(Severity::Info)
            .is("netlink/sock_diag/tcp", "rcvbuf", info(s, "rcvbuf"))
            .is("netlink/sock_diag/tcp", "rcv_space", info(s, "rcv_space"))
            .sysctl("net.ipv4.tcp_rmem")
            .because(format!(
                "{}: its receive buffer is at the maximum and is read within each round trip.",
                about(s)
            ))
            .advise_if(
                "Let receive buffers grow further.",
                look::more_max(cx, "net.ipv4.tcp_rmem", 2),
                Risk::Mem,
            )
            .done(),
    )
}

fn fixed(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let now = cx.now();
    let values = now.sysctl_list("net.ipv4.tcp_rmem")?;
    let mut by_size: std::collections::BTreeMap<(u64, u32), Vec<&TcpSocket>> = Default::default();
    for s in &now.sockets.tcp {
        let pid = s.owner.process.as_ref().map(|(pid, _)| *pid);
        if let (Some(size), Some(pid)) = (s.info.get("rcvbuf"), pid)
            && !values.contains(&(size as i64))
        {
            by_size.entry((size, pid)).or_default().push(s);
        }
    }
    let half = |s: &&&TcpSocket| u64::from(s.recv_q).saturating_mul(2) >= info(s, "rcvbuf");
    let ((size, _), sockets) = by_size
        .iter()
        .filter(|(_, s)| s.len() >= 20 && s.iter().any(|s| half(&s)))
        .max_by_key(|(_, s)| s.len())?;
    let first = sockets.first()?;
    Some(
        rule.found(cx, format!("tcp {}", first.local))
            .state(Severity::Info)
            .is("netlink/sock_diag/tcp", "rcvbuf", *size)
            .is("netlink/sock_diag/tcp", "connections of that size", sockets.len() as u64)
            .because(format!("{} gives all of them the same buffer.", owner(&first.owner)))
            .suggest("Take SO_RCVBUF out of the program, so that buffers grow with the path.")
            .done(),
    )
}
