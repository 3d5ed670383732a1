//! What of a packet lies beyond its head: fragments, and the work that goes over all bytes of a packet.

use super::Skb;
use super::buf::{Buf, LARGE};
use super::chunk::SendChunk;

pub(super) enum Mem {
    Own(Buf),
    Shared(SendChunk),
}

/// Fragments that every packet has room for from the start (`MAX_SKB_FRAGS`).
pub(super) const FRAGS: usize = 17;

/// A part of a packet beyond its head.
pub(super) struct Frag {
    pub mem: Mem,
    pub off: u32,
    pub len: u32,
}

impl Frag {
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let all = match &self.mem {
            Mem::Own(buf) => buf,
            Mem::Shared(chunk) => chunk.bytes(),
        };
        &all[self.off as usize..][..self.len as usize]
    }
}

/// The fragments of a packet, read-only.
pub struct Frags<'a> {
    frags: &'a [Frag],
    len: usize,
}

impl Frags<'_> {
    /// Bytes in them.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Copies bytes from offset `off` of them on; what they do not have stays as it is in `out`.
    pub fn copy(&self, off: usize, out: &mut [u8]) {
        let (mut skip, mut done) = (off, 0);
        for frag in self.frags {
            let from = frag.bytes().get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(frag.len as usize);
            let n = from.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&from[..n]);
            done += n;
        }
    }
}

impl Skb {
    /// Adds a pool buffer of which `off..off + len` is meant.
    ///
    /// # Panics
    /// If that range lies outside the buffer.
    pub fn add_buf(&mut self, buf: Buf, off: usize, len: usize) {
        assert!(off + len <= buf.len(), "a fragment lies inside its buffer");
        self.frags.push(Frag { mem: Mem::Own(buf), off: off as u32, len: len as u32 });
        self.frag_len += len as u32;
    }
    /// Adds a part of the send queue's memory.
    ///
    /// # Panics
    /// If that range lies outside what is filled.
    pub fn add_shared(&mut self, chunk: &SendChunk, off: usize, len: usize) {
        assert!(off + len <= chunk.len(), "a fragment lies inside its chunk");
        self.frags.push(Frag { mem: Mem::Shared(chunk.share()), off: off as u32, len: len as u32 });
        self.frag_len += len as u32;
    }
    /// Buffers of a pool that the packet holds: small ones and mapped ones, and large ones.
    pub(crate) fn held(&self) -> (usize, usize) {
        let (mut small, mut large) = (1, 0);
        for frag in &self.frags {
            match &frag.mem {
                Mem::Own(buf) if buf.home().is_none() && buf.len() == LARGE => large += 1,
                Mem::Own(_) => small += 1,
                Mem::Shared(_) => {}
            }
        }
        (small, large)
    }
    /// The head's whole memory, where in it the packet's bytes lie, and what follows them in
    /// fragments: for whoever moves the packet's ends (`struct xdp_buff`), with [`Skb::set_ends`].
    #[inline]
    pub fn parts(&mut self) -> (&mut [u8], std::ops::Range<usize>, Frags<'_>) {
        let ends = self.data as usize..self.tail as usize;
        (&mut self.head, ends, Frags { frags: &self.frags, len: self.frag_len as usize })
    }
    /// How many fragments there are (`nr_frags`).
    pub fn nr_frags(&self) -> usize {
        self.frags.len()
    }
    /// Whether a fragment lies in memory that the send queue shares.
    pub fn is_shared(&self) -> bool {
        self.frags.iter().any(|f| matches!(f.mem, Mem::Shared(_)))
    }
    /// Whether all fragments lie in memory that the send queue shares.
    pub fn is_all_shared(&self) -> bool {
        self.frags.iter().all(|f| matches!(f.mem, Mem::Shared(_)))
    }
    /// All bytes in order: the head, then each fragment; none of them empty.
    #[inline]
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let head = std::iter::once(self.head());
        head.chain(self.frags.iter().map(Frag::bytes)).filter(|s| !s.is_empty())
    }
    /// Copies bytes from offset `off` on; returns how many there were (`skb_copy_bits`).
    pub fn copy_bits(&self, off: usize, out: &mut [u8]) -> usize {
        let (mut skip, mut done) = (off, 0);
        for slice in self.slices() {
            if skip >= slice.len() {
                skip -= slice.len();
                continue;
            }
            let n = (slice.len() - skip).min(out.len() - done);
            out[done..done + n].copy_from_slice(&slice[skip..skip + n]);
            done += n;
            skip = 0;
            if done == out.len() {
                break;
            }
        }
        done
    }
    /// Makes the first `n` bytes lie in the head (`pskb_may_pull`); false if the packet is shorter
    /// or the head has no room.
    #[inline]
    #[must_use]
    pub fn may_pull(&mut self, n: usize) -> bool {
        n <= self.head_len() || self.pull_tail(n - self.head_len())
    }
    #[cold]
    fn pull_tail(&mut self, mut need: usize) -> bool {
        if need > self.frag_len as usize || need > self.tailroom() {
            return false;
        }
        for frag in &mut self.frags {
            let n = need.min(frag.len as usize);
            let at = self.tail as usize;
            self.head[at..at + n].copy_from_slice(&frag.bytes()[..n]);
            frag.off += n as u32;
            frag.len -= n as u32;
            self.tail += n as u32;
            self.frag_len -= n as u32;
            need -= n;
            if need == 0 {
                break;
            }
        }
        true
    }
    /// Cuts the packet to `len` bytes (`pskb_trim`); nothing happens if it is shorter.
    pub fn trim(&mut self, len: usize) {
        let mut cut = self.len().saturating_sub(len);
        for frag in self.frags.iter_mut().rev() {
            let n = cut.min(frag.len as usize);
            frag.len -= n as u32;
            self.frag_len -= n as u32;
            cut -= n;
        }
        self.tail -= cut as u32;
    }
    /// Takes `n` bytes off the front, wherever they lie; less if the packet is shorter.
    pub fn advance(&mut self, n: usize) {
        let in_head = n.min(self.head_len());
        self.data += in_head as u32;
        let mut rest = n - in_head;
        for frag in &mut self.frags {
            let n = rest.min(frag.len as usize);
            frag.off += n as u32;
            frag.len -= n as u32;
            self.frag_len -= n as u32;
            rest -= n;
        }
    }
    /// The memory that this packet holds, not only the bytes it carries (`skb->truesize`).
    #[inline]
    pub fn truesize(&self) -> usize {
        let head = size_of::<Skb>() + self.head.len();
        if self.frags.is_empty() { head } else { head + self.frags_truesize() }
    }
    fn frags_truesize(&self) -> usize {
        let own = |f: &Frag| match &f.mem {
            Mem::Own(buf) => buf.len(),
            Mem::Shared(_) => 0,
        };
        self.frags.iter().map(own).sum()
    }
}
