//! The IPv6 header and the walk over its extension headers (RFC 8200). Linux: `struct ipv6hdr`,
//! `ipv6_skip_exthdr`, `ip6_parse_tlv`.

use std::net::Ipv6Addr;

use super::{
    IPPROTO_AH, IPPROTO_DSTOPTS, IPPROTO_FRAGMENT, IPPROTO_HOPOPTS, IPPROTO_ROUTING, WireError,
    head, room,
};

/// Length of the IPv6 header in bytes.
pub const IPV6_HLEN: usize = 40;
/// Most extension headers of one packet that are followed.
pub const EXT_HDRS_MAX: usize = 8;

/// The fixed IPv6 header. Linux: `struct ipv6hdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Hdr {
    /// Traffic class: DSCP and ECN.
    pub tclass: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Length of what follows this header, extension headers included, in bytes; 0 on a jumbogram.
    pub payload_len: u16,
    /// Type of the header that follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
}

impl Ipv6Hdr {
    /// Length in bytes.
    pub const LEN: usize = IPV6_HLEN;

    /// Reads a header. The caller compares `payload_len` with the data it has, as `ip6_rcv_core`
    /// does.
    ///
    /// # Errors
    ///
    /// [`Truncated`](WireError::Truncated) below 40 bytes, [`BadVersion`](WireError::BadVersion).
    #[inline]
    pub fn parse(b: &[u8]) -> Result<Ipv6Hdr, WireError> {
        let h = head::<IPV6_HLEN>(b)?;
        let first = u32::from_be_bytes([h[0], h[1], h[2], h[3]]);
        if first >> 28 != 6 {
            return Err(WireError::BadVersion);
        }
        Ok(Ipv6Hdr {
            tclass: (first >> 20) as u8,
            flow_label: first & 0x000f_ffff,
            payload_len: u16::from_be_bytes([h[4], h[5]]),
            next_header: h[6],
            hop_limit: h[7],
            src: addr(&h[8..24])?,
            dst: addr(&h[24..40])?,
        })
    }

    /// Writes the header to the front of `out`; bits of the flow label above 20 are not written.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than 40 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let h = room::<IPV6_HLEN>(out);
        let first = 6 << 28 | u32::from(self.tclass) << 20 | self.flow_label & 0x000f_ffff;
        h[..4].copy_from_slice(&first.to_be_bytes());
        h[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        h[6] = self.next_header;
        h[7] = self.hop_limit;
        h[8..24].copy_from_slice(&self.src.octets());
        h[24..40].copy_from_slice(&self.dst.octets());
    }
}

/// An address at the front of a slice.
#[inline]
pub(super) fn addr(b: &[u8]) -> Result<Ipv6Addr, WireError> {
    head::<16>(b).map(|octets| Ipv6Addr::from_octets(*octets))
}

/// The fragment header (RFC 8200 §4.5). Linux: `struct frag_hdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragHdr {
    /// Type of the first header of the fragmentable part.
    pub next_header: u8,
    /// Where this fragment's data belongs in the fragmentable part, in bytes, a multiple of 8.
    pub frag_off_bytes: u16,
    /// More fragments follow.
    pub mf: bool,
    /// Identification.
    pub id: u32,
}

impl FragHdr {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// Reads a fragment header.
    ///
    /// # Errors
    ///
    /// [`Truncated`](WireError::Truncated) below 8 bytes.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<FragHdr, WireError> {
        let &[next_header, _, o0, o1, a, b, c, d] = head(b)?;
        let off = u16::from_be_bytes([o0, o1]);
        Ok(FragHdr {
            next_header,
            frag_off_bytes: off & 0xfff8,
            mf: off & 1 == 1,
            id: u32::from_be_bytes([a, b, c, d]),
        })
    }

    /// Writes the header to the front of `out`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than 8 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let [o0, o1] = (self.frag_off_bytes & 0xfff8 | u16::from(self.mf)).to_be_bytes();
        let [a, b, c, d] = self.id.to_be_bytes();
        *room(out) = [self.next_header, 0, o0, o1, a, b, c, d];
    }

    /// A packet in one fragment: offset 0 and nothing to follow (RFC 6946).
    #[inline]
    #[must_use]
    pub const fn is_atomic(&self) -> bool {
        self.frag_off_bytes == 0 && !self.mf
    }
}

/// One extension header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtHdr {
    /// Its type, an `IPPROTO_*` value.
    pub kind: u8,
    /// Where it begins, in bytes from the start of the IPv6 header.
    pub offset: usize,
    /// Its length in bytes.
    pub len: usize,
    /// The type of the header that follows it.
    pub next_header: u8,
}

