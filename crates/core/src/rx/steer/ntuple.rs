//! Rules that send chosen flows to chosen queues, before the indirection table is asked
//! (`ethtool -N`, `struct ethtool_rx_flow_spec`).

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::hash::FlowKeys;
use crate::rand::{KeyedMap, Rng};
use crate::wire::{IPPROTO_TCP, IPPROTO_UDP};

/// What a rule speaks of (`flow-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowType {
    /// TCP over IPv4.
    Tcp4,
    /// UDP over IPv4.
    Udp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv6.
    Udp6,
}

impl FlowType {
    /// All of them.
    pub const ALL: [FlowType; 4] = [FlowType::Tcp4, FlowType::Udp4, FlowType::Tcp6, FlowType::Udp6];

    /// Its name (`udp4`).
    pub fn name(self) -> &'static str {
        match self {
            FlowType::Tcp4 => "tcp4",
            FlowType::Udp4 => "udp4",
            FlowType::Tcp6 => "tcp6",
            FlowType::Udp6 => "udp6",
        }
    }
    /// Whether it speaks of IPv6.
    pub fn v6(self) -> bool {
        matches!(self, FlowType::Tcp6 | FlowType::Udp6)
    }
    /// The type of a packet, if there is one for it.
    #[inline]
    pub fn of(keys: &FlowKeys) -> Option<FlowType> {
        match (keys.proto, keys.src.is_ipv6()) {
            (IPPROTO_TCP, false) => Some(FlowType::Tcp4),
            (IPPROTO_UDP, false) => Some(FlowType::Udp4),
            (IPPROTO_TCP, true) => Some(FlowType::Tcp6),
            (IPPROTO_UDP, true) => Some(FlowType::Udp6),
            _ => None,
        }
    }
}

/// What happens to packets that a rule speaks of (`action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// They go to this queue.
    Queue(u8),
    /// They are dropped (`action -1`).
    Drop,
}

/// A rule: every field that is given must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Protocol and version.
    pub flow_type: FlowType,
    /// Source address.
    pub src: Option<IpAddr>,
    /// Destination address.
    pub dst: Option<IpAddr>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// What to do.
    pub action: RuleAction,
}

impl Rule {
    /// A rule for one flow alone, as accelerated RFS writes them; `None` if the packet is of no
    /// flow with ports.
    pub fn exact(keys: &FlowKeys, queue: u8) -> Option<Rule> {
        let (sport, dport) = keys.ports?;
        Some(Rule {
            flow_type: FlowType::of(keys)?,
            src: Some(keys.src),
            dst: Some(keys.dst),
            sport: Some(sport),
            dport: Some(dport),
            action: RuleAction::Queue(queue),
        })
    }
    /// Whether it speaks of this packet. Fragments have no ports and match no rule that has one.
    #[inline]
    pub fn matches(&self, keys: &FlowKeys) -> bool {
        let addr = |want: Option<IpAddr>, have| want.is_none_or(|a| a == have);
        let port = |want: Option<u16>, have: fn((u16, u16)) -> u16| {
            want.is_none_or(|p| keys.ports.map(have) == Some(p))
        };
        FlowType::of(keys) == Some(self.flow_type)
            && addr(self.src, keys.src)
            && addr(self.dst, keys.dst)
            && port(self.sport, |p| p.0)
            && port(self.dport, |p| p.1)
    }
    fn exact_key(&self) -> Option<FlowKeys> {
        let proto = match self.flow_type {
            FlowType::Tcp4 | FlowType::Tcp6 => IPPROTO_TCP,
            FlowType::Udp4 | FlowType::Udp6 => IPPROTO_UDP,
        };
        Some(FlowKeys {
            src: self.src?,
            dst: self.dst?,
            ports: Some((self.sport?, self.dport?)),
            proto,
        })
    }
}

/// The rules of a device: asked in the order of their locations, the first that matches counts.
/// Those for one flow alone stand in a table of their own, so that thousands of them cost one look-up.
pub struct Rules {
    rules: BTreeMap<u32, Rule>,
    /// Locations of rules that leave something open, in order.
    open: Vec<u32>,
    exact: KeyedMap<FlowKeys, u32>,
    max: usize,
}

/// Why a rule was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleError {
    /// The device has no room for another rule (ENOSPC): delete one.
    Full,
    /// There is no rule at this location (ENOENT).
    Unknown(u32),
}

