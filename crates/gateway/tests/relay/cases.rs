//! The cases.

use crate::server::{CLOSED, ECHO, HALF, LAST, OTHER, RESET, SINK, SOURCE, WHOAMI};
use crate::world::{HOST, NOBODY, Ran, SERVER, SERVER_V6, World, need, own, until};
use crate::{Outcome, floods};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

type Case = (&'static str, fn(&World) -> Outcome);

pub const CASES: &[Case] = &[
    ("udp_echo", udp_echo),
    ("udp_bulk", udp_bulk),
    ("udp_mapping", udp_mapping),
    ("udp_filtering", udp_filtering),
    ("udp_errors", udp_errors),
    ("udp_forward", udp_forward),
    ("dns_dig", dns_dig),
    ("dns_without_resolver", dns_without_resolver),
    ("ping", ping),
    ("ping_errors", ping_errors),
    ("tcp_echo", tcp_echo),
    ("tcp_streams", tcp_streams),
    ("tcp_refusals", tcp_refusals),
    ("tcp_half_close", tcp_half_close),
    ("tcp_resets", tcp_resets),
    ("tcp_backpressure", tcp_backpressure),
    ("tcp_forward", tcp_forward),
    ("tcp_many", tcp_many),
    ("policy_holds", policy_holds),
    ("host_loopback", host_loopback),
    ("curl", curl),
    ("flood_udp_endpoints", floods::udp_endpoints),
    ("flood_syns", floods::syns),
    ("flood_flows", floods::flows),
];

const ECONNREFUSED: &str = "111";
const EHOSTUNREACH: &str = "113";
const EACCES: &str = "13";

fn at(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn udp_echo(world: &World) -> Outcome {
    for host in [SERVER, SERVER_V6] {
        let max = if host == SERVER { "65507" } else { "65000" };
        let ran = world.client(&[], &["udp", &at(host, ECHO), max]);
        assert_eq!(ran.good(), "ok");
        assert!(ran.count("UdpOut") >= 8 && ran.count("UdpIn") >= 8);
        assert_eq!(ran.count("UdpEndpoints"), 1);
    }
    Ok(())
}

fn udp_bulk(world: &World) -> Outcome {
    let ran = world.client(&[], &["udp-bulk", &at(SERVER, ECHO), "3200"]);
    assert_eq!(ran.good(), "3200 true");
    Ok(())
}

/// RFC 4787 REQ-1: the mapping depends on the endpoint alone.
fn udp_mapping(world: &World) -> Outcome {
    let servers = [at(SERVER, WHOAMI), at("203.0.113.1", WHOAMI)];
    let ran = world.client(&[], &["whoami", &servers[0], &servers[1]]);
    let said = ran.good();
    let seen: Vec<&str> = said.lines().collect();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].starts_with(HOST), "{said}");
    Ok(())
}

fn udp_filtering(world: &World) -> Outcome {
    let other = format!("5 from {}", OTHER + 100);
    for (filter, want) in [("none", &*other), ("address", &*other), ("port", "nothing")] {
        let ran = world.client(&["--filter", filter], &["udp-filter", &at(SERVER, OTHER)]);
        assert_eq!(ran.good(), want, "{filter}");
        assert_eq!(ran.count("UdpFiltered"), u64::from(want == "nothing"));
    }
    Ok(())
}

fn udp_errors(world: &World) -> Outcome {
    for host in [SERVER, SERVER_V6] {
        let ran = world.client(&[], &["udp-error", &at(host, CLOSED)]);
        assert_eq!(ran.good(), ECONNREFUSED, "{host}");
        assert!(ran.count("ErrorsPassed") > 0);
    }
    // Nobody answers the host's ARP: its kernel says so after three seconds.
    let ran = world.client(&[], &["udp-error", &at(NOBODY, ECHO)]);
    assert_eq!(ran.good(), EHOSTUNREACH);
    Ok(())
}

/// A program that runs until the test has talked to it.
struct Behind<'a> {
    running: crate::world::Running,
    _world: &'a World,
}

