//! `linerate-lab`: long runs of the laboratory, by command.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use linerate_lab::differential;
use linerate_lab::seeds::{self, Figures, Scenario};
use linerate_lab::surface;

const USAGE: &str = "\
linerate-lab seeds [--count N] [--start N] [--jobs J] [--keep-going]
    runs seeds START.. in virtual time (256 of them, from 1, on all processors), and stops at the first
    that fails; with --keep-going it lists all that fail
linerate-lab seeds --seed N [--trace [FILE]]
    runs one, says what happens in it, and writes its frames as pcapng (seed-N.pcapng)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((command, rest)) = args.split_first() {
        match command.as_str() {
            "differential" => return differential::command(rest),
            "surface" => return surface::command(rest),
            _ => {}
        }
    }
    let asked = match args.split_first() {
        Some((command, rest)) if command == "seeds" => Asked::parse(rest),
        Some((command, _)) if command != "--help" => Err(format!("no command is called {command}")),
        _ => Err(String::new()),
    };
    match asked {
        Ok(asked) => match asked.seed {
            Some(seed) => one(seed, asked.trace),
            None => many(&asked),
        },
        Err(why) => {
            let why = if why.is_empty() { why } else { format!("linerate-lab: {why}\n\n") };
            eprint!("{why}{USAGE}{}{}", differential::USAGE, surface::USAGE);
            ExitCode::from(2)
        }
    }
}

/// What is to be run.
struct Asked {
    count: u64,
    start: u64,
    jobs: u64,
    keep_going: bool,
    seed: Option<u64>,
    trace: Option<Option<PathBuf>>,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Asked, String> {
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let mut asked =
            Asked { count: 256, start: 1, jobs, keep_going: false, seed: None, trace: None };
        let mut rest = args.iter().peekable();
        while let Some(name) = rest.next() {
            match name.as_str() {
                "--keep-going" => asked.keep_going = true,
                "--trace" => {
                    let file = rest.next_if(|next| !next.starts_with("--"));
                    asked.trace = Some(file.map(PathBuf::from));
                }
                "--count" | "--start" | "--jobs" | "--seed" => {
                    let value = rest.next().and_then(|value| value.replace('_', "").parse().ok());
                    let value = value.ok_or_else(|| format!("{name} takes a number"))?;
                    match name.as_str() {
                        "--count" => asked.count = value,
                        "--start" => asked.start = value,
                        "--jobs" => asked.jobs = value.clamp(1, 1024),
                        _ => asked.seed = Some(value),
                    }
                }
                _ => return Err(format!("no option is called {name}")),
            }
        }
        Ok(asked)
    }
}

/// One seed, in all detail.
fn one(seed: u64, trace: Option<Option<PathBuf>>) -> ExitCode {
    println!("{:#?}", Scenario::new(seed));
    let file = trace.map(|file| file.unwrap_or_else(|| format!("seed-{seed}.pcapng").into()));
    let said = seeds::run(seed, file.as_deref());
    if let Some(file) = file {
        println!("frames: {}", file.display());
    }
    match said {
        Ok(figures) => {
            println!("seed {seed}: {figures:?}");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            println!("seed {seed} FAILS at {:.6} s: {}", fault.at as f64 / 1e9, fault.what);
            ExitCode::FAILURE
        }
    }
}

/// What all threads share.
#[derive(Default)]
struct Shared {
    next: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    sum: Mutex<Figures>,
}

/// Many seeds, on several threads.
fn many(asked: &Asked) -> ExitCode {
    // Each failure is said once, by whoever runs its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let (shared, begun) = (Shared::default(), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..asked.jobs {
            scope.spawn(|| work(asked, &shared));
        }
        scope.spawn(|| progress(asked, &shared, begun));
    });
    let (done, failed) =
        (shared.done.load(Ordering::Relaxed), shared.failed.load(Ordering::Relaxed));
    let sum = shared.sum.into_inner().expect("no thread panics");
    println!(
        "{done} seeds from {} in {:.0} s, {failed} failed: {} connections whole, {} given up as planned; \
         {:.1} GB in {} M segments, {:.1} h of virtual time; {} with hosts of several shards, {} moves",
        asked.start,
        begun.elapsed().as_secs_f64(),
        sum.whole,
        sum.aborted,
        sum.bytes as f64 / 1e9,
        sum.segments / 1_000_000,
        sum.ns as f64 / 3.6e12,
        sum.sharded,
        sum.moves,
    );
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn work(asked: &Asked, shared: &Shared) {
    loop {
        let n = shared.next.fetch_add(1, Ordering::Relaxed);
        let stop = !asked.keep_going && shared.failed.load(Ordering::Relaxed) > 0;
        if n >= asked.count || stop {
            return;
        }
        let seed = asked.start.wrapping_add(n);
        match seeds::run(seed, None) {
            Ok(figures) => shared.sum.lock().expect("no thread panics").add(&figures),
            Err(fault) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                let at = fault.at as f64 / 1e9;
                println!(
                    "seed {seed} FAILS at {at:.6} s: {}\n  repeat: {}",
                    fault.what,
                    seeds::replay(seed)
                );
            }
        }
        shared.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says now and then how far it is.
fn progress(asked: &Asked, shared: &Shared, begun: Instant) {
    let mut said = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let next = shared.next.load(Ordering::Relaxed);
        let done = shared.done.load(Ordering::Relaxed);
        let failed = shared.failed.load(Ordering::Relaxed);
        if next >= asked.count || (failed > 0 && !asked.keep_going) {
            return;
        }
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            let rate = done as f64 / begun.elapsed().as_secs_f64();
            let left = (asked.count - done.min(asked.count)) as f64 / rate.max(1e-9);
            eprintln!(
                "{done} of {} seeds, {failed} failed, {rate:.0} a second, {:.0} min left",
                asked.count,
                left / 60.0
            );
        }
    }
}
