//! ICMP redirects: somebody sends by a detour.

use linerate_core::table::Stage;

use super::look::{self, sysctl};
use super::{Check, Rule};
use crate::finding::{Finding, Risk, Severity};
use crate::window::{Cx, Sum, Window};

/// R77.
pub(super) const RULES: &[Rule] = &[Rule {
    id: "R77",
    name: "redirects",
    title: "packets take a detour over a router on the same link",
    stage: Stage::Route,
    evidence: "`OutRedirects` or `InRedirects` of Icmp (or of Icmp6) grows by `noise_per_s` or more.",
    causes: "Sent: this router gets packets that it sends back to the same link; their sender has \
        no route of its own for the destination. Received: a router says that of this host. Each \
        such packet crosses the link twice.",
    advice: "A route to the right gateway at the sender. A router that need not teach its \
        neighbours: `send_redirects` 0 for `all` and for the device, both. A host on a link that \
        it does not trust: `accept_redirects` 0.",
    traps: "The kernel sends few of them and then none for a while: there are more packets than \
        redirects. `send_redirects` counts if either `all` or the device has it; on a host \
        (`ip_forward` 0) so does `accept_redirects`; on a router both must have it.",
    cites: &[
        "RFC 1122 section 3.2.2.2",
        "net/ipv4/route.c ip_rt_send_redirect",
        "Documentation/networking/ip-sysctl.rst send_redirects",
    ],
    suppresses: &[],
    check: Check::Host(redirects),
}];

/// Sections of the MIB for both families.
const ICMP: &[&str] = &["Icmp", "Icmp6"];

fn redirects(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    if cx.whole().is_lifetime() {
        return None;
    }
    let often = |name: &'static str| {
        let sum: Option<Sum> = cx.grew(|w: &Window<'_>| w.mibs(ICMP, name));
        sum.filter(|sum| sum.per_s >= cx.limits.noise_per_s)
    };
    if let Some(sent) = often("OutRedirects") {
        return Some(sends(rule, cx, &sent));
    }
    let got = often("InRedirects")?;
    let all = "net.ipv4.conf.all.accept_redirects";
    let obeys = cx.now().sysctl(all) != Some(0);
    let found =
        rule.found(cx, "").shows(&got).at(if obeys { Severity::Warning } else { Severity::Info });
    Some(
        found
            .titled("a router says that packets of this host take a detour")
            .sysctl(all)
            .because(match obeys {
                true => "It is obeyed for the destination it names, until it is forgotten.",
                false => "It is not obeyed, so every packet goes on taking the detour.",
            })
            .suggest(
                "Add the route that the router names: `ip route get DESTINATION` shows it behind \
                `redirected`, `tcpdump -n 'icmp[0] == 5'` names it.",
            )
            .advise_if(
                "If the link is not trusted: do not obey redirects.",
                obeys.then(|| sysctl(all, 0)),
                Risk::Safe,
            )
            .done(),
    )
}

fn sends(rule: &Rule, cx: &Cx<'_>, sent: &Sum) -> Finding {
    let now = cx.now();
    let all = "net.ipv4.conf.all.send_redirects";
    let on = |name: &str| now.sysctl(name) == Some(1);
    let of = |dev: &String| format!("net.ipv4.conf.{}.send_redirects", dev.replace('.', "/"));
    // The device that forwards most is the one that sends them.
    let w = cx.whole();
    let mut devs: Vec<_> = now.devs.values().filter(|d| on(&of(&d.name))).collect();
    devs.sort_by_key(|d| std::cmp::Reverse(look::by(look::stat(&w, d, "tx_packets"))));
    let mut found = rule
        .found(cx, "")
        .shows(sent)
        .warning()
        .titled("packets come to this router that it sends back to the same link")
        .sysctl(all)
        .because("Their senders have no route of their own to the right gateway.");
    if on(all) {
        found = found.advise(
            "If the detour is meant: do not tell the senders (for all devices; then for each).",
            sysctl(all, 0),
            Risk::Safe,
        );
    }
    if let Some(dev) = devs.first() {
        found = found.advise(
            "If the detour is meant: do not tell the senders on this device.",
            sysctl(&of(&dev.name), 0),
            Risk::Safe,
        );
    }
    found.suggest("Give the senders a route to the right gateway.").done()
}
