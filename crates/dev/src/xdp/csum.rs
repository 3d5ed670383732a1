//! Finds transport checksums that the sender's kernel left to a device that was never there.
//!
//! On a veth pair the sender leaves the checksum partial and marks the packet; AF_XDP hands over
//! the bytes without the mark. The field then holds the sum of the pseudo header and nothing else.
//! Such a packet was on no wire: it is taken as the kernel would take it.

use linerate_core::pkt::pseudo;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::filter::{ETH_LEN, ETH_P_IP, ETH_P_IPV6, ETH_TYPE, TCP, UDP};

/// One's complement sum, folded.
fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// Where the checksum of a TCP or UDP packet lies that is the sum of its pseudo header: from the
/// network header where summing begins, and from there. The packet may be longer than `frame`.
///
/// One in 65536 honest sums looks like that. To complete it gives the same packet again.
pub(super) fn partial_at(frame: &[u8]) -> Option<(u16, u16)> {
    let kind = u16::from_be_bytes(*frame.get(ETH_TYPE..ETH_LEN)?.first_chunk()?);
    let packet = frame.get(ETH_LEN..)?;
    let (src, dst, proto, start, len): (IpAddr, IpAddr, u8, usize, usize) = match kind {
        ETH_P_IP => {
            let header = packet.first_chunk::<20>()?;
            let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            // A fragment has a part of what is summed.
            if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
                return None;
            }
            let v4 = |at: usize| Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?));
            let start = usize::from(header[0] & 0xf) * 4;
            (v4(12)?.into(), v4(16)?.into(), header[9], start, len.checked_sub(start)?)
        }
        ETH_P_IPV6 => {
            let header = packet.first_chunk::<40>()?;
            let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
            let v6 = |at: usize| Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?));
            (v6(8)?.into(), v6(24)?.into(), header[6], 40, len)
        }
        _ => return None,
    };
    let offset = match proto {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let field = u16::from_be_bytes(*packet.get(start + offset..)?.first_chunk()?);
    (field == fold(pseudo(src, dst, len, proto))).then_some((start as u16, offset as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(v6: bool, proto: u8, payload: &[u8]) -> (Vec<u8>, usize, u32) {
        let mut out = vec![2; 12];
        let at = if proto == TCP { 16 } else { 6 };
        let l4 = if proto == TCP { 20 } else { 8 } + payload.len();
        let (src, dst): (IpAddr, IpAddr) = if v6 {
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, l4 as u8, proto, 64]);
            let (src, dst) = (Ipv6Addr::from(0xfd00 << 112 | 1), Ipv6Addr::from(0xfd00 << 112 | 2));
            out.extend(src.octets().into_iter().chain(dst.octets()));
            (src.into(), dst.into())
        } else {
            out.extend([8, 0, 0x45, 0, 0, 20 + l4 as u8, 0, 0, 0x40, 0, 64, proto, 0, 0]);
            out.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into())
        };
        let start = out.len();
        out.resize(start + l4 - payload.len(), 0x11);
        out.extend(payload);
        out[start + at..][..2].fill(0);
        (out, start + at, pseudo(src, dst, l4, proto))
    }

    #[test]
    fn partial_sums_are_told_from_whole_ones() {
        for (v6, proto) in [(false, TCP), (false, UDP), (true, TCP), (true, UDP)] {
            for payload in [&b""[..], b"odd", b"even"] {
                let (mut bytes, at, pseudo) = frame(v6, proto, payload);
                let sum = |bytes: &[u8]| {
                    let l4 = &bytes[at - if proto == TCP { 16 } else { 6 }..];
                    let word = |c: &[u8]| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0));
                    fold(pseudo + l4.chunks(2).map(word).sum::<u32>())
                };
                let whole = !sum(&bytes);
                bytes[at..at + 2].copy_from_slice(&whole.to_be_bytes());
                assert_eq!((sum(&bytes), partial_at(&bytes)), (0xffff, None));
                bytes[at..at + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
                let offset = if proto == TCP { 16 } else { 6 };
                let start = (at - offset - ETH_LEN) as u16;
                assert_eq!(partial_at(&bytes), Some((start, offset as u16)));
                for len in 0..at + 2 {
                    assert_eq!(partial_at(&bytes[..len]), None, "{len} bytes of it");
                }
                bytes[at] ^= 1;
                assert_eq!(partial_at(&bytes), None);
            }
        }
    }
}
