//! The two applications: a server that echoes TCP and UDP, on every shard, and a client that checks
//! every byte.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::table::{Counter, Reason};
use linerate_core::tcp::api::{Connect, Listen};
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_dev::device::{Caps, Layer};
use linerate_dev::drive::{App, Drive};
use linerate_dev::mem::nic::Config;
use linerate_dev::mem::{Nic, nic};
use linerate_dev::poller::{Event, Poller};
use linerate_dev::worker::Workers;

pub const PORT: u16 = 7;

/// A card for bare IP, whose server end has so many queues.
pub fn card(queues: usize, tso: bool) -> (Nic, Nic) {
    let base = Config::default();
    let caps = Caps { layer: Layer::Ip, mac: None, tso, uso: tso, ..base.caps };
    let (server, client) = nic(Config { caps, slots: 256, queues, ..base }).expect("descriptors");
    client.set_channels(1);
    (server, client)
}

/// A server: shard `i` drives queue `i` of the card.
pub fn servers(nic: &Nic, n: usize) -> Workers<Server> {
    let theirs = nic.clone();
    let made = Workers::start(n, &[], 11, move |i, drive| server(&theirs, i, drive));
    let workers = made.expect("they start");
    // The card computes the hash that the shards know flows by.
    let channels = nic.channels();
    let rss = workers.ask(0, move |drive, _| drive.shard.net.rss(channels)).expect("it lives");
    nic.set_rss(&rss);
    big_windows(&workers);
    // What is steered between shards is not to be lost, however slow the machine is.
    workers.set_knob("net.core.netdev_max_backlog", "1000000").expect("in range");
    workers
}

/// A receive buffer is not to be what loses a segment.
fn big_windows<A: App + 'static>(workers: &Workers<A>) {
    workers.set_knob("net.ipv4.tcp_rmem", "4096 6291456 6291456").expect("in range");
}

fn server(nic: &Nic, shard: usize, drive: &mut Drive) -> io::Result<Server> {
    let dev = drive.add_device(Box::new(nic.open(shard as u8)?), |_| {})?;
    let shard = &mut drive.shard;
    shard.add_addr(dev, "10.0.0.1".parse().expect("an address"), 24).expect("added");
    let listener = shard.tcp_listen(Listen { port: PORT, backlog: 256, ..Listen::default() });
    let listener = listener.expect("the port is free");
    let udp = shard.udp_bind(UdpBind { port: PORT, rcvbuf: 1 << 20, ..UdpBind::default() });
    Ok(Server {
        listener,
        udp: udp.expect("the port is free"),
        conns: BTreeMap::new(),
        panics: false,
        roams: false,
        echoed: 0,
    })
}

/// Echoes.
pub struct Server {
    listener: SocketId,
    udp: SocketId,
    pub conns: BTreeMap<SocketId, Vec<u8>>,
    pub panics: bool,
    /// In each turn the reader of a connection chosen at random moves to a shard chosen at random.
    pub roams: bool,
    /// Datagrams.
    pub echoed: u64,
}

impl Server {
    fn echo(shard: &mut Shard, id: SocketId, unsent: &mut Vec<u8>) -> Result<bool, TcpError> {
        let mut buf = [0; 8192];
        for _ in 0..4 {
            if !unsent.is_empty() {
                match shard.tcp_send(id, unsent) {
                    Ok(n) => drop(unsent.drain(..n)),
                    Err(TcpError::WouldBlock) => return Ok(false),
                    Err(err) => return Err(err),
                }
                if !unsent.is_empty() {
                    return Ok(false);
                }
            }
            match shard.tcp_recv(id, &mut buf) {
                Ok(0) => return Ok(true),
                Ok(n) => unsent.extend_from_slice(&buf[..n]),
                Err(TcpError::WouldBlock) => return Ok(false),
                Err(err) => return Err(err),
            }
        }
        Ok(false)
    }
}

impl Server {
    fn roam(&mut self, shard: &mut Shard) {
        let at = shard.net.rng.below(self.conns.len() as u64);
        let shards = shard.net.steer.mesh.as_ref().map_or(1, |mesh| mesh.shards());
        let to = shard.net.rng.below(shards as u64);
        if let Some(id) = self.conns.keys().nth(at as usize) {
            shard.rps_record_sock_flow(*id, to as u8);
        }
    }
}

