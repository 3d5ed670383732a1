use super::*;
use crate::table::count::Counter as C;
use crate::tcp::State;

/// RFC 9293 §3.5, figure 6: SYN, SYN-ACK, ACK, with the options that Linux sends.
#[test]
fn three_segments_establish_a_connection() {
    for v6 in [false, true] {
        let mut p = Pair::over(1, GOOD, v6);
        let (a, b) = p.connected();
        p.run(10 * MS);
        let flags: Vec<_> = p.seen.iter().map(|s| (s.from, s.hdr.flags)).collect();
        let syn_ack = TcpFlags::SYN | TcpFlags::ACK;
        assert_eq!(flags, [(A, TcpFlags::SYN), (B, syn_ack), (A, TcpFlags::ACK)]);
        let mss = if v6 { 1440 } else { 1460 };
        for s in &p.seen[..2] {
            assert_eq!((s.opts.mss, s.opts.wscale), (Some(mss), Some(7)));
            assert!(s.opts.sack_permitted && s.opts.ts.is_some());
        }
        assert_eq!(p.tcb(A, a).state, State::Established);
        assert_eq!(p.tcb(B, b).state, State::Established);
        assert_eq!(p.tcb(A, a).mss_cache, mss - 12);
        assert_eq!(p.shards[A].tcp_addrs(a).map(|t| t.1), Some(p.at(B, 80)));
        assert_eq!(p.shards[B].tcp_addrs(b).map(|t| t.0), Some(p.at(B, 80)));
        assert!(p.ready(A, a).has(Ready::OUT));
        assert_eq!((p.count(A, C::TcpActiveOpens), p.count(B, C::TcpPassiveOpens)), (1, 1));
        assert_eq!((p.count(A, C::TcpCurrEstab), p.count(B, C::TcpCurrEstab)), (1, 1));
        assert_eq!((p.count(B, C::TcpInSegs), p.count(B, C::TcpOutSegs)), (2, 1));
    }
}
