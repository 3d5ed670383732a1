//! What the application sends: copies, whole chunks, records. How much may be queued says [`super::wmem`].
//!
//! before: the application   after: [`super::sndq`], [`super::output`]
//! Linux:  net/ipv4/tcp.c `tcp_sendmsg_locked`; net/core/stream.c `sk_stream_write_space`

use super::api::owned;
use super::output::tcp_push;
use super::push::Part;
use super::{State, Tcb};
use crate::pkt::SendChunk;
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::SocketId;
use crate::sock::error::TcpError;

/// How data is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendMsg {
    /// More follows at once: what fills no segment waits for it, until the next acknowledgement or, if nothing is
    /// under way, for 200 ms, or for a retransmission timeout if that is longer (MSG_MORE).
    pub more: bool,
    /// A record ends here: no segment has what comes before and what comes after it (MSG_EOR).
    pub eor: bool,
    /// The last byte is urgent: the peer is told of it before it gets there (MSG_OOB).
    pub oob: bool,
}

impl Shard {
    /// Queues a copy of `data`, or as much of it as there is room for. Returns how much.
    ///
    /// # Errors
    /// `WouldBlock` without room, `Closed` after a shutdown, `NotConnected`, or the connection's own.
    pub fn tcp_send(&mut self, id: SocketId, data: &[u8]) -> Result<usize, TcpError> {
        self.tcp_sendmsg(id, data, SendMsg::default())
    }
    /// The same, with what `sendmsg` can say beside.
    ///
    /// # Errors
    /// As [`Shard::tcp_send`].
    pub fn tcp_sendmsg(
        &mut self,
        id: SocketId,
        data: &[u8],
        msg: SendMsg,
    ) -> Result<usize, TcpError> {
        let mut done = 0;
        loop {
            let rest = &data[done..];
            let first = self.tcp_conn(id).and_then(|tp| tp.first_room(&self.net, rest.len()));
            let part = Part { first: done == 0, last: first.is_none() };
            let (want, how) = match first {
                Some(room) => (room, SendMsg { more: true, ..SendMsg::default() }),
                None => (rest.len(), msg),
            };
            let queued = self.tcp_queue_part(id, want, how, part, |net, tp, n| {
                tp.sndq.push_copy(net, &rest[..n]);
                Ok(())
            });
            let n = match queued {
                Err(TcpError::WouldBlock) if done > 0 => 0,
                queued => queued?,
            };
            done += n;
            if part.last || n == 0 {
                return Ok(done);
            }
            self.tcp_push_one(id);
        }
    }
    /// A first packet that is full goes, as far as it may, before the next one begins.
    fn tcp_push_one(&mut self, id: SocketId) {
        let Shard { net, tcp, .. } = self;
        if let Some(tp) = owned(&mut tcp.conns, id) {
            tcp_push(net, tp);
        }
    }
    /// What all calls that send have in common: `queue` gets how many of `len` bytes there is room for, and
    /// queues them.
    pub(super) fn tcp_queue(
        &mut self,
        id: SocketId,
        len: usize,
        msg: SendMsg,
        queue: impl FnOnce(&mut Net, &mut Tcb, usize) -> Result<(), TcpError>,
    ) -> Result<usize, TcpError> {
        self.tcp_queue_part(id, len, msg, Part::ALL, queue)
    }
    fn tcp_queue_part(
        &mut self,
        id: SocketId,
        len: usize,
        msg: SendMsg,
        part: Part,
        queue: impl FnOnce(&mut Net, &mut Tcb, usize) -> Result<(), TcpError>,
    ) -> Result<usize, TcpError> {
        let Shard { net, tcp, .. } = self;
        let memory = tcp.memory(net);
        let tp = owned(&mut tcp.conns, id).ok_or(TcpError::NotConnected)?;
        tp.may_send()?;
        tp.note_memory(&memory, net);
        let (n, tail) = (tp.send_room(net, len), tp.tail_len());
        queue(net, tp, n)?;
        tp.skb_entail(net, n, tail);
        tp.tcp_mark_push(net, n, tail, part, (msg.more, n < len));
        tp.more = msg.more;
        if msg.eor && n == len && n > 0 {
            tp.end_record();
        }
        if msg.oob && n > 0 {
            tp.mark_urg();
        }
        tp.after_send(net, n < len);
        self.tcp_settle(id.index);
        if n == 0 && len > 0 { Err(TcpError::WouldBlock) } else { Ok(n) }
    }
    /// Bytes that may be queued now: the buffer bounds where packets of the send queue begin, so that the last one
    /// may exceed it (up to 64 KiB). When less than a third of the buffer was left, OUT is raised once a third is
    /// free again.
    pub fn tcp_send_space(&self, id: SocketId) -> usize {
        self.tcp_conn(id)
            .map_or(0, |tp| if tp.may_send().is_ok() { tp.send_space(&self.net) } else { 0 })
    }
    /// Whether a third of the buffer is free, and half of what may wait unsent: when OUT is told
    /// (`sk_stream_is_writeable`).
    pub fn tcp_writeable(&self, id: SocketId) -> bool {
        self.tcp_conn(id).is_some_and(|tp| tp.may_send().is_ok() && tp.writeable(&self.net))
    }
    /// Queues a whole chunk without copying; the queue may exceed its room by less than this chunk.
    ///
    /// # Errors
    /// As [`Shard::tcp_send`]; the chunk comes back.
    pub fn tcp_send_chunk(
        &mut self,
        id: SocketId,
        chunk: SendChunk,
    ) -> Result<(), (SendChunk, TcpError)> {
        let Shard { net, tcp, .. } = self;
        let Some(tp) = owned(&mut tcp.conns, id) else {
            return Err((chunk, TcpError::NotConnected));
        };
        if let Err(err) = tp.may_send() {
            return Err((chunk, err));
        }
        if tp.send_space(net) == 0 {
            tp.nospace = true;
            return Err((chunk, TcpError::WouldBlock));
        }
        let (len, tail) = (chunk.len(), tp.tail_len());
        tp.sndq.push_chunk(net, chunk);
        tp.skb_entail(net, len, tail);
        tp.tcp_mark_push(net, len, tail, Part::ALL, (false, false));
        tp.more = false;
        tp.after_send(net, false);
        self.tcp_settle(id.index);
        Ok(())
    }
    /// An empty chunk to fill and send, with room for `len` bytes, or for 64 KiB if that is less.
    pub fn take_chunk(&mut self, len: usize) -> SendChunk {
        self.net.pool.alloc_chunk(len)
    }
    /// Gives a chunk back unsent.
    pub fn give_chunk(&mut self, chunk: SendChunk) {
        self.net.pool.free_chunk(chunk);
    }
    /// Bytes queued or sent that the peer has not acknowledged.
    pub fn tcp_queued(&self, id: SocketId) -> usize {
        self.tcp_conn(id).map_or(0, |tp| tp.queued() as usize)
    }
}

