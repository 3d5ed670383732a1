//! Goal: what is read by netlink and ioctl is what `ip`, `tc`, `ss` and `ethtool` show of the same
//! kernel, and what is changed is changed.
//! Method: a network namespace of its own with a veth pair, a shaper, sockets and traffic; both
//! readings of it are compared field by field.
//!
//! Where namespaces or those programs are not to be had, tests say SKIP and why.

#[path = "../../dev/tests/again/mod.rs"]
mod again;
#[path = "netlink/rig.rs"]
mod rig;

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream, UdpSocket};

use again::{in_netns, skip};
use linerate_host::Snapshot;
use linerate_host::change::Change;
use linerate_host::netlink;
use linerate_host::source::Source as _;
use rig::{Host, full, has, json, run, veth};

#[test]
fn links_are_what_ip_shows() {
    const TEST: &str = "links_are_what_ip_shows";
    if !has(TEST, &["ip"]) || !in_netns(TEST) {
        return;
    }
    veth();
    let out = UdpSocket::bind("10.77.0.1:0").unwrap();
    // What is sent before the kernel has noticed the carrier goes nowhere.
    while full().devs["vb"].stats.get("rx_packets") == Some(0) {
        out.send_to(b"traffic", "10.77.0.9:9").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    run("ip link add br0 type bridge");
    run("ip link set va master br0 mtu 1400 txqueuelen 77 promisc on");
    // IPv6 goes on asking for routers meanwhile.
    let shown = json("ip -j -s -s -d link");
    let s = full();
    let later = json("ip -j -s -s -d link");
    let (shown, later) = (shown.as_array().unwrap(), later.as_array().unwrap());
    assert_eq!(s.devs.len(), shown.len());
    for (link, later) in shown.iter().zip(later) {
        let dev = &s.devs[link["ifname"].as_str().unwrap()];
        assert_eq!(u64::from(dev.ifindex), link["ifindex"]);
        assert_eq!(u64::from(dev.mtu), link["mtu"]);
        assert_eq!(Some(u64::from(dev.txqueuelen)), link["txqlen"].as_u64().or(Some(0)));
        assert_eq!(dev.operstate.to_uppercase(), link["operstate"]);
        assert_eq!(u64::from(dev.promiscuity), link["promiscuity"]);
        assert_eq!(dev.master.as_deref(), link["master"].as_str());
        assert_eq!(dev.kind, link["linkinfo"]["info_kind"].as_str().unwrap_or_default());
        for name in ["gso_max_size", "gso_max_segs"] {
            assert_eq!(dev.settings.get(name), link[name].as_u64(), "{name}");
        }
        let flags: Vec<&str> =
            link["flags"].as_array().unwrap().iter().filter_map(|f| f.as_str()).collect();
        // ip says NO-CARRIER for UP without RUNNING, and hides RUNNING.
        for flag in dev.flags.iter().filter(|f| *f != "RUNNING") {
            assert!(flags.contains(&flag.as_str()), "{flag} in {flags:?}");
        }
        for (ours, side, theirs) in [
            ("rx_packets", "rx", "packets"),
            ("rx_bytes", "rx", "bytes"),
            ("rx_dropped", "rx", "dropped"),
            ("rx_errors", "rx", "errors"),
            ("multicast", "rx", "multicast"),
            ("rx_crc_errors", "rx", "crc_errors"),
            ("rx_missed_errors", "rx", "missed_errors"),
            ("tx_packets", "tx", "packets"),
            ("tx_bytes", "tx", "bytes"),
            ("tx_dropped", "tx", "dropped"),
            ("tx_carrier_errors", "tx", "carrier_errors"),
        ] {
            let of = |link: &serde_json::Value| link["stats64"][side][theirs].as_u64().unwrap();
            let (from, to) = (of(link), of(later));
            let is = dev.stats.get(ours).unwrap();
            assert!((from..=to).contains(&is), "{ours} of {}: {from} {is} {to}", dev.name);
        }
    }
    let (va, vb) = (&s.devs["va"], &s.devs["vb"]);
    assert_eq!(va.link, Some(vb.ifindex));
    assert!(vb.stats.get("rx_packets").unwrap() > 0, "there was traffic");
    assert!(va.carrier.get("carrier_changes").is_some());
}

#[test]
fn qdiscs_are_what_tc_shows() {
    const TEST: &str = "qdiscs_are_what_tc_shows";
    if !has(TEST, &["ip", "tc"]) || !in_netns(TEST) {
        return;
    }
    veth();
    run("tc qdisc add dev va root handle 8: tbf rate 8mbit burst 16k limit 30k");
    run("tc qdisc add dev va parent 8:1 handle 9: pfifo limit 10");
    run("tc qdisc add dev vb root handle 7: htb default 3");
    run("tc qdisc add dev vb ingress");
    // More than the child holds is dropped; nothing is sent once the burst is used up.
    let out = UdpSocket::bind("10.77.0.1:0").unwrap();
    for _ in 0..200 {
        out.send_to(&[7; 1400], "10.77.0.9:9").unwrap();
    }
    let before = json("tc -s -j qdisc");
    let s = full();
    let after = json("tc -s -j qdisc");
    let of = |dev: &str, kind: &str| {
        s.devs[dev].qdiscs.iter().find(|q| q.kind == kind).unwrap_or_else(|| panic!("{kind}"))
    };
    let (before, after) = (before.as_array().unwrap(), after.as_array().unwrap());
    assert!(before.len() >= 4);
    for (q, later) in before.iter().zip(after) {
        let ours = of(q["dev"].as_str().unwrap(), q["kind"].as_str().unwrap());
        assert_eq!(ours.handle, q["handle"]);
        let parent = q["parent"].as_str().map_or("root".to_string(), str::to_string);
        assert!(ours.parent == parent || ours.parent == "ingress", "{} {parent}", ours.parent);
        for name in ["drops", "overlimits", "requeues"] {
            // The shaper goes on meanwhile.
            let (from, to) = (q[name].as_u64().unwrap(), later[name].as_u64().unwrap());
            let between = (from..=to).contains(&ours.stats.get(name).unwrap());
            assert!(between, "{name} of {} {:?}: {from} to {to}", ours.kind, ours.stats);
        }
    }
    let (tbf, pfifo) = (of("va", "tbf"), of("va", "pfifo"));
    assert!(pfifo.stats.get("drops").unwrap() > 0, "{pfifo:?}");
    assert_eq!(pfifo.parent, "8:1");
    assert_eq!(pfifo.options.get("limit"), Some(10));
    assert_eq!(tbf.options.get("rate_bps"), Some(1_000_000));
    let burst = tbf.options.get("burst").unwrap();
    assert!((16_300..=16_384).contains(&burst), "{burst} B: a burst is kept as ticks of 64 ns");
    assert_eq!(of("vb", "htb").options.get("default"), Some(3));
    assert_eq!(of("vb", "ingress").parent, "ingress");
}

#[test]
fn sockets_are_what_ss_shows() {
    const TEST: &str = "sockets_are_what_ss_shows";
    if !has(TEST, &["ip", "ss"]) || !in_netns(TEST) {
        return;
    }
    veth();
    let listener = TcpListener::bind("10.77.0.1:7001").unwrap();
    let at = listener.local_addr().unwrap();
    let client = TcpStream::connect(at).unwrap();
    let server = listener.accept().unwrap().0;
    let _waits = TcpStream::connect(at).unwrap();
    let v6 = TcpListener::bind("[::1]:7002").unwrap();
    let udp = UdpSocket::bind("10.77.0.1:7003").unwrap();
    let to = UdpSocket::bind("10.77.0.1:0").unwrap();
    to.connect(udp.local_addr().unwrap()).unwrap();
    for _ in 0..2000 {
        to.send(&[1; 500]).unwrap();
    }
    std::io::Write::write_all(&mut &client, &[5; 1000]).unwrap();
    let s = full();
    let sockets = &s.sockets;
    let me = std::process::id();

    let l = sockets.listeners.iter().find(|l| l.local == at).unwrap();
    assert_eq!((l.waiting, l.drops), (1, 0));
    let shown = run("ss -Hltn sport = 7001");
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!([words[1], words[2]], [l.waiting.to_string(), l.backlog.to_string()]);
    assert_eq!(l.owner.process.as_ref().map(|p| p.0), Some(me), "{:?}", l.owner);
    assert!(sockets.listeners.iter().any(|l| l.local == v6.local_addr().unwrap()));

    let u = sockets.udp.iter().find(|u| u.local == udp.local_addr().unwrap()).unwrap();
    let shown = run("ss -Huanm sport = 7003");
    let skmem = skmem(&shown);
    assert!(u.drops > 0, "2000 x 500 B are more than a buffer holds");
    assert_eq!(u64::from(u.drops), skmem["d"]);
    assert_eq!(u64::from(u.rmem), skmem["r"]);
    assert_eq!(u64::from(u.rcvbuf), skmem["rb"]);
    assert_eq!(u64::from(u.sndbuf), skmem["tb"]);
    assert_eq!(u.remote, None);
    let connected = sockets.udp.iter().find(|u| u.local == to.local_addr().unwrap()).unwrap();
    assert_eq!(connected.remote, Some(udp.local_addr().unwrap()));

    assert_eq!(sockets.tcp_states.get("ESTABLISHED"), Some(4));
    let end = sockets.tcp.iter().find(|t| t.local == server.peer_addr().unwrap()).unwrap();
    assert_eq!((end.remote, end.state.as_str()), (at, "ESTABLISHED"));
    let shown = run(&format!("ss -Htinm sport = {}", end.local.port()));
    let value = |name: &str| {
        let from = shown.split_once(name).unwrap_or_else(|| panic!("{name} in {shown}")).1;
        from.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().ok()
    };
    assert_eq!(end.info.get("snd_cwnd"), value("cwnd:"));
    assert_eq!(end.info.get("snd_mss"), value(" mss:"));
    assert_eq!(end.info.get("pmtu"), value("pmtu:"));
    assert_eq!(end.info.get("bytes_sent"), value("bytes_sent:"));
    assert_eq!(end.info.get("bytes_sent"), Some(1000));
    assert_eq!(end.info.get("snd_wnd"), value("snd_wnd:"));
    assert_eq!(end.info.get("rcv_space"), value("rcv_space:"));
    assert!(shown.contains(&end.cong) && !end.cong.is_empty(), "{}", end.cong);
    let start = sockets.tcp.iter().find(|t| t.remote == server.peer_addr().unwrap()).unwrap();
    assert_eq!(start.recv_q, 1000);
    assert_eq!(start.owner.process.as_ref().map(|p| p.0), Some(me));

    let most = sockets.port_use.first().unwrap();
    assert_eq!((most.remote, most.ports, most.time_wait), (at, 2, 0));
}

fn skmem(shown: &str) -> BTreeMap<String, u64> {
    let inside = shown.split_once("skmem:(").unwrap().1.split_once(')').unwrap().0;
    let pair = |word: &str| {
        let at = word.find(|c: char| c.is_ascii_digit()).unwrap();
        (word[..at].to_string(), word[at..].parse().unwrap())
    };
    inside.split(',').map(pair).collect()
}

#[test]
fn ten_thousand_sockets_are_a_summary_and_the_worst_of_them() {
    const TEST: &str = "ten_thousand_sockets_are_a_summary_and_the_worst_of_them";
    if !has(TEST, &["ip"]) || !in_netns(TEST) {
        return;
    }
    veth();
    let wanted = 10_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let room = limit.maximum.unwrap_or(u64::MAX).saturating_sub(100);
    let pairs = (wanted / 2).min(room / 2);
    if pairs < 1000 {
        return skip(TEST, "RLIMIT_NOFILE is below 2100");
    }
    let up = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, up).unwrap();
    let listener = TcpListener::bind("10.77.0.1:7001").unwrap();
    let at = listener.local_addr().unwrap();
    let mut open = Vec::new();
    for _ in 0..pairs {
        open.push(TcpStream::connect(at).unwrap());
        open.push(listener.accept().unwrap().0);
    }
    std::io::Write::write_all(&mut &open[0], b"nobody reads this").unwrap();
    let mut host = Host::default();
    let brief = host.read("netlink/sock_diag/tcp").unwrap();
    let each = brief.len() as u64 / (pairs * 2);
    assert!((72..200).contains(&each), "{each} bytes for each socket are no brief answer");
    let mut s = Snapshot::default();
    netlink::collect(&mut host, linerate_host::collect::Tier::Full, &mut s);
    assert_eq!(s.sockets.tcp_states.get("ESTABLISHED"), Some(pairs * 2));
    let most = s.sockets.port_use.first().unwrap();
    assert_eq!((most.remote, u64::from(most.ports)), (at, pairs));
    // One socket has something to say, and only that is asked again.
    assert_eq!(s.sockets.tcp.len(), 1, "{:?}", s.sockets.tcp);
    assert_eq!(s.sockets.tcp[0].recv_q, 17);
    assert!(s.sockets.tcp[0].info.get("rcv_space").is_some());
}

