//! TCP: each connection of the program is one connection of the host's kernel.
//!
//! A SYN is held until the connection outside is established or has failed, so that the program
//! hears the truth. Then bytes are moved: from the stack's receive queue straight into `sendmsg`,
//! from `recv` straight into a chunk of the stack's send queue. Nothing is stored in between: when
//! one side takes no more, the other is not read, and its window closes. The end of a stream is
//! passed on once all before it was taken, each direction by itself; an error on one side is a reset
//! on the other.
//!
//! Host sockets are watched edge-triggered for both directions from the start, so that a relayed
//! packet costs no change of the poller; what is known to be ready is remembered in the flow.
//! RFCs: 9293 §3.10, 1122 §4.2.3.9, 6093.

use crate::config::Limits;
use crate::count::Count;
use crate::dns::Forwarder;
use crate::gateway::{Cx, Kind, Token};
use crate::host;
use crate::policy::{Denied, Judgement};
use linerate_core::pkt::{LARGE, SMALL, SendChunk};
use linerate_core::rand::KeyedMap;
use linerate_core::shard::Shard;
use linerate_core::sock::error::TcpError;
use linerate_core::sock::{Ready, Slab, SocketId};
use linerate_core::tcp::api::{Connect, HeldSyn, Listen, Refuse, TcpOpt};
use linerate_core::tcp::info::TcpInfo;
use linerate_core::time::{Instant, SEC, Wheel};
use linerate_dev::poller::{Event, Interest};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sockopt};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Nanoseconds after which a connection that nobody answers is given up: when Linux would
/// (`tcp_syn_retries` 6 is 127 s).
const CONNECT_NS: u64 = 130 * SEC;
/// Nanoseconds that the program has to confirm an answered SYN.
const CONFIRM_NS: u64 = 90 * SEC;
/// Bytes that all flows together move in one turn of the loop, per direction.
const TURN_BYTES: usize = 4 << 20;
/// Least and most bytes that one flow moves in its visit, per direction.
const VISIT_BYTES: (usize, usize) = (64 << 10, 1 << 20);
/// Flows visited in one turn.
const TURN_FLOWS: usize = 256;
/// SYNs judged, and connections accepted, in one turn.
const TURN_OPENS: usize = 256;
/// A read of at most this many bytes is copied together with its neighbours, not sent as a chunk of
/// its own that would hold 64 KiB.
const COPY_MAX: usize = 8 * SMALL;
/// The most pieces that `sendmsg` takes (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;
/// Ended flows that are remembered for the report: those that moved most.
const ENDED_MAX: usize = 32;

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host's socket connects; the program's SYN is held.
    Connecting,
    /// The SYN was answered; the program has not confirmed yet.
    Answered,
    /// A connection to a forwarded port: the stack connects to the program.
    Inside,
    /// Both sides are connected.
    Open,
}

/// What is known of a flow's two sides, as bits.
#[derive(Clone, Copy, Debug, Default)]
struct Flags(u8);

impl Flags {
    /// The host's socket may have something to read.
    const HOST_IN: u8 = 1;
    /// The host's socket may take something.
    const HOST_OUT: u8 = 2;
    /// The peer outside has ended its stream: a short read is no proof that nothing is left.
    const HOST_END: u8 = 4;
    /// The program's side may have something to read.
    const PROGRAM_IN: u8 = 8;
    /// The end of the program's stream was passed on.
    const UP_DONE: u8 = 16;
    /// The end of the outside's stream was passed on.
    const DOWN_DONE: u8 = 32;
    /// Stands in the list of flows that have something to do.
    const LISTED: u8 = 64;
    const BOTH_DONE: u8 = Flags::UP_DONE | Flags::DOWN_DONE;

    fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
    fn set(&mut self, bits: u8) {
        self.0 |= bits;
    }
    fn clear(&mut self, bits: u8) {
        self.0 &= !bits;
    }
}

/// One relayed connection; it owns no buffer.
struct Flow {
    host: OwnedFd,
    /// The held SYN, then the connection.
    sock: SocketId,
    phase: Phase,
    flags: Flags,
    /// The program's address and port.
    program: SocketAddr,
    /// The other end as the program sees it.
    remote: SocketAddr,
    opened: Instant,
    up_bytes: u64,
    down_bytes: u64,
}

