//! Where the program may go. An address is judged after it is mapped and reduced to what the host's
//! kernel would really talk to; every address that is embedded in it is judged as well.
//!
//! Whether an address is the host's own is asked of the kernel itself (`RTM_GETROUTE`), for each
//! new destination: its answer covers addresses that came a moment ago, any-IP routes, broadcast
//! addresses and policy routing, and needs no cache that could be out of date.
//! RFCs: 4291 §2.5, 6052, 8215, 3056, 4380, 5214.

use crate::config::{Config, Family};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

macro_rules! denied {
    ($( $(#[doc = $doc:literal])+ $name:ident = $label:literal, )+) => {
        /// Why a destination is denied.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Denied { $( $(#[doc = $doc])+ $name, )+ }
        impl Denied {
            /// All of them, in order.
            pub const ALL: &'static [Denied] = &[$( Denied::$name ),+];
            /// The name that users see.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $( Denied::$name => $label ),+ }
            }
        }
    };
}

denied! {
    /// Unspecified, or in 0.0.0.0/8: the kernel would take it for the host itself.
    Unspecified = "unspecified address",
    /// The host's loopback.
    Loopback = "loopback",
    /// Link-local.
    LinkLocal = "link-local",
    /// A metadata service of a cloud, which hands out the host's credentials.
    Metadata = "metadata service",
    /// Multicast.
    Multicast = "multicast",
    /// Broadcast.
    Broadcast = "broadcast",
    /// One of the host's own addresses: what listens on all of them answers there.
    HostAddress = "the host's own address",
    /// The gateway or its name server, on a port where neither answers.
    Gateway = "the gateway's own address",
    /// On the program's link, where nobody else is.
    NoNeighbour = "nobody on the link",
    /// Port 0, or a family that the link does not have.
    Invalid = "impossible destination",
    /// The kernel could not be asked, so the answer is no.
    Unknown = "the kernel's routes cannot be read",
}

/// What becomes of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Dial this.
    Dial(SocketAddr),
    /// The name server of the link.
    Dns,
    /// No.
    Deny(Denied),
}

/// What the kernel says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host's own, or an anycast address that it answers for.
    Local,
    /// A broadcast address of a link.
    Broadcast,
    /// A group.
    Multicast,
    /// Somewhere else, or nowhere: sending will tell.
    Other,
}

/// Answers what kind of address one is.
pub trait Routes {
    /// Asks.
    ///
    /// # Errors
    /// The kernel can not be asked.
    fn kind(&mut self, addr: IpAddr) -> io::Result<Kind>;
}

/// The kernel's routing tables, as seen by this process.
#[derive(Debug)]
pub struct KernelRoutes {
    socket: OwnedFd,
    seq: u32,
}

/// Protocol 0, which rustix writes as none.
const NETLINK_ROUTE: Option<rustix::net::Protocol> = None;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BROADCAST: u8 = 3;
const RTN_ANYCAST: u8 = 4;
const RTN_MULTICAST: u8 = 5;
const NLMSG_HDRLEN: usize = 16;
const RTMSG_TYPE: usize = NLMSG_HDRLEN + 7;

