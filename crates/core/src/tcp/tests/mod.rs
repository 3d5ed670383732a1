//! Two stacks back to back in virtual time, over a link that loses, repeats and reorders.

mod acks;
mod close;
mod counters;
mod data;
mod drops;
mod ecn;
mod fastopen;
mod handshake;
mod hostile;
mod knobs;
mod md5;
mod memory;
mod moved;
mod mtup;
mod pacing;
mod opts;
mod rcvwin;
mod recovery;
mod reuseport;
mod sendfile;
mod sending;
mod syncookies;
mod urgent;
mod zerocopy;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Connect, Listen, Sockets, Tcb};
use crate::link::{Features, Iface, L2};
use crate::path;
use crate::pkt::{Batch, Csum, Gso, Pkt};
use crate::rand::Rng;
use crate::shard::Shard;
use crate::sock::{Ready, SocketId};
use crate::table::Reason;
use crate::table::count::Counter;
use crate::time::{Instant, MS, SEC, US};
use crate::tx::xmit::tx_done;
use crate::wire::{Mac, TcpFlags, TcpHdr, TcpOptions};
use linerate_arch::csum::{csum_fold, csum_partial};

/// What a link does, in parts per thousand.
#[derive(Clone, Copy)]
pub(super) struct Fate {
    pub delay: u64,
    pub loss: u64,
    pub dup: u64,
    pub reorder: u64,
    pub mtu: u32,
    pub offload: bool,
}

pub(super) const GOOD: Fate =
    Fate { delay: MS, loss: 0, dup: 0, reorder: 0, mtu: 1500, offload: false };

struct Frame {
    bytes: Vec<u8>,
    csum: Csum,
    gso: Option<Gso>,
}

/// One packet as it went over the link.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub at: Instant,
    pub from: usize,
    pub hdr: TcpHdr,
    pub opts: TcpOptions,
    pub len: usize,
    pub gso: Option<Gso>,
    /// The IP header's type of service.
    pub tos: u8,
}

pub(super) struct Pair {
    pub shards: [Shard; 2],
    pub fate: Fate,
    pub now: Instant,
    pub rng: Rng,
    /// Every TCP packet that was sent.
    pub seen: Vec<Seen>,
    /// Packets that this says are lost, by sender and what they are.
    pub lose: Option<fn(&Seen) -> bool>,
    /// Packets that this says are marked on their way, if they may be (ECN).
    pub mark: Option<fn(&Seen) -> bool>,
    /// Whether `seen` is kept.
    pub watch: bool,
    v6: bool,
    flights: BTreeMap<(Instant, u64), (usize, Frame)>,
    order: u64,
    batch: Batch,
}

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