/// A connection for the report.
#[derive(Clone, Debug)]
pub struct FlowRow {
    /// The program's address and port.
    pub program: SocketAddr,
    /// The other end as the program sees it.
    pub remote: SocketAddr,
    /// When it was asked for.
    pub opened: Instant,
    /// When it ended, if it has.
    pub closed: Option<Instant>,
    /// Bytes from the program.
    pub up_bytes: u64,
    /// Bytes to the program.
    pub down_bytes: u64,
    /// The stack's view of the program's side, once connected.
    pub info: Option<TcpInfo>,
}

/// All relayed connections.
pub(crate) struct Relay {
    listener: SocketId,
    /// The listener may have something.
    knocking: bool,
    flows: Slab<Flow>,
    /// Flows that are not open yet, by program and remote: a retransmitted SYN finds itself here.
    pending: KeyedMap<(SocketAddr, SocketAddr), u32>,
    /// How many of these wait for each destination.
    waiting: KeyedMap<SocketAddr, u32>,
    connecting: usize,
    ready: VecDeque<u32>,
    /// One timer a flow, named by its index, until it is open.
    timers: Wheel,
    due: Vec<u32>,
    /// What the next read goes into.
    spare: Option<SendChunk>,
    /// Kept for its memory; always empty between calls.
    pieces: Vec<IoSlice<'static>>,
    ended: Vec<FlowRow>,
    flows_max: usize,
}

/// What a visit to a flow came to.
enum Visit {
    /// It waits for an event.
    Idle,
    /// It has more to do at once.
    More,
    /// The outside failed.
    HostFailed,
    /// The program's side failed.
    ProgramFailed,
}

impl Relay {
    /// Listens on every address and port of the stack.
    pub fn new(shard: &mut Shard, limits: &Limits, nofile: u64) -> io::Result<Relay> {
        let listen = Listen {
            any_port: true,
            hold_syn: true,
            backlog: u32::MAX,
            user: Token::new(Kind::TcpListener, 0, 0).0,
            ..Listen::default()
        };
        let listener = shard.tcp_listen(listen).map_err(io::Error::other)?;
        // Some descriptors are for everything else.
        let room = usize::try_from(nofile.saturating_sub(256)).unwrap_or(usize::MAX);
        Ok(Relay {
            listener,
            knocking: false,
            flows: Slab::default(),
            pending: KeyedMap::with_hasher(shard.net.rng.keyed()),
            waiting: KeyedMap::with_hasher(shard.net.rng.keyed()),
            connecting: 0,
            ready: VecDeque::new(),
            timers: Wheel::default(),
            due: Vec::new(),
            spare: None,
            pieces: Vec::new(),
            ended: Vec::new(),
            flows_max: limits.flows.min(room.max(16)),
        })
    }

    /// When a timer is due.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// How many connections there are, in any phase.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// A descriptor of the host is ready.
    pub fn handle_host(&mut self, cx: &mut Cx<'_>, token: Token, event: &Event) {
        let Some(flow) = token.find(&mut self.flows) else { return };
        if event.read_closed || event.hangup || event.error {
            flow.flags.set(Flags::HOST_END);
        }
        match flow.phase {
            Phase::Connecting if event.writable || event.error || event.hangup => {
                let failed = match sockopt::socket_error(&flow.host) {
                    Ok(Ok(())) => None,
                    Ok(Err(err)) | Err(err) => Some(err),
                };
                match failed {
                    None => self.answer(cx, token.index()),
                    Some(err) => self.refuse(cx, token.index(), err),
                }
            }
            Phase::Connecting => {}
            Phase::Answered | Phase::Inside | Phase::Open => {
                if event.readable || event.error || event.hangup || event.read_closed {
                    flow.flags.set(Flags::HOST_IN);
                }
                if event.writable || event.error || event.hangup {
                    flow.flags.set(Flags::HOST_OUT);
                }
                self.list(token.index());
            }
        }
    }

