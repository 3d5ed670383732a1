//! AF_PACKET with rings that are shared with the kernel (`PACKET_MMAP`), one socket for each queue.
//!
//! Reception is version 3: the kernel copies packets into blocks and gives us whole blocks, so that
//! a burst costs no system call at all. Each frame is copied once more, into packet memory, because
//! a block goes back as a whole and a packet may live long in a socket's queue. Sending copies
//! short packets into frames and has the kernel take all of them with one call; a super-packet goes
//! by a call of its own on a second socket, in order, because frames have one size.
//!
//! before: the interface   after: [`crate::drive`]; on the way out the other way round
//! Linux:  net/packet/af_packet.c `tpacket_rcv`, `tpacket_snd`, `packet_rcv_fanout`
//! drops:  VnetHdr, RingTruncated; what met a full ring is counted as RingFull

mod open;
mod rx;
mod tx;

pub use open::{Config, Group, OpenError, Opened, open};

use super::steer::{Steering, lock};
use super::{describe, framed, partial_csum, send};
use crate::burst::Tries;
use crate::device::{Caps, Counts, Device, Rings as RingSizes, RxCx};
use crate::netdev::Losses;
use crate::sys::packet::Received;
use crate::sys::packet_ring::{self as sys, Rings};
use linerate_core::pkt::{Batch, Csum, LARGE, Pkt};
use linerate_core::rx::steer::ntuple::Rule;
use linerate_core::rx::steer::rss::Rss;
use linerate_core::table::Reason;
use rustix::net::sockopt;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// How the packets of an interface are shared out over several sockets (`PACKET_FANOUT`).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Fanout {
    /// By the kernel's flow hash, the same for both directions; its key is the kernel's secret.
    #[default]
    Hash,
    /// By the CPU that received the packet.
    Cpu,
    /// In turn. Flows are torn apart: only for applications of single datagrams.
    Lb,
    /// The first socket that has room.
    Rollover,
    /// By the receive queue of the device.
    Qm,
    /// At random.
    Random,
    /// By our own key and indirection table, so that the queue of a flow can be foretold.
    Rss(Rss),
}

impl Fanout {
    /// `PACKET_FANOUT_*`.
    fn kind(&self) -> u16 {
        let kind = match self {
            Fanout::Hash => libc::PACKET_FANOUT_HASH,
            Fanout::Cpu => libc::PACKET_FANOUT_CPU,
            Fanout::Lb => libc::PACKET_FANOUT_LB,
            Fanout::Rollover => libc::PACKET_FANOUT_ROLLOVER,
            Fanout::Qm => libc::PACKET_FANOUT_QM,
            Fanout::Random => libc::PACKET_FANOUT_RND,
            Fanout::Rss(_) => libc::PACKET_FANOUT_CBPF,
        };
        kind as u16
    }
}

/// Why a walk over a ring does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Nothing is there.
    Empty,
    /// A block says what cannot be.
    Broken,
}

/// What came of a packet in the receive ring.
enum Taken {
    /// It is ours now.
    Pkt(Pkt),
    /// It is wrong, for this reason.
    Wrong(Pkt, Reason),
    /// Somebody sent it: it was passed over.
    Passed,
    /// There is no memory for it, and it stays.
    NoMemory,
}

/// What the kernel counted at a socket, since it was opened.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    packets: u64,
    drops: u64,
    freezes: u64,
}

/// One queue: a packet socket with its rings.
pub struct RingSocket {
    /// Before the socket, so that it is unmapped first.
    rings: Rings,
    fd: OwnedFd,
    /// Sends what is longer than a frame of the ring.
    long: OwnedFd,
    name: String,
    caps: Caps,
    queue: u8,
    walk: rx::Walk,
    head: tx::Head,
    counts: Counts,
    total: Cell<Total>,
    /// Packets of blocks that were given back unread.
    unseen: u64,
    /// The interface went down, and no packet came since.
    down: bool,
    tries: Tries,
    rxhash: bool,
    /// What our program that steers its group is made of, if there is one.
    steering: Option<Arc<Mutex<Steering>>>,
    losses: Option<Losses>,
}

impl fmt::Debug for RingSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("RingSocket");
        out.field("name", &self.name).field("queue", &self.queue).field("caps", &self.caps).finish()
    }
}

impl RingSocket {
    /// Where to read what the other end of the wire dropped on the way to this one (a veth pair's,
    /// whose backlog here was full). It is the interface's count, so one of its queues is told.
    pub fn set_losses(&mut self, losses: Losses) {
        self.losses = Some(losses);
    }

    /// Bytes that both rings take, in this process and in the kernel.
    #[must_use]
    pub fn ring_bytes(&self) -> usize {
        self.rings.rx().bytes() + self.rings.tx().bytes()
    }

