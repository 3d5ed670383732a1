//! Nothing is allocated per packet once the loop is warm, and connections hold little: shown by an
//! allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use linerate_core::link::{Features, Iface, L2};
use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::tcp::{Connect, Listen};
use linerate_core::time::{Instant, US};
use linerate_core::tx::xmit::tx_done;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_core::wire::Mac;
use linerate_dev::drive::{App, Drive, VirtualClock};
use linerate_dev::mem;
use linerate_dev::poller::{Event, Poller};

/// The system's allocator, with a count for each thread: the test harness allocates in others.
struct Counting;
thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that are allocated now.
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting has no effect on it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get() + layout.size() as i64);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - layout.size() as i64);
        // SAFETY: as above; `ptr` came from `alloc` above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get() + size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn addr(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn shard(n: u8, offload: bool) -> Shard {
    let mut shard = Shard::new(n as u64);
    let mut iface = Iface::new("mem0", L2::Ip, Mac([2, 0, 0, 0, 0, n]), 1500);
    iface.features = Features { tx_csum: offload, tso4: offload, tso6: offload, uso: offload };
    let dev = shard.add_iface(iface);
    shard.add_addr(dev, addr(n), 24).expect("a new device takes any address");
    shard
}

/// Two stacks and a wire of zero length between them.
struct Pair {
    ends: [Shard; 2],
    batch: Batch,
    now: Instant,
}

impl Pair {
    fn new(offload: bool) -> Pair {
        Pair {
            ends: [shard(1, offload), shard(2, offload)],
            batch: Batch::new(),
            now: Instant::ZERO,
        }
    }

    /// One turn: both transmit, both receive, timers run; 20 µs pass.
    fn turn(&mut self) {
        self.now = self.now.plus(20 * US);
        for from in 0..2 {
            let [a, b] = &mut self.ends;
            let (from, to) = if from == 0 { (a, b) } else { (b, a) };
            from.net.now = self.now;
            path::transmit(from, &mut self.batch);
            path::qdisc_run(&mut from.net, 0, 0, usize::MAX);
            while let Some(pkt) = from.net.ifaces[0].txqs[0].ring.pop_front() {
                let mut copy = to.net.pool.alloc().expect("the pool is large enough");
                let len = pkt.len();
                let head = len.min(copy.tailroom());
                pkt.copy_bits(0, copy.put(head));
                if len > head {
                    let mut buf = to.net.pool.alloc_large().expect("the pool is large enough");
                    pkt.copy_bits(head, &mut buf[..len - head]);
                    copy.add_buf(buf, 0, len - head);
                }
                (copy.csum, copy.gso, copy.dev, copy.rx_time) = (pkt.csum, pkt.gso, 0, self.now);
                self.batch.push(copy);
                tx_done(&mut from.net, pkt, true);
            }
            to.net.now = self.now;
            path::receive(to, &mut self.batch);
        }
        for end in &mut self.ends {
            path::timers(end, self.now);
            while end.poll_event().is_some() {}
        }
    }
}

fn connected(pair: &mut Pair) -> (SocketId, SocketId) {
    let listen = Listen { port: 80, backlog: 8, ..Listen::default() };
    let listener = pair.ends[1].tcp_listen(listen).expect("the port is free");
    let to = Connect { local: None, remote: SocketAddr::new(addr(2), 80), user: 0 };
    let client = pair.ends[0].tcp_connect(to).expect("a route exists");
    loop {
        pair.turn();
        if let Some(server) = pair.ends[1].tcp_accept(listener) {
            return (client, server);
        }
    }
}

/// One more connection to the listener; both ends of it.
fn connect_to(pair: &mut Pair, listener: SocketId) -> (SocketId, SocketId) {
    let to = Connect { local: None, remote: SocketAddr::new(addr(2), 80), user: 0 };
    let client = pair.ends[0].tcp_connect(to).expect("a route exists, and a port is free");
    loop {
        pair.turn();
        if let Some(server) = pair.ends[1].tcp_accept(listener) {
            return (client, server);
        }
    }
}

/// Bytes that one of something takes, of which `grow` makes `per` for each that it counts: first `from`, then a number that
/// doubles twice: tables are as full as they get.
fn bytes_each(from: u64, per: u64, mut grow: impl FnMut(u64)) -> u64 {
    grow(from);
    let before = BYTES.get();
    grow(from * 4);
    let more = u64::try_from(BYTES.get() - before).expect("more takes more");
    more.div_ceil(from * 3 * per)
}

