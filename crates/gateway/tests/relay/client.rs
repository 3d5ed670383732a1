//! Programs that run inside, over the kernel's own TCP and UDP: each prints what it saw.

use crate::server::{self, fill};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Long enough for any machine: only what never comes reaches it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for an answer that comes at once to have come.
const SOON: Duration = Duration::from_millis(500);

pub fn main(args: &[String]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match &words[..] {
        ["connect", to] => connect(to),
        ["echo", to, n] => echo(to, number(n)),
        ["upload", to, n, streams] => upload(to, number(n), number(streams)),
        ["download", to, n, streams] => download(to, number(n), number(streams)),
        ["half", half, last] => half_close(half, last),
        ["reset", to] => reset(to),
        ["abort", to] => abort(to),
        ["stall", to] => stall(to),
        ["many", to, n] => many(to, number(n)),
        ["rate", to, n] => rate(to, number(n)),
        ["pingpong", to, n] => pingpong(to, number(n)),
        ["serve-echo", port] => serve_echo(port),
        ["serve-none"] => std::thread::sleep(PATIENCE),
        ["udp", to, n] => udp(to, number(n) as usize),
        ["udp-error", to] => udp_error(to),
        ["whoami", rest @ ..] => whoami(rest),
        ["udp-filter", to] => udp_filter(to),
        ["udp-serve", port] => udp_serve(port),
        ["udp-flood", to, n] => udp_flood(to, number(n)),
        ["udp-bulk", to, n] => udp_bulk(to, number(n)),
        ["syn-flood", to, n] => syn_flood(to, number(n)),
        ["churn", to, n] => churn(to, number(n)),
        _ => panic!("unknown client {words:?}"),
    }
    ExitCode::SUCCESS
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
}

fn dial(to: &str) -> TcpStream {
    TcpStream::connect(addr(to)).unwrap_or_else(|err| panic!("connecting to {to}: {err}"))
}

/// Prints `ok`, or the errno.
fn connect(to: &str) {
    match TcpStream::connect_timeout(&addr(to), PATIENCE) {
        Ok(_) => println!("ok"),
        Err(err) => println!("{}", err.raw_os_error().unwrap_or(-1)),
    }
}

fn echo(to: &str, n: u64) {
    let mut stream = dial(to);
    let mut writer = stream.try_clone().expect("a second handle");
    let write = std::thread::spawn(move || {
        send_pattern(&mut writer, n);
        writer.shutdown(Shutdown::Write).expect("ending");
    });
    let (got, good) = server::drain(&mut stream);
    write.join().expect("the writer");
    println!("{got} {good}");
}

fn send_pattern(stream: &mut TcpStream, n: u64) {
    let mut buf = vec![0; 1 << 18];
    let mut at = 0;
    while at < n {
        let part = buf.len().min((n - at) as usize);
        fill(at, &mut buf[..part]);
        stream.write_all(&buf[..part]).expect("writing");
        at += part as u64;
    }
}

/// Gigabits a second.
fn speed(bytes: u64, since: Instant) -> f64 {
    bytes as f64 * 8.0 / since.elapsed().as_nanos() as f64
}

fn upload(to: &str, n: u64, streams: u64) {
    let (to, begun) = (to.to_owned(), Instant::now());
    let one = move || {
        let mut stream = dial(&to);
        send_pattern(&mut stream, n);
        stream.shutdown(Shutdown::Write).expect("ending");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("the answer");
        assert_eq!(said, format!("{n} true"));
    };
    all(streams, one);
    println!("{:.2} Gb/s", speed(n * streams, begun));
}

fn download(to: &str, n: u64, streams: u64) {
    let (to, begun) = (to.to_owned(), Instant::now());
    let one = move || {
        let mut stream = dial(&to);
        stream.write_all(&n.to_be_bytes()).expect("asking");
        assert_eq!(server::drain(&mut stream), (n, true));
    };
    all(streams, one);
    println!("{:.2} Gb/s", speed(n * streams, begun));
}

fn all(n: u64, one: impl Fn() + Clone + Send + 'static) {
    let threads: Vec<_> = (0..n).map(|_| std::thread::spawn(one.clone())).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a stream"));
}

