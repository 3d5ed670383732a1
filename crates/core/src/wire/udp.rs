//! UDP (RFC 768). Linux: `struct udphdr`.

use super::{WireError, head, room};

/// The UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHdr {
    /// Source port; 0 if no answer is expected.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Length of header and data in bytes, as the header says it (0 on an IPv6 jumbogram).
    pub len: u16,
    /// Checksum; 0 means none over IPv4, an error over IPv6 (RFC 8200 §8.1).
    pub csum: u16,
}

impl UdpHdr {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// Reads the header. The caller compares [`len`](UdpHdr::len) with the data it has, as
    /// `__udp4_lib_rcv` does.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`] below 8 bytes.
    #[inline(always)]
    pub fn parse(b: &[u8]) -> Result<UdpHdr, WireError> {
        let &[s0, s1, d0, d1, l0, l1, c0, c1] = head(b)?;
        Ok(UdpHdr {
            src_port: u16::from_be_bytes([s0, s1]),
            dst_port: u16::from_be_bytes([d0, d1]),
            len: u16::from_be_bytes([l0, l1]),
            csum: u16::from_be_bytes([c0, c1]),
        })
    }

    /// Writes the header to the front of `out`, the checksum field as it stands in `self`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than 8 bytes.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        let ([s0, s1], [d0, d1]) = (self.src_port.to_be_bytes(), self.dst_port.to_be_bytes());
        let ([l0, l1], [c0, c1]) = (self.len.to_be_bytes(), self.csum.to_be_bytes());
        *room(out) = [s0, s1, d0, d1, l0, l1, c0, c1];
    }
}
