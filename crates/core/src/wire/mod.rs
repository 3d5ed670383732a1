#![doc = include_str!("README.md")]

pub mod arp;
pub mod eth;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod tcp;
pub mod tcp_fastopen;
pub mod tcp_md5;
pub mod tcp_options;
pub mod udp;

pub use arp::ArpHdr;
pub use eth::{EthHdr, Mac, VlanTag};
pub use icmpv4::Icmpv4Hdr;
pub use icmpv6::Icmpv6Hdr;
pub use ipv4::{Ipv4Hdr, Ipv4Options};
pub use ipv6::{ExtHdrs, FragHdr, Ipv6Hdr};
pub use nd::{NdMsg, NdOpt, NdOpts};
pub use tcp::{TcpFlags, TcpHdr};
pub use tcp_options::{SackBlocks, TcpOptions};
pub use udp::UdpHdr;

/// Why bytes are not the header they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The slice ends before the header does.
    Truncated,
    /// The version field is not the protocol's.
    BadVersion,
    /// The header's own length field is below the minimum (IHL or data offset under 5 words).
    BadHeaderLength,
    /// A length field that counts header and payload is smaller than the header (IPv4 total length,
    /// UDP length).
    BadLength,
    /// A field that must have one value has another (ARP hardware or protocol type, ND hop limit or
    /// code).
    BadFormat,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WireError::Truncated => "the data ends inside the header",
            WireError::BadVersion => "the version field is not this protocol's",
            WireError::BadHeaderLength => "the header length field is below the minimum",
            WireError::BadLength => "the length field is smaller than the header",
            WireError::BadFormat => "a field that must be constant has another value",
        })
    }
}

impl std::error::Error for WireError {}

/// IPv6 hop-by-hop options (RFC 8200 §4.3); also the number of IPv4's dummy protocol.
pub const IPPROTO_HOPOPTS: u8 = 0;
/// ICMP for IPv4 (RFC 792).
pub const IPPROTO_ICMP: u8 = 1;
/// IGMP (RFC 3376).
pub const IPPROTO_IGMP: u8 = 2;
/// IPv4 in IP (RFC 2003).
pub const IPPROTO_IPIP: u8 = 4;
/// TCP (RFC 9293).
pub const IPPROTO_TCP: u8 = 6;
/// UDP (RFC 768).
pub const IPPROTO_UDP: u8 = 17;
/// DCCP (RFC 4340).
pub const IPPROTO_DCCP: u8 = 33;
/// IPv6 in IP (RFC 2473, RFC 4213).
pub const IPPROTO_IPV6: u8 = 41;
/// IPv6 routing header (RFC 8200 §4.4).
pub const IPPROTO_ROUTING: u8 = 43;
/// IPv6 fragment header (RFC 8200 §4.5).
pub const IPPROTO_FRAGMENT: u8 = 44;
/// GRE (RFC 2784).
pub const IPPROTO_GRE: u8 = 47;
/// Encapsulating security payload (RFC 4303).
pub const IPPROTO_ESP: u8 = 50;
/// Authentication header (RFC 4302).
pub const IPPROTO_AH: u8 = 51;
/// ICMP for IPv6 (RFC 4443).
pub const IPPROTO_ICMPV6: u8 = 58;
/// IPv6: nothing follows (RFC 8200 §4.7).
pub const IPPROTO_NONE: u8 = 59;
/// IPv6 destination options (RFC 8200 §4.6).
pub const IPPROTO_DSTOPTS: u8 = 60;
/// SCTP (RFC 9260).
pub const IPPROTO_SCTP: u8 = 132;
/// IPv6 mobility header (RFC 6275).
pub const IPPROTO_MH: u8 = 135;
/// UDP-Lite (RFC 3828).
pub const IPPROTO_UDPLITE: u8 = 136;

/// Smallest value of the type field that is a protocol; below it the field is an 802.3 length.
pub const ETH_P_802_3_MIN: u16 = 0x0600;
/// IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// ARP.
pub const ETH_P_ARP: u16 = 0x0806;
/// 802.1Q VLAN tag.
pub const ETH_P_8021Q: u16 = 0x8100;
/// 802.1ad service VLAN tag.
pub const ETH_P_8021AD: u16 = 0x88a8;
/// IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;
/// MPLS, unicast.
pub const ETH_P_MPLS_UC: u16 = 0x8847;
/// LLDP.
pub const ETH_P_LLDP: u16 = 0x88cc;

/// The first `N` bytes, or [`WireError::Truncated`].
#[inline]
fn head<const N: usize>(b: &[u8]) -> Result<&[u8; N], WireError> {
    b.first_chunk().ok_or(WireError::Truncated)
}

/// The first `N` bytes of a buffer to be written.
#[inline]
fn room<const N: usize>(out: &mut [u8]) -> &mut [u8; N] {
    out.first_chunk_mut().expect("the buffer to emit into must hold the whole header")
}

#[cfg(test)]
mod tests;
