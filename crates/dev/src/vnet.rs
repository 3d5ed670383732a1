//! `virtio_net_hdr`: the few bytes before a packet that say what is still undone in it.
//!
//! Linux: include/linux/virtio_net.h `virtio_net_hdr_to_skb`, `virtio_net_hdr_from_skb`;
//! Virtual I/O Device 1.2 §5.1.6. On a TUN and on a packet socket the fields are in the byte
//! order of the host. What the header claims is checked against the packet before anybody uses
//! it: it comes from the kernel, yet in a container's namespace the other end of the wire decides
//! much of what the kernel puts there.

use linerate_core::pkt::GsoKind;
use std::fmt;

/// Bytes of the header on a packet socket.
pub const LEN_LEGACY: usize = 10;
/// Bytes of the header with the `num_buffers` field, which we ask a TUN for.
pub const LEN: usize = 12;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// A partial checksum: the pseudo-header's sum is in the field, the rest is to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeedsCsum {
    /// Bytes from the start of the packet to the first byte that is summed.
    pub start: u16,
    /// Bytes from `start` to the checksum field.
    pub offset: u16,
}

/// A super-packet's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What the segments are.
    pub kind: GsoKind,
    /// Payload bytes of each segment, at least 1.
    pub size: u16,
    /// Bytes of the headers as the sender counts them. A hint: Linux puts the linear part of its
    /// buffer here. At most the packet's length.
    pub hdr_len: u16,
    /// The first segment carries CWR (`VIRTIO_NET_HDR_GSO_ECN`); TCP only.
    pub ecn: bool,
}

/// The header, understood and checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vnet {
    /// The transport checksum is to be completed by whoever puts the packet on a wire.
    pub needs_csum: Option<NeedsCsum>,
    /// The transport checksum was verified by the sender's side.
    pub data_valid: bool,
    /// The packet stands for several.
    pub gso: Option<Gso>,
}

/// Why a header was refused. Each is counted by the device that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VnetError {
    /// Fewer bytes than the header has.
    Short,
    /// `csum_start + csum_offset` reaches past the packet.
    CsumRange,
    /// A super-packet whose checksum field is not where its protocol has it.
    CsumOffset,
    /// A GSO type this header format does not have.
    GsoType,
    /// UDP fragmentation offload, which was never offered.
    GsoUfo,
    /// A super-packet with segments of no bytes.
    GsoSize,
    /// `hdr_len` is longer than the packet.
    GsoHdrLen,
    /// A super-packet whose checksum is not to be completed: its segments would have none.
    GsoNoCsum,
    /// The ECN bit on something that is not TCP.
    GsoEcn,
    /// The headers of the packet are not those of the kind of super-packet it is said to be.
    GsoHeaders,
}

impl VnetError {
    /// All of them, in the order of [`VnetError::index`].
    pub const ALL: [VnetError; 10] = [
        VnetError::Short,
        VnetError::CsumRange,
        VnetError::CsumOffset,
        VnetError::GsoType,
        VnetError::GsoUfo,
        VnetError::GsoSize,
        VnetError::GsoHdrLen,
        VnetError::GsoNoCsum,
        VnetError::GsoEcn,
        VnetError::GsoHeaders,
    ];

    /// A small number, for arrays of counts.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for VnetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VnetError::Short => "the packet is shorter than its virtio_net_hdr",
            VnetError::CsumRange => "csum_start and csum_offset point past the packet",
            VnetError::CsumOffset => "csum_offset is not where this protocol has its checksum",
            VnetError::GsoType => "gso_type is unknown",
            VnetError::GsoUfo => "gso_type UDP (fragmentation) was not offered",
            VnetError::GsoSize => "gso_size is 0 in a super-packet",
            VnetError::GsoHdrLen => "hdr_len is longer than the packet",
            VnetError::GsoNoCsum => "a super-packet has no partial checksum",
            VnetError::GsoEcn => "the ECN bit is set without TCP",
            VnetError::GsoHeaders => "the packet's headers are not those of its gso_type",
        })
    }
}

impl std::error::Error for VnetError {}

/// Bytes from the start of a TCP header to its checksum.
const TCP_CSUM_OFFSET: u16 = 16;
/// Bytes from the start of a UDP header to its checksum.
const UDP_CSUM_OFFSET: u16 = 6;

