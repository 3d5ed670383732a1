//! The control connection of a test: what is wanted, when it begins and ends, and what came of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::table::knob::KnobValue;
use linerate_core::time::{Instant, SEC};
use nix::sys::resource::{UsageWho, getrusage};

use super::params::{self, Figures, Line, Params, Summary, errno};
use super::{NOW_AND_THEN, PATIENCE, Phase, Role, SOON, Server, Stream, Test, lock, word};
use crate::up::serve::stream::wait_for_room;
use crate::up::serve::{Scratch, Step};

/// Bytes of the client's own results at the most: they are passed over.
const RESULTS_MAX: u32 = 1 << 20;
/// How long a test may go without data, and beyond its time, in nanoseconds.
const SILENCE: u64 = 120 * SEC;
const GRACE: u64 = 300 * SEC;

/// What is expected from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// The length of its parameters, and then these.
    Params,
    /// One byte, if anything: what it wants us to do.
    Word,
    /// The length of its results.
    ResultsLen,
    /// So many bytes of them.
    Results(u32),
    /// Nothing any more: it is closed when all is sent.
    Nothing,
}

/// A control connection. When it is dropped its test is over.
pub(super) struct Control {
    server: Arc<Server>,
    test: Arc<Test>,
    wants: Wants,
    input: Vec<u8>,
    /// What is to be sent, and how much of it was.
    output: Vec<u8>,
    sent: usize,
    /// When the client has taken too long.
    deadline: Instant,
    /// When to look around.
    look: Instant,
    /// When data began to count.
    begun: Instant,
    /// Processor time that was used before that, and when that was.
    cpu: Cpu,
    /// What streams had counted when their figures began anew.
    omitted: Vec<Figures>,
    /// When the figures are to begin anew.
    omit: Option<Instant>,
    /// Bytes of all streams when that last grew, and when that was.
    seen: (u64, Instant),
    results: Vec<u8>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.server.leave(&self.test);
    }
}

impl Control {
    pub(super) fn new(server: Arc<Server>, test: Arc<Test>, now: Instant) -> Control {
        Control {
            server,
            test,
            wants: Wants::Params,
            input: Vec::new(),
            output: vec![word::PARAM_EXCHANGE],
            sent: 0,
            deadline: now.plus(PATIENCE),
            look: Instant::NEVER,
            begun: now,
            cpu: Cpu::default(),
            omitted: Vec::new(),
            omit: None,
            seen: (0, now),
            results: Vec::new(),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline.min(self.look)
    }

    pub(super) fn expired(&mut self, now: Instant) -> Step {
        if now < self.deadline {
            return Step::More;
        }
        if self.wants == Wants::Nothing {
            return Step::Abort;
        }
        self.fail(errno::NO_MSG, now);
        Step::More
    }

    /// The client is told what went wrong; then it ends.
    fn fail(&mut self, errno: u32, now: Instant) {
        self.output.push(word::SERVER_ERROR);
        self.output.extend_from_slice(&errno.to_be_bytes());
        self.output.extend_from_slice(&0u32.to_be_bytes());
        self.server.leave(&self.test);
        (self.wants, self.look) = (Wants::Nothing, Instant::NEVER);
        self.deadline = now.plus(PATIENCE);
    }

    pub(super) fn step(&mut self, shard: &mut Shard, id: SocketId, scratch: &mut Scratch) -> Step {
        self.test.reader.store(shard.net.cpu, Ordering::Relaxed);
        self.look_around(shard, id);
        loop {
            if !self.flush(shard, id) {
                return Step::Idle;
            }
            let room = match self.wants {
                Wants::Nothing => {
                    // What was not read would turn the end into a reset, and lose what was said.
                    let _ = super::super::stream::discard(shard, id);
                    return Step::Close;
                }
                Wants::Params => match length(&self.input) {
                    Some(len) => 4 + len as usize - self.input.len(),
                    None => 4 - self.input.len(),
                },
                Wants::Word => 1,
                Wants::ResultsLen => 4 - self.input.len(),
                Wants::Results(left) => (left as usize).min(scratch.bytes.len()),
            };
            match shard.tcp_recv(id, &mut scratch.bytes[..room]) {
                Ok(0) => return Step::Close,
                Ok(n) => self.take(shard, id, &scratch.bytes[..n]),
                Err(TcpError::WouldBlock) => return Step::Idle,
                Err(_) => return Step::Close,
            }
        }
    }

    /// Sends what is to be sent; false if there is no room for all of it.
    fn flush(&mut self, shard: &mut Shard, id: SocketId) -> bool {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match shard.tcp_send(id, rest) {
                Ok(n) => self.sent += n,
                Err(TcpError::WouldBlock) => {
                    wait_for_room(shard, id);
                    return false;
                }
                // The reader finds out why.
                Err(_) => break,
            }
        }
        self.output.clear();
        self.sent = 0;
        true
    }

