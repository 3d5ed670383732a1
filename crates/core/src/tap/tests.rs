//! Goal: a tap sees each packet at each stage as it is there, says what became of it, and never gets in
//! the way. Method: a stack with one device, packets through it, the records read back.

use super::*;
use crate::ip::testkit::*;
use crate::table::Counter;
use crate::udp::api::UdpBind;
use crate::udp::output::SendTo;

/// One record.
#[derive(Debug)]
struct Seen {
    head: Head,
    bytes: Vec<u8>,
}

fn drain(port: &Port) -> Vec<Seen> {
    let mut all = Vec::new();
    port.take(&mut all);
    let (mut rest, mut seen) = (&all[..], Vec::new());
    while let Some((head, more)) = rest.split_first_chunk::<HEAD>() {
        let head = Head::decode(head).expect("a record");
        let (bytes, more) = more.split_at(head.captured as usize);
        seen.push(Seen { head, bytes: bytes.to_vec() });
        rest = more;
    }
    assert!(rest.is_empty(), "whole records");
    seen
}

fn spec(stages: &[Stage], points: &[Point], filter: &str) -> Spec {
    let mut at = [false; 4];
    points.iter().for_each(|p| at[*p as usize] = true);
    let filter = Filter::compile(filter).expect("a filter");
    Spec { stages: Stages::of(stages), points: at, filter, snaplen: 65536 }
}

fn tap(kit: &mut Kit, spec: Spec) -> Arc<Port> {
    let port = Arc::new(Port::new(1 << 16));
    kit.cx.tap(spec, Arc::clone(&port), None).expect("there is room");
    port
}

fn to(port: u16) -> SendTo {
    SendTo { src: Some((ip(US), 53).into()), ..SendTo::to((ip(PEER), port).into()) }
}

fn bound(mut kit: Kit) -> Kit {
    kit.cx.udp_bind(UdpBind { port: 53, ..Default::default() }).expect("bound");
    kit
}

#[test]
fn each_receive_stage_shows_the_packet_it_sees() {
    let mut kit = bound(Kit::eth());
    let stages = [
        Stage::Gro,
        Stage::Link,
        Stage::Ip,
        Stage::Route,
        Stage::Demux,
        Stage::Transport,
        Stage::SockQueue,
    ];
    let port = tap(&mut kit, spec(&stages, &[Point::Before, Point::After], ""));
    let packet = udp4(PEER, US, 1, 53, b"data");
    let frame = eth(MAC, PEER_MAC, 0x0800, &packet);
    kit.rx(&frame);
    let seen = drain(&port);
    let got: Vec<_> = seen.iter().map(|s| (s.head.stage, s.head.point)).collect();
    for stage in stages {
        assert!(got.contains(&(stage, Point::Before)), "{stage:?} before: {got:?}");
        // The last one keeps it.
        let on = stage != Stage::SockQueue;
        assert_eq!(got.contains(&(stage, Point::After)), on, "{stage:?} after: {got:?}");
    }
    for s in &seen {
        let whole =
            s.head.stage < Stage::Ip && (s.head.stage, s.head.point) != (Stage::Link, Point::After);
        let want = if whole { &frame } else { &packet };
        assert_eq!(&s.bytes, want, "{:?}", s.head);
        let link = if whole { Link::Ethernet } else { Link::Ip };
        assert_eq!((s.head.link, s.head.outbound), (link, false), "{:?}", s.head);
        assert_eq!(s.head.len as usize, want.len());
        assert_eq!(s.head.ts_ns, kit.cx.net.now.ns());
    }
    let last = seen.iter().find(|s| s.head.stage == Stage::SockQueue).expect("it came there");
    assert_eq!(last.head.said, Some(Said::Held));
    kit.conserved();
}

#[test]
fn each_transmit_stage_shows_the_packet_it_sees() {
    let mut kit = Kit::tun();
    let stages = [Stage::Send, Stage::IpOut, Stage::Frag, Stage::Neigh, Stage::Qdisc, Stage::Xmit];
    let port = tap(&mut kit, spec(&stages, &[Point::Before, Point::After], "udp port 7"));
    let id = kit.cx.udp_bind(UdpBind { port: 53, ..Default::default() }).expect("bound");
    kit.cx.udp_send(id, to(7), &[b"data"]).expect("sent");
    let sent = kit.tx();
    let seen = drain(&port);
    for stage in stages {
        assert!(seen.iter().any(|s| s.head.stage == stage), "{stage:?}: {seen:?}");
    }
    for s in &seen {
        assert!(s.head.outbound);
        if matches!(s.head.stage, Stage::Send)
            || (s.head.stage, s.head.point) == (Stage::IpOut, Point::Before)
        {
            // The identification is not known yet, and with it the header's checksum.
            assert_eq!((&s.bytes[..4], &s.bytes[12..]), (&sent[0][..4], &sent[0][12..]));
            assert!(Ipv4Hdr::csum_ok(&s.bytes), "{:?}", s.head);
        } else {
            assert_eq!(s.bytes, sent[0], "{:?}", s.head);
        }
    }
}

