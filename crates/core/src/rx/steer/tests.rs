//! Several shards in one thread, each turn of each of them chosen at random: what the order of
//! packets, their number and the counters come to.

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

/// The first `n` flows whose hash sends them to `cpu` under the present map.
fn flows_of(town: &mut Town, cpu: u8, n: usize) -> Vec<u16> {
    let net = &town.nodes[0].cx.net;
    let at = |port: u16| {
        let keys = hash::dissect(&datagram(port, 0), false).expect("IP");
        net.steer.maps[0].cpu(net.steer.hash.of(&keys), 0)
    };
    (1000..60000).filter(|port| at(*port) == Some(cpu)).take(n).collect()
}

#[test]
fn knob_queues_rx_rps_cpus() {
    let mut town = Town::new(2, 1);
    let flows: Vec<u16> = (1..=64).collect();
    town.receive(0, &flows);
    assert_eq!((town.got, town.count(1, Counter::SoftnetReceivedRps)), (64, 0), "off: they stay");
    town.set("queues.rx.rps_cpus", "3");
    town.receive(0, &flows);
    town.drain();
    assert_eq!(town.got, 128);
    assert_eq!(town.count(1, Counter::SoftnetReceivedRps), 1, "one interrupt for a batch");
    let moved = town.nodes[1].cx.net.counts.flow(Stage::Backlog).read().entered;
    assert!((16..48).contains(&moved), "about half of the flows go to the other shard: {moved}");
    town.set("queues.rx.rps_cpus", "2");
    town.receive(0, &flows);
    town.drain();
    let all = town.nodes[1].cx.net.counts.flow(Stage::Backlog).read().entered;
    assert_eq!(all - moved, 64, "now all do");
    assert_eq!(town.violations, 0);
    town.at_rest();
}

#[test]
fn knob_net_core_rps_default_mask() {
    let mut town = Town::new(2, 1);
    town.set("net.core.rps_default_mask", "2");
    assert_eq!(town.nodes[0].cx.rps_cpus(0), Mask(0), "devices that were there stay as they are");
    let dev = town.nodes[0].cx.add_iface(Iface::new("tun1", L2::Ip, Mac::ZERO, 1500));
    assert_eq!(town.nodes[0].cx.rps_cpus(dev), Mask(2));
    town.receive(0, &[1, 2, 3]);
    assert_eq!(town.count(1, Counter::SoftnetReceivedRps), 0);
    town.nodes[0].cx.set_rps_cpus(0, Mask(2));
    town.receive(0, &[1, 2, 3]);
    town.drain();
    assert_eq!(town.count(1, Counter::SoftnetReceivedRps), 1);
    town.at_rest();
}

/// A shard whose backlog is full loses packets, and counts them: not the one that steered them.
#[test]
fn knob_net_core_netdev_max_backlog() {
    for (limit, lost) in [(1000u64, 0u64), (40, 60), (0, 100)] {
        let mut town = Town::new(2, 1);
        town.set("queues.rx.rps_cpus", "2");
        town.set("net.core.netdev_max_backlog", &limit.to_string());
        town.receive(0, &[1; 50]);
        town.receive(0, &[2; 50]);
        assert_eq!(town.mesh.backlog_len(1) as u64, 100 - lost);
        town.drain();
        assert_eq!(town.count(1, Counter::SoftnetDropped), lost, "at most {limit}");
        assert_eq!(town.count(0, Counter::SoftnetDropped), 0);
        assert_eq!(town.nodes[1].cx.net.counts.drops(Reason::CpuBacklog), lost);
        town.at_rest();
    }
}

/// One flow floods, another sends now and then.
fn flood(bitmap: &str, table: &str) -> Town {
    let mut town = Town::new(2, 1);
    town.set("queues.rx.rps_cpus", "2");
    town.set("net.core.netdev_max_backlog", "400");
    town.set("net.core.flow_limit_table_len", table);
    town.set("net.core.flow_limit_cpu_bitmap", bitmap);
    for round in 0..20u16 {
        let mut flows = [1; 30];
        flows[29] = 2 + round % 4;
        town.receive(0, &flows);
    }
    town.drain();
    town.at_rest();
    town
}

