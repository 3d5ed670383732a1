//! `sfq`: stochastic fairness. A queue for each flow, served in turn by bytes; when there is no room the
//! longest one loses a packet.
//!
//! Linux: net/sched/sch_sfq.c `sfq_enqueue`, `sfq_drop`, `sfq_dequeue`, `sfq_rehash`
//! drops: QdiscOverlimit

use std::collections::VecDeque;

use super::item::flow_hash;
use super::{Cx, Item, Ops};
use crate::pkt::Pkt;
use crate::rand::{Keyed, Rng};
use crate::table::Reason;
use crate::time::Instant;

/// What `sfq` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Packets that may wait.
    pub limit: u32,
    /// Packets of one flow that may wait.
    pub depth: u32,
    /// Flows that may wait.
    pub flows: u32,
    /// Hash values.
    pub divisor: u32,
    /// Bytes that a flow may send in its turn; `None` = the device's largest frame.
    pub quantum: Option<u32>,
    /// Nanoseconds after which flows are hashed anew; 0 = never.
    pub perturb: u64,
    /// The oldest packet of a flow is dropped instead of the newest.
    pub headdrop: bool,
}

#[derive(Default)]
struct Slot {
    list: VecDeque<Item>,
    allot: i64,
    hash: usize,
}

const NONE: u16 = u16::MAX;

/// Fair queues.
pub struct Sfq {
    config: Config,
    quantum: i64,
    rng: Rng,
    key: Keyed,
    /// The slot of each hash value.
    table: Vec<u16>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Slots with packets, in their turn.
    turn: VecDeque<u16>,
    len: usize,
    bytes: u64,
    perturb_at: Option<Instant>,
}

impl Sfq {
    /// Empty queues at a device whose largest frame has `mtu` bytes; `rng` decides which flows share
    /// one.
    pub fn new(config: Config, mtu: u32, mut rng: Rng) -> Sfq {
        let key = rng.keyed();
        Sfq {
            quantum: config.quantum.unwrap_or(mtu).max(1).into(),
            rng,
            key,
            table: vec![NONE; config.divisor as usize],
            slots: (0..config.flows).map(|_| Slot::default()).collect(),
            free: (0..config.flows as u16).rev().collect(),
            turn: VecDeque::new(),
            len: 0,
            bytes: 0,
            perturb_at: None,
            config,
        }
    }

    fn put(&mut self, cx: &mut Cx<'_>, item: Item) {
        let hash = flow_hash(&item.pkt, &self.key) as usize & (self.table.len() - 1);
        if self.table[hash] == NONE {
            let Some(slot) = self.free.pop() else {
                return cx.drop(item.pkt, Reason::QdiscOverlimit);
            };
            self.table[hash] = slot;
            self.turn.push_back(slot);
            let slot = &mut self.slots[slot as usize];
            (slot.hash, slot.allot) = (hash, self.quantum);
        }
        let slot = &mut self.slots[self.table[hash] as usize];
        if slot.list.len() >= self.config.depth as usize {
            if !self.config.headdrop {
                return cx.drop(item.pkt, Reason::QdiscOverlimit);
            }
            if let Some(old) = slot.list.pop_front() {
                self.len -= 1;
                self.bytes -= old.len as u64;
                cx.drop(old.pkt, Reason::QdiscOverlimit);
            }
        }
        self.len += 1;
        self.bytes += item.len as u64;
        slot.list.push_back(item);
        if self.len > self.config.limit as usize {
            self.drop_from_longest(cx);
        }
    }

    /// The longest queue loses a packet (`sfq_drop`).
    fn drop_from_longest(&mut self, cx: &mut Cx<'_>) {
        let longest = self.turn.iter().max_by_key(|slot| self.slots[**slot as usize].list.len());
        let Some(at) = longest.copied() else { return };
        let list = &mut self.slots[at as usize].list;
        let item = if self.config.headdrop { list.pop_front() } else { list.pop_back() };
        let empty = list.is_empty();
        if let Some(item) = item {
            self.len -= 1;
            self.bytes -= item.len as u64;
            cx.drop(item.pkt, Reason::QdiscOverlimit);
        }
        if empty {
            self.turn.retain(|slot| *slot != at);
            self.leave(at);
        }
    }

    /// The slot is empty, and for other flows from now on.
    fn leave(&mut self, at: u16) {
        self.table[self.slots[at as usize].hash] = NONE;
        self.free.push(at);
    }

    /// Flows are hashed by another key, so that those that share a queue do so no longer.
    fn perturb(&mut self, cx: &mut Cx<'_>) {
        if self.config.perturb == 0 {
            return;
        }
        let at = *self.perturb_at.get_or_insert(cx.now.plus(self.config.perturb));
        if cx.now < at {
            return;
        }
        self.perturb_at = Some(cx.now.plus(self.config.perturb));
        self.key = self.rng.keyed();
        let mut all: Vec<Item> = self.slots.iter_mut().flat_map(|s| s.list.drain(..)).collect();
        all.sort_by_key(|item| item.time);
        self.clear();
        all.into_iter().for_each(|item| self.put(cx, item));
    }

    fn clear(&mut self) {
        self.turn.clear();
        self.table.fill(NONE);
        self.free = (0..self.slots.len() as u16).rev().collect();
        (self.len, self.bytes) = (0, 0);
    }
}

impl Ops for Sfq {
    fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item) {
        self.perturb(cx);
        self.put(cx, item);
    }
    fn dequeue(&mut self, _: &mut Cx<'_>) -> Option<Item> {
        loop {
            let at = *self.turn.front()?;
            let slot = &mut self.slots[at as usize];
            if slot.allot <= 0 {
                slot.allot += self.quantum;
                self.turn.rotate_left(1);
                continue;
            }
            let item = slot.list.pop_front();
            if slot.list.is_empty() {
                self.turn.pop_front();
                self.leave(at);
            } else if let Some(item) = &item {
                slot.allot -= item.len as i64;
            }
            let item = item?;
            self.len -= 1;
            self.bytes -= item.len as u64;
            return Some(item);
        }
    }
    fn len(&self) -> usize {
        self.len
    }
    fn bytes(&self) -> u64 {
        self.bytes
    }
    fn drain(&mut self, out: &mut Vec<Pkt>) {
        let lists = self.slots.iter_mut().flat_map(|slot| slot.list.drain(..));
        out.extend(lists.map(|item| item.pkt));
        self.clear();
    }
}
