//! Packet memory: recycled, so that nothing is allocated per packet once the loop is warm.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::{FRAGS, Frag, Mem, Pkt, Skb};

/// Bytes in a small buffer: the head of every packet.
pub const SMALL: usize = 2048;
/// Bytes in a large buffer: the rest of a super-packet.
pub const LARGE: usize = 65536;
/// Room that is left before what is received or built, for headers.
pub const HEADROOM: usize = 160;

/// A piece of packet memory: unique, writable, movable between threads.
pub struct Buf(Box<[u8]>);

impl Buf {
    pub(super) fn new(len: usize) -> Buf {
        Buf(vec![0; len].into_boxed_slice())
    }
}
impl Deref for Buf {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
impl DerefMut for Buf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

struct Chunk {
    buf: Box<[u8]>,
    filled: usize,
}

/// A piece of a send queue's memory. As long as only one holder exists it can be filled; packets
/// in flight share it, counted within the shard, and only read it.
pub struct SendChunk(Rc<Chunk>);

impl SendChunk {
    fn new(len: usize) -> SendChunk {
        SendChunk(Rc::new(Chunk { buf: vec![0; len].into_boxed_slice(), filled: 0 }))
    }
    /// Bytes that are filled.
    pub fn len(&self) -> usize {
        self.0.filled
    }
    /// Whether nothing is filled yet.
    pub fn is_empty(&self) -> bool {
        self.0.filled == 0
    }
    /// Bytes of memory behind it.
    pub fn capacity(&self) -> usize {
        self.0.buf.len()
    }
    /// What is filled.
    pub fn bytes(&self) -> &[u8] {
        &self.0.buf[..self.0.filled]
    }
    /// The memory that can still be filled; `None` while packets in flight share the chunk.
    pub fn spare_mut(&mut self) -> Option<&mut [u8]> {
        let chunk = Rc::get_mut(&mut self.0)?;
        Some(&mut chunk.buf[chunk.filled..])
    }
    /// `n` bytes of [`SendChunk::spare_mut`] are now filled.
    ///
    /// # Panics
    /// If the chunk is shared or has no such room.
    pub fn fill(&mut self, n: usize) {
        let chunk = Rc::get_mut(&mut self.0).expect("only an unshared chunk is filled");
        assert!(chunk.filled + n <= chunk.buf.len(), "a chunk is filled within its memory");
        chunk.filled += n;
    }
    pub(super) fn share(&self) -> SendChunk {
        SendChunk(Rc::clone(&self.0))
    }
}

/// The packet memory of one shard. It hands out and takes back; it grows on demand up to its
/// limits (`pool.small`, `pool.large`) and never shrinks.
pub struct Pool {
    free: Vec<Pkt>,
    heads: Vec<Buf>,
    large: Vec<Buf>,
    chunks_small: Vec<SendChunk>,
    chunks_large: Vec<SendChunk>,
    /// Lists of fragments: long ones for packets that are merged of many, and those that such
    /// packets had before. They change hands, so that not every packet grows a long one in time.
    frags_long: Vec<Vec<Frag>>,
    frags_short: Vec<Vec<Frag>>,
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
            heads: Vec::new(),
            large: Vec::new(),
            chunks_small: Vec::new(),
            chunks_large: Vec::new(),
            frags_long: Vec::new(),
            frags_short: Vec::new(),
            small_out: 0,
            large_out: 0,
            small_max,
            large_max,
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

    /// An empty packet with [`HEADROOM`]; `None` when the limit is reached.
    #[inline]
    pub fn alloc(&mut self) -> Option<Pkt> {
        if self.small_out >= self.small_max {
            return None;
        }
        self.small_out += 1;
        match self.free.pop() {
            Some(mut pkt) => {
                pkt.reset();
                Some(pkt)
            }
            None => Some(Pkt(Box::new(Skb::new()))),
        }
    }
    /// Takes a packet back.
    #[inline]
    pub fn free(&mut self, mut pkt: Pkt) {
        self.small_out = self.small_out.saturating_sub(1);
        if !pkt.frags.is_empty() {
            self.free_frags(&mut pkt);
        }
        self.free.push(pkt);
    }
    fn free_frags(&mut self, pkt: &mut Pkt) {
        while let Some(frag) = pkt.frags.pop() {
            match frag.mem {
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
            self.frags_long.push(std::mem::replace(&mut pkt.frags, short));
        }
    }
    /// Gives a packet's list of fragments room for `n`.
    #[cold]
    pub(super) fn widen(&mut self, frags: &mut Vec<Frag>, n: usize) {
        let mut long = self.frags_long.pop().unwrap_or_default();
        long.reserve(n.max(64));
        long.append(frags);
        self.frags_short.push(std::mem::replace(frags, long));
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
        Some(self.large.pop().unwrap_or_else(|| Buf::new(LARGE)))
    }
    /// Takes a large buffer back.
    pub fn free_large(&mut self, buf: Buf) {
        self.large_out = self.large_out.saturating_sub(1);
        self.large.push(buf);
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
    pub fn free_chunk(&mut self, mut chunk: SendChunk) {
        if let Some(inner) = Rc::get_mut(&mut chunk.0) {
            inner.filled = 0;
            let list = if inner.buf.len() == SMALL {
                &mut self.chunks_small
            } else {
                &mut self.chunks_large
            };
            list.push(chunk);
        }
    }
}
