//! The generator, the loop that it overloads, and what is counted.
//!
//! What is offered follows from the processor time that the loop has had: whatever else the machine
//! does, a second of the loop's own meets so many packets, and the generator has no limit of its
//! own. With `--generator` a thread on another processor generates in real time instead.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use linerate_core::pkt::{Batch, Pkt};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::Stage;
use linerate_core::udp::api::UdpBind;
use linerate_dev::device::{Caps, Counts, Device, Layer, RxCx};
use linerate_dev::drive::{App, Drive};
use linerate_dev::poller::{Event, Poller};

use crate::bench::path::case::{chain, cpu_ns};
use crate::bench::path::stack::{self, LOCAL, OWN};

/// Slots of the ring.
pub const RING: usize = 1024;
/// Datagrams that a bounded turn of the application takes.
const TURN: usize = 64;

/// The reader's port.
const PORT: u16 = 9;

/// Which loop is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Receiving has priority.
    Naive,
    /// Budgets.
    Quota,
    /// Budgets and feedback.
    Full,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Naive, Mode::Quota, Mode::Full];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Naive => "naive",
            Mode::Quota => "quota",
            Mode::Full => "full",
        }
    }
    /// What stands for it in the picture.
    pub fn mark(self) -> char {
        match self {
            Mode::Naive => 'n',
            Mode::Quota => 'q',
            Mode::Full => 'F',
        }
    }
}

/// One load and what became of it, in packets per second.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub offered: f64,
    pub delivered: f64,
    pub lost_ring: f64,
    pub lost_queue: f64,
}

/// What does not change from point to point.
pub struct Bench {
    pub time: Duration,
    pub rounds: u32,
    /// Steps of work on a datagram: [`calibrate`].
    pub work: u64,
    /// The processor of a generator's thread, if there is to be one.
    pub generator: Option<usize>,
}

/// Binds this thread to a processor.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|err| {
        let text = format!("processor {cpu} can not be used ({err}): choose others with --pin");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

/// How many steps of [`chain`], which stand for what an application does with a datagram, last `ns` nanoseconds.
pub fn calibrate(ns: u64) -> u64 {
    const N: u64 = 1_000_000;
    let least = (0..5).map(|_| {
        let begun = cpu_ns();
        chain(N);
        cpu_ns() - begun
    });
    let least = least.min().unwrap_or(1).max(1);
    ns * N / least
}

/// The ring between generator and loop: it has one writer and one reader, and each moves its own
/// counter.
struct Wire {
    /// When each packet was put in: it makes the slot's cache line travel, as a packet would.
    slots: Box<[AtomicU64]>,
    put: Apart,
    taken: Apart,
    lost: Apart,
    stop: AtomicBool,
}

/// On a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Apart(AtomicU64);

impl Wire {
    fn new() -> Wire {
        let slots = std::iter::repeat_with(|| AtomicU64::new(0)).take(RING).collect();
        let (put, taken, lost) = Default::default();
        Wire { slots, put, taken, lost, stop: AtomicBool::new(false) }
    }

    /// Brings the ring to where it is after `ns` nanoseconds of `pps` packets a second;
    /// [`f64::INFINITY`]: it is kept full.
    fn offer(&self, ns: u64, pps: f64) {
        let put = self.put.0.load(Ordering::Relaxed);
        let lost = self.lost.0.load(Ordering::Relaxed);
        let room = RING as u64 - (put - self.taken.0.load(Ordering::Acquire));
        let due = match pps.is_finite() {
            true => ((ns as f64 * pps / 1e9) as u64).saturating_sub(put + lost),
            false => room,
        };
        let fits = due.min(room);
        for i in 0..fits {
            self.slots[((put + i) % RING as u64) as usize].store(ns, Ordering::Relaxed);
        }
        self.put.0.store(put + fits, Ordering::Release);
        self.lost.0.store(lost + due - fits, Ordering::Relaxed);
    }

    /// A generator's thread: offers until told to stop.
    fn generate(&self, pps: f64) {
        let begun = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            self.offer(begun.elapsed().as_nanos() as u64, pps);
            std::hint::spin_loop();
        }
    }
}

/// The loop's end of the ring.
struct Flood {
    wire: Arc<Wire>,
    frame: Vec<u8>,
    /// Packets a second of the loop's processor time since then; none where a thread generates.
    own: Option<(f64, u64)>,
}

impl Device for Flood {
    fn name(&self) -> &str {
        "flood0"
    }

    fn caps(&self) -> Caps {
        Caps {
            layer: Layer::Ethernet,
            mtu: 1500,
            mac: Some(OWN.0),
            rx_offload: false,
            tx_csum: false,
            tso: false,
            uso: false,
            gso_bytes_max: 0,
        }
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        if let Some((pps, begun)) = self.own {
            self.wire.offer(cpu_ns() - begun, pps);
        }
        let taken = self.wire.taken.0.load(Ordering::Relaxed);
        let put = self.wire.put.0.load(Ordering::Acquire);
        let n = (put - taken).min(budget as u64);
        for i in 0..n {
            let stamp =
                self.wire.slots[((taken + i) % RING as u64) as usize].load(Ordering::Relaxed);
            let Some(mut pkt) = cx.pool.alloc() else { return Ok(i as usize) };
            let data = pkt.put(self.frame.len());
            data.copy_from_slice(&self.frame);
            std::hint::black_box(stamp);
            pkt.rx_time = cx.now;
            pkt.dev = cx.dev;
            out.push(pkt);
            self.wire.taken.0.store(taken + i + 1, Ordering::Release);
        }
        Ok(n as usize)
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        let n = ring.len();
        done.extend(ring.drain(..).map(|pkt| (pkt, true)));
        Ok(n)
    }

