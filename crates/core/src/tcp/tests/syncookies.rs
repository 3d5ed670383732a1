//! Connections through a listener that keeps nothing of a SYN.

use super::*;
use crate::table::count::Counter as C;

/// Cookies are sent whatever waits.
fn always(seed: u64, v6: bool) -> Pair {
    let mut p = Pair::over(seed, GOOD, v6);
    p.shards[B].set_knob("net.ipv4.tcp_syncookies", "2").expect("a knob");
    p
}

/// SYNs of so many ports, none of which is ever acknowledged.
fn flood(p: &mut Pair, ports: std::ops::Range<u16>) {
    for port in ports {
        let flags = TcpFlags::SYN;
        p.inject(B, (port, 80), Forged { seq: 7, flags, window: 1000, ..Forged::default() });
    }
}

#[test]
fn knob_net_ipv4_tcp_syncookies() {
    // Kept, answered by a cookie, dropped.
    for (mode, expected) in [("0", (8, 0, 92)), ("1", (8, 92, 0)), ("2", (0, 100, 0))] {
        let mut p = Pair::new(31, GOOD);
        p.shards[B].set_knob("net.ipv4.tcp_syncookies", mode).expect("a knob");
        p.lose = Some(|_| true);
        p.listen_as(Listen { port: 80, backlog: 8, ..Listen::default() });
        flood(&mut p, 1..101);
        p.run(100 * MS);
        let sent = p.count(B, C::TcpExtSyncookiesSent);
        assert_eq!(sent, p.count(B, C::TcpExtTCPReqQFullDoCookies));
        let kept = p.shards[B].tcp.reqs.len() as u64;
        assert_eq!((kept, sent, p.drops(B, Reason::TcpReqQFull)), expected, "mode {mode}");
        assert_eq!(p.shards[B].tcp.demux_len() as u64, kept, "a cookie leaves nothing behind");
        let answers = p.seen.iter().filter(|s| s.from == B && s.hdr.flags.syn()).count() as u64;
        assert_eq!(answers, kept + sent);
    }
}

/// What a flood fills up is still open to those who answer; the connection is as good as any.
#[test]
fn a_client_connects_through_a_flood() {
    let mut p = Pair::new(32, GOOD);
    let listener = p.listen_as(Listen { port: 80, backlog: 8, ..Listen::default() });
    p.lose = Some(|s| s.hdr.src_port == 80 && s.hdr.dst_port < 1000);
    flood(&mut p, 1..501);
    let ends = p.connect_to(listener);
    assert_eq!(p.count(B, C::TcpExtSyncookiesRecv), 1);
    assert_eq!(p.count(B, C::TcpPassiveOpens), 1);
    exchange(&mut p, ends, [300_000; 2], 60 * SEC);
    assert_eq!(p.count(B, C::TcpExtSyncookiesFailed), 0);
}

/// The window scale and SACK come back in the timestamp; the maximum segment size is rounded down.
#[test]
fn options_survive_a_cookie() {
    for v6 in [false, true] {
        let mut p = always(33, v6);
        let listener = p.listen(80);
        let (a, b) = p.connect_to(listener);
        assert_eq!(p.count(B, C::TcpExtSyncookiesRecv), 1);
        let theirs = p.tcb(A, a);
        let expected = (theirs.rcv_wscale, theirs.snd_wscale, theirs.advmss);
        let ours = p.tcb(B, b);
        assert!(ours.sack_ok && ours.ts_ok, "IPv6: {v6}");
        assert!(expected.0 > 0, "a scale that is none would show nothing");
        let table = if v6 { 1440 } else { 1460 };
        assert_eq!(
            (ours.snd_wscale, ours.rcv_wscale, ours.mss_clamp),
            (expected.0, expected.1, table)
        );
        assert!(expected.2 + 12 >= table);
        assert_eq!(ours.srtt_us8, 0, "when the answer was sent is not known");
        exchange(&mut p, (a, b), [300_000; 2], 60 * SEC);
    }
}

/// Each combination of options that a SYN may have is what the connection has.
#[test]
fn a_timestamp_says_every_combination() {
    for (wscale, sack) in (0..=14).map(Some).chain([None]).flat_map(|w| [(w, true), (w, false)]) {
        let mut p = always(34, false);
        let listener = p.listen(80);
        p.lose = Some(|_| true);
        let mss = Some(1400);
        let offer =
            TcpOptions { mss, wscale, sack_permitted: sack, ts: Some((5, 0)), ..TcpOptions::NONE };
        let (flags, window) = (TcpFlags::SYN, 1000);
        p.inject(B, (9, 80), Forged { seq: 70, flags, window, opts: offer, ..Forged::default() });
        p.run(MS);
        let answer = p.last_of(B);
        assert_eq!(answer.opts.wscale.is_some(), wscale.is_some());
        assert_eq!(answer.opts.sack_permitted, sack);
        let (echo, _) = answer.opts.ts.expect("timestamps are kept");
        let opts = TcpOptions { ts: Some((6, echo)), ..TcpOptions::NONE };
        let (flags, ack) = (TcpFlags::ACK, answer.hdr.seq.wrapping_add(1));
        p.inject(B, (9, 80), Forged { seq: 71, ack, flags, window, opts, ..Forged::default() });
        let b = p.shards[B].tcp_accept(listener).expect("a connection");
        let tp = p.tcb(B, b);
        assert_eq!((tp.snd_wscale, tp.sack_ok, tp.mss_clamp), (wscale.unwrap_or(0), sack, 1300));
    }
}

