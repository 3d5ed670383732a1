//! Stage `Gso`, TX: what the device can not do is done here, as the very last step: super-packets
//! are cut into segments, checksums are completed.
//!
//! before: [`crate::tx::qdisc`]   after: [`crate::tx::xmit`]
//! Linux:  net/core/dev.c `validate_xmit_skb`, net/core/gso.c `__skb_gso_segment`,
//!         net/ipv4/tcp_offload.c `tcp_gso_segment`, net/ipv4/udp_offload.c `__udp_gso_segment`,
//!         net/ipv4/af_inet.c `inet_gso_segment`
//! RFCs:   9293 §3.1, 768, 791 §3.1, 8200 §8.1, 3168 §6.1.2 (CWR on the first segment alone), 6864 §4.1
//! drops:  GsoInvalid, GsoNoMem, GsoCsum

use linerate_arch::csum::{csum_add, csum_fold, csum_partial, csum_sub};

use super::xmit::{xmit_list, xmit_one};
use crate::link::Iface;
use crate::pkt::{Csum, Cursor, Gso, GsoKind, HEADROOM, LARGE, Pkt, Pool, SMALL, Skb, Verdict};
use crate::shard::Net;
use crate::table::{Knobs, Reason, Stage, count::id};
use crate::tap::Point;
use crate::trace::{self, Said};
use crate::wire::{IPPROTO_TCP, IPPROTO_UDP, TcpFlags};

/// What the device may be asked to do now: its features as far as the knobs allow them.
#[derive(Clone, Copy)]
pub(super) struct Offers {
    csum: bool,
    tso4: bool,
    tso6: bool,
    uso: bool,
    max: usize,
}

impl Offers {
    /// As `netif_skb_features`: no segmentation without checksums, since each segment needs one.
    #[inline]
    pub(super) fn of(iface: &Iface, knobs: &Knobs) -> Offers {
        let csum = iface.features.tx_csum && knobs.tx_checksum;
        let gso = csum && knobs.gso;
        Offers {
            csum,
            tso4: iface.features.tso4 && gso && knobs.tso,
            tso6: iface.features.tso6 && gso && knobs.tso,
            uso: iface.features.uso && gso,
            max: iface.gso_max_size as usize,
        }
    }

    /// Whether a single packet can go to the device now; its checksum is completed if that is all it
    /// lacks. False, and nothing changes, if there is more to do.
    #[inline(always)]
    pub(super) fn ready(self, pkt: &mut Pkt) -> bool {
        if pkt.gso.is_some() {
            return false;
        }
        if self.csum || !matches!(pkt.csum, Csum::Partial { .. }) {
            return true;
        }
        let before = pkt.network.checked_sub(pkt.data_offset());
        before.is_some_and(|before| pkt.csum_complete_short(before as usize))
    }

    /// Whether the device takes this super-packet as it is (`netif_needs_gso`, negated).
    ///
    /// A fixed identification does not forbid it: only packets that may not be fragmented have
    /// one, and to those the field means nothing (RFC 6864 §4.1).
    #[inline]
    fn take(self, pkt: &Skb, gso: Gso) -> bool {
        let kind = match gso.kind {
            GsoKind::Tcp4 => self.tso4,
            GsoKind::Tcp6 => self.tso6,
            GsoKind::Udp => self.uso,
        };
        let link = pkt.network.saturating_sub(pkt.data_offset()) as usize;
        kind && matches!(pkt.csum, Csum::Partial { .. })
            && pkt.len().saturating_sub(link) <= self.max
    }
}

/// Makes of a packet what its device can send. The packet begins with its link header, or with
/// the IP header where there is none. `Taken`: it was cut, and its segments are in the ring.
#[inline]
pub fn validate_xmit_skb(net: &mut Net, pkt: Pkt) -> Verdict {
    let Some(iface) = net.ifaces.get(pkt.dev as usize) else {
        return Verdict::Drop(pkt, Reason::GsoInvalid);
    };
    let offers = Offers::of(iface, &net.knobs);
    match pkt.gso {
        None => skb_csum_hwoffload_help(pkt, offers.csum),
        Some(gso) if offers.take(&pkt, gso) => Verdict::Pass(pkt),
        Some(gso) => skb_gso_segment(net, pkt, gso, offers.csum),
    }
}

