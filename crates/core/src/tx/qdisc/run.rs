//! Stage `Qdisc`, TX: a device's queue, by its discipline; and the same in front of the path.
//!
//! before: [`crate::link::output`]   after: [`crate::tx::gso`]
//! Linux:  net/core/dev.c `__dev_queue_xmit`, net/sched/sch_generic.c `dequeue_skb`, `qdisc_restart`,
//!         net/sched/sch_api.c `qdisc_watchdog`
//! drops:  QdiscDrop; the disciplines give the others

use super::fifo::PfifoFast;
use super::{Cx, Item, Place, Qdisc, Spec, Tree, band, qdisc_pkt_len};
use crate::link::{Iface, L2, TxQueue};
use crate::pkt::{NO_QUEUE, Pkt, Pool, Skb, Verdict};
use crate::rand::Rng;
use crate::shard::{Net, Shard};
use crate::table::{Counts, Knobs, Reason, Stage};
use crate::time::Instant;
use crate::trace::{self, Said, Trace};
use crate::tx::xps::netdev_pick_tx;

/// The discipline of a transmit queue (`netdev_queue->qdisc`).
pub enum Root {
    /// The one that a queue has as long as nobody sets another: its lists are handed on whole.
    PfifoFast(PfifoFast),
    /// Any other.
    Other(Box<Sched>),
}

impl Default for Root {
    fn default() -> Root {
        Root::PfifoFast(PfifoFast::default())
    }
}

impl Root {
    /// Packets that wait.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Root::PfifoFast(q) => q.len(),
            Root::Other(sched) => sched.qdisc.len(),
        }
    }
    /// Whether none waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether it paces flows, which they then do by themselves: `fq` at the root.
    #[inline]
    pub fn paces(&self) -> bool {
        match self {
            Root::PfifoFast(_) => false,
            Root::Other(sched) => matches!(&sched.tree.spec, Spec::Fq(fq) if fq.pacing),
        }
    }
    /// When a packet may go that may not go now; [`Instant::NEVER`] if none waits for its time.
    #[inline]
    pub fn watchdog(&self) -> Instant {
        match self {
            Root::PfifoFast(_) => Instant::NEVER,
            Root::Other(sched) => sched.watchdog,
        }
    }
}

/// What a discipline is run with.
pub struct Env<'a> {
    /// The time.
    pub now: Instant,
    /// Packet memory.
    pub pool: &'a mut Pool,
    /// Where its packets are counted: stage Qdisc.
    pub counts: &'a Counts,
    /// Where verdicts of traced packets go.
    pub trace: &'a mut Option<Trace>,
    /// Whether the device completes checksums.
    pub device_sums: bool,
}

/// A discipline that is no `pfifo_fast`, with what its running needs.
pub struct Sched {
    /// The discipline at the root, the others below it.
    pub qdisc: Qdisc,
    /// What was asked for.
    pub tree: Tree,
    watchdog: Instant,
    dropped: Vec<(Pkt, Reason)>,
}

impl Sched {
    /// What `tree` says, at a device that is `place`.
    pub fn new(tree: Tree, place: Place, rng: &mut Rng) -> Sched {
        let qdisc = Qdisc::new(&tree, place, rng);
        Sched { qdisc, tree, watchdog: Instant::NEVER, dropped: Vec::new() }
    }

    /// Takes a packet in, which the stage has counted as entered, or refuses it; and how many that had
    /// been taken in before have been dropped.
    #[inline]
    pub fn enqueue(&mut self, env: &mut Env<'_>, pkt: Pkt) -> (Verdict, u64) {
        let this: *const Skb = &raw const *pkt;
        let item = Item::new(pkt, env.now);
        self.run(env, |qdisc, cx| qdisc.enqueue(cx, item));
        if !self.dropped.is_empty() {
            return self.enqueue_dropped(env, this);
        }
        env.counts.flow(Stage::Qdisc).hold(1);
        (Verdict::Held, 0)
    }

    /// The packet `this`, or others, have been dropped when it came.
    #[cold]
    fn enqueue_dropped(&mut self, env: &mut Env<'_>, this: *const Skb) -> (Verdict, u64) {
        let at = self.dropped.iter().position(|(pkt, _)| std::ptr::eq(&raw const **pkt, this));
        let verdict = match at.map(|at| self.dropped.remove(at)) {
            Some((pkt, why)) => Verdict::Drop(pkt, why),
            None => {
                env.counts.flow(Stage::Qdisc).hold(1);
                Verdict::Held
            }
        };
        (verdict, self.free_dropped(env))
    }

