//! The running kernel as a target: real sockets and a TUN device in a network namespace of its own.
//!
//! The namespace belongs to one thread and goes with it, and with it every knob that a script sets.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use linerate_dev::device::Device;
use linerate_dev::netdev::{Netdev, Route};
use linerate_dev::tun::{Config, Tun};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    self, AddressFamily, Backlog, GetSockOpt, MsgFlags, SetSockOpt, Shutdown, SockFlag, SockType,
    SockaddrStorage, sockopt,
};
use rustix::event::{PollFlags as PollIn, Timespec};
use rustix::net::{SocketFlags, accept_with};

use super::script::Knob;
use super::target::{BUFFERS, Call, Fd, Outcome, Sent, Target, Value};
use super::wire::{local, remote};

mod options {
    //! Socket options as types, made by nix's own macro.
    #![allow(missing_docs, reason = "the names are the kernel's")]
    use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};

    /// `struct tcp_md5sig`: an address, four bytes of which two are the key's length, an interface, the key.
    pub(super) type Md5Sig = [u8; 216];
    sockopt_impl!(Md5, SetOnly, libc::IPPROTO_TCP, libc::TCP_MD5SIG, [u8; 216]);
    sockopt_impl!(Info, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u8; 248]);

    macro_rules! ints {
        ($($name:ident: $level:ident, $opt:ident;)+) => {
            $(sockopt_impl!($name, Both, libc::$level, libc::$opt, libc::c_int);)+

            /// Sets an option that is an `int`.
            pub(super) fn set(fd: &std::os::fd::OwnedFd, level: i32, name: i32, n: i32) -> nix::Result<()> {
                match (level, name) {
                    $((libc::$level, libc::$opt) => nix::sys::socket::setsockopt(fd, $name, &n),)+
                    _ => Err(nix::errno::Errno::ENOSYS),
                }
            }
            /// Reads an option that is an `int`.
            pub(super) fn get(fd: &std::os::fd::OwnedFd, level: i32, name: i32) -> nix::Result<i32> {
                match (level, name) {
                    $((libc::$level, libc::$opt) => nix::sys::socket::getsockopt(fd, $name),)+
                    _ => Err(nix::errno::Errno::ENOSYS),
                }
            }
        };
    }
    ints! {
        ReuseAddr: SOL_SOCKET, SO_REUSEADDR;
        ReusePort: SOL_SOCKET, SO_REUSEPORT;
        RcvBuf: SOL_SOCKET, SO_RCVBUF;
        SndBuf: SOL_SOCKET, SO_SNDBUF;
        RcvBufForce: SOL_SOCKET, SO_RCVBUFFORCE;
        SndBufForce: SOL_SOCKET, SO_SNDBUFFORCE;
        KeepAlive: SOL_SOCKET, SO_KEEPALIVE;
        RcvLowat: SOL_SOCKET, SO_RCVLOWAT;
        OobInline: SOL_SOCKET, SO_OOBINLINE;
        SockError: SOL_SOCKET, SO_ERROR;
        NoDelay: IPPROTO_TCP, TCP_NODELAY;
        MaxSeg: IPPROTO_TCP, TCP_MAXSEG;
        Cork: IPPROTO_TCP, TCP_CORK;
        KeepIdle: IPPROTO_TCP, TCP_KEEPIDLE;
        KeepIntvl: IPPROTO_TCP, TCP_KEEPINTVL;
        KeepCnt: IPPROTO_TCP, TCP_KEEPCNT;
        SynCnt: IPPROTO_TCP, TCP_SYNCNT;
        Linger2: IPPROTO_TCP, TCP_LINGER2;
        DeferAccept: IPPROTO_TCP, TCP_DEFER_ACCEPT;
        WindowClamp: IPPROTO_TCP, TCP_WINDOW_CLAMP;
        QuickAck: IPPROTO_TCP, TCP_QUICKACK;
        UserTimeout: IPPROTO_TCP, TCP_USER_TIMEOUT;
        FastOpen: IPPROTO_TCP, TCP_FASTOPEN;
        NotsentLowat: IPPROTO_TCP, TCP_NOTSENT_LOWAT;
        Inq: IPPROTO_TCP, TCP_INQ;
        Tos: IPPROTO_IP, IP_TOS;
        MtuDiscover: IPPROTO_IP, IP_MTU_DISCOVER;
        Mtu: IPPROTO_IP, IP_MTU;
        TClass: IPPROTO_IPV6, IPV6_TCLASS;
    }
}

