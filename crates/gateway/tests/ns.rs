//! `ns` from outside: a small runner (this binary again) starts real programs in real namespaces,
//! as root and as an ordinary user, with a TUN and without.
//!
//! It has its own `main` because the helpers re-execute the binary that started them. What the
//! machine lacks is printed as `SKIP name: reason` and counted; with `LINERATE_SKIP=deny` it fails.
#![forbid(unsafe_code)]

#[path = "ns/bench.rs"]
mod bench;
#[path = "ns/cases.rs"]
mod cases;
#[path = "ns/runner.rs"]
mod runner;

use linerate_gateway::ns;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = ns::dispatch_hidden() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == runner::ARGUMENT) {
        return runner::main(&args[1..]);
    }
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let names = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let list = args.iter().any(|arg| arg == "--list");
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    let setups = if list { Vec::new() } else { bench::Setup::all() };
    for case in cases::CASES {
        if list {
            println!("{}: test", case.name);
            continue;
        }
        for setup in setups.iter().filter(|setup| (case.on)(setup)) {
            let name = format!("{} [{}]", case.name, setup.name);
            if !names(&name) {
                continue;
            }
            let outcome = match &setup.lacks {
                Some(why) => Ok(Err(bench::Skip(why.clone()))),
                None => catch_unwind(AssertUnwindSafe(|| (case.run)(setup))),
            };
            match outcome {
                Ok(Ok(())) => {
                    println!("test {name} ... ok");
                    passed += 1;
                }
                Ok(Err(bench::Skip(why))) => {
                    println!("SKIP {name}: {why}");
                    skipped += 1;
                    if std::env::var("LINERATE_SKIP").as_deref() == Ok("deny") {
                        failed.push(name);
                    }
                }
                Err(_) => {
                    println!("test {name} ... FAILED");
                    failed.push(name);
                }
            }
        }
    }
    if list {
        return ExitCode::SUCCESS;
    }
    bench::Setup::clean();
    println!("\ntest result: {passed} passed; {} failed; {skipped} skipped", failed.len());
    for name in &failed {
        println!("failed: {name}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
