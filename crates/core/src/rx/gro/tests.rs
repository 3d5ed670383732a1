mod chance;

use std::collections::HashMap;

use super::*;
use crate::link::Iface;
use crate::pkt::tests::{Spec, bytes_of, pkt_of, random_bytes};
use crate::pkt::{LARGE, Verdict};
use crate::rand::Rng;
use crate::table::Counter;
use crate::time::MS;
use crate::tx::gso::validate_xmit_skb;
use crate::wire::Mac;

const MSS: usize = 1448;

fn stack(ethernet: bool) -> Shard {
    let mut cx = Shard::new(1);
    let l2 = if ethernet { L2::Ethernet } else { L2::Ip };
    cx.add_iface(Iface::new("t0", l2, Mac::ZERO, 1500));
    cx.add_iface(Iface::new("t1", l2, Mac::ZERO, 1500));
    cx
}

/// One poll with these packets.
fn poll(cx: &mut Shard, pkts: Vec<Pkt>) -> Vec<Pkt> {
    let mut batch = Batch { now: pkts, ..Batch::new() };
    dev_gro_receive(cx, &mut batch);
    assert_eq!(cx.net.counts.unaccounted(), []);
    assert!(batch.next.is_empty());
    batch.now
}

fn poll_specs(cx: &mut Shard, specs: &[Spec]) -> Vec<Pkt> {
    let pkts = specs.iter().map(|s| pkt_of(&mut cx.net.pool, &s.bytes())).collect();
    poll(cx, pkts)
}

/// `n` segments of `MSS` bytes, one after the other, counted up in sequence and identification.
fn train(first: &Spec, n: usize) -> Vec<Spec> {
    let mut rng = Rng::new(n as u64);
    let one = |i: usize| {
        let mut seg = Spec { payload: random_bytes(&mut rng, MSS), ..first.clone() };
        seg.seq = first.seq.wrapping_add((i * MSS) as u32);
        seg.id = first.id.wrapping_add(i as u16);
        seg
    };
    (0..n).map(one).collect()
}

fn get(cx: &Shard, counter: Counter) -> u64 {
    cx.net.counts.get(counter)
}

/// Cuts a packet as if it were to leave by a device that can do nothing.
fn cut(cx: &mut Shard, mut pkt: Pkt) -> Vec<Vec<u8>> {
    if pkt.gso.is_some() {
        // What the Link and Ip stages would note.
        let l2 = if cx.net.ifaces[0].l2 == L2::Ethernet { 14 } else { 0 };
        let vlan = if l2 == 14 && pkt.head()[12..14] == [0x81, 0] { 4 } else { 0 };
        pkt.network = pkt.data_offset() + l2 + vlan;
        pkt.transport = pkt.network + if pkt.from_network()[0] >> 4 == 6 { 40 } else { 20 };
        pkt.ip_proto = if pkt.gso.is_some_and(|g| g.kind == GsoKind::Udp) { 17 } else { 6 };
        pkt.dev = 0;
    }
    match validate_xmit_skb(&mut cx.net, pkt) {
        Verdict::Pass(pkt) => {
            let bytes = bytes_of(&pkt);
            cx.net.pool.free(pkt);
            vec![bytes]
        }
        Verdict::Taken => {
            let segs: Vec<Pkt> = cx.net.ifaces[0].txqs[0].ring.drain(..).collect();
            let bytes = segs.iter().map(|p| bytes_of(p)).collect();
            segs.into_iter().for_each(|p| cx.net.pool.free(p));
            bytes
        }
        Verdict::Drop(_, why) => panic!("what was merged can be cut: {why:?}"),
        _ => panic!("Gso neither queues nor holds"),
    }
}

