//! TCP sockets: their memory, readers that are slow, what arrives wrong.

use linerate_core::table::Stage;

use super::look::{self, by, ext, noise, owner, tcp};
use super::{Check, Rule, csum};
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::TcpSocket;
use crate::window::{Cx, Sum, Window};

/// R51 to R53, R63, R64, R66.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R51",
        name: "tcp-mem-pressure",
        title: "TCP has used up its memory",
        stage: Stage::SockQueue,
        evidence: "`TCPMemoryPressures` of TcpExt grows; or TCP holds at least the second value of \
            `net.ipv4.tcp_mem`.",
        causes: "Many connections with full buffers; data that its programs do not read; or \
            orphaned connections.",
        advice: "Find the sockets that hold most; smaller maxima of `tcp_rmem` and `tcp_wmem`, or \
            larger `net.ipv4.tcp_mem`.",
        traps: "`tcp_mem` is in pages and for the whole host, all its namespaces. Three equal \
            values are wrong.",
        cites: &[
            "Documentation/networking/ip-sysctl.rst tcp_mem",
            "net/ipv4/tcp.c tcp_enter_memory_pressure",
        ],
        suppresses: &["R53"],
        check: Check::Host(memory),
    },
    Rule {
        id: "R52",
        name: "receiver-slow",
        title: "a program reads too slowly, so its peer has to wait",
        stage: Stage::SockQueue,
        evidence: "`TCPToZeroWindowAdv` grows and a connection has at least half of its receive \
            buffer unread; or `TCPFromZeroWindowAdv` grows and a connection waited for its peer's \
            window for `window_share` of its busy time.",
        causes: "The program: stopped, waiting for something else, or too slow. Not the network.",
        advice: "Look at the program.",
        traps: "A larger buffer only puts it off. `TCPWantZeroWindowAdv` is about the buffer.",
        cites: &[
            "Documentation/networking/snmp_counter.rst TcpExtTCPToZeroWindowAdv",
            "measured: rwnd_limited 95.7 %",
        ],
        suppresses: &["R54"],
        check: Check::Host(slow_reader),
    },
    Rule {
        id: "R53",
        name: "tcp-rcvbuf-prune",
        title: "TCP throws away segments that its receive buffer does not hold",
        stage: Stage::SockQueue,
        evidence: "`RcvPruned`, `OfoPruned`, `TCPOFODrop`, `TCPRcvQDrop` or `TCPZeroWindowDrop` of \
            TcpExt grows, at least `loss_ratio` of the segments.",
        causes: "A program fixed its buffer with SO_RCVBUF, so that it does not grow; or \
            `net.ipv4.tcp_rmem` ends too early; or small segments out of order flood it.",
        advice: "No SO_RCVBUF in the program; a larger third value of `net.ipv4.tcp_rmem`.",
        traps: "`PruneCalled` alone is no loss: room was made. The reason of such drops is called \
            PROTO_MEM.",
        cites: &[
            "net/ipv4/tcp_input.c tcp_prune_queue",
            "measured: SO_RCVBUF 32 KiB, 322 of 400 lost",
        ],
        suppresses: &["R55", "R56", "R82"],
        check: Check::Host(prune),
    },
    Rule {
        id: "R63",
        name: "tcp-backlog-drop",
        title: "segments are dropped while the program holds the socket",
        stage: Stage::SockQueue,
        evidence: "`TCPBacklogDrop` of TcpExt grows, at least `loss_ratio` of the segments.",
        causes: "While a program is inside a call on the socket, segments wait in a queue of their \
            own; it is as large as the buffers.",
        advice: "A larger receive buffer, shorter calls.",
        traps: "The socket's backlog is not that of listen() nor that of the processor.",
        cites: &["net/ipv4/tcp_ipv4.c tcp_add_backlog"],
        suppresses: &["R55", "R56"],
        check: Check::Host(backlog),
    },
    Rule {
        id: "R64",
        name: "paws-rejects",
        title: "segments are refused for their time stamps",
        stage: Stage::Transport,
        evidence: "`PAWSEstab` or `TSEcrRejected` of TcpExt grows by `noise_per_s` or more, at \
            least `noise_ratio` of the segments.",
        causes: "A NAT or a load balancer mixes the time stamps of several hosts; or very late \
            segments arrive.",
        advice: "Mend it there; `net.ipv4.tcp_timestamps` 0 as a test only.",
        traps: "Without time stamps there is no protection against old segments, and no \
            measurement of the round trip for each segment.",
        cites: &["RFC 7323 section 5", "net/ipv4/tcp_input.c tcp_validate_incoming"],
        suppresses: &[],
        check: Check::Host(paws),
    },
    Rule {
        id: "R66",
        name: "tcp-checksum",
        title: "segments of TCP arrive with a wrong checksum",
        stage: Stage::Transport,
        evidence: "`InCsumErrors` of Tcp grows by `noise_per_s` or more, at least `noise_ratio` of \
            the segments.",
        causes: csum::CAUSES,
        advice: csum::ADVICE,
        traps: "They are counted in `InErrs` as well.",
        cites: &["net/ipv4/tcp_ipv4.c tcp_v4_rcv"],
        suppresses: &["R55", "R56"],
        check: Check::Host(wrong),
    },
];

