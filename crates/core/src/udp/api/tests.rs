use std::net::SocketAddr;

use crate::ip::testkit::*;
use crate::pkt::LARGE;
use crate::sock::SocketId;
use crate::udp::api::UdpBind;
use crate::udp::output::SendTo;

fn bind(kit: &mut Kit, rcvbuf: usize) -> SocketId {
    kit.cx.udp_bind(UdpBind { port: 53, rcvbuf, ..Default::default() }).expect("bound")
}

/// One at a time and many at once give the same datagrams in the same order, and account for each.
#[test]
fn datagrams_are_read_in_order_one_by_one_and_many_at_once() {
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 1 << 20);
    let (mut sent, mut read, mut many) = (0u8, 0u8, Vec::new());
    let mut rng = crate::rand::Rng::new(7);
    for _ in 0..400 {
        for _ in 0..rng.below(5) {
            kit.rx(&udp4(PEER, US, 1, 53, &[sent]));
            sent = sent.wrapping_add(1);
        }
        if rng.below(2) == 0 {
            many.extend(kit.cx.udp_recv(sock));
        } else {
            let max = rng.below(6) as usize;
            let n = kit.cx.udp_recv_many(sock, max, &mut many);
            assert!(n == many.len() && n <= max);
        }
        for datagram in &many {
            assert_eq!(datagram.slices().flatten().collect::<Vec<_>>(), [&read]);
            read = read.wrapping_add(1);
        }
        kit.cx.udp_done_many(many.drain(..));
        kit.conserved();
    }
    while kit.cx.udp_recv_many(sock, 3, &mut many) > 0 {
        read = read.wrapping_add(many.len() as u8);
        kit.cx.udp_done_many(many.drain(..));
    }
    assert_eq!(read, sent);
    assert_eq!((kit.cx.udp.mem(), kit.cx.net.pool.small_out()), (0, 0));
}

/// A reader that took less than it asked for is told when more comes, and only then.
#[test]
fn an_event_follows_when_many_were_asked_for_and_few_came() {
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 0);
    let mut many = Vec::new();
    let mut read = |kit: &mut Kit, max| {
        let n = kit.cx.udp_recv_many(sock, max, &mut many);
        kit.cx.udp_done_many(many.drain(..));
        n
    };
    let come = |kit: &mut Kit, n: usize| {
        (0..n).for_each(|_| kit.rx(&udp4(PEER, US, 1, 53, b"data")));
        kit.cx.poll_event().map(|event| event.id)
    };
    assert_eq!(come(&mut kit, 3), Some(sock));
    assert_eq!(read(&mut kit, 2), 2);
    assert_eq!(come(&mut kit, 1), None, "it still has to read");
    assert_eq!(read(&mut kit, 9), 2);
    assert_eq!(come(&mut kit, 1), Some(sock));
    assert_eq!(read(&mut kit, 0), 0);
    assert_eq!(read(&mut kit, 1), 1);
}

/// What is sent on is what would be sent anew, for short and long ones of both versions, and nothing
/// of the packet that came goes with it.
#[test]
fn a_datagram_that_is_sent_on_is_like_a_new_one() {
    for len in [0, 1, 18, 1400, 3000, 9000] {
        for v6 in [false, true] {
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let run = |on: bool| {
                let mut kit = Kit::tun();
                let sock = bind(&mut kit, 1 << 20);
                match v6 {
                    false => kit.rx(&udp4(PEER, US, 1, 53, &data)),
                    true => kit.rx(&udp6(PEER6, US6, 1, 53, &data)),
                }
                let got = kit.cx.udp_recv(sock).expect("it came");
                let src = Some(got.dst());
                let how = SendTo { src, ..SendTo::to(got.src()) };
                if on {
                    let sent = kit.cx.udp_send_on(sock, how, got).map_err(|(why, _)| why);
                    assert_eq!(sent, Ok(data.len()));
                } else {
                    assert_eq!(kit.cx.udp_send(sock, how, &[&data]), Ok(data.len()));
                    kit.cx.udp_done(got);
                }
                let out = kit.tx();
                kit.conserved();
                (out, kit.read())
            };
            let (on, anew) = (run(true), run(false));
            assert_eq!(on.0, anew.0, "{len} bytes");
            assert_eq!(on.1, anew.1, "{len} bytes");
            assert!(!on.0.is_empty());
        }
    }
}

/// What lies in a large buffer leaves as a copy of it would, whole, as several datagrams, and cut into these
/// where the device can not do that.
#[test]
fn a_buffer_that_is_sent_is_like_a_copy_of_it() {
    for (len, gso_size) in [(1, 0), (1400, 0), (1400, 500), (9000, 0), (9000, 1000), (65_507, 1400)]
    {
        let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let run = |lent: bool| {
            let mut kit = Kit::tun();
            let sock = bind(&mut kit, 0);
            let src = Some(SocketAddr::new(ip(US), 53));
            let dst = SocketAddr::new(ip(PEER), 1);
            let how = SendTo { src, gso_size, ..SendTo::to(dst) };
            if lent {
                let mut buf = kit.cx.net.pool.alloc_large().expect("there is room");
                buf[..len].copy_from_slice(&data);
                let sent = kit.cx.udp_send_buf(sock, how, buf, len).map_err(|(why, _)| why);
                assert_eq!(sent, Ok(len));
            } else {
                assert_eq!(kit.cx.udp_send(sock, how, &[&data]), Ok(len));
            }
            let out = kit.tx();
            kit.conserved();
            assert_eq!(kit.cx.net.pool.large_out(), 0, "it came back");
            (out, kit.read())
        };
        let (lent, copied) = (run(true), run(false));
        assert!(lent == copied, "{len} bytes in {gso_size}");
        assert!(!lent.0.is_empty());
    }
}

/// A buffer that may not be sent comes back.
#[test]
fn a_buffer_that_may_not_be_sent_comes_back() {
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 0);
    let wrong = SendTo::to("[fd00::2]:9".parse().expect("an address"));
    let how = SendTo { src: Some(SocketAddr::new(ip(US), 53)), ..wrong };
    for len in [5, LARGE + 1] {
        let buf = kit.cx.net.pool.alloc_large().expect("there is room");
        let Err((why, buf)) = kit.cx.udp_send_buf(sock, how, buf, len) else {
            panic!("IPv4 does not go to IPv6, and a buffer has an end");
        };
        assert_eq!(why, crate::sock::error::SendError::Invalid);
        kit.cx.net.pool.free_large(buf);
    }
    kit.conserved();
}

/// A datagram that may not be sent comes back whole.
#[test]
fn a_datagram_that_may_not_be_sent_on_comes_back() {
    let mut kit = Kit::tun();
    let sock = bind(&mut kit, 0);
    kit.rx(&udp4(PEER, US, 1, 53, b"data"));
    let got = kit.cx.udp_recv(sock).expect("it came");
    let wrong = SendTo::to("[fd00::2]:9".parse().expect("an address"));
    let how = SendTo { src: Some(got.dst()), ..wrong };
    let Err((why, got)) = kit.cx.udp_send_on(sock, how, got) else {
        panic!("IPv4 does not go to IPv6");
    };
    assert_eq!(why, crate::sock::error::SendError::Invalid);
    assert_eq!((got.len(), got.src().port()), (4, 1));
    kit.cx.udp_done(got);
    kit.conserved();
}
