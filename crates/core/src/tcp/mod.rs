//! TCP (RFC 9293).

pub mod api;
pub mod icmp;
pub mod info;
pub mod input;

pub use api::{Connect, HeldSyn, KeepAlive, Listen, Refuse, RxState, TcpOpt};
pub use icmp::{ErrKind, TcpQuote};
pub use info::{SockRow, SockStat, TcpInfo};

use crate::rand::Rng;
use crate::shard::Shard;
use crate::time::Instant;

/// The state of a connection, with Linux's numbers (`TCP_ESTABLISHED`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Both directions are open.
    Established = 1,
    /// Our SYN is out.
    SynSent = 2,
    /// Both SYNs are out, ours is not acknowledged.
    SynRecv = 3,
    /// Our FIN is out.
    FinWait1 = 4,
    /// Our FIN is acknowledged.
    FinWait2 = 5,
    /// Both FINs are acknowledged; old segments may still be under way.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// The peer's FIN has come.
    CloseWait = 8,
    /// The peer's FIN has come, ours is out.
    LastAck = 9,
    /// Waiting for connections.
    Listen = 10,
    /// Both FINs crossed.
    Closing = 11,
}

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