#[test]
fn drivers_are_what_ethtool_shows() {
    const TEST: &str = "drivers_are_what_ethtool_shows";
    if !has(TEST, &["ip", "ethtool"]) || !in_netns(TEST) {
        return;
    }
    veth();
    run("ethtool -K vb gro on");
    run("ethtool -K va tso off");
    let s = full();
    for name in ["va", "vb", "lo"] {
        let dev = &s.devs[name];
        let shown = json(&format!("ethtool --json -k {name}"));
        let shown = shown[0].as_object().unwrap();
        let mut seen = 0;
        for (feature, state) in shown.iter().filter(|(k, _)| *k != "ifname") {
            let ours = dev.features.get(feature).unwrap_or_else(|| panic!("{feature} of {name}"));
            let Some(active) = state["active"].as_bool() else { continue };
            assert_eq!(ours.on, active, "{feature} of {name}");
            // Of a group that is on in parts ethtool does not say whether it is fixed.
            if let (Some(fixed), false) = (state["fixed"].as_bool(), active) {
                assert_eq!(ours.fixed, fixed, "{feature} of {name}");
            }
            seen += 1;
        }
        assert!(seen > 40, "{seen} features");
    }
    assert!(s.devs["vb"].features["rx-gro"].on);
    assert!(!s.devs["va"].features["tcp-segmentation-offload"].on);
    let va = &s.devs["va"];
    assert_eq!(va.driver, "veth");
    for line in run("ethtool -S va").lines().skip(1) {
        let (name, value) = line.trim().rsplit_once(": ").unwrap();
        assert_eq!(va.driver_stats.get(name), value.parse().ok(), "{name}");
    }
    assert!(va.driver_stats.len() > 4);
    for (ours, (max, now)) in [("rx", channels("va", "RX:")), ("tx", channels("va", "TX:"))] {
        assert_eq!(va.channels.get(ours), now, "{ours}");
        assert_eq!(va.channels.get(&format!("{ours}-max")), max, "{ours}");
    }
    assert_eq!(va.channels.get("rx-max"), Some(4));
    assert!(va.rings.is_empty(), "veth has no rings");
    assert!(s.devs["lo"].driver_stats.is_empty());
    // What a driver has not is no note; that this kernel lacks a family would be.
    assert!(
        !s.notes.iter().any(|n| n.what.contains("veth") || n.what.contains("RINGS")),
        "{:?}",
        s.notes
    );
    if !s.notes.iter().any(|n| n.what == "netlink/netdev") {
        assert!(!s.devs["vb"].napis.is_empty(), "GRO of a veth is NAPI");
    }
}

