//! Goal: files of other people's hosts say what a person reads in them.
//! Method: trees under `data/` (their origin is in `data/MANIFEST.tsv`) are read as `--from DIR` would;
//! values are those that stand in the files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use linerate_host::Snapshot;
use linerate_host::collect::{Collector, Tier};
use linerate_host::proc::interrupts;
use linerate_host::source::Dir;

fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path)
}

fn tree(path: &str) -> Snapshot {
    let mut dir = Dir::open(data(path)).unwrap_or_else(|err| panic!("{path}: {err}"));
    Collector::new(Tier::Full).collect(&mut dir)
}

fn sum(snapshot: &Snapshot, name: &str) -> u64 {
    snapshot.softnet.values().filter_map(|c| c.get(name)).sum()
}

/// Ubuntu 20.04, a virtual machine in a Kubernetes cluster: a sosreport, with its network files below a
/// process and its sysctls in the output of a command.
#[test]
fn a_sosreport_of_a_kubernetes_node() {
    let s = tree("hotsos/kubernetes");
    assert_eq!(s.host.name, "juju-110cc2-k8stest-4");
    assert_eq!(s.host.release, "5.4.0-99-generic");
    assert_eq!(s.host.cpus, [0, 1]);
    assert_eq!(s.host.is_init_netns, Some(true));
    assert_eq!(s.host.netns, None);
    // There is no uptime; the processors have counted 1531.53 s.
    assert!((s.host.uptime_s - 1531.53).abs() < 1.0, "{}", s.host.uptime_s);
    assert_eq!(s.softnet[&0].get("processed"), Some(0x20e42));
    assert_eq!(s.softnet[&1].get("processed"), Some(0x228bc));
    assert_eq!(s.softnet[&1].get("flow_limit_count"), Some(0));
    assert_eq!(s.softnet[&1].get("backlog_len"), None, "5.4 has 11 columns");
    assert_eq!(s.mib("Ip", "InReceives"), Some(265_887));
    assert_eq!(s.mib("Ip", "InAddrErrors"), Some(32));
    assert_eq!(s.mib("Ip", "OutDiscards"), Some(46));
    assert_eq!(s.mib("Tcp", "RetransSegs"), Some(54));
    assert_eq!(s.mib("Udp", "NoPorts"), Some(92));
    assert!(s.mib("TcpExt", "ListenOverflows").is_some());
    assert!(s.mib("Ip6", "InReceives").is_some());
    assert_eq!(s.sockstat["TCP"].get("tw"), Some(76));
    assert_eq!(s.cpus[&0].get("steal"), Some(113));
    assert_eq!(s.sysctl("net.core.somaxconn"), Some(4096));
    assert_eq!(s.sysctl_list("net.ipv4.tcp_rmem"), Some(vec![4096, 131_072, 6_291_456]));
    assert_eq!(s.sysctl("net.ipv4.conf.ens3.rp_filter"), Some(2));
    assert!(s.sysctls.contains_key("net.ipv4.conf.flannel/1.rp_filter"));
    let table = &s.conntrack.as_ref().expect("its sysctls are there").table;
    assert_eq!(table.get("nf_conntrack_count"), Some(832));
    assert_eq!(table.get("nf_conntrack_max"), Some(131_072));
    let dev = &s.devs["flannel.1"];
    assert_eq!(dev.stats.get("tx_dropped"), Some(13));
    assert_eq!(dev.stats.source(), "ip -s -d link flannel.1");
    assert_eq!((dev.stats.get("rx_dropped"), dev.stats.get("rx_drop")), (Some(0), None));
    let dev = &s.devs["ens3"];
    assert_eq!(dev.driver, "virtio_net");
    assert_eq!((dev.rings.get("rx"), dev.rings.get("rx-max")), (Some(256), Some(256)));
    assert_eq!((dev.channels.get("combined"), dev.channels.get("rx-max")), (Some(1), Some(0)));
    assert_eq!(dev.driver_stats.get("rx_queue_0_packets"), Some(232_850));
    assert_eq!(dev.coalesce.get("rx-frames"), Some(1));
    assert!(dev.features["rx-gro"].on && dev.features["rx-lro"].fixed);
    assert!(dev.pause.is_empty(), "it was refused");
    assert_eq!((dev.ifindex, dev.mtu, dev.stats.get("rx_packets")), (2, 8958, Some(232_487)));
    assert_eq!(dev.qdiscs.len(), 1);
    assert_eq!(dev.qdiscs[0].kind, "fq_codel");
    assert_eq!(dev.qdiscs[0].stats.get("packets"), Some(171_821));
    assert_eq!(dev.qdiscs[0].xstats.get("new_flow_count"), Some(355));
    // What the report lacks is said.
    assert!(s.notes.iter().any(|n| n.what == "/sys/class/net"), "{:?}", s.notes);
    assert!(s.notes.iter().any(|n| n.what == "netlink"), "{:?}", s.notes);
}

