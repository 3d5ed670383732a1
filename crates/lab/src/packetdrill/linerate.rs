//! Our stack as a target: one shard, a device in memory, a clock that jumps from timer to timer.

use std::collections::VecDeque;
use std::net::SocketAddr;

use linerate_core::ip::fib::{Route, RouteKind};
use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::sock::error::TcpError;
use linerate_core::sock::{SockKind, SocketId};
use linerate_core::table::knob::CcName;
use linerate_core::tcp::{Connect, KeepAlive, Listen, State, TcpInfo, TcpOpt};
use linerate_core::time::{Instant, SEC, US};
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;
use nix::libc;

use super::script::Knob;
use super::target::{Call, Fd, Outcome, Sent, Target, Value};
use super::wire::{local, remote};

/// When a script begins; on a millisecond, so that timestamps step with the script's.
const START: Instant = Instant::from_ns(10 * SEC);

/// What an option that was set before there was a connection is to be set to then.
type Setting = (i32, i32, Value);

enum Sock {
    /// Not connected and not listening: bound to this port, or to none.
    Fresh {
        port: u16,
        settings: Vec<Setting>,
    },
    Listen {
        id: SocketId,
        settings: Vec<Setting>,
    },
    /// `told`: the connection's error was reported, and is so only once.
    Conn {
        id: SocketId,
        told: bool,
        settings: Vec<Setting>,
    },
    Closed,
}

/// A shard and its sockets.
pub struct Linerate {
    shard: Shard,
    batch: Batch,
    now: Instant,
    sent: VecDeque<Sent>,
    socks: Vec<Sock>,
    v6: bool,
}

impl Linerate {
    /// A stack with one device and one address, knobs at their defaults.
    pub fn new(v6: bool) -> Linerate {
        let mut shard = Shard::new(0x7c15);
        shard.net.now = START;
        let dev = shard.add_iface(Iface::new("tun0", L2::Ip, Mac([0; 6]), 1500));
        shard.add_addr(dev, local(v6), if v6 { 64 } else { 24 }).expect("a new device takes it");
        let everywhere: std::net::IpAddr =
            if v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { [0, 0, 0, 0].into() };
        let via = Route::new(everywhere, 0, RouteKind::Unicast, dev);
        shard.add_route(via).expect("a first route is taken");
        let (batch, sent, socks) = (Batch::new(), VecDeque::new(), Vec::new());
        Linerate { shard, batch, now: START, sent, socks, v6 }
    }

    fn us(&self, at: Instant) -> i64 {
        (at.since(START) / US) as i64
    }

    /// Lets the stack send what it has.
    fn transmit(&mut self) {
        self.shard.net.now = self.now;
        for _ in 0..64 {
            path::transmit(&mut self.shard, &mut self.batch);
            if path::process_backlog(&mut self.shard, &mut self.batch, 64) == 0 {
                break;
            }
        }
        let at_us = self.us(self.now);
        while let Some(ring) = path::qdisc_run(&mut self.shard.net, 0, 0, usize::MAX) {
            let packets: Vec<_> = ring.drain(..).collect();
            if packets.is_empty() {
                break;
            }
            for pkt in packets {
                let bytes = pkt.slices().flatten().copied().collect();
                self.sent.push_back(Sent { at_us, bytes });
                tx_done(&mut self.shard.net, pkt, true);
            }
        }
        while self.shard.poll_event().is_some() {}
    }

    fn conn(&self, fd: Fd) -> Option<(SocketId, bool)> {
        match self.socks.get(fd) {
            Some(Sock::Conn { id, told, .. }) => Some((*id, *told)),
            _ => None,
        }
    }
    /// An error of a connection, which is told once.
    fn tell(&mut self, fd: Fd, err: TcpError) -> i32 {
        if let Some(Sock::Conn { told, .. }) = self.socks.get_mut(fd)
            && !matches!(err, TcpError::WouldBlock | TcpError::NotConnected | TcpError::Closed)
        {
            *told = true;
        }
        err.errno()
    }
    fn is_gone(&self, id: SocketId) -> bool {
        self.shard.tcp_info(id).is_none_or(|i| i.state == State::Close)
    }

