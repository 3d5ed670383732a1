//! One queue of a card in memory: the device that a loop drives.
//!
//! before: the other end's queues   after: [`crate::drive`]
//! Linux:  a driver's `ndo_start_xmit` and NAPI poll; net/core/dev.c `netdev_pick_tx`'s rule that a
//!         flow changes queues only when nothing of it is under way
//! drops:  VnetHdr; what the ring had no room for is counted as RingFull

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use linerate_core::pkt::{Batch, Csum, Pkt};
use linerate_core::rx::steer::hash::{FlowHash, dissect};
use linerate_core::rx::steer::ntuple::{Rule, RuleAction};
use linerate_core::rx::steer::rss::Rss;
use linerate_core::table::Reason;

use super::lane::{self, Slot};
use super::nic::{Cut, Door, Nic, RxLane, Spread, Table, lock};
use crate::device::{Caps, Counts, Device, Layer, Rings, RxCx};
use crate::sys::spsc;

/// Flows whose last queue is remembered, by hash; a power of two.
const FLOWS: usize = 4096;

/// The sending end of a lane.
struct TxLane {
    tx: spsc::Sender<Slot>,
    cut: Arc<Cut>,
    /// Packets that ever went in.
    sent: u64,
}

impl TxLane {
    /// Packets that the receiver is through with.
    fn done(&self) -> u64 {
        self.sent - u64::from(self.tx.in_flight())
    }
}

/// The lane that a flow's last packet went by, and its place there.
#[derive(Clone, Copy, Default)]
struct Last {
    place: u64,
    queue: u8,
}

/// How this queue sends: its copy of the other end's table, and its lanes.
struct Out {
    version: u64,
    table: Table,
    hash: FlowHash,
    lanes: Vec<Option<TxLane>>,
    /// Lanes with something to publish, one bit each.
    dirty: u64,
    last: Vec<Last>,
}

/// Where a packet goes.
enum Way {
    /// To this queue; its flow has this place among those that are remembered.
    To { queue: u8, flow: usize },
    /// Nowhere now: what went before it by another queue has not been received yet.
    Wait,
    /// A rule drops it.
    Away,
}

/// One queue of one end of a card in memory.
pub struct MemQueue {
    nic: Nic,
    queue: u8,
    lanes: Vec<RxLane>,
    /// Which lane is looked at first: it moves on, so that all senders are treated alike.
    first: usize,
    out: Out,
    /// What went into lanes and was not received yet, oldest first, with its lane and its place there.
    sent: VecDeque<(Pkt, u8, u64)>,
    /// This end said that it waits.
    waits: bool,
    /// Times it was rung for and has not read that off the descriptor.
    rung: u64,
    counts: Counts,
    /// Packets received, sent, dropped by a rule, copied, and copies lost.
    stats: [u64; 5],
}

const STATS: [&str; 5] =
    ["rx_packets", "tx_packets", "tx_rule_drops", "tx_copies", "tx_copies_lost"];

impl MemQueue {
    pub(super) fn new(nic: Nic, queue: u8) -> MemQueue {
        let table = nic.far.table();
        let out = Out {
            // The first burst reads the table.
            version: 0,
            hash: table.rss.hasher(),
            table,
            lanes: Vec::new(),
            dirty: 0,
            last: Vec::new(),
        };
        MemQueue {
            nic,
            queue,
            lanes: Vec::new(),
            first: 0,
            out,
            sent: VecDeque::new(),
            waits: false,
            rung: 0,
            counts: Counts::default(),
            stats: [0; 5],
        }
    }

    fn door(&self) -> &Door {
        &self.nic.own.doors[self.queue as usize]
    }

    /// Takes over lanes that senders made.
    #[cold]
    fn adopt(&mut self) {
        self.door().has_fresh.store(false, Ordering::Release);
        let fresh = std::mem::take(&mut *lock(&self.door().fresh));
        self.lanes.extend(fresh);
    }

    /// Takes the descriptor's readiness back, as far as somebody made it ready.
    fn quiet(&mut self) {
        if self.waits {
            self.waits = false;
            self.rung += u64::from(!self.door().bell.cancel());
        }
        if self.rung > 0 {
            let mut count = [0; 8];
            // Whoever rang may not have come to write it: it is read the next time then.
            if rustix::io::read(&self.door().ready, &mut count).is_ok() {
                self.rung = self.rung.saturating_sub(u64::from_ne_bytes(count));
            }
        }
    }

