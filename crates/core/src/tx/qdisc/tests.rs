//! Goal: each discipline does with packets what tc's manual and the kernel's source say, and the law
//! of conservation holds whatever it is told. Method: a discipline alone, in virtual time, with a
//! device that takes what it gets; every chance follows from a fixed seed.

mod chance;
mod codel;
mod fair;
mod fifo;
mod netem;
mod property;
mod shard;
mod spec;
mod tbf;

use super::*;
use crate::table::{Counts, Stage};
use crate::time::{MS, SEC};
use std::net::{IpAddr, Ipv4Addr};

/// A packet that left, and when.
pub(super) struct Left {
    pub at: Instant,
    /// What the packet was marked with when it came.
    pub mark: u32,
    pub len: usize,
    /// What it says of congestion (ECN).
    pub ecn: u8,
    /// One of its bytes is not what it was.
    pub damaged: bool,
}

/// A discipline, and what it needs.
pub(super) struct Rig {
    pub sched: Sched,
    pub pool: Pool,
    pub counts: Counts,
    trace: Option<crate::trace::Trace>,
    pub now: Instant,
    pub left: Vec<Left>,
    pub drops: Vec<(u32, Reason)>,
    pub sums: bool,
}

pub(super) const PLACE: Place = Place { mtu: 1514, txqueuelen: 1000 };

impl Rig {
    pub fn new(spec: &str) -> Rig {
        let tree = Tree::parse(spec).expect("a sound specification");
        Rig {
            sched: Sched::new(tree, PLACE, &mut Rng::new(7)),
            pool: Pool::new(1 << 17, 1 << 12),
            counts: Counts::default(),
            trace: None,
            now: Instant::from_ns(SEC),
            left: Vec::new(),
            drops: Vec::new(),
            sums: true,
        }
    }
    pub fn env(&mut self) -> (&mut Sched, Env<'_>) {
        let env = Env {
            now: self.now,
            pool: &mut self.pool,
            counts: &self.counts,
            trace: &mut self.trace,
            device_sums: self.sums,
        };
        (&mut self.sched, env)
    }
    /// An IPv4 UDP packet of `len` bytes of flow `flow`, with this mark and type of service.
    pub fn pkt(&mut self, len: usize, flow: u16, mark: u32, tos: u8) -> Pkt {
        let mut pkt = self.pool.alloc().expect("a packet");
        fill(&mut pkt, len, flow, tos);
        pkt.mark = mark;
        pkt
    }
    pub fn send(&mut self, len: usize, flow: u16, mark: u32) -> bool {
        self.send_tos(len, flow, mark, 0)
    }
    /// Whether it was taken in.
    pub fn send_tos(&mut self, len: usize, flow: u16, mark: u32, tos: u8) -> bool {
        let pkt = self.pkt(len, flow, mark, tos);
        self.put(pkt)
    }
    pub fn put(&mut self, pkt: Pkt) -> bool {
        self.counts.flow(Stage::Qdisc).enter(1);
        let (sched, mut env) = self.env();
        match sched.enqueue(&mut env, pkt).0 {
            crate::pkt::Verdict::Drop(pkt, why) => {
                self.counts.dropped(Stage::Qdisc, why);
                self.drops.push((pkt.mark, why));
                self.pool.free(pkt);
                false
            }
            _ => true,
        }
    }
    /// Takes one packet out, if one may go now.
    pub fn take(&mut self) -> bool {
        let (sched, mut env) = self.env();
        let Some(pkt) = sched.dequeue(&mut env).0 else { return false };
        let flow = self.counts.flow(Stage::Qdisc);
        flow.release(1);
        flow.pass(1);
        let ip = pkt.from_network();
        let damaged = !pkt.slices().flatten().skip(28).all(|b| *b == 0x5a)
            || linerate_arch::csum::csum_fold(linerate_arch::csum::csum_partial(&ip[..20], 0)) != 0;
        let (at, mark, len) = (self.now, pkt.mark, pkt.len());
        self.left.push(Left { at, mark, len, ecn: ip[1] & 3, damaged });
        self.pool.free(pkt);
        true
    }
    /// Takes out all that may go now.
    pub fn pump(&mut self) {
        while self.take() {}
    }
    /// Lets time pass until `until`, taking out what may go as soon as it may.
    pub fn run(&mut self, until: Instant) {
        loop {
            self.pump();
            let next = self.sched.watchdog();
            if next > until {
                break;
            }
            assert!(next > self.now, "a watchdog that has passed, and nothing comes");
            self.now = next;
        }
        self.now = until;
    }
    /// Lets `ns` pass.
    pub fn pass(&mut self, ns: u64) {
        self.run(self.now.plus(ns));
    }
    /// Until nothing waits any more.
    pub fn drain(&mut self) {
        while self.sched.qdisc.len() > 0 {
            self.pump();
            if self.sched.qdisc.len() > 0 {
                assert_ne!(self.sched.watchdog(), Instant::NEVER, "packets wait for nothing");
                self.now = self.sched.watchdog();
            }
        }
    }
    /// Bytes that left from `from` on.
    pub fn bytes_since(&self, from: Instant) -> usize {
        self.left.iter().filter(|l| l.at > from).map(|l| l.len).sum()
    }
    #[track_caller]
    pub fn conserved(&self) {
        assert_eq!(self.counts.unaccounted(), []);
        let held = self.counts.flow(Stage::Qdisc).read().held;
        assert_eq!(held, self.sched.qdisc.len() as u64, "packets held are packets that wait");
        assert_eq!(self.pool.small_out() as u64, held, "no memory is lost");
    }
}

/// Makes a packet one of UDP over IPv4, of `len` bytes.
pub(super) fn fill(pkt: &mut Pkt, len: usize, flow: u16, tos: u8) {
    use crate::wire::{ETH_P_IP, IPPROTO_UDP, Ipv4Hdr, UdpHdr};
    let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let bytes = pkt.put(len);
    bytes.fill(0x5a);
    let (ihl_bytes, total_len) = (20, len as u16);
    let (proto, id, df, mf, frag_off_bytes, ttl, csum) = (IPPROTO_UDP, 0, true, false, 0, 64, 0);
    Ipv4Hdr { ihl_bytes, tos, total_len, id, df, mf, frag_off_bytes, ttl, proto, csum, src, dst }
        .emit(bytes);
    UdpHdr { src_port: flow, dst_port: 9, len: (len - 20) as u16, csum: 0 }.emit(&mut bytes[20..]);
    pkt.network = pkt.data_offset();
    pkt.transport = pkt.network + 20;
    (pkt.proto, pkt.ip_proto, pkt.tos) = (ETH_P_IP, IPPROTO_UDP, tos);
    (pkt.src, pkt.dst) = (IpAddr::V4(src), IpAddr::V4(dst));
}
