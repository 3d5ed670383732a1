use super::*;
use crate::tcp::CaState;

const MSS: u32 = 1460;

/// A sender whose peer is this test: what A sends is only looked at, and every acknowledgement that it
/// gets is forged.
struct Sender {
    p: Pair,
    a: SocketId,
    ports: (u16, u16),
    /// Our side's sequence number, and the first one that A has not been acknowledged.
    seq: u32,
    una: u32,
}

impl Sender {
    /// `cwnd` segments are under way, all sent at one moment, and plenty waits.
    fn new(cwnd: u32) -> Sender {
        let mut p = Pair::new(60, Fate { delay: 20 * MS, ..GOOD });
        for shard in &mut p.shards {
            shard.set_knob("net.ipv4.tcp_timestamps", "0").expect("a knob");
            shard.set_knob("net.ipv4.tcp_slow_start_after_idle", "0").expect("a knob");
        }
        let (a, _) = p.connected();
        p.run(SEC);
        p.lose = Some(|_| true);
        let tp = p.tcb(A, a);
        tp.snd_cwnd = cwnd;
        (tp.sndbuf, tp.sndbuf_locked) = (1 << 20, true);
        let ports = (tp.tuple.rport, tp.tuple.lport);
        let (seq, una) = (tp.rcv_nxt.0, tp.snd_una.0);
        let data = vec![0; 200 * MSS as usize];
        assert_eq!(p.shards[A].tcp_send(a, &data), Ok(data.len()));
        let mut s = Sender { p, a, ports, seq, una };
        s.acknowledge(0, &[]);
        assert_eq!(s.tp().packets_out, cwnd);
        s
    }
    fn tp(&mut self) -> &mut Tcb {
        self.p.tcb(A, self.a)
    }
    /// A round trip later, A is told that it was sent `upto` segments, and those from the first to before the second
    /// of each of `sacked`; returns how many it sends then.
    fn acknowledge(&mut self, upto: u32, sacked: &[(u32, u32)]) -> u32 {
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
/// to what is delivered, new data and old together; it ends with the window at the threshold.
#[test]
fn recovery_sends_in_proportion_to_what_arrives() {
    let mut s = Sender::new(20);
    s.p.now = s.p.now.plus(40 * MS);
    // Two segments behind a hole: two new ones keep the acknowledgements coming (RFC 3042).
    assert_eq!((s.acknowledge(0, &[(1, 2)]), s.acknowledge(0, &[(1, 3)])), (1, 1));
    let mut sent = 0;
    for delivered in 1..=17 {
        sent += s.acknowledge(0, &[(1, 3 + delivered)]);
        // 14 of 20 segments are to stay in the network: seven go for each ten that leave it; once that
        // many are left, one for one.
        let due = if delivered <= 14 { (14 * delivered).div_ceil(20) } else { delivered - 5 };
        assert_eq!(sent, due, "after {delivered}");
        let tp = s.tp();
        assert_eq!((tp.ca_state, tp.prior_cwnd), (CaState::Recovery, 20));
        assert_eq!((tp.snd_ssthresh, tp.prr_out, tp.prr_delivered), (14, due, delivered));
        assert_eq!(tp.in_flight(), 19 - delivered + due);
        assert!(tp.snd_cwnd <= 20 && tp.snd_cwnd >= 14);
    }
    assert_eq!(s.tp().retrans_out, 1, "the first of them was the lost one");
    // The hole is filled: recovery is over, and as much may be under way as it was to come to.
    s.acknowledge(22, &[]);
    let tp = s.tp();
    assert_eq!((tp.ca_state, tp.snd_cwnd, tp.snd_ssthresh), (CaState::Open, 14, 14));
    assert_eq!(tp.in_flight(), 14);
}