    /// Something happened to a connection of the stack.
    pub fn handle_stack(&mut self, cx: &mut Cx<'_>, token: Token, id: SocketId) {
        let ready = cx.shard.take_ready(id);
        let Some(flow) = token.find(&mut self.flows) else { return };
        if flow.sock != id {
            return;
        }
        match flow.phase {
            Phase::Inside if ready.has(Ready::ERR | Ready::HUP) => {
                cx.counts.inc(Count::TcpForwardRefused);
                self.end(cx, token.index(), End::Reset);
            }
            Phase::Inside if ready.has(Ready::OUT) => {
                cx.counts.inc(Count::TcpForwarded);
                flow.phase = Phase::Open;
                flow.flags.set(Flags::HOST_IN | Flags::HOST_OUT | Flags::PROGRAM_IN);
                self.list(token.index());
            }
            Phase::Open => {
                flow.flags.set(Flags::PROGRAM_IN);
                self.list(token.index());
            }
            _ => {}
        }
    }

    fn list(&mut self, index: u32) {
        let Some(flow) = self.flows.at_mut(index) else { return };
        if flow.phase == Phase::Open && !flow.flags.has(Flags::LISTED) {
            flow.flags.set(Flags::LISTED);
            self.ready.push_back(index);
        }
    }

    /// SYNs wait to be judged, or connections to be accepted.
    pub fn handle_listener(&mut self, cx: &mut Cx<'_>) {
        cx.shard.take_ready(self.listener);
        self.knocking = true;
    }

    /// Judges SYNs, takes confirmed connections, serves timers and flows. Whether more is to do.
    pub fn turn(&mut self, cx: &mut Cx<'_>, dns: &mut Forwarder) -> bool {
        let mut more = self.open_new(cx, dns);
        self.expire(cx);
        let visits = self.ready.len().min(TURN_FLOWS);
        let share = (TURN_BYTES / visits.max(1)).clamp(VISIT_BYTES.0, VISIT_BYTES.1);
        for _ in 0..visits {
            let Some(index) = self.ready.pop_front() else { break };
            if let Some(flow) = self.flows.at_mut(index) {
                flow.flags.clear(Flags::LISTED);
                self.visit(cx, index, share);
            }
        }
        more |= !self.ready.is_empty();
        more
    }

    /// The listener's events: held SYNs and confirmed connections.
    fn open_new(&mut self, cx: &mut Cx<'_>, dns: &mut Forwarder) -> bool {
        if !self.knocking {
            return false;
        }
        let mut left = TURN_OPENS;
        while left > 0 {
            let Some(id) = cx.shard.tcp_accept(self.listener) else { break };
            self.accepted(cx, id);
            left -= 1;
        }
        while left > 0 {
            let Some(syn) = cx.shard.syn_next(self.listener) else { break };
            self.judge(cx, dns, &syn);
            left -= 1;
        }
        // There may be more: come back without waiting for an event that has been told already.
        self.knocking = left == 0;
        self.knocking
    }

    /// Decides about a SYN: refuse, or connect outside.
    fn judge(&mut self, cx: &mut Cx<'_>, dns: &mut Forwarder, syn: &HeldSyn) {
        let to = match cx.policy.judge(syn.local) {
            Judgement::Dial(to) => to,
            Judgement::Dns => match dns.resolver(cx) {
                Some(to) => to,
                None => return cx.shard.syn_refuse(syn.id, Refuse::Reset),
            },
            Judgement::Deny(why) => {
                cx.counts.deny(why);
                let how = match why {
                    Denied::Gateway => Refuse::Reset,
                    Denied::NoNeighbour => Refuse::Unreachable { code: 1 },
                    _ => Refuse::Unreachable { code: 13 },
                };
                return cx.shard.syn_refuse(syn.id, how);
            }
        };
        if let Some((why, how)) = self.full(cx, syn) {
            cx.counts.inc(why);
            return cx.shard.syn_refuse(syn.id, how);
        }
        let (host, connected) = match host::connect(to) {
            Ok(made) => made,
            Err(err) => {
                let no_room =
                    matches!(err, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM);
                let why = if no_room { Count::HostSocketFailed } else { Count::TcpUpstreamRefused };
                cx.counts.inc(why);
                return cx.shard.syn_refuse(syn.id, refusal(err));
            }
        };
        let flow = Flow {
            host,
            sock: syn.id,
            phase: Phase::Connecting,
            flags: Flags::default(),
            program: syn.remote,
            remote: syn.local,
            opened: cx.shard.net.now,
            up_bytes: 0,
            down_bytes: 0,
        };
        let Some(index) = self.add(cx, flow) else {
            return cx.shard.syn_refuse(syn.id, Refuse::Reset);
        };
        self.pending.insert((syn.remote, syn.local), index);
        *self.waiting.entry(syn.local).or_insert(0) += 1;
        self.connecting += 1;
        self.timers.arm(index, cx.shard.net.now.plus(CONNECT_NS));
        if connected {
            self.answer(cx, index);
        }
    }