    /// The client said something: at most what is wanted.
    fn take(&mut self, shard: &mut Shard, id: SocketId, said: &[u8]) {
        let now = shard.net.now;
        match self.wants {
            Wants::Params => {
                self.input.extend_from_slice(said);
                match length(&self.input).map(|len| len as usize) {
                    Some(0) => self.fail(errno::RECV_PARAMS, now),
                    Some(len) if len > params::PARAMS_MAX => self.fail(errno::RECV_PARAMS, now),
                    Some(len) if self.input.len() == 4 + len => self.learn(now),
                    _ => {}
                }
            }
            Wants::Word => self.hear(shard, id, said.first().copied().unwrap_or_default()),
            Wants::ResultsLen => {
                self.input.extend_from_slice(said);
                match length(&self.input) {
                    Some(len) if (1..=RESULTS_MAX).contains(&len) => {
                        self.wants = Wants::Results(len);
                    }
                    Some(_) => self.fail(errno::MESSAGE, now),
                    None => {}
                }
            }
            Wants::Results(left) => {
                let left = left.saturating_sub(said.len() as u32);
                self.wants = Wants::Results(left);
                if left == 0 {
                    self.show(now);
                }
            }
            Wants::Nothing => {}
        }
    }

    /// What is to be tested is known.
    fn learn(&mut self, now: Instant) {
        let text = std::mem::take(&mut self.input);
        match Params::read(text.get(4..).unwrap_or_default()) {
            Ok(params) => {
                // They are set once: nothing else is done where they are wanted.
                let _ = self.test.params.set(params);
                self.test.set_phase(Phase::Streams);
                self.server.changed();
                self.output.push(word::CREATE_STREAMS);
                self.wants = Wants::Word;
                // As long as the client waits for the answer to a datagram.
                self.deadline = now.plus(3 * PATIENCE);
                self.look = now.plus(SOON);
            }
            Err(errno) => self.fail(errno, now),
        }
    }

    /// The client says what is to be done.
    fn hear(&mut self, shard: &mut Shard, id: SocketId, said: u8) {
        let now = shard.net.now;
        match (said, self.test.phase()) {
            (word::TEST_END, Phase::Running) => {
                self.test.set_phase(Phase::Over);
                self.results = self.sum_up(shard, id);
                self.output.push(word::EXCHANGE_RESULTS);
                self.wants = Wants::ResultsLen;
                (self.look, self.omit) = (Instant::NEVER, None);
                self.deadline = now.plus(PATIENCE);
                self.input.clear();
            }
            (word::CLIENT_TERMINATE | word::IPERF_DONE, _) => self.wants = Wants::Nothing,
            (word::TEST_START, _) => {}
            _ => self.fail(errno::MESSAGE, now),
        }
    }

    /// The client's figures came: it gets ours, and has what it wanted. The next one may come.
    fn show(&mut self, now: Instant) {
        let len = self.results.len() as u32;
        self.output.extend_from_slice(&len.to_be_bytes());
        self.output.append(&mut self.results);
        self.output.push(word::DISPLAY_RESULTS);
        self.server.leave(&self.test);
        self.wants = Wants::Word;
        self.deadline = now.plus(PATIENCE);
    }

    /// Goes on where the streams have got further.
    fn look_around(&mut self, shard: &mut Shard, id: SocketId) {
        let now = shard.net.now;
        if self.look > now {
            return;
        }
        match self.test.phase() {
            Phase::Streams => self.look = now.plus(SOON),
            Phase::Complete => self.begin(now),
            Phase::Running => self.watch(now),
            Phase::Params | Phase::Over => self.look = Instant::NEVER,
        }
        // The connection may be all that is left of the test.
        if shard.tcp_error(id).is_some() {
            self.look = Instant::NEVER;
        }
    }

