//! An iperf3 server: TCP and UDP, both directions, one test at a time.
//!
//! The protocol is that of `iperf3`, which has no RFC: <https://github.com/esnet/iperf>,
//! `src/iperf_api.h`, `src/iperf_server_api.c`, `src/iperf_udp.c`.
//!
//! ```text
//! client                               server
//! control: cookie               ─→     nobody else has a test: it is the control connection
//!                               ←─     PARAM_EXCHANGE
//! what is to be tested, JSON    ─→
//!                               ←─     CREATE_STREAMS
//! a data connection each: cookie─→     on whatever shard it arrives
//! (UDP: a datagram each         ─→
//!                               ←─     its answer)
//!                               ←─     TEST_START, TEST_RUNNING
//! data                          ⇄      data
//! TEST_END                      ─→
//!                               ←─     EXCHANGE_RESULTS
//! its figures, JSON             ─→
//!                               ←─     ours, JSON; DISPLAY_RESULTS
//! IPERF_DONE                    ─→
//! ```
//!
//! The connections of a test lie on any shards. What they share is a [`Test`]: its phase, and for each
//! stream figures that whoever has it counts in atomics. Locks are taken where connections come and go,
//! never where data does. The client tells nobody which of its connections is which: it opens one after
//! the other, and each SYN gets its number before it is answered ([`Knocks`]), so that their order is
//! known although they arrive on different shards.

mod control;
mod params;
mod stream;
pub(super) mod udp;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::time::{Instant, MS, SEC};

use super::{Scratch, Step};
use params::Params;

/// Bytes of a cookie: 36 characters and a zero.
const COOKIE: usize = 37;
/// Streams of a test in one direction at the most, as iperf3 has it.
const STREAMS_MAX: usize = 128;
/// SYNs of one shard whose number is remembered until they are accepted.
const KNOCKS_MAX: usize = 1024;
/// How long a client may take to say what it wants, in nanoseconds.
const PATIENCE: u64 = 30 * SEC;
/// How often a connection looks whether the others have got further, in nanoseconds: while a test
/// begins, and while it runs.
const SOON: u64 = MS;
const NOW_AND_THEN: u64 = 50 * MS;

/// What is said on the control connection.
mod word {
    pub const TEST_START: u8 = 1;
    pub const TEST_RUNNING: u8 = 2;
    pub const TEST_END: u8 = 4;
    pub const PARAM_EXCHANGE: u8 = 9;
    pub const CREATE_STREAMS: u8 = 10;
    pub const CLIENT_TERMINATE: u8 = 12;
    pub const EXCHANGE_RESULTS: u8 = 13;
    pub const DISPLAY_RESULTS: u8 = 14;
    pub const IPERF_DONE: u8 = 16;
    pub const ACCESS_DENIED: u8 = -1_i8 as u8;
    pub const SERVER_ERROR: u8 = -2_i8 as u8;
}

/// How far a test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Phase {
    /// What is wanted is not known yet.
    Params,
    /// Streams are expected.
    Streams,
    /// All streams are there.
    Complete,
    /// Data counts.
    Running,
    /// It is over.
    Over,
}

impl Phase {
    const ALL: [Phase; 5] =
        [Phase::Params, Phase::Streams, Phase::Complete, Phase::Running, Phase::Over];
}

/// Which way the data of a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Role {
    /// Not known before all streams are there.
    Unknown,
    /// The client sends.
    Receives,
    /// We send.
    Sends,
}

/// A panic elsewhere leaves what is locked here whole: each change is complete under the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server behind one address and port, for all shards.
#[derive(Debug, Default)]
pub struct Server {
    test: Mutex<Option<Arc<Test>>>,
    /// Changes with the test and with its streams.
    version: AtomicU64,
    /// Numbers given to SYNs.
    knocks: AtomicU64,
}

impl Server {
    /// The server of an address and port. A configuration that is read again finds the one that runs,
    /// with its test.
    pub fn at(addr: Option<IpAddr>, port: u16) -> Arc<Server> {
        type All = Vec<((Option<IpAddr>, u16), Weak<Server>)>;
        static ALL: Mutex<All> = Mutex::new(Vec::new());
        let mut all = lock(&ALL);
        all.retain(|(_, server)| server.strong_count() > 0);
        let known = all.iter().find(|(at, _)| *at == (addr, port)).and_then(|(_, s)| s.upgrade());
        known.unwrap_or_else(|| {
            let new = Arc::<Server>::default();
            all.push(((addr, port), Arc::downgrade(&new)));
            new
        })
    }