    /// Says that this end waits; false if something came meanwhile.
    fn wait(&mut self) -> bool {
        self.door().bell.wait();
        self.waits = true;
        let door = self.door();
        !door.has_fresh.load(Ordering::Acquire) && self.lanes.iter().all(|l| l.rx.waiting() == 0)
    }

    /// Takes what the lanes hold, each in its turn. False: there was no memory.
    fn take(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, left: &mut usize) -> bool {
        let (n, queue) = (self.lanes.len(), self.queue);
        let accepts = self.nic.own.caps.rx_offload;
        for i in 0..n {
            let lane = &mut self.lanes[(self.first + i) % n];
            for _ in 0..lane.rx.ready((*left).min(1 << 20) as u32) {
                let Some(mut pkt) = lane.rx.take(|slot| slot.take_out(cx, queue)) else {
                    self.counts.rx_no_buffer += 1;
                    return false;
                };
                *left -= 1;
                self.stats[0] += 1;
                let offloaded = pkt.gso.is_some() || matches!(pkt.csum, Csum::Partial { .. });
                if offloaded && !accepts {
                    pkt.gso = None;
                    cx.dropped.push((pkt, Reason::VnetHdr));
                } else {
                    out.push(pkt);
                }
            }
            if *left == 0 {
                break;
            }
        }
        self.first = if n == 0 { 0 } else { (self.first + 1) % n };
        true
    }

    /// Nobody sends any more, and nothing is left of what was sent.
    fn is_over(&mut self) -> bool {
        let far = &self.nic.far;
        if !far.used.load(Ordering::Acquire) || far.users.load(Ordering::Acquire) > 0 {
            return false;
        }
        !self.door().has_fresh.load(Ordering::Acquire)
            && self.lanes.iter().all(|l| l.rx.waiting() == 0)
    }

    /// The packet's queue at the other end.
    #[inline]
    fn way(&mut self, pkt: &mut Pkt) -> Way {
        let (out, far) = (&mut self.out, &self.nic.far);
        let ruled = far.ruled.load(Ordering::Acquire) > 0;
        if out.table.channels == 1 && !ruled && out.last.is_empty() {
            return Way::To { queue: 0, flow: 0 };
        }
        let keys = dissect(pkt.head(), far.caps.layer == Layer::Ethernet);
        let hash = keys.as_ref().map_or(0, |k| out.hash.of(k));
        pkt.hash = hash;
        let mut queue = out.table.rss.queue_of(hash);
        if let (true, Some(keys)) = (ruled, &keys) {
            let rules = far.rules.read().unwrap_or_else(PoisonError::into_inner);
            match rules.find(keys) {
                Some(RuleAction::Drop) => return Way::Away,
                Some(RuleAction::Queue(q)) if usize::from(q) < out.table.channels => queue = q,
                // A queue that is not there: as if there were no rule.
                Some(RuleAction::Queue(_)) | None => {}
            }
        }
        out.keep_order(hash, queue)
    }

    /// Sends the packet to one queue, and copies to others where that is asked. False: there is no
    /// room, and it stays.
    fn send(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        (queue, flow): (u8, usize),
        done: &mut Vec<(Pkt, bool)>,
    ) -> bool {
        let Some(mut pkt) = ring.pop_front() else { return true };
        let room = self.out.lane(&self.nic, queue).map(|lane| lane.tx.room(1) == 1);
        match room {
            Some(true) => {}
            Some(false) if self.nic.far.flow_control => {
                ring.push_front(pkt);
                return false;
            }
            _ => {
                // The sender of a frame never learns that nobody had room for it.
                self.nic.far.doors[queue as usize].lost.fetch_add(1, Ordering::Relaxed);
                done.push((pkt, true));
                return true;
            }
        }
        if self.out.table.spread != Spread::Rss {
            self.copies(&pkt, queue);
        }
        self.out.put(queue, |slot| slot.swap_in(&mut pkt));
        let place = self.out.note(queue, flow);
        self.stats[1] += 1;
        self.sent.push_back((pkt, queue, place));
        true
    }

    /// Copies of the packet for the queues that want one beside its own.
    #[cold]
    fn copies(&mut self, pkt: &Pkt, own: u8) {
        let channels = self.out.table.channels;
        for queue in (0..channels as u8).filter(|q| *q != own) {
            match self.out.table.spread {
                Spread::Mirror(to) if to != queue => continue,
                _ => {}
            }
            let room = self.out.lane(&self.nic, queue).is_some_and(|l| l.tx.room(1) == 1);
            if room {
                self.out.put(queue, |slot| slot.copy_in(pkt));
                self.stats[3] += 1;
            } else {
                self.stats[4] += 1;
            }
        }
    }
}

