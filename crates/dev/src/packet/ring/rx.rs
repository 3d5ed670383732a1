//! The walk over a receive ring of version 3: blocks in turn, in each block its packets.
//!
//! The kernel fills a block with as many packets as it holds and gives it to us full, or some time
//! after its first packet. We give it back after its last. Whatever a block says of itself is
//! checked against its size: a place outside ends the block, it never ends us.

use super::Stop;
use crate::sys::packet_ring::Rings;

/// The blocks of a ring, as far as the walk needs them.
pub(super) trait Blocks {
    /// How many there are.
    fn count(&self) -> u32;
    /// A block's bytes, if it is ours.
    fn block(&self, block: u32) -> Option<&[u8]>;
    /// Makes it the kernel's.
    fn give_back(&mut self, block: u32);
}

impl Blocks for Rings {
    fn count(&self) -> u32 {
        self.rx().blocks
    }
    fn block(&self, block: u32) -> Option<&[u8]> {
        Rings::block(self, block)
    }
    fn give_back(&mut self, block: u32) {
        Rings::give_back(self, block);
    }
}

/// Bytes of `virtio_net_hdr` before a frame.
const VNET: usize = crate::vnet::LEN_LEGACY;
/// `sll_pkttype` in the `sockaddr_ll` behind the 48 bytes of `struct tpacket3_hdr`.
const PKTTYPE: usize = 48 + 10;

/// One packet in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// The frame, from its Ethernet header on, as far as the ring has it.
    pub(super) bytes: &'a [u8],
    /// The ten bytes before it: a `virtio_net_hdr` if the socket has them, else nothing.
    pub(super) vnet: &'a [u8],
    /// Its length before it was cut to fit.
    pub(super) len: usize,
    /// `TP_STATUS_*`.
    pub(super) status: u32,
    /// The kernel's flow hash; 0 if it was not asked for.
    pub(super) hash: u32,
    /// The VLAN tag the kernel took out: TPID and TCI.
    pub(super) vlan: Option<(u16, u16)>,
    /// `PACKET_HOST` and so on.
    pub(super) kind: u8,
}

/// What a step over a ring came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// A packet that came in. It stays until [`Walk::pop`].
    In(Frame<'a>),
    /// A packet that somebody sent, which is no concern of ours: it was passed over.
    Out,
}

/// Where we are in a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// The block whose turn it is, below [`Blocks::count`].
    block: u32,
    /// Packets left in it; 0: it was not begun.
    left: u32,
    /// Where the next of them begins, in bytes from the block's.
    at: u32,
}

impl Walk {
    /// The packet whose turn it is. It stays until [`Walk::pop`].
    ///
    /// # Errors
    /// [`Stop::Empty`]: nothing is there. [`Stop::Broken`]: what the block says cannot be; call
    /// [`Walk::skip`] to give it back.
    pub(super) fn peek<'a>(&mut self, ring: &'a impl Blocks) -> Result<Frame<'a>, Stop> {
        let Some(block) = ring.block(self.block) else { return Err(Stop::Empty) };
        if self.left == 0 {
            let (Some(packets), Some(first)) = (word(block, 12), word(block, 16)) else {
                return Err(Stop::Broken);
            };
            (self.left, self.at) = (packets, first);
            if packets == 0 {
                return Err(Stop::Broken);
            }
        }
        frame(block, self.at as usize).ok_or(Stop::Broken)
    }

    /// The packet whose turn it is, unless it is one that went out. One step looks at one packet, so
    /// that whoever counts steps is not kept by those that are passed over.
    ///
    /// # Errors
    /// As [`Walk::peek`].
    pub(super) fn step<'a>(&mut self, ring: &'a mut impl Blocks) -> Result<Step<'a>, Stop> {
        if self.peek(ring)?.kind == libc::PACKET_OUTGOING {
            self.pop(ring);
            return Ok(Step::Out);
        }
        self.peek(ring).map(Step::In)
    }

    /// Goes on to the next packet; the last one's block goes back.
    pub(super) fn pop(&mut self, ring: &mut impl Blocks) {
        let next = ring.block(self.block).and_then(|b| word(b, self.at as usize));
        self.left = self.left.saturating_sub(1);
        match next {
            Some(step) if self.left > 0 && step > 0 => self.at = self.at.saturating_add(step),
            _ => drop(self.skip(ring)),
        }
    }

    /// Gives the block back whose turn it is and returns how many packets in it were not seen.
    pub(super) fn skip(&mut self, ring: &mut impl Blocks) -> u32 {
        let unseen = self.left;
        ring.give_back(self.block);
        self.left = 0;
        self.block = match self.block + 1 {
            next if next < ring.count() => next,
            _ => 0,
        };
        unseen
    }

    /// Packets that are ours to take now.
    pub(super) fn pending(&self, ring: &impl Blocks) -> usize {
        let (mut sum, n) = (0, ring.count());
        for i in 0..n {
            let Some(block) = ring.block((self.block + i) % n) else { break };
            let begun = i == 0 && self.left > 0;
            sum += if begun { self.left } else { word(block, 12).unwrap_or(0) } as usize;
        }
        sum
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

/// Reads the `struct tpacket3_hdr` at `at` and finds the frame behind it.
fn frame(block: &[u8], at: usize) -> Option<Frame<'_>> {
    let hdr = block.get(at..)?;
    let snaplen = word(hdr, 12)? as usize;
    let status = word(hdr, 20)?;
    let mac = usize::from(half(hdr, 24)?);
    let vlan = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
        let tpid = half(hdr, 36).filter(|_| status & libc::TP_STATUS_VLAN_TPID_VALID != 0);
        // The tag is 16 bits in a field of 32.
        (tpid.unwrap_or(super::super::ETH_P_8021Q), word(hdr, 32).unwrap_or(0) as u16)
    });
    Some(Frame {
        bytes: hdr.get(mac..mac.checked_add(snaplen)?)?,
        vnet: hdr.get(mac.checked_sub(VNET)?..mac)?,
        len: word(hdr, 16)? as usize,
        status,
        hash: word(hdr, 28)?,
        vlan,
        kind: *hdr.get(PKTTYPE)?,
    })
}

#[cfg(test)]
mod tests;
