//! `/dev/net/tun`: open, name, offloads. Linux: drivers/net/tun.c, Documentation/networking/tuntap.rst.

use super::{check, ifreq};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// `TUNSETIFF` flags a caller may combine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IffFlags {
    /// Ethernet frames (`IFF_TAP`) and not IP packets (`IFF_TUN`).
    pub tap: bool,
    /// A `virtio_net_hdr` in front of every packet (`IFF_VNET_HDR`).
    pub vnet_hdr: bool,
    /// More than one queue may be attached (`IFF_MULTI_QUEUE`).
    pub multi_queue: bool,
    /// The kernel takes what we write in a NAPI poll, with GRO (`IFF_NAPI`).
    pub napi: bool,
}

/// Opens the clone device, non-blocking and close-on-exec.
///
/// # Errors
/// `ENOENT` where there is no such file, `EACCES`/`EPERM` where it may not be opened.
pub fn open(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// `TUNSETIFF`: makes the interface (or attaches a queue to it) and returns its name.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` in the user namespace that owns this network namespace,
/// `EBUSY` if the name is taken, `EINVAL` for a bad name or flags that differ from the first queue's.
pub fn set_iff(fd: impl AsFd, name: &str, flags: IffFlags) -> io::Result<String> {
    let mut bits = libc::IFF_NO_PI | if flags.tap { libc::IFF_TAP } else { libc::IFF_TUN };
    if flags.vnet_hdr {
        bits |= libc::IFF_VNET_HDR;
    }
    if flags.multi_queue {
        bits |= libc::IFF_MULTI_QUEUE;
    }
    if flags.napi {
        bits |= libc::IFF_NAPI;
    }
    let mut req = ifreq::with_name(name)?;
    req.ifr_ifru.ifru_flags = bits as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `req` is, for the length of the
    // call only.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw mut req) })?;
    Ok(ifreq::name(&req))
}

/// `TUNGETIFF`: the name and the flags as the kernel keeps them.
///
/// # Errors
/// `EBADFD` if no interface is attached.
pub fn get_iff(fd: impl AsFd) -> io::Result<(String, IffFlags)> {
    let mut req = ifreq::with_name("")?;
    // SAFETY: TUNGETIFF writes one `struct ifreq`.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNGETIFF, &raw mut req) })?;
    // SAFETY: the kernel stored `ifr_flags`, and every bit pattern is a valid short.
    let bits = libc::c_int::from(unsafe { req.ifr_ifru.ifru_flags });
    let flags = IffFlags {
        tap: bits & libc::IFF_TAP != 0,
        vnet_hdr: bits & libc::IFF_VNET_HDR != 0,
        multi_queue: bits & libc::IFF_MULTI_QUEUE != 0,
        napi: bits & libc::IFF_NAPI != 0,
    };
    Ok((ifreq::name(&req), flags))
}

/// `TUNGETFEATURES`: the `IFF_*` bits this kernel knows.
///
/// # Errors
/// Those of `ioctl`; none are expected on an open clone device.
pub fn get_features(fd: impl AsFd) -> io::Result<u32> {
    let mut bits: libc::c_uint = 0;
    // SAFETY: TUNGETFEATURES writes one unsigned int.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNGETFEATURES, &raw mut bits) })?;
    Ok(bits)
}

/// `TUNSETVNETHDRSZ`: bytes of the `virtio_net_hdr` in front of each packet, 10 or 12.
///
/// # Errors
/// `EINVAL` for a size the kernel does not take.
pub fn set_vnet_hdr_sz(fd: impl AsFd, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })?;
    Ok(())
}

/// `TUNSETOFFLOAD`: the `TUN_F_*` mask of what we can take. It belongs to the device, not to this
/// queue, and outlives the descriptor on a persistent device.
///
/// # Errors
/// `EINVAL` if the kernel does not know one of the bits, or a bit lacks the one it depends on.
pub fn set_offload(fd: impl AsFd, mask: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe {
        libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask))
    })?;
    Ok(())
}

/// `TUNSETQUEUE`: attaches this queue to its interface again, or takes it off. What waits in a queue
/// that is taken off is lost.
///
/// # Errors
/// `EINVAL` if it is so already, or the interface was not made for several queues.
pub fn set_queue(fd: impl AsFd, attach: bool) -> io::Result<()> {
    let mut req = ifreq::with_name("")?;
    let bits = if attach { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    req.ifr_ifru.ifru_flags = bits as libc::c_short;
    // SAFETY: TUNSETQUEUE reads one `struct ifreq`.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETQUEUE, &raw const req) })?;
    Ok(())
}

/// `TUNSETSNDBUF`: bytes that may wait in the kernel for what we wrote.
///
/// # Errors
/// `EINVAL` if not positive.
pub fn set_sndbuf(fd: impl AsFd, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETSNDBUF reads one int.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETSNDBUF, &raw const bytes) })?;
    Ok(())
}
