//! Goal: what is printed in the kernel's formats is read by parsers that were written for the
//! kernel's files, and names the same fields in the same order as the running kernel.
//! Method: the parsers of the `procfs` crates; `nstat` and the running kernel's own files where
//! they are, named skips where not.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use linerate_core::link::{Iface, L2};
use linerate_core::shard::Shard;
use linerate_core::table::count::id;
use linerate_core::table::{Reason, Stage};
use linerate_core::udp::api::UdpBind;
use linerate_core::wire::Mac;
use linerate_gateway::control::snapshot::{DevQueueRow, DeviceRow, TcpInfoRow, TcpRow};
use linerate_gateway::control::{Meta, Snapshot};
use procfs_core::net::{
    InterfaceDeviceStatus, Snmp, Snmp6, TcpNetEntries, TcpState, UdpNetEntries, UdpState,
};
use procfs_core::{ExplicitSystemInfo, FromBufRead, FromBufReadSI};

const THIS_MACHINE: ExplicitSystemInfo = ExplicitSystemInfo {
    boot_time_secs: 0,
    ticks_per_second: 100,
    page_size: 4096,
    is_little_endian: cfg!(target_endian = "little"),
};

/// A shard on which something of everything was counted.
fn shard() -> Shard {
    let mut shard = Shard::new(3);
    let mut tun = Iface::new("tun0", L2::Ip, Mac([0; 6]), 65520);
    (tun.rx_packets, tun.rx_bytes) = (12_345_678_901, 98_765_432_109_876);
    (tun.tx_packets, tun.tx_bytes) = (17, 1700);
    shard.add_iface(Iface::new("lo", L2::Loopback, Mac([0; 6]), 65536));
    shard.add_iface(tun);
    let counts = &shard.net.counts;
    counts.inc_by(id::IpInReceives, 1001);
    counts.add_bytes(id::IpInOctets, 5_000_000_000);
    counts.inc_by(id::Ip6InReceives, 77);
    counts.inc_by(id::IcmpInEchos, 5);
    counts.inc_by(id::IcmpOutEchoReps, 4);
    counts.inc_by(id::Icmp6InNeighborSolicits, 3);
    counts.inc_by(id::TcpInSegs, 9);
    counts.inc_by(id::TcpCurrEstab, 2);
    counts.inc_by(id::UdpInDatagrams, 8);
    counts.inc_by(id::SoftnetProcessed, 0x1_2345);
    counts.inc_by(id::SoftnetTimeSqueeze, 6);
    counts.inc_by(id::SoftirqNetRx, 4242);
    for _ in 0..3 {
        counts.flow(Stage::SockQueue).enter(1);
        counts.dropped(Stage::SockQueue, Reason::SocketRcvbuff);
    }
    counts.dropped(Stage::Transport, Reason::TcpListenOverflow);
    let bind = |addr: Option<&str>, port| UdpBind {
        addr: addr.map(|a| a.parse().expect("an address")),
        port,
        ..UdpBind::default()
    };
    let four = shard.udp_bind(bind(Some("10.0.2.3"), 53)).expect("free");
    shard.udp_connect(four, "10.0.2.100:40000".parse().expect("an address")).expect("it exists");
    shard.udp_bind(bind(Some("fd00::3"), 53)).expect("free");
    shard.udp_bind(bind(None, 7)).expect("free");
    shard
}

fn snapshot() -> Snapshot {
    let meta = Meta { name: "t".into(), sockets_max: 100, ..Meta::default() };
    let mut s = Snapshot::take(&shard(), meta);
    s.tcp = tcp_rows();
    s
}

/// TCP sockets in each shape that the files know.
fn tcp_rows() -> Vec<TcpRow> {
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let row = |local: &str, remote: Option<&str>, state: &str| TcpRow {
        shard: 0,
        local: at(local),
        remote: remote.map(at),
        state: state.into(),
        tx_queue: 4096,
        rx_queue: 3,
        timer: 1,
        timer_ms: 250,
        timeouts: 2,
        probes: 0,
        info: (state == "ESTABLISHED").then(|| TcpInfoRow {
            rto_us: 204_000,
            cwnd: 10,
            ssthresh: None,
            ..TcpInfoRow::default()
        }),
    };
    vec![
        row("0.0.0.0:80", None, "LISTEN"),
        row("10.0.2.2:80", Some("10.0.2.100:50000"), "ESTABLISHED"),
        row("10.0.2.2:81", Some("10.0.2.100:50001"), "SYN_RECV"),
        row("10.0.2.2:82", Some("10.0.2.100:50002"), "TIME_WAIT"),
        row("[fd00::2]:80", Some("[fd00::100]:50003"), "ESTABLISHED"),
    ]
}

