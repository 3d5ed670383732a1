//! From one transmit queue to one receive queue: a ring of packets whose memory stays in the ring.
//!
//! Linux: none; a slot is what a netmap slot is, and memory changes hands as there: by a swap of
//! buffers (`NS_BUF_CHANGED`).
//!
//! Each slot holds a packet. The sender of a packet in one small buffer leaves it in the slot and takes
//! the slot's own away; the receiver leaves an empty one of its own and takes what is there. So both
//! pools have what they had, and no byte was copied. What lies in several pieces, or in a device's
//! memory, is copied into the slot once.

use linerate_core::pkt::{LARGE, Pkt, Pool, SMALL};

use crate::device::RxCx;

/// One place of a lane.
pub(super) struct Slot {
    pkt: Pkt,
    /// What of a super-packet does not fit the small buffer.
    spill: Vec<u8>,
}

/// Places for `n` packets, with their memory.
pub(super) fn slots(n: usize) -> Vec<Slot> {
    // The packets belong to the ring and to no pool: they are exchanged for others one by one.
    let mut pool = Pool::new(n, 0);
    let all = std::iter::from_fn(|| pool.alloc()).take(n);
    all.map(|pkt| Slot { pkt, spill: Vec::new() }).collect()
}

/// Whether the packet is nothing but one small buffer of a pool's own.
fn is_plain(pkt: &Pkt) -> bool {
    pkt.nr_frags() == 0
        && pkt.head_home().is_none()
        && pkt.headroom() + pkt.head_len() + pkt.tailroom() == SMALL
}

impl Slot {
    /// The packet goes into the slot. What is left in `pkt` has its length, device and number, for the
    /// counts, and goes back to the sender's pool.
    #[inline]
    pub(super) fn swap_in(&mut self, pkt: &mut Pkt) {
        if !is_plain(pkt) || pkt.len() > self.pkt.tailroom() {
            return self.copy_in(pkt);
        }
        std::mem::swap(&mut self.pkt, pkt);
        pkt.put(self.pkt.len());
        (pkt.dev, pkt.trace) = (self.pkt.dev, self.pkt.trace);
    }

    /// A copy of the packet goes into the slot.
    pub(super) fn copy_in(&mut self, pkt: &Pkt) {
        let to = &mut self.pkt;
        for slice in pkt.slices() {
            // What follows something that did not fit goes behind it.
            let room = if self.spill.is_empty() { to.tailroom().min(slice.len()) } else { 0 };
            let (head, rest) = slice.split_at(room);
            to.put(room).copy_from_slice(head);
            self.spill.extend_from_slice(rest);
        }
        (to.csum, to.gso, to.gso_fixed_id) = (pkt.csum, pkt.gso, pkt.gso_fixed_id);
        (to.vlan, to.proto, to.hash) = (pkt.vlan, pkt.proto, pkt.hash);
        to.network = to.data_offset() + pkt.network.saturating_sub(pkt.data_offset());
    }

    /// Takes the packet out, and leaves memory of the receiver's pool; `None`, and it stays, if there is
    /// none.
    #[inline]
    pub(super) fn take_out(&mut self, cx: &mut RxCx<'_>, queue: u8) -> Option<Pkt> {
        if !self.spill.is_empty() && cx.pool.large_left() < self.spill.len().div_ceil(LARGE) {
            return None;
        }
        let mut pkt = cx.pool.alloc()?;
        std::mem::swap(&mut self.pkt, &mut pkt);
        if !self.spill.is_empty() {
            self.spill_out(cx, &mut pkt);
        }
        scrub(&mut pkt);
        pkt.rx_time = cx.now;
        pkt.dev = cx.dev;
        pkt.queue = queue;
        Some(pkt)
    }

    #[cold]
    fn spill_out(&mut self, cx: &mut RxCx<'_>, pkt: &mut Pkt) {
        for part in self.spill.chunks(LARGE) {
            let mut large = cx.pool.alloc_large().expect("that there are so many was asked");
            large[..part.len()].copy_from_slice(part);
            pkt.add_buf(large, 0, part.len());
        }
        self.spill.clear();
    }
}

/// What the sender's stages noted on the packet means nothing here (`skb_scrub_packet`). Lengths,
/// checksum, super-packet, tag and hash are the device's to tell.
#[inline]
fn scrub(pkt: &mut Pkt) {
    pkt.sock = None;
    (pkt.mark, pkt.trace, pkt.tapped) = (0, 0, 0);
    (pkt.tos, pkt.ttl, pkt.df, pkt.frag) = (0, 0, false, false);
    pkt.l2_multicast = false;
}