/// Counted where Linux counts it: the limit by the shard that steers, the loss by the one that was to
/// get the packets.
#[test]
fn drop_flow_limit() {
    let town = flood("1", "4096");
    let limited = town.count(0, Counter::SoftnetFlowLimitCount);
    assert!(limited > 100, "{limited}");
    assert_eq!(town.nodes[1].cx.net.counts.drops(Reason::FlowLimit), limited);
    assert_eq!(town.count(1, Counter::SoftnetDropped), limited, "nothing else was lost");
    assert_eq!(town.count(1, Counter::SoftnetFlowLimitCount), 0);
    let small: u64 = (2..6).map(|flow| town.at[&(flow, 1)]).sum();
    assert_eq!(small, 20, "flows within their share lose nothing");
}

#[test]
fn knob_net_core_flow_limit_cpu_bitmap() {
    for (bitmap, limits) in [("0", false), ("1", true), ("2", false), ("3", true)] {
        let town = flood(bitmap, "4096");
        let limited = town.all(Counter::SoftnetFlowLimitCount);
        assert_eq!(limited > 0, limits, "the steering shard is 0, the bitmap {bitmap}");
        assert_eq!(town.nodes[1].cx.net.counts.drops(Reason::CpuBacklog) > 0, !limits);
    }
}

/// What comes without passing the stage, as on loopback, is told apart by flow too.
#[test]
fn the_flow_limit_guards_our_own_queue() {
    let mut town = Town::new(1, 1);
    town.set("net.core.netdev_max_backlog", "400");
    town.set("net.core.flow_limit_cpu_bitmap", "1");
    for i in 0..600u16 {
        let flow = if i % 30 == 29 { 2 + i % 4 } else { 1 };
        let bytes = town.packet(flow);
        let net = &mut town.nodes[0].cx.net;
        let mut pkt = net.pool.alloc().expect("memory");
        pkt.put(bytes.len()).copy_from_slice(&bytes);
        pkt.dev = 0;
        crate::rx::backlog::netif_rx(net, pkt);
    }
    town.drain();
    town.at_rest();
    let limited = town.count(0, Counter::SoftnetFlowLimitCount);
    assert!(limited > 100, "{limited}");
    assert_eq!(town.nodes[0].cx.net.counts.drops(Reason::FlowLimit), limited);
    let small: u64 = (2..6).filter_map(|flow| town.at.get(&(flow, 0))).sum();
    assert_eq!(small, 20, "flows within their share lose nothing");
}

/// With one bucket all flows are one: the small ones suffer with the large.
#[test]
fn knob_net_core_flow_limit_table_len() {
    for (len, suffers) in [("4096", false), ("1", true)] {
        let town = flood("1", len);
        let small: u64 = (2..6).map(|flow| town.at.get(&(flow, 1)).copied().unwrap_or(0)).sum();
        assert_eq!(small < 20, suffers, "{len} buckets");
    }
}

#[test]
fn knob_net_core_netdev_tstamp_prequeue() {
    for (value, late) in [("1", false), ("0", true)] {
        let mut town = Town::new(2, 1);
        town.set("queues.rx.rps_cpus", "2");
        town.set("net.core.netdev_tstamp_prequeue", value);
        let cx = &mut town.nodes[1].cx;
        cx.net.now = Instant::from_ns(2_000_000_000);
        cx.attach_xdp(0, None);
        town.receive(0, &[1]);
        let mut batch = Batch::new();
        let cx = &mut town.nodes[1].cx;
        begin(cx);
        crate::rx::backlog::dequeue(&mut cx.net, &mut batch, 1);
        let stamp = batch.now[0].rx_time;
        assert_eq!(stamp == cx.net.now, late, "{value}");
        batch.now.drain(..).for_each(|pkt| cx.net.pool.free(pkt));
    }
}

/// The flow goes to its reader's shard, and keeps its order on the way.
#[test]
fn knob_net_core_rps_sock_flow_entries() {
    for (entries, follows) in [("0", false), ("100", true)] {
        let mut town = Town::new(2, 1);
        town.set("queues.rx.rps_flow_cnt", "64");
        town.set("net.core.rps_sock_flow_entries", entries);
        town.receive(0, &[5]);
        let hash = hash_of(&town, 5);
        town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
        town.receive(0, &[5, 5, 5]);
        town.drain();
        let moved = town.at.get(&(5, 1)).copied().unwrap_or(0);
        assert_eq!(moved, if follows { 3 } else { 0 }, "{entries}");
        if follows {
            assert_eq!(town.mesh.sock_flows.table().len(), 128, "rounded up");
        }
        town.at_rest();
    }
}

