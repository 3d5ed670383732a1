use crate::ip::testkit::*;
use crate::link::neigh::Nud;
use crate::sock::SockKind;
use crate::tcp::icmp::ErrKind;
use crate::time::{MS, SEC};
use crate::udp::api::UdpBind;
use crate::udp::output::SendTo;
use crate::wire::*;

use super::{IcmpErr, PingReply, icmp_error_quote, send_unreachable_quote};

fn echo4(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    v4(src, dst, 1, &icmp4(Icmpv4Hdr::echo(8, 3, 4), payload))
}

fn echo6(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    v6(src, dst, 58, &icmp6(src, dst, Icmpv6Hdr::echo(128, 3, 4), payload))
}

#[test]
fn echo_is_answered_over_both_versions() {
    let mut kit = Kit::tun();
    let before = kit.read();
    kit.rx(&echo4(PEER, US, b"ping"));
    let sent = kit.tx();
    let hdr = Ipv4Hdr::parse(&sent[0]).expect("a header");
    assert_eq!((hdr.src, hdr.dst, hdr.ttl), (ip4(US), ip4(PEER), 64));
    assert!(Icmpv4Hdr::csum_ok(&sent[0][20..]));
    let icmp = Icmpv4Hdr::parse(&sent[0][20..]).expect("ICMP");
    assert_eq!((icmp.kind, icmp.id(), icmp.seq(), &sent[0][28..]), (0, 3, 4, &b"ping"[..]));
    let want = [
        ("IpInReceives", 1),
        ("IpInDelivers", 1),
        ("IcmpInMsgs", 1),
        ("IcmpInEchos", 1),
        ("IcmpOutMsgs", 1),
        ("IcmpOutEchoReps", 1),
        ("IpOutRequests", 1),
        ("IpOutTransmits", 1),
        ("DevTxPackets", 1),
        ("DevTxBytes", 32),
    ];
    kit.moved(&before, &want);
    kit.rx(&echo6(PEER6, US6, b"ping"));
    let sent = kit.tx();
    assert!(Icmpv6Hdr::csum_ok(&sent[0][40..], ip6(US6), ip6(PEER6)));
    assert_eq!((sent[0][40], &sent[0][48..]), (129, &b"ping"[..]));
    // A large one comes in fragments and goes in fragments.
    for piece in fragment4(&echo4(PEER, US, &[9; 5000]), 1480, 1) {
        kit.rx(&piece);
    }
    assert_eq!(kit.tx().len(), 4);
    kit.conserved();
}

#[test]
fn drop_icmp_ignored() {
    let mut kit = Kit::tun();
    let before = kit.read();
    kit.rx(&echo4(PEER, "10.0.0.255", b""));
    let came = [("IpInReceives", 1), ("IpInBcastPkts", 1), ("IpInDelivers", 1), ("IcmpInMsgs", 1)];
    let want = [("IcmpInEchos", 1), ("drop IcmpIgnored", 1)];
    kit.moved(&before, &[&came[..], &want].concat());
    assert!(kit.tx().is_empty());
}

#[test]
fn knob_net_ipv4_icmp_echo_ignore_broadcasts() {
    let mut kit = Kit::tun();
    for (value, answers) in [("1", 0), ("0", 1)] {
        kit.knob("net.ipv4.icmp_echo_ignore_broadcasts", value);
        kit.rx(&echo4(PEER, "10.0.0.255", b""));
        let sent = kit.tx();
        assert_eq!(sent.len(), answers, "{value}");
        assert!(sent.iter().all(|p| Ipv4Hdr::parse(p).expect("a header").src == ip4(US)));
    }
    assert_eq!(kit.read()["drop IcmpIgnored"], 1);
}

#[test]
fn knob_net_ipv4_icmp_echo_ignore_all() {
    let mut kit = Kit::tun();
    for (value, answers) in [("0", 1), ("1", 1), ("0", 2)] {
        kit.knob("net.ipv4.icmp_echo_ignore_all", value);
        kit.rx(&echo4(PEER, US, b""));
        assert_eq!(kit.read()["IcmpOutEchoReps"], answers, "{value}");
    }
    assert_eq!(kit.read()["drop IcmpIgnored"], 1);
}

