//! One queue of an AF_XDP device: [`Xsk`].
//!
//! A frame is received into a chunk of the UMEM, and the chunk becomes the packet's head: nothing is
//! copied between ring and socket queue. A packet that still lies in its chunk when it is sent goes
//! out from there; others are copied into a chunk once.
//!
//! before: the XDP program   after: [`crate::drive`]; on the way out the other way round
//! Linux:  net/xdp/xsk.c `xsk_rcv`, `xsk_generic_xmit`, net/xdp/xsk_buff_pool.c
//! drops:  what met a full ring, or an empty one of free chunks, is counted as RingFull

use super::csum;
use super::open::{Queues, Socket};
use super::ring::{Consumer, Producer};
use super::umem::{SPARE_BATCH, Umem};
use super::{Attached, OpenError};
use crate::device::{Caps, Counts, Device, Rings, RxCx};
use crate::netdev::Losses;
use crate::sys::ring::Mapped;
use crate::sys::umem::Owner;
use crate::sys::xsk as sys;
use linerate_core::pkt::{Batch, Buf, Csum, HEADROOM, LARGE, Pkt, Pool, SMALL};
use linerate_core::time::{Instant, MS};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// How often a queue where nothing comes in asks whether its interface is still there.
const GONE_ASK: u64 = 100 * MS;
/// The fill ring is filled up in steps of at least so many.
const FILL_BATCH: u32 = 32;
/// Pieces that a frame can come in (`MAX_SKB_FRAGS` and the head).
const PIECES: u32 = 18;
const MACS: usize = 12;
const ETH_HLEN: usize = 14;
const VLAN_HLEN: usize = 4;

/// The socket and its rings: closed and unmapped before the memory is taken back.
pub(super) struct Rings4 {
    pub fd: Socket,
    pub rx: Consumer<Mapped<libc::xdp_desc>>,
    pub tx: Producer<Mapped<libc::xdp_desc>>,
    pub fill: Producer<Mapped<u64>>,
    pub completion: Consumer<Mapped<u64>>,
}

/// The chunks of one queue. Dropped after [`Rings4`], when the kernel has let go of them.
pub(super) struct Chunks {
    umem: Arc<Umem>,
    me: Owner,
    zero_copy: bool,
    /// Free ones, the latest used on top.
    free: Vec<u32>,
    /// Chunks that this queue is in charge of: the free ones and those in its rings.
    own: usize,
    /// Chunks that it began with.
    share: usize,
    /// Free ones that the fill ring leaves to the transmit ring.
    reserve: usize,
    /// What each chunk in the transmit ring carries, if it is the last of its packet.
    flight: Vec<Option<Pkt>>,
    pending: usize,
    /// Room to take chunks home.
    bufs: Vec<Buf>,
}

