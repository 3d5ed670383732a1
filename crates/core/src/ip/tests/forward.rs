use crate::ip::testkit::*;
use crate::pkt::{Gso, GsoKind};
use crate::wire::*;

fn router() -> Kit {
    let mut kit = Kit::tun();
    kit.add_tun();
    kit.knob("net.ipv4.ip_forward", "1");
    kit.knob("net.ipv6.conf.all.forwarding", "1");
    kit
}

const FAR: &str = "10.1.0.9";
const FAR6: &str = "fd01::9";

#[test]
fn a_packet_goes_on_with_one_hop_less() {
    let mut kit = router();
    let before = kit.read();
    let packet = udp4(PEER, FAR, 1, 2, b"onwards");
    kit.rx(&packet);
    let sent = kit.tx_on(1);
    let mut want = packet.clone();
    want[8] -= 1;
    let hdr = Ipv4Hdr::parse(&want).expect("a header");
    hdr.emit(&mut want);
    assert_eq!(sent, [want], "the mended checksum is the one that is summed anew");
    let moved = [("IpInReceives", 1), ("IpForwDatagrams", 1), ("IpOutTransmits", 1)];
    let dev = [("DevTxPackets", 1), ("DevTxBytes", packet.len() as i64)];
    kit.moved(&before, &[moved[0], moved[1], moved[2], dev[0], dev[1]]);
    kit.rx(&udp6(PEER6, FAR6, 1, 2, b"onwards"));
    let sent = kit.tx_on(1);
    assert_eq!(sent[0][7], 63);
}

#[test]
fn fragments_of_others_are_not_put_together() {
    let mut kit = router();
    let pieces = fragment4(&udp4(PEER, FAR, 5, 9, &[1; 3000]), 1480, 1);
    for piece in &pieces {
        kit.rx(piece);
    }
    assert_eq!(kit.tx_on(1).len(), pieces.len());
    assert_eq!(kit.read()["IpReasmReqds"], 0);
    kit.conserved();
}

#[test]
fn drop_ttl_exceeded() {
    let mut kit = router();
    let before = kit.read();
    kit.rx(&v4_with(PEER, FAR, 17, &[0; 8], |h| h.ttl = 1));
    let told = [("IcmpOutMsgs", 1), ("IcmpOutTimeExcds", 1)];
    let want = [("IpInReceives", 1), ("IpInHdrErrors", 1), ("drop TtlExceeded", 1)];
    kit.moved(&before, &[want[0], want[1], want[2], told[0], told[1]]);
    let sent = kit.tx();
    let hdr = Ipv4Hdr::parse(&sent[0]).expect("a header");
    assert_eq!((hdr.src, hdr.dst), (ip4(US), ip4(PEER)));
    let icmp = Icmpv4Hdr::parse(&sent[0][20..]).expect("ICMP");
    assert_eq!((icmp.kind, icmp.code), (11, 0));
    assert_eq!(sent[0][28 + 8], 1, "the quote is the packet as it came");
}

#[test]
fn drop_hop_limit_exceeded() {
    let mut kit = router();
    let before = kit.read();
    kit.rx(&v6_hops(PEER6, FAR6, 17, 1, &[0; 8]));
    let told = [("Icmp6OutMsgs", 1), ("Icmp6OutTimeExcds", 1)];
    let want = [("Ip6InReceives", 1), ("Ip6InHdrErrors", 1), ("drop HopLimitExceeded", 1)];
    kit.moved(&before, &[want[0], want[1], want[2], told[0], told[1]]);
}

#[test]
fn drop_forward_too_big() {
    let mut kit = router();
    kit.cx.net.ifaces[1].mtu = 1300;
    let big = |df| v4_with(PEER, FAR, 17, &udp(PEER, FAR, 1, 2, &[3; 1400]), |h| h.df = df);
    let before = kit.read();
    kit.rx(&big(true));
    let told = [("IcmpOutMsgs", 1), ("IcmpOutDestUnreachs", 1)];
    let want = [("IpInReceives", 1), ("IpFragFails", 1), ("drop ForwardTooBig", 1)];
    kit.moved(&before, &[want[0], want[1], want[2], told[0], told[1]]);
    let sent = kit.tx();
    let icmp = Icmpv4Hdr::parse(&sent[0][20..]).expect("ICMP");
    assert_eq!((icmp.kind, icmp.code, icmp.mtu()), (3, 4, 1300));
    // What may be split is split.
    kit.rx(&big(false));
    assert_eq!(kit.tx_on(1).len(), 2);
}

/// IPv6 packets of others are never split.
#[test]
fn drop_forward6_too_big() {
    let mut kit = router();
    kit.cx.net.ifaces[1].mtu = 1300;
    let before = kit.read();
    kit.rx(&udp6(PEER6, FAR6, 1, 2, &[3; 1400]));
    let told = [("Icmp6OutMsgs", 1), ("Icmp6OutPktTooBigs", 1)];
    let want = [("Ip6InReceives", 1), ("Ip6InTooBigErrors", 1), ("Ip6FragFails", 1)];
    let drop = ("drop Forward6TooBig", 1);
    kit.moved(&before, &[want[0], want[1], want[2], drop, told[0], told[1]]);
    let sent = kit.tx();
    let icmp = Icmpv6Hdr::parse(&sent[0][40..]).expect("ICMPv6");
    assert_eq!((icmp.kind, icmp.mtu()), (2, 1300));
}

#[test]
fn drop_forward_scope() {
    let mut kit = router();
    let before = kit.read();
    kit.rx(&udp4("169.254.1.1", FAR, 1, 2, b""));
    let want = [("IpInReceives", 1), ("IpInAddrErrors", 1), ("drop ForwardScope", 1)];
    kit.moved(&before, &want);
    let before = kit.read();
    kit.rx(&udp6("fe80::7", FAR6, 1, 2, b""));
    let told = [("Icmp6OutMsgs", 1), ("Icmp6OutDestUnreachs", 1)];
    let want = [("Ip6InReceives", 1), ("IpInAddrErrors", 1), ("drop ForwardScope", 1)];
    // The answer to a link-local address is routed at once: its device is known.
    let asked = ("Ip6OutRequests", 1);
    kit.moved(&before, &[want[0], want[1], want[2], told[0], told[1], asked]);
}

#[test]
fn a_super_packet_goes_on_whole_if_its_segments_fit() {
    let mut kit = router();
    kit.cx.net.ifaces[1].features.uso = true;
    let packet = udp4(PEER, FAR, 1, 2, &[5; 3000]);
    let gso = |size| Some(Gso { kind: GsoKind::Udp, size, segs: 3, ecn: false });
    kit.rx_on(0, &packet, gso(1000));
    assert_eq!(kit.read()["IpForwDatagrams"], 1);
    let mut big = packet;
    let hdr = Ipv4Hdr::parse(&big).expect("a header");
    Ipv4Hdr { df: true, ..hdr }.emit(&mut big);
    kit.rx_on(0, &big, gso(1480));
    assert_eq!(kit.read()["drop ForwardTooBig"], 1);
}