    /// Takes the packet whose turn it is.
    fn tpacket_recv(&mut self, cx: &mut RxCx<'_>) -> Result<Taken, Stop> {
        let frame = match self.walk.step(&mut self.rings)? {
            rx::Step::In(frame) => frame,
            rx::Step::Out => return Ok(Taken::Passed),
        };
        let Some(mut pkt) = cx.pool.alloc() else {
            self.counts.rx_no_buffer += 1;
            return Ok(Taken::NoMemory);
        };
        let (head, rest) = frame.bytes.split_at(frame.bytes.len().min(pkt.tailroom()));
        let mut truncated = frame.len > frame.bytes.len();
        if !rest.is_empty() {
            let Some(mut large) = cx.pool.alloc_large() else {
                self.counts.rx_no_buffer += 1;
                cx.pool.free(pkt);
                return Ok(Taken::NoMemory);
            };
            let len = rest.len().min(LARGE);
            truncated |= len < rest.len();
            large[..len].copy_from_slice(&rest[..len]);
            pkt.put(head.len()).copy_from_slice(head);
            pkt.add_buf(large, 0, len);
        } else {
            pkt.put(head.len()).copy_from_slice(head);
        }
        pkt.rx_time = cx.now;
        pkt.dev = cx.dev;
        pkt.queue = self.queue;
        if self.rxhash {
            pkt.hash = frame.hash;
        }
        let got = Received { len: frame.len, truncated, vlan: frame.vlan, outgoing: false };
        let hdr = self.caps.tx_csum.then_some(frame.vnet);
        if hdr.is_none() {
            plain_csum(&mut pkt, frame.status);
        }
        let refused = describe(&mut pkt, hdr, got, &mut self.counts).err();
        self.walk.pop(&mut self.rings);
        Ok(match refused {
            None => Taken::Pkt(pkt),
            Some(reason) => Taken::Wrong(pkt, reason),
        })
    }

    /// Nothing was there: has the interface gone down, or away? Down is a state that may pass.
    fn check_link(&mut self) -> io::Result<()> {
        match sockopt::socket_error(&self.fd) {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(rustix::io::Errno::NETDOWN)) => self.down = true,
            Ok(Err(err)) => return Err(err.into()),
        }
        if self.down && sys::bound_to(&self.fd)?.is_none() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        Ok(())
    }

    /// Whether a packet has room in a frame of the transmit ring.
    fn fits(&self, pkt: &Pkt) -> bool {
        let tx = self.rings.tx();
        let room = (tx.frame_bytes as usize).saturating_sub(sys::FRAME_HEADER);
        tx.blocks > 0 && pkt.len() + crate::vnet::LEN_LEGACY + super::VLAN_HLEN <= room
    }

    /// Copies a packet into the frame `n` places behind ours; false if that is not free.
    fn fill(&mut self, n: u32, pkt: &Pkt) -> io::Result<bool> {
        let at = self.head.at(n, &self.rings);
        let Some(slot) = self.rings.frame(at) else { return Ok(false) };
        let len = framed(pkt, self.caps.tx_csum, |prefix, skip| {
            let mut len = 0;
            let head = pkt.head().get(skip..).unwrap_or_default();
            let frags = pkt.slices().skip(usize::from(pkt.head_len() > 0));
            for part in prefix.iter().copied().chain([head]).chain(frags) {
                let room = slot.get_mut(len..len + part.len());
                room.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(part);
                len += part.len();
            }
            Ok(len)
        })?;
        self.rings.request(at, len as u32);
        Ok(true)
    }

    /// `tpacket_snd` takes what is requested. The first call after the interface was down reports
    /// that it was.
    fn kick(&mut self) -> io::Result<usize> {
        match sys::send_ring(&self.fd) {
            Err(err) if err.raw_os_error() == Some(libc::ENETDOWN) => {
                self.down = true;
                sys::send_ring(&self.fd)
            }
            other => other,
        }
    }

    /// Sends packets from the front of `ring` that fit frames. Returns how many left and whether
    /// more may be tried.
    fn tx_frames(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<(usize, bool)> {
        let (mut asked, mut full) = (0, false);
        for pkt in ring.iter() {
            if !self.fits(pkt) || asked == self.rings.tx().frames() {
                break;
            }
            match self.fill(asked, pkt) {
                Ok(true) => asked += 1,
                Ok(false) => {
                    full = true;
                    break;
                }
                Err(err) if asked == 0 => return Ok((self.refuse(1, &err, ring, done), true)),
                // Those before it go first.
                Err(_) => break,
            }
        }
        if asked == 0 {
            self.counts.tx_busy += u64::from(full);
            return Ok((0, false));
        }
        let said = self.kick();
        let taken = self.head.settle(&mut self.rings, asked);
        done.extend(ring.drain(..taken.frames as usize).map(|pkt| (pkt, true)));
        let mut left = taken.frames as usize;
        if taken.frames == asked {
            self.tries.went();
            self.counts.tx_busy += u64::from(full);
            return Ok((left, !full));
        }
        let err = said.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN));
        if taken.frames > 0 {
            self.tries.went();
        }
        if taken.wrong {
            return Ok((left + self.refuse(1, &err, ring, done), true));
        }
        if self.tries.again(&err) {
            self.counts.tx_busy += 1;
            return Ok((left, false));
        }
        if is_gone(&err) {
            return Err(err);
        }
        let lost = if Tries::is_of_one(&err) { 1 } else { asked - taken.frames };
        left += self.refuse(lost as usize, &err, ring, done);
        Ok((left, true))
    }

    /// Sends the packet at the front of `ring`, which is too long for a frame.
    fn tx_long(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<(usize, bool)> {
        let Some(pkt) = ring.front() else { return Ok((0, false)) };
        match send(&self.long, pkt, self.caps.tx_csum) {
            Ok(_) => {
                self.tries.went();
                done.extend(ring.pop_front().map(|pkt| (pkt, true)));
                Ok((1, true))
            }
            Err(err) if self.tries.again(&err) => {
                self.counts.tx_busy += 1;
                Ok((0, false))
            }
            Err(err) if is_gone(&err) => Err(err),
            Err(err) => Ok((self.refuse(1, &err, ring, done), true)),
        }
    }

    /// The device takes none of the first `n`.
    fn refuse(
        &mut self,
        n: usize,
        why: &io::Error,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> usize {
        let n = n.min(ring.len());
        self.counts.tx_refused += n as u64;
        self.counts.tx_errno = why.raw_os_error().unwrap_or(0);
        done.extend(ring.drain(..n).map(|pkt| (pkt, false)));
        n
    }

    /// Adds what the kernel counted since it was last asked.
    fn read_total(&self) -> Total {
        let mut total = self.total.get();
        // It has no reason to fail; if it did, the next answer would carry the counts of this one.
        if let Ok(new) = sys::statistics(&self.fd) {
            total.packets += u64::from(new.packets);
            total.drops += u64::from(new.drops);
            total.freezes += u64::from(new.freezes);
            self.total.set(total);
        }
        total
    }
}

/// What the ring says of a checksum where there is no `virtio_net_hdr` to say it.
fn plain_csum(pkt: &mut Pkt, status: u32) {
    if status & libc::TP_STATUS_CSUMNOTREADY != 0 {
        partial_csum(pkt);
    } else if status & libc::TP_STATUS_CSUM_VALID != 0 {
        pkt.csum = Csum::Verified;
    }
}

/// Errors of an interface that is gone for good.
fn is_gone(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::ENXIO | libc::ENODEV))
}

