//! Hosts of several shards: the same rules as those of `linerate-dev`'s workers, in virtual time.
//!
//! Each shard has a processor and a queue of every device; mailboxes, directory and steering between them
//! are the stack's own. A processor takes a turn: rings and backlog, timers, the application, transmission,
//! connections that leave. Then it is busy for a while; what comes meanwhile waits in its ring or in its
//! mailbox, while the others go on. One that is idle takes a while until it looks at its mail.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use linerate_core::path;
use linerate_core::rand::Rng;
use linerate_core::rx::backlog::netif_rx;
use linerate_core::rx::steer::rss::INDIR_LEN;
use linerate_core::rx::steer::{Flow, FlowKey, Letter, Mesh};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::count::id;
use linerate_core::table::knob::SetError;
use linerate_core::time::Instant;

use crate::node::{Node, Waits};
use crate::world::{NodeId, World};

/// A socket of a host of several shards. Its name counts on this shard only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The shard.
    pub cpu: usize,
    /// Its name there.
    pub id: SocketId,
}

/// What an application is told of a connection of its that changes shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It is in the mail: it has no name now.
    Left(Place),
    /// It arrived.
    Came {
        /// The place that it left.
        was: Place,
        /// Where it is now.
        is: Place,
    },
}

/// Packets of one poll (`net.core.dev_weight`).
const WEIGHT: usize = 64;
/// Packets of one turn (`net.core.netdev_budget`).
const BUDGET: usize = 300;
/// Turns that a shard takes at the most to work off what it has, when it goes.
const LAST_TURNS: usize = 64;

impl World {
    /// Adds a host of so many shards, 1 to 64, without devices. What a processor does in one turn takes it
    /// up to `turn_ns` nanoseconds, by chance; it wakes up within `wake_ns`.
    pub fn add_host(&mut self, shards: usize, (turn_ns, wake_ns): (u64, u64)) -> NodeId {
        let mesh = Mesh::new(shards);
        let seed = |rng: &mut Rng| Shard::new(rng.next_u64());
        let mut all: Vec<Shard> = (0..shards).map(|_| seed(&mut self.rng)).collect();
        for (cpu, shard) in all.iter_mut().enumerate() {
            shard.net.now = self.now;
            shard.join(Arc::clone(&mesh), cpu as u8);
        }
        let rng = Rng::new(self.rng.next_u64());
        let mut node = Node::new(all, Some(mesh), rng);
        (node.turn_ns, node.wake_ns) = (turn_ns, wake_ns);
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }
    /// How many shards a host has, those included that went and may come back.
    pub fn shards(&self, id: NodeId) -> usize {
        self.nodes[id.0].cpus.len()
    }
    /// How many of them are there: the first so many.
    pub fn online(&self, id: NodeId) -> usize {
        self.nodes[id.0].online
    }
    /// One shard of a host.
    pub fn shard(&mut self, id: NodeId, cpu: usize) -> &mut Shard {
        &mut self.nodes[id.0].cpus[cpu].shard
    }
    /// One shard of a host, to look at.
    pub fn look(&self, id: NodeId, cpu: usize) -> &Shard {
        &self.nodes[id.0].cpus[cpu].shard
    }
    /// What joins the shards of a host.
    pub fn mesh(&self, id: NodeId) -> Option<&Arc<Mesh>> {
        self.nodes[id.0].mesh.as_ref()
    }
    /// Whether a processor of a host does nothing now: it is busy, or pauses.
    pub fn is_busy(&self, id: NodeId, cpu: usize) -> bool {
        self.nodes[id.0].cpus[cpu].paused > self.now
    }
    /// One processor of a host does nothing until `until`: its thread is not run. The others go on.
    pub fn pause_cpu(&mut self, id: NodeId, cpu: usize, until: Instant) {
        let cpu = &mut self.nodes[id.0].cpus[cpu];
        cpu.paused = cpu.paused.max(until);
    }
    /// Sets a knob in all shards of a host, or in none. Its devices follow what it says of their tables.
    ///
    /// # Errors
    /// [`SetError`] (ENOENT, EINVAL).
    pub fn set_knob(&mut self, id: NodeId, path: &str, value: &str) -> Result<(), SetError> {
        for cpu in &mut self.nodes[id.0].cpus {
            cpu.shard.set_knob(path, value)?;
        }
        if path.starts_with("rss.") || path.starts_with("rx-flow-hash.") {
            self.respread(id);
        }
        Ok(())
    }
    /// The devices of a host choose queues by this table from now on (`ethtool -X`), until the number of its
    /// shards or one of the knobs `rss.*` changes. A queue that is not there stands for the last.
    pub fn set_indir(&mut self, id: NodeId, indir: [u8; INDIR_LEN]) {
        self.nodes[id.0].cards.iter_mut().for_each(|card| card.set_indir(indir));
    }
    /// A host has so many shards from now on, at most as many as it was made with (`ethtool -L`). Those that
    /// are too many go when their processors are through with their turns, the last one first, and their
    /// connections move to the others.
    pub fn set_channels(&mut self, id: NodeId, n: usize) {
        let node = &mut self.nodes[id.0];
        let Some(mesh) = &node.mesh else { return };
        node.wanted = n.clamp(1, node.cpus.len());
        if node.wanted > node.online {
            (node.online..node.wanted).for_each(|cpu| mesh.bring_up(cpu as u8));
            node.online = node.wanted;
            self.respread(id);
        }
    }
    /// What happened last to connections of a host's application: they moved. To be asked after every step,
    /// before anything is done by their names.
    pub fn poll_move(&mut self, id: NodeId) -> Option<Move> {
        self.nodes[id.0].moves.pop_front()
    }

