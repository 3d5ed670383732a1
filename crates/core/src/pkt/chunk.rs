//! Memory of send queues, which packets in flight share: [`SendChunk`], and [`Lent`], what somebody else owns.

use std::ops::Range;
use std::sync::{Arc, Weak};

use linerate_arch::Counted;

/// Bytes that somebody else owns and that are sent without being copied. Their owner can read them meanwhile,
/// and can not change them; the memory is let go when the last packet with them is.
#[derive(Clone, Debug)]
pub struct Lent {
    mem: LentMem,
    range: Range<usize>,
}

#[derive(Clone, Debug)]
enum LentMem {
    Vec(Arc<Vec<u8>>),
    Slice(Arc<[u8]>),
    Static(&'static [u8]),
}

impl From<Arc<Vec<u8>>> for Lent {
    fn from(vec: Arc<Vec<u8>>) -> Lent {
        Lent { range: 0..vec.len(), mem: LentMem::Vec(vec) }
    }
}
impl From<Vec<u8>> for Lent {
    fn from(vec: Vec<u8>) -> Lent {
        Arc::new(vec).into()
    }
}
impl From<Arc<[u8]>> for Lent {
    fn from(slice: Arc<[u8]>) -> Lent {
        Lent { range: 0..slice.len(), mem: LentMem::Slice(slice) }
    }
}
impl From<&'static [u8]> for Lent {
    fn from(slice: &'static [u8]) -> Lent {
        Lent { range: 0..slice.len(), mem: LentMem::Static(slice) }
    }
}

impl Lent {
    /// A part of it; the memory stays whole.
    ///
    /// # Panics
    /// If the range lies outside.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Lent {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "a part lies within its whole"
        );
        let begin = self.range.start;
        Lent { mem: self.mem.clone(), range: begin + range.start..begin + range.end }
    }
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let all: &[u8] = match &self.mem {
            LentMem::Vec(vec) => vec,
            LentMem::Slice(slice) => slice,
            LentMem::Static(slice) => slice,
        };
        &all[self.range.clone()]
    }
    /// How many bytes they are.
    pub fn len(&self) -> usize {
        self.range.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

struct Chunk {
    buf: ChunkMem,
    filled: usize,
    /// Ends with the chunk, for whoever watches it; memory of our own is not watched.
    life: Option<Arc<()>>,
}

enum ChunkMem {
    Own(Box<[u8]>),
    Lent(Lent),
}

/// A piece of a send queue's memory. As long as only one holder exists it can be filled; packets
/// in flight share it and only read it. The count is atomic, so that a connection can move to
/// another shard while packets of it still stand in the old one's rings.
pub struct SendChunk(Counted<Chunk>);

/// Tells whether a chunk is still held, by a queue or by a packet.
pub(crate) struct Watch(Weak<()>);

impl Watch {
    /// Whether nobody has the chunk any more.
    pub fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl SendChunk {
    pub(super) fn new(len: usize) -> SendChunk {
        let buf = ChunkMem::Own(vec![0; len].into_boxed_slice());
        SendChunk(Counted::new(Chunk { buf, filled: 0, life: None }))
    }
    /// A chunk that is full of somebody else's bytes.
    pub(crate) fn lent(bytes: Lent) -> SendChunk {
        let filled = bytes.len();
        let life = Some(Arc::default());
        SendChunk(Counted::new(Chunk { buf: ChunkMem::Lent(bytes), filled, life }))
    }
    /// The same where nobody asks when they are free.
    pub(crate) fn unwatched(bytes: Lent) -> SendChunk {
        let filled = bytes.len();
        SendChunk(Counted::new(Chunk { buf: ChunkMem::Lent(bytes), filled, life: None }))
    }
    /// For whoever wants to know when somebody else's bytes are free.
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.0.life.as_ref().map(Arc::downgrade).unwrap_or_default())
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
        match &self.0.buf {
            ChunkMem::Own(buf) => buf.len(),
            ChunkMem::Lent(lent) => lent.len(),
        }
    }
    /// What is filled.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.0.buf {
            ChunkMem::Own(buf) => &buf[..self.0.filled],
            ChunkMem::Lent(lent) => lent.bytes(),
        }
    }
    /// The memory that can still be filled; `None` while packets in flight share the chunk, and where it is not
    /// ours.
    pub fn spare_mut(&mut self) -> Option<&mut [u8]> {
        let chunk = self.0.get_mut()?;
        match &mut chunk.buf {
            ChunkMem::Own(buf) => Some(&mut buf[chunk.filled..]),
            ChunkMem::Lent(_) => None,
        }
    }
    /// `n` bytes of [`SendChunk::spare_mut`] are now filled.
    ///
    /// # Panics
    /// If the chunk is shared or has no such room.
    pub fn fill(&mut self, n: usize) {
        let room = self.spare_mut().map(|spare| spare.len());
        assert!(
            room.expect("only an unshared chunk of our own is filled") >= n,
            "within its memory"
        );
        if let Some(chunk) = self.0.get_mut() {
            chunk.filled += n;
        }
    }
    /// Whether no packet shares it.
    #[inline]
    pub(super) fn is_alone(&self) -> bool {
        self.0.is_alone()
    }
    /// Empties a chunk of our own that nobody shares, to be filled anew; the bytes of memory behind it.
    pub(super) fn reset(&mut self) -> Option<usize> {
        let chunk = self.0.get_mut()?;
        let ChunkMem::Own(buf) = &chunk.buf else { return None };
        chunk.filled = 0;
        Some(buf.len())
    }
    #[inline]
    pub(super) fn share(&self) -> SendChunk {
        SendChunk(self.0.share())
    }
    /// The next `n` times [`SendChunk::part`] need not count.
    #[inline]
    pub(super) fn reserve(&mut self, n: usize) {
        self.0.reserve(n.min(u16::MAX.into()) as u32);
    }
    /// Another holder of it.
    #[inline]
    pub(super) fn part(&mut self) -> SendChunk {
        SendChunk(self.0.split().unwrap_or_else(|| self.0.share()))
    }
    /// Takes another holder of the same memory in; it comes back if it is of another.
    #[inline]
    pub(super) fn join(&mut self, other: SendChunk) -> Result<(), SendChunk> {
        self.0.join(other.0).map_err(SendChunk)
    }
}
