use std::net::IpAddr;

use super::*;
use crate::link::L2;
use crate::pkt::tests::{Spec, bytes_of, pkt_of, random_bytes};
use crate::pkt::{Pool, pseudo};
use crate::rand::Rng;
use crate::shard::Shard;
use crate::table::Counter;
use crate::wire::Mac;

/// A stack with one device that can do nothing by itself.
fn stack(ethernet: bool) -> Shard {
    let mut cx = Shard::new(1);
    let l2 = if ethernet { L2::Ethernet } else { L2::Ip };
    cx.add_iface(Iface::new("t0", l2, Mac::ZERO, 1500));
    cx
}

/// How the payload of a super-packet lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    Own,
    Shared,
    Mixed,
}

/// The super-packet of all of `spec`'s payload, as it reaches this stage.
fn super_packet(pool: &mut Pool, spec: &Spec, size: usize, lie: Lie) -> Pkt {
    let hdr = spec.l2() + spec.l3() + spec.l4();
    let frame = spec.bytes();
    let mut pkt = match lie {
        Lie::Own => pkt_of(pool, &frame),
        Lie::Shared | Lie::Mixed => {
            let in_head = if lie == Lie::Mixed { 100 } else { 0 };
            let mut pkt = pkt_of(pool, &frame[..hdr + in_head]);
            let rest = &frame[hdr + in_head..];
            let mut chunk = pool.alloc_chunk(rest.len());
            chunk.spare_mut().expect("not shared")[..rest.len()].copy_from_slice(rest);
            chunk.fill(rest.len());
            // Two pieces of odd length of one chunk, as a send queue makes them.
            let first = (rest.len() / 2) | 1;
            pkt.add_shared(&chunk, 0, first);
            pkt.add_shared(&chunk, first, rest.len() - first);
            pool.free_chunk(chunk);
            pkt
        }
    };
    annotate(&mut pkt, spec, size);
    pkt
}

/// What the stages before Gso note of a super-packet.
fn annotate(pkt: &mut Pkt, spec: &Spec, size: usize) {
    pkt.network = pkt.data_offset() + spec.l2() as u32;
    pkt.transport = pkt.network + spec.l3() as u32;
    (pkt.src, pkt.dst) = spec.addrs();
    pkt.ip_proto = if spec.udp { IPPROTO_UDP } else { IPPROTO_TCP };
    let kind = match (spec.udp, spec.v6) {
        (true, _) => GsoKind::Udp,
        (_, true) => GsoKind::Tcp6,
        (_, false) => GsoKind::Tcp4,
    };
    let segs = spec.payload.len().div_ceil(size) as u16;
    pkt.gso = Some(Gso { kind, size: size as u16, segs, ecn: spec.flags.any(TcpFlags::CWR) });
    leave_csum(pkt, spec);
}

fn leave_csum(pkt: &mut Pkt, spec: &Spec) {
    let (src, dst): (IpAddr, IpAddr) = spec.addrs();
    let offset = if spec.udp { 6 } else { 16 };
    let sum = pseudo(src, dst, spec.l4() + spec.payload.len(), pkt.ip_proto);
    let at = spec.l2() + spec.l3() + offset;
    pkt.head_mut()[at..at + 2].copy_from_slice(&(!csum_fold(sum)).to_be_bytes());
    pkt.csum = Csum::Partial { start: spec.l3() as u16, offset: offset as u16 };
}

/// The segments that a wire would have to carry.
fn wanted(spec: &Spec, size: usize) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = spec.payload.chunks(size).collect();
    let one = |(n, part): (usize, &&[u8])| {
        let mut seg = Spec { payload: part.to_vec(), ..spec.clone() };
        seg.seq = spec.seq.wrapping_add((n * size) as u32);
        seg.id = spec.id.wrapping_add(n as u16);
        if n > 0 {
            seg.flags = seg.flags.without(TcpFlags::CWR);
        }
        if n + 1 < parts.len() {
            seg.flags = seg.flags.without(TcpFlags::FIN | TcpFlags::PSH);
        }
        seg.bytes()
    };
    parts.iter().enumerate().map(one).collect()
}

