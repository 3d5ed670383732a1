//! `SIOCETHTOOL`: the one-value commands that switch a feature of an interface.

use super::{check, ifreq};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::os::fd::AsRawFd;

/// A feature with an `ethtool_value` command pair. Names are `ethtool -K`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// `rx`: receive checksums.
    Rx,
    /// `tx`: transmit checksums; off also turns scatter-gather and TSO off.
    Tx,
    /// `sg`: scatter-gather.
    Sg,
    /// `tso`: TCP segmentation.
    Tso,
    /// `gso`: segmentation put off to the last moment.
    Gso,
    /// `gro`: generic receive offload.
    Gro,
}

impl Feature {
    /// The get and set commands of include/uapi/linux/ethtool.h.
    fn commands(self) -> (u32, u32) {
        match self {
            Feature::Rx => (0x14, 0x15),
            Feature::Tx => (0x16, 0x17),
            Feature::Sg => (0x18, 0x19),
            Feature::Tso => (0x1e, 0x1f),
            Feature::Gso => (0x23, 0x24),
            Feature::Gro => (0x2b, 0x2c),
        }
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// Whether `feature` is on for the interface `name`.
///
/// # Errors
/// `ENODEV` for an unknown name, `EOPNOTSUPP` where the driver has no such feature.
pub fn get(name: &str, feature: Feature) -> io::Result<bool> {
    Ok(run(name, Value { cmd: feature.commands().0, data: 0 })?.data != 0)
}

/// Switches `feature` for the interface `name`.
///
/// # Errors
/// As [`get`], and `EPERM` without `CAP_NET_ADMIN`.
pub fn set(name: &str, feature: Feature, on: bool) -> io::Result<()> {
    run(name, Value { cmd: feature.commands().1, data: u32::from(on) }).map(drop)
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct Drvinfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// The name of the interface's driver (`ethtool -i`).
///
/// # Errors
/// `ENODEV` for an unknown name, `EOPNOTSUPP` where the driver does not say.
pub fn driver(name: &str) -> io::Result<String> {
    let mut info = Drvinfo { cmd: GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ioctl(name, &mut info)?;
    let end = info.driver.iter().position(|&b| b == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

const GDRVINFO: u32 = 0x03;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct RawChannels {
    cmd: u32,
    max: [u32; 4],
    now: [u32; 4],
}

const GCHANNELS: u32 = 0x3c;

/// The queues of an interface (`ethtool -l`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Queues that only receive, those for both directions among them.
    pub rx: u32,
    /// Queues that only send, likewise.
    pub tx: u32,
    /// The most there may be of the former.
    pub rx_max: u32,
    /// The most there may be of the latter.
    pub tx_max: u32,
}

/// How many queues the interface has.
///
/// # Errors
/// `ENODEV` for an unknown name, `EOPNOTSUPP` where the driver does not say.
pub fn channels(name: &str) -> io::Result<Channels> {
    let mut raw = RawChannels { cmd: GCHANNELS, ..RawChannels::default() };
    ioctl(name, &mut raw)?;
    let sum = |[rx, tx, _, both]: [u32; 4]| (rx.saturating_add(both), tx.saturating_add(both));
    let ((rx, tx), (rx_max, tx_max)) = (sum(raw.now), sum(raw.max));
    Ok(Channels { rx, tx, rx_max, tx_max })
}

fn run(name: &str, mut value: Value) -> io::Result<Value> {
    ioctl(name, &mut value)?;
    Ok(value)
}

/// What SIOCETHTOOL may be given: plain data whose first word is a command for that very data.
trait Command {}
impl Command for Value {}
impl Command for Drvinfo {}
impl Command for RawChannels {}

fn ioctl(name: &str, value: &mut impl Command) -> io::Result<()> {
    let fd = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut req = ifreq::with_name(name)?;
    req.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
    // SAFETY: SIOCETHTOOL reads the ifreq and reads and writes what it points at; for the commands
    // above the kernel touches exactly the structure that goes with each, for which every bit
    // pattern is valid, and both outlive the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut req) })?;
    Ok(())
}

const _: () = assert!(size_of::<Drvinfo>() == 196 && size_of::<RawChannels>() == 36);
