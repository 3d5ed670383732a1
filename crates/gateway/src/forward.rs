//! Forwarded ports (`-p`): the only ports on which anything listens on the host.
//!
//! The host's kernel accepts a TCP client before the program is asked. If the program then refuses,
//! the client sees its connection established and reset: the truth, late.

use crate::config::Transport;
use crate::gateway::{Cx, Kind, Token};
use crate::host;
use crate::tcp::Relay;
use crate::udp::Endpoints;
use linerate_core::sock::Slab;
use linerate_dev::poller::Interest;
use rustix::net::SocketFlags;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// Clients accepted on one port in one turn.
const TURN_ACCEPTS: usize = 64;

struct Listener {
    fd: OwnedFd,
    port: u16,
}

/// All forwarded TCP ports; the UDP ones are endpoints.
pub(crate) struct Forwards(Slab<Listener>);

impl Forwards {
    /// Listens on every port of the configuration.
    pub fn open(cx: &mut Cx<'_>, udp: &mut Endpoints) -> io::Result<Forwards> {
        let mut all = Slab::default();
        for forward in &cx.config.forwards {
            let at = forward.listen;
            let fail = |err: io::Error| {
                let kind = err.kind();
                let what = match kind {
                    io::ErrorKind::AddrInUse => "another program has this port: choose another one",
                    io::ErrorKind::PermissionDenied => {
                        "this user may not open it: choose a port from 1024 on, or run as root"
                    }
                    io::ErrorKind::AddrNotAvailable => "the host does not have this address",
                    _ => "the host refuses",
                };
                io::Error::new(kind, format!("cannot listen on {at}: {err}: {what}"))
            };
            match forward.transport {
                Transport::Tcp => {
                    let fd = host::listen(at).map_err(fail)?;
                    let (index, generation) = all.insert(Listener { fd, port: forward.port });
                    let token = Token::new(Kind::TcpForward, index, generation).0;
                    if let Some(listener) = all.at(index) {
                        cx.poller.add(&listener.fd, token, Interest::READ)?;
                    }
                }
                Transport::Udp => udp.forward(cx, at, forward.port).map_err(fail)?,
            }
        }
        Ok(Forwards(all))
    }

    /// Clients wait on a port.
    pub fn handle_host(&mut self, cx: &mut Cx<'_>, tcp: &mut Relay, token: Token) {
        let Some(listener) = token.find(&mut self.0) else { return };
        for _ in 0..TURN_ACCEPTS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // Watched level-triggered: a failure for lack of descriptors comes back.
            let Ok((fd, from)) = rustix::net::acceptfrom_with(&listener.fd, flags) else { return };
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            let Some(from) = from else { continue };
            let Some((from, to)) = inside(cx, from, listener.port) else { continue };
            tcp.connect_inside(cx, fd, from, to);
        }
    }
}

/// The addresses of a forwarded client and the program's port, as the program sees them. The client
/// keeps its address unless the program could not answer to it: then the gateway stands in for it.
pub(crate) fn inside(
    cx: &Cx<'_>,
    client: SocketAddr,
    port: u16,
) -> Option<(SocketAddr, SocketAddr)> {
    let addr = client.ip().to_canonical();
    let to = cx.config.program(addr).or(cx.config.program(IpAddr::V4(cx.config.v4.program)))?;
    let (gateway, same) = (cx.config.gateway(to)?, to.is_ipv4() == addr.is_ipv4());
    let stand_in = !same || stands_in(addr) || addr == to;
    let from = if stand_in { gateway } else { addr };
    Some((SocketAddr::new(from, client.port()), SocketAddr::new(to, port)))
}

/// Whether an address means something else inside than on the host.
fn stands_in(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_loopback() || a.is_link_local() || a.is_unspecified(),
        IpAddr::V6(a) => a.is_loopback() || a.is_unicast_link_local() || a.is_unspecified(),
    }
}