fn validate(cx: &mut Shard, pkt: Pkt) -> Verdict {
    cx.net.counts.flow(Stage::Gso).enter(1);
    let verdict = validate_xmit_skb(&mut cx.net, pkt);
    match &verdict {
        Verdict::Pass(_) => cx.net.counts.flow(Stage::Gso).pass(1),
        Verdict::Taken => cx.net.counts.flow(Stage::Gso).take(1),
        _ => {}
    }
    verdict
}

/// What the device is given.
fn ring(cx: &mut Shard) -> Vec<Pkt> {
    cx.net.ifaces[0].txqs[0].ring.drain(..).collect()
}

fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass(_) => "pass",
        Verdict::Taken => "taken",
        Verdict::Queued => "queued",
        Verdict::Held => "held",
        Verdict::Drop(_, reason) => reason.row().name,
    }
}

fn tcp(len: usize) -> Spec {
    Spec { payload: random_bytes(&mut Rng::new(len as u64), len), ..Spec::default() }
}

#[test]
fn segments_are_what_the_wire_would_carry() {
    let sizes = [
        (1448, 9000),
        (1448, 2896),
        (1448, 60_000),
        (536, 5361),
        (1, 3),
        (8948, 40_000),
        (1821, 5000),
    ];
    for (size, len) in sizes {
        for case in 0..24u32 {
            let (v6, udp, ethernet) = (case & 1 != 0, case & 2 != 0, case & 4 != 0);
            let lie = [Lie::Own, Lie::Shared, Lie::Mixed][case as usize / 8];
            if lie == Lie::Mixed && len < 200 {
                continue;
            }
            let flags = TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN | TcpFlags::CWR;
            let vlan = (ethernet && case & 1 == 0).then_some(7);
            let spec = Spec {
                v6,
                udp,
                ethernet,
                vlan,
                flags,
                seq: u32::MAX - 2000,
                id: 65530,
                ..tcp(len)
            };
            let mut cx = stack(ethernet);
            let pkt = super_packet(&mut cx.net.pool, &spec, size, lie);
            let verdict = validate(&mut cx, pkt);
            assert_eq!(name(&verdict), "taken", "{size} {len} {case}");
            let segs = ring(&mut cx);
            let have: Vec<Vec<u8>> = segs.iter().map(|p| bytes_of(p)).collect();
            assert!(have == wanted(&spec, size), "{size} {len} {case}");
            for seg in segs {
                assert_eq!((seg.gso, seg.csum), (None, Csum::None));
                assert_eq!(seg.network - seg.data_offset(), spec.l2() as u32);
                assert_eq!(seg.transport - seg.network, spec.l3() as u32);
                cx.net.pool.free(seg);
            }
            assert_eq!(
                (cx.net.pool.small_out(), cx.net.pool.large_out()),
                (0, 0),
                "{size} {len} {case}"
            );
            cx.net.counts.flow(Stage::Xmit).release(have.len() as u64);
            cx.net.counts.flow(Stage::Xmit).pass(have.len() as u64);
            assert_eq!(cx.net.counts.unaccounted(), []);
            assert_eq!(cx.net.counts.get(Counter::GsoSegmented), 1);
            assert_eq!(cx.net.counts.get(Counter::GsoSegs), have.len() as u64);
        }
    }
}

#[test]
fn a_device_that_sums_gets_segments_with_partial_checksums() {
    for udp in [false, true] {
        let spec = Spec { udp, ..tcp(9000) };
        let mut cx = stack(false);
        cx.net.ifaces[0].features.tx_csum = true;
        let pkt = super_packet(&mut cx.net.pool, &spec, 1448, Lie::Own);
        assert_eq!(name(&validate(&mut cx, pkt)), "taken");
        for (mut seg, want) in ring(&mut cx).into_iter().zip(wanted(&spec, 1448)) {
            assert!(matches!(seg.csum, Csum::Partial { .. }));
            assert_ne!(bytes_of(&seg), want, "the device has to finish it");
            assert!(seg.csum_complete(0));
            assert_eq!(bytes_of(&seg), want);
        }
    }
}

#[test]
fn a_fixed_identification_stays() {
    let spec = tcp(5000);
    let mut cx = stack(false);
    let mut pkt = super_packet(&mut cx.net.pool, &spec, 1448, Lie::Own);
    pkt.gso_fixed_id = true;
    assert_eq!(name(&validate(&mut cx, pkt)), "taken");
    let ids: Vec<u16> = ring(&mut cx).iter().map(|p| be16(p.head(), 4)).collect();
    assert_eq!(ids, [spec.id; 4]);
}

