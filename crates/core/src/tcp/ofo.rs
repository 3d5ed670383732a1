//! Data that came too early, what is said of it (SACK), and how seldom.
//!
//! before: [`super::rcvq`]   after: [`super::rcvq`], once the gap is filled
//! Linux:  net/ipv4/tcp_input.c `tcp_data_queue_ofo`, `tcp_ofo_queue`, `tcp_sack_new_ofo_skb`, `__tcp_ack_snd_check`;
//!         tcp_timer.c `tcp_compressed_ack_kick`
//! RFCs:   2018, 2883 (SACK and DSACK, sent); 5681 §4.2
//! drops:  TcpOfoMerge, TcpOfoDrop

use std::collections::VecDeque;

use super::ecn::tcp_data_ecn_check;
use super::input::{Segment, tcp_fin};
use super::output::tcp_send_ack;
use super::rcvq::{RcvQ, fits, merged};
use super::{Earlier, Tcb};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::Net;
use crate::table::{Reason, Stage, count::id};
use crate::time::Instant;
use crate::wire::SackBlocks;

/// A segment that came too early.
pub(super) struct Ooo {
    pub seq: Seq,
    pub end: Seq,
    pub fin: bool,
    pub pkt: Pkt,
}

/// What came too early or twice, and what is said of it. Most connections have none.
pub(crate) struct Ofo {
    /// Out of order: sorted, disjoint.
    pub(super) queue: VecDeque<Ooo>,
    /// SACK blocks, the latest first.
    sacks: [(Seq, Seq); 4],
    pub(super) num_sacks: u8,
    /// What came twice, to be told once (DSACK).
    dsack: Option<(Seq, Seq)>,
    /// Acknowledgements held back since the last one (`compressed_ack`).
    compressed: u8,
    /// Acknowledgements that went out while nothing arrived in order (`dup_ack_counter`).
    dup_acks: u8,
    /// RCV.NXT when they were counted (`compressed_ack_rcv_nxt`).
    dup_acks_of: Seq,
    /// When those that are held back are sent, as one (`compressed_ack_timer`).
    kick_at: Instant,
}

impl Default for Ofo {
    fn default() -> Ofo {
        Ofo {
            queue: VecDeque::new(),
            sacks: [(Seq(0), Seq(0)); 4],
            num_sacks: 0,
            dsack: None,
            compressed: 0,
            dup_acks: 0,
            dup_acks_of: Seq(0),
            kick_at: Instant::NEVER,
        }
    }
}

impl Ofo {
    /// Nothing waits, and nothing is to be said.
    pub(super) fn idle(&self) -> bool {
        self.queue.is_empty() && self.dsack.is_none()
    }
}

/// Duplicate acknowledgements that a peer needs at once: its fast retransmission may depend on them
/// (`TCP_FASTRETRANS_THRESH`).
const DUP_ACKS_AT_ONCE: u8 = 3;
/// With so many blocks in an acknowledgement the next one may push one out that was never told
/// (`TCP_SACK_BLOCKS_EXPECTED`).
const SACK_BLOCKS_EXPECTED: usize = 2;

/// Data that came too early is kept until the gap before it is filled (`tcp_data_queue_ofo`).
pub(super) fn tcp_data_queue_ofo(
    net: &mut Net,
    tp: &mut Tcb,
    seg: &Segment,
    mut pkt: Pkt,
) -> Verdict {
    let (mut seq, mut end, mut fin) = (seg.seq, seg.end_seq, seg.flags.fin());
    if !tp.rmem_schedule(net, seq) {
        net.counts.flow(Stage::SockQueue).enter(1);
        net.kfree_skb_reason(Stage::SockQueue, pkt, Reason::TcpOfoDrop);
        return Verdict::Queued;
    }
    // RFC 5681 §4.2: told at once, or soon, where many follow on each other.
    tp.ack_scheduled = true;
    tp.rcv_ooopack = tp.rcv_ooopack.wrapping_add(seg.segs as u32);
    tcp_data_ecn_check(net, tp, pkt.tos);
    net.counts.inc(id::TcpExtTCPOFOQueue);
    let at = tp.rcvq.queue().partition_point(|o| o.seq.le(seq));
    if let Some(before) = at.checked_sub(1).and_then(|i| tp.rcvq.queue().get(i)) {
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
    while let Some(next) = tp.rcvq.queue().get(at) {
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
        if let Some(old) = tp.rcvq.queue().remove(at) {
            tp.rcvq.rmem -= old.pkt.truesize();
            net.counts.inc(id::TcpExtTCPOFOMerge);
            merged(net, old.pkt);
        }
    }
    tcp_sack_new_ofo_skb(net, tp, seq, end);
    net.counts.flow(Stage::SockQueue).enter(1);
    net.counts.flow(Stage::SockQueue).hold(1);
    // Small neighbours share a buffer.
    if let Some(before) = at.checked_sub(1).and_then(|i| tp.rcvq.queue().get_mut(i))
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
        let held = pkt.truesize();
        tp.rcvq.rmem += held;
        tp.rcvq.queue().insert(at, Ooo { seq, end, fin, pkt });
        tp.grow_behind_hole(net, end - seq, held as u32);
    }
    Verdict::Queued
}

