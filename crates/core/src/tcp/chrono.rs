//! What a connection's time went by while it had something to send.
//!
//! Linux: net/ipv4/tcp_output.c `tcp_chrono_start`, `tcp_chrono_stop`

use crate::time::Instant;

/// What holds a connection's sending back now (Linux: `enum tcp_chrono`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Held {
    /// Nothing that the network does not: it sends, or waits for acknowledgements.
    Busy = 0,
    /// The peer's window.
    Rwnd = 1,
    /// Too small a send buffer.
    Sndbuf = 2,
    /// There is nothing to send.
    Idle = 3,
}

/// How long each of them lasted, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chrono {
    now: Held,
    since_ms: u32,
    ms: [u32; 3],
}

impl Default for Chrono {
    fn default() -> Chrono {
        Chrono { now: Held::Idle, since_ms: 0, ms: [0; 3] }
    }
}

impl Chrono {
    /// From `now` on it is this.
    #[inline]
    pub fn set(&mut self, held: Held, now: Instant) {
        if held != self.now {
            self.turn(held, now.ms() as u32);
        }
    }
    fn turn(&mut self, held: Held, now_ms: u32) {
        if let Some(sum) = self.ms.get_mut(self.now as usize) {
            *sum = sum.wrapping_add(now_ms.wrapping_sub(self.since_ms));
        }
        (self.now, self.since_ms) = (held, now_ms);
    }
    /// Microseconds of being busy, held back by the peer's window, and by the send buffer.
    pub fn read(mut self, now: Instant) -> [u64; 3] {
        self.turn(Held::Idle, now.ms() as u32);
        self.ms.map(|ms| u64::from(ms) * 1000)
    }
    /// The clock moves by so many milliseconds.
    pub fn retime(&mut self, shift_ms: i64) {
        self.since_ms = self.since_ms.wrapping_add(shift_ms as u32);
    }
}
