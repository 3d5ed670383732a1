//! ICMP for IPv6 (RFC 4443). Linux: `struct icmp6hdr`.

use std::net::Ipv6Addr;

use linerate_arch::csum::{csum_fold, csum_ipv6_nofold, csum_partial};

use super::{IPPROTO_ICMPV6, WireError, head, room};

/// Destination unreachable.
pub const ICMPV6_DEST_UNREACH: u8 = 1;
/// Packet too big.
pub const ICMPV6_PKT_TOOBIG: u8 = 2;
/// Time exceeded.
pub const ICMPV6_TIME_EXCEED: u8 = 3;
/// Parameter problem.
pub const ICMPV6_PARAMPROB: u8 = 4;
/// Echo request.
pub const ICMPV6_ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ICMPV6_ECHO_REPLY: u8 = 129;
/// Multicast listener query (RFC 2710).
pub const ICMPV6_MGM_QUERY: u8 = 130;
/// Multicast listener report (RFC 2710).
pub const ICMPV6_MGM_REPORT: u8 = 131;
/// Multicast listener done (RFC 2710).
pub const ICMPV6_MGM_REDUCTION: u8 = 132;
/// Router solicitation.
pub const NDISC_ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement.
pub const NDISC_ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbour solicitation.
pub const NDISC_NEIGHBOUR_SOLICITATION: u8 = 135;
/// Neighbour advertisement.
pub const NDISC_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Redirect.
pub const NDISC_REDIRECT: u8 = 137;
/// Multicast listener report, version 2 (RFC 3810).
pub const ICMPV6_MLD2_REPORT: u8 = 143;

/// Code of destination unreachable: no route.
pub const ICMPV6_NOROUTE: u8 = 0;
/// Code of destination unreachable: prohibited by policy.
pub const ICMPV6_ADM_PROHIBITED: u8 = 1;
/// Code of destination unreachable: beyond the scope of the source.
pub const ICMPV6_NOT_NEIGHBOUR: u8 = 2;
/// Code of destination unreachable: the address.
pub const ICMPV6_ADDR_UNREACH: u8 = 3;
/// Code of destination unreachable: the port.
pub const ICMPV6_PORT_UNREACH: u8 = 4;
/// Code of time exceeded: the hop limit.
pub const ICMPV6_EXC_HOPLIMIT: u8 = 0;
/// Code of time exceeded: reassembly.
pub const ICMPV6_EXC_FRAGTIME: u8 = 1;

/// The first 8 bytes of an ICMPv6 message: what each type has in its second word is read by the
/// getters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmpv6Hdr {
    /// Type, an `ICMPV6_*` or `NDISC_*` value.
    pub kind: u8,
    /// Code within the type.
    pub code: u8,
    /// The checksum field as received; [`emit`](Icmpv6Hdr::emit) computes its own.
    pub csum: u16,
    /// The second word, whose meaning the type gives.
    pub rest: u32,
}

impl Icmpv6Hdr {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// Reads the header at the front of an ICMPv6 message.
    ///
    /// # Errors
    ///
    /// [`Truncated`](WireError::Truncated) below 8 bytes. (RFC 4443 needs 4; every type in use has
    /// 8.)
    #[inline]
    pub fn parse(b: &[u8]) -> Result<Icmpv6Hdr, WireError> {
        let &[kind, code, c0, c1, r0, r1, r2, r3] = head(b)?;
        let (csum, rest) = (u16::from_be_bytes([c0, c1]), u32::from_be_bytes([r0, r1, r2, r3]));
        Ok(Icmpv6Hdr { kind, code, csum, rest })
    }

    /// Whether a whole message (header and data) sums to zero with its pseudo-header.
    #[inline]
    #[must_use]
    pub fn csum_ok(message: &[u8], src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        icmpv6_csum(message, src, dst) == 0
    }

    /// Writes the header to the front of `message`, whose data is already in place, and the
    /// checksum over all of it and the pseudo-header.
    ///
    /// # Panics
    ///
    /// If `message` is shorter than 8 bytes.
    #[inline]
    pub fn emit(&self, message: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr) {
        let [r0, r1, r2, r3] = self.rest.to_be_bytes();
        *room(message) = [self.kind, self.code, 0, 0, r0, r1, r2, r3];
        let csum = icmpv6_csum(message, src, dst);
        message[2..4].copy_from_slice(&csum.to_be_bytes());
    }

    /// An echo request or reply.
    #[must_use]
    pub const fn echo(kind: u8, id: u16, seq: u16) -> Icmpv6Hdr {
        Icmpv6Hdr { kind, code: 0, csum: 0, rest: (id as u32) << 16 | seq as u32 }
    }

    /// An error: `rest` is the MTU of packet too big, the pointer of parameter problem, otherwise
    /// 0.
    #[must_use]
    pub const fn error(kind: u8, code: u8, rest: u32) -> Icmpv6Hdr {
        Icmpv6Hdr { kind, code, csum: 0, rest }
    }

    /// Identifier of an echo message.
    #[inline]
    #[must_use]
    pub const fn id(&self) -> u16 {
        (self.rest >> 16) as u16
    }

    /// Sequence number of an echo message.
    #[inline]
    #[must_use]
    pub const fn seq(&self) -> u16 {
        self.rest as u16
    }

    /// MTU of packet too big, in bytes.
    #[inline]
    #[must_use]
    pub const fn mtu(&self) -> u32 {
        self.rest
    }

    /// The offending byte of a parameter problem.
    #[inline]
    #[must_use]
    pub const fn pointer(&self) -> u32 {
        self.rest
    }

    /// Whether the type reports an error (RFC 4443 §2.1: the high bit is clear).
    #[inline]
    #[must_use]
    pub const fn is_error(&self) -> bool {
        self.kind < 128
    }
}

/// The checksum field's value of a message and its pseudo-header; 0 if the field is in place and
/// right.
#[inline]
fn icmpv6_csum(message: &[u8], src: Ipv6Addr, dst: Ipv6Addr) -> u16 {
    let pseudo = csum_ipv6_nofold(src, dst, message.len() as u32, IPPROTO_ICMPV6);
    csum_fold(csum_partial(message, pseudo))
}
