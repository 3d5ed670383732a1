//! `AF_PACKET` rings: `PACKET_RX_RING`, `PACKET_TX_RING`, `PACKET_FANOUT`, and the memory they share
//! with the kernel. Linux: net/packet/af_packet.c, Documentation/networking/packet_mmap.rst.
//!
//! Who owns a block or a frame is said by its status word. The accessors here hand memory out only
//! while that word says that it is ours, and take it by reference, so that none of it can be
//! looked at after it went back.

use super::filter::Insn;
use super::packet::{get_packet_opt, set_packet_opt};
use super::{check, check_len};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// A status word, so that the protocol can be run on a model's atomics as well.
pub trait Word {
    /// Reads it; what the other side wrote before it set the value is seen after.
    fn load_acquire(&self) -> u32;
    /// Sets it; what we did before is seen by who reads the value.
    fn store_release(&self, value: u32);
}

impl Word for AtomicU32 {
    fn load_acquire(&self) -> u32 {
        self.load(Ordering::Acquire)
    }
    fn store_release(&self, value: u32) {
        self.store(value, Ordering::Release);
    }
}

/// Whether a block with this status word is ours.
pub fn is_ours(word: &impl Word) -> bool {
    word.load_acquire() & libc::TP_STATUS_USER != 0
}

/// Makes the block with this status word the kernel's.
pub fn release(word: &impl Word) {
    word.store_release(libc::TP_STATUS_KERNEL);
}

/// The size of a ring, as `struct tpacket_req3` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of a block: a multiple of the page.
    pub block_bytes: u32,
    /// How many blocks.
    pub blocks: u32,
    /// Bytes of a frame: a multiple of 16. In a receive ring of version 3 only a least size.
    pub frame_bytes: u32,
}

impl Size {
    /// Bytes of the whole ring.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.block_bytes as usize * self.blocks as usize
    }

    /// Frames in a block.
    fn frames_per_block(&self) -> u32 {
        self.block_bytes.checked_div(self.frame_bytes).unwrap_or(0)
    }

    /// Frames in all blocks.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames_per_block().saturating_mul(self.blocks)
    }

    fn request(&self) -> libc::tpacket_req3 {
        libc::tpacket_req3 {
            tp_block_size: self.block_bytes,
            tp_block_nr: self.blocks,
            tp_frame_size: self.frame_bytes,
            tp_frame_nr: self.frames(),
            tp_retire_blk_tov: 0,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        }
    }
}

/// `PACKET_VERSION` 3, before any ring is asked for.
///
/// # Errors
/// `EINVAL` on a kernel before 3.2, `EBUSY` if there are rings already.
pub fn set_version_3(fd: impl AsFd) -> io::Result<()> {
    set_packet_opt(fd, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V3 as libc::c_int))
}

/// Asks for a receive ring. A block goes to us when it is full, or `retire_ms` after its first
/// packet; `rxhash`: the kernel computes each packet's flow hash.
///
/// # Errors
/// `EINVAL` for sizes the kernel does not take, `ENOMEM`, `EBUSY` if the socket has one.
pub fn set_rx_ring(fd: impl AsFd, size: Size, retire_ms: u32, rxhash: bool) -> io::Result<()> {
    let mut request = size.request();
    request.tp_retire_blk_tov = retire_ms;
    request.tp_feature_req_word = if rxhash { libc::TP_FT_REQ_FILL_RXHASH } else { 0 };
    set_packet_opt(fd, libc::PACKET_RX_RING, &request)
}

/// Asks for a transmit ring.
///
/// # Errors
/// As [`set_rx_ring`]; `EINVAL` on a kernel before 4.11, which has none of version 3.
pub fn set_tx_ring(fd: impl AsFd, size: Size) -> io::Result<()> {
    set_packet_opt(fd, libc::PACKET_TX_RING, &size.request())
}

/// Joins a fanout group and returns its number. `group` 0 makes a new one.
///
/// # Errors
/// `EINVAL` if the socket is not bound to an interface that is up, or its kind differs from the
/// group's; `ENOSPC` beyond 256 members.
pub fn fanout(fd: impl AsFd, group: Option<u16>, kind: u16, flags: u16) -> io::Result<u16> {
    let unique = if group.is_none() { libc::PACKET_FANOUT_FLAG_UNIQUEID as u16 } else { 0 };
    let arg = u32::from(group.unwrap_or(0)) | u32::from(kind | flags | unique) << 16;
    set_packet_opt(&fd, libc::PACKET_FANOUT, &arg)?;
    let mut got = 0u32;
    get_packet_opt(&fd, libc::PACKET_FANOUT, &mut got)?;
    Ok((got & 0xffff) as u16)
}

