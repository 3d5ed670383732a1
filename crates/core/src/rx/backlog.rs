//! Stage `Backlog`, RX: the shard's bounded input queue.
//!
//! before: [`crate::rx::steer`] of another shard, [`crate::ip::output`] (loopback), devices without NAPI
//! after:  [`crate::path::process_backlog`], which sends them up from [`crate::link::input`] on
//! Linux:  net/core/dev.c `enqueue_to_backlog`, `netif_rx`
//! drops:  CpuBacklog, FlowLimit

use std::collections::VecDeque;

use crate::pkt::{Batch, Pkt};
use crate::shard::Net;
use crate::table::{Reason, Stage, count::id};
use crate::tap::{self, Point};
use crate::trace::{self, Said};

/// The input queue (`softnet_data.input_pkt_queue`).
#[derive(Default)]
pub struct Backlog {
    queue: VecDeque<Pkt>,
    /// Who put them in, in the order of the queue.
    runs: VecDeque<Run>,
    /// Packets of our own that were ever put in, and that we are through with.
    own_tail: u32,
    own_head: u32,
}

/// Packets of one kind that stand behind each other.
struct Run {
    mailed: bool,
    len: u32,
}

/// How many packets of a batch came by mail, and how many this shard put in itself.
#[derive(Default)]
pub(crate) struct From {
    mailed: u32,
    own: u32,
}

impl Backlog {
    /// Packets that wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len()
    }
    /// Whether no packet waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
    /// The packets, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Pkt> {
        self.queue.iter()
    }
    #[inline]
    fn push(&mut self, pkt: Pkt, mailed: bool) {
        self.queue.push_back(pkt);
        match self.runs.back_mut() {
            Some(run) if run.mailed == mailed => run.len += 1,
            _ => self.runs.push_back(Run { mailed, len: 1 }),
        }
        self.own_tail = self.own_tail.wrapping_add(u32::from(!mailed));
    }
    /// Takes the first `n` packets out, into `batch`.
    fn take(&mut self, n: usize, batch: &mut Batch) -> From {
        batch.now.extend(self.queue.drain(..n));
        let (mut left, mut from) = (n as u32, From::default());
        while left > 0
            && let Some(run) = self.runs.front_mut()
        {
            let part = left.min(run.len);
            *if run.mailed { &mut from.mailed } else { &mut from.own } += part;
            left -= part;
            run.len -= part;
            if run.len == 0 {
                self.runs.pop_front();
            }
        }
        from
    }
    /// The place of the last packet of our own.
    pub(crate) fn own_tail(&self) -> u32 {
        self.own_tail
    }
    /// How many packets of our own we are through with.
    pub(crate) fn own_head(&self) -> u32 {
        self.own_head
    }
}

/// Puts a packet into the input queue (`netif_rx`); drops it if `netdev_max_backlog` wait already, in
/// the queue or in the mailbox, or by the flow limit.
pub fn netif_rx(net: &mut Net, mut pkt: Pkt) {
    net.hash_for_limit(&mut pkt);
    net.counts.flow(Stage::Backlog).enter(1);
    let mailed = net.steer.mesh.as_ref().map_or(0, |m| m.mailed(net.cpu));
    let (waiting, limit) = (net.backlog.len() + mailed, net.knobs.netdev_max_backlog);
    if waiting as u64 >= limit {
        net.kfree_skb_reason(Stage::Backlog, pkt, Reason::CpuBacklog);
        return;
    }
    if net.steer.limited(&pkt, waiting, limit as usize) {
        net.counts.inc(id::SoftnetFlowLimitCount);
        net.kfree_skb_reason(Stage::Backlog, pkt, Reason::FlowLimit);
        return;
    }
    net.counts.flow(Stage::Backlog).hold(1);
    enqueue(net, pkt, false);
    if let Some(mesh) = &net.steer.mesh {
        mesh.set_own(net.cpu, net.backlog.len());
    }
}

/// A packet that another shard steered here: it was let in there, and the caller counts it.
#[inline]
pub(crate) fn enqueue_mailed(net: &mut Net, pkt: Pkt) {
    enqueue(net, pkt, true);
}

#[inline]
fn enqueue(net: &mut Net, pkt: Pkt, mailed: bool) {
    tap::batch(net, Stage::Backlog, Point::Before, std::slice::from_ref(&pkt));
    trace::say(&mut net.trace, Stage::Backlog, &pkt, Said::Held);
    net.backlog.push(pkt, mailed);
}

/// Takes `n` packets, which wait, out of the queue into `batch`.
pub(crate) fn dequeue(net: &mut Net, batch: &mut Batch, n: usize) -> From {
    let from = net.backlog.take(n, batch);
    let flow = net.counts.flow(Stage::Backlog);
    flow.release(n as u64);
    flow.pass(n as u64);
    if !net.knobs.netdev_tstamp_prequeue {
        batch.now.iter_mut().for_each(|pkt| pkt.rx_time = net.now);
    }
    if net.trace.is_some() {
        let trace = &mut net.trace;
        batch.now.iter().for_each(|pkt| trace::say(trace, Stage::Backlog, pkt, Said::Pass));
    }
    from
}

/// The packets went all the way, and what of them goes on to other shards is in their mailboxes: now
/// nothing of their flows can be overtaken (`rps_input_queue_head_add`).
pub(crate) fn input_queue_head_add(net: &mut Net, from: From) {
    net.backlog.own_head = net.backlog.own_head.wrapping_add(from.own);
    if let Some(mesh) = &net.steer.mesh {
        mesh.set_own(net.cpu, net.backlog.len());
        if from.mailed > 0 {
            mesh.through_with(net.cpu, from.mailed);
        }
    }
}
