//! Explicit congestion notification, and DCTCP: what is agreed on, what is marked, what follows.

use super::*;
use crate::table::count::Counter as C;
use crate::tcp::CaState;
use crate::tcp::cc::Cc;
use crate::tcp::ecn::Ecn;

const SYN_ECN: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ECE.0 | TcpFlags::CWR.0);

fn pair(fate: Fate, knobs: [&[(&str, &str)]; 2]) -> Pair {
    let mut p = Pair::new(300, fate);
    for (shard, knobs) in p.shards.iter_mut().zip(knobs) {
        for (path, value) in knobs {
            shard.set_knob(path, value).expect("the knob takes the value");
        }
    }
    p
}

const ASK: &[(&str, &str)] = &[("net.ipv4.tcp_ecn", "1")];

/// Both ask for it, and are connected.
fn capable(fate: Fate) -> (Pair, SocketId, SocketId) {
    let mut p = pair(fate, [ASK, ASK]);
    let (a, b) = p.connected();
    assert!(p.tcb(A, a).ecn.has(Ecn::OK) && p.tcb(B, b).ecn.has(Ecn::OK));
    (p, a, b)
}

/// RFC 3168 §6.1.1: it is used if both sides say so in the handshake; 0 never, 1 asks, 2 grants.
#[test]
fn knob_net_ipv4_tcp_ecn() {
    for (ours, theirs, agreed) in [
        ("0", "1", false),
        ("1", "0", false),
        ("1", "1", true),
        ("1", "2", true),
        ("2", "1", false),
        ("2", "2", false),
    ] {
        let knob = |value| [("net.ipv4.tcp_ecn", value)];
        let mut p = pair(GOOD, [&knob(ours), &knob(theirs)]);
        let (a, b) = p.connected();
        exchange(&mut p, (a, b), [50_000, 50_000], 10 * SEC);
        let what = format!("{ours} to {theirs}");
        let syns: Vec<TcpFlags> =
            p.seen.iter().filter(|s| s.hdr.flags.syn()).map(|s| s.hdr.flags).collect();
        assert_eq!(syns[0] == SYN_ECN, ours == "1", "{what}");
        assert_eq!(syns[1].any(TcpFlags::ECE), agreed, "{what}");
        assert!(!syns[1].any(TcpFlags::CWR), "{what}");
        for side in [A, B] {
            assert_eq!(p.count(side, C::IpInECT0Pkts) > 30, agreed, "{what}");
            assert_eq!(p.count(side, C::IpInECT0Pkts) > 0, agreed, "{what}");
        }
    }
}

/// RFC 3168 §6.1.1.1: a SYN that asks for it and gets no answer is followed by one that does not,
/// unless the knob says that it goes on asking.
#[test]
fn knob_net_ipv4_tcp_ecn_fallback() {
    for (value, asks) in [("1", false), ("0", true)] {
        let knobs = [ASK[0], ("net.ipv4.tcp_ecn_fallback", value)];
        let mut p = pair(GOOD, [&knobs, ASK]);
        let l = p.listen(80);
        p.lose = Some(|s| s.at < Instant::from_ns(3 * SEC + 500 * MS));
        let (a, b) = p.connect_to(l);
        let syns: Vec<_> = p.seen.iter().filter(|s| s.from == A && s.hdr.flags.syn()).collect();
        let asked: Vec<bool> = syns.iter().map(|s| s.hdr.flags == SYN_ECN).collect();
        assert_eq!(asked, [true, asks], "tcp_ecn_fallback {value}");
        assert_eq!(p.tcb(A, a).ecn.has(Ecn::OK), asks);
        assert_eq!(p.tcb(B, b).ecn.has(Ecn::OK), asks);
        exchange(&mut p, (a, b), [20_000, 0], 10 * SEC);
        assert_eq!(p.count(B, C::IpInECT0Pkts) > 0, asks);
    }
}

/// RFC 3168 §6.1.1: a SYN that is itself marked as capable gets no ECN (it was mangled on its way).
#[test]
fn a_marked_syn_gets_no_ecn() {
    for (ecn, granted) in [(0, true), (1, false), (2, false), (3, false)] {
        let mut p = pair(GOOD, [&[], &[]]);
        p.listen(80);
        let syn = Forged { seq: 1, flags: SYN_ECN, window: 1000, ..Forged::default() };
        p.inject_ecn(B, (5, 80), syn, ecn);
        p.run(MS / 2);
        assert_eq!(p.last_of(B).hdr.flags.any(TcpFlags::ECE), granted, "{ecn}");
    }
}

