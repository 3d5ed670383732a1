//! The configuration file: TOML, read strictly. A key that is not known, or a value that can not be
//! read, is refused with file, line and key; nothing is guessed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use linerate_core::ip::route::RouteKind;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::args::{DevBackend, HostAddr, ServeKind};
use super::config::{self, At, Config, Device, QUEUES_MAX, Route, Service, Way};
use super::serve::dns::Zone;
use crate::args::{Cidr, Setting};

/// Bytes of a configuration at the most.
const FILE_MAX: u64 = 1 << 20;

/// Reads the file at `path`.
///
/// # Errors
/// A sentence with file, line and key.
pub fn read(path: &Path) -> Result<Config, String> {
    let shown = path.display();
    let file = fs::File::open(path).map_err(|e| format!("{shown}: {e}"))?;
    let mut text = String::new();
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|e| format!("{shown}: {e}"))?;
    if text.len() as u64 > FILE_MAX {
        return Err(format!("{shown}: a configuration has at most {FILE_MAX} bytes"));
    }
    parse(path, &text)
}

/// Reads `text` as the file at `path`, to which relative paths in it belong.
pub fn parse(path: &Path, text: &str) -> Result<Config, String> {
    let file = File { path, text };
    let tree = DeTable::parse(text).map_err(|e| {
        let line = e.span().map_or(1, |s| file.line(s.start));
        format!("{}:{line}: {}", path.display(), e.message())
    })?;
    let mut top = Section::new(&file, String::new(), tree.get_ref(), 0);
    let mut config = Config::default();
    if let Some(name) = top.take("name") {
        let text = name.str()?;
        linerate_gateway::control::check_name(text).map_err(|e| name.wrong(e))?;
        config.name = Some(text.to_owned());
    }
    if let Some(queues) = top.take("queues") {
        config.queues = queues.number(1, QUEUES_MAX as u64)? as usize;
    }
    for cpu in top.list("cpus")? {
        config.cpus.push(cpu.number(0, 4095)? as usize);
    }
    if let Some(knobs) = top.take("knobs") {
        read_knobs(&knobs, "", &mut config)?;
    }
    for device in top.list("device")? {
        let device = read_device(device.section()?, &mut config.routes, config.devices.len())?;
        config.devices.push(device);
    }
    for route in top.list("route")? {
        let route = read_route(route.section()?, &config.devices)?;
        config.routes.push(route);
    }
    for service in top.list("service")? {
        let service = read_service(service.section()?)?;
        config.services.push(service);
    }
    top.finish()?;
    Ok(config)
}

/// Knobs by their paths: quoted, dotted, or as tables in tables.
fn read_knobs(value: &Value<'_>, prefix: &str, config: &mut Config) -> Result<(), String> {
    if let DeValue::Table(table) = value.value {
        for (key, inner) in table.iter() {
            let key_text = key.get_ref();
            let path = if prefix.is_empty() {
                key_text.to_string()
            } else {
                format!("{prefix}.{key_text}")
            };
            let inner = Value {
                file: value.file,
                key: format!("knobs.{path}"),
                line: value.file.line(inner.span().start),
                value: inner.get_ref(),
            };
            read_knobs(&inner, &path, config)?;
        }
        return Ok(());
    }
    let text = value.plain()?;
    let setting: Setting = format!("{prefix}={text}").parse().map_err(|e| value.wrong(e))?;
    if let Some((_, at)) = config.knobs.iter().find(|(s, _)| s.path == setting.path) {
        return Err(value.wrong(format!("{} was set already ({})", setting.path, at.0)));
    }
    config.knobs.push((setting, value.at()));
    Ok(())
}

fn read_device(
    mut section: Section<'_>,
    routes: &mut Vec<Route>,
    index: usize,
) -> Result<Device, String> {
    let name = section.need("name")?;
    let mut device = Device {
        name: name.str()?.to_owned(),
        backend: DevBackend::Auto,
        addrs: Vec::new(),
        mtu: None,
        xdp: None,
        qdiscs: (None, None),
        at: name.at(),
    };
    if let Some(backend) = section.take("backend") {
        let all = [
            DevBackend::Auto,
            DevBackend::AfXdp,
            DevBackend::AfPacket,
            DevBackend::Tap,
            DevBackend::Tun,
        ];
        let text = backend.str()?;
        device.backend = all.into_iter().find(|b| b.name() == text).ok_or_else(|| {
            backend.wrong(format!("{text:?} is none of auto, af_xdp, af_packet, tap, tun"))
        })?;
    }
    for addr in section.list("addresses")? {
        let read: HostAddr = addr.parse()?;
        device.addrs.push((read, addr.at()));
    }
    for via in section.list("gateways")? {
        let gateway: IpAddr = via.parse_as("an IP address")?;
        let any = if gateway.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        routes.push(Route { to: (any, 0), way: Way::Via(gateway, index), at: via.at() });
    }
    if let Some(mtu) = section.take("mtu") {
        device.mtu = Some(mtu.number(68, 65520)? as u32);
    }
    if let Some(xdp) = section.take("xdp") {
        device.xdp = Some(xdp.path()?.to_string_lossy().into_owned());
    }
    let mut qdisc = |key| {
        let tree =
            section.take(key).map(|v| crate::args::qdisc_tree(v.str()?).map_err(|e| v.wrong(e)));
        tree.transpose()
    };
    device.qdiscs = (qdisc("qdisc")?, qdisc("qdisc_in")?);
    section.finish()?;
    Ok(device)
}