/// What `ethtool -l` shows on lines of this name: at most, and now.
fn channels(dev: &str, line: &str) -> (Option<u64>, Option<u64>) {
    let shown = run(&format!("ethtool -l {dev}"));
    let mut of = shown.lines().filter_map(|l| l.strip_prefix(line)).map(|v| v.trim().parse().ok());
    (of.next().unwrap(), of.next().unwrap())
}

/// An old kernel answers ioctls only; what both say is the same.
#[test]
fn without_the_family_ioctls_say_the_same() {
    const TEST: &str = "without_the_family_ioctls_say_the_same";
    if !has(TEST, &["ip", "ethtool"]) || !in_netns(TEST) {
        return;
    }
    veth();
    run("ethtool -K vb gro on");
    let by_netlink = full();
    let mut old = Snapshot::default();
    netlink::collect(&mut rig::Old::default(), linerate_host::collect::Tier::Full, &mut old);
    assert!(old.notes.iter().any(|n| n.what.starts_with("netlink/ethtool")));
    assert!(old.notes.iter().any(|n| n.what == "netlink/netdev"));
    for (name, dev) in &by_netlink.devs {
        let other = &old.devs[name];
        assert_eq!(dev.features, other.features, "{name}");
        for what in ["rx", "tx", "rx-max", "tx-max", "combined"] {
            // Of what a driver has none at all, netlink does not speak.
            let one = dev.channels.get(what).unwrap_or(0);
            assert_eq!(one, other.channels.get(what).unwrap_or(0), "{what} of {name}");
        }
        assert_eq!(dev.coalesce.get("rx-usecs"), other.coalesce.get("rx-usecs"));
    }
}

