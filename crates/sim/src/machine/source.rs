//! The card: its queues, what arrives when, and what finds the ring full.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use linerate_core::pkt::{Batch, Pkt};
use linerate_core::rand::Rng;
use linerate_core::rx::steer::rss::{Rss, indir_table};
use linerate_core::wire::{ETH_P_IP, EthHdr, IPPROTO_UDP, Ipv4Hdr, Mac, UdpHdr};
use linerate_dev::device::{Caps, Counts, Device, Layer, Rings, RxCx};
use linerate_dev::drive::VirtualClock;
use rustix::event::{EventfdFlags, eventfd};

use super::meter::Meter;
use super::{ADDR, PORT, Spec};

/// When packets come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// One after the other, with the same time between them.
    Even,
    /// At random, each without regard to the others (a Poisson process).
    Random,
    /// So many at once, 1 to 65536, and then nothing for as long as they would have taken.
    Bursts(u32),
}

impl Arrivals {
    pub(super) fn good(self) -> bool {
        !matches!(self, Arrivals::Bursts(n) if !(1..=65536).contains(&n))
    }
}

const OWN: Mac = Mac([2, 0, 0, 0, 0, 2]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Bytes of all headers of a frame.
const HEADERS: usize = EthHdr::LEN + Ipv4Hdr::LEN + UdpHdr::LEN;
/// Where the time of a packet's arrival stands in its datagram.
pub(super) const STAMP: std::ops::Range<usize> = 0..8;

/// What time it is for a queue and a reader.
#[derive(Clone)]
pub(super) enum Clock {
    /// The processor's on paper, and what moves it.
    Virtual(VirtualClock, Meter),
    /// The time that this thread had a processor.
    Thread,
}

impl Clock {
    pub fn now(&self) -> u64 {
        match self {
            Clock::Virtual(clock, _) => clock.now(),
            Clock::Thread => thread_ns(),
        }
    }
    /// What was done until now has cost what it does.
    fn charge(&self) {
        if let Clock::Virtual(_, meter) = self {
            meter.charge();
        }
    }
}

/// Nanoseconds that this thread had a processor.
pub(super) fn thread_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The flows, and which queue each of them comes by.
pub(super) struct Flows {
    /// For each queue: source address, port and hash of its flows.
    by_queue: Vec<Vec<(u32, u16, u32)>>,
    all: usize,
}

impl Flows {
    pub fn new(spec: &Spec) -> Flows {
        let rss = Rss { indir: indir_table(&[], spec.queues), ..Rss::default() };
        let hasher = rss.hasher();
        let mut by_queue = vec![Vec::new(); spec.queues];
        let mut frame = frame(spec.frame);
        for n in 0..spec.flows {
            // Other hosts of a /16, and ports: no two flows alike.
            let addr = u32::from(Ipv4Addr::new(10, 9, 1, 0)) + (n % 60_000) as u32;
            let port = 1024 + (n / 60_000) as u16;
            address(&mut frame, addr, port);
            let hash = hasher.of_frame(&frame, true);
            by_queue[rss.queue_of(hash) as usize].push((addr, port, hash));
        }
        Flows { by_queue, all: spec.flows }
    }
}

/// A datagram for the readers, from nobody yet; UDP without a checksum, as IPv4 allows.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; len];
    EthHdr { dst: OWN, src: PEER, ethertype: ETH_P_IP }.emit(&mut frame);
    let udp = UdpHdr {
        src_port: 0,
        dst_port: PORT,
        len: (len - EthHdr::LEN - Ipv4Hdr::LEN) as u16,
        csum: 0,
    };
    udp.emit(&mut frame[EthHdr::LEN + Ipv4Hdr::LEN..]);
    frame
}

/// Says from whom a frame is.
fn address(frame: &mut [u8], src: u32, port: u16) {
    let ip = Ipv4Hdr {
        ihl_bytes: Ipv4Hdr::LEN,
        tos: 0,
        total_len: (frame.len() - EthHdr::LEN) as u16,
        id: 0,
        df: true,
        mf: false,
        frag_off_bytes: 0,
        ttl: 64,
        proto: IPPROTO_UDP,
        csum: 0,
        src: Ipv4Addr::from(src),
        dst: ADDR,
    };
    ip.emit(&mut frame[EthHdr::LEN..]);
    let at = EthHdr::LEN + Ipv4Hdr::LEN;
    frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
}

/// What a queue holds and expects.
struct State {
    frame: Vec<u8>,
    flows: Vec<(u32, u16, u32)>,
    arrivals: Arrivals,
    /// Nanoseconds between two packets, on average; infinite where none come.
    gap: f64,
    /// When the next one comes; none before the clock was first looked at.
    next: Option<f64>,
    /// Packets of this burst that have not come yet.
    burst: u32,
    rng: Rng,
    /// When each that waits came, and which flow it is of.
    ring: VecDeque<(u64, u32)>,
    room: usize,
    offered: u64,
    lost: u64,
    /// It is kept full, whatever the rate: what it could be at the most is measured.
    brim: bool,
}

impl State {
    /// Brings the ring to where it is now. Packets leave it only when it is polled: until then it is
    /// enough to know who came.
    fn offer(&mut self, now: u64) {
        if self.brim {
            while self.ring.len() < self.room && !self.flows.is_empty() {
                self.come(now);
            }
            return;
        }
        if self.flows.is_empty() {
            return;
        }
        let mut next = self.next.unwrap_or(now as f64 + self.gap * self.rng_unit());
        while next <= now as f64 {
            self.come(next as u64);
            next += self.pause();
        }
        self.next = Some(next);
    }

