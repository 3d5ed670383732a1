//! Packets in the script's own words: read, and written.

use std::fmt;

use super::ScriptError;
use super::lexer::Tok;
use super::parse::Cursor;
use super::script::{Body, Ecn, Icmp, Opt, Packet, Segment};

/// The letters of the control bits, in the order in which they are written.
const LETTERS: [(char, u8); 8] = [
    ('S', 0x02),
    ('F', 0x01),
    ('R', 0x04),
    ('P', 0x08),
    ('U', 0x20),
    ('E', 0x40),
    ('W', 0x80),
    ('.', 0x10),
];

/// Names of ICMP errors: word, code word, IPv4 type and code, IPv6 type and code.
type IcmpName = (&'static str, &'static str, Option<(u8, u8)>, Option<(u8, u8)>);
const ICMP: [IcmpName; 12] = [
    ("unreachable", "frag_needed", Some((3, 4)), None),
    ("unreachable", "net_unreachable", Some((3, 0)), Some((1, 0))),
    ("unreachable", "host_unreachable", Some((3, 1)), Some((1, 3))),
    ("unreachable", "protocol_unreachable", Some((3, 2)), None),
    ("unreachable", "port_unreachable", Some((3, 3)), Some((1, 4))),
    ("unreachable", "source_route_failed", Some((3, 5)), None),
    ("unreachable", "net_prohibited", Some((3, 9)), None),
    ("unreachable", "host_prohibited", Some((3, 10)), None),
    ("unreachable", "packet_filtered", Some((3, 13)), Some((1, 1))),
    ("time_exceeded", "hop_count_exceeded", Some((11, 0)), Some((3, 0))),
    ("source_quench", "", Some((4, 0)), None),
    ("packet_too_big", "", None, Some((2, 0))),
];

/// Reads what follows `<` or `>`.
pub(super) fn parse(c: &mut Cursor<'_>) -> Result<Packet, ScriptError> {
    let mut ecn = None;
    for (open, close) in [('[', ']'), ('(', ')')] {
        if c.take(open) {
            ecn = Some(match c.word() {
                Some("noecn") => Ecn::Not,
                Some("ect0") => Ecn::Ect0,
                Some("ect1") => Ecn::Ect1,
                Some("ce") => Ecn::Ce,
                _ => return c.fail("expected noecn, ect0, ect1 or ce"),
            });
            c.next();
            c.want(close)?;
        }
    }
    if c.take_word("icmp") {
        return Ok(Packet { ecn, body: Body::Icmp(icmp(c)?) });
    }
    let mut ports = None;
    if matches!(c.peek(), Some(Tok::Int(_))) {
        let from = c.number()?;
        c.want('>')?;
        ports = Some((from, c.number()?));
        c.take(':');
    }
    let flags = flags(c)?;
    let seq = c.number::<u32>()?;
    let len = range(c, seq)?;
    let ack = if c.take_word("ack") { Some(c.number()?) } else { None };
    let win = if c.take_word("win") { Some(c.number()?) } else { None };
    let urg = if c.take_word("urg") { c.number()? } else { 0 };
    let options = if c.take('<') { options(c)? } else { Some(Vec::new()) };
    let segment = Segment { ports, flags, seq, len, ack, win, urg, options };
    Ok(Packet { ecn, body: Body::Tcp(segment) })
}

/// `:1001(1000)` behind the first number.
fn range(c: &mut Cursor<'_>, seq: u32) -> Result<u16, ScriptError> {
    c.want(':')?;
    let end = c.number::<u32>()?;
    c.want('(')?;
    let len = c.number::<u16>()?;
    if seq.wrapping_add(u32::from(len)) != end {
        return c.fail("expected END = BEGIN + LENGTH in BEGIN:END(LENGTH)");
    }
    c.want(')')?;
    Ok(len)
}

fn flags(c: &mut Cursor<'_>) -> Result<u8, ScriptError> {
    if c.take('-') {
        return Ok(0);
    }
    let mut bits = 0;
    let begun = c.word().is_some();
    for letter in c.word().unwrap_or_default().chars() {
        match LETTERS.iter().find(|(l, _)| *l == letter) {
            Some((_, bit)) => bits |= bit,
            None => return c.fail("expected control bits: letters of SFRPUEW, then a dot for ACK"),
        }
    }
    if begun {
        c.next();
    }
    if c.take('.') {
        bits |= 0x10;
    } else if !begun {
        return c.fail("expected control bits, or - for none");
    }
    Ok(bits)
}

fn options(c: &mut Cursor<'_>) -> Result<Option<Vec<Opt>>, ScriptError> {
    if c.peek() == Some(&Tok::Ellipsis) {
        c.next();
        c.want('>')?;
        return Ok(None);
    }
    let mut list = Vec::new();
    while !c.take('>') {
        if !list.is_empty() {
            c.want(',')?;
        }
        list.push(option(c)?);
    }
    Ok(Some(list))
}

