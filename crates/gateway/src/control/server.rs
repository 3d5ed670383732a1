//! The instance's side of the control socket, driven by the packet loop and never blocking it.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use rustix::fs::{CWD, Mode, OFlags};

use super::capture::{Ports, Stream};
use super::{NameError, Request, Response, check_name, directory, place};
use crate::ns::leftover::{Leftover, lock, remove_same};

/// Clients at a time; more are turned away with a sentence.
const CLIENTS_MAX: usize = 16;
/// Bytes of a request, line end included.
const REQUEST_MAX: usize = 4096;
/// How often the directory is made anew if somebody removes it at the same moment.
const TRIES_MAX: usize = 8;
/// Requests answered in one turn, all clients together: a turn of the loop stays short.
const ANSWERS_PER_TURN: usize = 4;
/// The listener's token; clients have their index.
const LISTENER: u64 = u64::MAX;

/// The control socket of one instance; its name goes with it.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    epoll: Epoll,
    clients: Vec<Option<Peer>>,
    path: PathBuf,
    /// The file behind the path: what is removed is ours.
    file: OwnedFd,
    name: String,
    /// Captures, each with a client of its own that asks nothing else any more.
    captures: Vec<Stream>,
}

/// Who is told what has to be removed if the process is killed.
pub type Promise<'a> = &'a mut dyn FnMut(Leftover<'_>) -> io::Result<()>;

/// Why an instance has no control socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// The name is not allowed (EINVAL).
    Name(NameError),
    /// A running instance has the name (EADDRINUSE).
    InUse(String),
    /// The directory is not private, or the system refuses; the sentence names the path.
    Io(io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::Name(e) => e.fmt(f),
            BindError::InUse(name) => {
                write!(f, "an instance called {name:?} runs already: choose another --name")
            }
            BindError::Io(e) => write!(f, "the control socket can not be made: {e}"),
        }
    }
}
impl std::error::Error for BindError {}

impl From<io::Error> for BindError {
    fn from(e: io::Error) -> BindError {
        BindError::Io(e)
    }
}

/// One client: what it asked so far, and what it has not yet read of the answer.
#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    asked: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    /// It will ask nothing more.
    ended: bool,
    /// A capture that begins with the answer.
    capture: Option<Ports>,
}

impl ControlServer {
    /// Opens the control socket of the instance `name`. Before anything is made, `promise` is told
    /// of it: it sees to it that a process that is killed leaves nothing.
    ///
    /// # Errors
    /// [`BindError`], also for what `promise` returns.
    pub fn bind(name: &str, promise: Promise<'_>) -> Result<ControlServer, BindError> {
        promise(Leftover::Directory(&place()))?;
        let mut tries = TRIES_MAX;
        loop {
            let dir = directory(true)?;
            sweep(&dir);
            match ControlServer::make(&dir, name, promise) {
                // An instance that ended has taken the empty directory with it.
                Err(BindError::Io(e)) if e.kind() == ErrorKind::NotFound && tries > 0 => tries -= 1,
                made => return made,
            }
        }
    }

