//! Bursts of devices that take and give one packet a system call; and, for all devices of the kernel's,
//! how often a packet is tried.

use crate::device::{Counts, RxCx};
use linerate_core::pkt::{Batch, Pkt};
use linerate_core::table::Reason;
use std::collections::VecDeque;
use std::io;

/// A device that moves one packet at a time.
pub(crate) trait OneByOne {
    /// Takes a packet, with the reason if it is wrong; `None` if none waits or memory lacks.
    fn read(&mut self, cx: &mut RxCx<'_>) -> io::Result<Option<(Pkt, Option<Reason>)>>;
    /// Gives a packet to the device.
    fn write(&mut self, pkt: &Pkt) -> io::Result<usize>;
    /// Whether this error of a write means that the device is gone for good.
    fn is_gone(err: &io::Error) -> bool;
    /// The device's counts.
    fn counts_mut(&mut self) -> &mut Counts;
    /// How often the packet whose turn it is was tried.
    fn tries_mut(&mut self) -> &mut Tries;
}

/// Times that a packet is tried for which the kernel says that it has no memory.
pub(crate) const TRIES_MAX: u32 = 8;

/// How often the packet at the front of a ring found no memory (`ENOBUFS`, `ENOMEM`).
///
/// That may pass, so a packet is tried again. But the kernel says the same of a packet that the interface
/// below dropped (`net_xmit_errno`), as a veth does with one that is longer than its peer takes, or
/// whose peer is down. After [`TRIES_MAX`] tries the packet is lost; after that each is tried once, until
/// one goes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tries(u32);

impl Tries {
    /// A packet went.
    #[inline]
    pub fn went(&mut self) {
        self.0 = 0;
    }

    /// Whether the packet at the front, which was not taken for this reason, may go later.
    pub fn again(&mut self, err: &io::Error) -> bool {
        match err.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => true,
            Some(libc::ENOBUFS | libc::ENOMEM) => {
                self.0 = (self.0 + 1).min(TRIES_MAX);
                self.0 < TRIES_MAX
            }
            _ => false,
        }
    }

    /// Whether this error is about the packet at the front alone: those behind it may go.
    pub fn is_of_one(err: &io::Error) -> bool {
        matches!(err.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
    }
}

/// [`Device::rx_burst`](crate::Device::rx_burst), packet by packet.
pub(crate) fn rx_burst(
    dev: &mut impl OneByOne,
    cx: &mut RxCx<'_>,
    out: &mut Batch,
    budget: usize,
) -> io::Result<usize> {
    for taken in 0..budget {
        match dev.read(cx) {
            Ok(Some((pkt, None))) => out.push(pkt),
            Ok(Some((pkt, Some(reason)))) => cx.dropped.push((pkt, reason)),
            Ok(None) => return Ok(taken),
            // What came before the error is delivered first. A TUN reports the error again; a
            // packet socket forgets it, and poll says what state it is in.
            Err(_) if taken > 0 => return Ok(taken),
            Err(err) => return Err(err),
        }
    }
    Ok(budget)
}

/// [`Device::tx_burst`](crate::Device::tx_burst), packet by packet.
pub(crate) fn tx_burst<D: OneByOne>(
    dev: &mut D,
    ring: &mut VecDeque<Pkt>,
    done: &mut Vec<(Pkt, bool)>,
) -> io::Result<usize> {
    let mut left = 0;
    while let Some(pkt) = ring.front() {
        let sent = match dev.write(pkt) {
            Ok(_) => {
                dev.tries_mut().went();
                true
            }
            Err(err) if dev.tries_mut().again(&err) => {
                dev.counts_mut().tx_busy += 1;
                break;
            }
            Err(err) if D::is_gone(&err) => return Err(err),
            Err(err) => {
                let counts = dev.counts_mut();
                counts.tx_refused += 1;
                counts.tx_errno = err.raw_os_error().unwrap_or(0);
                false
            }
        };
        done.extend(ring.pop_front().map(|pkt| (pkt, sent)));
        left += 1;
    }
    Ok(left)
}

#[cfg(test)]
mod tests;
