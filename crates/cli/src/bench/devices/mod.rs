//! `linerate bench devices`: datagrams over a veth pair into this stack, by every way there is, and
//! into the kernel's sockets, in one run.
//!
//! The receiver is this process, pinned to one processor; the generator (a UDP socket that leaves it to
//! the kernel to cut 64 datagrams out of one) is a child on the other, in a network namespace of its
//! own. On a veth the sender's
//! processor does most of the receiver's work in the kernel, unless RPS or a NAPI thread takes it to
//! the receiver's: each way is measured in each configuration that makes a difference to it. All
//! take turns in every round.
//!
//! | file | what |
//! |---|---|
//! | [`wire`] | namespaces, the veth pair, the kernel's settings |
//! | [`generator`] | the child that sends |
//! | [`ours`] | receivers that are this stack |
//! | [`kernels`] | receivers that are the kernel's sockets |
//! | [`ovs`] | the receiver that is Open vSwitch |

pub mod generator;
pub mod kernels;
pub mod ours;
pub mod ovs;
pub mod wire;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};

use super::path::case::{calibrate, pin};
use super::stats::Spread;
use wire::{Steering, Wire};

/// Options of `linerate bench devices`.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchDevicesArgs {
    /// Rounds; in each, every receiver takes its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Milliseconds of one measurement; a third of that goes before it
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub ms: u64,
    /// Processor of the receiver, and of its NAPI thread or RPS
    #[arg(long, default_value_t = 1)]
    pub receiver: usize,
    /// Processor of the generator
    #[arg(long, default_value_t = 0)]
    pub generator: usize,
    /// Bytes of payload: 18 make a frame of 60
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u16).range(1..=1472))]
    pub payload: u16,
    /// The generator has the kernel cut 64 datagrams out of one (UDP_SEGMENT) instead of making each by
    /// itself (sendmmsg): three times as many, more than any receiver here takes
    #[arg(long)]
    pub udp_segment: bool,
    /// Only the receivers whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// Print values with names for programs
    #[arg(long)]
    pub json: bool,
}

impl BenchDevicesArgs {
    /// How the generator sends.
    fn how(&self) -> &'static str {
        if self.udp_segment { "UDP_SEGMENT" } else { "sendmmsg" }
    }
}

/// Something that receives what the generator sends, opened for one measurement.
pub trait Receiver {
    /// Receives, and sends back if it is to, for a while; never much longer than a millisecond.
    ///
    /// # Errors
    /// It can not go on.
    fn work(&mut self) -> io::Result<()>;
    /// Packets that reached the application so far, or were sent back if it is to.
    fn count(&self) -> u64;
    /// Its work is done by other processes: what this thread takes says nothing.
    fn elsewhere(&self) -> bool {
        false
    }
}

/// Who receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody: the kernel drops all before its stack looks at it.
    Nobody,
    /// The AF_XDP device, whose packets are dropped as they come.
    XdpBare,
    /// The AF_XDP device, which sends back what comes, its link addresses exchanged.
    XdpSwap,
    /// Open vSwitch's userspace datapath, which does the same by a flow.
    Ovs(ovs::Port),
    /// AF_XDP and our stack.
    Xdp,
    /// A TPACKET_V3 ring and our stack.
    Packet,
    /// A UDP socket of the kernel.
    Socket,
}

/// One row: who receives, under which settings, and what is done with the packets.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    kind: Kind,
    steering: Steering,
    echo: bool,
}

impl Way {
    fn name(self) -> String {
        let what = match (self.kind, self.echo) {
            (Kind::Nobody, _) => "generator alone, dropped at the ingress hook",
            (Kind::XdpBare, _) => "AF_XDP, dropped at the ring",
            (Kind::XdpSwap, _) => "AF_XDP, addresses exchanged, sent back",
            (Kind::Ovs(ovs::Port::Afxdp), _) => "Open vSwitch, afxdp port, a flow sends back",
            (Kind::Ovs(ovs::Port::System), _) => "Open vSwitch, system port, a flow sends back",
            (Kind::Xdp, false) => "AF_XDP and stack, to a UDP socket",
            (Kind::Xdp, true) => "AF_XDP and stack, UDP echo",
            (Kind::Packet, false) => "TPACKET_V3 and stack, to a UDP socket",
            (Kind::Packet, true) => "TPACKET_V3 and stack, UDP echo",
            (Kind::Socket, false) => "kernel socket, recvmmsg",
            (Kind::Socket, true) => "kernel socket, recvmmsg and sendmmsg, UDP echo",
        };
        format!("{what}{}", self.steering.suffix())
    }

