//! Each reason of TCP is provoked, alone.

use super::*;
use crate::table::count::Counter as C;
use crate::tcp::State;

/// An established connection at B whose peer is forged by the test.
struct Target {
    p: Pair,
    b: SocketId,
    ports: (u16, u16),
    /// What B expects next.
    nxt: u32,
    ack: u32,
    opts: TcpOptions,
}

impl Target {
    fn new(rcvbuf: usize) -> Target {
        let mut p = Pair::new(90, GOOD);
        p.watch = false;
        let l = p.listen_as(Listen { port: 80, backlog: 1, rcvbuf, ..Listen::default() });
        let (_, b) = p.connect_to(l);
        p.run(10 * MS);
        p.lose = Some(|_| true);
        let tp = p.tcb(B, b);
        let (ports, nxt, ack, ts) =
            ((tp.tuple.rport, 80), tp.rcv_nxt.0, tp.snd_nxt.0, tp.ts_recent);
        let opts = TcpOptions { ts: Some((ts, 0)), ..TcpOptions::NONE };
        Target { p, b, ports, nxt, ack, opts }
    }
    /// A segment `off` bytes beyond what B expects.
    fn send(&mut self, off: u32, flags: TcpFlags, data: &[u8]) {
        let seq = self.nxt.wrapping_add(off);
        let (ack, opts) = (self.ack, self.opts);
        self.p.inject(B, self.ports, Forged { seq, ack, flags, window: 500, opts, data });
    }
    fn data(&mut self, off: u32, data: &[u8]) {
        self.send(off, TcpFlags::ACK, data);
    }
    /// Exactly `n` packets were dropped, all for this reason.
    fn only(&self, reason: Reason, n: u64) {
        for r in Reason::ALL {
            assert_eq!(self.p.drops(B, *r), if *r == reason { n } else { 0 }, "{r:?}");
        }
    }
}

#[test]
fn drop_tcp_paws_active() {
    let mut p = Pair::new(91, GOOD);
    p.lose = Some(|_| true);
    let a = p.connect(80);
    p.run(10 * MS);
    let (ports, ack, now) = {
        let tp = p.tcb(A, a);
        ((80, tp.tuple.lport), tp.snd_nxt.0, tp.ts_now(tp.lsndtime))
    };
    for (ecr, refused, state) in
        [(now.wrapping_add(1 << 20), 1, State::SynSent), (now, 1, State::Established)]
    {
        let opts = TcpOptions { mss: Some(1460), ts: Some((7, ecr)), ..TcpOptions::NONE };
        let flags = TcpFlags::SYN | TcpFlags::ACK;
        p.inject(A, ports, Forged { seq: 9, ack, flags, window: 500, opts, ..Forged::default() });
        assert_eq!(p.drops(A, Reason::TcpPawsActive), refused);
        assert_eq!(p.count(A, C::TcpExtPAWSActive), refused);
        assert_eq!(p.tcb(A, a).state, state);
    }
}

#[test]
fn drop_tcp_csum() {
    let mut t = Target::new(0);
    let (src, dst) = (t.p.addr(A), t.p.addr(B));
    let mut bytes = forge(src, dst, t.ports, &Forged { data: b"abc", ..Forged::default() });
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    t.p.deliver(B, Frame { bytes, csum: Csum::None, gso: None });
    t.only(Reason::TcpCsum, 1);
    assert_eq!((t.p.count(B, C::TcpInCsumErrors), t.p.count(B, C::TcpInErrs)), (1, 1));
}

#[test]
fn drop_tcp_flags() {
    let mut t = Target::new(0);
    t.send(0, TcpFlags::NONE, b"no ACK");
    t.only(Reason::TcpFlags, 1);
}

#[test]
fn drop_tcp_old_data() {
    let mut t = Target::new(0);
    t.data(0, b"once");
    t.data(0, b"once");
    t.only(Reason::TcpOldData, 1);
    assert_eq!(t.p.count(B, C::TcpExtTCPDSACKOldSent), 1);
    assert_eq!(t.p.shards[B].tcp_readable(t.b).map(|r| r.bytes), Ok(4));
}