fn option(c: &mut Cursor<'_>) -> Result<Opt, ScriptError> {
    let Some(word) = c.word() else { return c.fail("expected the name of a TCP option") };
    c.next();
    Ok(match word {
        "nop" => Opt::Nop,
        "eol" => Opt::Eol,
        "mss" => Opt::Mss(c.number()?),
        "wscale" => Opt::Wscale(c.number()?),
        "sackOK" => Opt::SackOk,
        "sack" => {
            let mut blocks = Vec::new();
            while matches!(c.peek(), Some(Tok::Int(_))) {
                let from = c.number()?;
                c.want(':')?;
                blocks.push((from, c.number()?));
            }
            Opt::Sack(blocks)
        }
        "TS" => {
            let mut stamp = |name: &str| -> Result<Option<u32>, ScriptError> {
                if !c.take_word(name) {
                    return c.fail("expected TS val NUMBER ecr NUMBER");
                }
                if c.peek() == Some(&Tok::Ellipsis) {
                    c.next();
                    return Ok(None);
                }
                c.number().map(Some)
            };
            let val = stamp("val")?;
            Opt::Ts(val, stamp("ecr")?)
        }
        "md5" => Opt::Md5(true),
        "md5wrong" => Opt::Md5(false),
        "FO" => {
            let digits = match c.peek() {
                Some(Tok::Word(w)) => w.clone(),
                Some(Tok::Int(n)) => n.to_string(),
                _ => String::new(),
            };
            if !digits.is_empty() {
                c.next();
            }
            let byte = |i| u8::from_str_radix(digits.get(i..i + 2).unwrap_or("x"), 16);
            let bytes = (0..digits.len()).step_by(2).map(byte).collect::<Result<_, _>>();
            Opt::FastOpen(bytes.or_else(|_| c.fail("expected a cookie of hexadecimal bytes"))?)
        }
        _ => return c.fail("expected nop, eol, mss, wscale, sackOK, sack, TS or FO"),
    })
}

fn icmp(c: &mut Cursor<'_>) -> Result<Icmp, ScriptError> {
    let kind = c.word().unwrap_or_default();
    c.next();
    let named = ICMP.iter().filter(|n| n.0 == kind).collect::<Vec<_>>();
    if named.is_empty() {
        return c.fail("expected unreachable, time_exceeded, source_quench or packet_too_big");
    }
    let code = c.word().filter(|w| *w != "mtu").unwrap_or_default();
    let Some(name) = named.iter().find(|n| n.1 == code || n.1.is_empty()) else {
        return c.fail("expected the code of the ICMP error");
    };
    if !name.1.is_empty() {
        c.next();
    }
    let mtu = if c.take_word("mtu") { Some(c.number()?) } else { None };
    c.want('[')?;
    let seq = c.number()?;
    let len = range(c, seq)?;
    c.want(']')?;
    let (kind, code) = name.2.or(name.3).unwrap_or_default();
    let words = format!("{} {}", name.0, name.1).trim().to_owned();
    Ok(Icmp { kind, code, words, mtu, quoted: (seq, len) })
}

/// Type and code of an ICMP error over IPv6.
pub(super) fn icmpv6_of(words: &str) -> Option<(u8, u8)> {
    let named = ICMP.iter().find(|n| format!("{} {}", n.0, n.1).trim() == words)?;
    named.3
}

impl fmt::Display for Opt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamp = |v: &Option<u32>| v.map_or("...".to_owned(), |v| v.to_string());
        match self {
            Opt::Nop => f.write_str("nop"),
            Opt::Eol => f.write_str("eol"),
            Opt::Mss(n) => write!(f, "mss {n}"),
            Opt::Wscale(n) => write!(f, "wscale {n}"),
            Opt::SackOk => f.write_str("sackOK"),
            Opt::Sack(blocks) => {
                f.write_str("sack")?;
                blocks.iter().try_for_each(|(a, b)| write!(f, " {a}:{b}"))
            }
            Opt::Ts(val, ecr) => write!(f, "TS val {} ecr {}", stamp(val), stamp(ecr)),
            Opt::FastOpen(cookie) => {
                f.write_str("FO")?;
                f.write_str(if cookie.is_empty() { "" } else { " " })?;
                cookie.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
            Opt::Md5(right) => f.write_str(if *right { "md5" } else { "md5wrong" }),
            Opt::Other(kind, bytes) => write!(f, "option {kind} of {} bytes", bytes.len()),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((from, to)) = self.ports {
            write!(f, "{from} > {to}: ")?;
        }
        if self.flags == 0 {
            f.write_str("-")?;
        }
        for (letter, bit) in LETTERS {
            if self.flags & bit != 0 {
                write!(f, "{letter}")?;
            }
        }
        let end = self.seq.wrapping_add(u32::from(self.len));
        write!(f, " {}:{end}({})", self.seq, self.len)?;
        if let Some(ack) = self.ack {
            write!(f, " ack {ack}")?;
        }
        if let Some(win) = self.win {
            write!(f, " win {win}")?;
        }
        if self.urg > 0 {
            write!(f, " urg {}", self.urg)?;
        }
        match &self.options {
            None => f.write_str(" <...>"),
            Some(list) if list.is_empty() => Ok(()),
            Some(list) => {
                let words: Vec<String> = list.iter().map(Opt::to_string).collect();
                write!(f, " <{}>", words.join(","))
            }
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ecn) = self.ecn {
            write!(f, "[{ecn}] ")?;
        }
        match &self.body {
            Body::Tcp(segment) => segment.fmt(f),
            Body::Icmp(icmp) => {
                write!(f, "icmp {}", icmp.words)?;
                if let Some(mtu) = icmp.mtu {
                    write!(f, " mtu {mtu}")?;
                }
                let (seq, len) = icmp.quoted;
                write!(f, " [{seq}:{}({len})]", seq.wrapping_add(u32::from(len)))
            }
        }
    }
}
