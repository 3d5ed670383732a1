//! Signed segments (RFC 2385).

use super::*;
use crate::sock::error::TcpError;
use crate::table::count::Counter as C;
use crate::tcp::{Md5Sig, TcpOpt};

fn key(peer: IpAddr, prefix: Option<u8>, key: &[u8]) -> TcpOpt {
    TcpOpt::Md5Sig(Md5Sig::new(peer, prefix, key).expect("a key"))
}

/// B listens with one key and A connects with another; they are connected only if the keys agree.
fn try_connect(
    p: &mut Pair,
    b_key: Option<&[u8]>,
    a_key: Option<&[u8]>,
) -> Option<(SocketId, SocketId)> {
    let l = p.listen(80);
    let (at_a, at_b) = (p.addr(A), p.addr(B));
    if let Some(k) = b_key {
        p.shards[B].tcp_set(l, key(at_a, None, k)).expect("set");
    }
    let opts: Vec<TcpOpt> = a_key.map(|k| key(at_b, None, k)).into_iter().collect();
    p.tick();
    let to = Connect { local: None, remote: p.at(B, 80), user: 7 };
    let a = p.shards[A].tcp_connect_with(to, &opts).expect("a route exists");
    let mut b = None;
    p.until(20 * SEC, |p| {
        b = b.or_else(|| p.shards[B].tcp_accept(l));
        b.is_some()
    });
    Some((a, b?))
}