/// What a cookie's answer agreed on comes back in the timestamp.
#[test]
fn a_cookie_remembers_it() {
    for (ask, agreed) in [("1", true), ("2", false)] {
        let knobs = [ASK[0], ("net.ipv4.tcp_syncookies", "2")];
        let mut p = pair(GOOD, [&[("net.ipv4.tcp_ecn", ask)], &knobs]);
        let (a, b) = p.connected();
        assert_eq!(p.count(B, C::TcpExtSyncookiesRecv), 1);
        assert_eq!(p.tcb(A, a).ecn.has(Ecn::OK), agreed);
        assert_eq!(p.tcb(B, b).ecn.has(Ecn::OK), agreed);
        exchange(&mut p, (a, b), [20_000, 20_000], 10 * SEC);
    }
}

/// RFC 3168 §6.1.1, §6.1.4, §6.1.5: only new data is capable; SYNs, acknowledgements and what is sent
/// again are not. Over IPv6 as well, and whatever type of service the application chose.
#[test]
fn only_new_data_is_capable() {
    for v6 in [false, true] {
        let mut p = Pair::over(310, Fate { loss: 30, ..GOOD }, v6);
        for shard in &mut p.shards {
            shard.set_knob("net.ipv4.tcp_ecn", "1").expect("a knob");
        }
        let (a, b) = p.connected();
        p.shards[A].tcp_set(a, crate::tcp::TcpOpt::Tos(0x4b)).expect("an option");
        exchange(&mut p, (a, b), [400_000, 0], 100 * SEC);
        let (mut high, mut again, mut fresh) = (None, 0, 0);
        for s in p.seen.iter().filter(|s| s.from == A) {
            let seq = crate::seq::Seq(s.hdr.seq);
            let new = s.len > 0 && high.is_none_or(|high| seq.ge(high));
            assert_eq!(s.tos & 3, if new { 2 } else { 0 }, "{s:?}");
            again += usize::from(s.len > 0 && !new);
            fresh += usize::from(new);
            if s.len > 0 {
                let end = seq + s.len as u32;
                high = Some(high.map_or(end, |high: crate::seq::Seq| high.max(end)));
            }
        }
        assert!(again > 5 && fresh > 200, "{again} repeated, {fresh} new");
        assert!(p.seen.iter().any(|s| s.tos & !3 == 0x48), "the rest of it is the application's");
    }
}

/// RFC 3168 §6.1.2, §6.1.3: marks are echoed until the sender says that it has slowed down, and it does so
/// once for all that was under way; nothing is sent again.
#[test]
fn marks_shrink_the_window_once_a_round_trip() {
    let (mut p, a, b) = capable(Fate { delay: 10 * MS, ..GOOD });
    let (mut end, mut reader) = (End::new(3_000_000), End::new(0));
    (end.shut, reader.shut) = (true, true);
    let mut go = |p: &mut Pair, until: u64| {
        p.until(60 * SEC, |p| {
            end.turn(&mut p.shards[A], a);
            reader.turn(&mut p.shards[B], b);
            reader.read >= until
        })
    };
    assert!(go(&mut p, 300_000));
    let before = p.tcb(A, a).snd_cwnd;
    let from = p.seen.len();
    p.mark = Some(|s| s.from == A);
    // All that is sent within a fifth of a round trip is marked.
    let mark_until = p.now.plus(4 * MS);
    while p.now < mark_until {
        let read = p.tcb(B, b).bytes_received;
        assert!(go(&mut p, read + 1));
    }
    p.mark = None;
    assert!(go(&mut p, 2_000_000));
    let ce = p.count(B, C::IpInCEPkts);
    assert!(ce > 3, "{ce} marks arrived");
    assert!(p.count(A, C::TcpExtTCPDeliveredCE) >= ce, "and were told of");
    let cwr: Vec<_> = p.seen[from..].iter().filter(|s| s.hdr.flags.any(TcpFlags::CWR)).collect();
    assert_eq!(cwr.len(), 1, "the window shrank once: {cwr:#?}");
    assert!(cwr[0].len > 0 && cwr[0].tos & 3 == 2, "new data told of it");
    let told = p.seen[from..].iter().position(|s| s.hdr.flags.any(TcpFlags::CWR));
    let told = from + told.expect("it did");
    // After a round trip the echo is over.
    let late = p.seen[told..].iter().filter(|s| s.at > p.seen[told].at.plus(25 * MS));
    assert!(late.filter(|s| s.from == B).all(|s| !s.hdr.flags.any(TcpFlags::ECE)));
    let tp = p.tcb(A, a);
    assert_eq!((tp.ca_state, tp.total_retrans), (CaState::Open, 0));
    let (least, most) = (before * 6 / 10, before * 3);
    assert!((least..most).contains(&tp.snd_ssthresh), "{before} -> {}", tp.snd_ssthresh);
}

