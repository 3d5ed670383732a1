//! `linerate bench host`: what it costs to read the kernel's path, beside the tools that read the same.
//!
//! Everything runs on one processor, in turn, and is measured by processor time, since whatever else
//! runs on the machine would otherwise be taken for theirs. What is read is the same for all: a network
//! namespace of our own with loopback and a veth pair; our sweeps read this host's as well.
//!
//! | file | what |
//! |---|---|
//! | [`place`] | the namespace, and the sockets in it |
//! | [`ours`] | our sweeps, and our reading of sockets |
//! | [`peers`] | processes that end, and a node_exporter that is asked again and again |
//! | [`recorded`] | `linerate record`, for a while |
//! | [`table`] | rows, targets, and what is printed |

pub mod ours;
pub mod peers;
pub mod place;
pub mod recorded;
pub mod table;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use linerate_host::collect::Tier;

use super::path::case::{calibrate, pin};
use crate::doctor::args::duration;
use peers::{Exporter, Process};
use place::Place;
use table::{Group, Report, Row};

/// Options of `linerate bench host`.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchHostArgs {
    /// Rounds; in each, everything takes its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Readings of each in a round; those that take long are repeated less often
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub readings: u32,
    /// TCP sockets, two of each connection
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=50_000))]
    pub sockets: u32,
    /// How long `linerate record` runs; 0s = not at all
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration_or_none)]
    pub record: Duration,
    /// The processor to run on
    #[arg(long, default_value_t = 0)]
    pub pin: usize,
    /// Exit with 1 if a target is missed, or if a peer does the same for less
    #[arg(long)]
    pub check: bool,
    /// Print values with names for programs
    #[arg(long)]
    pub json: bool,
}

fn duration_or_none(s: &str) -> Result<Duration, String> {
    if ["0", "0s"].contains(&s) { Ok(Duration::ZERO) } else { duration(s) }
}

/// What a sweep of the basic tier may take, in milliseconds.
const BASIC_MS: f64 = 1.0;
/// What 10 000 sockets may take, in milliseconds.
const SOCKETS_MS: f64 = 15.0;

/// Measures and prints.
pub fn main(args: &BenchHostArgs) -> ExitCode {
    match run(args) {
        Ok(report) => {
            if args.json {
                println!("{:#}", report.json());
            } else {
                print!("{}", report.text());
            }
            ExitCode::from(u8::from(args.check && !report.holds()))
        }
        Err(e) => {
            eprintln!("linerate bench host: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &BenchHostArgs) -> io::Result<Report> {
    let load = || std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load_before = load();
    // Threads and children inherit it.
    if pin(&args.pin.to_string()).is_none() {
        return Err(io::Error::other(format!("there is no processor {}", args.pin)));
    }
    let before = calibrate();
    let mut place = Place::new(args.sockets)?;
    let mut groups = sweeps(args, &place)?;
    turns(args, &mut groups);
    // Only now, since all that reads sockets would read these as well.
    place.open_sockets(args.sockets)?;
    let mut sockets = vec![sockets(args)?];
    turns(args, &mut sockets);
    groups.append(&mut sockets);
    place.close_sockets();
    let recorded = match args.record {
        Duration::ZERO => None,
        period => Some(recorded::record(&place, period)?),
    };
    Ok(Report {
        groups,
        recorded,
        versions: peers::versions(),
        load: [load_before, load()],
        ghz: [before, calibrate()],
        args: args.clone(),
    })
}

/// All rows take turns, round after round. One that fails is left out from then on.
fn turns(args: &BenchHostArgs, groups: &mut [Group]) {
    for _ in 0..args.rounds {
        groups.iter_mut().flat_map(|group| &mut group.rows).for_each(Row::turn);
    }
}

/// What is read without sockets.
fn sweeps(args: &BenchHostArgs, place: &Place) -> io::Result<Vec<Group>> {
    const COUNTERS: &str = "counters of the protocols (snmp, snmp6, netstat)";
    const BASIC: &str = "basic sweep (those, softnet, softirqs, interrupts, stat, devices, qdiscs, sockstat, sysctls)";
    const FULL: &str = "full sweep (everything; node_exporter: its default collectors)";
    let n = args.readings;
    let few = n.div_ceil(4);
    let counters = vec![
        Row::ours("linerate, these three files", ours::counters(n)),
        Process::new("nstat", &["-as"], &["-V"]).row(n),
    ];
    let basic = vec![
        Row::ours("linerate", ours::sweep(Tier::Basic, n)).target(BASIC_MS),
        Row::ours("linerate, this host", there(place, Tier::Basic, n)?).target(BASIC_MS).aside(),
        Exporter::row("node_exporter, network collectors", peers::NETWORK, few),
    ];
    let full = vec![
        Row::ours("linerate", ours::sweep(Tier::Full, few)),
        Row::ours("linerate, this host", there(place, Tier::Full, few)?).aside(),
        Exporter::row("node_exporter, default collectors", &[], few),
    ];
    Ok(vec![
        Group { title: COUNTERS.into(), rows: counters },
        Group { title: BASIC.into(), rows: basic },
        Group { title: FULL.into(), rows: full },
    ])
}

/// A sweep in this host's namespace.
fn there(place: &Place, tier: Tier, n: u32) -> io::Result<table::Read> {
    let sweep = place.host().run(move || ours::Sweep::new(tier))?;
    let (sweep, host) = (Arc::new(sweep), place.host());
    Ok(Box::new(move || {
        let sweep = sweep.clone();
        host.run(move || sweep.cost(n))?
    }))
}

fn sockets(args: &BenchHostArgs) -> io::Result<Group> {
    let few = args.readings.div_ceil(8);
    let target = SOCKETS_MS * f64::from(args.sockets) / 10_000.0;
    let rows = vec![
        Row::ours("linerate, sock_diag", ours::sockets(few, args.sockets)).target(target),
        Process::new("ss", &["-tn"], &["-V"]).row(few),
        Process::new("ss", &["-tin"], &["-V"]).row(few),
        Exporter::row("node_exporter, tcpstat alone", &["tcpstat"], few),
    ];
    let title = format!("{} TCP sockets, established, over loopback", args.sockets);
    Ok(Group { title, rows })
}
