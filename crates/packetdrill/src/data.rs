//! Reading and writing.
//!
//! Linux: net/ipv4/tcp.c `tcp_sendmsg_locked`, `tcp_recvmsg_locked`

use std::io::IoSlice;
use std::net::SocketAddr;

use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::tcp::api::SendMsg;
use linerate_core::tcp::{OptName, State, TcpOpt};

use crate::Errno;
use crate::calls::Calls;
use crate::epoll::Wakes;
use crate::files::{File, Stand};
use crate::wait::EPOCH_US;
use crate::zerocopy::extended_err;

/// Bytes that a pipe holds.
pub(crate) const PIPE_SIZE: usize = 65536;

/// The kernel's MSG_ZEROCOPY and MSG_FASTOPEN.
const MSG_ZEROCOPY: i32 = 0x400_0000;
const MSG_FASTOPEN: i32 = 0x2000_0000;
/// Flags of reading and writing that change nothing here.
const IDLE: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;

/// What a read gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Got {
    /// Bytes, all of them in the buffer unless `MSG_TRUNC` threw them away.
    pub len: usize,
    /// `msg_flags`.
    pub flags: i32,
    /// Control messages: level, type, data.
    pub control: Vec<(i32, i32, Vec<u8>)>,
}

/// A write under way: it may take several turns.
#[derive(Default)]
pub(crate) struct Write {
    /// Bytes that are queued already.
    pub done: usize,
    /// How often the socket had woken when there was no room: a writer that sleeps looks again only
    /// once it is woken, which is when a third of the buffer is free (`sk_stream_wait_memory`).
    slept: Option<Wakes>,
    /// It has opened the connection.
    fastopen: bool,
    /// How long the buffers are that it comes from, if they are several.
    parts: Vec<usize>,
}

impl Write {
    /// A write from buffers of these lengths.
    pub fn from_parts(parts: Vec<usize>) -> Write {
        Write { parts, ..Write::default() }
    }
    /// Where packets end behind `at` because they hold no more buffers: what is sent without a copy is a fragment
    /// for each of them (`MAX_SKB_FRAGS`).
    fn cut(&self, at: usize, len: usize) -> Option<usize> {
        let mut end = 0;
        let ends = self.parts.chunks(MAX_SKB_FRAGS).map(|parts| {
            end += parts.iter().sum::<usize>();
            end
        });
        ends.into_iter().find(|end| *end > at).filter(|end| *end < len)
    }
}

/// Fragments of a packet of the kernel.
const MAX_SKB_FRAGS: usize = 17;