    /// A socket of the kernel does the same.
    fn has_socket(self) -> bool {
        !matches!(self.kind, Kind::Nobody | Kind::XdpSwap | Kind::Ovs(_))
    }

    fn all() -> Vec<Way> {
        use Kind::{Nobody, Ovs, Packet, Socket, Xdp, XdpBare, XdpSwap};
        use Steering::{Napi, None, Rps};
        let way = |kind, steering, echo| Way { kind, steering, echo };
        let mut all = vec![way(Nobody, None, false), way(XdpBare, None, false)];
        all.extend([way(XdpBare, Napi, false), way(Xdp, None, false), way(Xdp, Napi, false)]);
        all.extend([way(Packet, None, false), way(Packet, Rps, false)]);
        all.extend([way(Socket, None, false), way(Socket, Rps, false)]);
        all.extend([way(Xdp, None, true), way(Xdp, Napi, true)]);
        all.extend([way(Packet, None, true), way(Packet, Rps, true)]);
        all.extend([way(Socket, None, true), way(Socket, Rps, true)]);
        all.extend([way(XdpSwap, None, true), way(XdpSwap, Napi, true)]);
        // Its polling thread never sleeps: on the same processor a NAPI thread would starve.
        all.extend([ovs::Port::Afxdp, ovs::Port::System].map(|port| way(Ovs(port), None, true)));
        all
    }
}

/// What one way gave.
#[derive(Default)]
struct Measured {
    mpps: Vec<f64>,
    offered: Vec<f64>,
    /// Nanoseconds of the receiver's processor time a packet, in user mode.
    user_ns: Vec<f64>,
    failed: Option<String>,
}

/// Measures and prints.
pub fn main(args: &BenchDevicesArgs) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("linerate bench devices: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &BenchDevicesArgs) -> io::Result<()> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut wire = Wire::new(args)?;
    if pin(&args.receiver.to_string()).is_none() {
        return Err(io::Error::other(format!("there is no processor {}", args.receiver)));
    }
    let before = calibrate();
    let ways: Vec<Way> = Way::all().into_iter().filter(|w| w.name().contains(&args.only)).collect();
    let mut all: Vec<Measured> = ways.iter().map(|_| Measured::default()).collect();
    for _ in 0..args.rounds {
        for (way, measured) in ways.iter().zip(&mut all) {
            if measured.failed.is_none()
                && let Err(e) = measure(&mut wire, *way, args, measured)
            {
                measured.failed = Some(e.to_string());
            }
        }
    }
    let ghz = (before, calibrate());
    if args.json {
        println!("{}", to_json(args, &ways, &all, ghz, &load));
    } else {
        table(args, &ways, &all, ghz, &load);
    }
    Ok(())
}

/// One measurement: the receiver is opened, the generator sends, and what comes within the window is
/// counted.
fn measure(
    wire: &mut Wire,
    way: Way,
    args: &BenchDevicesArgs,
    to: &mut Measured,
) -> io::Result<()> {
    wire.steer(Steering::None)?;
    let mut receiver: Box<dyn Receiver> = match way.kind {
        Kind::Nobody => Box::new(ours::Nobody::open(wire)?),
        Kind::XdpBare => Box::new(ours::Bare::open(wire, false)?),
        Kind::XdpSwap => Box::new(ours::Bare::open(wire, true)?),
        Kind::Ovs(port) => Box::new(ovs::Ovs::open(wire, port)?),
        Kind::Xdp => Box::new(ours::Stack::over_xdp(wire, way.echo)?),
        Kind::Packet => Box::new(ours::Stack::over_packet(wire, way.echo)?),
        Kind::Socket => Box::new(kernels::Socket::open(wire, way.echo)?),
    };
    // Only with a program at its device does a veth have a NAPI of its own.
    wire.steer(way.steering)?;
    let window = Duration::from_millis(args.ms);
    let warm_up = window / 3;
    wire.generator.send(way.kind, warm_up * 2 + window)?;
    let begun = Instant::now();
    // A generator that the machine lets wait is waited for.
    let none_yet = |r: &dyn Receiver| way.kind != Kind::Nobody && r.count() == 0;
    let first = Duration::from_secs(10);
    while begun.elapsed() < warm_up || (none_yet(&*receiver) && begun.elapsed() < first) {
        receiver.work()?;
    }
    let (at, count, user) = (Instant::now(), receiver.count(), user_ns()?);
    while at.elapsed() < window {
        receiver.work()?;
    }
    let (elapsed, count, user) = (at.elapsed(), receiver.count() - count, user_ns()? - user);
    let sent = loop {
        if let Some(sent) = wire.generator.sent()? {
            break sent;
        }
        receiver.work()?;
    };
    to.offered.push(sent);
    match way.kind {
        Kind::Nobody => to.mpps.push(sent),
        _ if count == 0 => return Err(io::Error::other("nothing arrived")),
        _ => {
            to.mpps.push(count as f64 / elapsed.as_secs_f64() / 1e6);
            if !receiver.elsewhere() {
                to.user_ns.push(user as f64 / count as f64);
            }
        }
    }
    Ok(())
}

