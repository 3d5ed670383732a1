//! The throughput surface: what one TCP gets of a link by loss, round trip, buffer and congestion
//! control, and how several share it; in virtual time, so that the same figures come out everywhere.

mod command;
mod page;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use linerate_core::link::L2;
use linerate_core::time::{MS, SEC};
use linerate_sim::{Link, Port, Streams, World};

pub use command::{USAGE, command};
pub use page::{page, picture, tables};

/// Congestion controls that are looked at.
pub const CONTROLS: [&str; 4] = ["cubic", "reno", "bbr", "dctcp"];
/// Payload of what the link carries of full packets.
const PAYLOAD: f64 = 1448.0 / 1500.0;
/// The least buffer, in bytes: two packets.
const LEAST: u64 = 3000;

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// Which surface: its axes, and how long each cell is looked at.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The link, in Mbit/s.
    pub mbit: u64,
    /// Congestion controls.
    pub controls: Vec<&'static str>,
    /// Packets lost, in a million.
    pub losses: Vec<u32>,
    /// Round trips in milliseconds.
    pub rtts: Vec<u64>,
    /// Buffers, in hundredths of what is under way on the link (rate times round trip).
    pub buffers: Vec<u64>,
    /// Virtual seconds of a cell; as many tens of round trips, if these are longer.
    pub secs: u64,
    /// Seeds 1 to this: the mean of them is what counts.
    pub seeds: u64,
}

impl Plan {
    /// What docs/SURFACE.md shows.
    pub fn page() -> Plan {
        Plan {
            mbit: 10,
            controls: CONTROLS.to_vec(),
            losses: vec![0, 1_000, 10_000, 30_000, 50_000],
            rtts: vec![1, 20, 100, 200],
            buffers: vec![50, 100, 400],
            secs: 12,
            seeds: 1,
        }
    }
    /// More of everything, by command.
    pub fn large() -> Plan {
        Plan {
            losses: vec![0, 100, 1_000, 3_000, 10_000, 20_000, 30_000, 50_000],
            rtts: vec![1, 5, 20, 50, 100, 200],
            buffers: vec![25, 50, 100, 200, 400],
            secs: 20,
            seeds: 3,
            ..Plan::page()
        }
    }
}

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// The link, in Mbit/s.
    pub mbit: u64,
    /// Congestion control.
    pub control: &'static str,
    /// Packets lost on the way there, in a million.
    pub loss_ppm: u32,
    /// Milliseconds there and back through empty queues.
    pub rtt_ms: u64,
    /// The buffer, in hundredths of rate times round trip.
    pub buffer: u64,
    /// Connections.
    pub flows: usize,
    /// Virtual seconds; as many tens of round trips, if these are longer. The first quarter does not count.
    pub secs: u64,
    /// What decides what is random.
    pub seed: u64,
}

impl Cell {
    /// Bytes that the link carries in a round trip.
    fn under_way(&self) -> u64 {
        self.mbit * 125 * self.rtt_ms
    }
    /// The way there. For DCTCP the link marks what finds more than a seventh of a round trip's bytes
    /// before it (RFC 8257 §4.1), and more than a packet.
    fn link(&self) -> Link {
        Link {
            rate_bps: self.mbit * 1_000_000,
            queue_bytes: (self.under_way() * self.buffer / 100).max(LEAST),
            mark_bytes: if self.marks() { (self.under_way() / 7).max(LEAST / 2) } else { 0 },
            loss_ppm: self.loss_ppm,
            ..self.back()
        }
    }
    fn back(&self) -> Link {
        Link { delay_ns: self.rtt_ms * MS / 2, ..Link::default() }
    }
    fn marks(&self) -> bool {
        self.control == "dctcp"
    }
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What each connection got of the link's payload: 1 = all of it.
    pub shares: Vec<f64>,
    /// Milliseconds that what waited before the link took, every 5 ms, sorted.
    pub queue_ms: Vec<f64>,
}

impl Seen {
    /// What all got together.
    pub fn share(&self) -> f64 {
        self.shares.iter().sum()
    }
    /// Jain's index: 1 if all got the same, 1/n if one got all.
    pub fn fairness(&self) -> f64 {
        let squares: f64 = self.shares.iter().map(|share| share * share).sum();
        self.share() * self.share() / (squares * self.shares.len() as f64)
    }
    /// The queue's delay that it was not above for `percent` of the time, in milliseconds.
    pub fn queue(&self, percent: usize) -> f64 {
        self.queue_ms.get(self.queue_ms.len() * percent / 100).copied().unwrap_or(0.0)
    }
}