/// Gives the fanout group of this socket a classic BPF program; it returns the number of a member.
///
/// # Errors
/// `EINVAL` for a program the kernel does not take, or a group of another kind; `EPERM` if the
/// socket's filter is locked.
pub fn fanout_program(fd: impl AsFd, program: &[Insn]) -> io::Result<()> {
    super::filter::set(fd, libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, program)
}

/// What a ring's socket counted since the last call (`struct tpacket_stats_v3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets that were for this socket, those that were dropped among them.
    pub packets: u32,
    /// Packets dropped: no block was free.
    pub drops: u32,
    /// Times the ring was full.
    pub freezes: u32,
}

/// `PACKET_STATISTICS` of a socket with a ring of version 3; the kernel begins anew.
///
/// # Errors
/// Those of `getsockopt`; none are expected on a packet socket.
pub fn statistics(fd: impl AsFd) -> io::Result<Stats> {
    let mut stats = [0u32; 3];
    get_packet_opt(fd, libc::PACKET_STATISTICS, &mut stats)?;
    let [packets, drops, freezes] = stats;
    Ok(Stats { packets, drops, freezes })
}

/// Sends what stands in the transmit ring. The kernel walks it from its own place on and stops at
/// the first frame that is not to be sent or that it cannot send.
///
/// # Errors
/// `EAGAIN`, `ENOBUFS`: no room now. `ENETDOWN`, `ENXIO`: the interface is down, or gone. `EINVAL`,
/// `EMSGSIZE`: a frame is wrong, and its status says which.
pub fn send_ring(fd: impl AsFd) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: no data and no address are passed: the kernel reads nothing of ours but the ring.
    check_len(unsafe {
        libc::sendto(fd.as_fd().as_raw_fd(), std::ptr::null(), 0, flags, std::ptr::null(), 0)
    })
}

/// The interface a packet socket is bound to; `None` once it is gone.
///
/// # Errors
/// Those of `getsockname`; none are expected.
pub fn bound_to(fd: impl AsFd) -> io::Result<Option<u32>> {
    // SAFETY: `sockaddr_ll` is integers and byte arrays; all-zero is a valid value.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `addr`, which has so many.
    check(unsafe {
        libc::getsockname(fd.as_fd().as_raw_fd(), (&raw mut addr).cast(), &raw mut len)
    })?;
    Ok(u32::try_from(addr.sll_ifindex).ok().filter(|&index| index > 0))
}

/// Memory that a socket's rings share with the kernel.
struct Map {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and does not depend on the thread; what the
// kernel changes in it is read only as the status words allow.
unsafe impl Send for Map {}

impl Map {
    fn new(fd: impl AsFd, len: usize) -> io::Result<Map> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).expect("the kernel maps nothing at address 0 unasked");
        Ok(Map { at, len })
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.len, "a status word lies in its ring");
        // SAFETY: the range was checked, the mapping is page-aligned and lives as long as `self`,
        // and both sides treat these four bytes as one atomic word.
        unsafe { self.at.add(at).cast::<AtomicU32>().as_ref() }
    }

    /// # Safety
    /// The kernel must have given the range to us, and nobody may change it while the slice lives.
    unsafe fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= self.len, "a block lies in its ring");
        // SAFETY: inside the mapping; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.at.add(at).as_ptr(), len) }
    }

    /// # Safety
    /// As [`Map::bytes`], and no other slice of the range may live.
    unsafe fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.len, "a frame lies in its ring");
        // SAFETY: inside the mapping; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(at).as_ptr(), len) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// Where `block_status` lies in `struct tpacket_block_desc`.
const BLOCK_STATUS: usize = 8;
/// Bytes of `struct tpacket3_hdr`: a frame to be sent begins behind them.
pub const FRAME_HEADER: usize = size_of::<libc::tpacket3_hdr>();
/// Where `tp_len` and `tp_status` lie in it.
const TP_LEN: usize = std::mem::offset_of!(libc::tpacket3_hdr, tp_len);
const TP_STATUS: usize = std::mem::offset_of!(libc::tpacket3_hdr, tp_status);

