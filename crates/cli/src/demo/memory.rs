//! Two stacks over a wire in memory, each in its thread: what the demo falls back on where neither
//! namespaces nor a device are granted.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant as Clock};

use linerate_core::shard::Shard;
use linerate_core::sock::error::TcpError;
use linerate_core::sock::{Ready, SockKind, SocketId};
use linerate_core::tcp::{Connect, Listen, TcpOpt};
use linerate_core::time::{Instant, SEC};
use linerate_dev::drive::{App, Drive};
use linerate_dev::mem;
use linerate_dev::poller::{Event, Poller};
use linerate_gateway::control::{Meta, Snapshot};

use super::figures::{PingPong, Stream, Traffic};
use super::pattern::Pattern;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 100));
/// Ports, by what the server does there.
const SOURCE: u16 = 1;
const SINK: u16 = 2;
const ECHO: u16 = 3;
/// Bytes of a ping.
const PING: usize = 64;
/// Bytes moved in one turn for one connection: other work has its turn meanwhile.
const TURN_BYTES: usize = 1 << 20;
/// How much longer than it should a phase may take before it is declared stuck.
const STUCK: Duration = Duration::from_secs(20);

/// What one end does with a connection.
enum Part {
    /// Sends the pattern until then, then ends the stream.
    Source { until: Clock, pos: u64 },
    /// Compares what comes with the pattern.
    Sink { pos: u64, good: bool },
    /// Sends back what comes.
    Echo,
    /// Sends pings.
    Ping(Ping),
}

/// One connection.
struct Conn {
    part: Part,
    /// The other end will send nothing more.
    ended: bool,
}

impl Conn {
    fn new(part: Part) -> Conn {
        Conn { part, ended: false }
    }

    /// Does what can be done now.
    fn turn(
        &mut self,
        shard: &mut Shard,
        id: SocketId,
        pattern: &Pattern,
    ) -> Result<Next, TcpError> {
        let next = match &mut self.part {
            Part::Source { until, pos } => source(shard, id, pattern, *until, pos),
            Part::Sink { pos, good } => sink(shard, id, pattern, pos, good),
            Part::Echo => echo(shard, id),
            Part::Ping(ping) => ping.turn(shard, id, pattern),
        };
        // Nothing to do now is no failure.
        let next = if next == Err(TcpError::WouldBlock) { Next::Wait } else { next? };
        self.ended |= next == Next::End;
        Ok(next)
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing more until something happens.
    Wait,
    /// There is more to do at once.
    More,
    /// This part is played.
    End,
}

fn source(
    shard: &mut Shard,
    id: SocketId,
    pattern: &Pattern,
    until: Clock,
    pos: &mut u64,
) -> Result<Next, TcpError> {
    if Clock::now() >= until {
        shard.tcp_shutdown(id);
        return Ok(Next::End);
    }
    let mut moved = 0;
    while moved < TURN_BYTES {
        let room = shard.tcp_send_space(id);
        if room == 0 {
            return Ok(Next::Wait);
        }
        let sent = shard.tcp_send(id, pattern.at(*pos, room))?;
        *pos += sent as u64;
        moved += sent;
    }
    Ok(Next::More)
}

fn sink(
    shard: &mut Shard,
    id: SocketId,
    pattern: &Pattern,
    pos: &mut u64,
    good: &mut bool,
) -> Result<Next, TcpError> {
    let mut moved = 0;
    while moved < TURN_BYTES {
        let mut slices = Vec::new();
        let n = shard.tcp_rx_slices(id, TURN_BYTES, &mut slices)?;
        for slice in slices {
            *good &= pattern.holds(*pos, &slice);
            *pos += slice.len() as u64;
        }
        if n == 0 {
            return Ok(Next::End);
        }
        shard.tcp_consume(id, n);
        moved += n;
    }
    Ok(Next::More)
}

fn echo(shard: &mut Shard, id: SocketId) -> Result<Next, TcpError> {
    let mut buf = [0; PING];
    match shard.tcp_recv(id, &mut buf)? {
        0 => Ok(Next::End),
        n => shard.tcp_send(id, &buf[..n]).map(|_| Next::More),
    }
}

/// Sends pings until then, each after the answer to the last.
struct Ping {
    until: Clock,
    asked: Option<Clock>,
    answer: Vec<u8>,
    took_ns: Vec<u64>,
    good: bool,
}

impl Ping {
    fn turn(
        &mut self,
        shard: &mut Shard,
        id: SocketId,
        pattern: &Pattern,
    ) -> Result<Next, TcpError> {
        let number = self.took_ns.len() as u64;
        if let Some(asked) = self.asked {
            let mut buf = [0; PING];
            let n = shard.tcp_recv(id, &mut buf)?;
            self.answer.extend_from_slice(&buf[..n]);
            if n > 0 && self.answer.len() < PING {
                return Ok(Next::More);
            }
            self.good &= self.answer.len() == PING && pattern.holds(number, &self.answer);
            self.took_ns.push(asked.elapsed().as_nanos() as u64);
            self.answer.clear();
            self.asked = None;
            return Ok(Next::More);
        }
        if Clock::now() >= self.until {
            shard.tcp_shutdown(id);
            return Ok(Next::End);
        }
        self.asked = Some(Clock::now());
        shard.tcp_send(id, pattern.at(number, PING))?;
        Ok(Next::Wait)
    }
}

/// The server: three ports, until it is told to stop.
struct Server {
    pattern: Arc<Pattern>,
    listeners: Vec<SocketId>,
    conns: HashMap<SocketId, Conn>,
    stop: Arc<AtomicBool>,
    phase: Duration,
}

impl Server {
    fn accept(&mut self, shard: &mut Shard) {
        for (listener, port) in self.listeners.iter().zip([SOURCE, SINK, ECHO]) {
            while let Some(id) = shard.tcp_accept(*listener) {
                let part = match port {
                    SOURCE => Part::Source { until: Clock::now() + self.phase, pos: 0 },
                    SINK => Part::Sink { pos: 0, good: true },
                    _ => Part::Echo,
                };
                // It can fail only if the connection is gone, and then the next call says so.
                let _ = shard.tcp_set(id, TcpOpt::NoDelay(true));
                self.conns.insert(id, Conn::new(part));
            }
        }
    }
}

impl App for Server {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while let Some(event) = shard.poll_event() {
            shard.take_ready(event.id);
        }
        self.accept(shard);
        let mut more = false;
        let pattern = Arc::clone(&self.pattern);
        self.conns.retain(|id, conn| {
            let turned = conn.turn(shard, *id, &pattern);
            more |= turned == Ok(Next::More);
            if turned.is_ok() && !conn.ended {
                return true;
            }
            if let Part::Sink { good, .. } = &conn.part {
                // The verdict, before the end.
                let _ = shard.tcp_send(*id, &[u8::from(*good)]);
            }
            shard.tcp_close(*id);
            false
        });
        Ok(more)
    }
}