#[test]
fn a_complete_checksum_does_not_prevent_cutting() {
    // What was merged on receiving and vouched for has no pseudo-header sum in the field.
    let spec = tcp(5000);
    let mut cx = stack(false);
    let mut pkt = super_packet(&mut cx.net.pool, &spec, 1448, Lie::Own);
    pkt.csum = Csum::Verified;
    assert_eq!(name(&validate(&mut cx, pkt)), "taken");
    let have: Vec<Vec<u8>> = ring(&mut cx).iter().map(|p| bytes_of(p)).collect();
    assert!(have == wanted(&spec, 1448));
}

#[test]
fn a_super_packet_of_one_segment_goes_as_it_is() {
    let spec = tcp(700);
    let mut cx = stack(false);
    let pkt = super_packet(&mut cx.net.pool, &spec, 1448, Lie::Own);
    let Verdict::Pass(pkt) = validate(&mut cx, pkt) else { panic!("nothing is to be cut") };
    assert_eq!((bytes_of(&pkt), pkt.gso), (spec.bytes(), None));
}

/// What becomes of a TCP super-packet, and of a UDP one, and of a plain packet without checksum.
fn verdicts(cx: &mut Shard, v6: bool) -> [&'static str; 3] {
    let tcp = Spec { v6, ..tcp(5000) };
    let udp = Spec { udp: true, ..tcp.clone() };
    let small = Spec { payload: vec![1; 100], ..tcp.clone() };
    let mut all = Vec::new();
    for (spec, gso) in [(&tcp, true), (&udp, true), (&small, false)] {
        let mut pkt = super_packet(&mut cx.net.pool, spec, 1448, Lie::Own);
        if !gso {
            pkt.gso = None;
        }
        all.push(match validate(cx, pkt) {
            Verdict::Pass(pkt) if matches!(pkt.csum, Csum::Partial { .. }) => "left to the device",
            Verdict::Pass(_) => "summed",
            verdict => name(&verdict),
        });
    }
    [all[0], all[1], all[2]]
}

/// A stack whose device can do everything.
fn able() -> Shard {
    let mut cx = stack(false);
    cx.net.ifaces[0].features =
        crate::link::Features { tx_csum: true, tso4: true, tso6: true, uso: true };
    cx
}

const LEFT: &str = "left to the device";

#[test]
fn features_of_the_device_decide() {
    let mut cx = able();
    assert_eq!(verdicts(&mut cx, false), [LEFT; 3]);
    cx.net.ifaces[0].features.tso4 = false;
    assert_eq!(verdicts(&mut cx, false), ["taken", LEFT, LEFT]);
    assert_eq!(verdicts(&mut cx, true), [LEFT; 3]);
    cx.net.ifaces[0].features.tso6 = false;
    assert_eq!(verdicts(&mut cx, true), ["taken", LEFT, LEFT]);
    cx.net.ifaces[0].features.uso = false;
    assert_eq!(verdicts(&mut cx, true), ["taken", "taken", LEFT]);
    let mut cx = able();
    cx.net.ifaces[0].gso_max_size = 4000;
    assert_eq!(verdicts(&mut cx, false), ["taken", "taken", LEFT]);
    let mut cx = able();
    cx.net.ifaces[0].features.tx_csum = false;
    assert_eq!(verdicts(&mut cx, false), ["taken", "taken", "summed"]);
}

#[test]
fn knob_features_tso() {
    let mut cx = able();
    assert_eq!(verdicts(&mut cx, false), [LEFT; 3]);
    cx.set_knob("features.tso", "off").expect("a legal value");
    assert_eq!(verdicts(&mut cx, false), ["taken", LEFT, LEFT]);
    assert_eq!(verdicts(&mut cx, true), ["taken", LEFT, LEFT]);
}

#[test]
fn knob_features_gso() {
    let mut cx = able();
    cx.set_knob("features.gso", "off").expect("a legal value");
    assert_eq!(verdicts(&mut cx, false), ["taken", "taken", LEFT]);
}

#[test]
fn knob_features_tx() {
    let mut cx = able();
    cx.set_knob("features.tx", "off").expect("a legal value");
    assert_eq!(verdicts(&mut cx, false), ["taken", "taken", "summed"]);
}