/// Processor time of this thread in user mode.
fn user_ns() -> io::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(usage.user_time().num_microseconds() as u64 * 1000)
}

fn median(samples: &[f64]) -> Option<f64> {
    Spread::of(samples).map(|s| s.median)
}

/// Rates of the best configuration: of the kernel's socket, and of the bare ring; with or without
/// echo.
fn best(ways: &[Way], all: &[Measured], kind: Kind, echo: bool) -> Option<f64> {
    let of = ways.iter().zip(all).filter(|(w, _)| w.kind == kind && w.echo == echo);
    of.filter_map(|(_, m)| median(&m.mpps)).reduce(f64::max)
}

fn table(args: &BenchDevicesArgs, ways: &[Way], all: &[Measured], ghz: (f64, f64), load: &str) {
    let load = load.split_whitespace().next().unwrap_or_default();
    let frame = args.payload + 42;
    println!(
        "veth pair, generator ({}) on processor {}, receiver on processor {}, {frame} B frames",
        args.how(),
        args.generator,
        args.receiver
    );
    println!("{:.2} GHz before and {:.2} after; load average before {load}", ghz.0, ghz.1);
    println!(
        "{} rounds of {} ms, all in turn; AF_XDP copies (a veth can not do else)\n",
        args.rounds, args.ms
    );
    println!(
        "{:<66} {:>7} {:>15} {:>8} {:>8} {:>8} {:>9}",
        "Mpps", "median", "min..max", "offered", "of bare", "of sock.", "user ns"
    );
    for (way, measured) in ways.iter().zip(all) {
        let name = way.name();
        let Some(s) = Spread::of(&measured.mpps) else {
            println!("{name:<66} {:>7} ({})", "-", measured.failed.as_deref().unwrap_or("not run"));
            continue;
        };
        let ratio = |of: Option<f64>| of.map_or("-".into(), |of| format!("{:.2}", s.median / of));
        let bare = ways.iter().zip(all).find(|(w, _)| {
            w.kind == Kind::XdpBare
                && w.steering == way.steering
                && way.kind == Kind::Xdp
                && !way.echo
        });
        let bare = bare.and_then(|(_, m)| median(&m.mpps));
        let socket = best(ways, all, Kind::Socket, way.echo).filter(|_| way.has_socket());
        println!(
            "{name:<66} {:>7.3} {:>15} {:>8.3} {:>8} {:>8} {:>9}",
            s.median,
            format!("{:.3}..{:.3}", s.min, s.max),
            median(&measured.offered).unwrap_or(0.0),
            ratio(bare),
            ratio(socket),
            median(&measured.user_ns).map_or("-".into(), |ns| format!("{ns:.0}")),
        );
    }
    println!(
        "\nof sock.: of the kernel socket in its best configuration; user ns: a packet, receiver"
    );
}

fn to_json(
    args: &BenchDevicesArgs,
    ways: &[Way],
    all: &[Measured],
    ghz: (f64, f64),
    load: &str,
) -> Value {
    let row = |(way, m): (&Way, &Measured)| {
        json!({
            "name": way.name(), "mpps": m.mpps, "mpps_median": median(&m.mpps),
            "offered_mpps_median": median(&m.offered), "user_ns_median": median(&m.user_ns),
            "failed": m.failed,
        })
    };
    json!({
        "receiver": args.receiver, "generator": args.generator, "payload": args.payload,
        "sends_with": args.how(),
        "rounds": args.rounds, "ms": args.ms, "ghz": ghz.0, "ghz_after": ghz.1, "load": load.trim(),
        "rows": ways.iter().zip(all).map(row).collect::<Vec<_>>(),
    })
}
