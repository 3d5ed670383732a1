//! Namespaces, a veth pair between them, and a client on the far end: a kernel in a process of its
//! own (this test binary, executed again), which does what it is told line by line.

use super::again::{self, role, skip};
use linerate_core::pkt::Pool;
use linerate_dev::Device;
use linerate_dev::netdev::{Feature, Link, Netdev, set_feature};
use linerate_dev::packet::{self, Packet};
use linerate_dev::poller::Waker;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const OWN4: &str = "10.78.0.1";
pub const OWN6: &str = "fd78::1";
const PEER4: &str = "10.78.0.2";
const PEER6: &str = "fd78::2";

/// As [`again::in_netns`]; in the client's copy this does not return.
pub fn in_netns(test: &str) -> bool {
    if role() == "peer" {
        be_peer();
        std::process::exit(0);
    }
    again::in_netns(test)
}

/// A kernel in a namespace of its own, spoken to line by line.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<String>,
    waker: Arc<Mutex<Option<Waker>>>,
}

impl Peer {
    pub fn start(test: &str) -> Peer {
        let mut child = again::again(again::unshare().expect("namespaces nest"), test, "peer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, said) = channel();
        let waker = Arc::new(Mutex::new(None::<Waker>));
        let wake = Arc::clone(&waker);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The harness's own "test … " may stand before it on the line.
                if let Some((_, word)) = line.split_once('@') {
                    let _ = send.send(word.to_owned());
                }
                wake.lock().unwrap().iter().for_each(Waker::wake);
            }
            drop(send);
            wake.lock().unwrap().iter().for_each(Waker::wake);
        });
        let peer = Peer { child, stdin, said, waker };
        peer.expect("ready");
        peer
    }
    pub fn set_waker(&self, waker: Waker) {
        *self.waker.lock().unwrap() = Some(waker);
    }
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
    pub fn netns(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.child.id())).unwrap()
    }
    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }
    pub fn expect(&self, wanted: &str) {
        assert_eq!(self.said.recv().expect("the peer ended before its time"), wanted);
    }
    /// Tells and waits, where nobody has to serve the peer meanwhile.
    pub fn run(&mut self, line: &str, wanted: &str) {
        self.tell(line);
        self.expect(wanted);
    }
    /// Asks, and waits for the answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.said.recv().expect("the peer ended before its time")
    }
    /// Whether it has said `wanted`.
    pub fn has_said(&self, wanted: &str) -> bool {
        match self.said.try_recv() {
            Ok(word) => {
                assert_eq!(word, wanted);
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => panic!("the peer ended before its time"),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A wire: `xa` is here, `xb` is the peer's.
pub struct Wire {
    pub netdev: Netdev,
    pub peer: Peer,
    pub link: Link,
    far: Link,
}

impl Wire {
    pub fn peer_mac(&self) -> [u8; 6] {
        self.far.mac.unwrap()
    }
}

/// Makes a veth pair with so many queues, both ends up; the peer's end has addresses and an MTU.
/// `tx`: the peer leaves checksums to the device, as veth does by itself.
pub fn wire(test: &str, queues: usize, mtu: u32, tx: bool) -> Option<Wire> {
    let n = queues.to_string();
    let both = ["numtxqueues", &n, "numrxqueues", &n];
    let made = Command::new("ip")
        .args(["link", "add", "xa"])
        .args(both)
        .args(["type", "veth", "peer", "name", "xb"])
        .args(both)
        .status();
    if !made.is_ok_and(|s| s.success()) {
        skip(test, "`ip link add type veth` does not work here");
        return None;
    }
    let mut netdev = Netdev::open().unwrap();
    let mut peer = Peer::start(test);
    let far = netdev.link("xb").unwrap();
    netdev.set_netns(far.index, peer.netns()).unwrap();
    let near = netdev.link("xa").unwrap();
    netdev.set_addr_gen_none(near.index).unwrap();
    netdev.set_mtu(near.index, mtu).unwrap();
    netdev.set_up(near.index, true).unwrap();
    peer.run(&format!("up {mtu} {}", if tx { "on" } else { "off" }), "up");
    while !netdev.link("xa").unwrap().running {
        std::thread::sleep(Duration::from_millis(1));
    }
    let link = netdev.link("xa").unwrap();
    Some(Wire { netdev, peer, link, far })
}

/// What `len` bytes of traffic look like.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + len) as u8).collect()
}

fn be_peer() {
    println!("@ready");
    let mut line = String::new();
    while io::stdin().read_line(&mut line).unwrap() > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["up", mtu, tx] => configure(mtu.parse().unwrap(), tx == "on"),
            ["echo", addr, port, from, to, step] => {
                let number = |s: &str| s.parse::<usize>().unwrap();
                let lens = (number(from)..=number(to)).step_by(number(step));
                echo(&socket(addr, port), lens);
                println!("@echoed");
            }
            ["flows", addr, port, n] => {
                let sockets: Vec<_> = (0..n.parse().unwrap()).map(|_| socket(addr, port)).collect();
                sockets.iter().for_each(|s| echo(s, (10..400).step_by(13)));
                println!("@echoed");
            }
            ["flood", addr, port, n, len] => {
                let (socket, bytes) = (socket(addr, port), pattern(len.parse().unwrap()));
                // A refusal that came by ICMP is told here; it is not what is tested.
                (0..n.parse().unwrap()).for_each(|_| drop(socket.send(&bytes)));
                println!("@flooded");
            }
            ["storm", addr, port] => {
                let socket = socket(addr, port);
                println!("@storms");
                std::thread::spawn(move || {
                    loop {
                        let _ = socket.send(&[7; 200]);
                    }
                });
            }
            ["mute", addr, port] => {
                let socket = socket(addr, port);
                socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                let answered = (0..5).any(|_| {
                    let _ = socket.send(b"anybody?");
                    socket.recv(&mut [0; 64]).is_ok()
                });
                println!("@{}", if answered { "answered" } else { "silence" });
            }
            ["dropped"] => {
                let mut netdev = Netdev::open().unwrap();
                let index = netdev.link("xb").unwrap().index;
                println!("@{}", netdev.link_stats(index).unwrap().tx_dropped);
            }
            ["raw", addr, n] => {
                send_raw(addr.parse().unwrap(), n.parse().unwrap());
                println!("@sent");
            }
            _ => panic!("no such command: {line}"),
        }
        line.clear();
    }
}

