//! XDP, filters at ingress, taps, and frames that are for nobody here.

use linerate_core::table::Stage;

use super::look::{self, by, driver, stat};
use super::{Check, Rule};
use crate::finding::{Finding, Severity};
use crate::ledger;
use crate::snapshot::{Dev, Filter};
use crate::window::{Cx, Sum, Window};

/// R26 to R30.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R26",
        name: "xdp-loss",
        title: "the XDP program or its sockets drop packets",
        stage: Stage::Xdp,
        evidence: "A counter of the driver with `xdp_drop` in its name, or `rx_dropped`, \
            `rx_ring_full` or `rx_fill_ring_empty_descs` of an AF_XDP socket grows, or drops by \
            reason XDP are seen; at least `loss_ratio` of what is received.",
        causes: "The program drops by policy, or aborts; or the application behind an AF_XDP \
            socket is too slow to refill or to read.",
        advice: "A program that aborts must be mended. AF_XDP: larger rings, more polling.",
        traps: "No counter of IP sees these packets. On a veth, drops and aborts are one counter; \
            the generic mode moves none.",
        cites: &[
            "drivers/net/veth.c veth_xdp_rcv_skb",
            "include/uapi/linux/if_xdp.h struct xdp_statistics",
        ],
        suppresses: &["R29", "R73", "R18"],
        check: Check::Dev(xdp),
    },
    Rule {
        id: "R27",
        name: "ingress-filter-drop",
        title: "a filter at ingress drops packets",
        stage: Stage::Link,
        evidence: "Drops of the ingress or clsact qdisc grow, or drops by reason TC_INGRESS are \
            seen; at least `noise_ratio` of what is received.",
        causes: "A policer or a filter of tc, or a program attached there; it is what somebody \
            asked for. The action whose `drops` grow says which.",
        advice: "Look at the filters: `tc -s filter show dev DEV ingress`.",
        traps: "Programs attached by tcx show in no counter of tc.",
        cites: &["net/core/dev.c sch_handle_ingress"],
        suppresses: &["R29"],
        check: Check::Dev(ingress),
    },
    Rule {
        id: "R28",
        name: "tap-left-on",
        title: "a capture gets a copy of every packet and does not keep up",
        stage: Stage::Link,
        evidence: "A packet socket for all protocols drops what it can not hold.",
        causes: "A capture or a monitor that was left running, or is too slow. Every packet is \
            copied for it.",
        advice: "Stop it, or give it a filter and a larger buffer.",
        traps: "While a capture runs, frames of unknown protocols do not count as dropped.",
        cites: &["net/packet/af_packet.c packet_rcv", "measured: 500 packets, 490 drops"],
        suppresses: &[],
        check: Check::Host(tap),
    },
    Rule {
        id: "R29",
        name: "rx-dropped-benign",
        title: "the device counts packets as dropped that no stage has lost",
        stage: Stage::Link,
        evidence: "`rx_dropped` grows by `benign_per_s` or more beside what rings and backlogs \
            say.",
        causes: "Frames of protocols that nobody here speaks (LLDP, spanning tree, foreign \
            Ethernet types) are counted as dropped. With reasons of drops it is certain: \
            UNHANDLED_PROTO.",
        advice: "None, if so. A drop monitor says which frames they are.",
        traps: "This counter is a poor alarm: mostly nothing is lost.",
        cites: &["net/core/dev.c __netif_receive_skb_core", "measured: unknown Ethernet type"],
        suppresses: &[],
        check: Check::Dev(benign),
    },
    Rule {
        id: "R30",
        name: "not-our-frames",
        title: "frames arrive that are addressed to another host",
        stage: Stage::Link,
        evidence: "`rx_otherhost_dropped` grows by `benign_per_s` or more, at least `noise_ratio` \
            of what is received, or `rx_nohandler` does on a device that is not part of a bond.",
        causes: "The switch floods (its table is full or has forgotten), the device is \
            promiscuous, or somebody has a wrong neighbour entry. Frames with a VLAN tag for which \
            there is no device count here as well.",
        advice: "Look at the switch's table, at promiscuous mode, at the sender's neighbours.",
        traps: "The inactive part of a bond counts `rx_nohandler` all the time; that is right.",
        cites: &[
            "include/uapi/linux/if_link.h rx_otherhost_dropped",
            "measured: wrong MAC address",
        ],
        suppresses: &[],
        check: Check::Dev(otherhost),
    },
];

fn received<'a>(w: &Window<'a>, dev: &Dev) -> Option<Sum> {
    stat(w, dev, "rx_packets")
}

