//! Listening sockets: the accept queue, connection requests and SYN cookies.

use linerate_core::table::Stage;

use super::look::{self, by, ext, owner, sysctl, tcp};
use super::{Check, Rule};
use crate::finding::{Finding, Risk};
use crate::window::{Cx, Sum, Window};

/// R48 to R50.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R48",
        name: "accept-queue-overflow",
        title: "connections are refused because a listener's accept queue is full",
        stage: Stage::SockQueue,
        evidence: "`ListenOverflows` grows, at least `loss_ratio` of the connections; the listener \
            is the one whose `drops` grew most.",
        causes: "The queue is at its limit all the time: the program does not accept, or too \
            slowly. It is shorter in between: bursts, and the limit is the smaller of the \
            program's backlog and `net.core.somaxconn`.",
        advice: "A program that accepts faster; for bursts a larger backlog in the program, and a \
            `net.core.somaxconn` that allows it. The program must listen anew.",
        traps: "No tool that watches drops sees it. `tcp_abort_on_overflow` sends no reset here. \
            Clients see connects of 1 and 3 seconds. The queue holds one more than its limit.",
        cites: &[
            "net/ipv4/tcp_ipv4.c tcp_conn_request",
            "Documentation/networking/snmp_counter.rst TcpExtListenOverflows",
            "measured: backlog 4, 20 clients, 45 drops",
        ],
        suppresses: &["R49", "R50", "R55", "R56", "R65"],
        check: Check::Host(overflow),
    },
    Rule {
        id: "R49",
        name: "listen-drop",
        title: "connection requests are dropped, and not by a full accept queue",
        stage: Stage::Transport,
        evidence: "`ListenDrops` grows by more than `ListenOverflows`, at least `loss_ratio` of \
            the connections.",
        causes: "SYN cookies are off and half-open connections fill three quarters of \
            `net.ipv4.tcp_max_syn_backlog`; or there was no route or no memory for the answer.",
        advice: "`net.ipv4.tcp_syncookies` 1.",
        traps: "`TCPReqQFullDrop` stays 0 in the first case.",
        cites: &[
            "net/ipv4/tcp_input.c tcp_conn_request",
            "measured: cookies off, 193 of 200 dropped",
        ],
        suppresses: &["R55", "R56", "R65"],
        check: Check::Host(drops),
    },
    Rule {
        id: "R50",
        name: "syn-cookies",
        title: "more connections are half open than the queue holds, so SYN cookies are sent",
        stage: Stage::Transport,
        evidence: "`TCPReqQFullDoCookies` grows.",
        causes: "Few of the cookies come back (`SyncookiesRecv`): a flood. Most do: a burst of \
            clients.",
        advice: "Burst: a larger backlog of the program and `net.core.somaxconn`. Flood: filters \
            before this host; cookies do their work.",
        traps: "With cookies on, the limit is the program's backlog, not `tcp_max_syn_backlog`. A \
            connection by cookie has fewer options.",
        cites: &[
            "net/ipv4/tcp_input.c tcp_syn_flood_action",
            "measured: backlog 64, 135 of 200 by cookie",
        ],
        suppresses: &["R56", "R65"],
        check: Check::Host(cookies),
    },
];

fn opened(w: &Window<'_>) -> Option<Sum> {
    tcp(w, "PassiveOpens")
}

