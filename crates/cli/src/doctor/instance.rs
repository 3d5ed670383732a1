//! A running instance of ours as a host: the same counters, so that the same rules judge it.
//!
//! Names and meanings are the kernel's in both. What an instance has not (interrupts, drivers, processes)
//! is not there, and no rule speaks of it. What follows from a finding is put in the instance's own
//! words by [`advice`].

pub mod advice;
mod qdisc;

use std::time::{SystemTime, UNIX_EPOCH};

use linerate_core::table::Knobs;
use linerate_gateway::control::snapshot::{BqlRow, DeviceRow, SocketTotals, TcpRow, UdpRow};
use linerate_gateway::control::{Client, Request, Response, Snapshot as Reading};
use linerate_host::Counters;
use linerate_host::snapshot::{
    Dev, Feature, Listener, Owner, RxQueue, Snapshot, TcpSocket, TxQueue, UdpSocket,
};

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
    let mut counters = Counters::new(shown(name, what));
    counters.extend(values.into_iter().map(|(name, value)| (name.as_str(), *value)));
    counters
}

/// The command that shows something of the instance.
fn shown(name: &str, what: &str) -> String {
    format!("linerate show {what} --name {name}")
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
            // Here it is known which of its two budgets ended a pass.
            for (ours, theirs) in
                [("squeeze_budget", "SoftnetSqueezeBudget"), ("squeeze_time", "SoftnetSqueezeTime")]
            {
                softnet.set(ours, shard.counter("linerate", theirs));
            }
            s.softnet.insert(cpu, softnet);
        }
        // A thread that spins while it waits is busy with nothing.
        let spins = ["net.core.busy_poll", "net.core.busy_read"]
            .map(|knob| r.knobs.iter().any(|k| k.path == knob && k.value != "0"));
        if shard.cpu_ns > 0 && !spins.contains(&true) {
            let mut time = Counters::new(format!("the thread of the shard of {name}"));
            let (busy, all) = (shard.cpu_ns / 1000, r.uptime_ns / 1000);
            time.extend([("softirq", busy), ("idle", all.saturating_sub(busy))]);
            s.cpus.insert(cpu, time);
        }
        if let Some(values) = shard.counters.get("softirqs") {
            s.softirqs.insert(cpu, counters(name, "softirqs", values));
        }
    }
    s.sysctls = (r.knobs.iter()).map(|k| (k.path.clone(), k.value.replace('\t', " "))).collect();
    s.sysctls.extend(qdisc::settings(r));
    neighbours(name, r, &mut s);
    sockstat(name, &r.totals, &mut s);
    s.devs = r.devices.iter().map(|d| (d.name.clone(), device(name, r, &s, d))).collect();
    sockets(name, r, &mut s);
    s
}

fn neighbours(name: &str, r: &Reading, s: &mut Snapshot) {
    if let Some(values) = r.counters.get("arp_cache") {
        let mut table = counters(name, "path", values);
        // One table has the neighbours of both families.
        table.set("entries", r.neighbours.values().flat_map(|states| states.values()).sum());
        s.neigh.insert("arp_cache".to_owned(), table);
    }
    let states = r.neighbours.iter();
    s.neigh_states =
        states.map(|(family, by)| (family.clone(), counters(name, "path", by))).collect();
}

fn sockstat(name: &str, totals: &SocketTotals, s: &mut Snapshot) {
    let sections: [(&str, &[(&str, u64)]); 3] = [
        (
            "TCP",
            &[
                ("inuse", totals.tcp),
                ("orphan", totals.tcp_orphan),
                ("tw", totals.tcp_tw),
                ("alloc", totals.tcp_alloc),
                ("mem", totals.tcp_mem_pages),
            ],
        ),
        ("UDP", &[("inuse", totals.udp), ("mem", totals.udp_mem_bytes.div_ceil(4096))]),
        ("FRAG", &[("inuse", totals.frag), ("memory", totals.frag_mem_bytes)]),
    ];
    for (section, values) in sections {
        let mut gauges = Counters::new(shown(name, "sockstat"));
        gauges.extend(values.iter().copied());
        s.sockstat.insert(section.to_owned(), gauges);
    }
}

fn device(name: &str, r: &Reading, s: &Snapshot, d: &DeviceRow) -> Dev {
    let mut stats = Counters::new(shown(name, "dev"));
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
    // These are counted for all devices together; so they stand at the first.
    if r.devices.first().is_some_and(|first| first.name == d.name) {
        for counter in ["rx_length_errors", "rx_nohandler", "rx_otherhost_dropped"] {
            stats.set(counter, r.counter("dev", counter));
        }
    }
    let flags = ["UP", "LOWER_UP"].map(str::to_owned).to_vec();
    let mut dev = Dev { name: d.name.clone(), mtu: d.mtu, stats, flags, ..Dev::default() };
    dev.operstate = "up".to_owned();
    let number = |knob: &str| s.sysctl(knob).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    dev.txqueuelen = narrow(number("dev.txqueuelen"));
    for (knob, feature) in FEATURES {
        let on = number(knob) != 0;
        dev.features.insert(feature.to_owned(), Feature { on, fixed: false });
    }
    queues(name, r, s, &mut dev);
    dev.qdiscs = qdisc::of(name, r, d);
    dev
}

/// The knob of the receive ring's size.
const RING: &str = "ring.rx";

