use crate::ip::testkit::*;
use crate::sock::SocketId;
use crate::time::SEC;
use crate::udp::api::UdpBind;
use crate::wire::*;

fn kit() -> (Kit, SocketId) {
    let mut kit = Kit::tun();
    let sock = kit.cx.udp_bind(UdpBind { port: 9, rcvbuf: 1 << 24, ..Default::default() });
    (kit, sock.expect("bound"))
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7) as u8).collect()
}

fn take(kit: &mut Kit, sock: SocketId) -> Option<Vec<u8>> {
    let got = kit.cx.udp_recv(sock)?;
    let bytes = got.slices().flatten().copied().collect();
    kit.cx.udp_done(got);
    Some(bytes)
}

#[test]
fn fragments_in_any_order_become_the_packet() {
    let (mut kit, sock) = kit();
    let want = data(4000);
    let before = kit.read();
    let mut pieces = fragment4(&udp4(PEER, US, 5, 9, &want), 1480, 77);
    pieces.rotate_left(1);
    for piece in &pieces {
        kit.rx(piece);
    }
    let moved = [("IpInReceives", 3), ("IpReasmReqds", 3), ("IpReasmOKs", 1), ("IpInDelivers", 1)];
    kit.moved(&before, &moved);
    assert_eq!(take(&mut kit, sock), Some(want.clone()));
    let before = kit.read();
    let mut pieces = fragment6(&udp6(PEER6, US6, 5, 9, &want), 1440, 77);
    pieces.reverse();
    for piece in &pieces {
        kit.rx(piece);
    }
    let moved = [("Ip6InReceives", 3), ("Ip6ReasmReqds", 3), ("Ip6ReasmOKs", 1)];
    kit.moved(&before, &[moved[0], moved[1], moved[2], ("Ip6InDelivers", 1)]);
    assert_eq!(take(&mut kit, sock), Some(want));
    assert!(kit.cx.net.reasm.is_empty());
    assert_eq!(kit.cx.net.reasm.mem(), [0, 0]);
    kit.conserved();
}

/// RFC 6946; counted as Linux does: asked for, and done.
#[test]
fn an_atomic_fragment_is_a_packet() {
    let (mut kit, sock) = kit();
    let before = kit.read();
    let pieces = fragment6(&udp6(PEER6, US6, 5, 9, b"whole"), 1440, 1);
    assert_eq!(pieces.len(), 1);
    kit.rx(&pieces[0]);
    let counted = [("Ip6ReasmReqds", 1), ("Ip6ReasmOKs", 1)];
    kit.moved(&before, &[("Ip6InReceives", 1), ("Ip6InDelivers", 1), counted[0], counted[1]]);
    assert_eq!(take(&mut kit, sock), Some(b"whole".to_vec()));
    assert!(kit.cx.net.reasm.is_empty());
    // Another packet of the same identification waits undisturbed (RFC 6946 §4).
    let parts = fragment6(&udp6(PEER6, US6, 5, 9, &data(2000)), 1440, 1);
    kit.rx(&parts[0]);
    kit.rx(&pieces[0]);
    assert_eq!(take(&mut kit, sock), Some(b"whole".to_vec()));
    kit.rx(&parts[1]);
    assert_eq!(take(&mut kit, sock), Some(data(2000)));
    kit.conserved();
}

/// What a router passes on is no reassembly of its own.
#[test]
fn an_atomic_fragment_for_others_goes_on_as_it_is() {
    let (mut kit, _) = kit();
    kit.add_tun();
    kit.knob("net.ipv6.conf.all.forwarding", "1");
    let pieces = fragment6(&udp6(PEER6, "fd01::9", 5, 9, b"whole"), 1440, 1);
    kit.rx(&pieces[0]);
    let sent = kit.tx_on(1);
    assert_eq!((sent[0][6], &sent[0][40..]), (IPPROTO_FRAGMENT, &pieces[0][40..]));
    assert_eq!(kit.read()["Ip6ReasmReqds"], 0);
    kit.conserved();
}

