//! Who is ready, and pipes, through pointers.

use std::ffi::{c_int, c_uint};

use libc::{epoll_event, loff_t, nfds_t, pollfd, size_t, ssize_t};

use super::{Returned, User, done, library, memory, patience};

/// More files than a process can have open.
const FILES_MAX: nfds_t = 1 << 20;

/// A time-out as `poll` takes it: milliseconds, negative = for ever.
fn timeout(ms: c_int) -> Option<u64> {
    u64::try_from(ms).ok()
}

pub(super) unsafe extern "C" fn poll(
    user: User,
    fds: *mut pollfd,
    count: nfds_t,
    timeout_ms: c_int,
) -> c_int {
    if count > FILES_MAX {
        return c_int::of(Err(libc::EINVAL));
    }
    if count > 0 && memory::bad(fds) {
        return c_int::of(Err(libc::EFAULT));
    }
    // SAFETY: packetdrill passes what it was given, and so many files.
    let (library, fds) = unsafe { (library(user), memory::slice_mut(fds, count as usize)) };
    let mut asked: Vec<_> = fds.iter().map(|p| (p.fd, p.events, 0)).collect();
    let ready = library.wait(
        |_| timeout(timeout_ms),
        |c| match c.poll(&mut asked) {
            0 => Err(libc::EAGAIN),
            n => Ok(n),
        },
    );
    fds.iter_mut().zip(&asked).for_each(|(to, (_, _, revents))| to.revents = *revents);
    c_int::of(if ready == Err(libc::EAGAIN) { Ok(0) } else { ready })
}

pub(super) unsafe extern "C" fn epoll_create(user: User, size: c_int) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    c_int::of(library.call(|c| c.epoll_create(size)).map(|fd| fd as usize))
}

pub(super) unsafe extern "C" fn epoll_ctl(
    user: User,
    epfd: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    let to = if memory::bad(event) {
        // Only forgetting a file needs none.
        if op != libc::EPOLL_CTL_DEL {
            return c_int::of(Err(libc::EFAULT));
        }
        (0, 0)
    } else {
        // SAFETY: the structure may lie anywhere: it is packed.
        let event = unsafe { event.read_unaligned() };
        (event.events, event.u64)
    };
    done(library.call(|c| c.epoll_ctl(epfd, op, fd, to)))
}

pub(super) unsafe extern "C" fn epoll_wait(
    user: User,
    epfd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout_ms: c_int,
) -> c_int {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    let Some(most) = usize::try_from(most).ok().filter(|most| *most > 0) else {
        return c_int::of(Err(libc::EINVAL));
    };
    if memory::bad(events) {
        return c_int::of(Err(libc::EFAULT));
    }
    let told = library.wait(
        |_| timeout(timeout_ms),
        |c| match c.epoll_wait(epfd, most) {
            Ok(told) if told.is_empty() => Err(libc::EAGAIN),
            other => other,
        },
    );
    let told = if told == Err(libc::EAGAIN) { Ok(Vec::new()) } else { told };
    c_int::of(told.map(|told| {
        for (at, (mask, data)) in told.iter().enumerate() {
            let event = epoll_event { events: *mask, u64: *data };
            // SAFETY: packetdrill passes room for `most` events, and there are no more.
            unsafe { events.add(at).write_unaligned(event) };
        }
        told.len()
    }))
}

pub(super) unsafe extern "C" fn pipe(user: User, fds: *mut c_int) -> c_int {
    if memory::bad(fds) {
        return c_int::of(Err(libc::EFAULT));
    }
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    done(library.call(|c| c.files.pipe()).map(|ends| {
        // SAFETY: packetdrill passes room for two numbers.
        unsafe { fds.cast::<[c_int; 2]>().write_unaligned(ends) };
    }))
}

pub(super) unsafe extern "C" fn splice(
    user: User,
    from: c_int,
    off_from: *mut loff_t,
    to: c_int,
    off_to: *mut loff_t,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    // SAFETY: packetdrill passes what it was given.
    let library = unsafe { library(user) };
    for offset in [off_from, off_to] {
        // packetdrill passes a place with 0 where the script says NULL.
        // SAFETY: it is null, or such a place.
        if !offset.is_null() && unsafe { offset.read_unaligned() } != 0 {
            return ssize_t::of(Err(libc::ESPIPE));
        }
    }
    let nonblock = flags & libc::SPLICE_F_NONBLOCK != 0;
    let spliced = library.wait(
        |c| {
            if nonblock {
                Some(0)
            } else {
                patience(c, from, 0, false).or(patience(c, to, 0, true))
            }
        },
        |c| c.splice(from, to, len),
    );
    ssize_t::of(spliced)
}
