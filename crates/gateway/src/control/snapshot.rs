//! [`Snapshot`]: one reading of a shard, complete enough for every report.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use linerate_core::link::{Iface, TxQueue};
use linerate_core::shard::Shard;
use linerate_core::table::{Counter, Counts, Dir, Knobs, Reason, Stage};
use linerate_core::tcp::SockRow;
use linerate_core::tcp::State;
use linerate_core::tcp::info::TcpInfo;
use linerate_core::tx::dql::Bounds;
use serde::{Deserialize, Serialize};

pub use super::rows::{
    BqlRow, DevQueueRow, DeviceRow, DropRow, FilterRow, FlowRow, KnobRow, Memory, QdiscRow,
    QueueRow, RingsRow, RssRow, RuleRow, ShardRow, SocketTotals, StageRow, TcpInfoRow, TcpRow,
    UdpRow, XdpMapRow, XdpRow,
};

/// What a shard does not know of itself.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// The instance's name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Nanoseconds since it was started.
    pub uptime_ns: u64,
    /// Offloads in use, in ethtool's words (`tx-tcp-segmentation`).
    pub offloads: Vec<String>,
    /// What a reader of the report should know (a fallback that was taken, say).
    pub notes: Vec<String>,
    /// Flows that have ended, largest first; open ones are read from the sockets.
    pub flows: Vec<FlowRow>,
    /// Sockets listed of each kind at the most; all are counted.
    pub sockets_max: usize,
}

/// Everything that reports are made of: names with values, never positions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The instance's name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// The user whom it belongs to.
    pub uid: u32,
    /// Nanoseconds since it was started.
    pub uptime_ns: u64,
    /// The stages in order of the journey.
    pub stages: Vec<StageRow>,
    /// Counters by Linux's group and name; ours that Linux lacks are in the group `linerate`.
    pub counters: BTreeMap<String, BTreeMap<String, u64>>,
    /// Drops that happened, by reason.
    pub drops: Vec<DropRow>,
    /// Every knob.
    pub knobs: Vec<KnobRow>,
    /// Devices.
    pub devices: Vec<DeviceRow>,
    /// Queues with their high-water marks.
    pub queues: Vec<QueueRow>,
    /// Memory of packets.
    pub memory: Memory,
    /// How many sockets there are, listed or not.
    pub totals: SocketTotals,
    /// Neighbours by family (`inet`, `inet6`) and state, as `ip neigh` calls it.
    #[serde(default)]
    pub neighbours: BTreeMap<String, BTreeMap<String, u64>>,
    /// UDP sockets.
    pub udp: Vec<UdpRow>,
    /// TCP sockets.
    pub tcp: Vec<TcpRow>,
    /// The flows that moved most, largest first.
    pub flows: Vec<FlowRow>,
    /// Offloads in use.
    pub offloads: Vec<String>,
    /// Notes.
    pub notes: Vec<String>,
    /// The shards, of which everything above is the sum.
    #[serde(default)]
    pub shards: Vec<ShardRow>,
    /// The queues of the devices, where whoever answers drives them.
    #[serde(default)]
    pub dev_queues: Vec<DevQueueRow>,
    /// How the devices distribute, likewise.
    #[serde(default)]
    pub rss: Vec<RssRow>,
    /// The rules that go before that.
    #[serde(default)]
    pub rules: Vec<RuleRow>,
    /// The queueing disciplines of the devices.
    #[serde(default)]
    pub qdiscs: Vec<QdiscRow>,
    /// The eBPF programs of the devices, where whoever answers has some.
    #[serde(default)]
    pub xdp: Vec<XdpRow>,
    /// The byte queue limits of their transmit queues.
    #[serde(default)]
    pub bql: Vec<BqlRow>,
    /// The rules at ingress of the devices.
    #[serde(default)]
    pub filters: Vec<FilterRow>,
}

/// Flows listed at the most.
pub const FLOWS_MAX: usize = 10;

