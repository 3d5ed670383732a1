//! The servers of the Internet.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::spawn;

/// Echoes until the stream ends.
pub const ECHO: u16 = 7;
/// Reads to the end, then answers how much came and with which sum.
pub const SINK: u16 = 9;
/// Reads a length of 8 bytes, sends that much of the pattern, ends.
pub const SOURCE: u16 = 19;
/// Reads one byte, then resets.
pub const RESET: u16 = 21;
/// Says "bye" and ends its side, then reads to the end; [`LAST`] tells how much.
pub const HALF: u16 = 22;
pub const LAST: u16 = 23;
/// UDP: answers with the address that it sees.
pub const WHOAMI: u16 = 3478;
/// UDP: answers from another port.
pub const OTHER: u16 = 3479;
/// UDP: answers with TTL and type of service as they came, and sends with type of service 0x48.
/// Nothing ever listens here.
pub const CLOSED: u16 = 4;

/// Byte `at` of the pattern that streams are checked with.
pub fn pattern(at: u64) -> u8 {
    (at ^ at >> 8 ^ at >> 16 ^ at >> 24) as u8
}

/// Fills `buf` with the pattern from `at` on.
pub fn fill(at: u64, buf: &mut [u8]) {
    buf.iter_mut().zip(at..).for_each(|(byte, at)| *byte = pattern(at));
}

static LAST_BYTES: AtomicU64 = AtomicU64::new(0);

pub fn main(_args: &[String]) -> ! {
    serve(ECHO, |mut stream| {
        let mut buf = vec![0; 65536];
        while let Ok(n @ 1..) = stream.read(&mut buf) {
            if stream.write_all(&buf[..n]).is_err() {
                return;
            }
        }
    });
    serve(SINK, |mut stream| {
        let (n, good) = drain(&mut stream);
        let _ = write!(stream, "{n} {good}");
    });
    serve(SOURCE, |mut stream| {
        let mut len = [0; 8];
        if stream.read_exact(&mut len).is_err() {
            return;
        }
        let (mut at, len) = (0, u64::from_be_bytes(len));
        let mut buf = vec![0; 1 << 18];
        while at < len {
            let n = buf.len().min((len - at) as usize);
            fill(at, &mut buf[..n]);
            if stream.write_all(&buf[..n]).is_err() {
                return;
            }
            at += n as u64;
        }
    });
    serve(RESET, |mut stream| {
        let _ = stream.read(&mut [0]);
        let zero = Some(std::time::Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&stream, zero).expect("linger");
    });
    serve(HALF, |mut stream| {
        let _ = stream.write_all(b"bye");
        let _ = stream.shutdown(Shutdown::Write);
        LAST_BYTES.store(drain(&mut stream).0, Ordering::SeqCst);
    });
    serve(LAST, |mut stream| {
        let _ = write!(stream, "{}", LAST_BYTES.load(Ordering::SeqCst));
    });
    udp(ECHO, |socket, from, data| {
        let _ = socket.send_to(data, from);
    });
    udp(WHOAMI, |socket, from, _| {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let _ = socket.send_to(from.to_string().as_bytes(), unmapped(from));
    });
    let other = bind(OTHER + 100);
    udp(OTHER, move |_, from, data| {
        let _ = other.send_to(data, from);
    });
    println!("ready");
    // Ends with whoever started it.
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0)
}

/// The dual-stack socket wants IPv4 peers in IPv6 clothes.
fn unmapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    }
}

/// Reads to the end: how much, and whether it was the pattern.
pub fn drain(stream: &mut TcpStream) -> (u64, bool) {
    let mut buf = vec![0; 1 << 18];
    let mut want = buf.clone();
    let (mut at, mut good) = (0, true);
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return (at, good),
            Ok(n) => {
                fill(at, &mut want[..n]);
                good &= buf[..n] == want[..n];
                at += n as u64;
            }
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(_) => return (at, false),
        }
    }
}

fn serve(port: u16, each: fn(TcpStream)) {
    let listener = TcpListener::bind(("::", port)).expect("binding");
    spawn(move || {
        for stream in listener.incoming().flatten() {
            spawn(move || each(stream));
        }
    });
}

fn bind(port: u16) -> UdpSocket {
    UdpSocket::bind(("::", port)).expect("binding")
}

fn udp(port: u16, each: impl Fn(&UdpSocket, SocketAddr, &[u8]) + Send + 'static) {
    let socket = bind(port);
    spawn(move || {
        let mut buf = vec![0; 65536];
        loop {
            if let Ok((n, from)) = socket.recv_from(&mut buf) {
                each(&socket, from, &buf[..n]);
            }
        }
    });
}