#[test]
fn headers_behind_the_fragment_header_are_read_when_all_is_there() {
    let (mut kit, sock) = kit();
    let want = data(2000);
    let mut payload = vec![IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0];
    payload.extend_from_slice(&udp(PEER6, US6, 5, 9, &want));
    for piece in fragment6(&v6(PEER6, US6, IPPROTO_DSTOPTS, &payload), 1200, 3) {
        kit.rx(&piece);
    }
    assert_eq!(take(&mut kit, sock), Some(want));
    kit.conserved();
}

#[test]
fn an_exact_duplicate_changes_nothing() {
    let (mut kit, sock) = kit();
    let want = data(3000);
    let pieces = fragment4(&udp4(PEER, US, 5, 9, &want), 1480, 1);
    for i in [0, 0, 1, 0, 1, 2] {
        kit.rx(&pieces[i]);
    }
    assert_eq!(take(&mut kit, sock), Some(want));
    kit.conserved();
}

#[test]
fn drop_frag_overlap() {
    overlap(false);
}

#[test]
fn drop_frag6_overlap() {
    overlap(true);
}

fn overlap(v6: bool) {
    {
        let (mut kit, sock) = kit();
        let (a, b, c);
        if v6 {
            let p = |off: u16, mf: bool, len: usize| {
                let mut out = vec![0; 8];
                let frag = FragHdr { next_header: 17, frag_off_bytes: off, mf, id: 5 };
                frag.emit(&mut out);
                out.extend_from_slice(&vec![0; len]);
                crate::ip::testkit::v6(PEER6, US6, IPPROTO_FRAGMENT, &out)
            };
            (a, b, c) = (p(0, true, 64), p(56, true, 64), p(64, false, 8));
        } else {
            let p = |off: u16, mf: bool, len: usize| {
                v4_with(PEER, US, 17, &vec![0; len], |h| (h.frag_off_bytes, h.mf) = (off, mf))
            };
            (a, b, c) = (p(0, true, 64), p(56, true, 64), p(64, false, 8));
        }
        let before = kit.read();
        kit.rx(&a);
        kit.rx(&b);
        let want = if v6 {
            [
                ("Ip6InReceives", 2),
                ("Ip6ReasmReqds", 2),
                ("Ip6ReasmFails", 2),
                ("drop Frag6Overlap", 2),
            ]
        } else {
            [("IpInReceives", 2), ("IpReasmReqds", 2), ("IpReasmFails", 2), ("drop FragOverlap", 2)]
        };
        kit.moved(&before, &want);
        assert!(kit.cx.net.reasm.is_empty(), "the whole packet is gone");
        kit.rx(&c);
        assert_eq!(take(&mut kit, sock), None);
        kit.conserved();
    }
}

#[test]
fn drop_frag_invalid() {
    // Empty, not divisible by 8, beyond what a packet can be, behind the end.
    let p = |off: u16, mf: bool, len: usize| {
        v4_with(PEER, US, 17, &vec![0; len], |h| (h.frag_off_bytes, h.mf) = (off, mf))
    };
    for piece in [p(8, true, 0), p(0, true, 9), p(65528, false, 16)] {
        let (mut kit, _) = kit();
        let before = kit.read();
        kit.rx(&piece);
        let want = [("IpInReceives", 1), ("IpReasmReqds", 1), ("IpReasmFails", 1)];
        kit.moved(&before, &[want[0], want[1], want[2], ("drop FragInvalid", 1)]);
    }
    let (mut kit, _) = kit();
    kit.rx(&p(8, false, 8));
    kit.rx(&p(16, true, 8));
    assert!(kit.cx.net.reasm.is_empty());
    assert_eq!(kit.read()["drop FragInvalid"], 2);
    kit.conserved();
}

#[test]
fn drop_frag6_invalid() {
    let (mut kit, _) = kit();
    let mut payload = vec![0; 8 + 9];
    FragHdr { next_header: 17, frag_off_bytes: 0, mf: true, id: 5 }.emit(&mut payload);
    let before = kit.read();
    kit.rx(&v6(PEER6, US6, IPPROTO_FRAGMENT, &payload));
    let told = [("Icmp6OutMsgs", 1), ("Icmp6OutParmProblems", 1)];
    let want = [("Ip6InReceives", 1), ("Ip6ReasmReqds", 1), ("Ip6ReasmFails", 1), told[0], told[1]];
    let mut want = want.to_vec();
    want.push(("drop Frag6Invalid", 1));
    kit.moved(&before, &want);
    let sent = kit.tx();
    let icmp = Icmpv6Hdr::parse(&sent[0][40..]).expect("ICMPv6");
    assert_eq!((icmp.kind, icmp.code, icmp.pointer()), (4, 0, 4));
}

