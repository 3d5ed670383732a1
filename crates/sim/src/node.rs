//! A host of the world: one stack, or several shards of one, its clock, and what waits for it.

use std::collections::VecDeque;
use std::sync::Arc;

use linerate_core::path;
use linerate_core::rand::Rng;
use linerate_core::rx::steer::Mesh;
use linerate_core::shard::Shard;
use linerate_core::time::{Instant, MS};

use crate::card::Card;
use crate::shards::Move;
use crate::world::Frame;

/// Packets that a ring holds for a host that does not look.
const RING: usize = 256;

/// A packet in a ring.
pub(crate) struct Waits {
    pub dev: u8,
    pub hash: u32,
    pub frame: Frame,
}

/// A processor, and the shard that it runs.
pub(crate) struct Cpu {
    pub shard: Shard,
    /// It does nothing until then.
    pub paused: Instant,
    /// What arrived while it paused.
    pub ring: VecDeque<Waits>,
    /// It had work in this turn.
    pub worked: bool,
    /// When it next looks whether connections may leave.
    pub leave_at: Instant,
}

pub(crate) struct Node {
    /// A host of one shard has one, which takes no time.
    pub cpus: Vec<Cpu>,
    /// What joins several.
    pub mesh: Option<Arc<Mesh>>,
    /// Its devices, where it has several shards.
    pub cards: Vec<Card>,
    /// Shards that are there: the first so many; and as many as were asked for.
    pub online: usize,
    pub wanted: usize,
    /// Connections that left or came, for the application.
    pub moves: VecDeque<Move>,
    /// What turns and wake-ups take at the most, in nanoseconds.
    pub turn_ns: u64,
    pub wake_ns: u64,
    pub rng: Rng,
    /// Its clock shows multiples of this only.
    grain_ns: u64,
    /// Its clock is so far ahead of the world's.
    ahead_ns: u64,
}

impl Node {
    pub fn new(shards: Vec<Shard>, mesh: Option<Arc<Mesh>>, rng: Rng) -> Node {
        let (paused, leave_at) = (Instant::ZERO, Instant::ZERO);
        let cpu = |shard| Cpu { shard, paused, ring: VecDeque::new(), worked: false, leave_at };
        let online = shards.len();
        Node {
            cpus: shards.into_iter().map(cpu).collect(),
            mesh,
            cards: Vec::new(),
            online,
            wanted: online,
            moves: VecDeque::new(),
            turn_ns: 0,
            wake_ns: 0,
            rng,
            grain_ns: 1,
            ahead_ns: 0,
        }
    }
    pub fn set_clock(&mut self, grain_ns: u64, ahead_ns: u64) {
        (self.grain_ns, self.ahead_ns) = (grain_ns.max(1), ahead_ns);
    }
    /// What its clock shows at a time of the world.
    pub fn time(&self, now: Instant) -> Instant {
        Instant::from_ns(now.ns() / self.grain_ns * self.grain_ns).plus(self.ahead_ns)
    }
    /// Which of its processors a frame comes to, and its hash, if the card says it.
    pub fn queue_of(&self, dev: u8, frame: &[u8]) -> (usize, u32) {
        let card = self.cards.get(dev as usize).filter(|_| self.mesh.is_some());
        card.map_or((0, 0), |card| card.queue_of(frame, self.online))
    }
    /// When something happens to one of its processors by itself, by the world's clock.
    pub fn next_event(&self, cpu: &Cpu, now: Instant) -> Option<Instant> {
        if cpu.paused > now {
            return Some(cpu.paused);
        }
        let mail = self.mesh.is_some() && cpu.has_input();
        let leaves = self.mesh.is_some() && cpu.shard.rfs_pending();
        let timer = path::next_timer(&cpu.shard).map(|at| self.world_time(at));
        let others = [mail.then_some(now), leaves.then_some(cpu.leave_at)];
        others.into_iter().flatten().chain(timer).min()
    }
    /// A time is reached when the clock shows it, which a coarse one does late.
    fn world_time(&self, at: Instant) -> Instant {
        let at = at.ns().saturating_sub(self.ahead_ns);
        Instant::from_ns(at.div_ceil(self.grain_ns).saturating_mul(self.grain_ns))
    }
    /// How long a processor is busy with what it has just done, or until it runs.
    pub fn takes(&mut self, most_ns: u64) -> u64 {
        1 + self.rng.below(most_ns.max(1))
    }
}

impl Cpu {
    pub fn ring_has_room(&self) -> bool {
        self.ring.len() < RING
    }
    /// Packets wait in its ring, in its backlog or in its mailbox.
    pub fn has_input(&self) -> bool {
        !self.ring.is_empty() || self.shard.has_backlog()
    }
    /// Connections that are to leave are looked at again soon, as a loop does that has nothing else to do.
    pub fn look_again(&mut self, now: Instant) {
        self.leave_at = now.plus(MS);
    }
}
