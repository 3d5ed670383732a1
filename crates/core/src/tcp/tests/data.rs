use super::*;
use crate::table::count::Counter as C;
use crate::tcp::{CaState, TcpOpt};

#[test]
fn a_megabyte_goes_both_ways() {
    for v6 in [false, true] {
        let mut p = Pair::over(2, GOOD, v6);
        let ends = p.connected();
        exchange(&mut p, ends, [1 << 20, 1 << 20], 100 * SEC);
        assert_eq!(p.count(A, C::TcpRetransSegs) + p.count(B, C::TcpRetransSegs), 0);
    }
}

fn lossy(seed: u64, fate: Fate, bytes: [u64; 2], knobs: &[(&str, &str)]) -> Pair {
    let mut p = Pair::new(seed, fate);
    for shard in &mut p.shards {
        for (path, value) in knobs {
            shard.set_knob(path, value).expect("a knob");
        }
    }
    p.watch = false;
    let ends = p.connected();
    exchange(&mut p, ends, bytes, 3600 * SEC);
    p
}

const TEN_MB: u64 = 10_000_000;

#[test]
fn ten_megabytes_survive_loss_reordering_and_duplication() {
    for (i, loss) in [0, 10, 50].into_iter().enumerate() {
        let fate = Fate { loss, dup: 10, reorder: 20, ..GOOD };
        let p = lossy(10 + i as u64, fate, [TEN_MB, TEN_MB], &[]);
        if loss > 0 {
            assert!(p.count(A, C::TcpRetransSegs) > 0);
            assert!(p.count(A, C::TcpExtTCPSackRecovery) > 0);
        }
        assert!(p.count(B, C::TcpExtTCPOFOQueue) > 0);
    }
}

#[test]
fn super_packets_survive_loss_and_are_used() {
    let fate = Fate { loss: 10, dup: 10, reorder: 20, offload: true, ..GOOD };
    lossy(20, fate, [TEN_MB, TEN_MB], &[]);
    let mut p = Pair::new(21, Fate { offload: true, ..GOOD });
    let ends = p.connected();
    exchange(&mut p, ends, [TEN_MB, TEN_MB], 100 * SEC);
    let largest = p.seen.iter().map(|s| s.len).max();
    assert!(largest > Some(60_000), "super-packets of {largest:?} bytes");
    for s in p.seen.iter().filter(|s| s.len > 1448) {
        let gso = s.gso.expect("more than a segment is a super-packet");
        assert_eq!((gso.size, gso.segs as usize), (1448, s.len.div_ceil(1448)));
    }
    assert_eq!(p.count(A, C::TcpRetransSegs), 0);
    // A super-packet counts as the segments that it stands for.
    let segs = TEN_MB.div_ceil(1448);
    assert!(p.count(A, C::TcpOutSegs) >= segs && p.count(B, C::TcpInSegs) >= segs);
}

#[test]
fn without_sack_timestamps_and_scaling() {
    let off = [
        ("net.ipv4.tcp_sack", "0"),
        ("net.ipv4.tcp_timestamps", "0"),
        ("net.ipv4.tcp_window_scaling", "0"),
    ];
    let fate = Fate { loss: 10, dup: 5, reorder: 10, ..GOOD };
    for n in 1..=3 {
        let p = lossy(30 + n as u64, fate, [2_000_000, 2_000_000], &off[..n]);
        assert!(p.count(A, C::TcpExtTCPRenoRecovery) > 0, "NewReno");
    }
    let reno = [("net.ipv4.tcp_congestion_control", "reno"), off[1]];
    lossy(35, fate, [2_000_000, 2_000_000], &reno);
}

#[test]
fn many_seeds_of_everything() {
    for seed in 100..140 {
        let mut rng = Rng::new(seed);
        let mut one = |most| rng.below(most);
        let fate = Fate {
            delay: 10 * US + one(20 * MS),
            loss: one(80),
            dup: one(50),
            reorder: one(200),
            mtu: 576 + one(2) as u32 * 924,
            offload: one(2) == 0,
        };
        let bytes = [one(300_000), one(300_000)];
        let knobs = [
            ("net.ipv4.tcp_sack", if one(4) == 0 { "0" } else { "1" }),
            ("net.ipv4.tcp_timestamps", if one(4) == 0 { "0" } else { "1" }),
        ];
        lossy(seed, fate, bytes, &knobs);
    }
}

