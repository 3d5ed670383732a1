//! Path MTU discovery by probes, and paths that swallow what is large.

use super::*;
use crate::table::count::Counter as C;

/// A pair whose path loses packets with more payload than `lose` says, and whose A has these knobs.
fn pair(knobs: &[(&str, &str)], lose: Option<fn(&Seen) -> bool>) -> Pair {
    let mut p = Pair::new(700, GOOD);
    for (path, value) in knobs {
        p.shards[A].set_knob(path, value).expect("in range");
    }
    p.lose = lose;
    p
}

/// A sends so many bytes to B; true if they all arrive within `limit` nanoseconds.
fn transfer(p: &mut Pair, (a, b): (SocketId, SocketId), bytes: usize, limit: u64) -> bool {
    let (mut sent, mut got) = (0, 0);
    let mut buf = [0; 4096];
    p.until(limit, |p| {
        while sent < bytes
            && let Ok(n) = p.shards[A].tcp_send(a, &vec![7; (bytes - sent).min(20_000)])
        {
            sent += n;
        }
        while let Ok(n @ 1..) = p.shards[B].tcp_recv(b, &mut buf) {
            got += n;
        }
        got == bytes
    })
}

fn large(seen: &Seen) -> bool {
    seen.len > 1200
}

fn mss(p: &mut Pair, a: SocketId) -> u16 {
    p.tcb(A, a).mss_cache
}

/// The largest payload that A has sent.
fn largest(p: &Pair) -> usize {
    p.seen.iter().filter(|s| s.from == A).map(|s| s.len).max().expect("something was sent")
}

#[test]
fn knob_net_ipv4_tcp_mtu_probing() {
    // A black hole: without probing the connection is stuck, with it everything arrives.
    for (value, arrives) in [("0", false), ("1", true), ("2", true)] {
        let mut p = pair(&[("net.ipv4.tcp_mtu_probing", value)], None);
        let ends = p.connected();
        p.lose = Some(large);
        assert_eq!(transfer(&mut p, ends, 200_000, 100 * SEC), arrives, "{value}");
        if value == "2" {
            assert!(p.count(A, C::TcpExtTCPMTUPFail) > 0, "probes above the limit are lost");
            assert!(p.count(A, C::TcpExtTCPMTUPSuccess) > 0, "probes below it arrive");
            assert_eq!(p.count(A, C::TcpExtTCPTimeouts), 0, "and nothing else is");
        }
    }
}

/// The search ends close to what the path takes, and costs no timeout.
#[test]
fn the_search_finds_what_the_path_takes() {
    let mut p = pair(&[("net.ipv4.tcp_mtu_probing", "2")], Some(large));
    let ends = p.connected();
    assert!(transfer(&mut p, ends, 3_000_000, 100 * SEC), "everything arrives");
    let found = mss(&mut p, ends.0);
    assert!((1190..=1200).contains(&found), "{found}");
    let fails = p.count(A, C::TcpExtTCPMTUPFail);
    assert!((2..12).contains(&fails), "{fails} halvings of what is left of 450 bytes");
    assert_eq!(p.count(A, C::TcpExtTCPTimeouts), 0);
    // A probe that is lost leaves the congestion window as it was.
    assert!(p.tcb(A, ends.0).snd_cwnd > 20);
}

/// Super-packets do not keep probes from being single.
#[test]
fn probes_are_single_segments_among_super_packets() {
    let mut p = Pair::new(701, Fate { offload: true, ..GOOD });
    p.shards[A].set_knob("net.ipv4.tcp_mtu_probing", "2").expect("in range");
    let ends = p.connected();
    assert!(transfer(&mut p, ends, 3_000_000, 100 * SEC), "everything arrives");
    assert!(mss(&mut p, ends.0) > 1430, "{}", mss(&mut p, ends.0));
    assert!(p.count(A, C::TcpExtTCPMTUPSuccess) >= 3);
    assert_eq!(p.count(A, C::TcpExtTCPMTUPFail), 0);
}

#[test]
fn knob_net_ipv4_tcp_base_mss() {
    for base in [512, 1024] {
        let knobs =
            [("net.ipv4.tcp_mtu_probing", "2"), ("net.ipv4.tcp_base_mss", &base.to_string())];
        let mut p = pair(&knobs, None);
        let ends = p.connected();
        assert!(transfer(&mut p, ends, 3000, SEC), "it arrives");
        assert_eq!((mss(&mut p, ends.0), largest(&p)), (base, usize::from(base)));
        assert_eq!(p.count(A, C::TcpExtTCPMTUPSuccess), 0, "too little to probe with");
    }
}

