//! Opening, connecting and closing: the calls that change what a file descriptor is.
//!
//! Linux: net/socket.c, net/ipv4/af_inet.c

use std::net::SocketAddr;

use linerate_core::sock::error::TcpError;
use linerate_core::sock::{Ready, SocketId};
use linerate_core::tcp::{Connect, Listen, State};

use crate::Errno;
use crate::epoll::Epoll;
use crate::files::{File, Files, Sock, Stand};
use crate::flags::{Flags, Sysctl};
use crate::stack::Stack;

/// The stack with its table of file descriptors. No call waits: what would, says EAGAIN.
pub(crate) struct Calls {
    /// The stack.
    pub stack: Stack,
    /// What file descriptors name.
    pub files: Files,
    sysctl: Option<Sysctl>,
}

impl Calls {
    /// What the flags ask for; a knob that does not take its value is an error in words.
    pub fn new(flags: &Flags) -> Result<Calls, String> {
        let mut stack = Stack::new(flags);
        for (name, value) in &flags.knobs {
            stack.shard.set_knob(name, value).map_err(|err| err.to_string())?;
        }
        let sysctl = flags.sysctl_from.as_deref().map(Sysctl::new);
        Ok(Calls { stack, files: Files::default(), sysctl })
    }

    /// What belongs before every call.
    pub fn begin(&mut self) {
        if let Some(sysctl) = &mut self.sysctl {
            sysctl.follow(&mut self.stack.shard);
        }
    }

    /// What belongs after everything that happened: packets leave, and those that wait are told.
    pub fn settle(&mut self) {
        self.stack.settle();
        let shard = &mut self.stack.shard;
        while let Some(event) = shard.poll_event() {
            let ready = shard.take_ready(event.id);
            for sock in self.files.socks() {
                if [Stand::Listens(event.id), Stand::Connects(event.id), Stand::Connected(event.id)]
                    .contains(&sock.stand)
                {
                    sock.wakes.read += u64::from(ready.has(Ready::IN));
                    sock.wakes.write += u64::from(ready.has(Ready::OUT));
                    let all = Ready::RDHUP | Ready::HUP | Ready::ERR;
                    sock.wakes.all += u64::from(ready.has(all));
                }
            }
        }
        for sock in self.files.socks() {
            if let Some(id) = sock.conn() {
                let shard = &self.stack.shard;
                let queued = shard.tcp_queued(id) as u64;
                let unsent = shard.tcp_info(id).map_or(0, |info| info.notsent_bytes.into());
                sock.wakes.all += u64::from(sock.stamps.note(unsent, queued, shard.net.now));
            }
        }
    }

