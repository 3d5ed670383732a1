//! The gateway in virtual time: packets are made by hand and the clock is moved by hand, so that
//! what takes minutes is tested at once. The outside is the loopback of this machine.
#![forbid(unsafe_code)]

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Csum};
use linerate_core::shard::Shard;
use linerate_core::time::{Instant, SEC};
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;
use linerate_dev::drive::App;
use linerate_dev::poller::{Event, Poller};
use linerate_gateway::{Config, Count, Gateway, Limits};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

const PROGRAM: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
/// With `host_loopback` this is the machine's own loopback.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const URG: u8 = 32;

/// What a packet is sent with, beside its addresses.
#[derive(Clone, Copy)]
struct Ip {
    tos: u8,
    ttl: u8,
}
const PLAIN: Ip = Ip { tos: 0, ttl: 64 };

struct World {
    shard: Shard,
    poller: Poller,
    gateway: Gateway,
    batch: Batch,
}

impl World {
    fn new(limits: Limits) -> World {
        World::with(Config { host_loopback: true, limits, ..Config::default() })
    }

    fn with(config: Config) -> World {
        let mut shard = Shard::new(7);
        let mut iface = Iface::new("lr0", L2::Ip, Mac([0; 6]), 1500);
        Gateway::setup_iface(&config, &mut iface);
        let dev = shard.add_iface(iface);
        let poller = Poller::new(64).unwrap();
        let gateway = Gateway::new(config, &mut shard, dev, &poller).unwrap();
        World { shard, poller, gateway, batch: Batch::new() }
    }

    /// A packet of the program comes in.
    fn packet(&mut self, dst: Ipv4Addr, proto: u8, ip: Ip, body: &[u8]) {
        let total = (20 + body.len() as u16).to_be_bytes();
        let mut bytes = vec![0x45, ip.tos, total[0], total[1], 0, 0, 0x40, 0, ip.ttl, proto, 0, 0];
        bytes.extend(PROGRAM.octets());
        bytes.extend(dst.octets());
        let sum: u32 = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(body);
        let mut pkt = self.shard.net.pool.alloc().expect("memory");
        pkt.put(bytes.len()).copy_from_slice(&bytes);
        pkt.csum = Csum::Verified;
        (pkt.dev, pkt.rx_time) = (0, self.shard.net.now);
        self.batch.push(pkt);
        path::receive(&mut self.shard, &mut self.batch);
    }

    fn udp(&mut self, from: u16, to: u16, ip: Ip, data: &[u8]) {
        let len = 8 + data.len() as u16;
        let mut body = Vec::new();
        [from, to, len, 0].iter().for_each(|word| body.extend(word.to_be_bytes()));
        body.extend(data);
        self.packet(HOST, 17, ip, &body);
    }

    fn tcp(&mut self, ports: (u16, u16), seq: u32, ack: u32, flags: u8) {
        self.tcp_to(HOST, ports, seq, ack, flags);
    }

    fn tcp_to(&mut self, dst: Ipv4Addr, (from, to): (u16, u16), seq: u32, ack: u32, flags: u8) {
        let mut body = Vec::new();
        body.extend(from.to_be_bytes());
        body.extend(to.to_be_bytes());
        body.extend(seq.to_be_bytes());
        body.extend(ack.to_be_bytes());
        body.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.packet(dst, 6, PLAIN, &body);
    }

    /// One turn of the loop; returns the packets that left.
    fn turn(&mut self) -> Vec<Vec<u8>> {
        let ready: Vec<Event> = self.poller.wait(Some(0)).unwrap().collect();
        let now = self.shard.net.now;
        path::timers(&mut self.shard, now);
        self.gateway.turn(&mut self.shard, &self.poller, &ready).unwrap();
        path::transmit(&mut self.shard, &mut self.batch);
        let mut out = Vec::new();
        let mut sent = Vec::new();
        while let Some(ring) = path::qdisc_run(&mut self.shard.net, 0, 0, 64) {
            if ring.is_empty() {
                break;
            }
            sent.extend(ring.drain(..));
            for pkt in sent.drain(..) {
                out.push(pkt.slices().flatten().copied().collect());
                tx_done(&mut self.shard.net, pkt, true);
            }
        }
        out
    }

