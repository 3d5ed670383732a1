//! `pfifo_fast`, `pfifo`, `bfifo`: first in, first out.
//!
//! Linux: net/sched/sch_generic.c `pfifo_fast_enqueue`, net/sched/sch_fifo.c
//! drops: QdiscDrop, QdiscOverlimit

use std::collections::VecDeque;

use super::{Cx, Item, Ops, band, qdisc_pkt_len};
use crate::pkt::Pkt;
use crate::table::Reason;

/// What `pfifo` and `bfifo` are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Packets, or bytes, that may wait; `None` = as many packets as `dev.txqueuelen` says.
    pub limit: Option<u32>,
}

/// Three bands by priority: while a packet waits in one, none of the next goes. Each holds as many as
/// `dev.txqueuelen` says.
///
/// As a device's own discipline its lists are what `tx/xmit.rs` hands to the ring whole.
#[derive(Default)]
pub struct PfifoFast {
    /// The packets; the first band goes first.
    pub bands: [VecDeque<Pkt>; 3],
    limit: u32,
    bytes: u64,
}

impl PfifoFast {
    /// One that holds `limit` packets in each band.
    pub fn new(limit: u32) -> PfifoFast {
        PfifoFast { bands: Default::default(), limit, bytes: 0 }
    }
    /// Packets that wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.bands.iter().map(VecDeque::len).sum()
    }
    /// Whether none waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bands.iter().all(VecDeque::is_empty)
    }
    /// The band that goes first, if a packet waits.
    #[inline]
    pub(crate) fn first(&mut self) -> Option<&mut VecDeque<Pkt>> {
        self.bands.iter_mut().find(|band| !band.is_empty())
    }
}

impl Ops for PfifoFast {
    fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item) {
        let band = &mut self.bands[band(&item.pkt)];
        if band.len() >= self.limit as usize {
            return cx.drop(item.pkt, Reason::QdiscDrop);
        }
        self.bytes += item.len as u64;
        band.push_back(item.pkt);
    }
    fn dequeue(&mut self, cx: &mut Cx<'_>) -> Option<Item> {
        let pkt = self.first()?.pop_front()?;
        let len = qdisc_pkt_len(&pkt);
        self.bytes -= len as u64;
        Some(Item { pkt, len, time: cx.now })
    }
    fn len(&self) -> usize {
        PfifoFast::len(self)
    }
    fn bytes(&self) -> u64 {
        self.bytes
    }
    fn drain(&mut self, out: &mut Vec<Pkt>) {
        self.bands.iter_mut().for_each(|band| out.extend(band.drain(..)));
        self.bytes = 0;
    }
}

/// One list, bounded in packets (`pfifo`) or bytes (`bfifo`).
pub struct Fifo {
    list: VecDeque<Item>,
    bytes: u64,
    limit: u32,
    by_bytes: bool,
}

impl Fifo {
    /// One that holds `limit` packets.
    pub fn pfifo(limit: u32) -> Fifo {
        Fifo { list: VecDeque::new(), bytes: 0, limit, by_bytes: false }
    }
    /// One that holds `limit` bytes.
    pub fn bfifo(limit: u32) -> Fifo {
        Fifo { list: VecDeque::new(), bytes: 0, limit, by_bytes: true }
    }
}

impl Ops for Fifo {
    fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item) {
        let full = match self.by_bytes {
            true => self.bytes + item.len as u64 > self.limit as u64,
            false => self.list.len() >= self.limit as usize,
        };
        if full {
            return cx.drop(item.pkt, Reason::QdiscOverlimit);
        }
        self.bytes += item.len as u64;
        self.list.push_back(item);
    }
    fn dequeue(&mut self, _: &mut Cx<'_>) -> Option<Item> {
        let item = self.list.pop_front()?;
        self.bytes -= item.len as u64;
        Some(item)
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
}
