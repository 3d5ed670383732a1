//! Which packets are for us: [`Filter`]. The kernel decides it by the program in
//! [`super::program`]; [`Filter::takes`] says the same in Rust, for tests and for explanations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A port, or a whole protocol, that is ours on our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// Every packet of an IP protocol (1: ICMP, 58: ICMPv6 but for neighbour discovery).
    Protocol(u8),
}

impl Service {
    /// The number that the program looks it up by; port 0 stands for all of a protocol.
    pub(super) fn key(self) -> u32 {
        match self {
            Service::Tcp(port) => key(TCP, port),
            Service::Udp(port) => key(UDP, port),
            Service::Protocol(proto) => key(proto, 0),
        }
    }
}

/// As [`Service::key`].
fn key(proto: u8, port: u16) -> u32 {
    u32::from(proto) << 16 | u32::from(port)
}

/// Which packets are redirected to us. All others go on into the kernel as if we were not there,
/// VLAN-tagged ones and broadcasts among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Our addresses. With none of them nothing is redirected.
    pub addrs: Vec<IpAddr>,
    /// What of the traffic to them is ours; `None`: all of it. With a list, fragments stay with the
    /// kernel, because only the first one says which port it is for; so do packets whose IPv6
    /// header is followed by an extension header. ICMP errors follow the port that they are about.
    pub services: Option<Vec<Service>>,
    /// ARP for our IPv4 addresses and neighbour discovery for our IPv6 addresses are ours, so that
    /// we answer for them. Off where the kernel has the same addresses and answers.
    pub neighbours: bool,
    /// Every frame is ours, whatever it carries (a bridge, a traffic sink).
    pub everything: bool,
}

impl Default for Filter {
    fn default() -> Filter {
        Filter { addrs: Vec::new(), services: None, neighbours: true, everything: false }
    }
}

/// Where in the frame what lies; Ethernet II without a tag.
pub(super) const ETH_TYPE: usize = 12;
pub(super) const ETH_LEN: usize = 14;
pub(super) const ETH_P_IP: u16 = 0x0800;
pub(super) const ETH_P_ARP: u16 = 0x0806;
pub(super) const ETH_P_IPV6: u16 = 0x86dd;
/// The target address of ARP (RFC 826).
pub(super) const ARP_TPA: usize = ETH_LEN + 24;
pub(super) const ARP_END: usize = ETH_LEN + 28;
pub(super) const IP4_LEN: usize = 20;
pub(super) const IP4_FRAG: usize = 6;
pub(super) const IP4_PROTO: usize = 9;
pub(super) const IP4_DST: usize = 16;
pub(super) const IP6_LEN: usize = 40;
pub(super) const IP6_NEXT: usize = 6;
pub(super) const IP6_DST: usize = 24;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;
/// Where an ICMP error quotes the packet that it is about (RFC 792, RFC 4443).
pub(super) const ICMP_QUOTE: usize = 8;
/// Neighbour discovery: router solicitation to redirect (RFC 4861 §4).
pub(super) const ND: std::ops::RangeInclusive<u8> = 133..=137;
pub(super) const ND_SOLICIT: u8 = 135;
/// Where a neighbour solicitation has the address that is asked for.
pub(super) const ND_TARGET: usize = 8;
/// More fragments, or not the first.
pub(super) const IP4_IS_FRAG: u16 = 0x3fff;
pub(super) const IP4_FRAG_OFFSET: u16 = 0x1fff;
/// Errors: destination unreachable, time exceeded, parameter problem.
pub(super) const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
/// Errors: destination unreachable, packet too big, time exceeded, parameter problem.
pub(super) const ICMPV6_ERRORS: [u8; 4] = [1, 2, 3, 4];

/// The group that is asked for an address (RFC 4291 §2.7.1).
pub(super) fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}
fn ip4_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?).into())
}
fn ip6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?))
}

impl Filter {
    /// Everything to these addresses, and what makes them reachable.
    pub fn addrs(addrs: impl IntoIterator<Item = IpAddr>) -> Filter {
        Filter { addrs: addrs.into_iter().collect(), ..Filter::default() }
    }
    /// Every frame.
    pub fn everything() -> Filter {
        Filter { everything: true, ..Filter::default() }
    }