/// Completes the checksum unless the device does.
#[inline]
fn skb_csum_hwoffload_help(mut pkt: Pkt, device_sums: bool) -> Verdict {
    if device_sums || !matches!(pkt.csum, Csum::Partial { .. }) {
        return Verdict::Pass(pkt);
    }
    let Some(before) = pkt.network.checked_sub(pkt.data_offset()) else {
        return Verdict::Drop(pkt, Reason::GsoCsum);
    };
    if pkt.csum_complete(before as usize) {
        Verdict::Pass(pkt)
    } else {
        Verdict::Drop(pkt, Reason::GsoCsum)
    }
}

/// How the payload gets into the segments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carry {
    /// It lies in the send queue: the segments share it.
    Share,
    /// It is copied behind the headers.
    Copy,
    /// It is copied into a large buffer: the head has no room for so large a segment.
    Large,
}

/// What all segments of a super-packet have in common.
struct Cut {
    /// Length of the link header.
    l2: usize,
    /// Length of the IP header with options or extension headers.
    l3: usize,
    /// Length of all headers.
    hdr: usize,
    v4: bool,
    tcp: bool,
    /// Payload of each segment but the last.
    size: usize,
    /// Payload of all of them.
    payload: usize,
    carry: Carry,
    device_sums: bool,
    fixed_id: bool,
    /// Identification of the first segment.
    id: u16,
    /// Sequence number of the first segment.
    seq: u32,
    /// The word with data offset and flags.
    flags: u16,
    /// The IPv4 header without length, identification and checksum.
    ip_sum: u32,
    /// The pseudo header without the length.
    pseudo: u32,
    /// The transport header without what differs from segment to segment.
    l4_sum: u32,
}

/// Cuts a super-packet and puts the segments into the ring (`__skb_gso_segment`): all of them or none.
fn skb_gso_segment(net: &mut Net, mut pkt: Pkt, gso: Gso, device_sums: bool) -> Verdict {
    let plan = match plan(&net.pool, &mut pkt, gso, device_sums) {
        Ok(Some(plan)) => plan,
        Ok(None) => return skb_csum_hwoffload_help(pkt, device_sums),
        Err(why) => return Verdict::Drop(pkt, why),
    };
    trace::say(&mut net.trace, Stage::Gso, &pkt, Said::Taken);
    let mut at = plan.begin(&mut pkt);
    let segs = plan.segs();
    let place = (pkt.dev, pkt.queue);
    if pkt.trace == 0 && !net.taps.sees(Stage::Gso) {
        let segments = |pool: &mut Pool, n| plan.segment(pool, &mut pkt, &mut at, n);
        xmit_list(net, place, segs, segments);
    } else {
        for n in 0..segs {
            let Some(seg) = plan.segment(&mut net.pool, &mut pkt, &mut at, n) else { break };
            if net.taps.sees(Stage::Gso) {
                net.tap_at(Stage::Gso, Point::After, &seg, None);
            }
            xmit_one(net, pkt.dev, seg);
        }
    }
    let flow = net.counts.flow(Stage::Gso);
    flow.make(segs as u64);
    flow.pass(segs as u64);
    net.counts.inc(id::GsoSegmented);
    net.counts.inc_by(id::GsoSegs, segs as u64);
    net.pool.free(pkt);
    Verdict::Taken
}

/// Cuts a super-packet for a queueing discipline, which takes the segments from `out`: all of them
/// or none. What is a single segment already, or no super-packet, comes back alone.
///
/// # Errors
/// The packet and why it can not be cut.
pub(super) fn cut(
    pool: &mut Pool,
    mut pkt: Pkt,
    device_sums: bool,
    out: &mut Vec<Pkt>,
) -> Result<(), (Pkt, Reason)> {
    let planned = match pkt.gso {
        Some(gso) => plan(pool, &mut pkt, gso, device_sums),
        None => Ok(None),
    };
    match planned {
        Ok(Some(plan)) => {
            let mut at = plan.begin(&mut pkt);
            let segs = (0..plan.segs()).map_while(|n| plan.segment(pool, &mut pkt, &mut at, n));
            out.extend(segs);
            // The sender is charged until the last of them leaves.
            if let Some(last) = out.last_mut() {
                (last.hint, last.charge) = (pkt.hint, std::mem::take(&mut pkt.charge));
            }
            pool.free(pkt);
        }
        Ok(None) => out.push(pkt),
        Err(why) => return Err((pkt, why)),
    }
    Ok(())
}

