//! Goal: this host is read as its own tools show it, another network namespace is read as itself and
//! not as ours, and a right that is missing is a note.
//! Method: a namespace with devices that we name, its files beside ours.
//!
//! Where namespaces or `ip` are not to be had, tests say SKIP and why.

#[path = "../../dev/tests/again/mod.rs"]
mod again;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use again::{in_netns, powerless, root_of_host, skip};
use linerate_host::Snapshot;
use linerate_host::collect::{Collector, Tier};
use linerate_host::source::{Live, Source};

/// A shell in a network namespace of its own.
struct There {
    shell: Child,
    says: BufReader<ChildStdout>,
}

impl There {
    fn new() -> There {
        let mut shell = Command::new("unshare")
            .args(["-n", "sh", "-e"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(shell.stdout.take().unwrap());
        There { shell, says }
    }

    /// Runs this there; it is done when this returns.
    fn run(&mut self, command: &str) {
        let shell = self.shell.stdin.as_mut().unwrap();
        writeln!(shell, "{command}\necho done").unwrap();
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{command}");
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.shell.id()))
    }
}

impl Drop for There {
    fn drop(&mut self) {
        _ = self.shell.kill();
        _ = self.shell.wait();
    }
}

fn full(live: &mut Live) -> Snapshot {
    Collector::new(Tier::Full).collect(live)
}

/// Whether `ip` is here and this is a namespace in which we may do as we like.
fn may(test: &str) -> bool {
    if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
        skip(test, "ip is not installed");
        return false;
    }
    root_of_host(test) && in_netns(test)
}

#[test]
fn another_namespace_is_read_as_itself() {
    const TEST: &str = "another_namespace_is_read_as_itself";
    if !may(TEST) {
        return;
    }
    let mut there = There::new();
    there.run("ip link add there0 numrxqueues 2 numtxqueues 2 type veth peer name there1");
    there.run("ip link set there0 up; ip link set there1 up mtu 1400; ip link set lo up");
    there.run("echo 60 > /proc/sys/net/ipv4/ipfrag_time");
    there.run("echo 2 > /proc/sys/net/ipv4/conf/there0/rp_filter");
    let mut live = Live::in_netns(&there.path()).unwrap();
    let s = full(&mut live);
    let names: Vec<&str> = s.devs.keys().map(String::as_str).collect();
    assert_eq!(names, ["lo", "there0", "there1"]);
    assert_eq!(s.devs["there1"].mtu, 1400);
    assert_eq!(s.sysctl("net.ipv4.ipfrag_time"), Some(60));
    assert_eq!(s.sysctl("net.ipv4.conf.there0.rp_filter"), Some(2));
    assert_eq!(s.host.is_init_netns, Some(false));
    // What is of sysfs alone is that namespace's as well.
    let dev = &s.devs["there0"];
    assert_eq!((dev.rx.len(), dev.tx.len()), (2, 2), "{:?}", s.notes);
    assert_eq!(dev.settings.get("threaded"), Some(0));
    assert!(dev.tx[0].xps_cpus.is_some());
    // It is not ours.
    let ours = full(&mut Live::new());
    assert_ne!(s.host.netns, ours.host.netns);
    assert!(ours.devs.keys().all(|name| name == "lo"), "{:?}", ours.devs.keys());
    assert_ne!(ours.sysctl("net.ipv4.ipfrag_time"), Some(60));
    // What happens there is seen with files that were open before.
    let before = s.mib("Icmp", "OutEchoReps");
    assert!(before.is_some());
    there.run("echo 45 > /proc/sys/net/ipv4/ipfrag_time; ip link set there1 mtu 1300");
    let s = full(&mut live);
    assert_eq!((s.sysctl("net.ipv4.ipfrag_time"), s.devs["there1"].mtu), (Some(45), 1300));
    // A device that went, and another one that came by its name.
    there.run("ip link del there0; ip link add there0 type bridge; ip link set there0 mtu 1234");
    let s = full(&mut live);
    let names: Vec<&str> = s.devs.keys().map(String::as_str).collect();
    assert_eq!((names, s.devs["there0"].mtu), (vec!["lo", "there0"], 1234));
    assert_eq!(
        s.sysctl("net.ipv4.conf.there0.rp_filter"),
        s.sysctl("net.ipv4.conf.default.rp_filter")
    );
    assert_eq!(s.devs["there0"].rx.len(), 1);
}