/// The last stages: what waits is a super-packet, which leaves Gso as segments, or as it is where the device
/// cuts it; each is seen once at each point, and checksums are those of the wire.
#[test]
fn the_last_stages_show_super_packets_before_and_segments_after() {
    for device_cuts in [false, true] {
        let mut kit = Kit::tun();
        kit.cx.net.ifaces[0].features.tx_csum = device_cuts;
        kit.cx.net.ifaces[0].features.uso = device_cuts;
        let stages = [Stage::Qdisc, Stage::Gso, Stage::Xmit];
        let port = tap(&mut kit, spec(&stages, &[Point::Before, Point::After], ""));
        let id = kit.cx.udp_bind(UdpBind { port: 53, ..Default::default() }).expect("bound");
        let segment = SendTo { gso_size: 400, ..to(7) };
        kit.cx.udp_send(id, segment, &[&[9; 1000]]).expect("sent");
        let sent = kit.tx();
        let seen = drain(&port);
        let at = |stage, point| -> Vec<&[u8]> {
            let at = seen.iter().filter(|s| (s.head.stage, s.head.point) == (stage, point));
            at.map(|s| s.bytes.as_slice()).collect()
        };
        let whole = at(Stage::Qdisc, Point::Before);
        assert_eq!((whole.len(), whole[0].len()), (1, 1028));
        assert_eq!(at(Stage::Qdisc, Point::After), whole);
        assert_eq!(at(Stage::Gso, Point::Before), whole);
        let after = at(Stage::Gso, Point::After);
        if device_cuts {
            assert_eq!((sent.len(), &after), (1, &whole));
        } else {
            assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [428, 428, 228]);
            assert_eq!(after, sent);
        }
        assert_eq!(at(Stage::Xmit, Point::Before), after);
        assert_eq!(at(Stage::Xmit, Point::After), after, "the device took them");
        kit.conserved();
    }
}

/// What a program changes is seen: the packet as it came before Xdp, and as it goes on after.
#[test]
fn a_program_is_seen_from_both_sides() {
    let mut kit = bound(Kit::tun());
    let port = tap(&mut kit, spec(&[Stage::Xdp], &[Point::Before, Point::After], ""));
    kit.cx.attach_xdp(
        0,
        Some(Box::new(|pkt| {
            if pkt.head()[19] == 9 {
                return crate::rx::xdp::Action::Drop;
            }
            pkt.head_mut()[8] -= 1;
            crate::rx::xdp::Action::Pass
        })),
    );
    let packet = udp4(PEER, US, 1, 53, b"data");
    kit.rx(&packet);
    let mut other = packet.clone();
    other[19] = 9;
    kit.rx(&other);
    let seen = drain(&port);
    let said: Vec<_> = seen.iter().map(|s| (s.head.point, s.head.said)).collect();
    let want = [
        (Point::After, None),
        (Point::Before, Some(Said::Pass)),
        (Point::Before, Some(Said::Dropped(Reason::Xdp))),
    ];
    assert_eq!(said, want);
    assert_eq!((&seen[1].bytes, &seen[2].bytes), (&packet, &other), "as they came");
    let mut changed = packet;
    changed[8] -= 1;
    assert_eq!(seen[0].bytes, changed);
}

/// A packet that the stage drops has the reason in its record; one that is dropped elsewhere has it at
/// the point `drop`.
#[test]
fn drops_are_seen_with_their_reason() {
    let mut kit = bound(Kit::tun());
    let before = tap(&mut kit, spec(&[Stage::Ip], &[Point::Before], ""));
    let all: Vec<Stage> = Stage::ALL.to_vec();
    let drops = tap(&mut kit, spec(&all, &[Point::Drop], ""));
    let mut bad = udp4(PEER, US, 1, 53, b"data");
    bad[10] ^= 1;
    kit.rx(&bad);
    kit.rx(&udp4(PEER, US, 1, 53, b"good"));
    kit.rx(&udp4(PEER, US, 1, 54, b"nobody"));
    let seen = drain(&before);
    let said: Vec<_> = seen.iter().map(|s| s.head.said).collect();
    assert_eq!(said, [Some(Said::Dropped(Reason::IpCsum)), Some(Said::Pass), Some(Said::Pass)]);
    assert_eq!(seen[0].bytes, bad, "as it came");
    let seen = drain(&drops);
    let said: Vec<_> = seen.iter().map(|s| (s.head.stage, s.head.said)).collect();
    let want = [
        (Stage::Ip, Some(Said::Dropped(Reason::IpCsum))),
        (Stage::Demux, Some(Said::Dropped(Reason::UdpNoPort))),
    ];
    assert_eq!(said, want);
    // Outside of the spine: fragments that never become whole.
    let whole = udp4(PEER, US, 1, 53, &[7; 100]);
    kit.rx(&fragment4(&whole, 40, 9)[0]);
    kit.pass(40_000_000_000);
    let seen = drain(&drops);
    let said: Vec<_> = seen.iter().map(|s| (s.head.stage, s.head.said)).collect();
    assert_eq!(said, [(Stage::Reasm, Some(Said::Dropped(Reason::FragTimeout)))]);
    kit.tx();
    kit.conserved();
}

