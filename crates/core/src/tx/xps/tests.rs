use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::*;
use crate::link::Iface;
use crate::path;
use crate::rand::Rng;
use crate::sock::SocketId;
use crate::table::Counter;
use crate::tx::xmit::tx_done;
use crate::udp::api::UdpBind;
use crate::udp::output::SendTo;
use crate::wire::Mac;

const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// A shard that has several transmit queues, and sends.
struct Sender {
    cx: Shard,
    sock: SocketId,
    batch: Batch,
    sent: BTreeMap<u16, u32>,
}

impl Sender {
    fn new(queues: usize) -> Sender {
        let mut cx = Shard::new(3);
        let dev = cx.add_iface(Iface::new("tun0", L2::Ip, Mac::ZERO, 1500));
        cx.net.ifaces[0].txqs.resize_with(queues, TxQueue::default);
        cx.add_addr(dev, IpAddr::V4(US), 24).expect("an address");
        let sock = cx.udp_bind(UdpBind { port: 7, ..Default::default() }).expect("bound");
        Sender { cx, sock, batch: Batch::new(), sent: BTreeMap::new() }
    }
    fn set(&mut self, knob: &str, value: &str) {
        self.cx.set_knob(knob, value).expect("in range");
    }
    /// The next datagram to each of these ports of the peer.
    fn send(&mut self, ports: &[u16]) {
        for port in ports {
            let number = self.sent.entry(*port).or_insert(0);
            *number += 1;
            let to = SendTo::to(SocketAddr::new(IpAddr::V4(PEER), *port));
            self.cx.udp_send(self.sock, to, &[&number.to_be_bytes()]).expect("sent");
        }
        path::transmit(&mut self.cx, &mut self.batch);
    }
    /// A datagram of this flow comes in by that queue.
    fn receive(&mut self, port: u16, rxq: u8) {
        let net = &mut self.cx.net;
        let mut pkt = net.pool.alloc().expect("memory");
        let ip = pkt.put(28);
        ip.fill(0);
        (ip[0], ip[3], ip[8], ip[9]) = (0x45, 28, 64, 17);
        ip[12..16].copy_from_slice(&PEER.octets());
        ip[16..20].copy_from_slice(&US.octets());
        let sum = linerate_arch::csum::csum_fold(linerate_arch::csum::csum_partial(ip, 0));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip[20..22].copy_from_slice(&port.to_be_bytes());
        (ip[23], ip[25]) = (7, 8);
        (pkt.dev, pkt.queue) = (0, rxq);
        self.batch.push(pkt);
        path::receive(&mut self.cx, &mut self.batch);
    }
    /// At most `n` packets leave by queue `queue`: port and number of each.
    fn leave(&mut self, queue: u8, n: usize) -> Vec<(u16, u32)> {
        let net = &mut self.cx.net;
        let ring = path::qdisc_run(net, 0, queue, n).expect("the queue exists");
        let gone: Vec<Pkt> = ring.drain(..n.min(ring.len())).collect();
        let read = |pkt: &Pkt| {
            let bytes: Vec<u8> = pkt.slices().flatten().copied().collect();
            let port = u16::from_be_bytes([bytes[22], bytes[23]]);
            (port, u32::from_be_bytes(*bytes[28..].first_chunk().expect("a number")))
        };
        let out = gone.iter().map(read).collect();
        gone.into_iter().for_each(|pkt| tx_done(net, pkt, true));
        out
    }
    /// Everything leaves: how many packets by each queue.
    fn drain(&mut self) -> Vec<usize> {
        let n = self.cx.net.ifaces[0].txqs.len();
        (0..n as u8).map(|q| self.leave(q, 10_000).len()).collect()
    }
    fn changes(&self) -> u64 {
        self.cx.net.counts.get(Counter::XpsQueueChanged)
    }
}

fn ports() -> Vec<u16> {
    (1000..1064).collect()
}

#[test]
fn without_masks_flows_spread_by_hash_and_stay() {
    let mut s = Sender::new(2);
    s.send(&ports());
    let first = s.drain();
    assert!(first.iter().all(|n| *n > 16), "{first:?}");
    s.send(&ports());
    assert_eq!(s.drain(), first);
    assert_eq!(s.changes(), 0);
    assert_eq!(s.cx.net.counts.unaccounted(), []);
}

