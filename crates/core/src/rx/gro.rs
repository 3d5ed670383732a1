//! Stage `Gro`, RX: merges consecutive segments of one flow into a super-packet, so that all later
//! stages work once for many.
//!
//! before: the poll loop, [`crate::rx::backlog`]   after: [`crate::link::input`]
//! Linux:  net/core/gro.c `dev_gro_receive`, `napi_gro_complete`, `napi_gro_flush`,
//!         net/ipv4/tcp_offload.c `tcp_gro_receive`, `tcp_gro_complete`,
//!         net/ipv4/udp_offload.c `udp_gro_receive_segment`, net/ipv4/af_inet.c `inet_gro_receive`
//! RFCs:   9293 §3.1, 768, 791 §3.1, 8200 §3, 3168 §6.1, 6864 §4.1
//! drops:  none: what can not be merged goes on as it came
//!
//! The stage sees whole frames, a batch at a time, and counts them itself. What it merges can be
//! cut again, byte for byte, into what came in ([`crate::tx::gso`]). Within a flow the order stays;
//! packets of flows that are not merged may overtake others that are.

mod header;

use crate::link::L2;
use crate::pkt::{Batch, Csum, Gso, GsoKind, Pkt};
use crate::shard::{Net, Shard};
use crate::table::{Stage, count::id};
use crate::time::Instant;
use crate::trace::{self, Said};
use crate::wire::TcpFlags;
use header::{Class, Hdrs, IdRule};

/// Buckets of the table (`GRO_HASH_BUCKETS`).
const BUCKETS: usize = 8;
/// Packets that one bucket holds; the oldest gives way to a ninth (`MAX_GRO_SKBS`).
const BUCKET_MAX: usize = 8;
/// Fragments of a super-packet: with its head and a device header it is sent by one `writev` of 64 parts.
const FRAGS_MAX: usize = 60;
/// Datagrams in one super-packet (`UDP_GRO_CNT_MAX`).
const UDP_SEGS_MAX: u32 = 64;
/// Bytes from the IP header on: the largest value of IPv4's length field.
const IP_MAX: usize = 65535;
/// Flags which say that the receiver should not wait for more.
const ENDS: TcpFlags = TcpFlags(
    TcpFlags::FIN.0 | TcpFlags::SYN.0 | TcpFlags::RST.0 | TcpFlags::PSH.0 | TcpFlags::URG.0,
);
/// Flags in which segments of one super-packet may differ.
const MAY_DIFFER: TcpFlags = TcpFlags(TcpFlags::CWR.0 | TcpFlags::FIN.0 | TcpFlags::PSH.0);

/// A packet that waits for more of its flow.
struct Held {
    pkt: Pkt,
    hdrs: Hdrs,
    since: Instant,
    /// Payload bytes of each segment but the last.
    size: u32,
    /// Wire packets in it.
    segs: u32,
    /// Payload bytes so far.
    payload: u32,
    /// FIN and PSH of the last segment.
    last_flags: TcpFlags,
    /// How the identification goes on.
    ids: IdRule,
    /// Whether anything was merged into it.
    merged: bool,
}

/// What receive offload holds (Linux: `struct gro_node` of a `napi_struct`).
#[derive(Default)]
pub struct Gro {
    /// `None` before the first packet, and while it is being worked on.
    table: Option<Box<Table>>,
    /// Packets in the table.
    held: usize,
    /// How many of them the stage has counted as held: those that outlived a poll.
    counted: u64,
    /// For the packets that leave by time and not by a poll.
    late: Batch,
}

/// The packets that wait.
#[derive(Default)]
struct Table {
    /// Oldest first.
    buckets: [Vec<Held>; BUCKETS],
    /// Packets in all buckets.
    held: usize,
}

