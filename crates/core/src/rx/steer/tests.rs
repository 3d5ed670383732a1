//! Several shards in one thread, each turn of each of them chosen at random: what the order of
//! packets, their number and the counters come to.

mod rfs;
mod rps;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::link::Iface;
use crate::path;
use crate::pkt::Batch;
use crate::rand::Rng;
use crate::sock::SocketId;
use crate::sock::error::TcpError;
use crate::table::Counter;
use crate::table::value::Mask;
use crate::tcp::Connect;
use crate::time::Instant;
use crate::udp::api::UdpBind;
use crate::wire::Mac;

pub(super) const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// One shard with one queue of a device and a socket, and what that socket got.
pub(super) struct Node {
    pub cx: Shard,
    sock: SocketId,
}

/// Shards of one mesh.
pub(super) struct Town {
    pub nodes: Vec<Node>,
    pub mesh: Arc<Mesh>,
    pub rng: Rng,
    batch: Batch,
    /// Next number of each flow's packets, and the last that a socket saw.
    sent: BTreeMap<u16, u32>,
    seen: BTreeMap<u16, u32>,
    pub got: u64,
    pub violations: u64,
    /// How many of each node's socket, by flow.
    pub at: BTreeMap<(u16, usize), u64>,
}

impl Town {
    pub fn new(shards: usize, seed: u64) -> Town {
        let mesh = Mesh::new(shards);
        let mut rng = Rng::new(seed);
        let nodes = (0..shards).map(|cpu| Node::new(&mesh, cpu as u8, rng.next_u64())).collect();
        Town {
            nodes,
            mesh,
            rng,
            batch: Batch::new(),
            sent: BTreeMap::new(),
            seen: BTreeMap::new(),
            got: 0,
            violations: 0,
            at: BTreeMap::new(),
        }
    }
    pub fn set(&mut self, knob: &str, value: &str) {
        self.nodes.iter_mut().for_each(|n| n.cx.set_knob(knob, value).expect("in range"));
    }
    /// The next packet of the flow from this port.
    pub fn packet(&mut self, flow: u16) -> Vec<u8> {
        let number = self.sent.entry(flow).or_insert(0);
        *number += 1;
        datagram(flow, *number)
    }
    /// A batch of packets of these flows comes in by the queue of shard `at`.
    pub fn receive(&mut self, at: usize, flows: &[u16]) {
        for flow in flows {
            let bytes = self.packet(*flow);
            let net = &mut self.nodes[at].cx.net;
            let mut pkt = net.pool.alloc().expect("memory");
            pkt.put(bytes.len()).copy_from_slice(&bytes);
            pkt.dev = 0;
            self.batch.push(pkt);
        }
        path::receive(&mut self.nodes[at].cx, &mut self.batch);
        self.read(at);
    }
    /// Shard `at` serves its backlog.
    pub fn serve(&mut self, at: usize, weight: usize) {
        path::process_backlog(&mut self.nodes[at].cx, &mut self.batch, weight);
        self.read(at);
    }
    /// All shards serve all they have.
    pub fn drain(&mut self) {
        for _ in 0..1000 {
            (0..self.nodes.len()).for_each(|at| self.serve(at, 64));
            if self.nodes.iter().all(|n| !n.cx.has_backlog()) {
                return;
            }
        }
        panic!("the shards never come to rest");
    }
    /// What the sockets of shard `at` got: each flow's packets must come in order.
    fn read(&mut self, at: usize) {
        let Node { cx, sock } = &mut self.nodes[at];
        while let Some(got) = cx.udp_recv(*sock) {
            let bytes: Vec<u8> = got.slices().flatten().copied().collect();
            let number = u32::from_be_bytes(*bytes.first_chunk().expect("a number"));
            let flow = got.src().port();
            let last = self.seen.insert(flow, number).unwrap_or(0);
            self.violations += u64::from(number <= last);
            self.got += 1;
            *self.at.entry((flow, at)).or_default() += 1;
            cx.udp_done(got);
        }
    }
    pub fn count(&self, at: usize, counter: Counter) -> u64 {
        self.nodes[at].cx.net.counts.get(counter)
    }
    pub fn all(&self, counter: Counter) -> u64 {
        (0..self.nodes.len()).map(|at| self.count(at, counter)).sum()
    }
    /// Every packet is somewhere, in every shard; no memory is lost.
    pub fn conserved(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.cx.net.counts.unaccounted(), [], "shard {at}");
        }
    }
    /// The shards are at rest and no packet is out.
    pub fn at_rest(&self) {
        self.conserved();
        let sent: u64 = self.sent.values().map(|n| *n as u64).sum();
        let dropped = self.all(Counter::SoftnetDropped);
        assert_eq!(self.got + dropped, sent, "every packet arrives or is counted as dropped");
        for (at, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.cx.net.pool.small_out(), 0, "shard {at} has given all memory back");
        }
    }
}

