//! `linerate bench livelock`: how much reaches the application when more comes than one core can
//! work on.
//!
//! A generator puts datagrams into a bounded ring, at a rate that nobody holds back; what finds the
//! ring full is lost. The loop takes them up the real path to a socket, whose
//! reader works on each of them for a while. Three loops are measured:
//!
//! | mode | what |
//! |---|---|
//! | naive | receiving has priority: the application runs when the ring is empty (an interrupt handler without a limit) |
//! | quota | budgets of packets and time (`net.core.netdev_budget`), and nothing else |
//! | full | the loop as it is: what readers lose anyway is left in the ring, where it costs nothing |
//!
//! After Mogul and Ramakrishnan, "Eliminating receive livelock in an interrupt-driven kernel" (ACM
//! TOCS 15(3), 1997), figure 6-1.

mod load;
mod plot;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use load::{Bench, Mode, Point};

/// Options of `linerate bench livelock`.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchLivelockArgs {
    /// How long each point is measured, in seconds of the loop's processor time
    #[arg(long, default_value_t = 0.3)]
    pub secs: f64,
    /// Times that each point is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// What the application does with each datagram, in nanoseconds
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub work: u64,
    /// The processor to run on; `none` = do not pin
    #[arg(long, default_value = "1")]
    pub pin: String,
    /// Generate in real time by a thread on this processor, and not by the loop's own clock
    #[arg(long, value_name = "CPU")]
    pub generator: Option<usize>,
    /// Offered loads, in percent of what the loop can do at the most
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "25,50,75,90,100,125,150,200,300,400,600,800,1000"
    )]
    pub loads: Vec<u32>,
    /// Fail unless the full loop, offered three times as much as it can, delivers at least 80 % of
    /// the most that it ever does
    #[arg(long)]
    pub check: bool,
    /// Print values with names for programs
    #[arg(long)]
    pub json: bool,
    /// Write the curves to this file, as a page for a browser
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The load at which `--check` looks, in percent, and what must arrive of the most, in percent.
const CHECK_LOAD: u32 = 300;
const CHECK_SHARE: f64 = 80.0;

/// One mode, measured at every load.
struct Curve {
    mode: Mode,
    points: Vec<Point>,
}

impl Curve {
    fn best(&self) -> f64 {
        self.points.iter().map(|p| p.delivered).fold(0.0, f64::max)
    }
}

