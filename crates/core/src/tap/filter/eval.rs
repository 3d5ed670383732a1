//! What a filter is compiled to, and how it is run on a packet.

use super::{Link, View};
use crate::wire::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6};
use crate::wire::{IPPROTO_TCP, IPPROTO_UDP, Mac};

const ETH_P_RARP: u16 = 0x8035;
const ETH_P_QINQ1: u16 = 0x9100;
const IPPROTO_FRAGMENT: u8 = 44;
pub(super) const IPPROTO_SCTP: u8 = 132;

/// Which of a packet's two sides is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Side {
    Src,
    Dst,
    #[default]
    Either,
    Both,
}

impl Side {
    fn test(
        self,
        src: impl FnOnce() -> Option<bool>,
        dst: impl FnOnce() -> Option<bool>,
    ) -> Option<bool> {
        match self {
            Side::Src => src(),
            Side::Dst => dst(),
            Side::Either => Some(src()? || dst()?),
            Side::Both => Some(src()? && dst()?),
        }
    }
}

/// Protocols whose addresses a `host` or `net` is looked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4, ARP and RARP.
    Any,
    Ip,
    Arp,
    Rarp,
}

/// A test of a packet. `Some(false)` is an answer; `None` rejects the packet, whatever else is said of
/// it, because a load went beyond its end. `vlans` is how many tags lie before what is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Not(Box<Test>),
    /// From left to right: `true` is `and`.
    Chain(Box<Test>, Vec<(bool, Test)>),
    /// The protocol behind the link header.
    Ethertype {
        vlans: u8,
        value: u16,
    },
    /// The protocol behind an IP header.
    Proto {
        vlans: u8,
        four: bool,
        six: bool,
        value: u8,
    },
    Net4 {
        vlans: u8,
        side: Side,
        family: Family,
        addr: u32,
        mask: u32,
    },
    Net6 {
        vlans: u8,
        side: Side,
        addr: u128,
        mask: u128,
    },
    Ether {
        side: Side,
        addr: Mac,
    },
    EtherMulticast,
    IpMulticast {
        vlans: u8,
    },
    Ip6Multicast {
        vlans: u8,
    },
    /// A port of TCP, UDP or SCTP, or of one of them.
    Port {
        vlans: u8,
        side: Side,
        proto: Option<u8>,
        first: u16,
        last: u16,
    },
    Vlan {
        vlans: u8,
        id: Option<u16>,
    },
    Outbound(bool),
    Relation(Value, Order, Value),
}

/// A relation between two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Unequal,
    Less,
    Greater,
    AtMost,
    AtLeast,
}

/// Where a load begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Link,
    /// The header behind the link header, if it is this protocol's.
    Network(u16),
    /// The header behind IPv4's, if it is this protocol's and the packet no later fragment.
    Transport(u8),
    /// ICMPv6, right behind the IPv6 header.
    Icmp6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

/// A number that is computed from the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u32),
    Len,
    Load { vlans: u8, base: Base, at: Box<Value>, size: u8 },
    Op(Op, Box<Value>, Box<Value>),
}

/// Why there is no value.
enum Miss {
    /// The packet is of another protocol: the relation does not hold.
    Other,
    /// The packet is rejected.
    Reject,
}

