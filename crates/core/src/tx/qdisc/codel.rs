//! `codel`: a queue whose delay is held down. Packets are dropped, or marked, while the shortest delay of
//! an interval is above the target; ever sooner, until it is not.
//!
//! Linux: include/net/codel_impl.h `codel_should_drop`, `codel_dequeue`; net/sched/sch_codel.c
//! RFCs:  8289 §5 (the algorithm), 3168 §5
//! drops: QdiscCongested, QdiscOverlimit

use std::collections::VecDeque;

use super::item::set_ce;
use super::{Cx, Item, Ops};
use crate::pkt::Pkt;
use crate::table::Reason;
use crate::time::Instant;

/// What the algorithm is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// Nanoseconds of delay that a queue may have for long.
    pub target: u64,
    /// Nanoseconds within which the delay has to have been below it: about the longest round trip.
    pub interval: u64,
    /// Packets that are late are marked instead of dropped, where their senders understand that.
    pub ecn: bool,
    /// Every packet is marked that waited for longer than so many nanoseconds.
    pub ce_threshold: Option<u64>,
}

/// What `codel` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Packets that may wait.
    pub limit: u32,
    /// How their delay is held down.
    pub codel: Params,
}

/// Where the algorithm stands in one queue (`struct codel_vars`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vars {
    /// Packets dropped since the queue is in the state of dropping.
    pub(super) count: u32,
    /// The same when it last came into that state.
    last_count: u32,
    dropping: bool,
    /// When the delay will have been above the target for an interval.
    first_above: Option<Instant>,
    drop_next: Instant,
    /// Nanoseconds that the last packet waited.
    pub(super) ldelay: u64,
}

impl Vars {
    /// A queue that is found empty is not late, and drops no more.
    #[inline]
    pub(super) fn found_empty(&mut self) {
        self.first_above = None;
        self.dropping = false;
    }
}

/// What the algorithm counts (`struct codel_stats`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// The largest packet, in bytes.
    pub(super) maxpacket: u32,
    pub(super) ecn_mark: u64,
    pub(super) ce_mark: u64,
    pub(super) drop_count: u64,
}

/// The algorithm over one queue. `pop` takes the queue's first packet and says how many bytes wait then.
pub(super) struct Codel<'a> {
    pub(super) params: &'a Params,
    pub(super) mtu: u32,
    pub(super) vars: &'a mut Vars,
    pub(super) counts: &'a mut Counts,
}

