//! Data in the SYN (RFC 7413).

use super::*;
use crate::seq::Seq;
use crate::table::count::Counter as C;
use crate::tcp::icmp::{ErrKind, TcpQuote, tcp_v4_err};
use crate::tcp::info::TcpInfo;
use crate::tcp::{CaState, State};

/// Both sides use Fast Open (`bits` of `tcp_fastopen`), B listens and takes it from four at a time.
fn fast(bits: &str) -> (Pair, SocketId) {
    let mut p = Pair::new(300, GOOD);
    for shard in &mut p.shards {
        shard.set_knob("net.ipv4.tcp_fastopen", bits).expect("a knob");
    }
    let listener = p.listen(80);
    assert!(p.shards[B].tcp_listen_fastopen(listener, 4));
    (p, listener)
}

fn open(p: &mut Pair, data: &[u8]) -> (SocketId, usize) {
    let remote = p.at(B, 80);
    p.tick();
    let connect = Connect { local: None, remote, user: 7 };
    p.shards[A].tcp_connect_fastopen(connect, &[], data).expect("connects")
}

/// A first connection, which brings the cookie.
fn introduced(bits: &str) -> (Pair, SocketId) {
    let (mut p, listener) = fast(bits);
    let (id, n) = open(&mut p, b"not yet");
    assert_eq!(n, 0, "without a cookie no data goes with the SYN");
    p.run(10 * MS);
    assert_eq!(p.tcb(A, id).state, State::Established);
    assert!(p.shards[B].tcp_accept(listener).is_some());
    (p, listener)
}

#[test]
fn the_first_connection_brings_a_cookie_and_the_next_one_its_data() {
    let (mut p, listener) = introduced("3");
    assert_eq!(p.count(B, C::TcpExtTCPFastOpenCookieReqd), 1);
    let remote = p.at(B, 80);
    assert!(p.shards[A].tcp_fastopen_ready(remote));
    let (a, n) = open(&mut p, b"at once");
    assert_eq!(n, 7);
    // The SYN arrives: before the handshake is over the data can be read and answered.
    p.run(GOOD.delay + MS / 2);
    let b = p.shards[B].tcp_accept(listener).expect("it is open");
    assert_eq!(p.tcb(B, b).state, State::SynRecv);
    let mut buf = [0; 16];
    assert_eq!(p.shards[B].tcp_recv(b, &mut buf), Ok(7));
    assert_eq!(&buf[..7], b"at once");
    assert_eq!(p.shards[B].tcp_send(b, b"answer"), Ok(6));
    p.run(20 * MS);
    assert_eq!(p.shards[A].tcp_recv(a, &mut buf), Ok(6));
    assert_eq!((p.tcb(A, a).state, p.tcb(B, b).state), (State::Established, State::Established));
    assert_eq!(p.count(A, C::TcpExtTCPFastOpenActive), 1);
    assert_eq!(p.count(B, C::TcpExtTCPFastOpenPassive), 1);
    assert_eq!(p.count(A, C::TcpRetransSegs) + p.count(B, C::TcpRetransSegs), 0);
    let answer = p.seen.iter().find(|s| s.from == B && s.len == 6).expect("the answer");
    let last = p.seen.iter().rev().find(|s| s.from == A).expect("an acknowledgement");
    assert!(answer.at < last.at, "the answer did not wait for the end of the handshake");
    // It is a connection as any other.
    assert_eq!(p.shards[A].tcp_send(a, &[7; 5000]), Ok(5000));
    p.run(200 * MS);
    assert_eq!(p.shards[B].tcp_readable(b).map(|rx| rx.bytes), Ok(5000));
}

/// The SYN with data is lost: it is sent again without, and everything arrives once.
#[test]
fn a_syn_that_is_lost_is_sent_again_plainly() {
    let (mut p, listener) = introduced("3");
    p.lose = Some(|s| s.hdr.flags.syn() && s.len > 0);
    let (a, n) = open(&mut p, b"at once");
    assert_eq!(n, 7);
    p.run(3 * SEC);
    let b = p.shards[B].tcp_accept(listener).expect("it is open");
    let mut buf = [0; 16];
    assert_eq!(p.shards[B].tcp_recv(b, &mut buf), Ok(7));
    assert_eq!(p.tcb(A, a).state, State::Established);
    assert_eq!(p.count(A, C::TcpExtTCPFastOpenActiveFail), 1);
    let remote = p.at(B, 80);
    assert!(!p.shards[A].tcp_fastopen_ready(remote), "something does not let it through");
}

