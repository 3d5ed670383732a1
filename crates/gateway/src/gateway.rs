//! The gateway itself: an [`App`] on the stack of the program's link, which hands each connection,
//! datagram and echo request to its relay.

use crate::config::{Config, Limits};
use crate::count::Counts;
use crate::dns::Forwarder;
use crate::forward::Forwards;
use crate::host;
use crate::icmp::Echo;
use crate::policy::{KernelRoutes, Policy};
use crate::tcp::{FlowRow, Relay};
use crate::udp::Endpoints;
use linerate_core::ip::route::{Route, RouteError};
use linerate_core::link::Iface;
use linerate_core::shard::Shard;
use linerate_core::sock::{Slab, SockKind};
use linerate_core::time::Instant;
use linerate_dev::drive::App;
use linerate_dev::poller::{Event, Poller};
use std::io;
use std::net::IpAddr;

/// Poller tokens and sockets' user numbers from here on, up to
/// [`DEVICE_TOKENS`](linerate_dev::drive::DEVICE_TOKENS), are the gateway's. Those below are for
/// whoever wraps it.
pub const GATEWAY_TOKENS: u64 = 1 << 56;

/// Whom an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    TcpListener = 1,
    Tcp,
    TcpForward,
    UdpSocket,
    Udp,
    DnsSocket,
    DnsQuery,
    Ping,
    Echo,
}

impl Kind {
    const ALL: [Kind; 9] = [
        Kind::TcpListener,
        Kind::Tcp,
        Kind::TcpForward,
        Kind::UdpSocket,
        Kind::Udp,
        Kind::DnsSocket,
        Kind::DnsQuery,
        Kind::Ping,
        Kind::Echo,
    ];
}

/// Names the gateway's object behind a descriptor or a socket: 8 bits of kind, 24 of generation,
/// 32 of index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub u64);

const GENERATION: u32 = (1 << 24) - 1;

impl Token {
    pub fn new(kind: Kind, index: u32, generation: u32) -> Token {
        let generation = u64::from(generation & GENERATION);
        Token((kind as u64) << 56 | generation << 32 | u64::from(index))
    }
    pub fn kind(self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|&kind| kind as u64 == self.0 >> 56)
    }
    pub fn index(self) -> u32 {
        self.0 as u32
    }
    /// The entry this names, if it is still there.
    pub fn find<T>(self, slab: &mut Slab<T>) -> Option<&mut T> {
        let generation = slab.generation(self.index()) & GENERATION;
        let same = u64::from(generation) == self.0 >> 32 & u64::from(GENERATION);
        if same { slab.at_mut(self.index()) } else { None }
    }
}

/// What the relays work with.
pub(crate) struct Cx<'a> {
    pub shard: &'a mut Shard,
    pub poller: &'a Poller,
    pub config: &'a Config,
    pub policy: &'a mut Policy,
    pub counts: &'a mut Counts,
}

/// Connects the stack to the host's sockets.
pub struct Gateway {
    config: Config,
    policy: Policy,
    counts: Counts,
    tcp: Relay,
    udp: Endpoints,
    dns: Forwarder,
    echo: Echo,
    forwards: Forwards,
}

impl Gateway {
    /// Makes the gateway: gives device `dev` of `shard`, the program's link, its addresses and
    /// routes, opens its sockets there, and listens on the host for each forward, and for nothing
    /// else. Raises this process's limit of descriptors to what is permitted. The device must have
    /// been prepared by [`Gateway::setup_iface`].
    ///
    /// # Errors
    /// The kernel's routes can not be read, a forward's port is in use (`EADDRINUSE`) or not
    /// permitted (`EACCES`), or the stack's ports are taken. The error says which.
    pub fn new(config: Config, shard: &mut Shard, dev: u8, poller: &Poller) -> io::Result<Gateway> {
        add_addrs(&config, shard, dev).map_err(io::Error::other)?;
        let routes = KernelRoutes::open().map_err(|err| {
            let why = "cannot open a netlink socket, which tells the host's own addresses";
            io::Error::new(err.kind(), format!("{why}: {err}"))
        })?;
        let mut policy = Policy::new(&config, routes);
        let mut counts = Counts::default();
        let nofile = host::raise_nofile();
        let limits = config.limits;
        let tcp = Relay::new(shard, &limits, nofile)?;
        let mut udp = Endpoints::new(shard, &limits, nofile)?;
        let mut dns = Forwarder::new(&config, shard)?;
        let echo = Echo::new(shard, &limits);
        dns.reload(shard.net.now);
        let mut cx =
            Cx { shard, poller, config: &config, policy: &mut policy, counts: &mut counts };
        let forwards = Forwards::open(&mut cx, &mut udp)?;
        Ok(Gateway { config, policy, counts, tcp, udp, dns, echo, forwards })
    }

