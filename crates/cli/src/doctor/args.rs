//! The options of `doctor`, `record` and `top`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use linerate_host::Goal;
use linerate_host::rules::Limits;

/// Say where this host loses packets and time, why, and what to set.
///
/// Reads the kernel's network path for a while and judges it by rules. Findings come in order of harm,
/// each with its evidence, its cause, what to set, how to verify that and how to undo it. Nothing is
/// changed. It works without root, and then says what it could not read.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate doctor
  linerate doctor --for 60s --goal latency --html report.html
  linerate doctor --json | jq '.findings[] | {id, title, severity}'
  linerate doctor --probes --goal latency
  linerate doctor --netns web
  linerate doctor --name curl-4711
  linerate doctor --from host.lrec
  linerate doctor --from sosreport-web1/

--from takes a record of `linerate record`, or a directory that has proc/ and sys/ in it. A directory is
one moment: rules see what was counted since boot, and mark what they find so (lifetime).

Exit status: 0 if nothing is wrong (hints may be printed); 1 if there is a finding of severity warning or
critical; 2 if nothing could be read, or for wrong usage.")]
pub struct DoctorArgs {
    /// How long to look [default: 10s]
    #[arg(long = "for", value_name = "TIME", value_parser = duration, conflicts_with = "from")]
    pub period: Option<Duration>,
    /// Time between two readings [default: 1s, or more, so that there are at most 120]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "from")]
    pub every: Option<Duration>,
    /// What matters most on this host
    #[arg(long, value_enum, default_value_t = GoalArg::Throughput)]
    pub goal: GoalArg,
    /// Judge a record or a directory instead of this host
    #[arg(long, value_name = "PATH")]
    pub from: Option<PathBuf>,
    /// Look from another network namespace: a name of `ip netns`, the number of a process, or a path
    #[arg(long, value_name = "NAME|PID|PATH", conflicts_with = "from")]
    pub netns: Option<String>,
    /// Judge a running instance of linerate instead of the kernel
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from", "netns"])]
    pub name: Option<String>,
    /// Set a threshold of the rules; repeatable (`linerate explain limits` lists them)
    #[arg(long, value_name = "NAME=VALUE", value_parser = limit)]
    pub limit: Vec<Limit>,
    /// Measure how long softirqs, polls and packets between stages take as well, by programs of ours in
    /// the kernel; costs up to 0.6 µs for each packet, and needs root
    #[arg(long, conflicts_with_all = ["from", "name"])]
    pub probes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write the report with pictures to this file as well; it needs nothing but a browser
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Record the kernel's network path of this host to a file that `doctor`, `top` and `show` read.
///
/// The file holds the bytes of every file and message that was read, so that it can be judged anew by
/// later rules. Only what changed is stored, compressed. It is complete up to its last moment at any
/// time: a crash or a cut loses nothing that lies before it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  linerate record -o host.lrec --for 1h
  linerate record -o host.lrec --every 100ms --for 30s
  linerate doctor --from host.lrec

Ends after --for, or by SIGINT or SIGTERM. An existing record of the same host is continued.
Exit status: 0 success; 1 if the file could not be written; 2 if nothing could be read.")]
pub struct RecordArgs {
    /// The file
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub output: PathBuf,
    /// How long [default: until it is stopped]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub period: Option<Duration>,
    /// Time between two readings
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub every: Duration,
    /// Time between two readings of everything: sockets, qdiscs, drivers, settings
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub full_every: Duration,
    /// Have the kernel trace why packets are dropped, and record that as well; costs something where many
    /// are dropped, and needs root
    #[arg(long)]
    pub reasons: bool,
    /// Measure how long softirqs, polls and packets between stages take, and record that as well; costs
    /// up to 0.6 µs for each packet, and needs root
    #[arg(long)]
    pub probes: bool,
    /// Look from another network namespace: a name of `ip netns`, the number of a process, or a path
    #[arg(long, value_name = "NAME|PID|PATH")]
    pub netns: Option<String>,
}

/// Watch the kernel's network path: rates, drops, squeezes and queues from the NIC to the socket.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys:
  1 2 3 4 5  the path, devices, processors, sockets, findings
  Tab        the next of these
  d          the next device alone; D: all of them again
  up, down   choose a line; Enter: look into it; Esc: back
  space      stop and go on
  left right a moment back or ahead, in a record
  q          end

Examples:
  linerate top
  linerate top --every 500ms --dev eth0
  linerate top --from host.lrec")]
pub struct TopArgs {
    /// Time between two readings
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub every: Duration,
    /// Begin with this device
    #[arg(long, value_name = "NAME")]
    pub dev: Option<String>,
    /// Replay a record
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Look from another network namespace: a name of `ip netns`, the number of a process, or a path
    #[arg(long, value_name = "NAME|PID|PATH", conflicts_with = "from")]
    pub netns: Option<String>,
    /// Print this many pictures as plain text instead of drawing on the terminal
    #[arg(long, value_name = "N")]
    pub plain: Option<u32>,
}

/// What the owner of the host wants most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GoalArg {
    /// Much, and none lost
    Throughput,
    /// Soon
    Latency,
}

impl From<GoalArg> for Goal {
    fn from(goal: GoalArg) -> Goal {
        match goal {
            GoalArg::Throughput => Goal::Throughput,
            GoalArg::Latency => Goal::Latency,
        }
    }
}

/// A time with its unit: `10s`, `100ms`, `1.5h`; seconds if there is none. 10 ms to 30 days.
pub fn duration(s: &str) -> Result<Duration, String> {
    let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &s[digits.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("{s:?} is no time such as 10s, 100ms, 5m, 1h")),
    };
    let number: f64 =
        digits.parse().map_err(|_| format!("{s:?} is no time such as 10s, 100ms, 5m, 1h"))?;
    let secs = number * factor;
    if (0.01..=2_592_000.0).contains(&secs) {
        Ok(Duration::from_secs_f64(secs))
    } else {
        Err(format!("{s:?} is not between 10ms and 30d"))
    }
}

/// A threshold and its value, both known to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The threshold.
    pub name: String,
    /// Its value.
    pub value: String,
}

fn limit(s: &str) -> Result<Limit, String> {
    let (name, value) =
        s.split_once('=').ok_or_else(|| format!("{s:?} is not NAME=NUMBER, such as windows=3"))?;
    let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
    Limits::default().set(&name, &value).map_err(|e| e.to_string())?;
    Ok(Limit { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let ok = |s: &str| duration(s).expect(s);
        assert_eq!(ok("10"), Duration::from_secs(10));
        assert_eq!(ok("100ms"), Duration::from_millis(100));
        assert_eq!(ok("1.5h"), Duration::from_secs(5400));
        assert_eq!(ok("2m"), Duration::from_secs(120));
        for bad in ["", "s", "10x", "-1s", "0", "1ms", "nan", "inf", "1e9d", "31d", "µs"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_threshold_is_judged_by_the_table() {
        let row = &Limits::ROWS[0];
        let set = limit(&format!("{} = 7", row.name)).expect("a limit");
        assert_eq!((set.name.as_str(), set.value.as_str()), (row.name, "7"));
        for bad in ["no_such_limit=1".to_owned(), row.name.to_owned(), format!("{}=x", row.name)] {
            assert!(limit(&bad).is_err(), "{bad}");
        }
    }
}