impl Node {
    fn new(mesh: &Arc<Mesh>, cpu: u8, seed: u64) -> Node {
        let mut cx = Shard::new(seed);
        cx.join(Arc::clone(mesh), cpu);
        let dev = cx.add_iface(Iface::new("tun0", L2::Ip, Mac::ZERO, 1500));
        cx.add_addr(dev, IpAddr::V4(US), 24).expect("an address");
        cx.net.now = Instant::from_ns(1_000_000_000);
        let bind = UdpBind { port: 7, rcvbuf: 1 << 24, ..Default::default() };
        let sock = cx.udp_bind(bind).expect("bound");
        Node { cx, sock }
    }
}

/// A UDP datagram to port 7 from this port, with this number. It has no checksum.
fn datagram(flow: u16, number: u32) -> Vec<u8> {
    let mut ip = vec![0; 32];
    (ip[0], ip[3], ip[8], ip[9]) = (0x45, 32, 64, 17);
    ip[12..16].copy_from_slice(&[10, 0, 0, 2]);
    ip[16..20].copy_from_slice(&US.octets());
    let sum = linerate_arch::csum::csum_fold(linerate_arch::csum::csum_partial(&ip[..20], 0));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip[20..22].copy_from_slice(&flow.to_be_bytes());
    (ip[23], ip[25]) = (7, 12);
    ip[28..32].copy_from_slice(&number.to_be_bytes());
    ip
}

fn hash_of(town: &Town, flow: u16) -> u32 {
    let keys = hash::dissect(&datagram(flow, 0), false).expect("IP");
    town.nodes[0].cx.net.steer.hash.of(&keys)
}

/// The first `n` flows whose hash sends them to `cpu` under the present map.
fn flows_of(town: &mut Town, cpu: u8, n: usize) -> Vec<u16> {
    let net = &town.nodes[0].cx.net;
    let at = |port: u16| {
        let keys = hash::dissect(&datagram(port, 0), false).expect("IP");
        net.steer.maps[0].cpu(net.steer.hash.of(&keys), 0)
    };
    (1000..60000).filter(|port| at(*port) == Some(cpu)).take(n).collect()
}

/// Random batches, turns, readers, masks and table sizes: no packet of a flow overtakes another, and
/// none is lost uncounted.
#[test]
fn order_survives_random_steering() {
    for seed in 0..60 {
        let shards = 2 + (seed % 4) as usize;
        let mut town = Town::new(shards, seed);
        town.set("net.core.netdev_max_backlog", ["1000", "60", "7"][seed as usize % 3]);
        let flows = 1 + town.rng.below(40);
        // Every flow comes in by one queue.
        let queue = |flow: u16| flow as usize % shards;
        for _ in 0..1500 {
            let at = town.rng.below(shards as u64) as usize;
            match town.rng.below(21) {
                20 => {
                    let (knob, value) = [
                        ("rss.symmetric-xor", "0"),
                        ("rss.symmetric-xor", "1"),
                        ("rx-flow-hash.udp4", "sdfn"),
                        ("rx-flow-hash.udp4", "f"),
                    ][town.rng.below(4) as usize];
                    town.nodes[at].cx.set_knob(knob, value).expect("in range");
                }
                0..8 => {
                    let n = 1 + town.rng.below(32);
                    let pick: Vec<u16> = (0..n).map(|_| 1 + town.rng.below(flows) as u16).collect();
                    let pick: Vec<u16> = pick.into_iter().filter(|f| queue(*f) == at).collect();
                    town.receive(at, &pick);
                }
                8..17 => {
                    let weight = 1 + town.rng.below(64) as usize;
                    town.serve(at, weight);
                }
                17 => {
                    let mask = town.rng.below(1 << shards);
                    town.nodes[at].cx.set_rps_cpus(0, Mask(mask));
                }
                18 => {
                    let (flow, cpu) = (1 + town.rng.below(flows) as u16, at as u8);
                    let hash = hash_of(&town, flow);
                    town.nodes[at].cx.net.rps_record_sock_flow(hash, cpu);
                }
                _ => {
                    let knob = ["net.core.rps_sock_flow_entries", "queues.rx.rps_flow_cnt"];
                    let knob = knob[town.rng.below(2) as usize];
                    let value = ["0", "1", "8", "64", "64"][town.rng.below(5) as usize];
                    town.set(knob, value);
                }
            }
            town.conserved();
        }
        town.drain();
        assert_eq!(town.violations, 0, "seed {seed}");
        assert!(town.got > 200, "seed {seed}: {}", town.got);
        town.at_rest();
    }
}

