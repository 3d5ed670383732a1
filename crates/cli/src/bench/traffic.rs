//! The ends of the traffic and the commands they take, one JSON object a line on standard input,
//! one answer a line on standard output: the same two programs for every tool, so that only what is
//! between them differs.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{devices, host_end, inside, program_end, relay};

/// Congestion control of every traffic socket, both ends.
pub const CONGESTION: &str = "cubic";
/// Where the kernel keeps cubic from a program without rights: reno is permitted everywhere.
pub const CONGESTION_UNRESTRICTED: &str = "reno";
/// Bytes of one request and of one reply of the ping-pong.
pub const PING_BYTES: usize = 64;
/// Bytes given to one `read` or `write` of the throughput cases.
pub const CHUNK_BYTES: usize = 128 * 1024;

/// The ports of the host end. They are fixed: the network namespace is ours alone.
pub mod port {
    /// Reads and counts.
    pub const SINK: u16 = 5001;
    /// Writes until the peer closes.
    pub const SOURCE: u16 = 5002;
    /// Returns what it reads, [`PING_BYTES`](super::PING_BYTES) at a time.
    pub const ECHO: u16 = 5003;
    /// Accepts, writes one byte and closes.
    pub const BYTE: u16 = 5004;
    /// Accepts, writes one byte and keeps the connection.
    pub const IDLE: u16 = 5005;
    /// As [`ECHO`], by a socket that polls its device before it sleeps.
    pub const ECHO_BUSY: u16 = 5006;
    /// sockperf, TCP and UDP.
    pub const SOCKPERF: u16 = 11111;
    /// All of TCP.
    pub const ALL: [u16; 7] = [SINK, SOURCE, ECHO, BYTE, IDLE, ECHO_BUSY, SOCKPERF];
    /// UDP: takes and acknowledges datagrams.
    pub const UDP_SINK: u16 = 5001;
    /// UDP: sends them to whoever asks.
    pub const UDP_SOURCE: u16 = 5002;
}

/// Arguments of the hidden command `linerate __traffic`.
#[derive(clap::Args, Debug)]
pub struct TrafficArgs {
    /// Which part to play.
    #[command(subcommand)]
    pub part: Part,
}

