//! Transport checksums of packets: verifying what came, preparing what leaves.

use std::net::{IpAddr, Ipv4Addr};

use linerate_arch::csum as arch;

use super::{Csum, Pkt, Skb};

/// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1; Linux: `csum_tcpudp_nofold`,
/// `csum_ipv6_magic`), not folded. Addresses of different families sum as what they are.
#[inline(always)]
pub fn pseudo(src: IpAddr, dst: IpAddr, len: usize, proto: u8) -> u32 {
    if let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) {
        return arch::csum_tcpudp_nofold(src, dst, len as u32, proto);
    }
    let addr = |a: IpAddr| match a {
        IpAddr::V4(a) => {
            let bits = a.to_bits();
            (bits >> 16) + (bits & 0xffff)
        }
        IpAddr::V6(a) => a.segments().iter().map(|w| *w as u32).sum(),
    };
    // Eighteen 16-bit words and a length below 2^17 can not overflow 32 bits.
    addr(src) + addr(dst) + proto as u32 + (len as u32 & 0xffff) + (len as u32 >> 16)
}

/// Where UDP has its checksum; no other protocol has one there.
const UDP: u16 = 6;
/// Heads of so many bytes are summed together with their pseudo header.
const SHORT: std::ops::Range<usize> = 8..256;

/// Whether a short IPv4 packet sums to zero. All of it is summed in the order in which it lies in
/// memory, which the answer does not depend on (RFC 1071 §2).
#[inline(always)]
fn short_good(head: &[u8], src: Ipv4Addr, dst: Ipv4Addr, proto: u8) -> bool {
    let word = |bytes: [u8; 4]| u64::from(u32::from_le_bytes(bytes));
    let last = (head.len() as u32 + u32::from(proto)).to_be_bytes();
    short_sum(head, word(src.octets()) + word(dst.octets()) + word(last)) == 0
}

/// The checksum over at least 8 and less than 256 bytes, and a `sum` of few words, as it lies in
/// memory: of little-endian words.
#[inline(always)]
fn short_sum(head: &[u8], sum: u64) -> u16 {
    // At most 32 words of 64 bits are added.
    let mut sum = u128::from(sum);
    let (blocks, rest) = head.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        words.iter().for_each(|w| sum += u128::from(u64::from_le_bytes(*w)));
    }
    // Written out: a loop over so few words costs more than the words.
    let (words, tail) = rest.as_chunks::<8>();
    for at in 0..3 {
        sum += words.get(at).map_or(0, |w| u128::from(u64::from_le_bytes(*w)));
    }
    if !tail.is_empty() {
        let Some(last) = head.last_chunk::<8>() else { return 1 };
        // Bytes that were summed already are shifted out.
        sum += u128::from(u64::from_le_bytes(*last) >> (64 - 8 * tail.len()));
    }
    let sum = (sum.wrapping_add(sum.rotate_left(64)) >> 64) as u64;
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    arch::csum_fold(sum)
}

