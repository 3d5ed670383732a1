//! The program's end: the client, run in the place where `linerate run` runs a program.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linerate_dev::netdev::{Feature, set_feature};
use nix::sched::{CloneFlags, unshare};

use super::http::Nginx;
use super::stats::percentile;
use super::traffic::{
    Answer, Ask, CHUNK_BYTES, PING_BYTES, SharedMeter, Window, answer_requests, congestion_of,
    connect, nanos, poll_busily, port,
};
use super::{sockperf, udp_flow};

/// Threads that open the connections which are then kept.
const HOLD_PARALLEL: usize = 4;
/// How long a blocked read or write waits before it looks whether its time is over.
const BLOCKED_AT_MOST: Duration = Duration::from_millis(100);

/// Answers requests until standard input ends.
///
/// # Errors
/// Those of `unshare(2)`, of `ip`, and of standard input and output.
pub fn serve(new_namespace: bool) -> io::Result<()> {
    if new_namespace {
        unshare(CloneFlags::CLONE_NEWNET)?;
        ip(["link", "set", "lo", "up"])?;
    }
    let (mut held, mut web) = (Vec::new(), None);
    answer_requests(|ask| match ask {
        Ask::Reach { to } => reach(&to),
        Ask::Send { to, streams, sndbuf_bytes, window } => send(to, streams, sndbuf_bytes, window),
        Ask::Receive { to, streams, window } => receive(to, streams, window),
        Ask::PingPong { to, busy, window } => ping_pong(to, busy, window),
        Ask::SendDatagrams { to, window } => send_datagrams(to, window),
        Ask::ReceiveDatagrams { to, window } => receive_datagrams(to, window),
        Ask::Sockperf { to, tcp, window } => sockperf::ping_pong(to, tcp, window.whole()),
        Ask::ServeHttp => {
            web = Some(Nginx::start()?);
            Ok(Answer::Done)
        }
        Ask::Napi { name } => set_feature(&name, Feature::Gro, true).map(|()| Answer::Done),
        Ask::Connects { to, parallel, window } => connects(to, parallel, window),
        Ask::Hold { to, connections } => hold(to, connections, &mut held),
        Ask::Release => {
            held.clear();
            web = None;
            Ok(Answer::Done)
        }
        Ask::Ip { args } => ip(args).map(|()| Answer::Done),
        other => Err(io::Error::other(format!("not for the program's end: {other:?}"))),
    })
}

/// Tries each address in turn until one echoes, for 5 s.
fn reach(to: &[IpAddr]) -> io::Result<Answer> {
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        let mut last = io::Error::other("no address given");
        for &to in to {
            match connect(to, port::ECHO, None).and_then(|mut s| round_trip(&mut s)) {
                Ok(_) => return Ok(Answer::Reached { to }),
                Err(e) => last = io::Error::new(e.kind(), format!("{to}: {e}")),
            }
        }
        if Instant::now() > patience {
            return Err(last);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn send(to: IpAddr, streams: usize, sndbuf: Option<usize>, window: Window) -> io::Result<Answer> {
    let streams = open(to, port::SINK, streams, sndbuf)?;
    let congestion = streams.first().map(congestion_of).unwrap_or_default();
    // Longer than the window: the receiver's clock begins with the first byte.
    let end = Instant::now() + window.whole() + Duration::from_millis(150);
    thread::scope(|scope| {
        for mut stream in streams {
            scope.spawn(move || {
                let chunk = vec![0xa5; CHUNK_BYTES];
                while Instant::now() < end {
                    if stream.write(&chunk).is_err_and(|e| !is_timeout(&e)) {
                        break;
                    }
                }
                abort(stream);
            });
        }
    });
    Ok(Answer::Sent { congestion })
}

fn receive(to: IpAddr, streams: usize, window: Window) -> io::Result<Answer> {
    let streams = open(to, port::SOURCE, streams, None)?;
    let congestion = streams.first().map(congestion_of).unwrap_or_default();
    let meter = SharedMeter::default();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for mut stream in streams {
            let (meter, over) = (Arc::clone(&meter), &over);
            scope.spawn(move || {
                let mut chunk = vec![0; CHUNK_BYTES];
                while !over.load(Ordering::Relaxed) {
                    match stream.read(&mut chunk) {
                        Ok(0) => break,
                        Ok(n) => meter.add(n),
                        Err(e) if is_timeout(&e) => {}
                        Err(_) => break,
                    }
                }
                abort(stream);
            });
        }
        let counted = meter.count(window);
        over.store(true, Ordering::Relaxed);
        let (bytes, elapsed_ns) = counted?;
        Ok(Answer::Bytes { bytes, elapsed_ns, congestion })
    })
}

