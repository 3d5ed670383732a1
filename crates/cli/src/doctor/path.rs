//! The kernel's path as a list of stops: what passes, what is lost and what waits at each.
//!
//! For pictures. What is lost comes from the ledger, so that a packet that the kernel counts at four stops
//! is drawn at one; what the evidence proves is for the rules to say.

use linerate_core::table::Stage;
use linerate_host::ledger::{self, Loss};
use linerate_host::snapshot::{Dev, Snapshot};
use linerate_host::{Counters, Window};

/// One stop of the path.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Where.
    pub stage: Stage,
    /// Packets that came in a second; `None` if nothing counts them.
    pub pkts: Option<f64>,
    /// Bytes in a second, likewise.
    pub bytes: Option<f64>,
    /// What was lost here in a second, the most first.
    pub lost: Vec<Lost>,
    /// What waits here.
    pub depth: Option<Depth>,
    /// Other things that moved here: squeezes, hops, retransmissions; in a second.
    pub moved: Vec<(&'static str, f64)>,
}

/// A loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Lost {
    /// In a few words.
    pub what: &'static str,
    /// The counter that says so.
    pub counter: String,
    /// The device or processor; empty: the host.
    pub subject: String,
    /// Packets in a second.
    pub per_s: f64,
    /// It harms nobody: a closed port, an unknown protocol.
    pub expected: bool,
}

impl From<&Loss> for Lost {
    fn from(loss: &Loss) -> Lost {
        Lost {
            what: loss.what,
            counter: loss.counters.first().map_or_else(String::new, |c| c.name.clone()),
            subject: loss.subject.clone(),
            per_s: loss.per_s,
            expected: loss.expected,
        }
    }
}

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Depth {
    /// How much.
    pub now: u64,
    /// How much may, if that is known.
    pub max: Option<u64>,
    /// Of what.
    pub unit: &'static str,
}

impl Stop {
    fn new(stage: Stage) -> Stop {
        Stop { stage, pkts: None, bytes: None, lost: vec![], depth: None, moved: vec![] }
    }

    /// All that is lost here in a second, but what harms nobody.
    pub fn loss(&self) -> f64 {
        self.lost.iter().filter(|l| !l.expected).map(|l| l.per_s).sum()
    }

    fn note(&mut self, what: &'static str, per_s: Option<f64>) {
        if let Some(per_s) = per_s.filter(|n| *n > 0.0) {
            self.moved.push((what, per_s));
        }
    }
}

/// Devices that pass on what others received or send: their packets would be counted twice.
const STACKED: [&str; 14] = [
    "bridge",
    "bond",
    "team",
    "vlan",
    "macvlan",
    "macvtap",
    "ipvlan",
    "vxlan",
    "geneve",
    "gre",
    "ipip",
    "sit",
    "wireguard",
    "vrf",
];

/// The devices of the picture: `only`, or all that are not made of others.
pub fn devices<'a>(s: &'a Snapshot, only: Option<&str>) -> Vec<&'a Dev> {
    let wanted = |d: &&Dev| match only {
        Some(name) => d.name == name,
        None => !STACKED.contains(&d.kind.as_str()),
    };
    s.devs.values().filter(wanted).collect()
}

/// What moves, in a window.
pub struct View<'a> {
    w: Window<'a>,
    devs: Vec<&'a Dev>,
}

impl<'a> View<'a> {
    /// Of the whole host, or of one device as far as a stop knows devices.
    pub fn new(w: Window<'a>, only: Option<&str>) -> View<'a> {
        View { w, devs: devices(w.to, only) }
    }

    fn mib(&self, section: &str, name: &str) -> Option<f64> {
        self.w.mib(section, name).map(|d| d.per_s)
    }

    fn mibs(&self, names: &[(&str, &str)]) -> Option<f64> {
        sum(names.iter().map(|(section, name)| self.mib(section, name)))
    }

    fn dev(&self, name: &str) -> Option<f64> {
        sum(self.devs.iter().map(|d| self.w.dev(&d.name, name).map(|d| d.per_s)))
    }

    fn softnet(&self, name: &str) -> Option<f64> {
        sum(self.w.to.softnet.keys().map(|cpu| self.w.softnet(*cpu, name).map(|d| d.per_s)))
    }

    /// Counters of the driver whose names end so.
    fn driver(&self, end: &str) -> Option<f64> {
        sum(self.devs.iter().flat_map(|d| {
            let names = d.driver_stats.iter().map(|(name, _)| name).filter(|n| n.ends_with(end));
            names.map(|n| self.w.dev_of(&d.name, n, |d| &d.driver_stats).map(|d| d.per_s))
        }))
    }

    fn qdisc(&self, name: &str) -> Option<f64> {
        sum(self.devs.iter().flat_map(|d| {
            d.qdiscs.iter().filter(|q| q.parent == "root").map(|q| {
                let same = |s: &'a Snapshot| {
                    let qdiscs = &s.devs.get(&d.name)?.qdiscs;
                    qdiscs.iter().find(|o| o.handle == q.handle && o.parent == q.parent)
                };
                self.w.of(name, |s| same(s).map(|q| &q.stats)).map(|d| d.per_s)
            })
        }))
    }

