//! IP: headers, addresses, routes, fragments, ICMP.

use linerate_core::table::Stage;

use super::look::{self, by, ext, ipext, noise, sysctl};
use super::{Check, Rule};
use crate::change::Change;
use crate::finding::{Finding, Risk, Severity};
use crate::window::{Cx, Sum, Window};

/// R31 to R33, R38, R42, R89.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R31",
        name: "ip-header-errors",
        title: "packets arrive with a wrong IP header",
        stage: Stage::Ip,
        evidence: "`InHdrErrors` or `InTruncatedPkts` grows by `noise_per_s` or more, at least \
            `noise_ratio` of what is received.",
        causes: "`InCsumErrors` of IpExt grows as well: damaged, or a broken offload. \
            `InTruncatedPkts`: the frame is shorter than its header says. Else, on a router: the \
            TTL ran out, often because two routers send packets to each other.",
        advice: "Damaged: as for bad checksums. TTL: look for a loop with traceroute.",
        traps: "A packet whose TTL runs out counts as a header error.",
        cites: &[
            "RFC 4293 ipIfStatsInHdrErrors",
            "net/ipv4/ip_input.c ip_rcv_core",
            "net/ipv4/ip_forward.c",
        ],
        suppresses: &[],
        check: Check::Host(header),
    },
    Rule {
        id: "R32",
        name: "not-for-us",
        title: "packets arrive that this host has no use for",
        stage: Stage::Route,
        evidence: "`InAddrErrors`, `InNoRoutes` or `InUnknownProtos` grows by `noise_per_s` or \
            more, at least `noise_ratio` of what is received.",
        causes: "`InAddrErrors`: the address is another's, and `net.ipv4.ip_forward` is off. \
            `InNoRoutes`: this router does not know the way. `InUnknownProtos`: nobody has a \
            socket for this protocol of IP.",
        advice: "A router: switch forwarding on, or add the route. Else find who sends it.",
        traps: "A virtual address that has moved away leaves such packets for a while.",
        cites: &["RFC 4293 ipIfStatsInAddrErrors", "net/ipv4/route.c ip_error"],
        suppresses: &["R30"],
        check: Check::Host(not_for_us),
    },
    Rule {
        id: "R33",
        name: "rp-filter",
        title: "packets are dropped because their way back would be another one",
        stage: Stage::Route,
        evidence: "`IPReversePathFilter` of TcpExt grows by `noise_per_s` or more, at least \
            `noise_ratio` of what is received.",
        causes: "Several links and asymmetric routes; or addresses are forged, and the filter is \
            right.",
        advice: "If routes are asymmetric: `rp_filter` 2 (loose) on that device.",
        traps: "What counts is the larger of the value for all and that of the device. The counter \
            is among those of TCP and counts every protocol.",
        cites: &[
            "Documentation/networking/ip-sysctl.rst rp_filter",
            "net/ipv4/fib_frontend.c __fib_validate_source",
        ],
        suppresses: &["R32"],
        check: Check::Host(rp_filter),
    },
    Rule {
        id: "R38",
        name: "reassembly-fails",
        title: "fragmented datagrams are not put together",
        stage: Stage::Reasm,
        evidence: "`ReasmFails` grows by `noise_per_s` or more, at least `reasm_ratio` of the \
            fragments.",
        causes: "`ReasmTimeout` grows as much: fragments are lost on the way. It does not, and the \
            fragments' memory is near `net.ipv4.ipfrag_high_thresh`: there is no room for them.",
        advice: "Lost: avoid fragments (MTU, smaller datagrams). No room: a larger threshold.",
        traps: "A larger threshold also holds more of a flood. IPv6 has its own.",
        cites: &[
            "net/ipv4/ip_fragment.c ip_expire",
            "net/ipv4/inet_fragment.c inet_frag_alloc",
            "measured: 20 001 bytes, 40 of 60 fail",
        ],
        suppresses: &[],
        check: Check::Host(reasm),
    },
    Rule {
        id: "R42",
        name: "icmp-ratelimited",
        title: "answers by ICMP are held back by their rate limit",
        stage: Stage::Send,
        evidence: "`OutRateLimitHost` or `OutRateLimitGlobal` grows by `benign_per_s` or more, \
            beside the answers for what was not put together in time (`ReasmTimeout`).",
        causes: "A scan, a traceroute, or datagrams to a closed port; or a router that owes many \
            senders the news that a packet is too large.",
        advice: "Mostly none. A router of tunnels may need a larger `net.ipv4.icmp_msgs_per_sec`.",
        traps: "The limit hides how many packets go to closed ports.",
        cites: &["net/ipv4/icmp.c icmp_global_allow", "measured: 500 datagrams to a closed port"],
        suppresses: &[],
        check: Check::Host(icmp),
    },
    Rule {
        id: "R89",
        name: "route-drops",
        title: "a route drops or refuses what it leads to",
        stage: Stage::IpOut,
        evidence: "`OutNoRoutes` grows by `noise_per_s` or more; or there is a route of type \
            blackhole, unreachable or prohibit.",
        causes: "Somebody set it, or a routing daemon did for a network that it has in parts.",
        advice: "If that destination is missed: take the route away.",
        traps: "What such a route drops on the way out is in no counter: programs see EINVAL, \
            EHOSTUNREACH or EACCES.",
        cites: &["net/ipv4/route.c ip_route_output_key_hash_rcu", "measured: no counter moves"],
        suppresses: &[],
        check: Check::Host(routes),
    },
];

