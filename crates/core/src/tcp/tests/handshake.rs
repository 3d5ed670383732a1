use super::*;
use crate::sock::SockKind;
use crate::sock::error::{BindError, TcpError};
use crate::table::count::Counter as C;
use crate::tcp::{Refuse, State};

/// RFC 9293 §3.5, figure 6: SYN, SYN-ACK, ACK, with the options that Linux sends.
#[test]
fn three_segments_establish_a_connection() {
    for v6 in [false, true] {
        let mut p = Pair::over(1, GOOD, v6);
        let (a, b) = p.connected();
        p.run(10 * MS);
        let flags: Vec<_> = p.seen.iter().map(|s| (s.from, s.hdr.flags)).collect();
        let syn_ack = TcpFlags::SYN | TcpFlags::ACK;
        assert_eq!(flags, [(A, TcpFlags::SYN), (B, syn_ack), (A, TcpFlags::ACK)]);
        let mss = if v6 { 1440 } else { 1460 };
        for s in &p.seen[..2] {
            assert_eq!((s.opts.mss, s.opts.wscale), (Some(mss), Some(10)));
            assert!(s.opts.sack_permitted && s.opts.ts.is_some());
        }
        assert_eq!(p.tcb(A, a).state, State::Established);
        assert_eq!(p.tcb(B, b).state, State::Established);
        assert_eq!(p.tcb(A, a).mss_cache, mss - 12);
        assert_eq!(p.shards[A].tcp_addrs(a).map(|t| t.1), Some(p.at(B, 80)));
        assert_eq!(p.shards[B].tcp_addrs(b).map(|t| t.0), Some(p.at(B, 80)));
        assert!(p.ready(A, a).has(Ready::OUT));
        assert_eq!((p.count(A, C::TcpActiveOpens), p.count(B, C::TcpPassiveOpens)), (1, 1));
        assert_eq!((p.count(A, C::TcpCurrEstab), p.count(B, C::TcpCurrEstab)), (1, 1));
        assert_eq!((p.count(B, C::TcpInSegs), p.count(B, C::TcpOutSegs)), (2, 1));
    }
}

/// RFC 9293 §3.5, figure 7: both SYNs cross.
#[test]
fn opening_from_both_ends() {
    let mut p = Pair::new(3, GOOD);
    p.tick();
    let (at_a, at_b) = (p.at(A, 1000), p.at(B, 2000));
    let a = p.shards[A].tcp_connect(Connect { local: Some(at_a), remote: at_b, user: 0 });
    let b = p.shards[B].tcp_connect(Connect { local: Some(at_b), remote: at_a, user: 0 });
    let (a, b) = (a.expect("connects"), b.expect("connects"));
    p.run(10 * MS);
    assert_eq!(p.tcb(A, a).state, State::Established);
    assert_eq!(p.tcb(B, b).state, State::Established);
    exchange(&mut p, (a, b), [100_000, 50_000], 10 * SEC);
}

/// The SYN-ACK that answers a crossing SYN may come before the SYN: it says all that the SYN said, a
/// scale of 0 as well (RFC 7323 §2.3), or each end would have its own idea of the windows.
#[test]
fn the_syn_ack_of_crossing_syns_says_all_that_the_syn_said() {
    let mut p = Pair::new(3, GOOD);
    // Little room, whatever is asked for: this end needs no scale.
    p.shards[B].set_knob("net.ipv4.tcp_rmem", "4096 8192 16384").expect("in range");
    p.shards[B].set_knob("net.core.rmem_max", "16384").expect("in range");
    p.lose = Some(|s| s.from == B && s.hdr.flags == TcpFlags::SYN);
    p.tick();
    let (at_a, at_b) = (p.at(A, 1000), p.at(B, 2000));
    let a = p.shards[A].tcp_connect(Connect { local: Some(at_a), remote: at_b, user: 0 });
    let b = p.shards[B].tcp_connect(Connect { local: Some(at_b), remote: at_a, user: 0 });
    let (a, b) = (a.expect("connects"), b.expect("connects"));
    p.run(10 * MS);
    let syn_ack = p.seen.iter().find(|s| s.from == B && s.hdr.flags.ack()).expect("it answers");
    assert_eq!(syn_ack.opts.wscale, Some(0));
    assert_eq!((p.tcb(A, a).rcv_wscale, p.tcb(A, a).snd_wscale), (10, 0));
    assert_eq!((p.tcb(B, b).rcv_wscale, p.tcb(B, b).snd_wscale), (0, 10));
    exchange(&mut p, (a, b), [100_000, 50_000], 10 * SEC);
}