fn open(
    to: IpAddr,
    port: u16,
    streams: usize,
    sndbuf: Option<usize>,
) -> io::Result<Vec<TcpStream>> {
    (0..streams)
        .map(|_| {
            let stream = connect(to, port, sndbuf)?;
            stream.set_read_timeout(Some(BLOCKED_AT_MOST))?;
            stream.set_write_timeout(Some(BLOCKED_AT_MOST))?;
            Ok(stream)
        })
        .collect()
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Closes with a reset, so that what is still queued does not disturb the next case.
fn abort(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

fn ping_pong(to: IpAddr, busy: bool, window: Window) -> io::Result<Answer> {
    let at = if busy { port::ECHO_BUSY } else { port::ECHO };
    let mut stream = connect(to, at, None)?;
    stream.set_nodelay(true)?;
    if busy {
        poll_busily(&stream)?;
    }
    let warm = Instant::now() + window.warmup();
    while Instant::now() < warm {
        round_trip(&mut stream)?;
    }
    let mut rtt_ns = Vec::with_capacity(1 << 17);
    let start = Instant::now();
    while start.elapsed() < window.counted() {
        rtt_ns.push(round_trip(&mut stream)?);
    }
    let elapsed_ns = nanos(start.elapsed());
    rtt_ns.sort_unstable();
    Ok(Answer::RoundTrips {
        count: rtt_ns.len() as u64,
        elapsed_ns,
        p50_ns: percentile(&rtt_ns, 500),
        p99_ns: percentile(&rtt_ns, 990),
    })
}

/// One request and its reply; the time in ns.
fn round_trip(stream: &mut TcpStream) -> io::Result<u32> {
    let mut ping = [0x42; PING_BYTES];
    let start = Instant::now();
    stream.write_all(&ping)?;
    stream.read_exact(&mut ping)?;
    Ok(u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX))
}

fn send_datagrams(to: IpAddr, window: Window) -> io::Result<Answer> {
    let socket = udp_flow::client_socket(to)?;
    let to = SocketAddr::new(to, port::UDP_SINK);
    let (bytes, elapsed_ns) = udp_flow::send_counted(&socket, to, udp_flow::flow_name(), window)?;
    Ok(Answer::Bytes { bytes, elapsed_ns, congestion: String::new() })
}

fn receive_datagrams(to: IpAddr, window: Window) -> io::Result<Answer> {
    let socket = udp_flow::client_socket(to)?;
    let to = SocketAddr::new(to, port::UDP_SOURCE);
    let (bytes, elapsed_ns) =
        udp_flow::receive_counted(&socket, to, udp_flow::flow_name(), window)?;
    Ok(Answer::Bytes { bytes, elapsed_ns, congestion: String::new() })
}

fn connects(to: IpAddr, parallel: usize, window: Window) -> io::Result<Answer> {
    let begin = Instant::now() + window.warmup();
    let end = begin + window.counted();
    let (count, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                while Instant::now() < end {
                    let result = connect_once(to);
                    // Only what ended within the window counts.
                    if (begin..end).contains(&Instant::now()) {
                        let which = if result.is_ok() { &count } else { &failed };
                        which.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Ok(Answer::Count {
        count: count.into_inner(),
        failed: failed.into_inner(),
        elapsed_ns: nanos(window.counted()),
    })
}

/// Connects, reads the one byte and the end of the stream. The server closes first, so that
/// TIME_WAIT is at its end and no ephemeral port of ours, or of the tool's, is used up.
fn connect_once(to: IpAddr) -> io::Result<()> {
    let mut stream = connect(to, port::BYTE, None)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match stream.read(&mut byte)? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than one byte")),
    }
}

/// Opens connections until there are enough or one fails; what was opened is kept either way.
fn hold(to: IpAddr, connections: usize, held: &mut Vec<TcpStream>) -> io::Result<Answer> {
    let (start, wanted) = (Instant::now(), AtomicU64::new(connections as u64));
    let take = || wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    let open = || {
        let mut mine = Vec::new();
        while take().is_ok() {
            match hold_one(to) {
                Ok(stream) => mine.push(stream),
                Err(_) => return (mine, 1),
            }
        }
        (mine, 0)
    };
    let mut failed = 0;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..HOLD_PARALLEL).map(|_| scope.spawn(open)).collect();
        for (mut mine, failures) in threads.into_iter().flat_map(thread::ScopedJoinHandle::join) {
            held.append(&mut mine);
            failed += failures;
        }
    });
    Ok(Answer::Count { count: held.len() as u64, failed, elapsed_ns: nanos(start.elapsed()) })
}

/// Connects and reads the one byte: the connection exists from end to end, not only as far as the
/// tool.
fn hold_one(to: IpAddr) -> io::Result<TcpStream> {
    let mut stream = connect(to, port::IDLE, None)?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

fn ip<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> io::Result<()> {
    let output = Command::new("ip").args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
