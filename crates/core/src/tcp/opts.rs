//! Options of a connection, of a listener, and of a socket that is neither yet: their ranges, defaults and
//! errors are Linux's.
//!
//! Linux: net/ipv4/tcp.c `do_tcp_setsockopt`, `do_tcp_getsockopt`; net/core/sock.c `sk_setsockopt`

use super::api::owned;
use super::cc::{self, Cc};
use super::pacing::set_max_pacing_rate;
use super::{Earlier, State, TCP_RTO_MAX_US, TCP_TIMEOUT_INIT_US, Tcb, Tuple};
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::error::TcpError;
use crate::sock::{SockKind, SocketId};
use crate::table::knob::{CcName, KnobValue};
use crate::time::SEC;

use std::collections::VecDeque;

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
    /// [`Shard::tcp_keepalive`] gives the knobs' times.
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
    /// seconds ([`Shard::tcp_closing`] says whether there is something to wait for), `None` is the
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
    /// Whether each reading is told what is left ([`Shard::tcp_inq`]; TCP_INQ).
    Inq(bool),
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
}

const SOL_SOCKET: i32 = 1;
const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_IPV6: i32 = 41;

impl OptName {
    /// The option that Linux knows by these numbers (`getsockopt`). `None` where no option of TCP here has them
    /// (ENOPROTOOPT). SO_RCVBUFFORCE and SO_SNDBUFFORCE are set by their own numbers and read by these.
    pub fn from_linux(level: i32, optname: i32) -> Option<OptName> {
        Some(match (level, optname) {
            (IPPROTO_TCP, 1) => OptName::NoDelay,
            (IPPROTO_TCP, 2) => OptName::MaxSeg,
            (IPPROTO_TCP, 3) => OptName::Cork,
            (IPPROTO_TCP, 4) => OptName::KeepIdle,
            (IPPROTO_TCP, 5) => OptName::KeepIntvl,
            (IPPROTO_TCP, 6) => OptName::KeepCnt,
            (IPPROTO_TCP, 7) => OptName::SynCnt,
            (IPPROTO_TCP, 8) => OptName::Linger2,
            (IPPROTO_TCP, 9) => OptName::DeferAccept,
            (IPPROTO_TCP, 10) => OptName::WindowClamp,
            (IPPROTO_TCP, 12) => OptName::QuickAck,
            (IPPROTO_TCP, 13) => OptName::Congestion,
            (IPPROTO_TCP, 18) => OptName::UserTimeout,
            (IPPROTO_TCP, 25) => OptName::NotsentLowat,
            (IPPROTO_TCP, 36) => OptName::Inq,
            (SOL_SOCKET, 7) => OptName::SndBuf,
            (SOL_SOCKET, 8) => OptName::RcvBuf,
            (SOL_SOCKET, 9) => OptName::SoKeepAlive,
            (SOL_SOCKET, 13) => OptName::Linger,
            (SOL_SOCKET, 18) => OptName::RcvLowat,
            (IPPROTO_IP, 1) | (IPPROTO_IPV6, 67) => OptName::Tos,
            _ => return None,
        })
    }
}