fn overflow(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let mut lost = cx.lossy(cx.limits.loss_ratio, |w| ext(w, "ListenOverflows"), opened)?;
    let w = cx.whole();
    let now = cx.now();
    let name = "net.core.somaxconn";
    let somaxconn = now.sysctl(name);
    let dropped = w.listen_drops().into_iter().next();
    if let Some((_, drops)) = &dropped {
        lost.evidence.push(drops.evidence.clone());
    }
    let full = now.sockets.listeners.iter().filter(|l| l.backlog > 0 && l.waiting >= l.backlog);
    let listener = dropped.map(|(l, _)| l).or_else(|| full.max_by_key(|l| l.waiting));
    let Some(listener) = listener else {
        return Some(
            rule.found(cx, "")
                .loss(&lost)
                .sysctl(name)
                .because("Which listener it was could not be seen.")
                .suggest("Look for a listener whose Recv-Q is at its Send-Q: `ss -ltn`.")
                .advise_if("Allow longer queues; programs must listen anew.", raised(cx), Risk::Mem)
                .done(),
        );
    };
    let is = |l: &&crate::snapshot::Listener| {
        l.owner.inode == listener.owner.inode && l.local == listener.local
    };
    let pinned = cx.windows.iter().filter_map(|w| w.to.sockets.listeners.iter().find(is));
    let pinned: Vec<bool> = pinned.map(|l| l.waiting >= l.backlog).collect();
    let stuck = pinned.iter().filter(|full| **full).count() * 2 > pinned.len();
    let found = rule
        .found(cx, format!("tcp {}", listener.local))
        .loss(&lost)
        .is("netlink/sock_diag/tcp", "waiting", u64::from(listener.waiting))
        .is("netlink/sock_diag/tcp", "backlog", u64::from(listener.backlog))
        .sysctl(name)
        .because(format!("It belongs to {}.", owner(&listener.owner)));
    let by_host = somaxconn.is_some_and(|most| i64::from(listener.backlog) >= most);
    let found = match stuck {
        true => found
            .because("Its queue is full all the time: the program does not accept, or too slowly.")
            .suggest(
                "Look at the program first: it is stopped, waits, or needs more threads that \
                accept.",
            ),
        false => found.because("Its queue has room in between: bursts are longer than it."),
    };
    let found = match by_host {
        true => found.because("Its limit is `net.core.somaxconn`.").advise_if(
            "Allow longer queues; the program must listen anew.",
            raised(cx),
            Risk::Mem,
        ),
        false => found
            .because(format!("The program asked for {} itself.", listener.backlog))
            .suggest("Let the program ask for a longer queue: the backlog of listen()."),
    };
    Some(found.done())
}

fn raised(cx: &Cx<'_>) -> Option<crate::change::Change> {
    let name = "net.core.somaxconn";
    let now = cx.now().sysctl(name)?;
    let next = if now < 4096 { 4096 } else { now.saturating_mul(2).min(65_535) };
    (next > now).then(|| sysctl(name, next))
}

fn drops(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let others = |w: &Window<'_>| {
        let overflows = by(ext(w, "ListenOverflows"));
        ext(w, "ListenDrops").map(|sum| sum.without(overflows))
    };
    let lost = cx.lossy(cx.limits.loss_ratio, others, opened)?;
    let name = "net.ipv4.tcp_syncookies";
    let off = cx.now().sysctl(name) == Some(0);
    let found = rule.found(cx, "").loss(&lost).sysctl(name).sysctl("net.ipv4.tcp_max_syn_backlog");
    let full = by(ext(&cx.whole(), "TCPReqQFullDrop"));
    let found = match off {
        true => found
            .because("SYN cookies are off, so half-open connections fill the queue.")
            .advise("Answer with cookies when it is full.", sysctl(name, 1), Risk::Safe),
        false if full.saturating_mul(2) >= lost.by => found
            .shows_if(ext(&cx.whole(), "TCPReqQFullDrop"))
            .because("Half-open connections fill the queue, and no cookies are sent.")
            .advise_if(
                "Let more connections be half open.",
                look::more(cx, "net.ipv4.tcp_max_syn_backlog", 4, 65_536),
                Risk::Mem,
            )
            .suggest("If most never complete, it is a flood: filter it before this host."),
        false => found
            .because("There was no route or no memory for the answer.")
            .suggest("Look at the routes back to the clients, and at memory."),
    };
    Some(found.done())
}

fn cookies(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let sent = cx.lossy(cx.limits.loss_ratio, |w| ext(w, "TCPReqQFullDoCookies"), opened)?;
    let w = cx.whole();
    let back = ext(&w, "SyncookiesRecv");
    let flood = by(back.clone()).saturating_mul(2) < sent.by;
    let found = rule
        .found(cx, "")
        .warning()
        .shows(&sent)
        .shows_if(back)
        .shows_if(ext(&w, "EmbryonicRsts"))
        .sysctl("net.core.somaxconn");
    let found = match flood {
        true => found
            .because("Few of the cookies come back: a flood of requests with forged senders.")
            .suggest("Filter before this host, or with SYNPROXY; cookies protect it meanwhile."),
        false => found
            .because("Most cookies come back: many clients at once.")
            .suggest("Let the program ask for a longer queue: the backlog of listen().")
            .advise_if("Allow longer queues; programs must listen anew.", raised(cx), Risk::Mem),
    };
    Some(found.done())
}
