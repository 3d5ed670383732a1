//! A connection changes shards: it is taken out of one with everything that belongs to it, travels
//! as a [`Moved`], and is put into another. Nothing of it is sent, dropped or forgotten meanwhile.
//!
//! before: a shard that hands it over, or ends   after: the other shard's tables
//! Linux:  nothing: there any CPU may touch any socket. What a socket means to RFS is followed.
//! drops:  none

use std::net::SocketAddr;

use super::demux::Ref;
use super::listen::Listener;
use super::md5::Md5Sig;
use super::output::tcp_send_active_reset;
use super::request::Req;
use super::timewait::TimeWait;
use super::{Sockets, State, Tcb, Tuple};
use crate::rx::steer::FlowKey;
use crate::shard::{Net, Shard};
use crate::sock::error::TcpError;
use crate::sock::{Ready, SockKind, SocketId};
use crate::table::count::id;
use crate::time::{Instant, MS, SEC};

/// A connection, a half-open one or a TIME_WAIT entry on its way from one shard to another.
///
/// Give it to [`Shard::tcp_attach`]. Dropping it loses the connection without a word to its peer.
#[must_use = "a connection that is not attached again is lost"]
pub struct Moved {
    what: What,
    was: Option<SocketId>,
    left_at: Instant,
}

enum What {
    Conn(Box<Tcb>),
    Req(Box<Req>),
    /// With the key that its answers are signed by.
    Tw(TimeWait, Option<Box<Md5Sig>>),
}

/// Clocks of shards that differ by less count as one: what a turn of a loop takes, and the mail.
const SAME_CLOCK: u64 = SEC;

impl Moved {
    fn tuple(&self) -> &Tuple {
        match &self.what {
            What::Conn(tp) => &tp.tuple,
            What::Req(req) => &req.tuple,
            What::Tw(tw, _) => &tw.tuple,
        }
    }
    /// Its two ends are its own: another connection may have those of a closed one.
    fn is_hashed(&self) -> bool {
        !matches!(&self.what, What::Conn(tp) if !tp.hashed)
    }
    /// Its local and its remote end.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.tuple().local(), self.tuple().remote())
    }
    /// The same, as the shards' directory knows it.
    pub fn flow_key(&self) -> FlowKey {
        self.tuple().flow_key()
    }
    /// The name by which the application of the old shard knew it; `None` where the application
    /// knew nothing of it, or nothing any more: half-open, not yet accepted, closed, TIME_WAIT.
    pub fn was(&self) -> Option<SocketId> {
        self.was
    }
}

impl Shard {
    /// Takes a connection out of this shard, in whatever state it is, or a half-open one whose SYN
    /// is held. Its name is not valid any more. `None` if there is no such connection.
    pub fn tcp_detach(&mut self, id: SocketId) -> Option<Moved> {
        match id.kind {
            SockKind::Tcp => {
                let tp = self.tcp.conns.get(id.index, id.generation)?;
                if tp.orphan {
                    return None;
                }
                self.detach_conn(id.index)
            }
            SockKind::Syn => {
                self.tcp.reqs.get(id.index, id.generation)?;
                self.detach_req(id.index)
            }
            SockKind::Udp | SockKind::Listen | SockKind::Icmp => None,
        }
    }

    /// Takes everything out that can move: connections (also closed ones that are still sending,
    /// and those that nobody has accepted yet), half-open ones, TIME_WAIT. Listeners stay, empty.
    pub fn tcp_detach_all(&mut self) -> Vec<Moved> {
        let conns: Vec<u32> = self.tcp.conns.iter().map(|(i, _, _)| i).collect();
        let reqs: Vec<u32> = self.tcp.reqs.iter().map(|(i, _, _)| i).collect();
        let tws: Vec<u32> = self.tcp.tws.iter().map(|(i, _, _)| i).collect();
        let mut all = Vec::with_capacity(conns.len() + reqs.len() + tws.len());
        all.extend(conns.into_iter().filter_map(|i| self.detach_conn(i)));
        all.extend(reqs.into_iter().filter_map(|i| self.detach_req(i)));
        let left_at = self.net.now;
        let tws = tws.into_iter().filter_map(|i| self.tw_unlink(i));
        all.extend(tws.map(|(tw, key)| Moved { what: What::Tw(tw, key), was: None, left_at }));
        all
    }

