//! Neighbour discovery (RFC 4861). Linux: `struct nd_msg`, `ndisc_parse_options`.

use std::net::Ipv6Addr;

use super::icmpv6::{
    NDISC_NEIGHBOUR_ADVERTISEMENT, NDISC_NEIGHBOUR_SOLICITATION, NDISC_REDIRECT,
    NDISC_ROUTER_ADVERTISEMENT, NDISC_ROUTER_SOLICITATION,
};
use super::ipv6::addr;
use super::{Icmpv6Hdr, Mac, WireError, head, room};

/// A neighbour discovery message without its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdMsg {
    /// Router solicitation (RFC 4861 §4.1).
    RouterSolicit,
    /// Router advertisement (RFC 4861 §4.2).
    RouterAdvert {
        /// Hop limit to use; 0 says nothing.
        hop_limit: u8,
        /// Addresses are available by DHCPv6.
        managed: bool,
        /// Other configuration is available by DHCPv6.
        other: bool,
        /// How long the sender is a default router, in seconds; 0: it is none.
        lifetime_s: u16,
        /// How long a neighbour counts as reachable, in milliseconds; 0 says nothing.
        reachable_ms: u32,
        /// Time between solicitations, in milliseconds; 0 says nothing.
        retrans_ms: u32,
    },
    /// Neighbour solicitation (RFC 4861 §4.3).
    NeighbourSolicit {
        /// Whose hardware address is sought.
        target: Ipv6Addr,
    },
    /// Neighbour advertisement (RFC 4861 §4.4).
    NeighbourAdvert {
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces what is known.
        override_: bool,
        /// Whose hardware address this is.
        target: Ipv6Addr,
    },
    /// Redirect (RFC 4861 §4.5).
    Redirect {
        /// The better first hop.
        target: Ipv6Addr,
        /// For this destination.
        dst: Ipv6Addr,
    },
}

