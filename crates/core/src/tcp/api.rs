//! TCP as the application sees it: listen, connect, receive, send, close.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use super::fastopen::fastopen_syn;
use super::info::TcpInfo;
use super::input::fin_wait2;
use super::listen::Listener;
pub use super::opts::{KeepAlive, OptName, TcpOpt};
use super::output::{
    advmss, tcp_select_initial_window, tcp_send_active_reset, tcp_send_syn, way_to,
};
use super::rows::{SockRow, SockStat};
pub use super::send::SendMsg;
use super::timer::rearm_rto;
pub use super::zerocopy::ZerocopyDone;
use super::{State, Tcb};
use crate::shard::{Net, Shard};
use crate::sock::error::{BindError, TcpError};
use crate::sock::{Arena, Ready, SockKind, SocketId};
use crate::table::count::id;

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
    /// Others may listen on the same address and port, if they all say so (SO_REUSEPORT): connections
    /// are spread over them by flow, or as a program says ([`Shard::reuseport_attach_prog`]).
    pub reuseport: bool,
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

impl Shard {
    /// Opens a listener. Events: IN when a connection can be accepted, or a held SYN waits.
    ///
    /// # Errors
    /// [`BindError`]: `AddrInUse`, `NoPort` (EADDRINUSE).
    pub fn tcp_listen(&mut self, listen: Listen) -> Result<SocketId, BindError> {
        let port = match (listen.port, listen.any_port) {
            (_, true) => 0,
            (0, false) => self.tcp_free_port(listen.addr)?,
            (port, false) => port,
        };
        if self.tcp.listen.taken(&self.tcp.listeners, listen.addr, port, listen.reuseport) {
            return Err(BindError::AddrInUse);
        }
        let none = SocketId { kind: SockKind::Listen, index: 0, generation: 0 };
        let (index, generation) = self.tcp.listeners.insert(Listener {
            synq_overflow: None,
            id: none,
            addr: listen.addr,
            port,
            backlog: listen.backlog,
            hold_syn: listen.hold_syn,
            reuseport: listen.reuseport,
            rcvbuf: listen.rcvbuf,
            user: listen.user,
            fastopen_max: None,
            fastopen_keys: None,
            fastopenq: Vec::new(),
            pending: Ready::default(),
            qlen: 0,
            accept: Default::default(),
            held: Default::default(),
            opts: Vec::new(),
            defer_accept: 0,
        });
        let id = SocketId { index, generation, ..none };
        if let Some(l) = self.tcp.listeners.at_mut(index) {
            l.id = id;
        }
        self.tcp.listen.insert(index, port);
        Ok(id)
    }
    /// The next established connection of a listener. Once there is none, the next one is an event
    /// again.
    pub fn tcp_accept(&mut self, listener: SocketId) -> Option<SocketId> {
        let Shard { net, tcp, .. } = self;
        let l = tcp.listeners.get_mut(listener.index, listener.generation)?;
        if listener.kind != SockKind::Listen {
            return None;
        }
        while let Some(id) = l.accept.pop_front() {
            let Some(tp) = tcp.conns.get_mut(id.index, id.generation) else { continue };
            tp.listener = None;
            // What happened before the application knew of it is told now.
            let before = std::mem::take(&mut tp.pending);
            if before.0 != 0 {
                tp.raise(net, before);
            }
            return Some(id);
        }
        l.pending = Ready::default();
        None
    }
    /// The next SYN that waits for a judgement, on a listener with `hold_syn`.
    pub fn syn_next(&mut self, listener: SocketId) -> Option<HeldSyn> {
        self.held_next(listener)
    }
    /// Answers a held SYN; the connection can be accepted once the peer has confirmed. False if
    /// the peer has given up meanwhile.
    pub fn syn_accept(&mut self, id: SocketId) -> bool {
        self.held_accept(id)
    }
    /// Refuses a held SYN.
    pub fn syn_refuse(&mut self, id: SocketId, how: Refuse) {
        self.held_refuse(id, how);
    }
    /// Opens a connection. Events: OUT when it is established, ERR when it failed.
    ///
    /// # Errors
    /// [`TcpError`]: `NetUnreachable`, `NoPort`, `InUse`, `TooMany`.
    pub fn tcp_connect(&mut self, connect: Connect) -> Result<SocketId, TcpError> {
        self.tcp_connect_with(connect, &[])
    }
    /// The same, of a socket that has been given options before.
    ///
    /// # Errors
    /// As [`Shard::tcp_connect`], and `Invalid` where an option is out of range.
    pub fn tcp_connect_with(
        &mut self,
        connect: Connect,
        opts: &[TcpOpt],
    ) -> Result<SocketId, TcpError> {
        self.tcp_begin(connect, opts, None).map(|(id, _)| id)
    }
    /// The same; `data` is what Fast Open may send with the SYN. Returns how many bytes of it it does.
    pub(super) fn tcp_begin(
        &mut self,
        connect: Connect,
        opts: &[TcpOpt],
        data: Option<&[u8]>,
    ) -> Result<(SocketId, usize), TcpError> {
        let (tuple, hash, iss) = self.tcp_pick_ends(&connect)?;
        let Shard { net, tcp, .. } = self;
        let way = way_to(net, &tuple).ok_or(TcpError::NetUnreachable)?;
        let mut tp = Tcb::new(net, tuple, hash);
        for opt in opts {
            tp.set_opt(net, *opt)?;
        }
        // With a signature a SYN has no room for timestamps.
        tp.ts_ok &= tp.md5().is_none();
        tp.user = connect.user;
        (tp.dev, tp.pmtu) = (way.dev, way.mtu);
        tp.advmss = advmss(&tp, way.mtu);
        let mss = tp.advmss.into();
        tcp_select_initial_window(net, &mut tp, mss);
        tp.iss = iss.unwrap_or_else(|| tcp.secure_seq(&tuple, net.now));
        tp.ts_offset = tcp.secure_ts_off(&tuple);
        tp.snd_una = tp.iss;
        tp.snd_nxt = tp.iss + 1;
        tp.sndq.start(tp.iss + 1);
        tp.set_state(net, State::SynSent);
        net.counts.inc(id::TcpActiveOpens);
        net.flow_begins(tuple.flow_key());
        let index = tcp.insert(tp);
        let tp = tcp.conns.at_mut(index).ok_or(TcpError::TooMany)?;
        let id = tp.id;
        let n = data.map_or(0, |data| fastopen_syn(net, &tcp.fastopens, tp, data));
        tcp_send_syn(net, tp);
        rearm_rto(net, tp);
        self.tcp_settle(index);
        Ok((id, n))
    }
    /// Appends to `out` what can be read, in order, without copying; at most `max_bytes`. Returns
    /// how many bytes these are: 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there yet; the connection's own error once all is read.
    pub fn tcp_rx_slices<'a>(
        &'a mut self,
        id: SocketId,
        max_bytes: usize,
        out: &mut Vec<IoSlice<'a>>,
    ) -> Result<usize, TcpError> {
        let tp = self.tcp_reader(id)?;
        Ok(tp.rcvq.slices(tp.before_mark(max_bytes), out))
    }
    /// The connection, if there is something to read; a reader that finds nothing may want to look
    /// at the devices for a while (`sk_busy_loop`).
    fn tcp_reader(&mut self, id: SocketId) -> Result<&Tcb, TcpError> {
        let Shard { net, tcp, .. } = self;
        let tp = owned(&mut tcp.conns, id).ok_or(TcpError::NotConnected)?;
        tp.skip_urgent(net);
        if let Err(err) = tp.nothing_to_read() {
            net.busy_read(tp.busy_poll);
            return Err(err);
        }
        Ok(tp)
    }
    /// `n` bytes were read: their packets are freed and the window opens.
    pub fn tcp_consume(&mut self, id: SocketId, n: usize) {
        let Shard { net, tcp, .. } = self;
        let Some(tp) = owned(&mut tcp.conns, id) else { return };
        let n = tp.rcvq.consume(net, tp.before_mark(n));
        if n > 0 {
            tp.cleanup_rbuf(net, n);
            self.tcp_settle(id.index);
        }
    }
    /// Copies what can be read into `buf`. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// As [`Shard::tcp_rx_slices`].
    pub fn tcp_recv(&mut self, id: SocketId, buf: &mut [u8]) -> Result<usize, TcpError> {
        let tp = self.tcp_reader(id)?;
        let most = tp.before_mark(buf.len());
        let n = tp.rcvq.copy(&mut buf[..most]);
        self.tcp_consume(id, n);
        Ok(n)
    }
    /// What can be read now.
    ///
    /// # Errors
    /// `NotConnected` if there is no such connection; its own error if it failed.
    pub fn tcp_readable(&self, id: SocketId) -> Result<RxState, TcpError> {
        let tp = self.tcp_conn(id).ok_or(TcpError::NotConnected)?;
        let state = RxState { bytes: tp.readable(), fin: tp.fin_rcvd };
        match tp.err {
            Some(err) if state.bytes == 0 && !state.fin => Err(err),
            _ => Ok(state),
        }
    }
    /// Sends a FIN after what is queued; receiving goes on (`shutdown(SHUT_WR)`).
    pub fn tcp_shutdown(&mut self, id: SocketId) {
        let Shard { net, tcp, .. } = self;
        let Some(tp) = owned(&mut tcp.conns, id) else { return };
        tp.shutdown(net);
        self.tcp_settle(id.index);
    }
    /// Closes the socket as `close(2)` does: what is queued is still sent; if something was not
    /// read, the peer gets a reset instead. Listeners and held SYNs are closed by this, too.
    pub fn tcp_close(&mut self, id: SocketId) {
        match id.kind {
            SockKind::Listen => return self.listen_stop(id),
            SockKind::Syn => return self.held_refuse(id, Refuse::Reset),
            _ => {}
        }
        let Shard { net, tcp, .. } = self;
        let Some(tp) = owned(&mut tcp.conns, id) else {
            return;
        };
        let unread = tp.rcvq.bytes() > 0;
        tcp.orphans += 1;
        tp.orphan = true;
        tp.rcvq.purge(net);
        match tp.state {
            State::Close => {}
            State::SynSent => tp.done(net, None),
            _ if !unread && tp.opts().is_some_and(|o| o.linger_s == Some(0)) => reset(net, tp),
            _ if unread => {
                // RFC 2525 §2.17: the peer must learn that its data was not read.
                net.counts.inc(id::TcpExtTCPAbortOnClose);
                tcp_send_active_reset(net, tp);
                tp.done(net, None);
            }
            _ => {
                tp.shutdown(net);
                if tp.state == State::FinWait2 && tp.opts().is_some_and(|o| o.linger2 < 0) {
                    net.counts.inc(id::TcpExtTCPAbortOnLinger);
                    tcp_send_active_reset(net, tp);
                    tp.done(net, None);
                }
                fin_wait2(net, tp);
            }
        }
        self.orphan_check(id.index);
        self.tcp_settle(id.index);
    }
    /// Resets the connection now, and closes the socket (linger time 0).
    pub fn tcp_abort(&mut self, id: SocketId) {
        if id.kind != SockKind::Tcp {
            return self.tcp_close(id);
        }
        let Shard { net, tcp, .. } = self;
        let Some(tp) = owned(&mut tcp.conns, id) else {
            return;
        };
        tcp.orphans += 1;
        tp.orphan = true;
        reset(net, tp);
        self.tcp_settle(id.index);
    }
    /// Whether a connection that was closed is still sending, or waits for the answer to its FIN: what
    /// a lingering close waits for (`sk_stream_wait_close`). False for one that is not closed.
    pub fn tcp_closing(&self, id: SocketId) -> bool {
        let tp = self.tcp.conns.get(id.index, id.generation).filter(|_| id.kind == SockKind::Tcp);
        tp.is_some_and(|tp| {
            tp.orphan && matches!(tp.state, State::FinWait1 | State::Closing | State::LastAck)
        })
    }
    /// Why the connection failed, if it did; told once (SO_ERROR).
    pub fn tcp_take_error(&mut self, id: SocketId) -> Option<TcpError> {
        owned(&mut self.tcp.conns, id).and_then(|tp| tp.err.take())
    }
    /// Why the connection failed, if it did.
    pub fn tcp_error(&self, id: SocketId) -> Option<TcpError> {
        self.tcp_conn(id).and_then(|tp| tp.err)
    }
    /// What a connection or a listener became ready for since this was last asked.
    pub fn take_ready(&mut self, id: SocketId) -> Ready {
        let pending = match id.kind {
            SockKind::Listen => {
                self.tcp.listeners.get_mut(id.index, id.generation).map(|l| &mut l.pending)
            }
            SockKind::Tcp => owned(&mut self.tcp.conns, id).map(|c| &mut c.pending),
            SockKind::Udp | SockKind::Syn | SockKind::Icmp => None,
        };
        pending.map(std::mem::take).unwrap_or_default()
    }
    /// A reading of the state of a connection or a listener (TCP_INFO).
    pub fn tcp_info(&self, id: SocketId) -> Option<TcpInfo> {
        if id.kind == SockKind::Listen {
            let l = self.tcp.listeners.get(id.index, id.generation)?;
            let (unacked, sacked) = (l.accept.len() as u32, l.limit(&self.net) as u32);
            return Some(TcpInfo { unacked, sacked, ..TcpInfo::of(State::Listen) });
        }
        self.tcp_conn(id).map(|tp| tp.info(&self.net))
    }
    /// Local and remote address of a connection, or of a held SYN.
    pub fn tcp_addrs(&self, id: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        let tuple = match id.kind {
            SockKind::Syn => self.tcp.reqs.get(id.index, id.generation).map(|r| &r.tuple),
            _ => self.tcp_conn(id).map(|tp| &tp.tuple),
        };
        tuple.map(|t| (t.local(), t.remote()))
    }
    /// Every TCP socket: listeners, half-open ones, connections, TIME_WAIT.
    pub fn tcp_iter(&self) -> impl Iterator<Item = SockRow> + '_ {
        self.tcp.rows(&self.net)
    }
    /// The figures of `/proc/net/sockstat`.
    pub fn tcp_sockstat(&self) -> SockStat {
        let tcp = &self.tcp;
        SockStat {
            inuse: (tcp.hashed + tcp.listeners.len()) as u64,
            orphan: tcp.orphans as u64,
            tw: tcp.tws.len() as u64,
            alloc: (tcp.conns.len() + tcp.listeners.len()) as u64,
            mem: (tcp.mem as u64).div_ceil(4096),
        }
    }
}