/// The step from Open to CWR and back, segment by segment: proportional rate reduction takes the window
/// down to the threshold, and further marks of the same flight change nothing.
#[test]
fn cwr_reduces_in_proportion() {
    let (mut p, a, _) = capable(Fate { delay: 20 * MS, ..GOOD });
    p.run(SEC);
    p.lose = Some(|_| true);
    let tp = p.tcb(A, a);
    tp.snd_cwnd = 20;
    (tp.sndbuf, tp.sndbuf_locked) = (1 << 20, true);
    let (ports, seq, una, mss) =
        ((tp.tuple.rport, tp.tuple.lport), tp.rcv_nxt.0, tp.snd_una.0, tp.mss_cache as u32);
    tp.snd_wnd = 1 << 20;
    p.shards[A].set_knob("net.ipv4.tcp_slow_start_after_idle", "0").expect("a knob");
    p.shards[A].tcp_send(a, &vec![0; 200_000]).expect("room");
    p.run(US);
    assert_eq!(p.tcb(A, a).packets_out, 20);
    p.now = p.now.plus(40 * MS);
    for n in 1..=21u32 {
        let ts = (p.tcb(A, a).ts_recent, 0);
        let opts = TcpOptions { ts: Some(ts), ..TcpOptions::NONE };
        // Above what was out then the peer has heard of it.
        let flags = if n <= 20 { TcpFlags::ACK | TcpFlags::ECE } else { TcpFlags::ACK };
        let ack = una.wrapping_add(n * mss);
        p.inject(A, ports, Forged { seq, ack, flags, window: 60_000, opts, data: &[] });
        p.run(US);
        let tp = p.tcb(A, a);
        assert_eq!(tp.snd_ssthresh, 14, "once only, after {n}");
        assert_eq!((tp.lost_out, tp.retrans_out), (0, 0));
        if n <= 20 {
            assert_eq!(tp.ca_state, CaState::Cwr, "after {n}");
            let due = if n <= 6 { 20 - n + (14 * n).div_ceil(20) } else { 0 };
            assert!(tp.snd_cwnd >= 14 && (due == 0 || tp.snd_cwnd <= due.max(14) + 1), "{n}");
        }
    }
    let data = p.seen.iter().filter(|s| s.from == A && s.len > 0);
    let told = data.filter(|s| s.hdr.flags.any(TcpFlags::CWR)).count();
    assert_eq!((told, p.tcb(A, a).snd_cwnd), (1, 14));
    assert_eq!(p.tcb(A, a).ca_state, CaState::Open);
    assert_eq!(p.count(A, C::TcpExtTCPDeliveredCE), 20);
}

/// A loss among packets of a flight of which some were marked shrinks the window no further, and
/// nothing gives it back.
#[test]
fn marks_and_a_loss_of_one_flight_count_once() {
    let (mut p, a, b) = capable(Fate { delay: 10 * MS, ..GOOD });
    let (mut end, mut reader) = (End::new(2_000_000), End::new(0));
    (end.shut, reader.shut) = (true, true);
    p.mark = Some(|s| s.from == A && s.hdr.seq % 17 == 3);
    p.lose = Some(|s| s.from == A && s.tos & 3 == 2 && s.hdr.seq % 61 == 5);
    let all = p.until(60 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        reader.read >= 2_000_000
    });
    assert!(all);
    assert!(p.count(B, C::IpInCEPkts) > 10 && p.tcb(A, a).total_retrans > 5);
    let undone = [C::TcpExtTCPFullUndo, C::TcpExtTCPPartialUndo, C::TcpExtTCPLossUndo];
    assert_eq!(undone.map(|c| p.count(A, c)), [0; 3], "marks are not taken back");
}

/// RFC 3168 §6.1.2: of a super-packet only the first segment says that the window shrank.
#[test]
fn a_super_packet_says_it_once() {
    for offload in [true, false] {
        let (mut p, a, b) = capable(Fate { offload, delay: 5 * MS, ..GOOD });
        exchange_marked(&mut p, a, b, 2_000_000);
        let with: Vec<_> = p.seen.iter().filter(|s| s.hdr.flags.has(TcpFlags::CWR)).collect();
        let data: Vec<_> = with.iter().filter(|s| s.len > 0).collect();
        assert!(!data.is_empty());
        for s in &data {
            let many = s.gso.is_some_and(|g| g.segs > 1);
            assert_eq!(s.gso.is_some_and(|g| g.ecn), many, "{s:?}");
        }
        assert!(!offload || data.iter().any(|s| s.gso.is_some()), "some were super-packets");
    }
}