/// Goal: an established connection that is idle takes 1 KiB at the most, with its places in all
/// tables, also after it has carried data both ways.
#[test]
fn an_idle_connection_takes_a_kibibyte() {
    let mut pair = Pair::new(true);
    let listen = Listen { port: 80, backlog: 8, ..Listen::default() };
    let listener = pair.ends[1].tcp_listen(listen).expect("the port is free");
    let mut open = 0;
    let mut buf = vec![0; 20_000];
    // They lie side by side, 8192 at a time; there have to be ports for as many.
    pair.ends[0].set_knob("net.ipv4.ip_local_port_range.low", "1024").expect("a knob");
    pair.ends[0].set_knob("net.ipv4.ip_local_port_range.high", "65535").expect("a knob");
    let each = bytes_each(8192, 2, |n| {
        while open < n {
            let (client, server) = connect_to(&mut pair, listener);
            pair.ends[0].tcp_send(client, &[1; 9000]).expect("there is room");
            pair.ends[1].tcp_send(server, &[2; 9000]).expect("there is room");
            let mut got = 0;
            while got < 18_000 {
                pair.turn();
                got += pair.ends[0].tcp_recv(client, &mut buf).unwrap_or(0);
                got += pair.ends[1].tcp_recv(server, &mut buf).unwrap_or(0);
            }
            open += 1;
        }
        for _ in 0..10 {
            pair.now = pair.now.plus(1_000_000 * US);
            pair.turn();
        }
    });
    assert!((512..=1024).contains(&each), "{each} bytes each");
}

/// Goal: what is left of a connection that was closed takes 128 bytes at the most.
#[test]
fn a_time_wait_entry_takes_128_bytes() {
    let mut pair = Pair::new(true);
    let listen = Listen { port: 80, backlog: 8, ..Listen::default() };
    let listener = pair.ends[1].tcp_listen(listen).expect("the port is free");
    let each = bytes_each(1024, 1, |n| {
        while pair.ends[0].tcp_sockstat().tw < n {
            let (client, server) = connect_to(&mut pair, listener);
            pair.ends[0].tcp_close(client);
            pair.turn();
            pair.ends[1].tcp_close(server);
            pair.turn();
            pair.turn();
        }
    });
    assert!((64..=128).contains(&each), "{each} bytes each");
}

/// Goal: what a peak of connections took goes back when they are gone, but for one piece of the table at each
/// end and for the indices into it; who stayed goes on.
#[test]
fn what_a_peak_of_connections_took_goes_back() {
    /// Connections side by side in one piece, and what they may take.
    const PIECE: i64 = 8192;
    const PEAK: i64 = 3 * PIECE;
    let mut pair = Pair::new(true);
    let listen = Listen { port: 80, backlog: 8, ..Listen::default() };
    let listener = pair.ends[1].tcp_listen(listen).expect("the port is free");
    pair.ends[0].set_knob("net.ipv4.ip_local_port_range.low", "1024").expect("a knob");
    pair.ends[0].set_knob("net.ipv4.ip_local_port_range.high", "65535").expect("a knob");
    let (client, server) = connect_to(&mut pair, listener);
    let before = BYTES.get();
    let all: Vec<_> = (0..PEAK).map(|_| connect_to(&mut pair, listener)).collect();
    let peak = BYTES.get() - before;
    assert!(peak > PEAK * 2 * 900, "{peak} bytes");
    for (client, server) in all {
        pair.ends[0].tcp_close(client);
        pair.turn();
        pair.ends[1].tcp_close(server);
        pair.turn();
        pair.turn();
    }
    // TIME_WAIT takes a minute.
    for _ in 0..70 {
        pair.now = pair.now.plus(1_000_000 * US);
        pair.turn();
    }
    assert_eq!(pair.ends[0].tcp_sockstat().tw, 0);
    let left = BYTES.get() - before;
    assert!(left < 2 * PIECE * 1024 + PEAK * 2 * 64, "{left} bytes of {peak} are left");
    let mut buf = [0; 10];
    pair.ends[0].tcp_send(client, b"still here").expect("there is room");
    pair.turn();
    pair.turn();
    assert_eq!(pair.ends[1].tcp_recv(server, &mut buf).ok(), Some(10));
}