/// Resets a connection that its owner does not want any more.
fn reset(net: &mut Net, tp: &mut Tcb) {
    if tp.state.synchronized() || tp.state == State::SynRecv {
        net.counts.inc(id::TcpExtTCPAbortOnData);
        tcp_send_active_reset(net, tp);
    }
    tp.done(net, None);
}

/// A connection that the application may name: not one that it has closed.
pub(super) fn owned(conns: &mut Arena<Tcb>, id: SocketId) -> Option<&mut Tcb> {
    if id.kind != SockKind::Tcp {
        return None;
    }
    let tp = conns.get_mut(id.index, id.generation)?;
    (!tp.orphan).then_some(tp)
}

impl super::Sockets {
    pub(crate) fn listener(&mut self, id: SocketId) -> Option<&mut Listener> {
        if id.kind != SockKind::Listen {
            return None;
        }
        self.listeners.get_mut(id.index, id.generation)
    }
}

impl Shard {
    pub(super) fn tcp_conn(&self, id: SocketId) -> Option<&Tcb> {
        if id.kind != SockKind::Tcp {
            return None;
        }
        self.tcp.conns.get(id.index, id.generation).filter(|tp| !tp.orphan)
    }
}

impl Tcb {
    /// `Ok` if there is something to read, or the end.
    fn nothing_to_read(&self) -> Result<(), TcpError> {
        if self.readable() > 0 || self.fin_rcvd {
            return Ok(());
        }
        match (self.err, self.state) {
            (Some(err), _) => Err(err),
            (None, State::Close) => Ok(()),
            _ => Err(TcpError::WouldBlock),
        }
    }
    /// A FIN ends the queue (`tcp_close_state`, `tcp_send_fin`).
    fn shutdown(&mut self, net: &mut Net) {
        if self.fin_queued {
            return;
        }
        let next = match self.state {
            State::Established | State::SynRecv => State::FinWait1,
            State::CloseWait => State::LastAck,
            State::SynSent => {
                self.fin_queued = true;
                return;
            }
            _ => return,
        };
        self.fin_queued = true;
        self.push = true;
        if self.state != State::SynRecv {
            self.set_state(net, next);
        }
    }
}
