//! The servers of the Internet and of the host.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Echoes until the stream ends; UDP as well.
pub const ECHO: u16 = 7;
/// Reads to the end, then answers how much came and whether it was the pattern.
pub const SINK: u16 = 9;
/// Sends the pattern without end.
pub const FIREHOSE: u16 = 19;
/// Tells how much the last firehose has written.
pub const FIREHOSE_TOLD: u16 = 20;
/// Reads one byte, then resets.
pub const RESET: u16 = 21;
/// Says "bye" and ends its side, then reads to the end or to an error.
pub const HALF: u16 = 22;
/// Tells how the last [`HALF`] ended, once it has.
pub const HALF_TOLD: u16 = 23;
/// Reads nothing until somebody has connected to [`GO`]; then as [`SINK`].
pub const STALLED: u16 = 24;
pub const GO: u16 = 25;
/// Keeps connections, and does nothing with them, until somebody connects to [`LET_GO`].
pub const KEEP: u16 = 26;
pub const LET_GO: u16 = 27;
/// Nothing ever listens here.
pub const CLOSED: u16 = 4;

/// Fills `buf` with the pattern of a stream from byte `at` on.
pub fn fill(at: u64, buf: &mut [u8]) {
    buf.iter_mut().zip(at..).for_each(|(byte, at)| *byte = (at ^ at >> 8 ^ at >> 16) as u8);
}

/// As many files as the kernel lets us.
pub fn many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a limit");
}

/// Reads to the end: how much, and whether it was the pattern.
pub fn drain(stream: &mut TcpStream) -> std::io::Result<(u64, bool)> {
    let mut buf = vec![0; 1 << 18];
    let mut want = buf.clone();
    let (mut at, mut good) = (0, true);
    loop {
        let n = stream.read(&mut buf)?;
        if n == 0 {
            return Ok((at, good));
        }
        fill(at, &mut want[..n]);
        good &= buf[..n] == want[..n];
        at += n as u64;
    }
}

static WRITTEN: AtomicU64 = AtomicU64::new(0);
static GONE: AtomicBool = AtomicBool::new(false);
static HALF_END: Mutex<Option<String>> = Mutex::new(None);
static KEPT: Mutex<Vec<TcpStream>> = Mutex::new(Vec::new());

pub fn main() -> ! {
    many_files();
    serve(ECHO, echo);
    serve(SINK, sink);
    serve(FIREHOSE, firehose);
    serve(FIREHOSE_TOLD, |mut stream| {
        let _ = write!(stream, "{}", WRITTEN.load(Ordering::SeqCst));
    });
    serve(RESET, |mut stream| {
        let _ = stream.read(&mut [0]);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    });
    serve(HALF, |mut stream| {
        *HALF_END.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = stream.write_all(b"bye");
        let _ = stream.shutdown(Shutdown::Write);
        let end = match drain(&mut stream) {
            Ok((n, _)) => n.to_string(),
            Err(err) => format!("{:?}", err.kind()),
        };
        *HALF_END.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    });
    serve(HALF_TOLD, |mut stream| {
        let end = HALF_END.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = stream.write_all(end.unwrap_or_default().as_bytes());
    });
    serve(STALLED, |stream| {
        GONE.store(false, Ordering::SeqCst);
        while !GONE.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(5));
        }
        sink(stream);
    });
    serve(GO, |_| GONE.store(true, Ordering::SeqCst));
    let keep = listen(KEEP);
    spawn(move || {
        for stream in keep.incoming().flatten() {
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
    });
    serve(LET_GO, |_| KEPT.lock().unwrap_or_else(PoisonError::into_inner).clear());
    udp_echo(UdpSocket::bind(("::", ECHO)).expect("binding"));
    println!("ready");
    // Ends with whoever started it.
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(0)
}

fn echo(mut stream: TcpStream) {
    let mut buf = vec![0; 1 << 16];
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        if stream.write_all(&buf[..n]).is_err() {
            return;
        }
    }
}

fn sink(mut stream: TcpStream) {
    if let Ok((n, good)) = drain(&mut stream) {
        let _ = write!(stream, "{n} {good}");
    }
}

fn firehose(mut stream: TcpStream) {
    WRITTEN.store(0, Ordering::SeqCst);
    let (mut at, mut buf) = (0, vec![0; 1 << 16]);
    loop {
        fill(at, &mut buf);
        match stream.write(&buf) {
            Ok(n) => at += n as u64,
            Err(_) => return,
        }
        WRITTEN.store(at, Ordering::SeqCst);
    }
}

fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("::", port)).expect("binding")
}

fn serve(port: u16, each: fn(TcpStream)) {
    let listener = listen(port);
    spawn(move || {
        for stream in listener.incoming().flatten() {
            spawn(move || each(stream));
        }
    });
}

/// Echoes datagrams for ever, in a thread of its own.
pub fn udp_echo(socket: UdpSocket) {
    spawn(move || {
        let mut buf = vec![0; 1 << 16];
        loop {
            let got: std::io::Result<(usize, SocketAddr)> = socket.recv_from(&mut buf);
            if let Ok((n, from)) = got {
                let _ = socket.send_to(&buf[..n], from);
            }
        }
    });
}