fn packets(w: &Window<'_>) -> Option<Sum> {
    w.mibs(look::IP, "InReceives")
}

fn header(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let bad = |w: &Window<'_>| {
        let header = look::IP.iter().map(|s| w.mib(s, "InHdrErrors"));
        Sum::of(header.chain([w.mib("IpExt", "InTruncatedPkts")]))
    };
    let lost = noise(cx, bad, packets)?;
    let w = cx.whole();
    let (csum, short) = (ipext(&w, "InCsumErrors"), ipext(&w, "InTruncatedPkts"));
    let found = rule.found(cx, "").stray(&lost);
    let half = lost.by / 2;
    let found = if by(csum.clone()) > half {
        found
            .shows_if(csum)
            .because(
                "Their checksums are wrong: damaged on the way, or by a broken offload of the \
                sender.",
            )
            .suggest(
                "Find the sender with a capture; switch its checksum offload off to see whether \
                that is it.",
            )
    } else if by(short) > half {
        found.because("Frames are shorter than their header says.").suggest(
            "Find the sender with a capture; look for a driver or tunnel that cuts packets.",
        )
    } else {
        let expired = w.mib("Icmp", "OutTimeExcds").map(Sum::from);
        found
            .shows_if(expired)
            .sysctl("net.ipv4.ip_forward")
            .because(
                "Checksums are right: on a router the TTL ran out, else the header makes no sense.",
            )
            .suggest("Look for a routing loop: traceroute to the destinations of a capture.")
    };
    Some(found.done())
}

fn not_for_us(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let of = |w: &Window<'_>| {
        let ip = look::IP.iter();
        let parts = ip.flat_map(|s| [w.mib(s, "InAddrErrors"), w.mib(s, "InUnknownProtos")]);
        Sum::of(parts.chain([w.mib("IpExt", "InNoRoutes")]))
    };
    let lost = noise(cx, of, packets)?;
    let largest = lost
        .evidence
        .iter()
        .max_by(|a, b| a.per_s.partial_cmp(&b.per_s).unwrap_or(std::cmp::Ordering::Equal));
    let largest = largest.map_or("", |e| e.name.as_str()).to_owned();
    let found = rule.found(cx, "").stray(&lost).sysctl("net.ipv4.ip_forward");
    let found = match largest.as_str() {
        "InAddrErrors" => found
            .because("Their address is another host's, and this one does not forward.")
            .suggest(
                "If this host is a router, switch `net.ipv4.ip_forward` on; it resets other \
                settings of the interfaces. Else find who sends them here.",
            ),
        "InNoRoutes" => found
            .because("There is no route to their destination.")
            .suggest("Add the route, or find who sends them here."),
        _ => found
            .because("Nobody here speaks their protocol of IP.")
            .suggest("Find who sends them with a capture."),
    };
    Some(found.done())
}

fn rp_filter(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let lost = noise(cx, |w| ext(w, "IPReversePathFilter"), packets)?;
    let now = cx.now();
    let strict = |name: &str| now.sysctl(name) == Some(1);
    let all = "net.ipv4.conf.all.rp_filter";
    let devs =
        now.devs.keys().map(|dev| format!("net.ipv4.conf.{}.rp_filter", dev.replace('.', "/")));
    let name = devs.into_iter().find(|name| strict(name)).filter(|_| !strict(all));
    let name = name.unwrap_or_else(|| all.to_owned());
    Some(
        rule.found(cx, "")
            .stray(&lost)
            .sysctl(all)
            .sysctl(&name)
            .because(
                "Answers to their senders would leave by another device. Asymmetric routes do \
                that, and forged addresses.",
            )
            .advise(
                "If the routes are asymmetric on purpose: accept what has any way back.",
                sysctl(&name, 2),
                Risk::Sec,
            )
            .done(),
    )
}

