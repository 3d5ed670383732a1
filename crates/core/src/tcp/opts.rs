//! Options of a connection.
//!
//! Linux: net/ipv4/tcp.c `do_tcp_setsockopt`; net/core/sock.c `sk_setsockopt`

use super::api::owned;
use super::cc::Cc;
use super::{Earlier, Tcb};
use crate::shard::Shard;
use crate::sock::SocketId;
use crate::sock::error::TcpError;
use crate::table::knob::CcName;
use crate::time::SEC;

/// When keepalive probes are sent (SO_KEEPALIVE, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Seconds of silence before the first probe.
    pub time_s: u32,
    /// Seconds between probes.
    pub intvl_s: u32,
    /// Unanswered probes after which the connection is given up.
    pub probes: u32,
}

/// An option of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpOpt {
    /// Small segments are sent at once (TCP_NODELAY).
    NoDelay(bool),
    /// Only full segments are sent until this is cleared (TCP_CORK).
    Cork(bool),
    /// Segments are acknowledged at once for a while (TCP_QUICKACK).
    QuickAck(bool),
    /// Whether the peer is probed when it is silent; [`Shard::tcp_keepalive`] gives the knobs' times.
    KeepAlive(Option<KeepAlive>),
    /// Bytes of receive buffer, at most `net.core.rmem_max`, and doubled, as Linux does for its
    /// bookkeeping; it grows no more by itself (SO_RCVBUF).
    RcvBuf(usize),
    /// Bytes of receive buffer, true size, whatever `net.core.rmem_max` says; it grows no more by
    /// itself (SO_RCVBUFFORCE).
    RcvBufForce(usize),
    /// Bytes of send buffer, at most `net.core.wmem_max`, and doubled; it grows no more by itself
    /// (SO_SNDBUF).
    SndBuf(usize),
    /// Bytes of send buffer, whatever `net.core.wmem_max` says; it grows no more by itself
    /// (SO_SNDBUFFORCE).
    SndBufForce(usize),
    /// Congestion control (TCP_CONGESTION).
    Congestion(CcName),
    /// Milliseconds that sent data may stay unacknowledged; 0 = as `tcp_retries2` says
    /// (TCP_USER_TIMEOUT).
    UserTimeout(u32),
    /// Type of service, or traffic class, of what is sent (IP_TOS).
    Tos(u8),
    /// How long a reader that found nothing looks at the devices before it gives up, in
    /// microseconds; `None` = as `net.core.busy_read` says (SO_BUSY_POLL).
    BusyPoll(Option<u32>),
    /// The number that the application gave the socket.
    User(u64),
}

impl Shard {
    /// Sets an option.
    ///
    /// # Errors
    /// `NotConnected` if there is no such connection.
    pub fn tcp_set(&mut self, id: SocketId, opt: TcpOpt) -> Result<(), TcpError> {
        let Shard { net, tcp, .. } = self;
        let tp = owned(&mut tcp.conns, id).ok_or(TcpError::NotConnected)?;
        match opt {
            TcpOpt::NoDelay(on) => {
                tp.nodelay = on;
                tp.push |= on && tp.unsent();
            }
            TcpOpt::Cork(on) => {
                tp.cork = on;
                tp.push |= !on && tp.unsent();
            }
            TcpOpt::QuickAck(on) => {
                tp.pingpong = !on;
                tp.quick = if on { 16 } else { 0 };
                tp.ack_now |= on && tp.ack_scheduled;
            }
            TcpOpt::KeepAlive(keep) => {
                tp.keepalive = keep;
                if let (Some(keep), true) = (keep, tp.state.synchronized()) {
                    tp.keep_at = tp.keep_at.min2(net.now.plus(keep.time_s as u64 * SEC));
                }
            }
            TcpOpt::RcvBuf(bytes) => tp.set_rcvbuf(net.asked_rcvbuf(bytes)),
            TcpOpt::RcvBufForce(bytes) => tp.set_rcvbuf(bytes),
            TcpOpt::SndBuf(bytes) => tp.set_sndbuf(net.asked_sndbuf(bytes)),
            TcpOpt::SndBufForce(bytes) => tp.set_sndbuf(bytes),
            TcpOpt::Congestion(name) => tp.cc = Cc::new(name),
            TcpOpt::UserTimeout(ms) => tp.user_timeout_ms = ms,
            TcpOpt::Tos(tos) => tp.tos = tos,
            TcpOpt::BusyPoll(us) => tp.busy_poll = us,
            TcpOpt::User(user) => {
                tp.user = user;
                if tp.pending.0 != 0 {
                    // An event under the old number may be under way.
                    let pending = std::mem::take(&mut tp.pending);
                    tp.raise(net, pending);
                }
            }
        }
        self.tcp_settle(id.index);
        Ok(())
    }
    /// The keepalive times that the knobs give.
    pub fn tcp_keepalive(&self) -> KeepAlive {
        let knobs = &self.net.knobs;
        KeepAlive {
            time_s: knobs.tcp_keepalive_time as u32,
            intvl_s: knobs.tcp_keepalive_intvl as u32,
            probes: knobs.tcp_keepalive_probes as u32,
        }
    }
}

impl Tcb {
    fn set_rcvbuf(&mut self, bytes: usize) {
        self.rcvbuf = bytes.clamp(2304, 1 << 30) as u32;
        self.rcvbuf_locked = true;
        self.window_clamp = self.rcvq.win_from_space(self.rcvbuf);
    }
    fn set_sndbuf(&mut self, bytes: usize) {
        self.sndbuf = bytes.clamp(4608, 1 << 30) as u32;
        self.sndbuf_locked = true;
    }
}
