use super::*;

/// Sends `n` packets, one every `gap` nanoseconds, and waits for all. Each is marked with its number,
/// and what comes back is the delay of each, in the order in which they left.
fn delays(rig: &mut Rig, n: u32, gap: u64) -> Vec<(u32, u64)> {
    let begun = rig.now;
    for i in 0..n {
        rig.send(200, 1, i);
        rig.pass(gap);
    }
    rig.drain();
    rig.conserved();
    let delay = |l: &Left| (l.mark, l.at.since(begun.plus(l.mark as u64 * gap)));
    rig.left.iter().map(delay).collect()
}

fn mean_and_deviation(all: &[f64]) -> (f64, f64) {
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let var = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
    (mean, var.sqrt())
}

#[test]
fn netem_delays_exactly() {
    let mut rig = Rig::new("netem delay 40ms");
    let all = delays(&mut rig, 100, MS);
    assert!(all.iter().enumerate().all(|(i, (mark, d))| i as u32 == *mark && *d == 40 * MS));
    let mut rig = Rig::new("netem limit 10 delay 40ms");
    let kept = (0..15).filter(|n| rig.send(100, 1, *n)).count();
    assert_eq!((kept, rig.drops.len()), (10, 5));
    assert!(rig.drops.iter().all(|d| d.1 == Reason::QdiscOverlimit));
}

/// Mean and deviation of each distribution: the even one has a deviation of jitter / √3, the normal one
/// of the jitter itself; those of the others follow from their quantiles, which tc's tables cut off
/// at four times the jitter.
#[test]
fn netem_jitter_has_its_distribution() {
    let cases = [
        ("", 5.0 / 3f64.sqrt(), 5.0),
        ("distribution uniform", 5.0 / 3f64.sqrt(), 5.0),
        ("distribution normal", 5.0, 20.0),
        ("distribution pareto", 4.1, 20.1),
        ("distribution paretonormal", 3.53, 20.1),
    ];
    for (words, deviation, most) in cases {
        let mut rig = Rig::new(&format!("netem limit 100000 delay 50ms 5ms {words} seed 3"));
        let all = delays(&mut rig, 20_000, MS / 10);
        assert_eq!(all.len(), 20_000);
        let ms: Vec<f64> = all.iter().map(|(_, d)| *d as f64 / 1e6).collect();
        let (mean, dev) = mean_and_deviation(&ms);
        assert!((mean - 50.0).abs() < 0.3, "{words}: a mean of {mean} ms");
        assert!((dev / deviation - 1.0).abs() < 0.12, "{words}: {dev} ms for {deviation}");
        assert!(ms.iter().all(|d| (d - 50.0).abs() <= most), "{words}");
        // Packets overtake each other, as those of tc do.
        assert!(all.windows(2).any(|w| w[0].0 > w[1].0), "{words}");
    }
}

/// Neighbours are alike with a correlation, and are not without.
#[test]
fn netem_correlation_ties_neighbours() {
    let tied = |words: &str| {
        let mut rig = Rig::new(&format!("netem limit 100000 delay 50ms 10ms {words} seed 5"));
        let mut all = delays(&mut rig, 20_000, MS);
        all.sort_unstable();
        let ms: Vec<f64> = all.iter().map(|(_, d)| *d as f64 / 1e6).collect();
        let (mean, dev) = mean_and_deviation(&ms);
        let both = ms.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>();
        both / (ms.len() - 1) as f64 / (dev * dev)
    };
    assert!(tied("").abs() < 0.03);
    let r = tied("75%");
    assert!((r - 0.75).abs() < 0.05, "{r}");
}

