//! `linerate-lab surface`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{CONTROLS, Cell, Plan, Seen, cells, picture, run_all, shared, surface, tables};

/// How it is called.
pub const USAGE: &str = "\
linerate-lab surface [--mbit N] [--secs N] [--seeds N] [--cc NAME] [--jobs J] [--svg FILE]
                     [--rtt MS] [--loss PPM] [--buffer PERCENT]
    what one connection gets of a link by loss, round trip, buffer and congestion control, and how several
    share it, in virtual time: the mean of three seeds of 20 s (or 200 round trips) each, at 10 Mbit/s.
    docs/SURFACE.md is a smaller one of these. With a round trip, loss or buffer only such cells, seed by seed
";

/// What was asked for.
struct Asked {
    plan: Plan,
    jobs: usize,
    svg: Option<PathBuf>,
    /// Some cells only, each seed of them.
    some: bool,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Asked, String> {
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut asked = Asked { plan: Plan::large(), jobs, svg: None, some: false };
        let mut rest = args.iter();
        while let Some(name) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{name} takes a value"))?;
            let number = || value.parse::<u64>().ok().filter(|n| (1..=10_000).contains(n));
            let number =
                || number().ok_or_else(|| format!("{name} takes a number from 1 to 10000"));
            match name.as_str() {
                "--mbit" => asked.plan.mbit = number()?,
                "--secs" => asked.plan.secs = number()?,
                "--seeds" => asked.plan.seeds = number()?,
                "--jobs" => asked.jobs = number()?.min(64) as usize,
                "--rtt" | "--loss" | "--buffer" => {
                    let of = || value.parse::<u64>().map_err(|_| format!("{name} takes a number"));
                    asked.some = true;
                    match name.as_str() {
                        "--rtt" => asked.plan.rtts = vec![number()?],
                        "--buffer" => asked.plan.buffers = vec![number()?],
                        _ => asked.plan.losses = vec![of()?.min(1_000_000) as u32],
                    }
                }
                "--svg" => asked.svg = Some(value.into()),
                "--cc" => {
                    let known = CONTROLS.into_iter().find(|known| known == value);
                    let known = known.ok_or_else(|| format!("--cc is one of {CONTROLS:?}"))?;
                    asked.plan.controls = vec![known];
                }
                _ => return Err(format!("no option is called {name}")),
            }
        }
        Ok(asked)
    }
}

/// Prints what each seed got in each cell, and the middle of them: whether a figure is chance.
fn each(plan: &Plan, jobs: usize) {
    println!("cc     rtt ms  buffer   loss ppm   median (least to most)   seeds");
    for cell in cells(plan).chunks(plan.seeds as usize) {
        let Some(Cell { control, rtt_ms, buffer, loss_ppm, .. }) = cell.first() else { continue };
        let shares: Vec<f64> = run_all(cell, jobs).iter().map(Seen::share).collect();
        let mut sorted = shares.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        let (median, last) = (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)));
        let all: Vec<String> = shares.iter().map(|share| format!("{share:.2}")).collect();
        println!(
            "{control:<6} {rtt_ms:>6} {buffer:>7} {loss_ppm:>10}   {median:.2} ({:.2} to {last:.2})      {}",
            at(0),
            all.join(" ")
        );
    }
}

/// Prints the tables, and writes the picture.
pub fn command(args: &[String]) -> ExitCode {
    let Asked { plan, jobs, svg, some } = match Asked::parse(args) {
        Ok(asked) => asked,
        Err(why) => {
            eprint!("linerate-lab: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if some {
        each(&plan, jobs);
        return ExitCode::SUCCESS;
    }
    let (lines, cases) = (surface(&plan, jobs), shared(&plan, jobs));
    print!("{}", tables(&plan, &lines, &cases));
    if let Some(path) = svg
        && let Err(err) = std::fs::write(&path, picture(&plan, &lines))
    {
        eprintln!("linerate-lab surface: {}: {err}", path.display());
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}
