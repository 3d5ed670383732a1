//! A connection follows its reader (RFS): when the application says that a socket is read on
//! another shard, the connection moves there, with everything that belongs to it.
//!
//! before: the application   after: [`super::moved`], [`crate::rx::steer`]
//! Linux:  include/net/sock.h `sock_rps_record_flow`, net/core/dev.c `get_rps_cpu`: there the packets
//!         follow the reader, here the connection does, and its packets with it
//! drops:  none
//!
//! The order within the flow is kept in both directions:
//!
//! * what came before is processed here first: the connection leaves when the backlog is drained
//!   past the tail that was noted when it was decided, and nothing of it waits there; what comes
//!   later follows it by mail;
//! * what was sent before is with the device first: the connection sends nothing new while packets
//!   stand in the transmit queues that were there when it was decided, or wait for a neighbour.

use std::any::Any;

use super::Tuple;
use super::sockets::Sockets;
use crate::link::L2;
use crate::rx::steer::Flow;
use crate::rx::steer::hash::dissect;
use crate::shard::{Net, Shard};
use crate::sock::{SockKind, SocketId};
use crate::table::Stage;
use crate::time::{Instant, MS};
use crate::wire::IPPROTO_TCP;

/// Connections that may leave in one turn: a turn that moves some takes no longer than one more
/// poll of a device would.
const MOVES_A_TURN: usize = 64;
/// How long a connection holds its data back for the device's queue to drain; then it stays.
const PATIENCE_NS: u64 = 100 * MS;

/// How long a connection stays where it arrived: packets that were sent after it from shard to shard
/// have found it by then, and are not met by others that took a shorter way.
const STAY_NS: u64 = MS;

/// A connection that is to leave.
pub(crate) struct Leaving {
    id: SocketId,
    to: u8,
    wait: Option<Wait>,
}

/// What has to be through before it leaves.
struct Wait {
    /// Packets that will have left the backlog.
    rx: u64,
    /// Packets that will have left the device's transmit queues.
    tx: u64,
    /// When they had, the packets that the device will be through with.
    ring: Option<u64>,
    /// Segments that it had sent by then; an acknowledgement may have followed.
    segs_out: u32,
    since: Instant,
}

/// Packets that have left the backlog, and packets that ever entered it and were not dropped.
fn backlog(net: &Net) -> (u64, u64) {
    let read = net.counts.flow(Stage::Backlog).read();
    (read.out, read.out + read.held)
}

/// How far the way out of a device is.
struct Xmit {
    /// Packets that have left its transmit queues, and those that will have when what waits has.
    left: (u64, u64),
    /// Packets that devices are through with, and those that they will be when they are through with
    /// all they have. A super-packet that was cut counts as several here.
    done: (u64, u64),
    /// Packets go out by this one queue only: devices are through with them in their order.
    alone: bool,
}

fn xmit(net: &Net, dev: u8) -> Xmit {
    let queues = net.ifaces.get(dev as usize).map_or(&[][..], |i| &i.txqs);
    let sent: u64 = queues.iter().map(|q| q.sent).sum();
    let wait: usize = queues.iter().map(|q| q.qdisc.len()).sum();
    let read = net.counts.flow(Stage::Xmit).read();
    let used = net.ifaces.iter().flat_map(|i| &i.txqs).filter(|q| q.sent > 0).count();
    let alone = used <= 1 && !net.xdp_on;
    let done = read.out + read.dropped;
    Xmit { left: (sent, sent + wait as u64), done: (done, done + read.held), alone }
}

impl Xmit {
    /// Nothing waits, and devices have nothing.
    fn is_empty(&self) -> bool {
        self.left.0 == self.left.1 && self.done.0 == self.done.1
    }
    /// Whether what was to be waited for is out.
    fn is_out(&self, wait: &mut Wait) -> bool {
        if wait.ring.is_none() && self.left.0 >= wait.tx {
            wait.ring = Some(self.done.1);
        }
        let place = if self.alone { wait.ring } else { Some(self.done.1) };
        wait.ring.is_some() && place.is_some_and(|place| self.done.0 >= place)
    }
}

impl Net {
    /// Nothing is on its way between the sockets and the devices' queues.
    fn way_down_is_empty(&self) -> bool {
        let side = [&self.ip_out, &self.frag_out, &self.neigh_out, &self.link_out];
        side.iter().all(|q| q.is_empty())
    }
    /// Packets of the connection wait in the backlog.
    fn waits_in_backlog(&self, tuple: &Tuple) -> bool {
        self.backlog.iter().any(|pkt| {
            let ethernet = self.ifaces.get(pkt.dev as usize).is_some_and(|i| i.l2 == L2::Ethernet);
            dissect(pkt.head(), ethernet).is_some_and(|keys| {
                keys.proto == IPPROTO_TCP
                    && keys.ports == Some((tuple.rport, tuple.lport))
                    && (keys.src, keys.dst) == (tuple.remote, tuple.local)
            })
        })
    }
    /// Segments of the connection wait for a neighbour's link address: left behind, they would be sent when the
    /// connection has long said other things elsewhere.
    fn waits_for_neighbour(&self, tuple: &Tuple) -> bool {
        self.counts.flow(Stage::Neigh).read().held > 0
            && self.neigh.iter().flat_map(|n| n.packets()).any(|pkt| {
                dissect(pkt.head(), false).is_some_and(|keys| {
                    keys.proto == IPPROTO_TCP
                        && keys.ports == Some((tuple.lport, tuple.rport))
                        && (keys.src, keys.dst) == (tuple.local, tuple.remote)
                })
            })
    }
    /// Flows follow their readers (RFS is on).
    fn rfs_on(&self) -> bool {
        let knobs = &self.knobs;
        self.steer.mesh.is_some() && knobs.rps_sock_flow_entries > 0 && knobs.rps_flow_cnt > 0
    }
}

