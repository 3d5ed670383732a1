//! The receiving side: data in order, and who pays for it. What came too early: [`super::ofo`]; the
//! window: [`super::rcvwin`]; what happens when the buffer is full: [`super::prune`].
//!
//! before: [`super::input`]   after: the application
//! Linux:  net/ipv4/tcp_input.c `tcp_data_queue`, `tcp_event_data_recv`
//! RFCs:   9293 §3.8.6, §3.10.7.4
//! drops:  TcpOldData, TcpOverWindow, TcpZeroWindow, TcpOfoPrune, TcpRcvQFull, SocketClosed
//!
//! ```text
//!   copied_seq        rcv_nxt                         rcv_wup + rcv_wnd
//!       |  segs (read by  |  ooo: islands, each        |
//!       |  the app)       |  trimmed to be disjoint    |
//! ```

use std::collections::VecDeque;
use std::io::IoSlice;

use super::Tcb;
use super::ecn::{tcp_data_ecn_check, tcp_ecn_accept_cwr};
use super::input::{Segment, tcp_fin};
use super::ofo::{Ofo, Ooo, tcp_data_queue_ofo, tcp_ofo_queue};
use super::prune::tcp_collapse;
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::Net;
use crate::sock::Ready;
use crate::table::{Reason, Stage, count::id};
use crate::wire::tcp::TCP_HLEN;
use crate::wire::tcp_options::TCPOLEN_TSTAMP_ALIGNED;

/// A segment that is as long as this, with its header, may be a full one even if it is pushed.
const TCP_MSS_DEFAULT_HLEN: u32 = super::TCP_MSS_DEFAULT as u32 + TCP_HLEN as u32;
/// One that is shorter is not, even if it is not pushed (`TCP_MIN_MSS`).
const TCP_MIN_MSS_HLEN: u32 = 88 + TCP_HLEN as u32;

/// What was received and not read.
pub(crate) struct RcvQ {
    /// In order.
    pub(super) segs: VecDeque<Pkt>,
    /// Bytes in `segs`.
    bytes: usize,
    /// Memory of both queues, true size (`sk_rmem_alloc`).
    pub(super) rmem: usize,
    /// What came too early or twice, and what is said of it.
    pub(super) ofo: Option<Box<Ofo>>,
    /// Payload per true size of what arrives, in 1/256: how much window the buffer is worth.
    scaling_ratio: u8,
}

impl Default for RcvQ {
    fn default() -> RcvQ {
        RcvQ { segs: VecDeque::new(), bytes: 0, rmem: 0, ofo: None, scaling_ratio: 128 }
    }
}

/// Queues the data of an acceptable segment; its header is off already (`tcp_data_queue`).
pub(crate) fn tcp_data_queue(net: &mut Net, tp: &mut Tcb, seg: &Segment, mut pkt: Pkt) -> Verdict {
    let (seq, end) = (seg.seq, seg.end_seq);
    if seq == end {
        net.pool.free(pkt);
        return Verdict::Taken;
    }
    tcp_ecn_accept_cwr(tp, seg);
    if end.le(tp.rcv_nxt) {
        // All of it is old: our acknowledgement was lost, or the peer probes.
        net.counts.inc(id::TcpExtDelayedACKLost);
        tp.dsack_set(net, seq, end);
        tp.enter_quickack();
        tp.ack_now = true;
        return Verdict::Drop(pkt, Reason::TcpOldData);
    }
    if seq.ge(tp.rcv_nxt + tp.receive_window()) && !(seq == tp.rcv_nxt && seg.len == 0) {
        tp.enter_quickack();
        tp.ack_now = true;
        let zero = tp.receive_window() == 0;
        return Verdict::Drop(
            pkt,
            if zero { Reason::TcpZeroWindow } else { Reason::TcpOverWindow },
        );
    }
    if seq.gt(tp.rcv_nxt) {
        return tcp_data_queue_ofo(net, tp, seg, pkt);
    }
    if seq.lt(tp.rcv_nxt) {
        // The first part came before.
        tp.dsack_set(net, seq, tp.rcv_nxt);
        pkt.advance((tp.rcv_nxt - seq) as usize);
        tp.ack_now = true;
    }
    // Where nothing waits, one packet is always taken: the connection must be able to move.
    if pkt.len() > 0 && !tp.rmem_schedule(net, seq) && !tp.rcvq.segs.is_empty() {
        tp.enter_quickack();
        tp.ack_now = true;
        net.counts.flow(Stage::SockQueue).enter(1);
        net.kfree_skb_reason(Stage::SockQueue, pkt, Reason::TcpRcvQFull);
        return Verdict::Queued;
    }
    let verdict = tp.queue_in_order(net, seg, pkt);
    if seg.flags.fin() {
        tcp_fin(net, tp);
    }
    if tp.rcvq.ofo.is_some() {
        tcp_ofo_queue(net, tp);
    }
    if tp.worth_reading() {
        tp.raise(net, Ready::IN);
    }
    verdict
}

