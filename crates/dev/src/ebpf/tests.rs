use std::sync::Arc;

use linerate_bpf::object::Object;
use linerate_bpf::prog::Program as Loaded;
use linerate_bpf::vm::Vm;
use linerate_core::ip::fib::{Route, RouteKind};
use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::table::{Counter, Reason, Stage};
use linerate_core::time::Instant;
use linerate_core::wire::Mac;

fn loaded(object: &[u8], name: &str) -> Arc<Loaded> {
    let object = Object::parse(object).expect("it is whole");
    object.load(Some(name), 1).expect("it is fine")
}

/// A stack with two devices, the first of which has the program.
fn shard(program: &Arc<Loaded>, l2: L2) -> Shard {
    let mut shard = Shard::new(1);
    for name in ["dev0", "dev1"] {
        let mut iface = Iface::new(name, l2, Mac([2, 0, 0, 0, 0, 1]), 1500);
        iface.any_ip = true;
        shard.add_iface(iface);
    }
    let vm = Vm::new(Arc::clone(program), 0, 1);
    super::attach(vm, &mut shard, 0);
    shard
}

fn receive(shard: &mut Shard, frame: &[u8], now: u64) {
    shard.net.now = Instant::from_ns(now);
    let mut pkt = shard.net.pool.alloc().expect("memory");
    pkt.put(frame.len()).copy_from_slice(frame);
    (pkt.dev, pkt.queue, pkt.rx_time) = (0, 0, shard.net.now);
    let mut batch = Batch::new();
    batch.push(pkt);
    path::receive(shard, &mut batch);
}

/// An IPv4 datagram from 10.0.0.`from`.
fn datagram(from: u8) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, 1];
    let sum: u32 = ip.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend([0, 99, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
    ip
}

fn framed(ip: &[u8]) -> Vec<u8> {
    let ethertype = [8, 0];
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9], &ethertype[..], ip].concat()
}

const DROP: &[u8] = include_bytes!("../../../bpf/tests/objects/drop.o");
const REWRITE: &[u8] = include_bytes!("../../../bpf/tests/objects/rewrite.o");
const ROUTE: &[u8] = include_bytes!("../../../bpf/tests/objects/route.o");
const PARTS: &[u8] = include_bytes!("../../../bpf/tests/objects/parts.o");

/// Goal: what the list has is dropped, the rest goes on whole, with a header of its own and without.
#[test]
fn a_drop_list_drops_on_every_kind_of_device() {
    for l2 in [L2::Ip, L2::Ethernet] {
        let program = loaded(DROP, "xdp");
        let list = program.map("drop4").expect("the list");
        list.set(&[32, 0, 0, 0, 10, 0, 0, 7], &[&[0; 8]], 0).expect("room");
        let mut shard = shard(&program, l2);
        for from in [7, 8, 7, 9] {
            let ip = datagram(from);
            receive(&mut shard, &if l2 == L2::Ip { ip } else { framed(&ip) }, 1);
        }
        let counts = &shard.net.counts;
        assert_eq!(counts.drops_at(Stage::Xdp, Reason::Xdp), 2, "{l2:?}");
        assert_eq!(counts.get(Counter::XdpPass), 2);
        // What passed is a packet like any other: it was delivered, to nobody.
        assert_eq!(counts.get(Counter::IpInDelivers), 2, "{l2:?}");
        assert_eq!(program.runs(None).drop, 2);
        assert_eq!(list.get(&[32, 0, 0, 0, 10, 0, 0, 7]), Some(vec![vec![2, 0, 0, 0, 0, 0, 0, 0]]));
    }
}

