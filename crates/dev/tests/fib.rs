//! Goal: a program that asks for routes (`bpf_fib_lookup`) is answered by our stack as by the kernel's, code by
//! code, and the packets that it makes of the answers are the same.
//! Method: a namespace with addresses, routes and neighbours, and a stack with the same; the router of
//! `linerate-bpf`'s objects in both, which counts what it is answered; packets to each kind of destination.
//! It needs CAP_BPF.

mod again;

use std::net::IpAddr;
use std::process::Command;

use again::{in_netns, skip};
use linerate_bpf::insn::code::{LD_IMM64, PSEUDO_MAP};
use linerate_bpf::object::Object;
use linerate_bpf::prog::Program;
use linerate_bpf::sys;
use linerate_bpf::vm::Vm;
use linerate_core::ip::fib::{Route, RouteKind};
use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::wire::Mac;
use linerate_dev::netdev::{Netdev, PeerNetns};

const ROUTE: &[u8] = include_bytes!("../../bpf/tests/objects/route.o");
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
/// Codes that there are.
const CODES: u32 = 10;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A UDP datagram to `dst` in a frame, with so many bytes from the IP header on.
fn frame(dst: IpAddr, len: usize) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match dst {
        IpAddr::V4(dst) => {
            let mut head = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 1, 0, 0, 64, 17, 0, 0];
            head.extend([10, 1, 0, 7]);
            head.extend(dst.octets());
            let words = head.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1]));
            let sum: u32 = words.sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            head[10..12].copy_from_slice(&sum.to_be_bytes());
            out.extend([8, 0]);
            out.extend(head);
        }
        IpAddr::V6(dst) => {
            let payload = (len - 40) as u16;
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend(payload.to_be_bytes());
            out.extend([17, 64]);
            let IpAddr::V6(src) = ip("fd01::7") else { unreachable!() };
            out.extend(src.octets());
            out.extend(dst.octets());
        }
    }
    out.resize(14 + len, 0);
    out
}

