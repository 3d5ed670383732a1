//! Stage `Steer`, RX: which shard goes on with the packet.
//!
//! before: [`crate::rx::gro`]   after: [`crate::link::input`] here, or [`crate::rx::backlog`] of
//! another shard
//! Linux:  net/core/dev.c `get_rps_cpu`, `set_rps_cpu`, `enqueue_to_backlog`
//! drops:  CpuBacklog
//!
//! What a loop that drives a shard does:
//!
//! * once: [`Shard::join`], and [`Mesh::set_wake`] with what wakes it;
//! * every turn: [`crate::path::receive`] and [`crate::path::process_backlog`], which send and take
//!   in mail themselves; it calls the latter whenever [`Shard::has_backlog`];
//! * connections that arrived ([`Shard::take_arrived`]) go to the application, and rules that
//!   accelerated RFS wants ([`Shard::take_rule`]) to the device;
//! * before it sleeps: not at all while [`Shard::has_backlog`]; with [`Mesh::set_awake`] after each
//!   sleep and [`Mesh::may_sleep`] before it the senders save the wake-up of a loop that runs.
//!
//! Whoever takes a connection out of a shard sends it with [`Shard::send_flow`]; sockets say where
//! their connections live by [`Net::flow_begins`] and [`Net::flow_ends`], and give packets that are
//! not theirs to [`forward`].

mod arfs;
mod away;
mod config;
pub mod hash;
pub mod homes;
pub(crate) mod limit;
pub mod mesh;
mod news;
pub mod ntuple;
mod ports;
mod post;
pub mod rfs;
mod rps;
pub mod rss;

pub use arfs::RuleWanted;
pub use away::forward;
pub use homes::FlowKey;
pub use mesh::{Flow, Letter, Mesh};
pub use news::News;
pub use post::Arrived;
pub(crate) use post::{collect, flush, send_to};

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::link::L2;
use crate::pkt::{Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, Stage};
use crate::trace::{self, Said};
use away::Away;
use hash::{FlowHash, FlowKeys};
use limit::FlowLimit;
use mesh::Refusal;
use post::{NO_NOTE, Note, Outgoing};
use rfs::{DevFlows, Found};
use rps::{Progress, RpsMap};
use rss::Rss;

/// What one shard steers by.
pub struct Steer {
    /// The stage has something to do, as far as the knobs say.
    pub on: bool,
    /// Some device remembers where it sends flows.
    follows: bool,
    /// The way to the other shards; none where there is one. Set by [`Shard::join`].
    pub mesh: Option<Arc<Mesh>>,
    /// Seed of the flow hash's key: the mesh's, or our own.
    seed: u64,
    /// The flow hash.
    hash: Box<FlowHash>,
    /// Where flows are spread to, by device.
    maps: Vec<RpsMap>,
    /// Where flows with a known reader go, by device.
    dev_flows: Vec<DevFlows>,
    /// The common table of readers, as it was at `sock_version`.
    sock_flows: Arc<[AtomicU32]>,
    sock_version: u32,
    /// Where this shard sends flows that live elsewhere.
    away: Away,
    /// The shards that were there when the maps were made.
    online: u64,
    /// The number of this batch.
    batch: u32,
    /// What goes to other shards at the end of this batch, by shard.
    out: Vec<Vec<Outgoing>>,
    /// The shards for which something lies in `out`, one bit each.
    out_to: u64,
    /// Whom to tell the places of packets that lie in `out`.
    notes: Vec<Note>,
    /// Place of the last packet sent to each shard.
    sent: Vec<u32>,
    /// Packets that wait for a change of their device's map to end.
    parked: VecDeque<Pkt>,
    /// News that was heard and not charged to anybody yet.
    heard: usize,
    /// Connections that came, for the application.
    arrived: VecDeque<Arrived>,
    /// Rules of accelerated RFS.
    rules: arfs::Filters,
    /// The flow limit, where this shard has one.
    limit: Option<Box<FlowLimit>>,
    /// Lists that are kept for their memory.
    mail: VecDeque<Letter>,
    refused: Vec<(Letter, Refusal)>,
}

/// Where a packet goes.
enum Way {
    /// To this shard; whom to tell its place there.
    Cpu(u8, Option<Note>),
    /// Nowhere until its device's map has changed.
    Wait,
}

