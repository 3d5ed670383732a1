//! Stage `Xmit`, TX: into the device's ring.
//!
//! before: [`crate::tx::gso`]   after: the device
//! Linux:  net/sched/sch_generic.c `sch_direct_xmit`, net/core/dev.c `dev_hard_start_xmit`,
//!         include/linux/netdevice.h `netdev_tx_completed_queue`
//! drops:  DevTxError, XdpTxFull

use crate::link::{TxQueue, TxRing};
use crate::pkt::{Batch, Pkt, Pool, Verdict};
use crate::shard::Net;
use crate::table::{Reason, Stage, count::id};
use crate::tap::{Point, Stages};
use crate::time::SEC;
use crate::trace::{self, Said};

use super::dql::Bounds;
use super::gso::{Offers, validate_xmit_skb};
use super::qdisc::{Root, next_pkt, queue_of, tx_queue};

/// Moves packets of transmit queue `queue` of device `dev` to its ring until `room` of them wait
/// there. Returns the ring, for the driver to empty from the front; `None` if there is no such queue.
pub fn sch_direct_xmit(net: &mut Net, dev: u8, queue: u8, room: usize) -> Option<&mut TxRing> {
    let mut moved = 0;
    // Those of them that nothing had to be done to but a checksum.
    let mut plain = 0;
    let offers = Offers::of(net.ifaces.get(dev as usize)?, &net.knobs);
    let bounds = Bounds::of(&net.knobs);
    // Whoever captures here sees packets one by one.
    let tapped = net.tapped(LAST);
    loop {
        let txq = net.ifaces.get_mut(dev as usize)?.txqs.get_mut(queue as usize)?;
        let n =
            if tapped { 0 } else { xmit_plain(&mut net.pool, txq, queue, room, offers, bounds) };
        plain += n;
        moved += n;
        if txq.ring.len() >= room || txq.dql.avail(bounds).is_none() {
            break;
        }
        let Some(mut pkt) = next_pkt(net, dev, queue) else { break };
        // From here on the packet, and what it is cut into, belongs to this queue's ring.
        pkt.queue = queue;
        net.pool.skb_orphan(&mut pkt);
        moved += 1;
        if tapped {
            net.tap_at(Stage::Qdisc, Point::After, &pkt, None);
            net.tap_at(Stage::Gso, Point::Before, &pkt, None);
        }
        trace::say(&mut net.trace, Stage::Qdisc, &pkt, Said::Pass);
        net.counts.flow(Stage::Gso).enter(1);
        match validate_xmit_skb(net, pkt) {
            Verdict::Pass(pkt) => {
                net.counts.flow(Stage::Gso).pass(1);
                if tapped {
                    net.tap_at(Stage::Gso, Point::After, &pkt, None);
                }
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
        xmitted(net, plain);
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

/// The stages between the queue and the ring.
const LAST: Stages = Stages::of(&[Stage::Qdisc, Stage::Gso]);

/// So few packets are moved sooner than lists change places, which have just been written.
const FEW: usize = 4;

/// Moves packets to the ring as long as nothing has to be done to them but a checksum, and `room` of
/// them wait there at most; returns how many.
#[inline]
fn xmit_plain(
    pool: &mut Pool,
    txq: &mut TxQueue,
    queue: u8,
    room: usize,
    offers: Offers,
    bounds: Bounds,
) -> u64 {
    let mut all = 0;
    // A band goes when those before it are empty.
    while let Root::PfifoFast(fast) = &mut txq.qdisc
        && let Some(band) = fast.first()
        && let Some(avail) = txq.dql.avail(bounds)
    {
        let room = room.saturating_sub(txq.ring.len());
        let avail = avail as usize;
        let (mut n, mut bytes, mut last) = (0, 0, 0);
        for pkt in band.iter_mut().take(room) {
            if bytes > avail || pkt.trace != 0 || !offers.ready(pkt) {
                break;
            }
            pkt.queue = queue;
            pool.skb_orphan(pkt);
            last = pkt.len();
            bytes += last;
            n += 1;
        }
        let whole = n == band.len();
        if n > FEW && whole && txq.ring.is_empty() {
            // The two lists change places: no packet is moved.
            std::mem::swap(band, &mut txq.ring);
        } else if n <= FEW {
            for _ in 0..n {
                txq.ring.extend(band.pop_front());
            }
        } else {
            txq.ring.extend(band.drain(..n));
        }
        txq.left(n, bytes);
        txq.dql.sent(bytes as u64, last as u64);
        all += n as u64;
        if !whole {
            break;
        }
    }
    all
}

/// Puts one packet, ready for the wire, into the ring. It waits there until the driver took it:
/// [`tx_done`].
pub(crate) fn xmit_one(net: &mut Net, dev: u8, pkt: Pkt) {
    xmitted(net, 1);
    trace::say(&mut net.trace, Stage::Xmit, &pkt, Said::Held);
    let txqs = &mut net.ifaces[dev as usize].txqs;
    let queue = tx_queue(&pkt, txqs.len());
    let (txq, len) = (&mut txqs[queue], pkt.len() as u64);
    txq.dql.sent(len, len);
    txq.ring.push_back(pkt);
}

/// The same for the `n` segments of one packet, which `segment` makes; they are counted together.
pub(super) fn xmit_list(
    net: &mut Net,
    (dev, queue): (u8, u8),
    n: usize,
    mut segment: impl FnMut(&mut Pool, usize) -> Option<Pkt>,
) {
    let Net { ifaces, pool, .. } = net;
    let txqs = &mut ifaces[dev as usize].txqs;
    let queue = queue_of(queue, txqs.len());
    let txq = &mut txqs[queue];
    let (mut pkts, mut bytes, mut last) = (0, 0, 0);
    txq.ring.reserve(n);
    for n in 0..n {
        let Some(seg) = segment(pool, n) else { break };
        last = seg.len() as u64;
        bytes += last;
        pkts += 1;
        txq.ring.push_back(seg);
    }
    txq.dql.sent(bytes, last);
    xmitted(net, pkts);
}

/// The same for what an XDP program sends, as one of many that [`xmitted`] counts: no queue lies
/// before the ring, so a full one drops it (a driver's `ndo_xdp_xmit`).
#[inline]
pub(crate) fn xdp_xmit(net: &mut Net, dev: u8, pkt: Pkt) -> Verdict {
    let room = net.knobs.ring_tx as usize;
    let txqs = &mut net.ifaces[dev as usize].txqs;
    let queue = tx_queue(&pkt, txqs.len());
    let ring = &mut txqs[queue].ring;
    if ring.len() >= room {
        return Verdict::Drop(pkt, Reason::XdpTxFull);
    }
    trace::say(&mut net.trace, Stage::Xmit, &pkt, Said::Held);
    ring.push_back(pkt);
    Verdict::Queued
}

/// `n` packets came to rings, where they wait.
#[inline]
pub(crate) fn xmitted(net: &Net, n: u64) {
    let flow = net.counts.flow(Stage::Xmit);
    flow.enter(n);
    flow.hold(n);
}

/// The driver handed `pkt` to the device, which took it (`true`) or refused it.
pub fn tx_done(net: &mut Net, pkt: Pkt, sent: bool) {
    if !sent {
        net.counts.flow(Stage::Xmit).release(1);
        dql_completed(net, pkt.dev, pkt.queue, pkt.len() as u64);
        net.kfree_skb_reason(Stage::Xmit, pkt, Reason::DevTxError);
        return;
    }
    if net.tapped(XMIT) {
        net.tap_at(Stage::Xmit, Point::After, &pkt, None);
    }
    trace::say(&mut net.trace, Stage::Xmit, &pkt, Said::Pass);
    Sent { dev: pkt.dev, queue: pkt.queue, pkts: 1, bytes: pkt.len() as u64 }.count(net);
    net.pool.free(pkt);
}

/// [`tx_done`] for many packets, which are counted together.
#[inline]
pub fn tx_done_all(net: &mut Net, done: impl IntoIterator<Item = (Pkt, bool)>) {
    let mut all = Sent { dev: 0, queue: 0, pkts: 0, bytes: 0 };
    let tapped = net.tapped(XMIT);
    for (pkt, sent) in done {
        if !sent || tapped || pkt.trace != 0 {
            tx_done(net, pkt, sent);
            continue;
        }
        if (pkt.dev, pkt.queue) != (all.dev, all.queue) {
            all.count(net);
            all = Sent { dev: pkt.dev, queue: pkt.queue, pkts: 0, bytes: 0 };
        }
        all.pkts += 1;
        all.bytes += pkt.len() as u64;
        net.pool.free(pkt);
    }
    all.count(net);
}

/// A wire in memory: what waits in the ring of `from` goes to `to` as it is, against empty packets from there,
/// so that nothing is copied and both pools keep what they had (Linux: `veth_xmit`). What finds no memory there
/// stays in the ring. Returns how many went.
pub fn veth_xmit(from: &mut Net, (dev, queue): (u8, u8), to: &mut Net, out: &mut Batch) -> usize {
    let Some(txq) = from.ifaces.get_mut(dev as usize).and_then(|i| i.txqs.get_mut(queue as usize))
    else {
        return 0;
    };
    let mut ring = std::mem::take(&mut txq.ring);
    let mut all = Sent { dev, queue, pkts: 0, bytes: 0 };
    while let Some(mut pkt) = ring.pop_front() {
        if !from.pool.trade(&pkt, &mut to.pool) {
            ring.push_front(pkt);
            break;
        }
        all.pkts += 1;
        all.bytes += pkt.len() as u64;
        let (csum, gso, fixed, vlan) = (pkt.csum, pkt.gso, pkt.gso_fixed_id, pkt.vlan);
        pkt.forget();
        (pkt.csum, pkt.gso, pkt.gso_fixed_id, pkt.vlan) = (csum, gso, fixed, vlan);
        pkt.rx_time = to.now;
        out.push(pkt);
    }
    if let Some(txq) =
        from.ifaces.get_mut(dev as usize).and_then(|i| i.txqs.get_mut(queue as usize))
    {
        txq.ring = ring;
    }
    all.count(from);
    all.pkts as usize
}

/// Nanoseconds for which a device may take nothing while packets wait for it (`watchdog_timeo`).
pub const WATCHDOG_TIMEO: u64 = 5 * SEC;

impl Net {
    /// The device took nothing for so long that its driver tries again (`netdev->ndo_tx_timeout`).
    pub fn tx_timeout(&mut self, dev: u8, queue: u8) {
        let iface = self.ifaces.get_mut(dev as usize);
        if let Some(txq) = iface.and_then(|i| i.txqs.get_mut(queue as usize)) {
            txq.tx_timeout += 1;
        }
    }

    /// Whether packets wait in a queueing discipline only because as many bytes as may be are on their way
    /// (`netif_xmit_stopped`).
    pub fn bql_stopped(&self, dev: u8, queue: u8) -> bool {
        let txq = self.ifaces.get(dev as usize).and_then(|i| i.txqs.get(queue as usize));
        let bounds = Bounds::of(&self.knobs);
        txq.is_some_and(|txq| txq.dql.avail(bounds).is_none() && !txq.qdisc.is_empty())
    }
}

const XMIT: Stages = Stages::of(&[Stage::Xmit]);

/// What a device took.
struct Sent {
    dev: u8,
    queue: u8,
    pkts: u64,
    bytes: u64,
}

impl Sent {
    #[inline(never)]
    fn count(&self, net: &mut Net) {
        if self.pkts == 0 {
            return;
        }
        let flow = net.counts.flow(Stage::Xmit);
        flow.release(self.pkts);
        flow.pass(self.pkts);
        net.counts.inc_by(id::DevTxPackets, self.pkts);
        net.counts.add_bytes(id::DevTxBytes, self.bytes);
        let iface = &mut net.ifaces[self.dev as usize];
        iface.tx_packets += self.pkts;
        iface.tx_bytes += self.bytes;
        dql_completed(net, self.dev, self.queue, self.bytes);
    }
}

/// The device is through with so many bytes (`netdev_tx_completed_queue`).
fn dql_completed(net: &mut Net, dev: u8, queue: u8, bytes: u64) {
    let (now, bounds) = (net.now, Bounds::of(&net.knobs));
    let txq = net.ifaces.get_mut(dev as usize).and_then(|i| i.txqs.get_mut(queue as usize));
    if let Some(txq) = txq {
        txq.dql.done(bytes, now, bounds);
    }
}
