use super::*;
use crate::sock::error::TcpError;
use crate::table::count::Counter as C;
use crate::tcp::{KeepAlive, State, TcpOpt};

fn states(p: &mut Pair, a: SocketId, b: SocketId) -> (Option<State>, Option<State>) {
    (p.shards[A].tcp_info(a).map(|i| i.state), p.shards[B].tcp_info(b).map(|i| i.state))
}

/// RFC 9293 §3.6, figure 12: one side finishes, then the other; the first to finish waits.
#[test]
fn closing_one_after_the_other() {
    let mut p = Pair::new(50, GOOD);
    let (a, b) = p.connected();
    p.shards[A].tcp_send(a, b"request").expect("room");
    p.shards[A].tcp_shutdown(a);
    assert_eq!(p.shards[A].tcp_send(a, b"more"), Err(TcpError::Closed));
    // The acknowledgement waits for what B may have to send.
    p.run(10 * MS);
    assert_eq!(states(&mut p, a, b), (Some(State::FinWait1), Some(State::CloseWait)));
    p.run(50 * MS);
    assert_eq!(states(&mut p, a, b), (Some(State::FinWait2), Some(State::CloseWait)));
    assert!(p.ready(B, b).has(Ready::RDHUP));
    let mut buf = [0; 100];
    assert_eq!(p.shards[B].tcp_recv(b, &mut buf), Ok(7));
    assert_eq!(p.shards[B].tcp_recv(b, &mut buf), Ok(0), "the end of the stream");
    // The other direction is still open.
    p.shards[B].tcp_send(b, b"answer").expect("room");
    p.run(10 * MS);
    assert_eq!(p.shards[A].tcp_recv(a, &mut buf), Ok(6));
    p.shards[B].tcp_close(b);
    p.run(10 * MS);
    assert_eq!(p.shards[A].tcp_recv(a, &mut buf), Ok(0));
    assert_eq!(p.shards[B].tcp.conns.len(), 0, "LAST_ACK ended");
    assert_eq!(p.shards[A].tcp.tws.len(), 1, "the first to close waits");
    p.shards[A].tcp_close(a);
    assert_eq!(p.shards[A].tcp.conns.len(), 0);
    p.run(70 * SEC);
    assert_eq!((p.shards[A].tcp.tws.len(), p.count(A, C::TcpExtTW)), (0, 1));
    assert_eq!((p.count(A, C::TcpCurrEstab), p.count(B, C::TcpCurrEstab)), (0, 0));
    assert_eq!((p.shards[A].tcp_sockstat().mem, p.shards[B].tcp_sockstat().mem), (0, 0));
    assert_eq!(p.count(A, C::TcpOutRsts) + p.count(B, C::TcpOutRsts), 0);
}

/// RFC 9293 §3.6, figure 13: both FINs cross.
#[test]
fn closing_at_once() {
    let mut p = Pair::new(51, GOOD);
    let (a, b) = p.connected();
    p.shards[A].tcp_close(a);
    p.shards[B].tcp_close(b);
    p.run(10 * MS);
    for shard in &p.shards {
        assert_eq!((shard.tcp.conns.len(), shard.tcp.tws.len()), (0, 1), "both wait");
    }
    p.run(70 * SEC);
    assert!(p.shards.iter().all(|s| s.tcp.tws.is_empty() && s.tcp.demux_len() == 0));
}

/// RFC 9293 §3.10.4: what is closed before it is established is closed once it is, both where it
/// was opened from one end and where it was from both.
#[test]
fn closing_before_the_other_end_has_answered() {
    let mut p = Pair::new(58, GOOD);
    let l = p.listen(80);
    let a = p.connect(80);
    p.shards[A].tcp_send(a, b"early").expect("room");
    p.shards[A].tcp_shutdown(a);
    p.run(60 * MS);
    let b = p.shards[B].tcp_accept(l).expect("it is established");
    assert_eq!(states(&mut p, a, b), (Some(State::FinWait2), Some(State::CloseWait)));
    p.shards[B].tcp_close(b);
    p.shards[A].tcp_close(a);
    let (at_a, at_b) = (p.at(A, 1000), p.at(B, 2000));
    let a = p.shards[A].tcp_connect(Connect { local: Some(at_a), remote: at_b, user: 0 });
    let b = p.shards[B].tcp_connect(Connect { local: Some(at_b), remote: at_a, user: 0 });
    let (a, b) = (a.expect("connects"), b.expect("connects"));
    p.until(SEC, |p| [(A, a), (B, b)].iter().all(|&(s, id)| p.tcb(s, id).state == State::SynRecv));
    for (side, id) in [(A, a), (B, b)] {
        assert_eq!(p.tcb(side, id).state, State::SynRecv);
        p.shards[side].tcp_close(id);
    }
    p.run(200 * SEC);
    for shard in &p.shards {
        let tcp = &shard.tcp;
        assert_eq!((tcp.conns.len(), tcp.tws.len(), tcp.orphans), (0, 0, 0), "nothing stays");
    }
}

