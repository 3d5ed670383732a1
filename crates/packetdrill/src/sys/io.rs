//! Reading and writing, through pointers.

use std::ffi::{c_int, c_void};

use libc::{iovec, msghdr, size_t, sockaddr, socklen_t, ssize_t};

use super::{Returned, User, library, memory, patience};
use crate::Errno;
use crate::data::{Got, Write};
use crate::wait::Library;

pub(super) unsafe extern "C" fn read(
    user: User,
    fd: c_int,
    buf: *mut c_void,
    count: size_t,
) -> ssize_t {
    // SAFETY: as recv.
    unsafe { recv(user, fd, buf, count, 0) }
}

pub(super) unsafe extern "C" fn readv(
    user: User,
    fd: c_int,
    iov: *const iovec,
    count: c_int,
) -> ssize_t {
    // SAFETY: packetdrill passes what it was given, and so many buffers.
    let library = unsafe { library(user) };
    // SAFETY: so many buffers with their lengths.
    let total = unsafe { memory::total(iov, count as usize) };
    let got = total.and_then(|total| receive(library, fd, total, 0));
    ssize_t::of(got.and_then(|(got, bytes)| {
        // SAFETY: so many buffers with their lengths.
        unsafe { memory::scatter(&bytes, iov, count as usize) }?;
        Ok(got.len)
    }))
}

/// Receives into memory of our own: no pointer is kept while the call waits.
fn receive(
    library: &Library,
    fd: c_int,
    len: usize,
    flags: c_int,
) -> Result<(Got, Vec<u8>), Errno> {
    let mut bytes = vec![0; len.min(1 << 24)];
    let mut so_far = 0;
    let got = library
        .wait(|c| patience(c, fd, flags, false), |c| c.recv(fd, &mut bytes, flags, &mut so_far));
    let got = match got {
        Err(libc::EAGAIN) if so_far > 0 => Got { len: so_far, ..Got::default() },
        other => other?,
    };
    bytes.truncate(if flags & libc::MSG_TRUNC != 0 { 0 } else { got.len });
    Ok((got, bytes))
}

pub(super) unsafe extern "C" fn recv(
    user: User,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    if len > 0 && memory::bad(buf) {
        return ssize_t::of(Err(libc::EFAULT));
    }
    let got = receive(library, fd, len, flags);
    ssize_t::of(got.and_then(|(got, bytes)| {
        // SAFETY: `buf` has room for `len` bytes, and there are no more.
        unsafe { memory::copy_out(&bytes, buf) }?;
        Ok(got.len)
    }))
}

pub(super) unsafe extern "C" fn recvfrom(
    user: User,
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addrlen: *mut socklen_t,
) -> ssize_t {
    if !addr.is_null() && !addrlen.is_null() {
        // A stream has no sender to tell.
        // SAFETY: packetdrill passes where the length is to be stored.
        unsafe { addrlen.write(0) };
    }
    // SAFETY: as recv.
    unsafe { recv(user, fd, buf, len, flags) }
}

pub(super) unsafe extern "C" fn recvmsg(
    user: User,
    fd: c_int,
    msg: *mut msghdr,
    flags: c_int,
) -> ssize_t {
    if memory::bad(msg) {
        return ssize_t::of(Err(libc::EFAULT));
    }
    // SAFETY: packetdrill passes what it was given, and a message header of its own.
    let (library, msg) = unsafe { (library(user), &mut *msg) };
    let (iov, count) = (msg.msg_iov.cast_const(), msg.msg_iovlen);
    // SAFETY: so many buffers with their lengths.
    let total = unsafe { memory::total(iov, count) };
    let got = total.and_then(|total| receive(library, fd, total, flags));
    ssize_t::of(got.and_then(|(got, bytes)| {
        // SAFETY: so many buffers with their lengths.
        unsafe { memory::scatter(&bytes, iov, count) }?;
        msg.msg_namelen = 0;
        msg.msg_flags = got.flags;
        // SAFETY: the control buffer has room for what its length says.
        unsafe { memory::give_control(&got.control, msg) };
        Ok(got.len)
    }))
}

pub(super) unsafe extern "C" fn write(
    user: User,
    fd: c_int,
    buf: *const c_void,
    count: size_t,
) -> ssize_t {
    // SAFETY: as send.
    unsafe { send(user, fd, buf, count, 0) }
}

pub(super) unsafe extern "C" fn writev(
    user: User,
    fd: c_int,
    iov: *const iovec,
    count: c_int,
) -> ssize_t {
    // SAFETY: packetdrill passes what it was given, and so many buffers.
    let (library, data) = unsafe { (library(user), memory::gather(iov, count as usize)) };
    ssize_t::of(data.and_then(|data| transmit(library, fd, &data, 0, None)))
}

fn transmit(
    library: &Library,
    fd: c_int,
    data: &[u8],
    flags: c_int,
    to: Option<std::net::SocketAddr>,
) -> Result<usize, Errno> {
    transmit_as(library, fd, data, flags, to, Write::default())
}

fn transmit_as(
    library: &Library,
    fd: c_int,
    data: &[u8],
    flags: c_int,
    to: Option<std::net::SocketAddr>,
    mut write: Write,
) -> Result<usize, Errno> {
    let sent = library
        .wait(|c| patience(c, fd, flags, true), |c| c.send_to(fd, data, flags, to, &mut write));
    match sent {
        Err(libc::EAGAIN) if write.done > 0 => Ok(write.done),
        other => other,
    }
}

pub(super) unsafe extern "C" fn send(
    user: User,
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: packetdrill passes what it was given, and `len` bytes.
    let (library, data) = unsafe { (library(user), memory::copy_in(buf, len)) };
    ssize_t::of(data.and_then(|data| transmit(library, fd, &data, flags, None)))
}

pub(super) unsafe extern "C" fn sendto(
    user: User,
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addrlen: socklen_t,
) -> ssize_t {
    // SAFETY: packetdrill passes what it was given, `len` bytes, and an address with its length.
    let (library, data, to) =
        unsafe { (library(user), memory::copy_in(buf, len), memory::address(addr, addrlen)) };
    let to = if addr.is_null() { Ok(None) } else { to };
    ssize_t::of(data.and_then(|data| transmit(library, fd, &data, flags, to?)))
}

pub(super) unsafe extern "C" fn sendmsg(
    user: User,
    fd: c_int,
    msg: *const msghdr,
    flags: c_int,
) -> ssize_t {
    if memory::bad(msg) {
        return ssize_t::of(Err(libc::EFAULT));
    }
    // SAFETY: packetdrill passes what it was given, and a message header of its own.
    let (library, msg) = unsafe { (library(user), &*msg) };
    // SAFETY: so many buffers with their lengths.
    let data = unsafe { memory::gather(msg.msg_iov, msg.msg_iovlen) };
    // SAFETY: so many buffers.
    let parts = unsafe { memory::lengths(msg.msg_iov, msg.msg_iovlen) };
    let to = if msg.msg_name.is_null() || msg.msg_namelen == 0 {
        Ok(None)
    } else {
        // SAFETY: an address with its length.
        unsafe { memory::address(msg.msg_name.cast(), msg.msg_namelen) }
    };
    let write = parts.map(Write::from_parts);
    ssize_t::of(data.and_then(|data| transmit_as(library, fd, &data, flags, to?, write?)))
}
