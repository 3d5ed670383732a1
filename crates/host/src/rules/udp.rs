//! UDP sockets.

use linerate_core::table::Stage;

use super::look::{self, by, noise, owner, sysctl};
use super::{Check, Rule, csum};
use crate::finding::{Finding, Risk, Severity};
use crate::ledger;
use crate::snapshot::UdpSocket;
use crate::window::{Cx, Sum, Window};

/// R38b, R43 to R47, R81.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R43",
        name: "udp-rcvbuf",
        title: "UDP datagrams are dropped because a socket's receive buffer is full",
        stage: Stage::SockQueue,
        evidence: "`RcvbufErrors` grows, at least `loss_ratio` of the datagrams; the socket is the \
            one whose `drops` grew most.",
        causes: "The buffer is full all the time: the program does not read, or too slowly. It is \
            empty in between: bursts. Its size tells whether the program asked for one, and \
            whether `net.core.rmem_max` cut it.",
        advice: "A program that reads faster, or several sockets by SO_REUSEPORT; for bursts a \
            larger buffer: SO_RCVBUF, with a `net.core.rmem_max` that allows it.",
        traps: "A larger `net.core.rmem_max` does nothing until the program asks again. Small \
            datagrams take 800 bytes each. One loss is counted in `RcvbufErrors`, `InErrors` and \
            the socket's `drops`.",
        cites: &[
            "net/ipv4/udp.c __udp_queue_rcv_skb",
            "measured: 4096 bytes, no reader, 194 of 200 lost",
        ],
        suppresses: &["R81", "R45"],
        check: Check::Host(rcvbuf),
    },
    Rule {
        id: "R44",
        name: "udp-mem",
        title: "UDP has used up its memory",
        stage: Stage::SockQueue,
        evidence: "`MemErrors` of Udp grows; or UDP holds `mem_fill` of the third value of \
            `net.ipv4.udp_mem`.",
        causes: "Many sockets with full buffers: their programs do not read.",
        advice: "Find the sockets that hold most; then larger `net.ipv4.udp_mem` (in pages).",
        traps: "It is counted for the whole host, all its namespaces.",
        cites: &[
            "net/ipv4/udp.c __udp_enqueue_schedule_skb",
            "Documentation/networking/ip-sysctl.rst udp_mem",
        ],
        suppresses: &["R43"],
        check: Check::Host(mem),
    },
    Rule {
        id: "R45",
        name: "udp-noports",
        title: "datagrams arrive for a port that nobody listens on",
        stage: Stage::Demux,
        evidence: "`NoPorts` grows by `noise_per_s` or more, at least `noport_ratio` of the \
            datagrams.",
        causes: "A service is down or listens elsewhere; answers come after their socket was \
            closed; or somebody scans.",
        advice: "Start the service, or find the senders.",
        traps: "The answers by ICMP are rate limited and show fewer.",
        cites: &["net/ipv4/udp.c __udp4_lib_rcv"],
        suppresses: &["R42"],
        check: Check::Host(noports),
    },
    Rule {
        id: "R46",
        name: "udp-checksum",
        title: "datagrams arrive with a wrong checksum",
        stage: Stage::Transport,
        evidence: "`InCsumErrors` of Udp grows by `noise_per_s` or more, at least `noise_ratio` of \
            the datagrams.",
        causes: csum::CAUSES,
        advice: csum::ADVICE,
        traps: "They are counted in `InErrors` as well.",
        cites: &["net/ipv4/udp.c udp4_csum_init"],
        suppresses: &[],
        check: Check::Host(wrong),
    },
    Rule {
        id: "R38b",
        name: "tunnel-checksum",
        title: "packets of a tunnel arrive with a wrong outer checksum",
        stage: Stage::Transport,
        evidence: "`InCsumErrors` of Udp grows as for R46, and there is a VXLAN or Geneve device.",
        causes: "The sender's device computes the checksum of tunnelled packets wrongly.",
        advice: "At the sender: `ethtool -K TUNNEL tx-checksum-ip-generic off`.",
        traps: "It costs processor time; newer kernels have the fault mended.",
        cites: &["Documentation/networking/checksum-offloads.rst"],
        suppresses: &["R46", "R55", "R56"],
        check: Check::Host(tunnel_csum),
    },
    Rule {
        id: "R47",
        name: "udp-local-loss",
        title: "datagrams are lost on this host before they leave",
        stage: Stage::Send,
        evidence: "`SndbufErrors` of Udp grows, at least `loss_ratio` of what is sent, by more \
            than queues, devices and neighbours say.",
        causes: "The send buffer is full because the device is slow, and the program does not \
            wait.",
        advice: "Pace the sender; a larger SO_SNDBUF for bursts.",
        traps: "For what a queue drops the program sees success, unless it asks with IP_RECVERR. \
            `OutDiscards` of Ip counts the same loss.",
        cites: &["net/ipv4/udp.c udp_sendmsg", "measured: 364 of 400 lost, no error"],
        suppresses: &[],
        check: Check::Host(local),
    },
    Rule {
        id: "R81",
        name: "rmem-clamped",
        title: "a program asked for a larger receive buffer than it may have",
        stage: Stage::SockQueue,
        evidence: "A UDP socket's buffer is exactly twice `net.core.rmem_max`, and it is more than \
            half full or has dropped.",
        causes: "`net.core.rmem_max` cut what the program asked for.",
        advice: "A larger `net.core.rmem_max`; then start the program again.",
        traps: "Twice, because the kernel doubles what is asked for.",
        cites: &["net/core/sock.c __sock_set_rcvbuf"],
        suppresses: &[],
        check: Check::Host(clamped),
    },
];

