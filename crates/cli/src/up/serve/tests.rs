//! Goal: a connection that does nothing costs little memory, and one that only seems to do something
//! ends. Method: the services of a shard and a client's shard, frames handed from one to the other,
//! in virtual time.

use super::*;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Pkt};
use linerate_core::sock::error::TcpError;
use linerate_core::tcp::Connect;
use linerate_core::time::{MS, SEC};
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;

use crate::up::config::At;
use dns::Zone;

fn addr(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, host).into()
}

struct Wire {
    /// The client, and the server.
    shards: [Shard; 2],
    services: Services,
    now: Instant,
    poller: Poller,
    batch: Batch,
}

impl Wire {
    fn new(kind: Kind) -> Wire {
        let shard = |host: u8| {
            let mut shard = Shard::new(u64::from(host));
            let dev = shard.add_iface(Iface::new("t0", L2::Ip, Mac([0; 6]), 1500));
            shard.add_addr(dev, addr(host), 24).expect("an address");
            shard
        };
        let mut shards = [shard(1), shard(2)];
        let service = Service { kind, addr: None, port: 80, at: At::default() };
        let served = Served::open(service).expect("it can be opened");
        let services = Services::new(&mut shards[1], &[served]).expect("a free port");
        let poller = Poller::new(8).expect("epoll");
        Wire { shards, services, now: Instant::from_ns(SEC), poller, batch: Batch::new() }
    }

    /// A millisecond of both.
    fn tick(&mut self) {
        self.now = self.now.plus(MS);
        for from in 0..2 {
            let shard = &mut self.shards[from];
            shard.net.now = self.now;
            path::timers(shard, self.now);
            if from == 1 {
                self.services.turn(shard, &self.poller, &[]).expect("a turn");
            }
            path::transmit(shard, &mut self.batch);
            let ring = path::qdisc_run(&mut shard.net, 0, 0, usize::MAX);
            let sent: Vec<Pkt> = ring.map_or(Vec::new(), |ring| ring.drain(..).collect());
            for pkt in sent {
                let frame: Vec<u8> = pkt.slices().flatten().copied().collect();
                tx_done(&mut self.shards[from].net, pkt, true);
                let to = &mut self.shards[1 - from];
                to.net.now = self.now;
                let mut pkt = to.net.pool.alloc().expect("room");
                pkt.put(frame.len()).copy_from_slice(&frame);
                pkt.rx_time = self.now;
                self.batch.push(pkt);
                path::receive(to, &mut self.batch);
            }
        }
    }

    fn run(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.tick());
    }

    fn connect(&mut self) -> SocketId {
        let connect = Connect { local: None, remote: SocketAddr::new(addr(2), 80), user: 0 };
        self.shards[0].net.now = self.now;
        let id = self.shards[0].tcp_connect(connect).expect("a port");
        self.run(5);
        id
    }

    fn send(&mut self, id: SocketId, text: &[u8]) {
        assert_eq!(self.shards[0].tcp_send(id, text), Ok(text.len()));
        self.run(20);
    }

    /// Reads at most `most` bytes; `None` at the end of the connection.
    fn read(&mut self, id: SocketId, most: usize) -> Option<usize> {
        let mut buf = vec![0; most];
        match self.shards[0].tcp_recv(id, &mut buf) {
            Ok(0) => None,
            Ok(n) => Some(n),
            Err(TcpError::WouldBlock) => Some(0),
            Err(_) => None,
        }
    }

    /// The server's connections, and what their buffers hold.
    fn buffers(&self) -> Vec<usize> {
        let each = self.services.conns.iter().flatten();
        each.map(|slot| match &slot.conn {
            Conn::Http(http) => http.memory(),
            Conn::Dns(dns) => dns.memory(),
            _ => 0,
        })
        .collect()
    }
}

