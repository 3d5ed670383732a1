//! Options as Linux has them: ranges, errors, defaults, and that each does what it says.

use super::*;
use crate::sock::error::TcpError;
use crate::table::count::Counter as C;
use crate::tcp::api::SendMsg;
use crate::tcp::{OptName, State, TcpInfo, TcpOpt};

/// A level, an option, and for values what they become; negative is an errno.
type Asked = (i32, i32, &'static [(i32, i32)]);

const TCP: i32 = 6;
const SOCKET: i32 = 1;

/// What a socket that is not open answers after an option was set by its number; the errno if it
/// was not.
fn set_and_get(shard: &mut Shard, level: i32, name: i32, value: i32) -> i32 {
    let got = TcpOpt::from_linux(level, name, value).and_then(|opt| {
        let read = OptName::from_linux(level, name).ok_or(TcpError::NoOption)?;
        shard.tcp_get_unopened(&[opt], read)
    });
    got.map_or_else(|err| -err.errno(), TcpOpt::to_linux)
}

/// What Linux 6.18 answers, asked of it by a program that set each value and read it back.
#[test]
fn options_have_the_ranges_of_linux() {
    let mut shard = Shard::new(1);
    let asked: &[Asked] = &[
        (TCP, 1, &[(-1, 1), (0, 0), (2, 1)]),
        (TCP, 2, &[(-1, -22), (0, 536), (87, -22), (88, 88), (32767, 32767), (32768, -22)]),
        (TCP, 3, &[(-1, 1), (0, 0), (1, 1)]),
        (TCP, 4, &[(-1, -22), (0, -22), (1, 1), (32767, 32767), (32768, -22)]),
        (TCP, 5, &[(-1, -22), (0, -22), (1, 1), (32767, 32767), (32768, -22)]),
        (TCP, 6, &[(-1, -22), (0, -22), (1, 1), (127, 127), (128, -22)]),
        (TCP, 7, &[(-1, -22), (0, -22), (1, 1), (127, 127), (128, -22)]),
        (TCP, 8, &[(-1, -1), (-9, -1), (0, 60), (1, 1), (120, 120), (127, 120), (65535, 120)]),
        (
            TCP,
            9,
            &[(-1, 0), (0, 0), (1, 1), (2, 3), (87, 127), (127, 127), (128, 247), (1151, 1207)],
        ),
        (TCP, 9, &[(32767, 29887), (65535, 29887)]),
        (TCP, 10, &[(-1, 1152), (0, 0), (1, 1152), (1153, 1153), (65535, 65535)]),
        (TCP, 12, &[(-1, 1), (0, 0), (1, 1)]),
        (TCP, 18, &[(-1, -22), (0, 0), (65535, 65535)]),
        (TCP, 25, &[(-1, -1), (0, 0), (65535, 65535)]),
        (TCP, 36, &[(-1, -22), (0, 0), (1, 1), (2, -22)]),
        (SOCKET, 7, &[(0, 4608), (1000, 4608), (5000, 10000)]),
        (SOCKET, 8, &[(0, 2304), (1000, 2304), (5000, 10000)]),
        (SOCKET, 18, &[(0, 1), (1, 1), (5000, 5000)]),
    ];
    for (level, name, cases) in asked {
        for (value, answer) in *cases {
            let got = set_and_get(&mut shard, *level, *name, *value);
            assert_eq!(got, *answer, "level {level}, option {name}, set to {value}");
        }
    }
    // Without limits of its own kind: what the knobs allow.
    let most = 2 * shard.net.knobs.rmem_max as i32;
    assert_eq!(set_and_get(&mut shard, SOCKET, 8, -1), most);
    assert_eq!(set_and_get(&mut shard, SOCKET, 8, i32::MAX), most);
    let half = shard.net.knobs.tcp_rmem[2] as i32 / 2;
    assert_eq!(set_and_get(&mut shard, SOCKET, 18, -1), half);
    assert_eq!(set_and_get(&mut shard, TCP, 99, 1), -92, "ENOPROTOOPT");
    let gone = SocketId { kind: crate::sock::SockKind::Tcp, index: 9, generation: 9 };
    assert_eq!(shard.tcp_get(gone, OptName::Cork), Err(TcpError::NotConnected));
}

#[test]
fn options_begin_as_in_linux() {
    let mut shard = Shard::new(1);
    let begin = [
        (OptName::NoDelay, 0),
        (OptName::MaxSeg, 536),
        (OptName::Cork, 0),
        (OptName::SoKeepAlive, 0),
        (OptName::KeepIdle, 7200),
        (OptName::KeepIntvl, 75),
        (OptName::KeepCnt, 9),
        (OptName::SynCnt, 6),
        (OptName::Linger2, 60),
        (OptName::DeferAccept, 0),
        (OptName::WindowClamp, 0),
        (OptName::QuickAck, 1),
        (OptName::UserTimeout, 0),
        (OptName::NotsentLowat, 0),
        (OptName::Inq, 0),
        (OptName::RcvLowat, 1),
        (OptName::SndBuf, 16384),
        (OptName::RcvBuf, 131072),
    ];
    for (name, value) in begin {
        assert_eq!(shard.tcp_get_unopened(&[], name).map(TcpOpt::to_linux), Ok(value), "{name:?}");
    }
    assert_eq!(shard.tcp_get_unopened(&[], OptName::Linger), Ok(TcpOpt::Linger(None)));
}

/// What a listener was given its connections have, and they are opened with it.
#[test]
fn connections_have_what_their_listener_had() {
    let mut p = Pair::new(300, GOOD);
    let l = p.listen(80);
    let given = [
        TcpOpt::NoDelay(true),
        TcpOpt::SoKeepAlive(true),
        TcpOpt::KeepIdle(11),
        TcpOpt::UserTimeout(7000),
        TcpOpt::MaxSeg(700),
        TcpOpt::MaxSeg(600),
        TcpOpt::RcvBuf(20_000),
        TcpOpt::User(99),
    ];
    for opt in given {
        p.shards[B].tcp_set(l, opt).expect("in range");
    }
    assert_eq!(p.shards[B].tcp_set(l, TcpOpt::KeepIdle(0)), Err(TcpError::Invalid));
    assert_eq!(p.shards[B].tcp_get(l, OptName::MaxSeg), Ok(TcpOpt::MaxSeg(600)));
    let (a, b) = p.connect_to(l);
    let synack = p.seen.iter().find(|s| s.from == B).expect("a SYN-ACK");
    assert_eq!(synack.opts.mss, Some(600));
    for (name, value) in [
        (OptName::NoDelay, TcpOpt::NoDelay(true)),
        (OptName::SoKeepAlive, TcpOpt::SoKeepAlive(true)),
        (OptName::KeepIdle, TcpOpt::KeepIdle(11)),
        (OptName::KeepIntvl, TcpOpt::KeepIntvl(75)),
        (OptName::UserTimeout, TcpOpt::UserTimeout(7000)),
        (OptName::RcvBuf, TcpOpt::RcvBuf(40_000)),
    ] {
        assert_eq!(p.shards[B].tcp_get(b, name), Ok(value));
    }
    assert_eq!(p.tcb(B, b).user, 99);
    for (i, id) in [(A, a), (B, b)] {
        let mss = p.shards[i].tcp_get(id, OptName::MaxSeg).expect("it lives");
        assert_eq!(mss, TcpOpt::MaxSeg(600 - 12), "the timestamp is not payload");
    }
    exchange(&mut p, (a, b), [50_000, 50_000], 60 * SEC);
    assert!(p.seen.iter().all(|s| s.len <= 588 || s.gso.is_some_and(|g| g.size <= 588)));
}

/// A connection is opened with options that were given before: they are in its SYN.
#[test]
fn a_connection_is_opened_with_its_options() {
    let mut p = Pair::new(301, GOOD);
    p.listen(80);
    let remote = p.at(B, 80);
    let connect = Connect { local: None, remote, user: 0 };
    let opts = [TcpOpt::MaxSeg(1000), TcpOpt::WindowClamp(9000), TcpOpt::RcvBuf(65_536)];
    let a = p.shards[A].tcp_connect_with(connect, &opts).expect("it connects");
    p.run(50 * MS);
    let syn = p.seen.first().expect("a SYN").clone();
    assert_eq!((syn.opts.mss, syn.opts.wscale, syn.hdr.window), (Some(1000), Some(0), 9000));
    assert_eq!(p.tcb(A, a).state, State::Established);
    let bad = p.shards[A].tcp_connect_with(connect, &[TcpOpt::SynCnt(128)]);
    assert_eq!(bad, Err(TcpError::Invalid));
}

/// The window never says more than its clamp, however large the buffer.
#[test]
fn the_window_is_clamped() {
    let mut p = Pair::new(302, GOOD);
    let (a, b) = p.connected();
    p.shards[B].tcp_set(b, TcpOpt::WindowClamp(20_000)).expect("set");
    assert_eq!(p.shards[B].tcp_set(b, TcpOpt::WindowClamp(0)), Err(TcpError::Invalid));
    let begun = p.seen.len();
    exchange(&mut p, (a, b), [2_000_000, 0], 600 * SEC);
    let scale = p.tcb(B, b).rcv_wscale;
    let most = p.seen[begun + 200..].iter().filter(|s| s.from == B);
    let most = most.map(|s| u32::from(s.hdr.window) << scale).max().expect("acknowledgements");
    assert!((10_000..=20_000 + (1 << scale)).contains(&most), "{most}");
}

#[test]
fn syns_are_sent_as_often_as_the_option_says() {
    let mut p = Pair::new(303, GOOD);
    p.lose = Some(|_| true);
    p.tick();
    let connect = Connect { local: None, remote: p.at(B, 80), user: 0 };
    let a = p.shards[A].tcp_connect_with(connect, &[TcpOpt::SynCnt(2)]).expect("it tries");
    p.until(4000 * SEC, |p| p.shards[A].tcp_error(a).is_some());
    // By then the seven seconds are over that two tries which double take; those of
    // `tcp_syn_linear_timeouts` come beside.
    assert_eq!(p.count(A, C::TcpExtTCPSynRetrans), 5);
}

/// How long a partial segment that is held back waits, and that it then goes.
fn waits(hold: impl Fn(&mut Pair, SocketId)) -> u64 {
    let mut p = Pair::new(304, GOOD);
    let (a, b) = p.connected();
    hold(&mut p, a);
    let begun = p.now;
    assert!(p.until(10 * SEC, |p| p.shards[B].tcp_readable(b).is_ok_and(|r| r.bytes == 3)));
    assert_eq!(p.count(A, C::TcpExtTCPWinProbe), 0, "data is no probe");
    p.now.since(begun) / MS
}

#[test]
fn cork_holds_for_two_hundred_milliseconds() {
    let corked = waits(|p, a| {
        p.shards[A].tcp_set(a, TcpOpt::Cork(true)).expect("set");
        p.shards[A].tcp_send(a, b"abc").expect("room");
    });
    assert!((200..=250).contains(&corked), "{corked}");
    let more = SendMsg { more: true, ..SendMsg::default() };
    let announced = waits(|p, a| {
        assert_eq!(p.shards[A].tcp_sendmsg(a, b"abc", more), Ok(3));
    });
    assert!((200..=250).contains(&announced), "{announced}");
    let ended = waits(|p, a| {
        p.shards[A].tcp_sendmsg(a, b"ab", more).expect("room");
        p.run(20 * MS);
        p.shards[A].tcp_send(a, b"c").expect("room");
    });
    assert!(ended < 100, "{ended}");
}

/// Without an end of record both parts share a segment.
#[test]
fn records_are_not_merged() {
    for (eor, lens) in [(false, vec![300]), (true, vec![100, 200])] {
        let mut p = Pair::new(305, GOOD);
        let (a, b) = p.connected();
        p.shards[A].tcp_set(a, TcpOpt::NoDelay(true)).expect("set");
        let begun = p.seen.len();
        let msg = SendMsg { eor, ..SendMsg::default() };
        p.shards[A].tcp_sendmsg(a, &[1; 100], msg).expect("room");
        p.shards[A].tcp_sendmsg(a, &[2; 200], msg).expect("room");
        p.run(100 * MS);
        let sent = p.seen[begun..].iter().filter(|s| s.from == A && s.len > 0);
        let got: Vec<usize> = sent.clone().map(|s| s.len).collect();
        assert_eq!(got, lens);
        assert!(sent.clone().all(|s| s.hdr.flags.any(TcpFlags::PSH)), "each is pushed");
        assert_eq!(p.shards[B].tcp_readable(b).expect("open").bytes, 300);
    }
}

/// Records stay apart when they are sent again, and the stream is whole.
#[test]
fn records_survive_loss() {
    let mut p = Pair::new(306, Fate { loss: 50, reorder: 50, ..GOOD });
    let (a, b) = p.connected();
    let msg = SendMsg { eor: true, ..SendMsg::default() };
    let (mut sent, mut got) = (0u64, Vec::new());
    p.until(600 * SEC, |p| {
        while sent < 300 {
            let len = 1 + (sent as usize * 37) % 3000;
            if p.shards[A].tcp_send_space(a) < len {
                break;
            }
            p.shards[A].tcp_sendmsg(a, &vec![sent as u8; len], msg).expect("room");
            sent += 1;
        }
        let mut buf = [0; 65536];
        while let Ok(n) = p.shards[B].tcp_recv(b, &mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        sent == 300 && p.shards[A].tcp_queued(a) == 0
    });
    let want: Vec<u8> =
        (0..300u64).flat_map(|i| vec![i as u8; 1 + (i as usize * 37) % 3000]).collect();
    assert_eq!(got.len(), want.len());
    assert!(got == want, "the stream is whole");
    assert!(p.tcb(A, a).opts().is_some_and(|o| o.record_ends.len() <= 300));
}

/// The application is told once as much as it asked for has come, or the end.
#[test]
fn a_reader_is_told_when_enough_has_come() {
    let mut p = Pair::new(307, GOOD);
    let (a, b) = p.connected();
    p.ready(B, b);
    p.shards[B].tcp_set(b, TcpOpt::RcvLowat(1000)).expect("set");
    for (bytes, told) in [(400, false), (400, false), (400, true)] {
        p.shards[A].tcp_send(a, &vec![0; bytes]).expect("room");
        p.run(100 * MS);
        assert_eq!(p.ready(B, b).0 & Ready::IN.0 > 0, told);
    }
    p.shards[B].tcp_recv(b, &mut [0; 2000]).expect("data");
    p.shards[A].tcp_send(a, &[0; 10]).expect("room");
    p.run(100 * MS);
    assert_eq!(p.ready(B, b).0 & Ready::IN.0, 0);
    assert_eq!(p.shards[B].tcp_inq(b), 10);
    p.shards[A].tcp_shutdown(a);
    p.run(100 * MS);
    assert!(p.ready(B, b).0 & Ready::IN.0 > 0, "the end is always told");
}

/// Bytes of a packet that begins while there is room: half of what the peer's window ever was.
const PACKET: u32 = 32 * 1448;

/// What may wait unsent is bounded apart from what is under way, but for the packet that begins below the bound, and
/// the application is told when half of it is free.
fn unsent_at_most(set: impl Fn(&mut Pair, SocketId)) -> u32 {
    let mut p = Pair::new(308, Fate { delay: 20 * MS, ..GOOD });
    let (a, _) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::SndBufForce(1_000_000)).expect("set");
    set(&mut p, a);
    let mut most = 0;
    let (mut told, mut room) = (0, true);
    p.until(5 * SEC, |p| {
        while room && p.shards[A].tcp_send(a, &[0; 4000]).is_ok() {}
        most = most.max(p.shards[A].tcp_info(a).map_or(0, |i| i.notsent_bytes));
        room = p.ready(A, a).0 & Ready::OUT.0 > 0;
        told += u32::from(room);
        p.shards[A].tcp_info(a).is_some_and(|i| i.bytes_acked > 100_000)
    });
    assert!(told > 2, "room is told of: {told}");
    most
}

#[test]
fn knob_net_ipv4_tcp_notsent_lowat() {
    let by_knob = unsent_at_most(|p, _| {
        p.shards[A].set_knob("net.ipv4.tcp_notsent_lowat", "16384").expect("in range");
    });
    assert!((8000..16_384 + PACKET).contains(&by_knob), "{by_knob}");
    let by_option = unsent_at_most(|p, a| {
        p.shards[A].tcp_set(a, TcpOpt::NotsentLowat(30_000)).expect("set");
    });
    assert!((20_000..30_000 + PACKET).contains(&by_option), "{by_option}");
}

#[test]
fn a_close_without_linger_resets() {
    let mut p = Pair::new(309, GOOD);
    let (a, b) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::Linger(Some(0))).expect("set");
    p.shards[A].tcp_close(a);
    p.run(100 * MS);
    assert_eq!(p.shards[B].tcp_error(b), Some(TcpError::Reset));
    assert_eq!(p.count(A, C::TcpExtTCPAbortOnData), 1);
    assert_eq!(p.shards[B].tcp_take_error(b), Some(TcpError::Reset));
    assert_eq!(p.shards[B].tcp_take_error(b), None, "told once");
}

