//! Urgent data: sent, told of, taken out of the stream and left in it.

use super::*;
use crate::sock::error::TcpError;
use crate::tcp::{SendMsg, TcpOpt};

const OOB: SendMsg = SendMsg { more: false, eor: false, oob: true };

fn read(p: &mut Pair, b: SocketId) -> Result<Vec<u8>, TcpError> {
    let mut buf = [0; 1000];
    let n = p.shards[B].tcp_recv(b, &mut buf)?;
    Ok(buf[..n].to_vec())
}

#[test]
fn an_urgent_byte_is_told_of_and_read_apart() {
    let mut p = Pair::new(800, GOOD);
    let (a, b) = p.connected();
    assert_eq!(p.shards[B].tcp_recv_urgent(b, false), Err(TcpError::Invalid));
    p.shards[A].tcp_send(a, b"before ").expect("room");
    p.shards[A].tcp_sendmsg(a, b"!", OOB).expect("room");
    p.shards[A].tcp_send(a, b" behind").expect("room");
    p.run(SEC);
    assert!(p.ready(B, b).has(Ready::PRI), "the application is told");
    assert!(p.shards[B].tcp_urgent(b) && !p.shards[B].tcp_at_mark(b));
    assert_eq!(
        (p.shards[B].tcp_readable(b).expect("open").bytes, p.shards[B].tcp_siocinq(b)),
        (7, 7)
    );
    assert_eq!(read(&mut p, b), Ok(b"before ".to_vec()), "reading stops at the mark");
    assert!(p.shards[B].tcp_at_mark(b));
    assert_eq!(p.shards[B].tcp_recv_urgent(b, true), Ok(Some(b'!')));
    assert_eq!(p.shards[B].tcp_recv_urgent(b, false), Ok(Some(b'!')));
    assert_eq!(p.shards[B].tcp_recv_urgent(b, false), Err(TcpError::Invalid), "once");
    assert!(!p.shards[B].tcp_urgent(b) && p.shards[B].tcp_at_mark(b));
    assert_eq!(read(&mut p, b), Ok(b" behind".to_vec()));
    assert!(!p.shards[B].tcp_at_mark(b));
    assert_eq!(read(&mut p, b), Err(TcpError::WouldBlock));
    assert!(!p.tcb(A, a).urg_mode(), "it was acknowledged");
}

#[test]
fn in_line_the_urgent_byte_is_data_and_reading_stops_before_it() {
    let mut p = Pair::new(801, GOOD);
    let (a, b) = p.connected();
    p.shards[B].tcp_set(b, TcpOpt::OobInline(true)).expect("set");
    p.shards[A].tcp_sendmsg(a, b"before!", OOB).expect("room");
    p.shards[A].tcp_send(a, b" behind").expect("room");
    p.run(SEC);
    assert_eq!(read(&mut p, b), Ok(b"before".to_vec()));
    assert!(p.shards[B].tcp_at_mark(b));
    assert_eq!(p.shards[B].tcp_recv_urgent(b, false), Err(TcpError::Invalid));
    let mut slices = Vec::new();
    assert_eq!(p.shards[B].tcp_rx_slices(b, 1, &mut slices), Ok(1));
    p.shards[B].tcp_consume(b, 1);
    assert!(!p.shards[B].tcp_at_mark(b));
    assert_eq!(read(&mut p, b), Ok(b" behind".to_vec()));
}

/// An urgent byte alone is no reason to read; with the end of the stream it is.
#[test]
fn an_urgent_byte_alone_leaves_nothing_to_read() {
    let mut p = Pair::new(802, GOOD);
    let (a, b) = p.connected();
    p.ready(B, b);
    p.shards[A].tcp_sendmsg(a, b"!", OOB).expect("room");
    p.run(SEC);
    let ready = p.ready(B, b);
    assert!(ready.has(Ready::PRI) && !ready.has(Ready::IN));
    assert_eq!(read(&mut p, b), Err(TcpError::WouldBlock));
    p.shards[A].tcp_shutdown(a);
    p.run(SEC);
    assert!(p.ready(B, b).has(Ready::IN));
    assert_eq!(read(&mut p, b), Ok(Vec::new()), "the end");
}

