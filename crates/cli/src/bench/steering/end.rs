//! One shard with its sockets, its flows and their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::rx::steer::Mesh;
use linerate_core::shard::Shard;

use crate::bench::path::stack;

/// Flows that a ring carries.
pub const FLOWS: usize = 64;
/// Payload: the flow's number, and the packet's within the flow.
const PAYLOAD: usize = 18;
const AT: usize = 42;

/// The last number that a reader saw of each flow, by all readers together.
pub type Seen = Arc<[AtomicU64]>;

/// Nothing seen yet, of `rings` rings.
pub fn unseen(rings: usize) -> Seen {
    (0..rings * FLOWS).map(|_| AtomicU64::new(0)).collect()
}

/// A shard, and what its application does.
pub struct End {
    /// The stack.
    pub shard: Shard,
    batch: Batch,
    frames: Vec<Vec<u8>>,
    next: Vec<u64>,
    at: usize,
    seen: Seen,
    turns: u64,
    /// Datagrams read.
    pub read: u64,
    /// Of them, those that came after a later one.
    pub disorder: u64,
}

impl End {
    /// Shard `cpu` of `mesh`, with flows of its own.
    pub fn new(mesh: &Arc<Mesh>, cpu: u8, seen: Seen) -> End {
        let mut shard = stack::shard();
        shard.set_knob("net.core.netdev_max_backlog", "100000").expect("in range");
        shard.join(Arc::clone(mesh), cpu);
        stack::bind(&mut shard, None, stack::PORT);
        let frame = |flow: usize| {
            let mut frame = stack::frame(PAYLOAD);
            let flow = (usize::from(cpu) * FLOWS + flow) as u64;
            frame[34..36].copy_from_slice(&(10_000 + flow as u16).to_be_bytes());
            // Without a checksum, which RFC 768 allows over IPv4: what is in it changes.
            frame[40..42].fill(0);
            frame[AT..AT + 8].copy_from_slice(&flow.to_be_bytes());
            frame
        };
        let frames = (0..FLOWS).map(frame).collect();
        let next = vec![0; FLOWS];
        End {
            shard,
            batch: Batch::new(),
            frames,
            next,
            at: 0,
            seen,
            turns: 0,
            read: 0,
            disorder: 0,
        }
    }

    /// The ring brings `n` packets, one of each flow in turn, and the application reads what is for
    /// this shard.
    pub fn receive(&mut self, n: u64) {
        self.turns += 1;
        stack::tick(&mut self.shard, self.turns);
        for _ in 0..n {
            self.at = (self.at + 1) % FLOWS;
            self.next[self.at] += 1;
            let frame = &mut self.frames[self.at];
            frame[AT + 8..AT + 16].copy_from_slice(&self.next[self.at].to_be_bytes());
            stack::ring(&mut self.shard, &mut self.batch, frame);
        }
        path::receive(&mut self.shard, &mut self.batch);
        self.read_all();
    }

    /// Takes in what the other shard steered here; returns how many packets.
    pub fn backlog(&mut self, weight: usize) -> usize {
        if !self.shard.has_backlog() {
            return 0;
        }
        self.turns += 1;
        stack::tick(&mut self.shard, self.turns);
        let n = path::process_backlog(&mut self.shard, &mut self.batch, weight);
        self.read_all();
        n
    }

    fn read_all(&mut self) {
        while let Some(event) = self.shard.poll_event() {
            while let Some(datagram) = self.shard.udp_recv(event.id) {
                self.read += 1;
                let data = datagram.slices().next().unwrap_or_default();
                let word = |at: usize| data.get(at..).and_then(|d| d.first_chunk::<8>());
                if let (Some(flow), Some(number)) = (word(0), word(8)) {
                    let (flow, number) = (u64::from_be_bytes(*flow), u64::from_be_bytes(*number));
                    let last = &self.seen[flow as usize];
                    // Only one reader has a flow at a time: no other writes between.
                    self.disorder += u64::from(last.load(Ordering::Acquire) >= number);
                    last.store(number, Ordering::Release);
                }
                self.shard.udp_done(datagram);
            }
        }
    }

    /// Every packet that reached this shard is accounted for.
    pub fn check(&self) {
        let lost = self.shard.net.counts.unaccounted();
        assert!(lost.is_empty(), "every packet is accounted for: {lost:?}");
    }
}
