use std::collections::BTreeMap;

use super::*;
use crate::source::Live;

/// A host of a few files.
struct Files(BTreeMap<&'static str, Result<&'static str, io::ErrorKind>>);

impl Source for Files {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        match self.0.get(name) {
            Some(Ok(text)) => Ok(text.as_bytes().to_vec()),
            Some(Err(kind)) => Err((*kind).into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&mut self, dir: &str) -> io::Result<Vec<String>> {
        let below = self.0.keys().filter_map(|name| name.strip_prefix(dir)?.strip_prefix('/'));
        let mut names: Vec<String> =
            below.map(|rest| rest.split('/').next().unwrap_or(rest).to_owned()).collect();
        names.dedup();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }
}

fn full(files: &[(&'static str, &'static str)]) -> Snapshot {
    let mut source = Files(files.iter().map(|(name, text)| (*name, Ok(*text))).collect());
    Collector::new(Tier::Full).collect(&mut source)
}

#[test]
fn this_host_is_read() {
    let mut live = Live::new();
    let s = Collector::new(Tier::Full).collect(&mut live);
    assert!(s.monotonic_ns > 0 && s.wall_ns > 1_600_000_000_000_000_000);
    assert!(!s.host.cpus.is_empty() && s.host.uptime_s > 0.0);
    assert_eq!(s.softnet.len(), s.host.cpus.len(), "{:?}", s.notes);
    assert!(s.mib("Ip", "InReceives").is_some() && s.mib("TcpExt", "ListenOverflows").is_some());
    assert!(s.sysctl_list("net.ipv4.tcp_rmem").is_some_and(|v| v.len() == 3));
    let lo = &s.devs["lo"];
    assert!(lo.mtu > 0 && lo.stats.get("rx_packets").is_some(), "{lo:?}");
    assert!(s.host.netns.is_some_and(|inode| inode > 0));
    assert!(matches!(s.host.hz, Some(100..=1000)), "{:?}", s.host.hz);
    assert!(
        s.kthreads.keys().any(|name| name.starts_with("ksoftirqd/"))
            || s.host.is_init_netns == Some(false)
    );
}

#[test]
fn nothing_is_notes_and_no_zeros() {
    let s = full(&[]);
    assert!(s.mib.is_empty() && s.softnet.is_empty() && s.devs.is_empty() && s.conntrack.is_none());
    let noted: Vec<&str> = s.notes.iter().map(|n| n.what.as_str()).collect();
    for what in ["/proc/net/snmp", "/proc/net/softnet_stat", "/proc/stat", "/sys/class/net"] {
        assert!(noted.contains(&what), "{what} of {noted:?}");
    }
}

#[test]
fn a_missing_right_is_a_note() {
    let denied = Err(io::ErrorKind::PermissionDenied);
    let mut source = Files([("proc/net/snmp", denied)].into_iter().collect());
    let s = Collector::new(Tier::Basic).collect(&mut source);
    let note = s.notes.iter().find(|n| n.what == "/proc/net/snmp").expect("it is noted");
    assert!(note.why.contains("denied"), "{}", note.why);
}

#[test]
fn interrupts_belong_to_whom_sysfs_says_and_to_the_named_without_it() {
    let irqs =
        "  CPU0\n 1: 5 IO-APIC timer\n 2: 6 PCI-MSI eth0-rx-0\n 3: 7 PCI-MSI mlx5_comp0@pci\n";
    let dev = "a\nb\n eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
    let named = full(&[("proc/interrupts", irqs), ("proc/net/dev", dev)]);
    assert_eq!(named.devs["eth0"].irqs, [2]);
    assert_eq!(named.irqs[&2].dev.as_deref(), Some("eth0"));
    let told = full(&[
        ("proc/interrupts", irqs),
        ("proc/net/dev", dev),
        ("proc/irq/3/smp_affinity_list", "0-3"),
        ("proc/irq/3/effective_affinity_list", "2"),
        ("proc/irq/3/node", "1"),
        ("sys/class/net/eth0/device/msi_irqs/3", "msix"),
        ("sys/class/net/eth0/device/msi_irqs/9", "msix"),
    ]);
    assert_eq!(told.devs["eth0"].irqs, [3], "by what sysfs says, and only those there are");
    let irq = &told.irqs[&3];
    assert_eq!(
        (irq.affinity.as_slice(), irq.effective.as_slice(), irq.node),
        (&[0, 1, 2, 3][..], &[2][..], Some(1))
    );
}

#[test]
fn a_virtio_device_has_the_interrupts_of_what_it_lies_in_and_no_other_does() {
    let irqs = "  CPU0\n 3: 7 PCI-MSI virtio2-input.0\n";
    let files = |driver: &'static str| {
        full(&[
            ("proc/interrupts", irqs),
            ("sys/class/net/eth0/device/uevent", driver),
            ("sys/class/net/eth0/device/../msi_irqs/3", "msix"),
        ])
    };
    assert_eq!(files("DRIVER=virtio_net\n").devs["eth0"].irqs, [3]);
    assert!(files("DRIVER=e1000e\n").devs["eth0"].irqs.is_empty());
}

#[test]
fn uptime_follows_from_the_time_of_a_processor() {
    let s = full(&[("proc/stat", "cpu 1 2 3 4\ncpu0 1000 0 0 9000 0 0 0 0 500 0\nintr 1\n")]);
    assert!((s.host.uptime_s - 100.0).abs() < 1e-9, "{}", s.host.uptime_s);
    assert_eq!(s.host.cpus, [0]);
}

#[test]
fn where_host_wide_settings_are_is_the_first_namespace() {
    let init = full(&[("proc/sys/net/core/netdev_max_backlog", "1000\n")]);
    assert_eq!(init.host.is_init_netns, Some(true));
    let child = full(&[("proc/sys/net/core/somaxconn", "4096\n")]);
    assert_eq!(child.host.is_init_netns, Some(false));
    assert_eq!(full(&[]).host.is_init_netns, None);
}

#[test]
fn statistics_of_sysfs_replace_the_folded_ones() {
    let dev = "a\nb\n eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
    let s =
        full(&[("proc/net/dev", dev), ("sys/class/net/eth0/statistics/rx_missed_errors", "4\n")]);
    let stats = &s.devs["eth0"].stats;
    assert_eq!((stats.get("rx_missed_errors"), stats.get("rx_drop")), (Some(4), None));
    assert_eq!(full(&[("proc/net/dev", dev)]).devs["eth0"].stats.get("rx_drop"), Some(4));
}

#[test]
fn what_processors_do_to_save_energy_is_read() {
    const CPU: &str = "sys/devices/system/cpu";
    let files: Vec<(&'static str, &'static str)> = vec![
        ("sys/devices/system/cpu/online", "0-1\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n"),
        ("sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", "3000000\n"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state0/name", "POLL\n"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state0/latency", "0\n"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state0/time", "9\n"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state2/name", "C6\n"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state2/latency", "133\n"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state2/disable", "0\n"),
        ("sys/devices/system/cpu/cpu1/cpuidle/state2/time", "4711\n"),
    ];
    let s = full(&files);
    let policy = &s.power.policies[&0];
    assert_eq!((policy.governor.as_str(), policy.able_khz), ("powersave", Some(3_000_000)));
    let states = &s.power.idle[&1];
    assert_eq!((states.len(), states[0].name.as_str(), states[0].latency_us), (1, "C6", 133));
    assert_eq!(states[0].times.get("time"), Some(4711));
    assert_eq!(states[0].times.source(), format!("/{CPU}/cpu1/cpuidle/state2"));
}