/// How a super-packet is to be cut, once it is sure that there is memory for all segments. `None`: it
/// is a single segment already, and no super-packet any more; only its checksum may be missing.
fn plan(pool: &Pool, pkt: &mut Pkt, gso: Gso, device_sums: bool) -> Result<Option<Cut>, Reason> {
    let mut cut = Cut::of(pkt, gso, device_sums).ok_or(Reason::GsoInvalid)?;
    if cut.payload <= cut.size {
        pkt.gso = None;
        return Ok(None);
    }
    let segs = cut.segs();
    cut.carry = carry(pkt, &cut);
    let memory =
        pool.small_left() >= segs && (cut.carry != Carry::Large || pool.large_left() >= segs);
    if memory { Ok(Some(cut)) } else { Err(Reason::GsoNoMem) }
}

/// The way for this packet's payload. Memory that is shared stays shared only if all of it is:
/// the headers and copied bytes come before any fragment.
fn carry(pkt: &Skb, cut: &Cut) -> Carry {
    if pkt.head_len() == cut.hdr && pkt.is_all_shared() {
        Carry::Share
    } else if HEADROOM + cut.hdr + cut.size <= SMALL {
        Carry::Copy
    } else {
        Carry::Large
    }
}

#[inline]
fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_be_bytes(*b))
}

