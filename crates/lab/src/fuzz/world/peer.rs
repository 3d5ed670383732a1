//! What the hostile peer sends, and what it learns from what the stack answers.

use std::net::{IpAddr, Ipv6Addr};

use super::super::draw::Draw;
use super::super::frames::{self, Seen, TCP, UDP, pick};
use super::{MAC, PEER, PEER6, Port, US, US6, World};

impl World<'_> {
    pub(super) fn learn(&mut self, packet: Vec<u8>) {
        if let Some(seen) = look(&packet) {
            self.seen.retain(|s| (s.proto, s.us, s.peer) != (seen.proto, seen.us, seen.peer));
            // What a reset ended is no aim any more.
            if seen.flags & 4 == 0 {
                self.seen.push_back(seen);
            }
            if self.seen.len() > 24 {
                self.seen.pop_front();
            }
        }
        self.sent.push_back(packet);
        if self.sent.len() > 16 {
            self.sent.pop_front();
        }
    }

    fn addrs(&mut self) -> (IpAddr, IpAddr) {
        let rng = &mut self.rng;
        let odd = |n: u64| -> (IpAddr, IpAddr) {
            let v4 = [
                [127, 0, 0, 1],
                [0, 0, 0, 0],
                [255, 255, 255, 255],
                [10, 0, 2, 255],
                [224, 0, 0, 1],
            ];
            let v6 = ["::1", "::", "ff02::1", "ff02::1:ff00:2", "fe80::1", "::ffff:10.0.2.2"];
            match n {
                0..5 => (v4[n as usize].into(), US),
                5..10 => (PEER, v4[n as usize - 5].into()),
                10..16 => (v6[n as usize - 10].parse().expect("an address"), US6),
                _ => (PEER6, v6[(n as usize - 16) % 6].parse().expect("an address")),
            }
        };
        match rng.below(16) {
            0 => odd(rng.below(22)),
            1 => (PEER, IpAddr::from([8, 8, 8, rng.below(200) as u8])),
            2 => (IpAddr::from([10, 0, 2, rng.below(256) as u8]), US),
            3 => {
                let peer = Ipv6Addr::from((0xfd00_u128 << 112) | u128::from(rng.below(500)));
                (peer.into(), US6)
            }
            4 => (PEER6, Ipv6Addr::from((0x2001_u128 << 112) | u128::from(rng.below(9))).into()),
            n if n < 11 => (PEER, US),
            _ => (PEER6, US6),
        }
    }

    /// One thing of many.
    pub(super) fn some_frames(&mut self) -> Vec<Vec<u8>> {
        let way = self.addrs();
        let rng = &mut self.rng;
        let ether = matches!(self.port, Port::Socket(..));
        let live =
            (!self.seen.is_empty()).then(|| self.seen[rng.below(self.seen.len() as u64) as usize]);
        let fresh = Seen {
            proto: TCP,
            us: (way.1, pick(rng, &[80, 81, 443, 0])),
            peer: (way.0, 1000 + rng.below(64) as u16),
            seq: 0,
            ack: rng.next_u32(),
            flags: 0,
            ts: Some((0, 1)),
        };
        let packet = match rng.below(16) {
            0 | 1 => {
                let mut frame =
                    self.captured[rng.below(self.captured.len() as u64) as usize].clone();
                frames::damage(rng, &mut frame);
                if !ether {
                    frame.drain(..frame.len().min(14));
                    frames::right_header(&mut frame);
                } else if frame.len() > 14 && rng.below(2) == 0 {
                    frame[..6].copy_from_slice(&MAC.0);
                    frames::right_header(&mut frame[14..]);
                }
                return vec![frame];
            }
            2..=7 => {
                let seen = live.filter(|s| s.proto == TCP && rng.below(5) > 0).unwrap_or(fresh);
                if rng.below(8) > 0 {
                    let all = frames::polite(rng, &seen);
                    return all.into_iter().map(|f| if ether { of(rng, &f) } else { f }).collect();
                }
                let (src, dst, segment) = frames::tcp(rng, &seen);
                frames::ip(rng, src, dst, TCP, &segment)
            }
            8 | 9 => {
                let port = pick(rng, &[53, 53, 99, 0]);
                let from = (way.0, 2000 + rng.below(40) as u16);
                let datagram = frames::udp(rng, from, (way.1, port));
                frames::ip(rng, way.0, way.1, UDP, &datagram)
            }
            10 | 11 => {
                let n = self.sent.len() as u64;
                let quote =
                    if n == 0 { Vec::new() } else { self.sent[rng.below(n) as usize].clone() };
                let message = frames::icmp(rng, way, &quote);
                frames::ip(rng, way.0, way.1, if way.0.is_ipv4() { 1 } else { 58 }, &message)
            }
            12 if ether => match way {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    return vec![framed(rng, 0x0806, &frames::arp(&mut rng.clone(), a, b))];
                }
                _ => return Vec::new(),
            },
            12 | 13 => match way {
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    let message = frames::nd(rng, (a, b), pick(&mut rng.clone(), &[a, b]));
                    frames::ip(rng, a.into(), b.into(), 58, &message)
                }
                _ => return Vec::new(),
            },
            _ => {
                let (port, proto) = (pick(rng, &[53, 99]), pick(rng, &[UDP, UDP, TCP, 1, 58, 132]));
                let datagram = frames::udp(rng, (way.0, 3000), (way.1, port));
                let whole = frames::ip(rng, way.0, way.1, proto, &datagram);
                let all = frames::fragments(rng, &whole);
                return all.into_iter().map(|f| if ether { of(rng, &f) } else { f }).collect();
            }
        };
        let packets =
            if rng.below(12) == 0 { frames::fragments(rng, &packet) } else { vec![packet] };
        let mut all = Vec::new();
        for mut packet in packets {
            if rng.below(12) == 0 {
                frames::damage(rng, &mut packet);
                frames::right_header(&mut packet);
            }
            all.push(if ether { of(rng, &packet) } else { packet });
        }
        all
    }
}