impl Pkt {
    /// Whether the transport checksum over the whole packet (its data begins at the transport
    /// header) is right, and notes that it is (Linux: `skb_checksum_init`, `__skb_checksum_complete`).
    /// `believe` is `features.rx`: what the device vouches for is not summed again. A partial
    /// checksum was never on a wire and has nothing to verify.
    #[inline(always)]
    pub fn csum_verify(&mut self, believe: bool) -> bool {
        match self.csum {
            Csum::Verified if believe => return true,
            Csum::Partial { .. } => return true,
            _ => {}
        }
        let good = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst))
                if self.nr_frags() == 0 && SHORT.contains(&self.head_len()) =>
            {
                short_good(self.head(), src, dst, self.ip_proto)
            }
            _ => self.csum_good(),
        };
        if good {
            self.csum = Csum::Verified;
        }
        good
    }

    /// The same sum for a packet of any form.
    #[inline(never)]
    fn csum_good(&self) -> bool {
        let len = self.len();
        arch::csum_fold(self.checksum(0, len, pseudo(self.src, self.dst, len, self.ip_proto))) == 0
    }

    /// Leaves the transport checksum, whose field lies `offset` bytes into the transport header at
    /// the front of the data, to whoever sends the packet: the field gets the pseudo header's sum.
    /// IpOut moves `start` when it puts its header in front.
    #[inline]
    pub fn csum_leave(&mut self, offset: u16) {
        let sum = pseudo(self.src, self.dst, self.len(), self.ip_proto);
        let folded = !arch::csum_fold(sum);
        let at = offset as usize;
        self.head_mut()[at..at + 2].copy_from_slice(&folded.to_be_bytes());
        self.csum = Csum::Partial { start: 0, offset };
    }

    /// Completes a partial checksum in software (`skb_checksum_help`). The data begins at the
    /// network header, or `before` bytes ahead of it. False if the packet contradicts itself.
    #[must_use]
    pub fn csum_complete(&mut self, before: usize) -> bool {
        let Csum::Partial { start, offset } = self.csum else { return true };
        if self.csum_complete_short(before) {
            return true;
        }
        let at = before + start as usize + offset as usize;
        if !self.may_pull(at + 2) {
            return false;
        }
        let Some((at, field)) = self.csum_completed(before) else { return false };
        self.head_mut()[at..at + 2].copy_from_slice(&field);
        self.csum = Csum::None;
        true
    }

    /// The same for a short packet that lies in its head; false, and nothing changes, if it is none.
    #[inline(always)]
    pub(crate) fn csum_complete_short(&mut self, before: usize) -> bool {
        let Csum::Partial { start, offset } = self.csum else { return false };
        if !self.frags.is_empty() {
            return false;
        }
        let start = before + start as usize;
        let Some(part) = self.head_mut().get_mut(start..) else { return false };
        if !SHORT.contains(&part.len()) {
            return false;
        }
        let sum = short_sum(part, 0);
        let Some(field) = part.get_mut(offset as usize..).and_then(<[u8]>::first_chunk_mut) else {
            return false;
        };
        *field = if sum == 0 && offset == UDP { [0xff, 0xff] } else { sum.to_le_bytes() };
        self.csum = Csum::None;
        true
    }

    /// What a partial checksum will be once it is completed, and where in the data it goes; for
    /// those who may not write. `None` if it is not partial, or if the packet contradicts itself.
    pub fn csum_completed(&self, before: usize) -> Option<(usize, [u8; 2])> {
        let Csum::Partial { start, offset } = self.csum else { return None };
        let start = before + start as usize;
        let at = start + offset as usize;
        if at + 2 > self.len() {
            return None;
        }
        let sum = self.checksum(start, self.len() - start, 0);
        let field: u16 = match arch::csum_fold(sum) {
            // UDP says "no checksum" by zero, so that a computed zero is sent as all ones (RFC 768).
            0 if offset == UDP => 0xffff,
            sum => sum,
        };
        Some((at, field.to_be_bytes()))
    }
}

impl Skb {
    /// The unfolded Internet checksum of `len` bytes from offset `off`, added to `sum` (`skb_checksum`).
    #[inline]
    pub fn checksum(&self, off: usize, len: usize, sum: u32) -> u32 {
        let head = self.head();
        match &self.frags[..] {
            [] => {
                let part = head.get(off..head.len().min(off + len)).unwrap_or_default();
                arch::csum_partial(part, sum)
            }
            // A segment: headers, and its data in one piece.
            [data] if off + len == head.len() + data.len as usize && off <= head.len() => {
                let first = head.get(off..).unwrap_or_default();
                let sum = if first.is_empty() { sum } else { arch::csum_partial(first, sum) };
                arch::csum_block_add(sum, arch::csum_partial(data.bytes(), 0), first.len())
            }
            _ => self.checksum_frags(off, len, sum),
        }
    }
    #[inline(never)]
    fn checksum_frags(&self, off: usize, len: usize, mut sum: u32) -> u32 {
        let head = self.head();
        let first = head.get(off..head.len().min(off + len)).unwrap_or_default();
        if !first.is_empty() {
            sum = arch::csum_partial(first, sum);
        }
        let (mut skip, mut at) = (off.saturating_sub(head.len()), first.len());
        for frag in &self.frags {
            if at == len {
                break;
            }
            let have = frag.len as usize;
            if skip >= have {
                skip -= have;
                continue;
            }
            let part = &frag.bytes()[skip..have.min(skip + len - at)];
            skip = 0;
            sum = arch::csum_block_add(sum, arch::csum_partial(part, 0), at);
            at += part.len();
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rand::Rng;

    #[test]
    fn short_packets_sum_as_long_ones_do() {
        let mut rng = Rng::new(5);
        for len in SHORT {
            let mut bytes: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
            let (src, dst) =
                (Ipv4Addr::from(rng.below(1 << 32) as u32), Ipv4Addr::new(10, 0, 0, 1));
            bytes[6..8].fill(0);
            let sum = pseudo(src.into(), dst.into(), len, 17);
            let sum = arch::csum_fold(arch::csum_partial(&bytes, sum));
            bytes[6..8].copy_from_slice(&sum.to_be_bytes());
            assert!(short_good(&bytes, src, dst, 17), "{len} bytes");
            assert!(!short_good(&bytes, src, dst, 6), "{len} bytes of another protocol");
            for at in 0..len {
                bytes[at] ^= 0x10;
                assert!(!short_good(&bytes, src, dst, 17), "byte {at} of {len}");
                bytes[at] ^= 0x10;
            }
        }
        assert!(!short_good(&[0; 8], Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, 0x37));
    }
}