const CAME: [(&str, i64); 3] = [("IpInReceives", 1), ("IpInDelivers", 1), ("IcmpInMsgs", 1)];
const CAME6: [(&str, i64); 3] = [("Ip6InReceives", 1), ("Ip6InDelivers", 1), ("Icmp6InMsgs", 1)];

#[test]
fn drop_icmp_csum() {
    let mut kit = Kit::tun();
    let mut bad = echo4(PEER, US, b"x");
    bad[28] ^= 1;
    let before = kit.read();
    kit.rx(&bad);
    let want = [("IcmpInCsumErrors", 1), ("IcmpInErrors", 1), ("drop IcmpCsum", 1)];
    kit.moved(&before, &[CAME, want].concat());
}

#[test]
fn drop_icmp6_csum() {
    let mut kit = Kit::tun();
    let mut bad = echo6(PEER6, US6, b"x");
    bad[48] ^= 1;
    let before = kit.read();
    kit.rx(&bad);
    let want = [("Icmp6InCsumErrors", 1), ("Icmp6InErrors", 1), ("drop Icmp6Csum", 1)];
    kit.moved(&before, &[CAME6, want].concat());
}

/// An error that quotes nothing.
#[test]
fn drop_icmp_invalid() {
    let mut kit = Kit::tun();
    let before = kit.read();
    kit.rx(&v4(PEER, US, 1, &icmp4(Icmpv4Hdr::plain(3, 1), &[0; 12])));
    let want = [("IcmpInErrors", 1), ("IcmpInDestUnreachs", 1), ("drop IcmpInvalid", 1)];
    kit.moved(&before, &[CAME, want].concat());
}

#[test]
fn drop_icmp6_invalid() {
    let mut kit = Kit::tun();
    let before = kit.read();
    let err = icmp6(PEER6, US6, Icmpv6Hdr::error(1, 0, 0), &[0; 12]);
    kit.rx(&v6(PEER6, US6, 58, &err));
    let want = [("Icmp6InErrors", 1), ("Icmp6InDestUnreachs", 1), ("drop Icmp6Invalid", 1)];
    kit.moved(&before, &[CAME6, want].concat());
}

#[test]
fn drop_ip_no_proto() {
    let mut kit = Kit::tun();
    let before = kit.read();
    kit.rx(&v4(PEER, US, 200, b"12345678"));
    let told = [("IcmpOutMsgs", 1), ("IcmpOutDestUnreachs", 1)];
    let want = [("IpInReceives", 1), ("IpInUnknownProtos", 1), ("drop IpNoProto", 1)];
    kit.moved(&before, &[&want[..], &told].concat());
}

#[test]
fn drop_ip6_no_proto() {
    let mut kit = Kit::tun();
    let before = kit.read();
    kit.rx(&v6(PEER6, US6, 200, b"12345678"));
    let told = [("Icmp6OutMsgs", 1), ("Icmp6OutParmProblems", 1)];
    let want = [("Ip6InReceives", 1), ("Ip6InUnknownProtos", 1), ("drop Ip6NoProto", 1)];
    kit.moved(&before, &[&want[..], &told].concat());
}

#[test]
fn a_closed_port_is_told_and_the_quote_is_the_packet() {
    let mut kit = Kit::tun();
    let packet = udp4(PEER, US, 5, 6, &[7; 1000]);
    kit.rx(&packet);
    let sent = kit.tx();
    let icmp = Icmpv4Hdr::parse(&sent[0][20..]).expect("ICMP");
    assert_eq!((icmp.kind, icmp.code), (3, 3));
    assert!(Icmpv4Hdr::csum_ok(&sent[0][20..]));
    assert_eq!(sent[0].len(), 576);
    assert_eq!(sent[0][28..], packet[..548]);
    let packet = udp6(PEER6, US6, 5, 6, &[7; 1400]);
    kit.rx(&packet);
    let sent = kit.tx();
    assert_eq!((sent[0].len(), sent[0][40], sent[0][41]), (1280, 1, 4));
    assert_eq!(sent[0][48..], packet[..1232]);
    // An unknown protocol: over IPv6 with a pointer to where it was announced.
    kit.rx(&v4(PEER, US, 200, b"12345678"));
    kit.rx(&v6(PEER6, US6, 200, b"12345678"));
    let sent = kit.tx();
    assert_eq!((sent[0][20], sent[0][21]), (3, 2));
    assert_eq!((sent[1][40], sent[1][41], sent[1][47]), (4, 1, 6));
}

