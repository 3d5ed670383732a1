//! The same of `linerate run`, and of a program that has a stack of ours in it; and instances at which
//! nothing is wrong.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::tcp::Listen;
use linerate_core::time::{Instant, MS};
use linerate_dev::drive::{App, Drive, clock_ns};
use linerate_dev::netdev::Netdev;
use linerate_dev::packet::{Config, Packet};
use linerate_dev::poller::{Event, Poller};
use linerate_gateway::control::{ControlServer, Meta, answer};

use super::again;
use super::doctor::{Case, Cure, look, prove};
use super::own::{NAME, Own, Running, own};
use super::rig::FAR;
use super::traffic::{begin_connects, connect, udp_socket};

/// Starts this binary once more, below `linerate run` in the near namespace, to play a role of a test.
fn run(own: &Own, options: &[&str], test: &str, role: &str) -> Option<Running> {
    let near = &own.rig.near;
    let probe = own.linerate(Some(near), &["run", "--", "true"]).output().expect("it starts");
    if !probe.status.success() {
        super::rig::skip(test, &String::from_utf8_lossy(&probe.stderr));
        return None;
    }
    let args = [&["run", "--name", NAME], options, &["--"]].concat();
    let mut command = again::again(own.linerate(Some(near), &args), test, role);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().expect("linerate starts"));
    own.wait();
    Some(running)
}

/// Sends bursts until it is ended.
fn flood() -> ! {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    loop {
        for _ in 0..50 {
            let _ = socket.send_to(&[7; 60], (FAR, 9));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_a_program_sends_by_run_squeezes_a_small_budget() {
    const TEST: &str = "run::what_a_program_sends_by_run_squeezes_a_small_budget";
    if again::role() == "flood" {
        flood();
    }
    let Some(own) = own(TEST, &[]) else { return };
    own.rig.far.ip("addr add 10.77.0.2/16 dev vb");
    let _heard = udp_socket(&own.rig.far, 9, 4 << 20);
    let small = ["--set", "net.core.netdev_budget=4"];
    let Some(running) = run(&own, &small, TEST, "flood") else { return };
    let case = Case { own: &own, rule: "R16", also: &[], options: &[] };
    prove(&case, || {}, Cure::Set(&mut || {}));
    drop(running);
}

/// A port of the host leads to one in the program's network, at which nobody listens.
#[test]
fn connections_that_a_program_refuses_are_named() {
    const TEST: &str = "run::connections_that_a_program_refuses_are_named";
    let go = |dir: &std::path::Path| dir.join("listen");
    if again::role() == "late" {
        let here = std::env::current_dir().expect("a directory");
        while !go(&here).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let listener = TcpListener::bind("0.0.0.0:81").expect("a free port");
        listener.incoming().for_each(drop);
    }
    let Some(own) = own(TEST, &[]) else { return };
    let Some(running) = run(&own, &["-p", "127.0.0.1:8181:81"], TEST, "late") else { return };
    let case = Case { own: &own, rule: "R65", also: &[], options: &[] };
    prove(
        &case,
        || {
            for _ in 0..5 {
                // The host's kernel accepts it; what becomes of it then is known later.
                let to = (Ipv4Addr::LOCALHOST, 8181);
                let client = own.rig.near.run(|| TcpStream::connect(to));
                let _ = client.and_then(|mut client| client.read(&mut [0]));
            }
        },
        Cure::By(&mut || fs::write(go(&own.dir), "").expect("a file")),
    );
    drop(running);
}

/// A program with a stack of ours, which listens and accepts nobody.
struct Busy {
    control: ControlServer,
    _listener: SocketId,
}

impl App for Busy {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        let uptime_ns = shard.net.now.ns();
        let meta = || Meta { name: NAME.into(), uptime_ns, ..Meta::default() };
        self.control.turn(&mut |request| answer(shard, request, meta));
        Ok(false)
    }
    fn next_timer(&self) -> Option<Instant> {
        // Its control socket is looked at now and then.
        Some(Instant::from_ns(clock_ns()).plus(5 * MS))
    }
}

fn busy(own: &Own, over: &AtomicBool) {
    own.rig.far.enter();
    let link = Netdev::open().expect("netlink").link("vb").expect("a veth");
    let mut shard = Shard::new(7);
    shard.set_knob("net.core.somaxconn", "4").expect("in range");
    let mut drive = Drive::new(shard).expect("epoll");
    let device = Packet::open(&link, Config::default()).expect("a packet socket");
    let number = drive.add_device(Box::new(device), |_| ()).expect("a device");
    drive.shard.add_addr(number, IpAddr::V4(FAR), 16).expect("an address");
    let listen = Listen { port: 9200, backlog: 100, ..Listen::default() };
    let listener = drive.shard.tcp_listen(listen).expect("a free port");
    let sockets = own.dir.join("linerate");
    let control = ControlServer::bind_in(&sockets, NAME).expect("a free name");
    let mut app = Busy { control, _listener: listener };
    while !over.load(Ordering::Relaxed) {
        drive.turn(&mut app).expect("a turn");
    }
    assert!(drive.shard.net.counts.unaccounted().is_empty(), "every packet is accounted for");
}

#[test]
fn an_accept_queue_that_nobody_empties_overflows() {
    let Some(own) = own("an_accept_queue_that_nobody_empties_overflows", &[]) else { return };
    let sockets = own.dir.join("linerate");
    fs::DirBuilder::new().mode(0o700).create(&sockets).expect("a directory");
    let over = AtomicBool::new(false);
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| busy(&own, &over));
        let _end = End(&over);
        own.wait();
        let case = Case { own: &own, rule: "R48", also: &[], options: &[] };
        let dose = || {
            let begun = begin_connects(&own.rig.near, (FAR, 9200), 3);
            std::thread::sleep(Duration::from_millis(20));
            drop(begun);
        };
        let found = prove(&case, dose, Cure::Set(&mut || {}));
        assert!(found["title"].as_str().is_some_and(|t| t.contains(":9200")), "{found:#}");
    });
}

