//! One stream between two stacks, both on one processor; and what copying the same bytes takes.
//!
//! The application writes by copy and reads where the bytes lie, looking at one in each piece. The wire
//! copies nothing.

use std::net::SocketAddr;

use linerate_core::sock::SocketId;
use linerate_core::tcp::{Connect, Listen, TcpOpt};

use super::case::{Case, Row, some};
use super::clients::{PORT, SERVER};
use super::pair::Pair;
use crate::bench::path::case::cpu_ns;

/// Bytes that the application writes at once.
pub const WRITE: usize = 44 * 1460;
/// Bytes of a round.
const USUAL: u64 = 2 << 30;
/// What may wait at either end.
const BUFFER: usize = 4 << 20;
/// Nanoseconds from turn to turn.
const TURN_NS: u64 = 5_000;

/// A stream, and how its packets look.
pub struct Bulk {
    /// Both ends.
    pub pair: Pair,
    /// The sender's connection.
    pub from: SocketId,
    to: SocketId,
    offload: bool,
    data: Vec<u8>,
    sent: u64,
    /// Bytes that the receiver has read.
    pub received: u64,
    /// Times that it read.
    pub turns: u64,
}

impl Bulk {
    /// Super-packets with partial checksums, or segments of 1460 bytes with whole ones.
    pub fn new(offload: bool) -> Bulk {
        Bulk::over(Pair::new(offload), offload, BUFFER, |pair| {
            pair.forth();
            pair.back();
        })
    }

    /// A stream between two ends, with so many bytes of buffers; `trip` takes packets there and back.
    pub fn over(
        mut pair: Pair,
        offload: bool,
        buffer: usize,
        mut trip: impl FnMut(&mut Pair),
    ) -> Bulk {
        // Without them a segment is 1460 bytes long.
        pair.set("net.ipv4.tcp_timestamps", "0");
        let listen = Listen { port: PORT, backlog: 1, rcvbuf: buffer, ..Listen::default() };
        let listener = pair.server.tcp_listen(listen).expect("the port is free");
        let remote = SocketAddr::new(SERVER.into(), PORT);
        pair.tick(1000);
        let connect = Connect { local: None, remote, user: 0 };
        let from = pair.client.tcp_connect(connect).expect("a way");
        pair.client.tcp_set(from, TcpOpt::SndBufForce(buffer)).expect("it exists");
        for _ in 0..2 {
            trip(&mut pair);
        }
        let to = pair.server.tcp_accept(listener).expect("the handshake is over");
        let data = (0..WRITE).map(|n| n as u8).collect();
        Bulk { pair, from, to, offload, data, sent: 0, received: 0, turns: 0 }
    }

    fn turn(&mut self) {
        self.pair.tick(TURN_NS);
        self.write();
        self.pair.forth();
        self.read();
        self.pair.back();
        self.drain();
        if self.turns.is_multiple_of(64) {
            self.pair.timers();
        }
    }

    /// The sender writes as much as there is room for; whether there was.
    pub fn write(&mut self) -> bool {
        // The stream goes on where the last write ended.
        let data = &self.data[(self.sent % self.data.len() as u64) as usize..];
        let room = self.pair.client.tcp_send_space(self.from).min(data.len());
        if room > 0 {
            let sent = self.pair.client.tcp_send(self.from, &data[..room]);
            assert_eq!(sent, Ok(room), "there was room");
            self.sent += room as u64;
        }
        room > 0
    }

    /// The sender hears that there is room.
    pub fn drain(&mut self) {
        while self.pair.client.poll_event().is_some() {}
    }

    /// The receiver reads what has come.
    pub fn read(&mut self) {
        self.turns += 1;
        let server = &mut self.pair.server;
        while server.poll_event().is_some() {}
        let mut slices = Vec::with_capacity(64);
        let Ok(n) = server.tcp_rx_slices(self.to, usize::MAX, &mut slices) else { return };
        // The next byte is one that is known, however the stream was cut.
        let first = slices.first().and_then(|s| s.first()).copied();
        slices.iter().for_each(|s| {
            std::hint::black_box(s.first());
        });
        drop(slices);
        let at = (self.received % self.data.len() as u64) as usize;
        assert!(first.is_none_or(|byte| byte == self.data[at]), "bytes arrive in order");
        server.tcp_consume(self.to, n);
        self.received += n as u64;
    }
}

