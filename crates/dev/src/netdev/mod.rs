//! Configures interfaces: up and down, addresses, routes, neighbours, veth pairs.
//!
//! Everything goes through one rtnetlink socket, synchronously; this is set-up work, a few dozen
//! requests in a run. Linux: net/core/rtnetlink.c, net/ipv4/devinet.c, net/ipv6/addrconf.c,
//! net/ipv4/fib_frontend.c, net/core/neighbour.c, drivers/net/veth.c.

mod info;
mod local;
mod losses;
mod netlink;
pub mod tc;
mod watch;

pub use crate::sys::ethtool::Feature;
pub use info::Info;
pub use local::Exposure;
pub use losses::Losses;
pub use watch::{Event, Watch};

use netlink::{Netlink, Request, attr, attr_u32, text};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// An interface request that the kernel refused.
#[derive(Debug)]
pub struct NetdevError {
    /// What was tried: completes "cannot …".
    doing: String,
    /// The kernel's own sentence, where it gave one.
    kernel: Option<String>,
    /// The errno.
    source: io::Error,
}

impl NetdevError {
    /// The kernel's errno, always there for a request that reached it.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The errno as an [`io::ErrorKind`].
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for NetdevError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.doing, self.source)?;
        if let Some(kernel) = &self.kernel {
            write!(f, " ({kernel})")?;
        }
        if self.errno() == Some(libc::EPERM) {
            f.write_str("; this needs CAP_NET_ADMIN in the user namespace that owns the network")?;
        }
        Ok(())
    }
}

impl std::error::Error for NetdevError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<NetdevError> for io::Error {
    fn from(err: NetdevError) -> io::Error {
        io::Error::new(err.kind(), err)
    }
}

/// What the kernel says about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace, at least 1.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// The Ethernet address; none on a TUN.
    pub mac: Option<[u8; 6]>,
    /// Length of its transmit queue, packets.
    pub txqueuelen: u32,
    /// It is administratively up (`IFF_UP`).
    pub up: bool,
    /// It can carry packets now (`IFF_RUNNING`).
    pub running: bool,
}

/// What the kernel counted at an interface since it was made (`struct rtnl_link_stats64`); the
/// directions are the interface's own. [`Default`] is all 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats64 {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets that an error kept from being sent.
    pub tx_errors: u64,
    /// Packets received and dropped for want of room.
    pub rx_dropped: u64,
    /// Packets dropped instead of sent: on a TUN, those that met its full ring.
    pub tx_dropped: u64,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Out of an interface, through a gateway if there is one.
    Unicast,
    /// To this host: every address in it is ours (`ip route add local`).
    Local,
}

/// A route to add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Network, with its prefix length in bits. `0.0.0.0/0` and `::/0` are the default routes.
    pub to: (IpAddr, u8),
    /// Next hop, of the same family.
    pub via: Option<IpAddr>,
    /// Interface. May be left out if the next hop's network is known.
    pub dev: Option<u32>,
    /// Source address to prefer.
    pub src: Option<IpAddr>,
    /// Where it leads.
    pub kind: RouteKind,
}

impl Route {
    /// A unicast route to `addr/prefix_len`; complete it by struct update.
    #[must_use]
    pub fn to(addr: IpAddr, prefix_len: u8) -> Route {
        Route { to: (addr, prefix_len), via: None, dev: None, src: None, kind: RouteKind::Unicast }
    }
}

/// Where the second end of a veth pair is made.
#[derive(Clone, Copy, Debug)]
pub enum PeerNetns<'a> {
    /// In the same namespace.
    Same,
    /// In the namespace this descriptor (of `/proc/PID/ns/net`) stands for.
    Fd(BorrowedFd<'a>),
    /// In the namespace of this process.
    Pid(u32),
}

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;

const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;
const IFINFOMSG: usize = 16;

/// An rtnetlink socket: configures the namespace of the thread that opened it, also after that
/// thread has moved on.
#[derive(Debug)]
pub struct Netdev(Netlink);

impl Netdev {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Those of `socket`; `EPERM` or `EAFNOSUPPORT` under a seccomp filter that forbids netlink.
    pub fn open() -> Result<Netdev, NetdevError> {
        Netlink::open().map(Netdev).map_err(|source| NetdevError {
            doing: "open an rtnetlink socket".to_owned(),
            kernel: None,
            source,
        })
    }