impl Vnet {
    /// Reads the header at the front of `hdr` (10 bytes are enough; `num_buffers` says nothing on
    /// these devices) and checks it against a packet of `packet_bytes` bytes that follows.
    ///
    /// # Errors
    /// Each lie has its own [`VnetError`].
    pub fn parse(hdr: &[u8], packet_bytes: usize) -> Result<Vnet, VnetError> {
        let Some(&[flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]) = hdr.first_chunk::<10>()
        else {
            return Err(VnetError::Short);
        };
        // The common case, a plain packet, is decided by one comparison.
        if flags & (F_NEEDS_CSUM | F_DATA_VALID) == 0 && gso_type == GSO_NONE {
            return Ok(Vnet::default());
        }
        let needs_csum = if flags & F_NEEDS_CSUM != 0 {
            let csum = NeedsCsum {
                start: u16::from_ne_bytes([s0, s1]),
                offset: u16::from_ne_bytes([o0, o1]),
            };
            let end = usize::from(csum.start) + usize::from(csum.offset) + 2;
            if end > packet_bytes {
                return Err(VnetError::CsumRange);
            }
            Some(csum)
        } else {
            None
        };
        let data_valid = flags & F_DATA_VALID != 0;
        let gso = match gso_type {
            GSO_NONE => None,
            _ => {
                let (size, hdr_len) = (u16::from_ne_bytes([g0, g1]), u16::from_ne_bytes([h0, h1]));
                Some(parse_gso(gso_type, size, hdr_len, packet_bytes)?)
            }
        };
        if let Some(gso) = gso {
            match needs_csum {
                Some(csum) if csum.offset != csum_offset(gso.kind) => {
                    return Err(VnetError::CsumOffset);
                }
                None => return Err(VnetError::GsoNoCsum),
                _ => {}
            }
        }
        Ok(Vnet { needs_csum, data_valid, gso })
    }

    /// The header's bytes. The last two, `num_buffers`, are left out on a packet socket: send only
    /// the first [`LEN_LEGACY`] there.
    #[must_use]
    pub fn emit(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let mut put = |at: usize, value: u16| {
            out[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        };
        let mut flags = 0;
        if let Some(csum) = self.needs_csum {
            flags |= F_NEEDS_CSUM;
            put(6, csum.start);
            put(8, csum.offset);
        } else if self.data_valid {
            flags |= F_DATA_VALID;
        }
        let mut gso_type = GSO_NONE;
        if let Some(gso) = self.gso {
            put(2, gso.hdr_len);
            put(4, gso.size);
            gso_type = match gso.kind {
                GsoKind::Tcp4 => GSO_TCPV4,
                GsoKind::Tcp6 => GSO_TCPV6,
                GsoKind::Udp => GSO_UDP_L4,
            };
            if gso.ecn {
                gso_type |= GSO_ECN;
            }
        }
        out[0] = flags;
        out[1] = gso_type;
        out
    }
}

/// Bytes from the start of the transport header to its checksum.
fn csum_offset(kind: GsoKind) -> u16 {
    match kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => TCP_CSUM_OFFSET,
        GsoKind::Udp => UDP_CSUM_OFFSET,
    }
}

