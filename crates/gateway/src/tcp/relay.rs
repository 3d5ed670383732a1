//! How bytes are moved: one visit to a flow moves a bounded number of them each way.

use super::{End, Flags, Relay, Visit};
use crate::count::Count;
use crate::gateway::Cx;
use crate::host;
use crate::message::recycle;
use linerate_core::pkt::{LARGE, SMALL};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

/// A read of at most this many bytes is copied together with its neighbours, not sent as a chunk of
/// its own that would hold 64 KiB.
const COPY_MAX: usize = 8 * SMALL;
/// The most pieces that `sendmsg` takes (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

impl Relay {
    /// Moves bytes of one flow both ways, at most `share` each.
    pub(super) fn visit(&mut self, cx: &mut Cx<'_>, index: u32, share: usize) {
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
            // Reading stops before an urgent byte, which goes on as one.
            let urgent = cx.shard.tcp_at_mark(flow.sock);
            let (most, how) = match urgent {
                true => (1, SendFlags::NOSIGNAL | SendFlags::OOB),
                false => (left, SendFlags::NOSIGNAL),
            };
            let sent = match cx.shard.tcp_rx_slices(flow.sock, most, &mut pieces) {
                Ok(0) => Err(None),
                Ok(n) => {
                    if flow.up_bytes > 0 && !flow.flags.has(Flags::NODELAY) {
                        host::send_at_once(&flow.host);
                        flow.flags.set(Flags::NODELAY);
                    }
                    let some = pieces.get(..IOV_MAX).unwrap_or(&pieces);
                    let all = some.len() == pieces.len();
                    let n = if all { n } else { some.iter().map(|p| p.len()).sum() };
                    let mut none = SendAncillaryBuffer::default();
                    let sent = rustix::net::sendmsg(&flow.host, some, &mut none, how);
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
                    // Where the outside has ended as well, closing says it. Otherwise: it fails
                    // only if the connection is gone, which reading tells.
                    if !flow.flags.has(Flags::DOWN_DONE) {
                        let _ = rustix::net::shutdown(&flow.host, Shutdown::Write);
                    }
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
