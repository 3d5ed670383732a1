//! A wire in memory: two devices, what one sends the other receives.
//!
//! Each direction is a ring of bounded length. Bytes are copied once on each side, so the two
//! ends may live in different threads with different pools. Super-packets and partial checksums
//! cross as they are, if both ends are configured to take them. A full ring either holds the
//! sender back, as a device with flow control does, or loses the packet and counts it, as a
//! network card does.
//!
//! before: the other end   after: [`crate::drive`]
//! drops:  VnetHdr; what the ring had no room for is counted as RingFull

use crate::device::{Caps, Counts, Device, Layer, RxCx};
use linerate_core::pkt::{Batch, Csum, Gso, LARGE, Pkt};
use linerate_core::table::Reason;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What kind of wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// What both ends are and can do. A MAC address is varied in its last byte for the second end.
    pub caps: Caps,
    /// Packets that fit into each direction, at least 1.
    pub ring_pkts: usize,
    /// A full ring holds the sender back (`true`), or loses the packet (`false`).
    pub flow_control: bool,
}

impl Default for Config {
    fn default() -> Config {
        let caps = Caps {
            layer: Layer::Ip,
            mtu: 1500,
            mac: None,
            rx_offload: true,
            tx_csum: true,
            tso: true,
            uso: true,
            gso_bytes_max: 65536,
        };
        Config { caps, ring_pkts: 1024, flow_control: true }
    }
}

/// One packet on the wire.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    csum: Csum,
    gso: Option<Gso>,
    vlan: Option<u16>,
    /// Bytes before the network header.
    l2: u32,
    proto: u16,
}

struct Ring {
    queue: VecDeque<Wire>,
    /// Memory of packets that were received, for those to come.
    spare: Vec<Wire>,
    /// Packets lost since the start because the ring was full.
    overflow: u64,
    /// Packets that fit.
    limit: usize,
    /// The sending end is gone.
    closed: bool,
}

/// One direction: the ring, and the descriptor that is readable while something is in it.
struct Line {
    ring: Mutex<Ring>,
    ready: OwnedFd,
}

impl Line {
    fn new(limit: usize) -> io::Result<Arc<Line>> {
        let (queue, spare) = (VecDeque::new(), Vec::new());
        let ring = Ring { queue, spare, overflow: 0, limit: limit.max(1), closed: false };
        let ready = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Line { ring: Mutex::new(ring), ready }))
    }

    /// A panic elsewhere leaves the ring whole: each change of it is complete under the lock.
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor readable; called under the lock when the ring stops being empty.
    fn raise(&self) {
        // Cannot fail: the count is 0 before, and the descriptor is open.
        let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable; called under the lock when the ring becomes empty.
    fn clear(&self) {
        let _ = rustix::io::read(&self.ready, &mut [0u8; 8]);
    }
}

/// One end of a wire in memory.
pub struct Mem {
    name: String,
    config: Config,
    /// What comes to this end.
    rx: Arc<Line>,
    /// What goes to the other.
    tx: Arc<Line>,
    counts: Counts,
}

/// Makes a wire; returns its two ends.
///
/// # Errors
/// `EMFILE`/`ENFILE` without descriptors.
pub fn pair(config: Config) -> io::Result<(Mem, Mem)> {
    let (one, two) = (Line::new(config.ring_pkts)?, Line::new(config.ring_pkts)?);
    let end = |name: &str, rx: &Arc<Line>, tx: &Arc<Line>, mac| Mem {
        name: name.to_owned(),
        config: Config { caps: Caps { mac, ..config.caps }, ..config },
        rx: Arc::clone(rx),
        tx: Arc::clone(tx),
        counts: Counts::default(),
    };
    let mac = config.caps.mac;
    let other_mac = mac.map(|[a, b, c, d, e, f]| [a, b, c, d, e, f ^ 1]);
    Ok((end("mem0", &one, &two, mac), end("mem1", &two, &one, other_mac)))
}

impl Mem {
    /// Packets that wait to be received here.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.rx.lock().queue.len()
    }
}

impl Drop for Mem {
    fn drop(&mut self) {
        self.tx.lock().closed = true;
        self.tx.raise();
    }
}

/// Copies a packet from the wire into pool memory; gives it back if there is none.
fn take(cx: &mut RxCx<'_>, wire: &Wire) -> Option<Pkt> {
    let mut pkt = cx.pool.alloc()?;
    let room = pkt.tailroom();
    let (head, mut rest) = wire.bytes.split_at(wire.bytes.len().min(room));
    pkt.put(head.len()).copy_from_slice(head);
    while !rest.is_empty() {
        let Some(mut large) = cx.pool.alloc_large() else {
            cx.pool.free(pkt);
            return None;
        };
        let (now, later) = rest.split_at(rest.len().min(LARGE));
        large[..now.len()].copy_from_slice(now);
        pkt.add_buf(large, 0, now.len());
        rest = later;
    }
    pkt.csum = wire.csum;
    pkt.gso = wire.gso;
    pkt.vlan = wire.vlan;
    pkt.network = pkt.data_offset() + wire.l2;
    pkt.proto = wire.proto;
    pkt.rx_time = cx.now;
    pkt.dev = cx.dev;
    Some(pkt)
}

