//! What is thrown at the stack: damaged captures, and packets built to fit what it has open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::draw::Draw;
use linerate_core::pkt::pseudo;
use linerate_dev::pcap::Reader;

/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// A connection as it looks from outside: what the stack has sent last.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub proto: u8,
    /// The stack's end.
    pub us: (IpAddr, u16),
    /// The other end.
    pub peer: (IpAddr, u16),
    /// What it sends next.
    pub seq: u32,
    /// What it expects next.
    pub ack: u32,
    /// The flags of its last segment.
    pub flags: u8,
    /// Its last timestamp and the one it echoed.
    pub ts: Option<(u32, u32)>,
}

/// IP packets of all captures; frames that are longer than a packet may be are left out.
pub fn captured() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/captures");
    let mut dirs = vec![root];
    while let Some(dir) = dirs.pop() {
        let mut paths: Vec<_> = std::fs::read_dir(dir)
            .expect("a folder")
            .map(|e| e.expect("an entry").path())
            .collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let Ok(mut reader) = Reader::open(&path) else { continue };
            let mut n = 0;
            while let Ok(Some(frame)) = reader.next_frame() {
                n += 1;
                if frame.data.len() > 14 && frame.data.len() < 60_000 && n < 80 {
                    all.push(frame.data.to_vec());
                }
            }
        }
    }
    all
}

/// Sums the words of `bytes` onto `sum`, and folds (RFC 1071): apart from the stack's own code.
fn csum(bytes: &[u8], sum: u32) -> u16 {
    let word = |w: &[u8]| u64::from(w[0]) << 8 | w.get(1).map_or(0, |b| u64::from(*b));
    let mut all = u64::from(sum) + bytes.chunks(2).map(word).sum::<u64>();
    while all > 0xffff {
        all = (all & 0xffff) + (all >> 16);
    }
    !(all as u16)
}

/// One of them.
pub fn pick<T: Copy>(rng: &mut Draw<'_>, all: &[T]) -> T {
    all[rng.below(all.len() as u64) as usize]
}

fn bytes(rng: &mut Draw<'_>, n: u64) -> Vec<u8> {
    (0..n).map(|_| rng.next_u32() as u8).collect()
}

/// Bits flipped, cut short, made longer, fields that lie.
pub fn damage(rng: &mut Draw<'_>, frame: &mut Vec<u8>) {
    for _ in 0..rng.below(5) {
        if frame.is_empty() {
            return;
        }
        let near = rng.below(frame.len().min(90) as u64) as usize;
        match rng.below(7) {
            0 => frame.truncate(near),
            1 => frame.extend(bytes(rng, 40)),
            2 => frame[near] ^= 1 << rng.below(8),
            3 => frame[near] = pick(rng, &[0, 1, 0x7f, 0x80, 0xff]),
            4 if frame.len() > near + 1 => {
                let value = pick(rng, &[0u16, 1, 7, 8, 20, 0x7fff, 0x8000, 0xffff]);
                frame[near..near + 2].copy_from_slice(&value.to_be_bytes());
            }
            5 => {
                let from = rng.below(frame.len() as u64) as usize;
                let copy = frame[from..].to_vec();
                frame.splice(near..near, copy);
                frame.truncate(60_000);
            }
            _ => {
                let n = rng.below(200);
                let at = rng.below(frame.len() as u64) as usize;
                let end = (at + n as usize).min(frame.len());
                frame.drain(at..end);
            }
        }
    }
}

