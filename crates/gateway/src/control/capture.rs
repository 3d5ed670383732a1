//! Captures: the instance's shards copy packets into bounded ports, a thread of its own brings them to
//! the client.
//!
//! On the socket, behind the answer's line, come chunks: how many bytes follow (4 bytes, little-endian;
//! all ones = this is the end), how many packets were captured and how many had no room so far (8
//! bytes each), then whole records ([`Head`](linerate_core::tap::Head) and bytes). The loop never writes to the client: a slow one
//! loses packets, which are counted; one that goes away ends its capture.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use linerate_core::shard::Shard;
use linerate_core::table::Stage;
use linerate_core::table::stage::Dir;
use linerate_core::tap::{Filter, PORT_BYTES, Point, Port, Spec, Stages, TooMany};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

/// Which directions are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// From the devices.
    In,
    /// To the devices.
    Out,
    /// Both.
    #[default]
    Both,
}

/// What a client wants captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// The client's version: records are not the same in all.
    pub version: String,
    /// Names of stages; none: where packets pass between devices and stack.
    #[serde(default)]
    pub stages: Vec<String>,
    /// Names of points; none: before the stage.
    #[serde(default)]
    pub points: Vec<String>,
    /// Which directions.
    #[serde(default)]
    pub direction: Way,
    /// Which packets, in the words of pcap-filter(7).
    #[serde(default)]
    pub filter: String,
    /// Bytes of each packet at the most; 0: all.
    #[serde(default)]
    pub snaplen: u32,
}

/// The version that instance and client must share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Bytes of a packet that are captured, if nobody says otherwise.
pub const SNAPLEN: usize = 256 * 1024;

/// Stages at which packets pass a capture.
pub fn stages() -> impl Iterator<Item = Stage> {
    Stage::ALL.iter().copied().filter(|s| !matches!(s, Stage::Irq | Stage::Tap))
}

impl CaptureRequest {
    /// The request as the stack takes it.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it (EINVAL).
    pub fn compile(&self) -> Result<Spec, String> {
        if self.version != VERSION {
            let theirs = &self.version;
            return Err(format!("this instance is of version {VERSION}, the client of {theirs}"));
        }
        let mut wanted = Vec::new();
        for name in &self.stages {
            if name.eq_ignore_ascii_case("all") {
                wanted.extend(stages());
                continue;
            }
            match stages().find(|s| s.name().eq_ignore_ascii_case(name)) {
                Some(stage) => wanted.push(stage),
                None => return Err(unknown(name)),
            }
        }
        if wanted.is_empty() {
            wanted = vec![Stage::Ring, Stage::Xmit];
        }
        let way = |stage: &Stage| match self.direction {
            Way::Both => true,
            Way::In => stage.row().dir == Dir::Rx,
            Way::Out => stage.row().dir == Dir::Tx,
        };
        let first = wanted[0].name();
        wanted.retain(way);
        if wanted.is_empty() {
            let names: Vec<&str> = stages().filter(|s| way(s)).map(Stage::name).collect();
            return Err(format!(
                "{first} lies on the other way: that way are {}",
                names.join(", ")
            ));
        }
        let mut points = [false; 4];
        for name in &self.points {
            match Point::by_name(name) {
                Some(point) => points[point as usize] = true,
                None => return Err(format!("{name:?} is no point: before, after, drop, sample")),
            }
        }
        if self.points.is_empty() {
            points[Point::Before as usize] = true;
        }
        let filter = Filter::compile(&self.filter).map_err(|e| e.to_string())?;
        let snaplen = if self.snaplen == 0 { SNAPLEN } else { self.snaplen as usize };
        Ok(Spec { stages: Stages::of(&wanted), points, filter, snaplen })
    }
}

fn unknown(name: &str) -> String {
    let names: Vec<&str> = stages().map(Stage::name).collect();
    match Stage::by_name(name) {
        Some(stage) => {
            format!("no packet passes {}: stages are {}", stage.name(), names.join(", "))
        }
        None => format!("no stage is called {name:?}: stages are {}, or all", names.join(", ")),
    }
}

/// The ports of a capture, one for each shard that takes part.
#[derive(Clone, Debug, Default)]
pub struct Ports(Arc<Mutex<Vec<Arc<Port>>>>);

impl PartialEq for Ports {
    fn eq(&self, other: &Ports) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Ports {
    /// One more.
    #[must_use]
    pub fn open(&self) -> Arc<Port> {
        let port = Arc::new(Port::new(PORT_BYTES));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&port));
        port
    }
    fn all(&self) -> Vec<Arc<Port>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Ends the capture.
    pub fn close(&self) {
        self.all().iter().for_each(|port| port.close());
    }
    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.all().iter().any(|port| port.is_closed())
    }
    /// Packets that were captured, and those without room.
    fn counts(&self) -> (u64, u64) {
        let add = |(a, b): (u64, u64), (c, d): (u64, u64)| (a + c, b + d);
        self.all().iter().map(|port| port.counts()).fold((0, 0), add)
    }
}

