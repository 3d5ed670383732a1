//! Neighbours: which link address a node of the link has. One machine for ARP and ND.
//!
//! used by: [`crate::link::output`] (look-up), `link::arp` and [`crate::ip::ndisc`] (answers)
//! Linux:   net/core/neighbour.c `neigh_update`, `__neigh_event_send`, `neigh_timer_handler`,
//!          `neigh_forced_gc`
//! RFCs:    4861 §7.2–7.3
//! drops:   NeighFailed, NeighQueueFull, NeighTableFull

use std::collections::VecDeque;
use std::net::IpAddr;

use super::arp::arp_solicit;
use super::output::eth_header;
use crate::ip::fib::RouteKind;
use crate::ip::icmp::{self, IcmpErr};
use crate::ip::ndisc;
use crate::pkt::{Pkt, Verdict};
use crate::rand::{Keyed, KeyedMap};
use crate::rx::steer::News;
use crate::shard::{Net, Shard};
use crate::sock::Slab;
use crate::table::{Reason, Stage, count::id};
use crate::time::{Instant, MS, SEC, Wheel};
use crate::trace::{self, Said};
use crate::wire::{EthHdr, Mac};

/// How long a packet's sender waits for word of the neighbour's life from above before it asks
/// (RFC 4861 §10 DELAY_FIRST_PROBE_TIME; Linux: `delay_first_probe_time`).
const DELAY_PROBE: u64 = 5 * SEC;
/// An ARP answer that contradicts one this fresh is not believed (Linux: `locktime`).
const LOCKTIME: u64 = SEC;
/// Entries that one insertion looks at to find one that can go.
const GC_LOOKS: usize = 64;

/// What is known of a neighbour (Linux: `NUD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nud {
    /// It was asked for and has not answered; packets wait.
    Incomplete,
    /// It was heard from lately.
    Reachable,
    /// Nothing was heard for a while; it is used as it is, and asked when it is used.
    Stale,
    /// It was used while stale; word from above may still spare the question.
    Delay,
    /// It is being asked.
    Probe,
    /// It does not answer.
    Failed,
    /// Set by the owner of the stack; never asked, never forgotten.
    Permanent,
}

/// One neighbour (Linux: `struct neighbour`).
pub struct Neighbour {
    dev: u8,
    addr: IpAddr,
    mac: Mac,
    state: Nud,
    /// When it was last known to be alive.
    confirmed: Instant,
    /// When its link address was last set.
    updated: Instant,
    /// When a packet last went to it.
    used: Instant,
    /// How long it counts as reachable, in nanoseconds.
    reachable: u64,
    probes: u64,
    /// It was learnt from a frame that anybody may have sent: it goes before one that answered.
    gleaned: bool,
    /// What waits for its link address.
    queue: VecDeque<Pkt>,
    queue_bytes: usize,
}

impl Neighbour {
    /// Its device.
    pub fn dev(&self) -> u8 {
        self.dev
    }
    /// Its IP address.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }
    /// Its link address; meaningless in states `Incomplete` and `Failed`.
    pub fn mac(&self) -> Mac {
        self.mac
    }
    /// What is known of it.
    pub fn state(&self) -> Nud {
        self.state
    }
    /// Whether its link address was set so lately that what contradicts it is not believed.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.since(self.updated) < LOCKTIME && self.mac != Mac::ZERO
    }
    /// What waits for it: packets that begin at their IP header.
    pub(crate) fn packets(&self) -> impl Iterator<Item = &Pkt> {
        self.queue.iter()
    }
    /// Packets that wait for it.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

/// The neighbour table.
pub struct Table {
    slab: Slab<Neighbour>,
    map: KeyedMap<(u8, IpAddr), u32>,
    /// Entries in the order in which collection looks at them: index, generation.
    order: VecDeque<(u32, u32)>,
    wheel: Wheel,
    /// The entry that was used last, and the routes' generation then.
    last: Option<(u8, IpAddr, u32, u32)>,
    due: Vec<u32>,
}

