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
use linerate_core::table::count::Counter;
use linerate_core::table::knob::{CcName, KnobValue};
use linerate_core::tcp::{Connect, Listen, Md5Sig, OptName, SendMsg, State, TcpOpt};
use linerate_core::time::{Instant, SEC, US};
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;
use nix::libc;

use super::script::Knob;
use super::target::{BUFFERS, Call, Fd, Outcome, Sent, Target, Value};
use super::wire::{local, remote};

/// When a script begins; on a millisecond, so that timestamps step with the script's.
const START: Instant = Instant::from_ns(10 * SEC);

enum Sock {
    /// Not connected and not listening: bound to this port, or to none.
    Fresh {
        port: u16,
        reuseport: bool,
        opts: Vec<TcpOpt>,
    },
    Listen {
        id: SocketId,
    },
    Conn {
        id: SocketId,
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
    /// A stack with one device and one address, knobs at their defaults, but buffers as large as scripts
    /// have them on both sides.
    pub fn new(v6: bool) -> Linerate {
        let mut shard = Shard::new(0x7c15);
        shard.net.now = START;
        for (path, value) in BUFFERS {
            shard.set_knob(path, value).expect("it is in range");
        }
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
        loop {
            self.transmit_once();
            // What the device has taken makes room for more of the same connection.
            if !path::tsq_pending(&self.shard) {
                break;
            }
        }
        while self.shard.poll_event().is_some() {}
    }

    fn transmit_once(&mut self) {
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
    }

    fn conn(&self, fd: Fd) -> Option<SocketId> {
        match self.socks.get(fd) {
            Some(Sock::Conn { id }) => Some(*id),
            _ => None,
        }
    }

    fn listen(&mut self, fd: Fd, backlog: i32) -> Outcome {
        let Some(Sock::Fresh { port, reuseport, opts }) = self.socks.get(fd) else {
            return Err(libc::EINVAL);
        };
        let (port, reuseport, opts) = (*port, *reuseport, opts.clone());
        let backlog = backlog.max(0) as u32;
        let listen = Listen { port, backlog, reuseport, ..Listen::default() };
        let id = self.shard.tcp_listen(listen).map_err(|e| e.errno())?;
        for opt in opts {
            self.shard.tcp_set(id, opt).map_err(|e| e.errno())?;
        }
        self.socks[fd] = Sock::Listen { id };
        Ok((0, None))
    }
    fn accept(&mut self, fd: Fd) -> Outcome {
        let Some(Sock::Listen { id }) = self.socks.get(fd) else {
            return Err(libc::EINVAL);
        };
        let id = self.shard.tcp_accept(*id).ok_or(libc::EAGAIN)?;
        self.socks.push(Sock::Conn { id });
        Ok((self.socks.len() as i64 - 1, None))
    }
    fn connect(&mut self, fd: Fd, port: u16) -> Outcome {
        if self.conn(fd).is_some() {
            return self.connected(fd).and(Err(libc::EISCONN));
        }
        let Some(Sock::Fresh { port: local_port, opts, .. }) = self.socks.get(fd) else {
            return Err(libc::EISCONN);
        };
        let local = (*local_port != 0).then(|| SocketAddr::new(local(self.v6), *local_port));
        let remote = SocketAddr::new(remote(self.v6), port);
        let connect = Connect { local, remote, user: 0 };
        let id = self.shard.tcp_connect_with(connect, opts).map_err(|e| e.errno())?;
        self.socks[fd] = Sock::Conn { id };
        Err(libc::EINPROGRESS)
    }
    fn connected(&mut self, fd: Fd) -> Outcome {
        let id = self.conn(fd).ok_or(libc::ENOTCONN)?;
        if let Some(err) = self.shard.tcp_take_error(id) {
            return Err(err.errno());
        }
        match self.shard.tcp_info(id).map(|i| i.state) {
            Some(State::SynSent | State::SynRecv) => Err(libc::EINPROGRESS),
            Some(State::Close) | None => Err(libc::ECONNABORTED),
            Some(_) => Ok((0, None)),
        }
    }
    /// A connection's error is told by one call, and gone.
    fn told<T>(&mut self, id: SocketId, outcome: Result<T, TcpError>) -> Result<T, i32> {
        outcome.map_err(|err| {
            if self.shard.tcp_error(id) == Some(err) {
                self.shard.tcp_take_error(id);
            }
            err.errno()
        })
    }
    fn recv(&mut self, fd: Fd, len: usize, flags: i32) -> Outcome {
        let id = self.conn(fd).ok_or(libc::ENOTCONN)?;
        if flags & libc::MSG_OOB != 0 {
            let got = self.shard.tcp_recv_urgent(id, flags & libc::MSG_PEEK != 0);
            let n = got.map_err(|e| e.errno())?.map_or(0, |_| len.min(1));
            return Ok((n as i64, None));
        }
        let mut buf = vec![0; len];
        let got = if flags & libc::MSG_PEEK != 0 {
            let mut slices = Vec::new();
            self.shard.tcp_rx_slices(id, len, &mut slices)
        } else {
            self.shard.tcp_recv(id, &mut buf)
        };
        self.told(id, got).map(|n| (n as i64, None))
    }
    fn send(&mut self, fd: Fd, len: usize, flags: i32) -> Outcome {
        let id = self.conn(fd).ok_or(libc::EPIPE)?;
        let known = libc::MSG_DONTWAIT
            | libc::MSG_NOSIGNAL
            | libc::MSG_MORE
            | libc::MSG_EOR
            | libc::MSG_OOB;
        if flags & !known != 0 {
            return Err(libc::EOPNOTSUPP);
        }
        let has = |flag| flags & flag != 0;
        let (more, eor, oob) = (has(libc::MSG_MORE), has(libc::MSG_EOR), has(libc::MSG_OOB));
        let msg = SendMsg { more, eor, oob };
        let sent = self.shard.tcp_sendmsg(id, &vec![0; len], msg);
        self.told(id, sent).map(|n| (n as i64, None))
    }
    fn shutdown(&mut self, fd: Fd, how: i32) -> Outcome {
        let id = self.conn(fd).ok_or(libc::ENOTCONN)?;
        if self.shard.tcp_info(id).is_none_or(|i| i.state == State::Close) {
            return Err(libc::ENOTCONN);
        }
        if how != libc::SHUT_RD {
            self.shard.tcp_shutdown(id);
        }
        Ok((0, None))
    }
    fn close(&mut self, fd: Fd) -> Outcome {
        match std::mem::replace(&mut self.socks[fd], Sock::Closed) {
            Sock::Listen { id } | Sock::Conn { id } => self.shard.tcp_close(id),
            Sock::Fresh { .. } => {}
            Sock::Closed => return Err(libc::EBADF),
        }
        Ok((0, None))
    }

    fn set(&mut self, fd: Fd, level: i32, name: i32, value: &Value) -> Result<(), i32> {
        let errno = |e: TcpError| e.errno();
        let on = *value != Value::Int(0);
        match (level, name) {
            // Binding is the runner's own here, and never refused.
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => return Ok(()),
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => {
                if let Some(Sock::Fresh { reuseport, .. }) = self.socks.get_mut(fd) {
                    *reuseport = on;
                }
                return Ok(());
            }
            _ => {}
        }
        let opt = match value {
            Value::Int(n) => TcpOpt::from_linux(level, name, *n).map_err(errno)?,
            Value::Linger(on, seconds) => TcpOpt::Linger(on.then_some(u32::from(*seconds))),
            Value::Name(key) if (level, name) == (libc::IPPROTO_TCP, libc::TCP_MD5SIG) => {
                let sig = Md5Sig::new(remote(self.v6), None, key.as_bytes()).map_err(errno)?;
                TcpOpt::Md5Sig(sig)
            }
            Value::Name(name) => TcpOpt::Congestion(CcName::parse(name).ok_or(libc::ENOENT)?),
        };
        match self.socks.get_mut(fd) {
            Some(Sock::Fresh { opts, .. }) => {
                let mut with = opts.clone();
                with.push(opt);
                self.shard.tcp_get_unopened(&with, OptName::NoDelay).map_err(errno)?;
                if let Some(Sock::Fresh { opts, .. }) = self.socks.get_mut(fd) {
                    *opts = with;
                }
                Ok(())
            }
            Some(Sock::Listen { id } | Sock::Conn { id }) => {
                let id = *id;
                self.shard.tcp_set(id, opt).map_err(errno)
            }
            _ => Err(libc::EBADF),
        }
    }
    fn get(&mut self, fd: Fd, level: i32, name: i32) -> Outcome {
        let int = |n: i32| Ok((0, Some(Value::Int(n))));
        if (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR) {
            let id = self.conn(fd).ok_or(libc::EBADF)?;
            return int(self.shard.tcp_take_error(id).map_or(0, |e| e.errno()));
        }
        let name = OptName::from_linux(level, name).ok_or(libc::ENOPROTOOPT)?;
        let opt = match self.socks.get(fd) {
            Some(Sock::Fresh { opts, .. }) => self.shard.tcp_get_unopened(opts, name),
            Some(Sock::Listen { id } | Sock::Conn { id }) => self.shard.tcp_get(*id, name),
            _ => return Err(libc::EBADF),
        };
        match opt.map_err(|e| e.errno())? {
            TcpOpt::Congestion(name) => Ok((0, Some(Value::Name(name.show())))),
            TcpOpt::Linger(l) => Ok((0, Some(Value::Linger(l.is_some(), l.unwrap_or(0) as u16)))),
            opt => int(opt.to_linux()),
        }
    }
    fn poll(&mut self, fd: Fd, asked: i16) -> i16 {
        if let Some(Sock::Listen { id }) = self.socks.get(fd) {
            let id = *id;
            let waits = self.shard.tcp_iter().any(|r| r.id == Some(id) && r.rx_queue > 0);
            return if waits { libc::POLLIN & asked } else { 0 };
        }
        let Some(id) = self.conn(fd) else { return libc::POLLHUP };
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
        if self.shard.tcp_urgent(id) {
            bits |= libc::POLLPRI;
        }
        let handshake = matches!(info.state, State::SynSent | State::SynRecv);
        if !handshake && (over || done_sending || self.shard.tcp_writeable(id)) {
            bits |= libc::POLLOUT;
        }
        if self.shard.tcp_error(id).is_some() {
            bits |= libc::POLLERR;
        }
        bits & (asked | libc::POLLERR | libc::POLLHUP)
    }
    fn ioctl(&mut self, fd: Fd, what: u64) -> Outcome {
        let id = self.conn(fd).ok_or(libc::EINVAL)?;
        let n = match what {
            libc::FIONREAD => self.shard.tcp_siocinq(id),
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
                self.socks.push(Sock::Fresh { port: 0, reuseport: false, opts: Vec::new() });
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
        let id = self.conn(fd)?;
        debug_assert_eq!(id.kind, SockKind::Tcp, "a connection's name is one of TCP");
        super::info::field(&self.shard.tcp_info(id)?.to_bytes(), field)
    }
    fn counter(&mut self, name: &str) -> Option<i64> {
        let row = Counter::ROWS.iter().find(|row| row.name == name)?;
        Some(self.shard.net.counts.get(row.counter) as i64)
    }
}
