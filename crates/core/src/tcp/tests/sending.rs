//! How a sender cuts what it has, and how much of it may wait below; knobs and options of its recovery.

use super::recovery::{Sender, timed_out_with};
use super::*;
use crate::table::count::Counter as C;
use crate::table::knob::{CcName, KnobValue};
use crate::tcp::{CaState, OptName, TcpOpt};

fn with(fate: Fate, knobs: &[(&str, &str)]) -> Pair {
    let mut p = Pair::new(500, fate);
    for shard in &mut p.shards {
        for (path, value) in knobs {
            shard.set_knob(path, value).expect("the knob takes the value");
        }
    }
    p
}

const LONG: Fate = Fate { delay: 20 * MS, offload: true, ..GOOD };

/// Segments of the first packet of a connection that begins to send on a long path.
fn first_packet(knob: (&str, &str)) -> u16 {
    let mut p = with(LONG, &[knob]);
    let (a, _) = p.connected();
    p.shards[A].tcp_send(a, &[0; 30_000]).expect("room");
    p.run(MS);
    let first = p.seen.iter().find(|s| s.from == A && s.len > 0).expect("it is sent at once");
    first.gso.map_or(1, |g| g.segs)
}

#[test]
fn knob_net_ipv4_tcp_min_tso_segs() {
    // Ten segments in 40 ms are little; never is one packet more than half the congestion window.
    for (value, want) in [("1", 1), ("2", 2), ("4", 4), ("9", 5)] {
        assert_eq!(first_packet(("net.ipv4.tcp_min_tso_segs", value)), want);
    }
}

/// A path is short where its least round trip is.
#[test]
fn knob_net_ipv4_tcp_tso_rtt_log() {
    for (value, want) in [("9", 2), ("16", 5)] {
        assert_eq!(first_packet(("net.ipv4.tcp_tso_rtt_log", value)), want);
    }
}

/// The fraction of a window that is sent at once: a segment that a duplicate lets go right after another one
/// waits for the acknowledgement that lets more go.
#[test]
fn knob_net_ipv4_tcp_tso_win_divisor() {
    for (value, want) in [("3", 0), ("0", 0), ("255", 1)] {
        let mut s = Sender::with(20, true, &[("net.ipv4.tcp_tso_win_divisor", value)]);
        s.p.now = s.p.now.plus(40 * MS);
        assert_eq!(s.acknowledge(0, &[(1, 2)]), 1);
        assert_eq!(s.acknowledge(0, &[(1, 3)]), want, "divisor {value}");
    }
}

/// What waits in the queue after the connection was served once, in packets.
fn waiting(value: &str) -> usize {
    let mut p = with(GOOD, &[("net.ipv4.tcp_limit_output_bytes", value), ("features.gso", "0")]);
    let (a, b) = p.connected();
    p.run(MS);
    p.tcb(A, a).snd_cwnd = 100;
    assert_eq!(p.shards[A].tcp_send(a, &[7; 40_000]), Ok(40_000));
    path::transmit(&mut p.shards[A], &mut Batch::new());
    let queued = p.shards[A].net.ifaces[0].txqs[0].qdisc.len();
    let (mut read, mut buf) = (0, [0; 65536]);
    let done = p.until(10 * SEC, |p| {
        read += p.shards[B].tcp_recv(b, &mut buf).unwrap_or(0);
        read == 40_000
    });
    assert!(done, "the rest follows when that has left: {read}");
    assert_eq!(p.count(A, C::TcpExtTCPTimeouts) + p.count(A, C::TcpExtTCPLossProbes), 0);
    queued
}

#[test]
fn knob_net_ipv4_tcp_limit_output_bytes() {
    // A packet alone under way, and one behind it, never wait for it.
    let small = waiting("1000");
    assert!((2..=3).contains(&small), "{small}");
    assert!(waiting("4194304") > 20, "what the rate sends in a millisecond");
}

/// A flow that a slow way out holds back does not fill its queue: what others send does not stand behind a
/// thousand packets. And it loses nothing by that.
#[test]
fn a_bulk_flow_leaves_its_queue_to_others() {
    for offload in [false, true] {
        let tbf = ("qdisc.t0.root", "tbf rate 20mbit burst 10k limit 3m");
        let mut p = with(Fate { offload, ..GOOD }, &[tbf]);
        let (a, b) = p.connected();
        let (mut end, mut reader) = (End::new(5_000_000), End::new(0));
        let (mut most, begun) = (0, p.now);
        let done = p.until(30 * SEC, |p| {
            most = most.max(p.shards[A].net.ifaces[0].txqs[0].qdisc.len());
            end.turn(&mut p.shards[A], a);
            reader.turn(&mut p.shards[B], b);
            reader.eof
        });
        let took = p.now.since(begun);
        assert!(done && took < 2_300 * MS, "two seconds at 20 Mb/s took {took} ns");
        assert!(most < 100, "{most} packets in the queue");
        assert_eq!(p.count(A, C::TcpRetransSegs), 0);
    }
}