impl KernelRoutes {
    /// Opens a netlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// Those of `socket`; `EPERM` or `EAFNOSUPPORT` under a seccomp filter that forbids netlink.
    pub fn open() -> io::Result<KernelRoutes> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, NETLINK_ROUTE)?;
        Ok(KernelRoutes { socket, seq: 0 })
    }

    /// Whether the kernel has any way towards `addr`.
    ///
    /// # Errors
    /// The kernel can not be asked.
    pub fn reachable(&mut self, addr: IpAddr) -> io::Result<bool> {
        Ok(self.ask(addr)?.is_some())
    }

    /// The `rtm_type` of the route to `addr`; `None` if there is no route.
    fn ask(&mut self, addr: IpAddr) -> io::Result<Option<u8>> {
        let (family, bytes): (u8, &[u8]) = match &addr {
            IpAddr::V4(a) => (AddressFamily::INET.as_raw() as u8, &a.octets()),
            IpAddr::V6(a) => (AddressFamily::INET6.as_raw() as u8, &a.octets()),
        };
        self.seq = self.seq.wrapping_add(1);
        let len = NLMSG_HDRLEN + 12 + 4 + bytes.len();
        let mut request = Vec::with_capacity(len);
        request.extend((len as u32).to_ne_bytes());
        request.extend(RTM_GETROUTE.to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        request.extend(self.seq.to_ne_bytes());
        request.extend([0; 4]);
        request.extend([family, bytes.len() as u8 * 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        request.extend((4 + bytes.len() as u16).to_ne_bytes());
        request.extend(RTA_DST.to_ne_bytes());
        request.extend(bytes);
        send(&self.socket, &request, SendFlags::empty())?;
        let mut answer = [0u8; 4096];
        // The kernel answers before `send` returns; what is left of an older question is skipped.
        loop {
            let (_, n) = recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
            let answer = answer.get(..n).unwrap_or_default();
            let word = |at: usize| answer.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
            let seq = answer.get(8..12).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
            if seq != Some(self.seq) {
                continue;
            }
            return match word(4) {
                Some(RTM_NEWROUTE) => Ok(answer.get(RTMSG_TYPE).copied()),
                Some(NLMSG_ERROR) => refusal(answer),
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
        }
    }
}

/// What an error answer says: that no route leads there, or that the kernel could not say, as when
/// it lacks memory. Who cannot say is not taken for a yes.
fn refusal(answer: &[u8]) -> io::Result<Option<u8>> {
    let word = answer.get(NLMSG_HDRLEN..NLMSG_HDRLEN + 4).and_then(|b| b.try_into().ok());
    let err = io::Error::from_raw_os_error(word.map_or(0, i32::from_ne_bytes).wrapping_neg());
    let no_route = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL];
    match err.raw_os_error() {
        Some(raw) if no_route.iter().any(|e| e.raw_os_error() == raw) => Ok(None),
        _ => Err(err),
    }
}

impl Routes for KernelRoutes {
    fn kind(&mut self, addr: IpAddr) -> io::Result<Kind> {
        Ok(match self.ask(addr)? {
            Some(RTN_LOCAL | RTN_ANYCAST) => Kind::Local,
            Some(RTN_BROADCAST) => Kind::Broadcast,
            Some(RTN_MULTICAST) => Kind::Multicast,
            _ => Kind::Other,
        })
    }
}

/// Judges destinations.
#[derive(Debug)]
pub struct Policy<R = KernelRoutes> {
    v4: Family<Ipv4Addr>,
    v6: Option<Family<Ipv6Addr>>,
    host_loopback: bool,
    routes: R,
}

/// Single addresses that serve a cloud's metadata and nothing else a program may want.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

impl<R: Routes> Policy<R> {
    /// A policy for the link that `config` describes.
    pub fn new(config: &Config, routes: R) -> Policy<R> {
        Policy { v4: config.v4, v6: config.v6, host_loopback: config.host_loopback, routes }
    }

    /// Where a packet of the program to `dst` may lead; `dns_port` says that the name server
    /// answers on the port.
    pub fn judge(&mut self, dst: SocketAddr) -> Judgement {
        if dst.port() == 0 {
            return Judgement::Deny(Denied::Invalid);
        }
        match self.judge_addr(dst.ip()) {
            Mapped::To(addr) => Judgement::Dial(SocketAddr::new(addr, dst.port())),
            Mapped::Dns if dst.port() == 53 => Judgement::Dns,
            Mapped::Dns => Judgement::Deny(Denied::Gateway),
            Mapped::Denied(why) => Judgement::Deny(why),
        }
    }

    /// The same for what has no ports: ICMP echo. The gateway's own addresses are denied here,
    /// because the stack answers for them by itself.
    ///
    /// # Errors
    /// Why it is denied.
    pub fn judge_echo(&mut self, dst: IpAddr) -> Result<IpAddr, Denied> {
        match self.judge_addr(dst) {
            Mapped::To(addr) => Ok(addr),
            Mapped::Dns => Err(Denied::Gateway),
            Mapped::Denied(why) => Err(why),
        }
    }

    fn judge_addr(&mut self, dst: IpAddr) -> Mapped {
        // On the wire these are IPv4 (RFC 4291 section 2.5.5.2), so they are judged as IPv4.
        let dst = dst.to_canonical();
        if let Some(mapped) = self.on_link(dst) {
            return mapped;
        }
        let mut embedded = [Ipv4Addr::BROADCAST; 4];
        let n = match dst {
            IpAddr::V4(_) => 0,
            IpAddr::V6(addr) => embedded_v4(addr, &mut embedded),
        };
        let inner = embedded.get(..n).unwrap_or_default().iter().map(|&a| IpAddr::V4(a));
        for addr in std::iter::once(dst).chain(inner) {
            if let Err(why) = self.permitted(addr) {
                return Mapped::Denied(why);
            }
        }
        Mapped::To(dst)
    }

    /// Addresses of the link itself.
    fn on_link(&self, dst: IpAddr) -> Option<Mapped> {
        let (gateway, dns, inside, loopback) = match dst {
            IpAddr::V4(a) => {
                let net = u32::MAX.checked_shl(32 - u32::from(self.v4.prefix)).unwrap_or(0);
                let inside = (a.to_bits() ^ self.v4.gateway.to_bits()) & net == 0;
                let (gateway, dns) = (a == self.v4.gateway, a == self.v4.dns);
                (gateway, dns, inside, IpAddr::V4(Ipv4Addr::LOCALHOST))
            }
            IpAddr::V6(a) => {
                let Some(v6) = self.v6 else { return Some(Mapped::Denied(Denied::Invalid)) };
                let net = u128::MAX.checked_shl(128 - u32::from(v6.prefix)).unwrap_or(0);
                let inside = (a.to_bits() ^ v6.gateway.to_bits()) & net == 0;
                let (gateway, dns) = (a == v6.gateway, a == v6.dns);
                (gateway, dns, inside, IpAddr::V6(Ipv6Addr::LOCALHOST))
            }
        };
        match (gateway, dns, inside) {
            (true, ..) if self.host_loopback => Some(Mapped::To(loopback)),
            (true, ..) => Some(Mapped::Denied(Denied::Gateway)),
            (_, true, _) => Some(Mapped::Dns),
            (_, _, true) => Some(Mapped::Denied(Denied::NoNeighbour)),
            _ => None,
        }
    }

    fn permitted(&mut self, addr: IpAddr) -> Result<(), Denied> {
        let open = self.host_loopback;
        match category(addr) {
            Some(why @ (Denied::Unspecified | Denied::Multicast | Denied::Broadcast)) => {
                return Err(why);
            }
            Some(why) if !open => return Err(why),
            _ => {}
        }
        match self.routes.kind(addr) {
            Ok(Kind::Local) if !open => Err(Denied::HostAddress),
            Ok(Kind::Broadcast) => Err(Denied::Broadcast),
            Ok(Kind::Multicast) => Err(Denied::Multicast),
            Ok(_) => Ok(()),
            Err(_) => Err(Denied::Unknown),
        }
    }
}

enum Mapped {
    To(IpAddr),
    Dns,
    Denied(Denied),
}

/// What an address is by itself, whatever the routes say.
fn category(addr: IpAddr) -> Option<Denied> {
    if METADATA.contains(&addr) {
        return Some(Denied::Metadata);
    }
    match addr {
        IpAddr::V4(a) => match a.octets() {
            [0, ..] => Some(Denied::Unspecified),
            [127, ..] => Some(Denied::Loopback),
            [169, 254, ..] => Some(Denied::LinkLocal),
            [224..=239, ..] => Some(Denied::Multicast),
            [255, 255, 255, 255] => Some(Denied::Broadcast),
            _ => None,
        },
        IpAddr::V6(a) if a.is_unspecified() => Some(Denied::Unspecified),
        IpAddr::V6(a) if a.is_loopback() => Some(Denied::Loopback),
        IpAddr::V6(a) if a.is_multicast() => Some(Denied::Multicast),
        IpAddr::V6(a) if a.is_unicast_link_local() => Some(Denied::LinkLocal),
        IpAddr::V6(_) => None,
    }
}

/// The IPv4 addresses that `addr` may stand for; returns how many were written to `out`.
fn embedded_v4(addr: Ipv6Addr, out: &mut [Ipv4Addr; 4]) -> usize {
    let o = addr.octets();
    let at = |i: usize| Ipv4Addr::new(o[i], o[i + 1], o[i + 2], o[i + 3]);
    let low = at(12);
    let s = addr.segments();
    let mut n = 0;
    let mut push = |addr: Ipv4Addr| {
        out[n] = addr;
        n += 1;
    };
    match s {
        // IPv4-compatible, and the unspecified and loopback addresses, which have names already.
        [0, 0, 0, 0, 0, 0, ..] => push(low),
        // IPv4-translated (SIIT, RFC 2765).
        [0, 0, 0, 0, 0xffff, 0, ..] => push(low),
        // The well-known prefix of NAT64.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => push(low),
        // NAT64 for local use (RFC 8215): the length of the network's prefix is its own affair, so
        // each place where RFC 6052 section 2.2 puts the address counts. With a longer prefix the
        // places of the shorter ones hold its zeros, which then mean nothing.
        [0x64, 0xff9b, 1, ..] => {
            let earlier = [
                [o[6], o[7], o[9], o[10]],
                [o[7], o[9], o[10], o[11]],
                [o[9], o[10], o[11], o[12]],
            ];
            earlier.into_iter().filter(|a| a[0] != 0).for_each(|a| push(a.into()));
            push(low);
        }
        // 6to4 (RFC 3056).
        [0x2002, ..] => push(at(2)),
        // Teredo (RFC 4380): the server, and the client, whose bits are inverted.
        [0x2001, 0, ..] => {
            push(at(4));
            push(Ipv4Addr::from_bits(!low.to_bits()));
        }
        // ISATAP (RFC 5214), with either value of the universal bit.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => push(low),
        _ => {}
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_answer_is_no_permission() {
        let answer = |errno: i32| {
            let mut message = vec![0; NLMSG_HDRLEN];
            message.extend((-errno).to_ne_bytes());
            refusal(&message)
        };
        for no_route in [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL] {
            assert!(matches!(answer(no_route.raw_os_error()), Ok(None)), "{no_route}");
        }
        for cannot_say in [Errno::NOMEM, Errno::NOBUFS, Errno::BUSY] {
            assert!(answer(cannot_say.raw_os_error()).is_err(), "{cannot_say}");
        }
        assert!(refusal(&[0; NLMSG_HDRLEN]).is_err(), "a message that is cut off");
    }

    /// A host with these addresses of its own.
    struct Host(&'static [&'static str], &'static [&'static str]);
    impl Routes for Host {
        fn kind(&mut self, addr: IpAddr) -> io::Result<Kind> {
            let has = |list: &[&str]| list.iter().any(|a| a.parse() == Ok(addr));
            Ok(match (has(self.0), has(self.1)) {
                (true, _) => Kind::Local,
                (_, true) => Kind::Broadcast,
                _ => Kind::Other,
            })
        }
    }
    struct Broken;
    impl Routes for Broken {
        fn kind(&mut self, _: IpAddr) -> io::Result<Kind> {
            Err(io::ErrorKind::Other.into())
        }
    }
    const HOST: Host = Host(&["192.0.2.7", "2001:db8::7"], &["192.0.2.255"]);

    fn judge(dst: &str, host_loopback: bool) -> Judgement {
        let config = Config { host_loopback, ..Config::default() };
        Policy::new(&config, HOST).judge(SocketAddr::new(dst.parse().unwrap(), 80))
    }

    fn dial(dst: &str) -> Judgement {
        Judgement::Dial(SocketAddr::new(dst.parse().unwrap(), 80))
    }

    /// Every way to name something that is denied: the address, why, and whether --host-loopback
    /// lifts it (then with what is dialled).
    const TABLE: &[(&str, Denied, Option<&str>)] = &[
        ("0.0.0.0", Denied::Unspecified, None),
        ("0.0.0.1", Denied::Unspecified, None),
        ("0.255.255.255", Denied::Unspecified, None),
        ("::", Denied::Unspecified, None),
        ("127.0.0.1", Denied::Loopback, Some("127.0.0.1")),
        ("127.0.0.53", Denied::Loopback, Some("127.0.0.53")),
        ("127.255.255.254", Denied::Loopback, Some("127.255.255.254")),
        ("::1", Denied::Loopback, None),
        ("::ffff:127.0.0.1", Denied::Loopback, Some("127.0.0.1")),
        ("::ffff:0.0.0.0", Denied::Unspecified, None),
        ("::ffff:192.0.2.7", Denied::HostAddress, Some("192.0.2.7")),
        ("::ffff:169.254.169.254", Denied::LinkLocal, Some("169.254.169.254")),
        ("::ffff:224.0.0.1", Denied::Multicast, None),
        ("::ffff:10.0.2.2", Denied::Gateway, Some("127.0.0.1")),
        ("::127.0.0.1", Denied::Loopback, Some("::127.0.0.1")),
        ("::2", Denied::Unspecified, None),
        ("::ffff:0:127.0.0.1", Denied::Loopback, Some("::ffff:0:127.0.0.1")),
        ("64:ff9b::127.0.0.1", Denied::Loopback, Some("64:ff9b::127.0.0.1")),
        ("64:ff9b::0.0.0.0", Denied::Unspecified, None),
        ("64:ff9b::169.254.169.254", Denied::LinkLocal, Some("64:ff9b::169.254.169.254")),
        ("64:ff9b::192.0.2.7", Denied::HostAddress, Some("64:ff9b::192.0.2.7")),
        ("64:ff9b::100.100.100.200", Denied::Metadata, Some("64:ff9b::100.100.100.200")),
        ("64:ff9b:1::7f00:1", Denied::Loopback, Some("64:ff9b:1::7f00:1")),
        ("64:ff9b:1:7f00:0:100::", Denied::Loopback, None),
        ("64:ff9b:1:7f:0:1::1", Denied::Loopback, None),
        ("64:ff9b:1:8:7f:0:100:1", Denied::Loopback, Some("64:ff9b:1:8:7f:0:100:1")),
        ("64:ff9b:1:0808:8:8:127.0.0.1", Denied::Loopback, Some("64:ff9b:1:0808:8:8:127.0.0.1")),
        ("2002:7f00:1::", Denied::Loopback, Some("2002:7f00:1::")),
        ("2002:a9fe:a9fe::1", Denied::LinkLocal, Some("2002:a9fe:a9fe::1")),
        ("2002:c000:207::1", Denied::HostAddress, Some("2002:c000:207::1")),
        ("2001:0:808:808::80ff:fffe", Denied::Loopback, Some("2001:0:808:808::80ff:fffe")),
        ("2001:0:7f00:1::f7f7:f7f7", Denied::Loopback, Some("2001:0:7f00:1::f7f7:f7f7")),
        ("2001:db8:9::5efe:127.0.0.1", Denied::Loopback, Some("2001:db8:9::5efe:127.0.0.1")),
        (
            "2001:db8:9:0:200:5efe:127.0.0.1",
            Denied::Loopback,
            Some("2001:db8:9:0:200:5efe:127.0.0.1"),
        ),
        ("169.254.0.1", Denied::LinkLocal, Some("169.254.0.1")),
        ("169.254.169.254", Denied::LinkLocal, Some("169.254.169.254")),
        ("169.254.170.2", Denied::LinkLocal, Some("169.254.170.2")),
        ("fe80::1", Denied::LinkLocal, Some("fe80::1")),
        ("febf:ffff::1", Denied::LinkLocal, Some("febf:ffff::1")),
        ("fd00:ec2::254", Denied::Metadata, Some("fd00:ec2::254")),
        ("fd20:ce::254", Denied::Metadata, Some("fd20:ce::254")),
        ("168.63.129.16", Denied::Metadata, Some("168.63.129.16")),
        ("100.100.100.200", Denied::Metadata, Some("100.100.100.200")),
        ("224.0.0.251", Denied::Multicast, None),
        ("239.255.255.250", Denied::Multicast, None),
        ("ff02::1", Denied::Multicast, None),
        ("ff0e::1", Denied::Multicast, None),
        ("255.255.255.255", Denied::Broadcast, None),
        ("192.0.2.255", Denied::Broadcast, None),
        ("::ffff:192.0.2.255", Denied::Broadcast, None),
        ("192.0.2.7", Denied::HostAddress, Some("192.0.2.7")),
        ("2001:db8::7", Denied::HostAddress, Some("2001:db8::7")),
        ("10.0.2.2", Denied::Gateway, Some("127.0.0.1")),
        ("fd00::2", Denied::Gateway, Some("::1")),
        ("10.0.2.3", Denied::Gateway, None),
        ("10.0.2.77", Denied::NoNeighbour, None),
        ("10.0.2.255", Denied::NoNeighbour, None),
        ("10.0.2.0", Denied::NoNeighbour, None),
        ("fd00::77", Denied::NoNeighbour, None),
    ];

    #[test]
    fn no_detour_leads_to_the_host() {
        for &(dst, why, opened) in TABLE {
            assert_eq!(judge(dst, false), Judgement::Deny(why), "{dst}");
            match opened {
                Some(to) => assert_eq!(judge(dst, true), dial(to), "{dst} with --host-loopback"),
                None => {
                    let got = judge(dst, true);
                    // The IPv6 loopback embeds 0.0.0.1 as an IPv4-compatible address.
                    assert!(
                        matches!(got, Judgement::Deny(_)),
                        "{dst} with --host-loopback: {got:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_rest_of_the_world_is_open() {
        let fine = [
            "1.1.1.1",
            "10.0.3.1",
            "10.1.2.3",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "192.168.1.1",
            "223.255.255.255",
            "240.0.0.1",
            "2606:4700::1111",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1:fffe::8.8.8.8",
            "2002:808:808::1",
            "fec0::1",
            "fd00:ec2::253",
            "fd00:0:0:1::2",
        ];
        for dst in fine {
            assert_eq!(judge(dst, false), dial(dst), "{dst}");
        }
        assert_eq!(judge("::ffff:1.1.1.1", false), dial("1.1.1.1"));
    }

    #[test]
    fn the_name_server_answers_on_its_port_alone() {
        let mut policy = Policy::new(&Config::default(), HOST);
        for addr in ["10.0.2.3", "fd00::3", "::ffff:10.0.2.3"] {
            let addr: IpAddr = addr.parse().unwrap();
            assert_eq!(policy.judge(SocketAddr::new(addr, 53)), Judgement::Dns);
            let other = policy.judge(SocketAddr::new(addr, 54));
            assert_eq!(other, Judgement::Deny(Denied::Gateway));
            assert_eq!(policy.judge_echo(addr), Err(Denied::Gateway));
        }
    }

    #[test]
    fn without_an_answer_it_is_no_and_without_ipv6_there_is_none() {
        let mut policy = Policy::new(&Config::default(), Broken);
        let far = "1.1.1.1:80".parse().unwrap();
        assert_eq!(policy.judge(far), Judgement::Deny(Denied::Unknown));
        let mut policy = Policy::new(&Config { v6: None, ..Config::default() }, HOST);
        let v6 = "[2606:4700::1111]:80".parse().unwrap();
        assert_eq!(policy.judge(v6), Judgement::Deny(Denied::Invalid));
        let zero = "1.1.1.1:0".parse().unwrap();
        assert_eq!(policy.judge(zero), Judgement::Deny(Denied::Invalid));
    }

    #[test]
    fn the_kernel_knows_its_own_addresses() {
        let mut routes = KernelRoutes::open().unwrap();
        for local in ["127.0.0.1", "127.1.2.3"] {
            assert_eq!(routes.kind(local.parse().unwrap()).unwrap(), Kind::Local, "{local}");
        }
        let far = routes.kind("192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!(far, Kind::Other);
    }
}
