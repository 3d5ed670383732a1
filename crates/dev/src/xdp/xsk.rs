//! One queue of an AF_XDP device: [`Xsk`].
//!
//! A frame is received into a chunk of the UMEM, and the chunk becomes the packet's head: nothing is
//! copied between ring and socket queue. A packet that still lies in its chunk when it is sent goes
//! out from there; others are copied into a chunk once.
//!
//! before: the XDP program   after: [`crate::drive`]; on the way out the other way round
//! Linux:  net/xdp/xsk.c `xsk_rcv`, `xsk_generic_xmit`, net/xdp/xsk_buff_pool.c
//! drops:  what met a full ring, or an empty one of free chunks, is counted as RingFull

mod rx;
mod tx;

use super::chunks::Chunks;
use super::open::{Claim, Queues, Socket};
use super::ring::{Consumer, Producer};
use super::{Attached, OpenError};
use crate::device::{Caps, Counts, Device, Rings, RxCx};
use crate::netdev::Losses;
use crate::sys::ring::Mapped;
use crate::sys::xsk as sys;
use linerate_core::pkt::{Batch, Pkt};
use linerate_core::time::{Instant, MS};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// How often a queue where nothing comes in asks whether its interface is still there.
const GONE_ASK: u64 = 100 * MS;
/// Pieces that a frame can come in: 64 KiB and its headers in chunks of 2 KiB with the room that the
/// kernel keeps, and some more.
const RX_PIECES: u32 = 40;
/// Pieces that a frame can be sent in (`MAX_SKB_FRAGS` and the head).
const TX_PIECES: usize = 18;

/// The socket and its rings: closed and unmapped before the memory is taken back.
pub(super) struct Rings4 {
    pub fd: Socket,
    pub rx: Consumer<Mapped<libc::xdp_desc>>,
    pub tx: Producer<Mapped<libc::xdp_desc>>,
    pub fill: Producer<Mapped<u64>>,
    pub completion: Consumer<Mapped<u64>>,
}

/// What an [`Xsk`] is set up with.
pub(super) struct Setup {
    pub caps: Caps,
    pub queue: u32,
    pub busy_poll: bool,
    pub multi_buffer: bool,
    /// What it receives was on no wire: checksums may be left undone.
    pub veth: bool,
}

/// One receive and transmit queue of an interface, through AF_XDP.
pub struct Xsk {
    rings: Rings4,
    chunks: Chunks,
    device: Queues,
    setup: Setup,
    counts: Counts,
    losses: Option<Losses>,
    /// Frames that were copied out because chunks were scarce.
    copied: u64,
    /// Frames sent from where they lay.
    sent_in_place: u64,
    /// Descriptors of the kernel that made no sense.
    bad_descs: u64,
    /// Packets that were found with partial checksums.
    partial: u64,
    /// The kernel left something in the transmit ring: it is to be woken again.
    stalled: bool,
    gone: bool,
    asked: Instant,
    /// Dropped last.
    claim: Option<Claim>,
}

impl fmt::Debug for Xsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, queue) = (self.name(), self.setup.queue);
        let (own, pending) = (self.chunks.own, self.chunks.pending);
        f.debug_struct("Xsk")
            .field("name", &name)
            .field("queue", &queue)
            .field("zero_copy", &self.chunks.zero_copy)
            .field("own_chunks", &own)
            .field("tx_pending", &pending)
            .finish_non_exhaustive()
    }
}

impl Xsk {
    pub(super) fn new(rings: Rings4, chunks: Chunks, device: Queues, setup: Setup) -> Xsk {
        let mut xsk = Xsk {
            rings,
            chunks,
            device,
            setup,
            counts: Counts::default(),
            losses: None,
            copied: 0,
            sent_in_place: 0,
            bad_descs: 0,
            partial: 0,
            stalled: false,
            gone: false,
            asked: Instant::ZERO,
            claim: None,
        };
        // Also for a queue that only sends: some drivers (ice, i40e) need it.
        xsk.fill_up();
        xsk
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.rings.fd.as_fd()
    }
    /// It is bound with these flags. Returns the socket for the list of those that are.
    pub(super) fn bound(&mut self, flags: u16) -> Arc<OwnedFd> {
        self.setup.multi_buffer = flags & libc::XDP_USE_SG != 0;
        self.chunks.zero_copy = sys::is_zero_copy(&self.rings.fd).unwrap_or(false);
        self.rings.fd.bound(&self.device.sockets)
    }
    /// The queue is this one's from now on.
    pub(super) fn claim(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }

    /// The program that feeds it: to change the filter, and to keep it attached.
    #[must_use]
    pub fn attached(&self) -> &Arc<Attached> {
        self.device.attached()
    }
    /// As [`Queues::open_queue`].
    ///
    /// # Errors
    /// As there.
    pub fn open_queue(&self, queue: u32) -> Result<Xsk, OpenError> {
        self.device.open_queue(queue)
    }
    /// Whether the driver reads and writes the packets' memory itself.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.chunks.zero_copy
    }
    /// Where to read what was dropped on the way to this queue (the other end of a veth pair). For
    /// one queue of a device: the count is the interface's.
    pub fn set_losses(&mut self, losses: Losses) {
        self.losses = Some(losses);
    }

    /// Asks now and then whether the interface is still there; then it is an error.
    fn check_gone(&mut self, now: Instant) -> io::Result<()> {
        if !self.gone && now.since(self.asked) >= GONE_ASK {
            self.asked = now;
            self.gone = sys::take_error(&self.rings.fd).is_err();
        }
        if self.gone { Err(io::Error::from_raw_os_error(libc::ENODEV)) } else { Ok(()) }
    }
}

impl Device for Xsk {
    fn name(&self) -> &str {
        self.device.attached().ifname()
    }

    fn caps(&self) -> Caps {
        self.setup.caps
    }

    fn hears_neighbours(&self) -> bool {
        self.device.attached().filter().neighbours
    }

    fn queue(&self) -> u8 {
        self.setup.queue as u8
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        self.xsk_rcv(cx, out, u32::try_from(budget).unwrap_or(u32::MAX))
    }

    fn rx_pending(&self) -> Option<usize> {
        Some(self.rings.rx.waiting() as usize)
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        self.xsk_xmit(ring, done)
    }

    fn tx_complete(&mut self, done: &mut Vec<(Pkt, bool)>) -> usize {
        let before = done.len();
        self.reap(done);
        if self.stalled && !self.gone {
            // That the interface is gone shows below, and in the next burst.
            let _ = self.kick();
            self.reap(done);
        }
        if self.gone {
            self.chunks.give_up(done);
        }
        done.len() - before
    }

    fn tx_pending(&self) -> usize {
        self.chunks.pending
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rings.fd.as_fd())
    }

    fn rings(&self) -> Rings {
        let (rx, tx) = (self.rings.rx.size(), self.rings.tx.size());
        Rings { rx, rx_max: super::RING_MAX, tx, tx_max: super::RING_MAX }
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let s = sys::statistics(&self.rings.fd).unwrap_or_default();
        vec![
            ("rx_dropped", s.rx_dropped),
            ("rx_invalid_descs", s.rx_invalid_descs),
            ("tx_invalid_descs", s.tx_invalid_descs),
            ("rx_ring_full", s.rx_ring_full),
            ("rx_fill_ring_empty_descs", s.rx_fill_ring_empty_descs),
            ("tx_ring_empty_descs", s.tx_ring_empty_descs),
            ("rx_copied", self.copied),
            ("rx_bad_descs", self.bad_descs),
            ("rx_partial_csum", self.partial),
            ("tx_in_place", self.sent_in_place),
        ]
    }

    fn counts(&self) -> Counts {
        self.counts
    }

    /// What the socket lost: the fill ring had no chunk, or the receive ring no room.
    fn count_overflow(&mut self) {
        if let Ok(s) = sys::statistics(&self.rings.fd) {
            let before = self.losses.as_mut().map_or(0, Losses::read);
            self.counts.overflow = self.counts.overflow.max(s.rx_dropped + s.rx_ring_full + before);
        }
    }
}
