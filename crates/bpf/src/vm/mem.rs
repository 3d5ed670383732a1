//! Memory as a program sees it. An address says by its highest byte what it points into; there is
//! no way from it to memory of ours that is not checked here.

use std::sync::Arc;

use super::fault::Bad;
use super::op::*;
use super::packet::Packet;
use crate::check::{FRAMES_MAX, STACK_MAX};
use crate::maps::{Map, RDONLY_PROG, WRONLY_PROG};

/// The stack of all functions.
pub(super) type Stack = [u8; FRAMES_MAX * STACK_MAX];

/// A record of a ring buffer between `reserve` and `submit`.
#[derive(Debug)]
pub(super) struct Making {
    pub map: usize,
    pub data: Vec<u8>,
    pub live: bool,
}

/// Everything that a program may reach.
pub(super) struct Mem<'a, 'p> {
    pub packet: &'a mut Packet<'p>,
    pub stack: &'a mut Stack,
    /// Where the stack of the running function ends: what is above is not in use.
    pub top: usize,
    pub maps: &'a [Arc<Map>],
    pub making: &'a mut Vec<Making>,
    pub ifindex: u32,
    pub queue: u32,
}

/// The part of a value's address that is its place in its map.
const VALUE_OFFSET: u64 = (1 << VALUE_MAP) - 1;

fn le<const N: usize>(bytes: &[u8; N]) -> u64 {
    let mut word = [0; 8];
    word[..N].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// The memory that most instructions mean: the packet with its metadata, and the stack as far as it is
/// in use.
pub(super) struct Near<'a> {
    packet: &'a mut [u8],
    /// The address of the packet's memory.
    base: u64,
    stack: &'a mut [u8],
    /// The first fields of `struct xdp_md`: where the packet begins and ends, and its metadata.
    ends: [u64; 3],
}

impl Near<'_> {
    #[inline(always)]
    fn packet_at<const N: usize>(&mut self, addr: u64) -> Option<&mut [u8; N]> {
        let at = addr.wrapping_sub(self.base) as usize;
        self.packet.get_mut(at..)?.first_chunk_mut()
    }
    #[inline(always)]
    fn stack_at<const N: usize>(&mut self, addr: u64) -> Option<&mut [u8; N]> {
        let at = addr.wrapping_sub(STACK_BASE) as usize;
        self.stack.get_mut(at..)?.first_chunk_mut()
    }

    /// Reads `N` bytes, at most eight; `None` if they do not lie here.
    #[inline(always)]
    pub fn load<const N: usize>(&mut self, addr: u64) -> Option<u64> {
        if let Some(bytes) = self.packet_at::<N>(addr) {
            return Some(le(bytes));
        }
        self.stack_at::<N>(addr).map(|bytes| le(bytes))
    }

    /// Reads the four bytes of a field of `struct xdp_md` that tells where the packet is.
    #[inline(always)]
    pub fn end(&self, addr: u64) -> Option<u64> {
        let at = addr.wrapping_sub(TAG_CTX << TAG);
        // A field, and not the middle of one.
        self.ends.get(at.rotate_right(2) as usize).copied()
    }

    /// Writes the `N` low bytes of `value`, at most eight; false if they do not lie here.
    #[inline(always)]
    pub fn store<const N: usize>(&mut self, addr: u64, value: u64) -> bool {
        let bytes = value.to_le_bytes();
        let from = bytes.first_chunk::<N>().expect("at most eight");
        if let Some(to) = self.stack_at::<N>(addr) {
            *to = *from;
            return true;
        }
        let to = self.packet_at::<N>(addr);
        to.map(|to| *to = *from).is_some()
    }
}