/// What became of Fast Open can be read on both sides.
#[test]
fn the_record_tells_what_became_of_the_data() {
    let (mut p, listener) = introduced("3");
    let told = |p: &Pair, i: usize, id: SocketId| {
        let info = p.shards[i].tcp_info(id).expect("it lives");
        (info.options & TcpInfo::SYN_DATA != 0, info.fastopen_client_fail, info.delivered)
    };
    let (a, _) = open(&mut p, b"at once");
    p.run(50 * MS);
    let b = p.shards[B].tcp_accept(listener).expect("it is open");
    assert_eq!((told(&p, A, a), told(&p, B, b)), ((true, 0, 1), (true, 0, 1)));
    p.lose = Some(|s| s.hdr.flags.syn() && s.len > 0);
    let (a, _) = open(&mut p, b"at once");
    p.run(3 * SEC);
    let b = p.shards[B].tcp_accept(listener).expect("it is open");
    // TFO_SYN_RETRANSMITTED; the data was delivered after the handshake.
    assert_eq!((told(&p, A, a), told(&p, B, b)), ((false, 3, 2), (false, 0, 1)));
    let (a, _) = open(&mut p, b"");
    assert_eq!(told(&p, A, a), (false, 1, 0), "that host's cookie was forgotten");
}

/// A server that takes no data with SYNs any more: the data counts as lost, and goes out with the end of the
/// handshake; that says nothing of congestion.
#[test]
fn data_that_the_syn_ack_does_not_take_is_sent_again() {
    let (mut p, listener) = introduced("3");
    p.shards[B].set_knob("net.ipv4.tcp_fastopen", "0").expect("a knob");
    let data = [7; 1400];
    let (a, n) = open(&mut p, &data);
    assert!(n > 1000);
    p.run(GOOD.delay * 2 + MS);
    let info = p.shards[A].tcp_info(a).expect("it lives");
    assert_eq!((info.fastopen_client_fail, info.ca_state), (2, CaState::Loss as u8));
    assert_eq!((info.retrans, info.unacked, info.snd_cwnd), (1, 1, 10));
    assert_eq!(p.count(A, C::TcpRetransSegs), 1);
    p.run(50 * MS);
    assert_eq!(p.tcb(A, a).ca_state, CaState::Open);
    let b = p.shards[B].tcp_accept(listener).expect("it is open");
    assert_eq!(p.shards[B].tcp_readable(b).map(|rx| rx.bytes), Ok(n));
}

/// The path takes no SYN with so much data: it goes out again at once, without.
#[test]
fn a_syn_that_is_too_large_is_sent_again_without_data() {
    let (mut p, listener) = introduced("3");
    p.lose = Some(|s| s.hdr.flags.syn() && s.len > 0);
    let (a, n) = open(&mut p, &[7; 1400]);
    p.run(MS);
    let (quote, seq) = {
        let tp = p.tcb(A, a);
        (tp.tuple, tp.iss)
    };
    let quote = TcpQuote {
        src: quote.local,
        dst: quote.remote,
        sport: quote.lport,
        dport: quote.rport,
        seq,
    };
    p.lose = None;
    tcp_v4_err(&mut p.shards[A], &quote, ErrKind::FragNeeded(800), false);
    p.run(50 * MS);
    let syns: Vec<_> = p.seen.iter().filter(|s| s.from == A && s.hdr.flags.syn()).collect();
    let last = syns.last().expect("the second one");
    assert_eq!((last.len, last.opts.mss), (0, Some(760)));
    let b = p.shards[B].tcp_accept(listener).expect("it is open");
    assert_eq!(p.shards[B].tcp_readable(b).map(|rx| rx.bytes), Ok(n));
}

/// Who waits to write has the end of the handshake wait for the data.
#[test]
fn a_writer_that_waits_saves_an_acknowledgement() {
    for (pending, packets) in [(false, 3), (true, 2)] {
        let (mut p, _) = introduced("1");
        let a = p.connect(80);
        p.shards[A].tcp_write_pending(a, pending);
        p.seen.clear();
        let open = |p: &mut Pair| p.tcb(A, a).state == State::Established;
        assert!(p.until(SEC, open));
        p.run(MS);
        assert_eq!(p.shards[A].tcp_send(a, b"data"), Ok(4));
        p.run(MS);
        let ours = p.seen.iter().filter(|s| s.from == A).count();
        assert_eq!(ours, packets, "the SYN, perhaps an acknowledgement, and the data");
    }
}