    /// The devices' tables as the knobs and the number of shards say.
    fn respread(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.0];
        let rss = node.cpus[0].shard.net.rss(node.online);
        node.cards.iter_mut().for_each(|card| card.set_rss(rss.clone()));
    }

    /// The last part of a turn, when the device has taken what it could.
    pub(crate) fn end_turn(&mut self, id: NodeId, cpu: usize) {
        if self.nodes[id.0].mesh.is_none() {
            return;
        }
        let now = self.now;
        let Node { cpus, moves, online, .. } = &mut self.nodes[id.0];
        let at = &mut cpus[cpu];
        if at.shard.rfs_pending() {
            at.worked |= at.shard.rfs_turn(&mut |id| Some(leave(moves, Place { cpu, id }))) > 0;
            at.look_again(now);
        }
        if cpu >= *online {
            self.move_all(id, cpu);
        }
    }

    /// Processors that did something are busy now; those that others sent something wake up.
    pub(crate) fn rest(&mut self) {
        for id in (0..self.nodes.len()).map(NodeId) {
            while self.departs(id) {
                self.depart(id);
            }
            let node = &mut self.nodes[id.0];
            if node.mesh.is_none() {
                continue;
            }
            for cpu in 0..node.cpus.len() {
                if node.cpus[cpu].paused > self.now {
                    continue;
                }
                let worked = std::mem::take(&mut node.cpus[cpu].worked);
                if worked {
                    node.cpus[cpu].paused = self.now.plus(node.takes(node.turn_ns));
                } else if node.cpus[cpu].has_input() {
                    node.cpus[cpu].paused = self.now.plus(node.takes(node.wake_ns));
                }
            }
        }
    }

    /// What waits for the processors that look: rings that were filled while they did not, and backlogs.
    pub(crate) fn poll(&mut self) {
        for id in (0..self.nodes.len()).map(NodeId) {
            for cpu in 0..self.nodes[id.0].cpus.len() {
                let several = self.nodes[id.0].mesh.is_some();
                if several && self.nodes[id.0].cpus[cpu].paused <= self.now {
                    self.net_rx_action(id, cpu);
                }
            }
        }
    }

    /// Ring and backlog of one shard, in turn, within the budget.
    fn net_rx_action(&mut self, id: NodeId, cpu: usize) {
        let mut left = BUDGET;
        let first = self.nodes[id.0].rng.below(2);
        while left > 0 && self.nodes[id.0].cpus[cpu].has_input() {
            let mut got = 0;
            for n in 0..2 {
                let ring = (first + n).is_multiple_of(2);
                got += if ring { self.poll_ring(id, cpu) } else { self.poll_backlog(id, cpu) };
            }
            // A backlog that waits for other shards is no work.
            if got == 0 {
                break;
            }
            left -= got.min(left);
        }
    }

    fn poll_ring(&mut self, id: NodeId, cpu: usize) -> usize {
        let at = &mut self.nodes[id.0].cpus[cpu];
        let Some(dev) = at.ring.front().map(|first| first.dev) else { return 0 };
        // A poll is of one device.
        let same = at.ring.iter().take(WEIGHT).take_while(|waits| waits.dev == dev).count();
        let packets: Vec<Waits> = at.ring.drain(..same).collect();
        at.worked = true;
        self.receive(id, cpu, packets);
        same
    }

    fn poll_backlog(&mut self, id: NodeId, cpu: usize) -> usize {
        let node = &mut self.nodes[id.0];
        let now = node.time(self.now);
        let at = &mut node.cpus[cpu];
        at.shard.net.now = now;
        let got = path::process_backlog(&mut at.shard, &mut self.batch, WEIGHT);
        at.shard.net.counts.inc_by(id::SoftnetProcessed, got as u64);
        let got = got + at.shard.take_heard();
        at.worked |= got > 0;
        got
    }

    /// What the devices are to know, and what came for the application.
    pub(crate) fn hand_over(&mut self) {
        for id in (0..self.nodes.len()).map(NodeId) {
            for cpu in 0..self.nodes[id.0].cpus.len() {
                if self.nodes[id.0].mesh.is_some() && !self.is_busy(id, cpu) {
                    self.hand_over_arrived(id, cpu);
                }
            }
        }
    }

    fn hand_over_arrived(&mut self, id: NodeId, cpu: usize) {
        let Node { cpus, moves, cards, .. } = &mut self.nodes[id.0];
        let shard = &mut cpus[cpu].shard;
        while let Some(wanted) = shard.take_rule() {
            let taken = cards[wanted.dev as usize].set_rule(cpu, &wanted);
            shard.rule_done(&wanted, taken);
        }
        while let Some(came) = shard.take_arrived() {
            let was = came.app.and_then(|app| app.downcast::<Place>().ok());
            if let Some(was) = was {
                let is = Place { cpu, id: came.socket };
                moves.push_back(Move::Came { was: *was, is });
            }
        }
    }

    /// Whether a host's last shard is to go, and its processor is through with its turn.
    fn departs(&self, id: NodeId) -> bool {
        let node = &self.nodes[id.0];
        node.wanted < node.online && node.cpus[node.online - 1].paused <= self.now
    }

    /// A host's last shard goes, as a worker does: packets come by other queues from now on, connections leave
    /// when what they have sent has left, what is on the way to them goes after them, and the mailbox is shut.
    fn depart(&mut self, id: NodeId) {
        let cpu = self.nodes[id.0].online - 1;
        let Some(mesh) = self.nodes[id.0].mesh.clone() else { return };
        self.nodes[id.0].online = cpu;
        self.respread(id);
        self.transmit(id, cpu);
        self.last_turns(id, cpu);
        let mut letters: VecDeque<Letter> = mesh.take_down(cpu as u8).into();
        while let Some(letter) = letters.pop_front() {
            let shard = &mut self.nodes[id.0].cpus[cpu].shard;
            match letter {
                Letter::Pkt(pkt) => {
                    shard.net.pool.adopt(&pkt);
                    netif_rx(&mut shard.net, pkt);
                }
                Letter::Flow(flow) => shard.send_flow(target(shard, &flow.key, cpu), *flow),
                // The others were told, too.
                Letter::News(_) => {}
            }
        }
        self.last_turns(id, cpu);
        // What still waits for a neighbour ends with its shard.
        let shard = &mut self.nodes[id.0].cpus[cpu].shard;
        let asked = shard.net.neigh.iter().filter(|n| n.waiting() > 0);
        for (dev, addr) in asked.map(|n| (n.dev(), n.addr())).collect::<Vec<_>>() {
            shard.neigh_del(dev, addr);
        }
    }

    fn last_turns(&mut self, id: NodeId, cpu: usize) {
        for _ in 0..LAST_TURNS {
            self.move_all(id, cpu);
            self.net_rx_action(id, cpu);
            self.hand_over_arrived(id, cpu);
            self.transmit(id, cpu);
            if !self.nodes[id.0].cpus[cpu].has_input() {
                break;
            }
        }
        self.move_all(id, cpu);
    }

    /// Sends every connection to another shard.
    fn move_all(&mut self, id: NodeId, cpu: usize) {
        self.hand_over_arrived(id, cpu);
        let Node { cpus, moves, .. } = &mut self.nodes[id.0];
        let shard = &mut cpus[cpu].shard;
        for conn in shard.tcp_detach_all() {
            let key = conn.flow_key();
            let app = conn.was().map(|id| leave(moves, Place { cpu, id }));
            shard.send_flow(target(shard, &key, cpu), Flow { key, conn, app });
        }
    }
}

/// What the application knows of a connection goes with it: where it was.
fn leave(moves: &mut VecDeque<Move>, place: Place) -> Box<dyn Any + Send> {
    moves.push_back(Move::Left(place));
    Box::new(place)
}

/// The shard that the connection's packets come to when shard `cpu`, the last, is gone.
fn target(shard: &Shard, key: &FlowKey, cpu: usize) -> u8 {
    let net = &shard.net;
    net.rss(cpu).queue_of(net.flow_hash(key))
}
