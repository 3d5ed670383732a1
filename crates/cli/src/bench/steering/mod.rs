//! `linerate bench steering`: what a second shard gains, what a hop to it costs, whether the
//! order within each flow stays, and what a packet costs by the number of queues.
//!
//! Every shard has a ring of its own in memory and a thread of its own, pinned. Rates are of
//! processor time, since another load on the machine would otherwise be taken for the shards' own;
//! the elapsed time is told beside. Each datagram bears the number of its flow and its number within
//! the flow, and every reader looks at both.
//!
//! | file | what |
//! |---|---|
//! | [`end`] | one shard with its sockets, its flows and their order |
//! | [`threads`] | shards in threads: scaling, and a hop from one to the other |
//! | [`queues`] | what a packet costs by the number of queues, all polled by one thread |
//! | [`turns`] | shards that take turns in one thread: maps that change, connections that move |

pub mod end;
pub mod queues;
pub mod threads;
pub mod turns;

use std::process::ExitCode;

use serde_json::{Value, json};

use super::path::case::calibrate;
use super::stats::Spread;

/// Options of `linerate bench steering`.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchSteeringArgs {
    /// Rounds; the median is printed with the smallest and the largest
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Packets of each shard in a round
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub packets: u64,
    /// The two processors to run on
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "0,1")]
    pub pin: Vec<usize>,
    /// Print values with names for programs
    #[arg(long)]
    pub json: bool,
}

/// One line of the result.
struct Row {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
    target: Option<&'static str>,
}

impl Row {
    fn new(name: impl Into<String>, unit: &'static str) -> Row {
        Row { name: name.into(), unit, samples: Vec::new(), target: None }
    }
}

/// Measures and prints.
pub fn main(args: &BenchSteeringArgs) -> ExitCode {
    let cpus = [args.pin.first(), args.pin.last()].map(|cpu| cpu.copied().unwrap_or(0));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let before = calibrate();
    let mut rows = Vec::new();
    let mut scaling = Row::new("two shards, of one shard's rate (processor time)", "times");
    scaling.target = Some(">= 1.8");
    let mut elapsed = Row::new("two shards, of one shard's rate (elapsed)", "times");
    let mut alone = Row::new("one shard, batch 32", "ns/packet");
    let mut hops: Vec<_> = [1u64, 32, 64].map(Hop::new).into();
    let mut order = 0;
    for _ in 0..args.rounds {
        let one = threads::scaling(&cpus[1..], args.packets);
        let two = threads::scaling(&cpus, args.packets);
        alone.samples.push(one.cpu_ns);
        scaling.samples.push(2.0 * one.cpu_ns / two.cpu_ns);
        elapsed.samples.push(2.0 * one.elapsed_ns / two.elapsed_ns);
        order += one.disorder + two.disorder;
        for hop in &mut hops {
            order += hop.round(cpus, args.packets / if hop.batch == 1 { 8 } else { 2 });
        }
    }
    rows.extend([alone, scaling, elapsed]);
    rows.extend(hops.into_iter().flat_map(|hop| hop.rows));
    let mut moved = Row::new("a connection to another shard and back, each way", "ns");
    moved.samples = (0..args.rounds).map(|_| turns::migration(500)).collect();
    rows.push(moved);
    rows.extend(by_queues(cpus[1], args));
    let changes = turns::changing_maps(args.packets);
    order += changes.disorder;
    let run = Run { rows, order, changes, load, ghz: (before, calibrate()), cpus, args };
    if args.json {
        println!("{}", run.json())
    } else {
        run.table()
    }
    ExitCode::from(u8::from(order > 0))
}

/// What a packet costs by the number of queues. All hosts take turns in each round.
fn by_queues(cpu: usize, args: &BenchSteeringArgs) -> Vec<Row> {
    super::path::case::pin(&cpu.to_string());
    let each = |load| queues::QUEUES.map(|queues| (queues, load));
    let hosts = queues::LOADS.into_iter().flat_map(each).map(|(n, load)| {
        (queues::Host::new(n, load), Row::new(queues::name(n, load), "ns/packet"))
    });
    let mut hosts: Vec<_> = hosts.collect();
    // The first round fills caches and pools and is left out.
    for round in 0..=args.rounds {
        for (host, row) in &mut hosts {
            let ns = host.round(args.packets / 4);
            row.samples.extend((round > 0).then_some(ns));
        }
    }
    hosts.into_iter().map(|(_, row)| row).collect()
}

/// RPS from the first shard to the second.
struct Hop {
    batch: u64,
    rows: [Row; 3],
}

impl Hop {
    fn new(batch: u64) -> Hop {
        let row = |what: &str| Row::new(format!("RPS, batch {batch}: {what}"), "ns/packet");
        Hop { batch, rows: [row("sender"), row("receiver"), row("hop (both, less one shard)")] }
    }
    fn round(&mut self, cpus: [usize; 2], packets: u64) -> u64 {
        let alone = threads::alone(cpus[1], packets, self.batch);
        let hop = threads::hop(cpus, packets, self.batch);
        let more = hop.sender_ns + hop.receiver_ns - alone.cpu_ns;
        let cost = [hop.sender_ns, hop.receiver_ns, more];
        self.rows.iter_mut().zip(cost).for_each(|(row, ns)| row.samples.push(ns));
        hop.disorder + alone.disorder
    }
}

struct Run<'a> {
    rows: Vec<Row>,
    order: u64,
    changes: turns::Changes,
    load: String,
    ghz: (f64, f64),
    cpus: [usize; 2],
    args: &'a BenchSteeringArgs,
}

impl Run<'_> {
    fn table(&self) {
        let load: Vec<&str> = self.load.split_whitespace().take(1).collect();
        let [first, second] = self.cpus;
        println!("one thread a shard, pinned to processors {first} and {second}, 60 B frames");
        println!(
            "{:.2} GHz before and {:.2} after; load average before {}",
            self.ghz.0,
            self.ghz.1,
            load.concat()
        );
        println!("{} rounds of {} packets a shard\n", self.args.rounds, self.args.packets);
        println!("{:<52} {:>9} {:>19} {:<10} {:>7}", "", "median", "min..max", "", "target");
        for row in &self.rows {
            let Some(s) = Spread::of(&row.samples) else { continue };
            let digits = if row.unit == "times" { 2 } else { 1 };
            let spread = format!("{:.digits$}..{:.digits$}", s.min, s.max);
            let target = row.target.unwrap_or_default();
            let (name, unit) = (&row.name, row.unit);
            println!("{name:<52} {:>9.digits$} {spread:>19} {unit:<10} {target:>7}", s.median);
        }
        println!(
            "\norder violations: {} (of them {} while the map changed {} times)",
            self.order, self.changes.disorder, self.changes.changes
        );
    }

    fn json(&self) -> Value {
        let row = |r: &Row| {
            let s = Spread::of(&r.samples);
            json!({ "name": r.name, "unit": r.unit, "spread": s, "samples": r.samples, "target": r.target })
        };
        json!({
            "pinned": self.cpus, "ghz": self.ghz.0, "ghz_after": self.ghz.1, "load": self.load.trim(),
            "rounds": self.args.rounds, "packets": self.args.packets,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "order_violations": self.order, "map_changes": self.changes.changes,
            "read_while_maps_changed": self.changes.read,
        })
    }
}
