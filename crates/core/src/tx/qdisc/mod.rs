#![doc = include_str!("README.md")]

mod at;
pub mod codel;
pub mod fifo;
pub mod fq;
pub mod fq_codel;
pub(crate) mod ingress;
mod item;
pub mod netem;
pub mod prio;
mod run;
pub mod sfq;
pub mod spec;
mod stats;
pub mod tbf;

pub use at::{At, wanted};
pub use item::{Item, PRIO2BAND, band, priority, qdisc_pkt_len, set_ce};
pub use run::{Env, Root, Sched};
pub(crate) use run::{dev_queue_xmit, next_watchdog, qdisc_timers};
pub(super) use run::{next_pkt, queue_of, tx_queue};
pub use spec::{Spec, SpecError, Tree};
pub use stats::{Show, Stats, show};

use crate::pkt::{Pkt, Pool};
use crate::rand::Rng;
use crate::table::Reason;
use crate::time::Instant;

/// What a discipline works with.
pub struct Cx<'a> {
    /// The time.
    pub now: Instant,
    /// Packet memory, for duplicates and segments.
    pub pool: &'a mut Pool,
    /// Whether the device completes checksums, so that segments may leave them open.
    pub device_sums: bool,
    /// What is given up, and why: its memory goes back once the discipline has finished.
    pub dropped: &'a mut Vec<(Pkt, Reason)>,
    /// Packets that were made: duplicates, and segments of what was cut.
    pub made: u64,
    /// Super-packets that were cut.
    pub taken: u64,
    /// When a packet that waits may go, if none may now (`qdisc_watchdog_schedule_ns`).
    pub watchdog: Instant,
}

impl Cx<'_> {
    /// Gives a packet up (`qdisc_drop_reason`).
    pub fn drop(&mut self, pkt: Pkt, why: Reason) {
        self.dropped.push((pkt, why));
    }
    /// Nothing can go before `at`.
    pub fn schedule(&mut self, at: Instant) {
        self.watchdog = self.watchdog.min(at);
    }
}

/// What every discipline does (`struct Qdisc_ops`).
pub(crate) trait Ops {
    /// Takes a packet in, or drops it or another.
    fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item);
    /// The next packet that may go now. `None` while packets wait: [`Cx::schedule`] was called.
    fn dequeue(&mut self, cx: &mut Cx<'_>) -> Option<Item>;
    /// Packets that wait.
    fn len(&self) -> usize;
    /// Bytes that wait, as the wire will carry them.
    fn bytes(&self) -> u64;
    /// Takes everything out (`qdisc_reset`).
    fn drain(&mut self, out: &mut Vec<Pkt>);
    /// Times that a packet had to wait though the device had room.
    fn overlimits(&self) -> u64 {
        0
    }
    /// Packets that were put in front of others.
    fn requeues(&self) -> u64 {
        0
    }
    /// What it counts beside, in tc's words: one line or more, each with a blank in front.
    fn xstats(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
    /// The disciplines of its classes, with the minor numbers of those.
    fn children(&self) -> Vec<(u16, &Qdisc)> {
        Vec::new()
    }
}

/// A discipline of whatever kind.
enum Kind {
    Fifo(fifo::Fifo),
    PfifoFast(fifo::PfifoFast),
    Tbf(Box<tbf::Tbf>),
    Netem(Box<netem::Netem>),
    Prio(prio::Prio),
    Sfq(Box<sfq::Sfq>),
    Codel(Box<codel::CodelQueue>),
    Fq(Box<fq::Fq>),
    FqCodel(Box<fq_codel::FqCodel>),
}

macro_rules! each {
    ($of:expr, $it:ident => $do:expr) => {
        match $of {
            Kind::Fifo($it) => $do,
            Kind::PfifoFast($it) => $do,
            Kind::Tbf($it) => $do,
            Kind::Netem($it) => $do,
            Kind::Prio($it) => $do,
            Kind::Sfq($it) => $do,
            Kind::Codel($it) => $do,
            Kind::Fq($it) => $do,
            Kind::FqCodel($it) => $do,
        }
    };
}

/// A queueing discipline with its statistics (`struct Qdisc`). What it has of others in its classes
/// hangs below it.
pub struct Qdisc {
    /// `8001:`, by its major number; 0 = none was given, and it can not be named.
    pub handle: u16,
    /// What it was made of.
    pub spec: Spec,
    stats: Stats,
    kind: Kind,
}

/// What disciplines need to know of where they are.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The largest frame of the device, its link header with it (`psched_mtu`).
    pub mtu: u32,
    /// `dev.txqueuelen`.
    pub txqueuelen: u32,
}