fn parse_gso(gso_type: u8, size: u16, hdr_len: u16, packet_bytes: usize) -> Result<Gso, VnetError> {
    let ecn = gso_type & GSO_ECN != 0;
    let kind = match gso_type & !GSO_ECN {
        GSO_TCPV4 => GsoKind::Tcp4,
        GSO_TCPV6 => GsoKind::Tcp6,
        GSO_UDP_L4 => GsoKind::Udp,
        GSO_UDP => return Err(VnetError::GsoUfo),
        _ => return Err(VnetError::GsoType),
    };
    if ecn && kind == GsoKind::Udp {
        return Err(VnetError::GsoEcn);
    }
    if size == 0 {
        return Err(VnetError::GsoSize);
    }
    if usize::from(hdr_len) > packet_bytes {
        return Err(VnetError::GsoHdrLen);
    }
    Ok(Gso { kind, size, hdr_len, ecn })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TSO: Vnet = Vnet {
        needs_csum: Some(NeedsCsum { start: 20, offset: 16 }),
        data_valid: false,
        gso: Some(Gso { kind: GsoKind::Tcp4, size: 1460, hdr_len: 40, ecn: false }),
    };

    #[test]
    fn what_is_emitted_is_parsed_to_the_same() {
        let uso = Gso { kind: GsoKind::Udp, size: 1200, hdr_len: 28, ecn: false };
        let tso6 = Gso { kind: GsoKind::Tcp6, size: 1440, hdr_len: 60, ecn: true };
        let cases = [
            Vnet::default(),
            Vnet { data_valid: true, ..Vnet::default() },
            Vnet { needs_csum: Some(NeedsCsum { start: 20, offset: 6 }), ..Vnet::default() },
            TSO,
            Vnet { needs_csum: Some(NeedsCsum { start: 20, offset: 6 }), gso: Some(uso), ..TSO },
            Vnet { needs_csum: Some(NeedsCsum { start: 40, offset: 16 }), gso: Some(tso6), ..TSO },
        ];
        for vnet in cases {
            let bytes = vnet.emit();
            assert_eq!(Vnet::parse(&bytes, 4000), Ok(vnet));
            assert_eq!(Vnet::parse(&bytes[..LEN_LEGACY], 4000), Ok(vnet));
        }
    }

    #[test]
    fn the_fields_are_where_the_uapi_header_has_them() {
        let bytes = TSO.emit();
        assert_eq!(bytes[..2], [1, 1]);
        assert_eq!(bytes[2..4], 40u16.to_ne_bytes());
        assert_eq!(bytes[4..6], 1460u16.to_ne_bytes());
        assert_eq!(bytes[6..8], 20u16.to_ne_bytes());
        assert_eq!(bytes[8..10], 16u16.to_ne_bytes());
        assert_eq!(bytes[10..], [0, 0]);
    }

    #[test]
    fn each_lie_has_its_own_error() {
        let good = TSO.emit();
        let with = |edit: fn(&mut [u8; LEN])| {
            let mut bytes = good;
            edit(&mut bytes);
            Vnet::parse(&bytes, 4000)
        };
        assert_eq!(Vnet::parse(&good[..9], 4000), Err(VnetError::Short));
        assert_eq!(Vnet::parse(&good, 37), Err(VnetError::CsumRange));
        assert_eq!(Vnet::parse(&good, 38), Err(VnetError::GsoHdrLen));
        assert_eq!(with(|b| b[6..10].fill(0xff)), Err(VnetError::CsumRange));
        assert_eq!(
            with(|b| b[8..10].copy_from_slice(&6u16.to_ne_bytes())),
            Err(VnetError::CsumOffset)
        );
        assert_eq!(with(|b| b[1] = 7), Err(VnetError::GsoType));
        assert_eq!(with(|b| b[1] = GSO_ECN), Err(VnetError::GsoType));
        assert_eq!(with(|b| b[1] = GSO_UDP), Err(VnetError::GsoUfo));
        assert_eq!(with(|b| b[1] = GSO_UDP_L4 | GSO_ECN), Err(VnetError::GsoEcn));
        assert_eq!(with(|b| b[4..6].fill(0)), Err(VnetError::GsoSize));
        assert_eq!(with(|b| b[2..4].fill(0xff)), Err(VnetError::GsoHdrLen));
        assert_eq!(with(|b| b[0] = 0), Err(VnetError::GsoNoCsum));
    }

    #[test]
    fn every_header_of_two_free_bytes_gives_an_answer_that_fits_the_packet() {
        // Exhaustive over flags and type, with field values at the borders.
        let borders = [0u16, 1, 15, 16, 17, 36, 37, 38, 40, 0x7fff, 0xffff];
        for first in 0..=u16::MAX {
            let value = borders[usize::from(first) % borders.len()];
            let mut bytes = [0u8; LEN];
            bytes[..2].copy_from_slice(&first.to_ne_bytes());
            for field in 0..4 {
                let shifted = borders[(usize::from(value) + field) % borders.len()];
                bytes[2 + 2 * field..4 + 2 * field].copy_from_slice(&shifted.to_ne_bytes());
            }
            if let Ok(vnet) = Vnet::parse(&bytes, 40) {
                if let Some(csum) = vnet.needs_csum {
                    assert!(usize::from(csum.start) + usize::from(csum.offset) + 2 <= 40);
                }
                if let Some(gso) = vnet.gso {
                    assert!(gso.size > 0 && gso.hdr_len <= 40);
                }
            }
        }
    }

    #[test]
    fn indices_are_dense() {
        for (i, e) in VnetError::ALL.iter().enumerate() {
            assert_eq!(e.index(), i);
        }
    }
}
