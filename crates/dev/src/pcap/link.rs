//! Link types: what a recorded packet begins with, and how to get to the network header.

use std::fmt;

/// A `LINKTYPE_*` number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: four bytes of address family in the recording host's byte order.
    pub const NULL: LinkType = LinkType(0);
    /// Ethernet frames, without preamble and check sequence.
    pub const ETHERNET: LinkType = LinkType(1);
    /// OpenBSD's number in files written long ago for [`LinkType::RAW`].
    const RAW_BSD: LinkType = LinkType(12);
    /// The same on OpenBSD itself.
    const RAW_OPENBSD: LinkType = LinkType(14);
    /// IPv4 or IPv6 packets.
    pub const RAW: LinkType = LinkType(101);
    /// OpenBSD loopback: four bytes of address family, big-endian.
    pub const LOOP: LinkType = LinkType(108);
    /// Linux "cooked" capture: 16 bytes, the ethertype last.
    pub const LINUX_SLL: LinkType = LinkType(113);
    /// IPv4 packets.
    pub const IPV4: LinkType = LinkType(228);
    /// IPv6 packets.
    pub const IPV6: LinkType = LinkType(229);
    /// Linux "cooked" capture, version 2: 20 bytes, the ethertype first.
    pub const LINUX_SLL2: LinkType = LinkType(276);

    /// Its name, or none if [`network`] cannot decode it.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            LinkType::NULL => "NULL",
            LinkType::ETHERNET => "EN10MB",
            LinkType::RAW | LinkType::RAW_BSD | LinkType::RAW_OPENBSD => "RAW",
            LinkType::LOOP => "LOOP",
            LinkType::LINUX_SLL => "LINUX_SLL",
            LinkType::IPV4 => "IPV4",
            LinkType::IPV6 => "IPV6",
            LinkType::LINUX_SLL2 => "LINUX_SLL2",
            _ => return None,
        })
    }
}

impl fmt::Debug for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name}({})", self.0),
            None => write!(f, "LinkType({})", self.0),
        }
    }
}

/// Why a recorded packet cannot be handed to the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// This link type is not decoded.
    Unsupported(LinkType),
    /// Fewer bytes than the link header has.
    Short {
        /// The link type.
        link: LinkType,
        /// Bytes there are.
        bytes: usize,
    },
    /// An address family that is neither IPv4 nor IPv6 on any system.
    Family(u32),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Unsupported(link) => write!(
                f,
                "link type {} is not supported (supported: Ethernet, raw IP, BSD loopback, Linux \
                 cooked)",
                link.0
            ),
            LinkError::Short { link, bytes } => {
                write!(f, "a {link:?} packet of {bytes} bytes is shorter than its link header")
            }
            LinkError::Family(family) => {
                write!(f, "address family {family} is neither IPv4 nor IPv6")
            }
        }
    }
}

impl std::error::Error for LinkError {}

/// A recorded packet with its pseudo link header gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network<'a> {
    /// A whole Ethernet frame.
    Ethernet(&'a [u8]),
    /// A packet without a link header, and the ethertype that says what it is. 0 if neither the
    /// file nor the packet's first nibble says so.
    Packet {
        /// `ETH_P_*`.
        ethertype: u16,
        /// From the network header on.
        bytes: &'a [u8],
    },
}

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// Takes the link header of a recorded packet off.
///
/// # Errors
/// [`LinkError`], for each packet on its own: a file may mix link types.
pub fn network(link: LinkType, data: &[u8]) -> Result<Network<'_>, LinkError> {
    let short = LinkError::Short { link, bytes: data.len() };
    let packet = |ethertype, bytes| Ok(Network::Packet { ethertype, bytes });
    match link {
        LinkType::ETHERNET => Ok(Network::Ethernet(data)),
        LinkType::RAW | LinkType::RAW_BSD | LinkType::RAW_OPENBSD => packet(by_version(data), data),
        LinkType::IPV4 => packet(ETH_P_IP, data),
        LinkType::IPV6 => packet(ETH_P_IPV6, data),
        LinkType::NULL | LinkType::LOOP => {
            let (&family, bytes) = data.split_first_chunk::<4>().ok_or(short)?;
            let big = u32::from_be_bytes(family);
            // The family is in the order of the machine that recorded; families are small, so
            // the wrong order shows.
            let value = if link == LinkType::NULL && big > 0xffff { big.swap_bytes() } else { big };
            packet(by_family(value).ok_or(LinkError::Family(value))?, bytes)
        }
        LinkType::LINUX_SLL => {
            let (head, bytes) = data.split_first_chunk::<16>().ok_or(short)?;
            packet(u16::from_be_bytes([head[14], head[15]]), bytes)
        }
        LinkType::LINUX_SLL2 => {
            let (head, bytes) = data.split_first_chunk::<20>().ok_or(short)?;
            packet(u16::from_be_bytes([head[0], head[1]]), bytes)
        }
        _ => Err(LinkError::Unsupported(link)),
    }
}

fn by_version(data: &[u8]) -> u16 {
    match data.first().map(|b| b >> 4) {
        Some(4) => ETH_P_IP,
        Some(6) => ETH_P_IPV6,
        _ => 0,
    }
}

/// `AF_INET` is 2 everywhere; `AF_INET6` is 10 on Linux, 24 on NetBSD and OpenBSD, 28 on FreeBSD,
/// 30 on Darwin.
fn by_family(family: u32) -> Option<u16> {
    match family {
        2 => Some(ETH_P_IP),
        10 | 24 | 28 | 30 => Some(ETH_P_IPV6),
        _ => None,
    }
}