impl TcpOpt {
    /// The option that `setsockopt` with a whole number means. Options whose value is no number,
    /// TCP_CONGESTION and SO_LINGER, are not among them.
    ///
    /// # Errors
    /// `NoOption` (ENOPROTOOPT), `Invalid` (EINVAL) for numbers that the type of the value can not
    /// hold; [`Shard::tcp_set`] refuses what is out of range.
    pub fn from_linux(level: i32, optname: i32, value: i32) -> Result<TcpOpt, TcpError> {
        match (level, optname) {
            // As the kernel reads them: what is negative is more than anything.
            (SOL_SOCKET, 32) => return Ok(TcpOpt::SndBufForce(value.max(0) as usize)),
            (SOL_SOCKET, 33) => return Ok(TcpOpt::RcvBufForce(value.max(0) as usize)),
            _ => {}
        }
        let name = OptName::from_linux(level, optname).ok_or(TcpError::NoOption)?;
        let on = value != 0;
        let count = u32::try_from(value).map_err(|_| TcpError::Invalid);
        Ok(match name {
            OptName::NoDelay => TcpOpt::NoDelay(on),
            OptName::Cork => TcpOpt::Cork(on),
            OptName::QuickAck => TcpOpt::QuickAck(on),
            OptName::SoKeepAlive => TcpOpt::SoKeepAlive(on),
            OptName::KeepIdle => TcpOpt::KeepIdle(count?),
            OptName::KeepIntvl => TcpOpt::KeepIntvl(count?),
            OptName::KeepCnt => TcpOpt::KeepCnt(count?),
            OptName::SynCnt => TcpOpt::SynCnt(count?),
            OptName::Linger2 => TcpOpt::Linger2(value),
            OptName::DeferAccept => TcpOpt::DeferAccept(value),
            OptName::MaxSeg => TcpOpt::MaxSeg(count?),
            // A negative one is the least (`max_t(int, SOCK_MIN_RCVBUF / 2, val)`).
            OptName::WindowClamp => TcpOpt::WindowClamp(count.unwrap_or(1)),
            OptName::NotsentLowat => TcpOpt::NotsentLowat(value as u32),
            OptName::RcvLowat => TcpOpt::RcvLowat(count.unwrap_or(i32::MAX as u32)),
            OptName::Inq if !(0..=1).contains(&value) => return Err(TcpError::Invalid),
            OptName::Inq => TcpOpt::Inq(on),
            OptName::RcvBuf => TcpOpt::RcvBuf(value as u32 as usize),
            OptName::SndBuf => TcpOpt::SndBuf(value as u32 as usize),
            OptName::UserTimeout => TcpOpt::UserTimeout(count?),
            OptName::Tos => TcpOpt::Tos(value as u8),
            OptName::Congestion | OptName::Linger => return Err(TcpError::NoOption),
        })
    }
    /// The number that `getsockopt` gives for it; 0 for options whose value is no number.
    pub fn to_linux(self) -> i32 {
        match self {
            TcpOpt::NoDelay(on)
            | TcpOpt::Cork(on)
            | TcpOpt::QuickAck(on)
            | TcpOpt::SoKeepAlive(on)
            | TcpOpt::Inq(on) => i32::from(on),
            TcpOpt::KeepIdle(n)
            | TcpOpt::KeepIntvl(n)
            | TcpOpt::KeepCnt(n)
            | TcpOpt::SynCnt(n)
            | TcpOpt::MaxSeg(n)
            | TcpOpt::WindowClamp(n)
            | TcpOpt::NotsentLowat(n)
            | TcpOpt::RcvLowat(n)
            | TcpOpt::UserTimeout(n) => n as i32,
            TcpOpt::Linger2(n) | TcpOpt::DeferAccept(n) => n,
            TcpOpt::RcvBuf(n)
            | TcpOpt::RcvBufForce(n)
            | TcpOpt::SndBuf(n)
            | TcpOpt::SndBufForce(n) => n.min(i32::MAX as usize) as i32,
            TcpOpt::Tos(tos) => i32::from(tos),
            TcpOpt::KeepAlive(_)
            | TcpOpt::Linger(_)
            | TcpOpt::Congestion(_)
            | TcpOpt::MaxPacingRate(_)
            | TcpOpt::BusyPoll(_)
            | TcpOpt::User(_) => 0,
        }
    }
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
    /// What the SYN-ACK said about Fast Open, until the table of hosts has it.
    pub fastopen_told: Option<super::fastopen::Told>,
    /// It was opened by the cookie in its SYN.
    pub fastopen_child: bool,
    /// Where records end: no segment goes beyond (MSG_EOR). In order.
    pub record_ends: VecDeque<Seq>,
}

/// The least receive buffer (`SOCK_MIN_RCVBUF`).
const SOCK_MIN_RCVBUF: usize = 2304;
/// The least send buffer (`SOCK_MIN_SNDBUF`).
const SOCK_MIN_SNDBUF: usize = 4608;
/// The longest wait in FIN_WAIT_2 that an option may ask for, in seconds (`TCP_FIN_TIMEOUT_MAX`).
const TCP_FIN_TIMEOUT_MAX_S: i32 = 120;

