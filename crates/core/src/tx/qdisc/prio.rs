//! `prio`: classes by priority. While a packet may go in one, none of the next goes.
//!
//! Linux: net/sched/sch_prio.c `prio_classify`, `prio_dequeue`
//! drops: those of the disciplines in its classes

use super::item::priority;
use super::{Cx, Item, Ops, Qdisc};
use crate::pkt::Pkt;

/// What `prio` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Classes.
    pub bands: u8,
    /// The class of each priority.
    pub priomap: [u8; 16],
}

/// Classes by priority.
pub struct Prio {
    priomap: [u8; 16],
    bands: Vec<Qdisc>,
}

impl Prio {
    /// One with these disciplines in its classes.
    pub fn new(config: &Config, bands: Vec<Qdisc>) -> Prio {
        Prio { priomap: config.priomap, bands }
    }
}

impl Ops for Prio {
    fn enqueue(&mut self, cx: &mut Cx<'_>, item: Item) {
        let band = self.priomap[priority(&item.pkt) as usize & 15] as usize;
        let last = self.bands.len() - 1;
        self.bands[band.min(last)].enqueue(cx, item);
    }
    fn dequeue(&mut self, cx: &mut Cx<'_>) -> Option<Item> {
        self.bands.iter_mut().find_map(|band| band.dequeue(cx))
    }
    fn len(&self) -> usize {
        self.bands.iter().map(Qdisc::len).sum()
    }
    fn bytes(&self) -> u64 {
        self.bands.iter().map(Qdisc::bytes).sum()
    }
    fn drain(&mut self, out: &mut Vec<Pkt>) {
        self.bands.iter_mut().for_each(|band| band.drain(out));
    }
    fn children(&self) -> Vec<(u16, &Qdisc)> {
        self.bands.iter().zip(1..).map(|(band, minor)| (minor, band)).collect()
    }
}