#[test]
fn neighbours_and_routes_that_drop_are_what_ip_shows() {
    const TEST: &str = "neighbours_and_routes_that_drop_are_what_ip_shows";
    if !has(TEST, &["ip"]) || !in_netns(TEST) {
        return;
    }
    veth();
    run("ip route add blackhole 10.9.0.0/16");
    run("ip route add unreachable 10.8.0.0/16");
    run("ip route add prohibit 10.7.0.0/16 table 77");
    run("ip neigh add 10.77.0.10 dev va nud failed");
    run("ip neigh add 10.77.0.11 lladdr 02:00:00:00:00:0b dev va nud stale");
    let s = full();
    let is =
        [("10.7.0.0/16", "prohibit"), ("10.8.0.0/16", "unreachable"), ("10.9.0.0/16", "blackhole")];
    let mut bad = s.bad_routes.clone();
    bad.retain(|(to, _)| to.starts_with("10."));
    bad.sort();
    assert_eq!(bad, is.map(|(a, b)| (a.to_string(), b.to_string())));
    let shown = json("ip -j -4 neigh");
    for state in ["FAILED", "STALE", "PERMANENT", "REACHABLE"] {
        let is = shown.as_array().unwrap().iter().filter(|n| n["state"][0] == state).count();
        assert_eq!(s.neigh_states["inet"].get(state), Some(is as u64), "{state}");
    }
    assert_eq!(s.neigh_states["inet"].get("FAILED"), Some(1));
}

