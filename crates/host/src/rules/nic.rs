//! The wire, the device and its receive ring.

use linerate_core::table::Stage;

use super::look::{self, by, driver, ethtool, rate, standard, stat};
use super::{Check, Rule};
use crate::change::Change;
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::Dev;
use crate::window::{Cx, Sum, Window, total};

/// R01, R02, R04 to R07.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R01",
        name: "rx-ring-overrun",
        title: "the device drops packets because its receive ring is full",
        stage: Stage::Ring,
        evidence: "`rx_missed_errors`, `rx_fifo_errors`, a name of the driver for the same (such \
            as `rx_no_dma_resources`, `rx_out_of_buffer`) or `rx-hw-drop-overruns` grows, in at \
            least `loss_ratio` of what is received. They count one event in several ways: the \
            largest is the loss.",
        causes: "The processor that serves the interrupt is full (`cpu_full`): it can not empty \
            the ring, however large. It has time left: bursts are longer than the ring. Pause \
            frames go out, or the bus is stalled: the host can not take what the device has.",
        advice: "Full processor: more queues, their interrupts on other processors, or RPS. \
            Bursts: double the ring, and look again. Ring at its most: shorter coalescing, more \
            queues.",
        traps: "Most drivers take the link down for a moment to change a ring. The largest ring is \
            not the best: it costs cache and adds delay. Names differ between drivers, and \
            software devices have no such counter.",
        cites: &[
            "include/uapi/linux/if_link.h struct rtnl_link_stats64",
            "Documentation/networking/statistics.rst",
        ],
        suppresses: &["R18", "R29", "R55", "R56"],
        check: Check::Dev(ring),
    },
    Rule {
        id: "R02",
        name: "rx-alloc",
        title: "the driver gets no memory for received packets",
        stage: Stage::Ring,
        evidence: "`rx-alloc-fail` of the queue statistics, or a name of the driver for failed \
            allocations, grows.",
        causes: "The ring is not full; the kernel's reserve of free pages is. Large buffers (jumbo \
            frames) need several pages in a row, which are rarer.",
        advice: "A larger reserve: `vm.min_free_kbytes`. Smaller buffers: MTU, `rx-buf-len`.",
        traps: "A larger ring makes it worse.",
        cites: &["Documentation/netlink/specs/netdev.yaml rx-alloc-fail"],
        suppresses: &["R29"],
        check: Check::Dev(alloc),
    },
    Rule {
        id: "R04",
        name: "phy-errors",
        title: "frames arrive damaged",
        stage: Stage::Ring,
        evidence: "`rx_crc_errors` and `rx_frame_errors`, or blocks that FEC could not mend, are \
            at least `phy_ratio` of what is received.",
        causes: "A cable, a transceiver or a port; with collisions or length errors a duplex or \
            MTU mismatch. Software can not do it.",
        advice: "Change the cable or transceiver, clean the fibre, look at the peer's counters.",
        traps: "Some drivers count what another function of the same port received.",
        cites: &["Documentation/networking/statistics.rst"],
        suppresses: &[],
        check: Check::Dev(phy),
    },
    Rule {
        id: "R05",
        name: "oversize-frames",
        title: "frames are longer than the receiving device takes",
        stage: Stage::Ring,
        evidence: "`rx_length_errors` of hardware grows; or drops in `__dev_forward_skb2` are seen \
            while `rx_dropped` or `tx_dropped` of a veth grows; or its peer has a smaller MTU \
            while `tx_dropped` grows.",
        causes: "The sender's MTU is larger than the receiver's. UDP senders see no error \
            (`SndbufErrors` counts them); TCP stalls with full segments only.",
        advice: "The same MTU on both ends of a link.",
        traps: "Many devices reset when their MTU changes. The same drop shows as `tx_dropped` of \
            one end and `rx_dropped` of the other.",
        cites: &["net/core/dev.c __dev_forward_skb2", "measured: MTU 9000 into 1500 over veth"],
        suppresses: &["R29", "R47", "R73", "R55", "R56", "R39"],
        check: Check::Dev(oversize),
    },
    Rule {
        id: "R06",
        name: "link-flap",
        title: "the link goes down and up",
        stage: Stage::Ring,
        evidence: "`carrier_changes` grew by at least `flaps` in the run.",
        causes: "Cable, transceiver, autonegotiation, the peer's port; or somebody changes rings \
            or queues, which resets the device.",
        advice: "Look at the peer and at the kernel's log. No setting mends it.",
        traps: "Changing rings, queues or the MTU makes one such change itself.",
        cites: &["Documentation/ABI/testing/sysfs-class-net carrier_changes"],
        suppresses: &["R06b", "R55", "R56", "R29"],
        check: Check::Dev(flap),
    },
    Rule {
        id: "R06b",
        name: "link-down",
        title: "packets go to a device whose link is down",
        stage: Stage::Xmit,
        evidence: "The device is up, has no carrier, and lost it in the run or drops what is sent.",
        causes: "The peer is down, or the cable is out; a route still points there.",
        advice: "Bring the peer up, or take the route away.",
        traps: "Most of what is sent into such a device is in no counter at all.",
        cites: &["measured: peer of a veth set down", "net/sched/sch_generic.c dev_deactivate"],
        suppresses: &["R41", "R47", "R60", "R73", "R55", "R56", "R39"],
        check: Check::Dev(down),
    },
    Rule {
        id: "R07",
        name: "pause-storm",
        title: "pause frames stop the link",
        stage: Stage::Ring,
        evidence: "Pause frames, received or sent, at `pause_per_s` or more.",
        causes: "Received: the switch tells us to wait, the network is slow. Sent: this host takes \
            packets too slowly, its ring or bus is full.",
        advice: "Sent: as for a full ring. Received: look for the slow receiver behind the switch. \
            Turn pause off only if loss is better than waiting.",
        traps: "RDMA and storage networks need pause. Without pause the loss moves into the ring.",
        cites: &["Documentation/networking/statistics.rst pause"],
        suppresses: &["R67", "R68"],
        check: Check::Dev(pause),
    },
];

