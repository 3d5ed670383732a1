//! `RTM_GETTCLASS`: the classes of queueing disciplines that have some.
//!
//! Linux: net/sched/sch_api.c `tc_fill_tclass`, net/sched/sch_htb.c `htb_dump_class`

use std::collections::BTreeMap;
use std::io;

use super::attr::{DUMP, Request, fields, find, messages, number, text_of, u32_at};
use super::qdisc::{self, TCA_KIND, TCA_OPTIONS, TCMSG, handle_name, parent_name, read_stats};
use super::socket::Socket;
use crate::counters::Counters;
use crate::snapshot::{Class, Snapshot};

/// The request's name: the answers of all devices that have such qdiscs.
pub(super) const NAME: &str = "netlink/route/RTM_GETTCLASS";

const RTM_NEWTCLASS: u16 = 40;
const RTM_GETTCLASS: u16 = 42;
/// Of these, classes say more than their leaves do, and they are as many as somebody made.
const KINDS: [&str; 10] =
    ["htb", "hfsc", "drr", "qfq", "ets", "prio", "mqprio", "multiq", "mq", "taprio"];
/// Devices that are asked for theirs.
const DEVS_MAX: usize = 256;
/// Classes that are kept of one device.
const CLASSES_MAX: usize = 1024;

/// Asks for the classes of each device of which `qdiscs` has one of those kinds.
pub(super) fn dump(socket: &mut Socket) -> io::Result<Vec<u8>> {
    let qdiscs = socket.dump(&qdisc::request())?;
    let mut answer = Vec::new();
    for index in qdisc::devices(&qdiscs, |kind| KINDS.contains(&kind)).into_iter().take(DEVS_MAX) {
        let mut fixed = [0; TCMSG];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        answer.extend(socket.dump(&Request::new(RTM_GETTCLASS, DUMP, &fixed))?);
    }
    Ok(answer)
}

/// Reads the answer; `names` are those of the devices by index.
pub fn classes(bytes: &[u8], names: &BTreeMap<u32, String>, into: &mut Snapshot) {
    for message in messages(bytes).filter(|m| m.kind == RTM_NEWTCLASS) {
        let name = u32_at(message.body, 4).and_then(|index| names.get(&index));
        let Some(dev) = name.and_then(|name| into.devs.get_mut(name)) else { continue };
        if dev.classes.len() < CLASSES_MAX {
            let class = one(message.body, &dev.name);
            dev.classes.extend(class);
        }
    }
}

fn one(body: &[u8], dev: &str) -> Option<Class> {
    let (handle, parent, leaf) = (u32_at(body, 8)?, u32_at(body, 12)?, u32_at(body, 16)?);
    let inside = body.get(TCMSG..)?;
    let kind = text_of(inside, TCA_KIND)?;
    let handle = handle_name(handle);
    let source = format!("{NAME} {dev} {kind} {handle}");
    let mut stats = Counters::new(source.as_str());
    let mut options = Counters::new(source);
    read_stats(inside, &mut stats);
    if kind == "htb" {
        htb(inside, &mut stats, &mut options);
    }
    let leaf = if leaf == 0 { String::new() } else { handle_name(leaf) };
    Some(Class { kind, handle, parent: parent_name(parent), leaf, stats, options })
}

/// `struct tc_htb_opt` with rates in B/s, and `struct tc_htb_xstats`.
fn htb(inside: &[u8], stats: &mut Counters, options: &mut Counters) {
    /// `struct tc_ratespec` ends with the rate.
    const RATE: (usize, usize) = (8, 20);
    let given = find(inside, TCA_OPTIONS).unwrap_or_default();
    let parms = find(given, 1).unwrap_or_default();
    // Rates that do not fit in 32 bits come beside (since 4.7).
    for (name, at, wide) in [("rate_bps", RATE.0, 6), ("ceil_bps", RATE.1, 7)] {
        let rate = number(given, wide).or_else(|| u32_at(parms, at).map(u64::from));
        options.extend(rate.map(|rate| (name, rate)));
    }
    options.extend(u32_at(parms, 40).map(|prio| ("prio", prio.into())));
    if let Some(own) = qdisc::own_stats(inside) {
        fields(stats, own, &[("lends", 4), ("borrows", 4)]);
    }
}
