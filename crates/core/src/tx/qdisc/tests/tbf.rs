use super::*;
use crate::pkt::{Gso, GsoKind};

/// The rate holds within 2 % at 1, 10 and 100 Mbit/s, and no second has more than rate and burst.
#[test]
fn tbf_holds_its_rate() {
    for (mbit, secs) in [(1u64, 20), (10, 5), (100, 2)] {
        let mut rig = Rig::new(&format!("tbf rate {mbit}mbit burst 10k limit 200k"));
        let begun = rig.now;
        // Twice as much is offered as may go.
        let gap = 1500 * 8 * 1000 / mbit / 2;
        let end = begun.plus(secs * SEC);
        while rig.now < end {
            rig.send(1500, 1, 0);
            rig.pass(gap);
        }
        let after = begun.plus(SEC / 10);
        let rate = rig.bytes_since(after) as f64 * 8e9 / end.since(after) as f64;
        let want = mbit as f64 * 1e6;
        assert!((rate / want - 1.0).abs() < 0.02, "{rate} bit/s for {want}");
        for (i, first) in rig.left.iter().enumerate() {
            let within = |l: &&Left| l.at.since(first.at) <= SEC / 10;
            let sum: usize = rig.left[i..].iter().take_while(within).map(|l| l.len).sum();
            assert!(sum as f64 <= want / 80.0 + 10.0 * 1024.0 + 1500.0, "{sum} bytes in 100 ms");
        }
        rig.drain();
        rig.conserved();
    }
}

/// A bucket that was full lets `burst` bytes go at once; what `latency` allows may wait, no more.
#[test]
fn tbf_lets_a_burst_go_and_bounds_what_waits() {
    let mut rig = Rig::new("tbf rate 8mbit burst 5000b latency 10ms");
    let kept = (0..50).filter(|n| rig.send(1000, 1, *n)).count();
    // 1 MB/s for 10 ms, and a burst, are 15000 bytes.
    assert_eq!(kept, 15);
    rig.pump();
    assert_eq!(rig.left.len(), 5);
    let begun = rig.now;
    rig.drain();
    let after: Vec<u64> = rig.left[5..].iter().map(|l| l.at.since(begun)).collect();
    let want: Vec<u64> = (1..=10).map(|n| n * MS).collect();
    assert_eq!(after, want);
    // One for each look at a packet that had to wait.
    assert_eq!(rig.sched.qdisc.stats().overlimits, 11);
    assert_eq!(rig.sched.qdisc.stats().drops, 35);
    rig.conserved();
}

#[test]
fn tbf_peakrate_spaces_what_the_burst_would_let_go() {
    let mut rig = Rig::new("tbf rate 8mbit burst 10000b limit 100k peakrate 80mbit mtu 1000b");
    (0..5).for_each(|n| _ = rig.send(1000, 1, n));
    let begun = rig.now;
    rig.drain();
    let at: Vec<u64> = rig.left.iter().map(|l| l.at.since(begun)).collect();
    assert_eq!(at, [0, MS / 10, MS / 5, 3 * MS / 10, 2 * MS / 5]);
}

/// What is larger than the bucket is cut if it is a super-packet, and dropped if not; bytes are those
/// of the wire.
#[test]
fn tbf_cuts_super_packets_that_are_larger_than_its_bucket() {
    for (spec, cut) in [
        ("tbf rate 8mbit burst 1000b limit 1m", true),
        ("tbf rate 8mbit burst 32k limit 1m", false),
    ] {
        let mut rig = Rig::new(spec);
        let mut pkt = rig.pkt(28 + 1800, 1, 0, 0);
        pkt.gso = Some(Gso { kind: GsoKind::Udp, size: 600, segs: 3, ecn: false });
        pkt.csum = crate::pkt::Csum::Partial { start: 20, offset: 6 };
        assert!(rig.put(pkt));
        let waiting = rig.sched.qdisc.stats();
        assert_eq!((waiting.qlen, waiting.backlog), (if cut { 3 } else { 1 }, 3 * 628));
        rig.drain();
        let lens: Vec<usize> = rig.left.iter().map(|l| l.len).collect();
        assert_eq!(lens, if cut { vec![628; 3] } else { vec![1828] });
        let stats = rig.sched.qdisc.stats();
        assert_eq!((stats.packets, stats.bytes, stats.drops), (3, 3 * 628, 0));
        rig.conserved();
    }
    let mut rig = Rig::new("tbf rate 8mbit burst 500b limit 1m");
    assert!(!rig.send(600, 1, 9));
    assert_eq!(rig.drops, [(9, Reason::QdiscDrop)]);
    rig.conserved();
}
