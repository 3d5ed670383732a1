//! `netem`: a link that delays, loses, repeats, damages and reorders packets, at a rate of its own.
//!
//! Every packet is given the time at which it leaves; the list is in the order of those times. What
//! is random follows from the seed alone.
//!
//! Linux: net/sched/sch_netem.c `netem_enqueue`, `netem_dequeue`, `tfifo_enqueue`, `get_crandom`,
//!        `tabledist`, `packet_time_ns`
//! drops: NetemLoss, QdiscDrop, QdiscOverlimit

mod copy;
mod dist;
mod loss;
mod slot;

pub use dist::Distribution;
pub use loss::{Loss, Model};
pub use slot::{Every, Slot};

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::item::set_ce;
use super::{Cx, Item, Ops, Qdisc};
use crate::pkt::Pkt;
use crate::rand::Rng;
use crate::table::Reason;
use crate::time::{Instant, SEC};
use crate::tx::gso;
use copy::skb_copy;
use dist::Table;
use slot::Slots;

/// A share of packets: all of them is 2^32 - 1 (`u32` of the kernel's interface).
pub type Share = u32;

/// What `netem` is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Packets that may wait.
    pub limit: u32,
    /// Nanoseconds that a packet is delayed.
    pub delay: u64,
    /// Nanoseconds by which that varies.
    pub jitter: u64,
    /// How much the delay of one packet depends on that of the one before.
    pub delay_corr: Share,
    /// How it varies.
    pub distribution: Distribution,
    /// Which packets are lost.
    pub loss: Loss,
    /// What is to be lost is marked instead, where its sender understands that.
    pub ecn: bool,
    /// Packets that come twice, and how much that depends on the one before.
    pub duplicate: (Share, Share),
    /// Packets of which one bit is wrong, likewise.
    pub corrupt: (Share, Share),
    /// Packets that go at once while others wait, likewise.
    pub reorder: (Share, Share),
    /// Every so manieth packet only may be reordered; 0 = none.
    pub gap: u32,
    /// Bytes in a second; 0 = as fast as may be.
    pub rate: u64,
    /// Bytes that each packet counts beside its own; may be negative.
    pub overhead: i32,
    /// Bytes of the cells that packets are put into; 0 = no cells.
    pub cell_size: u32,
    /// Bytes that each cell counts beside its own.
    pub cell_overhead: i32,
    /// When it is the link's turn; `None` = always.
    pub slot: Option<Slot>,
    /// What all chance follows from.
    pub seed: Option<u64>,
}

