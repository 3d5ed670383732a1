use crate::ip::testkit::*;
use crate::udp::api::UdpBind;
use crate::udp::output::SendTo;
use crate::wire::*;

fn send(kit: &mut Kit, how: SendTo, len: usize) {
    let sock = kit.cx.udp_bind(Default::default()).expect("bound");
    let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
    kit.cx.udp_send(sock, how, &[&data]).expect("sent");
}

/// The transport checksum of a packet that left, which may have been left to the device: here it
/// has no such device, so that the test completes it as the stage before the ring would.
fn udp_ok(packet: &[u8]) -> bool {
    let (src, dst, at): (std::net::IpAddr, std::net::IpAddr, usize) = if packet[0] >> 4 == 4 {
        let h = Ipv4Hdr::parse(packet).expect("a header");
        (h.src.into(), h.dst.into(), 20)
    } else {
        let h = Ipv6Hdr::parse(packet).expect("a header");
        (h.src.into(), h.dst.into(), 40)
    };
    let sum = crate::pkt::pseudo(src, dst, packet.len() - at, 17);
    // Either whole, or the pseudo header's sum alone stands in the field.
    let field = u16::from_be_bytes([packet[at + 6], packet[at + 7]]);
    let whole =
        linerate_arch::csum::csum_fold(linerate_arch::csum::csum_partial(&packet[at..], sum));
    whole == 0 || field == !linerate_arch::csum::csum_fold(sum)
}

#[test]
fn headers_are_right_and_the_source_is_chosen() {
    let mut kit = Kit::tun();
    let before = kit.read();
    send(&mut kit, SendTo { tos: 0x28, ttl: 9, ..SendTo::to((ip(PEER), 9).into()) }, 100);
    let sent = kit.tx();
    assert_eq!(sent.len(), 1);
    let h = Ipv4Hdr::parse(&sent[0]).expect("a header");
    assert!(Ipv4Hdr::csum_ok(&sent[0]));
    assert_eq!((h.src, h.dst, h.ttl, h.tos), (ip4(US), ip4(PEER), 9, 0x28));
    assert_eq!(h.total_len as usize, sent[0].len());
    assert!(udp_ok(&sent[0]), "the checksum knows of the source that was chosen");
    let want = [
        ("IpOutRequests", 1),
        ("IpOutTransmits", 1),
        ("UdpOutDatagrams", 1),
        ("DevTxPackets", 1),
        ("DevTxBytes", 128),
    ];
    kit.moved(&before, &want);
    send(&mut kit, SendTo::to((ip(PEER6), 9).into()), 100);
    let sent = kit.tx();
    let h = Ipv6Hdr::parse(&sent[0]).expect("a header");
    assert_eq!((h.src, h.dst, h.hop_limit), (ip6(US6), ip6(PEER6), 64));
    assert_eq!(h.payload_len, 108);
    assert!(udp_ok(&sent[0]));
}

#[test]
fn knob_net_ipv4_ip_default_ttl() {
    for ttl in [64, 33, 255] {
        let mut kit = Kit::tun();
        kit.knob("net.ipv4.ip_default_ttl", &ttl.to_string());
        send(&mut kit, SendTo::to((ip(PEER), 9).into()), 1);
        assert_eq!(kit.tx()[0][8], ttl);
    }
}

#[test]
fn knob_net_ipv6_conf_all_hop_limit() {
    for hops in [64, 44, 255] {
        let mut kit = Kit::tun();
        kit.knob("net.ipv6.conf.all.hop_limit", &hops.to_string());
        send(&mut kit, SendTo::to((ip(PEER6), 9).into()), 1);
        assert_eq!(kit.tx()[0][7], hops);
    }
}

#[test]
fn knob_net_ipv4_ip_no_pmtu_disc() {
    for (value, df) in [("0", true), ("1", false)] {
        let mut kit = Kit::tun();
        kit.knob("net.ipv4.ip_no_pmtu_disc", value);
        let remote = (ip(PEER), 80).into();
        let connect = crate::tcp::Connect { local: None, remote, user: 0 };
        kit.cx.tcp_connect(connect).expect("a way");
        let syn = &kit.tx()[0];
        assert_eq!(Ipv4Hdr::parse(syn).expect("a header").df, df, "{value}");
    }
}

/// Sixty datagrams for a device that takes nothing.
fn crowd(queue: &str) -> Kit {
    let mut kit = Kit::tun();
    kit.knob("dev.txqueuelen", queue);
    let sock = kit.cx.udp_bind(Default::default()).expect("bound");
    for _ in 0..60 {
        kit.cx.udp_send(sock, SendTo::to((ip(PEER), 9).into()), &[b"x"]).expect("sent");
    }
    kit
}

#[test]
fn drop_qdisc_drop() {
    let mut kit = crowd("10");
    let before = kit.read();
    assert_eq!(kit.tx().len(), 10);
    let want = [
        ("IpOutRequests", 60),
        ("IpOutTransmits", 60),
        ("DevTxDropped", 50),
        ("drop QdiscDrop", 50),
        ("DevTxPackets", 10),
        ("DevTxBytes", 290),
    ];
    kit.moved(&before, &want);
    assert_eq!(kit.cx.net.ifaces[0].qdisc_drops(), 50);
}

#[test]
fn knob_dev_txqueuelen() {
    for (queue, lost) in [("1", 59), ("59", 1), ("60", 0), ("1000", 0)] {
        let mut kit = crowd(queue);
        kit.tx();
        assert_eq!(kit.read()["drop QdiscDrop"], lost, "{queue}");
    }
}

