//! `linerate bench all`: every benchmark, one after the other, into one result; and the pages that are
//! made from a result.
//!
//! Each benchmark is this program again, in a process of its own, which pins itself and lets its peers
//! take turns as it does when it is called alone. A result holds what each of them printed, unchanged,
//! with the machine, the clock before and after each, and the command lines: the pages are made from
//! that alone, today or in a year.
//!
//! | file | what |
//! |---|---|
//! | [`part`] | the benchmarks, their arguments, how one is run |
//! | [`read`] | what each prints, as groups of bars and curves |
//! | [`read_scale`] | the same of `tcp-scale` |
//! | [`page`] | the page for a browser |
//! | [`markdown`] | BENCHMARKS.md |

mod markdown;
mod page;
mod part;
mod read;
mod read_scale;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::path::case::calibrate;
use part::{Part, Ran};

/// Run every benchmark, with peers beside, and write one result and one page.
///
/// Takes twenty to twenty-five minutes, of which `run` takes fourteen. What another process takes of the machine meanwhile is in the figures:
/// the load average and the clock stand beside them. Peers that are not installed are left out by
/// name.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  linerate bench all --html\n  linerate bench all --quick --only path,steering\n  \
    linerate bench all --from bench/results/2026-11-21.json --markdown BENCHMARKS.md"
)]
pub struct BenchAllArgs {
    /// Shorter rounds, and fewer: a look, not a result
    #[arg(long)]
    pub quick: bool,
    /// Only these benchmarks, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    pub only: Vec<Part>,
    /// The folder for the result, which is named by its day
    #[arg(long, default_value = "bench/results", conflicts_with = "from")]
    pub dir: PathBuf,
    /// Measure nothing: read this result, and make pages of it
    #[arg(long, value_name = "RESULT")]
    pub from: Option<PathBuf>,
    /// Write one page for a browser, with plots; without a name, beside the result
    #[arg(long, value_name = "FILE")]
    pub html: Option<Option<PathBuf>>,
    /// Write the tables of BENCHMARKS.md; `-` prints them
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// One run of all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Seconds since 1970 at its begin.
    pub begun: u64,
    /// The version of linerate.
    pub version: String,
    /// The command.
    pub command: String,
    /// Where.
    pub machine: Machine,
    /// What each benchmark said, in order.
    pub parts: Vec<Ran>,
}

/// What the figures depend on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Of the processor.
    pub model: String,
    /// That we may use.
    pub cpus: usize,
    /// In KiB.
    pub memory_kib: u64,
    /// Its release.
    pub kernel: String,
}

/// Measures or reads, and writes. The exit code is 0 if every benchmark ran to its end, 1 if one did
/// not, 2 if a file could not be read or written.
pub fn main(args: &BenchAllArgs) -> ExitCode {
    let (outcome, path) = match &args.from {
        Some(path) => match read_result(path) {
            Ok(outcome) => (outcome, path.clone()),
            Err(why) => return failed(&why),
        },
        None => match measure(args) {
            Ok(measured) => measured,
            Err(why) => return failed(&why),
        },
    };
    if let Err(why) = write_pages(args, &outcome, &path) {
        return failed(&why);
    }
    let broken: Vec<&str> =
        outcome.parts.iter().filter(|p| p.said.is_null()).map(|p| p.part.name()).collect();
    if !broken.is_empty() {
        eprintln!("linerate bench all: did not run to the end: {}", broken.join(", "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn failed(why: &str) -> ExitCode {
    eprintln!("linerate bench all: {why}");
    ExitCode::from(2)
}

fn read_result(path: &Path) -> Result<Outcome, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text)
        .map_err(|e| format!("{}: not a result of `linerate bench all`: {e}", path.display()))
}

fn measure(args: &BenchAllArgs) -> Result<(Outcome, PathBuf), String> {
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    // What was measured must not be lost because its folder can not be made at the end.
    fs::create_dir_all(&args.dir).map_err(|e| format!("{}: {e}", args.dir.display()))?;
    let path = args.dir.join(format!("{}.json", &crate::doctor::html::date(begun)[..10]));
    let mut outcome = Outcome {
        begun,
        version: env!("CARGO_PKG_VERSION").into(),
        command: std::env::args().skip(1).fold("linerate".into(), |line, arg| line + " " + &arg),
        machine: Machine::read(),
        parts: Vec::new(),
    };
    for (n, &part) in args.only.iter().enumerate() {
        eprintln!("[{}/{}] linerate {}", n + 1, args.only.len(), part.args(args.quick).join(" "));
        let ghz = calibrate();
        let mut ran = part.run(args.quick)?;
        ran.ghz = (ghz, calibrate());
        eprintln!("    {:.0} s", ran.secs);
        if ran.said.is_null() {
            eprintln!("    failed: {}", ran.complaint.trim_end());
        }
        outcome.parts.push(ran);
        // After each, so that what ran is kept however this ends.
        let text = serde_json::to_string(&outcome).expect("our values have text keys");
        fs::write(&path, text + "\n").map_err(|e| format!("{}: {e}", path.display()))?;
    }
    eprintln!("wrote {}", path.display());
    Ok((outcome, path))
}

fn write_pages(args: &BenchAllArgs, outcome: &Outcome, result: &Path) -> Result<(), String> {
    let write = |path: &Path, text: &str| {
        fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        eprintln!("wrote {}", path.display());
        Ok::<(), String>(())
    };
    if let Some(path) = &args.html {
        let path = path.clone().unwrap_or_else(|| result.with_extension("html"));
        write(&path, &page::html(outcome))?;
    }
    match &args.markdown {
        Some(path) if path.as_os_str() == "-" => crate::print(&markdown::text(outcome)),
        Some(path) => write(path, &markdown::text(outcome))?,
        None if args.html.is_none() => crate::print(&markdown::text(outcome)),
        None => {}
    }
    Ok(())
}

impl Machine {
    fn read() -> Machine {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let value = text.lines().find_map(|l| l.strip_prefix(name)?.split_once(':'));
            value.map(|(_, v)| v.trim().to_owned())
        };
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            model: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cpus: std::thread::available_parallelism().map_or(0, Into::into),
            memory_kib: memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0),
            kernel: format!("Linux {}", kernel.trim()),
        }
    }
}