    /// The next packet that may go now, which is still counted as held; and how many others have left.
    #[inline]
    pub fn dequeue(&mut self, env: &mut Env<'_>) -> (Option<Pkt>, u64) {
        self.watchdog = Instant::NEVER;
        let item = self.run(env, Qdisc::dequeue);
        debug_assert!(
            item.is_some() || self.qdisc.len() == 0 || self.watchdog != Instant::NEVER,
            "a discipline in which packets wait says when the first may go"
        );
        let dropped = if self.dropped.is_empty() { 0 } else { self.free_dropped(env) };
        (item.map(|item| item.pkt), dropped)
    }

    /// What the discipline gives up stays in `dropped`.
    #[inline(always)]
    fn run<T>(&mut self, env: &mut Env<'_>, act: impl FnOnce(&mut Qdisc, &mut Cx<'_>) -> T) -> T {
        let mut cx = Cx {
            now: env.now,
            pool: env.pool,
            device_sums: env.device_sums,
            dropped: &mut self.dropped,
            made: 0,
            taken: 0,
            watchdog: Instant::NEVER,
        };
        let done = act(&mut self.qdisc, &mut cx);
        let (made, taken) = (cx.made, cx.taken);
        self.watchdog = self.watchdog.min(cx.watchdog);
        if made + taken > 0 {
            let flow = env.counts.flow(Stage::Qdisc);
            flow.make(made);
            flow.hold(made);
            flow.release(taken);
            flow.take(taken);
        }
        done
    }

    /// Counts and frees what was given up; how many those were.
    #[cold]
    fn free_dropped(&mut self, env: &mut Env<'_>) -> u64 {
        let dropped = self.dropped.len() as u64;
        for (pkt, why) in self.dropped.drain(..) {
            env.counts.flow(Stage::Qdisc).release(1);
            env.counts.dropped(Stage::Qdisc, why);
            trace::say(env.trace, Stage::Qdisc, &pkt, Said::Dropped(why));
            env.pool.free(pkt);
        }
        dropped
    }

    /// Drops all that waits: another discipline takes its place. Returns how many there were.
    pub fn reset(&mut self, env: &mut Env<'_>) -> u64 {
        let mut all = Vec::new();
        self.qdisc.drain(&mut all);
        let n = all.len() as u64;
        purge(env, all);
        n
    }

    /// When a packet may go that may not go now.
    pub fn watchdog(&self) -> Instant {
        self.watchdog
    }
    /// There may be more at once.
    pub(super) fn again(&mut self, now: Instant) {
        self.watchdog = now;
    }
}

/// Drops packets that waited.
fn purge(env: &mut Env<'_>, pkts: impl IntoIterator<Item = Pkt>) {
    for pkt in pkts {
        env.counts.flow(Stage::Qdisc).release(1);
        env.counts.dropped(Stage::Qdisc, Reason::QdiscDrop);
        trace::say(env.trace, Stage::Qdisc, &pkt, Said::Dropped(Reason::QdiscDrop));
        env.pool.free(pkt);
    }
}

/// Queues a frame to its device, as the device's discipline says; `dev.txqueuelen` bounds each band
/// of `pfifo_fast`.
#[inline(always)]
pub(crate) fn dev_queue_xmit(cx: &mut Shard, pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    let Some(iface) = net.ifaces.get(pkt.dev as usize) else {
        return Verdict::Drop(pkt, Reason::QdiscDrop);
    };
    let queue = if iface.txqs.len() > 1 { netdev_pick_tx(net, &pkt) } else { 0 };
    let txq = &mut net.ifaces[pkt.dev as usize].txqs[queue];
    let Root::PfifoFast(fast) = &mut txq.qdisc else {
        return enqueue_other(net, pkt.dev, queue, pkt);
    };
    let band = &mut fast.bands[band(&pkt)];
    if band.len() as u64 >= net.knobs.txqueuelen {
        txq.drops += 1;
        return Verdict::Drop(pkt, Reason::QdiscDrop);
    }
    txq.bytes += qdisc_pkt_len(&pkt) as usize;
    band.push_back(pkt);
    net.counts.flow(Stage::Qdisc).hold(1);
    // The packet stays in this stage until the ring has room: the stage counts it out then.
    Verdict::Held
}