fn kernel(file: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok().filter(|t| !t.is_empty());
    if text.is_none() {
        skip(file, "this machine has none to compare with");
    }
    text
}

/// Said past the capture of test output: a skip must be seen. With `LINERATE_SKIP=deny`, as in
/// `.ci/run`, the test fails.
fn skip(name: &str, why: &str) {
    assert!(std::env::var("LINERATE_SKIP").as_deref() != Ok("deny"), "SKIP {name}: {why}");
    let _ = writeln!(std::io::stderr(), "SKIP {name}: {why}");
}

#[test]
fn snmp_is_read_by_procfs() {
    let snmp = Snmp::from_buf_read(super::snmp(&snapshot()).as_bytes()).expect("it parses");
    assert_eq!(snmp.ip_in_receives, 1001);
    assert_eq!(snmp.ip_default_ttl, 64);
    assert_eq!((snmp.icmp_in_echos, snmp.icmp_out_echo_reps), (5, 4));
    assert_eq!((snmp.tcp_in_segs, snmp.tcp_curr_estab), (9, 2));
    assert_eq!((snmp.tcp_rto_min, snmp.tcp_max_conn), (200, -1));
    assert_eq!((snmp.udp_in_datagrams, snmp.udp_rcvbuf_errors, snmp.udp_in_errors), (8, 3, 3));
}

#[test]
fn snmp6_is_read_by_procfs() {
    let snmp6 = Snmp6::from_buf_read(super::snmp6(&snapshot()).as_bytes()).expect("it parses");
    assert_eq!(snmp6.ip_in_receives, 77);
    assert_eq!(snmp6.icmp_in_neighbor_solicits, 3);
}

#[test]
fn dev_is_read_by_procfs() {
    let text = super::dev(&snapshot());
    let all = InterfaceDeviceStatus::from_buf_read(text.as_bytes()).expect("it parses").0;
    let tun = all.get("tun0").expect("it is there");
    assert_eq!((tun.recv_packets, tun.recv_bytes), (12_345_678_901, 98_765_432_109_876));
    assert_eq!((tun.sent_packets, tun.sent_bytes), (17, 1700));
    assert_eq!(all.len(), 2);
}

#[test]
fn udp_is_read_by_procfs() {
    let s = snapshot();
    let read = |text: String| {
        UdpNetEntries::from_buf_read(text.as_bytes(), &THIS_MACHINE).expect("it parses").0
    };
    let four = read(super::udp(&s));
    assert_eq!(four.len(), 1);
    assert_eq!(four[0].local_address.to_string(), "10.0.2.3:53");
    assert_eq!(four[0].remote_address.to_string(), "10.0.2.100:40000");
    assert_eq!(four[0].state, UdpState::Established);
    let six = read(super::udp6(&s));
    let local: Vec<String> = six.iter().map(|u| u.local_address.to_string()).collect();
    assert_eq!(local, ["[fd00::3]:53", "[::]:7"]);
    assert!(six.iter().all(|u| u.state == UdpState::Close));
}

#[test]
fn tcp_is_read_by_procfs() {
    let s = snapshot();
    let read = |text: String| {
        TcpNetEntries::from_buf_read(text.as_bytes(), &THIS_MACHINE).expect("it parses").0
    };
    let four = read(super::tcp(&s));
    let states: Vec<TcpState> = four.iter().map(|t| t.state.clone()).collect();
    use TcpState::{Established, Listen, SynRecv, TimeWait};
    assert_eq!(states, [Listen, Established, SynRecv, TimeWait]);
    assert_eq!(four[1].remote_address.to_string(), "10.0.2.100:50000");
    assert_eq!((four[0].tx_queue, four[1].tx_queue, four[1].rx_queue), (0, 4096, 3));
    let six = read(super::tcp6(&s));
    assert_eq!(six.len(), 1);
    assert_eq!(six[0].local_address.to_string(), "[fd00::2]:80");
}

