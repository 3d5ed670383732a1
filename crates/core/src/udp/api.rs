//! UDP as the application sees it: bind, connect, receive, close.
//!
//! before: [`super::input`]   after: the application
//! Linux:  net/ipv4/udp.c `udp_recvmsg`, `udp_lib_close`, `udp_lib_get_port`
//! RFCs:   768, 6056 §3.3.1
//! drops:  SocketClosed

use std::net::{IpAddr, SocketAddr};

use super::UdpSock;
use crate::pkt::Pkt;
use crate::shard::Shard;
use crate::sock::error::BindError;
use crate::sock::{Ready, SockKind, SocketId};
use crate::table::{Reason, Stage, count::id};
use crate::trace::{self, Said};
use crate::wire::IPPROTO_UDP;

/// How a UDP socket is to be bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpBind {
    /// The address; `None` = all.
    pub addr: Option<IpAddr>,
    /// The port; 0 = one that is free, unless `any_port`.
    pub port: u16,
    /// Takes every port that no other socket has.
    pub any_port: bool,
    /// Bytes of receive buffer, true size; 0 = `net.core.rmem_default`. Not limited by
    /// `rmem_max`, as with SO_RCVBUFFORCE: the application is the owner of the stack.
    pub rcvbuf: usize,
    /// Others may be bound to the same address and port, if they all say so (SO_REUSEPORT): what comes
    /// is spread over them by flow, or as a program says ([`Shard::reuseport_attach_prog`]).
    pub reuseport: bool,
    /// Where it is going to be connected: a port that is chosen is one whose answers arrive at this
    /// shard, if there are several.
    pub toward: Option<SocketAddr>,
    /// A number of the application's own, told with each event.
    pub user: u64,
}

/// A received datagram, or a super-packet of equal ones. Give it back by [`Shard::udp_done`].
#[derive(Debug)]
pub struct Datagram {
    pub(super) pkt: Pkt,
}

impl Datagram {
    /// Who sent it.
    pub fn src(&self) -> SocketAddr {
        SocketAddr::new(self.pkt.src, self.pkt.sport)
    }
    /// To which address it was sent.
    pub fn dst(&self) -> SocketAddr {
        SocketAddr::new(self.pkt.dst, self.pkt.dport)
    }
    /// Type of service, or traffic class.
    pub fn tos(&self) -> u8 {
        self.pkt.tos
    }
    /// TTL or hop limit on arrival.
    pub fn ttl(&self) -> u8 {
        self.pkt.ttl
    }
    /// Whether it came with DF set (always, over IPv6).
    pub fn df(&self) -> bool {
        self.pkt.df
    }
    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.pkt.len()
    }
    /// Whether the payload is empty, which is a legal datagram.
    pub fn is_empty(&self) -> bool {
        self.pkt.len() == 0
    }
    /// Payload bytes of each datagram but the last, if these are several (`UDP_GRO`).
    pub fn segment_size(&self) -> Option<usize> {
        self.pkt.gso.map(|g| g.size as usize)
    }
    /// The payload, in pieces.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pkt.slices()
    }
    /// The first bytes of the packet as it came, network header first, for an ICMP error that
    /// quotes it; as many as lie in the head.
    pub fn quote(&self) -> &[u8] {
        self.pkt.from_network()
    }
}

impl Shard {
    /// Opens a UDP socket.
    ///
    /// # Errors
    /// [`BindError`]: `AddrInUse` (EADDRINUSE), `NoPort` (EADDRINUSE).
    pub fn udp_bind(&mut self, bind: UdpBind) -> Result<SocketId, BindError> {
        let port = match (bind.port, bind.any_port) {
            (_, true) => 0,
            (0, false) => self.udp_free_port(&bind)?,
            (port, false) => port,
        };
        if self.udp.taken(bind.addr, port, bind.reuseport) {
            return Err(BindError::AddrInUse);
        }
        let rcvbuf = match bind.rcvbuf {
            0 => self.net.knobs.rmem_default as usize,
            n => n,
        };
        let mut sock = UdpSock {
            first: None,
            user: bind.user,
            rare: None,
            rmem: 0,
            rcvbuf: 0,
            port,
            pending: Ready::default(),
            reuseport: bind.reuseport && port != 0,
            connected: false,
            more: false,
            local: bind.addr,
            remote: None,
        };
        sock.set_rcvbuf(rcvbuf);
        let (index, generation) = self.udp.slab.insert(sock);
        self.udp.hash(index);
        Ok(SocketId { kind: SockKind::Udp, index, generation })
    }

    fn udp_free_port(&mut self, bind: &UdpBind) -> Result<u16, BindError> {
        let (low, high) = self.net.local_port_range();
        let span = (high - low) as u64 + 1;
        let start = self.net.rng.below(span);
        let toward = bind.toward.and_then(|remote| {
            let route = self.net.route_out(remote.ip())?;
            let local = bind.addr.or(route.src)?;
            Some((self.net.homeward(route.dev, IPPROTO_UDP)?, local, remote))
        });
        let Shard { net, udp, .. } = self;
        let ports = (0..span).map(|i| low + ((start + i) % span) as u16);
        let mut free = ports.clone().filter(|p| !udp.taken(bind.addr, *p, false));
        let home = toward.and_then(|(mut home, local, remote)| {
            free.find(|p| home.suits(net, SocketAddr::new(local, *p), remote))
        });
        let mut free = ports.filter(|p| !udp.taken(bind.addr, *p, false));
        home.or_else(|| free.next()).ok_or(BindError::NoPort)
    }

