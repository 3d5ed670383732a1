//! Stage `Reasm`, RX: fragments become packets again. One engine for IPv4 and IPv6.
//!
//! before: [`crate::ip::route`] (fragments for us only)   after: [`crate::sock::lookup`]
//! Linux:  net/ipv4/ip_fragment.c `ip_defrag`, `ip_frag_queue`, `ip_expire`; net/ipv6/reassembly.c
//! RFCs:   791 §3.2, 815, 1122 §3.3.2, 3168 §5.3, 5722, 6946, 7112, 8200 §4.5
//! drops:  FragTimeout, Frag6Timeout, FragOverlap, Frag6Overlap, FragInvalid, Frag6Invalid, FragMem,
//!         Frag6Mem, FragTooFar
//!
//! Memory is bounded by true size, each fragment: what would exceed the limit is dropped, also when
//! its packet has begun already. A fragment that overlaps another throws the whole packet away; an
//! exact duplicate changes nothing.

use std::net::IpAddr;

use super::icmp::{self, IcmpErr};
use super::route::is_link_scope;
use crate::pkt::{Batch, Csum, Pkt};
use crate::rand::{Keyed, KeyedMap};
use crate::shard::{Net, Shard};
use crate::sock::Slab;
use crate::table::{Reason, Stage, count::id};
use crate::time::{Instant, SEC, Wheel};
use crate::trace::{self, Said};
use crate::wire::ipv6::{ParamCode, walk};
use crate::wire::{Ipv4Hdr, Ipv6Hdr};

/// Most bytes of payload that fragments may add up to.
const PAYLOAD_MAX: u32 = 65535;
/// Counters of fragments by source, for `ipfrag_max_dist`: a power of two.
const SOURCES: usize = 256;

/// What fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// The protocol over IPv4; 0 over IPv6, where only the first fragment's counts.
    proto: u8,
    /// The device, where addresses have a meaning on one link only.
    dev: u8,
}

struct Piece {
    start: u32,
    end: u32,
    pkt: Pkt,
}

/// A packet of which fragments have come (Linux: `struct ipq`, `struct frag_queue`).
struct Queue {
    key: Key,
    /// In order of their place; none overlap.
    pieces: Vec<Piece>,
    /// Length of the payload, once the last fragment has come.
    total: Option<u32>,
    /// Bytes of payload that are there.
    have: u32,
    /// Their memory, true size.
    mem: usize,
    /// The ECN fields seen, one bit each.
    ecn: u8,
    /// Fragments of this source that had come when the last of this packet did.
    rid: u32,
}

/// Fragments that wait for the rest.
pub struct Table {
    key: Keyed,
    slab: Slab<Queue>,
    map: KeyedMap<Key, u32>,
    wheel: Wheel,
    /// Memory of all fragments, true size: IPv4, IPv6.
    mem: [usize; 2],
    sources: Vec<u32>,
    due: Vec<u32>,
}

impl Table {
    /// Empty.
    pub fn new(key: Keyed) -> Table {
        Table {
            key,
            slab: Slab::default(),
            map: KeyedMap::with_hasher(key),
            wheel: Wheel::default(),
            mem: [0; 2],
            sources: vec![0; SOURCES],
            due: Vec::new(),
        }
    }
    /// When something is due.
    pub fn next_timer(&self) -> Option<Instant> {
        self.wheel.next()
    }
    /// How many packets wait for fragments (`FRAG: inuse` in `/proc/net/sockstat`, both versions).
    pub fn len(&self) -> usize {
        self.slab.len()
    }
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
    /// Bytes of memory that fragments hold: IPv4, IPv6 (`FRAG: memory`).
    pub fn mem(&self) -> [usize; 2] {
        self.mem
    }
    /// Counts a fragment of this source; returns how many came.
    fn next_rid(&mut self, src: IpAddr) -> u32 {
        let bits = match src {
            IpAddr::V4(a) => a.to_bits() as u64,
            IpAddr::V6(a) => a.to_bits() as u64 ^ (a.to_bits() >> 64) as u64,
        };
        let rid = &mut self.sources[self.key.hash2(bits, 0) as usize % SOURCES];
        *rid = rid.wrapping_add(1);
        *rid
    }
    fn remove(&mut self, index: u32) -> Option<Queue> {
        let queue = self.slab.remove(index)?;
        self.map.remove(&queue.key);
        self.wheel.cancel(index);
        self.mem[family(queue.key.src)] -= queue.mem;
        Some(queue)
    }
}