/// A request over TCP and its answer.
fn request(own: &Own, port: u16, ask: &[u8], least: usize) {
    let mut client = connect(&own.rig.near, (FAR, port));
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    client.write_all(ask).expect("it reads");
    let mut heard = vec![0; least];
    client.read_exact(&mut heard).expect("its answer");
}

/// Requests, transfers, datagrams, connections, echo requests.
fn load(own: &Own, socket: &UdpSocket, bulk: &mut TcpStream) {
    request(own, 80, b"GET / HTTP/1.0\r\n\r\n", 15);
    request(own, 7, b"echo", 4);
    bulk.write_all(&[7; 100_000]).expect("it reads");
    for _ in 0..5 {
        let _ = socket.send_to(b"datagram", SocketAddr::from((FAR, 7)));
    }
    std::thread::sleep(Duration::from_millis(5));
    while socket.recv(&mut [0; 100]).is_ok() {}
}

/// A machine that has much else to do can really lose something: of some looks one has to be clean.
fn is_healthy(own: &Own, mut dose: impl FnMut()) {
    let mut said = Vec::new();
    for _ in 0..5 {
        let seen = look(own, &["--for", "2s", "--every", "500ms"], &mut dose);
        if seen.findings().is_empty() {
            return;
        }
        said.push(seen.text());
    }
    panic!("findings, though nothing is wrong:\n{}", said.join("\n"));
}

#[test]
fn a_healthy_instance_under_load_gives_no_finding() {
    let Some(own) = own("a_healthy_instance_under_load_gives_no_finding", &[]) else { return };
    let services = ["--serve", "echo", "--serve", "discard", "--serve", "http=www"];
    for queues in ["1", "2"] {
        let up = own.up(&[&services[..], &["--queues", queues]].concat());
        let socket = own.rig.near.run(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
        socket.set_nonblocking(true).expect("a socket");
        let mut bulk = connect(&own.rig.near, (FAR, 9));
        let before = own.received();
        is_healthy(&own, || load(&own, &socket, &mut bulk));
        assert!(own.received() > before + 100, "it was under load");
        is_healthy(&own, || {});
        drop(bulk);
        up.end();
    }
}