/// A network namespace in which a socket was flooded and a queue of connections was too short, as sos
/// keeps it: without any file of `/proc`, so that all is what programs printed.
#[test]
fn a_sosreport_of_nothing_but_commands() {
    let s = tree("sos/commands");
    assert_eq!((s.host.name.as_str(), s.host.release.as_str()), ("vm", "6.18.44-fc-v657"));
    assert_eq!(s.host.uptime_s, 37_620.0, "10:27");
    assert_eq!(s.host.owners, ["NetworkManager", "irqbalance"]);
    assert_eq!(s.mib("Udp", "RcvbufErrors"), Some(2908));
    assert_eq!(s.mib("TcpExt", "ListenOverflows"), Some(24));
    assert_eq!(s.mib("IpExt", "InOctets"), Some(3_214_796));
    assert!(s.mib["Udp"].source().starts_with("sos_commands/networking/nstat_-zas:"));
    let udp = s.sockets.udp.iter().find(|u| u.local.port() == 5000).expect("it is there");
    assert_eq!((udp.drops, udp.rmem, udp.rcvbuf), (2908, 211_968, 212_992));
    assert_eq!(udp.owner.process.as_ref().map(|(_, name)| name.as_str()), Some("python3"));
    let listener = s.sockets.listeners.iter().find(|l| l.local.port() == 8080).expect("likewise");
    assert_eq!((listener.waiting, listener.backlog, listener.drops), (2, 1, 24));
    assert_eq!(s.sockets.tcp_states.get("ESTABLISHED"), Some(3));
    assert_eq!(s.sockets.taps[0].drops, Some(2966));
    assert_eq!(s.neigh_states["inet"].get("FAILED"), Some(1));
    assert_eq!(s.sysctl("net.core.somaxconn"), Some(4096));
    assert_eq!(
        s.stands_for["/proc/sys/net/core/somaxconn"], "sos_commands/kernel/sysctl_-a:4",
        "the line is said"
    );
    let dev = &s.devs["va"];
    assert_eq!(
        (dev.driver.as_str(), dev.mtu, dev.stats.get("rx_packets")),
        ("veth", 1500, Some(3051))
    );
    assert_eq!(dev.channels.get("rx-max"), Some(2));
    assert_eq!(dev.qdiscs[0].options.get("limit"), Some(100));
}

