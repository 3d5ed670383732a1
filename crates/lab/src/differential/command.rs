//! `linerate-lab differential`.

use std::process::ExitCode;
use std::time::Duration;

use super::{Cell, HEAD, measure};

/// How it is called.
pub const USAGE: &str = "\
linerate-lab differential [--seeds N] [--time SECONDS] [--cc NAME] [--jobs J]
    our TCP beside the kernel's over the same losses, in real time: nine seeds of eight seconds in each of
    ten cells, with cubic, one pair at a time. Needs root
";

/// What was asked for.
struct Asked {
    seeds: u64,
    time: Duration,
    cc: String,
    jobs: usize,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Asked, String> {
        let mut asked =
            Asked { seeds: 9, time: Duration::from_secs(8), cc: "cubic".to_owned(), jobs: 1 };
        let mut rest = args.iter();
        while let Some(name) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{name} takes a value"))?;
            let number = || value.parse::<u64>().ok().filter(|n| (1..=3600).contains(n));
            let number = || number().ok_or_else(|| format!("{name} takes a number from 1 to 3600"));
            match name.as_str() {
                "--seeds" => asked.seeds = number()?,
                "--time" => asked.time = Duration::from_secs(number()?),
                "--jobs" => asked.jobs = number()?.min(64) as usize,
                "--cc" => asked.cc.clone_from(value),
                _ => return Err(format!("no option is called {name}")),
            }
        }
        Ok(asked)
    }
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
    println!("{}, 200 Mb/s, {} seeds of {} s\n{HEAD}", asked.cc, seeds.len(), asked.time.as_secs());
    let cells = Cell::all();
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