/// What the listener has switched off is not kept, and does not make its own cookies strangers.
#[test]
fn a_cookie_says_only_what_is_on() {
    for knob in ["net.ipv4.tcp_sack", "net.ipv4.tcp_window_scaling"] {
        let mut p = always(39, false);
        p.shards[B].set_knob(knob, "0").expect("a knob");
        let listener = p.listen(80);
        let (a, b) = p.connect_to(listener);
        let tp = p.tcb(B, b);
        assert_eq!(
            (tp.sack_ok, tp.snd_wscale == 0),
            (knob != "net.ipv4.tcp_sack", knob != "net.ipv4.tcp_sack")
        );
        assert_eq!(p.count(B, C::TcpOutRsts), 0);
        exchange(&mut p, (a, b), [300_000; 2], 60 * SEC);
    }
}

/// Listeners that share a port know of each other's cookies.
#[test]
fn a_group_takes_the_cookies_of_its_members() {
    let mut p = always(40, false);
    let shared = || Listen { port: 80, backlog: 16, reuseport: true, ..Listen::default() };
    let first = p.listen_as(shared());
    let second = p.listen_as(shared());
    // The SYN goes to the first, what answers the SYN-ACK to the other.
    let mut turn = 1;
    let prog = Box::new(move |_: &_| {
        turn = 1 - turn;
        turn
    });
    assert!(p.shards[B].reuseport_attach_prog(first, prog));
    p.connect(80);
    assert!(p.until(SEC, |p| p.shards[B].tcp_accept(second).is_some()));
    assert_eq!(p.count(B, C::TcpOutRsts), 0);
}

/// Without timestamps there is nowhere to keep the rest.
#[test]
fn without_timestamps_options_are_lost() {
    let mut p = always(35, false);
    p.shards[A].set_knob("net.ipv4.tcp_timestamps", "0").expect("a knob");
    let listener = p.listen(80);
    let (a, b) = p.connect_to(listener);
    let tp = p.tcb(B, b);
    assert!(!tp.sack_ok && !tp.ts_ok && (tp.snd_wscale, tp.rcv_wscale) == (0, 0));
    exchange(&mut p, (a, b), [300_000; 2], 60 * SEC);
}

/// An acknowledgement with a number that is none of ours makes no connection, and is reset; it is counted
/// only while cookies are about.
#[test]
fn a_forged_cookie_is_refused() {
    let mut p = always(36, false);
    let listener = p.listen(80);
    p.watch = false;
    p.lose = Some(|_| true);
    let guess = |p: &mut Pair, ack: u32| {
        let (flags, window) = (TcpFlags::ACK, 1000);
        p.inject(B, (9, 80), Forged { seq: 71, ack, flags, window, ..Forged::default() });
    };
    guess(&mut p, 1);
    assert_eq!((p.count(B, C::TcpExtSyncookiesFailed), p.count(B, C::TcpOutRsts)), (0, 1));
    flood(&mut p, 100..101);
    for i in 0..20_000_u32 {
        guess(&mut p, i.wrapping_mul(0x9e37_79b9));
    }
    let failed = p.count(B, C::TcpExtSyncookiesFailed);
    let lucky = p.count(B, C::TcpExtSyncookiesRecv);
    assert_eq!(failed + lucky, 20_000);
    // Eight of 2^32 numbers are good for these ends at any time.
    assert_eq!((lucky, p.shards[B].tcp_accept(listener)), (0, None));
    assert_eq!(p.shards[B].tcp.demux_len(), 0);
}

/// A cookie is good for its own two ends, and for two minutes.
#[test]
fn a_cookie_grows_old() {
    for (seconds, good) in [(1, true), (59, true), (121, false), (600, false)] {
        let mut p = always(37, false);
        let listener = p.listen(80);
        p.lose = Some(|_| true);
        flood(&mut p, 9..10);
        p.run(MS);
        let ack = p.last_of(B).hdr.seq.wrapping_add(1);
        p.run(seconds * SEC);
        // Somebody else's cookie keeps the listener looking for them.
        flood(&mut p, 10..11);
        let answer = |port| {
            (port, Forged { seq: 8, ack, flags: TcpFlags::ACK, window: 1000, ..Forged::default() })
        };
        let (port, stolen) = answer(11);
        p.inject(B, (port, 80), stolen);
        assert_eq!(p.shards[B].tcp_accept(listener), None, "another port's");
        let (port, own) = answer(9);
        p.inject(B, (port, 80), own);
        assert_eq!(p.shards[B].tcp_accept(listener).is_some(), good, "{seconds} s");
    }
}

/// The accept queue is bounded for those who come by cookie as for others.
#[test]
fn cookies_do_not_pass_the_accept_queue() {
    let mut p = always(38, false);
    p.listen_as(Listen { port: 80, backlog: 2, ..Listen::default() });
    let clients: Vec<SocketId> = (0..10).map(|_| p.connect(80)).collect();
    p.run(10 * MS);
    assert_eq!(p.count(B, C::TcpPassiveOpens), 3);
    assert!(p.count(B, C::TcpExtListenOverflows) >= 7);
    drop(clients);
}

/// What overtakes the segment that completes the handshake, or comes after it was lost, is not taken for it:
/// the bytes before would be lost.
#[test]
fn a_cookie_is_good_for_one_number() {
    for ahead in 0..5 {
        let mut p = always(39, false);
        let listener = p.listen(80);
        p.lose = Some(|_| true);
        flood(&mut p, 9..10);
        p.run(MS);
        let ack = p.last_of(B).hdr.seq.wrapping_add(1);
        let (seq, flags) = (8 + ahead, TcpFlags::ACK);
        p.inject(B, (9, 80), Forged { seq, ack, flags, window: 1000, ..Forged::default() });
        assert_eq!(p.shards[B].tcp_accept(listener).is_some(), ahead == 0, "{ahead} ahead");
        assert_eq!(p.count(B, C::TcpExtSyncookiesFailed), u64::from(ahead > 0));
    }
}
