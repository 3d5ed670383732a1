use super::*;
use crate::table::count::Counter as C;
use crate::tcp::State;

/// RFC 7323 §5: a segment with an old timestamp is dropped and answered.
#[test]
fn drop_tcp_paws() {
    let mut p = Pair::new(80, GOOD);
    let (a, b) = p.connected();
    p.run(100 * MS);
    p.shards[A].tcp_send(a, b"now").expect("room");
    p.run(100 * MS);
    let tp = p.tcb(B, b);
    let (ports, seq, ack, recent) =
        ((tp.tuple.rport, 80), tp.rcv_nxt.0, tp.snd_nxt.0, tp.ts_recent);
    let opts = TcpOptions { ts: Some((recent.wrapping_sub(100_000), 0)), ..TcpOptions::NONE };
    let flags = TcpFlags::ACK | TcpFlags::PSH;
    p.inject(B, ports, Forged { seq, ack, flags, window: 500, opts, data: b"then" });
    assert_eq!((p.drops(B, Reason::TcpPaws), p.count(B, C::TcpExtPAWSEstab)), (1, 1));
    assert_eq!(p.shards[B].tcp_readable(b).map(|r| r.bytes), Ok(3));
    p.run(MS / 2);
    assert_eq!(p.last_of(B).hdr.ack, seq, "the peer is told what is expected");
}

/// RFC 5961: resets and SYNs that only lie in the window are questioned, at a limited rate.
#[test]
fn guesses_are_challenged_at_a_limited_rate() {
    let mut p = Pair::new(81, GOOD);
    p.shards[B].set_knob("net.ipv4.tcp_challenge_ack_limit", "10").expect("a knob");
    p.shards[B].set_knob("net.ipv4.tcp_invalid_ratelimit", "0").expect("a knob");
    let (_, b) = p.connected();
    p.run(100 * MS);
    let tp = p.tcb(B, b);
    let (ports, nxt, ack) = ((tp.tuple.rport, 80), tp.rcv_nxt.0, tp.snd_nxt.0);
    for i in 0..50u32 {
        let rst = Forged { seq: nxt + 1 + i, flags: TcpFlags::RST, ..Forged::default() };
        p.inject(B, ports, rst);
        let syn = Forged { seq: nxt + i, ack, flags: TcpFlags::SYN, ..Forged::default() };
        p.inject(B, ports, syn);
    }
    let sent = p.count(B, C::TcpExtTCPChallengeACK);
    assert!((5..=15).contains(&sent), "{sent} challenges in a second with a limit of 10");
    assert_eq!(p.count(B, C::TcpExtTCPSYNChallenge), 50);
    assert_eq!(p.tcb(B, b).state, State::Established);
    // Far outside the window nothing is answered at all.
    let before = p.count(B, C::TcpOutSegs);
    let rst = Forged { seq: nxt.wrapping_add(1 << 30), flags: TcpFlags::RST, ..Forged::default() };
    p.inject(B, ports, rst);
    assert_eq!((p.count(B, C::TcpOutSegs), p.drops(B, Reason::TcpInvalidSequence)), (before, 1));
    let rst = Forged { seq: nxt, flags: TcpFlags::RST, ..Forged::default() };
    p.inject(B, ports, rst);
    assert_eq!(p.tcb(B, b).state, State::Close);
}

/// RFC 5961 §5: an acknowledgement of what was never sent, or of long ago, changes nothing.
#[test]
fn drop_tcp_invalid_ack() {
    let mut p = Pair::new(82, GOOD);
    let (_, b) = p.connected();
    p.run(100 * MS);
    let tp = p.tcb(B, b);
    let (ports, seq, una, ts) = ((tp.tuple.rport, 80), tp.rcv_nxt.0, tp.snd_una, tp.ts_recent);
    let opts = TcpOptions { ts: Some((ts, 0)), ..TcpOptions::NONE };
    for ack in [una.0.wrapping_add(1000), una.0.wrapping_sub(1 << 30)] {
        let data = b"evil";
        p.inject(B, ports, Forged { seq, ack, flags: TcpFlags::ACK, window: 9, opts, data });
    }
    assert_eq!(p.drops(B, Reason::TcpInvalidAck), 2);
    assert_eq!((p.tcb(B, b).snd_una, p.shards[B].tcp_readable(b).map(|r| r.bytes)), (una, Ok(0)));
}

