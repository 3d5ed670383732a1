use std::sync::Arc;

use linerate_bpf::object::Object;
use linerate_bpf::prog::Program as Loaded;
use linerate_bpf::vm::Vm;
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
    shard.attach_xdp(0, Some(super::program(vm, l2 == L2::Ethernet)));
    shard
}

fn receive(shard: &mut Shard, frame: &[u8], now: u64) {
    shard.net.now = Instant::from_ns(now);
    let mut pkt = shard.net.pool.alloc().expect("memory");
    pkt.put(frame.len()).copy_from_slice(frame);
    (pkt.queue, pkt.rx_time) = (0, shard.net.now);
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
