//! Sending what somebody else owns without copying it, and telling when it is free again (MSG_ZEROCOPY).
//!
//! Bytes that an owner lends ([`Lent`]) lie in the send queue as they are, and packets share them as they share
//! chunks: sending again copies nothing either. The owner can not change them as long as they are lent, so what
//! arrives is what was handed over. Each send has a number, counted from 0 on its connection; it is complete when
//! the peer has acknowledged all of it and no packet with a part of it stands in a queue any more, or when the
//! connection is over. Completions are read from the socket's error queue.
//!
//! before: the application   after: [`super::sndq`], [`super::output`]
//! Linux:  net/core/skbuff.c `msg_zerocopy_realloc`, `__msg_zerocopy_callback`, `skb_zerocopy_notify_extend`;
//!         Documentation/networking/msg_zerocopy.rst

use std::collections::VecDeque;

use super::Tcb;
use super::api::owned;
use super::send::SendMsg;
use super::sndq::COPYBREAK;
use crate::pkt::{Lent, SendChunk, Watch};
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::error::TcpError;
use crate::sock::{Ready, SocketId};

/// What a notice is charged with: an empty packet of Linux (`SKB_TRUESIZE(0)`).
const NOTICE_BYTES: u64 = 576;
/// Sends that share one notice carry so much at the most.
const NOTICE_MOST: u32 = 1 << 19;

/// Sends whose bytes are free again (`struct sock_extended_err` of origin `SO_EE_ORIGIN_ZEROCOPY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZerocopyDone {
    /// Number of the first of these sends (`ee_info`).
    pub first: u32,
    /// Number of the last (`ee_data`).
    pub last: u32,
    /// The bytes were copied after all (`SO_EE_CODE_ZEROCOPY_COPIED`): the next time a plain send costs less.
    pub copied: bool,
}

/// A send that is not complete.
struct Pending {
    number: u32,
    begin: Seq,
    end: Seq,
    /// Whether somebody has its bytes; `None`: they were copied.
    watch: Option<Watch>,
    /// It is told of together with the one before.
    joined: bool,
}

/// What a connection knows of its sends without a copy.
#[derive(Default)]
pub(crate) struct Zerocopy {
    next: u32,
    pending: VecDeque<Pending>,
    /// The error queue.
    done: VecDeque<ZerocopyDone>,
    /// The send queue was thrown away.
    pub gone: bool,
    /// All of the first send is acknowledged, but a packet of it stands in a queue below.
    pub lingers: bool,
}

impl Zerocopy {
    fn notices(&self) -> u64 {
        (self.pending.iter().filter(|p| !p.joined).count() + self.done.len()) as u64
    }
    /// Memory of the queues themselves, in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.pending.capacity() * size_of::<Pending>()
            + self.done.capacity() * size_of::<ZerocopyDone>()
    }
    /// Gives memory back that nothing needs now.
    pub fn shrink(&mut self) {
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
        }
        if self.done.is_empty() {
            self.done = VecDeque::new();
        }
    }

    /// Whether a send of `begin..end` is told of together with the one before: nothing of that was sent yet.
    fn joins(&self, (begin, end): (Seq, Seq), snd_nxt: Seq) -> bool {
        let open = self.pending.iter().rev().find(|p| !p.joined);
        self.pending.back().is_some_and(|last| last.end == begin)
            && open.is_some_and(|p| p.begin.ge(snd_nxt) && end - p.begin <= NOTICE_MOST)
    }
    /// A send has queued `begin..end`.
    fn add(&mut self, (begin, end): (Seq, Seq), watch: Option<Watch>, snd_nxt: Seq) {
        let joined = self.joins((begin, end), snd_nxt);
        self.pending.push_back(Pending { number: self.next, begin, end, watch, joined });
        self.next = self.next.wrapping_add(1);
    }

    /// Moves what is complete to the error queue, in order, merged with the last one there if that comes right
    /// before it (`skb_zerocopy_notify_extend`). True if something was.
    fn complete(&mut self, una: Seq) -> bool {
        let mut any = false;
        self.lingers = false;
        loop {
            let more = self.pending.iter().skip(1).position(|p| !p.joined);
            let n = more.map_or(self.pending.len(), |at| at + 1);
            if n == 0 || !self.gone && self.pending.iter().take(n).any(|p| p.end.gt(una)) {
                return any;
            }
            let held = |p: &Pending| p.watch.as_ref().is_some_and(|watch| !watch.is_over());
            if self.pending.iter().take(n).any(held) {
                self.lingers = true;
                return any;
            }
            let mut notice: Option<ZerocopyDone> = None;
            for p in self.pending.drain(..n) {
                let first = notice.map_or(p.number, |notice| notice.first);
                let copied = p.watch.is_none() || notice.is_some_and(|notice| notice.copied);
                notice = Some(ZerocopyDone { first, last: p.number, copied });
            }
            any = true;
            match (self.done.back_mut(), notice) {
                (Some(before), Some(new)) if before.last.wrapping_add(1) == new.first => {
                    before.last = new.last;
                }
                (_, new) => self.done.extend(new),
            }
        }
    }
}

