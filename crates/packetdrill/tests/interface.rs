//! The interface as packetdrill uses it: a script's steps by the 32 functions alone.

use std::ffi::{CString, c_int, c_void};
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::time::Duration;

use linerate_arch::csum::{csum_fold, csum_partial};
use linerate_core::wire::tcp::{TcpFlags, TcpHdr};
use linerate_core::wire::{IPPROTO_TCP, Ipv4Hdr};
use linerate_packetdrill::sys::{Interface, packetdrill_interface_init};

const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The library, as packetdrill holds it.
struct Drill {
    ifc: Interface,
}

// SAFETY: the functions may be called from any thread; the library has a lock of its own.
unsafe impl Sync for Drill {}

macro_rules! call {
    ($drill:expr, $name:ident $(, $arg:expr)*) => {{
        let f = $drill.ifc.$name.expect("every function is there");
        // SAFETY: pointers below point to what their lengths say, and live until the call is over.
        unsafe { f($drill.ifc.userdata $(, $arg)*) }
    }};
}

impl Drill {
    fn new(flags: &str) -> Drill {
        let flags = CString::new(flags).expect("no zero in it");
        let mut ifc = Interface::empty();
        // SAFETY: a C string, and a place for the interface.
        unsafe { packetdrill_interface_init(flags.as_ptr(), &raw mut ifc) };
        Drill { ifc }
    }
    fn listener(&self) -> c_int {
        let fd = call!(self, socket, libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP);
        assert!(fd >= 3);
        let (addr, len) = sockaddr(LOCAL, 8080);
        assert_eq!(call!(self, bind, fd, (&raw const addr).cast(), len), 0);
        assert_eq!(call!(self, listen, fd, 5), 0);
        fd
    }
    fn inject(&self, seg: &Seg) {
        let bytes = seg.bytes();
        assert_eq!(call!(self, netdev_send, bytes.as_ptr().cast(), bytes.len()), 0);
    }
    /// The next packet, and when it left in microseconds.
    fn sniff(&self) -> (Seg, i64) {
        let mut buf = vec![0_u8; 70000];
        let (mut len, mut at) = (buf.len(), 0);
        let said = call!(self, netdev_receive, buf.as_mut_ptr().cast(), &raw mut len, &raw mut at);
        assert_eq!(said, 0);
        assert!(len > 0, "a packet leaves");
        (Seg::parse(&buf[..len]), at)
    }
    fn now_us(&self) -> i64 {
        let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
        assert_eq!(call!(self, gettimeofday, &raw mut time, std::ptr::null_mut()), 0);
        time.tv_sec * 1_000_000 + time.tv_usec
    }
    /// A connection that the peer opens: its descriptor and our next sequence number.
    fn establish(&self, listener: c_int) -> (c_int, u32) {
        self.inject(&Seg { seq: 0, flags: TcpFlags::SYN, ..Seg::EMPTY });
        let (syn_ack, _) = self.sniff();
        assert_eq!(syn_ack.flags, TcpFlags::SYN | TcpFlags::ACK);
        assert_eq!(syn_ack.ack, 1);
        let ours = syn_ack.seq + 1;
        self.inject(&Seg { seq: 1, ack: ours, ..Seg::EMPTY });
        let mut peer = [0_u8; 28];
        let mut len = peer.len() as libc::socklen_t;
        let fd = call!(self, accept, listener, peer.as_mut_ptr().cast(), &raw mut len);
        assert!(fd >= 3);
        assert_eq!((len, &peer[..8]), (16, &[2, 0, 0x9c, 0x40, 192, 0, 2, 1][..]));
        (fd, ours)
    }
    fn int(&self, fd: c_int, level: c_int, name: c_int) -> Result<c_int, i32> {
        let (mut value, mut len): (c_int, libc::socklen_t) = (-1, 4);
        match call!(self, getsockopt, fd, level, name, (&raw mut value).cast(), &raw mut len) {
            0 => Ok(value),
            _ => Err(errno()),
        }
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        call!(self, free);
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn sockaddr(ip: Ipv4Addr, port: u16) -> (libc::sockaddr_in, libc::socklen_t) {
    let addr = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
        sin_zero: [0; 8],
    };
    (addr, size_of::<libc::sockaddr_in>() as libc::socklen_t)
}

/// A segment between the script (port 40000) and the stack (port 8080).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seg {
    seq: u32,
    ack: u32,
    flags: TcpFlags,
    data: Vec<u8>,
}

