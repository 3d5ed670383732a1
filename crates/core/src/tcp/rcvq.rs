//! The receiving side: data in order, data that came too early, the window, and who pays for it.
//!
//! before: [`super::input`]   after: the application
//! Linux:  net/ipv4/tcp_input.c `tcp_data_queue`, `tcp_data_queue_ofo`, `tcp_ofo_queue`, `tcp_try_rmem_schedule`
//! RFCs:   9293 §3.8.6, §3.10.7.4; 2018, 2883 (SACK and DSACK, sent)
//! drops:  TcpOldData, TcpOverWindow, TcpZeroWindow, TcpOfoMerge, TcpOfoDrop, TcpOfoPrune, TcpRcvQFull, SocketClosed
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
use crate::pkt::{HEADROOM, LARGE, Pkt, SMALL, Verdict};
use crate::seq::Seq;
use crate::shard::Net;
use crate::sock::Ready;
use crate::table::{Reason, Stage, count::id};
use crate::wire::SackBlocks;

/// A segment that came too early.
struct Ooo {
    seq: Seq,
    end: Seq,
    fin: bool,
    pkt: Pkt,
}

/// What was received and not read.
pub(crate) struct RcvQ {
    /// In order.
    segs: VecDeque<Pkt>,
    /// Bytes in `segs`.
    bytes: usize,
    /// Memory of both queues, true size (`sk_rmem_alloc`).
    rmem: usize,
    /// Out of order: sorted, disjoint.
    ooo: VecDeque<Ooo>,
    /// SACK blocks, the latest first.
    sacks: [(Seq, Seq); 4],
    num_sacks: u8,
    /// What came twice, to be told once (DSACK).
    dsack: Option<(Seq, Seq)>,
    /// Payload per true size of what arrives, in 1/256: how much window the buffer is worth.
    scaling_ratio: u8,
}