    fn listen(&mut self, fd: Fd, backlog: i32) -> Outcome {
        let Some(Sock::Fresh { port, settings }) = self.socks.get(fd) else {
            return Err(libc::EINVAL);
        };
        let (port, settings) = (*port, settings.clone());
        let mut listen = Listen { port, backlog: backlog.max(0) as u32, ..Listen::default() };
        for (level, name, value) in &settings {
            match (*level, *name, value) {
                (libc::SOL_SOCKET, libc::SO_REUSEPORT, Value::Int(n)) => listen.reuseport = *n != 0,
                (libc::SOL_SOCKET, libc::SO_RCVBUF, Value::Int(n)) => {
                    listen.rcvbuf = 2 * (*n).max(1152) as usize;
                }
                _ => {}
            }
        }
        let id = self.shard.tcp_listen(listen).map_err(|e| e.errno())?;
        self.socks[fd] = Sock::Listen { id, settings };
        Ok((0, None))
    }
    fn accept(&mut self, fd: Fd) -> Outcome {
        let Some(Sock::Listen { id, settings }) = self.socks.get(fd) else {
            return Err(libc::EINVAL);
        };
        let settings = settings.clone();
        let id = self.shard.tcp_accept(*id).ok_or(libc::EAGAIN)?;
        self.socks.push(Sock::Conn { id, told: false, settings: Vec::new() });
        let fd = self.socks.len() - 1;
        for (level, name, value) in settings {
            // What a listener does not pass on is no fault of the connection.
            let _ = self.set(fd, level, name, &value);
        }
        Ok((fd as i64, None))
    }
    fn connect(&mut self, fd: Fd, port: u16) -> Outcome {
        if matches!(self.socks.get(fd), Some(Sock::Conn { .. })) {
            return self.connected(fd).and(Err(libc::EISCONN));
        }
        let Some(Sock::Fresh { port: local_port, settings }) = self.socks.get(fd) else {
            return Err(libc::EISCONN);
        };
        let settings = settings.clone();
        let local = (*local_port != 0).then(|| SocketAddr::new(local(self.v6), *local_port));
        let remote = SocketAddr::new(remote(self.v6), port);
        let connect = Connect { local, remote, user: 0 };
        let id = self.shard.tcp_connect(connect).map_err(|e| e.errno())?;
        self.socks[fd] = Sock::Conn { id, told: false, settings: settings.clone() };
        for (level, name, value) in settings {
            self.set(fd, level, name, &value)?;
        }
        Err(libc::EINPROGRESS)
    }
    fn connected(&mut self, fd: Fd) -> Outcome {
        let Some((id, told)) = self.conn(fd) else { return Err(libc::ENOTCONN) };
        if let Some(err) = self.shard.tcp_error(id).filter(|_| !told) {
            return Err(self.tell(fd, err));
        }
        match self.shard.tcp_info(id).map(|i| i.state) {
            Some(State::SynSent | State::SynRecv) => Err(libc::EINPROGRESS),
            Some(State::Close) | None => Err(libc::ECONNABORTED),
            Some(_) => Ok((0, None)),
        }
    }
    fn recv(&mut self, fd: Fd, len: usize, flags: i32) -> Outcome {
        let Some((id, told)) = self.conn(fd) else { return Err(libc::ENOTCONN) };
        if told && self.is_gone(id) {
            return Ok((0, None));
        }
        let mut buf = vec![0; len];
        let got = if flags & libc::MSG_PEEK != 0 {
            let mut slices = Vec::new();
            self.shard.tcp_rx_slices(id, len, &mut slices)
        } else {
            self.shard.tcp_recv(id, &mut buf)
        };
        got.map(|n| (n as i64, None)).map_err(|e| self.tell(fd, e))
    }
    fn send(&mut self, fd: Fd, len: usize, flags: i32) -> Outcome {
        let Some((id, told)) = self.conn(fd) else { return Err(libc::EPIPE) };
        if told && self.is_gone(id) {
            return Err(libc::EPIPE);
        }
        if flags & !(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) != 0 {
            return Err(libc::EOPNOTSUPP);
        }
        let sent = self.shard.tcp_send(id, &vec![0; len]);
        sent.map(|n| (n as i64, None)).map_err(|e| self.tell(fd, e))
    }
    fn shutdown(&mut self, fd: Fd, how: i32) -> Outcome {
        let Some((id, _)) = self.conn(fd) else { return Err(libc::ENOTCONN) };
        if self.is_gone(id) {
            return Err(libc::ENOTCONN);
        }
        if how == libc::SHUT_RD {
            return Err(libc::EOPNOTSUPP);
        }
        self.shard.tcp_shutdown(id);
        Ok((0, None))
    }
    fn close(&mut self, fd: Fd) -> Outcome {
        match std::mem::replace(&mut self.socks[fd], Sock::Closed) {
            Sock::Listen { id, .. } => self.shard.tcp_close(id),
            Sock::Conn { id, settings, .. } => {
                let aborts = settings.iter().any(|s| s.2 == Value::Linger(true, 0));
                if aborts { self.shard.tcp_abort(id) } else { self.shard.tcp_close(id) }
            }
            Sock::Fresh { .. } => {}
            Sock::Closed => return Err(libc::EBADF),
        }
        Ok((0, None))
    }

