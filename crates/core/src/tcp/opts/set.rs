//! What setting an option does to a connection.

use super::{KeepAlive, OptName, SockOpts, TcpOpt};
use crate::shard::Net;
use crate::sock::error::TcpError;
use crate::table::knob::{CcName, KnobValue};
use crate::tcp::cc::{self, Cc};
use crate::tcp::pacing::set_max_pacing_rate;
use crate::tcp::{Earlier, State, TCP_RTO_MAX_US, TCP_TIMEOUT_INIT_US, Tcb};
use crate::time::SEC;

/// The least receive buffer (`SOCK_MIN_RCVBUF`).
const SOCK_MIN_RCVBUF: usize = 2304;
/// The least send buffer (`SOCK_MIN_SNDBUF`).
const SOCK_MIN_SNDBUF: usize = 4608;
/// The longest wait in FIN_WAIT_2 that an option may ask for, in seconds (`TCP_FIN_TIMEOUT_MAX`).
const TCP_FIN_TIMEOUT_MAX_S: i32 = 120;

pub(super) fn keepalive_times(net: &Net, set: Option<&SockOpts>) -> KeepAlive {
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
            Some(o) if o.rcvlowat > 1 || o.urg.mark.is_some() => {
                self.rcvq.bytes() >= self.readable_target(o.rcvlowat.max(1) as usize)
                    || self.fin_rcvd
                    || self.rcvq.bytes() > 0 && self.receive_window() <= self.rcv_mss as u32
            }
            _ => true,
        }
    }

    /// Sets an option; nothing changes on an error.
    pub(in crate::tcp) fn set_opt(&mut self, net: &mut Net, opt: TcpOpt) -> Result<(), TcpError> {
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
                self.set_window_clamp(clamp);
            }
            TcpOpt::NotsentLowat(n) => {
                self.opts_mut().notsent_lowat = n;
                crate::tcp::ack::tcp_new_space(net, self);
            }
            TcpOpt::RcvLowat(n) => self.set_rcvlowat(net, n),
            TcpOpt::Inq(on) => self.opts_mut().inq = on,
            TcpOpt::Md5Sig(sig) => {
                self.set_md5(sig)?;
                if self.state.synchronized() {
                    let pmtu = self.pmtu;
                    crate::tcp::output::tcp_sync_mss(self, pmtu);
                }
            }
            TcpOpt::OobInline(on) => self.opts_mut().urg.inline = on,
            TcpOpt::RtoMaxMs(ms) => self.rto_max_ms = within(ms, 1000, TCP_RTO_MAX_US / 1000)?,
            _ => return Err(TcpError::NoOption),
        }
        Ok(())
    }

    /// Reads an option.
    pub(in crate::tcp) fn get_opt(&self, net: &Net, name: OptName) -> TcpOpt {
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
            OptName::OobInline => TcpOpt::OobInline(o.urg.inline),
            OptName::RcvBuf => TcpOpt::RcvBuf(self.rcvbuf as usize),
            OptName::SndBuf => TcpOpt::SndBuf(self.sndbuf as usize),
            OptName::Congestion => {
                TcpOpt::Congestion(CcName::parse(self.cc.name()).unwrap_or(CcName::Cubic))
            }
            OptName::UserTimeout => TcpOpt::UserTimeout(self.user_timeout_ms),
            OptName::Tos => TcpOpt::Tos(self.tos),
            OptName::RtoMaxMs => TcpOpt::RtoMaxMs(self.rto_max_ms),
            OptName::MaxPacingRate => {
                TcpOpt::MaxPacingRate(self.pace.as_deref().map_or(u64::MAX, |pace| pace.max))
            }
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
