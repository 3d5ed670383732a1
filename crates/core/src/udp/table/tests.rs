//! The tables against a naive search, and groups that share a port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ip::testkit::*;
use crate::rand::Rng;
use crate::shard::Shard;
use crate::sock::SocketId;
use crate::sock::error::BindError;
use crate::udp::api::UdpBind;

fn addr(i: u64) -> IpAddr {
    match i % 4 {
        0 | 1 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, i as u8 + 1)),
        _ => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, i as u16)),
    }
}

/// A socket as the model knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    id: SocketId,
    local: Option<IpAddr>,
    port: u16,
    remote: Option<SocketAddr>,
    share: bool,
}

/// How much a socket wants a datagram: who takes every port, last of all.
fn want(s: &Known, local: IpAddr, port: u16, remote: SocketAddr) -> Option<u8> {
    let addr = match s.local {
        Some(a) if a == local => 1,
        Some(_) => return None,
        None => 0,
    };
    let peer = match s.remote {
        Some(r) if r == remote => 2,
        Some(_) => return None,
        None => 0,
    };
    match s.port {
        0 => Some(addr + peer),
        p if p == port => Some(4 + addr + peer),
        _ => None,
    }
}

/// Random binding, connecting, closing and looking up: the tables find a socket that wants the
/// datagram most, and refuse what would be ambiguous.
#[test]
fn finds_what_a_naive_search_finds() {
    let mut rng = Rng::new(11);
    let mut cx = Shard::new(1);
    let mut all: Vec<Known> = Vec::new();
    let mut seen = [0; 8];
    let mut refused = 0;
    for _ in 0..60_000 {
        match rng.below(10) {
            0..=2 if all.len() < 400 => {
                let local = (rng.below(3) > 0).then(|| addr(rng.below(4)));
                let port = rng.below(6) as u16;
                let share = rng.below(2) == 0 && port != 0;
                let bind = UdpBind {
                    addr: local,
                    port,
                    any_port: port == 0,
                    reuseport: share,
                    ..UdpBind::default()
                };
                let clash = all.iter().any(|s| {
                    s.port == port
                        && s.remote.is_none()
                        && (s.local.is_none() || local.is_none() || s.local == local)
                        && !(share && s.share)
                });
                match cx.udp_bind(bind) {
                    Ok(id) => {
                        assert!(!clash, "{bind:?} is ambiguous");
                        all.push(Known { id, local, port, remote: None, share });
                    }
                    Err(err) => {
                        assert!(clash && err == BindError::AddrInUse, "{bind:?}: {err}");
                        refused += 1;
                    }
                }
            }
            3 if !all.is_empty() => {
                let i = rng.below(all.len() as u64) as usize;
                let remote = SocketAddr::new(addr(rng.below(4)), rng.below(4) as u16 + 1);
                cx.udp_connect(all[i].id, remote).expect("it is open");
                all[i].remote = Some(remote);
            }
            4 if !all.is_empty() => {
                let i = rng.below(all.len() as u64) as usize;
                cx.udp_close(all.swap_remove(i).id);
            }
            _ => {
                let (local, peer) = (addr(rng.below(4)), addr(rng.below(4)));
                if local.is_ipv4() != peer.is_ipv4() {
                    continue;
                }
                let (port, rport) = (rng.below(6) as u16 + 1, rng.below(4) as u16 + 1);
                let remote = SocketAddr::new(peer, rport);
                let best = all.iter().filter_map(|s| want(s, local, port, remote)).max();
                let found = cx.udp.lookup(&local, port, &peer, rport, None);
                let found = found.map(|id| {
                    let s = all.iter().find(|s| s.id == id).expect("only open ones are found");
                    want(s, local, port, remote).expect("it wants the datagram")
                });
                assert_eq!(found, best, "{local} {port} {remote}");
                if let Some(best) = best {
                    seen[best as usize] += 1;
                }
            }
        }
    }
    assert!(seen.iter().all(|n| *n > 0) && refused > 0, "each kind was found: {seen:?} {refused}");
    for s in all {
        cx.udp_close(s.id);
    }
    let udp = &cx.udp;
    assert_eq!((udp.conn, udp.conn_any, udp.bound, udp.table.len()), (0, 0, 0, 0));
    assert!(udp.every.is_empty() && udp.groups.is_empty());
    assert!(udp.ports.iter().all(|p| (p.any, p.addr, p.plain) == (0, 0, 0)));
}

fn group(kit: &mut Kit, n: usize) -> Vec<SocketId> {
    let bind = UdpBind { port: 53, rcvbuf: 1 << 20, reuseport: true, ..UdpBind::default() };
    (0..n).map(|_| kit.cx.udp_bind(bind).expect("shared")).collect()
}

