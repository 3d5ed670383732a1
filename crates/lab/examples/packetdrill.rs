//! Runs scripts by hand: `packetdrill [--kernel] [--learn] [--windows] FILE…`.
//!
//! Without options against our stack in virtual time; `--kernel` against the running kernel (root);
//! `--learn` prints the script anew with what the stack did.

use linerate_lab::packetdrill::{Rules, learn, load, on_kernel, on_linerate};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (flags, files): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let mut rules = if has("--kernel") { Rules::KERNEL } else { Rules::EXACT };
    rules.learn_windows = has("--windows");
    let mut failed = 0;
    for path in files.iter().map(PathBuf::from) {
        let script = match load(&path) {
            Ok(script) => script,
            Err(err) => {
                eprintln!("{err}");
                failed += 1;
                continue;
            }
        };
        let outcome = if has("--learn") {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            learn(&script, &text, rules).map(|text| print!("{text}"))
        } else if has("--kernel") {
            on_kernel(&script, rules).map(|_| ())
        } else {
            on_linerate(&script, rules).map(|_| ())
        };
        match outcome {
            Err(failure) => {
                eprintln!("{failure}");
                failed += 1;
            }
            Ok(()) if !has("--learn") => println!("{}: ok", path.display()),
            Ok(()) => {}
        }
    }
    eprintln!("{} scripts, {failed} failed", files.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
