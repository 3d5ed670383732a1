//! One stack with everything open that it can have open, and the hostile peer at its only link.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use super::draw::Draw;
use linerate_core::ip::icmp::ping::PingReply;
use linerate_core::ip::route::Route;
use linerate_core::link::{Features, Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Csum, Gso};
use linerate_core::shard::Shard;
use linerate_core::sock::{SockKind, SocketId};
use linerate_core::tcp::{Connect, Listen, Refuse};
use linerate_core::time::{Instant, MS, SEC};
use linerate_core::tx::xmit::tx_done;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_core::wire::Mac;
use linerate_dev::netdev::Link;
use linerate_dev::packet::Packet;
use linerate_dev::vnet::{self, Vnet};
use linerate_dev::{Device, RxCx};

use super::frames::{self, Seen, TCP, UDP, pick};

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

/// How frames reach the stack.
enum Port {
    /// By a packet socket's code: the header of the device is parsed by the device.
    Socket(Box<Packet>, UnixDatagram),
    /// As bare IP packets.
    Bare,
}

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

fn port(rng: &mut Draw<'_>) -> Port {
    if rng.below(2) == 0 {
        return Port::Bare;
    }
    let (ours, theirs) = UnixDatagram::pair().expect("a pair of sockets");
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).expect("a socket can be non-blocking");
    }
    let link = Link {
        index: 1,
        name: "fuzz0".to_owned(),
        mtu: 1500,
        mac: Some(MAC.0),
        txqueuelen: 100,
        up: true,
        running: true,
    };
    Port::Socket(Box::new(Packet::from_fd(OwnedFd::from(ours), &link, true)), theirs)
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

    fn application(&mut self) {
        let rng = &mut self.rng;
        let shard = &mut self.shard;
        while let Some(event) = shard.poll_event() {
            match event.id.kind {
                SockKind::Udp => while shard.udp_take_error(event.id).is_some() {},
                _ => drop(shard.take_ready(event.id)),
            }
        }
        for listener in self.listeners {
            if self.conns.len() < 64 && rng.below(3) > 0 {
                self.conns.extend(shard.tcp_accept(listener));
            }
        }
        while let Some(syn) = shard.syn_next(self.listeners[1]) {
            match rng.below(6) {
                0 => shard.syn_refuse(syn.id, Refuse::Reset),
                1 => shard.syn_refuse(syn.id, Refuse::Silent),
                2 => shard
                    .syn_refuse(syn.id, Refuse::Unreachable { code: pick(rng, &[0, 1, 3, 13]) }),
                3 => {}
                _ => drop(shard.syn_accept(syn.id)),
            }
        }
        if !self.closed && self.conns.len() < 8 && rng.below(30) == 0 {
            let peer = if rng.below(2) == 0 { PEER } else { PEER6 };
            let remote = SocketAddr::new(peer, 8000 + rng.below(3) as u16);
            self.conns.extend(shard.tcp_connect(Connect { local: None, remote, user: 0 }));
        }
        let mut buf = [0; 5000];
        let closing = rng.below(40) == 0;
        for &id in &self.conns {
            match rng.below(8) {
                0 => drop(shard.tcp_recv(id, &mut buf)),
                1 | 2 => {
                    let n = 1 + rng.below(5000) as usize;
                    let _ = shard.tcp_send(id, &buf[..n]);
                }
                3 if closing => shard.tcp_shutdown(id),
                _ => {}
            }
        }
        if closing && !self.conns.is_empty() {
            let at = rng.below(self.conns.len() as u64) as usize;
            let id = self.conns.swap_remove(at);
            if rng.below(2) == 0 { shard.tcp_close(id) } else { shard.tcp_abort(id) }
        }
        self.datagrams();
    }

    fn datagrams(&mut self) {
        let (rng, shard) = (&mut self.rng, &mut self.shard);
        for &id in &self.udp {
            for _ in 0..rng.below(20) {
                let Some(got) = shard.udp_recv(id) else { break };
                if rng.below(2) == 0 {
                    let mut how = SendTo { src: Some(got.dst()), ..SendTo::to(got.src()) };
                    how.gso_size = if rng.below(4) == 0 { 1 + rng.below(1500) as u16 } else { 0 };
                    how.df = rng.below(4) == 0;
                    let data: Vec<u8> = got.slices().flatten().copied().collect();
                    let _ = shard.udp_send(id, how, &[&data]);
                }
                shard.udp_done(got);
            }
        }
        for _ in 0..rng.below(4) {
            let Some(got) = shard.ping_recv() else { break };
            let how = PingReply {
                src: got.dst(),
                dst: got.src(),
                id: got.id(),
                seq: got.seq(),
                ttl: 0,
                tos: got.tos(),
            };
            let _ = shard.ping_reply(how, &[&got.payload()]);
            shard.ping_done(got);
        }
    }

    /// What the stack sends is read, so that what comes next fits it.
    fn drain(&mut self) {
        let mut done = Vec::new();
        for _ in 0..64 {
            let Some(ring) = path::qdisc_run(&mut self.shard.net, 0, 0, 64) else { break };
            if ring.is_empty() {
                break;
            }
            let mut out: Vec<Vec<u8>> = Vec::new();
            match &mut self.port {
                Port::Bare => {
                    out.extend(ring.iter().map(|pkt| pkt.slices().flatten().copied().collect()));
                    done.extend(ring.drain(..).map(|pkt| (pkt, true)));
                }
                Port::Socket(dev, peer) => {
                    dev.tx_burst(ring, &mut done).expect("the socket is open");
                    let mut buf = vec![0; 70_000];
                    while let Ok(n) = peer.recv(&mut buf) {
                        let l2 = vnet::LEN_LEGACY + 14;
                        out.extend(buf[..n].get(l2..).map(<[u8]>::to_vec));
                    }
                }
            }
            for (pkt, sent) in done.drain(..) {
                tx_done(&mut self.shard.net, pkt, sent);
            }
            out.into_iter().for_each(|packet| self.learn(packet));
        }
    }

    fn learn(&mut self, packet: Vec<u8>) {
        if let Some(seen) = look(&packet) {
            self.seen.retain(|s| (s.proto, s.us, s.peer) != (seen.proto, seen.us, seen.peer));
            // What a reset ended is no aim any more.
            if seen.flags & 4 == 0 {
                self.seen.push_back(seen);
            }
            if self.seen.len() > 24 {
                self.seen.pop_front();
            }
        }
        self.sent.push_back(packet);
        if self.sent.len() > 16 {
            self.sent.pop_front();
        }
    }

    fn addrs(&mut self) -> (IpAddr, IpAddr) {
        let rng = &mut self.rng;
        let odd = |n: u64| -> (IpAddr, IpAddr) {
            let v4 = [
                [127, 0, 0, 1],
                [0, 0, 0, 0],
                [255, 255, 255, 255],
                [10, 0, 2, 255],
                [224, 0, 0, 1],
            ];
            let v6 = ["::1", "::", "ff02::1", "ff02::1:ff00:2", "fe80::1", "::ffff:10.0.2.2"];
            match n {
                0..5 => (v4[n as usize].into(), US),
                5..10 => (PEER, v4[n as usize - 5].into()),
                10..16 => (v6[n as usize - 10].parse().expect("an address"), US6),
                _ => (PEER6, v6[(n as usize - 16) % 6].parse().expect("an address")),
            }
        };
        match rng.below(16) {
            0 => odd(rng.below(22)),
            1 => (PEER, IpAddr::from([8, 8, 8, rng.below(200) as u8])),
            2 => (IpAddr::from([10, 0, 2, rng.below(256) as u8]), US),
            3 => {
                let peer = Ipv6Addr::from((0xfd00_u128 << 112) | u128::from(rng.below(500)));
                (peer.into(), US6)
            }
            4 => (PEER6, Ipv6Addr::from((0x2001_u128 << 112) | u128::from(rng.below(9))).into()),
            n if n < 11 => (PEER, US),
            _ => (PEER6, US6),
        }
    }

    /// One thing of many.
    fn some_frames(&mut self) -> Vec<Vec<u8>> {
        let way = self.addrs();
        let rng = &mut self.rng;
        let ether = matches!(self.port, Port::Socket(..));
        let live =
            (!self.seen.is_empty()).then(|| self.seen[rng.below(self.seen.len() as u64) as usize]);
        let fresh = Seen {
            proto: TCP,
            us: (way.1, pick(rng, &[80, 81, 443, 0])),
            peer: (way.0, 1000 + rng.below(64) as u16),
            seq: 0,
            ack: rng.next_u32(),
            flags: 0,
            ts: Some((0, 1)),
        };
        let packet = match rng.below(16) {
            0 | 1 => {
                let mut frame =
                    self.captured[rng.below(self.captured.len() as u64) as usize].clone();
                frames::damage(rng, &mut frame);
                if !ether {
                    frame.drain(..frame.len().min(14));
                    frames::right_header(&mut frame);
                } else if frame.len() > 14 && rng.below(2) == 0 {
                    frame[..6].copy_from_slice(&MAC.0);
                    frames::right_header(&mut frame[14..]);
                }
                return vec![frame];
            }
            2..=7 => {
                let seen = live.filter(|s| s.proto == TCP && rng.below(5) > 0).unwrap_or(fresh);
                if rng.below(8) > 0 {
                    let all = frames::polite(rng, &seen);
                    return all.into_iter().map(|f| if ether { of(rng, &f) } else { f }).collect();
                }
                let (src, dst, segment) = frames::tcp(rng, &seen);
                frames::ip(rng, src, dst, TCP, &segment)
            }
            8 | 9 => {
                let port = pick(rng, &[53, 53, 99, 0]);
                let from = (way.0, 2000 + rng.below(40) as u16);
                let datagram = frames::udp(rng, from, (way.1, port));
                frames::ip(rng, way.0, way.1, UDP, &datagram)
            }
            10 | 11 => {
                let n = self.sent.len() as u64;
                let quote =
                    if n == 0 { Vec::new() } else { self.sent[rng.below(n) as usize].clone() };
                let message = frames::icmp(rng, way, &quote);
                frames::ip(rng, way.0, way.1, if way.0.is_ipv4() { 1 } else { 58 }, &message)
            }
            12 if ether => match way {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    return vec![framed(rng, 0x0806, &frames::arp(&mut rng.clone(), a, b))];
                }
                _ => return Vec::new(),
            },
            12 | 13 => match way {
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    let message = frames::nd(rng, (a, b), pick(&mut rng.clone(), &[a, b]));
                    frames::ip(rng, a.into(), b.into(), 58, &message)
                }
                _ => return Vec::new(),
            },
            _ => {
                let (port, proto) = (pick(rng, &[53, 99]), pick(rng, &[UDP, UDP, TCP, 1, 58, 132]));
                let datagram = frames::udp(rng, (way.0, 3000), (way.1, port));
                let whole = frames::ip(rng, way.0, way.1, proto, &datagram);
                let all = frames::fragments(rng, &whole);
                return all.into_iter().map(|f| if ether { of(rng, &f) } else { f }).collect();
            }
        };
        let packets =
            if rng.below(12) == 0 { frames::fragments(rng, &packet) } else { vec![packet] };
        let mut all = Vec::new();
        for mut packet in packets {
            if rng.below(12) == 0 {
                frames::damage(rng, &mut packet);
                frames::right_header(&mut packet);
            }
            all.push(if ether { of(rng, &packet) } else { packet });
        }
        all
    }

    /// Gives a frame to the stack, with a header of the device that may lie.
    fn throw(&mut self, frame: &[u8]) {
        let rng = &mut self.rng;
        let l2 = if matches!(self.port, Port::Bare) { 0 } else { 14 };
        let hdr = virtio(rng, frame, l2);
        let now = self.shard.net.now;
        match &mut self.port {
            Port::Socket(dev, peer) => {
                let mut bytes = hdr[..vnet::LEN_LEGACY].to_vec();
                bytes.extend_from_slice(frame);
                if peer.send(&bytes).is_err() {
                    return;
                }
                let mut dropped = Vec::new();
                let pool = &mut self.shard.net.pool;
                let mut cx = RxCx { pool, now, dev: 0, dropped: &mut dropped };
                dev.rx_burst(&mut cx, &mut self.batch, 64).expect("the socket is open");
                for (pkt, _) in dropped {
                    self.shard.net.pool.free(pkt);
                }
            }
            Port::Bare => self.bare(frame, &hdr),
        }
    }

    /// What was thrown is received, as one batch.
    fn receive(&mut self) {
        if self.shard.net.ifaces[0].netif_rx {
            for pkt in self.batch.now.drain(..) {
                linerate_core::rx::backlog::netif_rx(&mut self.shard.net, pkt);
            }
        } else {
            path::receive(&mut self.shard, &mut self.batch);
        }
    }

    /// What a TUN does with its header and a packet.
    fn bare(&mut self, packet: &[u8], hdr: &[u8; vnet::LEN]) {
        let Ok(vnet) = Vnet::parse(hdr, packet.len()) else { return };
        let net = &mut self.shard.net;
        let Some(mut pkt) = net.pool.alloc() else { return };
        let head = packet.len().min(pkt.tailroom());
        pkt.put(head).copy_from_slice(&packet[..head]);
        if packet.len() > head {
            let Some(mut large) = net.pool.alloc_large() else { return net.pool.free(pkt) };
            let rest = &packet[head..];
            large[..rest.len()].copy_from_slice(rest);
            pkt.add_buf(large, 0, rest.len());
        }
        pkt.network = pkt.data_offset();
        if let Some(needs) = vnet.needs_csum {
            pkt.csum = Csum::Partial { start: needs.start, offset: needs.offset };
        } else if vnet.data_valid {
            pkt.csum = Csum::Verified;
        }
        if let Some(gso) = vnet.gso {
            let version = packet.first().map_or(0, |b| b >> 4);
            let segs = packet.len().div_ceil(usize::from(gso.size)) as u16;
            let fits = match gso.kind {
                linerate_core::pkt::GsoKind::Tcp4 => version == 4,
                linerate_core::pkt::GsoKind::Tcp6 => version == 6,
                linerate_core::pkt::GsoKind::Udp => true,
            };
            if !fits {
                return net.pool.free(pkt);
            }
            let gso = Gso { kind: gso.kind, size: gso.size, segs, ecn: gso.ecn };
            pkt.gso = (segs > 1).then_some(gso);
        }
        (pkt.dev, pkt.rx_time) = (0, net.now);
        self.batch.push(pkt);
    }
}

