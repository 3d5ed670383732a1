//! `linerate bench tun`: the library alone on a TUN, at MTU 1500, against the kernel's TCP: a sink, a
//! source, an echo, and connections, with offloads and without; smoltcp on the same TUN where it is
//! built in.
//!
//! The client is the one of `bench run`, a process of its own in the same network namespace. The stack
//! runs in this process, on another processor; it opens its TUN anew for each measurement.

mod ours;
#[cfg(feature = "bench-peers")]
mod smoltcp;

use std::io;
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use linerate_dev::netdev::Netdev;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::path::case::{calibrate, pin, progress};
use super::peers::End;
use super::run::Pin;
use super::stats::Spread;
use super::table::number;
use super::traffic::{Answer, Ask, Window};

/// The kernel's address on the TUN.
const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
/// The stack's.
const STACK: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
/// The TUN, in a namespace that is ours alone.
const NAME: &str = "bench0";

/// Measure the library alone on a TUN, at MTU 1500, against the kernel's TCP.
///
/// Everything happens in a network namespace that ends with this command.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchTunArgs {
    /// Rounds; in each, every stack takes its turn in every case
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Length of one measurement in milliseconds; a third of that goes before it
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(50..=600_000))]
    pub ms: u64,
    /// CPUs of the stack and of the kernel's client as `STACK,CLIENT`, or `none`
    #[arg(long, default_value = "1,0")]
    pub pin: Pin,
    /// Only the rows whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// Print values with names for programs
    #[arg(long)]
    pub json: bool,
}

/// A stack with a TUN of its own, and the servers of `bench run` behind it.
trait Stack {
    /// Works for a while, about a millisecond where nothing comes.
    ///
    /// # Errors
    /// It can not go on.
    fn work(&mut self) -> io::Result<()>;
    /// Bytes that the sink read so far.
    fn received(&self) -> u64;
}

/// Whose stack, on what TUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Ours, with every offload that TUN has.
    Offloads,
    /// The same, and the source sends a file that lies in memory, without copying it (`tcp_sendfile`).
    Sendfile,
    /// Ours, with whole packets of at most an MTU.
    Plain,
    /// smoltcp, which has no offloads.
    #[cfg_attr(not(feature = "bench-peers"), allow(dead_code))]
    Smoltcp,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Down,
    Up,
    Ping,
    Connects,
}

/// Figures of one row.
struct Row {
    who: Who,
    case: Case,
    samples: Vec<f64>,
    /// Of a ping: the 99th percentiles.
    p99: Vec<f64>,
    failed: Option<String>,
}

impl Who {
    const ALL: &'static [Who] = &[
        Who::Offloads,
        Who::Sendfile,
        Who::Plain,
        #[cfg(feature = "bench-peers")]
        Who::Smoltcp,
    ];

    fn name(self) -> &'static str {
        match self {
            Who::Offloads => "linerate, TUN with offloads",
            Who::Sendfile => "linerate, the same by sendfile",
            Who::Plain => "linerate, plain TUN",
            Who::Smoltcp => "smoltcp, plain TUN",
        }
    }

    fn open(self) -> io::Result<Box<dyn Stack>> {
        match self {
            Who::Offloads => Ok(Box::new(ours::Ours::open(true, false)?)),
            Who::Sendfile => Ok(Box::new(ours::Ours::open(true, true)?)),
            Who::Plain => Ok(Box::new(ours::Ours::open(false, false)?)),
            #[cfg(feature = "bench-peers")]
            Who::Smoltcp => Ok(Box::new(smoltcp::Smoltcp::open()?)),
            #[cfg(not(feature = "bench-peers"))]
            Who::Smoltcp => Err(io::Error::other("build with --features bench-peers")),
        }
    }
}

impl Case {
    const ALL: [Case; 4] = [Case::Down, Case::Up, Case::Ping, Case::Connects];

    fn name(self) -> &'static str {
        match self {
            Case::Down => "kernel to stack, 1 TCP stream",
            Case::Up => "stack to kernel, 1 TCP stream",
            Case::Ping => "TCP ping-pong of 64 bytes, p50",
            Case::Connects => "connections: connect, 1 byte, close; 4 at a time",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Case::Down | Case::Up => "Gbit/s",
            Case::Ping => "us",
            Case::Connects => "1/s",
        }
    }
}

