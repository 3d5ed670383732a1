//! `tbf`: a token bucket.
//!
//! Tokens are nanoseconds of the link's time: the bucket holds as many as `burst` bytes take, a packet
//! costs what it takes, and one that costs more than there is waits. `peakrate` is a second bucket of
//! one packet. A super-packet that is larger than a bucket is cut into segments first.
//!
//! Linux: net/sched/sch_tbf.c `tbf_enqueue`, `tbf_segment`, `tbf_dequeue`
//! drops: QdiscDrop

use super::{Cx, Item, Ops, Qdisc};
use crate::pkt::Pkt;
use crate::table::Reason;
use crate::time::{Instant, SEC};
use crate::tx::gso;

/// What `tbf` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes in a second.
    pub rate: u64,
    /// Bytes that may go at once (`burst`, `buffer`, `maxburst`).
    pub burst: u32,
    /// What may wait.
    pub limit: Limit,
    /// Bytes in a second while the bucket is full; 0 = as fast as may be.
    pub peakrate: u64,
    /// Bytes that may go at once by `peakrate` (`mtu`, `minburst`).
    pub mtu: u32,
    /// The smallest size that a packet counts with.
    pub mpu: u32,
    /// Bytes that each packet counts beside its own.
    pub overhead: u32,
}

/// What may wait in a `tbf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many bytes (`limit`).
    Bytes(u32),
    /// As much as leaves within so many nanoseconds (`latency`).
    Latency(u64),
}

impl Config {
    /// Bytes that may wait, as tc tells the kernel.
    pub fn limit_bytes(&self) -> u32 {
        let of = |rate: u64, burst: u32, ns: u64| {
            let bytes = rate as u128 * ns as u128 / SEC as u128 + burst as u128;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        match self.limit {
            Limit::Bytes(bytes) => bytes,
            Limit::Latency(ns) if self.peakrate > 0 => {
                of(self.rate, self.burst, ns).min(of(self.peakrate, self.mtu, ns))
            }
            Limit::Latency(ns) => of(self.rate, self.burst, ns),
        }
    }
    /// How long what may wait waits at the most, in nanoseconds, as tc prints it; `None` if that is less
    /// than the burst.
    pub(super) fn latency(&self) -> Option<u64> {
        let limit = self.limit_bytes() as f64;
        let of =
            |rate: u64, burst: u32| limit / rate.max(1) as f64 - burst as f64 / rate.max(1) as f64;
        let mut secs = of(self.rate, self.burst);
        if self.peakrate > 0 {
            secs = secs.max(of(self.peakrate, self.mtu));
        }
        (secs >= 0.0).then_some((secs * 1e6).floor() as u64 * 1000)
    }
    /// Nanoseconds that a packet of `len` bytes takes at `rate` (`psched_l2t_ns`).
    fn time(&self, rate: u64, len: u32) -> i64 {
        let len = len.saturating_add(self.overhead).max(self.mpu) as u128;
        i64::try_from((len * SEC as u128).div_ceil(rate.max(1) as u128)).unwrap_or(i64::MAX / 4)
    }
    /// Bytes of the largest packet that can ever go.
    fn max_size(&self) -> u32 {
        let most = if self.peakrate > 0 { self.burst.min(self.mtu) } else { self.burst };
        most.saturating_sub(self.overhead)
    }
}

/// A token bucket.
pub struct Tbf {
    config: Config,
    max_size: u32,
    /// The bucket's size, in nanoseconds at the rate.
    buffer: i64,
    /// The size of that of the peak rate.
    mtu: i64,
    /// What is in them.
    tokens: i64,
    ptokens: i64,
    /// When they were last filled; `None` before the first packet.
    filled: Option<Instant>,
    child: Box<Qdisc>,
    /// What the child gave, and what has to wait still.
    head: Option<Item>,
    overlimits: u64,
    segs: Vec<Pkt>,
}

impl Tbf {
    /// A full bucket in front of `child`.
    pub fn new(config: Config, child: Box<Qdisc>) -> Tbf {
        let bare = Config { overhead: 0, mpu: 0, ..config.clone() };
        let buffer = bare.time(config.rate, config.burst);
        let mtu = if config.peakrate > 0 { bare.time(config.peakrate, config.mtu) } else { 0 };
        let max_size = config.max_size();
        let (tokens, ptokens) = (buffer, mtu);
        Tbf {
            config,
            max_size,
            buffer,
            mtu,
            tokens,
            ptokens,
            filled: None,
            child,
            head: None,
            overlimits: 0,
            segs: Vec::new(),
        }
    }

    /// A super-packet that is larger than the bucket goes in as segments, if those fit.
    fn segment(&mut self, cx: &mut Cx<'_>, item: Item) {
        let Some(gso) = item.pkt.gso else { return cx.drop(item.pkt, Reason::QdiscDrop) };
        let segs = gso.segs.max(1) as u32;
        let headers = (item.len - item.pkt.len() as u32) / segs.saturating_sub(1).max(1);
        if headers + gso.size as u32 > self.max_size {
            return cx.drop(item.pkt, Reason::QdiscDrop);
        }
        match gso::cut(cx.pool, item.pkt, cx.device_sums, &mut self.segs) {
            Ok(()) => {
                cx.taken += 1;
                cx.made += self.segs.len() as u64;
                for pkt in self.segs.drain(..) {
                    self.child.enqueue(cx, Item::new(pkt, item.time));
                }
            }
            Err((pkt, why)) => cx.drop(pkt, why),
        }
    }
}

impl Ops for Tbf {
    fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item) {
        if item.len > self.max_size {
            return self.segment(cx, item);
        }
        self.child.enqueue(cx, item);
    }

    fn dequeue(&mut self, cx: &mut Cx<'_>) -> Option<Item> {
        if self.head.is_none() {
            self.head = self.child.dequeue(cx);
        }
        let len = self.head.as_ref()?.len;
        let now = cx.now;
        let since = now.since(*self.filled.get_or_insert(now));
        let new = i64::try_from(since).unwrap_or(i64::MAX).min(self.buffer);
        let mut ptokens = 0;
        if self.config.peakrate > 0 {
            ptokens = new.saturating_add(self.ptokens).min(self.mtu);
            ptokens -= self.config.time(self.config.peakrate, len);
        }
        let tokens = new.saturating_add(self.tokens).min(self.buffer);
        let tokens = tokens - self.config.time(self.config.rate, len);
        if tokens >= 0 && ptokens >= 0 {
            self.filled = Some(now);
            (self.tokens, self.ptokens) = (tokens, ptokens);
            return self.head.take();
        }
        cx.schedule(now.plus(tokens.min(ptokens).unsigned_abs()));
        self.overlimits += 1;
        None
    }

    fn len(&self) -> usize {
        self.child.len() + usize::from(self.head.is_some())
    }
    fn bytes(&self) -> u64 {
        self.child.bytes() + self.head.as_ref().map_or(0, |item| item.len as u64)
    }
    fn drain(&mut self, out: &mut Vec<Pkt>) {
        out.extend(self.head.take().map(|item| item.pkt));
        self.child.drain(out);
    }
    fn overlimits(&self) -> u64 {
        self.overlimits
    }
    fn children(&self) -> Vec<(u16, &Qdisc)> {
        vec![(1, &*self.child)]
    }
}
