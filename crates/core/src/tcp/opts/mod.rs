//! Options of a connection, of a listener, and of a socket that is neither yet: their ranges, defaults and
//! errors are Linux's. Their numbers: [`linux`]; what setting one does: [`set`]; the calls: [`call`].
//!
//! Linux: net/ipv4/tcp.c `do_tcp_setsockopt`, `do_tcp_getsockopt`; net/core/sock.c `sk_setsockopt`

mod call;
mod linux;
mod set;

use std::collections::VecDeque;

use crate::seq::Seq;
use crate::table::knob::CcName;

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

/// An option of a connection, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpOpt {
    /// Small segments are sent at once (TCP_NODELAY).
    NoDelay(bool),
    /// Only full segments are sent until this is cleared; what waits for 200 ms, or for a retransmission
    /// timeout if that is longer, goes all the same (TCP_CORK).
    Cork(bool),
    /// Segments are acknowledged at once for a while (TCP_QUICKACK).
    QuickAck(bool),
    /// Whether the peer is probed when it is silent, and all times of it at once;
    /// [`Shard::tcp_keepalive`](crate::shard::Shard::tcp_keepalive) gives the knobs' times.
    KeepAlive(Option<KeepAlive>),
    /// Whether the peer is probed when it is silent (SO_KEEPALIVE).
    SoKeepAlive(bool),
    /// Seconds of silence before the first probe, 1..=32767 (TCP_KEEPIDLE).
    KeepIdle(u32),
    /// Seconds between probes, 1..=32767 (TCP_KEEPINTVL).
    KeepIntvl(u32),
    /// Unanswered probes after which the connection is given up, 1..=127 (TCP_KEEPCNT).
    KeepCnt(u32),
    /// SYNs that are sent again, 1..=127; as `tcp_syn_retries` says where it is not set (TCP_SYNCNT).
    SynCnt(u32),
    /// Seconds in FIN_WAIT_2 without an owner: 0 = as `tcp_fin_timeout` says, more than 120 = 120,
    /// negative = none, the peer is reset (TCP_LINGER2).
    Linger2(i32),
    /// What closing does: `Some(0)` resets the connection, `Some(n)` lets who closes wait for n
    /// seconds ([`Shard::tcp_closing`](crate::shard::Shard::tcp_closing) says whether there is something to wait for), `None` is the
    /// ordinary close (SO_LINGER).
    Linger(Option<u32>),
    /// Seconds for which a listener waits for data before it tells of a connection; rounded up to what
    /// SYN-ACKs that are sent again take (TCP_DEFER_ACCEPT).
    DeferAccept(i32),
    /// Largest payload of a segment, 88..=32767; 0 = as the path says. Counts before the SYN is sent
    /// (TCP_MAXSEG).
    MaxSeg(u32),
    /// Bytes that the window may be at the most, at least 1152; 0 = as the buffer says, and only for
    /// sockets that are not open yet (TCP_WINDOW_CLAMP).
    WindowClamp(u32),
    /// Bytes that may be queued and not yet sent; `u32::MAX` = as the buffer says, 0 = as
    /// `tcp_notsent_lowat` says (TCP_NOTSENT_LOWAT).
    NotsentLowat(u32),
    /// Bytes that must have come before the application is told, at least 1, at most half the receive
    /// buffer (SO_RCVLOWAT).
    RcvLowat(u32),
    /// Whether each reading is told what is left ([`Shard::tcp_inq`](crate::shard::Shard::tcp_inq); TCP_INQ).
    Inq(bool),
    /// Urgent data stays in the stream (SO_OOBINLINE).
    OobInline(bool),
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
    /// Bytes in a second at which data leaves at the most; `u64::MAX` = without limit
    /// (SO_MAX_PACING_RATE).
    MaxPacingRate(u64),
    /// Congestion control, one of those that `net.ipv4.tcp_allowed_congestion_control` names
    /// (TCP_CONGESTION).
    Congestion(CcName),
    /// Milliseconds that sent data may stay unacknowledged; 0 = as `tcp_retries2` says
    /// (TCP_USER_TIMEOUT).
    UserTimeout(u32),
    /// The longest retransmission timeout in milliseconds, 1000..=120000; `tcp_rto_max_ms` where it is not
    /// set (TCP_RTO_MAX_MS).
    RtoMaxMs(u32),
    /// Segments are signed, and those of the peer must be (TCP_MD5SIG, TCP_MD5SIG_EXT); a listener can
    /// have a key for each peer.
    Md5Sig(crate::tcp::md5::Md5Sig),
    /// Type of service, or traffic class, of what is sent (IP_TOS).
    Tos(u8),
    /// How long a reader that found nothing looks at the devices before it gives up, in
    /// microseconds; `None` = as `net.core.busy_read` says (SO_BUSY_POLL).
    BusyPoll(Option<u32>),
    /// The number that the application gave the socket.
    User(u64),
}

