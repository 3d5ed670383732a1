//! Transmit packet steering: which transmit queue of a device a flow is sent by, where this shard has
//! several.
//!
//! before: [`crate::link::output`]   after: [`crate::tx::qdisc`]
//! Linux:  net/core/dev.c `netdev_pick_tx`, `get_xps_queue`, `skb_tx_hash`
//! drops:  none
//!
//! The queue of a flow is remembered, and changes only when none of its packets wait in the old one
//! (`ooo_okay`): so no change of a mask, and no change of the queue that the flow is received by,
//! lets its packets overtake each other.

use crate::link::{L2, TxQueue};
use crate::pkt::{Batch, NO_QUEUE, Pkt};
use crate::rx::steer::hash::{FlowHash, netdev_rss_key};
use crate::shard::{Net, Shard};
use crate::sock::lookup::reciprocal_scale;
use crate::table::count::id;
use crate::table::value::{HashFields, Mask};

/// Flows that are remembered: a power of two.
const FLOWS: usize = 4096;
/// No queue is known.
const NONE: u8 = NO_QUEUE;

/// What is known of one flow.
#[derive(Clone, Copy)]
struct Flow {
    /// Its hash, the same in both directions; 0 = nobody's.
    hash: u32,
    dev: u8,
    /// The queue that it was last received by (`sk_rx_queue_mapping`).
    rxq: u8,
    /// The queue that it is sent by (`sk_tx_queue_mapping`).
    txq: u8,
    /// Place of its last packet in that queue.
    last: u64,
}

/// What a transmit queue takes.
#[derive(Clone, Copy, Default)]
struct Takes {
    cpus: Mask,
    rxqs: Mask,
}

/// What one shard chooses transmit queues by.
pub struct Xps {
    hash: Box<FlowHash>,
    /// Empty until the first choice.
    flows: Vec<Flow>,
    /// By device and queue; those that are not there take what the knobs say.
    takes: Vec<Vec<Takes>>,
    default: (Mask, Mask),
    /// Somebody asks by which queues flows are received.
    learns: bool,
}

impl Xps {
    pub(crate) fn new(seed: u64) -> Xps {
        let key = netdev_rss_key(seed ^ 0x7870_735f_6b65_7900);
        Xps {
            hash: Box::new(FlowHash::new(&key, [HashFields::ALL; 4], true)),
            flows: Vec::new(),
            takes: Vec::new(),
            default: (Mask(0), Mask(0)),
            learns: false,
        }
    }
    fn takes(&self, dev: u8, queue: usize) -> Takes {
        let set = self.takes.get(dev as usize).and_then(|d| d.get(queue));
        let (cpus, rxqs) = self.default;
        // For all queues at once: each sends what its own twin receives.
        set.copied().unwrap_or(Takes { cpus, rxqs: Mask(rxqs.0 & 1u64.wrapping_shl(queue as u32)) })
    }
    /// The queues of `n` that `wanted` says yes to: one of them by the flow's hash.
    fn among(&self, dev: u8, n: usize, hash: u32, wanted: impl Fn(Takes) -> bool) -> Option<u8> {
        let all = || (0..n).filter(|queue| wanted(self.takes(dev, *queue)));
        let len = all().count();
        all().nth(reciprocal_scale(hash, len)).map(|queue| queue as u8)
    }
    /// The place of a flow, if it is its own or may become so.
    fn flow(&mut self, dev: u8, hash: u32, txqs: &[TxQueue]) -> Option<&mut Flow> {
        if self.flows.is_empty() {
            let empty = Flow { hash: 0, dev: 0, rxq: NONE, txq: NONE, last: 0 };
            self.flows = vec![empty; FLOWS];
        }
        let flow = &mut self.flows[hash as usize % FLOWS];
        if (flow.hash, flow.dev) != (hash, dev) {
            // The one before has nothing on its way any more, as far as this device is concerned.
            if flow.dev == dev && !flow.gone(txqs) {
                return None;
            }
            *flow = Flow { hash, dev, rxq: NONE, txq: NONE, last: 0 };
        }
        Some(flow)
    }
}

impl Flow {
    /// Whether none of its packets wait in the queue that it was last sent by.
    fn gone(&self, txqs: &[TxQueue]) -> bool {
        let Some(txq) = txqs.get(self.txq as usize) else { return true };
        txq.sent.saturating_sub(txq.ring.len() as u64) >= self.last
    }
}