#[test]
fn drop_gso_invalid() {
    type Spoil = fn(&mut Pkt);
    let spoils: [(&str, Spoil); 8] = [
        ("no segment size", |p| p.gso.as_mut().expect("super").size = 0),
        ("IPv6 in name", |p| p.gso.as_mut().expect("super").kind = GsoKind::Tcp6),
        ("network before the data", |p| p.network = 0),
        ("transport before network", |p| p.transport = p.network - 1),
        ("transport inside the IP header", |p| p.transport = p.network + 8),
        ("transport behind the end", |p| p.transport = p.network + 60_000),
        ("data offset too small", |p| p.from_transport_mut()[12] = 0x40),
        ("version 7", |p| p.from_network_mut()[0] = 0x75),
    ];
    for (what, spoil) in spoils {
        let mut cx = stack(false);
        let mut pkt = super_packet(&mut cx.net.pool, &tcp(5000), 1448, Lie::Own);
        spoil(&mut pkt);
        assert_eq!(name(&validate(&mut cx, pkt)), "GsoInvalid", "{what}");
        assert!(ring(&mut cx).is_empty());
    }
}

#[test]
fn segments_that_no_length_field_can_name_are_refused() {
    let spec = tcp(1000);
    let mut cx = stack(false);
    let mut pkt = super_packet(&mut cx.net.pool, &spec, 500, Lie::Own);
    for _ in 0..2 {
        let buf = cx.net.pool.alloc_large().expect("room");
        pkt.add_buf(buf, 0, LARGE);
    }
    pkt.gso.as_mut().expect("super").size = 65535 - 51;
    assert_eq!(name(&validate(&mut cx, pkt)), "GsoInvalid");
}

#[test]
fn drop_gso_no_mem() {
    for (size, lie) in [(1448, Lie::Shared), (1448, Lie::Own), (8948, Lie::Own)] {
        let mut cx = stack(false);
        let pkt = super_packet(&mut cx.net.pool, &tcp(60_000), size, lie);
        if size == 1448 {
            cx.net.pool.small_max = 41;
        } else {
            cx.net.pool.large_max = 6;
        }
        assert_eq!(name(&validate(&mut cx, pkt)), "GsoNoMem", "{size} {lie:?}");
        assert!(ring(&mut cx).is_empty(), "all segments or none");
    }
}

#[test]
fn drop_gso_csum() {
    let spoils: [fn(&mut Pkt); 2] =
        [|p| p.csum = Csum::Partial { start: 20, offset: 9000 }, |p| p.network = 0];
    for spoil in spoils {
        let mut cx = stack(false);
        let mut pkt = super_packet(&mut cx.net.pool, &tcp(500), 1448, Lie::Own);
        pkt.gso = None;
        spoil(&mut pkt);
        assert_eq!(name(&validate(&mut cx, pkt)), "GsoCsum");
    }
}

#[test]
fn arbitrary_super_packets_never_panic() {
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let mut cx = stack(false);
        let len = rng.below(4000) as usize;
        let mut bytes = random_bytes(&mut rng, len);
        if let Some(first) = bytes.first_mut() {
            *first = [0x45, 0x46, 0x60, 0x4f][rng.below(4) as usize];
        }
        let mut pkt = pkt_of(&mut cx.net.pool, &bytes);
        pkt.network = pkt.data_offset() + rng.below(3) as u32 * 7;
        pkt.transport = pkt.network + [20, 40, 24, rng.below(100) as u32][rng.below(4) as usize];
        let kind = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp][rng.below(3) as usize];
        let size = [0, 1, 500, 1448, rng.next_u32() as u16][rng.below(5) as usize];
        pkt.gso = Some(Gso { kind, size, segs: rng.next_u32() as u16, ecn: false });
        pkt.csum = Csum::Partial { start: rng.below(60) as u16, offset: rng.below(40) as u16 };
        match validate(&mut cx, pkt) {
            Verdict::Pass(pkt) => cx.net.pool.free(pkt),
            Verdict::Drop(pkt, why) => cx.net.kfree_skb_reason(Stage::Gso, pkt, why),
            _ => {}
        }
        assert_eq!(cx.net.counts.unaccounted(), [], "seed {seed}");
        for seg in ring(&mut cx) {
            cx.net.pool.free(seg);
        }
        assert_eq!((cx.net.pool.small_out(), cx.net.pool.large_out()), (0, 0), "seed {seed}");
    }
}