impl Device for RingSocket {
    fn name(&self) -> &str {
        &self.name
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        for taken in 0..budget {
            match self.tpacket_recv(cx) {
                Ok(Taken::Pkt(pkt)) => out.push(pkt),
                Ok(Taken::Wrong(pkt, reason)) => cx.dropped.push((pkt, reason)),
                // It costs what any other does: a flood of them does not keep the loop here.
                Ok(Taken::Passed) => {}
                Ok(Taken::NoMemory) => return Ok(taken),
                Err(Stop::Broken) => {
                    self.unseen += u64::from(self.walk.skip(&mut self.rings));
                }
                Err(Stop::Empty) if taken > 0 => {
                    self.down = false;
                    return Ok(taken);
                }
                Err(Stop::Empty) => return self.check_link().map(|()| 0),
            }
        }
        Ok(budget)
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        let mut all = 0;
        while let Some(pkt) = ring.front() {
            let (left, more) = if self.fits(pkt) {
                self.tx_frames(ring, done)?
            } else {
                self.tx_long(ring, done)?
            };
            all += left;
            if !more {
                break;
            }
        }
        Ok(all)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn queue(&self) -> u8 {
        self.queue
    }

    fn rx_pending(&self) -> Option<usize> {
        Some(self.walk.pending(&self.rings))
    }

    /// The kernel's blocks hold at least so many packets of 2 KiB.
    fn rings(&self) -> RingSizes {
        let (rx, tx) = (self.rings.rx().frames(), self.rings.tx().frames());
        RingSizes { rx, rx_max: rx, tx, tx_max: tx }
    }

    fn set_rss(&mut self, rss: &Rss) -> bool {
        let Some(steering) = &self.steering else { return false };
        let load = |program: &[_]| sys::fanout_program(&self.fd, program);
        lock(steering).set_rss(rss, load).is_ok()
    }

    fn set_rule(&mut self, location: u32, rule: Option<&Rule>) -> io::Result<()> {
        let steering = self.steering.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let load = |program: &[_]| sys::fanout_program(&self.fd, program);
        lock(steering).set_rule(self.queue, location, rule, load)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let total = self.read_total();
        vec![
            ("tp_packets", total.packets),
            ("tp_drops", total.drops),
            ("tp_freeze_q_cnt", total.freezes),
            ("tx_frames_in_flight", self.head.in_flight(&self.rings) as u64),
        ]
    }

    fn counts(&self) -> Counts {
        self.counts
    }

    /// Packets that met a full ring, and those that did not come as far as the socket.
    fn count_overflow(&mut self) {
        let drops = self.read_total().drops;
        let before = self.losses.as_mut().map_or(0, Losses::read);
        self.counts.overflow = drops + before + self.unseen;
    }
}
