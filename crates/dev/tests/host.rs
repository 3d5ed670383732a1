//! Goal: the host is as it was before, however we end; the kernel does not answer for addresses that
//! are ours; what happens to an interface is told.
//! Method: interfaces in a namespace of its own, changed by this test binary, executed again and
//! killed. Where namespaces are not to be had, tests say SKIP and why.

mod again;

use again::{again, in_netns, role, unshare};
use linerate_core::pkt::{Batch, Pool};
use linerate_core::time::Instant;
use linerate_dev::journal::{Change, Journal, JournalError};
use linerate_dev::netdev::tc::Ignored;
use linerate_dev::netdev::{
    Event, Exposure, Feature, Netdev, PeerNetns, Watch, feature, set_feature,
};
use linerate_dev::packet::ring::{Config, RingSocket, open};
use linerate_dev::{Device, RxCx};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("linerate-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// All that a change of ours could have changed, as text to compare.
fn state() -> String {
    let mut netdev = Netdev::open().unwrap();
    let mut all = String::new();
    for name in ["near", "far"] {
        let link = netdev.link(name).unwrap();
        all += &format!("{name} {} {} {} ", link.up, link.mtu, link.txqueuelen);
        for which in [Feature::Tx, Feature::Sg, Feature::Tso, Feature::Gso, Feature::Gro] {
            all += &format!("{which:?} {} ", feature(name, which).unwrap());
        }
        all += &format!("hook {} ", netdev.has_ingress_hook(link.index).unwrap());
        for addr in ADDRS {
            all += &format!("{addr} {} ", netdev.has_addr(link.index, ip(addr)).unwrap());
        }
        all += &sh(&format!("tc filter show dev {name} ingress; tc qdisc show dev {name} clsact"));
    }
    all
}

const ADDRS: [&str; 2] = ["10.80.0.1", "fd80::1"];

fn changes() -> Vec<Change> {
    let near = || "near".to_owned();
    let mut all = vec![
        Change::LinkUp { ifname: near() },
        Change::Mtu { ifname: near(), mtu: 3000 },
        Change::TxQueueLen { ifname: near(), pkts: 77 },
        Change::Feature { ifname: near(), feature: Feature::Gro, on: true },
        Change::Feature { ifname: "far".to_owned(), feature: Feature::Tx, on: false },
        Change::Ignore { ifname: near(), addrs: ADDRS.map(ip).to_vec() },
    ];
    for (addr, prefix_len) in ADDRS.iter().zip([24, 64]) {
        all.push(Change::Address { ifname: near(), addr: ip(addr), prefix_len });
    }
    all
}

fn veth() {
    let mut netdev = Netdev::open().unwrap();
    netdev.add_veth("near", "far", PeerNetns::Same).unwrap();
    let near = netdev.link("near").unwrap().index;
    netdev.set_addr_gen_none(near).unwrap();
    // So that there is something to switch on.
    set_feature("near", Feature::Gro, false).unwrap();
}

/// Makes all changes and says so after each; then waits for its end.
fn be_killed(dir: &str) {
    let mut journal = Journal::open(Path::new(dir), "victim").unwrap();
    println!("@begun");
    for change in changes() {
        assert!(journal.change(&change).unwrap(), "{change:?}");
        println!("@changed");
    }
    println!("@done");
    io::stdin().read_line(&mut String::new()).unwrap();
}

fn victim(test: &str, dir: &Path) -> Child {
    again(Command::new("env"), test, &format!("victim {}", dir.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what the child says until a line ends with `word`, `times` times.
fn hear(child: &mut Child, word: &str, times: usize) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    for _ in 0..times {
        assert!(lines.any(|line| line.unwrap().ends_with(word)), "the child ended before {word}");
    }
}

#[test]
fn the_host_is_as_before_after_an_orderly_end_and_after_a_kill() {
    const TEST: &str = "the_host_is_as_before_after_an_orderly_end_and_after_a_kill";
    if let Some(dir) = role().strip_prefix("victim ") {
        return be_killed(dir);
    }
    if !in_netns(TEST) {
        return;
    }
    veth();
    let dir = Dir::new("journal");
    let before = state();
    let mut journal = Journal::open(&dir.0, "orderly").unwrap();
    for change in changes() {
        assert!(journal.change(&change).unwrap(), "{change:?}");
    }
    // What is so already is not ours.
    assert!(!journal.change(&changes()[0]).unwrap());
    let during = state();
    assert_ne!(before, during);
    assert!(during.contains("bpf"), "{during}");
    // It is held: nobody else undoes it or takes its name.
    assert_eq!(Journal::recover(&dir.0).unwrap(), []);
    let err = Journal::open(&dir.0, "orderly").unwrap_err();
    assert!(matches!(err, JournalError::InUse { .. }), "{err}");
    assert_eq!(state(), during);
    assert_eq!(journal.undo(), Vec::<String>::new());
    assert_eq!(state(), before);
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0);

    // Killed after each number of changes, and at moments of its own choice.
    for moment in 0..=changes().len() + 12 {
        let mut child = victim(TEST, &dir.0);
        hear(&mut child, "@begun", 1);
        match moment.checked_sub(changes().len() + 1) {
            None => hear(&mut child, "@changed", moment),
            Some(n) => std::thread::sleep(Duration::from_micros(400 * n as u64)),
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let err = Journal::open(&dir.0, "victim").map(drop);
        assert!(moment == 0 || moment > 6 || matches!(err, Err(JournalError::Left { .. })));
        let recovered = Journal::recover(&dir.0).unwrap();
        assert!(recovered.len() <= 1);
        assert_eq!(state(), before, "killed at {moment}: {recovered:?}");
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0);
    }
}

#[test]
fn what_others_changed_since_and_what_is_elsewhere_is_left_alone() {
    const TEST: &str = "what_others_changed_since_and_what_is_elsewhere_is_left_alone";
    if let Some(dir) = role().strip_prefix("victim ") {
        return be_killed(dir);
    }
    if role() == "elsewhere" {
        let dir = std::env::var("LINERATE_TEST_DIR").unwrap();
        let recovered = Journal::recover(Path::new(&dir)).unwrap();
        assert!(recovered[0].notes[0].contains("another network namespace"), "{recovered:?}");
        return;
    }
    if !in_netns(TEST) {
        return;
    }
    veth();
    let dir = Dir::new("others");
    let mut child = victim(TEST, &dir.0);
    hear(&mut child, "@done", 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let during = state();
    // In another namespace it is nobody's business.
    let status = again(unshare().expect("namespaces nest"), TEST, "elsewhere")
        .env("LINERATE_TEST_DIR", &dir.0)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(state(), during);
    // Somebody sets another MTU and has a filter of his own at the hook that we made.
    let mut netdev = Netdev::open().unwrap();
    let near = netdev.link("near").unwrap().index;
    netdev.set_mtu(near, 2000).unwrap();
    let theirs =
        Ignored { index: near, priority: 9, addrs: vec![ip("10.9.9.9")], made_hook: false };
    netdev.ignore(&theirs).unwrap();
    let recovered = Journal::recover(&dir.0).unwrap();
    let notes = recovered[0].notes.join("\n");
    assert!(notes.contains("the MTU was changed since"), "{notes}");
    let link = netdev.link_by_index(near).unwrap();
    assert_eq!((link.mtu, link.up), (2000, false));
    assert!(netdev.ignores(&theirs).unwrap() && netdev.has_ingress_hook(near).unwrap());
    assert!(!sh("tc filter show dev near ingress").contains("pref 1 "));
    // An interface that came again under the name is another one.
    let mut journal = Journal::open(&dir.0, "again").unwrap();
    assert!(journal.change(&Change::Mtu { ifname: "near".to_owned(), mtu: 4000 }).unwrap());
    netdev.del_link(near).unwrap();
    veth();
    let before = state();
    let notes = journal.undo();
    assert!(notes.len() == 1 && notes[0].contains("gone"), "{notes:?}");
    assert_eq!(state(), before);
}

/// Looks at a TCP port of an address that may be ours; whether somebody refused or accepted.
fn answered(addr: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&addr, Duration::from_secs(1)) {
        Ok(_) => true,
        Err(err) => err.kind() == io::ErrorKind::ConnectionRefused,
    }
}

/// Receives what waits; the numbers of IP packets by protocol.
fn seen(dev: &mut RingSocket, pool: &mut Pool) -> [usize; 256] {
    let mut by_proto = [0; 256];
    let quiet = std::time::Instant::now();
    while quiet.elapsed() < Duration::from_millis(20) {
        let (mut batch, mut dropped) = (Batch::new(), Vec::new());
        let mut cx = RxCx { pool, now: Instant::ZERO, dev: 0, dropped: &mut dropped };
        dev.rx_burst(&mut cx, &mut batch, 64).unwrap();
        for pkt in batch.now.drain(..) {
            match pkt.head().get(12..24) {
                Some(&[8, 0, .., proto]) => by_proto[usize::from(proto)] += 1,
                Some(&[0x86, 0xdd, _, _, _, _, _, _, next, ..]) => by_proto[usize::from(next)] += 1,
                _ => {}
            }
            cx.pool.free(pkt);
        }
    }
    by_proto
}

/// What the kernel of this namespace refused: RSTs, ICMP and ICMPv6 errors it sent.
fn refusals() -> [u64; 3] {
    let snmp = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let snmp6 = std::fs::read_to_string("/proc/net/snmp6").unwrap();
    let of = |group: &str, name: &str| {
        let mut rows = snmp.lines().filter(|line| line.starts_with(group));
        let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
        let at = names.split(' ').position(|n| n == name).unwrap();
        values.split(' ').nth(at).unwrap().parse().unwrap()
    };
    let six = snmp6.lines().find_map(|line| line.strip_prefix("Icmp6OutDestUnreachs"));
    [of("Tcp:", "OutRsts"), of("Icmp:", "OutDestUnreachs"), six.unwrap().trim().parse().unwrap()]
}

/// The client's part: a namespace with the far end of the wire.
fn be_client() {
    println!("@ready");
    let mut lines = io::stdin().lines().map(|l| l.unwrap());
    lines.next().unwrap();
    let mut netdev = Netdev::open().unwrap();
    let far = netdev.link("far").unwrap().index;
    netdev.set_addr_gen_none(far).unwrap();
    netdev.set_up(far, true).unwrap();
    netdev.add_addr(far, ip("10.80.0.2"), 24).unwrap();
    netdev.add_addr(far, ip("fd80::2"), 64).unwrap();
    println!("@up");
    for line in lines {
        let mut answers = Vec::new();
        for addr in ADDRS {
            let mac = line.trim().split(':').map(|b| u8::from_str_radix(b, 16).unwrap());
            let mac: Vec<u8> = mac.collect();
            netdev.add_neigh(far, ip(addr), mac.try_into().unwrap()).unwrap();
            let udp =
                UdpSocket::bind(if addr.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            udp.connect((addr, 9)).unwrap();
            udp.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            udp.send(b"anybody").unwrap();
            // A port-unreachable comes back as an error.
            let icmp =
                udp.recv(&mut [0; 8]).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            let rst = answered(SocketAddr::new(ip(addr), 7));
            answers.push(format!("{rst} {icmp}"));
        }
        println!("@answers {}", answers.join(" "));
    }
}

#[test]
fn the_kernel_does_not_answer_for_what_it_is_to_ignore() {
    const TEST: &str = "the_kernel_does_not_answer_for_what_it_is_to_ignore";
    if role() == "client" {
        return be_client();
    }
    if !in_netns(TEST) {
        return;
    }
    let mut child = again(unshare().expect("namespaces nest"), TEST, "client")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|l| l.unwrap());
    let mut hear = |word: &str| loop {
        let line = lines.next().expect("the client lives");
        if let Some(at) = line.find(word) {
            return line[at + word.len()..].trim().to_owned();
        }
    };
    hear("@ready");
    let mut netdev = Netdev::open().unwrap();
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
    netdev.add_veth("near", "far", PeerNetns::Fd(netns.as_fd())).unwrap();
    writeln!(stdin, "go").unwrap();
    hear("@up");
    let link = netdev.link("near").unwrap();
    netdev.set_addr_gen_none(link.index).unwrap();
    netdev.set_up(link.index, true).unwrap();
    while !netdev.link("near").unwrap().running {
        std::thread::yield_now();
    }
    let mac = link.mac.unwrap().map(|b| format!("{b:02x}")).join(":");
    let mut ask = |word: &str| {
        writeln!(stdin, "{mac}").unwrap();
        (word.to_owned(), hear("@answers"))
    };
    // Without addresses of its own the kernel is silent.
    for addr in ADDRS {
        assert_eq!(netdev.exposure("near", ip(addr)).unwrap(), Exposure::Foreign);
    }
    assert_eq!(ask("foreign"), ("foreign".into(), "false false false false".into()));
    // With them, it answers what nobody listens to with RST and ICMP.
    netdev.add_addr(link.index, ip(ADDRS[0]), 24).unwrap();
    netdev.add_addr(link.index, ip(ADDRS[1]), 64).unwrap();
    for addr in ADDRS {
        assert_eq!(netdev.exposure("near", ip(addr)).unwrap(), Exposure::Local, "{addr}");
    }
    // The route to an IPv6 address of one's own comes a moment later.
    while !sh("ip -6 route get fd80::1 from fd80::2 iif near").starts_with("local") {
        std::thread::yield_now();
    }
    assert_eq!(ask("its own"), ("its own".into(), "true true true true".into()));
    // With our filter it does not, and we see what comes all the same.
    let dir = Dir::new("ignore");
    let mut journal = Journal::open(&dir.0, "ignore").unwrap();
    let change = Change::Ignore { ifname: "near".to_owned(), addrs: ADDRS.map(ip).to_vec() };
    assert!(journal.change(&change).unwrap());
    let mut dev = open(Config::new("near")).unwrap().queues.remove(0);
    let mut pool = Pool::new(1024, 16);
    seen(&mut dev, &mut pool);
    let before = refusals();
    assert!(before.iter().sum::<u64>() >= 4, "{before:?}");
    assert_eq!(ask("ignored"), ("ignored".into(), "false false false false".into()));
    let got = seen(&mut dev, &mut pool);
    assert!(got[6] >= 2 && got[17] >= 2, "{} TCP, {} UDP", got[6], got[17]);
    assert_eq!(refusals(), before, "no RST and no ICMP error left");
    // Away with it, and all is as before.
    assert_eq!(journal.undo(), Vec::<String>::new());
    assert_eq!(ask("heeded"), ("heeded".into(), "true true true true".into()));
    assert!(!netdev.has_ingress_hook(link.index).unwrap());
    // A router would pass on what is ours.
    std::fs::write("/proc/sys/net/ipv4/conf/near/forwarding", "1").unwrap();
    assert_eq!(netdev.exposure("near", ip("10.80.0.77")).unwrap(), Exposure::Forwarded);
    assert_eq!(netdev.exposure("near", ip("fd80::77")).unwrap(), Exposure::Foreign);
    drop(stdin);
    child.wait().unwrap();
}

#[test]
fn changes_of_interfaces_are_told() {
    const TEST: &str = "changes_of_interfaces_are_told";
    if !in_netns(TEST) {
        return;
    }
    let mut watch = Watch::open().unwrap();
    let mut netdev = Netdev::open().unwrap();
    netdev.add_veth("near", "far", PeerNetns::Same).unwrap();
    let near = netdev.link("near").unwrap().index;
    let mut take = || {
        let mut events = Vec::new();
        watch.take(&mut events).unwrap();
        events.retain(|event| match event {
            Event::Link(link) => link.index == near,
            Event::Gone { index, .. } => *index == near,
            Event::Missed => true,
        });
        events
    };
    let last = |events: Vec<Event>| match events.last() {
        Some(Event::Link(link)) => (link.up, link.mtu),
        other => panic!("{other:?}"),
    };
    assert_eq!(last(take()), (false, 1500));
    netdev.set_up(near, true).unwrap();
    assert_eq!(last(take()), (true, 1500));
    netdev.set_mtu(near, 9000).unwrap();
    assert_eq!(last(take()), (true, 9000));
    netdev.set_up(near, false).unwrap();
    assert_eq!(last(take()), (false, 9000));
    assert_eq!(take(), []);
    netdev.del_link(near).unwrap();
    assert_eq!(take().last(), Some(&Event::Gone { index: near, name: "near".to_owned() }));
    // More than the socket holds: it says so instead of forgetting.
    netdev.add_veth("near", "far", PeerNetns::Same).unwrap();
    let near = netdev.link("near").unwrap().index;
    for round in 0..3000 {
        netdev.set_mtu(near, 1500 + round % 2).unwrap();
    }
    let mut events = Vec::new();
    watch.take(&mut events).unwrap();
    assert!(events.contains(&Event::Missed));
}

#[test]
fn what_has_to_be_known_is_known() {
    const TEST: &str = "what_has_to_be_known_is_known";
    if !in_netns(TEST) {
        return;
    }
    veth();
    let mut netdev = Netdev::open().unwrap();
    let info = netdev.info("near").unwrap();
    assert_eq!(info.link, netdev.link("near").unwrap());
    assert_eq!(info.driver.as_deref(), Some("veth"));
    assert!(info.rx_queues >= 1 && info.tx_queues >= 1);
    // A veth lies nowhere.
    assert_eq!((info.numa_node, info.local_cpus), (None, vec![]));
    assert!(netdev.info("nothing").is_err());
}
