//! Files over HTTP/1.1.
//!
//! RFCs: 9110, 9112, 3986 §2.1
//!
//! GET and HEAD of regular files in one directory; single ranges; persistent connections with
//! pipelining. A request's head is bounded, a slow client is given up, a file is read as the peer
//! takes it. What was asked for lately is kept in memory for all shards ([`FileCache`]) and sent from
//! there. Bodies of requests are not taken: the answer ends the connection.

mod file;
mod request;

use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use linerate_core::pkt::Lent;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::tcp::SendMsg;
use linerate_core::time::{Instant, SEC};
use linerate_dev::file::{FileCache, Opened};

use super::stream::wait_for_room;
use super::{Scratch, Served, Step, settle};
use request::{Asked, Method};

pub use file::open_root;

/// Bytes of a request's head at the most.
const HEAD_MAX: usize = 8192;
/// How long a head may take from its first byte on, in nanoseconds.
const HEAD_TIME: u64 = 10 * SEC;
/// How long a connection may be idle between requests.
const IDLE_TIME: u64 = 60 * SEC;
/// How long a client may take less than [`STALL_LEAST`] bytes of an answer.
const STALL_TIME: u64 = 60 * SEC;
const STALL_LEAST: u64 = 16 * 1024;
/// How long what a client still sends is thrown away after an answer that ends the connection.
const LINGER_TIME: u64 = 5 * SEC;
/// Bytes of a file that are read at once.
const PIECE: usize = 64 * 1024;
/// Bytes of files that one connection sends in a turn.
const BYTES_PER_TURN: usize = 512 * 1024;
/// What a request costs of these, whatever its answer: it looks for a file.
const REQUEST_COST: usize = 8 * 1024;

/// A client's connection.
pub(super) struct Conn {
    served: Arc<Served>,
    /// What came and was not yet read as a request.
    asked: Vec<u8>,
    /// What is to be sent before the file: heads, errors.
    out: Vec<u8>,
    state: State,
    /// The connection ends after this answer.
    last: bool,
    deadline: Instant,
    /// Bytes that the client had taken when the deadline of its answer was set.
    acked: u64,
}

enum State {
    /// It may ask.
    Reading,
    /// It is being answered; then the file follows, if there is one.
    Sending(Option<Piece>),
    /// It has its answer; what it says is thrown away.
    Lingering,
}

/// What is left to send of a file.
struct Piece {
    file: Opened,
    /// What comes next of it, from memory that all share.
    image: Option<Lent>,
    at: u64,
    left: u64,
}

