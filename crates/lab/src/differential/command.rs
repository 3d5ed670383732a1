//! `linerate-lab differential`.

use std::process::ExitCode;
use std::time::Duration;

use super::{COUNTERS, Cell, HEAD, measure};

/// How it is called.
pub const USAGE: &str = "\
linerate-lab differential [--seeds N] [--time SECONDS] [--cc NAME] [--jobs J] [--wmem BYTES]
                          [--rtt MS [--mbit N] [--queue BYTES] [--loss PPM] [--reorder PPM]]
    our TCP beside the kernel's over the same losses, in real time: nine seeds of eight seconds in each of
    ten cells, with cubic, one pair at a time. Both senders' buffers grow to so many bytes, 4 MiB if not said. With
    a round trip only that path, seed by seed, with what both senders counted. Needs root
";

/// What was asked for.
struct Asked {
    seeds: u64,
    time: Duration,
    cc: String,
    jobs: usize,
    /// What send buffers grow to, if not to what the kernel's do.
    wmem: Option<u64>,
    /// A path instead of all cells.
    cell: Option<Cell>,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Asked, String> {
        let mut asked = Asked {
            seeds: 9,
            time: Duration::from_secs(8),
            cc: "cubic".to_owned(),
            jobs: 1,
            wmem: None,
            cell: None,
        };
        let (mut path, mut queue) = (Cell::new(0, 0, 0), None);
        let mut rest = args.iter();
        while let Some(name) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{name} takes a value"))?;
            let number = || value.parse::<u64>().ok().filter(|n| (1..=3600).contains(n));
            let number = || number().ok_or_else(|| format!("{name} takes a number from 1 to 3600"));
            match name.as_str() {
                "--seeds" => asked.seeds = number()?,
                "--time" => asked.time = Duration::from_secs(number()?),
                "--jobs" => asked.jobs = number()?.min(64) as usize,
                "--rtt" => path.rtt_ms = number()?,
                "--mbit" => path.mbit = number()?,
                "--queue" => queue = Some(value.parse().map_err(|_| "--queue takes bytes")?),
                "--loss" => path.loss_ppm = value.parse().map_err(|_| "--loss takes millionths")?,
                "--reorder" => {
                    path.reorder_ppm = value.parse().map_err(|_| "--reorder takes millionths")?;
                }
                "--wmem" => {
                    let bytes = value.parse().map_err(|_| "--wmem takes bytes")?;
                    asked.wmem = Some(bytes);
                }
                "--cc" => asked.cc.clone_from(value),
                _ => return Err(format!("no option is called {name}")),
            }
        }
        if path != Cell::new(0, 0, 0) || queue.is_some() {
            if path.rtt_ms == 0 {
                return Err("a path needs --rtt".to_owned());
            }
            path.wmem = asked.wmem.unwrap_or(path.wmem);
            path.queue_bytes = queue.unwrap_or(path.mbit * 125 * path.rtt_ms);
            asked.cell = Some(path);
        }
        Ok(asked)
    }
}

/// One path, seed by seed: goodputs in Mb/s, and what the senders counted.
fn one(cell: Cell, asked: &Asked, seeds: &[u64]) -> Result<(), String> {
    let row = measure(cell, &asked.cc, seeds, asked.time, asked.jobs)?;
    println!(
        "{}, {} Mb/s, a queue of {} bytes, send buffers of {} bytes\n{HEAD}\n{row}\n",
        asked.cc, cell.mbit, cell.queue_bytes, cell.wmem
    );
    println!("seed      kernel to kernel   linerate sends   linerate receives, Mb/s");
    for (seed, ((kernel, sender), receiver)) in
        seeds.iter().zip(row.kernel.iter().zip(&row.sender).zip(&row.receiver))
    {
        let [kernel, sender, receiver] = [kernel, sender, receiver].map(|bps| bps / 1e6);
        println!("{seed:<6} {kernel:>19.2} {sender:>16.2} {receiver:>19.2}");
    }
    println!("\nall seeds                     kernel sends   linerate sends");
    for (at, name) in COUNTERS.iter().enumerate() {
        println!("{name:<28} {:>13} {:>16}", row.counts[0][at], row.counts[1][at]);
    }
    Ok(())
}

/// Measures all cells and prints a row for each; fails where a row is below its goal.
pub fn command(args: &[String]) -> ExitCode {
    let asked = match Asked::parse(args) {
        Ok(asked) => asked,
        Err(why) => {
            eprint!("linerate-lab: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let seeds: Vec<u64> = (1..=asked.seeds).collect();
    if let Some(cell) = asked.cell {
        return match one(cell, &asked, &seeds) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("linerate-lab differential: {why}");
                ExitCode::from(2)
            }
        };
    }
    println!("{}, 200 Mb/s, {} seeds of {} s\n{HEAD}", asked.cc, seeds.len(), asked.time.as_secs());
    let cells = Cell::all().into_iter();
    let cells: Vec<Cell> =
        cells.map(|cell| Cell { wmem: asked.wmem.unwrap_or(cell.wmem), ..cell }).collect();
    let mut below = 0;
    for (at, cell) in cells.iter().enumerate() {
        eprint!("\r{} of {}: {cell} ... ", at + 1, cells.len());
        let row = measure(*cell, &asked.cc, &seeds, asked.time, asked.jobs);
        eprint!("\r\x1b[K");
        match row {
            Ok(row) => {
                println!("{row}");
                below += usize::from(row.worst() < cell.goal());
            }
            Err(why) => {
                eprintln!("linerate-lab differential: {why}");
                return ExitCode::from(2);
            }
        }
    }
    if below > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
