//! The gateway from outside: real programs in real namespaces, whose network it is.
//!
//! The test makes two network namespaces of its own, a host and an Internet, joined by a veth pair;
//! nothing leaves the machine. It has its own `main` because the helper processes re-execute the
//! binary that they were started from: as the gateway, as the servers of the Internet, and as the
//! program inside. What the machine lacks is printed as `SKIP name: reason` and counted.
#![forbid(unsafe_code)]

#[path = "relay/cases.rs"]
mod cases;
#[path = "relay/client.rs"]
mod client;
#[path = "relay/floods.rs"]
mod floods;
#[path = "relay/runner.rs"]
mod runner;
#[path = "relay/server.rs"]
mod server;
#[path = "relay/world.rs"]
mod world;

use linerate_gateway::ns;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode, Stdio};

/// Why a case cannot run here.
pub struct Skip(pub String);

/// What a case comes to if it does not fail.
pub type Outcome = Result<(), Skip>;

fn main() -> ExitCode {
    if let Some(code) = ns::dispatch_hidden() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("run") => return runner::main(&args[1..]),
        Some("serve") => server::main(&args[1..]),
        Some("client") => return client::main(&args[1..]),
        Some("cases") => return all(&args[1..]),
        _ => {}
    }
    if args.iter().any(|arg| arg == "--list") {
        cases::CASES.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let root = nix::unistd::Uid::effective().is_root();
    let unshare = |program: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(if root { &["--net"][..] } else { &["--net", "--map-root-user"] });
        command.arg("--").args(program);
        command
    };
    let probe = unshare(&["ip", "link", "set", "lo", "up"]).stderr(Stdio::piped()).output();
    let lacks = match probe {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(err) => Some(format!("unshare (util-linux) and ip (iproute2) are needed: {err}")),
    };
    if let Some(why) = lacks {
        cases::CASES.iter().for_each(|(name, _)| println!("SKIP {name}: {why}"));
        println!("\ntest result: 0 passed; 0 failed; {} skipped", cases::CASES.len());
        return if deny() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let own = std::env::current_exe().expect("our path");
    let mut words = vec![own.to_str().expect("a UTF-8 path"), "cases"];
    words.extend(args.iter().map(String::as_str));
    let status = unshare(&words).status().expect("running unshare");
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

/// Whether what the machine lacks makes tests fail, as in `.ci/run`.
fn deny() -> bool {
    std::env::var("LINERATE_SKIP").as_deref() == Ok("deny")
}

/// In the namespace of the host.
fn all(args: &[String]) -> ExitCode {
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for backend in ["tun", "packet"] {
        let world = match world::World::make(backend) {
            Ok(world) => world,
            Err(Skip(why)) => {
                for (name, _) in cases::CASES {
                    println!("SKIP {name} [{backend}]: {why}");
                    skipped += 1;
                    failed.extend(deny().then(|| format!("{name} [{backend}]")));
                }
                continue;
            }
        };
        for (case, run) in cases::CASES {
            let name = format!("{case} [{backend}]");
            if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
                continue;
            }
            match catch_unwind(AssertUnwindSafe(|| run(&world))) {
                Ok(Ok(())) => {
                    println!("test {name} ... ok");
                    passed += 1;
                }
                Ok(Err(Skip(why))) => {
                    println!("SKIP {name}: {why}");
                    skipped += 1;
                    failed.extend(deny().then_some(name));
                }
                Err(_) => {
                    println!("test {name} ... FAILED");
                    failed.push(name);
                }
            }
        }
    }
    println!("\ntest result: {passed} passed; {} failed; {skipped} skipped", failed.len());
    failed.iter().for_each(|name| println!("failed: {name}"));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
