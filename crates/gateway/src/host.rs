//! Sockets of the host: made non-blocking and close-on-exec, with the options that a relay wants.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How every socket of the host is made.
pub(crate) const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Seconds of silence before the host's kernel probes a relayed connection.
const KEEPALIVE_S: u64 = 120;

pub(crate) fn family(of: IpAddr) -> AddressFamily {
    if of.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// A TCP socket that begins to connect; whether it is connected already.
pub(crate) fn connect(to: SocketAddr) -> Result<(OwnedFd, bool), Errno> {
    let fd = rustix::net::socket_with(family(to.ip()), SocketType::STREAM, FLAGS, None)?;
    // Urgent data stays in its place in the stream (RFC 6093 section 3.1): otherwise it would be lost.
    // It may come with the first bytes; what else there is to set can wait.
    sockopt::set_socket_oobinline(&fd, true)?;
    match rustix::net::connect(&fd, &to) {
        Ok(()) => Ok((fd, true)),
        Err(Errno::INPROGRESS) => Ok((fd, false)),
        Err(err) => Err(err),
    }
}

/// Nagle off: the program's own stack has decided already what is sent when. Nothing comes of it
/// before the second write.
pub(crate) fn send_at_once(fd: &OwnedFd) {
    // A socket that is a TCP one has it; one that has failed meanwhile says so when it is used.
    let _ = sockopt::set_tcp_nodelay(fd, true);
}

/// Keepalive on: a silent dead peer must not hold a flow.
pub(crate) fn keep_alive(fd: &OwnedFd) {
    let idle = sockopt::set_tcp_keepidle(fd, Duration::from_secs(KEEPALIVE_S));
    let on = idle.and_then(|()| sockopt::set_socket_keepalive(fd, true));
    debug_assert!(on.is_ok(), "a TCP socket has keepalive: {on:?}");
}

/// Closes with a reset.
pub(crate) fn reset(fd: OwnedFd) {
    // It fails on no socket that is open; without it the peer would see an ordinary end.
    let _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
    drop(fd);
}

/// A UDP socket, not bound.
pub(crate) fn datagram(v6: bool) -> Result<OwnedFd, Errno> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    rustix::net::socket_with(family, SocketType::DGRAM, FLAGS, None)
}

/// Raises the limit of descriptors to what is permitted, and returns it.
pub(crate) fn raise_nofile() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let Some(hard) = limit.maximum else { return u64::MAX };
    if limit.current.is_some_and(|soft| soft < hard) {
        let wanted = Rlimit { current: Some(hard), maximum: Some(hard) };
        if setrlimit(Resource::Nofile, wanted).is_err() {
            return limit.current.unwrap_or(hard);
        }
    }
    hard
}

/// A TCP socket that listens. What it accepts has its options: all that a relayed socket needs.
pub(crate) fn listen(at: SocketAddr) -> io::Result<OwnedFd> {
    let fd = rustix::net::socket_with(family(at.ip()), SocketType::STREAM, FLAGS, None)?;
    // So that a restart is not kept off the port by connections that just ended.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    sockopt::set_socket_oobinline(&fd, true)?;
    send_at_once(&fd);
    keep_alive(&fd);
    rustix::net::bind(&fd, &at)?;
    rustix::net::listen(&fd, 4096)?;
    Ok(fd)
}
