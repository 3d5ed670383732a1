use super::*;
use crate::table::count::Counter as C;
use crate::tcp::CaState;

const MSS: u32 = 1460;

/// A sender whose peer is this test: what A sends is only looked at, and every acknowledgement that it
/// gets is forged.
pub(super) struct Sender {
    pub p: Pair,
    a: SocketId,
    ports: (u16, u16),
    /// Our side's sequence number, and the first one that A has not been acknowledged.
    seq: u32,
    una: u32,
}

impl Sender {
    /// `cwnd` segments are under way, all sent at one moment, and plenty waits.
    fn new(cwnd: u32, sack: bool) -> Sender {
        Sender::with(cwnd, sack, &[])
    }
    /// The same, with other values of knobs.
    pub fn with(cwnd: u32, sack: bool, knobs: &[(&str, &str)]) -> Sender {
        let mut p = Pair::new(60, Fate { delay: 20 * MS, ..GOOD });
        for shard in &mut p.shards {
            shard.set_knob("net.ipv4.tcp_timestamps", "0").expect("a knob");
            shard.set_knob("net.ipv4.tcp_sack", if sack { "1" } else { "0" }).expect("a knob");
            shard.set_knob("net.ipv4.tcp_slow_start_after_idle", "0").expect("a knob");
            // What an acknowledgement lets go goes at once, and does not wait for the next one.
            shard.set_knob("net.ipv4.tcp_tso_win_divisor", "255").expect("a knob");
            for (path, value) in knobs {
                shard.set_knob(path, value).expect("a knob");
            }
        }
        let (a, _) = p.connected();
        p.run(SEC);
        p.lose = Some(|_| true);
        let tp = p.tcb(A, a);
        tp.snd_cwnd = cwnd;
        let segs = if cwnd < 200 { 200 } else { cwnd + 200 };
        (tp.sndbuf, tp.sndbuf_locked) = ((segs << 12).max(1 << 20), true);
        let ports = (tp.tuple.rport, tp.tuple.lport);
        let (seq, una) = (tp.rcv_nxt.0, tp.snd_una.0);
        let data = vec![0; (segs * MSS) as usize];
        assert_eq!(p.shards[A].tcp_send(a, &data), Ok(data.len()));
        let mut s = Sender { p, a, ports, seq, una };
        s.acknowledge(0, &[]);
        // The way down takes no more than so many at once.
        (0..cwnd / 256).for_each(|_| s.p.run(US));
        assert_eq!(s.tp().packets_out, cwnd);
        s
    }
    pub fn tp(&mut self) -> &mut Tcb {
        self.p.tcb(A, self.a)
    }
    /// A is told of the first `upto` segments, and beyond them of those from the first to before the second
    /// of each of `sacked`; returns how many it sends then.
    pub fn acknowledge(&mut self, upto: u32, sacked: &[(u32, u32)]) -> u32 {
        let at = |n: u32| self.una.wrapping_add(n * MSS);
        let sack = sacked.iter().map(|&(from, to)| (at(from), at(to))).collect();
        let opts = TcpOptions { sack, ..TcpOptions::NONE };
        let forged = Forged {
            seq: self.seq,
            ack: at(upto),
            flags: TcpFlags::ACK,
            window: 60_000,
            opts,
            data: &[],
        };
        let before = self.p.seen.len();
        self.p.inject(A, self.ports, forged);
        self.p.run(US);
        let sent = self.p.seen[before..].iter().filter(|s| s.from == A && s.len > 0);
        sent.map(|s| s.len.div_ceil(MSS as usize) as u32).sum()
    }
}

