//! Transmit: the device queues are emptied into the rings, the rings into the devices, and the
//! memory of what was sent is taken back.
//!
//! before: [`linerate_core::tx::xmit`]   after: the devices
//! Linux:  net/core/dev.c `net_tx_action`, net/sched/sch_generic.c `dev_watchdog`; the drivers'
//!         transmit completion

use std::collections::VecDeque;
use std::io;

use linerate_core::path;
use linerate_core::pkt::{Pkt, TAPPED_LOOP};
use linerate_core::shard::Net;
use linerate_core::table::count::id;
use linerate_core::time::{Instant, MS, US};
use linerate_core::tx::xmit::{WATCHDOG_TIMEO, tx_done_all};

use super::queues::Slot;
use super::{Drive, Tap};

/// How often a device is looked at that does not say when it has sent, or has room again.
const LOOK: u64 = MS;

impl Drive {
    /// Empties the devices' queues into their rings and the rings into the devices
    /// (`net_tx_action`).
    pub(super) fn net_tx_action(&mut self, now: Instant) -> io::Result<bool> {
        let mut any = false;
        let net = &mut self.shard.net;
        for slot in &mut self.slots {
            let force = slot.blocked;
            if slot.dev.tx_pending() > 0 && slot.tx_clean(net, now, force) && force {
                slot.blocked = false;
            }
            slot.dev_watchdog(net, now);
            if !slot.blocked {
                any |= slot.start_xmit(net, self.tap.as_deref_mut(), now)?;
            }
            slot.tx_clean(net, now, false);
        }
        Ok(any)
    }
}

impl Slot {
    /// Hands the device what it takes. Bounded: sixteen rings at the most. Returns whether it took
    /// anything.
    fn start_xmit(
        &mut self,
        net: &mut Net,
        mut tap: Option<&mut (dyn Tap + 'static)>,
        now: Instant,
    ) -> io::Result<bool> {
        let room = net.knobs.ring_tx as usize;
        let mut any = false;
        self.full = false;
        for _ in 0..16 {
            let Some(ring) = path::qdisc_run(net, self.number, self.txq, room) else { break };
            if ring.is_empty() {
                if !net.bql_stopped(self.number, self.txq) {
                    break;
                }
                // As many bytes as may be are on their way. What the device is through with makes room.
                if self.tx_clean(net, now, true) {
                    continue;
                }
                // It does not say when it is: it is looked at again.
                (self.full, self.blocked) = (true, false);
                return Ok(any);
            }
            if let Some(tap) = &mut tap {
                tap_ring(*tap, self.number, ring, now);
            }
            let taken = self.dev.tx_burst(ring, &mut self.done)?;
            any |= taken > 0;
            if !ring.is_empty() {
                net.counts.inc(id::QdiscRequeues);
                self.full = true;
                // Without a descriptor nobody says when there is room: it is tried again.
                self.blocked = self.dev.poll_fd().is_some();
                if taken > 0 || self.stuck.is_none() {
                    self.stuck = Some(now);
                }
                return Ok(any);
            }
        }
        self.stuck = None;
        Ok(any)
    }

    /// Takes back what was sent, when enough of it waits or it has waited long enough
    /// (`tx-frames`, `tx-usecs`), or by `force`. Returns whether anything came back.
    fn tx_clean(&mut self, net: &mut Net, now: Instant, force: bool) -> bool {
        let waiting = self.done.len() + self.dev.tx_pending();
        if waiting == 0 {
            self.unclean = None;
            return false;
        }
        let since = *self.unclean.get_or_insert(now);
        let (usecs, frames) = (self.tx_moder.usecs, self.tx_moder.frames);
        let enough = frames > 0 && waiting as u64 >= frames || waiting as u64 >= net.knobs.ring_tx;
        if !force && !enough && now.since(since) < usecs * US {
            return false;
        }
        self.dev.tx_complete(&mut self.done);
        // What the device still has is looked for anew.
        self.unclean = (self.dev.tx_pending() > 0).then_some(now);
        if self.done.is_empty() {
            return false;
        }
        net.counts.inc(id::IrqTx);
        self.tx_moder.event();
        let (mut pkts, mut bytes) = (0, 0);
        let each = |(pkt, _): &(Pkt, bool)| {
            pkts += 1;
            bytes += pkt.len() as u64;
        };
        tx_done_all(net, self.done.drain(..).inspect(each));
        self.tx_moder.did(pkts, bytes, now);
        true
    }

    /// Takes everything back, whatever waits: the queue goes.
    pub(super) fn tx_flush(&mut self, net: &mut Net) {
        self.dev.tx_complete(&mut self.done);
        tx_done_all(net, self.done.drain(..));
    }

    /// A device that took nothing for too long while packets waited is tried again, and it is counted.
    fn dev_watchdog(&mut self, net: &mut Net, now: Instant) {
        if let Some(since) = self.stuck
            && now.since(since) >= WATCHDOG_TIMEO
        {
            net.tx_timeout(self.number, self.txq);
            self.stuck = Some(now);
            self.blocked = false;
        }
    }

    /// When the loop has to look at the transmit side of this queue again.
    pub(super) fn next_clean(&self, now: Instant) -> Option<Instant> {
        let clean = self.unclean.map(|since| match self.tx_moder.usecs {
            // The device has packets, and does not tell when it has sent them.
            0 => now.plus(LOOK),
            usecs => since.plus(usecs * US),
        });
        let retry = (self.full && !self.blocked).then(|| now.plus(LOOK));
        let watchdog = self.stuck.map(|since| since.plus(WATCHDOG_TIMEO));
        [clean, retry, watchdog].into_iter().flatten().min()
    }
}

/// Shows the tap what stands in the ring and was not shown before.
fn tap_ring(tap: &mut dyn Tap, dev: u8, ring: &mut VecDeque<Pkt>, now: Instant) {
    for pkt in ring.iter_mut().filter(|p| p.tapped & TAPPED_LOOP == 0) {
        pkt.tapped |= TAPPED_LOOP;
        tap.packet(dev, pkt, true, now);
    }
}
