//! The card: its queues, what arrives when, and what finds the ring full.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use linerate_core::pkt::{Batch, Pkt};
use linerate_core::rand::Rng;
use linerate_dev::device::{Caps, Counts, Device, Layer, Rings, RxCx};
use rustix::event::{EventfdFlags, eventfd};

use super::Spec;
use super::flows::{Flows, HEADERS, OWN, STAMP, address, frame};
use super::time::{Clock, ln};

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
    /// So many come at the next look, and none otherwise, whatever the rate: what that costs is measured.
    given: Option<u32>,
    /// Which flow came last of those that share a place here.
    recent: Vec<u32>,
    /// Looks of the loop, and packets given to it of flows that had not come lately.
    looks: u64,
    missed: u64,
}

/// Places of [`State::recent`]: flows that a processor's caches hold beside everything else.
const RECENT: usize = 1024;

impl State {
    /// Brings the ring to where it is now. Packets leave it only when it is polled: until then it is
    /// enough to know who came.
    fn offer(&mut self, now: u64) {
        if self.flows.is_empty() {
            return;
        }
        if let Some(given) = self.given.as_mut() {
            let given = std::mem::take(given);
            for _ in 0..given {
                self.come(now);
                // Nobody waits for it, but it is a part of what an arrival costs.
                std::hint::black_box(self.pause());
            }
            return;
        }
        // Numbers are drawn for packets alone: however often somebody looks, the same packets come.
        let mut next = match self.next {
            Some(at) => at,
            None => now as f64 + self.gap * self.rng_unit(),
        };
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
            Arrivals::Random => -ln(self.rng_unit()) * self.gap,
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
            ring: VecDeque::new(),
            room: spec.ring,
            offered: 0,
            lost: 0,
            given: None,
            recent: vec![u32::MAX; RECENT],
            looks: 0,
            missed: 0,
        };
        Ok(Source {
            state: Arc::new(Mutex::new(state)),
            irq: Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?),
            raised: false,
            number: queue as u8,
            time,
        })
    }

    /// So many packets come at the next look; from now on none come otherwise.
    pub fn give(&self, packets: u32) {
        lock(&self.state).given = Some(packets);
    }

    /// Looks of the loop so far.
    pub fn looks(&self) -> u64 {
        lock(&self.state).looks
    }

    /// Packets taken so far of flows that had not come lately.
    pub fn missed(&self) -> u64 {
        lock(&self.state).missed
    }

    /// The interrupt stays on: whoever sleeps wakes up.
    pub fn stay_raised(&self) -> io::Result<()> {
        rustix::io::write(&*self.irq, &1u64.to_ne_bytes())?;
        Ok(())
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
        let before = state.missed;
        state.looks += 1;
        let mut got = 0;
        while got < n {
            let Some(mut pkt) = cx.pool.alloc() else { break };
            let Some((came, flow)) = state.ring.pop_front() else { break };
            let (src, port, hash) = state.flows[flow as usize];
            let last = std::mem::replace(&mut state.recent[flow as usize % RECENT], flow);
            state.missed += u64::from(last != flow);
            let data = pkt.put(state.frame.len());
            data.copy_from_slice(&state.frame);
            address(data, src, port);
            data[HEADERS + STAMP.start..HEADERS + STAMP.end].copy_from_slice(&came.to_ne_bytes());
            (pkt.rx_time, pkt.dev, pkt.hash) = (cx.now, cx.dev, hash);
            out.push(pkt);
            got += 1;
        }
        self.time.looked(state.missed - before);
        Ok(got)
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
