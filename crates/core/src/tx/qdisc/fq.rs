//! `fq`: a queue for each flow, served in turn by bytes, and each flow paced: a packet goes when the one
//! before it has had its time at `maxrate`.
//!
//! Flows are told apart by their addresses and ports, as the kernel does with packets that have no socket
//! here.
//!
//! Linux: net/sched/sch_fq.c `fq_enqueue`, `fq_dequeue`, `fq_check_throttled`, `fq_gc`
//! drops: QdiscOverlimit, FqFlowLimit

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::item::{flow_hash, set_ce};
use super::{Cx, Item, Ops};
use crate::pkt::Pkt;
use crate::rand::{Keyed, KeyedMap, Rng};
use crate::table::Reason;
use crate::time::{Instant, SEC};

/// What `fq` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Packets that may wait.
    pub limit: u32,
    /// Packets of one flow that may wait.
    pub flow_limit: u32,
    /// Bytes that a flow may send in its turn; `None` = two of the device's largest frames.
    pub quantum: Option<u32>,
    /// Bytes that a new flow may send at first; `None` = ten of them.
    pub initial_quantum: Option<u32>,
    /// Bytes in a second of each flow; `None` = as fast as may be.
    pub maxrate: Option<u64>,
    /// Flows that are remembered before old ones are forgotten.
    pub buckets: u32,
    /// Whether flows are paced.
    pub pacing: bool,
    /// Nanoseconds without a packet after which a flow is new again.
    pub refill_delay: u64,
    /// At this rate and below every packet is paced by itself; bytes in a second.
    pub low_rate_threshold: u64,
    /// Every packet is marked that waited for longer than so many nanoseconds.
    pub ce_threshold: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    /// It has no packets, since then.
    Detached(Instant),
    New,
    Old,
    Throttled,
}

struct Flow {
    hash: u32,
    list: VecDeque<Item>,
    credit: i64,
    time_next: Instant,
    is: Is,
}

/// Flows without packets are forgotten after so long (`FQ_GC_AGE`).
const GC_AGE: u64 = 3 * SEC;

/// Fair queues with pacing.
pub struct Fq {
    config: Config,
    quantum: i64,
    initial_quantum: i64,
    key: Keyed,
    table: KeyedMap<u32, u32>,
    flows: Vec<Flow>,
    /// Places of flows that were forgotten.
    free: Vec<u32>,
    new: VecDeque<u32>,
    old: VecDeque<u32>,
    /// Flows by the time of their next packets.
    delayed: BinaryHeap<Reverse<(Instant, u32)>>,
    len: usize,
    bytes: u64,
    gc_flows: u64,
    throttled: u64,
    flows_plimit: u64,
    ce_mark: u64,
    pkts_too_long: u64,
}

impl Fq {
    /// Empty queues at a device whose largest frame has `mtu` bytes.
    pub fn new(config: Config, mtu: u32, rng: &mut Rng) -> Fq {
        Fq {
            quantum: config.quantum.unwrap_or(mtu.saturating_mul(2)).max(1).into(),
            initial_quantum: config.initial_quantum.unwrap_or(mtu.saturating_mul(10)).into(),
            key: rng.keyed(),
            table: KeyedMap::with_hasher(rng.keyed()),
            flows: Vec::new(),
            free: Vec::new(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            delayed: BinaryHeap::new(),
            len: 0,
            bytes: 0,
            gc_flows: 0,
            throttled: 0,
            flows_plimit: 0,
            ce_mark: 0,
            pkts_too_long: 0,
            config,
        }
    }

    /// The flow of a packet, which is made if there is none (`fq_classify`).
    fn classify(&mut self, item: &Item, now: Instant) -> u32 {
        let hash = flow_hash(&item.pkt, &self.key);
        if let Some(at) = self.table.get(&hash) {
            return *at;
        }
        if self.table.len() >= 2 * self.config.buckets as usize {
            self.gc(now);
        }
        let flow = Flow {
            hash,
            list: VecDeque::new(),
            credit: self.initial_quantum,
            time_next: Instant::ZERO,
            is: Is::Detached(now),
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.flows[at as usize] = flow;
                at
            }
            None => {
                self.flows.push(flow);
                self.flows.len() as u32 - 1
            }
        };
        self.table.insert(hash, at);
        at
    }

    /// Forgets flows that have had no packets for long; of so many, all that have none (`fq_gc`).
    #[cold]
    fn gc(&mut self, now: Instant) {
        let crowded = self.table.len() >= 4 * self.config.buckets as usize;
        for (at, flow) in self.flows.iter_mut().enumerate() {
            let Is::Detached(since) = flow.is else { continue };
            let known = self.table.get(&flow.hash) == Some(&(at as u32));
            if known && (crowded || now.since(since) >= GC_AGE) {
                self.table.remove(&flow.hash);
                self.free.push(at as u32);
                self.gc_flows += 1;
            }
        }
    }