fn segments(w: &Window<'_>) -> Option<Sum> {
    tcp(w, "InSegs")
}

/// Whose connection it is, from where to where.
pub(super) fn about(socket: &TcpSocket) -> String {
    format!("{} from {} to {}", owner(&socket.owner), socket.local, socket.remote)
}

/// A field of `struct tcp_info` or of the socket's memory, 0 if it is not there.
pub(super) fn info(socket: &TcpSocket, name: &str) -> u64 {
    socket.info.get(name).unwrap_or(0)
}

fn memory(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let now = cx.now();
    // It is counted once, when it begins.
    let entered = ext(&cx.whole(), "TCPMemoryPressures").filter(|sum| sum.by > 0);
    let pages = look::gauge(now.sockstat.get("TCP"), "mem");
    let limit =
        now.sysctl_list("net.ipv4.tcp_mem").and_then(|v| v.get(1).copied()).filter(|n| *n > 0);
    let over = pages.zip(limit).is_some_and(|(pages, limit)| pages >= limit as u64);
    let entered = entered.filter(|_| over || !cx.whole().is_lifetime());
    let found = rule.found(cx, "");
    let found = match &entered {
        Some(entered) => found.shows(entered).at(Severity::Critical),
        None if over => found.state(Severity::Critical),
        None => return None,
    };
    let found = match pages {
        Some(pages) => found.is("/proc/net/sockstat", "TCP mem (pages)", pages),
        None => found,
    };
    let holds = now
        .sockets
        .tcp
        .iter()
        .max_by_key(|s| info(s, "rmem").saturating_add(info(s, "wmem_queued")));
    let found = match holds {
        Some(s) => found.because(format!("Of the connections seen, most is held by {}.", about(s))),
        None => found.because("Sockets of other namespaces count as well."),
    };
    Some(
        found
            .sysctl("net.ipv4.tcp_mem")
            .suggest("Find the programs that do not read or send too much at once.")
            .advise_if("Allow more pages.", look::more_of_all(cx, "net.ipv4.tcp_mem", 2), Risk::Mem)
            .done(),
    )
}

fn slow_reader(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    if cx.whole().is_lifetime() {
        return None;
    }
    let now = cx.now();
    let to = cx.grew(|w| ext(w, "TCPToZeroWindowAdv"));
    let unread = |s: &&TcpSocket| {
        let (holds, may) = (info(s, "rmem").max(u64::from(s.recv_q)), info(s, "rcvbuf"));
        may > 0 && holds.saturating_mul(2) >= may
    };
    let full = now.sockets.tcp.iter().filter(unread).max_by_key(|s| s.recv_q);
    if let Some((to, socket)) = to.zip(full) {
        return Some(
            rule.found(cx, format!("tcp {}", socket.local))
                .warning()
                .shows(&to)
                .is("netlink/sock_diag/tcp", "recv_q", u64::from(socket.recv_q))
                .is("netlink/sock_diag/tcp", "rcvbuf", info(socket, "rcvbuf"))
                .because(format!(
                    "{} has its receive buffer full: the program on this host does not read.",
                    about(socket)
                ))
                .suggest(
                    "Look at the program: it is stopped, waits for something else, or is too slow.",
                )
                .done(),
        );
    }
    let from = cx.grew(|w| ext(w, "TCPFromZeroWindowAdv"))?;
    let waits = |s: &&TcpSocket| {
        let busy = info(s, "busy_time");
        busy > 0
            && info(s, "rwnd_limited") as f64 >= cx.limits.window_share * busy as f64
            && s.send_q > 0
    };
    let socket = now.sockets.tcp.iter().filter(waits).max_by_key(|s| info(s, "rwnd_limited"))?;
    let share = info(socket, "rwnd_limited") as f64 / info(socket, "busy_time") as f64;
    Some(
        rule.found(cx, format!("tcp {}", socket.remote))
            .warning()
            .shows(&from)
            .is("netlink/sock_diag/tcp", "rwnd_limited", look::percent(share))
            .because(format!("{}: the program at the other end does not read.", about(socket)))
            .suggest("Look at the program at the other end.")
            .done(),
    )
}