/// Merges what can be merged in this batch; what waited long enough, or can not be merged, is what
/// the batch holds afterwards.
pub fn dev_gro_receive(cx: &mut Shard, batch: &mut Batch) {
    let net = &mut cx.net;
    let entered = batch.now.len() as u64;
    let clock = net.timed();
    let begun = clock.map(|clock| clock());
    // Packets that are never held leave a batch as it is when no other waits: nothing is moved then.
    let untouched = net.gro.held == 0 && none_is_held(net, &batch.now);
    let merged = if untouched { 0 } else { receive_all(net, batch) };

    let flow = net.counts.flow(Stage::Gro);
    flow.batch(entered, batch.now.len() as u64, 0);
    if merged > 0 {
        flow.merge(merged);
    }
    count_held(net);
    if let (Some(clock), Some(begun)) = (clock, begun) {
        net.counts.flow(Stage::Gro).timed(clock().saturating_sub(begun), entered);
    }
    if net.trace.is_some() {
        let trace = &mut net.trace;
        batch.now.iter().for_each(|pkt| trace::say(trace, Stage::Gro, pkt, Said::Pass));
    }
}

/// The batch packet by packet; returns how many were merged into others.
fn receive_all(net: &mut Net, batch: &mut Batch) -> u64 {
    let mut table = net.gro.table.take().unwrap_or_default();
    let mut merged = 0;
    for pkt in batch.now.drain(..) {
        table.receive(net, pkt, &mut batch.next, &mut merged);
    }
    let timeout = if net.knobs.gro { net.knobs.gro_flush_timeout } else { 0 };
    if table.held > 0 {
        table.flush_older(net, timeout, &mut batch.next);
    }
    std::mem::swap(&mut batch.now, &mut batch.next);
    net.gro.held = table.held;
    net.gro.table = Some(table);
    merged
}

/// Tells the stage's count how many wait over the end of the poll.
#[inline]
fn count_held(net: &mut Net) {
    let held = net.gro.held as u64;
    if held != net.gro.counted {
        let flow = net.counts.flow(Stage::Gro);
        flow.release(net.gro.counted);
        flow.hold(held);
        net.gro.counted = held;
    }
}

/// Whether a look at a few places in each says that receive offload passes all these packets by.
#[inline]
fn none_is_held(net: &Net, pkts: &[Pkt]) -> bool {
    let ethernet = |dev: u8| net.ifaces.get(dev as usize).is_some_and(|i| i.l2 == L2::Ethernet);
    let mut last = pkts.first().map_or((0, false), |pkt| (pkt.dev, ethernet(pkt.dev)));
    pkts.iter().all(|pkt| {
        if pkt.dev != last.0 {
            last = (pkt.dev, ethernet(pkt.dev));
        }
        header::passes_by(pkt, last.1, net.knobs.rx_udp_gro_forwarding)
    })
}

/// When [`timers`] has something to do next: never, unless `dev.gro_flush_timeout` is set.
pub fn next_timer(net: &Net) -> Option<Instant> {
    if net.gro.held == 0 {
        return None;
    }
    let buckets = &net.gro.table.as_ref()?.buckets;
    let oldest = buckets.iter().filter_map(|b| b.first()).map(|h| h.since).min()?;
    Some(oldest.plus(net.knobs.gro_flush_timeout))
}

/// Sends packets on their way that waited for `dev.gro_flush_timeout` (Linux: the timer
/// `napi_watchdog`).
pub fn timers(cx: &mut Shard) {
    if next_timer(&cx.net).is_none_or(|at| at > cx.net.now) {
        return;
    }
    let mut batch = std::mem::take(&mut cx.net.gro.late);
    if cx.net.knobs.gro {
        // The stage itself does it, as in every poll.
        crate::path::receive(cx, &mut batch);
    } else {
        dev_gro_receive(cx, &mut batch);
        crate::path::receive(cx, &mut batch);
    }
    cx.net.gro.late = batch;
}

impl Gro {
    /// Whether no packet waits here. As long as one does, batches have to come through this stage
    /// even if it was switched off meanwhile: else they would overtake it.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }
}