impl Shard {
    /// Sets an option of a connection, or of a listener: its connections will have it.
    ///
    /// # Errors
    /// `NotConnected` if there is no such connection or listener; `Invalid` (EINVAL) where the value
    /// is out of range; `NotPermitted` (EPERM) for a congestion control that
    /// `net.ipv4.tcp_allowed_congestion_control` does not name.
    pub fn tcp_set(&mut self, id: SocketId, opt: TcpOpt) -> Result<(), TcpError> {
        if id.kind == SockKind::Listen {
            return self.listener_set(id, opt);
        }
        let Shard { net, tcp, .. } = self;
        let tp = owned(&mut tcp.conns, id).ok_or(TcpError::NotConnected)?;
        tp.set_opt(net, opt)?;
        self.tcp_settle(id.index);
        Ok(())
    }
    fn listener_set(&mut self, id: SocketId, opt: TcpOpt) -> Result<(), TcpError> {
        let mut tp = unopened(&self.net);
        tp.state = State::Listen;
        tp.set_opt(&mut self.net, opt)?;
        let l = self.tcp.listener(id).ok_or(TcpError::NotConnected)?;
        match opt {
            TcpOpt::User(user) => l.user = user,
            _ => {
                let same = std::mem::discriminant(&opt);
                l.opts.retain(|o| std::mem::discriminant(o) != same);
                l.opts.push(opt);
            }
        }
        if let TcpOpt::DeferAccept(_) = opt {
            l.defer_accept = tp.opts().map_or(0, |o| o.defer_accept);
        }
        Ok(())
    }
    /// Reads an option of a connection or of a listener.
    ///
    /// # Errors
    /// `NotConnected` if there is neither.
    pub fn tcp_get(&mut self, id: SocketId, name: OptName) -> Result<TcpOpt, TcpError> {
        if let Some(l) = self.tcp.listener(id) {
            let opts = std::mem::take(&mut l.opts);
            let told = self.tcp_get_unopened(&opts, name);
            if let Some(l) = self.tcp.listener(id) {
                l.opts = opts;
            }
            return told;
        }
        let Shard { net, tcp, .. } = self;
        let tp = owned(&mut tcp.conns, id).ok_or(TcpError::NotConnected)?;
        Ok(tp.get_opt(net, name))
    }
    /// What an option of a socket would be that has been given `opts` and is not open yet.
    ///
    /// # Errors
    /// `Invalid` (EINVAL) where one of `opts` is out of range: so they can be tried, too.
    pub fn tcp_get_unopened(&mut self, opts: &[TcpOpt], name: OptName) -> Result<TcpOpt, TcpError> {
        let mut tp = unopened(&self.net);
        for opt in opts {
            tp.set_opt(&mut self.net, *opt)?;
        }
        Ok(tp.get_opt(&self.net, name))
    }
    /// The keepalive times that the knobs give.
    pub fn tcp_keepalive(&self) -> KeepAlive {
        keepalive_times(&self.net, None)
    }
    /// Bytes that can be read; 1 if only the end of the stream can, as TCP_INQ tells it.
    pub fn tcp_inq(&self, id: SocketId) -> usize {
        let read = self.tcp_readable(id).unwrap_or_default();
        if read.bytes == 0 { usize::from(read.fin) } else { read.bytes }
    }
}

/// A socket that is not open.
fn unopened(net: &Net) -> Tcb {
    let any = std::net::Ipv4Addr::UNSPECIFIED.into();
    let mut tp = Tcb::new(net, Tuple { local: any, remote: any, lport: 0, rport: 0 }, 0);
    tp.window_clamp = 0;
    tp
}

fn keepalive_times(net: &Net, set: Option<&SockOpts>) -> KeepAlive {
    let or = |set: Option<u32>, knob: u64| set.filter(|n| *n > 0).unwrap_or(knob as u32);
    let knobs = &net.knobs;
    KeepAlive {
        time_s: or(set.map(|o| o.keep_idle_s), knobs.tcp_keepalive_time),
        intvl_s: or(set.map(|o| o.keep_intvl_s), knobs.tcp_keepalive_intvl),
        probes: or(set.map(|o| o.keep_cnt), knobs.tcp_keepalive_probes),
    }
}

