//! What `up` is to be: devices, addresses, routes, knobs, services; from the options or from a file.
//!
//! Whatever can be judged before anything is started is judged here. Each part remembers where it was
//! written, so that a refusal names the option, or file, line and key.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use linerate_core::ip::route::in_prefix;

use super::args::{DevBackend, HostAddr, ServeKind, UpArgs};
use super::file;
use super::serve::dns::Zone;
use linerate_core::tx::qdisc::Tree;

use crate::args::Setting;

/// Queues at the most, as `channels.combined` has it.
pub const QUEUES_MAX: usize = 64;

/// Where something was written: an option, or `file:line: key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At(pub String);

impl At {
    /// The sentence that refuses it.
    pub fn wrong(&self, why: impl std::fmt::Display) -> String {
        format!("{}: {why}", self.0)
    }
}

/// Everything that was asked for.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The instance's name, if one was given.
    pub name: Option<String>,
    /// Queues of each device, each with its shard.
    pub queues: usize,
    /// The processors of the workers, in order.
    pub cpus: Vec<usize>,
    /// Knobs that were set, with where.
    pub knobs: Vec<(Setting, At)>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Routes beside those that addresses bring along.
    pub routes: Vec<Route>,
    /// Services.
    pub services: Vec<Service>,
}

/// An interface.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// How frames reach us.
    pub backend: DevBackend,
    /// Its addresses.
    pub addrs: Vec<(HostAddr, At)>,
    /// The MTU of one that is made; `None` = as it is.
    pub mtu: Option<u32>,
    /// The eBPF program that sees its packets first: file, and section behind a colon.
    pub xdp: Option<String>,
    /// Its queueing disciplines, on transmit and on receive.
    pub qdiscs: (Option<Tree>, Option<Tree>),
    /// Where it was written.
    pub at: At,
}

impl Device {
    /// The places for queueing disciplines, and what is asked for there.
    pub fn qdiscs(&self) -> [(String, Option<&Tree>); 2] {
        let (root, ingress) = &self.qdiscs;
        [("root", root), ("ingress", ingress)]
            .map(|(hook, tree)| (format!("qdisc.{}.{hook}", self.name), tree.as_ref()))
    }
}

/// Where packets to a network go.
#[derive(Clone, Debug)]
pub struct Route {
    /// The network.
    pub to: HostNet,
    /// How.
    pub way: Way,
    /// Where it was written.
    pub at: At,
}

/// A network: address and bits of its prefix.
pub type HostNet = (IpAddr, u8);

/// What is done with packets to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// They go to this router, by this device (an index into [`Config::devices`]).
    Via(IpAddr, usize),
    /// Their destination is on the link of this device.
    Link(usize),
    /// They are dropped (`blackhole`), or refused (`unreachable`, `prohibit`).
    Refused(linerate_core::ip::route::RouteKind),
}

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// What it does.
    pub kind: Kind,
    /// Its only address, or all.
    pub addr: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Where it was written.
    pub at: At,
}

/// What a service does, with what it needs for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Sends back.
    Echo,
    /// Throws away.
    Discard,
    /// Sends characters.
    Chargen,
    /// Serves the files of a directory.
    Http(PathBuf),
    /// Answers for names.
    Dns(Zone),
    /// Measures with iperf3's clients.
    Iperf3,
}

impl Kind {
    /// Its kind, without what it needs.
    pub fn of(&self) -> ServeKind {
        match self {
            Kind::Echo => ServeKind::Echo,
            Kind::Discard => ServeKind::Discard,
            Kind::Chargen => ServeKind::Chargen,
            Kind::Http(_) => ServeKind::Http,
            Kind::Dns(_) => ServeKind::Dns,
            Kind::Iperf3 => ServeKind::Iperf3,
        }
    }
    /// Whether it speaks TCP, and whether UDP.
    pub fn transports(&self) -> (bool, bool) {
        (true, !matches!(self, Kind::Http(_)))
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.addr {
            Some(IpAddr::V6(a)) => write!(f, "{}@[{a}]:{}", self.kind.of().name(), self.port),
            Some(a) => write!(f, "{}@{a}:{}", self.kind.of().name(), self.port),
            None => write!(f, "{}@{}", self.kind.of().name(), self.port),
        }
    }
}

impl Config {
    /// From the options, or from the file that they name.
    ///
    /// # Errors
    /// A sentence for the user; nothing was started.
    pub fn read(args: &UpArgs) -> Result<Config, String> {
        let mut config = match &args.config {
            Some(path) => file::read(path)?,
            None => from_options(args)?,
        };
        if args.name.is_some() {
            config.name.clone_from(&args.name);
        }
        config.settle_queues()?;
        config.check()?;
        Ok(config)
    }

