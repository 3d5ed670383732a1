//! The services of one shard: its sockets, its connections, and what they speak.
//!
//! Every shard has all services, on sockets of its own: whoever connects is served by the shard that
//! the network card chose. Nothing here waits; each connection does a bounded piece of work in a turn.

pub mod dns;
mod http;
mod iperf3;
mod stream;
#[cfg(test)]
mod tests;
mod udp;

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use linerate_core::shard::Shard;
use linerate_core::sock::error::BindError;
use linerate_core::sock::{Ready, SockKind, SocketId};
use linerate_core::tcp::{Listen, TcpOpt};
use linerate_core::time::{Instant, Wheel};
use linerate_core::udp::api::UdpBind;
use linerate_dev::drive::App;
use linerate_dev::file::FileCache;
use linerate_dev::poller::{Event, Poller};

use super::config::{Kind, Service};

/// Connections of one shard at the most, all services together; more are reset.
const CONNS_MAX: usize = 65_536;
/// Events served in a turn.
const EVENTS_PER_TURN: usize = 512;
/// Connections accepted by one listener in a turn.
const ACCEPTS_PER_TURN: usize = 128;
/// Connections that wait to be accepted; bounded by `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Bytes of files that a service keeps in memory at the most, for all shards.
const FILES_BYTES: usize = 64 << 20;

/// A service as all shards share it, with what was opened for it.
#[derive(Debug)]
pub struct Served {
    /// What was asked for.
    pub service: Service,
    /// The directory of its files.
    root: Option<OwnedFd>,
    /// Those that were asked for lately.
    files: FileCache,
    /// What its shards share.
    iperf3: Option<Arc<iperf3::Server>>,
}

impl Served {
    /// Opens what the service needs.
    ///
    /// # Errors
    /// A sentence: its directory can not be opened.
    pub fn open(service: Service) -> Result<Arc<Served>, String> {
        let root = match &service.kind {
            Kind::Http(path) => Some(http::open_root(path).map_err(|e| {
                service.at.wrong(format!("{}: {e}: name a directory we may read", path.display()))
            })?),
            _ => None,
        };
        let Service { addr, port, .. } = service;
        let iperf3 = (service.kind == Kind::Iperf3).then(|| iperf3::Server::at(addr, port));
        Ok(Arc::new(Served { service, root, files: FileCache::new(FILES_BYTES), iperf3 }))
    }
}

/// The sockets of a service on this shard.
struct Bound {
    served: Arc<Served>,
    listener: Option<SocketId>,
    udp: Option<SocketId>,
    /// Streams over UDP.
    iperf3: iperf3::udp::Local,
}

/// What a connection does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing until something happens to it.
    Idle,
    /// More, in the next turn.
    More,
    /// Nothing any more: it is closed, and what is queued is still sent.
    Close,
    /// Nothing any more: it is reset.
    Abort,
}

/// What a connection speaks, with what is known of it.
enum Conn {
    Echo,
    Discard,
    Chargen { at: usize },
    Http(Box<http::Conn>),
    Dns(Box<dns::Stream>),
    Iperf3(Box<iperf3::Conn>),
}

impl Conn {
    /// `order`: which of the connections to an iperf3 server it is.
    fn new(served: &Arc<Served>, order: u64, now: Instant) -> Conn {
        if let Some(server) = &served.iperf3 {
            let conn = iperf3::Conn::new(Arc::clone(server), order, now);
            return Conn::Iperf3(Box::new(conn));
        }
        match &served.service.kind {
            Kind::Echo => Conn::Echo,
            Kind::Discard | Kind::Iperf3 => Conn::Discard,
            Kind::Chargen => Conn::Chargen { at: 0 },
            Kind::Http(_) => Conn::Http(Box::new(http::Conn::new(Arc::clone(served), now))),
            Kind::Dns(_) => Conn::Dns(Box::new(dns::Stream::new(Arc::clone(served), now))),
        }
    }

