//! Each knob of TCP, moved, moves what its row says.

mod buffers;

use super::*;
use crate::sock::error::TcpError;
use crate::table::count::Counter as C;
use crate::tcp::{Refuse, State, TcpOpt};

fn pair(seed: u64, fate: Fate, knobs: &[(&str, &str)]) -> Pair {
    let mut p = Pair::new(seed, fate);
    for shard in &mut p.shards {
        for (path, value) in knobs {
            shard.set_knob(path, value).expect("the knob takes the value");
        }
    }
    p
}

fn with(path: &str, value: &str) -> Pair {
    pair(200, GOOD, &[(path, value)])
}

/// The SYN that a connection begins with under this value.
fn syn(path: &str, value: &str) -> Seen {
    let mut p = with(path, value);
    p.connect(80);
    p.run(MS / 2);
    p.seen.first().cloned().expect("a SYN")
}

/// The link is cut; what A has queued is never acknowledged. How often the timer fired until A gave up.
fn timeouts_until_death(path: &str, value: &str, orphan: bool) -> u64 {
    let mut p = with(path, value);
    let (a, _) = p.connected();
    p.run(100 * MS);
    p.lose = Some(|_| true);
    p.shards[A].tcp_send(a, b"into the void").expect("room");
    if orphan {
        p.shards[A].tcp_close(a);
    }
    p.run(4000 * SEC);
    if orphan {
        assert!(p.shards[A].tcp.conns.is_empty(), "it was given up");
    } else {
        assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::TimedOut));
    }
    p.count(A, C::TcpExtTCPTimeouts)
}

/// The knob's number stands for the time that so many take from 200 ms on: beside them there is the one
/// before, since when it counts, if it took not longer, and the last, which sends nothing any more.
fn lasts(timeouts: u64, tries: u64) -> bool {
    (tries + 1..=tries + 2).contains(&timeouts)
}

#[test]
fn knob_net_ipv4_tcp_retries2() {
    for tries in [0, 3, 8] {
        let path = "net.ipv4.tcp_retries2";
        assert!(lasts(timeouts_until_death(path, &tries.to_string(), false), tries));
    }
}

/// 0 means 8.
#[test]
fn knob_net_ipv4_tcp_orphan_retries() {
    for (value, tries) in [("2", 2), ("5", 5), ("0", 8)] {
        let timeouts = timeouts_until_death("net.ipv4.tcp_orphan_retries", value, true);
        assert!(lasts(timeouts, tries), "{timeouts} for {tries}");
    }
}

#[test]
fn knob_net_ipv4_tcp_syn_retries() {
    for tries in [1, 3, 6] {
        let mut p = with("net.ipv4.tcp_syn_retries", &tries.to_string());
        p.shards[A].set_knob("net.ipv4.tcp_syn_linear_timeouts", "0").expect("in range");
        p.lose = Some(|_| true);
        let a = p.connect(80);
        p.run(400 * SEC);
        assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::TimedOut));
        assert_eq!(p.count(A, C::TcpExtTCPSynRetrans), tries);
        assert_eq!(p.seen.len() as u64, tries + 1);
    }
}

#[test]
fn knob_net_ipv4_tcp_synack_retries() {
    for tries in [0, 2, 5] {
        let mut p = with("net.ipv4.tcp_synack_retries", &tries.to_string());
        p.listen(80);
        p.lose = Some(|_| true);
        let flags = TcpFlags::SYN;
        p.inject(B, (5, 80), Forged { seq: 1, flags, window: 1000, ..Forged::default() });
        p.run(400 * SEC);
        assert_eq!(p.count(B, C::TcpExtTCPSynRetrans), tries);
        assert_eq!(p.shards[B].tcp.reqs.len(), 0);
    }
}

/// A closes; B acknowledges and never closes its side.
#[test]
fn knob_net_ipv4_tcp_fin_timeout() {
    for seconds in [3, 60] {
        let mut p = with("net.ipv4.tcp_fin_timeout", &seconds.to_string());
        let (a, _) = p.connected();
        p.shards[A].tcp_close(a);
        p.run((seconds - 1) * SEC);
        assert_eq!(p.shards[A].tcp.tws.len(), 1, "{seconds} s");
        // The wheel may be late by an eighth.
        p.run((2 + seconds / 8) * SEC);
        assert_eq!(p.shards[A].tcp.tws.len(), 0, "{seconds} s");
    }
}

