//! From words to a test: the grammar of pcap-filter(7).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::FilterError;
use super::eval::{Base, Family, IPPROTO_SCTP, Op, Order, Side, Test, Value};
use super::words::{Word, wrong};
use crate::wire::{
    ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Mac,
};

/// How deep parentheses, brackets and `not` may be nested.
const DEPTH_MAX: usize = 64;
/// VLAN tags that may be named.
const VLANS_MAX: u8 = 8;
const ETH_P_RARP: u16 = 0x8035;

/// What an address or number is looked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    Portrange,
}

/// The words before an address or number. One without any takes those of the last (`port 80 or 443`).
#[derive(Clone, Copy, Debug, Default)]
struct Quals<'a> {
    proto: Option<Word<'a>>,
    side: Side,
    kind: Option<Kind>,
}

struct Parser<'a> {
    words: &'a [Word<'a>],
    text: &'a str,
    at: usize,
    last: Option<Quals<'a>>,
    vlans: u8,
    depth: usize,
}

/// The whole text.
pub(super) fn parse(words: &[Word<'_>], text: &str) -> Result<Test, FilterError> {
    let mut p = Parser { words, text, at: 0, last: None, vlans: 0, depth: 0 };
    let test = p.expression()?;
    match p.peek() {
        None => Ok(test),
        Some(word) => Err(p.at_word(
            word,
            "it is no word that may stand here; conditions are joined by `and` or `or`",
        )),
    }
}

/// The IP protocol of a name, and whether it is looked for over IPv4 and IPv6.
fn ip_proto(name: &str) -> Option<(u8, bool, bool)> {
    Some(match name {
        "tcp" => (IPPROTO_TCP, true, true),
        "udp" => (IPPROTO_UDP, true, true),
        "sctp" => (IPPROTO_SCTP, true, true),
        "icmp" => (IPPROTO_ICMP, true, false),
        "icmp6" => (IPPROTO_ICMPV6, false, true),
        "igmp" => (2, true, false),
        "igrp" => (9, true, false),
        "esp" => (50, true, true),
        "ah" => (51, true, true),
        "pim" => (103, true, true),
        "vrrp" => (112, true, false),
        _ => return None,
    })
}

fn ethertype(name: &str) -> Option<u16> {
    Some(match name {
        "ip" => ETH_P_IP,
        "ip6" => ETH_P_IPV6,
        "arp" => ETH_P_ARP,
        "rarp" => ETH_P_RARP,
        _ => return None,
    })
}

fn is_proto(word: &str) -> bool {
    matches!(word, "ether" | "link") || ethertype(word).is_some() || ip_proto(word).is_some()
}

/// Numbers that have names in relations.
fn named(name: &str) -> Option<u32> {
    const NAMES: [(&str, u32); 27] = [
        ("icmptype", 0),
        ("icmpcode", 1),
        ("icmp6type", 0),
        ("icmp6code", 1),
        ("tcpflags", 13),
        ("tcp-fin", 1),
        ("tcp-syn", 2),
        ("tcp-rst", 4),
        ("tcp-push", 8),
        ("tcp-ack", 16),
        ("tcp-urg", 32),
        ("tcp-ece", 64),
        ("tcp-cwr", 128),
        ("icmp-echoreply", 0),
        ("icmp-unreach", 3),
        ("icmp-sourcequench", 4),
        ("icmp-redirect", 5),
        ("icmp-echo", 8),
        ("icmp-timxceed", 11),
        ("icmp-paramprob", 12),
        ("icmp6-destinationunreach", 1),
        ("icmp6-packettoobig", 2),
        ("icmp6-timeexceeded", 3),
        ("icmp6-echo", 128),
        ("icmp6-echoreply", 129),
        ("icmp6-neighborsolicit", 135),
        ("icmp6-neighboradvert", 136),
    ];
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
}

/// Ports that have names: those that everybody knows.
fn port_named(name: &str) -> Option<u16> {
    const NAMES: [(&str, u16); 13] = [
        ("ftp", 21),
        ("ssh", 22),
        ("telnet", 23),
        ("smtp", 25),
        ("domain", 53),
        ("bootps", 67),
        ("bootpc", 68),
        ("http", 80),
        ("ntp", 123),
        ("imap2", 143),
        ("snmp", 161),
        ("bgp", 179),
        ("https", 443),
    ];
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, port)| *port)
}