fn family(addr: IpAddr) -> usize {
    addr.is_ipv6() as usize
}

/// The reasons of either version.
#[derive(Clone, Copy)]
struct Reasons {
    timeout: Reason,
    overlap: Reason,
    invalid: Reason,
    mem: Reason,
}
const REASONS: [Reasons; 2] = [
    Reasons {
        timeout: Reason::FragTimeout,
        overlap: Reason::FragOverlap,
        invalid: Reason::FragInvalid,
        mem: Reason::FragMem,
    },
    Reasons {
        timeout: Reason::Frag6Timeout,
        overlap: Reason::Frag6Overlap,
        invalid: Reason::Frag6Invalid,
        mem: Reason::Frag6Mem,
    },
];

/// What became of a fragment.
enum Outcome {
    /// It waits for others.
    Held,
    /// It was there already.
    Duplicate(Pkt),
    /// It is dropped alone.
    Drop(Pkt, Reason),
    /// It is a whole IPv6 packet by itself (RFC 6946): it waits for nobody.
    Atomic(Pkt),
    /// Its packet is complete, at this index.
    Complete(u32),
}

/// Takes the fragments that Route found and hands on the packets that they complete.
pub fn ip_defrag(cx: &mut Shard, batch: &mut Batch) {
    let net = &mut cx.net;
    net.counts.flow(Stage::Reasm).batched();
    while let Some(pkt) = net.reasm_in.pop_front() {
        net.counts.flow(Stage::Reasm).enter(1);
        let v4 = pkt.src.is_ipv4();
        net.counts.inc(if v4 { id::IpReasmReqds } else { id::Ip6ReasmReqds });
        match frag_queue(net, pkt) {
            Outcome::Held => {}
            Outcome::Duplicate(pkt) => {
                // All its bytes are part of the packet.
                trace::say(&mut net.trace, Stage::Reasm, &pkt, Said::Merged);
                net.counts.flow(Stage::Reasm).merge(1);
                net.pool.free(pkt);
            }
            Outcome::Drop(pkt, reason) => net.kfree_skb_reason(Stage::Reasm, pkt, reason),
            Outcome::Atomic(mut pkt) => {
                net.counts.inc(id::Ip6ReasmOKs);
                net.counts.flow(Stage::Reasm).pass(1);
                pkt.frag = false;
                trace::say(&mut net.trace, Stage::Reasm, &pkt, Said::Pass);
                batch.push(pkt);
            }
            Outcome::Complete(index) => {
                if let Some(pkt) = frag_reasm(net, index) {
                    net.counts.inc(if v4 { id::IpReasmOKs } else { id::Ip6ReasmOKs });
                    batch.push(pkt);
                }
            }
        }
    }
}

/// A fragment's place in its packet.
struct Place {
    key: Key,
    start: u32,
    end: u32,
    more: bool,
    /// Where an IPv6 fragment header begins, from the network header.
    frag_at: usize,
}

