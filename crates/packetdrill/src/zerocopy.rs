//! Which zero-copy sends are complete (MSG_ZEROCOPY; Linux: Documentation/networking/msg_zerocopy.rst).

use std::collections::VecDeque;

/// Sends that asked for a completion, and completions that nobody has read.
#[derive(Default)]
pub(crate) struct Zerocopy {
    /// SO_ZEROCOPY.
    pub on: bool,
    /// Bytes that were ever queued on the connection.
    pub queued: u64,
    next: u32,
    /// Number of the send, and where its last byte lies in the stream.
    pending: VecDeque<(u32, u64)>,
    /// Ranges of numbers that are complete: first, last.
    done: VecDeque<(u32, u32)>,
}

impl Zerocopy {
    /// A send with MSG_ZEROCOPY has queued its bytes.
    pub fn sent(&mut self) {
        self.pending.push_back((self.next, self.queued));
        self.next = self.next.wrapping_add(1);
    }
    /// The peer has everything up to here. True if that completes a send.
    pub fn acked(&mut self, upto: u64) -> bool {
        let mut new = false;
        while let Some((number, end)) = self.pending.front().copied()
            && end <= upto
        {
            self.pending.pop_front();
            new = true;
            match self.done.back_mut() {
                Some((_, last)) if last.wrapping_add(1) == number => *last = number,
                _ => self.done.push_back((number, number)),
            }
        }
        new
    }
    /// Whether a completion can be read.
    pub fn ready(&self) -> bool {
        !self.done.is_empty()
    }
    /// The next completion: a `struct sock_extended_err`. The bytes were copied, and that is said.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let (first, last) = self.done.pop_front()?;
        let mut err = Vec::with_capacity(16);
        err.extend(0_u32.to_ne_bytes());
        err.extend([SO_EE_ORIGIN_ZEROCOPY, 0, SO_EE_CODE_ZEROCOPY_COPIED, 0]);
        err.extend(first.to_ne_bytes());
        err.extend(last.to_ne_bytes());
        Some(err)
    }
}

/// Numbers of the kernel that libc does not have.
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_that_follow_each_other_are_one() {
        let mut zerocopy = Zerocopy::default();
        for end in [4000, 8000, 12000] {
            zerocopy.queued = end;
            zerocopy.sent();
        }
        assert!(!zerocopy.acked(3999) && !zerocopy.ready());
        assert!(zerocopy.acked(4000) && zerocopy.acked(9000));
        let err = zerocopy.take().expect("two sends are complete");
        assert_eq!(err[4..8], [5, 0, 1, 0]);
        assert_eq!(err[8..], [0, 0, 0, 0, 1, 0, 0, 0].map(|b: u8| b));
        assert!(zerocopy.take().is_none());
        assert!(zerocopy.acked(12000));
        assert_eq!(zerocopy.take().expect("the third")[12..], 2_u32.to_ne_bytes());
    }
}
