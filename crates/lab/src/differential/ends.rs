//! The two kinds of ends.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::sock::{Ready, SocketId};
use linerate_core::table::{Counter, Stage, count::id};
use linerate_core::tcp::{Connect, Listen};
use linerate_core::time::Instant;
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;
use linerate_dev::device::Device;
use linerate_dev::netdev::Netdev;
use linerate_dev::tun::{Config, Tun};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, listen};
use nix::sys::socket::{Backlog, setsockopt, socket, sockopt};
use nix::unistd::{Pid, gettid};

use crate::packetdrill::kernel::counter;

const SENDER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const PORT: u16 = 5001;
/// Packets that a device of an end may hold: more than are ever under way.
const TXQUEUELEN: u32 = 20_000;

/// Receive buffers of both kinds of ends.
const TCP_RMEM: &str = "4096 131072 33554432";

/// Send buffers of both kinds of ends, which grow up to so many bytes: a sender whose buffer ends below what the path
/// holds never fills it, and would be compared with one that does.
fn tcp_wmem(most: u64) -> String {
    format!("4096 16384 {most}")
}

/// One end: packets in and out.
pub(super) trait End {
    /// A packet arrives.
    fn give(&mut self, packet: &[u8]) -> Result<(), String>;
    /// Does what there is to do at `now`, in nanoseconds since the beginning, and adds what it has sent;
    /// when it wants its next turn at the latest.
    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>) -> Result<Option<u64>, String>;
    /// What is readable when it has sent something.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
    /// Bytes that its application has taken.
    fn received(&self) -> u64;
    /// What a counter of `/proc/net/snmp` or `/proc/net/netstat` says, its group in front: `TcpExtTCPTimeouts`.
    fn counter(&self, name: &str) -> Option<u64>;
}

/// The kernel, in a network namespace of its own, behind a TUN.
pub(super) struct Kernel {
    tun: Tun,
    /// The thread in the namespace, by the kernel's number.
    tid: Pid,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread in the namespace has made.
type Made = Result<(Tun, OwnedFd, Pid), String>;

impl Kernel {
    pub fn start(sends: bool, cc: &str, wmem: u64) -> Result<Kernel, String> {
        let (told, made) = mpsc::channel::<Made>();
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counts, stops, cc) = (received.clone(), stop.clone(), cc.to_owned());
        let thread = std::thread::spawn(move || {
            let app = namespace(sends, wmem)
                .and_then(|tun| Ok((tun, open(sends, &cc).map_err(|e| format!("socket: {e}"))?)))
                .map(|(tun, fd)| (tun, fd, gettid()));
            let Ok((tun, fd, tid)) = app else {
                let _ = told.send(app);
                return;
            };
            let Ok(own) = fd.try_clone() else { return };
            if told.send(Ok((tun, fd, tid))).is_ok() {
                // What fails ends the run: nothing more arrives.
                let _ = if sends { send(own, &stops) } else { receive(own, &counts, &stops) };
            }
        });
        let (tun, _, tid) = made.recv().map_err(|e| e.to_string())??;
        Ok(Kernel { tun, tid, received, stop, thread: Some(thread) })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes a namespace with a TUN for the calling thread.
fn namespace(sends: bool, wmem: u64) -> Result<Tun, String> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|e| format!("no network namespace ({e}): this needs CAP_SYS_ADMIN"))?;
    let tun = Tun::open(&Config::new("tun0").plain()).map_err(|e| e.to_string())?;
    let mut netdev = Netdev::open().map_err(|e| e.to_string())?;
    let mut setup = || {
        let index = netdev.link("tun0")?.index;
        netdev.set_txqueuelen(index, TXQUEUELEN)?;
        netdev.set_up(index, true)?;
        netdev.set_mtu(index, 1500)?;
        netdev.add_addr(index, IpAddr::V4(if sends { SENDER } else { RECEIVER }), 24)
    };
    setup().map_err(|e: linerate_dev::netdev::NetdevError| e.to_string())?;
    for (name, value) in
        [("tcp_rmem", TCP_RMEM), ("tcp_wmem", &tcp_wmem(wmem)), ("tcp_no_metrics_save", "1")]
    {
        let path = format!("/proc/sys/net/ipv4/{name}");
        std::fs::write(&path, value).map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(tun)
}

fn open(sends: bool, cc: &str) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::TcpCongestion, &OsString::from(cc))?;
    if !sends {
        use std::os::fd::AsRawFd;
        let addr = std::net::SocketAddrV4::new(RECEIVER, PORT);
        bind(fd.as_raw_fd(), &SockaddrIn::from(addr))?;
        listen(&fd, Backlog::new(8)?)?;
    }
    Ok(fd)
}

fn send(fd: OwnedFd, stop: &AtomicBool) -> Result<(), Box<dyn std::error::Error>> {
    use std::os::fd::AsRawFd;
    let addr = std::net::SocketAddrV4::new(RECEIVER, PORT);
    connect(fd.as_raw_fd(), &SockaddrIn::from(addr))?;
    let mut stream = TcpStream::from(fd);
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    let block = vec![0x5a; 65536];
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&block) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
    }
    abort(&stream)
}

fn receive(
    fd: OwnedFd,
    received: &AtomicU64,
    stop: &AtomicBool,
) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(e.into()),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut block = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                received.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
    }
    abort(&stream)
}

/// Nothing of the connection is to outlive the run.
fn abort(stream: &TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(&stream.as_fd(), sockopt::Linger, &now)?)
}