impl Conn {
    pub(super) fn new(served: Arc<Served>, now: Instant) -> Conn {
        Conn {
            served,
            asked: Vec::new(),
            out: Vec::new(),
            state: State::Reading,
            last: false,
            deadline: now.plus(HEAD_TIME),
            acked: 0,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What its buffers hold.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.asked.capacity() + self.out.capacity()
    }

    /// It has waited long enough: for a request it is told so, and in an answer it is given up,
    /// unless it takes what it is sent. Not each byte counts as progress: who takes one a minute
    /// would hold its memory for ever.
    pub(super) fn expired(&mut self, shard: &Shard, id: SocketId) -> Step {
        let now = shard.net.now;
        match self.state {
            State::Reading if !self.asked.is_empty() => {
                self.refuse(request::Refused::Timeout);
                self.deadline = now.plus(LINGER_TIME);
                Step::More
            }
            State::Reading | State::Lingering => Step::Close,
            State::Sending(_) => {
                let acked = acked(shard, id);
                if acked.saturating_sub(self.acked) < STALL_LEAST {
                    return Step::Abort;
                }
                self.acked = acked;
                self.deadline = now.plus(STALL_TIME);
                Step::Idle
            }
        }
    }

    pub(super) fn step(&mut self, shard: &mut Shard, id: SocketId, scratch: &mut Scratch) -> Step {
        let mut budget = BYTES_PER_TURN;
        loop {
            let step = match self.state {
                State::Reading => {
                    let step = self.read(shard, id, scratch);
                    if step.is_none() {
                        budget = budget.saturating_sub(REQUEST_COST);
                    }
                    step
                }
                State::Sending(_) => self.send(shard, id, &mut budget),
                State::Lingering => linger(shard, id),
            };
            match step {
                None if budget == 0 => return Step::More,
                None => {}
                Some(step) => return step,
            }
        }
    }

    /// Reads until a request is whole; `None` if one is.
    fn read(&mut self, shard: &mut Shard, id: SocketId, scratch: &mut Scratch) -> Option<Step> {
        loop {
            if let Some(asked) = request::parse(&self.asked, HEAD_MAX).transpose() {
                self.acked = acked(shard, id);
                self.answer(shard, asked);
                return None;
            }
            let room = (HEAD_MAX + 1 - self.asked.len()).min(scratch.bytes.len());
            match shard.tcp_recv(id, &mut scratch.bytes[..room]) {
                Ok(0) => return Some(Step::Close),
                Ok(n) => {
                    if self.asked.is_empty() {
                        self.deadline = shard.net.now.plus(HEAD_TIME);
                    }
                    self.asked.extend_from_slice(&scratch.bytes[..n]);
                }
                Err(TcpError::WouldBlock) => {
                    settle(&mut self.asked);
                    settle(&mut self.out);
                    return Some(Step::Idle);
                }
                Err(_) => return Some(Step::Close),
            }
        }
    }

    /// Makes the answer to a request, or to what is none.
    fn answer(&mut self, shard: &Shard, asked: Result<Asked, request::Refused>) {
        self.deadline = shard.net.now.plus(STALL_TIME);
        let asked = match asked {
            Ok(asked) => asked,
            Err(why) => return self.refuse(why),
        };
        self.asked.drain(..asked.len);
        self.last = !asked.keep_alive;
        let Some(root) = &self.served.root else { return self.refuse(request::Refused::Internal) };
        match file::find(root, &asked) {
            Ok(found) => {
                let (status, from, left) = match found.range {
                    Some((from, left)) => ("206 Partial Content", from, left),
                    None => ("200 OK", 0, found.size),
                };
                head(&mut self.out, status, self.last);
                let _ = write!(
                    self.out,
                    "Content-Type: {}\r\nContent-Length: {left}\r\nAccept-Ranges: bytes\r\n\
                     Last-Modified: {}\r\n",
                    found.kind,
                    file::date(found.modified)
                );
                if found.range.is_some() {
                    let (last, size) = (from + left.max(1) - 1, found.size);
                    let _ = write!(self.out, "Content-Range: bytes {from}-{last}/{size}\r\n");
                }
                self.out.extend_from_slice(b"\r\n");
                let piece = Piece { file: found.file, image: None, at: from, left };
                self.state = State::Sending((asked.method == Method::Get).then_some(piece));
            }
            Err(file::NotFound::Unchanged) => {
                head(&mut self.out, "304 Not Modified", self.last);
                self.out.extend_from_slice(b"\r\n");
                self.state = State::Sending(None);
            }
            Err(file::NotFound::Elsewhere(place)) => {
                let body = "It is a directory: its name ends with a slash.\n";
                head(&mut self.out, "301 Moved Permanently", self.last);
                let _ = write!(self.out, "Location: {place}\r\n");
                self.say(body, asked.method);
            }
            Err(file::NotFound::Range(size)) => {
                head(&mut self.out, "416 Range Not Satisfiable", self.last);
                let _ = write!(self.out, "Content-Range: bytes */{size}\r\n");
                self.say("The file is shorter.\n", asked.method);
            }
            Err(file::NotFound::Busy) => self.refuse(request::Refused::Busy),
            Err(file::NotFound::Nothing) => {
                head(&mut self.out, "404 Not Found", self.last);
                self.say("There is no such file.\n", asked.method);
            }
        }
    }

    /// A short text as the answer's body.
    fn say(&mut self, text: &str, method: Method) {
        let len = text.len();
        let kind = "Content-Type: text/plain; charset=utf-8";
        let _ = write!(self.out, "{kind}\r\nContent-Length: {len}\r\n\r\n");
        if method == Method::Get {
            self.out.extend_from_slice(text.as_bytes());
        }
        self.state = State::Sending(None);
    }

    /// Refuses what was asked; the connection ends, because where the next request would begin is
    /// not known.
    fn refuse(&mut self, why: request::Refused) {
        self.last = true;
        self.asked.clear();
        let (status, text) = why.says();
        head(&mut self.out, status, true);
        if why == request::Refused::Method {
            self.out.extend_from_slice(b"Allow: GET, HEAD\r\n");
        }
        self.say(text, Method::Get);
    }

    /// Sends what there is room for; `None` when all is sent.
    fn send(&mut self, shard: &mut Shard, id: SocketId, budget: &mut usize) -> Option<Step> {
        while !self.out.is_empty() {
            match shard.tcp_send(id, &self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(TcpError::WouldBlock) => return Some(Step::Idle),
                Err(_) => return Some(Step::Close),
            }
        }
        let State::Sending(Some(piece)) = &mut self.state else { return self.sent(shard, id) };
        while piece.left > 0 {
            if *budget == 0 {
                return Some(Step::More);
            }
            let room = shard.tcp_send_space(id);
            if room == 0 {
                wait_for_room(shard, id);
                return Some(Step::Idle);
            }
            let sent = match self.served.files.takes(&piece.file) {
                true => piece.send_shared(shard, id, &self.served.files),
                false => piece.send(shard, id, room),
            };
            match sent {
                Ok(n) => *budget -= n.min(*budget),
                Err(step) => return Some(step),
            }
        }
        self.sent(shard, id)
    }

    /// The answer is out.
    fn sent(&mut self, shard: &mut Shard, id: SocketId) -> Option<Step> {
        let now = shard.net.now;
        if self.last {
            shard.tcp_shutdown(id);
            self.state = State::Lingering;
            self.deadline = now.plus(LINGER_TIME);
        } else {
            self.state = State::Reading;
            let begun = !self.asked.is_empty();
            self.deadline = now.plus(if begun { HEAD_TIME } else { IDLE_TIME });
        }
        None
    }
}

impl Piece {
    /// Sends the next piece from where it lies in memory.
    fn send_shared(
        &mut self,
        shard: &mut Shard,
        id: SocketId,
        files: &FileCache,
    ) -> Result<usize, Step> {
        let image = match self.image.take() {
            Some(image) if !image.is_empty() => image,
            _ => files.read(&self.file, self.at).map_err(|_| Step::Abort)?,
        };
        let count = image.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if count == 0 {
            // It was cut short: a reset tells the client that this was not all.
            return Err(Step::Abort);
        }
        let more = (count as u64) < self.left;
        let msg = SendMsg { more, ..SendMsg::default() };
        let n = match shard.tcp_sendfile(id, &image, 0, count, msg) {
            Ok(n) => n,
            Err(TcpError::WouldBlock) => return Err(Step::Idle),
            Err(_) => return Err(Step::Close),
        };
        self.image = Some(image.part(n..image.len()));
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
    /// Reads the next piece of the file into memory that is sent as it is.
    fn send(&mut self, shard: &mut Shard, id: SocketId, room: usize) -> Result<usize, Step> {
        // No more than there is room for: a client that reads slowly would have its whole file queued.
        let want = room.min(PIECE).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut chunk = shard.take_chunk(want);
        let read = chunk.spare_mut().map_or(Ok(0), |spare| {
            let most = spare.len().min(want);
            self.file.file().read_at(&mut spare[..most], self.at)
        });
        let n = match read {
            // It was cut short, or the disk failed: a reset tells the client that this was not all.
            Ok(0) | Err(_) => {
                shard.give_chunk(chunk);
                return Err(Step::Abort);
            }
            Ok(n) => n,
        };
        chunk.fill(n);
        if let Err((chunk, e)) = shard.tcp_send_chunk(id, chunk) {
            shard.give_chunk(chunk);
            return Err(if e == TcpError::WouldBlock { Step::Idle } else { Step::Close });
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Throws away what still comes, so that the client reads the answer instead of a reset.
fn linger(shard: &mut Shard, id: SocketId) -> Option<Step> {
    Some(match shard.tcp_readable(id) {
        Ok(there) => {
            shard.tcp_consume(id, there.bytes);
            if there.fin { Step::Close } else { Step::Idle }
        }
        Err(TcpError::WouldBlock) => Step::Idle,
        Err(_) => Step::Close,
    })
}

/// Bytes that the client has taken so far.
fn acked(shard: &Shard, id: SocketId) -> u64 {
    shard.tcp_info(id).map_or(0, |info| info.bytes_acked)
}

/// Begins an answer.
fn head(out: &mut Vec<u8>, status: &str, last: bool) {
    let now = std::time::SystemTime::now();
    let _ = write!(out, "HTTP/1.1 {status}\r\nServer: linerate\r\nDate: {}\r\n", file::date(now));
    let _ = write!(out, "Connection: {}\r\n", if last { "close" } else { "keep-alive" });
}
