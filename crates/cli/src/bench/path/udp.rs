//! Cases of UDP: receive, echo, and look-up among many sockets.

use std::net::{IpAddr, Ipv4Addr};

use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::udp::api::Datagram;
use linerate_core::udp::output::SendTo;

use super::case::{Case, Maker, Parts, Row, stages, timed};
use super::stack::{self, LOCAL, PORT};

/// The cases of this file.
pub fn makers(sockets_max: u32) -> Vec<Maker> {
    let receive = |payload: usize, size: u64| -> Maker {
        let row = Row::new(format!("receive UDP, {payload} B payload, batch {size}"));
        let row = if (payload, size) == (18, 32) { row.target(35.0) } else { row };
        (row, Box::new(move |row| Box::new(Receive::new(row, payload, size, 1, false))))
    };
    let echo = |size: u64| -> Maker {
        let row = Row::new(format!("echo UDP, 18 B payload, batch {size}"));
        let row = if size == 32 { row.target(80.0) } else { row };
        (row, Box::new(move |row| Box::new(Receive::new(row, 18, size, 1, true))))
    };
    let mut all: Vec<Maker> = [32, 1, 8, 64, 256].map(|size| receive(18, size)).into();
    all.push(receive(1472, 32));
    all.extend([32, 1].map(echo));
    for sockets in [1, 1000, 10_000, 1_000_000u32] {
        let row = Row::new(format!("receive UDP at random, {sockets} sockets, batch 32"));
        let make = move |row| Box::new(Receive::new(row, 18, 32, sockets, false)) as Box<dyn Case>;
        all.extend((sockets <= sockets_max).then(|| (row, Box::new(make) as Box<_>)));
    }
    all
}

/// Datagrams that the application asks for at once.
const MANY: usize = 64;
/// Sockets on one address; more are spread over more addresses.
const PORTS: u32 = 60_000;

/// Where the `n`th of many sockets is bound.
pub fn place(n: u32) -> (Ipv4Addr, u16) {
    let addr = Ipv4Addr::from_bits(LOCAL.to_bits() + n / PORTS);
    (addr, (n % PORTS) as u16 + PORT)
}

/// A number below `n`, chosen by a generator that costs next to nothing.
#[inline]
pub fn choose(state: &mut u64, n: u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (((*state >> 32) * u64::from(n)) >> 32) as u32
}

struct Receive {
    row: Row,
    shard: Shard,
    batch: Batch,
    frame: Vec<u8>,
    size: u64,
    sockets: u32,
    echo: bool,
    turns: u64,
    random: u64,
    read: u64,
    datagrams: Vec<Datagram>,
}

impl Receive {
    fn new(row: Row, payload: usize, size: u64, sockets: u32, echo: bool) -> Receive {
        let mut shard = stack::shard();
        for extra in 1..sockets.div_ceil(PORTS) {
            let (addr, _) = place(extra * PORTS);
            shard.add_addr(0, IpAddr::V4(addr), 24).expect("a new address");
        }
        let many = row.name.contains("at random");
        // Where one address has ports enough, they are bound to the port alone, as the peer's are.
        let to_addr = sockets > PORTS;
        for n in 0..sockets {
            let (addr, port) = place(n);
            stack::bind(&mut shard, to_addr.then_some(IpAddr::V4(addr)), port);
        }
        let (frame, turns, random, read) = (stack::frame(payload), 0, 0x9e37_79b9_7f4a_7c15, 0);
        let sockets = if many { sockets } else { 0 };
        let (batch, datagrams) = (Batch::new(), Vec::new());
        Receive { row, shard, batch, frame, size, sockets, echo, turns, random, read, datagrams }
    }

    fn turn(&mut self) {
        self.turns += 1;
        stack::tick(&mut self.shard, self.turns);
        for _ in 0..self.size {
            if self.sockets > 0 {
                let (addr, port) = place(choose(&mut self.random, self.sockets));
                stack::redirect(&mut self.frame, addr, port);
            }
            stack::ring(&mut self.shard, &mut self.batch, &self.frame);
        }
        path::receive(&mut self.shard, &mut self.batch);
        while let Some(event) = self.shard.poll_event() {
            self.read(event.id);
        }
        if self.echo {
            path::transmit(&mut self.shard, &mut self.batch);
            stack::complete(&mut self.shard, 0);
        }
    }

    /// The application reads all that there is, and sends it back where that is asked for: from the
    /// memory in which it came.
    #[inline]
    fn read(&mut self, sock: SocketId) {
        loop {
            let n = self.shard.udp_recv_many(sock, MANY, &mut self.datagrams);
            self.read += self.datagrams.len() as u64;
            for datagram in &self.datagrams {
                std::hint::black_box(datagram.slices().next().and_then(|s| s.first()));
            }
            if self.echo {
                for datagram in self.datagrams.drain(..) {
                    // May not be fragmented: what Linux sends by default (`ip_no_pmtu_disc`).
                    let src = Some(datagram.dst());
                    let back = SendTo { src, df: true, ..SendTo::to(datagram.src()) };
                    let sent = self.shard.udp_send_on(sock, back, datagram);
                    sent.expect("the queue is emptied every turn");
                }
            } else {
                self.shard.udp_done_many(self.datagrams.drain(..));
            }
            if n < MANY {
                return;
            }
        }
    }
}

impl Case for Receive {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, packets: u64) -> Option<f64> {
        let before = self.read;
        let (ns, sent) = timed(packets, self.size, || self.turn());
        stack::check(&self.shard);
        assert_eq!(self.read - before, sent, "every datagram reached its socket");
        Some(ns)
    }
    fn parts(&mut self) -> Parts {
        let size = self.size;
        let ns = stages(self, size, |it| &mut it.shard, |it, _| it.turn());
        Parts { ns, note: None }
    }
}