#[test]
fn a_tap_tells_why_packets_are_dropped_and_leaves_nothing_behind() {
    const TEST: &str = "a_tap_tells_why_packets_are_dropped_and_leaves_nothing_behind";
    if !has(TEST, &["ip"]) || !in_netns(TEST) {
        return;
    }
    veth();
    let mut tap = match linerate_host::tracefs::KfreeSkb::begin() {
        Ok(tap) => tap,
        Err(e) => return skip(TEST, &format!("no tracing here: {e}")),
    };
    let out = UdpSocket::bind("10.77.0.1:0").unwrap();
    let mut told = 0;
    // Others may drop so much meanwhile that ours are overwritten before they are read.
    for _ in 0..100 {
        for _ in 0..7 {
            // Nobody listens; the answer to one makes the next call fail.
            let _ = out.send_to(b"x", "10.77.0.1:9");
        }
        let mut s = Snapshot::default();
        linerate_host::tracefs::drops(&tap.read().unwrap(), &mut s);
        let drops = s.drops.unwrap();
        let mine = drops.by.iter().find(|(name, _)| name.starts_with("NO_SOCKET@__udp4_lib_rcv"));
        let now = mine.map_or(0, |(_, count)| count);
        assert!(now >= told, "it goes on from where it was: {drops:?}");
        told = now;
        if told >= 14 {
            break;
        }
    }
    assert!(told >= 14, "{told}");
    let ours = rig::instances();
    assert!(ours.iter().any(|n| n.contains(&format!("-{}-", std::process::id()))), "{ours:?}");
    drop(tap);
    let left = rig::instances();
    assert!(!left.iter().any(|n| n.contains(&format!("-{}-", std::process::id()))), "{left:?}");
}