/// A segment that begins exactly at the window's right edge.
#[test]
fn drop_tcp_over_window() {
    let mut t = Target::new(0);
    let edge = t.p.tcb(B, t.b).receive_window();
    t.data(edge, b"beyond");
    t.only(Reason::TcpOverWindow, 1);
}

#[test]
fn drop_tcp_zero_window() {
    let mut t = Target::new(4608);
    let mut off = 0;
    while t.p.tcb(B, t.b).receive_window() > 0 {
        let n = t.p.tcb(B, t.b).receive_window().min(1400) as usize;
        t.data(off, &[1; 1400][..n]);
        off += n as u32;
        assert!(off < 10_000, "the window closes");
    }
    t.data(off, b"no room");
    t.only(Reason::TcpZeroWindow, 1);
    assert_eq!(t.p.count(B, C::TcpExtTCPZeroWindowDrop), 1);
}

#[test]
fn drop_tcp_invalid_sequence() {
    let mut t = Target::new(0);
    t.data(1 << 28, b"far away");
    t.only(Reason::TcpInvalidSequence, 1);
}

#[test]
fn drop_tcp_invalid_syn() {
    let mut t = Target::new(0);
    t.send(0, TcpFlags::SYN | TcpFlags::ACK, b"");
    t.only(Reason::TcpInvalidSyn, 1);
    assert_eq!(t.p.tcb(B, t.b).state, State::Established);
}

#[test]
fn drop_tcp_reset() {
    let mut t = Target::new(0);
    t.send(0, TcpFlags::RST, b"");
    t.only(Reason::TcpReset, 1);
    assert_eq!(t.p.tcb(B, t.b).state, State::Close);
}

/// Data for a connection that its owner has closed.
#[test]
fn drop_tcp_close() {
    let mut t = Target::new(0);
    t.p.shards[B].tcp_close(t.b);
    t.p.run(MS);
    t.data(0, b"anybody?");
    t.only(Reason::TcpClose, 1);
    assert_eq!((t.p.count(B, C::TcpExtTCPAbortOnData), t.p.count(B, C::TcpOutRsts)), (1, 1));
}

#[test]
fn drop_tcp_ofo_merge() {
    let mut t = Target::new(0);
    t.data(100, b"0123456789");
    t.data(102, b"2345");
    t.only(Reason::TcpOfoMerge, 1);
    assert_eq!(
        (t.p.count(B, C::TcpExtTCPOFOMerge), t.p.count(B, C::TcpExtTCPDSACKOfoSent)),
        (1, 1)
    );
}

/// The reader's queue fills the buffer: nothing that comes early can be kept.
#[test]
fn drop_tcp_ofo_drop() {
    let mut t = Target::new(8192);
    t.p.tcb(B, t.b).rcvbuf = 1;
    t.data(0, &[1; 1400]);
    t.data(1500, b"early");
    t.only(Reason::TcpOfoDrop, 1);
    assert_eq!(t.p.count(B, C::TcpExtTCPOFODrop), 1);
}

/// What came early makes room for what comes in order.
#[test]
fn drop_tcp_ofo_prune() {
    let mut t = Target::new(0);
    t.data(2000, &[1; 1400]);
    (t.p.tcb(B, t.b).rcvbuf, t.p.tcb(B, t.b).rcvbuf_locked) = (1000, true);
    t.data(0, &[1; 1400]);
    t.only(Reason::TcpOfoPrune, 1);
    assert_eq!((t.p.count(B, C::TcpExtPruneCalled), t.p.count(B, C::TcpExtOfoPruned)), (1, 1));
    assert_eq!(t.p.shards[B].tcp_readable(t.b).map(|r| r.bytes), Ok(1400));
}

#[test]
fn drop_tcp_rcv_q_full() {
    let mut t = Target::new(0);
    t.data(0, &[1; 1400]);
    (t.p.tcb(B, t.b).rcvbuf, t.p.tcb(B, t.b).rcvbuf_locked) = (1000, true);
    t.data(1400, &[1; 1400]);
    t.only(Reason::TcpRcvQFull, 1);
    assert_eq!(t.p.count(B, C::TcpExtTCPRcvQDrop), 1);
    assert_eq!((t.p.count(B, C::TcpExtPruneCalled), t.p.count(B, C::TcpExtRcvPruned)), (1, 1));
}
