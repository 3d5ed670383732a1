//! A whole stack under a hostile peer, in virtual time, from seeds: frames of recorded captures
//! that were damaged, and built ones that aim at live connections, under headers of the device
//! that lie. A failure prints its seed; LINERATE_SEEDS=N runs more of them, LINERATE_SEED=S repeats
//! one.

use linerate_core::time::SEC;
use linerate_lab::fuzz::world::World;
use linerate_lab::fuzz::{Draw, frames};

fn seeds() -> std::ops::RangeInclusive<u64> {
    let var = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match var("LINERATE_SEED") {
        Some(seed) => seed..=seed,
        None => {
            let first = var("LINERATE_SEED_FIRST").unwrap_or(1);
            first..=first + var("LINERATE_SEEDS").unwrap_or(60) - 1
        }
    }
}

/// Goal: whatever comes in, in whatever order and state, nothing panics, every packet is accounted
/// for, every table keeps its bound; and once all sockets are closed, all memory comes back.
#[test]
fn a_hostile_peer_changes_nothing_but_its_own_connections() {
    let captured = frames::captured();
    assert!(captured.len() > 200, "the captures were found");
    for seed in seeds() {
        let told = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, Draw::seed(seed), &captured);
            world.storm();
            world.close(3600 * SEC);
        });
        if let Err(why) = told {
            eprintln!("seed {seed}: LINERATE_SEED={seed} repeats this");
            std::panic::resume_unwind(why);
        }
    }
}
