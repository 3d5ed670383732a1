//! Goal: real programs do real work through `linerate run`, over IPv4 and IPv6, on a TUN and on a
//! packet socket, as root and as an ordinary user; what goes wrong outside reaches them as the error
//! that the kernel would give, and nothing that they do harms linerate or outlives it.
//! Method: the real binary in a namespace that stands for the host, joined by a veth pair to another
//! that stands for the Internet, with nginx, iperf3, Python and servers of this file in both; the
//! programs inside are curl, ping, dig, socat, iperf3, nginx, Python and clients of this file.
//!
//! It has its own `main` because it re-executes itself: in the host's namespace, as servers, and as
//! the program inside. What the machine lacks is printed as `SKIP name: reason` and counted.
#![forbid(unsafe_code)]

#[path = "clients/client.rs"]
mod client;
#[path = "clients/dns.rs"]
mod dns;
#[path = "clients/errors.rs"]
mod errors;
#[path = "clients/hard.rs"]
mod hard;
#[path = "clients/server.rs"]
mod server;
#[path = "clients/traffic.rs"]
mod traffic;
#[path = "clients/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::Instant;
use world::{Host, Setting, World};

/// Why a case cannot run here.
pub struct Skip(pub String);

/// What a case comes to if it does not fail.
pub type Outcome = Result<(), Skip>;

/// A case, and whether it needs to run but once: what it shows depends on neither user nor device.
type Case = (&'static str, Runs, fn(&World<'_>) -> Outcome);

/// In which settings a case runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runs {
    /// In all.
    All,
    /// Once on each device.
    Devices,
    /// Once.
    Once,
}

const CASES: &[Case] = &[
    ("ping", Runs::All, traffic::ping),
    ("curl", Runs::All, traffic::curl),
    ("publish", Runs::All, traffic::publish),
    ("iperf", Runs::All, traffic::iperf),
    ("dig", Runs::All, dns::dig),
    ("resolver_changes", Runs::Devices, dns::resolver_changes),
    ("no_resolver", Runs::Devices, dns::no_resolver),
    ("refusals", Runs::All, errors::refusals),
    ("policy", Runs::All, errors::policy),
    ("host_loopback", Runs::All, errors::host_loopback),
    ("half_close", Runs::All, errors::half_close),
    ("resets", Runs::Devices, errors::resets),
    ("udp", Runs::All, errors::udp),
    ("recording", Runs::Devices, traffic::recording),
    ("shown_while_running", Runs::Devices, traffic::shown_while_running),
    ("backpressure", Runs::Devices, hard::backpressure),
    ("paused", Runs::Devices, hard::paused),
    ("killed_under_load", Runs::All, hard::killed_under_load),
    ("flood_of_connections", Runs::Devices, hard::flood_of_connections),
    ("flood_of_datagrams", Runs::Devices, hard::flood_of_datagrams),
    ("idle_connections", Runs::Once, hard::idle_connections),
    ("gigabyte", Runs::Once, traffic::gigabyte),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("serve") => server::main(),
        Some("client") => return client::main(&args[1..]),
        Some("cases") => return all(&args[1..]),
        _ => {}
    }
    if args.iter().any(|arg| arg == "--list") {
        CASES.iter().for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let root = world::is_root();
    let unshare = |program: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount"]).args(if root { &[][..] } else { &["--map-root-user"] });
        command.arg("--").args(program);
        command
    };
    let lacks = match unshare(&["ip", "link", "set", "lo", "up"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(err) => Some(format!("unshare (util-linux) and ip (iproute2) are needed: {err}")),
    };
    if let Some(why) = lacks {
        CASES.iter().for_each(|(name, ..)| println!("SKIP {name}: {why}"));
        println!("\ntest result: 0 passed; 0 failed; {} skipped", CASES.len());
        return ExitCode::from(u8::from(world::skips_denied()));
    }
    let own = world::own();
    let mut words = vec![own.as_str(), "cases", if root { "root" } else { "mapped" }];
    words.extend(args.iter().map(String::as_str));
    let status = unshare(&words).status().expect("running unshare");
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

/// In the namespace of the host.
fn all(args: &[String]) -> ExitCode {
    let wanted: Vec<&String> = args[1..].iter().filter(|arg| !arg.starts_with('-')).collect();
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    let host = Host::make();
    let mut seen_devices = Vec::new();
    for (i, setting) in Setting::all(args[0] == "root").iter().enumerate() {
        let new_device = !seen_devices.contains(&setting.backend);
        let world = World::make(&host, setting);
        if world.is_ok() {
            seen_devices.push(setting.backend);
        }
        for (case, runs, run) in CASES {
            let here = match runs {
                Runs::All => true,
                Runs::Devices => new_device,
                Runs::Once => i == 0,
            };
            let name = format!("{case} [{setting}]");
            if !here || !(wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()))) {
                continue;
            }
            let world = match &world {
                Ok(world) => world,
                Err(Skip(why)) => {
                    println!("SKIP {name}: {why}");
                    skipped += 1;
                    continue;
                }
            };
            let begun = Instant::now();
            match catch_unwind(AssertUnwindSafe(|| run(world))) {
                Ok(Ok(())) => {
                    println!("test {name} ... ok ({:.1} s)", begun.elapsed().as_secs_f64());
                    passed += 1;
                }
                Ok(Err(Skip(why))) => {
                    println!("SKIP {name}: {why}");
                    skipped += 1;
                }
                Err(_) => {
                    println!("test {name} ... FAILED");
                    failed.push(name);
                }
            }
        }
    }
    drop(host);
    println!("\ntest result: {passed} passed; {} failed; {skipped} skipped", failed.len());
    failed.iter().for_each(|name| println!("failed: {name}"));
    let good = failed.is_empty() && !(skipped > 0 && world::skips_denied());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