    fn set(&mut self, fd: Fd, level: i32, name: i32, value: &Value) -> Result<(), i32> {
        match self.socks.get_mut(fd) {
            Some(Sock::Fresh { settings, .. } | Sock::Listen { settings, .. }) => {
                settings.push((level, name, value.clone()));
                return Ok(());
            }
            Some(Sock::Conn { settings, .. }) => settings.push((level, name, value.clone())),
            _ => return Err(libc::EBADF),
        }
        let Some((id, _)) = self.conn(fd) else { return Err(libc::EBADF) };
        let Some(opt) = self.option(fd, level, name, value)? else { return Ok(()) };
        self.shard.tcp_set(id, opt).map_err(|e| e.errno())
    }
    /// `None` = the target's own affair.
    fn option(&self, fd: Fd, level: i32, name: i32, value: &Value) -> Result<Option<TcpOpt>, i32> {
        let n = if let Value::Int(n) = value { *n } else { 0 };
        let keep = || self.keepalive(fd);
        Ok(Some(match (level, name) {
            (libc::SOL_SOCKET, libc::SO_REUSEADDR | libc::SO_REUSEPORT | libc::SO_LINGER) => {
                return Ok(None);
            }
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => TcpOpt::RcvBuf(n as usize),
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => TcpOpt::SndBuf(n as usize),
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE) => TcpOpt::RcvBufForce(n as usize),
            (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE) => TcpOpt::SndBufForce(n as usize),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => TcpOpt::KeepAlive(keep()),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT) => {
                TcpOpt::KeepAlive(keep())
            }
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => TcpOpt::NoDelay(n != 0),
            (libc::IPPROTO_TCP, libc::TCP_CORK) => TcpOpt::Cork(n != 0),
            (libc::IPPROTO_TCP, libc::TCP_QUICKACK) => TcpOpt::QuickAck(n != 0),
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => TcpOpt::UserTimeout(n as u32),
            (libc::IPPROTO_IP, libc::IP_TOS) => TcpOpt::Tos(n as u8),
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
                let Value::Name(name) = value else { return Err(libc::EINVAL) };
                match name.as_str() {
                    "cubic" => TcpOpt::Congestion(CcName::Cubic),
                    "reno" => TcpOpt::Congestion(CcName::Reno),
                    _ => return Err(libc::ENOENT),
                }
            }
            _ => return Err(libc::ENOPROTOOPT),
        }))
    }
    /// The keepalive options are four on Linux and one here.
    fn keepalive(&self, fd: Fd) -> Option<KeepAlive> {
        let Some(Sock::Conn { settings, .. }) = self.socks.get(fd) else { return None };
        let last = |level, name| {
            let found = settings.iter().rev().find(|s| (s.0, s.1) == (level, name));
            found.and_then(|s| if let Value::Int(n) = s.2 { Some(n as u32) } else { None })
        };
        if last(libc::SOL_SOCKET, libc::SO_KEEPALIVE).unwrap_or(0) == 0 {
            return None;
        }
        let knobs = self.shard.tcp_keepalive();
        Some(KeepAlive {
            time_s: last(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE).unwrap_or(knobs.time_s),
            intvl_s: last(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL).unwrap_or(knobs.intvl_s),
            probes: last(libc::IPPROTO_TCP, libc::TCP_KEEPCNT).unwrap_or(knobs.probes),
        })
    }
    fn get(&mut self, fd: Fd, level: i32, name: i32) -> Outcome {
        let Some((id, told)) = self.conn(fd) else { return Err(libc::ENOPROTOOPT) };
        let info = self.shard.tcp_info(id);
        let int = |n: i32| Ok((0, Some(Value::Int(n))));
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => {
                let err = self.shard.tcp_error(id).filter(|_| !told);
                int(err.map_or(0, |e| self.tell(fd, e)))
            }
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => int(info.map_or(0, |i| i.snd_mss as i32)),
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => int(info.map_or(0, |i| i.rcvbuf as i32)),
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => int(info.map_or(0, |i| i.sndbuf as i32)),
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
                Ok((0, info.map(|i| Value::Name(i.ca_name.to_owned()))))
            }
            _ => Err(libc::ENOPROTOOPT),
        }
    }
    fn poll(&mut self, fd: Fd, asked: i16) -> i16 {
        if let Some(Sock::Listen { id, .. }) = self.socks.get(fd) {
            let id = *id;
            let waits = self.shard.tcp_iter().any(|r| r.id == Some(id) && r.rx_queue > 0);
            return if waits { libc::POLLIN & asked } else { 0 };
        }
        let Some((id, told)) = self.conn(fd) else { return libc::POLLHUP };
        let Some(info) = self.shard.tcp_info(id) else { return libc::POLLHUP };
        let mut bits = 0;
        let readable = self.shard.tcp_readable(id);
        let fin = readable.is_ok_and(|r| r.fin);
        let over = info.state == State::Close;
        let done_sending = matches!(
            info.state,
            State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck | State::TimeWait
        );
        if over || fin && done_sending {
            bits |= libc::POLLHUP;
        }
        if over || fin {
            bits |= libc::POLLIN | libc::POLLRDHUP;
        }
        if readable.is_ok_and(|r| r.bytes > 0) {
            bits |= libc::POLLIN;
        }
        let handshake = matches!(info.state, State::SynSent | State::SynRecv);
        let space = self.shard.tcp_send_space(id);
        if !handshake && (over || done_sending || 3 * space >= info.sndbuf as usize) {
            bits |= libc::POLLOUT;
        }
        if self.shard.tcp_error(id).is_some() && !told {
            bits |= libc::POLLERR;
        }
        bits & (asked | libc::POLLERR | libc::POLLHUP)
    }
    fn ioctl(&mut self, fd: Fd, what: u64) -> Outcome {
        let Some((id, _)) = self.conn(fd) else { return Err(libc::EINVAL) };
        let n = match what {
            libc::FIONREAD => self.shard.tcp_readable(id).map(|r| r.bytes).unwrap_or(0),
            libc::TIOCOUTQ => self.shard.tcp_queued(id),
            _ => return Err(libc::EINVAL),
        };
        Ok((0, Some(Value::Int(n as i32))))
    }
}