    fn pass(&mut self, seconds: u64) {
        self.shard.net.now = self.shard.net.now.plus(seconds * SEC);
        self.turn();
    }

    /// Turns until something has left; what that is.
    fn answer(&mut self) -> Vec<u8> {
        for _ in 0..5000 {
            if let Some(packet) = self.turn().into_iter().next() {
                return packet;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("nothing left the gateway");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.shard.net.counts.unaccounted(), [], "packets are unaccounted for");
        }
    }
}

fn outside() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[test]
fn an_endpoint_lives_thirty_seconds_unanswered_and_two_minutes_answered() {
    let mut world = World::new(Limits::default());
    let (socket, port) = outside();
    world.udp(5000, port, PLAIN, b"one");
    world.udp(5001, port, PLAIN, b"two");
    world.turn();
    assert_eq!(world.gateway.udp_endpoints(), 2);
    let mut buf = [0; 10];
    let (_, first) = socket.recv_from(&mut buf).unwrap();
    socket.send_to(b"answer", first).unwrap();
    let packet = world.answer();
    assert_eq!(&packet[28..], b"answer");
    assert_eq!(&packet[12..20], &[HOST.octets(), PROGRAM.octets()].concat()[..]);
    world.pass(29);
    assert_eq!(world.gateway.udp_endpoints(), 2);
    // The wheel may be an eighth late, never early.
    world.pass(6);
    assert_eq!(world.gateway.udp_endpoints(), 1);
    world.pass(80);
    assert_eq!(world.gateway.udp_endpoints(), 1);
    world.pass(30);
    assert_eq!(world.gateway.udp_endpoints(), 0);
    assert_eq!(world.gateway.counts().get(Count::UdpExpired), 2);
}

#[test]
fn use_keeps_an_endpoint() {
    let mut world = World::new(Limits::default());
    let (_socket, port) = outside();
    for _ in 0..20 {
        world.udp(5000, port, PLAIN, b"again");
        world.pass(25);
        assert_eq!(world.gateway.udp_endpoints(), 1);
    }
    assert_eq!(world.gateway.counts().get(Count::UdpEndpoints), 1);
}

#[test]
fn the_oldest_endpoint_makes_room() {
    let limits = Limits { udp_endpoints: 4, ..Limits::default() };
    let mut world = World::new(limits);
    let (_socket, port) = outside();
    for from in 6000..6004 {
        world.udp(from, port, PLAIN, b"hello");
        world.pass(1);
    }
    // The first is used again, so that the second is the oldest.
    world.udp(6000, port, PLAIN, b"hello");
    world.pass(1);
    world.udp(6004, port, PLAIN, b"hello");
    world.turn();
    for from in [6000, 6002, 6003, 6004] {
        world.udp(from, port, PLAIN, b"hello");
        world.turn();
    }
    assert_eq!(world.gateway.udp_endpoints(), 4);
    assert_eq!(world.gateway.counts().get(Count::UdpEvicted), 1);
    assert_eq!(world.gateway.counts().get(Count::UdpEndpoints), 5);
}

