//! The rings under a whole stack: a [`Drive`] with an application, and the kernel's clients.

use super::again::{again, in_netns, role, unshare};
use super::{OURS4, OURS6, THEIRS4, THEIRS6, Wire, ip};
use linerate_core::rx::steer::rss::Rss;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::{Counter, Reason};
use linerate_core::tcp::TcpError;
use linerate_core::tcp::api::Listen;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_dev::drive::{App, Drive};
use linerate_dev::netdev::{Losses, Netdev};
use linerate_dev::packet::ring::{Config, Fanout, RingSocket, open};
use linerate_dev::poller::{Event as LoopEvent, Poller};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Echoes on port 7: datagrams, and streams until their end.
struct Echo {
    udp: SocketId,
    listener: SocketId,
    streams: Vec<Stream>,
    closed: u64,
}

struct Stream {
    id: SocketId,
    /// What was read and not written yet.
    waits: Vec<u8>,
    ended: bool,
}

impl App for Echo {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[LoopEvent]) -> io::Result<bool> {
        while shard.poll_event().is_some() {}
        while let Some(datagram) = shard.udp_recv(self.udp) {
            let how = SendTo { src: Some(datagram.dst()), ..SendTo::to(datagram.src()) };
            let slices: Vec<&[u8]> = datagram.slices().collect();
            // Nobody waits for what the queues have no room for: it is sent again.
            let _ = shard.udp_send(self.udp, how, &slices);
            shard.udp_done(datagram);
        }
        while let Some(id) = shard.tcp_accept(self.listener) {
            self.streams.push(Stream { id, waits: Vec::new(), ended: false });
        }
        let mut busy = false;
        for stream in &mut self.streams {
            busy |= stream.turn(shard);
        }
        let before = self.streams.len();
        self.streams.retain(|s| !(s.ended && s.waits.is_empty()));
        self.closed += (before - self.streams.len()) as u64;
        Ok(busy)
    }
}

impl Stream {
    fn turn(&mut self, shard: &mut Shard) -> bool {
        let mut buf = vec![0; 1 << 16];
        let mut moved = false;
        if self.waits.len() < 1 << 18 && !self.ended {
            match shard.tcp_recv(self.id, &mut buf) {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    self.waits.extend_from_slice(&buf[..n]);
                    moved = true;
                }
                Err(TcpError::WouldBlock) => {}
                Err(err) => panic!("{err}"),
            }
        }
        if let Ok(n) = shard.tcp_send(self.id, &self.waits) {
            self.waits.drain(..n);
            moved |= n > 0;
        }
        if self.ended && self.waits.is_empty() {
            shard.tcp_close(self.id);
        }
        moved
    }
}

fn serve(queues: Vec<RingSocket>) -> (Drive, Echo) {
    let mut drive = Drive::new(Shard::new(1)).unwrap();
    let mut number = None;
    for queue in queues {
        match number {
            None => number = Some(drive.add_device(Box::new(queue), |_| {}).unwrap()),
            Some(number) => drive.add_queue(number, Box::new(queue)).unwrap(),
        }
    }
    for (addr, len) in [(OURS4, 24), (OURS6, 64)] {
        drive.shard.add_addr(number.unwrap(), ip(addr), len).unwrap();
    }
    let udp = drive.shard.udp_bind(UdpBind { port: 7, ..UdpBind::default() }).unwrap();
    let listener =
        drive.shard.tcp_listen(Listen { port: 7, backlog: 64, ..Listen::default() }).unwrap();
    (drive, Echo { udp, listener, streams: Vec::new(), closed: 0 })
}

