//! Transmit: packets leave from their chunks, or are copied into one, and come back when the kernel
//! has sent them.
//!
//! before: [`linerate_core::tx::xmit`]   after: the interface
//! Linux:  net/xdp/xsk.c `xsk_sendmsg`, `xsk_generic_xmit`

use super::{TX_PIECES, Xsk};
use crate::sys::umem::Owner;
use crate::sys::xsk as sys;
use linerate_core::pkt::{Csum, Pkt};
use std::collections::VecDeque;
use std::io;

const MACS: usize = 12;
const ETH_HLEN: usize = 14;
const VLAN_HLEN: usize = 4;

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
    /// Hands packets to the kernel until one does not fit.
    pub(super) fn xsk_xmit(
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
        if n > 1 && (!self.setup.multi_buffer || n > TX_PIECES) {
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
    pub(super) fn reap(&mut self, done: &mut Vec<(Pkt, bool)>) -> usize {
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
    pub(super) fn kick(&mut self) -> io::Result<()> {
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