/// What is charged to a connection is given back, also where packets are dropped.
#[test]
fn what_a_queue_drops_is_not_waited_for() {
    let tbf = ("qdisc.t0.root", "tbf rate 20mbit burst 5000b limit 6000b");
    let mut p = with(GOOD, &[tbf]);
    let (a, b) = p.connected();
    exchange(&mut p, (a, b), [500_000, 0], 60 * SEC);
    assert!(p.count(A, C::TcpRetransSegs) > 0, "the queue is too short");
    p.run(SEC);
    assert!(!p.shards[A].net.pool.tsq_throttled(a.index, 0), "nothing is below it");
}

#[test]
fn knob_net_ipv4_tcp_available_congestion_control() {
    let path = "net.ipv4.tcp_available_congestion_control";
    let mut p = with(GOOD, &[("net.ipv4.tcp_allowed_congestion_control", "reno cubic bbr dctcp")]);
    let (a, _) = p.connected();
    let names = p.shards[A].get_knob(path).expect("a knob");
    for name in names.split(' ') {
        let name = CcName::parse(name).expect("what there is has a name");
        assert_eq!(p.shards[A].tcp_set(a, TcpOpt::Congestion(name)), Ok(()));
        // Without marks DCTCP is Reno.
        let is = if name.needs_ecn() { CcName::Reno } else { name };
        assert_eq!(p.shards[A].tcp_get(a, OptName::Congestion), Ok(TcpOpt::Congestion(is)));
    }
    assert!(p.shards[A].set_knob(path, "reno").is_err(), "it is only read");
}

/// Duplicates until something counts as lost, where nothing has been overtaken yet.
#[test]
fn knob_net_ipv4_tcp_reordering() {
    for thresh in [3, 6] {
        let value = thresh.to_string();
        let mut s = Sender::with(20, true, &[("net.ipv4.tcp_reordering", &value)]);
        s.p.now = s.p.now.plus(40 * MS);
        for n in 1..thresh {
            s.acknowledge(0, &[(1, 1 + n)]);
            assert_eq!((s.tp().ca_state, n), (CaState::Disorder, n), "threshold {thresh}");
        }
        s.acknowledge(0, &[(1, 1 + thresh)]);
        assert_eq!(s.tp().ca_state, CaState::Recovery);
        assert_eq!(s.p.count(A, C::TcpExtTCPSackRecovery), 1);
    }
}

#[test]
fn knob_net_ipv4_tcp_max_reordering() {
    for (value, want) in [("300", 10), ("5", 5)] {
        let mut s = Sender::with(20, true, &[("net.ipv4.tcp_max_reordering", value)]);
        s.p.now = s.p.now.plus(40 * MS);
        s.acknowledge(0, &[(10, 11)]);
        s.acknowledge(0, &[(10, 11), (1, 2)]);
        assert_eq!((s.tp().reord_seen, s.tp().reordering), (1, want));
    }
}

#[test]
fn knob_net_ipv4_tcp_early_retrans() {
    for (value, probes) in [("3", 1), ("4", 1), ("0", 0)] {
        let mut p = with(GOOD, &[("net.ipv4.tcp_early_retrans", value)]);
        let (a, _) = p.connected();
        p.run(MS);
        p.lose = Some(|_| true);
        p.shards[A].tcp_send(a, b"a tail").expect("room");
        p.run(SEC);
        assert_eq!(p.count(A, C::TcpExtTCPLossProbes), probes);
    }
}

/// Three duplicates are not the end of the reordering window where it is said that they are not.
#[test]
fn knob_net_ipv4_tcp_recovery() {
    for (value, recoveries) in [("1", 1), ("5", 0)] {
        let mut s = Sender::with(20, true, &[("net.ipv4.tcp_recovery", value)]);
        s.p.now = s.p.now.plus(40 * MS);
        for n in 1..=4 {
            s.acknowledge(0, &[(1, 1 + n)]);
        }
        assert_eq!(s.p.count(A, C::TcpExtTCPSackRecovery), recoveries);
    }
}

