//! What the words before an address or number speak of: hosts, nets, ports.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::FilterError;
use super::super::eval::{Family, IPPROTO_SCTP, Test};
use super::super::words::Word;
use super::names::{dotted, ip_proto, mac, number, port_named};
use super::{Kind, Parser, Quals};
use crate::wire::{IPPROTO_TCP, IPPROTO_UDP};

impl<'a> Parser<'a> {
    /// The address or number that the words before it speak of.
    pub(super) fn id(&mut self, quals: Quals<'a>) -> Result<Test, FilterError> {
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