impl Chunks {
    pub fn new(
        umem: Arc<Umem>,
        queue: u8,
        zero_copy: bool,
        share: usize,
        reserve: usize,
    ) -> Chunks {
        let mut free = Vec::with_capacity(2 * share);
        let own = umem.take_spare(share, &mut free);
        let flight = std::iter::repeat_with(|| None).take(umem.region.chunks()).collect();
        let (me, bufs) = (Owner::Kernel(queue), Vec::new());
        Chunks { umem, me, zero_copy, free, own, share, reserve, flight, pending: 0, bufs }
    }
    /// Whether so many chunks are with packets that new packets have to be copied out of theirs.
    fn scarce(&self) -> bool {
        self.own < self.share / 4
    }
    /// Brings chunks home that packets are done with, and takes some that no queue needs.
    fn come_home(&mut self, pool: &mut Pool, wanted: usize) {
        pool.take_home(self.umem.home, wanted.max(SPARE_BATCH), &mut self.bufs);
        let came = self.bufs.len();
        for buf in self.bufs.drain(..) {
            let chunk = self.umem.take_back(buf);
            self.free.push(chunk);
        }
        self.own += came;
        if self.free.len() < wanted {
            self.own += self.umem.take_spare(SPARE_BATCH, &mut self.free);
        } else if self.own > self.share + 2 * SPARE_BATCH && self.free.len() > SPARE_BATCH {
            // Packets of other queues' chunks end here: back to who needs them.
            let from = self.free.len() - SPARE_BATCH;
            self.umem.give_spare(self.free.drain(from..));
            self.own -= SPARE_BATCH;
        }
    }
    /// Whether there are so many free chunks for a frame that is copied to be sent.
    fn has_free(&mut self, n: usize) -> bool {
        if self.free.len() < n {
            self.own += self.umem.take_spare(SPARE_BATCH, &mut self.free);
        }
        self.free.len() >= n
    }
    /// The kernel has let go of chunk `index`, which no packet has.
    fn freed(&mut self, index: usize) {
        if self.umem.region.pass(index, self.me, Owner::Free) {
            self.free.push(index as u32);
        }
    }
    /// Gives back what the device is done with, or will never be.
    fn give_up(&mut self, done: &mut Vec<(Pkt, bool)>) {
        if self.pending > 0 {
            self.pending = 0;
            done.extend(self.flight.iter_mut().filter_map(Option::take).map(|pkt| (pkt, false)));
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        let umem = &self.umem;
        for mut pkt in self.flight.iter_mut().filter_map(Option::take) {
            if let Some((buf, ..)) = pkt.take_chunk(umem.home) {
                self.free.push(umem.take_back(buf));
            }
        }
        umem.give_spare(self.free.drain(..));
        if self.zero_copy {
            // The driver takes its rings down later, and the hardware writes until then.
            umem.spoil();
        } else {
            let mut back = Vec::new();
            umem.region.reclaim(self.me, |index| back.push(index as u32));
            umem.give_spare(back);
        }
    }
}

/// What an [`Xsk`] is set up with.
pub(super) struct Setup {
    pub caps: Caps,
    pub queue: u32,
    pub busy_poll: bool,
    pub multi_buffer: bool,
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

/// What became of a packet that is to be sent.
enum Put {
    /// It stands in the ring; this chunk is its last.
    In(usize),
    /// There is no room.
    Full,
    /// The device does not take such packets: the errno.
    Refused(i32),
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
        };
        // Also for a queue that only sends: some drivers (ice, i40e) need it.
        xsk.fill_up();
        xsk
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

    /// Puts free chunks into the fill ring until it is full.
    fn fill_up(&mut self) {
        let (fill, chunks) = (&mut self.rings.fill, &mut self.chunks);
        let room = fill.free(fill.size()) as usize;
        let n = room.min(chunks.free.len().saturating_sub(chunks.reserve));
        let region = chunks.umem.region;
        let from = chunks.free.len() - n;
        for chunk in chunks.free.drain(from..).rev() {
            let ours = region.pass(chunk as usize, Owner::Free, chunks.me);
            assert!(ours, "a chunk in the list of free ones is free");
            fill.put(region.offset(chunk as usize));
        }
        fill.publish();
    }

    /// Keeps the kernel in chunks to receive into.
    fn refill(&mut self, pool: &mut Pool, idle: bool) {
        let size = self.rings.fill.size();
        let room = self.rings.fill.free(size);
        if room >= FILL_BATCH.min(size) || (idle && room > 0) {
            let wanted = room as usize + self.chunks.reserve;
            if self.chunks.free.len() < wanted {
                self.chunks.come_home(pool, wanted);
            }
            self.fill_up();
        } else if !idle {
            return;
        }
        if self.rings.fill.need_wakeup() {
            // An interface that is down or gone is found out elsewhere.
            let _ = sys::wake_rx(&self.rings.fd);
        }
    }

