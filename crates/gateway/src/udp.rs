//! UDP: each endpoint of the program (an address and port that it sends from) is one socket of the
//! host, whatever it sends to, so that the outside sees one address and port for it: what STUN and
//! hole punching depend on (RFC 4787 REQ-1). Who may answer is the filter's affair
//! ([`Filtering`]; REQ-8).
//!
//! The host's socket stays unconnected. Type of service, TTL (less the hop that the gateway is) and
//! DF are carried out by socket options that change only when they differ, and carried in by control
//! messages. Super-datagrams travel whole both ways (`UDP_SEGMENT`, `UDP_GRO`). Errors come from the
//! socket's error queue (`IP_RECVERR`) and go on as ICMP from whoever really sent them.
//!
//! RFCs: 4787, 768, 8085, 7857 §5 (mappings end by silence, not by errors).

use crate::config::{Filtering, Limits};
use crate::count::Count;
use crate::forward;
use crate::gateway::{Cx, Kind, Token};
use crate::host;
use crate::icmp;
use crate::message::{self, Arrived, Receiver, recycle};
use crate::policy::{Denied, Judgement};
use linerate_core::ip::icmp::IcmpErr;
use linerate_core::pkt::{HEADROOM, SMALL};
use linerate_core::rand::KeyedMap;
use linerate_core::shard::Shard;
use linerate_core::sock::{Slab, SocketId};
use linerate_core::time::{Instant, SEC, Wheel};
use linerate_core::udp::api::{Datagram, UdpBind};
use linerate_core::udp::output::SendTo;
use linerate_core::wire::{IPPROTO_UDP, UdpHdr};
use linerate_dev::poller::{Event, Interest};
use rustix::io::Errno;
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// Nanoseconds of silence after which an endpoint ends that nobody has answered.
const ONE_WAY_NS: u64 = 30 * SEC;
/// The same once somebody has (RFC 4787 REQ-5: at least two minutes).
const BOTH_WAYS_NS: u64 = 120 * SEC;
/// Nanoseconds for which a judgement of the policy about a peer holds.
const JUDGED_NS: u64 = 5 * SEC;
/// Datagrams of the program sent in one turn.
const TURN_OUT: usize = 512;
/// Datagrams taken from one host socket in one turn.
const TURN_IN: usize = 32;
/// Bytes of what the program has sent and the gateway has not yet taken.
const RCVBUF: usize = 8 << 20;
/// Bytes that wait in one host socket, as far as `net.core.rmem_max` permits: several super-datagrams,
/// whose sender need not know that there is a gateway.
const HOST_RCVBUF: usize = 2 << 20;
/// What is no longer than this is copied into a packet's head, and not sent in the 64 KiB that it was read
/// into.
const COPY_MAX: usize = SMALL - HEADROOM;
/// The most datagrams in one `UDP_SEGMENT` call that every kernel takes (`UDP_MAX_SEGMENTS`).
const SEGMENTS_MAX: usize = 64;

/// Somebody an endpoint has sent to.
#[derive(Clone, Copy)]
struct Peer {
    /// Where that leads.
    dial: IpAddr,
    judged: Instant,
    last: Instant,
}

struct Endpoint {
    host: OwnedFd,
    program: SocketAddr,
    /// The host's socket is of IPv6.
    v6: bool,
    /// A forwarded port: it never ends, and hears everybody.
    fixed: bool,
    answered: bool,
    last: Instant,
    peers: KeyedMap<SocketAddr, Peer>,
    /// The peer of the last datagram, which the next one mostly is for as well.
    recent: Option<(SocketAddr, Peer)>,
    tos: u8,
    ttl: u8,
    df: Option<bool>,
}