/// What this process is to be in a measurement.
#[derive(clap::Subcommand, Debug)]
pub enum Part {
    /// The server, on the host side.
    Host {
        /// CPU to stay on.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// The client, in the place of the program.
    Program {
        /// CPU to stay on.
        #[arg(long)]
        cpu: Option<usize>,
        /// Enter a new network namespace first, for a tool that attaches to an existing one.
        #[arg(long)]
        unshare: bool,
    },
    /// The kernel's ceiling: reads from one kernel TCP connection, writes to another.
    Relay {
        /// Address to listen on, at every port of the host end.
        #[arg(long)]
        listen: IpAddr,
        /// Address of the host end.
        #[arg(long)]
        to: IpAddr,
        /// Address of the program, to whose web server a port of the loopback leads.
        #[arg(long)]
        program: IpAddr,
    },
    /// The peer made of Rust's crates.
    #[cfg(feature = "bench-peers")]
    Tun2socks {
        /// The network namespace of the program, as a file.
        #[arg(long)]
        netns: std::path::PathBuf,
        /// The MTU of its TUN, bytes.
        #[arg(long)]
        mtu: u16,
    },
    /// Executes a command on one CPU.
    Pinned {
        /// It is killed when the process that started it ends.
        #[arg(long)]
        with_parent: bool,
        /// CPU to stay on.
        #[arg(long)]
        cpu: Option<usize>,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Sends datagrams as fast as it goes, for `bench devices`.
    Generator {
        /// CPU to stay on.
        #[arg(long)]
        cpu: Option<usize>,
        /// Bytes of payload.
        #[arg(long, default_value_t = 18)]
        payload: u16,
    },
    /// The measurement itself, as PID 1 of its own namespaces.
    Inside {
        /// The settings as JSON.
        settings: String,
    },
}

/// Plays the part; the exit code is 0 unless it could not begin.
pub fn main(args: TrafficArgs) -> ExitCode {
    let played = match args.part {
        Part::Host { cpu } => pin(cpu).and_then(|()| host_end::serve()),
        Part::Generator { cpu, payload } => {
            pin(cpu).and_then(|()| devices::generator::serve(payload))
        }
        Part::Program { cpu, unshare } => pin(cpu).and_then(|()| program_end::serve(unshare)),
        Part::Relay { listen, to, program } => relay::serve(listen, to, program),
        #[cfg(feature = "bench-peers")]
        Part::Tun2socks { netns, mtu } => super::tun2socks::serve(&netns, mtu),
        Part::Pinned { with_parent, cpu, command } => {
            let bound = if with_parent { die_with_parent() } else { Ok(()) };
            bound.and_then(|()| pin(cpu)).and_then(|()| exec(&command))
        }
        Part::Inside { settings } => return inside::main(&settings),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("linerate __traffic: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A request to one end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Ask {
    /// Program: try the addresses until the echo port of one answers. → [`Answer::Reached`]
    Reach {
        /// Addresses of the host end, as the program may know it.
        to: Vec<IpAddr>,
    },
    /// Host: bytes of connections accepted from now on are counted from zero. → [`Answer::Done`]
    Arm,
    /// Host: wait for the first byte, leave out the warm-up, count. → [`Answer::Bytes`]
    Count(Window),
    /// Program: send on `streams` connections to the sink for the whole window and a little longer.
    /// → [`Answer::Sent`]
    Send {
        /// Address of the host end.
        to: IpAddr,
        /// Number of connections.
        streams: usize,
        /// `SO_SNDBUF` in bytes, or the kernel's own tuning.
        sndbuf_bytes: Option<usize>,
        /// How long.
        window: Window,
    },
    /// Program: read from `streams` connections to the source, count. → [`Answer::Bytes`]
    Receive {
        /// Address of the host end.
        to: IpAddr,
        /// Number of connections.
        streams: usize,
        /// How long.
        window: Window,
    },
    /// Program: one connection, [`PING_BYTES`] there and back, one at a time. →
    /// [`Answer::RoundTrips`]
    PingPong {
        /// Address of the host end.
        to: IpAddr,
        /// The sockets of both ends poll their devices before they sleep.
        busy: bool,
        /// How long.
        window: Window,
    },
    /// Program: send a UDP flow to the host end. → [`Answer::Bytes`]
    SendDatagrams {
        /// Address of the host end.
        to: IpAddr,
        /// How long.
        window: Window,
    },
    /// Program: have the host end send a UDP flow. → [`Answer::Bytes`]
    ReceiveDatagrams {
        /// Address of the host end.
        to: IpAddr,
        /// How long.
        window: Window,
    },
    /// Program: sockperf to the host's, for whole seconds. → [`Answer::RoundTrips`]
    Sockperf {
        /// Address of the host end.
        to: IpAddr,
        /// TCP, not UDP.
        tcp: bool,
        /// How long.
        window: Window,
    },
    /// Program: start a web server, which ends with it. → [`Answer::Done`]
    ServeHttp,
    /// Program: switch on NAPI for its end of a veth pair, for busy polling. → [`Answer::Done`]
    Napi {
        /// Name of the interface.
        name: String,
    },
    /// Program: connect, read one byte and the end of the stream, close; `parallel` at a time. →
    /// [`Answer::Count`]
    Connects {
        /// Address of the host end.
        to: IpAddr,
        /// Threads that do it.
        parallel: usize,
        /// How long.
        window: Window,
    },
    /// Program: open connections, read one byte on each, keep them. → [`Answer::Count`]
    Hold {
        /// Address of the host end.
        to: IpAddr,
        /// How many.
        connections: usize,
    },
    /// Both: close the connections kept. → [`Answer::Done`]
    Release,
    /// Program: run `ip` with these arguments in the program's namespace. → [`Answer::Done`]
    Ip {
        /// Arguments.
        args: Vec<String>,
    },
}

/// The answer to an [`Ask`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Sent once, before any request: this end is ready.
    Ready {
        /// Its process id in its own PID namespace.
        pid: u32,
    },
    /// The host end was reached.
    Reached {
        /// At this address.
        to: IpAddr,
    },
    /// It is done.
    Done,
    /// All was sent.
    Sent {
        /// Congestion control the kernel reports for a socket of this end.
        congestion: String,
    },
    /// What a receiver counted.
    Bytes {
        /// Bytes.
        bytes: u64,
        /// Time in which they arrived, ns.
        elapsed_ns: u64,
        /// Congestion control the kernel reports for a socket of this end; empty for UDP.
        congestion: String,
    },
    /// Round trips, each timed.
    RoundTrips {
        /// How many.
        count: u64,
        /// In this time, ns.
        elapsed_ns: u64,
        /// Median, ns.
        p50_ns: u32,
        /// 99th percentile, ns.
        p99_ns: u32,
    },
    /// How many, and how many did not succeed.
    Count {
        /// Successes.
        count: u64,
        /// Failures.
        failed: u64,
        /// In this time, ns.
        elapsed_ns: u64,
    },
    /// It was not possible.
    Failed {
        /// Because.
        why: String,
    },
}

/// A span of time in which something is counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Window {
    /// Left out at the beginning, ms.
    pub warmup_ms: u64,
    /// Counted, ms.
    pub counted_ms: u64,
}

impl Window {
    /// The part left out.
    pub fn warmup(self) -> Duration {
        Duration::from_millis(self.warmup_ms)
    }
    /// The part counted.
    pub fn counted(self) -> Duration {
        Duration::from_millis(self.counted_ms)
    }
    /// Both.
    pub fn whole(self) -> Duration {
        self.warmup() + self.counted()
    }
}

/// What the receiving threads of one case have received so far, bytes.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
}

impl Meter {
    /// Adds what one read returned.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits for the first byte, at most 10 s, leaves out the warm-up and counts.
    ///
    /// # Errors
    /// `TimedOut` if no byte came.
    pub fn count(&self, window: Window) -> io::Result<(u64, u64)> {
        let patience = Instant::now() + Duration::from_secs(10);
        while self.bytes.load(Ordering::Relaxed) == 0 {
            if Instant::now() > patience {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no byte arrived in 10 s"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(window.warmup());
        let (before, start) = (self.bytes.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(window.counted());
        let (after, elapsed) = (self.bytes.load(Ordering::Relaxed), start.elapsed());
        Ok((after - before, nanos(elapsed)))
    }
}

/// Shared between the receiving threads and the one that counts.
pub type SharedMeter = Arc<Meter>;

/// `elapsed` in whole ns; 584 years fit.
pub fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Announces this end, then answers each request until standard input ends.
///
/// # Errors
/// Those of standard input and output.
pub fn answer_requests(mut answer: impl FnMut(Ask) -> io::Result<Answer>) -> io::Result<()> {
    say(&Answer::Ready { pid: std::process::id() })?;
    for line in io::stdin().lock().lines() {
        let answer = serde_json::from_str(&line?)
            .map_err(io::Error::from)
            .and_then(&mut answer)
            .unwrap_or_else(|e| Answer::Failed { why: e.to_string() });
        say(&answer)?;
    }
    Ok(())
}

fn say(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    out.flush()
}

/// A TCP socket as every traffic socket is: cubic where the kernel permits it, buffers tuned by the
/// kernel.
///
/// # Errors
/// That of `socket(2)`. A congestion control that may not be chosen is no error: the answers carry
/// the one in force.
pub fn tcp_socket(addr: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(addr, 0)),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    let _ = socket
        .set_tcp_congestion(CONGESTION.as_bytes())
        .or_else(|_| socket.set_tcp_congestion(CONGESTION_UNRESTRICTED.as_bytes()));
    Ok(socket)
}

/// Connects to the host end; a wait for the peer longer than 5 s is an error, here and in later
/// reads and writes.
///
/// # Errors
/// Those of `socket(2)` and `connect(2)`.
pub fn connect(to: IpAddr, port: u16, sndbuf_bytes: Option<usize>) -> io::Result<TcpStream> {
    let socket = tcp_socket(to)?;
    if let Some(bytes) = sndbuf_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    socket.set_write_timeout(Some(Duration::from_secs(5)))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(&SocketAddr::new(to, port).into())?;
    Ok(socket.into())
}

/// The congestion control in force on `stream`.
pub fn congestion_of(stream: &TcpStream) -> String {
    let name = SockRef::from(stream).tcp_congestion().unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
}

/// Microseconds for which a socket of the busy ping-pong polls its device before it sleeps.
const BUSY_POLL_US: u32 = 100;

/// Has a socket poll its device before it sleeps, if its device can be polled.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn poll_busily(stream: &TcpStream) -> io::Result<()> {
    linerate_dev::netdev::set_busy_poll(stream, BUSY_POLL_US)
}

/// Asks the kernel to kill this process, whatever it executes, when the one that started it ends.
fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

/// Keeps this process, and what it starts, on one CPU.
fn pin(cpu: Option<usize>) -> io::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn exec(command: &[OsString]) -> io::Result<()> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let e = Command::new(program).args(args).exec();
    Err(io::Error::new(e.kind(), format!("{}: {e}", program.display())))
}
