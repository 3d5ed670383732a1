//! The TCP header (RFC 9293 §3.1) and its control bits. Linux: `struct tcphdr`.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use super::{WireError, head, room};

/// Length of the header without options in bytes.
pub const TCP_HLEN: usize = 20;

/// The control bits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// None set.
    pub const NONE: TcpFlags = TcpFlags(0);
    /// The sender has no more to send.
    pub const FIN: TcpFlags = TcpFlags(0x01);
    /// Sequence numbers are being synchronized.
    pub const SYN: TcpFlags = TcpFlags(0x02);
    /// Reset.
    pub const RST: TcpFlags = TcpFlags(0x04);
    /// Push.
    pub const PSH: TcpFlags = TcpFlags(0x08);
    /// The acknowledgment field counts.
    pub const ACK: TcpFlags = TcpFlags(0x10);
    /// The urgent pointer counts.
    pub const URG: TcpFlags = TcpFlags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: TcpFlags = TcpFlags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: TcpFlags = TcpFlags(0x80);

    /// Whether all of `bits` are set.
    #[inline]
    #[must_use]
    pub const fn has(self, bits: TcpFlags) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// Whether any of `bits` is set.
    #[inline]
    #[must_use]
    pub const fn any(self, bits: TcpFlags) -> bool {
        self.0 & bits.0 != 0
    }

    /// These without `bits`.
    #[inline]
    #[must_use]
    pub const fn without(self, bits: TcpFlags) -> TcpFlags {
        TcpFlags(self.0 & !bits.0)
    }

    /// These and `bits`.
    #[inline]
    #[must_use]
    pub const fn with(self, bits: TcpFlags) -> TcpFlags {
        TcpFlags(self.0 | bits.0)
    }

    /// SYN.
    #[inline]
    #[must_use]
    pub const fn syn(self) -> bool {
        self.any(TcpFlags::SYN)
    }

    /// ACK.
    #[inline]
    #[must_use]
    pub const fn ack(self) -> bool {
        self.any(TcpFlags::ACK)
    }

    /// FIN.
    #[inline]
    #[must_use]
    pub const fn fin(self) -> bool {
        self.any(TcpFlags::FIN)
    }

    /// RST.
    #[inline]
    #[must_use]
    pub const fn rst(self) -> bool {
        self.any(TcpFlags::RST)
    }

    /// PSH.
    #[inline]
    #[must_use]
    pub const fn psh(self) -> bool {
        self.any(TcpFlags::PSH)
    }

    /// URG.
    #[inline]
    #[must_use]
    pub const fn urg(self) -> bool {
        self.any(TcpFlags::URG)
    }
}

impl BitOr for TcpFlags {
    type Output = TcpFlags;

    #[inline]
    fn bitor(self, other: TcpFlags) -> TcpFlags {
        self.with(other)
    }
}

impl BitOrAssign for TcpFlags {
    #[inline]
    fn bitor_assign(&mut self, other: TcpFlags) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for TcpFlags {
    /// The letters of the set bits, as tcpdump writes them: `S.`, `P.`, `F.`; `none` if there are
    /// none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        for (bit, letter) in "FSRP.UEW".chars().enumerate() {
            if self.0 >> bit & 1 == 1 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// The fixed part of the TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHdr {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first byte (of the SYN, if there is one).
    pub seq: u32,
    /// Next sequence number expected, if ACK is set.
    pub ack: u32,
    /// Length of the header with its options in bytes, 20..=60, a multiple of 4.
    pub data_off_bytes: usize,
    /// The control bits.
    pub flags: TcpFlags,
    /// The window field as it stands, unscaled.
    pub window: u16,
    /// Checksum.
    pub csum: u16,
    /// Urgent pointer.
    pub urg: u16,
}

impl TcpHdr {
    /// Length without options in bytes.
    pub const LEN: usize = TCP_HLEN;

    /// Reads a header; the options are `b[20..data_off_bytes]` ([`options`](TcpHdr::options)).
    ///
    /// # Errors
    ///
    /// [`Truncated`](WireError::Truncated) below 20 bytes or if the options do not fit in `b`;
    /// [`BadHeaderLength`](WireError::BadHeaderLength) if the data offset is below 5. Both are
    /// Linux's `TCP_BAD_DOFF` or packet-too-small in `tcp_v4_rcv`.
    #[inline]
    pub fn parse(b: &[u8]) -> Result<TcpHdr, WireError> {
        let h = head::<TCP_HLEN>(b)?;
        let data_off_bytes = usize::from(h[12] >> 4) * 4;
        if data_off_bytes < TCP_HLEN {
            return Err(WireError::BadHeaderLength);
        }
        if b.len() < data_off_bytes {
            return Err(WireError::Truncated);
        }
        Ok(TcpHdr {
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            data_off_bytes,
            flags: TcpFlags(h[13]),
            window: u16::from_be_bytes([h[14], h[15]]),
            csum: u16::from_be_bytes([h[16], h[17]]),
            urg: u16::from_be_bytes([h[18], h[19]]),
        })
    }

    /// The bytes of the options of this header, parsed from the front of `b`.
    #[inline]
    #[must_use]
    pub fn options<'a>(&self, b: &'a [u8]) -> &'a [u8] {
        b.get(TCP_HLEN..self.data_off_bytes).unwrap_or_default()
    }

    /// Writes the 20 fixed bytes to the front of `out`, the checksum field as it stands in `self`.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than 20 bytes or `data_off_bytes` is not 20 to 60 in words of 4: the
    /// caller made the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) {
        assert!(
            matches!(self.data_off_bytes, 20..=60) && self.data_off_bytes.is_multiple_of(4),
            "a TCP header has 20 to 60 bytes in words of 4"
        );
        let h = room::<TCP_HLEN>(out);
        h[..2].copy_from_slice(&self.src_port.to_be_bytes());
        h[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        h[4..8].copy_from_slice(&self.seq.to_be_bytes());
        h[8..12].copy_from_slice(&self.ack.to_be_bytes());
        h[12] = (self.data_off_bytes as u8 / 4) << 4;
        h[13] = self.flags.0;
        h[14..16].copy_from_slice(&self.window.to_be_bytes());
        h[16..18].copy_from_slice(&self.csum.to_be_bytes());
        h[18..20].copy_from_slice(&self.urg.to_be_bytes());
    }
}
