//! The chunks of one queue: which are free, and what became of those that are not.

use super::umem::{SPARE_BATCH, Umem};
use crate::sys::umem::Owner;
use linerate_core::pkt::{Buf, Pkt, Pool};
use std::sync::Arc;

/// The chunks of one queue. Dropped after [`Rings4`], when the kernel has let go of them.
pub(super) struct Chunks {
    pub umem: Arc<Umem>,
    pub me: Owner,
    pub zero_copy: bool,
    /// Free ones, the latest used on top.
    pub free: Vec<u32>,
    /// Chunks that this queue is in charge of: the free ones and those in its rings.
    pub own: usize,
    /// Chunks that it began with.
    share: usize,
    /// Free ones that the fill ring leaves to the transmit ring.
    pub reserve: usize,
    /// What each chunk in the transmit ring carries, if it is the last of its packet.
    pub flight: Vec<Option<Pkt>>,
    pub pending: usize,
    /// Room to take chunks home.
    bufs: Vec<Buf>,
}

impl Chunks {
    pub fn new(umem: Arc<Umem>, queue: u8, share: usize, reserve: usize) -> Chunks {
        let mut free = Vec::with_capacity(2 * share);
        let own = umem.take_spare(share, &mut free);
        let flight = std::iter::repeat_with(|| None).take(umem.region.chunks()).collect();
        let (me, zero_copy, bufs) = (Owner::Kernel(queue), false, Vec::new());
        Chunks { umem, me, zero_copy, free, own, share, reserve, flight, pending: 0, bufs }
    }
    /// Whether so many chunks are with packets that new packets have to be copied out of theirs.
    pub fn scarce(&self) -> bool {
        self.own < self.share / 4
    }
    /// Brings chunks home that packets are done with, so that `wanted` can go to the fill ring; where
    /// there are too few, also such that no queue needs.
    pub fn come_home(&mut self, pool: &mut Pool, wanted: usize) {
        let (region, free) = (self.umem.region, &mut self.free);
        self.own += pool.each_home(self.umem.home, wanted, |chunk| {
            free.extend(region.take_back(chunk).map(|index| index as u32));
        });
        if self.free.len() < wanted + self.reserve {
            // Those of other pools as well.
            pool.take_home(self.umem.home, SPARE_BATCH, &mut self.bufs);
            self.own += self.bufs.len();
            for buf in self.bufs.drain(..) {
                let chunk = self.umem.take_back(buf);
                self.free.push(chunk);
            }
        }
        if self.free.len() < wanted + self.reserve {
            self.own += self.umem.take_spare(SPARE_BATCH, &mut self.free);
        } else if self.own > self.share + 2 * SPARE_BATCH && self.free.len() > SPARE_BATCH {
            // Packets of other queues' chunks end here: back to who needs them.
            let from = self.free.len() - SPARE_BATCH;
            self.umem.give_spare(self.free.drain(from..));
            self.own -= SPARE_BATCH;
        }
    }
    /// Whether there are so many free chunks for a frame that is copied to be sent.
    pub fn has_free(&mut self, n: usize) -> bool {
        if self.free.len() < n {
            self.own += self.umem.take_spare(SPARE_BATCH, &mut self.free);
        }
        self.free.len() >= n
    }
    /// The kernel has let go of chunk `index`, which no packet has.
    pub fn freed(&mut self, index: usize) {
        if self.umem.region.pass(index, self.me, Owner::Free) {
            self.free.push(index as u32);
        }
    }
    /// Gives back what the device is done with, or will never be.
    pub fn give_up(&mut self, done: &mut Vec<(Pkt, bool)>) {
        if self.pending > 0 {
            self.pending = 0;
            done.extend(self.flight.iter_mut().filter_map(Option::take).map(|pkt| (pkt, false)));
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        let umem = &self.umem;
        for mut pkt in self.flight.iter_mut().filter_map(Option::take) {
            if let Some((buf, ..)) = pkt.take_chunk(umem.home) {
                self.free.push(umem.take_back(buf));
            }
        }
        umem.give_spare(self.free.drain(..));
        if self.zero_copy {
            // The driver takes its rings down later, and the hardware writes until then.
            umem.spoil();
        } else {
            let mut back = Vec::new();
            umem.region.reclaim(self.me, |index| back.push(index as u32));
            umem.give_spare(back);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks that one queue's packets leave with another queue's shard are passed on to who needs
    /// them, and none is lost or doubled on the way.
    #[test]
    fn chunks_that_gather_at_one_queue_go_to_another() {
        // Sizes that no other test uses.
        let umem = Umem::new(4 * 1024, 2048).expect("memory");
        let mut one = Chunks::new(Arc::clone(&umem), 0, 2048, 0);
        let mut two = Chunks::new(Arc::clone(&umem), 1, 2048, 0);
        assert_eq!((one.own, two.own), (2048, 2048));
        let (mut pools, mut moved) = ([Pool::new(9999, 0), Pool::new(9999, 0)], 0);
        for _ in 0..100 {
            // What the first queue receives is freed where the second one is.
            for _ in 0..256 {
                let Some(chunk) = one.free.pop() else { break };
                let buf = umem.lend(chunk as usize, Owner::Free).expect("it is free");
                one.own -= 1;
                let pkt = pools[0].alloc_around(buf, 256, 60).unwrap_or_else(|_| unreachable!());
                pools[0].give(&pkt);
                pools[1].adopt(&pkt);
                pools[1].free(pkt);
                moved += 1;
            }
            let [first, second] = &mut pools;
            two.come_home(second, SPARE_BATCH);
            one.come_home(first, 1024);
        }
        assert!(moved > 10_000, "{moved}");
        let spare = umem.take_spare(9999, &mut Vec::new());
        let mut left = Vec::new();
        pools[1].take_home(umem.home, 9999, &mut left);
        assert_eq!(one.own + two.own + spare + left.len(), 4096);
        assert_eq!((one.free.len(), two.free.len()), (one.own, two.own));
    }
}