impl Pair {
    pub fn new(seed: u64, fate: Fate) -> Pair {
        Pair::over(seed, fate, false)
    }
    pub fn over(seed: u64, fate: Fate, v6: bool) -> Pair {
        let mut rng = Rng::new(seed);
        let mut shard = |i: u8| {
            let mut shard = Shard::new(rng.next_u64());
            let mut iface = Iface::new("t0", L2::Ip, Mac([0; 6]), fate.mtu);
            let on = fate.offload;
            iface.features = Features { tx_csum: on, tso4: on, tso6: on, uso: on };
            let dev = shard.add_iface(iface);
            shard.add_addr(dev, addr(i, false), 24).expect("an IPv4 address");
            shard.add_addr(dev, addr(i, true), 64).expect("an IPv6 address");
            shard
        };
        let shards = [shard(1), shard(2)];
        Pair {
            shards,
            fate,
            now: Instant::from_ns(3 * SEC),
            rng,
            seen: Vec::new(),
            lose: None,
            mark: None,
            watch: true,
            v6,
            flights: BTreeMap::new(),
            order: 0,
            batch: Batch::new(),
        }
    }
    pub fn addr(&self, i: usize) -> IpAddr {
        addr(i as u8 + 1, self.v6)
    }
    pub fn at(&self, i: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.addr(i), port)
    }

    /// B listens on port 80, A connects, both ends are established.
    pub fn connected(&mut self) -> (SocketId, SocketId) {
        let l = self.listen(80);
        self.connect_to(l)
    }
    pub fn listen(&mut self, port: u16) -> SocketId {
        self.listen_as(Listen { port, backlog: 16, ..Listen::default() })
    }
    pub fn listen_as(&mut self, listen: Listen) -> SocketId {
        self.tick();
        self.shards[B].tcp_listen(listen).expect("a free port")
    }
    pub fn connect_to(&mut self, listener: SocketId) -> (SocketId, SocketId) {
        let a = self.connect(80);
        let mut b = None;
        self.until(SEC * 30, |p| {
            b = b.or_else(|| p.shards[B].tcp_accept(listener));
            b.is_some()
        });
        (a, b.expect("the connection is established"))
    }
    pub fn connect(&mut self, port: u16) -> SocketId {
        self.tick();
        let remote = self.at(B, port);
        self.shards[A].tcp_connect(Connect { local: None, remote, user: 7 }).expect("connects")
    }
    pub fn tcb(&mut self, i: usize, id: SocketId) -> &mut Tcb {
        self.shards[i].tcp.conns.get_mut(id.index, id.generation).expect("the connection lives")
    }
    pub fn count(&self, i: usize, counter: Counter) -> u64 {
        self.shards[i].net.counts.get(counter)
    }
    pub fn drops(&self, i: usize, reason: Reason) -> u64 {
        self.shards[i].net.counts.drops(reason)
    }
    pub fn ready(&mut self, i: usize, id: SocketId) -> Ready {
        while self.shards[i].poll_event().is_some() {}
        self.shards[i].take_ready(id)
    }

    fn tick(&mut self) {
        for shard in &mut self.shards {
            shard.net.now = self.now;
        }
    }

    /// Sends what is to be sent, then moves to the next arrival or timer, at most to `limit`.
    pub fn step(&mut self, limit: Instant) -> bool {
        self.tick();
        for i in 0..2 {
            self.transmit(i);
        }
        let arrival = self.flights.keys().next().map(|k| k.0);
        let timer = self.shards.iter().filter_map(path::next_timer).min();
        let Some(next) = [arrival, timer].into_iter().flatten().min() else {
            self.jump(limit);
            return false;
        };
        if next > limit {
            self.jump(limit);
            return false;
        }
        self.now = self.now.max(next);
        self.tick();
        while let Some(entry) = self.flights.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, frame) = entry.remove();
            self.deliver(to, frame);
        }
        for i in 0..2 {
            path::timers(&mut self.shards[i], self.now);
        }
        self.check();
        true
    }

    /// Nothing happens until then.
    fn jump(&mut self, to: Instant) {
        self.now = to;
        for i in 0..2 {
            path::timers(&mut self.shards[i], self.now);
        }
    }

    /// Runs for `ns` nanoseconds, or until `done`; says whether `done` came true.
    pub fn until(&mut self, ns: u64, mut done: impl FnMut(&mut Pair) -> bool) -> bool {
        let limit = self.now.plus(ns);
        loop {
            self.tick();
            if done(self) {
                return true;
            }
            if !self.step(limit) {
                self.tick();
                return done(self);
            }
        }
    }
    pub fn run(&mut self, ns: u64) {
        self.until(ns, |_| false);
        self.tick();
    }

    fn transmit(&mut self, i: usize) {
        let shard = &mut self.shards[i];
        path::transmit(shard, &mut self.batch);
        let Some(ring) = path::qdisc_run(&mut shard.net, 0, 0, usize::MAX) else { return };
        let sent: Vec<Pkt> = ring.drain(..).collect();
        for pkt in sent {
            let bytes: Vec<u8> = pkt.slices().flatten().copied().collect();
            let frame = Frame { bytes, csum: pkt.csum, gso: pkt.gso };
            tx_done(&mut self.shards[i].net, pkt, true);
            self.fly(i, frame);
        }
    }

    fn fly(&mut self, from: usize, mut frame: Frame) {
        let seen = self.see(from, &frame);
        if self.watch {
            self.seen.extend(seen.clone());
        }
        if let (Some(lose), Some(seen)) = (self.lose, &seen)
            && lose(seen)
        {
            return;
        }
        if let (Some(mark), Some(seen)) = (self.mark, &seen)
            && seen.tos & 3 != 0
            && mark(seen)
        {
            set_ecn(&mut frame.bytes, 3);
        }
        let copies = 1 + u64::from(self.rng.below(1000) < self.fate.dup);
        for _ in 0..copies {
            if self.rng.below(1000) < self.fate.loss {
                continue;
            }
            let late = self.rng.below(1000) < self.fate.reorder;
            let extra = if late { self.rng.below(3 * self.fate.delay) } else { 0 };
            self.order += 1;
            let key = (self.now.plus(self.fate.delay + extra), self.order);
            let frame = Frame { bytes: frame.bytes.clone(), ..frame };
            self.flights.insert(key, (1 - from, frame));
        }
    }

    fn see(&self, from: usize, frame: &Frame) -> Option<Seen> {
        let l4 = if frame.bytes.first()? >> 4 == 4 { 20 } else { 40 };
        let length = |at| usize::from(u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]));
        let said = if l4 == 20 { length(2) } else { 40 + length(4) };
        assert_eq!(frame.bytes.len(), said, "nothing follows a packet's end");
        let tcp = frame.bytes.get(l4..)?;
        let hdr = TcpHdr::parse(tcp).ok()?;
        let opts = TcpOptions::parse(hdr.options(tcp));
        let len = tcp.len() - hdr.data_off_bytes;
        let tos = match frame.bytes[..2] {
            [0x45, tos] => tos,
            [first, second] => first << 4 | second >> 4,
            _ => return None,
        };
        Some(Seen { at: self.now, from, hdr, opts, len, gso: frame.gso, tos })
    }

    fn deliver(&mut self, to: usize, frame: Frame) {
        let shard = &mut self.shards[to];
        let Some(mut pkt) = shard.net.pool.alloc() else { return };
        let head = frame.bytes.len().min(pkt.tailroom());
        pkt.put(head).copy_from_slice(&frame.bytes[..head]);
        if frame.bytes.len() > head {
            let Some(mut buf) = shard.net.pool.alloc_large() else {
                return shard.net.pool.free(pkt);
            };
            buf[..frame.bytes.len() - head].copy_from_slice(&frame.bytes[head..]);
            pkt.add_buf(buf, 0, frame.bytes.len() - head);
        }
        pkt.rx_time = self.now;
        pkt.dev = 0;
        (pkt.csum, pkt.gso) = (frame.csum, frame.gso);
        self.batch.push(pkt);
        path::receive(shard, &mut self.batch);
    }

    /// What must hold at any moment.
    pub fn check(&mut self) {
        for (i, shard) in self.shards.iter().enumerate() {
            assert_eq!(shard.net.counts.unaccounted(), [], "node {i} at {:?}", self.now);
            let tcp = &shard.tcp;
            let mem: usize = tcp.conns.iter().map(|(_, _, c)| c.charged).sum();
            assert_eq!(tcp.mem, mem, "memory is the sum of what connections hold");
            for (_, _, c) in tcp.conns.iter() {
                let all: u32 = c.sndq.rtx.iter().map(|t| t.segs as u32).sum();
                let of = |flag| -> u32 {
                    c.sndq.rtx.iter().filter(|t| t.has(flag)).map(|t| t.segs as u32).sum()
                };
                assert_eq!(c.packets_out, all, "packets_out");
                assert_eq!(c.lost_out, of(super::sndq::LOST), "lost_out");
                assert_eq!(c.retrans_out, of(super::sndq::RETRANS), "retrans_out");
                if c.sack_ok {
                    assert_eq!(c.sacked_out, of(super::sndq::SACKED), "sacked_out");
                }
                assert!(c.snd_una.le(c.snd_nxt));
                if let Some(rate) = &c.sndq.rate {
                    assert_eq!(rate.len(), c.sndq.rtx.len(), "a rate beside each packet");
                }
            }
        }
    }

    /// A segment that nobody's stack made arrives at node `to`.
    pub fn inject(&mut self, to: usize, ports: (u16, u16), hdr: Forged<'_>) {
        self.inject_ecn(to, ports, hdr, 0);
    }
    /// The same, with these bits of ECN in its IP header.
    pub fn inject_ecn(&mut self, to: usize, ports: (u16, u16), hdr: Forged<'_>, ecn: u8) {
        let (src, dst) = (self.addr(1 - to), self.addr(to));
        let mut bytes = forge(src, dst, ports, &hdr);
        set_ecn(&mut bytes, ecn);
        self.tick();
        self.deliver(to, Frame { bytes, csum: Csum::None, gso: None });
        self.check();
    }

    /// The last packet that node `from` sent.
    pub fn last_of(&self, from: usize) -> Seen {
        let last = self.seen.iter().rev().find(|s| s.from == from);
        last.cloned().expect("it sent something")
    }
}

