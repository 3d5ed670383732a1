//! The host side's end: a listening port for each kind of traffic.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::peers::HOST_ADDR;
use super::traffic::{
    Answer, Ask, CHUNK_BYTES, Meter, PING_BYTES, SharedMeter, answer_requests, congestion_of,
    poll_busily, port, tcp_socket,
};
use super::udp_flow;

/// What the accepting threads share with the one that answers requests.
#[derive(Default)]
struct Shared {
    /// The meter of the connections accepted next. Those of an earlier case keep their own, so that
    /// what still trickles in from them is not counted.
    meter: Mutex<SharedMeter>,
    /// Congestion control of the sink's last connection.
    congestion: Mutex<String>,
    /// Connections kept open.
    idle: Mutex<Vec<TcpStream>>,
}

/// Listens, and answers requests until standard input ends.
///
/// # Errors
/// Those of `bind(2)` and `listen(2)`, and of standard input and output.
pub fn serve() -> io::Result<()> {
    let shared = Arc::new(Shared::default());
    accept(port::SINK, &shared, spawn_sink)?;
    accept(port::SOURCE, &shared, |stream, _| {
        thread::spawn(move || source(stream));
    })?;
    accept(port::ECHO, &shared, |stream, _| {
        thread::spawn(move || echo(stream));
    })?;
    accept(port::ECHO_BUSY, &shared, |stream, _| {
        // Without the right to it, its client has none either, and says so.
        let _ = poll_busily(&stream);
        thread::spawn(move || echo(stream));
    })?;
    accept(port::BYTE, &shared, |mut stream, _| {
        // A client that went away meanwhile is counted at its own end.
        let _ = stream.write_all(&[1]);
    })?;
    accept(port::IDLE, &shared, |mut stream, shared| {
        if stream.write_all(&[1]).is_ok() {
            lock(&shared.idle).push(stream);
        }
    })?;
    datagrams(port::UDP_SINK, |socket| udp_flow::receive(&socket, |_, _| true))?;
    datagrams(port::UDP_SOURCE, |socket| udp_flow::serve(&socket))?;
    answer_requests(|ask| answer(&shared, ask))
}

fn answer(shared: &Shared, ask: Ask) -> io::Result<Answer> {
    match ask {
        Ask::Arm => {
            *lock(&shared.meter) = SharedMeter::default();
            Ok(Answer::Done)
        }
        Ask::Count(window) => {
            let meter: Arc<Meter> = Arc::clone(&lock(&shared.meter));
            let (bytes, elapsed_ns) = meter.count(window)?;
            Ok(Answer::Bytes { bytes, elapsed_ns, congestion: lock(&shared.congestion).clone() })
        }
        Ask::Release => {
            lock(&shared.idle).clear();
            Ok(Answer::Done)
        }
        other => Err(io::Error::other(format!("not for the host end: {other:?}"))),
    }
}

fn accept(
    port: u16,
    shared: &Arc<Shared>,
    each: impl Fn(TcpStream, &Shared) + Copy + Send + 'static,
) -> io::Result<()> {
    // Not on all addresses: it would answer on the relay's, in the relay's place.
    for addr in [Ipv4Addr::LOCALHOST, HOST_ADDR] {
        let socket = tcp_socket(addr.into())?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(addr.into(), port).into())?;
        socket.listen(4096)?;
        let (listener, shared) = (TcpListener::from(socket), Arc::clone(shared));
        thread::spawn(move || {
            // An accept that failed (a connection reset while queued) concerns that connection
            // only.
            for stream in listener.incoming().flatten() {
                each(stream, &shared);
            }
        });
    }
    Ok(())
}

fn datagrams(
    port: u16,
    serve: impl Fn(UdpSocket) -> io::Result<()> + Copy + Send + 'static,
) -> io::Result<()> {
    for addr in [Ipv4Addr::LOCALHOST, HOST_ADDR] {
        let socket = udp_flow::socket(SocketAddr::new(addr.into(), port))?;
        thread::spawn(move || {
            if let Err(e) = serve(socket) {
                eprintln!("linerate __traffic: UDP port {port}: {e}");
            }
        });
    }
    Ok(())
}

fn spawn_sink(mut stream: TcpStream, shared: &Shared) {
    let meter = Arc::clone(&lock(&shared.meter));
    *lock(&shared.congestion) = congestion_of(&stream);
    thread::spawn(move || {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(n @ 1..) = stream.read(&mut chunk) {
            meter.add(n);
        }
    });
}

fn source(mut stream: TcpStream) {
    let chunk = vec![0x5a; CHUNK_BYTES];
    while stream.write_all(&chunk).is_ok() {}
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut ping = [0; PING_BYTES];
    while stream.read_exact(&mut ping).is_ok() && stream.write_all(&ping).is_ok() {}
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
