//! Rules in the words of tc(8), tc-flower(8), tc-mirred(8), tc-skbedit(8), tc-sample(8).

use std::net::IpAddr;

use super::flower::Match;
use super::{ACTIONS_MAX, Control};
use crate::wire::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_ICMP};
use crate::wire::{IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Mac};

/// What is wrong with a rule (EINVAL, ENODEV, ENOENT, EEXIST, ENOSPC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The word that can not be understood; empty at the end.
    pub word: String,
    /// Why: the rest of a sentence.
    pub why: String,
}

impl RuleError {
    pub(super) fn new(word: &str, why: impl Into<String>) -> RuleError {
        RuleError { word: word.to_owned(), why: why.into() }
    }
}

impl std::fmt::Display for RuleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.word.as_str() {
            "" => write!(f, "the rule ends too early: {}", self.why),
            word => write!(f, "{word:?}: {}", self.why),
        }
    }
}
impl std::error::Error for RuleError {}

/// What is to be done with the rules of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// One more.
    Add(Wanted),
    /// One more, or another in its place.
    Replace(Wanted),
    /// Those of this preference and handle; without either, all.
    Del {
        /// The preference.
        prio: Option<u16>,
        /// The handle.
        handle: Option<u32>,
    },
}

/// A rule as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub(super) prio: Option<u16>,
    pub(super) handle: Option<u32>,
    pub(super) flower: bool,
    pub(super) what: Match,
    pub(super) actions: Vec<ActionWanted>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ActionWanted {
    Gact(Control),
    Mark(u32),
    /// Rate, group.
    Sample(u32, u32),
    /// To redirect, and not to mirror; the device.
    Mirred(bool, String),
}

struct Words<'a>(std::iter::Peekable<std::str::SplitWhitespace<'a>>);

impl<'a> Words<'a> {
    fn word(&mut self, what: &str) -> Result<&'a str, RuleError> {
        self.0.next().ok_or_else(|| RuleError::new("", format!("{what} is missing")))
    }
    fn take(&mut self, word: &str) -> bool {
        self.0.next_if(|w| *w == word).is_some()
    }
    fn value<T>(
        &mut self,
        what: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, RuleError> {
        let word = self.word(what)?;
        read(word).ok_or_else(|| RuleError::new(word, format!("it is no {what}")))
    }
}

/// A number, decimal or with 0x.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn small<T: TryFrom<u32>>(text: &str) -> Option<T> {
    number(text).and_then(|n| T::try_from(n).ok())
}

/// `value` or `value/mask`.
fn masked<T: TryFrom<u32>>(text: &str, all: T) -> Option<(T, T)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((small(value)?, small(mask)?)),
        None => Some((small(text)?, all)),
    }
}

fn protocol(text: &str) -> Option<Option<u16>> {
    Some(Some(match text.to_ascii_lowercase().as_str() {
        "all" => return Some(None),
        "ip" | "ipv4" => ETH_P_IP,
        "ipv6" => ETH_P_IPV6,
        "arp" => ETH_P_ARP,
        "802.1q" => ETH_P_8021Q,
        "802.1ad" => ETH_P_8021AD,
        other => return small(other).map(Some),
    }))
}

fn ip_proto(text: &str) -> Option<u8> {
    Some(match text {
        "tcp" => IPPROTO_TCP,
        "udp" => IPPROTO_UDP,
        "sctp" => 132,
        "icmp" => IPPROTO_ICMP,
        "icmpv6" => IPPROTO_ICMPV6,
        other => return small(other),
    })
}

fn mac(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}

fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (addr, len) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let addr: IpAddr = addr.parse().ok()?;
    let most = if addr.is_ipv4() { 32 } else { 128 };
    let len = len.map_or(Some(most), |len| len.parse().ok())?;
    (len <= most).then_some((addr, len))
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

impl Command {
    /// Reads a command: `add`, `replace` (or `change`) with a rule; `del` with `prio N` and `handle H`,
    /// if one rule is meant.
    ///
    /// # Errors
    /// [`RuleError`] (EINVAL).
    pub fn parse(text: &str) -> Result<Command, RuleError> {
        let mut words = Words(text.split_whitespace().peekable());
        match words.word("add, replace or del")? {
            "add" => Wanted::parse(&mut words).map(Command::Add),
            "replace" | "change" => Wanted::parse(&mut words).map(Command::Replace),
            "del" | "delete" => {
                let mut wanted = Wanted::default();
                while words.0.peek().is_some() {
                    wanted.place(&mut words)?;
                }
                Ok(Command::Del { prio: wanted.prio, handle: wanted.handle })
            }
            other => Err(RuleError::new(other, "it is not add, replace or del")),
        }
    }
}