impl Table {
    /// Empty.
    pub fn new(key: Keyed) -> Table {
        Table {
            slab: Slab::default(),
            map: KeyedMap::with_hasher(key),
            order: VecDeque::new(),
            wheel: Wheel::default(),
            last: None,
            due: Vec::new(),
        }
    }
    /// When something is due.
    pub fn next_timer(&self) -> Option<Instant> {
        self.wheel.next()
    }
    /// Every neighbour, in order of its place in the table.
    pub fn iter(&self) -> impl Iterator<Item = &Neighbour> {
        self.slab.iter().map(|(_, _, n)| n)
    }
    /// How many neighbours there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
    /// What is known of `addr` on the link of `dev`.
    pub fn get(&self, dev: u8, addr: IpAddr) -> Option<&Neighbour> {
        self.slab.at(self.find(dev, addr)?)
    }
    #[inline]
    fn find(&self, dev: u8, addr: IpAddr) -> Option<u32> {
        match self.last {
            Some((d, a, index, _)) if d == dev && a == addr => Some(index),
            _ => self.map.get(&(dev, addr)).copied(),
        }
    }
    fn remove(&mut self, index: u32) -> Option<Neighbour> {
        let gone = self.slab.remove(index)?;
        self.map.remove(&(gone.dev, gone.addr));
        self.wheel.cancel(index);
        self.last = None;
        Some(gone)
    }
}

/// What [`resolve`] found.
pub(super) enum Found {
    /// The packet, and where it is to go.
    Mac(Pkt, Mac),
    /// It waits, or was dropped.
    No(Verdict),
}

/// The link address of the next hop if it is the one that the last packet went to and nothing is
/// to be done but to send (Linux: `neigh_output` with a cached header).
#[inline(always)]
pub(super) fn resolved(net: &mut Net, dev: u8, addr: IpAddr) -> Option<Mac> {
    let (d, a, index, generation) = net.neigh.last?;
    if d != dev || a != addr || generation != net.fib.generation() {
        return None;
    }
    let n = net.neigh.slab.at_mut(index)?;
    if !matches!(n.state, Nud::Reachable | Nud::Delay | Nud::Probe | Nud::Permanent) {
        return None;
    }
    n.used = net.now;
    net.counts.inc(id::NeighLookups);
    net.counts.inc(id::NeighHits);
    Some(n.mac)
}

/// The link address of the packet's next hop (Linux: `neigh_event_send`).
#[inline]
pub(super) fn resolve(net: &mut Net, pkt: Pkt) -> Found {
    net.counts.inc(id::NeighLookups);
    let (dev, addr) = (pkt.dev, pkt.nexthop);
    let Some(index) = net.neigh.find(dev, addr) else { return resolve_new(net, pkt) };
    net.counts.inc(id::NeighHits);
    let now = net.now;
    net.neigh.last = Some((dev, addr, index, net.fib.generation()));
    let Some(n) = net.neigh.slab.at_mut(index) else { return resolve_new(net, pkt) };
    n.used = now;
    match n.state {
        Nud::Reachable | Nud::Delay | Nud::Probe | Nud::Permanent => Found::Mac(pkt, n.mac),
        Nud::Stale => {
            n.state = Nud::Delay;
            net.neigh.wheel.arm(index, now.plus(DELAY_PROBE));
            Found::Mac(pkt, n.mac)
        }
        Nud::Incomplete => Found::No(enqueue(net, index, pkt)),
        Nud::Failed => {
            begin(net, index);
            Found::No(enqueue(net, index, pkt))
        }
    }
}

#[cold]
fn resolve_new(net: &mut Net, pkt: Pkt) -> Found {
    let Some(index) = create(net, pkt.dev, pkt.nexthop) else {
        return Found::No(Verdict::Drop(pkt, Reason::NeighTableFull));
    };
    begin(net, index);
    Found::No(enqueue(net, index, pkt))
}

/// A new entry, if the table has room for it or somebody can go.
fn create(net: &mut Net, dev: u8, addr: IpAddr) -> Option<u32> {
    let (low, high) = (net.knobs.gc_thresh1 as usize, net.knobs.gc_thresh3 as usize);
    if net.neigh.len() >= low.min(high) {
        neigh_forced_gc(net, net.neigh.len() >= high);
        if net.neigh.len() >= high {
            return None;
        }
    }
    let reachable = reachable_time(net);
    let (index, generation) = net.neigh.slab.insert(Neighbour {
        dev,
        addr,
        mac: Mac::ZERO,
        state: Nud::Failed,
        confirmed: Instant::ZERO,
        updated: Instant::ZERO,
        used: net.now,
        reachable,
        probes: 0,
        gleaned: false,
        queue: VecDeque::new(),
        queue_bytes: 0,
    });
    net.neigh.map.insert((dev, addr), index);
    net.neigh.order.push_back((index, generation));
    Some(index)
}