/// A kernel's clients: datagrams of many lengths and flows, then streams both ways at once.
fn be_clients(streams: usize, stream_bytes: usize) {
    for (ours, theirs, most) in [(OURS4, THEIRS4, 8972), (OURS6, THEIRS6, 8952)] {
        let to = SocketAddr::new(ip(ours), 7);
        let mut back = vec![0; 65536];
        for flow in 0..16 {
            let socket = UdpSocket::bind(SocketAddr::new(ip(theirs), 0)).unwrap();
            socket.connect(to).unwrap();
            for len in
                [0, 1, 17, 100, 1472, 1473, 3000, most].map(|l| l - usize::from(l > flow) * flow)
            {
                let data: Vec<u8> = (0..len).map(|i| (i * 3 + flow) as u8).collect();
                socket.send(&data).unwrap();
                assert_eq!(socket.recv(&mut back).unwrap(), len);
                assert!(back[..len] == data[..]);
            }
        }
        let all: Vec<_> = (0..streams)
            .map(|n| {
                let mut stream = TcpStream::connect(to).unwrap();
                let mut out = stream.try_clone().unwrap();
                let pattern =
                    move |i: usize| (i as u32).wrapping_mul(2_654_435_761) as u8 ^ n as u8;
                std::thread::spawn(move || {
                    let writer = std::thread::spawn(move || {
                        let data: Vec<u8> = (0..stream_bytes).map(pattern).collect();
                        out.write_all(&data).unwrap();
                        out.shutdown(std::net::Shutdown::Write).unwrap();
                    });
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).unwrap();
                    writer.join().unwrap();
                    assert_eq!(back.len(), stream_bytes);
                    assert!(back.iter().enumerate().all(|(i, &b)| b == pattern(i)));
                })
            })
            .collect();
        all.into_iter().for_each(|stream| stream.join().unwrap());
    }
}

/// Drives until `clients` is done, and returns what was counted.
fn echo(config: Config, mtu: u32, work: impl FnOnce() + Send + 'static) -> (Drive, Echo) {
    let mut wire = Wire::new();
    for index in [wire.near.index, wire.far.index] {
        wire.netdev.set_mtu(index, mtu).unwrap();
    }
    let (mut drive, mut app) = serve(open(config).unwrap().queues);
    let (waker, over) = (drive.poller.waker(), Arc::new(AtomicBool::new(false)));
    let done = Arc::clone(&over);
    let clients = std::thread::spawn(move || {
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // First the word, then the call: who is called looks for it.
        done.store(true, Ordering::Release);
        waker.wake();
        worked.unwrap();
    });
    while !over.load(Ordering::Acquire) {
        drive.turn(&mut app).unwrap();
    }
    clients.join().unwrap();
    drive.count_losses();
    assert_eq!(drive.shard.net.counts.unaccounted(), []);
    (drive, app)
}

