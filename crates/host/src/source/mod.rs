//! Where bytes come from.
//!
//! A name is a path from the root, without the first slash: `proc/net/snmp`. What is no file has a
//! name as well, so that it is recorded and replayed the same way:
//!
//! - `netlink/route/RTM_GETLINK`, `netlink/route/RTM_GETQDISC`, `netlink/route/RTM_GETNEIGH`,
//!   `netlink/route/RTM_GETROUTE`: all messages of the answer to a dump, one behind the other;
//! - `netlink/route/RTM_GETTCLASS`, `netlink/route/RTM_GETTFILTER`: those of each device that has some;
//! - `netlink/ctnetlink/{stats-cpu,stats}`: likewise;
//! - `netlink/sock_diag/{tcp,tcp6,udp,udp6,packet,xdp}`: likewise;
//! - `netlink/ethtool/{RINGS_GET,CHANNELS_GET,COALESCE_GET,...}`, `netlink/netdev/{dev-get,...}`;
//! - `ioctl/ethtool/{stats,rxfh,rxclass,drvinfo}/DEV`;
//! - `tracefs/kfree_skb`: drops so far, as lines `REASON@function count`;
//! - `bpf/probes`: how long things took, as histograms ([`crate::bpf`]); only if it is asked for;
//! - `clock` ([`CLOCK`]): when this is, as lines of a name and a number;
//! - `netns` ([`NETNS`]): the inode of the network namespace that all of this is of.

mod dir;
mod live;

use std::io;
use std::path::Path;

pub use dir::Dir;
pub use live::Live;

/// The name of the clock: `monotonic_ns`, `wall_ns` (since 1970, UTC) and `tick_ns`, the length of a
/// tick of the kernel (1/HZ).
pub const CLOCK: &str = "clock";

/// The name of the network namespace.
pub const NETNS: &str = "netns";

/// The most that one file may hold, in bytes. `/proc/interrupts` of a thousand processors and as many
/// interrupts has about 12 MB.
pub(crate) const FILE_MAX: usize = 32 << 20;

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {} MiB", FILE_MAX >> 20))
}

/// The names in a directory, sorted.
fn names_in(path: &Path) -> io::Result<Vec<String>> {
    const NAMES_MAX: usize = 1 << 17;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)?.take(NAMES_MAX) {
        // A name that is no text is nobody's that we look for.
        names.extend(entry?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// Maps names to bytes.
pub trait Source {
    /// The whole of a file or message.
    ///
    /// # Errors
    /// `NotFound` if it does not exist, `PermissionDenied` if a right is missing; others as they come.
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn list(&mut self, dir: &str) -> io::Result<Vec<String>>;

    /// Where the bytes of `name` are really from, with the line, if that is another file.
    fn origin(&self, _name: &str) -> Option<String> {
        None
    }

    /// Whether this is the host that we run on, so that what was read can be changed as well.
    fn is_live(&self) -> bool {
        false
    }
}