/// A lingering close waits as long as something is on its way.
#[test]
fn a_lingering_close_can_be_waited_for() {
    let mut p = Pair::new(310, GOOD);
    let (a, _) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::Linger(Some(5))).expect("set");
    assert_eq!(p.shards[A].tcp_get(a, OptName::Linger), Ok(TcpOpt::Linger(Some(5))));
    p.shards[A].tcp_send(a, b"last words").expect("room");
    assert!(!p.shards[A].tcp_closing(a));
    p.shards[A].tcp_close(a);
    assert!(p.shards[A].tcp_closing(a));
    p.run(100 * MS);
    assert!(!p.shards[A].tcp_closing(a), "it was acknowledged");
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map(u32::from_ne_bytes).expect("four bytes")
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].try_into().map(u64::from_ne_bytes).expect("eight bytes")
}

/// The record lies as the kernel's headers say (offsets by a C program).
#[test]
fn the_record_is_laid_out_as_the_kernel_has_it() {
    let mut p = Pair::new(311, Fate { delay: 10 * MS, loss: 20, ..GOOD });
    let (a, b) = p.connected();
    exchange(&mut p, (a, b), [400_000, 0], 600 * SEC);
    let info = p.shards[A].tcp_info(a).expect("it lives");
    let raw = info.to_bytes();
    assert_eq!(raw.len(), 280);
    assert_eq!((raw[0], raw[1], raw[5]), (info.state as u8, info.ca_state, 7));
    assert_eq!((raw[6] & 15, raw[6] >> 4), (info.snd_wscale, info.rcv_wscale));
    assert_eq!((u32_at(&raw, 8), u32_at(&raw, 16)), (info.rto, info.snd_mss));
    assert_eq!((u32_at(&raw, 68), u32_at(&raw, 72)), (info.rtt, info.rttvar));
    assert_eq!((u32_at(&raw, 80), u32_at(&raw, 84)), (info.snd_cwnd, info.advmss));
    assert_eq!(u32_at(&raw, 100), info.total_retrans);
    assert_eq!(u64_at(&raw, 112), u64::MAX, "no limit of the rate");
    assert_eq!((u64_at(&raw, 120), u64_at(&raw, 128)), (info.bytes_acked, info.bytes_received));
    assert_eq!((u32_at(&raw, 148), u32_at(&raw, 156)), (info.min_rtt, info.data_segs_out));
    assert_eq!(u64_at(&raw, 168), info.busy_time);
    assert_eq!((u32_at(&raw, 192), u64_at(&raw, 200)), (info.delivered, info.bytes_sent));
    assert_eq!((u32_at(&raw, 228), u32_at(&raw, 232)), (info.snd_wnd, info.rcv_wnd));
}

