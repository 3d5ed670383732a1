//! A fixed amount of work on one bulk connection of TCP, in memory: the same instructions in every
//! run, for a tool that counts them.
//!
//! ```text
//! cargo build --release -p linerate-core --example tcp_work
//! valgrind --tool=callgrind target/release/examples/tcp_work receive super 100000
//! ```
//!
//! The first argument is the end whose work is done, `receive` or `send`; the second how segments travel,
//! `mss` each by itself or `super` in super-packets with checksums left to the device. Then how many segments.
//! The other end is played back from a record, which a thread made: what a function of this one called is
//! that end alone.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use linerate_core::link::{Features, Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Csum, Gso, LARGE, Pkt};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::tcp::{Connect, Listen, TcpOpt};
use linerate_core::time::Instant;
use linerate_core::tx::xmit::tx_done_all;
use linerate_core::wire::Mac;

const RECEIVER: (Ipv4Addr, Mac) = (Ipv4Addr::new(10, 9, 0, 2), Mac([2, 0, 0, 0, 0, 2]));
const SENDER: (Ipv4Addr, Mac) = (Ipv4Addr::new(10, 9, 0, 1), Mac([2, 0, 0, 0, 0, 1]));
/// Bytes of a full segment with timestamps.
const SEGMENT: usize = 1448;
/// Segments that the sender writes in a turn.
const WRITE: u64 = 32;
/// Turns in which the connection is opened.
const HANDSHAKE: u64 = 4;
/// Bytes that are copied at once.
const PIECE: usize = 1024;
const TURN_NS: u64 = 100_000;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut word = |default: &str| args.next().unwrap_or_else(|| default.to_owned());
    let (end, how, segments) = (word("receive"), word("super"), word("100000"));
    work(&end, &how, segments.parse().expect("a number"));
}

/// Does the work of one end for so many segments.
pub fn work(end: &str, how: &str, segments: u64) {
    let large = match how {
        "mss" => false,
        "super" => true,
        other => panic!("{other}: mss or super"),
    };
    let receives = match end {
        "receive" => true,
        "send" => false,
        other => panic!("{other}: receive or send"),
    };
    let turns = HANDSHAKE + segments / WRITE;
    let record = std::thread::spawn(move || record(large, turns)).join();
    let record = record.expect("both ends work together");
    // What the receiver sends in a turn comes to the sender in the next one.
    let (come, gone) = match receives {
        true => (&record.data[..], &record.acks[1..]),
        false => (&record.acks[..], &record.data[..]),
    };
    let mut end = End::new(receives, large);
    for turn in 0..turns {
        end.turn(turn, &come[turn as usize]);
        let (sent, then) = (end.complete(), gone[turn as usize].len());
        assert_eq!(sent, then, "turn {turn}: the same comes out for the same that goes in");
    }
    let lost = end.shard.net.counts.unaccounted();
    assert!(lost.is_empty(), "every packet is accounted for: {lost:?}");
}

/// A frame on its way from one stack to the other.
struct Frame {
    bytes: Vec<u8>,
    csum: Csum,
    gso: Option<Gso>,
    network: u32,
    transport: u32,
}

/// What came to each end in each turn.
struct Record {
    data: Vec<Vec<Frame>>,
    acks: Vec<Vec<Frame>>,
}

/// Both ends work together; the sender gets in a turn what the receiver sent in the turn before.
fn record(large: bool, turns: u64) -> Record {
    let (mut receiver, mut sender) = (End::new(true, large), End::new(false, large));
    let mut record = Record { data: Vec::new(), acks: vec![Vec::new()] };
    for turn in 0..turns {
        sender.turn(turn, &record.acks[turn as usize]);
        record.data.push(sender.take());
        receiver.turn(turn, &record.data[turn as usize]);
        record.acks.push(receiver.take());
    }
    let (got, sent) = (receiver.received, (turns - HANDSHAKE) * WRITE * SEGMENT as u64);
    assert!(got > sent / 2, "{got} bytes of {sent} arrived: the sender was not held back");
    record
}

struct End {
    receives: bool,
    shard: Shard,
    sock: SocketId,
    listener: Option<SocketId>,
    batch: Batch,
    received: u64,
}

impl End {
    fn new(receives: bool, large: bool) -> End {
        let (own, other) = if receives { (RECEIVER, SENDER) } else { (SENDER, RECEIVER) };
        let mut shard = Shard::new(if receives { 2 } else { 1 });
        shard.net.now = now(0);
        let mut iface = Iface::new("mem0", L2::Ethernet, own.1, 1500);
        iface.features = Features { tx_csum: large, tso4: large, tso6: large, uso: large };
        let dev = shard.add_iface(iface);
        shard.add_addr(dev, IpAddr::V4(own.0), 24).expect("a new device takes any address");
        shard.neigh_add(dev, IpAddr::V4(other.0), other.1);
        let (sock, listener) = if receives {
            let listen = Listen { port: 80, backlog: 1, rcvbuf: 8 << 20, ..Listen::default() };
            let listener = shard.tcp_listen(listen).expect("the port is free");
            (listener, Some(listener))
        } else {
            let remote = SocketAddr::new(IpAddr::V4(RECEIVER.0), 80);
            let connect = Connect { local: None, remote, user: 0 };
            let buffer = [TcpOpt::SndBufForce(8 << 20)];
            (shard.tcp_connect_with(connect, &buffer).expect("there is a way"), None)
        };
        End { receives, shard, sock, listener, batch: Batch::new(), received: 0 }
    }

