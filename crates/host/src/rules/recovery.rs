//! TCP's retransmissions: why they happen.

use linerate_core::table::Stage;

use super::look::{self, by, ext, rate, sysctl, tcp};
use super::tcp::info;
use super::{Check, Rule};
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::TcpSocket;
use crate::window::{Cx, Goal, Sum, Window};

/// R39, R55 to R57, R61, R62.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R39",
        name: "pmtu-blackhole",
        title: "large segments get lost, and the news of it too",
        stage: Stage::Send,
        evidence: "`TCPMTUPFail` of TcpExt grows; or connections with full-sized segments are sent \
            again and again and never got one acknowledged, though small ones got through.",
        causes: "A link on the way has a smaller MTU, and the message that says so (ICMP: \
            fragmentation needed) is filtered.",
        advice: "Let the message through; `net.ipv4.tcp_mtu_probing` 1; or clamp the MSS.",
        traps: "It looks like loss, but small requests get through. Below `net.ipv4.tcp_base_mss` \
            probing does not help.",
        cites: &["RFC 2923 section 2.1", "RFC 4821", "measured: probing recovers after 6.5 s"],
        suppresses: &["R55", "R56"],
        check: Check::Host(pmtu),
    },
    Rule {
        id: "R55",
        name: "retransmits-high",
        title: "many segments of TCP have to be sent again",
        stage: Stage::Send,
        evidence: "`RetransSegs` of Tcp, without requests for connections, is at least \
            `retrans_ratio` of `OutSegs` (`retrans_bad`: it is harm), of `retrans_segments` or \
            more.",
        causes: "`TCPRetransFail`: this host drops them itself. `TCPDSACKRecv` near the number of \
            retransmissions: nothing was lost, it was late or out of order. `TCPSpuriousRTOs`: the \
            time-out was too short. Else they are lost on the way.",
        advice: "Look at which peers; at the device's and the queue's drops; at the path.",
        traps: "One lost packet of a large merged one makes many segments. A ratio of few segments \
            says nothing.",
        cites: &[
            "RFC 4022 tcpRetransSegs",
            "Documentation/networking/snmp_counter.rst",
            "measured: 2 % loss, 272 segments for 8 packets",
        ],
        suppresses: &["R56"],
        check: Check::Host(retransmits),
    },
    Rule {
        id: "R56",
        name: "timeouts",
        title: "connections stand still until a time-out",
        stage: Stage::Send,
        evidence: "`TCPTimeouts` of TcpExt, without requests for connections, is at least \
            `timeout_ratio` of the segments, or connections are backing off.",
        causes: "Everything to a peer is lost (it is gone, or a filter drops); or the last \
            segments of a reply are lost and nothing behind them tells.",
        advice: "Look at the peers; `net.ipv4.tcp_early_retrans` 3 and `net.ipv4.tcp_sack` 1 make \
            losses at the end cheap.",
        traps: "Loss probes (`TCPLossProbes`) are no time-outs.",
        cites: &["RFC 8985 section 7", "measured: a filter after the connect, 3 time-outs"],
        suppresses: &[],
        check: Check::Host(timeouts),
    },
    Rule {
        id: "R57",
        name: "reordering",
        title: "segments arrive out of order and are sent again for nothing",
        stage: Stage::Send,
        evidence: "Retransmissions as for R55; `TCPDSACKRecv` of TcpExt is at least half of them, \
            and `TCPSACKReorder` or `TCPTSReorder` grows.",
        causes: "A bond that deals packets in turn, steering that moves flows, several paths.",
        advice: "One path for each flow; `net.ipv4.tcp_max_reordering` as the last resort.",
        traps: "The receiver sees more of it than the sender.",
        cites: &[
            "RFC 8985 section 4",
            "Documentation/networking/snmp_counter.rst TcpExtTCPSACKReorder",
        ],
        suppresses: &["R55", "R56"],
        check: Check::Host(reordering),
    },
    Rule {
        id: "R61",
        name: "idle-slow-start",
        title: "connections begin anew after each pause",
        stage: Stage::Send,
        evidence: "With the goal throughput: the congestion window of a connection in use fell \
            from `idle_cwnd` or more to less than half, nothing was lost, and \
            `net.ipv4.tcp_slow_start_after_idle` is on.",
        causes: "After a pause of one retransmission time-out the window is halved again and \
            again.",
        advice: "`net.ipv4.tcp_slow_start_after_idle` 0.",
        traps: "No effect with BBR. The first burst after a pause may be lost.",
        cites: &[
            "RFC 5681 section 4.1",
            "measured: window 540 to 33 after one second, 114 stays 114 without",
        ],
        suppresses: &[],
        check: Check::Host(idle),
    },
    Rule {
        id: "R62",
        name: "congestion-control",
        title: "loss-based congestion control on long paths with loss",
        stage: Stage::Send,
        evidence: "Retransmissions as for R55 in connections with a round trip of 50 ms or more \
            and cubic or reno; BBR is available.",
        causes: "Each loss halves the window; on a long path it takes minutes to grow again.",
        advice: "`net.ipv4.tcp_congestion_control` bbr, with fq at the device.",
        traps: "It takes more than its share beside others and sends more again. It must be loaded \
            and allowed.",
        cites: &["RFC 9743", "Documentation/networking/ip-sysctl.rst tcp_congestion_control"],
        suppresses: &[],
        check: Check::Host(congestion),
    },
];

