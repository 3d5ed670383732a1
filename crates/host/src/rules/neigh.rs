//! Neighbours.

use linerate_core::table::Stage;

use super::look::{self, sysctl};
use super::{Check, Rule};
use crate::finding::{Finding, Risk, Severity};
use crate::window::{Cx, Sum, Window};

/// R40, R41.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R40",
        name: "neigh-overflow",
        title: "the neighbour table is full, or nearly",
        stage: Stage::Neigh,
        evidence: "`table_fulls` of `/proc/net/stat/arp_cache` or `ndisc_cache` grows, or drops by \
            reason NEIGH_CREATEFAIL do; or at least `neigh_fill` of `gc_thresh3` is in use.",
        causes: "More neighbours than the table may hold: a large network, many containers, or a \
            scan of addresses that nobody has.",
        advice: "`gc_thresh3`, 2 and 1, four times as large, for IPv4 and IPv6.",
        traps: "There is one table for each family and the whole host, all its namespaces; any \
            container can fill it. Senders of UDP see `SndbufErrors`.",
        cites: &["net/core/neighbour.c neigh_alloc", "measured: 1300 dead neighbours, 279 refused"],
        suppresses: &["R41", "R47", "R55", "R56", "R65"],
        check: Check::Host(overflow),
    },
    Rule {
        id: "R41",
        name: "neigh-unresolved",
        title: "packets wait for a neighbour that does not answer, and are dropped",
        stage: Stage::Neigh,
        evidence: "`unresolved_discards`, or drops by reason NEIGH_QUEUEFULL or NEIGH_FAILED, grow \
            by `noise_per_s` or more, at least `noise_ratio` of what is sent. Where neither is \
            known: neighbours that are asked for in every window and do not answer.",
        causes: "The neighbour is down or in another segment; or so many packets come at once that \
            the queue before the answer overflows.",
        advice: "Bring the neighbour up, or correct the route or the address.",
        traps: "A longer queue (`unres_qlen_bytes`) only helps with bursts.",
        cites: &[
            "net/core/neighbour.c __neigh_event_send",
            "measured: 300 packets to a dead neighbour, 208 discards",
        ],
        suppresses: &["R47", "R55", "R56", "R65"],
        check: Check::Host(unresolved),
    },
];

fn of(w: &Window<'_>, name: &str) -> Option<Sum> {
    Sum::of(w.to.neigh.keys().map(|table| w.of(name, |s| s.neigh.get(table))))
}

/// The same, or where the statistics are not shown (any namespace but the host's first) the drops of
/// these reasons.
fn lost(w: &Window<'_>, name: &str, reasons: &[&str]) -> Option<Sum> {
    of(w, name).or_else(|| w.drops(|why, _| reasons.contains(&why)))
}

fn sent(w: &Window<'_>) -> Option<Sum> {
    w.mibs(look::IP, "OutRequests")
}

fn overflow(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let lost = cx.grew(|w| lost(w, "table_fulls", &["NEIGH_CREATEFAIL"]));
    let now = cx.now();
    let tables = [("arp_cache", "ipv4"), ("ndisc_cache", "ipv6")];
    let fill = tables.iter().filter_map(|(table, family)| {
        let entries = look::gauge(now.neigh.get(*table), "entries")?;
        let most = now.sysctl(&format!("net.{family}.neigh.default.gc_thresh3"))?;
        Some((*table, *family, entries, entries as f64 / most.max(1) as f64))
    });
    let fullest = fill.max_by(|a, b| a.3.partial_cmp(&b.3).unwrap_or(std::cmp::Ordering::Equal));
    let near = fullest.filter(|(.., fill)| *fill >= cx.limits.neigh_fill);
    let lost = lost.filter(|_| near.is_some() || !cx.whole().is_lifetime());
    let grew = lost.as_ref().and_then(|lost| lost.evidence.first()).map(|e| e.source.clone());
    let by_loss = grew.map(|source| if source.contains("ndisc") { "ipv6" } else { "ipv4" });
    let family = by_loss.or(near.map(|(_, family, ..)| family))?;
    let mut found = rule.found(cx, "");
    found = match &lost {
        Some(lost) => {
            found.loss(lost).because("New neighbours find no room; packets to them are dropped.")
        }
        None => found.state(Severity::Warning).because("There is little room left."),
    };
    if let Some((table, _, entries, _)) = fullest {
        found = found.is(&format!("/proc/net/stat/{table}"), "entries", entries);
    }
    for step in ["gc_thresh3", "gc_thresh2", "gc_thresh1"] {
        let name = format!("net.{family}.neigh.default.{step}");
        found = found.sysctl(&name);
        let larger =
            now.sysctl(&name).map(|n| sysctl(&name, n.max(1).saturating_mul(4).min(1 << 20)));
        found = found.advise_if("Four times as many neighbours.", larger, Risk::Mem);
    }
    Some(
        found
            .suggest(
                "Do the same for the other family; a scan of a large network needs smaller ones.",
            )
            .done(),
    )
}

fn unresolved(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let waiting = ["NEIGH_QUEUEFULL", "NEIGH_FAILED"];
    let lost = look::noise(cx, |w| lost(w, "unresolved_discards", &waiting), sent);
    let found = match &lost {
        Some(lost) => rule.found(cx, "").loss(lost),
        None if asked_in_vain(cx) => rule.found(cx, "").warning(),
        None => return None,
    };
    let mut found = found.shows_if(of(&cx.whole(), "res_failed"));
    for (family, by_state) in &cx.now().neigh_states {
        for state in ["FAILED", "INCOMPLETE"] {
            if let Some(n) = by_state.get(state).filter(|n| *n > 0) {
                found = found.is("netlink/route/RTM_GETNEIGH", &format!("{state} {family}"), n);
            }
        }
    }
    Some(
        found
            .because("A neighbour does not answer while packets for it pile up.")
            .suggest(
                "See who: `ip neigh show nud failed nud incomplete`; bring it up, or correct the \
                route or the address.",
            )
            .done(),
    )
}

/// Whether somebody is asked for in every window and does not answer, where no counter tells.
fn asked_in_vain(cx: &Cx<'_>) -> bool {
    let unknown = |w: &Window<'_>| w.to.neigh.is_empty() && w.to.drops.is_none();
    let asked = |w: &Window<'_>| {
        w.to.neigh_states.values().any(|states| states.get("INCOMPLETE").is_some_and(|n| n > 0))
    };
    !cx.whole().is_lifetime()
        && cx.windows.len() as f64 >= cx.limits.windows
        && cx.windows.iter().all(|w| unknown(w) && asked(w))
}