/// The parts of a segment that a test chooses.
#[derive(Clone, Copy, Default)]
pub(super) struct Forged<'a> {
    pub seq: u32,
    pub ack: u32,
    pub flags: TcpFlags,
    pub window: u16,
    pub opts: TcpOptions,
    pub data: &'a [u8],
}

/// The bits of ECN in the IP header become these.
fn set_ecn(ip: &mut [u8], ecn: u8) {
    if ip[0] >> 4 == 6 {
        ip[1] = ip[1] & 0xcf | ecn << 4;
        return;
    }
    ip[1] = ip[1] & 0xfc | ecn;
    ip[10..12].fill(0);
    let sum = csum_fold(csum_partial(&ip[..20], 0));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn addr(i: u8, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, i as u16))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, i))
    }
}

fn forge(src: IpAddr, dst: IpAddr, (sport, dport): (u16, u16), f: &Forged<'_>) -> Vec<u8> {
    use crate::pkt::pseudo;
    let hlen = 20 + f.opts.emit_len();
    let mut tcp = vec![0; hlen + f.data.len()];
    TcpHdr {
        src_port: sport,
        dst_port: dport,
        seq: f.seq,
        ack: f.ack,
        data_off_bytes: hlen,
        flags: f.flags,
        window: f.window,
        csum: 0,
        urg: 0,
    }
    .emit(&mut tcp);
    f.opts.emit(&mut tcp[20..]);
    tcp[hlen..].copy_from_slice(f.data);
    let sum = csum_fold(csum_partial(&tcp, pseudo(src, dst, tcp.len(), 6)));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let (IpAddr::V4(s), IpAddr::V4(d)) = (src, dst) else { panic!("forged over IPv4 only") };
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
    ip.extend(s.octets());
    ip.extend(d.octets());
    let len = (20 + tcp.len()) as u16;
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    let sum = csum_fold(csum_partial(&ip, 0));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend(tcp);
    ip
}

