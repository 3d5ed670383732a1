//! A data stream over TCP.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::tcp::TcpOpt;
use linerate_core::time::Instant;

use super::params::Params;
use super::{NOW_AND_THEN, PATIENCE, Phase, Role, SOON, Stream, Test, allowed, due};
use crate::up::serve::Step;
use crate::up::serve::stream::wait_for_room;

/// Bytes that one stream sends in a turn.
const BYTES_PER_TURN: u64 = 512 * 1024;

/// A data connection.
pub(super) struct Data {
    test: Arc<Test>,
    stream: Arc<Stream>,
    /// When to look around, or to send again.
    look: Instant,
    /// When it began to send.
    begun: Option<Instant>,
    /// When the test was over.
    over: Option<Instant>,
}

impl Data {
    pub(super) fn new(
        test: Arc<Test>,
        stream: Arc<Stream>,
        shard: &mut Shard,
        id: SocketId,
    ) -> Data {
        if let Some(params) = test.params.get() {
            set_options(params, shard, id);
        }
        shard.rps_record_sock_flow(id, test.reader.load(Ordering::Relaxed));
        let look = shard.net.now.plus(SOON);
        Data { test, stream, look, begun: None, over: None }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.look
    }

    pub(super) fn step(&mut self, shard: &mut Shard, id: SocketId) -> Step {
        let now = shard.net.now;
        let phase = self.test.phase();
        if self.look <= now {
            let wait = if phase < Phase::Running { SOON } else { NOW_AND_THEN };
            self.look = now.plus(wait);
            // Its reader is whoever adds up the test: where flows follow their readers, it moves there.
            shard.rps_record_sock_flow(id, self.test.reader.load(Ordering::Relaxed));
        }
        match (phase, self.stream.role()) {
            (Phase::Over, _) => self.run_dry(shard, id),
            (Phase::Running, Role::Sends) => self.send(shard, id),
            (Phase::Running, _) => self.receive(shard, id),
            // Whatever comes before that is not read: it counts when it is.
            _ => match shard.tcp_readable(id) {
                Ok(there) if there.fin => Step::Close,
                Ok(_) | Err(TcpError::WouldBlock) => Step::Idle,
                Err(_) => Step::Close,
            },
        }
    }

    fn receive(&self, shard: &mut Shard, id: SocketId) -> Step {
        match shard.tcp_readable(id) {
            Ok(there) => {
                self.stream.count(there.bytes);
                shard.tcp_consume(id, there.bytes);
                if there.fin { Step::Close } else { Step::Idle }
            }
            Err(TcpError::WouldBlock) => Step::Idle,
            Err(_) => Step::Close,
        }
    }

    /// What still comes does not count. The client closes when it has its results.
    fn run_dry(&mut self, shard: &mut Shard, id: SocketId) -> Step {
        let now = shard.net.now;
        let over = *self.over.get_or_insert(now);
        if self.stream.role() == Role::Sends || now.since(over) > PATIENCE {
            return Step::Close;
        }
        crate::up::serve::stream::discard(shard, id)
    }

    fn send(&mut self, shard: &mut Shard, id: SocketId) -> Step {
        if !matches!(shard.tcp_readable(id), Ok(there) if !there.fin) {
            return Step::Close;
        }
        let Some(info) = shard.tcp_info(id) else { return Step::Close };
        self.stream.retrans.store(info.total_retrans.into(), Ordering::Relaxed);
        let Some(params) = self.test.params.get() else { return Step::Close };
        let now = shard.net.now;
        let begun = *self.begun.get_or_insert(now);
        let sent = self.stream.bytes();
        let mut left = BYTES_PER_TURN;
        if params.rate > 0 {
            // Whole blocks: one as soon as those before it are paid for, as iperf3 does.
            let burst = params.burst * params.len as u64;
            let may = allowed(params.rate, now.since(begun)).saturating_add(burst);
            let blocks = may.saturating_sub(sent) / burst;
            left = left.min(blocks.saturating_mul(burst));
            if left == 0 {
                self.look = self.look.min(begun.plus(due(params.rate, sent)));
                return Step::Idle;
            }
        }
        while left > 0 {
            let room = shard.tcp_send_space(id);
            if room == 0 {
                wait_for_room(shard, id);
                return Step::Idle;
            }
            let mut chunk = shard.take_chunk(room);
            let most = room.min(params.block.len()).min(left as usize);
            let filled = chunk.spare_mut().map_or(0, |spare| {
                let most = most.min(spare.len());
                spare[..most].copy_from_slice(&params.block[..most]);
                most
            });
            chunk.fill(filled);
            if let Err((chunk, e)) = shard.tcp_send_chunk(id, chunk) {
                shard.give_chunk(chunk);
                return if e == TcpError::WouldBlock { Step::Idle } else { Step::Close };
            }
            self.stream.count(filled);
            left -= filled as u64;
        }
        if params.rate > 0 {
            self.look = self.look.min(begun.plus(due(params.rate, self.stream.bytes())));
            return Step::Idle;
        }
        Step::More
    }
}

fn set_options(params: &Params, shard: &mut Shard, id: SocketId) {
    let mut opts = vec![TcpOpt::Tos(params.tos)];
    if params.window > 0 {
        opts.extend([TcpOpt::RcvBuf(params.window), TcpOpt::SndBuf(params.window)]);
    }
    opts.extend(params.congestion.map(TcpOpt::Congestion));
    for opt in opts {
        // It has just arrived: it is there.
        let _ = shard.tcp_set(id, opt);
    }
}
