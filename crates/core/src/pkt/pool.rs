//! What packets are taken from and go back to: recycled, so that nothing is allocated per packet once the loop
//! is warm.

use std::sync::{Arc, Mutex, PoisonError};

use super::buf::{Buf, Home, LARGE, SMALL};
use super::chunk::SendChunk;
use super::frags::{FRAGS, Frag, Mem};
use super::{Pkt, Skb};

/// Packet memory on its way between shards: where more is freed than taken, as on a shard that
/// packets are steered to, the surplus goes back through here (like the shared ring behind the
/// per-core caches of a mempool). Touched once for many packets.
#[derive(Default)]
pub struct Depot {
    free: Mutex<Vec<Pkt>>,
    large: Mutex<Vec<Buf>>,
    mapped: Mutex<Vec<Vec<Buf>>>,
}

impl Depot {
    /// A panic elsewhere leaves the lists whole: each change of them is complete under the lock.
    fn lock<T>(list: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Packets, buffers or chunks that move between a pool and the depot at once.
const DEPOT_BATCH: usize = 256;
/// Free ones that a pool keeps before it gives some to the depot.
const KEEP: usize = 1024;

/// Free chunks of send queues that a pool keeps: 2 MiB of small ones, 32 MiB of large ones. One burst
/// of writers does not hold its memory for ever.
const KEEP_CHUNKS: usize = 1024;
const KEEP_CHUNKS_LARGE: usize = 512;

/// What a connection has between itself and the devices.
#[derive(Clone, Copy, Default)]
struct Below {
    bytes: u32,
    /// It waits for that to become less.
    throttled: bool,
}

/// The packet memory of one shard. It hands out and takes back. Packets and large buffers grow on
/// demand up to their limits (`pool.small`, `pool.large`) and never shrink; of the memory of send
/// queues, which `tcp_mem` limits, some is kept and the rest goes back to the system.
pub struct Pool {
    free: Vec<Pkt>,
    /// Packets whose head went home.
    bare: Vec<Pkt>,
    /// Chunks that came back, by [`Home`].
    mapped: Vec<Vec<Buf>>,
    depot: Option<Arc<Depot>>,
    heads: Vec<Buf>,
    large: Vec<Buf>,
    chunks_small: Vec<SendChunk>,
    chunks_large: Vec<SendChunk>,
    /// Lists of fragments: long ones for packets that are merged of many, and those that such
    /// packets had before. They change hands, so that not every packet grows a long one in time.
    frags_long: Vec<Vec<Frag>>,
    frags_short: Vec<Vec<Frag>>,
    /// Free packets beyond which some go to the depot.
    keep: usize,
    /// Packets out there beyond which receive queues are copied together next.
    crowded_above: usize,
    /// Bytes of each connection between it and the devices, by its place.
    below: Vec<Below>,
    /// Connections that waited for theirs to leave, some of which have.
    pub(crate) tsq: Vec<u32>,
    /// Packets out there now.
    small_out: usize,
    /// Large buffers out there now.
    large_out: usize,
    /// The most packets that may be out there.
    pub small_max: usize,
    /// The most large buffers that may be out there.
    pub large_max: usize,
}

impl Pool {
    /// A pool that may hand out so many packets and large buffers.
    pub fn new(small_max: usize, large_max: usize) -> Pool {
        Pool {
            free: Vec::new(),
            bare: Vec::new(),
            mapped: Vec::new(),
            depot: None,
            heads: Vec::new(),
            large: Vec::new(),
            chunks_small: Vec::new(),
            chunks_large: Vec::new(),
            frags_long: Vec::new(),
            frags_short: Vec::new(),
            keep: usize::MAX,
            crowded_above: 0,
            below: Vec::new(),
            tsq: Vec::new(),
            small_out: 0,
            large_out: 0,
            small_max,
            large_max,
        }
    }
    /// From now on the connection at this place is charged with `bytes` for the packet, until it leaves its
    /// queue or is freed (`skb_set_owner_w`).
    pub(crate) fn set_owner(&mut self, pkt: &mut Skb, owner: u32, bytes: u32) {
        let at = owner as usize;
        if self.below.len() <= at {
            self.below.resize(at + 1, Below::default());
        }
        self.below[at].bytes = self.below[at].bytes.saturating_add(bytes);
        (pkt.hint, pkt.charge) = (owner, bytes);
    }
    /// Asks the processor for what the connection at this place is charged with.
    #[inline]
    pub(crate) fn prefetch_owner(&self, owner: u32) {
        if let Some(below) = self.below.get(owner as usize) {
            linerate_arch::prefetch_read(below);
        }
    }
    /// Nobody is charged with the packet any more (`skb_orphan`; `tcp_wfree`).
    #[inline]
    pub(crate) fn skb_orphan(&mut self, pkt: &mut Skb) {
        if pkt.charge > 0 {
            self.uncharge(pkt);
        }
    }
    fn uncharge(&mut self, pkt: &mut Skb) {
        let (owner, bytes) = (std::mem::take(&mut pkt.hint), std::mem::take(&mut pkt.charge));
        let Some(below) = self.below.get_mut(owner as usize) else { return };
        below.bytes = below.bytes.saturating_sub(bytes);
        if std::mem::take(&mut below.throttled) {
            self.tsq.push(owner);
        }
    }
    /// Whether the connection at this place is charged with more than `limit` bytes. If so it is told when
    /// that may have changed (`TSQ_THROTTLED`).
    #[inline]
    pub(crate) fn tsq_throttled(&mut self, owner: u32, limit: u64) -> bool {
        match self.below.get_mut(owner as usize) {
            Some(below) if u64::from(below.bytes) > limit => {
                below.throttled = true;
                true
            }
            _ => false,
        }
    }
    /// Packets that can still be handed out.
    pub fn small_left(&self) -> usize {
        self.small_max.saturating_sub(self.small_out)
    }
    /// Large buffers that can still be handed out.
    pub fn large_left(&self) -> usize {
        self.large_max.saturating_sub(self.large_out)
    }
    /// Packets that are out there.
    pub fn small_out(&self) -> usize {
        self.small_out
    }
    /// Large buffers that are out there.
    pub fn large_out(&self) -> usize {
        self.large_out
    }
    /// Whether more than three quarters of either kind are out there: who holds packets should
    /// copy the data out and give them back.
    pub fn low(&self) -> bool {
        self.small_out > self.small_max / 4 * 3 || self.large_out > self.large_max / 4 * 3
    }

    /// Whether a queue that holds so many bytes of memory is to copy what it has in small packets together in
    /// large buffers: more than half of the packets are out there, and it has an eighth of all. Whoever is told
    /// so does it; the next time is a thirty-second part of all packets later, at the earliest.
    #[inline]
    pub fn crowded(&mut self, held_bytes: usize) -> bool {
        let half = self.small_max / 2;
        if self.small_out <= half {
            self.crowded_above = half;
            return false;
        }
        if self.small_out <= self.crowded_above || held_bytes < self.small_max / 8 * SMALL {
            return false;
        }
        self.crowded_above = self.small_out + self.small_max / 32;
        true
    }

    /// An empty packet with [`HEADROOM`](super::HEADROOM); `None` when the limit is reached.
    #[inline]
    pub fn alloc(&mut self) -> Option<Pkt> {
        if self.small_out >= self.small_max {
            return None;
        }
        self.small_out += 1;
        let mut pkt = self.free.pop().unwrap_or_else(|| self.refill());
        pkt.reset();
        Some(pkt)
    }
    /// The free list is empty: what other shards gave back, or new memory.
    #[cold]
    fn refill(&mut self) -> Pkt {
        if let Some(depot) = &self.depot {
            let mut shared = Depot::lock(&depot.free);
            let from = shared.len().saturating_sub(DEPOT_BATCH);
            self.free.extend(shared.drain(from..));
        }
        self.free.pop().unwrap_or_else(|| Pkt(Box::new(Skb::new(Buf::new(SMALL)))))
    }
    /// A packet around a mapped chunk that a device received into: bytes `data..data + len`.
    ///
    /// # Errors
    /// The chunk, when the limit is reached.
    ///
    /// # Panics
    /// If the range lies outside the chunk, or the chunk is not mapped.
    #[inline]
    pub fn alloc_around(&mut self, chunk: Buf, data: usize, len: usize) -> Result<Pkt, Buf> {
        assert!(data + len <= chunk.len() && chunk.home().is_some(), "a device knows its chunks");
        if self.small_out >= self.small_max {
            return Err(chunk);
        }
        self.small_out += 1;
        let mut pkt = match self.bare.pop() {
            Some(pkt) => pkt,
            // Merging gives packets heads of their own and leaves chunks as fragments: those heads
            // go back to where the next merge takes them from.
            None => match self.free.pop() {
                Some(pkt) => pkt,
                None => Pkt(Box::new(Skb::new(Buf::none()))),
            },
        };
        pkt.reset();
        let head = std::mem::replace(&mut pkt.head, chunk);
        if head.len() == SMALL {
            self.heads.push(head);
        }
        pkt.data = data as u32;
        pkt.tail = (data + len) as u32;
        Ok(pkt)
    }
    /// Adds a mapped chunk to a packet, of which `off..off + len` is meant: a frame that the device
    /// received in several. It counts as a packet until it goes back.
    ///
    /// # Errors
    /// The chunk, when the limit is reached.
    ///
    /// # Panics
    /// If the range lies outside the chunk, or the chunk is not mapped.
    pub fn add_around(
        &mut self,
        pkt: &mut Pkt,
        chunk: Buf,
        off: usize,
        len: usize,
    ) -> Result<(), Buf> {
        assert!(chunk.home().is_some(), "a device knows its chunks");
        if self.small_out >= self.small_max {
            return Err(chunk);
        }
        self.small_out += 1;
        pkt.add_buf(chunk, off, len);
        Ok(())
    }
    /// Chunks that came back to the memory `home`, the latest first: at most `max` of this pool's
    /// own are given to `each`. What the depot has is left to [`Pool::take_home`]. Returns how many.
    #[inline]
    pub fn each_home(
        &mut self,
        home: Home,
        max: usize,
        mut each: impl FnMut(&'static mut [u8]),
    ) -> usize {
        let Some(list) = self.mapped.get_mut(home.0 as usize) else { return 0 };
        let from = list.len().saturating_sub(max);
        let n = list.len() - from;
        for buf in list.drain(from..).rev() {
            if let Ok(chunk) = buf.into_mapped() {
                each(chunk);
            }
        }
        n
    }
    /// Chunks that came back to the memory `home`: at most `max` of them are moved to `out`.
    pub fn take_home(&mut self, home: Home, max: usize, out: &mut Vec<Buf>) {
        let Some(list) = self.mapped_of(home) else { return };
        let from = list.len().saturating_sub(max);
        out.extend(list.drain(from..));
        if let (true, Some(depot)) = (out.len() < max, &self.depot) {
            let mut shared = Depot::lock(&depot.mapped);
            if let Some(list) = shared.get_mut(home.0 as usize) {
                let from = list.len().saturating_sub(max - out.len());
                out.extend(list.drain(from..));
            }
        }
    }
    /// Takes a mapped chunk back: its device finds it by [`Pool::take_home`].
    pub fn free_mapped(&mut self, chunk: Buf) {
        let Some(home) = chunk.home() else { return };
        let Some(list) = self.mapped_of(home) else { return };
        list.push(chunk);
        if list.len() > KEEP {
            self.give_back_mapped(home);
        }
    }
    /// Gives the surplus of a device's chunks to the depot.
    #[cold]
    fn give_back_mapped(&mut self, home: Home) {
        let (Some(depot), Some(list)) = (&self.depot, self.mapped.get_mut(home.0 as usize)) else {
            return;
        };
        let mut shared = Depot::lock(&depot.mapped);
        let at = home.0 as usize;
        if shared.len() <= at {
            shared.resize_with(at + 1, Vec::new);
        }
        shared[at].extend(list.drain(KEEP - DEPOT_BATCH..));
    }
    fn mapped_of(&mut self, home: Home) -> Option<&mut Vec<Buf>> {
        let at = home.0 as usize;
        if self.mapped.len() <= at {
            self.mapped.resize_with(at + 1, Vec::new);
        }
        self.mapped.get_mut(at)
    }
    /// From now on surplus memory is shared with the other pools of `depot`.
    pub fn share(&mut self, depot: Arc<Depot>) {
        self.depot = Some(depot);
        self.keep = KEEP;
    }
    /// The packet leaves for another shard: it is no longer out of this pool.
    pub fn give(&mut self, pkt: &Pkt) {
        let (small, large) = pkt.held();
        self.small_out = self.small_out.saturating_sub(small);
        self.large_out = self.large_out.saturating_sub(large);
    }
    /// The packet came from another shard: it counts as one of ours, also beyond the limits.
    pub fn adopt(&mut self, pkt: &Pkt) {
        let (small, large) = pkt.held();
        self.small_out += small;
        self.large_out += large;
    }
    /// The packet goes to the pool `to`, which gives an empty one for it: both keep what they had. False,
    /// and nothing changes, if `to` may not hand out so many.
    #[inline]
    pub(crate) fn trade(&mut self, pkt: &Pkt, to: &mut Pool) -> bool {
        if to.small_out >= to.small_max {
            return false;
        }
        let empty = to.free.pop().unwrap_or_else(|| to.refill());
        let (small, large) = pkt.held();
        to.small_out += small;
        to.large_out += large;
        // The empty one counts until it is free.
        self.small_out = (self.small_out + 1).saturating_sub(small);
        self.large_out = self.large_out.saturating_sub(large);
        // It was free there, so that nothing is to be done to it: its memory need not be looked at.
        match self.free_has_room() {
            true => self.push_free(empty),
            false => self.free_odd(empty),
        }
        true
    }
    /// Whether the list of free packets takes one more without growing, or giving some away.
    #[inline]
    fn free_has_room(&self) -> bool {
        self.free.len() < self.free.capacity().min(self.keep)
    }
    #[inline]
    fn push_free(&mut self, pkt: Pkt) {
        self.small_out = self.small_out.saturating_sub(1);
        self.free.push(pkt);
    }
    /// Takes a packet back.
    #[inline]
    pub fn free(&mut self, mut pkt: Pkt) {
        self.skb_orphan(&mut pkt);
        let plain = pkt.frags.is_empty() && pkt.head.is_small();
        if plain && self.free_has_room() {
            return self.push_free(pkt);
        }
        self.free_odd(pkt);
    }
    /// A packet that has more than its own head, or the list of free ones is long.
    #[inline(never)]
    fn free_odd(&mut self, mut pkt: Pkt) {
        self.small_out = self.small_out.saturating_sub(1);
        if !pkt.frags.is_empty() {
            self.free_frags(&mut pkt);
        }
        if pkt.head.is_small() {
            self.free.push(pkt);
            if self.free.len() > self.keep {
                self.give_back();
            }
            return;
        }
        let chunk = std::mem::replace(&mut pkt.head, Buf::none());
        self.free_mapped(chunk);
        self.bare.push(pkt);
    }
    /// Gives the surplus of free packets to the depot.
    #[cold]
    fn give_back(&mut self) {
        let Some(depot) = &self.depot else { return };
        let mut shared = Depot::lock(&depot.free);
        shared.extend(self.free.drain(KEEP - DEPOT_BATCH..));
    }
    fn free_frags(&mut self, pkt: &mut Pkt) {
        while let Some(frag) = pkt.frags.pop() {
            match frag.mem {
                Mem::Own(buf) if buf.home().is_some() => {
                    self.small_out = self.small_out.saturating_sub(1);
                    self.free_mapped(buf);
                }
                Mem::Own(buf) if buf.len() == LARGE => self.free_large(buf),
                Mem::Own(buf) if buf.len() == SMALL => {
                    self.small_out = self.small_out.saturating_sub(1);
                    self.heads.push(buf)
                }
                Mem::Own(_) => {}
                Mem::Shared(chunk) => self.free_chunk(chunk),
            }
        }
        if pkt.frags.capacity() > 2 * FRAGS {
            let short = self.frags_short.pop().unwrap_or_else(|| Vec::with_capacity(FRAGS));
            let long = std::mem::replace(&mut pkt.frags, short);
            if self.frags_long.len() < KEEP {
                self.frags_long.push(long);
            }
        }
    }
    /// Gives a packet's list of fragments room for `n`.
    #[cold]
    pub(super) fn widen(&mut self, frags: &mut Vec<Frag>, n: usize) {
        let mut long = self.frags_long.pop().unwrap_or_default();
        long.reserve(n.max(64));
        long.append(frags);
        let short = std::mem::replace(frags, long);
        if self.frags_short.len() < KEEP {
            self.frags_short.push(short);
        }
    }
    /// A small buffer to become a packet's head; it counts as a packet until its holder goes back.
    pub(super) fn take_head(&mut self) -> Option<Buf> {
        if self.small_out >= self.small_max {
            return None;
        }
        self.small_out += 1;
        Some(self.heads.pop().unwrap_or_else(|| Buf::new(SMALL)))
    }
    /// A large buffer; `None` when the limit is reached.
    pub fn alloc_large(&mut self) -> Option<Buf> {
        if self.large_out >= self.large_max {
            return None;
        }
        self.large_out += 1;
        if let (true, Some(depot)) = (self.large.is_empty(), &self.depot) {
            let mut shared = Depot::lock(&depot.large);
            let from = shared.len().saturating_sub(DEPOT_BATCH / 8);
            self.large.extend(shared.drain(from..));
        }
        Some(self.large.pop().unwrap_or_else(|| Buf::new(LARGE)))
    }
    /// Takes a large buffer back.
    pub fn free_large(&mut self, buf: Buf) {
        self.large_out = self.large_out.saturating_sub(1);
        self.large.push(buf);
        if let (true, Some(depot)) = (self.large.len() > KEEP / 8, &self.depot) {
            Depot::lock(&depot.large).extend(self.large.drain((KEEP - DEPOT_BATCH) / 8..));
        }
    }
    /// An empty chunk for a send queue that can take at least `len` bytes, or [`LARGE`] if that is less.
    pub fn alloc_chunk(&mut self, len: usize) -> SendChunk {
        let (list, size) = if len <= SMALL {
            (&mut self.chunks_small, SMALL)
        } else {
            (&mut self.chunks_large, LARGE)
        };
        list.pop().unwrap_or_else(|| SendChunk::new(size))
    }
    /// Takes a chunk back; memory that packets still share goes back with the last of them.
    #[inline]
    pub fn free_chunk(&mut self, chunk: SendChunk) {
        // Who is not the last lets go of it.
        if chunk.is_alone() {
            self.keep_chunk(chunk);
        }
    }
    fn keep_chunk(&mut self, mut chunk: SendChunk) {
        if let Some(len) = chunk.reset() {
            let (list, keep) = if len == SMALL {
                (&mut self.chunks_small, KEEP_CHUNKS)
            } else {
                (&mut self.chunks_large, KEEP_CHUNKS_LARGE)
            };
            if list.len() < keep {
                list.push(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests;
