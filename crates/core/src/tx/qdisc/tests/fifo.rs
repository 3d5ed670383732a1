use super::*;

/// The bands of every type of service, as the table of tc-prio(8) has them.
#[test]
fn pfifo_fast_has_three_bands_by_type_of_service() {
    let table = [(0x00, 1), (0x02, 1), (0x04, 1), (0x08, 2), (0x0a, 2), (0x0e, 2)];
    let table = table.iter().chain(&[(0x10, 0), (0x14, 0), (0x16, 0), (0x18, 1), (0x1e, 1)]);
    let mut rig = Rig::new("pfifo_fast");
    for (tos, want) in table {
        let pkt = rig.pkt(100, 1, 0, *tos);
        assert_eq!(band(&pkt), *want, "type of service {tos:#x}");
        rig.pool.free(pkt);
    }
    for (mark, tos) in [(1, 0x08), (2, 0x00), (3, 0x10), (4, 0x08), (5, 0x10)] {
        rig.send_tos(100, 1, mark, tos);
    }
    rig.pump();
    assert_eq!(rig.left.iter().map(|l| l.mark).collect::<Vec<_>>(), [3, 5, 2, 1, 4]);
    rig.conserved();
}

#[test]
fn a_fifo_holds_as_much_as_its_limit_says() {
    let mut rig = Rig::new("pfifo limit 3");
    let kept: Vec<bool> = (0..5).map(|n| rig.send(100, 1, n)).collect();
    assert_eq!(kept, [true, true, true, false, false]);
    assert_eq!(rig.drops, [(3, Reason::QdiscOverlimit), (4, Reason::QdiscOverlimit)]);
    let stats = rig.sched.qdisc.stats();
    assert_eq!((stats.drops, stats.qlen, stats.backlog), (2, 3, 300));
    rig.pump();
    let stats = rig.sched.qdisc.stats();
    assert_eq!((stats.packets, stats.bytes, stats.qlen, stats.backlog), (3, 300, 0, 0));

    let mut rig = Rig::new("bfifo limit 250b");
    let kept: Vec<bool> = [100, 100, 100, 50].into_iter().map(|len| rig.send(len, 1, 0)).collect();
    assert_eq!(kept, [true, true, false, true]);
    rig.conserved();
}