fn listen(shard: &mut Shard, any: bool) -> SocketId {
    let port = if any { 0 } else { 80 };
    let listen = Listen { port, any_port: any, hold_syn: any, backlog: 8, ..Listen::default() };
    shard.tcp_listen(listen).expect("the port is free")
}

/// Mostly nothing; sometimes what fits; sometimes a lie.
fn virtio(rng: &mut Draw<'_>, frame: &[u8], l2: usize) -> [u8; vnet::LEN] {
    let mut hdr = [0; vnet::LEN];
    let kind = rng.below(8);
    if kind < 4 {
        return hdr;
    }
    if kind == 4 {
        (0..vnet::LEN).for_each(|at| hdr[at] = rng.next_u32() as u8);
        return hdr;
    }
    let packet = frame.get(l2..).unwrap_or_default();
    let v4 = packet.first().is_some_and(|b| b >> 4 == 4);
    let ihl = if v4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let proto = packet.get(if v4 { 9 } else { 6 }).copied().unwrap_or(0);
    let lie = if rng.below(6) == 0 { rng.below(9) as usize } else { 0 };
    let (start, offset) = ((l2 + ihl + lie) as u16, if proto == TCP { 16u16 } else { 6 });
    hdr[0] = pick(rng, &[1, 1, 1, 2, 3]);
    if kind > 5 {
        let fit = if proto == UDP {
            5
        } else if v4 {
            1
        } else {
            4
        };
        hdr[1] = if rng.below(8) == 0 { pick(rng, &[1, 3, 4, 5, 0x81]) } else { fit };
        let size = pick(rng, &[1u16, 7, 500, 1200, 1400, 1460, 65535]);
        hdr[2..4].copy_from_slice(&(start + 20).to_ne_bytes());
        hdr[4..6].copy_from_slice(&size.to_ne_bytes());
    }
    hdr[6..8].copy_from_slice(&start.to_ne_bytes());
    hdr[8..10].copy_from_slice(&offset.to_ne_bytes());
    hdr
}