#[test]
fn drop_dev_tx_error() {
    let mut kit = crowd("1000");
    let before = kit.read();
    let refused = kit.refuse();
    assert_eq!(refused, 60);
    let want = [
        ("IpOutRequests", 60),
        ("IpOutTransmits", 60),
        ("DevTxErrors", 60),
        ("drop DevTxError", 60),
    ];
    kit.moved(&before, &want);
}

#[test]
fn drop_ip_out_no_route() {
    let mut kit = Kit::tun();
    let before = kit.read();
    send(&mut kit, SendTo::to((ip("192.0.2.1"), 9).into()), 1);
    assert!(kit.tx().is_empty());
    let want = [("IpOutRequests", 1), ("IpOutNoRoutes", 1), ("UdpOutDatagrams", 1)];
    kit.moved(&before, &[want[0], want[1], want[2], ("drop IpOutNoRoute", 1)]);
}

#[test]
fn drop_ip6_out_no_route() {
    let mut kit = Kit::tun();
    let before = kit.read();
    send(&mut kit, SendTo::to((ip("2001:db8::1"), 9).into()), 1);
    assert!(kit.tx().is_empty());
    let want = [("Ip6OutRequests", 1), ("Ip6OutNoRoutes", 1), ("Udp6OutDatagrams", 1)];
    kit.moved(&before, &[want[0], want[1], want[2], ("drop Ip6OutNoRoute", 1)]);
}

#[test]
fn packets_beyond_the_mtu_are_fragmented_and_the_pieces_fit() {
    let mut kit = Kit::tun();
    let before = kit.read();
    send(&mut kit, SendTo::to((ip(PEER), 9).into()), 4000);
    let sent = kit.tx();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [1500, 1500, 1068]);
    let mut whole = Vec::new();
    for (i, piece) in sent.iter().enumerate() {
        assert!(Ipv4Hdr::csum_ok(piece));
        let h = Ipv4Hdr::parse(piece).expect("a header");
        assert_eq!((h.mf, h.frag_off_bytes as usize), (i < 2, whole.len()));
        whole.extend_from_slice(&piece[20..]);
    }
    let sum = crate::pkt::pseudo(ip(US), ip(PEER), whole.len(), 17);
    let csum = linerate_arch::csum::csum_partial(&whole, sum);
    assert_eq!(linerate_arch::csum::csum_fold(csum), 0, "summed before it was split");
    let now = kit.read();
    assert_eq!(now["IpFragOKs"] - before["IpFragOKs"], 1);
    assert_eq!(now["IpFragCreates"] - before["IpFragCreates"], 3);
    send(&mut kit, SendTo::to((ip(PEER6), 9).into()), 4000);
    let sent = kit.tx();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|p| p.len() <= 1500 && p[6] == IPPROTO_FRAGMENT));
    kit.conserved();
}

#[test]
fn drop_frag_needed() {
    let mut kit = Kit::tun();
    let sock = kit.cx.udp_bind(UdpBind::default()).expect("bound");
    let before = kit.read();
    let how = SendTo { df: true, ..SendTo::to((ip(PEER), 9).into()) };
    kit.cx.udp_send(sock, how, &[&[0; 1600]]).expect("sent");
    assert!(kit.tx().is_empty());
    let now = kit.read();
    assert_eq!(now["drop FragNeeded"] - before["drop FragNeeded"], 1);
    assert_eq!(now["IpFragFails"] - before["IpFragFails"], 1);
    let (to, kind) = kit.cx.udp_take_error(sock).expect("the socket hears of it");
    assert_eq!((to.ip(), kind), (ip(PEER), crate::tcp::icmp::ErrKind::FragNeeded(1500)));
    assert_eq!(kit.cx.udp_take_error(sock), None);
    kit.conserved();
}

/// By a way that is known, what no length field can say is too large as well, and is not without a route.
#[test]
fn what_is_larger_than_a_packet_may_be_is_not_sent_on() {
    for (peer, us, reason) in [(PEER, US, "drop FragNeeded"), (PEER6, US6, "drop Frag6Needed")] {
        let mut kit = Kit::tun();
        let before = kit.read();
        let route = kit.cx.net.route_out(ip(peer)).expect("a route");
        let mut pkt = kit.cx.net.pool.alloc().expect("a packet");
        pkt.put(1000);
        let large = kit.cx.net.pool.alloc_large().expect("a buffer");
        pkt.add_buf(large, 0, crate::pkt::LARGE);
        (pkt.src, pkt.dst) = (ip(us), ip(peer));
        assert!(!kit.cx.net.send_on(pkt, &route));
        let now = kit.read();
        assert_eq!(now[reason] - before[reason], 1, "{peer}");
        kit.conserved();
    }
}

#[test]
fn drop_frag6_needed() {
    let mut kit = Kit::tun();
    let before = kit.read();
    let how = SendTo { df: true, ..SendTo::to((ip(PEER6), 9).into()) };
    send(&mut kit, how, 1600);
    assert!(kit.tx().is_empty());
    let now = kit.read();
    assert_eq!(now["drop Frag6Needed"] - before["drop Frag6Needed"], 1);
    assert_eq!(now["Ip6FragFails"] - before["Ip6FragFails"], 1);
    kit.conserved();
}

#[test]
fn identification_differs_between_packets_that_may_be_fragmented() {
    let mut kit = Kit::tun();
    let sock = kit.cx.udp_bind(Default::default()).expect("bound");
    for df in [false, false, true] {
        let how = SendTo { df, ..SendTo::to((ip(PEER), 9).into()) };
        kit.cx.udp_send(sock, how, &[b"x"]).expect("sent");
    }
    let sent = kit.tx();
    let ids: Vec<u16> = sent.iter().map(|p| Ipv4Hdr::parse(p).expect("a header").id).collect();
    assert_eq!(ids[1], ids[0].wrapping_add(1));
    assert_eq!(ids[2], 0, "a packet that can not be fragmented needs none");
}