/// One packet at a time, of so many bytes with its headers, from one end to the application at the other, and
/// what acknowledges it.
pub struct Sized {
    bulk: Bulk,
    size: usize,
}

/// Bytes of a packet, with headers.
pub const SIZES: [usize; 6] = [64, 256, 1500, 9000, 32_768, 65_535];
/// IP and TCP without options.
const HEADERS: usize = 40;
/// Packets of a round.
const PACKETS: u64 = 200_000;

/// The row of packets of that size.
pub fn sized_name(size: usize) -> String {
    format!("packet of {size} bytes")
}

impl Sized {
    /// Packets of `size` bytes; beyond a frame they are super-packets.
    pub fn new(size: usize) -> Sized {
        let mut bulk = Bulk::new(true);
        bulk.pair.client.tcp_set(bulk.from, TcpOpt::NoDelay(true)).expect("it exists");
        bulk.data = (0..size - HEADERS).map(|n| n as u8).collect();
        Sized { bulk, size }
    }
}

impl Case for Sized {
    fn name(&self) -> String {
        sized_name(self.size)
    }
    fn rows(&self) -> Vec<Row> {
        vec![Row::new(sized_name(self.size), "ns/packet")]
    }
    fn round(&mut self, part: f64) -> Vec<Option<f64>> {
        let (packets, before) = (some(PACKETS, part, 512), self.bulk.received);
        let begun = cpu_ns();
        (0..packets).for_each(|_| self.bulk.turn());
        let ns = cpu_ns() - begun;
        self.bulk.pair.check();
        let bytes = self.bulk.received - before;
        assert_eq!(bytes, packets * self.bulk.data.len() as u64, "each turn's data arrives in it");
        vec![Some(ns as f64 / packets as f64)]
    }
}

/// The row of this kind.
pub fn bulk_name(offload: bool) -> &'static str {
    match offload {
        true => "one stream, super-packets, partial checksums",
        false => "one stream, 1460-byte segments, checksums",
    }
}

/// What the targets in Gb/s are as a ratio: they were set on a machine where smoltcp does 44.6 and 81.
pub fn of_smoltcp(offload: bool) -> f64 {
    match offload {
        true => 1.48,
        false => 1.35,
    }
}

/// The row of copying.
pub const MEMCPY: &str = "memcpy of the same bytes";

impl Case for Bulk {
    fn name(&self) -> String {
        bulk_name(self.offload).to_owned()
    }
    fn rows(&self) -> Vec<Row> {
        let least = if self.offload { 120.0 } else { 60.0 };
        vec![Row::new(bulk_name(self.offload), "Gb/s").at_least(least)]
    }
    fn round(&mut self, part: f64) -> Vec<Option<f64>> {
        let (bytes, before) = (some(USUAL, part, 64 * WRITE as u64), self.received);
        let begun = cpu_ns();
        while self.received - before < bytes {
            self.turn();
        }
        let ns = cpu_ns() - begun;
        self.pair.check();
        vec![Some((self.received - before) as f64 * 8.0 / ns as f64)]
    }
}

/// What one copy of the bytes takes, from the application's memory to other memory of that size.
pub struct Memcpy {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Memcpy {
    /// Two pieces of memory as large as what the application writes at once.
    pub fn new() -> Memcpy {
        Memcpy { from: vec![1; WRITE], to: vec![0; WRITE] }
    }
}

impl Case for Memcpy {
    fn name(&self) -> String {
        MEMCPY.to_owned()
    }
    fn rows(&self) -> Vec<Row> {
        vec![Row::new(MEMCPY, "Gb/s").of("memcpy")]
    }
    fn round(&mut self, part: f64) -> Vec<Option<f64>> {
        let copies = some(USUAL, part, 64 * WRITE as u64) / WRITE as u64;
        let begun = cpu_ns();
        for _ in 0..copies {
            self.to.copy_from_slice(std::hint::black_box(&self.from));
            std::hint::black_box(&self.to);
        }
        let ns = cpu_ns() - begun;
        vec![Some(copies as f64 * WRITE as f64 * 8.0 / ns as f64)]
    }
}