    /// The number of queues and the knob of it are one.
    fn settle_queues(&mut self) -> Result<(), String> {
        let knob = self.knobs.iter().find(|(s, _)| s.path == "channels.combined");
        if let Some((setting, at)) = knob {
            let wanted = setting.value.parse().unwrap_or(1);
            if self.queues != 0 && self.queues != wanted {
                return Err(at.wrong(format!(
                    "channels.combined is {wanted} but {} queues were asked for: give one of them",
                    self.queues
                )));
            }
            self.queues = wanted;
        }
        self.knobs.retain(|(s, _)| s.path != "channels.combined");
        self.queues = self.queues.max(1);
        Ok(())
    }

    /// What `ring.rx` or `ring.tx` was set to, in packets, if it was.
    pub fn ring(&self, path: &str) -> Option<u32> {
        let (setting, _) = self.knobs.iter().find(|(s, _)| s.path == path)?;
        setting.value.parse().ok()
    }

    /// What does not fit together.
    fn check(&self) -> Result<(), String> {
        if self.devices.is_empty() {
            return Err("no device is named: add a [[device]] with its name".to_owned());
        }
        self.check_devices()?;
        self.check_routes()?;
        self.check_services()?;
        if !self.cpus.is_empty() && self.cpus.len() != self.queues {
            return Err(format!(
                "{} processors are named for {} queues: name one for each queue, or none",
                self.cpus.len(),
                self.queues
            ));
        }
        let there = processors();
        match self.cpus.iter().find(|c| !there.contains(c)) {
            Some(cpu) => {
                let there: Vec<String> = there.iter().map(usize::to_string).collect();
                let there = there.join(",");
                Err(format!("there is no processor {cpu} that we may use: there are {there}"))
            }
            None => Ok(()),
        }
    }

    fn check_devices(&self) -> Result<(), String> {
        let mut seen: HashMap<&str, &At> = HashMap::new();
        let mut addrs: HashMap<IpAddr, &At> = HashMap::new();
        for device in &self.devices {
            let name = &device.name;
            let good = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
            if name.is_empty() || name.len() > 15 || !name.bytes().all(good) {
                return Err(device.at.wrong(format!(
                    "{name:?} is no name of an interface: 1 to 15 letters without '/', ':' or space"
                )));
            }
            if let Some(first) = seen.insert(name, &device.at) {
                return Err(device.at.wrong(format!("{name} was named already ({})", first.0)));
            }
            if device.mtu.is_some()
                && !matches!(device.backend, DevBackend::Tap | DevBackend::Tun | DevBackend::Auto)
            {
                return Err(device.at.wrong(format!(
                    "the MTU of {name} is the interface's own with {}: set it by `ip link set {name} \
                     mtu ...`",
                    device.backend.name()
                )));
            }
            if let Some(spec) = &device.xdp {
                crate::xdp::load(spec, 1).map_err(|e| device.at.wrong(format!("xdp: {e}")))?;
            }
            for (addr, at) in &device.addrs {
                if let Some(first) = addrs.insert(addr.addr, at) {
                    return Err(at.wrong(format!("{} was given already ({})", addr.addr, first.0)));
                }
            }
        }
        Ok(())
    }

    fn check_routes(&self) -> Result<(), String> {
        let mut seen: HashMap<HostNet, &At> = HashMap::new();
        for route in &self.routes {
            let (to, at) = (route.to, &route.at);
            if let Some(first) = seen.insert(to, at) {
                let net = format!("{}/{}", to.0, to.1);
                return Err(at.wrong(format!("a second route to {net} (the first: {})", first.0)));
            }
            let Way::Via(via, device) = route.way else { continue };
            if via.is_ipv4() != to.0.is_ipv4() {
                return Err(at.wrong(format!("{via} is of the other IP version")));
            }
            let addrs = self.devices.get(device).map_or(&[][..], |d| &d.addrs);
            let on_link = addrs.iter().any(|(a, _)| in_prefix(via, a.addr, a.len));
            let link_local = matches!(via, IpAddr::V6(a) if a.is_unicast_link_local());
            if !on_link && !link_local {
                return Err(at.wrong(format!(
                    "the router {via} is in no network of the device: add an address of its network"
                )));
            }
            if addrs.iter().any(|(a, _)| a.addr == via) {
                return Err(at.wrong(format!("the router {via} is our own address")));
            }
        }
        Ok(())
    }

