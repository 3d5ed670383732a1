//! What a packet costs over the card in memory: one thread that sends and receives, and two.
//!
//! One thread is measured in its own processor time, which others on the machine hardly disturb;
//! two in the time of day: they need two processors for themselves.
//!
//! `cargo run --release -p linerate-dev --example mem_rate [SECONDS]`

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use linerate_core::pkt::{Batch, Pool};
use linerate_core::time::Instant;
use linerate_dev::device::{Device, RxCx};
use linerate_dev::mem::nic::{Config, nic};
use linerate_dev::mem::{self, MemQueue};

/// A sender with its pool.
struct Tx<D> {
    dev: D,
    pool: Pool,
    ring: VecDeque<linerate_core::pkt::Pkt>,
    done: Vec<(linerate_core::pkt::Pkt, bool)>,
}

impl<D: Device> Tx<D> {
    fn new(dev: D) -> Tx<D> {
        Tx { dev, pool: Pool::new(8192, 0), ring: VecDeque::new(), done: Vec::new() }
    }

    /// Sends a batch of minimal frames; returns how many left.
    fn burst(&mut self, batch: usize) -> usize {
        while self.ring.len() < batch {
            let Some(mut pkt) = self.pool.alloc() else { break };
            // A frame of 64 bytes: the header says that it is UDP over IPv4.
            let frame = pkt.put(60);
            frame[12..15].copy_from_slice(&[8, 0, 0x45]);
            frame[23] = 17;
            pkt.network = pkt.data_offset() + 14;
            self.ring.push_back(pkt);
        }
        let sent = self.dev.tx_burst(&mut self.ring, &mut self.done).expect("it is there");
        self.dev.tx_complete(&mut self.done);
        self.done.drain(..).for_each(|(pkt, _)| self.pool.free(pkt));
        sent
    }
}

/// A receiver with its pool.
struct Rx<D> {
    dev: D,
    pool: Pool,
    batch: Batch,
}

impl<D: Device> Rx<D> {
    fn new(dev: D) -> Rx<D> {
        Rx { dev, pool: Pool::new(8192, 0), batch: Batch::new() }
    }

    fn burst(&mut self, batch: usize) -> usize {
        let mut dropped = Vec::new();
        let now = Instant::ZERO;
        let mut cx = RxCx { pool: &mut self.pool, now, dev: 0, dropped: &mut dropped };
        let got = self.dev.rx_burst(&mut cx, &mut self.batch, batch).expect("it is there");
        self.batch.now.drain(..).for_each(|pkt| self.pool.free(pkt));
        self.dev.rx_done();
        got
    }
}

/// Nanoseconds a packet, sent and received in turn by one thread.
fn one_thread<D: Device>(ends: (D, D), batch: usize, time: Duration) -> f64 {
    let (mut tx, mut rx) = (Tx::new(ends.0), Rx::new(ends.1));
    let (begun, before, mut packets) = (Clock::now(), cpu_ns(), 0);
    while begun.elapsed() < time {
        for _ in 0..1024 {
            tx.burst(batch);
            packets += rx.burst(batch);
        }
    }
    (cpu_ns() - before) as f64 / packets as f64
}

/// Nanoseconds that this thread has run (Documentation/scheduler/sched-stats.rst).
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Nanoseconds a packet from one thread to another, both of which look all the time.
fn two_threads<D: Device>(ends: (D, D), batch: usize, time: Duration) -> f64 {
    let (mut tx, mut rx) = (Tx::new(ends.0), Rx::new(ends.1));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if tx.burst(batch) == 0 {
                    std::hint::spin_loop();
                }
            }
        });
        while rx.burst(batch) == 0 {}
        let (begun, mut packets) = (Clock::now(), 0);
        while begun.elapsed() < time {
            (0..64).for_each(|_| packets += rx.burst(batch));
        }
        let ns = begun.elapsed().as_nanos() as f64 / packets as f64;
        stop.store(true, Ordering::Relaxed);
        ns
    })
}

fn card(queues: usize) -> (MemQueue, MemQueue) {
    let (near, far) = nic(Config { queues, ..Config::default() }).expect("descriptors");
    if queues > 1 {
        // The hash is computed, and all goes to one queue.
        let mut rss = far.rss();
        rss.indir = [0; 128];
        far.set_rss(&rss);
    }
    (near.open(0).expect("it is free"), far.open(0).expect("it is free"))
}

fn wire() -> (mem::Mem, mem::Mem) {
    mem::pair(mem::Config::default()).expect("descriptors")
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0.5);
    let time = Duration::from_secs_f64(seconds);
    println!("ns per packet of 64 bytes          batch 1   32   256");
    let row = |name: &str, ns: [f64; 3]| {
        println!("{name:32} {:8.1} {:6.1} {:6.1}", ns[0], ns[1], ns[2]);
    };
    let batches = [1, 32, 256];
    row("card, one thread", batches.map(|b| one_thread(card(1), b, time)));
    row("card, one thread, hashed", batches.map(|b| one_thread(card(2), b, time)));
    row("card, two threads", batches.map(|b| two_threads(card(1), b, time)));
    row("wire (copies), one thread", batches.map(|b| one_thread(wire(), b, time)));
    row("wire (copies), two threads", batches.map(|b| two_threads(wire(), b, time)));
}
