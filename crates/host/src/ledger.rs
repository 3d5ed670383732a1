//! The drop ledger: each loss once.
//!
//! One lost packet shows in two to four counters. An overflow of a backlog is `dropped` of
//! `/proc/net/softnet_stat`, `rx_dropped` of the device and `tx_dropped` of the veth that sent it; a
//! datagram that a qdisc drops is also `Udp: SndbufErrors` and `Ip: OutDiscards`. The ledger names
//! the counter nearest to the event, lists the others under it, and takes what they say away from
//! what is left to explain. What a device dropped and no stage accounts for stands at the end.

use linerate_core::table::Stage;
use serde::{Serialize, Serializer};

use crate::finding::Evidence;
use crate::rules::look::{self, by, ext, ipext, is_hardware, is_veth, tcp};
use crate::snapshot::Dev;
use crate::window::{Sum, Window, total};

/// Packets (or connections) lost in one way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// Where on the path.
    #[serde(serialize_with = "stage_name")]
    pub stage: Stage,
    /// In a few words.
    pub what: &'static str,
    /// The device or processor; empty: the host.
    pub subject: String,
    /// How many.
    pub count: u64,
    /// The same in a second.
    pub per_s: f64,
    /// The counters that show it, the one that counts first.
    pub counters: Vec<Evidence>,
    /// It is what somebody asked for, or no loss to anybody: a closed port, an unknown protocol.
    pub expected: bool,
}

/// All losses of a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ledger {
    /// Each loss once, in the order of the path.
    pub losses: Vec<Loss>,
    /// What devices dropped beside that.
    pub unexplained: Vec<Loss>,
}

impl Ledger {
    /// Everything lost, whatever the reason, that was not expected.
    #[must_use]
    pub fn total(&self) -> u64 {
        let all = self.losses.iter().chain(&self.unexplained);
        total(all.filter(|loss| !loss.expected).map(|loss| loss.count))
    }

    /// Losses at a stage, the expected ones among them.
    #[must_use]
    pub fn at(&self, stage: Stage) -> u64 {
        total(self.losses.iter().filter(|loss| loss.stage == stage).map(|loss| loss.count))
    }

    /// What `dev` dropped in that direction (`"rx_dropped"`, `"tx_dropped"`) and no stage accounts
    /// for.
    #[must_use]
    pub fn unexplained(&self, dev: &str, counter: &str) -> Option<&Loss> {
        let is = |loss: &&Loss| {
            loss.subject == dev && loss.counters.first().is_some_and(|c| c.name == counter)
        };
        self.unexplained.iter().find(is)
    }

    fn add(&mut self, stage: Stage, what: &'static str, subject: &str, lost: Option<Sum>) -> u64 {
        self.enter(stage, what, subject, lost, false)
    }

    fn enter(
        &mut self,
        stage: Stage,
        what: &'static str,
        subject: &str,
        lost: Option<Sum>,
        expected: bool,
    ) -> u64 {
        let Some(lost) = lost.filter(|sum| sum.by > 0) else { return 0 };
        let count = lost.by;
        self.losses.push(Loss {
            stage,
            what,
            subject: subject.into(),
            count,
            per_s: lost.per_s,
            counters: lost.evidence,
            expected,
        });
        count
    }

    fn unexplain(&mut self, stage: Stage, what: &'static str, dev: &Dev, left: Sum) {
        if left.by > 0 {
            self.unexplained.push(Loss {
                stage,
                what,
                subject: dev.name.clone(),
                count: left.by,
                per_s: left.per_s,
                counters: left.evidence,
                expected: false,
            });
        }
    }

    /// Lists a counter that shows the same events under the losses at `stage`.
    fn also(&mut self, stage: Stage, shows: &Sum) {
        let at = self.losses.iter_mut().filter(|loss| loss.stage == stage);
        if let Some(worst) = at.max_by_key(|loss| loss.count) {
            worst.counters.extend(shows.evidence.iter().cloned());
        }
    }
}

/// What is left to be explained by, and what a counter takes of it.
struct Pool(u64);

impl Pool {
    /// Takes as much of `sum` as there is; the rest is unexplained.
    fn explain(&mut self, sum: Sum) -> Sum {
        let part = self.0.min(sum.by);
        self.0 -= part;
        sum.without(part)
    }
}