    /// Why there is no room for one more connection, and how to say it.
    fn full(&self, cx: &Cx<'_>, syn: &HeldSyn) -> Option<(Count, Refuse)> {
        let limits = &cx.config.limits;
        if self.flows.len() >= self.flows_max {
            return Some((Count::TcpFlowsFull, Refuse::Reset));
        }
        // Silence makes the program's kernel try again, when there may be room.
        if self.connecting >= limits.pending {
            return Some((Count::TcpPendingFull, Refuse::Silent));
        }
        let waiting = self.waiting.get(&syn.local).copied().unwrap_or(0);
        let full = waiting >= limits.pending_per_destination;
        full.then_some((Count::TcpPendingDestinationFull, Refuse::Silent))
    }

    /// Adds a flow and watches its host socket.
    fn add(&mut self, cx: &mut Cx<'_>, flow: Flow) -> Option<u32> {
        let (index, generation) = self.flows.insert(flow);
        let token = Token::new(Kind::Tcp, index, generation);
        let host = &self.flows.at(index)?.host;
        if cx.poller.add(host, token.0, Interest::READ_WRITE.edge()).is_err() {
            cx.counts.inc(Count::HostSocketFailed);
            self.flows.remove(index);
            return None;
        }
        Some(index)
    }

    /// The host's socket is connected: the SYN is answered.
    fn answer(&mut self, cx: &mut Cx<'_>, index: u32) {
        let Some(flow) = self.flows.at_mut(index) else { return };
        flow.phase = Phase::Answered;
        let (sock, remote) = (flow.sock, flow.remote);
        self.not_waiting(remote);
        self.timers.arm(index, cx.shard.net.now.plus(CONFIRM_NS));
        if !cx.shard.syn_accept(sock) {
            cx.counts.inc(Count::TcpProgramReset);
            self.end(cx, index, End::Reset);
        }
    }

    /// The host's socket did not connect: the program hears why.
    fn refuse(&mut self, cx: &mut Cx<'_>, index: u32, err: Errno) {
        let Some(flow) = self.flows.at(index) else { return };
        let timeout = err == Errno::TIMEDOUT;
        let why = if timeout { Count::TcpUpstreamTimeout } else { Count::TcpUpstreamRefused };
        cx.counts.inc(why);
        cx.shard.syn_refuse(flow.sock, refusal(err));
        self.end(cx, index, End::Quiet);
    }

    fn not_waiting(&mut self, remote: SocketAddr) {
        self.connecting = self.connecting.saturating_sub(1);
        if let Some(n) = self.waiting.get_mut(&remote) {
            *n -= 1;
            if *n == 0 {
                self.waiting.remove(&remote);
            }
        }
    }

    /// The program has confirmed: bytes may flow.
    fn accepted(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let addrs = cx.shard.tcp_addrs(id);
        let index = addrs.and_then(|(local, remote)| self.pending.remove(&(remote, local)));
        let Some((index, flow)) = index.and_then(|i| Some((i, self.flows.at_mut(i)?))) else {
            // Its flow has ended meanwhile: nobody is there to talk to.
            return cx.shard.tcp_abort(id);
        };
        flow.sock = id;
        flow.phase = Phase::Open;
        flow.flags.set(Flags::HOST_IN | Flags::HOST_OUT | Flags::PROGRAM_IN);
        self.timers.cancel(index);
        let token = Token::new(Kind::Tcp, index, self.flows.generation(index));
        let set = cx.shard.tcp_set(id, TcpOpt::User(token.0));
        // What the relay writes is what a peer wrote: it does not wait for more.
        let set = set.and_then(|()| cx.shard.tcp_set(id, TcpOpt::NoDelay(true)));
        debug_assert!(set.is_ok(), "a connection that was just accepted exists");
        cx.shard.take_ready(id);
        cx.counts.inc(Count::TcpOpened);
        self.list(index);
    }

