//! `SIOCETHTOOL`: what `ethtool` netlink does not tell (the driver's own statistics), and all of it
//! on kernels that have no such netlink (before 5.6).
//!
//! Answers are returned as the kernel's structures lie in memory; `netlink::ethtool` reads them.

use std::ffi::{c_char, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::check;

/// A command with a structure of fixed size, by number and bytes of include/uapi/linux/ethtool.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// `struct ethtool_drvinfo`.
    Drvinfo,
    /// `struct ethtool_ringparam`.
    Rings,
    /// `struct ethtool_channels`.
    Channels,
    /// `struct ethtool_coalesce`.
    Coalesce,
    /// `struct ethtool_pauseparam`.
    Pause,
}

impl Words {
    // Get, set, bytes.
    fn command(self) -> (u32, u32, usize) {
        match self {
            Words::Drvinfo => (0x03, 0, 196),
            Words::Coalesce => (0x0e, 0x0f, 92),
            Words::Rings => (0x10, 0x11, 36),
            Words::Pause => (0x12, 0x13, 16),
            Words::Channels => (0x3c, 0x3d, 36),
        }
    }
}

const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const GRXFH: u32 = 0x29;
const SRXFH: u32 = 0x2a;
const GSSET_INFO: u32 = 0x37;
const GRXCLSRULE: u32 = 0x2f;
const SRXCLSRLDEL: u32 = 0x31;
const SRXCLSRLINS: u32 = 0x32;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
const GRSSH: u32 = 0x46;
const SRSSH: u32 = 0x47;

/// `ETH_SS_STATS`.
const SS_STATS: u32 = 1;
/// `ETH_SS_FEATURES`.
const SS_FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const STRING_BYTES: usize = 32;
/// `struct ethtool_rxfh` without the table.
const RXFH_BYTES: usize = 24;
/// `struct ethtool_rxnfc` without a list of rules.
const RXNFC_BYTES: usize = 192;
/// Where `struct ethtool_rx_flow_spec` begins in it.
const SPEC_AT: usize = 16;
/// Its bytes, up to and with the place (`location`), and where that is.
pub(crate) const SPEC_BYTES: usize = 164;
pub(crate) const LOCATION_AT: usize = 160;
/// Blocks of 32 features that we have room for; there are 2 today.
const FEATURE_BLOCKS: u32 = 8;
/// A driver may have more strings, by the time that they are fetched, than it had when it was asked how
/// many, and the kernel writes all it has: there is room for as many again and this.
const STRINGS_SPARE: usize = 4096;
/// More than any driver has; more is garbage.
const STRINGS_MAX: usize = 1 << 18;

/// The socket that ioctls go through. It belongs to the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Ethtool {
    fd: OwnedFd,
}

impl Ethtool {
    pub(crate) fn open() -> io::Result<Ethtool> {
        let (inet, dgram) = (AddressFamily::INET, SocketType::DGRAM);
        let fd = rustix::net::socket_with(inet, dgram, SocketFlags::CLOEXEC, None)?;
        Ok(Ethtool { fd })
    }

    /// The structure of a device.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the driver has no such thing, `ENODEV` for an unknown name; so for all below.
    pub(crate) fn get(&self, dev: &str, what: Words) -> io::Result<Vec<u8>> {
        let (get, _, bytes) = what.command();
        let mut room = Room::new(get, bytes);
        self.run(dev, &mut room)?;
        Ok(room.bytes(bytes))
    }

    /// Sets it, from bytes as [`Ethtool::get`] returns.
    pub(crate) fn set(&self, dev: &str, what: Words, from: &[u8]) -> io::Result<()> {
        let (_, set, bytes) = what.command();
        assert!(set != 0 && from.len() == bytes, "what is set is the whole structure");
        let mut room = Room::new(set, bytes);
        room.put(4, &from[4..]);
        self.run(dev, &mut room)
    }

    /// The driver's statistics: `struct ethtool_gstrings` with the names, behind it `struct
    /// ethtool_stats` with the values.
    pub(crate) fn stats(&self, dev: &str) -> io::Result<Vec<u8>> {
        let (mut answer, count) = self.strings(dev, SS_STATS)?;
        let mut room = Room::new(GSTATS, 8 + (count * 2 + STRINGS_SPARE) * 8);
        room.word(1, count);
        self.run(dev, &mut room)?;
        answer.extend(room.bytes(8 + (room.read(1) as usize).min(count) * 8));
        Ok(answer)
    }