/// Runs `work` until the loop is warm, then counts the allocations of as much work again. Warm is
/// when buffers have grown to what the link can fill and each recycled packet has carried its most
/// fragments once.
fn count(mut work: impl FnMut()) -> u64 {
    for _ in 0..6 {
        work();
    }
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn bulk(offload: bool) -> u64 {
    let mut pair = Pair::new(offload);
    let (client, server) = connected(&mut pair);
    let data = vec![7; 65536];
    let mut sink = vec![0; 1 << 20];
    let mut received = 0u64;
    let allocations = count(|| {
        let goal = received + (64 << 20);
        while received < goal {
            while pair.ends[0].tcp_send(client, &data).is_ok_and(|n| n > 0) {}
            pair.turn();
            while let Ok(n @ 1..) = pair.ends[1].tcp_recv(server, &mut sink) {
                received += n as u64;
            }
        }
    });
    for end in &pair.ends {
        assert_eq!(end.net.counts.unaccounted(), []);
    }
    allocations
}

/// Goal: 64 MiB of a bulk stream, super-packets left to the device, allocate nothing.
#[test]
fn a_bulk_stream_of_super_packets_allocates_nothing() {
    assert_eq!(bulk(true), 0);
}

/// Goal: the same where software cuts, sums and merges: about 45 000 packets each way.
#[test]
fn a_bulk_stream_of_plain_packets_allocates_nothing() {
    assert_eq!(bulk(false), 0);
}

/// Goal: 10 000 small questions and answers on one connection allocate nothing.
#[test]
fn ping_pong_allocates_nothing() {
    let mut pair = Pair::new(true);
    let (client, server) = connected(&mut pair);
    let mut buf = [0; 64];
    let allocations = count(|| {
        for _ in 0..10_000 {
            pair.ends[0].tcp_send(client, &[1; 64]).expect("there is room");
            while pair.ends[1].tcp_recv(server, &mut buf).is_err() {
                pair.turn();
            }
            pair.ends[1].tcp_send(server, &[2; 64]).expect("there is room");
            while pair.ends[0].tcp_recv(client, &mut buf).is_err() {
                pair.turn();
            }
        }
    });
    assert_eq!(allocations, 0);
}

/// Goal: 100 000 datagrams from socket to socket allocate nothing.
#[test]
fn datagrams_allocate_nothing() {
    let mut pair = Pair::new(false);
    let bind = UdpBind { port: 53, rcvbuf: 8 << 20, ..UdpBind::default() };
    let server = pair.ends[1].udp_bind(bind).expect("the port is free");
    let client = pair.ends[0].udp_bind(UdpBind::default()).expect("a port is free");
    let to = SendTo::to(SocketAddr::new(addr(2), 53));
    let mut received = 0;
    let allocations = count(|| {
        let goal = received + 50_000;
        while received < goal {
            for _ in 0..50 {
                pair.ends[0].udp_send(client, to, &[&[3; 200]]).expect("there is room");
            }
            pair.turn();
            while let Some(datagram) = pair.ends[1].udp_recv(server) {
                received += 1;
                pair.ends[1].udp_done(datagram);
            }
        }
    });
    assert_eq!(allocations, 0);
}

/// Reads the one socket there is.
struct Reader {
    sock: SocketId,
    received: u64,
}

impl App for Reader {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> std::io::Result<bool> {
        while shard.poll_event().is_some() {}
        while let Some(datagram) = shard.udp_recv(self.sock) {
            self.received += 1;
            shard.udp_done(datagram);
        }
        Ok(false)
    }
}

/// Goal: the loop around the stack allocates nothing either, with interrupts that come, wait, are
/// deferred, and are moderated by the load.
#[test]
fn turns_of_the_loop_allocate_nothing() {
    let clock = VirtualClock::default();
    let (near, far) = mem::pair(mem::Config::default()).expect("descriptors");
    let mut ends = [(near, 1), (far, 2)].map(|(dev, n)| {
        let shard = Shard::new(n as u64);
        let mut drive = Drive::with_clock(shard, clock.clone()).expect("a poller");
        let number = drive.add_device(Box::new(dev), |_| {}).expect("it is watched");
        drive.shard.add_addr(number, addr(n), 24).expect("a new device takes any address");
        let bind = UdpBind { port: 53, rcvbuf: 8 << 20, ..UdpBind::default() };
        let sock = drive.shard.udp_bind(bind).expect("the port is free");
        (drive, Reader { sock, received: 0 })
    });
    let to = SendTo::to(SocketAddr::new(addr(2), 53));
    let knobs = [
        ("dev.gro_flush_timeout", "20000"),
        ("dev.napi_defer_hard_irqs", "2"),
        ("coalesce.adaptive-rx", "1"),
        ("coalesce.tx-usecs", "30"),
    ];
    for (knob, value) in [("net.core.busy_poll", "0")].into_iter().chain(knobs) {
        ends.iter_mut().for_each(|(d, _)| d.shard.set_knob(knob, value).expect("in range"));
        let allocations = count(|| {
            let goal = ends[1].1.received + 5_000;
            while ends[1].1.received < goal {
                let (drive, reader) = &mut ends[0];
                for _ in 0..50 {
                    drive.shard.udp_send(reader.sock, to, &[&[3; 200]]).expect("there is room");
                }
                for (drive, reader) in &mut ends {
                    drive.turn(reader).expect("a turn");
                }
                clock.advance(20 * US);
            }
        });
        assert_eq!(allocations, 0, "with {knob}={value}");
    }
}
