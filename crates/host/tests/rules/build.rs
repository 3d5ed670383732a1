//! Snapshots for tests: a busy host that is well, and what happens to it.

use std::net::SocketAddr;

use linerate_host::counters::Counters;
use linerate_host::finding::Finding;
use linerate_host::rules::{Limits, diagnose};
use linerate_host::snapshot::{
    Conntrack, Dev, Drops, Irq, Listener, Napi, Owner, Qdisc, Rss, RxQueue, Snapshot, TcpSocket,
    TxQueue, UdpSocket,
};
use linerate_host::window::{Cx, Goal, Window};

/// Seconds of one window.
pub const WINDOW_S: u64 = 5;

/// A run of windows that grows from a healthy host.
pub struct Run {
    moments: Vec<Snapshot>,
    pub goal: Goal,
    pub limits: Limits,
}

/// Counters of `source` with these values.
pub fn counters(source: &str, values: &[(&str, u64)]) -> Counters {
    let mut counters = Counters::new(source);
    counters.extend(values.iter().copied());
    counters
}

impl Run {
    /// A healthy, busy host in three moments: two windows.
    pub fn healthy() -> Run {
        Run::of(3)
    }

    /// The same in so many moments.
    pub fn of(moments: usize) -> Run {
        let moments = (0..moments as u64).map(moment).collect();
        Run { moments, goal: Goal::Throughput, limits: Limits::default() }
    }

    /// Changes every moment; the second argument is how many windows have passed.
    pub fn each(mut self, change: impl Fn(&mut Snapshot, u64)) -> Run {
        for (n, moment) in self.moments.iter_mut().enumerate() {
            change(moment, n as u64);
        }
        self
    }

    /// Lets a counter of the MIB grow by `by` in each window.
    pub fn mib(self, section: &str, name: &str, by: u64) -> Run {
        self.each(|s, n| {
            let source = format!("/proc/net/snmp {section}");
            let counters = s.mib.entry(section.into()).or_insert_with(|| Counters::new(source));
            counters.set(name, 1000 + n * by);
        })
    }

    /// Lets a statistic of a device grow by `by` in each window.
    pub fn dev(self, dev: &str, name: &str, by: u64) -> Run {
        self.each(|s, n| s.devs.get_mut(dev).unwrap().stats.set(name, 1000 + n * by))
    }

    /// Lets a counter of `/proc/net/softnet_stat` grow by `by` in each window.
    pub fn softnet(self, cpu: u32, name: &str, by: u64) -> Run {
        self.each(|s, n| s.softnet.get_mut(&cpu).unwrap().set(name, 1000 + n * by))
    }

    /// Sets the share of its time that a processor spends in softirq.
    pub fn softirq(self, cpu: u32, share: f64) -> Run {
        self.each(|s, n| {
            let ticks = n * WINDOW_S * 100;
            let busy = (ticks as f64 * share) as u64;
            let cpu = s.cpus.get_mut(&cpu).unwrap();
            cpu.set("softirq", busy);
            cpu.set("idle", ticks - busy);
            ["user", "system", "irq"].iter().for_each(|name| cpu.set(name, 0));
        })
    }

    /// Sets a sysctl.
    pub fn sysctl(self, name: &str, value: &str) -> Run {
        self.each(|s, _| {
            s.sysctls.insert(name.into(), value.into());
        })
    }

    /// Changes a device in every moment.
    pub fn with_dev(self, dev: &str, change: impl Fn(&mut Dev, u64)) -> Run {
        self.each(|s, n| change(s.devs.get_mut(dev).unwrap(), n))
    }

    /// Adds a device.
    pub fn add_dev(self, dev: &Dev) -> Run {
        self.each(|s, _| {
            s.devs.insert(dev.name.clone(), dev.clone());
        })
    }

    /// Lets drops by reason and function grow by `by` in each window.
    pub fn reason(self, name: &str, by: u64) -> Run {
        self.each(|s, n| {
            let drops = s
                .drops
                .get_or_insert_with(|| Drops { by: Counters::new("tracefs/kfree_skb"), lost: 0 });
            if n > 0 {
                drops.by.set(name, n * by);
            }
        })
    }

    /// What the doctor says.
    pub fn diagnose(&self) -> Vec<Finding> {
        let pairs = self.moments.windows(2);
        let windows = pairs.map(|pair| Window { from: Some(&pair[0]), to: &pair[1] }).collect();
        self.say(windows)
    }