/// How many datagrams each socket got.
fn counts(kit: &mut Kit, socks: &[SocketId]) -> Vec<usize> {
    let each = socks.iter().map(|id| {
        let mut n = 0;
        while let Some(got) = kit.cx.udp_recv(*id) {
            kit.cx.udp_done(got);
            n += 1;
        }
        n
    });
    let each = each.collect();
    kit.conserved();
    each
}

/// Flows are spread over the members; each flow keeps its socket.
#[test]
fn a_group_spreads_flows() {
    let mut kit = Kit::tun();
    let socks = group(&mut kit, 4);
    for sport in 1000..1400 {
        kit.rx(&udp4(PEER, US, sport, 53, b"one"));
    }
    let got = counts(&mut kit, &socks);
    assert_eq!(got.iter().sum::<usize>(), 400);
    assert!(got.iter().all(|n| (60..=140).contains(n)), "about a hundred each: {got:?}");
    for _ in 0..50 {
        kit.rx(&udp4(PEER, US, 1000, 53, b"one"));
    }
    let got = counts(&mut kit, &socks);
    assert!(got.contains(&50), "one flow, one socket: {got:?}");
}

/// The program's word decides; a number too large leaves it to the flow.
#[test]
fn a_program_steers_within_its_group() {
    let mut kit = Kit::tun();
    let socks = group(&mut kit, 3);
    // By the first byte of the payload, behind the UDP header.
    let prog = |skb: &crate::pkt::Skb| skb.head().get(8).copied().unwrap_or(99) as usize;
    assert!(kit.cx.reuseport_attach_prog(socks[1], Box::new(prog)));
    for i in 0..60u8 {
        kit.rx(&udp4(PEER, US, 7, 53, &[[0, 2, 2][i as usize % 3], 1]));
    }
    assert_eq!(counts(&mut kit, &socks), [20, 0, 40]);
    for sport in 0..90 {
        kit.rx(&udp4(PEER, US, 1000 + sport, 53, &[200]));
    }
    let got = counts(&mut kit, &socks);
    assert!(got.iter().sum::<usize>() == 90 && got.iter().all(|n| *n > 10), "{got:?}");
    assert!(kit.cx.reuseport_detach_prog(socks[0]));
    for sport in 0..90 {
        kit.rx(&udp4(PEER, US, 1000 + sport, 53, &[0]));
    }
    assert!(counts(&mut kit, &socks).iter().all(|n| *n > 10), "the flow decides again");
}

/// Members join and leave; a member that connects hears its peer, and the others do not.
#[test]
fn members_come_go_and_connect() {
    let mut kit = Kit::tun();
    let mut socks = group(&mut kit, 2);
    let prog = |skb: &crate::pkt::Skb| skb.head().get(8).copied().unwrap_or(99) as usize;
    assert!(kit.cx.reuseport_attach_prog(socks[0], Box::new(prog)));
    socks.extend(group(&mut kit, 1));
    kit.rx(&udp4(PEER, US, 7, 53, &[2]));
    assert_eq!(counts(&mut kit, &socks), [0, 0, 1], "who joined later has a place");
    kit.cx.udp_close(socks.remove(0));
    kit.rx(&udp4(PEER, US, 7, 53, &[0]));
    assert_eq!(counts(&mut kit, &socks), [1, 0], "the others move up, and the program stays");
    let peer = SocketAddr::new(PEER.parse().expect("an address"), 7);
    kit.cx.udp_connect(socks[0], peer).expect("open");
    kit.rx(&udp4(PEER, US, 7, 53, &[0]));
    kit.rx(&udp4(PEER, US, 8, 53, &[0]));
    assert_eq!(counts(&mut kit, &socks), [1, 1]);
    assert!(!kit.cx.reuseport_attach_prog(socks[0], Box::new(|_| 0)), "it is in no group");
    for id in socks {
        kit.cx.udp_close(id);
    }
    // Nobody is left: the port is free for one that shares with nobody.
    kit.cx.udp_bind(UdpBind { port: 53, ..UdpBind::default() }).expect("free");
}

/// Who shares does not disturb who does not.
#[test]
fn only_those_share_that_all_say_so() {
    let mut kit = Kit::tun();
    let one = UdpBind { port: 53, ..UdpBind::default() };
    let id = kit.cx.udp_bind(one).expect("free");
    let share = UdpBind { reuseport: true, ..one };
    assert_eq!(kit.cx.udp_bind(share), Err(BindError::AddrInUse));
    assert!(!kit.cx.reuseport_attach_prog(id, Box::new(|_| 0)));
    kit.cx.udp_close(id);
    assert!(!kit.cx.reuseport_attach_prog(id, Box::new(|_| 0)), "it is gone");
    kit.cx.udp_bind(share).expect("free");
    assert_eq!(kit.cx.udp_bind(one), Err(BindError::AddrInUse));
    kit.cx.udp_bind(UdpBind { addr: US.parse().ok(), ..share }).expect("shared");
}