#[test]
fn what_a_killed_process_left_the_next_tap_removes() {
    const TEST: &str = "what_a_killed_process_left_the_next_tap_removes";
    if again::role() == "killed" {
        let _tap = linerate_host::tracefs::KfreeSkb::begin().unwrap();
        println!("\n@tapped");
        std::thread::sleep(std::time::Duration::from_secs(600));
        return;
    }
    if let Err(e) = linerate_host::tracefs::KfreeSkb::begin() {
        return skip(TEST, &format!("no tracing here: {e}"));
    }
    let command = std::process::Command::new("env");
    let mut child =
        again::again(command, TEST, "killed").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|l| l.unwrap() == "@tapped"));
    let name = format!("-{}-", child.id());
    let has = |name: &str| rig::instances().iter().any(|n| n.contains(name));
    let living = linerate_host::tracefs::KfreeSkb::begin().unwrap();
    assert!(has(&name), "a tap that lives is left alone");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(living);
    drop(linerate_host::tracefs::KfreeSkb::begin().unwrap());
    assert!(!has(&name));
}

fn ethtool(option: char, dev: &str, set: &[(&str, &str)]) -> Change {
    let set = set.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    Change::Ethtool { option, dev: dev.into(), set }
}

fn qdisc(spec: &str) -> Change {
    Change::Qdisc { dev: "va".into(), spec: spec.into() }
}

/// Applies it, sees it read back, and puts back what was there.
fn there_and_back(new: &Change) {
    let old = netlink::read_back(new).unwrap();
    assert!(!old.same(new), "{old} is no change");
    netlink::apply(new).unwrap();
    let now = netlink::read_back(new).unwrap();
    assert!(now.same(new), "{now} is not {new}");
    netlink::apply(&old).unwrap();
    let now = netlink::read_back(&old).unwrap();
    assert!(now.same(&old), "{now} is not {old}");
}

