//! TCP.
pub mod input;
use crate::rand::Rng;
use crate::shard::Shard;
use crate::time::Instant;
/// TCP sockets.
pub struct Sockets;
impl Sockets {
    /// None.
    pub fn new(_rng: &mut Rng) -> Sockets {
        Sockets
    }
    /// When something is due.
    pub fn next_timer(&self) -> Option<Instant> {
        None
    }
}
impl Shard {
    /// Serves connections that have something to send.
    pub(crate) fn tcp_push_pending(&mut self) {}
    /// Serves timers that are due.
    pub(crate) fn tcp_timers(&mut self) {}
}