/// A half-open connection that is sent something beyond its window says what it expects; the window of
/// that answer is scaled (RFC 7323 §2.2), unlike that of the SYN-ACK.
#[test]
fn what_a_half_open_connection_answers_has_a_scaled_window() {
    let mut p = Pair::new(3, GOOD);
    p.listen(80);
    let a = p.connect(80);
    // Its acknowledgement does not arrive, so B stays half-open.
    p.lose = Some(|s| s.from == A && !s.hdr.flags.syn());
    p.run(10 * MS);
    let (ports, tcb) = ((p.tcb(A, a).tuple.lport, 80), p.tcb(A, a));
    let (seq, ack) = ((tcb.snd_nxt + 10_000_000).0, tcb.rcv_nxt.0);
    p.inject(B, ports, Forged { seq, ack, flags: TcpFlags::ACK, ..Forged::default() });
    p.run(10 * MS);
    let answer = p.last_of(B);
    assert_eq!(
        (answer.hdr.flags, answer.hdr.window),
        (TcpFlags::ACK, 63),
        "45 segments of 1448 bytes in units of 1024, and no more: the connection does not take back"
    );
}

/// What the SYN-ACK said holds: its window, its scale, timestamps and SACK, though by the time that the
/// connection is made the path takes less, and knobs say otherwise.
#[test]
fn what_the_syn_ack_said_holds() {
    let knobs = ["tcp_window_scaling", "tcp_timestamps", "tcp_sack"];
    for (before, after) in [("1", "0"), ("0", "1")] {
        let mut p = Pair::new(31, GOOD);
        let set = |p: &mut Pair, value: &str| {
            for knob in knobs {
                let path = format!("net.ipv4.{knob}");
                p.shards[B].set_knob(&path, value).expect("a switch");
            }
        };
        set(&mut p, before);
        let l = p.listen(80);
        let a = p.connect(80);
        assert!(p.until(SEC, |p| p.shards[B].tcp.reqs.len() == 1));
        set(&mut p, after);
        p.shards[B].set_knob("net.ipv4.tcp_rmem", "4096 131072 100000000").expect("sizes");
        p.shards[B].set_mtu(0, 1300);
        let mut b = None;
        p.until(SEC, |p| {
            b = b.or_else(|| p.shards[B].tcp_accept(l));
            b.is_some()
        });
        let b = b.expect("it is accepted");
        let synack = p.seen.iter().find(|s| s.from == B).expect("it answered").clone();
        let tp = p.tcb(B, b);
        assert_eq!(tp.ts_ok, synack.opts.ts.is_some());
        assert_eq!(tp.sack_ok, synack.opts.sack_permitted);
        assert_eq!(tp.rcv_wscale, synack.opts.wscale.unwrap_or(0));
        assert_eq!(tp.rcv_wnd, u32::from(synack.hdr.window));
        assert_eq!(
            (tp.ts_ok, tp.sack_ok, tp.snd_wscale > 0),
            (before == "1", before == "1", before == "1")
        );
        exchange(&mut p, (a, b), [300_000, 300_000], 60 * SEC);
    }
}

#[test]
fn a_lost_syn_and_a_lost_syn_ack_are_sent_again() {
    for from in [A, B] {
        let mut p = Pair::new(4, GOOD);
        p.lose = Some(if from == A {
            |s| s.from == A && s.at < Instant::from_ns(3_500_000_000)
        } else {
            |s| s.from == B && s.at < Instant::from_ns(3_500_000_000)
        });
        let begun = p.now;
        p.connected();
        assert!((SEC..2 * SEC).contains(&p.now.since(begun)));
    }
}

#[test]
fn drop_no_socket() {
    let mut p = Pair::new(5, GOOD);
    let a = p.connect(81);
    p.run(10 * MS);
    assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::Refused));
    assert!(p.ready(A, a).has(Ready::ERR));
    assert_eq!((p.count(A, C::TcpAttemptFails), p.count(B, C::TcpOutRsts)), (1, 1));
    assert_eq!(p.drops(B, Reason::NoSocket), 1);
    p.shards[A].tcp_close(a);
    assert!(p.shards[A].tcp.conns.is_empty());
}