    /// The loop polls busily.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }
}

/// Reads datagrams and works on them.
struct Reader {
    sock: SocketId,
    steps: u64,
    most: usize,
    delivered: u64,
}

impl App for Reader {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while shard.poll_event().is_some() {}
        for _ in 0..self.most {
            let Some(datagram) = shard.udp_recv(self.sock) else { return Ok(false) };
            std::hint::black_box(datagram.slices().next().and_then(|s| s.first()));
            shard.udp_done(datagram);
            chain(self.steps);
            self.delivered += 1;
        }
        Ok(true)
    }
}

/// Everything that was counted until now.
#[derive(Clone, Copy)]
struct Total {
    at: u64,
    put: u64,
    lost: u64,
    queue: u64,
    delivered: u64,
}

impl Bench {
    /// What the full loop delivers when there is always something in the ring, but nothing is lost
    /// for want of readers: the most that it can.
    pub fn capacity(&self) -> io::Result<f64> {
        let best = (0..self.rounds).map(|_| Ok(self.once(Mode::Full, f64::INFINITY)?.delivered));
        let mut all = best.collect::<io::Result<Vec<f64>>>()?;
        all.sort_by(f64::total_cmp);
        Ok(all[all.len() / 2])
    }

    /// The median round of a mode at a load.
    pub fn point(&self, mode: Mode, pps: f64) -> io::Result<Point> {
        let rounds = (0..self.rounds).map(|_| self.once(mode, pps));
        let mut rounds = rounds.collect::<io::Result<Vec<Point>>>()?;
        rounds.sort_by(|a, b| a.delivered.total_cmp(&b.delivered));
        Ok(rounds[rounds.len() / 2])
    }

    fn once(&self, mode: Mode, pps: f64) -> io::Result<Point> {
        let wire = Arc::new(Wire::new());
        let own = self.generator.is_none().then(|| (pps, cpu_ns()));
        let (mut drive, mut app) = overloaded(mode, &wire, own, self.work)?;
        let Some(cpu) = self.generator else { return self.measure(&mut drive, &mut app, &wire) };
        std::thread::scope(|scope| {
            let generator = scope.spawn(|| {
                pin(cpu)?;
                wire.generate(pps);
                Ok(())
            });
            let run = self.measure(&mut drive, &mut app, &wire);
            wire.stop.store(true, Ordering::Relaxed);
            let generated: io::Result<()> = generator.join().expect("the generator ends");
            generated.and(run)
        })
    }

    /// Nanoseconds of the time that rates are of: the loop's own, or everybody's.
    fn clock(&self) -> u64 {
        match self.generator {
            None => cpu_ns(),
            Some(_) => linerate_dev::drive::clock_ns(),
        }
    }

    fn measure(&self, drive: &mut Drive, app: &mut Reader, wire: &Wire) -> io::Result<Point> {
        let total = |drive: &Drive, app: &Reader| Total {
            at: self.clock(),
            put: wire.put.0.load(Ordering::Relaxed),
            lost: wire.lost.0.load(Ordering::Relaxed),
            queue: drive.shard.net.counts.flow(Stage::SockQueue).read().dropped,
            delivered: app.delivered,
        };
        self.run_for(self.time / 5, drive, app)?;
        let before = total(drive, app);
        self.run_for(self.time, drive, app)?;
        let after = total(drive, app);
        let secs = (after.at - before.at) as f64 / 1e9;
        let rate = |of: fn(&Total) -> u64| (of(&after) - of(&before)) as f64 / secs;
        Ok(Point {
            offered: rate(|t| t.put + t.lost),
            delivered: rate(|t| t.delivered),
            lost_ring: rate(|t| t.lost),
            lost_queue: rate(|t| t.queue),
        })
    }

    fn run_for(&self, time: Duration, drive: &mut Drive, app: &mut Reader) -> io::Result<()> {
        let begun = self.clock();
        while self.clock() - begun < time.as_nanos() as u64 {
            drive.turn(app)?;
        }
        Ok(())
    }
}

/// A loop of the mode on the wire, and its application.
fn overloaded(
    mode: Mode,
    wire: &Arc<Wire>,
    own: Option<(f64, u64)>,
    steps: u64,
) -> io::Result<(Drive, Reader)> {
    let mut drive = Drive::new(Shard::new(1))?;
    let flood = Flood { wire: Arc::clone(wire), frame: frame(), own };
    let dev = drive.add_device(Box::new(flood), |_| {})?;
    let shard = &mut drive.shard;
    shard.add_addr(dev, IpAddr::V4(LOCAL), 24).expect("a new device takes any address");
    let sock =
        shard.udp_bind(UdpBind { port: PORT, ..UdpBind::default() }).expect("the port is free");
    let mut knobs = vec![("net.core.busy_poll", "1000000")];
    if mode == Mode::Naive {
        // A pass ends when the ring is empty, and hardly ever else.
        knobs.extend([("net.core.netdev_budget", "1000000")]);
        knobs.extend([("net.core.netdev_budget_usecs", "10000000")]);
    }
    for (knob, value) in knobs {
        shard.set_knob(knob, value).expect("in range");
    }
    drive.set_feedback(mode == Mode::Full);
    let most = if mode == Mode::Naive { usize::MAX } else { TURN };
    Ok((drive, Reader { sock, steps, most, delivered: 0 }))
}

/// A datagram of 18 bytes in the smallest frame, for the reader.
fn frame() -> Vec<u8> {
    let mut frame = stack::frame(18);
    stack::redirect(&mut frame, LOCAL, PORT);
    frame
}