#[test]
fn a_full_port_loses_packets_which_are_counted_and_the_path_goes_on() {
    let mut kit = bound(Kit::tun());
    let port = Arc::new(Port::new(200));
    let every = spec(&[Stage::Ip], &[Point::Before], "");
    kit.cx.tap(every, Arc::clone(&port), None).expect("there is room");
    let before = kit.read();
    let n = 10;
    (0..n).for_each(|_| kit.rx(&udp4(PEER, US, 1, 53, b"data")));
    // A record has 32 bytes, and 32 of packet.
    assert_eq!(port.counts(), (3, 7));
    let want = [("IpInDelivers", n), ("IpInReceives", n), ("TapDrops", 7), ("TapPackets", 3)];
    kit.moved(&before, &want);
    assert_eq!(drain(&port).len(), 3);
    kit.rx(&udp4(PEER, US, 1, 53, b"data"));
    assert_eq!((drain(&port).len(), port.counts()), (1, (4, 7)));
}

#[test]
fn two_captures_see_each_what_they_want_and_one_may_end() {
    let mut kit = bound(Kit::tun());
    let one = tap(&mut kit, spec(&[Stage::Ip], &[Point::Before], "src port 1"));
    let two = tap(&mut kit, spec(&[Stage::Route], &[Point::After], "src port 2"));
    let send = |kit: &mut Kit| {
        kit.rx(&udp4(PEER, US, 1, 53, b"a"));
        kit.rx(&udp4(PEER, US, 2, 53, b"b"));
    };
    send(&mut kit);
    assert_eq!((drain(&one).len(), drain(&two).len()), (1, 1));
    one.close();
    send(&mut kit);
    assert_eq!((drain(&one).len(), drain(&two).len()), (0, 1));
    assert!(!kit.cx.net.taps.sees(Stage::Ip) && kit.cx.net.taps.sees(Stage::Route));
    two.close();
    send(&mut kit);
    assert_eq!(drain(&two).len(), 0);
    assert!(kit.cx.net.taps.stages.is_empty(), "nothing is left of them");
}

#[test]
fn captures_are_bounded() {
    let mut kit = Kit::tun();
    let ports: Vec<_> =
        (0..TAPS_MAX).map(|_| tap(&mut kit, spec(&[Stage::Ip], &[Point::Before], ""))).collect();
    let more = |kit: &mut Kit| {
        let spec = spec(&[Stage::Ip], &[Point::Before], "");
        kit.cx.tap(spec, Arc::new(Port::new(1)), None)
    };
    assert_eq!(more(&mut kit), Err(TooMany));
    ports[3].close();
    assert_eq!(more(&mut kit), Ok(()));
}

/// What is longer than asked for is cut, and says how long it was; a partial checksum is completed
/// before.
#[test]
fn packets_are_cut_and_checksums_completed() {
    let mut kit = Kit::tun();
    let mut short = spec(&[Stage::Xmit], &[Point::Before], "");
    short.snaplen = 28;
    let short = tap(&mut kit, short);
    let whole = tap(&mut kit, spec(&[Stage::Qdisc], &[Point::Before], ""));
    let id = kit.cx.udp_bind(UdpBind { port: 53, ..Default::default() }).expect("bound");
    kit.cx.udp_send(id, to(7), &[&[9; 400]]).expect("sent");
    let sent = kit.tx();
    let (short, whole) = (drain(&short), drain(&whole));
    assert_eq!((short[0].bytes.as_slice(), short[0].head.len), (&sent[0][..28], 428));
    assert_eq!(whole[0].bytes, sent[0], "with the checksum that the wire has");
    assert_eq!(kit.cx.net.counts.get(Counter::TapPackets), 2);
}

#[test]
fn fragments_are_seen_before_reassembly_and_the_packet_after() {
    let mut kit = bound(Kit::tun());
    let port = tap(&mut kit, spec(&[Stage::Reasm], &[Point::Before, Point::After], "udp"));
    let whole = udp4(PEER, US, 1, 53, &[7; 100]);
    for part in fragment4(&whole, 40, 7) {
        kit.rx(&part);
    }
    let seen = drain(&port);
    let points: Vec<_> = seen.iter().map(|s| s.head.point).collect();
    assert_eq!(points, [Point::Before, Point::Before, Point::Before, Point::After]);
    assert_eq!(seen[3].bytes[20..], whole[20..]);
}

#[test]
fn a_record_that_lies_is_refused() {
    let head = Head {
        captured: 1,
        len: 2,
        ts_ns: 3,
        mark: 4,
        stage: Stage::Ip,
        point: Point::Drop,
        link: Link::Ethernet,
        outbound: true,
        said: Some(Said::Dropped(Reason::IpCsum)),
        dev: 5,
        queue: 6,
        shard: 7,
    };
    let bytes = head.encode();
    assert_eq!(Head::decode(&bytes), Ok(head));
    for (at, value) in [(20, 0xff), (21, 7), (22, 4), (27, 0xff)] {
        let mut bad = bytes;
        bad[at] = value;
        assert_eq!(Head::decode(&bad), Err(BadRecord), "byte {at}");
    }
}