fn xdp(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let rings = |w: &Window<'_>| {
        let mine = w.to.sockets.xdp.iter().enumerate().filter(|(_, (name, ..))| *name == dev.name);
        let all = mine.flat_map(|(_, (name, queue, _))| {
            ["rx_dropped", "rx_ring_full", "rx_fill_ring_empty_descs"].map(|counter| {
                let is = |(n, q, _): &&(String, u32, _)| n == name && q == queue;
                w.of(counter, |s| s.sockets.xdp.iter().find(is).map(|(_, _, c)| c))
            })
        });
        Sum::of(all.collect::<Vec<_>>())
    };
    let program = |w: &Window<'_>| {
        let named = driver(w, &dev.name, |name| name.contains("xdp_drop"));
        let seen = || {
            w.drops(|why, at| why == "XDP" || at == "veth_xdp_rcv_skb" || at == "do_xdp_generic")
        };
        named.filter(|sum| sum.by > 0).or_else(|| dev.xdp.as_ref().and_then(|_| seen()))
    };
    let limit = cx.limits.loss_ratio;
    if let Some(lost) = cx.lossy(limit, rings, |w| received(w, dev)) {
        return Some(
            rule.found(cx, &dev.name)
                .loss(&lost)
                .because(
                    "The rings of an AF_XDP socket are full, or empty where they should be full: \
                    its application is too slow.",
                )
                .suggest("Make the socket's rings larger, or poll it more often.")
                .done(),
        );
    }
    let lost = cx.lossy(limit, program, |w| received(w, dev))?;
    let found = rule.found(cx, &dev.name).stray(&lost);
    let found = match &dev.xdp {
        Some((mode, id)) => found
            .is("netlink/route/RTM_GETLINK", mode, u64::from(*id))
            .because(format!("Program {id}, attached as {mode}, drops or aborts.")),
        None => found.because("A program dropped or aborted; none is attached now."),
    };
    Some(
        found
            .suggest(
                "Look whether the program means to drop them: `bpftool prog show`, the tracepoint \
                xdp:xdp_exception.",
            )
            .done(),
    )
}

fn ingress(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let at = |s: &crate::Snapshot| {
        s.devs.get(&dev.name)?.qdiscs.iter().position(|q| q.kind == "ingress" || q.kind == "clsact")
    };
    at(cx.now())?;
    let filter = |w: &Window<'_>| {
        let drops = w.of("drops", |s| {
            let qdiscs = &s.devs.get(&dev.name)?.qdiscs;
            let ingress = qdiscs.iter().find(|q| q.kind == "ingress" || q.kind == "clsact");
            ingress.map(|q| &q.stats)
        });
        let seen = || w.drops(|why, _| why == "TC_INGRESS");
        drops.map(Sum::from).filter(|sum| sum.by > 0).or_else(seen)
    };
    let lost = look::noise(cx, filter, |w| received(w, dev))?;
    let (worst, by_action) = culprit(cx, dev);
    let found = rule.found(cx, &dev.name).stray(&lost);
    let found = match by_action {
        Some(drops) => found.shows(&drops),
        None => found,
    };
    let place = worst.map_or("ingress", |filter| filter.at.as_str());
    let found = match worst {
        Some(f) if f.direct => found.because(format!(
            "The program {} there decides it (preference {}).",
            f.program, f.pref
        )),
        Some(f) => {
            let does: Vec<String> =
                f.actions.iter().map(|a| format!("{} {}", a.kind, a.does)).collect();
            found.because(format!(
                "The filter {} of preference {} at {} does it: {}.",
                f.kind,
                f.pref,
                f.at,
                does.join(", ")
            ))
        }
        None => found.because("A filter, a policer or a program at ingress does it."),
    };
    let found = match place {
        "egress" => found.titled("a filter at egress drops packets"),
        _ => found,
    };
    Some(
        found
            .suggest(format!("Is it meant? `tc -s filter show dev {} {place}` shows it.", dev.name))
            .done(),
    )
}

