//! Packets as bytes: made from a script's words, and read back into them.
//!
//! Apart from the stack's own parsers, so that both can not be wrong in the same way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::icmpv6_of;
use super::script::{Body, Ecn, Icmp, Opt, Packet, Segment};
use super::sign::signature;

/// The address of the stack under test.
pub(super) fn local(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(10, 77, 0, 1).into()
    }
}

/// The address of the peer that the script plays.
pub(super) fn remote(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 1).into()
    }
}

/// The port of the stack under test, unless it chooses one.
pub(super) const LOCAL_PORT: u16 = 8080;
/// The port of the peer, unless the script says another.
pub(super) const REMOTE_PORT: u16 = 40000;

/// One connection: how its numbers on the wire relate to those of the script.
#[derive(Clone, Debug)]
pub(super) struct Conn {
    pub local_port: u16,
    pub remote_port: u16,
    /// The stack's initial sequence number; the peer's are literal.
    isn: Option<u32>,
    /// A SYN of ours may begin the numbers anew.
    relearn: bool,
    /// What is to be added to a timestamp of the script.
    ts_offset: Option<u32>,
}

/// The connections of a run; the last begun is what a script without ports speaks of.
#[derive(Debug)]
pub(super) struct Flows {
    v6: bool,
    conns: Vec<Conn>,
    default: usize,
}

/// A packet that the stack sent, as it came.
#[derive(Debug)]
pub(super) struct Raw {
    pub local_port: u16,
    pub remote_port: u16,
    pub segment: Segment,
    pub ecn: Ecn,
}

impl Flows {
    pub(super) fn new(v6: bool) -> Flows {
        let mut flows = Flows { v6, conns: Vec::new(), default: 0 };
        flows.conn(LOCAL_PORT, REMOTE_PORT);
        flows
    }
    /// `connect` begins a connection from a port that is not known yet.
    pub(super) fn connects(&mut self, remote_port: u16) {
        self.default = self.conn(0, remote_port);
        let conn = &mut self.conns[self.default];
        (conn.isn, conn.ts_offset, conn.relearn) = (None, None, true);
    }
    fn conn(&mut self, local_port: u16, remote_port: u16) -> usize {
        let same = |c: &Conn| (c.local_port, c.remote_port) == (local_port, remote_port);
        self.conns.iter().position(same).unwrap_or_else(|| {
            let (isn, ts_offset, relearn) = (None, None, true);
            self.conns.push(Conn { local_port, remote_port, isn, relearn, ts_offset });
            self.conns.len() - 1
        })
    }