/// The client: one connection at a time.
struct Client {
    pattern: Arc<Pattern>,
    id: SocketId,
    conn: Conn,
    connected: bool,
    failed: Option<String>,
    /// When to look at the clock, though nothing happens.
    look: Instant,
}

impl App for Client {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        self.look = shard.net.now.plus(SEC);
        while let Some(event) = shard.poll_event() {
            if event.id.kind != SockKind::Tcp {
                continue;
            }
            let ready = shard.take_ready(event.id);
            if event.id != self.id {
                continue;
            }
            self.connected |= ready.has(Ready::OUT);
            if ready.has(Ready::ERR) {
                let why = shard.tcp_error(self.id);
                self.failed = Some(why.map_or("failed".to_owned(), |e| e.to_string()));
            }
        }
        if !self.connected || self.conn.ended {
            return Ok(false);
        }
        let turned = self.conn.turn(shard, self.id, &self.pattern);
        if let Err(e) = turned {
            self.failed = Some(e.to_string());
        }
        Ok(turned == Ok(Next::More))
    }
    fn next_timer(&self) -> Option<Instant> {
        Some(self.look)
    }
}

fn drive(end: mem::Mem, addr: IpAddr, seed: u64) -> io::Result<Drive> {
    let mut drive = Drive::new(Shard::new(seed))?;
    let number = drive.add_device(Box::new(end), |_| ())?;
    drive.shard.add_addr(number, addr, 24).map_err(io::Error::other)?;
    Ok(drive)
}

fn snapshot(drive: &Drive, name: &str) -> Snapshot {
    let meta = Meta { name: name.to_owned(), pid: std::process::id(), ..Meta::default() };
    Snapshot::take(&drive.shard, meta)
}

/// Runs the three phases, which take `time` in all.
pub fn run(time: Duration) -> io::Result<(Traffic, Vec<Snapshot>)> {
    let (near, far) = mem::pair(mem::Config::default())?;
    let pattern = Arc::new(Pattern::new());
    let stop = Arc::new(AtomicBool::new(false));
    let phase = time.mul_f64(0.4);
    let server = {
        let (pattern, stop) = (Arc::clone(&pattern), Arc::clone(&stop));
        thread::spawn(move || serve(far, pattern, stop, phase))
    };
    let mut drive = drive(near, CLIENT, 1)?;
    let traffic = talk(&mut drive, &pattern, time);
    stop.store(true, Ordering::Release);
    // The device goes, which ends the server's wait.
    let path = snapshot(&drive, "client");
    drop(drive);
    let served = server.join().map_err(|_| io::Error::other("the server's stack panicked"))?;
    Ok((traffic?, vec![path, served?]))
}