/// The transmit queue for this frame, of the several that its device has (`netdev_pick_tx`).
#[cold]
pub(super) fn netdev_pick_tx(net: &mut Net, pkt: &Pkt) -> usize {
    let (dev, cpu) = (pkt.dev, net.cpu as usize);
    let Some(iface) = net.ifaces.get(dev as usize) else { return 0 };
    let txqs = &iface.txqs[..];
    let xps = &mut net.xps;
    let hash = xps.hash.of_frame(pkt.head(), iface.l2 == L2::Ethernet);
    let known = xps.flow(dev, hash, txqs).map(|f| (f.rxq, f.txq, f.gone(txqs)));
    let (rxq, old) = known.map_or((NONE, NONE), |(rxq, txq, _)| (rxq, txq));
    if let Some((_, txq, false)) = known
        && (txq as usize) < txqs.len()
    {
        return xps.put(dev, hash, txq, txqs);
    }
    let n = txqs.len();
    let by_rxq = || xps.among(dev, n, hash, |t| t.rxqs.has(rxq as usize));
    let by_cpu = || xps.among(dev, n, hash, |t| t.cpus.has(cpu));
    let new = by_rxq().or_else(by_cpu).unwrap_or_else(|| skb_tx_hash(pkt, hash, n));
    if old != NONE && old != new {
        net.counts.inc(id::XpsQueueChanged);
    }
    net.xps.put(dev, hash, new, txqs)
}

/// No mask says anything: the queue of the same number that a forwarded packet came by, else one
/// by the hash.
fn skb_tx_hash(pkt: &Pkt, hash: u32, n: usize) -> u8 {
    match pkt.queue {
        NO_QUEUE => reciprocal_scale(hash, n) as u8,
        queue => (queue as usize % n) as u8,
    }
}

impl Xps {
    /// Notes that a packet of the flow goes into this queue now.
    fn put(&mut self, dev: u8, hash: u32, txq: u8, txqs: &[TxQueue]) -> usize {
        if let Some(queue) = txqs.get(txq as usize)
            && let Some(flow) = self.flow(dev, hash, txqs)
        {
            (flow.txq, flow.last) = (txq, queue.sent + queue.qdisc.len() as u64 + 1);
        }
        txq as usize
    }
}

/// Whether the batch is to be looked at by [`note_rx`].
#[inline]
pub(crate) fn learns(net: &Net) -> bool {
    net.xps.learns
}

/// Notes by which queues flows are received (`sk_rx_queue_set`).
#[cold]
pub(crate) fn note_rx(cx: &mut Shard, batch: &Batch) {
    let Net { ifaces, xps, .. } = &mut cx.net;
    for pkt in &batch.now {
        let Some(iface) = ifaces.get(pkt.dev as usize).filter(|i| i.txqs.len() > 1) else {
            continue;
        };
        let hash = xps.hash.of_frame(pkt.head(), iface.l2 == L2::Ethernet);
        if let Some(flow) = xps.flow(pkt.dev, hash, &iface.txqs) {
            flow.rxq = pkt.queue;
        }
    }
}

impl Shard {
    /// Sets the shards whose packets transmit queue `queue` of a device takes (its `xps_cpus`). The
    /// knob sets those of all queues that were not set singly.
    pub fn set_xps_cpus(&mut self, dev: u8, queue: u8, mask: Mask) {
        self.takes_mut(dev, queue).cpus = mask;
    }
    /// Sets the receive queues whose flows transmit queue `queue` of a device sends (its
    /// `xps_rxqs`); it goes before `xps_cpus`.
    pub fn set_xps_rxqs(&mut self, dev: u8, queue: u8, mask: Mask) {
        self.takes_mut(dev, queue).rxqs = mask;
        self.net.xps.learns |= mask.0 != 0;
    }
    fn takes_mut(&mut self, dev: u8, queue: u8) -> &mut Takes {
        let xps = &mut self.net.xps;
        for q in 0..=queue as usize {
            let now = xps.takes(dev, q);
            if xps.takes.len() <= dev as usize {
                xps.takes.resize_with(dev as usize + 1, Vec::new);
            }
            let takes = &mut xps.takes[dev as usize];
            if takes.len() <= q {
                takes.push(now);
            }
        }
        &mut xps.takes[dev as usize][queue as usize]
    }
    /// The knobs were set: all queues follow.
    pub(crate) fn xps_changed(&mut self) {
        let (knobs, xps) = (&self.net.knobs, &mut self.net.xps);
        xps.takes.clear();
        xps.default = (knobs.xps_cpus, knobs.xps_rxqs);
        xps.learns = knobs.xps_rxqs.0 != 0;
    }
}

#[cfg(test)]
mod tests;
