//! The bench of the lesson: a host under load, a peer that loads it, and wires in memory.
//!
//! Both are whole stacks driven by the real loop. The wires have no flow control: like a network
//! card, they lose what the host's ring has no room for, and the sender never learns of it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::{Counter, Reason, Stage};
use linerate_core::tcp::api::{Connect, Listen};
use linerate_core::time::Instant;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_dev::drive::{App, Drive};
use linerate_dev::mem;
use linerate_dev::poller::{Event, Poller};

/// The port that the host's application has.
const PORT: u16 = 4242;
/// Payload of a datagram, in bytes: its number, repeated.
const PAYLOAD: usize = 64;
/// Datagrams that the peer makes between two turns: fewer than its own queues hold.
const GULP: usize = 256;
/// Turns after which a stack that still moves is broken: no scene needs a hundredth of it.
const TURNS_MAX: usize = 100_000;

/// The bench.
pub struct Lab {
    /// The host under load.
    pub host: Drive,
    peer: Drive,
    sender: SocketId,
    wires: usize,
    next: u64,
    /// Connections of the peer, and sockets of the host, that [`Lab::hang_up`] ends.
    clients: Vec<SocketId>,
    served: Vec<SocketId>,
}

/// What the application received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Datagrams, or connections.
    pub items: u64,
    /// Datagrams with wrong contents.
    pub damaged: u64,
}

/// An application that reads whatever comes; it never lets the loop wait.
struct Reader {
    socket: Option<SocketId>,
    read: Read,
}

impl App for Reader {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while shard.poll_event().is_some() {}
        if let Some(socket) = self.socket {
            read_all(shard, socket, &mut self.read);
        }
        Ok(false)
    }
    fn next_timer(&self) -> Option<Instant> {
        Some(Instant::ZERO)
    }
}

fn read_all(shard: &mut Shard, socket: SocketId, read: &mut Read) {
    while let Some(datagram) = shard.udp_recv(socket) {
        let bytes: Vec<u8> = datagram.slices().flatten().copied().collect();
        let number = bytes.first_chunk::<8>().copied().unwrap_or_default();
        let whole = bytes.len() == PAYLOAD && bytes.chunks(8).all(|c| c == number);
        read.items += 1;
        read.damaged += u64::from(!whole);
        shard.udp_done(datagram);
    }
}

/// Lets a stack run until nothing moves any more; `app` runs in each turn.
fn settle(drive: &mut Drive, app: &mut Reader) -> io::Result<()> {
    let (mut last, mut still) = (moved(drive), 0);
    for _ in 0..TURNS_MAX {
        drive.turn(app)?;
        let now = moved(drive);
        still = if now == last { still + 1 } else { 0 };
        last = now;
        if still == 3 {
            return Ok(());
        }
    }
    Err(io::Error::other("a stack in memory did not come to rest"))
}

/// Grows with every packet at every stage.
fn moved(drive: &Drive) -> u64 {
    let flows = Stage::ALL.iter().map(|s| drive.shard.net.counts.flow(*s).read());
    flows.map(|f| f.entered + f.made + f.out + f.dropped).sum()
}

fn host_addr(wire: usize) -> IpAddr {
    Ipv4Addr::new(10, 1, wire as u8, 1).into()
}

fn peer_addr(wire: usize) -> IpAddr {
    Ipv4Addr::new(10, 1, wire as u8, 2).into()
}

impl Lab {
    /// A host and a peer with `wires` wires between them; at the host they are devices without
    /// NAPI if `netif_rx`.
    pub fn new(wires: usize, netif_rx: bool) -> io::Result<Lab> {
        let (mut host, mut peer) = (Drive::new(Shard::new(1))?, Drive::new(Shard::new(2))?);
        for wire in 0..wires {
            let config = mem::Config { flow_control: false, ..mem::Config::default() };
            let (near, far) = mem::pair(config)?;
            for (drive, end, addr) in
                [(&mut host, near, host_addr(wire)), (&mut peer, far, peer_addr(wire))]
            {
                let number = drive.add_device(Box::new(end), |iface| {
                    iface.name = format!("mem{wire}");
                    iface.netif_rx = netif_rx;
                })?;
                drive.shard.add_addr(number, addr, 24).map_err(io::Error::other)?;
            }
        }
        for iface in &mut peer.shard.net.ifaces {
            iface.netif_rx = false;
        }
        // What a noisy machine does must not change the lesson: no poll is cut off by its time.
        host.shard
            .set_knob("net.core.netdev_budget_usecs", "10000000")
            .map_err(io::Error::other)?;
        let sender = peer.shard.udp_bind(UdpBind { port: PORT, ..UdpBind::default() });
        let sender = sender.map_err(io::Error::other)?;
        let (clients, served) = (Vec::new(), Vec::new());
        Ok(Lab { host, peer, sender, wires, next: 1, clients, served })
    }