    fn come(&mut self, at: u64) {
        self.offered += 1;
        if self.ring.len() >= self.room {
            self.lost += 1;
            return;
        }
        let flow = self.rng.below(self.flows.len() as u64) as u32;
        self.ring.push_back((at, flow));
    }

    /// A number from 0 to 1, never 0.
    fn rng_unit(&mut self) -> f64 {
        ((self.rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn pause(&mut self) -> f64 {
        match self.arrivals {
            Arrivals::Even => self.gap,
            Arrivals::Random => -self.rng_unit().ln() * self.gap,
            Arrivals::Bursts(n) => {
                if self.burst == 0 {
                    self.burst = n;
                }
                self.burst -= 1;
                if self.burst == 0 { self.gap * f64::from(n) } else { 0.0 }
            }
        }
    }
}

/// A queue of the card, as the machine sees it.
pub(super) struct Source {
    state: Arc<Mutex<State>>,
    irq: Arc<OwnedFd>,
    /// The interrupt is on.
    raised: bool,
    number: u8,
    time: Clock,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    pub fn new(spec: &Spec, flows: &Flows, queue: usize, time: Clock) -> io::Result<Source> {
        let mine = flows.by_queue[queue].clone();
        let share = mine.len() as f64 / flows.all as f64;
        let gap = 1e9 / (spec.pps * share);
        Source::with(spec, mine, gap, queue, time)
    }

    /// One that nothing comes by.
    pub fn silent(spec: &Spec, queue: usize, time: Clock) -> io::Result<Source> {
        Source::with(spec, Vec::new(), f64::INFINITY, queue, time)
    }

    fn with(
        spec: &Spec,
        flows: Vec<(u32, u16, u32)>,
        gap: f64,
        queue: usize,
        time: Clock,
    ) -> io::Result<Source> {
        let state = State {
            frame: frame(spec.frame),
            flows,
            arrivals: spec.arrivals,
            gap,
            next: None,
            burst: 0,
            rng: Rng::new(spec.seed ^ (queue as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ring: VecDeque::with_capacity(spec.ring),
            room: spec.ring,
            offered: 0,
            lost: 0,
            brim: false,
        };
        Ok(Source {
            state: Arc::new(Mutex::new(state)),
            irq: Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?),
            raised: false,
            number: queue as u8,
            time,
        })
    }

    /// From now on there is always a packet more.
    pub fn keep_full(&self) {
        lock(&self.state).brim = true;
    }

    /// The queue as a loop drives it.
    pub fn queue(&self) -> Queue {
        Queue {
            name: "eth0",
            state: Arc::clone(&self.state),
            irq: Arc::clone(&self.irq),
            number: self.number,
            time: self.time.clone(),
        }
    }

    /// Raises the interrupt if something waits; returns when something does at the latest.
    pub fn tell(&mut self, now: u64) -> io::Result<u64> {
        let mut state = lock(&self.state);
        state.offer(now);
        let waits = !state.ring.is_empty();
        if waits != self.raised {
            self.raised = waits;
            let mut eight = [0; 8];
            match waits {
                true => drop(rustix::io::write(&*self.irq, &1u64.to_ne_bytes())?),
                false => drop(rustix::io::read(&*self.irq, &mut eight)?),
            }
        }
        Ok(if waits { now } else { state.next.map_or(u64::MAX, |at| at.ceil() as u64) })
    }

    /// Packets that came, those lost among them.
    pub fn offered(&self) -> u64 {
        lock(&self.state).offered
    }
}

/// The loop's end of a queue.
pub(super) struct Queue {
    name: &'static str,
    state: Arc<Mutex<State>>,
    irq: Arc<OwnedFd>,
    number: u8,
    time: Clock,
}

impl Device for Queue {
    fn name(&self) -> &str {
        self.name
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

    fn queue(&self) -> u8 {
        self.number
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        // What the stages did with the burst before took its time: more has come meanwhile.
        self.time.charge();
        let mut state = lock(&self.state);
        state.offer(self.time.now());
        let n = state.ring.len().min(budget);
        for i in 0..n {
            let Some(mut pkt) = cx.pool.alloc() else { return Ok(i) };
            let Some((came, flow)) = state.ring.pop_front() else { break };
            let (src, port, hash) = state.flows[flow as usize];
            let data = pkt.put(state.frame.len());
            data.copy_from_slice(&state.frame);
            address(data, src, port);
            data[HEADERS + STAMP.start..HEADERS + STAMP.end].copy_from_slice(&came.to_ne_bytes());
            (pkt.rx_time, pkt.dev, pkt.hash) = (cx.now, cx.dev, hash);
            out.push(pkt);
        }
        Ok(n)
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

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.irq.as_fd())
    }

    fn rx_pending(&self) -> Option<usize> {
        Some(lock(&self.state).ring.len())
    }

    fn rings(&self) -> Rings {
        let rx = lock(&self.state).room as u32;
        Rings { rx, rx_max: rx, ..Rings::default() }
    }

    fn counts(&self) -> Counts {
        Counts { overflow: lock(&self.state).lost, ..Counts::default() }
    }
}