/// The share that each model loses, and how long its losses last.
#[test]
fn netem_loses_as_its_model_says() {
    // Of a chain: bad states take p / (p + r) of the time, 4 / (4 + 16).
    let cases = [
        ("loss 1%", 0.01, 1.01),
        ("loss random 10%", 0.1, 1.11),
        ("loss gemodel 4% 16%", 0.2, 6.25),
        ("loss gemodel 4% 16% 50% 1%", 0.1 + 0.8 * 0.01, 1.75),
        ("loss gemodel 10%", 0.1, 1.11),
        ("loss state 4% 16%", 0.2, 6.25),
        ("loss state 0% 100% 0% 100% 5%", 0.05 / 1.05, 1.0),
    ];
    for (words, share, run) in cases {
        let mut rig = Rig::new(&format!("netem {words} seed 11"));
        let n = 100_000;
        let kept: Vec<bool> = (0..n)
            .map(|i| {
                let kept = rig.send(100, 1, i);
                rig.pump();
                kept
            })
            .collect();
        let lost = kept.iter().filter(|k| !**k).count();
        assert!(rig.drops.iter().all(|d| d.1 == Reason::NetemLoss));
        let have = lost as f64 / n as f64;
        assert!((have / share - 1.0).abs() < 0.08, "{words}: {have} for {share}");
        let runs = kept.windows(2).filter(|w| w[0] && !w[1]).count() + usize::from(!kept[0]);
        let long = lost as f64 / runs as f64;
        assert!((long / run - 1.0).abs() < 0.1, "{words}: losses of {long} for {run}");
        assert_eq!(rig.sched.qdisc.stats().drops, lost as u64);
        rig.conserved();
    }
}

#[test]
fn netem_ecn_marks_what_it_would_lose() {
    let mut rig = Rig::new("netem loss 100% ecn");
    assert!(rig.send_tos(100, 1, 0, 2));
    assert!(!rig.send_tos(100, 1, 1, 0), "its sender does not understand marks");
    rig.pump();
    assert_eq!((rig.left[0].ecn, rig.left[0].damaged), (3, false));
}

#[test]
fn netem_duplicates_and_damages() {
    let mut rig = Rig::new("netem limit 100000 duplicate 10% corrupt 5% seed 2");
    for i in 0..20_000 {
        rig.send(200, 1, i);
    }
    rig.pump();
    rig.conserved();
    let twice = rig.left.len() - 20_000;
    assert!((1850..2150).contains(&twice), "{twice} of 2000 came twice");
    let damaged = rig.left.iter().filter(|l| l.damaged).count();
    // UDP's header, of which a change is not looked for, is a part of 8 in 200 bytes.
    assert!((850..1050).contains(&damaged), "{damaged} of 960 are damaged");
    let flow = rig.counts.flow(Stage::Qdisc).read();
    assert_eq!(flow.made, twice as u64);
}

/// A quarter of the packets goes at once, the others after the delay (tc-netem(8)).
#[test]
fn netem_reorders_by_letting_packets_overtake() {
    let mut rig = Rig::new("netem limit 100000 delay 10ms reorder 25% seed 4");
    let all = delays(&mut rig, 10_000, MS);
    let at_once = all.iter().filter(|(_, d)| *d == 0).count();
    assert!((2350..2650).contains(&at_once), "{at_once}");
    assert!(all.iter().all(|(_, d)| [0, 10 * MS].contains(d)));
    assert_eq!(rig.sched.qdisc.stats().requeues, at_once as u64);
    // Every fifth packet, always.
    let mut rig = Rig::new("netem delay 10ms reorder 100% gap 5");
    let mut all = delays(&mut rig, 50, MS);
    all.sort_unstable();
    let early: Vec<u32> = all.iter().filter(|(_, d)| *d == 0).map(|(mark, _)| *mark).collect();
    assert_eq!(early, (0..10).map(|n| n * 5 + 4).collect::<Vec<_>>());
}

