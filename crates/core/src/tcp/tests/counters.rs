//! Counters of `/proc/net/netstat` that few other tests look at, each moved where Linux moves it.

use super::*;
use crate::table::count::Counter as C;
use crate::tcp::{State, TcpOpt};

/// A connection at B whose peer, at A's address, is forged by the test from now on.
struct Forger {
    p: Pair,
    b: SocketId,
    ports: (u16, u16),
    seq: u32,
    una: u32,
    ts: u32,
}

const MSS: usize = 1448;

impl Forger {
    fn new(knobs: &[(&str, &str)]) -> Forger {
        let mut p = Pair::new(310, Fate { delay: 10 * MS, ..GOOD });
        for (path, value) in knobs {
            p.shards[B].set_knob(path, value).expect("the knob takes the value");
        }
        let (_, b) = p.connected();
        p.run(100 * MS);
        p.lose = Some(|_| true);
        let tp = p.tcb(B, b);
        let (ports, seq, una, ts) =
            ((tp.tuple.rport, 80), tp.rcv_nxt.0, tp.snd_nxt.0, tp.ts_recent);
        let mut forger = Forger { p, b, ports, seq, una, ts };
        // Its window is known from now on: what says the same again is a duplicate.
        forger.ack(0, &[]);
        forger
    }
    /// B sends so many segments.
    fn send(&mut self, segments: usize) {
        let data = vec![7; segments * MSS];
        assert_eq!(self.p.shards[B].tcp_send(self.b, &data), Ok(data.len()));
        self.p.run(MS);
    }
    /// B gets an acknowledgement of so many bytes, with SACK blocks counted from there.
    fn ack(&mut self, bytes: usize, blocks: &[(usize, usize)]) {
        let at = |n: usize| self.una.wrapping_add(n as u32);
        let tp = self.p.tcb(B, self.b);
        let ts = tp.ts_ok.then_some((self.ts, 0));
        let mut opts = TcpOptions { ts, ..TcpOptions::NONE };
        for &(l, r) in blocks {
            opts.sack.push(at(l), at(r));
        }
        let (seq, ack, flags) = (self.seq, at(bytes), TcpFlags::ACK);
        let hdr = Forged { seq, ack, flags, window: 500, opts, data: &[] };
        self.p.inject(B, self.ports, hdr);
        self.p.run(MS);
    }
    fn count(&self, counter: C) -> u64 {
        self.p.count(B, counter)
    }
}

const NO_SACK: &[(&str, &str)] = &[("net.ipv4.tcp_sack", "0")];

/// The first timeout says what did not help before: duplicates, fast recovery, a timeout that was not over yet.
#[test]
fn timeouts_count_what_failed_before() {
    let mut f = Forger::new(&[]);
    f.send(5);
    f.ack(0, &[(MSS, 2 * MSS)]);
    f.p.run(SEC);
    assert_eq!((f.count(C::TcpExtTCPSackRecoveryFail), f.count(C::TcpExtTCPLossFailures)), (1, 0));
    // A part is acknowledged, and then nothing.
    f.ack(MSS, &[]);
    f.p.run(3 * SEC);
    assert_eq!((f.count(C::TcpExtTCPSackRecoveryFail), f.count(C::TcpExtTCPLossFailures)), (1, 1));

    let mut f = Forger::new(&[]);
    f.send(8);
    f.ack(0, &[(MSS, 5 * MSS)]);
    assert_eq!(f.count(C::TcpExtTCPSackRecovery), 1);
    f.p.run(SEC);
    assert_eq!(f.count(C::TcpExtTCPSackRecoveryFail), 1);

    let mut f = Forger::new(NO_SACK);
    f.send(8);
    f.ack(0, &[]);
    f.p.run(SEC);
    assert_eq!(f.count(C::TcpExtTCPRenoFailures), 1);

    let mut f = Forger::new(NO_SACK);
    f.send(8);
    (0..3).for_each(|_| f.ack(0, &[]));
    assert_eq!(f.count(C::TcpExtTCPRenoRecovery), 1);
    f.p.run(SEC);
    assert_eq!((f.count(C::TcpExtTCPRenoRecoveryFail), f.count(C::TcpExtTCPRenoFailures)), (1, 0));
}

