//! Stage `Tap`: copies of packets for whoever captures them, at any stage, while the path runs.
//!
//! Linux:  net/packet/af_packet.c `packet_rcv`, `tpacket_rcv`; net/core/dev.c `dev_queue_xmit_nit`
//!
//! A tap looks at stages, at points of them ([`Point`]), through a [`Filter`]; what passes it is
//! copied into a [`Port`], which is bounded: what does not fit is counted, and the path goes on. While
//! nobody captures, one word per batch is looked at and found to be 0. While somebody does, the groups
//! of the spine in which a tapped stage lies go stage by stage.
//!
//! What a record holds depends on the stage: from Ring to Link, and from Qdisc to Xmit, the frame as
//! the device has it; between them the packet from its IP header on. Before IpOut has written that
//! header, one is made of what is known: its identification is 0. A partial checksum is completed
//! in the copy.

pub mod filter;
mod port;
mod record;

use std::net::IpAddr;
use std::sync::Arc;

pub use filter::{Filter, FilterError};
pub use port::{PORT_BYTES, Port};
pub use record::{BadRecord, HEAD, Head, Point};

use crate::link::L2;
use crate::pkt::{Csum, NO_QUEUE, Pkt, TAPPED_RING};
use crate::shard::{Net, Shard};
use crate::table::stage::Dir;
use crate::table::{Reason, Stage, count::id};
use crate::time::Instant;
use crate::trace::Said;
use crate::wire::{Ipv4Hdr, Ipv6Hdr};
use filter::{Link, View};
use linerate_arch::csum::{csum_fold, csum_partial};

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages(u32);

const _: () = assert!(Stage::ALL.len() <= 32, "a word has a bit for each stage");

impl Stages {
    /// None.
    pub const NONE: Stages = Stages(0);

    /// These.
    #[must_use]
    pub const fn of(stages: &[Stage]) -> Stages {
        let (mut bits, mut i) = (0, 0);
        while i < stages.len() {
            bits |= 1 << stages[i] as u32;
            i += 1;
        }
        Stages(bits)
    }
    /// Whether it is one of them.
    #[inline]
    #[must_use]
    pub const fn has(self, stage: Stage) -> bool {
        self.0 >> stage as u32 & 1 == 1
    }
    /// Whether any is in both.
    #[inline]
    #[must_use]
    pub const fn meets(self, other: Stages) -> bool {
        self.0 & other.0 != 0
    }
    /// Those of both.
    #[must_use]
    pub const fn with(self, other: Stages) -> Stages {
        Stages(self.0 | other.0)
    }
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What is to be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// At which stages.
    pub stages: Stages,
    /// Where at them: a bit for each [`Point`].
    pub points: [bool; 4],
    /// Which packets.
    pub filter: Filter,
    /// Bytes of each packet at the most.
    pub snaplen: usize,
}

/// A capture that runs on this shard.
struct Tap {
    spec: Spec,
    port: Arc<Port>,
    /// The time of the day, in nanoseconds since 1970.
    wall: Option<fn() -> u64>,
    /// That time at the loop's time: it is asked for once a turn.
    at: (Instant, u64),
    /// The record of the packet that a stage works on, until the stage has said what it says.
    held: Option<([u8; HEAD], Vec<u8>)>,
    /// Memory for the next one.
    spare: Vec<u8>,
}

/// The captures that run on a shard.
#[derive(Default)]
pub struct Taps {
    /// Stages that somebody looks at.
    pub(crate) stages: Stages,
    list: Vec<Tap>,
    scratch: Vec<u8>,
}

/// Captures of one shard at a time.
pub const TAPS_MAX: usize = 8;

/// There are as many captures as a shard has at the most (EBUSY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl std::fmt::Display for TooMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{TAPS_MAX} captures run already: end one")
    }
}
impl std::error::Error for TooMany {}

/// Stages before which a packet is a whole frame: all that lie before Link, and Link itself.
const FRAMES_IN: Stages = Stages::of(&[
    Stage::Ring,
    Stage::Poll,
    Stage::Xdp,
    Stage::Gro,
    Stage::Steer,
    Stage::Backlog,
    Stage::Ingress,
]);
/// The same on the way out, Neigh's end included. A packet leaves Qdisc when it is taken from the queue,
/// Gso as what it is cut into, and Xmit when the device has taken it.
const FRAMES_OUT: Stages = Stages::of(&[Stage::Qdisc, Stage::Gso, Stage::Xmit]);