impl Table {
    /// One packet: merged, held, or on its way (`dev_gro_receive`).
    #[inline]
    fn receive(&mut self, net: &mut Net, mut pkt: Pkt, out: &mut Vec<Pkt>, merged: &mut u64) {
        let ethernet = net.ifaces.get(pkt.dev as usize).is_some_and(|i| i.l2 == L2::Ethernet);
        let (mut hdrs, want_udp) = (Hdrs::default(), net.knobs.rx_udp_gro_forwarding);
        match header::parse(&mut pkt, &mut hdrs, ethernet, want_udp) {
            Class::Flow if net.knobs.gro => {}
            Class::Other => return out.push(pkt),
            // Fragments and the like may be of a flow that is held here: they must not overtake it.
            Class::Flow | Class::Odd => {
                if self.held > 0 {
                    self.flush_host(net, &pkt, &hdrs, out);
                }
                return out.push(pkt);
            }
        }
        let hdrs = &hdrs;
        let bucket = hdrs.hash as usize % BUCKETS;
        let found = self.buckets[bucket].iter().position(|h| h.same_flow(&pkt, hdrs));
        let holdable = hdrs.begins(&pkt);
        if let Some(at) = found {
            let held = &mut self.buckets[bucket][at];
            if let Some(ids) = held.accepts(&pkt, hdrs)
                && hdrs.csum_good(&mut pkt, net.knobs.rx_checksum)
            {
                match held.merge(net, pkt, hdrs, ids) {
                    Ok(true) => {
                        *merged += 1;
                        self.complete(net, bucket, at, out);
                        return;
                    }
                    Ok(false) => {
                        *merged += 1;
                        return;
                    }
                    Err(refused) => pkt = refused,
                }
            }
            self.complete(net, bucket, at, out);
        }
        match holdable {
            Some((size, segs)) if hdrs.csum_good(&mut pkt, net.knobs.rx_checksum) => {
                self.hold(net, bucket, Held::new(pkt, *hdrs, net.now, size, segs), out);
            }
            _ => out.push(pkt),
        }
    }

    fn hold(&mut self, net: &mut Net, bucket: usize, held: Held, out: &mut Vec<Pkt>) {
        if self.buckets[bucket].len() >= BUCKET_MAX {
            self.complete(net, bucket, 0, out);
        }
        self.buckets[bucket].push(held);
        self.held += 1;
    }

    /// Ends the wait of one packet (`napi_gro_complete`).
    fn complete(&mut self, net: &mut Net, bucket: usize, at: usize, out: &mut Vec<Pkt>) {
        let held = self.buckets[bucket].remove(at);
        self.held -= 1;
        out.push(held.finish(net));
    }

    /// Ends the wait of every packet that came `age` nanoseconds ago or earlier (`napi_gro_flush`).
    fn flush_older(&mut self, net: &mut Net, age: u64, out: &mut Vec<Pkt>) {
        for bucket in &mut self.buckets {
            // Oldest first: what is due is at the front.
            let due = bucket.iter().take_while(|h| net.now.since(h.since) >= age).count();
            self.held -= due;
            out.extend(bucket.drain(..due).map(|held| held.finish(net)));
        }
    }

    /// Ends the wait of every packet between the two hosts of `pkt`.
    #[cold]
    fn flush_host(&mut self, net: &mut Net, pkt: &Pkt, hdrs: &Hdrs, out: &mut Vec<Pkt>) {
        for bucket in 0..BUCKETS {
            let mut at = 0;
            while let Some(held) = self.buckets[bucket].get(at) {
                if held.same_hosts(pkt, hdrs) {
                    self.complete(net, bucket, at, out);
                } else {
                    at += 1;
                }
            }
        }
    }
}

impl Held {
    fn new(pkt: Pkt, hdrs: Hdrs, since: Instant, size: u32, segs: u32) -> Held {
        let ids = hdrs.first_id(&pkt, segs);
        Held {
            hdrs,
            since,
            size,
            segs,
            payload: hdrs.payload,
            last_flags: TcpFlags::NONE,
            ids,
            merged: false,
            pkt,
        }
    }

    /// Whether `pkt` is of the same flow: it must not overtake this one.
    #[inline]
    fn same_flow(&self, pkt: &Pkt, hdrs: &Hdrs) -> bool {
        self.hdrs.hash == hdrs.hash
            && (self.pkt.dev, self.pkt.vlan) == (pkt.dev, pkt.vlan)
            && (self.hdrs.v6, self.hdrs.udp) == (hdrs.v6, hdrs.udp)
            && hdrs.same_ends(pkt, &self.hdrs, &self.pkt)
    }

    fn same_hosts(&self, pkt: &Pkt, hdrs: &Hdrs) -> bool {
        self.hdrs.v6 == hdrs.v6 && self.hdrs.addrs(&self.pkt) == hdrs.addrs(pkt)
    }