impl Tcb {
    /// Bytes queued and not acknowledged; neither SYN nor FIN is one of them.
    pub(crate) fn queued(&self) -> u32 {
        let queued = self.sndq.end - self.snd_una.max(self.iss + 1);
        if queued as i32 <= 0 || self.state == State::Close { 0 } else { queued }
    }
    /// A record ends with what is queued.
    pub(super) fn end_record(&mut self) {
        let (end, una) = (self.sndq.end, self.snd_una);
        let ends = &mut self.opts_mut().record_ends;
        while ends.front().is_some_and(|old| old.le(una)) {
            ends.pop_front();
        }
        ends.push_back(end);
    }
    /// Of what is not sent, what one segment may carry.
    #[inline]
    pub(super) fn record_left(&self, unsent: u32) -> u32 {
        let Some(o) = self.opts() else { return unsent };
        let next = o.record_ends.iter().find(|end| end.gt(self.snd_nxt));
        next.map_or(unsent, |end| unsent.min(*end - self.snd_nxt))
    }
    /// Whether a record ends there.
    #[inline]
    pub(super) fn ends_record(&self, at: Seq) -> bool {
        self.opts().is_some_and(|o| o.record_ends.contains(&at))
    }
    pub(super) fn may_send(&self) -> Result<(), TcpError> {
        if let Some(err) = self.err {
            return Err(err);
        }
        match self.state {
            _ if self.fin_queued => Err(TcpError::Closed),
            State::Close => Err(TcpError::Closed),
            _ => Ok(()),
        }
    }
    /// `short`: the application had more than there was room for.
    fn after_send(&mut self, net: &Net, short: bool) {
        self.nospace |= short || !self.writeable(net);
        let open = self.state.synchronized() || self.fastopen_child();
        self.push |= open && self.unsent();
    }
}