/// A sends; a packet of each twenty or so is marked.
fn exchange_marked(p: &mut Pair, a: SocketId, b: SocketId, bytes: u64) {
    p.mark = Some(|s| s.from == A && s.hdr.seq % 23 == 7);
    exchange(p, (a, b), [bytes, 0], 120 * SEC);
    assert!(p.count(B, C::IpInCEPkts) > 0);
}

/// A receiver whose peer is this test: forged data comes with the bits that the test wants.
struct Receiver {
    p: Pair,
    b: SocketId,
    ports: (u16, u16),
    seq: u32,
    ack: u32,
}

const MSS: usize = 1000;

impl Receiver {
    fn new(knobs: &[(&str, &str)]) -> Receiver {
        let mut p = pair(GOOD, [knobs, knobs]);
        let (_, b) = p.connected();
        p.run(SEC);
        p.lose = Some(|_| true);
        let now = p.now;
        let tp = p.tcb(B, b);
        // No help for a sender in slow start: acknowledgements are delayed.
        (tp.quick, tp.ato_ms, tp.rcv_mss, tp.lrcvtime) = (0, 40, MSS as u16, now);
        tp.rcv_ssthresh = tp.window_clamp;
        let ports = (tp.tuple.rport, tp.tuple.lport);
        let (seq, ack) = (tp.rcv_nxt.0, tp.snd_nxt.0);
        Receiver { p, b, ports, seq, ack }
    }
    /// What a delayed acknowledgement says.
    fn late(&mut self) -> Option<bool> {
        let from = self.p.seen.len();
        self.p.run(50 * MS);
        let acks = self.p.seen[from..].iter().filter(|s| s.from == B);
        acks.map(|s| s.hdr.flags.any(TcpFlags::ECE)).next_back()
    }
    /// A full segment comes; what is acknowledged at once, and whether with an echo.
    fn data(&mut self, ecn: u8, flags: TcpFlags) -> Vec<(u32, bool)> {
        let ts = (self.p.tcb(B, self.b).ts_recent, 0);
        let opts = TcpOptions { ts: Some(ts), ..TcpOptions::NONE };
        let data = &[0; MSS];
        let flags = TcpFlags::ACK | flags;
        let hdr = Forged { seq: self.seq, ack: self.ack, flags, window: 500, opts, data };
        let from = self.p.seen.len();
        self.p.inject_ecn(B, self.ports, hdr, ecn);
        self.p.run(US);
        let begun = self.seq;
        self.seq = self.seq.wrapping_add(MSS as u32);
        let acks = self.p.seen[from..].iter().filter(|s| s.from == B);
        let told = |s: &Seen| (s.hdr.ack.wrapping_sub(begun), s.hdr.flags.any(TcpFlags::ECE));
        acks.map(told).collect()
    }
}

/// RFC 3168 §6.1.3: each acknowledgement carries the echo from the first mark on until CWR comes.
#[test]
fn a_receiver_echoes_until_it_is_answered() {
    let mut r = Receiver::new(ASK);
    let none = TcpFlags::NONE;
    let full = MSS as u32;
    assert_eq!((r.data(2, none), r.late()), (vec![], Some(false)));
    assert_eq!(r.data(3, none), [(full, true)], "told at once");
    assert_eq!(r.data(2, none), [(full, true)], "and again");
    assert_eq!((r.data(2, none), r.late()), (vec![], Some(true)), "and again");
    assert_eq!(r.data(2, TcpFlags::CWR), [(full, false)], "the sender has heard of it");
    assert_eq!((r.data(2, none), r.late()), (vec![], Some(false)));
    assert_eq!(r.data(3, TcpFlags::CWR), [(full, true)], "a mark on the answer is a new one");
}

/// RFC 8257 §3.2: DCTCP tells of each mark; where acknowledgements are delayed, the one that is owed goes
/// out, with what was true until then, when marks begin or end.
#[test]
fn a_dctcp_receiver_echoes_each_mark() {
    let mut r = Receiver::new(&[("net.ipv4.tcp_congestion_control", "dctcp")]);
    let full = MSS as u32;
    let mut data = |ecn| r.data(ecn, TcpFlags::NONE);
    assert_eq!(data(2), [], "delayed");
    assert_eq!(data(3), [(0, false), (full, true)], "the unmarked first, then the mark");
    assert_eq!(data(3), [], "delayed");
    assert_eq!(data(2), [(0, true), (full, false)], "marks are over");
    assert_eq!(data(2), [], "delayed");
    assert_eq!(data(3), [(0, false), (full, true)]);
}

