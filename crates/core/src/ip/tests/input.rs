use crate::ip::testkit::*;
use crate::pkt::{Gso, GsoKind};
use crate::udp::api::UdpBind;
use crate::wire::*;

const DELIVERED: [(&str, i64); 2] = [("IpInReceives", 1), ("IpInDelivers", 1)];

fn bind(kit: &mut Kit, port: u16) -> crate::sock::SocketId {
    kit.cx.udp_bind(UdpBind { port, ..Default::default() }).expect("bound")
}

/// Counters of an IPv4 packet that was dropped before it was delivered.
fn received(more: &[(&'static str, i64)]) -> Vec<(&'static str, i64)> {
    let mut all = vec![("IpInReceives", 1)];
    all.extend_from_slice(more);
    all
}

fn received6(more: &[(&'static str, i64)]) -> Vec<(&'static str, i64)> {
    let mut all = vec![("Ip6InReceives", 1)];
    all.extend_from_slice(more);
    all
}

#[test]
fn a_datagram_arrives_over_both_versions() {
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 53);
    let before = kit.read();
    kit.rx(&udp4(PEER, US, 1000, 53, b"four"));
    kit.moved(&before, &DELIVERED);
    kit.rx(&udp6(PEER6, US6, 1000, 53, b"six"));
    for want in [&b"four"[..], b"six"] {
        let got = kit.cx.udp_recv(sock).expect("a datagram");
        assert_eq!(got.slices().flatten().copied().collect::<Vec<u8>>(), want);
        assert_eq!(got.ttl(), 64);
        kit.cx.udp_done(got);
    }
    kit.conserved();
}

#[test]
fn padding_behind_the_packet_is_cut_off() {
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 53);
    let mut packet = udp4(PEER, US, 1000, 53, b"x");
    packet.extend_from_slice(&[0xaa; 20]);
    kit.rx(&packet);
    let got = kit.cx.udp_recv(sock).expect("a datagram");
    assert_eq!(got.len(), 1);
    kit.cx.udp_done(got);
    kit.conserved();
}

#[test]
fn drop_ip_hdr() {
    for change in [0, 1, 2] {
        let mut kit = Kit::tun();
        let before = kit.read();
        let mut packet = udp4(PEER, US, 1, 2, b"");
        match change {
            0 => packet.truncate(19),
            1 => packet[0] = 0x44,
            _ => packet = v4_with(PEER, US, 17, &[0; 8], |h| h.total_len = 12),
        }
        kit.rx(&packet);
        kit.moved(&before, &received(&[("IpInHdrErrors", 1), ("drop IpHdr", 1)]));
    }
}

#[test]
fn drop_ip_csum() {
    let mut kit = Kit::tun();
    let before = kit.read();
    let mut packet = udp4(PEER, US, 1, 2, b"");
    packet[8] ^= 1;
    kit.rx(&packet);
    let more = [("IpInHdrErrors", 1), ("IpInCsumErrors", 1), ("drop IpCsum", 1)];
    kit.moved(&before, &received(&more));
}

#[test]
fn drop_ip_truncated() {
    let mut kit = Kit::tun();
    let before = kit.read();
    let packet = udp4(PEER, US, 1, 2, b"twenty bytes of data");
    kit.rx(&packet[..packet.len() - 1]);
    kit.moved(&before, &received(&[("IpInTruncatedPkts", 1), ("drop IpTruncated", 1)]));
    // A super-packet whose length lies, either way.
    let gso = Some(Gso { kind: GsoKind::Udp, size: 10, segs: 2, ecn: false });
    let before = kit.read();
    let mut long = packet.clone();
    long.push(0);
    kit.rx_on(0, &long, gso);
    kit.moved(&before, &received(&[("IpInTruncatedPkts", 1), ("drop IpTruncated", 1)]));
}

#[test]
fn options_are_checked_and_source_routes_refused() {
    let with = |options: &[u8]| {
        let mut packet = v4_with(PEER, US, 17, &[0; 8], |h| {
            h.ihl_bytes = 20 + options.len();
            h.total_len = (28 + options.len()) as u16;
        });
        packet[20..20 + options.len()].copy_from_slice(options);
        let hdr = Ipv4Hdr::parse(&packet).expect("a header");
        hdr.emit(&mut packet);
        packet
    };
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 9);
    let mut packet = with(&[7, 7, 4, 0, 0, 0, 0, 0]);
    packet[28..].copy_from_slice(&udp(PEER, US, 5, 9, b""));
    kit.rx(&packet);
    let got = kit.cx.udp_recv(sock).expect("a record route option is no harm");
    kit.cx.udp_done(got);
    // A strict source route.
    let before = kit.read();
    kit.rx(&with(&[137, 7, 4, 10, 0, 0, 9, 0]));
    kit.moved(&before, &received(&[("IpInHdrErrors", 1), ("drop IpHdr", 1)]));
    // A pointer that can not be: the sender is told where.
    let before = kit.read();
    kit.rx(&with(&[7, 7, 1, 0, 0, 0, 0, 0]));
    let told = [("IcmpOutMsgs", 1), ("IcmpOutParmProbs", 1)];
    kit.moved(&before, &received(&[("IpInHdrErrors", 1), ("drop IpHdr", 1), told[0], told[1]]));
    let sent = kit.tx();
    assert_eq!(sent.len(), 1);
    let icmp = Icmpv4Hdr::parse(&sent[0][20..]).expect("ICMP");
    assert_eq!((icmp.kind, icmp.pointer()), (12, 22));
}

/// A frame for all, with a packet for us alone.
fn unicast_in_broadcast() -> Vec<u8> {
    eth(Mac::BROADCAST, PEER_MAC, ETH_P_IP, &udp4(PEER, US, 1, 2, b""))
}

#[test]
fn drop_unicast_in_l2_multicast() {
    let mut kit = Kit::eth();
    kit.knob("net.ipv4.conf.all.drop_unicast_in_l2_multicast", "1");
    let sock = bind(&mut kit, 2);
    let before = kit.read();
    kit.rx(&unicast_in_broadcast());
    kit.moved(&before, &received(&[("drop UnicastInL2Multicast", 1)]));
    // What was meant for all arrives.
    let before = kit.read();
    kit.rx(&eth(Mac::BROADCAST, PEER_MAC, ETH_P_IP, &udp4(PEER, "10.0.0.255", 1, 2, b"")));
    kit.moved(&before, &received(&[("IpInBcastPkts", 1), ("IpInDelivers", 1)]));
    let got = kit.cx.udp_recv(sock).expect("a broadcast");
    kit.cx.udp_done(got);
}

#[test]
fn knob_net_ipv4_conf_all_drop_unicast_in_l2_multicast() {
    for (value, dropped) in [("0", 0), ("1", 1)] {
        let mut kit = Kit::eth();
        kit.knob("net.ipv4.conf.all.drop_unicast_in_l2_multicast", value);
        bind(&mut kit, 2);
        kit.rx(&unicast_in_broadcast());
        let now = kit.read();
        assert_eq!((now["drop UnicastInL2Multicast"], now["IpInDelivers"]), (dropped, 1 - dropped));
    }
}

/// Nobody answers what came to many: not a closed port, not TCP.
#[test]
fn what_came_to_many_is_not_answered() {
    let mut kit = Kit::eth();
    kit.rx(&unicast_in_broadcast());
    kit.rx(&eth(Mac::BROADCAST, PEER_MAC, ETH_P_IP, &v4(PEER, US, 6, &[0x50; 20])));
    assert!(kit.tx().is_empty());
    let now = kit.read();
    assert_eq!((now["drop UdpNoPort"], now["drop NoSocket"], now["IcmpOutMsgs"]), (1, 1, 0));
    kit.conserved();
}

#[test]
fn drop_ip6_hdr() {
    let mut kit = Kit::tun();
    let before = kit.read();
    kit.rx(&udp6(PEER6, US6, 1, 2, b"12345678")[..39]);
    kit.moved(&before, &received6(&[("Ip6InHdrErrors", 1), ("drop Ip6Hdr", 1)]));
}

#[test]
fn drop_ip6_truncated() {
    let mut kit = Kit::tun();
    let packet = udp6(PEER6, US6, 1, 2, b"12345678");
    let before = kit.read();
    kit.rx(&packet[..packet.len() - 1]);
    kit.moved(&before, &received6(&[("Ip6InTruncatedPkts", 1), ("drop Ip6Truncated", 1)]));
}

#[test]
fn drop_ip6_addr() {
    let mut kit = Kit::tun();
    for (src, dst) in [("ff02::5", US6), ("::1", US6), (PEER6, "::1"), (PEER6, "ff01::1")] {
        let before = kit.read();
        kit.rx(&v6(src, dst, 17, &[0; 8]));
        kit.moved(&before, &received6(&[("Ip6InAddrErrors", 1), ("drop Ip6Addr", 1)]));
    }
}

#[test]
fn drop_ip6_option() {
    let mut kit = Kit::tun();
    // Unknown option 0x40: discard silently; 0x80: discard and tell.
    for (kind, told) in [(0x40, 0), (0x80, 1)] {
        let before = kit.read();
        let mut payload = vec![17, 0, kind, 2, 0, 0, 1, 0];
        payload.extend_from_slice(&udp(PEER6, US6, 1, 2, b""));
        kit.rx(&v6(PEER6, US6, IPPROTO_HOPOPTS, &payload));
        let mut want = received6(&[("Ip6InHdrErrors", 1), ("drop Ip6Option", 1)]);
        if told == 1 {
            want.extend_from_slice(&[("Icmp6OutMsgs", 1), ("Icmp6OutParmProblems", 1)]);
        }
        kit.moved(&before, &want);
    }
    let sent = kit.tx();
    let icmp = Icmpv6Hdr::parse(&sent[0][40..]).expect("ICMPv6");
    assert_eq!((icmp.kind, icmp.code, icmp.pointer()), (4, 2, 42));
    assert!(Icmpv6Hdr::csum_ok(&sent[0][40..], ip6(US6), ip6(PEER6)));
}

#[test]
fn hop_by_hop_must_come_first() {
    let mut kit = Kit::tun();
    let before = kit.read();
    let pad = [1, 4, 0, 0, 0, 0];
    let mut payload = vec![IPPROTO_HOPOPTS, 0];
    payload.extend_from_slice(&pad);
    payload.extend_from_slice(&[17, 0]);
    payload.extend_from_slice(&pad);
    payload.extend_from_slice(&udp(PEER6, US6, 1, 2, b""));
    kit.rx(&v6(PEER6, US6, IPPROTO_DSTOPTS, &payload));
    let told = [("Icmp6OutMsgs", 1), ("Icmp6OutParmProblems", 1)];
    kit.moved(&before, &received6(&[("Ip6InHdrErrors", 1), ("drop Ip6Hdr", 1), told[0], told[1]]));
}

#[test]
fn drop_ip6_disabled() {
    let mut kit = Kit::tun();
    kit.knob("net.ipv6.conf.all.disable_ipv6", "1");
    let before = kit.read();
    kit.rx(&udp6(PEER6, US6, 1, 2, b""));
    kit.moved(&before, &received6(&[("Ip6InDiscards", 1), ("drop Ip6Disabled", 1)]));
}

#[test]
fn knob_net_ipv6_conf_all_disable_ipv6() {
    let mut kit = Kit::tun();
    for (value, dropped) in [("0", 0), ("1", 1), ("0", 1)] {
        kit.knob("net.ipv6.conf.all.disable_ipv6", value);
        kit.rx(&udp6(PEER6, US6, 1, 2, b""));
        assert_eq!(kit.read()["drop Ip6Disabled"], dropped, "{value}");
    }
}

#[test]
fn ecn_is_counted_in_segments() {
    let mut kit = Kit::tun();
    let before = kit.read();
    let packet = v4_with(PEER, US, 17, &udp(PEER, US, 1, 2, &[0; 30]), |h| h.tos = 2);
    let gso = Some(Gso { kind: GsoKind::Udp, size: 10, segs: 3, ecn: false });
    kit.rx_on(0, &packet, gso);
    let now = kit.read();
    assert_eq!(now["IpInECT0Pkts"] - before["IpInECT0Pkts"], 3);
    assert_eq!(now["IpInReceives"] - before["IpInReceives"], 1);
    assert_eq!(now["IpInOctets"] - before["IpInOctets"], packet.len() as i64);
}