    /// Sets a knob of the host, as `linerate set` does.
    pub fn set(&mut self, knob: &str, value: &str) -> io::Result<()> {
        self.host.shard.set_knob(knob, value).map_err(io::Error::other)?;
        // One turn without traffic passes it on to the devices.
        self.host.turn(&mut Reader { socket: None, read: Read::default() })
    }

    /// Sends `each` datagrams over every wire while the host does not poll, then lets the host run.
    /// Its application reads meanwhile, or only afterwards if it is slow. Receive buffers have the
    /// size that the knobs say if `default_rcvbuf`, otherwise they are out of the way.
    pub fn burst(&mut self, each: usize, slow: bool, default_rcvbuf: bool) -> io::Result<Read> {
        let rcvbuf = if default_rcvbuf { 0 } else { 64 << 20 };
        let bind = UdpBind { port: PORT, rcvbuf, ..UdpBind::default() };
        let socket = self.host.shard.udp_bind(bind).map_err(io::Error::other)?;
        let mut idle = Reader { socket: None, read: Read::default() };
        for begun in (0..each).step_by(GULP) {
            for wire in 0..self.wires {
                for _ in begun..(begun + GULP).min(each) {
                    self.send_one(wire)?;
                }
                settle(&mut self.peer, &mut idle)?;
            }
        }
        let mut reader = Reader { socket: (!slow).then_some(socket), read: Read::default() };
        settle(&mut self.host, &mut reader)?;
        read_all(&mut self.host.shard, socket, &mut reader.read);
        self.host.shard.udp_close(socket);
        Ok(reader.read)
    }

    fn send_one(&mut self, wire: usize) -> io::Result<()> {
        let number = self.next.to_be_bytes();
        self.next += 1;
        let src = Some(SocketAddr::new(peer_addr(wire), PORT));
        let how = SendTo { src, ..SendTo::to(SocketAddr::new(host_addr(wire), PORT)) };
        let payload = number.repeat(PAYLOAD / number.len());
        self.peer.shard.udp_send(self.sender, how, &[&payload]).map_err(io::Error::other)?;
        Ok(())
    }

    /// Opens `n` connections, one after the other, to an application that listens with a backlog of `n` and
    /// accepts nothing until all have knocked; returns how many it could then accept.
    pub fn connect(&mut self, n: u32) -> io::Result<Read> {
        let listen = Listen { port: PORT, backlog: n, ..Listen::default() };
        let listener = self.host.shard.tcp_listen(listen).map_err(io::Error::other)?;
        for _ in 0..n {
            let remote = SocketAddr::new(host_addr(0), PORT);
            let connect = Connect { local: None, remote, user: 0 };
            self.clients.push(self.peer.shard.tcp_connect(connect).map_err(io::Error::other)?);
            // One after the other: a burst of SYNs would fill the queue of half-open connections.
            self.settle_both()?;
        }
        while let Some(id) = self.host.shard.tcp_accept(listener) {
            self.served.push(id);
        }
        let read = Read { items: self.served.len() as u64, damaged: 0 };
        self.served.push(listener);
        Ok(read)
    }

    /// Ends what [`Lab::connect`] opened; the resets that this takes are no part of a load.
    pub fn hang_up(&mut self) -> io::Result<()> {
        self.clients.drain(..).for_each(|id| self.peer.shard.tcp_abort(id));
        self.settle_both()?;
        self.served.drain(..).for_each(|id| self.host.shard.tcp_close(id));
        self.settle_both()
    }

    fn settle_both(&mut self) -> io::Result<()> {
        let mut idle = Reader { socket: None, read: Read::default() };
        for _ in 0..TURNS_MAX {
            let before = moved(&self.host) + moved(&self.peer);
            settle(&mut self.peer, &mut idle)?;
            settle(&mut self.host, &mut idle)?;
            if moved(&self.host) + moved(&self.peer) == before {
                return Ok(());
            }
        }
        Err(io::Error::other("two stacks in memory did not come to rest"))
    }

    /// The host's value of a counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.host.shard.net.counts.get(counter)
    }

    /// The host's drops for a reason.
    pub fn drops(&self, reason: Reason) -> u64 {
        self.host.shard.net.counts.drops(reason)
    }

    /// The host's packets that were dropped for any reason.
    pub fn all_drops(&self) -> u64 {
        Reason::ALL.iter().map(|r| self.drops(*r)).sum()
    }

    /// Stages of either stack that lost count of packets; empty = the law of conservation holds.
    pub fn unaccounted(&self) -> Vec<(Stage, i64)> {
        let mut all = self.host.shard.net.counts.unaccounted();
        all.extend(self.peer.shard.net.counts.unaccounted());
        all
    }
}
