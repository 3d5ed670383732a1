//! What the kernel loses on the way to a device of ours, by the counts of the interface that it
//! sends on.

use super::{Netdev, NetdevError};

/// Counts what an interface dropped instead of sending it: what we read is the other end of it (the
/// ring of a TUN, the far end of a veth pair), so for us these packets are lost before the ring.
///
/// Linux: `tx_dropped` of `tun_net_xmit` in drivers/net/tun.c and of `veth_xmit` in
/// drivers/net/veth.c.
#[derive(Debug)]
pub struct Losses {
    netdev: Netdev,
    index: u32,
    /// The kernel's count when we began: what was dropped while the interface was set up is not
    /// a loss of traffic.
    before: u64,
    lost: u64,
    gone: bool,
}

impl Losses {
    /// Begins to count, for the interface `index` in the namespace of `netdev`.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn new(mut netdev: Netdev, index: u32) -> Result<Losses, NetdevError> {
        let before = netdev.link_stats(index)?.tx_dropped;
        Ok(Losses { netdev, index, before, lost: 0, gone: false })
    }

    /// Asks the kernel, by a system call, and returns the packets lost since [`Losses::new`]. When
    /// the interface is gone the count stays as it was last.
    pub fn read(&mut self) -> u64 {
        if self.gone {
            return self.lost;
        }
        match self.netdev.link_stats(self.index) {
            // Never backwards: whoever reads takes differences.
            Ok(stats) => {
                self.lost = self.lost.max(stats.tx_dropped.saturating_sub(self.before));
            }
            Err(_) => self.gone = true,
        }
        self.lost
    }
}