fn of(rng: &mut Draw<'_>, packet: &[u8]) -> Vec<u8> {
    let v6 = packet.first().is_some_and(|b| b >> 4 == 6);
    framed(rng, if v6 { 0x86dd } else { 0x0800 }, packet)
}

fn framed(rng: &mut Draw<'_>, proto: u16, payload: &[u8]) -> Vec<u8> {
    let to = match rng.below(14) {
        0 => [0xff; 6],
        1 => [0x33, 0x33, 0, 0, 0, 1],
        2 => [2, 9, 9, 9, 9, 9],
        _ => MAC.0,
    };
    let mut out = to.to_vec();
    out.extend([2, 0, 0, 0, 1, 0]);
    if rng.below(20) == 0 {
        out.extend([0x81, 0, 0, pick(rng, &[5, 6, 0])]);
    }
    out.extend(proto.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// What a packet of the stack tells about its connection.
fn look(packet: &[u8]) -> Option<Seen> {
    let v4 = packet.first()? >> 4 == 4;
    let (src, dst, proto, l4) = if v4 {
        let addr =
            |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        (addr(12)?, addr(16)?, packet[9], packet.get(usize::from(packet[0] & 15) * 4..)?)
    } else {
        let addr =
            |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
        (addr(8)?, addr(24)?, *packet.get(6)?, packet.get(40..)?)
    };
    let half = |at: usize| Some(u16::from_be_bytes(l4.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_be_bytes(l4.get(at..at + 4)?.try_into().ok()?));
    if proto != TCP {
        return None;
    }
    let head = usize::from(l4.get(12)? >> 4) * 4;
    let flags = *l4.get(13)?;
    let len = l4.len().saturating_sub(head) as u32 + u32::from(flags & 3 != 0);
    let opts = l4.get(20..head)?;
    let at = opts.windows(2).position(|w| w == [8, 10]).map(|at| 20 + at + 2);
    let ts = at.and_then(|at| Some((word(at)?, word(at + 4)?)));
    Some(Seen {
        proto,
        us: (src, half(0)?),
        peer: (dst, half(2)?),
        seq: word(4)?.wrapping_add(len),
        ack: word(8)?,
        flags,
        ts,
    })
}
