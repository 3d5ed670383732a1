//! Stage `Xmit`, TX: into the device's ring.
//!
//! before: [`crate::tx::gso`]   after: the device
//! Linux:  net/sched/sch_generic.c `sch_direct_xmit`, net/core/dev.c `dev_hard_start_xmit`
//! drops:  DevTxError

use crate::link::TxRing;
use crate::pkt::{Pkt, Verdict};
use crate::shard::Net;
use crate::table::{Stage, count::id};
use crate::trace::{self, Said};

use super::gso::{Offers, validate_xmit_skb};
use super::qdisc::tx_queue;

/// Moves packets of transmit queue `queue` of device `dev` to its ring until `room` of them wait
/// there. Returns the ring, for the driver to empty from the front; `None` if there is no such queue.
pub fn sch_direct_xmit(net: &mut Net, dev: u8, queue: u8, room: usize) -> Option<&mut TxRing> {
    let mut moved = 0;
    // Those of them that nothing had to be done to but a checksum.
    let mut plain = 0;
    let offers = Offers::of(net.ifaces.get(dev as usize)?, &net.knobs);
    loop {
        let txq = net.ifaces.get_mut(dev as usize)?.txqs.get_mut(queue as usize)?;
        if txq.ring.len() >= room {
            break;
        }
        let Some(mut pkt) = txq.qdisc.pop_front() else { break };
        txq.bytes -= pkt.len();
        txq.sent += 1;
        txq.sent_bytes += pkt.len() as u64;
        // From here on the packet, and what it is cut into, belongs to this queue's ring.
        pkt.queue = queue;
        moved += 1;
        if pkt.trace == 0 && offers.ready(&mut pkt) {
            plain += 1;
            txq.ring.push_back(pkt);
            continue;
        }
        trace::say(&mut net.trace, Stage::Qdisc, &pkt, Said::Pass);
        net.counts.flow(Stage::Gso).enter(1);
        match validate_xmit_skb(net, pkt) {
            Verdict::Pass(pkt) => {
                net.counts.flow(Stage::Gso).pass(1);
                trace::say(&mut net.trace, Stage::Gso, &pkt, Said::Pass);
                xmit_one(net, dev, pkt);
            }
            Verdict::Drop(pkt, why) => net.kfree_skb_reason(Stage::Gso, pkt, why),
            // It was cut: its segments went to the ring one by one.
            Verdict::Taken | Verdict::Queued | Verdict::Held => {
                net.counts.flow(Stage::Gso).take(1);
            }
        }
    }
    if plain > 0 {
        net.counts.flow(Stage::Gso).enter(plain);
        net.counts.flow(Stage::Gso).pass(plain);
        net.counts.flow(Stage::Xmit).enter(plain);
        net.counts.flow(Stage::Xmit).hold(plain);
    }
    if moved > 0 {
        let flow = net.counts.flow(Stage::Qdisc);
        flow.release(moved);
        flow.pass(moved);
        net.counts.flow(Stage::Gso).batched();
        net.counts.flow(Stage::Xmit).batched();
        net.counts.inc(id::SoftirqNetTx);
    }
    Some(&mut net.ifaces[dev as usize].txqs[queue as usize].ring)
}

/// Puts one packet, ready for the wire, into the ring. It waits there until the driver took it:
/// [`tx_done`].
pub(crate) fn xmit_one(net: &mut Net, dev: u8, pkt: Pkt) {
    let flow = net.counts.flow(Stage::Xmit);
    flow.enter(1);
    flow.hold(1);
    trace::say(&mut net.trace, Stage::Xmit, &pkt, Said::Held);
    let txqs = &mut net.ifaces[dev as usize].txqs;
    let queue = tx_queue(&pkt, txqs.len());
    txqs[queue].ring.push_back(pkt);
}

/// The driver handed `pkt` to the device, which took it (`Ok`) or refused it.
pub fn tx_done(net: &mut Net, pkt: Pkt, sent: bool) {
    let flow = net.counts.flow(Stage::Xmit);
    flow.release(1);
    if !sent {
        net.kfree_skb_reason(Stage::Xmit, pkt, crate::table::Reason::DevTxError);
        return;
    }
    flow.pass(1);
    trace::say(&mut net.trace, Stage::Xmit, &pkt, Said::Pass);
    net.counts.inc(id::DevTxPackets);
    net.counts.add_bytes(id::DevTxBytes, pkt.len() as u64);
    let iface = &mut net.ifaces[pkt.dev as usize];
    iface.tx_packets += 1;
    iface.tx_bytes += pkt.len() as u64;
    net.pool.free(pkt);
}