/// The SYN-ACK is lost: the server repeats it, data and all stay as they were.
#[test]
fn a_syn_ack_that_is_lost_is_repeated() {
    let (mut p, listener) = introduced("3");
    p.lose = Some(|s| s.from == B);
    let (a, _) = open(&mut p, b"at once");
    p.run(GOOD.delay + MS / 2);
    p.lose = None;
    let b = p.shards[B].tcp_accept(listener).expect("it is open");
    p.run(5 * SEC);
    assert_eq!((p.tcb(A, a).state, p.tcb(B, b).state), (State::Established, State::Established));
    let mut buf = [0; 16];
    assert_eq!(p.shards[B].tcp_recv(b, &mut buf), Ok(7));
    assert_eq!(p.shards[B].tcp_readable(b).map(|rx| rx.bytes), Ok(0), "the data came once");
}

/// A cookie that is none of the server's opens nothing: the data is taken after the handshake, and
/// another cookie comes with the SYN-ACK.
#[test]
fn knob_net_ipv4_tcp_fastopen_key() {
    let key = "net.ipv4.tcp_fastopen_key";
    let (one, two) = ("00000001-2-3-4", "00000005-6-7-8");
    for (next, counts) in [(one, (1, 0, 0)), (two, (0, 1, 0)), (&format!("{two},{one}"), (1, 0, 1))]
    {
        let (mut p, listener) = fast("3");
        p.shards[B].set_knob(key, one).expect("a key");
        open(&mut p, b"");
        p.run(10 * MS);
        p.shards[B].tcp_accept(listener).expect("the first one");
        p.shards[B].set_knob(key, next).expect("a key");
        open(&mut p, b"at once");
        p.run(50 * MS);
        let b = p.shards[B].tcp_accept(listener).expect("the second one");
        assert_eq!(p.shards[B].tcp_readable(b).map(|rx| rx.bytes), Ok(7));
        let passive = p.count(B, C::TcpExtTCPFastOpenPassive);
        let fail = p.count(B, C::TcpExtTCPFastOpenPassiveFail);
        let alt = p.count(B, C::TcpExtTCPFastOpenPassiveAltKey);
        assert_eq!((passive, fail, alt), counts, "{next}");
    }
    let mut shard = Shard::new(1);
    shard.set_knob(key, one).expect("a key");
    assert_eq!(shard.get_knob(key).as_deref(), Ok("00000001-00000002-00000003-00000004"));
    assert!(shard.set_knob(key, "1-2-3").is_err());
    assert!(shard.set_knob(key, &[one; 3].join(",")).is_err());
}

/// Without it the handshake is the ordinary one; a cookie may be needless, by either side's will.
#[test]
fn knob_net_ipv4_tcp_fastopen() {
    // Bits; how many bytes the first SYN carries; connections that they open at once.
    for (bits, n, passive) in [("0", 0, 0), ("1", 0, 0), ("3", 0, 0), ("519", 7, 1), ("5", 7, 0)] {
        let (mut p, listener) = fast(bits);
        let (_, sent) = open(&mut p, b"at once");
        p.run(50 * MS);
        assert_eq!(sent, n, "{bits}");
        assert_eq!(p.count(B, C::TcpExtTCPFastOpenPassive), passive, "{bits}");
        let b = p.shards[B].tcp_accept(listener).expect("it is open");
        assert_eq!(p.shards[B].tcp_readable(b).map(|rx| rx.bytes), Ok(n), "{bits}");
    }
    // All listeners, or those that ask for it.
    for (bits, asked) in [("3", 0), ("1027", 1)] {
        let mut p = Pair::new(301, GOOD);
        p.shards[B].set_knob("net.ipv4.tcp_fastopen", bits).expect("a knob");
        p.listen(80);
        open(&mut p, b"");
        p.run(10 * MS);
        assert_eq!(p.count(B, C::TcpExtTCPFastOpenCookieReqd), asked, "{bits}");
    }
}