    /// How many descriptors from `at` on make up a frame, of `ready` that there are; `None` if its
    /// end is not there yet.
    #[inline]
    fn pieces(&self, at: u32, ready: u32) -> Option<u32> {
        let more = |at| self.rings.rx.peek(at).options & libc::XDP_PKT_CONTD != 0;
        (at..ready).find(|&at| !more(at)).map(|last| last - at + 1)
    }

    /// The chunk of a received piece, and where in it the bytes lie; `None` if the descriptor makes
    /// no sense.
    #[inline]
    fn piece(&mut self, desc: libc::xdp_desc) -> Option<(Buf, usize, usize)> {
        let region = self.chunks.umem.region;
        let index = region.index(desc.addr);
        let off = (desc.addr - region.offset(index)) as usize;
        let len = desc.len as usize;
        let buf = self.chunks.umem.lend(index, self.chunks.me);
        if buf.is_none() || off + len > region.chunk_size() {
            self.bad_descs += 1;
            let chunk = self.chunks.umem.take_back(buf?);
            self.chunks.free.push(chunk);
            return None;
        }
        buf.map(|buf| (buf, off, len))
    }

    /// One frame of one piece: the chunk becomes the packet's head.
    #[inline]
    fn receive(&mut self, pool: &mut Pool, desc: libc::xdp_desc) -> Option<Pkt> {
        let (buf, off, len) = self.piece(desc)?;
        match pool.alloc_around(buf, off, len) {
            Ok(pkt) => {
                self.chunks.own -= 1;
                Some(pkt)
            }
            Err(_) => unreachable!("the pool was asked how many packets are left"),
        }
    }

    /// A frame of several pieces.
    #[cold]
    fn receive_pieces(&mut self, pool: &mut Pool, at: u32, n: u32) -> Option<Pkt> {
        let mut pkt: Option<Pkt> = None;
        let mut whole = true;
        for at in at..at + n {
            let desc = self.rings.rx.peek(at);
            let Some((buf, off, len)) = self.piece(desc) else {
                whole = false;
                continue;
            };
            let added = match &mut pkt {
                Some(pkt) => pool.add_around(pkt, buf, off, len),
                none => pool.alloc_around(buf, off, len).map(|first| *none = Some(first)),
            };
            assert!(added.is_ok(), "the pool was asked how many packets are left");
            self.chunks.own -= 1;
        }
        if !whole && let Some(pkt) = pkt.take() {
            pool.free(pkt);
        }
        pkt
    }

    /// How many large buffers a copy of the frame takes at the most.
    #[cold]
    fn large_for(&self, at: u32, n: u32) -> usize {
        let fits = n == 1 && self.rings.rx.peek(at).len as usize <= SMALL - HEADROOM;
        if fits { 0 } else { n as usize }
    }

    /// A frame is copied out of its chunks, which stay here; `None` if a descriptor made no sense.
    #[cold]
    fn receive_copy(&mut self, pool: &mut Pool, at: u32, n: u32) -> Option<Pkt> {
        let mut pkt = pool.alloc();
        for at in at..at + n {
            let desc = self.rings.rx.peek(at);
            let Some((buf, off, len)) = self.piece(desc) else {
                pkt.take().into_iter().for_each(|part| pool.free(part));
                continue;
            };
            let bytes = buf.get(off..off + len).unwrap_or_default();
            if let Some(mut copy) = pkt.take() {
                if append(pool, &mut copy, bytes) {
                    pkt = Some(copy);
                } else {
                    pool.free(copy);
                }
            }
            let chunk = self.chunks.umem.take_back(buf);
            self.chunks.free.push(chunk);
        }
        self.copied += u64::from(pkt.is_some());
        pkt
    }

    /// Asks now and then whether the interface is still there; then it is an error.
    fn check_gone(&mut self, now: Instant) -> io::Result<()> {
        if !self.gone && now.since(self.asked) >= GONE_ASK {
            self.asked = now;
            self.gone = sys::take_error(&self.rings.fd).is_err();
        }
        if self.gone { Err(io::Error::from_raw_os_error(libc::ENODEV)) } else { Ok(()) }
    }