impl Shard {
    /// Notes that the reader of this connection is on shard `cpu` (`sock_rps_record_flow`). Where
    /// flows follow their readers (`net.core.rps_sock_flow_entries`, `rps_flow_cnt`), the connection
    /// moves there by one of the next calls of [`Shard::rfs_turn`]. What it was noted before counts no
    /// more; a connection that nobody has accepted, or that is not open yet, stays.
    pub fn rps_record_sock_flow(&mut self, id: SocketId, cpu: u8) {
        let Sockets { conns, leaving, .. } = &mut self.tcp;
        let tp = conns.get(id.index, id.generation).filter(|_| id.kind == SockKind::Tcp);
        let ready = tp.is_some_and(|tp| !tp.orphan && tp.listener.is_none() && tp.hashed);
        if !ready || !self.net.rfs_on() {
            return;
        }
        if let Some(known) = leaving.iter_mut().find(|l| l.id == id) {
            known.to = cpu;
        } else if cpu != self.net.cpu {
            leaving.push_back(Leaving { id, to: cpu, wait: None });
        }
    }

    /// Whether [`Shard::rfs_turn`] has something to do.
    #[inline]
    pub fn rfs_pending(&self) -> bool {
        !self.tcp.leaving.is_empty()
    }

    /// Sends connections after their readers: to be called once a turn, when the devices have taken
    /// what they could, while [`Shard::rfs_pending`]. `leave` hands over what the application knows of
    /// a connection; where it says `None` the connection stays. Returns how many went.
    pub fn rfs_turn(
        &mut self,
        leave: &mut dyn FnMut(SocketId) -> Option<Box<dyn Any + Send>>,
    ) -> usize {
        let mut moved = 0;
        crate::rx::steer::collect(self);
        for _ in 0..self.tcp.leaving.len() {
            if moved == MOVES_A_TURN {
                break;
            }
            let Some(mut next) = self.tcp.leaving.pop_front() else { break };
            match self.rfs_step(&mut next) {
                Step::Stay => self.rfs_stay(next.id),
                Step::Wait => self.tcp.leaving.push_back(next),
                Step::Go => match leave(next.id) {
                    Some(app) => moved += usize::from(self.rfs_go(&next, app)),
                    None => self.rfs_stay(next.id),
                },
            }
        }
        moved
    }

    /// How far it is with a connection that is to leave. The mail was taken in.
    fn rfs_step(&mut self, next: &mut Leaving) -> Step {
        let Shard { net, tcp, .. } = self;
        let online = |mesh: &&_| crate::rx::steer::Mesh::online(mesh, next.to);
        let there = net.steer.mesh.as_deref().filter(online).is_some();
        let Some(tp) = tcp.conns.get_mut(next.id.index, next.id.generation) else {
            return Step::Stay;
        };
        if !there || next.to == net.cpu || tp.orphan || !tp.hashed || !net.rfs_on() {
            return Step::Stay;
        }
        if net.now.since(tp.arrived_at) < STAY_NS {
            return Step::Wait;
        }
        let (rx, tx) = (backlog(net), xmit(net, tp.dev));
        let Some(wait) = &mut next.wait else {
            if !net.way_down_is_empty() {
                return Step::Wait;
            }
            if rx.0 == rx.1 && tx.is_empty() && !net.waits_for_neighbour(&tp.tuple) {
                return Step::Go;
            }
            // Nothing of it enters the queues behind what stands there.
            tp.leaving = true;
            let (segs_out, since) = (tp.segs_out, net.now);
            next.wait = Some(Wait { rx: rx.1, tx: tx.left.1, ring: None, segs_out, since });
            return Step::Wait;
        };
        let sent = tx.is_out(wait) && net.way_down_is_empty();
        let sent = sent && !net.waits_for_neighbour(&tp.tuple);
        if sent && tp.segs_out != wait.segs_out && !tx.is_empty() {
            (wait.tx, wait.ring, wait.segs_out) = (tx.left.1, None, tp.segs_out);
        } else if sent && rx.0 >= wait.rx && !net.waits_in_backlog(&tp.tuple) {
            return Step::Go;
        }
        if net.now.since(wait.since) > PATIENCE_NS { Step::Stay } else { Step::Wait }
    }

    /// A connection that was to leave stays: it sends on.
    fn rfs_stay(&mut self, id: SocketId) {
        let tp = self.tcp.conns.get_mut(id.index, id.generation);
        if let Some(tp) = tp.filter(|tp| tp.leaving) {
            tp.leaving = false;
            tp.push |= tp.state.synchronized() && tp.unsent();
            self.tcp_settle(id.index);
        }
    }

    fn rfs_go(&mut self, next: &Leaving, app: Box<dyn Any + Send>) -> bool {
        let Some(conn) = self.tcp_detach(next.id) else { return false };
        let key = conn.flow_key();
        // From now on its packets are steered there before anybody looks where it lives.
        let hash = self.net.flow_hash(&key);
        self.send_flow(next.to, Flow { key, conn, app: Some(app) });
        self.net.rps_record_sock_flow(hash, next.to);
        true
    }
}

/// What becomes of a connection that is to leave.
enum Step {
    Stay,
    Wait,
    Go,
}
