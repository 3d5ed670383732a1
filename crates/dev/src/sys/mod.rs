//! The system calls that have no safe wrapper elsewhere. The only `unsafe` of this crate is here.
//!
//! Nothing in this folder decides anything about packets: each function is one system call with
//! its arguments checked, and the callers in the parent folder hold the policy.
#![allow(unsafe_code)]

pub mod ethtool;
pub mod filter;
mod ifreq;
pub mod netlink;
pub mod packet;
pub mod spsc;
pub mod ring;
pub mod packet_ring;
pub mod tun;
pub mod umem;
pub mod xsk;

use std::io;

/// Turns the result of a libc call into an [`io::Result`], reading `errno` at once.
fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// The same for the calls that return a length.
fn check_len(ret: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}
