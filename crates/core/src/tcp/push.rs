//! Where the peer is told that its application may read on (PSH): at the end of each write, unless more was
//! announced, and after half of the largest window.
//!
//! Linux keeps the mark with a packet of the send queue. A packet that is full keeps its mark; one that is not loses
//! it when the next write goes on in it. Whatever is cut off in front goes without, and what is added behind takes
//! the mark along to the new end. Here a mark is a sequence number, that of the packet's end.
//!
//! before: [`super::send`]   after: [`super::output`]
//! Linux:  net/ipv4/tcp.c `tcp_mark_push`, `forced_push`, `tcp_push`; net/ipv4/tcp_output.c `tcp_grow_skb`,
//!         `tso_fragment`
//! RFCs:   9293 §3.9.1.2

use std::collections::VecDeque;

use super::Tcb;
use crate::seq::Seq;
use crate::shard::Net;

/// The marks in the send queue.
#[derive(Default)]
pub(crate) struct Psh {
    /// The end of the queue when it was last marked (`pushed_seq`).
    pub seq: Seq,
    /// The last packet of the queue has a mark.
    tail: bool,
    /// The ends of others that have one, in order. At the most one for each packet that waits unsent.
    #[expect(
        clippy::box_collection,
        reason = "few connections have any: a word in each, not four"
    )]
    inner: Option<Box<VecDeque<Seq>>>,
}

/// What of a write a part is: both, if it is all of it.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub first: bool,
    pub last: bool,
}

impl Part {
    pub const ALL: Part = Part { first: true, last: true };
}

impl Psh {
    /// The queue begins at `seq`, without a mark.
    pub fn start(&mut self, seq: Seq) {
        *self = Psh { seq, ..Psh::default() };
    }
    fn mark(&mut self, at: Seq) {
        self.inner.get_or_insert_default().push_back(at);
    }
    /// Whether what goes up to `end`, of a queue up to `last`, takes a mark with it. What lies before `begin` was
    /// sent.
    #[inline]
    pub fn take(&mut self, begin: Seq, end: Seq, last: Seq) -> bool {
        let mut psh = end == last && self.tail;
        if let Some(inner) = &mut self.inner {
            while let Some(at) = inner.front().filter(|at| at.le(end)) {
                psh |= at.gt(begin);
                inner.pop_front();
            }
        }
        psh
    }
    /// Memory in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.capacity() * size_of::<Seq>())
    }
    /// Gives memory back.
    pub fn shrink(&mut self) {
        self.inner = self.inner.take().filter(|inner| !inner.is_empty());
    }
}

impl Tcb {
    /// What may wait without a mark: half of the largest window (`forced_push`).
    #[inline]
    fn forced_push(&self, end: Seq) -> bool {
        end.gt(self.sndq.psh.seq + (self.max_window >> 1))
    }
    /// `len` bytes of a write were queued behind the last packet, which had `tail` bytes and none if it took no more
    /// (`tcp_sendmsg_locked`, `tcp_push`). `short`: the write goes on, but there is no room.
    #[inline]
    pub(super) fn tcp_mark_push(
        &mut self,
        net: &Net,
        len: usize,
        tail: u32,
        part: Part,
        (more, short): (bool, bool),
    ) {
        let (end, unsent, len) = (self.sndq.end, self.notsent(), len as u32);
        if len > 0 {
            if unsent == len {
                self.sndq.psh.tail = false;
            }
            if unsent > len || len > u32::from(self.mss_cache) || !part.last || short {
                self.mark_inner(net, len, tail, part.first, !part.last || short);
            }
        }
        // Of nothing, or of what is sent already, nothing can be marked.
        let wrote = unsent > 0 && (len > 0 || !part.first);
        if wrote && (part.last || short) && (!more || short || self.forced_push(end)) {
            self.sndq.psh.tail = true;
            self.sndq.psh.seq = end;
        }
    }
    /// The same for packets before the last one. `open`: the write goes on behind the last one.
    fn mark_inner(&mut self, net: &Net, len: u32, tail: u32, first: bool, open: bool) {
        let (end, goal) = (self.sndq.end, self.size_goal(net));
        let begin = end - len;
        let joined = tail > 0 && tail < goal;
        let mut full = begin + if joined { goal - tail } else { goal };
        if !joined {
            if self.notsent() > len && std::mem::take(&mut self.sndq.psh.tail) {
                self.sndq.psh.mark(begin);
            }
        } else if first {
            self.sndq.psh.tail = false;
        } else if full.lt(end) && std::mem::take(&mut self.sndq.psh.tail) {
            self.sndq.psh.mark(full);
        }
        while full.lt(end) {
            if self.forced_push(full) {
                self.sndq.psh.seq = full;
                self.sndq.psh.mark(full);
            }
            full += goal;
        }
        if full == end && open && self.forced_push(end) {
            (self.sndq.psh.seq, self.sndq.psh.tail) = (end, true);
        }
    }
    /// What the next packet grows by takes the mark of what it was along, `size` bytes it has then (`tcp_grow_skb`).
    #[inline]
    pub(super) fn grow_psh(&mut self, size: u32) {
        let (next, last) = (self.snd_nxt, self.sndq.end);
        let psh = &mut self.sndq.psh;
        let Some(inner) = &mut psh.inner else { return };
        let (end, mut grown) = (next + size, false);
        while let Some(at) = inner.front().filter(|at| at.lt(end)) {
            grown |= at.gt(next);
            inner.pop_front();
        }
        if grown && end == last {
            psh.tail = true;
        } else if grown && inner.front() != Some(&end) {
            inner.push_front(end);
        }
    }
    /// The packet of which `len` bytes go as a probe has a mark, before and after the cut (`tcp_write_wakeup`).
    pub(super) fn mark_probe(&mut self, net: &Net, len: u32) {
        let (next, last, tail) = (self.snd_nxt, self.sndq.end, self.sndq.tail);
        let before = tail - next;
        let end = match self.sndq.psh.inner.as_ref().and_then(|inner| inner.front()) {
            Some(at) if at.gt(next) => *at,
            _ if before as i32 <= 0 => last,
            _ => next + ((before - 1) % self.size_goal(net) + 1),
        };
        if end.gt(self.sndq.psh.seq) {
            self.sndq.psh.seq = end;
        }
        if end == last {
            self.sndq.psh.tail = true;
        } else if (next + len).lt(end) {
            let inner = self.sndq.psh.inner.get_or_insert_default();
            if inner.front() != Some(&end) {
                inner.push_front(end);
            }
        }
    }
}