/// The ledger of a window.
#[must_use]
pub fn of(w: &Window<'_>) -> Ledger {
    let mut ledger = Ledger::default();
    for dev in w.to.devs.values() {
        ring(&mut ledger, w, dev);
    }
    let backlog = backlog(&mut ledger, w);
    link(&mut ledger, w);
    ip(&mut ledger, w);
    udp(&mut ledger, w);
    listen_and_tcp(&mut ledger, w);
    output(&mut ledger, w);
    received(&mut ledger, w, backlog);
    sent(&mut ledger, w, backlog);
    let order = |stage: Stage| Stage::ALL.iter().position(|s| *s == stage);
    ledger.losses.sort_by_key(|loss| order(loss.stage));
    ledger
}

fn ring(ledger: &mut Ledger, w: &Window<'_>, dev: &Dev) {
    if is_hardware(dev) {
        ledger.add(Stage::Ring, "receive ring full", &dev.name, look::ring(w, &dev.name));
        let damaged = ["rx_crc_errors", "rx_frame_errors", "rx_length_errors"];
        let damaged = Sum::of(damaged.map(|name| w.dev(&dev.name, name)));
        ledger.add(Stage::Ring, "frames damaged or too long", &dev.name, damaged);
    }
    let xdp = look::driver(w, &dev.name, |name| name.contains("xdp_drop"));
    ledger.enter(Stage::Xdp, "dropped by the XDP program", &dev.name, xdp, true);
}

/// Drops of the backlogs, all processors together.
fn backlog(ledger: &mut Ledger, w: &Window<'_>) -> u64 {
    let mut all = 0;
    for cpu in w.to.softnet.keys() {
        let dropped = w.softnet(*cpu, "dropped").map(Sum::from);
        let lost = ledger.add(Stage::Backlog, "backlog full", &format!("cpu{cpu}"), dropped);
        all = total([all, lost]);
    }
    all
}

fn link(ledger: &mut Ledger, w: &Window<'_>) {
    for dev in w.to.devs.values() {
        let nobody = look::stat(w, dev, "rx_nohandler");
        ledger.enter(Stage::Link, "inactive part of a bond", &dev.name, nobody, true);
        let other = look::stat(w, dev, "rx_otherhost_dropped");
        ledger.enter(Stage::Link, "for another host", &dev.name, other, true);
        for at in ["ingress", "clsact"] {
            let of = |s: &crate::Snapshot| -> Option<usize> {
                s.devs.get(&dev.name)?.qdiscs.iter().position(|q| q.kind == at)
            };
            let Some(place) = of(w.to) else { continue };
            let dropped = w.of("drops", |s| Some(&s.devs.get(&dev.name)?.qdiscs.get(place)?.stats));
            let what = "dropped by a filter at ingress";
            ledger.enter(Stage::Link, what, &dev.name, dropped.map(Sum::from), true);
        }
    }
}

fn ip(ledger: &mut Ledger, w: &Window<'_>) {
    let both = |name: &str| w.mibs(look::IP, name);
    let mut header = both("InHdrErrors");
    if let (Some(header), Some(csum)) = (&mut header, ipext(w, "InCsumErrors")) {
        header.evidence.extend(csum.evidence.into_iter().filter(|_| csum.by > 0));
    }
    ledger.add(Stage::Ip, "bad header", "", header);
    ledger.add(Stage::Ip, "truncated", "", ipext(w, "InTruncatedPkts"));
    ledger.add(Stage::Ip, "discarded", "", both("InDiscards"));
    ledger.add(Stage::Route, "wrong way back (rp_filter)", "", ext(w, "IPReversePathFilter"));
    ledger.enter(Stage::Route, "not for this host", "", both("InAddrErrors"), true);
    ledger.add(Stage::Route, "no route", "", ipext(w, "InNoRoutes"));
    let reasm = both("ReasmFails");
    ledger.add(Stage::Reasm, "fragments not put together", "", reasm);
    ledger.enter(Stage::Demux, "unknown protocol", "", both("InUnknownProtos"), true);
    let conntrack = |name| w.of(name, |s| s.conntrack.as_ref().map(|c| &c.stat)).map(Sum::from);
    ledger.add(Stage::Ip, "connection table full", "", conntrack("drop"));
    ledger.add(Stage::Ip, "connection not entered", "", conntrack("insert_failed"));
}