#[test]
fn a_train_becomes_one_packet_and_comes_apart_again() {
    for case in 0..8 {
        let (v6, udp, ethernet) = (case & 1 != 0, case & 2 != 0, case & 4 != 0);
        let first = Spec { v6, udp, ethernet, seq: u32::MAX - 5000, id: 65533, ..Spec::default() };
        let mut specs = train(&first, 44);
        // Shorter than the others: the last.
        specs[43].payload.truncate(100);
        let mut cx = stack(ethernet);
        cx.set_knob("features.rx-udp-gro-forwarding", "on").expect("a legal value");
        let mut out = poll_specs(&mut cx, &specs);
        assert_eq!(out.len(), 1, "case {case}");
        let pkt = out.remove(0);
        let kind = match (udp, v6) {
            (true, _) => GsoKind::Udp,
            (_, true) => GsoKind::Tcp6,
            (_, false) => GsoKind::Tcp4,
        };
        assert_eq!(pkt.gso, Some(Gso { kind, size: MSS as u16, segs: 44, ecn: false }));
        assert_eq!((get(&cx, Counter::GroMerged), get(&cx, Counter::GroCompleted)), (43, 1));
        // The whole is a sound packet of its length.
        let whole =
            Spec { payload: specs.iter().flat_map(|s| s.payload.clone()).collect(), ..first };
        let mut summed = pkt;
        summed.network = summed.data_offset() + whole.l2() as u32;
        summed.ip_proto = if udp { 17 } else { 6 };
        assert!(summed.nr_frags() <= FRAGS_MAX);
        let gso = summed.gso.take();
        let left = summed.csum;
        assert!(summed.csum_complete(whole.l2()));
        assert_eq!(bytes_of(&summed), whole.bytes(), "case {case}");
        // And it comes apart into what it was made of.
        (summed.gso, summed.csum) = (gso, left);
        let at = whole.l2() + whole.l3() + if udp { 6 } else { 16 };
        let (src, dst) = whole.addrs();
        let len = whole.l4() + whole.payload.len();
        let pseudo = crate::pkt::pseudo(src, dst, len, summed.ip_proto);
        let field = !linerate_arch::csum::csum_fold(pseudo);
        summed.head_mut()[at..at + 2].copy_from_slice(&field.to_be_bytes());
        let want: Vec<Vec<u8>> = specs.iter().map(Spec::bytes).collect();
        assert!(cut(&mut cx, summed) == want, "case {case}");
        assert_eq!((cx.net.pool.small_out(), cx.net.pool.large_out()), (0, 0));
    }
}

/// How many packets are left of two segments, of which `change` made the second another one.
fn left_of_two(change: impl Fn(&mut Spec, &mut Spec)) -> usize {
    let mut specs = train(&Spec { ethernet: true, ..Spec::default() }, 2);
    let (a, b) = specs.split_at_mut(1);
    change(&mut a[0], &mut b[0]);
    let mut cx = stack(true);
    let out = poll_specs(&mut cx, &specs);
    let n = out.len();
    let have: Vec<Vec<u8>> = out.into_iter().flat_map(|p| cut(&mut cx, p)).collect();
    assert!(have == specs.iter().map(Spec::bytes).collect::<Vec<_>>(), "what leaves is what came");
    n
}

