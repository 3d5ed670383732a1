//! What happened to chosen packets, stage by stage.

use crate::pkt::Pkt;
use crate::table::{Reason, Stage};
use crate::wire::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The packet's number.
    pub packet: u32,
    /// The stage that spoke.
    pub stage: Stage,
    /// What it said.
    pub said: Said,
    /// The packet as it was then.
    pub what: String,
}

/// What a stage said of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It goes on.
    Pass,
    /// Its journey ended as it should.
    Taken,
    /// It went on into the queue of a later stage.
    Queued,
    /// It waits in this stage.
    Held,
    /// It became part of another packet.
    Merged,
    /// It was dropped.
    Dropped(Reason),
}

/// Collects the lines of the packets that carry a trace number; at most [`Trace::MAX`] lines.
#[derive(Default)]
pub struct Trace {
    /// The lines so far, in the order in which they happened.
    pub lines: Vec<Line>,
}

impl Trace {
    /// More lines than this are not kept.
    pub const MAX: usize = 4096;

    pub(crate) fn say(&mut self, stage: Stage, packet: u32, what: String, said: Said) {
        if self.lines.len() < Trace::MAX {
            self.lines.push(Line { packet, stage, said, what });
        }
    }
}

/// What `stage` says of `pkt`, if the packet is traced and somebody listens. For stages that take
/// and give different numbers of packets, and for those where packets wait.
#[inline]
pub(crate) fn say(trace: &mut Option<Trace>, stage: Stage, pkt: &Pkt, said: Said) {
    if pkt.trace != 0
        && let Some(trace) = trace
    {
        say_at_length(trace, stage, pkt, said);
    }
}

#[cold]
fn say_at_length(trace: &mut Trace, stage: Stage, pkt: &Pkt, said: Said) {
    trace.say(stage, pkt.trace, describe(stage, pkt), said);
}

/// The packet in one line, as far as `stage` knows it: fields that a later stage sets hold what an
/// earlier packet left in them.
pub(crate) fn describe(stage: Stage, pkt: &Pkt) -> String {
    let on_wire = stage <= Stage::Link && stage != Stage::Backlog;
    let mut bytes = format!("{} bytes{}", pkt.len(), if on_wire { " on the wire" } else { "" });
    if let Some(gso) = pkt.gso {
        bytes.push_str(&format!(", {} segments of {}", gso.segs, gso.size));
    }
    if on_wire {
        return bytes;
    }
    let version = if stage == Stage::Ip {
        match pkt.head().first().map(|b| b >> 4) {
            Some(4) => "IPv4",
            Some(6) => "IPv6",
            _ => "no IP version",
        }
    } else if pkt.src.is_ipv4() {
        "IPv4"
    } else {
        "IPv6"
    };
    if stage == Stage::Ip {
        return format!("{version}, {bytes}");
    }
    let fragment = is_fragment(stage, pkt);
    let (src, dst) = match ports(stage, pkt).filter(|_| !fragment) {
        Some((sport, dport)) => {
            let with = |addr, port| std::net::SocketAddr::new(addr, port).to_string();
            (with(pkt.src, sport), with(pkt.dst, dport))
        }
        None => (pkt.src.to_string(), pkt.dst.to_string()),
    };
    let proto = match pkt.ip_proto {
        IPPROTO_TCP => "TCP".to_owned(),
        IPPROTO_UDP => "UDP".to_owned(),
        IPPROTO_ICMP => "ICMP".to_owned(),
        IPPROTO_ICMPV6 => "ICMPv6".to_owned(),
        other => format!("protocol {other}"),
    };
    let fragment = if fragment { " fragment" } else { "" };
    format!("{version} {src} → {dst} {proto}{fragment}, {bytes}")
}

/// Whether the header says that it is a fragment; before IpOut there is no header yet.
fn is_fragment(stage: Stage, pkt: &Pkt) -> bool {
    let header = pkt.from_network();
    match (stage, header) {
        (Stage::Send | Stage::IpOut, _) => false,
        (_, [first, _, _, _, _, _, high, low, ..]) if first >> 4 == 4 => {
            u16::from_be_bytes([*high, *low]) & 0x3fff != 0
        }
        _ => pkt.frag,
    }
}

/// The ports of TCP and UDP, from the transport header.
fn ports(stage: Stage, pkt: &Pkt) -> Option<(u16, u16)> {
    if pkt.ip_proto != IPPROTO_TCP && pkt.ip_proto != IPPROTO_UDP {
        return None;
    }
    // IpOut sets where the header is; until then it is at the front.
    let header =
        if matches!(stage, Stage::Send | Stage::IpOut) { pkt.head() } else { pkt.from_transport() };
    let [a, b, c, d] = *header.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}
