//! `linerate bench path`: what a packet costs in nanoseconds, with nothing but memory below it.
//!
//! One thread, pinned, moves packets through the real receive and transmit path. A ring is stood for
//! by a copy into a pool buffer; the application reads every datagram. The whole path is timed as it
//! runs in production (stages of a group fused), by the processor time of the thread, in rounds in
//! which all cases take turns. The rows per stage come from a pass of their own after the rounds, in
//! which the spine times chosen batches stage by stage.
//!
//! | file | what |
//! |---|---|
//! | [`case`] | what a case is, and the clocks |
//! | [`stack`] | the stack under test, and the frames that it is fed |
//! | [`xdp`] | drop, swap and forward at the XDP hook |
//! | [`vm`], [`filter`] | eBPF programs there, and in the kernel |
//! | [`idle`] | stages in which nothing happens |
//! | [`udp`] | receive, echo, and look-up among many sockets |
//! | [`qdisc`] | into a queueing discipline and out of it |
//! | [`send`] | the way out, step by step |
//! | [`tcp`] | segments and super-packets, both ways |
//! | [`smoltcp`], [`testpmd`] | peers that do the same work in the same run |
//! | [`mod@print`] | what is printed |

pub mod case;
pub mod filter;
pub mod idle;
pub mod print;
pub mod qdisc;
pub mod send;
pub mod smoltcp;
pub mod stack;
pub mod tcp;
pub mod testpmd;
pub mod udp;
pub mod vm;
pub mod xdp;

use std::process::ExitCode;

use case::{Case, Measured, progress};

/// Options of `linerate bench path`.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchPathArgs {
    /// Rounds of each case; the median is printed with the smallest and the largest
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Packets in a round; slow cases take fewer
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub packets: u64,
    /// The processor to run on; `none` = do not pin
    #[arg(long, default_value = "1")]
    pub pin: String,
    /// Only the cases whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// The most sockets in the cases with many
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub sockets: u32,
    /// Fail unless the median of every case that ran is within its target
    #[arg(long)]
    pub check: bool,
    /// Print values with names for programs
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
pub fn main(args: &BenchPathArgs) -> ExitCode {
    let pinned = case::pin(&args.pin);
    let before = case::calibrate();
    let mut cases = cases(args);
    let mut ns: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    // The first round fills caches and pools and is left out.
    for round in 0..=args.rounds {
        progress(&format!("round {round} of {}", args.rounds));
        for (case, ns) in cases.iter_mut().zip(&mut ns) {
            let packets = (args.packets / case.row().slower).max(1);
            let cost = case.round(packets);
            ns.extend(cost.filter(|_| round > 0));
        }
    }
    progress("");
    let measured = cases.iter_mut().zip(ns).map(|(case, ns)| {
        let parts = case.parts();
        Measured::new(case.row().clone(), ns, parts)
    });
    let run = print::Run {
        measured: measured.collect(),
        ghz: (before, case::calibrate()),
        pinned,
        rounds: args.rounds,
        packets: args.packets,
    };
    run.print(args.json);
    let missed = run.missed();
    if args.check && !missed.is_empty() {
        missed.iter().for_each(|why| eprintln!("linerate bench path: {why}"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// All cases that were asked for; each is made only if it was.
fn cases(args: &BenchPathArgs) -> Vec<Box<dyn Case>> {
    let mut list = Vec::new();
    let mut makers = Vec::new();
    makers.extend(xdp::makers());
    makers.extend(vm::makers());
    makers.extend(idle::makers());
    makers.extend(testpmd::makers());
    makers.extend(udp::makers(args.sockets));
    makers.extend(smoltcp::makers());
    makers.extend(send::makers());
    makers.extend(tcp::makers());
    makers.extend(qdisc::makers());
    for (row, make) in makers {
        if row.name.contains(&args.only) {
            list.push(make(row));
        }
    }
    list
}