#[test]
fn knob_net_ipv4_tcp_mtu_probe_floor() {
    for floor in [48, 300] {
        let knobs = [
            ("net.ipv4.tcp_mtu_probing", "1"),
            ("net.ipv4.tcp_mtu_probe_floor", &floor.to_string()),
        ];
        let mut p = pair(&knobs, None);
        let (a, _) = p.connected();
        p.lose = Some(|_| true);
        p.shards[A].tcp_send(a, &[7; 3000]).expect("room");
        p.run(400 * SEC);
        assert_eq!(mss(&mut p, a), floor);
    }
}

#[test]
fn knob_net_ipv4_tcp_probe_threshold() {
    let probes = |threshold: &str| {
        let knobs =
            [("net.ipv4.tcp_mtu_probing", "2"), ("net.ipv4.tcp_probe_threshold", threshold)];
        let mut p = pair(&knobs, None);
        let ends = p.connected();
        assert!(transfer(&mut p, ends, 3_000_000, 100 * SEC), "everything arrives");
        (p.count(A, C::TcpExtTCPMTUPSuccess), mss(&mut p, ends.0))
    };
    let (fine, coarse, none) = (probes("2"), probes("120"), probes("1000"));
    assert!(fine.0 > coarse.0 && fine.1 > coarse.1, "{fine:?} {coarse:?}");
    assert_eq!(none, (0, 1024), "what is left is less than it from the start");
}

/// The path gets better after the search has ended: only a new one notices.
#[test]
fn knob_net_ipv4_tcp_probe_interval() {
    for (interval, better) in [("30", true), ("600", false)] {
        let knobs = [("net.ipv4.tcp_mtu_probing", "2"), ("net.ipv4.tcp_probe_interval", interval)];
        let mut p = pair(&knobs, Some(large));
        let ends = p.connected();
        assert!(transfer(&mut p, ends, 1_000_000, 100 * SEC), "everything arrives");
        assert!(mss(&mut p, ends.0) <= 1200);
        p.lose = None;
        p.run(60 * SEC);
        let probes = p.count(A, C::TcpExtTCPMTUPSuccess);
        assert!(transfer(&mut p, ends, 3_000_000, 100 * SEC), "everything arrives");
        assert_eq!(mss(&mut p, ends.0) > 1400, better, "{interval}");
        assert_eq!(p.count(A, C::TcpExtTCPMTUPSuccess) > probes, better, "{interval}");
    }
}

/// How long the timer fires before the path counts as bad.
#[test]
fn knob_net_ipv4_tcp_retries1() {
    let timeouts = |tries: &str| {
        let knobs = [("net.ipv4.tcp_mtu_probing", "1"), ("net.ipv4.tcp_retries1", tries)];
        let mut p = pair(&knobs, None);
        let ends = p.connected();
        p.lose = Some(large);
        assert!(transfer(&mut p, ends, 5000, 300 * SEC), "it arrives in the end");
        p.count(A, C::TcpExtTCPTimeouts)
    };
    let (few, default, many) = (timeouts("1"), timeouts("3"), timeouts("6"));
    assert!(few < default && default < many, "{few} {default} {many}");
}

/// Whether a probe arrived can not be told once what it held is sent again in other segments.
#[test]
fn a_probe_that_is_under_way_is_forgotten_by_a_retransmission() {
    // A pause must not make the window too small for a probe.
    let knobs = [("net.ipv4.tcp_mtu_probing", "2"), ("net.ipv4.tcp_slow_start_after_idle", "0")];
    let mut p = pair(&knobs, None);
    let ends = p.connected();
    assert!(transfer(&mut p, ends, 20_000, 10 * SEC), "it arrives");
    p.run(10 * SEC);
    let before = (p.count(A, C::TcpExtTCPMTUPSuccess), p.count(A, C::TcpExtTCPMTUPFail));
    p.lose = Some(|s| s.from == A);
    p.shards[A].tcp_send(ends.0, &[7; 12_000]).expect("room");
    let (begun, size) = (p.seen.len(), usize::from(mss(&mut p, ends.0)));
    p.run(10 * SEC);
    assert!(p.seen[begun..].iter().any(|s| s.len > size), "a probe was sent");
    assert_eq!(p.tcb(A, ends.0).mtup().and_then(|m| m.probe), None);
    let after = (p.count(A, C::TcpExtTCPMTUPSuccess), p.count(A, C::TcpExtTCPMTUPFail));
    assert_eq!(before, after, "neither arrived nor lost, as far as anybody knows");
    p.lose = None;
    let mut buf = [0; 4096];
    let mut got = 0;
    p.until(120 * SEC, |p| {
        while let Ok(n @ 1..) = p.shards[B].tcp_recv(ends.1, &mut buf) {
            got += n;
        }
        got == 12_000
    });
    assert_eq!(got, 12_000);
}