/// Goal: what a program adds to a packet goes out with it, by the device that it names.
#[test]
fn headers_are_added_and_packets_sent_on() {
    let shard_of = |l2| {
        let mut shard = shard(&loaded(REWRITE, "wrap"), l2);
        let ip = datagram(3);
        receive(&mut shard, &if l2 == L2::Ip { ip.clone() } else { framed(&ip) }, 1);
        assert_eq!(shard.net.counts.get(Counter::XdpTx), 1);
        let sent = shard.net.ifaces[0].txqs[0].ring.pop_front().expect("it was sent");
        let bytes = sent.head().to_vec();
        assert_eq!(bytes[bytes.len() - ip.len()..], ip, "inside it is the same");
        let outer = &bytes[bytes.len() - ip.len() - 20..];
        assert_eq!((outer[0], outer[9], outer[3]), (0x45, 4, 52));
        shard.net.pool.free(sent);
        bytes.len() - ip.len()
    };
    assert_eq!((shard_of(L2::Ip), shard_of(L2::Ethernet)), (20, 34));

    let program = loaded(PARTS, "forward");
    program.map("ports").expect("ports").set(&[2, 0, 0, 0], &[&[2, 0, 0, 0]], 0).expect("set");
    let mut shard = shard(&program, L2::Ethernet);
    receive(&mut shard, &framed(&datagram(3)), 1);
    assert_eq!(shard.net.counts.get(Counter::XdpRedirect), 1);
    let sent = shard.net.ifaces[1].txqs[0].ring.pop_front().expect("by the second device");
    assert_eq!(sent.head(), framed(&datagram(3)));
    shard.net.pool.free(sent);
}

/// Goal: one that misbehaves loses its packets, and the path goes on.
#[test]
fn a_fault_aborts_and_the_path_goes_on() {
    let object = Object::parse(PARTS).expect("it is whole");
    let mut source = object.source(Some("second")).expect("it is there");
    // Reads where nothing is.
    let first = source.insns[0];
    source.insns[0] = linerate_bpf::Insn::new(0x79, first.dst(), 1, 4000, 0);
    let program = Loaded::load(source, 1).expect("that is seen when it runs");
    let mut shard = shard(&program, L2::Ip);
    for _ in 0..3 {
        receive(&mut shard, &datagram(1), 1);
    }
    assert_eq!(shard.net.counts.drops_at(Stage::Xdp, Reason::XdpAborted), 3);
    let (faults, last) = program.faults();
    let last = last.expect("it is kept").to_string();
    assert_eq!(faults, 3);
    assert!(
        last.starts_with("instruction 0: reads 8 bytes at offset 4000 of the context"),
        "{last}"
    );
    shard.attach_xdp(0, None);
    receive(&mut shard, &datagram(1), 1);
    assert_eq!(shard.net.counts.get(Counter::IpInDelivers), 1);
}

