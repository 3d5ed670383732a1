//! A flood of SYNs from addresses that do not exist, and clients that want to be served meanwhile.
//!
//! The flood comes at 500 000 SYNs a second of the stack's time; every fiftieth is a client's, which completes
//! its handshake 10 ms later, sends a request, wants it answered, and closes. No client tries twice.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use linerate_core::rand::Rng;
use linerate_core::time::{Instant, SEC};
use linerate_core::wire::TcpFlags;

use super::case::{Case, Row, clock_cost, resident, some};
use super::clients::{Answer, Clients, Frames, Segment, number, syn_options};
use super::server::Server;
use crate::bench::path::case::cpu_ns;

/// SYNs a second.
pub const RATE: u64 = 500_000;
/// One of so many is a client's.
const CLIENTS: u64 = 50;
/// SYNs of a turn.
const BATCH: u64 = 50;
/// SYNs of a round.
const USUAL: u64 = 1_000_000;
/// A client's round trip in nanoseconds.
const TRIP_NS: u64 = SEC / 100;
/// Clients that there are: by the time that one comes again, its last connection is over.
const PLACES: u32 = 60_000;

/// What a client is to do next.
enum Next {
    /// Complete the handshake and ask.
    Ask,
    /// Close.
    Close,
    /// Acknowledge the server's FIN.
    End,
}

/// A server under a flood.
pub struct Flood {
    who: &'static str,
    server: Box<dyn Server>,
    clients: Clients,
    rng: Rng,
    now_ns: u64,
    turns: u64,
    next: u32,
    todo: VecDeque<(u64, u32, Next)>,
    frames: Frames,
    out: Frames,
    tried: u64,
    served: u64,
    /// Memory that the rounds after the first left behind, in bytes; `None` before the first is over.
    grown: Option<u64>,
    slower: u64,
}

/// Name of the row with the share of clients that are served.
pub const SERVED: &str = "SYN flood: clients that are served";
/// Name of the row with the time that a SYN takes.
pub const COST: &str = "SYN flood: a SYN, clients' packets included";
/// Name of the row with what the flood leaves in memory.
pub const GROWTH: &str = "SYN flood: memory that grows (RSS)";

impl Flood {
    /// A server of this stack; it gets one SYN where others get `slower`.
    pub fn new(who: &'static str, server: Box<dyn Server>, slower: u64) -> Flood {
        Flood {
            who,
            server,
            clients: Clients::new(PLACES),
            rng: Rng::new(11),
            now_ns: SEC,
            turns: 0,
            next: 0,
            todo: VecDeque::new(),
            frames: Frames::default(),
            out: Frames::default(),
            tried: 0,
            served: 0,
            grown: None,
            slower,
        }
    }

    /// A turn with so many SYNs; the nanoseconds that the server took.
    fn turn(&mut self, syns: u64) -> u64 {
        self.turns += 1;
        self.now_ns += BATCH * SEC / RATE;
        let ms = (self.now_ns / 1_000_000) as u32;
        self.frames.clear();
        while self.todo.front().is_some_and(|(at, _, _)| *at <= self.now_ns) {
            let Some((_, n, next)) = self.todo.pop_front() else { break };
            let (flags, data) = match next {
                Next::Ask => (TcpFlags::PSH, &b"a request"[..]),
                Next::Close => (TcpFlags::FIN, &b""[..]),
                Next::End => (TcpFlags::NONE, &b""[..]),
            };
            self.clients.send(n, flags, data, ms, &mut self.frames);
        }
        for syn in 0..syns {
            if syn % CLIENTS == 0 {
                self.next = (self.next + 1) % PLACES;
                self.tried += 1;
                self.clients.syn(self.next, ms, &mut self.frames);
                continue;
            }
            let word = self.rng.next_u64();
            let addr = Ipv4Addr::from_bits(0x2000_0000 | word as u32 & 0x1fff_ffff);
            let from = (addr, (word >> 32) as u16 | 1024);
            let (seq, flags, opts) = (self.rng.next_u32(), TcpFlags::SYN, syn_options(ms));
            Segment { from, seq, ack: 0, flags, opts, data: &[] }.write(&mut self.frames);
        }
        self.out.clear();
        let (now, timers) = (Instant::from_ns(self.now_ns), self.turns.is_multiple_of(8));
        let begun = cpu_ns();
        self.server.turn(now, &self.frames, timers, &mut self.out);
        let ns = cpu_ns() - begun;
        self.read();
        ns
    }

    /// The clients read what is for them; nobody gets the rest.
    fn read(&mut self) {
        let answers = self.out.iter().filter_map(Answer::read);
        for answer in answers.filter(|a| number(a.to).is_some_and(|n| n < PLACES)) {
            let Some(n) = self.clients.take(&answer) else { continue };
            let next = match answer.tcp.flags {
                flags if flags.syn() => Next::Ask,
                flags if flags.fin() => Next::End,
                _ if answer.len > 0 => {
                    self.served += 1;
                    Next::Close
                }
                _ => continue,
            };
            self.todo.push_back((self.now_ns + TRIP_NS, n, next));
        }
    }
}

impl Case for Flood {
    fn name(&self) -> String {
        format!("SYN flood, {}", self.who)
    }
    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![
            Row::new(SERVED, "%").of(self.who),
            Row::new(COST, "ns").of(self.who),
            Row::new(GROWTH, "KiB").of(self.who),
        ];
        if self.who == "linerate" {
            rows[0] = rows[0].clone().at_least(99.9);
            rows[1] = rows[1].clone().at_most(1e9 / RATE as f64);
            rows[2] = rows[2].clone().at_most(1024.0);
        }
        rows
    }
    fn round(&mut self, part: f64) -> Vec<Option<f64>> {
        let syns = some(USUAL / self.slower, part, 10 * BATCH);
        let before = resident();
        let (tried, served, cost) = (self.tried, self.served, clock_cost());
        let (mut ns, turns) = (0.0, syns.div_ceil(BATCH));
        for _ in 0..turns {
            ns += self.turn(BATCH) as f64 - cost;
        }
        // Who has sent a SYN may end what it began.
        for _ in 0..5 * TRIP_NS / (BATCH * SEC / RATE) {
            self.turn(0);
        }
        self.server.check();
        let served = (self.served - served) as f64 / (self.tried - tried) as f64;
        // Others in this process take memory in their turns.
        let more = resident().saturating_sub(before);
        let grown = self.grown.map_or(0, |grown| grown + more);
        self.grown = Some(grown);
        vec![Some(100.0 * served), Some(ns / (turns * BATCH) as f64), Some(grown as f64 / 1024.0)]
    }
}
