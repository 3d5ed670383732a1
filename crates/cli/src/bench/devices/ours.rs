//! Receivers that are this stack, and those that stop before it.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

use linerate_core::pkt::{Batch, Pkt, Pool};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::time::Instant;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_core::wire::Mac;
use linerate_dev::drive::{App, Drive};
use linerate_dev::netdev::Netdev;
use linerate_dev::netdev::tc::Ignored;
use linerate_dev::packet::ring;
use linerate_dev::poller::{Event, Interest, Poller};
use linerate_dev::xdp::{self, Filter, Xsk};
use linerate_dev::{Device, RxCx};

use super::Receiver;
use super::wire::{DUT, NOBODY, PACKET, PACKET_MAC, PORT, Wire, XDP};
use crate::bench::path::xdp::swap;

/// A filter of the kernel at the ingress hook drops what comes.
pub struct Nobody(Netdev, Ignored);

impl Nobody {
    /// Sets the filter.
    ///
    /// # Errors
    /// The kernel has no such hook.
    pub fn open(wire: &Wire) -> io::Result<Nobody> {
        let mut netdev = Netdev::open().map_err(io::Error::other)?;
        let index = wire.link.index;
        let made_hook = !netdev.has_ingress_hook(index).map_err(io::Error::other)?;
        let addrs = vec![IpAddr::V4(NOBODY)];
        let ignored = Ignored { index, priority: 1, addrs, made_hook };
        netdev.ignore(&ignored).map_err(io::Error::other)?;
        Ok(Nobody(netdev, ignored))
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        // The namespace goes anyway; the next round sets it again.
        let _ = self.0.heed(&self.1);
    }
}

impl Receiver for Nobody {
    fn work(&mut self) -> io::Result<()> {
        std::thread::sleep(std::time::Duration::from_millis(1));
        Ok(())
    }
    fn count(&self) -> u64 {
        0
    }
}

fn open_xdp() -> io::Result<(Xsk, std::sync::Arc<xdp::Attached>)> {
    let config = xdp::Config { filter: Filter::addrs([IpAddr::V4(XDP)]), ..xdp::Config::new(DUT) };
    let mut opened = xdp::open(&config).map_err(io::Error::other)?;
    let queue = opened.queues.pop().ok_or_else(|| io::Error::other("no queue was opened"))?;
    Ok((queue, opened.attached))
}

/// AF_XDP's rings alone: what comes is dropped, or goes back with its link addresses exchanged.
pub struct Bare {
    queue: Xsk,
    poller: Poller,
    pool: Pool,
    batch: Batch,
    /// What goes back.
    back: Option<VecDeque<Pkt>>,
    count: u64,
}

impl Bare {
    /// Opens the queue; what comes is sent back, or not.
    ///
    /// # Errors
    /// Those of [`xdp::open`].
    pub fn open(_wire: &Wire, sends_back: bool) -> io::Result<Bare> {
        let (queue, _) = open_xdp()?;
        let poller = Poller::new(1)?;
        if let Some(fd) = queue.poll_fd() {
            poller.add(fd, 0, Interest::READ)?;
        }
        let (pool, back) = (Pool::new(1 << 16, 0), sends_back.then(VecDeque::new));
        Ok(Bare { queue, poller, pool, batch: Batch::new(), back, count: 0 })
    }

    /// Sends what is to go back. What the ring has no room for is lost, and not counted.
    fn send(&mut self, done: &mut Vec<(Pkt, bool)>) -> io::Result<()> {
        let Some(back) = &mut self.back else { return Ok(()) };
        self.queue.tx_burst(back, done)?;
        self.count += done.iter().filter(|(_, taken)| *taken).count() as u64;
        done.drain(..).for_each(|(pkt, _)| self.pool.free(pkt));
        back.drain(..).for_each(|pkt| self.pool.free(pkt));
        Ok(())
    }
}