/// An acknowledgement inside a segment, then a smaller MSS: what is under way is counted anew, so
/// that in the end nothing is, and the timer is set for what is sent next.
#[test]
fn a_part_of_a_segment_is_acknowledged_before_the_mss_shrinks() {
    let mut p = Pair::new(86, Fate { offload: true, ..GOOD });
    let (a, _) = p.connected();
    p.run(100 * MS);
    let tp = p.tcb(A, a);
    let (lport, seq, una, ts, mss) =
        (tp.tuple.lport, tp.rcv_nxt.0, tp.snd_una.0, tp.ts_recent, tp.mss_cache as usize);
    p.lose = Some(|_| true);
    p.shards[A].tcp_send(a, &vec![7; 2 * mss + 10]).expect("room");
    p.run(MS);
    assert_eq!(p.tcb(A, a).packets_out, 3);
    let opts = TcpOptions { ts: Some((ts, 0)), ..TcpOptions::NONE };
    let ack = una + mss as u32 - 8;
    let flags = TcpFlags::ACK;
    p.inject(A, (80, lport), Forged { seq, ack, flags, window: 500, opts, data: b"" });
    assert_eq!(p.tcb(A, a).snd_una.0, ack);
    let tp = p.shards[A].tcp.conns.get_mut(a.index, a.generation).expect("it is open");
    tp.mss_cache -= 12;
    // The first bytes never came, whatever the peer was made to say: only A's view counts.
    p.run(3 * SEC);
    let tp = p.tcb(A, a);
    let (out, rtx) = (tp.packets_out, tp.sndq.rtx.iter().map(|t| t.segs as u32).sum::<u32>());
    assert_eq!(out, rtx, "what is counted is what is there");
    assert!(tp.total_retrans > 0);
}

/// What came too early is kept up to the buffer's size, in whatever pieces it comes.
#[test]
fn early_data_is_bounded() {
    let mut p = Pair::new(83, GOOD);
    // As in Linux the buffer follows what comes, up to the third value.
    p.shards[B].set_knob("net.ipv4.tcp_rmem", "4096 131072 400000").expect("a knob");
    p.watch = false;
    p.lose = Some(|_| true);
    let (_, b) = {
        let mut lose = None;
        std::mem::swap(&mut p.lose, &mut lose);
        let ends = p.connected();
        p.lose = lose;
        ends
    };
    let tp = p.tcb(B, b);
    let (ports, nxt, ack, ts) = ((tp.tuple.rport, 80), tp.rcv_nxt.0, tp.snd_nxt.0, tp.ts_recent);
    let rcvbuf = 400_000;
    let opts = TcpOptions { ts: Some((ts, 0)), ..TcpOptions::NONE };
    for i in 0..20_000u32 {
        let seq = nxt.wrapping_add(2 + i * 3 % 60_000);
        p.inject(B, ports, Forged { seq, ack, flags: TcpFlags::ACK, window: 9, opts, data: b"x" });
    }
    assert!(p.tcb(B, b).rcvq.rmem() <= rcvbuf + 4096);
    assert!(p.drops(B, Reason::TcpOfoDrop) + p.drops(B, Reason::TcpOfoPrune) > 0);
    // The gap is filled, and the stream goes on.
    let data = [b'y'; 2];
    p.inject(
        B,
        ports,
        Forged { seq: nxt, ack, flags: TcpFlags::ACK, window: 9, opts, data: &data },
    );
    assert!(p.shards[B].tcp_readable(b).is_ok_and(|r| r.bytes >= 2));
}

/// Arbitrary segments in all states: no panic, nothing unaccounted, nothing left in the end.
#[test]
fn arbitrary_segments_do_no_harm() {
    for seed in 0..60 {
        let mut p = Pair::new(1000 + seed, Fate { loss: 100, dup: 50, reorder: 100, ..GOOD });
        p.watch = false;
        let l = p.listen(80);
        let mut conns: Vec<(usize, SocketId)> = vec![(A, p.connect(80))];
        let mut buf = vec![0; 3000];
        for _ in 0..300 {
            let roll = p.rng.below(12);
            let pick = p.rng.below(conns.len() as u64) as usize;
            let (side, id) = conns[pick];
            match roll {
                0 => {
                    let n = p.rng.below(3000) as usize;
                    let _ = p.shards[side].tcp_send(id, &buf[..n]);
                }
                1 => drop(p.shards[side].tcp_recv(id, &mut buf)),
                2 if p.rng.below(8) == 0 => p.shards[side].tcp_shutdown(id),
                3 if p.rng.below(16) == 0 => p.shards[side].tcp_close(id),
                4 if conns.len() < 12 => conns.push((A, p.connect(80))),
                5 => conns.extend(p.shards[B].tcp_accept(l).map(|id| (B, id))),
                6 | 7 => {
                    let ns = p.rng.below(300 * MS);
                    p.run(ns);
                }
                _ => storm(&mut p, side, id),
            }
        }
        for (side, id) in conns {
            p.shards[side].tcp_abort(id);
        }
        p.shards[B].tcp_close(l);
        p.fate = GOOD;
        p.run(3600 * SEC);
        for shard in &p.shards {
            let tcp = &shard.tcp;
            assert_eq!((tcp.conns.len(), tcp.reqs.len(), tcp.tws.len()), (0, 0, 0), "seed {seed}");
            assert_eq!((tcp.demux_len(), tcp.mem, tcp.orphans, tcp.hashed), (0, 0, 0, 0));
            assert_eq!(shard.net.pool.small_out(), 0, "all packets came back, seed {seed}");
        }
    }
}