impl Target for Linerate {
    fn now_us(&mut self) -> i64 {
        self.us(self.now)
    }
    fn is_virtual(&self) -> bool {
        true
    }
    fn step(&mut self, until_us: i64) {
        let until = START.plus(until_us.max(0) as u64 * US);
        self.transmit();
        if !self.sent.is_empty() {
            return;
        }
        let timer = path::next_timer(&self.shard).unwrap_or(Instant::NEVER);
        self.now = self.now.max(timer.min(until));
        self.shard.net.now = self.now;
        path::timers(&mut self.shard, self.now);
        self.transmit();
    }
    fn sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }
    fn inject(&mut self, bytes: &[u8]) {
        let net = &mut self.shard.net;
        net.now = self.now;
        let Some(mut pkt) = net.pool.alloc() else { return };
        let head = bytes.len().min(pkt.tailroom());
        pkt.put(head).copy_from_slice(&bytes[..head]);
        if bytes.len() > head {
            let Some(mut buf) = net.pool.alloc_large() else { return net.pool.free(pkt) };
            buf[..bytes.len() - head].copy_from_slice(&bytes[head..]);
            pkt.add_buf(buf, 0, bytes.len() - head);
        }
        pkt.rx_time = self.now;
        self.batch.push(pkt);
        path::receive(&mut self.shard, &mut self.batch);
        path::timers(&mut self.shard, self.now);
        self.transmit();
    }
    fn call(&mut self, call: &Call) -> Outcome {
        self.shard.net.now = self.now;
        let done = |r: Result<(), i32>| r.map(|()| (0, None));
        let outcome = match call {
            Call::Socket => {
                self.socks.push(Sock::Fresh { port: 0, settings: Vec::new() });
                Ok((self.socks.len() as i64 - 1, None))
            }
            Call::Bind(fd, to) => match self.socks.get_mut(*fd) {
                Some(Sock::Fresh { port, .. }) => {
                    *port = *to;
                    Ok((0, None))
                }
                _ => Err(libc::EINVAL),
            },
            Call::Listen(fd, backlog) => self.listen(*fd, *backlog),
            Call::Accept(fd) => self.accept(*fd),
            Call::Connect(fd, port) => self.connect(*fd, *port),
            Call::Connected(fd) => self.connected(*fd),
            Call::Recv(fd, len, flags) => self.recv(*fd, *len, *flags),
            Call::Send(fd, len, flags) => self.send(*fd, *len, *flags),
            Call::Shutdown(fd, how) => self.shutdown(*fd, *how),
            Call::Close(fd) => self.close(*fd),
            Call::SetOpt(fd, level, name, value) => done(self.set(*fd, *level, *name, value)),
            Call::GetOpt(fd, level, name) => self.get(*fd, *level, *name),
            Call::Poll(fd, asked) => {
                let bits = self.poll(*fd, *asked);
                Ok((i64::from(bits != 0), Some(Value::Int(i32::from(bits)))))
            }
            Call::Ioctl(fd, what) => self.ioctl(*fd, *what),
        };
        self.transmit();
        outcome
    }
    fn set_knob(&mut self, knob: &Knob) -> Result<(), String> {
        let said = self.shard.set_knob(&knob.path, &knob.value);
        said.map_err(|e| format!("{} = {}: {e}", knob.path, knob.value))
    }
    fn tcp_info(&mut self, fd: Fd, field: &str) -> Option<i64> {
        let (id, _) = self.conn(fd)?;
        debug_assert_eq!(id.kind, SockKind::Tcp, "a connection's name is one of TCP");
        info_field(&self.shard.tcp_info(id)?, field)
    }
}