/// Threads that steer to each other: every packet arrives or is counted, each flow in order, and
/// whoever sleeps is woken.
#[test]
fn threads_steer_to_each_other() {
    use std::sync::Condvar;
    use std::sync::Mutex;
    const SHARDS: usize = 3;
    const ROUNDS: usize = 3000;
    let mesh = Mesh::new(SHARDS);
    let bells: Vec<Arc<(Mutex<bool>, Condvar)>> = (0..SHARDS).map(|_| Arc::default()).collect();
    let sending = Arc::new(AtomicUsize::new(SHARDS));
    let run = |cpu: usize| {
        let (mesh, sending) = (Arc::clone(&mesh), Arc::clone(&sending));
        let bell = Arc::clone(&bells[cpu]);
        let ring = Arc::clone(&bells[cpu]);
        let all = bells.clone();
        mesh.set_wake(
            cpu,
            Box::new(move || {
                *ring.0.lock().expect("a bell") = true;
                ring.1.notify_one();
            }),
        );
        move || {
            let mut node = Node::new(&mesh, cpu as u8, cpu as u64);
            node.cx.set_knob("queues.rx.rps_cpus", "7").expect("in range");
            node.cx.set_knob("net.core.netdev_max_backlog", "300").expect("in range");
            let (mut batch, mut rng) = (Batch::new(), Rng::new(cpu as u64));
            let (mut seen, mut got, mut numbers) = (BTreeMap::new(), 0u64, [0u32; 16]);
            let mut done = false;
            for round in 0.. {
                if round < ROUNDS {
                    for _ in 0..1 + rng.below(32) {
                        let flow = rng.below(16) as usize;
                        numbers[flow] += 1;
                        let Some(mut pkt) = node.cx.net.pool.alloc() else { break };
                        let bytes = datagram((cpu * 16 + flow) as u16 + 1, numbers[flow]);
                        pkt.put(bytes.len()).copy_from_slice(&bytes);
                        batch.push(pkt);
                    }
                    path::receive(&mut node.cx, &mut batch);
                    if rng.below(200) == 0 {
                        node.cx.set_rps_cpus(0, Mask(rng.below(8)));
                    }
                }
                let steer = &node.cx.net.steer;
                let quiet = steer.parked.is_empty() && !steer.maps.iter().any(RpsMap::changes);
                if round >= ROUNDS && quiet && !std::mem::replace(&mut done, true) {
                    // From here on this shard sends nothing more.
                    sending.fetch_sub(1, Ordering::SeqCst);
                    all.iter().for_each(|bell| {
                        *bell.0.lock().expect("a bell") = true;
                        bell.1.notify_one();
                    });
                }
                path::process_backlog(&mut node.cx, &mut batch, 64);
                while let Some(data) = node.cx.udp_recv(node.sock) {
                    let bytes: Vec<u8> = data.slices().flatten().copied().collect();
                    let number = u32::from_be_bytes(*bytes.first_chunk().expect("a number"));
                    let last = seen.insert(data.src().port(), number).unwrap_or(0);
                    // A flow that left and came back: its packets elsewhere were earlier ones.
                    assert!(last < number, "flow {} on shard {cpu}", data.src().port());
                    got += 1;
                    node.cx.udp_done(data);
                }
                let idle = done && !node.cx.has_backlog();
                if idle && sending.load(Ordering::SeqCst) == 0 {
                    break;
                }
                if idle && mesh.may_sleep(cpu) {
                    let mut rung = bell.0.lock().expect("a bell");
                    while !*rung {
                        rung = bell.1.wait(rung).expect("a bell");
                    }
                    *rung = false;
                }
                mesh.set_awake(cpu);
            }
            assert_eq!(node.cx.net.counts.unaccounted(), []);
            let sent: u64 = numbers.iter().map(|n| *n as u64).sum();
            let dropped = node.cx.net.counts.get(Counter::SoftnetDropped);
            let out = node.cx.net.pool.small_out();
            (sent, got + dropped, out)
        }
    };
    let threads: Vec<_> = (0..SHARDS).map(|cpu| std::thread::spawn(run(cpu))).collect();
    let done: Vec<_> = threads.into_iter().map(|t| t.join().expect("it ends")).collect();
    // What was dropped after its receiver had looked for the last time is not counted yet.
    let uncounted: u64 = (0..SHARDS as u8).map(|cpu| mesh.refused(cpu)).sum();
    let sent: u64 = done.iter().map(|d| d.0).sum();
    let arrived: u64 = done.iter().map(|d| d.1).sum();
    assert_eq!(sent, arrived + uncounted);
    assert!(arrived > sent / 2, "{arrived} of {sent}");
    assert!((0..SHARDS as u8).all(|cpu| mesh.backlog_len(cpu) == 0));
    assert!(done.iter().all(|d| d.2 == 0), "all memory is back");
}