impl Seg {
    const EMPTY: Seg = Seg { seq: 0, ack: 0, flags: TcpFlags::ACK, data: Vec::new() };

    fn bytes(&self) -> Vec<u8> {
        let len = 20 + self.data.len();
        let mut tcp = vec![0; 20];
        TcpHdr {
            src_port: 40000,
            dst_port: 8080,
            seq: self.seq,
            ack: self.ack,
            data_off_bytes: 20,
            flags: self.flags,
            window: 30000,
            csum: 0,
            // What is urgent is the last byte.
            urg: if self.flags.urg() { self.data.len() as u16 } else { 0 },
        }
        .emit(&mut tcp);
        tcp.extend(&self.data);
        let mut pseudo = [REMOTE.octets(), LOCAL.octets()].concat();
        pseudo.extend([0, IPPROTO_TCP]);
        pseudo.extend((len as u16).to_be_bytes());
        let sum = csum_fold(csum_partial(&tcp, csum_partial(&pseudo, 0)));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut out = vec![0; 20];
        Ipv4Hdr {
            ihl_bytes: 20,
            tos: 0,
            total_len: (20 + len) as u16,
            id: 0,
            df: true,
            mf: false,
            frag_off_bytes: 0,
            ttl: 64,
            proto: IPPROTO_TCP,
            csum: 0,
            src: REMOTE,
            dst: LOCAL,
        }
        .emit(&mut out);
        out.extend(tcp);
        out
    }
    /// Reads a packet of the stack's, whose checksum must be right.
    fn parse(bytes: &[u8]) -> Seg {
        let ip = Ipv4Hdr::parse(bytes).expect("an IPv4 header");
        assert_eq!((ip.src, ip.dst, ip.total_len as usize), (LOCAL, REMOTE, bytes.len()));
        let tcp = &bytes[20..];
        let mut pseudo = [LOCAL.octets(), REMOTE.octets()].concat();
        pseudo.extend([0, IPPROTO_TCP]);
        pseudo.extend((tcp.len() as u16).to_be_bytes());
        let sum = csum_fold(csum_partial(tcp, csum_partial(&pseudo, 0)));
        assert_eq!(sum, 0, "the checksum of what leaves is complete");
        let hdr = TcpHdr::parse(tcp).expect("a TCP header");
        Seg {
            seq: hdr.seq,
            ack: hdr.ack,
            flags: hdr.flags,
            data: tcp[hdr.data_off_bytes..].to_vec(),
        }
    }
}

#[test]
fn a_connection_is_opened_used_watched_and_closed() {
    let drill = Drill::new("");
    let listener = drill.listener();
    assert_eq!(call!(drill, fcntl, listener, libc::F_SETFL, libc::O_NONBLOCK), 0);
    let nowhere = std::ptr::null_mut();
    assert_eq!(call!(drill, accept, listener, nowhere, nowhere.cast()), -1);
    assert_eq!(errno(), libc::EAGAIN);
    let (fd, ours) = drill.establish(listener);

    // Edge-triggered: one event for what came, none until more comes.
    let epfd = call!(drill, epoll_create, 1);
    let watch = (libc::EPOLLIN | libc::EPOLLET) as u32;
    let mut event = libc::epoll_event { events: watch, u64: 77 };
    assert_eq!(call!(drill, epoll_ctl, epfd, libc::EPOLL_CTL_ADD, fd, &raw mut event), 0);
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
    let mut wait = || {
        let n = call!(drill, epoll_wait, epfd, events.as_mut_ptr(), 4, 0);
        let first = events[0];
        (n, first.events, first.u64)
    };
    assert_eq!(wait().0, 0);
    let data = b"hello".to_vec();
    drill.inject(&Seg { seq: 1, ack: ours, data, flags: TcpFlags::ACK | TcpFlags::PSH });
    assert_eq!(wait(), (1, libc::EPOLLIN as u32, 77));
    assert_eq!(wait().0, 0);

    let mut unread: c_int = 0;
    let into = (&raw mut unread).cast::<c_void>();
    assert_eq!(call!(drill, ioctl, fd, libc::FIONREAD, into), 0);
    assert_eq!(unread, 5);
    let mut buf = [0_u8; 16];
    assert_eq!(call!(drill, read, fd, buf.as_mut_ptr().cast(), 16), 5);
    assert_eq!(&buf[..5], b"hello");

    // A new connection acknowledges at once; what is written is sent again until it is acknowledged.
    assert_eq!(drill.sniff().0, Seg { seq: ours, ack: 6, ..Seg::EMPTY });
    assert_eq!(call!(drill, write, fd, b"world".as_ptr().cast(), 5), 5);
    let (seg, first) = drill.sniff();
    let flags = TcpFlags::ACK | TcpFlags::PSH;
    assert_eq!(seg, Seg { seq: ours, ack: 6, flags, data: b"world".to_vec() });
    let (again, second) = drill.sniff();
    assert_eq!(again, seg);
    assert!((200_000..3_000_000).contains(&(second - first)), "{} us", second - first);
    drill.inject(&Seg { seq: 6, ack: ours + 5, ..Seg::EMPTY });

    // The peer closes, then we do.
    let fin = TcpFlags::ACK | TcpFlags::FIN;
    drill.inject(&Seg { seq: 6, ack: ours + 5, flags: fin, ..Seg::EMPTY });
    assert_eq!(drill.sniff().0.ack, 7);
    assert_eq!(call!(drill, read, fd, buf.as_mut_ptr().cast(), 16), 0);
    assert_eq!(call!(drill, close, fd), 0);
    let (seg, _) = drill.sniff();
    assert_eq!(seg, Seg { seq: ours + 5, ack: 7, flags: fin, data: Vec::new() });
    drill.inject(&Seg { seq: 7, ack: ours + 6, ..Seg::EMPTY });
    assert_eq!(call!(drill, close, fd), -1);
    assert_eq!(errno(), libc::EBADF);
}