#[test]
fn nobody_answers() {
    let mut p = Pair::new(6, GOOD);
    p.lose = Some(|_| true);
    let a = p.connect(80);
    p.run(200 * SEC);
    assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::TimedOut));
    // The SYN, four more a second apart, and six after 1, 2, 4, … seconds.
    assert_eq!((p.seen.len(), p.count(A, C::TcpExtTCPSynRetrans)), (11, 10));
}

#[test]
fn no_route_and_no_port() {
    let mut p = Pair::new(7, GOOD);
    let far = Connect { local: None, remote: "192.0.2.1:80".parse().expect("an address"), user: 0 };
    assert_eq!(p.shards[A].tcp_connect(far), Err(TcpError::NetUnreachable));
    for knob in ["net.ipv4.ip_local_port_range"] {
        if p.shards[A].set_knob(knob, "40000 40001").is_err() {
            p.shards[A].net.knobs.ip_local_port_low = 40000;
            p.shards[A].net.knobs.ip_local_port_high = 40001;
        }
    }
    p.connect(80);
    p.connect(80);
    let remote = p.at(B, 80);
    let third = p.shards[A].tcp_connect(Connect { local: None, remote, user: 0 });
    assert_eq!(third, Err(TcpError::NoPort));
    let l = p.listen(80);
    assert_eq!(
        p.shards[B].tcp_listen(Listen { port: 80, ..Listen::default() }),
        Err(BindError::AddrInUse)
    );
    p.shards[B].tcp_close(l);
    p.listen(80);
}

/// The accept queue holds `backlog` + 1 connections, as in Linux; further SYNs are dropped, and
/// counted as the kernel does.
#[test]
fn a_full_accept_queue_drops() {
    let mut p = Pair::new(8, GOOD);
    let l = p.listen_as(Listen { port: 80, backlog: 2, ..Listen::default() });
    let conns: Vec<_> = (0..3)
        .map(|_| {
            let a = p.connect(80);
            p.run(10 * MS);
            a
        })
        .collect();
    assert_eq!(p.count(B, C::TcpExtListenOverflows), 0);
    let late = p.connect(80);
    p.run(10 * MS);
    assert_eq!((p.count(B, C::TcpExtListenOverflows), p.count(B, C::TcpExtListenDrops)), (1, 1));
    assert_eq!(p.drops(B, Reason::TcpListenOverflow), 1);
    // Room comes free before the SYN is sent again.
    assert!(p.shards[B].tcp_accept(l).is_some());
    p.run(2 * SEC);
    assert_eq!(p.tcb(A, late).state, State::Established);
    assert_eq!(p.count(B, C::TcpExtListenOverflows), 1);
    for a in conns {
        assert_eq!(p.tcb(A, a).state, State::Established);
    }
    // Closing the listener resets those that wait.
    p.shards[B].tcp_close(l);
    p.run(10 * MS);
    assert_eq!(p.shards[A].tcp_error(late), Some(TcpError::Reset));
    assert_eq!(p.shards[B].tcp.demux_len(), 1, "only the accepted one is left");
}

/// A SYN flood: what is kept is bounded, the rest is dropped and counted; it ends by itself.
#[test]
fn drop_tcp_req_q_full() {
    let mut p = Pair::new(9, GOOD);
    p.lose = Some(|_| true);
    p.watch = false;
    p.shards[B].set_knob("net.ipv4.tcp_syncookies", "0").expect("a knob");
    p.shards[B].set_knob("net.ipv4.tcp_max_syn_backlog", "64").expect("a knob");
    p.listen_as(Listen { port: 80, backlog: 4096, ..Listen::default() });
    for port in 1..=5000 {
        let syn =
            Forged { seq: port as u32, flags: TcpFlags::SYN, window: 1000, ..Forged::default() };
        p.inject(B, (port, 80), syn);
    }
    assert_eq!(p.shards[B].tcp.reqs.len(), 64);
    assert_eq!(p.drops(B, Reason::TcpReqQFull), 5000 - 64);
    assert_eq!(p.count(B, C::TcpExtListenDrops), 5000 - 64);
    p.run(200 * SEC);
    assert_eq!((p.shards[B].tcp.reqs.len(), p.shards[B].tcp.demux_len()), (0, 0));
}

fn held(p: &mut Pair) -> (SocketId, SocketId) {
    let l = p.listen_as(Listen {
        any_port: true,
        hold_syn: true,
        backlog: 16,
        user: 5,
        ..Listen::default()
    });
    let a = p.connect(1234);
    (l, a)
}