    /// Whether `pkt` of the same flow can be its next part, and how identifications go on then
    /// (`inet_gro_receive`, `tcp_gro_receive`, `udp_gro_receive_segment`).
    #[inline]
    fn accepts(&self, pkt: &Pkt, hdrs: &Hdrs) -> Option<IdRule> {
        let whole = (self.hdrs.l3 + self.hdrs.l4) as usize + (self.payload + hdrs.payload) as usize;
        let fits = whole <= IP_MAX
            && hdrs.payload > 0
            && self.pkt.nr_frags() + pkt.nr_frags() < FRAGS_MAX
            && self.pkt.mark == pkt.mark
            && self.pkt.queue == pkt.queue;
        let size_fits = match pkt.gso {
            // Super-packets can be joined if their segments are alike.
            Some(gso) => {
                !hdrs.udp
                    && gso.size as u32 == self.size
                    && pkt.gso_fixed_id == self.pkt.gso_fixed_id
            }
            None => hdrs.payload <= self.size,
        };
        if !fits || !size_fits {
            return None;
        }
        let ids = hdrs.continues(pkt, &self.hdrs, &self.pkt, self.ids, self.segs)?;
        let l4 = if hdrs.udp {
            self.segs < UDP_SEGS_MAX && pkt.gso.is_none()
        } else {
            hdrs.tcp_continues(pkt, &self.hdrs, &self.pkt, self.payload, MAY_DIFFER)
        };
        l4.then_some(ids)
    }

    /// Takes `pkt` in (`skb_gro_receive`); true if nothing can follow it. The packet comes back if
    /// there is no memory for it.
    #[inline]
    fn merge(
        &mut self,
        net: &mut Net,
        mut pkt: Pkt,
        hdrs: &Hdrs,
        ids: IdRule,
    ) -> Result<bool, Pkt> {
        let flags = if hdrs.udp { TcpFlags::NONE } else { hdrs.flags() };
        let segs = pkt.segs() as u32;
        let headers = hdrs.len();
        if net.pool.small_left() == 0 {
            return Err(pkt);
        }
        trace::say(&mut net.trace, Stage::Gro, &pkt, Said::Merged);
        // The super-packet goes on under the number of the first that has one.
        if self.pkt.trace == 0 {
            self.pkt.trace = pkt.trace;
        }
        let pulled = pkt.pull(headers);
        debug_assert!(pulled, "the headers were found in the head");
        let appended = self.pkt.append(&mut pkt, &mut net.pool);
        assert!(appended, "a packet can be appended while the pool has a buffer");
        net.pool.free(pkt);
        self.segs += segs;
        self.payload += hdrs.payload;
        self.last_flags = flags;
        self.ids = ids;
        self.merged = true;
        net.counts.inc_by(id::GroMerged, segs as u64);
        let full = self.payload == self.segs * self.size;
        let most = hdrs.udp && self.segs >= UDP_SEGS_MAX;
        Ok(!full || most || flags.any(ENDS))
    }

    /// The packet as later stages are to see it (`inet_gro_complete`, `tcp_gro_complete`).
    fn finish(mut self, net: &mut Net) -> Pkt {
        if !self.merged {
            return self.pkt;
        }
        net.counts.inc(id::GroCompleted);
        let csum_offset = if self.hdrs.udp { 6 } else { 16 };
        self.hdrs.complete(&mut self.pkt, self.payload as usize, self.last_flags);
        self.pkt.csum = Csum::Partial { start: self.hdrs.l3 as u16, offset: csum_offset };
        self.pkt.gso_fixed_id = self.ids == IdRule::Fixed;
        let kind = match (self.hdrs.udp, self.hdrs.v6) {
            (true, _) => GsoKind::Udp,
            (false, true) => GsoKind::Tcp6,
            (false, false) => GsoKind::Tcp4,
        };
        let ecn = !self.hdrs.udp && self.hdrs.flags().any(TcpFlags::CWR);
        self.pkt.gso = Some(Gso { kind, size: self.size as u16, segs: self.segs as u16, ecn });
        self.pkt
    }
}

#[cfg(test)]
mod tests;