    fn sysctl(&self, name: &str) -> Option<u64> {
        self.w.to.sysctl(name).and_then(|n| u64::try_from(n).ok())
    }
}

/// The sum of what is known; `None` if nothing is.
fn sum(all: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    all.flatten().fold(None, |sum: Option<f64>, n| Some(sum.unwrap_or(0.0) + n))
}

/// The stops in the order of the journey.
pub fn journey(view: &View<'_>) -> Vec<Stop> {
    let mut stops = receive(view);
    stops.extend(transmit(view));
    let ledger = ledger::of(&view.w);
    for loss in ledger.losses.iter().chain(&ledger.unexplained) {
        let of_other = view.w.to.devs.contains_key(&loss.subject)
            && !view.devs.iter().any(|d| d.name == loss.subject);
        let stop = stops.iter_mut().find(|s| s.stage == home(loss.stage));
        if let Some(stop) = stop.filter(|_| !of_other && loss.per_s > 0.0) {
            stop.lost.push(loss.into());
        }
    }
    for stop in &mut stops {
        stop.lost.sort_by(|a, b| b.per_s.total_cmp(&a.per_s));
    }
    stops
}

/// The stop at which a stage is drawn that has none of its own.
fn home(stage: Stage) -> Stage {
    match stage {
        Stage::Irq => Stage::Ring,
        Stage::Gro => Stage::Poll,
        Stage::Route | Stage::Forward => Stage::Ip,
        Stage::Demux => Stage::Transport,
        Stage::Gso => Stage::Xmit,
        stage => stage,
    }
}

/// The sum of a gauge; `None` if nobody has it.
fn gauge<'a>(of: impl Iterator<Item = &'a Counters>, name: &str) -> Option<u64> {
    of.filter_map(|c| c.get(name)).fold(None, |sum: Option<u64>, n| Some(sum.unwrap_or(0) + n))
}

fn receive(v: &View<'_>) -> Vec<Stop> {
    let mut ring = Stop::new(Stage::Ring);
    ring.pkts = v.dev("rx_packets");
    ring.bytes = v.dev("rx_bytes");

    let mut xdp = Stop::new(Stage::Xdp);
    xdp.pkts = v.driver("xdp_packets");

    let mut poll = Stop::new(Stage::Poll);
    poll.pkts = v.softnet("processed");
    poll.note("time_squeeze", v.softnet("time_squeeze"));

    let mut steer = Stop::new(Stage::Steer);
    steer.note("received_rps", v.softnet("received_rps"));

    let mut backlog = Stop::new(Stage::Backlog);
    backlog.note("flow_limit_count", v.softnet("flow_limit_count"));
    if let Some(now) = gauge(v.w.to.softnet.values(), "backlog_len") {
        let max = v.sysctl("net.core.netdev_max_backlog");
        let max = max.map(|n| n.saturating_mul(v.w.to.softnet.len() as u64));
        backlog.depth = Some(Depth { now, max, unit: "packets" });
    }

    let mut link = Stop::new(Stage::Link);
    link.pkts = v.softnet("processed");

    let mut ip = Stop::new(Stage::Ip);
    ip.pkts = v.mibs(&[("Ip", "InReceives"), ("Ip6", "InReceives")]);
    ip.bytes = v.mibs(&[("IpExt", "InOctets"), ("Ip6", "InOctets")]);
    ip.note("forwarded", v.mibs(&[("Ip", "ForwDatagrams"), ("Ip6", "OutForwDatagrams")]));

    let mut reasm = Stop::new(Stage::Reasm);
    reasm.pkts = v.mibs(&[("Ip", "ReasmReqds"), ("Ip6", "ReasmReqds")]);
    if let Some(now) = v.w.to.sockstat.get("FRAG").and_then(|c| c.get("memory")) {
        let max = v.sysctl("net.ipv4.ipfrag_high_thresh");
        reasm.depth = Some(Depth { now, max, unit: "bytes" });
    }

    let mut transport = Stop::new(Stage::Transport);
    let tcp = [("Tcp", "InSegs"), ("Icmp", "InMsgs"), ("Icmp6", "InMsgs")];
    let udp = ["Udp", "Udp6"].map(|s| ["InDatagrams", "NoPorts", "InErrors"].map(|n| (s, n)));
    transport.pkts = v.mibs(&[&tcp[..], udp.as_flattened()].concat());
    transport.note("OutRsts", v.mib("Tcp", "OutRsts"));

    vec![ring, xdp, poll, steer, backlog, link, ip, reasm, transport, sockets(v)]
}

