//! What a rule looks at (Linux: net/sched/cls_flower.c, net/core/flow_dissector.c).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{
    ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP,
    IPPROTO_UDP, Mac,
};

const IPPROTO_SCTP: u8 = 132;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keys {
    pub dst_mac: Option<Mac>,
    pub src_mac: Option<Mac>,
    /// The protocol behind the Ethernet addresses: a tag's, if there is one.
    pub protocol: u16,
    pub vlan_id: Option<u16>,
    /// The protocol behind tags.
    pub ethertype: u16,
    /// Where the network header begins.
    pub network: usize,
    /// Where the transport header begins, from the network header on.
    pub transport: usize,
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    pub ip_proto: Option<u8>,
    pub tos: u8,
    pub ttl: u8,
    pub frag: bool,
    pub first_frag: bool,
    pub ports: Option<(u16, u16)>,
    pub tcp_flags: Option<u16>,
    pub icmp: Option<(u8, u8)>,
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl Keys {
    /// Reads as far as headers go; what is cut off is not there.
    pub fn dissect(bytes: &[u8], ethernet: bool) -> Keys {
        let mut keys = Keys::default();
        if ethernet {
            keys.dst_mac = chunk(bytes, 0).map(Mac);
            keys.src_mac = chunk(bytes, 6).map(Mac);
            let mut at = 12;
            let two = |at| chunk(bytes, at).map_or(0, u16::from_be_bytes);
            keys.protocol = two(at);
            keys.ethertype = keys.protocol;
            for _ in 0..2 {
                if !matches!(keys.ethertype, ETH_P_8021Q | ETH_P_8021AD) {
                    break;
                }
                keys.vlan_id.get_or_insert(two(at + 2) & 0xfff);
                at += 4;
                keys.ethertype = two(at);
            }
            keys.network = at + 2;
        } else {
            keys.ethertype = match bytes.first().map(|b| b >> 4) {
                Some(4) => ETH_P_IP,
                Some(6) => ETH_P_IPV6,
                _ => 0,
            };
            keys.protocol = keys.ethertype;
        }
        let rest = bytes.get(keys.network..).unwrap_or_default();
        match keys.ethertype {
            ETH_P_IP => keys.ipv4(rest),
            ETH_P_IPV6 => keys.ipv6(rest),
            _ => {}
        }
        keys
    }

    fn ipv4(&mut self, bytes: &[u8]) {
        let Some(h) = chunk::<20>(bytes, 0) else { return };
        self.src = Some(Ipv4Addr::new(h[12], h[13], h[14], h[15]).into());
        self.dst = Some(Ipv4Addr::new(h[16], h[17], h[18], h[19]).into());
        (self.tos, self.ttl, self.ip_proto) = (h[1], h[8], Some(h[9]));
        let field = u16::from_be_bytes([h[6], h[7]]);
        self.frag = field & 0x3fff != 0;
        self.first_frag = self.frag && field & 0x1fff == 0;
        self.transport = usize::from(h[0] & 0xf) * 4;
        if !self.frag || self.first_frag {
            self.upper(bytes, h[9]);
        }
    }

    fn ipv6(&mut self, bytes: &[u8]) {
        let Some(h) = chunk::<40>(bytes, 0) else { return };
        let addr = |at: usize| {
            let bits: [u8; 16] = chunk(&h, at).unwrap_or_default();
            IpAddr::V6(Ipv6Addr::from(bits))
        };
        (self.src, self.dst) = (Some(addr(8)), Some(addr(24)));
        (self.tos, self.ttl) = (h[0] << 4 | h[1] >> 4, h[7]);
        let Ok(hdr) = crate::wire::Ipv6Hdr::parse(bytes) else { return };
        let Ok(upper) = crate::wire::ipv6::walk(bytes, &hdr) else { return };
        self.ip_proto = Some(upper.proto);
        self.transport = upper.offset;
        if let Some(frag) = upper.frag {
            self.frag = true;
            self.first_frag = frag.frag_off_bytes == 0;
        }
        if !self.frag || self.first_frag {
            self.upper(bytes, upper.proto);
        }
    }

    fn upper(&mut self, bytes: &[u8], proto: u8) {
        let at = self.transport;
        match proto {
            IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP => {
                let word = |at| chunk(bytes, at).map(u16::from_be_bytes);
                self.ports = word(at).zip(word(at + 2));
                if proto == IPPROTO_TCP {
                    self.tcp_flags = word(at + 12).map(|w| w & 0xfff);
                }
            }
            IPPROTO_ICMP | IPPROTO_ICMPV6 => {
                self.icmp = chunk(bytes, at).map(|[kind, code]| (kind, code));
            }
            _ => {}
        }
    }
}

/// What a frame must say of itself. What is `None` is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    /// `None`: all.
    pub protocol: Option<u16>,
    pub vlan_id: Option<u16>,
    pub vlan_ethtype: Option<u16>,
    pub dst_mac: Option<Mac>,
    pub src_mac: Option<Mac>,
    pub ip_proto: Option<u8>,
    pub tos: Option<(u8, u8)>,
    pub ttl: Option<(u8, u8)>,
    pub dst: Option<(IpAddr, u8)>,
    pub src: Option<(IpAddr, u8)>,
    pub dst_port: Option<(u16, u16)>,
    pub src_port: Option<(u16, u16)>,
    pub tcp_flags: Option<(u16, u16)>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    /// `frag`, `nofrag`.
    pub frag: Option<bool>,
    /// `firstfrag`, `nofirstfrag`.
    pub first_frag: Option<bool>,
}