/// How long a neighbour counts as reachable: between half and one and a half times the base (RFC
/// 4861 §6.3.4; `neigh_rand_reach_time`).
fn reachable_time(net: &mut Net) -> u64 {
    let base = net.knobs.base_reachable_time_ms * MS;
    base / 2 + net.rng.below(base.max(1))
}

/// Lets go of the oldest entry that nobody needs. Entries that were used within the last seconds,
/// or are being asked for, stay; if the table is full, those that answered may go as well.
fn neigh_forced_gc(net: &mut Net, full: bool) {
    for _ in 0..GC_LOOKS.min(net.neigh.order.len()) {
        let Some((index, generation)) = net.neigh.order.pop_front() else { return };
        let Some(n) = net.neigh.slab.get(index, generation) else { continue };
        let idle = net.now.since(n.used) >= DELAY_PROBE;
        let goes = match n.state {
            Nud::Permanent | Nud::Incomplete => false,
            Nud::Failed => true,
            Nud::Stale => idle || full,
            Nud::Reachable | Nud::Delay | Nud::Probe => full && (idle || n.gleaned),
        };
        if goes {
            let gone = net.neigh.remove(index);
            debug_assert!(gone.is_some_and(|n| n.queue.is_empty()), "only the unresolved queue");
            return;
        }
        net.neigh.order.push_back((index, generation));
    }
}

/// Asks for a neighbour of which nothing is known.
fn begin(net: &mut Net, index: u32) {
    if let Some(n) = net.neigh.slab.at_mut(index) {
        n.state = Nud::Incomplete;
        n.probes = 0;
    }
    probe(net, index);
}

/// Sends the next question and waits for its answer.
fn probe(net: &mut Net, index: u32) {
    let Some(n) = net.neigh.slab.at_mut(index) else { return };
    n.probes += 1;
    let (dev, addr) = (n.dev, n.addr);
    let known = (n.state == Nud::Probe).then_some(n.mac);
    net.neigh.wheel.arm(index, net.now.plus(net.knobs.retrans_time_ms * MS));
    match addr {
        IpAddr::V4(target) => arp_solicit(net, dev, target, known),
        IpAddr::V6(target) => ndisc::ndisc_solicit(net, dev, target, known),
    }
}

/// The packet waits; the oldest ones make room (Linux: `__neigh_event_send`).
fn enqueue(net: &mut Net, index: u32, pkt: Pkt) -> Verdict {
    let limit = net.knobs.unres_qlen_bytes as usize;
    let size = pkt.truesize();
    loop {
        let Some(n) = net.neigh.slab.at_mut(index) else {
            return Verdict::Drop(pkt, Reason::NeighFailed);
        };
        if n.queue_bytes + size <= limit {
            n.queue_bytes += size;
            n.queue.push_back(pkt);
            net.counts.flow(Stage::Neigh).hold(1);
            return Verdict::Held;
        }
        let Some(oldest) = n.queue.pop_front() else {
            return Verdict::Drop(pkt, Reason::NeighQueueFull);
        };
        n.queue_bytes -= oldest.truesize();
        net.counts.flow(Stage::Neigh).release(1);
        net.kfree_skb_reason(Stage::Neigh, oldest, Reason::NeighQueueFull);
    }
}

/// What a neighbour said of itself (RFC 4861 §7.2.5; ARP answers are put in the same words).
#[derive(Clone, Copy, Debug)]
pub struct Advert {
    /// Its link address, if it said.
    pub mac: Option<Mac>,
    /// It answered a question of ours.
    pub solicited: bool,
    /// It replaces what is known.
    pub override_: bool,
}

/// Notes what a neighbour said; nothing is created. The other shards hear it too: the question may
/// have been theirs. Linux: `neigh_update`.
pub(crate) fn neigh_update(net: &mut Net, dev: u8, addr: IpAddr, said: Advert) {
    net.tell_all(News::Neighbour { dev, addr, asked: false, said });
    update(net, dev, addr, said);
}

/// The same, heard from another shard.
#[cold]
pub(crate) fn heard(net: &mut Net, dev: u8, addr: IpAddr, asked: bool, said: Advert) {
    let known = net.neigh.find(dev, addr).is_some();
    if known || asked && (dev as usize) < net.ifaces.len() && create(net, dev, addr).is_some() {
        update(net, dev, addr, said);
    }
}