/// The filter at ingress or egress whose actions dropped most in the run; if none counts, the only
/// program there that decides by itself.
fn culprit<'a>(cx: &Cx<'a>, dev: &Dev) -> (Option<&'a Filter>, Option<Sum>) {
    let w = cx.whole();
    let Some(dev) = w.to.devs.get(&dev.name) else { return (None, None) };
    let here = |f: &&Filter| f.at == "ingress" || f.at == "egress";
    let dropped = |f: &Filter| {
        let key = (f.at.clone(), f.pref, f.handle.clone());
        Sum::of((0..f.actions.len()).map(|n| {
            w.of("drops", |s| {
                let mut all = s.devs.get(&dev.name)?.filters.iter();
                let is = |o: &&Filter| (&o.at, o.pref, &o.handle) == (&key.0, key.1, &key.2);
                all.find(is)?.actions.get(n).map(|a| &a.stats)
            })
        }))
    };
    let counted = dev.filters.iter().filter(here).filter_map(|f| Some((f, dropped(f)?)));
    let worst = counted.filter(|(_, sum)| sum.by > 0).max_by_key(|(_, sum)| sum.by);
    if let Some((filter, sum)) = worst {
        return (Some(filter), Some(sum));
    }
    let programs: Vec<&Filter> = dev.filters.iter().filter(here).filter(|f| f.direct).collect();
    (programs.first().copied().filter(|_| programs.len() == 1), None)
}

fn tap(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let w = cx.whole();
    let drops = w.tap_drops();
    let (tap, lost) = drops.into_iter().find(|(tap, _)| tap.protocol == 3)?;
    let lost = Sum::from(lost);
    if w.is_lifetime() && (lost.by as f64) < cx.limits.burst {
        return None;
    }
    let who = look::owner(&tap.owner);
    let dev = tap.dev.as_deref().unwrap_or("all devices");
    Some(
        rule.found(cx, format!("capture on {dev}"))
            .stray(&lost)
            .because(format!("{who} has it."))
            .suggest("Stop it, or give it a filter and a larger buffer.")
            .done(),
    )
}

fn benign(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let w = cx.whole();
    let dropped = cx.grew(|w| stat(w, dev, "rx_dropped"))?;
    if look::is_tun(dev) || (w.is_lifetime() && !enough_since_boot(cx, dev, &dropped)) {
        return None;
    }
    let ledger = ledger::of(&w);
    let strange = ledger.losses.iter().find(|loss| {
        loss.subject == dev.name && loss.expected && loss.what == "protocol nobody speaks"
    });
    let left = ledger.unexplained(&dev.name, "rx_dropped");
    let (count, per_s) = match (strange, left) {
        (Some(a), Some(b)) => (a.count.saturating_add(b.count), a.per_s + b.per_s),
        (Some(a), None) | (None, Some(a)) => (a.count, a.per_s),
        (None, None) => return None,
    };
    if !w.is_lifetime() && per_s < cx.limits.benign_per_s {
        return None;
    }
    let known = strange.is_some_and(|loss| loss.count as f64 >= 0.95 * count as f64);
    let found = rule.found(cx, &dev.name).shows(&dropped).at(Severity::Info);
    let found = match known {
        true => found
            .shows_if(w.drops(|why, _| why == "UNHANDLED_PROTO"))
            .because("Frames of protocols that nobody here speaks: no loss.")
            .suggest("Nothing needs to be done."),
        false => found
            .because(
                "Rings and backlogs dropped nothing. Probably frames of protocols that nobody here \
                speaks; reasons of drops would prove it.",
            )
            .suggest("Run it as root with tracefs mounted, so that the reasons are read."),
    };
    Some(found.done())
}

fn enough_since_boot(cx: &Cx<'_>, dev: &Dev, dropped: &Sum) -> bool {
    let packets = by(stat(&cx.whole(), dev, "rx_packets"));
    dropped.by as f64 >= 0.05 * packets.max(1) as f64 && dropped.per_s >= cx.limits.benign_per_s
}

fn otherhost(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let foreign = |w: &Window<'_>| {
        let other = w.dev(&dev.name, "rx_otherhost_dropped");
        let nobody = w.dev(&dev.name, "rx_nohandler").filter(|_| dev.master.is_none());
        Sum::of([other, nobody])
    };
    let seen = look::noise(cx, foreign, |w| received(w, dev))?;
    if seen.per_s < cx.limits.benign_per_s {
        return None;
    }
    let found = rule.found(cx, &dev.name).shows(&seen).at(Severity::Info);
    let found = match dev.promiscuity {
        0 => found.because(
            "The switch floods, a sender has a wrong neighbour entry, or the frames carry a VLAN \
            tag for which there is no device here.",
        ),
        n => found
            .is("netlink/route/RTM_GETLINK", "promiscuity", u64::from(n))
            .because("The device is promiscuous."),
    };
    Some(found.suggest("Look at the switch's address table and at the sender's neighbours.").done())
}
