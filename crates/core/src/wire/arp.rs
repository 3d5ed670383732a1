//! ARP for IPv4 over Ethernet (RFC 826). Linux: `struct arphdr` and what `arp_process` reads after
//! it.

use std::net::Ipv4Addr;

use super::{ETH_P_IP, Mac, WireError, head, room};

/// Who has this address? Linux: `ARPOP_REQUEST`.
pub const ARPOP_REQUEST: u16 = 1;
/// I have it. Linux: `ARPOP_REPLY`.
pub const ARPOP_REPLY: u16 = 2;

const ARPHRD_ETHER: u16 = 1;
const ARPHRD_IEEE802: u16 = 6;

/// An ARP packet with Ethernet and IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpHdr {
    /// [`ARPOP_REQUEST`], [`ARPOP_REPLY`] or another. Linux: `ar_op`.
    pub op: u16,
    /// Sender hardware address.
    pub sha: Mac,
    /// Sender protocol address.
    pub spa: Ipv4Addr,
    /// Target hardware address.
    pub tha: Mac,
    /// Target protocol address.
    pub tpa: Ipv4Addr,
}

impl ArpHdr {
    /// Length in bytes.
    pub const LEN: usize = 28;

    /// Reads a packet; padding behind it is ignored.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`] below 28 bytes; [`WireError::BadFormat`] if it is not about
    /// Ethernet (types 1 and 6, as `arp_process` accepts) and IPv4 addresses.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<ArpHdr, WireError> {
        let (fixed, rest) = b.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
        let &[h0, h1, p0, p1, hlen, plen, o0, o1] = fixed;
        let hardware = u16::from_be_bytes([h0, h1]);
        if !matches!(hardware, ARPHRD_ETHER | ARPHRD_IEEE802)
            || u16::from_be_bytes([p0, p1]) != ETH_P_IP
            || (hlen, plen) != (6, 4)
        {
            return Err(WireError::BadFormat);
        }
        let &[a, b, c, d, e, f, s0, s1, s2, s3, g, h, i, j, k, l, t0, t1, t2, t3] = head(rest)?;
        Ok(ArpHdr {
            op: u16::from_be_bytes([o0, o1]),
            sha: Mac([a, b, c, d, e, f]),
            spa: Ipv4Addr::new(s0, s1, s2, s3),
            tha: Mac([g, h, i, j, k, l]),
            tpa: Ipv4Addr::new(t0, t1, t2, t3),
        })
    }

    /// Writes the packet to the front of `out`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than 28 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let out = room::<{ Self::LEN }>(out);
        out[..2].copy_from_slice(&ARPHRD_ETHER.to_be_bytes());
        out[2..4].copy_from_slice(&ETH_P_IP.to_be_bytes());
        out[4] = 6;
        out[5] = 4;
        out[6..8].copy_from_slice(&self.op.to_be_bytes());
        out[8..14].copy_from_slice(&self.sha.0);
        out[14..18].copy_from_slice(&self.spa.octets());
        out[18..24].copy_from_slice(&self.tha.0);
        out[24..28].copy_from_slice(&self.tpa.octets());
    }
}
