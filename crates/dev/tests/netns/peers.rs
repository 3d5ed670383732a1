//! Two kernels in namespaces of their own, this process between them, and what they send each other.

use super::*;

/// What went past the relay.
#[derive(Debug, Default)]
pub struct Seen {
    pub packets: u64,
    pub super_tcp: u64,
    pub super_udp: u64,
    pub partial: u64,
    pub longest: usize,
    pub refused: u64,
    pub dropped: u64,
}

pub const SERVER4: &str = "10.77.0.1";
pub const SERVER6: &str = "fd77::1";
pub const CLIENT4: &str = "10.77.0.2";
pub const CLIENT6: &str = "fd77::2";
/// Bytes of each TCP stream, each way.
pub const STREAM_BYTES: u64 = 24 << 20;

/// A stream of bytes that both ends can compute: xorshift64.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, out: &mut [u8]) {
        for word in out.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

/// A kernel in a namespace of its own, spoken to line by line.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Peer {
    pub fn start(test: &str, role: &str) -> Peer {
        let mut child = again(unshare().expect("namespaces nest"), test, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = Some(BufReader::new(child.stdout.take().unwrap()));
        let mut peer = Peer { child, stdin, stdout };
        peer.expect("@ready");
        peer
    }

    pub fn netns(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.child.id())).unwrap()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    pub fn expect(&mut self, wanted: &str) {
        let found = wait_for(self.stdout.as_mut().unwrap(), wanted);
        assert!(found, "the peer ended without saying {wanted}");
    }

    /// Rings `waker` when the peer says `wanted`, or ends; the flag tells which.
    pub fn expect_later(&mut self, wanted: &'static str, waker: Waker) -> Arc<Said> {
        let said = Arc::new(Said::default());
        let (mut stdout, flag) = (self.stdout.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            flag.word.store(wait_for(&mut stdout, wanted), Ordering::Release);
            flag.over.store(true, Ordering::Release);
            waker.wake();
        });
        said
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
pub struct Said {
    word: AtomicBool,
    over: AtomicBool,
}

pub fn wait_for(lines: &mut BufReader<ChildStdout>, wanted: &str) -> bool {
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        // The harness's own "test … " may stand before it on the line.
        if line.trim_end().ends_with(wanted) {
            return true;
        }
        line.clear();
    }
    false
}

/// Relays between two devices until the client has said its word or ended.
pub fn relay(one: &mut dyn Device, two: &mut dyn Device, poller: &mut Poller, said: &Said) -> Seen {
    let mut pool = Pool::new(4096, 512);
    let mut seen = Seen::default();
    let (mut to_one, mut to_two) = (VecDeque::new(), VecDeque::new());
    poller.add(one.poll_fd().unwrap(), 1, Interest::READ).unwrap();
    poller.add(two.poll_fd().unwrap(), 2, Interest::READ).unwrap();
    while !said.over.load(Ordering::Acquire) {
        // With packets that could not be sent there is something to try again soon.
        let limit = if to_one.is_empty() && to_two.is_empty() { None } else { Some(100_000) };
        let _ = poller.wait(limit).unwrap().count();
        step(one, &mut to_two, &mut pool, &mut seen);
        step(two, &mut to_one, &mut pool, &mut seen);
        send(one, &mut to_one, &mut pool, &mut seen);
        send(two, &mut to_two, &mut pool, &mut seen);
    }
    for pkt in to_one.into_iter().chain(to_two) {
        pool.free(pkt);
    }
    assert_eq!(pool.small_out(), 0, "every packet came back");
    seen
}

pub fn step(from: &mut dyn Device, to: &mut VecDeque<Pkt>, pool: &mut Pool, seen: &mut Seen) {
    // The queue to the other side is bounded: what it cannot take waits in the kernel.
    let budget = 256usize.saturating_sub(to.len()).min(64);
    let (mut batch, mut dropped) = (Batch::new(), Vec::new());
    let mut cx = RxCx { pool, now: Instant::from_ns(1), dev: 0, dropped: &mut dropped };
    from.rx_burst(&mut cx, &mut batch, budget).unwrap();
    for (pkt, _) in dropped {
        seen.dropped += 1;
        pool.free(pkt);
    }
    for mut pkt in batch.now.drain(..) {
        seen.packets += 1;
        if let Some(gso) = pkt.gso {
            let udp = gso.kind == GsoKind::Udp;
            seen.super_udp += u64::from(udp);
            seen.super_tcp += u64::from(!udp);
            assert!(gso.segs > 1 && gso.size > 0);
        }
        seen.partial += u64::from(matches!(pkt.csum, Csum::Partial { .. }));
        seen.longest = seen.longest.max(pkt.len());
        if from.caps().layer == Layer::Ethernet {
            pkt.network = pkt.data_offset() + 14;
        }
        to.push_back(pkt);
    }
}

pub fn send(to: &mut dyn Device, ring: &mut VecDeque<Pkt>, pool: &mut Pool, seen: &mut Seen) {
    let mut done = Vec::new();
    to.tx_burst(ring, &mut done).unwrap();
    for (pkt, sent) in done {
        seen.refused += u64::from(!sent);
        pool.free(pkt);
    }
}