fn update(net: &mut Net, dev: u8, addr: IpAddr, said: Advert) {
    let Some(index) = net.neigh.find(dev, addr) else { return };
    let now = net.now;
    let reachable = reachable_time(net);
    let Some(n) = net.neigh.slab.at_mut(index) else { return };
    let unknown = matches!(n.state, Nud::Incomplete | Nud::Failed);
    let other = said.mac.is_some_and(|m| unknown || m != n.mac);
    match n.state {
        Nud::Permanent => return,
        Nud::Incomplete | Nud::Failed if said.mac.is_none() => return,
        Nud::Incomplete | Nud::Failed => {}
        _ if other && !said.override_ => {
            if n.state == Nud::Reachable {
                n.state = Nud::Stale;
                net.neigh.wheel.cancel(index);
            }
            return;
        }
        _ => {}
    }
    if let (true, Some(mac)) = (other, said.mac) {
        n.mac = mac;
        n.updated = now;
    }
    if said.solicited {
        n.state = Nud::Reachable;
        n.confirmed = now;
        n.reachable = reachable;
        n.probes = 0;
        net.neigh.wheel.arm(index, now.plus(reachable));
    } else if other {
        n.state = Nud::Stale;
        net.neigh.wheel.cancel(index);
    }
    if unknown {
        flush(net, index);
    }
}

/// A neighbour asked us: that tells its link address (Linux: `neigh_event_ns`).
pub(crate) fn neigh_event_ns(net: &mut Net, dev: u8, addr: IpAddr, mac: Mac, override_: bool) {
    if net.neigh.find(dev, addr).is_none() && create(net, dev, addr).is_none() {
        return;
    }
    let said = Advert { mac: Some(mac), solicited: false, override_ };
    net.tell_all(News::Neighbour { dev, addr, asked: true, said });
    update(net, dev, addr, said);
}

/// Learns the next hop to the source of a packet for us from its frame, where nobody tells us its
/// link address. An entry that is reachable under another address is not taken over: not before it
/// has gone stale.
#[cold]
pub(crate) fn glean(net: &mut Net, pkt: &Pkt) {
    let Some(iface) = net.ifaces.get(pkt.dev as usize).filter(|i| i.glean) else { return };
    let Some(at) = pkt.network.checked_sub(EthHdr::LEN as u32) else { return };
    // A frame with a tag has its addresses further in front.
    let eth = EthHdr::parse(pkt.behind(at, EthHdr::LEN)).ok();
    let Some(eth) = eth.filter(|e| e.ethertype == pkt.proto && e.src.is_valid()) else { return };
    if eth.dst != iface.mac {
        return;
    }
    let Some(route) = net.fib.lookup(pkt.src) else { return };
    if route.dev != pkt.dev || route.kind != RouteKind::Unicast {
        return;
    }
    let hop = route.gateway.unwrap_or(pkt.src);
    match net.neigh.find(pkt.dev, hop).and_then(|index| net.neigh.slab.at_mut(index)) {
        Some(n) if n.mac == eth.src && n.state == Nud::Reachable => n.confirmed = net.now,
        Some(n) if matches!(n.state, Nud::Reachable | Nud::Permanent) => {}
        known => {
            let fresh = known.is_none();
            if fresh && create(net, pkt.dev, hop).is_none() {
                return;
            }
            let said = Advert { mac: Some(eth.src), solicited: true, override_: true };
            update(net, pkt.dev, hop, said);
            let index = net.neigh.find(pkt.dev, hop);
            if let Some(n) = index.and_then(|index| net.neigh.slab.at_mut(index)) {
                n.gleaned |= fresh;
            }
        }
    }
}

/// The link address is known: what waited for it goes on.
fn flush(net: &mut Net, index: u32) {
    let Some(n) = net.neigh.slab.at_mut(index) else { return };
    let (mac, dev) = (n.mac, n.dev);
    n.used = net.now;
    n.queue_bytes = 0;
    let waiting = std::mem::take(&mut n.queue);
    if !waiting.is_empty() && n.state == Nud::Stale {
        n.state = Nud::Delay;
        net.neigh.wheel.arm(index, net.now.plus(DELAY_PROBE));
    }
    let own = net.ifaces.get(dev as usize).map_or(Mac::ZERO, |i| i.mac);
    for mut pkt in waiting {
        let flow = net.counts.flow(Stage::Neigh);
        flow.release(1);
        flow.pass(1);
        trace::say(&mut net.trace, Stage::Neigh, &pkt, Said::Pass);
        eth_header(&mut pkt, own, mac);
        net.link_out.push_back(pkt);
    }
}