    /// Looks whether the sender's kernel left checksums to us; one packet of a burst is enough.
    fn look_for_partial(&mut self, pkt: &Pkt) {
        if csum::is_partial(pkt.head()) == Some(true) {
            if self.partial == 0 {
                self.device.attached().note(csum::advice(self.device.attached().ifname()));
            }
            self.partial += 1;
        }
    }

    /// Puts a packet into the transmit ring.
    fn put(&mut self, pkt: &mut Pkt) -> Put {
        let before = pkt.network.saturating_sub(pkt.data_offset()) as usize;
        if matches!(pkt.csum, Csum::Partial { .. }) && !pkt.csum_complete(before) {
            return Put::Refused(libc::EINVAL);
        }
        let tag = if pkt.vlan.is_some() { VLAN_HLEN } else { 0 };
        let len = pkt.len();
        if pkt.gso.is_some() || len < ETH_HLEN {
            return Put::Refused(libc::EINVAL);
        }
        if len > ETH_HLEN + VLAN_HLEN + self.setup.caps.mtu as usize {
            return Put::Refused(libc::EMSGSIZE);
        }
        let region = self.chunks.umem.region;
        let at = region.offset_of(pkt.head().as_ptr());
        if let Some(at) = at.filter(|_| pkt.nr_frags() == 0 && pkt.headroom() >= tag) {
            if self.rings.tx.free(1) == 0 {
                return Put::Full;
            }
            if let Some(tci) = pkt.vlan.take() {
                pkt.push(VLAN_HLEN);
                pkt.head_mut().copy_within(VLAN_HLEN..VLAN_HLEN + MACS, 0);
                pkt.head_mut()[MACS..MACS + VLAN_HLEN].copy_from_slice(&vlan_tag(tci));
            }
            let (addr, len) = (at - tag as u64, (len + tag) as u32);
            self.rings.tx.put(libc::xdp_desc { addr, len, options: 0 });
            self.sent_in_place += 1;
            return Put::In(region.index(addr));
        }
        self.put_copy(pkt, len + tag)
    }

    /// Copies a packet of `len` bytes, its tag included, into as many chunks as it takes.
    fn put_copy(&mut self, pkt: &Pkt, len: usize) -> Put {
        let region = self.chunks.umem.region;
        let size = region.chunk_size();
        let n = len.div_ceil(size);
        if n > 1 && (!self.setup.multi_buffer || n > PIECES as usize) {
            return Put::Refused(libc::EMSGSIZE);
        }
        if (self.rings.tx.free(n as u32) as usize) < n {
            return Put::Full;
        }
        let mut frame = Frame { pkt, tag: pkt.vlan.map(vlan_tag), at: 0 };
        if !self.chunks.has_free(n) {
            return Put::Full;
        }
        let (mut left, mut last) = (len, 0);
        for piece in 0..n {
            let index = self.chunks.free.pop().map(|index| index as usize);
            let chunk = index.and_then(|index| Some((index, region.lend(index, Owner::Free)?)));
            let (index, chunk) = chunk.expect("a chunk in the list of free ones is free");
            let now = left.min(size);
            frame.read(&mut chunk[..now]);
            region.take_back(chunk);
            let given = region.pass(index, Owner::Free, self.chunks.me);
            assert!(given, "it came back just now");
            left -= now;
            let options = if piece + 1 < n { libc::XDP_PKT_CONTD } else { 0 };
            let (addr, len) = (region.offset(index), now as u32);
            self.rings.tx.put(libc::xdp_desc { addr, len, options });
            last = index;
        }
        Put::In(last)
    }

