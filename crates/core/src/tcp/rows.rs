//! Lines of `/proc/net/tcp` and `/proc/net/sockstat`.

use std::net::SocketAddr;

use super::timer::Rtx;
use super::{Earlier, Sockets, State, Tcb};
use crate::shard::Net;
use crate::sock::SocketId;
use crate::time::{Instant, MS};

/// One line of `/proc/net/tcp`.
#[derive(Clone, Copy, Debug)]
pub struct SockRow {
    /// Its name; `None` for TIME_WAIT, which the application can not name.
    pub id: Option<SocketId>,
    /// State.
    pub state: State,
    /// Its address.
    pub local: SocketAddr,
    /// The peer's; unspecified for listeners.
    pub remote: SocketAddr,
    /// Bytes to be read; on listeners, connections to be accepted.
    pub rx_queue: u64,
    /// Bytes not acknowledged; on listeners, the most connections that may wait.
    pub tx_queue: u64,
    /// Which timer runs, as in `/proc/net/tcp`: 0 none, 1 retransmission, 2 keepalive, 3 TIME_WAIT, 4 zero-window probe.
    pub timer: u8,
    /// Milliseconds until it fires.
    pub timer_ms: u64,
    /// Timeouts in a row.
    pub retransmits: u8,
    /// The application's number.
    pub user: u64,
}

/// The TCP line of `/proc/net/sockstat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockStat {
    /// Listeners and connections.
    pub inuse: u64,
    /// Connections that the application has closed already.
    pub orphan: u64,
    /// TIME_WAIT entries.
    pub tw: u64,
    /// Sockets that hold memory.
    pub alloc: u64,
    /// Memory of queues in pages of 4096 bytes.
    pub mem: u64,
}

impl Tcb {
    fn row(&self, now: Instant) -> SockRow {
        let (timer, at) = match self.rtx_kind {
            Rtx::Probe0 => (4, self.rtx_at),
            Rtx::None if self.keep_at != Instant::NEVER => (2, self.keep_at),
            Rtx::None => (0, now),
            _ => (1, self.rtx_at),
        };
        SockRow {
            id: (!self.orphan).then_some(self.id),
            state: self.state,
            local: self.tuple.local(),
            remote: self.tuple.remote(),
            rx_queue: self.rcvq.bytes() as u64,
            tx_queue: self.queued() as u64,
            timer,
            timer_ms: at.min2(Instant::from_ns(i64::MAX as u64)).since(now) / MS,
            retransmits: self.retransmits,
            user: self.user,
        }
    }
}

impl Sockets {
    /// Listeners, half-open connections, connections, TIME_WAIT.
    pub(crate) fn rows<'a>(&'a self, net: &'a Net) -> impl Iterator<Item = SockRow> + 'a {
        let now = net.now;
        let empty = |state, local, remote| SockRow {
            id: None,
            state,
            local,
            remote,
            rx_queue: 0,
            tx_queue: 0,
            timer: 0,
            timer_ms: 0,
            retransmits: 0,
            user: 0,
        };
        let listeners = self.listeners.iter().map(move |(_, _, l)| {
            let local = l.local();
            let nobody = SocketAddr::new(local.ip(), 0);
            SockRow {
                id: Some(l.id),
                rx_queue: l.accept.len() as u64,
                tx_queue: l.limit(net),
                user: l.user,
                ..empty(State::Listen, local, SocketAddr::new([0, 0, 0, 0].into(), nobody.port()))
            }
        });
        let reqs = self.reqs.iter().map(move |(_, _, r)| SockRow {
            timer: 1,
            timer_ms: r.due.since(now) / MS,
            retransmits: r.retries,
            ..empty(State::SynRecv, r.tuple.local(), r.tuple.remote())
        });
        let conns = self.conns.iter().filter(|(_, _, c)| c.state != State::Close);
        let conns = conns.map(move |(_, _, c)| c.row(now));
        let tws = self.tws.iter().map(move |(_, _, t)| SockRow {
            timer: 3,
            timer_ms: t.expires.since(now) / MS,
            ..empty(t.state(), t.tuple.local(), t.tuple.remote())
        });
        listeners.chain(reqs).chain(conns).chain(tws)
    }
}
