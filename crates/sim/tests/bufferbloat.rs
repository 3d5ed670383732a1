//! Goal: behind a slow link a queueing discipline decides what a ping takes beside downloads: a plain
//! queue fills up, `fq_codel` lets others pass. Method: two hosts with a router
//! between them, whose way out is a 10 Mbit/s shaper with one discipline or another; virtual time, one
//! seed.

use std::net::{IpAddr, Ipv4Addr};

use linerate_core::ip::route::Route;
use linerate_core::link::L2;
use linerate_core::sock::SocketId;
use linerate_core::tcp::{Connect, Listen};
use linerate_core::time::{Instant, MS, SEC};
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_sim::{Link, NodeId, World};

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
const RA: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 254));
const RB: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 254));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1));
/// One way, in each direction.
const DELAY: u64 = 10 * MS;

/// What was seen.
struct Seen {
    /// Nanoseconds that each probe took one way, in order.
    probes: Vec<u64>,
    /// Bytes of each download.
    bytes: Vec<usize>,
}

impl Seen {
    fn worst_probe(&self) -> f64 {
        self.probes.iter().max().copied().unwrap_or_default() as f64 / MS as f64
    }
}

/// Downloads from A to B for `secs`, and probes beside them; the first two seconds are not looked at.
fn beside(downloads: usize, discipline: &str, secs: u64) -> Seen {
    let mut world = World::new(1);
    let (a, r, b) = (world.add_node(), world.add_node(), world.add_node());
    let near = Link { queue_bytes: 1 << 24, ..Link::default() };
    let far = Link { delay_ns: DELAY, ..near };
    world.join((a, A), (r, RA), (L2::Ip, 1500, 24), (near, near));
    world.join((r, RB), (b, B), (L2::Ip, 1500, 24), (far, far));
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    for (node, via) in [(a, RA), (b, RB)] {
        world.node(node).add_route(Route::via(any, 0, via, 0)).expect("a route");
    }
    world.node(r).set_knob("net.ipv4.ip_forward", "1").expect("a switch");
    let spec = format!("handle 1: tbf rate 10mbit burst 3000b limit 100m; parent 1: {discipline}");
    world.node(r).set_knob("qdisc.sim1.root", &spec).expect("a sound specification");
    let listener = world.node(b).tcp_listen(Listen { port: 80, backlog: 64, ..Listen::default() });
    let listener = listener.expect("a free port");
    let senders: Vec<SocketId> = (0..downloads)
        .map(|_| {
            let to = Connect { local: None, remote: (B, 80).into(), user: 0 };
            world.node(a).tcp_connect(to).expect("a route exists")
        })
        .collect();
    let bind = |port| UdpBind { port, ..UdpBind::default() };
    let from = world.node(a).udp_bind(bind(7)).expect("a free port");
    let to = world.node(b).udp_bind(bind(7)).expect("a free port");
    let mut seen = Seen { probes: Vec::new(), bytes: vec![0; downloads] };
    let mut readers: Vec<SocketId> = Vec::new();
    let (begun, end) = (world.now(), world.now().plus(secs * SEC));
    let warm = begun.plus((2 * SEC).min(secs * SEC / 2));
    let mut tick = begun;
    while world.now() < end {
        let now = world.now();
        while now >= tick {
            tick = tick.plus(10 * MS);
            probe(&mut world, (a, from), now);
        }
        let block = [0x5a; 16_384];
        for id in &senders {
            while world.node(a).tcp_send(*id, &block).is_ok_and(|n| n > 0) {}
        }
        let node = world.node(b);
        while node.poll_event().is_some() {}
        while let Some(id) = node.tcp_accept(listener) {
            readers.push(id);
        }
        let mut buf = [0; 65_536];
        for (id, bytes) in readers.iter().zip(&mut seen.bytes) {
            while let Ok(n @ 1..) = node.tcp_recv(*id, &mut buf) {
                *bytes += if now >= warm { n } else { 0 };
            }
        }
        while let Some(datagram) = node.udp_recv(to) {
            let mut sent = [0; 8];
            sent.copy_from_slice(datagram.slices().next().expect("eight bytes"));
            node.udp_done(datagram);
            let sent = Instant::from_ns(u64::from_be_bytes(sent));
            if sent >= warm {
                seen.probes.push(now.since(sent));
            }
        }
        while world.node(a).poll_event().is_some() {}
        assert!(world.step(), "a probe is on its way");
    }
    assert!(world.unaccounted().is_empty());
    seen
}

fn probe(world: &mut World, (node, from): (NodeId, SocketId), now: Instant) {
    let time = now.ns().to_be_bytes();
    let sent = world.node(node).udp_send(from, SendTo::to((B, 7).into()), &[&time]);
    sent.expect("there is room");
}

/// A ping beside eight downloads takes no more than 10 ms more than alone; behind a plain queue it takes
/// as long as the queue is.
#[test]
fn fq_codel_lets_a_ping_pass_eight_downloads() {
    let idle = beside(0, "fq_codel", 3).worst_probe();
    let busy = beside(8, "fq_codel", 10);
    assert!(busy.worst_probe() <= idle + 10.0, "{} ms for {idle}", busy.worst_probe());
    assert!(busy.probes.len() >= 700, "{} probes", busy.probes.len());
    let least = busy.bytes.iter().min().expect("downloads");
    let most = busy.bytes.iter().max().expect("downloads");
    assert!(*most as f64 <= *least as f64 * 1.25, "fair shares: {:?}", busy.bytes);
    let plain = beside(8, "pfifo limit 1000", 10).worst_probe();
    assert!(plain >= idle + 100.0, "{plain} ms behind a plain queue");
}