/// The last segment is lost, and the probe repairs it.
#[test]
fn a_probe_that_repairs_counts() {
    let mut f = Forger::new(&[]);
    f.send(2);
    f.ack(MSS, &[]);
    f.p.run(240 * MS);
    assert_eq!(f.count(C::TcpExtTCPLossProbes), 1);
    f.send(1);
    f.ack(3 * MSS, &[]);
    assert_eq!(f.count(C::TcpExtTCPLossProbeRecovery), 1);
}

/// What SACK reports in another order than it was sent in.
#[test]
fn reordering_counts_by_what_found_it() {
    let mut f = Forger::new(&[]);
    f.send(6);
    f.ack(0, &[(2 * MSS, 3 * MSS)]);
    f.ack(0, &[(MSS, 3 * MSS)]);
    assert_eq!(f.count(C::TcpExtTCPSACKReorder), 1);

    // One acknowledgement is one case, however many segments it says it of.
    let mut f = Forger::new(&[]);
    f.send(6);
    f.ack(0, &[(5 * MSS, 6 * MSS)]);
    f.ack(0, &[(MSS, 2 * MSS), (3 * MSS, 4 * MSS), (5 * MSS, 6 * MSS)]);
    assert_eq!(f.count(C::TcpExtTCPSACKReorder), 1);

    // Two holes that close by themselves.
    let mut f = Forger::new(&[]);
    f.send(5);
    f.ack(0, &[(2 * MSS, 3 * MSS), (4 * MSS, 5 * MSS)]);
    f.ack(5 * MSS, &[]);
    assert_eq!(f.count(C::TcpExtTCPSACKReorder), 1);

    let mut f = Forger::new(NO_SACK);
    f.send(2);
    (0..2).for_each(|_| f.ack(0, &[]));
    assert_eq!(f.count(C::TcpExtTCPRenoReorder), 1, "one segment can not arrive twice");
}

/// Blocks that name nothing which is under way, and reports of duplicates of every kind.
#[test]
fn sack_blocks_that_say_nothing_count() {
    let mut f = Forger::new(&[]);
    f.send(4);
    f.ack(0, &[(3 * MSS, 9 * MSS)]);
    assert_eq!(f.count(C::TcpExtTCPSACKDiscard), 1, "it was never sent");
    f.ack(2 * MSS, &[(0, MSS)]);
    assert_eq!((f.count(C::TcpExtTCPDSACKRecv), f.count(C::TcpExtTCPDSACKIgnoredDubious)), (1, 1));
    f.ack(2 * MSS, &[(3 * MSS, 3 * MSS), (3 * MSS, 4 * MSS)]);
    assert_eq!(f.count(C::TcpExtTCPDSACKOfoRecv), 1);

    // A segment is sent twice, everything arrives, and then the report that it came twice.
    let mut f = Forger::new(&[]);
    f.send(4);
    f.p.run(SEC);
    let twice = f.count(C::TcpRetransSegs);
    assert!(twice > 0);
    f.ack(4 * MSS, &[]);
    f.send(1);
    f.p.tcb(B, f.b).undo_marker = None;
    f.ack(4 * MSS, &[(0, MSS)]);
    assert_eq!((f.count(C::TcpExtTCPDSACKRecvSegs), f.count(C::TcpExtTCPDSACKRecv)), (1, 1));
    assert_eq!(f.count(C::TcpExtTCPDSACKIgnoredNoUndo), 1);
    // There is something to undo, but the report is of what was sent before.
    let tp = f.p.tcb(B, f.b);
    (tp.undo_marker, tp.total_retrans) = (Some(tp.snd_una), 10);
    f.ack(4 * MSS, &[(0, MSS)]);
    assert_eq!(f.count(C::TcpExtTCPDSACKIgnoredOld), 1);
}

/// Overtaken acknowledgements with an old timestamp do no harm and are not answered.
#[test]
fn drop_tcp_paws_ack() {
    let mut f = Forger::new(&[]);
    f.send(2);
    let (begun, old) = (f.p.seen.len(), f.ts.wrapping_sub(100_000));
    let opts = TcpOptions { ts: Some((old, 0)), ..TcpOptions::NONE };
    let (seq, ack, flags) = (f.seq.wrapping_sub(1), f.una, TcpFlags::ACK);
    f.p.inject(B, f.ports, Forged { seq, ack, flags, window: 500, opts, data: &[] });
    f.p.run(MS);
    assert_eq!((f.p.drops(B, Reason::TcpPawsAck), f.count(C::TcpExtPAWSOldAck)), (1, 1));
    assert_eq!((f.count(C::TcpExtPAWSEstab), f.p.seen.len()), (0, begun), "not answered");
}

