//! How delays spread around their mean: tables of quantiles, as tc gives them to the kernel.
//!
//! Linux: net/sched/sch_netem.c `tabledist`; iproute2's netem/normal.c, netem/pareto.c

/// How the delay varies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// Evenly, by the jitter at most.
    #[default]
    Uniform,
    /// A normal distribution whose standard deviation is the jitter.
    Normal,
    /// A Pareto distribution of shape 3: few packets are very late.
    Pareto,
    /// A quarter of the one and three quarters of the other.
    ParetoNormal,
}

impl Distribution {
    /// All, by tc's names.
    pub const NAMES: [(&'static str, Distribution); 4] = [
        ("uniform", Distribution::Uniform),
        ("normal", Distribution::Normal),
        ("pareto", Distribution::Pareto),
        ("paretonormal", Distribution::ParetoNormal),
    ];
    /// Its name.
    pub fn name(self) -> &'static str {
        Distribution::NAMES.iter().find(|(_, d)| *d == self).map_or("uniform", |(name, _)| name)
    }
}

/// Entries of a table.
const SIZE: usize = 4096;
/// A table's 1 (`NETEM_DIST_SCALE`).
const SCALE: f64 = 8192.0;

/// Equally likely deviations, in units of the jitter.
pub(super) struct Table(Vec<i16>);

impl Table {
    /// The table of a distribution; the even one needs none.
    pub(super) fn of(dist: Distribution) -> Option<Table> {
        let quantile: fn(f64) -> f64 = match dist {
            Distribution::Uniform => return None,
            Distribution::Normal => normal,
            Distribution::Pareto => pareto,
            Distribution::ParetoNormal => return Some(mixed()),
        };
        let at = |i: usize| quantile((i as f64 + 0.5) / SIZE as f64);
        Some(Table((0..SIZE).map(|i| scaled(at(i))).collect()))
    }
    /// The deviation that `rnd` picks, in units of `sigma`.
    pub(super) fn pick(&self, rnd: u32, sigma: i64) -> i64 {
        let t = self.0[(rnd >> 20) as usize % SIZE] as i128;
        (sigma as i128 * t / SCALE as i128) as i64
    }
}

fn scaled(x: f64) -> i16 {
    (x * SCALE).round().clamp(i16::MIN as f64, i16::MAX as f64) as i16
}

/// The quantiles among every pair of 256 quantiles of both.
fn mixed() -> Table {
    const EACH: usize = 256;
    let at = |i: usize| (i as f64 + 0.5) / EACH as f64;
    let (normal, pareto): (Vec<f64>, Vec<f64>) =
        (0..EACH).map(|i| (0.25 * normal(at(i)), 0.75 * pareto(at(i)))).unzip();
    let pairs = normal.iter().flat_map(|n| pareto.iter().map(move |p| scaled(n + p)));
    let mut all: Vec<i16> = pairs.collect();
    all.sort_unstable();
    let every = all.len() / SIZE;
    Table(all.into_iter().skip(every / 2).step_by(every).collect())
}

/// The quantile of a Pareto distribution of shape 3 with mean 0, as tc scales it.
fn pareto(u: f64) -> f64 {
    ((1.0 - u).powf(-1.0 / 3.0) - 1.5) * 4.0 / 3.0
}

/// The quantile of the standard normal distribution: the point below which a share `u` of it lies.
fn normal(u: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..20 {
        let mid = (low + high) / 2.0;
        if below(mid) < u { low = mid } else { high = mid }
    }
    (low + high) / 2.0
}

/// The share of the standard normal distribution below `x`, by the series of the error function.
fn below(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while n < 200.0 && term.abs() > 1e-9 {
        term *= x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    (0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()).clamp(0.0, 1.0)
}
