//! What a packet costs among many connections.
//!
//! In each turn requests of 64 bytes come in, each of another connection; the server reads them and answers with
//! as many bytes; with the next turn's requests come the acknowledgements of this turn's answers. So a
//! request makes three packets: two in, one out. All that the stack and the application on it do is timed, with
//! timers; the making and reading of frames by the clients is not. Time goes on by 100 ns a packet.

use std::cell::RefCell;
use std::rc::Rc;

use linerate_core::rand::Rng;
use linerate_core::time::{Instant, SEC};
use linerate_core::wire::TcpFlags;

use super::case::{Case, Row, clock_cost, resident, some};
use super::clients::{Answer, Clients, Frames};
use super::server::Server;
use crate::bench::path::case::cpu_ns;

/// Requests in a turn, if there are so many connections.
const BATCH: u32 = 32;
/// Requests in a turn, where that is what is looked at, and connections then.
const BATCHES: [u32; 5] = [1, 4, 16, 64, 256];
const OF_BATCHES: u32 = 256;
/// Packets that a request makes.
const PACKETS: f64 = 3.0;
/// Bytes of a request, and of its answer.
const REQUEST: [u8; 64] = [0x5a; 64];
/// Requests of a round.
const USUAL: u64 = 300_000;

/// A server with its connections.
pub struct Many {
    server: Box<dyn Server>,
    clients: Clients,
    rng: Rng,
    now_ns: u64,
    turn: u32,
    /// Whose answers are to be acknowledged.
    acks: Vec<u32>,
    frames: Frames,
    out: Frames,
    /// Bytes that each connection takes, idle.
    bytes: f64,
}

impl Many {
    /// `connections` to `server`, each of which has answered one request and is idle.
    pub fn new(connections: u32, make: impl FnOnce() -> Box<dyn Server>) -> Many {
        let clients = Clients::new(connections);
        let before = resident();
        let mut it = Many {
            server: make(),
            clients,
            rng: Rng::new(7),
            now_ns: SEC,
            turn: 0,
            acks: Vec::new(),
            frames: Frames::default(),
            out: Frames::default(),
            bytes: 0.0,
        };
        it.open();
        // What was needed for the first request and is not needed any more is given back in time.
        for n in 0..connections {
            it.request(&[n]);
            if n % BATCH == 0 {
                it.now_ns += SEC / 1000;
            }
        }
        it.settle();
        it.bytes = resident().saturating_sub(before) as f64 / f64::from(connections);
        it
    }

    /// Three seconds in which nobody asks: what busy connections left to timers is done, and idle ones have given
    /// memory back.
    fn settle(&mut self) {
        self.acknowledge();
        for _ in 0..300 {
            self.now_ns += SEC / 100;
            self.step(true);
        }
    }

    /// One turn of the server with the frames that are there; the nanoseconds that it took.
    fn step(&mut self, timers: bool) -> u64 {
        self.out.clear();
        let now = Instant::from_ns(self.now_ns);
        let begun = cpu_ns();
        self.server.turn(now, &self.frames, timers, &mut self.out);
        let ns = cpu_ns() - begun;
        self.frames.clear();
        self.turn += 1;
        ns
    }
    fn ms(&self) -> u32 {
        (self.now_ns / 1_000_000) as u32
    }
    fn open(&mut self) {
        let all = self.clients.len();
        for first in (0..all).step_by(BATCH as usize) {
            let some = first..all.min(first + BATCH);
            let ms = self.ms();
            some.clone().for_each(|n| self.clients.syn(n, ms, &mut self.frames));
            self.now_ns += SEC / 10_000;
            self.step(true);
            let taken = self.take();
            assert_eq!(taken.len(), some.len(), "every SYN is answered");
            for n in taken {
                self.clients.send(n, TcpFlags::NONE, &[], ms, &mut self.frames);
            }
            self.step(false);
        }
        assert_eq!(self.server.accepted(), u64::from(all), "every connection is accepted");
    }
    /// Which clients were answered.
    fn take(&mut self) -> Vec<u32> {
        let answers = self.out.iter().filter_map(Answer::read);
        answers.filter_map(|answer| self.clients.take(&answer)).collect()
    }
    /// The acknowledgements of the last turn's answers.
    fn acknowledge(&mut self) {
        let ms = self.ms();
        let mut acks = std::mem::take(&mut self.acks);
        for n in acks.drain(..) {
            self.clients.send(n, TcpFlags::NONE, &[], ms, &mut self.frames);
        }
        self.acks = acks;
    }
    /// A request of each of these, and the answers; nanoseconds of the server.
    fn request(&mut self, of: &[u32]) -> u64 {
        self.acknowledge();
        let ms = self.ms();
        for n in of {
            self.clients.send(*n, TcpFlags::PSH, &REQUEST, ms, &mut self.frames);
        }
        self.now_ns += of.len() as u64 * 300;
        let ns = self.step(self.turn.is_multiple_of(16));
        self.acks.clear();
        for frame in self.out.iter() {
            let answer = Answer::read(frame).expect("the server sends whole segments");
            if answer.len > 0
                && let Some(n) = self.clients.take(&answer)
            {
                self.acks.push(n);
            }
        }
        assert_eq!(self.acks.len(), of.len(), "every request is answered at once");
        ns
    }
    /// `requests` of connections that `choose` chooses; nanoseconds a packet.
    fn run(&mut self, requests: u64, mut choose: impl FnMut(&mut Rng) -> u32, size: u32) -> f64 {
        let size = size as usize;
        let cost = clock_cost();
        let (mut ns, mut done, mut turns) = (0, 0, 0);
        let mut of = Vec::with_capacity(size);
        while done < requests {
            of.clear();
            while of.len() < size {
                let n = choose(&mut self.rng);
                // Numbers of turns differ from what a client begins with: those are odd or not yet reached.
                if self.clients.choose(n, self.turn.wrapping_mul(2).wrapping_add(2)) {
                    of.push(n);
                }
            }
            ns += self.request(&of);
            done += size as u64;
            turns += 1;
        }
        self.server.check();
        (ns as f64 - f64::from(turns) * cost) / (done as f64 * PACKETS)
    }
}