#[test]
fn no_error_answers_what_rfc_1122_forbids() {
    let mut kit = Kit::tun();
    kit.knob("net.ipv4.ip_forward", "1");
    // About an error: a destination-unreachable that can not be forwarded.
    let quote = udp4("192.0.2.1", PEER, 1, 2, b"");
    kit.rx(&v4(PEER, "192.0.2.1", 1, &icmp4(Icmpv4Hdr::plain(3, 1), &quote)));
    // A fragment that is not the first.
    kit.rx(&v4_with(PEER, "192.0.2.1", 17, &[0; 8], |h| h.frag_off_bytes = 8));
    // A broadcast, a group.
    kit.rx(&udp4(PEER, "10.0.0.255", 1, 2, b""));
    kit.rx(&udp4(PEER, "224.0.0.1", 1, 2, b""));
    assert!(kit.tx().is_empty());
    // But about an echo request there is one.
    kit.rx(&echo4(PEER, "192.0.2.1", b""));
    assert_eq!(kit.tx().len(), 1);
}

/// So many datagrams for a closed port, from one host or from many: how many errors they cause.
fn closed(kit: &mut Kit, n: usize, spread: bool) -> usize {
    for i in 0..n {
        let src = if spread { format!("10.0.0.{}", 10 + i % 200) } else { PEER.to_owned() };
        kit.rx(&udp4(&src, US, 5, 6, b""));
    }
    kit.tx().len()
}

/// One destination: six at once, then one in each of these times.
#[test]
fn knob_net_ipv4_icmp_ratelimit() {
    for (value, later) in [("1000", 1), ("250", 4)] {
        let mut kit = Kit::tun();
        kit.knob("net.ipv4.icmp_ratelimit", value);
        assert_eq!(closed(&mut kit, 20, false), 6);
        assert_eq!(kit.read()["IcmpOutRateLimitHost"], 14);
        kit.pass(SEC);
        assert_eq!(closed(&mut kit, 20, false), later, "{value} ms");
    }
    let mut kit = Kit::tun();
    kit.knob("net.ipv4.icmp_ratelimit", "0");
    assert!(closed(&mut kit, 20, false) >= 19);
}

/// Types outside of the mask are free.
#[test]
fn knob_net_ipv4_icmp_ratemask() {
    for (mask, told) in [("6168", 6), ("8", 6), ("0", 300), ("4294967287", 300)] {
        let mut kit = Kit::tun();
        kit.knob("net.ipv4.icmp_ratemask", mask);
        assert_eq!(closed(&mut kit, 300, false), told, "{mask}");
    }
}

/// All destinations together: about the burst at once.
#[test]
fn knob_net_ipv4_icmp_msgs_burst() {
    for (burst, told) in [("20", 10..=60), ("100", 70..=180)] {
        let mut kit = Kit::tun();
        kit.knob("net.ipv4.icmp_ratelimit", "0");
        kit.knob("net.ipv4.icmp_msgs_burst", burst);
        kit.knob("net.ipv4.icmp_msgs_per_sec", "100");
        let n = closed(&mut kit, 200, true);
        assert!(told.contains(&n), "{n} of a burst of {burst}");
        assert_eq!(kit.read()["IcmpOutRateLimitGlobal"], 200 - n as i64);
        kit.pass(100 * MS);
        let n = closed(&mut kit, 200, true);
        assert!((3..=40).contains(&n), "{n}");
    }
}

/// A slow rate fills up though it is asked far more often than it has something to give.
#[test]
fn knob_net_ipv4_icmp_msgs_per_sec() {
    for (rate, told) in [("50", 100..=600), ("500", 1300..=3000)] {
        let mut kit = Kit::tun();
        kit.knob("net.ipv4.icmp_ratelimit", "0");
        kit.knob("net.ipv4.icmp_msgs_burst", "20");
        kit.knob("net.ipv4.icmp_msgs_per_sec", rate);
        closed(&mut kit, 100, true);
        let mut n = 0;
        for _ in 0..4000 {
            kit.pass(MS);
            n += closed(&mut kit, 1, true);
        }
        assert!(told.contains(&n), "{n} in four seconds at {rate} a second");
    }
}