/// All UDP endpoints of the program.
pub(crate) struct Endpoints {
    socket: SocketId,
    pending: bool,
    all: Slab<Endpoint>,
    by_program: KeyedMap<SocketAddr, u32>,
    /// The endpoints of forwarded ports; several may lead to one port of the program.
    forwards: Vec<u32>,
    /// Endpoints by age of their last visit here, for eviction; some are gone already.
    order: VecDeque<(u32, u32, Instant)>,
    timers: Wheel,
    due: Vec<u32>,
    receiver: Receiver,
    pieces: Vec<IoSlice<'static>>,
    max: usize,
}

impl Endpoints {
    /// Takes every UDP port of the stack that nobody else has.
    pub fn new(shard: &mut Shard, limits: &Limits, nofile: u64) -> io::Result<Endpoints> {
        let bind = UdpBind {
            any_port: true,
            rcvbuf: RCVBUF,
            user: Token::new(Kind::UdpSocket, 0, 0).0,
            ..UdpBind::default()
        };
        let socket = shard.udp_bind(bind).map_err(io::Error::other)?;
        let room = usize::try_from(nofile / 4).unwrap_or(usize::MAX);
        Ok(Endpoints {
            socket,
            pending: false,
            all: Slab::default(),
            by_program: KeyedMap::with_hasher(shard.net.rng.keyed()),
            forwards: Vec::new(),
            order: VecDeque::new(),
            timers: Wheel::default(),
            due: Vec::new(),
            receiver: Receiver::new(),
            pieces: Vec::new(),
            max: limits.udp_endpoints.clamp(1, room.max(16)),
        })
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Listens on the host for a forwarded port.
    pub fn forward(&mut self, cx: &mut Cx<'_>, at: SocketAddr, port: u16) -> io::Result<()> {
        let (_, program) = forward::inside(cx, SocketAddr::new(at.ip(), 1), port)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let host = prepare(at.is_ipv6())?;
        if at.is_ipv6() {
            sockopt::set_ipv6_v6only(&host, true)?;
        }
        rustix::net::bind(&host, &at)?;
        let now = cx.shard.net.now;
        let endpoint = Endpoint::new(cx, host, program, at.is_ipv6(), true, now);
        self.add(cx, endpoint).map(drop)?;
        Ok(())
    }

    /// The stack has datagrams of the program, or errors about what was sent to it.
    pub fn handle_stack(&mut self, cx: &mut Cx<'_>) {
        self.pending = true;
        // That the program has closed a port ends nothing: it may open it again, and whoever is
        // outside can not be told through the host's socket.
        while cx.shard.udp_take_error(self.socket).is_some() {}
    }

    /// A host socket has datagrams or errors.
    pub fn handle_host(&mut self, cx: &mut Cx<'_>, token: Token, event: &Event) {
        let Some(endpoint) = token.find(&mut self.all) else { return };
        if event.error {
            endpoint.errors(cx, &mut self.receiver);
        }
        if event.readable {
            endpoint.receive(cx, self.socket, &mut self.receiver);
        }
    }

    /// Sends what the program has sent; ends what was silent. Whether more is to do.
    pub fn turn(&mut self, cx: &mut Cx<'_>) -> bool {
        self.expire(cx);
        if !self.pending {
            return false;
        }
        for _ in 0..TURN_OUT {
            let Some(datagram) = cx.shard.udp_recv(self.socket) else {
                self.pending = false;
                return false;
            };
            self.send(cx, &datagram);
            cx.shard.udp_done(datagram);
        }
        true
    }

    fn send(&mut self, cx: &mut Cx<'_>, datagram: &Datagram) {
        let (program, remote) = (datagram.src(), datagram.dst());
        if datagram.ttl() <= 1 {
            cx.counts.inc(Count::TtlExceeded);
            return icmp::send_quote(cx, None, IcmpErr::TimeExceeded, datagram.quote());
        }
        let index = match self.find(cx, program, remote) {
            Some(index) => index,
            // Denied before a socket is spent on it.
            None => match self.open(cx, datagram) {
                Some(index) => index,
                None => return,
            },
        };
        let Some(endpoint) = self.all.at_mut(index) else { return };
        let dial = match endpoint.dial(cx, remote) {
            Ok(dial) => dial,
            Err(why) => return deny(cx, datagram.quote(), why),
        };
        endpoint.last = cx.shard.net.now;
        let pieces = recycle(std::mem::take(&mut self.pieces));
        let (sent, pieces) = endpoint.transmit(datagram, dial, pieces);
        self.pieces = recycle(pieces);
        match sent {
            Ok(()) => cx.counts.inc(Count::UdpOut),
            Err(Errno::MSGSIZE) => {
                // The error queue holds the path's MTU, if the kernel knows one.
                endpoint.errors(cx, &mut self.receiver);
                cx.counts.inc(Count::UdpSendFailed);
            }
            Err(err) => {
                cx.counts.inc(Count::UdpSendFailed);
                if let Some(err) = icmp::error_of_errno(err, 0) {
                    icmp::send_quote(cx, None, err, datagram.quote());
                }
            }
        }
    }

    /// The endpoint that a datagram belongs to: the forwarded port whose client it answers, or the
    /// program's own.
    fn find(&self, cx: &Cx<'_>, program: SocketAddr, remote: SocketAddr) -> Option<u32> {
        let answers = |index: &&u32| {
            let endpoint = self.all.at(**index);
            endpoint
                .is_some_and(|e| e.program == program && e.peers.contains_key(&e.key(cx, remote)))
        };
        let forward = self.forwards.iter().find(answers);
        forward.or_else(|| self.by_program.get(&program)).copied()
    }

    /// A host socket for a new endpoint, if its first datagram may go anywhere.
    fn open(&mut self, cx: &mut Cx<'_>, datagram: &Datagram) -> Option<u32> {
        let (program, remote) = (datagram.src(), datagram.dst());
        if let Judgement::Deny(why) = cx.policy.judge(remote) {
            deny(cx, datagram.quote(), why);
            return None;
        }
        if self.all.len() >= self.max {
            self.evict(cx);
        }
        let v6 = program.is_ipv6();
        let host = match prepare(v6) {
            Ok(host) => host,
            Err(_) => {
                cx.counts.inc(Count::HostSocketFailed);
                return None;
            }
        };
        let now = cx.shard.net.now;
        let endpoint = Endpoint::new(cx, host, program, v6, false, now);
        match self.add(cx, endpoint) {
            Ok(index) => {
                cx.counts.inc(Count::UdpEndpoints);
                Some(index)
            }
            Err(_) => {
                cx.counts.inc(Count::HostSocketFailed);
                None
            }
        }
    }

    fn add(&mut self, cx: &mut Cx<'_>, endpoint: Endpoint) -> io::Result<u32> {
        let (program, fixed, last) = (endpoint.program, endpoint.fixed, endpoint.last);
        let (index, generation) = self.all.insert(endpoint);
        let token = Token::new(Kind::Udp, index, generation).0;
        if let Some(endpoint) = self.all.at(index)
            && let Err(err) = cx.poller.add(&endpoint.host, token, Interest::READ)
        {
            self.all.remove(index);
            return Err(err);
        }
        if fixed {
            self.forwards.push(index);
        } else {
            self.by_program.insert(program, index);
            self.order.push_back((index, generation, last));
            self.timers.arm(index, last.plus(ONE_WAY_NS));
        }
        if self.order.len() > self.max.saturating_mul(2) {
            let all = &self.all;
            self.order.retain(|&(index, generation, _)| all.get(index, generation).is_some());
        }
        Ok(index)
    }

    fn remove(&mut self, index: u32) {
        self.timers.cancel(index);
        if let Some(endpoint) = self.all.remove(index) {
            self.by_program.remove(&endpoint.program);
        }
    }

    /// Ends the endpoint that was silent longest.
    fn evict(&mut self, cx: &mut Cx<'_>) {
        // One that was used since it was put here goes to the end, once.
        for _ in 0..=self.order.len() {
            let Some((index, generation, seen)) = self.order.pop_front() else { return };
            let Some(endpoint) = self.all.get(index, generation) else { continue };
            if endpoint.last > seen {
                self.order.push_back((index, generation, endpoint.last));
                continue;
            }
            cx.counts.inc(Count::UdpEvicted);
            return self.remove(index);
        }
    }

    fn expire(&mut self, cx: &mut Cx<'_>) {
        let now = cx.shard.net.now;
        self.timers.expire(now, &mut self.due);
        while let Some(index) = self.due.pop() {
            let Some(endpoint) = self.all.at(index) else { continue };
            let life = if endpoint.answered { BOTH_WAYS_NS } else { ONE_WAY_NS };
            let end = endpoint.last.plus(life);
            if end > now {
                self.timers.arm(index, end);
            } else {
                cx.counts.inc(Count::UdpExpired);
                self.remove(index);
            }
        }
    }
}

impl Endpoint {
    fn new(
        cx: &mut Cx<'_>,
        host: OwnedFd,
        program: SocketAddr,
        v6: bool,
        fixed: bool,
        last: Instant,
    ) -> Endpoint {
        let peers = KeyedMap::with_hasher(cx.shard.net.rng.keyed());
        let (recent, answered) = (None, false);
        let (tos, ttl, df) = (0, 0, None);
        Endpoint { host, program, v6, fixed, answered, last, peers, recent, tos, ttl, df }
    }