/// What a copy of the packet begins with.
#[derive(Clone, Copy)]
enum Layout {
    /// Its data.
    Frame(Link),
    /// Its network header, which may have been taken off.
    Network,
    /// A header that is made up: there is none yet.
    Made,
}

impl Taps {
    /// Whether somebody looks at the stage.
    #[inline]
    #[must_use]
    pub fn sees(&self, stage: Stage) -> bool {
        self.stages.has(stage)
    }

    /// Forgets captures whose reader has gone.
    fn sweep(&mut self) {
        self.list.retain(|tap| !tap.port.is_closed());
        self.stages = self.list.iter().fold(Stages::NONE, |all, t| all.with(t.spec.stages));
    }
}

impl Shard {
    /// Begins a capture, which ends when its port is closed. `wall` tells the time of the day in
    /// nanoseconds since 1970.
    ///
    /// # Errors
    /// [`TooMany`] (EBUSY).
    pub fn tap(
        &mut self,
        spec: Spec,
        port: Arc<Port>,
        wall: Option<fn() -> u64>,
    ) -> Result<(), TooMany> {
        let taps = &mut self.net.taps;
        taps.sweep();
        if taps.list.len() == TAPS_MAX {
            return Err(TooMany);
        }
        let at = (Instant::ZERO, 0);
        taps.list.push(Tap { spec, port, wall, at, held: None, spare: Vec::new() });
        taps.sweep();
        Ok(())
    }
}

impl Net {
    /// Whether a batch that comes to these stages is looked at. Captures that have ended are
    /// forgotten here.
    #[inline]
    pub(crate) fn tapped(&mut self, stages: Stages) -> bool {
        self.taps.stages.meets(stages) && self.tapped_now(stages)
    }

    #[cold]
    fn tapped_now(&mut self, stages: Stages) -> bool {
        if self.taps.list.iter().any(|tap| tap.port.is_closed()) {
            self.taps.sweep();
        }
        self.taps.stages.meets(stages)
    }

    /// A stage of the spine is about to work on `pkt`: what it will say goes into the record.
    #[cold]
    pub(crate) fn tap_enter(&mut self, stage: Stage, pkt: &Pkt) {
        let mut taps = std::mem::take(&mut self.taps);
        for tap in &mut taps.list {
            let [before, _, drop, _] = tap.spec.points;
            tap.held = None;
            if (before || drop)
                && let Some(head) =
                    tap.copy(self, &mut taps.scratch, stage, Point::Before, pkt, None)
            {
                std::mem::swap(&mut tap.spare, &mut taps.scratch);
                tap.held = Some((head, std::mem::take(&mut tap.spare)));
            }
        }
        self.taps = taps;
    }

    /// The stage said `said` of the packet of [`Net::tap_enter`].
    #[cold]
    pub(crate) fn tap_said(&mut self, said: Said) {
        let mut taps = std::mem::take(&mut self.taps);
        for tap in &mut taps.list {
            let Some((mut head, bytes)) = tap.held.take() else { continue };
            let [before, _, drop, _] = tap.spec.points;
            record::say(&mut head, Some(said));
            if before {
                tap.push(self, &head, &bytes);
            }
            if drop && matches!(said, Said::Dropped(_)) {
                record::point(&mut head, Point::Drop);
                tap.push(self, &head, &bytes);
            }
            tap.spare = bytes;
        }
        self.taps = taps;
    }

    /// A packet stands at this point of a stage.
    #[cold]
    pub(crate) fn tap_at(&mut self, stage: Stage, point: Point, pkt: &Pkt, said: Option<Said>) {
        let mut taps = std::mem::take(&mut self.taps);
        for tap in taps.list.iter_mut().filter(|tap| tap.spec.points[point as usize]) {
            if let Some(head) = tap.copy(self, &mut taps.scratch, stage, point, pkt, said) {
                tap.push(self, &head, &taps.scratch);
            }
        }
        self.taps = taps;
    }

    /// A packet was dropped, other than by what a stage of the spine said of it.
    #[inline]
    pub(crate) fn tap_drop(&mut self, stage: Stage, pkt: &Pkt, reason: Reason) {
        if self.taps.sees(stage) {
            self.tap_at(stage, Point::Drop, pkt, Some(Said::Dropped(reason)));
        }
    }
}

/// A batch stands at this point of a stage that is no part of a group.
#[inline]
pub fn batch(net: &mut Net, stage: Stage, point: Point, pkts: &[Pkt]) {
    if net.tapped(Stages::of(&[stage])) {
        pkts.iter().for_each(|pkt| net.tap_at(stage, point, pkt, None));
    }
}