#[test]
fn tos_and_ttl_are_carried_out_and_in() {
    use nix::sys::socket::{setsockopt, sockopt};
    let mut world = World::new(Limits::default());
    let (socket, port) = outside();
    setsockopt(&socket, sockopt::IpRecvTos, &true).unwrap();
    setsockopt(&socket, sockopt::Ipv4RecvTtl, &true).unwrap();
    world.udp(5000, port, Ip { tos: 0x2a, ttl: 9 }, b"marked");
    world.turn();
    let (mut data, mut control) = ([0; 16], nix::cmsg_space!([u8; 64]));
    let mut pieces = [std::io::IoSliceMut::new(&mut data)];
    let got = nix::sys::socket::recvmsg::<nix::sys::socket::SockaddrIn>(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &mut pieces,
        Some(&mut control),
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
    use nix::sys::socket::ControlMessageOwned::{Ipv4Tos, Ipv4Ttl};
    let told: Vec<_> = got.cmsgs().unwrap().collect();
    // The gateway is a hop.
    assert!(told.contains(&Ipv4Tos(0x2a)) && told.contains(&Ipv4Ttl(8)), "{told:?}");
    let from = got.address.unwrap();
    let from = std::net::SocketAddrV4::new(from.ip(), from.port());
    rustix::net::sockopt::set_ip_tos(&socket, 0x48).unwrap();
    rustix::net::sockopt::set_ip_ttl(&socket, 33).unwrap();
    socket.send_to(b"back", from).unwrap();
    let packet = world.answer();
    assert_eq!((packet[1], packet[8]), (0x48, 32));
}

#[test]
fn a_packet_whose_ttl_ends_here_is_told_so() {
    let mut world = World::new(Limits::default());
    let (_socket, port) = outside();
    world.udp(5000, port, Ip { tos: 0, ttl: 1 }, b"traceroute");
    let packet = world.answer();
    assert_eq!((packet[9], packet[20], packet[21]), (1, 11, 0));
    assert_eq!(packet[12..16], HOST.octets());
    // It quotes the packet.
    assert_eq!(packet[28 + 12..28 + 20], [PROGRAM.octets(), HOST.octets()].concat()[..]);
    assert_eq!(world.gateway.udp_endpoints(), 0);
}

#[test]
fn an_error_outside_comes_back_as_the_icmp_that_it_was() {
    let mut world = World::new(Limits::default());
    let (socket, port) = outside();
    drop(socket);
    world.udp(5000, port, PLAIN, b"anybody?");
    let packet = world.answer();
    // Port unreachable, about 10.0.2.100:5000 -> 10.0.2.2:port.
    assert_eq!((packet[9], packet[20], packet[21]), (1, 3, 3));
    let quote = &packet[28..];
    assert_eq!(quote[12..20], [PROGRAM.octets(), HOST.octets()].concat()[..]);
    assert_eq!(quote[20..24], [5000u16.to_be_bytes(), port.to_be_bytes()].concat()[..]);
    assert_eq!(&quote[28..], b"anybody?");
}

#[test]
fn a_syn_is_answered_only_once_somebody_outside_has() {
    let mut world = World::new(Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    world.tcp((7000, port), 100, 0, SYN);
    let packet = world.answer();
    assert_eq!((packet[9], packet[33]), (6, SYN | ACK));
    let (_outside, _) = listener.accept().unwrap();
    drop(listener);
    // Nobody listens now.
    world.tcp((7001, port), 100, 0, SYN);
    let packet = world.answer();
    assert_eq!((packet[9], packet[33] & (SYN | RST)), (6, RST));
}

/// A resolver over TCP that accepts at most `backlog` connections, or refuses all.
fn tcp_resolver(backlog: Option<i32>) -> (OwnedFd, SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    if let Some(backlog) = backlog {
        listen(&fd, backlog).unwrap();
    }
    let addr = getsockname(&fd).unwrap().try_into().unwrap();
    (fd, addr)
}

/// Goal: a connection to the name server reaches the first resolver that lives, and fails only
/// when none does. Method: a listener whose queue is full is silent, a socket that does not listen
/// refuses, and to the broadcast address nobody can connect.
#[test]
fn a_connection_to_the_name_server_tries_every_resolver() {
    let (_silent, silent) = tcp_resolver(Some(0));
    let _full = TcpStream::connect(silent).unwrap();
    let (_closed, closed) = tcp_resolver(None);
    let (_good, good) = tcp_resolver(Some(5));
    let nowhere = SocketAddr::from((Ipv4Addr::BROADCAST, 53));
    let asked = |resolvers: &[SocketAddr]| {
        let mut world = World::with(Config { resolvers: resolvers.into(), ..Config::default() });
        let dns = Ipv4Addr::new(10, 0, 2, 3);
        world.tcp_to(dns, (7000, 53), 100, 0, SYN);
        if resolvers.contains(&silent) {
            assert_eq!(world.turn(), [[0; 0]; 0], "the SYN is held");
            world.shard.net.now = world.shard.net.now.plus(6 * SEC);
        }
        let packet = world.answer();
        let refused = world.gateway.counts().get(Count::TcpUpstreamRefused);
        let timeout = world.gateway.counts().get(Count::TcpUpstreamTimeout);
        let answered = packet[9] == 6 && packet[33] == SYN | ACK;
        assert_eq!(world.gateway.tcp_flows(), usize::from(answered));
        (answered, packet[9], refused, timeout)
    };
    assert_eq!(asked(&[closed, good]), (true, 6, 0, 0));
    assert_eq!(asked(&[nowhere, good]), (true, 6, 0, 0));
    assert_eq!(asked(&[silent, closed, nowhere, good]), (true, 6, 0, 0));
    assert_eq!(asked(&[closed, nowhere, closed]), (false, 6, 1, 0));
    assert_eq!(asked(&[closed, nowhere]), (false, 6, 1, 0));
    // Told by an ICMP error.
    assert_eq!(asked(&[nowhere]), (false, 1, 1, 0));
    assert_eq!(asked(&[silent]), (false, 1, 0, 1));
}

#[test]
fn half_open_connections_are_given_up_on_both_sides() {
    let mut world = World::new(Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for from in 7000..7050 {
        world.tcp((from, port), 100, 0, SYN);
        world.turn();
    }
    assert_eq!(world.gateway.tcp_flows(), 50);
    let (mut outside, _) = listener.accept().unwrap();
    // The program never confirms.
    for _ in 0..110 {
        world.pass(1);
    }
    assert_eq!(world.gateway.tcp_flows(), 0);
    let ended = std::io::Read::read(&mut outside, &mut [0]);
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// A connection of the program's from port 7000 to the outside: its other end and port, and what the program
/// acknowledges.
fn established(world: &mut World) -> (TcpStream, u16, u32) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    world.tcp((7000, port), 100, 0, SYN);
    let packet = world.answer();
    let ack = u32::from_be_bytes(packet[24..28].try_into().unwrap()).wrapping_add(1);
    world.tcp((7000, port), 101, ack, ACK);
    world.turn();
    let (outside, _) = listener.accept().unwrap();
    (outside, port, ack)
}

/// Goal: urgent data is nothing but data (RFC 6093 §3.1), and what comes behind it does not wait
/// for more. Method: all of it is there before the gateway reads; reading stops before the mark.
/// The timer that runs for our end of a connection, as `/proc/net/tcp` has it: 2 is keepalive.
fn timer_of(local: SocketAddr, remote: SocketAddr) -> Option<u8> {
    let end = |at: SocketAddr| format!("0100007F:{:04X}", at.port());
    let ends = format!("{} {}", end(local), end(remote));
    let look = || {
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("it is Linux");
        let row = table.lines().find(|line| line.contains(&ends))?;
        row.split_whitespace().nth(5)?.split_once(':')?.0.parse().ok()
    };
    // A table that changes while it is read may miss a row.
    (0..100).find_map(|_| look())
}

/// Options cost system calls, so a connection has them only once they matter.
#[test]
fn a_connection_is_kept_alive_once_it_is_old() {
    let mut world = World::new(Limits::default());
    let (outside, _, _) = established(&mut world);
    let (gateway, server) = (outside.peer_addr().unwrap(), outside.local_addr().unwrap());
    world.pass(29);
    assert_eq!(timer_of(gateway, server), Some(0));
    world.pass(2);
    assert_eq!(timer_of(gateway, server), Some(2));
}

#[test]
fn urgent_data_arrives_in_its_place_and_so_does_what_follows() {
    use rustix::net::{SendFlags, send};
    let mut world = World::new(Limits::default());
    let (outside, ..) = established(&mut world);
    for (bytes, flags) in
        [("before ", SendFlags::empty()), ("!", SendFlags::OOB), (" behind", SendFlags::empty())]
    {
        send(&outside, bytes.as_bytes(), flags).unwrap();
    }
    let mut got = Vec::new();
    for _ in 0..5000 {
        for packet in world.turn() {
            got.extend_from_slice(&packet[20 + usize::from(packet[32] >> 4) * 4..]);
        }
        if got.len() >= 15 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(String::from_utf8_lossy(&got), "before ! behind");
}

/// Goal: a program's urgent byte is urgent outside, too. Method: the outside reads it apart, the rest in order.
#[test]
fn urgent_data_of_a_program_is_urgent_outside() {
    use rustix::net::{RecvFlags, recv};
    let mut world = World::new(Limits::default());
    let (outside, port, ack) = established(&mut world);
    let mut segment = Vec::new();
    segment.extend(7000u16.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend(101u32.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    // The pointer names the byte behind the urgent one.
    segment.extend([0x50, ACK | URG, 0xff, 0xff, 0, 0, 0, 8]);
    segment.extend(b"before ! behind");
    world.packet(HOST, 6, PLAIN, &segment);
    let (mut urgent, mut data) = (Vec::new(), Vec::new());
    for _ in 0..60_000 {
        world.turn();
        let mut buf = [0; 64];
        if let Ok((n, _)) = recv(&outside, &mut buf[..], RecvFlags::OOB | RecvFlags::DONTWAIT) {
            urgent.extend_from_slice(&buf[..n]);
        }
        if let Ok((n, _)) = recv(&outside, &mut buf[..], RecvFlags::DONTWAIT) {
            data.extend_from_slice(&buf[..n]);
        }
        if urgent.len() + data.len() >= 15 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(String::from_utf8_lossy(&urgent), "!");
    assert_eq!(String::from_utf8_lossy(&data), "before  behind");
}

#[test]
fn a_syn_sent_again_connects_once() {
    let mut world = World::new(Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for _ in 0..5 {
        world.tcp((7000, port), 100, 0, SYN);
        world.turn();
        world.pass(1);
    }
    assert_eq!(world.gateway.tcp_flows(), 1);
    listener.accept().unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "it connected twice");
}

#[test]
fn storms_of_nonsense_leave_nothing_behind() {
    let mut world = World::new(Limits::default());
    let (_socket, port) = outside();
    // A small generator: the same nonsense each time.
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u32
    };
    for round in 0..20_000u32 {
        let from = 1024 + (random() % 60_000) as u16;
        match random() % 4 {
            0 => world.tcp((from, port), random(), random(), random() as u8),
            1 => world.tcp((from, port), random(), 0, SYN),
            2 => world.udp(from, port, Ip { tos: random() as u8, ttl: random() as u8 }, b"x"),
            _ => {
                let body: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
                // On the link alone: this machine's loopback is the only way out of it.
                let dst = Ipv4Addr::new(10, 0, 2, random() as u8);
                world.packet(dst, random() as u8, PLAIN, &body);
            }
        }
        if round % 16 == 0 {
            world.turn();
        }
    }
    for _ in 0..300 {
        world.pass(1);
    }
    assert_eq!((world.gateway.tcp_flows(), world.gateway.udp_endpoints()), (0, 0));
    assert!(world.shard.net.now > Instant::ZERO);
}