fn pmtu(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let failed = cx.grew(|w| ext(w, "TCPMTUPFail")).filter(|_| !cx.whole().is_lifetime());
    let stuck = |s: &&TcpSocket| {
        let acked = s.info.get("bytes_acked").is_some_and(|acked| acked < info(s, "snd_mss"));
        // Something small came through, in one direction or the other: 1 is the SYN.
        let small = info(s, "bytes_acked").max(info(s, "bytes_received")) > 1;
        info(s, "backoff") >= 2
            && u64::from(s.send_q) > info(s, "snd_mss")
            && acked
            && small
            && info(s, "snd_mss") >= 1000
    };
    let stuck: Vec<&TcpSocket> = cx.now().sockets.tcp.iter().filter(stuck).collect();
    if failed.is_none() && stuck.is_empty() {
        return None;
    }
    let name = "net.ipv4.tcp_mtu_probing";
    let mut found = rule
        .found(cx, "")
        .warning()
        .shows_if(failed)
        .shows_if(ext(&cx.whole(), "TCPTimeouts").filter(|_| !cx.whole().is_lifetime()));
    if let Some(s) = stuck.first() {
        found = found
            .is("netlink/sock_diag/tcp", "snd_mss", info(s, "snd_mss"))
            .is("netlink/sock_diag/tcp", "backoff", info(s, "backoff"))
            .because(format!(
                "{} connections are stuck with full-sized segments, one to {}.",
                stuck.len(),
                s.remote
            ));
    }
    Some(
        found
            .sysctl(name)
            .because("No segment of full size was ever acknowledged.")
            .advise_if(
                "Probe for a size that gets through.",
                super::ip::switch_on(cx, name),
                Risk::Safe,
            )
            .suggest("Let ICMP \"fragmentation needed\" through, or clamp the MSS on the router.")
            .done(),
    )
}

/// Retransmitted segments without requests for connections.
fn again(w: &Window<'_>) -> Option<Sum> {
    let syn = by(ext(w, "TCPSynRetrans"));
    tcp(w, "RetransSegs").map(|sum| sum.without(syn))
}

/// The same with their share of all, where that is enough to be looked at.
fn high(cx: &Cx<'_>) -> Option<(Sum, f64)> {
    let lost = cx.grew(again)?;
    let sent = by(tcp(&cx.whole(), "OutSegs"));
    let share = lost.by as f64 / sent.max(1) as f64;
    let enough = sent as f64 >= cx.limits.retrans_segments;
    (enough && share >= cx.limits.retrans_ratio).then_some((lost, share))
}

fn is_reordering(cx: &Cx<'_>, lost: &Sum) -> bool {
    let w = cx.whole();
    let seen = ["TCPSACKReorder", "TCPTSReorder", "TCPRenoReorder"].map(|n| by(ext(&w, n)));
    by(ext(&w, "TCPDSACKRecv")).saturating_mul(2) >= lost.by && seen.iter().any(|by| *by > 0)
}

fn retransmits(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let (lost, share) = high(cx)?;
    let w = cx.whole();
    let found = rule.found(cx, "");
    let found = match share >= cx.limits.retrans_bad {
        true => found.loss(&lost),
        false => found.stray(&lost),
    };
    let found = found
        .is("/proc/net/snmp", "share of OutSegs", format!("{:.1} %", share * 100.0))
        .shows_if(ext(&w, "TCPFastRetrans"))
        .shows_if(ext(&w, "TCPTimeouts"));
    let local = super::tcp::local_drops(&w);
    let filtered = by(w.drops(|why, _| why == "NETFILTER_DROP"));
    let half = lost.by / 2;
    let found = if local.saturating_mul(4) >= lost.by {
        found
            .shows_if(ext(&w, "TCPRetransFail"))
            .because("This host drops them itself on the way out.")
            .suggest("Look at the drops of its queues: `tc -s qdisc`.")
    } else if by(ext(&w, "TCPSpuriousRTOs")) > half {
        found
            .shows_if(ext(&w, "TCPSpuriousRTOs"))
            .because("The time-outs were too short: the path became slow for a moment.")
            .suggest("Look for pauses on the path: wireless links, machines that stop.")
    } else if filtered > 0 {
        found
            .shows_if(w.drops(|why, _| why == "NETFILTER_DROP"))
            .because("Rules of netfilter drop packets on this host.")
            .suggest("See which rule: `nft list ruleset`, `iptables -nvL`.")
    } else {
        found
            .because("They are lost on the way, or at the other end.")
            .suggest("See which peers: `ss -ti`; if all of one network, look at the path to it.")
    };
    Some(found.done())
}