#[test]
fn what_linux_refuses_is_not_merged() {
    type Change = fn(&mut Spec, &mut Spec);
    let refused: [(&str, Change); 22] = [
        ("sequence number ahead", |_, b| b.seq += 1),
        ("sequence number behind", |_, b| b.seq -= 1),
        ("other acknowledgement", |_, b| b.ack += 1),
        ("other window", |_, b| b.window += 1),
        ("other option bytes", |_, b| b.options[11] += 1),
        ("other length of options", |_, b| b.options.truncate(4)),
        ("CWR on the second", |_, b| b.flags |= TcpFlags::CWR),
        ("ECE on the second", |_, b| b.flags |= TcpFlags::ECE),
        ("URG on the second", |_, b| b.flags |= TcpFlags::URG),
        ("RST on the second", |_, b| b.flags |= TcpFlags::RST),
        ("SYN on the second", |_, b| b.flags |= TcpFlags::SYN),
        ("urgent pointer", |_, b| b.urg = 1),
        ("PSH on the first", |a, _| a.flags |= TcpFlags::PSH),
        ("FIN on the first", |a, _| a.flags |= TcpFlags::FIN),
        ("SYN on both", |a, b| {
            a.flags |= TcpFlags::SYN;
            b.flags |= TcpFlags::SYN;
        }),
        ("longer than the first", |_, b| b.payload.push(0)),
        ("empty", |_, b| b.payload.clear()),
        ("other TTL", |_, b| b.ttl -= 1),
        ("other type of service", |_, b| b.tos = 3),
        ("other don't-fragment bit", |_, b| b.df = false),
        ("identification jumps", |_, b| b.id += 1),
        ("same identification, may be fragmented", |a, b| {
            (a.df, b.df) = (false, false);
            b.id = a.id;
        }),
    ];
    for (what, change) in refused {
        assert_eq!(left_of_two(change), 2, "{what}");
    }
    for change in
        [|s: &mut Spec| s.host = 2, |s: &mut Spec| s.sport += 1, |s: &mut Spec| s.dport += 1]
    {
        let mut specs = train(&Spec::default(), 2);
        change(&mut specs[1]);
        assert_eq!(poll_specs(&mut stack(false), &specs).len(), 2, "another flow");
    }
}

#[test]
fn what_linux_takes_is_merged() {
    type Change = fn(&mut Spec, &mut Spec);
    let taken: [(&str, Change); 7] = [
        ("as it is", |_, _| {}),
        ("shorter", |_, b| b.payload.truncate(1)),
        ("PSH on the second", |_, b| b.flags |= TcpFlags::PSH),
        ("FIN on the second", |_, b| b.flags |= TcpFlags::FIN),
        ("CWR on the first", |a, _| a.flags |= TcpFlags::CWR),
        ("fixed identification, not to be fragmented", |a, b| b.id = a.id),
        ("identification wraps", |a, b| (a.id, b.id) = (65535, 0)),
    ];
    for (what, change) in taken {
        assert_eq!(left_of_two(change), 1, "{what}");
    }
}

#[test]
fn identifications_may_not_change_their_rule() {
    // Fixed, then counting; counting, then fixed.
    for ids in [[5, 5, 6], [5, 6, 6]] {
        let mut specs = train(&Spec::default(), 3);
        for (spec, id) in specs.iter_mut().zip(ids) {
            spec.id = id;
        }
        let mut cx = stack(false);
        assert_eq!(poll_specs(&mut cx, &specs).len(), 2, "{ids:?}");
    }
}

#[test]
fn ipv6_traffic_class_and_flow_label_are_one_with_the_flow() {
    for change in
        [|s: &mut Spec| s.tos = 1, |s: &mut Spec| s.flow_label += 1, |s: &mut Spec| s.ttl = 9]
    {
        let mut specs = train(&Spec { v6: true, ..Spec::default() }, 2);
        change(&mut specs[1]);
        let mut cx = stack(false);
        assert_eq!(poll_specs(&mut cx, &specs).len(), 2);
    }
}

#[test]
fn devices_vlans_and_link_addresses_are_kept_apart() {
    let specs = train(&Spec { ethernet: true, vlan: Some(5), ..Spec::default() }, 2);
    let spoil: [fn(&mut Pkt); 6] = [
        |p| p.dev = 1,
        |p| p.queue = 1,
        |p| p.mark = 1,
        |p| p.vlan = Some(9),
        |p| p.head_mut()[11] ^= 1,
        |p| p.head_mut()[15] ^= 1,
    ];
    let mut cx = stack(true);
    assert_eq!(poll_specs(&mut cx, &specs).len(), 1, "nothing differs");
    for (n, spoil) in spoil.iter().enumerate() {
        let mut cx = stack(true);
        let mut pkts: Vec<Pkt> =
            specs.iter().map(|s| pkt_of(&mut cx.net.pool, &s.bytes())).collect();
        spoil(&mut pkts[1]);
        assert_eq!(poll(&mut cx, pkts).len(), 2, "change {n}");
    }
}