impl Snapshot {
    /// Reads `shard`. Costs a few hundred loads, and as much as a line for each socket listed.
    pub fn take(shard: &Shard, meta: Meta) -> Snapshot {
        let net = &shard.net;
        let counts = &net.counts;
        let (tcp, tcp_totals) = tcp_rows(shard, meta.sockets_max);
        let mut flows = meta.flows;
        flows.extend(open_flows(shard));
        flows.sort_by_key(|f| std::cmp::Reverse(f.up_bytes.saturating_add(f.down_bytes)));
        flows.truncate(FLOWS_MAX);
        let counters = counters(counts);
        let queues = queues(shard);
        let own = ["softnet", "softirqs", "linerate"].into_iter();
        let own = own.filter_map(|g| Some((g.to_owned(), counters.get(g)?.clone())));
        let shards = vec![ShardRow {
            shard: net.cpu,
            counters: own.collect(),
            backlog: queues.iter().find(|q| q.stage == "Backlog").map_or(0, |q| q.now),
            cpu_ns: thread_time(),
            tcp: tcp_totals.tcp,
            udp: shard.udp.len() as u64,
        }];
        Snapshot {
            name: meta.name,
            pid: meta.pid,
            uid: rustix::process::geteuid().as_raw(),
            uptime_ns: meta.uptime_ns,
            stages: stages(counts),
            counters,
            drops: drops(counts),
            knobs: knobs(&net.knobs),
            devices: devices(shard),
            queues,
            memory: Memory {
                small_out: net.pool.small_out() as u64,
                small_max: net.pool.small_max as u64,
                large_out: net.pool.large_out() as u64,
                large_max: net.pool.large_max as u64,
            },
            totals: SocketTotals {
                udp: shard.udp.len() as u64,
                udp_mem_bytes: shard.udp.mem() as u64,
                frag: net.reasm.len() as u64,
                frag_mem_bytes: net.reasm.mem()[0] as u64,
                frag6_mem_bytes: net.reasm.mem()[1] as u64,
                ..tcp_totals
            },
            neighbours: neighbours(shard),
            udp: udp_rows(shard, meta.sockets_max),
            tcp,
            flows,
            offloads: meta.offloads,
            notes: meta.notes,
            shards,
            dev_queues: Vec::new(),
            rss: Vec::new(),
            rules: Vec::new(),
            qdiscs: qdiscs(shard),
            xdp: Vec::new(),
            bql: bql(shard),
            filters: filters(shard),
        }
    }

    /// The counter `name` of `group`, as Linux calls both; 0 if it is not counted here.
    pub fn counter(&self, group: &str, name: &str) -> u64 {
        self.counters.get(group).and_then(|g| g.get(name)).copied().unwrap_or(0)
    }

    /// The stages that lost count of packets, with how many; empty = the law of conservation holds.
    pub fn unaccounted(&self) -> Vec<(&str, i64)> {
        let missing = self.stages.iter().filter(|s| s.missing != 0);
        missing.map(|s| (s.name.as_str(), s.missing)).collect()
    }
}

/// Processor time of the calling thread, in nanoseconds: a shard is read by the thread that drives it.
fn thread_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000);
    secs.saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

fn stages(counts: &Counts) -> Vec<StageRow> {
    let row = |stage: &Stage| {
        let flow = counts.flow(*stage).read();
        let mut dropped = BTreeMap::new();
        for reason in Reason::ALL {
            let n = counts.drops_at(*stage, *reason);
            if n > 0 {
                *dropped.entry(reason.label().to_owned()).or_insert(0) += n;
            }
        }
        StageRow {
            name: stage.name().to_owned(),
            dir: if stage.row().dir == Dir::Rx { "rx" } else { "tx" }.to_owned(),
            entered: flow.entered,
            made: flow.made,
            merged: flow.merged,
            out: flow.out,
            taken: flow.taken,
            held: flow.held,
            held_max: flow.held_max,
            dropped,
            batches: flow.batches,
            ns: flow.ns,
            ns_pkts: flow.ns_pkts,
            missing: flow.missing(),
        }
    };
    Stage::ALL.iter().map(row).collect()
}