fn ring(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if !look::is_hardware(dev) {
        return None;
    }
    let received = |w: &Window<'_>| w.dev(&dev.name, "rx_packets").map(Sum::from);
    let lost = cx.lossy(cx.limits.loss_ratio, |w| look::ring(w, &dev.name), received)?;
    let found = rule.found(cx, &dev.name).loss(&lost);
    let serving = look::serving(cx, dev);
    let full = serving.iter().copied().find(|cpu| look::is_full(cx, *cpu));
    let stalled = sent_pause(&cx.whole(), dev);
    if let Some(cpu) = full {
        let mut found = found.because(format!(
            "cpu{cpu}, which serves it, is full of softirq: no ring is large enough."
        ));
        for (what, change, risk) in super::steer::ladder(cx, dev, cpu) {
            found = found.advise(what, change, risk);
        }
        return Some(found.suggest("Make each packet cheaper: GRO, fewer rules, XDP.").done());
    }
    if by(stalled.clone()) > 0 {
        return Some(
            found
                .shows_if(stalled)
                .because(
                    "It also sends pause frames or waits for the bus: the host takes packets too \
                    slowly.",
                )
                .suggest("Look at the bus (lspci -vv: LnkSta) and at the device's NUMA node.")
                .done(),
        );
    }
    let (now, most) = (dev.rings.get("rx"), dev.rings.get("rx-max"));
    let found = match serving.iter().any(|cpu| look::softirq(cx, *cpu).is_some()) {
        true => found.because(
            "The processors that serve it have time left: bursts are longer than the ring.",
        ),
        false => found.because(
            "Whether its processors have time left is not known; else bursts are longer than the ring.",
        ),
    };
    let found = match (now, most) {
        (Some(now), Some(most)) if now < most => {
            let next = now.saturating_mul(2).min(most);
            found.is(dev.rings.source(), "rx", now).is(dev.rings.source(), "rx-max", most).advise(
                "Double the receive ring.",
                ethtool('G', dev, &[("rx", next.to_string())]),
                Risk::Flap,
            )
        }
        (Some(now), Some(_)) => found
            .is(dev.rings.source(), "rx", now)
            .because("The ring is as large as it can be.")
            .suggest("Shorten the coalescing of interrupts, or use more queues."),
        _ => {
            found.suggest("Enlarge the receive ring where the driver or the hypervisor allows it.")
        }
    };
    Some(found.done())
}

