//! A running instance of ours as a host: the same counters, so that the same rules judge it.
//!
//! Names and meanings are the kernel's in both. What an instance has not (interrupts, drivers, processes)
//! is not there, and no rule speaks of it.

use std::time::{SystemTime, UNIX_EPOCH};

use linerate_core::table::Knobs;
use linerate_gateway::control::snapshot::{DeviceRow, TcpRow, UdpRow};
use linerate_gateway::control::{Client, Request, Response, Snapshot as Reading};
use linerate_host::change::Change;
use linerate_host::finding::{Advice, Finding};
use linerate_host::snapshot::{Dev, Listener, Owner, Qdisc, Snapshot, UdpSocket};
use linerate_host::{Counters, rules};

/// Sockets that are listed.
const SOCKETS_MAX: usize = 4096;

/// An instance that answers.
pub struct Instance {
    client: Client,
    name: String,
}

impl Instance {
    /// The instance of that name.
    ///
    /// # Errors
    /// A sentence, if none runs.
    pub fn connect(name: &str) -> Result<Instance, String> {
        let client = Client::connect(Some(name)).map_err(|e| e.to_string())?;
        Ok(Instance { client, name: name.to_owned() })
    }

    /// What it is like now.
    ///
    /// # Errors
    /// A sentence, if it has ended or is of another version.
    pub fn read(&mut self) -> Result<Snapshot, String> {
        match self.client.ask(&Request::Snapshot { sockets: SOCKETS_MAX }) {
            Ok(Response::Snapshot(reading)) => Ok(as_host(&self.name, &reading)),
            Ok(Response::Error(why)) => Err(why),
            Ok(Response::Value { .. } | Response::Capturing(_)) => {
                Err("the instance answers in another way: is it of another version?".to_owned())
            }
            Err(e) => Err(e.to_string()),
        }
    }
}

/// Counters as the instance shows them.
fn counters<'a>(
    name: &str,
    what: &str,
    values: impl IntoIterator<Item = (&'a String, &'a u64)>,
) -> Counters {
    let mut counters = Counters::new(format!("linerate show {what} --name {name}"));
    counters.extend(values.into_iter().map(|(name, value)| (name.as_str(), *value)));
    counters
}

fn as_host(name: &str, r: &Reading) -> Snapshot {
    let mut s = Snapshot { monotonic_ns: r.uptime_ns, ..Snapshot::default() };
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    s.wall_ns = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
    s.host.name = name.to_owned();
    s.host.uptime_s = r.uptime_ns as f64 / 1e9;
    s.host.user_hz = 100;
    s.host.cpus = r.shards.iter().map(|shard| u32::from(shard.shard)).collect();
    for (section, what) in [
        ("Ip", "snmp"),
        ("Icmp", "snmp"),
        ("Tcp", "snmp"),
        ("Udp", "snmp"),
        ("TcpExt", "netstat"),
        ("IpExt", "netstat"),
        ("Ip6", "snmp6"),
        ("Icmp6", "snmp6"),
        ("Udp6", "snmp6"),
    ] {
        if let Some(values) = r.counters.get(section) {
            s.mib.insert(section.to_owned(), counters(name, what, values));
        }
    }
    for shard in &r.shards {
        let cpu = u32::from(shard.shard);
        if let Some(values) = shard.counters.get("softnet") {
            let mut softnet = counters(name, "softnet", values);
            softnet.set("backlog_len", shard.backlog);
            s.softnet.insert(cpu, softnet);
        }
        if let Some(values) = shard.counters.get("softirqs") {
            s.softirqs.insert(cpu, counters(name, "softirqs", values));
        }
    }
    if let Some(values) = r.counters.get("arp_cache") {
        s.neigh.insert("arp_cache".to_owned(), counters(name, "path", values));
    }
    s.devs = r.devices.iter().map(|d| (d.name.clone(), device(name, r, d))).collect();
    let kernels = |path: &str| path.starts_with("net.");
    s.sysctls = (r.knobs.iter().filter(|k| kernels(&k.path)))
        .map(|k| (k.path.clone(), k.value.replace('\t', " ")))
        .collect();
    s.sockets.udp = r.udp.iter().map(|u| udp(&s, u)).collect();
    s.sockets.listeners = r.tcp.iter().filter(|t| t.state == "LISTEN").map(listener).collect();
    let mut states = Counters::new(format!("linerate show tcp --name {name}"));
    r.tcp.iter().for_each(|t| states.add(&t.state, 1));
    s.sockets.tcp_states = states;
    s
}

