//! Whole stacks in virtual time, from seeds. A failure prints its seed; LINERATE_SEEDS=N runs more
//! of them, LINERATE_SEED=S repeats one.

use std::net::IpAddr;

use linerate_core::link::L2;
use linerate_core::rand::Rng;
use linerate_core::sock::error::TcpError;
use linerate_core::sock::{Ready, SocketId};
use linerate_core::tcp::{Connect, Listen};
use linerate_core::time::{Instant, MS, SEC};
use linerate_lab::seeds::{self, Scenario};
use linerate_sim::{Link, NodeId, World};

fn chosen() -> Vec<u64> {
    let var = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match var("LINERATE_SEED") {
        Some(seed) => vec![seed],
        None => (1..=var("LINERATE_SEEDS").unwrap_or(24)).collect(),
    }
}

/// One end of a stream: what it still has to send, and what it has received.
struct End {
    node: NodeId,
    id: Option<SocketId>,
    send: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
    shut: bool,
    eof: bool,
    failed: Option<TcpError>,
}

impl End {
    fn new(node: NodeId, send: Vec<u8>) -> End {
        End {
            node,
            id: None,
            send,
            sent: 0,
            received: Vec::new(),
            shut: false,
            eof: false,
            failed: None,
        }
    }

    fn act(&mut self, world: &mut World) {
        let Some(id) = self.id else { return };
        let shard = world.node(self.node);
        let ready = shard.take_ready(id);
        if ready.has(Ready::ERR) {
            self.failed = shard.tcp_error(id);
        }
        while self.sent < self.send.len() {
            match shard.tcp_send(id, &self.send[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(_) => break,
            }
        }
        if self.sent == self.send.len() && !self.shut && shard.tcp_info(id).is_some() {
            shard.tcp_shutdown(id);
            self.shut = true;
        }
        let mut buf = [0; 40_000];
        loop {
            match shard.tcp_recv(id, &mut buf) {
                Ok(0) => {
                    self.eof = true;
                    break;
                }
                Ok(n) => self.received.extend(&buf[..n]),
                Err(_) => break,
            }
        }
    }

    fn done(&self) -> bool {
        self.eof && self.shut && self.sent == self.send.len()
    }
}

fn bytes(rng: &mut Rng, n: usize) -> Vec<u8> {
    (0..n).map(|_| rng.next_u64() as u8).collect()
}

struct Weather {
    there: Link,
    back: Link,
    l2: L2,
    mtu: u32,
    v6: bool,
    sizes: (usize, usize),
}

fn weather(rng: &mut Rng) -> Weather {
    let mut link = || Link {
        rate_bps: if rng.below(3) == 0 { 0 } else { 1_000_000 << rng.below(9) },
        queue_bytes: 20_000 << rng.below(6),
        delay_ns: 10_000 + rng.below(40 * MS),
        jitter_ns: rng.below(3) * rng.below(5 * MS),
        loss_ppm: (rng.below(3) * rng.below(20_000)) as u32,
        duplicate_ppm: (rng.below(2) * rng.below(20_000)) as u32,
        reorder_ppm: (rng.below(2) * rng.below(30_000)) as u32,
        reorder_ns: rng.below(20 * MS),
        corrupt_ppm: (rng.below(2) * rng.below(5_000)) as u32,
        ..Link::default()
    };
    let (mut there, mut back) = (link(), link());
    let offload = rng.below(2) == 0;
    if offload {
        // A damaged super-packet whose checksum nobody completes can not be told from a good one.
        (there.corrupt_ppm, back.corrupt_ppm) = (0, 0);
    }
    (there.offload, back.offload) = (offload, offload);
    let l2 = if rng.below(2) == 0 { L2::Ip } else { L2::Ethernet };
    let mtu = [1280, 1500, 9000][rng.below(3) as usize];
    let sizes = (rng.below(1 << 20) as usize, rng.below(1 << 18) as usize);
    Weather { there, back, l2, mtu, v6: rng.below(2) == 0, sizes }
}

fn addrs(v6: bool) -> (IpAddr, IpAddr, u8) {
    if v6 {
        ("fd00::1".parse().expect("an address"), "fd00::2".parse().expect("an address"), 64)
    } else {
        ("10.0.0.1".parse().expect("an address"), "10.0.0.2".parse().expect("an address"), 24)
    }
}

/// Goal: whatever the link does short of dying, both streams arrive byte for byte, both ends close,
/// and every packet is accounted for. Method: random link, sizes, MTU, family, offloads per seed.
#[test]
fn streams_arrive_intact_on_bad_links() {
    for seed in chosen() {
        let mut rng = Rng::new(seed);
        let sky = weather(&mut rng);
        let mut world = World::new(seed);
        let (a, b) = (world.add_node(), world.add_node());
        let (addr_a, addr_b, prefix) = addrs(sky.v6);
        world.join((a, addr_a), (b, addr_b), (sky.l2, sky.mtu, prefix), (sky.there, sky.back));
        let listener =
            world.node(b).tcp_listen(Listen { port: 80, backlog: 8, ..Listen::default() });
        let listener = listener.expect("the port is free");
        let mut client = End::new(a, bytes(&mut rng, sky.sizes.0));
        let mut server = End::new(b, bytes(&mut rng, sky.sizes.1));
        let to = Connect { local: None, remote: (addr_b, 80).into(), user: 0 };
        client.id = Some(world.node(a).tcp_connect(to).expect("a route exists"));
        let limit = world.now().plus(3600 * SEC);
        while world.now() < limit && !(client.done() && server.done()) {
            while world.node(a).poll_event().is_some() {}
            while world.node(b).poll_event().is_some() {}
            if server.id.is_none() {
                server.id = world.node(b).tcp_accept(listener);
            }
            client.act(&mut world);
            server.act(&mut world);
            assert_eq!(
                (client.failed, server.failed),
                (None, None),
                "seed {seed}: a connection failed"
            );
            if !world.step() {
                break;
            }
        }
        assert!(
            client.done() && server.done(),
            "seed {seed}: not finished: client sent {} of {} got {} eof {}, server sent {} of {} got {} eof {}",
            client.sent,
            client.send.len(),
            client.received.len(),
            client.eof,
            server.sent,
            server.send.len(),
            server.received.len(),
            server.eof
        );
        assert!(client.received == server.send, "seed {seed}: what the client received differs");
        assert!(server.received == client.send, "seed {seed}: what the server received differs");
        assert_eq!(world.unaccounted(), [], "seed {seed}: packets are missing");
        // After everything is closed and TIME_WAIT is over, no memory is held.
        for end in [&client, &server] {
            world.node(end.node).tcp_close(end.id.expect("it was open"));
        }
        let later = world.now().plus(200 * SEC);
        world.run_until(later, |_| {});
        for node in [a, b] {
            let pool = &world.node(node).net.pool;
            assert_eq!((pool.small_out(), pool.large_out()), (0, 0), "seed {seed}: memory is held");
        }
        assert_eq!(world.unaccounted(), [], "seed {seed}: packets are missing at the end");
    }
}

/// Goal: a dead link ends in ETIMEDOUT on the sending side, not in silence or a spin.
#[test]
fn a_link_that_dies_ends_in_a_timeout() {
    let mut world = World::new(5);
    let (a, b) = (world.add_node(), world.add_node());
    let (addr_a, addr_b, prefix) = addrs(false);
    let link = Link::default();
    let (there, back) = world.join((a, addr_a), (b, addr_b), (L2::Ip, 1500, prefix), (link, link));
    let listener = world.node(b).tcp_listen(Listen { port: 80, backlog: 8, ..Listen::default() });
    let listener = listener.expect("the port is free");
    let to = Connect { local: None, remote: (addr_b, 80).into(), user: 0 };
    let id = world.node(a).tcp_connect(to).expect("a route exists");
    let mut accepted = None;
    let limit = world.now().plus(SEC);
    world.run(
        limit,
        |w| {
            if accepted.is_none() {
                accepted = w.node(b).tcp_accept(listener);
            }
        },
        |w| w.node(a).take_ready(id).has(Ready::OUT),
    );
    for port in [there, back] {
        world.set_link(port, Link { loss_ppm: 1_000_000, ..link });
    }
    world.node(a).tcp_send(id, b"into the void").expect("there is room");
    let limit = world.now().plus(2 * 3600 * SEC);
    let mut steps = 0u64;
    let failed = world.run(limit, |_| steps += 1, |w| w.node(a).tcp_error(id).is_some());
    assert!(failed, "the connection never gave up");
    assert_eq!(world.node(a).tcp_error(id), Some(TcpError::TimedOut));
    assert!(steps < 10_000, "{steps} events for one dead connection: something spins");
    assert!(world.now() > Instant::from_ns(60 * SEC), "gave up too early");
    assert_eq!(world.unaccounted(), []);
}

/// Goal: whatever the network, the hosts and the programs at both ends do, TCP keeps its promises.
/// Method: 256 runs, each drawn from its seed and held to rules from outside the stack; see
/// `linerate_lab::seeds`. `linerate-lab seeds --count 1000000` runs more.
#[test]
fn drawn_runs_keep_all_rules() {
    let mut sum = seeds::Figures::default();
    let mut faults = Vec::new();
    for seed in 1..=256 {
        match seeds::run(seed, None) {
            Ok(figures) => sum.add(&figures),
            Err(fault) => faults.push(format!(
                "seed {seed} at {:.6} s: {}\n  repeat: {}",
                fault.at as f64 / 1e9,
                fault.what,
                seeds::replay(seed)
            )),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // That they do something at all.
    assert!(sum.whole > 1500 && sum.aborted > 10 && sum.bytes > 20_000_000, "{sum:?}");
    // Hosts of several shards among them, and connections that move.
    assert!(sum.sharded > 60 && sum.moves > 400, "{sum:?}");
}

/// Goal: a seed is all that a run depends on, hosts of several shards included.
#[test]
fn a_drawn_run_repeats_exactly() {
    let sharded = |seed: &u64| Scenario::new(*seed).shards.iter().all(Option::is_some);
    let several = (1..).filter(sharded).take(4);
    for seed in [3, 17].into_iter().chain(several) {
        let [one, two] = [(); 2].map(|()| seeds::run(seed, None).expect("it keeps all rules"));
        assert_eq!(one, two);
    }
}