/// Two hosts, one of which sends to the other.
fn bench(cell: &Cell) -> (World, Streams, Port) {
    let mut world = World::new(cell.seed);
    let (a, b) = (world.add_node(), world.add_node());
    let (there, _) = world.join((a, A), (b, B), (L2::Ip, 1500, 24), (cell.link(), cell.back()));
    for node in [a, b] {
        let shard = world.node(node);
        let set = shard.set_knob("net.ipv4.tcp_congestion_control", cell.control);
        set.expect("a congestion control that exists");
        if cell.marks() {
            shard.set_knob("net.ipv4.tcp_ecn", "1").expect("a switch");
        }
    }
    let mut streams = Streams::new(&mut world, (a, b), (B, 80).into());
    for _ in 0..cell.flows {
        streams.open(&mut world);
    }
    (world, streams, there)
}

/// Runs one cell.
///
/// # Panics
/// If a packet is missing in the stacks' own account.
pub fn run(cell: &Cell) -> Seen {
    let (mut world, mut streams, there) = bench(cell);
    let long = (cell.secs * SEC).max(10 * cell.secs * cell.rtt_ms * MS);
    let begun = world.now();
    let (warm, end) = (begun.plus(long / 4), begun.plus(long));
    let (mut look, mut queue_ms) = (warm, Vec::new());
    let mut bytes = vec![0; cell.flows];
    while world.now() < end {
        let now = world.now();
        streams.turn(&mut world, |of, n| bytes[of] += if now < warm { 0 } else { n });
        while now >= look {
            look = look.plus(5 * MS);
            let waits = world.waiting(there);
            queue_ms.push(waits as f64 / (cell.mbit * 125) as f64);
        }
        world.step_by(look);
    }
    assert_eq!(world.unaccounted(), [], "{cell:?}: packets are missing");
    queue_ms.sort_by(f64::total_cmp);
    let link = (cell.mbit * 125_000) as f64 * PAYLOAD * (end.since(warm) as f64 / SEC as f64);
    Seen { shares: bytes.iter().map(|n| *n as f64 / link).collect(), queue_ms }
}

/// Runs cells on so many threads; what was seen in the order of the cells.
fn run_all(cells: &[Cell], jobs: usize) -> Vec<Seen> {
    let next = AtomicUsize::new(0);
    let seen: Mutex<Vec<(usize, Seen)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cell) = cells.get(at) else { break };
                    let one = run(cell);
                    seen.lock().expect("no thread panics in here").push((at, one));
                }
            });
        }
    });
    let mut seen = seen.into_inner().expect("all threads have ended well");
    seen.sort_by_key(|(at, _)| *at);
    seen.into_iter().map(|(_, one)| one).collect()
}

/// A line of the surface: one round trip and buffer, all losses.
#[derive(Clone, Debug)]
pub struct Line {
    /// Congestion control.
    pub control: &'static str,
    /// Milliseconds.
    pub rtt_ms: u64,
    /// Hundredths of rate times round trip.
    pub buffer: u64,
    /// What was got of the link, by loss.
    pub shares: Vec<f64>,
}

/// The lines of a plan, without figures yet.
fn lines(plan: &Plan) -> Vec<Line> {
    let mut lines = Vec::new();
    for control in plan.controls.iter().copied() {
        for rtt_ms in plan.rtts.iter().copied() {
            for buffer in plan.buffers.iter().copied() {
                lines.push(Line { control, rtt_ms, buffer, shares: Vec::new() });
            }
        }
    }
    lines
}

/// The cells of a plan, line by line, and all seeds of a cell one after the other.
fn cells(plan: &Plan) -> Vec<Cell> {
    let Plan { mbit, secs, .. } = *plan;
    let mut cells = Vec::new();
    for Line { control, rtt_ms, buffer, .. } in lines(plan) {
        for loss_ppm in plan.losses.iter().copied() {
            cells.extend((1..=plan.seeds).map(|seed| {
                let flows = 1;
                Cell { mbit, control, loss_ppm, rtt_ms, buffer, flows, secs, seed }
            }));
        }
    }
    cells
}

/// The whole surface.
pub fn surface(plan: &Plan, jobs: usize) -> Vec<Line> {
    let (mut lines, cells) = (lines(plan), cells(plan));
    let seen = run_all(&cells, jobs);
    let mut means = seen
        .chunks(plan.seeds as usize)
        .map(|of_one| of_one.iter().map(Seen::share).sum::<f64>() / of_one.len() as f64);
    for line in &mut lines {
        line.shares = means.by_ref().take(plan.losses.len()).collect();
    }
    lines
}

/// How several share the link: each case, and what was seen.
pub fn shared(plan: &Plan, jobs: usize) -> Vec<(Cell, Seen)> {
    let mut cells = Vec::new();
    for control in plan.controls.iter().copied() {
        for flows in [2, 8] {
            for rtt_ms in [20, 100] {
                for buffer in [100, 400] {
                    // Shares take longer to become even than a link to fill.
                    let (mbit, secs) = (plan.mbit, plan.secs * 2);
                    let (loss_ppm, seed) = (0, 1);
                    cells.push(Cell { mbit, control, loss_ppm, rtt_ms, buffer, flows, secs, seed });
                }
            }
        }
    }
    let seen = run_all(&cells, jobs);
    cells.into_iter().zip(seen).collect()
}