/// Gives the interface the kernel's address, and switches it on.
///
/// # Errors
/// Those of rtnetlink.
fn bring_up() -> io::Result<()> {
    let mut netdev = Netdev::open().map_err(io::Error::other)?;
    let index = netdev.link(NAME).map_err(io::Error::other)?.index;
    netdev.add_addr(index, KERNEL.into(), 24).map_err(io::Error::other)?;
    netdev.set_mtu(index, 1500).map_err(io::Error::other)?;
    netdev.set_up(index, true).map_err(io::Error::other)
}

/// Measures and prints. The exit code is 0 if every row has a figure, 1 if not, 2 if nothing could be
/// measured.
pub fn main(args: &BenchTunArgs) -> ExitCode {
    match run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("linerate bench tun: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &BenchTunArgs) -> io::Result<bool> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    enter()?;
    let mut client = start_client(args.pin)?;
    if let Some(cpu) = args.pin.forwarder
        && pin(&cpu.to_string()).is_none()
    {
        return Err(io::Error::other(format!("there is no processor {cpu}: --pin")));
    }
    let before = calibrate();
    let all = Case::ALL.into_iter().flat_map(|case| Who::ALL.iter().map(move |&who| (case, who)));
    let row = |(case, who)| Row { who, case, samples: vec![], p99: vec![], failed: None };
    let named = |(case, who): &(Case, Who)| {
        case.name().contains(&args.only) || who.name().contains(&args.only)
    };
    // How the source sends says nothing of the other cases.
    let apt = |&(case, who): &(Case, Who)| who != Who::Sendfile || case == Case::Up;
    let mut rows: Vec<Row> = all.filter(apt).filter(named).map(row).collect();
    for round in 1..=args.rounds {
        for row in rows.iter_mut().filter(|r| r.failed.is_none()) {
            let (case, who) = (row.case.name(), row.who.name());
            progress(&format!("round {round} of {}: {case}, {who}", args.rounds));
            if let Err(e) = measure(row, &mut client, args.ms) {
                row.failed = Some(e.to_string());
            }
        }
    }
    eprintln!("\r\x1b[K");
    let ghz = (before, calibrate());
    if args.json {
        crate::print_json(&to_json(args, &rows, ghz, &load));
    } else {
        table(args, &rows, ghz, &load);
    }
    Ok(rows.iter().all(|r| r.failed.is_none()))
}

/// Enters a network namespace of its own.
fn enter() -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let user = if uid.is_root() { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    unshare(user | CloneFlags::CLONE_NEWNET).map_err(|e| {
        io::Error::other(format!(
            "the kernel does not permit a new network namespace here ({e}): run it as root, or \
             permit unprivileged user namespaces (user.max_user_namespaces)"
        ))
    })?;
    if !uid.is_root() {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    Ok(())
}

fn start_client(pin: Pin) -> io::Result<End> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["__traffic", "program"]);
    if let Some(cpu) = pin.ends {
        command.args(["--cpu", &cpu.to_string()]);
    }
    End::start_logged(
        command,
        std::env::temp_dir().join(format!("linerate-tun-{}", std::process::id())),
    )
}

/// One measurement of one row.
fn measure(row: &mut Row, client: &mut End, ms: u64) -> io::Result<()> {
    let mut stack = row.who.open()?;
    let window = Window { warmup_ms: ms / 3, counted_ms: ms };
    let to = STACK.into();
    let ask = match row.case {
        Case::Down => Ask::Send { to, streams: 1, sndbuf_bytes: None, window },
        Case::Up => Ask::Receive { to, streams: 1, window },
        Case::Ping => Ask::PingPong { to, busy: false, window },
        Case::Connects => Ask::Connects { to, parallel: 4, window },
    };
    client.request(&ask)?;
    let patience = Instant::now() + window.whole() + Duration::from_secs(20);
    let mut counted = Counted::default();
    let answer = loop {
        stack.work()?;
        counted.look(stack.received(), window);
        if let Some(answer) = client.try_answer()? {
            break answer;
        }
        if Instant::now() > patience {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client gave no answer"));
        }
    };
    let gbps = |bytes: u64, ns: u64| bytes as f64 * 8.0 / ns.max(1) as f64;
    let figure = match (answer, row.case) {
        (Answer::Sent { .. }, Case::Down) => {
            let (bytes, ns) =
                counted.whole.ok_or_else(|| io::Error::other("too little arrived"))?;
            gbps(bytes, ns)
        }
        (Answer::Bytes { bytes, elapsed_ns, .. }, Case::Up) => gbps(bytes, elapsed_ns),
        (Answer::RoundTrips { p50_ns, p99_ns, .. }, Case::Ping) => {
            row.p99.push(f64::from(p99_ns) / 1e3);
            f64::from(p50_ns) / 1e3
        }
        (Answer::Count { failed, .. }, Case::Connects) if failed > 0 => {
            return Err(io::Error::other(format!("{failed} connections did not succeed")));
        }
        (Answer::Count { count, elapsed_ns, .. }, Case::Connects) => {
            count as f64 * 1e9 / elapsed_ns.max(1) as f64
        }
        (other, _) => return Err(client.unexpected(&other)),
    };
    row.samples.push(figure);
    Ok(())
}