#[test]
fn a_shard_serves_the_kernels_clients_over_one_and_several_queues() {
    const TEST: &str = "drive::a_shard_serves_the_kernels_clients_over_one_and_several_queues";
    if let Some(case) = role().strip_prefix("case ").and_then(|n| n.parse::<usize>().ok()) {
        let rss = Rss { indir: std::array::from_fn(|i| (i % 2) as u8), ..Rss::default() };
        let new = || Config::new("near");
        let config = [
            new(),
            Config { queues: 2, fanout: Fanout::Rss(rss), blocks: 16, ..new() },
            Config { queues: 2, fanout: Fanout::Hash, vnet_hdr: false, frames: 64, ..new() },
            Config { queues: 3, fanout: Fanout::Cpu, frames: 0, rxhash: true, ..new() },
        ];
        let config: Config = config[case % 4].clone();
        let queues = config.queues;
        let (drive, app) = echo(config, 9000, || be_clients(4, 2 << 20));
        assert_eq!(app.closed, 8);
        let counts = &drive.shard.net.counts;
        let errors = [Counter::UdpInErrors, Counter::UdpNoPorts, Counter::TcpInErrs];
        assert!(errors.iter().all(|&c| counts.get(c) == 0));
        assert_eq!(drive.devices().count(), queues);
        for dev in drive.devices() {
            assert_eq!(dev.counts().tx_refused, 0, "errno {}", dev.counts().tx_errno);
        }
        return;
    }
    if !in_netns(TEST) {
        return;
    }
    for case in 0..4 {
        let namespace = unshare().expect("namespaces nest");
        let out = again(namespace, TEST, &format!("case {case}")).output().unwrap();
        assert!(out.status.success(), "case {case}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn under_a_flood_all_that_was_sent_is_counted_somewhere() {
    const TEST: &str = "drive::under_a_flood_all_that_was_sent_is_counted_somewhere";
    if !in_netns(TEST) {
        return;
    }
    const SENT: u64 = 20_000;
    let mut wire = Wire::new();
    let config = Config {
        queues: 2,
        vnet_hdr: false,
        block_bytes: 64 << 10,
        blocks: 2,
        ..Config::new("near")
    };
    let mut queues = open(config).unwrap().queues;
    // What the far end drops because nobody has time to take it over counts as well.
    let before = wire.netdev.link_stats(wire.far.index).unwrap().tx_dropped;
    queues[0].set_losses(Losses::new(Netdev::open().unwrap(), wire.far.index).unwrap());
    let (mut drive, mut app) = serve(queues);
    let sockets: Vec<_> = (0..8).map(|_| UdpSocket::bind((THEIRS4, 0)).unwrap()).collect();
    let mut sent = 0;
    // Nobody listens on port 9; nobody even looks while the flood lasts, so that the rings are full.
    for n in 0..SENT {
        sent += u64::from(sockets[n as usize % 8].send_to(&[7; 64], (OURS4, 9)).is_ok());
    }
    // The last block comes when its time is over.
    let counted = |drive: &mut Drive| {
        drive.count_losses();
        let counts = &drive.shard.net.counts;
        counts.drops(Reason::RingFull) + counts.get(Counter::UdpNoPorts)
    };
    let begun = std::time::Instant::now();
    while counted(&mut drive) < sent && begun.elapsed().as_secs() < 60 {
        drive.poller.waker().wake();
        drive.turn(&mut app).unwrap();
    }
    let net = &drive.shard.net;
    assert_eq!(net.counts.unaccounted(), []);
    let (lost, got) = (net.counts.drops(Reason::RingFull), net.counts.get(Counter::UdpNoPorts));
    let by_socket: u64 = drive.devices().map(|dev| dev.statistics()[1].1).sum();
    let far = wire.netdev.link_stats(wire.far.index).unwrap().tx_dropped - before;
    assert!(got > 0 && by_socket > 0, "{got} {by_socket}");
    assert_eq!(lost, by_socket + far);
    // Reports of the kernel's own may be among the lost.
    assert!((sent..sent + 100).contains(&(got + lost)), "{got} {lost} of {sent}");
}

const ENXIO: i32 = 6;
const ENODEV: i32 = 19;

/// The interface goes down and up and changes its MTU while packets come and go; then it is gone.
#[test]
fn an_interface_that_changes_under_load_is_served_on_until_it_is_gone() {
    const TEST: &str = "drive::an_interface_that_changes_under_load_is_served_on_until_it_is_gone";
    if !in_netns(TEST) {
        return;
    }
    let mut wire = Wire::new();
    let config = Config { queues: 2, ..Config::new("near") };
    let (mut drive, mut app) = serve(open(config).unwrap().queues);
    let stop = Arc::new(AtomicBool::new(false));
    let (heard, over) = (Arc::new(AtomicU64::new(0)), Arc::clone(&stop));
    let answers = Arc::clone(&heard);
    let client = std::thread::spawn(move || {
        let socket = UdpSocket::bind((THEIRS4, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut buf = [0; 2048];
        while !over.load(Ordering::Relaxed) {
            // Down, there is nowhere to send to.
            let _ = socket.send_to(&[5; 500], (OURS4, 7));
            while socket.recv(&mut buf).is_ok() {
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let (near, far) = (wire.near.index, wire.far.index);
    for round in 0..6 {
        // Until it works (again).
        let before = heard.load(Ordering::Relaxed);
        while heard.load(Ordering::Relaxed) < before + 200 {
            drive.turn(&mut app).unwrap();
        }
        wire.netdev.set_mtu(near, 1500 + 500 * (round % 3)).unwrap();
        wire.netdev.set_up(near, false).unwrap();
        for _ in 0..20 {
            drive.poller.waker().wake();
            drive.turn(&mut app).unwrap();
        }
        wire.netdev.set_up(near, true).unwrap();
        for ours in [OURS4, OURS6] {
            wire.netdev.add_neigh(far, ip(ours), wire.near.mac.unwrap()).unwrap();
        }
    }
    wire.netdev.del_link(near).unwrap();
    let err = loop {
        drive.poller.waker().wake();
        if let Err(err) = drive.turn(&mut app) {
            break err;
        }
    };
    assert!(matches!(err.raw_os_error(), Some(ENODEV | ENXIO)), "{err}");
    stop.store(true, Ordering::Relaxed);
    client.join().unwrap();
    drive.count_losses();
    assert_eq!(drive.shard.net.counts.unaccounted(), []);
}
