//! The programs at both ends of a connection, and what they hold the stream to.

use std::sync::LazyLock;

use linerate_core::rand::Rng;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::tcp::{KeepAlive, State, TcpOpt};
use linerate_core::time::Instant;
use linerate_sim::Place;

use super::scenario::Side;

/// Length of the text that all streams are made of: a prime, so that no shift by a power of two, or by a
/// segment, finds the same bytes again.
const TEXT: usize = 65_521;
/// It stands there twice, so that a slice may begin anywhere.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = Rng::new(9);
    let once: Vec<u8> = (0..TEXT).map(|_| rng.next_u32() as u8).collect();
    [once.clone(), once].concat()
});

/// Bytes `at..at + n` of a stream; `n` at most 64 KiB less 15.
fn text(stream: u64, at: u64, n: usize) -> &'static [u8] {
    let from = (stream.wrapping_mul(7919).wrapping_add(at) % TEXT as u64) as usize;
    &BYTES[from..from + n]
}

/// One end of a connection.
#[derive(Debug)]
pub struct End {
    pub plan: Side,
    /// Which stream it sends; the other end sends the one that differs in the last bit.
    stream: u64,
    /// Its name, on the shard where it lives; none if it was never opened.
    pub id: Option<SocketId>,
    /// Its shard; none while it is on its way to another.
    pub cpu: Option<usize>,
    /// The place that it left, meanwhile.
    pub left: Option<Place>,
    pub sent: u64,
    pub read: u64,
    /// Its own side is finished.
    pub shut: bool,
    /// The other is.
    pub eof: bool,
    /// It gave up, as planned.
    pub aborted: bool,
    /// Its socket is closed: it has done what it wanted.
    pub closed: bool,
    pub failed: Option<TcpError>,
    write_at: Instant,
    read_at: Instant,
    /// How long it has been told to read nothing is over then.
    deaf_until: Option<Instant>,
}

impl End {
    pub fn new(plan: Side, stream: u64) -> End {
        End {
            plan,
            stream,
            id: None,
            cpu: None,
            left: None,
            sent: 0,
            read: 0,
            shut: false,
            eof: false,
            aborted: false,
            closed: false,
            failed: None,
            write_at: Instant::ZERO,
            read_at: Instant::ZERO,
            deaf_until: None,
        }
    }

    /// What it may send before there is a connection.
    pub fn first(&self) -> &'static [u8] {
        let n = if self.plan.after_eof { 0 } else { self.may_send() };
        text(self.stream, 0, n.min(self.plan.write).min(1200) as usize)
    }

    /// It has a connection now. `mortal`: somebody may end it early, so the others ask whether the peer
    /// is there.
    pub fn open(&mut self, shard: &mut Shard, (cpu, id): (usize, SocketId), mortal: bool) {
        (self.id, self.cpu) = (Some(id), Some(cpu));
        // So many in a row are not lost by chance, even in bursts.
        let keep = TcpOpt::KeepAlive(Some(KeepAlive { time_s: 20, intvl_s: 10, probes: 40 }));
        let more = mortal.then_some(keep);
        for opt in self.plan.opts.iter().copied().chain(more) {
            // A connection that is over already takes no options.
            let _ = shard.tcp_set(id, opt);
        }
    }

    /// When it wants to act again though nothing happens to its connection.
    pub fn alarm(&self, now: Instant) -> Instant {
        if self.id.is_none() || self.closed {
            return Instant::NEVER;
        }
        let mut times = [self.write_at, self.read_at, self.deaf_until.unwrap_or(Instant::ZERO)];
        times.sort_unstable();
        times.into_iter().find(|at| *at > now).unwrap_or(Instant::NEVER)
    }

    /// Acts. `other` is how far the other end is: what it has sent, and whether it has finished.
    ///
    /// # Errors
    /// What is wrong with what was read.
    pub fn act(
        &mut self,
        shard: &mut Shard,
        now: Instant,
        other: (u64, bool),
    ) -> Result<(), String> {
        let Some(id) = self.id.filter(|_| !self.closed) else { return Ok(()) };
        shard.take_ready(id);
        if self.plan.abort.is_some_and(|most| self.sent + self.read >= most) && self.open_now(shard)
        {
            shard.tcp_abort(id);
            (self.aborted, self.closed) = (true, true);
            return Ok(());
        }
        self.write(shard, id, now);
        self.read(shard, id, now, other)?;
        if let Some(err) = shard.tcp_error(id) {
            self.failed = Some(err);
        }
        let finished = self.shut && (self.eof || self.plan.early_close);
        if finished || self.failed.is_some() {
            shard.tcp_close(id);
            self.closed = true;
        }
        Ok(())
    }

    fn open_now(&self, shard: &Shard) -> bool {
        let state = self.id.and_then(|id| shard.tcp_info(id)).map(|info| info.state);
        state.is_some_and(|state| !matches!(state, State::SynSent | State::SynRecv))
    }

    /// Bytes that it may have sent by now.
    fn may_send(&self) -> u64 {
        let all = self.plan.send;
        match self.plan.turn {
            _ if self.plan.after_eof && !self.eof => 0,
            Some((own, other)) => all.min(self.plan.credit + self.read / other * own),
            None => all,
        }
    }

    fn write(&mut self, shard: &mut Shard, id: SocketId, now: Instant) {
        let may = self.may_send();
        while self.sent < may && now >= self.write_at {
            let n = (may - self.sent).min(self.plan.write).min(TEXT as u64) as usize;
            let Ok(n) = shard.tcp_send(id, text(self.stream, self.sent, n)) else { return };
            self.sent += n as u64;
            if self.plan.write_gap > 0 {
                self.write_at = now.plus(self.plan.write_gap);
            }
        }
        let waits = self.plan.after_eof && !self.eof;
        if self.sent == self.plan.send && !self.shut && !waits && self.open_now(shard) {
            shard.tcp_shutdown(id);
            self.shut = true;
        }
    }

    fn read(
        &mut self,
        shard: &mut Shard,
        id: SocketId,
        now: Instant,
        (sent, finished): (u64, bool),
    ) -> Result<(), String> {
        let mut buf = [0; 65_536];
        while now >= self.read_at && !self.eof {
            if let Some((after, long)) = self.plan.deaf
                && self.read >= after
                && now < *self.deaf_until.get_or_insert(now.plus(long))
            {
                return Ok(());
            }
            let most = (self.plan.read as usize).min(TEXT);
            let n = match shard.tcp_recv(id, &mut buf[..most]) {
                Ok(0) => {
                    self.eof = true;
                    let whole = finished && self.read == sent;
                    let why = || format!("the end comes after {} bytes of {sent}", self.read);
                    return if whole { Ok(()) } else { Err(why()) };
                }
                Ok(n) => n,
                Err(_) => return Ok(()),
            };
            if buf[..n] != *text(self.stream ^ 1, self.read, n) {
                return Err(format!("{n} bytes at {} are not what was sent", self.read));
            }
            self.read += n as u64;
            if self.read > sent {
                return Err(format!("{} bytes were read of {sent} sent", self.read));
            }
            if self.plan.read_gap > 0 {
                self.read_at = now.plus(self.plan.read_gap);
            }
        }
        Ok(())
    }
}