/// Configures the one interface this peer was given; its name comes on the standard input.
pub fn configure(own: [&str; 2]) {
    println!("@ready");
    let mut name = String::new();
    io::stdin().read_line(&mut name).unwrap();
    let mut netdev = Netdev::open().unwrap();
    let link = netdev.link(name.trim()).unwrap();
    netdev.set_addr_gen_none(link.index).unwrap();
    netdev.set_up(link.index, true).unwrap();
    netdev.add_addr(link.index, own[0].parse().unwrap(), 24).unwrap();
    netdev.add_addr(link.index, own[1].parse().unwrap(), 64).unwrap();
}

pub fn send_noise(stream: &mut TcpStream, seed: u64) {
    let (mut noise, mut chunk) = (Noise(seed), vec![0; 1 << 16]);
    for _ in 0..STREAM_BYTES >> 16 {
        noise.fill(&mut chunk);
        stream.write_all(&chunk).unwrap();
    }
}

pub fn check_noise(stream: &mut TcpStream, seed: u64) {
    let (mut noise, mut chunk, mut expected) = (Noise(seed), vec![0; 1 << 16], vec![0; 1 << 16]);
    for i in 0..STREAM_BYTES >> 16 {
        stream.read_exact(&mut chunk).unwrap();
        noise.fill(&mut expected);
        assert!(chunk == expected, "chunk {i} of stream {seed} differs");
    }
}

/// Serves one TCP stream and one UDP echo for each address, then ends.
pub fn serve() {
    configure([SERVER4, SERVER6]);
    let bind = |addr: &str| SocketAddr::new(addr.parse().unwrap(), 7777);
    let sockets: Vec<_> = [SERVER4, SERVER6]
        .map(|a| (TcpListener::bind(bind(a)).unwrap(), UdpSocket::bind(bind(a)).unwrap()))
        .into();
    println!("@listening");
    for (listener, udp) in sockets {
        std::thread::spawn(move || {
            let mut buf = [0; 65536];
            while let Ok((n, from)) = udp.recv_from(&mut buf) {
                udp.send_to(&buf[..n], from).unwrap();
            }
        });
        let mut stream = listener.accept().unwrap().0;
        check_noise(&mut stream, 1);
        send_noise(&mut stream, 2);
        // Until the client has closed.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    // Until the relay has ended.
    let _ = io::stdin().read_line(&mut String::new());
}

pub fn be_client() {
    configure([CLIENT4, CLIENT6]);
    println!("@up");
    for (server, own) in [(SERVER4, CLIENT4), (SERVER6, CLIENT6)] {
        let addr = SocketAddr::new(server.parse().unwrap(), 7777);
        let udp = UdpSocket::bind(SocketAddr::new(own.parse().unwrap(), 0)).unwrap();
        udp.connect(addr).unwrap();
        // An empty one, one that fits, one that the kernel must fragment.
        for len in [0usize, 1200, 9000] {
            let (mut out, mut back) = (vec![0; len], vec![0; 65536]);
            Noise(3).fill(&mut out);
            udp.send(&out).unwrap();
            assert_eq!(udp.recv(&mut back).unwrap(), len);
            assert!(back[..len] == out[..]);
        }
        send_udp_segments(&udp, addr);
        let mut stream = TcpStream::connect(addr).unwrap();
        send_noise(&mut stream, 1);
        check_noise(&mut stream, 2);
    }
    println!("@done");
    // The interface goes with the namespace, so the namespace stays until the relay has ended.
    let _ = io::stdin().read_line(&mut String::new());
}

/// Has one call send 30 datagrams at once (`UDP_SEGMENT`), and collects their echoes. The option
/// is set by a Python program because Rust has no safe call for it.
pub fn send_udp_segments(udp: &UdpSocket, to: SocketAddr) {
    const SEND: &str = "import socket, sys
s = socket.socket(fileno=0)
s.setsockopt(socket.IPPROTO_UDP, 103, 1000)
s.send(b''.join(bytes([i]) * 1000 for i in range(30)))";
    let own = OwnedFd::from(udp.try_clone().unwrap());
    match Command::new("python3").args(["-c", SEND]).stdin(own).status() {
        Ok(status) => assert!(status.success(), "the sender to {to} failed"),
        Err(_) => return skip("UDP super-packets", "python3 is not installed"),
    }
    let mut buf = [0; 2048];
    for i in 0..30u8 {
        assert_eq!(udp.recv(&mut buf).unwrap(), 1000);
        assert!(buf[..1000].iter().all(|&b| b == i), "datagram {i} to {to}");
    }
}

/// Whether the peers could send UDP super-packets.
pub fn has_python() -> bool {
    Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_ok()
}

/// Runs both peers with a device each and relays between them, once `settled` returns.
pub fn between_peers(
    test: &str,
    mut attach: impl FnMut(&str, &Peer) -> (Box<dyn Device>, String),
    settled: impl FnOnce(),
) -> Seen {
    let mut poller = Poller::new(16).unwrap();
    let mut server = Peer::start(test, "server");
    let mut client = Peer::start(test, "client");
    let (mut one, name) = attach("a", &server);
    server.tell(&name);
    server.expect("@listening");
    let (mut two, name) = attach("b", &client);
    client.tell(&name);
    // Only now, so that nothing is sent to an interface that is still down.
    client.expect("@up");
    settled();
    let said = client.expect_later("@done", poller.waker());
    let seen = relay(&mut *one, &mut *two, &mut poller, &said);
    assert!(said.word.load(Ordering::Acquire), "the client failed; {seen:?}");
    assert_eq!((seen.dropped, seen.refused), (0, 0), "{seen:?}");
    seen
}