/// Linux's numbers of the states.
fn state_number(state: State) -> i64 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynRecv => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Close => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Listen => 10,
        State::Closing => 11,
    }
}

fn info_field(i: &TcpInfo, field: &str) -> Option<i64> {
    Some(match field.strip_prefix("tcpi_")? {
        "state" => state_number(i.state),
        "ca_state" => i.ca_state.into(),
        "retransmits" => i.retransmits.into(),
        "probes" => i.probes.into(),
        "backoff" => i.backoff.into(),
        "options" => {
            let scales = i.snd_wscale > 0 || i.rcv_wscale > 0;
            i64::from(i.opt_timestamps) | i64::from(i.opt_sack) << 1 | i64::from(scales) << 2
        }
        "rto" => i.rto_us.into(),
        "snd_mss" => i.snd_mss.into(),
        "rcv_mss" => i.rcv_mss.into(),
        "unacked" => i.unacked.into(),
        "sacked" => i.sacked.into(),
        "lost" => i.lost.into(),
        "retrans" => i.retrans.into(),
        "pmtu" => i.pmtu.into(),
        "rcv_ssthresh" => i.rcv_ssthresh.into(),
        "rtt" => i.rtt_us.into(),
        "rttvar" => i.rttvar_us.into(),
        "snd_ssthresh" => i.snd_ssthresh.into(),
        "snd_cwnd" => i.snd_cwnd.into(),
        "advmss" => i.advmss.into(),
        "reordering" => i.reordering.into(),
        "rcv_space" => i.rcv_space.into(),
        "total_retrans" => i.total_retrans.into(),
        "bytes_acked" => i.bytes_acked as i64,
        "bytes_received" => i.bytes_received as i64,
        "bytes_sent" => i.bytes_sent as i64,
        "bytes_retrans" => i.bytes_retrans as i64,
        "segs_out" => i.segs_out.into(),
        "segs_in" => i.segs_in.into(),
        "notsent_bytes" => i.notsent_bytes.into(),
        "min_rtt" => i.min_rtt_us.into(),
        "delivered" => i.delivered.into(),
        "snd_wnd" => i.snd_wnd.into(),
        "rcv_wnd" => i.rcv_wnd.into(),
        _ => return None,
    })
}