/// SYN-ACKs sent again in so many seconds, with doubling (`secs_to_retrans`).
fn secs_to_retrans(seconds: i32) -> u8 {
    let (mut n, mut timeout) = (0u8, 1);
    let mut period = timeout;
    if seconds <= 0 {
        return 0;
    }
    n += 1;
    while seconds > period && n < u8::MAX {
        n += 1;
        timeout = next_wait_s(timeout);
        period += timeout;
    }
    n
}

/// The reverse (`retrans_to_secs`).
fn retrans_to_secs(n: u8) -> i32 {
    let (mut timeout, mut period) = (1, i32::from(n > 0));
    for _ in 1..n {
        timeout = next_wait_s(timeout);
        period += timeout;
    }
    period
}

const _: () = assert!(TCP_TIMEOUT_INIT_US == 1_000_000, "waits begin with one second");

fn next_wait_s(wait: i32) -> i32 {
    (wait << 1).min((TCP_RTO_MAX_US / 1_000_000) as i32)
}

fn within(n: u32, low: u32, high: u32) -> Result<u32, TcpError> {
    if (low..=high).contains(&n) { Ok(n) } else { Err(TcpError::Invalid) }
}

impl Tcb {
    /// What few connections have set, if this is one of them.
    #[inline]
    pub fn opts(&self) -> Option<&SockOpts> {
        self.opts.as_deref()
    }
    /// The same, to be set.
    pub fn opts_mut(&mut self) -> &mut SockOpts {
        self.opts.get_or_insert_default()
    }
    /// When keepalive probes are sent.
    pub fn keepalive_times(&self, net: &Net) -> KeepAlive {
        keepalive_times(net, self.opts())
    }
    /// The window as the application limits it.
    #[inline]
    pub fn clamped(&self, window: u32) -> u32 {
        match self.opts() {
            Some(o) if o.window_clamp > 0 => window.min(o.window_clamp),
            _ => window,
        }
    }
    /// Bytes that may be queued and not sent (`tcp_notsent_lowat`).
    pub fn notsent_lowat(&self, net: &Net) -> u32 {
        match self.opts().map_or(0, |o| o.notsent_lowat) {
            0 => net.knobs.tcp_notsent_lowat.min(u32::MAX as u64) as u32,
            n => n,
        }
    }
    /// Whether enough has come for the application to be told (`tcp_epollin_ready`).
    #[inline]
    pub fn worth_reading(&self) -> bool {
        match self.opts() {
            Some(o) if o.rcvlowat > 1 => {
                self.rcvq.bytes() >= o.rcvlowat as usize
                    || self.fin_rcvd
                    || self.rcvq.bytes() > 0 && self.receive_window() <= self.rcv_mss as u32
            }
            _ => true,
        }
    }

