//! Stages `Ring` and `Poll`: packets come off the rings and the backlog, each in its turn.
//!
//! before: [`super::irq`]   after: [`linerate_core::path`]
//! Linux:  net/core/dev.c `net_rx_action`, `napi_poll`, `process_backlog`
//! drops:  RingFull, and what a device gives

use std::io;

use linerate_core::path;
use linerate_core::table::{Reason, Stage, count::id};
use linerate_core::tap;
use linerate_core::time::{Instant, MS, US};

use super::Drive;
use super::irq::Napi;
use crate::device::RxCx;

/// How often a device is asked what was lost before its ring: a system call, so not for each burst.
pub(super) const ASK_NS: u64 = 100 * MS;

/// Bytes of super-packets that a pass may take. They lie in memory until the application had its part
/// of the turn: those of a whole budget are many times what a core's own cache holds, and would be
/// fetched from beyond it when they are read. What stays in the ring is the next turn's.
const PASS_BYTES: usize = 512 << 10;
/// From this length on packets count as super-packets: what is shorter the budget bounds well enough.
const SUPER_BYTES: usize = 16 << 10;

/// What a pass may still take.
struct Pass {
    left: usize,
    bytes: usize,
    begun: u64,
    limit: u64,
}

impl Pass {
    /// How many super-packets of this length it may still take: one at least; any number of others (0).
    fn packets_of(&self, bytes: usize) -> usize {
        self.bytes.checked_div(bytes).map_or(usize::MAX, |n| n.max(1))
    }
}