fn of(rng: &mut Draw<'_>, packet: &[u8]) -> Vec<u8> {
    let v6 = packet.first().is_some_and(|b| b >> 4 == 6);
    framed(rng, if v6 { 0x86dd } else { 0x0800 }, packet)
}

fn framed(rng: &mut Draw<'_>, proto: u16, payload: &[u8]) -> Vec<u8> {
    let to = match rng.below(14) {
        0 => [0xff; 6],
        1 => [0x33, 0x33, 0, 0, 0, 1],
        2 => [2, 9, 9, 9, 9, 9],
        _ => MAC.0,
    };
    let mut out = to.to_vec();
    out.extend([2, 0, 0, 0, 1, 0]);
    if rng.below(20) == 0 {
        out.extend([0x81, 0, 0, pick(rng, &[5, 6, 0])]);
    }
    out.extend(proto.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// What a packet of the stack tells about its connection.
fn look(packet: &[u8]) -> Option<Seen> {
    let v4 = packet.first()? >> 4 == 4;
    let (src, dst, proto, l4) = if v4 {
        let addr =
            |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        (addr(12)?, addr(16)?, packet[9], packet.get(usize::from(packet[0] & 15) * 4..)?)
    } else {
        let addr =
            |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
        (addr(8)?, addr(24)?, *packet.get(6)?, packet.get(40..)?)
    };
    let half = |at: usize| Some(u16::from_be_bytes(l4.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_be_bytes(l4.get(at..at + 4)?.try_into().ok()?));
    if proto != TCP {
        return None;
    }
    let head = usize::from(l4.get(12)? >> 4) * 4;
    let flags = *l4.get(13)?;
    let len = l4.len().saturating_sub(head) as u32 + u32::from(flags & 3 != 0);
    let opts = l4.get(20..head)?;
    let at = opts.windows(2).position(|w| w == [8, 10]).map(|at| 20 + at + 2);
    let ts = at.and_then(|at| Some((word(at)?, word(at + 4)?)));
    Some(Seen {
        proto,
        us: (src, half(0)?),
        peer: (dst, half(2)?),
        seq: word(4)?.wrapping_add(len),
        ack: word(8)?,
        flags,
        ts,
    })
}