/// Whoever never ends the handshake takes no more places than the listener gives.
#[test]
fn connections_that_a_cookie_opened_are_bounded() {
    let (mut p, _) = fast("515");
    p.lose = Some(|s| s.from == B);
    for port in 1..=10 {
        let flags = TcpFlags::SYN;
        let forged = Forged { flags, window: 1000, data: b"hello", ..Forged::default() };
        p.inject(B, (port, 80), forged);
    }
    assert_eq!(p.count(B, C::TcpExtTCPFastOpenPassive), 4);
    assert_eq!(p.count(B, C::TcpExtTCPFastOpenListenOverflow), 6);
    assert_eq!(p.shards[B].tcp.reqs.len(), 6, "the others shake hands as usual");
}

/// Those that change shards before their handshake is over take places there and no more here, accepted or not,
/// however often they move; where it is over they take none.
#[test]
fn connections_that_a_cookie_opened_are_counted_where_they_are() {
    let (mut p, listener) = fast("515");
    p.lose = Some(|s| s.from == B);
    let syn = |p: &mut Pair, port| {
        let flags = TcpFlags::SYN;
        let forged = Forged { flags, window: 1000, data: b"hello", ..Forged::default() };
        p.inject(B, (port, 80), forged);
    };
    (1..=3).for_each(|port| syn(&mut p, port));
    assert!(p.shards[B].tcp_accept(listener).is_some());
    let mut here = None;
    for _ in 0..2 {
        p.move_all(B, |shard| {
            shard.set_knob("net.ipv4.tcp_fastopen", "515").expect("a knob");
            let listen = Listen { port: 80, backlog: 16, ..Listen::default() };
            let id = shard.tcp_listen(listen).expect("a free port");
            assert!(shard.tcp_listen_fastopen(id, 4));
            here = Some(id);
        });
        let l = p.shards[B].tcp.listener(here.expect("it listens")).expect("it is there");
        assert_eq!((l.fastopenq.len(), l.accept.len()), (3, 2));
    }
    (4..=5).for_each(|port| syn(&mut p, port));
    assert_eq!(p.count(B, C::TcpExtTCPFastOpenPassive), 1, "one place was left");
    assert_eq!(p.count(B, C::TcpExtTCPFastOpenListenOverflow), 1);
    let tuple = p.shards[B].tcp.conns.iter().map(|(_, _, tp)| (tp.tuple.rport, tp.iss, tp.rcv_nxt));
    let (port, iss, rcv_nxt) = tuple.min_by_key(|(port, ..)| *port).expect("a connection");
    let flags = TcpFlags::ACK;
    let ack = Forged { flags, seq: rcv_nxt.0, ack: (iss + 1).0, window: 1000, ..Forged::default() };
    p.inject(B, (port, 80), ack);
    syn(&mut p, 6);
    assert_eq!(
        p.count(B, C::TcpExtTCPFastOpenPassive),
        2,
        "the place of the one whose handshake is over"
    );
}

/// Three timeouts of a connection that tried Fast Open: for a while it is not tried again, then once more, and
/// not for twice as long if that is swallowed as well. One that works ends the matter.
#[test]
fn knob_net_ipv4_tcp_fastopen_blackhole_timeout_sec() {
    for timeout in [0, 100] {
        let (mut p, listener) = introduced("3");
        let path = "net.ipv4.tcp_fastopen_blackhole_timeout_sec";
        p.shards[A].set_knob(path, &timeout.to_string()).expect("in range");
        let times = |p: &Pair| p.count(A, C::TcpExtTCPFastOpenBlackhole);
        let on = u64::from(timeout > 0);
        for n in 1..=2 {
            p.lose = Some(|s| s.from == B);
            let (a, bytes) = open(&mut p, b"at once");
            assert_eq!(bytes, 7);
            // The third timeout is after three seconds.
            p.run(60 * SEC);
            p.shards[A].tcp_abort(a);
            p.lose = None;
            assert_eq!(times(&p), n * on);
            assert_eq!(p.count(A, C::TcpExtTCPFastOpenActiveFail), n, "acted on or not");
            let (a, bytes) = open(&mut p, b"at once");
            assert_eq!(bytes == 0, timeout > 0, "{timeout} s");
            p.run(SEC);
            p.shards[A].tcp_abort(a);
            p.run((n * 100 - 50) * SEC);
        }
        let (a, bytes) = open(&mut p, b"at once");
        assert_eq!(bytes, 7, "the pause is over");
        p.run(SEC);
        let mut last = None;
        while let Some(b) = p.shards[B].tcp_accept(listener) {
            last = Some(b);
        }
        let b = last.expect("it is open");
        p.shards[B].tcp_send(b, b"answer").expect("room");
        p.run(SEC);
        assert_eq!(p.shards[A].tcp_recv(a, &mut [0; 16]), Ok(6));
        p.shards[A].tcp_abort(a);
        // Nothing is left of the pauses: with a third one it would be four times as long.
        p.lose = Some(|s| s.from == B);
        let (a, bytes) = open(&mut p, b"at once");
        assert_eq!(bytes, 7);
        p.run(60 * SEC);
        p.shards[A].tcp_abort(a);
        assert_eq!(times(&p), 3 * on);
        p.run(50 * SEC);
        assert_eq!(open(&mut p, b"at once").1, 7);
    }
}