impl Drive {
    /// One pass over all queues and the backlog, within the budget of packets and time
    /// (`net_rx_action`). A pass that ends with work left is a squeeze, counted by its cause; but not
    /// where it ends because it has taken [`PASS_BYTES`].
    ///
    /// The backlog is one more in the round, as in Linux. Where a pass was cut off the next goes on,
    /// within the turn of the same queue: however small the passes are, all have the same share.
    pub(super) fn net_rx_action(&mut self, now: Instant) -> io::Result<bool> {
        let knobs = &self.shard.net.knobs;
        let weight = knobs.dev_weight as usize;
        let budget = self.feedback.budget(knobs.netdev_budget as usize);
        let limit = knobs.netdev_budget_usecs * US;
        let mut pass = Pass { left: budget, bytes: PASS_BYTES, begun: self.clock.ns(), limit };
        let mut any = false;
        if self.polling {
            self.busy_schedule();
        }
        let n = self.slots.len() + 1;
        'pass: loop {
            let mut more = false;
            let first = self.first;
            for at in (0..n).map(|i| (first + i) % n) {
                let turn = weight.saturating_sub(std::mem::take(&mut self.spent)).max(1);
                let each = self.slots.get(at).map_or(0, |s| s.super_bytes);
                let quota = turn.min(pass.left).min(pass.packets_of(each));
                let got = if at == self.slots.len() {
                    self.poll_backlog(quota)
                } else if self.slots[at].napi == Napi::Scheduled {
                    self.napi_poll(at, quota, now)?
                } else {
                    continue;
                };
                any |= got > 0;
                pass.left -= got.min(pass.left);
                let bytes = self.slots.get(at).map_or(0, |s| s.super_bytes * got);
                pass.bytes = pass.bytes.saturating_sub(bytes);
                let unfinished = match self.slots.get(at) {
                    Some(slot) => slot.napi == Napi::Scheduled,
                    None => self.shard.has_backlog(),
                };
                more |= unfinished;
                let full = pass.left == 0 || pass.bytes == 0;
                if full || self.clock.ns().saturating_sub(pass.begun) >= pass.limit {
                    if unfinished && got < turn {
                        (self.first, self.spent) = (at, weight.saturating_sub(turn) + got);
                    } else {
                        self.first = (at + 1) % n;
                    }
                    break 'pass;
                }
            }
            if !more {
                self.first = (first + 1) % n;
                break;
            }
        }
        self.feedback.took(budget - pass.left);
        if any {
            self.count_pass(&pass);
        }
        Ok(any)
    }

    /// Busy polling looks at every queue, whether its interrupt came or not.
    fn busy_schedule(&mut self) {
        for slot in self.slots.iter_mut().filter(|s| s.napi != Napi::Scheduled) {
            slot.napi = Napi::Scheduled;
            slot.by_irq = false;
        }
    }

    /// The input queue of this shard: loopback, and what other shards sent.
    /// What other shards said costs time, too: it counts as if it were packets.
    fn poll_backlog(&mut self, quota: usize) -> usize {
        let mut got = 0;
        if self.shard.has_backlog() {
            got = path::process_backlog(&mut self.shard, &mut self.batch, quota);
            self.shard.net.counts.inc_by(id::SoftnetProcessed, got as u64);
        }
        got + self.shard.take_heard()
    }

    /// A pass that took its bytes was not cut short: all of it is worked on next, and then the rest.
    fn count_pass(&mut self, pass: &Pass) {
        let counts = &self.shard.net.counts;
        counts.inc(id::SoftirqNetRx);
        let scheduled = self.slots.iter().any(|s| s.napi == Napi::Scheduled);
        if (scheduled || self.shard.has_backlog()) && (pass.bytes > 0 || pass.left == 0) {
            counts.inc(id::SoftnetTimeSqueeze);
            let why =
                if pass.left == 0 { id::SoftnetSqueezeBudget } else { id::SoftnetSqueezeTime };
            counts.inc(why);
        }
    }

    /// Takes at most `weight` packets off one queue's ring and sends them up (`napi_poll`).
    fn napi_poll(&mut self, at: usize, weight: usize, now: Instant) -> io::Result<usize> {
        let slot = &mut self.slots[at];
        let shard = &mut self.shard;
        let mut cx =
            RxCx { pool: &mut shard.net.pool, now, dev: slot.number, dropped: &mut self.dropped };
        let starved = slot.dev.counts().rx_no_buffer;
        let got = slot.dev.rx_burst(&mut cx, &mut self.batch, weight)?;
        let after = slot.dev.counts();
        // A queue that could have more stays on the list; one without memory waits for the next
        // turn, in which readers may have given some back.
        if got < weight && after.rx_no_buffer == starved {
            slot.napi_complete_done(got, now, &shard.net.knobs, &shard.net.counts);
        }
        slot.unasked |= got > 0;
        let lost = after.overflow - slot.overflow_seen;
        slot.overflow_seen = after.overflow;
        let (number, queue) = (slot.number, slot.queue);
        if !slot.by_irq {
            shard.net.counts.inc_by(id::TcpExtBusyPollRxPackets, got as u64);
        }
        self.batch.now.iter_mut().for_each(|pkt| pkt.queue = queue);
        let bytes = self.count_ring(number, lost);
        let slot = &mut self.slots[at];
        slot.rx_moder.did(got as u64, bytes, now);
        if let Some(mean) = (bytes as usize).checked_div(got) {
            slot.super_bytes = if mean < SUPER_BYTES { 0 } else { mean };
        }
        if self.batch.is_empty() {
            return Ok(got);
        }
        tap::came(&mut self.shard.net, Stage::Ring, &self.batch.now);
        tap::came(&mut self.shard.net, Stage::Poll, &self.batch.now);
        if let Some(tap) = &mut self.tap {
            for pkt in &self.batch.now {
                tap.packet(number, pkt, false, now);
            }
        }
        let shard = &mut self.shard;
        if shard.net.ifaces[number as usize].netif_rx {
            path::receive_netif_rx(shard, &mut self.batch);
        } else {
            path::receive(shard, &mut self.batch);
        }
        self.slots[at].dev.rx_done();
        Ok(got)
    }

    /// Asks those devices for their losses from which packets came and that were not asked lately.
    pub(super) fn ask_devices(&mut self, now: Instant) {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.unasked && now.since(slot.asked) >= ASK_NS {
                slot.asked = now;
                self.ask_device(at);
            }
        }
    }

    pub(super) fn ask_device(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.unasked = false;
        slot.dev.count_overflow();
        let after = slot.dev.counts().overflow;
        let lost = after - slot.overflow_seen;
        slot.overflow_seen = after;
        self.shard.net.counts.flow(Stage::Ring).enter(lost);
        self.count_lost(lost);
    }

    /// Asks every device what was lost before its ring, so that a report made now leaves nothing
    /// out.
    pub fn count_losses(&mut self) {
        (0..self.slots.len()).for_each(|at| self.ask_device(at));
    }

    fn count_lost(&mut self, lost: u64) {
        for _ in 0..lost {
            self.shard.net.counts.dropped(Stage::Ring, Reason::RingFull);
        }
    }

    /// Counts what the ring gave and what it lost; returns the bytes that go on.
    fn count_ring(&mut self, dev: u8, lost: u64) -> u64 {
        self.count_lost(lost);
        let net = &mut self.shard.net;
        let good = self.batch.len() as u64;
        let bad = self.dropped.len() as u64;
        let bytes: u64 = self.batch.now.iter().map(|p| p.len() as u64).sum();
        let ring = net.counts.flow(Stage::Ring);
        ring.enter(bad + lost);
        for (pkt, why) in self.dropped.drain(..) {
            net.kfree_skb_reason(Stage::Ring, pkt, why);
        }
        if good == 0 {
            return 0;
        }
        net.counts.flow(Stage::Ring).batch(good, good, 0);
        net.counts.flow(Stage::Poll).batch(good, good, 0);
        net.counts.inc_by(id::SoftnetProcessed, good);
        net.counts.inc_by(id::DevRxPackets, good);
        net.counts.add_bytes(id::DevRxBytes, bytes);
        let iface = &mut net.ifaces[dev as usize];
        iface.rx_packets += good;
        iface.rx_bytes += bytes;
        bytes
    }
}
