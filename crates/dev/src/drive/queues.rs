//! The queues of a loop: adding, removing, and what is set for each.
//!
//! Linux: net/core/dev.c `netif_napi_add`, `netif_set_real_num_queues`

use std::io;
use std::time::{Duration, Instant as Wall};

use linerate_core::link::{Features, Iface, L2};
use linerate_core::pkt::Pkt;
use linerate_core::table::Knobs;
use linerate_core::time::Instant;
use linerate_core::wire::Mac;

use super::dim::{self, Moder};
use super::irq::Napi;
use super::{DEVICE_TOKENS, Drive};
use crate::device::{Caps, Device, Layer};
use crate::poller::Interest;

/// How long a device whose queue goes may take to give back what was sent.
const GIVE_BACK: Duration = Duration::from_millis(100);

/// One queue of a device, and where it stands (Linux: `struct napi_struct`, `struct netdev_queue`).
pub(super) struct Slot {
    pub(super) dev: Box<dyn Device>,
    /// The interface.
    pub(super) number: u8,
    /// Which of the device's queues it is.
    pub(super) queue: u8,
    /// Which of the interface's transmit queues in this shard it empties.
    pub(super) txq: u8,
    pub(super) napi: Napi,
    /// The poll under way was started by an interrupt or a timer, not by busy polling.
    pub(super) by_irq: bool,
    /// Empty polls that are left until the interrupt goes on (`defer_hard_irqs_count`).
    pub(super) defer_left: u64,
    /// What the poller was last told to report.
    pub(super) interest: Interest,
    pub(super) rx_moder: Moder,
    pub(super) tx_moder: Moder,
    /// It could take no more: the poller watches for room.
    pub(super) blocked: bool,
    /// It left something in its ring the last time.
    pub(super) full: bool,
    /// Since when it has taken nothing of what waits.
    pub(super) stuck: Option<Instant>,
    /// Times that lasted too long.
    /// Packets that it sent, whose memory was not taken back yet.
    pub(super) done: Vec<(Pkt, bool)>,
    /// Since when there are such.
    pub(super) unclean: Option<Instant>,
    /// Bytes of a packet, in the mean of the last burst that brought any, if these were super-packets;
    /// else 0.
    pub(super) super_bytes: usize,
    /// Losses that were counted already.
    pub(super) overflow_seen: u64,
    /// Packets came since the device was asked for its losses, at `asked`.
    pub(super) unasked: bool,
    pub(super) asked: Instant,
    /// `ring.rx` and `ring.tx` as the device was last told them; at first the defaults, so that a
    /// device keeps the size that it was made with until somebody sets the knob.
    pub(super) rings: (u64, u64),
}

/// The moderation of a queue as it is now (`ethtool -c`): where it is adaptive, what the
/// controller decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalesce {
    /// `adaptive-rx`.
    pub adaptive_rx: bool,
    /// `adaptive-tx`.
    pub adaptive_tx: bool,
    /// Microseconds that a receive interrupt waits for more packets.
    pub rx_usecs: u64,
    /// Packets that end that wait; 0 = only the time does.
    pub rx_frames: u64,
    /// Microseconds that packets which were sent wait to be taken back.
    pub tx_usecs: u64,
    /// Packets that end that wait; 0 = only the time does.
    pub tx_frames: u64,
}

impl Drive {
    /// Adds a device, or the queue of one that this shard has none of yet. `setup` completes the
    /// [`Iface`] (addresses, `any_ip`) before the first packet. Returns the interface's number.
    ///
    /// # Errors
    /// `EPERM`, `EEXIST` from the poller.
    pub fn add_device(
        &mut self,
        dev: Box<dyn Device>,
        setup: impl FnOnce(&mut Iface),
    ) -> io::Result<u8> {
        let mut iface = iface_of(dev.name(), dev.caps());
        iface.glean = !dev.hears_neighbours();
        setup(&mut iface);
        let number = self.shard.add_iface(iface);
        self.push_slot(dev, number, 0)?;
        Ok(number)
    }