fn reasm(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let fails = |w: &Window<'_>| w.mibs(look::IP, "ReasmFails");
    let lost = cx.lossy(cx.limits.reasm_ratio, fails, |w| w.mibs(look::IP, "ReasmReqds"))?;
    let lost =
        Some(lost).filter(|l| cx.whole().is_lifetime() || l.per_s >= cx.limits.noise_per_s)?;
    let w = cx.whole();
    let late = w.mibs(look::IP, "ReasmTimeout");
    let found = rule.found(cx, "").loss(&lost);
    if by(late.clone()).saturating_mul(2) >= lost.by {
        return Some(
            found
                .shows_if(late)
                .because("The time for them ran out: fragments are lost on the way.")
                .suggest(
                    "Avoid fragments: a smaller MTU at the sender, or smaller datagrams; look for \
                    the loss on the path.",
                )
                .done(),
        );
    }
    let name = "net.ipv4.ipfrag_high_thresh";
    let memory = look::gauge(cx.now().sockstat.get("FRAG"), "memory");
    let found = match memory {
        Some(memory) => found.is("/proc/net/sockstat", "FRAG memory", memory),
        None => found,
    };
    let times = cx.now().sysctl(name).map_or(4, |now| (4_194_304 / now.max(1)).max(2));
    Some(
        found
            .sysctl(name)
            .because(
                "Their time did not run out: there was no room for them below \
                `net.ipv4.ipfrag_high_thresh`, or they overlap.",
            )
            .advise_if(
                "Make room for more fragments.",
                look::more(cx, name, times, i64::from(i32::MAX)),
                Risk::Mem,
            )
            .suggest("Avoid fragments: a smaller MTU at the sender, or smaller datagrams.")
            .done(),
    )
}

fn icmp(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let of = |w: &Window<'_>| {
        Sum::of(["OutRateLimitHost", "OutRateLimitGlobal"].map(|name| w.mib("Icmp", name)))
    };
    let held = cx.grew(of)?;
    // Each datagram that is not put together in time owes its sender an answer: R38 says why.
    let late = cx.grew(|w| Sum::of([w.mib("Ip", "ReasmTimeout")])).map_or(0.0, |sum| sum.per_s);
    if held.per_s - late < cx.limits.benign_per_s {
        return None;
    }
    let forwards = cx.now().sysctl("net.ipv4.ip_forward") == Some(1);
    let found = rule.found(cx, "").shows(&held).at(Severity::Info);
    let name = "net.ipv4.icmp_msgs_per_sec";
    let found = match forwards {
        true => found.because("This router owes many senders an answer.").advise_if(
            "If senders wait for news that their packets are too large: more answers.",
            look::more(cx, name, 4, 100_000),
            Risk::Safe,
        ),
        false => found
            .because("Somebody scans, or sends to closed ports.")
            .suggest("Nothing needs to be done, if it is a scan."),
    };
    Some(found.done())
}

fn routes(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let now = cx.now();
    let missing = cx.grew(|w| w.mibs(look::IP, "OutNoRoutes"));
    let missing =
        missing.filter(|sum| !cx.whole().is_lifetime() && sum.per_s >= cx.limits.noise_per_s);
    // A routing daemon covers the networks that it has in parts, and a host without IPv6 has a
    // refusing default route for it.
    let daemons = ["bird", "calico-node", "calico-felix", "zebra", "bgpd", "frr", "cilium-agent"];
    let by_daemon = now.host.owners.iter().any(|owner| daemons.contains(&owner.as_str()));
    let wanted =
        |route: &&(String, String)| !by_daemon && !["default", "::/0"].contains(&route.0.as_str());
    let bad: Vec<_> = now.bad_routes.iter().filter(wanted).take(5).collect();
    if let Some(missing) = missing {
        return Some(
            rule.found(cx, "")
                .stray(&missing)
                .because("Programs send where no route leads; they see ENETUNREACH.")
                .suggest("Add the route, or find who sends there.")
                .done(),
        );
    }
    let (first, _) = bad.first()?;
    let mut found = rule.found(cx, first.as_str()).state(Severity::Info);
    for (to, kind) in &bad {
        found = found.is("netlink/route/RTM_GETROUTE", to, kind.as_str());
    }
    Some(
        found
            .because("What is sent there is dropped or refused, and no counter says so.")
            .suggest(format!("If it is missed: `ip route del {} {first}`.", bad[0].1))
            .done(),
    )
}

/// A change of `tcp_mtu_probing` or the like, if it is not on already.
pub(super) fn switch_on(cx: &Cx<'_>, name: &str) -> Option<Change> {
    (cx.now().sysctl(name) == Some(0)).then(|| sysctl(name, 1))
}