/// Measures and prints.
pub fn main(args: &BenchLivelockArgs) -> ExitCode {
    match run(args) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("linerate bench livelock: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &BenchLivelockArgs) -> std::io::Result<ExitCode> {
    if let Ok(cpu) = args.pin.parse() {
        load::pin(cpu)?;
    }
    let bench = Bench {
        time: Duration::from_secs_f64(args.secs.clamp(0.01, 60.0)),
        rounds: args.rounds,
        work: load::calibrate(args.work),
        generator: args.generator,
    };
    let capacity = bench.capacity()?;
    let mut loads = args.loads.clone();
    loads.extend(args.check.then_some(CHECK_LOAD));
    loads.sort_unstable();
    loads.dedup();
    let mut curves = Vec::new();
    for mode in Mode::ALL {
        let at = |percent: &u32| bench.point(mode, capacity * f64::from(*percent) / 100.0);
        let points = loads.iter().map(at).collect::<std::io::Result<_>>()?;
        curves.push(Curve { mode, points });
    }
    if let Some(path) = &args.html {
        std::fs::write(path, plot::html(&curves, capacity, args.work))?;
    }
    if args.json {
        println!("{}", json(&curves, capacity, args));
    } else {
        print_table(&curves, capacity, args);
        print!("{}", plot::text(&curves, capacity));
    }
    Ok(if args.check { check(&curves, &loads) } else { ExitCode::SUCCESS })
}

/// Whether the full loop holds at three times the load; says so on standard error.
fn check(curves: &[Curve], loads: &[u32]) -> ExitCode {
    let full = curves.iter().find(|c| c.mode == Mode::Full);
    let at = loads.iter().position(|l| *l == CHECK_LOAD);
    let found = full.zip(at).and_then(|(c, at)| Some((c.points.get(at)?.delivered, c.best())));
    let (delivered, best) = found.unwrap_or((0.0, f64::INFINITY));
    let share = delivered / best * 100.0;
    let holds = share >= CHECK_SHARE;
    eprintln!(
        "check: at {CHECK_LOAD} % load the full loop delivers {share:.0} % of its best; at least \
         {CHECK_SHARE:.0} % are wanted: {}",
        if holds { "passed" } else { "FAILED" }
    );
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_table(curves: &[Curve], capacity: f64, args: &BenchLivelockArgs) {
    println!(
        "A reader that works {} ns on each datagram can have {:.0} thousand a second. Thousands a \
         second, medians of {}:\n",
        args.work,
        capacity / 1e3,
        args.rounds
    );
    print!("{:>9}", "offered");
    curves.iter().for_each(|c| print!(" {:>9} {:>17}", c.mode.name(), "lost ring/queue"));
    println!();
    for row in 0..curves.first().map_or(0, |c| c.points.len()) {
        let offered: Vec<f64> = curves.iter().map(|c| c.points[row].offered).collect();
        print!("{:>9.0}", offered.iter().sum::<f64>() / offered.len() as f64 / 1e3);
        for point in curves.iter().map(|c| &c.points[row]) {
            let lost = format!("{:.0}/{:.0}", point.lost_ring / 1e3, point.lost_queue / 1e3);
            print!(" {:>9.0} {lost:>17}", point.delivered / 1e3);
        }
        println!();
    }
    println!();
}

fn json(curves: &[Curve], capacity: f64, args: &BenchLivelockArgs) -> serde_json::Value {
    let point = |p: &Point| {
        serde_json::json!({
            "offered_pps": p.offered, "delivered_pps": p.delivered,
            "lost_ring_pps": p.lost_ring, "lost_queue_pps": p.lost_queue,
        })
    };
    let curve = |c: &Curve| {
        let points: Vec<_> = c.points.iter().map(point).collect();
        serde_json::json!({ "mode": c.mode.name(), "points": points })
    };
    let all: Vec<_> = curves.iter().map(curve).collect();
    serde_json::json!({
        "work_ns": args.work, "capacity_pps": capacity, "ring_pkts": load::RING,
        "rounds": args.rounds, "secs": args.secs, "curves": all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(mode: Mode, delivered: &[f64]) -> Curve {
        let point = |(i, d): (usize, &f64)| Point {
            offered: (i + 1) as f64 * 1e5,
            delivered: *d,
            lost_ring: 0.0,
            lost_queue: 0.0,
        };
        Curve { mode, points: delivered.iter().enumerate().map(point).collect() }
    }

    #[test]
    fn the_check_is_about_the_full_loop_at_three_times_the_load() {
        let flat = [curve(Mode::Naive, &[9.0, 1.0]), curve(Mode::Full, &[9.0, 8.0])];
        assert_eq!(check(&flat, &[100, 300]), ExitCode::SUCCESS);
        let falls = [curve(Mode::Naive, &[9.0, 9.0]), curve(Mode::Full, &[9.0, 7.0])];
        assert_eq!(check(&falls, &[100, 300]), ExitCode::FAILURE);
        assert_eq!(check(&flat, &[100, 200]), ExitCode::FAILURE);
    }

    #[test]
    fn every_mode_is_in_the_picture() {
        let curves = [
            curve(Mode::Naive, &[1e5, 2e5, 1e4]),
            curve(Mode::Quota, &[1e5, 2e5, 1.2e5]),
            curve(Mode::Full, &[1e5, 2e5, 1.9e5]),
        ];
        let text = plot::text(&curves, 2e5);
        let html = plot::html(&curves, 2e5, 500);
        for mode in Mode::ALL {
            assert!(text.contains(mode.mark()) && html.contains(mode.name()), "{text}");
        }
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
        assert_eq!(html.matches("<polyline").count(), 3);
        assert!(html.ends_with("</html>\n"));
    }

    /// A short run of the whole thing: packets are conserved at any load.
    #[test]
    fn what_is_offered_is_delivered_or_lost() {
        let time = Duration::from_millis(20);
        let bench = Bench { time, rounds: 1, work: load::calibrate(200), generator: None };
        for mode in Mode::ALL {
            let point = bench.point(mode, 50_000.0).expect("a loop");
            let sum = point.delivered + point.lost_ring + point.lost_queue;
            // What waits in ring and queue at both ends of the measurement is in one of them only.
            let waits = (load::RING + 4096) as f64 / time.as_secs_f64();
            assert!((point.offered - sum).abs() <= waits, "{mode:?}: {point:?}");
        }
    }
}
