//! What a packet costs where its host has more and more queues, each with a shard of its own, all of them polled in
//! turn by one thread: a second processor would hide what the first one pays.
//!
//! Flows are dealt out to the queues by RSS. In one line every queue brings as much in each turn as one alone
//! would; in one the same work is spread over all of them, so that the batch of each becomes smaller; in one
//! each packet is dealt out to all shards once more, by RPS.

use std::sync::Arc;

use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::rx::steer::Mesh;
use linerate_core::shard::Shard;

use crate::bench::path::case::cpu_ns;
use crate::bench::path::stack;

/// Queues of a host.
pub const QUEUES: [usize; 6] = [1, 2, 4, 8, 16, 64];
/// Flows in all.
const FLOWS: u16 = 1024;
/// Packets of a queue in a turn.
const EACH: usize = 32;
/// Packets of all queues in a turn, where they share.
const SHARED: usize = 256;
/// Payload.
const PAYLOAD: usize = 18;

/// How much each queue brings in a turn, and where it is read.
#[derive(Clone, Copy, PartialEq)]
pub enum Load {
    /// As much as one queue alone.
    Each,
    /// Its share of what one queue alone would bring.
    Shared,
    /// As much as one queue alone, and RPS spreads it over all shards.
    Rps,
}

/// Every way.
pub const LOADS: [Load; 3] = [Load::Each, Load::Shared, Load::Rps];

/// The row of so many queues.
pub fn name(queues: usize, load: Load) -> String {
    let s = if queues == 1 { "" } else { "s" };
    match load {
        Load::Each => format!("{queues} queue{s}, {EACH} packets of each in a turn"),
        Load::Shared => format!("{queues} queue{s}, {SHARED} packets of all in a turn"),
        Load::Rps => format!("{queues} queue{s}, {EACH} packets of each in a turn, RPS"),
    }
}

/// A host with its queues.
pub struct Host {
    shards: Vec<Shard>,
    /// What comes by each queue in a turn, turn after turn.
    turns: Vec<Vec<Vec<Vec<u8>>>>,
    turn: usize,
    batch: Batch,
    read: u64,
}

impl Host {
    /// So many queues.
    pub fn new(queues: usize, load: Load) -> Host {
        let mesh = Mesh::new(queues);
        let shards = (0..queues).map(|cpu| {
            let mut shard = stack::shard();
            shard.set_knob("net.core.netdev_max_backlog", "100000").expect("in range");
            shard.join(Arc::clone(&mesh), cpu as u8);
            if load == Load::Rps {
                let all = format!("{:x}", u64::MAX >> (64 - queues));
                shard.set_knob("queues.rx.rps_cpus", &all).expect("a mask");
            }
            stack::bind(&mut shard, None, stack::PORT);
            shard
        });
        let shards: Vec<Shard> = shards.collect();
        let rss = shards[0].net.rss(queues);
        let hasher = rss.hasher();
        let frames = (0..FLOWS).map(|flow| {
            let mut frame = stack::frame(PAYLOAD);
            frame[34..36].copy_from_slice(&(10_000 + flow).to_be_bytes());
            // Without a checksum, which RFC 768 allows over IPv4: the port is another.
            frame[40..42].fill(0);
            (usize::from(rss.queue_of(hasher.of_frame(&frame, true))), frame)
        });
        let turns = deal(frames.collect(), queues, load);
        Host { shards, turns, turn: 0, batch: Batch::new(), read: 0 }
    }

    /// At least so many packets; nanoseconds of processor time that each took.
    pub fn round(&mut self, packets: u64) -> f64 {
        let (mut done, before) = (0, self.read);
        let begun = cpu_ns();
        while done < packets {
            done += self.once();
        }
        let ns = cpu_ns() - begun;
        assert_eq!(self.read - before, done, "every packet was read");
        for shard in &self.shards {
            let lost = shard.net.counts.unaccounted();
            assert!(lost.is_empty(), "every packet is accounted for: {lost:?}");
        }
        ns as f64 / done as f64
    }

    /// One turn of all queues; how many packets came.
    fn once(&mut self) -> u64 {
        let Host { shards, turns, batch, read, .. } = self;
        let mut came = 0;
        self.turn += 1;
        let turn = self.turn;
        let now = &turns[turn % turns.len()];
        for (shard, frames) in shards.iter_mut().zip(now).filter(|(_, frames)| !frames.is_empty()) {
            stack::tick(shard, turn as u64);
            frames.iter().for_each(|frame| stack::ring(shard, batch, frame));
            path::receive(shard, batch);
            *read += read_all(shard);
            came += frames.len() as u64;
        }
        // What RPS sent to others waits there.
        for shard in shards.iter_mut() {
            while shard.has_backlog() {
                stack::tick(shard, turn as u64);
                path::process_backlog(shard, batch, 64);
                *read += read_all(shard);
            }
        }
        came
    }
}

/// The application reads what came.
fn read_all(shard: &mut Shard) -> u64 {
    let mut read = 0;
    while let Some(event) = shard.poll_event() {
        while let Some(datagram) = shard.udp_recv(event.id) {
            std::hint::black_box(datagram.slices().next());
            shard.udp_done(datagram);
            read += 1;
        }
    }
    read
}

/// Which frames come by which queue in each turn, until all have come.
fn deal(frames: Vec<(usize, Vec<u8>)>, queues: usize, load: Load) -> Vec<Vec<Vec<Vec<u8>>>> {
    let of = |frames: &[(usize, Vec<u8>)]| {
        let mut of = vec![Vec::new(); queues];
        frames.iter().for_each(|(queue, frame)| of[*queue].push(frame.clone()));
        of
    };
    if load == Load::Shared {
        return frames.chunks(SHARED).map(of).collect();
    }
    let of = of(&frames);
    assert!(of.iter().all(|frames| !frames.is_empty()), "every queue has flows");
    let next = |turn: usize| {
        let some = |frames: &Vec<Vec<u8>>| {
            let next = frames.iter().cycle().skip(turn * EACH % frames.len());
            next.take(EACH).cloned().collect()
        };
        of.iter().map(some).collect()
    };
    (0..usize::from(FLOWS) / EACH).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_read_by_however_many_shards() {
        for load in LOADS {
            for queues in QUEUES {
                let mut host = Host::new(queues, load);
                assert!(host.round(2 * u64::from(FLOWS)) > 0.0, "{}", name(queues, load));
            }
        }
    }
}