/// IPv6 has a limit of its own.
#[test]
fn knob_net_ipv6_icmp_ratelimit() {
    for (value, told) in [("1000", 6), ("0", 20)] {
        let mut kit = Kit::tun();
        kit.knob("net.ipv6.icmp.ratelimit", value);
        for _ in 0..20 {
            kit.rx(&udp6(PEER6, US6, 5, 6, b""));
        }
        assert_eq!(kit.tx().len(), told);
        assert_eq!(kit.read()["Icmp6OutRateLimitHost"], 20 - told as i64);
        kit.conserved();
    }
}

#[test]
fn errors_reach_the_socket_that_sent_and_no_other() {
    let mut kit = Kit::tun();
    let sock = kit.cx.udp_bind(UdpBind { user: 42, ..Default::default() }).expect("bound");
    let port = kit.cx.udp_port(sock).expect("open");
    kit.cx.udp_send(sock, SendTo::to((ip(PEER), 7).into()), &[b"hello"]).expect("sent");
    let sent = kit.tx();
    kit.rx(&v4(PEER, US, 1, &icmp4(Icmpv4Hdr::plain(3, 3), &sent[0])));
    assert_eq!(kit.cx.poll_event().map(|e| e.user), Some(42));
    assert_eq!(kit.cx.udp_take_error(sock), Some(((ip(PEER), 7).into(), ErrKind::PortUnreach)));
    assert_eq!(kit.cx.udp_take_error(sock), None);
    // A quote of a port that nobody has changes nothing.
    let other = udp4(US, PEER, port ^ 1, 7, b"");
    kit.rx(&v4(PEER, US, 1, &icmp4(Icmpv4Hdr::plain(3, 3), &other)));
    assert_eq!(kit.cx.udp_take_error(sock), None);
    // The queue of errors is bounded.
    for _ in 0..100 {
        kit.rx(&v4(PEER, US, 1, &icmp4(Icmpv4Hdr::plain(3, 3), &sent[0])));
    }
    let mut n = 0;
    while kit.cx.udp_take_error(sock).is_some() {
        n += 1;
    }
    assert_eq!(n, 16);
    kit.conserved();
}

#[test]
fn an_error_that_nobody_takes_keeps_no_datagram_back() {
    let mut kit = Kit::tun();
    let sock = kit.cx.udp_bind(UdpBind { user: 42, ..Default::default() }).expect("bound");
    let port = kit.cx.udp_port(sock).expect("open");
    kit.cx.udp_send(sock, SendTo::to((ip(PEER), 7).into()), &[b"hello"]).expect("sent");
    let sent = kit.tx();
    let refused = v4(PEER, US, 1, &icmp4(Icmpv4Hdr::plain(3, 3), &sent[0]));
    kit.rx(&refused);
    assert_eq!(kit.cx.poll_event().map(|e| e.user), Some(42));
    assert!(kit.cx.udp_recv(sock).is_none());
    for _ in 0..2 {
        kit.rx(&udp4(PEER, US, 7, port, b"here I am"));
        assert_eq!(kit.cx.poll_event().map(|e| e.user), Some(42), "it is told of the datagram");
        let got = kit.cx.udp_recv(sock).expect("a datagram");
        kit.cx.udp_done(got);
        assert!(kit.cx.udp_recv(sock).is_none());
        // Nor does one that waits already bring another event.
        kit.rx(&refused);
        assert_eq!(kit.cx.poll_event(), None);
    }
    kit.conserved();
}