#[test]
fn a_call_that_blocks_ends_at_the_moment_that_ends_it() {
    let drill = Drill::new("");
    let listener = drill.listener();
    let (fd, ours) = drill.establish(listener);
    let begun = drill.now_us();
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let drill = &drill;
        let reader = scope.spawn(move || {
            let mut buf = [0_u8; 8];
            tell.send(()).expect("the main thread listens");
            let n = call!(drill, recv, fd, buf.as_mut_ptr().cast(), 8, 0);
            // As packetdrill's second thread: it asks for the time as soon as the call is over.
            (n, drill.now_us(), buf)
        });
        told.recv().expect("the reader is about to read");
        // Whether it waits already when the data comes, or comes later, the time is the same; half a
        // second of the library's passes at once.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(call!(drill, usleep, 500_000), 0);
        let data = b"late".to_vec();
        drill.inject(&Seg { seq: 1, ack: ours, data, flags: TcpFlags::ACK });
        let (n, ended, buf) = reader.join().expect("the reader reads");
        assert_eq!((n, &buf[..4]), (4, &b"late"[..]));
        assert!((500_000..500_100).contains(&(ended - begun)), "{} us", ended - begun);
    });
}

#[test]
fn options_and_errors_are_those_of_linux() {
    let drill = Drill::new("net.ipv4.tcp_keepalive_time=120");
    let fd = call!(drill, socket, libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
    let sol_tcp = libc::SOL_TCP;
    assert_eq!(drill.int(fd, sol_tcp, libc::TCP_KEEPIDLE), Ok(120));
    let set = |level, name, value: c_int| {
        let at = (&raw const value).cast();
        match call!(drill, setsockopt, fd, level, name, at, 4) {
            0 => Ok(()),
            _ => Err(errno()),
        }
    };
    assert_eq!(set(sol_tcp, libc::TCP_KEEPIDLE, 0), Err(libc::EINVAL));
    assert_eq!(set(sol_tcp, libc::TCP_KEEPIDLE, 7), Ok(()));
    assert_eq!(drill.int(fd, sol_tcp, libc::TCP_KEEPIDLE), Ok(7));
    assert_eq!(set(sol_tcp, libc::TCP_NODELAY, 1), Ok(()));
    assert_eq!(set(sol_tcp, 9999, 1), Err(libc::ENOPROTOOPT));
    // Keys of Fast Open: one or two of 16 bytes (TCP_FASTOPEN_KEY).
    let keys = [7_u8; 48];
    let set_keys = |len| call!(drill, setsockopt, fd, sol_tcp, 33, keys.as_ptr().cast(), len);
    for len in [0, 3, 17, 48] {
        assert_eq!((set_keys(len), errno()), (-1, libc::EINVAL), "{len} bytes");
    }
    assert_eq!((set_keys(32), set_keys(16)), (0, 0));
    let (mut told, mut len) = ([0_u8; 40], 40);
    let at = told.as_mut_ptr().cast();
    assert_eq!(call!(drill, getsockopt, fd, sol_tcp, 33, at, &raw mut len), 0);
    assert_eq!((len, &told[..16]), (16, &keys[..16]));
    assert_eq!(drill.int(9999, sol_tcp, libc::TCP_NODELAY), Err(libc::EBADF));

    let (peer, len) = sockaddr(REMOTE, 80);
    let at = (&raw const peer).cast();
    assert_eq!(call!(drill, send, fd, b"x".as_ptr().cast(), 1, 0), -1);
    assert_eq!(errno(), libc::EPIPE);
    assert_eq!(call!(drill, connect, fd, at, len), -1);
    assert_eq!(errno(), libc::EINPROGRESS);
    assert_eq!(call!(drill, connect, fd, at, len), -1);
    assert_eq!(errno(), libc::EALREADY);
    // The SYN, and an answer that refuses it.
    let mut buf = vec![0_u8; 2000];
    let (mut n, mut us) = (buf.len(), 0);
    call!(drill, netdev_receive, buf.as_mut_ptr().cast(), &raw mut n, &raw mut us);
    let syn = TcpHdr::parse(&buf[20..n]).expect("a TCP header");
    assert_eq!((syn.flags, syn.dst_port), (TcpFlags::SYN, 80));
    let mut reset =
        Seg { seq: 0, ack: syn.seq + 1, flags: TcpFlags::RST | TcpFlags::ACK, ..Seg::EMPTY }
            .bytes();
    // The same with the ports of this connection.
    let ports = [80_u16.to_be_bytes(), syn.src_port.to_be_bytes()].concat();
    reset[20..24].copy_from_slice(&ports);
    reset[36..38].fill(0);
    let mut pseudo = [REMOTE.octets(), LOCAL.octets()].concat();
    pseudo.extend([0, IPPROTO_TCP, 0, 20]);
    let sum = csum_fold(csum_partial(&reset[20..], csum_partial(&pseudo, 0)));
    reset[36..38].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(call!(drill, netdev_send, reset.as_ptr().cast(), reset.len()), 0);
    assert_eq!(drill.int(fd, libc::SOL_SOCKET, libc::SO_ERROR), Ok(libc::ECONNREFUSED));
    assert_eq!(drill.int(fd, libc::SOL_SOCKET, libc::SO_ERROR), Ok(0));

    // A pointer that is none.
    assert_eq!(call!(drill, write, fd, std::ptr::null(), 10), -1);
    assert_eq!(errno(), libc::EFAULT);
}

#[test]
fn when_nothing_will_leave_the_script_is_told() {
    let drill = Drill::new("seed=3,mtu=1280");
    let _listener = drill.listener();
    let (mut len, mut at) = (100, 0);
    let mut buf = [0_u8; 100];
    let said = call!(drill, netdev_receive, buf.as_mut_ptr().cast(), &raw mut len, &raw mut at);
    assert_eq!((said, len), (0, 0));
}

#[test]
fn bytes_go_from_a_socket_to_a_socket_by_a_pipe() {
    let drill = Drill::new("");
    let listener = drill.listener();
    let (fd, ours) = drill.establish(listener);
    drill.inject(&Seg { seq: 1, ack: ours, data: vec![5; 1000], flags: TcpFlags::ACK });
    let mut ends: [c_int; 2] = [0; 2];
    assert_eq!(call!(drill, pipe, ends.as_mut_ptr()), 0);
    let none = std::ptr::null_mut();
    assert_eq!(call!(drill, splice, fd, none, ends[1], none, 4000, 0), 1000);
    assert_eq!(call!(drill, splice, ends[0], none, fd, none, 4000, 0), 1000);
    assert_eq!(drill.sniff().0, Seg { seq: ours, ack: 1001, ..Seg::EMPTY });
    assert!(drill.sniff().0.data == vec![5; 1000], "the bytes come back");
    assert_eq!(call!(drill, splice, fd, none, fd, none, 1, 0), -1);
    assert_eq!(errno(), libc::EINVAL);

    // What ends with an urgent byte ends there, and does not wait for more.
    let flags = TcpFlags::ACK | TcpFlags::URG;
    drill.inject(&Seg { seq: 1001, ack: ours, data: vec![6; 100], flags });
    assert_eq!(call!(drill, splice, fd, none, ends[1], none, 99, 0), 99);
    assert_eq!(call!(drill, splice, fd, none, ends[1], none, 1, 0), 0);
}
