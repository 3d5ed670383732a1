//! Packets for people: one line each, in the manner of tcpdump.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr};

use linerate_core::table::Stage;
use linerate_core::tap::filter::Link;
use linerate_core::tap::{Head, Point};
use linerate_core::trace::Said;
use linerate_core::wire::ipv6::walk;
use linerate_core::wire::{
    ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_ICMP, IPPROTO_ICMPV6,
    IPPROTO_TCP, IPPROTO_UDP, Ipv4Hdr, Ipv6Hdr, TcpFlags, TcpHdr,
};

use super::Failure;

/// Lines that are gathered before they are written, in bytes.
const BUFFER: usize = 1 << 16;

/// Prints packets.
#[derive(Default)]
pub struct Printer {
    lines: String,
    /// Packets so far.
    pub printed: u64,
}

impl Printer {
    /// Adds a line for a packet.
    pub fn packet(&mut self, device: &str, head: &Head, bytes: &[u8]) -> Result<(), Failure> {
        line(&mut self.lines, device, head, bytes);
        self.printed += 1;
        if self.lines.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Writes the lines. A reader that has gone (`| head`) ends the capture.
    pub fn flush(&mut self) -> Result<(), Failure> {
        let lines = std::mem::take(&mut self.lines);
        let mut out = io::stdout().lock();
        let written = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
        match written {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Failure(0, String::new())),
            Err(e) => Err(Failure(1, format!("what is printed can not be written: {e}"))),
        }
    }
}

/// One packet, one line.
fn line(out: &mut String, device: &str, head: &Head, bytes: &[u8]) {
    let (secs, ns) = (head.ts_ns / 1_000_000_000, head.ts_ns % 1_000_000_000);
    let day = secs % 86_400;
    let (h, m, s) = (day / 3600, day / 60 % 60, day % 60);
    let _ = write!(out, "{h:02}:{m:02}:{s:02}.{:06}", ns / 1000);
    if !device.is_empty() {
        let _ = write!(out, " {device:<6}");
        let way = if head.outbound { "Out" } else { "In " };
        match (head.stage, head.point) {
            (Stage::Ring | Stage::Xmit, Point::Before) => {
                let _ = write!(out, " {way}");
            }
            (stage, Point::Before) => {
                let _ = write!(out, " {way} {:<9}", stage.name());
            }
            (stage, point) => {
                let _ = write!(out, " {way} {:<9} {:<6}", stage.name(), point.name());
            }
        }
    }
    out.push(' ');
    describe(out, head, bytes);
    match head.said {
        Some(Said::Dropped(reason)) => {
            let _ = write!(out, " [dropped: {}]", reason.label());
        }
        Some(Said::Taken | Said::Queued | Said::Held | Said::Merged | Said::Pass) | None => {}
    }
    out.push('\n');
}

