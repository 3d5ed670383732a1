//! Memory: pressure begins and ends, queues are shrunk before they are thrown away; listeners that wait
//! for data.

use super::*;
use crate::sock::error::TcpError;
use crate::table::count::Counter as C;
use crate::tcp::{State, TcpOpt};

/// Between the levels nothing changes: pressure begins above the second and ends below the first.
#[test]
fn pressure_begins_and_ends() {
    let mut p = Pair::new(320, GOOD);
    p.shards[B].set_knob("net.ipv4.tcp_mem", "10 20 1000").expect("in range");
    let (a, b) = p.connected();
    p.shards[A].tcp_send(a, &[0; 16_000]).expect("room");
    p.run(SEC);
    assert_eq!(p.count(B, C::TcpExtTCPMemoryPressures), 0);
    let mut sent = 16_000;
    p.until(20 * SEC, |p| {
        sent += p.shards[A].tcp_send(a, &[0; 1000]).unwrap_or(0);
        p.count(B, C::TcpExtTCPMemoryPressures) > 0
    });
    assert_eq!(p.count(B, C::TcpExtTCPMemoryPressures), 1);
    assert!(p.shards[B].tcp.mem > 20 * 4096);
    p.run(3 * SEC);
    assert!(p.tcb(B, b).pressure);
    // Read to between the levels: it goes on.
    p.until(SEC, |p| {
        let _ = p.shards[B].tcp_recv(b, &mut [0; 500]);
        p.shards[B].tcp.mem <= 15 * 4096
    });
    assert_eq!(p.count(B, C::TcpExtTCPMemoryPressuresChrono), 0);
    while p.shards[B].tcp_recv(b, &mut [0; 1000]).is_ok() {}
    let ms = p.count(B, C::TcpExtTCPMemoryPressuresChrono);
    assert!((3000..=4500).contains(&ms), "{ms}");
    p.shards[A].tcp_send(a, b"more").expect("room");
    p.run(SEC);
    assert!(!p.tcb(B, b).pressure);
}

/// Under pressure each may have its share of what there is, and the least in any case.
#[test]
fn under_pressure_each_has_its_share() {
    let held = ["0 1 100000", "0 1 40"].map(|mem| {
        let mut p = Pair::new(321, GOOD);
        p.shards[B].set_knob("net.ipv4.tcp_mem", mem).expect("in range");
        let l = p.listen(80);
        let ends: Vec<_> = (0..4).map(|_| p.connect_to(l)).collect();
        p.until(5 * SEC, |p| {
            for (a, _) in &ends {
                let _ = p.shards[A].tcp_send(*a, &[0; 3000]);
            }
            false
        });
        let most = ends.iter().map(|(_, b)| p.tcb(B, *b).rcvq.rmem()).max();
        assert!(p.count(B, C::TcpExtTCPMemoryPressures) >= 1);
        most.expect("four connections")
    });
    assert!(held[0] > 60_000, "there is enough for all: {held:?}");
    assert!((4000..=40 * 4096 / 4 + 8192).contains(&held[1]), "{held:?}");
}

/// Data that lies thinly in large memory is copied together before anything is thrown away.
#[test]
fn thin_data_is_collapsed_first() {
    let mut p = Pair::new(322, Fate { offload: true, ..GOOD });
    let (a, b) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::NoDelay(true)).expect("set");
    // Each lies in a large buffer, because it is longer than a small one.
    for i in 0..12u8 {
        p.shards[A].tcp_send(a, &[i; 1900]).expect("room");
        p.run(10 * MS);
    }
    let tp = p.tcb(B, b);
    let thin = tp.rcvq.rmem();
    let dense: usize = 12 * 1900;
    assert!(thin > 3 * dense, "{thin}");
    (tp.rcvbuf, tp.rcvbuf_locked) = (thin as u32 / 2, true);
    p.shards[A].tcp_send(a, &[12; 1000]).expect("room");
    p.run(10 * MS);
    let now = p.tcb(B, b).rcvq.rmem();
    assert!(now < thin, "{now} of {thin}");
    assert!(p.count(B, C::TcpExtTCPRcvCollapsed) > 0);
    assert!(p.count(B, C::TcpExtPruneCalled) > 0);
    let mut got = vec![0; 30_000];
    let n = p.shards[B].tcp_recv(b, &mut got).expect("data");
    assert!(n >= dense && got[..dense].chunks(1900).zip(0u8..).all(|(c, i)| c == [i; 1900]));
}

