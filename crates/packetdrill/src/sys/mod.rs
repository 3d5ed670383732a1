//! The C interface: `packetdrill_interface_init` and what it fills in.
//!
//! Every function takes `userdata` first, which is the library itself. An error is -1 and `errno`, as
//! for the calls that these stand for.

mod io;
mod memory;
mod preload;
mod ready;

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};

use libc::{
    epoll_event, iovec, loff_t, msghdr, nfds_t, pollfd, size_t, sockaddr, socklen_t, ssize_t,
    timeval, useconds_t,
};

use crate::Errno;
use crate::calls::Calls;
use crate::files::File;
use crate::flags::Flags;
use crate::wait::{EPOCH_US, Library};
use io::{read, readv, recv, recvfrom, recvmsg, send, sendmsg, sendto, write, writev};
use ready::{epoll_create, epoll_ctl, epoll_wait, pipe, poll, splice};

type User = *mut c_void;

macro_rules! interface {
    ($( $(#[doc = $doc:literal])+ $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?; )+) => {
        /// What packetdrill calls, in packetdrill's order (its `struct packetdrill_interface`).
        #[repr(C)]
        pub struct Interface {
            /// Passed back as the first argument of every function.
            pub userdata: User,
            $( $(#[doc = $doc])+
            pub $name: Option<unsafe extern "C" fn(User $(, $ty)*) $(-> $ret)?>, )+
        }
        impl Interface {
            /// An interface to be filled in by [`packetdrill_interface_init`].
            pub const fn empty() -> Interface {
                Interface { userdata: std::ptr::null_mut(), $( $name: None, )+ }
            }
            fn filled(userdata: User) -> Interface {
                Interface { userdata, $( $name: Some($name), )+ }
            }
        }
    };
}

interface! {
    /// Ends the library.
    free();
    /// `socket(2)`.
    socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    /// `bind(2)`.
    bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    /// `listen(2)`.
    listen(fd: c_int, backlog: c_int) -> c_int;
    /// `accept(2)`.
    accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int;
    /// `connect(2)`.
    connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    /// `read(2)`.
    read(fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t;
    /// `readv(2)`.
    readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t;
    /// `recv(2)`.
    recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
    /// `recvfrom(2)`.
    recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, addr: *mut sockaddr, addrlen: *mut socklen_t) -> ssize_t;
    /// `recvmsg(2)`.
    recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t;
    /// `write(2)`.
    write(fd: c_int, buf: *const c_void, count: size_t) -> ssize_t;
    /// `writev(2)`.
    writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t;
    /// `send(2)`.
    send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t;
    /// `sendto(2)`.
    sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, addr: *const sockaddr, addrlen: socklen_t) -> ssize_t;
    /// `sendmsg(2)`.
    sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t;
    /// `fcntl(2)`, which C declares with a variable number of arguments: a third one that was not
    /// given is not looked at.
    fcntl(fd: c_int, command: c_int, arg: c_int) -> c_int;
    /// `ioctl(2)`, likewise.
    ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int;
    /// `close(2)`.
    close(fd: c_int) -> c_int;
    /// `shutdown(2)`.
    shutdown(fd: c_int, how: c_int) -> c_int;
    /// `getsockopt(2)`.
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int;
    /// `setsockopt(2)`.
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int;
    /// `poll(2)`.
    poll(fds: *mut pollfd, count: nfds_t, timeout_ms: c_int) -> c_int;
    /// A raw IP packet arrives: 0, or -1.
    netdev_send(packet: *const c_void, len: size_t) -> c_int;
    /// Waits for the next packet that leaves; `len` is the buffer's size, then the packet's, 0 if
    /// none will ever leave; `time_us` is when it left. 0, or -1.
    netdev_receive(packet: *mut c_void, len: *mut size_t, time_us: *mut i64) -> c_int;
    /// `usleep(3)` on the library's clock.
    usleep(us: useconds_t) -> c_int;
    /// `gettimeofday(2)` on the library's clock.
    gettimeofday(time: *mut timeval, zone: *mut c_void) -> c_int;
    /// `epoll_create(2)`.
    epoll_create(size: c_int) -> c_int;
    /// `epoll_ctl(2)`.
    epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int;
    /// `epoll_wait(2)`.
    epoll_wait(epfd: c_int, events: *mut epoll_event, most: c_int, timeout_ms: c_int) -> c_int;
    /// `pipe(2)`.
    pipe(fds: *mut c_int) -> c_int;
    /// `splice(2)`.
    splice(from: c_int, off_from: *mut loff_t, to: c_int, off_to: *mut loff_t, len: size_t, flags: c_uint) -> ssize_t;
}

const _: () = assert!(size_of::<Interface>() == 33 * size_of::<usize>());

/// Fills in what packetdrill calls. `flags` is what `--so_flags` said, or null.
///
/// # Safety
/// `flags` is null or a C string, `out` points to a `struct packetdrill_interface`.
// SAFETY: the name is packetdrill's own, and nothing else here has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(flags: *const c_char, out: *mut Interface) {
    let text = if flags.is_null() {
        String::new()
    } else {
        // SAFETY: the caller promises a C string.
        unsafe { CStr::from_ptr(flags) }.to_string_lossy().into_owned()
    };
    let calls = Flags::parse(&text).and_then(|flags| Calls::new(&flags));
    let calls = calls.unwrap_or_else(|why| {
        // There is no way to return an error, and a script must not run with other knobs than it
        // asked for.
        eprintln!("linerate: {why}");
        std::process::exit(1);
    });
    let library = Box::into_raw(Box::new(Library::new(calls)));
    preload::opened(library);
    // SAFETY: the caller promises that `out` may be written to.
    unsafe { out.write(Interface::filled(library.cast())) };
}

/// # Safety
/// `userdata` is what `packetdrill_interface_init` gave, and `free` has not been called.
unsafe fn library<'a>(userdata: User) -> &'a Library {
    // SAFETY: it is the box that `packetdrill_interface_init` made, as the caller promises.
    unsafe { &*userdata.cast::<Library>() }
}

/// A result as C sees it.
trait Returned: TryFrom<i64> {
    const FAILED: Self;
    fn of(result: Result<usize, Errno>) -> Self {
        match result {
            Ok(n) => Self::try_from(n as i64).unwrap_or(Self::FAILED),
            Err(errno) => {
                memory::set_errno(errno);
                Self::FAILED
            }
        }
    }
}
impl Returned for c_int {
    const FAILED: c_int = -1;
}
impl Returned for ssize_t {
    const FAILED: ssize_t = -1;
}

fn done(result: Result<(), Errno>) -> c_int {
    c_int::of(result.map(|()| 0))
}

/// How long a read or a write of this socket waits: for ever, not at all, or SO_RCVTIMEO.
fn patience(calls: &mut Calls, fd: c_int, flags: c_int, writes: bool) -> Option<u64> {
    match calls.files.get(fd) {
        Ok(File::Sock(sock)) => {
            let ms = if writes { sock.timeo_ms.1 } else { sock.timeo_ms.0 };
            match sock.nonblock || flags & (libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE) != 0 {
                true => Some(0),
                false => Some(ms).filter(|ms| *ms > 0),
            }
        }
        _ => None,
    }
}

/// # Safety
/// As the function that it stands for.
unsafe extern "C" fn free(user: User) {
    preload::closes(user.cast());
    // SAFETY: it is the box that `packetdrill_interface_init` made, and this is the last call.
    drop(unsafe { Box::from_raw(user.cast::<Library>()) });
}

unsafe extern "C" fn socket(user: User, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    c_int::of(library.call(|c| c.socket(domain, kind, protocol)).map(|fd| fd as usize))
}

unsafe extern "C" fn bind(user: User, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: packetdrill passes what it was given, and an address with its length.
    let (library, addr) = unsafe { (library(user), memory::address(addr, len)) };
    done(addr.and_then(|addr| library.call(|c| c.bind(fd, addr))))
}

unsafe extern "C" fn listen(user: User, fd: c_int, backlog: c_int) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    done(library.call(|c| c.listen(fd, backlog)))
}

