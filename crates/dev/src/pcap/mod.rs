//! Capture files: pcap and pcapng are read, pcapng is written.
//!
//! A capture is input from a stranger like any packet: lengths are checked before anything is
//! allocated, and whatever is wrong with the file is an error that names the byte where it is.
//! Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; link types: tcpdump.org/linktypes.

mod link;
mod ng;
mod read;
mod replay;
mod write;

pub use link::{LinkError, LinkType, Network, network};
pub use read::Reader;
pub use replay::{REPLAY_MAC, Recorded, Replay};
pub use write::{Info, Writer};

use std::fmt;
use std::io;

/// Most bytes of one packet that are taken from a file: libpcap's own limit, which also covers
/// the largest super-packet Linux makes by default.
pub const CAPTURED_BYTES_MAX: usize = 256 * 1024;

/// Which way a packet went past the place where it was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The file does not say.
    #[default]
    Unknown,
    /// Into the host.
    Inbound,
    /// Out of the host.
    Outbound,
}

/// One recorded packet; `data` lives until the next one is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What `data` begins with.
    pub link: LinkType,
    /// Interface number within its section; 0 in a pcap file.
    pub interface: u32,
    /// Nanoseconds since 1970, if recorded (a pcapng simple packet has none).
    pub ts_ns: Option<u64>,
    /// Bytes the packet had on the wire.
    pub orig_len: u32,
    /// Bytes that were recorded, at most [`CAPTURED_BYTES_MAX`].
    pub data: &'a [u8],
    /// Which way it went.
    pub direction: Direction,
    /// Where its record begins in the file.
    pub offset: u64,
}

/// What is wrong with a capture file, and where.
#[derive(Debug)]
pub struct PcapError {
    /// The file, as it was named to the reader.
    pub file: String,
    /// Byte offset of the record or block the fault is in.
    pub offset: u64,
    /// The fault.
    pub fault: Fault,
}

/// The faults a capture file can have.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Reading failed.
    Io(io::Error),
    /// The first bytes are those of no capture format.
    Magic([u8; 4]),
    /// A pcap variant of the 1990s whose records have another shape.
    ModifiedPcap,
    /// A version of the format that is not known.
    Version {
        /// Major number.
        major: u16,
        /// Minor number.
        minor: u16,
    },
    /// The file ends inside of something.
    Truncated {
        /// What it ends in.
        what: &'static str,
        /// Bytes that should follow.
        wanted: u64,
        /// Bytes that do.
        found: u64,
    },
    /// A length that cannot be.
    Length {
        /// Whose length.
        what: &'static str,
        /// The length, bytes.
        value: u64,
        /// The most it may be here, bytes.
        limit: u64,
    },
    /// The length at the end of a block is not the one at its start.
    Trailer {
        /// At the start.
        start: u32,
        /// At the end.
        end: u32,
    },
    /// Neither byte order makes sense of a section header.
    ByteOrder([u8; 4]),
    /// A packet of an interface that no block described.
    Interface(u32),
    /// More interfaces in one section than any real capture has.
    Interfaces,
    /// A clock resolution that cannot be computed with.
    Resolution(u8),
    /// A packet that cannot be handed to a network stack.
    Link(LinkError),
}

impl fmt::Display for PcapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PcapError { file, offset, fault } = self;
        write!(f, "{file}: at byte offset {offset}: ")?;
        match fault {
            Fault::Io(err) => write!(f, "cannot read: {err}"),
            Fault::Magic([a, b, c, d]) => write!(
                f,
                "not a pcap or pcapng file (it begins with {a:02x} {b:02x} {c:02x} {d:02x})"
            ),
            Fault::ModifiedPcap => f.write_str(
                "this is a modified pcap file (magic a1b2cd34), which is not supported; convert it \
                 with: editcap -F pcapng IN OUT",
            ),
            Fault::Version { major, minor } => {
                write!(f, "version {major}.{minor} of the format is not supported")
            }
            Fault::Truncated { what, wanted, found } => {
                write!(f, "the file is cut off: {what} needs {wanted} more bytes, {found} follow")
            }
            Fault::Length { what, value, limit } => {
                write!(f, "the file is corrupt: {what} of {value} bytes (at most {limit} fit here)")
            }
            Fault::Trailer { start, end } => write!(
                f,
                "the file is corrupt: a block says {start} bytes at its start and {end} at its end"
            ),
            Fault::ByteOrder(b) => write!(
                f,
                "the file is corrupt: byte-order mark {:02x} {:02x} {:02x} {:02x}",
                b[0], b[1], b[2], b[3]
            ),
            Fault::Interface(id) => {
                write!(f, "the file is corrupt: packet of interface {id}, which is not described")
            }
            Fault::Interfaces => f.write_str("more than 4096 interfaces in one section"),
            Fault::Resolution(value) => {
                write!(f, "timestamp resolution {value:#04x} is out of range")
            }
            Fault::Link(err) => err.fmt(f),
        }
    }
}

impl std::error::Error for PcapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Io(err) => Some(err),
            _ => None,
        }
    }
}

/// Byte order of a file or section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endian {
    Little,
    Big,
}

impl Endian {
    fn u16(self, b: [u8; 2]) -> u16 {
        match self {
            Endian::Little => u16::from_le_bytes(b),
            Endian::Big => u16::from_be_bytes(b),
        }
    }

    fn u32(self, b: [u8; 4]) -> u32 {
        match self {
            Endian::Little => u32::from_le_bytes(b),
            Endian::Big => u32::from_be_bytes(b),
        }
    }

    /// The 16-bit field at `at`, if it is there.
    fn u16_at(self, bytes: &[u8], at: usize) -> Option<u16> {
        bytes.get(at..)?.first_chunk().map(|b| self.u16(*b))
    }

    /// The 32-bit field at `at`, if it is there.
    fn u32_at(self, bytes: &[u8], at: usize) -> Option<u32> {
        bytes.get(at..)?.first_chunk().map(|b| self.u32(*b))
    }
}

#[cfg(test)]
mod tests;
