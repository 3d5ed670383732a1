//! What `linerate run` does, with the gateway's limits as options and its counts written to a file.

use linerate_core::shard::Shard;
use linerate_dev::drive::{App, Drive};
use linerate_dev::netdev::Link;
use linerate_dev::packet::{self, Packet};
use linerate_dev::poller::{Event as Ready, Interest, Poller};
use linerate_dev::tun::{self, Tun};
use linerate_gateway::ns::{self, Backend, Event, Inherited, Plan, Spawned};
use linerate_gateway::{Config, Filtering, Gateway};
use std::fmt::Write;
use std::io;
use std::process::ExitCode;

const PROGRAM: u64 = 1;
/// Nanoseconds that the program's end waits for what is under way.
const LINGER: u64 = 300_000_000;

struct Runner {
    gateway: Gateway,
    spawned: Spawned,
    until: Option<u64>,
    done: bool,
}

impl App for Runner {
    fn turn(&mut self, shard: &mut Shard, poller: &Poller, ready: &[Ready]) -> io::Result<bool> {
        for event in ready.iter().filter(|event| event.token == PROGRAM) {
            let _ = event;
            while let Some(event) = self.spawned.next_event()? {
                match event {
                    Event::Drained | Event::Gone if self.until.is_none() => {
                        self.until = Some(shard.net.now.ns() + LINGER);
                        let _ = poller.delete(self.spawned.ready_fd());
                    }
                    Event::Interrupted(_) => self.done = true,
                    _ => {}
                }
            }
        }
        let more = self.gateway.turn(shard, poller, ready)?;
        self.done |= self.until.is_some_and(|end| shard.net.now.ns() >= end);
        Ok(more)
    }

    fn next_timer(&self) -> Option<linerate_core::time::Instant> {
        let end = self.until.map(linerate_core::time::Instant::from_ns);
        [self.gateway.next_timer(), end].into_iter().flatten().min()
    }
}

pub fn main(args: &[String]) -> ExitCode {
    let inherited = Inherited::capture().expect("the signal mask");
    let split = args.iter().position(|arg| arg == "--").expect("`--` before the program");
    let program = args[split + 1..].iter().map(Into::into).collect();
    let mut plan = Plan::new(program, inherited);
    let mut config = Config::default();
    let mut counts_path = None;
    let mut options = args[..split].iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().expect("an option's value").as_str();
        match option.as_str() {
            "--backend" => {
                plan.backend = if value() == "tun" { Backend::Tun } else { Backend::Packet }
            }
            "--counts" => counts_path = Some(value().to_owned()),
            "--host-loopback" => config.host_loopback = true,
            "--resolv" => config.resolv_conf = value().into(),
            "-p" => config.forwards.push(value().parse().expect("a forward")),
            "--filter" => {
                config.filtering = match value() {
                    "none" => Filtering::EndpointIndependent,
                    "port" => Filtering::AddressAndPortDependent,
                    _ => Filtering::AddressDependent,
                }
            }
            "--udp-endpoints" => config.limits.udp_endpoints = value().parse().expect("a number"),
            "--flows" => config.limits.flows = value().parse().expect("a number"),
            "--pending" => config.limits.pending = value().parse().expect("a number"),
            other => panic!("unknown option {other}"),
        }
    }
    let (spawned, device) = match ns::spawn(&plan) {
        Ok(both) => both,
        Err(err) => {
            eprintln!("runner: {err}");
            return ExitCode::from(125);
        }
    };
    let mut seed = [0; 8];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").expect("urandom"), &mut seed)
        .expect("a seed");
    let mut drive = Drive::new(Shard::new(u64::from_ne_bytes(seed))).expect("a loop");
    let setup = |iface: &mut linerate_core::link::Iface| Gateway::setup_iface(&config, iface);
    let dev = if device.backend == Backend::Tun {
        let mut tun = Tun::from_fd(device.fd, &tun::Config::new(&plan.device)).expect("a TUN");
        tun.set_link(plan.mtu, None);
        drive.add_device(Box::new(tun), setup).expect("a device")
    } else {
        let link = Link {
            index: device.far_index,
            name: plan.device.clone(),
            mtu: plan.mtu,
            mac: Some([2, 0, 0, 0, 0x77, 2]),
            txqueuelen: 1000,
            up: true,
            running: true,
        };
        let packet = Packet::attach(device.fd, &link, packet::Config::default()).expect("a socket");
        drive.add_device(Box::new(packet), setup).expect("a device")
    };
    let gateway = match Gateway::new(config, &mut drive.shard, dev, &drive.poller) {
        Ok(gateway) => gateway,
        Err(err) => {
            eprintln!("runner: {err}");
            return ExitCode::from(125);
        }
    };
    drive.poller.add(spawned.ready_fd(), PROGRAM, Interest::READ).expect("watching");
    spawned.go().expect("starting the program");
    let mut runner = Runner { gateway, spawned, until: None, done: false };
    while !runner.done {
        if let Err(err) = drive.turn(&mut runner) {
            if runner.spawned.exit().is_none() {
                eprintln!("runner: {err}");
                return ExitCode::from(125);
            }
            break;
        }
    }
    if let Some(path) = counts_path {
        std::fs::write(path, report(&drive, &runner.gateway)).expect("writing the counts");
    }
    for note in runner.gateway.take_notes() {
        eprintln!("note: {note}");
    }
    let unaccounted = drive.shard.net.counts.unaccounted();
    assert!(unaccounted.is_empty(), "packets are unaccounted for: {unaccounted:?}");
    runner.spawned.exit().map_or(ExitCode::from(1), |exit| ExitCode::from(exit.code()))
}

/// Every counter of the gateway, and what a leak would show in.
fn report(drive: &Drive, gateway: &Gateway) -> String {
    let mut text = String::new();
    for (count, n) in gateway.counts().iter() {
        let _ = writeln!(text, "{} {n}", count.name());
    }
    for (why, n) in gateway.counts().denials() {
        let _ = writeln!(text, "{} {n}", why.label());
    }
    let _ = writeln!(text, "flows {}", gateway.tcp_flows());
    let _ = writeln!(text, "endpoints {}", gateway.udp_endpoints());
    let _ = writeln!(text, "small_out {}", drive.shard.net.pool.small_out());
    let _ = writeln!(text, "large_out {}", drive.shard.net.pool.large_out());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|line| line.split_whitespace().next()).unwrap_or("0");
    let _ = writeln!(text, "peak_kib {peak}");
    text
}