/// Both rings of a socket: its blocks for reception and its frames for transmission.
pub struct Rings {
    map: Map,
    rx: Size,
    tx: Size,
}

impl Rings {
    /// Maps what [`set_rx_ring`] and [`set_tx_ring`] asked for, in this order; a size of no blocks
    /// stands for a ring that was not asked for.
    ///
    /// # Errors
    /// `EINVAL` if the sizes are not those of the socket, `ENOMEM`, `EAGAIN` beyond the limit of
    /// locked memory.
    pub fn map(fd: impl AsFd, rx: Size, tx: Size) -> io::Result<Rings> {
        Ok(Rings { map: Map::new(fd, rx.bytes() + tx.bytes())?, rx, tx })
    }

    /// The size of the receive ring.
    #[must_use]
    pub fn rx(&self) -> Size {
        self.rx
    }

    /// The size of the transmit ring.
    #[must_use]
    pub fn tx(&self) -> Size {
        self.tx
    }

    fn block_at(&self, block: u32) -> usize {
        assert!(block < self.rx.blocks, "a block has a number below their count");
        block as usize * self.rx.block_bytes as usize
    }

    /// A block's bytes, if it is ours now.
    #[must_use]
    pub fn block(&self, block: u32) -> Option<&[u8]> {
        let at = self.block_at(block);
        if !is_ours(self.map.word(at + BLOCK_STATUS)) {
            return None;
        }
        // SAFETY: the status says that the kernel is done with it, and only `give_back`, which
        // needs `&mut self`, changes that.
        Some(unsafe { self.map.bytes(at, self.rx.block_bytes as usize) })
    }

    /// Gives a block to the kernel.
    pub fn give_back(&mut self, block: u32) {
        let at = self.block_at(block) + BLOCK_STATUS;
        release(self.map.word(at));
    }

    fn frame_at(&self, frame: u32) -> usize {
        assert!(frame < self.tx.frames(), "a frame has a number below their count");
        let per_block = self.tx.frames_per_block();
        let (block, rest) = (frame / per_block, frame % per_block);
        self.rx.bytes()
            + block as usize * self.tx.block_bytes as usize
            + rest as usize * self.tx.frame_bytes as usize
    }

    /// The status of a frame of the transmit ring, without the bits of time stamps.
    #[must_use]
    pub fn frame_status(&self, frame: u32) -> u32 {
        const STAMPS: u32 = libc::TP_STATUS_TS_SOFTWARE
            | libc::TP_STATUS_TS_SYS_HARDWARE
            | libc::TP_STATUS_TS_RAW_HARDWARE;
        self.map.word(self.frame_at(frame) + TP_STATUS).load_acquire() & !STAMPS
    }

    /// A frame's room for what is to be sent, if it is free.
    pub fn frame(&mut self, frame: u32) -> Option<&mut [u8]> {
        if self.frame_status(frame) != libc::TP_STATUS_AVAILABLE {
            return None;
        }
        let at = self.frame_at(frame) + FRAME_HEADER;
        let room = self.tx.frame_bytes as usize - FRAME_HEADER;
        // SAFETY: the status says that the kernel has no use of the frame, and it takes it only
        // after `request`, which needs `&mut self`; the header is not part of the slice.
        Some(unsafe { self.map.bytes_mut(at, room) })
    }

    /// A free frame's first `len` bytes are to be sent with the next [`send_ring`].
    pub fn request(&mut self, frame: u32, len: u32) {
        let at = self.frame_at(frame);
        assert!(
            self.frame_status(frame) == libc::TP_STATUS_AVAILABLE
                && len as usize <= self.tx.frame_bytes as usize - FRAME_HEADER,
            "a free frame is filled within its room"
        );
        self.map.word(at + TP_LEN).store(len, Ordering::Relaxed);
        self.map.word(at + TP_STATUS).store_release(libc::TP_STATUS_SEND_REQUEST);
    }

    /// Makes a frame free again that was requested or refused, and is not on its way. The kernel
    /// takes frames only inside [`send_ring`], so there is nobody to race with.
    pub fn withdraw(&mut self, frame: u32) {
        let status = self.frame_status(frame);
        if matches!(status, libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_WRONG_FORMAT) {
            let at = self.frame_at(frame) + TP_STATUS;
            self.map.word(at).store_release(libc::TP_STATUS_AVAILABLE);
        }
    }
}