/// Whether `pkt`'s payload can be copied behind that of `tail`.
pub(super) fn fits(tail: &Pkt, pkt: &Pkt) -> bool {
    tail.nr_frags() == 0 && pkt.nr_frags() == 0 && pkt.head_len() <= tail.tailroom()
}

/// A held packet became part of another one, or was wholly contained in it.
pub(super) fn merged(net: &mut Net, pkt: Pkt) {
    let flow = net.counts.flow(Stage::SockQueue);
    flow.release(1);
    flow.merge(1);
    net.pool.free(pkt);
}

impl RcvQ {
    /// Memory of both queues, in bytes of true size.
    pub fn rmem(&self) -> usize {
        self.rmem
    }
    /// Bytes that can be read.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// Segments that came too early.
    pub fn ooo_len(&self) -> usize {
        self.ofo.as_ref().map_or(0, |o| o.queue.len())
    }
    /// What came too early, sorted.
    pub(super) fn ooo(&self) -> impl DoubleEndedIterator<Item = &Ooo> {
        self.ofo.iter().flat_map(|o| &o.queue)
    }
    /// Whether nothing but one segment came, behind a hole, and it ends the stream.
    pub(super) fn fin_alone(&self) -> bool {
        self.ooo_len() == 1 && self.ooo().all(|o| o.fin)
    }
    /// Where the last island ends.
    pub fn ooo_end(&self) -> Option<Seq> {
        self.ooo().next_back().map(|o| o.end)
    }

    /// Adds a held packet to the data in order, into the tail of the last one if it fits there.
    pub(super) fn append(&mut self, net: &mut Net, mut pkt: Pkt) {
        if pkt.len() == 0 {
            merged(net, pkt);
            return;
        }
        self.bytes += pkt.len();
        if let Some(tail) = self.segs.back_mut()
            && fits(tail, &pkt)
            && tail.append(&mut pkt, &mut net.pool)
        {
            net.counts.inc(id::TcpExtTCPRcvCoalesce);
            merged(net, pkt);
            return;
        }
        if net.pool.low() {
            pkt = tcp_collapse(net, pkt);
        }
        self.rmem += pkt.truesize();
        net.spare.segs.lend(&mut self.segs);
        self.segs.push_back(pkt);
    }