    /// `socket`.
    ///
    /// # Errors
    /// EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT.
    pub fn socket(&mut self, domain: i32, kind: i32, protocol: i32) -> Result<i32, Errno> {
        if ![libc::AF_INET, libc::AF_INET6].contains(&domain) {
            return Err(libc::EAFNOSUPPORT);
        }
        match kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
            libc::SOCK_STREAM if [0, libc::IPPROTO_TCP].contains(&protocol) => {}
            libc::SOCK_STREAM => return Err(libc::EPROTONOSUPPORT),
            _ => return Err(libc::ESOCKTNOSUPPORT),
        }
        let sock = Sock::new(domain, kind & libc::SOCK_NONBLOCK != 0);
        self.files.open(File::Sock(Box::new(sock)))
    }

    /// `bind`.
    ///
    /// # Errors
    /// EINVAL, EADDRNOTAVAIL, EAFNOSUPPORT, EBADF, ENOTSOCK.
    pub fn bind(&mut self, fd: i32, addr: Option<SocketAddr>) -> Result<(), Errno> {
        let shard = &self.stack.shard;
        let sock = self.files.sock(fd)?;
        let addr = addr.ok_or(libc::EAFNOSUPPORT)?;
        if sock.stand != Stand::New || sock.bound.is_some() {
            return Err(libc::EINVAL);
        }
        let ours = addr.ip().is_unspecified() || shard.net.fib.is_local(addr.ip());
        let free =
            [(libc::IPPROTO_IP, libc::IP_FREEBIND), (libc::IPPROTO_IP, libc::IP_TRANSPARENT)];
        if !ours && !free.iter().any(|name| sock.told.get(name).is_some_and(|on| *on != 0)) {
            return Err(libc::EADDRNOTAVAIL);
        }
        sock.bound = Some(addr);
        Ok(())
    }

    /// `listen`.
    ///
    /// # Errors
    /// EINVAL if it is connected, EADDRINUSE, EBADF, ENOTSOCK.
    pub fn listen(&mut self, fd: i32, backlog: i32) -> Result<(), Errno> {
        let sock = self.files.sock(fd)?;
        match sock.stand {
            Stand::New => {}
            Stand::Listens(_) => return Ok(()),
            Stand::Connects(_) | Stand::Connected(_) | Stand::Defers(_) => {
                return Err(libc::EINVAL);
            }
        }
        let addr = sock.bound.map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified());
        let port = sock.bound.map_or(0, |addr| addr.port());
        let reuseport = sock.told.get(&(libc::SOL_SOCKET, libc::SO_REUSEPORT));
        let listen = Listen {
            addr,
            port,
            // A negative number is a large one, as for the kernel.
            backlog: backlog as u32,
            reuseport: reuseport.is_some_and(|on| *on != 0),
            ..Listen::default()
        };
        let id = self.stack.shard.tcp_listen(listen).map_err(|err| err.errno())?;
        sock.stand = Stand::Listens(id);
        for opt in std::mem::take(&mut sock.opts) {
            self.stack.shard.tcp_set(id, opt).map_err(|err| err.errno())?;
        }
        if let Some(most) = sock.told.get(&(libc::SOL_TCP, libc::TCP_FASTOPEN)) {
            self.stack.shard.tcp_listen_fastopen(id, *most as u32);
        }
        if !sock.fastopen_keys.is_empty() {
            self.stack.shard.tcp_listen_fastopen_keys(id, &sock.fastopen_keys);
        }
        Ok(())
    }

    /// `accept`: the new file and the peer's address as this socket's family tells it.
    ///
    /// # Errors
    /// EAGAIN if nobody waits; EINVAL if it does not listen, EBADF, ENOTSOCK.
    pub fn accept(&mut self, fd: i32) -> Result<(i32, Vec<u8>), Errno> {
        let sock = self.files.sock(fd)?;
        let Stand::Listens(listener) = sock.stand else { return Err(libc::EINVAL) };
        let id = self.stack.shard.tcp_accept(listener).ok_or(libc::EAGAIN)?;
        let mut new = Sock::new(sock.domain, false);
        new.stand = Stand::Connected(id);
        new.bound = self.stack.shard.tcp_addrs(id).map(|(local, _)| local);
        new.told = sock.told.clone();
        new.timeo_ms = sock.timeo_ms;
        new.zerocopy = sock.zerocopy;
        let (domain, peer) = (sock.domain, self.stack.shard.tcp_addrs(id).map(|(_, peer)| peer));
        let new = self.files.open(File::Sock(Box::new(new)))?;
        Ok((new, peer.map(|peer| crate::addr::emit(peer, domain)).unwrap_or_default()))
    }

    /// `connect`; `None` is AF_UNSPEC, which ends a connection.
    ///
    /// # Errors
    /// EINPROGRESS once it has begun, then EALREADY, EISCONN, or why it failed.
    pub fn connect(&mut self, fd: i32, to: Option<SocketAddr>) -> Result<(), Errno> {
        let sock = self.files.sock(fd)?;
        let Some(remote) = to else { return self.disconnect(fd) };
        match sock.stand {
            Stand::New => {}
            Stand::Listens(_) | Stand::Connected(_) | Stand::Defers(_) => {
                return Err(libc::EISCONN);
            }
            Stand::Connects(id) => return self.connected(fd, id),
        }
        let fastopen = sock.told.get(&(libc::SOL_TCP, libc::TCP_FASTOPEN_CONNECT));
        if fastopen.is_some_and(|on| *on != 0) {
            if self.stack.shard.tcp_fastopen_ready(remote) {
                sock.stand = Stand::Defers(remote);
                return Ok(());
            }
            self.begin_connect(fd, remote, Some(&[]))?;
        } else {
            self.begin_connect(fd, remote, None)?;
        }
        Err(libc::EINPROGRESS)
    }

    /// Begins a connection; of `fastopen` its SYN takes as much as it may, and that is how much is
    /// returned.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn begin_connect(
        &mut self,
        fd: i32,
        remote: SocketAddr,
        fastopen: Option<&[u8]>,
    ) -> Result<usize, Errno> {
        let sock = self.files.sock(fd)?;
        let shard = &mut self.stack.shard;
        let connect = Connect { local: sock.bound, remote, user: 0 };
        let begun = match fastopen {
            Some(data) => shard.tcp_connect_fastopen(connect, &sock.opts, data),
            None => shard.tcp_connect_with(connect, &sock.opts).map(|id| (id, 0)),
        };
        let (id, n) = begun.map_err(|err| err.errno())?;
        sock.stand = Stand::Connects(id);
        (sock.rd_shut, sock.wr_shut) = (false, false);
        sock.stamps.wrote(n, fastopen.is_some_and(|data| data.len() == n));
        Ok(n)
    }

    /// How a connection that was begun stands.
    pub fn connected(&mut self, fd: i32, id: SocketId) -> Result<(), Errno> {
        match self.stack.shard.tcp_info(id).map(|info| info.state) {
            Some(State::SynSent | State::SynRecv) => Err(libc::EALREADY),
            Some(State::Close) | None => {
                let why = self.take_error(fd)?;
                self.disconnect(fd)?;
                Err(if why == 0 { libc::ECONNABORTED } else { why })
            }
            Some(_) => {
                self.files.sock(fd)?.stand = Stand::Connected(id);
                Ok(())
            }
        }
    }

    /// Ends a connection, if there is one; the socket can be used again.
    fn disconnect(&mut self, fd: i32) -> Result<(), Errno> {
        let sock = self.files.sock(fd)?;
        if matches!(sock.stand, Stand::Defers(_)) {
            sock.stand = Stand::New;
        }
        if let Some(id) = sock.conn() {
            sock.stand = Stand::New;
            self.stack.shard.tcp_abort(id);
        }
        Ok(())
    }

    /// Why the connection failed, told once (`sock_error`); 0 if it did not.
    ///
    /// # Errors
    /// EBADF, ENOTSOCK.
    pub fn take_error(&mut self, fd: i32) -> Result<Errno, Errno> {
        let error = self.files.sock(fd)?.conn();
        let error = error.and_then(|id| self.stack.shard.tcp_take_error(id));
        Ok(error.map_or(0, TcpError::errno))
    }

    /// `shutdown`.
    ///
    /// # Errors
    /// ENOTCONN, EINVAL, EBADF, ENOTSOCK.
    pub fn shutdown(&mut self, fd: i32, how: i32) -> Result<(), Errno> {
        let sock = self.files.sock(fd)?;
        let (rd, wr) = match how {
            libc::SHUT_RD => (true, false),
            libc::SHUT_WR => (false, true),
            libc::SHUT_RDWR => (true, true),
            _ => return Err(libc::EINVAL),
        };
        let id = match sock.stand {
            Stand::New | Stand::Defers(_) => return Err(libc::ENOTCONN),
            Stand::Listens(id) => {
                if rd {
                    sock.stand = Stand::New;
                    self.stack.shard.tcp_close(id);
                }
                return Ok(());
            }
            Stand::Connects(id) | Stand::Connected(id) => id,
        };
        match self.stack.shard.tcp_info(id).map(|info| info.state) {
            None | Some(State::Close) => return Err(libc::ENOTCONN),
            Some(State::SynSent) => {
                return self.disconnect(fd);
            }
            Some(_) => {}
        }
        sock.rd_shut |= rd;
        sock.wr_shut |= wr;
        sock.wakes.all += 1;
        if wr {
            self.stack.shard.tcp_shutdown(id);
        }
        Ok(())
    }

    /// `close`.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&mut self, fd: i32) -> Result<(), Errno> {
        let file = self.files.close(fd)?;
        self.files.epolls().for_each(|epoll| epoll.forget(fd));
        let File::Sock(sock) = file else { return Ok(()) };
        let shard = &mut self.stack.shard;
        match sock.stand {
            Stand::New | Stand::Defers(_) => {}
            Stand::Listens(id) | Stand::Connects(id) | Stand::Connected(id) => shard.tcp_close(id),
        }
        Ok(())
    }

    /// `epoll_create`.
    ///
    /// # Errors
    /// EINVAL if `size` is not positive.
    pub fn epoll_create(&mut self, size: i32) -> Result<i32, Errno> {
        if size <= 0 {
            return Err(libc::EINVAL);
        }
        self.files.open(File::Epoll(Epoll::default()))
    }

    /// `fcntl`: F_GETFL and F_SETFL with O_NONBLOCK.
    ///
    /// # Errors
    /// EBADF, EINVAL.
    pub fn fcntl(&mut self, fd: i32, command: i32, arg: i64) -> Result<i32, Errno> {
        let file = self.files.get(fd)?;
        let nonblock = match file {
            File::Sock(sock) => Some(&mut sock.nonblock),
            _ => None,
        };
        match (command, nonblock) {
            (libc::F_GETFL, None) => Ok(libc::O_RDWR),
            (libc::F_GETFL, Some(on)) => Ok(libc::O_RDWR | if *on { libc::O_NONBLOCK } else { 0 }),
            (libc::F_SETFL, None) => Ok(0),
            (libc::F_SETFL, Some(on)) => {
                *on = arg & i64::from(libc::O_NONBLOCK) != 0;
                Ok(0)
            }
            (libc::F_GETFD | libc::F_SETFD, _) => Ok(0),
            _ => Err(libc::EINVAL),
        }
    }
}
