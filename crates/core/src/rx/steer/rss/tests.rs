use super::*;
use crate::table::knob::KnobValue;
use crate::table::value::Weights;

fn counts(indir: &[u8; INDIR_LEN]) -> Vec<usize> {
    let last = indir.iter().copied().max().unwrap_or(0) as usize;
    (0..=last).map(|q| indir.iter().filter(|i| **i as usize == q).count()).collect()
}

#[test]
fn equal_shares_go_round() {
    let table = indir_table(&[], 3);
    assert_eq!(table[..7], [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(counts(&indir_table(&[], 4)), [32; 4]);
    assert_eq!(counts(&indir_table(&[], 1)), [128]);
    assert_eq!(indir_table(&[], 0), indir_table(&[], 1));
}

#[test]
fn knob_rss_weight() {
    let mut knobs = Knobs::default();
    for (value, want) in [
        ("6 2", &[96, 32][..]),
        ("1 1 2", &[32, 32, 64]),
        ("0 1", &[0, 128]),
        ("1 0 1", &[64, 0, 64]),
        ("5 3", &[80, 48]),
        // What is for queues that are not there is shared by the others.
        ("1 1 1 1 9", &[32, 32, 32, 32]),
        ("equal", &[32, 32, 32, 32]),
    ] {
        knobs.set("rss.weight", value).expect("in range");
        let rss = Rss::new(VERIFICATION_KEY, &knobs, 4);
        assert_eq!(counts(&rss.indir), want, "{value}");
        // Each queue has one run, as ethtool lays it.
        if value != "equal" {
            assert!(rss.indir.is_sorted(), "{value}");
        }
    }
}

#[test]
fn any_weights_make_a_table_of_queues_that_exist() {
    let mut rng = crate::rand::Rng::new(1);
    for _ in 0..2000 {
        let n = 1 + rng.below(64) as usize;
        let words: Vec<String> = (0..n).map(|_| (rng.next_u32() as u16).to_string()).collect();
        let Some(weights) = Weights::parse(&words.join(" ")) else { continue };
        let queues = 1 + rng.below(64) as usize;
        let table = indir_table(weights.shares(), queues);
        assert!(table.iter().all(|q| (*q as usize) < queues));
        let sum: usize = weights.shares().iter().take(queues).map(|s| *s as usize).sum();
        for (q, n) in counts(&table).into_iter().enumerate().filter(|_| sum > 0) {
            // Within one entry of the share.
            let share = weights.shares().get(q).copied().unwrap_or(0) as usize * INDIR_LEN;
            assert!(n * sum <= share + sum && n * sum + sum >= share, "queue {q}");
        }
    }
}

/// A thousand flows over two queues as the weights say, within what chance gives.
#[test]
fn flows_follow_the_weights() {
    let mut knobs = Knobs::default();
    knobs.set("rss.weight", "3 1").expect("in range");
    let rss = Rss::new(super::hash::netdev_rss_key(5), &knobs, 2);
    let hash = rss.hasher();
    let mut got = [0u32; 2];
    for port in 0..4096 {
        let keys = hash::FlowKeys {
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            ports: Some((port, 53)),
            proto: 17,
        };
        got[rss.queue_of(hash.of(&keys)) as usize] += 1;
    }
    assert!((2900..3250).contains(&got[0]), "{got:?}");
}

#[test]
fn is_printed_without_its_key() {
    let rss = Rss::new(super::hash::netdev_rss_key(5), &Knobs::default(), 2);
    let text = rss.show("veth0", 2);
    assert!(text.contains("    8:      0     1     0     1     0     1     0     1\n"), "{text}");
    assert!(!text.contains("6d:5a") && text.contains("kept secret"), "{text}");
}
