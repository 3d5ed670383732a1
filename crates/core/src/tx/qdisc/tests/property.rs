use super::*;

/// Specifications of every discipline, and of disciplines below others.
const SPECS: &[&str] = &[
    "pfifo_fast",
    "pfifo limit 20",
    "bfifo limit 20k",
    "tbf rate 10mbit burst 3k limit 30k",
    "tbf rate 10mbit burst 1600b limit 30k peakrate 20mbit mtu 1600b",
    "netem delay 5ms 5ms loss 5% duplicate 5% corrupt 5% reorder 10% gap 3 limit 50",
    "netem rate 5mbit delay 2ms limit 30 duplicate 10%",
    "netem delay 2ms 1ms slot 1ms 4ms packets 3 bytes 4000 limit 50 reorder 10%",
    "prio",
    "sfq limit 40 flows 10 perturb 1",
    "sfq limit 40 depth 5 headdrop",
    "codel limit 40 target 1ms interval 5ms",
    "fq limit 50 flow_limit 10 maxrate 5mbit buckets 4",
    "fq_codel limit 50 flows 8 target 1ms interval 5ms memory_limit 100k",
    "handle 1: prio; parent 1:3 fq_codel target 1ms; parent 1:2 tbf rate 10mbit burst 3k limit 30k",
    "handle 1: tbf rate 10mbit burst 3k limit 1m; parent 1: fq_codel target 2ms interval 20ms",
    "handle 1: netem delay 3ms; parent 1: tbf rate 10mbit burst 3k limit 30k",
    "handle 1: tbf rate 10mbit burst 3k limit 30k; parent 1: netem delay 1ms 1ms",
];

/// Goal: whatever comes, no packet is lost silently, what waits says when it may go, and everything
/// leaves in the end. Method: random packets, super-packets among them, of random flows at random
/// times through every discipline.
#[test]
fn every_discipline_conserves_packets_and_starves_none() {
    use crate::pkt::{Csum, Gso, GsoKind};
    let mut rng = Rng::new(21);
    for spec in SPECS {
        for _ in 0..3 {
            let mut rig = Rig::new(spec);
            for mark in 0..1500 {
                let flow = rng.below(12) as u16;
                let tos = [0, 0, 2, 1, 8, 16][rng.below(6) as usize];
                let len = 28 + rng.below(1400) as usize;
                let mut pkt = rig.pkt(len, flow, mark, tos);
                let payload = len - 28;
                if rng.below(8) == 0 && payload > 200 {
                    let size = 100 + rng.below(100) as u16;
                    let segs = payload.div_ceil(size as usize) as u16;
                    pkt.gso = Some(Gso { kind: GsoKind::Udp, size, segs, ecn: false });
                    pkt.csum = Csum::Partial { start: 20, offset: 6 };
                }
                rig.put(pkt);
                rig.conserved();
                match rng.below(4) {
                    0 => _ = rig.take(),
                    1 => rig.pass(rng.below(3 * MS)),
                    2 => rig.now = rig.now.plus(rng.below(MS / 10)),
                    _ => {}
                }
                rig.conserved();
            }
            let waited = rig.sched.qdisc.len();
            let before = rig.now;
            rig.drain();
            rig.conserved();
            assert!(rig.now.since(before) < 10 * SEC, "{spec}: {waited} packets took too long");
            assert_eq!(rig.sched.qdisc.bytes(), 0, "{spec}");
            assert!(rig.left.len() > 100, "{spec}: {}", rig.left.len());
        }
    }
}