    /// Sets an option; nothing changes on an error.
    pub(super) fn set_opt(&mut self, net: &mut Net, opt: TcpOpt) -> Result<(), TcpError> {
        match opt {
            TcpOpt::NoDelay(on) => {
                self.nodelay = on;
                // What waits goes now, even past TCP_CORK (`__tcp_sock_set_nodelay`).
                self.nagle_push |= on && self.unsent();
                self.push |= self.nagle_push;
            }
            TcpOpt::Cork(on) => {
                self.cork = on;
                self.push |= !on && self.unsent();
            }
            TcpOpt::QuickAck(on) => {
                self.pingpong = !on;
                self.quick = if on { 16 } else { 0 };
                self.ack_now |= on && self.ack_scheduled;
            }
            TcpOpt::KeepAlive(keep) => {
                if let Some(KeepAlive { time_s, intvl_s, probes }) = keep {
                    let o = self.opts_mut();
                    (o.keep_idle_s, o.keep_intvl_s, o.keep_cnt) = (time_s, intvl_s, probes);
                }
                self.set_keepalive(net, keep.is_some());
            }
            TcpOpt::SoKeepAlive(on) => self.set_keepalive(net, on),
            TcpOpt::KeepIdle(s) => {
                self.opts_mut().keep_idle_s = within(s, 1, 32767)?;
                self.set_keepalive(net, self.keepalive);
            }
            TcpOpt::KeepIntvl(s) => self.opts_mut().keep_intvl_s = within(s, 1, 32767)?,
            TcpOpt::KeepCnt(n) => self.opts_mut().keep_cnt = within(n, 1, 127)?,
            TcpOpt::RcvBuf(bytes) => self.set_rcvbuf(net.asked_rcvbuf(bytes)),
            TcpOpt::RcvBufForce(bytes) => self.set_rcvbuf(bytes),
            TcpOpt::SndBuf(bytes) => self.set_sndbuf(net.asked_sndbuf(bytes)),
            TcpOpt::SndBufForce(bytes) => self.set_sndbuf(bytes),
            TcpOpt::Congestion(name) => {
                if !net.knobs.tcp_allowed_congestion_control.has(name) {
                    return Err(TcpError::NotPermitted);
                }
                self.cc = Cc::new(name);
                if self.state.synchronized() {
                    cc::init(net, self);
                }
            }
            TcpOpt::MaxPacingRate(rate) => set_max_pacing_rate(net, self, rate),
            TcpOpt::UserTimeout(ms) => self.user_timeout_ms = within(ms, 0, i32::MAX as u32)?,
            // The bits of ECN are the connection's own (`ip_sock_set_tos`).
            TcpOpt::Tos(tos) => self.tos = tos & !3 | self.tos & 3,
            TcpOpt::BusyPoll(us) => self.busy_poll = us,
            TcpOpt::User(user) => {
                self.user = user;
                if self.pending.0 != 0 {
                    // An event under the old number may be under way.
                    let pending = std::mem::take(&mut self.pending);
                    self.raise(net, pending);
                }
            }
            rare => return self.set_rare(net, rare),
        }
        Ok(())
    }

    fn set_rare(&mut self, net: &mut Net, opt: TcpOpt) -> Result<(), TcpError> {
        match opt {
            TcpOpt::SynCnt(n) => self.opts_mut().syn_cnt = within(n, 1, 127)?,
            TcpOpt::Linger2(s) => {
                self.opts_mut().linger2 = if s < 0 { -1 } else { s.min(TCP_FIN_TIMEOUT_MAX_S) };
            }
            TcpOpt::Linger(s) => self.opts_mut().linger_s = s,
            TcpOpt::DeferAccept(s) => self.opts_mut().defer_accept = secs_to_retrans(s),
            TcpOpt::MaxSeg(0) => self.opts_mut().user_mss = 0,
            TcpOpt::MaxSeg(n) => self.opts_mut().user_mss = within(n, 88, 32767)? as u16,
            TcpOpt::WindowClamp(0) => {
                if self.state != State::Close {
                    return Err(TcpError::Invalid);
                }
                self.opts_mut().window_clamp = 0;
                self.window_clamp = 0;
            }
            TcpOpt::WindowClamp(n) => {
                let clamp = n.max(SOCK_MIN_RCVBUF as u32 / 2);
                self.opts_mut().window_clamp = clamp;
                self.window_clamp = clamp;
                self.rcv_ssthresh = match self.rcv_ssthresh > clamp {
                    true => clamp,
                    false => self.rcv_wnd.min(clamp).max(self.rcv_ssthresh),
                };
            }
            TcpOpt::NotsentLowat(n) => {
                self.opts_mut().notsent_lowat = n;
                super::ack::tcp_new_space(net, self);
            }
            TcpOpt::RcvLowat(n) => self.set_rcvlowat(net, n),
            TcpOpt::Inq(on) => self.opts_mut().inq = on,
            _ => return Err(TcpError::NoOption),
        }
        Ok(())
    }