impl Receiver for Bare {
    fn work(&mut self) -> io::Result<()> {
        let (mut dropped, mut done) = (Vec::new(), Vec::new());
        for _ in 0..64 {
            let (pool, now, dev) = (&mut self.pool, Instant::ZERO, 0);
            let mut cx = RxCx { pool, now, dev, dropped: &mut dropped };
            let n = self.queue.rx_burst(&mut cx, &mut self.batch, 64)?;
            if n == 0 {
                // It sleeps as the others do: a NAPI thread may share the processor.
                let _ready = self.poller.wait(Some(1_000_000))?;
                break;
            }
            match &mut self.back {
                Some(back) => back.extend(self.batch.now.drain(..).map(|mut pkt| {
                    swap(&mut pkt);
                    pkt
                })),
                None => {
                    self.count += n as u64;
                    self.batch.now.drain(..).for_each(|pkt| self.pool.free(pkt));
                }
            }
            self.send(&mut done)?;
        }
        dropped.into_iter().for_each(|(pkt, _)| self.pool.free(pkt));
        Ok(())
    }
    fn count(&self) -> u64 {
        self.count
    }
}

/// A device, our stack, and an application that reads or echoes.
pub struct Stack {
    drive: Drive,
    app: Reader,
}

impl Stack {
    /// Over AF_XDP.
    ///
    /// # Errors
    /// Those of [`xdp::open`].
    pub fn over_xdp(_wire: &Wire, echo: bool) -> io::Result<Stack> {
        let (queue, _) = open_xdp()?;
        Stack::over(Box::new(queue), IpAddr::V4(XDP), None, echo)
    }

    /// Over a TPACKET_V3 ring.
    ///
    /// # Errors
    /// Those of [`ring::open`].
    pub fn over_packet(_wire: &Wire, echo: bool) -> io::Result<Stack> {
        let mac = Some(PACKET_MAC);
        let config = ring::Config { mac, ..ring::Config::new(DUT) };
        let mut opened = ring::open(config).map_err(io::Error::other)?;
        let queue = opened.queues.pop().ok_or_else(|| io::Error::other("no queue was opened"))?;
        Stack::over(Box::new(queue), IpAddr::V4(PACKET), mac, echo)
    }

    fn over(
        dev: Box<dyn Device>,
        addr: IpAddr,
        mac: Option<[u8; 6]>,
        echo: bool,
    ) -> io::Result<Stack> {
        let mut drive = Drive::new(Shard::new(1))?;
        let dev = drive.add_device(dev, |iface| iface.mac = mac.map_or(iface.mac, Mac))?;
        drive.shard.add_addr(dev, addr, 24).map_err(io::Error::other)?;
        let bind = UdpBind { port: PORT, rcvbuf: 8 << 20, ..UdpBind::default() };
        let sock = drive.shard.udp_bind(bind).map_err(io::Error::other)?;
        Ok(Stack { drive, app: Reader { sock, echo, count: 0, until: None } })
    }
}

impl Receiver for Stack {
    fn work(&mut self) -> io::Result<()> {
        // A timer of the application's own ends the wait where nothing comes.
        self.app.until = Some(self.drive.shard.net.now.plus(1_000_000));
        self.drive.turn(&mut self.app)
    }
    fn count(&self) -> u64 {
        self.app.count
    }
}

struct Reader {
    sock: SocketId,
    echo: bool,
    count: u64,
    until: Option<Instant>,
}

impl App for Reader {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while shard.poll_event().is_some() {}
        while let Some(datagram) = shard.udp_recv(self.sock) {
            let payload = datagram.slices().next().unwrap_or_default();
            if self.echo {
                let mut copy = [0; 1472];
                let copy = &mut copy[..payload.len().min(1472)];
                copy.copy_from_slice(&payload[..copy.len()]);
                let back = SendTo { src: Some(datagram.dst()), ..SendTo::to(datagram.src()) };
                // What the queue has no room for is lost, as in the kernel, and not counted.
                self.count += u64::from(shard.udp_send(self.sock, back, &[copy]).is_ok());
            } else {
                std::hint::black_box(payload.first());
                self.count += 1;
            }
            shard.udp_done(datagram);
        }
        Ok(false)
    }
    fn next_timer(&self) -> Option<Instant> {
        self.until
    }
}