/// Moves what now is in order to the queue of data in order (`tcp_ofo_queue`).
pub(super) fn tcp_ofo_queue(net: &mut Net, tp: &mut Tcb) {
    if tp.rcvq.queue().is_empty() {
        return;
    }
    while tp.rcvq.queue().front().is_some_and(|o| o.seq.le(tp.rcv_nxt)) {
        let Some(mut o) = tp.rcvq.queue().pop_front() else { break };
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
    // RFC 5681 §4.2: that a gap is filled is told at once.
    tp.ack_now |= tp.rcvq.queue().is_empty();
    let rcv_nxt = tp.rcv_nxt;
    tp.rcvq.ofo.get_or_insert_default().sack_remove(rcv_nxt);
}

impl Tcb {
    /// What is said about data out of order in the next acknowledgement.
    #[inline]
    pub fn sack_blocks(&self) -> SackBlocks {
        match &self.rcvq.ofo {
            Some(ofo) if self.sack_ok => ofo.blocks(),
            _ => SackBlocks::NONE,
        }
    }

    /// An acknowledgement went out: what came twice was told, and what was held back need not go any more.
    pub(super) fn ofo_ack_sent(&mut self, net: &Net) {
        let Some(ofo) = &mut self.rcvq.ofo else { return };
        ofo.dsack = None;
        if ofo.compressed > 0 {
            net.counts.inc_by(id::TcpExtTCPAckCompressed, ofo.compressed.into());
            ofo.compressed = 0;
        }
    }

    /// A segment below the window repeats what was received (`tcp_send_dupack`).
    pub fn note_duplicate(&mut self, net: &Net, seg: &Segment) {
        if seg.end_seq != seg.seq && seg.seq.lt(self.rcv_nxt) {
            net.counts.inc(id::TcpExtDelayedACKLost);
            self.enter_quickack();
            self.dsack_set(net, seg.seq, seg.end_seq.min(self.rcv_nxt));
        }
    }

    pub(super) fn dsack_set(&mut self, net: &Net, seq: Seq, end: Seq) {
        if self.sack_ok && net.knobs.tcp_dsack && seq.lt(end) {
            net.counts.inc(if seq.lt(self.rcv_nxt) {
                id::TcpExtTCPDSACKOldSent
            } else {
                id::TcpExtTCPDSACKOfoSent
            });
            self.rcvq.ofo.get_or_insert_default().dsack = Some((seq, end));
        }
    }
    fn dsack_extend(&mut self, net: &Net, seq: Seq, end: Seq) {
        match self.rcvq.ofo.as_deref_mut().and_then(|ofo| ofo.dsack.as_mut()) {
            Some((l, r)) if seq.le(*r) && l.le(end) => {
                *l = l.min(seq);
                *r = r.max(end);
            }
            Some(_) => {}
            None => self.dsack_set(net, seq, end),
        }
    }

    /// Whether the acknowledgement of what came too early goes out at once (`__tcp_ack_snd_check`): the first
    /// ones do, then they are held back for a part of a round trip, at most so many (SACK compression).
    pub(super) fn ofo_snd_check(&mut self, net: &Net) -> bool {
        let Some(ofo) = &mut self.rcvq.ofo else { return true };
        if !self.sack_ok || u64::from(ofo.compressed) >= net.knobs.tcp_comp_sack_nr {
            return true;
        }
        if ofo.dup_acks_of != self.rcv_nxt {
            (ofo.dup_acks_of, ofo.dup_acks) = (self.rcv_nxt, 0);
        }
        if ofo.dup_acks < DUP_ACKS_AT_ONCE {
            ofo.dup_acks += 1;
            return true;
        }
        ofo.compressed = ofo.compressed.saturating_add(1);
        if ofo.compressed > 1 {
            return false;
        }
        let mut rtt_us8 = self.rcv_rtt_us8;
        if self.srtt_us8 > 0 {
            rtt_us8 = rtt_us8.min(self.srtt_us8);
        }
        let twentieth = u64::from(rtt_us8) * 1000 / (8 * 20);
        let delay = twentieth.min(net.knobs.tcp_comp_sack_delay_ns);
        // Within the slack the timers of several connections fire together.
        let slack = net.knobs.tcp_comp_sack_slack_ns.max(1);
        let at = net.now.plus(delay).ns().div_ceil(slack).saturating_mul(slack);
        ofo.kick_at = Instant::from_ns(at);
        self.delack_at = self.delack_at.min2(ofo.kick_at);
        false
    }
}

impl Ofo {
    fn blocks(&self) -> SackBlocks {
        let mut blocks = SackBlocks::NONE;
        if let Some((l, r)) = self.dsack {
            blocks.push(l.0, r.0);
        }
        for (l, r) in self.sacks.iter().take(self.num_sacks as usize) {
            blocks.push(l.0, r.0);
        }
        blocks
    }

    /// A new island, or the growth of one: its block goes to the front.
    fn sack_new(&mut self, seq: Seq, end: Seq) {
        let mut block = (seq, end);
        let mut kept = [(Seq(0), Seq(0)); 4];
        let mut n = 0;
        for &(l, r) in self.sacks.iter().take(self.num_sacks as usize) {
            if block.0.le(r) && l.le(block.1) {
                block = (block.0.min(l), block.1.max(r));
            } else if n < 3 {
                kept[n] = (l, r);
                n += 1;
            }
        }
        self.sacks[0] = block;
        self.sacks[1..].copy_from_slice(&kept[..3]);
        self.num_sacks = n as u8 + 1;
    }
    /// Forgets blocks that are acknowledged by now (`tcp_sack_remove`).
    fn sack_remove(&mut self, rcv_nxt: Seq) {
        let mut n = 0;
        for i in 0..self.num_sacks as usize {
            if !self.queue.is_empty() && self.sacks[i].0.gt(rcv_nxt) {
                self.sacks[n] = self.sacks[i];
                n += 1;
            }
        }
        self.num_sacks = n as u8;
    }

    /// Whether the block of this range stands among the first ones already.
    fn sack_expected(&self, seq: Seq, end: Seq) -> bool {
        let known = self.num_sacks as usize;
        let grows = |&(l, r): &(Seq, Seq)| seq.le(r) && l.le(end);
        let at = self.sacks.iter().take(known).position(grows).unwrap_or(known);
        at < SACK_BLOCKS_EXPECTED
    }

    /// The clock began at another time.
    pub(super) fn retime(&mut self, shift: i64) {
        self.kick_at = self.kick_at.shifted(shift);
    }
}

impl RcvQ {
    /// What came too early.
    fn queue(&mut self) -> &mut VecDeque<Ooo> {
        &mut self.ofo.get_or_insert_default().queue
    }
}

/// A new island, or the growth of one (`tcp_sack_new_ofo_skb`). Where many blocks are told, what was held back
/// goes before: else a block could be pushed out that was never told (`tcp_sack_compress_send_ack`).
fn tcp_sack_new_ofo_skb(net: &mut Net, tp: &mut Tcb, seq: Seq, end: Seq) {
    let ofo = tp.rcvq.ofo.get_or_insert_default();
    if ofo.compressed > 0 && !ofo.sack_expected(seq, end) {
        send_compressed(net, tp);
    }
    tp.rcvq.ofo.get_or_insert_default().sack_new(seq, end);
}

/// Acknowledgements that were held back go out as one: those that need not go any more are counted.
fn send_compressed(net: &mut Net, tp: &mut Tcb) {
    let Some(ofo) = &mut tp.rcvq.ofo else { return };
    let spared = std::mem::take(&mut ofo.compressed).saturating_sub(1);
    net.counts.inc_by(id::TcpExtTCPAckCompressed, spared.into());
    tcp_send_ack(net, tp);
}

/// The time for which acknowledgements were held back is over; false if it is not
/// (`tcp_compressed_ack_kick`).
pub(super) fn tcp_compressed_ack_kick(net: &mut Net, tp: &mut Tcb) -> bool {
    let due = |ofo: &Ofo| ofo.compressed > 0 && ofo.kick_at <= net.now;
    let due = tp.rcvq.ofo.as_deref().is_some_and(due);
    if due {
        send_compressed(net, tp);
    }
    due
}