#[test]
fn changes_are_made_and_undone() {
    const TEST: &str = "changes_are_made_and_undone";
    if !has(TEST, &["ip", "tc", "ethtool"]) || !in_netns(TEST) {
        return;
    }
    veth();
    let link = |name: &str, value: &str| Change::Link {
        dev: "va".into(),
        name: name.into(),
        value: value.into(),
    };
    for (name, value) in [("mtu", "1400"), ("txqueuelen", "77"), ("gso_max_size", "32768")] {
        there_and_back(&link(name, value));
        netlink::apply(&link(name, value)).unwrap();
    }
    let shown = json("ip -j -d link show va");
    assert_eq!((&shown[0]["mtu"], &shown[0]["txqlen"]), (&1400.into(), &77.into()));
    assert_eq!(shown[0]["gso_max_size"], 32_768);

    there_and_back(&ethtool('K', "va", &[("gro", "on")]));
    there_and_back(&ethtool('K', "va", &[("tso", "off"), ("gso", "off")]));
    there_and_back(&ethtool('L', "va", &[("rx", "2"), ("tx", "3")]));
    netlink::apply(&ethtool('L', "va", &[("rx", "2")])).unwrap();
    assert_eq!(channels("va", "RX:"), (Some(4), Some(2)));
    netlink::apply(&ethtool('K', "va", &[("tx-udp-segmentation", "off")])).unwrap();
    assert_eq!(json("ethtool --json -k va")[0]["tx-udp-segmentation"]["active"], false);

    let sysctl =
        |name: &str, value: &str| Change::Sysctl { name: name.into(), value: value.into() };
    there_and_back(&sysctl("net.ipv4.tcp_rmem", "4096 65536 1048576"));
    there_and_back(&sysctl("net.ipv4.conf.va.rp_filter", "2"));

    there_and_back(&qdisc("root pfifo limit 50"));
    there_and_back(&qdisc("root handle 5: tbf rate 20mbit burst 16k limit 30kb"));
    netlink::apply(&qdisc("root handle 5: tbf rate 20mbit burst 16k limit 30kb")).unwrap();
    let shown = run("tc qdisc show dev va");
    assert!(shown.contains("tbf 5: root") && shown.contains("rate 20Mbit"), "{shown}");
    // What replaces it can be undone to the same shaper.
    there_and_back(&qdisc("root pfifo limit 50"));
    let shown = run("tc qdisc show dev va");
    assert!(shown.contains("tbf 5: root") && shown.contains("rate 20Mbit"), "{shown}");
    assert!(shown.contains("burst 16Kb") || shown.contains("burst 163"), "{shown}");
    netlink::apply(&qdisc("root default")).unwrap();
    assert!(run("tc qdisc show dev va").contains("noqueue"));
    netlink::apply(&qdisc("root default")).unwrap();
}

#[test]
fn what_can_not_be_done_is_said_and_not_done() {
    const TEST: &str = "what_can_not_be_done_is_said_and_not_done";
    if !has(TEST, &["ip", "tc"]) || !in_netns(TEST) {
        return;
    }
    veth();
    let refused = |change: &Change| netlink::apply(change).unwrap_err();
    let rings = refused(&ethtool('G', "va", &[("rx", "512")]));
    assert_eq!(rings.errno(), Some(libc::EOPNOTSUPP), "{rings}");
    assert!(rings.to_string().starts_with("ethtool -G va rx 512"), "{rings}");
    let many = refused(&ethtool('L', "va", &[("rx", "99")]));
    assert_eq!(many.errno(), Some(libc::EINVAL));
    assert!(many.to_string().contains("maximum"), "the kernel's own sentence: {many}");
    let gone = refused(&ethtool('K', "none0", &[("gro", "on")]));
    assert_eq!(gone.errno(), Some(libc::ENODEV), "{gone}");
    let mtu = Change::Link { dev: "va".into(), name: "mtu".into(), value: "9999999".into() };
    assert_eq!(refused(&mtu).errno(), Some(libc::EINVAL));
    let fixed = refused(&ethtool('K', "va", &[("rx-vlan-filter", "on")]));
    assert_eq!(fixed.source.kind(), std::io::ErrorKind::Unsupported, "{fixed}");
    // Host-wide: not in this namespace.
    let backlog =
        Change::Sysctl { name: "net.core.netdev_max_backlog".into(), value: "2000".into() };
    assert_eq!(netlink::read_back(&backlog).unwrap_err().errno(), Some(libc::ENOENT));

    // A shaper with somebody's queue below it: its parameters may change, itself must stay.
    run("tc qdisc add dev va root handle 8: tbf rate 8mbit burst 16k limit 30k");
    run("tc qdisc add dev va parent 8:1 handle 9: pfifo limit 10");
    there_and_back(&qdisc("root tbf rate 16mbit burst 16k limit 60kb"));
    there_and_back(&qdisc("parent 8:1 pfifo limit 20"));
    for spec in ["root pfifo limit 9", "root default"] {
        let refused = netlink::read_back(&qdisc(spec)).unwrap_err();
        assert_eq!(refused.source.kind(), std::io::ErrorKind::Unsupported, "{refused}");
        assert_eq!(refused.source.kind(), netlink::apply(&qdisc(spec)).unwrap_err().source.kind());
    }
    let shown = run("tc qdisc show dev va");
    assert!(shown.contains("tbf 8: root") && shown.contains("pfifo 9:"), "{shown}");
    run("tc qdisc del dev va root");

    run("tc qdisc add dev va root handle 1: htb default 3");
    run("tc class add dev va parent 1: classid 1:3 htb rate 8mbit");
    let classful = netlink::read_back(&qdisc("root pfifo limit 9")).unwrap_err();
    assert_eq!(classful.source.kind(), std::io::ErrorKind::Unsupported, "{classful}");
    assert!(run("tc qdisc show dev va").contains("htb 1: root"));
}

