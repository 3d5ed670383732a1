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

fn run(name: &str, mut value: Value) -> io::Result<Value> {
    let fd = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut req = ifreq::with_name(name)?;
    req.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads the ifreq and reads and writes the `ethtool_value` it points at;
    // for the six command pairs above the kernel touches exactly those 8 bytes, and both live on
    // this stack until the call returns.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut req) })?;
    Ok(value)
}