    /// A client of a forwarded port: the stack connects to the program.
    pub fn connect_inside(
        &mut self,
        cx: &mut Cx<'_>,
        host: OwnedFd,
        from: SocketAddr,
        to: SocketAddr,
    ) {
        if self.flows.len() >= self.flows_max {
            cx.counts.inc(Count::TcpFlowsFull);
            return host::reset(host);
        }
        // The name is a stand-in until the connection has one.
        let flow = Flow {
            host,
            sock: self.listener,
            phase: Phase::Inside,
            flags: Flags::default(),
            program: to,
            remote: from,
            opened: cx.shard.net.now,
            up_bytes: 0,
            down_bytes: 0,
        };
        let Some(index) = self.add(cx, flow) else { return };
        let user = Token::new(Kind::Tcp, index, self.flows.generation(index)).0;
        let gateway = cx.config.gateway(to.ip()).map(|addr| SocketAddr::new(addr, 0));
        let mut made = cx.shard.tcp_connect(Connect { local: Some(from), remote: to, user });
        if matches!(made, Err(TcpError::InUse)) {
            made = cx.shard.tcp_connect(Connect { local: gateway, remote: to, user });
        }
        match made {
            Ok(id) => {
                let set = cx.shard.tcp_set(id, TcpOpt::NoDelay(true));
                debug_assert!(set.is_ok(), "a connection that was just opened exists");
                if let Some(flow) = self.flows.at_mut(index) {
                    flow.sock = id;
                }
            }
            Err(_) => {
                cx.counts.inc(Count::TcpForwardRefused);
                if let Some(flow) = self.flows.remove(index) {
                    host::reset(flow.host);
                }
            }
        }
    }

    fn expire(&mut self, cx: &mut Cx<'_>) {
        self.timers.expire(cx.shard.net.now, &mut self.due);
        while let Some(index) = self.due.pop() {
            match self.flows.at(index).map(|flow| flow.phase) {
                Some(Phase::Connecting) => self.refuse(cx, index, Errno::TIMEDOUT),
                Some(Phase::Answered) => {
                    cx.counts.inc(Count::TcpProgramReset);
                    self.end(cx, index, End::Reset);
                }
                _ => {}
            }
        }
    }

    /// Moves bytes of one flow both ways, at most `share` each.
    fn visit(&mut self, cx: &mut Cx<'_>, index: u32, share: usize) {
        let up = self.up(cx, index, share);
        let visit = match up {
            Visit::Idle | Visit::More => match self.down(cx, index, share) {
                Visit::Idle => up,
                down => down,
            },
            failed => failed,
        };
        let done = self.flows.at(index).is_some_and(|f| f.flags.has(Flags::BOTH_DONE));
        match visit {
            Visit::HostFailed => {
                cx.counts.inc(Count::TcpUpstreamReset);
                self.end(cx, index, End::Reset);
            }
            Visit::ProgramFailed => {
                cx.counts.inc(Count::TcpProgramReset);
                self.end(cx, index, End::Reset);
            }
            Visit::Idle | Visit::More if done => self.end(cx, index, End::Close),
            Visit::More => self.list(index),
            Visit::Idle => {}
        }
    }

