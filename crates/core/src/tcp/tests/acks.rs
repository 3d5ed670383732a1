//! When acknowledgements go: at once, later, and as one for several.

use super::*;
use crate::table::count::Counter as C;
use crate::tcp::TcpOpt;

/// What a receiver does while its peer's data comes out of order.
struct Early {
    /// When acknowledgements went, in nanoseconds after the first segment.
    at: Vec<u64>,
    /// `TCPAckCompressed`.
    compressed: u64,
}

/// Round trips of 100 ms; then so many segments behind a hole, one every 100 µs.
fn early(knobs: &[(&str, &str)], segments: u32) -> Early {
    let mut p = Pair::new(300, Fate { delay: 50 * MS, ..GOOD });
    for (path, value) in knobs {
        p.shards[B].set_knob(path, value).expect("the knob takes the value");
    }
    let (_, b) = p.connected();
    p.run(SEC);
    p.shards[B].tcp_set(b, TcpOpt::QuickAck(false)).expect("set");
    let (ports, rcv_nxt, snd_nxt, ts) = {
        let tp = p.tcb(B, b);
        assert!((100_000..110_000).contains(&(tp.srtt_us8 / 8)));
        tp.rcv_rtt_us8 = tp.srtt_us8;
        ((tp.tuple.rport, 80), tp.rcv_nxt.0, tp.snd_nxt.0, tp.ts_recent)
    };
    let (begun, seen) = (p.now, p.seen.len());
    for i in 0..segments {
        let opts = TcpOptions { ts: Some((ts, 0)), ..TcpOptions::NONE };
        let seq = rcv_nxt.wrapping_add(1000 + 1000 * i);
        let (flags, data) = (TcpFlags::ACK, &[7; 1000][..]);
        p.inject(B, ports, Forged { seq, ack: snd_nxt, flags, window: 500, opts, data });
        p.run(100 * US);
    }
    p.run(SEC);
    let at = p.seen[seen..].iter().filter(|s| s.from == B).map(|s| s.at.since(begun)).collect();
    Early { at, compressed: p.count(B, C::TcpExtTCPAckCompressed) }
}

#[test]
fn three_go_at_once_and_then_one_for_several() {
    let e = early(&[], 8);
    assert_eq!(e.at.len(), 4, "{:?}", e.at);
    assert_eq!(e.at[..3], [0, 100 * US, 200 * US]);
    // A millisecond after the fourth segment.
    assert!((MS..2 * MS).contains(&(e.at[3] - 300 * US)), "{:?}", e.at);
    assert_eq!(e.compressed, 4, "five segments share the last one");
}

#[test]
fn knob_net_ipv4_tcp_comp_sack_delay_ns() {
    for (ms, want) in [(1, MS), (3, 3 * MS), (1000, 5 * MS)] {
        let value = (ms * MS).to_string();
        let e = early(&[("net.ipv4.tcp_comp_sack_delay_ns", &value)], 6);
        let late = e.at[3] - 300 * US;
        // At the most a twentieth of the round trip; the wheel may be late by an eighth.
        assert!((want..want * 5 / 4).contains(&late), "{ms} ms: {late} ns");
        assert_eq!(e.compressed, 2);
    }
}

#[test]
fn knob_net_ipv4_tcp_comp_sack_slack_ns() {
    let late = |slack: u64| {
        let e = early(&[("net.ipv4.tcp_comp_sack_slack_ns", &slack.to_string())], 6);
        e.at[3]
    };
    let (none, some) = (late(0), late(100 * MS));
    assert!(none < 2 * MS, "{none}");
    assert!(some > none && some <= none + 110 * MS, "{some}");
}

#[test]
fn knob_net_ipv4_tcp_comp_sack_nr() {
    for (nr, sent, compressed) in [(0, 8, 0), (2, 4, 3), (44, 4, 4)] {
        let e = early(&[("net.ipv4.tcp_comp_sack_nr", &nr.to_string())], 8);
        assert!(e.at.len() >= sent, "{nr}: {:?}", e.at);
        assert!(e.compressed <= compressed, "{nr}: {}", e.compressed);
        assert_eq!(e.at.len() as u64 + e.compressed, 8, "{nr}: each is sent, or told by another");
    }
    assert_eq!(early(&[("net.ipv4.tcp_comp_sack_nr", "0")], 8).compressed, 0);
}
