//! Connection tracking.

use linerate_core::table::Stage;

use super::look::{self, by, noise, sysctl};
use super::{Check, Rule};
use crate::finding::{Finding, Risk, Severity};
use crate::window::{Cx, Sum, Window};

/// R34 to R36.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R34",
        name: "conntrack-full",
        title: "the table of tracked connections is full, or nearly",
        stage: Stage::Ip,
        evidence: "`drop` of `/proc/net/stat/nf_conntrack` grows; or at least `conntrack_fill` of \
            `nf_conntrack_max` is in use.",
        causes: "More connections than the table holds; or old ones stay for too long (five days \
            for an established one). `early_drop` grows while there is still something to evict.",
        advice: "Twice `net.netfilter.nf_conntrack_max`, with as many buckets; a shorter time for \
            established connections; no tracking where none is needed.",
        traps: "The largest number is the host's, the count each namespace's. A larger table with \
            the old buckets is slow. Reasons of drops only say that netfilter did it.",
        cites: &[
            "Documentation/networking/nf_conntrack-sysctl.rst",
            "net/netfilter/nf_conntrack_core.c __nf_conntrack_alloc",
            "measured: 300 flows, 50 entries, 249 drops",
        ],
        suppresses: &["R35", "R36", "R55", "R56", "R65"],
        check: Check::Host(full),
    },
    Rule {
        id: "R35",
        name: "conntrack-race",
        title: "new connections are dropped since another was entered with the same key",
        stage: Stage::Ip,
        evidence: "`insert_failed` of `/proc/net/stat/nf_conntrack` grows by `noise_per_s` or \
            more; or `drop` does while less than half of `nf_conntrack_max` is in use.",
        causes: "Two packets of one flow at once, on two processors, as the two questions of one \
            name look-up; or the ports for source NAT are used up.",
        advice: "A local cache for names, names over TCP, random ports for source NAT.",
        traps: "Random ports made it worse for some. Programs see it as a pause of 5 seconds.",
        cites: &[
            "net/netfilter/nf_conntrack_core.c __nf_conntrack_confirm",
            "measured: source NAT to 10 ports, 180 flows, 170 drops",
        ],
        suppresses: &[],
        check: Check::Host(race),
    },
    Rule {
        id: "R36",
        name: "conntrack-invalid",
        title: "packets fit no tracked connection",
        stage: Stage::Ip,
        evidence: "`invalid` of `/proc/net/stat/nf_conntrack` grows by `noise_per_s` or more, at \
            least `noise_ratio` of what is received.",
        causes: "Packets outside of the window, bad checksums, or only one direction passes here. \
            Rules often drop what is invalid.",
        advice: "Mend the path; if it is asymmetric on purpose, \
            `net.netfilter.nf_conntrack_tcp_be_liberal`.",
        traps: "Be liberal is weaker against forged packets.",
        cites: &[
            "Documentation/networking/nf_conntrack-sysctl.rst nf_conntrack_tcp_be_liberal",
            "measured: forged resets",
        ],
        suppresses: &[],
        check: Check::Host(invalid),
    },
];

fn stat(w: &Window<'_>, name: &str) -> Option<Sum> {
    w.of(name, |s| s.conntrack.as_ref().map(|c| &c.stat)).map(Sum::from)
}

fn packets(w: &Window<'_>) -> Option<Sum> {
    w.mibs(look::IP, "InReceives")
}