#[test]
fn a_wrong_checksum_is_neither_merged_nor_called_good() {
    for which in [0, 1] {
        let mut cx = stack(false);
        let specs = train(&Spec::default(), 2);
        let mut pkts: Vec<Pkt> =
            specs.iter().map(|s| pkt_of(&mut cx.net.pool, &s.bytes())).collect();
        pkts[which].head_mut()[100] ^= 1;
        let out = poll(&mut cx, pkts);
        assert_eq!(out.len(), 2);
        assert_eq!(out[which].csum, Csum::None, "Transport must find it");
        assert_eq!(out[1 - which].csum, Csum::Verified);
    }
}

#[test]
fn a_right_checksum_is_noted_for_transport() {
    let mut cx = stack(false);
    let out = poll_specs(&mut cx, &train(&Spec::default(), 1));
    assert_eq!((out[0].csum, out[0].gso), (Csum::Verified, None));
}

#[test]
fn knob_features_rx() {
    for (value, csum, left) in
        [("on", Csum::Verified, 1), ("off", Csum::Verified, 2), ("on", Csum::None, 2)]
    {
        let mut cx = stack(false);
        cx.set_knob("features.rx", value).expect("a legal value");
        let specs = train(&Spec::default(), 2);
        let mut pkts: Vec<Pkt> =
            specs.iter().map(|s| pkt_of(&mut cx.net.pool, &s.bytes())).collect();
        for pkt in &mut pkts {
            // Only who believes the device takes these for good.
            pkt.head_mut()[100] ^= 1;
            pkt.csum = csum;
        }
        assert_eq!(poll(&mut cx, pkts).len(), left, "features.rx {value}, {csum:?}");
    }
}

#[test]
fn knob_features_gro() {
    let specs = train(&Spec::default(), 10);
    for (value, left) in [("on", 1), ("off", 10)] {
        let mut cx = stack(false);
        cx.set_knob("features.gro", value).expect("a legal value");
        assert_eq!(poll_specs(&mut cx, &specs).len(), left, "features.gro {value}");
    }
}

#[test]
fn knob_features_rx_udp_gro_forwarding() {
    let specs = train(&Spec { udp: true, ..Spec::default() }, 10);
    for (value, left) in [("on", 1), ("off", 10)] {
        let mut cx = stack(false);
        cx.set_knob("features.rx-udp-gro-forwarding", value).expect("a legal value");
        assert_eq!(poll_specs(&mut cx, &specs).len(), left, "{value}");
    }
}

#[test]
fn knob_dev_gro_flush_timeout() {
    let specs = train(&Spec::default(), 4);
    let mut cx = stack(false);
    let at = |ms: u64| Instant::from_ns(ms * MS);
    cx.net.now = at(10);
    assert_eq!(
        poll_specs(&mut cx, &specs[..2]).len(),
        1,
        "off by default: out at the end of the poll"
    );
    assert_eq!(next_timer(&cx.net), None);

    cx.set_knob("dev.gro_flush_timeout", "5000000").expect("a legal value");
    assert!(poll_specs(&mut cx, &specs[..2]).is_empty());
    assert_eq!(cx.net.counts.flow(Stage::Gro).read().held, 1);
    assert_eq!(next_timer(&cx.net), Some(at(15)));
    cx.net.now = at(14);
    assert!(poll_specs(&mut cx, &specs[2..3]).is_empty());
    cx.net.now = at(15);
    let mut out = poll_specs(&mut cx, &[]);
    assert_eq!(out.len(), 1);
    let pkt = out.remove(0);
    assert_eq!(pkt.gso.map(|g| g.segs), Some(3));
    assert_eq!((next_timer(&cx.net), cx.net.counts.flow(Stage::Gro).read().held), (None, 0));

    // Switched off meanwhile: the next poll must not overtake what is held.
    assert!(poll_specs(&mut cx, &specs[..1]).is_empty());
    cx.set_knob("features.gro", "off").expect("a legal value");
    assert!(!cx.net.gro.is_empty());
    let out = poll_specs(&mut cx, &specs[1..2]);
    let have: Vec<Vec<u8>> = out.iter().map(|p| bytes_of(p)).collect();
    assert_eq!(have, [specs[0].bytes(), specs[1].bytes()]);
}