    /// The next number.
    fn number(&self) -> u64 {
        self.knocks.fetch_add(1, Ordering::Relaxed)
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Somebody came with this cookie.
    fn enter(self: &Arc<Server>, cookie: &[u8; COOKIE], peer: SocketAddr, order: u64) -> Entry {
        let mut slot = lock(&self.test);
        match &*slot {
            None => {
                let test = Arc::new(Test::new(*cookie, peer.ip()));
                *slot = Some(Arc::clone(&test));
                drop(slot);
                self.changed();
                Entry::Control(test)
            }
            Some(test) if test.cookie == *cookie && !test.is_udp() => {
                let test = Arc::clone(test);
                drop(slot);
                match test.join(order, peer) {
                    Some(stream) => {
                        self.changed();
                        Entry::Data(test, stream)
                    }
                    None => Entry::Busy,
                }
            }
            Some(_) => Entry::Busy,
        }
    }

    /// The test is over: the next one may come.
    fn leave(&self, test: &Arc<Test>) {
        test.set_phase(Phase::Over);
        lock(&self.test).take_if(|t| Arc::ptr_eq(t, test));
        self.changed();
    }
}

/// What somebody with a cookie is.
enum Entry {
    Control(Arc<Test>),
    Data(Arc<Test>, Arc<Stream>),
    /// Not wanted: there is a test already.
    Busy,
}

/// A test, as all its connections share it.
#[derive(Debug)]
struct Test {
    cookie: [u8; COOKIE],
    /// The client, as its control connection has it.
    peer: IpAddr,
    phase: AtomicU8,
    /// The shard of the control connection: the reader of all streams.
    reader: AtomicU8,
    /// How often the figures began anew (`--omit`).
    anew: AtomicU32,
    params: OnceLock<Params>,
    streams: Mutex<Vec<Arc<Stream>>>,
    /// Senders of datagrams whose shard is gone, and how many these are.
    left: Mutex<Vec<udp::Sender>>,
    left_len: AtomicUsize,
}

impl Test {
    fn new(cookie: [u8; COOKIE], peer: IpAddr) -> Test {
        Test {
            cookie,
            peer,
            phase: AtomicU8::new(Phase::Params as u8),
            reader: AtomicU8::new(0),
            anew: AtomicU32::new(0),
            params: OnceLock::new(),
            streams: Mutex::default(),
            left: Mutex::default(),
            left_len: AtomicUsize::new(0),
        }
    }

    fn phase(&self) -> Phase {
        let at = usize::from(self.phase.load(Ordering::Acquire));
        Phase::ALL.get(at).copied().unwrap_or(Phase::Over)
    }

    /// The test is this far; it never goes back.
    fn set_phase(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    fn is_udp(&self) -> bool {
        self.params.get().is_some_and(|p| p.udp)
    }

    /// One stream more; `None` if none is expected. The last one completes them: their order says
    /// which way each goes.
    fn join(&self, order: u64, peer: SocketAddr) -> Option<Arc<Stream>> {
        let mut streams = lock(&self.streams);
        let params = self.params.get()?;
        if self.phase() != Phase::Streams || streams.len() >= params.streams() {
            return None;
        }
        let stream = Arc::new(Stream::new(order, peer));
        streams.push(Arc::clone(&stream));
        if streams.len() == params.streams() {
            streams.sort_by_key(|s| s.order);
            for (i, stream) in streams.iter().enumerate() {
                stream.set_role(if params.receives(i) { Role::Receives } else { Role::Sends });
            }
            self.set_phase(Phase::Complete);
        }
        Some(stream)
    }
}

/// A stream, as whoever has it counts it, and the control connection reads it.
#[derive(Debug)]
struct Stream {
    /// Its place in the order in which the client opened them.
    order: u64,
    peer: SocketAddr,
    role: AtomicU8,
    /// Bytes received, or sent.
    bytes: AtomicU64,
    /// Datagrams sent, or the highest number received.
    packets: AtomicU64,
    /// Datagrams that did not come, of those up to the highest.
    lost: AtomicU64,
    /// Segments sent again.
    retrans: AtomicU64,
    /// Mean deviation of the time between datagrams, in seconds, as bits of an `f64`.
    jitter: AtomicU64,
    /// Nanoseconds between the sender's clock and ours at the latest datagram.
    transit: AtomicU64,
    /// [`Test::anew`] plus one when jitter was last measured.
    measured: AtomicU32,
}

impl Stream {
    fn new(order: u64, peer: SocketAddr) -> Stream {
        Stream {
            order,
            peer,
            role: AtomicU8::new(Role::Unknown as u8),
            bytes: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            retrans: AtomicU64::new(0),
            jitter: AtomicU64::new(0),
            transit: AtomicU64::new(0),
            measured: AtomicU32::new(0),
        }
    }

    fn role(&self) -> Role {
        match self.role.load(Ordering::Acquire) {
            1 => Role::Receives,
            2 => Role::Sends,
            _ => Role::Unknown,
        }
    }

