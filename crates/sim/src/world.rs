//! The world: stacks, links, and a clock that jumps from event to event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;

use linerate_core::link::{Features, Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Csum, Gso, GsoKind, Pkt};
use linerate_core::rand::Rng;
use linerate_core::shard::Shard;
use linerate_core::table::{Stage, count::id};
use linerate_core::time::{Instant, US};
use linerate_core::tx::qdisc::set_ce;
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;

use crate::card::Card;
use crate::link::{Link, Lost, Passed, Wire};
use crate::node::{Cpu, Node, Waits};

/// Names a node of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A device of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    from: Port,
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
pub(crate) struct Frame {
    pub bytes: Vec<u8>,
    pub csum: Csum,
    pub gso: Option<Gso>,
}

/// A frame as its sender's device gives it to the wire, for who listens there.
#[derive(Debug)]
pub struct Passing<'a> {
    /// When, by the world's clock.
    pub at: Instant,
    /// The device that sends it.
    pub from: Port,
    /// The device at the other end.
    pub to: Port,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// It is a super-packet.
    pub gso: Option<Gso>,
    /// When each copy of it arrives; none if it is lost.
    pub arrives: &'a [Instant],
}

/// Who listens at all wires.
type Listener = Box<dyn FnMut(&Passing<'_>)>;

/// Stacks joined by links, in virtual time, from one seed.
pub struct World {
    pub(crate) nodes: Vec<Node>,
    wires: BTreeMap<Port, (Port, Wire)>,
    listener: Option<Listener>,
    flights: BinaryHeap<Reverse<Flight>>,
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    order: u64,
    pub(crate) batch: Batch,
}

impl World {
    /// An empty world. Everything that will happen in it follows from `seed` and from what is asked
    /// of it.
    pub fn new(seed: u64) -> World {
        World {
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            listener: None,
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
        // A single processor takes no time, so that its chance decides nothing.
        self.nodes.push(Node::new(vec![shard], None, Rng::new(0)));
        NodeId(self.nodes.len() - 1)
    }
    /// A node's stack; of several shards the first.
    pub fn node(&mut self, id: NodeId) -> &mut Shard {
        self.shard(id, 0)
    }
    /// The same, to look at.
    pub fn stack(&self, id: NodeId) -> &Shard {
        self.look(id, 0)
    }
    /// A node's clock shows whole multiples of `grain_ns`, and is `ahead_ns` ahead of the world's. To be
    /// said before anything happens at the node: a stack's clock does not go backwards.
    pub fn set_clock(&mut self, id: NodeId, grain_ns: u64, ahead_ns: u64) {
        let now = self.now;
        let node = &mut self.nodes[id.0];
        node.set_clock(grain_ns, ahead_ns);
        let now = node.time(now);
        node.cpus.iter_mut().for_each(|cpu| cpu.shard.net.now = now);
    }
    /// A node does nothing until `until`: its host is suspended, or its thread is not run. What arrives
    /// meanwhile waits in its device's ring, as far as that has room (256 packets).
    pub fn pause(&mut self, id: NodeId, until: Instant) {
        (0..self.shards(id)).for_each(|cpu| self.pause_cpu(id, cpu, until));
    }
    /// Whether a node pauses now; of several shards, each.
    pub fn is_paused(&self, id: NodeId) -> bool {
        (0..self.shards(id)).all(|cpu| self.is_busy(id, cpu))
    }
    /// The devices at both ends of a link take frames of other sizes from now on.
    pub fn set_mtu(&mut self, port: Port, mtu: u32) {
        let other = self.wires.get(&port).map(|(to, _)| *to);
        for at in [Some(port), other].into_iter().flatten() {
            for cpu in &mut self.nodes[at.node.0].cpus {
                cpu.shard.set_mtu(at.dev, mtu);
            }
        }
    }
    /// `listener` is told of every frame that a device gives to a wire.
    pub fn listen(&mut self, listener: impl FnMut(&Passing<'_>) + 'static) {
        self.listener = Some(Box::new(listener));
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
            let host = &mut self.nodes[node.0];
            let dev = host.cpus[0].shard.net.ifaces.len() as u8;
            for Cpu { shard, .. } in &mut host.cpus {
                let mac = Mac([2, 0, 0, 0, node.0 as u8 + 1, dev]);
                let mut iface = Iface::new(&format!("sim{dev}"), l2, mac, mtu);
                let on = link.offload;
                iface.features = Features { tx_csum: on, tso4: on, tso6: on, uso: on };
                let dev = shard.add_iface(iface);
                shard.add_addr(dev, addr, prefix).expect("a new device takes any address");
            }
            let rss = host.cpus[0].shard.net.rss(host.online);
            host.cards.push(Card::new(rss, l2 == L2::Ethernet));
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
            wire.set(link);
        }
    }
    /// What the link that leaves `port` has lost.
    pub fn lost(&self, port: Port) -> Lost {
        self.passed(port).lost
    }
    /// What passed over the link that leaves `port`.
    pub fn passed(&self, port: Port) -> Passed {
        self.wires.get(&port).map(|(_, w)| w.passed).unwrap_or_default()
    }
    /// Bytes that wait for the wire at `port`.
    pub fn waiting(&self, port: Port) -> u64 {
        self.wires.get(&port).map(|(_, w)| w.waiting(self.now)).unwrap_or_default()
    }

    /// Lets every node send what it has, and moves to the next event. False if nothing will ever
    /// happen again by itself.
    pub fn step(&mut self) -> bool {
        self.step_by(Instant::NEVER)
    }

    /// Lets every node send what it has, and moves to the next event, or to `alarm` if nothing happens
    /// before it. False if there is neither.
    pub fn step_by(&mut self, alarm: Instant) -> bool {
        for node in (0..self.nodes.len()).map(NodeId) {
            for cpu in 0..self.shards(node) {
                self.transmit(node, cpu);
            }
        }
        self.rest();
        let arrival = self.flights.peek().map(|Reverse(f)| f.at);
        let each = self.nodes.iter().flat_map(|node| node.cpus.iter().map(move |cpu| (node, cpu)));
        let timer = each.filter_map(|(node, cpu)| node.next_event(cpu, self.now)).min();
        let alarm = (alarm != Instant::NEVER).then_some(alarm);
        let next = [arrival, timer, alarm].into_iter().flatten().min();
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        self.deliver();
        self.timers();
        self.hand_over();
        true
    }

    /// Whether anything is on a wire, in the ring of a node that pauses, or in the mail between shards.
    pub fn under_way(&self) -> bool {
        let mut cpus = self.nodes.iter().flat_map(|node| &node.cpus);
        !self.flights.is_empty() || cpus.any(Cpu::has_input)
    }

    fn timers(&mut self) {
        for node in &mut self.nodes {
            let now = node.time(self.now);
            for cpu in node.cpus.iter_mut().filter(|cpu| cpu.paused <= self.now) {
                path::timers(&mut cpu.shard, now);
            }
        }
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
        self.timers();
    }

    /// What the law of conservation misses on any shard of any node: nothing, always.
    pub fn unaccounted(&self) -> Vec<(NodeId, Stage, i64)> {
        let each = self.nodes.iter().enumerate();
        let shards = each.flat_map(|(i, node)| node.cpus.iter().map(move |cpu| (NodeId(i), cpu)));
        let missing = shards.flat_map(|(id, cpu)| {
            let missing = cpu.shard.net.counts.unaccounted().into_iter();
            missing.map(move |(stage, n)| (id, stage, n))
        });
        missing.collect()
    }

    pub(crate) fn transmit(&mut self, id: NodeId, cpu: usize) {
        let node = &mut self.nodes[id.0];
        let (now, several) = (node.time(self.now), node.mesh.is_some());
        let at = &mut node.cpus[cpu];
        if at.paused > self.now {
            return;
        }
        let shard = &mut at.shard;
        shard.net.now = now;
        // Loopback traffic goes round inside the node. Of several shards each takes its backlog in its turn.
        for _ in 0..64 {
            path::transmit(shard, &mut self.batch);
            if several || path::process_backlog(shard, &mut self.batch, 64) == 0 {
                break;
            }
        }
        let devices = shard.net.ifaces.len() as u8;
        for dev in 0..devices {
            let at = &mut self.nodes[id.0].cpus[cpu];
            let Some(ring) = path::qdisc_run(&mut at.shard.net, dev, 0, usize::MAX) else {
                continue;
            };
            let sent: Vec<Pkt> = ring.drain(..).collect();
            at.worked |= !sent.is_empty();
            for pkt in sent {
                self.put_on_wire(Port { node: id, dev }, cpu, pkt);
            }
        }
        self.end_turn(id, cpu);
    }

    fn put_on_wire(&mut self, from: Port, cpu: usize, mut pkt: Pkt) {
        let Some((to, wire)) = self.wires.get_mut(&from) else {
            return tx_done(&mut self.shard(from.node, cpu).net, pkt, false);
        };
        let bytes = pkt.len() as u64;
        let fate = wire.send(self.now, (bytes, frame_len(&pkt)), &mut self.rng);
        wire.passed.marked += u64::from(fate.marked && set_ce(&mut pkt));
        let frame = Frame {
            bytes: pkt.slices().flatten().copied().collect(),
            csum: pkt.csum,
            gso: pkt.gso,
        };
        if let Some(listener) = &mut self.listener {
            let arrives: Vec<Instant> = fate.copies.iter().map(|(at, _)| *at).collect();
            let (at, to, gso) = (self.now, *to, frame.gso);
            listener(&Passing { at, from, to, bytes: &frame.bytes, gso, arrives: &arrives });
        }
        for (at, bit) in fate.copies {
            let mut frame = frame.clone();
            if let Some(bit) = bit {
                frame.bytes[bit as usize / 8] ^= 1 << (bit % 8);
                // A damaged packet is never vouched for.
                frame.csum = Csum::None;
            }
            self.order += 1;
            self.flights.push(Reverse(Flight { at, order: self.order, from, to: *to, frame }));
        }
        tx_done(&mut self.shard(from.node, cpu).net, pkt, true);
    }

    /// Everything that has arrived by now, a device's packets as one batch.
    fn deliver(&mut self) {
        let mut arrived: BTreeMap<Port, Vec<Waits>> = BTreeMap::new();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let alone = node.mesh.is_none();
            let cpus = node.cpus.iter_mut().filter(|cpu| alone && cpu.paused <= self.now);
            for waits in cpus.flat_map(|cpu| cpu.ring.drain(..)) {
                let port = Port { node: NodeId(number), dev: waits.dev };
                arrived.entry(port).or_default().push(waits);
            }
        }
        // What arrives within a few microseconds is one interrupt's work.
        let horizon = self.now.plus(5 * US);
        while self.flights.peek().is_some_and(|Reverse(f)| f.at <= horizon) {
            let Some(Reverse(flight)) = self.flights.pop() else { break };
            self.now = self.now.max(flight.at);
            let node = &mut self.nodes[flight.to.node.0];
            let Some((_, wire)) = self.wires.get_mut(&flight.from) else { continue };
            let (dev, frame) = (flight.to.dev, flight.frame);
            let (queue, hash) = node.queue_of(dev, &frame.bytes);
            let cpu = &mut node.cpus[queue];
            let waits = Waits { dev, hash, frame };
            if node.mesh.is_none() && cpu.paused <= self.now {
                wire.passed.arrived += 1;
                arrived.entry(flight.to).or_default().push(waits);
            } else if cpu.ring_has_room() {
                wire.passed.arrived += 1;
                cpu.ring.push_back(waits);
            } else {
                wire.passed.lost.ring += 1;
            }
        }
        for (port, packets) in arrived {
            self.receive(port.node, 0, packets);
        }
        self.poll();
    }

    /// Packets of one device come to a shard.
    pub(crate) fn receive(&mut self, id: NodeId, cpu: usize, packets: Vec<Waits>) {
        let node = &mut self.nodes[id.0];
        let now = node.time(self.now);
        let shard = &mut node.cpus[cpu].shard;
        shard.net.now = now;
        for Waits { dev, hash, frame } in packets {
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
            pkt.rx_time = now;
            (pkt.dev, pkt.queue, pkt.hash) = (dev, cpu as u8, hash);
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

/// Bytes of the largest frame of a packet: of a super-packet each segment is one, with its headers.
fn frame_len(pkt: &Pkt) -> u64 {
    let Some(gso) = pkt.gso else { return pkt.len() as u64 };
    let transport = match gso.kind {
        GsoKind::Udp => 8,
        _ => pkt.from_transport().get(12).map_or(20, |offset| u64::from(offset >> 4) * 4),
    };
    u64::from(pkt.transport.saturating_sub(pkt.data_offset())) + transport + u64::from(gso.size)
}
