//! `linerate bench tcp-scale`: what TCP costs with one connection and with a million, how fast connections
//! come and go, how fast one stream runs, what lost packets cost it, and what a flood of SYNs does.
//!
//! One thread, pinned; nothing but memory below the stack. Processor time is what is measured: what others on
//! the machine take is not counted. All cases take turns in each round, and ratios are those of figures of
//! one round.
//!
//! | file | what |
//! |---|---|
//! | [`case`] | what a case is, and what its rows are held to |
//! | [`clients`] | clients that are nothing but numbers, and their frames |
//! | [`server`] | the echo server under test |
//! | [`packets`] | what a packet costs among many connections, and what an idle one holds |
//! | [`pair`] | two stacks with a wire in memory between them |
//! | [`mod@line`] | a wire with a rate, a way that takes its time, and losses |
//! | [`connects`] | connections that are opened and closed |
//! | [`bulk`] | one stream, and copying |
//! | [`loss`] | one stream on a line that loses packets |
//! | [`flood`] | a SYN flood |
//! | [`smoltcp`] | the peer that does the same work in the same run |
//! | [`mod@print`] | what is printed |

pub mod bulk;
pub mod case;
pub mod clients;
pub mod connects;
pub mod flood;
pub mod line;
pub mod loss;
pub mod packets;
pub mod pair;
pub mod print;
pub mod server;
pub mod smoltcp;

use std::process::ExitCode;

use case::{Case, Row};
use packets::{Plan, hundredth_name, memory_name, packets_name};

use super::path::case::{calibrate, pin, progress};

/// Options of `linerate bench tcp-scale`.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchTcpScaleArgs {
    /// Rounds of each case; the median is printed with the smallest and the largest
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// The most connections (a million take about 4 GiB while they are busy)
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub connections: u32,
    /// How much of the usual work a round does, in percent
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub work: u32,
    /// The processor to run on; `none` = do not pin
    #[arg(long, default_value = "1")]
    pub pin: String,
    /// Only the cases whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// Fail unless the median of every row that ran is within its target
    #[arg(long)]
    pub check: bool,
    /// Print values with names for programs
    #[arg(long)]
    pub json: bool,
}

/// Numbers of connections: one, one turn's worth, many.
const CONNECTIONS: [u32; 5] = [1, 32, 1_000, 100_000, 1_000_000];