#[test]
fn without_rights_there_are_notes_and_what_anybody_may_read() {
    const TEST: &str = "without_rights_there_are_notes_and_what_anybody_may_read";
    if !has(TEST, &["ip"]) || !again::root_of_host(TEST) || !in_netns(TEST) {
        return;
    }
    if again::role() != "powerless" {
        veth();
    }
    again::powerless(TEST, || {
        let s = full();
        assert!(s.devs["va"].stats.get("tx_packets").is_some());
        assert!(!s.devs["va"].features.is_empty());
        let refused = netlink::apply(&ethtool('K', "va", &[("gro", "on")])).unwrap_err();
        assert_eq!(refused.errno(), Some(libc::EPERM), "{refused}");
        let refused = linerate_host::tracefs::KfreeSkb::begin().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
    });
}

#[test]
fn files_of_devices_are_written_and_read_back() {
    const TEST: &str = "files_of_devices_are_written_and_read_back";
    if !has(TEST, &["ip", "mount"]) || !again::root_of_host(TEST) || !in_netns(TEST) {
        return;
    }
    if again::role() != "sysfs" {
        veth();
        // A sysfs that shows the devices of this namespace.
        let mut command = std::process::Command::new("unshare");
        command.arg("-m");
        let out = again::again(command, TEST, "sysfs").output().unwrap();
        assert!(out.status.success(), "{out:?}");
        return;
    }
    run("mount -t sysfs sysfs /sys");
    let file = |path: &str, value: &str| Change::File {
        path: format!("/sys/class/net/{path}"),
        value: value.into(),
    };
    there_and_back(&file("va/queues/rx-2/rps_cpus", "1"));
    there_and_back(&file("va/tx_queue_len", "77"));
    there_and_back(&file("va/gro_flush_timeout", "20000"));
    netlink::apply(&file("vb/tx_queue_len", "78")).unwrap();
    assert_eq!(json("ip -j link show vb")[0]["txqlen"], 78);
    let wrong = netlink::apply(&file("va/queues/rx-2/rps_cpus", "zz")).unwrap_err();
    assert_eq!(wrong.errno(), Some(libc::EINVAL), "{wrong}");
    let gone = netlink::apply(&file("va/queues/rx-99/rps_cpus", "1")).unwrap_err();
    assert_eq!(gone.errno(), Some(libc::ENOENT), "{gone}");
    assert!(!std::path::Path::new("/sys/class/net/va/queues/rx-99").exists());
    let dir = netlink::read_back(&file("va/queues", "1")).unwrap_err();
    assert_eq!(dir.source.kind(), std::io::ErrorKind::InvalidInput, "{dir}");
}
