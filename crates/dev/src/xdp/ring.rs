//! The protocol of the four rings: one side produces, the other consumes, and two indexes that
//! only grow, modulo 2^32, say who owns which slot.
//!
//! The indexes of the other side are read as rarely as possible: each end keeps a copy and looks
//! again only when the copy says that it can not go on. A slot is written before the producer's
//! index is stored with release and read after it was loaded with acquire; the same holds for the
//! consumer's index, so that no slot is overwritten while it is read.
//!
//! Linux: net/xdp/xsk_queue.h, of which this is the other end.

/// The memory of one ring, as the kernel and we see it. Slots are named by an index that is taken
/// modulo the ring's size, so that none lies outside.
pub trait Memory {
    /// What a slot holds.
    type Item: Copy;
    /// How many slots there are: a power of two.
    fn size(&self) -> u32;
    /// Loads the producer's index, with acquire.
    fn load_producer(&self) -> u32;
    /// Stores the producer's index, with release.
    fn store_producer(&self, index: u32);
    /// Loads the consumer's index, with acquire.
    fn load_consumer(&self) -> u32;
    /// Stores the consumer's index, with release.
    fn store_consumer(&self, index: u32);
    /// Reads a slot.
    fn read(&self, index: u32) -> Self::Item;
    /// Writes a slot.
    fn write(&self, index: u32, item: Self::Item);
    /// Whether the other side sleeps and wants a system call (`XDP_RING_NEED_WAKEUP`). What was
    /// stored before is visible to the other side before this is read.
    fn need_wakeup(&self) -> bool;
}

/// The end that puts things in: of the fill ring and the transmit ring.
#[derive(Debug)]
pub struct Producer<M> {
    mem: M,
    /// The next slot to write; those before it may not be published yet.
    next: u32,
    /// What was published.
    published: u32,
    /// The consumer's index, as last seen.
    consumed: u32,
}

impl<M: Memory> Producer<M> {
    /// Takes the end over, wherever its indexes stand.
    pub fn new(mem: M) -> Producer<M> {
        let (next, consumed) = (mem.load_producer(), mem.load_consumer());
        Producer { mem, next, published: next, consumed }
    }
    /// Slots in the ring.
    pub fn size(&self) -> u32 {
        self.mem.size()
    }
    /// How many of `wanted` slots are free.
    #[inline]
    pub fn free(&mut self, wanted: u32) -> u32 {
        if self.room() < wanted {
            self.consumed = self.mem.load_consumer();
        }
        self.room().min(wanted)
    }
    #[inline]
    fn room(&self) -> u32 {
        self.mem.size().saturating_sub(self.next.wrapping_sub(self.consumed))
    }
    /// Writes the next slot; the other side sees it after [`Producer::publish`].
    ///
    /// # Panics
    /// If the ring is full: [`Producer::free`] was not asked.
    #[inline]
    pub fn put(&mut self, item: M::Item) {
        assert!(self.room() > 0, "only a free slot is written");
        self.mem.write(self.next, item);
        self.next = self.next.wrapping_add(1);
    }
    /// Takes back what was put since the last [`Producer::publish`].
    pub fn unput(&mut self) {
        self.next = self.published;
    }
    /// Shows the other side what was put. Returns how much that was.
    #[inline]
    pub fn publish(&mut self) -> u32 {
        let n = self.next.wrapping_sub(self.published);
        if n > 0 {
            self.published = self.next;
            self.mem.store_producer(self.next);
        }
        n
    }
    /// What was published and not consumed yet.
    pub fn pending(&mut self) -> u32 {
        self.consumed = self.mem.load_consumer();
        self.published.wrapping_sub(self.consumed)
    }
    /// Whether the consumer wants to be woken.
    #[inline]
    pub fn need_wakeup(&self) -> bool {
        self.mem.need_wakeup()
    }
}

/// The end that takes things out: of the completion ring and the receive ring.
#[derive(Debug)]
pub struct Consumer<M> {
    mem: M,
    /// The next slot to read.
    next: u32,
    /// What was given back.
    released: u32,
    /// The producer's index, as last seen.
    produced: u32,
}

impl<M: Memory> Consumer<M> {
    /// Takes the end over, wherever its indexes stand.
    pub fn new(mem: M) -> Consumer<M> {
        let (next, produced) = (mem.load_consumer(), mem.load_producer());
        Consumer { mem, next, released: next, produced }
    }
    /// Slots in the ring.
    pub fn size(&self) -> u32 {
        self.mem.size()
    }
    /// How many of `wanted` slots can be read.
    #[inline]
    pub fn ready(&mut self, wanted: u32) -> u32 {
        if self.produced.wrapping_sub(self.next) < wanted {
            self.produced = self.mem.load_producer();
        }
        self.produced.wrapping_sub(self.next).min(wanted).min(self.mem.size())
    }
    /// Reads the slot `ahead` behind the next one, which stays.
    ///
    /// # Panics
    /// If it was not said to be ready.
    #[inline]
    pub fn peek(&self, ahead: u32) -> M::Item {
        assert!(ahead < self.produced.wrapping_sub(self.next), "only what is ready is read");
        self.mem.read(self.next.wrapping_add(ahead))
    }
    /// Steps over `n` slots; they belong to the other side after [`Consumer::release`].
    ///
    /// # Panics
    /// If they were not said to be ready.
    #[inline]
    pub fn skip(&mut self, n: u32) {
        assert!(n <= self.produced.wrapping_sub(self.next), "only what is ready is taken");
        self.next = self.next.wrapping_add(n);
    }
    /// Gives back the slots that were stepped over. Returns how many.
    #[inline]
    pub fn release(&mut self) -> u32 {
        let n = self.next.wrapping_sub(self.released);
        if n > 0 {
            self.released = self.next;
            self.mem.store_consumer(self.next);
        }
        n
    }
    /// How many slots wait to be read, without a change of this end.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.mem.load_producer().wrapping_sub(self.next).min(self.mem.size())
    }
}

#[cfg(test)]
mod tests;