/// Chooses the shard by the packet's flow (`get_rps_cpu`).
#[inline(always)]
pub fn get_rps_cpu(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    // A device that computed it for its own table has given it.
    let ours = pkt.hash == 0;
    if ours {
        pkt.hash = net.skb_get_hash(&pkt);
    }
    let steer = &net.steer;
    let away = steer.mesh.as_ref().is_some_and(|m| m.homes.away() > 0);
    if pkt.hash == 0 {
        // No flow, no order: it stays.
        return Verdict::Pass(pkt);
    }
    if steer.follows || away {
        return follow(cx, pkt, ours);
    }
    let map = steer.maps.get(pkt.dev as usize);
    match map.map_or(Some(net.cpu), |map| map.cpu(pkt.hash, net.cpu)) {
        Some(cpu) if cpu == net.cpu => stay(cx, pkt, None),
        Some(cpu) => {
            net.post_pkt(cpu, pkt, None);
            Verdict::Queued
        }
        None => park(net, pkt, ours),
    }
}

/// The same, where there is more to look at than the map.
#[inline(never)]
fn follow(cx: &mut Shard, pkt: Pkt, ours: bool) -> Verdict {
    let net = &mut cx.net;
    let Some(keys) = net.flow_keys(&pkt) else { return Verdict::Pass(pkt) };
    match net.choose(pkt.dev, pkt.hash, &keys) {
        Way::Cpu(cpu, note) if cpu == net.cpu => stay(cx, pkt, note),
        Way::Cpu(cpu, note) => {
            net.post_pkt(cpu, pkt, note);
            Verdict::Queued
        }
        Way::Wait => park(net, pkt, ours),
    }
}

/// The packet stays on this shard: it goes on at once unless others wait that came before it.
#[inline]
fn stay(cx: &mut Shard, pkt: Pkt, note: Option<Note>) -> Verdict {
    if cx.net.mail_waits() {
        collect(cx);
    }
    let net = &mut cx.net;
    if net.backlog.is_empty() {
        if let Some(note) = note {
            net.steer.tell(note, net.backlog.own_tail());
        }
        return Verdict::Pass(pkt);
    }
    net.requeue(note, pkt);
    Verdict::Queued
}

/// The packet waits for a change of its device's map to end.
#[cold]
fn park(net: &mut Net, mut pkt: Pkt, ours: bool) -> Verdict {
    if net.steer.parked.len() as u64 >= net.knobs.netdev_max_backlog {
        return Verdict::Drop(pkt, Reason::CpuBacklog);
    }
    if ours {
        // What goes into it may change meanwhile.
        pkt.hash = 0;
    }
    net.counts.flow(Stage::Steer).hold(1);
    net.steer.parked.push_back(pkt);
    Verdict::Held
}

/// Whether the stage has to look at the packets of this batch: to steer them, or because others
/// wait that came before them. Once a batch.
#[inline]
pub(crate) fn active(net: &Net) -> bool {
    let Some(mesh) = &net.steer.mesh else { return false };
    let waits = !net.backlog.is_empty() || mesh.has_mail(net.cpu as usize);
    net.steer.on || waits || mesh.homes.away() > 0
}

/// What is done once before a batch: mail, shards that came or went, changes that ended.
#[inline]
pub(crate) fn begin(cx: &mut Shard) {
    let Some(mesh) = &cx.net.steer.mesh else { return };
    let (online, version) = (mesh.online_mask(), mesh.sock_flows.version());
    cx.net.steer.batch = cx.net.steer.batch.wrapping_add(1);
    if online != cx.net.steer.online || version != cx.net.steer.sock_version {
        cx.net.steer.online = online;
        cx.knobs_changed();
    }
    if cx.net.mail_waits() {
        collect(cx);
    }
    if !cx.net.steer.rules.is_empty() {
        arfs::expire(&mut cx.net);
    }
    if cx.net.steer.maps.iter().any(RpsMap::changes) {
        settle(cx);
    }
}

/// Ends changes of maps that everybody is through with, and sends on what waited for them.
#[cold]
fn settle(cx: &mut Shard) {
    let net = &mut cx.net;
    let mut over = false;
    let mut maps = std::mem::take(&mut net.steer.maps);
    if let Some(at) = net.progress() {
        maps.iter_mut().for_each(|map| over |= map.settle(&at));
    }
    net.steer.maps = maps;
    if !over {
        return;
    }
    for mut pkt in std::mem::take(&mut net.steer.parked) {
        net.counts.flow(Stage::Steer).release(1);
        let ours = pkt.hash == 0;
        if ours {
            pkt.hash = net.skb_get_hash(&pkt);
        }
        let keys = net.flow_keys(&pkt);
        let way = keys.map(|keys| net.choose(pkt.dev, pkt.hash, &keys));
        match way {
            Some(Way::Wait) => {
                // Another device's map is still changing.
                if ours {
                    pkt.hash = 0;
                }
                net.counts.flow(Stage::Steer).hold(1);
                net.steer.parked.push_back(pkt);
                continue;
            }
            Some(Way::Cpu(cpu, note)) if cpu != net.cpu => net.post_pkt(cpu, pkt, note),
            Some(Way::Cpu(_, note)) => net.requeue(note, pkt),
            None => net.requeue(None, pkt),
        }
        net.counts.flow(Stage::Steer).pass(1);
    }
    // A map that was changed again meanwhile begins that change now, behind these.
    flush(cx);
    cx.knobs_changed();
}