/// Codes of ICMPv6 Parameter Problem (RFC 4443 §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamCode {
    /// A field has a value that cannot be (code 0). Linux: `ICMPV6_HDR_FIELD`.
    HdrField = 0,
    /// The next header is not known here (code 1). Linux: `ICMPV6_UNK_NEXTHDR`.
    UnkNextHdr = 1,
    /// An option is not known here (code 2). Linux: `ICMPV6_UNK_OPTION`.
    UnkOption = 2,
}

/// Why the walk ended before the upper-layer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtError {
    /// A header reaches beyond the packet: drop. Counted as a header error.
    Truncated,
    /// More than [`EXT_HDRS_MAX`] headers: drop. Counted as a header error.
    TooMany,
    /// An option says so, or its padding cannot be honest: drop without an answer.
    Drop,
    /// Drop and answer with ICMPv6 Parameter Problem.
    ParamProblem {
        /// The code.
        code: ParamCode,
        /// The faulty byte, from the start of the IPv6 header.
        pointer: usize,
    },
}

/// The extension headers of a packet, one after the other. Ends at the first header that is none,
/// after a fragment header that is not [atomic](FragHdr::is_atomic) (what follows is a piece of
/// data), or with an error.
///
/// It reads lengths only; [`walk`] also judges the options.
#[derive(Clone, Copy, Debug)]
pub struct ExtHdrs<'a> {
    packet: &'a [u8],
    next_header: u8,
    /// Offset of the byte that announced `next_header`.
    announced_at: usize,
    offset: usize,
    count: usize,
    done: bool,
}

impl<'a> ExtHdrs<'a> {
    /// Begins after the fixed header of `packet`, which starts with it. `next_header` is that
    /// header's field.
    #[inline]
    #[must_use]
    pub const fn new(packet: &'a [u8], next_header: u8) -> ExtHdrs<'a> {
        ExtHdrs { packet, next_header, announced_at: 6, offset: IPV6_HLEN, count: 0, done: false }
    }

    /// The type of the header that comes next: when the walk has ended, of the upper layer.
    #[inline]
    #[must_use]
    pub const fn next_header(&self) -> u8 {
        self.next_header
    }

    /// Where the header that comes next begins, from the start of the IPv6 header.
    #[inline]
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// The header at the current place, whose length is read from it.
    fn here(&self) -> Result<ExtHdr, ExtError> {
        let b = self.packet.get(self.offset..).unwrap_or_default();
        let &[next_header, len] = b.first_chunk::<2>().ok_or(ExtError::Truncated)?;
        let len = match self.next_header {
            IPPROTO_FRAGMENT => FragHdr::LEN,
            // The one header that counts in words of 4 bytes (RFC 4302 §2.2).
            IPPROTO_AH => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        if b.len() < len {
            return Err(ExtError::Truncated);
        }
        Ok(ExtHdr { kind: self.next_header, offset: self.offset, len, next_header })
    }
}

impl Iterator for ExtHdrs<'_> {
    type Item = Result<ExtHdr, ExtError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || !is_ext_hdr(self.next_header) {
            return None;
        }
        if self.count == EXT_HDRS_MAX {
            self.done = true;
            return Some(Err(ExtError::TooMany));
        }
        let found = self.here();
        match found {
            Err(_) => self.done = true,
            Ok(hdr) => {
                self.count += 1;
                self.announced_at = hdr.offset;
                self.offset += hdr.len;
                self.next_header = hdr.next_header;
                if hdr.kind == IPPROTO_FRAGMENT {
                    let frag = self.packet.get(hdr.offset..).map(FragHdr::parse);
                    self.done = !matches!(frag, Some(Ok(frag)) if frag.is_atomic());
                }
            }
        }
        Some(found)
    }
}

/// Whether this is the type of an extension header that the walk passes. Linux: `ipv6_ext_hdr`.
#[inline]
#[must_use]
pub const fn is_ext_hdr(kind: u8) -> bool {
    matches!(
        kind,
        IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_FRAGMENT | IPPROTO_AH | IPPROTO_DSTOPTS
    )
}

/// What lies between the fixed header and the upper layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Type of the upper-layer header; of the fragmentable part if [`frag`](Upper::frag) is a true
    /// fragment.
    pub proto: u8,
    /// Where it begins, from the start of the IPv6 header.
    pub offset: usize,
    /// The byte that holds `proto`: the pointer for an "unrecognized next header" answer.
    pub proto_at: usize,
    /// The fragment header, if there is one.
    pub frag: Option<FragHdr>,
    /// Where the fragment header begins, and the byte that announces it: reassembly cuts the one
    /// and mends the other.
    pub frag_at: Option<(usize, usize)>,
    /// Value of the hop-by-hop router alert option (RFC 2711); 0 is Multicast Listener Discovery.
    pub router_alert: Option<u16>,
}

