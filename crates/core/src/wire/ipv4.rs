//! The IPv4 header and its options (RFC 791). Linux: `struct iphdr`, `ip_options_compile`.

use std::net::Ipv4Addr;

use linerate_arch::csum::{csum_add, csum_fold, csum_partial};

use super::{WireError, head, room};

/// Length of an IPv4 header without options, in bytes.
pub const IPV4_HLEN: usize = 20;
/// Length of the longest IPv4 header, in bytes.
pub const IPV4_HLEN_MAX: usize = 60;

/// The fixed part of the IPv4 header. Linux: `struct iphdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Hdr {
    /// Length of the header with its options in bytes, 20..=60, a multiple of 4.
    pub ihl_bytes: usize,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of the packet, header included, in bytes.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub df: bool,
    /// More fragments follow.
    pub mf: bool,
    /// Where this fragment's data belongs in the packet, in bytes, a multiple of 8.
    pub frag_off_bytes: u16,
    /// Hops left.
    pub ttl: u8,
    /// Protocol of the payload.
    pub proto: u8,
    /// The checksum field as received; [`emit`](Ipv4Hdr::emit) computes its own.
    pub csum: u16,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

impl Ipv4Hdr {
    /// Length without options in bytes.
    pub const LEN: usize = IPV4_HLEN;

    /// Reads a header, with the checks of `ip_rcv` on the header alone. The checksum is the
    /// caller's to verify ([`csum_ok`](Ipv4Hdr::csum_ok)), and so is `total_len` against the data
    /// it has.
    ///
    /// # Errors
    ///
    /// In this order: [`Truncated`](WireError::Truncated) below 20 bytes,
    /// [`BadVersion`](WireError::BadVersion), [`BadHeaderLength`](WireError::BadHeaderLength) if
    /// IHL < 5, `Truncated` if the options do not fit in `b`, [`BadLength`](WireError::BadLength)
    /// if the total length is below the header's. The kernel verifies the checksum before that last
    /// check: a caller that counts as it does asks `csum_ok` on `BadLength` too.
    #[inline(always)]
    pub fn parse(b: &[u8]) -> Result<Ipv4Hdr, WireError> {
        let h = head::<IPV4_HLEN>(b)?;
        if h[0] >> 4 != 4 {
            return Err(WireError::BadVersion);
        }
        let ihl_bytes = usize::from(h[0] & 0xf) * 4;
        if ihl_bytes < IPV4_HLEN {
            return Err(WireError::BadHeaderLength);
        }
        if b.len() < ihl_bytes {
            return Err(WireError::Truncated);
        }
        let total_len = u16::from_be_bytes([h[2], h[3]]);
        if usize::from(total_len) < ihl_bytes {
            return Err(WireError::BadLength);
        }
        let frag = u16::from_be_bytes([h[6], h[7]]);
        Ok(Ipv4Hdr {
            ihl_bytes,
            tos: h[1],
            total_len,
            id: u16::from_be_bytes([h[4], h[5]]),
            df: frag & 0x4000 != 0,
            mf: frag & 0x2000 != 0,
            frag_off_bytes: (frag & 0x1fff) << 3,
            ttl: h[8],
            proto: h[9],
            csum: u16::from_be_bytes([h[10], h[11]]),
            src: Ipv4Addr::new(h[12], h[13], h[14], h[15]),
            dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]),
        })
    }

    /// Whether the header at the front of `b` sums to zero; false if `b` does not hold it all.
    /// Linux: `ip_fast_csum`.
    #[inline(always)]
    #[must_use]
    pub fn csum_ok(b: &[u8]) -> bool {
        let Some(h) = b.first_chunk::<IPV4_HLEN>() else { return false };
        let ihl_bytes = usize::from(h[0] & 0xf) * 4;
        if ihl_bytes == IPV4_HLEN {
            return sums_to_zero(h);
        }
        b.get(..ihl_bytes)
            .is_some_and(|all| ihl_bytes > IPV4_HLEN && csum_fold(csum_partial(all, 0)) == 0)
    }

    /// Writes the 20 fixed bytes to the front of `out` and then the checksum over `ihl_bytes`:
    /// options must already be in `out[20..ihl_bytes]`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than `ihl_bytes`, or `ihl_bytes` or `frag_off_bytes` breaks the range of
    /// its field: the caller made the header.
    #[inline(always)]
    pub fn emit(&self, out: &mut [u8]) {
        assert!(
            matches!(self.ihl_bytes, IPV4_HLEN..=IPV4_HLEN_MAX) && self.ihl_bytes.is_multiple_of(4),
            "an IPv4 header has 20 to 60 bytes in words of 4"
        );
        assert!(self.frag_off_bytes.is_multiple_of(8), "fragments begin at multiples of 8 bytes");
        let frag = u16::from(self.df) << 14 | u16::from(self.mf) << 13 | self.frag_off_bytes >> 3;
        let ihl = (self.ihl_bytes / 4) as u32;
        let first = 4 << 28 | ihl << 24 | u32::from(self.tos) << 16 | u32::from(self.total_len);
        let second = u32::from(self.id) << 16 | u32::from(frag);
        let third = u32::from(self.ttl) << 24 | u32::from(self.proto) << 16;
        let words = [first, second, third, self.src.to_bits(), self.dst.to_bits()];
        let out = &mut out[..self.ihl_bytes];
        let (all, _) = room::<IPV4_HLEN>(out).as_chunks_mut::<4>();
        for (field, word) in all.iter_mut().zip(words) {
            *field = word.to_be_bytes();
        }
        let csum = if self.ihl_bytes == IPV4_HLEN {
            // From the values: reading back bytes that were just written has to wait for them.
            let sum: u64 = words.iter().map(|w| u64::from(*w)).sum();
            csum_fold(csum_add(sum as u32, (sum >> 32) as u32))
        } else {
            csum_fold(csum_partial(out, 0))
        };
        out[10..12].copy_from_slice(&csum.to_be_bytes());
    }

    /// Whether this is a piece of a larger packet. Linux: `ip_is_fragment`.
    #[inline]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.mf || self.frag_off_bytes != 0
    }
}