/// Who is in a namespace of its own still has the sysfs of another one mounted.
#[test]
fn sysfs_is_that_of_the_namespace_that_we_are_in() {
    const TEST: &str = "sysfs_is_that_of_the_namespace_that_we_are_in";
    if !may(TEST) {
        return;
    }
    let made = Command::new("ip")
        .args("link add va numrxqueues 3 numtxqueues 3 type veth peer name vb".split(' '))
        .status();
    assert!(made.unwrap().success());
    assert!(!std::path::Path::new("/sys/class/net/va").exists(), "it is of another namespace");
    let dev = &full(&mut Live::new()).devs["va"];
    assert_eq!((dev.rx.len(), dev.tx.len()), (3, 3));
    assert_eq!(dev.settings.get("threaded"), Some(0));
}

#[test]
fn what_is_written_there_is_written_there() {
    const TEST: &str = "what_is_written_there_is_written_there";
    if !may(TEST) {
        return;
    }
    let mut there = There::new();
    there.run("ip link add there0 type veth peer name there1");
    let mut live = Live::in_netns(&there.path()).unwrap();
    live.write("proc/sys/net/ipv4/tcp_retries2", b"9\n").unwrap();
    live.write("sys/class/net/there0/tx_queue_len", b"77\n").unwrap();
    there.run("[ $(cat /proc/sys/net/ipv4/tcp_retries2) = 9 ]");
    assert_eq!(full(&mut live).devs["there0"].txqueuelen, 77);
    assert_ne!(full(&mut Live::new()).sysctl("net.ipv4.tcp_retries2"), Some(9));
    // What is not offered is not made.
    assert!(live.write("proc/sys/net/ipv4/no_such_thing", b"1").is_err());
    assert!(live.write("sys/class/net/there9/mtu", b"1").is_err());
}

#[test]
fn counters_move_with_what_happens() {
    const TEST: &str = "counters_move_with_what_happens";
    if !may(TEST) {
        return;
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let (mut live, mut collector) = (Live::new(), Collector::new(Tier::Basic));
    let before = collector.collect(&mut live);
    let from = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..50 {
        from.send_to(b"x", to.local_addr().unwrap()).unwrap();
        to.recv(&mut [0; 8]).unwrap();
    }
    let after = collector.collect(&mut live);
    let moved =
        |section: &str, name: &str| after.mib[section].grown(&before.mib[section], name).unwrap();
    assert_eq!(moved("Udp", "InDatagrams"), 50);
    assert_eq!(moved("Udp", "OutDatagrams"), 50);
    assert_eq!(moved("Ip", "InReceives"), 50);
    assert_eq!(after.devs["lo"].stats.grown(&before.devs["lo"].stats, "rx_packets"), Some(50));
    let processed =
        |s: &Snapshot| s.softnet.values().filter_map(|c| c.get("processed")).sum::<u64>();
    // Modulo 2^32, for those may have wrapped.
    assert!(processed(&after).wrapping_sub(processed(&before)) as u32 >= 50);
    assert!(after.monotonic_ns > before.monotonic_ns);
}

#[test]
fn without_rights_there_are_notes_and_the_rest() {
    const TEST: &str = "without_rights_there_are_notes_and_the_rest";
    powerless(TEST, || {
        let mut live = Live::new();
        let s = full(&mut live);
        assert!(s.mib("Ip", "InReceives").is_some() && s.devs.contains_key("lo"));
        assert!(!s.softnet.is_empty() && s.sysctl("net.core.somaxconn").is_some());
        // Some sysctls are root's.
        assert!(live.read("proc/sys/net/core/bpf_jit_harden").is_err());
        assert!(Live::in_netns("/proc/1/ns/net".as_ref()).is_err());
        assert!(live.write("proc/sys/net/ipv4/tcp_retries2", b"15").is_err());
        assert!(s.notes.iter().all(|n| !n.what.is_empty() && !n.why.is_empty()));
    });
}
