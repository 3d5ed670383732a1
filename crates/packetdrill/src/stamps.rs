//! When what was written left, and when it was acknowledged (SO_TIMESTAMPING; Linux:
//! Documentation/networking/timestamping.rst, net/core/skbuff.c `__skb_tstamp_tx`).

use std::collections::VecDeque;

use linerate_core::time::Instant;

use crate::Errno;
use crate::data::Got;

/// What SO_TIMESTAMPING asks for (`SOF_TIMESTAMPING_*`).
const TX_SOFTWARE: u32 = 1 << 1;
const SOFTWARE: u32 = 1 << 4;
const OPT_ID: u32 = 1 << 7;
const TX_SCHED: u32 = 1 << 8;
const TX_ACK: u32 = 1 << 9;
const OPT_TSONLY: u32 = 1 << 11;
const OPT_ID_TCP: u32 = 1 << 16;
/// All bits that Linux 6.18 knows.
const MASK: u32 = (1 << 19) - 1;

/// What a stamp is of (`SCM_TSTAMP_*`).
const SND: u32 = 0;
const SCHED: u32 = 1;
const ACK: u32 = 2;

/// `SO_EE_ORIGIN_TIMESTAMPING`.
const ORIGIN: u8 = 4;
/// `SCM_TIMESTAMPING`, which is SO_TIMESTAMPING's number.
const SCM_TIMESTAMPING: i32 = 37;

/// Writes whose stamps are asked for, and stamps that nobody has read.
#[derive(Default)]
pub(crate) struct Stamps {
    flags: u32,
    /// Bytes that were ever queued on the connection.
    pub queued: u64,
    /// Keys count from here (`sk_tskey`).
    base: u64,
    /// Where a write ends in the stream, what was asked for, and whether it has left.
    pending: VecDeque<(u64, u32, bool)>,
    done: VecDeque<Stamp>,
}

/// A stamp: what of, of which byte, when.
struct Stamp {
    kind: u32,
    key: u32,
    at: Instant,
}

impl Stamps {
    /// `setsockopt(SO_TIMESTAMPING)`; `acked`: bytes that the peer has, `None` if it is not connected.
    ///
    /// # Errors
    /// EINVAL for bits that do not exist, and for keys of what is not connected.
    pub fn set(&mut self, flags: u32, acked: Option<u64>) -> Result<(), Errno> {
        if flags & !MASK != 0 || flags & OPT_ID_TCP != 0 && flags & OPT_ID == 0 {
            return Err(libc::EINVAL);
        }
        if flags & OPT_ID != 0 && self.flags & OPT_ID == 0 {
            let acked = acked.ok_or(libc::EINVAL)?;
            self.base = if flags & OPT_ID_TCP != 0 { self.queued } else { acked };
        }
        self.flags = flags;
        Ok(())
    }
    /// What was asked for.
    pub fn flags(&self) -> u32 {
        self.flags
    }
    /// A write has queued `n` bytes; `last`: all that it was called with.
    pub fn wrote(&mut self, n: usize, last: bool) {
        self.queued += n as u64;
        if last && n > 0 && self.flags & (TX_SOFTWARE | TX_SCHED | TX_ACK) != 0 {
            self.pending.push_back((self.queued, self.flags, false));
        }
    }
    /// Of what was queued so much was not sent, and so much not acknowledged, at that time. True if
    /// that gives a stamp.
    pub fn note(&mut self, unsent: u64, unacked: u64, at: Instant) -> bool {
        let before = self.done.len();
        let base = self.base;
        for (end, flags, left) in &mut self.pending {
            let key = if *flags & OPT_ID != 0 { (*end - 1).wrapping_sub(base) as u32 } else { 0 };
            let mut stamp = |on: u32, kind: u32| {
                if *flags & on != 0 {
                    self.done.push_back(Stamp { kind, key, at });
                }
            };
            if !*left && *end <= self.queued.saturating_sub(unsent) {
                *left = true;
                stamp(TX_SCHED, SCHED);
                stamp(TX_SOFTWARE, SND);
            }
            if *end <= self.queued.saturating_sub(unacked) {
                stamp(TX_ACK, ACK);
            }
        }
        while self.pending.front().is_some_and(|(end, ..)| *end + unacked <= self.queued) {
            self.pending.pop_front();
        }
        self.done.len() > before
    }
    /// Whether a stamp can be read.
    pub fn ready(&self) -> bool {
        !self.done.is_empty()
    }
    /// The next stamp as a message of the error queue; `recverr`: level and type of what describes it.
    pub fn take(&mut self, recverr: (i32, i32), epoch_us: u64) -> Option<Got> {
        let stamp = self.done.pop_front()?;
        let mut control = Vec::new();
        if self.flags & SOFTWARE != 0 {
            let us = epoch_us + stamp.at.ns() / 1000;
            // Three times, of which the first is the software's.
            let times = [(us / 1_000_000) as i64, (us % 1_000_000 * 1000) as i64, 0, 0, 0, 0];
            let times = times.iter().flat_map(|word| word.to_ne_bytes()).collect();
            control.push((libc::SOL_SOCKET, SCM_TIMESTAMPING, times));
        }
        let mut err = Vec::with_capacity(32);
        err.extend((libc::ENOMSG as u32).to_ne_bytes());
        err.extend([ORIGIN, 0, 0, 0]);
        err.extend(stamp.kind.to_ne_bytes());
        err.extend(stamp.key.to_ne_bytes());
        err.extend(crate::addr::none(recverr.0));
        control.push((recverr.0, recverr.1, err));
        // The kernel has the packet's bytes here as well, unless asked for the stamp alone.
        let cut = if self.flags & OPT_TSONLY != 0 { 0 } else { libc::MSG_TRUNC };
        Some(Got { len: 0, flags: libc::MSG_ERRQUEUE | cut, control })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_stamped_when_its_last_byte_leaves_and_arrives() {
        let mut stamps = Stamps::default();
        let all = TX_SCHED | TX_SOFTWARE | TX_ACK | SOFTWARE | OPT_ID;
        assert_eq!(stamps.set(1 << 19, Some(0)), Err(libc::EINVAL));
        assert_eq!(
            stamps.set(all, None),
            Err(libc::EINVAL),
            "keys count from what is acknowledged"
        );
        assert_eq!(stamps.set(all, Some(0)), Ok(()));
        stamps.wrote(1000, false);
        stamps.wrote(1000, true);
        let at = |ms: u64| Instant::from_ns(ms * 1_000_000);
        assert!(!stamps.note(1000, 2000, at(1)), "half of it has left");
        assert!(stamps.note(0, 2000, at(2)) && !stamps.note(0, 1, at(3)));
        assert!(stamps.note(0, 0, at(4)) && !stamps.note(0, 0, at(5)));
        let mut told = Vec::new();
        while let Some(got) = stamps.take((libc::SOL_IP, libc::IP_RECVERR), 0) {
            let word = |at: usize| {
                u32::from_ne_bytes(*got.control[1].2[at..].first_chunk().expect("a word"))
            };
            let ns = i64::from_ne_bytes(*got.control[0].2[8..].first_chunk().expect("a time"));
            told.push((word(8), word(12), ns));
        }
        assert_eq!(
            told,
            [(SCHED, 1999, 2_000_000), (SND, 1999, 2_000_000), (ACK, 1999, 4_000_000)]
        );
    }
}
