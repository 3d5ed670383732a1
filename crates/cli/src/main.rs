//! `linerate`: see and tune the Linux network path, a complete one in user space.
//!
//! This file only dispatches; each command is a module of its own, its options are in [`args`].
#![forbid(unsafe_code)]

mod args;
mod bench;
mod capture;
mod demo;
mod doctor;
mod draw;
mod explain;
mod pages;
mod procfs;
mod replay;
mod report;
mod run;
mod show;
mod tune;
mod up;
mod whatif;
mod xdp;

use std::io::Write;
use std::process::ExitCode;

use args::{BenchCommand, Cli, Command};
use clap::Parser;

fn main() -> ExitCode {
    // Helper processes are this binary under another first argument.
    if let Some(code) = linerate_gateway::ns::dispatch_hidden() {
        return code;
    }
    if let Some(code) = demo::dispatch_hidden() {
        return code;
    }
    match Cli::parse().command {
        Command::Demo(args) => demo::main(&args),
        Command::Run(args) => run::main(*args),
        Command::Up(args) => up::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Record(args) => doctor::record::main(&args),
        Command::Top(args) => doctor::top::main(&args),
        Command::Tune(args) => tune::main(args),
        Command::Show(args) if args.host => doctor::show::main(&args),
        Command::Show(args) => show::main(args),
        Command::Get(args) => show::get(args),
        Command::Set(args) => show::set(args),
        Command::Explain(args) => explain::main(args),
        Command::Replay(args) => replay::main(args),
        Command::Capture(args) => capture::main(&args),
        Command::Whatif(args) => whatif::main(&args),
        Command::Completions(args) => pages::completions(&args),
        Command::Man(args) => pages::man(&args),
        Command::Bench(BenchCommand::All(args)) => bench::all::main(&args),
        Command::Bench(BenchCommand::Tun(args)) => bench::tun::main(&args),
        Command::Bench(BenchCommand::Run(args)) => bench::run::main(args),
        Command::Bench(BenchCommand::Path(args)) => bench::path::main(&args),
        Command::Bench(BenchCommand::TcpScale(args)) => bench::scale::main(&args),
        Command::Bench(BenchCommand::Devices(args)) => bench::devices::main(&args),
        Command::Bench(BenchCommand::Steering(args)) => bench::steering::main(&args),
        Command::Bench(BenchCommand::Livelock(args)) => bench::livelock::main(&args),
        Command::Bench(BenchCommand::Bufferbloat(args)) => bench::bufferbloat::main(&args),
        Command::Bench(BenchCommand::Host(args)) => bench::host::main(&args),
        Command::Traffic(args) => bench::traffic::main(args),
    }
}

/// Prints to standard output. A reader that has gone (`| head`) is no failure of ours.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a JSON value, indented, with a line end.
fn print_json(value: &impl serde::Serialize) {
    let mut text = serde_json::to_string_pretty(value).expect("our values have text keys");
    text.push('\n');
    print(&text);
}