/// What a new namespace takes over from the first one, set to what Linux begins with.
const DEFAULTS: [(&str, &str); 8] = [
    BUFFERS[0],
    BUFFERS[1],
    ("net.ipv4.tcp_no_metrics_save", "1"),
    ("net.ipv4.tcp_ecn", "2"),
    ("net.ipv4.tcp_syncookies", "1"),
    ("net.ipv4.tcp_timestamps", "1"),
    ("net.ipv4.tcp_sack", "1"),
    ("net.ipv6.conf.all.router_solicitations", "0"),
];

/// A namespace's sockets and its TUN device.
pub struct Kernel {
    tun: Tun,
    _netdev: Netdev,
    begin: Instant,
    sent: VecDeque<Sent>,
    socks: Vec<Option<OwnedFd>>,
    congestion: String,
    v6: bool,
}

/// Whether this process may make a namespace and a TUN in it; if not, why.
pub fn permitted() -> Result<(), String> {
    in_namespace(|| Kernel::new(false).map(|_| ())).and_then(|made| made)
}

/// Does something in a network namespace of its own, on a thread of its own.
///
/// # Errors
/// The kernel refuses the namespace.
pub fn in_namespace<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| format!("no network namespace ({e}): this needs CAP_SYS_ADMIN"))?;
            Ok(f())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Kernel {
    /// Makes the device in the calling thread's namespace, which must be its own
    /// ([`in_namespace`]).
    ///
    /// # Errors
    /// A sentence that says what the kernel refused.
    pub fn new(v6: bool) -> Result<Kernel, String> {
        let tun = Tun::open(&Config::new("tun0").plain()).map_err(|e| e.to_string())?;
        let mut netdev = Netdev::open().map_err(|e| e.to_string())?;
        let mut setup = || {
            let index = netdev.link("tun0")?.index;
            netdev.set_addr_gen_none(index)?;
            netdev.set_up(index, true)?;
            netdev.set_mtu(index, 1500)?;
            netdev.add_addr(index, local(v6), if v6 { 64 } else { 24 })?;
            let all = if v6 { "::" } else { "0.0.0.0" }.parse().expect("an address");
            netdev.add_route(&Route { dev: Some(index), ..Route::to(all, 0) })
        };
        setup().map_err(|e: linerate_dev::netdev::NetdevError| e.to_string())?;
        for (path, value) in DEFAULTS {
            sysctl(path, value)?;
        }
        if v6 {
            settle_v6()?;
        }
        Ok(Kernel {
            tun,
            _netdev: netdev,
            begin: Instant::now(),
            sent: VecDeque::new(),
            socks: Vec::new(),
            congestion: "cubic".to_owned(),
            v6,
        })
    }
    /// The script begins now.
    pub fn start(&mut self) {
        self.begin = Instant::now();
    }

    fn gather(&mut self) {
        let mut buf = [0; 4096];
        loop {
            let Some(fd) = self.tun.poll_fd() else { return };
            match nix::unistd::read(fd, &mut buf) {
                Ok(n) if n > 0 => {
                    let at_us = self.begin.elapsed().as_micros() as i64;
                    self.sent.push_back(Sent { at_us, bytes: buf[..n].to_vec() });
                }
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }
    fn fd(&self, fd: Fd) -> Result<&OwnedFd, i32> {
        self.socks.get(fd).and_then(Option::as_ref).ok_or(libc::EBADF)
    }
    fn opened(&mut self, fd: OwnedFd) -> Outcome {
        self.socks.push(Some(fd));
        Ok((self.socks.len() as i64 - 1, None))
    }
    fn socket(&mut self) -> Outcome {
        let family = if self.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(family, SockType::Stream, flags, None).map_err(num)?;
        let name = OsString::from(&self.congestion);
        socket::setsockopt(&fd, sockopt::TcpCongestion, &name).map_err(num)?;
        self.opened(fd)
    }
    fn set(&mut self, fd: Fd, level: i32, name: i32, value: &Value) -> Outcome {
        let fd = self.fd(fd)?;
        let set = match value {
            Value::Int(n) => options::set(fd, level, name, *n),
            Value::Linger(on, seconds) => {
                let linger =
                    libc::linger { l_onoff: i32::from(*on), l_linger: i32::from(*seconds) };
                sockopt::Linger.set(fd, &linger)
            }
            Value::Name(key) if (level, name) == (libc::IPPROTO_TCP, libc::TCP_MD5SIG) => {
                options::Md5.set(fd, &md5sig(remote(self.v6), key.as_bytes()))
            }
            Value::Name(name) => sockopt::TcpCongestion.set(fd, &OsString::from(name)),
        };
        set.map(|()| (0, None)).map_err(num)
    }
    fn get(&mut self, fd: Fd, level: i32, name: i32) -> Outcome {
        let fd = self.fd(fd)?;
        if (level, name) == (libc::IPPROTO_TCP, libc::TCP_CONGESTION) {
            let name = sockopt::TcpCongestion.get(fd).map_err(num)?;
            let name = name.to_string_lossy().trim_end_matches('\0').to_owned();
            return Ok((0, Some(Value::Name(name))));
        }
        let n = options::get(fd, level, name).map_err(num)?;
        Ok((0, Some(Value::Int(n))))
    }
    fn connected(&mut self, fd: Fd) -> Outcome {
        let (events, _) = self.poll(fd, libc::POLLOUT)?;
        if events == 0 {
            return Err(libc::EINPROGRESS);
        }
        match options::get(self.fd(fd)?, libc::SOL_SOCKET, libc::SO_ERROR).map_err(num)? {
            0 => Ok((0, None)),
            errno => Err(errno),
        }
    }
    fn poll(&self, fd: Fd, events: i16) -> Outcome {
        let asked = PollIn::from_bits_retain(events as u16);
        let mut one = [rustix::event::PollFd::from_borrowed_fd(self.fd(fd)?.as_fd(), asked)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let n = rustix::event::poll(&mut one, Some(&now)).map_err(|e| e.raw_os_error())?;
        let bits = one[0].revents().bits() as i16;
        Ok((n as i64, Some(Value::Int(i32::from(bits)))))
    }
    fn do_call(&mut self, call: &Call) -> Outcome {
        let unit = |r: nix::Result<()>| r.map(|()| (0, None)).map_err(num);
        let count = |r: nix::Result<usize>| r.map(|n| (n as i64, None)).map_err(num);
        let address = |addr: IpAddr, port| SockaddrStorage::from(SocketAddr::new(addr, port));
        match call {
            Call::Socket => self.socket(),
            Call::Bind(fd, port) => {
                let fd = self.fd(*fd)?.as_raw_fd();
                unit(socket::bind(fd, &address(local(self.v6), *port)))
            }
            Call::Listen(fd, backlog) => {
                let backlog = Backlog::new(*backlog).map_err(num)?;
                unit(socket::listen(self.fd(*fd)?, backlog))
            }
            Call::Accept(fd) => {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let made = accept_with(self.fd(*fd)?, flags).map_err(|e| e.raw_os_error())?;
                self.opened(made)
            }
            Call::Connect(fd, port) => {
                let fd = self.fd(*fd)?.as_raw_fd();
                unit(socket::connect(fd, &address(remote(self.v6), *port)))
            }
            Call::Connected(fd) => self.connected(*fd),
            Call::Recv(fd, len, flags) => {
                let mut buf = vec![0; *len];
                let fd = self.fd(*fd)?.as_raw_fd();
                count(socket::recv(fd, &mut buf, MsgFlags::from_bits_retain(*flags)))
            }
            Call::Send(fd, len, flags) => {
                let flags = MsgFlags::from_bits_retain(*flags | libc::MSG_NOSIGNAL);
                count(socket::send(self.fd(*fd)?.as_raw_fd(), &vec![0; *len], flags))
            }
            Call::Shutdown(fd, how) => {
                let how = match *how {
                    libc::SHUT_RD => Shutdown::Read,
                    libc::SHUT_WR => Shutdown::Write,
                    _ => Shutdown::Both,
                };
                unit(socket::shutdown(self.fd(*fd)?.as_raw_fd(), how))
            }
            Call::Close(fd) => {
                let fd = self.socks.get_mut(*fd).and_then(Option::take).ok_or(libc::EBADF)?;
                drop(fd);
                Ok((0, None))
            }
            Call::SetOpt(fd, level, name, value) => self.set(*fd, *level, *name, value),
            Call::GetOpt(fd, level, name) => self.get(*fd, *level, *name),
            Call::Poll(fd, events) => self.poll(*fd, *events),
            Call::Ioctl(fd, what) => {
                let fd = self.fd(*fd)?;
                if *what != libc::FIONREAD {
                    return Err(libc::ENOTTY);
                }
                let n = rustix::io::ioctl_fionread(fd).map_err(|e| e.raw_os_error())?;
                Ok((0, Some(Value::Int(n as i32))))
            }
        }
    }
}

fn md5sig(peer: IpAddr, key: &[u8]) -> options::Md5Sig {
    let mut sig = [0; 216];
    let (family, at) = match peer {
        IpAddr::V4(_) => (libc::AF_INET, 4),
        IpAddr::V6(_) => (libc::AF_INET6, 8),
    };
    sig[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    let octets = super::wire::octets(peer);
    sig[at..at + octets.len()].copy_from_slice(&octets);
    sig[130..132].copy_from_slice(&(key.len() as u16).to_ne_bytes());
    sig[136..136 + key.len()].copy_from_slice(key);
    sig
}

fn num(e: Errno) -> i32 {
    e as i32
}

fn sysctl(path: &str, value: &str) -> Result<(), String> {
    let file = format!("/proc/sys/{}", path.replace('.', "/"));
    match fs::write(&file, value) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.contains("ipv6") => Ok(()),
        other => other.map_err(|e| format!("{path} = {value}: {e}")),
    }
}

/// The kernel makes an IPv6 address usable some time after it was given: with its route in the
/// local table, which says 128 bits.
fn settle_v6() -> Result<(), String> {
    let IpAddr::V6(addr) = local(true) else { return Ok(()) };
    let route = format!("{:032x} 80 ", addr.to_bits());
    let begin = Instant::now();
    loop {
        let table = fs::read_to_string("/proc/thread-self/net/ipv6_route");
        if table.map_err(|e| e.to_string())?.lines().any(|l| l.starts_with(&route)) {
            return Ok(());
        }
        if begin.elapsed().as_secs() > 60 {
            return Err("the IPv6 address gets no route".to_owned());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

impl Target for Kernel {
    fn now_us(&mut self) -> i64 {
        self.begin.elapsed().as_micros() as i64
    }
    fn is_virtual(&self) -> bool {
        false
    }
    fn step(&mut self, until_us: i64) {
        let left = (until_us - self.now_us()).clamp(0, 1_000);
        let wait = Timespec { tv_sec: 0, tv_nsec: left * 1000 };
        if let Some(fd) = self.tun.poll_fd() {
            let mut one = [rustix::event::PollFd::from_borrowed_fd(fd, PollIn::IN)];
            // An interrupted wait is a short one.
            let _ = rustix::event::poll(&mut one, Some(&wait));
        }
        self.gather();
    }
    fn sent(&mut self) -> Option<Sent> {
        self.gather();
        self.sent.pop_front()
    }
    fn inject(&mut self, bytes: &[u8]) {
        if let Some(fd) = self.tun.poll_fd() {
            // What the kernel does not take is seen by what it does not answer.
            let _ = nix::unistd::write(fd, bytes);
        }
        self.gather();
    }
    fn call(&mut self, call: &Call) -> Outcome {
        let outcome = self.do_call(call);
        self.gather();
        outcome
    }
    fn set_knob(&mut self, knob: &Knob) -> Result<(), String> {
        // A namespace may name only what the first one allows; a socket may ask for any.
        if knob.path == "net.ipv4.tcp_congestion_control" {
            self.congestion.clone_from(&knob.value);
            return Ok(());
        }
        sysctl(&knob.path, &knob.value)
    }
    fn tcp_info(&mut self, fd: Fd, field: &str) -> Option<i64> {
        let fd = self.fd(fd).ok()?;
        super::info::field(&options::Info.get(fd).ok()?, field)
    }
    fn counter(&mut self, name: &str) -> Option<i64> {
        counter(Path::new("/proc/thread-self/net"), name)
    }
}

/// A counter of `snmp` or `netstat` in a directory like `/proc/net`, its group in front.
pub(crate) fn counter<N: FromStr>(dir: &Path, name: &str) -> Option<N> {
    ["snmp", "netstat"].iter().find_map(|file| {
        let text = fs::read_to_string(dir.join(file)).ok()?;
        let lines: Vec<&str> = text.lines().collect();
        lines.as_chunks::<2>().0.iter().find_map(|[names, values]| {
            let (group, names) = names.split_once(':')?;
            let rest = name.strip_prefix(group)?;
            let at = names.split_whitespace().position(|n| n == rest)?;
            values.split_once(':')?.1.split_whitespace().nth(at)?.parse().ok()
        })
    })
}
