//! What every device is: a ring that packets come out of, a ring they go into, and what it can
//! take on itself.

use crate::vnet::VnetError;
use linerate_core::pkt::{Batch, Pkt, Pool};
use linerate_core::rx::steer::ntuple::Rule;
use linerate_core::rx::steer::rss::Rss;
use linerate_core::table::Reason;
use linerate_core::time::Instant;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

/// What a device's packets begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// The IP header.
    Ip,
}

/// What a device is and can do (`ethtool -k`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// What its packets begin with.
    pub layer: Layer,
    /// Largest IP packet on its wire, bytes.
    pub mtu: u32,
    /// Its Ethernet address; none on [`Layer::Ip`].
    pub mac: Option<[u8; 6]>,
    /// It may hand up packets with partial or verified checksums, and super-packets.
    pub rx_offload: bool,
    /// It completes partial checksums of what is sent (`tx-checksumming`).
    pub tx_csum: bool,
    /// It takes TCP super-packets over IPv4 and IPv6 (`tcp-segmentation-offload`).
    pub tso: bool,
    /// It takes UDP super-packets (`tx-udp-segmentation`).
    pub uso: bool,
    /// Largest super-packet, bytes of IP (`gso_max_size`); 0 if it takes none.
    pub gso_bytes_max: u32,
}

/// What a device needs of its surroundings to receive.
pub struct RxCx<'a> {
    /// Where the memory comes from.
    pub pool: &'a mut Pool,
    /// The time of this turn: each packet is stamped with it.
    pub now: Instant,
    /// The number the shard knows this device by: each packet carries it.
    pub dev: u8,
    /// Packets that were taken from the device and cannot go on, with the reason: the shard counts
    /// them and takes their memory back.
    pub dropped: &'a mut Vec<(Pkt, Reason)>,
}

/// Counts of a device's own that no drop reason covers or that detail one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Receptions put off because the pool had no memory; the packets wait in the device.
    pub rx_no_buffer: u64,
    /// Packets longer than the memory they were read into.
    pub rx_truncated: u64,
    /// Packets refused for their `virtio_net_hdr`, by [`VnetError::index`].
    pub rx_vnet: [u64; VnetError::ALL.len()],
    /// Times the device could take no more (`NETDEV_TX_BUSY`).
    pub tx_busy: u64,
    /// Packets the device would not take.
    pub tx_refused: u64,
    /// The errno of the last refusal; 0: none yet.
    pub tx_errno: i32,
    /// Packets that were for us and met a full ring: lost before they could be received. See
    /// [`Device::count_overflow`].
    pub overflow: u64,
}

/// How many packets the rings of a device hold, now and at the most (`ethtool -g`); 0 where the
/// device can not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// Receive ring.
    pub rx: u32,
    /// The largest receive ring.
    pub rx_max: u32,
    /// Transmit ring.
    pub tx: u32,
    /// The largest transmit ring.
    pub tx_max: u32,
}

/// A network device, or one queue of it, seen from the loop that drives it.
pub trait Device: Send {
    /// Its name: the kernel's where the kernel knows it.
    fn name(&self) -> &str;

    /// What it is and can do. Constant unless said otherwise.
    fn caps(&self) -> Caps;

    /// Takes at most `budget` packets from the device and adds them to `out`, without waiting.
    /// Returns how many; 0 means that nothing is there. Fewer than `budget` means that nothing
    /// more is there now, unless [`Counts::rx_no_buffer`] moved.
    ///
    /// # Errors
    /// The device is gone or down. A packet that is wrong is no error: it goes to
    /// [`RxCx::dropped`].
    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize>;

    /// What the last burst gave has been processed, or handed on to where it is processed in order.
    /// A device whose senders wait for that learns it here; a burst says the same of the one
    /// before it.
    fn rx_done(&mut self) {}

    /// Hands packets from the front of `ring` to the device until one does not fit; that one and
    /// those behind it stay. Those that left go to `done`, in order, with whether the device took
    /// them. Returns how many left.
    ///
    /// # Errors
    /// The device is gone. A packet the device refuses is no error: it is in `done` with `false`.
    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize>;

    /// What to wait on until there is something to receive, or room to send; none if the device
    /// is never the one that wakes the loop.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Which of its device's queues it is (`rx-N`, `tx-N`).
    fn queue(&self) -> u8 {
        0
    }

    /// Whether ARP and neighbour discovery reach it: not where they are left to a kernel that has the
    /// same address. Neighbours are then learnt from what they send.
    fn hears_neighbours(&self) -> bool {
        true
    }

    /// Packets that wait to be received, where that is known without a system call.
    fn rx_pending(&self) -> Option<usize> {
        None
    }

    /// Takes back what the device has sent and `tx_burst` did not give back at once; returns how
    /// many packets went to `done`.
    fn tx_complete(&mut self, _done: &mut Vec<(Pkt, bool)>) -> usize {
        0
    }

    /// Packets handed to the device that [`Device::tx_complete`] has not given back yet.
    fn tx_pending(&self) -> usize {
        0
    }

    /// The sizes of its rings.
    fn rings(&self) -> Rings {
        Rings::default()
    }

    /// Sets how many packets its transmit ring holds (`ethtool -G DEV tx N`). Returns whether it
    /// obeyed.
    fn set_tx_ring(&mut self, _pkts: usize) -> bool {
        false
    }

    /// Distributes over its queues like this from now on (`ethtool -X`). Returns whether it obeyed:
    /// where the kernel distributes, it does not.
    fn set_rss(&mut self, _rss: &Rss) -> bool {
        false
    }

    /// Sets the rule at `location`, or takes it out (`ethtool -N`). Locations from 2^31 on are this
    /// queue's own (accelerated RFS): another queue's rule of the same number is another rule.
    ///
    /// # Errors
    /// `Unsupported` where the device takes no rules, `ENOSPC` where it has no room.
    fn set_rule(&mut self, _location: u32, _rule: Option<&Rule>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Statistics of its own, by the names that its driver or socket gives them (`ethtool -S`).
    fn statistics(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Its own counts.
    fn counts(&self) -> Counts;

    /// Brings [`Counts::overflow`] up to date where that takes a system call. The loop asks now
    /// and then while packets come, and before a final report.
    fn count_overflow(&mut self) {}

    /// Sets how many packets its receive ring holds (`ethtool -G DEV rx N`). Returns whether it
    /// obeyed: where the ring is the kernel's, it does not.
    fn set_rx_ring(&mut self, _pkts: usize) -> bool {
        false
    }
}
