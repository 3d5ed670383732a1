//! Traffic of plain sockets in the rig.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::rig::Ns;

/// Sends `n` datagrams of `len` bytes to an address of the other end; what is refused is refused.
pub fn datagrams(ns: &Ns, to: (Ipv4Addr, u16), n: usize, len: usize) {
    ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let data = vec![7; len];
        for _ in 0..n {
            let _ = socket.send_to(&data, to);
        }
    });
}

/// Sends small datagrams as fast as one processor can: 60 with each call, cut by the kernel
/// (`tx-udp-segmentation` has to be off at the device).
pub fn flood(ns: &Ns, to: (Ipv4Addr, u16), how_long: Duration) {
    ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&socket, sockopt::UdpGsoSegment, &1).unwrap();
        let end = Instant::now() + how_long;
        while Instant::now() < end {
            for _ in 0..16 {
                let _ = socket.send_to(&[7; 60], to);
            }
        }
    });
}

/// Pins the calling thread to a processor.
pub fn pin(cpu: usize) {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).unwrap();
}

/// A UDP socket in a namespace with this receive buffer (0: the default).
pub fn udp_socket(ns: &Ns, port: u16, rcvbuf: usize) -> UdpSocket {
    ns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        if rcvbuf > 0 {
            socket.set_recv_buffer_size(rcvbuf).unwrap();
        }
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).unwrap();
        socket.into()
    })
}

/// A listener in a namespace with this backlog.
pub fn listener(ns: &Ns, port: u16, backlog: i32) -> TcpListener {
    ns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).unwrap();
        socket.listen(backlog).unwrap();
        socket.into()
    })
}

/// Begins connections without waiting for them; they close when the list is dropped.
pub fn begin_connects(ns: &Ns, to: (Ipv4Addr, u16), n: usize) -> Vec<Socket> {
    ns.run(|| {
        let begin = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).ok()?;
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&SocketAddr::from(to).into());
            Some(socket)
        };
        (0..n).filter_map(begin).collect()
    })
}

/// A server that reads all of every connection, until it is dropped.
pub struct Sink {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub fn sink(ns: &Ns, port: u16) -> Sink {
    let listener = listener(ns, port, 128);
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let serve = move || {
        let mut streams: Vec<TcpStream> = Vec::new();
        let mut buf = vec![0; 1 << 16];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                streams.push(stream);
            }
            let mut busy = false;
            streams.retain_mut(|s| match s.read(&mut buf) {
                Ok(0) => false,
                Ok(_) => {
                    busy = true;
                    true
                }
                Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
            });
            if !busy {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    };
    Sink { stop, thread: Some(std::thread::spawn(serve)) }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A connection from a namespace.
pub fn connect(ns: &Ns, to: (Ipv4Addr, u16)) -> TcpStream {
    let timeout = Duration::from_secs(5);
    ns.run(|| TcpStream::connect_timeout(&SocketAddr::from(to), timeout)).expect("it is reachable")
}

/// Writes as much as goes in this time.
pub fn write_for(stream: &mut TcpStream, how_long: Duration) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (end, data, mut sent) = (Instant::now() + how_long, vec![7; 1 << 16], 0);
    while Instant::now() < end {
        match stream.write(&data) {
            Ok(n) => sent += n,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    sent
}
