//! Cases of TCP: one connection between two stacks in memory, each of which is timed by itself.

use std::net::{IpAddr, SocketAddr};

use linerate_core::link::{Features, Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Csum, Gso, LARGE};
use linerate_core::shard::Shard;
use linerate_core::sock::{SockKind, SocketId};
use linerate_core::tcp::api::{Connect, Listen, TcpOpt};
use linerate_core::tx::xmit::tx_done;

use super::case::{Case, Maker, Row, cpu_ns};
use super::stack::{self, LOCAL, OWN, PEER, THEIRS};

/// The cases of this file.
pub fn makers() -> Vec<Maker> {
    let case = |name: &str, how: How| -> Maker {
        let row = Row::new(format!("{name}, ns a segment of 1448 B")).slower(4);
        (row, Box::new(move |row| Box::new(Connection::new(row, how))))
    };
    let (receiver, sender) = (true, false);
    vec![
        case("receive TCP, merged by GRO", How { receiver, offload: false, gro: true }),
        case("receive TCP, each by itself", How { receiver, offload: false, gro: false }),
        case("receive TCP, super-packets", How { receiver, offload: true, gro: true }),
        case("send TCP, cut and summed", How { receiver: sender, offload: false, gro: true }),
        case("send TCP, super-packets", How { receiver: sender, offload: true, gro: true }),
    ]
}

#[derive(Clone, Copy)]
struct How {
    /// Which end is timed.
    receiver: bool,
    /// The devices take super-packets and partial checksums.
    offload: bool,
    gro: bool,
}

/// Bytes that the sender writes in a turn: 32 segments.
const WRITE: usize = 32 * SEGMENT;
const SEGMENT: usize = 1448;

/// A frame on its way from one stack to the other.
#[derive(Default)]
struct Frame {
    bytes: Vec<u8>,
    csum: Csum,
    gso: Option<Gso>,
    network: u32,
    transport: u32,
}

struct Connection {
    row: Row,
    how: How,
    sender: Shard,
    receiver: Shard,
    from: SocketId,
    to: SocketId,
    batch: Batch,
    wire: Vec<Frame>,
    spare: Vec<Frame>,
    data: Vec<u8>,
    turns: u64,
    received: u64,
}

impl Connection {
    fn new(row: Row, how: How) -> Connection {
        let mut sender = end(how, PEER.into(), THEIRS, 1);
        let mut receiver = end(how, LOCAL.into(), OWN, 2);
        sender.neigh_add(0, LOCAL.into(), OWN);
        receiver.neigh_add(0, PEER.into(), THEIRS);
        let listen = Listen { port: 80, backlog: 1, rcvbuf: 8 << 20, ..Listen::default() };
        let listener = receiver.tcp_listen(listen).expect("the port is free");
        let remote = SocketAddr::new(LOCAL.into(), 80);
        let from = sender.tcp_connect(Connect { local: None, remote, user: 0 }).expect("a way");
        let mut it = Connection {
            row,
            how,
            sender,
            receiver,
            from,
            to: SocketId { kind: SockKind::Tcp, index: 0, generation: 0 },
            batch: Batch::new(),
            wire: Vec::new(),
            spare: Vec::new(),
            data: vec![0x5a; WRITE],
            turns: 0,
            received: 0,
        };
        for _ in 0..4 {
            it.pass(true);
            it.pass(false);
        }
        it.to = it.receiver.tcp_accept(listener).expect("the handshake is over");
        it.sender.tcp_set(it.from, TcpOpt::SndBufForce(8 << 20)).expect("it is connected");
        it
    }

    /// What one end sent goes to the other, which takes it in.
    fn pass(&mut self, forth: bool) {
        let (from, to) = match forth {
            true => (&mut self.sender, &mut self.receiver),
            false => (&mut self.receiver, &mut self.sender),
        };
        path::transmit(from, &mut self.batch);
        take(from, &mut self.wire, &mut self.spare);
        give(to, &mut self.batch, &mut self.wire, &mut self.spare);
        path::receive(to, &mut self.batch);
    }