#[test]
fn knob_net_ipv4_tcp_max_tw_buckets() {
    for (most, kept) in [("0", 0), ("2", 2), ("100", 5)] {
        let mut p = with("net.ipv4.tcp_max_tw_buckets", most);
        let l = p.listen(80);
        for _ in 0..5 {
            let (a, b) = p.connect_to(l);
            p.shards[A].tcp_close(a);
            p.run(10 * MS);
            p.shards[B].tcp_close(b);
            p.run(10 * MS);
        }
        assert_eq!(p.shards[A].tcp_sockstat().tw, kept, "{most}");
    }
}

/// An idle connection whose peer is gone from the start: when probes were sent, and when it ended.
fn probes(path: &str, value: &str) -> (Vec<u64>, u64) {
    let keep = [
        ("net.ipv4.tcp_keepalive_time", "100"),
        ("net.ipv4.tcp_keepalive_intvl", "10"),
        ("net.ipv4.tcp_keepalive_probes", "3"),
        (path, value),
    ];
    let mut p = pair(201, GOOD, &keep);
    let (a, _) = p.connected();
    p.run(100 * MS);
    p.lose = Some(|_| true);
    let times = p.shards[A].tcp_keepalive();
    p.shards[A].tcp_set(a, TcpOpt::KeepAlive(Some(times))).expect("set");
    let (begun, sent) = (p.now, p.seen.len());
    p.until(1000 * SEC, |p| p.shards[A].tcp_error(a).is_some());
    assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::TimedOut));
    let ended = p.now.since(begun) / SEC;
    let is_probe = |s: &&Seen| s.from == A && !s.hdr.flags.rst();
    let at = p.seen[sent..].iter().filter(is_probe).map(|s| s.at.since(begun) / SEC).collect();
    (at, ended)
}

/// So many seconds, or what the wheel adds: an eighth.
fn about(got: u64, want: u64) -> bool {
    (want.saturating_sub(1)..=want + want / 8 + 1).contains(&got)
}

#[test]
fn knob_net_ipv4_tcp_keepalive_time() {
    for time in [20, 100, 300] {
        let (at, _) = probes("net.ipv4.tcp_keepalive_time", &time.to_string());
        assert!(about(at[0], time), "{at:?} for {time}");
    }
}

#[test]
fn knob_net_ipv4_tcp_keepalive_intvl() {
    for intvl in [3, 10, 75] {
        let (at, _) = probes("net.ipv4.tcp_keepalive_intvl", &intvl.to_string());
        assert!(about(at[1] - at[0], intvl), "{at:?} for {intvl}");
    }
}

#[test]
fn knob_net_ipv4_tcp_keepalive_probes() {
    for n in [1, 3, 9] {
        let (at, ended) = probes("net.ipv4.tcp_keepalive_probes", &n.to_string());
        assert_eq!(at.len() as u64, n);
        assert!(ended > at[at.len() - 1], "the last one has its time to be answered");
    }
}

#[test]
fn knob_net_ipv4_tcp_timestamps() {
    for (value, on) in [("1", true), ("0", false)] {
        assert_eq!(syn("net.ipv4.tcp_timestamps", value).opts.ts.is_some(), on);
    }
}

#[test]
fn knob_net_ipv4_tcp_window_scaling() {
    for (value, shift) in [("1", Some(10)), ("0", None)] {
        assert_eq!(syn("net.ipv4.tcp_window_scaling", value).opts.wscale, shift);
    }
}

#[test]
fn knob_net_ipv4_tcp_sack() {
    for (value, on) in [("1", true), ("0", false)] {
        assert_eq!(syn("net.ipv4.tcp_sack", value).opts.sack_permitted, on);
    }
}