/// Switches of the instance, and what the kernel calls the same feature.
const FEATURES: [(&str, &str); 6] = [
    ("features.gro", "rx-gro"),
    ("features.gso", "tx-generic-segmentation"),
    ("features.ntuple", "rx-ntuple-filter"),
    ("features.rx", "rx-checksum"),
    ("features.tso", "tx-tcp-segmentation"),
    ("features.tx", "tx-checksum-ip-generic"),
];

/// Rings, channels and how their packets are steered, where whoever answers drives the device.
fn queues(name: &str, r: &Reading, s: &Snapshot, dev: &mut Dev) {
    dev.rings = Counters::new(shown(name, "rings"));
    let mut number = 0;
    for queue in r.dev_queues.iter().filter(|q| q.device == dev.name) {
        number += 1;
        dev.rings.extend([("tx", queue.rings.tx), ("tx-max", queue.rings.tx_max)]);
        let rx = match queue.rings.rx {
            // The kernel's queue in front of a TAP or TUN takes the knob's size at any time.
            0 => Knobs::row(RING).ok().zip(s.sysctl(RING)).map(|(row, n)| (n as u64, row.high)),
            // A ring that keeps the size that it was made with is as large as it can be now.
            n => Some((n, n)),
        };
        if let Some((now, most)) = rx {
            dev.rings.extend([("rx", now), ("rx-max", most)]);
        }
    }
    let mask = s.sysctls.get("queues.rx.rps_cpus").map_or(0, |m| bits(m.as_str()));
    let steered = (0..64).filter(|cpu| mask >> cpu & 1 == 1).collect::<Vec<u32>>();
    let flows = s.sysctl("queues.rx.rps_flow_cnt").and_then(|n| u64::try_from(n).ok());
    let queue =
        RxQueue { rps_cpus: steered, rps_flow_cnt: flows.unwrap_or(0), ..RxQueue::default() };
    dev.rx = vec![queue; number.max(1)];
    let sent_by = |q: &BqlRow| {
        let mut queue = TxQueue {
            stats: Counters::new(shown(name, "bql")),
            bql: Counters::new(shown(name, "bql")),
            ..TxQueue::default()
        };
        queue.stats.set("tx_timeout", q.tx_timeout);
        queue.bql.extend([("limit", q.limit), ("inflight", q.inflight)]);
        queue
    };
    dev.tx = r.bql.iter().filter(|q| q.dev == dev.name).map(sent_by).collect();
}

/// A hexadecimal mask, as sysctl prints it.
fn bits(mask: &str) -> u64 {
    let digits: String = mask.chars().filter(|c| *c != ',').collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn sockets(name: &str, r: &Reading, s: &mut Snapshot) {
    // All of them are the instance's own. Each shard has some on the same ports: its number tells them
    // apart.
    let of = |shard: u8| Owner {
        uid: r.uid,
        process: Some((r.pid, "linerate".to_owned())),
        inode: u64::from(shard) + 1,
    };
    s.sockets.udp = r.udp.iter().map(|u| udp(s, u, of(u.shard))).collect();
    let listeners = r.tcp.iter().filter(|t| t.state == "LISTEN");
    s.sockets.listeners = listeners.map(|t| listener(t, of(t.shard))).collect();
    s.sockets.tcp = r.tcp.iter().filter_map(|t| connection(name, t, of(t.shard))).collect();
    let mut states = Counters::new(shown(name, "tcp"));
    r.tcp.iter().for_each(|t| states.add(&t.state, 1));
    s.sockets.tcp_states = states;
}

fn udp(s: &Snapshot, u: &UdpRow, owner: Owner) -> UdpSocket {
    let room = |knob: &str| s.sysctl(knob).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    UdpSocket {
        local: u.local,
        remote: u.remote,
        rmem: narrow(u.rx_queue),
        rcvbuf: narrow(u.rcvbuf),
        sndbuf: room("net.core.wmem_max"),
        drops: narrow(u.drops),
        owner,
    }
}

/// Of a listener `/proc/net/tcp`, and so the instance, has the connections that wait as its receive queue.
fn listener(t: &TcpRow, owner: Owner) -> Listener {
    Listener {
        local: t.local,
        waiting: narrow(t.rx_queue),
        backlog: narrow(t.tx_queue),
        drops: 0,
        owner,
    }
}

/// A connection with what its stack knows of it; listeners and what only waits to be forgotten have
/// nothing.
fn connection(name: &str, t: &TcpRow, owner: Owner) -> Option<TcpSocket> {
    let (remote, i) = (t.remote?, t.info.as_ref()?);
    let mut info = Counters::new(shown(name, "flows"));
    info.extend([
        ("rmem", t.rx_queue),
        ("rcvbuf", i.rcvbuf),
        ("sndbuf", i.sndbuf),
        ("snd_mss", i.mss),
        ("rtt", i.rtt_us),
        ("snd_cwnd", i.cwnd),
        ("total_retrans", i.retrans),
        ("bytes_acked", i.bytes_acked),
        ("bytes_received", i.bytes_received),
        ("snd_wnd", i.snd_wnd),
        ("rcv_wnd", i.rcv_wnd),
        ("backoff", t.timeouts),
    ]);
    Some(TcpSocket {
        local: t.local,
        remote,
        state: t.state.clone(),
        recv_q: narrow(t.rx_queue),
        send_q: narrow(t.tx_queue),
        info,
        cong: i.cc.clone(),
        owner,
    })
}