    /// Takes back what was sent.
    fn reap(&mut self, done: &mut Vec<(Pkt, bool)>) -> usize {
        let before = done.len();
        let ring = &mut self.rings.completion;
        let n = ring.ready(ring.size());
        for ahead in 0..n {
            let index = self.chunks.umem.region.index(self.rings.completion.peek(ahead));
            self.chunks.freed(index);
            if let Some(pkt) = self.chunks.flight.get_mut(index).and_then(Option::take) {
                self.chunks.pending -= 1;
                done.push((pkt, true));
            }
        }
        self.rings.completion.skip(n);
        self.rings.completion.release();
        done.len() - before
    }

    /// Makes the kernel send, if it does not by itself.
    fn kick(&mut self) -> io::Result<()> {
        self.stalled = false;
        if !self.rings.tx.need_wakeup() {
            return Ok(());
        }
        let mut before = self.rings.tx.pending();
        while before > 0 {
            let Err(err) = sys::wake_tx(&self.rings.fd) else { return Ok(()) };
            let after = self.rings.tx.pending();
            match err.raw_os_error() {
                Some(libc::EINTR) => {}
                // In copy mode a call has a budget; as long as it gets on, there is more to come.
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM)
                    if after < before => {}
                Some(libc::ENXIO | libc::ENODEV) => {
                    self.gone = true;
                    return Err(io::Error::from_raw_os_error(libc::ENODEV));
                }
                // No room below, or the interface is down: it stays in the ring, and goes when
                // there is room, or it is up.
                errno => {
                    self.counts.tx_errno = errno.unwrap_or(0);
                    self.stalled = true;
                    return Ok(());
                }
            }
            before = after;
        }
        Ok(())
    }
}

fn vlan_tag(tci: u16) -> [u8; VLAN_HLEN] {
    let ([a, b], [c, d]) = (0x8100u16.to_be_bytes(), tci.to_be_bytes());
    [a, b, c, d]
}

/// A packet's bytes with its tag in their place, read from the front.
struct Frame<'a> {
    pkt: &'a Pkt,
    tag: Option<[u8; VLAN_HLEN]>,
    at: usize,
}

impl Frame<'_> {
    /// Reads the next bytes.
    fn read(&mut self, out: &mut [u8]) {
        let Some(tag) = self.tag else {
            self.at += self.pkt.copy_bits(self.at, out);
            return;
        };
        // Only the first chunk has the tag: a chunk is longer than the addresses.
        let (macs, rest) = out.split_at_mut(MACS.min(out.len()));
        let (place, rest) = rest.split_at_mut(VLAN_HLEN.min(rest.len()));
        self.at += self.pkt.copy_bits(self.at, macs);
        place.copy_from_slice(&tag[..place.len()]);
        self.tag = None;
        self.at += self.pkt.copy_bits(self.at, rest);
    }
}

/// Adds a copy of `bytes` to the end of a packet; false without memory.
fn append(pool: &mut Pool, pkt: &mut Pkt, mut bytes: &[u8]) -> bool {
    if pkt.nr_frags() == 0 {
        let (now, later) = bytes.split_at(bytes.len().min(pkt.tailroom()));
        pkt.put(now.len()).copy_from_slice(now);
        bytes = later;
    }
    while !bytes.is_empty() {
        let Some(mut large) = pool.alloc_large() else { return false };
        let (now, later) = bytes.split_at(bytes.len().min(LARGE));
        large[..now.len()].copy_from_slice(now);
        pkt.add_buf(large, 0, now.len());
        bytes = later;
    }
    true
}

impl Device for Xsk {
    fn name(&self) -> &str {
        self.device.attached().ifname()
    }

    fn caps(&self) -> Caps {
        self.setup.caps
    }

