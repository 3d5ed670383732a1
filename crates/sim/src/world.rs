//! The world: stacks, links, and a clock that jumps from event to event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;

use linerate_core::link::{Features, Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Csum, Gso, Pkt};
use linerate_core::rand::Rng;
use linerate_core::shard::Shard;
use linerate_core::table::{Stage, count::id};
use linerate_core::time::{Instant, US};
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;

use crate::link::{Link, Lost, Wire};

/// Names a node of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// A device of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The node.
    pub node: NodeId,
    /// The device's number in its shard.
    pub dev: u8,
}

/// A packet under way, ordered by when it arrives; packets of the same moment arrive in the order
/// in which they were sent.
struct Flight {
    at: Instant,
    order: u64,
    to: Port,
    frame: Frame,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Flight) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Flight {}
impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Flight) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flight {
    fn cmp(&self, other: &Flight) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The bytes of a packet, and what a virtio-net header would say of it.
#[derive(Clone)]
struct Frame {
    bytes: Vec<u8>,
    csum: Csum,
    gso: Option<Gso>,
}

/// Stacks joined by links, in virtual time, from one seed.
pub struct World {
    nodes: Vec<Shard>,
    wires: BTreeMap<Port, (Port, Wire)>,
    flights: BinaryHeap<Reverse<Flight>>,
    now: Instant,
    rng: Rng,
    order: u64,
    batch: Batch,
}

impl World {
    /// An empty world. Everything that will happen in it follows from `seed` and from what is asked
    /// of it.
    pub fn new(seed: u64) -> World {
        World {
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            flights: BinaryHeap::new(),
            now: Instant::from_ns(1_000_000),
            rng: Rng::new(seed),
            order: 0,
            batch: Batch::new(),
        }
    }
    /// The time in the world.
    pub fn now(&self) -> Instant {
        self.now
    }
    /// Randomness of the world, for whoever acts in it.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
    /// Adds a stack without devices.
    pub fn add_node(&mut self) -> NodeId {
        let mut shard = Shard::new(self.rng.next_u64());
        shard.net.now = self.now;
        self.nodes.push(shard);
        NodeId(self.nodes.len() - 1)
    }
    /// A node's stack.
    pub fn node(&mut self, id: NodeId) -> &mut Shard {
        &mut self.nodes[id.0]
    }
    /// Joins two nodes: each gets a device with an address on a subnet of `prefix` bits. `l2` says
    /// whether Ethernet (with neighbour discovery) or bare IP goes over it.
    pub fn join(
        &mut self,
        a: (NodeId, IpAddr),
        b: (NodeId, IpAddr),
        (l2, mtu, prefix): (L2, u32, u8),
        (there, back): (Link, Link),
    ) -> (Port, Port) {
        let mut port = |(node, addr): (NodeId, IpAddr), link: Link| {
            let shard = &mut self.nodes[node.0];
            let number = shard.net.ifaces.len() as u8;
            let mac = Mac([2, 0, 0, 0, node.0 as u8 + 1, number]);
            let mut iface = Iface::new(&format!("sim{number}"), l2, mac, mtu);
            let on = link.offload;
            iface.features = Features { tx_csum: on, tso4: on, tso6: on, uso: on };
            let dev = shard.add_iface(iface);
            shard.add_addr(dev, addr, prefix).expect("a new device takes any address");
            Port { node, dev }
        };
        let (pa, pb) = (port(a, there), port(b, back));
        self.wires.insert(pa, (pb, Wire::new(there)));
        self.wires.insert(pb, (pa, Wire::new(back)));
        (pa, pb)
    }
    /// Changes the link that leaves `port`, from now on.
    pub fn set_link(&mut self, port: Port, link: Link) {
        if let Some((_, wire)) = self.wires.get_mut(&port) {
            wire.link = link;
        }
    }
    /// What the link that leaves `port` has lost.
    pub fn lost(&self, port: Port) -> Lost {
        self.wires.get(&port).map(|(_, w)| w.lost).unwrap_or_default()
    }

    /// Lets every node send what it has, and moves to the next event. False if nothing will ever
    /// happen again by itself.
    pub fn step(&mut self) -> bool {
        for node in 0..self.nodes.len() {
            self.transmit(NodeId(node));
        }
        let arrival = self.flights.peek().map(|Reverse(f)| f.at);
        let timer = self.nodes.iter().filter_map(path::next_timer).min();
        let Some(next) = [arrival, timer].into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        self.deliver();
        for shard in &mut self.nodes {
            path::timers(shard, self.now);
        }
        true
    }

    /// Moves on until `done` says so (true) or until `limit` (false). `act` runs after every event:
    /// it is the applications.
    pub fn run(
        &mut self,
        limit: Instant,
        mut act: impl FnMut(&mut World),
        mut done: impl FnMut(&mut World) -> bool,
    ) -> bool {
        loop {
            act(self);
            if done(self) {
                return true;
            }
            if self.now >= limit || !self.step() {
                return done(self);
            }
        }
    }

    /// Moves on, whatever happens, until `limit`.
    pub fn run_until(&mut self, limit: Instant, mut act: impl FnMut(&mut World)) {
        while self.now < limit && self.step() {
            act(self);
        }
        self.now = self.now.max(limit);
        for shard in &mut self.nodes {
            path::timers(shard, self.now);
        }
    }

    /// What the law of conservation misses on any node: nothing, always.
    pub fn unaccounted(&self) -> Vec<(NodeId, Stage, i64)> {
        let each = self.nodes.iter().enumerate();
        each.flat_map(|(i, s)| {
            s.net.counts.unaccounted().into_iter().map(move |(stage, n)| (NodeId(i), stage, n))
        })
        .collect()
    }

    fn transmit(&mut self, id: NodeId) {
        let shard = &mut self.nodes[id.0];
        shard.net.now = self.now;
        // Loopback traffic goes round inside the node.
        for _ in 0..64 {
            path::transmit(shard, &mut self.batch);
            if path::process_backlog(shard, &mut self.batch, 64) == 0 {
                break;
            }
        }
        for dev in 0..shard.net.ifaces.len() as u8 {
            let Some(ring) = path::qdisc_run(&mut self.nodes[id.0].net, dev, 0, usize::MAX) else {
                continue;
            };
            let sent: Vec<Pkt> = ring.drain(..).collect();
            for pkt in sent {
                self.put_on_wire(Port { node: id, dev }, pkt);
            }
        }
    }

    fn put_on_wire(&mut self, from: Port, pkt: Pkt) {
        let Some((to, wire)) = self.wires.get_mut(&from) else {
            return tx_done(&mut self.nodes[from.node.0].net, pkt, false);
        };
        let frame = Frame {
            bytes: pkt.slices().flatten().copied().collect(),
            csum: pkt.csum,
            gso: pkt.gso,
        };
        for (at, bit) in wire.send(self.now, frame.bytes.len() as u64, &mut self.rng) {
            let mut frame = frame.clone();
            if let Some(bit) = bit {
                frame.bytes[bit as usize / 8] ^= 1 << (bit % 8);
                // A damaged packet is never vouched for.
                frame.csum = Csum::None;
            }
            self.order += 1;
            self.flights.push(Reverse(Flight { at, order: self.order, to: *to, frame }));
        }
        tx_done(&mut self.nodes[from.node.0].net, pkt, true);
    }

    /// Everything that has arrived by now, a device's packets as one batch.
    fn deliver(&mut self) {
        let mut arrived: BTreeMap<Port, Vec<Frame>> = BTreeMap::new();
        // What arrives within a few microseconds is one interrupt's work.
        let horizon = self.now.plus(5 * US);
        while self.flights.peek().is_some_and(|Reverse(f)| f.at <= horizon) {
            let Some(Reverse(flight)) = self.flights.pop() else { break };
            self.now = self.now.max(flight.at);
            arrived.entry(flight.to).or_default().push(flight.frame);
        }
        for (port, frames) in arrived {
            self.receive(port, frames);
        }
    }

    fn receive(&mut self, port: Port, frames: Vec<Frame>) {
        let shard = &mut self.nodes[port.node.0];
        shard.net.now = self.now;
        for frame in frames {
            let Some(mut pkt) = shard.net.pool.alloc() else { continue };
            let len = frame.bytes.len();
            let head = len.min(pkt.tailroom());
            pkt.put(head).copy_from_slice(&frame.bytes[..head]);
            if len > head {
                let Some(mut buf) = shard.net.pool.alloc_large() else {
                    shard.net.pool.free(pkt);
                    continue;
                };
                buf[..len - head].copy_from_slice(&frame.bytes[head..]);
                pkt.add_buf(buf, 0, len - head);
            }
            pkt.rx_time = self.now;
            pkt.dev = port.dev;
            pkt.csum = frame.csum;
            pkt.gso = frame.gso;
            self.batch.push(pkt);
        }
        let n = self.batch.len() as u64;
        let counts = &shard.net.counts;
        counts.flow(Stage::Ring).batch(n, n, 0);
        counts.flow(Stage::Poll).batch(n, n, 0);
        counts.inc_by(id::DevRxPackets, n);
        counts.inc_by(id::SoftnetProcessed, n);
        path::receive(shard, &mut self.batch);
    }
}