impl Config {
    /// Nanoseconds that `len` bytes take (`packet_time_ns`).
    fn packet_time_ns(&self, len: u32) -> u64 {
        let mut len = (len as i64 + self.overhead as i64).max(0) as u64;
        if self.cell_size > 0 {
            let each = (self.cell_size as i64 + self.cell_overhead as i64).max(0) as u64;
            len = len.div_ceil(self.cell_size as u64) * each;
        }
        let ns = len as u128 * SEC as u128 / self.rate.max(1) as u128;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// A chance that depends on how it fell the last time (`struct crndstate`).
#[derive(Clone, Copy)]
struct Correlated {
    last: u32,
    rho: Share,
}

impl Correlated {
    fn new(rho: Share) -> Correlated {
        Correlated { last: 0, rho }
    }
    /// `get_crandom`.
    fn next(&mut self, rng: &mut Rng) -> u32 {
        let value = rng.next_u32();
        if self.rho == 0 {
            return value;
        }
        let rho = self.rho as u64 + 1;
        let old = self.last as u128 * rho as u128;
        let answer = value as u128 * ((1u64 << 32) - rho) as u128 + old;
        self.last = (answer >> 32) as u32;
        self.last
    }
    fn hits(&mut self, share: Share, rng: &mut Rng) -> bool {
        share != 0 && share >= self.next(rng)
    }
}

/// A packet, and when it leaves. Of two with the same time the first that came goes first.
struct Flight {
    at: Instant,
    order: u64,
    item: Item,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Flight) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Flight {}
impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Flight) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flight {
    fn cmp(&self, other: &Flight) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A link that is not good.
pub struct Netem {
    config: Config,
    rng: Rng,
    table: Option<Table>,
    loss: Model,
    delay_cor: Correlated,
    dup_cor: Correlated,
    corrupt_cor: Correlated,
    reorder_cor: Correlated,
    /// Packets since one was reordered.
    counter: u32,
    /// What was put in front of all others.
    front: VecDeque<Item>,
    /// What came in the order in which it leaves; the common case.
    line: VecDeque<Flight>,
    /// What leaves before something that came earlier.
    early: BinaryHeap<Reverse<Flight>>,
    order: u64,
    bytes: u64,
    slots: Option<Slots>,
    /// When a packet may go that could not the last time.
    wait: Instant,
    /// When the last packet that waits leaves.
    last: Instant,
    /// What the packets come to when their time has come.
    child: Option<Box<Qdisc>>,
    requeues: u64,
    segs: Vec<Pkt>,
}

impl Netem {
    /// A link as `config` says, whose chances follow from `seed`.
    pub fn new(config: Config, seed: u64, child: Option<Box<Qdisc>>) -> Netem {
        Netem {
            rng: Rng::new(seed),
            table: Table::of(config.distribution),
            loss: Model::new(&config.loss),
            delay_cor: Correlated::new(config.delay_corr),
            dup_cor: Correlated::new(config.duplicate.1),
            corrupt_cor: Correlated::new(config.corrupt.1),
            reorder_cor: Correlated::new(config.reorder.1),
            counter: 0,
            front: VecDeque::new(),
            line: VecDeque::new(),
            early: BinaryHeap::new(),
            order: 0,
            bytes: 0,
            slots: config.slot.map(Slots::new),
            wait: Instant::NEVER,
            last: Instant::ZERO,
            child,
            requeues: 0,
            segs: Vec::new(),
            config,
        }
    }

    /// Packets that wait for their time.
    fn waiting(&self) -> usize {
        self.front.len() + self.line.len() + self.early.len()
    }

    /// The delay of the next packet (`tabledist`).
    fn delay(&mut self) -> i64 {
        let (mu, sigma) = (self.config.delay as i64, self.config.jitter as i64);
        if sigma == 0 {
            return mu;
        }
        let rnd = self.delay_cor.next(&mut self.rng);
        match &self.table {
            Some(table) => mu + table.pick(rnd, sigma),
            None => mu - sigma + ((rnd as u128 * 2 * sigma as u128) >> 32) as i64,
        }
    }

    /// One bit of the packet changes. A super-packet is cut first, and its first segment damaged; the
    /// others go the way of all packets. `None`: nothing is left to be queued here.
    fn corrupt(&mut self, cx: &mut Cx<'_>, mut item: Item) -> Option<Item> {
        if item.pkt.gso.is_some() {
            let mut segs = std::mem::take(&mut self.segs);
            let time = item.time;
            match gso::cut(cx.pool, item.pkt, false, &mut segs) {
                Ok(()) => {
                    cx.taken += 1;
                    cx.made += segs.len() as u64;
                }
                Err((pkt, why)) => {
                    cx.drop(pkt, why);
                    return None;
                }
            }
            let mut rest = segs.drain(..);
            let first = rest.next();
            for pkt in rest {
                self.queue(cx, Item::new(pkt, time));
            }
            self.segs = segs;
            item = Item::new(first?, time);
        }
        let before = item.pkt.network.saturating_sub(item.pkt.data_offset());
        if !item.pkt.csum_complete(before as usize) {
            cx.drop(item.pkt, Reason::QdiscDrop);
            return None;
        }
        // What the send queue shares is to stay as it is.
        let Some(mut copy) = skb_copy(cx.pool, &item.pkt) else {
            cx.drop(item.pkt, Reason::QdiscDrop);
            return None;
        };
        copy.trace = item.pkt.trace;
        cx.pool.free(std::mem::replace(&mut item.pkt, copy));
        let (byte, bit) = (self.rng.below(item.pkt.head_len() as u64), self.rng.below(8));
        if let Some(byte) = item.pkt.head_mut().get_mut(byte as usize) {
            *byte ^= 1 << bit;
        }
        // Nobody vouches for a damaged packet.
        item.pkt.csum = crate::pkt::Csum::None;
        Some(item)
    }

    /// Gives a packet its time and puts it where that belongs.
    fn queue(&mut self, cx: &mut Cx<'_>, item: Item) {
        if self.waiting() >= self.config.limit as usize {
            return cx.drop(item.pkt, Reason::QdiscOverlimit);
        }
        self.bytes += item.len as u64;
        let config = &self.config;
        let orderly = config.gap == 0
            || self.counter < config.gap - 1
            || !self.reorder_cor.hits(config.reorder.0, &mut self.rng);
        if !orderly {
            self.counter = 0;
            self.requeues += 1;
            return self.front.push_front(item);
        }
        let mut delay = self.delay();
        let mut from = cx.now;
        if self.config.rate > 0 {
            // It begins when the last one has ended; the wait for that is part of its delay.
            if self.waiting() > self.front.len() && self.last > from {
                delay = (delay - self.last.since(from) as i64).max(0);
                from = self.last;
            }
            delay = delay.saturating_add_unsigned(self.config.packet_time_ns(item.len));
        }
        self.counter = self.counter.saturating_add(1);
        self.tfifo_enqueue(from.plus(delay.max(0) as u64), item);
    }

    fn tfifo_enqueue(&mut self, at: Instant, item: Item) {
        self.order += 1;
        let flight = Flight { at, order: self.order, item };
        self.last =
            if self.line.is_empty() && self.early.is_empty() { at } else { self.last.max(at) };
        match self.line.back() {
            Some(back) if back.at > at => self.early.push(Reverse(flight)),
            _ => self.line.push_back(flight),
        }
    }

    /// When the next packet leaves.
    fn next_at(&self) -> Option<Instant> {
        let line = self.line.front().map(|f| f.at);
        let early = self.early.peek().map(|f| f.0.at);
        [line, early].into_iter().flatten().min()
    }

    /// The next packet of those whose time has come.
    fn pop(&mut self, now: Instant) -> Option<Item> {
        if let Some(item) = self.front.pop_front() {
            return Some(item);
        }
        let at = self.next_at()?;
        self.wait = match &mut self.slots {
            Some(slots) => slots.open(at, now, &mut self.rng),
            None => at,
        };
        if self.wait > now {
            return None;
        }
        let early = match (self.line.front(), self.early.peek()) {
            (Some(line), Some(Reverse(early))) => early < line,
            (None, Some(_)) => true,
            _ => false,
        };
        let flight = match early {
            true => self.early.pop()?.0,
            false => self.line.pop_front()?,
        };
        if let Some(slots) = &mut self.slots {
            slots.went(flight.item.len, now, &mut self.rng);
        }
        Some(flight.item)
    }

    fn take(&mut self, now: Instant) -> Option<Item> {
        let item = self.pop(now)?;
        self.bytes -= item.len as u64;
        Some(item)
    }
}

impl Ops for Netem {
    fn enqueue(&mut self, cx: &mut Cx<'_>, mut item: Item) {
        let twice = self.dup_cor.hits(self.config.duplicate.0, &mut self.rng);
        let lost = self.loss.loses(&mut self.rng) && !(self.config.ecn && set_ce(&mut item.pkt));
        if lost && !twice {
            return cx.drop(item.pkt, Reason::NetemLoss);
        }
        // One that is to come twice and is lost comes once.
        let copy = if twice && !lost { skb_copy(cx.pool, &item.pkt) } else { None };
        let (len, time) = (item.len, item.time);
        let damaged = self.corrupt_cor.hits(self.config.corrupt.0, &mut self.rng);
        let item = if damaged { self.corrupt(cx, item) } else { Some(item) };
        if let Some(item) = item {
            self.queue(cx, item);
        }
        if let Some(pkt) = copy {
            cx.made += 1;
            self.queue(cx, Item { pkt, len, time });
        }
    }

    fn dequeue(&mut self, cx: &mut Cx<'_>) -> Option<Item> {
        let Some(mut child) = self.child.take() else {
            let item = self.take(cx.now);
            if item.is_none() && self.waiting() > 0 {
                cx.schedule(self.wait);
            }
            return item;
        };
        while let Some(item) = self.take(cx.now) {
            child.enqueue(cx, item);
        }
        let item = child.dequeue(cx);
        if item.is_none() && self.waiting() > 0 {
            cx.schedule(self.wait);
        }
        self.child = Some(child);
        item
    }

    fn len(&self) -> usize {
        self.waiting() + self.child.as_ref().map_or(0, |child| child.len())
    }
    fn bytes(&self) -> u64 {
        self.bytes + self.child.as_ref().map_or(0, |child| child.bytes())
    }
    fn drain(&mut self, out: &mut Vec<Pkt>) {
        out.extend(self.front.drain(..).map(|item| item.pkt));
        out.extend(self.line.drain(..).map(|flight| flight.item.pkt));
        out.extend(self.early.drain().map(|flight| flight.0.item.pkt));
        self.bytes = 0;
        if let Some(child) = &mut self.child {
            child.drain(out);
        }
    }
    fn requeues(&self) -> u64 {
        self.requeues
    }
    fn children(&self) -> Vec<(u16, &Qdisc)> {
        self.child.iter().map(|child| (1, &**child)).collect()
    }
}