impl Match {
    /// Whether the frame is meant.
    pub fn matches(&self, keys: &Keys) -> bool {
        fn is<T: PartialEq>(want: Option<T>, have: Option<T>) -> bool {
            want.is_none() || want == have
        }
        let masked = |want: Option<(u8, u8)>, have: u8| {
            want.is_none_or(|(value, mask)| keys.src.is_some() && have & mask == value & mask)
        };
        let net = |want: Option<(IpAddr, u8)>, have: Option<IpAddr>| match (want, have) {
            (None, _) => true,
            (Some((net, len)), Some(addr)) => within(addr, net, len),
            (Some(_), None) => false,
        };
        let port = |want: Option<(u16, u16)>, have: Option<u16>| {
            want.is_none_or(|(a, b)| have.is_some_and(|port| (a..=b).contains(&port)))
        };
        let flags = self.tcp_flags.is_none_or(|(value, mask)| {
            keys.tcp_flags.is_some_and(|have| have & mask == value & mask)
        });
        self.protocol.is_none_or(|p| p == keys.protocol)
            && is(self.vlan_id, keys.vlan_id)
            && self.vlan_ethtype.is_none_or(|e| e == keys.ethertype)
            && is(self.dst_mac, keys.dst_mac)
            && is(self.src_mac, keys.src_mac)
            && is(self.ip_proto, keys.ip_proto)
            && masked(self.tos, keys.tos)
            && masked(self.ttl, keys.ttl)
            && net(self.dst, keys.dst)
            && net(self.src, keys.src)
            && port(self.src_port, keys.ports.map(|p| p.0))
            && port(self.dst_port, keys.ports.map(|p| p.1))
            && flags
            && is(self.icmp_type, keys.icmp.map(|i| i.0))
            && is(self.icmp_code, keys.icmp.map(|i| i.1))
            && is(self.frag, Some(keys.frag))
            && is(self.first_frag, Some(keys.first_frag))
    }
}

fn within(addr: IpAddr, net: IpAddr, len: u8) -> bool {
    match (addr, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            (a.to_bits() ^ b.to_bits()) & mask == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            (a.to_bits() ^ b.to_bits()) & mask == 0
        }
        _ => false,
    }
}
