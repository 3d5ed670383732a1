//! Connecting and closing: local ports, TIME-WAIT, orphans, failed attempts.

use linerate_core::table::Stage;

use super::look::{self, by, ext, sysctl, tcp};
use super::{Check, Rule};
use crate::finding::{Finding, Risk, Severity};
use crate::window::{Cx, Sum, Window};

/// R58, R59, R65.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R58",
        name: "orphans",
        title: "many connections are closed by their programs and not yet by TCP",
        stage: Stage::Transport,
        evidence: "`TCPAbortOnMemory` of TcpExt grows; or there are `orphan_fill` of \
            `net.ipv4.tcp_max_orphans` orphans.",
        causes: "Peers that vanish or do not answer after the program has closed.",
        advice: "A shorter `net.ipv4.tcp_fin_timeout`, fewer `net.ipv4.tcp_orphan_retries`.",
        traps: "It is counted for the whole host.",
        cites: &[
            "Documentation/networking/ip-sysctl.rst tcp_max_orphans",
            "net/ipv4/tcp.c tcp_check_oom",
        ],
        suppresses: &[],
        check: Check::Host(orphans),
    },
    Rule {
        id: "R59",
        name: "ports-and-timewait",
        title: "closed connections or used ports reach their limit",
        stage: Stage::Send,
        evidence: "Connections to one remote address and port use at least `ports_fill` of \
            `net.ipv4.ip_local_port_range`; or `TCPTimeWaitOverflow` of TcpExt grows.",
        causes: "Ports: most are in TIME_WAIT, so connections are opened and closed too often; or \
            most are established, so there are too many. TIME-WAIT: more connections are closed \
            here in a minute than `net.ipv4.tcp_max_tw_buckets`.",
        advice: "Keep connections and use them again. Ports: a wider range, \
            `net.ipv4.tcp_tw_reuse` 1, more local addresses. TIME-WAIT: a larger \
            `net.ipv4.tcp_max_tw_buckets`.",
        traps: "No counter moves when there is no port left: programs see EADDRNOTAVAIL. \
            Connection tracking may hold ports for longer than TCP does. A connection that finds \
            no place in TIME-WAIT is closed at once: late segments get a reset. `tcp_tw_recycle` \
            broke clients behind NAT and is gone.",
        cites: &[
            "net/ipv4/inet_hashtables.c __inet_hash_connect",
            "net/ipv4/tcp_minisocks.c tcp_time_wait",
            "measured: 16 ports, 30 connects, 14 errors",
            "measured: 2 places, 20 closes, 18 overflows",
        ],
        suppresses: &["R65"],
        check: Check::Host(ports_or_places),
    },
    Rule {
        id: "R65",
        name: "connects-fail",
        title: "connections that this host opens fail",
        stage: Stage::Transport,
        evidence: "`AttemptFails` of Tcp grows by at least `connect_ratio` of the connections \
            tried, or `TCPSynRetrans` does; once in a second or more.",
        causes: "Resets come back: the port is closed there. Requests are sent again and again: a \
            filter on the way, or the other end's accept queue is full.",
        advice: "Look at the other end.",
        traps: "A program that tries IPv6 first fails once for each connection where there is \
            none.",
        cites: &[
            "RFC 4022 tcpAttemptFails",
            "Documentation/networking/snmp_counter.rst TcpExtTCPSynRetrans",
        ],
        suppresses: &["R56"],
        check: Check::Host(connects),
    },
];

fn orphans(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let now = cx.now();
    let killed = cx.grew(|w| ext(w, "TCPAbortOnMemory")).filter(|_| !cx.whole().is_lifetime());
    let count = look::gauge(now.sockstat.get("TCP"), "orphan");
    let most = now.sysctl("net.ipv4.tcp_max_orphans").filter(|n| *n > 0);
    let fill = count.zip(most).map(|(count, most)| count as f64 / most as f64);
    let near = fill.is_some_and(|fill| fill >= cx.limits.orphan_fill);
    let found = rule.found(cx, "");
    let found = match &killed {
        Some(killed) => found.loss(killed).because("Connections were ended for want of memory."),
        None if near => found.state(Severity::Warning).because("There is little room left."),
        None => return None,
    };
    let found = match count {
        Some(count) => found.is("/proc/net/sockstat", "TCP orphan", count),
        None => found,
    };
    let name = "net.ipv4.tcp_fin_timeout";
    let long = now.sysctl(name).is_some_and(|s| s > 30);
    Some(
        found
            .sysctl("net.ipv4.tcp_max_orphans")
            .sysctl(name)
            .advise_if(
                "Wait less for peers that do not close.",
                long.then(|| sysctl(name, 30)),
                Risk::Safe,
            )
            .advise_if(
                "Ask silent peers less often.",
                (now.sysctl("net.ipv4.tcp_orphan_retries") == Some(0))
                    .then(|| sysctl("net.ipv4.tcp_orphan_retries", 3)),
                Risk::Safe,
            )
            .suggest("Find the peers that vanish.")
            .done(),
    )
}