/// What comes twice is reported as such.
#[test]
fn knob_net_ipv4_tcp_dsack() {
    for (value, told) in [("1", 1), ("0", 0)] {
        let mut p = with("net.ipv4.tcp_dsack", value);
        let (a, b) = p.connected();
        p.shards[A].tcp_send(a, b"once").expect("room");
        p.run(SEC);
        let tp = p.tcb(B, b);
        let (ports, seq, ack, ts) =
            ((tp.tuple.rport, 80), tp.rcv_nxt.0 - 4, tp.snd_nxt.0, tp.ts_recent);
        let opts = TcpOptions { ts: Some((ts, 0)), ..TcpOptions::NONE };
        let twice = Forged { seq, ack, flags: TcpFlags::ACK, window: 500, opts, data: b"once" };
        p.inject(B, ports, twice);
        p.run(SEC);
        assert_eq!(p.count(B, C::TcpExtTCPDSACKOldSent), told, "tcp_dsack {value}");
        assert_eq!(p.last_of(B).opts.sack.is_empty(), told == 0);
    }
}

#[test]
fn knob_net_ipv4_tcp_congestion_control() {
    for name in ["cubic", "reno", "bbr"] {
        let mut p = with("net.ipv4.tcp_congestion_control", name);
        let (a, _) = p.connected();
        assert_eq!(p.shards[A].tcp_info(a).map(|i| i.ca_name), Some(name));
    }
}

/// After ten idle seconds a window that had grown begins anew, or does not.
#[test]
fn knob_net_ipv4_tcp_slow_start_after_idle() {
    for (value, anew) in [("1", true), ("0", false)] {
        let mut p = with("net.ipv4.tcp_slow_start_after_idle", value);
        let (a, b) = p.connected();
        let (mut end, mut reader) = (End::new(300_000), End::new(0));
        (end.shut, reader.shut) = (true, true);
        let all = p.until(10 * SEC, |p| {
            end.turn(&mut p.shards[A], a);
            reader.turn(&mut p.shards[B], b);
            reader.read == 300_000
        });
        assert!(all, "{} arrived", reader.read);
        let grown = p.tcb(A, a).snd_cwnd;
        assert!(grown > 20, "{grown}");
        p.run(10 * SEC);
        p.shards[A].tcp_send(a, b"after the pause").expect("room");
        p.run(MS / 2);
        assert_eq!(p.tcb(A, a).snd_cwnd < grown, anew, "tcp_slow_start_after_idle {value}");
    }
}

/// The round trip takes 2 ms: the timeout is what the knob allows as the least.
#[test]
fn knob_net_ipv4_tcp_rto_min_us() {
    let rto = ["20000", "200000", "1000000"].map(|least| {
        let mut p = with("net.ipv4.tcp_rto_min_us", least);
        let (a, b) = p.connected();
        exchange(&mut p, (a, b), [100_000, 0], 10 * SEC);
        let rto = p.tcb(A, a).rto_us as u64;
        let least: u64 = least.parse().expect("a number");
        assert!((least..least + 50_000).contains(&rto), "{rto} for {least}");
        rto
    });
    assert!(rto.is_sorted_by(|a, b| a < b));
}

/// A SYN inside a connection is challenged, as long as the budget lasts.
#[test]
fn knob_net_ipv4_tcp_challenge_ack_limit() {
    let sent = ["0", "4", "1000", "2147483647"].map(|limit| {
        let one_by_one = ("net.ipv4.tcp_invalid_ratelimit", "0");
        let mut p = pair(207, GOOD, &[("net.ipv4.tcp_challenge_ack_limit", limit), one_by_one]);
        let (_, b) = p.connected();
        p.run(SEC);
        p.lose = Some(|_| true);
        let tp = p.tcb(B, b);
        let (ports, seq) = ((tp.tuple.rport, 80), tp.rcv_nxt.0);
        for _ in 0..20 {
            p.inject(B, ports, Forged { seq, flags: TcpFlags::SYN, ..Forged::default() });
        }
        assert_eq!(p.count(B, C::TcpExtTCPSYNChallenge), 20);
        p.count(B, C::TcpExtTCPChallengeACK)
    });
    assert!(sent[0] == 0 && (2..6).contains(&sent[1]), "{sent:?}");
    assert_eq!(sent[2..], [20, 20]);
}

