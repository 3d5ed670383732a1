use super::*;

/// Bytes of each of `n` flows among what left.
fn shares(rig: &Rig, n: usize) -> Vec<usize> {
    let of = |flow: usize| rig.left.iter().filter(|l| l.mark as usize == flow).map(|l| l.len).sum();
    (0..n).map(of).collect()
}

fn xstat(rig: &Rig, name: &str) -> u64 {
    let all = rig.sched.qdisc.xstats();
    all.iter().find(|(have, _)| *have == name).expect("it is counted").1
}

/// Flows that have always something to send get the same share in bytes, whatever their packets' size
/// and however much more some offer.
#[test]
fn flows_share_in_bytes() {
    for spec in
        ["fq_codel limit 10000 target 10s interval 10s", "sfq limit 1000", "fq flow_limit 1000"]
    {
        let mut rig = Rig::new(spec);
        let sizes = [1500, 100, 700, 1500];
        // The last one offers three times as much.
        let waits = [30, 30, 30, 90];
        let (mut sent, mut gone) = ([0; 4], [0; 4]);
        for _ in 0..16_000 {
            for flow in 0..4 {
                while sent[flow] - gone[flow] < waits[flow] {
                    assert!(rig.send(sizes[flow], 1000 + flow as u16, flow as u32));
                    sent[flow] += 1;
                }
            }
            assert!(rig.take());
            gone[rig.left.last().expect("one left").mark as usize] += 1;
        }
        let shares = shares(&rig, 4);
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(*most as f64 / *least as f64 <= 1.1, "{spec}: {shares:?}");
        rig.drain();
        rig.conserved();
    }
}

/// A flow that sends little does not wait for one that sends much.
#[test]
fn a_sparse_flow_goes_first() {
    for spec in ["fq_codel", "fq"] {
        let mut rig = Rig::new(spec);
        (0..90).for_each(|_| _ = rig.send(1500, 1, 1));
        (0..20).for_each(|_| _ = rig.take());
        rig.send(100, 2, 2);
        let before = rig.left.len();
        while rig.left.last().is_none_or(|l| l.mark != 2) {
            assert!(rig.take(), "{spec}: it waits");
        }
        assert!(rig.left.len() - before <= 3, "{spec}: it waited for {}", rig.left.len() - before);
        rig.drain();
        rig.conserved();
    }
}

/// Above its limits fq_codel drops from the front of the flow that has most bytes, many at a time.
#[test]
fn fq_codel_drops_from_the_fattest() {
    let mut rig = Rig::new("fq_codel limit 100 drop_batch 10");
    (0..10).for_each(|_| _ = rig.send(1500, 1, 1));
    (0..91).for_each(|n| _ = rig.send(1500, 2, 100 + n));
    assert_eq!(rig.counts.drops(Reason::QdiscOverlimit), 10);
    assert_eq!((rig.sched.qdisc.len(), xstat(&rig, "drop_overlimit")), (91, 10));
    rig.pump();
    assert_eq!(rig.left.iter().filter(|l| l.mark == 1).count(), 10, "the thin one loses none");
    assert!(rig.left.iter().all(|l| !(100..110).contains(&l.mark)), "the oldest are dropped");
    rig.conserved();
    // By memory.
    let mut rig = Rig::new("fq_codel memory_limit 100k");
    (0..100).for_each(|_| _ = rig.send(1500, 1, 1));
    assert!(xstat(&rig, "drop_overmemory") > 30 && rig.sched.qdisc.len() < 50);
    rig.drain();
    rig.conserved();
}

#[test]
fn fq_codel_counts_what_tc_prints() {
    let mut rig = Rig::new("fq_codel");
    (0..3).for_each(|flow| _ = rig.send(1000 + flow as usize, flow, 0));
    let names: Vec<&str> = rig.sched.qdisc.xstats().iter().map(|x| x.0).collect();
    let fixed: Vec<&str> = names.iter().copied().filter(|n| *n != "memory_used").collect();
    assert_eq!(
        fixed,
        [
            "maxpacket",
            "drop_overlimit",
            "new_flow_count",
            "ecn_mark",
            "new_flows_len",
            "old_flows_len"
        ]
    );
    assert_eq!((xstat(&rig, "new_flow_count"), xstat(&rig, "new_flows_len")), (3, 3));
    rig.pump();
    assert_eq!((xstat(&rig, "maxpacket"), xstat(&rig, "new_flows_len")), (1002, 0));
}

/// One of a thousand flows that share 1024 queues: those that CoDel would not touch are served within a
/// round.
#[test]
fn no_flow_starves_while_new_ones_come() {
    for spec in ["fq_codel", "fq"] {
        let mut rig = Rig::new(spec);
        (0..50).for_each(|_| _ = rig.send(1500, 9, 9));
        for n in 0..1000u32 {
            // Each packet is of a flow that was never seen.
            rig.send(1400, 1000 + n as u16, 1);
            rig.take();
            rig.take();
            if !rig.left.iter().any(|l| l.mark == 9) {
                assert!(n < 10, "{spec}: the old flow starves");
            }
        }
        assert_eq!(rig.left.iter().filter(|l| l.mark == 9).count(), 50, "{spec}");
    }
}