fn sent_pause<'a>(w: &Window<'a>, dev: &Dev) -> Option<Sum> {
    let names =
        ["tx_pause_frames", "tx_pause_ctrl_phy", "tx_flow_control_xoff", "outbound_pci_stalled_wr"];
    standard(w, &dev.name, "tx_pause_frames", &names)
}

fn alloc(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let fails = |name: &str| {
        name.starts_with("rx")
            && name.contains("alloc")
            && (name.contains("fail") || name.contains("err"))
    };
    let lost = cx.grew(|w| {
        let queues = w.dev_of(&dev.name, "rx-alloc-fail", |d| &d.qstats).map(Sum::from);
        queues.or_else(|| driver(w, &dev.name, fails))
    })?;
    let found = rule.found(cx, &dev.name).loss(&lost);
    let found = match cx.now().buddy.as_slice() {
        [] => found,
        blocks => {
            let large = total(blocks.iter().skip(1).copied());
            found.is("/proc/buddyinfo", "free blocks of two pages and more", large)
        }
    };
    Some(
        found
            .sysctl("vm.min_free_kbytes")
            .because("Memory ran out for the moment, not the ring.")
            .advise_if(
                "Double the kernel's reserve of free pages.",
                look::more(cx, "vm.min_free_kbytes", 2, 1 << 22),
                Risk::Mem,
            )
            .suggest("Use smaller receive buffers: a smaller MTU, or `ethtool -G DEV rx-buf-len`.")
            .done(),
    )
}

fn phy(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let damaged = |w: &Window<'_>| {
        let crc = Sum::of(["rx_crc_errors", "rx_frame_errors"].map(|name| w.dev(&dev.name, name)));
        let std = |name| w.dev_of(&dev.name, name, |d| &d.std_stats);
        let fcs = std("FrameCheckSequenceErrors").map(Sum::from);
        let fec = std("fec_uncorrectable_blocks").map(Sum::from);
        [crc, fcs, fec].into_iter().flatten().max_by_key(|sum| sum.by)
    };
    let lost = cx.lossy(cx.limits.phy_ratio, damaged, |w| stat(w, dev, "rx_packets"))?;
    Some(
        rule.found(cx, &dev.name)
            .loss(&lost)
            .because("The frames' checksums are wrong when they arrive: the wire, not the host.")
            .suggest(
                "Change the cable or transceiver, clean the fibre, and look at the peer's port.",
            )
            .done(),
    )
}

fn oversize(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    if look::is_hardware(dev) {
        let lost = cx.lossy(
            cx.limits.loss_ratio,
            |w| stat(w, dev, "rx_length_errors"),
            |w| stat(w, dev, "rx_packets"),
        )?;
        let found = rule.found(cx, &dev.name).loss(&lost);
        let mtu = u64::from(dev.mtu);
        return Some(
            found
                .is("netlink/route/RTM_GETLINK", "mtu", mtu)
                .because("Somebody on this link has a larger MTU.")
                .suggest("Give all ends of the link the same MTU.")
                .done(),
        );
    }
    if !look::is_veth(dev) {
        return None;
    }
    let dropped =
        |w: &Window<'_>| Sum::same(["rx_dropped", "tx_dropped"].map(|name| w.dev(&dev.name, name)));
    let lost = cx.grew(dropped)?;
    let seen =
        cx.grew(|w| w.drops(|_, at| at == "__dev_forward_skb2" || at == "__dev_forward_skb"));
    let here = cx.now().devs.values().find(|d| Some(d.ifindex) == dev.link);
    let peer = here.filter(|_| dev.link_netnsid.is_none() && look::is_veth(dev));
    let smaller = peer.filter(|peer| peer.mtu < dev.mtu);
    let seen = seen.filter(|seen| seen.by.saturating_mul(2) >= lost.by);
    let softnet = Sum::of(cx.now().softnet.keys().map(|c| cx.whole().softnet(*c, "dropped")))
        .map_or(0, |s| s.by);
    if seen.is_none() && (smaller.is_none() || softnet > 0) {
        return None;
    }
    let found = rule.found(cx, &dev.name).loss(&lost).shows_if(seen).is(
        "netlink/route/RTM_GETLINK",
        "mtu",
        u64::from(dev.mtu),
    );
    let found = match smaller {
        Some(peer) => found
            .is("netlink/route/RTM_GETLINK", &format!("mtu of {}", peer.name), u64::from(peer.mtu))
            .because(format!("Its peer {} takes at most {} bytes.", peer.name, peer.mtu))
            .advise(
                "Give this end the MTU of its peer.",
                Change::Link {
                    dev: dev.name.clone(),
                    name: "mtu".into(),
                    value: peer.mtu.to_string(),
                },
                Risk::Flap,
            ),
        None => found
            .because("The receiving end of the veth refused them for their length.")
            .suggest("Give both ends of the veth the same MTU."),
    };
    Some(found.done())
}

