//! `linerate-lab surface`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{CONTROLS, Plan, picture, shared, surface, tables};

/// How it is called.
pub const USAGE: &str = "\
linerate-lab surface [--mbit N] [--secs N] [--seeds N] [--cc NAME] [--jobs J] [--svg FILE]
    what one connection gets of a link by loss, round trip, buffer and congestion control, and how several
    share it, in virtual time: the mean of three seeds of 20 s (or 200 round trips) each, at 10 Mbit/s.
    docs/SURFACE.md is a smaller one of these
";

/// What was asked for.
struct Asked {
    plan: Plan,
    jobs: usize,
    svg: Option<PathBuf>,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Asked, String> {
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut asked = Asked { plan: Plan::large(), jobs, svg: None };
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

/// Prints the tables, and writes the picture.
pub fn command(args: &[String]) -> ExitCode {
    let Asked { plan, jobs, svg } = match Asked::parse(args) {
        Ok(asked) => asked,
        Err(why) => {
            eprint!("linerate-lab: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
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