/// The server ends first; what is sent after that still arrives.
fn half_close(half: &str, last: &str) {
    let mut stream = dial(half);
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("its words");
    assert_eq!(said, "bye");
    send_pattern(&mut stream, 300_000);
    drop(stream);
    let end = Instant::now() + PATIENCE;
    loop {
        let mut said = String::new();
        dial(last).read_to_string(&mut said).expect("the count");
        if said == "300000" || Instant::now() > end {
            return println!("{said}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Prints how reading ends when the server resets.
fn reset(to: &str) {
    let mut stream = dial(to);
    stream.write_all(b"x").expect("writing");
    println!("{:?}", stream.read(&mut [0]).map_err(|err| err.kind()));
}

/// Resets in the middle of an echo.
fn abort(to: &str) {
    let mut stream = dial(to);
    stream.write_all(&[7; 1000]).expect("writing");
    stream.read_exact(&mut [0; 1000]).expect("the echo");
    let zero = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(&stream, zero).expect("linger");
    drop(stream);
    println!("done");
}

/// Writes without reading the echo until nothing more goes in; then reads all of it.
fn stall(to: &str) {
    let mut stream = dial(to);
    stream.set_nonblocking(true).expect("non-blocking");
    let (mut sent, mut quiet) = (0u64, Instant::now());
    let mut buf = vec![0; 65536];
    while quiet.elapsed() < SOON {
        fill(sent, &mut buf);
        match stream.write(&buf) {
            Ok(n) => {
                sent += n as u64;
                quiet = Instant::now();
                assert!(sent < 1 << 30, "somebody buffers without bound");
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(err) => panic!("writing: {err}"),
        }
    }
    stream.set_nonblocking(false).expect("blocking");
    stream.shutdown(Shutdown::Write).expect("ending");
    let (got, good) = server::drain(&mut stream);
    assert_eq!((got, good), (sent, true));
    println!("{sent}");
}

/// Opens many connections, keeps them, uses each once.
fn many(to: &str, n: u64) {
    let mut all: Vec<TcpStream> = (0..n).map(|_| dial(to)).collect();
    for stream in &mut all {
        stream.write_all(b"ping").expect("writing");
    }
    for stream in &mut all {
        let mut said = [0; 4];
        stream.read_exact(&mut said).expect("the echo");
        assert_eq!(&said, b"ping");
    }
    println!("{}", all.len());
}

/// Connections a second, one after the other.
fn rate(to: &str, n: u64) {
    let begun = Instant::now();
    for _ in 0..n {
        drop(dial(to));
    }
    println!("{:.0}/s", n as f64 / begun.elapsed().as_secs_f64());
}

fn pingpong(to: &str, n: u64) {
    let mut stream = dial(to);
    stream.set_nodelay(true).expect("no delay");
    let mut times = Vec::new();
    let mut buf = [5; 64];
    for _ in 0..n {
        let begun = Instant::now();
        stream.write_all(&buf).expect("writing");
        stream.read_exact(&mut buf).expect("the echo");
        times.push(begun.elapsed().as_nanos() as u64 / 1000);
    }
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100];
    println!("p50 {} p99 {} us", at(50), at(99));
}

/// Echoes over TCP on a port of its own; says to the first client whom it sees.
fn serve_echo(port: &str) {
    let listener = TcpListener::bind(addr(&format!("[::]:{port}"))).expect("binding");
    loop {
        let (mut stream, from) = listener.accept().expect("a client");
        std::thread::spawn(move || {
            let _ = writeln!(stream, "{}", from.ip().to_canonical());
            let mut buf = vec![0; 65536];
            while let Ok(n @ 1..) = stream.read(&mut buf) {
                if stream.write_all(&buf[..n]).is_err() {
                    return;
                }
            }
        });
    }
}

fn socket(like: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if like.is_ipv4() { addr("0.0.0.0:0") } else { addr("[::]:0") };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    socket
}

/// A datagram of each of several sizes comes back as it was.
fn udp(to: &str, max: usize) {
    let to = addr(to);
    let socket = socket(to);
    for n in [0, 1, 500, 1400, 1472, 1473, 4000, max] {
        let mut data = vec![0; n];
        fill(n as u64, &mut data);
        socket.send_to(&data, to).expect("sending");
        let mut got = vec![0; 65536];
        let (len, from) = socket.recv_from(&mut got).expect("the echo");
        assert_eq!((len, from), (n, to));
        assert!(got[..n] == data[..], "{n} bytes came back changed");
    }
    println!("ok");
}

/// Prints the error that a datagram to nobody brings back.
fn udp_error(to: &str) {
    let to = addr(to);
    let socket = socket(to);
    // Without this Linux keeps errors to itself that it takes for passing ones (host unreachable).
    use nix::sys::socket::{setsockopt, sockopt};
    match to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    }
    .expect("errors");
    socket.connect(to).expect("connecting");
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let sent = socket.send(b"anybody?");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
        let got = sent.and_then(|_| socket.recv(&mut [0; 10]));
        match got {
            Err(err) if !matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return println!("{}", err.raw_os_error().unwrap_or(-1));
            }
            Ok(n) => return println!("an answer of {n} bytes"),
            _ => {}
        }
    }
    println!("nothing");
}

/// One socket asks several servers whom they see: it must be the same.
fn whoami(servers: &[&str]) {
    let socket = socket(addr(servers[0]));
    for to in servers {
        socket.send_to(b"?", addr(to)).expect("sending");
        let mut buf = [0; 100];
        let n = socket.recv(&mut buf).expect("an answer");
        println!("{}", String::from_utf8_lossy(&buf[..n]));
    }
}

/// Whether an answer from another port than asked comes in.
fn udp_filter(to: &str) {
    let to = addr(to);
    let socket = socket(to);
    socket.set_read_timeout(Some(SOON)).expect("a limit");
    socket.send_to(b"hello", to).expect("sending");
    match socket.recv_from(&mut [0; 10]) {
        Ok((n, from)) => println!("{n} from {}", from.port()),
        Err(_) => println!("nothing"),
    }
}

/// Echoes over UDP on a port of its own, with the sender's address in front.
fn udp_serve(port: &str) {
    let socket = UdpSocket::bind(addr(&format!("0.0.0.0:{port}"))).expect("binding");
    let mut buf = vec![0; 65536];
    loop {
        let (n, from) = socket.recv_from(&mut buf).expect("a datagram");
        let mut answer = format!("{} ", from.ip()).into_bytes();
        answer.extend(&buf[..n]);
        socket.send_to(&answer, from).expect("answering");
    }
}

/// Datagrams from many sockets: each is an endpoint.
fn udp_flood(to: &str, n: u64) {
    let to = addr(to);
    let last = socket(to);
    for _ in 0..n {
        let one = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let _ = one.send_to(b"flood", to);
    }
    last.send_to(b"last", to).expect("sending");
    let mut buf = [0; 10];
    // Some of the flood, or this, may have been lost on the way: ask again until it is through.
    last.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
    let end = Instant::now() + PATIENCE;
    loop {
        match last.recv(&mut buf) {
            Ok(n) => return println!("{}", String::from_utf8_lossy(&buf[..n])),
            Err(_) if Instant::now() < end => {
                last.send_to(b"last", to).expect("sending");
            }
            Err(err) => panic!("no answer after the flood: {err}"),
        }
    }
}

/// Echoes many datagrams in flight at once; says how many came back, and whether each was whole.
fn udp_bulk(to: &str, n: u64) {
    let to = addr(to);
    let socket = socket(to);
    let (mut back, mut good) = (0, true);
    let mut buf = [0; 2000];
    for i in 0..n {
        let mut data = [0; 1200];
        data[..8].copy_from_slice(&i.to_be_bytes());
        socket.send_to(&data, to).expect("sending");
        if i % 32 == 31 {
            for _ in 0..32 {
                match socket.recv(&mut buf) {
                    Ok(len) => {
                        back += 1;
                        good &= len == 1200;
                    }
                    Err(_) => break,
                }
            }
        }
    }
    println!("{back} {good}");
}

/// Connections to where nobody answers, all at once; then one to where somebody does.
fn syn_flood(to: &str, n: u64) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let (nobody, somebody) = to.split_once(',').expect("two addresses");
    let nobody = addr(nobody);
    let sockets: Vec<_> = (0..n)
        .map(|_| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
                .expect("a socket");
            let _ = connect(&socket, &nobody);
            socket
        })
        .collect();
    let mut stream = dial(somebody);
    stream.write_all(b"alive").expect("writing");
    let mut said = [0; 5];
    stream.read_exact(&mut said).expect("the echo");
    println!("{} {}", sockets.len(), String::from_utf8_lossy(&said));
}

/// Connections that end in every way, many times over.
fn churn(to: &str, n: u64) {
    for i in 0..n {
        let mut stream = dial(to);
        match i % 4 {
            0 => {}
            1 => stream.write_all(b"some").expect("writing"),
            2 => {
                stream.write_all(b"some").expect("writing");
                stream.read_exact(&mut [0; 4]).expect("the echo");
                stream.shutdown(Shutdown::Write).expect("ending");
                assert_eq!(stream.read(&mut [0]).expect("its end"), 0);
            }
            _ => {
                stream.write_all(b"some").expect("writing");
                let zero = Some(Duration::ZERO);
                rustix::net::sockopt::set_socket_linger(&stream, zero).expect("linger");
            }
        }
    }
    println!("done");
}
