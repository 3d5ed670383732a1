//! Applications for measuring paths: bulk streams from one host to another.

use std::net::SocketAddr;

use linerate_core::sock::SocketId;
use linerate_core::tcp::{Connect, Listen};

use crate::world::{NodeId, World};

/// Bulk streams: each sender fills its buffer whenever there is room, each reader takes what is there.
pub struct Streams {
    from: NodeId,
    to: NodeId,
    at: SocketAddr,
    listener: SocketId,
    /// Sockets that send, in the order in which they were opened.
    pub senders: Vec<SocketId>,
    /// Sockets that read, in the order in which they were accepted.
    pub readers: Vec<SocketId>,
}

impl Streams {
    /// None yet: `to` listens at `at`, an address of its own.
    ///
    /// # Panics
    /// If the port is taken.
    pub fn new(world: &mut World, (from, to): (NodeId, NodeId), at: SocketAddr) -> Streams {
        let listen = Listen { port: at.port(), backlog: 128, ..Listen::default() };
        let listener = world.node(to).tcp_listen(listen).expect("a free port");
        Streams { from, to, at, listener, senders: Vec::new(), readers: Vec::new() }
    }

    /// One more.
    ///
    /// # Panics
    /// If the sender has no route.
    pub fn open(&mut self, world: &mut World) -> SocketId {
        let to = Connect { local: None, remote: self.at, user: 0 };
        let id = world.node(self.from).tcp_connect(to).expect("a route");
        self.senders.push(id);
        id
    }

    /// What both programs do after an event; `got` is told how many bytes which reader took.
    pub fn turn(&mut self, world: &mut World, mut got: impl FnMut(usize, u64)) {
        let from = world.node(self.from);
        while from.poll_event().is_some() {}
        let block = [0x5a; 16_384];
        for id in &self.senders {
            while from.tcp_send(*id, &block).is_ok_and(|n| n > 0) {}
        }
        let to = world.node(self.to);
        while to.poll_event().is_some() {}
        while let Some(id) = to.tcp_accept(self.listener) {
            self.readers.push(id);
        }
        let mut buf = [0; 65_536];
        for (at, id) in self.readers.iter().enumerate() {
            while let Ok(n @ 1..) = to.tcp_recv(*id, &mut buf) {
                got(at, n as u64);
            }
        }
    }
}
