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
use crate::sock::Ready;

/// A UDP socket (Linux: `struct udp_sock`). What is seldom needed lies elsewhere: a million sockets
/// are looked at in random order, and each cache line of them costs. The order of the fields is that
/// of memory: with the generation of its place before it, what a datagram needs of a socket that is
/// not connected lies in one line.
#[repr(C)]
pub struct UdpSock {
    /// Received, not yet read: the first, unless it was read. The others follow in [`Rare::queue`].
    first: Option<Pkt>,
    pub(crate) user: u64,
    rare: Option<Box<Rare>>,
    /// Memory of what is queued (`sk_rmem_alloc`).
    rmem: u32,
    /// Limit of `rmem` (`sk_rcvbuf`).
    rcvbuf: u32,
    /// The port it is bound to; 0 = all that nobody else has bound.
    pub(crate) port: u16,
    pub(crate) pending: Ready,
    /// It may share address and port with others (SO_REUSEPORT).
    pub(crate) reuseport: bool,
    /// Whether it has a `remote`.
    connected: bool,
    /// Whether [`Rare::queue`] holds anything.
    more: bool,
    /// The address it is bound to; `None` = all.
    pub(crate) local: Option<IpAddr>,
    /// The only peer that it hears, if it is connected.
    remote: Option<(IpAddr, u16)>,
}

const _: () = assert!(
    std::mem::offset_of!(UdpSock, remote) <= 64 - 8,
    "what every datagram needs of a socket lies in one cache line, behind the generation"
);

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
        self.rmem as usize
    }
    /// How much may wait to be read, in bytes (`sk_rcvbuf`).
    pub fn rcvbuf(&self) -> usize {
        self.rcvbuf as usize
    }
    /// Datagrams dropped at this socket.
    pub fn drops(&self) -> u64 {
        self.rare.as_ref().map_or(0, |r| r.drops)
    }
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
    /// Makes it hear `remote` alone.
    fn connect(&mut self, remote: SocketAddr) {
        self.remote = Some((remote.ip(), remote.port()));
        self.connected = true;
    }
    /// Limits what may wait to be read, in bytes; at most 4 GiB.
    fn set_rcvbuf(&mut self, bytes: usize) {
        self.rcvbuf = u32::try_from(bytes).unwrap_or(u32::MAX);
    }
    /// Whether `size` more bytes may wait to be read.
    #[inline]
    fn has_room(&self, size: usize) -> bool {
        self.rmem as usize + size <= self.rcvbuf as usize
    }
    /// Adds a datagram of `size` bytes, for which there is room, to those that wait to be read.
    #[inline(always)]
    fn push(&mut self, pkt: Pkt, size: usize) {
        // The limit is 32 bits wide, and so is what stays below it.
        self.rmem += size as u32;
        match &mut self.rare {
            _ if !self.more && self.first.is_none() => self.first = Some(pkt),
            Some(rare) => {
                rare.queue.push_back(pkt);
                self.more = true;
            }
            None => self.push_first(pkt),
        }
    }
    /// The first that ever had to wait behind another.
    #[cold]
    fn push_first(&mut self, pkt: Pkt) {
        self.rare().queue.push_back(pkt);
        self.more = true;
    }
    /// Takes the datagram that waits longest.
    #[inline]
    fn pop(&mut self) -> Option<Pkt> {
        let first = self.first.take();
        if first.is_some() || !self.more {
            return first;
        }
        let queue = &mut self.rare.as_mut()?.queue;
        let pkt = queue.pop_front();
        self.more = !queue.is_empty();
        pkt
    }
    /// Takes at most `max` datagrams, the one that waits longest first.
    #[inline]
    fn pop_many(&mut self, max: usize, mut each: impl FnMut(Pkt)) {
        let mut left = max;
        if left > 0
            && let Some(first) = self.first.take()
        {
            each(first);
            left -= 1;
        }
        if self.more
            && let Some(rare) = &mut self.rare
        {
            self.more = rare.queue.len() > left;
            let n = left.min(rare.queue.len());
            rare.queue.drain(..n).for_each(each);
        }
    }
}

#[cfg(test)]
mod tests;