#[test]
fn drop_frag_timeout() {
    let (mut kit, _) = kit();
    kit.knob("net.ipv4.ipfrag_time", "5");
    let pieces = fragment4(&udp4(PEER, US, 5, 9, &data(4000)), 1480, 1);
    kit.rx(&pieces[0]);
    kit.rx(&pieces[1]);
    kit.pass(4 * SEC);
    assert_eq!(kit.cx.net.reasm.len(), 1);
    let before = kit.read();
    kit.pass(2 * SEC);
    let told = [("IcmpOutMsgs", 1), ("IcmpOutTimeExcds", 1)];
    let want = [("IpReasmTimeout", 1), ("IpReasmFails", 1), ("drop FragTimeout", 2)];
    kit.moved(&before, &[want[0], want[1], want[2], told[0], told[1]]);
    let sent = kit.tx();
    let icmp = Icmpv4Hdr::parse(&sent[0][20..]).expect("ICMP");
    assert_eq!((icmp.kind, icmp.code), (11, 1));
    // Without the first fragment nobody is told.
    kit.rx(&pieces[1]);
    kit.pass(10 * SEC);
    assert!(kit.tx().is_empty());
    kit.conserved();
}

#[test]
fn drop_frag6_timeout() {
    let (mut kit, _) = kit();
    kit.knob("net.ipv6.ip6frag_time", "5");
    let pieces = fragment6(&udp6(PEER6, US6, 5, 9, &data(4000)), 1440, 1);
    kit.rx(&pieces[0]);
    let before = kit.read();
    kit.pass(6 * SEC);
    let told = [("Icmp6OutMsgs", 1), ("Icmp6OutTimeExcds", 1)];
    let want = [("Ip6ReasmTimeout", 1), ("Ip6ReasmFails", 1), ("drop Frag6Timeout", 1)];
    kit.moved(&before, &[want[0], want[1], want[2], told[0], told[1]]);
}

/// How many fragments of packets that are never completed are dropped with this much memory.
fn dropped_with(v6: bool, bytes: &str) -> i64 {
    let (mut kit, _) = kit();
    let knob = if v6 { "net.ipv6.ip6frag_high_thresh" } else { "net.ipv4.ipfrag_high_thresh" };
    kit.knob(knob, bytes);
    let most: usize = bytes.parse().expect("a number");
    for i in 0..200 {
        if v6 {
            kit.rx(&fragment6(&udp6(PEER6, US6, 5, 9, &data(3000)), 1440, i)[0]);
        } else {
            kit.rx(&fragment4(&udp4(PEER, US, 5, 9, &data(3000)), 1480, i as u16)[0]);
        }
        assert!(kit.cx.net.reasm.mem().iter().all(|m| *m <= most));
    }
    kit.conserved();
    let now = kit.read();
    let (drop, fails) = if v6 {
        (now["drop Frag6Mem"], now["Ip6ReasmFails"])
    } else {
        (now["drop FragMem"], now["IpReasmFails"])
    };
    assert_eq!(drop, fails);
    drop
}

#[test]
fn drop_frag_mem() {
    assert!(dropped_with(false, "20000") > 150);
}

#[test]
fn drop_frag6_mem() {
    assert!(dropped_with(true, "20000") > 150);
}

#[test]
fn knob_net_ipv4_ipfrag_high_thresh() {
    let lost = ["0", "20000", "200000", "4194304"].map(|bytes| dropped_with(false, bytes));
    assert!(lost[0] == 200 && lost[3] == 0 && lost.is_sorted_by(|a, b| a > b), "{lost:?}");
}

