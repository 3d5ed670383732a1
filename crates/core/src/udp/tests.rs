use crate::ip::testkit::*;
use crate::sock::SocketId;
use crate::udp::api::UdpBind;

fn bind(kit: &mut Kit, rcvbuf: usize) -> SocketId {
    kit.cx.udp_bind(UdpBind { port: 53, rcvbuf, ..Default::default() }).expect("bound")
}

/// Of `n` datagrams for a socket that nobody reads, how many are kept.
fn kept(kit: &mut Kit, sock: SocketId, n: usize) -> usize {
    for _ in 0..n {
        kit.rx(&udp4(PEER, US, 1, 53, &[7; 100]));
    }
    let mut kept = 0;
    while let Some(got) = kit.cx.udp_recv(sock) {
        kit.cx.udp_done(got);
        kept += 1;
    }
    kit.conserved();
    kept
}

#[test]
fn drop_udp_hdr() {
    let mut kit = Kit::tun();
    bind(&mut kit, 0);
    let long = |len: u16| {
        let mut datagram = udp(PEER, US, 1, 53, b"data");
        datagram[4..6].copy_from_slice(&len.to_be_bytes());
        v4(PEER, US, 17, &datagram)
    };
    for packet in [v4(PEER, US, 17, &[0; 7]), long(7), long(13)] {
        let before = kit.read();
        kit.rx(&packet);
        let want = [("IpInReceives", 1), ("IpInDelivers", 1), ("UdpInErrors", 1)];
        kit.moved(&before, &[want[0], want[1], want[2], ("drop UdpHdr", 1)]);
    }
}

#[test]
fn drop_udp6_hdr() {
    let mut kit = Kit::tun();
    bind(&mut kit, 0);
    let before = kit.read();
    kit.rx(&v6(PEER6, US6, 17, &[0; 7]));
    let want = [("Ip6InReceives", 1), ("Ip6InDelivers", 1), ("Udp6InErrors", 1)];
    kit.moved(&before, &[want[0], want[1], want[2], ("drop Udp6Hdr", 1)]);
}

#[test]
fn drop_udp_no_port() {
    let mut kit = Kit::tun();
    let before = kit.read();
    kit.rx(&udp4(PEER, US, 1, 53, b"anybody?"));
    let told = [("IcmpOutMsgs", 1), ("IcmpOutDestUnreachs", 1)];
    let want = [("IpInReceives", 1), ("IpInDelivers", 1), ("UdpNoPorts", 1), ("drop UdpNoPort", 1)];
    kit.moved(&before, &[&want[..], &told].concat());
}

#[test]
fn drop_udp6_no_port() {
    let mut kit = Kit::tun();
    let before = kit.read();
    kit.rx(&udp6(PEER6, US6, 1, 53, b"anybody?"));
    let told = [("Icmp6OutMsgs", 1), ("Icmp6OutDestUnreachs", 1), ("drop Udp6NoPort", 1)];
    let want = [("Ip6InReceives", 1), ("Ip6InDelivers", 1), ("Udp6NoPorts", 1)];
    kit.moved(&before, &[want, told].concat());
}

/// With and without a socket: nobody is told of a datagram that is damaged.
#[test]
fn drop_udp_csum() {
    let mut kit = Kit::tun();
    for bound in [false, true] {
        if bound {
            bind(&mut kit, 0);
        }
        let mut packet = udp4(PEER, US, 1, 53, b"data");
        packet[30] ^= 1;
        let before = kit.read();
        kit.rx(&packet);
        let want = [("IpInReceives", 1), ("IpInDelivers", 1), ("UdpInCsumErrors", 1)];
        kit.moved(&before, &[&want[..], &[("UdpInErrors", 1), ("drop UdpCsum", 1)]].concat());
    }
    // RFC 768: a sender over IPv4 may leave it out.
    let mut datagram = udp(PEER, US, 1, 53, b"data");
    datagram[6..8].fill(0);
    kit.rx(&v4(PEER, US, 17, &datagram));
    assert_eq!(kit.read()["drop UdpCsum"], 2);
}