/// Reads the fragment's place again from its header: the packet has no room to carry it.
fn place_of(pkt: &Pkt) -> Option<Place> {
    let header = pkt.from_network();
    let len = pkt.len() as u32;
    let (src, dst) = (pkt.src, pkt.dst);
    if src.is_ipv4() {
        let h: &[u8; 20] = header.first_chunk()?;
        let field = u16::from_be_bytes([h[6], h[7]]);
        let start = ((field & 0x1fff) as u32) << 3;
        let id = u16::from_be_bytes([h[4], h[5]]) as u32;
        let key = Key { src, dst, id, proto: pkt.ip_proto, dev: 0 };
        return Some(Place { key, start, end: start + len, more: field & 0x2000 != 0, frag_at: 0 });
    }
    let hdr = Ipv6Hdr::parse(header).ok()?;
    let upper = walk(header, &hdr).ok()?;
    let (frag, (frag_at, _)) = (upper.frag?, upper.frag_at?);
    let dev = if is_link_scope(src) || is_link_scope(dst) { pkt.dev } else { 0 };
    let key = Key { src, dst, id: frag.id, proto: 0, dev };
    let start = frag.frag_off_bytes as u32;
    Some(Place { key, start, end: start + len, more: frag.mf, frag_at })
}

/// Puts one fragment into its packet (Linux: `ip_frag_queue`, `ip6_frag_queue`).
fn frag_queue(net: &mut Net, pkt: Pkt) -> Outcome {
    let v = family(pkt.src);
    let why = REASONS[v];
    let Some(place) = place_of(&pkt) else { return Outcome::Drop(pkt, why.invalid) };
    if v == 1 && place.start == 0 && !place.more {
        return Outcome::Atomic(pkt);
    }
    if let Some(fault) = place_fault(&place) {
        if v == 1 {
            let pointer = if fault { 4 } else { place.frag_at as u32 + 2 };
            let code = ParamCode::HdrField as u8;
            icmp::icmp_send(net, &pkt, IcmpErr::ParamProblem { code, pointer });
        }
        return Outcome::Drop(pkt, why.invalid);
    }
    let size = pkt.truesize();
    let high = [net.knobs.ipfrag_high_thresh, net.knobs.ip6frag_high_thresh][v] as usize;
    if net.reasm.mem[v] + size > high {
        return Outcome::Drop(pkt, why.mem);
    }
    let index = find_queue(net, &place.key);
    let Some(queue) = net.reasm.slab.at_mut(index) else { return Outcome::Drop(pkt, why.mem) };
    // The end of the packet is where its last fragment ends; nothing lies beyond it.
    let last = queue.pieces.last().map_or(0, |p| p.end);
    let lies = match (queue.total, place.more) {
        (Some(total), true) => place.end > total,
        (Some(total), false) => place.end != total,
        (None, false) => place.end < last,
        (None, true) => false,
    };
    if lies {
        drop_queue(net, index, why.invalid);
        return Outcome::Drop(pkt, why.invalid);
    }
    let at = queue.pieces.partition_point(|p| p.start < place.start);
    let after = queue.pieces.get(at);
    if after.is_some_and(|p| (p.start, p.end) == (place.start, place.end)) {
        return Outcome::Duplicate(pkt);
    }
    let before = at.checked_sub(1).and_then(|i| queue.pieces.get(i));
    if before.is_some_and(|p| p.end > place.start) || after.is_some_and(|p| p.start < place.end) {
        drop_queue(net, index, why.overlap);
        return Outcome::Drop(pkt, why.overlap);
    }
    if !place.more {
        queue.total = Some(place.end);
    }
    queue.have += place.end - place.start;
    queue.mem += size;
    queue.ecn |= 1 << (pkt.tos & 3);
    let complete = queue.total == Some(queue.have);
    if !complete {
        trace::say(&mut net.trace, Stage::Reasm, &pkt, Said::Held);
    }
    queue.pieces.insert(at, Piece { start: place.start, end: place.end, pkt });
    net.reasm.mem[v] += size;
    net.counts.flow(Stage::Reasm).hold(1);
    if complete { Outcome::Complete(index) } else { Outcome::Held }
}

/// Whether the place can not be: `Some(true)` = the length is at fault, `Some(false)` = the offset.
fn place_fault(place: &Place) -> Option<bool> {
    let len = place.end - place.start;
    if len == 0 || (place.more && !len.is_multiple_of(8)) {
        Some(true)
    } else if place.end > PAYLOAD_MAX {
        Some(false)
    } else {
        None
    }
}

