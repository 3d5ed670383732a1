//! `fq_codel`: a queue for each flow, served in turn by bytes, new flows first, the delay of each held
//! down by CoDel.
//!
//! Linux: net/sched/sch_fq_codel.c `fq_codel_enqueue`, `fq_codel_drop`, `fq_codel_dequeue`
//! RFCs:  8290 §4 (the scheduler), §5 (the implementation), 8289
//! drops: QdiscOverlimit, and what [`super::codel`] gives

use std::collections::VecDeque;

use super::codel::{Codel, Counts, Params, Vars};
use super::item::flow_hash;
use super::{Cx, Item, Ops};
use crate::pkt::Pkt;
use crate::rand::Keyed;
use crate::table::Reason;

/// What `fq_codel` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Packets that may wait.
    pub limit: u32,
    /// Queues that flows are hashed into.
    pub flows: u32,
    /// Bytes that a flow may send in its turn; `None` = the device's largest frame.
    pub quantum: Option<u32>,
    /// Bytes of memory that may wait.
    pub memory_limit: u32,
    /// Packets that are dropped at a time when there are too many.
    pub drop_batch: u32,
    /// How the delay of each flow is held down.
    pub codel: Params,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    NoList,
    New,
    Old,
}

struct Flow {
    list: VecDeque<Item>,
    bytes: u64,
    deficit: i64,
    within: In,
    vars: Vars,
}

/// Fair queues with CoDel.
pub struct FqCodel {
    config: Config,
    mtu: u32,
    quantum: i64,
    key: Keyed,
    flows: Vec<Flow>,
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    len: usize,
    bytes: u64,
    memory: u64,
    counts: Counts,
    drop_overlimit: u64,
    drop_overmemory: u64,
    new_flow_count: u64,
}

impl FqCodel {
    /// Empty queues at a device whose largest frame has `mtu` bytes; `key` decides which flows share
    /// one.
    pub fn new(config: Config, mtu: u32, key: Keyed) -> FqCodel {
        let flow = |_| Flow {
            list: VecDeque::new(),
            bytes: 0,
            deficit: 0,
            within: In::NoList,
            vars: Vars::default(),
        };
        FqCodel {
            quantum: config.quantum.unwrap_or(mtu).max(1).into(),
            mtu,
            key,
            flows: (0..config.flows).map(flow).collect(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            len: 0,
            bytes: 0,
            memory: 0,
            counts: Counts::default(),
            drop_overlimit: 0,
            drop_overmemory: 0,
            new_flow_count: 0,
            config,
        }
    }

    /// Makes room: takes packets from the front of the queue that has most bytes, until it has half as
    /// many, or enough were taken (`fq_codel_drop`).
    #[cold]
    fn drop_from_fattest(&mut self, cx: &mut Cx<'_>) {
        let over_memory = self.memory > self.config.memory_limit as u64;
        let fattest = self.flows.iter_mut().max_by_key(|flow| flow.bytes);
        let Some(flow) = fattest.filter(|flow| flow.bytes > 0) else { return };
        let threshold = flow.bytes / 2;
        let (mut taken, mut n) = (0, 0);
        while n < self.config.drop_batch && (n == 0 || taken < threshold) {
            let Some(item) = flow.list.pop_front() else { break };
            n += 1;
            taken += item.len as u64;
            self.memory -= item.pkt.truesize() as u64;
            cx.drop(item.pkt, Reason::QdiscOverlimit);
        }
        // CoDel is to know that the flow was told.
        flow.vars.count = flow.vars.count.saturating_add(n);
        flow.bytes -= taken;
        self.len -= n as usize;
        self.bytes -= taken;
        self.drop_overlimit += n as u64;
        self.drop_overmemory += if over_memory { n as u64 } else { 0 };
    }
}

impl Ops for FqCodel {
    fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item) {
        let hash = flow_hash(&item.pkt, &self.key);
        let at = (hash as u64 * self.flows.len() as u64) >> 32;
        let flow = &mut self.flows[at as usize];
        self.memory += item.pkt.truesize() as u64;
        flow.bytes += item.len as u64;
        self.bytes += item.len as u64;
        self.len += 1;
        flow.list.push_back(item);
        if flow.within == In::NoList {
            flow.within = In::New;
            flow.deficit = self.quantum;
            self.new.push_back(at as u16);
            self.new_flow_count += 1;
        }
        if self.len > self.config.limit as usize || self.memory > self.config.memory_limit as u64 {
            self.drop_from_fattest(cx);
        }
    }

    fn dequeue(&mut self, cx: &mut Cx<'_>) -> Option<Item> {
        loop {
            let is_new = !self.new.is_empty();
            let from = if is_new { &mut self.new } else { &mut self.old };
            let at = *from.front()?;
            let flow = &mut self.flows[at as usize];
            if flow.deficit <= 0 {
                flow.deficit += self.quantum;
                flow.within = In::Old;
                from.pop_front();
                self.old.push_back(at);
                continue;
            }
            let Flow { list, bytes, vars, .. } = flow;
            if list.is_empty() {
                // Where flows are many and send little, that is every second look.
                vars.found_empty();
            } else {
                let (all, len, memory) = (&mut self.bytes, &mut self.len, &mut self.memory);
                let pop = || {
                    let item = list.pop_front()?;
                    *bytes -= item.len as u64;
                    *all -= item.len as u64;
                    *len -= 1;
                    *memory -= item.pkt.truesize() as u64;
                    Some((item, *all))
                };
                let (params, counts) = (&self.config.codel, &mut self.counts);
                let mut codel = Codel { params, mtu: self.mtu, vars, counts };
                if let Some(item) = codel.dequeue(cx, pop) {
                    flow.deficit -= item.len as i64;
                    return Some(item);
                }
            }
            // A new flow that is empty goes once through the old ones, so that it can not starve them
            // by coming anew.
            from.pop_front();
            if is_new && !self.old.is_empty() {
                flow.within = In::Old;
                self.old.push_back(at);
            } else {
                flow.within = In::NoList;
            }
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
            (flow.bytes, flow.within, flow.vars) = (0, In::NoList, Vars::default());
        }
        self.new.clear();
        self.old.clear();
        (self.len, self.bytes, self.memory) = (0, 0, 0);
    }
    fn xstats(&self) -> Vec<(&'static str, u64)> {
        let mut all = vec![
            ("maxpacket", self.counts.maxpacket.into()),
            ("drop_overlimit", self.drop_overlimit),
            ("new_flow_count", self.new_flow_count),
            ("ecn_mark", self.counts.ecn_mark),
        ];
        // tc prints these where there are any.
        let rare = [
            ("ce_mark", self.counts.ce_mark),
            ("drop_overmemory", self.drop_overmemory),
            ("memory_used", self.memory),
        ];
        all.extend(rare.into_iter().filter(|(_, n)| *n > 0));
        all.push(("new_flows_len", self.new.len() as u64));
        all.push(("old_flows_len", self.old.len() as u64));
        all
    }
}
