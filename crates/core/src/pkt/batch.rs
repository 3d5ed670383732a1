//! Packets that travel together.

use super::Pkt;

/// The packets between two groups of stages. The memory of both lists is kept from turn to turn.
#[derive(Default)]
pub struct Batch {
    /// What the next group takes.
    pub now: Vec<Pkt>,
    /// What it leaves for the one after.
    pub next: Vec<Pkt>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }
    /// Adds a packet at the end.
    #[inline]
    pub fn push(&mut self, pkt: Pkt) {
        self.now.push(pkt);
    }
    /// Packets that wait for the next group.
    pub fn len(&self) -> usize {
        self.now.len()
    }
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.now.is_empty()
    }
}
