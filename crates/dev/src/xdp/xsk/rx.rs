//! Receive: chunks become packets, and the fill ring gets others.
//!
//! before: the XDP program   after: [`crate::drive`]
//! Linux:  net/xdp/xsk.c `xsk_rcv`, net/xdp/xsk_buff_pool.c `xp_alloc`

use super::{RX_PIECES, Xsk};
use crate::device::RxCx;
use crate::sys::umem::Owner;
use crate::sys::xsk as sys;
use crate::xdp::csum;
use crate::xdp::umem::SPARE_BATCH;
use linerate_core::pkt::{Batch, Buf, Csum, HEADROOM, LARGE, Pkt, Pool, SMALL};
use std::io;

/// The fill ring is filled up in steps of at least so many.
const FILL_BATCH: u32 = 32;

impl Xsk {
    /// Takes at most `budget` frames off the receive ring.
    pub(super) fn xsk_rcv(
        &mut self,
        cx: &mut RxCx<'_>,
        out: &mut Batch,
        budget: u32,
    ) -> io::Result<usize> {
        let mut ready = self.rings.rx.ready(budget.saturating_add(RX_PIECES - 1));
        if ready == 0 {
            self.refill(cx.pool, true);
            self.check_gone(cx.now)?;
            if self.setup.busy_poll {
                // The driver is polled in this call.
                let _ = sys::wake_rx(&self.rings.fd);
            }
            ready = self.rings.rx.ready(budget.saturating_add(RX_PIECES - 1));
        }
        let (mut at, mut taken) = (0, 0);
        if self.chunks.scarce() {
            self.chunks.come_home(cx.pool, SPARE_BATCH);
        }
        while taken < budget && at < ready {
            let desc = self.rings.rx.peek(at);
            let one = desc.options & libc::XDP_PKT_CONTD == 0;
            let Some(n) = (if one { Some(1) } else { self.pieces(at, ready) }) else { break };
            let copy = self.chunks.scarce();
            let large = if copy { self.large_for(at, n) } else { 0 };
            if cx.pool.small_left() < n as usize || cx.pool.large_left() < large {
                self.counts.rx_no_buffer += 1;
                break;
            }
            let pkt = if copy {
                self.receive_copy(cx.pool, at, n)
            } else if one {
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
            if self.setup.veth {
                self.look_for_partial(&mut pkt);
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

    /// Puts free chunks into the fill ring until it is full.
    pub(super) fn fill_up(&mut self) {
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
            // Each time, although there may be enough: those that were used last are in the cache.
            self.chunks.come_home(pool, room as usize);
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
    #[cold]
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

    /// Says of a packet of the other end of a veth pair whether its checksum was left to a device.
    fn look_for_partial(&mut self, pkt: &mut Pkt) {
        if let Some((start, offset)) = csum::partial_at(pkt.head()) {
            pkt.csum = Csum::Partial { start, offset };
            self.partial += 1;
        }
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