impl Codel<'_> {
    /// The packet that goes next; those before it that were late are dropped (`codel_dequeue`).
    #[inline(always)]
    pub(super) fn dequeue(
        &mut self,
        cx: &mut Cx<'_>,
        mut pop: impl FnMut() -> Option<(Item, u64)>,
    ) -> Option<Item> {
        let (mut item, late) = self.next(cx.now, &mut pop);
        if self.vars.dropping || late {
            item = self.dequeue_late(cx, item, late, pop);
        }
        if let Some(item) = &mut item
            && self.params.ce_threshold.is_some_and(|most| self.vars.ldelay > most)
            && set_ce(&mut item.pkt)
        {
            self.counts.ce_mark += 1;
        }
        item
    }

    /// The queue is, or comes, into the state of dropping, or leaves it.
    #[inline(never)]
    fn dequeue_late(
        &mut self,
        cx: &mut Cx<'_>,
        mut item: Option<Item>,
        mut late: bool,
        mut pop: impl FnMut() -> Option<(Item, u64)>,
    ) -> Option<Item> {
        let now = cx.now;
        if self.vars.dropping {
            if !late {
                self.vars.dropping = false;
            }
            while self.vars.dropping && now >= self.vars.drop_next {
                self.vars.count = self.vars.count.saturating_add(1);
                if self.marks(item.as_mut()) {
                    self.vars.drop_next = self.control_law(self.vars.drop_next);
                    break;
                }
                self.drop(cx, item.take());
                (item, late) = self.next(now, &mut pop);
                if late {
                    self.vars.drop_next = self.control_law(self.vars.drop_next);
                } else {
                    self.vars.dropping = false;
                }
            }
        } else if late {
            if !self.marks(item.as_mut()) {
                self.drop(cx, item.take());
                (item, _) = self.next(now, &mut pop);
            }
            self.begin(now);
        }
        item
    }

    /// The queue comes into the state of dropping. If it was in it lately, the rate at which it dropped
    /// then is a good one to begin with.
    fn begin(&mut self, now: Instant) {
        let vars = &mut *self.vars;
        vars.dropping = true;
        let delta = vars.count.saturating_sub(vars.last_count);
        let lately = now.since(vars.drop_next) < 16 * self.params.interval;
        vars.count = if delta > 1 && lately { delta } else { 1 };
        vars.last_count = vars.count;
        self.vars.drop_next = self.control_law(now);
    }

    /// The next packet, and whether it is late (`codel_should_drop`).
    #[inline(always)]
    fn next(
        &mut self,
        now: Instant,
        pop: &mut impl FnMut() -> Option<(Item, u64)>,
    ) -> (Option<Item>, bool) {
        let Some((item, backlog)) = pop() else {
            self.vars.first_above = None;
            return (None, false);
        };
        self.vars.ldelay = now.since(item.time);
        self.counts.maxpacket = self.counts.maxpacket.max(item.len);
        if self.vars.ldelay < self.params.target || backlog <= self.mtu as u64 {
            self.vars.first_above = None;
            return (Some(item), false);
        }
        let first = *self.vars.first_above.get_or_insert(now.plus(self.params.interval));
        (Some(item), now > first)
    }

    /// When the next packet is to be dropped: an interval later, divided by the root of how many were.
    fn control_law(&self, from: Instant) -> Instant {
        let root = f64::from(self.vars.count.max(1)).sqrt();
        from.plus((self.params.interval as f64 / root) as u64)
    }

    fn marks(&mut self, item: Option<&mut Item>) -> bool {
        let marked = self.params.ecn && item.is_some_and(|item| set_ce(&mut item.pkt));
        self.counts.ecn_mark += u64::from(marked);
        marked
    }

    fn drop(&mut self, cx: &mut Cx<'_>, item: Option<Item>) {
        if let Some(item) = item {
            self.counts.drop_count += 1;
            cx.drop(item.pkt, Reason::QdiscCongested);
        }
    }
}

/// A queue by this algorithm alone.
pub struct CodelQueue {
    config: Config,
    mtu: u32,
    list: VecDeque<Item>,
    bytes: u64,
    vars: Vars,
    counts: Counts,
    drop_overlimit: u64,
}

impl CodelQueue {
    /// An empty queue at a device whose largest frame has `mtu` bytes.
    pub fn new(config: Config, mtu: u32) -> CodelQueue {
        let (vars, counts) = (Vars::default(), Counts::default());
        CodelQueue { config, mtu, list: VecDeque::new(), bytes: 0, vars, counts, drop_overlimit: 0 }
    }
}

impl Ops for CodelQueue {
    fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item) {
        if self.list.len() >= self.config.limit as usize {
            self.drop_overlimit += 1;
            return cx.drop(item.pkt, Reason::QdiscOverlimit);
        }
        self.bytes += item.len as u64;
        self.list.push_back(item);
    }
    fn dequeue(&mut self, cx: &mut Cx<'_>) -> Option<Item> {
        let (list, bytes) = (&mut self.list, &mut self.bytes);
        let pop = || {
            let item = list.pop_front()?;
            *bytes -= item.len as u64;
            Some((item, *bytes))
        };
        let params = &self.config.codel;
        let (vars, counts) = (&mut self.vars, &mut self.counts);
        Codel { params, mtu: self.mtu, vars, counts }.dequeue(cx, pop)
    }
    fn len(&self) -> usize {
        self.list.len()
    }
    fn bytes(&self) -> u64 {
        self.bytes
    }
    fn drain(&mut self, out: &mut Vec<Pkt>) {
        out.extend(self.list.drain(..).map(|item| item.pkt));
        self.bytes = 0;
    }
    fn xstats(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("count", self.vars.count.into()),
            ("lastcount", self.vars.last_count.into()),
            ("ldelay_us", self.vars.ldelay / 1000),
            ("dropping", self.vars.dropping.into()),
            ("maxpacket", self.counts.maxpacket.into()),
            ("ecn_mark", self.counts.ecn_mark),
            ("drop_overlimit", self.drop_overlimit),
            ("ce_mark", self.counts.ce_mark),
        ]
    }
}
