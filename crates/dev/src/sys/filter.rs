//! Classic BPF: its instruction, and the socket options that take programs of it.
//! Linux: net/core/filter.c, Documentation/networking/filter.rst.

use super::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// An instruction (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insn {
    /// What to do (`BPF_*`).
    pub code: u16,
    /// Instructions to skip if the condition holds.
    pub jt: u8,
    /// Instructions to skip if not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: libc::c_ushort,
    insns: *const Insn,
}

/// Sets a socket option whose value is a program.
pub(super) fn set(
    fd: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    insns: &[Insn],
) -> io::Result<()> {
    let len = libc::c_ushort::try_from(insns.len())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = Program { len, insns: insns.as_ptr() };
    // SAFETY: the kernel reads the `sock_fprog` and the `len` instructions it points at, all of
    // which live across the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const program).cast(),
            size_of::<Program>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// `SO_ATTACH_FILTER`: from now on the socket receives only what the program returns a length for.
///
/// # Errors
/// `EINVAL` for a program the kernel does not take.
pub fn attach(fd: impl AsFd, program: &[Insn]) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

/// `SO_DETACH_FILTER`.
///
/// # Errors
/// `ENOENT` if there is none.
pub fn detach(fd: impl AsFd) -> io::Result<()> {
    let none: libc::c_int = 0;
    // SAFETY: the kernel reads one int, which lives across the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const none).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}
