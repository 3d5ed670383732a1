//! Room in a receive buffer that is full: data that lies thinly is copied together, the window stops
//! growing, and at last what came too early goes.
//!
//! before: [`super::rcvq`]   after: [`super::rcvq`]
//! Linux:  net/ipv4/tcp_input.c `tcp_try_rmem_schedule`, `tcp_prune_queue`, `tcp_collapse`, `tcp_clamp_window`
//! drops:  TcpOfoPrune

use super::Tcb;
use super::ofo::Ooo;
use super::rcvq::RcvQ;
use crate::pkt::{HEADROOM, LARGE, Pkt, SMALL};
use crate::seq::Seq;
use crate::shard::Net;
use crate::table::{Reason, Stage, count::id};

fn length(run: &[Pkt]) -> usize {
    run.iter().map(|pkt| pkt.len()).sum()
}

impl RcvQ {
    /// Copies data that lies thinly in its memory together with its neighbours
    /// (`tcp_collapse`, `tcp_collapse_ofo_queue`). `small`: also what lies well, but in many small buffers.
    fn tcp_collapse_queues(&mut self, net: &mut Net, small: bool) {
        let all = std::mem::take(&mut self.segs);
        let mut run = Vec::new();
        for pkt in all {
            if length(&run) + pkt.len() > LARGE {
                let dense = self.tcp_collapse_run(net, &mut run, small);
                self.segs.extend(dense);
            }
            run.push(pkt);
        }
        let dense = self.tcp_collapse_run(net, &mut run, small);
        self.segs.extend(dense);
        let mut island: Option<(Seq, Seq, bool)> = None;
        let Some(ofo) = &mut self.ofo else { return };
        for o in std::mem::take(&mut ofo.queue) {
            let joins = island.is_some_and(|(_, end, fin)| end == o.seq && !fin)
                && length(&run) + o.pkt.len() <= LARGE;
            if !joins {
                self.collapse_island(net, island.take(), &mut run, small);
            }
            let seq = island.map_or(o.seq, |(seq, ..)| seq);
            island = Some((seq, o.end, o.fin));
            run.push(o.pkt);
        }
        self.collapse_island(net, island, &mut run, small);
    }
    fn collapse_island(
        &mut self,
        net: &mut Net,
        island: Option<(Seq, Seq, bool)>,
        run: &mut Vec<Pkt>,
        small: bool,
    ) {
        let Some((mut seq, end, fin)) = island else { return };
        let dense = self.tcp_collapse_run(net, run, small);
        let last = dense.len().saturating_sub(1);
        for (i, pkt) in dense.into_iter().enumerate() {
            let (begin, tail) = (seq, i == last);
            seq = if tail { end } else { begin + pkt.len() as u32 };
            let o = Ooo { seq: begin, end: seq, fin: fin && tail, pkt };
            self.ofo.get_or_insert_default().queue.push_back(o);
        }
    }
    /// Packets whose data follows on each other: one, if that takes less memory.
    fn tcp_collapse_run(&mut self, net: &mut Net, run: &mut Vec<Pkt>, small: bool) -> Vec<Pkt> {
        let run = std::mem::take(run);
        let (len, held): (_, usize) = (length(&run), run.iter().map(|p| p.truesize()).sum());
        let thin = self.win_from_space(held.min(u32::MAX as usize) as u32) as usize > len;
        let worth = match small && net.pool.large_left() > net.pool.large_max / 4 {
            true => run.iter().map(|pkt| pkt.held().0).sum::<usize>() > 1,
            false => run.len() > 1 && thin,
        };
        if !worth || held <= LARGE + SMALL || len > LARGE {
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
}

/// A packet with little in large memory is copied into small memory (`tcp_collapse`).
pub(super) fn tcp_collapse(net: &mut Net, pkt: Pkt) -> Pkt {
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
    /// Whether one more packet, which begins at `seq`, may be kept; room is made first
    /// (`tcp_try_rmem_schedule`). As in Linux the last packet may exceed the limit, and when all connections
    /// together have too much, each may still have its least (`tcp_rmem[0]`).
    pub(super) fn rmem_schedule(&mut self, net: &mut Net, seq: Seq) -> bool {
        // What waits in small packets, behind a hole of a long path, must not be all of them.
        if net.pool.crowded(self.rcvq.rmem) {
            self.rcvq.tcp_collapse_queues(net, true);
        }
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
        self.rcvq.tcp_collapse_queues(net, false);
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
        let Some(ofo) = &mut self.rcvq.ofo else { return };
        while ofo.queue.back().is_some_and(|o| o.seq.ge(seq)) {
            let Some(o) = ofo.queue.pop_back() else { break };
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
            ofo.num_sacks = 0;
        }
    }
}