fn flap(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let w = cx.whole();
    if w.is_lifetime() {
        return None;
    }
    let changes = w.dev_of(&dev.name, "carrier_changes", |d| &d.carrier)?;
    if (changes.by as f64) < cx.limits.flaps {
        return None;
    }
    let mut found = rule.found(cx, &dev.name).shows(&changes.into()).at(Severity::Critical);
    if !look::is_hardware(dev) {
        found = found.warning();
    }
    Some(
        found
            .because("The carrier was lost and found while we looked.")
            .suggest(
                "Look at the peer's port, the cable and the kernel's log; stop what changes rings \
                or queues in a loop.",
            )
            .done(),
    )
}

fn down(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let w = cx.whole();
    let has = |flag: &str| dev.flags.iter().any(|f| f == flag);
    if w.is_lifetime() || !has("UP") || has("LOWER_UP") || dev.operstate == "up" {
        return None;
    }
    let lost = stat(&w, dev, "tx_dropped").filter(|sum| sum.by > 0);
    let fell = w.dev_of(&dev.name, "carrier_changes", |d| &d.carrier).filter(|d| d.by > 0);
    if lost.is_none() && fell.is_none() {
        return None;
    }
    let found = rule.found(cx, &dev.name).is(
        "netlink/route/RTM_GETLINK",
        "operstate",
        dev.operstate.as_str(),
    );
    let found = found.shows_if(fell.map(Sum::from));
    let found = match &lost {
        Some(lost) => found.loss(lost),
        None => found.warning(),
    };
    Some(
        found
            .because("The device is up, and has no carrier.")
            .suggest("Bring the other end up, or take the routes into this device away.")
            .done(),
    )
}

fn pause(rule: &Rule, cx: &Cx<'_>, dev: &Dev) -> Option<Finding> {
    let names = ["rx_pause_frames", "rx_pause_ctrl_phy", "rx_flow_control_xoff"];
    let got = cx.grew(|w| standard(w, &dev.name, "rx_pause_frames", &names));
    let sent = cx.grew(|w| sent_pause(w, dev));
    let limit = cx.limits.pause_per_s;
    let (got_rate, sent_rate) = (rate(got.clone()), rate(sent.clone()));
    if got_rate.max(sent_rate) < limit {
        return None;
    }
    let found = rule.found(cx, &dev.name).warning();
    let off = dev.pause.get("rx").map(|_| ethtool('A', dev, &[("rx", "off".into())]));
    let found = if got_rate >= sent_rate {
        found
            .shows_if(got)
            .because("The switch tells this host to wait: somebody behind it is slow.")
            .suggest("Look for the slow receiver behind the switch.")
            .advise_if("Do not obey pause frames, if loss is better than waiting.", off, Risk::Flap)
    } else {
        found
            .shows_if(sent)
            .because("This host tells the switch to wait: it takes packets too slowly.")
            .suggest(
                "As for a full ring: more queues, interrupts on more processors, a larger ring.",
            )
    };
    Some(found.done())
}
