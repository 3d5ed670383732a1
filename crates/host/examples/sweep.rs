//! What it costs to read this host: `cargo run --release -p linerate-host --example sweep [SWEEPS]`.
//!
//! Processor time of the thread, not time on the clock: what else runs here does not count.

use linerate_host::collect::{Collector, Tier};
use linerate_host::source::Live;
use rustix::time::{ClockId, clock_gettime};

fn cpu_us() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

fn main() {
    let sweeps = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200_usize).max(1);
    for tier in [Tier::Basic, Tier::Full] {
        let (mut collector, mut live) = (Collector::new(tier), Live::new());
        let mut times: Vec<f64> = (0..sweeps)
            .map(|_| {
                let before = cpu_us();
                let snapshot = collector.collect(&mut live);
                let after = cpu_us();
                drop(snapshot);
                after - before
            })
            .collect();
        let first = times[0];
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((sweeps - 1) as f64 * share) as usize];
        println!(
            "{tier:?}: median {:.0} us, 90 % {:.0} us, first {first:.0} us of processor time",
            at(0.5),
            at(0.9)
        );
    }
}
