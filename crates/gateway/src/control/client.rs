//! The user's side of the control socket: finds instances and asks them.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use linerate_core::tap::{HEAD, Head};

use super::capture::{CHUNK_HEAD, END};
use super::server::remove_if_dead;
use super::{CaptureRequest, Capturing, Request, Response, directory};

/// An answer is waited for so long: a healthy loop answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a running instance.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    name: String,
}

/// Why an instance could not be asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// None runs (ENOENT).
    None,
    /// Several run, and none was named.
    Several(Vec<String>),
    /// None runs under this name (ENOENT); these do.
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        running: Vec<String>,
    },
    /// The directory of sockets can not be read, or is not private.
    Directory(io::Error),
    /// The instance ended meanwhile, or does not answer.
    Io {
        /// Its name.
        name: String,
        /// What happened.
        error: io::Error,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::None => f.write_str(
                "no instance of this user runs here: start one with `linerate run -- PROGRAM`, or with \
                 `linerate up`",
            ),
            ClientError::Several(names) => {
                write!(f, "several instances run: choose one with --name: {}", names.join(", "))
            }
            ClientError::Unknown { name, running } if running.is_empty() => {
                write!(f, "no instance is called {name:?}, and none runs")
            }
            ClientError::Unknown { name, running } => {
                write!(f, "no instance is called {name:?}; these run: {}", running.join(", "))
            }
            ClientError::Directory(e) => write!(f, "the control sockets can not be reached: {e}"),
            ClientError::Io { name, error } => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => write!(
                    f,
                    "{name} does not answer: its loop hangs, or it is stopped (SIGCONT wakes it)"
                ),
                ErrorKind::UnexpectedEof => write!(f, "{name} ended before it answered"),
                _ => write!(f, "{name} can not be asked: {error}"),
            },
        }
    }
}
impl std::error::Error for ClientError {}

