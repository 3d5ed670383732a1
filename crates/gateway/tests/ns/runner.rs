//! What `linerate run` does, without a stack.

use linerate_gateway::ns::{self, Backend, Device, Event, Inherited, Plan};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

/// First argument that makes the test binary the runner.
pub const ARGUMENT: &str = "run";

/// Exit status for a program that could not be started.
pub const NOT_STARTED: u8 = 125;

/// `run [OPTIONS] -- PROGRAM…`. Appends one line an event to the file `NS_TEST_EVENTS` names.
pub fn main(args: &[String]) -> ExitCode {
    let inherited = Inherited::capture().expect("reading the signal mask");
    let split = args.iter().position(|arg| arg == "--").expect("`--` before the program");
    let program = args[split + 1..].iter().map(Into::into).collect();
    let mut plan = Plan::new(program, inherited);
    let mut sniff = false;
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
            "--sniff" => sniff = true,
            other => panic!("unknown option {other}"),
        }
    }
    let log = std::env::var_os("NS_TEST_EVENTS")
        .map(|path| OpenOptions::new().append(true).create(true).open(path).expect("the log"));
    let say = |text: String| {
        if let Some(mut log) = log.as_ref() {
            log.write_all(format!("{text}\n").as_bytes()).expect("writing the log");
        }
    };
    let (mut spawned, device) = match ns::spawn(&plan) {
        Ok(spawned) => spawned,
        Err(err) => {
            eprintln!("runner: {err}");
            return ExitCode::from(NOT_STARTED);
        }
    };
    say(format!("Backend {:?}", device.backend));
    if device.backend == Backend::Packet {
        // Works from here although the interface is in a namespace of its own.
        linerate_dev::sys::packet::bind(&device.fd, device.far_index).expect("binding");
    }
    spawned.go().expect("starting the program");
    if sniff {
        say(format!("Frame {}", hex(&first_ipv4_or_arp(device))));
    }
    loop {
        let event = spawned.wait_event().expect("an event");
        say(format!("{event:?}"));
        if matches!(event, Event::Drained | Event::Gone | Event::Interrupted(_)) {
            break;
        }
    }
    let exit = spawned.exit().expect("an exit status");
    drop(spawned);
    ExitCode::from(exit.code())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first IPv4 packet (TUN, after its 10-byte `virtio_net_hdr`) or ARP request (packet socket)
/// that comes out of the device; what else the kernel sends by itself is passed over.
fn first_ipv4_or_arp(device: Device) -> Vec<u8> {
    let backend = device.backend;
    let mut file = File::from(device.fd);
    let mut frame = vec![0; 2048];
    loop {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).expect("polling the device");
        let len = file.read(&mut frame).expect("reading the device");
        let wanted = match backend {
            Backend::Tun => frame[10] >> 4 == 4,
            _ => frame[12..14] == [8, 6],
        };
        if wanted {
            return frame[..len].to_vec();
        }
    }
}