impl Qdisc {
    /// A discipline as `tree` says. Whatever is random in it is a function of `rng`.
    pub fn new(tree: &Tree, place: Place, rng: &mut Rng) -> Qdisc {
        let kind = match &tree.spec {
            Spec::PfifoFast => Kind::PfifoFast(fifo::PfifoFast::new(place.txqueuelen)),
            Spec::Pfifo(c) => Kind::Fifo(fifo::Fifo::pfifo(c.limit.unwrap_or(place.txqueuelen))),
            Spec::Bfifo(c) => {
                let all = place.txqueuelen.saturating_mul(place.mtu);
                Kind::Fifo(fifo::Fifo::bfifo(c.limit.unwrap_or(all)))
            }
            Spec::Tbf(c) => {
                let own = Spec::Bfifo(fifo::Config { limit: Some(c.limit_bytes()) });
                let child = Qdisc::child(tree, 1, own, place, rng);
                Kind::Tbf(Box::new(tbf::Tbf::new(c.clone(), child)))
            }
            Spec::Netem(c) => {
                let given = !tree.children.is_empty();
                let sub = given.then(|| Qdisc::child(tree, 1, Spec::PfifoFast, place, rng));
                let seed = c.seed.unwrap_or_else(|| rng.next_u64());
                Kind::Netem(Box::new(netem::Netem::new((**c).clone(), seed, sub)))
            }
            Spec::Prio(c) => {
                let pfifo = || Spec::Pfifo(fifo::Config { limit: None });
                let mut band = |minor| *Qdisc::child(tree, minor, pfifo(), place, rng);
                let bands = (1..=c.bands.into()).map(&mut band).collect();
                Kind::Prio(prio::Prio::new(c, bands))
            }
            Spec::Sfq(c) => {
                let own = Rng::new(rng.next_u64());
                Kind::Sfq(Box::new(sfq::Sfq::new(c.clone(), place.mtu, own)))
            }
            Spec::Codel(c) => Kind::Codel(Box::new(codel::CodelQueue::new(c.clone(), place.mtu))),
            Spec::Fq(c) => Kind::Fq(Box::new(fq::Fq::new((**c).clone(), place.mtu, rng))),
            Spec::FqCodel(c) => {
                let queues = fq_codel::FqCodel::new(c.clone(), place.mtu, rng.keyed());
                Kind::FqCodel(Box::new(queues))
            }
        };
        let spec = tree.spec.clone().resolved(place);
        Qdisc { handle: tree.handle, spec, stats: Stats::default(), kind }
    }

    /// The discipline of class `minor`: the one that was given, or else `own`.
    fn child(tree: &Tree, minor: u16, own: Spec, place: Place, rng: &mut Rng) -> Box<Qdisc> {
        let given = tree.children.iter().find(|(m, _)| *m == minor).map(|(_, sub)| sub);
        let own = Tree { handle: 0, spec: own, children: Vec::new() };
        Box::new(Qdisc::new(given.unwrap_or(&own), place, rng))
    }

    /// Takes a packet in.
    #[inline(always)]
    pub fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item) {
        let before = cx.dropped.len();
        each!(&mut self.kind, q => q.enqueue(cx, item));
        self.stats.drops += (cx.dropped.len() - before) as u64;
    }
    /// The next packet that may go now.
    #[inline(always)]
    pub fn dequeue(&mut self, cx: &mut Cx<'_>) -> Option<Item> {
        let before = cx.dropped.len();
        let item = each!(&mut self.kind, q => q.dequeue(cx));
        self.stats.drops += (cx.dropped.len() - before) as u64;
        let item = item?;
        self.stats.bytes += item.len as u64;
        self.stats.packets += item.pkt.segs();
        Some(item)
    }
    /// Packets that wait, in it and below it.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        each!(&self.kind, q => q.len())
    }
    /// Bytes that wait, in it and below it, as the wire will carry them.
    pub fn bytes(&self) -> u64 {
        each!(&self.kind, q => q.bytes())
    }
    /// Takes everything out.
    pub fn drain(&mut self, out: &mut Vec<Pkt>) {
        each!(&mut self.kind, q => q.drain(out));
    }
    /// Its counts, and what waits now.
    pub fn stats(&self) -> Stats {
        let (overlimits, requeues) = each!(&self.kind, q => (q.overlimits(), q.requeues()));
        let (qlen, backlog) = (self.len() as u64, self.bytes());
        Stats { overlimits, requeues, qlen, backlog, ..self.stats }
    }
    /// What it counts beside, by tc's names.
    pub fn xstats(&self) -> Vec<(&'static str, u64)> {
        each!(&self.kind, q => q.xstats())
    }
    /// The disciplines of its classes, with the minor numbers of those.
    pub fn children(&self) -> Vec<(u16, &Qdisc)> {
        each!(&self.kind, q => q.children())
    }
}

#[cfg(test)]
mod tests;
