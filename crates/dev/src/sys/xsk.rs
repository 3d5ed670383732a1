//! AF_XDP sockets. Linux: net/xdp/xsk.c, include/uapi/linux/if_xdp.h.

use super::{check, check_len, ifreq};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `XDP_MAX_TX_SKB_BUDGET` of Linux 6.17, which libc does not have yet.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// `SO_PREFER_BUSY_POLL` and `SO_BUSY_POLL_BUDGET` of include/uapi/asm-generic/socket.h.
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

/// How many slots a ring of a socket gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Fill ring, a power of two.
    pub fill: u32,
    /// Completion ring, a power of two.
    pub completion: u32,
    /// Receive ring, a power of two.
    pub rx: u32,
    /// Transmit ring, a power of two.
    pub tx: u32,
}

/// `struct xdp_statistics`: what the kernel counts at one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames dropped for want of a chunk in the fill ring, or because they were too long for one.
    pub rx_dropped: u64,
    /// Addresses in the fill ring that lie outside the UMEM.
    pub rx_invalid_descs: u64,
    /// Descriptors in the transmit ring that make no sense.
    pub tx_invalid_descs: u64,
    /// Frames dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times the fill ring was empty when a chunk was wanted.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the transmit ring was empty when it was looked at.
    pub tx_ring_empty_descs: u64,
}

/// Opens a non-blocking AF_XDP socket.
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW`, `EAFNOSUPPORT` where the kernel has no AF_XDP.
pub fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None)?)
}

/// `XDP_UMEM_REG`: the region is this socket's memory.
///
/// # Errors
/// `ENOBUFS` beyond `RLIMIT_MEMLOCK` without `CAP_IPC_LOCK`, `ENOMEM`, `EINVAL` for a chunk size
/// that the kernel does not take.
pub fn register(fd: impl AsFd, region: &'static super::umem::Region) -> io::Result<()> {
    let reg = libc::xdp_umem_reg {
        addr: region.addr(),
        len: region.len() as u64,
        chunk_size: region.chunk_size() as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    // The kernel writes into the region from now on only what lies in the fill ring; see `Region`.
    set(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &reg)
}

/// Makes the four rings.
///
/// # Errors
/// `EINVAL` for a size that is no power of two, `ENOMEM`.
pub fn set_rings(fd: impl AsFd, sizes: Sizes) -> io::Result<()> {
    let fd = fd.as_fd();
    for (name, size) in [
        (libc::XDP_UMEM_FILL_RING, sizes.fill),
        (libc::XDP_UMEM_COMPLETION_RING, sizes.completion),
        (libc::XDP_RX_RING, sizes.rx),
        (libc::XDP_TX_RING, sizes.tx),
    ] {
        set(fd, libc::SOL_XDP, name, &size)?;
    }
    Ok(())
}

/// `XDP_MMAP_OFFSETS`: where in its mapping each ring has what.
///
/// # Errors
/// `ENOSYS` where the kernel (before 5.4) has no flags word in the rings.
pub fn offsets(fd: impl AsFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: the structure is integers; all-zero is a valid value.
    let mut off: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let whole = size_of_val(&off);
    if get(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut off)? < whole {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    Ok(off)
}

/// Binds to a queue of an interface. `flags` are the `XDP_*` bits of the bind; with
/// `XDP_SHARED_UMEM` the memory is that of `umem_of`.
///
/// # Errors
/// `EBUSY` if the queue has a socket, `EINVAL` if there is no such queue or the flags are too new
/// for the kernel, `EOPNOTSUPP` where the driver has no zero-copy mode, `ENODEV`, `ENETDOWN`.
pub fn bind(
    fd: impl AsFd,
    ifindex: u32,
    queue: u32,
    flags: u16,
    umem_of: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let addr = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: umem_of.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: `addr` is a whole `sockaddr_xdp` and the length says so; bind only reads it.
    check(unsafe {
        libc::bind(
            fd.as_fd().as_raw_fd(),
            (&raw const addr).cast(),
            size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Makes the kernel send what stands in the transmit ring.
///
/// # Errors
/// `EAGAIN` if it stopped before the end, `ENOBUFS`/`EBUSY` if the driver has no room, `ENETDOWN`
/// if the interface is down, `ENXIO` if it is gone.
pub fn wake_tx(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    let sent = unsafe {
        let (flags, none) = (libc::MSG_DONTWAIT, std::ptr::null());
        libc::sendto(fd.as_fd().as_raw_fd(), none, 0, flags, std::ptr::null(), 0)
    };
    check_len(sent).map(drop)
}

/// Makes the driver look at the fill ring, and polls it where busy polling is on.
///
/// # Errors
/// `ENETDOWN`, `ENXIO` as for [`wake_tx`].
pub fn wake_rx(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    let got = unsafe {
        let (flags, none) = (libc::MSG_DONTWAIT, std::ptr::null_mut());
        let (addr, len) = (std::ptr::null_mut(), std::ptr::null_mut());
        libc::recvfrom(fd.as_fd().as_raw_fd(), none, 0, flags, addr, len)
    };
    check_len(got).map(drop)
}

/// `XDP_STATISTICS`.
///
/// # Errors
/// Those of getsockopt; none are expected. What an old kernel does not count stays 0.
pub fn statistics(fd: impl AsFd) -> io::Result<Statistics> {
    let mut s = [0u64; 6];
    get(fd, libc::SOL_XDP, libc::XDP_STATISTICS, &mut s)?;
    Ok(Statistics {
        rx_dropped: s[0],
        rx_invalid_descs: s[1],
        tx_invalid_descs: s[2],
        rx_ring_full: s[3],
        rx_fill_ring_empty_descs: s[4],
        tx_ring_empty_descs: s[5],
    })
}

/// `XDP_OPTIONS`: whether the socket got the zero-copy mode.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 5.3.
pub fn is_zero_copy(fd: impl AsFd) -> io::Result<bool> {
    let mut flags = 0u32;
    get(fd, libc::SOL_XDP, libc::XDP_OPTIONS, &mut flags)?;
    Ok(flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// How many frames one [`wake_tx`] sends in copy mode; Linux's default is 32.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 6.17; `EACCES` below 32 or above the size of the transmit ring.
pub fn set_tx_budget(fd: impl AsFd, frames: u32) -> io::Result<()> {
    set(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &frames)
}

/// Busy polling: microseconds, packets at once, and that it be preferred to interrupts.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`, `ENOPROTOOPT` before Linux 5.11.
pub fn set_busy_poll(fd: impl AsFd, usecs: u32, budget: u32) -> io::Result<()> {
    let fd = fd.as_fd();
    set(fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1u32)?;
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &usecs)?;
    set(fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &budget)
}

