//! Connections that are opened, accepted and closed at once, both ends on one processor.
//!
//! Each has its full life: three packets to open it, a FIN and its acknowledgement from either side, and a
//! minute in TIME_WAIT at the end that closed first.

use std::net::SocketAddr;

use linerate_core::sock::{Ready, SockKind, SocketId};
use linerate_core::tcp::{Connect, Listen};

use super::case::{Case, Row, some};
use super::clients::SERVER;
use super::pair::Pair;
use crate::bench::path::case::cpu_ns;

/// Connections that are opened in a turn.
const BATCH: u64 = 32;
/// Connections of a round.
const USUAL: u64 = 200_000;
/// Entries in TIME_WAIT while it runs: as many as Linux keeps on a machine with 16 GiB
/// (`net.ipv4.tcp_max_tw_buckets`). As many go as come, once the round that is left out is over.
const TIME_WAIT: u64 = 131_072;
/// Nanoseconds from turn to turn: an entry stays for a minute.
const TURN_NS: u64 = 60_000_000_000 * BATCH / TIME_WAIT;

/// The case.
pub struct Connects {
    pair: Pair,
    listener: SocketId,
    opened: u64,
    accepted: u64,
    closed: u64,
    turns: u64,
}

/// Its row.
pub const NAME: &str = "connect, accept and close, both ends";

impl Connects {
    /// Nothing is open yet.
    pub fn new() -> Connects {
        let mut pair = Pair::new(false);
        let listen = Listen { any_port: true, backlog: 4096, ..Listen::default() };
        let listener = pair.server.tcp_listen(listen).expect("nobody else listens");
        Connects { pair, listener, opened: 0, accepted: 0, closed: 0, turns: 0 }
    }

    fn turn(&mut self, connects: u64) {
        self.turns += 1;
        self.pair.tick(TURN_NS);
        for _ in 0..connects {
            // A program that talks to many servers: what is in TIME_WAIT is in nobody's way.
            let port = 1024 + (self.opened % 60_000) as u16;
            let remote = SocketAddr::new(SERVER.into(), port);
            let connect = Connect { local: None, remote, user: 0 };
            self.pair.client.tcp_connect(connect).expect("there are ports");
            self.opened += 1;
        }
        // SYN, SYN-ACK, ACK.
        self.pair.forth();
        self.pair.back();
        self.pair.forth();
        self.server();
        // FIN, its acknowledgement with the other FIN, ACK.
        self.client();
        self.pair.forth();
        self.server();
        self.pair.back();
        self.client();
        self.pair.forth();
        self.server();
        if self.turns.is_multiple_of(8) {
            self.pair.timers();
        }
    }

    /// The client closes what is open.
    fn client(&mut self) {
        let client = &mut self.pair.client;
        while let Some(event) = client.poll_event() {
            if client.take_ready(event.id).has(Ready::OUT) {
                client.tcp_close(event.id);
            }
        }
    }

    /// The server accepts, and closes what the client has closed.
    fn server(&mut self) {
        let server = &mut self.pair.server;
        while let Some(event) = server.poll_event() {
            if event.id.kind == SockKind::Listen {
                server.take_ready(event.id);
                while server.tcp_accept(self.listener).is_some() {
                    self.accepted += 1;
                }
            } else if server.take_ready(event.id).has(Ready::IN) {
                server.tcp_close(event.id);
                self.closed += 1;
            }
        }
    }
}

impl Case for Connects {
    fn name(&self) -> String {
        NAME.to_owned()
    }
    fn rows(&self) -> Vec<Row> {
        vec![Row::new(NAME, "/s").at_least(200_000.0)]
    }
    fn round(&mut self, part: f64) -> Vec<Option<f64>> {
        let (connects, before) = (some(USUAL, part, 4 * BATCH), self.closed);
        let begun = cpu_ns();
        while self.closed - before < connects {
            self.turn(BATCH);
            assert_eq!(self.opened, self.closed, "each turn's connections are opened and closed");
        }
        let ns = cpu_ns() - begun;
        assert_eq!(self.opened, self.accepted, "every connection is accepted");
        self.pair.check();
        vec![Some((self.closed - before) as f64 * 1e9 / ns as f64)]
    }
}