/// Serves what is due.
pub fn timers(cx: &mut Shard) {
    let net = &mut cx.net;
    let mut due = std::mem::take(&mut net.neigh.due);
    net.neigh.wheel.expire(net.now, &mut due);
    for index in due.drain(..) {
        neigh_timer_handler(net, index);
    }
    net.neigh.due = due;
}

fn neigh_timer_handler(net: &mut Net, index: u32) {
    let (mcast, ucast) = (net.knobs.mcast_solicit, net.knobs.ucast_solicit);
    let now = net.now;
    let Some(n) = net.neigh.slab.at_mut(index) else { return };
    match n.state {
        Nud::Reachable if now < n.confirmed.plus(n.reachable) => {
            let at = n.confirmed.plus(n.reachable);
            net.neigh.wheel.arm(index, at);
        }
        Nud::Reachable if now.since(n.used) < DELAY_PROBE => {
            n.state = Nud::Delay;
            net.neigh.wheel.arm(index, now.plus(DELAY_PROBE));
        }
        Nud::Reachable => n.state = Nud::Stale,
        Nud::Delay if now.since(n.confirmed) <= DELAY_PROBE => {
            n.state = Nud::Reachable;
            let at = n.confirmed.plus(n.reachable);
            net.neigh.wheel.arm(index, at);
        }
        Nud::Delay => {
            n.state = Nud::Probe;
            n.probes = 0;
            probe(net, index);
        }
        Nud::Probe if n.probes < ucast => probe(net, index),
        Nud::Incomplete if n.probes < mcast => probe(net, index),
        Nud::Probe | Nud::Incomplete => fail(net, index),
        Nud::Stale | Nud::Failed | Nud::Permanent => {}
    }
}

/// Nobody answers: whoever waited is told (Linux: `neigh_invalidate`, `arp_error_report`).
fn fail(net: &mut Net, index: u32) {
    let Some(n) = net.neigh.slab.at_mut(index) else { return };
    n.state = Nud::Failed;
    n.queue_bytes = 0;
    let waiting = std::mem::take(&mut n.queue);
    net.counts.inc(id::NeighResFailed);
    for pkt in waiting {
        net.counts.flow(Stage::Neigh).release(1);
        icmp::icmp_send_from_tx(net, &pkt, IcmpErr::HostUnreach);
        net.kfree_skb_reason(Stage::Neigh, pkt, Reason::NeighFailed);
    }
}

impl Net {
    /// A transport got word from `addr`, the next hop or beyond it: the neighbour is alive (Linux:
    /// `dst_confirm_neigh`). Cheap enough for every acknowledgement of new data.
    #[inline]
    pub fn neigh_confirm(&mut self, dev: u8, addr: IpAddr) {
        let now = self.now;
        if let Some(index) = self.neigh.find(dev, addr)
            && let Some(n) = self.neigh.slab.at_mut(index)
        {
            n.confirmed = now;
        }
    }
}

impl Shard {
    /// Sets a neighbour's link address for good (`ip neigh replace … nud permanent`). False if the
    /// table is full.
    pub fn neigh_add(&mut self, dev: u8, addr: IpAddr, mac: Mac) -> bool {
        let net = &mut self.net;
        let Some(index) = net.neigh.find(dev, addr).or_else(|| create(net, dev, addr)) else {
            return false;
        };
        if let Some(n) = net.neigh.slab.at_mut(index) {
            (n.mac, n.state) = (mac, Nud::Permanent);
        }
        net.neigh.wheel.cancel(index);
        flush(net, index);
        true
    }

    /// Forgets a neighbour; what waited for it is dropped. False if it was not known.
    pub fn neigh_del(&mut self, dev: u8, addr: IpAddr) -> bool {
        let net = &mut self.net;
        let Some(gone) = net.neigh.find(dev, addr).and_then(|i| net.neigh.remove(i)) else {
            return false;
        };
        for pkt in gone.queue {
            net.counts.flow(Stage::Neigh).release(1);
            net.kfree_skb_reason(Stage::Neigh, pkt, Reason::NeighFailed);
        }
        true
    }
}
