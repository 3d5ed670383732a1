//! A TCP and UDP echo server (port 7) on a TUN device: `echo_tun DEVICE ADDRESS`.

use std::io;
use std::net::IpAddr;

use linerate_core::shard::Shard;
use linerate_core::sock::error::TcpError;
use linerate_core::sock::{Ready, SockKind, SocketId};
use linerate_core::tcp::Listen;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_dev::drive::{App, Drive};
use linerate_dev::poller::{Event, Poller};
use linerate_dev::tun::{Config, Tun};

struct Echo {
    listener: SocketId,
    udp: SocketId,
}

impl Echo {
    fn tcp(&mut self, shard: &mut Shard, id: SocketId) {
        let mut buf = [0; 16384];
        // Read no more than the peer's window lets us send back: the sender slows down by itself.
        loop {
            let room = shard.tcp_send_space(id).min(buf.len());
            match shard.tcp_recv(id, &mut buf[..room]) {
                Ok(0) if room > 0 => return shard.tcp_shutdown(id),
                Ok(n) if n > 0 => drop(shard.tcp_send(id, &buf[..n])),
                Ok(_) | Err(TcpError::WouldBlock) => return,
                Err(_) => return shard.tcp_close(id),
            }
        }
    }
}

impl App for Echo {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while let Some(event) = shard.poll_event() {
            match event.id.kind {
                SockKind::Listen => while shard.tcp_accept(self.listener).is_some() {},
                SockKind::Tcp => {
                    let ready = shard.take_ready(event.id);
                    self.tcp(shard, event.id);
                    if ready.has(Ready::HUP | Ready::ERR) {
                        shard.tcp_close(event.id);
                    }
                }
                _ => {}
            }
        }
        while let Some(datagram) = shard.udp_recv(self.udp) {
            let back = SendTo { src: Some(datagram.dst()), ..SendTo::to(datagram.src()) };
            let parts: Vec<&[u8]> = datagram.slices().collect();
            // A full queue loses the echo, as UDP may.
            let _ = shard.udp_send(self.udp, back, &parts);
            shard.udp_done(datagram);
        }
        Ok(false)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(addr)) = (args.next(), args.next()) else {
        return Err("usage: echo_tun DEVICE ADDRESS".into());
    };
    let addr: IpAddr = addr.parse()?;
    let mut shard = Shard::new(std::process::id().into());
    let udp = shard.udp_bind(UdpBind { port: 7, rcvbuf: 4 << 20, ..UdpBind::default() })?;
    let listener = shard.tcp_listen(Listen { port: 7, backlog: 128, ..Listen::default() })?;
    let mut drive = Drive::new(shard)?;
    let dev = drive.add_device(Box::new(Tun::open(&Config::new(&name))?), |_| ())?;
    drive.shard.add_addr(dev, addr, if addr.is_ipv4() { 24 } else { 64 })?;
    let mut echo = Echo { listener, udp };
    loop {
        drive.turn(&mut echo)?;
    }
}