/// `SO_BUSY_POLL` of any socket: microseconds for which a read looks into the device's queue before
/// it sleeps.
///
/// # Errors
/// `EPERM` to raise it without `CAP_NET_ADMIN`.
pub fn set_busy_read(fd: impl AsFd, usecs: u32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &usecs)
}

/// `SO_ERROR`: the error that waits at the socket, which is none afterwards. `ENETDOWN` once the
/// interface is gone.
///
/// # Errors
/// The error itself.
pub fn take_error(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::socket_error(fd)??)
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `ETHTOOL_GCHANNELS`: how many queues the interface `name` receives by.
///
/// # Errors
/// `ENODEV`, `EOPNOTSUPP` where the driver does not say: it has one then.
pub fn rx_queues(name: &str) -> io::Result<u32> {
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    let kind = (AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC);
    let fd = rustix::net::socket_with(kind.0, kind.1, kind.2, None)?;
    let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, ..Channels::default() };
    let mut req = ifreq::with_name(name)?;
    req.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: SIOCETHTOOL reads the command and writes one `ethtool_channels`, which `channels` is,
    // during the call only.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut req) })?;
    Ok(channels.rx.saturating_add(channels.combined).max(1))
}

fn set<T: Copy>(fd: impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `value`; the callers pass integers and
    // `xdp_umem_reg`, which has no padding.
    check(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Returns how many bytes the kernel wrote.
fn get<T: Copy>(
    fd: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<usize> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`; the callers pass integers, arrays
    // of them and `xdp_mmap_offsets`, for which every bit pattern is a value.
    check(unsafe {
        let to = std::ptr::from_mut(value).cast();
        libc::getsockopt(fd.as_fd().as_raw_fd(), level, name, to, &raw mut len)
    })?;
    Ok(len as usize)
}