impl Net {
    /// What names the packet's flow, as it stands at the ring.
    #[inline]
    fn flow_keys(&self, pkt: &Pkt) -> Option<FlowKeys> {
        let ethernet = self.ifaces.get(pkt.dev as usize).is_some_and(|i| i.l2 == L2::Ethernet);
        hash::dissect(pkt.head(), ethernet)
    }
    /// The hash of the packet's flow, as it stands at the ring; 0 = it is of none.
    #[inline]
    fn skb_get_hash(&self, pkt: &Pkt) -> u32 {
        let ethernet = self.ifaces.get(pkt.dev as usize).is_some_and(|i| i.l2 == L2::Ethernet);
        self.steer.hash.of_frame(pkt.head(), ethernet)
    }
    /// The flow limit tells packets apart by their hashes: one that came here without passing the
    /// stage gets its own now.
    #[inline]
    pub(crate) fn hash_for_limit(&self, pkt: &mut Pkt) {
        if self.steer.limit.is_some() && pkt.hash == 0 {
            pkt.hash = self.skb_get_hash(pkt);
        }
    }
    #[inline]
    fn mail_waits(&self) -> bool {
        self.steer.mesh.as_ref().is_some_and(|m| m.has_mail(self.cpu as usize))
    }
    fn progress(&self) -> Option<Progress<'_>> {
        let mesh = self.steer.mesh.as_deref()?;
        let own = (self.backlog.own_tail(), self.backlog.own_head());
        let (sent, pending) = (&self.steer.sent[..], self.steer.out_to);
        Some(Progress { mesh, cpu: self.cpu, sent, own, pending })
    }

    /// The shard for a packet of this flow: its reader's (RFS), the one that its connection lives
    /// on, or one by its hash (RPS).
    #[inline]
    fn choose(&mut self, dev: u8, hash: u32, keys: &FlowKeys) -> Way {
        let own = self.cpu;
        let steer = &mut self.steer;
        let Some(mesh) = steer.mesh.as_deref() else { return Way::Cpu(own, None) };
        let prior = steer.maps.get(dev as usize).map_or(Some(own), |map| map.cpu(hash, own));
        let progress = Progress {
            mesh,
            cpu: own,
            sent: &steer.sent,
            own: (self.backlog.own_tail(), self.backlog.own_head()),
            pending: steer.out_to,
        };
        let key = if mesh.homes.away() > 0 { FlowKey::of_tcp(keys) } else { None };
        if let Some(key) = &key
            && steer.away.knows(key)
        {
            // One of the two tables follows a flow: this one, as soon as the other is through with
            // what it sent.
            let flows = steer.dev_flows.get_mut(dev as usize);
            let on_its_way = flows.and_then(|f| f.on_its_way(hash, steer.batch, &progress));
            if let Some((cpu, slot)) = on_its_way {
                return Way::Cpu(cpu, Some(Note::flow(dev, slot)));
            }
            if let Some(way) = steer.away.steer(key, prior, steer.batch, &progress) {
                return way;
            }
        }
        if let Some(flows) = steer.dev_flows.get_mut(dev as usize)
            && !flows.flows.is_empty()
        {
            let next = rfs::reader_of(&steer.sock_flows, hash).filter(|cpu| mesh.online(*cpu));
            if let Found::Cpu { cpu, slot, moved } =
                flows.steer(hash, next, prior, steer.batch, &progress)
            {
                if moved && self.knobs.ntuple && cpu != own {
                    steer.rules.want(dev, slot, keys, cpu, flows);
                }
                return Way::Cpu(cpu, Some(Note::flow(dev, slot)));
            }
        }
        if let Some(key) = &key
            && let Some(way) = steer.away.steer(key, prior, steer.batch, &progress)
        {
            return way;
        }
        prior.map_or(Way::Wait, |cpu| Way::Cpu(cpu, None))
    }

    /// Puts a packet on its way to another shard, which may be gone by then.
    fn post_pkt(&mut self, cpu: u8, pkt: Pkt, note: Option<Note>) {
        let note = note.map_or(NO_NOTE, |note| {
            self.steer.notes.push(note);
            self.steer.notes.len() as u32 - 1
        });
        self.pool.give(&pkt);
        trace::say(&mut self.trace, Stage::Steer, &pkt, Said::Queued);
        post::post(self, cpu, Outgoing { letter: Letter::Pkt(pkt), note });
    }

    /// Puts a packet into our own queue, behind what waits there.
    fn requeue(&mut self, note: Option<Note>, pkt: Pkt) {
        crate::rx::backlog::netif_rx(self, pkt);
        if let Some(note) = note {
            self.steer.tell(note, self.backlog.own_tail());
        }
    }

    /// A connection began on this shard: others that get a packet of it send it here.
    pub fn flow_begins(&self, key: FlowKey) {
        if let Some(mesh) = &self.steer.mesh {
            mesh.homes.settle(key, self.cpu);
        }
    }
    /// Whether another shard has a connection between these ends, or one is in the mail for us.
    pub(crate) fn lives_elsewhere(&self, key: &FlowKey) -> bool {
        let Some(mesh) = &self.steer.mesh else { return false };
        let here = |cpu| cpu == self.cpu && !mesh.has_mail(cpu as usize);
        mesh.homes.find(key).is_some_and(|cpu| mesh.online(cpu) && !here(cpu))
    }
    /// A connection of this shard is over.
    pub fn flow_ends(&self, key: &FlowKey) {
        if let Some(mesh) = &self.steer.mesh {
            mesh.homes.forget(key, self.cpu);
        }
    }
    /// Notes that the reader of the flow is on shard `cpu` (`rps_record_sock_flow`): from now on its
    /// packets are steered there, where RFS is on. `hash` is that of a received packet.
    #[inline]
    pub fn rps_record_sock_flow(&self, hash: u32, cpu: u8) {
        rfs::rps_record_sock_flow(&self.steer.sock_flows, hash, cpu);
    }

    /// The hash of a flow as it arrives: 0 for what is no flow with ports.
    pub fn flow_hash(&self, key: &FlowKey) -> u32 {
        self.steer.hash.of(&key.tcp_keys())
    }
    /// How this shard's device is to distribute over so many queues: to be told to the device after
    /// each change of `rss.*`, `rx-flow-hash.*` or the number of queues.
    pub fn rss(&self, queues: usize) -> Rss {
        Rss::new(hash::netdev_rss_key(self.steer.seed), &self.knobs, queues)
    }
}