/// A listener that waits for data is not told of a connection without, until the SYN-ACK went out as
/// often as it was to.
#[test]
fn a_listener_waits_for_data() {
    let mut p = Pair::new(323, GOOD);
    let l = p.listen(80);
    p.shards[B].tcp_set(l, TcpOpt::DeferAccept(3)).expect("set");
    let a = p.connect(80);
    p.run(500 * MS);
    assert_eq!(p.tcb(A, a).state, State::Established);
    assert!(p.shards[B].tcp_accept(l).is_none());
    assert_eq!(p.count(B, C::TcpExtTCPDeferAcceptDrop), 1);
    p.shards[A].tcp_send(a, b"now").expect("room");
    p.run(100 * MS);
    let b = p.shards[B].tcp_accept(l).expect("there is data");
    assert_eq!(p.shards[B].tcp_readable(b).map(|r| r.bytes), Ok(3));
    assert_eq!(p.count(B, C::TcpExtTCPSynRetrans), 0);

    let silent = p.connect(80);
    p.run(20 * SEC);
    assert_eq!(p.tcb(A, silent).state, State::Established);
    assert!(p.count(B, C::TcpExtTCPSynRetrans) >= 1, "it is asked once more");
    assert!(p.shards[B].tcp_accept(l).is_some(), "then it is told of");
    assert_eq!(p.shards[A].tcp_error(silent), None::<TcpError>);
}

/// What a peer repeats to a half-open connection is answered at a limited rate.
#[test]
fn repeated_syns_are_answered_at_a_limited_rate() {
    let mut p = Pair::new(324, GOOD);
    p.listen(80);
    p.lose = Some(|_| true);
    let flags = TcpFlags::SYN;
    for _ in 0..10 {
        p.inject(B, (5, 80), Forged { seq: 1, flags, window: 1000, ..Forged::default() });
        p.run(10 * MS);
    }
    assert_eq!(p.count(B, C::TcpExtTCPACKSkippedSynRecv), 8);
}

/// The same for old timestamps, challenges, and what is left of closed connections.
#[test]
fn answers_are_counted_where_they_are_held_back() {
    let mut p = Pair::new(325, GOOD);
    let (a, b) = p.connected();
    p.run(SEC);
    let tp = p.tcb(B, b);
    let (ports, seq, ack, ts) = ((tp.tuple.rport, 80), tp.rcv_nxt.0, tp.snd_nxt.0, tp.ts_recent);
    let opts = TcpOptions { ts: Some((ts.wrapping_sub(90_000), 0)), ..TcpOptions::NONE };
    for _ in 0..3 {
        let flags = TcpFlags::ACK;
        p.inject(B, ports, Forged { seq, ack, flags, opts, ..Forged::default() });
        let rst = Forged { seq: seq.wrapping_add(9), flags: TcpFlags::RST, ..Forged::default() };
        p.inject(B, ports, rst);
    }
    assert_eq!(p.count(B, C::TcpExtTCPACKSkippedPAWS), 2);
    assert_eq!(p.count(B, C::TcpExtTCPACKSkippedChallenge), 3);
    p.shards[B].tcp_close(b);
    p.run(SEC);
    for _ in 0..3 {
        let flags = TcpFlags::ACK;
        p.inject(B, ports, Forged { seq, ack, flags, opts, ..Forged::default() });
    }
    assert_eq!(p.count(B, C::TcpExtTCPACKSkippedFinWait2), 2);
    p.shards[A].tcp_close(a);
    p.run(SEC);
    for _ in 0..3 {
        let flags = TcpFlags::ACK;
        p.inject(B, ports, Forged { seq, ack, flags, opts, ..Forged::default() });
    }
    assert_eq!(p.count(B, C::TcpExtTCPACKSkippedTimeWait), 2);
}