    /// The bytes of a packet from the peer.
    pub(super) fn emit(&mut self, packet: &Packet) -> Vec<u8> {
        let ecn = packet.ecn.unwrap_or(Ecn::Not);
        match &packet.body {
            Body::Tcp(segment) => {
                let at = match segment.ports {
                    Some((from, to)) => self.conn(to, from),
                    None => self.default,
                };
                let conn = &mut self.conns[at];
                conn.relearn |= segment.flags & 0x02 != 0;
                let tcp = conn.emit(segment, self.v6);
                ip(self.v6, (remote(self.v6), local(self.v6)), 6, ecn, &tcp)
            }
            Body::Icmp(icmp) => self.emit_icmp(icmp, ecn),
        }
    }
    fn emit_icmp(&self, icmp: &Icmp, ecn: Ecn) -> Vec<u8> {
        let conn = &self.conns[self.default];
        let seq = icmp.quoted.0.wrapping_add(conn.isn.unwrap_or(0));
        let mut quoted = Vec::new();
        quoted.extend(conn.local_port.to_be_bytes());
        quoted.extend(conn.remote_port.to_be_bytes());
        quoted.extend(seq.to_be_bytes());
        quoted.extend([0; 4]);
        quoted.extend([0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        quoted.resize(quoted.len() + usize::from(icmp.quoted.1), 0);
        let mut quoted = ip(self.v6, (local(self.v6), remote(self.v6)), 6, Ecn::Not, &quoted);
        quoted.truncate(if self.v6 { 1200 } else { 28 });
        let (kind, code) = match self.v6 {
            true => icmpv6_of(&icmp.words).unwrap_or((icmp.kind, icmp.code)),
            false => (icmp.kind, icmp.code),
        };
        let mut bytes = vec![kind, code, 0, 0];
        let mtu = icmp.mtu.unwrap_or(0);
        bytes.extend(mtu.to_be_bytes());
        bytes.extend(quoted);
        let ends = (remote(self.v6), local(self.v6));
        let proto = if self.v6 { 58 } else { 1 };
        let start = if self.v6 { pseudo(ends, proto, bytes.len()) } else { 0 };
        let sum = checksum(start, &bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        ip(self.v6, ends, proto, ecn, &bytes)
    }

    /// What the stack sent, in the script's numbers. `want` is the packet that is expected, whose
    /// numbers the first of a connection are measured by.
    pub(super) fn relative(&mut self, raw: &Raw, want: Option<&Segment>) -> Packet {
        let default = self.default;
        let fresh = self.conns[default].local_port == 0;
        if fresh && self.conns[default].remote_port == raw.remote_port {
            self.conns[default].local_port = raw.local_port;
        }
        let at = self.conn(raw.local_port, raw.remote_port);
        let conn = &mut self.conns[at];
        let mut segment = raw.segment.clone();
        if segment.flags & 0x02 != 0 && conn.relearn {
            conn.relearn = false;
            conn.isn = Some(segment.seq.wrapping_sub(want.map_or(0, |w| w.seq)));
            conn.ts_offset = None;
        }
        segment.seq = segment.seq.wrapping_sub(conn.isn.unwrap_or(0));
        for opt in segment.options.iter_mut().flatten() {
            if let Opt::Ts(Some(val), _) = opt {
                let wanted = want.and_then(|w| w.options.as_ref()).and_then(|list| {
                    list.iter().find_map(|o| if let Opt::Ts(v, _) = o { *v } else { None })
                });
                let first = wanted.unwrap_or(100);
                let offset = *conn.ts_offset.get_or_insert(val.wrapping_sub(first));
                *val = val.wrapping_sub(offset);
            }
        }
        let named = want.is_some_and(|w| w.ports.is_some());
        segment.ports = (named || at != default).then_some((raw.local_port, raw.remote_port));
        Packet { ecn: Some(raw.ecn), body: Body::Tcp(segment) }
    }
}

impl Conn {
    fn emit(&self, s: &Segment, v6: bool) -> Vec<u8> {
        let isn = self.isn.unwrap_or(0);
        let mut options = Vec::new();
        for opt in s.options.iter().flatten() {
            self.emit_option(opt, isn, &mut options);
        }
        options.resize(options.len().next_multiple_of(4), 0);
        let ack = s.ack.map_or(0, |a| a.wrapping_add(isn));
        let mut b = Vec::new();
        b.extend(self.remote_port.to_be_bytes());
        b.extend(self.local_port.to_be_bytes());
        b.extend(s.seq.to_be_bytes());
        b.extend(ack.to_be_bytes());
        let words = (20 + options.len()) / 4;
        b.extend([(words as u8) << 4, s.flags]);
        b.extend(s.win.unwrap_or(0).to_be_bytes());
        b.extend([0, 0]);
        b.extend(s.urg.to_be_bytes());
        b.extend(options);
        b.resize(b.len() + usize::from(s.len), 0);
        let signed = s.options.iter().flatten().find_map(|opt| match opt {
            Opt::Md5(right) => Some(*right),
            _ => None,
        });
        if let (Some(right), Some(at)) = (signed, b.windows(2).position(|w| w == [19, 18])) {
            let digest = signature((remote(v6), local(v6)), &b, words * 4);
            let flip = if right { 0 } else { 0xff };
            b[at + 2..at + 18].iter_mut().zip(digest).for_each(|(to, d)| *to = d ^ flip);
        }
        let start = pseudo((remote(v6), local(v6)), 6, b.len());
        let sum = checksum(start, &b);
        b[16..18].copy_from_slice(&sum.to_be_bytes());
        b
    }
    fn emit_option(&self, opt: &Opt, isn: u32, out: &mut Vec<u8>) {
        match opt {
            Opt::Nop => out.push(1),
            Opt::Eol => out.push(0),
            Opt::Mss(n) => {
                out.extend([2, 4]);
                out.extend(n.to_be_bytes());
            }
            Opt::Wscale(n) => out.extend([3, 3, *n]),
            Opt::SackOk => out.extend([4, 2]),
            Opt::Sack(blocks) => {
                out.extend([5, 2 + 8 * blocks.len() as u8]);
                for (from, to) in blocks {
                    out.extend(from.wrapping_add(isn).to_be_bytes());
                    out.extend(to.wrapping_add(isn).to_be_bytes());
                }
            }
            Opt::Ts(val, ecr) => {
                let ecr = ecr.unwrap_or(0);
                let offset = if ecr == 0 { 0 } else { self.ts_offset.unwrap_or(0) };
                out.extend([8, 10]);
                out.extend(val.unwrap_or(0).to_be_bytes());
                out.extend(ecr.wrapping_add(offset).to_be_bytes());
            }
            Opt::Md5(_) => {
                out.extend([19, 18]);
                out.extend([0; 16]);
            }
            Opt::FastOpen(cookie) => {
                out.extend([34, 2 + cookie.len() as u8]);
                out.extend(cookie);
            }
            Opt::Other(kind, bytes) => {
                out.extend([*kind, 2 + bytes.len() as u8]);
                out.extend(bytes);
            }
        }
    }
}

fn sum(mut acc: u64, bytes: &[u8]) -> u64 {
    for pair in bytes.chunks(2) {
        acc += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    acc
}

fn checksum(start: u64, bytes: &[u8]) -> u16 {
    let mut acc = sum(start, bytes);
    while acc >> 16 != 0 {
        acc = (acc & 0xffff) + (acc >> 16);
    }
    !(acc as u16)
}

pub(super) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn pseudo((from, to): (IpAddr, IpAddr), proto: u8, len: usize) -> u64 {
    let acc = sum(sum(0, &octets(from)), &octets(to));
    acc + u64::from(proto) + len as u64
}

fn ip(v6: bool, (from, to): (IpAddr, IpAddr), proto: u8, ecn: Ecn, payload: &[u8]) -> Vec<u8> {
    let mut b = Vec::new();
    let len = payload.len();
    if v6 {
        b.extend([0x60, ecn.bits() << 4, 0, 0]);
        b.extend((len as u16).to_be_bytes());
        b.extend([proto, 64]);
        b.extend(octets(from));
        b.extend(octets(to));
    } else {
        b.extend([0x45, ecn.bits()]);
        b.extend((len as u16 + 20).to_be_bytes());
        b.extend([0, 0, 0x40, 0, 64, proto, 0, 0]);
        b.extend(octets(from));
        b.extend(octets(to));
        let sum = checksum(0, &b);
        b[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    b.extend(payload);
    b
}

/// Reads a packet that the stack sent. `Ok(None)` = nothing that scripts speak of: neighbour
/// discovery, multicast reports.
pub(super) fn dissect(bytes: &[u8]) -> Result<Option<Raw>, String> {
    let short = || "a packet that is shorter than its headers say".to_owned();
    let version = bytes.first().ok_or_else(short)? >> 4;
    let v6 = version == 6;
    let (head, proto, ecn) = match version {
        4 => {
            let head = usize::from(bytes[0] & 15) * 4;
            let header = bytes.get(..head.max(20)).ok_or_else(short)?;
            if checksum(0, header) != 0 {
                return Err("an IP header whose checksum is wrong".to_owned());
            }
            (head, header[9], Ecn::from_bits(header[1]))
        }
        6 => {
            let header = bytes.get(..40).ok_or_else(short)?;
            (40, header[6], Ecn::from_bits(header[1] >> 4))
        }
        _ => return Err("a packet that is neither IPv4 nor IPv6".to_owned()),
    };
    if proto != 6 {
        return Ok(None);
    }
    let tcp = &bytes[head..];
    if checksum(pseudo((local(v6), remote(v6)), 6, tcp.len()), tcp) != 0 {
        return Err("a TCP segment whose checksum is wrong".to_owned());
    }
    let fixed: &[u8; 20] = tcp.first_chunk().ok_or_else(short)?;
    let u16_at = |i: usize| u16::from_be_bytes([fixed[i], fixed[i + 1]]);
    let u32_at =
        |i: usize| u32::from_be_bytes([fixed[i], fixed[i + 1], fixed[i + 2], fixed[i + 3]]);
    let offset = usize::from(fixed[12] >> 4) * 4;
    let options = tcp.get(20..offset).ok_or_else(short)?;
    let flags = fixed[13];
    let mut segment = Segment {
        ports: None,
        flags,
        seq: u32_at(4),
        len: (tcp.len() - offset) as u16,
        ack: (flags & 0x10 != 0).then(|| u32_at(8)),
        win: Some(u16_at(14)),
        urg: u16_at(18),
        options: Some(read_options(options)?),
    };
    let digest = signature((local(v6), remote(v6)), tcp, offset);
    for opt in segment.options.iter_mut().flatten() {
        if let Opt::Other(19, said) = opt {
            *opt = Opt::Md5(said[..] == digest);
        }
    }
    Ok(Some(Raw { local_port: u16_at(0), remote_port: u16_at(2), segment, ecn }))
}

fn read_options(mut b: &[u8]) -> Result<Vec<Opt>, String> {
    let bad = || "TCP options that do not fit their length".to_owned();
    let mut list = Vec::new();
    while let Some(&kind) = b.first() {
        if kind <= 1 {
            list.push(if kind == 1 { Opt::Nop } else { Opt::Eol });
            b = &b[1..];
            continue;
        }
        let len = usize::from(*b.get(1).ok_or_else(bad)?);
        let body = b.get(2..len).ok_or_else(bad)?;
        let u16_at = |i: usize| body.get(i..i + 2).map(|x| u16::from_be_bytes([x[0], x[1]]));
        let u32_at = |i: usize| {
            let x = body.get(i..i + 4)?;
            Some(u32::from_be_bytes([x[0], x[1], x[2], x[3]]))
        };
        let opt = match (kind, body.len()) {
            (2, 2) => Opt::Mss(u16_at(0).ok_or_else(bad)?),
            (3, 1) => Opt::Wscale(body[0]),
            (4, 0) => Opt::SackOk,
            (5, n) if n % 8 == 0 => {
                let block = |i: usize| Some((u32_at(i * 8)?, u32_at(i * 8 + 4)?));
                Opt::Sack((0..n / 8).map(block).collect::<Option<_>>().ok_or_else(bad)?)
            }
            (8, 8) => Opt::Ts(u32_at(0), u32_at(4)),
            (34, _) => Opt::FastOpen(body.to_vec()),
            _ => Opt::Other(kind, body.to_vec()),
        };
        list.push(opt);
        b = &b[len..];
    }
    Ok(list)
}
