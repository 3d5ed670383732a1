//! ICMP for IPv4 (RFC 792, RFC 1191, RFC 1812). Linux: `struct icmphdr`.

use std::net::Ipv4Addr;

use linerate_arch::csum::{csum_fold, csum_partial};

use super::{WireError, head, room};

/// Echo reply.
pub const ICMP_ECHOREPLY: u8 = 0;
/// Destination unreachable.
pub const ICMP_DEST_UNREACH: u8 = 3;
/// Source quench: obsolete (RFC 6633), ignored.
pub const ICMP_SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const ICMP_REDIRECT: u8 = 5;
/// Echo request.
pub const ICMP_ECHO: u8 = 8;
/// Time exceeded.
pub const ICMP_TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const ICMP_PARAMETERPROB: u8 = 12;
/// Timestamp request.
pub const ICMP_TIMESTAMP: u8 = 13;
/// Timestamp reply.
pub const ICMP_TIMESTAMPREPLY: u8 = 14;

/// Code of destination unreachable: the network.
pub const ICMP_NET_UNREACH: u8 = 0;
/// Code of destination unreachable: the host.
pub const ICMP_HOST_UNREACH: u8 = 1;
/// Code of destination unreachable: the protocol.
pub const ICMP_PROT_UNREACH: u8 = 2;
/// Code of destination unreachable: the port.
pub const ICMP_PORT_UNREACH: u8 = 3;
/// Code of destination unreachable: too big and DF is set; carries the next hop's MTU (RFC 1191
/// §4).
pub const ICMP_FRAG_NEEDED: u8 = 4;
/// Code of destination unreachable: a source route failed.
pub const ICMP_SR_FAILED: u8 = 5;
/// Code of destination unreachable: forbidden by a filter (RFC 1812 §5.2.7.1).
pub const ICMP_PKT_FILTERED: u8 = 13;
/// Code of time exceeded: the TTL.
pub const ICMP_EXC_TTL: u8 = 0;
/// Code of time exceeded: reassembly.
pub const ICMP_EXC_FRAGTIME: u8 = 1;

/// The first 8 bytes of an ICMP message: what each type has in its second word is read by the
/// getters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmpv4Hdr {
    /// Type, an `ICMP_*` value. Linux: `type`.
    pub kind: u8,
    /// Code within the type.
    pub code: u8,
    /// The checksum field as received; [`emit`](Icmpv4Hdr::emit) computes its own.
    pub csum: u16,
    /// The second word, whose meaning the type gives.
    pub rest: u32,
}

impl Icmpv4Hdr {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// Reads the header at the front of an ICMP message.
    ///
    /// # Errors
    ///
    /// [`Truncated`](WireError::Truncated) below 8 bytes.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<Icmpv4Hdr, WireError> {
        let &[kind, code, c0, c1, r0, r1, r2, r3] = head(b)?;
        let (csum, rest) = (u16::from_be_bytes([c0, c1]), u32::from_be_bytes([r0, r1, r2, r3]));
        Ok(Icmpv4Hdr { kind, code, csum, rest })
    }

    /// Whether a whole message (header and data) sums to zero.
    #[inline]
    #[must_use]
    pub fn csum_ok(message: &[u8]) -> bool {
        csum_fold(csum_partial(message, 0)) == 0
    }

    /// Writes the header to the front of `message`, whose data is already in place, and the
    /// checksum over all of it.
    ///
    /// # Panics
    ///
    /// If `message` is shorter than 8 bytes.
    #[inline]
    pub fn emit(&self, message: &mut [u8]) {
        let [r0, r1, r2, r3] = self.rest.to_be_bytes();
        *room(message) = [self.kind, self.code, 0, 0, r0, r1, r2, r3];
        let csum = csum_fold(csum_partial(message, 0));
        message[2..4].copy_from_slice(&csum.to_be_bytes());
    }

    /// An echo request or reply.
    #[must_use]
    pub const fn echo(kind: u8, id: u16, seq: u16) -> Icmpv4Hdr {
        Icmpv4Hdr { kind, code: 0, csum: 0, rest: (id as u32) << 16 | seq as u32 }
    }

    /// A message that carries nothing in its second word.
    #[must_use]
    pub const fn plain(kind: u8, code: u8) -> Icmpv4Hdr {
        Icmpv4Hdr { kind, code, csum: 0, rest: 0 }
    }

    /// Fragmentation needed, with the next hop's MTU in bytes (RFC 1191 §4).
    #[must_use]
    pub const fn frag_needed(mtu: u16) -> Icmpv4Hdr {
        let (kind, code) = (ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED);
        Icmpv4Hdr { kind, code, csum: 0, rest: mtu as u32 }
    }

    /// Parameter problem at a byte offset of the offending header.
    #[must_use]
    pub const fn param_problem(pointer: u8) -> Icmpv4Hdr {
        Icmpv4Hdr { kind: ICMP_PARAMETERPROB, code: 0, csum: 0, rest: (pointer as u32) << 24 }
    }

    /// Identifier of an echo or timestamp message.
    #[inline]
    #[must_use]
    pub const fn id(&self) -> u16 {
        (self.rest >> 16) as u16
    }

    /// Sequence number of an echo or timestamp message.
    #[inline]
    #[must_use]
    pub const fn seq(&self) -> u16 {
        self.rest as u16
    }

    /// Next hop's MTU of a fragmentation-needed message, in bytes; 0 from a router older than RFC
    /// 1191.
    #[inline]
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.rest as u16
    }

    /// The offending byte of a parameter problem.
    #[inline]
    #[must_use]
    pub const fn pointer(&self) -> u8 {
        (self.rest >> 24) as u8
    }

    /// The gateway of a redirect.
    #[inline]
    #[must_use]
    pub const fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.rest)
    }

    /// Whether the type counts as an error, which no error may answer (RFC 1122 §3.2.2). Like
    /// `icmp_send`, everything that is not a known request or reply does.
    #[inline]
    #[must_use]
    pub const fn is_error(&self) -> bool {
        !matches!(self.kind, ICMP_ECHOREPLY | ICMP_ECHO | ICMP_TIMESTAMP..=18)
    }
}