/// The byte at each place of a test's stream.
pub(super) fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ at as u8
}

/// One end of a byte stream: what was sent and received of it.
#[derive(Default, Clone, Copy, Debug)]
pub(super) struct End {
    pub to_send: u64,
    pub sent: u64,
    pub read: u64,
    pub eof: bool,
    pub shut: bool,
}

impl End {
    pub fn new(to_send: u64) -> End {
        End { to_send, ..End::default() }
    }
    /// Sends what fits, reads what is there, and checks each byte.
    pub fn turn(&mut self, shard: &mut Shard, id: SocketId) {
        let mut buf = vec![0; 65536];
        while self.sent < self.to_send {
            let n = (self.to_send - self.sent).min(30_000) as usize;
            for (i, b) in buf[..n].iter_mut().enumerate() {
                *b = pattern(self.sent + i as u64);
            }
            match shard.tcp_send(id, &buf[..n]) {
                Ok(n) => self.sent += n as u64,
                Err(_) => break,
            }
        }
        if self.sent == self.to_send && !self.shut {
            self.shut = true;
            shard.tcp_shutdown(id);
        }
        loop {
            match shard.tcp_recv(id, &mut buf) {
                Ok(0) => {
                    self.eof = true;
                    break;
                }
                Ok(n) => {
                    for (i, b) in buf[..n].iter().enumerate() {
                        assert_eq!(
                            *b,
                            pattern(self.read + i as u64),
                            "byte {}",
                            self.read + i as u64
                        );
                    }
                    self.read += n as u64;
                }
                Err(_) => break,
            }
        }
    }
}

/// Both ends send `bytes` and shut down; both read all of it. Returns the virtual time it took.
pub(super) fn exchange(
    p: &mut Pair,
    (a, b): (SocketId, SocketId),
    bytes: [u64; 2],
    limit: u64,
) -> u64 {
    let begun = p.now;
    let mut ends = [End::new(bytes[0]), End::new(bytes[1])];
    let done = p.until(limit, |p| {
        ends[A].turn(&mut p.shards[A], a);
        ends[B].turn(&mut p.shards[B], b);
        ends.iter().all(|e| e.eof)
    });
    let info = [p.shards[A].tcp_info(a), p.shards[B].tcp_info(b)];
    assert!(
        done,
        "not done: sent {} read {} / sent {} read {}; {info:#?}",
        ends[A].sent, ends[A].read, ends[B].sent, ends[B].read
    );
    assert_eq!((ends[A].read, ends[B].read), (bytes[1], bytes[0]));
    p.now.since(begun)
}

impl Sockets {
    fn demux_len(&self) -> usize {
        self.demux.len()
    }
}