/// RFC 6937 §3: while more is in the network than it may hold afterwards, recovery sends in proportion
/// to what is delivered, new data and old together; it ends with the window at the threshold. Without SACK
/// each duplicate tells of a delivery.
#[test]
fn recovery_sends_in_proportion_to_what_arrives() {
    for sack in [true, false] {
        let mut s = Sender::new(20, sack);
        s.p.now = s.p.now.plus(40 * MS);
        let behind_the_hole = |s: &mut Sender, n: u32| {
            let block = [(1, 1 + n)];
            s.acknowledge(0, if sack { &block } else { &[] })
        };
        // Two segments behind a hole: two new ones keep the acknowledgements coming (RFC 3042).
        assert_eq!((behind_the_hole(&mut s, 1), behind_the_hole(&mut s, 2)), (1, 1));
        let mut sent = 0;
        for delivered in 1..=17u32 {
            sent += behind_the_hole(&mut s, 2 + delivered);
            // 14 of 20 segments are to stay in the network: seven go for each ten that leave it; once
            // that many are left, one for one.
            let due = if delivered <= 14 { (14 * delivered).div_ceil(20) } else { delivered - 5 };
            assert_eq!(sent, due, "after {delivered}, SACK {sack}");
            let tp = s.tp();
            assert_eq!((tp.ca_state, tp.prior_cwnd), (CaState::Recovery, 20));
            assert_eq!((tp.snd_ssthresh, tp.prr_out, tp.prr_delivered), (14, due, delivered));
            assert_eq!(tp.in_flight(), 19 - delivered + due);
            assert!(tp.snd_cwnd <= 20 && tp.snd_cwnd >= 14);
        }
        assert_eq!(s.tp().retrans_out, 1, "the first of them was the lost one");
        // The hole is filled: recovery is over, and as much may be under way as it was to come to.
        s.acknowledge(22, &[]);
        if !sack {
            // Duplicates of what was sent again may be on their way: RFC 6582 §4.1 waits for more.
            assert_eq!(s.tp().ca_state, CaState::Recovery);
            s.acknowledge(23, &[]);
        }
        let tp = s.tp();
        assert_eq!((tp.ca_state, tp.snd_cwnd, tp.snd_ssthresh), (CaState::Open, 14, 14));
        assert_eq!(tp.in_flight(), 14);
    }
}

/// A recovery of which what was sent again had only been late, and that is over.
fn recovered() -> Sender {
    let mut s = Sender::new(20, true);
    s.p.now = s.p.now.plus(40 * MS);
    for n in 1..=3 {
        s.acknowledge(0, &[(1, 1 + n)]);
    }
    assert_eq!((s.tp().ca_state, s.tp().retrans_out), (CaState::Recovery, 1));
    s.acknowledge(22, &[]);
    assert!(s.tp().ca_state == CaState::Open && s.tp().snd_cwnd <= 15, "a round trip behind 14");
    s
}

/// What was sent again arrived twice, as is told when recovery is over already: the first had only been
/// late, and the window is what it was (RFC 3708).
#[test]
fn a_dsack_after_recovery_undoes_it() {
    let mut s = recovered();
    s.acknowledge(22, &[(0, 1)]);
    let tp = s.tp();
    assert_eq!((tp.ca_state, tp.snd_cwnd), (CaState::Open, 20));
    assert!(tp.snd_ssthresh >= 20, "slow start goes on to {}", tp.snd_ssthresh);
    assert_eq!(s.p.count(A, C::TcpExtTCPDSACKUndo), 1);
    // It is told once.
    s.acknowledge(22, &[(0, 1)]);
    assert_eq!(s.p.count(A, C::TcpExtTCPDSACKUndo), 1);
}

/// It is told when nothing is under way any more, too.
#[test]
fn a_dsack_that_comes_last_undoes_it() {
    let mut s = recovered();
    while s.tp().packets_out > 0 {
        let (next, una) = (s.tp().snd_nxt.0, s.una);
        s.acknowledge(next.wrapping_sub(una) / MSS, &[]);
    }
    let all = s.tp().snd_nxt.0.wrapping_sub(s.una) / MSS;
    assert_eq!((all, s.p.count(A, C::TcpExtTCPDSACKUndo)), (200, 0));
    s.tp().snd_cwnd = 15;
    s.acknowledge(all, &[(0, 1)]);
    assert_eq!((s.p.count(A, C::TcpExtTCPDSACKUndo), s.tp().snd_cwnd), (1, 20));
}

/// A network that duplicates packets makes the same reports: of what was sent once, or more than were
/// sent twice. They undo nothing.
#[test]
fn duplicates_of_the_network_undo_nothing() {
    for first in [(24, 25), (22, 23)] {
        let mut s = recovered();
        s.acknowledge(25, &[first]);
        // By now more was reported than was sent again.
        s.acknowledge(25, &[(0, 1)]);
        assert_eq!(s.p.count(A, C::TcpExtTCPDSACKRecv), 2);
        assert_eq!(s.p.count(A, C::TcpExtTCPDSACKUndo), 0);
        assert!(s.tp().snd_cwnd < 20);
    }
}

/// After a timeout, before anything but the first segment is sent again.
fn timed_out(sack: bool) -> Sender {
    timed_out_with(sack, &[])
}

pub(super) fn timed_out_with(sack: bool, knobs: &[(&str, &str)]) -> Sender {
    let mut s = Sender::with(10, sack, knobs);
    let a = s.a;
    assert!(s.p.until(60 * SEC, |p| p.tcb(A, a).ca_state == CaState::Loss), "a timeout");
    s.p.run(US);
    let tp = s.tp();
    assert_eq!((tp.snd_cwnd, tp.retrans_out, tp.lost_out), (1, 1, tp.packets_out));
    s
}