fn datagrams(w: &Window<'_>) -> Option<Sum> {
    w.mibs(look::UDP, "InDatagrams")
}

fn rcvbuf(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let errors = |w: &Window<'_>| w.mibs(look::UDP, "RcvbufErrors");
    let mut lost = cx.lossy(cx.limits.loss_ratio, errors, datagrams)?;
    let w = cx.whole();
    let Some((socket, drops)) = w.udp_drops().into_iter().next() else {
        return Some(
            rule.found(cx, "")
                .loss(&lost)
                .because(
                    "Which socket it was could not be seen: it is closed, or in another namespace.",
                )
                .suggest("Look at the column drops of /proc/net/udp for the socket.")
                .done(),
        );
    };
    lost.evidence.push(drops.evidence);
    let full = cx.windows.iter().filter_map(|w| same(w.to.sockets.udp.iter(), socket));
    let full: Vec<bool> = full.map(|s| s.rmem.saturating_mul(2) >= s.rcvbuf).collect();
    let stuck = full.iter().filter(|full| **full).count() * 2 > full.len();
    let who = owner(&socket.owner);
    let found = rule
        .found(cx, format!("udp {}", socket.local))
        .loss(&lost)
        .is("netlink/sock_diag/udp", "rmem", u64::from(socket.rmem))
        .is("netlink/sock_diag/udp", "rcvbuf", u64::from(socket.rcvbuf))
        .sysctl("net.core.rmem_max")
        .because(format!("It belongs to {who}."));
    let most = cx.now().sysctl("net.core.rmem_max");
    let default = cx.now().sysctl("net.core.rmem_default");
    let size = i64::from(socket.rcvbuf);
    let larger = |name: &str| look::more(cx, name, 4, 64 << 20);
    let found = match stuck {
        true => found
            .because(
                "Its buffer is full most of the time: the program does not read, or too slowly.",
            )
            .suggest(
                "Look at the program first: it is stopped, waits, or needs more threads or sockets \
                (SO_REUSEPORT).",
            ),
        false => found.because("Its buffer is empty in between: bursts are longer than it."),
    };
    let found = if most.is_some_and(|most| size == most.saturating_mul(2)) {
        found.because("It asked for more than `net.core.rmem_max` allows.").advise_if(
            "Allow larger buffers, and start the program again.",
            larger("net.core.rmem_max"),
            Risk::Mem,
        )
    } else if default == Some(size) {
        found.because("It has the default size.").advise_if(
            "If the program can not ask for more: a larger default, for sockets made from now on.",
            larger("net.core.rmem_default"),
            Risk::Mem,
        )
    } else {
        found
            .because("The program asked for this size.")
            .suggest("Let the program ask for a larger one (SO_RCVBUF).")
    };
    Some(found.done())
}

fn same<'a>(
    mut all: impl Iterator<Item = &'a UdpSocket>,
    socket: &UdpSocket,
) -> Option<&'a UdpSocket> {
    all.find(|s| s.owner.inode == socket.owner.inode && s.local == socket.local)
}

fn mem(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let now = cx.now();
    let lost = cx.lossy(cx.limits.loss_ratio, |w| w.mibs(look::UDP, "MemErrors"), datagrams);
    let pages = look::gauge(now.sockstat.get("UDP"), "mem");
    let most =
        now.sysctl_list("net.ipv4.udp_mem").and_then(|v| v.get(2).copied()).filter(|n| *n > 0);
    let fill = pages.zip(most).map(|(pages, most)| pages as f64 / most as f64);
    let near = fill.is_some_and(|fill| fill >= cx.limits.mem_fill);
    let found = rule.found(cx, "");
    let found = match &lost {
        Some(lost) => found.loss(lost),
        None if near => found.state(Severity::Warning),
        None => return None,
    };
    let found = match pages {
        Some(pages) => found.is("/proc/net/sockstat", "UDP mem (pages)", pages),
        None => found,
    };
    let holds = now.sockets.udp.iter().max_by_key(|s| s.rmem).filter(|s| s.rmem > 0);
    let found = match holds {
        Some(s) => found.because(format!(
            "{} holds most: {} bytes on {}.",
            owner(&s.owner),
            s.rmem,
            s.local
        )),
        None => found.because("Sockets of other namespaces count as well."),
    };
    Some(
        found
            .sysctl("net.ipv4.udp_mem")
            .suggest("Find the programs that do not read.")
            .advise_if("Allow more pages.", look::more_max(cx, "net.ipv4.udp_mem", 2), Risk::Mem)
            .done(),
    )
}