#[test]
fn a_path_mtu_is_learnt_used_and_forgotten() {
    let mut kit = Kit::tun();
    let far = "192.0.2.1";
    let default = crate::ip::route::Route::via(ip("0.0.0.0"), 0, ip(PEER), 0);
    kit.cx.add_route(default).expect("added");
    let sock = kit.cx.udp_bind(Default::default()).expect("bound");
    let how = SendTo { df: true, ..SendTo::to((ip(far), 7).into()) };
    kit.cx.udp_send(sock, how, &[&[0; 1400]]).expect("sent");
    let sent = kit.tx();
    kit.rx(&v4(PEER, US, 1, &icmp4(Icmpv4Hdr::frag_needed(1200), &sent[0][..28])));
    assert_eq!(kit.cx.net.route_out(ip(far)).expect("a way").mtu, 1200);
    // It never grows by an error, and never shrinks below what is sane.
    kit.rx(&v4(PEER, US, 1, &icmp4(Icmpv4Hdr::frag_needed(1400), &sent[0][..28])));
    assert_eq!(kit.cx.net.route_out(ip(far)).expect("a way").mtu, 1200);
    kit.rx(&v4(PEER, US, 1, &icmp4(Icmpv4Hdr::frag_needed(68), &sent[0][..28])));
    assert_eq!(kit.cx.net.route_out(ip(far)).expect("a way").mtu, 552);
    // Without DF packets are split at once.
    kit.cx.udp_send(sock, SendTo::to((ip(far), 7).into()), &[&[0; 1400]]).expect("sent");
    assert_eq!(kit.tx().len(), 3);
    kit.pass(601 * SEC);
    assert_eq!(kit.cx.net.route_out(ip(far)).expect("a way").mtu, 1500);
    // Not of what nobody sent.
    let forged = udp4(US, "198.51.100.1", 1, 1, b"");
    kit.rx(&v4(PEER, US, 1, &icmp4(Icmpv4Hdr::frag_needed(600), &forged)));
    assert_eq!(kit.cx.net.route_out(ip("198.51.100.1")).expect("a way").mtu, 1500);
}

#[test]
fn the_echo_socket_answers_for_others() {
    let mut kit = Kit::tun();
    kit.cx.net.ifaces[0].any_ip = true;
    // Nobody there: ignored.
    kit.rx(&echo4(PEER, "192.0.2.9", b"data"));
    assert_eq!(kit.read()["drop IcmpIgnored"], 1);
    let sock = kit.cx.ping_open(0, 5);
    assert_eq!(sock.kind, SockKind::Icmp);
    kit.rx(&echo4(PEER, "192.0.2.9", b"data"));
    kit.rx(&echo6(PEER6, "2001:db8::9", b"data6"));
    // Our own address still answers by itself.
    kit.rx(&echo4(PEER, US, b"own"));
    assert_eq!(kit.tx().len(), 1);
    assert_eq!(kit.cx.poll_event().map(|e| (e.id, e.user)), Some((sock, 5)));
    for want in [&b"data"[..], b"data6"] {
        let ask = kit.cx.ping_recv().expect("a request");
        assert_eq!((ask.id(), ask.seq(), ask.ttl()), (3, 4, 64));
        assert_eq!(ask.payload(), want);
        let (src, dst, id, seq) = (ask.dst(), ask.src(), ask.id(), ask.seq());
        let how = PingReply { src, dst, id, seq, ttl: 50, tos: 0 };
        assert!(kit.cx.ping_reply(how, &[want]));
        kit.cx.ping_done(ask);
    }
    assert!(kit.cx.ping_recv().is_none());
    let sent = kit.tx();
    assert!(Icmpv4Hdr::csum_ok(&sent[0][20..]));
    assert_eq!((sent[0][8], sent[0][20], &sent[0][28..]), (50, 0, &b"data"[..]));
    assert!(Icmpv6Hdr::csum_ok(&sent[1][40..], ip6("2001:db8::9"), ip6(PEER6)));
    // The queue is bounded, and closing drops what waits.
    kit.cx.ping_open(10_000, 5);
    for _ in 0..20 {
        kit.rx(&echo4(PEER, "192.0.2.9", b"data"));
    }
    assert!(kit.cx.ping.drops() > 10);
    kit.cx.ping_close();
    kit.conserved();
    assert!(kit.cx.ping_recv().is_none());
}

#[test]
fn errors_are_passed_on_in_the_name_of_others() {
    let mut kit = Kit::tun();
    kit.cx.net.ifaces[0].any_ip = true;
    let quote = udp4(PEER, "192.0.2.9", 1000, 53, b"query");
    assert!(send_unreachable_quote(&mut kit.cx, &quote, ip("192.0.2.9"), 3));
    assert!(icmp_error_quote(&mut kit.cx, &quote, ip("203.0.113.1"), IcmpErr::TimeExceeded));
    let sent = kit.tx();
    let from = |p: &[u8]| Ipv4Hdr::parse(p).expect("a header").src;
    assert_eq!((from(&sent[0]), sent[0][20], sent[0][21]), (ip4("192.0.2.9"), 3, 3));
    assert_eq!((from(&sent[1]), sent[1][20]), (ip4("203.0.113.1"), 11));
    assert_eq!(sent[0][28..], quote);
    let quote = udp6(PEER6, "2001:db8::9", 1000, 53, b"query");
    assert!(send_unreachable_quote(&mut kit.cx, &quote, ip("2001:db8::9"), 13));
    let sent = kit.tx();
    assert_eq!((sent[0][40], sent[0][41]), (1, 1));
    // Nonsense, the wrong family, an error about an error.
    assert!(!send_unreachable_quote(&mut kit.cx, b"nonsense", ip("192.0.2.9"), 3));
    assert!(!send_unreachable_quote(&mut kit.cx, &quote, ip("192.0.2.9"), 3));
    let err = v4(PEER, US, 1, &icmp4(Icmpv4Hdr::plain(3, 3), &quote));
    assert!(!send_unreachable_quote(&mut kit.cx, &err, ip(US), 3));
    kit.conserved();
}

