//! `RTM_GETTFILTER`: filters at ingress, egress and in qdiscs, and what their actions did.
//!
//! Linux: net/sched/cls_api.c `tcf_fill_node`, net/sched/act_api.c `tcf_action_dump_1`,
//! include/uapi/linux/pkt_cls.h

use std::collections::BTreeMap;
use std::io;

use super::attr::{DUMP, Request, attrs, find, messages, number32, text_of, u32_at};
use super::qdisc::{self, TCA_KIND, TCA_OPTIONS, TCMSG, handle_name, parent_name};
use super::socket::Socket;
use crate::counters::Counters;
use crate::snapshot::{Action, Filter, Snapshot};

/// The request's name: the answers of all places that may have filters.
pub(super) const NAME: &str = "netlink/route/RTM_GETTFILTER";

const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
/// `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS` of clsact.
const CLSACT: [(u32, &str); 2] = [(0xffff_fff2, "ingress"), (0xffff_fff3, "egress")];
/// The handle of ingress and clsact themselves.
const INGRESS: u32 = 0xffff_0000;
/// Qdiscs that have no filters, whatever their place.
pub(super) const WITHOUT: [&str; 12] = [
    "noqueue",
    "pfifo_fast",
    "pfifo",
    "bfifo",
    "tbf",
    "mq",
    "fq",
    "netem",
    "codel",
    "pie",
    "fq_pie",
    "noop",
];
/// Places that are asked, and filters that are kept of one device.
const PLACES_MAX: usize = 512;
const FILTERS_MAX: usize = 512;

/// Where each kind of filter has its actions: `TCA_U32_ACT` and so on.
const ACTIONS: [(&str, u16); 9] = [
    ("u32", 7),
    ("bpf", 1),
    ("matchall", 2),
    ("flower", 3),
    ("basic", 3),
    ("fw", 4),
    ("flow", 9),
    ("route", 6),
    ("cgroup", 1),
];

/// Asks at each place that may have filters.
pub(super) fn dump(socket: &mut Socket) -> io::Result<Vec<u8>> {
    let qdiscs = socket.dump(&qdisc::request())?;
    let mut places = Vec::new();
    for (index, handle, kind) in qdisc::handles(&qdiscs) {
        match kind.as_str() {
            "clsact" => places.extend(CLSACT.map(|(parent, _)| (index, parent))),
            "ingress" => places.push((index, INGRESS)),
            kind if WITHOUT.contains(&kind) || handle == 0 => {}
            _ => places.push((index, handle)),
        }
    }
    let mut answer = Vec::new();
    for (index, parent) in places.into_iter().take(PLACES_MAX) {
        let mut fixed = [0; TCMSG];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[12..16].copy_from_slice(&parent.to_ne_bytes());
        // A qdisc that takes no filters says so; that is no error of ours.
        if let Ok(some) = socket.dump(&Request::new(RTM_GETTFILTER, DUMP, &fixed)) {
            answer.extend(some);
        }
    }
    Ok(answer)
}

/// Reads the answer; `names` are those of the devices by index.
pub fn filters(bytes: &[u8], names: &BTreeMap<u32, String>, into: &mut Snapshot) {
    for message in messages(bytes).filter(|m| m.kind == RTM_NEWTFILTER) {
        let name = u32_at(message.body, 4).and_then(|index| names.get(&index));
        let Some(dev) = name.and_then(|name| into.devs.get_mut(name)) else { continue };
        if dev.filters.len() < FILTERS_MAX {
            let filter = one(message.body, &dev.name);
            dev.filters.extend(filter);
        }
    }
}

fn one(body: &[u8], dev: &str) -> Option<Filter> {
    let (handle, parent, info) = (u32_at(body, 8)?, u32_at(body, 12)?, u32_at(body, 16)?);
    let inside = body.get(TCMSG..)?;
    let kind = text_of(inside, TCA_KIND)?;
    let options = find(inside, TCA_OPTIONS).unwrap_or_default();
    // A head without options stands for the whole table of filters of one preference.
    if options.is_empty() {
        return None;
    }
    let at = match CLSACT.iter().find(|(place, _)| *place == parent) {
        Some((_, name)) => (*name).to_owned(),
        None if parent == INGRESS => "ingress".to_owned(),
        None => parent_name(parent),
    };
    let source = format!("{NAME} {dev} {at} pref {} {kind}", info >> 16);
    let list =
        ACTIONS.iter().find(|(name, _)| *name == kind).and_then(|(_, at)| find(options, *at));
    let actions = attrs(list.unwrap_or_default());
    let actions = actions.enumerate().filter_map(|(n, (_, bytes))| action(bytes, &source, n));
    let (program, direct) = match kind.as_str() {
        "bpf" => (text_of(options, 7), number32(options, 8).is_some_and(|flags| flags & 1 != 0)),
        _ => (None, false),
    };
    Some(Filter {
        at,
        pref: info >> 16,
        handle: handle_name(handle),
        program: program.unwrap_or_default(),
        direct,
        actions: actions.collect(),
        kind,
    })
}

/// What an action does when its condition holds: `TC_ACT_*`, which may be negative.
fn verdict(action: u32) -> &'static str {
    match action.cast_signed() {
        0 => "ok",
        1 => "reclassify",
        2 => "drop",
        3 => "pipe",
        4 | 5 => "stolen",
        7 => "redirect",
        -1 => "continue",
        _ => "other",
    }
}

fn action(bytes: &[u8], source: &str, place: usize) -> Option<Action> {
    const KIND: u16 = 1;
    const OPTIONS: u16 = 2;
    const STATS: u16 = 4;
    let kind = text_of(bytes, KIND)?;
    let options = find(bytes, OPTIONS).unwrap_or_default();
    // struct tc_police has no `capab` before what it does, all others have (`tc_gen`).
    let (attr, at) = if kind == "police" { (1, 4) } else { (2, 8) };
    let does = find(options, attr).and_then(|parms| u32_at(parms, at)).map_or("", verdict);
    let mut stats = Counters::new(format!("{source} action {place} {kind}"));
    qdisc::read_stats2(find(bytes, STATS).unwrap_or_default(), &mut stats);
    Some(Action { kind, does: does.to_owned(), stats })
}
