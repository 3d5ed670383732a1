use super::*;
use crate::tx::qdisc::codel::{Codel, Counts as CodelCounts, Params, Vars};

/// A queue that is served at one packet a millisecond while `every` nanoseconds one comes, for `ms`
/// milliseconds.
fn served(rig: &mut Rig, every: u64, ms: u64, tos: u8) {
    let begun = rig.now;
    let mut next_in = begun;
    for n in 0..ms {
        let at = begun.plus(n * MS);
        while next_in <= at {
            rig.now = next_in;
            rig.send_tos(1000, 1, 0, tos);
            next_in = next_in.plus(every);
        }
        rig.now = at;
        rig.take();
    }
}

/// Delays below the target, and queues of no more than a packet, lose nothing.
#[test]
fn codel_leaves_good_queues_alone() {
    let mut rig = Rig::new("codel");
    served(&mut rig, MS, 2000, 0);
    assert!(rig.sched.qdisc.stats().drops == 0 && rig.left.len() >= 1999);
    rig.drain();
    // One packet that waits for ever so long, alone.
    for _ in 0..20 {
        rig.send(1000, 1, 0);
        rig.now = rig.now.plus(200 * MS);
        assert!(rig.take());
    }
    assert_eq!(rig.sched.qdisc.stats().drops, 0);
    rig.conserved();
}

/// The first drop comes an interval after the delay went above the target, the others by the square
/// root (RFC 8289 §5.3), as computed here from the law itself.
#[test]
fn codel_drops_by_its_control_law() {
    let params = Params { target: 5 * MS, interval: 100 * MS, ecn: false, ce_threshold: None };
    let (mut vars, mut counts) = (Vars::default(), CodelCounts::default());
    let mut rig = Rig::new("pfifo");
    let mut dropped = Vec::new();
    let mut drops_at = Vec::new();
    for ms in 0..1000u64 {
        let now = Instant::from_ns(SEC + ms * MS);
        // Each packet has waited for 20 ms, and many more wait.
        let waited = Instant::from_ns(now.ns() - 20 * MS);
        let mut fresh: Vec<Item> =
            (0..4).map(|_| Item::new(rig.pkt(1000, 1, 0, 0), waited)).collect();
        let mut cx = Cx {
            now,
            pool: &mut rig.pool,
            device_sums: true,
            dropped: &mut dropped,
            made: 0,
            taken: 0,
            watchdog: Instant::NEVER,
        };
        let mut codel = Codel { params: &params, mtu: 1514, vars: &mut vars, counts: &mut counts };
        let item = codel.dequeue(&mut cx, || Some((fresh.pop()?, 100_000)));
        let item = item.expect("packets wait");
        drops_at.extend(dropped.iter().map(|_| ms));
        let freed = dropped.drain(..).map(|(pkt, why)| {
            assert_eq!(why, Reason::QdiscCongested);
            pkt
        });
        freed
            .chain(fresh.into_iter().map(|i| i.pkt))
            .chain([item.pkt])
            .for_each(|p| rig.pool.free(p));
    }
    // Served each millisecond: a drop comes at the first look after its time.
    let mut want = Vec::new();
    let mut next = 101.0;
    let mut count = 1.0f64;
    while next < 1000.0 {
        want.push(f64::ceil(next - 1e-6) as u64);
        next += 100.0 / count.sqrt();
        count += 1.0;
    }
    assert_eq!(drops_at, want);
    assert_eq!(counts.drop_count, want.len() as u64);
}

/// An overload is answered until the delay is down; senders that understand it are told by marks.
#[test]
fn drop_qdisc_congested() {
    for (ecn, words) in [(0, "codel limit 100000"), (2, "codel limit 100000 ecn")] {
        let mut rig = Rig::new(words);
        served(&mut rig, MS * 3 / 4, 4000, ecn);
        let marked = rig.left.iter().filter(|l| l.ecn == 3).count();
        let xstats = rig.sched.qdisc.xstats();
        let mark = xstats.iter().find(|(name, _)| *name == "ecn_mark").expect("it is counted").1;
        assert_eq!(mark, marked as u64);
        let drops = rig.sched.qdisc.stats().drops;
        if ecn == 0 {
            assert!(drops > 20 && marked == 0, "{drops} drops");
            assert_eq!(rig.counts.drops(Reason::QdiscCongested), drops);
        } else {
            assert!(marked > 20 && drops == 0, "{marked} marks, {drops} drops");
        }
        assert!(rig.left.iter().all(|l| !l.damaged), "a mark keeps the header's checksum right");
        rig.drain();
        rig.conserved();
    }
}

#[test]
fn codel_marks_above_its_threshold() {
    let mut rig = Rig::new("codel ce_threshold 1ms");
    for wait in [MS / 2, 2 * MS] {
        rig.send_tos(1000, 1, 0, 1);
        rig.send_tos(1000, 1, 0, 1);
        rig.now = rig.now.plus(wait);
        rig.pump();
    }
    assert_eq!(rig.left.iter().map(|l| l.ecn).collect::<Vec<_>>(), [1, 1, 3, 3]);
}