    /// What came goes up, the application does its part, and what is to be sent goes to the ring.
    fn turn(&mut self, turn: u64, come: &[Frame]) {
        self.shard.net.now = now(turn);
        if !come.is_empty() {
            give(&mut self.shard, &mut self.batch, come);
            path::receive(&mut self.shard, &mut self.batch);
        }
        if turn.is_multiple_of(16) {
            path::timers(&mut self.shard, now(turn));
        }
        while self.shard.poll_event().is_some() {}
        if self.receives {
            self.read();
        } else if turn >= HANDSHAKE {
            self.write();
        }
        path::transmit(&mut self.shard, &mut self.batch);
        path::qdisc_run(&mut self.shard.net, 0, 0, 4096);
    }

    /// The application hands over what it has filled already: to copy is not what is counted here.
    fn write(&mut self) {
        if self.shard.tcp_send_space(self.sock) < WRITE as usize * SEGMENT {
            return;
        }
        let mut chunk = self.shard.take_chunk(WRITE as usize * SEGMENT);
        chunk.fill(WRITE as usize * SEGMENT);
        self.shard.tcp_send_chunk(self.sock, chunk).map_err(|e| e.1).expect("there is room");
    }

    /// The application takes all that has come, and looks at the first byte of each piece.
    fn read(&mut self) {
        if let Some(listener) = self.listener {
            let Some(sock) = self.shard.tcp_accept(listener) else { return };
            (self.sock, self.listener) = (sock, None);
        }
        let mut slices = Vec::with_capacity(64);
        let taken = self.shard.tcp_rx_slices(self.sock, usize::MAX, &mut slices);
        let Ok(n) = taken else { return };
        slices.iter().for_each(|s| {
            std::hint::black_box(s.first());
        });
        drop(slices);
        self.shard.tcp_consume(self.sock, n);
        self.received += n as u64;
    }

    /// The device is done with what is in its ring. How many packets there were.
    fn complete(&mut self) -> usize {
        let mut ring = std::mem::take(&mut self.shard.net.ifaces[0].txqs[0].ring);
        let sent = ring.len();
        let look = |pkt: Pkt| {
            std::hint::black_box(pkt.head().first());
            (pkt, true)
        };
        tx_done_all(&mut self.shard.net, ring.drain(..).map(look));
        self.shard.net.ifaces[0].txqs[0].ring = ring;
        sent
    }

    /// The same, and what there was in the ring.
    fn take(&mut self) -> Vec<Frame> {
        let copy = |pkt: &Pkt| Frame {
            bytes: pkt.slices().flat_map(|s| s.iter().copied()).collect(),
            csum: pkt.csum,
            gso: pkt.gso,
            network: pkt.network - pkt.data_offset(),
            transport: pkt.transport - pkt.data_offset(),
        };
        let frames = self.shard.net.ifaces[0].txqs[0].ring.iter().map(copy).collect();
        self.complete();
        frames
    }
}

fn now(turn: u64) -> Instant {
    Instant::from_ns(1_000_000_000 + turn * TURN_NS)
}

/// What a device does to receive: memory from the pool, the frames' bytes into it. In small pieces: a long
/// copy is one instruction for each byte where a processor has it so.
fn give(shard: &mut Shard, batch: &mut Batch, frames: &[Frame]) {
    for frame in frames {
        let pool = &mut shard.net.pool;
        let mut pkt = pool.alloc().expect("every packet comes back");
        let (head, rest) = frame.bytes.split_at(frame.bytes.len().min(pkt.tailroom()));
        pkt.put(head.len()).copy_from_slice(head);
        for part in rest.chunks(LARGE) {
            let mut large = pool.alloc_large().expect("every buffer comes back");
            large[..part.len()]
                .chunks_mut(PIECE)
                .zip(part.chunks(PIECE))
                .for_each(|(to, from)| to.copy_from_slice(from));
            pkt.add_buf(large, 0, part.len());
        }
        pkt.network = pkt.data_offset() + frame.network;
        pkt.transport = pkt.data_offset() + frame.transport;
        (pkt.csum, pkt.gso) = (frame.csum, frame.gso);
        pkt.rx_time = shard.net.now;
        pkt.dev = 0;
        batch.push(pkt);
    }
}