fn device(name: &str, r: &Reading, d: &DeviceRow) -> Dev {
    let mut stats = Counters::new(format!("linerate show dev --name {name}"));
    stats.extend([
        ("rx_packets", d.rx_packets),
        ("rx_bytes", d.rx_bytes),
        ("rx_errors", d.rx_errors),
        ("rx_dropped", d.rx_dropped),
        ("rx_missed_errors", d.rx_missed),
        ("multicast", d.multicast),
        ("tx_packets", d.tx_packets),
        ("tx_bytes", d.tx_bytes),
        ("tx_errors", d.tx_errors),
        ("tx_dropped", d.tx_dropped),
    ]);
    let flags = ["UP", "LOWER_UP"].map(str::to_owned).to_vec();
    let mut dev = Dev { name: d.name.clone(), mtu: d.mtu, stats, flags, ..Dev::default() };
    dev.operstate = "up".to_owned();
    let mut rings = Counters::new(format!("linerate show rings --name {name}"));
    for queue in r.dev_queues.iter().filter(|q| q.device == d.name) {
        rings.extend([
            ("rx", queue.rings.rx),
            ("rx-max", queue.rings.rx_max),
            ("tx", queue.rings.tx),
            ("tx-max", queue.rings.tx_max),
        ]);
    }
    dev.rings = rings;
    // The stack has one queue of its own on the way out; what it drops there is the device's tx_dropped.
    let mut qdisc = Counters::new(format!("linerate show path --name {name}"));
    qdisc.extend([
        ("packets", d.tx_packets.saturating_add(d.tx_dropped)),
        ("bytes", d.tx_bytes),
        ("drops", d.tx_dropped),
    ]);
    if let Some(requeues) = r.counters.get("qdisc").and_then(|q| q.get("requeues")) {
        qdisc.set("requeues", *requeues);
    }
    if let Some(queue) = r.queues.iter().find(|q| q.stage == "Qdisc") {
        qdisc.set("qlen", queue.now);
    }
    let (kind, parent) = ("pfifo_fast".to_owned(), "root".to_owned());
    dev.qdiscs = vec![Qdisc { kind, parent, stats: qdisc, ..Qdisc::default() }];
    dev
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn udp(s: &Snapshot, u: &UdpRow) -> UdpSocket {
    let room = |knob: &str| s.sysctl(knob).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    UdpSocket {
        local: u.local,
        remote: u.remote,
        rmem: narrow(u.rx_queue),
        rcvbuf: room("net.core.rmem_default"),
        sndbuf: room("net.core.wmem_default"),
        drops: narrow(u.drops),
        owner: Owner::default(),
    }
}

/// Of a listener `/proc/net/tcp`, and so the instance, has the connections that wait as its receive queue.
fn listener(t: &TcpRow) -> Listener {
    Listener {
        local: t.local,
        waiting: narrow(t.rx_queue),
        backlog: narrow(t.tx_queue),
        drops: 0,
        owner: Owner::default(),
    }
}

/// Advice for a host becomes advice for the instance: its knobs have the same names, but another command
/// sets them; what it has not is left out.
pub fn advise(findings: &mut [Finding], name: &str) {
    for finding in findings {
        finding.advice.retain_mut(|a| match &a.change {
            Some(Change::Sysctl { name: knob, value }) if Knobs::row(knob).is_ok() => {
                let (knob, value) = (knob.clone(), value.clone());
                set(a, name, &knob, &value);
                true
            }
            Some(_) => false,
            None => a.command.is_empty(),
        });
    }
}

fn set(a: &mut Advice, name: &str, knob: &str, value: &str) {
    let command = |value: &str| format!("linerate set --name {name} {knob}='{value}'");
    let old = a.rollback.split_once('=').map(|(_, old)| old.trim_matches('\'').to_owned());
    a.command = command(value);
    a.persist = format!("`--set {knob}='{value}'` when it is started, or its configuration file");
    a.verify = a.verify.replace("`sysctl ", &format!("`linerate get --name {name} "));
    a.rollback = old.map(|old| command(&old)).unwrap_or_default();
    a.change = None;
}

/// Rules that judge how a kernel is set up, which an instance is not.
pub fn is_about_hosts(finding: &Finding) -> bool {
    let rule = rules::by_name(finding.id);
    rule.is_none_or(|rule| matches!(rule.id, "R83" | "R84" | "R86" | "R87"))
}
