//! `ns` from outside: a small runner (this binary again) starts real programs in real namespaces,
//! as root and as an ordinary user, with a TUN and without.
//!
//! It has its own `main` because the helpers re-execute the binary that started them. What the
//! machine lacks is printed as `SKIP name: reason` and counted.

use linerate_gateway::ns::{self, Backend, Event, Inherited, Plan};
use std::process::ExitCode;

/// First argument that makes this binary the runner.
const RUNNER: &str = "run";

fn main() -> ExitCode {
    if let Some(code) = ns::dispatch_hidden() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == RUNNER) {
        return runner(&args[1..]);
    }
    ExitCode::SUCCESS
}

/// `run [--backend tun|packet] [--tun PATH] [--no-pidns] [--hostname NAME] [--no-v6] -- PROGRAM…`:
/// what `linerate run` does, without a stack. Prints events to the file in `NS_TEST_EVENTS`.
fn runner(args: &[String]) -> ExitCode {
    let inherited = Inherited::capture().expect("reading the signal mask");
    let split = args.iter().position(|arg| arg == "--").expect("`--` before the program");
    let program = args[split + 1..].iter().map(Into::into).collect();
    let mut plan = Plan::new(program, inherited);
    let mut options = args[..split].iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().expect("an option's value").clone();
        match option.as_str() {
            "--backend" => {
                plan.backend = match value().as_str() {
                    "tun" => Backend::Tun,
                    "packet" => Backend::Packet,
                    other => panic!("unknown backend {other}"),
                }
            }
            "--tun" => plan.tun_path = value().into(),
            "--hostname" => plan.hostname = Some(value()),
            "--no-pidns" => plan.pid_namespace = false,
            "--no-v6" => plan.v6 = None,
            "--subids" => plan.user = ns::UserMode::SubIds,
            other => panic!("unknown option {other}"),
        }
    }
    let mut log = std::env::var_os("NS_TEST_EVENTS")
        .map(|path| std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap());
    let mut say = |text: String| {
        use std::io::Write;
        if let Some(log) = &mut log {
            writeln!(log, "{text}").unwrap();
        }
    };
    let (mut spawned, device) = match ns::spawn(&plan) {
        Ok(spawned) => spawned,
        Err(err) => {
            eprintln!("runner: {err}");
            return ExitCode::from(125);
        }
    };
    say(format!(
        "Device {:?} {} {:?} {} {:?}",
        device.backend, device.index, device.mac, device.far_index, device.far_mac
    ));
    spawned.go().expect("starting the program");
    loop {
        let event = spawned.wait_event().expect("an event");
        say(format!("{event:?}"));
        match event {
            Event::Drained | Event::Gone | Event::Interrupted(_) => break,
            _ => {}
        }
    }
    let exit = spawned.exit().expect("an exit status");
    drop(spawned);
    ExitCode::from(exit.code())
}
