//! What options take: ports, networks, knobs with their values. Each is judged when it is read.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use linerate_core::table::Knobs;
use linerate_core::tx::qdisc::{self, At, Tree};

/// A port that `run` opens on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where it listens; `None` = 127.0.0.1.
    pub addr: Option<IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port of the program.
    pub port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

impl FromStr for Publish {
    type Err = String;
    fn from_str(s: &str) -> Result<Publish, String> {
        let wrong =
            || format!("{s:?} is not [ADDR:]HOSTPORT:PORT[/tcp|/udp], such as 127.0.0.1:8080:80");
        let (rest, udp) = match s.rsplit_once('/') {
            Some((rest, "udp")) => (rest, true),
            Some((rest, "tcp")) => (rest, false),
            Some(_) => return Err(wrong()),
            None => (s, false),
        };
        let port = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(format!("{text:?} is not a port from 1 to 65535")),
            Ok(port) => Ok(port),
        };
        let (rest, inside) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let (addr, host) = match rest.rsplit_once(':') {
            Some((addr, host)) => (Some(addr), host),
            None => (None, rest),
        };
        let addr = match addr {
            None => None,
            Some(text) => {
                let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
                Some(bare.parse().map_err(|_| format!("{text:?} is not an IP address"))?)
            }
        };
        Ok(Publish { addr, host_port: port(host)?, port: port(inside)?, udp })
    }
}

/// A network: an address and the length of its prefix. Bits behind the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The network's address.
    pub addr: IpAddr,
    /// Bits of the prefix.
    pub len: u8,
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(s: &str) -> Result<Cidr, String> {
        let wrong = || format!("{s:?} is not a network such as 10.0.2.0/24 or fd00::/64");
        let (addr, len) = match s.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (s, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let len: u8 = len.map_or(Ok(bits), |l| l.parse().map_err(|_| wrong()))?;
        if len > bits {
            return Err(format!("{s:?}: the prefix has at most {bits} bits"));
        }
        let addr = match addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - len as u32).unwrap_or(0);
                IpAddr::from((a.to_bits() & mask).to_be_bytes())
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - len as u32).unwrap_or(0);
                IpAddr::from((a.to_bits() & mask).to_be_bytes())
            }
        };
        Ok(Cidr { addr, len })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// A knob and its value, both known to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The knob's path as the table writes it.
    pub path: &'static str,
    /// The value.
    pub value: String,
}

impl FromStr for Setting {
    type Err = String;
    fn from_str(s: &str) -> Result<Setting, String> {
        let (path, value) = s.split_once('=').ok_or_else(|| {
            format!("{s:?} is not KNOB=VALUE, such as net.core.netdev_budget=600")
        })?;
        let (path, value) = (path.trim(), value.trim());
        Knobs::default().set(path, value).map_err(|e| e.to_string())?;
        let row = Knobs::row(path).map_err(|e| e.to_string())?;
        Ok(Setting { path: row.path, value: value.to_owned() })
    }
}

/// A word of `set`: a knob with its value, or one of a rule's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetWord {
    /// A knob.
    Knob(Setting),
    /// A place for a queueing discipline, and which.
    Qdisc(String, String),
    /// A map of an eBPF program, and an entry of it; or a device, and its program.
    Xdp(String, String),
    /// Anything else.
    Word(String),
}

impl FromStr for SetWord {
    type Err = String;
    fn from_str(s: &str) -> Result<SetWord, String> {
        if let Some((path, spec)) = s.split_once('=')
            && let Some(at) = At::parse(path.trim())
        {
            qdisc::wanted(at.ingress, spec).map_err(|e| e.to_string())?;
            return Ok(SetWord::Qdisc(path.trim().to_owned(), spec.trim().to_owned()));
        }
        if let Some((path, entry)) = s.split_once('=')
            && crate::xdp::map_name(path.trim()).is_some()
        {
            return Ok(SetWord::Xdp(path.trim().to_owned(), entry.trim().to_owned()));
        }
        if let Some((path, spec)) = s.split_once('=')
            && crate::xdp::device_name(path.trim()).is_some()
        {
            let spec = crate::xdp::wanted(spec.trim())?;
            return Ok(SetWord::Xdp(path.trim().to_owned(), spec));
        }
        // No word of a rule has an equals sign.
        if s.contains('=') { s.parse().map(SetWord::Knob) } else { Ok(SetWord::Word(s.to_owned())) }
    }
}

pub(crate) fn qdisc_tree(s: &str) -> Result<Tree, String> {
    Tree::parse(s).map_err(|e| e.to_string())
}

pub(crate) fn instance_name(s: &str) -> Result<String, String> {
    linerate_gateway::control::check_name(s).map_err(|e| e.to_string())?;
    Ok(s.to_owned())
}

pub(super) fn dns_server(s: &str) -> Result<SocketAddr, String> {
    if let Ok(addr) = s.parse::<IpAddr>() {
        return Ok(SocketAddr::new(addr, 53));
    }
    s.parse().map_err(|_| {
        format!("{s:?} is not an address such as 9.9.9.9, 9.9.9.9:53 or [2620:fe::9]:53")
    })
}

pub(super) fn seconds(s: &str) -> Result<f64, String> {
    let secs: f64 = s.parse().map_err(|_| format!("{s:?} is no number of seconds"))?;
    if (0.01..=3600.0).contains(&secs) { Ok(secs) } else { Err("0.01 to 3600 seconds".to_owned()) }
}

pub(super) fn net4(s: &str) -> Result<Cidr, String> {
    let net: Cidr = s.parse()?;
    if !net.addr.is_ipv4() || net.len > 24 {
        return Err(format!(
            "{s:?}: an IPv4 network of at least 256 addresses (/24 or shorter) is needed"
        ));
    }
    Ok(net)
}

pub(super) fn net6(s: &str) -> Result<Cidr, String> {
    let net: Cidr = s.parse()?;
    if !net.addr.is_ipv6() || net.len > 112 {
        return Err(format!(
            "{s:?}: an IPv6 network of at least 65536 addresses (/112 or shorter) is needed"
        ));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_is_read_in_every_form() {
        let ok = |s: &str| s.parse::<Publish>().expect(s);
        let p = ok("127.0.0.1:8080:80");
        assert_eq!(
            (p.addr, p.host_port, p.port, p.udp),
            (Some([127, 0, 0, 1].into()), 8080, 80, false)
        );
        assert_eq!(ok("8080:80").addr, None);
        assert!(ok("53:5353/udp").udp);
        assert_eq!(ok("[::1]:1:2").addr, Some("::1".parse().expect("an address")));
        for bad in ["80", "x:80", "0:80", "80:70000", "1.2.3:80:80", "80:80/sctp", ""] {
            assert!(bad.parse::<Publish>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cidr_clears_what_lies_behind_the_prefix() {
        for (text, shown) in [
            ("10.0.2.77/24", "10.0.2.0/24"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("1.2.3.4", "1.2.3.4/32"),
            ("fd00::1:2:3:4/64", "fd00::/64"),
            ("fe80::1", "fe80::1/128"),
            ("::1/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().expect(text).to_string(), shown);
        }
        for bad in ["10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", ""] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_setting_is_judged_by_the_table() {
        let s: Setting = "net/core/netdev_budget=600".parse().expect("a knob");
        assert_eq!((s.path, s.value.as_str()), ("net.core.netdev_budget", "600"));
        for bad in ["net.core.netdev_budget", "net.core.netdev_budget=0", "no.such.knob=1"] {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
    }
}