    /// What the filter knows a peer by.
    fn key(&self, cx: &Cx<'_>, peer: SocketAddr) -> SocketAddr {
        let with_port = self.fixed || cx.config.filtering == Filtering::AddressAndPortDependent;
        SocketAddr::new(peer.ip(), if with_port { peer.port() } else { 0 })
    }

    /// Where a datagram to `remote` leads, and notes that it was sent there.
    fn dial(&mut self, cx: &mut Cx<'_>, remote: SocketAddr) -> Result<SocketAddr, Denied> {
        let now = cx.shard.net.now;
        let key = self.key(cx, remote);
        let known = match self.recent {
            Some((recent, peer)) if recent == key => Some(peer),
            _ => self.peers.get(&key).copied(),
        };
        let fresh = known.filter(|peer| self.fixed || now.since(peer.judged) < JUDGED_NS);
        let mut peer = match fresh {
            Some(peer) => peer,
            None => match cx.policy.judge(remote) {
                Judgement::Dial(to) => Peer { dial: to.ip(), judged: now, last: now },
                Judgement::Dns => return Err(Denied::Gateway),
                Judgement::Deny(why) => return Err(why),
            },
        };
        peer.last = now;
        if self.recent.is_none_or(|(recent, _)| recent != key) || fresh.is_none() {
            self.note(cx, key, peer);
        }
        self.recent = Some((key, peer));
        Ok(SocketAddr::new(peer.dial, remote.port()))
    }