/// A wrong one; and one that is missing, which RFC 8200 §8.1 forbids.
#[test]
fn drop_udp6_csum() {
    let mut kit = Kit::tun();
    bind(&mut kit, 0);
    for missing in [false, true] {
        let mut datagram = udp(PEER6, US6, 1, 53, b"data");
        if missing {
            datagram[6..8].fill(0);
        } else {
            datagram[8] ^= 1;
        }
        let before = kit.read();
        kit.rx(&v6(PEER6, US6, 17, &datagram));
        let want = [("Ip6InReceives", 1), ("Ip6InDelivers", 1), ("Udp6InCsumErrors", 1)];
        kit.moved(&before, &[&want[..], &[("Udp6InErrors", 1), ("drop Udp6Csum", 1)]].concat());
    }
}

#[test]
fn drop_socket6_rcvbuff() {
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 1);
    let before = kit.read();
    kit.rx(&udp6(PEER6, US6, 1, 53, b"data"));
    let want = [("Ip6InReceives", 1), ("Ip6InDelivers", 1), ("Udp6RcvbufErrors", 1)];
    kit.moved(&before, &[&want[..], &[("Udp6InErrors", 1), ("drop Socket6Rcvbuff", 1)]].concat());
    assert!(kit.cx.udp_recv(sock).is_none());
}

#[test]
fn drop_proto_mem() {
    let mut kit = Kit::tun();
    kit.knob("net.ipv4.udp_mem", "0 0 0");
    bind(&mut kit, 0);
    let before = kit.read();
    kit.rx(&udp4(PEER, US, 1, 53, b"data"));
    let want = [("IpInReceives", 1), ("IpInDelivers", 1), ("UdpMemErrors", 1)];
    kit.moved(&before, &[&want[..], &[("UdpInErrors", 1), ("drop ProtoMem", 1)]].concat());
}

/// All sockets together hold no more than this many pages.
#[test]
fn knob_net_ipv4_udp_mem() {
    let held = ["0 0 0", "1 2 10", "10 20 40", "16384 32768 65536"].map(|pages| {
        let mut kit = Kit::tun();
        kit.knob("net.ipv4.udp_mem", pages);
        let sock = bind(&mut kit, 1 << 24);
        kept(&mut kit, sock, 200)
    });
    assert!(held[0] == 0 && held[3] == 200 && held.is_sorted_by(|a, b| a < b), "{held:?}");
    assert!(held[2].abs_diff(4 * held[1]) < 4, "four times the pages: {held:?}");
}

/// What an application asks for is granted up to this, and doubled.
#[test]
fn knob_net_core_rmem_max() {
    let held = |most: &str, asked: usize| {
        let mut kit = Kit::tun();
        kit.knob("net.core.rmem_max", most);
        let sock = bind(&mut kit, 0);
        kit.cx.udp_set_rcvbuf(sock, asked);
        kept(&mut kit, sock, 400)
    };
    assert_eq!(held("20000", 1 << 20), held("20000", 20_000), "no more than the limit");
    assert!(held("20000", 10_000) < held("20000", 20_000), "less is granted as asked");
    assert!(held("40000", 1 << 20).abs_diff(2 * held("20000", 1 << 20)) < 2);
}

#[test]
fn drop_socket_closed() {
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 0);
    for _ in 0..3 {
        kit.rx(&udp4(PEER, US, 1, 53, b"unread"));
    }
    let before = kit.read();
    kit.cx.udp_close(sock);
    kit.moved(&before, &[("drop SocketClosed", 3)]);
}

/// A reader that finds nothing asks the loop to look again, as long as the knob or its socket says.
#[test]
fn a_reader_that_finds_nothing_asks_for_a_look() {
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 0);
    let now = kit.cx.net.now;
    assert!(kit.cx.udp_recv(sock).is_none());
    assert!(kit.cx.net.busy_read_until <= now, "by default it does not");
    kit.knob("net.core.busy_read", "50");
    assert!(kit.cx.udp_recv(sock).is_none());
    assert_eq!(kit.cx.net.busy_read_until, now.plus(50_000));
    kit.cx.udp_set_busy_poll(sock, Some(20));
    assert!(kit.cx.udp_recv(sock).is_none());
    assert_eq!(kit.cx.net.busy_read_until, now.plus(20_000), "the socket's own word counts");
    kit.cx.udp_set_busy_poll(sock, Some(0));
    kit.rx(&udp4(PEER, US, 1, 53, b"data"));
    kit.cx.net.busy_read_until = now;
    let got = kit.cx.udp_recv(sock).expect("it came");
    kit.cx.udp_done(got);
    assert!(kit.cx.udp_recv(sock).is_none());
    assert_eq!(kit.cx.net.busy_read_until, now);
}