/// A close with data queued sends all of it first.
#[test]
fn closing_sends_what_is_queued() {
    let mut p = Pair::new(52, Fate { loss: 50, ..GOOD });
    let (a, b) = p.connected();
    let data: Vec<u8> = (0..40_000).map(pattern).collect();
    assert_eq!(p.shards[A].tcp_send(a, &data), Ok(40_000));
    p.shards[A].tcp_close(a);
    assert_eq!(p.shards[A].tcp_send(a, b"x"), Err(TcpError::NotConnected), "the name is gone");
    let mut reader = End::new(0);
    assert!(p.until(60 * SEC, |p| {
        reader.turn(&mut p.shards[B], b);
        reader.eof
    }));
    assert_eq!(reader.read, 40_000);
}

/// RFC 2525 §2.17: what was received and not read makes a reset of the close.
#[test]
fn closing_with_unread_data_resets() {
    let mut p = Pair::new(53, GOOD);
    let (a, b) = p.connected();
    p.shards[A].tcp_send(a, b"never read").expect("room");
    p.run(10 * MS);
    p.shards[B].tcp_close(b);
    p.run(10 * MS);
    assert_eq!(p.count(B, C::TcpExtTCPAbortOnClose), 1);
    assert!(p.last_of(B).hdr.flags.rst());
    assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::Reset));
    assert!(p.ready(A, a).has(Ready::ERR));
    assert_eq!(p.shards[A].tcp_recv(a, &mut [0; 9]), Err(TcpError::Reset));
    assert_eq!(p.shards[A].tcp_send(a, b"x"), Err(TcpError::Reset));
    assert_eq!((p.count(A, C::TcpEstabResets), p.drops(B, Reason::SocketClosed)), (1, 1));
}

/// Data for a connection that its owner has closed is answered by a reset.
#[test]
fn data_for_nobody_resets() {
    let mut p = Pair::new(54, GOOD);
    let (a, b) = p.connected();
    p.shards[B].tcp_close(b);
    p.run(10 * MS);
    p.shards[A].tcp_send(a, b"anybody?").expect("room");
    p.run(10 * MS);
    assert_eq!((p.count(B, C::TcpOutRsts), p.shards[B].tcp.conns.len()), (1, 0));
    assert_eq!((p.shards[B].tcp.tws.len(), p.drops(B, Reason::TcpClose)), (0, 1));
    // A had seen the FIN, so that this is a broken pipe.
    assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::Closed));
}

#[test]
fn aborting_resets_at_once() {
    let mut p = Pair::new(55, GOOD);
    let (a, b) = p.connected();
    p.shards[A].tcp_send(a, &[0; 10_000]).expect("room");
    p.shards[A].tcp_abort(a);
    assert_eq!(p.shards[A].tcp.conns.len(), 0);
    p.run(10 * MS);
    assert_eq!(p.shards[B].tcp_error(b), Some(TcpError::Reset));
    assert_eq!((p.count(A, C::TcpOutRsts), p.count(A, C::TcpExtTCPAbortOnData)), (1, 1));
    p.shards[B].tcp_close(b);
    assert_eq!(p.shards[B].tcp.conns.len(), 0);
}

/// The peer never closes its side: FIN_WAIT_2 ends after `tcp_fin_timeout`, once nobody is here.
#[test]
fn fin_wait_2_ends() {
    let mut p = Pair::new(56, GOOD);
    let (a, _b) = p.connected();
    p.shards[A].tcp_close(a);
    p.run(50 * SEC);
    // As in Linux it waits as a small entry, in the state that it has.
    assert_eq!((p.shards[A].tcp.conns.len(), p.shards[A].tcp.orphans), (0, 0));
    let states: Vec<State> = p.shards[A].tcp_iter().map(|row| row.state).collect();
    assert_eq!(states, [State::FinWait2]);
    p.run(20 * SEC);
    assert_eq!((p.shards[A].tcp.tws.len(), p.shards[A].tcp.demux_len()), (0, 0));
    assert_eq!(p.count(A, C::TcpOutRsts), 0, "nobody is told");
}