#[test]
fn knob_net_ipv4_tcp_frto() {
    for (value, found) in [("2", 1), ("0", 0)] {
        let mut s = timed_out_with(true, &[("net.ipv4.tcp_frto", value)]);
        s.acknowledge(1, &[]);
        s.acknowledge(2, &[]);
        assert_eq!(s.p.count(A, C::TcpExtTCPSpuriousRTOs), found);
    }
}

/// A path that became longer: the least round trip of before is forgotten in so many seconds.
#[test]
fn knob_net_ipv4_tcp_min_rtt_wlen() {
    for (value, least) in [("300", 2_000..4_000), ("1", 20_000..30_000)] {
        let mut p = with(GOOD, &[("net.ipv4.tcp_min_rtt_wlen", value)]);
        let (a, _) = p.connected();
        p.shards[A].tcp_send(a, b"near").expect("room");
        p.run(2 * SEC);
        p.fate.delay = 10 * MS;
        for _ in 0..3 {
            p.shards[A].tcp_send(a, b"far").expect("room");
            p.run(SEC);
        }
        let min_rtt = p.shards[A].tcp_info(a).map_or(0, |i| i.min_rtt);
        assert!(least.contains(&min_rtt), "{value} s: {min_rtt}");
    }
}

/// Timeouts in ten seconds of silence; the connection's own limit goes before the knob's.
fn timeouts(knob: &str, own: Option<u32>) -> u64 {
    let mut p = with(GOOD, &[("net.ipv4.tcp_rto_max_ms", knob)]);
    let (a, _) = p.connected();
    p.run(MS);
    if let Some(ms) = own {
        p.shards[A].tcp_set(a, TcpOpt::RtoMaxMs(ms)).expect("an option");
    }
    p.lose = Some(|_| true);
    p.shards[A].tcp_send(a, b"into the void").expect("room");
    p.run(10 * SEC);
    p.count(A, C::TcpExtTCPTimeouts)
}

#[test]
fn knob_net_ipv4_tcp_rto_max_ms() {
    assert!(timeouts("120000", None) <= 6);
    assert!(timeouts("1000", None) >= 8);
    assert!(timeouts("120000", Some(1000)) >= 8);
    assert!(timeouts("1000", Some(120_000)) <= 6);
    let mut p = Pair::new(501, GOOD);
    let (a, _) = p.connected();
    for wrong in [0, 999, 120_001] {
        assert!(p.shards[A].tcp_set(a, TcpOpt::RtoMaxMs(wrong)).is_err(), "{wrong}");
    }
    let name = OptName::from_linux(6, 44).expect("TCP_RTO_MAX_MS");
    assert_eq!(p.shards[A].tcp_get(a, name).map(TcpOpt::to_linux), Ok(120_000));
}

/// Answers until the next acknowledgement waits for an answer; TCP_QUICKACK tells.
#[test]
fn knob_net_ipv4_tcp_pingpong_thresh() {
    for thresh in [1, 3] {
        let mut p = with(GOOD, &[("net.ipv4.tcp_pingpong_thresh", &thresh.to_string())]);
        let (a, b) = p.connected();
        for answers in 1..=4 {
            p.shards[A].tcp_send(a, b"?").expect("room");
            p.run(5 * MS);
            p.shards[B].tcp_recv(b, &mut [0; 8]).expect("the question");
            p.shards[B].tcp_send(b, b"!").expect("room");
            p.run(5 * MS);
            p.shards[A].tcp_recv(a, &mut [0; 8]).expect("the answer");
            let quick = p.shards[B].tcp_get(b, OptName::QuickAck);
            assert_eq!(quick, Ok(TcpOpt::QuickAck(answers < thresh)), "{answers} of {thresh}");
        }
    }
}

/// SO_MAX_PACING_RATE by its number.
#[test]
fn the_rate_has_linuxs_number() {
    let mut p = Pair::new(502, GOOD);
    let (a, _) = p.connected();
    let name = OptName::from_linux(1, 47).expect("SO_MAX_PACING_RATE");
    let mut set = |value: i32| {
        let opt = TcpOpt::from_linux(1, 47, value).expect("a number");
        p.shards[A].tcp_set(a, opt).expect("an option");
        p.shards[A].tcp_get(a, name)
    };
    assert_eq!(set(1_000_000), Ok(TcpOpt::MaxPacingRate(1_000_000)));
    assert_eq!(set(-2), Ok(TcpOpt::MaxPacingRate(u64::from(u32::MAX - 1))));
    assert_eq!(set(-1), Ok(TcpOpt::MaxPacingRate(u64::MAX)));
    assert_eq!(TcpOpt::MaxPacingRate(u64::MAX).to_linux(), -1);
}
