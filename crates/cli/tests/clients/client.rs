//! Programs that run inside, over the kernel's own TCP and UDP: each prints what it saw.

use crate::server::{drain, fill, many_files, udp_echo};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// Long enough for any machine: only what never comes reaches it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing moves for so long: the stream is full.
const QUIET: Duration = Duration::from_millis(700);

pub fn main(args: &[String]) -> ExitCode {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match &words[..] {
        ["connect", to @ ..] => to.iter().for_each(|to| println!("{}", connect(to))),
        ["get", to] => println!("{}", get(to)),
        ["echo", to, n] => echo(to, number(n)),
        ["reset", to] => reset(to),
        ["abort", to] => abort(to),
        ["fill", to, go] => fill_up(to, go),
        ["late", to, n] => late(to, number(n)),
        ["keep", to, n] => keep(to, number(n)),
        ["load", word, to @ ..] => load(word, to),
        ["udp", to] => udp(to),
        ["udp-error", to @ ..] => to.iter().for_each(|to| println!("{}", udp_error(to))),
        ["serve-udp", port] => serve_udp(port),
        ["connect-flood", nobody, n, somebody] => connect_flood(nobody, number(n), somebody),
        ["udp-flood", to, n, somebody] => udp_flood(to, number(n), somebody),
        _ => panic!("unknown client {words:?}"),
    }
    ExitCode::SUCCESS
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
}

fn dial(to: &str) -> TcpStream {
    TcpStream::connect(addr(to)).unwrap_or_else(|err| panic!("connecting to {to}: {err}"))
}

/// Waits until the test says so.
fn told() {
    std::io::stdin().read_line(&mut String::new()).expect("standard input");
}

/// `ok`, or the errno.
fn connect(to: &str) -> String {
    match TcpStream::connect_timeout(&addr(to), PATIENCE) {
        Ok(_) => "ok".to_owned(),
        Err(err) => err.raw_os_error().unwrap_or(-1).to_string(),
    }
}

fn get(to: &str) -> String {
    let mut said = String::new();
    dial(to).read_to_string(&mut said).expect("its word");
    said
}

/// Sends the pattern to an echo and checks what comes back; prints `begun` when some has.
fn echo(to: &str, n: u64) {
    let mut stream = dial(to);
    let mut writer = stream.try_clone().expect("a second handle");
    let write = spawn(move || {
        let (mut at, mut buf) = (0, vec![0; 1 << 16]);
        while at < n {
            let part = buf.len().min((n - at) as usize);
            fill(at, &mut buf[..part]);
            writer.write_all(&buf[..part]).expect("writing");
            at += part as u64;
        }
        writer.shutdown(Shutdown::Write).expect("ending");
    });
    stream.peek(&mut [0]).expect("the first byte");
    println!("begun");
    let (got, good) = drain(&mut stream).expect("the echo");
    write.join().expect("the writer");
    println!("{got} {good}");
}

/// Prints how reading ends when the server resets.
fn reset(to: &str) {
    let mut stream = dial(to);
    stream.write_all(b"x").expect("writing");
    println!("{:?}", stream.read(&mut [0]).map_err(|err| err.kind()));
}

/// Resets once the server has spoken.
fn abort(to: &str) {
    let mut stream = dial(to);
    stream.read_exact(&mut [0; 3]).expect("its word");
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(stream);
    println!("done");
}

/// Writes until nothing more goes in, says how much; when told, lets the server read and says what
/// that got.
fn fill_up(to: &str, go: &str) {
    let mut stream = dial(to);
    stream.set_nonblocking(true).expect("non-blocking");
    let (mut sent, mut buf, mut quiet) = (0u64, vec![0; 1 << 16], Instant::now());
    while quiet.elapsed() < QUIET {
        fill(sent, &mut buf);
        match stream.write(&buf) {
            Ok(n) => {
                sent += n as u64;
                quiet = Instant::now();
                assert!(sent < 1 << 30, "somebody buffers without bound");
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(1)),
            Err(err) => panic!("writing: {err}"),
        }
    }
    println!("{sent}");
    told();
    drop(dial(go));
    stream.set_nonblocking(false).expect("blocking");
    stream.shutdown(Shutdown::Write).expect("ending");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("the answer");
    println!("{said}");
}

/// Reads nothing until told; then `n` bytes, which it checks.
fn late(to: &str, n: u64) {
    let mut stream = dial(to);
    println!("connected");
    told();
    let mut buf = vec![0; 1 << 16];
    let mut want = buf.clone();
    let (mut at, mut good) = (0, true);
    while at < n {
        let got = stream.read(&mut buf).expect("more");
        assert!(got > 0, "it ended after {at} bytes");
        fill(at, &mut want[..got]);
        good &= buf[..got] == want[..got];
        at += got as u64;
    }
    println!("{good}");
}

/// Opens connections and keeps them until told.
fn keep(to: &str, n: u64) {
    many_files();
    println!("ready");
    told();
    let kept: Vec<TcpStream> = (0..n).map(|_| dial(to)).collect();
    println!("{}", kept.len());
    told();
    drop(kept);
    println!("closed");
    told();
}