#[test]
fn tcp_lines_have_the_kernels_columns() {
    // As net/ipv4/tcp_ipv4.c writes them: 17 words for a connection, 12 for half-open and ended ones.
    let text = super::tcp(&snapshot());
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.iter().all(|l| l.len() == 149), "every line is filled up to 149 columns");
    let words: Vec<usize> = lines.iter().skip(1).map(|l| l.split_whitespace().count()).collect();
    assert_eq!(words, [17, 17, 12, 12]);
    let connection: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(connection[5], "01:00000019", "250 ms are 25 ticks");
    assert_eq!(connection[12..], ["20", "0", "0", "10", "-1"]);
}

#[test]
fn names_of_fields_equal_the_running_kernels() {
    let s = snapshot();
    for (file, ours) in [
        ("/proc/net/snmp", super::snmp(&s)),
        ("/proc/net/netstat", super::netstat(&s)),
        ("/proc/net/dev", super::dev(&s)),
    ] {
        let Some(theirs) = kernel(file) else { continue };
        let heads = |text: &str| -> Vec<Vec<String>> {
            let named = text.lines().filter(|l| {
                let first = l.split_whitespace().nth(1).unwrap_or_default();
                !first.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit())
            });
            // Types of ICMP depend on what arrived so far.
            let named = named.filter(|l| !l.starts_with("IcmpMsg"));
            named.map(|l| l.split_whitespace().map(str::to_owned).collect()).collect()
        };
        let (ours, theirs) = (heads(&ours), heads(&theirs));
        for theirs in theirs {
            let group = &theirs[0];
            let ours = ours.iter().find(|o| o[0] == *group);
            let ours = ours.unwrap_or_else(|| panic!("{file}: {group} is missing"));
            compare(file, ours, &theirs);
        }
    }
    if let Some(theirs) = kernel("/proc/net/snmp6") {
        let names = |text: &str| -> Vec<String> {
            let all = text.lines().filter_map(|l| l.split_whitespace().next());
            all.filter(|n| !n.contains("Type")).map(str::to_owned).collect()
        };
        compare("/proc/net/snmp6", &names(&super::snmp6(&s)), &names(&theirs));
    }
}

/// Kernels add fields: ours are those of one version. What both have must be in the same order, and
/// an older or newer kernel may lack or add a few.
fn compare(file: &str, ours: &[String], theirs: &[String]) {
    let both: Vec<&String> = ours.iter().filter(|f| theirs.contains(f)).collect();
    let same: Vec<&String> = theirs.iter().filter(|f| ours.contains(f)).collect();
    assert_eq!(both, same, "{file}: the order of fields");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.starts_with("6.18.") {
        assert_eq!(ours, theirs, "{file}: every field of this kernel");
    }
}

#[test]
fn lines_of_values_have_as_many_words_as_lines_of_names() {
    let s = snapshot();
    for text in [super::snmp(&s), super::netstat(&s)] {
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split(' ').collect()).collect();
        assert!(lines.len().is_multiple_of(2) && lines.len() >= 6);
        for pair in lines.chunks(2) {
            assert_eq!(pair[0].len(), pair[1].len(), "{}", pair[0][0]);
            assert_eq!(pair[0][0], pair[1][0]);
            assert!(pair[1][1..].iter().all(|v| v.parse::<i64>().is_ok()), "{:?}", pair[1]);
        }
    }
}