fn read_route(mut section: Section<'_>, devices: &[Device]) -> Result<Route, String> {
    let to = section.need("to")?;
    let net: Cidr = to.parse()?;
    let device = match section.take("device") {
        None => None,
        Some(name) => {
            let at = devices.iter().position(|d| Ok(d.name.as_str()) == name.str());
            Some(at.ok_or_else(|| name.wrong("no [[device]] above has this name"))?)
        }
    };
    let via = section.take("via").map(|v| Ok::<_, String>((v.parse_as("an IP address")?, v)));
    let via: Option<(IpAddr, Value<'_>)> = via.transpose()?;
    let kind = section.take("kind");
    let way = match (&via, &kind) {
        (Some(_), Some(kind)) => return Err(kind.wrong("a route has `via` or `kind`, not both")),
        (Some((via, _)), None) => Way::Via(*via, device.unwrap_or_else(|| behind(devices, *via))),
        (None, Some(kind)) => Way::Refused(match kind.str()? {
            "blackhole" => RouteKind::Blackhole,
            "unreachable" => RouteKind::Unreachable,
            "prohibit" => RouteKind::Prohibit,
            other => {
                return Err(
                    kind.wrong(format!("{other:?} is none of blackhole, unreachable, prohibit"))
                );
            }
        }),
        (None, None) => Way::Link(device.ok_or_else(|| {
            to.wrong("where it leads is not said: add via, device, or kind = \"blackhole\"")
        })?),
    };
    let at = to.at();
    section.finish()?;
    Ok(Route { to: (net.addr, net.len), way, at })
}

/// The device in one of whose networks `via` is, or the first.
fn behind(devices: &[Device], via: IpAddr) -> usize {
    let near = |d: &Device| {
        let mut addrs = d.addrs.iter();
        addrs.any(|(a, _)| linerate_core::ip::route::in_prefix(via, a.addr, a.len))
    };
    devices.iter().position(near).unwrap_or(0)
}

fn read_service(mut section: Section<'_>) -> Result<Service, String> {
    let kind_value = section.need("kind")?;
    let kind: ServeKind = kind_value.parse()?;
    let at = kind_value.at();
    let port = match section.take("port") {
        Some(port) => port.number(1, 65535)? as u16,
        None => kind.port(),
    };
    let addr = section.take("address").map(|a| a.parse_as("an IP address")).transpose()?;
    let kind = match kind {
        ServeKind::Http => {
            let root = section.need("root")?;
            config::kind(kind, root.path()?, &root.at())?
        }
        ServeKind::Dns => {
            let zone = section.take("zone");
            let records = section.take("records");
            match (zone, records) {
                (Some(zone), None) => config::kind(kind, zone.path()?, &zone.at())?,
                (None, Some(records)) => config::Kind::Dns(read_records(&records)?),
                _ => {
                    return Err(at.wrong("dns needs `zone`, a file, or `records`: one of them"));
                }
            }
        }
        plain => config::kind(plain, PathBuf::new(), &at)?,
    };
    section.finish()?;
    Ok(Service { kind, addr, port, at })
}

fn read_records(records: &Value<'_>) -> Result<Zone, String> {
    let mut zone = Zone::default();
    let section = records.section()?;
    for (name, value) in section.entries() {
        for addr in value.items()? {
            let read: IpAddr = addr.parse_as("an IP address")?;
            zone.add(&name, read).map_err(|e| addr.wrong(e))?;
        }
    }
    Ok(zone)
}

/// The file that is read.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    /// The line of a byte, from 1.
    fn line(&self, byte: usize) -> usize {
        let before = self.text.as_bytes().get(..byte).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|b| **b == b'\n').count()
    }
    fn at(&self, line: usize, key: &str) -> At {
        At(format!("{}:{line}: {key}", self.path.display()))
    }
}