impl App for Server {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        assert!(!self.panics, "told to panic");
        while let Some(event) = shard.poll_event() {
            shard.take_ready(event.id);
        }
        while let Some(id) = shard.tcp_accept(self.listener) {
            self.conns.insert(id, Vec::new());
        }
        self.conns.retain(|id, unsent| {
            let ended = Server::echo(shard, *id, unsent).expect("a connection lives until its FIN");
            if ended {
                shard.tcp_close(*id);
            }
            !ended
        });
        if self.roams {
            self.roam(shard);
        }
        for _ in 0..256 {
            let Some(datagram) = shard.udp_recv(self.udp) else { break };
            let bytes: Vec<u8> = datagram.slices().flatten().copied().collect();
            let to = SendTo { src: Some(datagram.dst()), ..SendTo::to(datagram.src()) };
            shard.udp_done(datagram);
            shard.udp_send(self.udp, to, &[&bytes]).expect("there is room");
            self.echoed += 1;
        }
        let readable = |id: &SocketId| shard.tcp_readable(*id).is_ok_and(|r| r.bytes > 0 || r.fin);
        let send = |id: &SocketId| shard.tcp_send_space(*id) > 0;
        Ok(self.conns.iter().any(|(id, unsent)| send(id) && (readable(id) || !unsent.is_empty())))
    }

    fn leave(&mut self, socket: SocketId) -> Option<Box<dyn Any + Send>> {
        self.conns.remove(&socket).map(|unsent| Box::new(unsent) as Box<dyn Any + Send>)
    }

    fn arrive(&mut self, _: &mut Shard, socket: SocketId, state: Box<dyn Any + Send>) {
        let unsent = *state.downcast::<Vec<u8>>().expect("it comes from a server");
        self.conns.insert(socket, unsent);
    }
}

/// One stream of the client's.
struct Stream {
    seed: u64,
    sent: u64,
    got: u64,
    shut: bool,
}

/// Sends streams of bytes that say where they belong, and checks what comes back.
pub struct Client {
    streams: BTreeMap<SocketId, Stream>,
    udp: Vec<SocketId>,
    /// Bytes that were sent and came back.
    pub good: u64,
    /// Streams that came to their end, every byte verified.
    pub ended: usize,
    /// No stream sends more than this many bytes.
    pub goal: u64,
    /// No stream has more bytes under way, there and back.
    pub ahead: u64,
    /// Datagrams sent and back.
    pub datagrams: [u64; 2],
}

fn byte(seed: u64, at: u64) -> u8 {
    let x = (at / 8).wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> (8 * (at % 8))) as u8 ^ (x >> 61) as u8
}

impl Client {
    pub fn start(nic: &Nic) -> Workers<Client> {
        let nic = nic.clone();
        let made = Workers::start(1, &[], 12, move |_, drive| {
            let dev = drive.add_device(Box::new(nic.open(0)?), |_| {})?;
            let addr = "10.0.0.2".parse().expect("an address");
            drive.shard.add_addr(dev, addr, 24).expect("added");
            Ok(Client {
                streams: BTreeMap::new(),
                udp: Vec::new(),
                good: 0,
                ended: 0,
                goal: 0,
                ahead: u64::MAX,
                datagrams: [0; 2],
            })
        });
        let client = made.expect("it starts");
        big_windows(&client);
        client
    }

    /// Opens streams.
    pub fn connect(&mut self, shard: &mut Shard, n: usize) {
        for _ in 0..n {
            let remote = SocketAddr::from(([10, 0, 0, 1], PORT));
            let id = shard.tcp_connect(Connect { local: None, remote, user: 0 }).expect("a port");
            let seed = shard.net.rng.next_u64();
            self.streams.insert(id, Stream { seed, sent: 0, got: 0, shut: false });
        }
    }

    /// Lets all streams come to their end, after as many bytes as the longest has sent.
    pub fn finish(&mut self) {
        self.goal = self.streams.values().map(|s| s.sent).max().unwrap_or(0);
    }

    /// Sends one datagram from each of so many sockets, `times` over.
    pub fn datagrams(&mut self, shard: &mut Shard, sockets: usize, times: usize) {
        while self.udp.len() < sockets {
            let bind = UdpBind { rcvbuf: 1 << 22, ..UdpBind::default() };
            self.udp.push(shard.udp_bind(bind).expect("a port"));
        }
        for (_, id) in (0..times).flat_map(|n| self.udp.iter().map(move |id| (n, id))) {
            let to = SendTo::to(SocketAddr::from(([10, 0, 0, 1], PORT)));
            // The queue below may be full; what was sent is what counts.
            self.datagrams[0] += u64::from(shard.udp_send(*id, to, &[b"what comes back"]).is_ok());
        }
    }