/// One lost segment is repaired by SACK, in about one round trip, without a timeout.
#[test]
fn fast_retransmit_needs_no_timeout() {
    let mut p = Pair::new(40, GOOD);
    let (a, b) = p.connected();
    p.lose = Some(|s| {
        s.from == A && s.len > 0 && s.at < Instant::from_ns(3_020_000_000) && {
            // The eleventh segment, the first time that it is sent.
            thread_local!(static N: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
            N.set(N.get() + 1);
            N.get() == 11
        }
    });
    exchange(&mut p, (a, b), [100_000, 0], 10 * SEC);
    assert_eq!(p.count(A, C::TcpExtTCPFastRetrans), 1);
    assert_eq!((p.count(A, C::TcpExtTCPTimeouts), p.count(A, C::TcpRetransSegs)), (0, 1));
    assert!(p.seen.iter().any(|s| s.from == B && !s.opts.sack.is_empty()));
}

/// The last segment is lost: a probe finds out long before the retransmission timeout (RFC 8985 §7).
#[test]
fn a_lost_tail_is_probed() {
    let mut p = Pair::new(41, GOOD);
    let (a, b) = p.connected();
    p.run(100 * MS);
    p.lose = Some(|s| {
        thread_local!(static N: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
        let data = s.from == A && s.len > 0;
        N.set(N.get() + u32::from(data));
        data && (N.get() == 5 || N.get() == 6)
    });
    let begun = p.now;
    p.shards[A].tcp_send(a, &[1; 5 * 1448 + 1000]).expect("room");
    let want = 5 * 1448 + 1000;
    assert!(p.until(SEC, |p| p.shards[B].tcp_readable(b).is_ok_and(|r| r.bytes == want)));
    assert!(p.now.since(begun) < 20 * MS, "took {} us", p.now.since(begun) / US);
    assert_eq!((p.count(A, C::TcpExtTCPLossProbes), p.count(A, C::TcpExtTCPTimeouts)), (1, 0));
}

/// The window closes when nobody reads, probes keep the connection alive, and it opens again.
#[test]
fn a_closed_window_is_probed_and_opens_again() {
    let mut p = Pair::new(42, GOOD);
    let l = p.listen_as(Listen { port: 80, backlog: 1, rcvbuf: 20_000, ..Listen::default() });
    let (a, b) = p.connect_to(l);
    let mut end = End::new(1 << 20);
    p.until(60 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        false
    });
    assert_eq!(p.tcb(A, a).snd_wnd, 0);
    assert!(p.count(A, C::TcpExtTCPWinProbe) >= 5, "probes");
    assert_eq!(p.count(B, C::TcpExtTCPToZeroWindowAdv), 1);
    assert!(p.tcb(B, b).rcvq.rmem() <= 20_000 + 4096, "the buffer's limit holds");
    // Probes get rarer: never more than 2 in 200 ms, and 60 s of patience cost few of them.
    assert!(p.count(A, C::TcpExtTCPWinProbe) <= 12);
    let mut reader = End::new(0);
    let done = p.until(300 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        reader.eof
    });
    assert!(done && reader.read == 1 << 20, "read {}", reader.read);
    assert!(p.count(B, C::TcpExtTCPFromZeroWindowAdv) >= 1);
}

/// If the ACK that opens the window is lost, the next probe finds out.
#[test]
fn a_lost_window_update_is_found_by_probing() {
    let mut p = Pair::new(43, GOOD);
    let l = p.listen_as(Listen { port: 80, backlog: 1, rcvbuf: 10_000, ..Listen::default() });
    let (a, b) = p.connect_to(l);
    let mut end = End::new(200_000);
    p.until(2 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        false
    });
    assert_eq!(p.tcb(A, a).snd_wnd, 0);
    p.lose = Some(|s| s.from == B);
    let mut reader = End::new(0);
    reader.turn(&mut p.shards[B], b);
    p.run(10 * MS);
    p.lose = None;
    let done = p.until(300 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        reader.eof
    });
    assert!(done && reader.read == 200_000);
}

/// RFC 9293 §3.8.6.3: every second full segment is acknowledged, a single one within 40 ms.
#[test]
fn acknowledgements_are_delayed_but_not_long() {
    let mut p = Pair::new(44, GOOD);
    let (a, b) = p.connected();
    // The first segments are acknowledged at once, to help slow start.
    p.shards[B].tcp_set(b, TcpOpt::QuickAck(false)).expect("set");
    p.run(SEC);
    let begun = p.now;
    p.shards[A].tcp_send(a, b"x").expect("room");
    p.run(SEC);
    let ack = p.last_of(B);
    let late = ack.at.since(begun.plus(MS));
    assert!((40 * MS..=46 * MS).contains(&late), "after {} us", late / US);
    assert_eq!(p.count(B, C::TcpExtDelayedACKs), 1);
    let sent = p.seen.len();
    p.shards[A].tcp_send(a, &[0; 2 * 1448]).expect("room");
    p.run(5 * MS);
    let acks = p.seen[sent..].iter().filter(|s| s.from == B).count();
    assert_eq!(acks, 1, "two full segments, one acknowledgement at once");
}

/// An answer within the delay carries the acknowledgement.
#[test]
fn an_answer_carries_the_acknowledgement() {
    let mut p = Pair::new(45, GOOD);
    let (a, b) = p.connected();
    let mut buf = [0; 100];
    for round in 0..20 {
        let sent = p.seen.len();
        p.shards[A].tcp_send(a, &[7; 64]).expect("room");
        assert!(p.until(SEC, |p| p.shards[B].tcp_recv(b, &mut buf) == Ok(64)));
        p.shards[B].tcp_send(b, &[8; 64]).expect("room");
        assert!(p.until(SEC, |p| p.shards[A].tcp_recv(a, &mut buf) == Ok(64)));
        if round > 0 {
            assert!(p.seen.len() - sent <= 3, "{:#?}", &p.seen[sent..]);
        }
    }
    assert_eq!(p.count(A, C::TcpRetransSegs), 0);
}