/// Goal: a router's program is answered as the kernel answers, code by code, from the stack's routes and
/// neighbours; what it sends on goes out by the device and to the neighbour that they name.
#[test]
fn a_router_is_answered_from_the_routes_of_the_stack() {
    let program = loaded(ROUTE, "route");
    let mut shard = shard(&program, L2::Ethernet);
    let answers = || {
        let count = |n: u32| {
            let values = program.map("answers").expect("it is there").get(&n.to_le_bytes());
            u64::from_le_bytes(values.expect("an entry")[0][..].try_into().expect("8 bytes"))
        };
        (0..10).map(count).collect::<Vec<_>>()
    };
    // The answer to a packet for this address, told by which count moved.
    let asked = |shard: &mut Shard, dst: [u8; 4], len: usize| {
        let before = answers();
        let mut ip = datagram(7);
        ip[16..20].copy_from_slice(&dst);
        ip.resize(len.max(ip.len()), 0);
        let total = (ip.len() as u16).to_be_bytes();
        ip[2..4].copy_from_slice(&total);
        (ip[10], ip[11]) = (0, 0);
        let sum: u32 =
            ip[..20].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        receive(shard, &framed(&ip), 1);
        let moved: Vec<usize> = (0..10).filter(|&n| answers()[n] != before[n]).collect();
        assert_eq!(moved.len(), 1, "one answer: {moved:?} {:?}", program.faults());
        moved[0]
    };
    let net = |text: &str| -> std::net::IpAddr { text.parse().expect("an address") };
    for iface in &mut shard.net.ifaces {
        iface.any_ip = false;
    }
    shard.net.ifaces[1].mac = Mac([2, 0, 0, 0, 0, 0x11]);
    assert_eq!(asked(&mut shard, [10, 5, 0, 9], 0), 5, "FWD_DISABLED");
    shard.set_knob("net.ipv4.ip_forward", "1").expect("a knob");
    assert_eq!(asked(&mut shard, [10, 5, 0, 9], 0), 4, "NOT_FWDED: there is no route");
    shard.add_addr(1, net("10.5.0.1"), 24).expect("an address");
    assert_eq!(asked(&mut shard, [10, 5, 0, 1], 0), 4, "NOT_FWDED: it is ours");
    assert_eq!(asked(&mut shard, [10, 5, 0, 9], 0), 7, "NO_NEIGH");
    for (dst, kind, answer) in [
        ("10.6.1.0", RouteKind::Blackhole, 1),
        ("10.6.2.0", RouteKind::Unreachable, 2),
        ("10.6.3.0", RouteKind::Prohibit, 3),
    ] {
        shard.add_route(Route::new(net(dst), 24, kind, 0)).expect("a route");
        let std::net::IpAddr::V4(dst) = net(dst) else { unreachable!() };
        assert_eq!(asked(&mut shard, dst.octets(), 0), answer, "{kind:?}");
    }
    shard.add_route(Route::via(net("10.7.0.0"), 16, net("10.5.0.9"), 1)).expect("a route");
    let peer = Mac([2, 0, 0, 0, 0, 0x99]);
    assert!(shard.neigh_add(1, net("10.5.0.9"), peer));
    shard.net.ifaces[1].mtu = 600;
    assert_eq!(asked(&mut shard, [10, 7, 1, 1], 700), 8, "FRAG_NEEDED");
    let sent = shard.net.counts.get(Counter::XdpRedirect);
    for dst in [[10, 5, 0, 9], [10, 7, 1, 1]] {
        assert_eq!(asked(&mut shard, dst, 0), 0, "SUCCESS");
        let pkt = shard.net.ifaces[1].txqs[0].ring.pop_front().expect("by the second device");
        let want = [&peer.0[..], &[2, 0, 0, 0, 0, 0x11, 8, 0, 0x45]].concat();
        assert_eq!(pkt.head()[..15], want);
        // One hop less, and its checksum is right.
        assert_eq!((pkt.head()[22], &pkt.head()[30..34]), (63, &dst[..]));
        let words = pkt.head()[14..34].chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1]));
        let sum: u32 = words.sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        shard.net.pool.free(pkt);
    }
    assert_eq!(shard.net.counts.get(Counter::XdpRedirect), sent + 2);
}

/// Goal: a program that takes another's place does so between two packets, with maps of its own.
#[test]
fn a_program_is_replaced_with_its_maps() {
    let (one, two) = (loaded(DROP, "drop_list"), loaded(DROP, "drop_list"));
    let mut shard = shard(&one, L2::Ethernet);
    let set = |program: &Loaded, on: bool| {
        let map = program.map("drop4").expect("it is there");
        let key = [32, 0, 0, 0, 10, 0, 0, 1];
        if on { map.set(&key, &[&[0; 8]], 0) } else { map.remove(&key) }.expect("done");
    };
    set(&one, true);
    for n in 0..10 {
        receive(&mut shard, &framed(&datagram(1)), 1);
        if n == 4 {
            super::attach(Vm::new(Arc::clone(&two), 0, 1), &mut shard, 0);
        }
    }
    let (first, second) = (one.runs(None), two.runs(None));
    assert_eq!((first.drop, first.total()), (5, 5));
    assert_eq!((second.pass, second.total()), (5, 5), "the new one's list is empty");
    assert_eq!(Arc::strong_count(&one), 1, "nobody holds the old one and its maps");
}