impl Wanted {
    fn parse(words: &mut Words<'_>) -> Result<Wanted, RuleError> {
        let mut wanted = Wanted::default();
        while !matches!(words.0.peek(), Some(&("flower" | "matchall"))) {
            wanted.place(words)?;
        }
        wanted.flower = words.word("flower or matchall")? == "flower";
        while !words.take("action") {
            if words.0.peek().is_none() {
                return Err(RuleError::new("", "an action is missing"));
            }
            wanted.key(words)?;
        }
        loop {
            wanted.action(words)?;
            if !words.take("action") {
                break;
            }
        }
        match words.0.next() {
            None => wanted.judged(),
            Some(word) => Err(RuleError::new(word, "it belongs to no action")),
        }
    }

    /// Words before the kind of the rule.
    fn place(&mut self, words: &mut Words<'_>) -> Result<(), RuleError> {
        match words.word("flower or matchall")? {
            "prio" | "pref" | "priority" | "preference" => {
                let prio = |text: &str| text.parse().ok().filter(|prio| *prio > 0);
                self.prio = Some(words.value("preference (1 to 65535)", prio)?);
            }
            "handle" => {
                let some = |text: &str| number(text).filter(|n| *n > 0);
                self.handle = Some(words.value("handle", some)?);
            }
            "protocol" => self.what.protocol = words.value("protocol", protocol)?,
            "ingress" => {}
            other => {
                let why = "prio, protocol, handle, flower or matchall stands here";
                return Err(RuleError::new(other, why));
            }
        }
        Ok(())
    }

    fn key(&mut self, words: &mut Words<'_>) -> Result<(), RuleError> {
        let word = words.word("a key")?;
        if !self.flower {
            return Err(RuleError::new(word, "matchall has no keys"));
        }
        let m = &mut self.what;
        match word {
            "ip_proto" => m.ip_proto = Some(words.value("IP protocol", ip_proto)?),
            "src_ip" => m.src = Some(words.value("address or net", prefix)?),
            "dst_ip" => m.dst = Some(words.value("address or net", prefix)?),
            "src_port" => m.src_port = Some(words.value("port or range of ports", ports)?),
            "dst_port" => m.dst_port = Some(words.value("port or range of ports", ports)?),
            "src_mac" => m.src_mac = Some(words.value("MAC address", mac)?),
            "dst_mac" => m.dst_mac = Some(words.value("MAC address", mac)?),
            "ip_tos" => m.tos = Some(words.value("type of service", |t| masked(t, 0xff))?),
            "ip_ttl" => m.ttl = Some(words.value("time to live", |t| masked(t, 0xff))?),
            "tcp_flags" => m.tcp_flags = Some(words.value("set of flags", |t| masked(t, 0xfff))?),
            "vlan_id" => {
                let id = |text: &str| small(text).filter(|id: &u16| *id < 4096);
                m.vlan_id = Some(words.value("VLAN (0 to 4095)", id)?);
            }
            "vlan_ethtype" => m.vlan_ethtype = words.value("protocol", protocol)?,
            "type" => m.icmp_type = Some(words.value("type", small)?),
            "code" => m.icmp_code = Some(words.value("code", small)?),
            "ip_flags" => match words.word("frag, nofrag, firstfrag or nofirstfrag")? {
                "frag" => m.frag = Some(true),
                "nofrag" => m.frag = Some(false),
                "firstfrag" => m.first_frag = Some(true),
                "nofirstfrag" => m.first_frag = Some(false),
                other => return Err(RuleError::new(other, "it is no flag of fragments")),
            },
            "skip_hw" => {}
            other => return Err(RuleError::new(other, "flower has no such key here")),
        }
        Ok(())
    }