impl Mem<'_, '_> {
    /// What lies near, until something else is done.
    #[inline]
    pub fn near(&mut self) -> Near<'_> {
        let packet = &mut *self.packet;
        let ends = [packet.data, packet.end, packet.meta].map(|at| PACKET_BASE + at as u64);
        let base = PACKET_BASE + packet.meta as u64;
        let window = packet.mem.get_mut(packet.meta..packet.end).unwrap_or_default();
        let stack = self.stack.get_mut(..self.top).unwrap_or_default();
        Near { packet: window, base, stack, ends }
    }

    #[inline(always)]
    fn stack_at<const N: usize>(&mut self, addr: u64) -> Option<&mut [u8; N]> {
        let at = addr.wrapping_sub(STACK_BASE) as usize;
        self.stack.get_mut(..self.top)?.get_mut(at..)?.first_chunk_mut()
    }

    /// Reads `N` bytes, at most eight.
    pub fn load<const N: usize>(&mut self, addr: u64) -> Result<u64, Bad> {
        let near = self.near().load::<N>(addr);
        near.map_or_else(|| self.load_far(addr, N), Ok)
    }

    /// Writes the `N` low bytes of `value`, at most eight.
    pub fn store<const N: usize>(&mut self, addr: u64, value: u64) -> Result<(), Bad> {
        if self.near().store::<N>(addr, value) { Ok(()) } else { self.store_far(addr, N, value) }
    }

    /// Reads `size` bytes, at most eight, that are not [`Near`].
    pub fn load_far(&mut self, addr: u64, size: usize) -> Result<u64, Bad> {
        match addr >> TAG {
            TAG_CTX => self.context(addr, size),
            TAG_VALUE => {
                let map = self.value_map(addr, WRONLY_PROG)?;
                map.load(addr & VALUE_OFFSET, size).ok_or(Bad::Read)
            }
            TAG_RECORD => {
                let mut word = [0; 8];
                word[..size].copy_from_slice(self.record(addr, size).ok_or(Bad::Read)?);
                Ok(u64::from_le_bytes(word))
            }
            _ => Err(Bad::Read),
        }
    }

    /// `struct xdp_md`, whose first fields hold pointers although they have 32 bits.
    fn context(&self, addr: u64, size: usize) -> Result<u64, Bad> {
        let packet = |at: usize| PACKET_BASE + at as u64;
        match (addr & 0xff_ffff_ffff, size) {
            (0, 4) => Ok(packet(self.packet.data)),
            (4, 4) => Ok(packet(self.packet.end)),
            (8, 4) => Ok(packet(self.packet.meta)),
            (12, 4) => Ok(u64::from(self.ifindex)),
            (16, 4) => Ok(u64::from(self.queue)),
            _ => Err(Bad::Context),
        }
    }

    fn value_map(&self, addr: u64, denied: u32) -> Result<&Map, Bad> {
        let number = (addr >> VALUE_MAP & 0xff) as usize;
        let map = self.maps.get(number).ok_or(Bad::Read)?;
        if map.def().flags & denied != 0 {
            return Err(if denied == RDONLY_PROG { Bad::ReadOnly } else { Bad::WriteOnly });
        }
        Ok(map)
    }

    fn record(&mut self, addr: u64, size: usize) -> Option<&mut [u8]> {
        let (number, at) = ((addr >> 32 & 0xff_ffff) as usize, addr as u32 as usize);
        let making = self.making.get_mut(number).filter(|m| m.live)?;
        making.data.get_mut(at..at.checked_add(size)?)
    }

    /// Writes the `size` low bytes of `value`, at most eight, to memory that is not [`Near`].
    pub fn store_far(&mut self, addr: u64, size: usize, value: u64) -> Result<(), Bad> {
        match addr >> TAG {
            TAG_CTX => Err(Bad::ContextWrite),
            TAG_VALUE => {
                let map = self.value_map(addr, RDONLY_PROG)?;
                map.store(addr & VALUE_OFFSET, size, value).ok_or(Bad::Write)
            }
            TAG_RECORD => {
                let to = self.record(addr, size).ok_or(Bad::Write)?;
                to.copy_from_slice(&value.to_le_bytes()[..size]);
                Ok(())
            }
            _ => Err(Bad::Write),
        }
    }

    /// Replaces the `size` (4 or 8) bytes at `addr` by what `f` makes of them; what they were.
    pub fn atomic(&mut self, addr: u64, size: usize, f: impl Fn(u64) -> u64) -> Result<u64, Bad> {
        match addr >> TAG {
            TAG_VALUE => {
                let map = self.value_map(addr, RDONLY_PROG | WRONLY_PROG)?;
                map.atomic(addr & VALUE_OFFSET, size, f).ok_or(Bad::Atomic)
            }
            TAG_STACK if size == 4 => {
                let to = self.stack_at::<4>(addr).ok_or(Bad::Atomic)?;
                let old = u32::from_le_bytes(*to);
                *to = (f(u64::from(old)) as u32).to_le_bytes();
                Ok(u64::from(old))
            }
            TAG_STACK => {
                let to = self.stack_at::<8>(addr).ok_or(Bad::Atomic)?;
                let old = u64::from_le_bytes(*to);
                *to = f(old).to_le_bytes();
                Ok(old)
            }
            _ => Err(Bad::Atomic),
        }
    }

    /// Bytes of the stack or the packet, where they lie.
    #[inline]
    pub fn slice(&self, addr: u64, len: usize) -> Option<&[u8]> {
        match addr >> TAG {
            TAG_STACK => {
                let at = addr.wrapping_sub(STACK_BASE) as usize;
                self.stack.get(..self.top)?.get(at..at.checked_add(len)?)
            }
            TAG_PACKET => {
                let at = addr.checked_sub(PACKET_BASE)? as usize;
                let at = at.checked_sub(self.packet.meta)?;
                let window = self.packet.mem.get(self.packet.meta..self.packet.end)?;
                window.get(at..at.checked_add(len)?)
            }
            _ => None,
        }
    }

    /// Copies bytes out.
    pub fn read(&mut self, addr: u64, out: &mut [u8]) -> Result<(), Bad> {
        if out.is_empty() {
            return Ok(());
        }
        if let Some(bytes) = self.slice(addr, out.len()) {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        match addr >> TAG {
            TAG_VALUE => {
                let map = self.value_map(addr, WRONLY_PROG)?;
                map.read(addr & VALUE_OFFSET, out).ok_or(Bad::Read)
            }
            TAG_RECORD => {
                out.copy_from_slice(self.record(addr, out.len()).ok_or(Bad::Read)?);
                Ok(())
            }
            _ => Err(Bad::Read),
        }
    }

    /// Copies bytes in.
    pub fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Bad> {
        if bytes.is_empty() {
            return Ok(());
        }
        match addr >> TAG {
            TAG_STACK => {
                let at = addr.wrapping_sub(STACK_BASE) as usize;
                let stack = self.stack.get_mut(..self.top).ok_or(Bad::Write)?;
                let end = at.checked_add(bytes.len()).ok_or(Bad::Write)?;
                stack.get_mut(at..end).ok_or(Bad::Write)?.copy_from_slice(bytes);
                Ok(())
            }
            TAG_PACKET => {
                let off = addr.checked_sub(PACKET_BASE + self.packet.data as u64);
                let off = usize::try_from(off.ok_or(Bad::Write)?).map_err(|_| Bad::Write)?;
                if self.packet.store_bytes(off, bytes) { Ok(()) } else { Err(Bad::Write) }
            }
            TAG_VALUE => {
                let map = self.value_map(addr, RDONLY_PROG)?;
                map.write(addr & VALUE_OFFSET, bytes).ok_or(Bad::Write)
            }
            TAG_RECORD => {
                self.record(addr, bytes.len()).ok_or(Bad::Write)?.copy_from_slice(bytes);
                Ok(())
            }
            _ => Err(Bad::Write),
        }
    }
}