impl NdMsg {
    /// Length without options in bytes, from the start of the ICMPv6 header.
    #[inline]
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        match self {
            NdMsg::RouterSolicit => 8,
            NdMsg::RouterAdvert { .. } => 16,
            NdMsg::NeighbourSolicit { .. } | NdMsg::NeighbourAdvert { .. } => 24,
            NdMsg::Redirect { .. } => 40,
        }
    }

    /// Reads a message from its ICMPv6 header on. Hop limit 255 and the addresses are the caller's
    /// to check, since they are in the IPv6 header (RFC 4861 §6.1, §7.1, §8.1).
    ///
    /// # Errors
    ///
    /// [`Truncated`](WireError::Truncated) below the type's length,
    /// [`BadFormat`](WireError::BadFormat) if the type is none of neighbour discovery, its code is
    /// not 0, or its target is a multicast address.
    pub fn parse(message: &[u8]) -> Result<(NdMsg, NdOpts<'_>), WireError> {
        let hdr = Icmpv6Hdr::parse(message)?;
        if hdr.code != 0 {
            return Err(WireError::BadFormat);
        }
        let body = message.get(Icmpv6Hdr::LEN..).unwrap_or_default();
        let flag = |bit: u32| hdr.rest >> bit & 1 == 1;
        let nd = match hdr.kind {
            NDISC_ROUTER_SOLICITATION => NdMsg::RouterSolicit,
            NDISC_ROUTER_ADVERTISEMENT => {
                let &[a, b, c, d, e, f, g, h] = head(body)?;
                NdMsg::RouterAdvert {
                    hop_limit: (hdr.rest >> 24) as u8,
                    managed: flag(23),
                    other: flag(22),
                    lifetime_s: hdr.rest as u16,
                    reachable_ms: u32::from_be_bytes([a, b, c, d]),
                    retrans_ms: u32::from_be_bytes([e, f, g, h]),
                }
            }
            NDISC_NEIGHBOUR_SOLICITATION => NdMsg::NeighbourSolicit { target: unicast(body)? },
            NDISC_NEIGHBOUR_ADVERTISEMENT => NdMsg::NeighbourAdvert {
                router: flag(31),
                solicited: flag(30),
                override_: flag(29),
                target: unicast(body)?,
            },
            NDISC_REDIRECT => NdMsg::Redirect {
                target: unicast(body)?,
                dst: unicast(body.get(16..).unwrap_or_default())?,
            },
            _ => return Err(WireError::BadFormat),
        };
        Ok((nd, NdOpts::new(message.get(nd.len_bytes()..).unwrap_or_default())))
    }

    /// Writes the message to the front of `message`, whose options are already in place behind
    /// [`len_bytes`](NdMsg::len_bytes), and the checksum over all of it and the pseudo-header.
    ///
    /// # Panics
    ///
    /// If `message` is shorter than `len_bytes`.
    pub fn emit(&self, message: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) {
        let body = &mut message[Icmpv6Hdr::LEN..self.len_bytes()];
        let (kind, rest) = match *self {
            NdMsg::RouterSolicit => (NDISC_ROUTER_SOLICITATION, 0),
            NdMsg::RouterAdvert {
                hop_limit,
                managed,
                other,
                lifetime_s,
                reachable_ms,
                retrans_ms,
            } => {
                body[..4].copy_from_slice(&reachable_ms.to_be_bytes());
                body[4..].copy_from_slice(&retrans_ms.to_be_bytes());
                let flags = u32::from(managed) << 23 | u32::from(other) << 22;
                let rest = u32::from(hop_limit) << 24 | flags | u32::from(lifetime_s);
                (NDISC_ROUTER_ADVERTISEMENT, rest)
            }
            NdMsg::NeighbourSolicit { target } => {
                body.copy_from_slice(&target.octets());
                (NDISC_NEIGHBOUR_SOLICITATION, 0)
            }
            NdMsg::NeighbourAdvert { router, solicited, override_, target } => {
                body.copy_from_slice(&target.octets());
                let flags = u32::from(router) << 31 | u32::from(solicited) << 30;
                (NDISC_NEIGHBOUR_ADVERTISEMENT, flags | u32::from(override_) << 29)
            }
            NdMsg::Redirect { target, dst } => {
                body[..16].copy_from_slice(&target.octets());
                body[16..].copy_from_slice(&dst.octets());
                (NDISC_REDIRECT, 0)
            }
        };
        Icmpv6Hdr { kind, code: 0, csum: 0, rest }.emit(message, src, dst);
    }
}

/// An address that must not be multicast.
fn unicast(b: &[u8]) -> Result<Ipv6Addr, WireError> {
    addr(b).and_then(|a| if a.is_multicast() { Err(WireError::BadFormat) } else { Ok(a) })
}

/// An option of neighbour discovery (RFC 4861 §4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdOpt {
    /// The sender's hardware address.
    SourceLinkAddr(Mac),
    /// The target's hardware address.
    TargetLinkAddr(Mac),
    /// A prefix of the link.
    Prefix {
        /// Length of the prefix in bits.
        len_bits: u8,
        /// Addresses with it are on the link.
        on_link: bool,
        /// Addresses may be formed from it (RFC 4862).
        autonomous: bool,
        /// How long it is valid, in seconds; all ones: for ever.
        valid_s: u32,
        /// How long addresses from it are preferred, in seconds; all ones: for ever.
        preferred_s: u32,
        /// The prefix.
        prefix: Ipv6Addr,
    },
    /// MTU of the link in bytes.
    Mtu(u32),
    /// Any other, or one of these with a size it cannot have: its type.
    Other(u8),
}

const ND_OPT_SOURCE_LL_ADDR: u8 = 1;
const ND_OPT_TARGET_LL_ADDR: u8 = 2;
const ND_OPT_PREFIX_INFO: u8 = 3;
const ND_OPT_MTU: u8 = 5;

