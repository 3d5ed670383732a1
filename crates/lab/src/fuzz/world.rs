//! One stack with everything open that it can have open, and the hostile peer at its only link.

mod app;
mod peer;
mod port;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::draw::Draw;
use linerate_core::ip::route::Route;
use linerate_core::link::{Features, Iface, L2};
use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::time::{Instant, MS, SEC};
use linerate_core::udp::api::UdpBind;
use linerate_core::wire::Mac;

use super::frames::{Seen, pick};
use app::listen;
use port::{Port, port};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const US: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 100));
const US6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
const PEER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100));
/// Packets that the stack may have out at most, and large buffers.
const POOL: (usize, usize) = (2048, 192);
const REASM_BYTES: usize = 256 << 10;
const NEIGHBOURS: usize = 48;
const SYNS: usize = 32;

/// The stack, its peer and its application; both do what the choices say.
pub struct World<'a> {
    rng: Draw<'a>,
    shard: Shard,
    port: Port,
    batch: Batch,
    captured: &'a [Vec<u8>],
    listeners: [SocketId; 2],
    udp: Vec<SocketId>,
    conns: Vec<SocketId>,
    seen: VecDeque<Seen>,
    /// Packets that the stack sent, from the network header on.
    sent: VecDeque<Vec<u8>>,
    /// All sockets are: nothing new is opened.
    closed: bool,
}

fn iface(port: &Port, rng: &mut Draw<'_>) -> Iface {
    let l2 = if matches!(port, Port::Bare) { L2::Ip } else { L2::Ethernet };
    let mut iface = Iface::new("fuzz0", l2, MAC, pick(rng, &[1280, 1500, 9000, 65535]));
    let on = rng.below(2) == 0;
    iface.features = Features { tx_csum: on, tso4: on, tso6: on, uso: on };
    (iface.any_ip, iface.proxy_arp) = (rng.below(4) > 0, rng.below(2) == 0);
    iface.netif_rx = rng.below(8) == 0;
    iface.vlans = vec![5];
    iface
}

impl<'a> World<'a> {
    /// A stack whose own randomness is a function of `seed`.
    pub fn new(seed: u64, mut rng: Draw<'a>, captured: &'a [Vec<u8>]) -> World<'a> {
        let port = port(&mut rng);
        let mut shard = Shard::new(seed);
        let dev = shard.add_iface(iface(&port, &mut rng));
        for (addr, len) in [(US, 24), (US6, 64)] {
            shard.add_addr(dev, addr, len).expect("a new device takes any address");
        }
        for (to, via) in [(IpAddr::from([0u8; 4]), PEER), (IpAddr::from([0u8; 16]), PEER6)] {
            shard.add_route(Route::via(to, 0, via, dev)).expect("a new table takes any route");
        }
        let mut knobs = vec![
            ("pool.small", POOL.0.to_string()),
            ("pool.large", POOL.1.to_string()),
            ("net.ipv4.ipfrag_high_thresh", REASM_BYTES.to_string()),
            ("net.ipv6.ip6frag_high_thresh", REASM_BYTES.to_string()),
            ("net.ipv4.neigh.default.gc_thresh3", NEIGHBOURS.to_string()),
            ("net.ipv4.neigh.default.gc_thresh1", (NEIGHBOURS / 2).to_string()),
            ("net.ipv4.tcp_max_syn_backlog", SYNS.to_string()),
            (
                "net.ipv4.tcp_rmem",
                pick(&mut rng, &["4096 8192 16384", "4096 131072 6291456"]).to_owned(),
            ),
            ("net.ipv4.tcp_mem", pick(&mut rng, &["4 8 40", "32768 49152 65536"]).to_owned()),
            ("dev.txqueuelen", pick(&mut rng, &["20", "1000"]).to_owned()),
            ("dev.gro_flush_timeout", pick(&mut rng, &["0", "0", "100000"]).to_owned()),
        ];
        for path in [
            "net.ipv4.tcp_sack",
            "net.ipv4.tcp_timestamps",
            "net.ipv4.tcp_window_scaling",
            "net.ipv4.tcp_abort_on_overflow",
            "features.gro",
        ] {
            let often = rng.below(4) > 0;
            knobs.push((path, u8::from(often).to_string()));
        }
        let forward = rng.below(3) == 0;
        knobs.push(("net.ipv4.ip_forward", u8::from(forward).to_string()));
        knobs.push(("net.ipv6.conf.all.forwarding", u8::from(forward).to_string()));
        for (path, value) in knobs {
            shard.set_knob(path, &value).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
        shard.net.now = Instant::from_ns(SEC);
        if rng.below(4) > 0 {
            for peer in [PEER, PEER6] {
                shard.neigh_add(dev, peer, Mac([2, 0, 0, 0, 1, 0]));
            }
        }
        let mut world = World {
            listeners: [listen(&mut shard, false), listen(&mut shard, true)],
            udp: Vec::new(),
            conns: Vec::new(),
            seen: VecDeque::new(),
            sent: VecDeque::new(),
            batch: Batch::new(),
            closed: false,
            rng,
            shard,
            port,
            captured,
        };
        for (port, any_port) in [(53, false), (0, true)] {
            let bind = UdpBind { port, any_port, rcvbuf: 1 << 17, ..UdpBind::default() };
            world.udp.push(world.shard.udp_bind(bind).expect("the port is free"));
        }
        world.shard.ping_open(1 << 16, 0);
        world
    }