fn serve(
    far: mem::Mem,
    pattern: Arc<Pattern>,
    stop: Arc<AtomicBool>,
    phase: Duration,
) -> io::Result<Snapshot> {
    let mut drive = drive(far, SERVER, 2)?;
    let mut listeners = Vec::new();
    for port in [SOURCE, SINK, ECHO] {
        let listen = Listen { port, backlog: 8, ..Listen::default() };
        listeners.push(drive.shard.tcp_listen(listen).map_err(io::Error::other)?);
    }
    let conns = HashMap::new();
    let mut app = Server { pattern, listeners, conns, stop: Arc::clone(&stop), phase };
    loop {
        match drive.turn(&mut app) {
            // The other end has left the wire.
            Err(_) if app.stop.load(Ordering::Acquire) => return Ok(snapshot(&drive, "server")),
            turned => turned?,
        }
    }
}

fn talk(drive: &mut Drive, pattern: &Arc<Pattern>, time: Duration) -> io::Result<Traffic> {
    let long = time.mul_f64(0.4);
    let mut traffic = Traffic::default();
    let begun = Clock::now();
    let part = connection(drive, pattern, SOURCE, Part::Sink { pos: 0, good: true }, time)?;
    if let Part::Sink { pos, good } = part {
        let seconds = begun.elapsed().as_secs_f64();
        traffic.download = Stream { bytes: pos, seconds, verified: good };
    }
    let begun = Clock::now();
    let until = begun + long;
    let part = connection(drive, pattern, SINK, Part::Source { until, pos: 0 }, time)?;
    if let Part::Source { pos, .. } = part {
        let seconds = begun.elapsed().as_secs_f64();
        // `connection` has waited for the server's verdict.
        traffic.upload = Stream { bytes: pos, seconds, verified: true };
    }
    let until = Clock::now() + time.mul_f64(0.2);
    let (answer, took_ns) = (Vec::new(), Vec::new());
    let ping = Part::Ping(Ping { until, asked: None, answer, took_ns, good: true });
    if let Part::Ping(ping) = connection(drive, pattern, ECHO, ping, time)? {
        traffic.pingpong = PingPong::of(ping.took_ns, ping.good);
    }
    Ok(traffic)
}

/// Plays one part over one connection to its end.
fn connection(
    drive: &mut Drive,
    pattern: &Arc<Pattern>,
    port: u16,
    part: Part,
    time: Duration,
) -> io::Result<Part> {
    let connect = Connect { local: None, remote: SocketAddr::new(SERVER, port), user: 0 };
    let id = drive.shard.tcp_connect(connect).map_err(io::Error::other)?;
    drive.shard.tcp_set(id, TcpOpt::NoDelay(true)).map_err(io::Error::other)?;
    let conn = Conn::new(part);
    let pattern = Arc::clone(pattern);
    let mut app = Client { pattern, id, conn, connected: false, failed: None, look: Instant::ZERO };
    let mut verdict = [0; 1];
    let mut judged = false;
    let begun = Clock::now();
    loop {
        drive.turn(&mut app)?;
        if let Some(why) = &app.failed {
            return Err(io::Error::other(why.clone()));
        }
        if begun.elapsed() > time + STUCK {
            return Err(io::Error::other("a connection is stuck"));
        }
        if !app.conn.ended {
            continue;
        }
        // The stream of a source ends with the other end's verdict, the others without anything.
        // What came at once is read at once: nothing else would wake the loop.
        let mut read = drive.shard.tcp_recv(id, &mut verdict);
        while matches!(read, Ok(n) if n > 0) {
            judged = verdict == [1];
            read = drive.shard.tcp_recv(id, &mut verdict);
        }
        match read {
            Err(TcpError::WouldBlock) => {}
            Ok(_) => break,
            Err(e) => return Err(io::Error::other(e)),
        }
    }
    drive.shard.tcp_close(id);
    if port == SINK && !judged {
        return Err(io::Error::other("the other end found the bytes to be wrong"));
    }
    Ok(app.conn.part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stacks_move_every_byte_and_lose_count_of_none() {
        let (traffic, path) = run(Duration::from_millis(300)).expect("all phases");
        assert!(traffic.download.verified && traffic.download.bytes > 0);
        assert!(traffic.upload.verified && traffic.upload.bytes > 0);
        assert!(traffic.pingpong.verified && traffic.pingpong.count > 0);
        assert_eq!(path.len(), 2);
        for snapshot in &path {
            assert_eq!(snapshot.unaccounted(), []);
        }
    }
}