/// A table of the file; what nobody took from it is refused at the end.
struct Section<'a> {
    file: &'a File<'a>,
    /// Its own key, with a dot, or nothing.
    prefix: String,
    line: usize,
    left: BTreeMap<&'a str, &'a Spanned<DeValue<'a>>>,
    keys: Vec<(&'a str, usize)>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn new(file: &'a File<'a>, prefix: String, table: &'a DeTable<'a>, line: usize) -> Section<'a> {
        let left = table.iter().map(|(k, v)| (k.get_ref().as_ref(), v)).collect();
        let keys = table.iter().map(|(k, _)| (k.get_ref().as_ref(), file.line(k.span().start)));
        let keys = keys.collect();
        Section { file, prefix, line, left, keys, known: Vec::new() }
    }
    fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let found = self.left.remove(key)?;
        let line = self.keys.iter().find(|k| k.0 == key).map_or(self.line, |k| k.1);
        let key = format!("{}{key}", self.prefix);
        Some(Value { file: self.file, key, line, value: found.get_ref() })
    }
    fn need(&mut self, key: &'static str) -> Result<Value<'a>, String> {
        let (line, name) = (self.line, self.prefix.trim_end_matches('.').to_owned());
        let file = self.file;
        self.take(key).ok_or_else(|| file.at(line, &name).wrong(format!("`{key}` is missing")))
    }
    /// The items of an array, none if the key is not there.
    fn list(&mut self, key: &'static str) -> Result<Vec<Value<'a>>, String> {
        self.take(key).map_or(Ok(Vec::new()), |v| v.items())
    }
    /// Everything that is left, by key.
    fn entries(&self) -> Vec<(String, Value<'a>)> {
        let value = |(key, v): (&&'a str, &&'a Spanned<DeValue<'a>>)| {
            let line = self.file.line(v.span().start);
            let full = format!("{}{key}", self.prefix);
            ((*key).to_owned(), Value { file: self.file, key: full, line, value: v.get_ref() })
        };
        self.left.iter().map(value).collect()
    }
    fn finish(self) -> Result<(), String> {
        let Some(key) = self.left.keys().next() else { return Ok(()) };
        let line = self.keys.iter().find(|k| k.0 == *key).map_or(self.line, |k| k.1);
        let at = self.file.at(line, &format!("{}{key}", self.prefix));
        Err(at.wrong(format!("no such key: known here are {}", self.known.join(", "))))
    }
}

/// A value of the file.
struct Value<'a> {
    file: &'a File<'a>,
    key: String,
    line: usize,
    value: &'a DeValue<'a>,
}

impl<'a> Value<'a> {
    fn at(&self) -> At {
        self.file.at(self.line, &self.key)
    }
    fn wrong(&self, why: impl Display) -> String {
        self.at().wrong(why)
    }
    fn is_no(&self, what: &str) -> String {
        self.wrong(format!("{what} is needed, not {}", article(self.value.type_str())))
    }
    fn str(&self) -> Result<&'a str, String> {
        self.value.as_str().ok_or_else(|| self.is_no("a text in quotes"))
    }
    fn number(&self, low: u64, high: u64) -> Result<u64, String> {
        let wrong = || self.wrong(format!("a number from {low} to {high} is needed"));
        let number = self.value.as_integer().ok_or_else(wrong)?;
        let read = u64::from_str_radix(number.as_str(), number.radix());
        read.ok().filter(|n| (low..=high).contains(n)).ok_or_else(wrong)
    }
    /// What the value of a knob may be, as `sysctl -w` would have it.
    fn plain(&self) -> Result<String, String> {
        match self.value {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Boolean(on) => Ok(u8::from(*on).to_string()),
            DeValue::Integer(_) => self.number(0, u64::MAX).map(|n| n.to_string()),
            DeValue::Array(_) => {
                let words: Result<Vec<String>, String> =
                    self.items()?.iter().map(Value::plain).collect();
                Ok(words?.join(" "))
            }
            _ => Err(self.is_no("a number, a switch, a text or a list of numbers")),
        }
    }
    fn parse<T: FromStr<Err = String>>(&self) -> Result<T, String> {
        self.str()?.parse().map_err(|e| self.wrong(e))
    }
    fn parse_as<T: FromStr>(&self, what: &str) -> Result<T, String> {
        let text = self.str()?;
        text.parse().map_err(|_| self.wrong(format!("{text:?} is not {what}")))
    }
    /// A path, relative to the directory of the file.
    fn path(&self) -> Result<PathBuf, String> {
        let near = self.file.path.parent().unwrap_or(Path::new(""));
        Ok(near.join(self.str()?))
    }
    fn items(&self) -> Result<Vec<Value<'a>>, String> {
        let array = self.value.as_array().ok_or_else(|| self.is_no("a list in brackets"))?;
        let item = |v: &'a Spanned<DeValue<'a>>| Value {
            file: self.file,
            key: self.key.clone(),
            line: self.file.line(v.span().start),
            value: v.get_ref(),
        };
        Ok(array.iter().map(item).collect())
    }
    fn section(&self) -> Result<Section<'a>, String> {
        let table = self.value.as_table().ok_or_else(|| self.is_no("a table"))?;
        Ok(Section::new(self.file, format!("{}.", self.key), table, self.line))
    }
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}
