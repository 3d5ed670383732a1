//! `linerate up`: services on a stack of our own, on a network interface.
//!
//! One worker with one shard for each queue of the interfaces. The main thread waits for signals and
//! for whoever asks on the control socket, and never stands in the way of a packet.

mod backend;
mod config;
mod control;
mod file;
mod instance;
mod serve;

use std::io;
use std::process::ExitCode;

use config::Config;
use instance::{Ended, Up};

use crate::args::{Report, UpArgs};
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
    let ended = up.run(&mut |_| {}).map_err(|e| format!("cannot wait for events: {e}"))?;
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
        Ended::Signal(_) => stopped,
        Ended::Failed(why) => Err(why),
    }
}
