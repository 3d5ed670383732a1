//! Options of `linerate whatif`.

use std::path::PathBuf;
use std::str::FromStr;

use linerate_core::table::Stage;
use linerate_sim::machine::{Arrivals, Costs};

use crate::args::Setting;

/// Ask what a host would do: how many packets of a load it delivers, where it loses the first, what that
/// costs.
///
/// The host exists on paper only. Its rings, polls, steering, backlogs and sockets are linerate's own
/// code, under a clock of their own: so it may have a card and processors that this machine has not.
/// Every packet costs each stage what --cost says; --learn measures that here first.
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = "\
Examples:
  linerate whatif --nic 4x1024 --cpus 16 --rate 2.5Mpps --size 64 --flows 10000
  linerate whatif --rate 1Mpps --app 1000 --cpus 4 --sweep rps_cpus=0,3,f
  linerate whatif --rate 2Mpps --arrivals burst=1000 --sweep ring=256,512,1024,2048 --html rings.html
  linerate whatif --learn --check --nic 2x1024 --cpus 2 --sweep ring=256,1024,4096")]
pub struct WhatifArgs {
    /// The card: receive queues, and how many packets the ring of each holds
    #[arg(long, value_name = "QUEUESxRING", default_value = "1x1024")]
    pub nic: Nic,
    /// Processors, 1 to 64: queue N interrupts processor N modulo their number
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub cpus: u8,
    /// Packets a second that come, all flows together (500000, 500k, 2.5M, with or without pps)
    #[arg(long, default_value = "1Mpps")]
    pub rate: Rate,
    /// Bytes of each frame, its check sum included: 64 to 1518
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1518))]
    pub size: u16,
    /// Flows, all of the same rate; the card distributes them by their hash
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub flows: u32,
    /// When packets come: even, random, or burst=N at once
    #[arg(long, default_value = "random", value_parser = arrivals)]
    pub arrivals: Arrivals,
    /// What the application does with each packet, in nanoseconds
    #[arg(long, value_name = "NS")]
    pub app: Option<f64>,
    /// What something costs, in nanoseconds: a stage by its name for each packet, a `turn` of the loop, a look at
    /// a ring (`poll`), a packet out of its socket (`read`), one of a flow not seen lately (`miss`), a `byte`
    /// of a frame, an interrupt (`irq`); repeatable
    #[arg(long, value_name = "WHAT=NS", value_parser = cost)]
    pub cost: Vec<(What, f64)>,
    /// Measure first what everything costs on this machine
    #[arg(long)]
    pub learn: bool,
    /// Set a knob; repeatable (`linerate show knobs` and `explain` know their names)
    #[arg(long, value_name = "KNOB=VALUE")]
    pub set: Vec<Setting>,
    /// Ask for each of several values: of a knob, or of rate, size, flows, cpus, queues, ring, app
    #[arg(long, value_name = "WHAT=A,B,…")]
    pub sweep: Option<Sweep>,
    /// Time on paper that is counted, in milliseconds; a fifth of it passes before
    #[arg(long = "for", value_name = "MS", default_value_t = 100.0)]
    pub time: f64,
    /// What arrival times and flows follow from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Run the same machine for real as well, without interrupts, one thread for each processor with a queue, and
    /// compare at which rate and at which stage drops begin; fail if rates differ by more than 20 %
    #[arg(long, conflicts_with_all = ["html", "svg"])]
    pub check: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page with pictures to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the pictures alone to this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Queues and ring of a card.
#[derive(Clone, Copy, Debug)]
pub struct Nic {
    pub queues: usize,
    pub ring: usize,
}

impl FromStr for Nic {
    type Err = String;
    fn from_str(text: &str) -> Result<Nic, String> {
        let wrong = || "write QUEUESxRING, as 4x1024: 1 to 64 queues of 1 to 1048576".to_owned();
        let (queues, ring) = text.split_once(['x', '×']).ok_or_else(wrong)?;
        let queues: usize = queues.parse().map_err(|_| wrong())?;
        let ring: usize = ring.parse().map_err(|_| wrong())?;
        let good = (1..=64).contains(&queues) && (1..=1 << 20).contains(&ring);
        if good { Ok(Nic { queues, ring }) } else { Err(wrong()) }
    }
}