/// A held SYN waits, is told of once however often it is sent, and can be accepted later.
#[test]
fn a_held_syn_waits_for_its_judgement() {
    let mut p = Pair::new(70, GOOD);
    let (l, a) = held(&mut p);
    p.run(5 * SEC);
    assert!(p.seen.iter().filter(|s| s.from == A).count() >= 3, "the SYN is sent again and again");
    assert!(p.seen.iter().all(|s| s.from == A), "and not answered");
    let event = p.shards[B].poll_event().expect("an event");
    assert_eq!((event.id, event.user), (l, 5));
    assert!(p.shards[B].poll_event().is_none());
    assert_eq!(p.shards[B].take_ready(l), Ready::IN);
    let syn = p.shards[B].syn_next(l).expect("it waits");
    assert_eq!(syn.id.kind, SockKind::Syn);
    assert_eq!((syn.local, syn.remote.ip()), (p.at(B, 1234), p.addr(A)));
    assert!(p.shards[B].syn_next(l).is_none());
    assert!(p.shards[B].syn_accept(syn.id));
    p.run(SEC);
    assert_eq!(p.tcb(A, a).state, State::Established);
    let b = p.shards[B].tcp_accept(l).expect("established");
    exchange(&mut p, (a, b), [10_000, 10_000], 10 * SEC);
    assert!(!p.shards[B].syn_accept(syn.id), "its name is gone");
}

#[test]
fn a_held_syn_can_be_refused() {
    let cases = [
        (Refuse::Reset, Some(TcpError::Refused)),
        (Refuse::Unreachable { code: 1 }, Some(TcpError::HostUnreachable)),
        (Refuse::Unreachable { code: 0 }, Some(TcpError::NetUnreachable)),
        (Refuse::Unreachable { code: 13 }, Some(TcpError::Prohibited)),
        (Refuse::Silent, None),
    ];
    for v6 in [false, true] {
        for (how, err) in cases {
            let mut p = Pair::over(71, GOOD, v6);
            let (l, a) = held(&mut p);
            p.run(10 * MS);
            let syn = p.shards[B].syn_next(l).expect("it waits");
            p.shards[B].syn_refuse(syn.id, how);
            p.run(10 * MS);
            assert_eq!(p.shards[A].tcp_error(a), err, "{how:?}, IPv6: {v6}");
            assert!(p.shards[B].tcp.reqs.is_empty());
            assert_eq!(p.shards[B].tcp.demux_len(), 0);
        }
    }
}

/// Whoever gives up while its SYN is held is forgotten, at once or in the end.
#[test]
fn a_held_syn_ends() {
    let mut p = Pair::new(72, GOOD);
    let (l, a) = held(&mut p);
    p.run(10 * MS);
    let syn = p.shards[B].syn_next(l).expect("it waits");
    let (ports, seq) = ((syn.remote.port(), 1234), p.tcb(A, a).iss.0.wrapping_add(1));
    p.inject(B, ports, Forged { seq, flags: TcpFlags::RST, ..Forged::default() });
    assert!(!p.shards[B].syn_accept(syn.id));
    let mut p = Pair::new(73, GOOD);
    let (l, _) = held(&mut p);
    p.run(300 * SEC);
    assert!(p.shards[B].tcp.reqs.is_empty() && p.shards[B].syn_next(l).is_none());
}

/// Held SYNs are bounded by destination and in all.
#[test]
fn held_syns_are_bounded() {
    let mut p = Pair::new(74, GOOD);
    p.watch = false;
    p.shards[B].set_knob("net.ipv4.tcp_max_syn_backlog", "100").expect("a knob");
    p.listen_as(Listen { any_port: true, hold_syn: true, backlog: 4096, ..Listen::default() });
    for i in 0..300 {
        let syn = Forged { seq: i, flags: TcpFlags::SYN, window: 1000, ..Forged::default() };
        p.inject(B, (1000 + i as u16, 80), syn);
    }
    assert_eq!(p.shards[B].tcp.reqs.len(), 50);
    for i in 0..300 {
        let syn = Forged { seq: i, flags: TcpFlags::SYN, window: 1000, ..Forged::default() };
        p.inject(B, (1000, 100 + i as u16), syn);
    }
    assert_eq!(p.shards[B].tcp.reqs.len(), 100);
    assert_eq!(p.drops(B, Reason::TcpReqQFull), 250 + 250);
}

