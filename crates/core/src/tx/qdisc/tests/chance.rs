//! Goal: what netem leaves to chance has the distribution that it was told, not only its mean; rates are
//! exact to a thousandth in virtual time. Method: many packets, a fixed seed; counts are held against
//! their binomial deviation, shapes against chi-square over bins of known shares.

use super::*;

/// Sends `n` packets of 200 bytes, one every `gap` nanoseconds; the delay of each by its number, if it
/// arrived.
fn delays(words: &str, n: u32, gap: u64) -> Vec<Option<u64>> {
    let mut rig = Rig::new(&format!("netem limit 1000000 {words}"));
    let begun = rig.now;
    for i in 0..n {
        rig.send(200, 1, i);
        rig.pass(gap);
    }
    rig.drain();
    rig.conserved();
    let mut all = vec![None; n as usize];
    for left in &rig.left {
        all[left.mark as usize] = Some(left.at.since(begun.plus(left.mark as u64 * gap)));
    }
    all
}

/// How far `k` of `n` is from a share of `p`, in standard deviations.
fn deviations(k: usize, n: usize, p: f64) -> f64 {
    let (k, n) = (k as f64, n as f64);
    (k - n * p) / (n * p * (1.0 - p)).sqrt()
}

#[track_caller]
fn binomial(what: &str, k: usize, n: usize, p: f64) {
    let by = deviations(k, n, p);
    assert!(by.abs() < 4.0, "{what}: {k} of {n} for a share of {p}, {by:.1} deviations off");
}

/// Chi-square of what fell between the edges, against the shares below each; the last share is 1.
#[track_caller]
fn chi_square(what: &str, all: &[f64], edges: &[f64], below: &[f64]) {
    let mut counts = vec![0usize; below.len()];
    for x in all {
        counts[edges.partition_point(|edge| edge <= x)] += 1;
    }
    let mut sum = 0.0;
    let mut from = 0.0;
    for (count, to) in counts.iter().zip(below) {
        let want = (to - from) * all.len() as f64;
        assert!(want >= 5.0, "{what}: a bin of {want} can not be judged");
        sum += (*count as f64 - want).powi(2) / want;
        from = *to;
    }
    // The mean is the degrees of freedom, the deviation the root of twice those.
    let free = (below.len() - 1) as f64;
    let most = free + 4.0 * (2.0 * free).sqrt();
    assert!(sum < most, "{what}: chi-square {sum:.1} of at most {most:.1}: {counts:?}");
}

/// The standard normal distribution below `x`, by Simpson's rule.
fn phi(x: f64) -> f64 {
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let n = 200;
    let h = x / n as f64;
    let inner = |i: usize| density(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 };
    let sum = density(0.0) + density(x) + (1..n).map(inner).sum::<f64>();
    0.5 + sum * h / 3.0
}

/// A Pareto distribution of shape 3, moved and scaled as tc's table is, below `x`.
fn pareto(x: f64) -> f64 {
    if x <= -2.0 / 3.0 { 0.0 } else { 1.0 - (1.5 + 0.75 * x).powi(-3) }
}

/// A quarter of the one and three quarters of the other, below `x`.
fn paretonormal(x: f64) -> f64 {
    let n = 4000;
    let quantile = |i: usize| {
        let u = (i as f64 + 0.5) / n as f64;
        ((1.0 - u).powf(-1.0 / 3.0) - 1.5) * 4.0 / 3.0
    };
    let at = |i: usize| phi(((x - 0.75 * quantile(i)) / 0.25).clamp(-8.0, 8.0));
    (0..n).map(at).sum::<f64>() / n as f64
}