    /// Reads an option.
    pub(super) fn get_opt(&self, net: &Net, name: OptName) -> TcpOpt {
        let none = SockOpts::default();
        let o = self.opts().unwrap_or(&none);
        let or = |n: u32, knob: u64| if n > 0 { n } else { knob as u32 };
        let keep = self.keepalive_times(net);
        let closed = matches!(self.state, State::Close | State::Listen);
        match name {
            OptName::NoDelay => TcpOpt::NoDelay(self.nodelay),
            OptName::Cork => TcpOpt::Cork(self.cork),
            OptName::QuickAck => TcpOpt::QuickAck(!self.pingpong),
            OptName::SoKeepAlive => TcpOpt::SoKeepAlive(self.keepalive),
            OptName::KeepIdle => TcpOpt::KeepIdle(keep.time_s),
            OptName::KeepIntvl => TcpOpt::KeepIntvl(keep.intvl_s),
            OptName::KeepCnt => TcpOpt::KeepCnt(keep.probes),
            OptName::SynCnt => TcpOpt::SynCnt(or(o.syn_cnt, net.knobs.tcp_syn_retries)),
            OptName::Linger2 if o.linger2 == 0 => TcpOpt::Linger2(net.knobs.tcp_fin_timeout as i32),
            OptName::Linger2 => TcpOpt::Linger2(o.linger2),
            OptName::Linger => TcpOpt::Linger(o.linger_s),
            OptName::DeferAccept => TcpOpt::DeferAccept(retrans_to_secs(o.defer_accept)),
            OptName::MaxSeg if closed && o.user_mss > 0 => TcpOpt::MaxSeg(o.user_mss.into()),
            OptName::MaxSeg => TcpOpt::MaxSeg(self.mss_cache.into()),
            OptName::WindowClamp => TcpOpt::WindowClamp(self.window_clamp),
            OptName::NotsentLowat => TcpOpt::NotsentLowat(o.notsent_lowat),
            OptName::RcvLowat => TcpOpt::RcvLowat(o.rcvlowat.max(1)),
            OptName::Inq => TcpOpt::Inq(o.inq),
            OptName::RcvBuf => TcpOpt::RcvBuf(self.rcvbuf as usize),
            OptName::SndBuf => TcpOpt::SndBuf(self.sndbuf as usize),
            OptName::Congestion => {
                TcpOpt::Congestion(CcName::parse(self.cc.name()).unwrap_or(CcName::Cubic))
            }
            OptName::UserTimeout => TcpOpt::UserTimeout(self.user_timeout_ms),
            OptName::Tos => TcpOpt::Tos(self.tos),
        }
    }

    fn set_keepalive(&mut self, net: &Net, on: bool) {
        self.keepalive = on;
        if on && self.state.synchronized() {
            let time = self.keepalive_times(net).time_s as u64 * SEC;
            let silent = net.now.since(self.rcv_tstamp.max(self.lrcvtime));
            self.keep_at = self.keep_at.min2(net.now.plus(time.saturating_sub(silent)));
        }
    }
    fn set_rcvbuf(&mut self, bytes: usize) {
        self.rcvbuf = bytes.clamp(SOCK_MIN_RCVBUF, 1 << 30) as u32;
        self.rcvbuf_locked = true;
        if self.state != State::Close {
            self.window_clamp = self.clamped(self.rcvq.win_from_space(self.rcvbuf));
        }
    }
    fn set_sndbuf(&mut self, bytes: usize) {
        self.sndbuf = bytes.clamp(SOCK_MIN_SNDBUF, 1 << 30) as u32;
        self.sndbuf_locked = true;
    }
    /// (`tcp_set_rcvlowat`)
    fn set_rcvlowat(&mut self, net: &mut Net, bytes: u32) {
        let most = match self.rcvbuf_locked {
            true => self.rcvbuf,
            false => net.knobs.tcp_rmem[2].min(1 << 30) as u32,
        };
        let bytes = bytes.min(most / 2).max(1);
        self.opts_mut().rcvlowat = bytes;
        if self.worth_reading() && self.rcvq.bytes() > 0 {
            self.raise(net, crate::sock::Ready::IN);
        }
        let space = self.rcvq.space_from_win(bytes.into()).min(1 << 30) as u32;
        if !self.rcvbuf_locked && space > self.rcvbuf {
            self.rcvbuf = space;
            self.window_clamp = self.clamped(bytes);
        }
    }
}