#[test]
fn softnet_and_softirqs_have_the_kernels_shape() {
    let s = snapshot();
    let ours = super::softnet_stat(&s);
    assert!(ours.starts_with("00012345 00000000 00000006 00000000 "), "{ours}");
    let soft = super::softirqs(&s);
    assert!(soft.contains("      NET_RX:       4242\n"), "{soft}");
    if let Some(theirs) = kernel("/proc/net/softnet_stat") {
        let shape =
            |t: &str| t.lines().next().map(|l| l.split(' ').map(str::len).collect::<Vec<_>>());
        assert_eq!(shape(&ours), shape(&theirs));
    }
    if let Some(theirs) = kernel("/proc/softirqs") {
        let kinds = |t: &str| -> Vec<String> {
            let lines = t.lines().skip(1);
            lines.map(|l| l.split(':').next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(kinds(&soft), kinds(&theirs));
        let head = theirs.lines().next().unwrap_or_default();
        assert!(head.starts_with(soft.lines().next().unwrap_or("?").trim_end()), "{head}");
    }
}

#[test]
fn headers_of_socket_lists_equal_the_running_kernels() {
    let s = snapshot();
    let pairs: [(&str, String); 6] = [
        ("/proc/net/udp", super::udp(&s)),
        ("/proc/net/udp6", super::udp6(&s)),
        ("/proc/net/tcp", super::tcp(&s)),
        ("/proc/net/tcp6", super::tcp6(&s)),
        ("/proc/net/sockstat", super::sockstat(&s)),
        ("/proc/net/sockstat6", super::sockstat6(&s)),
    ];
    for (file, ours) in pairs {
        let Some(theirs) = kernel(file) else { continue };
        if file.contains("sockstat") {
            let words = |t: &str| -> Vec<String> {
                let all = t.split_whitespace().filter(|w| w.parse::<u64>().is_err());
                all.map(str::to_owned).collect()
            };
            assert_eq!(words(&ours), words(&theirs), "{file}");
        } else {
            assert_eq!(ours.lines().next(), theirs.lines().next(), "{file}");
        }
    }
}

#[test]
fn nstat_reads_snmp_netstat_and_snmp6() {
    let dir = std::env::temp_dir().join(format!("linerate-nstat-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a new directory");
    let s = snapshot();
    let files =
        [("SNMP", super::snmp(&s)), ("NETSTAT", super::netstat(&s)), ("SNMP6", super::snmp6(&s))];
    let mut nstat = Command::new("nstat");
    nstat.args(["-a", "-z", "-s"]).env("NSTAT_HISTORY", dir.join("history"));
    for (name, text) in files {
        std::fs::write(dir.join(name), text).expect("it is written");
        nstat.env(format!("PROC_NET_{name}"), dir.join(name));
    }
    let out = nstat.output();
    std::fs::remove_dir_all(&dir).expect("it is removed");
    let Ok(out) = out else {
        return skip("nstat", "iproute2 is not installed");
    };
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let value = |name: &str| {
        let line = text.lines().find(|l| l.split_whitespace().next() == Some(name));
        line.and_then(|l| l.split_whitespace().nth(1)).map(str::to_owned)
    };
    for (name, wanted) in [
        ("IpInReceives", "1001"),
        ("UdpRcvbufErrors", "3"),
        ("TcpExtListenOverflows", "1"),
        ("IpExtInOctets", "5000000000"),
        ("Ip6InReceives", "77"),
        ("Icmp6InType135", "3"),
    ] {
        assert_eq!(value(name).as_deref(), Some(wanted), "{name} in:\n{text}");
    }
}

/// Goal: what each queue's driver counts is printed as `ethtool -S` prints it, by queue and in sum.
#[test]
fn statistics_are_shown_as_ethtool_shows_them() {
    let queue = |queue: u8, dropped: u64| DevQueueRow {
        device: "eth1".to_owned(),
        queue,
        statistics: [("rx_dropped".to_owned(), dropped), ("rx_ring_full".to_owned(), 1)].into(),
        ..DevQueueRow::default()
    };
    let snapshot = Snapshot {
        devices: vec![DeviceRow { name: "eth1".to_owned(), ..DeviceRow::default() }],
        dev_queues: vec![queue(0, 3), queue(1, 4)],
        ..Snapshot::default()
    };
    let text = super::ethtool::statistics(&snapshot);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "NIC statistics: eth1",
            "rx_dropped: 7",
            "rx_ring_full: 2",
            "queue_0_rx_dropped: 3",
            "queue_0_rx_ring_full: 1",
            "queue_1_rx_dropped: 4",
            "queue_1_rx_ring_full: 1",
        ]
    );
}
