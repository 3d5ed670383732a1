//! Many pairs of runs, and what they say together.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use super::{COUNTERS, Pair, Path, Run, run};

/// One kind of path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The round trip, in milliseconds.
    pub rtt_ms: u64,
    /// Packets lost, in millionths.
    pub loss_ppm: u32,
    /// Packets that others overtake, in millionths.
    pub reorder_ppm: u32,
    /// The link, in Mbit/s.
    pub mbit: u64,
    /// Bytes that may wait before it.
    pub queue_bytes: u64,
    /// What both senders' buffers grow to, in bytes.
    pub wmem: u64,
}

impl Cell {
    /// The path of [`Path::new`].
    pub fn new(rtt_ms: u64, loss_ppm: u32, reorder_ppm: u32) -> Cell {
        let Path { rate_bps, queue_bytes, wmem, .. } = Path::new(rtt_ms, loss_ppm, reorder_ppm);
        Cell { rtt_ms, loss_ppm, reorder_ppm, mbit: rate_bps / 1_000_000, queue_bytes, wmem }
    }
    fn path(&self) -> Path {
        Path {
            rate_bps: self.mbit * 1_000_000,
            queue_bytes: self.queue_bytes,
            wmem: self.wmem,
            ..Path::new(self.rtt_ms, self.loss_ppm, self.reorder_ppm)
        }
    }
    /// All of them: round trips of 20 and 100 ms, losses of 0, 0.1, 1 and 3 %, and 1 % of the packets
    /// overtaken.
    pub fn all() -> Vec<Cell> {
        let kinds = [(0, 0), (1_000, 0), (10_000, 0), (30_000, 0), (0, 10_000)];
        let rtts = [20, 100].into_iter();
        rtts.flat_map(|rtt_ms| {
            kinds.map(|(loss_ppm, reorder_ppm)| Cell::new(rtt_ms, loss_ppm, reorder_ppm))
        })
        .collect()
    }
    /// The least share of the kernel's goodput that is good enough here: 0.9 up to 1 % of loss, 0.8 above.
    pub fn goal(&self) -> f64 {
        if self.loss_ppm > 10_000 { 0.8 } else { 0.9 }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ppm: u32| f64::from(ppm) / 1e4;
        write!(f, "{} ms, {} % lost", self.rtt_ms, percent(self.loss_ppm))?;
        match self.reorder_ppm {
            0 => Ok(()),
            ppm => write!(f, ", {} % overtaken", percent(ppm)),
        }
    }
}

/// What was measured in a cell: goodputs in bits per second, one for each seed, in the seeds' order.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where.
    pub cell: Cell,
    /// The kernel with itself.
    pub kernel: Vec<f64>,
    /// With us as the sender.
    pub sender: Vec<f64>,
    /// With us as the receiver.
    pub receiver: Vec<f64>,
    /// What the kernel's sender and ours counted, all seeds together, in the order of [`COUNTERS`].
    pub counts: [[u64; COUNTERS.len()]; 2],
}

/// The middle one, and the first and third quartile.
fn quartiles(mut all: Vec<f64>) -> [f64; 3] {
    all.sort_by(f64::total_cmp);
    [1, 2, 3].map(|n| all.get((all.len().max(1) - 1) * n / 4).copied().unwrap_or(f64::NAN))
}

impl Row {
    /// Our goodput by the kernel's, pair by pair: first quartile, median, third quartile.
    pub fn ratios(&self, ours: &[f64]) -> [f64; 3] {
        quartiles(ours.iter().zip(&self.kernel).map(|(ours, kernels)| ours / kernels).collect())
    }
    /// The smaller of the two medians, as sender and as receiver.
    pub fn worst(&self) -> f64 {
        self.ratios(&self.sender)[1].min(self.ratios(&self.receiver)[1])
    }
}

/// The heading of what a [`Row`] prints.
pub const HEAD: &str =
    "path                            kernel to kernel   linerate sends         linerate receives
                                          Mb/s    of it (quartiles)      of it (quartiles)";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = quartiles(self.kernel.clone())[1] / 1e6;
        write!(f, "{:<31} {kernel:>14.1}", self.cell.to_string())?;
        for ours in [&self.sender, &self.receiver] {
            let [low, median, high] = self.ratios(ours);
            write!(f, "    {median:.2} ({low:.2} to {high:.2})")?;
        }
        let good = if self.worst() >= self.cell.goal() { "" } else { "  below the goal" };
        f.write_str(good)
    }
}

/// A run that has ended.
type Ended = (u64, Pair, Result<Run, String>);

/// Measures a cell with each of the seeds, `jobs` pairs at a time; the runs of a pair are made at the same
/// time, so that they share the machine's troubles.
///
/// # Errors
/// As [`run`].
pub fn measure(
    cell: Cell,
    cc: &str,
    seeds: &[u64],
    time: Duration,
    jobs: usize,
) -> Result<Row, String> {
    const PAIRS: [Pair; 3] = [Pair::Kernel, Pair::Sender, Pair::Receiver];
    let path = cell.path();
    let all: Mutex<Vec<Ended>> = Mutex::default();
    for some in seeds.chunks(jobs.max(1)) {
        std::thread::scope(|scope| {
            for (seed, pair) in some.iter().flat_map(|seed| PAIRS.map(|pair| (*seed, pair))) {
                let (all, path) = (&all, &path);
                scope.spawn(move || {
                    let said = run(pair, path, cc, seed, time);
                    all.lock().expect("nobody panics with it").push((seed, pair, said));
                });
            }
        });
    }
    let mut all = all.into_inner().expect("nobody panics with it");
    all.sort_by_key(|(seed, ..)| seeds.iter().position(|s| s == seed));
    let mut row = Row {
        cell,
        kernel: Vec::new(),
        sender: Vec::new(),
        receiver: Vec::new(),
        counts: Default::default(),
    };
    for (_, pair, said) in all {
        let Run { goodput_bps: goodput, counts, .. } = said?;
        if let Some(sums) = row.counts.get_mut(pair as usize) {
            sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        }
        match pair {
            Pair::Kernel => row.kernel.push(goodput),
            Pair::Sender => row.sender.push(goodput),
            Pair::Receiver => row.receiver.push(goodput),
        }
    }
    Ok(row)
}