#[inline]
fn put16(b: &mut [u8], at: usize, value: u16) {
    if let Some(field) = b.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

impl Cut {
    /// Reads the headers; `None` if they contradict each other or what `gso` says.
    fn of(pkt: &mut Pkt, gso: Gso, device_sums: bool) -> Option<Cut> {
        let l2 = pkt.network.checked_sub(pkt.data_offset())? as usize;
        let l3 = pkt.transport.checked_sub(pkt.network)? as usize;
        let tcp = gso.kind != GsoKind::Udp;
        let l4_min = if tcp { 20 } else { 8 };
        if gso.size == 0 || !pkt.may_pull(l2 + l3 + l4_min) {
            return None;
        }
        let l4 = if tcp { (pkt.head().get(l2 + l3 + 12)? >> 4) as usize * 4 } else { 8 };
        let hdr = l2 + l3 + l4;
        if l4 < l4_min || HEADROOM + hdr > SMALL || !pkt.may_pull(hdr) {
            return None;
        }
        let (ip, l4_bytes) = pkt.head().get(l2..hdr)?.split_at_checked(l3)?;
        let first = *ip.first()?;
        let v4 = first >> 4 == 4;
        let sound = if v4 { l3 >= 20 && (first & 0xf) as usize * 4 == l3 } else { l3 >= 40 };
        let right_kind = match gso.kind {
            GsoKind::Tcp4 => v4,
            GsoKind::Tcp6 => first >> 4 == 6,
            GsoKind::Udp => v4 || first >> 4 == 6,
        };
        if !right_kind || !sound {
            return None;
        }
        let mut cut = Cut {
            l2,
            l3,
            hdr,
            v4,
            tcp,
            size: gso.size as usize,
            payload: pkt.len() - hdr,
            carry: Carry::Copy,
            device_sums,
            fixed_id: pkt.gso_fixed_id,
            id: be16(ip, 4),
            seq: (be16(l4_bytes, 4) as u32) << 16 | be16(l4_bytes, 6) as u32,
            flags: be16(l4_bytes, 12),
            ip_sum: 0,
            pseudo: 0,
            l4_sum: 0,
        };
        // The last bytes of the longest IP packet are beyond its length field.
        if l3 + l4 + cut.size > 65535 {
            return None;
        }
        cut.sum_headers(pkt.csum, ip, l4_bytes);
        Some(cut)
    }

    /// Sums what is the same in all segments, once.
    fn sum_headers(&mut self, csum: Csum, ip: &[u8], l4: &[u8]) {
        let csum_at = if self.tcp { 16 } else { 6 };
        let addrs = if self.v4 { 12..20 } else { 8..40 };
        self.pseudo = match csum {
            // The field holds the pseudo header's sum with the length of the whole; it is also right
            // where a routing header names another destination than the IPv6 header.
            Csum::Partial { .. } => {
                csum_sub(be16(l4, csum_at) as u32, (l4.len() + self.payload) as u32)
            }
            _ => csum_partial(ip.get(addrs).unwrap_or_default(), self.proto() as u32),
        };
        let except = |b: &[u8], fields: &[usize]| {
            fields.iter().fold(csum_partial(b, 0), |sum, at| csum_sub(sum, be16(b, *at) as u32))
        };
        self.ip_sum = except(ip, &[2, 4, 10]);
        let varying: &[usize] = if self.tcp { &[4, 6, 12, 16] } else { &[4, 6] };
        self.l4_sum = csum_add(self.pseudo, except(l4, varying));
    }

    fn proto(&self) -> u8 {
        if self.tcp { IPPROTO_TCP } else { IPPROTO_UDP }
    }

    /// How many segments there will be.
    fn segs(&self) -> usize {
        self.payload.div_ceil(self.size)
    }

    /// Where the payload begins, before the first segment.
    fn begin(&self, pkt: &mut Pkt) -> Cursor {
        if self.carry == Carry::Share {
            pkt.reserve_shares(self.size);
        }
        pkt.cursor(self.hdr)
    }

    /// Segment `n`, whose payload begins at `at`; `None` if there is no memory.
    #[inline]
    fn segment(&self, pool: &mut Pool, from: &mut Pkt, at: &mut Cursor, n: usize) -> Option<Pkt> {
        let mut seg = pool.alloc()?;
        self.carry_payload(pool, from, &mut seg, at, n);
        self.write_headers(&mut seg, n);
        seg.trace = from.trace;
        Some(seg)
    }

    /// Headers as they were, and the payload of segment `n`.
    #[inline]
    fn carry_payload(
        &self,
        pool: &mut Pool,
        from: &mut Pkt,
        seg: &mut Pkt,
        at: &mut Cursor,
        n: usize,
    ) {
        let off = n * self.size;
        let len = self.size.min(self.payload - off);
        seg.put_headers(from, self.hdr);
        let done = match self.carry {
            Carry::Copy => seg.copy_range(from, at, len),
            Carry::Share => seg.share_range(from, at, len),
            Carry::Large => match pool.alloc_large() {
                Some(mut buf) => {
                    let len = len.min(LARGE);
                    let done = from.copy_bits(self.hdr + off, &mut buf[..len]);
                    seg.add_buf(buf, 0, len);
                    done
                }
                None => 0,
            },
        };
        debug_assert_eq!(done, len, "a super-packet has the bytes that its length says");
        seg.copy_header(from);
        seg.network = seg.data_offset() + self.l2 as u32;
        seg.transport = seg.network + self.l3 as u32;
    }

    /// Makes the headers of segment `n` its own: lengths, identification, sequence number, flags,
    /// checksums.
    #[inline]
    fn write_headers(&self, seg: &mut Pkt, n: usize) {
        let off = n * self.size;
        let len = self.size.min(self.payload - off);
        let (hdr, l3) = (self.hdr, self.l3);
        let l4_len = hdr - self.l2 - l3 + len;
        let payload_sum = if self.device_sums { 0 } else { seg.checksum(hdr, len, 0) };
        let Some((ip, l4)) = seg.head_mut()[self.l2..hdr].split_at_mut_checked(l3) else { return };
        if self.v4 {
            let total = (l3 + l4_len) as u16;
            let id = if self.fixed_id { self.id } else { self.id.wrapping_add(n as u16) };
            put16(ip, 2, total);
            put16(ip, 4, id);
            put16(ip, 10, csum_fold(csum_add(self.ip_sum, total as u32 + id as u32)));
        } else {
            put16(ip, 4, (l3 - 40 + l4_len) as u16);
        }
        let mut sum = csum_add(self.l4_sum, l4_len as u32);
        if self.tcp {
            let seq = self.seq.wrapping_add(off as u32);
            let mut flags = TcpFlags(self.flags as u8);
            if n > 0 {
                flags = flags.without(TcpFlags::CWR);
            }
            if off + len < self.payload {
                flags = flags.without(TcpFlags::FIN | TcpFlags::PSH);
            }
            let word = self.flags & 0xff00 | flags.0 as u16;
            put16(l4, 4, (seq >> 16) as u16);
            put16(l4, 6, seq as u16);
            put16(l4, 12, word);
            sum = csum_add(sum, (seq >> 16) + (seq & 0xffff) + word as u32);
        } else {
            put16(l4, 4, l4_len as u16);
            sum = csum_add(sum, l4_len as u32);
        }
        let offset = if self.tcp { 16 } else { 6 };
        if self.device_sums {
            put16(l4, offset, !csum_fold(csum_add(self.pseudo, l4_len as u32)));
            seg.csum = Csum::Partial { start: l3 as u16, offset: offset as u16 };
            return;
        }
        let field = match csum_fold(csum_add(sum, payload_sum)) {
            // Zero would say that there is no checksum (RFC 768).
            0 if !self.tcp => 0xffff,
            field => field,
        };
        put16(l4, offset, field);
        seg.csum = Csum::None;
    }
}

#[cfg(test)]
mod tests;