    /// The bytes in order, without copying, at most `max_bytes`.
    pub fn slices<'a>(&'a self, max_bytes: usize, out: &mut Vec<IoSlice<'a>>) -> usize {
        let mut left = max_bytes;
        for slice in self.segs.iter().flat_map(|p| p.slices()) {
            if left == 0 {
                break;
            }
            let n = slice.len().min(left);
            out.push(IoSlice::new(&slice[..n]));
            left -= n;
        }
        max_bytes - left
    }

    /// Copies the first bytes out; returns how many.
    pub fn copy(&self, buf: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.segs.iter().flat_map(|p| p.slices()) {
            let n = slice.len().min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&slice[..n]);
            done += n;
            if done == buf.len() {
                break;
            }
        }
        done
    }

    /// Frees the first `n` bytes; returns how many there were.
    pub fn consume(&mut self, net: &mut Net, n: usize) -> usize {
        let n = n.min(self.bytes);
        let mut left = n;
        self.bytes -= n;
        while left > 0 {
            let Some(front) = self.segs.front_mut() else { break };
            if front.len() > left {
                front.advance(left);
                break;
            }
            left -= front.len();
            self.rmem -= front.truesize();
            if let Some(pkt) = self.segs.pop_front() {
                let flow = net.counts.flow(Stage::SockQueue);
                flow.release(1);
                flow.pass(1);
                net.pool.free(pkt);
            }
        }
        net.spare.segs.take_back(&mut self.segs);
        n
    }

    /// Drops everything: nobody will read it.
    pub fn purge(&mut self, net: &mut Net) {
        // Nearly always all of it was read.
        if !self.segs.is_empty() || self.ofo.is_some() {
            let ooo = self.ofo.take().into_iter().flat_map(|o| o.queue).map(|o| o.pkt);
            for pkt in self.segs.drain(..).chain(ooo) {
                net.counts.flow(Stage::SockQueue).release(1);
                net.kfree_skb_reason(Stage::SockQueue, pkt, Reason::SocketClosed);
            }
        }
        if self.segs.capacity() > 0 {
            net.spare.segs.take_back(&mut self.segs);
            self.segs = VecDeque::new();
        }
        (self.bytes, self.rmem) = (0, 0);
    }

    /// The connection leaves for another shard, and what it has received goes with it.
    pub fn leave(&mut self, net: &mut Net) {
        for pkt in self.segs.iter().chain(self.ooo().map(|o| &o.pkt)) {
            net.pool.give(pkt);
        }
        let flow = net.counts.flow(Stage::SockQueue);
        let n = (self.segs.len() + self.ooo_len()) as u64;
        flow.release(n);
        flow.pass(n);
    }

    /// The connection came from another shard, with what it had received there.
    pub fn arrive(&mut self, net: &mut Net) {
        for pkt in self.segs.iter().chain(self.ooo().map(|o| &o.pkt)) {
            net.pool.adopt(pkt);
        }
        let flow = net.counts.flow(Stage::SockQueue);
        let n = (self.segs.len() + self.ooo_len()) as u64;
        flow.enter(n);
        flow.hold(n);
    }

    /// The peer has finished: what lies behind its FIN is nothing.
    pub fn purge_ooo(&mut self, net: &mut Net) {
        let Some(ofo) = &mut self.ofo else { return };
        ofo.num_sacks = 0;
        while let Some(o) = ofo.queue.pop_front() {
            self.rmem -= o.pkt.truesize();
            net.counts.flow(Stage::SockQueue).release(1);
            net.kfree_skb_reason(Stage::SockQueue, o.pkt, Reason::TcpOfoPrune);
        }
    }

    /// Memory of the queues themselves, in bytes.
    pub fn capacity_bytes(&self) -> usize {
        let ofo = |o: &Ofo| size_of::<Ofo>() + o.queue.capacity() * size_of::<Ooo>();
        self.segs.capacity() * size_of::<Pkt>() + self.ofo.as_deref().map_or(0, ofo)
    }

    /// Gives memory back that only a busy connection needs.
    pub fn shrink(&mut self) {
        if self.segs.is_empty() && self.segs.capacity() > 0 {
            self.segs = VecDeque::new();
        }
        if self.ofo.as_ref().is_some_and(|o| o.idle()) {
            self.ofo = None;
        }
    }

    /// Bytes of window that `space` bytes of buffer are worth (`tcp_win_from_space`).
    #[inline]
    pub fn win_from_space(&self, space: u32) -> u32 {
        ((space as u64 * self.scaling_ratio as u64) >> 8) as u32
    }
    /// The reverse (`tcp_space_from_win`).
    pub fn space_from_win(&self, win: u64) -> u64 {
        (win << 8) / self.scaling_ratio.max(1) as u64
    }
}