#[test]
fn timers_send_on_what_nobody_else_would() {
    for gro in ["on", "off"] {
        let mut cx = stack(false);
        cx.set_knob("dev.gro_flush_timeout", "1000").expect("a legal value");
        assert!(poll_specs(&mut cx, &train(&Spec::default(), 2)).is_empty());
        cx.set_knob("features.gro", gro).expect("a legal value");
        timers(&mut cx);
        assert_eq!(cx.net.counts.flow(Stage::Gro).read().held, 1, "not yet");
        cx.net.now = Instant::from_ns(1000);
        timers(&mut cx);
        assert_eq!(cx.net.counts.flow(Stage::Gro).read().held, 0);
        assert_eq!(cx.net.counts.flow(Stage::Link).read().entered, 1, "it went on to Link");
        assert_eq!(cx.net.counts.unaccounted(), []);
    }
}

#[test]
fn a_full_bucket_gives_up_its_oldest() {
    let mut cx = stack(false);
    cx.set_knob("dev.gro_flush_timeout", "1000000").expect("a legal value");
    let specs: Vec<Spec> =
        (0..2000).map(|n| Spec { sport: n, payload: vec![1; 10], ..Spec::default() }).collect();
    let out = poll_specs(&mut cx, &specs);
    let held = cx.net.counts.flow(Stage::Gro).read().held as usize;
    assert_eq!(held, BUCKETS * BUCKET_MAX, "all buckets are full");
    assert_eq!(out.len() + held, 2000);
    assert!(cx.net.gro.table.iter().flat_map(|t| &t.buckets).all(|b| b.len() <= BUCKET_MAX));
}

#[test]
fn super_packets_join_if_their_segments_are_alike() {
    // As a device with its own offload hands them over: the checksum is left open.
    let specs = train(&Spec::default(), 6);
    let mut cx = stack(false);
    let halves: Vec<Vec<Pkt>> = [&specs[..4], &specs[4..]].map(|s| poll_specs(&mut cx, s)).into();
    let pkts: Vec<Pkt> = halves.into_iter().flatten().collect();
    assert_eq!(pkts.len(), 2);
    let mut out = poll(&mut cx, pkts);
    assert_eq!(out.len(), 1);
    let pkt = out.remove(0);
    assert_eq!(pkt.gso.map(|g| g.segs), Some(6));
    assert!(cut(&mut cx, pkt) == specs.iter().map(Spec::bytes).collect::<Vec<_>>());
}

#[test]
fn no_super_packet_is_longer_than_its_length_field() {
    for v6 in [false, true] {
        let specs = train(&Spec { v6, ..Spec::default() }, 100);
        let mut cx = stack(false);
        let out = poll_specs(&mut cx, &specs);
        assert!(out.len() == 3 && out.iter().all(|p| p.len() <= IP_MAX));
        let have: Vec<Vec<u8>> = out.into_iter().flat_map(|p| cut(&mut cx, p)).collect();
        assert!(have == specs.iter().map(Spec::bytes).collect::<Vec<_>>());
    }
}

#[test]
fn headers_count_towards_the_longest_packet() {
    // 50 payloads alone would fit the length field, with their headers they do not.
    let mut specs = train(&Spec::default(), 50);
    for (n, spec) in specs.iter_mut().enumerate() {
        spec.payload.truncate(1310);
        spec.seq = 1000 + n as u32 * 1310;
    }
    let mut cx = stack(false);
    let segs: Vec<u64> = poll_specs(&mut cx, &specs).iter().map(|p| p.segs()).collect();
    assert_eq!(segs, [49, 1]);
}