impl Calls {
    /// Reads into `buf` what is there. EAGAIN if nothing is, or less than was insisted on
    /// (`MSG_WAITALL`): then `done` of it is in the buffer already.
    ///
    /// # Errors
    /// EAGAIN, ENOTCONN, EBADF, ENOTSOCK, EINVAL, and why the connection failed.
    pub fn recv(
        &mut self,
        fd: i32,
        buf: &mut [u8],
        flags: i32,
        done: &mut usize,
    ) -> Result<Got, Errno> {
        if let File::Pipe(id, false) = *self.files.get(fd)? {
            let pipe = self.files.pipes.get_mut(&id).ok_or(libc::EBADF)?;
            let n = buf.len().min(pipe.len());
            if n == 0 && !buf.is_empty() {
                return Err(libc::EAGAIN);
            }
            buf.iter_mut().zip(pipe.drain(..n)).for_each(|(to, from)| *to = from);
            return Ok(Got { len: n, ..Got::default() });
        }
        let sock = self.files.sock(fd)?;
        if flags & libc::MSG_ERRQUEUE != 0 {
            return self.recv_errqueue(fd);
        }
        let id = match sock.stand {
            Stand::Defers(_) => return Err(libc::EAGAIN),
            Stand::New | Stand::Listens(_) => return Err(libc::ENOTCONN),
            Stand::Connects(id) | Stand::Connected(id) => id,
        };
        if flags & libc::MSG_OOB != 0 {
            let urgent = self.stack.shard.tcp_recv_urgent(id, flags & libc::MSG_PEEK != 0);
            let Some(byte) = urgent.map_err(|err| err.errno())? else { return Ok(Got::default()) };
            if let Some(first) = buf.first_mut() {
                *first = byte;
            }
            return Ok(Got { len: buf.len().min(1), flags: libc::MSG_OOB, ..Got::default() });
        }
        let known = IDLE | libc::MSG_PEEK | libc::MSG_TRUNC | libc::MSG_WAITALL;
        if flags & !known != 0 {
            return Err(libc::EINVAL);
        }
        let want = buf.len();
        let got = if flags & libc::MSG_PEEK != 0 {
            self.peek(id, buf)
        } else if flags & libc::MSG_TRUNC != 0 {
            let there = self.stack.shard.tcp_readable(id).map(|rx| rx.bytes.min(want));
            there.inspect(|n| self.stack.shard.tcp_consume(id, *n))
        } else {
            self.stack.shard.tcp_recv(id, &mut buf[*done..])
        };
        match got {
            Ok(n) if n > 0 || want == 0 => {
                *done += n;
                let whole = *done == want || flags & libc::MSG_WAITALL == 0;
                let ended = || self.stack.shard.tcp_readable(id).is_ok_and(|rx| rx.fin);
                if whole || ended() {
                    return Ok(Got { len: *done, control: self.inq(id), ..Got::default() });
                }
                Err(libc::EAGAIN)
            }
            Ok(_) if *done > 0 => Ok(Got { len: *done, ..Got::default() }),
            Ok(_) => self.nothing(fd, id),
            Err(TcpError::WouldBlock) if *done == 0 && self.files.sock(fd)?.rd_shut => {
                Ok(Got::default())
            }
            Err(TcpError::WouldBlock) => Err(libc::EAGAIN),
            Err(_) if *done > 0 => Ok(Got { len: *done, ..Got::default() }),
            Err(_) => self.nothing(fd, id),
        }
    }

    /// Nothing will come any more: why is told once, then it is the end (`tcp_recvmsg_locked`).
    fn nothing(&mut self, fd: i32, id: SocketId) -> Result<Got, Errno> {
        let error = self.take_error(fd)?;
        if error != 0 {
            return Err(error);
        }
        match self.stack.shard.tcp_info(id) {
            None => Err(libc::ENOTCONN),
            Some(_) => Ok(Got { control: self.inq(id), ..Got::default() }),
        }
    }

    /// What the control messages of a read say: what is left to read (TCP_INQ).
    fn inq(&mut self, id: SocketId) -> Vec<(i32, i32, Vec<u8>)> {
        let asked = self.stack.shard.tcp_get(id, OptName::Inq) == Ok(TcpOpt::Inq(true));
        let left = self.stack.shard.tcp_inq(id) as i32;
        asked.then(|| (libc::SOL_TCP, TCP_INQ, left.to_ne_bytes().to_vec())).into_iter().collect()
    }

    fn peek(&mut self, id: SocketId, buf: &mut [u8]) -> Result<usize, TcpError> {
        let mut parts: Vec<IoSlice<'_>> = Vec::new();
        let n = self.stack.shard.tcp_rx_slices(id, buf.len(), &mut parts)?;
        let bytes = parts.iter().flat_map(|part| part.iter());
        buf.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Ok(n)
    }

    /// The next completion of the error queue.
    fn recv_errqueue(&mut self, fd: i32) -> Result<Got, Errno> {
        let sock = self.files.sock(fd)?;
        let (level, name) = match sock.domain {
            libc::AF_INET => (libc::SOL_IP, libc::IP_RECVERR),
            _ => (libc::SOL_IPV6, libc::IPV6_RECVERR),
        };
        let done = sock.conn().and_then(|id| self.stack.shard.tcp_zerocopy_done(id));
        let Some(err) = done.map(extended_err) else {
            return sock.stamps.take((level, name), EPOCH_US).ok_or(libc::EAGAIN);
        };
        let data = [&err[..], crate::addr::none(level)].concat();
        Ok(Got { len: 0, flags: libc::MSG_ERRQUEUE, control: vec![(level, name, data)] })
    }

