//! The stack, its one device, and the virtual clock.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use linerate_arch::csum::{csum_fold, csum_partial};
use linerate_core::ip::fib::{Route, RouteKind};
use linerate_core::link::{Features, Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Csum, Pkt};
use linerate_core::shard::Shard;
use linerate_core::time::Instant;
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;

use crate::flags::Flags;

/// The addresses that packetdrill expects the stack to have.
const LOCAL4: (Ipv4Addr, u8) = (Ipv4Addr::new(192, 168, 0, 1), 16);
const LOCAL6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd3d, 0x0a0b, 0x17d6, 0, 0, 0, 0, 1), 64);

/// The stack and what it has sent.
pub(crate) struct Stack {
    /// The stack.
    pub shard: Shard,
    batch: Batch,
    /// Packets that left, with the time at which they did.
    pub sent: VecDeque<(Instant, Vec<u8>)>,
}

impl Stack {
    /// A stack as the flags say.
    pub fn new(flags: &Flags) -> Stack {
        let mut shard = Shard::new(flags.seed);
        shard.net.now = Instant::from_ns(1_000_000_000);
        let mut iface = Iface::new("tun0", L2::Ip, Mac::ZERO, flags.mtu);
        // As the TUN device that packetdrill opens on Linux: super-packets leave whole.
        iface.features = Features { tx_csum: true, tso4: true, tso6: true, uso: false };
        let dev = shard.add_iface(iface);
        let addrs: [(IpAddr, u8); 2] = [(LOCAL4.0.into(), LOCAL4.1), (LOCAL6.0.into(), LOCAL6.1)];
        for (addr, prefix) in addrs {
            shard.add_addr(dev, addr, prefix).expect("a new device takes any address");
            let all = match addr {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let route = Route::new(all, 0, RouteKind::Unicast, dev);
            shard.add_route(route).expect("an empty table takes any route");
            // packetdrill may choose any address of the prefix.
            let local = Route::new(addr, prefix, RouteKind::Local, dev);
            shard.add_route(local).expect("an empty table takes any route");
        }
        Stack { shard, batch: Batch::new(), sent: VecDeque::new() }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.shard.net.now
    }

    /// A packet arrives. False if there is no memory for it.
    pub fn receive(&mut self, bytes: &[u8]) -> bool {
        let net = &mut self.shard.net;
        let Some(mut pkt) = net.pool.alloc() else { return false };
        let (head, rest) = bytes.split_at(bytes.len().min(pkt.tailroom()));
        pkt.put(head.len()).copy_from_slice(head);
        if !rest.is_empty() {
            let Some(mut buf) = net.pool.alloc_large().filter(|buf| buf.len() >= rest.len()) else {
                net.pool.free(pkt);
                return false;
            };
            buf[..rest.len()].copy_from_slice(rest);
            pkt.add_buf(buf, 0, rest.len());
        }
        (pkt.dev, pkt.rx_time) = (0, net.now);
        self.batch.push(pkt);
        path::receive(&mut self.shard, &mut self.batch);
        self.settle();
        true
    }

    /// What the stack has to send, it sends.
    pub fn settle(&mut self) {
        // A packet to ourselves goes round; an answer to it may, too: bounded.
        for _ in 0..64 {
            path::transmit(&mut self.shard, &mut self.batch);
            let ring = path::qdisc_run(&mut self.shard.net, 0, 0, usize::MAX);
            let ring: Vec<Pkt> = ring.map(|ring| ring.drain(..).collect()).unwrap_or_default();
            let done = ring.is_empty();
            for pkt in ring {
                self.sent.push_back((self.shard.net.now, on_the_wire(&pkt)));
                tx_done(&mut self.shard.net, pkt, true);
            }
            let looped = path::process_backlog(&mut self.shard, &mut self.batch, 64);
            if done && looped == 0 {
                break;
            }
        }
    }

    /// When something happens next by itself.
    pub fn next_timer(&self) -> Option<Instant> {
        path::next_timer(&self.shard)
    }

    /// The clock stands at `to`, or where it stood if that is later; what is due happens.
    pub fn pass(&mut self, to: Instant) {
        let now = self.now().max(to);
        path::timers(&mut self.shard, now);
        self.settle();
    }
}

/// The packet as bytes, with its checksum completed over all of it.
fn on_the_wire(pkt: &Pkt) -> Vec<u8> {
    let mut bytes: Vec<u8> = pkt.slices().flatten().copied().collect();
    if let Csum::Partial { start, offset } = pkt.csum {
        let start = start as usize;
        let sum = csum_fold(csum_partial(&bytes[start..], 0));
        let at = start + offset as usize;
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}
