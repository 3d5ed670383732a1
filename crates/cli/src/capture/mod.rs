//! `linerate capture`: packets of a running instance, into a file or onto the terminal.

pub mod args;
mod file;
mod read;
mod text;

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use linerate_core::tap::Head;
use linerate_gateway::control::capture::VERSION;
use linerate_gateway::control::{CaptureRequest, Captured, Client, ClientError, Next};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use args::{At, CaptureArgs};
use file::File;

/// Why a capture did not come about, or ended: an exit status and a sentence.
struct Failure(u8, String);

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Failure {
        let usage = matches!(e, ClientError::Several(_) | ClientError::Unknown { .. });
        Failure(if usage { 2 } else { 1 }, e.to_string())
    }
}

/// `linerate capture`.
pub fn main(args: &CaptureArgs) -> ExitCode {
    match capture(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, why)) => {
            if !why.is_empty() {
                eprintln!("linerate capture: {why}");
            }
            ExitCode::from(code)
        }
    }
}

fn capture(args: &CaptureArgs) -> Result<(), Failure> {
    let wanted = request(args);
    // What is wrong with the words is said without an instance.
    let spec = wanted.compile().map_err(|why| Failure(2, why))?;
    if let Some(path) = &args.read {
        return read::read(args, path, &spec.filter);
    }
    let client = Client::connect(args.name.as_deref())?;
    let name = client.name().to_owned();
    // Before the capture begins: a file that can not be written costs nobody anything.
    let mut sink = Sink::open(args)?;
    let signals = signals().map_err(|e| Failure(1, format!("cannot receive signals: {e}")))?;
    let mut captured = match client.capture(&wanted)? {
        Ok(captured) => captured,
        Err(why) => return Err(Failure(1, why)),
    };
    eprintln!("linerate capture: listening on {name}; Ctrl-C ends it");
    let ended = follow(args, &mut captured, &mut sink, &signals);
    let counts = captured.counts;
    let packets = sink.finish(counts)?;
    let why = ended?;
    let plural = if packets == 1 { "" } else { "s" };
    eprintln!("linerate capture: {packets} packet{plural} captured, {} lost to it{why}", counts.1);
    Ok(())
}

fn request(args: &CaptureArgs) -> CaptureRequest {
    let point = |at: &At| match at {
        At::Before => "before",
        At::After => "after",
        At::Drop => "drop",
        At::Sample => "sample",
    };
    CaptureRequest {
        version: VERSION.to_owned(),
        stages: args.stage.clone(),
        points: args.at.iter().map(|at| point(at).to_owned()).collect(),
        direction: args.direction.into(),
        filter: args.filter.clone(),
        snaplen: args.snaplen,
    }
}

/// Takes packets until one side has enough; what is to be said of the end.
fn follow(
    args: &CaptureArgs,
    captured: &mut Captured,
    sink: &mut Sink,
    signals: &SignalFd,
) -> Result<&'static str, Failure> {
    let io = |e: io::Error| Failure(1, format!("the instance can not be heard: {e}"));
    let (mut packets, mut stopping) = (0, false);
    loop {
        if !captured.has_more() {
            sink.flush()?;
            match wait(captured, signals).map_err(io)? {
                Woken::Packets => {}
                Woken::Signal if stopping => return Ok(""),
                Woken::Signal => {
                    stopping = true;
                    // It may have gone already.
                    let _ = captured.stop();
                    continue;
                }
            }
        }
        let devices = std::mem::take(&mut captured.begun.devices);
        let next = match captured.poll_next().map_err(io)? {
            Next::Packet(head, bytes) => {
                let device = devices.get(usize::from(head.dev)).map_or("-", |d| d.as_str());
                sink.packet(device, &head, bytes)?;
                packets += 1;
                None
            }
            Next::Pause => None,
            Next::End(true) if stopping => Some(""),
            Next::End(true) => Some("; the instance has ended"),
            Next::End(false) => Some("; the instance was killed"),
        };
        captured.begun.devices = devices;
        if let Some(why) = next {
            return Ok(why);
        }
        if args.count.is_some_and(|most| packets >= most) {
            return Ok("");
        }
    }
}

enum Woken {
    Packets,
    Signal,
}

fn wait(captured: &Captured, signals: &SignalFd) -> io::Result<Woken> {
    loop {
        let mut fds = [
            PollFd::new(captured.poll_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [packets, signal] = fds.map(|fd| fd.any().unwrap_or(false));
        if signal && signals.read_signal()?.is_some() {
            return Ok(Woken::Signal);
        }
        if packets {
            return Ok(Woken::Packets);
        }
    }
}

fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|s| set.add(s));
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Where packets go.
enum Sink {
    File(Box<File>),
    Text(text::Printer),
}

impl Sink {
    fn open(args: &CaptureArgs) -> Result<Sink, Failure> {
        Ok(match &args.write {
            Some(path) => Sink::File(Box::new(File::create(path, &args.filter)?)),
            None => Sink::Text(text::Printer::default()),
        })
    }

    fn packet(&mut self, device: &str, head: &Head, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Sink::File(file) => file.packet(device, head, bytes),
            Sink::Text(printer) => printer.packet(device, head, bytes),
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Sink::File(file) => file.flush(),
            Sink::Text(printer) => printer.flush(),
        }
    }

    /// Ends it; how many packets went there.
    fn finish(&mut self, counts: (u64, u64)) -> Result<u64, Failure> {
        match self {
            Sink::File(file) => file.finish(counts),
            Sink::Text(printer) => printer.flush().map(|()| printer.printed),
        }
    }
}