/// A few forged segments near what a connection expects.
fn storm(p: &mut Pair, side: usize, id: SocketId) {
    let Some(tp) = p.shards[side].tcp.conns.get(id.index, id.generation) else { return };
    let (ports, rcv, snd, una) =
        ((tp.tuple.rport, tp.tuple.lport), tp.rcv_nxt.0, tp.snd_nxt.0, tp.snd_una.0);
    let ts = tp.ts_recent;
    let near = |p: &mut Pair, x: u32| match p.rng.below(6) {
        0 => x,
        1 => x.wrapping_sub(p.rng.below(5000) as u32),
        2 => x.wrapping_add(p.rng.below(70_000) as u32),
        3 => p.rng.next_u32(),
        _ => x.wrapping_add(p.rng.below(2000) as u32),
    };
    let data = [0x5a; 1400];
    for _ in 0..4 {
        let seq = near(p, rcv);
        let base = if p.rng.below(2) == 0 { snd } else { una };
        let ack = near(p, base);
        let mut opts = TcpOptions::NONE;
        if p.rng.below(4) > 0 {
            let val = near(p, ts);
            opts.ts = Some((val, p.rng.next_u32()));
        }
        for _ in 0..p.rng.below(4) {
            let (l, r) = (near(p, una), near(p, snd));
            opts.sack.push(l, r);
        }
        let bits = p.rng.next_u32() as u8;
        let flags = match p.rng.below(4) {
            0 => TcpFlags(bits),
            1 => TcpFlags::ACK | TcpFlags::FIN,
            _ => TcpFlags::ACK,
        };
        let n = if p.rng.below(2) == 0 { 0 } else { p.rng.below(1400) as usize };
        let window = p.rng.next_u32() as u16;
        p.inject(side, ports, Forged { seq, ack, flags, window, opts, data: &data[..n] });
    }
}

/// Headers that lie about their length, and packets cut anywhere.
#[test]
fn drop_tcp_hdr() {
    let mut p = Pair::new(84, GOOD);
    let (a, b) = p.connected();
    let tp = p.tcb(B, b);
    let ports = (tp.tuple.rport, 80);
    let (src, dst) = (p.addr(A), p.addr(B));
    let opts = TcpOptions { ts: Some((1, 2)), ..TcpOptions::NONE };
    let whole = forge(src, dst, ports, &Forged { flags: TcpFlags::ACK, opts, ..Forged::default() });
    for len in 20..whole.len() {
        for doff in [0u8, 4, 5, 8, 15] {
            let mut bytes = whole[..len].to_vec();
            if let Some(b) = bytes.get_mut(32) {
                *b = doff << 4;
            }
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            bytes[10..12].copy_from_slice(&[0, 0]);
            let sum = linerate_arch::csum::csum_partial(&bytes[..20], 0);
            let sum = linerate_arch::csum::csum_fold(sum);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            p.deliver(B, Frame { bytes, csum: Csum::None, gso: None });
            p.check();
        }
    }
    let drops = p.drops(B, Reason::TcpHdr) + p.drops(B, Reason::TcpCsum);
    assert_eq!(drops, (whole.len() as u64 - 20) * 5);
    exchange(&mut p, (a, b), [1000, 1000], 10 * SEC);
}

/// An idle connection costs little, and nothing that was large stays with it.
#[test]
fn an_idle_connection_is_small() {
    let mut p = Pair::new(85, Fate { offload: true, ..GOOD });
    p.watch = false;
    let (a, b) = p.connected();
    let mut end = End::new(3 << 20);
    end.shut = true;
    let mut reader = End::new(0);
    reader.shut = true;
    p.until(60 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        end.shut = true;
        reader.turn(&mut p.shards[B], b);
        reader.read == 3 << 20
    });
    p.run(10 * SEC);
    let fixed = crate::sock::Arena::<Tcb>::PLACE + 24 + 16;
    assert!(fixed <= 1024 + 16, "{fixed} bytes");
    for (side, id) in [(A, a), (B, b)] {
        let tp = p.tcb(side, id);
        let queues = tp.sndq.capacity_bytes() + tp.rcvq.capacity_bytes();
        assert!(queues + fixed <= 4096, "side {side}: {queues} bytes of empty queues");
        assert_eq!((tp.sndq.wmem(), tp.rcvq.rmem()), (0, 0));
    }
}
