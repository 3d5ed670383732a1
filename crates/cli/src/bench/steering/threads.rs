//! Shards in threads of their own: what a second one gains, and what a hop to it costs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use linerate_core::rx::steer::Mesh;
use linerate_dev::drive::clock_ns;

use super::end::{End, unseen};
use crate::bench::path::case::{cpu_ns, pin};

/// What each shard took for a packet.
pub struct Scaling {
    /// Of its thread's processor time, the mean over the shards.
    pub cpu_ns: f64,
    /// Of elapsed time, from the start of all to the end of the last.
    pub elapsed_ns: f64,
    /// Packets that came after a later one of their flow.
    pub disorder: u64,
}

/// One shard on each processor, each with a ring of its own, batch 32.
pub fn scaling(cpus: &[usize], packets: u64) -> Scaling {
    rings(cpus, packets, 32)
}

/// One shard alone.
pub fn alone(cpu: usize, packets: u64, batch: u64) -> Scaling {
    rings(&[cpu], packets, batch)
}

fn rings(cpus: &[usize], packets: u64, batch: u64) -> Scaling {
    let mesh = Mesh::new(cpus.len());
    let (seen, start) = (unseen(cpus.len()), Barrier::new(cpus.len()));
    let run = |n: usize| {
        pin(&cpus[n].to_string());
        let mut end = End::new(&mesh, n as u8, Arc::clone(&seen));
        // Caches and pools fill before.
        (0..20_000 / batch).for_each(|_| end.receive(batch));
        start.wait();
        let (begun, cpu) = (Instant::now(), cpu_ns());
        let turns = packets.div_ceil(batch);
        (0..turns).for_each(|_| end.receive(batch));
        let cpu = (cpu_ns() - cpu) as f64 / (turns * batch) as f64;
        let elapsed = begun.elapsed().as_nanos() as f64 / (turns * batch) as f64;
        end.check();
        (cpu, elapsed, end.disorder)
    };
    let each: Vec<(f64, f64, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus.len())
            .map(|n| {
                let run = &run;
                scope.spawn(move || run(n))
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a shard does not panic")).collect()
    });
    Scaling {
        cpu_ns: each.iter().map(|e| e.0).sum::<f64>() / each.len() as f64,
        elapsed_ns: each.iter().map(|e| e.1).fold(0.0, f64::max),
        disorder: each.iter().map(|e| e.2).sum(),
    }
}

/// What a packet costs that one shard receives and another reads.
pub struct Hopped {
    /// Of the shard that received it.
    pub sender_ns: f64,
    /// Of the other, without the time in which it looked for packets in vain.
    pub receiver_ns: f64,
    /// Packets that came after a later one of their flow.
    pub disorder: u64,
}

/// Packets that may wait in the mailbox: the sender stops there, so that none is dropped.
const WAITING_MAX: usize = 2048;

/// Longer than this no batch takes: another thread had the processor meanwhile.
const DISTURBED_NS: u64 = 200_000;

/// Adds up what batches take.
#[derive(Default)]
struct Watch {
    ns: u64,
    packets: u64,
}

impl Watch {
    /// Times `work`, which says how many packets it was.
    fn time(&mut self, work: impl FnOnce() -> u64) -> u64 {
        let begun = clock_ns();
        let packets = work();
        let took = clock_ns().saturating_sub(begun);
        if packets > 0 && took < DISTURBED_NS {
            self.ns += took;
            self.packets += packets;
        }
        packets
    }
    fn each(&self) -> f64 {
        self.ns as f64 / self.packets.max(1) as f64
    }
}

/// The first shard receives, RPS sends everything to the second.
pub fn hop(cpus: [usize; 2], packets: u64, batch: u64) -> Hopped {
    let mesh = Mesh::new(2);
    let (seen, start, done) = (unseen(2), Barrier::new(2), AtomicBool::new(false));
    let turns = packets.div_ceil(batch);
    let warm_up = turns / 10;
    let sender = || {
        pin(&cpus[0].to_string());
        let mut end = End::new(&mesh, 0, Arc::clone(&seen));
        end.shard.set_knob("queues.rx.rps_cpus", "2").expect("a mask");
        start.wait();
        let mut watch = Watch::default();
        for turn in 0..warm_up + turns {
            while mesh.backlog_len(1) > WAITING_MAX {
                std::thread::yield_now();
            }
            if turn == warm_up {
                watch = Watch::default();
            }
            watch.time(|| {
                end.receive(batch);
                batch
            });
        }
        done.store(true, Ordering::Release);
        assert_eq!(end.read, 0, "all was sent to the other shard");
        end.check();
        watch.each()
    };
    let receiver = || {
        pin(&cpus[1].to_string());
        let mut end = End::new(&mesh, 1, Arc::clone(&seen));
        start.wait();
        let (mut watch, mut warm) = (Watch::default(), true);
        loop {
            let over = done.load(Ordering::Acquire);
            let read = watch.time(|| end.backlog(64) as u64);
            if read == 0 && over {
                break;
            }
            if read == 0 {
                std::thread::yield_now();
            }
            if warm && end.read >= warm_up * batch {
                (watch, warm) = (Watch::default(), false);
            }
        }
        assert_eq!(end.read, (warm_up + turns) * batch, "every packet was read");
        end.check();
        (watch.each(), end.disorder)
    };
    let (sender_ns, (receiver_ns, disorder)) = std::thread::scope(|scope| {
        let other = scope.spawn(receiver);
        let own = scope.spawn(sender).join().expect("a shard does not panic");
        (own, other.join().expect("a shard does not panic"))
    });
    Hopped { sender_ns, receiver_ns, disorder }
}