/// Acknowledgements far out of the window, one each 100 ms: how many are answered in a second.
#[test]
fn knob_net_ipv4_tcp_invalid_ratelimit() {
    for (ms, skipped) in [("0", 0), ("150", 5), ("500", 8)] {
        let mut p = with("net.ipv4.tcp_invalid_ratelimit", ms);
        let (_, b) = p.connected();
        p.run(SEC);
        p.lose = Some(|_| true);
        let tp = p.tcb(B, b);
        let (ports, seq, ack, ts) =
            ((tp.tuple.rport, 80), tp.rcv_nxt.0 - 100_000, tp.snd_nxt.0, tp.ts_recent);
        let opts = TcpOptions { ts: Some((ts, 0)), ..TcpOptions::NONE };
        for _ in 0..10 {
            let flags = TcpFlags::ACK;
            p.inject(B, ports, Forged { seq, ack, flags, opts, ..Forged::default() });
            p.run(100 * MS);
        }
        assert_eq!(p.count(B, C::TcpExtTCPACKSkipped), skipped, "{ms} ms");
    }
}

#[test]
fn knob_net_ipv4_tcp_max_syn_backlog() {
    for most in [1, 8, 64] {
        let mut p = with("net.ipv4.tcp_max_syn_backlog", &most.to_string());
        p.shards[B].set_knob("net.ipv4.tcp_syncookies", "0").expect("a knob");
        p.lose = Some(|_| true);
        p.listen_as(Listen { port: 80, backlog: 4096, ..Listen::default() });
        for port in 1..=100 {
            let flags = TcpFlags::SYN;
            p.inject(B, (port, 80), Forged { flags, window: 1000, ..Forged::default() });
        }
        assert_eq!(p.shards[B].tcp.reqs.len() as u64, most);
        assert_eq!(p.drops(B, Reason::TcpReqQFull), 100 - most);
    }
}

/// Two handshakes end while there is room for one: the other is reset, or waits.
#[test]
fn knob_net_ipv4_tcp_abort_on_overflow() {
    for (value, err) in [("0", None), ("1", Some(TcpError::Reset))] {
        let mut p = with("net.ipv4.tcp_abort_on_overflow", value);
        p.listen_as(Listen { port: 80, backlog: 2, ..Listen::default() });
        for _ in 0..2 {
            p.connect(80);
            p.run(10 * MS);
        }
        p.connect(80);
        let late = p.connect(80);
        p.run(10 * MS);
        assert_eq!(p.count(B, C::TcpExtListenOverflows), 1);
        assert_eq!(p.shards[A].tcp_error(late), err, "tcp_abort_on_overflow {value}");
    }
}

/// What `ss` shows as Send-Q of a listener is how many may wait, not what the application asked for.
#[test]
fn a_listener_shows_its_limit() {
    for (backlog, limit) in [(7, 7), (u32::MAX, 20)] {
        let mut p = with("net.core.somaxconn", "20");
        p.listen_as(Listen { port: 80, backlog, ..Listen::default() });
        let shown: Vec<u64> = p.shards[B].tcp_iter().map(|row| row.tx_queue).collect();
        assert_eq!(shown, [limit], "backlog {backlog}");
    }
}

/// Listeners for every port, which hold SYNs, are bounded by `somaxconn` as well.
#[test]
fn a_listener_for_every_port_has_the_same_limit() {
    let mut p = with("net.core.somaxconn", "2");
    let all = Listen { any_port: true, hold_syn: true, backlog: 1000, ..Listen::default() };
    let l = p.listen_as(all);
    for port in 1..=5 {
        p.connect(port);
        p.run(10 * MS);
        while let Some(syn) = p.shards[B].syn_next(l) {
            assert!(p.shards[B].syn_accept(syn.id));
        }
        p.run(10 * MS);
    }
    // As in Linux, one more than the limit may wait.
    assert_eq!(p.count(B, C::TcpPassiveOpens), 3);
    assert_eq!(p.drops(B, Reason::TcpListenOverflow), 2);
    // What waits for a judgement is bounded at once, too.
    assert!(p.shards[B].tcp_accept(l).is_some());
    p.connect(9);
    p.run(10 * MS);
    let syn = p.shards[B].syn_next(l).expect("there is room again");
    p.shards[B].syn_refuse(syn.id, Refuse::Reset);
}

fn local_port(path: &str, value: &str) -> u16 {
    let mut p = with(path, value);
    let a = p.connect(80);
    p.shards[A].tcp_addrs(a).expect("it has ends").0.port()
}