fn ports_or_places(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    ports(rule, cx).or_else(|| timewait(rule, cx))
}

fn ports(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let now = cx.now();
    let name = "net.ipv4.ip_local_port_range";
    let range = now.sysctl_list(name)?;
    let (from, to) = (*range.first()?, *range.get(1)?);
    let all = to.checked_sub(from)?.checked_add(1).filter(|n| *n > 0)?;
    let used = now.sockets.port_use.iter().max_by_key(|p| p.ports)?;
    if f64::from(used.ports) < cx.limits.ports_fill * all as f64 {
        return None;
    }
    let waiting = used.time_wait.saturating_mul(2) > used.ports;
    let found = rule
        .found(cx, format!("tcp {}", used.remote))
        .titled("local ports towards it are nearly used up")
        .state(Severity::Critical)
        .is("netlink/sock_diag/tcp", "ports in use", u64::from(used.ports))
        .is("netlink/sock_diag/tcp", "of them in TIME_WAIT", u64::from(used.time_wait))
        .sysctl(name)
        .because(format!("{} of {all} ports from {} are in use.", used.ports, used.local));
    let reuse = "net.ipv4.tcp_tw_reuse";
    let found = match waiting {
        true => found
            .because("Most are in TIME_WAIT: connections are opened and closed too often.")
            .advise_if(
                "Use ports in TIME_WAIT again for new connections.",
                now.sysctl(reuse).filter(|v| *v != 1).map(|_| sysctl(reuse, 1)),
                Risk::Safe,
            ),
        false => found.because("Most are open: there are too many connections to one service."),
    };
    let wide = from > 1024 || to < 65_535;
    let wider = wide.then(|| sysctl(name, format!("{} 65535", from.min(1024))));
    Some(
        found
            .advise_if(
                "Allow more local ports; keep those of services in \
                `net.ipv4.ip_local_reserved_ports`.",
                wider,
                Risk::Safe,
            )
            .suggest("Keep connections and use them again, or add local addresses.")
            .done(),
    )
}

fn timewait(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let closed = |w: &Window<'_>| Sum::of(["TW", "TWRecycled"].map(|n| w.mib("TcpExt", n)));
    let lost = cx.lossy(cx.limits.loss_ratio, |w| ext(w, "TCPTimeWaitOverflow"), closed)?;
    let name = "net.ipv4.tcp_max_tw_buckets";
    let now = cx.now().sysctl(name);
    let next = now.map(|n| n.saturating_mul(2).clamp(16_384, 1 << 20)).filter(|n| Some(*n) > now);
    Some(
        rule.found(cx, "")
            .titled("the table of connections in TIME-WAIT is full")
            .warning()
            .shows(&lost)
            .sysctl(name)
            .because(
                "Connections are closed without the wait that protects the next one on the same \
                ports.",
            )
            .advise_if("Make room for more of them.", next.map(|n| sysctl(name, n)), Risk::Mem)
            .suggest("Keep connections and use them again.")
            .done(),
    )
}

fn connects(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let w = cx.whole();
    if w.is_lifetime() {
        return None;
    }
    let tried = |w: &Window<'_>| tcp(w, "ActiveOpens");
    let fails = cx.grew(|w| tcp(w, "AttemptFails"));
    let again = cx.grew(|w| ext(w, "TCPSynRetrans"));
    let opened = by(tried(&w)).max(1) as f64;
    let enough = |sum: &Option<Sum>| {
        sum.as_ref()
            .is_some_and(|s| s.per_s >= 1.0 && s.by as f64 >= cx.limits.connect_ratio * opened)
    };
    // Without connections of its own, attempts that fail are those of others to this host.
    if by(tried(&w)) == 0 || !(enough(&fails) || enough(&again)) {
        return None;
    }
    let found = rule.found(cx, "").warning();
    let found = if by(again.clone()) > by(fails.clone()) {
        found
            .shows_if(again)
            .shows_if(fails)
            .because(
                "Requests are not answered: a filter on the way, or the other end's queue is full.",
            )
            .suggest("See to whom: `ss -tn state syn-sent`.")
    } else {
        found
            .shows_if(fails)
            .shows_if(again)
            .because("Requests are refused: nobody listens there.")
            .suggest(
                "See to whom with a capture of resets; start the service there, or correct the \
                address.",
            )
    };
    Some(found.done())
}
