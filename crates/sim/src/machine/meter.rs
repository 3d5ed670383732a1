//! What the work of a processor costs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use linerate_core::table::stage::STAGES;
use linerate_core::table::{Counter, Counts, Stage};
use linerate_dev::drive::VirtualClock;

use super::Spec;

/// Nanoseconds that things take.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// A packet in each stage, in the order of [`Stage::ALL`].
    pub stage: [f64; STAGES],
    /// A turn of the loop that had work.
    pub turn: f64,
    /// A look at a queue's ring, whatever it gives.
    pub poll: f64,
    /// To take a packet out of its socket.
    pub read: f64,
    /// More for a packet of a flow that did not come lately.
    pub miss: f64,
    /// A byte of a frame that comes off a ring.
    pub byte: f64,
    /// An interrupt, with what it takes to begin to poll.
    pub irq: f64,
    /// What the application does with a packet.
    pub app: f64,
}

impl Default for Costs {
    /// Those of the machine that this was written on (Xeon at 2.98 GHz, 64-byte frames, `bench path`),
    /// and an interrupt's as Linux's are: a microsecond.
    fn default() -> Costs {
        let mut stage = [0.0; STAGES];
        let of = [
            (Stage::Ring, 12.0),
            (Stage::Poll, 4.0),
            (Stage::Gro, 3.0),
            (Stage::Steer, 12.0),
            (Stage::Backlog, 20.0),
            (Stage::Link, 2.0),
            (Stage::Ip, 4.0),
            (Stage::Route, 2.0),
            (Stage::Demux, 6.0),
            (Stage::Transport, 6.0),
            (Stage::SockQueue, 9.0),
        ];
        of.iter().for_each(|(s, ns)| stage[*s as usize] = *ns);
        Costs {
            stage,
            turn: 450.0,
            poll: 200.0,
            read: 45.0,
            miss: 40.0,
            byte: 0.02,
            irq: 1000.0,
            app: 200.0,
        }
    }
}

impl Costs {
    /// Whether all are numbers that a machine may have.
    pub(super) fn good(&self) -> bool {
        let all = [self.turn, self.poll, self.read, self.miss, self.byte, self.irq, self.app];
        let all = self.stage.iter().chain(&all);
        all.into_iter().all(|ns| (0.0..=1e6).contains(ns))
    }

    /// What a packet in a frame of so many bytes costs from the ring to the socket of the processor whose
    /// interrupt it came by, and to its reader. What turns and looks cost comes on top.
    #[must_use]
    pub fn packet(&self, frame: usize) -> f64 {
        let path = Stage::ALL.iter().filter(|s| !matches!(s, Stage::Steer | Stage::Backlog));
        let path: f64 = path.map(|s| self.stage[*s as usize]).sum();
        path + self.byte * frame as f64 + self.read + self.app
    }
}

/// Moves a processor's clock by what its stages did: the loop's counters say how much.
#[derive(Clone)]
pub(super) struct Meter {
    costs: Arc<Costs>,
    clock: VirtualClock,
    counts: Arc<Counts>,
    /// Bytes of every frame.
    frame: f64,
    seen: Arc<Mutex<Seen>>,
    looks: Arc<[AtomicU64; 2]>,
    charged: Arc<AtomicU64>,
}

#[derive(Default)]
struct Seen {
    stage: [u64; STAGES],
    irqs: u64,
    looks: [u64; 2],
    /// Parts of a nanosecond that were not charged yet.
    rest: f64,
    /// Something was charged in this turn.
    worked: bool,
}

impl Meter {
    pub fn new(spec: &Spec, clock: VirtualClock, counts: Arc<Counts>) -> Meter {
        let (seen, looks, charged) = Default::default();
        let costs = Arc::new(spec.costs.clone());
        Meter { costs, clock, counts, frame: spec.frame as f64, seen, looks, charged }
    }

    /// A queue was looked at, and gave so many packets of flows that had not come lately.
    pub fn looked(&self, missed: u64) {
        self.looks[0].fetch_add(1, Relaxed);
        self.looks[1].fetch_add(missed, Relaxed);
    }

    /// Nanoseconds charged until now.
    pub fn charged(&self) -> u64 {
        self.charged.load(Relaxed)
    }

    /// Charges what was done since the last time.
    pub fn charge(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ns = 0.0;
        for (at, stage) in Stage::ALL.iter().enumerate() {
            let mut each = self.costs.stage[at];
            if *stage == Stage::Ring {
                each += self.costs.byte * self.frame;
            }
            if each == 0.0 {
                continue;
            }
            let flow = self.counts.flow(*stage).read();
            // What a full ring lost cost this processor nothing.
            let lost = if *stage == Stage::Ring { flow.dropped } else { 0 };
            let all = flow.entered - lost;
            ns += (all - std::mem::replace(&mut seen.stage[at], all)) as f64 * each;
        }
        let irqs = self.counts.get(Counter::IrqRx);
        ns += (irqs - std::mem::replace(&mut seen.irqs, irqs)) as f64 * self.costs.irq;
        for (at, each) in [self.costs.poll, self.costs.miss].into_iter().enumerate() {
            let all = self.looks[at].load(Relaxed);
            ns += (all - std::mem::replace(&mut seen.looks[at], all)) as f64 * each;
        }
        self.spend(&mut seen, ns);
    }

    /// Charges what it takes to read so many packets, and the application's work on them.
    pub fn charge_app(&self, packets: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.spend(&mut seen, packets as f64 * (self.costs.read + self.costs.app));
    }

    /// The loop's turn is over: what is left of its work, and the turn itself if there was any.
    pub fn turn_over(&self) {
        self.charge();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut seen.worked) {
            self.spend(&mut seen, self.costs.turn);
            seen.worked = false;
        }
    }

    fn spend(&self, seen: &mut Seen, ns: f64) {
        seen.worked |= ns > 0.0;
        let all = seen.rest + ns;
        let whole = all as u64;
        seen.rest = all - whole as f64;
        self.clock.advance(whole);
        self.charged.fetch_add(whole, Relaxed);
    }
}