    /// Queues `data` from `write.done` on. EAGAIN while not all of it is queued.
    ///
    /// # Errors
    /// EAGAIN, EPIPE, ENOTCONN, EOPNOTSUPP, EBADF, ENOTSOCK, and why the connection failed.
    pub fn send(
        &mut self,
        fd: i32,
        data: &[u8],
        flags: i32,
        write: &mut Write,
    ) -> Result<usize, Errno> {
        if let File::Pipe(id, true) = *self.files.get(fd)? {
            let pipe = self.files.pipes.get_mut(&id).ok_or(libc::EBADF)?;
            let rest = &data[write.done..];
            let n = rest.len().min(PIPE_SIZE - pipe.len());
            pipe.extend(&rest[..n]);
            write.done += n;
            return if write.done == data.len() { Ok(write.done) } else { Err(libc::EAGAIN) };
        }
        let sock = self.files.sock(fd)?;
        if write.slept.is_some_and(|w| (w.write, w.all) == (sock.wakes.write, sock.wakes.all)) {
            return Err(libc::EAGAIN);
        }
        write.slept = None;
        let id = match sock.stand {
            Stand::Defers(remote) => return self.send_fastopen(fd, data, flags, remote, write),
            Stand::New | Stand::Listens(_) => return Err(libc::EPIPE),
            Stand::Connects(id) if write.fastopen => {
                match self.connected(fd, id) {
                    Err(libc::EALREADY) => return Err(libc::EAGAIN),
                    other => other?,
                }
                if write.done == data.len() {
                    return Ok(write.done);
                }
                id
            }
            Stand::Connects(id) | Stand::Connected(id) => id,
        };
        let sock = self.files.sock(fd)?;
        let open = matches!(sock.stand, Stand::Connected(_));
        let state = self.stack.shard.tcp_info(id).map(|info| info.state);
        let early = !open && matches!(state, Some(State::SynSent | State::SynRecv));
        let waits = !sock.nonblock && flags & libc::MSG_DONTWAIT == 0;
        self.stack.shard.tcp_write_pending(id, early && waits && !sock.wr_shut);
        if early && !sock.wr_shut {
            return Err(libc::EAGAIN);
        }
        if sock.wr_shut || matches!(state, None | Some(State::Close)) {
            return self.broken(fd, write);
        }
        if write.done == 0
            && flags & MSG_ZEROCOPY != 0
            && self.files.sock(fd)?.zerocopy
            && !self.stack.shard.tcp_zerocopy_room(id)
        {
            return Err(libc::ENOBUFS);
        }
        let has = |flag| flags & flag != 0;
        let (more, eor, oob) = (has(libc::MSG_MORE), has(libc::MSG_EOR), has(libc::MSG_OOB));
        let msg = SendMsg { more, eor, oob };
        let fragments = has(MSG_ZEROCOPY) && self.files.sock(fd)?.zerocopy;
        let Some(n) = self.queue(id, data, msg, write, fragments) else {
            return self.broken(fd, write);
        };
        write.done += n;
        let sock = self.files.sock(fd)?;
        let notes = sock.zerocopy && flags & MSG_ZEROCOPY != 0;
        let whole = write.done == data.len();
        sock.stamps.wrote(n, whole || !waits);
        if whole {
            if notes {
                // Its own memory is free at once: it was copied.
                let said = self.stack.shard.tcp_zerocopy_copied(id, write.done);
                said.map_err(|err| err.errno())?;
            }
            return Ok(write.done);
        }
        write.slept = Some(sock.wakes);
        Err(libc::EAGAIN)
    }