    /// Adds a further queue of interface `number`, with a transmit queue of its own.
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface; `EPERM`, `EEXIST` from the poller.
    pub fn add_queue(&mut self, number: u8, dev: Box<dyn Device>) -> io::Result<()> {
        let taken = self.slots.iter().any(|s| s.number == number);
        if self.shard.net.ifaces.len() <= number as usize {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        if taken {
            self.shard.add_txq(number);
        }
        let txq = self.shard.net.ifaces[number as usize].txqs.len() as u8 - 1;
        let added = self.push_slot(dev, number, txq);
        if added.is_err() && taken {
            self.shard.net.ifaces[number as usize].txqs.pop();
        }
        added
    }

    fn push_slot(&mut self, dev: Box<dyn Device>, number: u8, txq: u8) -> io::Result<()> {
        if let Some(fd) = dev.poll_fd() {
            self.poller.add(fd, DEVICE_TOKENS + self.slots.len() as u64, Interest::READ)?;
        }
        let defaults = Knobs::default();
        self.slots.push(Slot {
            number,
            queue: dev.queue(),
            txq,
            napi: Napi::Scheduled,
            by_irq: true,
            defer_left: 0,
            interest: Interest::READ,
            rx_moder: Moder::new(&dim::RX),
            tx_moder: Moder::new(&dim::TX),
            blocked: false,
            full: false,
            stuck: None,
            done: Vec::new(),
            unclean: None,
            super_bytes: 0,
            // What it lost elsewhere was counted there.
            overflow_seen: dev.counts().overflow,
            unasked: false,
            asked: Instant::ZERO,
            rings: (defaults.ring_rx, defaults.ring_tx),
            dev,
        });
        Ok(())
    }

    /// Takes queue `queue` of interface `number` out of the loop and gives its device back. What
    /// waited to be sent by it goes by another queue of the interface here; without one it stays,
    /// until a queue is added again. `None`: there is no such queue here.
    pub fn remove_queue(&mut self, number: u8, queue: u8) -> Option<Box<dyn Device>> {
        let at = self.slots.iter().position(|s| (s.number, s.queue) == (number, queue))?;
        self.ask_device(at);
        let mut slot = self.slots.remove(at);
        slot.tx_flush(&mut self.shard.net);
        // What the device still has is of this shard's memory and stands in its counts: it comes back
        // here, as long as the device is not stuck.
        let begun = Wall::now();
        while slot.dev.tx_pending() > 0 && begun.elapsed() < GIVE_BACK {
            std::thread::yield_now();
            slot.tx_flush(&mut self.shard.net);
        }
        if let Some(fd) = slot.dev.poll_fd() {
            // It is watched, and open: neither this nor what follows can fail.
            let _ = self.poller.delete(fd);
        }
        for (i, later) in self.slots.iter().enumerate().skip(at) {
            if let Some(fd) = later.dev.poll_fd() {
                let _ = self.poller.modify(fd, DEVICE_TOKENS + i as u64, later.interest);
            }
        }
        let txqs = &mut self.shard.net.ifaces[number as usize].txqs;
        if txqs.len() > 1 {
            let gone = txqs.remove(slot.txq as usize);
            self.shard.net.inherit_txq(number, gone);
            let above = |s: &&mut Slot| s.number == number && s.txq > slot.txq;
            self.slots.iter_mut().filter(above).for_each(|s| s.txq -= 1);
        }
        (self.first, self.spent) = (0, 0);
        Some(slot.dev)
    }

    /// The devices, one for each queue, in the order in which they were added.
    pub fn devices(&self) -> impl Iterator<Item = &dyn Device> {
        self.slots.iter().map(|s| &*s.dev)
    }

    /// The queues with the numbers of their interfaces, in the order in which they were added.
    pub fn queues(&mut self) -> impl Iterator<Item = (u8, &mut (dyn Device + 'static))> {
        self.slots.iter_mut().map(|s| (s.number, &mut *s.dev))
    }

    /// The moderation of queue `queue` of interface `number` as it is now.
    pub fn coalesce(&self, number: u8, queue: u8) -> Option<Coalesce> {
        let knobs = &self.shard.net.knobs;
        let slot = self.slots.iter().find(|s| (s.number, s.queue) == (number, queue))?;
        Some(Coalesce {
            adaptive_rx: knobs.adaptive_rx,
            adaptive_tx: knobs.adaptive_tx,
            rx_usecs: slot.rx_moder.usecs,
            rx_frames: slot.rx_moder.frames,
            tx_usecs: slot.tx_moder.usecs,
            tx_frames: slot.tx_moder.frames,
        })
    }

    /// Passes on what knobs say that belong to devices.
    pub(super) fn follow_knobs(&mut self, now: Instant) {
        let knobs = &self.shard.net.knobs;
        for slot in &mut self.slots {
            slot.rx_moder.follow(knobs.adaptive_rx, knobs.rx_usecs, knobs.rx_frames, now);
            slot.tx_moder.follow(knobs.adaptive_tx, knobs.tx_usecs, knobs.tx_frames, now);
            if slot.rings.0 != knobs.ring_rx {
                slot.rings.0 = knobs.ring_rx;
                slot.dev.set_rx_ring(knobs.ring_rx as usize);
            }
            if slot.rings.1 != knobs.ring_tx {
                slot.rings.1 = knobs.ring_tx;
                slot.dev.set_tx_ring(knobs.ring_tx as usize);
            }
        }
    }
}

/// What the stack needs to know of a device.
fn iface_of(name: &str, caps: Caps) -> Iface {
    let l2 = match caps.layer {
        Layer::Ethernet => L2::Ethernet,
        Layer::Ip => L2::Ip,
    };
    let mut iface = Iface::new(name, l2, Mac(caps.mac.unwrap_or_default()), caps.mtu);
    iface.features =
        Features { tx_csum: caps.tx_csum, tso4: caps.tso, tso6: caps.tso, uso: caps.uso };
    if caps.gso_bytes_max > 0 {
        iface.gso_max_size = caps.gso_bytes_max;
    }
    iface
}
