//! UDP (RFC 768): sockets, their look-up by port, datagrams in and out.

pub mod api;
pub mod err;
pub mod input;
pub mod output;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::pkt::Pkt;
use crate::sock::{Ready, Slab, SocketId};

/// A UDP socket (Linux: `struct udp_sock`).
pub struct UdpSock {
    pub(crate) id: SocketId,
    /// The address it is bound to; `None` = all.
    pub(crate) local: Option<IpAddr>,
    /// The port it is bound to; 0 = all that nobody else has bound.
    pub(crate) port: u16,
    /// The only peer that it hears, if it is connected.
    pub(crate) remote: Option<(IpAddr, u16)>,
    /// Received, not yet read.
    pub(crate) queue: VecDeque<Pkt>,
    /// Memory of what is queued (`sk_rmem_alloc`).
    pub(crate) rmem: usize,
    /// Limit of `rmem` (`sk_rcvbuf`).
    pub(crate) rcvbuf: usize,
    /// Datagrams dropped at this socket (`sk_drops`).
    pub(crate) drops: u64,
    /// What ICMP said of datagrams that it sent.
    pub(crate) errors: VecDeque<(SocketAddr, crate::tcp::icmp::ErrKind)>,
    pub(crate) pending: Ready,
    pub(crate) user: u64,
    /// The next socket on the same port, as `index + 1`; 0 = none.
    next: u32,
}

/// All UDP sockets of a shard.
pub struct Sockets {
    pub(crate) slab: Slab<UdpSock>,
    /// The first socket of each port as `index + 1`; port 0 holds the sockets that take every port.
    ports: Vec<u32>,
    /// Memory of all queues together, against `udp_mem`.
    pub(crate) mem: usize,
}

impl Sockets {
    pub(crate) fn new() -> Sockets {
        Sockets { slab: Slab::default(), ports: vec![0; 65536], mem: 0 }
    }
    /// Every socket, in order of its index.
    pub fn iter(&self) -> impl Iterator<Item = &UdpSock> {
        self.slab.iter().map(|(_, _, s)| s)
    }
    /// How many sockets there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
    /// Bytes of memory that all queues hold.
    pub fn mem(&self) -> usize {
        self.mem
    }
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
        self.drops
    }
}

#[cfg(test)]
mod tests;