/// The instances of this user that run now, by name. Sockets of dead ones are removed.
///
/// # Errors
/// [`ClientError::Directory`].
pub fn instances() -> Result<Vec<String>, ClientError> {
    match directory(false) {
        Ok(dir) => match instances_in(&dir) {
            // It went with the last instance.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            found => found.map_err(ClientError::Directory),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(ClientError::Directory(e)),
    }
}

pub(super) fn instances_in(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let file = entry?.file_name();
        let Some(name) = file.to_str().and_then(|f| f.strip_suffix(".sock")) else { continue };
        if super::check_name(name).is_ok() && !remove_if_dead(&dir.join(&file))? {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

impl Client {
    /// Connects to the instance `name`, which may also be the path of its socket; without a name,
    /// to the only one that runs.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(name: Option<&str>) -> Result<Client, ClientError> {
        if let Some(path) = name.filter(|n| n.contains('/')) {
            return Client::open(Path::new(path), path);
        }
        let mut running = instances()?;
        let name = match (name, running.len()) {
            (Some(name), _) if !running.iter().any(|r| r == name) => {
                return Err(ClientError::Unknown { name: name.to_owned(), running });
            }
            (Some(name), _) => name.to_owned(),
            (None, 0) => return Err(ClientError::None),
            (None, 1) => running.remove(0),
            (None, _) => return Err(ClientError::Several(running)),
        };
        let dir: PathBuf = directory(false).map_err(ClientError::Directory)?;
        Client::open(&dir.join(format!("{name}.sock")), &name)
    }

    pub(super) fn open(path: &Path, name: &str) -> Result<Client, ClientError> {
        let name = name.to_owned();
        let opened = UnixStream::connect(path).and_then(|s| {
            s.set_read_timeout(Some(PATIENCE))?;
            s.set_write_timeout(Some(PATIENCE))?;
            Ok(s)
        });
        match opened {
            Ok(stream) => Ok(Client { stream: BufReader::new(stream), name }),
            Err(error) => Err(ClientError::Io { name, error }),
        }
    }

    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.exchange(request).map_err(|error| ClientError::Io { name: self.name.clone(), error })
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Response> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = Vec::new();
        self.stream.read_until(b'\n', &mut answer)?;
        if answer.last() != Some(&b'\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// A capture, from the client's side.
#[derive(Debug)]
pub struct Captured {
    stream: BufReader<UnixStream>,
    /// What the instance said of itself.
    pub begun: Capturing,
    /// Packets captured so far, and those for which there was no room.
    pub counts: (u64, u64),
    /// Of the chunk that is read.
    left: usize,
    bytes: Vec<u8>,
    /// The instance has said that nothing follows.
    ended: bool,
}

/// What [`Captured::poll_next`] found.
#[derive(Debug)]
pub enum Next<'a> {
    /// A packet.
    Packet(Head, &'a [u8]),
    /// For the moment there is nothing: whoever waits may see to other things.
    Pause,
    /// Nothing will follow. True if the instance said so; else it was killed.
    End(bool),
}

impl Client {
    /// Begins a capture.
    ///
    /// # Errors
    /// [`ClientError::Io`]; a refusal by the instance is the inner result's, a sentence.
    pub fn capture(
        mut self,
        wanted: &CaptureRequest,
    ) -> Result<Result<Captured, String>, ClientError> {
        let begun = match self.ask(&Request::Capture(wanted.clone()))? {
            Response::Capturing(begun) => begun,
            Response::Error(why) => return Ok(Err(why)),
            _ => return Ok(Err("the instance answers in another way".to_owned())),
        };
        let stream = self.stream;
        let forever = stream.get_ref().set_read_timeout(None);
        forever.map_err(|error| ClientError::Io { name: self.name, error })?;
        let (counts, left, bytes, ended) = ((0, 0), 0, Vec::new(), false);
        Ok(Ok(Captured { stream, begun, counts, left, bytes, ended }))
    }
}

/// A packet in a record has at most so many bytes: what says otherwise is no record.
const RECORD_MAX: u32 = 1 << 24;

impl Captured {
    /// Readable when more may have come.
    #[must_use]
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }

    /// Asks the instance to end the capture: what it has still comes.
    ///
    /// # Errors
    /// The socket's.
    pub fn stop(&self) -> io::Result<()> {
        self.stream.get_ref().shutdown(std::net::Shutdown::Write)
    }

    /// The next packet. It waits only within a chunk, which the instance writes in one go.
    ///
    /// # Errors
    /// The socket's; `InvalidData` if the instance does not speak as it should.
    pub fn poll_next(&mut self) -> io::Result<Next<'_>> {
        if self.ended {
            return Ok(Next::End(true));
        }
        if self.left == 0 {
            match self.chunk()? {
                None => return Ok(Next::End(false)),
                Some(END) => {
                    self.ended = true;
                    return Ok(Next::End(true));
                }
                Some(0) => return Ok(Next::Pause),
                Some(len) => self.left = len as usize,
            }
        }
        let mut head = [0; HEAD];
        let bad = |why: &str| io::Error::new(ErrorKind::InvalidData, why.to_owned());
        self.left = self.left.checked_sub(HEAD).ok_or_else(|| bad("a record is cut off"))?;
        self.stream.read_exact(&mut head)?;
        let head = Head::decode(&head).map_err(|e| bad(&e.to_string()))?;
        if head.captured > RECORD_MAX {
            return Err(bad("a packet is longer than packets are"));
        }
        let left = self.left.checked_sub(head.captured as usize);
        self.left = left.ok_or_else(|| bad("a record is cut off"))?;
        self.bytes.resize(head.captured as usize, 0);
        self.stream.read_exact(&mut self.bytes)?;
        Ok(Next::Packet(head, &self.bytes))
    }

    /// Whether a chunk is begun, so that [`Captured::poll_next`] need not be waited for.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.left > 0 || !self.stream.buffer().is_empty() || self.ended
    }

    /// The head of a chunk; `None` where the instance was killed.
    fn chunk(&mut self) -> io::Result<Option<u32>> {
        let mut head = [0; CHUNK_HEAD];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        let long = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| head[at + i]));
        self.counts = (long(4), long(12));
        Ok(Some(u32::from_le_bytes([head[0], head[1], head[2], head[3]])))
    }
}