    fn set_role(&self, role: Role) {
        self.role.store(role as u8, Ordering::Release);
    }

    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The numbers of SYNs that were answered and are not accepted yet, of one shard. The client opens a
/// connection when the one before is open: what has the lower number was opened before, wherever both
/// arrived.
#[derive(Default)]
pub(super) struct Knocks(VecDeque<(u16, SocketAddr, u64)>);

impl Knocks {
    /// Answers the SYNs that wait at a listener.
    pub(super) fn answer(
        &mut self,
        shard: &mut Shard,
        listener: SocketId,
        server: Option<&Arc<Server>>,
    ) {
        while let Some(syn) = shard.syn_next(listener) {
            if let Some(server) = server {
                if self.0.len() == KNOCKS_MAX {
                    self.0.pop_front();
                }
                self.0.push_back((syn.local.port(), syn.remote, server.number()));
            }
            shard.syn_accept(syn.id);
        }
    }

    /// The number of a connection that was accepted; the next one if its SYN came too long ago, or to
    /// another shard.
    pub(super) fn take(&mut self, shard: &Shard, id: SocketId, server: &Arc<Server>) -> u64 {
        let Some((local, remote)) = shard.tcp_addrs(id) else { return server.number() };
        let at = self.0.iter().rposition(|k| (k.0, k.1) == (local.port(), remote));
        let knock = at.and_then(|at| self.0.remove(at));
        knock.map_or_else(|| server.number(), |(_, _, number)| number)
    }
}

/// A connection to the server.
pub(super) struct Conn {
    server: Arc<Server>,
    order: u64,
    is: Is,
}

/// What it is.
enum Is {
    /// That is not known yet: its cookie comes.
    New {
        cookie: Vec<u8>,
        deadline: Instant,
    },
    Control(Box<control::Control>),
    Data(stream::Data),
    /// It was told that there is a test already.
    Refused {
        deadline: Instant,
    },
}

impl Conn {
    /// A connection whose SYN had this number.
    pub(super) fn new(server: Arc<Server>, order: u64, now: Instant) -> Conn {
        let cookie = Vec::with_capacity(COOKIE);
        Conn { server, order, is: Is::New { cookie, deadline: now.plus(PATIENCE) } }
    }

    pub(super) fn step(&mut self, shard: &mut Shard, id: SocketId, scratch: &mut Scratch) -> Step {
        if let Is::New { cookie, .. } = &mut self.is {
            let room = COOKIE - cookie.len();
            match shard.tcp_recv(id, &mut scratch.bytes[..room]) {
                Ok(0) => return Step::Close,
                Ok(n) => cookie.extend_from_slice(&scratch.bytes[..n]),
                Err(TcpError::WouldBlock) => return Step::Idle,
                Err(_) => return Step::Close,
            }
            let Some(cookie) = cookie.first_chunk::<COOKIE>().copied() else {
                return Step::Idle;
            };
            self.enter(shard, id, &cookie);
        }
        match &mut self.is {
            Is::Control(control) => control.step(shard, id, scratch),
            Is::Data(data) => data.step(shard, id),
            // It closes when it has read that; what it sends meanwhile is thrown away.
            Is::Refused { .. } => super::stream::discard(shard, id),
            Is::New { .. } => Step::Idle,
        }
    }

    fn enter(&mut self, shard: &mut Shard, id: SocketId, cookie: &[u8; COOKIE]) {
        let now = shard.net.now;
        let refused = Is::Refused { deadline: now.plus(PATIENCE) };
        let Some((_, peer)) = shard.tcp_addrs(id) else {
            self.is = refused;
            return;
        };
        self.is = match self.server.enter(cookie, peer, self.order) {
            Entry::Control(test) => {
                let server = Arc::clone(&self.server);
                Is::Control(Box::new(control::Control::new(server, test, now)))
            }
            Entry::Data(test, stream) => Is::Data(stream::Data::new(test, stream, shard, id)),
            Entry::Busy => {
                // One byte always fits a connection that has sent nothing.
                let _ = shard.tcp_send(id, &[word::ACCESS_DENIED]);
                shard.tcp_shutdown(id);
                refused
            }
        };
    }

    pub(super) fn deadline(&self) -> Instant {
        match &self.is {
            Is::New { deadline, .. } | Is::Refused { deadline } => *deadline,
            Is::Control(control) => control.deadline(),
            Is::Data(data) => data.deadline(),
        }
    }

    /// Its time has come: to look around, or to be given up.
    pub(super) fn expired(&mut self, now: Instant) -> Step {
        match &mut self.is {
            Is::New { .. } | Is::Refused { .. } => Step::Close,
            Is::Control(control) => control.expired(now),
            Is::Data(_) => Step::More,
        }
    }
}

/// Bytes that may have been sent `ns` nanoseconds after the beginning, at so many bits a second.
fn allowed(bits: u64, ns: u64) -> u64 {
    u64::try_from(u128::from(bits) * u128::from(ns) / (8 * u128::from(SEC))).unwrap_or(u64::MAX)
}

/// Nanoseconds after which so many bytes may have been sent, at so many bits a second.
fn due(bits: u64, bytes: u64) -> u64 {
    let ns = u128::from(bytes) * 8 * u128::from(SEC) / u128::from(bits.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