unsafe extern "C" fn accept(
    user: User,
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    let accepted = library.wait(|c| patience(c, fd, 0, false), |c| c.accept(fd));
    c_int::of(accepted.map(|(new, peer)| {
        // SAFETY: `addr` is null or has room for what `len` says.
        unsafe { memory::give(&peer, addr.cast(), len) };
        new as usize
    }))
}

unsafe extern "C" fn connect(
    user: User,
    fd: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> c_int {
    // SAFETY: packetdrill passes what it was given, and an address with its length.
    let (library, addr) = unsafe { (library(user), memory::address(addr, len)) };
    let begun = addr.and_then(|addr| library.call(|c| c.connect(fd, addr).map(|()| addr)));
    let patient = library.call(|c| patience(c, fd, 0, true));
    match begun {
        Err(libc::EINPROGRESS) if patient != Some(0) => {
            // A second call tells how the first one stands.
            let addr = addr.ok().flatten();
            done(library.wait(
                |_| patient,
                |c| match c.connect(fd, addr) {
                    Err(libc::EALREADY) => Err(libc::EAGAIN),
                    other => other,
                },
            ))
        }
        other => done(other.map(|_| ())),
    }
}

unsafe extern "C" fn fcntl(user: User, fd: c_int, command: c_int, arg: c_int) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    c_int::of(library.call(|c| c.fcntl(fd, command, arg.into())).map(|n| n as usize))
}

