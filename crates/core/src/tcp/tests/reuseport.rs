//! Listeners that share address and port (SO_REUSEPORT).

use super::*;
use crate::sock::error::BindError;

const SHARE: Listen = Listen {
    addr: None,
    port: 80,
    any_port: false,
    backlog: 1000,
    hold_syn: false,
    reuseport: true,
    rcvbuf: 0,
    user: 0,
};

/// So many connections are opened; how many each listener got.
fn spread(p: &mut Pair, listeners: &[SocketId], n: usize) -> Vec<usize> {
    (0..n).for_each(|_| {
        p.connect(80);
    });
    p.run(SEC);
    let counts = listeners.iter().map(|l| {
        let mut n = 0;
        while let Some(id) = p.shards[B].tcp_accept(*l) {
            p.shards[B].tcp_abort(id);
            n += 1;
        }
        n
    });
    counts.collect()
}

/// Flows are spread evenly, a program decides where there is one, and what it says of listeners that
/// do not exist is left to the flow.
#[test]
fn connections_are_spread_by_flow_or_program() {
    let mut p = Pair::new(21, GOOD);
    p.watch = false;
    let mut listeners = Vec::from([(); 3].map(|()| p.listen_as(SHARE)));
    let got = spread(&mut p, &listeners, 300);
    assert!(got.iter().sum::<usize>() == 300 && got.iter().all(|n| *n > 60), "{got:?}");

    // By the peer's port: what the program sees are the segment's ends.
    let by_port =
        |skb: &crate::pkt::Skb| if skb.dport == 80 { skb.sport as usize % 2 * 2 } else { 9 };
    assert!(p.shards[B].reuseport_attach_prog(listeners[1], Box::new(by_port)));
    let got = spread(&mut p, &listeners, 100);
    assert_eq!((got[1], got[0] + got[2]), (0, 100));
    assert!(got[0] > 0 && got[2] > 0, "{got:?}");

    // One closes: the others move up, and the program's second choice does not exist any more.
    p.shards[B].tcp_close(listeners.remove(0));
    let got = spread(&mut p, &listeners, 100);
    assert!(got.iter().sum::<usize>() == 100 && got.iter().all(|n| *n > 0), "{got:?}");
    assert!(p.shards[B].reuseport_detach_prog(listeners[0]));
    let got = spread(&mut p, &listeners, 100);
    assert!(got.iter().all(|n| *n > 20), "{got:?}");

    // The last takes the program with it.
    assert!(p.shards[B].reuseport_attach_prog(listeners[1], Box::new(|_| 1)));
    listeners.drain(..).for_each(|l| p.shards[B].tcp_close(l));
    let listeners = [p.listen_as(SHARE), p.listen_as(SHARE)];
    let got = spread(&mut p, &listeners, 100);
    assert!(got.iter().all(|n| *n > 20), "no program decides: {got:?}");
    p.check();
}

/// All that share an address and port must say so; one bound to the address goes first.
#[test]
fn only_listeners_share_that_all_say_so() {
    let mut p = Pair::new(22, GOOD);
    let alone = p.listen(80);
    assert_eq!(p.shards[B].tcp_listen(SHARE), Err(BindError::AddrInUse));
    assert!(!p.shards[B].reuseport_attach_prog(alone, Box::new(|_| 0)));
    p.shards[B].tcp_close(alone);
    assert!(!p.shards[B].reuseport_attach_prog(alone, Box::new(|_| 0)), "it is closed");
    let any = p.listen_as(SHARE);
    let plain = Listen { reuseport: false, ..SHARE };
    assert_eq!(p.shards[B].tcp_listen(plain), Err(BindError::AddrInUse));
    let addr = p.addr(B);
    let bound = p.listen_as(Listen { addr: Some(addr), ..SHARE });
    assert_eq!(spread(&mut p, &[any, bound], 20), [0, 20]);
}