#[test]
fn knob_net_ipv6_ip6frag_high_thresh() {
    let lost = ["0", "20000", "200000", "4194304"].map(|bytes| dropped_with(true, bytes));
    assert!(lost[0] == 200 && lost[3] == 0 && lost.is_sorted_by(|a, b| a > b), "{lost:?}");
}

#[test]
fn knob_net_ipv4_ipfrag_time() {
    for seconds in [2, 30, 100] {
        let (mut kit, _) = kit();
        kit.knob("net.ipv4.ipfrag_time", &seconds.to_string());
        kit.rx(&fragment4(&udp4(PEER, US, 5, 9, &data(4000)), 1480, 1)[0]);
        kit.pass((seconds - 1) * SEC);
        assert_eq!(kit.read()["IpReasmTimeout"], 0, "{seconds} s");
        // The wheel may be late by an eighth.
        kit.pass((2 + seconds / 8) * SEC);
        assert_eq!(kit.read()["IpReasmTimeout"], 1, "{seconds} s");
    }
}

#[test]
fn knob_net_ipv6_ip6frag_time() {
    for seconds in [2, 60, 100] {
        let (mut kit, _) = kit();
        kit.knob("net.ipv6.ip6frag_time", &seconds.to_string());
        kit.rx(&fragment6(&udp6(PEER6, US6, 5, 9, &data(4000)), 1440, 1)[0]);
        kit.pass((seconds - 1) * SEC);
        assert_eq!(kit.read()["Ip6ReasmTimeout"], 0, "{seconds} s");
        // The wheel may be late by an eighth.
        kit.pass((2 + seconds / 8) * SEC);
        assert_eq!(kit.read()["Ip6ReasmTimeout"], 1, "{seconds} s");
    }
}

#[test]
fn drop_frag_too_far() {
    let (mut kit, sock) = kit();
    kit.knob("net.ipv4.ipfrag_max_dist", "1");
    let old = fragment4(&udp4(PEER, US, 5, 9, &data(2000)), 1480, 1);
    kit.rx(&old[0]);
    for id in 10..13 {
        kit.rx(&fragment4(&udp4(PEER, US, 5, 9, &data(2000)), 1480, id)[0]);
    }
    let before = kit.read();
    kit.rx(&old[1]);
    let want = [("IpInReceives", 1), ("IpReasmReqds", 1), ("IpReasmFails", 1)];
    kit.moved(&before, &[want[0], want[1], want[2], ("drop FragTooFar", 1)]);
    assert_eq!(take(&mut kit, sock), None);
}

#[test]
fn knob_net_ipv4_ipfrag_max_dist() {
    for (max, far) in [("4", true), ("64", false), ("0", false)] {
        let (mut kit, sock) = kit();
        kit.knob("net.ipv4.ipfrag_max_dist", max);
        let old = fragment4(&udp4(PEER, US, 5, 9, &data(2000)), 1480, 1);
        kit.rx(&old[0]);
        for id in 10..20 {
            kit.rx(&fragment4(&udp4(PEER, US, 5, 9, &data(2000)), 1480, id)[0]);
        }
        kit.rx(&old[1]);
        assert_eq!(take(&mut kit, sock).is_none(), far);
        assert_eq!(kit.read()["drop FragTooFar"], far as i64);
        kit.conserved();
    }
}

#[test]
fn congestion_of_one_fragment_is_the_packets() {
    for (tos, want) in [([2, 3], Some(3)), ([0, 0], Some(0)), ([0, 3], None), ([2, 2], Some(2))] {
        let (mut kit, sock) = kit();
        let whole = udp4(PEER, US, 5, 9, &data(2000));
        for (piece, tos) in fragment4(&whole, 1480, 1).iter().zip(tos) {
            let mut piece = piece.clone();
            let hdr = Ipv4Hdr::parse(&piece).expect("a header");
            Ipv4Hdr { tos, ..hdr }.emit(&mut piece);
            kit.rx(&piece);
        }
        let got = kit.cx.udp_recv(sock);
        assert_eq!(got.as_ref().map(|d| d.tos()), want);
        if let Some(got) = got {
            kit.cx.udp_done(got);
        }
        kit.conserved();
    }
}