    fn step(&mut self, shard: &mut Shard, id: SocketId, scratch: &mut Scratch) -> Step {
        match self {
            Conn::Echo => stream::echo(shard, id, &mut scratch.bytes),
            Conn::Discard => stream::discard(shard, id),
            Conn::Chargen { at } => stream::chargen(shard, id, at),
            Conn::Http(http) => http.step(shard, id, scratch),
            Conn::Dns(dns) => dns.step(shard, id, scratch),
            Conn::Iperf3(iperf3) => iperf3.step(shard, id, scratch),
        }
    }

    /// When it has waited long enough.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Conn::Http(http) => Some(http.deadline()),
            Conn::Dns(dns) => Some(dns.deadline()),
            Conn::Iperf3(iperf3) => Some(iperf3.deadline()),
            _ => None,
        }
    }

    /// It has waited long enough; or not yet, if its deadline is a later one now.
    fn expired(&mut self, shard: &Shard, id: SocketId) -> Step {
        match self {
            Conn::Http(http) => http.expired(shard, id),
            Conn::Iperf3(iperf3) => iperf3.expired(shard.net.now),
            _ => Step::Close,
        }
    }
}

/// Bytes that an empty buffer of a connection keeps: the next request most often fits, and a client
/// that once sent much does not hold it as long as it is idle.
const IDLE_BYTES: usize = 512;

/// Gives back the memory of a buffer that is empty now and was large.
fn settle(buffer: &mut Vec<u8>) {
    if buffer.is_empty() {
        buffer.shrink_to(IDLE_BYTES);
    }
}

/// Memory that every connection uses in its turn.
struct Scratch {
    bytes: Vec<u8>,
    text: Vec<u8>,
}

/// A connection.
struct Slot {
    id: SocketId,
    conn: Conn,
    /// It stands in the list of those that have more to do.
    busy: bool,
    /// The timer's time, if it runs.
    armed: Option<Instant>,
}

/// The services of one shard.
pub struct Services {
    bound: Vec<Bound>,
    /// By the index of the socket.
    conns: Vec<Option<Slot>>,
    count: usize,
    busy: VecDeque<SocketId>,
    timers: Wheel,
    fired: Vec<u32>,
    /// SYNs to iperf3 servers that were answered.
    knocks: iperf3::Knocks,
    scratch: Scratch,
}

impl Services {
    /// Opens the sockets of all services.
    ///
    /// # Errors
    /// The service whose socket can not be opened, and why.
    pub fn new(shard: &mut Shard, services: &[Arc<Served>]) -> Result<Services, String> {
        let mut new = Services {
            bound: Vec::new(),
            conns: Vec::new(),
            count: 0,
            busy: VecDeque::new(),
            timers: Wheel::default(),
            fired: Vec::new(),
            knocks: iperf3::Knocks::default(),
            scratch: Scratch { bytes: vec![0; 1 << 16], text: Vec::new() },
        };
        new.replace(shard, services)?;
        Ok(new)
    }

