//! The benchmarks, and how one of them is run.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// `linerate bench run`
    Run,
    /// `linerate bench tun`
    Tun,
    /// `linerate bench tcp-scale`
    TcpScale,
    /// `linerate bench path`
    Path,
    /// `linerate bench devices`
    Devices,
    /// `linerate bench steering`
    Steering,
    /// `linerate bench livelock`
    Livelock,
    /// `linerate bench host`
    Host,
    /// `linerate bench bufferbloat`
    Bufferbloat,
}

/// What one printed, and how it went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ran {
    /// Which.
    pub part: Part,
    /// Its command line.
    pub command: String,
    /// Its JSON; null if it printed none.
    pub said: Value,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it said on standard error where it printed no JSON.
    pub complaint: String,
    /// Seconds that it took.
    pub secs: f64,
    /// The clock of the processor before and after, in GHz.
    pub ghz: (f64, f64),
    /// The load average of a minute before and after.
    pub load: (f64, f64),
}

impl Part {
    /// In the order of running.
    pub const ALL: [Part; 9] = [
        Part::Run,
        Part::Tun,
        Part::TcpScale,
        Part::Path,
        Part::Devices,
        Part::Steering,
        Part::Livelock,
        Part::Host,
        Part::Bufferbloat,
    ];

    /// Its name as a command of `bench`.
    pub fn name(self) -> &'static str {
        match self {
            Part::Run => "run",
            Part::Tun => "tun",
            Part::TcpScale => "tcp-scale",
            Part::Path => "path",
            Part::Devices => "devices",
            Part::Steering => "steering",
            Part::Livelock => "livelock",
            Part::Host => "host",
            Part::Bufferbloat => "bufferbloat",
        }
    }

    /// What `linerate` is called with.
    pub fn args(self, quick: bool) -> Vec<&'static str> {
        let mut args = vec!["bench", self.name(), "--json"];
        args.extend_from_slice(match (self, quick) {
            (Part::Run, true) => &["--quick", "--connections", "500"],
            (Part::Tun, true) => &["--rounds", "2", "--ms", "200"],
            (Part::TcpScale, true) => &["--rounds", "2", "--connections", "1000", "--work", "5"],
            (Part::Path, true) => &["--rounds", "3", "--packets", "20000", "--sockets", "10000"],
            (Part::Devices, true) => &["--rounds", "2", "--ms", "100"],
            (Part::Steering, true) => &["--rounds", "3", "--packets", "50000"],
            (Part::Livelock, true) => &["--rounds", "1", "--secs", "0.05"],
            (Part::Host, true) => {
                &["--rounds", "2", "--readings", "5", "--sockets", "500", "--record", "0s"]
            }
            (Part::Bufferbloat, true) => &["--downloads", "2", "--secs", "5"],
            (_, false) => &[],
        });
        args
    }

    /// Runs it to its end. What it says on standard error is progress, and is shown.
    pub fn run(self, quick: bool) -> Result<Ran, String> {
        let args = self.args(quick);
        let (begun, before) = (Instant::now(), load());
        let mut command = Command::new("/proc/self/exe");
        // Whoever ends `bench all` has ended what it started.
        command.args(["__traffic", "pinned", "--with-parent", "--", "/proc/self/exe"]);
        command.args(&args).stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", self.name()))?;
        let stderr = child.stderr.take().expect("it is piped");
        let told = std::thread::spawn(move || tell(stderr));
        let out = child.wait_with_output().map_err(|e| format!("{}: {e}", self.name()))?;
        let told = told.join().unwrap_or_default();
        let said: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        Ok(Ran {
            part: self,
            command: format!("linerate {}", args.join(" ")),
            complaint: if said.is_null() { told } else { String::new() },
            said,
            code: out.status.code(),
            secs: begun.elapsed().as_secs_f64(),
            ghz: (0.0, 0.0),
            load: (before, load()),
        })
    }
}

/// Passes on what a benchmark tells, and keeps the last of it.
fn tell(stderr: impl Read) -> String {
    const KEPT: usize = 2000;
    let terminal = std::io::stderr().is_terminal();
    let mut kept = String::new();
    let mut lines = Lines { from: BufReader::new(stderr), bytes: Vec::new() };
    while let Some((line, end)) = lines.next() {
        if terminal {
            eprint!("\r    {line}\x1b[K{}", if end == b'\n' { "\n" } else { "" });
        }
        if end != b'\n' {
            continue;
        }
        if !terminal {
            eprintln!("    {line}");
        }
        kept = kept + &line + "\n";
        if kept.len() > KEPT {
            let cut = kept.ceil_char_boundary(kept.len() - KEPT);
            kept.drain(..cut);
        }
    }
    kept
}

/// Lines, each with what ends it: a carriage return ends one that the next is written over.
struct Lines<R> {
    from: R,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next that says something; none when there are no more.
    fn next(&mut self) -> Option<(String, u8)> {
        loop {
            let there = self.from.fill_buf().ok()?;
            let at = there.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let taken = at.unwrap_or(there.len());
            let end = at.map(|at| there[at]);
            self.bytes.extend_from_slice(&there[..taken]);
            let over = there.is_empty();
            self.from.consume(taken + usize::from(end.is_some()));
            let Some(end) = end.or(over.then_some(b'\n')) else { continue };
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
            // What ends with "erase the rest of the line" says so to a terminal, not to us.
            let line = line.replace("\x1b[K", "");
            if !line.trim().is_empty() {
                return Some((line, end));
            }
            if over {
                return None;
            }
        }
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|v| v.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn a_line_that_is_written_over_is_told_from_one_that_stays() {
        let said = b"\rround 1\x1b[K\rround 2\x1b[K\r\x1b[K\nit failed\n\nthe end";
        let mut lines = Lines { from: &said[..], bytes: Vec::new() };
        let all: Vec<(String, u8)> = std::iter::from_fn(|| lines.next()).collect();
        let line = |text: &str, end: u8| (text.to_owned(), end);
        assert_eq!(
            all,
            [
                line("round 1", b'\r'),
                line("round 2", b'\r'),
                line("it failed", b'\n'),
                line("the end", b'\n')
            ]
        );
    }
}