/// Whether there is a shard `cpu`.
pub(crate) fn exists(net: &Net, cpu: u8) -> bool {
    cpu == net.cpu || net.steer.mesh.as_ref().is_some_and(|m| m.online(cpu))
}

impl Steer {
    pub(crate) fn new(seed: u64) -> Steer {
        let mut steer = Steer {
            on: false,
            follows: false,
            mesh: None,
            seed: 0,
            hash: Box::default(),
            maps: Vec::new(),
            dev_flows: Vec::new(),
            sock_flows: Arc::default(),
            sock_version: 0,
            away: Away::new(seed),
            online: 0,
            batch: 0,
            out: Vec::new(),
            out_to: 0,
            notes: Vec::new(),
            sent: Vec::new(),
            parked: VecDeque::new(),
            heard: 0,
            arrived: VecDeque::new(),
            rules: arfs::Filters::default(),
            limit: None,
            mail: VecDeque::new(),
            refused: Vec::new(),
        };
        // What steers must not be what the shard's other random choices follow.
        steer.rekey(seed ^ 0x7273_735f_6b65_7900);
        steer
    }
    fn rekey(&mut self, seed: u64) {
        self.seed = seed;
        let key = hash::netdev_rss_key(seed);
        *self.hash = FlowHash::new(&key, Rss::default().fields, false);
    }
    /// Whether the flow limit forbids to queue the packet where `waiting` of at most `limit` wait.
    #[inline]
    pub(crate) fn limited(&mut self, pkt: &Pkt, waiting: usize, limit: usize) -> bool {
        self.limit.as_mut().is_some_and(|l| l.over(pkt.hash, waiting, limit))
    }
    /// Something is on its way to other shards.
    #[inline]
    pub(crate) fn sends(&self) -> bool {
        self.out_to != 0
    }
    /// Tells whoever wants to know that its packet has this place in the queue of its shard.
    #[inline]
    fn tell(&mut self, note: Note, place: u32) {
        match note {
            Note::Flow { dev, slot } => {
                let flows = self.dev_flows.get_mut(dev as usize);
                if let Some(flow) = flows.and_then(|f| f.flows.get_mut(slot as usize)) {
                    flow.last_qtail = place;
                }
            }
            Note::Away { key, own } => self.away.sent(&key, own, place),
        }
    }
}

#[cfg(test)]
mod tests;
