//! The options of `up`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use linerate_core::tx::qdisc::Tree;

use crate::args::{Cidr, Report, Setting, instance_name, qdisc_tree};

/// Serve from a stack of linerate's own on a network interface: addresses, services, many queues.
///
/// Answers ARP, neighbour discovery and ICMP echo at its addresses, and runs the services asked for,
/// until SIGINT or SIGTERM. With --config everything is read from a file, and SIGHUP reads it again:
/// addresses, routes, knobs and services change without losing a connection.
#[derive(Debug, Args)]
#[command(after_help = "\
Services (--serve KIND[@[ADDR:]PORT][=WHAT]), over IPv4 and IPv6:
  echo      port 7, TCP and UDP: sends back what comes (RFC 862)
  discard   port 9, TCP and UDP: throws away what comes (RFC 863)
  chargen   port 19, TCP and UDP: sends characters for ever (RFC 864); over UDP never more than asked
  http=DIR  port 80, TCP: the files in DIR; nothing outside of it, no names that begin with a dot
  iperf3    port 5201, TCP and UDP: what `iperf3 -c` measures against, one client at a time
  dns=FILE  port 53, TCP and UDP: lines NAME ADDRESS..., of both families; answers with authority
ADDR limits a service to one address; IPv6 in brackets. --ports gives the ports of all services, in
the order of the --serve options.

Backends, as --backend auto tries them (docs/backends):
  af_xdp     rings shared with the driver: fastest; needs root, or CAP_NET_RAW,
             CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN
  af_packet  rings of a packet socket; needs CAP_NET_RAW
  tap, tun   an interface that is made if it does not exist; needs CAP_NET_ADMIN and /dev/net/tun

Examples:
  linerate up --dev veth0 --addr 10.9.0.2/24 --addr fd09::2/64 --serve echo --serve http=/srv/www
  linerate up --dev veth0 --backend af_packet --queues 2 --cpus 0,1 --addr 10.9.0.2/24 \\
      --serve http@8080=. --serve dns=hosts.txt --set net.core.busy_poll=50
  linerate up --config /etc/linerate/up.toml --check

Exit status: 0 after SIGINT or SIGTERM; 1 if it could not start or a worker failed; 2 for wrong usage
or a wrong configuration, in which case nothing was started.")]
pub struct UpArgs {
    /// The interface
    #[arg(long, value_name = "NAME", required_unless_present = "config")]
    pub dev: Option<String>,
    /// How frames reach linerate; `auto` takes the best that works and says what was lost on the way
    #[arg(long, value_enum, default_value_t = DevBackend::Auto)]
    pub backend: DevBackend,
    /// An address of ours, with the length of its network's prefix; repeatable
    #[arg(long, value_name = "ADDR/LEN", conflicts_with = "config")]
    pub addr: Vec<HostAddr>,
    /// The router behind which everything else lies; one for each family
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    pub gateway: Vec<IpAddr>,
    /// The largest IP packet of a tap or tun, in bytes [default: as it is]
    #[arg(long, value_name = "BYTES", conflicts_with = "config", value_parser = clap::value_parser!(u32).range(68..=65520))]
    pub mtu: Option<u32>,
    /// Queues of the interface, each with a worker and a stack of its own [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "config", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: Option<u16>,
    /// The processors that the workers are bound to, in order [default: for several queues, those
    /// nearest to the interface]
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "config")]
    pub cpus: Vec<usize>,
    /// A service, see below; repeatable
    #[arg(long, value_name = "SERVICE", conflicts_with = "config")]
    pub serve: Vec<Serve>,
    /// The ports of the services, in the order of --serve
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "config", value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,
    /// What `show`, `get` and `set` call this instance [default: up and the process number]
    #[arg(long, value_name = "NAME", value_parser = instance_name)]
    pub name: Option<String>,
    /// The queueing discipline of what is sent, in tc's words ('fq_codel', 'netem delay 40ms loss 1%');
    /// each queue has its own
    #[arg(long, value_name = "SPEC", value_parser = qdisc_tree, conflicts_with = "config")]
    pub qdisc: Option<Tree>,
    /// The same for what is received, between the device and the path
    #[arg(long, value_name = "SPEC", value_parser = qdisc_tree, conflicts_with = "config")]
    pub qdisc_in: Option<Tree>,
    /// An eBPF program, as clang makes it, that sees each packet of the interface first
    #[arg(long, value_name = "FILE[:SECTION]", conflicts_with = "config")]
    pub xdp: Option<String>,
    /// Set a knob from the start; repeatable
    #[arg(long, value_name = "KNOB=VALUE", conflicts_with = "config")]
    pub set: Vec<Setting>,
    /// What to print on standard error at the end
    #[arg(long, value_enum, default_value_t = Report::Text, value_name = "FORMAT")]
    pub report: Report,
    /// Read everything from this file (docs/UP.md); SIGHUP reads it again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dev", "backend"])]
    pub config: Option<PathBuf>,
    /// Only say whether the options or the file are good
    #[arg(long)]
    pub check: bool,
}

/// How frames reach `up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DevBackend {
    /// af_xdp, else af_packet; a tap if the interface does not exist
    Auto,
    /// AF_XDP: rings shared with the driver
    #[value(name = "af_xdp", alias = "af-xdp")]
    AfXdp,
    /// AF_PACKET: rings of a packet socket
    #[value(name = "af_packet", alias = "af-packet")]
    AfPacket,
    /// A TAP device: Ethernet frames
    Tap,
    /// A TUN device: IP packets
    Tun,
}