/// What is asked of connections.
#[derive(Clone, Copy, PartialEq)]
enum What {
    /// Any of them, at random.
    Random,
    /// Any of them, so many in each turn.
    Batch(u32),
    /// One of a hundredth, at random.
    Hundredth,
    /// Nothing.
    Idle,
}

/// A way to use connections that others use in other ways.
pub struct Packets {
    many: Rc<RefCell<Many>>,
    name: String,
    what: What,
    row: Row,
    usual: u64,
}

/// Who is asked how much.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Whose stack it is.
    pub who: &'static str,
    /// How many connections.
    pub connections: u32,
    /// It takes one request where others take so many.
    pub slower: u64,
    /// The memory of each is measured as well.
    pub memory: bool,
    /// So is a hundredth of them, and what their memory is meant to be counts.
    pub more: bool,
}

/// The cases of one server with its connections.
pub fn cases(plan: Plan, make: impl FnOnce() -> Box<dyn Server>) -> Vec<Box<dyn Case>> {
    let Plan { who, connections, slower, memory, more } = plan;
    let many = Rc::new(RefCell::new(Many::new(connections, make)));
    let case = |what: What, name: String, row: Row| -> Box<dyn Case> {
        let row = row.of(who);
        let usual = USUAL / slower;
        Box::new(Packets { many: Rc::clone(&many), name, what, row, usual })
    };
    let name = packets_name(connections);
    let mut list = vec![case(What::Random, name.clone(), Row::new(name, "ns/packet"))];
    if more {
        let name = hundredth_name(connections);
        list.push(case(What::Hundredth, name.clone(), Row::new(name, "ns/packet")));
    }
    if memory {
        let name = memory_name(connections);
        let row = Row::new(name.clone(), "bytes");
        // Among few the stack's own memory counts.
        list.push(case(What::Idle, name, if more { row.at_most(1024.0) } else { row }));
    }
    list
}

/// The cases of one server with requests in turns of different sizes.
pub fn batches(
    wanted: impl Fn(&str) -> bool,
    make: impl FnOnce() -> Box<dyn Server>,
) -> Vec<Box<dyn Case>> {
    let names = BATCHES.map(|n| (n, format!("packet, {OF_BATCHES} connections, {n} at a time")));
    let names: Vec<_> = names.into_iter().filter(|(_, name)| wanted(name)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let many = Rc::new(RefCell::new(Many::new(OF_BATCHES, make)));
    let case = |(n, name): (u32, String)| -> Box<dyn Case> {
        let row = Row::new(name.clone(), "ns/packet");
        Box::new(Packets { many: Rc::clone(&many), name, what: What::Batch(n), row, usual: USUAL })
    };
    names.into_iter().map(case).collect()
}

/// The row of so many connections.
pub fn packets_name(connections: u32) -> String {
    let s = if connections == 1 { "" } else { "s" };
    format!("packet, {connections} connection{s} at random")
}

/// The row of the memory of so many connections.
pub fn memory_name(connections: u32) -> String {
    format!("memory of an idle connection (RSS), {connections} of them")
}

/// The row of so many connections of which a hundredth is active.
pub fn hundredth_name(connections: u32) -> String {
    format!("packet, {connections} connections, 1 % active")
}

impl Case for Packets {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn rows(&self) -> Vec<Row> {
        vec![self.row.clone()]
    }
    fn round(&mut self, part: f64) -> Vec<Option<f64>> {
        let mut many = self.many.borrow_mut();
        let all = many.clients.len();
        let requests = some(self.usual, part, 64);
        vec![Some(match self.what {
            What::Random => many.run(requests, |rng| rng.below(all.into()) as u32, BATCH.min(all)),
            What::Batch(n) => {
                many.settle();
                many.run(requests, |rng| rng.below(all.into()) as u32, n)
            }
            What::Hundredth => {
                // The timers of what other cases asked of the others are none of this one's work.
                many.settle();
                let active = (all / 100).max(1);
                // Spread over all of them.
                let step = all / active;
                many.run(requests, |rng| rng.below(active.into()) as u32 * step, BATCH.min(active))
            }
            What::Idle => many.bytes,
        })]
    }
}