/// Linux counts the first window in whole segments.
#[test]
fn the_first_window_is_whole_segments() {
    let mut p = Pair::new(5, GOOD);
    p.connected();
    assert_eq!((p.seen[0].hdr.window, p.seen[1].hdr.window), (44 * 1460, 45 * 1448));
}

/// The peer holds an old connection: its acknowledgement of something else gets a reset, and the SYN
/// goes out again without waiting for its timeout.
#[test]
fn a_wrong_answer_to_a_syn_repeats_it_at_once() {
    let mut p = Pair::new(6, GOOD);
    p.lose = Some(|s| s.from == A);
    p.tick();
    p.connect(80);
    p.run(MS);
    let syn = p.last_of(A).hdr;
    let flags = TcpFlags::SYN | TcpFlags::ACK;
    let ports = (80, syn.src_port);
    let wrong = Forged { flags, seq: 9, ack: syn.seq.wrapping_add(77), ..Forged::default() };
    p.inject(A, ports, wrong);
    p.run(10 * MS);
    let sent: Vec<_> = p.seen.iter().map(|s| s.hdr.flags).collect();
    assert_eq!(sent, [TcpFlags::SYN, TcpFlags::RST, TcpFlags::SYN]);
}

/// RFC 8985 §7.2: where the timeout would come before two round trips, the tail is probed at that
/// time, and the timeout follows.
#[test]
fn a_probe_takes_the_place_of_an_early_timeout() {
    let mut p = Pair::new(7, Fate { delay: 50 * MS, ..GOOD });
    let (a, _) = p.connected();
    p.run(300 * MS);
    let from = p.seen.len();
    // The first segment arrives and is acknowledged, the others are lost.
    p.shards[A].tcp_send(a, &[0; 1448]).expect("there is room");
    p.run(MS);
    p.lose = Some(|s| s.from == A);
    p.shards[A].tcp_send(a, &[0; 2896]).expect("there is room");
    p.until(10 * SEC, |p| p.seen[from..].iter().filter(|s| s.from == A).count() > 4);
    let first = p.seen[from].hdr.seq;
    let ours = p.seen[from..].iter().filter(|s| s.from == A);
    let rest: Vec<_> = ours.map(|s| s.hdr.seq.wrapping_sub(first)).collect();
    assert_eq!(rest, [0, 1448, 2896, 2896, 1448], "the tail, and then the timeout");
}

/// Who accepts until there is nothing is told of the next one, without asking what the listener is ready
/// for.
#[test]
fn each_connection_is_an_event_once_the_queue_was_emptied() {
    let mut p = Pair::new(3, GOOD);
    let l = p.listen(80);
    for _ in 0..3 {
        p.connect(80);
        p.run(10 * MS);
        let events: Vec<_> = std::iter::from_fn(|| p.shards[B].poll_event()).collect();
        assert!(events.iter().any(|e| e.id == l), "{events:?}");
        assert!(p.shards[B].tcp_accept(l).is_some());
        assert!(p.shards[B].tcp_accept(l).is_none());
    }
}

/// The largest window that the peer of an accepted connection ever had is that of its acknowledgement, not the
/// SYN's: segments are halves of it (`tcp_create_openreq_child`, `tcp_bound_to_half_wnd`).
#[test]
fn the_window_of_a_syn_bounds_no_segment() {
    for (syn_window, window) in [(65535, 1000), (400, 20_000)] {
        let mut p = Pair::new(8, GOOD);
        let l = p.listen(80);
        p.lose = Some(|s| s.from == B);
        let opts = TcpOptions { mss: Some(1460), ..TcpOptions::NONE };
        let syn =
            Forged { seq: 9, flags: TcpFlags::SYN, window: syn_window, opts, ..Forged::default() };
        p.inject(B, (4000, 80), syn);
        p.run(MS);
        let ack = p.last_of(B).hdr.seq.wrapping_add(1);
        let ack = Forged { seq: 10, ack, flags: TcpFlags::ACK, window, ..Forged::default() };
        p.inject(B, (4000, 80), ack);
        let b = p.shards[B].tcp_accept(l).expect("it is established");
        let tp = p.tcb(B, b);
        let half = if window == 1000 { 500 } else { 1460 };
        assert_eq!((tp.max_window, tp.mss_cache), (window.into(), half));
    }
}