/// The packet that the fragment belongs to; a new one if none waits for it.
fn find_queue(net: &mut Net, key: &Key) -> u32 {
    let v4 = key.src.is_ipv4();
    let rid = net.reasm.next_rid(key.src);
    if let Some(index) = net.reasm.map.get(key).copied() {
        let max = net.knobs.ipfrag_max_dist as u32;
        let far = |q: &Queue| v4 && max != 0 && rid.wrapping_sub(q.rid) > max;
        if !net.reasm.slab.at(index).is_some_and(far) {
            if let Some(queue) = net.reasm.slab.at_mut(index) {
                queue.rid = rid;
            }
            return index;
        }
        // So much has come in between that the identification may have been used again.
        drop_queue(net, index, Reason::FragTooFar);
    }
    let (pieces, total, have, mem, ecn) = (Vec::new(), None, 0, 0, 0);
    let queue = Queue { key: *key, pieces, total, have, mem, ecn, rid };
    let (index, _) = net.reasm.slab.insert(queue);
    net.reasm.map.insert(*key, index);
    let wait = if v4 { net.knobs.ipfrag_time } else { net.knobs.ip6frag_time };
    net.reasm.wheel.arm(index, net.now.plus(wait * SEC));
    index
}

/// Throws a packet's fragments away. As in Linux that is one failure of reassembly, however many
/// fragments there were.
fn drop_queue(net: &mut Net, index: u32, reason: Reason) {
    let Some(queue) = net.reasm.remove(index) else { return };
    drop_pieces(net, queue.pieces, reason);
}

fn drop_pieces(net: &mut Net, pieces: Vec<Piece>, reason: Reason) {
    for (i, piece) in pieces.into_iter().enumerate() {
        let v4 = piece.pkt.src.is_ipv4();
        net.counts.flow(Stage::Reasm).release(1);
        net.kfree_skb_reason(Stage::Reasm, piece.pkt, reason);
        if i > 0 {
            net.counts.dec(if v4 { id::IpReasmFails } else { id::Ip6ReasmFails });
        }
    }
}

/// Makes one packet of all its fragments (Linux: `ip_frag_reasm`, `ip6_frag_reasm`).
fn frag_reasm(net: &mut Net, index: u32) -> Option<Pkt> {
    let mut queue = net.reasm.remove(index)?;
    let why = REASONS[family(queue.key.src)];
    let total = queue.have;
    let Some(ecn) = ip_frag_ecn(queue.ecn) else {
        drop_pieces(net, queue.pieces, why.invalid);
        return None;
    };
    let newest = queue.pieces.iter().map(|p| p.pkt.rx_time).max().unwrap_or(net.now);
    let mut rest = queue.pieces.split_off(1.min(queue.pieces.len()));
    let mut first = queue.pieces.pop()?;
    let merged = rest.len() as u64;
    for at in 0..rest.len() {
        if !first.pkt.append(&mut rest[at].pkt, &mut net.pool) {
            // No memory: what was put together goes with what was not.
            rest.push(first);
            drop_pieces(net, rest, why.mem);
            return None;
        }
    }
    for piece in rest {
        trace::say(&mut net.trace, Stage::Reasm, &piece.pkt, Said::Merged);
        // The packet goes on under the number of the first fragment that has one.
        if first.pkt.trace == 0 {
            first.pkt.trace = piece.pkt.trace;
        }
        net.pool.free(piece.pkt);
    }
    let flow = net.counts.flow(Stage::Reasm);
    flow.release(merged + 1);
    flow.merge(merged);
    let mut pkt = first.pkt;
    pkt.rx_time = newest;
    pkt.csum = Csum::None;
    pkt.gso = None;
    pkt.frag = false;
    pkt.tos |= ecn;
    let mended = if pkt.src.is_ipv4() { mend4(&mut pkt, total) } else { mend6(&mut pkt, total) };
    if !mended {
        net.kfree_skb_reason(Stage::Reasm, pkt, why.invalid);
        return None;
    }
    net.counts.flow(Stage::Reasm).pass(1);
    trace::say(&mut net.trace, Stage::Reasm, &pkt, Said::Pass);
    Some(pkt)
}

