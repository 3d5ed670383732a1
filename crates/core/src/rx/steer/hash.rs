//! The flow hash: what a network card computes to choose a queue, and what the stack goes on
//! steering by.
//!
//! Linux: net/core/flow_dissector.c `__skb_flow_dissect`, `__skb_get_hash`; `ethtool -N rx-flow-hash`,
//! `ethtool -X … xfrm symmetric-xor`
//! RFCs:  791, 8200 §4, 4302 (AH is stepped over), 9293, 768; IEEE 802.1Q

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use linerate_arch::toeplitz::{KEY_LEN, Toeplitz, VERIFICATION_KEY};

use crate::rand::Rng;
use crate::table::Knobs;
use crate::table::value::HashFields;
use crate::wire::{
    ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6, IPPROTO_AH, IPPROTO_DSTOPTS, IPPROTO_FRAGMENT,
    IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_TCP, IPPROTO_UDP,
};

/// What names a flow, as the frame has it (`struct flow_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKeys {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source and destination port; `None` for fragments and what has none.
    pub ports: Option<(u16, u16)>,
    /// IP protocol, behind extension headers as far as they could be followed.
    pub proto: u8,
}

/// Extension headers that are followed: as many as the IP stage follows.
const EXT_HDRS_MAX: usize = 8;

#[inline]
fn be16(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

/// Reads what names the flow off a frame, or off a bare IP packet where there is no link header.
/// `None`: it is no IP, or too short to tell.
#[inline]
pub fn dissect(frame: &[u8], ethernet: bool) -> Option<FlowKeys> {
    if !ethernet {
        return match frame.first()? >> 4 {
            4 => ipv4(frame),
            6 => ipv6(frame),
            _ => None,
        };
    }
    let (mut at, mut ethertype) = (14, be16(frame, 12)?);
    // A frame may bear two tags.
    for _ in 0..2 {
        if !matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD) {
            break;
        }
        ethertype = be16(frame, at + 2)?;
        at += 4;
    }
    match ethertype {
        ETH_P_IP => ipv4(frame.get(at..)?),
        ETH_P_IPV6 => ipv6(frame.get(at..)?),
        _ => None,
    }
}

/// Addresses and ports of what most packets are: untagged IPv4 without options, whole, TCP or UDP.
#[inline(always)]
fn plain(frame: &[u8], ethernet: bool) -> Option<(u32, u32, u32)> {
    let ip = if ethernet {
        let (eth, ip) = frame.split_first_chunk::<14>()?;
        if [eth[12], eth[13]] != ETH_P_IP.to_be_bytes() {
            return None;
        }
        ip
    } else {
        frame
    };
    let hdr = ip.first_chunk::<24>()?;
    let word = |at: usize| u32::from_be_bytes([hdr[at], hdr[at + 1], hdr[at + 2], hdr[at + 3]]);
    let whole = word(4) & 0x3fff == 0;
    let known = matches!(hdr[9], IPPROTO_TCP | IPPROTO_UDP);
    (hdr[0] == 0x45 && whole && known).then(|| (word(12), word(16), word(20)))
}

#[inline]
fn ipv4(ip: &[u8]) -> Option<FlowKeys> {
    let hdr = ip.first_chunk::<20>()?;
    let addr = |at: usize| Ipv4Addr::new(hdr[at], hdr[at + 1], hdr[at + 2], hdr[at + 3]);
    let ihl = (hdr[0] & 0xf) as usize * 4;
    if hdr[0] >> 4 != 4 || ihl < 20 {
        return None;
    }
    let proto = hdr[9];
    // Every fragment, also the first, which has the ports: all of a packet go one way.
    let fragment = u16::from_be_bytes([hdr[6], hdr[7]]) & 0x3fff != 0;
    let ports = if fragment { None } else { ports(ip, ihl, proto) };
    Some(FlowKeys { src: addr(12).into(), dst: addr(16).into(), ports, proto })
}