    /// Whether the program redirects this frame: at least 14 bytes, from the Ethernet header on.
    pub fn takes(&self, frame: &[u8]) -> bool {
        self.everything || self.takes_some(frame).unwrap_or(false)
    }
    /// `None` where the frame ends too early.
    fn takes_some(&self, frame: &[u8]) -> Option<bool> {
        let ours = |addr: IpAddr| self.addrs.contains(&addr);
        let packet = frame.get(ETH_LEN..)?;
        match u16_at(frame, ETH_TYPE)? {
            ETH_P_ARP => {
                frame.get(..ARP_END)?;
                Some(self.neighbours && ours(ip4_at(frame, ARP_TPA)?))
            }
            ETH_P_IP => {
                packet.get(..IP4_LEN)?;
                Some(ours(ip4_at(packet, IP4_DST)?) && self.takes_ip4(packet)?)
            }
            ETH_P_IPV6 => {
                let payload = packet.get(IP6_LEN..)?;
                let (dst, next) = (ip6_at(packet, IP6_DST)?, *packet.get(IP6_NEXT)?);
                if ours(dst.into()) {
                    return Some(self.services.is_none() || self.takes_l4(next, payload, false)?);
                }
                let group = self.addrs.iter().any(|a| match a {
                    IpAddr::V6(a) => solicited_node(*a) == dst,
                    IpAddr::V4(_) => false,
                });
                let asks = group && self.neighbours && next == ICMPV6;
                let asks = asks && *payload.first()? == ND_SOLICIT;
                Some(asks && ours(ip6_at(payload, ND_TARGET)?.into()))
            }
            _ => Some(false),
        }
    }
    fn takes_ip4(&self, packet: &[u8]) -> Option<bool> {
        if self.services.is_none() {
            return Some(true);
        }
        let words = usize::from(packet.first()? & 0xf);
        if u16_at(packet, IP4_FRAG)? & IP4_IS_FRAG != 0 || words < 5 {
            return Some(false);
        }
        let proto = *packet.get(IP4_PROTO)?;
        if self.has(key(proto, 0)) {
            return Some(true);
        }
        self.takes_l4(proto, packet.get(words * 4..)?, true)
    }
    fn has(&self, wanted: u32) -> bool {
        self.services.iter().flatten().any(|s| s.key() == wanted)
    }
    fn has_port(&self, proto: u8, port: u16) -> bool {
        matches!(proto, TCP | UDP) && self.has(key(proto, port))
    }
    /// Whether the services cover what follows an IP header.
    fn takes_l4(&self, proto: u8, l4: &[u8], v4: bool) -> Option<bool> {
        if self.has(key(proto, 0)) {
            return Some(true);
        }
        match proto {
            TCP | UDP => Some(self.has_port(proto, u16_at(l4.get(..4)?, 2)?)),
            ICMP if v4 => {
                let quote = l4.get(ICMP_QUOTE..)?;
                quote.get(IP4_LEN..IP4_LEN + 4)?;
                let words = usize::from(quote.first()? & 0xf);
                let about = ICMP_ERRORS.contains(l4.first()?)
                    && words >= 5
                    && u16_at(quote, IP4_FRAG)? & IP4_FRAG_OFFSET == 0;
                let port = quote.get(words * 4..)?.get(..4);
                Some(about && self.has_port(*quote.get(IP4_PROTO)?, u16_at(port?, 0)?))
            }
            ICMPV6 if !v4 => {
                let kind = *l4.first()?;
                if ND.contains(&kind) {
                    return Some(self.neighbours);
                }
                let quote = l4.get(ICMP_QUOTE..)?.get(..IP6_LEN + 4)?;
                let about = ICMPV6_ERRORS.contains(&kind);
                Some(about && self.has_port(*quote.get(IP6_NEXT)?, u16_at(quote, IP6_LEN)?))
            }
            _ => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_rfc_4291() {
        let group = solicited_node("4037::1:800:200e:8c6c".parse().expect("an address"));
        assert_eq!(group, "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().expect("an address"));
    }

    #[test]
    fn frames_that_end_early_are_not_ours() {
        let filter = Filter {
            services: Some(vec![Service::Udp(53)]),
            ..Filter::addrs(["10.0.0.1".parse().expect("an address")])
        };
        let mut frame = [0u8; 42];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[23] = UDP;
        frame[30..34].copy_from_slice(&[10, 0, 0, 1]);
        frame[36..38].copy_from_slice(&53u16.to_be_bytes());
        assert!(filter.takes(&frame) && filter.takes(&frame[..38]));
        for len in 0..38 {
            assert!(!filter.takes(&frame[..len]), "{len}");
        }
    }
}