/// Packets a second.
#[derive(Clone, Copy, Debug)]
pub struct Rate(pub f64);

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong = || format!("{text:?} is no rate: write 500k, 2.5Mpps, 1000000");
        let number = text.strip_suffix("pps").unwrap_or(text).trim();
        let (number, factor) = match number.chars().last() {
            Some('k' | 'K') => (&number[..number.len() - 1], 1e3),
            Some('m' | 'M') => (&number[..number.len() - 1], 1e6),
            Some('g' | 'G') => (&number[..number.len() - 1], 1e9),
            _ => (number, 1.0),
        };
        let rate: f64 = number.trim().parse().map_err(|_| wrong())?;
        let rate = rate * factor;
        if (1.0..=1e9).contains(&rate) {
            Ok(Rate(rate))
        } else {
            Err(format!("a rate is 1 pps to 1 Gpps, and {text} is not"))
        }
    }
}

fn arrivals(text: &str) -> Result<Arrivals, String> {
    match text {
        "even" => Ok(Arrivals::Even),
        "random" => Ok(Arrivals::Random),
        _ => {
            let burst = text.strip_prefix("burst=").and_then(|n| n.parse().ok());
            let burst = burst.filter(|n| (1..=65536).contains(n));
            burst
                .map(Arrivals::Bursts)
                .ok_or_else(|| "write even, random, or burst=N with 1 to 65536".to_owned())
        }
    }
}

/// What a cost is of.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Stage(Stage),
    Turn,
    Poll,
    Read,
    Miss,
    Byte,
    Irq,
}

fn cost(text: &str) -> Result<(What, f64), String> {
    let (name, ns) = text.split_once('=').ok_or("write WHAT=NS, as Ip=20")?;
    let ns: f64 = ns.parse().map_err(|_| format!("{ns:?} is no number of nanoseconds"))?;
    if !(0.0..=1e6).contains(&ns) {
        return Err("a cost is 0 to 1000000 ns".to_owned());
    }
    let what = match name {
        "turn" => What::Turn,
        "poll" => What::Poll,
        "read" => What::Read,
        "miss" => What::Miss,
        "byte" => What::Byte,
        "irq" => What::Irq,
        _ => What::Stage(Stage::by_name(name).ok_or_else(|| {
            let all: Vec<&str> = Stage::ROWS.iter().map(|r| r.name).collect();
            format!(
                "{name:?} is none of turn, poll, read, miss, byte, irq, nor a stage: {}",
                all.join(", ")
            )
        })?),
    };
    Ok((what, ns))
}

/// One cost is what the user says.
pub fn put(costs: &mut Costs, what: What, ns: f64) {
    match what {
        What::Stage(stage) => costs.stage[stage as usize] = ns,
        What::Turn => costs.turn = ns,
        What::Poll => costs.poll = ns,
        What::Read => costs.read = ns,
        What::Miss => costs.miss = ns,
        What::Byte => costs.byte = ns,
        What::Irq => costs.irq = ns,
    }
}

/// Several values of one thing.
#[derive(Clone, Debug)]
pub struct Sweep {
    pub what: String,
    pub values: Vec<String>,
}

impl FromStr for Sweep {
    type Err = String;
    fn from_str(text: &str) -> Result<Sweep, String> {
        let (what, values) = text.split_once('=').ok_or("write WHAT=A,B,…")?;
        let values: Vec<String> = values.split(',').map(|v| v.trim().to_owned()).collect();
        if what.is_empty() {
            return Err("write what is to vary before the =, as ring=256,1024".to_owned());
        }
        if values.len() > 100 || values.iter().any(String::is_empty) {
            return Err("a sweep has 1 to 100 values, none of them empty".to_owned());
        }
        Ok(Sweep { what: what.to_owned(), values })
    }
}