impl DevBackend {
    /// As the option has it.
    pub fn name(self) -> &'static str {
        match self {
            DevBackend::Auto => "auto",
            DevBackend::AfXdp => "af_xdp",
            DevBackend::AfPacket => "af_packet",
            DevBackend::Tap => "tap",
            DevBackend::Tun => "tun",
        }
    }
}

/// An address of a host with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddr {
    /// The address.
    pub addr: IpAddr,
    /// Bits of the prefix.
    pub len: u8,
}

impl FromStr for HostAddr {
    type Err = String;
    fn from_str(s: &str) -> Result<HostAddr, String> {
        let net: Cidr = s.parse()?;
        let addr = s.split('/').next().unwrap_or_default().parse();
        let addr: IpAddr = addr.map_err(|_| format!("{s:?} is not an address"))?;
        if addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() {
            return Err(format!("{s:?} can not be the address of an interface"));
        }
        Ok(HostAddr { addr, len: net.len })
    }
}

impl fmt::Display for HostAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// A service as `--serve` has it; whether its directory or file is good is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// `echo`, `discard`, `chargen`, `http`, `dns`, `iperf3`.
    pub kind: ServeKind,
    /// The only address, if one was given.
    pub addr: Option<IpAddr>,
    /// The port, if one was given.
    pub port: Option<u16>,
    /// The directory or file.
    pub what: Option<PathBuf>,
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeKind {
    /// RFC 862.
    Echo,
    /// RFC 863.
    Discard,
    /// RFC 864.
    Chargen,
    /// RFC 9112, files.
    Http,
    /// RFC 1035, authoritative.
    Dns,
    /// The protocol of `iperf3`.
    Iperf3,
}

impl ServeKind {
    /// All, by name, with their well-known ports.
    pub const ALL: [(&str, ServeKind, u16); 6] = [
        ("echo", ServeKind::Echo, 7),
        ("discard", ServeKind::Discard, 9),
        ("chargen", ServeKind::Chargen, 19),
        ("http", ServeKind::Http, 80),
        ("dns", ServeKind::Dns, 53),
        ("iperf3", ServeKind::Iperf3, 5201),
    ];
    /// Its name.
    pub fn name(self) -> &'static str {
        ServeKind::ALL.iter().find(|k| k.1 == self).map_or("", |k| k.0)
    }
    /// Its well-known port.
    pub fn port(self) -> u16 {
        ServeKind::ALL.iter().find(|k| k.1 == self).map_or(0, |k| k.2)
    }
    /// What has to be given with it, for people.
    pub fn needs(self) -> Option<&'static str> {
        match self {
            ServeKind::Http => Some("DIR"),
            ServeKind::Dns => Some("FILE"),
            _ => None,
        }
    }
}

impl FromStr for ServeKind {
    type Err = String;
    fn from_str(s: &str) -> Result<ServeKind, String> {
        let found = ServeKind::ALL.iter().find(|k| k.0 == s);
        found.map(|k| k.1).ok_or_else(|| {
            format!("{s:?} is no service: there are echo, discard, chargen, http, dns and iperf3")
        })
    }
}

impl FromStr for Serve {
    type Err = String;
    fn from_str(s: &str) -> Result<Serve, String> {
        let (head, what) = match s.split_once('=') {
            Some((head, what)) => (head, Some(what)),
            None => (s, None),
        };
        let (kind, place) = match head.split_once('@') {
            Some((kind, place)) => (kind, Some(place)),
            None => (head, None),
        };
        let kind: ServeKind = kind.parse()?;
        match (kind.needs(), what) {
            (Some(needs), None | Some("")) => {
                return Err(format!("{} needs {needs}: --serve {0}={needs}", kind.name()));
            }
            (None, Some(_)) => return Err(format!("{} takes nothing behind '='", kind.name())),
            _ => {}
        }
        let (addr, port) = match place {
            None => (None, None),
            Some(place) => match place.parse::<SocketAddr>() {
                Ok(both) => (Some(both.ip()), Some(port_number(&both.port().to_string())?)),
                Err(_) => (None, Some(port_number(place)?)),
            },
        };
        Ok(Serve { kind, addr, port, what: what.map(PathBuf::from) })
    }
}

fn port_number(s: &str) -> Result<u16, String> {
    let port = s.parse().ok().filter(|p| *p != 0);
    port.ok_or_else(|| format!("{s:?} is no port: 1 to 65535, or ADDR:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_read_in_every_form() {
        let ok = |s: &str| s.parse::<Serve>().expect(s);
        let all = ok("http@[fd09::2]:8080=/srv/a=b");
        assert_eq!((all.kind, all.port), (ServeKind::Http, Some(8080)));
        assert_eq!(all.addr, Some("fd09::2".parse().expect("an address")));
        assert_eq!(all.what, Some(PathBuf::from("/srv/a=b")));
        assert_eq!((ok("echo").port, ok("echo@7007").port), (None, Some(7007)));
        for bad in ["", "gopher", "echo=x", "http", "http=", "echo@", "echo@0", "echo@::1", "dns"] {
            assert!(bad.parse::<Serve>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_keeps_its_host_bits_and_is_one_of_a_host() {
        let ok = |s: &str| s.parse::<HostAddr>().expect(s).to_string();
        assert_eq!(ok("10.9.0.2/24"), "10.9.0.2/24");
        assert_eq!((ok("10.9.0.2"), ok("fd09::2/64")), ("10.9.0.2/32".into(), "fd09::2/64".into()));
        for bad in ["0.0.0.0/0", "224.0.0.1/4", "127.0.0.1/8", "::1", "ff02::1/16", "10.9.0.2/33"] {
            assert!(bad.parse::<HostAddr>().is_err(), "{bad}");
        }
    }
}