/// The figures of a transfer with loss add up, at both ends.
#[test]
fn the_record_tells_what_happened() {
    let mut p = Pair::new(312, Fate { delay: 10 * MS, loss: 20, ..GOOD });
    let (a, b) = p.connected();
    let begun = p.now;
    exchange(&mut p, (a, b), [400_000, 0], 600 * SEC);
    let took_us = p.now.since(begun) / US;
    let from = p.shards[A].tcp_info(a).expect("it lives");
    let to = p.shards[B].tcp_info(b).expect("it lives");
    assert_eq!(from.bytes_sent - from.bytes_retrans, 400_000);
    assert_eq!(to.bytes_received, 400_000);
    assert!(from.data_segs_out >= 276 && from.data_segs_out <= from.segs_out);
    assert!(to.data_segs_in > 270 && to.data_segs_in <= from.data_segs_out);
    assert!(to.rcv_ooopack > 0 && from.total_retrans > 0);
    assert!(from.busy_time > 0 && from.busy_time <= took_us + 1000, "{}", from.busy_time);
    assert!((20_000..30_000).contains(&from.min_rtt), "{}", from.min_rtt);
    assert_eq!(to.ato, 40_000);
    assert_eq!(from.options, TcpInfo::TIMESTAMPS | TcpInfo::SACK | TcpInfo::WSCALE);
}

