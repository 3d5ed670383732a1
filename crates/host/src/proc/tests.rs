use super::*;

fn snapshot(bytes: &str, parse: fn(&[u8], &mut Snapshot)) -> Snapshot {
    let mut into = Snapshot::default();
    parse(bytes.as_bytes(), &mut into);
    into
}

#[test]
fn softnet_is_read_by_how_many_columns_there_are() {
    // 15 columns say which processor they are of; the order does not.
    let new =
        "00000010 00000002 00000003 0 0 0 0 0 00000000 0000000a 0000000b 0000000c 00000005 1 2\n";
    let s = snapshot(new, softnet::softnet_stat);
    let of = &s.softnet[&5];
    for (name, want) in [
        ("processed", 16),
        ("dropped", 2),
        ("time_squeeze", 3),
        ("received_rps", 10),
        ("flow_limit_count", 11),
        ("backlog_len", 12),
        ("input_pkt_queue_len", 1),
        ("process_queue_len", 2),
    ] {
        assert_eq!(of.get(name), Some(want), "{name}");
    }
    assert_eq!((of.source(), of.bits()), ("/proc/net/softnet_stat cpu5", 32));
    // 10 columns: no flow limit, which is not the same as none.
    let old = "00000010 00000002 00000003 0 0 0 0 0 00000007 0000000a\n".repeat(2);
    let s = snapshot(&old, softnet::softnet_stat);
    assert_eq!(s.softnet.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(s.softnet[&1].get("cpu_collision"), Some(7));
    assert_eq!(s.softnet[&1].get("flow_limit_count"), None);
    assert!(s.notes.is_empty());
}

#[test]
fn old_softnet_lines_are_those_of_the_processors_that_are_online() {
    let mut into = Snapshot::default();
    into.host.cpus = vec![0, 2];
    softnet::softnet_stat("1 2 3 0 0 0 0 0 0 0 0\n".repeat(2).as_bytes(), &mut into);
    assert_eq!(into.softnet.keys().copied().collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn softnet_garbage_is_noted_and_left_out() {
    let s = snapshot("1 2 3\nhello\n0 0 0 0 0 0 0 0 0\n", softnet::softnet_stat);
    assert_eq!(s.softnet.len(), 1);
    assert_eq!(s.notes.len(), 2);
    // The same processor twice, and one that cannot be.
    let twice = "0 0 0 0 0 0 0 0 0 0 0 0 00000001\n";
    let s = snapshot(
        &format!("{twice}{twice}{}", twice.replace("00000001", "ffffffff")),
        softnet::softnet_stat,
    );
    assert_eq!(s.softnet.len(), 1);
    assert_eq!(s.notes.len(), 2);
}

#[test]
fn the_mib_is_paired_by_name() {
    let text =
        "Ip: InReceives InDiscards\nTcp: MaxConn InSegs\nTcp: -1 7\nIp: 5 0\nIcmpMsg:\nIcmpMsg:\n";
    let s = snapshot(text, mib::snmp);
    assert_eq!(s.mib("Ip", "InReceives"), Some(5));
    assert_eq!(s.mib("Tcp", "InSegs"), Some(7));
    assert_eq!(s.mib("Tcp", "MaxConn"), None, "a negative number is no counter");
    assert_eq!(s.mib["Ip"].source(), "/proc/net/snmp Ip");
    assert!(s.notes.is_empty(), "{:?}", s.notes);
}

#[test]
fn a_mib_that_does_not_fit_its_names_is_left_out() {
    for text in [
        "Ip: InReceives InDiscards\nIp: 5\n",
        "Ip: InReceives\nIp: 5 6\n",
        "Ip: 5 6\n",
        "Ip: InReceives\nIp: 5x\n",
        "Ip: InReceives\nIp: 99999999999999999999999\n",
        "Ip: InReceives\nIp: 5",
    ] {
        let s = snapshot(text, mib::snmp);
        assert_eq!(s.mib("Ip", "InReceives"), None, "{text}");
        assert!(!s.notes.is_empty(), "{text}");
    }
}

#[test]
fn names_of_ipv6_go_to_their_sections() {
    let text =
        "Ip6InReceives  \t3\nIcmp6InMsgs\t4\nUdp6InDatagrams 5\nUdpLite6InErrors 6\nOther 7\n";
    let s = snapshot(text, mib::snmp6);
    assert_eq!(s.mib("Ip6", "InReceives"), Some(3));
    assert_eq!(s.mib("Icmp6", "InMsgs"), Some(4));
    assert_eq!(s.mib("Udp6", "InDatagrams"), Some(5));
    assert_eq!(s.mib("UdpLite6", "InErrors"), Some(6));
    assert_eq!(s.mib.len(), 4);
}

#[test]
fn interrupts_have_a_count_for_each_processor_that_is_online() {
    let text = "           CPU0       CPU2\n 24:          1    4294967295  PCI-MSIX-0000:00:03.0   1-edge      eth0-rx-0\nNMI:          0          0   Non-maskable interrupts\nERR:          0\n";
    let s = snapshot(text, interrupts::interrupts);
    assert_eq!(s.irqs.len(), 1);
    let irq = &s.irqs[&24];
    assert_eq!(irq.counts.get("CPU2"), Some(u64::from(u32::MAX)));
    assert_eq!(irq.counts.get("CPU1"), None);
    assert!(irq.actions.ends_with("1-edge      eth0-rx-0"), "{}", irq.actions);
    assert!(s.notes.is_empty());
}

#[test]
fn tables_without_their_processors_are_left_out() {
    for text in ["NET_RX: 1 2\n", "CPU1 CPU0\n NET_RX: 1 2\n", "CPU0 CPU99999\nNET_RX: 1 2\n"] {
        let s = snapshot(text, softirqs::softirqs);
        assert!(s.softirqs.is_empty() && !s.notes.is_empty(), "{text}");
    }
    let s = snapshot("CPU0 CPU1\nNET_RX: 1 2\nNET_TX: 1\n", softirqs::softirqs);
    assert_eq!(s.softirqs[&1].get("NET_RX"), Some(2));
    assert_eq!(s.softirqs[&1].get("NET_TX"), None);
    assert_eq!(s.notes.len(), 1);
}

#[test]
fn sums_over_processors_wrap_and_need_all_of_them() {
    let text = "entries  lookups hits\n00000007 ffffffff 1\n00000007 00000002 f\n";
    let s = snapshot(text, |bytes, into| cachestat::neigh("arp_cache", bytes, into));
    let arp = &s.neigh["arp_cache"];
    assert_eq!(arp.get("entries"), Some(7), "a gauge, the same in each line");
    assert_eq!(arp.get("lookups"), Some(1));
    assert_eq!(arp.get("hits"), Some(16));
    let mut into = Snapshot::default();
    into.host.cpus = vec![0, 1, 2];
    cachestat::nf_conntrack(text.as_bytes(), &mut into);
    assert!(into.conntrack.is_none(), "a line is missing");
    cachestat::nf_conntrack(&text.as_bytes()[..text.len() - 1], &mut into);
    assert!(into.conntrack.is_none(), "it was cut");
}

#[test]
fn what_proc_net_dev_folds_has_a_name_of_its_own() {
    let text =
        "Inter-|\n face |\n  eth0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n bad/name: 1\nlo: 1 2\n";
    let s = snapshot(text, netdev::dev);
    assert_eq!(s.devs.keys().collect::<Vec<_>>(), ["eth0"]);
    let stats = &s.devs["eth0"].stats;
    assert_eq!(stats.get("rx_bytes"), Some(1));
    assert_eq!((stats.get("rx_drop"), stats.get("rx_dropped")), (Some(4), None));
    assert_eq!((stats.get("tx_dropped"), stats.get("tx_compressed")), (Some(12), Some(16)));
    assert_eq!(s.notes.len(), 2);
}

#[test]
fn packet_sockets_are_found_by_the_names_of_the_columns() {
    let text = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                0000000000000000 3      3    0003   2     1 0      1000   77\n\
                0000000000000000 3      3    88cc   0     1 0      0      78\n";
    let mut into = Snapshot::default();
    let eth0 = crate::snapshot::Dev { ifindex: 2, ..crate::snapshot::Dev::named("eth0") };
    into.devs.insert("eth0".into(), eth0);
    packet::packet(text.as_bytes(), &mut into);
    let taps: Vec<_> =
        into.sockets.taps.iter().map(|t| (t.dev.as_deref(), t.protocol, t.owner.uid)).collect();
    assert_eq!(taps, [(Some("eth0"), 3, 1000), (None, 0x88cc, 0)]);
}

#[test]
fn a_thread_is_known_by_its_name_whatever_is_in_it() {
    let line = |name: &str| {
        format!(
            "15 ({name}) S 2 0 0 0 -1 69238848 0 0 0 0 12 345 0 0 20 0 1 0 25 0 0 18446744073709551615\n"
        )
    };
    let mut into = Snapshot::default();
    let name = task::stat(15, line("napi/eth0-8193").as_bytes(), &mut into);
    assert_eq!(name.as_deref(), Some("napi/eth0-8193"));
    let time = &into.kthreads["napi/eth0-8193"];
    assert_eq!((time.get("utime"), time.get("stime")), (Some(12), Some(345)));
    assert_eq!(task::stat(15, line("a) S (b").as_bytes(), &mut into), None);
    assert_eq!(task::stat(15, b"15 (ksoftirqd/0) S 2", &mut into), None);
    assert_eq!(into.notes.len(), 1);
}

#[test]
fn sysctls_are_dotted_and_their_space_is_one_blank() {
    let mut into = Snapshot::default();
    sysctl::sysctl("net/ipv4/tcp_rmem", b"4096\t131072\t6291456\n", &mut into);
    sysctl::sysctl("net/ipv4/conf/eth0.7/rp_filter", b"2\n", &mut into);
    sysctl::sysctl("net/netfilter/nf_conntrack_max", b"262144\n", &mut into);
    assert_eq!(into.sysctl_list("net.ipv4.tcp_rmem"), Some(vec![4096, 131_072, 6_291_456]));
    assert_eq!(into.sysctl("net.ipv4.conf.eth0/7.rp_filter"), Some(2));
    assert_eq!(sysctl::path("net.ipv4.conf.eth0/7.rp_filter"), "net/ipv4/conf/eth0.7/rp_filter");
    let conntrack = into.conntrack.expect("its table is known");
    assert_eq!(conntrack.table.get("nf_conntrack_max"), Some(262_144));
}

#[test]
fn a_device_is_what_its_files_say() {
    let mut into = Snapshot::default();
    for (name, index) in [("eth0", 2), ("br0", 7)] {
        let dev = crate::snapshot::Dev { ifindex: index, ..crate::snapshot::Dev::named(name) };
        into.devs.insert(name.into(), dev);
    }
    for (file, text) in [
        ("master/ifindex", "7\n"),
        ("flags", "0x1103\n"),
        ("speed", "25000\n"),
        ("operstate", "up\n"),
        ("device/numa_node", "-1\n"),
        ("device/local_cpulist", "0-1\n"),
        ("device/uevent", "DRIVER=mlx5_core\nPCI_CLASS=20000\n"),
        ("uevent", "DEVTYPE=wlan\nINTERFACE=eth0\n"),
        ("threaded", "0\n"),
        ("carrier_changes", "3\n"),
    ] {
        class_net::attr("eth0", file, text.as_bytes(), &mut into);
    }
    let dev = &into.devs["eth0"];
    assert_eq!(dev.master.as_deref(), Some("br0"));
    assert_eq!(dev.flags, ["UP", "BROADCAST", "PROMISC", "MULTICAST"]);
    assert_eq!((dev.speed_mbps, dev.node), (Some(25_000), None));
    assert_eq!((dev.local_cpus.as_slice(), dev.driver.as_str()), (&[0, 1][..], "mlx5_core"));
    assert_eq!((dev.kind.as_str(), dev.operstate.as_str()), ("wlan", "up"));
    assert_eq!(
        (dev.settings.get("threaded"), dev.carrier.get("carrier_changes")),
        (Some(0), Some(3))
    );
    assert!(into.notes.is_empty(), "{:?}", into.notes);
    // Unknown speeds.
    for unknown in ["-1", "65535", "4294967295", "0"] {
        class_net::attr("eth0", "speed", unknown.as_bytes(), &mut into);
        assert_eq!(into.devs["eth0"].speed_mbps, None, "{unknown}");
    }
    class_net::attr("eth0", "mtu", b"many", &mut into);
    assert_eq!(into.notes.len(), 1);
}

#[test]
fn queues_grow_to_hold_what_is_said_of_them() {
    let mut into = Snapshot::default();
    into.devs.insert("eth0".into(), crate::snapshot::Dev::named("eth0"));
    for (file, text) in [
        ("rx-1/rps_cpus", "00000000,00000003"),
        ("rx-1/rps_flow_cnt", "4096"),
        ("tx-0/xps_cpus", "1"),
        ("tx-0/byte_queue_limits/limit", "1879048192"),
        ("tx-0/tx_timeout", "2"),
        ("rx-99999999/rps_cpus", "1"),
        ("rx-0/rps_cpus", "xyz"),
    ] {
        class_net::queue("eth0", file, text.as_bytes(), &mut into);
    }
    let dev = &into.devs["eth0"];
    assert_eq!(dev.rx.len(), 2);
    assert_eq!((dev.rx[1].rps_cpus.as_slice(), dev.rx[1].rps_flow_cnt), (&[0, 1][..], 4096));
    assert_eq!(dev.tx[0].xps_cpus.as_deref(), Some(&[0][..]));
    assert_eq!(dev.tx[0].xps_rxqs, None);
    assert_eq!(dev.tx[0].bql.get("limit"), Some(1_879_048_192));
    assert_eq!(dev.tx[0].stats.get("tx_timeout"), Some(2));
    assert_eq!(into.notes.len(), 2);
}

#[test]
fn a_file_of_garbage_gives_few_notes() {
    let text = "zzz\n".repeat(100_000);
    for parse in [mib::snmp, mib::snmp6, sockstat::sockstat, netdev::dev, softnet::softnet_stat] {
        let s = snapshot(&text, parse);
        assert!((1..=4).contains(&s.notes.len()), "{:?}", s.notes);
    }
}