    fn queue(&self) -> u8 {
        self.setup.queue as u8
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        let budget = u32::try_from(budget).unwrap_or(u32::MAX);
        let mut ready = self.rings.rx.ready(budget.saturating_add(PIECES - 1));
        if ready == 0 {
            self.refill(cx.pool, true);
            self.check_gone(cx.now)?;
            if self.setup.busy_poll {
                // The driver is polled in this call.
                let _ = sys::wake_rx(&self.rings.fd);
            }
            ready = self.rings.rx.ready(budget.saturating_add(PIECES - 1));
        }
        let (mut at, mut taken) = (0, 0);
        if self.chunks.scarce() {
            self.chunks.come_home(cx.pool, SPARE_BATCH);
        }
        while taken < budget {
            let Some(n) = self.pieces(at, ready) else { break };
            let copy = self.chunks.scarce();
            let large = if copy { self.large_for(at, n) } else { 0 };
            if cx.pool.small_left() < n as usize || cx.pool.large_left() < large {
                self.counts.rx_no_buffer += 1;
                break;
            }
            let pkt = if copy {
                self.receive_copy(cx.pool, at, n)
            } else if n == 1 {
                let desc = self.rings.rx.peek(at);
                self.receive(cx.pool, desc)
            } else {
                self.receive_pieces(cx.pool, at, n)
            };
            at += n;
            taken += 1;
            let Some(mut pkt) = pkt else { continue };
            pkt.rx_time = cx.now;
            pkt.dev = cx.dev;
            pkt.queue = self.setup.queue as u8;
            if taken == 1 {
                self.look_for_partial(&pkt);
            }
            out.push(pkt);
        }
        self.rings.rx.skip(at);
        self.rings.rx.release();
        if at > 0 {
            self.refill(cx.pool, false);
        }
        Ok(taken as usize)
    }

    fn rx_pending(&self) -> Option<usize> {
        Some(self.rings.rx.waiting() as usize)
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        if self.gone {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        self.reap(done);
        let mut left = 0;
        while let Some(mut pkt) = ring.pop_front() {
            match self.put(&mut pkt) {
                Put::In(last) => {
                    if let Some(place) = self.chunks.flight.get_mut(last) {
                        *place = Some(pkt);
                        self.chunks.pending += 1;
                    }
                }
                Put::Full => {
                    self.counts.tx_busy += 1;
                    ring.push_front(pkt);
                    break;
                }
                Put::Refused(errno) => {
                    self.counts.tx_refused += 1;
                    self.counts.tx_errno = errno;
                    done.push((pkt, false));
                }
            }
            left += 1;
        }
        if self.rings.tx.publish() > 0 || self.stalled {
            self.kick()?;
            self.reap(done);
        }
        Ok(left)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks that one queue's packets leave with another queue's shard are passed on to who needs
    /// them, and none is lost or doubled on the way.
    #[test]
    fn chunks_that_gather_at_one_queue_go_to_another() {
        // Sizes that no other test uses.
        let umem = Umem::new(4 * 1024, 2048).expect("memory");
        let mut one = Chunks::new(Arc::clone(&umem), 0, false, 2048, 0);
        let mut two = Chunks::new(Arc::clone(&umem), 1, false, 2048, 0);
        assert_eq!((one.own, two.own), (2048, 2048));
        let (mut pools, mut moved) = ([Pool::new(9999, 0), Pool::new(9999, 0)], 0);
        for _ in 0..100 {
            // What the first queue receives is freed where the second one is.
            for _ in 0..256 {
                let Some(chunk) = one.free.pop() else { break };
                let buf = umem.lend(chunk as usize, Owner::Free).expect("it is free");
                one.own -= 1;
                let pkt = pools[0].alloc_around(buf, 256, 60).unwrap_or_else(|_| unreachable!());
                pools[0].give(&pkt);
                pools[1].adopt(&pkt);
                pools[1].free(pkt);
                moved += 1;
            }
            let [first, second] = &mut pools;
            two.come_home(second, SPARE_BATCH);
            one.come_home(first, 1024);
        }
        assert!(moved > 10_000, "{moved}");
        let spare = umem.take_spare(9999, &mut Vec::new());
        let mut left = Vec::new();
        pools[1].take_home(umem.home, 9999, &mut left);
        assert_eq!(one.own + two.own + spare + left.len(), 4096);
        assert_eq!((one.free.len(), two.free.len()), (one.own, two.own));
    }
}
