//! Ethernet II and 802.1Q/802.1ad tags. Linux: `struct ethhdr`, `struct vlan_hdr`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{ETH_P_802_3_MIN, ETH_P_8021AD, ETH_P_8021Q, WireError, head, room};

/// Length of the Ethernet header in bytes (without tags). Linux: `ETH_HLEN`.
pub const ETH_HLEN: usize = 14;
/// Length of one VLAN tag in bytes. Linux: `VLAN_HLEN`.
pub const VLAN_HLEN: usize = 4;

/// A 48-bit hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The all-ones address.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// The all-zeros address: none.
    pub const ZERO: Mac = Mac([0; 6]);

    /// Whether the group bit is set (broadcast included). Linux: `is_multicast_ether_addr`.
    #[inline]
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether this is the all-ones address. Linux: `is_broadcast_ether_addr`.
    #[inline]
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == Mac::BROADCAST
    }

    /// Whether this is the all-zeros address. Linux: `is_zero_ether_addr`.
    #[inline]
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Mac::ZERO
    }

    /// Whether a station may own it: neither a group nor zero. Linux: `is_valid_ether_addr`.
    #[inline]
    #[must_use]
    pub fn is_valid(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// The group address of an IPv4 multicast address (RFC 1112 §6.4). Linux: `ip_eth_mc_map`.
    #[must_use]
    pub const fn from_ipv4_multicast(group: Ipv4Addr) -> Mac {
        let [_, b, c, d] = group.octets();
        Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The group address of an IPv6 multicast address (RFC 2464 §7). Linux: `ipv6_eth_mc_map`.
    #[must_use]
    pub const fn from_ipv6_multicast(group: Ipv6Addr) -> Mac {
        let [.., a, b, c, d] = group.octets();
        Mac([0x33, 0x33, a, b, c, d])
    }

    /// The link-local address formed from this address (RFC 4291 appendix A). Linux:
    /// `addrconf_ifid_eui48`.
    #[must_use]
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The Ethernet II header. Linux: `struct ethhdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthHdr {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Protocol of what follows; below [`ETH_P_802_3_MIN`] an 802.3 length. Linux: `h_proto`.
    pub ethertype: u16,
}

impl EthHdr {
    /// Length in bytes.
    pub const LEN: usize = ETH_HLEN;

    /// Reads the header at the front of a frame.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`] below 14 bytes.
    #[inline(always)]
    pub fn parse(b: &[u8]) -> Result<EthHdr, WireError> {
        let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = head::<ETH_HLEN>(b)?;
        Ok(EthHdr {
            dst: Mac([d0, d1, d2, d3, d4, d5]),
            src: Mac([s0, s1, s2, s3, s4, s5]),
            ethertype: u16::from_be_bytes([t0, t1]),
        })
    }

    /// Writes the header to the front of `out`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than 14 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let out = room::<ETH_HLEN>(out);
        out[..6].copy_from_slice(&self.dst.0);
        out[6..12].copy_from_slice(&self.src.0);
        out[12..].copy_from_slice(&self.ethertype.to_be_bytes());
    }

    /// Whether the type field is an 802.3 length, so that an LLC header follows. Linux:
    /// `eth_proto_is_802_3`, negated.
    #[inline]
    #[must_use]
    pub const fn is_802_3(&self) -> bool {
        self.ethertype < ETH_P_802_3_MIN
    }

    /// Whether a VLAN tag follows. Linux: `eth_type_vlan`.
    #[inline]
    #[must_use]
    pub const fn is_vlan(&self) -> bool {
        matches!(self.ethertype, ETH_P_8021Q | ETH_P_8021AD)
    }
}

/// A VLAN tag without its leading type: what follows an [`EthHdr`] with [`EthHdr::is_vlan`]. Linux:
/// `struct vlan_hdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// Priority code point, drop-eligible bit and VLAN id. Linux: `h_vlan_TCI`.
    pub tci: u16,
    /// Protocol of what follows. Linux: `h_vlan_encapsulated_proto`.
    pub ethertype: u16,
}

impl VlanTag {
    /// Length in bytes.
    pub const LEN: usize = VLAN_HLEN;

    /// Reads the four bytes after the Ethernet header.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`] below 4 bytes.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<VlanTag, WireError> {
        let &[a, b, c, d] = head::<VLAN_HLEN>(b)?;
        Ok(VlanTag { tci: u16::from_be_bytes([a, b]), ethertype: u16::from_be_bytes([c, d]) })
    }

    /// Writes the tag to the front of `out`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than 4 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let out = room::<VLAN_HLEN>(out);
        out[..2].copy_from_slice(&self.tci.to_be_bytes());
        out[2..].copy_from_slice(&self.ethertype.to_be_bytes());
    }

    /// The VLAN id, 0..=4095; 0 means priority only.
    #[inline]
    #[must_use]
    pub const fn vid(&self) -> u16 {
        self.tci & 0x0fff
    }

    /// The priority code point, 0..=7.
    #[inline]
    #[must_use]
    pub const fn pcp(&self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// The drop-eligible indicator.
    #[inline]
    #[must_use]
    pub const fn dei(&self) -> bool {
        self.tci & 0x1000 != 0
    }
}
