//! UDP (RFC 768): sockets, their look-up by port, datagrams in and out.

pub mod api;
pub mod err;
pub mod input;
pub mod output;
mod table;

pub use table::Sockets;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::pkt::Pkt;
use crate::sock::{Ready, SocketId};

/// A UDP socket (Linux: `struct udp_sock`). What is seldom needed lies elsewhere: a million sockets
/// are looked at in random order, and each cache line of them costs.
pub struct UdpSock {
    pub(crate) id: SocketId,
    /// The port it is bound to; 0 = all that nobody else has bound.
    pub(crate) port: u16,
    pub(crate) pending: Ready,
    /// It may share address and port with others (SO_REUSEPORT).
    pub(crate) reuseport: bool,
    /// The address it is bound to; `None` = all.
    pub(crate) local: Option<IpAddr>,
    /// The only peer that it hears, if it is connected.
    pub(crate) remote: Option<(IpAddr, u16)>,
    /// Received, not yet read: the first, unless it was read. The others follow in [`Rare::queue`].
    first: Option<Pkt>,
    /// Memory of what is queued (`sk_rmem_alloc`).
    pub(crate) rmem: usize,
    /// Limit of `rmem` (`sk_rcvbuf`).
    pub(crate) rcvbuf: usize,
    pub(crate) user: u64,
    rare: Option<Box<Rare>>,
}

const _: () = assert!(size_of::<UdpSock>() <= 104, "a socket lies in two cache lines");

/// What many sockets never need.
#[derive(Default)]
pub(crate) struct Rare {
    /// Received, not yet read, after the first.
    queue: VecDeque<Pkt>,
    /// Datagrams dropped at this socket (`sk_drops`).
    pub(crate) drops: u64,
    /// What ICMP said of datagrams that it sent.
    pub(crate) errors: VecDeque<(SocketAddr, crate::tcp::icmp::ErrKind)>,
    /// Microseconds that a reader that found nothing looks at the devices; `None` = as the knob says
    /// (SO_BUSY_POLL).
    pub(crate) busy_poll: Option<u32>,
}

impl UdpSock {
    /// Address and port it is bound to; port 0 = all ports.
    pub fn local(&self) -> (Option<IpAddr>, u16) {
        (self.local, self.port)
    }
    /// The peer, if connected.
    pub fn remote(&self) -> Option<(IpAddr, u16)> {
        self.remote
    }
    /// Memory of what waits to be read, in bytes (`rx_queue` in `/proc/net/udp`).
    pub fn rx_queue(&self) -> usize {
        self.rmem
    }
    /// Datagrams dropped at this socket.
    pub fn drops(&self) -> u64 {
        self.rare.as_ref().map_or(0, |r| r.drops)
    }
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
    /// Adds a datagram that waits to be read.
    #[inline]
    fn push(&mut self, pkt: Pkt) {
        if self.first.is_none() && self.rare.as_ref().is_none_or(|r| r.queue.is_empty()) {
            self.first = Some(pkt);
        } else {
            self.rare().queue.push_back(pkt);
        }
    }
    /// Takes the datagram that waits longest.
    #[inline]
    fn pop(&mut self) -> Option<Pkt> {
        match self.first.take() {
            None => self.rare.as_mut()?.queue.pop_front(),
            first => first,
        }
    }
}

#[cfg(test)]
mod tests;