impl RuleError {
    /// The error number.
    pub fn errno(self) -> i32 {
        match self {
            RuleError::Full => 28,
            RuleError::Unknown(_) => 2,
        }
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleError::Full => write!(f, "the device takes no more rules: delete one first"),
            RuleError::Unknown(loc) => {
                write!(f, "there is no rule at location {loc}; `show ntuple` lists them")
            }
        }
    }
}
impl std::error::Error for RuleError {}

impl Rules {
    /// No rules; at most `max` of them. `seed` keys the table, which peers may come to fill.
    pub fn new(max: usize, seed: u64) -> Rules {
        let exact = KeyedMap::with_hasher(Rng::new(seed).keyed());
        Rules { rules: BTreeMap::new(), open: Vec::new(), exact, max }
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
    /// The rules with their locations, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Rule)> {
        self.rules.iter().map(|(loc, rule)| (*loc, rule))
    }
    /// Sets a rule at `loc`, in place of any that is there; without one at the first that is free.
    /// Returns its location.
    ///
    /// # Errors
    /// [`RuleError::Full`] (ENOSPC).
    pub fn set(&mut self, loc: Option<u32>, rule: Rule) -> Result<u32, RuleError> {
        let free = || (0..).zip(self.rules.keys()).find(|(i, loc)| i != *loc).map(|(i, _)| i);
        let loc = loc.or_else(free).unwrap_or(self.rules.len() as u32);
        if !self.rules.contains_key(&loc) && self.rules.len() >= self.max {
            return Err(RuleError::Full);
        }
        let _ = self.delete(loc);
        match rule.exact_key() {
            Some(key) => {
                // Of two rules for the same flow the one with the lower location counts.
                let at = self.exact.entry(key).or_insert(loc);
                *at = loc.min(*at);
            }
            None => {
                let at = self.open.partition_point(|l| *l < loc);
                self.open.insert(at, loc);
            }
        }
        self.rules.insert(loc, rule);
        Ok(loc)
    }
    /// Takes the rule at `loc` out.
    ///
    /// # Errors
    /// [`RuleError::Unknown`] (ENOENT).
    pub fn delete(&mut self, loc: u32) -> Result<Rule, RuleError> {
        let rule = self.rules.remove(&loc).ok_or(RuleError::Unknown(loc))?;
        self.open.retain(|l| *l != loc);
        if let Some(key) = rule.exact_key()
            && self.exact.get(&key) == Some(&loc)
        {
            self.exact.remove(&key);
            let same = |(_, r): &(&u32, &Rule)| r.exact_key() == Some(key);
            if let Some((next, _)) = self.rules.iter().find(same) {
                self.exact.insert(key, *next);
            }
        }
        Ok(rule)
    }
    /// What the first rule says that speaks of this packet.
    #[inline]
    pub fn find(&self, keys: &FlowKeys) -> Option<RuleAction> {
        if self.rules.is_empty() {
            return None;
        }
        let exact = if self.exact.is_empty() { None } else { self.exact.get(keys).copied() };
        let before = self.open.iter().take_while(|loc| exact.is_none_or(|e| **loc < e));
        let open = before.filter_map(|loc| self.rules.get(loc)).find(|rule| rule.matches(keys));
        let rule = open.or_else(|| self.rules.get(&exact?))?;
        Some(rule.action)
    }
    /// As `ethtool -n` prints them.
    pub fn show(&self, queues: usize) -> String {
        let mut out = format!("{queues} RX rings available\nTotal {} rules\n", self.len());
        for (loc, rule) in self.iter() {
            let _ = write!(out, "\nFilter: {loc}\n{}", Long(rule));
        }
        out
    }
}

/// A rule in the long form of `ethtool -n`, where a mask says what does not count.
struct Long<'a>(&'a Rule);

impl fmt::Display for Long<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.0;
        let (proto, version) = match rule.flow_type {
            FlowType::Tcp4 => ("TCP", 4),
            FlowType::Udp4 => ("UDP", 4),
            FlowType::Tcp6 => ("TCP", 6),
            FlowType::Udp6 => ("UDP", 6),
        };
        writeln!(f, "\tRule Type: {proto} over IPv{version}")?;
        let (none, all): (IpAddr, IpAddr) = if version == 4 {
            (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into())
        } else {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into())
        };
        for (name, addr) in [("Src", rule.src), ("Dest", rule.dst)] {
            let mask = if addr.is_some() { none } else { all };
            writeln!(f, "\t{name} IP addr: {} mask: {mask}", addr.unwrap_or(none))?;
        }
        let tos = if version == 4 { "TOS" } else { "Traffic Class" };
        writeln!(f, "\t{tos}: 0x0 mask: 0xff")?;
        for (name, port) in [("Src", rule.sport), ("Dest", rule.dport)] {
            let mask = if port.is_some() { 0 } else { 0xffff };
            writeln!(f, "\t{name} port: {} mask: {mask:#x}", port.unwrap_or(0))?;
        }
        match rule.action {
            RuleAction::Queue(queue) => writeln!(f, "\tAction: Direct to queue {queue}"),
            RuleAction::Drop => writeln!(f, "\tAction: Drop"),
        }
    }
}