fn timeouts(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let w = cx.whole();
    if w.is_lifetime() {
        return None;
    }
    let of = |w: &Window<'_>| ext(w, "TCPTimeouts").map(|s| s.without(by(ext(w, "TCPSynRetrans"))));
    let late = cx.grew(of)?;
    let sent = by(tcp(&w, "OutSegs")).max(1) as f64;
    let stuck: Vec<&TcpSocket> = cx
        .now()
        .sockets
        .tcp
        .iter()
        .filter(|s| info(s, "backoff") >= 2 && s.state != "SYN_SENT")
        .collect();
    let many = late.by as f64 >= cx.limits.timeout_ratio * sent;
    if late.per_s < 0.2 || !many {
        return None;
    }
    let mut found = rule.found(cx, "").warning().shows(&late).shows_if(ext(&w, "TcpTimeoutRehash"));
    found = match stuck.first() {
        Some(s) => found
            .is("netlink/sock_diag/tcp", "backoff", info(s, "backoff"))
            .because(format!(
                "{} connections back off, one to {}: nothing comes back from there.",
                stuck.len(),
                s.remote
            ))
            .suggest("Look whether that host is there, and for a filter on the way."),
        None => found
            .because("They recover: the last segments of replies are lost.")
            .suggest("Look for loss on the path to these peers: `ss -ti`."),
    };
    let tlp = "net.ipv4.tcp_early_retrans";
    let off = cx.now().sysctl(tlp).is_some_and(|v| v == 0);
    let sack = super::ip::switch_on(cx, "net.ipv4.tcp_sack");
    Some(
        found
            .advise_if("Probe for losses at the end.", off.then(|| sysctl(tlp, 3)), Risk::Safe)
            .advise_if("Let the receiver say what it has.", sack, Risk::Safe)
            .done(),
    )
}

fn reordering(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let (lost, _) = high(cx)?;
    if !is_reordering(cx, &lost) {
        return None;
    }
    let w = cx.whole();
    let name = "net.ipv4.tcp_max_reordering";
    Some(
        rule.found(cx, "")
            .warning()
            .shows(&lost)
            .shows_if(ext(&w, "TCPDSACKRecv"))
            .shows_if(ext(&w, "TCPSACKReorder"))
            .shows_if(ext(&w, "TCPTSReorder"))
            .because("The receivers had got most of what was sent again.")
            .suggest(
                "Look for a bond that deals packets in turn, for steering that changes, for \
                several paths.",
            )
            .advise_if(
                "As the last resort: bear more disorder.",
                look::more(cx, name, 4, 3000),
                Risk::Lat,
            )
            .done(),
    )
}

fn idle(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let name = "net.ipv4.tcp_slow_start_after_idle";
    if cx.goal != Goal::Throughput || cx.now().sysctl(name) != Some(1) {
        return None;
    }
    let marked = by(ext(&cx.whole(), "TCPDeliveredCE"));
    let fell = |(old, new): &(&TcpSocket, &TcpSocket)| {
        let (was, is) = (info(old, "snd_cwnd"), info(new, "snd_cwnd"));
        let same = info(old, "total_retrans") == info(new, "total_retrans");
        let used = new.info.grown(&old.info, "bytes_acked").unwrap_or(0);
        was as f64 >= cx.limits.idle_cwnd
            && is.saturating_mul(2) < was
            && same
            && used > 0
            && !new.cong.starts_with("bbr")
    };
    let (old, new) =
        cx.windows.iter().find_map(|w| w.connections().find(fell)).filter(|_| marked == 0)?;
    Some(
        rule.found(cx, format!("tcp {}", new.remote))
            .at(Severity::Info)
            .is("netlink/sock_diag/tcp", "snd_cwnd before", info(old, "snd_cwnd"))
            .is("netlink/sock_diag/tcp", "snd_cwnd after", info(new, "snd_cwnd"))
            .sysctl(name)
            .because("Its window fell after a pause, and nothing was lost.")
            .advise("Keep the window over pauses.", sysctl(name, 0), Risk::Loss)
            .done(),
    )
}

fn congestion(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let (lost, _) = high(cx)?;
    let now = cx.now();
    let name = "net.ipv4.tcp_congestion_control";
    let available = now.sysctls.get("net.ipv4.tcp_available_congestion_control")?;
    let far = |s: &&TcpSocket| {
        info(s, "rtt") >= 50_000
            && ["cubic", "reno"].contains(&s.cong.as_str())
            && info(s, "total_retrans") > 0
    };
    let far: Vec<&TcpSocket> = now.sockets.tcp.iter().filter(far).collect();
    let bbr = available.split(' ').any(|cc| cc == "bbr");
    if far.is_empty() || !bbr || rate(Some(lost.clone())) <= 0.0 {
        return None;
    }
    Some(
        rule.found(cx, "")
            .at(Severity::Info)
            .shows(&lost)
            .is("netlink/sock_diag/tcp", "connections over 50 ms with losses", far.len() as u64)
            .sysctl(name)
            .because("Each loss halves their window.")
            .advise(
                "For new connections: BBR, which does not slow down for each loss.",
                sysctl(name, "bbr"),
                Risk::Safe,
            )
            .done(),
    )
}