#[inline]
fn ipv6(ip: &[u8]) -> Option<FlowKeys> {
    let hdr = ip.first_chunk::<40>()?;
    if hdr[0] >> 4 != 6 {
        return None;
    }
    let addr = |at: usize| {
        let bytes = hdr[at..].first_chunk::<16>().map_or([0; 16], |b| *b);
        IpAddr::V6(Ipv6Addr::from(bytes))
    };
    let mut keys = FlowKeys { src: addr(8), dst: addr(24), ports: None, proto: hdr[6] };
    match keys.proto {
        IPPROTO_TCP | IPPROTO_UDP => keys.ports = ports(ip, 40, keys.proto),
        _ => ext_hdrs(ip, &mut keys),
    }
    Some(keys)
}

/// Follows the extension headers to the ports.
#[cold]
fn ext_hdrs(ip: &[u8], keys: &mut FlowKeys) {
    let mut at = 40usize;
    for _ in 0..EXT_HDRS_MAX {
        let Some([next, len, a, b]) = ip.get(at..).and_then(|h| h.first_chunk::<4>()) else {
            return;
        };
        at += match keys.proto {
            IPPROTO_HOPOPTS | IPPROTO_ROUTING | IPPROTO_DSTOPTS => (*len as usize + 1) * 8,
            IPPROTO_AH => (*len as usize + 2) * 4,
            // A fragment unless it is the whole: offset 0, and no more follow (RFC 6946).
            IPPROTO_FRAGMENT if u16::from_be_bytes([*a, *b]) & 0xfff9 == 0 => 8,
            IPPROTO_FRAGMENT => {
                keys.proto = *next;
                return;
            }
            _ => break,
        };
        keys.proto = *next;
    }
    keys.ports = ports(ip, at, keys.proto);
}

#[inline]
fn ports(ip: &[u8], at: usize, proto: u8) -> Option<(u16, u16)> {
    if !matches!(proto, IPPROTO_TCP | IPPROTO_UDP) {
        return None;
    }
    Some((be16(ip, at)?, be16(ip, at + 2)?))
}

/// A key to hash with, as a network card's driver fills it (`netdev_rss_key_fill`): random for each
/// seed.
pub fn netdev_rss_key(seed: u64) -> [u8; KEY_LEN] {
    let mut rng = Rng::new(seed);
    let mut key = [0; KEY_LEN];
    key.chunks_mut(8).for_each(|part| part.copy_from_slice(&rng.next_u64().to_be_bytes()));
    key
}

/// The flow hash: Toeplitz over what the knobs choose of addresses and ports.
#[derive(Clone, Debug)]
pub struct FlowHash {
    toeplitz: Toeplitz,
    fields: [HashFields; 4],
    symmetric: bool,
    /// Not all of everything is hashed in its order.
    picky: bool,
}

impl Default for FlowHash {
    fn default() -> FlowHash {
        FlowHash::new(&VERIFICATION_KEY, [HashFields::ALL; 4], false)
    }
}