fn transfer(p: &mut Pair, (a, b): (SocketId, SocketId), bytes: usize) {
    let (mut sent, mut got) = (0, Vec::new());
    let mut buf = [0; 4096];
    p.until(600 * SEC, |p| {
        let data: Vec<u8> = (sent..bytes).take(5000).map(|i| i as u8).collect();
        sent += p.shards[A].tcp_send(a, &data).unwrap_or(0);
        while let Ok(n @ 1..) = p.shards[B].tcp_recv(b, &mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        got.len() == bytes
    });
    assert!(got.len() == bytes && got.iter().enumerate().all(|(i, x)| *x == i as u8));
}

/// Every segment of a signed connection is signed, from the SYN to the last acknowledgement in TIME_WAIT, and each
/// has room for it.
#[test]
fn every_segment_is_signed() {
    for v6 in [false, true] {
        let mut p = Pair::over(900, Fate { offload: true, loss: 60, ..GOOD }, v6);
        let ends = try_connect(&mut p, Some(b"secret"), Some(b"secret")).expect("connected");
        transfer(&mut p, ends, 300_000);
        p.shards[A].tcp_close(ends.0);
        p.run(10 * SEC);
        p.shards[B].tcp_close(ends.1);
        p.run(10 * SEC);
        assert_eq!(p.shards[A].tcp_sockstat().tw, 1);
        assert!(p.seen.iter().all(|s| s.opts.signed), "each segment is signed");
        assert!(p.seen.iter().all(|s| s.gso.is_none()), "a signature is of one segment");
        assert!(p.seen.iter().all(|s| s.opts.ts.is_none()), "there is no room for timestamps");
        assert!(p.seen.iter().any(|s| !s.opts.sack.is_empty()), "but for SACK blocks");
        let most = p.seen.iter().map(|s| s.len).max();
        assert_eq!(most, Some(if v6 { 1420 } else { 1440 }));
        assert_eq!(p.count(B, C::TcpExtTCPMD5Failure) + p.count(A, C::TcpExtTCPMD5Failure), 0);
        // What comes late in TIME_WAIT is answered, and that is signed.
        let begun = p.seen.len();
        let entry = p.shards[A].tcp.tws.iter().next().map(|(_, _, tw)| *tw).expect("an entry");
        if !v6 {
            let ports = (entry.tuple.rport, entry.tuple.lport);
            let (seq, ack) = (entry.rcv_nxt.0.wrapping_sub(1), entry.snd_nxt.0);
            let flags = TcpFlags::ACK | TcpFlags::FIN;
            p.inject(A, ports, Forged { seq, ack, flags, window: 500, ..Forged::default() });
            p.run(MS / 2);
            assert!(p.seen.len() > begun && p.seen[begun..].iter().all(|s| s.opts.signed));
        }
        p.run(200 * SEC);
        assert!(p.shards[A].tcp.tw_keys.is_empty(), "the key goes with the entry");
    }
}

/// An entry of TIME_WAIT that changes shards takes its key along: it still signs what it answers.
#[test]
fn time_wait_that_moves_still_signs() {
    let mut p = Pair::new(906, GOOD);
    let ends = try_connect(&mut p, Some(b"secret"), Some(b"secret")).expect("connected");
    p.shards[A].tcp_close(ends.0);
    p.run(SEC);
    p.shards[B].tcp_close(ends.1);
    p.run(SEC);
    let entry = p.shards[A].tcp.tws.iter().next().map(|(_, _, tw)| *tw).expect("an entry");
    let (left, _) = p.move_all(A, |_| {});
    assert!(left.tcp.tw_keys.is_empty(), "the key is not left behind");
    let (begun, seq) = (p.seen.len(), entry.rcv_nxt.0.wrapping_sub(1));
    let ports = (entry.tuple.rport, entry.tuple.lport);
    let flags = TcpFlags::ACK | TcpFlags::FIN;
    let late = Forged { seq, ack: entry.snd_nxt.0, flags, window: 500, ..Forged::default() };
    p.inject(A, ports, late);
    p.run(MS / 2);
    assert!(p.seen.len() > begun && p.seen[begun..].iter().all(|s| s.opts.signed));
    p.run(200 * SEC);
    assert!(p.shards[A].tcp.tw_keys.is_empty(), "the key goes with the entry");
}

/// A reset is signed, or the peer would not believe it.
#[test]
fn a_reset_is_signed() {
    let mut p = Pair::new(901, GOOD);
    let (a, b) = try_connect(&mut p, Some(b"secret"), Some(b"secret")).expect("connected");
    p.shards[A].tcp_abort(a);
    p.run(SEC);
    assert!(p.last_of(A).opts.signed && p.last_of(A).hdr.flags.rst());
    assert_eq!(p.shards[B].tcp_error(b), Some(TcpError::Reset));
}

/// A end that lost its connection, as by a restart, tells the other one by a signed reset where it still has the
/// key, at the port from which it is spoken to; else it is silent, whatever it could be made to sign.
#[test]
fn a_reset_for_a_lost_connection_is_signed_or_not_sent() {
    for (n, of_a, told) in
        [(0, Some(&b"secret"[..]), true), (1, Some(b"other"), false), (2, None, false)]
    {
        for v6 in [false, true] {
            let mut p = Pair::over(910 + n, GOOD, v6);
            if let Some(k) = of_a {
                let listen = Listen { port: 80, backlog: 16, ..Listen::default() };
                let (l, at_b) = (p.shards[A].tcp_listen(listen).expect("free"), p.addr(B));
                p.shards[A].tcp_set(l, key(at_b, None, k)).expect("set");
            }
            let (a, b) = try_connect(&mut p, Some(b"secret"), Some(b"secret")).expect("connected");
            p.lose = Some(|seen| seen.from == A);
            p.shards[A].tcp_abort(a);
            p.run(SEC);
            p.lose = None;
            let (resets, begun) = (p.count(A, C::TcpOutRsts), p.seen.len());
            p.shards[B].tcp_send(b, b"are you there?").expect("room");
            p.run(10 * SEC);
            let sent: Vec<_> = p.seen[begun..].iter().filter(|s| s.from == A).collect();
            assert!(sent.iter().all(|s| s.opts.signed && s.hdr.flags.rst()), "{n}");
            assert_eq!(
                (sent.len(), p.count(A, C::TcpOutRsts) - resets),
                (told.into(), told.into())
            );
            assert_eq!(p.shards[B].tcp_error(b), told.then_some(TcpError::Reset), "{n}");
            assert!(p.drops(A, Reason::NoSocket) > 0);
            assert_eq!(p.count(A, C::TcpExtTCPMD5Failure), 0, "as in Linux, that counts nothing");
        }
    }
}

#[test]
fn drop_tcp_md5_failure() {
    let mut p = Pair::new(902, GOOD);
    assert_eq!(try_connect(&mut p, Some(b"secret"), Some(b"another")), None);
    let n = p.drops(B, Reason::TcpMd5Failure);
    assert!(n > 0);
    assert_eq!(p.count(B, C::TcpExtTCPMD5Failure), n);
}

#[test]
fn drop_tcp_md5_not_found() {
    let mut p = Pair::new(903, GOOD);
    assert_eq!(try_connect(&mut p, Some(b"secret"), None), None);
    let n = p.drops(B, Reason::TcpMd5NotFound);
    assert!(n > 0);
    assert_eq!(p.count(B, C::TcpExtTCPMD5NotFound), n);
    // Of strangers who guess right an established connection believes nothing either.
    let mut p = Pair::new(904, GOOD);
    let (_, b) = try_connect(&mut p, Some(b"secret"), Some(b"secret")).expect("connected");
    p.run(SEC);
    let tp = p.tcb(B, b);
    let (ports, seq) = ((tp.tuple.rport, 80), tp.rcv_nxt.0);
    p.inject(B, ports, Forged { seq, flags: TcpFlags::RST, ..Forged::default() });
    assert_eq!(p.drops(B, Reason::TcpMd5NotFound), 1);
    assert_eq!(p.shards[B].tcp_error(b), None);
}

#[test]
fn drop_tcp_md5_unexpected() {
    let mut p = Pair::new(905, GOOD);
    assert_eq!(try_connect(&mut p, None, Some(b"secret")), None);
    let n = p.drops(B, Reason::TcpMd5Unexpected);
    assert!(n > 0);
    assert_eq!(p.count(B, C::TcpExtTCPMD5Unexpected), n);
}

/// Of several keys that of the longest prefix counts; an empty one takes a key away.
#[test]
fn keys_for_prefixes_are_chosen_by_length() {
    let mut p = Pair::new(906, GOOD);
    let l = p.listen(80);
    let (at_a, at_b) = (p.addr(A), p.addr(B));
    for (prefix, k) in [(0, &b"all"[..]), (24, b"near"), (8, b"far")] {
        p.shards[B].tcp_set(l, key(at_a, Some(prefix), k)).expect("set");
    }
    let to = Connect { local: None, remote: p.at(B, 80), user: 7 };
    for k in [&b"near"[..], b"far", b"all"] {
        p.tick();
        let a = p.shards[A].tcp_connect_with(to, &[key(at_b, None, k)]).expect("a route exists");
        let mut b = None;
        p.until(30 * SEC, |p| {
            b = b.or_else(|| p.shards[B].tcp_accept(l));
            b.is_some()
        });
        assert!(b.is_some(), "{}", String::from_utf8_lossy(k));
        p.shards[A].tcp_abort(a);
        let prefix = match k {
            b"near" => 24,
            b"far" => 8,
            _ => 0,
        };
        p.shards[B].tcp_set(l, key(at_a, Some(prefix), b"")).expect("it is there");
        assert_eq!(
            p.shards[B].tcp_set(l, key(at_a, Some(prefix), b"")),
            Err(TcpError::NoKey),
            "and gone"
        );
    }
    assert_eq!(Md5Sig::new(at_a, Some(33), b"k"), Err(TcpError::Invalid));
    assert_eq!(Md5Sig::new(at_a, None, &[0; 81]), Err(TcpError::Invalid));
}

/// Digests that another implementation has made of the same segments.
#[test]
fn digests_are_those_of_others() {
    let sig = Md5Sig::new(IpAddr::from([192, 0, 2, 1]), None, b"hello").expect("a key");
    let mut header = [0; 20];
    header[..4].copy_from_slice(&[0x9c, 0x40, 0x1f, 0x90]);
    header[4..8].copy_from_slice(&[0, 0, 0, 7]);
    header[12..14].copy_from_slice(&[0xa0, 0x18]);
    header[14..18].copy_from_slice(&[0x01, 0x02, 0xab, 0xcd]);
    let v4 = (IpAddr::from([10, 77, 0, 1]), IpAddr::from([192, 0, 2, 1]));
    let v6 = (
        IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, 1]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    );
    let data = [&b"some "[..], b"data"];
    let made = |ends| super::super::md5::digest(ends, &header, 49, data.into_iter(), &sig);
    let hex = |d: [u8; 16]| d.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(made(v4)), "8b0bceb1923f8c169738c7d23b14ac74");
    assert_eq!(hex(made(v6)), "763ab3178bf6428f9f6c1e45566de85c");
}