/// The rate holds exactly, the delay comes on top, and overhead and cells count.
#[test]
fn netem_rate_holds() {
    for mbit in [1u64, 10, 100] {
        let mut rig = Rig::new(&format!("netem limit 10000 rate {mbit}mbit delay 20ms"));
        let begun = rig.now;
        (0..1000).for_each(|i| _ = rig.send(1250, 1, i));
        rig.drain();
        let last = rig.left.last().expect("packets left").at.since(begun);
        // 10000 bits each; what waits has its delay while it waits.
        let want = 1000 * 10_000 * 1000 / mbit;
        assert!(last.abs_diff(want.max(20 * MS)) < want / 50 + 20 * MS, "{last} ns for {want}");
        let gaps = rig.left.windows(2).skip(100).map(|w| w[1].at.since(w[0].at));
        assert!({ gaps }.all(|gap| gap == 10_000_000 / mbit), "packets leave at the rate");
    }
    // 100 bytes and 20 are three cells of 48, which are three of 53 on the wire.
    let mut rig = Rig::new("netem rate 8mbit 20 48 5");
    let begun = rig.now;
    rig.send(100, 1, 0);
    rig.drain();
    assert_eq!(rig.left[0].at.since(begun), 3 * 53 * 1000);
}

/// Packets leave when it is the link's turn, no more at once than a slot holds; the turns come as often
/// as they were told to.
#[test]
fn netem_slots_gather_packets() {
    let turns = |words: &str| {
        let mut rig = Rig::new(&format!("netem limit 10000 {words} seed 6"));
        let begun = rig.now;
        (0..1000).for_each(|i| _ = rig.send(500, 1, i));
        rig.drain();
        rig.conserved();
        let mut turns: Vec<(u64, usize)> = Vec::new();
        for (i, left) in rig.left.iter().enumerate() {
            assert_eq!(left.mark as usize, i, "in order");
            let at = left.at.since(begun);
            match turns.last_mut() {
                Some((last, n)) if *last == at => *n += 1,
                _ => turns.push((at, 1)),
            }
        }
        turns
    };
    let five = turns("slot 10ms packets 5");
    assert_eq!(five, (1..=200).map(|n| (n * 10 * MS, 5)).collect::<Vec<_>>());
    // The packet that goes beyond them is the last.
    let bytes = turns("slot 10ms bytes 1600");
    assert!(bytes[..249].iter().all(|(_, n)| *n == 4), "{bytes:?}");
    let gaps = |turns: &[(u64, usize)]| -> Vec<f64> {
        turns.windows(2).map(|w| (w[1].0 - w[0].0) as f64 / 1e6).collect()
    };
    let spread = gaps(&turns("slot 5ms 15ms packets 1"));
    let (mean, deviation) = mean_and_deviation(&spread);
    assert!(spread.iter().all(|gap| (5.0..=15.0).contains(gap)));
    assert!((mean - 10.0).abs() < 0.4 && (deviation - 2.89).abs() < 0.25, "{mean} {deviation}");
    let normal = gaps(&turns("slot distribution normal 10ms 1ms packets 1"));
    let (mean, deviation) = mean_and_deviation(&normal);
    assert!((mean - 10.0).abs() < 0.15 && (deviation - 1.0).abs() < 0.1, "{mean} {deviation}");
    // A delay is over before the turn comes.
    let late = turns("delay 3ms slot 10ms packets 500");
    assert_eq!(late, [(10 * MS, 500), (20 * MS, 500)]);
}

/// The same seed, the same fate; another, another.
#[test]
fn netem_chance_follows_from_the_seed() {
    let fate = |spec: &str| {
        let mut rig = Rig::new(spec);
        let all = delays(&mut rig, 500, MS);
        (all, rig.drops.len())
    };
    let words = "netem delay 10ms 5ms loss 10% duplicate 5%";
    assert_eq!(fate(&format!("{words} seed 1")), fate(&format!("{words} seed 1")));
    assert_ne!(fate(&format!("{words} seed 1")), fate(&format!("{words} seed 2")));
}

/// A discipline below gets packets when their time has come.
#[test]
fn netem_may_have_a_child() {
    let mut rig =
        Rig::new("handle 1: netem delay 10ms; parent 1:1 tbf rate 8mbit burst 1000b limit 1m");
    let begun = rig.now;
    (0..4).for_each(|i| _ = rig.send(1000, 1, i));
    rig.drain();
    let at: Vec<u64> = rig.left.iter().map(|l| l.at.since(begun) / MS).collect();
    assert_eq!(at, [10, 11, 12, 13]);
    rig.conserved();
}