    /// Takes over a socket that [`Netdev::open`] made, possibly in another process. It stays in
    /// the network namespace that it was opened in; reading needs no capability there.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Netdev {
        Netdev(Netlink::from_fd(fd))
    }

    /// What the kernel counted at an interface since it was made.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn link_stats(&mut self, index: u32) -> Result<Stats64, NetdevError> {
        let doing = || format!("read the counts of interface #{index}");
        let answer = self.0.run(Request::new(RTM_GETLINK, 0, &ifinfo(index, 0, 0)), doing)?;
        answer.and_then(|a| parse_stats(&a.body)).ok_or_else(|| NetdevError {
            doing: doing(),
            kernel: None,
            source: io::ErrorKind::InvalidData.into(),
        })
    }

    /// Looks an interface up by name.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetdevError> {
        let request = Request::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0)).attr_str(IFLA_IFNAME, name);
        self.get_link(request, name)
    }

    /// Looks an interface up by number.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, NetdevError> {
        self.get_link(Request::new(RTM_GETLINK, 0, &ifinfo(index, 0, 0)), &format!("#{index}"))
    }

    fn get_link(&mut self, request: Request, what: &str) -> Result<Link, NetdevError> {
        let doing = || format!("look up interface {what}");
        let answer = self.0.run(request, doing)?;
        answer.and_then(|a| parse_link(&a.body)).ok_or_else(|| NetdevError {
            doing: doing(),
            kernel: None,
            source: io::ErrorKind::InvalidData.into(),
        })
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// `EPERM`, `ENODEV`.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetdevError> {
        let bits = if up { libc::IFF_UP as u32 } else { 0 };
        let request = Request::new(RTM_NEWLINK, 0, &ifinfo(index, bits, libc::IFF_UP as u32));
        self.set(request, || format!("set interface #{index} {}", if up { "up" } else { "down" }))
    }

    /// Sets the largest IP packet, bytes.
    ///
    /// # Errors
    /// `EINVAL` outside the driver's range (68 to 65535 on a TUN), `EPERM`, `ENODEV`.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetdevError> {
        let request = Request::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).attr_u32(IFLA_MTU, mtu);
        self.set(request, || format!("set the MTU of interface #{index} to {mtu}"))
    }

    /// Sets the Ethernet address.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` for a multicast address, `EOPNOTSUPP` on a TUN, `EPERM`, `ENODEV`.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<(), NetdevError> {
        let request = Request::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).attr(IFLA_ADDRESS, &mac);
        self.set(request, || format!("set the link address of interface #{index}"))
    }

    /// Sets the length of the transmit queue, packets.
    ///
    /// # Errors
    /// `EPERM`, `ENODEV`.
    pub fn set_txqueuelen(&mut self, index: u32, pkts: u32) -> Result<(), NetdevError> {
        let request =
            Request::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).attr_u32(IFLA_TXQLEN, pkts);
        self.set(request, || format!("set txqueuelen of interface #{index} to {pkts}"))
    }

    /// Keeps the kernel from making an IPv6 link-local address when the interface comes up
    /// (`addrgenmode none`), and with it from router solicitations and duplicate detection.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` where the kernel has no IPv6, `EPERM`, `ENODEV`.
    pub fn set_addr_gen_none(&mut self, index: u32) -> Result<(), NetdevError> {
        let request =
            Request::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0)).nest(IFLA_AF_SPEC, &[], |r| {
                r.nest(u16::from(AF_INET6), &[], |r| {
                    r.attr(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
                })
            });
        self.set(request, || format!("set addrgenmode none on interface #{index}"))
    }

    /// Adds an address with its network's prefix length in bits. IPv6 addresses are usable at
    /// once (`nodad`).
    ///
    /// # Errors
    /// `EEXIST` if it is there already, `EINVAL` for a prefix that is too long, `EPERM`,
    /// `ENODEV`, `EACCES` where IPv6 is disabled.
    pub fn add_addr(
        &mut self,
        index: u32,
        addr: IpAddr,
        prefix_len: u8,
    ) -> Result<(), NetdevError> {
        let (family, bytes) = family(addr);
        let flags = if addr.is_ipv6() { IFA_F_NODAD } else { 0 };
        let mut fixed = [family, prefix_len, flags, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let request = Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &fixed)
            .attr(IFA_LOCAL, &bytes)
            .attr(IFA_ADDRESS, &bytes);
        self.set(request, || format!("add address {addr}/{prefix_len} to interface #{index}"))
    }

    /// Takes an address from an interface.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` if it is not there, `EPERM`, `ENODEV`.
    pub fn del_addr(
        &mut self,
        index: u32,
        addr: IpAddr,
        prefix_len: u8,
    ) -> Result<(), NetdevError> {
        let (family, bytes) = family(addr);
        let mut fixed = [family, prefix_len, 0, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let request = Request::new(RTM_DELADDR, 0, &fixed).attr(IFA_LOCAL, &bytes);
        self.set(request, || format!("take address {addr}/{prefix_len} from interface #{index}"))
    }

    /// Adds a route, or replaces the one to the same network.
    ///
    /// # Errors
    /// `ENETUNREACH` if the next hop is not on a known network, `ENODEV`, `ENETDOWN`, `EINVAL` for
    /// host bits in the network, `EPERM`.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetdevError> {
        let (addr, prefix_len) = route.to;
        let (family, bytes) = self::family(addr);
        let (table, kind, scope) = match route.kind {
            RouteKind::Local => (libc::RT_TABLE_LOCAL, libc::RTN_LOCAL, libc::RT_SCOPE_HOST),
            RouteKind::Unicast if route.via.is_none() && addr.is_ipv4() => {
                (libc::RT_TABLE_MAIN, libc::RTN_UNICAST, libc::RT_SCOPE_LINK)
            }
            RouteKind::Unicast => (libc::RT_TABLE_MAIN, libc::RTN_UNICAST, libc::RT_SCOPE_UNIVERSE),
        };
        let fixed = [family, prefix_len, 0, 0, table, libc::RTPROT_STATIC, scope, kind, 0, 0, 0, 0];
        let mut request = Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &fixed);
        if prefix_len > 0 {
            request = request.attr(libc::RTA_DST, &bytes);
        }
        if let Some(via) = route.via {
            request = request.attr(libc::RTA_GATEWAY, &self::family(via).1);
        }
        if let Some(src) = route.src {
            request = request.attr(libc::RTA_PREFSRC, &self::family(src).1);
        }
        if let Some(dev) = route.dev {
            request = request.attr_u32(libc::RTA_OIF, dev);
        }
        self.set(request, || format!("add the route to {addr}/{prefix_len}"))
    }

    /// Adds or replaces a permanent neighbour (ARP or ND) entry.
    ///
    /// # Errors
    /// `EINVAL` on an interface without link addresses, `ENODEV`, `EPERM`.
    pub fn add_neigh(&mut self, index: u32, addr: IpAddr, mac: [u8; 6]) -> Result<(), NetdevError> {
        let (family, bytes) = family(addr);
        let mut fixed = [0u8; 12];
        fixed[0] = family;
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
        let request = Request::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
            .attr(libc::NDA_DST, &bytes)
            .attr(libc::NDA_LLADDR, &mac);
        self.set(request, || format!("add neighbour {addr} on interface #{index}"))
    }

    /// Makes a veth pair; the second end may be born in another namespace.
    ///
    /// # Errors
    /// `EEXIST` if a name is taken, `EPERM` without rights in either namespace, `EOPNOTSUPP`
    /// where the kernel has no veth.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer_name: &str,
        peer_netns: PeerNetns<'_>,
    ) -> Result<(), NetdevError> {
        let peer = |r: Request| {
            let r = r.attr_str(IFLA_IFNAME, peer_name);
            match peer_netns {
                PeerNetns::Same => r,
                PeerNetns::Fd(fd) => r.attr(IFLA_NET_NS_FD, &fd.as_raw_fd().to_ne_bytes()),
                PeerNetns::Pid(pid) => r.attr_u32(IFLA_NET_NS_PID, pid),
            }
        };
        let request = Request::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0))
            .attr_str(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, &[], |r| {
                r.attr_str(IFLA_INFO_KIND, "veth")
                    .nest(IFLA_INFO_DATA, &[], |r| r.nest(VETH_INFO_PEER, &ifinfo(0, 0, 0), peer))
            });
        self.set(request, || format!("make the veth pair {name}, {peer_name}"))
    }

    /// Moves an interface into the namespace that `netns` (of `/proc/PID/ns/net`) stands for.
    ///
    /// # Errors
    /// `EINVAL` if it may not move, `EEXIST` if its name is taken there, `EPERM`, `ENODEV`.
    pub fn set_netns(&mut self, index: u32, netns: impl AsFd) -> Result<(), NetdevError> {
        let request = Request::new(RTM_NEWLINK, 0, &ifinfo(index, 0, 0))
            .attr(IFLA_NET_NS_FD, &netns.as_fd().as_raw_fd().to_ne_bytes());
        self.set(request, || format!("move interface #{index} to another namespace"))
    }

    /// Deletes an interface; of a veth pair, both ends.
    ///
    /// # Errors
    /// `ENODEV`, `EPERM`, `EOPNOTSUPP` for a physical one.
    pub fn del_link(&mut self, index: u32) -> Result<(), NetdevError> {
        let request = Request::new(RTM_DELLINK, 0, &ifinfo(index, 0, 0));
        self.set(request, || format!("delete interface #{index}"))
    }

    fn set(&mut self, request: Request, doing: impl FnOnce() -> String) -> Result<(), NetdevError> {
        self.0.run(request, doing).map(drop)
    }
}