fn configure(mtu: u32, tx: bool) {
    let mut netdev = Netdev::open().unwrap();
    let link = netdev.link("xb").unwrap();
    netdev.set_addr_gen_none(link.index).unwrap();
    set_feature("xb", Feature::Tx, tx).unwrap();
    netdev.set_mtu(link.index, mtu).unwrap();
    netdev.set_up(link.index, true).unwrap();
    netdev.add_addr(link.index, PEER4.parse().unwrap(), 24).unwrap();
    netdev.add_addr(link.index, PEER6.parse().unwrap(), 64).unwrap();
    println!("@up");
}

/// Sends `n` frames with an IPv4 header and nothing in it, each once with a tag and once without.
fn send_raw(to: Ipv4Addr, n: usize) {
    let link = Netdev::open().unwrap().link("xb").unwrap();
    let config = packet::Config { vnet_hdr: false, ..packet::Config::default() };
    let mut dev = Packet::open(&link, config).unwrap();
    let mut pool = Pool::new(4, 0);
    let mut header = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 78, 0, 2];
    header.extend(to.octets());
    for _ in 0..n {
        for tag in [&[0x81, 0, 0, 5, 8, 0][..], &[8, 0]] {
            let mut pkt = pool.alloc().unwrap();
            let frame = [&[0xff; 6], &link.mac.unwrap()[..], tag, &header].concat();
            pkt.put(frame.len()).copy_from_slice(&frame);
            let (mut ring, mut done) = (VecDeque::from([pkt]), Vec::new());
            while done.is_empty() {
                dev.tx_burst(&mut ring, &mut done).unwrap();
            }
            let (pkt, sent) = done.pop().unwrap();
            assert!(sent);
            pool.free(pkt);
        }
    }
}

fn socket(addr: &str, port: &str) -> UdpSocket {
    let to = SocketAddr::new(addr.parse().unwrap(), port.parse().unwrap());
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// Sends a datagram of each length and has it back, whole. What is lost, as on any wire, is sent
/// again.
fn echo(socket: &UdpSocket, lens: impl Iterator<Item = usize>) {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut back = vec![0; 65536];
    for len in lens {
        let out = pattern(len);
        let came = (0..60).any(|_| {
            let _ = socket.send(&out);
            loop {
                match socket.recv(&mut back) {
                    Ok(n) if n == len => return true,
                    // An echo of one that was sent again.
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        });
        assert!(came, "no echo of {len} bytes");
        assert!(back[..len] == out[..], "the echo of {len} bytes differs");
    }
}