fn counters(counts: &Counts) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut groups: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for row in Counter::ROWS {
        let (group, name) = row.linux.split_once(':').unwrap_or(("linerate", row.name));
        *groups.entry(group.to_owned()).or_default().entry(name.to_owned()).or_default() +=
            counts.get(row.counter);
    }
    groups
}

fn drops(counts: &Counts) -> Vec<DropRow> {
    let each = Stage::ALL.iter().flat_map(|s| Reason::ROWS.iter().map(move |r| (*s, r)));
    let happened = each.filter(|(stage, r)| counts.drops_at(*stage, r.reason) > 0);
    let row = |(stage, r): (Stage, &linerate_core::table::reason::Row)| DropRow {
        reason: r.name.to_owned(),
        label: r.reason.label().to_owned(),
        stage: stage.name().to_owned(),
        packets: counts.drops_at(stage, r.reason),
        knob: (r.knob != "none").then(|| r.knob.to_owned()),
        help: r.help.trim().to_owned(),
    };
    happened.map(row).collect()
}

fn knobs(knobs: &Knobs) -> Vec<KnobRow> {
    let defaults = Knobs::default();
    let row = |r: &linerate_core::table::knob::Row| {
        let value = knobs.get(r.path).unwrap_or_default();
        let default = defaults.get(r.path).unwrap_or_default();
        let source = if value == default { "default" } else { "set" }.to_owned();
        KnobRow { path: r.path.to_owned(), value, default, source, unit: r.unit.to_owned() }
    };
    Knobs::ROWS.iter().map(row).collect()
}

fn devices(shard: &Shard) -> Vec<DeviceRow> {
    let counts = &shard.net.counts;
    let mut rows: Vec<DeviceRow> = Vec::new();
    for iface in &shard.net.ifaces {
        // What is counted for all devices together appears once, so that sums stay right.
        let shared = |c: Counter| if rows.is_empty() { counts.get(c) } else { 0 };
        let features = [
            (iface.features.tx_csum, "tx-checksumming"),
            (iface.features.tso4, "tx-tcp-segmentation"),
            (iface.features.tso6, "tx-tcp6-segmentation"),
            (iface.features.uso, "tx-udp-segmentation"),
        ];
        let row = DeviceRow {
            name: iface.name.clone(),
            mtu: iface.mtu,
            addrs: iface.addrs.iter().map(|(a, len)| format!("{a}/{len}")).collect(),
            features: features.iter().filter(|f| f.0).map(|f| f.1.to_owned()).collect(),
            rx_packets: iface.rx_packets,
            rx_bytes: iface.rx_bytes,
            rx_errors: shared(Counter::DevRxErrors),
            rx_dropped: shared(Counter::DevRxDropped),
            rx_missed: shared(Counter::DevRxMissed),
            multicast: shared(Counter::DevRxMulticast),
            tx_packets: iface.tx_packets,
            tx_bytes: iface.tx_bytes,
            tx_errors: shared(Counter::DevTxErrors),
            tx_dropped: iface.qdisc_drops(),
        };
        rows.push(row);
    }
    rows
}

fn bql(shard: &Shard) -> Vec<BqlRow> {
    let net = &shard.net;
    let bounds = Bounds::of(&net.knobs);
    let queues =
        net.ifaces.iter().flat_map(|i| i.txqs.iter().zip(0..).map(move |(q, n)| (i, q, n)));
    let row = |(iface, txq, queue): (&Iface, &TxQueue, u16)| BqlRow {
        shard: net.cpu,
        dev: iface.name.clone(),
        queue,
        limit: txq.dql.limit(bounds),
        limit_min: bounds.limit_min,
        limit_max: bounds.limit_max,
        hold_time: net.knobs.bql_hold_time,
        inflight: txq.dql.inflight(),
        tx_timeout: txq.tx_timeout,
    };
    queues.map(row).collect()
}

fn filters(shard: &Shard) -> Vec<FilterRow> {
    let row = |f: linerate_core::rx::ingress::Show| FilterRow {
        shard: shard.net.cpu,
        dev: f.dev,
        prio: f.prio,
        handle: f.handle,
        packets: f.packets,
        bytes: f.bytes,
        drops: f.drops,
        text: f.text,
    };
    shard.tc_filters().into_iter().map(row).collect()
}