impl Out {
    /// Follows what changed at the other end.
    #[inline]
    fn refresh(&mut self, nic: &Nic) {
        let version = nic.far.version.load(Ordering::SeqCst);
        if version != self.version {
            self.read(nic, version);
        }
    }

    #[cold]
    fn read(&mut self, nic: &Nic, version: u64) {
        self.version = version;
        self.table = nic.far.table();
        self.hash = self.table.rss.hasher();
        if self.last.is_empty() && (self.table.channels > 1 || version > 1) {
            // There is a choice from now on, so flows may have to wait for it.
            self.last.resize(FLOWS, Last::default());
        }
    }

    /// A flow changes its queue only when nothing of it is under way by the old one. As long as
    /// something is, it keeps to the old one, or waits if that gets no packets any more.
    #[inline]
    fn keep_order(&mut self, hash: u32, queue: u8) -> Way {
        let flow = hash as usize % FLOWS;
        let Some(last) = self.last.get(flow).copied() else { return Way::To { queue, flow } };
        if last.queue == queue || last.place == 0 {
            return Way::To { queue, flow };
        }
        let under_way = !self.is_through(last.queue, last.place);
        match under_way {
            false => Way::To { queue, flow },
            true if usize::from(last.queue) < self.table.channels => {
                Way::To { queue: last.queue, flow }
            }
            true => Way::Wait,
        }
    }

    /// Notes by which lane the flow's last packet went; returns its place there.
    #[inline]
    fn note(&mut self, queue: u8, flow: usize) -> u64 {
        let place = self.lanes.get(queue as usize).and_then(Option::as_ref).map_or(0, |l| l.sent);
        if let Some(last) = self.last.get_mut(flow) {
            *last = Last { place, queue };
        }
        place
    }

    /// Whether the receiver is through with the packet at this place, or will never be.
    #[inline]
    fn is_through(&self, queue: u8, place: u64) -> bool {
        let lane = self.lanes.get(queue as usize).and_then(Option::as_ref);
        lane.is_none_or(|l| l.cut.receiver.load(Ordering::Acquire) || l.done() >= place)
    }

    /// The lane to a queue; `None` if nobody receives there.
    #[inline]
    fn lane(&mut self, nic: &Nic, queue: u8) -> Option<&mut TxLane> {
        let at = queue as usize;
        let lost = self
            .lanes
            .get(at)
            .and_then(Option::as_ref)
            .is_none_or(|lane| lane.cut.receiver.load(Ordering::Acquire));
        if lost {
            self.connect(nic, queue);
        }
        self.lanes.get_mut(at)?.as_mut()
    }

    /// Makes a lane to a queue that is open.
    #[cold]
    fn connect(&mut self, nic: &Nic, queue: u8) {
        let at = queue as usize;
        if self.lanes.len() <= at {
            self.lanes.resize_with(at + 1, || None);
        }
        self.lanes[at] = None;
        let door = &nic.far.doors[at];
        if !door.open.load(Ordering::SeqCst) {
            return;
        }
        let (mut tx, rx) = spsc::ring(lane::slots(nic.far.slots));
        tx.set_limit(door.limit.load(Ordering::Relaxed));
        let cut = Arc::new(Cut::default());
        door.connect(RxLane { rx, cut: Arc::clone(&cut) }, tx.gauge());
        self.lanes[at] = Some(TxLane { tx, cut, sent: 0 });
    }

    /// Puts a packet into a lane that has room.
    #[inline]
    fn put(&mut self, queue: u8, f: impl FnOnce(&mut Slot)) {
        if let Some(Some(lane)) = self.lanes.get_mut(queue as usize) {
            lane.tx.fill(f);
            lane.sent += 1;
            self.dirty |= 1 << queue;
        }
    }

    /// Shows the receivers what was put, and wakes those that wait.
    #[inline]
    fn publish(&mut self, nic: &Nic) {
        while self.dirty != 0 {
            let queue = self.dirty.trailing_zeros() as usize;
            self.dirty &= self.dirty - 1;
            if let Some(Some(lane)) = self.lanes.get_mut(queue) {
                let door = &nic.far.doors[queue];
                lane.tx.publish();
                lane.tx.set_limit(door.limit.load(Ordering::Relaxed));
                door.ring();
            }
        }
    }
}

