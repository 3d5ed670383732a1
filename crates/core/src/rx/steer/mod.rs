//! Stage `Steer`, RX: which shard goes on with the packet.
//!
//! before: [`crate::rx::gro`]   after: [`crate::link::input`] here, or [`crate::rx::backlog`] of
//! another shard
//! Linux:  net/core/dev.c `get_rps_cpu`, `enqueue_to_backlog`
//! drops:  none here: the target's backlog gives CpuBacklog and FlowLimit
//!
//! What a loop that drives a shard does:
//!
//! * once: [`Shard::join`], and [`Mesh::set_wake`] with what wakes it;
//! * every turn: [`crate::path::receive`] and [`crate::path::process_backlog`], which send and take
//!   in mail themselves; it calls the latter whenever [`Shard::has_backlog`];
//! * connections that arrived ([`Shard::take_arrived`]) go to the application;
//! * before it sleeps: not at all while [`Shard::has_backlog`]; with [`Mesh::set_awake`] after each
//!   sleep and [`Mesh::may_sleep`] before it the senders save the wake-up of a loop that runs.

pub mod homes;
pub(crate) mod limit;
pub mod mesh;
pub mod ntuple;
pub mod rfs;
pub mod rss;

pub use homes::FlowKey;
pub use mesh::{Flow, Letter, Mesh};

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::pkt::{Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::sock::SocketId;
use crate::table::{Reason, Stage, count::id};
use crate::trace::{self, Said};
use limit::FlowLimit;
use mesh::{Outgoing, Refusal};

/// What one shard steers by.
#[derive(Default)]
pub struct Steer {
    /// The stage has something to do.
    pub on: bool,
    /// The way to the other shards; none where there is one.
    pub mesh: Option<Arc<Mesh>>,
    /// What goes to other shards at the end of this batch, by shard.
    out: Vec<Vec<Outgoing>>,
    /// The shards for which something lies in `out`, one bit each.
    out_to: u64,
    /// Connections that came, for the application.
    arrived: VecDeque<Arrived>,
    /// The flow limit, where this shard has one.
    limit: Option<Box<FlowLimit>>,
    /// Lists that are kept for their memory.
    mail: VecDeque<Letter>,
    refused: Vec<(Letter, Refusal)>,
}

/// A connection that came from another shard.
pub struct Arrived {
    /// Its name here.
    pub socket: SocketId,
    /// What the application there handed over.
    pub app: Option<Box<dyn Any + Send>>,
}

/// A letter that nobody is to be told the place of.
const NO_SLOT: u32 = u32::MAX;

/// Chooses the shard by the packet's flow (`get_rps_cpu`).
#[inline(always)]
pub fn get_rps_cpu(_cx: &mut Shard, pkt: Pkt) -> Verdict {
    Verdict::Pass(pkt)
}

impl Steer {
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
}

/// Whether there is a shard `cpu`.
pub(crate) fn exists(net: &Net, cpu: u8) -> bool {
    cpu == net.cpu || net.steer.mesh.as_ref().is_some_and(|m| m.online(cpu))
}

/// Puts the packet on its way to the backlog of shard `cpu`, which exists.
pub(crate) fn send_to(net: &mut Net, cpu: u8, pkt: Pkt) {
    if cpu == net.cpu {
        return crate::rx::backlog::netif_rx(net, pkt);
    }
    net.pool.give(&pkt);
    post(net, cpu, Outgoing { letter: Letter::Pkt(pkt), slot: NO_SLOT });
}

fn post(net: &mut Net, cpu: u8, letter: Outgoing) {
    let out = &mut net.steer.out;
    if out.len() <= cpu as usize {
        out.resize_with(cpu as usize + 1, Vec::new);
    }
    out[cpu as usize].push(letter);
    net.steer.out_to |= 1 << (cpu % 64);
}

/// Hands what was steered to other shards over to them: once a batch, not once a packet.
#[inline]
pub(crate) fn flush(cx: &mut Shard) {
    while cx.net.steer.out_to != 0 {
        flush_to(cx, cx.net.steer.out_to.trailing_zeros() as u8);
    }
}

/// Hands over what is for shard `to`; false if that shard is gone.
#[inline(never)]
fn flush_to(cx: &mut Shard, to: u8) -> bool {
    let net = &mut cx.net;
    net.steer.out_to &= !(1 << (to % 64));
    let Some(mesh) = net.steer.mesh.clone() else { return false };
    let steer = &mut net.steer;
    let (flow_limit, counts) = (&mut steer.limit, &net.counts);
    let admit = |pkt: &Pkt, waiting, limit| {
        let over = flow_limit.as_mut().is_some_and(|l| l.over(pkt.hash, waiting, limit));
        if over {
            counts.inc(id::SoftnetFlowLimitCount);
        }
        !over
    };
    let Some(letters) = steer.out.get_mut(to as usize) else { return true };
    mesh.send(to, letters, &mut steer.refused, admit, |_slot, _place| {});
    let gone = steer.refused.first().is_some_and(|(_, why)| *why == Refusal::Closed);
    if !net.steer.refused.is_empty() {
        take_back(cx, &mesh);
    }
    !gone
}

/// What did not get into another shard's mailbox: packets that were dropped there give their memory
/// back here; what was for a shard that is gone stays here.
#[cold]
fn take_back(cx: &mut Shard, mesh: &Mesh) {
    for (letter, why) in std::mem::take(&mut cx.net.steer.refused) {
        match (letter, why) {
            (Letter::Pkt(pkt), Refusal::Closed) => {
                cx.net.pool.adopt(&pkt);
                crate::rx::backlog::netif_rx(&mut cx.net, pkt);
            }
            (Letter::Pkt(pkt), why) => {
                // The owner of the backlog counts it.
                let reason = match why {
                    Refusal::FlowLimit => Reason::FlowLimit,
                    Refusal::Full | Refusal::Closed => Reason::CpuBacklog,
                };
                cx.net.pool.adopt(&pkt);
                trace::say(&mut cx.net.trace, Stage::Backlog, &pkt, Said::Dropped(reason));
                cx.net.pool.free(pkt);
            }
            (Letter::Flow(flow), _) => {
                mesh.homes.moved(flow.key, cx.net.cpu);
                arrive(cx, *flow);
            }
        }
    }
}

/// Takes in what other shards sent here: packets go to the backlog, flows to their sockets.
#[inline]
pub(crate) fn collect(cx: &mut Shard) {
    if cx.net.steer.mesh.is_some() {
        collect_mail(cx);
    }
}

fn collect_mail(cx: &mut Shard) {
    let net = &mut cx.net;
    let Some(mesh) = &net.steer.mesh else { return };
    let mut mail = std::mem::take(&mut net.steer.mail);
    let Some([full, limited]) = mesh.take(net.cpu, net.backlog.len(), &mut mail) else {
        net.steer.mail = mail;
        return;
    };
    net.counts.inc(id::SoftnetReceivedRps);
    let flow = net.counts.flow(Stage::Backlog);
    flow.enter(full + limited);
    (0..full).for_each(|_| net.counts.dropped(Stage::Backlog, Reason::CpuBacklog));
    (0..limited).for_each(|_| net.counts.dropped(Stage::Backlog, Reason::FlowLimit));
    for letter in mail.drain(..) {
        match letter {
            Letter::Pkt(pkt) => {
                cx.net.pool.adopt(&pkt);
                crate::rx::backlog::enqueue_mailed(&mut cx.net, pkt);
            }
            Letter::Flow(flow) => arrive(cx, *flow),
        }
    }
    cx.net.steer.mail = mail;
}

/// A connection has come: from here on its packets find it.
fn arrive(cx: &mut Shard, flow: Flow) {
    if let Some(socket) = cx.tcp_attach(flow.conn) {
        cx.net.steer.arrived.push_back(Arrived { socket, app: flow.app });
    }
}

impl Shard {
    /// Makes this shard number `cpu` of `mesh`: it sends others mail and takes in theirs, and shares
    /// packet memory with them. Its knobs, and then its devices, are set before or after.
    pub fn join(&mut self, mesh: Arc<Mesh>, cpu: u8) {
        let net = &mut self.net;
        net.cpu = cpu;
        net.pool.share(Arc::clone(&mesh.depot));
        mesh.homes.init(mesh.hash_seed(&mut net.rng));
        mesh.set_limit(cpu, net.knobs.netdev_max_backlog);
        net.steer.mesh = Some(mesh);
        self.knobs_changed();
    }

    /// What follows from the knobs is made anew: after each change of one.
    pub(crate) fn knobs_changed(&mut self) {
        let net = &mut self.net;
        if let Some(mesh) = &net.steer.mesh {
            mesh.set_limit(net.cpu, net.knobs.netdev_max_backlog);
        }
        let limited = net.knobs.flow_limit_cpu_bitmap.has(net.cpu as usize);
        if limited != net.steer.limit.is_some() {
            let new = || Box::new(FlowLimit::new(net.knobs.flow_limit_table_len));
            net.steer.limit = limited.then(new);
        }
    }

    /// Whether packets wait in the backlog, or mail of other shards:
    /// [`crate::path::process_backlog`] has something to do.
    #[inline]
    pub fn has_backlog(&self) -> bool {
        let net = &self.net;
        let mail = || net.steer.mesh.as_ref().is_some_and(|m| m.has_mail(net.cpu as usize));
        !net.backlog.is_empty() || mail()
    }

    /// Sends a connection that was taken out of this shard to shard `cpu`, with what the application
    /// knew of it. Every packet of it that anybody still sends here follows it.
    pub fn send_flow(&mut self, cpu: u8, flow: Flow) {
        let Some(mesh) = self.net.steer.mesh.clone() else { return arrive(self, flow) };
        if cpu == self.net.cpu || !mesh.online(cpu) {
            return arrive(self, flow);
        }
        let key = flow.key;
        post(&mut self.net, cpu, Outgoing { letter: Letter::Flow(Box::new(flow)), slot: NO_SLOT });
        // In this order: who reads that the connection lives there puts its packets behind it. Should
        // the other shard go just now, the connection is back, and lives here.
        if flush_to(self, cpu) {
            mesh.homes.moved(key, cpu);
            self.net.counts.inc(id::RfsFlowsMoved);
        }
    }

    /// The next connection that came from another shard, for the application.
    pub fn take_arrived(&mut self) -> Option<Arrived> {
        self.net.steer.arrived.pop_front()
    }
}