#[test]
fn netem_jitter_has_the_shape_of_its_distribution() {
    type Below = fn(f64) -> f64;
    let uniform: Below = |x| ((x + 1.0) / 2.0).clamp(0.0, 1.0);
    let cases: [(&str, Below, f64, f64); 4] = [
        ("uniform", uniform, -0.9, 0.9),
        ("normal", phi, -2.4, 2.4),
        ("pareto", pareto, -0.6, 2.4),
        ("paretonormal", paretonormal, -0.6, 2.0),
    ];
    for (name, below, low, high) in cases {
        let words = format!("delay 50ms 5ms distribution {name} seed 17");
        let all = delays(&words, 40_000, MS / 10);
        let in_jitters = |d: &Option<u64>| (d.expect("nothing is lost") as f64 / 1e6 - 50.0) / 5.0;
        let all: Vec<f64> = all.iter().map(in_jitters).collect();
        let edges: Vec<f64> = (0..=18).map(|i| low + (high - low) * i as f64 / 18.0).collect();
        let mut shares: Vec<f64> = edges.iter().map(|edge| below(*edge)).collect();
        shares.push(1.0);
        chi_square(name, &all, &edges, &shares);
    }
}

/// Which of `n` packets are lost.
fn losses(words: &str, n: u32) -> Vec<bool> {
    delays(words, n, 1000).iter().map(Option::is_none).collect()
}

/// How many were lost, and how many of those that followed one that was.
fn pairs(lost: &[bool]) -> (usize, usize) {
    let both = lost.windows(2).filter(|w| w[0] && w[1]).count();
    (lost.iter().filter(|l| **l).count(), both)
}

/// Independent losses: their share is binomial, the distance from one to the next geometric.
#[test]
fn netem_loss_is_independent() {
    for percent in [0.1, 1.0, 10.0, 50.0] {
        let p = percent / 100.0;
        let lost = losses(&format!("loss {percent}% seed 23"), 100_000);
        let (n, both) = pairs(&lost);
        binomial("loss", n, lost.len(), p);
        if percent < 1.0 {
            continue;
        }
        binomial("loss after loss", both, n, p);
        let at: Vec<usize> = (0..lost.len()).filter(|i| lost[*i]).collect();
        let gaps: Vec<f64> = at.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
        // Bins of about equal shares, between whole numbers.
        let mean = 1.0 / p;
        let mut edges: Vec<f64> =
            [0.2, 0.5, 0.8, 1.2, 1.7, 2.5].iter().map(|m| (m * mean).ceil() + 0.5).collect();
        edges.dedup();
        let mut shares: Vec<f64> =
            edges.iter().map(|e| 1.0 - (1.0 - p).powi(e.floor() as i32)).collect();
        shares.push(1.0);
        chi_square("gaps", &gaps, &edges, &shares);
    }
}

/// A chain of states: the share of losses, and of losses after losses, are those of the chain in its
/// steady state.
#[track_caller]
fn chain<const N: usize>(words: &str, step: [[f64; N]; N], loses: [f64; N]) {
    let mut steady = [1.0 / N as f64; N];
    for _ in 0..5000 {
        let into = |to: usize| (0..N).map(|from| steady[from] * step[from][to]).sum();
        steady = std::array::from_fn(into);
    }
    let share: f64 = (0..N).map(|s| steady[s] * loses[s]).sum();
    let next = |s: usize| -> f64 { (0..N).map(|t| step[s][t] * loses[t]).sum() };
    let both: f64 = (0..N).map(|s| steady[s] * loses[s] * next(s)).sum();
    let lost = losses(&format!("{words} seed 29"), 200_000);
    let (n, followed) = pairs(&lost);
    // What stays in a state for long has fewer independent draws than packets.
    let have = n as f64 / lost.len() as f64;
    assert!((have / share - 1.0).abs() < 0.05, "{words}: {have} lost for {share}");
    binomial(words, followed, n, both / share);
}