/// Bytes 16 bits long at `at` that make the checksum at `csum_at` zero, and then the other zero there.
fn other_zero(spec: &Spec, csum_at: usize, at: usize) -> Vec<u8> {
    let mut frame = spec.bytes();
    let csum = u16::from_be_bytes([frame[csum_at], frame[csum_at + 1]]);
    let word = u16::from_be_bytes([frame[at], frame[at + 1]]);
    // The sum grows by what the checksum is: then nothing is left for it to complete.
    let (word, carry) = word.overflowing_add(csum);
    frame[at..at + 2].copy_from_slice(&(word + carry as u16).to_be_bytes());
    frame[csum_at..csum_at + 2].copy_from_slice(&[0xff; 2]);
    frame
}

#[test]
fn a_right_checksum_that_nobody_would_compute_is_left_alone() {
    // IPv4: by the identification; TCP: by two payload bytes.
    for (csum_at, at) in [(10, 4), (20 + 16, 52 + 10)] {
        let specs = train(&Spec::default(), 2);
        let frame = other_zero(&specs[0], csum_at, at);
        let mut second = specs[1].clone();
        second.id = u16::from_be_bytes([frame[4], frame[5]]).wrapping_add(1);
        let mut cx = stack(false);
        let pkts = [&frame, &second.bytes()].map(|b| pkt_of(&mut cx.net.pool, b)).into();
        let out = poll(&mut cx, pkts);
        assert_eq!(out.len(), 2);
        let mut first = out.into_iter().next().expect("two");
        assert_eq!(bytes_of(&first), frame);
        // It is right all the same.
        (first.src, first.dst) = specs[0].addrs();
        first.ip_proto = 6;
        assert!(crate::wire::Ipv4Hdr::csum_ok(first.head()));
        assert!(first.pull(20) && first.csum_verify(false));
    }
}

#[test]
fn datagrams_without_checksum_are_left_alone() {
    let specs = train(&Spec { udp: true, ..Spec::default() }, 2);
    let mut cx = stack(false);
    cx.set_knob("features.rx-udp-gro-forwarding", "on").expect("a legal value");
    let mut pkts: Vec<Pkt> = specs.iter().map(|s| pkt_of(&mut cx.net.pool, &s.bytes())).collect();
    for pkt in &mut pkts {
        pkt.head_mut()[26..28].fill(0);
        pkt.csum = Csum::Verified;
    }
    assert_eq!(poll(&mut cx, pkts).len(), 2, "cutting would give them one");
}

#[test]
fn without_memory_nothing_is_merged_and_nothing_lost() {
    let specs = train(&Spec::default(), 4);
    let mut cx = stack(false);
    let pkts: Vec<Pkt> = specs.iter().map(|s| pkt_of(&mut cx.net.pool, &s.bytes())).collect();
    cx.net.pool.small_max = 4;
    let out = poll(&mut cx, pkts);
    let have: Vec<Vec<u8>> = out.iter().map(|p| bytes_of(p)).collect();
    assert!(have == specs.iter().map(Spec::bytes).collect::<Vec<_>>());
}

#[test]
fn a_trace_says_what_became_of_each_packet() {
    let mut cx = stack(false);
    cx.net.trace = Some(crate::trace::Trace::default());
    let specs = train(&Spec::default(), 2);
    let mut pkts: Vec<Pkt> = specs.iter().map(|s| pkt_of(&mut cx.net.pool, &s.bytes())).collect();
    (pkts[0].trace, pkts[1].trace) = (1, 2);
    assert_eq!(poll(&mut cx, pkts).len(), 1);
    let lines = cx.net.trace.expect("it was set").lines;
    let said: Vec<(u32, Said)> = lines.iter().map(|l| (l.packet, l.said)).collect();
    assert_eq!(said, [(2, Said::Merged), (1, Said::Pass)]);
}