    /// Batches of frames, with the application's work and time between them.
    pub fn storm(&mut self) {
        for _ in 0..60 + self.rng.below(120) {
            if self.rng.is_spent() {
                return;
            }
            for _ in 0..1 + self.rng.below(12) {
                for frame in self.some_frames() {
                    self.throw(&frame);
                    if self.rng.below(4) == 0 {
                        self.receive();
                    }
                }
                self.receive();
                if self.rng.below(2) == 0 {
                    self.settle();
                }
            }
            self.settle();
            let ns = match self.rng.below(10) {
                0 if self.rng.below(4) == 0 => self.rng.below(40 * SEC),
                0..3 => self.rng.below(2 * SEC),
                _ => self.rng.below(50 * MS),
            };
            self.pass(ns);
        }
    }

    /// Closes everything and waits: nothing may stay.
    pub fn close(&mut self, ns: u64) {
        self.closed = true;
        for id in std::mem::take(&mut self.conns) {
            if self.rng.below(3) == 0 { self.shard.tcp_close(id) } else { self.shard.tcp_abort(id) }
        }
        for id in self.listeners {
            self.shard.tcp_close(id);
        }
        for id in std::mem::take(&mut self.udp) {
            self.shard.udp_close(id);
        }
        self.shard.ping_close();
        let end = self.shard.net.now.plus(ns);
        let mut steps = 0;
        while self.shard.net.now < end {
            self.settle();
            let next = path::next_timer(&self.shard).unwrap_or(end).min(end);
            let next = next.max(self.shard.net.now.plus(MS));
            path::timers(&mut self.shard, next);
            steps += 1;
            assert!(steps < 20_000, "timers run in circles");
        }
        self.settle();
        let net = &self.shard.net;
        let left: Vec<_> = self.shard.tcp_iter().collect();
        assert!(left.is_empty(), "connections stay: {left:?}");
        let stat = self.shard.tcp_sockstat();
        assert_eq!((stat.orphan, stat.tw, stat.mem), (0, 0, 0), "orphans, TIME_WAIT, memory");
        assert!(net.reasm.is_empty(), "fragments stay");
        assert_eq!(net.pool.small_out(), 0, "packets stay out");
        let own = usize::from(matches!(self.port, Port::Socket(..)));
        assert!(net.pool.large_out() <= own, "large buffers stay out");
    }

    /// The application's turn, all queues down to the device, and the invariants.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.application();
            path::transmit(&mut self.shard, &mut self.batch);
            path::process_backlog(&mut self.shard, &mut self.batch, 300);
            self.drain();
        }
        let net = &self.shard.net;
        assert_eq!(net.counts.unaccounted(), [], "packets are missing");
        assert!(net.pool.small_out() <= POOL.0 && net.pool.large_out() <= POOL.1);
        assert!(net.neigh.len() <= NEIGHBOURS + 2, "{} neighbours", net.neigh.len());
        for mem in net.reasm.mem() {
            assert!(mem <= REASM_BYTES + (64 << 10) + 4096, "{mem} bytes of fragments");
        }
        let rows = self.shard.tcp_iter().count();
        assert!(rows <= self.conns.len() + 4096 + 2, "{rows} connections");
    }

    fn pass(&mut self, ns: u64) {
        let end = self.shard.net.now.plus(ns);
        for _ in 0..200 {
            let Some(next) = path::next_timer(&self.shard).filter(|next| *next < end) else {
                break;
            };
            let next = next.max(self.shard.net.now.plus(1000));
            path::timers(&mut self.shard, next);
            self.settle();
        }
        let end = end.max(self.shard.net.now);
        path::timers(&mut self.shard, end);
    }
}