/// Each segment before the mark says where it is, and none is part of a super-packet.
#[test]
fn every_segment_before_the_mark_points_at_it() {
    let mut p = Pair::new(803, Fate { offload: true, ..GOOD });
    let (a, b) = p.connected();
    let begun = p.seen.len();
    p.shards[A].tcp_sendmsg(a, &[7; 9000], OOB).expect("room");
    p.run(SEC);
    let sent: Vec<_> = p.seen[begun..].iter().filter(|s| s.from == A && s.len > 0).collect();
    assert!(sent.len() >= 7 && sent.iter().all(|s| s.gso.is_none()));
    let end = sent[0].hdr.seq.wrapping_add(9000);
    for s in sent {
        assert!(s.hdr.flags.urg());
        assert_eq!(s.hdr.seq.wrapping_add(s.hdr.urg.into()), end);
    }
    let begun = p.seen.len();
    p.shards[A].tcp_send(a, &[7; 9000]).expect("room");
    p.run(SEC);
    let sent = p.seen[begun..].iter().filter(|s| s.from == A && s.len > 0);
    assert!(sent.clone().any(|s| s.gso.is_some()) && sent.clone().all(|s| !s.hdr.flags.urg()));
    assert_eq!(p.shards[B].tcp_readable(b).map(|r| r.bytes), Ok(8999));
}

/// Over a bad link the marks stay where they are, and the stream without them is whole.
#[test]
fn urgent_data_survives_loss_and_reordering() {
    for offload in [false, true] {
        let fate = Fate { loss: 50, reorder: 100, dup: 20, offload, ..GOOD };
        let mut p = Pair::new(804, fate);
        let (a, b) = p.connected();
        let (mut sent, mut got, mut urgent) = (0u32, Vec::new(), 0);
        p.until(600 * SEC, |p| {
            // Every block of 3000 bytes ends with an urgent one, sent when the last was read.
            if sent == urgent && sent < 40 {
                let mut block = [sent as u8; 3000];
                block[2999] = 0xff;
                assert_eq!(p.shards[A].tcp_sendmsg(a, &block, OOB), Ok(3000));
                sent += 1;
            }
            let mut buf = [0; 700];
            // Who reads on at the mark has lost the urgent byte.
            while !(p.shards[B].tcp_at_mark(b) && p.shards[B].tcp_urgent(b))
                && let Ok(n @ 1..) = p.shards[B].tcp_recv(b, &mut buf)
            {
                got.extend_from_slice(&buf[..n]);
            }
            if p.shards[B].tcp_at_mark(b)
                && let Ok(Some(byte)) = p.shards[B].tcp_recv_urgent(b, false)
            {
                assert_eq!((byte, got.len()), (0xff, sent as usize * 2999));
                urgent += 1;
            }
            urgent == 40
        });
        assert_eq!(urgent, 40);
        assert!(got.chunks(2999).enumerate().all(|(i, c)| c.iter().all(|b| *b == i as u8)));
    }
}

#[test]
fn knob_net_ipv4_tcp_stdurg() {
    for (value, before, byte) in [("0", b"abc".to_vec(), b'd'), ("1", b"abcd".to_vec(), b'e')] {
        let mut p = Pair::new(805, GOOD);
        p.shards[B].set_knob("net.ipv4.tcp_stdurg", value).expect("in range");
        let (a, b) = p.connected();
        p.shards[A].tcp_sendmsg(a, b"abcd", OOB).expect("room");
        p.shards[A].tcp_send(a, b"efg").expect("room");
        p.run(SEC);
        assert_eq!(read(&mut p, b), Ok(before));
        assert_eq!(p.shards[B].tcp_recv_urgent(b, false), Ok(Some(byte)));
    }
}
