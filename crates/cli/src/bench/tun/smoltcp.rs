//! The peer smoltcp on a TUN, by its own device, with the servers of `bench run`. It has no offloads;
//! its buffers are of the size that served it best (1 MiB).

use std::io;
use std::os::fd::AsRawFd;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Medium, TunTapInterface, wait};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::{NAME, STACK, Stack};
use crate::bench::traffic::port;

/// Bytes of each buffer of a stream.
const BUFFER: usize = 1 << 20;
/// Sockets that listen at the port of short connections: as many may be opening and closing.
const BYTES: usize = 64;

/// The device, the stack and its sockets.
pub struct Smoltcp {
    tun: TunTapInterface,
    iface: Interface,
    sockets: SocketSet<'static>,
    of: Vec<(SocketHandle, u16)>,
    received: u64,
    echo: Vec<u8>,
}

impl Smoltcp {
    /// Opens the TUN.
    ///
    /// # Errors
    /// Those of the TUN and of rtnetlink.
    pub fn open() -> io::Result<Smoltcp> {
        let mut tun = TunTapInterface::new(NAME, Medium::Ip)?;
        super::bring_up()?;
        let mut iface = Interface::new(Config::new(HardwareAddress::Ip), &mut tun, Instant::now());
        iface.update_ip_addrs(|addrs| {
            // The list is empty, and has room for one.
            let _ = addrs.push(IpCidr::new(IpAddress::from(STACK), 24));
        });
        let mut sockets = SocketSet::new(vec![]);
        let mut of = Vec::new();
        let bytes = std::iter::repeat_n((port::BYTE, 4096), BYTES);
        for (port, size) in [(port::SINK, BUFFER), (port::SOURCE, BUFFER), (port::ECHO, 65536)]
            .into_iter()
            .chain(bytes)
        {
            let buffer = || SocketBuffer::new(vec![0; size]);
            let mut socket = Socket::new(buffer(), buffer());
            socket.set_nagle_enabled(false);
            socket.listen(port).map_err(|e| io::Error::other(format!("{e:?}")))?;
            of.push((sockets.add(socket), port));
        }
        Ok(Smoltcp { tun, iface, sockets, of, received: 0, echo: vec![0; 65536] })
    }

    fn serve(&mut self) {
        for &(handle, port) in &self.of {
            let socket = self.sockets.get_mut::<Socket<'_>>(handle);
            // What the client has reset or closed listens again.
            match socket.state() {
                State::Closed | State::TimeWait => {
                    socket.abort();
                    let _ = socket.listen(port);
                    continue;
                }
                State::CloseWait => socket.close(),
                _ => {}
            }
            match port {
                port::SINK => {
                    while socket.can_recv() {
                        let echo = &mut self.echo;
                        match socket.recv_slice(echo) {
                            Ok(n) if n > 0 => self.received += n as u64,
                            _ => break,
                        }
                    }
                }
                port::SOURCE => {
                    while socket.can_send() {
                        match socket.send_slice(&self.echo) {
                            Ok(n) if n > 0 => {}
                            _ => break,
                        }
                    }
                }
                port::ECHO => {
                    while socket.can_recv() && socket.can_send() {
                        let Ok(n) = socket.recv_slice(&mut self.echo) else { break };
                        let _ = socket.send_slice(&self.echo[..n]);
                    }
                }
                _ if socket.state() == State::Established => {
                    let _ = socket.send_slice(&[1]);
                    socket.close();
                }
                _ => {}
            }
        }
    }
}

impl Stack for Smoltcp {
    fn work(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.iface.poll(now, &mut self.tun, &mut self.sockets);
        self.serve();
        // What was written goes out before it sleeps.
        self.iface.poll(Instant::now(), &mut self.tun, &mut self.sockets);
        let most = Duration::from_millis(1);
        let delay = self.iface.poll_delay(Instant::now(), &self.sockets);
        wait(self.tun.as_raw_fd(), Some(delay.map_or(most, |d| d.min(most))))
    }
    fn received(&self) -> u64 {
        self.received
    }
}