#[test]
fn knob_queues_tx_xps_cpus() {
    let mut s = Sender::new(2);
    // Queue 1 takes the packets of this shard, number 0; queue 0 those of another.
    s.cx.set_xps_cpus(0, 0, Mask(2));
    s.cx.set_xps_cpus(0, 1, Mask(1));
    s.send(&ports());
    assert_eq!(s.drain(), [0, 64]);
    assert_eq!(s.changes(), 0);
    s.set("queues.tx.xps_cpus", "1");
    s.send(&ports());
    let both = s.drain();
    assert!(both.iter().all(|n| *n > 16), "{both:?}");
    assert_eq!(s.changes(), both[0] as u64, "each flow that left queue 1 is counted");
    assert_eq!(s.cx.net.counts.unaccounted(), []);
}

#[test]
fn knob_queues_tx_xps_rxqs() {
    let mut s = Sender::new(2);
    s.set("queues.tx.xps_rxqs", "3");
    for (i, port) in ports().into_iter().enumerate() {
        s.receive(port, (i % 2) as u8);
    }
    let even: Vec<u16> = ports().into_iter().step_by(2).collect();
    s.send(&even);
    assert_eq!(s.drain(), [32, 0], "answers leave by the queue that the questions came by");
    // The flow is received by the other queue now.
    even.iter().for_each(|port| s.receive(*port, 1));
    s.send(&even);
    assert_eq!((s.drain(), s.changes()), (vec![0, 32], 32));
    // It goes before `xps_cpus`, and back to the hash without either.
    s.cx.set_xps_cpus(0, 0, Mask(1));
    s.send(&even);
    assert_eq!((s.drain(), s.changes()), (vec![0, 32], 32));
    s.set("queues.tx.xps_rxqs", "0");
    s.send(&even);
    assert!(s.drain()[0] > 4 && s.changes() > 36);
    assert_eq!(s.cx.net.counts.unaccounted(), []);
}

/// Whatever masks change while packets wait: none of a flow leaves before an earlier one.
#[test]
fn order_survives_random_masks() {
    let mut changes = 0;
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let queues = 2 + rng.below(3) as usize;
        let mut s = Sender::new(queues);
        let mut last = BTreeMap::new();
        let mut left = 0;
        for _ in 0..600 {
            match rng.below(10) {
                0..4 => {
                    let n = 1 + rng.below(20);
                    let some: Vec<u16> = (0..n).map(|_| 1 + rng.below(12) as u16).collect();
                    s.send(&some);
                }
                4..8 => {
                    let queue = rng.below(queues as u64) as u8;
                    for (port, number) in s.leave(queue, 1 + rng.below(30) as usize) {
                        let before = last.insert(port, number).unwrap_or(0);
                        assert!(
                            before < number,
                            "seed {seed}: {port} sent {number} after {before}"
                        );
                        left += 1;
                    }
                }
                8 => {
                    let (queue, mask) = (rng.below(queues as u64) as u8, Mask(rng.below(4)));
                    match rng.below(2) {
                        0 => s.cx.set_xps_cpus(0, queue, mask),
                        _ => s.cx.set_xps_rxqs(0, queue, mask),
                    }
                }
                _ => s.receive(1 + rng.below(12) as u16, rng.below(2) as u8),
            }
            assert_eq!(s.cx.net.counts.unaccounted(), []);
        }
        assert!(left > 200, "seed {seed}: {left} sent");
        changes += s.changes();
    }
    assert!(changes > 200, "flows change queues: {changes} times");
}

/// What is forwarded goes by the queue of the number that it came by, also by the first; what came by
/// none, by its hash.
#[test]
fn what_came_by_the_first_queue_leaves_by_it() {
    for rxq in 0..6 {
        let mut sender = Sender::new(4);
        let mut pkt = sender.cx.net.pool.alloc().expect("memory");
        assert_eq!(pkt.queue, NO_QUEUE, "nobody has received it");
        pkt.put(28).fill(0);
        (pkt.dev, pkt.queue) = (0, rxq);
        assert_eq!(netdev_pick_tx(&mut sender.cx.net, &pkt), usize::from(rxq % 4));
        sender.cx.net.pool.free(pkt);
    }
    let mut sender = Sender::new(4);
    sender.send(&(1..=64).collect::<Vec<u16>>());
    let by_hash = sender.drain();
    assert!(by_hash.iter().all(|n| *n > 4), "{by_hash:?}");
}