    fn detach_conn(&mut self, index: u32) -> Option<Moved> {
        let hashed = self.tcp.conns.at(index)?.hashed;
        if hashed {
            let hash = self.tcp.conns.at(index)?.hash;
            // Not as at its end: the directory says where it goes, or that it is under way.
            self.tcp.demux.remove(hash, Ref::Conn(index));
            self.tcp.hashed -= 1;
        }
        let Shard { net, tcp, .. } = self;
        tcp.conn_timers.cancel(index);
        let mut tp = tcp.conns.remove(index)?;
        tp.leaving = false;
        tp.push |= std::mem::take(&mut tp.dirty);
        tcp.mem = tcp.mem.saturating_sub(std::mem::take(&mut tp.charged));
        if tp.orphan {
            tcp.orphans -= 1;
        }
        if tp.state.current() {
            net.counts.dec(id::TcpCurrEstab);
        }
        if let Some(lid) = tp.listener
            && let Some(l) = tcp.listeners.get_mut(lid.index, lid.generation)
        {
            l.accept.retain(|waiting| *waiting != tp.id);
        } else if tp.pending.0 != 0 {
            net.events.forget(tp.id);
        }
        if tp.fastopen_child() {
            // Accepted or not, and of several listeners at its port any may have it.
            let counts = |(_, _, l): &(u32, u32, &Listener)| l.fastopenq.contains(&tp.id);
            let found = tcp.listeners.iter().find(counts).map(|(at, ..)| at);
            if let Some(l) = found.and_then(|at| tcp.listeners.at_mut(at)) {
                l.fastopenq.retain(|child| *child != tp.id);
            }
        }
        tp.rcvq.leave(net);
        let was = (!tp.orphan && tp.listener.is_none()).then_some(tp.id);
        Some(Moved { what: What::Conn(Box::new(tp)), was, left_at: net.now })
    }

    fn detach_req(&mut self, index: u32) -> Option<Moved> {
        let req = self.reqsk_unlink(index)?;
        Some(Moved { what: What::Req(Box::new(req)), was: None, left_at: self.net.now })
    }

    /// Puts what came from another shard into this one's tables, arms its timers and tells of what
    /// it is ready for, under the number that the application there gave it. Returns its name here
    /// if it is a connection that belongs to the application.
    ///
    /// A connection that waits to be accepted goes to the listener that has its port here; without
    /// one it is reset, as when its listener is closed. Where both shards came to have a connection
    /// between the same two ends, the established one stays and the other fails with `InUse`.
    pub fn tcp_attach(&mut self, mut moved: Moved) -> Option<SocketId> {
        let shift = self.net.now.ns() as i64 - moved.left_at.ns() as i64;
        if shift.unsigned_abs() > SAME_CLOCK {
            moved.retime(shift);
        } else if shift < 0 {
            // The old shard took its time later than we did. Ours goes on to there: the peer does not
            // accept timestamps that go back (PAWS).
            self.net.now = moved.left_at;
        }
        // Said before, so that what finds no place here is forgotten at once, although the shard that
        // it left has not said yet where it went; and after, because whoever makes way for it takes
        // himself out of the directory.
        let key = moved.flow_key();
        if moved.is_hashed()
            && let Some(mesh) = &self.net.steer.mesh
        {
            mesh.homes.moved(key, self.net.cpu);
        }
        let id = match moved.what {
            What::Conn(tp) => self.attach_conn(tp),
            What::Req(req) => {
                self.attach_req(*req);
                None
            }
            What::Tw(tw, key) => {
                self.attach_tw(tw, key);
                None
            }
        };
        self.lives_here(&key);
        id
    }

    /// Tells the other shards, if there are any, that what has these ends lives here.
    fn lives_here(&self, key: &FlowKey) {
        let Net { cpu, steer, .. } = &self.net;
        let Some(mesh) = &steer.mesh else { return };
        let (local, remote) = (key.local, key.remote);
        let (lport, rport) = (local.port(), remote.port());
        let tuple = Tuple { local: local.ip(), remote: remote.ip(), lport, rport };
        if self.tcp.find(self.tcp.demux.hash(&tuple), &tuple).is_some() {
            mesh.homes.moved(*key, *cpu);
        } else {
            mesh.homes.forget(key, *cpu);
        }
    }