#[test]
fn sfq_drops_from_the_longest() {
    for (head, lost) in [("", 29), ("headdrop", 0)] {
        let mut rig = Rig::new(&format!("sfq limit 30 {head}"));
        (0..29).for_each(|n| _ = rig.send(100, 1, n));
        (0..2).for_each(|n| _ = rig.send(100, 2, 100 + n));
        assert_eq!(rig.sched.qdisc.len(), 30);
        rig.pump();
        // The newest of the long one, or its oldest.
        let gone = (0..29).filter(|n| !rig.left.iter().any(|l| l.mark == *n)).collect::<Vec<_>>();
        let want = if lost == 0 { 0 } else { 28 };
        assert_eq!(gone, [want]);
        rig.conserved();
    }
    let mut rig = Rig::new("sfq flows 2 divisor 1024");
    let kept = (0..20).filter(|flow| rig.send(100, *flow * 77, 0)).count();
    assert!(kept < 20, "more flows than slots are not taken");
    rig.conserved();
}

/// Hashing anew loses nothing and keeps the order within each flow.
#[test]
fn sfq_perturb_keeps_the_order_of_flows() {
    let mut rig = Rig::new("sfq limit 127 perturb 1");
    let mut sent = 0;
    for _ in 0..40 {
        for _ in 0..5 {
            for flow in 0..3u16 {
                rig.send(200, flow, u32::from(flow) << 16 | sent);
            }
            sent += 1;
        }
        (0..14).for_each(|_| _ = rig.take());
        rig.now = rig.now.plus(300 * MS);
    }
    rig.drain();
    rig.conserved();
    for flow in 0..3 {
        let of = rig.left.iter().filter(|l| l.mark >> 16 == flow).map(|l| l.mark);
        assert!(of.clone().is_sorted(), "the order of a flow");
        assert!(of.count() > 150);
    }
}

/// Each flow goes at `maxrate`, and all together as fast as they may.
#[test]
fn fq_paces_each_flow() {
    for mbit in [1u64, 10, 100] {
        let mut rig = Rig::new(&format!("fq maxrate {mbit}mbit flow_limit 100000 limit 100000"));
        let begun = rig.now;
        let each = 2000 / 8 * mbit.min(10) as usize / 10 + 200;
        for n in 0..3 * each {
            rig.send(1500, (n % 3) as u16, (n % 3) as u32);
        }
        rig.drain();
        let took = rig.now.since(begun) as f64 / 1e9;
        // What a new flow may send at once is not part of the rate.
        let bytes = (each * 1500) as f64 - 15140.0;
        let rate = bytes * 8.0 / took / 1e6 / mbit as f64;
        assert!((0.98..1.03).contains(&rate), "{mbit} Mbit/s: {rate} of it");
        assert!(xstat(&rig, "throttled") > 0);
        rig.conserved();
    }
    let mut rig = Rig::new("fq maxrate 1mbit nopacing");
    (0..100).for_each(|_| _ = rig.send(1500, 1, 1));
    rig.pump();
    assert_eq!(rig.left.len(), 100);
}

#[test]
fn drop_fq_flow_limit() {
    let mut rig = Rig::new("fq flow_limit 5");
    let kept = (0..8).filter(|_| rig.send(100, 1, 1)).count();
    assert!(rig.send(100, 2, 2), "another flow has room");
    assert_eq!((kept, rig.counts.drops(Reason::FqFlowLimit)), (5, 3));
    assert_eq!(xstat(&rig, "flows_plimit"), 3);
    rig.drain();
    rig.conserved();
}

/// Flows that are gone are forgotten, so that their number is bounded.
#[test]
fn fq_forgets_flows() {
    let mut rig = Rig::new("fq buckets 16");
    for n in 0..5000u16 {
        rig.send(100, n, 0);
        rig.pump();
        rig.now = rig.now.plus(MS);
        assert!(xstat(&rig, "flows") <= 64, "{}", xstat(&rig, "flows"));
    }
    assert!(xstat(&rig, "gc") > 4000);
    rig.conserved();
}

/// A class goes when those before it are empty; each has a discipline of its own.
#[test]
fn prio_serves_its_classes_in_order() {
    let mut rig = Rig::new("handle 1: prio; parent 1:2 pfifo limit 2");
    for (mark, tos) in [(1, 8), (2, 0), (3, 16), (4, 0), (5, 0), (6, 8), (7, 16)] {
        rig.send_tos(100, 1, mark, tos);
    }
    assert_eq!(rig.counts.drops(Reason::QdiscOverlimit), 1);
    rig.pump();
    assert_eq!(rig.left.iter().map(|l| l.mark).collect::<Vec<_>>(), [3, 7, 2, 4, 1, 6]);
    let bands: Vec<u16> = rig.sched.qdisc.children().iter().map(|c| c.0).collect();
    assert_eq!(bands, [1, 2, 3]);
    // A class whose packets must wait does not hold up the next.
    let mut rig = Rig::new("handle 1: prio; parent 1:1 tbf rate 1mbit burst 100b limit 1m");
    (0..3).for_each(|n| _ = rig.send_tos(100, 1, n, 16));
    (10..13).for_each(|n| _ = rig.send_tos(100, 1, n, 0));
    rig.drain();
    assert_eq!(rig.left.iter().map(|l| l.mark).collect::<Vec<_>>(), [0, 10, 11, 12, 1, 2]);
    rig.conserved();
    let mut rig = Rig::new("prio bands 2 priomap 1 1 1 1 1 1 0 0 1 1 1 1 1 1 1 1");
    rig.send_tos(100, 1, 1, 0);
    rig.send_tos(100, 1, 2, 16);
    rig.pump();
    assert_eq!(rig.left.iter().map(|l| l.mark).collect::<Vec<_>>(), [2, 1]);
}