impl AsFd for Netdev {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

/// Switches an `ethtool -K` feature of an interface in the calling thread's namespace.
///
/// # Errors
/// `ENODEV`, `EOPNOTSUPP` where the driver has no such feature, `EPERM`.
pub fn set_feature(name: &str, feature: Feature, on: bool) -> io::Result<()> {
    crate::sys::ethtool::set(name, feature, on)
}

/// Whether an `ethtool -k` feature is on.
///
/// # Errors
/// `ENODEV`, `EOPNOTSUPP` where the driver has no such feature.
pub fn feature(name: &str, feature: Feature) -> io::Result<bool> {
    crate::sys::ethtool::get(name, feature)
}

/// Has a socket of the kernel's look into its device's queue for so many microseconds before it
/// sleeps (`SO_BUSY_POLL`). Nothing comes of it where the device has no NAPI.
///
/// # Errors
/// `EPERM` to raise it without `CAP_NET_ADMIN`.
pub fn set_busy_poll(socket: impl AsFd, usecs: u32) -> io::Result<()> {
    crate::sys::xsk::set_busy_read(socket, usecs)
}

/// `struct ifinfomsg`.
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG] {
    let mut out = [0; IFINFOMSG];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..].copy_from_slice(&change.to_ne_bytes());
    out
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let fixed = body.first_chunk::<IFINFOMSG>()?;
    let attrs = body.get(IFINFOMSG..)?;
    let flags = u32::from_ne_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
    Some(Link {
        index: u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        name: text(attr(attrs, IFLA_IFNAME)?),
        mtu: attr_u32(attrs, IFLA_MTU)?,
        mac: attr(attrs, IFLA_ADDRESS).and_then(|a| a.try_into().ok()),
        txqueuelen: attr_u32(attrs, IFLA_TXQLEN).unwrap_or(0),
        up: flags & libc::IFF_UP as u32 != 0,
        running: flags & libc::IFF_RUNNING as u32 != 0,
    })
}

fn parse_stats(body: &[u8]) -> Option<Stats64> {
    let stats = attr(body.get(IFINFOMSG..)?, IFLA_STATS64)?;
    let (words, _) = stats.as_chunks::<8>();
    let word = |at: usize| words.get(at).copied().map(u64::from_ne_bytes);
    Some(Stats64 {
        rx_packets: word(0)?,
        tx_packets: word(1)?,
        rx_bytes: word(2)?,
        tx_bytes: word(3)?,
        rx_errors: word(4)?,
        tx_errors: word(5)?,
        rx_dropped: word(6)?,
        tx_dropped: word(7)?,
    })
}

fn family(addr: IpAddr) -> (u8, Vec<u8>) {
    match addr {
        IpAddr::V4(a) => (AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (AF_INET6, a.octets().to_vec()),
    }
}