    /// Prepares the device of the program's link, before its first packet: whatever address it is
    /// for, the stack answers.
    pub fn setup_iface(config: &Config, iface: &mut Iface) {
        iface.any_ip = true;
        iface.proxy_arp = true;
        iface.mtu = config.mtu;
    }

    /// What the gateway was told.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// The gateway's own counters.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The open TCP connections, and the largest of those that ended, largest first.
    #[must_use]
    pub fn flows(&self, shard: &Shard) -> Vec<FlowRow> {
        self.tcp.rows(shard)
    }

    /// How many TCP connections there are, in any phase.
    #[must_use]
    pub fn tcp_flows(&self) -> usize {
        self.tcp.len()
    }

    /// How many UDP endpoints of the program have a host socket.
    #[must_use]
    pub fn udp_endpoints(&self) -> usize {
        self.udp.len()
    }

    /// One sentence for each thing that the host does not permit and that the program met, each
    /// once.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.echo.take_notes()
    }
}

/// Addresses of gateway and name server, and the way to the program for whatever it calls itself.
fn add_addrs(config: &Config, shard: &mut Shard, dev: u8) -> Result<(), RouteError> {
    for (addr, prefix_len) in config.iface_addrs() {
        shard.add_addr(dev, addr, prefix_len)?;
    }
    let v4 = IpAddr::V4(config.v4.program);
    shard.add_route(Route::via(IpAddr::from([0u8; 4]), 0, v4, dev))?;
    if let Some(v6) = config.v6 {
        shard.add_route(Route::via(IpAddr::from([0u8; 16]), 0, IpAddr::V6(v6.program), dev))?;
    }
    Ok(())
}

impl App for Gateway {
    fn turn(&mut self, shard: &mut Shard, poller: &Poller, ready: &[Event]) -> io::Result<bool> {
        let Gateway { config, policy, counts, tcp, udp, dns, echo, forwards } = self;
        let mut cx = Cx { shard, poller, config, policy, counts };
        for event in ready {
            let token = Token(event.token);
            match token.kind() {
                Some(Kind::Tcp) => tcp.handle_host(&mut cx, dns, token, event),
                Some(Kind::Udp) => udp.handle_host(&mut cx, token, event),
                Some(Kind::DnsQuery) => dns.handle_host(&mut cx, token),
                Some(Kind::Echo | Kind::Ping) => echo.handle_host(&mut cx, token, event),
                Some(Kind::TcpForward) => forwards.handle_host(&mut cx, tcp, token),
                _ => {}
            }
        }
        while let Some(event) = cx.shard.poll_event() {
            let token = Token(event.user);
            match (event.id.kind, token.kind()) {
                (SockKind::Tcp, Some(Kind::Tcp)) => tcp.handle_stack(&mut cx, token, event.id),
                (SockKind::Udp, Some(Kind::DnsSocket)) => dns.handle_stack(&mut cx),
                (SockKind::Udp, _) => udp.handle_stack(&mut cx),
                (SockKind::Icmp, _) => echo.handle_stack(),
                (SockKind::Listen, _) => tcp.handle_listener(&mut cx),
                // A connection that nobody has accepted yet.
                _ => {
                    cx.shard.take_ready(event.id);
                }
            }
        }
        let mut more = tcp.turn(&mut cx, dns);
        more |= udp.turn(&mut cx);
        more |= dns.turn(&mut cx);
        more |= echo.turn(&mut cx);
        Ok(more)
    }

    fn next_timer(&self) -> Option<Instant> {
        let all = [
            self.tcp.next_timer(),
            self.udp.next_timer(),
            self.dns.next_timer(),
            self.echo.next_timer(),
        ];
        all.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_one_entry_of_one_kind() {
        let mut slab = Slab::default();
        let (index, generation) = slab.insert('a');
        let token = Token::new(Kind::Udp, index, generation);
        assert!(token.0 >= GATEWAY_TOKENS && token.0 < linerate_dev::drive::DEVICE_TOKENS);
        assert_eq!(token.kind(), Some(Kind::Udp));
        assert_eq!(token.find(&mut slab), Some(&mut 'a'));
        slab.remove(index);
        slab.insert('b');
        assert_eq!(token.find(&mut slab), None);
        assert_eq!(Token(7).kind(), None);
        for kind in Kind::ALL {
            assert_eq!(Token::new(kind, u32::MAX, u32::MAX).kind(), Some(kind));
        }
    }
}
