//! From words to a test: the grammar of pcap-filter(7).

mod id;
mod names;
mod relation;

use super::FilterError;
use super::eval::{Order, Side, Test, Value};
use super::words::{Word, wrong};
use crate::wire::Mac;
use names::{ethertype, ip_proto, is_proto, number};

/// How deep parentheses, brackets and `not` may be nested.
const DEPTH_MAX: usize = 64;
/// VLAN tags that may be named.
const VLANS_MAX: u8 = 8;

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
}