/// RFC 5682 §3.1: the acknowledgement of the segment that was sent again lets new data go; if the next
/// one covers what was sent once, the timeout was spurious, and nothing was lost.
#[test]
fn frto_finds_a_spurious_timeout_without_timestamps() {
    for sack in [true, false] {
        let mut s = timed_out(sack);
        let (out, resent) = (s.tp().packets_out, s.p.count(A, C::TcpRetransSegs));
        assert_eq!(s.acknowledge(1, &[]), 2);
        let tp = s.tp();
        assert_eq!((tp.ca_state, tp.packets_out, tp.retrans_out), (CaState::Loss, out + 1, 0));
        s.acknowledge(2, &[]);
        let tp = s.tp();
        assert_eq!((tp.ca_state, tp.lost_out), (CaState::Open, 0), "SACK {sack}");
        assert!(tp.snd_cwnd >= 10, "{} again", tp.snd_cwnd);
        assert_eq!(s.p.count(A, C::TcpExtTCPSpuriousRTOs), 1);
        assert_eq!(s.p.count(A, C::TcpRetransSegs), resent, "nothing more was sent again");
    }
}

/// The other outcome: new data arrives, and what was before it does not. Then it is lost.
#[test]
fn frto_goes_on_sending_again_after_a_true_timeout() {
    for sack in [true, false] {
        let mut s = timed_out(sack);
        let (out, resent) = (s.tp().packets_out, s.p.count(A, C::TcpRetransSegs));
        assert_eq!(s.acknowledge(1, &[]), 2);
        let block = [(out, out + 1)];
        assert!(s.acknowledge(1, if sack { &block } else { &[] }) > 0);
        assert!(s.p.count(A, C::TcpRetransSegs) > resent, "SACK {sack}");
        assert_eq!(s.p.count(A, C::TcpExtTCPSpuriousRTOs), 0);
        assert!(s.tp().snd_cwnd < 10 && s.tp().lost_out > 0);
    }
}

/// A peer that does not have any more what it had reported gets it again, once it had half a round trip to say
/// that it was a mistake; where it says so, nothing goes twice.
#[test]
fn what_a_peer_takes_back_is_sent_again() {
    for mended in [false, true] {
        let mut s = Sender::with(10, true, &[("net.ipv4.tcp_congestion_control", "bbr")]);
        s.acknowledge(0, &[(2, 8)]);
        s.acknowledge(2, &[]);
        assert_eq!((s.tp().sacked_out, s.p.count(A, C::TcpExtTCPSACKReneging)), (6, 0));
        s.p.run(5 * MS);
        if mended {
            s.acknowledge(8, &[]);
        }
        s.p.run(100 * MS);
        let counts =
            [C::TcpExtTCPSACKReneging, C::TcpExtTCPTimeouts].map(|counter| s.p.count(A, counter));
        if mended {
            assert_eq!(counts[0], 0);
            continue;
        }
        let tp = s.tp();
        assert_eq!((counts, tp.ca_state, tp.sacked_out), ([1, 1], CaState::Loss, 0));
        assert_eq!(tp.lost_out, tp.packets_out, "all of it goes again");
    }
}

/// While something is lost an acknowledgement costs the same however much is under way: what is lost is looked
/// for by when it was sent, what is to be sent again from where that was left, and what was reported before is
/// passed over.
#[test]
fn what_an_acknowledgement_costs_does_not_grow_with_the_window() {
    // One of a hundred is lost; each of the others is reported by itself, with the two runs before it.
    let looked = |cwnd: u32| {
        let mut s = Sender::new(cwnd, true);
        s.p.now = s.p.now.plus(40 * MS);
        for n in (1..cwnd).filter(|n| n % 100 != 0) {
            let run = n / 100 * 100;
            let mut blocks = vec![(run + 1, n + 1)];
            blocks.extend([100, 200].into_iter().filter(|d| *d <= run).map(|d| {
                let begin = run - d;
                (begin + 1, begin + 100)
            }));
            s.acknowledge(0, &blocks);
        }
        let tp = s.tp();
        assert_eq!((tp.sacked_out, tp.lost_out), (cwnd - cwnd.div_ceil(100), cwnd / 100));
        let looked = tp.sndq.hints.as_ref().map_or(0, |hints| hints.looked);
        looked as f64 / f64::from(cwnd)
    };
    let (small, large) = (looked(400), looked(4000));
    assert!(large < 1.5 * small && large < 10.0, "{small:.1} segments at 400, {large:.1} at 4000");
}