#[test]
fn timestamps_say_that_they_are_not_of_midnight() {
    let mut kit = Kit::tun();
    let hdr = Icmpv4Hdr { kind: 13, code: 0, csum: 0, rest: 0x0001_0002 };
    kit.rx(&v4(PEER, US, 1, &icmp4(hdr, &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0])));
    let sent = kit.tx();
    assert!(Icmpv4Hdr::csum_ok(&sent[0][20..]));
    assert_eq!((sent[0][20], &sent[0][28..32]), (14, &[0, 0, 0, 9][..]));
    assert_eq!(sent[0][32] & 0x80, 0x80);
    // Redirects and source quenches change nothing but their counters.
    for (kind, name) in [(5, "IcmpInRedirects"), (4, "IcmpInSrcQuenchs")] {
        kit.rx(&v4(PEER, US, 1, &icmp4(Icmpv4Hdr::plain(kind, 1), &udp4(US, PEER, 1, 2, b""))));
        assert_eq!(kit.read()[name], 1);
    }
    assert!(kit.tx().is_empty());
    kit.conserved();
}

fn solicit(src: &str, target: &str, dst: &str, options: &[NdOpt]) -> Vec<u8> {
    let msg = NdMsg::NeighbourSolicit { target: ip6(target) };
    nd(src, dst, msg, options, 255)
}

fn nd(src: &str, dst: &str, msg: NdMsg, options: &[NdOpt], hops: u8) -> Vec<u8> {
    let mut body = vec![0; msg.len_bytes()];
    for option in options {
        let at = body.len();
        body.resize(at + option.len_bytes(), 0);
        option.emit(&mut body[at..]);
    }
    msg.emit(&mut body, ip6(src), ip6(dst));
    let group = Mac::from_ipv6_multicast(ip6(dst));
    let mac = if ip6(dst).is_multicast() { group } else { MAC };
    eth(mac, PEER_MAC, ETH_P_IPV6, &v6_hops(src, dst, 58, hops, &body))
}

/// The advertisements among frames: target, flags, link address, destination.
fn adverts(frames: &[Vec<u8>]) -> Vec<(String, bool, bool, Mac, String)> {
    let read = |f: &Vec<u8>| {
        let hdr = Ipv6Hdr::parse(f.get(14..)?).ok()?;
        let (msg, _) = NdMsg::parse(&f[54..]).ok()?;
        let NdMsg::NeighbourAdvert { solicited, override_, target, .. } = msg else { return None };
        assert!(Icmpv6Hdr::csum_ok(&f[54..], hdr.src, hdr.dst));
        assert_eq!(hdr.hop_limit, 255);
        let eth = EthHdr::parse(f).ok()?;
        Some((target.to_string(), solicited, override_, eth.dst, hdr.dst.to_string()))
    };
    frames.iter().filter_map(read).collect()
}