impl NdOpt {
    /// Length in bytes, as [`emit`](NdOpt::emit) writes it; 0 for `Other`.
    #[inline]
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        match self {
            NdOpt::SourceLinkAddr(_) | NdOpt::TargetLinkAddr(_) | NdOpt::Mtu(_) => 8,
            NdOpt::Prefix { .. } => 32,
            NdOpt::Other(_) => 0,
        }
    }

    /// Writes the option to the front of `out` and returns its length; `Other` writes nothing.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than [`len_bytes`](NdOpt::len_bytes).
    pub fn emit(&self, out: &mut [u8]) -> usize {
        match *self {
            NdOpt::SourceLinkAddr(Mac([a, b, c, d, e, f])) => {
                *room(out) = [ND_OPT_SOURCE_LL_ADDR, 1, a, b, c, d, e, f];
            }
            NdOpt::TargetLinkAddr(Mac([a, b, c, d, e, f])) => {
                *room(out) = [ND_OPT_TARGET_LL_ADDR, 1, a, b, c, d, e, f];
            }
            NdOpt::Mtu(mtu) => {
                let [a, b, c, d] = mtu.to_be_bytes();
                *room(out) = [ND_OPT_MTU, 1, 0, 0, a, b, c, d];
            }
            NdOpt::Prefix { len_bits, on_link, autonomous, valid_s, preferred_s, prefix } => {
                let out = room::<32>(out);
                let flags = u8::from(on_link) << 7 | u8::from(autonomous) << 6;
                out[..4].copy_from_slice(&[ND_OPT_PREFIX_INFO, 4, len_bits, flags]);
                out[4..8].copy_from_slice(&valid_s.to_be_bytes());
                out[8..12].copy_from_slice(&preferred_s.to_be_bytes());
                out[12..16].fill(0);
                out[16..].copy_from_slice(&prefix.octets());
            }
            NdOpt::Other(_) => {}
        }
        self.len_bytes()
    }

    /// Reads one option whose length is right.
    fn parse(opt: &[u8]) -> NdOpt {
        let be32 = |a, b, c, d| u32::from_be_bytes([a, b, c, d]);
        match *opt {
            [ND_OPT_SOURCE_LL_ADDR, 1, a, b, c, d, e, f] => {
                NdOpt::SourceLinkAddr(Mac([a, b, c, d, e, f]))
            }
            [ND_OPT_TARGET_LL_ADDR, 1, a, b, c, d, e, f] => {
                NdOpt::TargetLinkAddr(Mac([a, b, c, d, e, f]))
            }
            [ND_OPT_MTU, 1, _, _, a, b, c, d] => NdOpt::Mtu(be32(a, b, c, d)),
            [
                ND_OPT_PREFIX_INFO,
                4,
                len_bits,
                flags,
                a,
                b,
                c,
                d,
                e,
                f,
                g,
                h,
                _,
                _,
                _,
                _,
                ref p @ ..,
            ] if len_bits <= 128
                && let Ok(prefix) = addr(p) =>
            {
                NdOpt::Prefix {
                    len_bits,
                    on_link: flags & 0x80 != 0,
                    autonomous: flags & 0x40 != 0,
                    valid_s: be32(a, b, c, d),
                    preferred_s: be32(e, f, g, h),
                    prefix,
                }
            }
            [kind, ..] => NdOpt::Other(kind),
            [] => NdOpt::Other(0),
        }
    }
}

/// The options of a message. An item that is an error ends the walk, and the whole message must be
/// discarded (RFC 4861 §4.6: an option of length 0, or one that reaches beyond the packet). Linux:
/// `ndisc_parse_options`.
#[derive(Clone, Copy, Debug)]
pub struct NdOpts<'a> {
    rest: &'a [u8],
}

impl<'a> NdOpts<'a> {
    /// The options in these bytes.
    #[inline]
    #[must_use]
    pub const fn new(options: &'a [u8]) -> NdOpts<'a> {
        NdOpts { rest: options }
    }
}

impl Iterator for NdOpts<'_> {
    type Item = Result<NdOpt, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let len = self.rest.get(1).map_or(0, |&units| usize::from(units) * 8);
        match self.rest.split_at_checked(len) {
            Some((opt, rest)) if len > 0 => {
                self.rest = rest;
                Some(Ok(NdOpt::parse(opt)))
            }
            _ => {
                self.rest = &[];
                Some(Err(WireError::BadLength))
            }
        }
    }
}
