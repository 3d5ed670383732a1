//! BBR over paths where what it is for shows.

use crate::{Case, ONE, Seen, run};

const BBR: Case<'static> = Case { flows: &["bbr"], secs: (20, 5), ..ONE };

/// What is seen, told for whoever looks (`--nocapture`).
fn see(case: &Case<'_>) -> Seen {
    let seen = run(*case);
    let Case { rate, rtt, buffer_ms, loss_ppm, flows, .. } = case;
    println!(
        "{flows:?} {rate} Mbit/s {rtt} ms, buffer {buffer_ms} ms, loss {loss_ppm} ppm: used {:.3}, \
         {:.2?} Mbit/s, fairness {:.3}, queue {:.1} / {:.1} ms, again {}, marked {}",
        seen.used(case),
        seen.rates,
        seen.fairness(),
        seen.queue(0.5),
        seen.queue(0.95),
        seen.again,
        seen.marked
    );
    seen
}

/// A path that loses one packet in a hundred by chance: BBR fills it, where CUBIC takes the losses for
/// congestion.
#[test]
fn bbr_fills_a_lossy_path() {
    let lossy = Case { loss_ppm: 10_000, ..BBR };
    for (rate, rtt) in [(10, 20), (10, 50), (10, 100), (100, 20), (100, 50), (100, 100)] {
        let used: f64 = (1..=2)
            .map(|seed| {
                let case = Case { rate, rtt, seed, ..lossy };
                see(&case).used(&case)
            })
            .sum();
        assert!(used / 2.0 >= 0.9, "{rate} Mbit/s {rtt} ms: {}", used / 2.0);
    }
    for (rate, rtt) in [(10, 100), (100, 20)] {
        let case = Case { rate, rtt, flows: &["cubic"], ..lossy };
        let cubic = see(&case);
        assert!(cubic.used(&case) < 0.3, "{rate} Mbit/s {rtt} ms: {}", cubic.used(&case));
    }
}

/// In a buffer that holds a second BBR keeps a few milliseconds waiting, and uses the link; CUBIC fills it.
#[test]
fn bbr_keeps_a_deep_buffer_empty() {
    for (rate, rtt) in [(10, 20), (10, 100), (100, 20), (100, 50)] {
        let case = Case { rate, rtt, buffer_ms: 1000, ..BBR };
        let seen = see(&case);
        assert!(seen.used(&case) >= 0.93, "{}", seen.used(&case));
        let most = rtt as f64 * 0.3 + 3.0;
        assert!(seen.queue(0.5) <= most, "{} ms of {rtt}", seen.queue(0.5));
        assert_eq!(seen.again, 0, "nothing is lost");
    }
    let cubic = see(&Case { buffer_ms: 1000, flows: &["cubic"], ..BBR });
    assert!(cubic.queue(0.5) >= 200.0, "{} ms", cubic.queue(0.5));
}

/// Beside CUBIC neither starves, in a buffer of one round trip and in one of two; and BBR shares with BBR.
#[test]
fn bbr_coexists() {
    for (flows, buffer_ms, least) in [
        (&["bbr", "cubic"][..], 40, 0.1),
        (&["bbr", "cubic"], 80, 0.1),
        (&["bbr", "cubic", "cubic"], 80, 0.1),
        (&["bbr", "bbr"], 40, 0.25),
    ] {
        let case = Case { rate: 20, rtt: 40, buffer_ms, flows, secs: (60, 20), ..BBR };
        let seen = see(&case);
        let sum: f64 = seen.rates.iter().sum();
        for rate in &seen.rates {
            assert!(rate / sum >= least, "{flows:?}, buffer {buffer_ms} ms: {:?}", seen.rates);
        }
        assert!(seen.used(&case) >= 0.9, "{}", seen.used(&case));
    }
}

/// Marks bound BBR as losses do: behind a discipline that marks it loses nothing and keeps the link busy.
#[test]
fn bbr_heeds_marks() {
    let knobs = &[crate::ECN][..];
    for discipline in ["fq_codel ecn", "codel ecn"] {
        let case = Case { discipline: Some(discipline), knobs, rate: 20, ..BBR };
        let seen = see(&case);
        assert!(seen.used(&case) >= 0.85, "{discipline}: {}", seen.used(&case));
        assert!(seen.queue(0.5) <= 15.0, "{discipline}: {} ms", seen.queue(0.5));
        assert_eq!((seen.dropped, seen.again), (0, 0), "{discipline}");
    }
}