#[test]
fn solicitations_are_answered_and_teach() {
    let mut kit = Kit::eth();
    let slla = [NdOpt::SourceLinkAddr(PEER_MAC)];
    kit.rx(&solicit(PEER6, US6, "ff02::1:ff00:1", &slla));
    let sent = kit.tx();
    let want = (US6.to_owned(), true, true, PEER_MAC, PEER6.to_owned());
    assert_eq!(adverts(&sent), [want]);
    let known = kit.cx.net.neigh.get(0, ip(PEER6)).expect("learnt");
    assert_eq!((known.mac(), known.state()), (PEER_MAC, Nud::Stale));
    // A probe for a duplicate of our address is answered to all.
    kit.rx(&solicit("::", US6, "ff02::1:ff00:1", &[]));
    let all = Mac::from_ipv6_multicast(ip6("ff02::1"));
    assert_eq!(adverts(&kit.tx()), [(US6.to_owned(), false, true, all, "ff02::1".to_owned())]);
    // Others' addresses are none of our business, unless we answer for all but the asker's.
    kit.rx(&solicit(PEER6, "fd00::9", "ff02::1:ff00:1", &slla));
    assert!(adverts(&kit.tx()).is_empty());
    kit.cx.net.ifaces[0].proxy_arp = true;
    kit.rx(&solicit(PEER6, "fd00::9", "ff02::1:ff00:9", &slla));
    assert_eq!(adverts(&kit.tx()).len(), 1);
    kit.rx(&solicit(PEER6, PEER6, "ff02::1:ff00:2", &slla));
    kit.rx(&solicit("::", PEER6, "ff02::1:ff00:2", &[]));
    assert!(adverts(&kit.tx()).is_empty(), "the asker can have its own address");
    kit.conserved();
}

#[test]
fn drop_nd_invalid() {
    let mut kit = Kit::eth();
    let slla = [NdOpt::SourceLinkAddr(PEER_MAC)];
    let msg = NdMsg::NeighbourSolicit { target: ip6(US6) };
    let na = |solicited| NdMsg::NeighbourAdvert {
        router: false,
        solicited,
        override_: true,
        target: ip6(PEER6),
    };
    let frames = [
        nd(PEER6, "ff02::1:ff00:1", msg, &slla, 254),
        solicit("::", US6, "ff02::1:ff00:1", &slla),
        solicit("::", US6, "ff02::1", &[]),
        solicit(PEER6, US6, "ff02::1:ff00:1", &[NdOpt::SourceLinkAddr(Mac::BROADCAST)]),
        nd(PEER6, "ff02::1", na(true), &[], 255),
        nd(
            PEER6,
            "ff02::1",
            NdMsg::RouterAdvert {
                hop_limit: 0,
                managed: false,
                other: false,
                lifetime_s: 0,
                reachable_ms: 0,
                retrans_ms: 0,
            },
            &[],
            255,
        ),
    ];
    for (i, frame) in frames.iter().enumerate() {
        kit.rx(frame);
        let now = kit.read();
        assert_eq!((now["drop NdInvalid"], now["Icmp6InErrors"]), (i as i64 + 1, i as i64 + 1));
    }
    assert!(kit.tx().is_empty());
    kit.conserved();
}

#[test]
fn a_router_advertisement_is_sent_when_asked_for() {
    let mut kit = Kit::eth();
    kit.cx.net.ifaces[0].any_ip = true;
    let ra = crate::ip::ndisc::RouterAdvert {
        lifetime_s: 1800,
        prefixes: vec![(ip6("fd00::"), 64)],
        prefix_lifetime_s: 3600,
        mtu: 1500,
        rdnss: vec![ip6("fd00::53")],
    };
    assert!(!kit.cx.send_ra(0, &ra), "without a link-local address there is no router");
    kit.cx.add_addr(0, ip("fe80::1"), 64).expect("added");
    assert_eq!(kit.cx.take_router_solicit(), None);
    kit.rx(&nd("fe80::2", "ff02::2", NdMsg::RouterSolicit, &[], 255));
    assert_eq!(kit.cx.take_router_solicit(), Some(0));
    assert_eq!(kit.cx.take_router_solicit(), None);
    assert!(kit.cx.send_ra(0, &ra));
    let sent = kit.tx();
    let hdr = Ipv6Hdr::parse(&sent[0][14..]).expect("a header");
    assert!(Icmpv6Hdr::csum_ok(&sent[0][54..], hdr.src, hdr.dst));
    let (msg, options) = NdMsg::parse(&sent[0][54..]).expect("an advertisement");
    assert!(matches!(msg, NdMsg::RouterAdvert { lifetime_s: 1800, .. }));
    let options: Vec<NdOpt> = options.collect::<Result<_, _>>().expect("options");
    assert!(options.contains(&NdOpt::SourceLinkAddr(MAC)) && options.contains(&NdOpt::Mtu(1500)));
    assert_eq!(options.last(), Some(&NdOpt::Other(25)));
    kit.conserved();
}
