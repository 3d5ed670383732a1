//! `linerate bench run`: arguments, and the way into namespaces of its own.

use std::fmt;
use std::io;
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr;

use clap::ValueEnum;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::peers::Tool;

/// Measure `linerate run` beside pasta, slirp4netns, a kernel relay and the kernel alone, in one run.
///
/// All tools take turns in every round, with the same client and server; the medians of the rounds
/// are compared. Nothing touches the host's network: everything happens in namespaces that end with
/// this command. A tool that is not installed is named and left out.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct BenchRunArgs {
    /// Rounds; in each, every tool takes its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Length of one throughput measurement in seconds, the first sixth of it left out; latency
    /// cases take a third.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub secs: f64,
    /// Two rounds of one second: a look, not a result.
    #[arg(long, conflicts_with_all = ["rounds", "secs"])]
    pub quick: bool,
    /// Cases, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Case::ALL)]
    pub cases: Vec<Case>,
    /// Tools, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "TOOL")]
    #[arg(default_values_t = Tool::ALL.iter().copied())]
    pub only: Vec<Tool>,
    /// MTUs, separated by commas: a number of bytes, or `default` for each tool's own.
    #[arg(long, value_delimiter = ',', default_value = "1500,default")]
    pub mtu: Vec<Mtu>,
    /// CPUs of the forwarding process and of both ends of the traffic as `FORWARDER,ENDS`, or
    /// `none`.
    #[arg(long, default_value = "1,0")]
    pub pin: Pin,
    /// Connections of the case `idle`, which are opened once, after the last round.
    #[arg(long, default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub connections: u32,
    /// Bound on SO_SNDBUF of a program that sends through pasta, in bytes; 0 leaves it to the
    /// kernel. Unbounded, pasta's path from the program can collapse. Not given: the best of the
    /// sizes tried, 131072 at an MTU up to 9000, 524288 above.
    #[arg(long, value_name = "BYTES")]
    pub pasta_sndbuf: Option<usize>,
    /// Print JSON: every sample, with the machine and the settings.
    #[arg(long)]
    pub json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// Throughput program → host, 1 TCP stream.
    Up1,
    /// Throughput program → host, 4 TCP streams.
    Up4,
    /// Throughput host → program, 1 TCP stream.
    Down1,
    /// Throughput host → program, 4 TCP streams.
    Down4,
    /// One UDP flow program → host, with UDP_SEGMENT and UDP_GRO and its datagrams acknowledged.
    UdpUp,
    /// The same host → program.
    UdpDown,
    /// TCP ping-pong of 64 bytes: p50, p99, rate.
    Ping,
    /// The same with busy polling: SO_BUSY_POLL at both ends, net.core.busy_poll in ours.
    PingBusy,
    /// Connect, receive one byte and the end, close: per second, 4 at a time.
    Connects,
    /// sockperf at both ends, 64 bytes by UDP and by TCP: its own p50 and p99.
    Sockperf,
    /// Requests per second of wrk on the host to nginx in the program's place, at a published port.
    Http,
    /// Memory of the forwarding processes per idle connection, once, at the end.
    Idle,
}

impl Case {
    /// In the order of measuring.
    pub const ALL: [Self; 12] = [
        Self::Up1,
        Self::Up4,
        Self::Down1,
        Self::Down4,
        Self::UdpUp,
        Self::UdpDown,
        Self::Ping,
        Self::PingBusy,
        Self::Connects,
        Self::Sockperf,
        Self::Http,
        Self::Idle,
    ];

    /// Whether it measures bits per second of TCP streams.
    pub fn is_bulk(self) -> bool {
        matches!(self, Self::Up1 | Self::Up4 | Self::Down1 | Self::Down4)
    }

    /// Whether it measures bits per second.
    pub fn is_throughput(self) -> bool {
        self.is_bulk() || matches!(self, Self::UdpUp | Self::UdpDown)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up1 => "up1",
            Self::Up4 => "up4",
            Self::Down1 => "down1",
            Self::Down4 => "down4",
            Self::UdpUp => "udp-up",
            Self::UdpDown => "udp-down",
            Self::Ping => "ping",
            Self::PingBusy => "ping-busy",
            Self::Connects => "connects",
            Self::Sockperf => "sockperf",
            Self::Http => "http",
            Self::Idle => "idle",
        })
    }
}

/// The MTU of the program's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mtu {
    /// So many bytes, 1280..=65520.
    Bytes(u16),
    /// What the tool chooses when it is not told.
    Default,
}