#[inline(never)]
fn enqueue_other(net: &mut Net, dev: u8, queue: usize, pkt: Pkt) -> Verdict {
    let done = with_sched(net, dev, queue, |sched, env| sched.enqueue(env, pkt));
    let verdict = done.expect("the queue was just seen to have a discipline of its own");
    if matches!(verdict, Verdict::Drop(..)) {
        net.ifaces[dev as usize].txqs[queue].drops += 1;
    }
    verdict
}

/// Runs the discipline of a transmit queue that has one that is no `pfifo_fast`. `act` says how many
/// packets have left it otherwise than to the ring.
fn with_sched<T>(
    net: &mut Net,
    dev: u8,
    queue: usize,
    act: impl FnOnce(&mut Sched, &mut Env<'_>) -> (T, u64),
) -> Option<T> {
    let iface = net.ifaces.get_mut(dev as usize)?;
    let device_sums = iface.features.tx_csum && net.knobs.tx_checksum;
    let txq = iface.txqs.get_mut(queue)?;
    let Root::Other(sched) = &mut txq.qdisc else { return None };
    let mut env = Env {
        now: net.now,
        pool: &mut net.pool,
        counts: &net.counts,
        trace: &mut net.trace,
        device_sums,
    };
    let (done, lost) = act(sched, &mut env);
    txq.drops += lost;
    txq.sent += lost;
    Some(done)
}

/// The next packet of a transmit queue for its ring.
#[inline]
pub(in crate::tx) fn next_pkt(net: &mut Net, dev: u8, queue: u8) -> Option<Pkt> {
    let txq = net.ifaces.get_mut(dev as usize)?.txqs.get_mut(queue as usize)?;
    match &mut txq.qdisc {
        Root::PfifoFast(fast) => {
            let pkt = fast.first()?.pop_front()?;
            txq.left(1, qdisc_pkt_len(&pkt) as usize);
            Some(pkt)
        }
        Root::Other(_) => {
            let pkt = with_sched(net, dev, queue as usize, Sched::dequeue)??;
            let txq = &mut net.ifaces[dev as usize].txqs[queue as usize];
            txq.sent += 1;
            txq.sent_bytes += qdisc_pkt_len(&pkt) as u64;
            Some(pkt)
        }
    }
}

/// The packet's transmit queue, of `queues` that there are. A packet that was received by a queue
/// may name one that does not send here, and one that came by none goes to the first.
#[inline(always)]
pub(in crate::tx) fn tx_queue(pkt: &Pkt, queues: usize) -> usize {
    queue_of(pkt.queue, queues)
}

/// The same of what a packet says.
#[inline]
pub(in crate::tx) fn queue_of(said: u8, queues: usize) -> usize {
    let queue = said as usize;
    // The division, which is slow, is for the rare case.
    match said {
        _ if queue < queues => queue,
        NO_QUEUE => 0,
        _ => queue % queues,
    }
}

/// When a packet in a discipline may go that may not go now.
pub(crate) fn next_watchdog(net: &Net) -> Option<Instant> {
    let sent = net.ifaces.iter().flat_map(|i| &i.txqs).map(|q| q.qdisc.watchdog());
    let received = net.ifaces.iter().filter_map(|i| i.rx_qdisc.as_ref()).map(|s| s.watchdog);
    let at = sent.chain(received).min()?;
    (at != Instant::NEVER).then_some(at)
}

/// Watchdogs whose time has come (`qdisc_watchdog`): the loop empties the queues after this, and a
/// queue whose device is stuck is not asked for before that has room.
pub(crate) fn qdisc_timers(net: &mut Net) {
    let now = net.now;
    for txq in net.ifaces.iter_mut().flat_map(|i| &mut i.txqs) {
        if let Root::Other(sched) = &mut txq.qdisc
            && sched.watchdog <= now
        {
            sched.watchdog = Instant::NEVER;
        }
    }
}

impl TxQueue {
    /// Gives this queue the discipline `tree`; what waited is dropped, as `tc qdisc replace` does.
    fn graft(&mut self, env: &mut Env<'_>, tree: &Tree, place: Place, rng: &mut Rng) {
        let lost = match &mut self.qdisc {
            Root::PfifoFast(fast) => {
                let n = fast.len() as u64;
                purge(env, fast.bands.iter_mut().flat_map(|band| band.drain(..)));
                n
            }
            Root::Other(sched) => sched.reset(env),
        };
        self.bytes = 0;
        self.drops += lost;
        self.sent += lost;
        self.qdisc = match tree.is_default() {
            true => Root::default(),
            false => Root::Other(Box::new(Sched::new(tree.clone(), place, rng))),
        };
    }
}

/// What a discipline at this device has to know.
pub(super) fn place(iface: &Iface, knobs: &Knobs) -> Place {
    let link = if iface.l2 == L2::Ethernet { 14 } else { 0 };
    Place {
        mtu: iface.mtu.saturating_add(link),
        txqueuelen: u32::try_from(knobs.txqueuelen).unwrap_or(u32::MAX),
    }
}

impl Net {
    /// What a discipline of a device is run with, and the devices.
    pub(super) fn env(&mut self) -> (&mut [Iface], &mut Rng, &Knobs, Env<'_>) {
        let env = Env {
            now: self.now,
            pool: &mut self.pool,
            counts: &self.counts,
            trace: &mut self.trace,
            device_sums: false,
        };
        (&mut self.ifaces, &mut self.rng, &self.knobs, env)
    }

    /// Transmit queue `gone` of device `dev` is no more: what waited in it goes to the first queue.
    pub fn inherit_txq(&mut self, dev: u8, mut gone: TxQueue) {
        let Some(heir) = self.ifaces.get_mut(dev as usize).and_then(|i| i.txqs.first_mut()) else {
            return;
        };
        heir.ring.append(&mut gone.ring);
        (heir.sent, heir.sent_bytes) = (heir.sent + gone.sent, heir.sent_bytes + gone.sent_bytes);
        heir.drops += gone.drops;
        let mut waiting = Vec::new();
        match &mut gone.qdisc {
            Root::PfifoFast(from) => {
                waiting.extend(from.bands.iter_mut().flat_map(|b| b.drain(..)))
            }
            Root::Other(from) => from.qdisc.drain(&mut waiting),
        }
        for pkt in waiting {
            self.enqueue_again(dev, pkt);
        }
    }

    /// A packet that waited in another queue of the device goes to the first.
    fn enqueue_again(&mut self, dev: u8, pkt: Pkt) {
        let txq = &mut self.ifaces[dev as usize].txqs[0];
        if let Root::PfifoFast(fast) = &mut txq.qdisc {
            txq.bytes += qdisc_pkt_len(&pkt) as usize;
            return fast.bands[band(&pkt)].push_back(pkt);
        }
        self.counts.flow(Stage::Qdisc).release(1);
        if let Verdict::Drop(pkt, why) = enqueue_other(self, dev, 0, pkt) {
            self.kfree_skb_reason(Stage::Qdisc, pkt, why);
        }
    }
}

impl Shard {
    /// Gives all transmit queues of device `dev` the discipline `tree`, each one of its own (as under
    /// `mq`), and those that are added later. What waited is dropped (QdiscDrop), and all statistics
    /// begin anew, as with `tc qdisc replace`. Nothing happens if there is no such device.
    pub fn set_qdisc(&mut self, dev: u8, tree: &Tree) {
        let (ifaces, rng, knobs, mut env) = self.net.env();
        let Some(iface) = ifaces.get_mut(dev as usize) else { return };
        let place = place(iface, knobs);
        for txq in &mut iface.txqs {
            txq.graft(&mut env, tree, place, rng);
        }
        iface.qdisc = (!tree.is_default()).then(|| tree.clone());
    }

    /// Adds a transmit queue to device `dev`, with the discipline that its others have.
    pub fn add_txq(&mut self, dev: u8) {
        let (ifaces, rng, knobs, mut env) = self.net.env();
        let Some(iface) = ifaces.get_mut(dev as usize) else { return };
        let place = place(iface, knobs);
        let mut txq = TxQueue::default();
        if let Some(tree) = &iface.qdisc {
            txq.graft(&mut env, tree, place, rng);
        }
        iface.txqs.push(txq);
    }
}