impl Drop for MemQueue {
    fn drop(&mut self) {
        let own = &self.nic.own;
        let door = self.door();
        door.close();
        let fresh = std::mem::take(&mut *lock(&door.fresh));
        let mut lost = 0;
        for lane in self.lanes.iter().chain(&fresh) {
            lane.cut.receiver.store(true, Ordering::Release);
            lost += u64::from(lane.rx.waiting());
        }
        door.lost.fetch_add(lost, Ordering::Relaxed);
        for lane in self.out.lanes.iter().flatten() {
            lane.cut.sender.store(true, Ordering::Release);
        }
        own.users.fetch_sub(1, Ordering::SeqCst);
        // Whoever waits for us need not any more.
        self.nic.far.doors.iter().for_each(Door::ring);
    }
}

impl Device for MemQueue {
    fn name(&self) -> &str {
        self.nic.own.name
    }

    fn caps(&self) -> Caps {
        self.nic.own.caps
    }

    fn queue(&self) -> u8 {
        self.queue
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        self.rx_done();
        if self.waits || self.rung > 0 {
            self.quiet();
        }
        let mut left = budget;
        loop {
            if self.door().has_fresh.load(Ordering::Acquire) {
                self.adopt();
            }
            if !self.take(cx, out, &mut left) {
                break;
            }
            // What is not a whole budget ends in a wait: the interrupt goes on, and one more look.
            if left == 0 || self.wait() {
                break;
            }
            self.quiet();
        }
        if self.is_over() {
            if left == budget {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // Nobody is left to ring when this has been processed: the next burst tells the end.
            self.door().ring();
        }
        Ok(budget - left)
    }

    fn rx_done(&mut self) {
        for lane in &mut self.lanes {
            lane.rx.release();
        }
        let over = |l: &RxLane| l.cut.sender.load(Ordering::Acquire) && l.rx.waiting() == 0;
        if self.lanes.iter().any(over) {
            self.lanes.retain(|l| !over(l));
        }
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        let before = ring.len();
        self.door().sending.store(true, Ordering::SeqCst);
        self.out.refresh(&self.nic);
        while let Some(pkt) = ring.front_mut() {
            let stays = match self.way(pkt) {
                Way::To { queue, flow } => !self.send(ring, (queue, flow), done),
                Way::Wait => true,
                Way::Away => {
                    self.stats[2] += 1;
                    done.extend(ring.pop_front().map(|pkt| (pkt, true)));
                    false
                }
            };
            if stays {
                self.counts.tx_busy += 1;
                break;
            }
        }
        self.out.publish(&self.nic);
        self.door().sending.store(false, Ordering::SeqCst);
        Ok(before - ring.len())
    }

    /// A packet is sent when the other end is through with it: whoever waits for that may send what
    /// follows it by another queue.
    fn tx_complete(&mut self, done: &mut Vec<(Pkt, bool)>) -> usize {
        let before = done.len();
        while let Some((_, queue, place)) = self.sent.front() {
            if !self.out.is_through(*queue, *place) {
                break;
            }
            done.extend(self.sent.pop_front().map(|(pkt, _, _)| (pkt, true)));
        }
        done.len() - before
    }

    fn tx_pending(&self) -> usize {
        self.sent.len()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.door().ready.as_fd())
    }

    fn rx_pending(&self) -> Option<usize> {
        let mut waiting: usize = self.lanes.iter().map(|l| l.rx.waiting() as usize).sum();
        if self.door().has_fresh.load(Ordering::Acquire) {
            waiting +=
                lock(&self.door().fresh).iter().map(|l| l.rx.waiting() as usize).sum::<usize>();
        }
        Some(waiting)
    }

    fn rings(&self) -> Rings {
        let (now, max) = (self.door().limit.load(Ordering::Relaxed), self.nic.own.slots as u32);
        let far = self.nic.far.slots as u32;
        Rings { rx: now, rx_max: max, tx: far, tx_max: far }
    }

    fn set_rx_ring(&mut self, pkts: usize) -> bool {
        let limit = pkts.clamp(1, self.nic.own.slots) as u32;
        self.door().limit.store(limit, Ordering::Relaxed);
        true
    }

    fn set_rss(&mut self, rss: &Rss) -> bool {
        self.nic.own.set_rss(rss);
        true
    }

    fn set_rule(&mut self, location: u32, rule: Option<&Rule>) -> io::Result<()> {
        // What each queue keeps for itself does not get into another's way; shards remember at most
        // 2^20 flows.
        let own = if location >> 31 == 1 { u32::from(self.queue) << 24 } else { 0 };
        self.nic.own.set_rule(location | own, rule)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        STATS.into_iter().zip(self.stats).collect()
    }

    fn counts(&self) -> Counts {
        Counts { overflow: self.door().lost.load(Ordering::Relaxed), ..self.counts }
    }
}

#[cfg(test)]
mod tests;