/// The checksum of an IPv4 header is made right, so that what lies behind it is reached.
pub fn right_header(packet: &mut [u8]) {
    let ihl = packet.first().map_or(0, |b| usize::from(b & 0xf) * 4);
    if packet.first().is_some_and(|b| b >> 4 == 4) && (20..=packet.len()).contains(&ihl) {
        packet[10..12].fill(0);
        let sum = csum(&packet[..ihl], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// An IP packet with `payload`; its fields are mostly right.
pub fn ip(rng: &mut Draw<'_>, src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => ip4(rng, (s, d), proto, payload),
        (IpAddr::V6(s), IpAddr::V6(d)) => ip6(rng, (s, d), proto, payload),
        _ => bytes(rng, 60),
    }
}

fn ip4(rng: &mut Draw<'_>, (src, dst): (Ipv4Addr, Ipv4Addr), proto: u8, payload: &[u8]) -> Vec<u8> {
    let words = if rng.below(12) == 0 { rng.below(11) as usize } else { 0 };
    let mut out = vec![0; 20 + 4 * words];
    out[0] = 0x45 + words as u8;
    out[1] = if rng.below(6) == 0 { rng.next_u32() as u8 } else { 0 };
    let total = (out.len() + payload.len()).min(65535) as u16;
    out[2..4].copy_from_slice(&total.to_be_bytes());
    out[4..6].copy_from_slice(&(rng.below(4) as u16).to_be_bytes());
    out[6] = if rng.below(2) == 0 { 0x40 } else { 0 };
    out[8] = if rng.below(20) == 0 { rng.below(3) as u8 } else { 64 };
    out[9] = proto;
    out[12..16].copy_from_slice(&src.octets());
    out[16..20].copy_from_slice(&dst.octets());
    for byte in &mut out[20..] {
        *byte = pick(rng, &[0, 1, 4, 7, 11, 68, 131, 137, 148, 3, 255]);
    }
    right_header(&mut out);
    out.extend_from_slice(payload);
    out
}

fn ip6(rng: &mut Draw<'_>, (src, dst): (Ipv6Addr, Ipv6Addr), proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut ext: Vec<(u8, Vec<u8>)> = Vec::new();
    if rng.below(8) == 0 {
        for _ in 0..rng.below(6) {
            let kind = pick(rng, &[0, 43, 60, 60, 51, 135]);
            let n = 8 * (1 + rng.below(3));
            let mut body = bytes(rng, n);
            body[1] = if rng.below(6) == 0 { rng.next_u32() as u8 } else { (n / 8 - 1) as u8 };
            for byte in &mut body[2..] {
                *byte = if rng.below(4) == 0 { *byte } else { pick(rng, &[0, 1, 4]) };
            }
            ext.push((kind, body));
        }
    }
    let mut out = vec![0; 40];
    out[0] = 0x60;
    out[6] = ext.first().map_or(proto, |e| e.0);
    out[7] = if rng.below(20) == 0 { rng.below(3) as u8 } else { 255 };
    out[8..24].copy_from_slice(&src.octets());
    out[24..40].copy_from_slice(&dst.octets());
    for at in 0..ext.len() {
        let next = ext.get(at + 1).map_or(proto, |e| e.0);
        let body = &mut ext[at].1;
        body[0] = next;
        out.extend_from_slice(body);
    }
    out.extend_from_slice(payload);
    let len = (out.len() - 40).min(65535) as u16;
    out[4..6].copy_from_slice(&len.to_be_bytes());
    out
}

/// Puts a transport checksum at `at`: mostly the right one, or, if the device is to complete it,
/// that of the pseudo header.
fn sum(rng: &mut Draw<'_>, way: (IpAddr, IpAddr), proto: u8, out: &mut [u8], at: usize) {
    if rng.below(40) == 0 || out.len() < at + 2 || way.0.is_ipv4() != way.1.is_ipv4() {
        return;
    }
    let head = if proto == ICMP { 0 } else { pseudo(way.0, way.1, out.len(), proto) };
    out[at..at + 2].fill(0);
    let sum = csum(out, head);
    out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn tcp_options(rng: &mut Draw<'_>, seen: &Seen) -> Vec<u8> {
    let mut out = Vec::new();
    let near =
        |rng: &mut Draw<'_>, x: u32| x.wrapping_add(rng.below(6000) as u32).wrapping_sub(2000);
    if let (Some((val, echo)), true) = (seen.ts, rng.below(8) > 0) {
        let val_in = if rng.below(4) == 0 { near(rng, echo) } else { echo.wrapping_add(1) };
        out.extend([1, 1, 8, 10]);
        out.extend(val_in.to_be_bytes());
        out.extend(val.to_be_bytes());
    }
    match rng.below(8) {
        0 => {
            let n = 1 + rng.below(3);
            out.extend([1, 1, 5, 2 + 8 * n as u8]);
            for _ in 0..2 * n {
                out.extend(near(rng, seen.seq).to_be_bytes());
            }
        }
        1 => out.extend([
            2,
            4,
            rng.below(3) as u8,
            rng.next_u32() as u8,
            3,
            3,
            rng.below(17) as u8,
            0,
        ]),
        2 => out.extend([2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0]),
        3 => out.extend((0..rng.below(40)).map(|_| pick(rng, &[0, 1, 2, 3, 5, 8, 254]))),
        4 => {
            let n = rng.below(24);
            out.extend(bytes(rng, n));
        }
        _ => {}
    }
    out.truncate(40);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// A segment near what the stack expects on a connection.
pub fn tcp(rng: &mut Draw<'_>, seen: &Seen) -> (IpAddr, IpAddr, Vec<u8>) {
    let near = |rng: &mut Draw<'_>, x: u32| match rng.below(9) {
        0 => x.wrapping_sub(rng.below(4000) as u32),
        1 => x.wrapping_add(rng.below(70_000) as u32),
        2 => rng.next_u32(),
        3 => x.wrapping_add(0x8000_0000).wrapping_sub(rng.below(3) as u32),
        4 => x.wrapping_add(1),
        _ => x,
    };
    let options = tcp_options(rng, seen);
    let mut out = vec![0; 20];
    out[0..2].copy_from_slice(&seen.peer.1.to_be_bytes());
    out[2..4].copy_from_slice(&seen.us.1.to_be_bytes());
    out[4..8].copy_from_slice(&near(rng, seen.ack).to_be_bytes());
    out[8..12].copy_from_slice(&near(rng, seen.seq).to_be_bytes());
    out[12] = (5 + options.len() as u8 / 4) << 4;
    out[13] = match rng.below(14) {
        0 => rng.next_u32() as u8,
        1 => 0x02,
        2 => 0x11,
        3 if rng.below(4) == 0 => 0x04,
        4 => 0x12,
        5 => 0x18 | 0x20,
        6 => 0x10 | 0x40 | 0x80,
        _ => 0x18,
    };
    let window = pick(rng, &[0u16, 1, 100, 1000, 30_000, 65535]);
    out[14..16].copy_from_slice(&window.to_be_bytes());
    out[18..20].copy_from_slice(&(rng.below(20) as u16).to_be_bytes());
    out.extend(options);
    let n = match rng.below(6) {
        0 | 1 => 0,
        2 => rng.below(60_000),
        _ => rng.below(1400),
    };
    out.resize(out.len() + n as usize, 0x5a);
    let way = (seen.peer.0, seen.us.0);
    sum(rng, way, TCP, &mut out, 16);
    (way.0, way.1, out)
}

/// What an honest peer would send next: the answer to a SYN, or some segments in a row that
/// acknowledge all, and mostly carry data. Without these no connection would live long.
pub fn polite(rng: &mut Draw<'_>, seen: &Seen) -> Vec<Vec<u8>> {
    let way = (seen.peer.0, seen.us.0);
    let (first, count) = match seen.flags & 0x17 {
        0x02 => (0x12, 1),
        0x12 => (0x10, 1),
        0 => (0x02, 1),
        _ => (0x18, 1 + rng.below(8)),
    };
    let mut seq = if first == 0x12 { rng.next_u32() } else { seen.ack };
    let size = pick(rng, &[0, 1, 100, 536, 1200, 1400]);
    // Now and then some of what the stack sent is missing, and what came behind it is told.
    let missing = if rng.below(3) == 0 { pick(rng, &[1u32, 1000, 1400, 2800, 9000]) } else { 0 };
    let mut all = Vec::new();
    for at in 0..count {
        let mut out = vec![0; 20];
        out[0..2].copy_from_slice(&seen.peer.1.to_be_bytes());
        out[2..4].copy_from_slice(&seen.us.1.to_be_bytes());
        out[4..8].copy_from_slice(&seq.to_be_bytes());
        let acked = if first == 0x18 { seen.seq.wrapping_sub(missing) } else { seen.seq };
        out[8..12].copy_from_slice(&acked.to_be_bytes());
        let last = at + 1 == count;
        out[13] = if first == 0x18 && last && rng.below(16) == 0 { 0x11 } else { first };
        let window = pick(rng, &[0u16, 500, 30_000, 65535, 65535]);
        out[14..16].copy_from_slice(&window.to_be_bytes());
        if first & 2 != 0 {
            out.extend([2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9]);
            out.extend(seen.ts.map_or(0, |ts| ts.0).to_be_bytes());
            out.extend([1, 3, 3, 7]);
        } else if let Some((val, echo)) = seen.ts {
            out.extend([1, 1, 8, 10]);
            out.extend(echo.wrapping_add(at as u32 / 6).to_be_bytes());
            out.extend(val.to_be_bytes());
        }
        if missing > 100 && first == 0x18 {
            out.extend([1, 1, 5, 10]);
            out.extend(acked.wrapping_add(missing / 2).to_be_bytes());
            out.extend(seen.seq.to_be_bytes());
        }
        out[12] = (out.len() as u8 / 4) << 4;
        let n = if first == 0x18 { size } else { 0 };
        out.resize(out.len() + n, 0x5a);
        seq = seq.wrapping_add(n as u32);
        sum(&mut Draw::seed(1), way, TCP, &mut out, 16);
        all.push(bare_ip(way, TCP, &out));
    }
    all
}

/// An IP packet with nothing odd in it.
fn bare_ip(way: (IpAddr, IpAddr), proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 40];
    match way {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            out.truncate(20);
            (out[0], out[6], out[8], out[9]) = (0x45, 0x40, 64, proto);
            out[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
            out[12..16].copy_from_slice(&src.octets());
            out[16..20].copy_from_slice(&dst.octets());
            right_header(&mut out);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            (out[0], out[6], out[7]) = (0x60, proto, 64);
            out[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            out[8..24].copy_from_slice(&src.octets());
            out[24..40].copy_from_slice(&dst.octets());
        }
        _ => {}
    }
    out.extend_from_slice(payload);
    out
}

/// A datagram, mostly right.
pub fn udp(rng: &mut Draw<'_>, from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
    let n = match rng.below(5) {
        0 => 0,
        1 => rng.below(50_000),
        _ => rng.below(1400),
    };
    let mut out = vec![0x33; 8 + n as usize];
    out[0..2].copy_from_slice(&from.1.to_be_bytes());
    out[2..4].copy_from_slice(&to.1.to_be_bytes());
    let len = if rng.below(12) == 0 { rng.next_u32() as u16 } else { out.len() as u16 };
    out[4..6].copy_from_slice(&len.to_be_bytes());
    sum(rng, (from.0, to.0), UDP, &mut out, 6);
    out
}

/// Echo requests, and errors that quote what the stack has sent.
pub fn icmp(rng: &mut Draw<'_>, way: (IpAddr, IpAddr), quote: &[u8]) -> Vec<u8> {
    let v4 = way.0.is_ipv4();
    let mut out = vec![0; 8];
    if rng.below(3) == 0 {
        out[0] = if v4 { 8 } else { 128 };
        out[4..8].copy_from_slice(&rng.next_u32().to_be_bytes());
        out.resize(8 + rng.below(3000) as usize, 7);
    } else {
        let (kind, code) = if v4 {
            pick(
                rng,
                &[
                    (3, 0),
                    (3, 1),
                    (3, 2),
                    (3, 3),
                    (3, 4),
                    (3, 13),
                    (4, 0),
                    (5, 1),
                    (11, 0),
                    (12, 0),
                    (13, 0),
                    (0, 0),
                ],
            )
        } else {
            pick(
                rng,
                &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1), (129, 0), (130, 0), (143, 0), (137, 0)],
            )
        };
        (out[0], out[1]) = (kind, code);
        let mtu = pick(rng, &[0u16, 67, 68, 296, 552, 1279, 1280, 1400, 1500, 65535]);
        out[6..8].copy_from_slice(&mtu.to_be_bytes());
        let mut quote = quote[..quote.len().min(600)].to_vec();
        damage(rng, &mut quote);
        out.extend(quote);
    }
    if v4 {
        sum(rng, way, ICMP, &mut out, 2);
    } else {
        sum(rng, way, ICMP6, &mut out, 2);
    }
    out
}

/// Neighbour and router discovery, sane or not.
pub fn nd(rng: &mut Draw<'_>, way: (Ipv6Addr, Ipv6Addr), target: Ipv6Addr) -> Vec<u8> {
    let kind = pick(rng, &[133u8, 134, 135, 135, 136, 136, 137]);
    let mut out = vec![kind, 0, 0, 0];
    out.extend(if rng.below(4) == 0 { rng.next_u32() } else { 0x6000_0000 }.to_be_bytes());
    if kind >= 135 {
        out.extend(target.octets());
    }
    for _ in 0..rng.below(3) {
        let len = if rng.below(6) == 0 { rng.next_u32() as u8 } else { 1 };
        out.extend([pick(rng, &[1u8, 2, 3, 5, 14]), len, 2, 0, 0, 0]);
        out.extend((rng.below(5) as u16).to_be_bytes());
    }
    sum(rng, (way.0.into(), way.1.into()), ICMP6, &mut out, 2);
    out
}

/// Cuts an IP packet into fragments that may overlap, be missing, be doubled or be out of order.
pub fn fragments(rng: &mut Draw<'_>, packet: &[u8]) -> Vec<Vec<u8>> {
    let v4 = packet.first().is_some_and(|b| b >> 4 == 4);
    let head = if v4 { usize::from(packet[0] & 0xf) * 4 } else { 40 };
    if packet.len() <= head + 8 {
        return vec![packet.to_vec()];
    }
    let (id, honest) = (rng.below(6) as u32, rng.below(2) == 0);
    let room = 8 * (1 + rng.below(if honest { 180 } else { 40 })) as usize;
    let data = &packet[head..];
    let mut out = Vec::new();
    let mut at = 0;
    while at < data.len() && out.len() < 70 {
        let end = (at + room).min(data.len());
        let lie = if !honest && rng.below(6) == 0 { rng.below(9) as usize * 8 } else { 0 };
        let off = if rng.below(2) == 0 { at.saturating_sub(lie) } else { at + lie };
        let more = (end < data.len()) != (!honest && rng.below(20) == 0);
        out.push(fragment(packet, head, &data[at..end], off, more, id));
        at = end;
    }
    for i in (1..out.len()).rev() {
        if rng.below(3) == 0 {
            out.swap(i, rng.below(i as u64 + 1) as usize);
        }
    }
    if !honest && out.len() > 1 {
        match rng.below(3) {
            0 => drop(out.remove(rng.below(out.len() as u64) as usize)),
            1 => out.push(out[rng.below(out.len() as u64) as usize].clone()),
            _ => {}
        }
    }
    out
}

fn fragment(packet: &[u8], head: usize, part: &[u8], off: usize, more: bool, id: u32) -> Vec<u8> {
    let mut out = packet[..head].to_vec();
    let word = (off.min(65528) as u16) & !7;
    if packet[0] >> 4 == 4 {
        let total = (head + part.len()) as u16;
        out[2..4].copy_from_slice(&total.to_be_bytes());
        out[4..6].copy_from_slice(&(id as u16).to_be_bytes());
        out[6..8].copy_from_slice(&(word >> 3 | u16::from(more) << 13).to_be_bytes());
        right_header(&mut out);
    } else {
        let next = std::mem::replace(&mut out[6], 44);
        out[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        out.extend([next, 0]);
        out.extend((word | u16::from(more)).to_be_bytes());
        out.extend(id.to_be_bytes());
    }
    out.extend_from_slice(part);
    out
}

/// A question or an answer, now and then damaged.
pub fn arp(rng: &mut Draw<'_>, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut out =
        vec![0, 1, 8, 0, 6, 4, 0, 1 + rng.below(2) as u8, 2, 0, 0, 0, 1, rng.below(4) as u8];
    out.extend(sender.octets());
    out.extend([0; 6]);
    out.extend(target.octets());
    if rng.below(6) == 0 {
        damage(rng, &mut out);
    }
    out
}