/// A directory that goes with the test.
struct Dir(std::path::PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("lr-serve-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        std::fs::write(path.join("big"), vec![7; 20_000_000]).expect("a file");
        std::fs::write(path.join("small"), "small").expect("a file");
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_idle_client_of_http_costs_no_more_than_its_small_buffers() {
    let dir = Dir::new("idle");
    let mut wire = Wire::new(Kind::Http(dir.0.clone()));
    let id = wire.connect();
    // A long head, and many answers at once.
    let long = format!("GET /small HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(7000));
    wire.send(id, long.as_bytes());
    wire.send(id, &b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n".repeat(100));
    assert!(wire.read(id, 1 << 20).is_some_and(|n| n > 10_000), "they are answered");
    wire.run(100);
    let held = wire.buffers();
    assert_eq!(held.len(), 1, "it is open");
    assert!(held[0] <= 2 * IDLE_BYTES, "{held:?}");
}

#[test]
fn an_idle_client_of_dns_costs_no_more_than_its_small_buffer() {
    let mut zone = Zone::default();
    zone.add("a.test", addr(9)).expect("a name");
    let mut wire = Wire::new(Kind::Dns(zone));
    let id = wire.connect();
    let query = b"\0\x18\0\x01\0\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01";
    wire.send(id, &query.repeat(100));
    assert!(wire.read(id, 1 << 20).is_some_and(|n| n > 100 * 30), "they are answered");
    wire.run(100);
    let held = wire.buffers();
    assert_eq!(held.len(), 1, "it is open");
    assert!(held[0] <= IDLE_BYTES, "{held:?}");
}

/// A client that takes a byte a minute is given up; one that takes its file slowly is not.
#[test]
fn a_client_that_takes_next_to_nothing_of_an_answer_is_given_up() {
    for (step_ms, bytes, stays) in [(1_000, 1, false), (1_000, 2_000, true)] {
        let dir = Dir::new(&format!("stall-{bytes}"));
        let mut wire = Wire::new(Kind::Http(dir.0.clone()));
        let id = wire.connect();
        wire.send(id, b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut ended = false;
        for _ in 0..300 {
            wire.run(step_ms);
            ended |= wire.read(id, bytes).is_none() || wire.buffers().is_empty();
        }
        assert_eq!(ended, !stays, "{bytes} bytes a second");
    }
}

/// Reads an answer's body until it is whole, or the connection ends; with it the length that was promised.
fn body(wire: &mut Wire, id: SocketId) -> (usize, Vec<u8>) {
    let (mut all, mut buf) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        wire.run(2);
        match wire.shards[0].tcp_recv(id, &mut buf) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&buf[..n]),
            Err(TcpError::WouldBlock) => {}
            Err(_) => break,
        }
        let (promised, at) = head_of(&all);
        if all.len() == at + promised {
            break;
        }
    }
    let (promised, at) = head_of(&all);
    (promised, all.split_off(at))
}

/// Content-Length, and where the body begins.
fn head_of(answer: &[u8]) -> (usize, usize) {
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head = std::str::from_utf8(&answer[..at]).expect("text");
    let len = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split('\r').next());
    (len.and_then(|len| len.parse().ok()).expect("a length"), at)
}

/// A file that many ask for is read once. Who was being answered when it changed gets what it was, whole; who asks
/// later gets what it is; and one that is cut short while it is sent ends with a reset, without a byte that was
/// not its own.
#[test]
fn an_answer_is_of_one_version_of_its_file_whatever_is_written_meanwhile() {
    let dir = Dir::new("versions");
    let (path, old) =
        (dir.0.join("page"), (0..2_000_000).map(|i| i as u8 % 251).collect::<Vec<u8>>());
    std::fs::write(&path, &old).expect("a file");
    let cache = |path: &std::path::Path| {
        let file = std::fs::File::open(path).expect("it opens");
        let meta = file.metadata().expect("it is there");
        FileCache::new(FILES_BYTES).takes(&linerate_dev::file::Opened::new(file, &meta))
    };
    // What was written a moment ago is read anew for each.
    while !cache(&path) {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let ask = b"GET /page HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut wire = Wire::new(Kind::Http(dir.0.clone()));
    let first = wire.connect();
    wire.send(first, ask);
    assert!(body(&mut wire, first) == (old.len(), old.clone()));
    assert!(wire.services.bound[0].served.files.held() > old.len(), "it is kept");

    // It waits for the client in the middle of the answer.
    let second = wire.connect();
    wire.send(second, ask);
    let new = vec![0xee; old.len()];
    let written = std::fs::File::options().write(true).open(&path).expect("it opens");
    std::os::unix::fs::FileExt::write_all_at(&written, &new, 0).expect("it is written");
    let third = wire.connect();
    wire.send(third, ask);
    assert!(body(&mut wire, second) == (old.len(), old.clone()));
    assert!(body(&mut wire, third) == (new.len(), new.clone()));

    // However long the two took: it was written just now, so that its blocks are read as they are sent.
    let fourth = wire.connect();
    std::os::unix::fs::FileExt::write_all_at(&written, &new, 0).expect("it is written");
    wire.send(fourth, ask);
    written.set_len(100).expect("it is cut short");
    let (promised, got) = body(&mut wire, fourth);
    assert!(promised == new.len() && got.len() < promised, "{} of {promised}", got.len());
    assert!(got.iter().all(|b| *b == 0xee));
    assert!(wire.shards[0].tcp_error(fourth).is_none_or(|e| e == TcpError::Reset));
    let fifth = wire.connect();
    wire.send(fifth, ask);
    assert!(body(&mut wire, fifth) == (100, vec![0xee; 100]));
}