fn qdiscs(shard: &Shard) -> Vec<QdiscRow> {
    let all = shard.net.ifaces.iter().flat_map(linerate_core::tx::qdisc::show);
    let row = |q: linerate_core::tx::qdisc::Show| QdiscRow {
        shard: shard.net.cpu,
        handle: format!("{:x}:", q.handle),
        place: q.place(),
        bytes: q.stats.bytes,
        packets: q.stats.packets,
        drops: q.stats.drops,
        overlimits: q.stats.overlimits,
        requeues: q.stats.requeues,
        backlog: q.stats.backlog,
        qlen: q.stats.qlen,
        xstats: q.xstats.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect(),
        text: q.text(),
        at_ns: shard.net.now.ns(),
        dev: q.dev,
        kind: q.kind,
        options: q.options,
    };
    all.map(row).collect()
}

fn queues(shard: &Shard) -> Vec<QueueRow> {
    let net = &shard.net;
    let limits = [
        (Stage::Ring, Some((net.knobs.ring_rx, "ring.rx"))),
        (Stage::Gro, None),
        (Stage::Backlog, Some((net.knobs.netdev_max_backlog, "net.core.netdev_max_backlog"))),
        (Stage::Reasm, None),
        (Stage::SockQueue, None),
        (Stage::Neigh, None),
        (Stage::Qdisc, Some((net.knobs.txqueuelen, "dev.txqueuelen"))),
        (Stage::Xmit, Some((net.knobs.ring_tx, "ring.tx"))),
    ];
    let row = |(stage, limit): (Stage, Option<(u64, &str)>)| {
        let flow = net.counts.flow(stage).read();
        QueueRow {
            stage: stage.name().to_owned(),
            now: flow.held,
            max: flow.held_max,
            limit: limit.map(|l| l.0),
            knob: limit.map(|l| l.1.to_owned()),
        }
    };
    limits.into_iter().map(row).collect()
}

fn neighbours(shard: &Shard) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut by: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for neighbour in shard.net.neigh.iter() {
        let family = if neighbour.addr().is_ipv4() { "inet" } else { "inet6" };
        let state = format!("{:?}", neighbour.state()).to_uppercase();
        *by.entry(family.to_owned()).or_default().entry(state).or_default() += 1;
    }
    by
}