impl Test {
    /// Whether the packet is wanted; `None`: it is not, whatever the rest of the filter says.
    pub fn run(&self, v: &View<'_>) -> Option<bool> {
        Some(match self {
            Test::Not(test) => !test.run(v)?,
            Test::Chain(first, rest) => {
                let mut said = first.run(v)?;
                for (and, test) in rest {
                    // What is settled is not looked at: a load there could reject the packet.
                    if said == *and {
                        said = test.run(v)?;
                    }
                }
                said
            }
            Test::Ethertype { vlans, value } => ethertype(v, *vlans)? == *value,
            Test::Proto { vlans, four, six, value } => {
                let l3 = network(v, *vlans);
                match ethertype(v, *vlans)? {
                    ETH_P_IP if *four => load8(v, l3 + 9)? == *value,
                    ETH_P_IPV6 if *six => {
                        let next = load8(v, l3 + 6)?;
                        next == *value || next == IPPROTO_FRAGMENT && load8(v, l3 + 40)? == *value
                    }
                    _ => false,
                }
            }
            Test::Net4 { vlans, side, family, addr, mask } => {
                let l3 = network(v, *vlans);
                let (src, dst) = match (ethertype(v, *vlans)?, family) {
                    (ETH_P_IP, Family::Any | Family::Ip) => (12, 16),
                    (ETH_P_ARP, Family::Any | Family::Arp) => (14, 24),
                    (ETH_P_RARP, Family::Any | Family::Rarp) => (14, 24),
                    _ => return Some(false),
                };
                // Of an address of which nothing is asked nothing is loaded.
                let is = |at: usize| Some(*mask == 0 || load32(v, l3 + at)? & mask == *addr);
                side.test(|| is(src), || is(dst))?
            }
            Test::Net6 { vlans, side, addr, mask } => {
                if ethertype(v, *vlans)? != ETH_P_IPV6 {
                    return Some(false);
                }
                let l3 = network(v, *vlans);
                let is = |at: usize| {
                    Some(*mask == 0 || u128::from_be_bytes(load(v, l3 + at)?) & mask == *addr)
                };
                side.test(|| is(8), || is(24))?
            }
            Test::Ether { side, addr } => {
                let is = |at: usize| Some(load(v, at)? == addr.0);
                v.link == Link::Ethernet && side.test(|| is(6), || is(0))?
            }
            Test::EtherMulticast => v.link == Link::Ethernet && load8(v, 0)? & 1 == 1,
            Test::IpMulticast { vlans } => {
                ethertype(v, *vlans)? == ETH_P_IP && load8(v, network(v, *vlans) + 16)? >= 224
            }
            Test::Ip6Multicast { vlans } => {
                ethertype(v, *vlans)? == ETH_P_IPV6 && load8(v, network(v, *vlans) + 24)? == 0xff
            }
            Test::Port { vlans, side, proto, first, last } => {
                let Some(at) = ports(v, *vlans, *proto)? else { return Some(false) };
                let is = |at: usize| Some((*first..=*last).contains(&load16(v, at)?));
                side.test(|| is(at), || is(at + 2))?
            }
            Test::Vlan { vlans, id } => {
                if v.link != Link::Ethernet {
                    return Some(false);
                }
                let tag = ethertype(v, *vlans)?;
                let is_tag = matches!(tag, ETH_P_8021Q | ETH_P_8021AD | ETH_P_QINQ1);
                let vid = |id: u16| Some(load16(v, network(v, *vlans))? & 0xfff == id);
                is_tag
                    && match id {
                        Some(id) => vid(*id)?,
                        None => true,
                    }
            }
            Test::Outbound(out) => v.outbound == *out,
            Test::Relation(a, order, b) => match (a.get(v), b.get(v)) {
                (Err(Miss::Reject), _) | (Ok(_), Err(Miss::Reject)) => return None,
                (Ok(a), Ok(b)) => order.holds(a, b),
                _ => false,
            },
        })
    }

    /// Bytes of a packet that the test may look at.
    pub fn reach(&self) -> usize {
        // Link header, two tags and more, the longest IPv4 header, the fixed part of TCP's.
        const HEADERS: usize = 14 + 4 * 8 + 60 + 20;
        match self {
            Test::Not(test) => test.reach(),
            Test::Chain(first, rest) => {
                rest.iter().map(|(_, test)| test.reach()).fold(first.reach(), usize::max)
            }
            Test::Relation(a, _, b) => HEADERS.max(a.reach()).max(b.reach()),
            _ => HEADERS,
        }
    }
}

impl Order {
    fn holds(self, a: u32, b: u32) -> bool {
        match self {
            Order::Equal => a == b,
            Order::Unequal => a != b,
            Order::Less => a < b,
            Order::Greater => a > b,
            Order::AtMost => a <= b,
            Order::AtLeast => a >= b,
        }
    }
}

impl Value {
    fn get(&self, v: &View<'_>) -> Result<u32, Miss> {
        match self {
            Value::Number(n) => Ok(*n),
            Value::Len => Ok(u32::try_from(v.len).unwrap_or(u32::MAX)),
            Value::Load { vlans, base, at, size } => {
                let begin = base.begin(v, *vlans)?;
                let at = begin.checked_add(at.get(v)? as usize).ok_or(Miss::Reject)?;
                let bytes = match size {
                    1 => load::<1>(v, at).map(|[a]| u32::from(a)),
                    2 => load::<2>(v, at).map(|b| u32::from(u16::from_be_bytes(b))),
                    _ => load::<4>(v, at).map(u32::from_be_bytes),
                };
                bytes.ok_or(Miss::Reject)
            }
            Value::Op(op, a, b) => {
                let (a, b) = (a.get(v)?, b.get(v)?);
                Ok(match op {
                    Op::Add => a.wrapping_add(b),
                    Op::Sub => a.wrapping_sub(b),
                    Op::Mul => a.wrapping_mul(b),
                    Op::Div => a.checked_div(b).ok_or(Miss::Reject)?,
                    Op::Mod => a.checked_rem(b).ok_or(Miss::Reject)?,
                    Op::And => a & b,
                    Op::Or => a | b,
                    Op::Xor => a ^ b,
                    Op::Shl => a.checked_shl(b).unwrap_or(0),
                    Op::Shr => a.checked_shr(b).unwrap_or(0),
                })
            }
        }
    }