/// An old timestamp in TIME_WAIT.
#[test]
fn drop_tcp_tw_paws() {
    let mut p = Pair::new(311, GOOD);
    let (a, b) = p.connected();
    p.run(100 * MS);
    p.shards[A].tcp_close(a);
    p.run(100 * MS);
    let now = p.now;
    let tp = p.tcb(B, b);
    let (ports, seq, ack) = ((80, tp.tuple.rport), tp.snd_nxt.0, tp.rcv_nxt.0);
    let ts = tp.ts_now(now).wrapping_sub(100_000);
    p.shards[B].tcp_close(b);
    p.run(100 * MS);
    assert_eq!((p.shards[A].tcp.tws.len(), p.count(A, C::TcpExtTW)), (1, 1), "when it begins");
    let opts = TcpOptions { ts: Some((ts, 0)), ..TcpOptions::NONE };
    let flags = TcpFlags::ACK;
    p.inject(A, ports, Forged { seq, ack, flags, window: 500, opts, data: b"old" });
    assert_eq!((p.drops(A, Reason::TcpTwPaws), p.count(A, C::TcpExtPAWSTimewait)), (1, 1));
}

/// The end of a handshake that echoes what no SYN-ACK said; and a SYN-ACK that echoes what no SYN said.
#[test]
fn drop_tcp_ts_ecr() {
    let mut p = Pair::new(312, GOOD);
    p.listen(80);
    let ts = |ecr| TcpOptions { ts: Some((1000, ecr)), ..TcpOptions::NONE };
    let syn =
        Forged { seq: 1, flags: TcpFlags::SYN, window: 1000, opts: ts(0), ..Forged::default() };
    p.inject(B, (5, 80), syn);
    p.run(MS / 2);
    let answer = p.last_of(B);
    let (said, ack) = (answer.opts.ts.expect("timestamps").0, answer.hdr.seq.wrapping_add(1));
    let end = |ecr| Forged {
        seq: 2,
        ack,
        flags: TcpFlags::ACK,
        window: 1000,
        opts: ts(ecr),
        ..Forged::default()
    };
    p.inject(B, (5, 80), end(said.wrapping_sub(5)));
    assert_eq!((p.drops(B, Reason::TcpTsEcr), p.count(B, C::TcpExtTSEcrRejected)), (1, 1));
    assert_eq!(p.shards[B].tcp.conns.len(), 0);
    p.inject(B, (5, 80), end(said));
    assert_eq!(p.shards[B].tcp.conns.len(), 1);

    let mut p = Pair::new(313, GOOD);
    p.lose = Some(|_| true);
    let a = p.connect(80);
    p.run(MS);
    let syn = p.last_of(A);
    let said = syn.opts.ts.expect("timestamps").0;
    let synack = |ecr| Forged {
        seq: 1,
        ack: syn.hdr.seq.wrapping_add(1),
        flags: TcpFlags::SYN | TcpFlags::ACK,
        window: 1000,
        opts: ts(ecr),
        ..Forged::default()
    };
    let ports = (80, syn.hdr.src_port);
    p.inject(A, ports, synack(said.wrapping_sub(5)));
    assert_eq!((p.count(A, C::TcpExtPAWSActive), p.tcb(A, a).state), (1, State::SynSent));
    p.run(MS);
    assert!(p.last_of(A).hdr.flags.rst());
    p.inject(A, ports, synack(said));
    assert_eq!(p.tcb(A, a).state, State::Established);
}

/// Waits of four seconds at the most count for themselves.
#[test]
fn short_waits_count_as_killed() {
    let mut p = Pair::new(314, GOOD);
    let (a, _b) = p.connected();
    p.shards[A].tcp_set(a, TcpOpt::Linger2(2)).expect("set");
    p.shards[A].tcp_close(a);
    p.run(SEC);
    assert_eq!((p.count(A, C::TcpExtTWKilled), p.count(A, C::TcpExtTW)), (1, 0));
}
