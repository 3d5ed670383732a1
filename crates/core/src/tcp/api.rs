//! TCP as the application sees it: listen, connect, receive, send, close.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use super::info::{SockRow, SockStat, TcpInfo};
use crate::pkt::SendChunk;
use crate::shard::Shard;
use crate::sock::error::{BindError, TcpError};
use crate::sock::{Ready, SocketId};
use crate::table::knob::CcName;

/// How a listener is to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listen {
    /// The address; `None` = all, of both families.
    pub addr: Option<IpAddr>,
    /// The port; 0 = one that is free, unless `any_port`.
    pub port: u16,
    /// Takes every port that no other listener has.
    pub any_port: bool,
    /// Connections that may wait to be accepted; bounded by `net.core.somaxconn`.
    pub backlog: u32,
    /// A SYN waits for [`Shard::syn_accept`] or [`Shard::syn_refuse`] before it is answered.
    pub hold_syn: bool,
    /// Bytes of receive buffer of its connections; 0 = `net.ipv4.tcp_rmem[1]`, growing.
    pub rcvbuf: usize,
    /// A number of the application's own, told with each event.
    pub user: u64,
}

/// How a connection is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    /// Where it comes from; `None`, or port 0 = chosen.
    pub local: Option<SocketAddr>,
    /// Where it goes.
    pub remote: SocketAddr,
    /// A number of the application's own, told with each event.
    pub user: u64,
}

/// A SYN that waits for a judgement.
#[derive(Clone, Copy, Debug)]
pub struct HeldSyn {
    /// Its name, of kind `Syn`.
    pub id: SocketId,
    /// Where it wants to go.
    pub local: SocketAddr,
    /// Who sent it.
    pub remote: SocketAddr,
    /// Type of service, or traffic class.
    pub tos: u8,
}

/// How a held SYN is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuse {
    /// By a reset: nobody listens there.
    Reset,
    /// By an ICMP destination-unreachable that quotes the SYN, with this code of RFC 792
    /// (translated for IPv6).
    Unreachable {
        /// 0 network, 1 host, 3 port, 13 prohibited, …
        code: u8,
    },
    /// Not at all.
    Silent,
}

/// What can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxState {
    /// Bytes in order.
    pub bytes: usize,
    /// Whether the peer's FIN follows them.
    pub fin: bool,
}

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
    /// Bytes of receive buffer, true size; it grows no more by itself (SO_RCVBUFFORCE).
    RcvBuf(usize),
    /// Bytes of send buffer; it grows no more by itself (SO_SNDBUFFORCE).
    SndBuf(usize),
    /// Congestion control (TCP_CONGESTION).
    Congestion(CcName),
    /// Milliseconds that sent data may stay unacknowledged; 0 = as `tcp_retries2` says
    /// (TCP_USER_TIMEOUT).
    UserTimeout(u32),
    /// Type of service, or traffic class, of what is sent (IP_TOS).
    Tos(u8),
    /// The number that the application gave the socket.
    User(u64),
}