/// What steering costs, in nanoseconds a packet: `cargo test --release -p linerate-core -- --ignored
/// --nocapture steering_costs`.
#[test]
#[ignore = "prints figures"]
fn steering_costs() {
    const N: usize = 32;
    const ROUNDS: usize = 20_000;
    let frames: Vec<Vec<u8>> = (0..256).map(|i| datagram(1000 + i, 0)).collect();
    let time = |what: &str, run: &mut dyn FnMut(usize)| {
        let mut best = f64::MAX;
        for _ in 0..5 {
            let begun = std::time::Instant::now();
            (0..ROUNDS).for_each(&mut *run);
            let each = begun.elapsed().as_nanos() as f64 / (ROUNDS * N) as f64;
            best = best.min(each);
        }
        println!("{what:52} {best:6.1} ns");
    };
    let hash = FlowHash::default();
    let mut sum = 0u32;
    time("dissection and hash", &mut |round| {
        for i in 0..N {
            let frame = &frames[(round * N + i) % 256];
            sum = sum.wrapping_add(hash.of_frame(std::hint::black_box(frame), false));
        }
    });
    std::hint::black_box(sum);
    for (what, mask, knobs) in [
        ("receive, steering off", "0", [("queues.rx.rps_flow_cnt", "0")].as_slice()),
        ("receive, RPS, all stay", "1", &[]),
        ("receive, RPS, half go: both shards' work", "3", &[]),
        ("receive, RPS, all go: both shards' work", "2", &[]),
        (
            "receive, RPS and RFS, all go: both shards' work",
            "2",
            &[("net.core.rps_sock_flow_entries", "4096"), ("queues.rx.rps_flow_cnt", "4096")],
        ),
    ] {
        let mut town = Town::new(2, 1);
        // Packets leave by the program, so that what is measured is steering and little else.
        town.nodes.iter_mut().for_each(|n| n.cx.net.knobs.gro = false);
        town.set("queues.rx.rps_cpus", mask);
        knobs.iter().for_each(|(knob, value)| town.set(knob, value));
        if knobs.len() == 2 {
            for flow in 0..256 {
                let hash = hash_of(&town, 1000 + flow);
                town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
            }
        }
        let mut batch = Batch::new();
        time(what, &mut |round| {
            let net = &mut town.nodes[0].cx.net;
            for i in 0..N {
                let frame = &frames[(round * N + i) % 256];
                let mut pkt = net.pool.alloc().expect("memory");
                pkt.put(frame.len()).copy_from_slice(frame);
                pkt.dev = 0;
                batch.push(pkt);
            }
            path::receive(&mut town.nodes[0].cx, &mut batch);
            path::process_backlog(&mut town.nodes[1].cx, &mut batch, 64);
            path::process_backlog(&mut town.nodes[0].cx, &mut batch, 64);
            for node in &mut town.nodes {
                while let Some(got) = node.cx.udp_recv(node.sock) {
                    node.cx.udp_done(got);
                }
            }
        });
    }
}