    /// What the doctor says of the last moment alone.
    pub fn diagnose_once(&self) -> Vec<Finding> {
        self.say(vec![Window { from: None, to: self.last() }])
    }

    fn say<'a>(&'a self, windows: Vec<Window<'a>>) -> Vec<Finding> {
        let cx = Cx { windows, goal: self.goal, limits: self.limits.clone() };
        diagnose(&cx).findings
    }

    /// The last moment.
    pub fn last(&self) -> &Snapshot {
        self.moments.last().unwrap()
    }

    /// The whole run as one window.
    pub fn window(&self) -> Window<'_> {
        Window { from: self.moments.first(), to: self.last() }
    }

    /// The ids of what the doctor says, in its order.
    pub fn ids(&self) -> Vec<&'static str> {
        self.diagnose().iter().map(|f| f.id).collect()
    }

    /// Asserts that exactly this rule speaks, and gives its finding.
    #[track_caller]
    pub fn only(&self, id: &str) -> Finding {
        let found = self.diagnose();
        let ids: Vec<&str> = found.iter().map(|f| f.id).collect();
        assert_eq!(ids, [id], "findings: {found:#?}");
        let finding = found.into_iter().next().unwrap();
        complete(&finding);
        finding
    }

    /// Asserts that nobody speaks.
    #[track_caller]
    pub fn silent(&self) {
        let found = self.diagnose();
        assert!(found.is_empty(), "findings: {found:#?}");
    }
}

/// What every finding owes its reader.
#[track_caller]
fn complete(finding: &Finding) {
    assert!(!finding.evidence.is_empty(), "no evidence: {finding:#?}");
    assert!(!finding.cause.is_empty(), "no cause: {finding:#?}");
    assert!(!finding.advice.is_empty(), "no advice: {finding:#?}");
    for evidence in &finding.evidence {
        assert!(!evidence.source.is_empty() && !evidence.name.is_empty(), "{evidence:?}");
    }
    for advice in &finding.advice {
        assert!(advice.what.ends_with('.'), "no sentence: {}", advice.what);
        if advice.change.is_some() {
            assert!(!advice.command.is_empty() && !advice.persist.is_empty(), "{advice:?}");
            assert!(!advice.verify.is_empty() && !advice.rollback.is_empty(), "{advice:?}");
        }
    }
}

/// Asserts that the first advice that changes something is this command, and gives it.
#[track_caller]
pub fn advises(finding: &Finding, command: &str) {
    let commands: Vec<&str> =
        finding.advice.iter().filter(|a| a.change.is_some()).map(|a| a.command.as_str()).collect();
    assert_eq!(commands.first(), Some(&command), "{:#?}", finding.advice);
}

/// Asserts that the cause has these words.
#[track_caller]
pub fn because(finding: &Finding, words: &str) {
    assert!(finding.cause.contains(words), "{}", finding.cause);
}