    /// Queues what there is room for; `None` if the connection is over.
    fn queue(
        &mut self,
        id: SocketId,
        data: &[u8],
        msg: SendMsg,
        write: &Write,
        fragments: bool,
    ) -> Option<usize> {
        let mut n = 0;
        loop {
            let at = write.done + n;
            let cut = if fragments { write.cut(at, data.len()) } else { None };
            let part = &data[at..cut.unwrap_or(data.len())];
            let msg = SendMsg { eor: msg.eor || cut.is_some(), ..msg };
            match self.stack.shard.tcp_sendmsg(id, part, msg) {
                Ok(some) => n += some,
                Err(TcpError::WouldBlock) => return Some(n),
                Err(_) => return Some(n).filter(|n| *n > 0),
            }
            if cut != Some(write.done + n) {
                return Some(n);
            }
        }
    }

    /// Writing is over: why is told once, then EPIPE (`sk_stream_error`).
    fn broken(&mut self, fd: i32, write: &Write) -> Result<usize, Errno> {
        if write.done > 0 {
            return Ok(write.done);
        }
        match self.take_error(fd)? {
            0 => Err(libc::EPIPE),
            error => Err(error),
        }
    }

    /// Opens the connection with the first of `data` (`tcp_sendmsg_fastopen`).
    fn send_fastopen(
        &mut self,
        fd: i32,
        data: &[u8],
        flags: i32,
        to: SocketAddr,
        write: &mut Write,
    ) -> Result<usize, Errno> {
        let sock = self.files.sock(fd)?;
        let nonblock = sock.nonblock || flags & libc::MSG_DONTWAIT != 0;
        sock.stand = Stand::New;
        write.done = self.begin_connect(fd, to, Some(data))?;
        write.fastopen = true;
        let sock = self.files.sock(fd)?;
        if write.done > 0
            && flags & MSG_ZEROCOPY != 0
            && sock.zerocopy
            && let Stand::Connects(id) = sock.stand
        {
            let said = self.stack.shard.tcp_zerocopy_copied(id, write.done);
            said.map_err(|err| err.errno())?;
        }
        let sock = self.files.sock(fd)?;
        if let Stand::Connects(id) = sock.stand {
            self.stack.shard.tcp_write_pending(id, !nonblock && write.done < data.len());
        }
        match (nonblock, write.done) {
            (true, 0) => Err(libc::EINPROGRESS),
            (true, n) => Ok(n),
            (false, _) => Err(libc::EAGAIN),
        }
    }

    /// `sendto` and `sendmsg` with an address: only Fast Open looks at it.
    ///
    /// # Errors
    /// As [`Calls::send`]; for Fast Open EOPNOTSUPP if it is off, EINPROGRESS if no data went with the
    /// SYN, EISCONN, EALREADY.
    pub fn send_to(
        &mut self,
        fd: i32,
        data: &[u8],
        flags: i32,
        to: Option<SocketAddr>,
        write: &mut Write,
    ) -> Result<usize, Errno> {
        if flags & MSG_FASTOPEN != 0 && !write.fastopen {
            if self.stack.shard.net.knobs.tcp_fastopen & 1 == 0 {
                return Err(libc::EOPNOTSUPP);
            }
            return match (self.files.sock(fd)?.stand, to) {
                (Stand::New, Some(to)) => self.send_fastopen(fd, data, flags, to, write),
                (Stand::New, None) => Err(libc::EOPNOTSUPP),
                (Stand::Connects(id), _) => match self.connected(fd, id) {
                    // Meanwhile it is open: an ordinary write.
                    Ok(()) => self.send(fd, data, flags, write),
                    Err(errno) => Err(errno),
                },
                (Stand::Defers(_), _) => self.send(fd, data, flags, write),
                (Stand::Connected(_) | Stand::Listens(_), _) => Err(libc::EISCONN),
            };
        }
        self.send(fd, data, flags, write)
    }