    /// From now on these are the services. Sockets that are in both stay open; connections go on
    /// with the service that they were accepted for.
    ///
    /// # Errors
    /// As [`Services::new`]; those before it in the list are open then.
    pub fn replace(&mut self, shard: &mut Shard, services: &[Arc<Served>]) -> Result<(), String> {
        let same = |a: &Service, b: &Service| (a.addr, a.port) == (b.addr, b.port);
        let mut old = std::mem::take(&mut self.bound);
        // Those that go make room for those that come.
        let stays = |b: &Bound| services.iter().any(|s| same(&s.service, &b.served.service));
        for gone in old.extract_if(.., |b| !stays(b)) {
            self.unbind(shard, gone);
        }
        let mut failed = None;
        for served in services {
            let found = old.iter().position(|b| same(&b.served.service, &served.service));
            let mut bound = match found {
                Some(at) => old.swap_remove(at),
                None => Bound::new(served),
            };
            let opened = bound.open(shard, served);
            self.bound.push(bound);
            if let Err(e) = opened {
                failed = failed.or(Some(served.service.at.wrong(e)));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn unbind(&mut self, shard: &mut Shard, mut bound: Bound) {
        if let Some(listener) = bound.listener {
            // They were established under the old service, and lose nothing by its end.
            self.accept(shard, &bound.served, listener, usize::MAX);
            shard.tcp_close(listener);
        }
        if let Some(udp) = bound.udp {
            bound.serve(shard, udp, &mut self.scratch.text, usize::MAX);
            shard.udp_close(udp);
        }
    }

    fn accept(
        &mut self,
        shard: &mut Shard,
        served: &Arc<Served>,
        listener: SocketId,
        most: usize,
    ) -> bool {
        for _ in 0..most {
            let Some(id) = shard.tcp_accept(listener) else { return false };
            if self.count >= CONNS_MAX {
                shard.tcp_abort(id);
                continue;
            }
            let keepalive = shard.tcp_keepalive();
            // It was accepted this moment: the calls can not fail.
            let _ = shard.tcp_set(id, TcpOpt::NoDelay(true));
            let _ = shard.tcp_set(id, TcpOpt::KeepAlive(Some(keepalive)));
            let server = served.iperf3.as_ref();
            let order = server.map_or(0, |server| self.knocks.take(shard, id, server));
            self.insert(id, Conn::new(served, order, shard.net.now));
            // What came with the handshake, or a service that speaks first.
            self.run(shard, id);
        }
        true
    }

    fn insert(&mut self, id: SocketId, conn: Conn) {
        let at = id.index as usize;
        if self.conns.len() <= at {
            self.conns.resize_with(at + 1, || None);
        }
        let slot = Slot { id, conn, busy: false, armed: None };
        if self.conns[at].replace(slot).is_none() {
            self.count += 1;
        }
    }

    fn remove(&mut self, id: SocketId) -> Option<Conn> {
        let place = self.conns.get_mut(id.index as usize)?;
        let slot = place.take_if(|s| s.id == id)?;
        self.count -= 1;
        self.timers.cancel(id.index);
        Some(slot.conn)
    }

    /// Lets a connection do a piece of its work.
    fn run(&mut self, shard: &mut Shard, id: SocketId) {
        let slot = self.conns.get_mut(id.index as usize).and_then(Option::as_mut);
        let Some(slot) = slot.filter(|s| s.id == id) else {
            // Nobody knows it: it would stay for ever.
            return shard.tcp_close(id);
        };
        let step = slot.conn.step(shard, id, &mut self.scratch);
        if step == Step::More && !slot.busy {
            slot.busy = true;
            self.busy.push_back(id);
        }
        if let Some(at) = slot.conn.deadline()
            && slot.armed.is_none_or(|armed| at < armed)
        {
            slot.armed = Some(at);
            self.timers.arm(id.index, at);
        }
        self.finish(shard, id, step);
    }

    fn finish(&mut self, shard: &mut Shard, id: SocketId, step: Step) {
        match step {
            Step::Idle | Step::More => {}
            Step::Close => {
                self.remove(id);
                shard.tcp_close(id);
            }
            Step::Abort => {
                self.remove(id);
                shard.tcp_abort(id);
            }
        }
    }

    /// Serves an event; true if the socket has more.
    fn event(&mut self, shard: &mut Shard, id: SocketId) -> bool {
        match id.kind {
            SockKind::Listen => {
                shard.take_ready(id);
                let bound = self.bound.iter().find(|b| b.listener == Some(id));
                let Some(served) = bound.map(|b| Arc::clone(&b.served)) else { return false };
                self.knocks.answer(shard, id, served.iperf3.as_ref());
                self.accept(shard, &served, id, ACCEPTS_PER_TURN)
            }
            SockKind::Udp => {
                let Some(bound) = self.bound.iter_mut().find(|b| b.udp == Some(id)) else {
                    return false;
                };
                // A client that is gone has nothing to be told.
                while shard.udp_take_error(id).is_some() {}
                bound.serve(shard, id, &mut self.scratch.text, udp::PER_TURN)
            }
            SockKind::Tcp => {
                let ready = shard.take_ready(id);
                self.run(shard, id);
                if ready.has(Ready::ERR | Ready::HUP) {
                    self.finish(shard, id, Step::Close);
                }
                false
            }
            _ => false,
        }
    }

    fn timeouts(&mut self, shard: &mut Shard) {
        let now = shard.net.now;
        let mut fired = std::mem::take(&mut self.fired);
        self.timers.expire(now, &mut fired);
        for index in fired.drain(..) {
            let slot = self.conns.get_mut(index as usize).and_then(Option::as_mut);
            let Some(slot) = slot else { continue };
            slot.armed = None;
            let (id, deadline) = (slot.id, slot.conn.deadline());
            match deadline {
                Some(at) if at > now => {
                    slot.armed = Some(at);
                    self.timers.arm(index, at);
                }
                Some(_) => match slot.conn.expired(shard, id) {
                    Step::More => self.run(shard, id),
                    Step::Idle => {
                        slot.armed = slot.conn.deadline();
                        self.timers.arm(index, slot.armed.unwrap_or(now));
                    }
                    step => self.finish(shard, id, step),
                },
                None => {}
            }
        }
        self.fired = fired;
    }
}

impl Bound {
    fn new(served: &Arc<Served>) -> Bound {
        let (served, iperf3) = (Arc::clone(served), iperf3::udp::Local::default());
        Bound { served, listener: None, udp: None, iperf3 }
    }

    /// Serves datagrams that wait; true if more may wait.
    fn serve(&mut self, shard: &mut Shard, id: SocketId, text: &mut Vec<u8>, most: usize) -> bool {
        match &self.served.iperf3 {
            Some(server) => self.iperf3.serve(shard, id, server, most),
            None => udp::serve(shard, id, &self.served, text, most),
        }
    }

    /// Opens what the service needs and has not, and closes what it needs no more.
    fn open(&mut self, shard: &mut Shard, served: &Arc<Served>) -> Result<(), BindError> {
        self.served = Arc::clone(served);
        let Service { addr, port, ref kind, .. } = served.service;
        let (tcp, udp) = kind.transports();
        if tcp && self.listener.is_none() {
            // The order of an iperf3 client's SYNs says what each connection is.
            let hold_syn = *kind == Kind::Iperf3;
            let listen = Listen { addr, port, backlog: BACKLOG, hold_syn, ..Listen::default() };
            self.listener = Some(shard.tcp_listen(listen)?);
        }
        if udp && self.udp.is_none() {
            // One socket for all streams of an iperf3 client, and a turn may bring a full budget.
            let rcvbuf = if *kind == Kind::Iperf3 { iperf3::udp::RCVBUF } else { 0 };
            self.udp =
                Some(shard.udp_bind(UdpBind { addr, port, rcvbuf, ..UdpBind::default() })?);
        }
        if let Some(gone) = self.udp.take_if(|_| !udp) {
            shard.udp_close(gone);
        }
        Ok(())
    }
}

impl App for Services {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        for _ in 0..self.busy.len().min(EVENTS_PER_TURN) {
            let Some(id) = self.busy.pop_front() else { break };
            if id.kind != SockKind::Tcp {
                if self.event(shard, id) {
                    self.busy.push_back(id);
                }
                continue;
            }
            let slot = self.conns.get_mut(id.index as usize).and_then(Option::as_mut);
            if let Some(slot) = slot.filter(|s| s.id == id) {
                slot.busy = false;
                self.run(shard, id);
            }
        }
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = shard.poll_event() else { break };
            if self.event(shard, event.id) && !self.busy.contains(&event.id) {
                self.busy.push_back(event.id);
            }
        }
        self.timeouts(shard);
        let mut more = false;
        for bound in &mut self.bound {
            if let (Some(server), Some(id)) = (&bound.served.iperf3, bound.udp) {
                more |= bound.iperf3.turn(shard, id, server, &mut self.scratch.text);
            }
        }
        Ok(more || !self.busy.is_empty() || !shard.net.events.is_empty())
    }

    fn leave(&mut self, socket: SocketId) -> Option<Box<dyn Any + Send>> {
        self.remove(socket).map(|conn| Box::new(conn) as Box<dyn Any + Send>)
    }

    fn arrive(&mut self, shard: &mut Shard, socket: SocketId, state: Box<dyn Any + Send>) {
        let Ok(conn) = state.downcast::<Conn>() else { return shard.tcp_abort(socket) };
        self.insert(socket, *conn);
        // Whatever it waited for may have come on the way.
        self.run(shard, socket);
    }

    fn next_timer(&self) -> Option<Instant> {
        let streams = self.bound.iter().filter_map(|b| b.iperf3.next_timer());
        streams.chain(self.timers.next()).min()
    }
}