impl FlowHash {
    /// A hash with this key. `fields` are those of TCP and UDP over IPv4, then over IPv6.
    /// `symmetric`: both directions of a flow have the same hash.
    pub fn new(key: &[u8; KEY_LEN], fields: [HashFields; 4], symmetric: bool) -> FlowHash {
        let mut hash = FlowHash { toeplitz: Toeplitz::new(key), fields, symmetric, picky: false };
        hash.note_picky();
        hash
    }
    /// Follows the knobs `rx-flow-hash.*` and `rss.symmetric-xor`.
    pub(crate) fn set(&mut self, knobs: &Knobs) {
        self.fields = fields(knobs);
        self.symmetric = knobs.rss_symmetric;
        self.note_picky();
    }
    fn note_picky(&mut self) {
        self.picky = self.symmetric || self.fields != [HashFields::ALL; 4];
    }
    /// The hash of a frame or bare IP packet; 0 = it is of no flow (`skb_get_hash`).
    #[inline]
    pub fn of_frame(&self, frame: &[u8], ethernet: bool) -> u32 {
        if !self.picky
            && let Some((src, dst, ports)) = plain(frame, ethernet)
        {
            let (src, dst) = (Ipv4Addr::from_bits(src), Ipv4Addr::from_bits(dst));
            return self.toeplitz.hash_v4(src, dst, (ports >> 16) as u16, ports as u16).max(1);
        }
        self.of_other(frame, ethernet)
    }
    #[inline(never)]
    fn of_other(&self, frame: &[u8], ethernet: bool) -> u32 {
        dissect(frame, ethernet).map_or(0, |keys| self.of(&keys))
    }
    /// The hash of a flow; never 0.
    #[inline]
    pub fn of(&self, keys: &FlowKeys) -> u32 {
        let hash = match keys.ports {
            Some(ports) => self.of_ports(keys, ports),
            None => self.of_addrs(keys),
        };
        // 0 says that there is none (`__skb_get_hash`).
        hash.max(1)
    }
    #[inline]
    fn of_ports(&self, keys: &FlowKeys, ports: (u16, u16)) -> u32 {
        let v6 = keys.src.is_ipv6();
        let udp = keys.proto == IPPROTO_UDP;
        let fields = self.fields[usize::from(v6) * 2 + usize::from(udp)];
        if fields == HashFields::ALL && !self.symmetric {
            return self.hash(keys.src, keys.dst, ports);
        }
        self.of_some(keys, ports, fields)
    }
    /// Fields that do not count are hashed as zeros, which in Toeplitz is as if they were not there.
    fn of_some(&self, keys: &FlowKeys, ports: (u16, u16), mut fields: HashFields) -> u32 {
        let (mut a, mut b) = ((keys.src, ports.0), (keys.dst, ports.1));
        if self.symmetric {
            // The ends in the order of their values: no bit of either is lost, as it is by XOR, or
            // by a key whose halves repeat, which leaves two halves of a hash alike.
            if a > b {
                std::mem::swap(&mut a, &mut b);
            }
            (fields.s, fields.d) = (fields.s || fields.d, fields.s || fields.d);
            (fields.f, fields.n) = (fields.f || fields.n, fields.f || fields.n);
        }
        let addr = |on: bool, addr: IpAddr| match addr {
            _ if on => addr,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let port = |on: bool, port: u16| if on { port } else { 0 };
        let ports = (port(fields.f, a.1), port(fields.n, b.1));
        self.hash(addr(fields.s, a.0), addr(fields.d, b.0), ports)
    }
    fn of_addrs(&self, keys: &FlowKeys) -> u32 {
        let (mut a, mut b) = (keys.src, keys.dst);
        if self.symmetric && a > b {
            std::mem::swap(&mut a, &mut b);
        }
        match (a, b) {
            (IpAddr::V4(a), IpAddr::V4(b)) => self.toeplitz.hash_v4_l3(a, b),
            (IpAddr::V6(a), IpAddr::V6(b)) => self.toeplitz.hash_v6_l3(a, b),
            _ => 0,
        }
    }
    #[inline]
    fn hash(&self, src: IpAddr, dst: IpAddr, ports: (u16, u16)) -> u32 {
        match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => self.toeplitz.hash_v4(s, d, ports.0, ports.1),
            (IpAddr::V6(s), IpAddr::V6(d)) => self.toeplitz.hash_v6(s, d, ports.0, ports.1),
            // A packet has addresses of one family.
            _ => 0,
        }
    }
}

/// What of TCP and UDP over IPv4, then over IPv6, goes into the hash.
pub(crate) fn fields(knobs: &Knobs) -> [HashFields; 4] {
    [knobs.hash_tcp4, knobs.hash_udp4, knobs.hash_tcp6, knobs.hash_udp6]
}

#[cfg(test)]
mod tests;