    fn check_services(&self) -> Result<(), String> {
        let own = |addr: &IpAddr| {
            self.devices.iter().any(|d| d.addrs.iter().any(|(a, _)| a.addr == *addr))
        };
        for (i, service) in self.services.iter().enumerate() {
            let at = &service.at;
            if let Some(addr) = service.addr.filter(|a| !own(a)) {
                return Err(at.wrong(format!("{addr} is no address of ours: add it to a device")));
            }
            let clash = self.services[..i].iter().find(|s| {
                s.port == service.port
                    && (s.addr.is_none() || service.addr.is_none() || s.addr == service.addr)
            });
            if let Some(other) = clash {
                return Err(at.wrong(format!(
                    "port {} is {}'s already ({}): give one of them another port",
                    service.port,
                    other.kind.of().name(),
                    other.at.0
                )));
            }
        }
        Ok(())
    }

    /// The interface and port numbers that a reader of the start line wants to see.
    pub fn summary(&self) -> String {
        let list = |items: Vec<String>| match items.is_empty() {
            true => "none".to_owned(),
            false => items.join(" "),
        };
        let devices = self.devices.iter().map(|d| {
            let addrs: Vec<String> = d.addrs.iter().map(|(a, _)| a.to_string()).collect();
            format!("{} ({}; {})", d.name, d.backend.name(), list(addrs))
        });
        let services = self.services.iter().map(Service::to_string).collect();
        format!(
            "devices {}; {} queue{}; services {}",
            devices.collect::<Vec<_>>().join(", "),
            self.queues,
            if self.queues == 1 { "" } else { "s" },
            list(services)
        )
    }
}

/// The processors that this process may use.
fn processors() -> Vec<usize> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let Ok(set) = set else { return (0..QUEUES_MAX).collect() };
    (0..nix::sched::CpuSet::count()).filter(|c| set.is_set(*c).unwrap_or(false)).collect()
}

fn from_options(args: &UpArgs) -> Result<Config, String> {
    let at = |option: &str, value: &dyn std::fmt::Display| At(format!("--{option} {value}"));
    let name = args.dev.clone().unwrap_or_default();
    let addrs = args.addr.iter().map(|a| (*a, at("addr", a))).collect();
    let (mtu, xdp) = (args.mtu, args.xdp.clone());
    let (at_dev, backend) = (at("dev", &name), args.backend);
    let qdiscs = (args.qdisc.clone(), args.qdisc_in.clone());
    let device = Device { at: at_dev, name, backend, addrs, mtu, xdp, qdiscs };
    let route = |via: &IpAddr| Route {
        to: (if via.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0),
        way: Way::Via(*via, 0),
        at: at("gateway", via),
    };
    if !args.ports.is_empty() && args.ports.len() != args.serve.len() {
        return Err(format!(
            "--ports names {} ports for {} services: name one for each --serve, in their order",
            args.ports.len(),
            args.serve.len()
        ));
    }
    let mut services = Vec::new();
    for (i, serve) in args.serve.iter().enumerate() {
        let at = at("serve", &serve.kind.name());
        let port = match (serve.port, args.ports.get(i)) {
            (Some(_), Some(_)) => {
                return Err(at.wrong("its port is given by '@' and by --ports: give it once"));
            }
            (port, listed) => port.or(listed.copied()).unwrap_or(serve.kind.port()),
        };
        let kind = kind(serve.kind, serve.what.clone().unwrap_or_default(), &at)?;
        services.push(Service { kind, addr: serve.addr, port, at });
    }
    Ok(Config {
        name: None,
        queues: args.queues.map_or(0, usize::from),
        cpus: args.cpus.clone(),
        knobs: args.set.iter().map(|s| (s.clone(), at("set", &s.path))).collect(),
        devices: vec![device],
        routes: args.gateway.iter().map(route).collect(),
        services,
    })
}

/// A service with what it needs, looked at.
pub fn kind(kind: ServeKind, what: PathBuf, at: &At) -> Result<Kind, String> {
    Ok(match kind {
        ServeKind::Echo => Kind::Echo,
        ServeKind::Discard => Kind::Discard,
        ServeKind::Chargen => Kind::Chargen,
        ServeKind::Iperf3 => Kind::Iperf3,
        ServeKind::Http => {
            let shown = what.display();
            let full = what.canonicalize().map_err(|e| at.wrong(format!("{shown}: {e}")))?;
            if !full.is_dir() {
                return Err(at.wrong(format!("{shown} is no directory")));
            }
            fs::read_dir(&full).map_err(|e| at.wrong(format!("{shown}: {e}")))?;
            Kind::Http(full)
        }
        ServeKind::Dns => Kind::Dns(Zone::read(&what).map_err(|e| at.wrong(e))?),
    })
}
