//! Memory that packetdrill points to, copied in and out.

use std::ffi::{c_int, c_void};
use std::net::SocketAddr;

use libc::{iovec, msghdr, sockaddr, socklen_t};

use crate::Errno;

/// A pointer below this is none: the first page is never mapped. Scripts pass such pointers to see
/// EFAULT.
const FIRST_PAGE: usize = 4096;

/// Longer than anything that is read or written in one call.
const MOST: usize = 1 << 30;

/// Whether this is no address at all.
pub(super) fn bad<T>(from: *const T) -> bool {
    from.addr() < FIRST_PAGE
}

/// Sets `errno` of this thread.
pub(super) fn set_errno(errno: Errno) {
    // SAFETY: the place is this thread's own.
    unsafe { *libc::__errno_location() = errno };
}

/// # Errors
/// EFAULT, EINVAL.
///
/// # Safety
/// `from` is no address at all, or `len` bytes lie there.
pub(super) unsafe fn copy_in(from: *const c_void, len: usize) -> Result<Vec<u8>, Errno> {
    match len {
        0 => Ok(Vec::new()),
        _ if bad(from) => Err(libc::EFAULT),
        1..=MOST => {
            // SAFETY: the caller promises `len` bytes.
            Ok(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) }.to_vec())
        }
        _ => Err(libc::EINVAL),
    }
}

/// # Errors
/// EFAULT.
///
/// # Safety
/// `to` is no address at all, or has room for the bytes.
pub(super) unsafe fn copy_out(bytes: &[u8], to: *mut c_void) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    if bad(to.cast_const()) {
        return Err(libc::EFAULT);
    }
    // SAFETY: the caller promises room for them; what is copied is ours and lies elsewhere.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast::<u8>(), bytes.len()) };
    Ok(())
}

/// # Errors
/// As [`crate::addr::parse`], EFAULT.
///
/// # Safety
/// `len` bytes lie at `addr`, or it is no address at all.
pub(super) unsafe fn address(
    addr: *const sockaddr,
    len: socklen_t,
) -> Result<Option<SocketAddr>, Errno> {
    // SAFETY: as the caller promises.
    let bytes = unsafe { copy_in(addr.cast(), len as usize) }?;
    crate::addr::parse(&bytes)
}

/// Stores as much as there is room for; `len` is the room, then the whole length.
///
/// # Safety
/// `to` and `len` are null, or `to` has `len` bytes of room.
pub(super) unsafe fn give(bytes: &[u8], to: *mut c_void, len: *mut socklen_t) {
    if to.is_null() || len.is_null() {
        return;
    }
    // SAFETY: as the caller promises.
    unsafe {
        let n = bytes.len().min(len.read() as usize);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast::<u8>(), n);
        len.write(bytes.len() as socklen_t);
    }
}

/// The same; `len` becomes the length of what was stored (`getsockopt`).
///
/// # Safety
/// `to` has `len` bytes of room.
pub(super) unsafe fn give_cut(bytes: &[u8], to: *mut c_void, len: *mut socklen_t) {
    // SAFETY: as the caller promises.
    unsafe {
        let n = bytes.len().min(len.read() as usize);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast::<u8>(), n);
        len.write(n as socklen_t);
    }
}

/// # Safety
/// So many elements lie there, and nobody else uses them meanwhile.
pub(super) unsafe fn slice_mut<'a, T>(at: *mut T, count: usize) -> &'a mut [T] {
    if at.is_null() || count == 0 {
        return &mut [];
    }
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts_mut(at, count) }
}

/// # Safety
/// So many buffers are described there.
unsafe fn parts<'a>(iov: *const iovec, count: usize) -> Result<&'a [iovec], Errno> {
    match count {
        0 => Ok(&[]),
        _ if bad(iov) => Err(libc::EFAULT),
        // SAFETY: as the caller promises.
        1..=1024 => Ok(unsafe { std::slice::from_raw_parts(iov, count) }),
        _ => Err(libc::EMSGSIZE),
    }
}

/// The length of all buffers together.
///
/// # Errors
/// EFAULT, EINVAL, EMSGSIZE.
///
/// # Safety
/// So many buffers are described there.
pub(super) unsafe fn total(iov: *const iovec, count: usize) -> Result<usize, Errno> {
    // SAFETY: as the caller promises.
    let parts = unsafe { parts(iov, count) }?;
    let total = parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.iov_len));
    total.filter(|total| *total <= MOST).ok_or(libc::EINVAL)
}

/// How long the buffers are.
///
/// # Errors
/// As [`total`].
///
/// # Safety
/// So many buffers are described there.
pub(super) unsafe fn lengths(iov: *const iovec, count: usize) -> Result<Vec<usize>, Errno> {
    // SAFETY: as the caller promises.
    let parts = unsafe { parts(iov, count) }?;
    Ok(parts.iter().map(|part| part.iov_len).collect())
}

/// What lies in the buffers.
///
/// # Errors
/// As [`total`].
///
/// # Safety
/// So many buffers are described there, each with its length.
pub(super) unsafe fn gather(iov: *const iovec, count: usize) -> Result<Vec<u8>, Errno> {
    // SAFETY: as the caller promises.
    let (total, parts) = unsafe { (total(iov, count)?, parts(iov, count)?) };
    let mut out = Vec::with_capacity(total);
    for part in parts {
        // SAFETY: the buffer has its length.
        out.extend(unsafe { copy_in(part.iov_base, part.iov_len) }?);
    }
    Ok(out)
}

/// Fills the buffers in their order.
///
/// # Errors
/// EFAULT, EMSGSIZE.
///
/// # Safety
/// So many buffers are described there, each with its length.
pub(super) unsafe fn scatter(
    mut bytes: &[u8],
    iov: *const iovec,
    count: usize,
) -> Result<(), Errno> {
    // SAFETY: as the caller promises.
    for part in unsafe { parts(iov, count) }? {
        let (here, rest) = bytes.split_at(bytes.len().min(part.iov_len));
        // SAFETY: the buffer has room for its length.
        unsafe { copy_out(here, part.iov_base) }?;
        bytes = rest;
    }
    Ok(())
}

/// Stores control messages as `struct cmsghdr` and data, each aligned to a word; `MSG_CTRUNC` says
/// that there was no room for all.
///
/// # Safety
/// The control buffer has room for what its length says.
pub(super) unsafe fn give_control(control: &[(c_int, c_int, Vec<u8>)], msg: &mut msghdr) {
    let mut out = Vec::new();
    let mut cut = false;
    for (level, kind, data) in control {
        let len = size_of::<libc::cmsghdr>() + data.len();
        if msg.msg_control.is_null() || out.len() + len > msg.msg_controllen {
            cut = true;
            break;
        }
        out.extend(len.to_ne_bytes());
        out.extend(level.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(data);
        out.resize(out.len().next_multiple_of(size_of::<usize>()), 0);
    }
    out.truncate(msg.msg_controllen);
    // SAFETY: no more bytes than the caller promises.
    let _stored = unsafe { copy_out(&out, msg.msg_control) };
    msg.msg_controllen = out.len();
    msg.msg_flags |= if cut { libc::MSG_CTRUNC } else { 0 };
}