/// The same without `nstat`: `netstat -s` says less, and the same of what it says.
#[test]
fn sentences_say_what_numbers_do() {
    let from = data("sos/commands/sos_commands/networking");
    let read = |file: &str, parse: fn(&[u8], &mut Snapshot)| {
        let mut s = Snapshot::default();
        parse(&std::fs::read(from.join(file)).expect(file), &mut s);
        s
    };
    let numbers = read("nstat_-zas", linerate_host::proc::printed::nstat);
    let sentences = read("netstat_-s", linerate_host::proc::printed::netstat_s);
    let mut seen = 0;
    for (section, counters) in &sentences.mib {
        // A switch and a gauge, and no counters: nstat leaves them out.
        let gauge = |name: &str| matches!(name, "Forwarding" | "CurrEstab");
        for (name, value) in counters.iter().filter(|(name, _)| !gauge(name)) {
            // They were printed one after the other, while little happened.
            let other = numbers.mib(section, name).unwrap_or_else(|| panic!("{section} {name}"));
            assert!(other.abs_diff(value) <= 2, "{section} {name}: {value} and {other}");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

/// A kernel before 4.14, with sysfs.
#[test]
fn a_host_with_sysfs() {
    let s = tree("node_exporter");
    assert_eq!(s.host.nodes, BTreeMap::from([(0, vec![0, 1]), (1, vec![2, 3]), (2, vec![])]));
    let dev = &s.devs["ens10f0"];
    assert_eq!(dev.stats.get("rx_dropped"), Some(29_220));
    assert_eq!(dev.stats.get("rx_packets"), Some(46_422_718));
    assert_eq!(dev.stats.get("rx_missed_errors"), Some(0));
    assert_eq!(dev.stats.get("rx_drop"), None, "nothing is folded here");
    assert_eq!((dev.ifindex, dev.mtu, dev.txqueuelen, dev.speed_mbps), (2, 1500, 1000, Some(1000)));
    assert_eq!(dev.flags, ["UP", "BROADCAST", "PROMISC", "ALLMULTI", "MULTICAST"]);
    assert_eq!((dev.operstate.as_str(), dev.link), ("up", None));
    assert_eq!(dev.carrier.get("carrier_changes"), Some(2));
    assert_eq!((dev.rx.len(), dev.tx.len()), (8, 8));
    assert!(dev.rx.iter().all(|q| q.rps_cpus.is_empty() && q.rps_flow_cnt == 0));
    assert!(dev.tx.iter().all(|q| q.xps_cpus.as_deref() == Some(&[])));
    assert_eq!(dev.tx[3].bql.get("limit_max"), None);
    assert!(s.devs.contains_key("bond0") && !s.devs.contains_key("bonding_masters"));
    assert_eq!(s.softirqs[&1].get("NET_RX"), Some(104_508));
    assert_eq!(s.mib("TcpExt", "SyncookiesFailed"), Some(2));
    assert_eq!(s.mib("TcpExt", "TW"), Some(388_812));
    let conntrack = &s.conntrack.as_ref().expect("it has the file").stat;
    assert_eq!(conntrack.get("entries"), Some(0x21));
    assert_eq!(conntrack.get("invalid"), Some(3 + 2 + 1 + 0x2f));
    assert_eq!(conntrack.get("search_restart"), Some(2 + 1 + 4));
    // Its softnet_stat lacks the end of the last line, which is whole all the same.
    assert_eq!(s.softnet.len(), 4);
    assert_eq!(s.softnet[&3].get("time_squeeze"), Some(0x32));
    assert_eq!(s.softnet[&2].get("dropped"), Some(0));
    assert_eq!(sum(&s, "time_squeeze"), 1 + 0xa + 0x55 + 0x32);
}

/// Two lines for four processors: a sum over some of them would be wrong.
#[test]
fn a_table_with_too_few_processors_is_noted() {
    let s = tree("node_exporter");
    assert_eq!(s.host.cpus, [0, 1, 2, 3]);
    assert!(!s.neigh.contains_key("arp_cache"));
    assert!(s.notes.iter().any(|n| n.what == "/proc/net/stat/arp_cache"), "{:?}", s.notes);
}

#[test]
fn a_kernel_of_each_number_of_columns() {
    let s = tree("procfs");
    // Lines of 13, 13, 11, 9 and 10 columns in one file: made so upstream, to test this. The second
    // says that it is of processor 2, which the third is by its place.
    assert_eq!(s.softnet[&1].get("flow_limit_count"), Some(0x2b));
    assert_eq!(s.softnet[&1].get("backlog_len"), Some(0xdc));
    assert_eq!(s.softnet[&2].get("dropped"), Some(0x20e76));
    assert_eq!(s.softnet[&3].get("cpu_collision"), Some(0x20e76));
    assert_eq!(s.softnet[&3].get("received_rps"), None);
    assert_eq!(s.softnet[&4].get("received_rps"), Some(0x10));
    let dev = &s.devs["docker0"];
    assert_eq!((dev.stats.get("rx_packets"), dev.stats.get("tx_bytes")), (Some(38), Some(438)));
    assert_eq!(s.sockstat["TCP"].get("mem"), Some(22));
    let dev = &s.devs["eth0"];
    assert_eq!(dev.carrier.get("carrier_changes"), Some(2));
    assert_eq!(dev.carrier.get("carrier_up_count"), Some(1));
    assert_eq!(
        dev.stats.get("rx_bytes"),
        Some(874_354_587),
        "there are no statistics in its sysfs"
    );
}

#[test]
fn loose_files_are_a_tree_as_well() {
    let s = tree("netutils-linux/2xE2690.1mellanox_1emulex.L2.masterconf");
    assert!(s.irqs.len() > 10 && s.irqs.values().all(|i| i.counts.len() == 16));
    let s = tree("aarch64");
    assert_eq!(s.irqs[&10].counts.get("CPU5"), Some(3_641_875_466));
    assert_eq!(s.irqs[&10].actions, "GICv3  27 Level     arch_timer");
}

/// What a script that shares no code with this counted.
#[test]
fn interrupts_are_whose_a_person_says_they_are() {
    let table = std::fs::read_to_string(data("interrupts.tsv")).expect("it is there");
    let mut rows = table.lines().filter(|l| !l.starts_with('#'));
    let head: Vec<&str> = rows.next().expect("it has a head").split('\t').collect();
    let mut seen = 0;
    for row in rows {
        let row: BTreeMap<&str, &str> = head.iter().copied().zip(row.split('\t')).collect();
        let number = |name: &str| row[name].parse::<u64>().expect(name);
        let (file, nic) = (row["file"], row["nic"]);
        let mut s = Snapshot::default();
        interrupts::interrupts(&std::fs::read(data(file)).expect(file), &mut s);
        // That script left out what virtio announces changes of its configuration by.
        let all = s.irqs.values().filter(|i| interrupts::names(&i.actions, nic));
        let all = all.filter(|i| !i.actions.ends_with("-config"));
        let irqs: Vec<_> = all.collect();
        assert_eq!(irqs.len() as u64, number("irq_lines"), "{file} {nic}");
        let mut by_cpu: BTreeMap<&str, u64> = BTreeMap::new();
        for (cpu, count) in irqs.iter().flat_map(|i| i.counts.iter()) {
            *by_cpu.entry(cpu).or_default() += count;
        }
        assert_eq!(by_cpu.len() as u64, number("cpus"), "{file}");
        let total: u64 = by_cpu.values().sum();
        assert_eq!(total, number("total_irqs"), "{file} {nic}");
        let busiest = by_cpu[format!("CPU{}", row["busiest_cpu"]).as_str()];
        assert_eq!(Some(&busiest), by_cpu.values().max(), "{file} {nic}");
        let share = busiest * 100 / total;
        assert!(share.abs_diff(number("busiest_cpu_share_%")) <= 1, "{file} {nic}: {share}");
        seen += 1;
    }
    assert!(seen > 40, "{seen} rows");
}

/// Two readings of one host, a second or so apart.
#[test]
fn growth_between_two_readings() {
    let read = |n: u32| {
        let mut s = Snapshot::default();
        let path = format!("netutils-linux/_softirqs/i7/softirqs{n}");
        linerate_host::proc::softirqs::softirqs(
            &std::fs::read(data(&path)).expect("there"),
            &mut s,
        );
        s
    };
    let (from, to) = (read(1), read(2));
    let by = |cpu: u32| to.softirqs[&cpu].grown(&from.softirqs[&cpu], "NET_RX");
    assert!((0..8).all(|cpu| by(cpu).is_some_and(|by| by < 1_000_000)), "{:?}", (0..8).map(by));
    assert_eq!(from.softirqs[&4].get("NET_RX"), Some(3_497_390_485), "beyond 2^31");
}

#[test]
fn every_file_says_where_it_comes_from() {
    fn files(dir: &PathBuf, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() { files(&path, out) } else { out.push(path) }
        }
    }
    let manifest = std::fs::read_to_string(data("MANIFEST.tsv")).expect("it is there");
    let listed: Vec<&str> = manifest.lines().filter_map(|l| l.split('\t').next()).collect();
    let mut all = Vec::new();
    files(&data(""), &mut all);
    assert!(all.len() > 200);
    for path in all {
        let name = path.strip_prefix(data("")).expect("below").to_string_lossy().into_owned();
        let ours = matches!(name.as_str(), "MANIFEST.tsv" | "interrupts.tsv");
        assert!(
            ours || name.starts_with("LICENSES/") || listed.contains(&name.as_str()),
            "{name} is not in the manifest"
        );
    }
}