fn prune(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let lost = |w: &Window<'_>| {
        let names = ["RcvPruned", "OfoPruned", "TCPOFODrop", "TCPRcvQDrop", "TCPZeroWindowDrop"];
        Sum::same(names.map(|name| w.mib("TcpExt", name)))
    };
    let lost = cx.lossy(cx.limits.loss_ratio, lost, segments)?;
    let now = cx.now();
    let rmem = now.sysctl_list("net.ipv4.tcp_rmem");
    let socket =
        now.sockets.tcp.iter().filter(|s| info(s, "drops") > 0).max_by_key(|s| info(s, "drops"));
    let found = rule.found(cx, "").loss(&lost).sysctl("net.ipv4.tcp_rmem");
    let Some(socket) = socket else {
        return Some(
            found
                .because("Which connection it was could not be seen.")
                .suggest("Look for programs that set SO_RCVBUF or do not read.")
                .advise_if(
                    "Let receive buffers grow further.",
                    look::more_max(cx, "net.ipv4.tcp_rmem", 2),
                    Risk::Mem,
                )
                .done(),
        );
    };
    let size = info(socket, "rcvbuf") as i64;
    let most = rmem.and_then(|v| v.get(2).copied()).unwrap_or(i64::MAX);
    let found = found
        .is("netlink/sock_diag/tcp", "rcvbuf", info(socket, "rcvbuf"))
        .is("netlink/sock_diag/tcp", "drops", info(socket, "drops"))
        .because(format!("It is {}.", about(socket)));
    let found = match size >= most {
        true => found.because("Its buffer has grown as far as it may.").advise_if(
            "Let receive buffers grow further.",
            look::more_max(cx, "net.ipv4.tcp_rmem", 2),
            Risk::Mem,
        ),
        false => found
            .because(
                "Its buffer is below the maximum and did not grow: the program fixed it \
                (SO_RCVBUF), or does not read.",
            )
            .suggest("Take SO_RCVBUF out of the program, or ask for more; look whether it reads."),
    };
    Some(found.done())
}

fn backlog(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let lost = cx.lossy(cx.limits.loss_ratio, |w| ext(w, "TCPBacklogDrop"), segments)?;
    Some(
        rule.found(cx, "")
            .loss(&lost)
            .sysctl("net.ipv4.tcp_rmem")
            .because("A program was inside a long call on the socket while segments arrived.")
            .advise_if(
                "Let receive buffers grow further.",
                look::more_max(cx, "net.ipv4.tcp_rmem", 2),
                Risk::Mem,
            )
            .suggest("Let the program read less at a time.")
            .done(),
    )
}

fn paws(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let of = |w: &Window<'_>| Sum::of(["PAWSEstab", "TSEcrRejected"].map(|n| w.mib("TcpExt", n)));
    let lost = noise(cx, of, segments)?;
    Some(
        rule.found(cx, "")
            .stray(&lost)
            .sysctl("net.ipv4.tcp_timestamps")
            .because(
                "Their time stamps are older than what came before, or echo what was never sent.",
            )
            .suggest(
                "Look for a NAT or a load balancer between this host and the clients that mixes \
                time stamps.",
            )
            .done(),
    )
}

fn wrong(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    Some(csum::found(rule, cx, &noise(cx, |w| tcp(w, "InCsumErrors"), segments)?))
}

/// Segments that this host threw away itself, for rules about retransmissions.
pub(super) fn local_drops(w: &Window<'_>) -> u64 {
    by(ext(w, "TCPRetransFail"))
}
