//! `linerate demo`: real traffic through the path with nothing to set up, and the lesson.
//!
//! A kernel TCP client in a namespace downloads, uploads and ping-pongs with an HTTP server on the
//! host, by way of the stack and the gateway, as under `linerate run`. Where the machine grants no
//! namespace or no device, two stacks talk over a wire in memory instead, and the output says so.

mod figures;
mod http;
mod memory;
mod pattern;
mod tour;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use linerate_gateway::config::Config;
use linerate_gateway::ns::{self, Inherited};

use crate::args::DemoArgs;
use crate::report;
use crate::run::{Instance, Setup, StartError, plan};
use figures::Demo;

/// First argument that makes our binary the demo's client.
const CLIENT: &str = "__demo-client";

/// The largest packet on the demo's link, in bytes: as `run` has it.
const MTU: u32 = 65520;

/// Runs the demo's client if this process was started as one.
pub fn dispatch_hidden() -> Option<ExitCode> {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let [_, role, addr, millis] = &args[..] else { return None };
    if role != CLIENT {
        return None;
    }
    let (Ok(addr), Ok(millis)) = (addr.parse(), millis.parse()) else {
        eprintln!("linerate: {CLIENT} is for linerate's own use");
        return Some(ExitCode::from(2));
    };
    Some(match http::client(addr, Duration::from_millis(millis)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("linerate demo: the client failed: {e}");
            ExitCode::FAILURE
        }
    })
}

/// Runs the demo, or the lesson.
pub fn main(args: &DemoArgs) -> ExitCode {
    if args.tour {
        return tour::main(args.json);
    }
    let time = Duration::from_secs_f64(args.secs);
    let demo = match namespaces(time) {
        Err(Failed::Missing(missing)) => {
            if !args.json {
                eprintln!("linerate demo: {missing}");
            }
            in_memory(time, missing)
        }
        Err(Failed::Broken(why)) => Err(why),
        Ok(demo) => Ok(demo),
    };
    let demo = match demo {
        Ok(demo) => demo,
        Err(why) => {
            eprintln!("linerate demo: {why}");
            return ExitCode::FAILURE;
        }
    };
    if args.json {
        crate::print_json(&demo);
    } else {
        crate::print(&demo.text(report::Style::of(&io::stdout())));
    }
    if demo.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why the real thing did not run.
enum Failed {
    /// The machine does not grant what it needs.
    Missing(String),
    /// It should have run.
    Broken(String),
}

fn broken<E: std::fmt::Display>(doing: &'static str) -> impl FnOnce(E) -> Failed {
    move |e| Failed::Broken(format!("{doing}: {e}"))
}

/// A kernel client in a namespace, a server on the host.
fn namespaces(time: Duration) -> Result<Demo, Failed> {
    let inherited = Inherited::capture().map_err(broken("cannot read the signal mask"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.map_err(broken("cannot listen on 127.0.0.1"))?;
    let port = listener.local_addr().map_err(broken("cannot listen on 127.0.0.1"))?.port();
    // The gateway's address leads to the host's loopback. The only program inside is our own.
    let gateway = Config { mtu: MTU, host_loopback: true, ..Config::default() };
    let server = SocketAddr::new(gateway.v4.gateway.into(), port);
    let us = std::env::current_exe().map_err(broken("cannot find our own program"))?;
    let words = [CLIENT.to_owned(), server.to_string(), time.as_millis().to_string()];
    let program = std::iter::once(us.into()).chain(words.map(Into::into)).collect();
    let setup = Setup {
        plan: plan(program, inherited, &gateway),
        gateway,
        qdiscs: (None, None),
        xdp: None,
        settings: Vec::new(),
        name: format!("demo-{}", std::process::id()),
        name_wanted: false,
        pcap: None,
    };
    let mut instance = Instance::start(setup).map_err(|e| match e {
        StartError::Namespaces(why) => Failed::Missing(format!("no namespaces: {why}")),
        StartError::Device(why) => Failed::Missing(format!("no device: {why}")),
        StartError::Other(why) => Failed::Broken(why),
    })?;
    let (to, result) = mpsc::channel();
    // After the namespace was made: its helper is started from a process with one thread.
    thread::spawn(move || http::serve(listener, to));
    let exit = instance.run().map_err(broken("the loop failed"))?;
    let path = instance.snapshot();
    instance.end();
    let traffic = match (exit, result.try_recv()) {
        (ns::Exit::Code(0), Ok(traffic)) => traffic,
        (exit, _) => return Err(Failed::Broken(format!("the client did not finish: {exit:?}"))),
    };
    let device = instance.device();
    let setting =
        format!("kernel TCP client → {device}, mtu {MTU} → linerate → HTTP server on the host");
    Ok(Demo::new(setting, None, traffic, vec![path]))
}

/// Two stacks in this process.
fn in_memory(time: Duration, missing: String) -> Result<Demo, String> {
    let (traffic, path) = memory::run(time).map_err(|e| format!("two stacks in memory: {e}"))?;
    let setting =
        "linerate → a wire in memory → linerate: two stacks, no kernel at either end".to_owned();
    Ok(Demo::new(setting, Some(missing), traffic, path))
}