impl fmt::Display for Rule {
    /// As the arguments of `ethtool -N` that make it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flow-type {}", self.flow_type.name())?;
        for (name, addr) in [("src-ip", self.src), ("dst-ip", self.dst)] {
            if let Some(addr) = addr {
                write!(f, " {name} {addr}")?;
            }
        }
        for (name, port) in [("src-port", self.sport), ("dst-port", self.dport)] {
            if let Some(port) = port {
                write!(f, " {name} {port}")?;
            }
        }
        match self.action {
            RuleAction::Queue(queue) => write!(f, " action {queue}"),
            RuleAction::Drop => write!(f, " action -1"),
        }
    }
}

/// Why words are no rule (EINVAL).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseRuleError {
    /// The first words are not `flow-type` and one of the types.
    FlowType(String),
    /// A word that a rule does not have.
    Word(String),
    /// A word is not followed by its value, or by one that can not be.
    Value {
        /// The word.
        word: String,
        /// What followed; empty if nothing did.
        value: String,
    },
    /// It does not say what to do.
    NoAction,
}

impl fmt::Display for ParseRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseRuleError::FlowType(word) => write!(
                f,
                "a rule begins with flow-type tcp4, udp4, tcp6 or udp6, not with {word:?}"
            ),
            ParseRuleError::Word(word) => write!(
                f,
                "a rule has no {word:?}: it takes src-ip, dst-ip, src-port, dst-port, action, loc"
            ),
            ParseRuleError::Value { word, value } => {
                write!(f, "{word} can not be {value:?}")?;
                match word.as_str() {
                    "action" => write!(f, ": it is a queue from 0 to 255, or -1 to drop"),
                    "src-ip" | "dst-ip" => write!(f, ": it is an address of the rule's version"),
                    _ => write!(f, ": it is a number in range"),
                }
            }
            ParseRuleError::NoAction => {
                write!(f, "the rule does not say what to do: add action QUEUE, or action -1")
            }
        }
    }
}
impl std::error::Error for ParseRuleError {}

/// Reads a rule as `ethtool -N DEV` takes it (`flow-type udp4 dst-port 53 action 1 loc 3`), and the
/// location if one is given.
///
/// # Errors
/// [`ParseRuleError`] (EINVAL).
pub fn parse(text: &str) -> Result<(Option<u32>, Rule), ParseRuleError> {
    let mut words = text.split_whitespace();
    let first = words.next().unwrap_or_default();
    let name = words.next().unwrap_or_default();
    let flow_type = FlowType::ALL.into_iter().find(|t| t.name() == name);
    let flow_type = flow_type
        .filter(|_| first == "flow-type")
        .ok_or_else(|| ParseRuleError::FlowType(format!("{first} {name}").trim().to_owned()))?;
    let (mut src, mut dst, mut sport, mut dport) = (None, None, None, None);
    let (mut action, mut loc) = (None, None);
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        let addr = || value.parse::<IpAddr>().ok().filter(|a| a.is_ipv6() == flow_type.v6());
        let read = match word {
            "src-ip" => put(&mut src, addr()),
            "dst-ip" => put(&mut dst, addr()),
            "src-port" => put(&mut sport, value.parse().ok()),
            "dst-port" => put(&mut dport, value.parse().ok()),
            "loc" => put(&mut loc, value.parse().ok()),
            "action" if value == "-1" => put(&mut action, Some(RuleAction::Drop)),
            "action" | "queue" => put(&mut action, value.parse().ok().map(RuleAction::Queue)),
            _ => return Err(ParseRuleError::Word(word.to_owned())),
        };
        if !read {
            let (word, value) = (word.to_owned(), value.to_owned());
            return Err(ParseRuleError::Value { word, value });
        }
    }
    let action = action.ok_or(ParseRuleError::NoAction)?;
    Ok((loc, Rule { flow_type, src, dst, sport, dport, action }))
}

/// Notes a value that could be read; whether it could.
fn put<T>(field: &mut Option<T>, value: Option<T>) -> bool {
    let read = value.is_some();
    *field = value;
    read
}

#[cfg(test)]
mod tests;
