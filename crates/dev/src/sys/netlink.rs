//! The two options that make rtnetlink explain its refusals. Linux: net/netlink/af_netlink.c.

use super::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Asks for the kernel's own sentence with each error (`NETLINK_EXT_ACK`) and not to have the
/// request echoed (`NETLINK_CAP_ACK`).
///
/// # Errors
/// `ENOPROTOOPT` on kernels before 4.12.
pub fn explain_errors(fd: impl AsFd) -> io::Result<()> {
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one int from `on`, which lives across the call.
        check(unsafe {
            libc::setsockopt(
                fd.as_fd().as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })?;
    }
    Ok(())
}
