//! The sending side's memory: chunks that hold the data until it is acknowledged, and a record of
//! what is under way. Packets share the chunks; sending again copies nothing.
//!
//! ```text
//!   una            snd_nxt              end
//!    | rtx: sent     |  not sent yet     |
//!    [chunk][chunk][chunk][chunk][chunk..]
//! ```

use std::collections::VecDeque;

use super::hints::Hints;
use super::push::Psh;
use super::rate::Rate;
use super::zerocopy::Zerocopy;
use crate::pkt::{Pkt, SMALL, SendChunk};
use crate::seq::Seq;
use crate::shard::Net;
use crate::time::Instant;

/// A segment, or a super-segment, that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TxSeg {
    /// Its first sequence number.
    pub seq: Seq,
    /// Its length in sequence space, FIN included.
    pub len: u32,
    /// When it was last sent.
    pub sent: Instant,
    /// How many wire segments it stands for.
    pub segs: u16,
    /// Payload of each of them but the last.
    pub mss: u16,
    /// How often it was sent again.
    pub retrans: u8,
    /// [`SACKED`], [`LOST`], [`RETRANS`], [`FIN`], [`PSH`].
    pub flags: u8,
}

/// Selectively acknowledged (`TCPCB_SACKED_ACKED`).
pub(crate) const SACKED: u8 = 1;
/// Thought to be lost (`TCPCB_LOST`).
pub(crate) const LOST: u8 = 2;
/// Sent again, and that is still under way (`TCPCB_SACKED_RETRANS`).
pub(crate) const RETRANS: u8 = 4;
/// Ends with the FIN.
pub(crate) const FIN: u8 = 8;
/// What ends it is to be read at once.
pub(crate) const PSH: u8 = 16;

impl TxSeg {
    pub fn end(&self) -> Seq {
        self.seq + self.len
    }
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

pub(super) struct Piece {
    seq: Seq,
    chunk: SendChunk,
}

/// What is queued for sending.
#[derive(Default)]
pub(crate) struct SndQ {
    pieces: VecDeque<Piece>,
    /// The sequence number behind the last queued byte (`write_seq`).
    pub end: Seq,
    /// Where the last packet of what is not sent would begin in Linux ([`super::wmem`]); what lies before
    /// `snd_nxt` is sent.
    pub tail: Seq,
    /// Where the peer is to read at once.
    pub psh: Psh,
    /// What is under way, in order.
    pub rtx: VecDeque<TxSeg>,
    /// What spares recovery a walk over it, once something was lost or arrived out of order.
    pub hints: Option<Box<Hints>>,
    /// Beside it what delivery rates are told by, if they are wanted.
    pub rate: Option<Box<Rate>>,
    /// Sends without a copy, if there were any.
    pub zerocopy: Option<Box<Zerocopy>>,
    /// Memory of the chunks.
    wmem: usize,
}

/// Payload that is copied into the packet's head instead of being shared with it: cheaper than one
/// more fragment, and the chunk can be filled further.
pub(super) const COPYBREAK: usize = 512;
/// Most fragments of a packet of ours.
const FRAGS_MAX: usize = 60;
/// Up to this length a copy goes into small chunks.
const SMALL_COPY_MAX: usize = 4 * SMALL;

impl SndQ {
    /// The queue begins at `seq`.
    pub fn start(&mut self, seq: Seq) {
        (self.end, self.tail) = (seq, seq);
        self.psh.start(seq);
    }
    /// Memory of the chunks in bytes.
    pub fn wmem(&self) -> usize {
        self.wmem
    }

    /// Queues a copy of `data`.
    pub fn push_copy(&mut self, net: &mut Net, mut data: &[u8]) {
        while !data.is_empty() {
            let spare = self.pieces.back_mut().and_then(|p| p.chunk.spare_mut());
            let n = match spare {
                Some(spare) if !spare.is_empty() => {
                    let n = spare.len().min(data.len());
                    spare[..n].copy_from_slice(&data[..n]);
                    n
                }
                _ => {
                    let want = if data.len() <= SMALL_COPY_MAX { SMALL } else { data.len() };
                    let chunk = net.pool.alloc_chunk(want);
                    self.wmem += chunk.capacity();
                    net.spare.pieces.lend(&mut self.pieces);
                    self.pieces.push_back(Piece { seq: self.end, chunk });
                    continue;
                }
            };
            if let Some(piece) = self.pieces.back_mut() {
                piece.chunk.fill(n);
            }
            self.end += n as u32;
            data = &data[n..];
        }
    }

    /// Queues a whole chunk.
    pub fn push_chunk(&mut self, net: &mut Net, chunk: SendChunk) {
        let len = chunk.len();
        let fits = |p: &mut Piece| p.chunk.spare_mut().is_some_and(|s| s.len() >= len);
        if len == 0 || len <= COPYBREAK && self.pieces.back_mut().is_some_and(fits) {
            self.push_copy(net, chunk.bytes());
            net.pool.free_chunk(chunk);
            return;
        }
        self.wmem += chunk.capacity();
        net.spare.pieces.lend(&mut self.pieces);
        self.pieces.push_back(Piece { seq: self.end, chunk });
        self.end += len as u32;
    }

    /// Queues bytes of another owner.
    pub fn push_lent(&mut self, chunk: SendChunk) {
        let len = chunk.len() as u32;
        self.wmem += chunk.capacity();
        self.pieces.push_back(Piece { seq: self.end, chunk });
        self.end += len;
    }