/// Figures, not a check: `cargo test --release -p linerate-core figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn figures_per_segment() {
    const N: usize = 44;
    const ROUNDS: usize = 20_000;
    let mut cx = stack(false);
    let frames: Vec<Vec<u8>> = train(&Spec::default(), N).iter().map(Spec::bytes).collect();
    let mut batch = Batch::new();
    for (what, gro, csum) in [
        ("merge, checksums verified here", true, Csum::None),
        ("merge, vouched for by the device", true, Csum::Verified),
        ("without merging", false, Csum::None),
    ] {
        let (mut fill, mut work, mut free) = (0, 0, 0);
        for _ in 0..ROUNDS {
            let begun = std::time::Instant::now();
            for frame in &frames {
                let mut pkt = pkt_of(&mut cx.net.pool, frame);
                pkt.csum = csum;
                batch.now.push(pkt);
            }
            fill += begun.elapsed().as_nanos();
            let begun = std::time::Instant::now();
            if gro {
                dev_gro_receive(&mut cx, &mut batch);
            }
            work += begun.elapsed().as_nanos();
            let begun = std::time::Instant::now();
            for pkt in batch.now.drain(..) {
                cx.net.pool.free(pkt);
            }
            free += begun.elapsed().as_nanos();
        }
        let each = |ns: u128| ns as f64 / (N * ROUNDS) as f64;
        println!(
            "{what}: fill {:.1}, gro {:.1}, free {:.1} ns a segment",
            each(fill),
            each(work),
            each(free)
        );
    }
    let mut copied = 0;
    for _ in 0..ROUNDS {
        for frame in &frames {
            batch.now.push(pkt_of(&mut cx.net.pool, frame));
        }
        let mut large = cx.net.pool.alloc_large().expect("room");
        let begun = std::time::Instant::now();
        for (pkt, to) in batch.now.iter().zip(large.chunks_exact_mut(MSS)) {
            to.copy_from_slice(&pkt.head()[52..]);
        }
        copied += begun.elapsed().as_nanos();
        cx.net.pool.free_large(std::hint::black_box(large));
        batch.now.drain(..).for_each(|pkt| cx.net.pool.free(pkt));
    }
    println!("copying alone: {:.1} ns a segment", copied as f64 / (N * ROUNDS) as f64);
    let whole = Spec { payload: vec![7; MSS * N], ..Spec::default() };
    let bytes = whole.bytes();
    let mut chunk = cx.net.pool.alloc_chunk(bytes.len());
    chunk.spare_mut().expect("not shared")[..bytes.len()].copy_from_slice(&bytes);
    chunk.fill(bytes.len());
    for (what, shared, csum) in [
        ("own, summed", false, false),
        ("shared, summed", true, false),
        ("own, left", false, true),
        ("shared, left", true, true),
    ] {
        cx.net.ifaces[0].features.tx_csum = csum;
        let (mut work, mut free) = (0, 0);
        for _ in 0..ROUNDS {
            let hdr = whole.l3() + whole.l4();
            let mut pkt = if shared {
                let mut pkt = pkt_of(&mut cx.net.pool, &bytes[..hdr]);
                pkt.add_shared(&chunk, hdr, bytes.len() - hdr);
                pkt
            } else {
                pkt_of(&mut cx.net.pool, &bytes)
            };
            pkt.network = pkt.data_offset();
            pkt.transport = pkt.network + 20;
            pkt.csum = Csum::Partial { start: 20, offset: 16 };
            pkt.gso =
                Some(Gso { kind: GsoKind::Tcp4, size: MSS as u16, segs: N as u16, ecn: false });
            let begun = std::time::Instant::now();
            assert!(matches!(validate_xmit_skb(&mut cx.net, pkt), Verdict::Taken));
            work += begun.elapsed().as_nanos();
            let begun = std::time::Instant::now();
            while let Some(pkt) = cx.net.ifaces[0].txqs[0].ring.pop_front() {
                cx.net.pool.free(pkt);
            }
            free += begun.elapsed().as_nanos();
        }
        let each = |ns: u128| ns as f64 / (N * ROUNDS) as f64;
        println!("cut, {what}: gso {:.1}, free {:.1} ns a segment", each(work), each(free));
    }
}