#[test]
fn netem_loss_follows_its_chain() {
    let (p, r) = (0.02, 0.25);
    let two = [[1.0 - p, p], [r, 1.0 - r]];
    chain("loss gemodel 2% 25%", two, [0.0, 1.0]);
    chain("loss gemodel 2% 25% 60% 0.5%", two, [0.005, 0.6]);
    // In order: sent in a good period, lost in a bad one, sent in a bad one, lost in a good one.
    let (p13, p31, p32, p23, p14) = (0.03, 0.2, 0.3, 0.4, 0.01);
    let four = [
        [1.0 - p13 - p14, p13, 0.0, p14],
        [p31, 1.0 - p31 - p32, p32, 0.0],
        [0.0, p23, 1.0 - p23, 0.0],
        [1.0, 0.0, 0.0, 0.0],
    ];
    chain("loss state 3% 20% 30% 40% 1%", four, [0.0, 1.0, 0.0, 1.0]);
}

/// Duplicates, damage, reordering and loss fall by their shares, and fall independently of each other.
#[test]
fn netem_chances_are_independent_of_each_other() {
    let n = 40_000;
    let mut rig =
        Rig::new("netem limit 1000000 delay 5ms loss 10% duplicate 20% corrupt 5% seed 31");
    (0..n).for_each(|i| _ = rig.send(200, 1, i));
    rig.drain();
    rig.conserved();
    let n = n as usize;
    let mut times = vec![0usize; n];
    rig.left.iter().for_each(|l| times[l.mark as usize] += 1);
    // One that is lost and was to come twice comes once.
    let of = |want: usize| times.iter().filter(|t| **t == want).count();
    binomial("never", of(0), n, 0.1 * 0.8);
    binomial("twice", of(2), n, 0.9 * 0.2);
    let damaged = rig.left.iter().filter(|l| l.damaged).count();
    // Only the first of two is damaged; a change of UDP's header is not looked for here.
    binomial("damaged", damaged, n - of(0), 0.05 * 192.0 / 200.0);

    let mut rig = Rig::new("netem limit 1000000 delay 10ms reorder 30% gap 3 seed 37");
    for i in 0..30_000 {
        rig.send(200, 1, i);
        rig.pass(MS);
    }
    let early = rig.sched.qdisc.stats().requeues as usize;
    // Two go the slow way after each, and from then on each has the chance.
    let cycle = 2.0 + 1.0 / 0.3;
    let want = 30_000.0 / cycle;
    assert!((early as f64 / want - 1.0).abs() < 0.03, "{early} for {want}");
}

/// Rates at 1, 10 and 100 Mbit/s hold to a thousandth whatever the sizes of the packets are; a delay
/// is on top to the nanosecond.
#[test]
fn rates_and_delays_are_exact_in_virtual_time() {
    for mbit in [1u64, 10, 100] {
        let specs = [
            format!("tbf rate {mbit}mbit burst 1600b limit 100m"),
            format!("netem limit 100000 rate {mbit}mbit"),
            format!("netem limit 100000 rate {mbit}mbit delay 30ms"),
        ];
        for spec in specs {
            let mut rig = Rig::new(&spec);
            let mut rng = Rng::new(mbit);
            for i in 0..4000 {
                rig.send(60 + rng.below(1440) as usize, i as u16 & 7, i);
            }
            rig.drain();
            rig.conserved();
            // Between two departures far apart, so that the bucket's first filling is behind.
            let (from, to) = (&rig.left[200], &rig.left[3999]);
            let bytes: usize = rig.left[201..=3999].iter().map(|l| l.len).sum();
            let rate = bytes as f64 * 8e9 / to.at.since(from.at) as f64;
            let want = mbit as f64 * 1e6;
            assert!((rate / want - 1.0).abs() < 0.001, "{spec}: {rate} bit/s");
        }
        // A packet that comes alone has its own time on the wire and the delay.
        let all = delays(&format!("rate {mbit}mbit delay 30ms"), 50, 100 * MS);
        let want = 30 * MS + 200 * 8 * 1000 / mbit;
        assert!(all.iter().all(|d| *d == Some(want)), "{mbit} Mbit/s: {all:?}");
    }
}