fn sh(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

/// The program in the kernel, and its map.
fn kernels() -> Result<(sys::Prog, sys::Map), String> {
    let object = Object::parse(ROUTE).unwrap();
    let source = object.source(None).unwrap();
    let map = sys::Map::create_as(&source.maps[0].def).map_err(|e| e.to_string())?;
    let mut insns = source.insns.clone();
    for insn in &mut insns {
        if insn.code == LD_IMM64 && insn.src() == PSEUDO_MAP {
            *insn = insn.with_imm(map.number());
        }
    }
    let loaded = sys::Prog::load_licensed(&insns, &source.name, &source.license, false);
    loaded.map(|prog| (prog, map)).map_err(|e| format!("{}: {}", e.source, e.log))
}

/// Our stack as the namespace is: the loopback device, by which the kernel's test runs come in, and two.
fn stack(near: Mac, far: Mac, near_first: bool) -> (Shard, u8) {
    let mut shard = Shard::new(3);
    let mut ends = [("near", near), ("far", far)];
    if !near_first {
        ends.reverse();
    }
    for (name, mac) in [("lo", Mac::ZERO)].into_iter().chain(ends) {
        shard.add_iface(Iface::new(name, L2::Ethernet, mac, 1500));
    }
    let dev = if near_first { 1 } else { 2 };
    for (addr, len) in [("10.5.0.1", 24), ("fd05::1", 64)] {
        shard.add_addr(dev, ip(addr), len).unwrap();
    }
    for (net, len, kind) in [
        ("10.6.1.0", 24, RouteKind::Blackhole),
        ("10.6.2.0", 24, RouteKind::Unreachable),
        ("10.6.3.0", 24, RouteKind::Prohibit),
        ("fd06:1::", 64, RouteKind::Blackhole),
        ("fd06:2::", 64, RouteKind::Unreachable),
        ("fd06:3::", 64, RouteKind::Prohibit),
    ] {
        shard.add_route(Route::new(ip(net), len, kind, dev)).unwrap();
    }
    for (net, len, via) in [("10.7.0.0", 16, "10.5.0.9"), ("fd07::", 32, "fd05::9")] {
        let route = Route { mtu: Some(1300), ..Route::via(ip(net), len, ip(via), dev) };
        shard.add_route(route).unwrap();
        assert!(shard.neigh_add(dev, ip(via), Mac(PEER)));
    }
    (shard, dev)
}

/// The same in the kernel.
fn namespace(netdev: &mut Netdev, near: u32) {
    netdev.add_addr(near, ip("10.5.0.1"), 24).unwrap();
    sh("ip -6 addr add fd05::1/64 dev near nodad");
    for (net, kind) in [(1, "blackhole"), (2, "unreachable"), (3, "prohibit")] {
        sh(&format!("ip route add {kind} 10.6.{net}.0/24"));
        sh(&format!("ip -6 route add {kind} fd06:{net}::/64"));
    }
    sh("ip route add 10.7.0.0/16 via 10.5.0.9 mtu lock 1300");
    sh("ip -6 route add fd07::/32 via fd05::9 mtu lock 1300");
    for peer in ["10.5.0.9", "fd05::9"] {
        netdev.add_neigh(near, ip(peer), PEER).unwrap();
    }
}

#[test]
fn routes_are_answered_as_the_kernel_answers() {
    const TEST: &str = "routes_are_answered_as_the_kernel_answers";
    if !in_netns(TEST) {
        return;
    }
    let (prog, map) = match kernels() {
        Ok(both) => both,
        Err(why) => return skip(TEST, &format!("bpf(2) says: {why}")),
    };
    let mut netdev = Netdev::open().unwrap();
    sh("ip link set lo up");
    netdev.add_veth("near", "far", PeerNetns::Same).unwrap();
    let (near, far) = (netdev.link("near").unwrap(), netdev.link("far").unwrap());
    for index in [near.index, far.index] {
        netdev.set_up(index, true).unwrap();
    }
    namespace(&mut netdev, near.index);
    let (near_mac, far_mac) = (Mac(near.mac.unwrap()), Mac(far.mac.unwrap()));
    let (mut shard, dev) = stack(near_mac, far_mac, near.index < far.index);
    let program = Object::parse(ROUTE).unwrap().load(None, 1).unwrap();
    linerate_dev::ebpf::attach(Vm::new(program.clone(), 0, 1), &mut shard, 0);

    let ours = |program: &Program, n: u32| {
        program.map("answers").unwrap().get(&n.to_le_bytes()).unwrap().remove(0)
    };
    let mut codes = [0; CODES as usize];
    let mut compare = |shard: &mut Shard, to: &str, len: usize| {
        let frame = frame(ip(to), len);
        let theirs = prog.run(&frame).unwrap();
        let mut pkt = shard.net.pool.alloc().unwrap();
        pkt.put(frame.len()).copy_from_slice(&frame);
        (pkt.dev, pkt.queue) = (0, 0);
        let mut batch = Batch::new();
        batch.push(pkt);
        path::receive(shard, &mut batch);
        for n in 0..CODES {
            let (ours, theirs) = (ours(&program, n), map.lookup(&n.to_le_bytes()).unwrap());
            assert_eq!(Some(&ours), theirs.as_ref(), "{to}, {len} bytes: answers {n}");
            codes[n as usize] = u64::from_le_bytes(ours.try_into().unwrap());
        }
        const XDP_REDIRECT: u32 = 4;
        let sent = shard.net.ifaces[usize::from(dev)].txqs[0].ring.pop_front();
        assert_eq!(sent.is_some(), theirs.returned == XDP_REDIRECT, "{to}");
        if let Some(pkt) = sent {
            assert_eq!(pkt.head(), theirs.data, "{to}");
            shard.net.pool.free(pkt);
        }
    };
    let cases = [
        ("10.5.0.9", 100),
        ("10.5.0.1", 100),
        ("10.5.0.77", 100),
        ("10.5.0.255", 100),
        ("10.7.3.4", 100),
        ("10.7.3.4", 1300),
        ("10.7.3.4", 1301),
        ("10.5.0.9", 1500),
        ("10.6.1.1", 100),
        ("10.6.2.1", 100),
        ("10.6.3.1", 100),
        ("192.0.2.1", 100),
        ("224.0.0.5", 100),
        ("127.0.0.1", 100),
        ("fd05::9", 100),
        ("fd05::1", 100),
        ("fd05::77", 100),
        ("fd07::1", 100),
        ("fd07::1", 1300),
        ("fd07::1", 1301),
        ("fd06:1::1", 100),
        ("fd06:2::1", 100),
        ("fd06:3::1", 100),
        ("2001:db8::1", 100),
        ("fe80::1", 100),
        ("ff02::1", 100),
    ];
    for forwards in [false, true] {
        for (name, knob) in [
            ("ipv4/conf/all/forwarding", "net.ipv4.ip_forward"),
            ("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
        ] {
            let value = if forwards { "1" } else { "0" };
            if let Err(why) = std::fs::write(format!("/proc/sys/net/{name}"), value) {
                return skip(TEST, &format!("net/{name} can not be written: {why}"));
            }
            shard.set_knob(knob, value).unwrap();
        }
        for (to, len) in cases {
            compare(&mut shard, to, len);
        }
    }
    for code in [0, 1, 2, 3, 4, 5, 7, 8] {
        assert!(codes[code] > 1, "code {code} was never the answer: {codes:?}");
    }
}