fn sockets(v: &View<'_>) -> Stop {
    let mut queue = Stop::new(Stage::SockQueue);
    let tcp = [("Tcp", "InSegs")];
    let udp = ["Udp", "Udp6"].map(|s| ["InDatagrams", "RcvbufErrors"].map(|n| (s, n)));
    queue.pkts = v.mibs(&[&tcp[..], udp.as_flattened()].concat());
    queue.note("TCPToZeroWindowAdv", v.mib("TcpExt", "TCPToZeroWindowAdv"));
    let s = &v.w.to.sockets;
    let udp = s.udp.iter().map(|u| u64::from(u.rmem));
    let tcp = s.tcp.iter().map(|t| u64::from(t.recv_q));
    if !s.udp.is_empty() || !s.tcp.is_empty() {
        queue.depth = Some(Depth { now: udp.chain(tcp).sum(), max: None, unit: "bytes" });
    }
    queue
}

fn transmit(v: &View<'_>) -> Vec<Stop> {
    let mut send = Stop::new(Stage::Send);
    let udp = ["Udp", "Udp6"].map(|s| (s, "OutDatagrams"));
    let others = [("Tcp", "OutSegs"), ("Icmp", "OutMsgs"), ("Icmp6", "OutMsgs")];
    send.pkts = v.mibs(&[&others[..], &udp[..]].concat());
    send.note("RetransSegs", v.mib("Tcp", "RetransSegs"));
    send.note("TCPTimeouts", v.mib("TcpExt", "TCPTimeouts"));
    if !v.w.to.sockets.tcp.is_empty() {
        let now = v.w.to.sockets.tcp.iter().map(|t| u64::from(t.send_q)).sum();
        send.depth = Some(Depth { now, max: None, unit: "bytes" });
    }

    let mut out = Stop::new(Stage::IpOut);
    out.pkts = v.mibs(&[("Ip", "OutRequests"), ("Ip6", "OutRequests")]);
    out.bytes = v.mibs(&[("IpExt", "OutOctets"), ("Ip6", "OutOctets")]);

    let mut frag = Stop::new(Stage::Frag);
    frag.note("fragments made", v.mibs(&[("Ip", "FragCreates"), ("Ip6", "FragCreates")]));

    let mut neigh = Stop::new(Stage::Neigh);
    if let Some(now) = gauge(v.w.to.neigh.values(), "entries") {
        neigh.depth = Some(Depth { now, max: None, unit: "entries" });
    }

    let mut qdisc = Stop::new(Stage::Qdisc);
    qdisc.pkts = v.qdisc("packets");
    qdisc.bytes = v.qdisc("bytes");
    qdisc.note("overlimits", v.qdisc("overlimits"));
    qdisc.note("requeues", v.qdisc("requeues"));
    let roots = v.devs.iter().flat_map(|d| d.qdiscs.iter().filter(|q| q.parent == "root"));
    if let Some(now) = gauge(roots.map(|q| &q.stats), "qlen") {
        qdisc.depth = Some(Depth { now, max: None, unit: "packets" });
    }

    let mut xmit = Stop::new(Stage::Xmit);
    xmit.pkts = v.dev("tx_packets");
    xmit.bytes = v.dev("tx_bytes");
    let bql = || v.devs.iter().flat_map(|d| d.tx.iter().map(|q| &q.bql));
    if let Some(now) = gauge(bql(), "inflight") {
        xmit.depth = Some(Depth { now, max: gauge(bql(), "limit"), unit: "bytes" });
    }
    vec![send, out, frag, neigh, qdisc, xmit]
}