impl Shard {
    /// Opens a listener. Events: IN when a connection can be accepted, or a held SYN waits.
    ///
    /// # Errors
    /// [`BindError`]: `AddrInUse`, `NoPort` (EADDRINUSE).
    pub fn tcp_listen(&mut self, listen: Listen) -> Result<SocketId, BindError> {
        let _ = listen;
        Err(BindError::NoPort)
    }
    /// The next established connection of a listener.
    pub fn tcp_accept(&mut self, listener: SocketId) -> Option<SocketId> {
        let _ = listener;
        None
    }
    /// The next SYN that waits for a judgement, on a listener with `hold_syn`.
    pub fn syn_next(&mut self, listener: SocketId) -> Option<HeldSyn> {
        let _ = listener;
        None
    }
    /// Answers a held SYN; the connection can be accepted once the peer has confirmed. False if
    /// the peer has given up meanwhile.
    pub fn syn_accept(&mut self, id: SocketId) -> bool {
        let _ = id;
        false
    }
    /// Refuses a held SYN.
    pub fn syn_refuse(&mut self, id: SocketId, how: Refuse) {
        let _ = (id, how);
    }
    /// Opens a connection. Events: OUT when it is established, ERR when it failed.
    ///
    /// # Errors
    /// [`TcpError`]: `NetUnreachable`, `NoPort`, `InUse`, `TooMany`.
    pub fn tcp_connect(&mut self, connect: Connect) -> Result<SocketId, TcpError> {
        let _ = connect;
        Err(TcpError::NoPort)
    }
    /// Appends to `out` what can be read, in order, without copying; at most `max_bytes`. Returns
    /// how many bytes these are: 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there yet; the connection's own error once all is read.
    pub fn tcp_rx_slices<'a>(
        &'a self,
        id: SocketId,
        max_bytes: usize,
        out: &mut Vec<IoSlice<'a>>,
    ) -> Result<usize, TcpError> {
        let _ = (id, max_bytes, out);
        Err(TcpError::NotConnected)
    }
    /// `n` bytes were read: their packets are freed and the window opens.
    pub fn tcp_consume(&mut self, id: SocketId, n: usize) {
        let _ = (id, n);
    }
    /// Copies what can be read into `buf`. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// As [`Shard::tcp_rx_slices`].
    pub fn tcp_recv(&mut self, id: SocketId, buf: &mut [u8]) -> Result<usize, TcpError> {
        let _ = (id, buf);
        Err(TcpError::NotConnected)
    }
    /// What can be read now.
    ///
    /// # Errors
    /// `NotConnected` if there is no such connection; its own error if it failed.
    pub fn tcp_readable(&self, id: SocketId) -> Result<RxState, TcpError> {
        let _ = id;
        Err(TcpError::NotConnected)
    }
    /// Queues a copy of `data`, or as much of it as there is room for. Returns how much.
    ///
    /// # Errors
    /// `WouldBlock` without room, `Closed` after a shutdown, `NotConnected`, or the connection's own.
    pub fn tcp_send(&mut self, id: SocketId, data: &[u8]) -> Result<usize, TcpError> {
        let _ = (id, data);
        Err(TcpError::NotConnected)
    }
    /// Bytes that may be queued now. When less than a third of the buffer was left, OUT is raised
    /// once a third is free again.
    pub fn tcp_send_space(&self, id: SocketId) -> usize {
        let _ = id;
        0
    }
    /// Queues a whole chunk without copying; the queue may exceed its room by less than this chunk.
    ///
    /// # Errors
    /// As [`Shard::tcp_send`]; the chunk comes back.
    pub fn tcp_send_chunk(
        &mut self,
        id: SocketId,
        chunk: SendChunk,
    ) -> Result<(), (SendChunk, TcpError)> {
        let _ = id;
        Err((chunk, TcpError::NotConnected))
    }
    /// An empty chunk to fill and send, with room for `len` bytes, or for 64 KiB if that is less.
    pub fn take_chunk(&mut self, len: usize) -> SendChunk {
        self.net.pool.alloc_chunk(len)
    }
    /// Gives a chunk back unsent.
    pub fn give_chunk(&mut self, chunk: SendChunk) {
        self.net.pool.free_chunk(chunk);
    }
    /// Bytes queued or sent that the peer has not acknowledged.
    pub fn tcp_queued(&self, id: SocketId) -> usize {
        let _ = id;
        0
    }
    /// Sends a FIN after what is queued; receiving goes on (`shutdown(SHUT_WR)`).
    pub fn tcp_shutdown(&mut self, id: SocketId) {
        let _ = id;
    }
    /// Closes the socket as `close(2)` does: what is queued is still sent; if something was not
    /// read, the peer gets a reset instead. Listeners and held SYNs are closed by this, too.
    pub fn tcp_close(&mut self, id: SocketId) {
        let _ = id;
    }
    /// Resets the connection now, and closes the socket (linger time 0).
    pub fn tcp_abort(&mut self, id: SocketId) {
        let _ = id;
    }
    /// Why the connection failed, if it did.
    pub fn tcp_error(&self, id: SocketId) -> Option<TcpError> {
        let _ = id;
        None
    }
    /// What a connection or a listener became ready for since this was last asked.
    pub fn take_ready(&mut self, id: SocketId) -> Ready {
        let _ = id;
        Ready::default()
    }
    /// A reading of the connection's state (TCP_INFO).
    pub fn tcp_info(&self, id: SocketId) -> Option<TcpInfo> {
        let _ = id;
        None
    }
    /// Sets an option.
    ///
    /// # Errors
    /// `NotConnected` if there is no such connection.
    pub fn tcp_set(&mut self, id: SocketId, opt: TcpOpt) -> Result<(), TcpError> {
        let _ = (id, opt);
        Err(TcpError::NotConnected)
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
    /// Local and remote address of a connection, or of a held SYN.
    pub fn tcp_addrs(&self, id: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        let _ = id;
        None
    }
    /// Every TCP socket: listeners, half-open ones, connections, TIME_WAIT.
    pub fn tcp_iter(&self) -> impl Iterator<Item = SockRow> + '_ {
        std::iter::empty()
    }
    /// The figures of `/proc/net/sockstat`.
    pub fn tcp_sockstat(&self) -> SockStat {
        SockStat::default()
    }
}