    fn action(&mut self, words: &mut Words<'_>) -> Result<(), RuleError> {
        if self.actions.len() == ACTIONS_MAX {
            let why = format!("a rule has at most {ACTIONS_MAX} actions");
            return Err(RuleError::new("action", why));
        }
        // The kind may stand before it: `action gact drop`.
        let _ = words.take("gact");
        let action = match words.word("an action")? {
            "drop" | "shot" => ActionWanted::Gact(Control::Drop),
            "pass" | "ok" => ActionWanted::Gact(Control::Pass),
            "continue" => ActionWanted::Gact(Control::Continue),
            "mark" => ActionWanted::Mark(words.value("mark", number)?),
            "skbedit" => match words.word("mark")? {
                "mark" => ActionWanted::Mark(words.value("mark", number)?),
                other => return Err(RuleError::new(other, "skbedit sets a mark here")),
            },
            "sample" => self.sample(words)?,
            "mirred" => self.mirred(words)?,
            other => {
                let why = "actions are drop, pass, continue, mark, skbedit, mirred, sample";
                return Err(RuleError::new(other, why));
            }
        };
        // What is always so may be said.
        if !matches!(action, ActionWanted::Gact(_)) {
            let stolen = matches!(action, ActionWanted::Mirred(true, _));
            let _ = words.take(if stolen { "stolen" } else { "pipe" });
        }
        self.actions.push(action);
        Ok(())
    }

    fn sample(&self, words: &mut Words<'_>) -> Result<ActionWanted, RuleError> {
        let (mut rate, mut group) = (None, 0);
        loop {
            if words.take("rate") {
                let some = |text: &str| number(text).filter(|n| *n > 0);
                rate = Some(words.value("rate (1 in N)", some)?);
            } else if words.take("group") {
                group = words.value("group", number)?;
            } else {
                break;
            }
        }
        let rate = rate.ok_or_else(|| RuleError::new("sample", "its rate is missing: rate N"))?;
        Ok(ActionWanted::Sample(rate, group))
    }

    fn mirred(&self, words: &mut Words<'_>) -> Result<ActionWanted, RuleError> {
        match words.word("egress")? {
            "egress" => {}
            other => return Err(RuleError::new(other, "packets go out only: egress")),
        }
        let redirect = match words.word("redirect or mirror")? {
            "redirect" => true,
            "mirror" => false,
            other => return Err(RuleError::new(other, "it is not redirect or mirror")),
        };
        match words.word("dev")? {
            "dev" => Ok(ActionWanted::Mirred(redirect, words.word("a device")?.to_owned())),
            other => Err(RuleError::new(other, "dev DEVICE stands here")),
        }
    }

    /// The rule, if its keys fit each other.
    fn judged(self) -> Result<Wanted, RuleError> {
        let m = &self.what;
        let network = m.vlan_ethtype.or(m.protocol);
        let ip = matches!(network, Some(ETH_P_IP | ETH_P_IPV6));
        let addrs = [("src_ip", m.src), ("dst_ip", m.dst)];
        let needs_ip = m.ip_proto.is_some() || m.tos.is_some() || m.ttl.is_some();
        if (needs_ip || m.frag.is_some() || m.first_frag.is_some()) && !ip {
            return Err(RuleError::new("protocol", "keys of IP need protocol ip or ipv6"));
        }
        for (word, addr) in addrs {
            let fits = match addr {
                None => true,
                Some((IpAddr::V4(_), _)) => network == Some(ETH_P_IP),
                Some((IpAddr::V6(_), _)) => network == Some(ETH_P_IPV6),
            };
            if !fits {
                return Err(RuleError::new(word, "it is of another protocol than the rule"));
            }
        }
        let ports = m.src_port.is_some() || m.dst_port.is_some();
        if ports && !matches!(m.ip_proto, Some(IPPROTO_TCP | IPPROTO_UDP | 132)) {
            return Err(RuleError::new("ip_proto", "ports need ip_proto tcp, udp or sctp"));
        }
        if m.tcp_flags.is_some() && m.ip_proto != Some(IPPROTO_TCP) {
            return Err(RuleError::new("tcp_flags", "it needs ip_proto tcp"));
        }
        let icmp = m.icmp_type.is_some() || m.icmp_code.is_some();
        if icmp && !matches!(m.ip_proto, Some(IPPROTO_ICMP | IPPROTO_ICMPV6)) {
            return Err(RuleError::new("type", "it needs ip_proto icmp or icmpv6"));
        }
        Ok(self)
    }
}