    /// The sender writes, the receiver reads and acknowledges. Nanoseconds of the end that is timed.
    fn turn(&mut self) -> u64 {
        self.turns += 1;
        stack::tick(&mut self.sender, self.turns * 20);
        stack::tick(&mut self.receiver, self.turns * 20);
        let begun = cpu_ns();
        let room = self.sender.tcp_send_space(self.from).min(WRITE);
        if room > 0 {
            self.sender.tcp_send(self.from, &self.data[..room]).expect("there was room");
        }
        path::transmit(&mut self.sender, &mut self.batch);
        take(&mut self.sender, &mut self.wire, &mut self.spare);
        let sent = cpu_ns();
        give(&mut self.receiver, &mut self.batch, &mut self.wire, &mut self.spare);
        path::receive(&mut self.receiver, &mut self.batch);
        self.read();
        path::transmit(&mut self.receiver, &mut self.batch);
        take(&mut self.receiver, &mut self.wire, &mut self.spare);
        let received = cpu_ns();
        give(&mut self.sender, &mut self.batch, &mut self.wire, &mut self.spare);
        path::receive(&mut self.sender, &mut self.batch);
        while self.sender.poll_event().is_some() {}
        if self.turns.is_multiple_of(64) {
            let now = self.sender.net.now;
            path::timers(&mut self.sender, now);
            path::timers(&mut self.receiver, now);
        }
        let done = cpu_ns();
        match self.how.receiver {
            true => received - sent,
            false => (sent - begun) + (done - received),
        }
    }

    /// The application takes all that has come, and looks at the first byte of each piece.
    fn read(&mut self) {
        while self.receiver.poll_event().is_some() {}
        let mut slices = Vec::with_capacity(64);
        let Ok(n) = self.receiver.tcp_rx_slices(self.to, usize::MAX, &mut slices) else { return };
        slices.iter().for_each(|s| {
            std::hint::black_box(s.first());
        });
        drop(slices);
        self.receiver.tcp_consume(self.to, n);
        self.received += n as u64;
    }
}

fn end(how: How, addr: IpAddr, mac: linerate_core::wire::Mac, seed: u64) -> Shard {
    let mut shard = Shard::new(seed);
    let mut iface = Iface::new("mem0", L2::Ethernet, mac, 1500);
    let on = how.offload;
    iface.features = Features { tx_csum: on, tso4: on, tso6: on, uso: on };
    let dev = shard.add_iface(iface);
    shard.add_addr(dev, addr, 24).expect("a new device takes any address");
    let gro = if how.gro { "1" } else { "0" };
    shard.set_knob("features.gro", gro).expect("a switch");
    shard
}

/// Empties the device's ring onto the wire.
fn take(from: &mut Shard, wire: &mut Vec<Frame>, spare: &mut Vec<Frame>) {
    path::qdisc_run(&mut from.net, 0, 0, 4096);
    while let Some(pkt) = from.net.ifaces[0].txqs[0].ring.pop_front() {
        let mut frame = spare.pop().unwrap_or_default();
        frame.bytes.clear();
        pkt.slices().for_each(|s| frame.bytes.extend_from_slice(s));
        (frame.csum, frame.gso) = (pkt.csum, pkt.gso);
        frame.network = pkt.network - pkt.data_offset();
        frame.transport = pkt.transport - pkt.data_offset();
        wire.push(frame);
        tx_done(&mut from.net, pkt, true);
    }
}

/// What a device does to receive: memory from the pool, the frame's bytes into it.
fn give(to: &mut Shard, batch: &mut Batch, wire: &mut Vec<Frame>, spare: &mut Vec<Frame>) {
    for frame in wire.drain(..) {
        let pool = &mut to.net.pool;
        let mut pkt = pool.alloc().expect("every packet comes back");
        let (head, rest) = frame.bytes.split_at(frame.bytes.len().min(pkt.tailroom()));
        pkt.put(head.len()).copy_from_slice(head);
        for part in rest.chunks(LARGE) {
            let mut large = pool.alloc_large().expect("every buffer comes back");
            large[..part.len()].copy_from_slice(part);
            pkt.add_buf(large, 0, part.len());
        }
        pkt.network = pkt.data_offset() + frame.network;
        pkt.transport = pkt.data_offset() + frame.transport;
        (pkt.csum, pkt.gso) = (frame.csum, frame.gso);
        pkt.rx_time = to.net.now;
        pkt.dev = 0;
        batch.push(pkt);
        spare.push(frame);
    }
}

impl Case for Connection {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, packets: u64) -> Option<f64> {
        // The timing itself is a system call at each change of ends.
        let cost = {
            let begun = cpu_ns();
            (0..1000).for_each(|_| {
                std::hint::black_box(cpu_ns());
            });
            (cpu_ns() - begun) as f64 / 1000.0
        };
        let (turns, before) = (packets.div_ceil((WRITE / SEGMENT) as u64), self.received);
        let ns: u64 = (0..turns).map(|_| self.turn()).sum();
        let segments = (self.received - before) as f64 / SEGMENT as f64;
        assert!(segments >= 1.0, "data arrived");
        let stretches = if self.how.receiver { 1.0 } else { 2.0 };
        let lost = [&self.sender, &self.receiver].map(|s| s.net.counts.unaccounted());
        assert!(lost.iter().all(Vec::is_empty), "every packet is accounted for: {lost:?}");
        Some((ns as f64 - turns as f64 * stretches * cost) / segments)
    }
}