/// RFC 9293 §3.7.4: a small segment waits while another is under way, unless Nagle's algorithm is off.
#[test]
fn small_segments_wait_for_each_other() {
    for nodelay in [false, true] {
        let mut p = Pair::new(46, GOOD);
        let (a, _b) = p.connected();
        p.shards[A].tcp_set(a, TcpOpt::NoDelay(nodelay)).expect("set");
        p.run(10 * MS);
        let sent = p.seen.len();
        for _ in 0..5 {
            p.shards[A].tcp_send(a, b"0123456789").expect("room");
            p.run(100 * US);
        }
        let segs = p.seen[sent..].iter().filter(|s| s.from == A && s.len > 0).count();
        assert_eq!(segs, if nodelay { 5 } else { 1 });
    }
}

/// The receive buffer grows with what the application takes in a round trip, the send buffer with
/// the congestion window: a long fat path is filled from the defaults.
#[test]
fn buffers_grow_to_fill_a_long_path() {
    let mut p = Pair::new(47, Fate { delay: 25 * MS, ..GOOD });
    p.watch = false;
    let (a, b) = p.connected();
    assert!(p.tcb(A, a).sndbuf < 100_000 && p.tcb(B, b).rcvbuf <= 131_072);
    let took = exchange(&mut p, (a, b), [20_000_000, 0], 300 * SEC);
    // Twenty megabytes at 50 ms with a window of 64 KiB would take 15 s.
    assert!(took < 5 * SEC, "took {} ms", took / MS);
}

/// Data queued before the handshake is over is sent after it; the whole chunk is never copied.
#[test]
fn chunks_are_sent_as_they_are() {
    let mut p = Pair::new(48, GOOD);
    let l = p.listen(80);
    let a = p.connect(80);
    let mut chunk = p.shards[A].take_chunk(65536);
    let n = chunk.spare_mut().map_or(0, |s| {
        for (i, b) in s.iter_mut().enumerate() {
            *b = pattern(i as u64);
        }
        s.len()
    });
    chunk.fill(n);
    p.shards[A].tcp_send_chunk(a, chunk).map_err(|e| e.1).expect("room");
    assert_eq!(p.shards[A].tcp_queued(a), 65536);
    let mut b = None;
    let mut reader = End::new(0);
    reader.shut = true;
    let done = p.until(10 * SEC, |p| {
        b = b.or_else(|| p.shards[B].tcp_accept(l));
        if let Some(b) = b {
            reader.turn(&mut p.shards[B], b);
        }
        reader.read == 65536
    });
    assert!(done);
    p.run(SEC);
    assert_eq!((p.shards[A].tcp_queued(a), p.tcb(A, a).sndq.wmem()), (0, 0));
}

/// After a timeout that was not needed the window comes back (Eifel, RFC 3522 and 4015).
#[test]
fn a_spurious_timeout_is_undone() {
    let mut p = Pair::new(49, Fate { delay: 20 * MS, ..GOOD });
    let (a, b) = p.connected();
    let mut end = End::new(u64::MAX / 2);
    let mut reader = End::new(0);
    reader.shut = true;
    p.until(SEC, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        false
    });
    let before = p.tcb(A, a).snd_cwnd;
    // Nothing is lost, but for a while everything takes a second.
    p.fate.delay = SEC;
    p.until(600 * MS, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        false
    });
    assert_eq!(p.tcb(A, a).ca_state, CaState::Loss);
    p.fate.delay = 20 * MS;
    p.until(2 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        false
    });
    let after = p.tcb(A, a).snd_cwnd;
    assert!(p.tcb(A, a).ca_state <= CaState::Disorder);
    assert!(after >= before, "{before} before, {after} after");
}

/// A buffer of less than a segment, without scaling: a window that was closed opens again once all was read,
/// though it never has room for a segment.
#[test]
fn a_window_of_less_than_a_segment_opens_again() {
    let mut p = Pair::new(50, GOOD);
    p.shards[B].set_knob("net.ipv4.tcp_window_scaling", "0").expect("a switch");
    let (a, b) = p.connected();
    p.shards[B].tcp_set(b, TcpOpt::RcvBufForce(2304)).expect("an option");
    let Shard { net, tcp, .. } = &mut p.shards[B];
    let tp = tcp.conns.at_mut(b.index).expect("it is open");
    (tp.rcv_mss, tp.rcv_wnd, tp.rcv_ssthresh) = (1460, 0, 900);
    let full = tp.rcvq.win_from_space(2304);
    assert!(full > 900 && full < u32::from(tp.rcv_mss), "{full}");
    assert_eq!(tp.select_window(net), 900);
    exchange(&mut p, (a, b), [200_000, 0], 600 * SEC);
}