#[test]
fn knob_net_ipv4_ip_local_port_range_low() {
    for port in [60_900, 60_999] {
        let got = local_port("net.ipv4.ip_local_port_range.low", &port.to_string());
        assert!((port..=60_999).contains(&got), "{got}");
    }
}

#[test]
fn knob_net_ipv4_ip_local_port_range_high() {
    for port in [32_868, 32_768] {
        let got = local_port("net.ipv4.ip_local_port_range.high", &port.to_string());
        assert!((32_768..=port).contains(&got), "{got}");
    }
}

/// The first SYNs that are sent again go a second apart, and do not count as tries.
#[test]
fn knob_net_ipv4_tcp_syn_linear_timeouts() {
    for (linear, waits) in [("0", [1, 2, 4, 8]), ("2", [1, 1, 1, 2]), ("4", [1, 1, 1, 1])] {
        let mut p = with("net.ipv4.tcp_syn_linear_timeouts", linear);
        p.lose = Some(|_| true);
        p.connect(80);
        p.run(20 * SEC);
        let apart = p.seen.windows(2).map(|w| (w[1].at.since(w[0].at) + SEC / 2) / SEC);
        assert_eq!(apart.take(4).collect::<Vec<u64>>(), waits, "{linear}");
    }
}

/// A entry in TIME_WAIT at A, and a reset for it.
#[test]
fn knob_net_ipv4_tcp_rfc1337() {
    for (value, left) in [("0", 0), ("1", 1)] {
        let mut p = with("net.ipv4.tcp_rfc1337", value);
        let (a, b) = p.connected();
        p.shards[A].tcp_close(a);
        p.run(10 * MS);
        p.shards[B].tcp_close(b);
        p.run(10 * MS);
        let tw = *p.shards[A].tcp.tws.iter().next().expect("an entry").2;
        let rst = Forged { seq: tw.rcv_nxt.0, flags: TcpFlags::RST, ..Forged::default() };
        p.inject(A, (80, tw.tuple.lport), rst);
        assert_eq!(p.shards[A].tcp.tws.len(), left, "tcp_rfc1337 {value}");
    }
}

/// Whether the same ends can be connected again, so long after a connection between them ended.
fn reconnects(knobs: &[(&str, &str)], after: u64) -> bool {
    let mut p = pair(208, GOOD, knobs);
    let l = p.listen(80);
    let local = Some(SocketAddr::new(p.addr(A), 5000));
    let connect = Connect { local, remote: p.at(B, 80), user: 0 };
    p.tick();
    let a = p.shards[A].tcp_connect(connect).expect("the first");
    p.run(10 * MS);
    let b = p.shards[B].tcp_accept(l).expect("accepted");
    p.shards[A].tcp_close(a);
    p.run(10 * MS);
    p.shards[B].tcp_close(b);
    p.run(after);
    let again = p.shards[A].tcp_connect(connect);
    assert_eq!(p.count(A, C::TcpExtTWRecycled), u64::from(again.is_ok()));
    again.is_ok()
}

#[test]
fn knob_net_ipv4_tcp_tw_reuse() {
    let can = ["0", "1", "2"].map(|v| reconnects(&[("net.ipv4.tcp_tw_reuse", v)], 5 * SEC));
    assert_eq!(can, [false, true, false]);
}

#[test]
fn knob_net_ipv4_tcp_tw_reuse_delay() {
    let path = "net.ipv4.tcp_tw_reuse_delay";
    let can = [("1000", 500), ("1000", 1500), ("100", 500), ("20000", 15_000)]
        .map(|(delay, ms)| reconnects(&[(path, delay)], ms * MS));
    assert_eq!(can, [false, true, true, false]);
}

/// Connections that are closed while their peer is gone: how many are reset at once.
#[test]
fn knob_net_ipv4_tcp_max_orphans() {
    for (most, reset) in [("0", 5), ("3", 2), ("100", 0)] {
        let mut p = with("net.ipv4.tcp_max_orphans", most);
        let l = p.listen(80);
        let ends: Vec<SocketId> = (0..5).map(|_| p.connect_to(l).0).collect();
        p.lose = Some(|_| true);
        for a in ends {
            p.shards[A].tcp_send(a, b"unsaid").expect("room");
            p.shards[A].tcp_close(a);
        }
        assert_eq!(p.count(A, C::TcpExtTCPAbortOnMemory), reset, "{most}");
        assert_eq!(p.shards[A].tcp_sockstat().orphan, 5 - reset);
        assert_eq!(p.count(A, C::TcpOutRsts), reset);
    }
}

