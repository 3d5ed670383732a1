//! `RTM_GETQDISC`: queueing disciplines, those that nobody asked for among them.
//!
//! Linux: net/sched/sch_api.c `tc_fill_qdisc`, net/core/gen_stats.c, include/uapi/linux/pkt_sched.h

use std::collections::{BTreeMap, BTreeSet};

use super::attr::{DUMP, Request, array, fields, find, messages, named, number, text_of, u32_at};
use crate::counters::Counters;
use crate::snapshot::{Qdisc, Snapshot};

/// The request's name.
pub(super) const NAME: &str = "netlink/route/RTM_GETQDISC";

const RTM_NEWQDISC: u16 = 36;
pub(super) const RTM_GETQDISC: u16 = 38;
/// `sizeof(struct tcmsg)`: family, padding, index, handle, parent, info.
pub(super) const TCMSG: usize = 20;

pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;
const TCA_STATS: u16 = 3;
const TCA_XSTATS: u16 = 4;
const TCA_STATS2: u16 = 7;
const TCA_DUMP_INVISIBLE: u16 = 10;

const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_APP: u16 = 4;
const TCA_STATS_PKT64: u16 = 8;

/// `TC_H_ROOT`, `TC_H_INGRESS` (and clsact's).
pub(super) const ROOT: u32 = 0xffff_ffff;
pub(super) const INGRESS: u32 = 0xffff_fff1;

/// The request.
pub(super) fn request() -> Request {
    // Leaves of mq and the like are not shown without TCA_DUMP_INVISIBLE (since 4.12).
    Request::new(RTM_GETQDISC, DUMP, &[0; TCMSG]).attr(TCA_DUMP_INVISIBLE, &[])
}

/// Reads the answer; `names` are those of the devices by index.
pub fn qdiscs(bytes: &[u8], names: &BTreeMap<u32, String>, into: &mut Snapshot) {
    let mut of: BTreeMap<&str, Vec<Qdisc>> = BTreeMap::new();
    for message in messages(bytes).filter(|m| m.kind == RTM_NEWQDISC) {
        let index = u32_at(message.body, 4);
        let Some(name) = index.and_then(|i| names.get(&i)) else { continue };
        of.entry(name).or_default().extend(one(message.body, name));
    }
    for (name, qdiscs) in of {
        if let Some(dev) = into.devs.get_mut(name) {
            dev.qdiscs = qdiscs;
        }
    }
}

fn one(body: &[u8], dev: &str) -> Option<Qdisc> {
    let (handle, parent) = (u32_at(body, 8)?, u32_at(body, 12)?);
    let inside = body.get(TCMSG..)?;
    let kind = text_of(inside, TCA_KIND)?;
    let (handle, parent) = (handle_name(handle), parent_name(parent));
    let source = format!("{NAME} {dev} {kind} {handle} {parent}");
    let mut stats = Counters::new(source.as_str());
    let mut xstats = Counters::new(source.as_str());
    let mut options = Counters::new(source);
    read_stats(inside, &mut stats);
    if let Some(own) = own_stats(inside) {
        read_xstats(&kind, own, &mut xstats);
    }
    if let Some(given) = find(inside, TCA_OPTIONS) {
        read_options(&kind, given, &mut options);
    }
    Some(Qdisc { kind, handle, parent, stats, xstats, options })
}

/// What the kind of qdisc or class counts beside that.
pub(super) fn own_stats(inside: &[u8]) -> Option<&[u8]> {
    let own = find(inside, TCA_STATS2).and_then(|s| find(s, TCA_STATS_APP));
    own.or_else(|| find(inside, TCA_XSTATS))
}

/// As tc writes it: major and minor in hexadecimal.
pub(super) fn handle_name(handle: u32) -> String {
    match (handle >> 16, handle & 0xffff) {
        (major, 0) => format!("{major:x}:"),
        (major, minor) => format!("{major:x}:{minor:x}"),
    }
}

pub(super) fn parent_name(parent: u32) -> String {
    match parent {
        ROOT => "root".into(),
        INGRESS => "ingress".into(),
        other => handle_name(other),
    }
}

/// The statistics of a qdisc or a class.
pub(super) fn read_stats(inside: &[u8], into: &mut Counters) {
    let Some(stats) = find(inside, TCA_STATS2) else {
        // struct tc_stats, for kernels that have nothing else.
        if let Some(old) = find(inside, TCA_STATS) {
            let old_layout = [
                ("bytes", 8),
                ("packets", 4),
                ("drops", 4),
                ("overlimits", 4),
                ("", 8),
                ("qlen", 4),
                ("backlog", 4),
            ];
            fields(into, old, &old_layout);
        }
        return;
    };
    read_stats2(stats, into);
}