    /// The offloads: `struct ethtool_gstrings` with the names, behind it `struct ethtool_gfeatures`.
    pub(crate) fn features(&self, dev: &str) -> io::Result<Vec<u8>> {
        let (mut answer, _) = self.strings(dev, SS_FEATURES)?;
        let bytes = 8 + FEATURE_BLOCKS as usize * 16;
        let mut room = Room::new(GFEATURES, bytes);
        room.word(1, FEATURE_BLOCKS as usize);
        self.run(dev, &mut room)?;
        answer.extend(room.bytes(8 + (room.read(1).min(FEATURE_BLOCKS) as usize) * 16));
        Ok(answer)
    }

    /// Switches offloads: pairs of words for each block of 32, which ones and how.
    pub(crate) fn set_features(&self, dev: &str, blocks: &[(u32, u32)]) -> io::Result<()> {
        let mut room = Room::new(SFEATURES, 8 + blocks.len() * 8);
        room.word(1, blocks.len());
        for (at, (valid, on)) in blocks.iter().enumerate() {
            room.word(2 + 2 * at, *valid as usize);
            room.word(3 + 2 * at, *on as usize);
        }
        self.run(dev, &mut room)
    }

    /// `struct ethtool_rxfh` with the table that spreads flows, without the key, which is a secret.
    pub(crate) fn rxfh(&self, dev: &str) -> io::Result<Vec<u8>> {
        let mut sizes = Room::new(GRSSH, RXFH_BYTES);
        self.run(dev, &mut sizes)?;
        let entries = sizes.read(2) as usize;
        if entries > STRINGS_MAX {
            return Err(io::Error::from_raw_os_error(libc::EBADMSG));
        }
        // The kernel refuses (EINVAL) if the size is not this one any more.
        let mut room = Room::new(GRSSH, RXFH_BYTES + entries * 4);
        room.word(2, entries);
        self.run(dev, &mut room)?;
        Ok(room.bytes(RXFH_BYTES + entries * 4))
    }

    /// Sets the table that spreads flows; an empty one is the driver's own.
    pub(crate) fn set_rxfh(&self, dev: &str, table: &[u32]) -> io::Result<()> {
        let mut room = Room::new(SRSSH, RXFH_BYTES + table.len() * 4);
        room.word(2, table.len());
        for (at, queue) in table.iter().enumerate() {
            room.word(RXFH_BYTES / 4 + at, *queue as usize);
        }
        self.run(dev, &mut room)
    }

    /// Which fields are hashed for a type of flow: the first 16 bytes of `struct ethtool_rxnfc`
    /// (command, type, 64 bits of fields).
    pub(crate) fn hashed(&self, dev: &str, flow: u32) -> io::Result<Vec<u8>> {
        let mut room = Room::new(GRXFH, RXNFC_BYTES);
        room.word(1, flow as usize);
        self.run(dev, &mut room)?;
        Ok(room.bytes(16))
    }

    /// Sets which fields are hashed.
    pub(crate) fn set_hashed(&self, dev: &str, flow: u32, fields: u64) -> io::Result<()> {
        let mut room = Room::new(SRXFH, RXNFC_BYTES);
        room.word(1, flow as usize);
        room.put(8, &fields.to_ne_bytes());
        self.run(dev, &mut room)
    }

    /// The rule that steers flows at this place of the device's table: `struct ethtool_rx_flow_spec`.
    ///
    /// # Errors
    /// `ENOENT` where there is none (some drivers say `EINVAL`).
    pub(crate) fn rule(&self, dev: &str, location: u32) -> io::Result<Vec<u8>> {
        let mut room = Room::new(GRXCLSRULE, RXNFC_BYTES);
        room.put(SPEC_AT + LOCATION_AT, &location.to_ne_bytes());
        self.run(dev, &mut room)?;
        Ok(room.bytes(SPEC_AT + SPEC_BYTES)[SPEC_AT..].to_vec())
    }

    /// Sets a rule, from bytes as [`Ethtool::rule`] returns, which name the place as well.
    pub(crate) fn set_rule(&self, dev: &str, spec: &[u8; SPEC_BYTES]) -> io::Result<()> {
        let mut room = Room::new(SRXCLSRLINS, RXNFC_BYTES);
        room.put(SPEC_AT, spec);
        self.run(dev, &mut room)
    }