    /// Remembers a peer; the one that was silent longest makes room.
    fn note(&mut self, cx: &Cx<'_>, key: SocketAddr, peer: Peer) {
        if self.peers.len() >= cx.config.limits.udp_peers.max(1) && !self.peers.contains_key(&key) {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.last).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.peers.remove(&oldest);
            }
        }
        self.peers.insert(key, peer);
    }

    /// Hands a datagram, or several in one, to the kernel.
    fn transmit<'a>(
        &mut self,
        datagram: &'a Datagram,
        dial: SocketAddr,
        mut pieces: Vec<IoSlice<'a>>,
    ) -> (Result<(), Errno>, Vec<IoSlice<'a>>) {
        self.set_options(datagram);
        let to = match (self.v6, dial) {
            (true, SocketAddr::V4(v4)) => {
                SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port())
            }
            _ => dial,
        };
        pieces.extend(datagram.slices().map(IoSlice::new));
        let size = datagram.segment_size().filter(|&size| size > 0 && size < datagram.len());
        let mut sent = message::send(&self.host, to, &pieces, size);
        // An error that an earlier datagram left behind is not this one's: it is in the queue.
        if matches!(sent, Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH)) {
            sent = message::send(&self.host, to, &pieces, size);
        }
        if let (Err(Errno::INVAL | Errno::MSGSIZE | Errno::IO), Some(size)) = (sent, size) {
            sent = self.split(datagram, to, size);
        }
        (sent, pieces)
    }

    /// Sends a super-datagram in parts that every kernel takes.
    #[cold]
    fn split(&self, datagram: &Datagram, to: SocketAddr, size: usize) -> Result<(), Errno> {
        let whole: Vec<u8> = datagram.slices().flatten().copied().collect();
        for part in whole.chunks(size * SEGMENTS_MAX) {
            let several = Some(size).filter(|&size| part.len() > size);
            if message::send(&self.host, to, &[IoSlice::new(part)], several).is_ok() {
                continue;
            }
            for one in part.chunks(size) {
                message::send(&self.host, to, &[IoSlice::new(one)], None)?;
            }
        }
        Ok(())
    }

    /// Type of service, TTL and DF of what is sent next, where they differ from the last.
    fn set_options(&mut self, datagram: &Datagram) {
        // None of these calls fails for values that came in an IP header; if one did, the datagram
        // would go out with the old value, which is better than not at all.
        if self.tos != datagram.tos() {
            self.tos = datagram.tos();
            let _ = match self.v6 {
                true => sockopt::set_ipv6_tclass(&self.host, u32::from(self.tos)),
                false => sockopt::set_ip_tos(&self.host, self.tos),
            };
        }
        if self.ttl != datagram.ttl() {
            self.ttl = datagram.ttl();
            let left = self.ttl.saturating_sub(1).max(1);
            let _ = match self.v6 {
                true => sockopt::set_ipv6_unicast_hops(&self.host, Some(left)),
                false => sockopt::set_ip_ttl(&self.host, u32::from(left)),
            };
        }
        if !self.v6 && self.df != Some(datagram.df()) {
            self.df = Some(datagram.df());
            let how = match datagram.df() {
                true => sockopt::Ipv4PathMtuDiscovery::DO,
                false => sockopt::Ipv4PathMtuDiscovery::DONT,
            };
            let _ = sockopt::set_ip_mtu_discover(&self.host, how);
        }
    }

    /// Takes datagrams from the host's socket and sends them to the program: long ones in the memory
    /// that they were read into.
    fn receive(&mut self, cx: &mut Cx<'_>, socket: SocketId, receiver: &mut Receiver) {
        for _ in 0..TURN_IN {
            // What does not fit waits in the host's socket: it is watched level-triggered.
            if cx.shard.net.ip_out.len() as u64 >= cx.shard.net.knobs.txqueuelen / 2 {
                return;
            }
            // Errors are in the queue, which the poller tells of.
            let Ok(arrived) = receiver.receive_large(self.host.as_raw_fd(), cx.shard) else {
                return;
            };
            let Some(src) = self.admit(cx, arrived.from) else {
                cx.counts.inc(Count::UdpFiltered);
                continue;
            };
            let sent = self.deliver(cx, socket, src, &arrived, receiver);
            cx.counts.inc(if sent { Count::UdpIn } else { Count::UdpNoRoom });
        }
    }

    fn deliver(
        &mut self,
        cx: &mut Cx<'_>,
        socket: SocketId,
        src: SocketAddr,
        arrived: &Arrived,
        receiver: &mut Receiver,
    ) -> bool {
        let how = SendTo {
            src: Some(src),
            tos: arrived.tos,
            // The gateway is a hop.
            ttl: arrived.ttl.saturating_sub(1).max(1),
            gso_size: arrived.segment_size,
            ..SendTo::to(self.program)
        };
        if arrived.len <= COPY_MAX {
            return cx.shard.udp_send(socket, how, &[receiver.bytes(arrived)]).is_ok();
        }
        let Some(large) = receiver.large.take() else { return false };
        let sent = cx.shard.udp_send_buf(socket, how, large, arrived.len);
        sent.map_err(|(_, large)| receiver.large = Some(large)).is_ok()
    }

    /// As whom the sender of a datagram appears inside; `None` if the filter does not let it in.
    fn admit(&mut self, cx: &mut Cx<'_>, from: SocketAddr) -> Option<SocketAddr> {
        let now = cx.shard.net.now;
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if self.fixed {
            let (src, _) = forward::inside(cx, from, self.program.port())?;
            let key = self.key(cx, src);
            let peer = Peer { dial: from.ip(), judged: now, last: now };
            if self.recent.is_none_or(|(recent, _)| recent != key) {
                self.note(cx, key, peer);
            }
            self.recent = Some((key, peer));
            self.last = now;
            return Some(src);
        }
        let src = self.seen_as(cx, from);
        let key = self.key(cx, src);
        let known = match self.recent {
            Some((recent, _)) if recent == key => true,
            _ => self.peers.contains_key(&key),
        };
        if !known && cx.config.filtering != Filtering::EndpointIndependent {
            return None;
        }
        self.answered = true;
        self.last = now;
        Some(src)
    }

    /// An address of the outside as the program knows it.
    fn seen_as(&self, cx: &Cx<'_>, from: SocketAddr) -> SocketAddr {
        let addr = match (from.ip(), self.v6) {
            (IpAddr::V4(a), false) if a == Ipv4Addr::LOCALHOST => IpAddr::V4(cx.config.v4.gateway),
            (IpAddr::V6(a), true) if a.is_loopback() => {
                cx.config.gateway(from.ip()).unwrap_or(from.ip())
            }
            (IpAddr::V4(a), true) => IpAddr::V6(a.to_ipv6_mapped()),
            (addr, _) => addr,
        };
        SocketAddr::new(addr, from.port())
    }

    /// Passes on what the socket's error queue holds.
    fn errors(&mut self, cx: &mut Cx<'_>, receiver: &mut Receiver) {
        for _ in 0..TURN_IN {
            let Ok(failed) = receiver.receive_error(self.host.as_raw_fd()) else { return };
            let Some(err) = icmp::error_of(&failed) else { continue };
            let to = SocketAddr::new(failed.to.ip().to_canonical(), failed.to.port());
            let remote = self.seen_as(cx, to);
            let offender = failed.offender.map(|a| self.seen_as(cx, SocketAddr::new(a, 0)).ip());
            let payload = receiver.error_bytes(&failed);
            let len = (UdpHdr::LEN + payload.len()) as u16;
            let mut body = vec![0; UdpHdr::LEN];
            let (src_port, dst_port) = (self.program.port(), remote.port());
            UdpHdr { src_port, dst_port, len, csum: 0 }.emit(&mut body);
            body.extend(payload);
            let addrs = (self.program.ip(), remote.ip());
            icmp::send(cx, addrs, IPPROTO_UDP, offender, err, &body);
        }
    }
}

/// Says no.
fn deny(cx: &mut Cx<'_>, quote: &[u8], why: Denied) {
    cx.counts.deny(why);
    if let Some(err) = icmp::error_of_denial(why) {
        icmp::send_quote(cx, None, err, quote);
    }
}

/// A UDP socket with everything on that a relay reads.
fn prepare(v6: bool) -> io::Result<OwnedFd> {
    let host = host::datagram(v6)?;
    message::enable(&host, v6)?;
    message::enable_gro(&host);
    // With less it works as well.
    let _ = sockopt::set_socket_recv_buffer_size(&host, HOST_RCVBUF);
    Ok(host)
}