    /// The same in a directory that the caller has chosen, and made private.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_in(dir: &Path, name: &str) -> Result<ControlServer, BindError> {
        ControlServer::make(dir, name, &mut |_| Ok(()))
    }

    fn make(dir: &Path, name: &str, promise: Promise<'_>) -> Result<ControlServer, BindError> {
        check_name(name).map_err(BindError::Name)?;
        let path = dir.join(format!("{name}.sock"));
        // It listens before it has the name: nobody takes it for dead meanwhile.
        // Two instances of one process may be made at once.
        static MADE: AtomicU64 = AtomicU64::new(0);
        let nth = MADE.fetch_add(1, Ordering::Relaxed);
        let early = dir.join(format!(".{}.{nth}.early", std::process::id()));
        promise(Leftover::Path(&early))?;
        remove(&early)?;
        let listener = UnixListener::bind(&early)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&early, flags, Mode::empty()).map_err(io::Error::from)?;
        promise(Leftover::File(&path, file.as_fd()))?;
        let named = give_name(&early, &path);
        remove(&early)?;
        match named {
            Ok(true) => {}
            Ok(false) => return Err(BindError::InUse(name.to_owned())),
            Err(e) => return Err(e.into()),
        }
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER);
        epoll.add(&listener, event).map_err(io::Error::from)?;
        let clients = std::iter::repeat_with(|| None).take(CLIENTS_MAX).collect();
        let name = name.to_owned();
        Ok(ControlServer { listener, epoll, clients, path, file, name, captures: Vec::new() })
    }

    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Readable when [`ControlServer::turn`] has something to do: the listener and all clients are
    /// behind this one descriptor.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Serves whoever is ready, without waiting; a bounded number of requests each turn.
    pub fn turn(&mut self, handler: &mut dyn FnMut(Request) -> Response) {
        let mut events = [EpollEvent::empty(); CLIENTS_MAX + 1];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let mut answers = ANSWERS_PER_TURN;
        for event in events.iter().take(ready) {
            match event.data() {
                LISTENER => self.accept(),
                index => self.serve(index as usize, handler, &mut answers),
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { return };
            if stream.set_nonblocking(true).is_err() || !may_ask(&stream) {
                continue;
            }
            let Some(free) = self.clients.iter().position(Option::is_none) else {
                let busy = line(&Response::Error("too many clients: try again".to_owned()));
                // Into an empty socket buffer a line always fits.
                let _ = (&stream).write(&busy);
                continue;
            };
            let event = EpollEvent::new(EpollFlags::EPOLLIN, free as u64);
            if self.epoll.add(&stream, event).is_ok() {
                let (asked, answer) = (Vec::new(), Vec::new());
                let (sent, ended, capture) = (0, false, None);
                self.clients[free] = Some(Peer { stream, asked, answer, sent, ended, capture });
            }
        }
    }

    fn serve(
        &mut self,
        index: usize,
        handler: &mut dyn FnMut(Request) -> Response,
        answers: &mut usize,
    ) {
        let Some(Some(peer)) = self.clients.get_mut(index) else { return };
        let mut stays = peer.send() && peer.hear() && peer.reply(handler, answers);
        if let Some(ports) = peer.capture.take() {
            return self.begin_capture(index, ports);
        }
        stays = stays && peer.send();
        let done = peer.ended && peer.answer.is_empty() && !peer.asked.contains(&b'\n');
        if !stays || done {
            self.hang_up(index);
            return;
        }
        // With an answer to give off, only room to write matters: no further request is heard.
        let wanted =
            if peer.answer.is_empty() { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT };
        let mut event = EpollEvent::new(wanted, index as u64);
        if self.epoll.modify(&peer.stream, &mut event).is_err() {
            self.hang_up(index);
        }
    }

    /// The client's socket goes to the thread of its capture.
    fn begin_capture(&mut self, index: usize, ports: Ports) {
        self.captures.retain(|c| !c.is_over());
        let Some(peer) = self.clients.get_mut(index).and_then(Option::take) else { return };
        let _ = self.epoll.delete(&peer.stream);
        match Stream::start(peer.stream, peer.answer, ports) {
            Ok(stream) => self.captures.push(stream),
            // The client sees that it was left.
            Err(e) => eprintln!("linerate: a capture has no thread, and ends: {e}"),
        }
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(peer) = self.clients.get_mut(index).and_then(Option::take) {
            // Closing the descriptor would take it out as well, but only if no copy of it is left.
            let _ = self.epoll.delete(&peer.stream);
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // Only while it is ours: nobody else takes the name of a socket that listens.
        let _ = remove_same(CWD, &self.path, self.file.as_fd());
    }
}

impl Peer {
    /// Reads what is there, within the bound of one request; false if the client is gone.
    fn hear(&mut self) -> bool {
        let mut buf = [0; REQUEST_MAX];
        while self.answer.is_empty() && !self.ended && !self.asked.contains(&b'\n') {
            let room = REQUEST_MAX - self.asked.len().min(REQUEST_MAX);
            if room == 0 {
                let text = format!("a request has at most {REQUEST_MAX} bytes");
                self.answer = line(&Response::Error(text));
                self.asked.clear();
                self.ended = true;
                break;
            }
            match self.stream.read(&mut buf[..room]) {
                Ok(0) => self.ended = true,
                Ok(n) => self.asked.extend_from_slice(&buf[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// Answers the first request, if it is whole and the turn's bound permits; always true.
    fn reply(&mut self, handler: &mut dyn FnMut(Request) -> Response, answers: &mut usize) -> bool {
        let end = self.asked.iter().position(|b| *b == b'\n');
        if let Some(end) = end.filter(|_| self.answer.is_empty() && *answers > 0) {
            *answers -= 1;
            let request: Vec<u8> = self.asked.drain(..=end).collect();
            let response = match serde_json::from_slice(&request) {
                Ok(request) => handler(request),
                Err(e) => Response::Error(format!("the request can not be read: {e}")),
            };
            self.answer = line(&response);
            if let Response::Capturing(begun) = response {
                self.capture = Some(begun.ports);
            }
        }
        true
    }

    /// Sends what the client takes; false if it is gone.
    fn send(&mut self) -> bool {
        while let Some(rest) = self.answer.get(self.sent..).filter(|r| !r.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return false,
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
        self.answer = Vec::new();
        self.sent = 0;
        true
    }
}

/// Whether the peer is this user, or root; the kernel says who it is.
fn may_ask(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|c| c.uid == ours || c.uid.is_root())
}

fn line(response: &Response) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(response).unwrap_or_else(|e| {
        format!("{{\"error\":\"the answer can not be written: {e}\"}}").into_bytes()
    });
    bytes.push(b'\n');
    bytes
}

/// Gives the listening socket its name; false if a living instance has it.
fn give_name(early: &Path, path: &Path) -> io::Result<bool> {
    for _ in 0..3 {
        match std::fs::hard_link(early, path) {
            Ok(()) => return Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                if !remove_if_dead(path)? {
                    return Ok(false);
                }
            }
            Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
        }
    }
    Ok(false)
}

/// Removes what instances left behind that were killed. A failure shows when it matters.
pub(super) fn sweep(dir: &Path) {
    let _names = super::client::instances_in(dir);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let early = file.to_str().and_then(|f| f.strip_prefix('.')?.strip_suffix(".early"));
        let pid = early.and_then(|early| early.split('.').next());
        // Not by whether it listens: one that is being made does not yet.
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _gone = remove(&entry.path());
        }
    }
}

/// Removes a socket that nobody listens on; true if it is gone.
pub(super) fn remove_if_dead(path: &Path) -> io::Result<bool> {
    match refused(path) {
        Some(true) => {}
        other => return Ok(other.is_none()),
    }
    // Dead sockets are removed one at a time: after this look nobody else makes room for a new one
    // under the same name.
    let dir = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let _lock = lock(&dir)?;
    match refused(path) {
        Some(true) => remove(path).map(|()| true),
        Some(false) => Ok(false),
        None => Ok(true),
    }
}

/// Whether nobody listens on a socket; `None` if there is none.
fn refused(path: &Path) -> Option<bool> {
    match UnixStream::connect(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        // Otherwise it listens, or is too busy to say so.
        connected => Some(connected.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(io::Error::new(e.kind(), format!("{}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}