    /// From the program to the outside.
    fn up(&mut self, cx: &mut Cx<'_>, index: u32, share: usize) -> Visit {
        let Some(flow) = self.flows.at_mut(index) else { return Visit::Idle };
        let mut left = share;
        if cx.shard.tcp_error(flow.sock).is_some() {
            return Visit::ProgramFailed;
        }
        while flow.flags.has(Flags::PROGRAM_IN | Flags::HOST_OUT) && !flow.flags.has(Flags::UP_DONE)
        {
            if left == 0 {
                return Visit::More;
            }
            let mut pieces = recycle(std::mem::take(&mut self.pieces));
            let sent = match cx.shard.tcp_rx_slices(flow.sock, left, &mut pieces) {
                Ok(0) => Err(None),
                Ok(n) => {
                    let some = pieces.get(..IOV_MAX).unwrap_or(&pieces);
                    let all = some.len() == pieces.len();
                    let n = if all { n } else { some.iter().map(|p| p.len()).sum() };
                    let mut none = SendAncillaryBuffer::default();
                    let sent =
                        rustix::net::sendmsg(&flow.host, some, &mut none, SendFlags::NOSIGNAL);
                    Ok((n, sent))
                }
                Err(err) => Err(Some(err)),
            };
            self.pieces = recycle(pieces);
            match sent {
                Ok((n, Ok(sent))) => {
                    cx.shard.tcp_consume(flow.sock, sent);
                    flow.up_bytes += sent as u64;
                    left -= sent.min(left);
                    if sent < n {
                        // The kernel tells when it takes more.
                        flow.flags.clear(Flags::HOST_OUT);
                    }
                }
                Ok((_, Err(Errno::AGAIN))) => flow.flags.clear(Flags::HOST_OUT),
                Ok((_, Err(Errno::INTR))) => {}
                Ok((_, Err(_))) => return Visit::HostFailed,
                Err(None) => {
                    flow.flags.set(Flags::UP_DONE);
                    // It fails only if the connection is gone, which reading tells.
                    let _ = rustix::net::shutdown(&flow.host, Shutdown::Write);
                }
                Err(Some(TcpError::WouldBlock)) => flow.flags.clear(Flags::PROGRAM_IN),
                Err(Some(_)) => return Visit::ProgramFailed,
            }
        }
        Visit::Idle
    }

    /// From the outside to the program.
    fn down(&mut self, cx: &mut Cx<'_>, index: u32, share: usize) -> Visit {
        let Some(flow) = self.flows.at_mut(index) else { return Visit::Idle };
        let mut left = share;
        while flow.flags.has(Flags::HOST_IN) && !flow.flags.has(Flags::DOWN_DONE) {
            let space = cx.shard.tcp_send_space(flow.sock);
            if space == 0 {
                // The stack tells when a third of the queue is free.
                return Visit::Idle;
            }
            if left == 0 {
                return Visit::More;
            }
            let mut chunk = match self.spare.take() {
                Some(chunk) => chunk,
                None => cx.shard.take_chunk(LARGE),
            };
            let room = chunk.spare_mut().unwrap_or_default();
            let want = room.len().min(space);
            let got = rustix::net::recv(&flow.host, &mut room[..want], RecvFlags::empty());
            match got {
                Ok((0, _)) => {
                    self.spare = Some(chunk);
                    flow.flags.set(Flags::DOWN_DONE);
                    cx.shard.tcp_shutdown(flow.sock);
                }
                Ok((n, _)) => {
                    chunk.fill(n);
                    flow.down_bytes += n as u64;
                    left -= n.min(left);
                    if n < want && !flow.flags.has(Flags::HOST_END) {
                        // All that was there; the kernel tells when more is.
                        flow.flags.clear(Flags::HOST_IN);
                    }
                    let queued = if n <= COPY_MAX {
                        let queued = copy(cx.shard, flow.sock, chunk.bytes());
                        cx.shard.give_chunk(chunk);
                        queued
                    } else {
                        cx.shard.tcp_send_chunk(flow.sock, chunk).map_err(|(chunk, err)| {
                            cx.shard.give_chunk(chunk);
                            err
                        })
                    };
                    if queued.is_err() {
                        return Visit::ProgramFailed;
                    }
                }
                Err(err) => {
                    self.spare = Some(chunk);
                    match err {
                        Errno::AGAIN => flow.flags.clear(Flags::HOST_IN),
                        Errno::INTR => {}
                        _ => return Visit::HostFailed,
                    }
                }
            }
        }
        Visit::Idle
    }

    /// The flow is over.
    fn end(&mut self, cx: &mut Cx<'_>, index: u32, how: End) {
        let Some(flow) = self.flows.remove(index) else { return };
        self.timers.cancel(index);
        match flow.phase {
            Phase::Connecting => self.not_waiting(flow.remote),
            Phase::Open | Phase::Answered | Phase::Inside => {}
        }
        if matches!(flow.phase, Phase::Connecting | Phase::Answered) {
            self.pending.remove(&(flow.program, flow.remote));
        }
        if matches!(flow.phase, Phase::Open) {
            self.remember(cx, &flow);
        }
        match how {
            End::Close => cx.shard.tcp_close(flow.sock),
            End::Reset => {
                if flow.phase == Phase::Open || flow.phase == Phase::Inside {
                    cx.shard.tcp_abort(flow.sock);
                } else {
                    cx.shard.tcp_close(flow.sock);
                }
                host::reset(flow.host);
            }
            End::Quiet => {}
        }
    }

