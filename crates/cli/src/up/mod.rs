//! `linerate up`: services on a stack of our own, on a network interface.
//!
//! One worker with one shard for each queue of the interfaces. The main thread waits for signals and
//! for whoever asks on the control socket, and never stands in the way of a packet.

pub mod args;
mod backend;
mod changes;
mod config;
mod control;
#[cfg(test)]
mod faults;
mod file;
mod follow;
mod instance;
mod reload;
mod resize;
mod rights;
mod serve;

use std::io;
use std::process::ExitCode;

use config::Config;
use instance::{Ended, Up};

use args::UpArgs;

use crate::args::Report;
use crate::{print, report};

/// Exit status for a configuration that is wrong.
const USAGE: u8 = 2;

/// Runs until it is told to end.
pub fn main(args: &UpArgs) -> ExitCode {
    let config = match Config::read(args) {
        Ok(config) => config,
        Err(why) => {
            eprintln!("linerate up: {why}");
            return ExitCode::from(USAGE);
        }
    };
    if args.check {
        print(&format!("good: {}\n", config.summary()));
        return ExitCode::SUCCESS;
    }
    match run(args, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("linerate up: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &UpArgs, config: Config) -> Result<(), String> {
    let mut up = Up::start(config)?;
    eprint!("{}", up.start_line());
    let ended =
        up.run(&mut |up| reload(up, args)).map_err(|e| format!("cannot wait for events: {e}"))?;
    let snapshot = up.snapshot(0);
    let stopped = up.stop();
    match args.report {
        Report::None => {}
        Report::Text => eprint!("{}", report::path(&snapshot, report::Style::of(&io::stderr()))),
        Report::Json => match serde_json::to_string(&snapshot) {
            Ok(text) => eprintln!("{text}"),
            Err(e) => eprintln!("linerate up: the report cannot be written: {e}"),
        },
    }
    match ended {
        Ended::Signal => stopped,
        Ended::Failed(why) => Err(why),
    }
}

/// SIGHUP: the file is read again. What is wrong with it is said, and all stays as it was.
fn reload(up: &mut Up, args: &UpArgs) {
    let done = match &args.config {
        None => Err("there is no file to read again: it was started without --config".to_owned()),
        Some(_) => Config::read(args).and_then(|config| reload::apply(up, config)),
    };
    match done {
        Ok(what) => eprintln!("linerate up: reloaded: {what}"),
        Err(why) => eprintln!("linerate up: not reloaded: {why}"),
    }
}