/// What a client is told when its capture has begun.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Capturing {
    /// The devices, by number.
    pub devices: Vec<String>,
    /// Where the packets come from; only inside of the instance.
    #[serde(skip)]
    pub ports: Ports,
}

/// Begins a capture on one shard.
///
/// # Errors
/// [`TooMany`] (EBUSY).
pub fn begin(shard: &mut Shard, spec: Spec, ports: &Ports) -> Result<(), TooMany> {
    shard.tap(spec, ports.open(), Some(wall_ns))
}

/// The names of a shard's devices.
#[must_use]
pub fn devices(shard: &Shard) -> Vec<String> {
    shard.net.ifaces.iter().map(|iface| iface.name.clone()).collect()
}

/// Nanoseconds since 1970.
fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64
}

/// How often ports are looked at that had nothing.
const LOOK: Duration = Duration::from_millis(10);
/// How long an instance that ends waits for a client that does not read.
const PATIENCE: Duration = Duration::from_secs(2);
/// A write is given up for a look at the world so often.
const WRITE: Duration = Duration::from_millis(100);

/// Bytes of a chunk's head.
pub(super) const CHUNK_HEAD: usize = 20;
/// In place of a length: nothing follows any more.
pub(super) const END: u32 = u32::MAX;

/// A capture that is brought to a client.
#[derive(Debug)]
pub(super) struct Stream {
    thread: Option<JoinHandle<()>>,
    ports: Ports,
    ending: Arc<AtomicBool>,
}

impl Stream {
    /// Begins with `answer`, then sends what the ports give until the client goes, or the instance.
    ///
    /// # Errors
    /// The system has no thread for it; the capture has ended then.
    pub fn start(socket: UnixStream, answer: Vec<u8>, ports: Ports) -> io::Result<Stream> {
        let ending = Arc::new(AtomicBool::new(false));
        let mut sender =
            Sender { socket, ports: ports.clone(), ending: Arc::clone(&ending), patience: None };
        let body = move || {
            // A client that has gone needs no message.
            let _gone = sender.run(&answer);
            sender.ports.close();
        };
        match std::thread::Builder::new().name("capture".to_owned()).spawn(body) {
            Ok(thread) => Ok(Stream { thread: Some(thread), ports, ending }),
            Err(e) => {
                ports.close();
                Err(e)
            }
        }
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.ports.close();
        self.ending.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It gives up a client that does not read.
            let _panicked = thread.join();
        }
    }
}

struct Sender {
    socket: UnixStream,
    ports: Ports,
    ending: Arc<AtomicBool>,
    /// Since when the instance waits for us.
    patience: Option<Instant>,
}

impl Sender {
    fn run(&mut self, answer: &[u8]) -> io::Result<()> {
        self.socket.set_nonblocking(false)?;
        self.socket.set_write_timeout(Some(WRITE))?;
        self.write(answer)?;
        let (mut records, mut told) = (Vec::new(), (0, 0));
        loop {
            // Asked before the last look: what was there then is sent.
            let over = self.ports.is_closed() || self.ending.load(Ordering::Acquire);
            let mut any = false;
            for port in self.ports.all() {
                port.take(&mut records);
                if !records.is_empty() {
                    any = true;
                    told = self.ports.counts();
                    self.chunk(records.len() as u32, told)?;
                    self.write(&records)?;
                }
            }
            if over && !any {
                return self.chunk(END, self.ports.counts());
            }
            if !any && self.ports.counts() != told {
                told = self.ports.counts();
                self.chunk(0, told)?;
            }
            if !over && self.client_ended(if any { Duration::ZERO } else { LOOK })? {
                self.ports.close();
            }
        }
    }

    fn chunk(&mut self, len: u32, (kept, dropped): (u64, u64)) -> io::Result<()> {
        let mut head = [0; CHUNK_HEAD];
        head[..4].copy_from_slice(&len.to_le_bytes());
        head[4..12].copy_from_slice(&kept.to_le_bytes());
        head[12..].copy_from_slice(&dropped.to_le_bytes());
        self.write(&head)
    }

    /// Waits at most so long; whether the client has no more to say, which ends its capture.
    fn client_ended(&mut self, wait: Duration) -> io::Result<bool> {
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, wait) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(false),
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        let mut some = [0; 64];
        match self.socket.read(&mut some) {
            Ok(0) => Ok(true),
            Err(e) if e.kind() != ErrorKind::Interrupted => Err(e),
            // A client in a capture has nothing to say.
            _ => Ok(false),
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if self.ending.load(Ordering::Acquire) {
                        let since = *self.patience.get_or_insert_with(Instant::now);
                        if since.elapsed() > PATIENCE {
                            return Err(ErrorKind::TimedOut.into());
                        }
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