/// A number as C has it: decimal, 0x…, 0….
fn number(text: &str) -> Option<u32> {
    if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        return u32::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())),
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Word<'a>> {
        self.words.get(self.at).copied()
    }
    fn next_is(&self, text: &str) -> bool {
        self.peek().is_some_and(|w| w.text == text && !w.escaped)
    }
    fn take(&mut self, text: &str) -> bool {
        let is = self.next_is(text);
        self.at += usize::from(is);
        is
    }
    fn word(&mut self, wanted: &str) -> Result<Word<'a>, FilterError> {
        let word = self.peek().ok_or_else(|| self.at_end(wanted))?;
        self.at += 1;
        Ok(word)
    }
    fn at_word(&self, word: Word<'_>, why: impl Into<String>) -> FilterError {
        wrong(self.text, word.text, word.at, why)
    }
    fn at_end(&self, wanted: &str) -> FilterError {
        wrong(self.text, "", self.text.trim_end().len(), format!("{wanted} is missing"))
    }
    fn close(&mut self, sign: &str) -> Result<(), FilterError> {
        let wanted = format!("a closing {sign:?}");
        let word = self.word(&wanted)?;
        if word.text == sign {
            Ok(())
        } else {
            Err(self.at_word(word, format!("{wanted} is missing")))
        }
    }
    fn deeper<T>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        if self.depth == DEPTH_MAX {
            let word = self.peek().or(self.words.last().copied());
            let why = format!("it is nested deeper than {DEPTH_MAX}");
            return Err(word.map_or_else(|| self.at_end("less"), |w| self.at_word(w, why)));
        }
        self.depth += 1;
        let done = f(self);
        self.depth -= 1;
        done
    }

    /// `and` and `or` bind alike, from left to right.
    fn expression(&mut self) -> Result<Test, FilterError> {
        let first = self.term()?;
        let mut rest = Vec::new();
        loop {
            let and = self.take("and") || self.take("&&");
            if !and && !self.take("or") && !self.take("||") {
                break;
            }
            rest.push((and, self.term()?));
        }
        Ok(if rest.is_empty() { first } else { Test::Chain(Box::new(first), rest) })
    }

    fn term(&mut self) -> Result<Test, FilterError> {
        if self.take("not") || self.take("!") {
            return Ok(Test::Not(Box::new(self.deeper(Parser::term)?)));
        }
        if let Some(relation) = self.relation()? {
            return Ok(relation);
        }
        if self.take("(") {
            let inner = self.deeper(Parser::expression)?;
            self.close(")")?;
            return Ok(inner);
        }
        self.primitive()
    }

    /// A relation, if one begins here: what looks like a value may be an address or a parenthesis.
    fn relation(&mut self) -> Result<Option<Test>, FilterError> {
        let begin = self.at;
        let Some(word) = self.peek() else { return Ok(None) };
        let load = is_proto(word.text) && self.words.get(begin + 1).is_some_and(|w| w.text == "[");
        let load = load || word.text == "len";
        let may = load
            || matches!(word.text, "(" | "-")
            || number(word.text).is_some()
            || named(word.text).is_some();
        if !may {
            return Ok(None);
        }
        let left = self.deeper(|p| p.value(0));
        let left = match (left, self.peek().and_then(order)) {
            (Ok(left), Some(order)) => (left, order),
            // A load is nothing but a part of a relation.
            (Err(why), _) if load => return Err(why),
            (Ok(_), None) if load => {
                let why = "a comparison (=, !=, <, >, <=, >=) is missing";
                return Err(match self.peek() {
                    Some(word) => self.at_word(word, format!("{why} before it")),
                    None => self.at_end("a comparison (=, !=, <, >, <=, >=)"),
                });
            }
            _ => {
                self.at = begin;
                return Ok(None);
            }
        };
        self.at += 1;
        let right = self.deeper(|p| p.value(0))?;
        Ok(Some(Test::Relation(left.0, left.1, right)))
    }

    /// A value whose operators bind at least as `least`.
    fn value(&mut self, least: u8) -> Result<Value, FilterError> {
        let mut left = self.operand()?;
        while let Some((op, bind)) = self.peek().and_then(operator).filter(|(_, b)| *b >= least) {
            let sign = self.peek();
            self.at += 1;
            let right = self.deeper(|p| p.value(bind + 1))?;
            if matches!(op, Op::Div | Op::Mod) && right.constant() == Some(0) {
                let sign = sign.ok_or_else(|| self.at_end("an operator"))?;
                return Err(self.at_word(sign, "nothing is divided by zero"));
            }
            left = Value::Op(op, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<Value, FilterError> {
        let word = self.word("a number, len or bytes of a header")?;
        match word.text {
            "(" => {
                let inner = self.deeper(|p| p.value(0))?;
                self.close(")")?;
                Ok(inner)
            }
            "-" => {
                let inner = self.deeper(Parser::operand)?;
                Ok(Value::Op(Op::Sub, Box::new(Value::Number(0)), Box::new(inner)))
            }
            "len" => Ok(Value::Len),
            text if is_proto(text) && self.take("[") => self.load(word),
            text => match number(text).or_else(|| named(text)) {
                Some(n) => Ok(Value::Number(n)),
                None => Err(self.at_word(word, "it is no number, no len and no bytes of a header")),
            },
        }
    }

    /// `proto[at]` or `proto[at:size]`, behind the bracket.
    fn load(&mut self, proto: Word<'a>) -> Result<Value, FilterError> {
        let at = Box::new(self.deeper(|p| p.value(0))?);
        let mut size = 1;
        if self.take(":") {
            let word = self.word("a size of 1, 2 or 4")?;
            size = match word.text {
                "1" => 1,
                "2" => 2,
                "4" => 4,
                _ => return Err(self.at_word(word, "bytes are loaded by 1, 2 or 4")),
            };
        }
        self.close("]")?;
        let base = match (proto.text, ethertype(proto.text), ip_proto(proto.text)) {
            ("ether" | "link", ..) => Base::Link,
            (_, Some(value), _) => Base::Network(value),
            ("icmp6", ..) => Base::Icmp6,
            (_, _, Some((value, ..))) => Base::Transport(value),
            _ => return Err(self.at_word(proto, "it is no protocol")),
        };
        Ok(Value::Load { vlans: self.vlans, base, at, size })
    }

    fn primitive(&mut self) -> Result<Test, FilterError> {
        let begin = self.at;
        let first = self.word("a condition")?;
        if !first.escaped {
            match first.text {
                "less" | "greater" => return self.length(first.text == "less"),
                "vlan" => return self.vlan(first),
                "inbound" => return Ok(Test::Outbound(false)),
                "outbound" => return Ok(Test::Outbound(true)),
                "broadcast" => return Ok(Test::Ether { side: Side::Dst, addr: Mac::BROADCAST }),
                "multicast" => return Ok(Test::EtherMulticast),
                "mpls" | "pppoed" | "pppoes" | "gateway" | "protochain" | "geneve" | "vxlan"
                | "wlan" | "type" | "subtype" | "llc" | "decnet" | "iso" | "ifindex" => {
                    return Err(self.at_word(first, "pcap-filter has it, linerate has not"));
                }
                _ => {}
            }
        }
        self.at = begin;
        let mut quals = Quals::default();
        if is_proto(first.text) && !first.escaped {
            quals.proto = Some(first);
            self.at += 1;
            if let Some(test) = self.of_proto(first)? {
                return Ok(test);
            }
        } else if self.take("proto") {
            return self.proto(None);
        }
        let side = self.side();
        quals.side = side.unwrap_or_default();
        quals.kind = self.kind();
        if side.is_none() && quals.kind.is_none() {
            let Some(proto) = quals.proto else { return self.bare(first) };
            return Ok(self.proto_alone(proto));
        }
        self.last = Some(quals);
        if self.next_is("(") {
            // host (a or b): what stands in the parentheses takes the words before them.
            return self.deeper(Parser::term);
        }
        self.id(quals)
    }

    /// An address or number without words before it.
    fn bare(&mut self, word: Word<'a>) -> Result<Test, FilterError> {
        if matches!(word.text, "and" | "or" | "&&" | "||" | ")") {
            return Err(self.at_word(word, "a condition is missing before it"));
        }
        let quals = match self.last {
            Some(quals) => quals,
            None if word.text.contains(['.', ':']) => Quals::default(),
            None if number(word.text).is_some() => {
                let why = format!("a number alone says nothing: `port {}`?", word.text);
                return Err(self.at_word(word, why));
            }
            None => {
                let why = "it is no word of a filter, and names of hosts are not looked up";
                return Err(self.at_word(word, why));
            }
        };
        self.id(quals)
    }

    fn side(&mut self) -> Option<Side> {
        let here = |p: &Self, n: usize| p.words.get(p.at + n).map_or("", |w| w.text);
        let joined = match (here(self, 0), here(self, 1), here(self, 2)) {
            ("src", "or" | "||", "dst") | ("dst", "or" | "||", "src") => Some(Side::Either),
            ("src", "and" | "&&", "dst") | ("dst", "and" | "&&", "src") => Some(Side::Both),
            _ => None,
        };
        if joined.is_some() {
            self.at += 3;
            return joined;
        }
        if self.take("src") {
            return Some(Side::Src);
        }
        self.take("dst").then_some(Side::Dst)
    }

    fn kind(&mut self) -> Option<Kind> {
        let kinds = [
            ("host", Kind::Host),
            ("net", Kind::Net),
            ("port", Kind::Port),
            ("portrange", Kind::Portrange),
        ];
        kinds.into_iter().find(|(word, _)| self.take(word)).map(|(_, kind)| kind)
    }

    /// What stands behind a protocol and is no address.
    fn of_proto(&mut self, proto: Word<'a>) -> Result<Option<Test>, FilterError> {
        let vlans = self.vlans;
        if self.take("proto") {
            return self.proto(Some(proto)).map(Some);
        }
        let Some(word) = self.peek().filter(|w| !w.escaped) else { return Ok(None) };
        let test = match (word.text, proto.text) {
            ("multicast", "ether" | "link") => Test::EtherMulticast,
            ("broadcast", "ether" | "link") => {
                Test::Ether { side: Side::Dst, addr: Mac::BROADCAST }
            }
            ("multicast", "ip") => Test::IpMulticast { vlans },
            ("multicast", "ip6") => Test::Ip6Multicast { vlans },
            ("broadcast", "ip") => {
                let why = "which addresses are broadcast depends on a netmask that the filter does \
                           not know; ether broadcast needs none";
                return Err(self.at_word(word, why));
            }
            ("broadcast" | "multicast", _) => {
                return Err(self.at_word(word, format!("{} has none", proto.text)));
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(test))
    }

    fn proto_alone(&self, proto: Word<'_>) -> Test {
        let vlans = self.vlans;
        match (ethertype(proto.text), ip_proto(proto.text)) {
            (Some(value), _) => Test::Ethertype { vlans, value },
            (_, Some((value, four, six))) => Test::Proto { vlans, four, six, value },
            // `ether` alone: every frame.
            _ => Test::Relation(Value::Number(0), Order::Equal, Value::Number(0)),
        }
    }

    /// The protocol behind `proto`.
    fn proto(&mut self, of: Option<Word<'a>>) -> Result<Test, FilterError> {
        let vlans = self.vlans;
        let word = self.word("a protocol")?;
        let (four, six) = match of.map(|w| w.text) {
            None => (true, true),
            Some("ip") => (true, false),
            Some("ip6") => (false, true),
            Some("ether" | "link") => {
                let value = ethertype(word.text)
                    .or_else(|| number(word.text).and_then(|n| u16::try_from(n).ok()));
                return match value {
                    Some(value) if value >= 1536 => Ok(Test::Ethertype { vlans, value }),
                    Some(_) => {
                        Err(self.at_word(word, "only Ethernet types (from 0x600) are known"))
                    }
                    None => Err(self.at_word(word, "it is no Ethernet type")),
                };
            }
            Some(other) => return Err(self.at_word(word, format!("{other} carries no protocols"))),
        };
        let value = match (ip_proto(word.text), number(word.text)) {
            (Some((value, ..)), _) => value,
            (None, Some(n)) => {
                u8::try_from(n).map_err(|_| self.at_word(word, "IP protocols are 0 to 255"))?
            }
            _ => return Err(self.at_word(word, "it is no IP protocol")),
        };
        Ok(Test::Proto { vlans, four, six, value })
    }

    fn length(&mut self, less: bool) -> Result<Test, FilterError> {
        let word = self.word("a number of bytes")?;
        let n = number(word.text).ok_or_else(|| self.at_word(word, "it is no number of bytes"))?;
        let order = if less { Order::AtMost } else { Order::AtLeast };
        Ok(Test::Relation(Value::Len, order, Value::Number(n)))
    }

    fn vlan(&mut self, word: Word<'a>) -> Result<Test, FilterError> {
        if self.vlans == VLANS_MAX {
            return Err(self.at_word(word, format!("a frame has at most {VLANS_MAX} tags here")));
        }
        let id = match self.peek().and_then(|w| number(w.text).map(|n| (w, n))) {
            None => None,
            Some((_, n)) if n < 4096 => {
                self.at += 1;
                Some(n as u16)
            }
            Some((word, _)) => return Err(self.at_word(word, "VLANs are 0 to 4095")),
        };
        let vlans = self.vlans;
        self.vlans += 1;
        Ok(Test::Vlan { vlans, id })
    }

    /// The address or number that the words before it speak of.
    fn id(&mut self, quals: Quals<'a>) -> Result<Test, FilterError> {
        let word = self.word("an address or a number")?;
        if matches!(word.text, "and" | "or" | "not" | ")" | "(") {
            return Err(self.at_word(word, "an address or a number is missing before it"));
        }
        match quals.kind {
            Some(Kind::Port | Kind::Portrange) => self.port(quals, word),
            Some(Kind::Net) => self.net(quals, word),
            Some(Kind::Host) => {
                let test = self.host(quals, word)?;
                match self.peek().filter(|w| w.text == "/") {
                    Some(slash) => Err(self.at_word(slash, "a prefix belongs to a net: `net`")),
                    None => Ok(test),
                }
            }
            None if self.next_is("/") => self.net(quals, word),
            None => self.host(quals, word),
        }
    }

    fn port(&mut self, quals: Quals<'a>, word: Word<'a>) -> Result<Test, FilterError> {
        let proto = match quals.proto.map(|p| (p, ip_proto(p.text))) {
            None => None,
            Some((_, Some((p @ (IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP), ..)))) => Some(p),
            Some((other, _)) => {
                return Err(self.at_word(other, "it has no ports: tcp, udp and sctp have"));
            }
        };
        let one = |text: &str| {
            let port = port_named(text).map(u32::from).or_else(|| number(text));
            port.and_then(|n| u16::try_from(n).ok())
        };
        let range = match quals.kind {
            Some(Kind::Portrange) => match word.text.split_once('-') {
                Some((first, last)) => one(first).zip(one(last)),
                None => one(word.text).map(|port| (port, port)),
            },
            _ => one(word.text).map(|port| (port, port)),
        };
        let (a, b) = range.ok_or_else(|| {
            let what = if quals.kind == Some(Kind::Port) { "port" } else { "range of ports" };
            self.at_word(word, format!("it is no {what} (0 to 65535)"))
        })?;
        let (vlans, side) = (self.vlans, quals.side);
        Ok(Test::Port { vlans, side, proto, first: a.min(b), last: a.max(b) })
    }

    /// Which protocols' addresses are meant: IPv4's and the like, or `None` for IPv6's.
    fn family(&self, quals: Quals<'a>, six: bool) -> Result<Option<Family>, FilterError> {
        let Some(proto) = quals.proto else { return Ok((!six).then_some(Family::Any)) };
        match (proto.text, six) {
            ("ip6", true) => Ok(None),
            ("ip", false) => Ok(Some(Family::Ip)),
            ("arp", false) => Ok(Some(Family::Arp)),
            ("rarp", false) => Ok(Some(Family::Rarp)),
            ("ip" | "arp" | "rarp", true) => {
                Err(self.at_word(proto, "it has no IPv6 addresses: ip6 has"))
            }
            ("ip6", false) => Err(self.at_word(proto, "it has no IPv4 addresses: ip has")),
            ("ether" | "link", _) => Err(self.at_word(proto, "it has MAC addresses")),
            _ => Err(self.at_word(proto, "it has ports, and no addresses")),
        }
    }

    fn host(&mut self, quals: Quals<'a>, word: Word<'a>) -> Result<Test, FilterError> {
        let (vlans, side) = (self.vlans, quals.side);
        let ether = quals.proto.is_some_and(|p| matches!(p.text, "ether" | "link"));
        if ether {
            let addr = mac(word.text);
            let addr = addr.ok_or_else(|| self.at_word(word, "it is no MAC address"))?;
            return Ok(Test::Ether { side, addr });
        }
        if let Ok(addr) = word.text.parse::<Ipv4Addr>() {
            return self.net4(quals, addr.to_bits(), u32::MAX);
        }
        if let Ok(addr) = word.text.parse::<Ipv6Addr>() {
            self.family(quals, true)?;
            return Ok(Test::Net6 { vlans, side, addr: addr.to_bits(), mask: u128::MAX });
        }
        if mac(word.text).is_some() {
            return Err(self.at_word(word, "a MAC address is named by: ether host, ether src"));
        }
        Err(self.at_word(word, "it is no address (names of hosts are not looked up)"))
    }

    fn net4(&self, quals: Quals<'a>, addr: u32, mask: u32) -> Result<Test, FilterError> {
        let family = self.family(quals, false)?.unwrap_or(Family::Any);
        Ok(Test::Net4 { vlans: self.vlans, side: quals.side, family, addr, mask })
    }

    fn net(&mut self, quals: Quals<'a>, word: Word<'a>) -> Result<Test, FilterError> {
        let (vlans, side) = (self.vlans, quals.side);
        let loose = "it has bits beyond its prefix";
        if let Ok(addr) = word.text.parse::<Ipv6Addr>() {
            self.family(quals, true)?;
            let len = self.prefix(128)?.unwrap_or(128);
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            let addr = addr.to_bits();
            if addr & !mask != 0 {
                return Err(self.at_word(word, loose));
            }
            return Ok(Test::Net6 { vlans, side, addr, mask });
        }
        let (addr, octets) = dotted(word.text)
            .ok_or_else(|| self.at_word(word, "it is no net (10, 10.1, fd00::/8)"))?;
        let mask = if self.take("mask") {
            let mask = self.word("a mask")?;
            let parsed = mask.text.parse::<Ipv4Addr>();
            parsed.map_err(|_| self.at_word(mask, "it is no mask"))?.to_bits()
        } else {
            let len = self.prefix(32)?.unwrap_or(8 * octets);
            u32::MAX.checked_shl(32 - len).unwrap_or(0)
        };
        if addr & !mask != 0 {
            return Err(self.at_word(word, loose));
        }
        self.net4(quals, addr, mask)
    }

    fn prefix(&mut self, most: u32) -> Result<Option<u32>, FilterError> {
        if !self.take("/") {
            return Ok(None);
        }
        let word = self.word("the length of a prefix")?;
        match number(word.text) {
            Some(len) if len <= most => Ok(Some(len)),
            _ => Err(self.at_word(word, format!("prefixes are 0 to {most} bits"))),
        }
    }
}

fn order(word: Word<'_>) -> Option<Order> {
    Some(match word.text {
        "=" | "==" => Order::Equal,
        "!=" => Order::Unequal,
        "<" => Order::Less,
        ">" => Order::Greater,
        "<=" => Order::AtMost,
        ">=" => Order::AtLeast,
        _ => return None,
    })
}

/// An operator and how tightly it binds, as in libpcap's grammar: `|` and `&` alike, the weakest.
fn operator(word: Word<'_>) -> Option<(Op, u8)> {
    Some(match word.text {
        "|" => (Op::Or, 0),
        "&" => (Op::And, 0),
        "^" => (Op::Xor, 4),
        "<<" => (Op::Shl, 1),
        ">>" => (Op::Shr, 1),
        "+" => (Op::Add, 2),
        "-" => (Op::Sub, 2),
        "*" => (Op::Mul, 3),
        "/" => (Op::Div, 3),
        "%" => (Op::Mod, 3),
        _ => return None,
    })
}

/// Six bytes in hexadecimal, joined by colons.
fn mac(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| (1..=2).contains(&p.len()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}

/// One to four numbers joined by points, as the first bytes of an address; and how many.
fn dotted(text: &str) -> Option<(u32, u32)> {
    let mut bytes = [0; 4];
    let mut n = 0;
    for part in text.split('.') {
        *bytes.get_mut(n)? = part.parse().ok()?;
        n += 1;
    }
    Some((u32::from_be_bytes(bytes), n as u32))
}
