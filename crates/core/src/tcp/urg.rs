//! Urgent data: the sender marks a place in the stream, and tells of it before the data gets there. By BSD's
//! reading, which is Linux's, it is one byte, taken out of the stream unless the receiver wants it in line.
//!
//! before: [`super::input`], the application   after: [`super::output`], the application
//! Linux:  net/ipv4/tcp_input.c `tcp_urg`, `tcp_check_urg`; tcp.c `tcp_recv_urg`, `tcp_mark_urg`
//! RFCs:   9293 §3.8.5, 6093

use super::input::Segment;
use super::{State, Tcb};
use crate::pkt::Pkt;
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::error::TcpError;
use crate::sock::{Ready, SocketId};
use crate::wire::tcp::TcpHdr;

/// The urgent data of a connection, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Urg {
    /// What we send: behind the urgent byte, until that is acknowledged (`snd_up`).
    pub up: Option<Seq>,
    /// The mark that the peer has set, until what lies behind it is read.
    pub mark: Option<Mark>,
    /// The urgent byte stays in the stream (SO_OOBINLINE).
    pub inline: bool,
}

/// A place in the received stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The urgent byte (`urg_seq`).
    pub seq: Seq,
    /// What is known of it (`urg_data`).
    pub byte: Byte,
}

/// An urgent byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Byte {
    /// It was told of and has not come.
    NotYet,
    /// It is there.
    Valid(u8),
    /// The application has read it.
    Read,
}

impl Tcb {
    #[inline]
    fn urg(&self) -> Option<&Urg> {
        self.opts().map(|o| &o.urg)
    }
    /// Whether urgent data of ours is not acknowledged yet (`tcp_urg_mode`).
    #[inline]
    pub fn urg_mode(&self) -> bool {
        self.urg().is_some_and(|u| u.up.is_some())
    }
    /// What was queued last is urgent (`tcp_mark_urg`).
    pub(super) fn mark_urg(&mut self) {
        let end = self.sndq.end;
        self.opts_mut().urg.up = Some(end);
    }
    /// What is urgent may be acknowledged by now.
    pub(super) fn urg_acked(&mut self) {
        let una = self.snd_una;
        if let Some(o) = self.opts.as_deref_mut() {
            o.urg.up = o.urg.up.filter(|up| up.gt(una));
        }
    }
    /// The urgent pointer of a segment that begins at `seq`, if it has one.
    #[inline]
    pub(super) fn urgent_pointer(&self, seq: Seq) -> Option<u16> {
        self.pointer_to(seq, self.urg()?.up?)
    }
    fn pointer_to(&self, seq: Seq, up: Seq) -> Option<u16> {
        if !seq.lt(up) {
            return None;
        }
        // What lies further away than the field can say is told of only once it has been sent.
        let far = (seq + 0xffff).gt(self.snd_nxt);
        u16::try_from(up - seq).ok().or(far.then_some(0xffff))
    }
    /// Whether a probe tells of urgent data that the peer's window leaves no room for.
    pub(super) fn urgent_probe(&self) -> bool {
        let up = self.urg().and_then(|u| u.up);
        up.is_some_and(|up| up.gt(self.snd_una) && up - self.snd_una <= 0xffff)
    }

    #[inline]
    fn mark(&self) -> Option<Mark> {
        self.urg().and_then(|u| u.mark)
    }
    /// Whether the next byte to be read is the urgent one, which reading leaves out.
    fn at_hole(&self) -> bool {
        self.urg().is_some_and(|u| !u.inline && u.mark.is_some_and(|m| m.seq == self.copied_seq))
    }
    /// Of `n` bytes those before the mark: there each reading stops.
    #[inline]
    pub(super) fn before_mark(&self, n: usize) -> usize {
        match self.mark() {
            Some(mark) if mark.seq.gt(self.copied_seq) => {
                n.min((mark.seq - self.copied_seq) as usize)
            }
            _ => n,
        }
    }
    /// Bytes that the next reading can give.
    #[inline]
    pub(super) fn readable(&self) -> usize {
        let bytes = self.rcvq.bytes();
        if self.opts.is_none() {
            return bytes;
        }
        if self.at_hole() { bytes.saturating_sub(1) } else { self.before_mark(bytes) }
    }
    /// Bytes that have come and can be read, urgent or not, as readiness counts them.
    #[inline]
    pub(super) fn readable_target(&self, least: usize) -> usize {
        least + usize::from(self.at_hole())
    }
    /// The application reads: past the urgent byte, if it is next.
    pub(super) fn skip_urgent(&mut self, net: &mut Net) {
        if self.at_hole() && self.rcvq.bytes() > 0 {
            self.rcvq.consume(net, 1);
            self.copied_seq += 1;
            self.urg_read();
        }
    }
    /// The application has read: the mark may lie behind it.
    #[inline]
    pub(super) fn urg_read(&mut self) {
        let at = self.copied_seq;
        if let Some(o) = self.opts.as_deref_mut() {
            o.urg.mark = o.urg.mark.filter(|m| !at.gt(m.seq));
        }
    }
    /// Whether a segment is to be looked at for the urgent byte.
    #[inline]
    pub(super) fn waits_for_urgent(&self) -> bool {
        self.mark().is_some_and(|m| m.byte == Byte::NotYet)
    }
}

