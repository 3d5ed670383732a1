//! Tells what happens to interfaces: they come up and go down, change their MTU, vanish.
//!
//! Linux: net/core/rtnetlink.c `rtmsg_ifinfo`, group `RTNLGRP_LINK`.

use super::netlink::Messages;
use super::{IFINFOMSG, Link, NetdevError, RTM_DELLINK, RTM_NEWLINK, parse_link};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `RTMGRP_LINK`.
const LINKS: u32 = 1;
/// As in the kernel's own buffer for such messages.
const MESSAGE_BYTES: usize = 32 * 1024;

/// Something happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is like this now; also if nothing that is said here differs from before.
    Link(Link),
    /// It is no longer there. One that comes again under this name has another number.
    Gone {
        /// Its number.
        index: u32,
        /// Its name.
        name: String,
    },
    /// More happened than fitted the buffer: look at the interfaces that matter.
    Missed,
}

/// A socket that hears of the interfaces of the network namespace it was opened in. It is a source
/// of events: wait on it, then take what came.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
    buf: Vec<u8>,
}

impl Watch {
    /// Begins to listen, in the calling thread's network namespace. It needs no right.
    ///
    /// # Errors
    /// Those of `socket` and `bind`.
    pub fn open() -> Result<Watch, NetdevError> {
        let open = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let kind = SocketType::RAW;
            let fd = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, None)?;
            rustix::net::bind(&fd, &SocketAddrNetlink::new(0, LINKS))?;
            Ok(fd)
        };
        let fd = open().map_err(|err: rustix::io::Errno| NetdevError {
            doing: "listen for changes of interfaces".to_owned(),
            kernel: None,
            source: err.into(),
        })?;
        Ok(Watch { fd, buf: vec![0; MESSAGE_BYTES] })
    }

    /// Takes what happened since the last call, without waiting, in order.
    ///
    /// # Errors
    /// Those of `recv`; none are expected.
    pub fn take(&mut self, out: &mut Vec<Event>) -> io::Result<()> {
        loop {
            let got = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.fd, &mut self.buf[..], RecvFlags::TRUNC)
            });
            match got {
                Ok((_, len)) if len > self.buf.len() => out.push(Event::Missed),
                Ok((_, len)) => read(self.buf.get(..len).unwrap_or_default(), out),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::NOBUFS) => out.push(Event::Missed),
                Err(err) => return Err(err.into()),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn read(datagram: &[u8], out: &mut Vec<Event>) {
    for (kind, _, _, body) in Messages(datagram) {
        // A bridge tells of its ports in messages of the same kind and another family.
        if body.first() != Some(&0) || body.len() < IFINFOMSG {
            continue;
        }
        let Some(link) = parse_link(body) else { continue };
        match kind {
            RTM_NEWLINK => out.push(Event::Link(link)),
            RTM_DELLINK => out.push(Event::Gone { index: link.index, name: link.name }),
            _ => {}
        }
    }
}