/// A peer that does not read is named as what holds the sender back.
#[test]
fn time_before_a_closed_window_is_told() {
    let mut p = Pair::new(313, GOOD);
    let (a, b) = p.connected();
    p.until(10 * SEC, |p| {
        let _ = p.shards[A].tcp_send(a, &[0; 10_000]);
        false
    });
    let info = p.shards[A].tcp_info(a).expect("it lives");
    assert!(info.rwnd_limited > 5_000_000 && info.rwnd_limited <= info.busy_time, "{info:?}");
    let l = p.listen(81);
    let told = p.shards[B].tcp_info(l).expect("it listens");
    assert_eq!((told.state, told.unacked, told.sacked), (State::Listen, 0, 16));
    assert!(p.shards[B].tcp_readable(b).expect("open").bytes > 50_000);
}

/// Timeouts are counted, and how long they took.
#[test]
fn timeouts_are_told() {
    let mut p = Pair::new(314, GOOD);
    let (a, _) = p.connected();
    p.lose = Some(|s| s.from == A);
    p.shards[A].tcp_send(a, b"lost").expect("room");
    p.run(2 * SEC);
    p.lose = None;
    p.run(10 * SEC);
    let info = p.shards[A].tcp_info(a).expect("it lives");
    assert!(info.total_rto >= 2 && info.total_rto_recoveries == 1, "{info:?}");
    assert!((500..10_000).contains(&info.total_rto_time), "{}", info.total_rto_time);
    assert_eq!(info.retransmits, 0);
}