pub fn owner(inode: u64) -> Owner {
    Owner { inode, uid: 100, process: Some((800, "server".into())) }
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn udp(rmem: u32, rcvbuf: u32, drops: u32) -> UdpSocket {
    UdpSocket {
        local: address("0.0.0.0:5353"),
        remote: None,
        rmem,
        rcvbuf,
        sndbuf: 212_992,
        drops,
        owner: owner(70),
    }
}

pub fn listener(waiting: u32, backlog: u32, drops: u32) -> Listener {
    Listener { local: address("0.0.0.0:443"), waiting, backlog, drops, owner: owner(71) }
}

pub fn connection(info: &[(&str, u64)]) -> TcpSocket {
    TcpSocket {
        local: address("192.0.2.1:443"),
        remote: address("198.51.100.7:40000"),
        state: "ESTABLISHED".into(),
        recv_q: 0,
        send_q: 0,
        info: counters("netlink/sock_diag/tcp", info),
        cong: "cubic".into(),
        owner: owner(72),
    }
}

/// A device of the kernel's own, idle.
pub fn virtual_dev(name: &str, kind: &str) -> Dev {
    let zero = ["rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_dropped", "tx_dropped"];
    let values: Vec<(&str, u64)> = zero.iter().map(|name| (*name, 0)).collect();
    Dev {
        name: name.into(),
        ifindex: 40,
        kind: kind.into(),
        driver: kind.into(),
        flags: ["UP", "LOWER_UP"].map(String::from).to_vec(),
        operstate: "up".into(),
        mtu: 1500,
        txqueuelen: 1000,
        stats: counters(&format!("netlink/route/RTM_GETLINK {name}"), &values),
        rx: vec![RxQueue::default()],
        tx: vec![TxQueue::default()],
        ..Dev::default()
    }
}

/// A moment of a busy host that is well, `n` windows after the first: a web server with 4 processors,
/// 10 Gb/s and 4 queues. Every counter that strangers move on a host in the open moves a little.
fn moment(n: u64) -> Snapshot {
    let secs = n * WINDOW_S;
    let at = |start: u64, per_s: u64| start + secs * per_s;
    let mut s = Snapshot {
        monotonic_ns: (864_000 + secs) * 1_000_000_000,
        wall_ns: 1_700_000_000_000_000_000 + secs * 1_000_000_000,
        ..Snapshot::default()
    };
    s.host.name = "web1".into();
    s.host.release = "6.12.0".into();
    s.host.cpus = vec![0, 1, 2, 3];
    s.host.hz = Some(250);
    s.host.user_hz = 100;
    s.host.uptime_s = 864_000.0 + secs as f64;
    s.host.is_init_netns = Some(true);
    s.host.nodes.insert(0, vec![0, 1, 2, 3]);
    processors(&mut s, secs);
    mib(&mut s, &at);
    s.devs.insert("eth0".into(), eth0(secs));
    s.devs.insert("lo".into(), virtual_dev("lo", ""));
    s.devs.get_mut("lo").unwrap().driver = String::new();
    for (name, value) in SYSCTLS {
        s.sysctls.insert((*name).into(), (*value).into());
    }
    for (section, name, value) in [
        ("TCP", "inuse", 900),
        ("TCP", "orphan", 12),
        ("TCP", "tw", 2100),
        ("TCP", "mem", 4000),
        ("UDP", "mem", 40),
        ("FRAG", "memory", 0),
    ] {
        let source = format!("/proc/net/sockstat {section}");
        let counters = s.sockstat.entry(section.into()).or_insert_with(|| Counters::new(source));
        counters.set(name, value);
    }
    s.conntrack = Some(Conntrack {
        stat: counters(
            "/proc/net/stat/nf_conntrack",
            &[
                ("found", 9000),
                ("invalid", at(50_000, 2)),
                ("insert_failed", 3),
                ("drop", 0),
                ("early_drop", 0),
                ("clashres", at(400, 1)),
            ],
        ),
        table: counters(
            "/proc/sys/net/netfilter",
            &[
                ("nf_conntrack_count", 30_000),
                ("nf_conntrack_max", 262_144),
                ("nf_conntrack_buckets", 65_536),
            ],
        ),
    });
    s.neigh.insert(
        "arp_cache".into(),
        counters(
            "/proc/net/stat/arp_cache",
            &[
                ("entries", 40),
                ("res_failed", at(900, 0)),
                ("unresolved_discards", 30),
                ("table_fulls", 0),
            ],
        ),
    );
    s.sockets.listeners =
        vec![listener(0, 4096, 0), Listener { local: address("[::]:22"), ..listener(0, 128, 3) }];
    s.sockets.udp =
        vec![UdpSocket { local: address("127.0.0.53:53"), owner: owner(73), ..udp(0, 212_992, 7) }];
    s.sockets.tcp = vec![connection(&[
        ("rmem", 0),
        ("rcvbuf", 131_072),
        ("sndbuf", 87_040),
        ("snd_cwnd", 10),
        ("snd_mss", 1448),
        ("rtt", 20_000),
        ("busy_time", 4_000_000),
        ("rwnd_limited", 100_000),
        ("total_retrans", 2),
        ("bytes_acked", 10_000_000),
    ])];
    s.bad_routes = vec![("default".into(), "unreachable".into())];
    s
}

fn processors(s: &mut Snapshot, secs: u64) {
    for cpu in 0..4_u32 {
        let c = u64::from(cpu);
        s.softnet.insert(
            cpu,
            counters(
                &format!("/proc/net/softnet_stat cpu{cpu}"),
                &[
                    ("processed", 1_000_000_000 + secs * 60_000),
                    ("dropped", 12),
                    ("time_squeeze", 4000 + secs / 3),
                    ("received_rps", 0),
                    ("flow_limit_count", 0),
                ],
            )
            .wrapping_at(32),
        );
        s.softirqs.insert(
            cpu,
            counters(
                &format!("/proc/softirqs CPU{cpu}"),
                &[("NET_RX", 900_000 + secs * 9000), ("NET_TX", 400 + secs)],
            )
            .wrapping_at(32),
        );
        let ticks = secs * 100;
        s.cpus.insert(
            cpu,
            counters(
                &format!("/proc/stat cpu{cpu}"),
                &[
                    ("user", 40_000_000 + ticks * 45 / 100),
                    ("nice", 0),
                    ("system", 9_000_000 + ticks * 20 / 100),
                    ("idle", 9_000_000 + ticks * 10 / 100),
                    ("iowait", 0),
                    ("irq", 0),
                    ("softirq", 9_000_000 + ticks * (22 + c) / 100),
                    ("steal", ticks / 200),
                ],
            ),
        );
        s.irqs.insert(
            100 + cpu,
            Irq {
                irq: 100 + cpu,
                actions: format!("IR-PCI-MSIX eth0-TxRx-{cpu}"),
                counts: counters(
                    &format!("/proc/interrupts {}", 100 + cpu),
                    &[(&format!("CPU{cpu}"), 5_000_000 + secs * 9000)],
                )
                .wrapping_at(32),
                affinity: vec![cpu],
                effective: vec![cpu],
                dev: Some("eth0".into()),
                node: Some(0),
            },
        );
    }
}

fn mib(s: &mut Snapshot, at: &dyn Fn(u64, u64) -> u64) {
    let rows: &[(&str, &str, u64, u64)] = &[
        ("Ip", "InReceives", 4_000_000_000, 90_000),
        ("Ip", "InHdrErrors", 200, 0),
        ("Ip", "InAddrErrors", 9000, 1),
        ("Ip", "InUnknownProtos", 40, 0),
        ("Ip", "InDiscards", 0, 0),
        ("Ip", "InDelivers", 4_000_000_000, 90_000),
        ("Ip", "OutRequests", 4_000_000_000, 80_000),
        ("Ip", "OutDiscards", 90, 0),
        ("Ip", "OutNoRoutes", 16, 0),
        ("Ip", "ReasmReqds", 4000, 4),
        ("Ip", "ReasmFails", 12, 0),
        ("Ip", "ReasmTimeout", 12, 0),
        ("Ip", "FragFails", 5, 0),
        ("IpExt", "InNoRoutes", 2, 0),
        ("IpExt", "InTruncatedPkts", 3, 0),
        ("IpExt", "InCsumErrors", 90, 0),
        ("Icmp", "OutRateLimitHost", 70, 0),
        ("Icmp", "OutRateLimitGlobal", 1, 0),
        ("Icmp", "OutTimeExcds", 0, 0),
        ("Tcp", "ActiveOpens", 9_000_000, 50),
        ("Tcp", "PassiveOpens", 200_000_000, 2000),
        ("Tcp", "AttemptFails", 90_000, 3),
        ("Tcp", "InSegs", 4_000_000_000, 88_000),
        ("Tcp", "OutSegs", 4_000_000_000, 240_000),
        ("Tcp", "RetransSegs", 12_000_000, 900),
        ("Tcp", "InErrs", 300, 1),
        ("Tcp", "InCsumErrors", 300, 1),
        ("Udp", "InDatagrams", 90_000_000, 400),
        ("Udp", "NoPorts", 20_000, 1),
        ("Udp", "InErrors", 200, 0),
        ("Udp", "RcvbufErrors", 190, 0),
        ("Udp", "InCsumErrors", 10, 0),
        ("Udp", "MemErrors", 0, 0),
        ("Udp", "SndbufErrors", 7, 0),
        ("Udp", "OutDatagrams", 90_000_000, 400),
        ("TcpExt", "ListenOverflows", 120, 0),
        ("TcpExt", "ListenDrops", 130, 0),
        ("TcpExt", "TCPReqQFullDoCookies", 40, 0),
        ("TcpExt", "SyncookiesRecv", 30, 0),
        ("TcpExt", "TCPTimeouts", 2_000_000, 90),
        ("TcpExt", "TCPSynRetrans", 200_000, 8),
        ("TcpExt", "TCPFastRetrans", 4_000_000, 400),
        ("TcpExt", "TCPDSACKRecv", 900_000, 120),
        ("TcpExt", "TCPSACKReorder", 90_000, 11),
        ("TcpExt", "TCPSpuriousRTOs", 2000, 1),
        ("TcpExt", "TCPRetransFail", 90, 0),
        ("TcpExt", "TCPTimeWaitOverflow", 0, 0),
        ("TcpExt", "TW", 50_000_000, 700),
        ("TcpExt", "TCPMemoryPressures", 0, 0),
        ("TcpExt", "TCPBacklogDrop", 40, 0),
        ("TcpExt", "PruneCalled", 4000, 1),
        ("TcpExt", "RcvPruned", 4, 0),
        ("TcpExt", "TCPOFODrop", 3, 0),
        ("TcpExt", "TCPToZeroWindowAdv", 90_000, 4),
        ("TcpExt", "TCPFromZeroWindowAdv", 90_000, 6),
        ("TcpExt", "PAWSEstab", 9000, 1),
        ("TcpExt", "IPReversePathFilter", 400, 1),
        ("TcpExt", "TCPAbortOnMemory", 0, 0),
        ("TcpExt", "TCPMTUPFail", 12, 0),
    ];
    for (section, name, start, per_s) in rows {
        let file = if ["TcpExt", "IpExt"].contains(section) { "netstat" } else { "snmp" };
        let source = format!("/proc/net/{file} {section}");
        let counters = s.mib.entry((*section).into()).or_insert_with(|| Counters::new(source));
        counters.set(name, at(*start, *per_s));
    }
}

fn eth0(secs: u64) -> Dev {
    let mut dev = virtual_dev("eth0", "");
    dev.ifindex = 2;
    dev.driver = "ixgbe".into();
    dev.speed_mbps = Some(10_000);
    dev.node = Some(0);
    dev.local_cpus = vec![0, 1, 2, 3];
    dev.irqs = vec![100, 101, 102, 103];
    for (name, start, per_s) in [
        ("rx_packets", 8_000_000_000, 220_000),
        ("tx_packets", 8_000_000_000, 240_000),
        ("rx_bytes", 1_000_000_000_000, 40_000_000),
        ("tx_bytes", 9_000_000_000_000, 320_000_000),
        ("rx_dropped", 30_000, 1),
        ("tx_dropped", 0, 0),
        ("rx_missed_errors", 900, 0),
        ("rx_fifo_errors", 0, 0),
        ("rx_crc_errors", 2, 0),
        ("rx_frame_errors", 0, 0),
        ("rx_length_errors", 0, 0),
        ("rx_otherhost_dropped", 4000, 2),
        ("rx_nohandler", 0, 0),
    ] {
        dev.stats.set(name, start + secs * per_s);
    }
    dev.carrier = counters("netlink/route/RTM_GETLINK eth0", &[("carrier_changes", 2)]);
    dev.driver_stats = counters(
        "ioctl/ethtool/stats/eth0",
        &[
            ("rx_no_dma_resources", 900),
            ("alloc_rx_buff_failed", 0),
            ("tx_busy", 0),
            ("tx_restart_queue", 90 + secs),
        ],
    );
    dev.rings = counters(
        "netlink/ethtool/RINGS_GET eth0",
        &[("rx", 512), ("rx-max", 4096), ("tx", 512), ("tx-max", 4096)],
    );
    dev.channels =
        counters("netlink/ethtool/CHANNELS_GET eth0", &[("combined", 4), ("combined-max", 63)]);
    dev.coalesce = counters(
        "netlink/ethtool/COALESCE_GET eth0",
        &[("rx-usecs", 1), ("tx-usecs", 0), ("adaptive-rx", 1)],
    );
    dev.pause = counters("netlink/ethtool/PAUSE_GET eth0", &[("autoneg", 0), ("rx", 1), ("tx", 1)]);
    dev.rss = Some(Rss {
        indir: (0..128).map(|at| at % 4).collect(),
        hfunc: "toeplitz".into(),
        fields: [("tcp4", "sdfn"), ("udp4", "sd")].map(|(k, v)| (k.into(), v.into())).into(),
    });
    for name in
        ["rx-gro", "tx-tcp-segmentation", "tx-checksum-ip-generic", "tx-generic-segmentation"]
    {
        dev.features
            .insert(name.into(), linerate_host::snapshot::Feature { on: true, fixed: false });
    }
    dev.features.insert("rx-ntuple-filter".into(), Default::default());
    dev.rx = (0..4)
        .map(|q| RxQueue {
            stats: counters(
                &format!("netlink/netdev/qstats-get eth0 rx {q}"),
                &[("rx-packets", 900 + secs * (50_000 + 2000 * q))],
            ),
            ..RxQueue::default()
        })
        .collect();
    dev.tx = (0..4)
        .map(|q| TxQueue {
            xps_cpus: Some(vec![q]),
            bql: counters(
                &format!("/sys/class/net/eth0/queues/tx-{q}/byte_queue_limits"),
                &[("limit", 90_000), ("limit_max", 1_879_048_192), ("inflight", 20_000)],
            ),
            stats: counters(&format!("/sys/class/net/eth0/queues/tx-{q}"), &[("tx_timeout", 0)]),
            ..TxQueue::default()
        })
        .collect();
    dev.napis =
        (0..4).map(|id| Napi { id: 8193 + id, irq: Some(100 + id), ..Napi::default() }).collect();
    dev.qdiscs = vec![Qdisc {
        kind: "mq".into(),
        handle: "8001:".into(),
        parent: "root".into(),
        stats: counters(
            "netlink/route/RTM_GETQDISC eth0 root",
            &[
                ("packets", 4_000_000_000 + secs * 80_000),
                ("bytes", 90 + secs),
                ("drops", 9),
                ("requeues", 4000 + secs * 30),
                ("overlimits", 0),
                ("backlog", 3000),
                ("qlen", 2),
            ],
        ),
        ..Qdisc::default()
    }];
    dev
}

const SYSCTLS: &[(&str, &str)] = &[
    ("net.core.netdev_budget", "300"),
    ("net.core.netdev_budget_usecs", "8000"),
    ("net.core.netdev_max_backlog", "1000"),
    ("net.core.flow_limit_cpu_bitmap", "0"),
    ("net.core.rps_sock_flow_entries", "0"),
    ("net.core.rmem_default", "212992"),
    ("net.core.rmem_max", "212992"),
    ("net.core.wmem_default", "212992"),
    ("net.core.somaxconn", "4096"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.eth0.rp_filter", "1"),
    ("net.ipv4.icmp_msgs_per_sec", "1000"),
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.ip_local_port_range", "32768 60999"),
    ("net.ipv4.ipfrag_high_thresh", "4194304"),
    ("net.ipv4.neigh.default.gc_thresh1", "128"),
    ("net.ipv4.neigh.default.gc_thresh2", "512"),
    ("net.ipv4.neigh.default.gc_thresh3", "1024"),
    ("net.ipv4.tcp_available_congestion_control", "reno cubic bbr"),
    ("net.ipv4.tcp_congestion_control", "cubic"),
    ("net.ipv4.tcp_early_retrans", "3"),
    ("net.ipv4.tcp_fin_timeout", "60"),
    ("net.ipv4.tcp_max_orphans", "65536"),
    ("net.ipv4.tcp_max_reordering", "300"),
    ("net.ipv4.tcp_max_syn_backlog", "1024"),
    ("net.ipv4.tcp_max_tw_buckets", "65536"),
    ("net.ipv4.tcp_mem", "190000 253000 380000"),
    ("net.ipv4.tcp_moderate_rcvbuf", "1"),
    ("net.ipv4.tcp_mtu_probing", "0"),
    ("net.ipv4.tcp_orphan_retries", "0"),
    ("net.ipv4.tcp_rmem", "4096 131072 6291456"),
    ("net.ipv4.tcp_sack", "1"),
    ("net.ipv4.tcp_slow_start_after_idle", "1"),
    ("net.ipv4.tcp_syncookies", "1"),
    ("net.ipv4.tcp_timestamps", "1"),
    ("net.ipv4.tcp_tw_reuse", "2"),
    ("net.ipv4.tcp_window_scaling", "1"),
    ("net.ipv4.tcp_wmem", "4096 16384 4194304"),
    ("net.ipv4.udp_mem", "380000 507000 761000"),
    ("net.netfilter.nf_conntrack_max", "262144"),
    ("net.netfilter.nf_conntrack_tcp_be_liberal", "0"),
    ("net.netfilter.nf_conntrack_tcp_timeout_established", "432000"),
    ("vm.min_free_kbytes", "67584"),
];