    fn attach_conn(&mut self, mut tp: Box<Tcb>) -> Option<SocketId> {
        tp.hash = self.tcp.demux.hash(&tp.tuple);
        let lost = tp.hashed && !self.make_way(&tp);
        let hashed = std::mem::take(&mut tp.hashed) && !lost;
        tp.arrived_at = self.net.now;
        let listener = tp.listener.take();
        let Shard { net, tcp, .. } = self;
        if tp.state.current() {
            net.counts.inc(id::TcpCurrEstab);
        }
        tcp.orphans += usize::from(tp.orphan);
        tp.rcvq.arrive(net);
        let index = tcp.add(*tp, hashed);
        let tp = tcp.conns.at_mut(index)?;
        let id = tp.id;
        if lost {
            tp.done(net, Some(TcpError::InUse));
        }
        let told = std::mem::take(&mut tp.pending);
        if listener.is_some() {
            tp.pending = told;
            self.attach_child(index);
        } else {
            let ready = told | tp.level(net);
            if ready.0 != 0 {
                tp.raise(net, ready);
            }
        }
        self.attach_fastopen(index);
        let owned = listener.is_none() && self.tcp.conns.at(index).is_some_and(|tp| !tp.orphan);
        if let Some(tp) = self.tcp.conns.at_mut(index) {
            tp.push |= tp.state.synchronized() && tp.unsent();
        }
        self.tcp_settle(index);
        owned.then_some(id)
    }

    /// Whether a connection that comes may have its two ends: whoever has them here gives way
    /// unless it is an established connection itself.
    fn make_way(&mut self, tp: &Tcb) -> bool {
        match self.tcp.find(tp.hash, &tp.tuple) {
            None => true,
            Some(Ref::Tw(at)) => {
                self.tw_kill(at);
                true
            }
            Some(Ref::Req(at)) => {
                self.reqsk_unlink(at);
                true
            }
            Some(Ref::Conn(at)) => {
                let Shard { net, tcp, .. } = self;
                let Some(here) = tcp.conns.at_mut(at) else { return false };
                if here.state.synchronized() || !tp.state.synchronized() {
                    return false;
                }
                here.done(net, Some(TcpError::InUse));
                self.tcp_settle(at);
                true
            }
        }
    }

    /// A connection that nobody has accepted: to the listener that has its port here.
    fn attach_child(&mut self, index: u32) {
        let Shard { net, tcp, .. } = self;
        let Some(tp) = tcp.conns.at_mut(index) else { return };
        let found = tcp.listen.find(&tcp.listeners, tp.tuple.local, tp.tuple.lport);
        if let Some(l) = found.and_then(|at| tcp.listeners.at_mut(at)) {
            tp.listener = Some(l.id);
            tp.user = l.user;
            l.accept.push_back(tp.id);
            net.events.raise(l.id, l.user, &mut l.pending, Ready::IN);
            return;
        }
        if tp.state != State::Close {
            tcp_send_active_reset(net, tp);
            tp.done(net, None);
        }
        tp.orphan = true;
        tcp.orphans += 1;
    }

    /// A connection that a SYN opened, and whose handshake is not over, counts at the listener that has its port
    /// here, also if it was accepted.
    fn attach_fastopen(&mut self, index: u32) {
        let Sockets { conns, listen, listeners, .. } = &mut self.tcp;
        let Some(tp) = conns.at(index).filter(|tp| tp.fastopen_child()) else { return };
        let found = listen.find(listeners, tp.tuple.local, tp.tuple.lport);
        if let Some(l) = found.and_then(|at| listeners.at_mut(at)) {
            l.fastopenq.push(tp.id);
        }
    }

    fn attach_req(&mut self, mut req: Req) {
        let Shard { net, tcp, .. } = self;
        req.hash = tcp.demux.hash(&req.tuple);
        let found = tcp.listen.find(&tcp.listeners, req.tuple.local, req.tuple.lport);
        let taken = tcp.find(req.hash, &req.tuple).is_some();
        let Some(l) = found.filter(|_| !taken).and_then(|at| tcp.listeners.at_mut(at)) else {
            // Its peer sends the SYN again, or learns by a reset that nobody listens any more.
            net.counts.inc(id::TcpAttemptFails);
            return;
        };
        req.listener = l.id;
        let answer = req.held.is_some() && !l.hold_syn;
        if answer {
            // Nobody here judges SYNs.
            req.held = None;
        }
        l.qlen += 1;
        let (tuple, hash, due, held) = (req.tuple, req.hash, req.due, req.held.is_some());
        let (index, generation) = tcp.reqs.insert(req);
        tcp.demux.insert(hash, Ref::Req(index));
        tcp.req_timers.arm(index, due);
        if held {
            tcp.listen.hold(&tuple);
            l.held.push_back(SocketId { kind: SockKind::Syn, index, generation });
            net.events.raise(l.id, l.user, &mut l.pending, Ready::IN);
        }
        if answer {
            self.send_synack(index, None);
        }
    }