/// The peer closes its side while nobody is here: the entry waits its minute from then on.
#[test]
fn a_fin_ends_fin_wait_2() {
    let mut p = Pair::new(59, GOOD);
    let (a, b) = p.connected();
    p.shards[A].tcp_close(a);
    p.run(50 * SEC);
    p.shards[B].tcp_close(b);
    p.run(SEC);
    assert_eq!(p.shards[B].tcp.conns.len(), 0, "its FIN was acknowledged");
    p.run(50 * SEC);
    let states: Vec<State> = p.shards[A].tcp_iter().map(|row| row.state).collect();
    assert_eq!(states, [State::TimeWait]);
    p.run(20 * SEC);
    assert_eq!(p.shards[A].tcp.tws.len(), 0);
}

/// A wait that is longer than a minute keeps the connection until its last minute; a negative one
/// is none.
#[test]
fn the_wait_in_fin_wait_2_is_the_options() {
    for (linger2, conns, tws, resets) in [(100, 1, 0, 0), (5, 0, 0, 0), (-1, 0, 0, 1)] {
        let mut p = Pair::new(60, GOOD);
        let (a, _b) = p.connected();
        p.shards[A].tcp_set(a, TcpOpt::Linger2(linger2)).expect("set");
        p.shards[A].tcp_close(a);
        p.run(20 * SEC);
        let tcp = &p.shards[A].tcp;
        assert_eq!((tcp.conns.len(), tcp.tws.len()), (conns, tws), "{linger2}");
        assert_eq!(p.count(A, C::TcpOutRsts), resets);
        assert_eq!(p.count(A, C::TcpExtTCPAbortOnData), u64::from(linger2 < 0));
        p.run(50 * SEC);
        assert_eq!(p.shards[A].tcp.tws.len(), usize::from(linger2 == 100));
        p.run(60 * SEC);
        assert_eq!(p.shards[A].tcp.tws.len() + p.shards[A].tcp.conns.len(), 0);
    }
    let mut p = Pair::new(61, GOOD);
    let (a, b) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::Linger2(-1)).expect("set");
    p.shards[A].tcp_shutdown(a);
    p.run(SEC);
    p.shards[A].tcp_close(a);
    p.run(SEC);
    assert_eq!((p.count(A, C::TcpExtTCPAbortOnLinger), p.count(A, C::TcpOutRsts)), (1, 1));
    assert_eq!(p.shards[B].tcp_error(b), Some(TcpError::Closed));
}

/// Nobody answers: the connection times out once it took as long as `tcp_retries2` timeouts from 200 ms on,
/// exponentially later, would; the first of its own is when that begins, and the last the one that ends it.
#[test]
fn a_dead_peer_is_given_up() {
    let mut p = Pair::new(57, GOOD);
    p.shards[A].set_knob("net.ipv4.tcp_retries2", "5").expect("a knob");
    let (a, _b) = p.connected();
    p.lose = Some(|_| true);
    p.shards[A].tcp_send(a, b"hello?").expect("room");
    p.run(3600 * SEC);
    assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::TimedOut));
    assert_eq!((p.count(A, C::TcpExtTCPTimeouts), p.count(A, C::TcpExtTCPAbortOnTimeout)), (7, 1));
}

#[test]
fn the_users_patience_is_a_limit() {
    let mut p = Pair::new(58, GOOD);
    let (a, _b) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::UserTimeout(3_000)).expect("set");
    p.lose = Some(|_| true);
    let begun = p.now;
    p.shards[A].tcp_send(a, b"hello?").expect("room");
    assert!(p.until(60 * SEC, |p| p.shards[A].tcp_error(a).is_some()));
    assert!((3 * SEC..8 * SEC).contains(&p.now.since(begun)));
}

/// RFC 9293 §3.8.4: a silent peer is probed; one that answers stays, one that does not goes.
#[test]
fn keepalive_probes() {
    let mut p = Pair::new(59, GOOD);
    let (a, b) = p.connected();
    let keep = KeepAlive { time_s: 10, intvl_s: 2, probes: 3 };
    p.shards[A].tcp_set(a, TcpOpt::KeepAlive(Some(keep))).expect("set");
    p.run(60 * SEC);
    let probes = p.count(A, C::TcpExtTCPKeepAlive);
    assert!((4..=6).contains(&probes), "{probes} probes in a minute");
    assert_eq!(states(&mut p, a, b), (Some(State::Established), Some(State::Established)));
    p.lose = Some(|_| true);
    p.run(30 * SEC);
    assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::TimedOut));
}