impl FromStr for Mtu {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match (s, s.parse()) {
            ("default", _) => Ok(Self::Default),
            (_, Ok(bytes @ 1280..=65520)) => Ok(Self::Bytes(bytes)),
            _ => Err("expected a number from 1280 to 65520, or `default`".into()),
        }
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Which CPUs the processes stay on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Of the forwarding process.
    pub forwarder: Option<usize>,
    /// Of both ends of the traffic.
    pub ends: Option<usize>,
}

impl FromStr for Pin {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "none" {
            return Ok(Self { forwarder: None, ends: None });
        }
        let parts = s.split_once(',').and_then(|(f, e)| Some((f.parse().ok()?, e.parse().ok()?)));
        match parts {
            Some((forwarder, ends)) => Ok(Self { forwarder: Some(forwarder), ends: Some(ends) }),
            None => Err("expected two CPU numbers such as `1,0`, or `none`".into()),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.forwarder, self.ends) {
            (Some(forwarder), Some(ends)) => {
                write!(f, "forwarding process on CPU {forwarder}, both traffic ends on CPU {ends}")
            }
            _ => f.write_str("none"),
        }
    }
}

fn seconds(s: &str) -> Result<f64, String> {
    match s.parse() {
        Ok(secs) if (0.2..=3600.0).contains(&secs) => Ok(secs),
        _ => Err("expected a number of seconds from 0.2 to 3600".into()),
    }
}

/// Measures and prints. The exit code is 0 if every tool that is installed was measured in every
/// case, 1 if not, 2 if the measurement could not begin.
pub fn main(mut args: BenchRunArgs) -> ExitCode {
    if args.quick {
        (args.rounds, args.secs) = (2, 1.0);
    }
    if let Err(why) = pin_fits(args.pin) {
        eprintln!("linerate bench run: {why}");
        return ExitCode::from(2);
    }
    match enter(&args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("linerate bench run: {e}");
            ExitCode::from(2)
        }
    }
}

/// Checks that the CPUs exist for us before anything is started.
fn pin_fits(pin: Pin) -> Result<(), String> {
    let ours =
        nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).map_err(|e| e.to_string())?;
    for cpu in [pin.forwarder, pin.ends].into_iter().flatten() {
        if !ours.is_set(cpu).unwrap_or(false) {
            return Err(format!(
                "CPU {cpu} of --pin is not available to this process: choose others, or --pin none"
            ));
        }
    }
    Ok(())
}

/// Starts the measurement as PID 1 of new namespaces and waits for it. Its standard input is a pipe
/// whose other end only this process holds: when this process ends, however it ends, PID 1 sees it
/// and exits, and the kernel ends the rest.
fn enter(args: &BenchRunArgs) -> io::Result<ExitCode> {
    let settings = serde_json::to_string(args)?;
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    if !uid.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|e| {
        io::Error::other(format!(
            "the kernel does not permit new namespaces here ({e}): run it as root, or permit \
             unprivileged user namespaces (user.max_user_namespaces; in a container --privileged)"
        ))
    })?;
    if !uid.is_root() {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    let status = Command::new("/proc/self/exe")
        .args(["__traffic", "inside", &settings])
        .stdin(Stdio::piped())
        .spawn()
        .and_then(|mut inside| {
            let kept_until_it_ends = inside.stdin.take();
            let status = inside.wait();
            drop(kept_until_it_ends);
            status
        })?;
    let code = status.code().and_then(|c| u8::try_from(c).ok());
    Ok(ExitCode::from(code.unwrap_or(2)))
}

#[cfg(test)]
mod tests {
    use super::{Mtu, Pin, seconds};

    #[test]
    fn mtu_is_a_number_in_range_or_default() {
        assert_eq!("1500".parse(), Ok(Mtu::Bytes(1500)));
        assert_eq!("default".parse(), Ok(Mtu::Default));
        for bad in ["1279", "65521", "-1", "", "1500b"] {
            assert!(bad.parse::<Mtu>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pin_is_two_cpus_or_none() {
        assert_eq!("1,0".parse(), Ok(Pin { forwarder: Some(1), ends: Some(0) }));
        assert_eq!("none".parse(), Ok(Pin { forwarder: None, ends: None }));
        for bad in ["1", "1,", "a,b", "1,0,2"] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for bad in ["0", "0.1", "3601", "NaN", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
