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
//! packet costs no change of the poller; what is known to be ready is remembered in the flow. A
//! socket gets its options when they begin to matter, so that a connection that is soon over has
//! none to pay for: Nagle is switched off before the second write, keepalive on after half a minute.
//! RFCs: 9293 §3.10, 1122 §4.2.3.9, 6093.

mod open;
mod relay;

use crate::config::Limits;
use crate::count::Count;
use crate::dns::Forwarder;
use crate::gateway::{Cx, Kind, Token};
use crate::host;
use linerate_core::pkt::SendChunk;
use linerate_core::rand::KeyedMap;
use linerate_core::shard::Shard;
use linerate_core::sock::{Ready, Slab, SocketId};
use linerate_core::tcp::TcpOpt;
use linerate_core::tcp::api::Listen;
use linerate_core::tcp::info::TcpInfo;
use linerate_core::time::{Instant, Wheel};
use linerate_dev::poller::Event;
use rustix::io::Errno;
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Bytes that all flows together move in one turn of the loop, per direction.
const TURN_BYTES: usize = 4 << 20;
/// Least and most bytes that one flow moves in its visit, per direction.
const VISIT_BYTES: (usize, usize) = (64 << 10, 1 << 20);
/// Flows visited in one turn.
const TURN_FLOWS: usize = 256;
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
    /// The peer outside has ended its stream, or sent urgent data, before which reading stops: a
    /// short read is no proof that nothing is left.
    const HOST_END: u8 = 4;
    /// The program's side may have something to read.
    const PROGRAM_IN: u8 = 8;
    /// The end of the program's stream was passed on.
    const UP_DONE: u8 = 16;
    /// The end of the outside's stream was passed on.
    const DOWN_DONE: u8 = 32;
    /// Stands in the list of flows that have something to do.
    const LISTED: u8 = 64;
    /// The host's socket sends small pieces at once.
    const NODELAY: u8 = 128;
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
    /// Which of the host's resolvers is connected to, if the program asked for the name server.
    resolver: Option<usize>,
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
    /// Those that connect outside, oldest first, by index and generation; some have ended.
    oldest: VecDeque<(u32, u32)>,
    ready: VecDeque<u32>,
    /// One timer a flow, named by its index: what it waits for until it is open, then when it is old
    /// enough to be kept alive.
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
        // Urgent data stays where it is in the stream: from there it is passed on.
        shard.tcp_set(listener, TcpOpt::OobInline(true)).map_err(io::Error::other)?;
        // Some descriptors are for everything else.
        let room = usize::try_from(nofile.saturating_sub(256)).unwrap_or(usize::MAX);
        Ok(Relay {
            listener,
            knocking: false,
            flows: Slab::default(),
            pending: KeyedMap::with_hasher(shard.net.rng.keyed()),
            waiting: KeyedMap::with_hasher(shard.net.rng.keyed()),
            connecting: 0,
            oldest: VecDeque::new(),
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
    pub fn handle_host(&mut self, cx: &mut Cx<'_>, dns: &Forwarder, token: Token, event: &Event) {
        let Some(flow) = token.find(&mut self.flows) else { return };
        if event.read_closed || event.hangup || event.error || event.urgent {
            flow.flags.set(Flags::HOST_END);
        }
        if event.readable || event.error || event.hangup || event.read_closed {
            flow.flags.set(Flags::HOST_IN);
        }
        match flow.phase {
            Phase::Connecting if event.writable || event.error || event.hangup => {
                // One that can be written to, and has no error, is connected.
                let asked =
                    (event.error || event.hangup).then(|| sockopt::socket_error(&flow.host));
                let failed = match asked {
                    None | Some(Ok(Ok(()))) => None,
                    Some(Ok(Err(err)) | Err(err)) => Some(err),
                };
                match failed {
                    None => self.answer(cx, token.index()),
                    Some(err) => self.failed(cx, dns, token.index(), err),
                }
            }
            Phase::Connecting => {}
            Phase::Answered | Phase::Inside | Phase::Open => {
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
                // Nagle is off, as for all that its listener accepts.
                flow.flags.set(Flags::HOST_OUT | Flags::PROGRAM_IN | Flags::NODELAY);
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
        self.expire(cx, dns);
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

    fn expire(&mut self, cx: &mut Cx<'_>, dns: &Forwarder) {
        self.timers.expire(cx.shard.net.now, &mut self.due);
        while let Some(index) = self.due.pop() {
            match self.flows.at(index).map(|flow| flow.phase) {
                Some(Phase::Connecting) => self.failed(cx, dns, index, Errno::TIMEDOUT),
                Some(Phase::Answered) => {
                    cx.counts.inc(Count::TcpProgramReset);
                    self.end(cx, index, End::Reset);
                }
                Some(Phase::Open) => {
                    if let Some(flow) = self.flows.at(index) {
                        host::keep_alive(&flow.host);
                    }
                }
                _ => {}
            }
        }
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