impl Device for Mem {
    fn name(&self) -> &str {
        &self.name
    }

    fn caps(&self) -> Caps {
        self.config.caps
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        let mut ring = self.rx.lock();
        let mut taken = 0;
        while taken < budget {
            let Some(wire) = ring.queue.front() else {
                if ring.closed && taken == 0 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                break;
            };
            let Some(mut pkt) = take(cx, wire) else {
                self.counts.rx_no_buffer += 1;
                break;
            };
            let offloaded = pkt.gso.is_some() || matches!(pkt.csum, Csum::Partial { .. });
            if offloaded && !self.config.caps.rx_offload {
                pkt.gso = None;
                cx.dropped.push((pkt, Reason::VnetHdr));
            } else {
                out.push(pkt);
            }
            taken += 1;
            let spare = ring.queue.pop_front();
            ring.spare.extend(spare);
            if ring.queue.is_empty() && !ring.closed {
                self.rx.clear();
            }
        }
        Ok(taken)
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        let mut line = self.tx.lock();
        let was_empty = line.queue.is_empty();
        let mut left = 0;
        while let Some(pkt) = ring.front() {
            if line.queue.len() >= line.limit {
                if self.config.flow_control {
                    self.counts.tx_busy += 1;
                    break;
                }
                // The sender of a frame never learns that the receiver had no room.
                line.overflow += 1;
            } else {
                let mut wire = line.spare.pop().unwrap_or_default();
                wire.bytes.clear();
                pkt.slices().for_each(|s| wire.bytes.extend_from_slice(s));
                wire.csum = pkt.csum;
                wire.gso = pkt.gso;
                wire.vlan = pkt.vlan;
                wire.l2 = pkt.network.saturating_sub(pkt.data_offset());
                wire.proto = pkt.proto;
                line.queue.push_back(wire);
            }
            done.extend(ring.pop_front().map(|pkt| (pkt, true)));
            left += 1;
        }
        if was_empty && !line.queue.is_empty() {
            self.tx.raise();
        }
        Ok(left)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rx.ready.as_fd())
    }

    fn counts(&self) -> Counts {
        Counts { overflow: self.rx.lock().overflow, ..self.counts }
    }

    fn set_rx_ring(&mut self, pkts: usize) -> bool {
        self.rx.lock().limit = pkts.max(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linerate_core::pkt::{GsoKind, Pool};
    use linerate_core::time::Instant;

    fn send(end: &mut Mem, pool: &mut Pool, bytes: &[u8]) -> (usize, usize) {
        let mut pkt = pool.alloc().unwrap();
        pkt.put(bytes.len()).copy_from_slice(bytes);
        pkt.network = pkt.data_offset();
        let (mut ring, mut done) = (VecDeque::from([pkt]), Vec::new());
        end.tx_burst(&mut ring, &mut done).unwrap();
        let counts = (done.len(), ring.len());
        done.into_iter().for_each(|(p, _)| pool.free(p));
        ring.into_iter().for_each(|p| pool.free(p));
        counts
    }

    fn receive(end: &mut Mem, pool: &mut Pool, budget: usize) -> io::Result<Vec<Pkt>> {
        let (mut out, mut dropped) = (Batch::new(), Vec::new());
        let mut cx = RxCx { pool, now: Instant::from_ns(9), dev: 3, dropped: &mut dropped };
        end.rx_burst(&mut cx, &mut out, budget)?;
        dropped.into_iter().for_each(|(p, _)| pool.free(p));
        Ok(std::mem::take(&mut out.now))
    }

    #[test]
    fn what_one_end_sends_the_other_receives_in_order() {
        let mut pool = Pool::new(64, 8);
        let (mut a, mut b) = pair(Config::default()).unwrap();
        for i in 0..5u8 {
            assert_eq!(send(&mut a, &mut pool, &[i; 40]), (1, 0));
        }
        let first = receive(&mut b, &mut pool, 3).unwrap();
        let rest = receive(&mut b, &mut pool, 9).unwrap();
        assert_eq!((first.len(), rest.len()), (3, 2));
        for (i, pkt) in first.into_iter().chain(rest).enumerate() {
            assert_eq!(pkt.head(), [i as u8; 40]);
            assert_eq!((pkt.dev, pkt.rx_time), (3, Instant::from_ns(9)));
            pool.free(pkt);
        }
        assert!(receive(&mut a, &mut pool, 9).unwrap().is_empty());
        assert_eq!(pool.small_out(), 0);
    }

    #[test]
    fn a_full_ring_holds_back_or_loses_and_says_so() {
        let mut pool = Pool::new(64, 8);
        for flow_control in [true, false] {
            let config = Config { ring_pkts: 2, flow_control, ..Config::default() };
            let (mut a, mut b) = pair(config).unwrap();
            send(&mut a, &mut pool, b"1");
            send(&mut a, &mut pool, b"2");
            let third = send(&mut a, &mut pool, b"3");
            assert_eq!(third, if flow_control { (0, 1) } else { (1, 0) });
            assert_eq!(a.counts().tx_busy, u64::from(flow_control));
            assert_eq!(b.counts().overflow, u64::from(!flow_control));
            for pkt in receive(&mut b, &mut pool, 9).unwrap() {
                pool.free(pkt);
            }
        }
    }

    #[test]
    fn the_receiving_end_sizes_its_own_ring_only() {
        let mut pool = Pool::new(64, 8);
        let config = Config { ring_pkts: 4, flow_control: false, ..Config::default() };
        let (mut a, mut b) = pair(config).unwrap();
        b.set_rx_ring(2);
        for _ in 0..4 {
            send(&mut a, &mut pool, b"to b");
            send(&mut b, &mut pool, b"to a");
        }
        assert_eq!((b.backlog(), b.counts().overflow), (2, 2));
        assert_eq!((a.backlog(), a.counts().overflow), (4, 0));
        b.set_rx_ring(3);
        send(&mut a, &mut pool, b"to b");
        assert_eq!((b.backlog(), b.counts().overflow), (3, 2));
    }

    #[test]
    fn a_super_packet_crosses_whole() {
        let mut pool = Pool::new(64, 8);
        let (mut a, mut b) = pair(Config::default()).unwrap();
        let mut pkt = pool.alloc().unwrap();
        pkt.put(40).fill(1);
        let mut large = pool.alloc_large().unwrap();
        large.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        pkt.add_buf(large, 0, 60_000);
        pkt.network = pkt.data_offset();
        pkt.csum = Csum::Partial { start: 20, offset: 16 };
        pkt.gso = Some(Gso { kind: GsoKind::Tcp4, size: 1460, segs: 42, ecn: false });
        let (mut ring, mut done) = (VecDeque::from([pkt]), Vec::new());
        a.tx_burst(&mut ring, &mut done).unwrap();
        let sent = done.pop().unwrap().0;
        let got = receive(&mut b, &mut pool, 1).unwrap().pop().unwrap();
        assert_eq!((got.csum, got.gso, got.len()), (sent.csum, sent.gso, sent.len()));
        let (mut x, mut y) = (vec![0; 60_040], vec![0; 60_040]);
        got.copy_bits(0, &mut x);
        sent.copy_bits(0, &mut y);
        assert!(x == y);
        pool.free(got);
        pool.free(sent);
    }

    #[test]
    fn without_memory_the_packet_waits() {
        let mut big = Pool::new(8, 8);
        let mut tiny = Pool::new(1, 0);
        let (mut a, mut b) = pair(Config::default()).unwrap();
        send(&mut a, &mut big, b"1");
        send(&mut a, &mut big, b"2");
        let mut first = receive(&mut b, &mut tiny, 9).unwrap();
        assert_eq!((first.len(), b.counts().rx_no_buffer, b.backlog()), (1, 1, 1));
        tiny.free(first.pop().unwrap());
        let second = receive(&mut b, &mut tiny, 9).unwrap();
        assert_eq!(second[0].head(), b"2");
    }

    #[test]
    fn the_descriptor_is_ready_while_something_waits_and_an_end_that_left_is_an_error() {
        use crate::poller::{Interest, Poller};
        let mut pool = Pool::new(8, 8);
        let (mut a, mut b) = pair(Config::default()).unwrap();
        let mut poller = Poller::new(4).unwrap();
        poller.add(b.poll_fd().unwrap(), 5, Interest::READ).unwrap();
        assert_eq!(poller.wait(Some(0)).unwrap().len(), 0);
        send(&mut a, &mut pool, b"1");
        send(&mut a, &mut pool, b"2");
        assert_eq!(poller.wait(None).unwrap().len(), 1);
        let pkt = receive(&mut b, &mut pool, 1).unwrap().pop().unwrap();
        pool.free(pkt);
        assert_eq!(poller.wait(Some(0)).unwrap().len(), 1);
        let pkt = receive(&mut b, &mut pool, 1).unwrap().pop().unwrap();
        pool.free(pkt);
        assert_eq!(poller.wait(Some(0)).unwrap().len(), 0);
        drop(a);
        assert_eq!(poller.wait(None).unwrap().len(), 1);
        assert_eq!(receive(&mut b, &mut pool, 1).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