impl<'a> Behind<'a> {
    fn start(world: &'a World, options: &[&str], words: &[&str]) -> Behind<'a> {
        let own = own();
        let mut program = vec![own.as_str(), "client"];
        program.extend(words);
        Behind { running: world.start(options, &program), _world: world }
    }
    fn end(self) -> Ran {
        let pid = nix::unistd::Pid::from_raw(self.running.pid() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
        self.running.finish()
    }
}

fn udp_forward(world: &World) -> Outcome {
    let options = ["-p", "127.0.0.1:5300:53/udp", "-p", "198.18.0.1:5301:53/udp"];
    let behind = Behind::start(world, &options, &["udp-serve", "53"]);
    for (to, seen) in [("127.0.0.1:5300", "10.0.2.2"), ("198.18.0.1:5301", HOST)] {
        let socket = UdpSocket::bind((seen.replace("10.0.2.2", "127.0.0.1"), 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
        let mut buf = [0; 100];
        let mut said = String::new();
        until("the program's answer", || {
            socket.send_to(b"hello", to).expect("sending");
            said = match socket.recv(&mut buf) {
                Ok(n) => String::from_utf8_lossy(&buf[..n]).into_owned(),
                Err(_) => return false,
            };
            true
        });
        assert_eq!(said, format!("{seen} hello"));
    }
    behind.end();
    Ok(())
}

/// A resolver on the host's loopback that answers every A question with 192.0.2.53.
const RESOLVER: &str = "
import socket, sys, threading
def answer(q):
    end = 12
    while q[end]: end += q[end] + 1
    end += 5
    return q[:2] + b'\\x81\\x80' + b'\\0\\1\\0\\1\\0\\0\\0\\0' + q[12:end] + b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xc0\\0\\2\\x35'
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(('127.0.0.53', 53))
t = socket.socket()
t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
t.bind(('127.0.0.53', 53))
t.listen()
def tcp():
    while True:
        c, _ = t.accept()
        q = c.recv(4096)
        a = answer(q[2:])
        c.sendall(len(a).to_bytes(2, 'big') + a)
        c.close()
threading.Thread(target=tcp, daemon=True).start()
print('ready', flush=True)
while True:
    q, a = u.recvfrom(4096)
    u.sendto(answer(q), a)
";

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn resolver() -> Ended {
    let mut child = Command::new("python3")
        .args(["-c", RESOLVER])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting the resolver");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its output");
    BufReader::new(stdout).read_line(&mut line).expect("its word");
    assert_eq!(line, "ready\n");
    Ended(child)
}

fn dns_dig(world: &World) -> Outcome {
    need(&["dig", "python3"])?;
    let _resolver = resolver();
    let conf = world.path("resolv.conf");
    fs::write(&conf, "nameserver 127.0.0.53\n").expect("resolv.conf");
    let conf = conf.to_str().expect("a UTF-8 path");
    for how in ["+notcp", "+tcp"] {
        for server in ["@10.0.2.3", "@fd00::3"] {
            let ran =
                world.run(&["--resolv", conf], &["dig", "+short", how, server, "name.example"]);
            assert_eq!(ran.good(), "192.0.2.53", "{how} {server}");
        }
    }
    // The program itself may not go where the forwarder goes.
    let ran =
        world.run(&["--resolv", conf], &["dig", "+tries=1", "+time=2", "@127.0.0.53", "x.example"]);
    assert!(!ran.output.status.success());
    Ok(())
}

fn dns_without_resolver(world: &World) -> Outcome {
    need(&["dig"])?;
    let conf = world.path("empty.conf");
    fs::write(&conf, "# none\n").expect("resolv.conf");
    let ran = world.run(&["--resolv", conf.to_str().expect("UTF-8")], &["dig", "name.example"]);
    assert!(ran.good().contains("status: SERVFAIL"), "{}", ran.stdout());
    assert!(ran.count("DnsNoResolver") > 0);
    // Nobody listens at the resolver: SERVFAIL as soon as the host knows.
    let conf = world.path("dead.conf");
    fs::write(&conf, format!("nameserver {SERVER}\n")).expect("resolv.conf");
    let ran = world.run(&["--resolv", conf.to_str().expect("UTF-8")], &["dig", "name.example"]);
    assert!(ran.good().contains("status: SERVFAIL"), "{}", ran.stdout());
    Ok(())
}

fn ping(world: &World) -> Outcome {
    need(&["ping"])?;
    for to in [SERVER, SERVER_V6, "203.0.113.1", "10.0.2.2", "fd00::2"] {
        let ran = world.run(&[], &["ping", "-c", "3", "-i", "0.05", "-s", "1000", "-W", "20", to]);
        let said = ran.good();
        assert!(said.contains("3 received"), "{said}");
        let relayed = if to.starts_with("10.") || to.starts_with("fd") { 0 } else { 3 };
        assert_eq!(ran.count("EchoIn"), relayed, "{to}");
    }
    Ok(())
}

fn ping_errors(world: &World) -> Outcome {
    need(&["ping"])?;
    // One hop is the gateway, two are the host's way.
    let ran = world.run(&[], &["ping", "-c", "1", "-t", "1", "-W", "20", SERVER]);
    assert!(ran.stdout().contains("From 10.0.2.2"), "{}", ran.stdout());
    assert!(ran.stdout().contains("Time to live exceeded"), "{}", ran.stdout());
    let ran = world.run(&[], &["ping", "-c", "1", "-W", "20", "169.254.169.254"]);
    assert!(ran.stdout().contains("Packet filtered"), "{}", ran.stdout());
    assert_eq!(ran.count("link-local"), 1);
    Ok(())
}

fn tcp_echo(world: &World) -> Outcome {
    for host in [SERVER, SERVER_V6] {
        let ran = world.client(&[], &["echo", &at(host, ECHO), "1000000"]);
        assert_eq!(ran.good(), "1000000 true", "{host}");
        assert_eq!((ran.count("TcpOpened"), ran.count("flows")), (1, 0));
    }
    Ok(())
}

fn tcp_streams(world: &World) -> Outcome {
    let each = "16000000";
    let ran = world.client(&[], &["upload", &at(SERVER, SINK), each, "8"]);
    println!("  up, 8 streams: {}", ran.good());
    let ran = world.client(&[], &["download", &at(SERVER, SOURCE), each, "8"]);
    println!("  down, 8 streams: {}", ran.good());
    assert_eq!((ran.count("TcpOpened"), ran.count("flows")), (8, 0));
    Ok(())
}

fn tcp_refusals(world: &World) -> Outcome {
    for host in [SERVER, SERVER_V6] {
        let ran = world.client(&[], &["connect", &at(host, CLOSED)]);
        assert_eq!(ran.good(), ECONNREFUSED, "{host}");
        // On a slow machine the program's SYN, sent again, may cross the refusal: each is judged.
        assert!(ran.count("TcpUpstreamRefused") >= 1);
        assert_eq!(ran.count("TcpOpened"), 0);
    }
    let ran = world.client(&[], &["connect", &at(NOBODY, 80)]);
    assert_eq!(ran.good(), EHOSTUNREACH);
    Ok(())
}

fn tcp_half_close(world: &World) -> Outcome {
    let ran = world.client(&[], &["half", &at(SERVER, HALF), &at(SERVER, LAST)]);
    assert_eq!(ran.good(), "300000");
    Ok(())
}

fn tcp_resets(world: &World) -> Outcome {
    let ran = world.client(&[], &["reset", &at(SERVER, RESET)]);
    assert_eq!(ran.good(), "Err(ConnectionReset)");
    assert_eq!(ran.count("TcpUpstreamReset"), 1);
    let ran = world.client(&[], &["abort", &at(SERVER, ECHO)]);
    assert_eq!(ran.good(), "done");
    assert_eq!((ran.count("TcpProgramReset"), ran.count("flows")), (1, 0));
    Ok(())
}

fn tcp_backpressure(world: &World) -> Outcome {
    let ran = world.client(&[], &["stall", &at(SERVER, ECHO)]);
    ran.good();
    assert!(ran.count("peak_kib") < 400 << 10, "{} KiB", ran.count("peak_kib"));
    Ok(())
}

fn tcp_forward(world: &World) -> Outcome {
    let options = ["-p", "127.0.0.1:8080:80", "-p", "198.18.0.1:8081:80", "-p", "8082:81"];
    let behind = Behind::start(world, &options, &["serve-echo", "80"]);
    for (to, seen) in [("127.0.0.1:8080", "10.0.2.2"), ("198.18.0.1:8081", HOST)] {
        let mut whom = String::new();
        let mut stream = None;
        // The gateway listens before the program does.
        until("the program listens", || {
            let Ok(one) = TcpStream::connect(to) else { return false };
            let mut reader = BufReader::new(one.try_clone().expect("a second handle"));
            whom.clear();
            let said = reader.read_line(&mut whom).is_ok_and(|n| n > 0);
            stream = Some((one, reader));
            said
        });
        let (mut stream, mut reader) = stream.expect("a stream");
        assert_eq!(whom.trim(), seen);
        stream.write_all(&[9; 100_000]).expect("writing");
        stream.shutdown(Shutdown::Write).expect("ending");
        let mut back = Vec::new();
        reader.read_to_end(&mut back).expect("the echo");
        assert!(back == [9; 100_000]);
    }
    // Nobody listens on 81 inside: established by the host's kernel, then reset.
    let refused = TcpStream::connect("127.0.0.1:8082").and_then(|mut s| s.read(&mut [0]));
    let kind = refused.expect_err("a reset").kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    behind.end();
    Ok(())
}

fn tcp_many(world: &World) -> Outcome {
    let ran = world.client(&[], &["many", &at(SERVER, ECHO), "400"]);
    assert_eq!(ran.good(), "400");
    assert_eq!(ran.count("flows"), 0);
    let ran = world.client(&["--flows", "50"], &["many", &at(SERVER, ECHO), "50"]);
    assert_eq!(ran.good(), "50");
    Ok(())
}

fn policy_holds(world: &World) -> Outcome {
    // Listens on all of the host's addresses.
    let listener = std::net::TcpListener::bind("[::]:8090").expect("binding");
    listener.set_nonblocking(true).expect("non-blocking");
    for host in [HOST, "169.254.169.254", "10.0.2.2", "10.0.2.77", "2001:db8::1", "64:ff9b::c612:1"]
    {
        let ran = world.client(&[], &["connect", &at(host, 8090)]);
        let want = match host {
            "10.0.2.2" => ECONNREFUSED,
            _ if host.contains(':') => EACCES,
            _ => EHOSTUNREACH,
        };
        assert_eq!(ran.good(), want, "{host}");
    }
    let udp = UdpSocket::bind("[::]:8090").expect("binding");
    udp.set_nonblocking(true).expect("non-blocking");
    let ran = world.client(&[], &["udp-error", &at(HOST, 8090)]);
    assert_eq!(ran.good(), EHOSTUNREACH);
    assert!(ran.count("the host's own address") > 0);
    assert!(listener.accept().is_err(), "somebody got through");
    assert!(udp.recv(&mut [0; 100]).is_err(), "something got through");
    Ok(())
}

fn host_loopback(world: &World) -> Outcome {
    let listener = std::net::TcpListener::bind("127.0.0.1:8091").expect("binding");
    let ran = world.client(&["--host-loopback"], &["connect", "10.0.2.2:8091"]);
    assert_eq!(ran.good(), "ok");
    drop(listener);
    let udp = UdpSocket::bind("127.0.0.1:8092").expect("binding");
    let echo = std::thread::spawn(move || {
        let mut buf = vec![0; 65536];
        loop {
            let (n, from) = udp.recv_from(&mut buf).expect("a datagram");
            udp.send_to(&buf[..n], from).expect("answering");
            if n > 60000 {
                return;
            }
        }
    });
    let ran = world.client(&["--host-loopback"], &["udp", "10.0.2.2:8092", "65000"]);
    assert_eq!(ran.good(), "ok");
    echo.join().expect("the echo");
    Ok(())
}

fn curl(world: &World) -> Outcome {
    need(&["curl", "python3"])?;
    let dir = world.path("www");
    fs::create_dir_all(&dir).expect("a directory");
    let body: Vec<u8> = (0..3_000_000u64).map(crate::server::pattern).collect();
    fs::write(dir.join("file"), &body).expect("a file");
    let mut server = Command::new("python3")
        .args(["-u", "-m", "http.server", "8093", "--bind", "127.0.0.1", "--directory"])
        .arg(&dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a server");
    let mut line = String::new();
    let stdout = server.stdout.take().expect("its output");
    BufReader::new(stdout).read_line(&mut line).expect("its word");
    let _server = Ended(server);
    let url = "http://10.0.2.2:8093/file";
    let ran = world.run(&["--host-loopback"], &["curl", "-sSf", "--max-time", "100", url]);
    ran.good();
    assert!(ran.output.stdout == body);
    Ok(())
}