/// A TIME_WAIT entry answers what is old, and gives way to a newer connection (RFC 6191).
#[test]
fn time_wait_is_reused_by_a_newer_connection() {
    let mut p = Pair::new(60, GOOD);
    let l = p.listen(80);
    let local = p.at(A, 5000);
    let remote = p.at(B, 80);
    let connect = Connect { local: Some(local), remote, user: 0 };
    let mut last_iss = 0;
    for round in 0..3 {
        p.tick();
        let a = p.shards[A].tcp_connect(connect).expect("the ends are free, or can be taken over");
        let mut b = None;
        assert!(
            p.until(SEC, |p| {
                b = b.or_else(|| p.shards[B].tcp_accept(l));
                b.is_some()
            }),
            "round {round}"
        );
        let iss = p.tcb(A, a).iss.0;
        assert!(round == 0 || (iss.wrapping_sub(last_iss) as i32) > 0, "numbers go on");
        last_iss = iss;
        let b = b.expect("accepted");
        // The server closes first: its side waits, and a new SYN from the same port ends that.
        p.shards[B].tcp_close(b);
        p.run(10 * MS);
        p.shards[A].tcp_close(a);
        p.run(3 * SEC);
        assert_eq!((p.shards[A].tcp.tws.len(), p.shards[B].tcp.tws.len()), (0, 1));
    }
    // Now the client closes first and takes its own entry over, but not within a second.
    let a = p.shards[A].tcp_connect(connect).expect("free");
    p.run(10 * MS);
    let b = p.shards[B].tcp_accept(l).expect("established");
    p.shards[A].tcp_close(a);
    p.run(10 * MS);
    p.shards[B].tcp_close(b);
    p.run(10 * MS);
    assert_eq!(p.shards[A].tcp.tws.len(), 1);
    assert_eq!(p.shards[A].tcp_connect(connect), Err(TcpError::InUse));
    p.run(3 * SEC);
    p.shards[A].tcp_connect(connect).expect("a second later the clock tells old from new");
    assert_eq!(p.count(A, C::TcpExtTWRecycled), 1);
    p.run(10 * MS);
    assert!(p.shards[B].tcp_accept(l).is_some());
}

/// A reset in each state ends the connection without an answer.
#[test]
fn a_reset_ends_every_state() {
    type Bring = fn(&mut Pair, SocketId, SocketId);
    let cases: [(State, Bring); 5] = [
        (State::Established, |_, _, _| {}),
        (State::CloseWait, |p, _, b| p.shards[B].tcp_shutdown(b)),
        (State::FinWait1, |p, a, _| {
            p.lose = Some(|s| s.from == B);
            p.shards[A].tcp_shutdown(a);
        }),
        (State::FinWait2, |p, a, _| p.shards[A].tcp_shutdown(a)),
        (State::LastAck, |p, a, b| {
            p.shards[B].tcp_shutdown(b);
            p.run(5 * MS);
            p.lose = Some(|s| s.from == B);
            p.shards[A].tcp_shutdown(a);
        }),
    ];
    for (state, bring) in cases {
        let mut p = Pair::new(61, GOOD);
        let (a, b) = p.connected();
        bring(&mut p, a, b);
        p.run(5 * MS);
        let tp = p.tcb(A, a);
        assert_eq!(tp.state, state);
        let (seq, ports) = (tp.rcv_nxt.0, (80, tp.tuple.lport));
        p.inject(A, ports, Forged { seq, flags: TcpFlags::RST, ..Forged::default() });
        assert_eq!(p.tcb(A, a).state, State::Close, "{state:?}");
        let sent = p.seen.iter().filter(|s| s.from == A).count();
        p.lose = Some(|_| true);
        p.run(MS);
        assert_eq!(p.seen.iter().filter(|s| s.from == A).count(), sent, "a reset is not answered");
        assert_eq!(p.shards[A].tcp.demux_len(), 0);
        p.shards[A].tcp_close(a);
        assert_eq!(p.shards[A].tcp.conns.len(), 0);
    }
}