    /// The data before `una` is acknowledged: its memory goes back, and that of lists that are empty now.
    pub fn ack_to(&mut self, net: &mut Net, una: Seq) {
        while let Some(front) = self.pieces.front()
            && (front.seq + front.chunk.len() as u32).le(una)
        {
            let Some(piece) = self.pieces.pop_front() else { break };
            self.wmem -= piece.chunk.capacity();
            net.pool.free_chunk(piece.chunk);
        }
        net.spare.pieces.take_back(&mut self.pieces);
        net.spare.rtx.take_back(&mut self.rtx);
    }

    /// Something is sent: it is the last that is under way.
    #[inline]
    pub fn push_back(&mut self, net: &mut Net, seg: TxSeg) {
        net.spare.rtx.lend(&mut self.rtx);
        self.rtx.push_back(seg);
        self.note_sent(&seg);
    }

    /// Forgets everything.
    pub fn clear(&mut self, net: &mut Net, end: Seq) {
        // A connection that ends comes here several times, mostly with nothing.
        if self.pieces.capacity() > 0 {
            self.pieces.drain(..).for_each(|piece| net.pool.free_chunk(piece.chunk));
            net.spare.pieces.take_back(&mut self.pieces);
        }
        if self.rtx.capacity() > 0 {
            self.rtx.clear();
            net.spare.rtx.take_back(&mut self.rtx);
            self.rtx = VecDeque::new();
        }
        self.hints = None;
        if let Some(rate) = &mut self.rate {
            rate.clear();
        }
        if let Some(zerocopy) = &mut self.zerocopy {
            zerocopy.gone = true;
        }
        self.wmem = 0;
        (self.end, self.tail) = (end, end);
        self.psh.start(end);
    }

    /// Memory of the queues themselves, in bytes.
    pub fn capacity_bytes(&self) -> usize {
        let zerocopy = self.zerocopy.as_ref().map_or(0, |zerocopy| zerocopy.capacity_bytes());
        self.pieces.capacity() * size_of::<Piece>()
            + self.rtx.capacity() * size_of::<TxSeg>()
            + self.hints.as_ref().map_or(0, |hints| hints.capacity_bytes())
            + self.psh.capacity_bytes()
            + zerocopy
    }

    /// Gives memory back that only a busy connection needs.
    pub fn shrink(&mut self) {
        self.psh.shrink();
        if let Some(zerocopy) = &mut self.zerocopy {
            zerocopy.shrink();
        }
        if self.rtx.is_empty() {
            self.hints = None;
        }
        if self.pieces.is_empty() && self.pieces.capacity() > 0 {
            self.pieces = VecDeque::new();
        }
        if self.rtx.is_empty() && self.rtx.capacity() > 0 {
            self.rtx = VecDeque::new();
            if let Some(rate) = &mut self.rate {
                rate.clear();
            }
        }
    }

    /// Puts the bytes from `seq` on into the packet, at most `len`; returns how many.
    pub fn load(&self, pkt: &mut Pkt, seq: Seq, len: usize) -> usize {
        let mut at = self.pieces.partition_point(|p| (p.seq + p.chunk.len() as u32).le(seq));
        let copy = len <= COPYBREAK;
        let (mut done, mut frags) = (0, 0);
        while done < len && (copy || frags < FRAGS_MAX) {
            let Some(piece) = self.pieces.get(at) else { break };
            let off = ((seq + done as u32) - piece.seq) as usize;
            let n = (len - done).min(piece.chunk.len().saturating_sub(off));
            if copy {
                pkt.put(n).copy_from_slice(&piece.chunk.bytes()[off..off + n]);
            } else if n > 0 {
                pkt.add_shared(&piece.chunk, off, n);
                frags += 1;
            }
            done += n;
            at += 1;
        }
        done
    }

    /// How many bytes from `seq` on one packet can carry, at most `len`: fragments are limited.
    pub fn loadable(&self, seq: Seq, len: usize) -> usize {
        if len <= COPYBREAK || self.pieces.len() <= FRAGS_MAX {
            return len;
        }
        let at = self.pieces.partition_point(|p| (p.seq + p.chunk.len() as u32).le(seq));
        match self.pieces.get(at + FRAGS_MAX) {
            Some(beyond) => len.min((beyond.seq - seq) as usize),
            None => len,
        }
    }

    /// The place in `rtx` of the segment that holds `seq`, or of the first behind it.
    pub fn rtx_at(&self, seq: Seq) -> usize {
        self.rtx.partition_point(|t| t.end().le(seq))
    }

    /// The oldest segment is acknowledged.
    #[inline]
    pub fn pop_front(&mut self) {
        self.rtx.pop_front();
        if let Some(rate) = &mut self.rate {
            rate.pop_front();
        }
    }

    /// Cuts the segment at place `i` after `segs` whole wire segments; false if it has no more than
    /// that. The counts of the connection do not change: the parts add up.
    pub fn split(&mut self, i: usize, segs: u32) -> bool {
        let Some(t) = self.rtx.get_mut(i) else { return false };
        let len = segs * t.mss as u32;
        if segs == 0 || segs >= t.segs as u32 || len >= t.len {
            return false;
        }
        let mut rest = *t;
        rest.seq = t.seq + len;
        rest.len = t.len - len;
        rest.segs = t.segs - segs as u16;
        t.segs = segs as u16;
        t.len = len;
        t.flags &= !(FIN | PSH);
        if let Some(rate) = &mut self.rate {
            rate.split(i, rest.segs);
        }
        self.rtx.insert(i + 1, rest);
        true
    }
}
