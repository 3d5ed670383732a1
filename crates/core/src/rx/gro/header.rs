//! Receive offload's view of headers: where they are, and whether two packets' headers allow them
//! to be one.

use linerate_arch::csum::{csum_add, csum_fold, csum_partial};

use super::ENDS;
use crate::pkt::{Csum, GsoKind, Pkt, Skb};
use crate::wire::{
    ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, IPPROTO_FRAGMENT, IPPROTO_ICMPV6, IPPROTO_NONE, IPPROTO_TCP,
    IPPROTO_UDP, Ipv4Hdr, TcpFlags,
};

/// What a packet is to receive offload.
pub(super) enum Class {
    /// Nothing that it ever holds: it goes on.
    Other,
    /// TCP or UDP between two hosts, but in a form that is not merged; only the addresses are known.
    Odd,
    /// TCP or UDP with plain headers.
    Flow,
}

/// How IPv4 identifications go on from segment to segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdRule {
    /// There is one packet so far, and it may not be fragmented: both ways are open.
    Open,
    /// Each is one more than the one before.
    CountsUp,
    /// All are the same: the field has no meaning (RFC 6864 §4.1).
    Fixed,
}

/// Where the headers lie, all of it inside the head; and what of them is compared with those of the next packet,
/// so that it is read once.
#[derive(Clone, Copy, Default)]
pub(super) struct Hdrs {
    /// Length of the link header.
    pub l2: u8,
    /// Length of the IP header.
    pub l3: u8,
    /// Length of the transport header.
    pub l4: u8,
    pub v6: bool,
    pub udp: bool,
    /// Bytes behind the transport header.
    pub payload: u32,
    /// Of addresses, ports and protocol.
    pub hash: u32,
    /// What is the same in the IP headers of all segments: of IPv4 type of service, flags and time to live; of
    /// IPv6 the first word and the hop limit.
    same: u64,
    /// Identification of IPv4.
    id: u16,
    /// Sequence number of TCP.
    seq: u32,
    /// Acknowledgement number.
    ack: u32,
    /// Data offset, control bits, window.
    word: u32,
}

#[inline]
fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_be_bytes(*b))
}

#[inline]
fn be32(b: &[u8], at: usize) -> u32 {
    b.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_be_bytes(*b))
}

