//! Our stack on a TUN, with the servers of `bench run`.

use std::collections::HashMap;
use std::io;

use linerate_core::pkt::Lent;
use linerate_core::shard::Shard;
use linerate_core::sock::error::TcpError;
use linerate_core::sock::{Ready, SockKind, SocketId};
use linerate_core::tcp::{Listen, SendMsg};
use linerate_core::time::Instant;
use linerate_dev::drive::{App, Drive};
use linerate_dev::poller::{Event, Poller};
use linerate_dev::tun::{Config, Tun};

use super::{NAME, STACK, Stack};
use crate::bench::traffic::{CHUNK_BYTES, port};

/// What a server does with a connection.
#[derive(Clone, Copy)]
enum Role {
    Sink,
    Source,
    Echo,
    Byte,
}

const ROLES: [(u16, Role); 4] = [
    (port::SINK, Role::Sink),
    (port::SOURCE, Role::Source),
    (port::ECHO, Role::Echo),
    (port::BYTE, Role::Byte),
];

/// The device, the stack and its servers.
pub struct Ours {
    drive: Drive,
    app: Servers,
}

struct Servers {
    listeners: Vec<(SocketId, Role)>,
    connections: HashMap<SocketId, Role>,
    buf: Vec<u8>,
    /// What the source sends, if it sends as `sendfile` does and does not copy.
    file: Option<Lent>,
    received: u64,
    until: Option<Instant>,
}

impl Ours {
    /// Opens the TUN, with every offload or with none; the source sends a file in memory, or copies.
    ///
    /// # Errors
    /// Those of the TUN and of rtnetlink.
    pub fn open(offloads: bool, sendfile: bool) -> io::Result<Ours> {
        let config = Config::new(NAME);
        let config = if offloads { config } else { config.plain() };
        let tun = Tun::open(&config).map_err(io::Error::other)?;
        super::bring_up()?;
        let mut drive = Drive::new(Shard::new(1))?;
        let dev = drive.add_device(Box::new(tun), |iface| iface.mtu = 1500)?;
        drive.shard.add_addr(dev, STACK.into(), 24).map_err(io::Error::other)?;
        let mut listeners = Vec::new();
        for (port, role) in ROLES {
            let listen = Listen { port, backlog: 128, ..Listen::default() };
            listeners.push((drive.shard.tcp_listen(listen).map_err(io::Error::other)?, role));
        }
        let connections = HashMap::new();
        let buf = vec![0xa5; CHUNK_BYTES];
        let file = sendfile.then(|| Lent::from(buf.clone()));
        let app = Servers { listeners, connections, buf, file, received: 0, until: None };
        Ok(Ours { drive, app })
    }
}

impl Stack for Ours {
    fn work(&mut self) -> io::Result<()> {
        // A timer of the application's own ends the wait where nothing comes.
        self.app.until = Some(self.drive.shard.net.now.plus(1_000_000));
        self.drive.turn(&mut self.app)
    }
    fn received(&self) -> u64 {
        self.app.received
    }
}

impl Servers {
    fn accept(&mut self, shard: &mut Shard, listener: SocketId) {
        let role = self.listeners.iter().find(|(id, _)| *id == listener).map(|(_, role)| *role);
        while let (Some(role), Some(id)) = (role, shard.tcp_accept(listener)) {
            match role {
                Role::Byte => {
                    // The send queue of a new connection has room for a byte.
                    let _ = shard.tcp_send(id, &[1]);
                    shard.tcp_close(id);
                }
                _ => {
                    self.connections.insert(id, role);
                    self.serve(shard, id, role);
                }
            }
        }
    }

    /// What can be done for the connection now; false where it is over.
    fn serve(&mut self, shard: &mut Shard, id: SocketId, role: Role) -> bool {
        loop {
            let done = match role {
                Role::Sink => {
                    shard.tcp_recv(id, &mut self.buf).inspect(|n| self.received += *n as u64)
                }
                Role::Source => match &self.file {
                    Some(file) => shard.tcp_sendfile(id, file, 0, file.len(), SendMsg::default()),
                    None => shard.tcp_send(id, &self.buf),
                },
                Role::Echo => {
                    let room = shard.tcp_send_space(id).min(self.buf.len());
                    match shard.tcp_recv(id, &mut self.buf[..room]) {
                        Ok(n) if n > 0 => shard.tcp_send(id, &self.buf[..n]),
                        other => other,
                    }
                }
                Role::Byte => Ok(0),
            };
            match done {
                Ok(n) if n > 0 => {}
                Err(TcpError::WouldBlock) => return true,
                // The end of the stream, or of the connection.
                Ok(_) | Err(_) => return false,
            }
        }
    }
}

impl App for Servers {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while let Some(event) = shard.poll_event() {
            match event.id.kind {
                SockKind::Listen => self.accept(shard, event.id),
                SockKind::Tcp => {
                    let ready = shard.take_ready(event.id);
                    let role = self.connections.get(&event.id).copied();
                    let goes_on = role.is_some_and(|role| self.serve(shard, event.id, role));
                    if !goes_on || ready.has(Ready::HUP | Ready::ERR) {
                        self.connections.remove(&event.id);
                        shard.tcp_close(event.id);
                    }
                }
                _ => {}
            }
        }
        Ok(false)
    }
    fn next_timer(&self) -> Option<Instant> {
        self.until
    }
}