/// The limit is lowered while orphans try: their timers notice, and those that are heard of are
/// reset.
#[test]
fn orphans_that_are_too_many_end_by_their_timers() {
    let mut p = with("net.ipv4.tcp_max_orphans", "100");
    let (a, _) = p.connected();
    p.lose = Some(|_| true);
    p.shards[A].tcp_send(a, b"unsaid").expect("room");
    p.shards[A].tcp_close(a);
    p.run(SEC);
    assert_eq!(p.shards[A].tcp_sockstat().orphan, 1);
    p.shards[A].set_knob("net.ipv4.tcp_max_orphans", "0").expect("in range");
    p.run(10 * SEC);
    assert_eq!(p.shards[A].tcp_sockstat().orphan, 0);
    assert_eq!((p.count(A, C::TcpExtTCPAbortOnMemory), p.count(A, C::TcpOutRsts)), (1, 1));
}

/// The first window, and that of a connection without scaling.
#[test]
fn knob_net_ipv4_tcp_workaround_signed_windows() {
    let path = "net.ipv4.tcp_workaround_signed_windows";
    for (value, least, most) in [("0", 60_000, 65_535), ("1", 30_000, 32_767)] {
        let first = syn(path, value).hdr.window;
        assert!((least..=most).contains(&first), "{first} for {value}");
        let mut p = pair(210, GOOD, &[(path, value), ("net.ipv4.tcp_window_scaling", "0")]);
        let (a, b) = p.connected();
        exchange(&mut p, (a, b), [200_000, 0], 60 * SEC);
        let told = p.seen.iter().filter(|s| s.from == B).map(|s| s.hdr.window).max();
        assert!(told.is_some_and(|told| (least..=most).contains(&told)), "{told:?} for {value}");
    }
}

/// A peer that wants its data in the smallest pieces.
#[test]
fn knob_net_ipv4_tcp_min_snd_mss() {
    for (value, size) in [("48", 60), ("500", 500)] {
        let mut p = with("net.ipv4.tcp_min_snd_mss", value);
        let listener = p.listen(80);
        p.lose = Some(|_| true);
        let opts = TcpOptions { mss: Some(60), ..TcpOptions::NONE };
        let syn =
            Forged { seq: 7, flags: TcpFlags::SYN, window: 10_000, opts, ..Forged::default() };
        p.inject(B, (9, 80), syn);
        p.run(MS);
        let ack = p.last_of(B).hdr.seq.wrapping_add(1);
        let flags = TcpFlags::ACK;
        p.inject(B, (9, 80), Forged { seq: 8, ack, flags, window: 10_000, ..Forged::default() });
        let b = p.shards[B].tcp_accept(listener).expect("a connection");
        p.shards[B].tcp_send(b, &[0; 2000]).expect("room");
        p.run(MS);
        let largest =
            p.seen.iter().filter(|s| s.from == B).map(|s| s.gso.map_or(s.len, |g| g.size.into()));
        assert_eq!(largest.max(), Some(size), "{value}");
    }
}

/// What a server's connection is marked with is what the client's SYN was.
#[test]
fn knob_net_ipv4_tcp_reflect_tos() {
    for (value, expected) in [("0", 0), ("1", 0x28)] {
        let mut p = with("net.ipv4.tcp_reflect_tos", value);
        let listener = p.listen(80);
        p.lose = Some(|_| true);
        let a = p.connect(80);
        p.run(100 * MS);
        // The first SYN is lost, the second is marked.
        p.shards[A].tcp_set(a, TcpOpt::Tos(0x28)).expect("an option");
        p.lose = None;
        p.run(2 * SEC);
        let b = p.shards[B].tcp_accept(listener).expect("a connection");
        assert_eq!(p.tcb(B, b).tos & !3, expected, "{value}");
    }
}