fn udp(ledger: &mut Ledger, w: &Window<'_>) {
    let both = |name: &str| w.mibs(look::UDP, name);
    let mut full = both("RcvbufErrors");
    if let Some(full) = full.as_mut().filter(|sum| sum.by > 0) {
        full.evidence.extend(w.udp_drops().into_iter().take(5).map(|(_, drops)| drops.evidence));
    }
    let parts = ["RcvbufErrors", "InCsumErrors", "MemErrors"].map(|name| by(both(name)));
    ledger.add(Stage::SockQueue, "UDP receive buffer full", "", full);
    ledger.add(Stage::SockQueue, "no memory for UDP", "", both("MemErrors"));
    ledger.add(Stage::Transport, "bad checksum of UDP", "", both("InCsumErrors"));
    let rest = both("InErrors").map(|sum| sum.without(total(parts)));
    ledger.add(Stage::Transport, "other errors of UDP", "", rest);
    ledger.enter(Stage::Demux, "closed UDP port", "", both("NoPorts"), true);
    for (tap, drops) in w.tap_drops() {
        let dev = tap.dev.as_deref().unwrap_or("");
        ledger.enter(Stage::SockQueue, "copy for a capture", dev, Some(drops.into()), true);
    }
}

fn listen_and_tcp(ledger: &mut Ledger, w: &Window<'_>) {
    let full = ext(w, "ListenOverflows");
    let others = ext(w, "ListenDrops").map(|sum| sum.without(by(full.clone())));
    ledger.add(Stage::SockQueue, "accept queue full", "", full);
    ledger.add(Stage::Transport, "connection request refused", "", others);
    ledger.add(Stage::Transport, "bad checksum of TCP", "", tcp(w, "InCsumErrors"));
    // An overrun of the receive queue is counted by whoever noticed it: the largest is the loss.
    let names = ["RcvPruned", "OfoPruned", "TCPOFODrop", "TCPRcvQDrop", "TCPZeroWindowDrop"];
    let pruned = Sum::same(names.map(|name| w.mib("TcpExt", name)));
    ledger.add(Stage::SockQueue, "TCP receive buffer full", "", pruned);
    ledger.add(Stage::SockQueue, "TCP socket busy", "", ext(w, "TCPBacklogDrop"));
}

/// Losses on the way out, which counters further up show again.
fn output(ledger: &mut Ledger, w: &Window<'_>) {
    let mut below = 0;
    for dev in w.to.devs.values() {
        let drops = qdisc_drops(w, dev);
        let lost = ledger.add(Stage::Qdisc, "queue of the device full", &dev.name, drops);
        // A filter at egress refuses as a queue does.
        below = total([below, lost, egress_drops(w, dev)]);
    }
    for table in w.to.neigh.keys() {
        let of = |name: &str| w.of(name, |s| s.neigh.get(table)).map(Sum::from);
        let full = ledger.add(Stage::Neigh, "neighbour table full", "", of("table_fulls"));
        below = total([below, full]);
        let waiting = of("unresolved_discards");
        ledger.add(Stage::Neigh, "neighbour does not answer", "", waiting);
    }
    if w.to.neigh.is_empty() {
        // In other namespaces than the host's first, only reasons tell.
        let full = w.drops(|why, _| why == "NEIGH_CREATEFAIL");
        let lost = ledger.add(Stage::Neigh, "neighbour table full", "", full);
        below = total([below, lost]);
    }
    let refused = w.to.devs.values().filter(|dev| is_veth(dev));
    let refused = Sum::of(refused.map(|dev| w.dev(&dev.name, "tx_dropped")));
    let mut pool = Pool(total([below, by(refused)]));
    let errors = w.mibs(look::UDP, "SndbufErrors");
    if let Some(errors) = errors.filter(|sum| sum.by > 0) {
        let left = pool.explain(errors.clone());
        match left.by < errors.by {
            true if ledger.at(Stage::Qdisc) > 0 => ledger.also(Stage::Qdisc, &errors),
            true if ledger.at(Stage::Neigh) > 0 => ledger.also(Stage::Neigh, &errors),
            true => ledger.also(Stage::Link, &errors),
            false => {}
        }
        ledger.add(Stage::Send, "UDP send buffer full", "", Some(left));
    }
    ledger.add(Stage::IpOut, "no route out", "", w.mibs(look::IP, "OutNoRoutes"));
    ledger.add(Stage::Frag, "too large, and not to be split", "", w.mibs(look::IP, "FragFails"));
}

/// What filters at egress dropped, where there are some: clsact counts both sides together.
fn egress_drops(w: &Window<'_>, dev: &Dev) -> u64 {
    if !dev.filters.iter().any(|f| f.at == "egress") {
        return 0;
    }
    let drops = w.of("drops", |s| {
        let mut qdiscs = s.devs.get(&dev.name)?.qdiscs.iter();
        qdiscs.find(|q| q.kind == "clsact").map(|q| &q.stats)
    });
    drops.map_or(0, |drops| drops.by)
}

