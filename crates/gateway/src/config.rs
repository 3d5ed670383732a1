//! What a gateway is told when it is made: addresses, policy, limits, forwards.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// One address family of the program's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family<A> {
    /// The program's address.
    pub program: A,
    /// The gateway's own address: the next hop of the program's default route.
    pub gateway: A,
    /// Where the program finds a name server.
    pub dns: A,
    /// Length of the link's prefix, in bits.
    pub prefix: u8,
}

impl Family<Ipv4Addr> {
    /// 10.0.2.0/24 as slirp4netns lays it out: program .100, gateway .2, name server .3.
    pub const DEFAULT: Family<Ipv4Addr> = Family {
        program: Ipv4Addr::new(10, 0, 2, 100),
        gateway: Ipv4Addr::new(10, 0, 2, 2),
        dns: Ipv4Addr::new(10, 0, 2, 3),
        prefix: 24,
    };
}

impl Family<Ipv6Addr> {
    /// fd00::/64: program ::100, gateway ::2, name server ::3.
    pub const DEFAULT: Family<Ipv6Addr> = Family {
        program: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100),
        gateway: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        dns: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3),
        prefix: 64,
    };
}

/// Which packets from outside reach a UDP endpoint of the program (RFC 4787 section 5). The
/// mapping is endpoint-independent in every case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// From anybody.
    EndpointIndependent,
    /// From addresses that the endpoint has sent to.
    #[default]
    AddressDependent,
    /// From addresses and ports that the endpoint has sent to.
    AddressAndPortDependent,
}

/// What is bounded, and by how much. Reaching a limit is counted, see [`crate::count::Counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections relayed at once; the process's descriptors bound them as well.
    pub flows: usize,
    /// SYNs that wait for an answer from outside, all together.
    pub pending: usize,
    /// SYNs that wait for an answer from one destination.
    pub pending_per_destination: u32,
    /// UDP endpoints of the program; beyond, the one that was silent longest goes.
    pub udp_endpoints: usize,
    /// Peers that one UDP endpoint's filter remembers.
    pub udp_peers: usize,
    /// Echo identifiers of the program that are relayed at once.
    pub echoes: usize,
    /// DNS queries that wait for an answer.
    pub queries: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            flows: 65_536,
            pending: 4096,
            pending_per_destination: 512,
            udp_endpoints: 4096,
            udp_peers: 1024,
            echoes: 256,
            queries: 512,
        }
    }
}

/// Which transport a forward is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to the program (`-p [ADDRESS:]PORT:PORT[/udp]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub listen: SocketAddr,
    /// The program's port.
    pub port: u16,
    /// TCP or UDP.
    pub transport: Transport,
}

/// Why a forward could not be read: a sentence that says what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardError(String);

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no port forward: write [ADDRESS:]HOSTPORT:PORT[/udp]", self.0)?;
        f.write_str(", for example 127.0.0.1:8080:80 or [::1]:5353:53/udp")
    }
}

impl std::error::Error for ForwardError {}

impl FromStr for Forward {
    type Err = ForwardError;

    /// Reads `[ADDRESS:]HOSTPORT:PORT[/tcp|/udp]`; an IPv6 address stands in brackets. Without an
    /// address the host listens on 127.0.0.1: whoever wants to be reached from elsewhere says so.
    fn from_str(text: &str) -> Result<Forward, ForwardError> {
        let fail = || ForwardError(text.to_owned());
        let (body, transport) = match text.rsplit_once('/') {
            Some((body, "udp")) => (body, Transport::Udp),
            Some((body, "tcp")) => (body, Transport::Tcp),
            Some(_) => return Err(fail()),
            None => (text, Transport::Tcp),
        };
        let (front, port) = body.rsplit_once(':').ok_or_else(fail)?;
        let (address, host_port) = match front.rsplit_once(':') {
            Some((address, host_port)) => (address, host_port),
            None => ("127.0.0.1", front),
        };
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        let address: IpAddr = match bare {
            Some(v6) => IpAddr::V6(v6.parse().map_err(|_| fail())?),
            None => IpAddr::V4(address.parse().map_err(|_| fail())?),
        };
        let number = |text: &str| text.parse::<u16>().ok().filter(|&port| port != 0);
        let host_port = number(host_port).ok_or_else(fail)?;
        let port = number(port).ok_or_else(fail)?;
        Ok(Forward { listen: SocketAddr::new(address, host_port), port, transport })
    }
}

/// Everything a [`Gateway`](crate::gateway::Gateway) is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// IPv4 of the link.
    pub v4: Family<Ipv4Addr>,
    /// IPv6 of the link, if it has any.
    pub v6: Option<Family<Ipv6Addr>>,
    /// Largest IP packet of the link, in bytes.
    pub mtu: u32,
    /// Lets the program reach the host itself: the gateway's address leads to the host's loopback,
    /// and link-local and the host's own addresses are no longer denied.
    pub host_loopback: bool,
    /// Whom UDP endpoints hear.
    pub filtering: Filtering,
    /// Ports of the host that lead to the program.
    pub forwards: Vec<Forward>,
    /// Where the host's resolvers are listed.
    pub resolv_conf: std::path::PathBuf,
    /// Resolvers to ask instead of those that are listed there; empty = the listed ones.
    pub resolvers: Vec<SocketAddr>,
    /// What is bounded.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            v4: Family::<Ipv4Addr>::DEFAULT,
            v6: Some(Family::<Ipv6Addr>::DEFAULT),
            mtu: 1500,
            host_loopback: false,
            filtering: Filtering::default(),
            forwards: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            resolvers: Vec::new(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// The addresses that the stack's end of the link has, with prefix lengths: gateway and name
    /// server.
    #[must_use]
    pub fn iface_addrs(&self) -> Vec<(IpAddr, u8)> {
        let mut all = vec![
            (IpAddr::V4(self.v4.gateway), self.v4.prefix),
            (IpAddr::V4(self.v4.dns), self.v4.prefix),
        ];
        if let Some(v6) = &self.v6 {
            all.push((IpAddr::V6(v6.gateway), v6.prefix));
            all.push((IpAddr::V6(v6.dns), v6.prefix));
        }
        all
    }

    /// The gateway's own address in the family of `like`.
    pub(crate) fn gateway(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => Some(IpAddr::V4(self.v4.gateway)),
            IpAddr::V6(_) => self.v6.map(|v6| IpAddr::V6(v6.gateway)),
        }
    }

    /// The program's address in the family of `like`.
    pub(crate) fn program(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => Some(IpAddr::V4(self.v4.program)),
            IpAddr::V6(_) => self.v6.map(|v6| IpAddr::V6(v6.program)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_in_every_form() {
        let read = |text: &str| text.parse::<Forward>().unwrap();
        let want = |listen: &str, port, transport| Forward {
            listen: listen.parse().unwrap(),
            port,
            transport,
        };
        assert_eq!(read("8080:80"), want("127.0.0.1:8080", 80, Transport::Tcp));
        assert_eq!(read("0.0.0.0:8080:80/tcp"), want("0.0.0.0:8080", 80, Transport::Tcp));
        assert_eq!(read("[::1]:53:5353/udp"), want("[::1]:53", 5353, Transport::Udp));
        let bad = [
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:0",
            "65536:80",
            "80:80/sctp",
            "::1:80:80",
            "host:80:80",
            "[::1:80:80",
            "1.2.3:80:80",
            "80:80/",
            "-1:80",
        ];
        for text in bad {
            assert!(text.parse::<Forward>().is_err(), "{text:?}");
        }
    }
}