/// Measures and prints.
pub fn main(args: &BenchTcpScaleArgs) -> ExitCode {
    let pinned = pin(&args.pin);
    let (ghz, load) = (calibrate(), print::load());
    let mut cases = cases(args);
    let mut rows: Vec<Vec<Row>> = cases.iter().map(|case| case.rows()).collect();
    let part = f64::from(args.work) / 100.0;
    // The first round fills caches and pools and is left out.
    for round in 0..=args.rounds {
        for (case, rows) in cases.iter_mut().zip(&mut rows) {
            progress(&format!("round {round} of {}: {}", args.rounds, case.name()));
            let figures = case.round(part);
            if round > 0 {
                rows.iter_mut().zip(figures).for_each(|(row, figure)| row.samples.extend(figure));
            }
        }
    }
    for (case, rows) in cases.iter().zip(&mut rows) {
        rows.iter_mut().zip(case.notes()).for_each(|(row, note)| row.note = note);
    }
    progress("");
    let mut rows: Vec<Row> = rows.into_iter().flatten().collect();
    rows.extend(ratios(&rows));
    let (ghz, load) = ((ghz, calibrate()), (load, print::load()));
    let run = print::Run { rows, ghz, load, pinned, rounds: args.rounds, work: args.work };
    run.print(args.json);
    let missed = run.missed();
    if args.check && !missed.is_empty() {
        missed.iter().for_each(|why| eprintln!("linerate bench tcp-scale: {why}"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// All cases that were asked for; each is made only if it was.
fn cases(args: &BenchTcpScaleArgs) -> Vec<Box<dyn Case>> {
    let mut list: Vec<Box<dyn Case>> = Vec::new();
    let wanted = |name: &str| name.contains(&args.only);
    let mut numbers: Vec<u32> = CONNECTIONS
        .into_iter()
        .filter(|n| *n < args.connections)
        .chain([args.connections])
        .collect();
    numbers.dedup();
    for connections in numbers {
        let memory = connections >= 1000;
        let more = connections == args.connections && memory;
        if wanted(&packets_name(connections)) || memory && wanted(&memory_name(connections)) {
            progress(&format!("opening {connections} connections"));
            let plan = Plan { who: "linerate", connections, slower: 1, memory, more };
            list.extend(packets::cases(plan, || Box::new(server::Ours::new())));
        }
    }
    list.extend(packets::batches(wanted, || Box::new(server::Ours::new())));
    let sizes = bulk::SIZES.into_iter().filter(|size| wanted(&bulk::sized_name(*size)));
    sizes.for_each(|size| list.push(Box::new(bulk::Sized::new(size))));
    if wanted(connects::NAME) {
        list.push(Box::new(connects::Connects::new()));
    }
    let streams = [false, true].into_iter().filter(|offload| wanted(bulk::bulk_name(*offload)));
    let streams: Vec<bool> = streams.collect();
    for offload in &streams {
        list.push(Box::new(bulk::Bulk::new(*offload)));
    }
    if !streams.is_empty() {
        list.push(Box::new(bulk::Memcpy::new()));
    }
    for offload in [false, true] {
        let losses = loss::LOSSES.into_iter().filter(|ppm| wanted(&loss::loss_name(*ppm, offload)));
        losses.for_each(|ppm| list.push(Box::new(loss::Lossy::new(ppm, offload))));
    }
    if wanted(flood::SERVED) {
        list.push(Box::new(flood::Flood::new("linerate", Box::new(server::Ours::new()), 1)));
    }
    list.extend(smoltcp::cases(args.connections, wanted));
    list
}

/// Rows that compare others, round by round.
fn ratios(rows: &[Row]) -> Vec<Row> {
    let find = |name: &str, smoltcp: bool| {
        rows.iter().find(|r| r.name == name && (r.who == "smoltcp") == smoltcp)
    };
    let times = |name: String, of: &Row, by: &Row| {
        let samples = of.samples.iter().zip(&by.samples).map(|(of, by)| of / by).collect();
        Row { samples, ..Row::new(name, "times") }
    };
    let ratio = |name: String, of: &str, by: &str| -> Option<Row> {
        Some(times(name, find(of, false)?, find(by, false)?))
    };
    let most = rows.iter().filter_map(|row| {
        let n = row.name.strip_prefix("packet, ")?.strip_suffix(" at random")?.split(' ').next()?;
        n.parse::<u32>().ok()
    });
    let most = most.max().unwrap_or(0);
    let mut list = Vec::new();
    for of in [1, 32] {
        let any = ratio(
            format!("packet, {most} connections, of {of}"),
            &packets_name(most),
            &packets_name(of),
        );
        list.extend(any.filter(|_| most > of).map(|row| row.at_most(2.0)));
        let some = ratio(
            format!("packet, {most} connections, 1 % active, of {of}"),
            &hundredth_name(most),
            &packets_name(of),
        );
        list.extend(some.filter(|_| most > of).map(|row| row.at_most(1.2)));
    }
    for offload in [false, true] {
        let name = bulk::bulk_name(offload);
        list.extend(ratio(format!("{name}, of memcpy"), name, bulk::MEMCPY));
        if let (Some(of), Some(by)) = (find(name, false), find(name, true)) {
            // One note says that it is not built in.
            let row =
                times(format!("{name}, of smoltcp"), of, by).at_least(bulk::of_smoltcp(offload));
            list.extend((!row.samples.is_empty()).then_some(row));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_one_round() {
        let row = |name: String, samples: &[f64]| Row {
            samples: samples.to_vec(),
            ..Row::new(name, "ns/packet")
        };
        let rows =
            [row(packets_name(1), &[100.0, 200.0]), row(packets_name(1000), &[150.0, 400.0])];
        let ratios = ratios(&rows);
        assert_eq!(ratios.len(), 1, "{ratios:?}");
        assert_eq!(ratios[0].samples, [1.5, 2.0]);
        assert!(ratios[0].target.is_some_and(|t| t.met(2.0)));
    }

    #[test]
    fn a_stream_is_held_to_what_the_peer_does_on_the_same_machine() {
        let row = |who: &'static str, samples: &[f64]| Row {
            samples: samples.to_vec(),
            ..Row::new(bulk::bulk_name(false), "Gb/s").of(who)
        };
        let of_smoltcp = |rows: &[Row]| {
            let all = ratios(rows);
            all.into_iter().find(|r| r.name.ends_with(", of smoltcp"))
        };
        let both = of_smoltcp(&[row("linerate", &[30.0, 30.0]), row("smoltcp", &[20.0, 25.0])]);
        let both = both.expect("a ratio");
        assert_eq!(both.samples, [1.5, 1.2]);
        assert!(both.target.is_some_and(|t| t.met(1.35) && !t.met(1.34)));
        assert!(of_smoltcp(&[row("linerate", &[30.0]), row("smoltcp", &[])]).is_none());
    }
}