/// Walks over the extension headers of `packet` (which begins with the fixed header `hdr`) and
/// judges their options. At a true fragment the walk ends behind the fragment header. Linux: the
/// loop of `ip6_protocol_deliver_rcu`.
///
/// # Errors
///
/// See [`ExtError`]. Hop-by-hop options anywhere but first are an unrecognized next header (RFC
/// 8200 §4.3); a routing header with segments left is answered at its type field, since no type is
/// followed here (RFC 8200 §4.4, RFC 5095).
#[inline]
pub fn walk(packet: &[u8], hdr: &Ipv6Hdr) -> Result<Upper, ExtError> {
    let next = hdr.next_header;
    if !is_ext_hdr(next) {
        let (frag, frag_at, router_alert) = (None, None, None);
        return Ok(Upper {
            proto: next,
            offset: IPV6_HLEN,
            proto_at: 6,
            frag,
            frag_at,
            router_alert,
        });
    }
    walk_ext(packet, hdr)
}

fn walk_ext(packet: &[u8], ip: &Ipv6Hdr) -> Result<Upper, ExtError> {
    let mut hdrs = ExtHdrs::new(packet, ip.next_header);
    let (mut frag, mut frag_at, mut router_alert) = (None, None, None);
    loop {
        let announced_at = hdrs.announced_at;
        let Some(hdr) = hdrs.next() else { break };
        let hdr = hdr?;
        let body = packet.get(hdr.offset..).and_then(|b| b.get(..hdr.len)).unwrap_or_default();
        match hdr.kind {
            IPPROTO_HOPOPTS if hdr.offset != IPV6_HLEN => {
                return problem(ParamCode::UnkNextHdr, announced_at);
            }
            IPPROTO_HOPOPTS | IPPROTO_DSTOPTS => {
                let alert = ip6_parse_tlv(body, hdr, ip)?;
                router_alert = router_alert.or(alert);
            }
            IPPROTO_ROUTING => {
                if let &[_, _, _kind, segments_left, ..] = body
                    && segments_left > 0
                {
                    return problem(ParamCode::HdrField, hdr.offset + 2);
                }
            }
            IPPROTO_FRAGMENT => {
                frag = FragHdr::parse(body).ok();
                frag_at = Some((hdr.offset, announced_at));
            }
            _ => {}
        }
    }
    let (proto, offset, proto_at) = (hdrs.next_header, hdrs.offset, hdrs.announced_at);
    Ok(Upper { proto, offset, proto_at, frag, frag_at, router_alert })
}

const IPV6_TLV_PAD1: u8 = 0;
const IPV6_TLV_PADN: u8 = 1;
const IPV6_TLV_ROUTERALERT: u8 = 5;
/// No alignment needs more padding between two options than this, in bytes.
const PADDING_MAX: usize = 7;

/// The options of a hop-by-hop or destination header; returns a router alert. Linux:
/// `ip6_parse_tlv`.
fn ip6_parse_tlv(body: &[u8], hdr: ExtHdr, ip: &Ipv6Hdr) -> Result<Option<u16>, ExtError> {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut at = hdr.offset + 2;
    let mut padding = 0;
    let mut alert = None;
    while let &[kind, ref after @ ..] = rest {
        let len = match (kind, after.first()) {
            (IPV6_TLV_PAD1, _) => 1,
            (_, Some(&len)) => usize::from(len) + 2,
            (_, None) => return Err(ExtError::Drop),
        };
        let Some((opt, next)) = rest.split_at_checked(len) else { return Err(ExtError::Drop) };
        if matches!(kind, IPV6_TLV_PAD1 | IPV6_TLV_PADN) {
            padding += len;
            // Padding that is too long or carries data is a covert channel or a mistake.
            if padding > PADDING_MAX || opt.iter().skip(2).any(|&byte| byte != 0) {
                return Err(ExtError::Drop);
            }
        } else {
            padding = 0;
            match (hdr.kind, opt) {
                (IPPROTO_HOPOPTS, &[IPV6_TLV_ROUTERALERT, 2, a, b]) => {
                    alert = Some(u16::from_be_bytes([a, b]));
                }
                (IPPROTO_HOPOPTS, &[IPV6_TLV_ROUTERALERT, ..]) => return Err(ExtError::Drop),
                _ => ip6_tlvopt_unknown(kind, at, ip)?,
            }
        }
        rest = next;
        at += len;
    }
    Ok(alert)
}

/// The two highest bits of an unknown option's type say what to do (RFC 8200 §4.2). Linux:
/// `ip6_tlvopt_unknown`.
fn ip6_tlvopt_unknown(kind: u8, at: usize, ip: &Ipv6Hdr) -> Result<(), ExtError> {
    match kind >> 6 {
        0 => Ok(()),
        1 => Err(ExtError::Drop),
        3 if ip.dst.is_multicast() => Err(ExtError::Drop),
        _ => problem(ParamCode::UnkOption, at),
    }
}

fn problem<T>(code: ParamCode, pointer: usize) -> Result<T, ExtError> {
    Err(ExtError::ParamProblem { code, pointer })
}