/// RFC 3168 §5.3: congestion that one fragment met was met by the packet; fragments that disagree
/// on whether they can say so are not of one packet. Returns the bits to set (Linux:
/// `ip_frag_ecn_table`).
fn ip_frag_ecn(seen: u8) -> Option<u8> {
    const NOT_ECT: u8 = 1;
    const CE: u8 = 1 << 3;
    match seen {
        NOT_ECT => Some(0),
        _ if seen & NOT_ECT != 0 => None,
        _ if seen & CE != 0 => Some(3),
        _ => Some(0),
    }
}

/// The header says what the packet is now.
fn mend4(pkt: &mut Pkt, total: u32) -> bool {
    let hlen = pkt.transport.saturating_sub(pkt.network) as usize;
    let Ok(total_len) = u16::try_from(total as usize + hlen) else { return false };
    let tos = pkt.tos;
    let Some(header) = pkt.from_network_mut().get_mut(..hlen) else { return false };
    let Ok(hdr) = Ipv4Hdr::parse(header) else { return false };
    Ipv4Hdr { tos, total_len, mf: false, frag_off_bytes: 0, ..hdr }.emit(header);
    true
}

/// The fragment header goes, and the headers that were split off with the data are read.
fn mend6(pkt: &mut Pkt, total: u32) -> bool {
    const FRAG: usize = 8;
    let header = pkt.from_network();
    let Ok(hdr) = Ipv6Hdr::parse(header) else { return false };
    let Ok(upper) = walk(header, &hdr) else { return false };
    let (Some(frag), Some((frag_at, announced_at))) = (upper.frag, upper.frag_at) else {
        return false;
    };
    let Ok(payload_len) = u16::try_from(frag_at - Ipv6Hdr::LEN + total as usize) else {
        return false;
    };
    let tclass = pkt.tos;
    let header = pkt.from_network_mut();
    if header.len() < frag_at + FRAG {
        return false;
    }
    header[announced_at] = frag.next_header;
    header.copy_within(..frag_at, FRAG);
    let Ok(hdr) = Ipv6Hdr::parse(&header[FRAG..]) else { return false };
    let hdr = Ipv6Hdr { payload_len, tclass, ..hdr };
    hdr.emit(&mut header[FRAG..]);
    pkt.network += FRAG as u32;
    // RFC 7112: all headers lie in the first fragment.
    let Ok(upper) = walk(pkt.from_network(), &hdr) else { return false };
    if upper.frag.is_some_and(|f| !f.is_atomic()) || !pkt.pull(upper.offset - frag_at) {
        return false;
    }
    pkt.ip_proto = upper.proto;
    pkt.transport = pkt.network + upper.offset as u32;
    true
}

/// Serves what is due: packets whose fragments did not all come in time (Linux: `ip_expire`).
pub fn timers(cx: &mut Shard) {
    let net = &mut cx.net;
    let mut due = std::mem::take(&mut net.reasm.due);
    net.reasm.wheel.expire(net.now, &mut due);
    for index in due.drain(..) {
        let Some(queue) = net.reasm.remove(index) else { continue };
        let v4 = queue.key.src.is_ipv4();
        net.counts.inc(if v4 { id::IpReasmTimeout } else { id::Ip6ReasmTimeout });
        // RFC 1122 §3.3.2, RFC 8200 §4.5: only if the first fragment is there can the sender know
        // what is meant.
        if let Some(first) = queue.pieces.first().filter(|p| p.start == 0) {
            icmp::icmp_send(net, &first.pkt, IcmpErr::FragTime);
        }
        drop_pieces(net, queue.pieces, REASONS[family(queue.key.src)].timeout);
    }
    net.reasm.due = due;
}
