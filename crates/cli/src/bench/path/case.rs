//! What a case is, and the clocks that measure it.

use std::io::Write;

use linerate_core::shard::Shard;
use linerate_core::table::Stage;

/// What is known of a case before it runs.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is done, with what, how many at a time.
    pub name: String,
    /// Whose work it is.
    pub who: &'static str,
    /// Nanoseconds a packet that it is meant to take at most.
    pub target_ns: Option<f64>,
    /// It takes one packet where others take so many, because each takes long.
    pub slower: u64,
}

impl Row {
    /// A case of ours without a target.
    pub fn new(name: impl Into<String>) -> Row {
        Row { name: name.into(), who: "linerate", target_ns: None, slower: 1 }
    }
    /// It is meant to take at most `ns`.
    #[must_use]
    pub fn target(mut self, ns: f64) -> Row {
        self.target_ns = Some(ns);
        self
    }
    /// It is a peer's work.
    #[must_use]
    pub fn of(mut self, who: &'static str) -> Row {
        self.who = who;
        self
    }
    /// It takes fewer packets.
    #[must_use]
    pub fn slower(mut self, times: u64) -> Row {
        self.slower = times.max(1);
        self
    }
}

/// Processor time of each of at least `packets` packets, in nanoseconds, of which every `turn` takes
/// `size`; and how many those were.
#[inline]
pub fn timed(packets: u64, size: u64, mut turn: impl FnMut()) -> (f64, u64) {
    let turns = packets.div_ceil(size);
    let begun = cpu_ns();
    (0..turns).for_each(|_| turn());
    let all = turns * size;
    ((cpu_ns() - begun) as f64 / all as f64, all)
}

/// Something whose cost a packet is measured.
pub trait Case {
    /// What it is.
    fn row(&self) -> &Row;
    /// Does it to about so many packets; the nanoseconds of processor time that each took. `None` =
    /// it can not be done here.
    fn round(&mut self, packets: u64) -> Option<f64>;
    /// What its parts take, in nanoseconds a packet, and why it could not be done if it could not.
    fn parts(&mut self) -> Parts {
        Parts::default()
    }
}

/// A case that is not made yet.
pub type Maker = (Row, Box<dyn FnOnce(Row) -> Box<dyn Case>>);

/// What a case has to say beside its figure.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Parts of the way with their nanoseconds a packet.
    pub ns: Vec<(String, f64)>,
    /// A remark: what was not there, or what else was measured.
    pub note: Option<String>,
}

/// A case that ran.
pub struct Measured {
    /// What it is.
    pub row: Row,
    /// Nanoseconds a packet of each round, ascending.
    pub ns: Vec<f64>,
    /// What it has to say beside.
    pub parts: Parts,
}

impl Measured {
    /// Of the rounds in any order.
    pub fn new(row: Row, mut ns: Vec<f64>, parts: Parts) -> Measured {
        ns.sort_by(f64::total_cmp);
        Measured { row, ns, parts }
    }
    /// The middle round; `None` if there was none.
    pub fn median(&self) -> Option<f64> {
        self.ns.get(self.ns.len() / 2).copied()
    }
}

/// What is done now, on one line that the next is written over; that nobody listens any more is no reason to stop.
pub fn progress(text: &str) {
    let mut err = std::io::stderr();
    let _ = write!(err, "\r{text}\x1b[K");
    let _ = err.flush();
}

/// Pins this thread to the processor; `None` if it is not one.
pub fn pin(cpu: &str) -> Option<usize> {
    let cpu = cpu.parse().ok()?;
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).ok().map(|()| cpu)
}

/// Nanoseconds of processor time of this thread: what others on the machine take is not counted.
pub fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Steps that each need the one before: a multiplication and an `or`.
pub fn chain(steps: u64) {
    let mut x = std::hint::black_box(0x9e37_79b9_7f4a_7c15u64);
    for _ in 0..steps {
        x = x.wrapping_mul(x | 1);
    }
    std::hint::black_box(x);
}

/// The clock that this core really runs at, in GHz: a [`chain`] of dependent multiplications, of which
/// each takes three cycles on every x86-64 of the last fifteen years, and one for the `or`.
pub fn calibrate() -> f64 {
    const N: u64 = 5_000_000;
    let mut best = 0f64;
    for _ in 0..5 {
        let begun = cpu_ns();
        chain(N);
        best = best.max((N * 4) as f64 / (cpu_ns() - begun) as f64);
    }
    best
}

/// What asking the stages' clock twice takes, in nanoseconds: it is inside what they measure.
pub fn clock_cost() -> f64 {
    const N: u32 = 1000;
    let once = |_| {
        let begun = cpu_ns();
        for _ in 0..N {
            std::hint::black_box(linerate_dev::drive::clock_ns());
        }
        (cpu_ns() - begun) as f64 / f64::from(N)
    };
    // Whatever disturbs makes it more.
    (0..20).map(once).fold(f64::INFINITY, f64::min)
}

/// What each stage takes while `turn`, which moves `size` packets, is repeated: the median over many
/// short stretches, so that what others on the machine take falls out; the clock's own cost is taken
/// off.
pub fn stages<T>(
    it: &mut T,
    size: u64,
    shard: impl Fn(&mut T) -> &mut Shard,
    mut turn: impl FnMut(&mut T, u64),
) -> Vec<(String, f64)> {
    const STRETCHES: usize = 41;
    let turns = (20_000 / size).clamp(61 * 5, 61 * 40);
    let cost = clock_cost();
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); Stage::ALL.len()];
    shard(it).net.clock = Some(linerate_dev::drive::clock_ns);
    let read = |shard: &Shard| -> Vec<_> {
        Stage::ALL.iter().map(|s| shard.net.counts.flow(*s).read()).collect()
    };
    for _ in 0..STRETCHES {
        let before = read(shard(it));
        for n in 0..turns {
            turn(it, n);
        }
        let after = read(shard(it));
        for ((stage, after), before) in all.iter_mut().zip(&after).zip(&before) {
            let pkts = after.ns_pkts - before.ns_pkts;
            if pkts > 0 {
                let ns = (after.ns - before.ns) as f64 / pkts as f64;
                stage.push((ns - cost / size as f64).max(0.0));
            }
        }
    }
    shard(it).net.clock = None;
    let median = |ns: &mut Vec<f64>| {
        ns.sort_by(f64::total_cmp);
        ns.get(ns.len() / 2).copied()
    };
    let stages = Stage::ALL.iter().zip(&mut all);
    stages.filter_map(|(stage, ns)| Some((stage.name().to_owned(), median(ns)?))).collect()
}