    /// Keeps the record of an ended flow if it is among the largest.
    fn remember(&mut self, cx: &Cx<'_>, flow: &Flow) {
        let bytes = |row: &FlowRow| row.up_bytes + row.down_bytes;
        let size = flow.up_bytes + flow.down_bytes;
        if self.ended.len() >= ENDED_MAX {
            let least = self.ended.iter().enumerate().min_by_key(|(_, row)| bytes(row));
            let Some((at, row)) = least else { return };
            if bytes(row) >= size {
                return;
            }
            self.ended.swap_remove(at);
        }
        self.ended.push(row(cx.shard, flow, Some(cx.shard.net.now)));
    }

    /// The connections that are open, and the largest of those that ended, largest first.
    pub fn rows(&self, shard: &Shard) -> Vec<FlowRow> {
        let open = self.flows.iter().filter(|(_, _, flow)| flow.phase == Phase::Open);
        let mut rows: Vec<FlowRow> = open.map(|(_, _, flow)| row(shard, flow, None)).collect();
        rows.extend(self.ended.iter().cloned());
        rows.sort_by_key(|row| std::cmp::Reverse(row.up_bytes + row.down_bytes));
        rows
    }
}

/// How a flow ends.
enum End {
    /// Both streams ended: what is queued is still delivered.
    Close,
    /// Both sides hear a reset.
    Reset,
    /// The program was told already.
    Quiet,
}

fn row(shard: &Shard, flow: &Flow, closed: Option<Instant>) -> FlowRow {
    FlowRow {
        program: flow.program,
        remote: flow.remote,
        opened: flow.opened,
        closed,
        up_bytes: flow.up_bytes,
        down_bytes: flow.down_bytes,
        info: shard.tcp_info(flow.sock),
    }
}

/// Queues a copy of `data`, all of it: there was room when it was read.
fn copy(shard: &mut Shard, sock: SocketId, data: &[u8]) -> Result<(), TcpError> {
    let taken = match shard.tcp_send(sock, data) {
        Ok(taken) => taken,
        Err(TcpError::WouldBlock) => 0,
        Err(err) => return Err(err),
    };
    let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
    let mut chunk = shard.take_chunk(rest.len());
    if let Some(room) = chunk.spare_mut() {
        room[..rest.len()].copy_from_slice(rest);
    }
    chunk.fill(rest.len());
    shard.tcp_send_chunk(sock, chunk).map_err(|(chunk, err)| {
        shard.give_chunk(chunk);
        err
    })
}

/// How the program hears of a connection that failed outside.
fn refusal(err: Errno) -> Refuse {
    let code = match err {
        Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => 0,
        Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => 1,
        Errno::ACCESS | Errno::PERM => 13,
        _ => return Refuse::Reset,
    };
    Refuse::Unreachable { code }
}

/// An empty list with the memory of another, whose pieces it does not keep.
fn recycle<'a>(mut pieces: Vec<IoSlice<'_>>) -> Vec<IoSlice<'a>> {
    pieces.clear();
    pieces.into_iter().map(|_| IoSlice::new(&[])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_pieces_keeps_its_memory() {
        let data = [0u8; 8];
        let mut pieces: Vec<IoSlice<'_>> = Vec::with_capacity(100);
        pieces.push(IoSlice::new(&data));
        let recycled: Vec<IoSlice<'static>> = recycle(pieces);
        assert_eq!((recycled.len(), recycled.capacity()), (0, 100));
    }

    #[test]
    fn failures_outside_are_told_as_what_they_are() {
        let code = |err| match refusal(err) {
            Refuse::Unreachable { code } => Some(code),
            _ => None,
        };
        assert_eq!(refusal(Errno::CONNREFUSED), Refuse::Reset);
        assert_eq!(refusal(Errno::CONNRESET), Refuse::Reset);
        assert_eq!(code(Errno::NETUNREACH), Some(0));
        assert_eq!(code(Errno::HOSTUNREACH), Some(1));
        assert_eq!(code(Errno::TIMEDOUT), Some(1));
        assert_eq!(code(Errno::ACCESS), Some(13));
    }
}
