//! Stage `Qdisc`, TX: the device's bounded transmit queue.
//!
//! before: [`crate::link::output`]   after: [`crate::tx::gso`]
//! Linux:  net/core/dev.c `__dev_queue_xmit`, net/sched/sch_generic.c `pfifo_fast_enqueue`
//! drops:  QdiscDrop

use crate::pkt::{NO_QUEUE, Pkt, Verdict};
use crate::shard::Shard;
use crate::table::{Reason, Stage};

use super::xps::netdev_pick_tx;

/// Queues a frame to its device; `dev.txqueuelen` bounds the queue.
///
/// `pfifo_fast` has three bands by priority; here all packets share one, since nothing sets a priority.
#[inline(always)]
pub fn dev_queue_xmit(cx: &mut Shard, pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    let Some(iface) = net.ifaces.get(pkt.dev as usize) else {
        return Verdict::Drop(pkt, Reason::QdiscDrop);
    };
    let queue = if iface.txqs.len() > 1 { netdev_pick_tx(net, &pkt) } else { 0 };
    let txq = &mut net.ifaces[pkt.dev as usize].txqs[queue];
    if txq.qdisc.len() as u64 >= net.knobs.txqueuelen {
        txq.drops += 1;
        return Verdict::Drop(pkt, Reason::QdiscDrop);
    }
    txq.bytes += pkt.len();
    txq.qdisc.push_back(pkt);
    net.counts.flow(Stage::Qdisc).hold(1);
    // The packet stays in this stage until the ring has room: the stage counts it out then.
    Verdict::Held
}

/// The packet's transmit queue, of `queues` that there are. A packet that was received by a queue
/// may name one that does not send here, and one that came by none goes to the first.
#[inline(always)]
pub(super) fn tx_queue(pkt: &Pkt, queues: usize) -> usize {
    let queue = pkt.queue as usize;
    // The division, which is slow, is for the rare case.
    match pkt.queue {
        _ if queue < queues => queue,
        NO_QUEUE => 0,
        _ => queue % queues,
    }
}
