//! Sockets: their names, what they report, and where Demux looks for them.

mod arena;
mod ehash;
pub mod error;
pub mod lookup;
mod ready;
mod slab;

pub use arena::Arena;
pub(crate) use ehash::Ehash;
pub use ready::{Event, Events, Ready};
pub use slab::{AtLine, Slab};

/// Says which member of a group of sockets that share a port (SO_REUSEPORT) gets what came, by its
/// place in the order in which they were bound; a number that is too large leaves it to the flow's
/// hash. The packet begins at its transport header for UDP; its ends are `src`, `dst`, `sport` and
/// `dport` (SO_ATTACH_REUSEPORT_EBPF).
pub type ReuseProg = Box<dyn FnMut(&crate::pkt::Skb) -> usize + Send>;

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

impl crate::shard::Shard {
    /// Lets `prog` choose among the sockets that share address and port with this one, itself
    /// included (SO_ATTACH_REUSEPORT_EBPF). False if the socket was not opened with `reuseport`, is
    /// connected or gone.
    pub fn reuseport_attach_prog(&mut self, id: SocketId, prog: ReuseProg) -> bool {
        self.reuseport_prog(id, Some(prog))
    }
    /// Lets the flow choose again (SO_DETACH_REUSEPORT_BPF).
    pub fn reuseport_detach_prog(&mut self, id: SocketId) -> bool {
        self.reuseport_prog(id, None)
    }
    fn reuseport_prog(&mut self, id: SocketId, prog: Option<ReuseProg>) -> bool {
        match id.kind {
            SockKind::Udp if self.udp.slab.get(id.index, id.generation).is_some() => {
                self.udp.attach(id.index, prog)
            }
            SockKind::Listen => self.listen_attach(id, prog),
            _ => false,
        }
    }
}

impl crate::shard::Net {
    /// A reader found nothing: the loop is asked to look at the devices again until
    /// `busy_read_until` instead of sleeping (`sk_busy_loop`). `us` is what the socket was set to.
    pub(crate) fn busy_read(&mut self, us: Option<u32>) {
        let us = us.map_or(self.knobs.busy_read, u64::from);
        if us > 0 {
            self.busy_read_until = self.now.plus(us * crate::time::US);
        }
    }
    /// The receive buffer of a socket that asks for `bytes` (SO_RCVBUF; Linux: `sk_setsockopt`).
    pub(crate) fn asked_rcvbuf(&self, bytes: usize) -> usize {
        2 * bytes.min(self.knobs.rmem_max as usize)
    }
    /// The send buffer of a socket that asks for `bytes` (SO_SNDBUF).
    pub(crate) fn asked_sndbuf(&self, bytes: usize) -> usize {
        2 * bytes.min(self.knobs.wmem_max as usize)
    }
}