    /// `splice`: between a socket and a pipe, without offsets.
    ///
    /// # Errors
    /// EINVAL unless one side is a pipe; as reading and writing.
    pub fn splice(&mut self, from: i32, to: i32, len: usize) -> Result<usize, Errno> {
        let pipes = [from, to].map(|fd| self.files.get(fd).map(|f| matches!(f, File::Pipe(..))));
        let mut bytes = vec![0; len.min(PIPE_SIZE)];
        match pipes {
            [Ok(true), Ok(_)] => {
                let File::Pipe(id, false) = *self.files.get(from)? else { return Err(libc::EBADF) };
                let held = self.files.pipes.get(&id).ok_or(libc::EBADF)?;
                let n = bytes.len().min(held.len());
                bytes.iter_mut().zip(held).for_each(|(to, from)| *to = *from);
                if n == 0 {
                    return if len == 0 { Ok(0) } else { Err(libc::EAGAIN) };
                }
                let mut write = Write::default();
                match self.send(to, &bytes[..n], 0, &mut write) {
                    Err(libc::EAGAIN) if write.done == 0 => return Err(libc::EAGAIN),
                    Ok(_) | Err(libc::EAGAIN) => {}
                    Err(errno) => return Err(errno),
                }
                let pipe = self.files.pipes.get_mut(&id).ok_or(libc::EBADF)?;
                pipe.drain(..write.done);
                Ok(write.done)
            }
            [Ok(false), Ok(true)] => {
                let File::Pipe(id, true) = *self.files.get(to)? else { return Err(libc::EBADF) };
                let room = PIPE_SIZE - self.files.pipes.get(&id).ok_or(libc::EBADF)?.len();
                bytes.truncate(room);
                if bytes.is_empty() {
                    return if len == 0 { Ok(0) } else { Err(libc::EAGAIN) };
                }
                if self.ioctl(from, SIOCATMARK) == Ok(1) {
                    // An urgent byte is next, and no part of the stream (`tcp_read_sock`).
                    return Ok(0);
                }
                let got = self.recv(from, &mut bytes, 0, &mut 0)?;
                let pipe = self.files.pipes.get_mut(&id).ok_or(libc::EBADF)?;
                pipe.extend(&bytes[..got.len]);
                Ok(got.len)
            }
            [Ok(false), Ok(false)] => Err(libc::EINVAL),
            [Err(errno), _] | [_, Err(errno)] => Err(errno),
        }
    }

    /// `ioctl`: what is to be read (SIOCINQ), what is not acknowledged (SIOCOUTQ), what is not sent
    /// (SIOCOUTQNSD), whether urgent data is next (SIOCATMARK).
    ///
    /// # Errors
    /// EINVAL on a listener, ENOTTY, EBADF, ENOTSOCK.
    pub fn ioctl(&mut self, fd: i32, request: u64) -> Result<i32, Errno> {
        let sock = self.files.sock(fd)?;
        let id = match sock.stand {
            Stand::Listens(_) => return Err(libc::EINVAL),
            Stand::New | Stand::Defers(_) => None,
            Stand::Connects(id) | Stand::Connected(id) => Some(id),
        };
        let shard = &self.stack.shard;
        match request {
            libc::FIONREAD => Ok(id.map_or(0, |id| shard.tcp_siocinq(id) as i32)),
            libc::TIOCOUTQ => Ok(id.map_or(0, |id| shard.tcp_queued(id) as i32)),
            SIOCATMARK => Ok(id.map_or(0, |id| i32::from(shard.tcp_at_mark(id)))),
            SIOCOUTQNSD => {
                let info = id.and_then(|id| shard.tcp_info(id));
                Ok(info.map_or(0, |info| info.notsent_bytes as i32))
            }
            _ => Err(libc::ENOTTY),
        }
    }
}

/// The kernel's TCP_INQ, which is also the type of its control message (TCP_CM_INQ).
pub(crate) const TCP_INQ: i32 = 36;
/// The kernel's SIOCATMARK.
const SIOCATMARK: u64 = 0x8905;
/// The kernel's SIOCOUTQNSD.
const SIOCOUTQNSD: u64 = 0x894b;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_without_a_copy_ends_with_its_last_fragment() {
        let write = Write::from_parts(vec![2; 40]);
        assert_eq!(write.cut(0, 80), Some(34));
        assert_eq!(write.cut(33, 80), Some(34));
        assert_eq!(write.cut(34, 80), Some(68));
        assert_eq!(write.cut(68, 80), None, "the last one ends with the write");
        assert_eq!(Write::default().cut(0, 80), None);
    }
}
