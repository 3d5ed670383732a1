//! Sockets: their names, what they report, and where Demux looks for them.

pub mod error;
pub mod lookup;
mod ready;
mod slab;

pub use ready::{Event, Events, Ready};
pub use slab::Slab;

/// What kind of socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SockKind {
    /// A UDP socket.
    Udp,
    /// A TCP listener.
    Listen,
    /// A TCP connection, from its first SYN on.
    Tcp,
    /// A half-open connection whose SYN is held until the application decides.
    Syn,
    /// The socket of whoever answers ICMP echo requests to foreign addresses.
    Icmp,
}

/// Names a socket. The generation makes the name of a closed socket invalid for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    /// What kind of socket.
    pub kind: SockKind,
    /// Its place in the table of its kind.
    pub index: u32,
    /// Which of the sockets that had this place.
    pub generation: u32,
}

impl crate::shard::Net {
    /// The receive buffer of a socket that asks for `bytes` (SO_RCVBUF; Linux: `sk_setsockopt`).
    pub(crate) fn asked_rcvbuf(&self, bytes: usize) -> usize {
        2 * bytes.min(self.knobs.rmem_max as usize)
    }
    /// The send buffer of a socket that asks for `bytes` (SO_SNDBUF).
    pub(crate) fn asked_sndbuf(&self, bytes: usize) -> usize {
        2 * bytes.min(self.knobs.wmem_max as usize)
    }
}
