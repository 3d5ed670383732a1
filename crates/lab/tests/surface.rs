//! The throughput surface and how connections share a link, against the page that tells of them.

use linerate_lab::surface::{Plan, Seen, page, picture, shared, surface};
use linerate_lab::tree;

const AGAIN: &str = "if this is meant: LINERATE_BLESS=1 cargo test -p linerate-lab --test surface, and see whether the \
                     diff makes sense";

/// Compares a file of docs/ with what it has to be, line by line, or writes it.
fn golden(name: &str, want: &str) {
    let path = tree::root().join("docs").join(name);
    if std::env::var_os("LINERATE_BLESS").is_some() {
        std::fs::write(&path, want).expect("docs/ is writable");
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    let pairs = have.lines().zip(want.lines()).filter(|(have, want)| have != want);
    let faults: Vec<String> =
        pairs.map(|(have, want)| format!("page: {have}\nnow:  {want}")).collect();
    assert!(have == want, "docs/{name}: {AGAIN}\n{}", faults.join("\n"));
}

/// Goal: what TCP gets of lossy and of long links, and how fairly it is shared, is known, and does not
/// change unseen. Method: every cell is run in virtual time; LINERATE_BLESS=1 writes page and picture.
#[test]
fn the_throughput_surface_is_as_its_page_has_it() {
    let plan = Plan::page();
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (lines, cases) = (surface(&plan, jobs), shared(&plan, jobs));
    golden("SURFACE.md", &page(&plan, &lines, &cases));
    golden("pictures/surface.svg", &picture(&plan, &lines));
    // Whatever the page says by now: links without loss are used, and nobody starves.
    for line in &lines {
        let (share, what) = (line.shares[0], format!("{line:?}"));
        // DCTCP begins as if all were marked, and is slow to come back where the way is long. Two packets are
        // not much of a buffer where a round trip is less than a packet.
        let long = line.control == "dctcp" && line.rtt_ms > 20;
        let least = if long || line.rtt_ms == 1 { 0.5 } else { 0.85 };
        assert!((least..=1.05).contains(&share), "{what}");
        // Loss never helps, but by chance, of which there is more where the buffer is two packets.
        let chance = if line.rtt_ms == 1 && line.buffer <= 100 { 0.1 } else { 0.05 };
        assert!(line.shares.iter().all(|with| *with <= share + chance), "{what}");
    }
    for (cell, seen) in &cases {
        assert!(seen.share() >= 0.9 && seen.fairness() >= 0.6, "{cell:?}: {:?}", seen.shares);
    }
}

/// Goal: the figures mean what the page says of them.
#[test]
fn the_index_and_the_quantiles_are_right() {
    let seen = |shares: &[f64]| Seen {
        shares: shares.to_vec(),
        queue_ms: (0..100).map(f64::from).collect(),
    };
    assert_eq!(seen(&[0.5, 0.5]).fairness(), 1.0);
    assert_eq!(seen(&[1.0, 0.0]).fairness(), 0.5);
    assert_eq!((seen(&[1.0]).queue(50), seen(&[1.0]).queue(95)), (50.0, 95.0));
}