/// Drops of a device's qdisc; those of leaves are in those of their root.
pub(crate) fn qdisc_drops(w: &Window<'_>, dev: &Dev) -> Option<Sum> {
    let root = dev.qdiscs.iter().find(|q| q.parent == "root")?;
    let (kind, handle) = (&root.kind, &root.handle);
    let of = |s: &'_ crate::Snapshot| -> Option<usize> {
        let dev = s.devs.get(&dev.name)?;
        dev.qdiscs.iter().position(|q| q.parent == "root" && q.kind == *kind && q.handle == *handle)
    };
    if let Some(from) = w.from {
        of(from)?;
    }
    let drops = w.of("drops", |s| {
        let dev = s.devs.get(&dev.name)?;
        dev.qdiscs
            .iter()
            .find(|q| q.parent == "root" && q.kind == *kind && q.handle == *handle)
            .map(|q| &q.stats)
    });
    drops.map(Sum::from)
}

/// Devices, those that dropped most in that way first, and by how much.
fn dropped<'a>(w: &Window<'a>, name: &str) -> Vec<(&'a Dev, Sum)> {
    let of = |dev: &'a Dev| Some((dev, look::stat(w, dev, name).filter(|sum| sum.by > 0)?));
    let mut devs: Vec<_> = w.to.devs.values().filter_map(of).collect();
    devs.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.by));
    devs
}

/// Drops that a device refused for their length, where reasons are known.
fn too_long(w: &Window<'_>) -> Pool {
    Pool(by(w.drops(|_, at| at.starts_with("__dev_forward_skb"))))
}

/// The other end of a veth, if it is in this namespace.
fn peer<'a>(w: &Window<'a>, dev: &Dev) -> Option<&'a Dev> {
    let link = dev.link.filter(|_| is_veth(dev) && dev.link_netnsid.is_none())?;
    w.to.devs.values().find(|other| other.ifindex == link && is_veth(other))
}

/// What devices dropped of what they received, less what the stages say.
fn received(ledger: &mut Ledger, w: &Window<'_>, backlog: u64) {
    let (mut pool, mut long) = (Pool(backlog), too_long(w));
    let mut strange = Pool(by(w.drops(|why, _| why == "UNHANDLED_PROTO")));
    for (dev, dropped) in dropped(w, "rx_dropped") {
        let mut left = pool.explain(dropped.clone());
        if left.by < dropped.by {
            ledger.also(Stage::Backlog, &dropped);
        }
        if is_hardware(dev) {
            // Some drivers count a full ring here as well.
            left = left.without(by(look::ring(w, &dev.name)));
        }
        let known = strange.explain(left.clone());
        let benign = left.without(known.by);
        ledger.enter(Stage::Link, "protocol nobody speaks", &dev.name, Some(benign), true);
        left = known;
        if is_veth(dev) {
            left = explain_long(ledger, &mut long, &dev.name, left);
        }
        if let Some(peer) = peer(w, dev) {
            // The other end counts the same packets when it hands them over.
            left = left.without(by(look::stat(w, peer, "tx_dropped")));
        }
        ledger.unexplain(Stage::Link, "dropped on receive, nobody says why", dev, left);
    }
}

/// What devices dropped of what they were to send, less what the stages say.
fn sent(ledger: &mut Ledger, w: &Window<'_>, backlog: u64) {
    let (mut pool, mut long) = (Pool(backlog), too_long(w));
    for (dev, dropped) in dropped(w, "tx_dropped") {
        let mut left = dropped.clone();
        if is_veth(dev) {
            left = long.explain(pool.explain(left));
            if left.by < dropped.by && ledger.at(Stage::Backlog) > 0 {
                ledger.also(Stage::Backlog, &dropped);
            }
        }
        ledger.unexplain(Stage::Xmit, "dropped on transmit, nobody says why", dev, left);
    }
}

fn explain_long(ledger: &mut Ledger, long: &mut Pool, dev: &str, sum: Sum) -> Sum {
    let left = long.explain(sum.clone());
    let part = sum.clone().without(left.by);
    ledger.add(Stage::Ring, "longer than the device takes", dev, Some(part));
    left
}

fn stage_name<S: Serializer>(stage: &Stage, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(stage.name())
}