    fn attach_tw(&mut self, mut tw: TimeWait, key: Option<Box<Md5Sig>>) {
        let Shard { net, tcp, .. } = self;
        tw.hash = tcp.demux.hash(&tw.tuple);
        let room = (tcp.tws.len() as u64) < net.knobs.tcp_max_tw_buckets;
        if room && tcp.find(tw.hash, &tw.tuple).is_none() {
            let (at, _) = tcp.tws.insert(tw);
            if let Some(key) = key {
                tcp.tw_keys.insert(at, key);
            }
            tcp.demux.insert(tw.hash, Ref::Tw(at));
            tcp.tw_timers.arm(at, tw.expires);
        }
    }
}

impl Moved {
    /// The clock here began at another time: every point of time moves by `shift` nanoseconds, and
    /// what the peer sees of the clock stays as it was.
    fn retime(&mut self, shift: i64) {
        let at = |t: &mut Instant| *t = t.shifted(shift);
        let ts = |offset: &mut u32| *offset = offset.wrapping_sub((shift / MS as i64) as u32);
        match &mut self.what {
            What::Conn(tp) => tp.retime(shift),
            What::Req(req) => {
                at(&mut req.sent_at);
                at(&mut req.due);
                at(&mut req.oow_at);
                ts(&mut req.ts_offset);
            }
            What::Tw(tw, _) => {
                at(&mut tw.expires);
                ts(&mut tw.ts_offset);
                tw.last_ms = tw.last_ms.wrapping_add((shift / MS as i64) as u32);
                tw.oow_ms = 0;
            }
        }
    }
}

impl Tcb {
    fn retime(&mut self, shift: i64) {
        self.ts_offset = self.ts_offset.wrapping_sub((shift / MS as i64) as u32);
        self.chrono.retime(shift / MS as i64);
        let points = [
            &mut self.ts_recent_at,
            &mut self.rtx_at,
            &mut self.delack_at,
            &mut self.keep_at,
            &mut self.idle_at,
            &mut self.min_rtt_at,
            &mut self.rack_sent,
            &mut self.rcvq_at,
            &mut self.rcv_rtt_at,
            &mut self.lrcvtime,
            &mut self.lsndtime,
            &mut self.rcv_tstamp,
            &mut self.confirmed_at,
            &mut self.oow_ack_at,
            &mut self.stall_at,
        ];
        for point in points {
            *point = point.shifted(shift);
        }
        self.sndq.rtx.iter_mut().for_each(|t| t.sent = t.sent.shifted(shift));
        if let Some(hints) = &mut self.sndq.hints {
            hints.forget_order();
        }
        if let Some(ofo) = &mut self.rcvq.ofo {
            ofo.retime(shift);
        }
        self.cc.retime(shift);
        if let Some(rate) = &mut self.sndq.rate {
            rate.retime(shift);
        }
        if let Some(pace) = &mut self.pace {
            (pace.next, pace.at) = (pace.next.shifted(shift), pace.at.shifted(shift));
        }
    }
    /// What an application that looks at the connection for the first time would find.
    fn level(&self, net: &Net) -> Ready {
        let mut ready = Ready::default();
        if self.rcvq.bytes() > 0 || self.fin_rcvd {
            ready |= Ready::IN;
        }
        if self.fin_rcvd {
            ready |= Ready::RDHUP;
        }
        if self.state.synchronized() && !self.fin_queued && self.send_space(net) > 0 {
            ready |= Ready::OUT;
        }
        if self.state == State::Close {
            ready |= Ready::HUP;
        }
        if self.err.is_some() {
            ready |= Ready::ERR;
        }
        ready
    }
}

const _: () = {
    const fn travels<T: Send>() {}
    travels::<Moved>();
};