impl Tcb {
    fn queue_in_order(&mut self, net: &mut Net, seg: &Segment, pkt: Pkt) -> Verdict {
        let len = pkt.len();
        if len > 0 {
            tcp_data_ecn_check(net, self, pkt.tos);
        }
        self.rcv_nxt = seg.end_seq;
        if len == 0 {
            // A FIN alone.
            net.pool.free(pkt);
            return Verdict::Taken;
        }
        self.event_data_recv(net, seg, &pkt);
        self.bytes_received += len as u64;
        net.counts.flow(Stage::SockQueue).enter(1);
        net.counts.flow(Stage::SockQueue).hold(1);
        self.rcvq.append(net, pkt);
        Verdict::Queued
    }

    /// Notes what the arrival of data in order says about the peer (`tcp_event_data_recv`).
    fn event_data_recv(&mut self, net: &mut Net, seg: &Segment, pkt: &Pkt) {
        self.ack_scheduled = true;
        let now = net.now;
        let len = pkt.len() as u32;
        self.measure_rcv_mss(seg, pkt);
        self.rcv_rtt_measure(now);
        self.note_gap(now);
        self.lrcvtime = now;
        if len >= 128 {
            self.grow_window(net, len, pkt.truesize().min(u32::MAX as usize) as u32);
        }
    }

    /// The peer's segments say how large its full ones are, and how thinly their data lies in our memory
    /// (`tcp_measure_rcv_mss`).
    fn measure_rcv_mss(&mut self, seg: &Segment, pkt: &Pkt) {
        let before = std::mem::take(&mut self.last_seg_size);
        let len = pkt.len() as u32;
        let one = pkt.gso.map_or(len, |g| u32::from(g.size).min(len));
        if one >= self.rcv_mss.into() {
            let new = one > self.rcv_mss.into();
            if new || one >= super::TCP_MSS_DEFAULT.into() {
                let ratio = (u64::from(len) << 8) / (pkt.truesize() as u64).max(1);
                // The first of a size says it, as on Linux; ours may lie in buffers of several sizes later on.
                let old = if new { ratio } else { self.rcvq.scaling_ratio.into() };
                self.rcvq.scaling_ratio = ((old * 7 + ratio) / 8).clamp(8, 255) as u8;
            }
            self.rcv_mss = one.min(self.advmss.into()) as u16;
            let clamp = self.clamped(self.rcvq.win_from_space(self.rcvbuf));
            if clamp != self.window_clamp {
                self.set_window_clamp(clamp);
            }
            self.rcvq_space = self.rcvq_space.min(self.window_clamp);
            // An end of what the peer wrote: it may wait for the acknowledgement.
            self.pushed = self.pushed.max(seg.flags.psh().into());
            return;
        }
        let stamps = if self.ts_ok { TCPOLEN_TSTAMP_ALIGNED } else { 0 };
        let whole = one + seg.hlen as u32;
        let ended = seg.flags.psh() || seg.flags.fin() || seg.flags.urg();
        if whole >= TCP_MSS_DEFAULT_HLEN || whole >= TCP_MIN_MSS_HLEN && !ended {
            // Two of the same size, and larger than what somebody writes, are full ones.
            let size = whole.saturating_sub((TCP_HLEN + stamps) as u32).min(u16::MAX.into());
            self.last_seg_size = size as u16;
            if self.last_seg_size == before {
                self.rcv_mss = before;
                return;
            }
        }
        self.pushed = (self.pushed + 1).min(2);
    }
}