    fn begin(&mut self, now: Instant) {
        let Some(params) = self.test.params.get() else { return };
        self.output.extend_from_slice(&[word::TEST_START, word::TEST_RUNNING]);
        (self.begun, self.cpu) = (now, Cpu::now());
        self.omit = (params.omit > 0).then(|| now.plus(params.omit * SEC));
        self.seen = (0, now);
        let all = (params.time + params.omit) * SEC + GRACE;
        self.deadline = if params.time == 0 { Instant::NEVER } else { now.plus(all) };
        self.test.set_phase(Phase::Running);
        self.look = now.plus(NOW_AND_THEN);
    }

    /// Data is on its way.
    fn watch(&mut self, now: Instant) {
        let streams: Vec<Arc<Stream>> = lock(&self.test.streams).clone();
        if self.omit.take_if(|at| *at <= now).is_some() {
            self.omitted = streams.iter().map(|s| s.figures()).collect();
            self.test.anew.fetch_add(1, Ordering::Relaxed);
            self.begun = now;
        }
        let bytes = streams.iter().fold(0u64, |sum, s| sum.wrapping_add(s.bytes()));
        if bytes != self.seen.0 {
            self.seen = (bytes, now);
        } else if now.since(self.seen.1) > SILENCE {
            return self.fail(errno::NO_MSG, now);
        }
        let next = now.plus(NOW_AND_THEN);
        self.look = self.omit.map_or(next, |at| at.min(next));
    }

    /// The results, as of now.
    fn sum_up(&self, shard: &Shard, id: SocketId) -> Vec<u8> {
        let Some(params) = self.test.params.get() else { return Vec::new() };
        let streams = lock(&self.test.streams);
        let lines: Vec<Line> = streams
            .iter()
            .enumerate()
            .map(|(i, stream)| Line {
                sends: stream.role() == Role::Sends,
                now: stream.figures(),
                omitted: self.omitted.get(i).copied().unwrap_or_default(),
                jitter: f64::from_bits(stream.jitter.load(Ordering::Relaxed)),
            })
            .collect();
        params::results(&Summary {
            params,
            lines: &lines,
            seconds: shard.net.now.since(self.begun) as f64 / SEC as f64,
            cpu: self.cpu.used(),
            // That of the streams: the one asked for if we have it, else the one that all have.
            congestion: match params.congestion {
                Some(name) => name.show(),
                None => shard.tcp_info(id).map_or("", |info| info.ca_name).to_owned(),
            },
        })
    }
}

impl Stream {
    fn figures(&self) -> Figures {
        Figures {
            bytes: self.bytes(),
            packets: self.packets.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            retrans: self.retrans.load(Ordering::Relaxed),
        }
    }
}

/// The length that stands in front of a text.
fn length(input: &[u8]) -> Option<u32> {
    input.first_chunk::<4>().map(|b| u32::from_be_bytes(*b))
}

/// Processor time of this process.
#[derive(Clone, Copy, Default)]
struct Cpu {
    /// Nanoseconds of the clock, in user mode, in the kernel.
    clock: u64,
    user: u64,
    system: u64,
}

impl Cpu {
    fn now() -> Cpu {
        let clock = linerate_dev::drive::clock_ns();
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Cpu::default() };
        let ns = |t: nix::sys::time::TimeVal| {
            t.tv_sec() as u64 * SEC + t.tv_usec() as u64 * linerate_core::time::US
        };
        Cpu { clock, user: ns(usage.user_time()), system: ns(usage.system_time()) }
    }

    /// Percent of one processor since then: altogether, in user mode, in the kernel.
    fn used(&self) -> [f64; 3] {
        let now = Cpu::now();
        let clock = now.clock.saturating_sub(self.clock).max(1) as f64;
        let percent = |now: u64, then: u64| 100.0 * now.saturating_sub(then) as f64 / clock;
        let (user, system) = (percent(now.user, self.user), percent(now.system, self.system));
        [user + system, user, system]
    }
}