/// A segment of the peer's, its header off already: does it tell of urgent data, or bring it? (`tcp_urg`)
#[cold]
pub(super) fn tcp_urg(net: &mut Net, tp: &mut Tcb, seg: &Segment, pkt: &Pkt) {
    if seg.flags.urg()
        && let Ok(hdr) = TcpHdr::parse(pkt.from_transport())
    {
        tcp_check_urg(net, tp, seg, hdr.urg);
    }
    let Some(mark) = tp.mark().filter(|m| m.byte == Byte::NotYet) else { return };
    let mut byte = [0];
    let at = (mark.seq - seg.seq) as usize;
    if at < pkt.len() && pkt.copy_bits(at, &mut byte) == 1 {
        tp.opts_mut().urg.mark = Some(Mark { byte: Byte::Valid(byte[0]), ..mark });
        tp.raise(net, Ready::PRI);
    }
}

/// A new urgent pointer is noted unless it tells nothing new (`tcp_check_urg`).
fn tcp_check_urg(net: &mut Net, tp: &mut Tcb, seg: &Segment, pointer: u16) {
    let mut ptr = u32::from(pointer);
    if ptr > 0 && !net.knobs.tcp_stdurg {
        // As BSD has it, and nearly everybody: the pointer names the byte behind.
        ptr -= 1;
    }
    let at = seg.seq + ptr;
    let known = tp.mark().is_some_and(|m| !at.gt(m.seq));
    if tp.copied_seq.gt(at) || at.lt(tp.rcv_nxt) || known {
        return;
    }
    if tp.at_hole() && tp.copied_seq != tp.rcv_nxt {
        // The byte that was urgent before, and stands next to be read, must not turn up as data.
        tp.skip_urgent(net);
    }
    tp.opts_mut().urg.mark = Some(Mark { seq: at, byte: Byte::NotYet });
}

impl Shard {
    /// The urgent byte, if it has come; `Ok(None)` where the stream ends without. `peek`: it can be read
    /// again (MSG_OOB).
    ///
    /// # Errors
    /// `Invalid` (EINVAL) if there is none, if it was read, or is in line; `WouldBlock` if it has not come
    /// yet; `NotConnected`.
    pub fn tcp_recv_urgent(&mut self, id: SocketId, peek: bool) -> Result<Option<u8>, TcpError> {
        let tp = super::api::owned(&mut self.tcp.conns, id).ok_or(TcpError::NotConnected)?;
        let over = tp.state == State::Close || tp.fin_rcvd;
        let closed = tp.state == State::Close && !tp.fin_rcvd;
        let Some(o) = tp.opts.as_deref_mut().filter(|o| !o.urg.inline) else {
            return Err(TcpError::Invalid);
        };
        match &mut o.urg.mark {
            None | Some(Mark { byte: Byte::Read, .. }) => Err(TcpError::Invalid),
            Some(_) if closed => Err(TcpError::NotConnected),
            Some(mark) => match mark.byte {
                Byte::Valid(byte) => {
                    if !peek {
                        mark.byte = Byte::Read;
                    }
                    Ok(Some(byte))
                }
                _ if over => Ok(None),
                _ => Err(TcpError::WouldBlock),
            },
        }
    }
    /// Whether what is read next is, or follows, the urgent byte (SIOCATMARK).
    pub fn tcp_at_mark(&self, id: SocketId) -> bool {
        self.tcp_conn(id).is_some_and(|tp| tp.mark().is_some_and(|m| m.seq == tp.copied_seq))
    }
    /// Whether an urgent byte is there (EPOLLPRI).
    pub fn tcp_urgent(&self, id: SocketId) -> bool {
        let mark = self.tcp_conn(id).and_then(Tcb::mark);
        mark.is_some_and(|m| matches!(m.byte, Byte::Valid(_)))
    }
    /// Bytes until the mark, if one is set before what was received ends, else bytes received (SIOCINQ).
    pub fn tcp_siocinq(&self, id: SocketId) -> usize {
        let Some(tp) = self.tcp_conn(id) else { return 0 };
        let inline = tp.urg().is_some_and(|u| u.inline);
        match tp.mark() {
            Some(m) if !inline && m.seq.ge(tp.copied_seq) && m.seq.lt(tp.rcv_nxt) => {
                (m.seq - tp.copied_seq) as usize
            }
            _ => tp.rcvq.bytes(),
        }
    }
}