fn describe(out: &mut String, head: &Head, bytes: &[u8]) {
    let (mut at, mut proto) = match head.link {
        Link::Ip => {
            (0, if bytes.first().is_some_and(|b| b >> 4 == 6) { ETH_P_IPV6 } else { ETH_P_IP })
        }
        Link::Ethernet => (14, ethertype(bytes, 12)),
    };
    while matches!(proto, ETH_P_8021Q | ETH_P_8021AD) {
        let _ = write!(out, "vlan {}, ", ethertype(bytes, at) & 0xfff);
        proto = ethertype(bytes, at + 2);
        at += 4;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let whole = (head.len as usize).saturating_sub(at);
    let said = match proto {
        ETH_P_IP => ipv4(out, rest, whole),
        ETH_P_IPV6 => ipv6(out, rest, whole),
        ETH_P_ARP => arp(out, rest),
        _ => None,
    };
    if said.is_none() {
        let _ = write!(out, "ethertype 0x{proto:04x}, length {whole}");
    }
}

fn ethertype(bytes: &[u8], at: usize) -> u16 {
    let two = bytes.get(at..).and_then(<[u8]>::first_chunk);
    two.map_or(0, |b| u16::from_be_bytes(*b))
}

fn ipv4(out: &mut String, bytes: &[u8], whole: usize) -> Option<()> {
    let hdr = Ipv4Hdr::parse(bytes).ok()?;
    let (src, dst) = (IpAddr::V4(hdr.src), IpAddr::V4(hdr.dst));
    out.push_str("IP ");
    let len = whole.saturating_sub(hdr.ihl_bytes);
    if hdr.frag_off_bytes > 0 {
        let _ = write!(out, "{src} > {dst}: fragment at {}, length {len}", hdr.frag_off_bytes);
        return Some(());
    }
    transport(out, (src, dst), hdr.proto, bytes.get(hdr.ihl_bytes..)?, len);
    if hdr.mf {
        out.push_str(", more fragments");
    }
    Some(())
}

fn ipv6(out: &mut String, bytes: &[u8], whole: usize) -> Option<()> {
    let hdr = Ipv6Hdr::parse(bytes).ok()?;
    let (src, dst) = (IpAddr::V6(hdr.src), IpAddr::V6(hdr.dst));
    out.push_str("IP6 ");
    let (proto, at) = match walk(bytes, &hdr) {
        Ok(upper) => (upper.proto, upper.offset),
        Err(_) => (hdr.next_header, Ipv6Hdr::LEN),
    };
    transport(out, (src, dst), proto, bytes.get(at..)?, whole.saturating_sub(at));
    Some(())
}

/// What follows the IP header; `whole` bytes of it there were on the path.
fn transport(
    out: &mut String,
    (src, dst): (IpAddr, IpAddr),
    proto: u8,
    bytes: &[u8],
    whole: usize,
) {
    if matches!(proto, IPPROTO_TCP | IPPROTO_UDP)
        && let Some([a, b, c, d]) = bytes.first_chunk::<4>()
    {
        let (sport, dport) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
        let (src, dst) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
        let _ = write!(out, "{src} > {dst}: ");
        match TcpHdr::parse(bytes) {
            Ok(tcp) if proto == IPPROTO_TCP => {
                let _ = write!(
                    out,
                    "Flags [{}], seq {}, ack {}, win {}, length {}",
                    flags(tcp.flags),
                    tcp.seq,
                    tcp.ack,
                    tcp.window,
                    whole.saturating_sub(tcp.data_off_bytes)
                );
            }
            _ if proto == IPPROTO_TCP => out.push_str("tcp, cut off"),
            _ => {
                let _ = write!(out, "UDP, length {}", whole.saturating_sub(8));
            }
        }
        return;
    }
    let _ = write!(out, "{src} > {dst}: ");
    let _ = match (proto, bytes.first(), bytes.get(1)) {
        (IPPROTO_ICMP, Some(8), _) => write!(out, "ICMP echo request, length {whole}"),
        (IPPROTO_ICMP, Some(0), _) => write!(out, "ICMP echo reply, length {whole}"),
        (IPPROTO_ICMPV6, Some(128), _) => write!(out, "ICMP6 echo request, length {whole}"),
        (IPPROTO_ICMPV6, Some(129), _) => write!(out, "ICMP6 echo reply, length {whole}"),
        (IPPROTO_ICMP, Some(kind), Some(code)) => {
            write!(out, "ICMP type {kind} code {code}, length {whole}")
        }
        (IPPROTO_ICMPV6, Some(kind), Some(code)) => {
            write!(out, "ICMP6 type {kind} code {code}, length {whole}")
        }
        _ => write!(out, "protocol {proto}, length {whole}"),
    };
}

/// As tcpdump has them: a point is ACK.
fn flags(flags: TcpFlags) -> String {
    let all = [
        (TcpFlags::FIN, 'F'),
        (TcpFlags::SYN, 'S'),
        (TcpFlags::RST, 'R'),
        (TcpFlags::PSH, 'P'),
        (TcpFlags::ACK, '.'),
        (TcpFlags::URG, 'U'),
        (TcpFlags::ECE, 'E'),
        (TcpFlags::CWR, 'W'),
    ];
    let set = all.iter().filter(|(flag, _)| flags.0 & flag.0 != 0);
    let text: String = set.map(|(_, c)| *c).collect();
    if text.is_empty() { "none".to_owned() } else { text }
}

fn arp(out: &mut String, bytes: &[u8]) -> Option<()> {
    let four = |at: usize| {
        let b: &[u8; 4] = bytes.get(at..)?.first_chunk()?;
        Some(IpAddr::from(*b))
    };
    let (spa, tpa) = (four(14)?, four(24)?);
    let _ = match ethertype(bytes, 6) {
        1 => write!(out, "ARP, who has {tpa}, tell {spa}"),
        2 => write!(out, "ARP, {spa} is here"),
        other => write!(out, "ARP, operation {other}"),
    };
    Some(())
}