/// The name of an option, for reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptName {
    /// TCP_NODELAY.
    NoDelay,
    /// TCP_CORK.
    Cork,
    /// TCP_QUICKACK.
    QuickAck,
    /// SO_KEEPALIVE.
    SoKeepAlive,
    /// TCP_KEEPIDLE.
    KeepIdle,
    /// TCP_KEEPINTVL.
    KeepIntvl,
    /// TCP_KEEPCNT.
    KeepCnt,
    /// TCP_SYNCNT.
    SynCnt,
    /// TCP_LINGER2.
    Linger2,
    /// SO_LINGER.
    Linger,
    /// TCP_DEFER_ACCEPT.
    DeferAccept,
    /// TCP_MAXSEG: what a segment of a connection takes, or what was asked for.
    MaxSeg,
    /// TCP_WINDOW_CLAMP.
    WindowClamp,
    /// TCP_NOTSENT_LOWAT.
    NotsentLowat,
    /// SO_RCVLOWAT.
    RcvLowat,
    /// TCP_INQ.
    Inq,
    /// SO_OOBINLINE.
    OobInline,
    /// SO_RCVBUF: bytes as they count, doubled already.
    RcvBuf,
    /// SO_SNDBUF: bytes as they count, doubled already.
    SndBuf,
    /// TCP_CONGESTION.
    Congestion,
    /// TCP_USER_TIMEOUT.
    UserTimeout,
    /// IP_TOS.
    Tos,
    /// TCP_RTO_MAX_MS.
    RtoMaxMs,
    /// SO_MAX_PACING_RATE.
    MaxPacingRate,
}

/// What few connections have set; 0 = as the knob says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SockOpts {
    pub keep_idle_s: u32,
    pub keep_intvl_s: u32,
    pub keep_cnt: u32,
    pub syn_cnt: u32,
    pub linger2: i32,
    pub linger_s: Option<u32>,
    pub user_mss: u16,
    pub window_clamp: u32,
    pub notsent_lowat: u32,
    pub rcvlowat: u32,
    /// SYN-ACKs that are sent again while a listener waits for data.
    pub defer_accept: u8,
    pub inq: bool,
    /// What its SYN asks for by Fast Open, until it is answered.
    pub syn_fastopen: Option<super::fastopen::SynFastOpen>,
    /// Its SYN carried an option of Fast Open, or data.
    pub fastopen_tried: bool,
    /// It was opened when a pause of Fast Open was over: whether it works ends the matter.
    pub fastopen_check: bool,
    /// What the SYN-ACK said about Fast Open, until the table of hosts has it.
    pub fastopen_told: Option<super::fastopen::Told>,
    /// Data of the SYN, ours or the peer's, was taken (`syn_data_acked`).
    pub syn_data_acked: bool,
    /// Why Fast Open failed, as TCP_INFO tells it; 0 = it did not.
    pub fastopen_client_fail: u8,
    /// Somebody waits for the connection to write (`sk_write_pending`).
    pub write_pending: bool,
    /// It was opened by the cookie in its SYN.
    pub fastopen_child: bool,
    /// The key by which segments are signed.
    pub md5: Option<Box<crate::tcp::md5::Md5Sig>>,
    /// Urgent data, sent and received.
    pub urg: crate::tcp::urg::Urg,
    /// The search for the path's MTU by probes.
    pub mtup: Option<crate::tcp::mtup::Mtup>,
    /// Where records end: no segment goes beyond (MSG_EOR). In order.
    pub record_ends: VecDeque<Seq>,
}