impl Default for RcvQ {
    fn default() -> RcvQ {
        RcvQ {
            segs: VecDeque::new(),
            bytes: 0,
            rmem: 0,
            ooo: VecDeque::new(),
            sacks: [(Seq(0), Seq(0)); 4],
            num_sacks: 0,
            dsack: None,
            scaling_ratio: 128,
        }
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
    if !tp.rcvq.ooo.is_empty() {
        tcp_ofo_queue(net, tp);
        // RFC 5681 §4.2: filling a gap is acknowledged at once.
        tp.ack_now = true;
    }
    if tp.rcvq.num_sacks > 0 {
        tp.sack_remove();
    }
    if tp.worth_reading() {
        tp.raise(net, Ready::IN);
    }
    verdict
}

/// Data that came too early is kept until the gap before it is filled (`tcp_data_queue_ofo`).
fn tcp_data_queue_ofo(net: &mut Net, tp: &mut Tcb, seg: &Segment, mut pkt: Pkt) -> Verdict {
    // RFC 5681 §4.2: told at once, one acknowledgement a segment.
    tp.enter_quickack();
    tp.ack_now = true;
    let (mut seq, mut end, mut fin) = (seg.seq, seg.end_seq, seg.flags.fin());
    tp.rcv_ooopack = tp.rcv_ooopack.wrapping_add(seg.segs as u32);
    if !tp.rmem_schedule(net, seq) {
        net.counts.flow(Stage::SockQueue).enter(1);
        net.kfree_skb_reason(Stage::SockQueue, pkt, Reason::TcpOfoDrop);
        return Verdict::Queued;
    }
    tcp_data_ecn_check(net, tp, pkt.tos);
    net.counts.inc(id::TcpExtTCPOFOQueue);
    let at = tp.rcvq.ooo.partition_point(|o| o.seq.le(seq));
    if let Some(before) = at.checked_sub(1).and_then(|i| tp.rcvq.ooo.get(i)) {
        let before_end = before.end;
        if end.le(before_end) {
            tp.dsack_set(net, seq, end);
            return Verdict::Drop(pkt, Reason::TcpOfoMerge);
        }
        if seq.lt(before_end) {
            tp.dsack_set(net, seq, before_end);
            pkt.advance((before_end - seq) as usize);
            seq = before_end;
        }
    }
    while let Some(next) = tp.rcvq.ooo.get(at) {
        let (next_seq, next_end) = (next.seq, next.end);
        if end.le(next_seq) {
            break;
        }
        if end.lt(next_end) {
            tp.dsack_set(net, next_seq, end);
            pkt.trim((next_seq - seq) as usize);
            (end, fin) = (next_seq, false);
            break;
        }
        tp.dsack_set(net, next_seq, next_end);
        if let Some(old) = tp.rcvq.ooo.remove(at) {
            tp.rcvq.rmem -= old.pkt.truesize();
            net.counts.inc(id::TcpExtTCPOFOMerge);
            merged(net, old.pkt);
        }
    }
    tp.sack_new(seq, end);
    net.counts.flow(Stage::SockQueue).enter(1);
    net.counts.flow(Stage::SockQueue).hold(1);
    // Small neighbours share a buffer.
    if let Some(before) = at.checked_sub(1).and_then(|i| tp.rcvq.ooo.get_mut(i))
        && before.end == seq
        && !before.fin
        && fits(&before.pkt, &pkt)
    {
        let appended = before.pkt.append(&mut pkt, &mut net.pool);
        debug_assert!(appended, "what fits the tail is copied there");
        (before.end, before.fin) = (end, fin);
        net.counts.inc(id::TcpExtTCPRcvCoalesce);
        merged(net, pkt);
    } else {
        tp.rcvq.rmem += pkt.truesize();
        tp.rcvq.ooo.insert(at, Ooo { seq, end, fin, pkt });
    }
    Verdict::Queued
}

fn length(run: &[Pkt]) -> usize {
    run.iter().map(|pkt| pkt.len()).sum()
}

/// Whether `pkt`'s payload can be copied behind that of `tail`.
fn fits(tail: &Pkt, pkt: &Pkt) -> bool {
    tail.nr_frags() == 0 && pkt.nr_frags() == 0 && pkt.head_len() <= tail.tailroom()
}

/// A held packet became part of another one, or was wholly contained in it.
fn merged(net: &mut Net, pkt: Pkt) {
    let flow = net.counts.flow(Stage::SockQueue);
    flow.release(1);
    flow.merge(1);
    net.pool.free(pkt);
}

/// Moves what now is in order to the queue of data in order (`tcp_ofo_queue`).
fn tcp_ofo_queue(net: &mut Net, tp: &mut Tcb) {
    while tp.rcvq.ooo.front().is_some_and(|o| o.seq.le(tp.rcv_nxt)) {
        let Some(mut o) = tp.rcvq.ooo.pop_front() else { break };
        tp.rcvq.rmem -= o.pkt.truesize();
        if o.end.le(tp.rcv_nxt) && !o.fin {
            tp.dsack_extend(net, o.seq, o.end);
            merged(net, o.pkt);
            continue;
        }
        if o.seq.lt(tp.rcv_nxt) {
            tp.dsack_extend(net, o.seq, tp.rcv_nxt);
            o.pkt.advance((tp.rcv_nxt - o.seq) as usize);
        }
        tp.bytes_received += o.pkt.len() as u64;
        tp.rcv_nxt = tp.rcv_nxt.max(o.end);
        tp.rcvq.append(net, o.pkt);
        if o.fin {
            tcp_fin(net, tp);
            break;
        }
    }
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
        self.ooo.len()
    }
    /// Where the last island ends.
    pub fn ooo_end(&self) -> Option<Seq> {
        self.ooo.back().map(|o| o.end)
    }

    /// Adds a held packet to the data in order, into the tail of the last one if it fits there.
    fn append(&mut self, net: &mut Net, mut pkt: Pkt) {
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
        n
    }

    /// Drops everything: nobody will read it.
    pub fn purge(&mut self, net: &mut Net) {
        let ooo = std::mem::take(&mut self.ooo);
        let all = std::mem::take(&mut self.segs).into_iter().chain(ooo.into_iter().map(|o| o.pkt));
        for pkt in all {
            net.counts.flow(Stage::SockQueue).release(1);
            net.kfree_skb_reason(Stage::SockQueue, pkt, Reason::SocketClosed);
        }
        (self.bytes, self.rmem, self.num_sacks) = (0, 0, 0);
    }

    /// The connection leaves for another shard, and what it has received goes with it.
    pub fn leave(&mut self, net: &mut Net) {
        for pkt in self.segs.iter().chain(self.ooo.iter().map(|o| &o.pkt)) {
            net.pool.give(pkt);
        }
        let flow = net.counts.flow(Stage::SockQueue);
        let n = (self.segs.len() + self.ooo.len()) as u64;
        flow.release(n);
        flow.pass(n);
    }