#[test]
fn knob_queues_rx_rps_flow_cnt() {
    for (cnt, follows) in [("0", false), ("1", true), ("100", true)] {
        let mut town = Town::new(2, 1);
        town.set("net.core.rps_sock_flow_entries", "64");
        town.set("queues.rx.rps_flow_cnt", cnt);
        let hash = hash_of(&town, 5);
        town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
        town.receive(0, &[5]);
        town.drain();
        assert_eq!(town.at.contains_key(&(5, 1)), follows, "{cnt}");
        let len = town.nodes[0].cx.net.steer.dev_flows[0].flows.len();
        assert_eq!(len, [0, 1, 128][["0", "1", "100"].iter().position(|c| *c == cnt).unwrap_or(0)]);
        town.at_rest();
    }
}

fn hash_of(town: &Town, flow: u16) -> u32 {
    let keys = hash::dissect(&datagram(flow, 0), false).expect("IP");
    town.nodes[0].cx.net.steer.hash.of(&keys)
}

/// A flow stays on its old shard until that one is through with its last packet.
#[test]
fn rfs_waits_until_the_old_shard_is_through() {
    let mut town = Town::new(3, 1);
    town.set("net.core.rps_sock_flow_entries", "64");
    town.set("queues.rx.rps_flow_cnt", "64");
    let hash = hash_of(&town, 5);
    town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
    town.receive(0, &[5, 5]);
    town.nodes[2].cx.net.rps_record_sock_flow(hash, 2);
    town.receive(0, &[5]);
    assert_eq!((town.mesh.backlog_len(1), town.mesh.backlog_len(2)), (3, 0));
    town.serve(1, 2);
    town.receive(0, &[5]);
    assert_eq!((town.mesh.backlog_len(1), town.mesh.backlog_len(2)), (2, 0), "one is left there");
    town.serve(1, 64);
    town.receive(0, &[5, 5]);
    assert_eq!((town.mesh.backlog_len(1), town.mesh.backlog_len(2)), (0, 2));
    town.drain();
    assert_eq!(town.violations, 0);
    // A shard that is gone holds nobody back.
    town.receive(0, &[5]);
    town.mesh.take_down(2);
    town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
    town.receive(0, &[5]);
    assert_eq!(town.mesh.backlog_len(1), 1);
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

/// A mailbox holds no more than the backlog may, whoever floods it.
#[test]
fn mailboxes_are_bounded() {
    let mut town = Town::new(4, 3);
    town.set("queues.rx.rps_cpus", "8");
    town.set("net.core.netdev_max_backlog", "100");
    for round in 0..50 {
        (0..3).for_each(|at| town.receive(at, &[at as u16 + 1; 32]));
        assert!(town.mesh.backlog_len(3) <= 100);
        if round % 10 == 9 {
            town.serve(3, 10);
            assert!(town.mesh.backlog_len(3) <= 100);
        }
    }
    town.drain();
    assert_eq!(town.violations, 0);
    assert!(town.count(3, Counter::SoftnetDropped) > 4000);
    town.at_rest();
}

/// What was sent to a shard that goes comes back, or is handed out by who takes it down.
#[test]
fn a_shard_may_go_and_come() {
    let mut town = Town::new(3, 3);
    town.set("queues.rx.rps_cpus", "6");
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.drain();
    assert_eq!(town.mesh.shards(), 3);
    let left = town.mesh.take_down(2);
    assert!(left.is_empty() && !town.mesh.online(2) && town.mesh.shards() == 2);
    let before = town.at.iter().filter(|((_, at), _)| *at == 2).count();
    assert!(before > 0);
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.drain();
    let at2 = |town: &Town| -> u64 {
        town.at.iter().filter(|((_, at), _)| *at == 2).map(|(_, n)| *n).sum()
    };
    let was = at2(&town);
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.drain();
    assert_eq!(at2(&town), was, "nothing goes to a shard that is gone");
    assert_eq!(town.got, 24);
    town.mesh.bring_up(2);
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.receive(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    town.drain();
    assert!(at2(&town) > was, "it is used again");
    assert_eq!(town.violations, 0);
    town.at_rest();
}

/// What lay in the mailbox of a shard that went is not waited for when another comes in its place, and
/// what others dropped for it is counted.
#[test]
fn nobody_waits_for_a_shard_that_went() {
    let mut town = Town::new(2, 3);
    town.set("queues.rx.rps_cpus", "2");
    town.set("net.core.netdev_max_backlog", "4");
    town.receive(0, &[1, 2, 3, 4, 5, 6]);
    let left = town.mesh.take_down(1);
    assert_eq!((left.len(), town.mesh.head(1)), (4, 0));
    town.serve(1, 64);
    assert_eq!(town.count(1, Counter::SoftnetDropped), 2);
    town.mesh.bring_up(1);
    assert_eq!(town.mesh.head(1), 4);
}

/// Places are numbers that go round: one that is half a round old is not one to come.
#[test]
fn a_place_of_long_ago_is_not_waited_for() {
    let mesh = Mesh::new(2);
    let at = Progress { mesh: &mesh, cpu: 0, sent: &[], own: (0, 0), pending: 0 };
    assert!(at.through(1, 0) && !at.through(1, 1) && !at.through(1, 10_000_000));
    mesh.through_with(1, 1 << 31);
    assert!(at.through(1, 0) && at.through(1, 1 << 31));
    assert!(!at.through(1, (1 << 31) + 1));
}

/// A connection does not leave its shard while a segment of it waits there for a neighbour.
#[test]
fn a_segment_that_waits_for_its_neighbour_is_not_left_behind() {
    let mesh = Mesh::new(2);
    let mut cx = Shard::new(5);
    cx.net.now = Instant::from_ns(1_000_000_000);
    for (knob, value) in
        [("net.core.rps_sock_flow_entries", "64"), ("queues.rx.rps_flow_cnt", "64")]
    {
        cx.set_knob(knob, value).expect("in range");
    }
    cx.join(mesh, 0);
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let dev = cx.add_iface(Iface::new("mem0", L2::Ethernet, mac, 1500));
    cx.add_addr(dev, US.into(), 24).expect("a new device takes any address");
    let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    let connect = Connect { local: None, remote: (peer, 80).into(), user: 0 };
    let id = cx.tcp_connect(connect).expect("a route");
    cx.rps_record_sock_flow(id, 1);
    cx.net.now = cx.net.now.plus(2_000_000);
    let send = |cx: &mut Shard| {
        path::transmit(cx, &mut Batch::new());
        path::qdisc_run(&mut cx.net, dev, 0, 64);
        let ring = std::mem::take(&mut cx.net.ifaces[0].txqs[0].ring);
        ring.into_iter().for_each(|p| crate::tx::xmit::tx_done(&mut cx.net, p, true));
        cx.rfs_turn(&mut |_| Some(Box::new(())))
    };
    // All that goes out is the question who has the address.
    assert_eq!((send(&mut cx), send(&mut cx)), (0, 0));
    assert!(cx.neigh_add(dev, peer, Mac([2, 0, 0, 0, 0, 9])));
    assert_eq!(send(&mut cx), 1);
}

/// What one shard connects, or keeps in TIME_WAIT, no other shard connects again.
#[test]
fn two_ends_are_taken_on_all_shards() {
    let mut town = Town::new(2, 31);
    let peer = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    let local = Some((IpAddr::V4(US), 4000).into());
    let connect = Connect { local, remote: (peer, 80).into(), user: 0 };
    let id = town.nodes[0].cx.tcp_connect(connect).expect("a route, and a port of its own");
    assert_eq!(town.nodes[1].cx.tcp_connect(connect), Err(TcpError::InUse));
    // On its way to the other shard it is of neither.
    let conn = town.nodes[0].cx.tcp_detach(id).expect("it is there");
    let key = conn.flow_key();
    town.nodes[0].cx.send_flow(1, Flow { key, conn, app: None });
    for node in &mut town.nodes {
        assert_eq!(node.cx.tcp_connect(connect), Err(TcpError::InUse));
    }
    town.serve(1, 1);
    let id = town.nodes[1].cx.take_arrived().expect("it arrived").socket;
    assert_eq!(town.nodes[0].cx.tcp_connect(connect), Err(TcpError::InUse));
    town.nodes[1].cx.tcp_abort(id);
    assert!(town.nodes[0].cx.tcp_connect(connect).is_ok(), "it is over");
}

/// The waker is called once for a batch, not for packets, and not where mail waits already.
#[test]
fn one_interrupt_for_a_batch() {
    let mut town = Town::new(2, 3);
    town.set("queues.rx.rps_cpus", "2");
    let calls = Arc::new(AtomicUsize::new(0));
    let rung = Arc::clone(&calls);
    town.mesh.set_wake(
        1,
        Box::new(move || {
            rung.fetch_add(1, Ordering::Relaxed);
        }),
    );
    let calls = || calls.load(Ordering::Relaxed);
    town.receive(0, &[1; 32]);
    assert_eq!((calls(), town.mesh.has_mail(1)), (1, true));
    town.receive(0, &[1; 32]);
    assert_eq!(calls(), 1, "it was woken and has not looked yet");
    town.drain();
    assert!(!town.mesh.has_mail(1));
    town.receive(0, &[1; 32]);
    assert_eq!(calls(), 2);
    town.drain();
    town.mesh.set_awake(1);
    town.receive(0, &[1; 32]);
    assert_eq!(calls(), 2, "a loop that runs looks by itself");
    assert!(!town.mesh.may_sleep(1), "and may not sleep now");
    town.drain();
    assert!(town.mesh.may_sleep(1));
    town.receive(0, &[1; 32]);
    assert_eq!(calls(), 3);
    town.drain();
    assert_eq!(town.count(1, Counter::SoftnetReceivedRps), 4);
    town.at_rest();
}

#[test]
fn a_map_spreads_over_its_shards_alike() {
    let mut town = Town::new(4, 9);
    town.set("queues.rx.rps_cpus", "e");
    for cpu in 1..4 {
        assert_eq!(flows_of(&mut town, cpu, 10).len(), 10);
    }
    let mut by_cpu = [0; 4];
    let steer = &town.nodes[0].cx.net.steer;
    for port in 0..6000 {
        let keys = hash::dissect(&datagram(port, 0), false).expect("IP");
        let cpu = steer.maps[0].cpu(steer.hash.of(&keys), 0).expect("nothing changes");
        by_cpu[cpu as usize] += 1;
    }
    assert_eq!(by_cpu[0], 0);
    assert!(by_cpu[1..].iter().all(|n| (1850..2150).contains(n)), "{by_cpu:?}");
}

/// A device takes rules for flows that were moved, and forgets them when they are no longer used.
#[test]
fn knob_features_ntuple() {
    for (value, written) in [("0", 0), ("1", 1)] {
        let mut town = Town::new(2, 1);
        town.set("net.core.rps_sock_flow_entries", "64");
        town.set("queues.rx.rps_flow_cnt", "8");
        town.set("features.ntuple", value);
        let hash = hash_of(&town, 5);
        town.nodes[1].cx.net.rps_record_sock_flow(hash, 1);
        town.receive(0, &[5]);
        town.drain();
        let cx = &mut town.nodes[0].cx;
        while let Some(rule) = cx.take_rule() {
            let text = rule.rule.as_ref().expect("a new rule").to_string();
            let want =
                "flow-type udp4 src-ip 10.0.0.2 dst-ip 10.0.0.1 src-port 5 dst-port 7 action 1";
            assert_eq!(text, want);
            cx.rule_done(&rule, true);
        }
        assert_eq!(town.count(0, Counter::ArfsFiltersAdded), written, "{value}");
        // Others go by, ten times as many as there are places: nobody needs it any more.
        let others: Vec<u16> = (100..100 + 64).collect();
        town.set("queues.rx.rps_cpus", "2");
        for _ in 0..3 {
            town.receive(0, &others);
            town.drain();
        }
        town.receive(0, &others);
        let cx = &mut town.nodes[0].cx;
        while let Some(rule) = cx.take_rule() {
            assert_eq!(rule.rule, None);
            cx.rule_done(&rule, true);
        }
        assert_eq!(town.count(0, Counter::ArfsFiltersExpired), written, "{value}");
        town.drain();
        assert_eq!(town.violations, 0);
        town.at_rest();
    }
}

/// A rule that the device refuses is not waited for, and asked for again when the flow moves again.
#[test]
fn a_refused_rule_is_no_rule() {
    let mut town = Town::new(3, 1);
    town.set("net.core.rps_sock_flow_entries", "64");
    town.set("queues.rx.rps_flow_cnt", "8");
    town.set("features.ntuple", "1");
    let hash = hash_of(&town, 5);
    for (cpu, taken) in [(1, false), (2, true)] {
        town.nodes[1].cx.net.rps_record_sock_flow(hash, cpu);
        town.receive(0, &[5]);
        town.drain();
        let cx = &mut town.nodes[0].cx;
        let rule = cx.take_rule().expect("one is wanted");
        assert_eq!(cx.take_rule(), None);
        cx.rule_done(&rule, taken);
        assert_eq!(!cx.net.steer.rules.is_empty(), taken);
    }
    assert_eq!(town.count(0, Counter::ArfsFiltersAdded), 1);
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