/// A batch came from a stage that shows it only then: what comes in is what goes on.
#[inline]
pub fn came(net: &mut Net, stage: Stage, pkts: &[Pkt]) {
    batch(net, stage, Point::Before, pkts);
    batch(net, stage, Point::After, pkts);
}

/// Packets wait before a stage in a side queue.
#[inline]
pub(crate) fn side(
    net: &mut Net,
    stage: Stage,
    point: Point,
    queue: fn(&mut Net) -> &mut std::collections::VecDeque<Pkt>,
) {
    if net.tapped(Stages::of(&[stage])) {
        let pkts = std::mem::take(queue(net));
        pkts.iter().for_each(|pkt| net.tap_at(stage, point, pkt, None));
        *queue(net) = pkts;
    }
}

/// What was put into a transmit ring and no tap has seen yet.
#[cold]
pub(crate) fn ring(net: &mut Net, dev: u8, queue: u8) {
    if !net.tapped(Stages::of(&[Stage::Xmit])) {
        return;
    }
    let place = |net: &mut Net, ring: crate::link::TxRing| {
        let iface = net.ifaces.get_mut(dev as usize)?;
        Some(std::mem::replace(&mut iface.txqs.get_mut(queue as usize)?.ring, ring))
    };
    let Some(mut pkts) = place(net, Default::default()) else { return };
    for pkt in pkts.iter_mut().filter(|pkt| pkt.tapped & TAPPED_RING == 0) {
        pkt.tapped |= TAPPED_RING;
        net.tap_at(Stage::Xmit, Point::Before, pkt, None);
    }
    let none = place(net, pkts);
    debug_assert!(none.is_none_or(|ring| ring.is_empty()), "nothing was sent meanwhile");
}

impl Tap {
    fn push(&self, net: &Net, head: &[u8; HEAD], bytes: &[u8]) {
        if self.port.push(&[head, bytes]) {
            net.counts.inc(id::TapPackets);
        } else {
            net.counts.inc(id::TapDrops);
        }
    }

    /// Copies the packet into `out`, if it is wanted; its head.
    fn copy(
        &mut self,
        net: &Net,
        out: &mut Vec<u8>,
        stage: Stage,
        point: Point,
        pkt: &Pkt,
        said: Option<Said>,
    ) -> Option<[u8; HEAD]> {
        if !self.spec.stages.has(stage) {
            return None;
        }
        let layout = layout(net, stage, point, pkt);
        let outbound = stage.row().dir == Dir::Tx;
        let mut source = Source::of(layout, pkt);
        let len = source.len();
        let link = if let Layout::Frame(link) = layout { link } else { Link::Ip };
        let filter = &self.spec.filter;
        let near = source.near();
        let known = near.len() >= len.min(filter.reach());
        if !known {
            source.copy(filter.reach(), out);
        }
        let bytes = if known { near } else { out.as_slice() };
        if !filter.matches(&View { link, bytes, len, outbound }) {
            return None;
        }
        let most = self.spec.snaplen;
        match pkt.csum {
            Csum::Partial { start, offset } => {
                source.copy(usize::MAX, out);
                complete(out, source.network_at() + start as usize, offset as usize);
                out.truncate(most);
            }
            _ => source.copy(most, out),
        }
        if self.at.0 != net.now || self.at.1 == 0 {
            self.at = (net.now, self.wall.map_or(net.now.ns(), |wall| wall()));
        }
        let head = Head {
            captured: out.len() as u32,
            len: u32::try_from(len).unwrap_or(u32::MAX),
            ts_ns: self.at.1,
            mark: pkt.mark,
            stage,
            point,
            link,
            outbound,
            said,
            dev: if matches!(layout, Layout::Made) { u8::MAX } else { pkt.dev },
            queue: pkt.queue,
            shard: net.cpu,
        };
        Some(head.encode())
    }
}

const _: () = assert!(NO_QUEUE == u8::MAX, "a head says no queue as a packet does");

/// What a copy of a packet is made of at this point.
fn layout(net: &Net, stage: Stage, point: Point, pkt: &Pkt) -> Layout {
    let frame = || {
        let iface = net.ifaces.get(pkt.dev as usize);
        let ethernet = iface.is_some_and(|iface| iface.l2 == L2::Ethernet);
        Layout::Frame(if ethernet { Link::Ethernet } else { Link::Ip })
    };
    let after = point == Point::After;
    match stage {
        Stage::Link if !after => frame(),
        Stage::Neigh if after => frame(),
        Stage::Send => Layout::Made,
        Stage::IpOut if !after => Layout::Made,
        stage if FRAMES_IN.has(stage) || FRAMES_OUT.has(stage) => frame(),
        _ => Layout::Network,
    }
}