impl Tcb {
    /// Something was acknowledged, or is over: sends may be complete.
    #[inline]
    pub(super) fn zerocopy_check(&mut self, net: &mut Net) {
        if self.sndq.zerocopy.is_some() {
            self.zerocopy_complete(net);
        }
    }
    fn zerocopy_complete(&mut self, net: &mut Net) {
        let una = self.snd_una;
        if self.sndq.zerocopy.as_mut().is_some_and(|zerocopy| zerocopy.complete(una)) {
            self.raise(net, Ready::ERR);
        }
    }
    /// Whether a completion waits for a packet that stands in a queue below.
    #[inline]
    pub(super) fn zerocopy_lingers(&self) -> bool {
        self.sndq.zerocopy.as_ref().is_some_and(|zerocopy| zerocopy.lingers)
    }
    /// Whether a send of `len` bytes from `begin` on may ask for a completion.
    fn zerocopy_room(&self, net: &Net, begin: Seq, len: usize) -> bool {
        let mut notices = 1;
        if let Some(zerocopy) = &self.sndq.zerocopy {
            if zerocopy.joins((begin, begin + len as u32), self.snd_nxt) {
                return true;
            }
            notices += zerocopy.notices();
        }
        notices * NOTICE_BYTES <= net.knobs.optmem_max
    }
    fn zerocopy_add(&mut self, begin: Seq, watch: Option<Watch>) {
        let (range, snd_nxt) = ((begin, self.sndq.end), self.snd_nxt);
        self.sndq.zerocopy.get_or_insert_default().add(range, watch, snd_nxt);
    }
}

impl Shard {
    /// Queues `data`, or as much of it as there is room for, without copying it. Returns how much. The send has a
    /// number, the first one of a connection 0; when its bytes are free ERR is raised, and
    /// [`Shard::tcp_zerocopy_done`] says so. Less than 512 bytes are copied, which costs less.
    ///
    /// ```
    /// use linerate_core::pkt::Lent;
    /// use linerate_core::shard::Shard;
    /// use linerate_core::sock::SocketId;
    /// use linerate_core::tcp::{SendMsg, TcpError};
    ///
    /// /// Sends the rest of a page from memory that all connections share.
    /// fn serve(shard: &mut Shard, id: SocketId, page: &Lent, sent: &mut usize) -> Result<(), TcpError> {
    ///     while *sent < page.len() {
    ///         let rest = page.part(*sent..page.len());
    ///         *sent += shard.tcp_send_zerocopy(id, &rest, SendMsg::default())?;
    ///     }
    ///     while let Some(done) = shard.tcp_zerocopy_done(id) {
    ///         println!("sends {} to {} are with the peer", done.first, done.last);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Shard::tcp_send`], and `NoBuffers` where more completions are due or unread than
    /// `net.core.optmem_max` allows.
    pub fn tcp_send_zerocopy(
        &mut self,
        id: SocketId,
        data: &Lent,
        msg: SendMsg,
    ) -> Result<usize, TcpError> {
        self.tcp_queue(id, data.len(), msg, |net, tp, n| {
            let begin = tp.sndq.end;
            if !tp.zerocopy_room(net, begin, n) {
                return Err(TcpError::NoBuffers);
            }
            if n > COPYBREAK {
                let chunk = SendChunk::lent(data.part(0..n));
                let watch = chunk.watch();
                tp.sndq.push_lent(chunk);
                tp.zerocopy_add(begin, Some(watch));
            } else if n > 0 {
                tp.sndq.push_copy(net, &data.bytes()[..n]);
                tp.zerocopy_add(begin, None);
            }
            Ok(())
        })
    }

    /// The next completion of sends without a copy, from the socket's error queue (`recvmsg` with MSG_ERRQUEUE).
    /// After a reset there may be some, too; closing the socket forgets them.
    pub fn tcp_zerocopy_done(&mut self, id: SocketId) -> Option<ZerocopyDone> {
        let tp = owned(&mut self.tcp.conns, id)?;
        let una = tp.snd_una;
        let zerocopy = tp.sndq.zerocopy.as_mut()?;
        zerocopy.complete(una);
        zerocopy.done.pop_front()
    }
    /// Whether [`Shard::tcp_zerocopy_done`] has something, for who is asked what a socket is ready for.
    pub fn tcp_zerocopy_ready(&self, id: SocketId) -> bool {
        let zerocopy = self.tcp_conn(id).and_then(|tp| tp.sndq.zerocopy.as_ref());
        zerocopy.is_some_and(|zerocopy| !zerocopy.done.is_empty())
    }
    /// Whether one more completion may become due (`net.core.optmem_max`).
    pub fn tcp_zerocopy_room(&self, id: SocketId) -> bool {
        self.tcp_conn(id).is_some_and(|tp| tp.zerocopy_room(&self.net, tp.sndq.end, 1))
    }
    /// What was queued by copying, the last `len` bytes of it, counts as one send that asked for a completion: for
    /// interfaces whose callers lend memory that cannot be kept (a C library's). Told of as copied.
    ///
    /// # Errors
    /// `NotConnected`, or `NoBuffers` as [`Shard::tcp_send_zerocopy`].
    pub fn tcp_zerocopy_copied(&mut self, id: SocketId, len: usize) -> Result<(), TcpError> {
        let Shard { net, tcp, .. } = self;
        let tp = owned(&mut tcp.conns, id).ok_or(TcpError::NotConnected)?;
        let begin = Seq(tp.sndq.end.0.wrapping_sub(len.min(u32::MAX as usize) as u32));
        if !tp.zerocopy_room(net, begin, len) {
            return Err(TcpError::NoBuffers);
        }
        tp.zerocopy_add(begin, None);
        tp.zerocopy_check(net);
        Ok(())
    }
}
