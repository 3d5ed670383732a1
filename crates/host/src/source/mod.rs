//! Where bytes come from.
//!
//! A name is a path from the root, without the first slash: `proc/net/snmp`. What is no file has a
//! name as well, so that it is recorded and replayed the same way:
//!
//! - `netlink/route/RTM_GETLINK`, `netlink/route/RTM_GETQDISC`, `netlink/route/RTM_GETNEIGH`,
//!   `netlink/route/RTM_GETROUTE`: all messages of the answer to a dump, one behind the other;
//! - `netlink/sock_diag/{tcp,tcp6,udp,udp6,packet,xdp}`: likewise;
//! - `netlink/ethtool/{RINGS_GET,CHANNELS_GET,COALESCE_GET,...}`, `netlink/netdev/{dev-get,...}`;
//! - `ioctl/ethtool/{stats,rxfh,rxclass,drvinfo}/DEV`;
//! - `tracefs/kfree_skb`: drops so far, as lines `REASON@function count`.

use std::io;

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

    /// Whether this is the host that we run on, so that what was read can be changed as well.
    fn is_live(&self) -> bool {
        false
    }
}