fn full(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let table = cx.now().conntrack.as_ref().map(|c| &c.table);
    let count = look::gauge(table, "nf_conntrack_count");
    let most = look::gauge(table, "nf_conntrack_max").filter(|most| *most > 0);
    let fill = count.zip(most).map(|(count, most)| count as f64 / most as f64);
    let near = fill.is_some_and(|fill| fill >= cx.limits.conntrack_fill);
    let lost = cx.lossy(cx.limits.loss_ratio, |w| stat(w, "drop"), packets);
    // Since boot, drops prove nothing about a table that has room now; a table that is half empty was
    // not full either, and something else had no room.
    let roomy = fill.is_some_and(|fill| fill < HALF);
    let lost = lost.filter(|_| near || !(cx.whole().is_lifetime() || roomy));
    let found = rule.found(cx, "");
    let found = match &lost {
        Some(lost) => found.loss(lost),
        None if near => found.state(Severity::Warning),
        None => return None,
    };
    let found = match (count, most) {
        (Some(count), Some(most)) => found
            .is("/proc/sys/net/netfilter/nf_conntrack_count", "nf_conntrack_count", count)
            .is("/proc/sys/net/netfilter/nf_conntrack_max", "nf_conntrack_max", most),
        _ => found,
    };
    let found = found.shows_if(stat(&cx.whole(), "early_drop")).because(match lost {
        Some(_) => "New connections find no room and their packets are dropped.",
        None => "There is little room left.",
    });
    let name = "net.netfilter.nf_conntrack_max";
    let times = match fill {
        Some(fill) if fill >= 0.99 && most.is_some_and(|most| most < 65_536) => 16,
        _ => 2,
    };
    let larger = most.map(|most| sysctl(name, most.saturating_mul(times).min(1 << 24)));
    let timeout = "net.netfilter.nf_conntrack_tcp_timeout_established";
    let long = cx.now().sysctl(timeout).is_some_and(|s| s > 86_400);
    Some(
        found
            .advise_if("A larger table (about 320 bytes for each entry).", larger, Risk::Mem)
            .advise_if(
                "Forget silent connections after a day.",
                long.then(|| sysctl(timeout, 86_400)),
                Risk::Safe,
            )
            .suggest("Do not track what needs no tracking.")
            .done(),
    )
}

/// A table that has less than this in use was not full a moment ago: entries stay for half a minute.
const HALF: f64 = 0.5;

/// What was dropped of new connections although the table has room.
fn keyless(cx: &Cx<'_>) -> Option<Sum> {
    let table = cx.now().conntrack.as_ref().map(|c| &c.table);
    let count = look::gauge(table, "nf_conntrack_count")?;
    let most = look::gauge(table, "nf_conntrack_max")?;
    if cx.whole().is_lifetime() || count as f64 >= HALF * most as f64 {
        return None;
    }
    cx.lossy(cx.limits.loss_ratio, |w| stat(w, "drop"), packets)
        .filter(|lost| lost.per_s >= cx.limits.noise_per_s)
}

fn race(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    if let Some(lost) = keyless(cx) {
        return Some(
            rule.found(cx, "")
                .loss(&lost)
                .shows_if(stat(&cx.whole(), "insert_failed"))
                .titled("new connections are dropped for want of a free key")
                .because(
                    "The table has room, but no key was free: mostly the ports that source NAT may \
                    use towards one destination are used up.",
                )
                .suggest(
                    "Give source NAT more ports or more addresses, or let connections live on.",
                )
                .done(),
        );
    }
    let lost = cx.lossy(cx.limits.loss_ratio, |w| stat(w, "insert_failed"), packets)?;
    if !cx.whole().is_lifetime() && lost.per_s < cx.limits.noise_per_s {
        return None;
    }
    Some(
        rule.found(cx, "")
            .loss(&lost)
            .shows_if(stat(&cx.whole(), "clashres"))
            .because("Two packets wanted the same entry; the later one was dropped.")
            .suggest(
                "Cache names on this host, or ask for them over TCP; give source NAT random ports.",
            )
            .done(),
    )
}

fn invalid(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let lost = noise(cx, |w| stat(w, "invalid"), packets)?;
    let w = cx.whole();
    let csum = by(look::tcp(&w, "InCsumErrors"));
    let found = rule.found(cx, "").stray(&lost);
    let found = match csum.saturating_mul(2) >= lost.by {
        true => found.because("Their checksums are wrong.").suggest("As for bad checksums of TCP."),
        false => found
            .because(
                "They are outside of their connection's window, or of no connection: late, forged, \
                or only one direction passes here.",
            )
            .advise_if(
                "If routes are asymmetric on purpose: accept what is outside of the window.",
                super::ip::switch_on(cx, "net.netfilter.nf_conntrack_tcp_be_liberal"),
                Risk::Sec,
            ),
    };
    Some(found.done())
}