/// What `TCA_STATS2` and `TCA_ACT_STATS` hold.
pub(super) fn read_stats2(stats: &[u8], into: &mut Counters) {
    const QUEUE: [&str; 5] = ["qlen", "backlog", "drops", "requeues", "overlimits"];
    if let Some(basic) = find(stats, TCA_STATS_BASIC) {
        fields(into, basic, &[("bytes", 8), ("packets", 4)]);
    }
    // Packets in 64 bits come once they do not fit in 32 (since 5.5).
    if let Some(packets) = number(stats, TCA_STATS_PKT64) {
        into.set("packets", packets);
    }
    if let Some(queue) = find(stats, TCA_STATS_QUEUE) {
        array(into, queue, 4, &QUEUE);
    }
}

const RED: [&str; 5] = ["early", "pdrop", "other", "marked", "matched"];

const FQ: [(&str, usize); 23] = [
    ("gc_flows", 8),
    ("highprio_packets", 8),
    ("tcp_retrans", 8),
    ("throttled", 8),
    ("flows_plimit", 8),
    ("pkts_too_long", 8),
    ("allocation_errors", 8),
    ("", 8),
    ("flows", 4),
    ("inactive_flows", 4),
    ("throttled_flows", 4),
    ("unthrottle_latency_ns", 4),
    ("ce_mark", 8),
    ("horizon_drops", 8),
    ("horizon_caps", 8),
    ("fastpath_packets", 8),
    ("band0_drops", 8),
    ("band1_drops", 8),
    ("band2_drops", 8),
    ("band0_pkts", 4),
    ("band1_pkts", 4),
    ("band2_pkts", 4),
    ("", 4),
];

fn read_xstats(kind: &str, own: &[u8], into: &mut Counters) {
    match kind {
        "fq" => fields(into, own, &FQ),
        // The first word tells the qdisc's statistics (0) from a class's.
        "fq_codel" if u32_at(own, 0) == Some(0) => array(
            into,
            own,
            4,
            &[
                "",
                "maxpacket",
                "drop_overlimit",
                "ecn_mark",
                "new_flow_count",
                "new_flows_len",
                "old_flows_len",
                "ce_mark",
                "memory_usage",
                "drop_overmemory",
            ],
        ),
        "codel" => array(
            into,
            own,
            4,
            &[
                "maxpacket",
                "count",
                "lastcount",
                "ldelay",
                "",
                "drop_overlimit",
                "ecn_mark",
                "dropping",
                "ce_mark",
            ],
        ),
        "red" | "choke" | "sfq" | "gred" => array(into, own, 4, &RED),
        "sfb" => array(
            into,
            own,
            4,
            &[
                "earlydrop",
                "penaltydrop",
                "bucketdrop",
                "queuedrop",
                "childdrop",
                "marked",
                "maxqlen",
                "maxprob",
                "avgprob",
            ],
        ),
        "hhf" => {
            array(
                into,
                own,
                4,
                &["drop_overlimit", "hh_overlimit", "hh_tot_count", "hh_cur_count"],
            );
        }
        "pie" => fields(
            into,
            own,
            &[
                ("prob", 8),
                ("delay", 4),
                ("avg_dq_rate", 4),
                ("dq_rate_estimating", 4),
                ("packets_in", 4),
                ("dropped", 4),
                ("overlimit", 4),
                ("maxq", 4),
                ("ecn_mark", 4),
            ],
        ),
        "fq_pie" => array(
            into,
            own,
            4,
            &[
                "packets_in",
                "dropped",
                "overlimit",
                "overmemory",
                "ecn_mark",
                "new_flow_count",
                "new_flows_len",
                "old_flows_len",
                "memory_usage",
            ],
        ),
        "dualpi2" => array(
            into,
            own,
            4,
            &[
                "prob",
                "delay_c",
                "delay_l",
                "packets_in_c",
                "packets_in_l",
                "maxq",
                "ecn_mark",
                "step_marks",
                "",
                "memory_used",
                "max_memory_used",
                "memory_limit",
            ],
        ),
        "cake" => cake(own, into),
        _ => {}
    }
}

/// Totals, and of the tins what they lost, together.
fn cake(own: &[u8], into: &mut Counters) {
    const TIN_DROPPED: u16 = 4;
    const TIN_ACKS_DROPPED: u16 = 6;
    const TIN_MARKED: u16 = 8;
    named(into, own, &["", "", "capacity_estimate64", "memory_limit", "memory_used"]);
    let tins = find(own, 10).unwrap_or_default();
    for (_, tin) in super::attr::attrs(tins) {
        for (kind, name) in
            [(TIN_DROPPED, "drops"), (TIN_ACKS_DROPPED, "ack_drops"), (TIN_MARKED, "ecn_mark")]
        {
            into.add(name, number(tin, kind).unwrap_or(0));
        }
    }
}