unsafe extern "C" fn ioctl(user: User, fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    done(library.call(|c| c.ioctl(fd, request)).and_then(|value| {
        // SAFETY: these requests have a place for an `int`.
        unsafe { memory::copy_out(&value.to_ne_bytes(), arg) }
    }))
}

unsafe extern "C" fn close(user: User, fd: c_int) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    done(library.call(|c| c.close(fd)))
}

unsafe extern "C" fn shutdown(user: User, fd: c_int, how: c_int) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    done(library.call(|c| c.shutdown(fd, how)))
}

unsafe extern "C" fn getsockopt(
    user: User,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    done(library.call(|c| c.getsockopt(fd, level, name)).and_then(|bytes| {
        if memory::bad(len) || memory::bad(value) {
            return Err(libc::EFAULT);
        }
        // SAFETY: `value` has room for what `len` says.
        unsafe { memory::give_cut(&bytes, value, len) };
        Ok(())
    }))
}

unsafe extern "C" fn setsockopt(
    user: User,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: packetdrill passes what it was given, and `len` bytes.
    let (library, bytes) = unsafe { (library(user), memory::copy_in(value, len as usize)) };
    done(bytes.and_then(|bytes| library.call(|c| c.setsockopt(fd, level, name, &bytes))))
}

unsafe extern "C" fn netdev_send(user: User, packet: *const c_void, len: size_t) -> c_int {
    // SAFETY: packetdrill passes what it was given, and `len` bytes.
    let (library, bytes) = unsafe { (library(user), memory::copy_in(packet, len)) };
    let arrived = bytes.map(|bytes| library.call(|c| c.stack.receive(&bytes)));
    if arrived == Ok(true) { 0 } else { -1 }
}

unsafe extern "C" fn netdev_receive(
    user: User,
    packet: *mut c_void,
    len: *mut size_t,
    time_us: *mut i64,
) -> c_int {
    if memory::bad(len) || memory::bad(time_us) {
        return c_int::of(Err(libc::EFAULT));
    }
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    let (at, bytes) = library.next_packet().unwrap_or_default();
    // SAFETY: packetdrill passes where length and time are to be stored, and a buffer of that size.
    unsafe {
        let n = bytes.len().min(len.read());
        len.write(n);
        time_us.write((EPOCH_US + at.ns() / 1000) as i64);
        if memory::copy_out(&bytes[..n], packet).is_err() {
            return -1;
        }
    }
    0
}

unsafe extern "C" fn usleep(user: User, us: useconds_t) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    library.sleep(us.into());
    0
}

unsafe extern "C" fn gettimeofday(user: User, time: *mut timeval, _zone: *mut c_void) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    let us = EPOCH_US + library.time().ns() / 1000;
    let now = timeval { tv_sec: (us / 1_000_000) as i64, tv_usec: (us % 1_000_000) as i64 };
    if time.is_null() {
        return c_int::of(Err(libc::EFAULT));
    }
    // SAFETY: packetdrill passes where the time is to be stored.
    unsafe { time.write(now) };
    0
}
