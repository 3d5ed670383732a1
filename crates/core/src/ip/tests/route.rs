use crate::ip::route::{Route, RouteError, RouteKind};
use crate::ip::testkit::*;
use crate::link::{Iface, L2};
use crate::wire::*;

fn dropped(kit: &mut Kit, packet: &[u8], want: &[(&'static str, i64)]) {
    let before = kit.read();
    kit.rx(packet);
    let v4 = packet[0] >> 4 == 4;
    let mut all = vec![(if v4 { "IpInReceives" } else { "Ip6InReceives" }, 1)];
    all.extend_from_slice(want);
    kit.moved(&before, &all);
}

#[test]
fn drop_ip_not_for_us() {
    let mut kit = Kit::tun();
    let want = [("IpInAddrErrors", 1), ("drop IpNotForUs", 1)];
    dropped(&mut kit, &udp4(PEER, "192.0.2.1", 1, 2, b""), &want);
    // A group that nobody here is in; nothing is said about it.
    let want = [("IpInAddrErrors", 1), ("IpInMcastPkts", 1), ("drop IpNotForUs", 1)];
    dropped(&mut kit, &udp4(PEER, "239.1.2.3", 1, 2, b""), &want);
    assert!(kit.tx().is_empty());
}

#[test]
fn drop_ip6_not_for_us() {
    let mut kit = Kit::tun();
    let want = [("Ip6InAddrErrors", 1), ("drop Ip6NotForUs", 1)];
    dropped(&mut kit, &udp6(PEER6, "2001:db8::1", 1, 2, b""), &want);
    assert!(kit.tx().is_empty());
}

#[test]
fn knob_net_ipv4_ip_forward() {
    let mut kit = Kit::tun();
    kit.add_tun();
    for (value, onwards) in [("0", 0), ("1", 1), ("0", 1)] {
        kit.knob("net.ipv4.ip_forward", value);
        kit.rx(&udp4(PEER, "10.1.0.9", 1, 2, b""));
        assert_eq!(kit.read()["IpForwDatagrams"], onwards, "{value}");
    }
    assert_eq!(kit.read()["drop IpNotForUs"], 2);
}

#[test]
fn knob_net_ipv6_conf_all_forwarding() {
    let mut kit = Kit::tun();
    kit.add_tun();
    for (value, onwards) in [("0", 0), ("1", 1), ("0", 1)] {
        kit.knob("net.ipv6.conf.all.forwarding", value);
        kit.rx(&udp6(PEER6, "fd01::9", 1, 2, b""));
        assert_eq!(kit.read()["Ip6OutForwDatagrams"], onwards, "{value}");
    }
    assert_eq!(kit.read()["drop Ip6NotForUs"], 2);
}

#[test]
fn drop_ip_martian() {
    let martian = [("IpInAddrErrors", 1), ("drop IpMartian", 1)];
    for (src, dst) in [
        ("224.0.0.9", US),
        ("255.255.255.255", US),
        ("127.0.0.1", US),
        ("0.0.0.0", US),
        (PEER, "127.0.0.1"),
        (PEER, "0.1.2.3"),
        (US, US),
        ("10.0.0.255", US),
    ] {
        dropped(&mut Kit::tun(), &udp4(src, dst, 1, 2, b""), &martian);
    }
    dropped(&mut Kit::tun(), &udp6(US6, US6, 1, 2, b""), &martian);
}

#[test]
fn knob_net_ipv4_conf_all_rp_filter() {
    let mut kit = Kit::tun();
    kit.add_tun();
    let refused = [("TcpExtIPReversePathFilter", 1), ("drop IpRpFilter", 1)];
    let packet = udp4("10.1.0.9", US, 1, 2, b"");
    let port_gone =
        [("IpInDelivers", 1), ("UdpNoPorts", 1), ("drop UdpNoPort", 1), ("IcmpOutMsgs", 1)];
    let mut passes = port_gone.to_vec();
    passes.push(("IcmpOutDestUnreachs", 1));
    dropped(&mut kit, &packet, &passes);
    kit.knob("net.ipv4.conf.all.rp_filter", "1");
    dropped(&mut kit, &packet, &refused);
    kit.knob("net.ipv4.conf.all.rp_filter", "2");
    dropped(&mut kit, &packet, &passes);
    dropped(&mut kit, &udp4("192.0.2.1", US, 1, 2, b""), &refused);
}

#[test]
fn drop_ip_rp_filter() {
    let mut kit = Kit::tun();
    kit.add_tun();
    kit.knob("net.ipv4.conf.all.rp_filter", "1");
    let refused = [("TcpExtIPReversePathFilter", 1), ("drop IpRpFilter", 1)];
    dropped(&mut kit, &udp4("10.1.0.9", US, 1, 2, b""), &refused);
}

#[test]
fn drop_ip_in_no_route() {
    let mut kit = Kit::tun();
    kit.knob("net.ipv4.ip_forward", "1");
    let told = [("IcmpOutMsgs", 1), ("IcmpOutDestUnreachs", 1)];
    let want = [("IpInNoRoutes", 1), ("drop IpInNoRoute", 1), told[0], told[1]];
    dropped(&mut kit, &udp4(PEER, "192.0.2.1", 1, 2, b""), &want);
    let sent = kit.tx();
    let icmp = Icmpv4Hdr::parse(&sent[0][20..]).expect("ICMP");
    assert_eq!((icmp.kind, icmp.code), (3, 0));
}

#[test]
fn drop_ip6_in_no_route() {
    let mut kit = Kit::tun();
    kit.knob("net.ipv6.conf.all.forwarding", "1");
    let told = [("Icmp6OutMsgs", 1), ("Icmp6OutDestUnreachs", 1)];
    let want = [("Ip6InNoRoutes", 1), ("drop Ip6InNoRoute", 1), told[0], told[1]];
    dropped(&mut kit, &udp6(PEER6, "2001:db8::1", 1, 2, b""), &want);
    let sent = kit.tx();
    let icmp = Icmpv6Hdr::parse(&sent[0][40..]).expect("ICMPv6");
    assert_eq!((icmp.kind, icmp.code), (1, 0));
}

#[test]
fn drop_route_prohibit() {
    let mut kit = Kit::tun();
    for (i, (kind, code)) in [
        (RouteKind::Prohibit, Some(13)),
        (RouteKind::Unreachable, Some(1)),
        (RouteKind::Blackhole, None),
    ]
    .into_iter()
    .enumerate()
    {
        let dst = format!("192.0.2.{i}");
        kit.cx.add_route(Route::new(ip(&dst), 32, kind, 0)).expect("added");
        let mut want = vec![("drop RouteProhibit", 1)];
        if code.is_some() {
            want.extend_from_slice(&[("IcmpOutMsgs", 1), ("IcmpOutDestUnreachs", 1)]);
        }
        dropped(&mut kit, &udp4(PEER, &dst, 1, 2, b""), &want);
        let sent = kit.tx();
        let said = sent.first().map(|p| Icmpv4Hdr::parse(&p[20..]).expect("ICMP").code);
        assert_eq!(said, code);
        assert!(kit.cx.net.route_out(ip(&dst)).is_none());
    }
}

#[test]
fn addresses_and_routes_come_and_go() {
    let mut kit = Kit::tun();
    assert_eq!(kit.cx.add_addr(0, ip(US), 24), Err(RouteError::Exists));
    assert_eq!(kit.cx.add_addr(9, ip("10.9.9.9"), 24), Err(RouteError::Invalid));
    assert_eq!(kit.cx.add_addr(0, ip("10.9.9.9"), 33), Err(RouteError::Invalid));
    assert_eq!(kit.cx.del_addr(0, ip("10.9.9.9")), Err(RouteError::NotFound));
    // A second address of the subnet keeps the subnet when the first one goes.
    kit.cx.add_addr(0, ip("10.0.0.7"), 24).expect("added");
    kit.cx.del_addr(0, ip(US)).expect("gone");
    assert!(!kit.cx.net.fib.is_local(ip(US)));
    let way = kit.cx.net.route_out(ip(PEER)).expect("the subnet is still there");
    assert_eq!(way.src, Some(ip("10.0.0.7")));
    kit.cx.del_addr(0, ip("10.0.0.7")).expect("gone");
    assert!(kit.cx.net.route_out(ip(PEER)).is_none());
    // A default route, with a source and an MTU of its own, and its end.
    kit.cx.add_addr(0, ip(US), 24).expect("added");
    let default = Route {
        mtu: Some(1400),
        src: Some(ip("10.0.0.1")),
        ..Route::via(ip("0.0.0.0"), 0, ip(PEER), 0)
    };
    kit.cx.add_route(default).expect("added");
    let way = kit.cx.net.route_out(ip("192.0.2.1")).expect("a way");
    assert_eq!((way.nexthop, way.mtu, way.local), (ip(PEER), 1400, false));
    kit.cx.del_route(&default).expect("gone");
    assert!(kit.cx.net.route_out(ip("192.0.2.1")).is_none());
    assert_eq!(kit.cx.del_route(&default), Err(RouteError::NotFound));
}

#[test]
fn the_source_address_fits_the_destination() {
    let mut kit = Kit::tun();
    kit.cx.add_addr(0, ip("10.7.0.1"), 16).expect("added");
    kit.cx.add_addr(0, ip("fe80::1"), 64).expect("added");
    kit.cx.add_addr(0, ip("2001:db8:1::1"), 64).expect("added");
    kit.cx.add_route(Route::via(ip("::"), 0, ip("fe80::99"), 0)).expect("added");
    let src = |dst: &str| kit.cx.net.route_out(ip(dst)).expect("a way").src;
    assert_eq!(src("10.7.3.3"), Some(ip("10.7.0.1")));
    assert_eq!(src(PEER), Some(ip(US)));
    assert_eq!(src("fe80::77"), Some(ip("fe80::1")));
    assert_eq!(src("2001:db8:1::9"), Some(ip("2001:db8:1::1")));
    assert_eq!(src("fd00::9"), Some(ip(US6)));
    assert_eq!(src(US), Some(ip(US)));
    assert_eq!(src("ff02::1"), Some(ip("fe80::1")));
}

#[test]
fn any_ip_makes_every_destination_local_but_for_groups() {
    let mut kit = Kit::tun();
    kit.cx.net.ifaces[0].any_ip = true;
    let sock = kit
        .cx
        .udp_bind(crate::udp::api::UdpBind { any_port: true, ..Default::default() })
        .expect("bound");
    for dst in ["192.0.2.1", "8.8.8.8", US] {
        kit.rx(&udp4(PEER, dst, 1, 2, b""));
        let got = kit.cx.udp_recv(sock).expect("delivered");
        assert_eq!(got.dst().ip(), ip(dst));
        kit.cx.udp_done(got);
    }
    kit.rx(&udp6(PEER6, "2001:db8::5", 1, 2, b""));
    let got = kit.cx.udp_recv(sock).expect("delivered");
    kit.cx.udp_done(got);
    let want = [("IpInAddrErrors", 1), ("IpInMcastPkts", 1), ("drop IpNotForUs", 1)];
    dropped(&mut kit, &udp4(PEER, "239.0.0.1", 1, 2, b""), &want);
    // The subnet's broadcast is a broadcast.
    let before = kit.read();
    kit.rx(&udp4(PEER, "10.0.0.255", 1, 2, b""));
    let want = [("IpInReceives", 1), ("IpInBcastPkts", 1), ("IpInDelivers", 1)];
    kit.moved(&before, &want);
}

#[test]
fn what_is_for_ourselves_loops_back_with_and_without_a_loopback_device() {
    for with_lo in [false, true] {
        let mut kit = Kit::eth();
        if with_lo {
            let lo = kit.cx.add_iface(Iface::new("lo", L2::Loopback, Mac::ZERO, 65536));
            kit.cx.add_addr(lo, ip("127.0.0.1"), 8).expect("added");
            kit.cx.add_addr(lo, ip("::1"), 128).expect("added");
        }
        let a = kit.cx.udp_bind(Default::default()).expect("bound");
        let b = kit.cx.udp_bind(Default::default()).expect("bound");
        let port = kit.cx.udp_port(b).expect("open");
        let mut to = vec![US, US6];
        if with_lo {
            to.extend_from_slice(&["127.0.0.1", "127.1.2.3", "::1"]);
        }
        for dst in to {
            let how = crate::udp::output::SendTo::to((ip(dst), port).into());
            kit.cx.udp_send(a, how, &[b"to ", b"myself"]).expect("sent");
            assert!(kit.tx().is_empty(), "nothing leaves");
            let got = kit.cx.udp_recv(b).expect("it came back");
            assert_eq!(got.slices().flatten().copied().collect::<Vec<u8>>(), b"to myself");
            assert_eq!(got.src().ip(), got.dst().ip());
            kit.cx.udp_done(got);
        }
        kit.conserved();
    }
}

/// Route remembers which pairs of addresses were for us. Whatever is changed, it must say of the
/// next packet what a stack says that has seen no packet before.
#[test]
fn what_route_remembers_is_as_good_as_new() {
    fn changed(change: u32) -> Kit {
        let mut kit = Kit::tun();
        kit.add_tun();
        apply(&mut kit, change);
        kit
    }
    fn apply(kit: &mut Kit, change: u32) {
        match change {
            0 => {}
            1 => kit.knob("net.ipv4.conf.all.rp_filter", "1"),
            2 => kit.knob("net.ipv4.conf.all.rp_filter", "2"),
            3 => kit.cx.del_addr(0, ip(US)).expect("gone"),
            4 => kit.cx.add_addr(1, ip(PEER), 32).expect("added"),
            5 => kit.cx.add_addr(1, ip("192.0.2.1"), 32).expect("added"),
            6 => kit.cx.net.ifaces[0].l2 = L2::Loopback,
            _ => kit.cx.net.ifaces[0].any_ip = true,
        }
    }
    let packets: Vec<(u8, Vec<u8>)> = [
        (0, PEER, US),
        (1, PEER, US),
        (0, "10.1.0.9", US),
        (0, "192.0.2.1", US),
        (0, PEER, "10.1.0.1"),
        (0, PEER, "192.0.2.1"),
        (0, "127.0.0.1", US),
        (0, PEER, "10.0.0.255"),
    ]
    .map(|(dev, src, dst)| (dev, udp4(src, dst, 1, 2, b"")))
    .to_vec();
    let outcome = |kit: &mut Kit, (dev, packet): &(u8, Vec<u8>)| {
        let before = kit.read();
        kit.rx_on(*dev, packet, None);
        let after = kit.read();
        // Answers of ICMP are rated, and so depend on what came before.
        let of_route = |n: &&str| n.starts_with("drop ") || n.starts_with("IpIn");
        let moved = after.iter().filter(|(n, v)| of_route(n) && before[*n] != **v);
        moved.map(|(n, v)| (*n, v - before[n])).collect::<Vec<_>>()
    };
    for change in 0..8 {
        let mut warm = changed(0);
        for packet in packets.iter().chain(&packets) {
            outcome(&mut warm, packet);
        }
        apply(&mut warm, change);
        for (i, packet) in packets.iter().enumerate() {
            let fresh = outcome(&mut changed(change), packet);
            assert_eq!(outcome(&mut warm, packet), fresh, "packet {i} after change {change}");
        }
    }
}