fn read_options(kind: &str, given: &[u8], into: &mut Counters) {
    match kind {
        // struct tc_fifo_qopt: packets, or bytes.
        "pfifo" | "bfifo" | "pfifo_head_drop" => array(into, given, 4, &["limit"]),
        "prio" | "pfifo_fast" => array(into, given, 4, &["bands"]),
        "sfq" => array(
            into,
            given,
            4,
            &["quantum", "perturb", "limit", "divisor", "flows", "depth", "headdrop"],
        ),
        // struct tc_netem_qopt; loss is a share of 2^32.
        "netem" => {
            array(into, given, 4, &["latency", "limit", "loss", "gap", "duplicate", "jitter"])
        }
        "fq" => named(into, given, &FQ_OPTIONS),
        "fq_codel" => named(into, given, &FQ_CODEL_OPTIONS),
        "codel" => {
            named(into, given, &["", "target", "limit", "interval", "ecn", "ce_threshold"]);
        }
        "cake" => named(into, given, &["", "", "base_rate_bps"]),
        "pie" => named(into, given, &["", "target", "limit", "tupdate", "alpha", "beta", "ecn"]),
        "fq_pie" => named(into, given, &["", "limit", "flows", "target"]),
        "hhf" => named(into, given, &["", "limit", "quantum"]),
        "dualpi2" => named(into, given, &["", "limit", "memory_limit", "target"]),
        "tbf" => tbf(given, into),
        "htb" => {
            if let Some(init) = find(given, 2) {
                array(into, init, 4, &["", "r2q", "default", "", "direct_packets_stat"]);
            }
            named(into, given, &["", "", "", "", "", "direct_qlen"]);
        }
        _ => {}
    }
}

/// `TCA_FQ_*`, by the names of tc.
pub(super) const FQ_OPTIONS: [&str; 16] = [
    "",
    "limit",
    "flow_limit",
    "quantum",
    "initial_quantum",
    "pacing",
    "",
    "maxrate",
    "buckets_log",
    "refill_delay",
    "orphan_mask",
    "low_rate_threshold",
    "ce_threshold",
    "timer_slack",
    "horizon",
    "horizon_drop",
];

/// `TCA_FQ_CODEL_*`, by the names of tc.
pub(super) const FQ_CODEL_OPTIONS: [&str; 10] = [
    "",
    "target",
    "limit",
    "interval",
    "ecn",
    "flows",
    "quantum",
    "ce_threshold",
    "drop_batch",
    "memory_limit",
];

/// `struct tc_tbf_qopt`, as rate in B/s, burst and limit in bytes.
pub(super) fn tbf(given: &[u8], into: &mut Counters) {
    const RATE_AT: usize = 8;
    const LIMIT_AT: usize = 24;
    let parms = find(given, 1).unwrap_or_default();
    let rate = number(given, 4).or_else(|| u32_at(parms, RATE_AT).map(u64::from));
    if let Some(rate) = rate {
        into.set("rate_bps", rate);
        // The burst is kept as the time that it takes, in ticks of 64 ns.
        let ticks = u32_at(parms, LIMIT_AT + 4).map(u64::from);
        if let Some(ticks) = ticks {
            let bytes = u128::from(ticks) * 64 * u128::from(rate) / 1_000_000_000;
            into.set("burst", u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }
    if let Some(limit) = u32_at(parms, LIMIT_AT) {
        into.set("limit", limit.into());
    }
    if let Some(burst) = number(given, 6) {
        into.set("burst", burst);
    }
}

/// The qdisc of a device at this place: kind, handle, options as they lie.
pub(super) fn qdisc_at(bytes: &[u8], index: u32, parent: u32) -> Option<(String, u32, &[u8])> {
    of_device(bytes, index).find(|body| u32_at(body, 12) == Some(parent)).and_then(|body| {
        let inside = body.get(TCMSG..)?;
        let options = find(inside, TCA_OPTIONS).unwrap_or_default();
        Some((text_of(inside, TCA_KIND)?, u32_at(body, 8)?, options))
    })
}

/// Whether a device has qdiscs below this handle that somebody asked for.
pub(super) fn has_children(bytes: &[u8], index: u32, handle: u32) -> bool {
    of_device(bytes, index).any(|body| {
        let (own, parent) = (u32_at(body, 8), u32_at(body, 12));
        own != Some(0) && parent.is_some_and(|p| handle != 0 && p >> 16 == handle >> 16)
    })
}

/// Each qdisc's device, handle and kind.
pub(super) fn handles(bytes: &[u8]) -> impl Iterator<Item = (u32, u32, String)> {
    messages(bytes).filter(|m| m.kind == RTM_NEWQDISC).filter_map(|m| {
        let kind = text_of(m.body.get(TCMSG..)?, TCA_KIND)?;
        Some((u32_at(m.body, 4)?, u32_at(m.body, 8)?, kind))
    })
}

/// Indices of the devices that have a qdisc of a kind that `is` wants.
pub(super) fn devices(bytes: &[u8], is: impl Fn(&str) -> bool) -> BTreeSet<u32> {
    handles(bytes).filter(|(.., kind)| is(kind)).map(|(index, ..)| index).collect()
}

fn of_device(bytes: &[u8], index: u32) -> impl Iterator<Item = &[u8]> {
    messages(bytes)
        .filter(move |m| m.kind == RTM_NEWQDISC && u32_at(m.body, 4) == Some(index))
        .map(|m| m.body)
}