#[inline]
fn put16(b: &mut [u8], at: usize, value: u16) {
    if let Some(field) = b.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// `N` bytes of the head from `at` on: two of them are compared without a call.
#[inline(always)]
fn chunk<const N: usize>(pkt: &Skb, at: usize) -> Option<&[u8; N]> {
    pkt.head().get(at..)?.first_chunk()
}

/// Whether both heads have the same `len` bytes from `at` on; 0, and the three lengths that are usual, without
/// a call.
#[inline(always)]
fn alike(a: &Skb, b: &Skb, (a_at, b_at): (usize, usize), len: usize) -> bool {
    match len {
        0 => true,
        2 => chunk::<2>(a, a_at) == chunk::<2>(b, b_at),
        14 => chunk::<14>(a, a_at) == chunk::<14>(b, b_at),
        _ => a.head().get(a_at..a_at + len) == b.head().get(b_at..b_at + len),
    }
}

/// Whether a look at few places says that receive offload does not hold this packet: IPv4 of another protocol
/// than those that are merged, or a segment of TCP that nothing can follow, as an acknowledgement or the end of
/// what somebody wrote. It may say no of a packet that [`parse`] and [`Hdrs::begins`] let go as well.
#[inline(always)]
pub(super) fn passes_by(pkt: &Skb, ethernet: bool, want_udp: bool) -> bool {
    let l2 = if ethernet { 14 } else { 0 };
    let Some(ip) = chunk::<20>(pkt, l2) else { return false };
    let ipv4 = match ethernet {
        true => chunk(pkt, 12) == Some(&ETH_P_IP.to_be_bytes()),
        false => ip[0] >> 4 != 6,
    };
    match ip[9] {
        IPPROTO_TCP => ipv4 && nothing_follows(pkt, l2 + 20),
        IPPROTO_UDP => ipv4 && !want_udp,
        IPPROTO_FRAGMENT => false,
        _ => ipv4,
    }
}

/// The same of a segment whose header begins at `at`, unless there are options before it: such a packet is not
/// held either, whatever is found here.
#[inline(always)]
fn nothing_follows(pkt: &Skb, at: usize) -> bool {
    let Some(tcp) = chunk::<14>(pkt, at) else { return false };
    TcpFlags(tcp[13]).any(ENDS) || pkt.len() - at <= usize::from(tcp[12] >> 4) * 4
}

/// Reads the headers of a frame.
#[inline]
pub(super) fn parse(pkt: &mut Pkt, hdrs: &mut Hdrs, ethernet: bool, want_udp: bool) -> Class {
    let head = pkt.head();
    let (l2, ethertype) = if ethernet {
        match be16(head, 12) {
            ETH_P_8021Q => (18, be16(head, 16)),
            ethertype => (14, ethertype),
        }
    } else {
        (0, if head.first().is_some_and(|b| b >> 4 == 6) { ETH_P_IPV6 } else { ETH_P_IP })
    };
    let l3: usize = if ethertype == ETH_P_IPV6 { 40 } else { 20 };
    if !matches!(ethertype, ETH_P_IP | ETH_P_IPV6) || !pkt.may_pull(l2 + l3) {
        return Class::Other;
    }
    *hdrs = Hdrs { l2: l2 as u8, l3: l3 as u8, v6: l3 == 40, ..Hdrs::default() };
    let ip_len = pkt.len() - l2;
    let read = match hdrs.v6 {
        true => chunk(pkt, l2).map(|ip| hdrs.ipv6(ip, ip_len)),
        false => chunk(pkt, l2).map(|ip| hdrs.ipv4(ip, ip_len)),
    };
    let Some((plain, proto)) = read else { return Class::Other };
    match proto {
        IPPROTO_TCP => hdrs.l4 = 20,
        IPPROTO_UDP if want_udp => (hdrs.udp, hdrs.l4) = (true, 8),
        IPPROTO_FRAGMENT => {}
        _ => return Class::Other,
    }
    if !plain || !hdrs.transport(pkt) { Class::Odd } else { Class::Flow }
}

impl Hdrs {
    /// Whether this is a header that may be merged, and the protocol that it carries: anything that
    /// may hide one of TCP counts as `IPPROTO_FRAGMENT`.
    #[inline(always)]
    fn ipv4(&mut self, ip: &[u8; 20], len: usize) -> (bool, u8) {
        self.same = u64::from(ip[1]) << 16 | u64::from(ip[6]) << 8 | u64::from(ip[8]);
        self.id = u16::from_be_bytes([ip[4], ip[5]]);
        let frag = u16::from_be_bytes([ip[6], ip[7]]);
        // A checksum of all ones, though right, is not how it would be written again.
        let plain = ip[0] == 0x45
            && usize::from(u16::from_be_bytes([ip[2], ip[3]])) == len
            && frag & !0x4000 == 0
            && [ip[10], ip[11]] != [0xff, 0xff]
            && Ipv4Hdr::csum_ok(ip);
        (plain, ip[9])
    }

    #[inline]
    fn ipv6(&mut self, ip: &[u8; 40], len: usize) -> (bool, u8) {
        self.same = u64::from(be32(ip, 0)) << 8 | u64::from(ip[7]);
        let plain = ip[0] >> 4 == 6 && be16(ip, 4) as usize + 40 == len;
        match ip[6] {
            proto @ (IPPROTO_TCP | IPPROTO_UDP) => (plain, proto),
            none @ (IPPROTO_ICMPV6 | IPPROTO_NONE) => (false, none),
            _ => (false, IPPROTO_FRAGMENT),
        }
    }

    /// Finds the transport header; false if it is not one that may be merged.
    #[inline(always)]
    fn transport(&mut self, pkt: &mut Pkt) -> bool {
        let at = (self.l2 + self.l3) as usize;
        if !pkt.may_pull(at + self.l4 as usize) {
            return false;
        }
        let behind = pkt.len() - at;
        // Checksums that are right but would be written differently again are left alone.
        let partial = matches!(pkt.csum, Csum::Partial { .. });
        let sound = if self.udp {
            let Some(udp) = chunk::<8>(pkt, at) else { return false };
            be16(udp, 4) as usize == behind && (partial || be16(udp, 6) != 0)
        } else {
            let Some(tcp) = chunk::<20>(pkt, at) else { return false };
            (self.seq, self.ack, self.word) = (be32(tcp, 4), be32(tcp, 8), be32(tcp, 12));
            self.l4 = (tcp[12] >> 4) * 4;
            let sound = partial || be16(tcp, 16) != 0xffff;
            if self.l4 < 20 || !pkt.may_pull(self.len()) {
                return false;
            }
            sound
        };
        self.payload = (behind - self.l4 as usize) as u32;
        self.hash = self.hash_of(pkt);
        sound
    }

    #[inline]
    fn hash_of(&self, pkt: &Pkt) -> u32 {
        // Buckets are few and bounded: an attacker who aims at one gains what a full table gives.
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let word = |b: &[u8; 8]| u64::from_ne_bytes(*b);
        let mix = |h: u64, b: &[u8; 8]| (h ^ word(b)).wrapping_mul(ODD).rotate_left(29);
        let (seed, at) = (self.udp as u64, self.l2 as usize);
        let mixed = match self.v6 {
            false => chunk(pkt, at + 12).map_or(0, |addrs| mix(seed, addrs)),
            true => self.addrs(pkt).as_chunks::<8>().0.iter().fold(seed, mix),
        };
        let ports = be32(pkt.head(), (self.l2 + self.l3) as usize) as u64;
        ((mixed ^ ports).wrapping_mul(ODD) >> 32) as u32
    }

    /// Bytes in all headers.
    #[inline]
    pub fn len(&self) -> usize {
        (self.l2 + self.l3) as usize + self.l4 as usize
    }
    #[inline]
    fn ip<'a>(&self, pkt: &'a Skb) -> &'a [u8] {
        pkt.head().get(self.l2 as usize..(self.l2 + self.l3) as usize).unwrap_or_default()
    }
    /// Whether `first`, of the same family, is of the same two hosts and ports.
    #[inline]
    pub fn same_ends(&self, pkt: &Skb, hdrs: &Hdrs, first: &Skb) -> bool {
        // The ports follow the addresses.
        let (a, b) = (self.l2 as usize, hdrs.l2 as usize);
        match self.v6 {
            true => chunk::<36>(pkt, a + 8) == chunk::<36>(first, b + 8),
            false => chunk::<12>(pkt, a + 12) == chunk::<12>(first, b + 12),
        }
    }
    /// Both addresses.
    #[inline]
    pub fn addrs<'a>(&self, pkt: &'a Skb) -> &'a [u8] {
        self.ip(pkt).get(if self.v6 { 8..40 } else { 12..20 }).unwrap_or_default()
    }
    /// The control bits of the TCP header.
    #[inline]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags((self.word >> 16) as u8)
    }

    /// Whether a packet can be the first of a super-packet: the payload of its segments, and how
    /// many of them it has. A packet that nothing may follow need not wait.
    #[inline]
    pub fn begins(&self, pkt: &Skb) -> Option<(u32, u32)> {
        if self.payload == 0 || (!self.udp && self.flags().any(ENDS)) {
            return None;
        }
        let Some(gso) = pkt.gso else { return Some((self.payload, 1)) };
        let kind = if self.v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
        let segs = self.payload / (gso.size as u32).max(1);
        let full = gso.size > 0 && segs * gso.size as u32 == self.payload;
        (full && gso.kind == kind && segs == gso.segs as u32).then_some((gso.size as u32, segs))
    }

    /// The identification rule of a first packet.
    pub fn first_id(&self, pkt: &Skb, segs: u32) -> IdRule {
        let may_not_be_fragmented = self.same & 0x4000 != 0;
        match segs {
            _ if self.v6 || !may_not_be_fragmented => IdRule::CountsUp,
            1 => IdRule::Open,
            _ if pkt.gso_fixed_id => IdRule::Fixed,
            _ => IdRule::CountsUp,
        }
    }

    /// Whether link and IP header allow this packet to follow `first`, which stands for `segs`
    /// packets, and how identifications go on then.
    #[inline]
    pub fn continues(
        &self,
        pkt: &Skb,
        hdrs: &Hdrs,
        first: &Skb,
        ids: IdRule,
        segs: u32,
    ) -> Option<IdRule> {
        let link = self.l2 == hdrs.l2 && alike(pkt, first, (0, 0), self.l2 as usize);
        if !link || self.same != hdrs.same {
            return None;
        }
        if self.v6 {
            return Some(ids);
        }
        let ahead = self.id.wrapping_sub(hdrs.id);
        match ids {
            IdRule::Open | IdRule::CountsUp if ahead == segs as u16 => Some(IdRule::CountsUp),
            IdRule::Open | IdRule::Fixed if ahead == 0 => Some(IdRule::Fixed),
            _ => None,
        }
    }

    /// Whether the TCP header allows this packet to follow `payload` bytes of `first`: the next
    /// sequence number, and all else the same but for the flags in `may_differ`.
    #[inline]
    pub fn tcp_continues(
        &self,
        pkt: &Skb,
        hdrs: &Hdrs,
        first: &Skb,
        payload: u32,
        may_differ: TcpFlags,
    ) -> bool {
        let differ = (self.word ^ hdrs.word) & !((may_differ.0 as u32) << 16);
        self.seq == hdrs.seq.wrapping_add(payload)
            && differ == 0
            && self.ack == hdrs.ack
            && !self.flags().any(TcpFlags::CWR)
            && self.same_options(pkt, hdrs, first)
    }

    /// Whether urgent pointer and options are the same.
    #[inline]
    fn same_options(&self, pkt: &Skb, hdrs: &Hdrs, first: &Skb) -> bool {
        let at = |hdrs: &Hdrs| (hdrs.l2 + hdrs.l3) as usize + 18;
        let len = (self.l4 as usize).saturating_sub(18);
        self.l4 == hdrs.l4 && alike(pkt, first, (at(self), at(hdrs)), len)
    }

    /// Whether the transport checksum is right; notes that it is. What the device vouches for is
    /// not summed again if `believe`.
    #[inline]
    pub fn csum_good(&self, pkt: &mut Pkt, believe: bool) -> bool {
        match pkt.csum {
            Csum::Verified if believe => return true,
            Csum::Partial { start, offset } => {
                return start as usize == self.l3 as usize
                    && offset == if self.udp { 6 } else { 16 };
            }
            _ if pkt.gso.is_some() => return false,
            _ => {}
        }
        let len = self.l4 as usize + self.payload as usize;
        let at = (self.l2 + self.l3) as usize;
        let sum = csum_add(self.pseudo(pkt), len as u32);
        let sum = pkt.checksum(at, len, sum);
        let good = csum_fold(sum) == 0;
        if good {
            pkt.csum = Csum::Verified;
        }
        good
    }

    /// The sum of the pseudo header without the length.
    #[inline]
    fn pseudo(&self, pkt: &Skb) -> u32 {
        let proto = if self.udp { IPPROTO_UDP } else { IPPROTO_TCP };
        match chunk::<8>(pkt, self.l2 as usize + 12) {
            Some(addrs) if !self.v6 => {
                csum_add(csum_add(be32(addrs, 0), be32(addrs, 4)), proto as u32)
            }
            _ => csum_partial(self.addrs(pkt), proto as u32),
        }
    }

    /// Writes the headers of a super-packet with so much payload, whose last segment had these flags.
    pub fn complete(&self, pkt: &mut Pkt, payload: usize, last: TcpFlags) {
        let l4_len = self.l4 as usize + payload;
        let pseudo = !csum_fold(csum_add(self.pseudo(pkt), l4_len as u32));
        let hdrs = pkt.head_mut().get_mut(self.l2 as usize..self.len()).unwrap_or_default();
        let Some((ip, l4)) = hdrs.split_at_mut_checked(self.l3 as usize) else { return };
        if self.v6 {
            put16(ip, 4, l4_len as u16);
        } else {
            put16(ip, 2, (self.l3 as usize + l4_len) as u16);
            put16(ip, 10, 0);
            put16(ip, 10, csum_fold(csum_partial(ip, 0)));
        }
        if self.udp {
            put16(l4, 4, l4_len as u16);
            put16(l4, 6, pseudo);
        } else {
            let word = be16(l4, 12);
            let seen = last.0 & (TcpFlags::FIN | TcpFlags::PSH).0;
            put16(l4, 12, word | seen as u16);
            put16(l4, 16, pseudo);
        }
    }
}
