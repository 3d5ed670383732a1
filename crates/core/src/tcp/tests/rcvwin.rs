//! The receive window and its buffer: how they grow, and what happens when memory is short.

use super::*;
use crate::table::count::Counter as C;

/// Without timestamps, so that segments are forged easily.
fn plain(seed: u64, sack: &str) -> Pair {
    let mut p = Pair::new(seed, GOOD);
    for shard in &mut p.shards {
        shard.set_knob("net.ipv4.tcp_timestamps", "0").expect("in range");
        shard.set_knob("net.ipv4.tcp_sack", sack).expect("in range");
    }
    p
}

/// Data that waits behind a hole makes room for what comes after it: buffer and window grow before the hole
/// is filled. Without SACK the window stands still, since duplicates are told by that.
#[test]
fn the_window_grows_behind_a_hole() {
    for (sack, grows) in [("1", true), ("0", false)] {
        let mut p = plain(600, sack);
        let (_, b) = p.connected();
        let (first, una) = (p.tcb(B, b).rcv_nxt, p.tcb(B, b).snd_una);
        let ports = (p.tcb(B, b).tuple.rport, 80);
        let come = |p: &mut Pair, n: u32| {
            let seq = (first + n * 1460).0;
            let data =
                Forged { seq, ack: una.0, flags: TcpFlags::ACK, window: 1000, ..Forged::default() };
            p.inject(B, ports, Forged { data: &[0; 1460], ..data });
        };
        // What one says of how data lies in memory.
        come(&mut p, 0);
        let before = p.shards[B].tcp_info(b).expect("it lives");
        let next = p.tcb(B, b).rcv_nxt;
        for n in 2..=41 {
            come(&mut p, n);
        }
        let after = p.shards[B].tcp_info(b).expect("it lives");
        assert_eq!(after.rcv_ssthresh > before.rcv_ssthresh, grows, "SACK {sack}");
        assert!(after.rcvbuf > before.rcvbuf, "{} is as before", after.rcvbuf);
        assert_eq!(p.tcb(B, b).rcv_nxt, next);
    }
}

/// A program that asked for a size has it, whatever waits behind a hole; so has one that was not accepted yet.
#[test]
fn a_buffer_of_a_size_asked_for_stays() {
    let mut p = plain(601, "1");
    let (_, b) = p.connected();
    p.shards[B].tcp_set(b, crate::tcp::TcpOpt::RcvBuf(60_000)).expect("set");
    let before = p.shards[B].tcp_info(b).expect("it lives").rcvbuf;
    let (next, una) = (p.tcb(B, b).rcv_nxt, p.tcb(B, b).snd_una);
    let ports = (p.tcb(B, b).tuple.rport, 80);
    for n in 1..=20 {
        let seq = (next + n * 1460).0;
        let data =
            Forged { seq, ack: una.0, flags: TcpFlags::ACK, window: 1000, ..Forged::default() };
        p.inject(B, ports, Forged { data: &[0; 1460], ..data });
    }
    assert_eq!(p.shards[B].tcp_info(b).expect("it lives").rcvbuf, before);
}

/// What nobody reads lies in few large buffers before small ones run out, and every byte is still there.
#[test]
fn many_small_packets_become_few_large_ones() {
    let mut p = Pair::new(602, GOOD);
    p.watch = false;
    let (a, b) = {
        for shard in &mut p.shards {
            shard.set_knob("net.ipv4.tcp_rmem", "4096 6291456 6291456").expect("in range");
        }
        p.shards[B].set_knob("pool.small", "512").expect("in range");
        p.connected()
    };
    let mut end = End::new(1_500_000);
    p.until(20 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        p.shards[B].tcp_readable(b).is_ok_and(|r| r.fin)
    });
    assert_eq!(p.shards[B].tcp_readable(b).expect("it is open").bytes, 1_500_000);
    assert!(p.count(B, C::TcpExtTCPRcvCollapsed) > 500);
    assert!(p.shards[B].net.pool.small_out() < 300, "{}", p.shards[B].net.pool.small_out());
    assert_eq!(p.count(A, C::TcpRetransSegs), 0, "and nothing had to be sent again");
    let mut reader = End::new(0);
    reader.turn(&mut p.shards[B], b);
    assert_eq!((reader.read, reader.eof), (1_500_000, true));
}

/// Small segments fill the buffer before they fill the window that was announced: the right edge stays where
/// it was, or moves back if it may.
#[test]
fn knob_net_ipv4_tcp_shrink_window() {
    for (value, shrinks) in [("0", false), ("1", true)] {
        let mut p = Pair::new(603, GOOD);
        let (a, b) = p.connected();
        p.shards[B].set_knob("net.ipv4.tcp_shrink_window", value).expect("in range");
        p.shards[B].set_knob("net.ipv4.tcp_moderate_rcvbuf", "0").expect("in range");
        p.shards[A].tcp_set(a, crate::tcp::TcpOpt::NoDelay(true)).expect("set");
        for _ in 0..100 {
            let _ = p.shards[A].tcp_send(a, &[1; 1000]);
            p.run(3 * MS);
        }
        let scale = p.tcb(B, b).rcv_wscale;
        let acks = p.seen.iter().filter(|s| s.from == B && !s.hdr.flags.syn());
        let edges: Vec<u32> =
            acks.map(|s| s.hdr.ack.wrapping_add(u32::from(s.hdr.window) << scale)).collect();
        let back = edges.windows(2).any(|w| (w[1].wrapping_sub(w[0]) as i32) < 0);
        assert_eq!(back, shrinks, "{value}");
        assert_eq!(p.count(B, C::TcpExtTCPWantZeroWindowAdv) > 0, !shrinks, "{value}");
    }
}