    /// From now on the socket hears `remote` alone.
    ///
    /// # Errors
    /// [`BindError::AddrNotAvailable`] if the socket is gone.
    pub fn udp_connect(&mut self, id: SocketId, remote: SocketAddr) -> Result<(), BindError> {
        self.udp.slab.get(id.index, id.generation).ok_or(BindError::AddrNotAvailable)?;
        self.udp.unhash(id.index);
        if let Some(sock) = self.udp.slab.at_mut(id.index) {
            sock.connect(remote);
        }
        self.udp.hash(id.index);
        Ok(())
    }

    /// Asks for a receive buffer (SO_RCVBUF), for what comes from now on: `bytes`, at most
    /// `net.core.rmem_max`, and doubled, as Linux does for its bookkeeping.
    pub fn udp_set_rcvbuf(&mut self, id: SocketId, bytes: usize) {
        let bytes = self.net.asked_rcvbuf(bytes);
        if let Some(sock) = self.udp.slab.get_mut(id.index, id.generation) {
            sock.set_rcvbuf(bytes);
        }
    }

    /// How long a reader that found nothing looks at the devices before it gives up, in microseconds
    /// (SO_BUSY_POLL); `None` = as `net.core.busy_read` says.
    pub fn udp_set_busy_poll(&mut self, id: SocketId, us: Option<u32>) {
        if let Some(sock) = self.udp.slab.get_mut(id.index, id.generation) {
            sock.rare().busy_poll = us;
        }
    }

    /// The next datagram, if one waits; give it back by [`Shard::udp_done`].
    pub fn udp_recv(&mut self, id: SocketId) -> Option<Datagram> {
        let sock = self.udp.slab.get_mut(id.index, id.generation)?;
        let Some(pkt) = sock.pop() else {
            sock.pending.0 &= !Ready::IN.0;
            let us = sock.rare.as_ref().and_then(|r| r.busy_poll);
            self.net.busy_read(us);
            return None;
        };
        let size = pkt.truesize();
        sock.rmem -= size as u32;
        self.udp.mem -= size;
        let flow = self.net.counts.flow(Stage::SockQueue);
        flow.release(1);
        flow.pass(1);
        trace::say(&mut self.net.trace, Stage::SockQueue, &pkt, Said::Pass);
        let v4 = pkt.src.is_ipv4();
        self.net.counts.inc(if v4 { id::UdpInDatagrams } else { id::Udp6InDatagrams });
        Some(Datagram { pkt })
    }

    /// The datagram was read.
    #[inline]
    pub fn udp_done(&mut self, datagram: Datagram) {
        self.net.pool.free(datagram.pkt);
    }

    /// Adds the next datagrams that wait, at most `max`, to `to` (Linux: `recvmmsg`); returns how
    /// many there were. Give each back by [`Shard::udp_done`], or all by [`Shard::udp_done_many`].
    ///
    /// If there were less than `max` the socket is empty, and an event tells when something comes.
    pub fn udp_recv_many(&mut self, id: SocketId, max: usize, to: &mut Vec<Datagram>) -> usize {
        let Some(sock) = self.udp.slab.get_mut(id.index, id.generation) else { return 0 };
        let before = to.len();
        let (mut size, mut v4) = (0, 0);
        sock.pop_many(max, |pkt| {
            size += pkt.truesize();
            v4 += u64::from(pkt.src.is_ipv4());
            trace::say(&mut self.net.trace, Stage::SockQueue, &pkt, Said::Pass);
            to.push(Datagram { pkt });
        });
        let n = to.len() - before;
        sock.rmem -= size as u32;
        self.udp.mem -= size;
        if n < max {
            sock.pending.0 &= !Ready::IN.0;
        }
        if n == 0 {
            let us = sock.rare.as_ref().and_then(|r| r.busy_poll);
            self.net.busy_read(us);
            return 0;
        }
        let flow = self.net.counts.flow(Stage::SockQueue);
        flow.release(n as u64);
        flow.pass(n as u64);
        self.net.counts.inc_by(id::UdpInDatagrams, v4);
        self.net.counts.inc_by(id::Udp6InDatagrams, n as u64 - v4);
        n
    }

    /// The datagrams were read.
    #[inline]
    pub fn udp_done_many(&mut self, datagrams: impl IntoIterator<Item = Datagram>) {
        datagrams.into_iter().for_each(|datagram| self.net.pool.free(datagram.pkt));
    }

    /// Port that the socket is bound to.
    pub fn udp_port(&self, id: SocketId) -> Option<u16> {
        self.udp.slab.get(id.index, id.generation).map(|s| s.port)
    }

    /// Closes the socket; what it had not read is dropped, and counted.
    pub fn udp_close(&mut self, id: SocketId) {
        if self.udp.slab.get(id.index, id.generation).is_none() {
            return;
        }
        self.udp.unhash(id.index);
        let Some(mut sock) = self.udp.slab.remove(id.index) else { return };
        self.udp.mem -= sock.rx_queue();
        while let Some(pkt) = sock.pop() {
            self.net.counts.flow(Stage::SockQueue).release(1);
            self.net.kfree_skb_reason(Stage::SockQueue, pkt, Reason::SocketClosed);
        }
    }
}

impl crate::shard::Net {
    /// The range of ports that are chosen by themselves; never empty.
    pub(crate) fn local_port_range(&self) -> (u16, u16) {
        let low = self.knobs.ip_local_port_low as u16;
        (low, (self.knobs.ip_local_port_high as u16).max(low))
    }
}

#[cfg(test)]
mod tests;
