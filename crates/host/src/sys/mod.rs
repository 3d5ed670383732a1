//! System calls that no safe crate has: options of netlink sockets, `SIOCETHTOOL`.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

mod ethtool;

pub(crate) use ethtool::{Ethtool, LOCATION_AT, SPEC_BYTES, Words};

/// Asks for the kernel's own sentence with each error (`NETLINK_EXT_ACK`), and not to have the request
/// echoed (`NETLINK_CAP_ACK`).
///
/// # Errors
/// `ENOPROTOOPT` on kernels before 4.12.
pub(crate) fn explain_errors(fd: impl AsFd) -> io::Result<()> {
    netlink_option(&fd, libc::NETLINK_EXT_ACK)?;
    netlink_option(&fd, libc::NETLINK_CAP_ACK)
}

/// Asks the kernel to heed what a dump's request filters (`NETLINK_GET_STRICT_CHK`).
///
/// # Errors
/// `ENOPROTOOPT` on kernels before 4.20.
pub(crate) fn check_strictly(fd: impl AsFd) -> io::Result<()> {
    netlink_option(&fd, libc::NETLINK_GET_STRICT_CHK)
}

fn netlink_option(fd: &impl AsFd, option: c_int) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the kernel reads one int from `on`, which lives across the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