    /// The number it always is, if it looks at no packet.
    pub fn constant(&self) -> Option<u32> {
        let nothing = View { link: Link::Ip, bytes: &[], len: 0, outbound: false };
        if self.looks() { None } else { self.get(&nothing).ok() }
    }

    fn looks(&self) -> bool {
        match self {
            Value::Number(_) => false,
            Value::Len | Value::Load { .. } => true,
            Value::Op(_, a, b) => a.looks() || b.looks(),
        }
    }

    fn reach(&self) -> usize {
        match self {
            Value::Number(_) | Value::Len => 0,
            Value::Op(_, a, b) => a.reach().max(b.reach()),
            Value::Load { vlans, at, .. } => match at.constant() {
                Some(at) => (14 + 4 * usize::from(*vlans) + 60 + 4).saturating_add(at as usize),
                None => usize::MAX,
            },
        }
    }
}

impl Base {
    fn begin(self, v: &View<'_>, vlans: u8) -> Result<usize, Miss> {
        let rejected = |found: Option<bool>| match found {
            None => Err(Miss::Reject),
            Some(false) => Err(Miss::Other),
            Some(true) => Ok(()),
        };
        let l3 = network(v, vlans);
        let is = |value: u16| ethertype(v, vlans).map(|found| found == value);
        match self {
            Base::Link => Ok(0),
            Base::Network(value) => rejected(is(value)).map(|()| l3),
            Base::Transport(proto) => {
                rejected(is(ETH_P_IP))?;
                rejected(load8(v, l3 + 9).map(|found| found == proto))?;
                rejected(first_fragment(v, l3))?;
                header_end(v, l3).ok_or(Miss::Reject)
            }
            Base::Icmp6 => {
                rejected(is(ETH_P_IPV6))?;
                rejected(load8(v, l3 + 6).map(|found| found == crate::wire::IPPROTO_ICMPV6))?;
                Ok(l3 + 40)
            }
        }
    }
}

/// Bytes at `at`; `None` beyond the end.
fn load<const N: usize>(v: &View<'_>, at: usize) -> Option<[u8; N]> {
    v.bytes.get(at..)?.first_chunk().copied()
}
fn load8(v: &View<'_>, at: usize) -> Option<u8> {
    v.bytes.get(at).copied()
}
fn load16(v: &View<'_>, at: usize) -> Option<u16> {
    load(v, at).map(u16::from_be_bytes)
}
fn load32(v: &View<'_>, at: usize) -> Option<u32> {
    load(v, at).map(u32::from_be_bytes)
}

/// Where the network header begins, behind so many tags.
fn network(v: &View<'_>, vlans: u8) -> usize {
    match v.link {
        Link::Ethernet => 14 + 4 * usize::from(vlans),
        Link::Ip => 0,
    }
}

/// The protocol of the network header; of a bare packet its version says it, and no tag lies before.
fn ethertype(v: &View<'_>, vlans: u8) -> Option<u16> {
    match v.link {
        Link::Ethernet => load16(v, 12 + 4 * usize::from(vlans)),
        Link::Ip if vlans > 0 => Some(0),
        Link::Ip => Some(match load8(v, 0)? >> 4 {
            4 => ETH_P_IP,
            6 => ETH_P_IPV6,
            _ => 0,
        }),
    }
}

fn first_fragment(v: &View<'_>, l3: usize) -> Option<bool> {
    Some(load16(v, l3 + 6)? & 0x1fff == 0)
}

fn header_end(v: &View<'_>, l3: usize) -> Option<usize> {
    Some(l3 + 4 * usize::from(load8(v, l3)? & 0xf))
}

/// Where the ports are; `Some(None)` if the packet has none.
fn ports(v: &View<'_>, vlans: u8, proto: Option<u8>) -> Option<Option<usize>> {
    let l3 = network(v, vlans);
    let has = |p: u8| match proto {
        Some(proto) => p == proto,
        None => matches!(p, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP),
    };
    Some(match ethertype(v, vlans)? {
        ETH_P_IP if has(load8(v, l3 + 9)?) && first_fragment(v, l3)? => Some(header_end(v, l3)?),
        ETH_P_IPV6 if has(load8(v, l3 + 6)?) => Some(l3 + 40),
        _ => None,
    })
}