    /// Takes the rule at this place away.
    pub(crate) fn delete_rule(&self, dev: &str, location: u32) -> io::Result<()> {
        let mut room = Room::new(SRXCLSRLDEL, RXNFC_BYTES);
        room.put(SPEC_AT + LOCATION_AT, &location.to_ne_bytes());
        self.run(dev, &mut room)
    }

    fn strings(&self, dev: &str, set: u32) -> io::Result<(Vec<u8>, usize)> {
        // struct ethtool_sset_info: command, reserved, mask of 64 bits, a count for each bit.
        let mut info = Room::new(GSSET_INFO, 24);
        info.put(8, &(1u64 << set).to_ne_bytes());
        self.run(dev, &mut info)?;
        let count = info.read(4) as usize;
        // Bit 0 of the answer's mask is away where the driver has no such strings.
        if count == 0 || info.bytes(16)[8..] != (1u64 << set).to_ne_bytes() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        if count > STRINGS_MAX {
            return Err(io::Error::from_raw_os_error(libc::EBADMSG));
        }
        let mut room = Room::new(GSTRINGS, 12 + (count * 2 + STRINGS_SPARE) * STRING_BYTES);
        room.word(1, set as usize);
        room.word(2, count);
        self.run(dev, &mut room)?;
        let count = (room.read(2) as usize).min(count);
        Ok((room.bytes(12 + count * STRING_BYTES), count))
    }

    fn run(&self, dev: &str, room: &mut Room) -> io::Result<()> {
        let name = dev.as_bytes();
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        // SAFETY: `ifreq` is plain data, for which all-zero is valid.
        let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in req.ifr_name.iter_mut().zip(name) {
            *to = c_char::from_ne_bytes([*from]);
        }
        req.ifr_ifru.ifru_data = room.0.as_mut_ptr().cast::<c_char>();
        let request = (&raw mut req).cast::<c_void>();
        // SAFETY: the kernel reads `req`, and reads and writes what it points at: for every command
        // in this file the structure that belongs to it, which the room was made for, or as many
        // strings or statistics as the driver has, for which there is more than twice the room. Both
        // outlive the call, and any bytes are valid words.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SIOCETHTOOL as _, request) })
    }
}

/// Memory that the kernel reads and writes, aligned for 64 bits.
struct Room(Vec<u64>);

impl Room {
    fn new(command: u32, bytes: usize) -> Room {
        let mut room = Room(vec![0; bytes.div_ceil(8)]);
        room.put(0, &command.to_ne_bytes());
        room
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let mut word = self.0[at / 8].to_ne_bytes();
            word[at % 8] = *byte;
            self.0[at / 8] = u64::from_ne_bytes(word);
        }
    }

    // The 32-bit word of this number; counts and sizes are words.
    fn word(&mut self, number: usize, value: usize) {
        let value = u32::try_from(value).expect("counts are bounded far below 2^32");
        self.put(number * 4, &value.to_ne_bytes());
    }

    fn read(&self, number: usize) -> u32 {
        let word = self.0[number / 2].to_ne_bytes();
        let [a, b, c, d, e, f, g, h] = word;
        u32::from_ne_bytes(if number.is_multiple_of(2) { [a, b, c, d] } else { [e, f, g, h] })
    }

    fn bytes(&self, len: usize) -> Vec<u8> {
        self.0.iter().flat_map(|w| w.to_ne_bytes()).take(len).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_words_and_bytes() {
        let mut room = Room::new(7, 20);
        room.word(1, 9);
        room.put(8, &0x0102_0304_0506_0708u64.to_ne_bytes());
        assert_eq!((room.read(0), room.read(1)), (7, 9));
        assert_eq!(room.bytes(16)[8..], 0x0102_0304_0506_0708u64.to_ne_bytes());
        assert_eq!(room.bytes(20).len(), 20);
    }

    #[test]
    fn names_that_no_device_can_have_do_not_reach_the_kernel() {
        let ethtool = Ethtool::open().unwrap();
        for bad in ["", "a23456789012345x", "a\0b"] {
            let err = ethtool.get(bad, Words::Drvinfo).unwrap_err();
            assert_eq!(err.raw_os_error(), Some(libc::ENODEV), "{bad:?}");
        }
    }
}