/// The bytes of a packet from where a copy begins, in two parts and the packet's fragments.
struct Source<'a> {
    made: ([u8; Ipv6Hdr::LEN], usize),
    head: &'a [u8],
    pkt: &'a Pkt,
    /// Where the network header is, in what is copied of a frame.
    network: usize,
}

impl<'a> Source<'a> {
    fn of(layout: Layout, pkt: &'a Pkt) -> Source<'a> {
        let mut made = ([0; Ipv6Hdr::LEN], 0);
        let mut network = 0;
        let head = match layout {
            Layout::Frame(Link::Ip) => pkt.head(),
            Layout::Frame(Link::Ethernet) => {
                network = eth_len(pkt.head());
                pkt.head()
            }
            // A network header that can not be where it is said to be: what there is.
            Layout::Network if pkt.network > pkt.data_offset() => pkt.head(),
            Layout::Network => pkt.from_network(),
            Layout::Made => {
                made.1 = make_header(pkt, &mut made.0);
                pkt.head()
            }
        };
        Source { made, head, pkt, network }
    }
    fn behind(&self) -> usize {
        self.pkt.len() - self.pkt.head_len()
    }
    fn len(&self) -> usize {
        self.made.1 + self.head.len() + self.behind()
    }
    /// Where the checksum's place is counted from.
    fn network_at(&self) -> usize {
        if self.made.1 > 0 { self.made.1 } else { self.network }
    }
    /// What lies in one piece at the beginning.
    fn near(&self) -> &'a [u8] {
        if self.made.1 > 0 { &[] } else { self.head }
    }
    fn copy(&mut self, most: usize, out: &mut Vec<u8>) {
        out.clear();
        let frags = self.pkt.slices().skip(usize::from(self.pkt.head_len() > 0));
        let first = [&self.made.0[..self.made.1], self.head];
        for part in first.into_iter().chain(frags) {
            let left = most - out.len();
            out.extend_from_slice(&part[..part.len().min(left)]);
            if out.len() == most {
                break;
            }
        }
    }
}

/// Bytes of an Ethernet header with its tags.
fn eth_len(frame: &[u8]) -> usize {
    let mut at = 14;
    while matches!(frame.get(at - 2..at), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    at
}

/// The IP header that IpOut will write, as far as it is known; its length.
fn make_header(pkt: &Pkt, out: &mut [u8; Ipv6Hdr::LEN]) -> usize {
    match (pkt.src, pkt.dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let hdr = Ipv6Hdr {
                tclass: pkt.tos,
                flow_label: 0,
                payload_len: u16::try_from(pkt.len()).unwrap_or(0),
                next_header: pkt.ip_proto,
                hop_limit: if pkt.ttl == 0 { 64 } else { pkt.ttl },
                src,
                dst,
            };
            hdr.emit(out);
            Ipv6Hdr::LEN
        }
        (src, dst) => {
            let v4 = |addr: IpAddr| match addr {
                IpAddr::V4(a) => a,
                IpAddr::V6(_) => std::net::Ipv4Addr::UNSPECIFIED,
            };
            let hdr = Ipv4Hdr {
                ihl_bytes: Ipv4Hdr::LEN,
                tos: pkt.tos,
                total_len: u16::try_from(pkt.len() + Ipv4Hdr::LEN).unwrap_or(0),
                id: 0,
                df: pkt.df,
                mf: false,
                frag_off_bytes: 0,
                ttl: if pkt.ttl == 0 { 64 } else { pkt.ttl },
                proto: pkt.ip_proto,
                csum: 0,
                src: v4(src),
                dst: v4(dst),
            };
            hdr.emit(&mut out[..Ipv4Hdr::LEN]);
            Ipv4Hdr::LEN
        }
    }
}

/// Sums what lies from `start` on, and puts the sum where it belongs.
fn complete(bytes: &mut [u8], start: usize, offset: usize) {
    /// Where UDP has its checksum: there a sum of 0 is sent as all ones (RFC 768).
    const UDP: usize = 6;
    let Some(part) = bytes.get_mut(start..) else { return };
    let sum = match csum_fold(csum_partial(part, 0)) {
        0 if offset == UDP => u16::MAX,
        sum => sum,
    };
    if let Some(field) = part.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        *field = sum.to_be_bytes();
    }
}

#[cfg(test)]
mod tests;
