//! What spares recovery a walk over the whole record of what is under way for each acknowledgement: the order
//! in which things were sent, where what is to be sent again begins, and which blocks the last
//! acknowledgement named. All of it follows from the record, and can be forgotten at any time.
//!
//! before: [`super::sndq`]   after: [`super::rack`], [`super::recovery`], [`super::ack`]
//! Linux:  `tsorted_sent_queue`, `retransmit_skb_hint` and `recv_sack_cache` of `struct tcp_sock`

use std::collections::VecDeque;

use super::Tcb;
use super::sndq::{LOST, RETRANS, SACKED, SndQ, TxSeg};
use crate::seq::Seq;
use crate::time::Instant;

/// Blocks that fit into an acknowledgement.
const BLOCKS: usize = 4;

/// What was sent at once: what of it still has that time may be lost by it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    seq: Seq,
    end: Seq,
    at: Instant,
}

/// What is remembered of a connection that lost something, or sent out of order.
#[derive(Default)]
pub(crate) struct Hints {
    /// What may still arrive, by when it was sent last; entries of what did arrive, or was sent again, go when
    /// they are come across.
    tsorted: VecDeque<Sent>,
    /// Everything that is sent is put there.
    sorted: bool,
    /// No segment that begins before this is lost and not sent again; `None`: none is at all.
    retransmit: Option<Seq>,
    /// Blocks of the last acknowledgement that had some: what lies in them is marked.
    blocks: [Option<(Seq, Seq)>; BLOCKS],
    /// Segments of the record that were looked at.
    #[cfg(test)]
    pub looked: u64,
}

impl Hints {
    /// Blocks that need not be looked at again.
    pub fn blocks(&self) -> [Option<(Seq, Seq)>; BLOCKS] {
        self.blocks
    }
    /// These were marked last.
    pub fn set_blocks(&mut self, blocks: [Option<(Seq, Seq)>; BLOCKS]) {
        self.blocks = blocks;
    }
    /// The order of sending is made anew when somebody asks for it.
    pub fn forget_order(&mut self) {
        self.sorted = false;
        self.tsorted.clear();
    }
    /// Memory in bytes.
    pub fn capacity_bytes(&self) -> usize {
        size_of::<Hints>() + self.tsorted.capacity() * size_of::<Sent>()
    }
    #[inline]
    pub fn look(&mut self) {
        #[cfg(test)]
        {
            self.looked += 1;
        }
    }
}

/// The block among `blocks` that holds `seq`, if one does: where it ends.
pub(super) fn end_of_block(blocks: &[Option<(Seq, Seq)>; BLOCKS], seq: Seq) -> Option<Seq> {
    let of = |b: &&(Seq, Seq)| b.0.le(seq) && seq.lt(b.1);
    blocks.iter().flatten().find(of).map(|b| b.1)
}

impl SndQ {
    /// What is remembered; from now on something is.
    pub fn hints(&mut self) -> &mut Hints {
        self.hints.get_or_insert_default()
    }

    /// `seg` is sent, for the first time or again: it is the latest.
    #[inline]
    pub fn note_sent(&mut self, seg: &TxSeg) {
        if self.hints.is_some() {
            self.note_order(seg);
        }
    }

    fn note_order(&mut self, seg: &TxSeg) {
        let most = 2 * self.rtx.len() + 64;
        let Some(hints) = self.hints.as_deref_mut().filter(|h| h.sorted) else { return };
        if hints.tsorted.len() >= most {
            // Nobody asks: what is in order needs no list.
            hints.forget_order();
            return;
        }
        hints.tsorted.push_back(Sent { seq: seg.seq, end: seg.end(), at: seg.sent });
    }

    /// The segment that begins at `seq` is to be sent again; `first`: it is the only one.
    pub fn note_lost(&mut self, seq: Seq, first: bool) {
        let hints = self.hints();
        hints.retransmit = match hints.retransmit {
            Some(known) if !first => Some(known.min(seq)),
            _ => Some(seq),
        };
    }

    /// The first place in the record at which something may be to be sent again (`retransmit_skb_hint`).
    pub fn retransmit_at(&self) -> usize {
        match self.hints.as_deref().and_then(|h| h.retransmit) {
            Some(seq) => self.rtx_at(seq),
            None => self.rtx.len(),
        }
    }

    /// Before the place `i` there is nothing to be sent again.
    pub fn retransmitted_to(&mut self, i: usize) {
        let seq = self.rtx.get(i).map(|t| t.seq);
        if let Some(hints) = self.hints.as_deref_mut() {
            hints.retransmit = seq;
        }
    }

    /// Puts what may still arrive in the order in which it was sent, if it is not.
    fn sort(&mut self) {
        let hints = self.hints.get_or_insert_default();
        if hints.sorted {
            return;
        }
        hints.sorted = true;
        let open = self.rtx.iter().filter(|t| may_arrive(t));
        hints.tsorted.clear();
        hints.tsorted.extend(open.map(|t| Sent { seq: t.seq, end: t.end(), at: t.sent }));
        hints.tsorted.make_contiguous().sort_by_key(|s| s.at);
    }
}

/// Neither arrived, nor lost and not sent again.
fn may_arrive(t: &TxSeg) -> bool {
    !t.has(SACKED) && (!t.has(LOST) || t.has(RETRANS))
}

/// Asks `overdue` about each segment that may still arrive and was sent before the one that ends with `end` was
/// at `until`, in the order of sending; those for which it says so are given to `lost`. So a segment is looked at when it should have
/// arrived, and until it did or is lost, however much is under way.
pub(super) fn for_each_sent(
    tp: &mut Tcb,
    (until, end): (Instant, Seq),
    mut overdue: impl FnMut(&TxSeg) -> bool,
    mut lost: impl FnMut(&mut Tcb, usize),
) {
    tp.sndq.sort();
    let mut order = std::mem::take(&mut tp.sndq.hints().tsorted);
    let (mut at, mut kept, mut i) = (0, 0, 0);
    while let Some(&s) = order.get(at)
        && (s.at < until || s.at == until && s.seq.lt(end))
    {
        at += 1;
        let mut left: Option<Sent> = None;
        if tp.sndq.rtx.get(i).is_none_or(|t| t.seq != s.seq) {
            i = tp.sndq.rtx_at(s.seq);
        }
        while let Some(&t) = tp.sndq.rtx.get(i)
            && t.seq.lt(s.end)
        {
            tp.sndq.hints().look();
            if t.sent == s.at && may_arrive(&t) {
                if overdue(&t) {
                    lost(tp, i);
                } else {
                    left = Some(Sent { end: t.end(), ..left.unwrap_or(Sent { seq: t.seq, ..s }) });
                }
            }
            i += 1;
        }
        if let (Some(left), Some(place)) = (left, order.get_mut(kept)) {
            *place = left;
            kept += 1;
        }
    }
    order.drain(kept..at);
    tp.sndq.hints().tsorted = order;
}