    /// The connection came from another shard, with what it had received there.
    pub fn arrive(&mut self, net: &mut Net) {
        for pkt in self.segs.iter().chain(self.ooo.iter().map(|o| &o.pkt)) {
            net.pool.adopt(pkt);
        }
        let flow = net.counts.flow(Stage::SockQueue);
        let n = (self.segs.len() + self.ooo.len()) as u64;
        flow.enter(n);
        flow.hold(n);
    }

    /// The peer has finished: what lies behind its FIN is nothing.
    pub fn purge_ooo(&mut self, net: &mut Net) {
        while let Some(o) = self.ooo.pop_front() {
            self.rmem -= o.pkt.truesize();
            net.counts.flow(Stage::SockQueue).release(1);
            net.kfree_skb_reason(Stage::SockQueue, o.pkt, Reason::TcpOfoPrune);
        }
        self.num_sacks = 0;
    }

    /// Memory of the queues themselves, in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.segs.capacity() * size_of::<Pkt>() + self.ooo.capacity() * size_of::<Ooo>()
    }

    /// Gives memory back that only a busy connection needs.
    pub fn shrink(&mut self) {
        if self.segs.is_empty() && self.segs.capacity() > 0 {
            self.segs = VecDeque::new();
        }
        if self.ooo.is_empty() && self.ooo.capacity() > 0 {
            self.ooo = VecDeque::new();
        }
    }

    /// Copies data that lies thinly in its memory together with its neighbours
    /// (`tcp_collapse`, `tcp_collapse_ofo_queue`).
    fn tcp_collapse_queues(&mut self, net: &mut Net) {
        let all = std::mem::take(&mut self.segs);
        let mut run = Vec::new();
        for pkt in all {
            if length(&run) + pkt.len() > LARGE {
                let dense = self.tcp_collapse_run(net, &mut run);
                self.segs.extend(dense);
            }
            run.push(pkt);
        }
        let dense = self.tcp_collapse_run(net, &mut run);
        self.segs.extend(dense);
        let mut island: Option<(Seq, Seq, bool)> = None;
        for o in std::mem::take(&mut self.ooo) {
            let joins = island.is_some_and(|(_, end, fin)| end == o.seq && !fin)
                && length(&run) + o.pkt.len() <= LARGE;
            if !joins {
                self.collapse_island(net, island.take(), &mut run);
            }
            let seq = island.map_or(o.seq, |(seq, ..)| seq);
            island = Some((seq, o.end, o.fin));
            run.push(o.pkt);
        }
        self.collapse_island(net, island, &mut run);
    }
    fn collapse_island(
        &mut self,
        net: &mut Net,
        island: Option<(Seq, Seq, bool)>,
        run: &mut Vec<Pkt>,
    ) {
        let Some((mut seq, end, fin)) = island else { return };
        let dense = self.tcp_collapse_run(net, run);
        let last = dense.len().saturating_sub(1);
        for (i, pkt) in dense.into_iter().enumerate() {
            let (begin, tail) = (seq, i == last);
            seq = if tail { end } else { begin + pkt.len() as u32 };
            self.ooo.push_back(Ooo { seq: begin, end: seq, fin: fin && tail, pkt });
        }
    }
    /// Packets whose data follows on each other: one, if that takes less memory.
    fn tcp_collapse_run(&mut self, net: &mut Net, run: &mut Vec<Pkt>) -> Vec<Pkt> {
        let run = std::mem::take(run);
        let (len, held): (_, usize) = (length(&run), run.iter().map(|p| p.truesize()).sum());
        let thin = self.win_from_space(held.min(u32::MAX as usize) as u32) as usize > len;
        if run.len() < 2 || !thin || held <= LARGE + SMALL || len > LARGE {
            return run;
        }
        let Some(mut one) = net.pool.alloc() else { return run };
        let Some(mut buf) = net.pool.alloc_large() else {
            net.pool.free(one);
            return run;
        };
        let mut at = 0;
        for slice in run.iter().flat_map(|pkt| pkt.slices()) {
            buf[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        assert_eq!(at, len, "packets have as many bytes as they say");
        one.add_buf(buf, 0, len);
        net.counts.inc_by(id::TcpExtTCPRcvCollapsed, run.len() as u64);
        self.rmem = self.rmem + one.truesize() - held;
        // One of them is this one from now on.
        let flow = net.counts.flow(Stage::SockQueue);
        flow.release(run.len() as u64 - 1);
        flow.merge(run.len() as u64 - 1);
        run.into_iter().for_each(|pkt| net.pool.free(pkt));
        vec![one]
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

/// A packet with little in large memory is copied into small memory (`tcp_collapse`).
fn tcp_collapse(net: &mut Net, pkt: Pkt) -> Pkt {
    let len = pkt.len();
    if len > SMALL - HEADROOM || pkt.nr_frags() == 0 {
        return pkt;
    }
    let Some(mut small) = net.pool.alloc() else { return pkt };
    let copied = pkt.copy_bits(0, small.put(len));
    debug_assert_eq!(copied, len, "a packet has as many bytes as it says");
    net.pool.free(pkt);
    small
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
        self.event_data_recv(net, &pkt, seg.segs);
        self.bytes_received += len as u64;
        net.counts.flow(Stage::SockQueue).enter(1);
        net.counts.flow(Stage::SockQueue).hold(1);
        self.rcvq.append(net, pkt);
        Verdict::Queued
    }

    /// Whether one more packet, which begins at `seq`, may be kept; room is made first
    /// (`tcp_try_rmem_schedule`). As in Linux the last packet may exceed the limit, and when all connections
    /// together have too much, each may still have its least (`tcp_rmem[0]`).
    fn rmem_schedule(&mut self, net: &mut Net, seq: Seq) -> bool {
        let least = net.knobs.tcp_rmem[0] as usize;
        let fits = |tp: &Tcb| {
            let rmem = tp.rcvq.rmem;
            rmem <= tp.rcvbuf as usize && (!tp.short || rmem < least)
        };
        if fits(self) {
            return true;
        }
        let room = self.tcp_prune_queue(net, seq);
        if room && !fits(self) {
            self.tcp_prune_ofo_queue(net, seq);
        }
        fits(self)
    }

    /// Makes room: first by shrinking what there is, then by throwing away what came too early. False if the
    /// buffer is too full all the same (`tcp_prune_queue`).
    fn tcp_prune_queue(&mut self, net: &mut Net, seq: Seq) -> bool {
        net.counts.inc(id::TcpExtPruneCalled);
        if self.rcvq.rmem > self.rcvbuf as usize {
            self.tcp_clamp_window(net);
        } else if self.pressure {
            self.rcv_ssthresh = self.rcv_ssthresh.min(4 * self.advmss as u32);
        }
        let fits = |tp: &Tcb| tp.rcvq.rmem <= tp.rcvbuf as usize;
        if fits(self) {
            return true;
        }
        self.rcvq.tcp_collapse_queues(net);
        if !fits(self) {
            self.tcp_prune_ofo_queue(net, seq);
        }
        if !fits(self) {
            net.counts.inc(id::TcpExtRcvPruned);
        }
        fits(self)
    }

    /// The buffer was too small for what came: it grows if it may, and the window grows no more
    /// (`tcp_clamp_window`).
    fn tcp_clamp_window(&mut self, net: &Net) {
        self.quick = 0;
        let most = net.knobs.tcp_rmem[2].min(1 << 30) as u32;
        let tuned = net.knobs.tcp_moderate_rcvbuf && !self.rcvbuf_locked && !self.pressure;
        if tuned && self.rcvbuf < most {
            self.rcvbuf = most.min(self.rcvq.rmem.min(1 << 30) as u32).max(self.rcvbuf);
        }
        if self.rcvq.rmem > self.rcvbuf as usize {
            self.rcv_ssthresh = self.window_clamp.min(2 * self.advmss as u32);
        }
    }

    /// Throws away what came too early, from the end, an eighth of the buffer at a time, but nothing that lies
    /// before what has come now (`tcp_prune_ofo_queue`).
    fn tcp_prune_ofo_queue(&mut self, net: &mut Net, seq: Seq) {
        let step = (self.rcvbuf as usize >> 3).max(1);
        let (mut freed, mut pruned) = (0, false);
        while self.rcvq.ooo.back().is_some_and(|o| o.seq.ge(seq)) {
            let Some(o) = self.rcvq.ooo.pop_back() else { break };
            pruned = true;
            freed += o.pkt.truesize();
            self.rcvq.rmem -= o.pkt.truesize();
            net.counts.flow(Stage::SockQueue).release(1);
            net.kfree_skb_reason(Stage::SockQueue, o.pkt, Reason::TcpOfoPrune);
            if freed >= step {
                if self.rcvq.rmem <= self.rcvbuf as usize && !self.short {
                    break;
                }
                freed = 0;
            }
        }
        if pruned {
            net.counts.inc(id::TcpExtOfoPruned);
            // The peer must not believe SACKs of what is gone.
            self.rcvq.num_sacks = 0;
        }
    }

    /// Notes what the arrival of data in order says about the peer (`tcp_event_data_recv`).
    fn event_data_recv(&mut self, net: &mut Net, pkt: &Pkt, segs: u16) {
        self.ack_scheduled = true;
        let now = net.now;
        let len = pkt.len() as u32;
        let one = pkt.gso.map_or(len, |g| (g.size as u32).min(len));
        if one >= self.rcv_mss as u32 {
            self.rcv_mss = one.min(self.advmss as u32) as u16;
            let ratio = ((len as u64) << 8) / (pkt.truesize() as u64).max(1);
            let old = self.rcvq.scaling_ratio as u64;
            self.rcvq.scaling_ratio = ((old * 7 + ratio) / 8).clamp(8, 255) as u8;
            self.window_clamp = self.clamped(self.rcvq.win_from_space(self.rcvbuf));
        } else if segs <= 1
            && self.rcv_mss > 536
            && len < 536
            && self.rcv_mss as u32 > self.advmss as u32
        {
            self.rcv_mss = self.advmss;
        }
        self.rcv_rtt_measure(now);
        if now.since(self.lrcvtime) > self.rto_us as u64 * 1000 {
            // After a long pause the peer may be in slow start again.
            self.incr_quickack();
        }
        self.lrcvtime = now;
        if len >= 128 {
            self.grow_window(len);
        }
    }

    /// What is said about data out of order in the next acknowledgement.
    pub fn sack_blocks(&self) -> SackBlocks {
        let mut blocks = SackBlocks::NONE;
        if !self.sack_ok {
            return blocks;
        }
        if let Some((l, r)) = self.rcvq.dsack {
            blocks.push(l.0, r.0);
        }
        for (l, r) in self.rcvq.sacks.iter().take(self.rcvq.num_sacks as usize) {
            blocks.push(l.0, r.0);
        }
        blocks
    }
    /// The duplicate was told.
    pub fn dsack_sent(&mut self) {
        self.rcvq.dsack = None;
    }

    /// A segment below the window repeats what was received (`tcp_send_dupack`).
    pub fn note_duplicate(&mut self, net: &Net, seg: &Segment) {
        if seg.len > 0 && seg.seq.lt(self.rcv_nxt) {
            net.counts.inc(id::TcpExtDelayedACKLost);
            self.enter_quickack();
            self.dsack_set(net, seg.seq, seg.end_seq.min(self.rcv_nxt));
        }
    }

    fn dsack_set(&mut self, net: &Net, seq: Seq, end: Seq) {
        if self.sack_ok && net.knobs.tcp_dsack && seq.lt(end) {
            net.counts.inc(if seq.lt(self.rcv_nxt) {
                id::TcpExtTCPDSACKOldSent
            } else {
                id::TcpExtTCPDSACKOfoSent
            });
            self.rcvq.dsack = Some((seq, end));
        }
    }
    fn dsack_extend(&mut self, net: &Net, seq: Seq, end: Seq) {
        match &mut self.rcvq.dsack {
            Some((l, r)) if seq.le(*r) && l.le(end) => {
                *l = l.min(seq);
                *r = r.max(end);
            }
            Some(_) => {}
            None => self.dsack_set(net, seq, end),
        }
    }

    /// A new island, or the growth of one: its block goes to the front (`tcp_sack_new_ofo_skb`).
    fn sack_new(&mut self, seq: Seq, end: Seq) {
        let q = &mut self.rcvq;
        let mut block = (seq, end);
        let mut kept = [(Seq(0), Seq(0)); 4];
        let mut n = 0;
        for &(l, r) in q.sacks.iter().take(q.num_sacks as usize) {
            if block.0.le(r) && l.le(block.1) {
                block = (block.0.min(l), block.1.max(r));
            } else if n < 3 {
                kept[n] = (l, r);
                n += 1;
            }
        }
        q.sacks[0] = block;
        q.sacks[1..].copy_from_slice(&kept[..3]);
        q.num_sacks = n as u8 + 1;
    }
    /// Forgets blocks that are acknowledged by now (`tcp_sack_remove`).
    fn sack_remove(&mut self) {
        let q = &mut self.rcvq;
        let mut n = 0;
        for i in 0..q.num_sacks as usize {
            if !q.ooo.is_empty() && q.sacks[i].0.gt(self.rcv_nxt) {
                q.sacks[n] = q.sacks[i];
                n += 1;
            }
        }
        q.num_sacks = n as u8;
    }
}