/// Whether a header without options sums to zero. Five words at once: whether the sum is right does
/// not depend on the order of the bytes (RFC 1071 §2).
#[inline(always)]
fn sums_to_zero(h: &[u8; IPV4_HLEN]) -> bool {
    let (words, _) = h.as_chunks::<4>();
    // Five words of 32 bits need 35.
    let sum: u64 = words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum();
    csum_fold(csum_add(sum as u32, (sum >> 32) as u32)) == 0
}

/// What the options of a valid header ask for. Offsets are from the start of the header. Linux:
/// `struct ip_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv4Options {
    /// Where a source route option begins. Linux: `srr`.
    pub srr: Option<u8>,
    /// Whether that source route is strict (SSRR) and not loose (LSRR).
    pub is_strictroute: bool,
    /// Where a record route option begins. Linux: `rr`.
    pub rr: Option<u8>,
    /// Whether the record route has room for another address.
    pub rr_needaddr: bool,
    /// Where a timestamp option begins. Linux: `ts`.
    pub ts: Option<u8>,
    /// Whether the timestamp option has room for another entry.
    pub ts_needtime: bool,
    /// Router alert with value 0: routers examine the packet (RFC 2113).
    pub router_alert: bool,
}

/// The options cannot be valid; the value is the byte offset from the start of the header for the
/// pointer of an ICMP Parameter Problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4OptionsError(pub u8);

const IPOPT_END: u8 = 0;
const IPOPT_NOOP: u8 = 1;
const IPOPT_RR: u8 = 7;
const IPOPT_TIMESTAMP: u8 = 68;
const IPOPT_LSRR: u8 = 131;
const IPOPT_SSRR: u8 = 137;
const IPOPT_RA: u8 = 148;
const IPOPT_TS_TSONLY: u8 = 0;
const IPOPT_TS_TSANDADDR: u8 = 1;
const IPOPT_TS_PRESPEC: u8 = 3;