impl End for Kernel {
    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>) -> Result<Option<u64>, String> {
        let mut buf = [0; 2048];
        // So many at a time: what arrives at the other end must not wait for all of them.
        for _ in 0..256 {
            let Some(fd) = self.tun.poll_fd() else { break };
            match nix::unistd::read(fd, &mut buf) {
                Ok(n) => out.push(buf[..n].to_vec()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(e) => return Err(format!("TUN: {e}")),
            }
        }
        Ok(Some(now))
    }
    fn give(&mut self, packet: &[u8]) -> Result<(), String> {
        let Some(fd) = self.tun.poll_fd() else { return Ok(()) };
        nix::unistd::write(fd, packet).map(drop).map_err(|e| format!("TUN: {e}"))
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.tun.poll_fd()
    }
    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
    fn counter(&self, name: &str) -> Option<u64> {
        counter(&std::path::PathBuf::from(format!("/proc/{}/net", self.tid)), name)
    }
}

/// Our stack, driven by the relay's own thread.
pub(super) struct Stack {
    shard: Shard,
    batch: Batch,
    listener: Option<SocketId>,
    conn: Option<SocketId>,
    /// Its writer waits until a part of the send buffer is free, as one that blocks does.
    waits: bool,
    received: u64,
    buf: Vec<u8>,
}

impl Stack {
    pub fn start(sends: bool, cc: &str, wmem: u64, seed: u64) -> Result<Stack, String> {
        let mut shard = Shard::new(seed);
        shard.net.now = clock(0);
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let dev = shard.add_iface(Iface::new("tun0", L2::Ip, mac, 1500));
        let own = if sends { SENDER } else { RECEIVER };
        shard.add_addr(dev, own.into(), 24).map_err(|e| e.to_string())?;
        let txqueuelen = TXQUEUELEN.to_string();
        let knobs = [
            ("net.ipv4.tcp_congestion_control", cc),
            ("net.ipv4.tcp_rmem", TCP_RMEM),
            ("net.ipv4.tcp_wmem", &tcp_wmem(wmem)),
            ("dev.txqueuelen", &txqueuelen),
        ];
        for (path, value) in knobs {
            shard.set_knob(path, value).map_err(|e| format!("{path}: {e}"))?;
        }
        let (mut listener, mut conn) = (None, None);
        if sends {
            let remote = SocketAddr::from((RECEIVER, PORT));
            let id = shard.tcp_connect(Connect { local: None, remote, user: 0 });
            conn = Some(id.map_err(|e| e.to_string())?);
        } else {
            let id = shard.tcp_listen(Listen { port: PORT, ..Listen::default() });
            listener = Some(id.map_err(|e| e.to_string())?);
        }
        let (batch, buf) = (Batch::new(), vec![0x5a; 65536]);
        Ok(Stack { shard, batch, listener, conn, waits: true, received: 0, buf })
    }

    /// Receives what was given since, as one batch.
    fn receive(&mut self) {
        let n = self.batch.len() as u64;
        if n == 0 {
            return;
        }
        let counts = &self.shard.net.counts;
        counts.flow(Stage::Ring).batch(n, n, 0);
        counts.flow(Stage::Poll).batch(n, n, 0);
        counts.inc_by(id::DevRxPackets, n);
        path::receive(&mut self.shard, &mut self.batch);
    }

    fn application(&mut self) {
        let Stack { shard, listener, conn, waits, received, buf, .. } = self;
        while let Some(event) = shard.poll_event() {
            *waits &= !shard.take_ready(event.id).has(Ready::OUT);
        }
        if let (None, Some(listener)) = (&conn, &listener) {
            *conn = shard.tcp_accept(*listener);
        }
        let Some(conn) = *conn else { return };
        match listener {
            None => {
                while !*waits {
                    *waits = !shard.tcp_send(conn, buf).is_ok_and(|n| n == buf.len());
                }
            }
            Some(_) => {
                while let Ok(n) = shard.tcp_recv(conn, buf) {
                    if n == 0 {
                        break;
                    }
                    *received += n as u64;
                }
            }
        }
    }
}

impl End for Stack {
    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>) -> Result<Option<u64>, String> {
        self.shard.net.now = clock(now);
        self.receive();
        path::timers(&mut self.shard, clock(now));
        self.application();
        path::transmit(&mut self.shard, &mut self.batch);
        let net = &mut self.shard.net;
        if let Some(ring) = path::qdisc_run(net, 0, 0, usize::MAX) {
            for pkt in std::mem::take(ring) {
                out.push(pkt.slices().flatten().copied().collect());
                tx_done(net, pkt, true);
            }
        }
        Ok(path::next_timer(&self.shard).map(|at| at.since(clock(0))))
    }
    fn give(&mut self, packet: &[u8]) -> Result<(), String> {
        let pool = &mut self.shard.net.pool;
        let Some(mut pkt) = pool.alloc() else { return Ok(()) };
        let head = packet.len().min(pkt.tailroom());
        pkt.put(head).copy_from_slice(&packet[..head]);
        if packet.len() > head {
            let Some(mut large) = pool.alloc_large() else {
                pool.free(pkt);
                return Ok(());
            };
            let rest = &packet[head..];
            large[..rest.len()].copy_from_slice(rest);
            pkt.add_buf(large, 0, rest.len());
        }
        pkt.rx_time = self.shard.net.now;
        self.batch.push(pkt);
        Ok(())
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn received(&self) -> u64 {
        self.received
    }
    fn counter(&self, name: &str) -> Option<u64> {
        Some(self.shard.net.counts.get(Counter::by_name(name)?))
    }
}

/// The stack's clock: a second ahead, so that nothing happens at zero.
fn clock(now: u64) -> Instant {
    Instant::from_ns(now + 1_000_000_000)
}