fn udp_rows(shard: &Shard, most: usize) -> Vec<UdpRow> {
    let row = |s: &linerate_core::udp::UdpSock| {
        let (addr, port) = s.local();
        let remote = s.remote().map(|(ip, port)| SocketAddr::new(ip, port));
        let any = match remote {
            Some(SocketAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        UdpRow {
            shard: shard.net.cpu,
            local: SocketAddr::new(addr.unwrap_or(any), port),
            any_family: addr.is_none() && remote.is_none(),
            remote,
            rx_queue: s.rx_queue() as u64,
            rcvbuf: s.rcvbuf() as u64,
            drops: s.drops(),
        }
    };
    shard.udp.iter().take(most).map(row).collect()
}

/// TCP sockets, and how many there are with what they hold.
fn tcp_rows(shard: &Shard, most: usize) -> (Vec<TcpRow>, SocketTotals) {
    let stat = shard.tcp_sockstat();
    let totals = SocketTotals {
        tcp: stat.inuse,
        tcp_orphan: stat.orphan,
        tcp_tw: stat.tw,
        tcp_alloc: stat.alloc,
        tcp_mem_pages: stat.mem,
        ..SocketTotals::default()
    };
    (shard.tcp_iter().take(most).map(|row| tcp_row(shard, &row)).collect(), totals)
}

/// What a connection says of itself; that of a listener is of nobody's use here.
fn info_of(shard: &Shard, row: &SockRow) -> Option<TcpInfo> {
    let id = row.id.filter(|_| row.state != State::Listen)?;
    shard.tcp_info(id)
}

fn tcp_row(shard: &Shard, row: &SockRow) -> TcpRow {
    let info = info_of(shard, row);
    TcpRow {
        shard: shard.net.cpu,
        local: row.local,
        remote: (row.state != State::Listen).then_some(row.remote),
        state: state_name(row.state).to_owned(),
        tx_queue: row.tx_queue,
        rx_queue: row.rx_queue,
        timer: row.timer,
        timer_ms: row.timer_ms,
        timeouts: row.retransmits.into(),
        probes: info.as_ref().map_or(0, |i| i.probes.into()),
        info: info.map(|i| TcpInfoRow {
            cc: i.ca_name.to_owned(),
            rtt_us: i.rtt.into(),
            rttvar_us: i.rttvar.into(),
            rto_us: i.rto.into(),
            cwnd: i.snd_cwnd.into(),
            // Above this, Linux calls it infinite (TCP_INFINITE_SSTHRESH).
            ssthresh: (i.snd_ssthresh < 0x7fff_ffff).then_some(i.snd_ssthresh.into()),
            mss: i.snd_mss.into(),
            retrans: i.total_retrans.into(),
            bytes_acked: i.bytes_acked,
            bytes_received: i.bytes_received,
            snd_wnd: i.snd_wnd.into(),
            rcv_wnd: i.rcv_wnd.into(),
            rcvbuf: i.rcvbuf.into(),
            sndbuf: i.sndbuf.into(),
        }),
    }
}

/// The state's name, as `ss` and `netstat` have it.
fn state_name(state: State) -> &'static str {
    match state {
        State::Established => "ESTABLISHED",
        State::SynSent => "SYN_SENT",
        State::SynRecv => "SYN_RECV",
        State::FinWait1 => "FIN_WAIT1",
        State::FinWait2 => "FIN_WAIT2",
        State::TimeWait => "TIME_WAIT",
        State::Close => "CLOSE",
        State::CloseWait => "CLOSE_WAIT",
        State::LastAck => "LAST_ACK",
        State::Listen => "LISTEN",
        State::Closing => "CLOSING",
    }
}

impl FlowRow {
    /// The flow of one of the shard's connections, of which the shard's end stands for the peer.
    /// `None` for listeners, TIME_WAIT and connections that are gone.
    pub fn of(shard: &Shard, row: &SockRow, state: &str) -> Option<FlowRow> {
        let info = info_of(shard, row)?;
        Some(FlowRow {
            proto: "tcp".to_owned(),
            program: row.remote,
            peer: row.local,
            state: state.to_owned(),
            up_bytes: info.bytes_received,
            down_bytes: info.bytes_acked,
            rtt_us: info.rtt.into(),
            cwnd: info.snd_cwnd.into(),
            retrans: info.total_retrans.into(),
        })
    }
}

/// Flows that have ended: the few that moved most.
#[derive(Debug, Default)]
pub struct TopFlows(Vec<FlowRow>);

impl TopFlows {
    /// Notes a flow that ends, if it is among the largest so far.
    pub fn ended(&mut self, flow: FlowRow) {
        let moved = |f: &FlowRow| f.up_bytes.saturating_add(f.down_bytes);
        let at = self.0.partition_point(|f| moved(f) >= moved(&flow));
        if at < FLOWS_MAX {
            self.0.truncate(FLOWS_MAX - 1);
            self.0.insert(at, flow);
        }
    }
    /// The largest, largest first: what [`Meta::flows`] takes.
    pub fn rows(&self) -> &[FlowRow] {
        &self.0
    }
}

/// The open flows; the caller keeps the largest. Bounded, because a snapshot is taken in the loop.
fn open_flows(shard: &Shard) -> impl Iterator<Item = FlowRow> + '_ {
    shard.tcp_iter().take(super::SOCKETS_MAX).filter_map(|row| FlowRow::of(shard, &row, "open"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta { name: "t".into(), sockets_max: 100, ..Meta::default() }
    }

    #[test]
    fn a_snapshot_says_what_was_counted_and_survives_json() {
        let shard = Shard::new(1);
        let counts = &shard.net.counts;
        counts.flow(Stage::SockQueue).enter(5);
        counts.flow(Stage::SockQueue).pass(3);
        counts.dropped(Stage::SockQueue, Reason::SocketRcvbuff);
        counts.dropped(Stage::SockQueue, Reason::Socket6Rcvbuff);
        // A reason of Transport's, given by Demux.
        counts.flow(Stage::Demux).enter(1);
        counts.dropped(Stage::Demux, Reason::UdpCsum);
        let snapshot = Snapshot::take(&shard, meta());
        let stage = snapshot.stages.iter().find(|s| s.name == "SockQueue").expect("every stage");
        assert_eq!((stage.entered, stage.out, stage.drops(), stage.missing), (5, 3, 2, 0));
        assert_eq!(stage.dropped.get("SOCKET_RCVBUFF"), Some(&2));
        let demux = snapshot.stages.iter().find(|s| s.name == "Demux").expect("every stage");
        assert_eq!(demux.dropped.get("UDP_CSUM"), Some(&1), "where it happened");
        assert_eq!(snapshot.counter("Udp", "RcvbufErrors"), 1);
        assert_eq!(snapshot.counter("Udp6", "RcvbufErrors"), 1);
        assert_eq!(snapshot.counter("TcpExt", "NoSuchCounter"), 0);
        assert!(snapshot.unaccounted().is_empty());
        let text = serde_json::to_string(&snapshot).expect("it has no maps with odd keys");
        let back: Snapshot = serde_json::from_str(&text).expect("what was written is read");
        assert_eq!(back, snapshot);
    }

    #[test]
    fn the_largest_flows_are_kept_in_order() {
        let flow = |bytes| FlowRow {
            proto: "tcp".into(),
            program: ([10, 0, 2, 100], 1).into(),
            peer: ([1, 1, 1, 1], 2).into(),
            state: "ended".into(),
            up_bytes: bytes,
            down_bytes: 0,
            rtt_us: 0,
            cwnd: 10,
            retrans: 0,
        };
        let mut top = TopFlows::default();
        (0..100).for_each(|i| top.ended(flow(i * 37 % 100)));
        let kept: Vec<u64> = top.rows().iter().map(|f| f.up_bytes).collect();
        assert_eq!(kept, [99, 98, 97, 96, 95, 94, 93, 92, 91, 90]);
    }

    #[test]
    fn sockets_are_counted_even_if_they_are_not_listed() {
        use linerate_core::tcp::Listen;
        let mut shard = Shard::new(1);
        let addr = Some("10.0.2.2".parse().expect("an address"));
        let listen = Listen { addr, port: 80, backlog: 5, ..Listen::default() };
        shard.tcp_listen(listen).expect("the port is free");
        let all = Snapshot::take(&shard, meta());
        assert_eq!((all.totals.tcp, all.tcp.len()), (1, 1));
        let row = &all.tcp[0];
        assert_eq!((row.state.as_str(), row.remote, row.info.is_none()), ("LISTEN", None, true));
        assert_eq!(row.local.to_string(), "10.0.2.2:80");
        assert_eq!((row.rx_queue, row.tx_queue), (0, 5));
        let none = Snapshot::take(&shard, Meta::default());
        assert_eq!((none.totals.tcp, none.tcp.len()), (1, 0));
    }

    #[test]
    fn a_lost_packet_shows() {
        let shard = Shard::new(1);
        shard.net.counts.flow(Stage::Ip).enter(2);
        shard.net.counts.flow(Stage::Ip).pass(1);
        assert_eq!(Snapshot::take(&shard, meta()).unaccounted(), [("Ip", 1)]);
    }

    #[test]
    fn a_knob_that_was_set_says_so() {
        let mut shard = Shard::new(1);
        shard.set_knob("ring.rx", "7").expect("in range");
        let snapshot = Snapshot::take(&shard, meta());
        let set: Vec<&str> =
            snapshot.knobs.iter().filter(|k| k.source == "set").map(|k| k.path.as_str()).collect();
        assert_eq!(set, ["ring.rx"]);
    }
}