impl Ipv4Options {
    /// Checks the options of a received packet: `options` are the header's bytes from offset 20.
    /// The packet is not changed: recording a route or a time is for the stage that forwards it.
    /// Linux: `__ip_options_compile`.
    ///
    /// # Errors
    ///
    /// The pointer of the first fault.
    pub fn compile(options: &[u8]) -> Result<Ipv4Options, Ipv4OptionsError> {
        let mut found = Ipv4Options::default();
        let mut rest = options;
        let mut at = IPV4_HLEN as u8;
        while let &[kind, ref after @ ..] = rest {
            if kind == IPOPT_END {
                break;
            }
            if kind == IPOPT_NOOP {
                (rest, at) = (after, at.saturating_add(1));
                continue;
            }
            let opt = match after.first() {
                Some(&len) if len >= 2 => rest.get(..usize::from(len)),
                _ => None,
            };
            let Some(opt) = opt else { return Err(Ipv4OptionsError(at)) };
            found.take(opt, at)?;
            rest = rest.get(opt.len()..).unwrap_or_default();
            at = at.saturating_add(opt.len() as u8);
        }
        Ok(found)
    }

    /// One option whose length byte is right: its own rules.
    fn take(&mut self, opt: &[u8], at: u8) -> Result<(), Ipv4OptionsError> {
        // The offset of the option's own byte `n`; options lie within 60 bytes, so this never
        // saturates.
        let pointer = |n: u8| Ipv4OptionsError(at.saturating_add(n));
        let fault = |n: u8| Err(pointer(n));
        match opt {
            [IPOPT_SSRR | IPOPT_LSRR, _] => fault(1),
            [IPOPT_SSRR | IPOPT_LSRR, _, ptr, ..] if *ptr < 4 => fault(2),
            [kind @ (IPOPT_SSRR | IPOPT_LSRR), ..] => {
                // RFC 1812 §5.2.4.1: at most one source route.
                if self.srr.is_some() {
                    return fault(0);
                }
                self.srr = Some(at);
                self.is_strictroute = *kind == IPOPT_SSRR;
                Ok(())
            }
            [IPOPT_RR, ..] if self.rr.is_some() => fault(0),
            [IPOPT_RR, _] => fault(1),
            [IPOPT_RR, len, ptr, ..] => {
                if *ptr < 4 || (*ptr <= *len && u16::from(*ptr) + 3 > u16::from(*len)) {
                    return fault(2);
                }
                self.rr = Some(at);
                self.rr_needaddr = *ptr <= *len;
                Ok(())
            }
            [IPOPT_TIMESTAMP, ..] if self.ts.is_some() => fault(0),
            [IPOPT_TIMESTAMP, len, ptr, flags, ..] => {
                self.ts_needtime = timestamp(*len, *ptr, *flags).map_err(pointer)?;
                self.ts = Some(at);
                Ok(())
            }
            [IPOPT_TIMESTAMP, ..] => fault(1),
            [IPOPT_RA, _, a, b, ..] => {
                self.router_alert |= (*a, *b) == (0, 0);
                Ok(())
            }
            [IPOPT_RA, ..] => fault(1),
            _ => Ok(()),
        }
    }
}

/// The rules of the timestamp option: whether an entry is to be added, or the option's byte that is
/// wrong.
fn timestamp(len: u8, ptr: u8, flags: u8) -> Result<bool, u8> {
    let (kind, overflow) = (flags & 0xf, flags >> 4);
    if ptr < 5 {
        return Err(2);
    }
    if ptr > len {
        // Full: the overflow counter of four bits must be able to count one more, unless addresses
        // were prespecified.
        return if kind != IPOPT_TS_PRESPEC && overflow == 15 { Err(3) } else { Ok(false) };
    }
    let (ptr, len) = (u16::from(ptr), u16::from(len));
    let fits = |room: u16| if ptr + room > len { Err(2) } else { Ok(true) };
    fits(3)?;
    match kind {
        IPOPT_TS_TSONLY => Ok(true),
        IPOPT_TS_TSANDADDR | IPOPT_TS_PRESPEC => fits(7),
        _ => Ok(false),
    }
}