    fn stream(
        shard: &mut Shard,
        id: SocketId,
        s: &mut Stream,
        (goal, ahead): (u64, u64),
    ) -> Result<bool, TcpError> {
        let mut buf = [0; 8192];
        for _ in 0..4 {
            let left = (goal - s.sent.min(goal)).min(ahead - (s.sent - s.got).min(ahead));
            let room = shard.tcp_send_space(id).min(buf.len()).min(left as usize);
            if room > 0 {
                let part = &mut buf[..room];
                part.iter_mut().zip(s.sent..).for_each(|(b, at)| *b = byte(s.seed, at));
                s.sent += shard.tcp_send(id, part)? as u64;
            }
            if s.sent >= goal && !s.shut {
                s.shut = true;
                shard.tcp_shutdown(id);
            }
            match shard.tcp_recv(id, &mut buf) {
                Ok(0) => return Ok(true),
                Ok(n) => {
                    let good = buf[..n].iter().zip(s.got..).all(|(b, at)| *b == byte(s.seed, at));
                    assert!(good, "bytes {} and {n} on are as they were sent", s.got);
                    s.got += n as u64;
                }
                Err(TcpError::WouldBlock) => break,
                Err(err) => return Err(err),
            }
        }
        Ok(false)
    }
}

impl App for Client {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while let Some(event) = shard.poll_event() {
            shard.take_ready(event.id);
        }
        let limits = (self.goal, self.ahead);
        let mut more = false;
        self.streams.retain(|id, s| {
            let before = (s.sent, s.got);
            let ended = match Client::stream(shard, *id, s, limits) {
                Ok(ended) => ended,
                // Not connected yet.
                Err(TcpError::WouldBlock) => false,
                Err(err) => panic!("after {} bytes: {err}", s.got),
            };
            self.good += s.got - before.1;
            more |= (s.sent, s.got) != before;
            if ended {
                assert_eq!(
                    (s.sent, s.got),
                    (limits.0, limits.0),
                    "the end comes after the last byte"
                );
                shard.tcp_close(*id);
                self.ended += 1;
            }
            !ended
        });
        for id in &self.udp {
            while let Some(datagram) = shard.udp_recv(*id) {
                assert_eq!(
                    datagram.slices().flatten().copied().collect::<Vec<_>>(),
                    b"what comes back"
                );
                self.datagrams[1] += 1;
                shard.udp_done(datagram);
            }
        }
        Ok(more)
    }
}

/// Waits until all that either side has sent has been taken by the other, for longer than an
/// acknowledgement is put off: a side that halts while something is on its way to it leaves the other
/// with that in its hands.
pub fn come_to_rest<A: App + 'static, B: App + 'static>(one: &Workers<A>, other: &Workers<B>) {
    fn rests<A: App + 'static>(workers: &Workers<A>) -> bool {
        let idle = workers.ask_all(|drive, _| drive.devices().all(|d| d.tx_pending() == 0));
        idle.into_iter().all(|idle| idle)
    }
    let mut since = std::time::Instant::now();
    crate::wait_until("both sides come to rest", || {
        if !(rests(one) && rests(other)) {
            since = std::time::Instant::now();
        }
        since.elapsed() > std::time::Duration::from_millis(300)
    });
}

/// What must hold at the end of an instance: conservation, no memory out, nothing lost, and no segment
/// out of order. Returns what each shard received.
pub fn check_end<A: App + 'static>(workers: &Workers<A>) -> Vec<u64> {
    let received = check_accounts(workers);
    let disorder = disorder(workers, u64::MAX);
    assert!(disorder.is_empty(), "{disorder:#?}");
    received
}

/// Where more than one segment in `of` came after those that were sent later, or a connection was reset:
/// all that moved there, which tells why.
pub fn disorder<A: App + 'static>(workers: &Workers<A>, of: u64) -> Vec<String> {
    let mut all = workers.ask_all(move |drive, _| {
        let counts = &drive.shard.net.counts;
        let moved = |c: &Counter| counts.get(*c) > 0;
        let late = counts.get(Counter::TcpExtTCPOFOQueue);
        if late <= counts.get(Counter::TcpInSegs) / of && !moved(&Counter::TcpEstabResets) {
            return String::new();
        }
        let all = Counter::ROWS.iter().map(|r| r.counter).filter(moved);
        all.map(|c| format!("{} {}, ", c.row().name, counts.get(c))).collect()
    });
    all.retain(|said| !said.is_empty());
    all
}

/// The same but for the order.
pub fn check_accounts<A: App + 'static>(workers: &Workers<A>) -> Vec<u64> {
    workers.quiesce();
    let ends = workers.ask_all(|drive, _| {
        let net = &drive.shard.net;
        let drops = [Reason::CpuBacklog, Reason::FlowLimit, Reason::RingFull];
        let drops = drops.map(|reason| net.counts.drops(reason));
        let out = (net.pool.small_out(), net.pool.large_out());
        (net.counts.unaccounted(), drops, out, net.counts.get(Counter::DevRxPackets))
    });
    assert_eq!(ends.len(), workers.shards());
    for (shard, (unaccounted, drops, out, _)) in ends.iter().enumerate() {
        let said = (&unaccounted[..], *drops, *out);
        assert_eq!(said, (&[][..], [0; 3], (0, 0)), "shard {shard}");
    }
    ends.into_iter().map(|e| e.3).collect()
}
