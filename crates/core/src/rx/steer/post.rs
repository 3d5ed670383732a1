//! Between this shard and the others' mailboxes: what is sent at the end of a batch, and what came.
//!
//! Linux: net/core/dev.c `enqueue_to_backlog`, `net_rps_action_and_irq_enable`
//! drops: CpuBacklog, FlowLimit: counted by the shard whose backlog it was

use std::any::Any;

use super::homes::FlowKey;
use super::mesh::{Flow, Letter, Mesh, Refusal};
use crate::pkt::Pkt;
use crate::shard::{Net, Shard};
use crate::sock::SocketId;
use crate::table::{Reason, Stage, count::id};
use crate::trace::{self, Said};

/// A connection that came from another shard.
pub struct Arrived {
    /// Its name here.
    pub socket: SocketId,
    /// What the application there handed over.
    pub app: Option<Box<dyn Any + Send>>,
}

/// A letter on its way out, and which note is to be told its place.
pub(super) struct Outgoing {
    pub letter: Letter,
    pub note: u32,
}

/// Nobody is to be told the place of a letter.
pub(super) const NO_NOTE: u32 = u32::MAX;

/// Who wants to know the place that a packet got in the queue of its shard.
pub(super) enum Note {
    /// The entry of a device's table of flows.
    Flow { dev: u8, slot: u32 },
    /// A connection that lives elsewhere; `own`: the queue is our own.
    Away { key: FlowKey, own: bool },
}

impl Note {
    pub fn flow(dev: u8, slot: u32) -> Note {
        Note::Flow { dev, slot }
    }
}

/// Puts the packet on its way to the backlog of shard `cpu`, which exists.
pub(crate) fn send_to(net: &mut Net, cpu: u8, mut pkt: Pkt) {
    if cpu == net.cpu {
        return crate::rx::backlog::netif_rx(net, pkt);
    }
    net.hash_for_limit(&mut pkt);
    net.post_pkt(cpu, pkt, None);
}

pub(super) fn post(net: &mut Net, cpu: u8, letter: Outgoing) {
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
    cx.net.steer.notes.clear();
}

/// Hands over what is for shard `to`; false if that shard is gone.
#[inline(never)]
fn flush_to(cx: &mut Shard, to: u8) -> bool {
    let net = &mut cx.net;
    net.steer.out_to &= !(1 << (to % 64));
    let Some(mesh) = net.steer.mesh.clone() else { return false };
    let Some(mut letters) = net.steer.out.get_mut(to as usize).map(std::mem::take) else {
        return true;
    };
    let mut refused = std::mem::take(&mut net.steer.refused);
    let (mut limit, counts) = (net.steer.limit.take(), &net.counts);
    let admit = |pkt: &Pkt, waiting, most| {
        let over = limit.as_mut().is_some_and(|l| l.over(pkt.hash, waiting, most));
        if over {
            counts.inc(id::SoftnetFlowLimitCount);
        }
        !over
    };
    let mut notes = std::mem::take(&mut net.steer.notes);
    let steer = &mut net.steer;
    let stand = |note: u32, place| {
        // Each is told once; the last that is told counts.
        if let Some(note) = notes.get_mut(note as usize) {
            steer.tell(std::mem::replace(note, Note::flow(u8::MAX, 0)), place);
        }
    };
    let tail = mesh.send(to, &mut letters, &mut refused, admit, stand);
    net.steer.notes = notes;
    net.steer.limit = limit;
    net.steer.out[to as usize] = letters;
    if net.steer.sent.len() <= to as usize {
        net.steer.sent.resize(to as usize + 1, 0);
    }
    net.steer.sent[to as usize] = tail;
    let gone = refused.first().is_some_and(|(_, why)| *why == Refusal::Closed);
    if !refused.is_empty() {
        take_back(cx, &mesh, &mut refused);
    }
    cx.net.steer.refused = refused;
    !gone
}

/// What did not get into another shard's mailbox: packets that were dropped there give their memory
/// back here; what was for a shard that is gone stays here.
#[cold]
fn take_back(cx: &mut Shard, mesh: &Mesh, refused: &mut Vec<(Letter, Refusal)>) {
    for (letter, why) in refused.drain(..) {
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
            (Letter::News(_), Refusal::Closed) => {}
            (Letter::News(_), _) => cx.net.counts.inc(id::SteerNewsLost),
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
    net.counts.flow(Stage::Backlog).enter(full + limited);
    (0..full).for_each(|_| net.counts.dropped(Stage::Backlog, Reason::CpuBacklog));
    (0..limited).for_each(|_| net.counts.dropped(Stage::Backlog, Reason::FlowLimit));
    let mut came = 0;
    for letter in mail.drain(..) {
        match letter {
            Letter::Pkt(pkt) => {
                came += 1;
                cx.net.pool.adopt(&pkt);
                crate::rx::backlog::enqueue_mailed(&mut cx.net, pkt);
            }
            // Its packets stand behind it: they find it.
            Letter::Flow(flow) => arrive(cx, *flow),
            Letter::News(news) => {
                cx.net.steer.heard += 1;
                super::news::hear(cx, *news);
            }
        }
    }
    let flow = cx.net.counts.flow(Stage::Backlog);
    flow.enter(came);
    flow.hold(came);
    cx.net.steer.mail = mail;
}

fn arrive(cx: &mut Shard, flow: Flow) {
    if let Some(socket) = cx.tcp_attach(flow.conn) {
        cx.net.steer.arrived.push_back(Arrived { socket, app: flow.app });
    }
}

impl Shard {
    /// Sends a connection that was taken out of this shard to shard `cpu`, with what the application
    /// knew of it. Every packet of it that anybody still sends here follows it. If there is no such
    /// shard, or it goes just now, the connection comes back.
    pub fn send_flow(&mut self, cpu: u8, flow: Flow) {
        let key = flow.key;
        let mesh = self.net.steer.mesh.clone().filter(|m| cpu != self.net.cpu && m.online(cpu));
        let Some(mesh) = mesh else { return arrive(self, flow) };
        let letter = Letter::Flow(Box::new(flow));
        post(&mut self.net, cpu, Outgoing { letter, note: NO_NOTE });
        // In this order: who reads that the connection lives there puts its packets behind it.
        if flush_to(self, cpu) {
            mesh.homes.leaves(&key, self.net.cpu, cpu);
            self.net.counts.inc(id::RfsFlowsMoved);
        }
    }

    /// How much news from other shards was taken in since the last call: a loop charges it to the
    /// weight of the backlog, as if it were packets.
    pub fn take_heard(&mut self) -> usize {
        std::mem::take(&mut self.net.steer.heard)
    }

    /// The next connection that came from another shard, for the application.
    pub fn take_arrived(&mut self) -> Option<Arrived> {
        self.net.steer.arrived.pop_front()
    }
}