/// Keeps streams and datagrams going for ever, with children that have `word` as an argument.
fn load(word: &str, to: &[&str]) {
    let [sink, firehose, echo] = to else { panic!("three addresses") };
    let mut children = Vec::new();
    for _ in 0..2 {
        // Nobody waits for them: they are there to outlive everything that is killed.
        children.push(Command::new("sleep").arg(word).spawn().expect("sleep"));
        children.push(Command::new("setsid").args(["sleep", word]).spawn().expect("setsid"));
        let mut out = dial(sink);
        spawn(move || while out.write_all(&[7; 1 << 16]).is_ok() {});
        let mut hose = dial(firehose);
        spawn(move || while let Ok(1..) = hose.read(&mut [0; 1 << 16]) {});
    }
    let (socket, echo) = (socket(addr(echo)), addr(echo));
    println!("up");
    loop {
        let _ = socket.send_to(&[5; 1000], echo);
        let _ = socket.recv(&mut [0; 2000]);
    }
}

fn socket(like: SocketAddr) -> UdpSocket {
    let any = if like.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(addr(any)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    socket
}

/// A datagram of each of several sizes comes back as it was. The first that is too long for the way
/// is what tells the sender so: it is sent again.
fn udp(to: &str) {
    let to = addr(to);
    let socket = socket(to);
    socket.set_read_timeout(Some(QUIET)).expect("a limit");
    for n in [0, 1, 512, 1472, 1473, 9000, 65000] {
        let mut data = vec![0; n];
        fill(n as u64, &mut data);
        let mut got = vec![0; 1 << 16];
        let (end, mut tries) = (Instant::now() + PATIENCE, 0);
        let (len, from) = loop {
            tries += 1;
            let _ = socket.send_to(&data, to);
            match socket.recv_from(&mut got) {
                // Not a late answer to what was sent before.
                Ok(echo) if echo.0 == n => break echo,
                Ok(_) => {}
                Err(err) => assert!(Instant::now() < end, "{n} bytes never came back: {err}"),
            }
        };
        eprintln!("{n} bytes: {tries} tries");
        assert_eq!((len, from), (n, to));
        assert!(got[..n] == data[..], "{n} bytes came back changed");
    }
    println!("ok");
}

/// The error that a datagram brings back.
fn udp_error(to: &str) -> String {
    use nix::sys::socket::{setsockopt, sockopt};
    let to = addr(to);
    let socket = socket(to);
    // Without this Linux keeps errors to itself that it takes for passing ones (host unreachable).
    match to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    }
    .expect("errors");
    socket.connect(to).expect("connecting");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match socket.send(b"anybody?").and_then(|_| socket.recv(&mut [0; 10])) {
            Ok(n) => return format!("an answer of {n} bytes"),
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(err) => return err.raw_os_error().unwrap_or(-1).to_string(),
        }
    }
    "nothing".to_owned()
}

/// Echoes datagrams.
fn serve_udp(port: &str) {
    udp_echo(UdpSocket::bind(addr(&format!("[::]:{port}"))).expect("binding"));
    println!("ready");
    told();
}

/// Round trips with somebody on one connection, beside what `flood` does; how many there were.
fn served_beside(somebody: &str, flood: impl FnOnce()) -> u64 {
    static OVER: AtomicBool = AtomicBool::new(false);
    let mut stream = dial(somebody);
    let beside = spawn(move || {
        let mut rounds = 0u64;
        loop {
            stream.write_all(&[9; 100]).expect("writing");
            stream.read_exact(&mut [0; 100]).expect("the echo");
            rounds += 1;
            if OVER.load(Ordering::SeqCst) {
                return rounds;
            }
            sleep(Duration::from_millis(1));
        }
    });
    flood();
    OVER.store(true, Ordering::SeqCst);
    beside.join().expect("it is served")
}

/// Connections to where nobody answers, all at once; then some to where somebody does.
fn connect_flood(nobody: &str, n: u64, somebody: &str) {
    use socket2::{Domain, Socket, Type};
    many_files();
    println!("ready");
    told();
    let mut sockets = Vec::new();
    let rounds = served_beside(somebody, || {
        for i in 0..n {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("non-blocking");
            let to = addr(&format!("{nobody}.{}:80", 1 + i % 200));
            let _ = socket.connect(&to.into());
            sockets.push(socket);
        }
    });
    for _ in 0..50 {
        let mut stream = dial(somebody);
        stream.write_all(b"alive").expect("writing");
        stream.read_exact(&mut [0; 5]).expect("the echo");
    }
    println!("{} {}", sockets.len(), rounds > 0);
    told();
}

/// A datagram from each of many sockets; then some that are answered.
fn udp_flood(to: &str, n: u64, somebody: &str) {
    println!("ready");
    told();
    let to = addr(to);
    let rounds = served_beside(somebody, || {
        for _ in 0..n {
            let _ = socket(to).send_to(&[3; 700], to);
        }
    });
    let socket = socket(to);
    socket.set_read_timeout(Some(QUIET)).expect("a limit");
    // What the flood left in queues may cost a datagram; it may not cost all.
    let end = Instant::now() + PATIENCE;
    let served = loop {
        let _ = socket.send_to(b"last", to);
        let answer = socket.recv(&mut [0; 100]);
        if answer.is_ok() || Instant::now() > end {
            break answer.is_ok();
        }
    };
    println!("{served} {}", rounds > 0);
    told();
}