    /// Flows whose time has come take their turns again.
    fn check_throttled(&mut self, now: Instant) {
        while let Some(Reverse((at, flow))) = self.delayed.peek().copied()
            && at <= now
        {
            self.delayed.pop();
            self.flows[flow as usize].is = Is::Old;
            self.old.push_back(flow);
        }
    }

    /// A packet of `len` bytes has gone: when the next of its flow may.
    fn pace(&mut self, flow: u32, len: u32, now: Instant) {
        let Some(rate) = self.config.maxrate.filter(|_| self.config.pacing) else { return };
        let flow = &mut self.flows[flow as usize];
        let mut len = len as i64;
        if rate <= self.config.low_rate_threshold {
            flow.credit = 0;
        } else {
            len = len.max(self.quantum);
            if flow.credit > 0 {
                return;
            }
        }
        let mut ns = (len as u128 * SEC as u128 / rate.max(1) as u128).min(u64::MAX as u128) as u64;
        if ns > SEC {
            ns = SEC;
            self.pkts_too_long += 1;
        }
        // What it went later than it might have is not lost to it, but for more than half.
        if flow.time_next != Instant::ZERO {
            ns -= (ns / 2).min(now.since(flow.time_next));
        }
        flow.time_next = now.plus(ns);
    }
}

impl Ops for Fq {
    fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item) {
        if self.len >= self.config.limit as usize {
            return cx.drop(item.pkt, Reason::QdiscOverlimit);
        }
        let at = self.classify(&item, cx.now);
        let flow = &mut self.flows[at as usize];
        if flow.list.len() >= self.config.flow_limit as usize {
            self.flows_plimit += 1;
            return cx.drop(item.pkt, Reason::FqFlowLimit);
        }
        if let Is::Detached(since) = flow.is {
            flow.is = Is::New;
            self.new.push_back(at);
            if cx.now.since(since) > self.config.refill_delay {
                flow.credit = flow.credit.max(self.quantum);
            }
        }
        self.len += 1;
        self.bytes += item.len as u64;
        flow.list.push_back(item);
    }

    fn dequeue(&mut self, cx: &mut Cx<'_>) -> Option<Item> {
        self.check_throttled(cx.now);
        loop {
            let is_new = !self.new.is_empty();
            let from = if is_new { &mut self.new } else { &mut self.old };
            let Some(at) = from.front().copied() else {
                if let Some(Reverse((next, _))) = self.delayed.peek() {
                    cx.schedule(*next);
                }
                return None;
            };
            let flow = &mut self.flows[at as usize];
            if flow.credit <= 0 {
                flow.credit += self.quantum;
                flow.is = Is::Old;
                from.pop_front();
                self.old.push_back(at);
                continue;
            }
            if flow.list.is_empty() {
                from.pop_front();
                // Once through the old ones, so that it can not starve them by coming anew.
                if is_new && !self.old.is_empty() {
                    flow.is = Is::Old;
                    self.old.push_back(at);
                } else {
                    flow.is = Is::Detached(cx.now);
                }
                continue;
            }
            if flow.time_next > cx.now {
                from.pop_front();
                flow.is = Is::Throttled;
                self.throttled += 1;
                self.delayed.push(Reverse((flow.time_next, at)));
                continue;
            }
            let mut item = flow.list.pop_front()?;
            // It waited from when it came, or from when it might have gone.
            let may = item.time.max(flow.time_next);
            if self.config.ce_threshold.is_some_and(|most| cx.now.since(may) > most)
                && set_ce(&mut item.pkt)
            {
                self.ce_mark += 1;
            }
            flow.credit -= item.len as i64;
            self.len -= 1;
            self.bytes -= item.len as u64;
            self.pace(at, item.len, cx.now);
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
        for flow in &mut self.flows {
            out.extend(flow.list.drain(..).map(|item| item.pkt));
        }
        self.flows.clear();
        self.table.clear();
        self.free.clear();
        self.new.clear();
        self.old.clear();
        self.delayed.clear();
        (self.len, self.bytes) = (0, 0);
    }
    fn xstats(&self) -> Vec<(&'static str, u64)> {
        let detached = |flow: &&Flow| matches!(flow.is, Is::Detached(_));
        let inactive = self.flows.iter().filter(detached).count() - self.free.len();
        vec![
            ("flows", self.table.len() as u64),
            ("inactive", inactive as u64),
            ("throttled_flows", self.delayed.len() as u64),
            ("gc", self.gc_flows),
            ("throttled", self.throttled),
            ("flows_plimit", self.flows_plimit),
            ("pkts_too_long", self.pkts_too_long),
            ("ce_mark", self.ce_mark),
        ]
    }
}
