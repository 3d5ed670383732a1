//! `linerate demo`: real traffic through the path with nothing to set up, and the lesson.

mod tour;

use std::process::ExitCode;

use crate::args::DemoArgs;

/// Runs the demo, or the lesson.
pub fn main(args: &DemoArgs) -> ExitCode {
    if args.tour {
        return tour::main(args.json);
    }
    eprintln!("linerate demo: only `--tour` is part of this build yet");
    ExitCode::FAILURE
}
