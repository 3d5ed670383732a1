//! What file descriptors name: sockets, epoll instances, pipes.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd};

use linerate_core::sock::SocketId;
use linerate_core::tcp::api::TcpOpt;

use crate::Errno;
use crate::epoll::{Epoll, Wakes};
use crate::stamps::Stamps;

/// How far a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Neither listening nor connected.
    New,
    /// It listens.
    Listens(SocketId),
    /// Its SYN waits for the first data (TCP_FASTOPEN_CONNECT).
    Defers(SocketAddr),
    /// It is being connected.
    Connects(SocketId),
    /// It is or was connected.
    Connected(SocketId),
}

/// A TCP socket as the application sees it.
pub(crate) struct Sock {
    /// AF_INET or AF_INET6.
    pub domain: i32,
    /// O_NONBLOCK.
    pub nonblock: bool,
    /// How far it has come.
    pub stand: Stand,
    /// Where it was bound to.
    pub bound: Option<SocketAddr>,
    /// Options that were set before there was a connection to have them, in their order.
    pub opts: Vec<TcpOpt>,
    /// Options that are only told back, by level and name.
    pub told: BTreeMap<(i32, i32), i32>,
    /// Keys of its Fast Open cookies (TCP_FASTOPEN_KEY); none = those of the knob.
    pub fastopen_keys: Vec<[u8; 16]>,
    /// `shutdown(SHUT_RD)`.
    pub rd_shut: bool,
    /// `shutdown(SHUT_WR)`.
    pub wr_shut: bool,
    /// Milliseconds that reading and writing wait at most (SO_RCVTIMEO, SO_SNDTIMEO); 0 = for ever.
    pub timeo_ms: (u64, u64),
    /// Sends whose completion is to be told (SO_ZEROCOPY).
    pub zerocopy: bool,
    /// When what was written left and arrived (SO_TIMESTAMPING).
    pub stamps: Stamps,
    /// How often something happened to it: what edge-triggered waiting looks at.
    pub wakes: Wakes,
}

impl Sock {
    /// A new socket.
    pub fn new(domain: i32, nonblock: bool) -> Sock {
        Sock {
            domain,
            nonblock,
            stand: Stand::New,
            bound: None,
            opts: Vec::new(),
            told: BTreeMap::new(),
            fastopen_keys: Vec::new(),
            rd_shut: false,
            wr_shut: false,
            timeo_ms: (0, 0),
            zerocopy: false,
            stamps: Stamps::default(),
            wakes: Wakes::default(),
        }
    }
    /// Its connection.
    pub fn conn(&self) -> Option<SocketId> {
        match self.stand {
            Stand::Connects(id) | Stand::Connected(id) => Some(id),
            Stand::New | Stand::Listens(_) | Stand::Defers(_) => None,
        }
    }
}

/// A number that the kernel keeps free for us: packetdrill closes what a script leaves open by the
/// kernel's `close`, and dies if that knows nothing of it.
struct Number(Option<std::fs::File>);

impl Number {
    fn reserve() -> Option<Number> {
        std::fs::File::open("/dev/null").ok().map(|file| Number(Some(file)))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if let Some(file) = self.0.take() {
            // Left open by the script: packetdrill has closed it, or ends anyway.
            let _left = file.into_raw_fd();
        }
    }
}

/// What lies in a pipe; both ends name it.
pub(crate) type PipeId = u64;

/// What a file descriptor names.
pub(crate) enum File {
    /// A TCP socket.
    Sock(Box<Sock>),
    /// An epoll instance.
    Epoll(Epoll),
    /// An end of a pipe: `true` = the one that is written to.
    Pipe(PipeId, bool),
}

/// The table of file descriptors.
#[derive(Default)]
pub(crate) struct Files {
    files: BTreeMap<i32, (File, Number)>,
    /// What lies in pipes.
    pub pipes: BTreeMap<PipeId, VecDeque<u8>>,
    next_pipe: PipeId,
}

impl Files {
    /// A free number names `file`.
    ///
    /// # Errors
    /// EMFILE.
    pub fn open(&mut self, file: File) -> Result<i32, Errno> {
        let number = Number::reserve().ok_or(libc::EMFILE)?;
        let fd = number.0.as_ref().map_or(-1, |file| file.as_raw_fd());
        self.files.insert(fd, (file, number));
        Ok(fd)
    }
    /// A new pipe: reading end, writing end.
    ///
    /// # Errors
    /// EMFILE.
    pub fn pipe(&mut self) -> Result<[i32; 2], Errno> {
        self.next_pipe += 1;
        self.pipes.insert(self.next_pipe, VecDeque::new());
        let reads = self.open(File::Pipe(self.next_pipe, false))?;
        Ok([reads, self.open(File::Pipe(self.next_pipe, true))?])
    }
    /// Takes a file out.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&mut self, fd: i32) -> Result<File, Errno> {
        let (file, mut number) = self.files.remove(&fd).ok_or(libc::EBADF)?;
        drop(number.0.take());
        Ok(file)
    }
    /// A file.
    ///
    /// # Errors
    /// EBADF.
    pub fn get(&mut self, fd: i32) -> Result<&mut File, Errno> {
        self.files.get_mut(&fd).map(|(file, _)| file).ok_or(libc::EBADF)
    }
    /// A socket.
    ///
    /// # Errors
    /// EBADF, ENOTSOCK.
    pub fn sock(&mut self, fd: i32) -> Result<&mut Sock, Errno> {
        match self.get(fd)? {
            File::Sock(sock) => Ok(sock),
            _ => Err(libc::ENOTSOCK),
        }
    }
    /// All sockets.
    pub fn socks(&mut self) -> impl Iterator<Item = &mut Sock> {
        self.files.values_mut().filter_map(|(file, _)| match file {
            File::Sock(sock) => Some(&mut **sock),
            _ => None,
        })
    }
    /// An epoll instance.
    ///
    /// # Errors
    /// EBADF, EINVAL.
    pub fn epoll(&mut self, fd: i32) -> Result<&mut Epoll, Errno> {
        match self.get(fd)? {
            File::Epoll(epoll) => Ok(epoll),
            _ => Err(libc::EINVAL),
        }
    }
    /// The epoll instances.
    pub fn epolls(&mut self) -> impl Iterator<Item = &mut Epoll> {
        self.files.values_mut().filter_map(|(file, _)| match file {
            File::Epoll(epoll) => Some(epoll),
            _ => None,
        })
    }
}