/// A listener with keys of its own: cookies of others are none, those of its second key still are.
#[test]
fn listeners_may_have_keys_of_their_own() {
    let (mut p, listener) = introduced("3");
    let keys = [[1; 16], [2; 16]];
    assert!(p.shards[B].tcp_listen_fastopen_keys(listener, &keys[..1]));
    assert!(!p.shards[B].tcp_listen_fastopen_keys(listener, &[[0; 16]; 3]), "two at the most");
    let mut opened = |alt: u64, fail: u64| {
        let (a, n) = open(&mut p, b"at once");
        assert_eq!(n, 7);
        p.run(2 * SEC);
        let b = p.shards[B].tcp_accept(listener).expect("it is open, by one way or the other");
        assert_eq!(p.count(B, C::TcpExtTCPFastOpenPassiveAltKey), alt);
        assert_eq!(p.count(B, C::TcpExtTCPFastOpenPassiveFail), fail);
        p.shards[A].tcp_close(a);
        p.shards[B].tcp_close(b);
        p.run(SEC);
        p.shards[B].tcp_listen_fastopen_keys(listener, &[keys[1], keys[0]])
    };
    assert!(opened(0, 1), "the cookie was made with the stack's key; a new one comes");
    assert!(opened(1, 1), "made with what is the second key by now");
    assert!(p.shards[B].tcp_listen_fastopen_keys(listener, &[]));
}

/// Data of a SYN tells nothing of the time between segments: a FIN that follows is acknowledged at once, and the
/// answer to it need not be waited for (`tcp_fastopen_add_skb`, `tcp_send_delayed_ack`).
#[test]
fn what_follows_the_data_of_a_syn_is_acknowledged_at_once() {
    let (mut p, _) = introduced("3");
    let (a, n) = open(&mut p, b"at once");
    assert_eq!(n, 7);
    p.run(100 * MS);
    p.shards[A].tcp_shutdown(a);
    p.run(100 * MS);
    let fin = p.seen.iter().rev().find(|s| s.from == A && s.hdr.flags.fin()).expect("a FIN");
    let ack = p.seen.iter().rev().find(|s| s.from == B).expect("its acknowledgement");
    assert_eq!(ack.hdr.ack, fin.hdr.seq + 1);
    let took = ack.at.since(fin.at);
    assert!(took < 2 * GOOD.delay + 10 * MS, "{took} ns, and no delay of an acknowledgement");
}

/// What the SYN-ACK promises holds, also where the SYN brought data: the window begins behind it.
#[test]
fn the_window_of_a_syn_ack_begins_behind_the_data() {
    let (mut p, listener) = introduced("3");
    p.shards[B].set_knob("net.ipv4.tcp_rmem", "4096 6000 60000").expect("a knob");
    open(&mut p, &[1; 1000]);
    p.run(GOOD.delay + MS / 2);
    let b = p.shards[B].tcp_accept(listener).expect("it is open");
    assert_eq!(p.shards[B].tcp_send(b, b"answer"), Ok(6));
    p.run(20 * MS);
    let synack = p.seen.iter().rfind(|s| s.from == B && s.hdr.flags.syn()).expect("a SYN-ACK");
    let answer = p.seen.iter().rfind(|s| s.from == B && s.len == 6).expect("the answer");
    let scale = synack.opts.wscale.expect("a scale");
    let promised = Seq(synack.hdr.ack) + u32::from(synack.hdr.window);
    let now = Seq(answer.hdr.ack) + (u32::from(answer.hdr.window) << scale);
    assert!(synack.hdr.window < 6000, "{}", synack.hdr.window);
    assert!(promised.le(now), "{promised:?} {now:?}");
}