/// What the sink reads within the window, which begins with its first byte.
#[derive(Default)]
struct Counted {
    first: Option<Instant>,
    begun: Option<(Instant, u64)>,
    whole: Option<(u64, u64)>,
}

impl Counted {
    fn look(&mut self, received: u64, window: Window) {
        if received == 0 || self.whole.is_some() {
            return;
        }
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        if now.duration_since(first) < window.warmup() {
            return;
        }
        let (at, bytes) = *self.begun.get_or_insert((now, received));
        let elapsed = now.duration_since(at);
        if elapsed >= window.counted() {
            self.whole = Some((received - bytes, super::traffic::nanos(elapsed)));
        }
    }
}

/// Median of a row, if it has one.
fn median(rows: &[Row], case: Case, who: Who) -> Option<f64> {
    let row = rows.iter().find(|r| r.case == case && r.who == who)?;
    Spread::of(&row.samples).map(|s| s.median)
}

fn table(args: &BenchTunArgs, rows: &[Row], ghz: (f64, f64), load: &str) {
    let load = load.split(' ').next().unwrap_or_default();
    println!(
        "TUN, MTU 1500, the kernel's TCP (cubic) at the other end; {} rounds of {} ms, in turn",
        args.rounds, args.ms
    );
    match (args.pin.forwarder, args.pin.ends) {
        (Some(stack), Some(client)) => {
            println!("the stack on processor {stack}, the client on processor {client}")
        }
        _ => println!("not pinned"),
    }
    println!("{:.2} GHz before and {:.2} after; load average before {load}", ghz.0, ghz.1);
    let mut case = None;
    for row in rows {
        if case != Some(row.case) {
            case = Some(row.case);
            println!("\n{}, {}", row.case.name(), row.case.unit());
            println!("  {:<30} {:>9} {:>19} {:>11}", "", "median", "min..max", "x smoltcp");
        }
        let Some(s) = Spread::of(&row.samples) else {
            println!(
                "  {:<30} {:>9} ({})",
                row.who.name(),
                "-",
                row.failed.as_deref().unwrap_or("not run")
            );
            continue;
        };
        let peer =
            median(rows, row.case, Who::Smoltcp).map(|peer| format!("{:.2}", s.median / peer));
        println!(
            "  {:<30} {:>9} {:>19} {:>11}{}",
            row.who.name(),
            number(s.median),
            format!("{}..{}", number(s.min), number(s.max)),
            peer.unwrap_or_else(|| "-".into()),
            Spread::of(&row.p99).map_or(String::new(), |p| format!("  p99 {}", number(p.median))),
        );
        if let Some(why) = &row.failed {
            println!("    then failed: {why}");
        }
    }
}

fn to_json(args: &BenchTunArgs, rows: &[Row], ghz: (f64, f64), load: &str) -> Value {
    let row = |r: &Row| {
        json!({
            "case": r.case.name(), "who": r.who.name(), "unit": r.case.unit(),
            "ours": r.who != Who::Smoltcp, "more_is_better": r.case != Case::Ping,
            "median": Spread::of(&r.samples).map(|s| s.median), "samples": r.samples,
            "p99": r.p99, "failed": r.failed,
        })
    };
    json!({
        "mtu": 1500, "rounds": args.rounds, "ms": args.ms, "ghz": ghz, "load": load.trim(),
        "pin": args.pin, "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
