//! linerate
#![forbid(unsafe_code)]

mod bench;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "linerate", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measurements beside peers.
    #[command(subcommand)]
    Bench(Bench),
    #[command(name = "__traffic", hide = true)]
    Traffic(bench::TrafficArgs),
}

#[derive(Subcommand)]
enum Bench {
    Run(bench::BenchRunArgs),
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Bench(Bench::Run(args)) => bench::run::main(args),
        Command::Traffic(args) => bench::traffic::main(args),
    }
}