fn noports(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let lost = cx.lossy(cx.limits.noport_ratio, |w| w.mibs(look::UDP, "NoPorts"), datagrams)?;
    let enough = match cx.whole().is_lifetime() {
        // Since boot, services came and went.
        true => return None,
        false => lost.per_s >= cx.limits.noise_per_s,
    };
    if !enough {
        return None;
    }
    let gone = cx.windows.first().and_then(|w| w.from).and_then(|from| {
        from.sockets.udp.iter().find(|old| {
            old.remote.is_none()
                && !cx.now().sockets.udp.iter().any(|s| s.local.port() == old.local.port())
        })
    });
    let found = rule.found(cx, "").stray(&lost);
    let found = match gone {
        Some(old) => found.because(format!(
            "Port {} had a socket when we began, and has none now: its service stopped.",
            old.local.port()
        )),
        None => {
            found.because("A service that is not there, answers that come too late, or a scan.")
        }
    };
    Some(
        found
            .suggest(
                "See which port: a capture, or the reason NO_SOCKET; start the service or find the \
                sender.",
            )
            .done(),
    )
}

fn bad_sums(cx: &Cx<'_>) -> Option<Sum> {
    noise(cx, |w| w.mibs(look::UDP, "InCsumErrors"), datagrams)
}

fn tunnel_dev<'a>(cx: &Cx<'a>) -> Option<&'a str> {
    let is = |dev: &&crate::snapshot::Dev| {
        look::is_tunnel(dev) && ["vxlan", "geneve"].contains(&dev.kind.as_str())
    };
    cx.now().devs.values().find(is).map(|dev| dev.name.as_str())
}

fn wrong(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    Some(csum::found(rule, cx, &bad_sums(cx)?))
}

fn tunnel_csum(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let (lost, tunnel) = (bad_sums(cx)?, tunnel_dev(cx)?);
    Some(
        rule.found(cx, tunnel)
            .loss(&lost)
            .because(format!(
                "{tunnel} carries packets in UDP, and checksums of UDP are wrong: the other end's \
                offload."
            ))
            .suggest(format!("At the other end: `ethtool -K {tunnel} tx-checksum-ip-generic off`."))
            .done(),
    )
}

fn local(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let errors = |w: &Window<'_>| {
        let ledger = ledger::of(w);
        let loss = ledger.losses.into_iter().find(|loss| loss.what == "UDP send buffer full")?;
        Some(Sum { by: loss.count, per_s: loss.per_s, evidence: loss.counters })
    };
    let lost = cx.lossy(cx.limits.loss_ratio, errors, |w| w.mibs(look::UDP, "OutDatagrams"))?;
    let discards = w_discards(cx);
    let found = rule.found(cx, "").loss(&lost).shows_if(discards.clone());
    // Newer kernels count a full send buffer among these as well; what a reason is given for was a
    // packet already.
    let refused = cx.whole().drops(|why, at| why.starts_with("QDISC_") || OUT.contains(&at));
    let found = match by(discards) {
        discards if discards == 0 || refused.is_some_and(|sum| sum.by < lost.by / 2) => found
            .sysctl("net.core.wmem_default")
            .because("The program does not wait for room in its send buffer (it sees EAGAIN)."),
        _ => found
            .because("The host refused them on the way out, and no queue that we see says why."),
    };
    Some(
        found
            .suggest(
                "Pace the sender, or give its socket a larger SO_SNDBUF; IP_RECVERR makes the loss \
                visible to it.",
            )
            .done(),
    )
}

/// Functions that drop a packet on its way out.
const OUT: [&str; 6] = [
    "__dev_queue_xmit",
    "sch_direct_xmit",
    "ip_finish_output2",
    "ip6_finish_output2",
    "nf_hook_slow",
    "neigh_resolve_output",
];

fn w_discards(cx: &Cx<'_>) -> Option<Sum> {
    cx.whole().mibs(look::IP, "OutDiscards")
}

fn clamped(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let now = cx.now();
    let name = "net.core.rmem_max";
    let most = now.sysctl(name)?;
    let is = |s: &&UdpSocket| {
        i64::from(s.rcvbuf) == most.saturating_mul(2) && (s.drops > 0 || s.rmem > s.rcvbuf / 2)
    };
    let socket = now.sockets.udp.iter().find(is)?;
    Some(
        rule.found(cx, format!("udp {}", socket.local))
            .state(Severity::Info)
            .is("netlink/sock_diag/udp", "rcvbuf", u64::from(socket.rcvbuf))
            .is("netlink/sock_diag/udp", "drops", u64::from(socket.drops))
            .sysctl(name)
            .because(format!("It belongs to {}.", owner(&socket.owner)))
            .advise(
                "Allow larger buffers, and start the program again.",
                sysctl(name, most.saturating_mul(4).min(64 << 20)),
                Risk::Mem,
            )
            .done(),
    )
}