/// DCTCP asks for ECN whatever `tcp_ecn` says, and where it does not get it becomes Reno. Its window
/// shrinks by half the share of marks.
#[test]
fn dctcp_follows_the_share_of_marks() {
    let dctcp = ("net.ipv4.tcp_congestion_control", "dctcp");
    let off = ("net.ipv4.tcp_ecn", "0");
    let mut p = pair(GOOD, [&[dctcp], &[off]]);
    let (a, _) = p.connected();
    assert_eq!(p.shards[A].tcp_info(a).map(|i| i.ca_name), Some("reno"), "the peer knows no ECN");

    let mut p = pair(Fate { delay: 5 * MS, ..GOOD }, [&[dctcp, off], &[dctcp, off]]);
    let (a, b) = p.connected();
    assert_eq!(p.shards[A].tcp_info(a).map(|i| i.ca_name), Some("dctcp"));
    // A tenth of all packets is marked.
    p.mark = Some(|s| s.from == A && (s.hdr.seq / 1448) % 10 == 0);
    let (mut end, mut reader) = (End::new(6_000_000), End::new(0));
    (end.shut, reader.shut) = (true, true);
    let all = p.until(300 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        reader.read >= 6_000_000
    });
    assert!(all);
    let Cc::Dctcp(dctcp) = &p.tcb(A, a).cc else { panic!("it is DCTCP") };
    let alpha = dctcp.alpha();
    assert!((40..=260).contains(&alpha), "{alpha} of 1024 for a tenth");
    assert_eq!(p.tcb(A, a).total_retrans, 0);
}

/// How fast alpha forgets that all was marked at the beginning, where nothing is.
#[test]
fn knob_tcp_dctcp_dctcp_shift_g() {
    let [slow, fast] = ["7", "1"].map(|g| alpha_after(&[("tcp_dctcp.dctcp_shift_g", g)]));
    assert!(fast < 100 && slow > 500, "{slow} and {fast}");
}

#[test]
fn knob_tcp_dctcp_dctcp_alpha_on_init() {
    let g = ("tcp_dctcp.dctcp_shift_g", "7");
    for first in [0, 512, 1024] {
        let first_text = first.to_string();
        let alpha = alpha_after(&[g, ("tcp_dctcp.dctcp_alpha_on_init", &first_text)]);
        assert!((first - first / 4..=first).contains(&alpha), "{alpha} from {first}");
    }
}

/// DCTCP's alpha after a megabyte without marks.
fn alpha_after(knobs: &[(&str, &str)]) -> u32 {
    let mut all = vec![("net.ipv4.tcp_congestion_control", "dctcp")];
    all.extend(knobs);
    let mut p = pair(GOOD, [&all, &all]);
    let (a, b) = p.connected();
    let (mut end, mut reader) = (End::new(1_000_000), End::new(0));
    (end.shut, reader.shut) = (true, true);
    let done = p.until(60 * SEC, |p| {
        end.turn(&mut p.shards[A], a);
        reader.turn(&mut p.shards[B], b);
        reader.read == 1_000_000
    });
    assert!(done);
    match &p.tcb(A, a).cc {
        Cc::Dctcp(dctcp) => dctcp.alpha(),
        other => panic!("{other:?}"),
    }
}

/// An application may choose what the list names.
#[test]
fn knob_net_ipv4_tcp_allowed_congestion_control() {
    use crate::sock::error::TcpError;
    use crate::table::knob::CcName;
    use crate::tcp::TcpOpt;
    let path = "net.ipv4.tcp_allowed_congestion_control";
    for (list, dctcp, reno) in [("reno cubic", false, true), ("cubic dctcp", true, false)] {
        let mut p = pair(GOOD, [&[(path, list), ASK[0]], ASK]);
        let (a, _) = p.connected();
        let mut set = |name| p.shards[A].tcp_set(a, TcpOpt::Congestion(name));
        for (name, may) in [(CcName::Dctcp, dctcp), (CcName::Reno, reno), (CcName::Cubic, true)] {
            let want = if may { Ok(()) } else { Err(TcpError::NotPermitted) };
            assert_eq!(set(name), want, "{name:?} of {list}");
        }
        assert_eq!(p.shards[A].get_knob(path).expect("a knob"), list);
    }
}
